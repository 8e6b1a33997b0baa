#include "smtp/content.h"

#include "core/base/assert.h"
#include "core/spool/envelope.h"

enum { LINE_START_ROOM = 4 }; /* a step may put two held-back bytes and CRLF besides its run */

void smtp_content_begin(struct smtp_content *c, enum smtp_content_mode mode,
                        const struct smtp_content_limits *limits, struct buf *out)
{
    ASSERT(out->bound >= SMTP_CONTENT_OUT_MIN);
    *c = (struct smtp_content){.limits = *limits,
                               .mode = mode,
                               .out = out,
                               .date_line = SLICE_LIT(""),
                               .message_id_line = SLICE_LIT(""),
                               .priority_field = SLICE_LIT(""),
                               .in_header = true};
}

static void fail(struct smtp_content *c, enum smtp_content_error error)
{
    if (c->error == SMTP_CONTENT_OK)
        c->error = error;
}

void smtp_content_expect(struct smtp_content *c, uint64_t bytes)
{
    if (bytes > c->limits.bytes_max || c->bytes > c->limits.bytes_max - bytes)
        fail(c, SMTP_CONTENT_TOO_LARGE);
}

static size_t room(const struct smtp_content *c)
{
    return c->out->bound - buf_len(c->out);
}

/* The caller has made sure of the room. */
static void put(struct smtp_content *c, struct slice s)
{
    if (c->error != SMTP_CONTENT_OK || s.len == 0)
        return;
    if (c->bytes + s.len > c->limits.bytes_max) {
        fail(c, SMTP_CONTENT_TOO_LARGE);
        return;
    }
    buf_append(c->out, s);
    if (!buf_ok(c->out)) { /* out of memory: the bound was looked at before */
        buf_clear(c->out);
        fail(c, SMTP_CONTENT_TOO_LARGE);
        return;
    }
    c->bytes += s.len;
}

/* ---- the header section ---- */

static bool head_is(const struct smtp_content *c, struct slice name)
{
    return c->head_len >= name.len && memcmp(c->head, name.ptr, name.len) == 0;
}

static void note_head(struct smtp_content *c, struct slice run)
{
    for (size_t i = 0; i < run.len && c->head_len < sizeof c->head; i++) {
        char ch = run.ptr[i];
        c->head[c->head_len++] = ch >= 'A' && ch <= 'Z' ? (char)(ch | 0x20) : ch;
    }
}

/* A class that is none counts as not said: mail is not refused for it. The first one holds. */
static void note_priority(struct smtp_content *c)
{
    struct slice name = c->priority_field;
    if (name.len == 0 || c->has_priority || !head_is(c, name))
        return;
    struct slice value = slice_trim(slice_skip(slice_of(c->head, c->head_len), name.len));
    c->has_priority = envelope_priority_parse(value, &c->priority);
}

/* A line of the header section has ended: which field was it? */
static void note_field(struct smtp_content *c)
{
    if (head_is(c, SLICE_LIT("received:")) && ++c->received > c->limits.received_max)
        fail(c, SMTP_CONTENT_LOOP); /* RFC 5321 6.3 */
    note_priority(c);
    c->has_date |= head_is(c, SLICE_LIT("date:"));
    c->has_message_id |= head_is(c, SLICE_LIT("message-id:"));
}

/* Puts in what the header section lacks; then it is over. There is room: every step saw to it. */
static void end_fields(struct smtp_content *c)
{
    if (!c->has_date)
        put(c, c->date_line);
    if (!c->has_message_id)
        put(c, c->message_id_line);
    c->in_header = false;
}

/* The blank line behind the header section. */
static void end_header(struct smtp_content *c)
{
    end_fields(c);
    put(c, SLICE_LIT("\r\n"));
    c->header_bytes = (uint32_t)c->bytes;
}

/* ---- lines ---- */

/* The line's end, CRLF, has been read and put out. */
static void end_line(struct smtp_content *c)
{
    if (c->in_header && c->head_len > 0 && c->head[0] != ' ' && c->head[0] != '\t')
        note_field(c);
    c->line_bytes = 0;
    c->head_len = 0;
}

/* Would so many bytes more within the line pass the limit of the whole before that of the line? The
 * reason that is told must not depend on how the run was cut. */
