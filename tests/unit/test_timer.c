#include "core/base/random.h"
#include "core/base/timer.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

struct probe {
    struct timer timer;
    uint64_t fired_at; /* the wheel's hand when it fired; 0 = not yet */
    unsigned fired;
};

static void on_due(struct timer *timer, void *owner)
{
    struct probe *p = CONTAINER_OF(timer, struct probe, timer);
    const struct timer_wheel *w = owner;
    p->fired_at = w->now_ms;
    p->fired++;
}

static struct timer_wheel *create(uint64_t now_ms)
{
    struct timer_wheel *w = malloc(sizeof *w);
    assert_non_null(w);
    timer_wheel_init(w, now_ms, w);
    return w;
}

static void fires_at_its_millisecond_and_not_before(void **state)
{
    (void)state;
    static const uint64_t delays[] = {1, 2, 63, 64, 65, 4095, 4096, 4097, 262143, 262144, 300000};
    for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
        struct timer_wheel *w = create(12345);
        struct probe p = {.fired = 0};
        timer_init(&p.timer, on_due);
        timer_arm(w, &p.timer, 12345 + delays[i]);
        assert_int_equal(timer_wheel_advance(w, 12345 + delays[i] - 1), 0);
        assert_int_equal(timer_wheel_advance(w, 12345 + delays[i]), 1);
        assert_int_equal(p.fired_at, 12345 + delays[i]);
        assert_false(timer_armed(&p.timer));
        free(w);
    }
}

static void one_long_jump_fires_everything_in_order(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    struct timer_wheel *w = create(777);
    struct probe *probes = calloc(COUNT, sizeof *probes);
    struct random random;
    random_init_seed(&random, 42);
    for (int i = 0; i < COUNT; i++) {
        timer_init(&probes[i].timer, on_due);
        timer_arm(w, &probes[i].timer, 777 + 1 + random_below(&random, 10000000));
    }
    assert_int_equal(timer_wheel_advance(w, 777 + 10000001), COUNT);
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(probes[i].fired_at, probes[i].timer.due_ms);
    free(probes);
    free(w);
}

static void a_disarmed_timer_never_fires(void **state)
{
    (void)state;
    struct timer_wheel *w = create(0);
    struct probe p = {.fired = 0};
    timer_init(&p.timer, on_due);
    timer_disarm(w, &p.timer);
    timer_arm(w, &p.timer, 100);
    timer_disarm(w, &p.timer);
    assert_int_equal(timer_wheel_advance(w, 1000), 0);
    assert_int_equal(timer_wheel_wait_ms(w, 1000), -1);
    free(w);
}

static void arming_again_moves_the_deadline(void **state)
{
    (void)state;
    struct timer_wheel *w = create(0);
    struct probe p = {.fired = 0};
    timer_init(&p.timer, on_due);
    timer_arm(w, &p.timer, 50);
    timer_arm(w, &p.timer, 5000);
    assert_int_equal(timer_wheel_advance(w, 4999), 0);
    assert_int_equal(timer_wheel_advance(w, 5000), 1);
    assert_int_equal(p.fired, 1);
    free(w);
}

static void a_deadline_in_the_past_fires_at_the_next_advance(void **state)
{
    (void)state;
    struct timer_wheel *w = create(1000);
    struct probe p = {.fired = 0};
    timer_init(&p.timer, on_due);
    timer_arm(w, &p.timer, 10);
    assert_int_equal(timer_wheel_advance(w, 1001), 1);
    free(w);
}

static void days_ahead_is_kept_to_the_millisecond(void **state)
{
    (void)state;
    const uint64_t five_days = UINT64_C(5) * 24 * 3600 * 1000;
    struct timer_wheel *w = create(99);
    struct probe p = {.fired = 0};
    timer_init(&p.timer, on_due);
    timer_arm(w, &p.timer, 99 + five_days);
    for (uint64_t now = 99; now < 99 + five_days - 60000; now += 60000)
        assert_int_equal(timer_wheel_advance(w, now), 0);
    assert_int_equal(timer_wheel_advance(w, 99 + five_days - 1), 0);
    assert_int_equal(timer_wheel_advance(w, 99 + five_days), 1);
    free(w);
}

/* Random arms, disarms and steps against a plain list of deadlines. */
static void agrees_with_a_plain_list_over_random_operations(void **state)
{
    (void)state;
    enum { COUNT = 200, STEPS = 20000 };
    struct probe *probes = calloc(COUNT, sizeof *probes);
    struct random random;
    random_init_seed(&random, 7);
    uint64_t now = (UINT64_C(1) << 36) - 500000; /* passes the wheel's own turn */
    struct timer_wheel *w = create(now);
    for (int i = 0; i < COUNT; i++)
        timer_init(&probes[i].timer, on_due);
    for (int step = 0; step < STEPS; step++) {
        struct probe *p = &probes[random_below(&random, COUNT)];
        if (random_below(&random, 4) == 0) {
            timer_disarm(w, &p->timer);
        } else {
            uint64_t reach = UINT64_C(1) << random_below(&random, 24);
            timer_arm(w, &p->timer, now + 1 + random_below(&random, reach));
        }
        int wait = timer_wheel_wait_ms(w, now);
        uint64_t earliest = UINT64_MAX;
        for (int i = 0; i < COUNT; i++)
            if (timer_armed(&probes[i].timer) && probes[i].timer.due_ms < earliest)
                earliest = probes[i].timer.due_ms;
        if (earliest == UINT64_MAX)
            assert_int_equal(wait, -1);
        else
            assert_true(wait >= 0 && now + (uint64_t)wait <= earliest);
        now += random_below(&random, 300);
        (void)timer_wheel_advance(w, now);
        for (int i = 0; i < COUNT; i++)
            if (timer_armed(&probes[i].timer))
                assert_true(probes[i].timer.due_ms > now);
    }
    free(probes);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fires_at_its_millisecond_and_not_before),
        cmocka_unit_test(one_long_jump_fires_everything_in_order),
        cmocka_unit_test(a_disarmed_timer_never_fires),
        cmocka_unit_test(arming_again_moves_the_deadline),
        cmocka_unit_test(a_deadline_in_the_past_fires_at_the_next_advance),
        cmocka_unit_test(days_ahead_is_kept_to_the_millisecond),
        cmocka_unit_test(agrees_with_a_plain_list_over_random_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
