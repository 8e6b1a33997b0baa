/* SOURCES: core/health.c core/base/random.c core/base/assert.c core/base/address.c core/base/slice.c */
#include "core/health.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <setjmp.h>
#include <cmocka.h>

static const struct health_options usual = {.entries = 1024,
                                            .demote_first_ms = 60000,
                                            .demote_max_ms = 1800000,
                                            .down_first_ms = 5000,
                                            .tls_broken_ms = 14400000,
                                            .patience_min_ms = 1000,
                                            .patience_max_ms = 5000};

static struct address host(uint32_t n)
{
    uint8_t ip[4] = {10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    return address_from_v4(ip, 25);
}

/* Without jitter: a tenth less, which `jitter` 0 gives, put back. */
static enum health_state tell(struct health *h, const struct address *a, enum health_event event, uint64_t now)
{
    return health_tell(h, a, event, now, now + 1000000, 0);
}

static void a_stranger_is_healthy_and_gets_all_patience(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    struct health_view v = health_view(h, &a);
    assert_false(v.known);
    assert_int_equal(v.state, HEALTH_HEALTHY);
    assert_int_equal(health_patience_ms(h, &a, HEALTH_GREETING), 5000);
    health_destroy(&h);
}

static void one_silence_makes_suspect_and_the_second_demotes(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SILENT, 1000), HEALTH_SUSPECT);
    assert_int_equal(health_patience_ms(h, &a, HEALTH_GREETING), 1000);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SILENT, 2000), HEALTH_DEMOTED);
    struct health_view v = health_view(h, &a);
    assert_int_equal(v.strikes, 2);
    assert_int_equal(v.again_mono_ms, 2000 + 60000 - 6000);
    health_destroy(&h);
}

static void success_between_two_silences_forgives_the_first(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    (void)tell(h, &a, HEALTH_EVENT_SILENT, 1000);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SUCCESS, 1500), HEALTH_HEALTHY);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SILENT, 2000), HEALTH_SUSPECT);
    health_destroy(&h);
}

static void a_greeting_does_not_clear_a_host_that_hangs_behind_it(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SILENT_LATE, 1000), HEALTH_SUSPECT);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SUCCESS, 1500), HEALTH_SUSPECT);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SILENT_LATE, 2000), HEALTH_DEMOTED);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SUCCESS, 2500), HEALTH_DEMOTED);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_CARRIED, 3000), HEALTH_HEALTHY);
    health_destroy(&h);
}

static void each_failed_probe_doubles_the_time_up_to_the_maximum(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    uint64_t now = 1000;
    static const uint64_t waits[] = {60000, 120000, 240000, 480000, 960000, 1800000, 1800000};
    (void)tell(h, &a, HEALTH_EVENT_SILENT, now);
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
        assert_int_equal(tell(h, &a, HEALTH_EVENT_SILENT, now), HEALTH_DEMOTED);
        struct health_view v = health_view(h, &a);
        assert_int_equal(v.again_mono_ms - now, waits[i] - waits[i] / 10);
        now = v.again_mono_ms;
        assert_true(health_claim_probe(h, &a, now));
    }
    health_destroy(&h);
}

static void jitter_moves_the_time_by_a_tenth_at_most(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    for (uint32_t i = 0; i < 200; i++) {
        struct address a = host(i);
        (void)health_tell(h, &a, HEALTH_EVENT_BROKEN, 0, 0, i * 977u);
        uint64_t wait = health_view(h, &a).again_mono_ms;
        assert_true(wait >= 54000 && wait <= 66000);
    }
    health_destroy(&h);
}

static void sessions_opened_before_the_demotion_add_nothing_to_it(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    for (int i = 0; i < 1000; i++)
        (void)tell(h, &a, HEALTH_EVENT_SILENT, 5000 + (uint64_t)i);
    assert_int_equal(health_view(h, &a).again_mono_ms, 5001 + 54000);
    health_destroy(&h);
}

static void a_probe_is_given_to_one_and_only_when_its_time_is_up(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    assert_false(health_claim_probe(h, &a, 1000));
    (void)tell(h, &a, HEALTH_EVENT_BROKEN, 1000);
    uint64_t again = health_view(h, &a).again_mono_ms;
    assert_false(health_claim_probe(h, &a, again - 1));
    assert_true(health_claim_probe(h, &a, again));
    assert_true(health_view(h, &a).probing);
    assert_false(health_claim_probe(h, &a, again));
    health_probe_drop(h, &a);
    assert_true(health_claim_probe(h, &a, again));
    assert_true(health_claim_probe(h, &a, again + 60000)); /* one whose verdict never came is forgotten */
    assert_int_equal(tell(h, &a, HEALTH_EVENT_SUCCESS, again + 60001), HEALTH_HEALTHY);
    assert_false(health_claim_probe(h, &a, again + 120000));
    health_destroy(&h);
}

static void refusals_back_off_briefly_and_never_lift_a_demotion(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1), b = host(2);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_DOWN, 1000), HEALTH_DOWN);
    assert_int_equal(health_view(h, &a).again_mono_ms, 1000 + 4500);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_BUSY, 10000), HEALTH_BUSY);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_REFUSING, 90000), HEALTH_REFUSING);
    (void)tell(h, &b, HEALTH_EVENT_BROKEN, 1000);
    assert_int_equal(tell(h, &b, HEALTH_EVENT_DOWN, 2000), HEALTH_DEMOTED);
    health_destroy(&h);
}

