#include "core/base/utf8.h"

size_t utf8_length(struct slice s)
{
    unsigned char c = (unsigned char)s.ptr[0];
    size_t len = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (len == 0 || len > s.len)
        return 0;
    for (size_t i = 1; i < len; i++)
        if (((unsigned char)s.ptr[i] & 0xc0) != 0x80)
            return 0;
    unsigned char second = len > 1 ? (unsigned char)s.ptr[1] : 0x80;
    bool overlong = (c == 0xe0 && second < 0xa0) || (c == 0xf0 && second < 0x90);
    bool outside = (c == 0xed && second > 0x9f) || (c == 0xf4 && second > 0x8f);
    return overlong || outside ? 0 : len;
}

bool utf8_is_hidden(struct slice s, size_t len, unsigned *code_out)
{
    static const struct {
        unsigned first, last;
    } hidden[] = {{0x80, 0x9f}, {0x200e, 0x200f}, {0x2028, 0x202e}, {0x2066, 0x2069}};
    if (len < 2 || len > 3)
        return false;
    unsigned code = (unsigned char)s.ptr[0] & (len == 2 ? 0x1fu : 0x0fu);
    for (size_t i = 1; i < len; i++)
        code = code << 6 | ((unsigned char)s.ptr[i] & 0x3fu);
    *code_out = code;
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        if (code >= hidden[i].first && code <= hidden[i].last)
            return true;
    return false;
}

bool utf8_is_valid(struct slice s)
{
    while (s.len > 0) {
        size_t len = utf8_length(s);
        if (len == 0)
            return false;
        s = slice_skip(s, len);
    }
    return true;
}

bool utf8_has_high(struct slice s)
{
    uint64_t all = 0, word;
    size_t i = 0;
    for (; i + sizeof word <= s.len; i += sizeof word) {
        memcpy(&word, s.ptr + i, sizeof word);
        all |= word;
    }
    for (; i < s.len; i++)
        all |= (uint64_t)(unsigned char)s.ptr[i];
    return (all & UINT64_C(0x8080808080808080)) != 0;
}
