/* The order of an attempt: preference first, health behind it, nothing ever left out. */
#include "workers/outbound/order.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { NOW = 1000000, WALL = 7777777, MINUTE = 60000, HOSTS = 4, SEED = 7 };

/* Four exchanges of one address each, preferences 10, 20, 30, 40: their order is what decides. */
struct world {
    struct health *health;
    struct random random;
    struct address addresses[HOSTS];
    struct route_exchange exchanges[HOSTS];
    struct route route;
};

static struct world *create(void)
{
    struct health_options options = {.entries = 64,
                                     .demote_first_ms = MINUTE,
                                     .demote_max_ms = 30 * MINUTE,
                                     .down_first_ms = 5000,
                                     .tls_broken_ms = 60 * MINUTE,
                                     .patience_min_ms = 1000,
                                     .patience_max_ms = 5000};
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->health = health_create(&options);
    assert_non_null(w->health);
    random_init_seed(&w->random, SEED);
    for (int i = 0; i < HOSTS; i++) {
        w->addresses[i] = address_from_v4((uint8_t[]){192, 0, 2, (uint8_t)(i + 1)}, 25);
        w->exchanges[i] = (struct route_exchange){.name = "mx.example",
                                                  .preference = (uint16_t)(10 * (i + 1)),
                                                  .v4 = &w->addresses[i],
                                                  .v4_count = 1};
    }
    w->route.exchanges = w->exchanges;
    w->route.exchange_count = HOSTS;
    return w;
}

static void destroy(struct world *w)
{
    health_destroy(&w->health);
    free(w);
}

static void tell(struct world *w, int host, enum health_event event, int times)
{
    for (int i = 0; i < times; i++)
        (void)health_tell(w->health, &w->addresses[host], event, NOW, WALL, 0);
}

/* The order at `at_ms` as digits, "0123" being that of the preferences. */
static const char *order(struct world *w, uint64_t at_ms, struct target out[ROUTE_TARGETS_MAX])
{
    static char digits[HOSTS + 1];
    unsigned count = order_targets(&w->route, w->health, &w->random, at_ms, out);
    assert_int_equal(count, HOSTS);
    for (int i = 0; i < HOSTS; i++)
        digits[i] = (char)('0' + out[i].address.ip[15] - 1);
    return digits;
}

/* ---- what may move an address, and where to ---- */

static void usable_addresses_keep_the_order_of_preference_and_others_go_behind(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        enum health_event events[HOSTS];
        int times[HOSTS];
        uint64_t after_ms;
        const char *order;
    } table[] = {
        {"all strangers", {0}, {0}, 0, "0123"},
        {"a suspect stays: only its patience is short", {HEALTH_EVENT_SILENT}, {1}, 0, "0123"},
        {"the first demoted", {HEALTH_EVENT_SILENT}, {2}, 0, "1230"},
        {"the first broken", {HEALTH_EVENT_BROKEN}, {1}, 0, "1230"},
        {"the second down", {0, HEALTH_EVENT_DOWN}, {0, 1}, 0, "0231"},
        {"the first busy, the second refusing",
         {HEALTH_EVENT_BUSY, HEALTH_EVENT_REFUSING},
         {1, 1},
         0,
         "2301"},
        {"the demoted waits longer than the one that is down",
         {HEALTH_EVENT_SILENT, HEALTH_EVENT_DOWN},
         {2, 1},
         0,
         "2310"},
        {"all demoted, the last one longest",
         {HEALTH_EVENT_SILENT, HEALTH_EVENT_SILENT, HEALTH_EVENT_SILENT, HEALTH_EVENT_BROKEN},
         {2, 2, 2, 4},
         0,
         "0123"},
        {"its time is up: back in its place, as a probe",
         {HEALTH_EVENT_SILENT},
         {2},
         2 * MINUTE,
         "0123"},
        {"its time is up, and it was only down", {HEALTH_EVENT_DOWN}, {1}, MINUTE, "0123"},
        {"broken TLS moves nothing", {HEALTH_EVENT_TLS_BROKEN}, {1}, 0, "0123"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create();
        struct target out[ROUTE_TARGETS_MAX];
        for (int host = 0; host < HOSTS; host++)
            tell(w, host, table[i].events[host], table[i].times[host]);
        const char *got = order(w, NOW + table[i].after_ms, out);
        if (strcmp(got, table[i].order) != 0)
            fail_msg("%s: expected %s, got %s", table[i].what, table[i].order, got);
        destroy(w);
    }
}

