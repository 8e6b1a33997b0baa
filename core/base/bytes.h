/* Numbers in stored records: big-endian, so that keys sort by value, read through a cursor that
 * never leaves its bytes. */
#ifndef ONWARD_CORE_BASE_BYTES_H
#define ONWARD_CORE_BASE_BYTES_H

#include "core/base/buf.h"

/* Writes 4 bytes. */
static inline void bytes_put_u32(unsigned char *to, uint32_t v)
{
    for (int i = 3; i >= 0; i--, v >>= 8)
        to[i] = (unsigned char)v;
}

/* Writes 8 bytes. */
static inline void bytes_put_u64(unsigned char *to, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        to[i] = (unsigned char)v;
}

/* The number in `len` bytes (at most 8) at `from`. */
static inline uint64_t bytes_get(const char *from, int len)
{
    uint64_t v = 0;
    for (int i = 0; i < len; i++)
        v = v << 8 | (unsigned char)from[i];
    return v;
}

/* Appends `v` in `len` bytes (1 to 8). */
static inline void bytes_append(struct buf *out, uint64_t v, int len)
{
    unsigned char raw[8];
    bytes_put_u64(raw, v);
    buf_append(out, slice_of(raw + 8 - len, (size_t)len));
}

/* A string with its length in two bytes in front. */
static inline void bytes_append_string(struct buf *out, struct slice s)
{
    s = slice_take(s, UINT16_MAX);
    bytes_append(out, s.len, 2);
    buf_append(out, s);
}

/* A place in a record that is being read. Borrows the bytes. */
struct bytes_cursor {
    struct slice rest;
    bool bad; /* something was read that was not there; everything read since is 0 or empty */
};

/* The next number of `len` bytes; 0 and `bad` where there are fewer. */
static inline uint64_t bytes_read(struct bytes_cursor *c, int len)
{
    if (c->bad || c->rest.len < (size_t)len) {
        c->bad = true;
        return 0;
    }
    uint64_t v = bytes_get(c->rest.ptr, len);
    c->rest = slice_skip(c->rest, (size_t)len);
    return v;
}

/* The next `len` bytes, borrowed; empty and `bad` where there are fewer. */
static inline struct slice bytes_read_slice(struct bytes_cursor *c, size_t len)
{
    if (c->bad || c->rest.len < len) {
        c->bad = true;
        return SLICE_LIT("");
    }
    struct slice s = slice_take(c->rest, len);
    c->rest = slice_skip(c->rest, len);
    return s;
}

/* What bytes_append_string wrote. */
static inline struct slice bytes_read_string(struct bytes_cursor *c)
{
    size_t len = (size_t)bytes_read(c, 2);
    return bytes_read_slice(c, len);
}

#endif
