/* Assertions. ASSERT stays on in release builds: a broken invariant of ours ends the process with
 * its place and text, because a relay that goes on with a wrong belief loses mail. ASSERT_HOT is
 * for checks too dear for the hot path; it is compiled in where ONWARD_HOT_ASSERTS is set (debug,
 * CI). Neither is ever used on what a peer, the network, a file or a user said: those are outcomes.
 */
#ifndef ONWARD_CORE_BASE_ASSERT_H
#define ONWARD_CORE_BASE_ASSERT_H

#include <assert.h> /* static_assert */

/* Prints "file:line: function: text" to standard error and aborts. Async-signal-safe. */
_Noreturn void assert_failed(const char *file, int line, const char *function, const char *text);

#define ASSERT(cond) ((cond) ? (void)0 : assert_failed(__FILE__, __LINE__, __func__, #cond))

#ifdef ONWARD_HOT_ASSERTS
#define ASSERT_HOT(cond) ASSERT(cond)
#else
#define ASSERT_HOT(cond) ((void)sizeof(cond))
#endif

#endif