static void a_due_demoted_address_asks_for_a_probe_until_somebody_has_claimed_it(void **state)
{
    (void)state;
    struct world *w = create();
    struct target out[ROUTE_TARGETS_MAX];
    uint64_t later = NOW + 2 * MINUTE;
    tell(w, 1, HEALTH_EVENT_SILENT, 2);
    assert_string_equal(order(w, NOW, out), "0231");
    assert_false(out[3].needs_probe);
    assert_int_equal(out[3].rank, TARGET_BACKING_OFF);
    assert_string_equal(order(w, later, out), "0123");
    assert_true(out[1].needs_probe && !out[0].needs_probe);
    assert_int_equal(out[1].state, HEALTH_DEMOTED);
    uint64_t claim = health_claim_probe(w->health, &w->addresses[1], later);
    assert_true(claim != 0);
    assert_string_equal(order(w, later, out), "0231");
    assert_false(out[3].needs_probe);
    health_probe_drop(w->health, &w->addresses[1], claim);
    assert_string_equal(order(w, later, out), "0123");
    destroy(w);
}

static void broken_tls_is_told_with_the_address_until_its_time_is_up(void **state)
{
    (void)state;
    struct world *w = create();
    struct target out[ROUTE_TARGETS_MAX];
    tell(w, 2, HEALTH_EVENT_TLS_BROKEN, 1);
    (void)order(w, NOW, out);
    for (int i = 0; i < HOSTS; i++)
        assert_int_equal(out[i].tls_broken, i == 2);
    (void)order(w, NOW + 100 * MINUTE, out);
    assert_false(out[2].tls_broken);
    destroy(w);
}

/* Whatever is known of the hosts: each address stands in the order once, what is usable before what
 * is not, the usable in order of preference, the others by when they may be tried again. */
static void any_history_leaves_every_address_in_the_order_exactly_once(void **state)
{
    (void)state;
    struct random random;
    random_init_seed(&random, SEED);
    for (int round = 0; round < 2000; round++) {
        struct world *w = create();
        struct target out[ROUTE_TARGETS_MAX];
        for (int i = 0; i < 12; i++)
            tell(w, (int)random_below(&random, HOSTS),
                 (enum health_event)random_below(&random, HEALTH_EVENT_TLS_BROKEN + 1), 1);
        (void)order(w, NOW + random_below(&random, (uint64_t)5 * MINUTE), out);
        unsigned seen = 0;
        for (int i = 0; i < HOSTS; i++) {
            seen |= 1u << (out[i].address.ip[15] - 1);
            if (i == 0)
                continue;
            const struct target *a = &out[i - 1], *b = &out[i];
            assert_true(a->rank <= b->rank);
            if (a->rank == b->rank && a->rank == TARGET_USABLE)
                assert_true(a->exchange->preference < b->exchange->preference);
            else if (a->rank == b->rank)
                assert_true(a->again_mono_ms <= b->again_mono_ms);
        }
        assert_int_equal(seen, (1u << HOSTS) - 1);
        destroy(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usable_addresses_keep_the_order_of_preference_and_others_go_behind),
        cmocka_unit_test(a_due_demoted_address_asks_for_a_probe_until_somebody_has_claimed_it),
        cmocka_unit_test(broken_tls_is_told_with_the_address_until_its_time_is_up),
        cmocka_unit_test(any_history_leaves_every_address_in_the_order_exactly_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
