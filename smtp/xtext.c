#include "smtp/xtext.h"

#include "core/base/utf8.h"

#include <stdio.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; /* upper case only (RFC 3461 4) */
}

bool xtext_is_valid(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '+') {
            if (s.len - i < 3 || hex(s.ptr[i + 1]) < 0 || hex(s.ptr[i + 2]) < 0)
                return false;
            i += 2;
        } else if (s.ptr[i] < '!' || s.ptr[i] > '~' || s.ptr[i] == '=') {
            return false;
        }
    }
    return true;
}

/* Of the well-formed sequence of `len` bytes, more than one, at the start of `s`. */
static unsigned code_point(struct slice s, size_t len)
{
    unsigned code = (unsigned char)s.ptr[0] & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++)
        code = code << 6 | ((unsigned char)s.ptr[i] & 0x3fu);
    return code;
}

size_t xtext_from_utf8(struct slice s, char *out, size_t size)
{
    size_t at = 0;
    for (size_t len; s.len > 0; s = slice_skip(s, len)) {
        char escaped[sizeof "\\x{10FFFF}"];
        len = utf8_length(s);
        if (len == 0)
            return 0;
        struct slice piece = slice_take(s, len);
        if (len > 1) {
            int n = snprintf(escaped, sizeof escaped, "\\x{%X}", code_point(s, len));
            piece = slice_of(escaped, (size_t)n);
        }
        if (piece.len > size - at)
            return 0;
        memcpy(out + at, piece.ptr, piece.len);
        at += piece.len;
    }
    return at;
}

void xtext_decode(struct slice s, struct buf *out)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (c == '+' && s.len - i >= 3) {
            c = (char)(hex(s.ptr[i + 1]) * 16 + hex(s.ptr[i + 2]));
            i += 2;
        }
        if (c < ' ' || c > '~')
            c = '?';
        buf_append(out, slice_of(&c, 1));
    }
}
