/* Any bytes as strings in the log, in a notice to the sender (RFC 3464) and in an answer on the
 * control socket: each log record is one line of JSON that gives the string back, or a cut of it;
 * no field, part or line of the notice is forged. */
#include "core/base/buf.h"
#include "core/base/list.h"
#include "core/base/utf8.h"
#include "core/log.h"
#include "smtp/dsn.h"
#include "smtp/xtext.h"
#include "tests/fuzz/exact.h"
#include "workers/control_priv.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NOTICE_MAX = 1 << 22, PARTS = 4, RECORDS = 3 };

/* The input, in four strings. */
struct parts {
    struct slice of[PARTS];
};

static struct parts cut(struct slice input)
{
    struct parts p;
    for (unsigned i = 0; i < PARTS; i++) {
        size_t len = i + 1 < PARTS ? slice_find(input, '|') : input.len;
        p.of[i] = slice_take(input, len);
        input = slice_skip(input, len + 1);
    }
    return p;
}

/* ---- the log ---- */

/* What a tap of the log gets is what its file would. */
struct written {
    struct log_tap tap;
    const struct parts *parts;
    unsigned count;
};

/* Up to where the log may have cut it, with what is no UTF-8 replaced, is it the same? */
static void check_string(const json_t *logged, struct slice given)
{
    if (logged == NULL)
        return; /* the line was full before it */
    struct slice s = slice_of(json_string_value(logged), json_string_length(logged));
    while (s.len > 0) {
        size_t n = utf8_length(given);
        bool good = n > 0;
        ASSERT(given.len > 0 && s.len >= (good ? n : 3));
        ASSERT(memcmp(s.ptr, good ? given.ptr : "\xef\xbf\xbd", good ? n : 3) == 0);
        s = slice_skip(s, good ? n : 3);
        given = slice_skip(given, good ? n : 1);
    }
}

static void on_line(struct log_tap *tap, struct slice line)
{
    struct written *w = CONTAINER_OF(tap, struct written, tap);
    ASSERT(line.len <= LOG_LINE_MAX && line.ptr[line.len - 1] == '\n');
    ASSERT(is_one_line(slice_take(line, line.len - 1)));
    json_t *o = json_loadb(line.ptr, line.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    ASSERT(json_is_object(o));
    ASSERT(json_integer_value(json_object_get(o, "number")) == (json_int_t)w->count);
    ASSERT(strcmp(json_string_value(json_object_get(o, "event")), "fuzz") == 0);
    check_string(json_object_get(o, "first"), w->parts->of[w->count]);
    check_string(json_object_get(o, "last"), w->parts->of[w->count + 1]);
    json_decref(o);
    w->count++;
}

static void check_log(const struct parts *p, const struct reply *r)
{
    struct written w = {.tap = {on_line}, .parts = p};
    for (unsigned i = 0; i < RECORDS; i++) {
        struct log_line l;
        log_begin_tapped(&l, NULL, &w.tap, "fuzz");
        log_u64(&l, "number", i);
        log_str(&l, "first", p->of[i]);
        log_reply(&l, r);
        log_str(&l, "last", p->of[i + 1]);
        log_end(&l);
    }
    ASSERT(w.count == RECORDS);
}

/* ---- the notice ---- */

static unsigned count_of(struct slice text, const char *what)
{
    unsigned count = 0;
    size_t len = strlen(what);
    for (const char *at; (at = memmem(text.ptr, text.len, what, len)) != NULL; count++)
        text = slice_skip(text, (size_t)(at - text.ptr) + len);
    return count;
}

static void check_notice(struct slice s, const struct dsn *d, const struct envelope *e)
{
    char boundary[64], line[80];
    ASSERT(e->size_bytes == s.len && e->header_bytes < s.len && is_crlf_text(s));
    struct slice header = slice_take(s, e->header_bytes);
    const char *at = memmem(header.ptr, header.len, "boundary=\"", 10);
    ASSERT(at != NULL && sscanf(at + 10, "%60[^\"]", boundary) == 1);
    (void)snprintf(line, sizeof line, "\r\n--%s", boundary);
    ASSERT(count_of(s, line) == 4); /* before, between and behind three parts */
    ASSERT(count_of(header, "\r\nTo: ") == 1 && count_of(header, "\r\nContent-Type: ") == 1);
    ASSERT(count_of(s, "\r\nFinal-Recipient: ") == d->recipient_count);
    ASSERT(count_of(s, "\r\nAction: ") == d->recipient_count);
    ASSERT(count_of(s, "\r\nStatus: ") == d->recipient_count);
    for (size_t len; s.len > 0; s = slice_skip(s, len)) {
        len = slice_find(s, '\n') + 1;
        ASSERT(len <= 1000); /* RFC 5321 4.5.3.1.6 */
    }
}

/* Only what a submission may have stored: clean strings, xtext. */
static void write_notice(const struct parts *p, const struct reply *r)
{
    struct envelope_recipient to = {
        .address = p->of[0], .domain = SLICE_LIT("x"), .orcpt = p->of[2]};
    struct envelope original = {.sender = SLICE_LIT("s@x.example"), .envid = p->of[1]};
    struct dsn_recipient about = {
        .recipient = &to, .reply = r, .exchange = slice_take(p->of[3], 253)};
    struct dsn d = {.kind = DSN_FAILED,
                    .hostname = "relay.example",
                    .postmaster = "postmaster@relay.example",
                    .id = 1,
                    .original = &original,
                    .recipients = &about,
                    .recipient_count = 1,
                    .content = SLICE_LIT("Subject: x\r\n\r\n")};
    struct buf out;
    struct envelope e;
    struct envelope_recipient rcpt;
    char domain[256];
    if (!xtext_is_valid(original.envid) || !xtext_is_valid(to.orcpt) || original.envid.len > 100 ||
        to.orcpt.len > 500 || !is_one_line(to.address) || to.address.len > 254)
        return;
    buf_init(&out, NOTICE_MAX);
    ASSERT(dsn_compose(&d, &out, &e, &rcpt, domain));
    check_notice(buf_slice(&out), &d, &e);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = slice_of(data, size);
    struct parts p = cut(input);
    struct reply r = {.code = 550, .class = 5, .subject = 1, .detail = 1};
    reply_set_text(&r, p.of[3]);
    check_log(&p, &r);
    write_notice(&p, &r);
    json_t *text = control_text(p.of[0]);
    ASSERT(text != NULL &&
           utf8_is_valid(slice_of(json_string_value(text), json_string_length(text))));
    json_decref(text);
    return 0;
}
