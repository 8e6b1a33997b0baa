#include "workers/worker.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/thread.h"
#include "workers/inbound/inbound.h"
#include "workers/outbound/outbound.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { JOBS_PER_TURN = 64 };

/* A new configuration, or the order to drain or stop, on its way to a worker. */
struct order {
    struct mail mail;
    const struct config *config;
};

bool worker_is_current(const struct worker *w)
{
    return pthread_equal(w->thread, pthread_self()) != 0;
}

static void on_mailbox(struct watch *watch, unsigned events)
{
    (void)watch, (void)events; /* mail is delivered in every turn */
}

static void read_clock(struct worker *w)
{
    w->now_ms = clock_mono_ms();
    w->wall_ms = clock_wall_ms();
}

/* Sleeps until something is to be done; returns how many events wait to be dispatched. */
static int wait(struct worker *w, bool busy)
{
    struct mailbox *mailbox = &w->shared.mailbox;
    if (busy || !mailbox_prepare_sleep(mailbox))
        return poller_fetch(w->poller, 0);
    /* Jobs are pushed before sleepers are looked for, so whoever pushes after this
     * look wakes us. */
    bool jobs_wait = jobs_length(w->parts->jobs) > 0 && !w->outbound->draining;
    int timeout = jobs_wait ? 0 : timer_wheel_wait_ms(&w->timers, clock_mono_ms());
    int count = poller_fetch(w->poller, timeout);
    mailbox_awake(mailbox);
    return count;
}

bool worker_turn(struct worker *w, int events)
{
    read_clock(w);
    (void)mailbox_deliver(&w->shared.mailbox);
    poller_dispatch(w->poller, events);
    (void)timer_wheel_advance(&w->timers, w->now_ms);
    bool busy = outbound_take_jobs(w->outbound, JOBS_PER_TURN) == JOBS_PER_TURN;
    busy |= inbound_end_turn(w->inbound);
    busy |= outbound_end_turn(w->outbound);
    return busy;
}

static void *run(void *context)
{
    struct worker *w = context;
    bool busy = false;
    while (!w->stopping)
        busy = worker_turn(w, wait(w, busy));
    inbound_abandon(w->inbound);
    outbound_abandon(w->outbound);
    return NULL;
}

/* Whatever of them was made. */
static void free_parts(struct worker *w)
{
    inbound_destroy(&w->inbound);
    outbound_destroy(&w->outbound);
    if (w->mailbox_watch.fd >= 0)
        poller_remove(w->poller, &w->mailbox_watch);
    if (w->shared.mailbox.event_fd >= 0)
        mailbox_fini(&w->shared.mailbox);
    store_reader_destroy(&w->reader);
    poller_destroy(&w->poller);
    free(w->scratch);
}

static bool create_parts(struct worker *w, struct error *error)
{
    w->poller = poller_create();
    w->scratch = malloc(WORKER_SCRATCH_BYTES);
    w->reader = store_reader_create(w->parts->store);
    if (w->poller == NULL || w->scratch == NULL || w->reader == NULL ||
        mailbox_init(&w->shared.mailbox, w) != 0) {
        error_set(error, "worker %u: out of memory or descriptors", w->index);
        return false;
    }
    if (!poller_add(w->poller, &w->mailbox_watch, w->shared.mailbox.event_fd, POLLER_LEVEL_READ,
                    on_mailbox)) {
        error_set(error, "worker %u: cannot watch its mailbox", w->index);
        return false;
    }
    w->inbound = inbound_create(w, error);
    if (w->inbound == NULL)
        return false;
    w->outbound = outbound_create(w);
    if (w->outbound == NULL)
        error_set(error, "worker %u: out of memory", w->index);
    return w->outbound != NULL;
}

bool worker_init(struct worker *w, unsigned index, const struct worker_parts *parts,
                 struct error *error)
{
    *w = (struct worker){.parts = parts, .config = parts->config, .index = index};
    w->thread = pthread_self();
    w->mailbox_watch.fd = w->shared.mailbox.event_fd = -1;
    random_init(&w->random);
    read_clock(w);
    timer_wheel_init(&w->timers, w->now_ms, w);
    if (create_parts(w, error))
        return true;
    free_parts(w);
    return false;
}

bool worker_start(struct worker *w, unsigned index, const struct worker_parts *parts,
                  struct error *error)
{
    if (!worker_init(w, index, parts, error))
        return false;
    char name[sizeof "worker-4294967295"];
    (void)snprintf(name, sizeof name, "worker-%u", index);
    int rc = thread_start(&w->thread, name, run, w);
    if (rc == 0)
        return true;
    error_set(error, "worker %u: cannot start its thread: %s", index, strerrordesc_np(rc));
    free_parts(w);
    return false;
}

/* ---- orders from the relay ---- */

static bool post_order(struct worker *w, const struct config *config,
                       void (*on_arrival)(struct mail *mail, void *owner))
{
    struct order *o = calloc(1, sizeof *o);
    if (o == NULL)
        return false;
    o->config = config;
    o->mail.on_arrival = on_arrival;
    struct mail *mail = &o->mail;
    mailbox_post(&w->shared.mailbox, &mail);
    return true;
}

static void on_reload(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    struct order *o = CONTAINER_OF(mail, struct order, mail);
    w->config = o->config;
    inbound_reload(w->inbound);
    free(o);
}

bool worker_reload(struct worker *w, const struct config *config)
{
    return post_order(w, config, on_reload);
}

static void on_drain(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    inbound_drain(w->inbound);
    outbound_drain(w->outbound);
    free(CONTAINER_OF(mail, struct order, mail));
}

bool worker_drain(struct worker *w)
{
    return post_order(w, NULL, on_drain);
}

static void on_hang_up(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    inbound_hang_up(w->inbound);
    free(CONTAINER_OF(mail, struct order, mail));
}

bool worker_hang_up(struct worker *w)
{
    return post_order(w, NULL, on_hang_up);
}

bool worker_is_quiet(struct worker *w)
{
    return atomic_load_explicit(&w->shared.clients, memory_order_relaxed) == 0 &&
           atomic_load_explicit(&w->shared.figures.lanes_open, memory_order_relaxed) == 0;
}

static void on_stop(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    w->stopping = true;
    free(CONTAINER_OF(mail, struct order, mail));
}

void worker_stop(struct worker *w)
{
    while (!post_order(w, NULL, on_stop))
        (void)sched_yield(); /* memory comes back as the others stop */
    int rc = pthread_join(w->thread, NULL);
    ASSERT(rc == 0);
}

void worker_bury(struct worker *w)
{
    w->thread = pthread_self(); /* what arrives now is handled here */
    while (mailbox_deliver(&w->shared.mailbox) > 0)
        continue;
    free_parts(w);
}
