/* A worker: one thread, one epoll, one clock reading per wake-up, its own timers. It serves
 * submitters (inbound/) and carries mail out (outbound/); its sessions never leave it. Workers
 * share the parts below, talk to other threads by mailbox, and find work in the job ring.
 *
 * One turn of the loop:
 *   sleep in epoll (mailbox, listeners, connections, timers) -> mail -> ready connections -> due
 * timers ->
 *   up to JOBS_PER_TURN deliveries from the job ring -> bury what was closed */
#ifndef ONWARD_WORKERS_WORKER_H
#define ONWARD_WORKERS_WORKER_H

#include "core/base/histogram.h"
#include "core/base/mailbox.h"
#include "core/base/poller.h"
#include "core/base/random.h"
#include "core/base/timer.h"
#include "core/config/config.h"
#include "core/health.h"
#include "core/log.h"
#include "core/queue/destination.h"
#include "core/queue/jobs.h"
#include "core/queue/suspensions.h"
#include "core/spool/committer.h"
#include "core/spool/store.h"
#include "dns/resolver.h"
#include "workers/tls.h"

#include <pthread.h>

struct worker;
struct intake;
struct inbound;
struct outbound;
struct observer;
struct events;
struct chronicle;

/* The relay's shared parts, as each worker sees them. Made by the relay before the first worker and
 * outliving the last. */
struct worker_parts {
    const struct config *config; /* at start; a worker's own pointer follows reloads */
    struct store *store;
    struct committer *committer;
    struct resolver *resolver;
    struct health *health;
    struct destination_table *destinations;
    struct jobs *jobs;
    struct suspensions *suspensions; /* NULL where nothing is ever suspended */
    struct log *log;
    struct events *events;       /* NULL where no webhook is configured */
    struct chronicle *chronicle; /* NULL where nobody looks (chronicle.h) */
    struct intake *intake;       /* may new mail be taken? */
    struct tls *tls;             /* NULL where delivery.tls is off */
    struct observer *observer;   /* NULL while serving (outbound/observer.h) */
    const int *listeners;        /* descriptors, in the order of submission.listeners */
    unsigned listener_count;
    unsigned sessions_max; /* outbound connections a worker may have open */
    struct worker
        *workers; /* all of them, to send mail to: those below shared->listening are there */
    unsigned worker_count;
    struct {
        _Alignas(64) _Atomic uint64_t next_id; /* of messages */
        _Alignas(64) atomic_uint submitters;   /* open submission connections, all workers */
        atomic_uint listening;         /* workers that watch the listeners; they start in order */
        struct client_counts *clients; /* per client address; own lock */
    } * shared;
};

/* What a worker has done. Only the worker writes; anyone may read (relaxed). */
#define WORKER_FIGURES(X)                                                                          \
    X(submissions_open)                                                                            \
    X(submissions_total)                                                                           \
    X(submissions_refused)                                                                         \
    X(messages_accepted)                                                                           \
    X(bytes_accepted)                                                                              \
    X(recipients_delivered)                                                                        \
    X(recipients_deferred)                                                                         \
    X(recipients_bounced)                                                                          \
    X(outcomes_unknown)                                                                            \
    X(lanes_open)                                                                                  \
    X(sessions_open)                                                                               \
    X(sessions_total)                                                                              \
    X(sessions_failed)                                                                             \
    X(transactions)                                                                                \
    X(races_started)                                                                               \
    X(races_won_by_later)                                                                          \
    X(exchanges_recovered)                                                                         \
    X(tls_handshakes)                                                                              \
    X(tls_resumed)

/* The same, as counters. */
struct worker_figures {
#define X(name) _Atomic uint64_t name;
    WORKER_FIGURES(X)
#undef X
};

/* How long what it did took. Only the worker notes; anyone may read. */
struct worker_times {
    struct histogram
        delivery[PRIORITIES]; /* from a message's acceptance to a recipient's delivery */
    struct histogram session; /* from connecting to an exchange until it is ready for MAIL */
};

/* Counts `n` more. Owner thread only. */
static inline void figure_add(_Atomic uint64_t *figure, uint64_t n)
{
    /* One writer: no need for a locked instruction. */
    atomic_store_explicit(figure, atomic_load_explicit(figure, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* Counts `n` less. Owner thread only. */
static inline void figure_drop(_Atomic uint64_t *figure, uint64_t n)
{
    atomic_store_explicit(figure, atomic_load_explicit(figure, memory_order_relaxed) - n,
                          memory_order_relaxed);
}

enum { WORKER_SCRATCH_BYTES = 64 * 1024 };

struct worker {
    const struct worker_parts *parts;
    const struct config *config; /* owner thread; replaced by mail at a reload */
    unsigned index;
    uint64_t now_ms; /* monotonic, read once per wake-up */
    uint64_t wall_ms;
    struct poller *poller;
    struct watch mailbox_watch;
    struct timer_wheel timers; /* its owner is the worker */
    struct random random;
    struct store_reader *reader;
    struct inbound *inbound;
    struct outbound *outbound;
    char *scratch; /* WORKER_SCRATCH_BYTES for reads; contents last until the next read */
    bool stopping;
    pthread_t thread;
    struct {
        struct mailbox mailbox; /* its owner is the worker */
        struct worker_figures figures;
        struct worker_times times;
        atomic_uint clients; /* submitters' connections: open, or on their way here */
    } shared;
};

/* Makes a worker without a thread: the caller's own thread takes its turns. False with `error`. */
bool worker_init(struct worker *w, unsigned index, const struct worker_parts *parts,
                 struct error *error);

/* One turn of the loop for `events` that poller_fetch told of. True: there is more to do, so do not
 * sleep. */
bool worker_turn(struct worker *w, int events);

/* worker_init, and a thread that takes the turns. False with `error`. */
bool worker_start(struct worker *w, unsigned index, const struct worker_parts *parts,
                  struct error *error);

/* Draining: stop listening, tell submitters, finish what is under way. Any thread. False: out of
 * memory. */
bool worker_drain(struct worker *w);

/* The drain has lasted long enough: hang up on submitters. Any thread. False: out of memory. */
bool worker_hang_up(struct worker *w);

/* Nothing left to do after worker_drain? Any thread. */
bool worker_is_quiet(struct worker *w);

/* Stops and joins the thread; what is still in flight is dropped (the spool has it). */
void worker_stop(struct worker *w);

/* Gives the worker a new configuration (which must outlive it). Any thread. False: out
 * of memory. */
bool worker_reload(struct worker *w, const struct config *config);

/* Carries on the calls that `worker_stop` cuts short: delivers mail that came back after the loop
 * ended, so that everything is freed. After the committer and the resolver have stopped. */
void worker_bury(struct worker *w);

/* True on the worker's own thread: every thread-bound function of the folder asserts it. */
bool worker_is_current(const struct worker *w);

#endif
