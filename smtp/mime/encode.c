#include "smtp/mime/encode.h"

#include "core/base/utf8.h"

#include <stdio.h>

static const char hexadecimal[] = "0123456789ABCDEF";

/* ---- lines ---- */

/* Each byte is looked at twice at most, however many lines there are. */
void mime_append_lines(struct buf *out, struct slice text)
{
    while (text.len > 0) {
        struct slice line = slice_take(text, slice_find(text, '\n'));
        bool has_lf = line.len < text.len;
        text = slice_skip(text, line.len + 1);
        if (has_lf && line.len > 0 && line.ptr[line.len - 1] == '\r')
            line.len--;
        for (bool more = true; more;) { /* bare CRs end lines of their own */
            size_t end = slice_find(line, '\r');
            buf_append(out, slice_take(line, end));
            buf_append(out, SLICE_LIT("\r\n"));
            more = end < line.len && (has_lf || end + 1 < line.len);
            line = slice_skip(line, end + 1);
        }
    }
}

/* What stands in the way of sending it as it is. */
struct census {
    size_t special; /* bytes that quoted-printable must encode */
    size_t longest; /* line */
    bool plain;     /* printable ASCII, tabs and line ends only */
};

static struct census take_census(struct slice lines)
{
    struct census c = {.plain = true};
    while (lines.len > 0) {
        size_t end = slice_find(lines, '\n');
        size_t len = end > 0 ? end - 1 : 0; /* without its CR */
        for (size_t i = 0; i < len; i++) {
            unsigned char byte = (unsigned char)lines.ptr[i];
            bool odd = (byte < ' ' && byte != '\t') || byte > '~';
            c.special += odd || byte == '=';
            c.plain &= !odd;
        }
        c.longest = len > c.longest ? len : c.longest;
        lines = slice_skip(lines, end + 1);
    }
    return c;
}

enum mime_encoding mime_choose(struct slice lines)
{
    struct census c = take_census(lines);
    if (c.plain && c.longest <= MIME_LINE_MAX)
        return MIME_7BIT;
    return c.special > lines.len / 6 ? MIME_BASE64 : MIME_QUOTED_PRINTABLE;
}

const char *mime_encoding_name(enum mime_encoding encoding)
{
    static const char *const names[] = {"7bit", "8bit", "quoted-printable", "base64"};
    return names[encoding];
}

/* ---- quoted-printable ---- */

/* One line without its end; long ones get soft breaks. */
static void append_quoted_line(struct buf *out, struct slice line)
{
    char row[MIME_LINE_COLUMNS + 2];
    size_t used = 0;
    for (size_t i = 0; i < line.len; i++) {
        unsigned char c = (unsigned char)line.ptr[i];
        bool blank = c == ' ' || c == '\t';
        bool plain = (c > ' ' && c <= '~' && c != '=') || (blank && i + 1 < line.len);
        size_t width = plain ? 1 : 3;
        /* The last character of a line may take the column that a soft break would need. */
        size_t room = MIME_LINE_COLUMNS - (i + 1 < line.len ? 1u : 0u);
        if (used + width > room) {
            row[used++] = '=';
            row[used++] = '\r';
            row[used++] = '\n';
            buf_append(out, slice_of(row, used));
            used = 0;
        }
        if (plain) {
            row[used++] = (char)c;
        } else {
            row[used++] = '=';
            row[used++] = hexadecimal[c >> 4];
            row[used++] = hexadecimal[c & 15];
        }
    }
    buf_append(out, slice_of(row, used));
    buf_append(out, SLICE_LIT("\r\n"));
}