static void broken_tls_is_remembered_apart(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    assert_int_equal(tell(h, &a, HEALTH_EVENT_TLS_BROKEN, 1000), HEALTH_HEALTHY);
    (void)tell(h, &a, HEALTH_EVENT_SUCCESS, 2000);
    assert_int_equal(health_view(h, &a).tls_broken_until_mono_ms, 1000 + 14400000);
    health_destroy(&h);
}

static void patience_follows_the_usual_latency_within_its_bounds(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    (void)tell(h, &a, HEALTH_EVENT_SUCCESS, 1000);
    health_learn(h, &a, HEALTH_GREETING, 2);
    assert_int_equal(health_patience_ms(h, &a, HEALTH_GREETING), 1000);
    health_learn(h, &a, HEALTH_GREETING, 400);
    uint32_t patience = health_patience_ms(h, &a, HEALTH_GREETING);
    assert_true(patience >= 3000 && patience <= 3400);
    health_learn(h, &a, HEALTH_GREETING, 40000);
    assert_int_equal(health_patience_ms(h, &a, HEALTH_GREETING), 5000);
    assert_int_equal(health_patience_ms(h, &a, HEALTH_EHLO), 5000);
    health_destroy(&h);
}

static void the_least_useful_is_forgotten_and_open_sessions_never(void **state)
{
    (void)state;
    struct health_options small = usual;
    small.entries = 8;
    struct health *h = health_create(&small);
    struct address busy = host(500), ill = host(501);
    health_count_session(h, &busy, 1);
    (void)tell(h, &ill, HEALTH_EVENT_BROKEN, 1);
    for (uint32_t i = 0; i < 100; i++) {
        struct address a = host(i);
        (void)tell(h, &a, HEALTH_EVENT_SUCCESS, 10 + i);
    }
    assert_true(health_view(h, &busy).known);
    assert_int_equal(health_view(h, &busy).parked, 1);
    assert_int_equal(health_view(h, &ill).state, HEALTH_DEMOTED);
    health_count_session(h, &busy, -1);
    assert_int_equal(health_view(h, &busy).parked, 0);
    health_destroy(&h);
}

static void by_hand_a_host_is_demoted_and_cleared(void **state)
{
    (void)state;
    struct health *h = health_create(&usual);
    struct address a = host(1);
    assert_false(health_clear(h, &a));
    health_demote(h, &a, 600000, 1000, 2000);
    assert_int_equal(health_view(h, &a).state, HEALTH_DEMOTED);
    assert_int_equal(health_view(h, &a).again_mono_ms, 601000);
    assert_true(health_clear(h, &a));
    assert_int_equal(health_view(h, &a).state, HEALTH_HEALTHY);
    health_destroy(&h);
}

/* ---- threads ---- */

struct storm {
    struct health *health;
    atomic_uint claimed;
    atomic_uint demoted;
};

static void *claim(void *context)
{
    struct storm *s = context;
    struct address a = host(7);
    if (health_claim_probe(s->health, &a, 10000000))
        atomic_fetch_add(&s->claimed, 1);
    return NULL;
}

static void of_eight_threads_one_gets_the_probe(void **state)
{
    (void)state;
    struct storm s = {.health = health_create(&usual)};
    struct address a = host(7);
    pthread_t threads[8];
    (void)tell(s.health, &a, HEALTH_EVENT_BROKEN, 1);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, claim, &s), 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(s.claimed, 1);
    health_destroy(&s.health);
}

/* Writers move one address between two whole states while readers look: no mixture may ever be seen. */
static void *flip(void *context)
{
    struct storm *s = context;
    struct address a = host(9);
    for (uint64_t i = 0; i < 20000; i++) {
        health_demote(s->health, &a, 1000 + i, 5, 7);
        (void)health_clear(s->health, &a);
    }
    atomic_store(&s->demoted, 1);
    return NULL;
}

static void a_reader_sees_one_whole_state(void **state)
{
    (void)state;
    struct storm s = {.health = health_create(&usual)};
    struct address a = host(9);
    pthread_t writer;
    health_demote(s.health, &a, 1000, 5, 7);
    assert_int_equal(pthread_create(&writer, NULL, flip, &s), 0);
    while (!atomic_load(&s.demoted)) {
        struct health_view v = health_view(s.health, &a);
        assert_true(v.known);
        if (v.state == HEALTH_DEMOTED)
            assert_true(v.again_mono_ms >= 1005 && v.since_wall_ms == 7);
        else
            assert_true(v.again_mono_ms == 0 && v.since_wall_ms == 0);
    }
    pthread_join(writer, NULL);
    health_destroy(&s.health);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stranger_is_healthy_and_gets_all_patience),
        cmocka_unit_test(one_silence_makes_suspect_and_the_second_demotes),
        cmocka_unit_test(success_between_two_silences_forgives_the_first),
        cmocka_unit_test(a_greeting_does_not_clear_a_host_that_hangs_behind_it),
        cmocka_unit_test(each_failed_probe_doubles_the_time_up_to_the_maximum),
        cmocka_unit_test(jitter_moves_the_time_by_a_tenth_at_most),
        cmocka_unit_test(sessions_opened_before_the_demotion_add_nothing_to_it),
        cmocka_unit_test(a_probe_is_given_to_one_and_only_when_its_time_is_up),
        cmocka_unit_test(refusals_back_off_briefly_and_never_lift_a_demotion),
        cmocka_unit_test(broken_tls_is_remembered_apart),
        cmocka_unit_test(patience_follows_the_usual_latency_within_its_bounds),
        cmocka_unit_test(the_least_useful_is_forgotten_and_open_sessions_never),
        cmocka_unit_test(by_hand_a_host_is_demoted_and_cleared),
        cmocka_unit_test(of_eight_threads_one_gets_the_probe),
        cmocka_unit_test(a_reader_sees_one_whole_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
