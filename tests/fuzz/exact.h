/* Fuzzed bytes in memory of their own size, so that a read beside them is found, and the text that
 * several fuzzers judge. */
#ifndef ONWARD_TESTS_FUZZ_EXACT_H
#define ONWARD_TESTS_FUZZ_EXACT_H

#include "core/base/assert.h"
#include "core/base/slice.h"

#include <stdlib.h>

/* A copy on the heap; give it to free by exact_free. */
static inline struct slice exact_copy(struct slice s)
{
    char *copy = malloc(s.len > 0 ? s.len : 1);
    ASSERT(copy != NULL);
    if (s.len > 0)
        memcpy(copy, s.ptr, s.len);
    return slice_of(copy, s.len);
}

static inline void exact_free(struct slice s)
{
    free((void *)(uintptr_t)s.ptr);
}

/* Does `inner`, if it is not empty, lie within `outer`? */
static inline bool lies_within(struct slice inner, struct slice outer)
{
    return inner.len == 0 || (inner.ptr >= outer.ptr && inner.len <= outer.len &&
                              (size_t)(inner.ptr - outer.ptr) <= outer.len - inner.len);
}

/* No control character: it can end no line, of a protocol, of a header section or of a log. */
static inline bool is_one_line(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.ptr[i] < ' ' || s.ptr[i] == 0x7f)
            return false;
    return true;
}

/* Do all of its lines end in CRLF, and is there no other CR, LF or NUL? */
static inline bool is_crlf_text(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        bool after_cr = i > 0 && s.ptr[i - 1] == '\r';
        if ((s.ptr[i] == '\n') != after_cr || s.ptr[i] == '\0')
            return false;
    }
    return s.len == 0 || s.ptr[s.len - 1] == '\n';
}

#endif
