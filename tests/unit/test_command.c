/* Command lines, the paths in them, and xtext (smtp/command.h, address.h, xtext.h): each line in a
 * buffer of its exact size, with what must come of it. */
#include "smtp/command.h"
#include "smtp/xtext.h"

#include "core/base/buf.h"
#include "core/spool/envelope.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#define A10  "aaaaaaaaaa"
#define A50  A10 A10 A10 A10 A10
#define D50  "ddddddddddddddddddddddddddddddddddddddddddddddddd."
#define D250 D50 D50 D50 D50 D50

struct line {
    const char *text;
    unsigned code; /* of the refusal; 0 = it is good */
    enum smtp_verb verb;
    const char *mailbox;
};

static struct smtp_refusal parse(const char *text, bool utf8, struct smtp_command *out, char **copy)
{
    size_t len = strlen(text);
    *copy = malloc(len > 0 ? len : 1);
    assert_non_null(*copy);
    memcpy(*copy, text, len);
    return smtp_command_parse(slice_of(*copy, len), utf8, out);
}

static void check(const struct line *l, bool utf8)
{
    struct smtp_command c;
    char *copy;
    struct smtp_refusal r = parse(l->text, utf8, &c, &copy);
    if (r.code != l->code)
        fail_msg("`%s`: %u, wanted %u", l->text, r.code, l->code);
    if (r.code == 0) {
        assert_int_equal(c.verb, l->verb);
        if (l->mailbox != NULL && !slice_equal(c.address.mailbox, slice_str(l->mailbox)))
            fail_msg("`%s`: mailbox `%.*s`", l->text, (int)c.address.mailbox.len,
                     c.address.mailbox.ptr);
    } else {
        assert_int_equal(r.code / 100, 5);
        assert_int_equal(r.enhanced[0], '5'); /* RFC 2034 */
    }
    free(copy);
}

