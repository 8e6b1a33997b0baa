/* From DNS answers to a route, and from a route to the order of an attempt. */
#include "dns/draft.h"

#include "tests/unit/packet_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { NOW_MS = 1000000, SEED = 20261123 };

static const struct draft_rules rules = {.delivery_port = 25, .use_ipv4 = true, .use_ipv6 = true};

/* ---- making ---- */

static const struct route *finish(struct draft *d)
{
    const struct route *r = draft_finish(d, &rules, NOW_MS, 0);
    assert_non_null(r);
    draft_fini(d);
    return r;
}

static void begin(struct draft *d)
{
    draft_init(d, SLICE_LIT("sampleorg.com"));
}

static void take_mx(struct draft *d, const struct writer *w)
{
    struct packet p;
    enum dns_answer answer = packet_open(&p, written(w), PACKET_MX);
    draft_take_mx(d, answer, &p, true, SLICE_LIT(""));
}

static void take_addresses(struct draft *d, unsigned exchange, enum packet_type type,
                           const struct writer *w)
{
    struct packet p;
    enum dns_answer answer = packet_open(&p, written(w), type);
    draft_take_addresses(d, exchange, type, answer, &p, true);
}

/* `v4` and `v6` addresses numbered from `base`. */
static void give_addresses(struct draft *d, unsigned exchange, unsigned base, unsigned v4,
                           unsigned v6)
{
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "h", PACKET_A, v4, 0);
    for (unsigned i = 0; i < v4; i++)
        put_a(&w, "h", 600, base + i);
    take_addresses(d, exchange, PACKET_A, &w);
    begin_answer(&w, WRITER_NOERROR, "h", PACKET_AAAA, v6, 0);
    for (unsigned i = 0; i < v6; i++)
        put_aaaa(&w, "h", 600, base + i);
    take_addresses(d, exchange, PACKET_AAAA, &w);
}

struct mx_record {
    unsigned preference;
    const char *host;
};

static void give_mx(struct draft *d, const struct mx_record *records, unsigned count)
{
    struct writer w;
    begin_answer(&w, WRITER_NOERROR, "sampleorg.com", PACKET_MX, count, 0);
    for (unsigned i = 0; i < count; i++)
        put_mx(&w, "sampleorg.com", 600, records[i].preference, records[i].host);
    take_mx(d, &w);
}

/* Exchanges "a", "b", ... with the given preferences and one IPv4 address each, numbered from 1. */
static const struct route *simple_route(const unsigned *preferences, unsigned count)
{
    struct draft d;
    struct mx_record records[26];
    char hosts[26][2];
    for (unsigned i = 0; i < count; i++) {
        hosts[i][0] = (char)('a' + i);
        hosts[i][1] = '\0';
        records[i] = (struct mx_record){preferences[i], hosts[i]};
    }
    begin(&d);
    give_mx(&d, records, count);
    for (unsigned i = 0; i < count; i++)
        give_addresses(&d, i, i + 1, 1, 0);
    return finish(&d);
}

static uint64_t lifetime_s(const struct route *r)
{
    return (r->expires_mono_ms - NOW_MS) / 1000;
}

/* ---- drafts ---- */

static void a_host_named_twice_keeps_its_better_preference(void **state)
{
    (void)state;
    struct draft d;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{30, "a"}, {20, "b"}, {10, "A"}, {40, "b"}}, 4);
    give_addresses(&d, 0, 1, 1, 0);
    const struct route *r = finish(&d);
    assert_string_equal(r->destination_key, "10 a 20 b");
    route_release(&r);
}

static void only_the_best_64_exchanges_are_kept(void **state)
{
    (void)state;
    struct draft d;
    struct writer w;
    enum { COUNT = 300 };
    begin_answer(&w, WRITER_NOERROR, "sampleorg.com", PACKET_MX, COUNT, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        unsigned preference = i * 7 % COUNT; /* each once, in no order */
        char host[16];
        (void)snprintf(host, sizeof host, "h%u", preference);
        put_mx(&w, "sampleorg.com", 600, preference, host);
    }
    begin(&d);
    take_mx(&d, &w);
    assert_int_equal(d.exchange_count, ROUTE_EXCHANGES_MAX);
    for (unsigned i = 0; i < d.exchange_count; i++)
        assert_int_equal(d.exchanges[i].preference, i);
    draft_fini(&d);
}

