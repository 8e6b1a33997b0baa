/* Destinations: how many lanes a queue is granted, and who gets what from it. */
#include "core/queue/destination.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { LANES_MAX = 20, DELIVERIES = 100, UNPROVEN_MAX = 3, WORKER = 0 };

struct world {
    struct destination_table *table;
    struct destination *destination;
    struct message messages[DELIVERIES];
    struct delivery deliveries[DELIVERIES];
    unsigned next;  /* delivery to enqueue */
    unsigned lanes; /* granted so far */
};

static struct world *create(void)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->table = destination_table_create();
    assert_non_null(w->table);
    w->destination = destination_acquire(w->table, SLICE_LIT("mx.example"));
    assert_non_null(w->destination);
    for (int i = 0; i < DELIVERIES; i++) {
        w->deliveries[i].message = &w->messages[i];
        w->deliveries[i].recipient_count = 1;
        list_init(&w->deliveries[i].shared.queue_link);
    }
    return w;
}

/* Queues `count` more; what the destination asks for is granted. */
static void enqueue(struct world *w, unsigned count)
{
    struct idle_lane *idle = NULL;
    for (unsigned i = 0; i < count; i++)
        w->lanes += destination_enqueue(w->destination, &w->deliveries[w->next++], WORKER,
                                        LANES_MAX, &idle) == DESTINATION_OPEN_LANE;
}

/* A session got through: whoever had it asks for more lanes until no more are granted. */
static void get_through(struct world *w)
{
    destination_session_ready(w->destination);
    while (destination_lane_add(w->destination, LANES_MAX))
        w->lanes++;
}

static void destroy(struct world *w)
{
    struct link taken;
    list_init(&taken);
    (void)destination_take_all(w->destination, &taken);
    while (w->lanes-- > 0)
        (void)destination_lane_end(w->destination, true);
    destination_release(&w->destination);
    destination_table_destroy(&w->table);
    free(w);
}

static void a_destination_that_nobody_has_reached_gets_a_handful_of_lanes(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, 1);
    assert_int_equal(w->lanes, 1);
    enqueue(w, DELIVERIES - 1);
    assert_int_equal(w->lanes, UNPROVEN_MAX);
    assert_false(destination_lane_add(w->destination, LANES_MAX));
    destroy(w);
}

static void lanes_double_as_sessions_get_through_up_to_the_limit(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, DELIVERIES);
    unsigned before = w->lanes, through = 0;
    while (w->lanes < LANES_MAX) {
        for (; through < before; through++)
            get_through(w);
        assert_int_equal(w->lanes, 2 * before < LANES_MAX ? 2 * before : LANES_MAX);
        before = w->lanes;
    }
    get_through(w);
    assert_int_equal(w->lanes, LANES_MAX);
    for (through++; through > 0; through--)
        destination_session_gone(w->destination);
    destroy(w);
}

static void no_lane_is_granted_beyond_the_mail_that_waits(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, 2);
    assert_int_equal(w->lanes, 2);
    get_through(w);
    assert_int_equal(w->lanes, 2);
    destination_session_gone(w->destination);
    destroy(w);
}

static void deliveries_of_one_message_are_taken_together_up_to_the_limit(void **state)
{
    (void)state;
    struct world *w = create();
    for (int i = 0; i < 4; i++)
        w->deliveries[i].message = &w->messages[i == 1 ? 1 : 0]; /* another one in between */
    enqueue(w, 4);
    struct link taken;
    list_init(&taken);
    assert_int_equal(destination_take(w->destination, 2, &taken), 2);
    assert_ptr_equal(taken.next, &w->deliveries[0].shared.queue_link);
    assert_ptr_equal(taken.prev, &w->deliveries[2].shared.queue_link);
    list_init(&taken);
    assert_int_equal(destination_take(w->destination, 100, &taken), 1);
    assert_ptr_equal(taken.next, &w->deliveries[3].shared.queue_link);
    list_init(&taken);
    assert_int_equal(destination_take(w->destination, 100, &taken), 1);
    assert_ptr_equal(taken.next, &w->deliveries[1].shared.queue_link);
    assert_int_equal(destination_take(w->destination, 100, &taken), 0);
    destroy(w);
}

static void a_lane_that_enters_idle_is_called_by_the_next_mail(void **state)
{
    (void)state;
    struct world *w = create();
    struct idle_lane lane = {.worker = WORKER}, *called = NULL;
    list_init(&lane.link);
    assert_true(destination_idle_enter(w->destination, &lane));
    assert_int_equal(
        destination_enqueue(w->destination, &w->deliveries[0], WORKER, LANES_MAX, &called),
        DESTINATION_CALL_IDLE);
    assert_ptr_equal(called, &lane);
    assert_false(destination_idle_leave(w->destination, &lane));
    assert_false(destination_idle_enter(w->destination, &lane)); /* mail is there */
    destroy(w);
}

static void a_withdrawn_delivery_is_out_of_the_queue_once(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, 2);
    assert_true(destination_withdraw(w->table, &w->deliveries[0]));
    assert_false(destination_withdraw(w->table, &w->deliveries[0]));
    assert_int_equal(destination_figures(w->destination).queued, 1);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_destination_that_nobody_has_reached_gets_a_handful_of_lanes),
        cmocka_unit_test(lanes_double_as_sessions_get_through_up_to_the_limit),
        cmocka_unit_test(no_lane_is_granted_beyond_the_mail_that_waits),
        cmocka_unit_test(deliveries_of_one_message_are_taken_together_up_to_the_limit),
        cmocka_unit_test(a_lane_that_enters_idle_is_called_by_the_next_mail),
        cmocka_unit_test(a_withdrawn_delivery_is_out_of_the_queue_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
