#include "core/base/buf.h"

#include "core/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void buf_init(struct buf *b, size_t bound)
{
    ASSERT(bound > 0);
    *b = (struct buf){.bound = bound};
}

void buf_fini(struct buf *b)
{
    free(b->ptr);
    *b = (struct buf){.bound = b->bound};
}

void buf_clear(struct buf *b)
{
    b->start = b->end = 0;
    b->overflow = false;
}

void buf_shrink(struct buf *b)
{
    if (buf_len(b) == 0 && b->ptr != NULL)
        buf_fini(b);
}

static bool grow(struct buf *b, size_t need)
{
    size_t capacity = b->capacity > 0 ? b->capacity : 256;
    while (capacity < need)
        capacity *= 2;
    if (capacity > b->bound)
        capacity = b->bound;
    char *ptr = realloc(b->ptr, capacity);
    if (ptr == NULL)
        return false;
    b->ptr = ptr;
    b->capacity = capacity;
    return true;
}

/* Makes room for `len` bytes behind the end: where they go, or NULL with `overflow` set. */
static char *reserve(struct buf *b, size_t len)
{
    size_t held = buf_len(b);
    if (b->overflow || len > b->bound || held > b->bound - len) {
        b->overflow = true;
        return NULL;
    }
    if (b->capacity - b->end < len && b->start > 0) {
        memmove(b->ptr, b->ptr + b->start, held);
        b->start = 0;
        b->end = held;
    }
    if (b->capacity - b->end < len && !grow(b, held + len)) {
        b->overflow = true;
        return NULL;
    }
    return b->ptr + b->end;
}

void buf_append(struct buf *b, struct slice s)
{
    if (s.len == 0)
        return;
    char *to = reserve(b, s.len);
    if (to == NULL)
        return;
    memcpy(to, s.ptr, s.len);
    b->end += s.len;
}

void buf_append_str(struct buf *b, const char *text)
{
    buf_append(b, slice_str(text));
}

void buf_append_u64(struct buf *b, uint64_t value)
{
    char digits[SLICE_DIGITS_MAX];
    buf_append(b, slice_from_u64(value, digits));
}

void buf_printf(struct buf *b, const char *format, ...)
{
    if (b->overflow)
        return;
    /* Into the room that is there, which is nearly always enough; otherwise once more. A bound that
     * was lowered holds for memory from before too. */
    size_t held = buf_len(b), allowed = b->bound > held ? b->bound - held : 0;
    size_t room = b->capacity - b->end < allowed ? b->capacity - b->end : allowed;
    va_list args;
    va_start(args, format);
    int len = vsnprintf(room > 0 ? b->ptr + b->end : NULL, room, format, args);
    va_end(args);
    ASSERT(len >= 0);
    if ((size_t)len >= room) {
        char *to = reserve(b, (size_t)len + 1);
        if (to == NULL)
            return;
        va_start(args, format);
        (void)vsnprintf(to, (size_t)len + 1, format, args);
        va_end(args);
    }
    b->end += (size_t)len;
}

void buf_consume(struct buf *b, size_t len)
{
    ASSERT(len <= buf_len(b));
    b->start += len;
    if (b->start == b->end)
        b->start = b->end = 0;
}
