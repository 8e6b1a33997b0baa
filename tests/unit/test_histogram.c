/* Each duration is counted once, in the least bucket that holds it, and several threads'
 * counts are one. */
#include "core/base/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>

static uint64_t count_of(const struct histogram_reading *r)
{
    uint64_t count = 0;
    for (unsigned i = 0; i <= HISTOGRAM_BOUNDS; i++)
        count += r->counts[i];
    return count;
}

static unsigned only_bucket(uint64_t us)
{
    struct histogram h = {0};
    struct histogram_reading r = {0};
    unsigned found = 0;
    histogram_note(&h, us, 1);
    histogram_read(&h, &r);
    assert_int_equal(count_of(&r), 1);
    assert_int_equal(r.sum_us, us);
    while (r.counts[found] == 0)
        found++;
    return found;
}

static void bounds_rise_by_two_and_a_half_at_most(void **state)
{
    (void)state;
    assert_int_equal(histogram_bound_us(0), 100);
    assert_int_equal(histogram_bound_us(HISTOGRAM_BOUNDS - 1), 500000000000);
    for (unsigned i = 1; i < HISTOGRAM_BOUNDS; i++) {
        uint64_t a = histogram_bound_us(i - 1), b = histogram_bound_us(i);
        assert_true(a < b && b * 2 <= a * 5);
    }
}

static void a_duration_counts_in_the_least_bucket_that_holds_it(void **state)
{
    (void)state;
    assert_int_equal(only_bucket(0), 0);
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        assert_int_equal(only_bucket(histogram_bound_us(i) - 1), i);
        assert_int_equal(only_bucket(histogram_bound_us(i)), i); /* le: the bound is in it */
        assert_int_equal(only_bucket(histogram_bound_us(i) + 1), i + 1);
    }
    assert_int_equal(only_bucket(UINT64_MAX), HISTOGRAM_BOUNDS);
}

static void several_at_once_count_each(void **state)
{
    (void)state;
    struct histogram a = {0}, b = {0};
    struct histogram_reading r = {0};
    histogram_note(&a, 2000, 3);
    histogram_note(&b, 7000000, 2);
    histogram_note(&b, 2000, 1);
    histogram_read(&a, &r);
    histogram_read(&b, &r);
    assert_int_equal(count_of(&r), 6);
    assert_int_equal(r.sum_us, 4 * 2000 + 2 * 7000000);
}

enum { NOTES = 200000 };

static void *note_many(void *context)
{
    for (unsigned i = 0; i < NOTES; i++)
        histogram_note(context, i, 1);
    return NULL;
}

static void what_is_read_meanwhile_never_falls_and_ends_complete(void **state)
{
    (void)state;
    struct histogram h = {0};
    struct histogram_reading r = {0};
    pthread_t thread;
    uint64_t before = 0;
    assert_int_equal(pthread_create(&thread, NULL, note_many, &h), 0);
    do {
        r = (struct histogram_reading){0};
        histogram_read(&h, &r);
        assert_true(count_of(&r) >= before);
        before = count_of(&r);
    } while (before < NOTES / 2);
    assert_int_equal(pthread_join(thread, NULL), 0);
    r = (struct histogram_reading){0};
    histogram_read(&h, &r);
    assert_int_equal(count_of(&r), NOTES);
    assert_int_equal(r.sum_us, (uint64_t)NOTES * (NOTES - 1) / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_rise_by_two_and_a_half_at_most),
        cmocka_unit_test(a_duration_counts_in_the_least_bucket_that_holds_it),
        cmocka_unit_test(several_at_once_count_each),
        cmocka_unit_test(what_is_read_meanwhile_never_falls_and_ends_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
