/* Files that are read through a map, and what is said where that cannot be. A disk that cannot give
 * a page back, or a file that was cut short, raises SIGBUS in whoever reads there, in the midst of
 * any code: nothing can go on from that. So the process says which file it was and what to do, and
 * exits; it would be killed without a word. A SIGBUS that is of no watched map does what it did
 * before, with or without us.
 *
 * The list of maps is the process's, as its signal handlers are: there is nowhere else
 * to keep it. */
#ifndef ONWARD_CORE_BASE_MAP_GUARD_H
#define ONWARD_CORE_BASE_MAP_GUARD_H

#include <stddef.h>

enum { MAP_GUARD_TEXT_SIZE = 1024 };

/* From now on a SIGBUS within the mapping of this open file writes "onward: " and `text` (copied,
 * cut to MAP_GUARD_TEXT_SIZE) on standard error, and the process ends at once with `status`.
 * Returns a number to forget it by, or -1 where the mapping is not to be found (/proc is needed) or
 * four are watched: it is then not watched. Called by whoever starts and stops things, one thread;
 * the handler runs in any. */
int map_guard_watch(int fd, const char *text, int status);

/* Before the mapping goes; -1 is harmless. */
void map_guard_forget(int number);

/* Reads a byte of each page of what the system could not read for us (EFAULT), so that SIGBUS is
 * raised where a map is to blame: a system call reports it to nobody. */
void map_guard_touch(const void *bytes, size_t len);

#endif
