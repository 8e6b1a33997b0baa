/* Every edge of the drawing in health.h, and what concurrent sessions may do to an entry. */
#include "core/base/random.h"
#include "tests/unit/health_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

static bool claim(struct health *h, uint32_t n, uint64_t now)
{
    struct address a = host(n);
    return health_claim_probe(h, &a, now) != 0;
}

/* ---- edges of the drawing ---- */

static void stranger_is_healthy_and_unknown(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct health_view v = view(h, 1);
    struct address a = host(1);
    assert_false(v.known);
    assert_int_equal(v.state, HEALTH_HEALTHY);
    assert_true(address_same_ip(&v.address, &a));
    assert_false(claim(h, 1, NOW));
    health_destroy(&h);
    assert_null(h);
}

static void first_silence_makes_a_suspect(void **state)
{
    (void)state;
    struct health *h = make(64);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW), HEALTH_SUSPECT);
    struct health_view v = view(h, 1);
    assert_true(v.known);
    assert_int_equal(v.state, HEALTH_SUSPECT);
    assert_int_equal(v.strikes, 1);
    assert_int_equal(v.again_mono_ms, 0);
    assert_int_equal(v.since_wall_ms, WALL + NOW);
    assert_int_equal(v.failures, 1);
    assert_false(claim(h, 1, NOW + DEMOTE_MAX));
    health_destroy(&h);
}

static void second_silence_demotes(void **state)
{
    (void)state;
    struct health *h = make(64);
    demote(h, 1, NOW);
    struct health_view v = view(h, 1);
    assert_int_equal(v.strikes, 2);
    assert_in_range(v.again_mono_ms, NOW + 54000, NOW + 66000);
    health_destroy(&h);
}

static void success_between_silences_forgives_the_first(void **state)
{
    (void)state;
    struct health *h = make(64);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 1), HEALTH_HEALTHY);
    assert_int_equal(view(h, 1).strikes, 0);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW + 2), HEALTH_SUSPECT);
    health_destroy(&h);
}

static void refusals_back_off_by_their_name(void **state)
{
    (void)state;
    static const struct {
        enum health_event event;
        enum health_state state;
    } cases[] = {{HEALTH_EVENT_DOWN, HEALTH_DOWN},
                 {HEALTH_EVENT_BUSY, HEALTH_BUSY},
                 {HEALTH_EVENT_REFUSING, HEALTH_REFUSING}};
    struct health *h = make(64);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(tell(h, i, cases[i].event, NOW), cases[i].state);
        assert_in_range(view(h, i).again_mono_ms, NOW + 4500, NOW + 5500);
        assert_int_equal(view(h, i).strikes, 0);
        assert_int_equal(tell(h, i, HEALTH_EVENT_SUCCESS, NOW), HEALTH_HEALTHY);
        assert_int_equal(view(h, i).again_mono_ms, 0);
    }
    health_destroy(&h);
}

static void broken_demotes_at_once(void **state)
{
    (void)state;
    struct health *h = make(64);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_BROKEN, NOW), HEALTH_DEMOTED);
    assert_true(view(h, 1).again_mono_ms >= NOW + 54000);
    health_destroy(&h);
}

static void refusal_does_not_end_a_demotion(void **state)
{
    (void)state;
    struct health *h = make(64);
    demote(h, 1, NOW);
    uint64_t again = view(h, 1).again_mono_ms;
    assert_int_equal(tell(h, 1, HEALTH_EVENT_DOWN, NOW + 1), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_BUSY, NOW + 1), HEALTH_DEMOTED);
    assert_int_equal(view(h, 1).again_mono_ms, again);
    health_destroy(&h);
}

static void silence_does_not_bring_a_back_off_forward(void **state)
{
    (void)state;
    struct health *h = make(64);
    (void)tell(h, 1, HEALTH_EVENT_DOWN, NOW);
    uint64_t again = view(h, 1).again_mono_ms;
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW + 1), HEALTH_DOWN);
    assert_int_equal(view(h, 1).again_mono_ms, again);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW + 2), HEALTH_DEMOTED);
    health_destroy(&h);
}

static void silence_after_a_back_off_makes_a_suspect(void **state)
{
    (void)state;
    struct health *h = make(64);
    (void)tell(h, 1, HEALTH_EVENT_DOWN, NOW);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW + MINUTE), HEALTH_SUSPECT);
    assert_int_equal(view(h, 1).again_mono_ms, 0);
    health_destroy(&h);
}

