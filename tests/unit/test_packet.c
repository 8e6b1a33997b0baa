#include "dns/packet.h"

#include "tests/unit/packet_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static void mx_records_are_read(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "SampleOrg.com", PACKET_MX, 2, 0);
    put_mx(&w, "sampleorg.COM", 600, 100, "Server1.sampleorg.com");
    put_mx(&w, "sampleorg.com", 500, 300, "server2.sampleorg.com");
    struct packet p;
    struct packet_mx mx;
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
    assert_int_equal(p.ttl_s, 500);
    assert_true(packet_next_mx(&p, &mx));
    assert_string_equal(mx.host, "server1.sampleorg.com");
    assert_int_equal(mx.preference, 100);
    assert_int_equal(mx.ttl_s, 600);
    assert_true(packet_next_mx(&p, &mx));
    assert_string_equal(mx.host, "server2.sampleorg.com");
    assert_false(packet_next_mx(&p, &mx));
}

static void addresses_of_both_families_are_read(void **state)
{
    (void)state;
    struct writer w;
    struct packet p;
    struct address a;
    char text[ADDRESS_TEXT_SIZE];
    begin_answer(&w, WRITER_NOERROR, "host", PACKET_A, 1, 0);
    put_a(&w, "host", 60, 9);
    assert_int_equal(packet_open(&p, written(&w), PACKET_A), ANSWER_DATA);
    assert_true(packet_next_address(&p, &a));
    address_format_ip(&a, text);
    assert_string_equal(text, "192.0.2.9");
    assert_false(packet_next_address(&p, &a));
    begin_answer(&w, WRITER_NOERROR, "host", PACKET_AAAA, 1, 0);
    put_aaaa(&w, "host", 60, 9);
    assert_int_equal(packet_open(&p, written(&w), PACKET_AAAA), ANSWER_DATA);
    assert_true(packet_next_address(&p, &a));
    address_format_ip(&a, text);
    assert_string_equal(text, "2001:db8::9");
}

static void address_of_a_wrong_length_is_passed_over(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "host", PACKET_A, 2, 0);
    size_t at = begin_record(&w, "host", PACKET_A, 60);
    put16(&w, 1);
    end_record(&w, at);
    put_a(&w, "host", 60, 9);
    struct packet p;
    struct address a;
    assert_int_equal(packet_open(&p, written(&w), PACKET_A), ANSWER_DATA);
    assert_true(packet_next_address(&p, &a));
    assert_int_equal(a.ip[15], 9);
    assert_false(packet_next_address(&p, &a));
}

static void compressed_names_are_followed(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "sampleorg.com", PACKET_MX, 1, 0);
    put_pointer(&w, 12);
    put16(&w, PACKET_MX);
    put16(&w, 1);
    put32(&w, 60);
    put16(&w, 2 + 8 + 2);
    put16(&w, 10);
    put8(&w, 7);
    memcpy(w.bytes + w.len, "server1", 7);
    w.len += 7;
    put_pointer(&w, 12);
    struct packet p;
    struct packet_mx mx;
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
    assert_true(packet_next_mx(&p, &mx));
    assert_string_equal(mx.host, "server1.sampleorg.com");
}

static void pointers_that_do_not_lead_backwards_are_refused(void **state)
{
    (void)state;
    struct writer w;
    struct packet p;
    struct packet_mx mx;
    /* At the record's own name, and ahead of it. */
    for (size_t ahead = 0; ahead <= 4; ahead += 2) {
        begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 1, 0);
        put_pointer(&w, w.len + ahead);
        put16(&w, PACKET_MX);
        put16(&w, 1);
        put32(&w, 60);
        put16(&w, 0);
        assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_FAILED);
    }
    /* A loop: labels that end in a pointer to their own start. */
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 1, 0);
    size_t at = begin_record(&w, "a", PACKET_MX, 60);
    put16(&w, 10);
    size_t start = w.len;
    put8(&w, 1);
    put8(&w, 'x');
    put_pointer(&w, start);
    end_record(&w, at);
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
    assert_true(packet_next_mx(&p, &mx)); /* there is an MX, though nothing to connect to */
    assert_string_equal(mx.host, "");
    assert_false(mx.is_root);
}

static void names_over_255_octets_are_refused(void **state)
{
    (void)state;
    struct writer w;
    struct packet p;
    for (int labels = 126; labels <= 128; labels++) {
        char name[300] = "";
        for (int i = 0; i < labels; i++)
            memcpy(name + 2 * (size_t)i, "a.", 3);
        name[2 * (size_t)labels - 1] = '\0';
        begin_answer(&w, WRITER_NOERROR, name, PACKET_MX, 0, 0);
        assert_int_equal(packet_open(&p, written(&w), PACKET_MX),
                         labels <= 127 ? ANSWER_NODATA : ANSWER_FAILED);
    }
}

static void names_of_no_host_come_empty(void **state)
{
    (void)state;
    static const char *const hosts[] = {"192.0.2.1",        "a b", "-a", "[192",
                                        "b\xc3\xbc\x63her", "a\tb"};
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        struct writer w;
        begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 1, 0);
        put_mx(&w, "a", 60, 10, hosts[i]);
        struct packet p;
        struct packet_mx mx;
        assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
        assert_true(packet_next_mx(&p, &mx));
        assert_string_equal(mx.host, "");
        assert_false(mx.is_root);
    }
}