static void append_quoted_printable(struct buf *out, struct slice lines)
{
    while (lines.len > 0) {
        size_t end = slice_find(lines, '\n');
        append_quoted_line(out, slice_take(lines, end > 0 ? end - 1 : 0));
        lines = slice_skip(lines, end + 1);
    }
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "=XY" at the front: its byte, or -1. */
static int escaped_byte(struct slice s)
{
    if (s.len < 3 || s.ptr[0] != '=' || hex_value(s.ptr[1]) < 0 || hex_value(s.ptr[2]) < 0)
        return -1;
    return hex_value(s.ptr[1]) * 16 + hex_value(s.ptr[2]);
}

void mime_decode_quoted_printable(struct buf *out, struct slice text)
{
    while (text.len > 0) {
        size_t plain = slice_find(text, '=');
        buf_append(out, slice_take(text, plain));
        text = slice_skip(text, plain);
        if (text.len == 0)
            return;
        int byte = escaped_byte(text);
        size_t soft = 1;
        while (soft < text.len && (text.ptr[soft] == ' ' || text.ptr[soft] == '\t'))
            soft++;
        if (byte >= 0) {
            buf_append(out, slice_of((char[]){(char)byte}, 1));
            text = slice_skip(text, 3);
        } else if (soft + 1 < text.len && text.ptr[soft] == '\r' && text.ptr[soft + 1] == '\n') {
            text = slice_skip(text, soft + 2);
        } else {
            buf_append(out, SLICE_LIT("="));
            text = slice_skip(text, 1);
        }
    }
}

/* ---- base64 ---- */

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* 1 to 3 bytes as 4 characters. */
static void encode_group(const unsigned char *in, size_t len, char out[4])
{
    unsigned bits = (unsigned)in[0] << 16 | (len > 1 ? (unsigned)in[1] << 8 : 0u) |
                    (len > 2 ? (unsigned)in[2] : 0u);
    out[0] = base64_digits[bits >> 18];
    out[1] = base64_digits[bits >> 12 & 63];
    out[2] = len > 1 ? base64_digits[bits >> 6 & 63] : '=';
    out[3] = len > 2 ? base64_digits[bits & 63] : '=';
}

void mime_append_base64(struct buf *out, struct slice bytes)
{
    enum { BYTES_A_LINE = MIME_LINE_COLUMNS / 4 * 3 };
    while (bytes.len > 0) {
        struct slice part = slice_take(bytes, BYTES_A_LINE);
        char row[MIME_LINE_COLUMNS + 2];
        size_t used = 0;
        for (size_t i = 0; i < part.len; i += 3, used += 4)
            encode_group((const unsigned char *)part.ptr + i, part.len - i, row + used);
        row[used++] = '\r';
        row[used++] = '\n';
        buf_append(out, slice_of(row, used));
        bytes = slice_skip(bytes, part.len);
    }
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* So many digits came since the last whole byte triple: their bytes, if it is the end. */
static bool end_base64(struct buf *out, uint32_t bits, unsigned digits, unsigned padding)
{
    if (digits == 0)
        return padding == 0;
    if (digits == 1 || (padding != 0 && digits + padding != 4))
        return false;
    unsigned shift = digits == 2 ? 12 : 6;
    bits <<= shift;
    const char bytes[2] = {(char)(bits >> 16 & 255), (char)(bits >> 8 & 255)};
    buf_append(out, slice_of(bytes, digits - 1));
    return true;
}

bool mime_decode_base64(struct buf *out, struct slice text)
{
    uint32_t bits = 0;
    unsigned digits = 0, padding = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];
        int value = base64_value(c);
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
            continue;
        if (c == '=' && padding < 2) {
            padding++;
            continue;
        }
        if (value < 0 || padding > 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        if (++digits < 4)
            continue;
        const char bytes[3] = {(char)(bits >> 16 & 255), (char)(bits >> 8 & 255),
                               (char)(bits & 255)};
        buf_append(out, slice_of(bytes, sizeof bytes));
        bits = 0;
        digits = 0;
    }
    return end_base64(out, bits, digits, padding);
}

void mime_append_encoded(struct buf *out, enum mime_encoding encoding, struct slice lines)
{
    switch (encoding) {
    case MIME_7BIT:
    case MIME_8BIT:
        buf_append(out, lines);
        return;
    case MIME_QUOTED_PRINTABLE:
        append_quoted_printable(out, lines);
        return;
    case MIME_BASE64:
        mime_append_base64(out, lines);
        return;
    }
}

/* ---- encoded words ---- */

#define WORD_START_Q "=?utf-8?q?"
#define WORD_START_B "=?utf-8?b?"
#define WORD_END     "?="

enum {
    WORD_FRAME = sizeof WORD_START_Q - 1 + sizeof WORD_END - 1,
    WORD_MAX = 75,      /* RFC 2047 2 */
    WORD_TEXT_MIN = 16, /* with less room left on the line the next one begins */
};

/* What a phrase allows unencoded (RFC 2047 5 (3)): the narrowest set of all places. */
static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!*+-/", c) != NULL);
}

