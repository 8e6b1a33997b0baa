/* Any bytes as a message's content, by DATA (first byte even) or as one chunk (odd): in any pieces
 * and through a buffer of any size, what comes out is what a plain reading of the whole gives, and
 * so is the place of its end and what is wrong with it. */
#include "smtp/content.h"

#include "core/base/utf8.h"
#include "tests/fuzz/exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 1 << 22, BYTES_MAX = 4000, LINE_MAX_BYTES = 200, RECEIVED_MAX = 3 };

static const struct smtp_content_limits limits = {
    .bytes_max = BYTES_MAX, .line_bytes_max = LINE_MAX_BYTES, .received_max = RECEIVED_MAX};

static const struct slice date_line = {"Date: now\r\n", 11}, id_line = {"Message-ID: <i>\r\n", 17};

/* ---- the plain reading ---- */

struct expected {
    bool ended; /* DATA: the end was there */
    size_t used;
    enum smtp_content_error error;
    struct buf out; /* its memory serves for the next */
};

static bool is_field(struct slice line, struct slice name)
{
    return slice_starts_nocase(line, name);
}

static bool has_header(struct slice line)
{
    size_t n = 0;
    while (n < line.len && line.ptr[n] > ' ' && line.ptr[n] < 0x7f && line.ptr[n] != ':')
        n++;
    return n > 0 && n < SMTP_CONTENT_NAME_MAX && n < line.len && line.ptr[n] == ':';
}

/* The length of the content: up to the line that holds only a dot, its CRLF before it, or all. */
static size_t find_end(struct slice s, bool is_data, bool *ended_out)
{
    *ended_out = false;
    for (size_t i = 0; is_data && i + 3 <= s.len; i++) {
        bool at_start = i == 0 || (i >= 2 && s.ptr[i - 1] == '\n' && s.ptr[i - 2] == '\r');
        if (at_start && memcmp(s.ptr + i, ".\r\n", 3) == 0) {
            *ended_out = true;
            return i;
        }
    }
    return s.len;
}

static enum smtp_content_error bad_byte(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\0')
            return SMTP_CONTENT_NUL;
        if (s.ptr[i] == '\n' && (i == 0 || s.ptr[i - 1] != '\r'))
            return SMTP_CONTENT_BARE_LF;
        if (s.ptr[i] == '\r' && (i + 1 == s.len || s.ptr[i + 1] != '\n'))
            return SMTP_CONTENT_BARE_CR;
    }
    return SMTP_CONTENT_OK;
}

/* What stands in the header section: how often it passed a relay, and what it lacks. */
struct fields {
    unsigned received;
    bool date, id;
};

static void close_header(struct expected *x, const struct fields *f)
{
    if (!f->date)
        buf_append(&x->out, date_line);
    if (!f->id)
        buf_append(&x->out, id_line);
    buf_append_str(&x->out, "\r\n");
}

/* Only for content without a bad byte. */
static void read_lines(struct expected *x, struct slice s, bool is_data)
{
    struct fields f = {0};
    bool in_header = true, first = true;
    while (s.len > 0) {
        size_t lf = slice_find(s, '\n');
        struct slice line = slice_take(s, lf < s.len ? lf - 1 : lf);
        s = slice_skip(s, lf + 1);
        if (is_data && line.len > 0 && line.ptr[0] == '.')
            line = slice_skip(line, 1);
        if (first && line.len > 0 && !has_header(line)) {
            close_header(x, &f);
            in_header = false;
        }
        first = false;
        if (line.len + 2 > LINE_MAX_BYTES)
            x->error = SMTP_CONTENT_LINE_TOO_LONG;
        if (in_header && line.len == 0) {
            close_header(x, &f);
            in_header = false;
            continue;
        }
        if (in_header) {
            f.received += is_field(line, SLICE_LIT("received:"));
            f.date |= is_field(line, SLICE_LIT("date:"));
            f.id |= is_field(line, SLICE_LIT("message-id:"));
        }
        buf_append(&x->out, line);
        buf_append_str(&x->out, "\r\n");
    }
    if (in_header)
        close_header(x, &f);
    if (f.received > RECEIVED_MAX)
        x->error = SMTP_CONTENT_LOOP;
    if (buf_len(&x->out) > BYTES_MAX)
        x->error = SMTP_CONTENT_TOO_LARGE;
}

