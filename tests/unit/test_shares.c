/* How many recipients of each domain are queued: exact but for domains that meet, never too few. */
#include "core/queue/shares.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <cmocka.h>

enum { DOMAINS = 10000, EACH = 100, TURNS = 20000 };

static struct slice name(unsigned n, char text[32])
{
    return slice_of(text, (size_t)snprintf(text, 32, "d%u.example", n));
}

static void what_came_and_did_not_leave_is_counted(void **state)
{
    (void)state;
    struct shares *s = shares_create(1);
    assert_non_null(s);
    assert_int_equal(shares_of(s, SLICE_LIT("x.example")), 0);
    shares_add(s, SLICE_LIT("x.example"), 3);
    shares_add(s, SLICE_LIT("y.example"), 50);
    shares_drop(s, SLICE_LIT("x.example"), 1);
    assert_int_equal(shares_of(s, SLICE_LIT("x.example")), 2);
    assert_int_equal(shares_of(s, SLICE_LIT("y.example")), 50);
    assert_int_equal(shares_of(s, SLICE_LIT("z.example")), 0);
    shares_destroy(&s);
    assert_null(s);
}

static void of_a_million_none_counts_too_few_or_a_thousandth_too_many(void **state)
{
    (void)state;
    struct shares *s = shares_create(7);
    char text[32];
    for (unsigned n = 0; n < DOMAINS; n++)
        shares_add(s, name(n, text), EACH);
    for (unsigned n = 0; n < DOMAINS; n++) {
        uint64_t count = shares_of(s, name(n, text));
        assert_true(count >= EACH && count < EACH + DOMAINS * EACH / 1000);
    }
    for (unsigned n = 0; n < DOMAINS; n++)
        shares_drop(s, name(n, text), EACH);
    for (unsigned n = 0; n < DOMAINS; n++)
        assert_int_equal(shares_of(s, name(n, text)), 0);
    shares_destroy(&s);
}

static void *change(void *context)
{
    struct shares *s = context;
    for (int i = 0; i < TURNS; i++) {
        shares_add(s, SLICE_LIT("x.example"), 2);
        shares_drop(s, SLICE_LIT("x.example"), 2);
    }
    return NULL;
}

static void others_may_ask_meanwhile(void **state)
{
    (void)state;
    struct shares *s = shares_create(3);
    pthread_t thread;
    shares_add(s, SLICE_LIT("x.example"), 5);
    assert_int_equal(pthread_create(&thread, NULL, change, s), 0);
    for (int i = 0; i < TURNS; i++) {
        uint64_t count = shares_of(s, SLICE_LIT("x.example"));
        assert_true(count == 5 || count == 7);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(shares_of(s, SLICE_LIT("x.example")), 5);
    shares_destroy(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_came_and_did_not_leave_is_counted),
        cmocka_unit_test(of_a_million_none_counts_too_few_or_a_thousandth_too_many),
        cmocka_unit_test(others_may_ask_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
