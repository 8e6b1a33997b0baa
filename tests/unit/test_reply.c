/* The reply parser (RFC 5321 4.2), at every split of its input. */
#include "smtp/reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { HEARD_SIZE = 4096 };

/* What the parser said of an input: its status, the bytes it used, the reply, the
 * lines it heard. */
struct result {
    enum smtp_reply_status status;
    size_t used;
    struct reply reply;
    char heard[HEARD_SIZE];
    size_t heard_len;
};

/* Keeps what fits. */
static void on_line(void *context, unsigned line, struct slice text)
{
    struct result *r = context;
    size_t room = HEARD_SIZE - r->heard_len;
    int len = snprintf(r->heard + r->heard_len, room, "%u<%.*s>", line, SLICE_ARG(text));
    assert_true(len > 0);
    r->heard_len += (size_t)len < room ? (size_t)len : room - 1;
}

/* Feeds one part from memory of exactly its size. */
static void feed(struct smtp_reply_parser *p, struct slice part, struct result *r)
{
    size_t used = 0;
    char *exact = malloc(part.len + 1); /* never of size 0 */
    assert_non_null(exact);
    memcpy(exact + 1, part.ptr, part.len);
    r->status = smtp_reply_feed(p, slice_of(exact + 1, part.len), &used, on_line, r);
    assert_true(used <= part.len);
    r->used += used;
    free(exact);
}

/* In two parts, cut at `cut`, each in pieces of `piece` bytes. */
static struct result parse_cut(struct slice input, size_t cut, size_t piece)
{
    struct result r = {.status = SMTP_REPLY_MORE};
    struct smtp_reply_parser p;
    smtp_reply_reset(&p);
    for (size_t at = 0; at < input.len && r.status == SMTP_REPLY_MORE;) {
        size_t len = at < cut && cut - at < piece ? cut - at : piece;
        struct slice part = slice_take(slice_skip(input, at), len);
        feed(&p, part, &r);
        at += part.len;
    }
    r.reply = p.reply;
    return r;
}

static void expect_same(const struct result *a, const struct result *b)
{
    assert_int_equal(a->status, b->status);
    if (a->status != SMTP_REPLY_COMPLETE)
        return;
    assert_int_equal(a->used, b->used);
    assert_int_equal(a->reply.code, b->reply.code);
    assert_int_equal(a->reply.class, b->reply.class);
    assert_int_equal(a->reply.subject, b->reply.subject);
    assert_int_equal(a->reply.detail, b->reply.detail);
    assert_true(slice_equal(slice_of(a->reply.text, a->reply.text_len),
                            slice_of(b->reply.text, b->reply.text_len)));
    assert_string_equal(a->heard, b->heard);
}

/* Whole; and the same at every split into two, and byte by byte. */
static struct result parse(struct slice input)
{
    struct result whole = parse_cut(input, input.len, SIZE_MAX);
    for (size_t cut = 1; cut < input.len && input.len < HEARD_SIZE; cut++) {
        struct result split = parse_cut(input, cut, SIZE_MAX);
        expect_same(&whole, &split);
    }
    struct result single = parse_cut(input, 0, 1);
    expect_same(&whole, &single);
    return whole;
}

static void expect_reply(const char *input, const char *formatted)
{
    char got[REPLY_TEXT_SIZE + 32];
    struct result r = parse(slice_str(input));
    assert_int_equal(r.status, SMTP_REPLY_COMPLETE);
    (void)reply_format(&r.reply, got, sizeof got);
    assert_string_equal(got, formatted);
}

static void expect_status(const char *input, enum smtp_reply_status status)
{
    struct result r = parse(slice_str(input));
    if (r.status != status)
        fail_msg("\"%s\": expected status %d, got %d", input, status, r.status);
}

static void one_line_is_read(void **state)
{
    (void)state;
    expect_reply("220 mx.example ESMTP\r\n", "220 mx.example ESMTP");
    expect_reply("599 x\r\n", "599 x");
    expect_reply("250\r\n", "250 ");
    expect_reply("250 \r\n", "250 ");
}

static void lines_are_joined_by_spaces(void **state)
{
    (void)state;
    expect_reply("550-no\r\n550- such \r\n550-\r\n550 user\r\n", "550 no such user");
    expect_reply("550-only the first\r\n550\r\n", "550 only the first");
}

static void lines_may_end_in_a_bare_lf(void **state)
{
    (void)state;
    expect_reply("220-a\n220 b\n", "220 a b");
    expect_reply("250\n", "250 ");
    expect_reply("250 x\r\r\n", "250 x");
    expect_reply("250\r\r\n", "250 ");
}

static void each_line_is_heard_with_its_number(void **state)
{
    (void)state;
    struct result r = parse(SLICE_LIT("250-mx\r\n250-SIZE 10\r\n250\r\n"));
    assert_string_equal(r.heard, "0<mx>1<SIZE 10>2<>");
}