static void long_keys_are_hashed_and_still_differ(void **state)
{
    (void)state;
    const struct route *routes[2];
    for (unsigned variant = 0; variant < 2; variant++) {
        struct draft d;
        struct mx_record records[40];
        char hosts[40][32];
        for (unsigned i = 0; i < 40; i++) {
            (void)snprintf(hosts[i], sizeof hosts[i], "exchange-number-%02u.example", i);
            records[i] = (struct mx_record){10 + (i == 39 ? variant : 0), hosts[i]};
        }
        begin(&d);
        give_mx(&d, records, 40);
        give_addresses(&d, 0, 1, 1, 0);
        routes[variant] = finish(&d);
        assert_true(strlen(routes[variant]->destination_key) < 512);
        assert_int_equal(routes[variant]->exchange_count, 40);
    }
    assert_string_not_equal(routes[0]->destination_key, routes[1]->destination_key);
    route_release(&routes[0]);
    route_release(&routes[1]);
}

static void key_does_not_change_when_a_look_up_fails(void **state)
{
    (void)state;
    struct draft d;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{10, "a"}, {20, "b"}}, 2);
    draft_take_addresses(&d, 0, PACKET_A, ANSWER_FAILED, NULL, false);
    give_addresses(&d, 1, 1, 1, 0);
    const struct route *r = finish(&d);
    assert_string_equal(r->destination_key, "10 a 20 b");
    assert_true(r->exchanges[0].lookup_failed);
    assert_false(r->secure);
    assert_int_equal(lifetime_s(r), DRAFT_FAILURE_TTL_S);
    route_release(&r);
}

static void a_missing_family_does_not_shorten_the_life(void **state)
{
    (void)state;
    struct draft d;
    struct writer w;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{10, "a"}}, 1);
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_A, 1, 0);
    put_a(&w, "a", 900, 1);
    take_addresses(&d, 0, PACKET_A, &w);
    begin_answer(&w, WRITER_NOERROR, "a", PACKET_AAAA, 0, 1);
    put_soa(&w, "", 60, 60);
    take_addresses(&d, 0, PACKET_AAAA, &w);
    const struct route *r = finish(&d);
    assert_int_equal(lifetime_s(r), 600);
    assert_true(r->secure);
    assert_int_equal(r->exchanges[0].address_ttl_s, 900);
    route_release(&r);
}

static void address_lists_are_cut_at_their_bound(void **state)
{
    (void)state;
    struct draft d;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{10, "a"}}, 1);
    give_addresses(&d, 0, 1, 100, 100);
    const struct route *r = finish(&d);
    assert_int_equal(r->exchanges[0].v4_count, ROUTE_ADDRESSES_MAX);
    assert_int_equal(r->exchanges[0].v6_count, ROUTE_ADDRESSES_MAX);
    assert_int_equal(r->exchanges[0].v6[15].ip[15], 16);
    assert_int_equal(r->exchanges[0].v6[15].port, 25);
    route_release(&r);
}

static void failure_says_what_it_is_about(void **state)
{
    (void)state;
    struct draft d;
    begin(&d);
    draft_take_mx(&d, ANSWER_BOGUS, NULL, false, SLICE_LIT("no keys have a DS"));
    const struct route *r = finish(&d);
    assert_int_equal(r->failure.code, LOCAL_DNS_BOGUS);
    assert_non_null(strstr(r->failure.text, "[no keys have a DS]"));
    assert_int_equal(lifetime_s(r), DRAFT_FAILURE_TTL_S);
    route_release(&r);
    r = draft_failure(SLICE_LIT("sampleorg.com"), LOCAL_BAD_DOMAIN, NOW_MS, 0);
    assert_non_null(r);
    assert_non_null(strstr(r->failure.text, "[sampleorg.com]"));
    route_release(&r);
}

/* ---- targets ---- */

static void targets_keep_the_order_of_preference(void **state)
{
    (void)state;
    struct random random;
    random_init_seed(&random, SEED);
    const struct route *r = simple_route((unsigned[]){10, 20, 20, 30, 30, 30}, 6);
    for (int i = 0; i < 200; i++) {
        struct route_target targets[ROUTE_TARGETS_MAX];
        assert_int_equal(route_targets(r, &random, targets), 6);
        for (unsigned j = 1; j < 6; j++)
            assert_true(targets[j - 1].exchange->preference <= targets[j].exchange->preference);
    }
    route_release(&r);
}

static unsigned permutation_index(const struct route_target t[4])
{
    unsigned index = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned smaller_behind = 0;
        for (unsigned j = i + 1; j < 4; j++)
            smaller_behind += t[j].address.ip[15] < t[i].address.ip[15];
        index = index * (4 - i) + smaller_behind;
    }
    return index;
}

/* 24,000 attempts over 24 orders: 1,000 each, with a standard deviation of 31. A shuffle that swaps
 * every position with a random one of all misses some by 300 and more. */
