#include "tests/unit/queue_fixture.h"
#include "tests/unit/spool_fixture.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* A schedule on virtual time: `now` counts from 0 on the monotonic clock and from `WALL` on the
 * other. */
enum { MINUTE = 60000, HOUR = 60 * MINUTE, DAY = 24 * HOUR };
static const uint64_t WALL = 1700000000000;

struct world {
    struct queue queue;
    struct suspensions *suspensions; /* or NULL */
    char folder[64];                 /* of their file */
    uint64_t now;
    unsigned pushed;
};

static void on_pushed(void *context, unsigned count)
{
    ((struct world *)context)->pushed += count;
}

static struct world *create_with(unsigned ring_slots, bool suspensions)
{
    struct world *w = calloc(1, sizeof *w);
    char path[96];
    if (suspensions) {
        make_spool_path(w->folder);
        (void)snprintf(path, sizeof path, "%s/suspended", w->folder);
        w->suspensions = suspensions_load(path, 0, WALL, NULL);
        assert_non_null(w->suspensions);
    }
    const struct schedule_options options = {.policy = {.retry_first_ms = 5 * MINUTE,
                                                        .retry_max_ms = 4 * HOUR,
                                                        .age_limit_ms = 5ull * DAY,
                                                        .jitter_percent = 0},
                                             .suspensions = w->suspensions,
                                             .on_pushed = on_pushed,
                                             .context = w,
                                             .random_seed = 1};
    queue_create(&w->queue, ring_slots, options, 0, WALL);
    return w;
}

static struct world *create(unsigned ring_slots)
{
    return create_with(ring_slots, false);
}

static void destroy(struct world *w)
{
    queue_destroy(&w->queue);
    if (w->suspensions != NULL)
        remove_spool(w->folder);
    suspensions_destroy(&w->suspensions);
    free(w);
}

static int run(struct world *w, uint64_t now)
{
    w->now = now;
    return schedule_run(w->queue.schedule, now, WALL + now);
}

static void add_with(struct world *w, uint64_t id, const char *const *recipients,
                     bool (*state_of)(void *, uint64_t, uint32_t, struct store_state *),
                     void *context)
{
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, id, WALL + w->now, recipients);
    assert_int_equal(schedule_add(w->queue.schedule, id, buf_slice(&record), state_of, context),
                     SCHEDULE_ADDED);
    buf_fini(&record);
}

static void add(struct world *w, uint64_t id, const char *const *recipients)
{
    add_with(w, id, recipients, NULL, NULL);
}

#define TO(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Ends a delivery: verdicts by recipient, as letters D(elivered), B(ounced), F (deferred). Stranded
 * at `marks`, with a probe `probe_ms` away, where these are not 0. */
static uint64_t end_stranded(struct world *w, struct delivery *d, const char *verdicts,
                             uint64_t marks, uint64_t probe_ms)
{
    static const struct reply reply = {.code = 450, .class = 4};
    struct outcome_recipient r[16];
    for (uint32_t i = 0; i < d->recipient_count; i++)
        r[i] = (struct outcome_recipient){.recipient = delivery_recipients(d)[i],
                                          .verdict = verdicts[i] == 'D'   ? OUTCOME_DELIVERED
                                                     : verdicts[i] == 'B' ? OUTCOME_BOUNCED
                                                                          : OUTCOME_DEFERRED,
                                          .reply = &reply};
    struct commit_op op = {.kind = COMMIT_OUTCOME,
                           .u.outcome = {.delivery = d,
                                         .recipients = r,
                                         .recipient_count = d->recipient_count,
                                         .stranded_at = marks,
                                         .probe_in_ms = probe_ms}};
    schedule_plan_outcome(w->queue.schedule, &op);
    schedule_apply_outcome(w->queue.schedule, &op);
    return op.u.outcome.left_in_message;
}

static uint64_t end(struct world *w, struct delivery *d, const char *verdicts)
{
    return end_stranded(w, d, verdicts, 0, 0);
}

static uint64_t at(const struct world *w, const char *domain)
{
    return schedule_recipients_at(w->queue.schedule, slice_str(domain));
}

