/* What EHLO offers: keywords, SIZE (RFC 1870), LIMITS (RFC 9422). */
#include "smtp/capability.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static struct smtp_capabilities read_line(const char *line)
{
    struct smtp_capabilities c = {0};
    smtp_capability_read(&c, slice_str(line));
    return c;
}

static void keywords_become_bits(void **state)
{
    (void)state;
    assert_int_equal(read_line("PIPELINING").bits, SMTP_CAP_PIPELINING);
    assert_int_equal(read_line("SIZE 10").bits, SMTP_CAP_SIZE);
    assert_int_equal(read_line("8BITMIME").bits, SMTP_CAP_8BITMIME);
    assert_int_equal(read_line("SMTPUTF8").bits, SMTP_CAP_SMTPUTF8);
    assert_int_equal(read_line("DSN").bits, SMTP_CAP_DSN);
    assert_int_equal(read_line("STARTTLS").bits, SMTP_CAP_STARTTLS);
    assert_int_equal(read_line("CHUNKING").bits, SMTP_CAP_CHUNKING);
    assert_int_equal(read_line("ENHANCEDSTATUSCODES").bits, SMTP_CAP_ENHANCED);
}

static void case_and_space_do_not_matter(void **state)
{
    (void)state;
    assert_int_equal(read_line(" pipeLining \t").bits, SMTP_CAP_PIPELINING);
    assert_int_equal(read_line("size  10 ").size_max, 10);
}

static void lines_add_up(void **state)
{
    (void)state;
    struct smtp_capabilities c = {0};
    smtp_capability_read(&c, SLICE_LIT("DSN"));
    smtp_capability_read(&c, SLICE_LIT("SIZE 5"));
    smtp_capability_read(&c, SLICE_LIT("XCLIENT NAME"));
    assert_int_equal(c.bits, SMTP_CAP_DSN | SMTP_CAP_SIZE);
    assert_int_equal(c.size_max, 5);
}

static void what_is_no_keyword_of_ours_is_passed_over(void **state)
{
    (void)state;
    static const char *const lines[] = {"",       " ",     "HELP",  "PIPELININGX",      "PIPELINE",
                                        "DSN-",   "X DSN", "SIZE5", "AUTH=LOGIN PLAIN", "=",
                                        "STARTTL"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct smtp_capabilities c = read_line(lines[i]);
        assert_int_equal(c.bits, 0);
        assert_int_equal(c.size_max, 0);
    }
}

static void a_size_that_is_no_number_is_no_limit(void **state)
{
    (void)state;
    static const char *const lines[] = {"SIZE",    "SIZE 0",  "SIZE x",
                                        "SIZE -1", "SIZE 1M", "SIZE 99999999999999999999"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct smtp_capabilities c = read_line(lines[i]);
        assert_int_equal(c.bits, SMTP_CAP_SIZE);
        assert_int_equal(c.size_max, 0);
    }
    assert_int_equal(read_line("SIZE 9999999999999999999").size_max, 9999999999999999999u);
}

static void limits_are_read(void **state)
{
    (void)state;
    struct smtp_capabilities c = read_line("LIMITS RCPTMAX=100 MAILMAX=10 RCPTDOMAINMAX=1");
    assert_int_equal(c.mail_max, 10);
    assert_int_equal(c.rcpt_max, 100);
    c = read_line("limits mailmax=7");
    assert_int_equal(c.mail_max, 7);
    assert_int_equal(c.rcpt_max, 0);
    assert_int_equal(read_line("LIMITS MAILMAX=99999999999").mail_max, UINT32_MAX);
}

static void bad_limits_are_no_limits(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "LIMITS",           "LIMITS MAILMAX", "LIMITS MAILMAX=", "LIMITS MAILMAX=0",
        "LIMITS MAILMAX=x", "LIMITS =5",      "MAILMAX=5"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct smtp_capabilities c = read_line(lines[i]);
        assert_int_equal(c.mail_max, 0);
        assert_int_equal(c.rcpt_max, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keywords_become_bits),
        cmocka_unit_test(case_and_space_do_not_matter),
        cmocka_unit_test(lines_add_up),
        cmocka_unit_test(what_is_no_keyword_of_ours_is_passed_over),
        cmocka_unit_test(a_size_that_is_no_number_is_no_limit),
        cmocka_unit_test(limits_are_read),
        cmocka_unit_test(bad_limits_are_no_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
