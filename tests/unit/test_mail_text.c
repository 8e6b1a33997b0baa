/* A message from a file: whom its header names, and what becomes of its lines. */
#include "workers/cli/mail_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { OUT_MAX = 1 << 20 };

/* ---- addresses ---- */

/* The addresses with a space behind each. */
static void join(const struct mail_addresses *a, char out[1024])
{
    out[0] = '\0';
    for (size_t i = 0; i < a->count; i++) {
        size_t len = strlen(out);
        (void)snprintf(out + len, 1024 - len, "%s ", a->items[i]);
    }
}

static void every_address_of_a_field_is_found_and_nothing_else(void **state)
{
    (void)state;
    static const struct {
        const char *value, *expected;
    } table[] = {
        {"a@x.example", "a@x.example "},
        {" a@x.example, b@y.example\r\n", "a@x.example b@y.example "},
        {"<a@x.example>", "a@x.example "},
        {"Ann <a@x.example>, Bob <b@y.example>", "a@x.example b@y.example "},
        {"\"Smith, Ann\" <a@x.example>", "a@x.example "},
        {"\"Ann <the first>\" <a@x.example>", "a@x.example "},
        {"\"Ann \\\" Smith\" <a@x.example>", "a@x.example "},
        {"Ann\r\n <a@x.example>,\r\n\tb@y.example\r\n", "a@x.example b@y.example "},
        {"a@x.example (Ann, who <is> at x)", "a@x.example "},
        {"(nested (comment), here) a@x.example", "a@x.example "},
        {"(a \\) b) a@x.example", "a@x.example "},
        {"a(comment)@x.example", "a@x.example "},
        {"Team: a@x.example, Bob <b@y.example>;, c@z.example",
         "a@x.example b@y.example c@z.example "},
        {"undisclosed-recipients:;", ""},
        {"a@[192.0.2.1]", "a@[192.0.2.1] "},
        {"a@[IPv6:2001:db8::1], <b@[IPv6:2001:db8::2]>",
         "a@[IPv6:2001:db8::1] b@[IPv6:2001:db8::2] "},
        {"\"odd, one\"@x.example", "\"odd, one\"@x.example "},
        {"<\"a<b>\"@x.example>", "\"a<b>\"@x.example "},
        {"<@relay.example:a@x.example>", "a@x.example "},
        {"<@r1.example,@r2.example:a@x.example>, b@y.example", "a@x.example b@y.example "},
        {"<a@x.example> trailing words, b@y.example", "a@x.example b@y.example "},
        {",, ,a@x.example,;", "a@x.example "},
        {"not an address, nor@, @this, a@x.example", "a@x.example "},
        {"\"never closed <a@x.example>", ""},
        {"(never closed <a@x.example>", ""},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct mail_addresses a = {NULL, 0};
        char got[1024];
        mail_addresses_add_field(&a, slice_str(table[i].value));
        join(&a, got);
        mail_addresses_free(&a);
        if (strcmp(got, table[i].expected) != 0)
            fail_msg("%s: expected \"%s\", got \"%s\"", table[i].value, table[i].expected, got);
    }
}

/* What does not fit is no address, and above all not a shorter one. */
static void an_overlong_mailbox_never_becomes_another_address(void **state)
{
    (void)state;
    static const char *const forms[] = {"%*sa@x.example.org", "\"%*s\" <a@x.example.org>"};
    for (int width = 4060; width < 4110; width++)
        for (int form = 0; form < 2; form++) {
            struct mail_addresses a = {NULL, 0};
            char value[5000], got[1024];
            (void)snprintf(value, sizeof value, forms[form], width, "");
            mail_addresses_add_field(&a, slice_str(value));
            join(&a, got);
            mail_addresses_free(&a);
            bool all = strcmp(got, "a@x.example.org ") == 0;
            assert_true(all || (form == 0 && got[0] == '\0'));
        }
}

static void single_addresses_are_taken_with_or_without_brackets(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } table[] = {{"a@x.example", "a@x.example "},
                 {" <a@x.example> ", "a@x.example "},
                 {"a b", ""},
                 {"<>", ""},
                 {"", ""},
                 {"a@x.example, b@y.example", ""},
                 {"a@x.example\r\nRCPT TO:<b@y.example>", ""}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct mail_addresses a = {NULL, 0};
        char got[1024];
        bool added = mail_addresses_add(&a, slice_str(table[i].text));
        join(&a, got);
        mail_addresses_free(&a);
        assert_string_equal(got, table[i].expected);
        assert_int_equal(added, table[i].expected[0] != '\0');
    }
}

/* ---- the text ---- */