static void suspect_that_refuses_keeps_its_strike(void **state)
{
    (void)state;
    struct health *h = make(64);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_BUSY, NOW), HEALTH_BUSY);
    assert_int_equal(view(h, 1).strikes, 1);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW + MINUTE), HEALTH_DEMOTED);
    health_destroy(&h);
}

/* ---- silence behind EHLO ---- */

static void greeting_does_not_clear_a_host_that_hangs_behind_it(void **state)
{
    (void)state;
    struct health *h = make(64);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT_LATE, NOW), HEALTH_SUSPECT);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 1), HEALTH_SUSPECT);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT_LATE, NOW + 2), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 3), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_CARRIED, NOW + 4), HEALTH_HEALTHY);
    assert_int_equal(view(h, 1).strikes, 0);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT, NOW + 5), HEALTH_SUSPECT);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 6), HEALTH_HEALTHY);
    health_destroy(&h);
}

static void old_session_that_carries_does_not_clear_new_ones_being_refused(void **state)
{
    (void)state;
    struct health *h = make(64);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    (void)tell(h, 1, HEALTH_EVENT_BUSY, NOW);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_CARRIED, NOW + 1), HEALTH_BUSY);
    demote(h, 2, NOW);
    assert_int_equal(tell(h, 2, HEALTH_EVENT_CARRIED, NOW + 1), HEALTH_DEMOTED);
    (void)tell(h, 3, HEALTH_EVENT_SILENT_LATE, NOW);
    (void)tell(h, 3, HEALTH_EVENT_BUSY, NOW);
    assert_int_equal(tell(h, 3, HEALTH_EVENT_CARRIED, NOW + 1), HEALTH_BUSY);
    assert_int_equal(view(h, 3).strikes, 0);
    health_destroy(&h);
}

static void a_host_that_fails_behind_ehlo_every_time_is_not_cleared_by_ehlo(void **state)
{
    (void)state;
    struct health *h = make(64);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_DOWN_LATE, NOW), HEALTH_DOWN);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 1), HEALTH_DOWN);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_CARRIED, NOW + 2), HEALTH_HEALTHY);
    assert_int_equal(tell(h, 2, HEALTH_EVENT_BROKEN_LATE, NOW), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 2, HEALTH_EVENT_SUCCESS, NOW + 1), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 2, HEALTH_EVENT_CARRIED, NOW + 2), HEALTH_HEALTHY);
    (void)tell(h, 3, HEALTH_EVENT_DOWN_LATE, NOW);
    (void)tell(h, 3, HEALTH_EVENT_DOWN, NOW); /* refused now: its EHLO would be news */
    assert_int_equal(tell(h, 3, HEALTH_EVENT_CARRIED, NOW + 1), HEALTH_DOWN);
    assert_int_equal(tell(h, 3, HEALTH_EVENT_SUCCESS, NOW + 2), HEALTH_HEALTHY);
    health_destroy(&h);
}

static void a_recovery_is_told_once(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW);
    struct health_change change = health_tell(h, &a, HEALTH_EVENT_DOWN, NOW + 1, WALL, 0);
    assert_false(health_has_recovered(change));
    change = health_tell(h, &a, HEALTH_EVENT_SUCCESS, NOW + 2, WALL, 0);
    assert_int_equal(change.before, HEALTH_DEMOTED);
    assert_true(health_has_recovered(change));
    change = health_tell(h, &a, HEALTH_EVENT_SUCCESS, NOW + 3, WALL, 0);
    assert_false(health_has_recovered(change));
    health_destroy(&h);
}

static void a_mark_is_the_addresses_own_and_the_same_each_time(void **state)
{
    (void)state;
    struct health *h = make(64);
    uint64_t all = 0;
    for (unsigned i = 1; i <= 100; i++) {
        struct address a = host(i);
        uint64_t mark = health_mark(h, &a);
        assert_true(mark != 0 && mark == health_mark(h, &a));
        assert_in_range(__builtin_popcountll(mark), 1, 2);
        all |= mark;
    }
    assert_in_range(__builtin_popcountll(all), 32, 64); /* spread */
    health_destroy(&h);
}