static void recipients_of_one_domain_share_a_delivery(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example", "b@y.example", "c@x.example"));
    (void)run(w, 0);
    assert_int_equal(w->pushed, 2);
    struct delivery *x = jobs_take(w->queue.jobs, &w->queue.turn),
                    *y = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_string_equal(x->domain->name, "x.example");
    assert_int_equal(x->recipient_count, 2);
    assert_int_equal(delivery_recipients(x)[0], 0);
    assert_int_equal(delivery_recipients(x)[1], 2);
    assert_string_equal(y->domain->name, "y.example");
    assert_int_equal(at(w, "x.example"), 2);
    assert_int_equal(at(w, "y.example"), 1);
    assert_int_equal(end(w, x, "DF"), 2);
    assert_int_equal(at(w, "x.example"), 1);
    (void)run(w, HOUR);
    x = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(end(w, x, "D"), 1);
    assert_int_equal(at(w, "x.example"), 0);
    assert_int_equal(end(w, y, "B"), 0);
    assert_int_equal(schedule_messages(w->queue.schedule), 0);
    assert_int_equal(schedule_recipients(w->queue.schedule), 0);
    destroy(w);
}

static void retries_double_from_five_minutes_to_four_hours(void **state)
{
    (void)state;
    static const uint64_t minutes[] = {5, 10, 20, 40, 80, 160, 240, 240, 240};
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    for (size_t i = 0; i < sizeof minutes / sizeof *minutes; i++) {
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_int_equal(d->attempts, i);
        (void)end(w, d, "F");
        uint64_t due = w->now + minutes[i] * MINUTE;
        (void)run(w, due - 1);
        assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
        (void)run(w, due);
    }
    destroy(w);
}

static void what_is_left_of_a_delivery_is_tried_again_alone(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example", "b@x.example", "c@x.example"));
    (void)run(w, 0);
    assert_int_equal(end(w, jobs_take(w->queue.jobs, &w->queue.turn), "DFB"), 1);
    (void)run(w, 5 * MINUTE);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(d->recipient_count, 1);
    assert_int_equal(delivery_recipients(d)[0], 1);
    assert_int_equal(end(w, d, "D"), 0);
    destroy(w);
}

static void the_age_limit_marks_what_waits(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    for (;;) {
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        if (d->flags & DELIVERY_EXPIRED)
            break;
        (void)end(w, d, "F");
        uint64_t next = w->now + 4 * HOUR < 5ull * DAY ? w->now + 4 * HOUR : 5ull * DAY;
        (void)run(w, next);
    }
    assert_int_equal(w->now, 5ull * DAY);
    destroy(w);
}

static void what_cannot_be_returned_at_its_age_limit_is_not_tried_without_end(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
    (void)run(w, 5 * DAY);
    for (int i = 0; i < 3; i++) {
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_true(d->flags & DELIVERY_EXPIRED);
        (void)end(w, d, "F"); /* unreadable: kept for the operator */
        (void)run(w, w->now);
        assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
        (void)run(w, w->now + (uint64_t)4 * 60 * MINUTE);
    }
    destroy(w);
}

static void the_age_limit_takes_a_delivery_out_of_its_destination(void **state)
{
    (void)state;
    struct world *w = create(64);
    struct idle_lane *idle = NULL;
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    struct destination *x =
        destination_acquire(w->queue.destinations, SLICE_LIT("10 mx.x.example"));
    (void)destination_enqueue(x, d, 0, 20, &idle);
    (void)run(w, 5ull * DAY);
    assert_ptr_equal(jobs_take(w->queue.jobs, &w->queue.turn), d);
    assert_true((d->flags & DELIVERY_EXPIRED) != 0);
    assert_int_equal(destination_figures(x).queued, 0);
    (void)destination_lane_end(x, true);
    destination_release(&x);
    assert_int_equal(end(w, d, "B"), 0);
    destroy(w);
}

static void a_session_keeps_what_it_carries_past_the_age_limit(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    (void)run(w, 5ull * DAY + 10);
    assert_null(
        jobs_take(w->queue.jobs, &w->queue.turn)); /* not queued anywhere: a session has it */
    (void)end(w, d, "F");
    (void)run(w, 5ull * DAY + 20);
    assert_ptr_equal(jobs_take(w->queue.jobs, &w->queue.turn), d);
    assert_true((d->flags & DELIVERY_EXPIRED) != 0);
    destroy(w);
}

