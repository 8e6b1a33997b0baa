/* Whether new mail is taken: each limit closes it, says which it was, and holds until
 * 5 % are free. */
#include "workers/intake.h"

#include "core/base/clock.h"
#include "tests/unit/queue_fixture.h"
#include "tests/unit/spool_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { STORED = 20, RECIPIENTS_EACH = 2 };

struct world {
    char path[64];
    struct store *store;
    struct queue queue;
    struct intake *intake;
};

static void store_messages(struct store *store)
{
    assert_int_equal(store_begin(store), STORE_OK);
    for (uint64_t id = 1; id <= STORED; id++) {
        struct buf record;
        buf_init(&record, ENVELOPE_ENCODED_MAX);
        encode_envelope(&record, id, clock_wall_ms(),
                        (const char *const[]){"a@x.example", "b@x.example", NULL});
        assert_int_equal(store_put_envelope(store, id, buf_slice(&record)), STORE_OK);
        buf_fini(&record);
    }
    assert_int_equal(store_commit(store), STORE_OK);
}

/* An intake over a queue of STORED messages. */
static struct world *create(const struct intake_limits *limits, uint64_t free_floor_bytes)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    make_spool_path(w->path);
    w->store = open_spool(w->path, 64 << 20, free_floor_bytes);
    store_messages(w->store);
    const struct schedule_options schedule = {
        .policy = {.retry_first_ms = 300000, .retry_max_ms = 300000, .age_limit_ms = 86400000}};
    queue_create(&w->queue, 64, schedule, clock_mono_ms(), clock_wall_ms());
    queue_start_committer(&w->queue, (struct committer_options){.store = w->store});
    w->intake = intake_create(limits);
    assert_non_null(w->intake);
    assert_int_equal(intake_state(w->intake), INTAKE_STARTING);
    intake_refresh(w->intake, NULL);
    intake_open(w->intake, w->store, w->queue.committer);
    return w;
}

static void destroy(struct world *w)
{
    intake_close(w->intake);
    assert_int_equal(intake_state(w->intake), INTAKE_STARTING);
    queue_destroy(&w->queue);
    intake_destroy(&w->intake);
    store_close(&w->store);
    remove_spool(w->path);
    free(w);
}

static enum intake_state refreshed(struct world *w)
{
    intake_refresh(w->intake, NULL);
    return intake_state(w->intake);
}

static void set(struct world *w, struct intake_limits limits)
{
    intake_set_limits(w->intake, &limits);
}

static void without_limits_mail_is_taken(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){0}, 0);
    assert_int_equal(intake_state(w->intake), INTAKE_OPEN);
    assert_int_equal(refreshed(w), INTAKE_OPEN);
    struct intake_view v = intake_view(w->intake);
    assert_int_equal(v.messages, STORED);
    assert_int_equal(v.recipients, STORED * RECIPIENTS_EACH);
    assert_true(v.memory_bytes > 0 && v.disk_free_bytes > 0);
    destroy(w);
}

static void a_full_queue_refuses_at_once_and_until_a_twentieth_is_free(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){.messages = STORED + 1}, 0);
    assert_int_equal(intake_state(w->intake), INTAKE_OPEN);
    set(w, (struct intake_limits){.messages = STORED});
    assert_int_equal(intake_state(w->intake), INTAKE_QUEUE_FULL); /* before it is refreshed */
    assert_int_equal(refreshed(w), INTAKE_QUEUE_FULL);
    set(w, (struct intake_limits){.messages = STORED + 1}); /* one is free: not yet */
    assert_int_equal(refreshed(w), INTAKE_QUEUE_FULL);
    set(w, (struct intake_limits){.messages = STORED + 2});
    assert_int_equal(refreshed(w), INTAKE_OPEN);
    set(w, (struct intake_limits){.recipients = STORED * RECIPIENTS_EACH});
    assert_int_equal(intake_state(w->intake), INTAKE_QUEUE_FULL);
    assert_int_equal(intake_reply(INTAKE_QUEUE_FULL)->code, 452);
    destroy(w);
}

/* All that is queued is of one domain, 40 recipients in 20 messages: four times as much as
 * may be left. */
