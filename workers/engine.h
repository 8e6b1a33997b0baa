/* The engine: the relay's shared parts and its threads, started in order and stopped in reverse.
 * `onward serve` puts signals, control socket and reloads around it (relay.h); `onward trace` runs
 * one of its own for a single message.
 *
 *   listeners -> tables -> spool -> events -> resolver -> committer (with the schedule) -> intake -> workers
 *
 * Owned by the main thread, which alone starts, drains and stops it. */
#ifndef ONWARD_WORKERS_ENGINE_H
#define ONWARD_WORKERS_ENGINE_H

#include "core/queue/schedule.h"
#include "workers/intake.h"
#include "workers/worker.h"

struct engine {
    struct worker_parts parts;
    struct schedule *schedule; /* the committer's thread */
    struct worker *workers;
    atomic_uint workers_started; /* the committer wakes these: it runs before them */
    int *listeners;
    atomic_uint next_wake; /* the worker to look at first when jobs are pushed */
    atomic_bool failed;    /* a write or sync of the spool failed: final (store.h) */
    int failed_fd;         /* an eventfd of the owner's, written then; -1 = none */
};

/* Binds the submission listeners: before the rest, which may run with fewer rights. False with
 * `error`; engine_stop is due in both cases. */
bool engine_listen(struct engine *e, const struct config *config, struct error *error);

/* Opens the spool of `config` (borrowed until engine_stop), waiting for a process that leaves it,
 * and lets callers connect. `log` may be NULL. Returns 0, or the exit status of what failed
 * (sysexits), with `error`; engine_stop is due in both cases. */
int engine_open(struct engine *e, const struct config *config, struct log *log,
                struct error *error);

/* Starts what engine_open has opened: loads the queue, which takes a while where much waits, and
 * then the workers, which take mail at the listeners; `listen` is unset where there are none.
 * Returns as engine_open. */
int engine_start(struct engine *e, bool listen, struct error *error);

/* No new mail and no new transactions; those under way finish. Whoever has called already is told
 * 421, further callers are refused. Takes a tenth of a second for that. */
void engine_drain(struct engine *e);

/* The drain has lasted long enough: submitters are told 421, in whatever they are. Waits a second
 * at most for that to reach them. */
void engine_hang_up(struct engine *e);

/* Has everything under way ended since engine_drain? */
bool engine_is_quiet(struct engine *e);

/* The retry and age limits of a configuration. */
struct schedule_policy engine_policy(const struct config *config);

/* Where a configuration wants new mail refused, with what it leaves to us filled in. */
struct intake_limits engine_intake_limits(const struct config *config);

/* Stops every thread and frees all but the log; whatever of it was started. */
void engine_stop(struct engine *e);

#endif
