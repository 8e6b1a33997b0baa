/* A growable byte buffer with a bound. Bytes are appended at the end and consumed from the front.
 * It holds no memory until something is appended and gives it back when `buf_fini` or `buf_shrink`
 * is called, so that a parked session costs none. Appending past the bound (or out of memory) sets
 * `overflow` and appends nothing more: callers build a whole line, then ask `buf_ok` once.
 * Not thread-safe; owned by whoever embeds it. */
#ifndef ONWARD_CORE_BASE_BUF_H
#define ONWARD_CORE_BASE_BUF_H

#include "core/base/slice.h"

#include <stdarg.h>

struct buf {
    char *ptr;
    size_t start; /* consumed up to here */
    size_t end;   /* filled up to here */
    size_t capacity;
    size_t bound; /* never holds more than this many bytes */
    bool overflow;
};

/* `bound` in bytes, at least 1. Allocates nothing. */
void buf_init(struct buf *b, size_t bound);
void buf_fini(struct buf *b);

/* Empties the buffer and clears `overflow`; keeps the memory. */
void buf_clear(struct buf *b);

/* Gives the memory back where the buffer is empty. */
void buf_shrink(struct buf *b);

static inline size_t buf_len(const struct buf *b)
{
    return b->end - b->start;
}

static inline struct slice buf_slice(const struct buf *b)
{
    return (struct slice){b->ptr != NULL ? b->ptr + b->start : "", b->end - b->start};
}

static inline bool buf_ok(const struct buf *b)
{
    return !b->overflow;
}

/* Adds at the end. What would pass the bound, or finds no memory, adds nothing and sets `overflow`,
 * which stays set: append all, then ask buf_ok once. */
void buf_append(struct buf *b, struct slice s);
void buf_append_str(struct buf *b, const char *text);
void buf_append_u64(struct buf *b, uint64_t value);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Drops `len` bytes from the front; `len` is at most `buf_len`. */
void buf_consume(struct buf *b, size_t len);

#endif