static void dot_inside_a_label_does_not_become_a_boundary(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 1, 0);
    size_t at = begin_record(&w, "a", PACKET_MX, 60);
    put16(&w, 10);
    put8(&w, 3);
    put8(&w, 'x');
    put8(&w, '.');
    put8(&w, 'y');
    put8(&w, 0);
    end_record(&w, at);
    struct packet p;
    struct packet_mx mx;
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
    assert_true(packet_next_mx(&p, &mx));
    assert_string_equal(mx.host, "");
}

static void root_exchange_is_told_from_others(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 1, 0);
    put_mx(&w, "a", 60, 0, "");
    struct packet p;
    struct packet_mx mx;
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
    assert_true(packet_next_mx(&p, &mx));
    assert_true(mx.is_root);
    assert_string_equal(mx.host, "");
}

static void cname_chain_is_followed_in_any_order(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_A, 5, 0);
    put_a(&w, "c", 90, 3);
    put_cname(&w, "b", 40, "c");
    put_a(&w, "stranger", 10, 66);
    put_cname(&w, "A", 50, "B");
    put_a(&w, "c", 80, 4);
    struct packet p;
    struct address a;
    assert_int_equal(packet_open(&p, written(&w), PACKET_A), ANSWER_DATA);
    assert_int_equal(p.ttl_s, 40); /* the smallest of what was used */
    assert_true(packet_next_address(&p, &a));
    assert_int_equal(a.ip[15], 3);
    assert_true(packet_next_address(&p, &a));
    assert_int_equal(a.ip[15], 4);
    assert_false(packet_next_address(&p, &a));
}

static void endless_cname_chains_fail(void **state)
{
    (void)state;
    struct writer w;
    struct packet p;
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_A, 2, 0);
    put_cname(&w, "a", 50, "b");
    put_cname(&w, "b", 50, "a");
    assert_int_equal(packet_open(&p, written(&w), PACKET_A), ANSWER_FAILED);
    begin_answer(&w, WRITER_NOERROR, "n0", PACKET_A, 31, 0);
    for (int i = 0; i < 30; i++) {
        char from[16], to[16];
        (void)snprintf(from, sizeof from, "n%d", i);
        (void)snprintf(to, sizeof to, "n%d", i + 1);
        put_cname(&w, from, 50, to);
    }
    put_a(&w, "n30", 50, 1);
    assert_int_equal(packet_open(&p, written(&w), PACKET_A), ANSWER_FAILED);
}

static void negative_answers_carry_the_ttl_of_their_soa(void **state)
{
    (void)state;
    struct writer w;
    struct packet p;
    begin_answer(&w, WRITER_NXDOMAIN, "a", PACKET_MX, 0, 1);
    put_soa(&w, "", 600, 120);
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_NXDOMAIN);
    assert_int_equal(p.ttl_s, 120);
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 0, 1);
    put_soa(&w, "", 60, 120);
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_NODATA);
    assert_int_equal(p.ttl_s, 60);
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 0, 0);
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_NODATA);
    assert_int_equal(p.ttl_s, PACKET_TTL_UNKNOWN);
}

static void ttl_with_its_top_bit_set_is_zero(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_MX, 1, 0);
    put_mx(&w, "a", 0x80000001u, 10, "b");
    struct packet p;
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_DATA);
    assert_int_equal(p.ttl_s, 0);
}

static void answers_to_something_else_fail(void **state)
{
    (void)state;
    struct writer w;
    struct packet p;
    begin_answer(&w, WRITER_SERVFAIL, "a", PACKET_MX, 0, 0);
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_FAILED);
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_A, 0, 0);
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_FAILED);
    begin_answer(&w, WRITER_NOERROR & 0x7fff, "a", PACKET_MX, 0, 0); /* a query */
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_FAILED);
    begin_answer(&w, WRITER_NOERROR | 0x0200, "a", PACKET_MX, 0, 0); /* truncated */
    assert_int_equal(packet_open(&p, written(&w), PACKET_MX), ANSWER_FAILED);
}

/* Wherever a packet is cut, it fails: no count in its header is believed. */
static void every_truncation_fails(void **state)
{
    (void)state;
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "sampleorg.com", PACKET_MX, 2, 0);
    put_mx(&w, "sampleorg.com", 600, 100, "server1.sampleorg.com");
    put_mx(&w, "sampleorg.com", 600, 300, "server2.sampleorg.com");
    for (size_t len = 0; len < w.len; len++) {
        uint8_t *copy = malloc(len > 0 ? len : 1);
        assert_non_null(copy);
        memcpy(copy, w.bytes, len);
        struct packet p;
        assert_int_equal(packet_open(&p, slice_of(copy, len), PACKET_MX), ANSWER_FAILED);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mx_records_are_read),
        cmocka_unit_test(addresses_of_both_families_are_read),
        cmocka_unit_test(address_of_a_wrong_length_is_passed_over),
        cmocka_unit_test(compressed_names_are_followed),
        cmocka_unit_test(pointers_that_do_not_lead_backwards_are_refused),
        cmocka_unit_test(names_over_255_octets_are_refused),
        cmocka_unit_test(names_of_no_host_come_empty),
        cmocka_unit_test(dot_inside_a_label_does_not_become_a_boundary),
        cmocka_unit_test(root_exchange_is_told_from_others),
        cmocka_unit_test(cname_chain_is_followed_in_any_order),
        cmocka_unit_test(endless_cname_chains_fail),
        cmocka_unit_test(negative_answers_carry_the_ttl_of_their_soa),
        cmocka_unit_test(ttl_with_its_top_bit_set_is_zero),
        cmocka_unit_test(answers_to_something_else_fail),
        cmocka_unit_test(every_truncation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