static bool is_too_large_first(const struct smtp_content *c, size_t len)
{
    uint64_t size_left = c->limits.bytes_max > c->bytes ? c->limits.bytes_max - c->bytes : 0;
    return len > size_left && c->line_bytes + size_left + 2 < c->limits.line_bytes_max;
}

/* A run of bytes without CR, LF or NUL within the line. */
static void put_run(struct smtp_content *c, struct slice run)
{
    if (run.len == 0)
        return;
    if (c->line_bytes == 0 && run.ptr[0] == '.')
        c->has_dot_lines = true;
    if (c->in_header)
        note_head(c, run);
    if (is_too_large_first(c, run.len))
        fail(c, SMTP_CONTENT_TOO_LARGE);
    c->line_bytes += run.len;
    if (c->line_bytes + 2 > c->limits.line_bytes_max)
        fail(c, SMTP_CONTENT_LINE_TOO_LONG);
    put(c, run);
}

/* The first line is known. Where it is no field there is no header section (RFC 5322 2.2): an own
 * one goes in front. */
static void settle_first_line(struct smtp_content *c, bool is_field)
{
    c->judged = true;
    if (!is_field)
        end_header(c);
    put_run(c, slice_of(c->first, c->first_len));
}

/* The first line begins with a name and a colon, or it is no field. Its bytes wait, in whatever
 * pieces they come, until that is seen. Returns how many of `run` were taken. */
static size_t judge_first_line(struct smtp_content *c, struct slice run)
{
    size_t n = 0;
    while (n < run.len && c->first_len < SMTP_CONTENT_NAME_MAX && run.ptr[n] > ' ' &&
           run.ptr[n] < 0x7f && run.ptr[n] != ':')
        c->first[c->first_len++] = run.ptr[n++];
    if (n < run.len)
        settle_first_line(c, run.ptr[n] == ':' && c->first_len > 0 &&
                                 c->first_len < SMTP_CONTENT_NAME_MAX);
    return n;
}

/* It ended before it was judged: without a colon it is no field. A blank one ends a
 * header section. */
static void end_first_line(struct smtp_content *c)
{
    if (!c->judged && c->first_len > 0)
        settle_first_line(c, false);
    c->judged = true;
}

/* Length of the longest prefix without CR, LF and NUL. `*high_out`: it holds a byte over 127.
 * Content is most of what a relay reads: eight bytes at a time, in one pass. */
static size_t plain_length(struct slice s, bool *high_out)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones << 7;
    uint64_t all = 0, word;
    size_t at = 0;
    for (; at + sizeof word <= s.len; at += sizeof word) {
        memcpy(&word, s.ptr + at, sizeof word);
        if (((word - ones * ('\r' + 1)) & ~word & highs) != 0)
            break; /* one of them may be such a byte, or a tab: looked at one by one */
        all |= word;
    }
    for (; at < s.len; at++) {
        unsigned char c = (unsigned char)s.ptr[at];
        if (c == '\n' || c == '\r' || c == '\0')
            break;
        all |= c;
    }
    *high_out = (all & highs) != 0;
    return at;
}

/* A CR was read before: only LF may follow. Returns END at the end-of-data line. */
static enum smtp_content_status after_cr(struct smtp_content *c, char next)
{
    c->after_cr = false;
    if (next != '\n') {
        fail(c, SMTP_CONTENT_BARE_CR);
        c->only_dot = false;
        c->line_bytes = 1; /* whatever follows is within a line */
        return SMTP_CONTENT_MORE;
    }
    if (c->only_dot)
        return SMTP_CONTENT_END;
    if (c->in_header && c->line_bytes == 0) { /* the blank line */
        end_header(c);
        return SMTP_CONTENT_MORE;
    }
    put(c, SLICE_LIT("\r\n"));
    end_line(c);
    return SMTP_CONTENT_MORE;
}

static size_t insert_room(const struct smtp_content *c)
{
    size_t waiting = c->judged ? 0 : c->first_len;
    return c->in_header ? c->date_line.len + c->message_id_line.len + 2 + waiting : 0;
}

/* One step at a line's start in DATA mode: a dot is held back until the next byte tells what it is.
 * True: it was used. */