static void lines_are_what_the_grammar_says(void **state)
{
    (void)state;
    static const struct line lines[] = {
        {"EHLO c", 0, VERB_EHLO, NULL},
        {"ehlo c", 0, VERB_EHLO, NULL},
        {"QUIT", 0, VERB_QUIT, NULL},
        {"quit ", 0, VERB_QUIT, NULL},
        {"QUITE", 500, VERB_UNKNOWN, NULL},
        {"", 500, VERB_UNKNOWN, NULL},
        {" NOOP", 500, VERB_UNKNOWN, NULL},
        {"MAIL FROM:<a@b.c>", 0, VERB_MAIL, "a@b.c"},
        {"mail from:<a@b.c>", 0, VERB_MAIL, "a@b.c"},
        {"MAIL FROM:<>", 0, VERB_MAIL, ""},
        {"MAIL FROM:<@x.y,@z.w:a@b.c>", 0, VERB_MAIL, "a@b.c"},
        {"MAIL FROM:<\"a b\"@c.d>", 0, VERB_MAIL, "\"a b\"@c.d"},
        {"MAIL FROM:<\"a\\\"b\"@c.d>", 0, VERB_MAIL, "\"a\\\"b\"@c.d"},
        {"MAIL FROM:<a@[192.0.2.1]>", 0, VERB_MAIL, "a@[192.0.2.1]"},
        {"MAIL FROM:<a@[IPv6:2001:db8::1]>", 0, VERB_MAIL, "a@[IPv6:2001:db8::1]"},
        {"MAIL FROM:<a@" D250 "ddd>", 501, 0, NULL},
        {"MAIL FROM:<a@b.c", 501, 0, NULL},
        {"MAIL FROM:a@b.c>", 501, 0, NULL},
        {"MAIL FROM:<a@b.c>x", 501, 0, NULL},
        {"MAIL FROM:<a b@c.d>", 501, 0, NULL},
        {"MAIL FROM:<\"a@b.c>", 501, 0, NULL},
        {"MAIL FROM:<a@>", 501, 0, NULL},
        {"MAIL FROM:<@b.c>", 501, 0, NULL},
        {"MAIL FROM:<a@b@c>", 501, 0, NULL},
        {"MAIL <a@b.c>", 501, 0, NULL},
        {"MAIL", 501, 0, NULL},
        {"RCPT TO:<d@e.f>", 0, VERB_RCPT, "d@e.f"},
        {"RCPT TO:<Postmaster>", 0, VERB_RCPT, "Postmaster"},
        {"RCPT TO:<>", 501, 0, NULL},
        {"RCPT FROM:<d@e.f>", 501, 0, NULL},
        {"RCPT TO:<d\001@e.f>", 501, 0, NULL},
        {"BDAT 0 LAST", 0, VERB_BDAT, NULL},
        {"BDAT 999999999999999999", 0, VERB_BDAT, NULL},
        {"BDAT 18446744073709551616", 501, 0, NULL},
        {"BDAT", 501, 0, NULL},
        {"BDAT -1", 501, 0, NULL},
        {"BDAT 1 LASTS", 501, 0, NULL},
        {"EHLO", 501, 0, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check(&lines[i], false);
}

/* VERP and SRS make local parts of more than 64 bytes; the path has its bound, with
 * its brackets. */
static void a_local_part_may_fill_the_path(void **state)
{
    (void)state;
#define A250 A50 A50 A50 A50 A50
    static const struct line lines[] = {
        {"MAIL FROM:<" A50 A10 "aaaaa@b.c>", 0, VERB_MAIL, A50 A10 "aaaaa@b.c"},
        {"MAIL FROM:<" A250 "@b.c>", 0, VERB_MAIL, A250 "@b.c"},
        {"MAIL FROM:<" A250 "a@b.c>", 501, 0, NULL},
        {"RCPT TO:<" A250 "aaaaa>", 501, 0, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check(&lines[i], false);
#undef A250
}

/* Subscribers of Japanese carriers have such addresses. */
static void dots_may_stand_anywhere_in_a_local_part(void **state)
{
    (void)state;
    static const struct line lines[] = {
        {"RCPT TO:<a.@b.c>", 0, VERB_RCPT, "a.@b.c"},
        {"RCPT TO:<.a@b.c>", 0, VERB_RCPT, ".a@b.c"},
        {"RCPT TO:<a..b@c.d>", 0, VERB_RCPT, "a..b@c.d"},
        {"RCPT TO:<@b.c>", 501, 0, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check(&lines[i], false);
}

/* "example.org." is the same name to DNS, and a syntax error to most exchanges. */
static void a_domains_final_dot_is_dropped(void **state)
{
    (void)state;
    static const struct line lines[] = {
        {"RCPT TO:<a@b.c.>", 0, VERB_RCPT, "a@b.c"},
        {"RCPT TO:<a@b.c.> NOTIFY=NEVER", 0, VERB_RCPT, "a@b.c"},
        {"RCPT TO:<a@b.c..>", 501, 0, NULL},
        {"RCPT TO:<a@.>", 501, 0, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check(&lines[i], false);
}

static void parameters_are_read_once_and_known(void **state)
{
    (void)state;
    static const struct line lines[] = {
        {"MAIL FROM:<a@b.c> SIZE=10 BODY=8BITMIME RET=FULL ENVID=x SMTPUTF8", 0, VERB_MAIL,
         "a@b.c"},
        {"MAIL FROM:<a@b.c> size=10 body=7bit", 0, VERB_MAIL, "a@b.c"},
        {"MAIL FROM:<a@b.c> SIZE=", 501, 0, NULL},
        {"MAIL FROM:<a@b.c> SIZE=1x", 501, 0, NULL},
        {"MAIL FROM:<a@b.c> SIZE=1 SIZE=2", 501, 0, NULL},
        {"MAIL FROM:<a@b.c> BODY=BINARYMIME", 501, 0, NULL},
        {"MAIL FROM:<a@b.c> ENVID=a+2", 501, 0, NULL},
        {"MAIL FROM:<a@b.c> AUTH=<>", 555, 0, NULL},
        {"MAIL FROM:<a@b.c> NOTIFY=NEVER", 555, 0, NULL},
        {"RCPT TO:<d@e.f> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;d@e.f", 0, VERB_RCPT, "d@e.f"},
        {"RCPT TO:<d@e.f> NOTIFY=NEVER", 0, VERB_RCPT, "d@e.f"},
        {"RCPT TO:<d@e.f> NOTIFY=NEVER,FAILURE", 501, 0, NULL},
        {"RCPT TO:<d@e.f> NOTIFY=", 501, 0, NULL},
        {"RCPT TO:<d@e.f> NOTIFY=SOMETIMES", 501, 0, NULL},
        {"RCPT TO:<d@e.f> ORCPT=d@e.f", 501, 0, NULL},
        {"RCPT TO:<d@e.f> ORCPT=rfc822;d@e+f", 501, 0, NULL},
        {"RCPT TO:<d@e.f> SIZE=1", 555, 0, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check(&lines[i], false);
    struct smtp_command c;
    char *copy;
    assert_int_equal(
        parse("MAIL FROM:<a@b.c> SIZE=10 RET=HDRS ENVID=q+2Br BODY=8BITMIME", false, &c, &copy)
            .code,
        0);
    assert_int_equal(c.size, 10);
    assert_int_equal(c.ret, RET_HDRS);
    assert_true(c.body_8bit && !c.smtputf8);
    assert_true(slice_equal(c.envid, SLICE_LIT("q+2Br")));
    free(copy);
    assert_int_equal(parse("RCPT TO:<d@e.f> NOTIFY=SUCCESS,DELAY", false, &c, &copy).code, 0);
    assert_int_equal(c.notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
    free(copy);
}

/* RFC 6531: only where asked for, and only as well-formed UTF-8. */
static void utf8_is_for_those_who_asked(void **state)
{
    (void)state;
    static const struct line with[] = {
        {"RCPT TO:<\303\244@b.c>", 0, VERB_RCPT, "\303\244@b.c"},
        {"RCPT TO:<a@\303\244.c>", 0, VERB_RCPT, "a@\303\244.c"},
        {"RCPT TO:<\303@b.c>", 553, 0, NULL},
        {"RCPT TO:<\300\257@b.c>", 553, 0, NULL},
        {"RCPT TO:<\355\240\200@b.c>", 553, 0, NULL},
    };
    for (size_t i = 0; i < sizeof with / sizeof *with; i++)
        check(&with[i], true);
    const struct line without = {"RCPT TO:<\303\244@b.c>", 553, 0, NULL};
    check(&without, false);
}

/* RFC 6533 3: who offers SMTPUTF8 gets it as it is, and passes it on to who may not offer it. */
static void an_original_recipient_in_utf8_is_kept_in_its_7bit_form(void **state)
{
    (void)state;
    static const struct {
        const char *text, *kept; /* NULL: refused */
    } rows[] = {
        {"utf-8;a\303\244@b.c", "utf-8;a\\x{E4}@b.c"},
        {"UTF-8;\344\275\240+2B\360\237\230\200@b.c", "UTF-8;\\x{4F60}+2B\\x{1F600}@b.c"},
        {"utf-8;a\\x{E4}@b.c", "utf-8;a\\x{E4}@b.c"},
        {"rfc822;a\303\244@b.c", NULL},
        {"utf-8\303\244;a@b.c", NULL},
        {"utf-8;a\303@b.c", NULL},
        {"utf-8;\303\244=", NULL},
        {"utf-8;\303\244+2", NULL},
    };
    struct buf longest;
    struct smtp_command c;
    char *copy, text[512];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char line[128];
        (void)snprintf(line, sizeof line, "RCPT TO:<d@e.f> ORCPT=%s", rows[i].text);
        struct smtp_refusal r = parse(line, false, &c, &copy);
        assert_int_equal(r.code, rows[i].kept != NULL ? 0 : 501);
        if (rows[i].kept != NULL && !slice_equal(c.orcpt, slice_str(rows[i].kept)))
            fail_msg("`%s`: `%.*s`", rows[i].text, SLICE_ARG(c.orcpt));
        free(copy);
    }
    buf_init(&longest, sizeof text);
    buf_append_str(&longest, "RCPT TO:<d@e.f> ORCPT=utf-8;");
    for (int i = 0; i < 83; i++) {
        if (i == 82) { /* six bytes each, of at most 500 (RFC 3461 4.2) */
            assert_true(slice_to_cstr(buf_slice(&longest), text, sizeof text));
            assert_int_equal(parse(text, false, &c, &copy).code, 0);
            assert_int_equal(c.orcpt.len, 6 + 82 * 6);
            free(copy);
        }
        buf_append_str(&longest, "\303\244");
    }
    assert_true(slice_to_cstr(buf_slice(&longest), text, sizeof text));
    assert_int_equal(parse(text, false, &c, &copy).code, 501);
    free(copy);
    buf_fini(&longest);
}

static void xtext_is_checked_and_decoded(void **state)
{
    (void)state;
    static const struct {
        const char *text, *decoded; /* NULL: not valid */
    } rows[] = {
        {"", ""},         {"abc", "abc"},   {"a+2Bb", "a+b"},    {"a+3Db+2B", "a=b+"},
        {"+0A+0D", "??"}, {"a+2b", NULL},   {"a+2", NULL},       {"a+", NULL},
        {"a=b", NULL},    {"a b", NULL},    {"a\303\244", NULL}, {"+GG", NULL},
        {"+C3+A4", "??"}, {"+7F+20", "? "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(xtext_is_valid(slice_str(rows[i].text)), rows[i].decoded != NULL);
        if (rows[i].decoded == NULL)
            continue;
        struct buf out;
        buf_init(&out, 64);
        buf_append_str(&out, "");
        xtext_decode(slice_str(rows[i].text), &out);
        if (buf_len(&out) != strlen(rows[i].decoded) ||
            (buf_len(&out) > 0 && memcmp(buf_slice(&out).ptr, rows[i].decoded, buf_len(&out)) != 0))
            fail_msg("`%s` decoded", rows[i].text);
        buf_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_what_the_grammar_says),
        cmocka_unit_test(a_local_part_may_fill_the_path),
        cmocka_unit_test(dots_may_stand_anywhere_in_a_local_part),
        cmocka_unit_test(a_domains_final_dot_is_dropped),
        cmocka_unit_test(parameters_are_read_once_and_known),
        cmocka_unit_test(utf8_is_for_those_who_asked),
        cmocka_unit_test(an_original_recipient_in_utf8_is_kept_in_its_7bit_form),
        cmocka_unit_test(xtext_is_checked_and_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
