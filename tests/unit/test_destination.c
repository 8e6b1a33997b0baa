/* Destinations: how many lanes a queue is granted, and who gets what from it. */
#include "core/queue/destination.h"
#include "core/queue/priority.h"

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

/* One delivery waits behind a lane that is busy for long: it need not. */
static void beside_a_lane_that_is_long_at_work_another_is_granted_while_mail_waits(void **state)
{
    (void)state;
    struct world *w = create();
    struct link taken;
    list_init(&taken);
    enqueue(w, 1);
    assert_int_equal(destination_take(w->destination, 100, &taken), 1);
    assert_false(destination_lane_add_beside(w->destination, LANES_MAX)); /* nothing waits */
    enqueue(w, 1);
    assert_int_equal(w->lanes, 1);
    assert_false(destination_lane_add(w->destination, LANES_MAX)); /* as many lanes as mail */
    assert_false(destination_lane_add_beside(w->destination, 1));
    while (destination_lane_add_beside(w->destination, LANES_MAX))
        w->lanes++;
    assert_int_equal(w->lanes, UNPROVEN_MAX);
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

/* Takes one transaction's deliveries into `list`. */
static unsigned take(struct world *w, struct link *list)
{
    list_init(list);
    return destination_take(w->destination, 100, list);
}

/* The next to be taken is this one, alone. */
static void assert_next(struct world *w, int delivery)
{
    struct link taken;
    assert_int_equal(take(w, &taken), 1);
    assert_ptr_equal(taken.next, &w->deliveries[delivery].shared.queue_link);
}

static void what_is_put_back_is_the_front_again_in_its_order(void **state)
{
    (void)state;
    struct world *w = create();
    w->deliveries[1].message = &w->messages[0]; /* both are one transaction */
    enqueue(w, 3);
    struct link taken;
    assert_int_equal(take(w, &taken), 2);
    enqueue(w, 1); /* comes while they are out */
    destination_put_back(w->destination, &taken);
    assert_true(list_empty(&taken));
    assert_int_equal(destination_figures(w->destination).queued, 4);
    assert_int_equal(take(w, &taken), 2);
    assert_ptr_equal(taken.next, &w->deliveries[0].shared.queue_link);
    assert_ptr_equal(taken.prev, &w->deliveries[1].shared.queue_link);
    assert_next(w, 2);
    assert_next(w, 3);
    destroy(w);
}

static void putting_nothing_back_changes_nothing(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, 1);
    struct link none;
    list_init(&none);
    destination_put_back(w->destination, &none);
    assert_int_equal(destination_figures(w->destination).queued, 1);
    assert_next(w, 0);
    destroy(w);
}

static void what_is_put_back_keeps_its_destination_and_can_be_withdrawn(void **state)
{
    (void)state;
    struct world *w = create();
    w->deliveries[1].message = &w->messages[0];
    enqueue(w, 2);
    struct link taken;
    assert_int_equal(take(w, &taken), 2);
    assert_false(destination_withdraw(w->table, &w->deliveries[0])); /* a session has it */
    destination_put_back(w->destination, &taken);
    while (w->lanes-- > 0)
        (void)destination_lane_end(w->destination, true);
    destination_release(&w->destination); /* theirs are left */
    assert_true(destination_withdraw(w->table, &w->deliveries[1]));
    assert_true(destination_withdraw(w->table, &w->deliveries[0]));
    destination_table_destroy(&w->table); /* none is left */
    free(w);
}

static void transactional_mail_put_back_is_taken_before_bulk_again(void **state)
{
    (void)state;
    struct world *w = create();
    w->messages[1].priority = PRIORITY_TRANSACTIONAL;
    enqueue(w, 2);
    struct link taken;
    assert_int_equal(take(w, &taken), 1);
    assert_ptr_equal(taken.next, &w->deliveries[1].shared.queue_link);
    assert_int_equal(destination_figures(w->destination).transactional, 0);
    destination_put_back(w->destination, &taken);
    assert_int_equal(destination_figures(w->destination).transactional, 1);
    assert_next(w, 1);
    assert_next(w, 0);
    destroy(w);
}

