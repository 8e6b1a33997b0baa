/* How far an exchange is trusted with more than one thing at a time (core/health.h). */
#include "core/health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { WINDOW_MAX = 8, RUNS_FOR_BDAT = 4, RUNS_FOR_TWO = 12, RUNS_FOR_ALL = RUNS_FOR_TWO + 6 * 8 };

static const struct health_options options = {.entries = 64,
                                              .demote_first_ms = 60000,
                                              .demote_max_ms = 1800000,
                                              .down_first_ms = 5000,
                                              .tls_broken_ms = 3600000,
                                              .patience_min_ms = 1000,
                                              .patience_max_ms = 5000};

struct world {
    struct health *health;
    struct address address;
};

static struct world create(void)
{
    static const uint8_t ip[4] = {192, 0, 2, 1};
    struct world w = {health_create(&options), address_from_v4(ip, 25)};
    assert_non_null(w.health);
    health_count_session(w.health, &w.address, 1, 0);
    return w;
}

static void show(struct world *w, enum health_showing what, int times)
{
    for (int i = 0; i < times; i++)
        health_show(w->health, &w->address, what);
}

static void tell(struct world *w, enum health_event event)
{
    (void)health_tell(w->health, &w->address, event, 1000, 1000, 0);
}

static void assert_trust(const struct world *w, bool behind, bool bdat, unsigned window)
{
    struct health_trust t = health_trust(w->health, &w->address, WINDOW_MAX);
    assert_int_equal(t.behind, behind);
    assert_int_equal(t.bdat, bdat);
    assert_int_equal(t.window, window);
}

static void trust_grows_with_each_run_up_to_the_maximum(void **state)
{
    (void)state;
    struct world w = create();
    assert_trust(&w, true, false, 1);
    show(&w, HEALTH_RUN, RUNS_FOR_BDAT - 1);
    assert_trust(&w, true, false, 1);
    show(&w, HEALTH_RUN, 1000); /* DATA proves nothing more */
    assert_trust(&w, true, true, 1);
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_TWO - RUNS_FOR_BDAT);
    assert_trust(&w, true, true, 2);
    show(&w, HEALTH_RUN_BDAT, 8);
    assert_trust(&w, true, true, 3);
    show(&w, HEALTH_RUN_BDAT, 100000);
    assert_trust(&w, true, true, WINDOW_MAX);
    assert_int_equal(health_trust(w.health, &w.address, 1).window, 1);
    health_destroy(&w.health);
}

static void any_failure_starts_anew(void **state)
{
    (void)state;
    static const enum health_event events[] = {HEALTH_EVENT_SILENT,    HEALTH_EVENT_SILENT_LATE,
                                               HEALTH_EVENT_BROKEN,    HEALTH_EVENT_DOWN,
                                               HEALTH_EVENT_DOWN_LATE, HEALTH_EVENT_BUSY,
                                               HEALTH_EVENT_REFUSING,  HEALTH_EVENT_TLS_BROKEN};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        struct world w = create();
        show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
        assert_trust(&w, true, true, WINDOW_MAX);
        tell(&w, events[i]);
        assert_trust(&w, true, false, 1);
        show(&w, HEALTH_RUN_BDAT, 3);
        assert_trust(&w, true, false, 1);
        health_destroy(&w.health);
    }
    struct world w = create();
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    show(&w, HEALTH_RESTART, 1);
    assert_trust(&w, true, false, 1);
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    assert_trust(&w, true, true, WINDOW_MAX);
    health_destroy(&w.health);
}

static void a_host_that_is_not_healthy_gets_no_content_ahead(void **state)
{
    (void)state;
    struct world w = create();
    tell(&w, HEALTH_EVENT_SILENT);
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    assert_trust(&w, true, false, 1);
    tell(&w, HEALTH_EVENT_SUCCESS);
    assert_trust(&w, true, true, WINDOW_MAX);
    health_destroy(&w.health);
}

static void a_lost_batch_leaves_one_at_a_time_for_good(void **state)
{
    (void)state;
    struct world w = create();
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    show(&w, HEALTH_BATCH_LOST, 1);
    show(&w, HEALTH_RUN_BDAT, 100000);
    assert_trust(&w, true, false, 1);
    assert_true(health_view(w.health, &w.address).one_by_one);
    assert_true(health_clear(w.health, &w.address));
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    assert_trust(&w, true, true, WINDOW_MAX);
    health_destroy(&w.health);
}

static void two_misfires_running_leave_nothing_behind_an_end_for_good(void **state)
{
    (void)state;
    struct world w = create();
    show(&w, HEALTH_MISFIRE, 1);
    show(&w, HEALTH_RUN, 1);
    show(&w, HEALTH_MISFIRE, 1);
    assert_trust(&w, true, false, 1);
    show(&w, HEALTH_MISFIRE, 1);
    assert_trust(&w, false, false, 1);
    show(&w, HEALTH_RUN, 1000);
    assert_false(health_trust(w.health, &w.address, WINDOW_MAX).behind);
    health_destroy(&w.health);
}

static void replies_out_of_place_take_away_everything_for_good(void **state)
{
    (void)state;
    struct world w = create();
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    show(&w, HEALTH_MISMATCH, 1);
    show(&w, HEALTH_RUN_BDAT, 100000);
    assert_trust(&w, false, false, 1);
    health_destroy(&w.health);
}

static void nothing_goes_behind_an_end_that_takes_long(void **state)
{
    (void)state;
    struct world w = create();
    show(&w, HEALTH_RUN_BDAT, RUNS_FOR_ALL);
    health_learn(w.health, &w.address, HEALTH_COMMIT, 499);
    assert_trust(&w, true, true, WINDOW_MAX);
    health_learn(w.health, &w.address, HEALTH_COMMIT, 10000);
    assert_trust(&w, false, true, 1);
    for (int i = 0; i < 40; i++)
        health_learn(w.health, &w.address, HEALTH_COMMIT, 10);
    assert_trust(&w, true, true, WINDOW_MAX);
    health_destroy(&w.health);
}

/* Nothing is raced there, so a host that is slow there but honest is not hurried. */
static void patience_behind_the_last_byte_has_no_upper_bound_once_it_is_learned(void **state)
{
    (void)state;
    struct world w = create();
    assert_int_equal(health_patience_ms(w.health, &w.address, HEALTH_COMMIT), 5000);
    health_learn(w.health, &w.address, HEALTH_COMMIT, 10);
    assert_int_equal(health_patience_ms(w.health, &w.address, HEALTH_COMMIT), 1000);
    health_learn(w.health, &w.address, HEALTH_COMMIT, 20000);
    assert_true(health_patience_ms(w.health, &w.address, HEALTH_COMMIT) >= 160000);
    health_destroy(&w.health);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trust_grows_with_each_run_up_to_the_maximum),
        cmocka_unit_test(any_failure_starts_anew),
        cmocka_unit_test(a_host_that_is_not_healthy_gets_no_content_ahead),
        cmocka_unit_test(a_lost_batch_leaves_one_at_a_time_for_good),
        cmocka_unit_test(two_misfires_running_leave_nothing_behind_an_end_for_good),
        cmocka_unit_test(replies_out_of_place_take_away_everything_for_good),
        cmocka_unit_test(nothing_goes_behind_an_end_that_takes_long),
        cmocka_unit_test(patience_behind_the_last_byte_has_no_upper_bound_once_it_is_learned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
