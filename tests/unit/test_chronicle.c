/* The chronicle: failures of one kind are one entry with a count, rings keep the newest, names and
 * races are found again by address, and all of it is bounded. */
#include "workers/chronicle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static struct address address_of(const char *text)
{
    struct address a;
    assert_true(address_parse_ip(slice_str(text), &a));
    return a;
}

static struct failure failure_of(const char *ip, uint16_t code, uint64_t wall_ms)
{
    struct failure f = {.kind = FAILURE_BOUNCED,
                        .has_address = true,
                        .address = address_of(ip),
                        .phase = "RCPT",
                        .reply = {.code = code, .class = 5, .subject = 1, .detail = 1},
                        .wall_ms = wall_ms};
    return f;
}

static int set_up(void **state)
{
    *state = chronicle_create();
    return *state == NULL;
}

static int tear_down(void **state)
{
    struct chronicle *c = *state;
    chronicle_destroy(&c);
    return 0;
}

static void failures_of_one_reason_are_counted_and_the_last_one_is_shown(void **state)
{
    struct chronicle *c = *state;
    struct failure list[CHRONICLE_FAILURES];
    for (uint64_t i = 0; i < 5; i++) {
        struct failure f = failure_of("192.0.2.1", 550, 100 + i);
        (void)snprintf(f.domain, sizeof f.domain, "d%d.example", (int)i);
        f.reply.text_len =
            (uint16_t)snprintf(f.reply.text, sizeof f.reply.text, "no such user %d", (int)i);
        chronicle_failure(c, &f);
    }
    assert_int_equal(chronicle_failures(c, list), 1);
    assert_int_equal(list[0].count, 5);
    assert_int_equal(list[0].first_wall_ms, 100);
    assert_int_equal(list[0].wall_ms, 104);
    assert_string_equal(list[0].domain, "d4.example");
    assert_string_equal(list[0].reply.text, "no such user 4");
}

static void another_exchange_phase_kind_code_or_status_is_another_reason(void **state)
{
    struct chronicle *c = *state;
    struct failure list[CHRONICLE_FAILURES], others[6];
    for (int i = 0; i < 6; i++)
        others[i] = failure_of("192.0.2.1", 550, 1);
    others[1].address = address_of("192.0.2.2");
    others[2].phase = "DATA";
    others[3].kind = FAILURE_DEFERRED;
    others[4].reply.code = 551;
    others[5].reply.detail = 2;
    for (int i = 0; i < 6; i++)
        chronicle_failure(c, &others[i]);
    assert_int_equal(chronicle_failures(c, list), 6);
}

static void the_newest_comes_first_and_the_longest_not_met_makes_place(void **state)
{
    struct chronicle *c = *state;
    struct failure list[CHRONICLE_FAILURES];
    for (unsigned i = 0; i < CHRONICLE_FAILURES; i++) {
        struct failure f = failure_of("192.0.2.1", (uint16_t)(500 + i), 1000 + i);
        chronicle_failure(c, &f);
    }
    struct failure again = failure_of("192.0.2.1", 500, 5000),
                   more = failure_of("192.0.2.1", 599, 6000);
    chronicle_failure(c, &again); /* the oldest is met anew */
    chronicle_failure(c, &more);
    assert_int_equal(chronicle_failures(c, list), CHRONICLE_FAILURES);
    assert_int_equal(list[0].reply.code, 599);
    assert_int_equal(list[1].reply.code, 500);
    assert_int_equal(list[1].count, 2);
    for (unsigned i = 2; i < CHRONICLE_FAILURES; i++) {
        assert_int_not_equal(list[i].reply.code, 501);
        assert_true(list[i].wall_ms <= list[i - 1].wall_ms);
    }
}

static void the_last_changes_of_health_are_kept_oldest_first(void **state)
{
    struct chronicle *c = *state;
    static struct chronicle_change list[CHRONICLE_CHANGES];
    assert_int_equal(chronicle_changes(c, list), 0);
    for (uint64_t i = 0; i < CHRONICLE_CHANGES + 10; i++)
        chronicle_change(c, &(struct chronicle_change){.wall_ms = i, .now = HEALTH_DEMOTED});
    assert_int_equal(chronicle_changes(c, list), CHRONICLE_CHANGES);
    assert_int_equal(list[0].wall_ms, 10);
    assert_int_equal(list[CHRONICLE_CHANGES - 1].wall_ms, CHRONICLE_CHANGES + 9);
}