static void what_follows_a_reply_is_left(void **state)
{
    (void)state;
    struct result r = parse(SLICE_LIT("250 ok\r\n354 go\r\n"));
    assert_int_equal(r.status, SMTP_REPLY_COMPLETE);
    assert_int_equal(r.used, 8);
    assert_int_equal(r.reply.code, 250);
}

/* RFC 2034 4, RFC 3463 2 */
static void an_enhanced_status_is_taken_from_the_text(void **state)
{
    (void)state;
    expect_reply("550 5.1.1 no such user\r\n", "550 5.1.1 no such user");
    expect_reply("550-5.7.1 go\r\n550 5.7.1 away\r\n", "550 5.7.1 go away");
    expect_reply("450 4.999.999\r\n", "450 4.999.999 ");
    struct result r = parse(SLICE_LIT("550 5.1.1 no such user\r\n"));
    assert_int_equal(r.reply.class, 5);
    assert_int_equal(r.reply.subject, 1);
    assert_int_equal(r.reply.detail, 1);
    assert_int_equal(r.reply.text_len, strlen("no such user"));
}

static void an_enhanced_status_of_another_class_is_ignored(void **state)
{
    (void)state;
    expect_reply("550 4.1.1 no such user\r\n", "550 no such user");
    expect_reply("250 5.0.1 fine\r\n", "250 fine");
    struct result r = parse(SLICE_LIT("550 4.1.1 no\r\n"));
    assert_int_equal(r.reply.class, 5);
    assert_int_equal(r.reply.subject, 0);
    assert_int_equal(r.reply.detail, 0);
}

static void what_only_looks_like_an_enhanced_status_is_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"5.1",    "5.1.1x",     "5.1.1.1 a",  "5..1 a", "5.1. a",
                                        "55.1.1", "5.1000.1 a", "5.1.1000 a", "5-1-1",  "a 5.1.1"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char line[64], formatted[64];
        (void)snprintf(line, sizeof line, "550 %s\r\n", texts[i]);
        (void)snprintf(formatted, sizeof formatted, "550 %s", texts[i]);
        if (strcmp(texts[i], "55.1.1") == 0)
            (void)snprintf(formatted, sizeof formatted, "550 ");
        expect_reply(line, formatted);
    }
}

static void nothing_of_the_last_reply_is_left(void **state)
{
    (void)state;
    struct smtp_reply_parser p;
    size_t used = 0;
    smtp_reply_reset(&p);
    assert_true(smtp_reply_is_empty(&p));
    assert_int_equal(smtp_reply_feed(&p, SLICE_LIT("550 5.1.1 secret\r\n"), &used, NULL, NULL),
                     SMTP_REPLY_COMPLETE);
    assert_false(smtp_reply_is_empty(&p));
    smtp_reply_reset(&p);
    assert_int_equal(smtp_reply_feed(&p, SLICE_LIT("250\r\n"), &used, NULL, NULL),
                     SMTP_REPLY_COMPLETE);
    assert_int_equal(p.reply.code, 250);
    assert_int_equal(p.reply.subject, 0);
    assert_int_equal(p.reply.text_len, 0);
}

static void text_is_made_printable(void **state)
{
    (void)state;
    struct result r = parse(SLICE_LIT("250 a\0b\x1b[0m\rc \xc3\xa9 \xff\r\n"));
    assert_int_equal(r.status, SMTP_REPLY_COMPLETE);
    assert_true(
        slice_equal(slice_of(r.reply.text, r.reply.text_len), SLICE_LIT("a?b?[0m?c \xc3\xa9 ?")));
}

static void long_text_is_cut(void **state)
{
    (void)state;
    char line[1024];
    memset(line, 'x', sizeof line);
    memcpy(line, "250 ", 4);
    memcpy(line + sizeof line - 2, "\r\n", 2);
    struct result r = parse(slice_of(line, sizeof line));
    assert_int_equal(r.status, SMTP_REPLY_COMPLETE);
    assert_int_equal(r.reply.text_len, REPLY_TEXT_SIZE);
}

static void what_has_no_reply_code_is_garbage(void **state)
{
    (void)state;
    static const char *const garbage[] = {"\r\n",       "\n",         "x",          "22",
                                          "22\r\n",     "2x0 a\r\n",  "2200 a\r\n", "220:a\r\n",
                                          "220\ta\r\n", "199 a\r\n",  "600 a\r\n",  "HTTP/1.1\r\n",
                                          " 220 a\r\n", "220\rx\r\n", "-220 a\r\n", "\x16\x03\x01"};
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++)
        expect_status(garbage[i],
                      strcmp(garbage[i], "22") == 0 ? SMTP_REPLY_MORE : SMTP_REPLY_GARBAGE);
}