static void every_order_of_equals_is_equally_likely(void **state)
{
    (void)state;
    enum { ORDERS = 24, EACH = 1000, SPREAD = 160 };
    struct random random;
    random_init_seed(&random, SEED);
    const struct route *r = simple_route((unsigned[]){10, 10, 10, 10}, 4);
    unsigned seen[ORDERS] = {0};
    for (int i = 0; i < ORDERS * EACH; i++) {
        struct route_target targets[ROUTE_TARGETS_MAX];
        assert_int_equal(route_targets(r, &random, targets), 4);
        seen[permutation_index(targets)]++;
    }
    for (int i = 0; i < ORDERS; i++)
        assert_in_range(seen[i], EACH - SPREAD, EACH + SPREAD);
    route_release(&r);
}

static void families_of_an_exchange_are_interleaved(void **state)
{
    (void)state;
    struct random random;
    random_init_seed(&random, SEED);
    struct draft d;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{10, "a"}}, 1);
    give_addresses(&d, 0, 1, 4, 2);
    const struct route *r = finish(&d);
    unsigned first_v4[5] = {0};
    for (int i = 0; i < 400; i++) {
        static const bool v4[] = {false, true, false, true, true, true};
        struct route_target targets[ROUTE_TARGETS_MAX];
        assert_int_equal(route_targets(r, &random, targets), 6);
        for (unsigned j = 0; j < 6; j++)
            assert_int_equal(address_is_v4(&targets[j].address), v4[j]);
        first_v4[targets[1].address.ip[15]]++;
    }
    for (unsigned i = 1; i <= 4; i++)
        assert_in_range(first_v4[i], 60, 140);
    route_release(&r);
}

static void many_addresses_leave_room_for_every_exchange(void **state)
{
    (void)state;
    struct random random;
    random_init_seed(&random, SEED);
    struct draft d;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{10, "a"}, {20, "b"}, {30, "c"}, {40, "d"}}, 4);
    for (unsigned i = 0; i < 3; i++)
        give_addresses(&d, i, 1 + 20 * i, 16, 16);
    give_addresses(&d, 3, 100, 1, 0);
    const struct route *r = finish(&d);
    struct route_target targets[ROUTE_TARGETS_MAX];
    unsigned count = route_targets(r, &random, targets);
    assert_int_equal(count, 3 * 21 + 1);
    assert_string_equal(targets[count - 1].exchange->name, "d");
    route_release(&r);
}

static void an_address_shared_by_exchanges_is_tried_once(void **state)
{
    (void)state;
    struct random random;
    random_init_seed(&random, SEED);
    struct draft d;
    begin(&d);
    give_mx(&d, (struct mx_record[]){{10, "a"}, {20, "b"}, {30, "c"}}, 3);
    give_addresses(&d, 0, 1, 2, 0);
    give_addresses(&d, 1, 2, 2, 0);
    draft_take_addresses(&d, 2, PACKET_A, ANSWER_FAILED, NULL, false);
    const struct route *r = finish(&d);
    struct route_target targets[ROUTE_TARGETS_MAX];
    assert_int_equal(route_targets(r, &random, targets), 3);
    assert_string_equal(targets[0].exchange->name, "a");
    assert_string_equal(targets[1].exchange->name, "a");
    assert_string_equal(targets[2].exchange->name, "b");
    assert_int_equal(targets[2].address.ip[15], 3);
    route_release(&r);
}

static void failed_route_has_no_targets(void **state)
{
    (void)state;
    struct random random;
    random_init_seed(&random, SEED);
    const struct route *r = draft_failure(SLICE_LIT("x"), LOCAL_NXDOMAIN, NOW_MS, 0);
    assert_non_null(r);
    struct route_target targets[ROUTE_TARGETS_MAX];
    assert_int_equal(route_targets(r, &random, targets), 0);
    route_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_named_twice_keeps_its_better_preference),
        cmocka_unit_test(only_the_best_64_exchanges_are_kept),
        cmocka_unit_test(long_keys_are_hashed_and_still_differ),
        cmocka_unit_test(key_does_not_change_when_a_look_up_fails),
        cmocka_unit_test(a_missing_family_does_not_shorten_the_life),
        cmocka_unit_test(address_lists_are_cut_at_their_bound),
        cmocka_unit_test(failure_says_what_it_is_about),
        cmocka_unit_test(targets_keep_the_order_of_preference),
        cmocka_unit_test(every_order_of_equals_is_equally_likely),
        cmocka_unit_test(families_of_an_exchange_are_interleaved),
        cmocka_unit_test(many_addresses_leave_room_for_every_exchange),
        cmocka_unit_test(an_address_shared_by_exchanges_is_tried_once),
        cmocka_unit_test(failed_route_has_no_targets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