static void carrying_makes_no_entry_and_counts_no_session(void **state)
{
    (void)state;
    struct health *h = make(64);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_CARRIED, NOW), HEALTH_HEALTHY);
    assert_false(view(h, 1).known);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    (void)tell(h, 1, HEALTH_EVENT_CARRIED, NOW);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    assert_int_equal(view(h, 1).successes, 2);
    assert_int_equal(view(h, 1).failures, 0);
    health_destroy(&h);
}

/* ---- back-offs ---- */

static void silent_probes_double_up_to_half_an_hour(void **state)
{
    (void)state;
    static const uint64_t minutes[] = {1, 2, 4, 8, 16, 30, 30};
    struct health *h = make(64);
    struct address a = host(1);
    uint64_t now = NOW;
    (void)tell(h, 1, HEALTH_EVENT_SILENT, now);
    for (int i = 0; i < 7; i++) {
        uint64_t wait = minutes[i] * MINUTE;
        assert_int_equal(health_tell(h, &a, HEALTH_EVENT_SILENT, now, WALL, middle_of(wait)).now,
                         HEALTH_DEMOTED);
        assert_int_equal(view(h, 1).again_mono_ms, now + wait);
        assert_false(view(h, 1).probing);
        assert_false(claim(h, 1, now + wait - 1));
        now += wait;
        assert_true(claim(h, 1, now));
    }
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, now);
    assert_false(view(h, 1).probing);
    demote(h, 1, now);
    assert_in_range(view(h, 1).again_mono_ms, now + 54000, now + 66000);
    health_destroy(&h);
}

static void jitter_stays_within_a_tenth_and_uses_it(void **state)
{
    (void)state;
    struct health *h = make(1024);
    struct random random;
    random_init_seed(&random, 1);
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        struct address a = host(1);
        (void)health_clear(h, &a);
        (void)health_tell(h, &a, HEALTH_EVENT_BROKEN, NOW, WALL, random_u64(&random));
        uint64_t wait = view(h, 1).again_mono_ms - NOW;
        least = wait < least ? wait : least;
        most = wait > most ? wait : most;
    }
    assert_in_range(least, 54000, 54200);
    assert_in_range(most, 65800, 66000);
    health_destroy(&h);
}

static void refusals_double_only_when_their_time_was_up(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    uint64_t now = NOW, wait = DOWN_FIRST;
    for (int i = 0; i < 12; i++) {
        (void)health_tell(h, &a, HEALTH_EVENT_DOWN, now, WALL, middle_of(wait));
        assert_int_equal(view(h, 1).again_mono_ms, now + wait);
        for (int k = 0; k < 100; k++) /* sessions opened together */
            (void)health_tell(h, &a, HEALTH_EVENT_DOWN, now + wait - 1, WALL, 0);
        assert_int_equal(view(h, 1).again_mono_ms, now + wait);
        now += wait;
        wait = wait * 2 < DEMOTE_MAX ? wait * 2 : DEMOTE_MAX;
    }
    health_destroy(&h);
}

static void latest_refusal_names_the_state_without_doubling(void **state)
{
    (void)state;
    struct health *h = make(64);
    (void)tell(h, 1, HEALTH_EVENT_DOWN, NOW);
    uint64_t again = view(h, 1).again_mono_ms;
    assert_int_equal(tell(h, 1, HEALTH_EVENT_REFUSING, NOW + 1), HEALTH_REFUSING);
    assert_int_equal(view(h, 1).again_mono_ms, again);
    health_destroy(&h);
}

static void late_silences_of_old_sessions_do_not_double(void **state)
{
    (void)state;
    struct health *h = make(64);
    demote(h, 1, NOW);
    uint64_t again = view(h, 1).again_mono_ms;
    for (int i = 0; i < 1000; i++)
        (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW + 5000);
    assert_int_equal(view(h, 1).again_mono_ms, again);
    health_destroy(&h);
}

static void tls_fault_is_a_matter_of_its_own(void **state)
{
    (void)state;
    struct health *h = make(64);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_TLS_BROKEN, NOW), HEALTH_HEALTHY);
    assert_int_equal(view(h, 1).tls_broken_until_mono_ms, NOW + TLS_BROKEN);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 1);
    assert_int_equal(view(h, 1).tls_broken_until_mono_ms, NOW + TLS_BROKEN);
    demote(h, 1, NOW + 2);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_TLS_BROKEN, NOW + 3), HEALTH_DEMOTED);
    health_destroy(&h);
}

