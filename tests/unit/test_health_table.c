/* What the health table remembers and what it forgets, where addresses are more than it
 * has room for. */
#include "tests/unit/health_fixture.h"

static void addresses_that_share_a_neighbourhood_are_told_apart(void **state)
{
    (void)state;
    struct health *h = make(8); /* all addresses collide */
    for (uint32_t i = 0; i < 8; i++)
        (void)tell(h, i, i % 2 ? HEALTH_EVENT_SILENT : HEALTH_EVENT_DOWN, NOW);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(view(h, i).state, i % 2 ? HEALTH_SUSPECT : HEALTH_DOWN);
    assert_false(view(h, 8).known);
    health_destroy(&h);
}

static void oldest_healthy_entry_is_forgotten_first(void **state)
{
    (void)state;
    struct health *h = make(8);
    (void)tell(h, 0, HEALTH_EVENT_SILENT, NOW); /* oldest of all, but unwell */
    for (uint32_t i = 1; i < 8; i++)
        (void)tell(h, i, HEALTH_EVENT_SUCCESS, NOW + i);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 100); /* used since: now 2 is the oldest */
    (void)tell(h, 8, HEALTH_EVENT_DOWN, NOW + 200);
    assert_true(view(h, 8).known);
    assert_true(view(h, 0).known);
    assert_true(view(h, 1).known);
    assert_false(view(h, 2).known);
    assert_int_equal(view(h, 8).successes, 0);
    health_destroy(&h);
}

/* Addresses that refused once, years ago or an attacker's, must not crowd out those
 * that carry mail. */
static void what_was_unwell_long_ago_is_forgotten_before_what_is_well_now(void **state)
{
    (void)state;
    struct health *h = make(8);
    for (uint32_t i = 0; i < 8; i++)
        (void)tell(h, i, i % 2 ? HEALTH_EVENT_DOWN : HEALTH_EVENT_SILENT, NOW + i);
    demote(h, 7, NOW + 10); /* its time is up in a minute, but it may be asked for again */
    (void)tell(h, 100, HEALTH_EVENT_SUCCESS, NOW + 20 * MINUTE);
    (void)tell(h, 101, HEALTH_EVENT_SUCCESS, NOW + 20 * MINUTE + 1);
    assert_false(view(h, 100).known); /* news of twenty minutes ago is news */
    assert_true(view(h, 101).known);
    uint64_t later = NOW + 2 * DEMOTE_MAX;
    for (uint32_t i = 102; i < 109; i++) {
        struct address a = host(i);
        health_count_session(h, &a, 1, later);
        (void)tell(h, i, HEALTH_EVENT_SUCCESS, later + i);
        health_count_session(h, &a, -1, later);
    }
    for (uint32_t i = 101; i < 109; i++)
        assert_true(view(h, i).known);
    health_destroy(&h);
}

static void an_operators_word_is_not_forgotten_for_others_troubles(void **state)
{
    (void)state;
    struct health *h = make(8);
    struct address a = host(0);
    health_demote(h, &a, 24 * 60 * MINUTE, NOW, WALL);
    for (uint32_t i = 1; i < 100; i++)
        demote(h, i, NOW + i);
    assert_int_equal(view(h, 0).state, HEALTH_DEMOTED);
    for (uint32_t i = 100; i < 120; i++) /* its time is up, and some more */
        demote(h, i, NOW + 26 * 60 * MINUTE + i);
    assert_false(view(h, 0).known);
    health_destroy(&h);
}

static void host_with_open_sessions_is_never_forgotten(void **state)
{
    (void)state;
    struct health *h = make(8);
    struct address kept = host(0);
    health_count_session(h, &kept, 1, NOW);
    for (uint32_t i = 1; i < 500; i++)
        (void)tell(h, i, HEALTH_EVENT_SILENT, NOW + i);
    assert_true(view(h, 0).known);
    assert_int_equal(view(h, 0).parked, 1);
    health_count_session(h, &kept, -1, NOW);
    assert_int_equal(view(h, 0).parked, 0);
    (void)tell(h, 500, HEALTH_EVENT_SILENT, NOW + 500);
    assert_false(view(h, 0).known);
    health_destroy(&h);
}

static void full_neighbourhood_of_open_sessions_turns_news_away(void **state)
{
    (void)state;
    struct health *h = make(8);
    for (uint32_t i = 0; i < 8; i++) {
        struct address a = host(i);
        health_count_session(h, &a, 1, NOW);
    }
    struct address late = host(8);
    health_count_session(h, &late, 1, NOW);
    assert_int_equal(tell(h, 8, HEALTH_EVENT_SILENT, NOW), HEALTH_HEALTHY);
    assert_false(view(h, 8).known);
    assert_int_equal(patience(h, 8, HEALTH_EHLO), PATIENCE_MAX);
    struct address first = host(0);
    health_count_session(h, &first, -1, NOW);
    (void)tell(h, 8, HEALTH_EVENT_SILENT, NOW);
    health_count_session(h, &late, -1, NOW); /* was not counted when it came */
    assert_int_equal(view(h, 8).parked, 0);
    health_destroy(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_that_share_a_neighbourhood_are_told_apart),
        cmocka_unit_test(oldest_healthy_entry_is_forgotten_first),
        cmocka_unit_test(what_was_unwell_long_ago_is_forgotten_before_what_is_well_now),
        cmocka_unit_test(an_operators_word_is_not_forgotten_for_others_troubles),
        cmocka_unit_test(host_with_open_sessions_is_never_forgotten),
        cmocka_unit_test(full_neighbourhood_of_open_sessions_turns_news_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