static size_t q_width(char c)
{
    return is_word_char(c) || c == ' ' ? 1 : 3;
}

/* Bytes of the character at the front; a stray byte is one. */
static size_t char_length(struct slice s)
{
    size_t len = utf8_length(s);
    return len > 0 ? len : 1;
}

static void append_q(struct buf *out, struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (c == ' ')
            buf_append(out, SLICE_LIT("_"));
        else if (q_width((char)c) == 1)
            buf_append(out, slice_of(text.ptr + i, 1));
        else
            buf_append(out, slice_of((char[]){'=', hexadecimal[c >> 4], hexadecimal[c & 15]}, 3));
    }
}

static void append_b(struct buf *out, struct slice text)
{
    for (size_t i = 0; i < text.len; i += 3) {
        char group[4];
        encode_group((const unsigned char *)text.ptr + i, text.len - i, group);
        buf_append(out, slice_of(group, sizeof group));
    }
}

/* As many whole characters from the front as fit into `room` columns of encoded text. */
static size_t fitting(struct slice text, size_t room, bool use_b)
{
    size_t len = 0, width = 0;
    while (len < text.len) {
        size_t n = char_length(slice_skip(text, len));
        if (use_b) {
            width = (len + n + 2) / 3 * 4;
        } else {
            for (size_t i = 0; i < n; i++)
                width += q_width(text.ptr[len + i]);
        }
        if (width > room)
            break;
        len += n;
    }
    return len;
}

/* A new line where this one has no room for a word of some length. */
static void begin_word(struct buf *out, struct slice blank, size_t *column)
{
    if (*column + blank.len + WORD_FRAME + WORD_TEXT_MIN > MIME_LINE_COLUMNS) {
        buf_append(out, SLICE_LIT("\r\n"));
        *column = 0;
        if (blank.len == 0 || blank.len > MIME_LINE_COLUMNS / 4)
            blank = SLICE_LIT(" ");
    }
    buf_append(out, blank);
    *column += blank.len;
}

void mime_append_words(struct buf *out, struct slice blank, struct slice text, size_t *column)
{
    size_t q = 0;
    for (size_t i = 0; i < text.len; i++)
        q += q_width(text.ptr[i]);
    bool use_b = q > (text.len + 2) / 3 * 4;
    for (bool first = true; text.len > 0; first = false) {
        if (!first)
            *column = MIME_LINE_COLUMNS;
        begin_word(out, first ? blank : SLICE_LIT(" "), column);
        size_t room = MIME_LINE_COLUMNS - *column;
        room = (room < WORD_MAX ? room : WORD_MAX) - WORD_FRAME;
        size_t len = fitting(text, room, use_b);
        buf_append_str(out, use_b ? WORD_START_B : WORD_START_Q);
        size_t before = buf_len(out);
        if (use_b)
            append_b(out, slice_take(text, len));
        else
            append_q(out, slice_take(text, len));
        *column += WORD_FRAME + buf_len(out) - before;
        buf_append_str(out, WORD_END);
        text = slice_skip(text, len);
    }
}

bool mime_append_utf8(struct buf *out, struct slice charset, struct slice text)
{
    if (charset.len == 0 || slice_equal_nocase(charset, SLICE_LIT("utf-8")) ||
        slice_equal_nocase(charset, SLICE_LIT("us-ascii"))) {
        if (!utf8_is_valid(text))
            return false;
        buf_append(out, text);
        return true;
    }
    if (!slice_equal_nocase(charset, SLICE_LIT("iso-8859-1")))
        return false;
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        const char two[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 63))};
        buf_append(out, c < 0x80 ? slice_of(text.ptr + i, 1) : slice_of(two, 2));
    }
    return true;
}

