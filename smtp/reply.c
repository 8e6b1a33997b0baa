#include "smtp/reply.h"

void smtp_reply_reset(struct smtp_reply_parser *p)
{
    p->line_len = 0;
    p->lines = 0;
    p->bytes = 0;
    p->text_len = 0;
    p->reply = (struct reply){0};
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Reads up to three digits and steps over them; false where there are none. */
static bool read_number(struct slice *s, uint16_t *value_out)
{
    size_t n = 0;
    uint16_t value = 0;
    while (n < 3 && n < s->len && is_digit(s->ptr[n]))
        value = (uint16_t)(value * 10 + (s->ptr[n++] - '0'));
    *s = slice_skip(*s, n);
    *value_out = value;
    return n > 0;
}

static bool skip_dot(struct slice *s)
{
    if (s->len == 0 || s->ptr[0] != '.')
        return false;
    *s = slice_skip(*s, 1);
    return true;
}

/* Takes an enhanced status off the front of `text` (RFC 2034 4). One whose class contradicts the code is ignored, but still
 * taken off: it helps nobody. */
static void read_enhanced(struct reply *r, struct slice *text)
{
    struct slice s = *text;
    uint16_t class, subject, detail;
    if (!read_number(&s, &class) || !skip_dot(&s) || !read_number(&s, &subject) || !skip_dot(&s) ||
        !read_number(&s, &detail) || (s.len > 0 && s.ptr[0] != ' '))
        return;
    *text = slice_trim(s);
    if (class != r->code / 100)
        return;
    r->subject = subject;
    r->detail = detail;
}

static void add_text(struct smtp_reply_parser *p, struct slice text)
{
    text = slice_trim(text);
    if (text.len == 0)
        return;
    if (p->text_len > 0 && p->text_len < sizeof p->text)
        p->text[p->text_len++] = ' ';
    size_t room = sizeof p->text - p->text_len;
    text = slice_take(text, room);
    memcpy(p->text + p->text_len, text.ptr, text.len);
    p->text_len = (uint16_t)(p->text_len + text.len);
}

/* One line without its end. Sets `*last_out`; false where it is no reply line. */
static bool read_line(struct smtp_reply_parser *p, struct slice line, bool *last_out,
                      void (*on_line)(void *context, unsigned line, struct slice text),
                      void *context)
{
    uint16_t code = 0;
    struct slice rest = line;
    if (!read_number(&rest, &code) || line.len - rest.len != 3 || code < 200 || code > 599)
        return false;
    if (rest.len > 0 && rest.ptr[0] != ' ' && rest.ptr[0] != '-')
        return false;
    if (p->lines > 0 && code != p->reply.code)
        return false;
    *last_out = rest.len == 0 || rest.ptr[0] == ' ';
    p->reply.code = code;
    p->reply.class = (uint8_t)(code / 100);
    struct slice text = slice_skip(rest, 1);
    if (on_line != NULL)
        on_line(context, p->lines, text);
    read_enhanced(&p->reply, &text);
    add_text(p, text);
    p->lines++;
    return true;
}

enum smtp_reply_status smtp_reply_feed(struct smtp_reply_parser *p, struct slice input, size_t *used_out,
                                       void (*on_line)(void *context, unsigned line, struct slice text),
                                       void *context)
{
    *used_out = 0;
    while (*used_out < input.len) {
        struct slice rest = slice_skip(input, *used_out);
        size_t lf = slice_find(rest, '\n');
        size_t take = lf < rest.len ? lf + 1 : rest.len;
        if (p->line_len + take > sizeof p->line || p->bytes + take > SMTP_REPLY_BYTES_MAX)
            return SMTP_REPLY_TOO_LONG;
        memcpy(p->line + p->line_len, rest.ptr, take);
        p->line_len = (uint16_t)(p->line_len + take);
        p->bytes += (uint32_t)take;
        *used_out += take;
        if (lf == rest.len) {
            /* The code can be judged before the line is whole: garbage need not be waited for. */
            struct slice head = slice_of(p->line, p->line_len < 3 ? p->line_len : 3);
            for (size_t i = 0; i < head.len; i++)
                if (!is_digit(head.ptr[i]))
                    return SMTP_REPLY_GARBAGE;
            return SMTP_REPLY_MORE;
        }
        struct slice line = slice_of(p->line, p->line_len - 1u);
        if (line.len > 0 && line.ptr[line.len - 1] == '\r')
            line.len--;
        p->line_len = 0;
        bool last = false;
        if (p->lines == SMTP_REPLY_LINES_MAX)
            return SMTP_REPLY_TOO_LONG;
        if (!read_line(p, line, &last, on_line, context))
            return SMTP_REPLY_GARBAGE;
        if (last) {
            reply_set_text(&p->reply, slice_of(p->text, p->text_len));
            return SMTP_REPLY_COMPLETE;
        }
    }
    return SMTP_REPLY_MORE;
}