/* ---- probes ---- */

static void probe_is_claimed_once_until_it_is_answered(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    demote(h, 1, NOW);
    uint64_t due = view(h, 1).again_mono_ms;
    assert_false(claim(h, 1, due - 1));
    uint64_t claimed = health_claim_probe(h, &a, due);
    assert_true(claimed != 0);
    assert_true(view(h, 1).probing);
    assert_int_equal(view(h, 1).probe_until_mono_ms, due + MINUTE);
    assert_false(claim(h, 1, due));
    health_probe_drop(h, &a, claimed);
    assert_false(view(h, 1).probing);
    assert_true(claim(h, 1, due));
    health_destroy(&h);
}

/* A session that found its host silent stays open for minutes, and another probes meanwhile. */
static void a_probe_that_has_its_verdict_takes_no_other_away(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    demote(h, 1, NOW);
    uint64_t due = view(h, 1).again_mono_ms;
    uint64_t first = health_claim_probe(h, &a, due);
    assert_true(first != 0);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, due);
    uint64_t due_again = view(h, 1).again_mono_ms;
    uint64_t second = health_claim_probe(h, &a, due_again);
    assert_true(second != 0);
    health_probe_drop(h, &a, first);
    assert_false(claim(h, 1, due_again));
    health_probe_drop(h, &a, second);
    assert_true(claim(h, 1, due_again));
    health_destroy(&h);
}

static void probe_without_a_verdict_lapses(void **state)
{
    (void)state;
    struct health *h = make(64);
    demote(h, 1, NOW);
    uint64_t due = view(h, 1).again_mono_ms;
    assert_true(claim(h, 1, due));
    assert_false(claim(h, 1, due + MINUTE - 1));
    assert_true(claim(h, 1, due + MINUTE));
    health_destroy(&h);
}

static void silent_probe_doubles_once_for_all_who_wait(void **state)
{
    (void)state;
    struct health *h = make(64);
    demote(h, 1, NOW);
    uint64_t due = view(h, 1).again_mono_ms;
    assert_true(claim(h, 1, due));
    for (int i = 0; i < 1000; i++)
        (void)tell(h, 1, HEALTH_EVENT_SILENT, due + 1000);
    assert_in_range(view(h, 1).again_mono_ms, due + 1000 + 108000, due + 1000 + 132000);
    health_destroy(&h);
}

/* ---- operators ---- */

static void demotion_by_hand_holds_for_its_time(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    health_demote(h, &a, 10 * MINUTE, NOW, WALL);
    assert_int_equal(view(h, 1).state, HEALTH_DEMOTED);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 1), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SILENT_LATE, NOW + 1), HEALTH_DEMOTED);
    assert_int_equal(tell(h, 1, HEALTH_EVENT_CARRIED, NOW + 1), HEALTH_DEMOTED);
    assert_int_equal(view(h, 1).again_mono_ms, NOW + 10 * MINUTE);
    assert_false(claim(h, 1, NOW + 10 * MINUTE - 1));
    assert_true(claim(h, 1, NOW + 10 * MINUTE));
    assert_int_equal(tell(h, 1, HEALTH_EVENT_SUCCESS, NOW + 10 * MINUTE), HEALTH_HEALTHY);
    health_destroy(&h);
}

static void demotion_by_hand_is_not_shortened_by_a_probe_under_way(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    demote(h, 1, NOW);
    uint64_t due = view(h, 1).again_mono_ms;
    assert_true(claim(h, 1, due));
    health_demote(h, &a, 24 * 60 * MINUTE, due, WALL);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, due + 1);
    assert_int_equal(view(h, 1).again_mono_ms, due + 24 * 60 * MINUTE);
    health_destroy(&h);
}

static void clearing_forgets_all_but_open_sessions(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    assert_false(health_clear(h, &a));
    health_count_session(h, &a, 1, NOW);
    demote(h, 1, NOW);
    (void)tell(h, 1, HEALTH_EVENT_TLS_BROKEN, NOW);
    health_learn(h, &a, HEALTH_EHLO, 50);
    assert_true(health_clear(h, &a));
    struct health_view v = view(h, 1);
    assert_int_equal(v.state, HEALTH_HEALTHY);
    assert_int_equal(v.failures, 0);
    assert_int_equal(v.tls_broken_until_mono_ms, 0);
    assert_int_equal(v.latency_ms[HEALTH_EHLO], 0);
    assert_int_equal(v.parked, 1);
    health_destroy(&h);
}

