/* Parts of an input in memory that ends where they end, so that a read past them is found, and the
 * text that several fuzzers judge. */
#ifndef ONWARD_TESTS_FUZZ_EXACT_H
#define ONWARD_TESTS_FUZZ_EXACT_H

#include "core/base/assert.h"
#include "core/base/slice.h"

#include <stdlib.h>

/* libFuzzer gives each input in heap memory of its own size. A part of it that is to end where
 * memory ends goes to the end of a block: one of the longest part's size serves for all of them,
 * for making each its own costs more than reading it. What keeps a pointer into a part finds the
 * next one there. */
struct exact_block {
    char *ptr;
    size_t size;
};

static inline struct exact_block exact_block_create(size_t size)
{
    struct exact_block b = {malloc(size > 0 ? size : 1), size};
    ASSERT(b.ptr != NULL);
    return b;
}

static inline struct slice exact_put(const struct exact_block *b, struct slice part)
{
    ASSERT(part.len <= b->size);
    if (part.len > 0)
        memcpy(b->ptr + b->size - part.len, part.ptr, part.len);
    return slice_of(b->ptr + b->size - part.len, part.len);
}

static inline void exact_block_destroy(struct exact_block *b)
{
    free(b->ptr);
    *b = (struct exact_block){NULL, 0};
}

/* Is the lesser of both. */
static inline size_t exact_min(size_t a, size_t b)
{
    return a < b ? a : b;
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