static void a_full_ring_delays_and_drops_nothing(void **state)
{
    (void)state;
    struct world *w = create(4);
    for (uint64_t id = 1; id <= 10; id++)
        add(w, id, TO("a@x.example"));
    int wait = run(w, 0);
    assert_true(wait >= 0 && wait <= 10);
    for (uint64_t id = 1; id <= 10; id++) { /* in order, as room comes */
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_int_equal(d->message->id, id);
        (void)end(w, d, "D");
        (void)run(w, id);
    }
    assert_int_equal(schedule_messages(w->queue.schedule), 0);
    destroy(w);
}

/* ---- an operator ---- */

static unsigned touched;

static void on_touched(void *context, const struct delivery *d)
{
    (void)context, (void)d;
    touched++;
}

static uint64_t edit(struct world *w, enum commit_edit what, uint64_t id, const char *domain)
{
    struct commit_op op = {.kind = COMMIT_EDIT, .u.edit = {.edit = what, .id = id}};
    assert_true(slice_to_cstr(slice_str(domain), op.u.edit.domain, sizeof op.u.edit.domain));
    touched = 0;
    while (!schedule_edit(w->queue.schedule, &op, on_touched, NULL))
        continue;
    return op.u.edit.matched;
}

static void held_mail_waits_for_its_release_beyond_the_age_limit(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
    assert_int_equal(edit(w, EDIT_HOLD, 1, ""), 1);
    assert_int_equal(touched, 1);
    assert_int_equal(run(w, 30ull * DAY), -1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    assert_int_equal(edit(w, EDIT_RETRY, 1, ""), 1); /* matched, but held is held */
    assert_int_equal(touched, 0);
    assert_int_equal(edit(w, EDIT_RELEASE, 0, "x.example"), 1);
    static const unsigned moments[] = {1, HOUR - 1, HOUR}; /* and then it is tried, for an hour */
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        (void)run(w, 30ull * DAY + moments[i]);
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_int_equal((d->flags & DELIVERY_EXPIRED) != 0, moments[i] == HOUR);
        (void)end(w, d, "F");
    }
    destroy(w);
}

/* The ring is small beside what an operator may have marked by mistake: the rest waits
 * for room in it. */
static void a_hold_takes_back_a_bounce_that_has_not_gone_out(void **state)
{
    (void)state;
    struct world *w = create(4);
    for (uint64_t id = 1; id <= 10; id++)
        add(w, id, TO("a@x.example"));
    assert_int_equal(edit(w, EDIT_BOUNCE, 0, ""), 10);
    (void)run(w, 1);
    assert_int_equal(w->pushed, 3);
    assert_int_equal(edit(w, EDIT_HOLD, 0, ""), 10);
    for (int i = 0; i < 3; i++)
        (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "B");
    assert_int_equal(edit(w, EDIT_RELEASE, 0, ""), 7);
    (void)run(w, 2);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_non_null(d);
    assert_false((d->flags & DELIVERY_OPERATOR_BOUNCE) != 0);
    destroy(w);
}

static void an_edit_goes_through_a_long_queue_in_parts(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    struct world *w = create(64);
    struct commit_op op = {.kind = COMMIT_EDIT, .u.edit.edit = EDIT_HOLD};
    unsigned calls = 1;
    for (uint64_t id = 1; id <= COUNT; id++)
        add(w, id, TO("a@x.example"));
    (void)run(w, 0); /* some are out */
    touched = 0;
    while (!schedule_edit(w->queue.schedule, &op, on_touched, NULL)) {
        struct delivery *d = jobs_take(
            w->queue.jobs, &w->queue.turn); /* some leave, perhaps the one it has come to */
        if (d != NULL)
            (void)end(w, d, "D");
        calls++;
    }
    assert_in_range(calls, 3, COUNT / 100);
    assert_in_range(op.u.edit.matched, COUNT - calls, COUNT);
    assert_in_range(touched, COUNT - 64, COUNT);
    destroy(w);
}