static void read_plainly(struct expected *x, struct slice input, bool is_data)
{
    buf_clear(&x->out);
    size_t end = find_end(input, is_data, &x->ended);
    x->used = x->ended ? end + 3 : input.len;
    x->error = bad_byte(slice_take(input, end));
    if (x->error == SMTP_CONTENT_OK)
        read_lines(x, slice_take(input, end), is_data);
}

/* ---- the decoder, in pieces ---- */

static void take(struct buf *window, struct buf *whole)
{
    buf_append(whole, buf_slice(window));
    buf_clear(window);
}

/* Returns whether the end came. */
static bool decode(struct smtp_content *c, struct slice input, size_t piece, struct buf *window,
                   struct buf *whole, size_t *used_out)
{
    enum smtp_content_status status = SMTP_CONTENT_MORE;
    struct exact_block block = exact_block_create(exact_min(piece, input.len));
    *used_out = 0;
    while (*used_out < input.len && status != SMTP_CONTENT_END) {
        size_t used = 0;
        struct slice part = exact_put(&block, slice_take(slice_skip(input, *used_out), piece));
        status = smtp_content_feed(c, part, &used);
        ASSERT(used <= part.len && (status != SMTP_CONTENT_MORE || used == part.len));
        ASSERT(status != SMTP_CONTENT_FULL || buf_len(window) > 0);
        *used_out += used;
        take(window, whole);
    }
    exact_block_destroy(&block);
    if (c->mode == SMTP_CONTENT_DATA)
        return status == SMTP_CONTENT_END;
    while (smtp_content_finish(c) == SMTP_CONTENT_FULL)
        take(window, whole);
    take(window, whole);
    return true;
}

static void check(struct smtp_content *c, const struct expected *x, const struct buf *whole)
{
    ASSERT((c->error == SMTP_CONTENT_OK) == (x->error == SMTP_CONTENT_OK));
    if (c->error != SMTP_CONTENT_OK)
        return;
    struct slice out = buf_slice(whole);
    ASSERT(slice_equal(out, buf_slice(&x->out)));
    ASSERT(c->bytes == out.len && c->header_bytes >= 2 && c->header_bytes <= out.len);
    ASSERT(is_crlf_text(out) && memcmp(out.ptr + c->header_bytes - 2, "\r\n", 2) == 0);
    ASSERT(c->has_8bit == utf8_has_high(out));
    ASSERT(c->has_utf8_header == utf8_has_high(slice_take(out, c->header_bytes)));
    bool dots = out.ptr[0] == '.' || memmem(out.ptr, out.len, "\n.", 2) != NULL;
    ASSERT(c->has_dot_lines || !dots);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    bool is_data = (data[0] & 1) == 0;
    struct slice input = slice_of(data + 3, size - 3);
    struct smtp_content c;
    static struct expected x = {.out.bound = OUT_MAX};
    static struct buf whole = {.bound = OUT_MAX};
    struct buf window;
    size_t used = 0;
    buf_init(&window, 128u + data[2]);
    buf_clear(&whole);
    smtp_content_begin(&c, is_data ? SMTP_CONTENT_DATA : SMTP_CONTENT_BDAT, &limits, &window);
    c.date_line = date_line;
    c.message_id_line = id_line;
    bool ended = decode(&c, input, 1u + data[1], &window, &whole, &used);
    read_plainly(&x, input, is_data);
    ASSERT(used == x.used && ended == (x.ended || !is_data));
    if (ended)
        check(&c, &x, &whole);
    buf_fini(&window);
    return 0;
}
