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

/* Takes an enhanced status off the front of `text` (RFC 2034 4). One whose class contradicts the
 * code is ignored, but still taken off: it helps nobody. */
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

/* The lines so far were of a reply that the server has taken back. */
static void start_over(struct smtp_reply_parser *p)
{
    p->text_len = 0;
    p->reply = (struct reply){0};
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
        start_over(p);
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

/* Can this still become a reply line? Judged before the line is whole: garbage need not be waited
 * for. */
static bool is_plausible(struct slice line)
{
    if (line.len > 0 && (line.ptr[0] < '2' || line.ptr[0] > '5'))
        return false;
    for (size_t i = 1; i < line.len && i < 3; i++)
        if (!is_digit(line.ptr[i]))
            return false;
    return line.len < 4 || memchr(" -\r", line.ptr[3], 3) != NULL;
}

/* Takes bytes up to the end of a line into `line`, its LF excluded. MORE: there is no whole line
 * yet. */
static enum smtp_reply_status take_line(struct smtp_reply_parser *p, struct slice input,
                                        size_t *used_out)
{
    size_t lf = slice_find(input, '\n');
    struct slice piece = slice_take(input, lf);
    size_t want = lf < input.len ? lf + 1 : lf;
    size_t room = sizeof p->line - p->line_len;
    if (room > SMTP_REPLY_BYTES_MAX - p->bytes)
        room = SMTP_REPLY_BYTES_MAX - p->bytes;
    piece = slice_take(piece, room);
    memcpy(p->line + p->line_len, piece.ptr, piece.len);
    p->line_len = (uint16_t)(p->line_len + piece.len);
    if (!is_plausible(slice_of(p->line, p->line_len)))
        return SMTP_REPLY_GARBAGE;
    if (want > room)
        return SMTP_REPLY_TOO_LONG;
    p->bytes += (uint32_t)want;
    *used_out += want;
    return lf < input.len ? SMTP_REPLY_COMPLETE : SMTP_REPLY_MORE;
}

/* The line that was taken, without its end: CRLF, or what passes for it. */
static struct slice taken_line(struct smtp_reply_parser *p)
{
    struct slice line = slice_of(p->line, p->line_len);
    while (line.len > 0 && line.ptr[line.len - 1] == '\r')
        line.len--;
    p->line_len = 0;
    return line;
}

enum smtp_reply_status
smtp_reply_feed(struct smtp_reply_parser *p, struct slice input, size_t *used_out,
                void (*on_line)(void *context, unsigned line, struct slice text), void *context)
{
    *used_out = 0;
    while (*used_out < input.len) {
        enum smtp_reply_status status = take_line(p, slice_skip(input, *used_out), used_out);
        if (status != SMTP_REPLY_COMPLETE)
            return status;
        if (p->lines == SMTP_REPLY_LINES_MAX)
            return SMTP_REPLY_TOO_LONG;
        bool last = false;
        if (!read_line(p, taken_line(p), &last, on_line, context))
            return SMTP_REPLY_GARBAGE;
        if (last) {
            reply_set_text(&p->reply, slice_of(p->text, p->text_len));
            return SMTP_REPLY_COMPLETE;
        }
    }
    return SMTP_REPLY_MORE;
}