static void of_codes_that_differ_the_last_one_holds(void **state)
{
    (void)state;
    expect_reply("220-mx.example ESMTP\r\n521 5.7.1 blocked\r\n", "521 5.7.1 blocked");
    expect_reply("220-mx.example ESMTP\r\n421 too busy\r\n", "421 too busy");
    expect_reply("550-5.1.1 no\r\n550-5.1.1 such user\r\n250-a\r\n250 b\r\n", "250 a b");
    expect_status("220-mx.example ESMTP\r\n521-a\r\n", SMTP_REPLY_MORE);
}

static void a_line_without_a_code_is_garbage_wherever_it_stands(void **state)
{
    (void)state;
    expect_status("250-a\r\nb\r\n", SMTP_REPLY_GARBAGE);
    expect_status("250-a\r\n\r\n", SMTP_REPLY_GARBAGE);
}

static void an_unfinished_reply_waits_for_more(void **state)
{
    (void)state;
    expect_status("", SMTP_REPLY_MORE);
    expect_status("2", SMTP_REPLY_MORE);
    expect_status("250 ok\r", SMTP_REPLY_MORE);
    expect_status("250-a\r\n250-b\r\n", SMTP_REPLY_MORE);
}

/* A line of exactly `len` bytes with its CRLF. */
static struct result parse_line(size_t len)
{
    char line[SMTP_REPLY_LINE_MAX + 1];
    assert_true(len <= sizeof line);
    memset(line, 'x', len);
    memcpy(line, "250 ", 4);
    memcpy(line + len - 2, "\r\n", 2);
    return parse(slice_of(line, len));
}

static void a_line_may_be_long_but_not_too_long(void **state)
{
    (void)state;
    assert_int_equal(parse_line(SMTP_REPLY_LINE_MAX).status, SMTP_REPLY_COMPLETE);
    assert_int_equal(parse_line(SMTP_REPLY_LINE_MAX + 1).status, SMTP_REPLY_TOO_LONG);
}

static struct result parse_lines(size_t lines, size_t line_len)
{
    size_t len = lines * line_len;
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, 'x', len);
    for (size_t i = 0; i < lines; i++) {
        memcpy(text + i * line_len, i + 1 < lines ? "250-" : "250 ", 4);
        memcpy(text + (i + 1) * line_len - 2, "\r\n", 2);
    }
    struct result whole = parse_cut(slice_of(text, len), 0, SIZE_MAX);
    struct result single = parse_cut(slice_of(text, len), 0, 1);
    assert_int_equal(whole.status, single.status);
    free(text);
    return whole;
}

static void a_reply_has_a_bound_on_lines_and_on_bytes(void **state)
{
    (void)state;
    assert_int_equal(parse_lines(SMTP_REPLY_LINES_MAX, 6).status, SMTP_REPLY_COMPLETE);
    assert_int_equal(parse_lines(SMTP_REPLY_LINES_MAX + 1, 6).status, SMTP_REPLY_TOO_LONG);
    assert_int_equal(parse_lines(SMTP_REPLY_BYTES_MAX / 1024, 1024).status, SMTP_REPLY_COMPLETE);
    assert_int_equal(parse_lines(SMTP_REPLY_BYTES_MAX / 1024 + 1, 1024).status,
                     SMTP_REPLY_TOO_LONG);
}

static void an_endless_line_ends_early(void **state)
{
    (void)state;
    struct smtp_reply_parser p;
    smtp_reply_reset(&p);
    size_t used = 0, fed = 4;
    assert_int_equal(smtp_reply_feed(&p, SLICE_LIT("220 "), &used, NULL, NULL), SMTP_REPLY_MORE);
    while (smtp_reply_feed(&p, SLICE_LIT("x"), &used, NULL, NULL) == SMTP_REPLY_MORE)
        fed++;
    assert_int_equal(fed, SMTP_REPLY_LINE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_is_read),
        cmocka_unit_test(lines_are_joined_by_spaces),
        cmocka_unit_test(lines_may_end_in_a_bare_lf),
        cmocka_unit_test(each_line_is_heard_with_its_number),
        cmocka_unit_test(what_follows_a_reply_is_left),
        cmocka_unit_test(an_enhanced_status_is_taken_from_the_text),
        cmocka_unit_test(an_enhanced_status_of_another_class_is_ignored),
        cmocka_unit_test(what_only_looks_like_an_enhanced_status_is_text),
        cmocka_unit_test(nothing_of_the_last_reply_is_left),
        cmocka_unit_test(text_is_made_printable),
        cmocka_unit_test(long_text_is_cut),
        cmocka_unit_test(what_has_no_reply_code_is_garbage),
        cmocka_unit_test(of_codes_that_differ_the_last_one_holds),
        cmocka_unit_test(a_line_without_a_code_is_garbage_wherever_it_stands),
        cmocka_unit_test(an_unfinished_reply_waits_for_more),
        cmocka_unit_test(a_line_may_be_long_but_not_too_long),
        cmocka_unit_test(a_reply_has_a_bound_on_lines_and_on_bytes),
        cmocka_unit_test(an_endless_line_ends_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