static void count_into(void *context, const struct health_view *v)
{
    unsigned *seen = context;
    seen[v->address.ip[15]]++;
    assert_int_equal(v->state, v->address.ip[15] % 2 ? HEALTH_SUSPECT : HEALTH_DOWN);
}

static void visit_shows_every_entry_once(void **state)
{
    (void)state;
    struct health *h = make(4096);
    for (uint32_t i = 0; i < 20; i++)
        (void)tell(h, i, i % 2 ? HEALTH_EVENT_SILENT : HEALTH_EVENT_DOWN, NOW);
    unsigned seen[256] = {0};
    health_visit(h, count_into, seen);
    for (uint32_t i = 0; i < 256; i++)
        assert_int_equal(seen[i], i < 20 ? 1 : 0);
    health_destroy(&h);
}

static void every_state_has_a_name(void **state)
{
    (void)state;
    assert_string_equal(health_state_name(HEALTH_HEALTHY), "healthy");
    assert_string_equal(health_state_name(HEALTH_SUSPECT), "suspect");
    assert_string_equal(health_state_name(HEALTH_DEMOTED), "demoted");
    assert_string_equal(health_state_name(HEALTH_DOWN), "down");
    assert_string_equal(health_state_name(HEALTH_BUSY), "busy");
    assert_string_equal(health_state_name(HEALTH_REFUSING), "refusing");
}

/* ---- patience ---- */

static void patience_follows_what_was_learned(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MAX);
    health_learn(h, &a, HEALTH_GREETING, 400); /* nothing is known of it: nothing is kept */
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MAX);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    health_learn(h, &a, HEALTH_GREETING, 400);
    assert_int_equal(view(h, 1).latency_ms[HEALTH_GREETING], 401);
    assert_in_range(patience(h, 1, HEALTH_GREETING), 3200, 3210);
    assert_int_equal(patience(h, 1, HEALTH_EHLO), PATIENCE_MAX); /* each phase by itself */
    health_learn(h, &a, HEALTH_EHLO, 2);
    assert_int_equal(patience(h, 1, HEALTH_EHLO), PATIENCE_MIN);
    health_learn(h, &a, HEALTH_TLS, UINT32_MAX);
    assert_int_equal(patience(h, 1, HEALTH_TLS), PATIENCE_MAX);
    health_destroy(&h);
}

static void slow_reply_is_learned_at_once_and_forgotten_slowly(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    for (int i = 0; i < 20; i++)
        health_learn(h, &a, HEALTH_COMMAND, 10);
    health_learn(h, &a, HEALTH_COMMAND, 500);
    assert_true(patience(h, 1, HEALTH_COMMAND) >= 4000);
    health_learn(h, &a, HEALTH_COMMAND, 10);
    assert_true(patience(h, 1, HEALTH_COMMAND) >= 3400);
    for (int i = 0; i < 30; i++)
        health_learn(h, &a, HEALTH_COMMAND, 10);
    assert_int_equal(patience(h, 1, HEALTH_COMMAND), PATIENCE_MIN);
    health_destroy(&h);
}

static void instant_replies_are_learned_too(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    health_learn(h, &a, HEALTH_EHLO, 0);
    assert_int_equal(view(h, 1).latency_ms[HEALTH_EHLO], 1);
    assert_int_equal(patience(h, 1, HEALTH_EHLO), PATIENCE_MIN);
    health_destroy(&h);
}

static void suspects_get_the_shortest_patience(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(1);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    health_learn(h, &a, HEALTH_GREETING, 4000);
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MAX);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW);
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MIN);
    (void)tell(h, 1, HEALTH_EVENT_SILENT, NOW);
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MIN);
    (void)tell(h, 1, HEALTH_EVENT_SUCCESS, NOW);
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MAX);
    health_destroy(&h);
}