static bool hold_dot(struct smtp_content *c, char ch)
{
    bool at_start = c->line_bytes == 0 && (c->judged || c->first_len == 0);
    if (c->mode != SMTP_CONTENT_DATA || !at_start || c->only_dot || ch != '.')
        return false;
    c->only_dot = true;
    return true;
}

/* Uses one run or one special byte of `s`. Returns how much; sets `*status_out` at the
 * end of data. */
static size_t step(struct smtp_content *c, struct slice s, enum smtp_content_status *status_out)
{
    char ch = s.ptr[0];
    if (c->after_cr) {
        *status_out = after_cr(c, ch);
        return ch == '\n' ? 1 : 0;
    }
    if (ch == '\r') {
        end_first_line(c);
        c->after_cr = true;
        return 1;
    }
    if (ch == '\n' || ch == '\0') {
        end_first_line(c);
        fail(c, ch == '\n' ? SMTP_CONTENT_BARE_LF : SMTP_CONTENT_NUL);
        c->only_dot = false;
        c->line_bytes = 1; /* no bare LF ever makes a line start: that is the point */
        return 1;
    }
    if (hold_dot(c, ch))
        return 1;
    c->only_dot = false; /* the dot was stuffing: gone, and the line begins with what follows */
    bool high;
    struct slice run = s;
    if (!c->judged)
        return judge_first_line(c, slice_take(run, plain_length(run, &high)));
    if (c->error == SMTP_CONTENT_OK)
        run = slice_take(run, room(c) - LINE_START_ROOM - insert_room(c));
    run = slice_take(run, plain_length(run, &high));
    c->has_8bit |= high;
    c->has_utf8_header |= high && c->in_header;
    put_run(c, run);
    return run.len;
}

/* Nothing is under way, and a line of the body begins. */
static bool is_between_lines(const struct smtp_content *c)
{
    return !c->in_header && c->line_bytes == 0 && !c->after_cr && !c->only_dot &&
           c->error == SMTP_CONTENT_OK;
}

/* Puts out the whole lines of the body at the front of `s` to which nothing is to be done, as far
 * as there is room, in one piece. Returns their length; what is left goes step by step. */
static size_t put_plain_lines(struct smtp_content *c, struct slice s)
{
    size_t at = 0;
    bool high = false;
    s = slice_take(s, room(c) - LINE_START_ROOM);
    while (at < s.len && s.ptr[at] != '.') {
        bool line_high;
        size_t end = at + plain_length(slice_skip(s, at), &line_high);
        bool is_whole = end + 2 <= s.len && s.ptr[end] == '\r' && s.ptr[end + 1] == '\n';
        if (!is_whole || end + 2 - at > c->limits.line_bytes_max)
            break;
        high |= line_high;
        at = end + 2;
    }
    c->has_8bit |= high;
    put(c, slice_take(s, at));
    return at;
}

enum smtp_content_status smtp_content_feed(struct smtp_content *c, struct slice input,
                                           size_t *used_out)
{
    *used_out = 0;
    enum smtp_content_status status = SMTP_CONTENT_MORE;
    while (*used_out < input.len && status == SMTP_CONTENT_MORE) {
        if (c->error == SMTP_CONTENT_OK && room(c) <= LINE_START_ROOM + insert_room(c))
            return SMTP_CONTENT_FULL;
        struct slice rest = slice_skip(input, *used_out);
        size_t lines = is_between_lines(c) ? put_plain_lines(c, rest) : 0;
        *used_out += lines > 0 ? lines : step(c, rest, &status);
    }
    if (status == SMTP_CONTENT_END && c->in_header && c->error == SMTP_CONTENT_OK)
        end_header(c); /* a header section only: room was seen to above */
    return status;
}

enum smtp_content_status smtp_content_finish(struct smtp_content *c)
{
    if (c->error != SMTP_CONTENT_OK)
        return SMTP_CONTENT_END;
    if (room(c) < LINE_START_ROOM + insert_room(c))
        return SMTP_CONTENT_FULL;
    if (c->after_cr)
        fail(c, SMTP_CONTENT_BARE_CR);
    end_first_line(c);
    if (c->line_bytes > 0) { /* BDAT need not end in CRLF; what we pass on must */
        put(c, SLICE_LIT("\r\n"));
        end_line(c);
    }
    if (c->in_header)
        end_header(c);
    return SMTP_CONTENT_END;
}