static void a_domain_with_more_than_its_share_is_refused_and_others_are_not(void **state)
{
    (void)state;
    enum { ALL = STORED * RECIPIENTS_EACH, LEFT = ALL / INTAKE_SHARE };
    struct world *w = create(&(struct intake_limits){.recipients = ALL + LEFT}, 0);
    assert_null(intake_refuse_domain(w->intake, "x.example"));
    assert_true(intake_view(w->intake).share == UINT64_MAX);
    set(w, (struct intake_limits){.recipients = ALL + LEFT - 1});
    const struct smtp_refusal *why = intake_refuse_domain(w->intake, "x.example");
    assert_non_null(why);
    assert_int_equal(why->code, 452);
    assert_string_equal(why->enhanced, "4.3.1");
    assert_null(intake_refuse_domain(w->intake, "y.example"));
    assert_int_equal(intake_view(w->intake).share, ALL - INTAKE_SHARE);
    assert_int_equal(intake_view(w->intake).refused_recipients, 1);
    set(w, (struct intake_limits){.messages = STORED + STORED / INTAKE_SHARE});
    assert_null(intake_refuse_domain(w->intake, "x.example"));
    set(w, (struct intake_limits){.messages = STORED + STORED / INTAKE_SHARE - 1});
    assert_non_null(intake_refuse_domain(w->intake, "x.example"));
    assert_null(intake_refuse_domain(w->intake, "y.example"));
    set(w, (struct intake_limits){.messages = 1}); /* full: that is said of the whole message */
    assert_null(intake_refuse_domain(w->intake, "y.example"));
    destroy(w);
}

/* Memory counts by what a queued recipient takes, not by what the process holds besides. */
static void a_share_of_memory_is_of_what_the_queue_takes(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){0}, 0);
    (void)refreshed(w);
    uint64_t held = intake_view(w->intake).memory_bytes;
    set(w,
        (struct intake_limits){.memory_bytes = held + 4096}); /* nearly all of it is other things */
    assert_null(intake_refuse_domain(w->intake, "x.example"));
    set(w, (struct intake_limits){.memory_bytes = held + 1024});
    assert_non_null(intake_refuse_domain(w->intake, "x.example"));
    assert_null(intake_refuse_domain(w->intake, "y.example"));
    destroy(w);
}

static void want_of_memory_is_measured_and_lifted(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){.memory_bytes = 1}, 0);
    assert_int_equal(intake_state(w->intake), INTAKE_OPEN); /* not measured yet */
    assert_int_equal(refreshed(w), INTAKE_MEMORY);
    set(w, (struct intake_limits){.memory_bytes = UINT64_MAX});
    assert_int_equal(refreshed(w), INTAKE_OPEN);
    destroy(w);
}

static void a_disk_below_its_floor_goes_before_the_queue(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){.messages = 1}, UINT64_MAX);
    assert_int_equal(intake_state(w->intake), INTAKE_NO_ROOM);
    destroy(w);
}

static void a_drain_is_final_and_a_failed_spool_more_so(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){.messages = 1}, UINT64_MAX);
    intake_drain(w->intake);
    assert_int_equal(refreshed(w), INTAKE_DRAINING);
    intake_fail(w->intake);
    assert_int_equal(refreshed(w), INTAKE_FAILED);
    intake_drain(w->intake);
    assert_int_equal(refreshed(w), INTAKE_FAILED);
    assert_string_equal(intake_word(INTAKE_FAILED), "store_failed");
    destroy(w);
}

static void since_when_is_counted_from_the_change(void **state)
{
    (void)state;
    struct world *w = create(&(struct intake_limits){.messages = 1}, 0);
    assert_int_equal(refreshed(w), INTAKE_QUEUE_FULL);
    uint64_t began = clock_mono_ms();
    while (clock_mono_ms() < began + 20)
        continue;
    assert_true(intake_view(w->intake).since_ms >= 20);
    set(w, (struct intake_limits){0});
    assert_int_equal(refreshed(w), INTAKE_OPEN);
    assert_true(intake_view(w->intake).since_ms < clock_mono_ms() - began + 1);
    intake_count_refusals(w->intake, 3);
    assert_int_equal(intake_view(w->intake).refused, 3);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_limits_mail_is_taken),
        cmocka_unit_test(a_full_queue_refuses_at_once_and_until_a_twentieth_is_free),
        cmocka_unit_test(a_domain_with_more_than_its_share_is_refused_and_others_are_not),
        cmocka_unit_test(a_share_of_memory_is_of_what_the_queue_takes),
        cmocka_unit_test(want_of_memory_is_measured_and_lifted),
        cmocka_unit_test(a_disk_below_its_floor_goes_before_the_queue),
        cmocka_unit_test(a_drain_is_final_and_a_failed_spool_more_so),
        cmocka_unit_test(since_when_is_counted_from_the_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