static void busy_hosts_are_waited_for_and_dead_strangers_are_not(void **state)
{
    (void)state;
    struct health *h = make(64);
    struct address a = host(2);
    (void)tell(h, 1, HEALTH_EVENT_BUSY, NOW);
    assert_int_equal(patience(h, 1, HEALTH_GREETING), PATIENCE_MAX);
    (void)tell(h, 2, HEALTH_EVENT_DOWN, NOW);
    assert_int_equal(patience(h, 2, HEALTH_GREETING), PATIENCE_MIN);
    health_learn(h, &a, HEALTH_GREETING, 3000);
    assert_int_equal(patience(h, 2, HEALTH_GREETING), PATIENCE_MAX);
    health_destroy(&h);
}

/* ---- threads ---- */

enum { THREADS = 8, STORM = 4000 };

struct crowd {
    struct health *health;
    struct address address;
    pthread_barrier_t start;
    uint64_t mono_ms;
    atomic_uint claimed, suspects, reads, torn;
    atomic_bool done;
};

static void run_crowd(struct crowd *c, void *(*each)(void *))
{
    pthread_t threads[THREADS];
    pthread_barrier_init(&c->start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, each, c), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&c->start);
}

static void *storm(void *context)
{
    struct crowd *c = context;
    pthread_barrier_wait(&c->start);
    for (int i = 0; i < STORM / THREADS; i++) {
        enum health_state now =
            health_tell(c->health, &c->address, HEALTH_EVENT_SILENT, c->mono_ms, WALL, (uint64_t)i)
                .now;
        if (now == HEALTH_SUSPECT)
            atomic_fetch_add(&c->suspects, 1);
    }
    return NULL;
}

static void storm_of_silences_is_one_suspicion_and_one_demotion(void **state)
{
    (void)state;
    struct crowd c = {.health = make(64), .address = host(1), .mono_ms = NOW};
    run_crowd(&c, storm);
    assert_int_equal(atomic_load(&c.suspects), 1);
    struct health_view v = view(c.health, 1);
    assert_int_equal(v.state, HEALTH_DEMOTED);
    assert_int_equal(v.failures, STORM);
    assert_in_range(v.again_mono_ms, NOW + 54000, NOW + 66000);
    c.mono_ms = v.again_mono_ms; /* all who try it when its time is up: one doubling */
    run_crowd(&c, storm);
    assert_in_range(view(c.health, 1).again_mono_ms, c.mono_ms + 108000, c.mono_ms + 132000);
    health_destroy(&c.health);
}

static void *claimer(void *context)
{
    struct crowd *c = context;
    pthread_barrier_wait(&c->start);
    for (int i = 0; i < 100; i++)
        if (health_claim_probe(c->health, &c->address, c->mono_ms) != 0)
            atomic_fetch_add(&c->claimed, 1);
    return NULL;
}

static void eight_threads_claim_one_probe(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct crowd c = {.health = make(64), .address = host(1), .mono_ms = NOW + 10 * MINUTE};
        demote(c.health, 1, NOW);
        run_crowd(&c, claimer);
        assert_int_equal(atomic_load(&c.claimed), 1);
        health_destroy(&c.health);
    }
}

/* In whatever the writer below leaves, demotion, its time and two strikes go together. A run of
 * torn reads counts once: it is one writer that lost its processor half way. */
static void *reader(void *context)
{
    struct crowd *c = context;
    bool was_torn = false;
    while (!atomic_load(&c->done)) {
        struct health_view v = health_view(c->health, &c->address);
        bool demoted = v.state == HEALTH_DEMOTED;
        bool torn = v.known && (demoted != (v.again_mono_ms != 0) || demoted != (v.strikes == 2));
        if (torn && !was_torn)
            atomic_fetch_add(&c->torn, 1);
        was_torn = torn;
        atomic_fetch_add(&c->reads, 1);
        (void)health_patience_ms(c->health, &c->address, HEALTH_EHLO);
    }
    return NULL;
}

static void readers_see_whole_entries(void **state)
{
    (void)state;
    struct crowd c = {.health = make(8), .address = host(0), .mono_ms = NOW};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, &c), 0);
    for (uint32_t i = 0; atomic_load(&c.reads) < 200000; i++) {
        (void)tell(c.health, 0, HEALTH_EVENT_SILENT, NOW);
        (void)tell(c.health, 0, HEALTH_EVENT_SILENT, NOW);
        (void)tell(c.health, 0, HEALTH_EVENT_SUCCESS, NOW);
        for (uint32_t k = 1; i % 16 == 0 && k < 9; k++) /* and it is forgotten, for others */
            (void)tell(c.health, i + k, HEALTH_EVENT_SUCCESS, NOW + i);
    }
    atomic_store(&c.done, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_in_range(atomic_load(&c.torn), 0, 10); /* several times that without the sequence */
    health_destroy(&c.health);
}

