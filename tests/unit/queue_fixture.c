#include "tests/unit/queue_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static void ignore_pushed(void *context, unsigned count)
{
    (void)context, (void)count;
}

static void fail_on_fatal(void *context, const char *what)
{
    (void)context;
    fail_msg("%s", what);
}

void queue_create(struct queue *q, unsigned ring_slots, struct schedule_options options,
                  uint64_t mono_ms, uint64_t wall_ms)
{
    *q =
        (struct queue){.jobs = jobs_create(ring_slots), .destinations = destination_table_create()};
    options.jobs = q->jobs;
    options.destinations = q->destinations;
    if (options.on_pushed == NULL)
        options.on_pushed = ignore_pushed;
    q->schedule = schedule_create(&options, mono_ms, wall_ms);
    assert_true(q->jobs != NULL && q->destinations != NULL && q->schedule != NULL);
}

void queue_start_committer(struct queue *q, struct committer_options options)
{
    struct error error = {{0}};
    options.schedule = q->schedule;
    if (options.on_fatal == NULL)
        options.on_fatal = fail_on_fatal;
    q->committer = committer_start(&options, &error);
    if (q->committer == NULL)
        fail_msg("%s", error.text);
}

void queue_destroy(struct queue *q)
{
    committer_stop(&q->committer);
    while (q->jobs != NULL && jobs_take(q->jobs, &q->turn) != NULL)
        continue;
    schedule_destroy(&q->schedule);
    destination_table_destroy(&q->destinations);
    jobs_destroy(&q->jobs);
}