static void an_hour_of_samples_is_kept_oldest_first(void **state)
{
    struct chronicle *c = *state;
    static struct chronicle_sample list[CHRONICLE_SAMPLES];
    assert_int_equal(CHRONICLE_SAMPLES * CHRONICLE_SAMPLE_MS, 3600000);
    chronicle_sample(c, &(struct chronicle_sample){.wall_ms = 7});
    assert_int_equal(chronicle_samples(c, list), 1);
    for (uint64_t i = 0; i < CHRONICLE_SAMPLES; i++)
        chronicle_sample(c, &(struct chronicle_sample){.wall_ms = 100 + i, .delivered = i});
    assert_int_equal(chronicle_samples(c, list), CHRONICLE_SAMPLES);
    assert_int_equal(list[0].wall_ms, 100);
    assert_int_equal(list[CHRONICLE_SAMPLES - 1].delivered, CHRONICLE_SAMPLES - 1);
}

static void races_and_names_are_found_by_address(void **state)
{
    struct chronicle *c = *state;
    struct address a = address_of("192.0.2.1"), b = address_of("2001:db8::1");
    char longest[DOMAIN_SIZE];
    memset(longest, 'm', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    chronicle_connect(c, &a, "mx1.example.org");
    chronicle_race(c, &a, false);
    chronicle_race(c, &b, true);
    chronicle_race(c, &b, true);
    chronicle_connect(c, &b, longest);
    struct chronicle_exchange x = chronicle_exchange(c, &a), y = chronicle_exchange(c, &b);
    assert_string_equal(x.name, "mx1.example.org");
    assert_int_equal(x.races_lost, 1);
    assert_int_equal(x.races_won, 0);
    assert_int_equal(y.races_won, 2);
    assert_string_equal(y.name, longest);
    struct address nobody = address_of("192.0.2.9");
    assert_string_equal(chronicle_exchange(c, &nobody).name, "");
}

static void an_address_in_use_outlasts_any_number_of_others(void **state)
{
    struct chronicle *c = *state;
    struct address kept = address_of("192.0.2.1");
    char text[32];
    chronicle_race(c, &kept, true);
    for (unsigned i = 0; i < 10 * CHRONICLE_EXCHANGES; i++) {
        (void)snprintf(text, sizeof text, "10.%u.%u.%u", i >> 16 & 255, i >> 8 & 255, i & 255);
        struct address other = address_of(text);
        chronicle_connect(c, &other, text);
        if (i % 4 == 0)
            chronicle_connect(c, &kept, "mx1.example.org");
        assert_string_equal(chronicle_exchange(c, &other).name, text);
    }
    assert_int_equal(chronicle_exchange(c, &kept).races_won, 1);
}

static void nothing_happens_without_one(void **state)
{
    (void)state;
    struct address a = address_of("192.0.2.1");
    struct failure f = failure_of("192.0.2.1", 550, 1), list[CHRONICLE_FAILURES];
    chronicle_failure(NULL, &f);
    chronicle_connect(NULL, &a, "x");
    chronicle_race(NULL, &a, true);
    assert_int_equal(chronicle_failures(NULL, list), 0);
    assert_string_equal(chronicle_exchange(NULL, &a).name, "");
}

enum { ROUNDS = 2000, THREADS = 4 };

static void *write_much(void *context)
{
    struct address a = address_of("192.0.2.1");
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct failure f = failure_of("192.0.2.1", 550, i + 1);
        chronicle_failure(context, &f);
        chronicle_race(context, &a, i % 2 == 0);
        chronicle_sample(context, &(struct chronicle_sample){.wall_ms = i});
    }
    return NULL;
}

static void threads_that_write_at_once_lose_no_count(void **state)
{
    struct chronicle *c = *state;
    pthread_t threads[THREADS];
    static struct failure list[CHRONICLE_FAILURES];
    static struct chronicle_sample samples[CHRONICLE_SAMPLES];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_much, c), 0);
    (void)chronicle_failures(c, list);
    (void)chronicle_samples(c, samples);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    struct address a = address_of("192.0.2.1");
    assert_int_equal(chronicle_failures(c, list), 1);
    assert_int_equal(list[0].count, THREADS * ROUNDS);
    assert_int_equal(chronicle_exchange(c, &a).races_won, THREADS * ROUNDS / 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(failures_of_one_reason_are_counted_and_the_last_one_is_shown),
        TEST(another_exchange_phase_kind_code_or_status_is_another_reason),
        TEST(the_newest_comes_first_and_the_longest_not_met_makes_place),
        TEST(the_last_changes_of_health_are_kept_oldest_first),
        TEST(an_hour_of_samples_is_kept_oldest_first),
        TEST(races_and_names_are_found_by_address),
        TEST(an_address_in_use_outlasts_any_number_of_others),
        TEST(nothing_happens_without_one),
        TEST(threads_that_write_at_once_lose_no_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