static void *visitor(void *context)
{
    struct crowd *c = context;
    pthread_barrier_wait(&c->start);
    for (int i = 0; i < 2000; i++) {
        health_count_session(c->health, &c->address, 1, NOW);
        (void)health_tell(c->health, &c->address, (enum health_event)(i % 11), NOW + (uint64_t)i,
                          WALL, (uint64_t)i);
        health_learn(c->health, &c->address, HEALTH_COMMAND, (uint32_t)i);
        health_count_session(c->health, &c->address, -1, NOW);
    }
    return NULL;
}

static void sessions_are_counted_back_to_none(void **state)
{
    (void)state;
    struct crowd c = {.health = make(8), .address = host(0)};
    run_crowd(&c, visitor);
    assert_int_equal(view(c.health, 0).parked, 0);
    assert_true(view(c.health, 0).known);
    health_destroy(&c.health);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stranger_is_healthy_and_unknown),
        cmocka_unit_test(first_silence_makes_a_suspect),
        cmocka_unit_test(second_silence_demotes),
        cmocka_unit_test(success_between_silences_forgives_the_first),
        cmocka_unit_test(refusals_back_off_by_their_name),
        cmocka_unit_test(broken_demotes_at_once),
        cmocka_unit_test(refusal_does_not_end_a_demotion),
        cmocka_unit_test(silence_does_not_bring_a_back_off_forward),
        cmocka_unit_test(silence_after_a_back_off_makes_a_suspect),
        cmocka_unit_test(suspect_that_refuses_keeps_its_strike),
        cmocka_unit_test(greeting_does_not_clear_a_host_that_hangs_behind_it),
        cmocka_unit_test(old_session_that_carries_does_not_clear_new_ones_being_refused),
        cmocka_unit_test(carrying_makes_no_entry_and_counts_no_session),
        cmocka_unit_test(silent_probes_double_up_to_half_an_hour),
        cmocka_unit_test(jitter_stays_within_a_tenth_and_uses_it),
        cmocka_unit_test(refusals_double_only_when_their_time_was_up),
        cmocka_unit_test(a_host_that_fails_behind_ehlo_every_time_is_not_cleared_by_ehlo),
        cmocka_unit_test(a_recovery_is_told_once),
        cmocka_unit_test(a_mark_is_the_addresses_own_and_the_same_each_time),
        cmocka_unit_test(latest_refusal_names_the_state_without_doubling),
        cmocka_unit_test(late_silences_of_old_sessions_do_not_double),
        cmocka_unit_test(tls_fault_is_a_matter_of_its_own),
        cmocka_unit_test(probe_is_claimed_once_until_it_is_answered),
        cmocka_unit_test(probe_without_a_verdict_lapses),
        cmocka_unit_test(a_probe_that_has_its_verdict_takes_no_other_away),
        cmocka_unit_test(silent_probe_doubles_once_for_all_who_wait),
        cmocka_unit_test(demotion_by_hand_holds_for_its_time),
        cmocka_unit_test(demotion_by_hand_is_not_shortened_by_a_probe_under_way),
        cmocka_unit_test(clearing_forgets_all_but_open_sessions),
        cmocka_unit_test(visit_shows_every_entry_once),
        cmocka_unit_test(every_state_has_a_name),
        cmocka_unit_test(patience_follows_what_was_learned),
        cmocka_unit_test(slow_reply_is_learned_at_once_and_forgotten_slowly),
        cmocka_unit_test(instant_replies_are_learned_too),
        cmocka_unit_test(suspects_get_the_shortest_patience),
        cmocka_unit_test(busy_hosts_are_waited_for_and_dead_strangers_are_not),
        cmocka_unit_test(storm_of_silences_is_one_suspicion_and_one_demotion),
        cmocka_unit_test(eight_threads_claim_one_probe),
        cmocka_unit_test(readers_see_whole_entries),
        cmocka_unit_test(sessions_are_counted_back_to_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