/* Decodes the encoded word at the front; returns its length, or 0 where there is none. */
static size_t decode_word(struct buf *out, struct slice s)
{
    if (s.len < 8 || s.ptr[0] != '=' || s.ptr[1] != '?')
        return 0;
    struct slice rest = slice_skip(s, 2);
    struct slice charset = slice_take(rest, slice_find(rest, '?'));
    rest = slice_skip(rest, charset.len + 1);
    if (rest.len < 4 || rest.ptr[1] != '?')
        return 0;
    char encoding = (char)(rest.ptr[0] | 0x20);
    rest = slice_skip(rest, 2);
    struct slice text = slice_take(rest, slice_find(rest, '?'));
    rest = slice_skip(rest, text.len);
    if (rest.len < 2 || rest.ptr[1] != '=' || slice_find(text, ' ') < text.len)
        return 0;
    struct buf bytes;
    buf_init(&bytes, s.len + 1);
    bool ok = true;
    if (encoding == 'b') {
        ok = mime_decode_base64(&bytes, text);
    } else if (encoding == 'q') {
        for (size_t i = 0; i < text.len; i++) {
            int byte = escaped_byte(slice_skip(text, i));
            char c = byte >= 0 ? (char)byte : text.ptr[i] == '_' ? ' ' : text.ptr[i];
            buf_append(&bytes, slice_of(&c, 1));
            i += byte >= 0 ? 2 : 0;
        }
    } else {
        ok = false;
    }
    ok = ok && buf_ok(&bytes) && mime_append_utf8(out, charset, buf_slice(&bytes));
    buf_fini(&bytes);
    return ok ? (size_t)(rest.ptr + 2 - s.ptr) : 0;
}

void mime_decode_words(struct buf *out, struct slice value)
{
    bool after_word = false;
    while (value.len > 0) {
        size_t blank = 0;
        while (blank < value.len && (value.ptr[blank] == ' ' || value.ptr[blank] == '\t'))
            blank++;
        struct slice rest = slice_skip(value, blank);
        struct buf word;
        buf_init(&word, value.len * 2 + 1);
        size_t used = decode_word(&word, rest);
        if (!(after_word && used > 0))
            buf_append(out, slice_take(value, blank));
        if (used > 0) {
            buf_append(out, buf_slice(&word));
        } else {
            while (used < rest.len && rest.ptr[used] != ' ' && rest.ptr[used] != '\t' &&
                   (used == 0 || rest.ptr[used] != '='))
                used++;
            buf_append(out, slice_take(rest, used));
        }
        after_word = buf_len(&word) > 0;
        buf_fini(&word);
        value = slice_skip(rest, used);
    }
}

/* ---- parameters ---- */

enum { PARAMETER_TEXT_MAX = 60 }; /* of one line */

static bool is_attribute_char(char c) /* RFC 2231 7 */
{
    return is_word_char(c) ? strchr("*/", c) == NULL : strchr("._~^", c) != NULL && c != '\0';
}

void mime_append_parameter(struct buf *out, const char *name, struct slice value)
{
    if (!utf8_has_high(value) && value.len <= PARAMETER_TEXT_MAX) {
        buf_printf(out, ";\r\n %s=\"", name);
        for (size_t i = 0; i < value.len; i++) {
            if (value.ptr[i] == '"' || value.ptr[i] == '\\')
                buf_append(out, SLICE_LIT("\\"));
            buf_append(out, slice_of(value.ptr + i, 1));
        }
        buf_append(out, SLICE_LIT("\""));
        return;
    }
    size_t width = 0;
    for (size_t i = 0; i < value.len; i++)
        width += is_attribute_char(value.ptr[i]) ? 1 : 3;
    bool whole = width <= PARAMETER_TEXT_MAX; /* more readers know it uncut */
    for (unsigned number = 0; value.len > 0; number++) {
        if (whole)
            buf_printf(out, ";\r\n %s*=utf-8''", name);
        else
            buf_printf(out, ";\r\n %s*%u*=%s", name, number, number == 0 ? "utf-8''" : "");
        size_t room = whole ? width : PARAMETER_TEXT_MAX - 12;
        for (width = 0; value.len > 0 && width < room;) {
            size_t n = char_length(value); /* not cut apart: some readers join what they decoded */
            for (size_t i = 0; i < n; i++) {
                unsigned char c = (unsigned char)value.ptr[i];
                if (is_attribute_char((char)c)) {
                    buf_append(out, slice_of(value.ptr + i, 1));
                    width++;
                } else {
                    buf_printf(out, "%%%02X", c);
                    width += 3;
                }
            }
            value = slice_skip(value, n);
        }
    }
}
