/* The limit per client address holds over all threads, and nothing stays counted. */
#include "workers/inbound/client_counts.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

enum { MAX = 3, THREADS = 4, ROUNDS = 20000, CLIENTS = 5000 };

static struct address client(uint32_t n, uint16_t port)
{
    const uint8_t ip[4] = {10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    return address_from_v4(ip, port);
}

static void a_client_has_as_many_as_the_limit_whatever_its_ports(void **state)
{
    (void)state;
    struct client_counts *c = client_counts_create();
    for (uint16_t port = 1; (int)port <= (int)MAX; port++) {
        struct address a = client(1, port);
        assert_true(client_counts_enter(c, &a, MAX));
    }
    struct address a = client(1, 99), other = client(2, 99);
    assert_false(client_counts_enter(c, &a, MAX));
    assert_true(client_counts_enter(c, &other, MAX));
    client_counts_leave(c, &a);
    assert_true(client_counts_enter(c, &a, MAX));
    assert_false(client_counts_enter(c, &a, MAX));
    for (int i = 0; i < MAX; i++)
        client_counts_leave(c, &a);
    client_counts_leave(c, &other);
    client_counts_destroy(&c); /* asserts that nothing is left */
    assert_null(c);
}

static void a_limit_that_a_reload_lowers_holds_for_who_comes_next(void **state)
{
    (void)state;
    struct client_counts *c = client_counts_create();
    struct address a = client(1, 1);
    for (int i = 0; i < MAX; i++)
        assert_true(client_counts_enter(c, &a, MAX));
    assert_false(client_counts_enter(c, &a, 1));
    for (int i = 0; i < MAX; i++)
        client_counts_leave(c, &a);
    assert_true(client_counts_enter(c, &a, 1));
    client_counts_leave(c, &a);
    client_counts_destroy(&c);
}

static void who_is_refused_is_not_counted(void **state)
{
    (void)state;
    struct client_counts *c = client_counts_create();
    struct address a = client(1, 1);
    assert_false(client_counts_enter(c, &a, 0));
    client_counts_destroy(&c); /* asserts that nothing is left */
    assert_null(c);
}

static void many_clients_are_counted_apart(void **state)
{
    (void)state;
    struct client_counts *c = client_counts_create();
    for (int times = 0; times < 2; times++)
        for (uint32_t n = 0; n < CLIENTS; n++) {
            struct address a = client(n, 1);
            assert_int_equal(client_counts_enter(c, &a, 1), times == 0);
        }
    for (uint32_t n = 0; n < CLIENTS; n++) {
        struct address a = client(n, 1);
        client_counts_leave(c, &a);
    }
    client_counts_destroy(&c);
}

struct shared {
    struct client_counts *counts;
    atomic_int inside;
    atomic_bool exceeded;
};

static void *come_and_go(void *context)
{
    struct shared *s = context;
    struct address a = client(1, 1);
    for (int i = 0; i < ROUNDS; i++) {
        if (!client_counts_enter(s->counts, &a, MAX))
            continue;
        if (atomic_fetch_add(&s->inside, 1) >= MAX)
            atomic_store(&s->exceeded, true);
        atomic_fetch_sub(&s->inside, 1);
        client_counts_leave(s->counts, &a);
    }
    return NULL;
}

static void threads_never_get_past_the_limit_together(void **state)
{
    (void)state;
    struct shared s = {.counts = client_counts_create()};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &s), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_false(atomic_load(&s.exceeded));
    client_counts_destroy(&s.counts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_has_as_many_as_the_limit_whatever_its_ports),
        cmocka_unit_test(a_limit_that_a_reload_lowers_holds_for_who_comes_next),
        cmocka_unit_test(who_is_refused_is_not_counted),
        cmocka_unit_test(many_clients_are_counted_apart),
        cmocka_unit_test(threads_never_get_past_the_limit_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
