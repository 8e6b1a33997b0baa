/* Priority, by counts: wherever both classes wait, transactional mail goes first, and every eighth
 * taken is bulk. */
#include "tests/unit/queue_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { SLOTS = 256 };
static const uint64_t WALL = 1700000000000;

struct world {
    struct queue queue;
    uint64_t next_id;
};

static struct world *create(unsigned slots)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    const struct schedule_options options = {
        .policy = {.retry_first_ms = 1000, .retry_max_ms = 1000, .age_limit_ms = 1000000},
        .random_seed = 1};
    queue_create(&w->queue, slots, options, 0, WALL);
    return w;
}

static void destroy(struct world *w)
{
    queue_destroy(&w->queue);
    free(w);
}

static void add(struct world *w, enum envelope_priority priority, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct buf record;
        struct envelope_recipient r = {.address = SLICE_LIT("r@x.example"),
                                       .domain = SLICE_LIT("x.example")};
        struct envelope e = {.id = ++w->next_id,
                             .arrived_wall_ms = WALL,
                             .priority = (uint8_t)priority,
                             .recipients = &r,
                             .recipient_count = 1};
        buf_init(&record, ENVELOPE_ENCODED_MAX);
        envelope_encode(&e, &record);
        assert_int_equal(schedule_add(w->queue.schedule, e.id, buf_slice(&record), NULL, NULL),
                         SCHEDULE_ADDED);
        buf_fini(&record);
    }
}

static void run(struct world *w)
{
    (void)schedule_run(w->queue.schedule, 0, WALL);
}

static bool is_transactional(const struct delivery *d)
{
    return d->message->priority == PRIORITY_TRANSACTIONAL;
}

static void of_eight_jobs_seven_are_transactional_while_both_wait(void **state)
{
    (void)state;
    struct world *w = create(SLOTS);
    add(w, PRIORITY_BULK, 100);
    add(w, PRIORITY_TRANSACTIONAL, 100);
    run(w);
    for (int round = 0; round < 5; round++) {
        unsigned transactional = 0;
        for (int i = 0; i < PRIORITY_BULK_EVERY; i++)
            transactional += is_transactional(jobs_take(w->queue.jobs, &w->queue.turn));
        assert_int_equal(transactional, PRIORITY_BULK_EVERY - 1);
    }
    destroy(w);
}

static void a_class_that_is_alone_is_taken_in_its_order(void **state)
{
    (void)state;
    for (int priority = 0; priority < PRIORITIES; priority++) {
        struct world *w = create(SLOTS);
        add(w, (enum envelope_priority)priority, 50);
        run(w);
        for (uint64_t id = 1; id <= 50; id++)
            assert_int_equal(jobs_take(w->queue.jobs, &w->queue.turn)->message->id, id);
        assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
        destroy(w);
    }
}

/* What waited while no bulk was there is no debt to it. */
static void bulk_that_comes_later_gains_no_lead(void **state)
{
    (void)state;
    struct world *w = create(SLOTS);
    add(w, PRIORITY_TRANSACTIONAL, 60);
    run(w);
    for (int i = 0; i < 50; i++)
        (void)jobs_take(w->queue.jobs, &w->queue.turn);
    add(w, PRIORITY_BULK, 1);
    run(w);
    for (int i = 0; i < PRIORITY_BULK_EVERY - 1; i++)
        assert_true(is_transactional(jobs_take(w->queue.jobs, &w->queue.turn)));
    assert_false(is_transactional(jobs_take(w->queue.jobs, &w->queue.turn)));
    destroy(w);
}

static void a_ring_full_of_bulk_delays_no_transactional_job(void **state)
{
    (void)state;
    struct world *w = create(16);
    add(w, PRIORITY_BULK, 100000);
    run(w);
    add(w, PRIORITY_TRANSACTIONAL, 1);
    run(w);
    assert_true(is_transactional(jobs_take(w->queue.jobs, &w->queue.turn)));
    destroy(w);
}

static void the_queue_is_counted_by_class(void **state)
{
    (void)state;
    struct world *w = create(16);
    add(w, PRIORITY_BULK, 3);
    add(w, PRIORITY_TRANSACTIONAL, 2);
    assert_int_equal(schedule_recipients(w->queue.schedule), 5);
    assert_int_equal(schedule_recipients_of(w->queue.schedule, PRIORITY_TRANSACTIONAL), 2);
    destroy(w);
}

static void a_destination_gives_transactional_mail_first_and_every_eighth_bulk(void **state)
{
    (void)state;
    struct world *w = create(SLOTS);
    add(w, PRIORITY_BULK, 100);
    add(w, PRIORITY_TRANSACTIONAL, 20);
    run(w);
    struct destination *d = destination_acquire(w->queue.destinations, SLICE_LIT("x"));
    assert_non_null(d);
    struct idle_lane *idle;
    struct delivery *job;
    while ((job = jobs_take(w->queue.jobs, &w->queue.turn)) != NULL)
        (void)destination_enqueue(d, job, 0, 1, &idle);
    assert_int_equal(destination_figures(d).transactional, 20);
    unsigned transactional = 0, bulk = 0;
    while (transactional < 20) {
        struct link list;
        list_init(&list);
        assert_int_equal(destination_take(d, 1, &list), 1);
        if (is_transactional(
                CONTAINER_OF(list_pop_front(&list), struct delivery, shared.queue_link)))
            transactional++;
        else
            bulk++;
    }
    assert_int_equal(bulk, 20 / (PRIORITY_BULK_EVERY - 1));
    struct link rest;
    list_init(&rest);
    assert_int_equal(destination_take_all(d, &rest), 100 - bulk);
    while (list_pop_front(&rest) != NULL)
        continue;
    (void)destination_lane_end(d, true);
    destination_release(&d);
    destroy(w);
}

static void the_class_is_kept_in_the_envelope(void **state)
{
    (void)state;
    uint8_t priority = 9;
    assert_true(envelope_priority_parse(SLICE_LIT("Transactional"), &priority));
    assert_int_equal(priority, PRIORITY_TRANSACTIONAL);
    assert_false(envelope_priority_parse(SLICE_LIT("urgent"), &priority));
    struct envelope_recipient r = {.address = SLICE_LIT("r@x.example"),
                                   .domain = SLICE_LIT("x.example")};
    struct envelope e = {.id = 1, .priority = priority, .recipients = &r, .recipient_count = 1},
                    out;
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    envelope_encode(&e, &record);
    assert_true(envelope_decode(buf_slice(&record), &out));
    assert_int_equal(out.priority, PRIORITY_TRANSACTIONAL);
    buf_fini(&record);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_eight_jobs_seven_are_transactional_while_both_wait),
        cmocka_unit_test(a_class_that_is_alone_is_taken_in_its_order),
        cmocka_unit_test(bulk_that_comes_later_gains_no_lead),
        cmocka_unit_test(a_ring_full_of_bulk_delays_no_transactional_job),
        cmocka_unit_test(the_queue_is_counted_by_class),
        cmocka_unit_test(a_destination_gives_transactional_mail_first_and_every_eighth_bulk),
        cmocka_unit_test(the_class_is_kept_in_the_envelope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