static void a_turn_is_not_spent_by_what_is_put_back(void **state)
{
    (void)state;
    struct world *w = create();
    enum { BULK = PRIORITY_BULK_EVERY }; /* the delivery behind those before it in the turn */
    for (int i = 0; i < 2 * PRIORITY_BULK_EVERY; i++)
        w->messages[i].priority = i == BULK ? PRIORITY_BULK : PRIORITY_TRANSACTIONAL;
    enqueue(w, 2 * PRIORITY_BULK_EVERY);
    struct link taken;
    for (int i = 0; i < PRIORITY_BULK_EVERY - 1; i++) {
        assert_int_equal(take(w, &taken), 1);
        destination_put_back(w->destination, &taken); /* taken and put back, it counts for none */
        assert_next(w, i);
    }
    assert_int_equal(take(w, &taken), 1);
    assert_ptr_equal(taken.next, &w->deliveries[BULK].shared.queue_link);
    destination_put_back(w->destination, &taken);
    assert_next(w, BULK);
    assert_next(w, PRIORITY_BULK_EVERY - 1);
    destroy(w);
}

static void a_lane_that_steps_aside_makes_room_for_another(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, DELIVERIES);
    assert_false(destination_lane_add(w->destination, LANES_MAX));
    assert_true(destination_step_aside(w->destination, LANES_MAX));
    struct destination_figures f = destination_figures(w->destination);
    assert_int_equal(f.lanes, UNPROVEN_MAX - 1);
    assert_int_equal(f.aside, 1);
    assert_true(destination_lane_add(w->destination, LANES_MAX));
    assert_false(destination_lane_add(w->destination, LANES_MAX));
    destination_aside_over(w->destination);
    f = destination_figures(w->destination);
    assert_int_equal(f.lanes, UNPROVEN_MAX); /* its right is not given back twice */
    assert_int_equal(f.aside, 0);
    destroy(w);
}

static void no_more_lanes_step_aside_than_there_may_be(void **state)
{
    (void)state;
    enum { MAX = 2 };
    struct world *w = create();
    enqueue(w, 1);
    for (int i = 0; i < MAX; i++) {
        assert_true(destination_step_aside(w->destination, MAX));
        destination_lane_begin(w->destination);
    }
    assert_false(destination_step_aside(w->destination, MAX));
    assert_int_equal(destination_figures(w->destination).lanes, 1); /* it keeps its right */
    destination_aside_over(w->destination);
    assert_true(destination_step_aside(w->destination, MAX));
    destination_lane_begin(w->destination);
    for (int i = 0; i < MAX; i++)
        destination_aside_over(w->destination);
    destroy(w);
}

static void mail_that_finds_only_lanes_aside_gets_one_of_its_own(void **state)
{
    (void)state;
    struct world *w = create();
    enqueue(w, 1);
    assert_next(w, 0);
    assert_true(destination_step_aside(w->destination, 1));
    assert_int_equal(destination_figures(w->destination).lanes, 0);
    struct idle_lane *idle = NULL;
    assert_int_equal(destination_enqueue(w->destination, &w->deliveries[1], WORKER, 1, &idle),
                     DESTINATION_OPEN_LANE);
    destination_aside_over(w->destination);
    destroy(w); /* ends the one lane that is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_destination_that_nobody_has_reached_gets_a_handful_of_lanes),
        cmocka_unit_test(beside_a_lane_that_is_long_at_work_another_is_granted_while_mail_waits),
        cmocka_unit_test(lanes_double_as_sessions_get_through_up_to_the_limit),
        cmocka_unit_test(no_lane_is_granted_beyond_the_mail_that_waits),
        cmocka_unit_test(deliveries_of_one_message_are_taken_together_up_to_the_limit),
        cmocka_unit_test(a_lane_that_enters_idle_is_called_by_the_next_mail),
        cmocka_unit_test(a_withdrawn_delivery_is_out_of_the_queue_once),
        cmocka_unit_test(what_is_put_back_is_the_front_again_in_its_order),
        cmocka_unit_test(putting_nothing_back_changes_nothing),
        cmocka_unit_test(what_is_put_back_keeps_its_destination_and_can_be_withdrawn),
        cmocka_unit_test(transactional_mail_put_back_is_taken_before_bulk_again),
        cmocka_unit_test(a_turn_is_not_spent_by_what_is_put_back),
        cmocka_unit_test(a_lane_that_steps_aside_makes_room_for_another),
        cmocka_unit_test(no_more_lanes_step_aside_than_there_may_be),
        cmocka_unit_test(mail_that_finds_only_lanes_aside_gets_one_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