static void a_hold_on_mail_that_is_out_takes_effect_when_it_comes_back(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(edit(w, EDIT_HOLD, 1, ""), 1);
    (void)end(w, d, "F");
    assert_int_equal(run(w, DAY), -1);
    destroy(w);
}

static void a_retry_is_due_at_once_and_a_bounce_is_marked(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    add(w, 2, TO("a@y.example"));
    (void)run(w, 0);
    (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
    (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
    assert_int_equal(edit(w, EDIT_RETRY, 0, "x.example"), 1);
    (void)run(w, 1);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(d->message->id, 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    assert_int_equal(edit(w, EDIT_BOUNCE, 2, ""), 1);
    (void)run(w, 2);
    d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(d->message->id, 2);
    assert_true((d->flags & DELIVERY_OPERATOR_BOUNCE) != 0);
    destroy(w);
}

/* ---- restart ---- */

static bool stored(void *context, uint64_t id, uint32_t recipient, struct store_state *out)
{
    (void)context, (void)id;
    static const struct store_state states[] = {
        {.progress = PROGRESS_DONE},
        {.progress = PROGRESS_WAITING, .attempts = 2, .due_wall_ms = 1700000000000 + 7 * MINUTE},
        {.progress = PROGRESS_WAITING, .attempts = 2, .due_wall_ms = 1700000000000 + 7 * MINUTE},
        {.progress = PROGRESS_HELD, .attempts = 1},
    };
    if (recipient >= 4)
        return false;
    *out = states[recipient];
    return true;
}

/* ---- stranded mail ---- */

enum { MARK_A = 1 << 3 | 1 << 9, MARK_B = 1 << 3 | 1 << 20, MARK_C = 1 << 4 | 1 << 5 };

static void what_is_stranded_goes_when_one_of_its_exchanges_is_back(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    add(w, 2, TO("a@y.example"));
    add(w, 3, TO("a@z.example"));
    (void)run(w, 0);
    (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_A | MARK_B, 0);
    (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_C, 0);
    (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
    (void)run(w, MINUTE);
    schedule_release(w->queue.schedule, MARK_B);
    (void)run(w, MINUTE + 999); /* a second for the attempt that was made */
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)run(w, MINUTE + 1000);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_non_null(d);
    assert_string_equal(d->domain->name, "x.example");
    assert_null(
        jobs_take(w->queue.jobs,
                  &w->queue.turn)); /* neither stranded elsewhere nor deferred for another reason */
    (void)end(w, d, "D");
    schedule_release(w->queue.schedule, MARK_B); /* nothing is left of it */
    (void)run(w, 2 * MINUTE);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

static void a_release_never_puts_off_and_goes_a_few_each_millisecond(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    struct world *w = create(64);
    for (uint64_t id = 1; id <= COUNT; id++)
        add(w, id, TO("a@x.example"));
    (void)run(w, 0);
    for (int i = 0; i < COUNT; i++)
        (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_A,
                           i == 0 ? 500 : 0);
    schedule_release(w->queue.schedule, MARK_A);
    w->pushed = 0;
    (void)run(w, 500); /* the probe, as announced */
    assert_int_equal(w->pushed, 1);
    (void)run(w, 1004);
    assert_in_range(w->pushed, 2, COUNT - 1);
    (void)run(w, 1010);
    assert_int_equal(w->pushed, COUNT);
    destroy(w);
}

static void one_delivery_is_due_when_its_exchange_may_be_probed(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_A, MINUTE);
    (void)run(w, MINUTE - 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)run(w, MINUTE);
    (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_A,
                       HOUR); /* not later than in its turn */
    (void)run(w, 11 * MINUTE);
    assert_non_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

static void held_mail_is_not_released(void **state)
{
    (void)state;
    struct world *w = create(64);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_A, 0);
    assert_int_equal(edit(w, EDIT_HOLD, 1, ""), 1);
    schedule_release(w->queue.schedule, MARK_A);
    (void)run(w, HOUR);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

/* ---- suspensions ---- */

/* As the control does it; "" is all. Returns how many recipients the edit went by. */
static uint64_t suspend(struct world *w, const char *domain)
{
    struct suspension s = {.since_wall_ms = WALL};
    assert_true(slice_to_cstr(slice_str(domain), s.domain, sizeof s.domain));
    assert_int_equal(suspensions_set(w->suspensions, &s, w->now, WALL, NULL), SUSPENSIONS_SAVED);
    uint64_t matched = edit(w, EDIT_SUSPENSION, 0, domain);
    assert_int_equal(touched, 0);
    return matched;
}

static uint64_t resume(struct world *w, const char *domain)
{
    assert_int_equal(suspensions_clear(w->suspensions, domain, w->now, WALL, NULL),
                     SUSPENSIONS_SAVED);
    return edit(w, EDIT_SUSPENSION, 0, domain);
}

static void suspended_mail_waits_whenever_it_came_and_goes_when_it_is_resumed(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    add(w, 1, TO("a@x.example", "b@y.example"));
    assert_int_equal(suspend(w, "x.example"), 1);
    add(w, 2, TO("c@x.example"));
    (void)run(w, 0);
    struct delivery *y = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_string_equal(y->domain->name, "y.example");
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)run(w, 4ull * DAY);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    assert_int_equal(resume(w, "x.example"), 2);
    (void)run(w, 4ull * DAY);
    assert_int_equal(jobs_take(w->queue.jobs, &w->queue.turn)->message->id, 1);
    assert_int_equal(jobs_take(w->queue.jobs, &w->queue.turn)->message->id, 2);
    destroy(w);
}

static void what_is_not_due_when_it_is_resumed_waits_for_its_time(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
    (void)suspend(w, "");
    (void)run(w, MINUTE);
    (void)resume(w, "");
    (void)run(w, 5 * MINUTE - 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)run(w, 5 * MINUTE);
    assert_non_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

static void a_domain_that_is_suspended_by_itself_stays_so_when_all_is_resumed(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    add(w, 1, TO("a@x.example", "b@y.example"));
    (void)suspend(w, "x.example");
    (void)suspend(w, "");
    (void)run(w, 0);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)resume(w, "");
    (void)run(w, 1);
    assert_string_equal(jobs_take(w->queue.jobs, &w->queue.turn)->domain->name, "y.example");
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

static void the_age_limit_and_the_operators_bounce_hold_for_suspended_mail(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    add(w, 1, TO("a@x.example"));
    add(w, 2, TO("b@x.example"));
    (void)suspend(w, "x.example");
    assert_int_equal(edit(w, EDIT_RETRY, 0, "x.example"), 2);
    (void)run(w, 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    assert_int_equal(edit(w, EDIT_BOUNCE, 2, ""), 1);
    (void)run(w, 2);
    struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(d->message->id, 2);
    assert_true((d->flags & DELIVERY_OPERATOR_BOUNCE) != 0);
    (void)run(w, 5ull * DAY);
    d = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(d->message->id, 1);
    assert_true((d->flags & DELIVERY_EXPIRED) != 0);
    destroy(w);
}

static void a_suspension_takes_mail_back_from_its_destination(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    struct idle_lane *idle;
    add(w, 1, TO("a@x.example"));
    add(w, 2, TO("b@y.example")); /* of the same provider */
    (void)run(w, 0);
    struct destination *both = destination_acquire(w->queue.destinations, SLICE_LIT("mx"));
    (void)destination_enqueue(both, jobs_take(w->queue.jobs, &w->queue.turn), 0, 20, &idle);
    (void)destination_enqueue(both, jobs_take(w->queue.jobs, &w->queue.turn), 0, 20, &idle);
    assert_int_equal(suspend(w, "x.example"), 1);
    assert_int_equal(destination_figures(both).queued, 1);
    (void)run(w, HOUR);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)resume(w, "x.example");
    (void)run(w, HOUR);
    assert_int_equal(jobs_take(w->queue.jobs, &w->queue.turn)->message->id, 1);
    struct link rest;
    list_init(&rest);
    (void)destination_take_all(both, &rest);
    while (list_pop_front(&rest) != NULL)
        continue;
    for (int lane = 0; lane < 2; lane++)
        (void)destination_lane_end(both, true);
    destination_release(&both);
    destroy(w);
}

static void what_was_due_before_a_suspension_and_found_no_room_waits(void **state)
{
    (void)state;
    struct world *w = create_with(4, true);
    for (uint64_t id = 1; id <= 20; id++)
        add(w, id, TO("a@x.example"));
    (void)run(w, 0); /* some are in the ring, the rest stands in line for it */
    uint64_t out = w->pushed;
    assert_true(out < 20);
    (void)suspend(w, "x.example");
    while (jobs_take(w->queue.jobs, &w->queue.turn) != NULL)
        out--;
    assert_int_equal(out, 0);
    (void)run(w, 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)resume(w, "x.example");
    (void)run(w, 2);
    assert_non_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

static void held_mail_stays_held_through_a_suspension(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    add(w, 1, TO("a@x.example"));
    assert_int_equal(edit(w, EDIT_HOLD, 1, ""), 1);
    (void)suspend(w, "x.example");
    assert_int_equal(edit(w, EDIT_RELEASE, 1, ""), 1);
    (void)run(w, 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    assert_int_equal(edit(w, EDIT_HOLD, 1, ""), 1);
    (void)resume(w, "x.example");
    (void)run(w, 2);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    destroy(w);
}

static void what_is_stranded_is_not_released_to_a_suspended_domain(void **state)
{
    (void)state;
    struct world *w = create_with(64, true);
    add(w, 1, TO("a@x.example"));
    (void)run(w, 0);
    (void)end_stranded(w, jobs_take(w->queue.jobs, &w->queue.turn), "F", MARK_A, 0);
    (void)suspend(w, "x.example");
    schedule_release(w->queue.schedule, MARK_A);
    (void)run(w, MINUTE);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)resume(w, "x.example");
    (void)run(w, MINUTE);
    assert_non_null(jobs_take(w->queue.jobs, &w->queue.turn)); /* its exchange is back */
    destroy(w);
}

static void a_restart_takes_up_where_it_stopped(void **state)
{
    (void)state;
    struct world *w = create(64);
    add_with(w, 1,
             TO("done@x.example", "a@x.example", "b@x.example", "held@x.example", "new@x.example"),
             stored, NULL);
    assert_int_equal(schedule_recipients(w->queue.schedule), 4);
    (void)run(w, 0);
    struct delivery *fresh = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(fresh->recipient_count, 1);
    assert_int_equal(delivery_recipients(fresh)[0], 4);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)run(w, 7 * MINUTE - 1);
    assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
    (void)run(w, 7 * MINUTE);
    struct delivery *waited = jobs_take(w->queue.jobs, &w->queue.turn);
    assert_int_equal(waited->recipient_count, 2);
    assert_int_equal(waited->attempts, 2);
    assert_int_equal(run(w, DAY * 4ull), (int)60000); /* only age limits are left to look at */
    destroy(w);
}

/* The wall clock is set by `jump` between two runs of a process's life; it is `wall`
 * that is read. */
static int run_at(struct world *w, uint64_t now, int64_t jump)
{
    w->now = now;
    return schedule_run(w->queue.schedule, now, WALL + now + (uint64_t)jump);
}

static void a_wall_clock_that_is_set_moves_no_retry_and_no_age_limit(void **state)
{
    (void)state;
    static const int64_t jumps[] = {-365 * (int64_t)DAY, -DAY, 0, DAY, 6 * (int64_t)DAY};
    for (size_t i = 0; i < sizeof jumps / sizeof *jumps; i++) {
        struct world *w = create(64);
        add(w, 1, TO("a@x.example"));
        (void)run(w, 0);
        (void)end(w, jobs_take(w->queue.jobs, &w->queue.turn), "F");
        (void)run_at(w, 1000, jumps[i]);
        (void)run_at(w, 5 * MINUTE - 1, jumps[i]);
        assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
        (void)run_at(w, 5 * MINUTE, jumps[i]);
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_false(d->flags & DELIVERY_EXPIRED);

        /* What is stored is told by the clock as it is then. */
        schedule_set_time(w->queue.schedule, w->now, WALL + w->now);
        (void)end(w, d, "F");
        assert_int_equal(schedule_due_wall_ms(w->queue.schedule, d), WALL + 15 * MINUTE);
        (void)run_at(w, 15 * MINUTE, -jumps[i]);
        assert_ptr_equal(jobs_take(w->queue.jobs, &w->queue.turn), d);
        (void)run_at(w, 5ull * DAY - 1, -jumps[i]); /* a session has it all the time */
        (void)end(w, d, "F");
        (void)run_at(w, 5ull * DAY, jumps[i]);
        assert_ptr_equal(jobs_take(w->queue.jobs, &w->queue.turn), d);
        assert_true(d->flags & DELIVERY_EXPIRED);
        destroy(w);
    }
}

/* A recipient deferred at WALL for 20 minutes, as a process finds it whose clock says otherwise. */
static bool stored_at_wall(void *context, uint64_t id, uint32_t recipient, struct store_state *out)
{
    (void)context, (void)id, (void)recipient;
    *out = (struct store_state){
        .progress = PROGRESS_WAITING, .attempts = 2, .due_wall_ms = WALL + 20 * MINUTE};
    return true;
}

static void a_clock_that_was_set_between_two_processes_loses_no_retry(void **state)
{
    (void)state;
    static const struct {
        int64_t ahead; /* the second process's clock of the first's */
        uint64_t due, expires;
    } table[] = {
        {0, 20 * MINUTE, 5ull * DAY},
        {10 * MINUTE, 10 * MINUTE, 5ull * DAY - 10 * MINUTE},
        {-HOUR, 80 * MINUTE, 5ull * DAY},
        {-DAY, 4 * HOUR, 5ull * DAY}, /* at most the longest pause */
        {-365 * (int64_t)DAY, 4 * HOUR, 5ull * DAY},
        {DAY, 0, 4ull * DAY},
        {365 * (int64_t)DAY, 0, SCHEDULE_LAST_CHANCE_MS}, /* tried before it is returned */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct world *w = create(64);
        struct buf record;
        schedule_set_time(w->queue.schedule, 0, WALL + (uint64_t)table[i].ahead);
        buf_init(&record, ENVELOPE_ENCODED_MAX);
        encode_envelope(&record, 1, WALL, TO("a@x.example"));
        assert_int_equal(
            schedule_add(w->queue.schedule, 1, buf_slice(&record), stored_at_wall, NULL),
            SCHEDULE_ADDED);
        buf_fini(&record);
        if (table[i].due > 0)
            (void)run_at(w, table[i].due - 1, table[i].ahead);
        assert_null(jobs_take(w->queue.jobs, &w->queue.turn));
        (void)run_at(w, table[i].due, table[i].ahead);
        struct delivery *d = jobs_take(w->queue.jobs, &w->queue.turn);
        assert_non_null(d);
        assert_false(d->flags & DELIVERY_EXPIRED);
        (void)run_at(w, table[i].expires - 1, table[i].ahead);
        (void)end(w, d, "F");
        (void)run_at(w, table[i].expires, table[i].ahead);
        assert_ptr_equal(jobs_take(w->queue.jobs, &w->queue.turn), d);
        assert_true(d->flags & DELIVERY_EXPIRED);
        destroy(w);
    }
}

/* The second number of statm. */
static size_t resident_pages(void)
{
    char text[256] = "", *rest = text;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    (void)fclose(f);
    (void)strtoul(rest, &rest, 10);
    return strtoul(rest, NULL, 10);
}

/* More than the table of domains begins with, in two deliveries each. */
static void domains_by_the_thousands_are_each_known_once(void **state)
{
    (void)state;
    enum { DOMAINS = 5000 };
    struct world *w = create(16384);
    const struct domain *seen[DOMAINS] = {NULL};
    for (unsigned n = 0; n < 2 * DOMAINS; n++) {
        char to[32];
        (void)snprintf(to, sizeof to, "a@d%u.example", n % DOMAINS);
        add(w, n + 1, TO(to));
    }
    (void)run(w, 0);
    for (struct delivery *d; (d = jobs_take(w->queue.jobs, &w->queue.turn)) != NULL;) {
        uint64_t n = (d->message->id - 1) % DOMAINS;
        assert_true(seen[n] == NULL || seen[n] == d->domain);
        seen[n] = d->domain;
        (void)end(w, d, "D");
    }
    assert_int_equal(schedule_messages(w->queue.schedule), 0);
    destroy(w); /* asserts that no domain is left */
}

static void a_million_recipients_take_under_300_bytes_each(void **state)
{
    (void)state;
    enum { COUNT = 100000 }; /* a tenth: the cost is per recipient */
    struct world *w = create(64);
    struct buf record;
    buf_init(&record, ENVELOPE_ENCODED_MAX);
    encode_envelope(&record, 1, WALL, TO("a@x.example"));
    size_t pages_before = resident_pages();
    for (uint64_t id = 1; id <= COUNT; id++)
        assert_int_equal(schedule_add(w->queue.schedule, id, buf_slice(&record), NULL, NULL),
                         SCHEDULE_ADDED);
    size_t pages = resident_pages() - pages_before;
#if !defined(__SANITIZE_ADDRESS__) &&                                                              \
    !defined(__SANITIZE_THREAD__) /* their allocators pad each block */
    assert_true(pages * 4096 / COUNT < 300);
#else
    (void)pages;
#endif
    assert_int_equal(schedule_recipients(w->queue.schedule), COUNT);
    buf_fini(&record);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipients_of_one_domain_share_a_delivery),
        cmocka_unit_test(retries_double_from_five_minutes_to_four_hours),
        cmocka_unit_test(what_is_left_of_a_delivery_is_tried_again_alone),
        cmocka_unit_test(the_age_limit_marks_what_waits),
        cmocka_unit_test(what_cannot_be_returned_at_its_age_limit_is_not_tried_without_end),
        cmocka_unit_test(the_age_limit_takes_a_delivery_out_of_its_destination),
        cmocka_unit_test(a_session_keeps_what_it_carries_past_the_age_limit),
        cmocka_unit_test(a_full_ring_delays_and_drops_nothing),
        cmocka_unit_test(held_mail_waits_for_its_release_beyond_the_age_limit),
        cmocka_unit_test(an_edit_goes_through_a_long_queue_in_parts),
        cmocka_unit_test(a_hold_takes_back_a_bounce_that_has_not_gone_out),
        cmocka_unit_test(a_hold_on_mail_that_is_out_takes_effect_when_it_comes_back),
        cmocka_unit_test(a_retry_is_due_at_once_and_a_bounce_is_marked),
        cmocka_unit_test(what_is_stranded_goes_when_one_of_its_exchanges_is_back),
        cmocka_unit_test(a_release_never_puts_off_and_goes_a_few_each_millisecond),
        cmocka_unit_test(one_delivery_is_due_when_its_exchange_may_be_probed),
        cmocka_unit_test(held_mail_is_not_released),
        cmocka_unit_test(suspended_mail_waits_whenever_it_came_and_goes_when_it_is_resumed),
        cmocka_unit_test(what_is_not_due_when_it_is_resumed_waits_for_its_time),
        cmocka_unit_test(a_domain_that_is_suspended_by_itself_stays_so_when_all_is_resumed),
        cmocka_unit_test(the_age_limit_and_the_operators_bounce_hold_for_suspended_mail),
        cmocka_unit_test(a_suspension_takes_mail_back_from_its_destination),
        cmocka_unit_test(what_was_due_before_a_suspension_and_found_no_room_waits),
        cmocka_unit_test(held_mail_stays_held_through_a_suspension),
        cmocka_unit_test(what_is_stranded_is_not_released_to_a_suspended_domain),
        cmocka_unit_test(a_restart_takes_up_where_it_stopped),
        cmocka_unit_test(a_wall_clock_that_is_set_moves_no_retry_and_no_age_limit),
        cmocka_unit_test(a_clock_that_was_set_between_two_processes_loses_no_retry),
        cmocka_unit_test(domains_by_the_thousands_are_each_known_once),
        cmocka_unit_test(a_million_recipients_take_under_300_bytes_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
