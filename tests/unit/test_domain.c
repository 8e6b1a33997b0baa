#include "core/domain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#define LABEL_63 "a23456789012345678901234567890123456789012345678901234567890123"

struct example {
    const char *from;
    const char *to; /* NULL: invalid */
};

/* Each from an exact-size heap copy, so that a sanitizer sees a read beyond it. */
static bool normalize(struct slice text, char out[DOMAIN_SIZE])
{
    char *copy = malloc(text.len > 0 ? text.len : 1);
    assert_non_null(copy);
    memcpy(copy, text.ptr, text.len);
    bool valid = domain_normalize(slice_of(copy, text.len), out);
    free(copy);
    return valid;
}

static void expect(const struct example *examples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char out[DOMAIN_SIZE];
        bool valid = normalize(slice_str(examples[i].from), out);
        if (valid != (examples[i].to != NULL))
            fail_msg("\"%s\" is taken for %s", examples[i].from, valid ? out : "invalid");
        if (!valid)
            continue;
        assert_string_equal(out, examples[i].to);
        char again[DOMAIN_SIZE];
        assert_true(normalize(slice_str(out), again));
        assert_string_equal(again, out);
    }
}

#define EXPECT(table) expect((table), sizeof(table) / sizeof(table)[0])

static void ascii_names_become_lower_case_without_final_dot(void **state)
{
    (void)state;
    static const struct example examples[] = {
        {"SampleOrg.com", "sampleorg.com"},
        {"sampleorg.com.", "sampleorg.com"},
        {"a", "a"},
        {"1.2.3.4a", "1.2.3.4a"},
        {"3com.example", "3com.example"},
        {"under_score.example", "under_score.example"},
        {"a-b.c--d.example", "a-b.c--d.example"},
        {"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
        {LABEL_63 ".example", LABEL_63 ".example"},
    };
    EXPECT(examples);
}

static void what_is_no_host_name_is_refused(void **state)
{
    (void)state;
    static const struct example examples[] = {
        {"", NULL},
        {".", NULL},
        {"a..b", NULL},
        {".a", NULL},
        {"a..", NULL},
        {"-a.example", NULL},
        {"a-.example", NULL},
        {"a b.example", NULL},
        {"a@b.example", NULL},
        {"a/b", NULL},
        {"a\tb", NULL},
        {"a\r\nb", NULL},
        {"a\x7f", NULL},
        {"192.0.2.1", NULL}, /* an address wants its brackets */
        {"123", NULL},
        {LABEL_63 "4.example", NULL},
    };
    EXPECT(examples);
    char out[DOMAIN_SIZE];
    assert_false(normalize(SLICE_LIT("a\0b.example"), out));
    assert_false(normalize(SLICE_LIT("\xc3\xbc\0b.example"), out));
}

static void names_end_at_253_characters(void **state)
{
    (void)state;
    char text[300], out[DOMAIN_SIZE];
    for (size_t len = 240; len <= 260; len++) {
        for (size_t i = 0; i < len; i++)
            text[i] = i % 50 == 49 && i + 1 < len ? '.' : 'a';
        assert_int_equal(normalize(slice_of(text, len), out), len <= 253);
    }
}

static void international_names_become_a_labels(void **state)
{
    (void)state;
    static const struct example examples[] = {
        {"b\xc3\xbc\x63her.example", "xn--bcher-kva.example"},
        {"B\xc3\x9c\x43HER.Example.", "xn--bcher-kva.example"},
        {"bu\xcc\x88\x63her.example", "xn--bcher-kva.example"}, /* u and a combining diaeresis */
        {"stra\xc3\x9f\x65.example", "xn--strae-oqa.example"}, /* non-transitional: not "strasse" */
        {"\xe4\xbe\x8b\xe3\x81\x88.\xe3\x83\x86\xe3\x82\xb9\xe3\x83\x88", "xn--r8jz45g.xn--zckzah"},
        {"\xe4\xbe\x8b\xe3\x80\x82\x65xample", "xn--fsq.example"}, /* ideographic full stop */
        {"\xd0\xbf\xd1\x80\xd0\xb8\xd0\xbc\xd0\xb5\xd1\x80.example", "xn--e1afmkfd.example"},
        {"\xef\xbd\x81\xef\xbd\x82.example", "ab.example"}, /* full-width letters */
    };
    EXPECT(examples);
}

static void broken_international_names_are_refused(void **state)
{
    (void)state;
    static const struct example examples[] = {
        {"a\xff.example", NULL},
        {"\xc3", NULL},
        {"\xed\xa0\x80.example", NULL},       /* a surrogate */
        {"\xc0\xae.example", NULL},           /* an overlong dot */
        {"a\xef\xbc\xa0\x62.example", NULL},  /* full-width @ */
        {"a\xef\xbc\x8f\x62.example", NULL},  /* full-width / */
        {"\xef\xbc\x91\x39\x32.0.2.1", NULL}, /* an address with a full-width 1 */
        {"-\xc3\xbc.example", NULL},
        {"\xcc\x88\x61.example", NULL},              /* begins with a combining mark */
        {"a\xe2\x80\x8b\xe2\x80\xae.example", NULL}, /* a direction override */
        {"\xf0\x9f\x92\xa9\xf0\x9f\x92\xa9", NULL},
    };
    EXPECT(examples);
}

static void endless_international_names_are_refused(void **state)
{
    (void)state;
    enum { LEN = 100000 };
    char *text = malloc(LEN);
    assert_non_null(text);
    for (size_t i = 0; i < LEN; i += 2)
        memcpy(text + i, "\xc3\xbc", 2);
    char out[DOMAIN_SIZE];
    assert_false(domain_normalize(slice_of(text, LEN), out));
    free(text);
}

static void literals_have_one_spelling(void **state)
{
    (void)state;
    static const struct example examples[] = {
        {"[192.0.2.1]", "[192.0.2.1]"},
        {"[IPv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"},
        {"[ipv6:::1]", "[IPv6:::1]"},
        {"[IPv6:::ffff:192.0.2.1]", "[192.0.2.1]"},
        {"[]", NULL},
        {"[", NULL},
        {"[192.0.2.1", NULL},
        {"[192.0.2.256]", NULL},
        {"[192.0.2.01.]", NULL},
        {"[2001:db8::1]", NULL},
        {"[IPv6:192.0.2.1]", NULL},
        {"[IPv6:fe80::1%eth0]", NULL},
        {"[sampleorg.com]", NULL},
    };
    EXPECT(examples);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ascii_names_become_lower_case_without_final_dot),
        cmocka_unit_test(what_is_no_host_name_is_refused),
        cmocka_unit_test(names_end_at_253_characters),
        cmocka_unit_test(international_names_become_a_labels),
        cmocka_unit_test(broken_international_names_are_refused),
        cmocka_unit_test(endless_international_names_are_refused),
        cmocka_unit_test(literals_have_one_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
