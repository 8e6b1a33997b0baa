#include "smtp/xtext.h"

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
