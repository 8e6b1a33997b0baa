/* A slice is a borrowed run of bytes: pointer and length, never NUL-terminated. All bytes from
 * outside travel as slices, so that no parser ever looks for a terminator a peer did not send.
 * A slice owns nothing; its bytes live as long as whoever lent them says. */
#ifndef ONWARD_CORE_BASE_SLICE_H
#define ONWARD_CORE_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
    const char *ptr;
    size_t len;
};

/* Both arguments of printf's %.*s. The length is cut at INT_MAX, which no bounded slice reaches. */
#define SLICE_ARG(s) (int)(s).len, (s).ptr

#define SLICE_LIT(text) ((struct slice){(text), sizeof(text) - 1})

static inline struct slice slice_of(const void *ptr, size_t len)
{
    return (struct slice){ptr, len};
}

static inline struct slice slice_str(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static inline bool slice_equal(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* ASCII case only: SMTP keywords and domain names (RFC 5321 2.4). */
bool slice_equal_nocase(struct slice a, struct slice b);
bool slice_starts_nocase(struct slice s, struct slice prefix);

/* Position of byte `c` in `s`, or `s.len` where it does not occur. */
static inline size_t slice_find(struct slice s, char c)
{
    const char *at = s.len > 0 ? memchr(s.ptr, c, s.len) : NULL;
    return at != NULL ? (size_t)(at - s.ptr) : s.len;
}

/* The rest of `s` behind its first `n` bytes; empty where it has fewer. */
static inline struct slice slice_skip(struct slice s, size_t n)
{
    return n < s.len ? (struct slice){s.ptr + n, s.len - n} : (struct slice){s.ptr + s.len, 0};
}

static inline struct slice slice_take(struct slice s, size_t n)
{
    return (struct slice){s.ptr, n < s.len ? n : s.len};
}

/* `s` without spaces and tabs at either end. */
struct slice slice_trim(struct slice s);

/* Reads a decimal number that fills the whole of `s` (1 to 19 digits). False where it does not. */
bool slice_to_u64(struct slice s, uint64_t *value_out);

enum { SLICE_DIGITS_MAX = 20 };

/* `value` in decimal, written into `digits`, which it borrows. */
struct slice slice_from_u64(uint64_t value, char digits[SLICE_DIGITS_MAX]);

/* Copies `s` and a NUL into `dst` of `size` bytes; false (and an empty string) where it does not
 * fit or holds a NUL itself. */
bool slice_to_cstr(struct slice s, char *dst, size_t size);

#endif
