/* Writes DNS answers for tests, byte by byte, sound or not. */
#ifndef ONWARD_TESTS_PACKET_WRITER_H
#define ONWARD_TESTS_PACKET_WRITER_H

#include "core/base/slice.h"

#include <stdlib.h>

enum { WRITER_NOERROR = 0x8180, WRITER_NXDOMAIN = 0x8183, WRITER_SERVFAIL = 0x8182 };

struct writer {
    uint8_t bytes[65536];
    size_t len;
};

static inline void put8(struct writer *w, unsigned value)
{
    w->bytes[w->len++] = (uint8_t)value;
}

static inline void put16(struct writer *w, unsigned value)
{
    put8(w, value >> 8);
    put8(w, value & 0xff);
}

static inline void put32(struct writer *w, uint32_t value)
{
    put16(w, value >> 16);
    put16(w, value & 0xffff);
}

/* "a.b" as labels; "" is the root. */
static inline void put_name(struct writer *w, const char *name)
{
    struct slice rest = slice_str(name);
    while (rest.len > 0) {
        size_t len = slice_find(rest, '.');
        put8(w, (unsigned)len);
        memcpy(w->bytes + w->len, rest.ptr, len);
        w->len += len;
        rest = slice_skip(rest, len + 1);
    }
    put8(w, 0);
}

static inline void put_pointer(struct writer *w, size_t to)
{
    put16(w, 0xc000u | (unsigned)to);
}

/* Header and question; the question's name lies at byte 12. */
static inline void begin_answer(struct writer *w, unsigned flags, const char *name, unsigned type,
                                unsigned answers, unsigned authorities)
{
    w->len = 0;
    put16(w, 0x1234);
    put16(w, flags);
    put16(w, 1);
    put16(w, answers);
    put16(w, authorities);
    put16(w, 0);
    put_name(w, name);
    put16(w, type);
    put16(w, 1);
}

/* A record up to its rdata; returns where the length goes, for end_record. */
static inline size_t begin_record(struct writer *w, const char *owner, unsigned type,
                                  uint32_t ttl_s)
{
    put_name(w, owner);
    put16(w, type);
    put16(w, 1);
    put32(w, ttl_s);
    put16(w, 0);
    return w->len - 2;
}

static inline void end_record(struct writer *w, size_t length_at)
{
    size_t len = w->len - length_at - 2;
    w->bytes[length_at] = (uint8_t)(len >> 8);
    w->bytes[length_at + 1] = (uint8_t)len;
}

static inline void put_mx(struct writer *w, const char *owner, uint32_t ttl_s, unsigned preference,
                          const char *host)
{
    size_t at = begin_record(w, owner, 15, ttl_s);
    put16(w, preference);
    put_name(w, host);
    end_record(w, at);
}

static inline void put_cname(struct writer *w, const char *owner, uint32_t ttl_s,
                             const char *target)
{
    size_t at = begin_record(w, owner, 5, ttl_s);
    put_name(w, target);
    end_record(w, at);
}

static inline void put_a(struct writer *w, const char *owner, uint32_t ttl_s, unsigned last)
{
    size_t at = begin_record(w, owner, 1, ttl_s);
    put32(w, 0xc0000200u | last); /* 192.0.2.last */
    end_record(w, at);
}

static inline void put_aaaa(struct writer *w, const char *owner, uint32_t ttl_s, unsigned last)
{
    size_t at = begin_record(w, owner, 28, ttl_s);
    put32(w, 0x20010db8u); /* 2001:db8::last */
    put32(w, 0);
    put32(w, 0);
    put32(w, last);
    end_record(w, at);
}

static inline void put_soa(struct writer *w, const char *owner, uint32_t ttl_s, uint32_t minimum_s)
{
    size_t at = begin_record(w, owner, 6, ttl_s);
    put_name(w, "ns");
    put_name(w, "hostmaster");
    for (int i = 0; i < 4; i++)
        put32(w, 7);
    put32(w, minimum_s);
    end_record(w, at);
}

static inline struct slice written(const struct writer *w)
{
    return slice_of(w->bytes, w->len);
}

#endif
