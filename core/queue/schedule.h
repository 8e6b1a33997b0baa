/* The schedule: which delivery is due when. It holds every queued message in memory (ids, domains,
 * times: never content), wakes what is due by pushing it into the job ring, and takes it back with
 * its outcome. One thread only, the committer's; no locks. Time comes in as arguments, so tests and
 * the simulation run it on virtual time.
 *
 * Time: everything here is on the monotonic clock, so that a wall clock that is set, forward or
 * back, moves no retry and no age limit. The wall clock is only what stored moments are written and
 * read in: from the store at start, where a retry is at most retry.max away whatever is written
 * (the clock may have been wrong when it was, or be wrong now), what came from the future is new,
 * and what is past its age limit is tried for another SCHEDULE_LAST_CHANCE_MS before it is
 * returned.
 *
 * Retry times: first, then doubling up to a maximum, with jitter; the age limit holds
 * wherever a delivery is. A waiting one that reaches it is pushed as DELIVERY_EXPIRED; one that
 * sits in a destination's queue is withdrawn from there first (destination.h); one that a session
 * carries is left to its session and looked at again a minute later.
 *
 * What is suspended (suspensions.h) is due at its age limit only, whatever its next attempt is; a
 * change is told by an edit, EDIT_SUSPENSION, which takes back from the destinations what waits
 * there, or makes due what was due meanwhile.
 *
 * Ring full: what is due waits in order on the schedule's own list and is pushed as workers make
 * room (schedule_run, at the latest 10 ms later). Nothing is dropped and nothing blocks. */
#ifndef ONWARD_CORE_QUEUE_SCHEDULE_H
#define ONWARD_CORE_QUEUE_SCHEDULE_H

#include "core/queue/delivery.h"
#include "core/queue/destination.h"
#include "core/queue/jobs.h"
#include "core/queue/suspensions.h"
#include "core/spool/committer.h"
#include "core/spool/envelope.h"
#include "core/spool/store.h"

struct schedule;

enum { SCHEDULE_LAST_CHANCE_MS = 3600000 };

enum schedule_added { SCHEDULE_ADDED, SCHEDULE_DAMAGED, SCHEDULE_NO_MEMORY };

/* When to try again and how long; from the configuration. */
struct schedule_policy {
    uint64_t retry_first_ms;
    uint64_t retry_max_ms;
    uint64_t age_limit_ms;
    unsigned jitter_percent;
};

/* What the schedule works with; copied, its pointers borrowed for its whole life. */
struct schedule_options {
    struct schedule_policy policy;
    struct jobs *jobs;                                /* where what is due goes */
    struct destination_table *destinations;           /* where deliveries that are out may wait */
    struct suspensions *suspensions;                  /* or NULL: nothing ever is */
    void (*on_pushed)(void *context, unsigned count); /* wake workers: jobs are in the ring */
    void *context;
    uint64_t random_seed;
};

/* An empty schedule at this time; NULL: out of memory. Destroying it frees what is queued in
 * memory; the store keeps it. */
struct schedule *schedule_create(const struct schedule_options *options, uint64_t mono_ms,
                                 uint64_t wall_ms);
void schedule_destroy(struct schedule **s);

/* A reload changed the policy: holds from the next computation on. */
void schedule_set_policy(struct schedule *s, const struct schedule_policy *policy);

/* What time it is, for all calls until the next: two readings made together, so that one clock can
 * be told by the other. schedule_run does the same. */
void schedule_set_time(struct schedule *s, uint64_t mono_ms, uint64_t wall_ms);

/* Takes a committed message in: one delivery per domain, due now. `state_of`, where given (at
 * start-up), tells each recipient's stored progress; recipients of one domain with the same
 * progress share a delivery. Where it was not added, nothing of it was. */
enum schedule_added schedule_add(struct schedule *s, uint64_t id, struct slice record,
                                 bool (*state_of)(void *context, uint64_t id, uint32_t recipient,
                                                  struct store_state *state_out),
                                 void *context);

/* An outcome is about to be committed: sets its next_due_wall_ms and left_in_message, which counts
 * outcomes of the same message planned before it. A commit that fails is final for the process, so
 * a plan is never taken back. */
void schedule_plan_outcome(struct schedule *s, struct commit_op *op);

/* The outcome is durable: finished recipients leave, the rest waits. Frees the delivery and the
 * message where nothing is left of them. */
void schedule_apply_outcome(struct schedule *s, const struct commit_op *op);

/* An exchange is back: what is stranded there becomes due within seconds, more so the fewer
 * attempts were made, and a few each millisecond, so that one that fails again has not been given
 * everything. `mark` is its health_mark; that two exchanges may share bits of it costs an attempt
 * too many at worst. */
void schedule_release(struct schedule *s, uint64_t mark);

/* Moves time on: pushes what is due. Returns ms until it needs to run again, -1 for never. */
int schedule_run(struct schedule *s, uint64_t mono_ms, uint64_t wall_ms);

/* An operator's wish for all matching deliveries, at once where they wait; those out at the workers
 * are taken back from their destination's queue, or, while a session carries them, the wish holds
 * when they come back deferred. Calls `on_touched` for each delivery whose stored state changes. A
 * held delivery is exempt from the age limit: somebody wants it kept; let go, it is tried for
 * another SCHEDULE_LAST_CHANCE_MS at least.
 *
 * A call looks at a bounded part of the queue (a few ms), for other mail goes on meanwhile. True:
 * that was the end. Until then the same op is due again, and no other. op->u.edit.matched counts
 * the recipients matched. */
bool schedule_edit(struct schedule *s, struct commit_op *op,
                   void (*on_touched)(void *context, const struct delivery *d), void *context);

/* The next attempt at a waiting delivery, as it is to be stored. */
uint64_t schedule_due_wall_ms(const struct schedule *s, const struct delivery *d);

/* What is queued now, wherever it is. */
uint64_t schedule_messages(const struct schedule *s);
uint64_t schedule_recipients(const struct schedule *s);
uint64_t schedule_recipients_of(const struct schedule *s, enum envelope_priority priority);

/* Of this domain (in normal form), at most (queue/shares.h). Any thread. */
uint64_t schedule_recipients_at(const struct schedule *s, struct slice domain);

#endif