static void lines_header_and_recipients_come_out_as_smtp_wants_them(void **state)
{
    (void)state;
    static const struct {
        const char *raw, *out, *recipients;
    } table[] = {
        {"From: f@x.example\nSubject: s\n\nbody\n",
         "From: f@x.example\r\nSubject: s\r\n\r\nbody\r\n", ""},
        {"From: f@x.example\r\n\r\nbody\r\n", "From: f@x.example\r\n\r\nbody\r\n", ""},
        {"Subject: s\n\nbody", "Subject: s\r\nFrom: \"Ann\" <me@x.example>\r\n\r\nbody\r\n", ""},
        {"just words\nand more\n", "From: \"Ann\" <me@x.example>\r\n\r\njust words\r\nand more\r\n",
         ""},
        {"\nbody\n", "From: \"Ann\" <me@x.example>\r\n\r\nbody\r\n", ""},
        {"", "From: \"Ann\" <me@x.example>\r\n\r\n", ""},
        {"FROM: f@x.example\n\n\n\nbody\n", "FROM: f@x.example\r\n\r\n\r\n\r\nbody\r\n", ""},
        {"From: f@x.example\n\n.\n..\n", "From: f@x.example\r\n\r\n.\r\n..\r\n", ""},
        /* no blank line: the body begins with the first line that is no field */
        {"From: f@x.example\nbody: not\nreally a field\n",
         "From: f@x.example\r\nbody: not\r\n\r\nreally a field\r\n", ""},
        /* recipients, and Bcc out, folded or not, in any case */
        {"From: f@x.example\nTo: a@x.example,\n b@x.example\nbCC: c@x.example,\n\td@x.example\n"
         "Cc: e@x.example\n\nTo: nobody@x.example\n",
         "From: f@x.example\r\nTo: a@x.example,\r\n b@x.example\r\nCc: e@x.example\r\n\r\n"
         "To: nobody@x.example\r\n",
         "a@x.example b@x.example c@x.example d@x.example e@x.example "},
        {"Bcc: a@x.example", "From: \"Ann\" <me@x.example>\r\n\r\n", "a@x.example "},
        {"Reply-To: a@x.example\nX-To: b@x.example\nFrom: f@x.example\n\n",
         "Reply-To: a@x.example\r\nX-To: b@x.example\r\nFrom: f@x.example\r\n\r\n", ""},
        /* a bare CR is kept where it is: the relay says what is wrong with it */
        {"From: f@x.example\n\rbody\n", "From: f@x.example\r\n\r\n\rbody\r\n", ""},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct mail_addresses a = {NULL, 0};
        struct buf out;
        char got[1024];
        buf_init(&out, OUT_MAX);
        mail_text_prepare(slice_str(table[i].raw), &a, "me@x.example", "Ann", &out);
        join(&a, got);
        mail_addresses_free(&a);
        if (!slice_equal(buf_slice(&out), slice_str(table[i].out)))
            fail_msg("%s: got %.*s", table[i].raw, SLICE_ARG(buf_slice(&out)));
        assert_string_equal(got, table[i].recipients);
        buf_fini(&out);
    }
}

static void a_name_that_could_break_the_header_is_left_out(void **state)
{
    (void)state;
    static const char *const names[] = {NULL, "An\"n", "Ann\r\nBcc: b@x.example", "Ann\\"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct buf out;
        buf_init(&out, OUT_MAX);
        mail_text_prepare(SLICE_LIT("x"), NULL, "me@x.example", names[i], &out);
        assert_true(slice_equal(buf_slice(&out), SLICE_LIT("From: <me@x.example>\r\n\r\nx\r\n")));
        buf_fini(&out);
    }
}

static void reading_ends_with_the_file_or_with_a_single_dot(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        bool dots_end;
        const char *out;
    } table[] = {
        {"a\nb\n", true, "a\nb\n"},        {"a\n.\nb\n", true, "a\n"},
        {"a\n.\r\nb\n", true, "a\n"},      {"a\n.", true, "a\n"},
        {"a\n.b\n", true, "a\n.b\n"},      {"a\n..\nb\n", true, "a\n..\nb\n"},
        {"a\n.\nb\n", false, "a\n.\nb\n"}, {"no end", false, "no end"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char copy[64];
        size_t len = strlen(table[i].in);
        memcpy(copy, table[i].in, len);
        FILE *in = fmemopen(copy, len, "r");
        assert_non_null(in);
        struct buf out;
        buf_init(&out, OUT_MAX);
        assert_true(mail_text_read(in, table[i].dots_end, &out));
        assert_true(slice_equal(buf_slice(&out), slice_str(table[i].out)));
        buf_fini(&out);
        (void)fclose(in);
    }
}

static void a_text_past_the_bound_is_refused(void **state)
{
    (void)state;
    char text[] = "0123456789\n";
    FILE *in = fmemopen(text, strlen(text), "r");
    struct buf out;
    assert_non_null(in);
    buf_init(&out, 5);
    assert_false(mail_text_read(in, false, &out));
    buf_fini(&out);
    (void)fclose(in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_address_of_a_field_is_found_and_nothing_else),
        cmocka_unit_test(an_overlong_mailbox_never_becomes_another_address),
        cmocka_unit_test(single_addresses_are_taken_with_or_without_brackets),
        cmocka_unit_test(lines_header_and_recipients_come_out_as_smtp_wants_them),
        cmocka_unit_test(a_name_that_could_break_the_header_is_left_out),
        cmocka_unit_test(reading_ends_with_the_file_or_with_a_single_dot),
        cmocka_unit_test(a_text_past_the_bound_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
