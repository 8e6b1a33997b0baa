/* The queue of a test: a schedule with its job ring and its destinations and, over a store, the
 * committer that they live with. Nobody carries what is due: the test takes it from the ring. */
#ifndef ONWARD_TESTS_UNIT_QUEUE_FIXTURE_H
#define ONWARD_TESTS_UNIT_QUEUE_FIXTURE_H

#include "core/queue/destination.h"
#include "core/queue/jobs.h"
#include "core/queue/schedule.h"

struct queue {
    struct jobs *jobs;
    struct priority_turn turn; /* of whoever takes from it */
    struct destination_table *destinations;
    struct schedule *schedule;
    struct committer *committer; /* NULL: none was started */
};

/* An empty one. `options` without jobs and destinations, which are made here; without `on_pushed`
 * nobody is told. Time starts at these two moments. */
void queue_create(struct queue *q, unsigned ring_slots, struct schedule_options options,
                  uint64_t mono_ms, uint64_t wall_ms);

/* Starts a committer over the store: what is stored is taken in. `options` without a schedule,
 * which is this one's; without `on_fatal` a write that fails for good fails the test. */
void queue_start_committer(struct queue *q, struct committer_options options);

/* Stops the committer, where there is one, and frees all, deliveries in the ring included. Harmless
 * where that was done. */
void queue_destroy(struct queue *q);

#endif
