#include "workers/events/events.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/list.h"
#include "core/base/mailbox.h"
#include "core/base/thread.h"
#include "workers/events/webhook.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    WAITING_MAX =
        32768,      /* events between workers and store: bounds the memory behind a slow disk */
    GATHER_MS = 50, /* what a crash may cost of them; twenty commits a second at most */
    WRITE_AGAIN_MS = 5000,
    STOP_GRACE_MS = 1000,
};

/* An event on its way to the store. */
struct event {
    struct mail mail;
    struct event *next;
    enum event_kind kind;
    uint32_t len;
    char text[];
};

/* What log lines of one kind go through. */
struct tap {
    struct log_tap tap;
    struct events *events;
    enum event_kind kind;
};

struct events {
    struct events_options options;
    struct tap taps[EVENT_KINDS];
    unsigned wanted;        /* 1 << enum event_kind, by any webhook */
    struct mailbox mailbox; /* its owner is the events */
    pthread_t thread;
    bool stopping;
    struct event *first, *last; /* arrived, not stored yet */
    struct event_store *store;
    uint64_t write_again_ms; /* after a failed commit: not before */
    CURLM *multi;
    struct webhook *webhooks;
    unsigned webhook_count;
    struct random random;
    uint64_t lost_told;
    pthread_mutex_t view_lock; /* guards `views` */
    struct webhook_view *views;
    struct {
        _Alignas(64) atomic_uint waiting;
        _Atomic uint64_t lost;
    } shared;
};

/* ---- from the workers ---- */

static void count_lost(struct events *e, uint64_t count)
{
    atomic_fetch_add_explicit(&e->shared.lost, count, memory_order_relaxed);
}

static void on_event(struct mail *mail, void *owner)
{
    struct events *e = owner;
    struct event *event = CONTAINER_OF(mail, struct event, mail);
    event->next = NULL;
    if (e->last != NULL)
        e->last->next = event;
    else
        e->first = event;
    e->last = event;
}

static void on_line(struct log_tap *tap, struct slice line)
{
    const struct tap *t = CONTAINER_OF(tap, struct tap, tap);
    struct events *e = t->events;
    struct event *event = NULL;
    if (atomic_fetch_add_explicit(&e->shared.waiting, 1, memory_order_relaxed) < WAITING_MAX)
        event = malloc(sizeof *event + line.len);
    if (event == NULL) {
        atomic_fetch_sub_explicit(&e->shared.waiting, 1, memory_order_relaxed);
        count_lost(e, 1);
        return;
    }
    event->kind = t->kind;
    event->len = (uint32_t)line.len;
    memcpy(event->text, line.ptr, line.len);
    event->mail.on_arrival = on_event;
    struct mail *mail = &event->mail;
    mailbox_post(&e->mailbox, &mail);
}

struct log_tap *events_tap(struct events *e, enum event_kind kind)
{
    return e != NULL && (e->wanted & 1u << kind) != 0 ? &e->taps[kind].tap : NULL;
}

/* ---- storing ---- */

static void free_arrived(struct events *e)
{
    unsigned count = 0;
    for (struct event *event; (event = e->first) != NULL; count++) {
        e->first = event->next;
        free(event);
    }
    e->last = NULL;
    atomic_fetch_sub_explicit(&e->shared.waiting, count, memory_order_relaxed);
}

static bool has_done(const struct events *e)
{
    for (unsigned i = 0; i < e->webhook_count; i++)
        if (e->webhooks[i].done_upto > 0)
            return true;
    return false;
}

/* One transaction for all that arrived and all that was taken. Where the disk refuses, the events
 * wait in memory, as many as may; a cursor that is not written down means a batch told twice. */
static void write_down(struct events *e, uint64_t now)
{
    if ((e->first == NULL && !has_done(e)) || now < e->write_again_ms)
        return;
    bool ok = event_store_begin(e->store);
    for (struct event *event = e->first; ok && event != NULL; event = event->next)
        event_store_append(e->store, event->kind, slice_of(event->text, event->len));
    for (unsigned i = 0; ok && i < e->webhook_count; i++)
        event_store_advance(e->store, i, e->webhooks[i].done_upto);
    ok = ok && event_store_commit(e->store);
    if (!ok) {
        log_note(e->options.log, "events_not_written",
                 "the folder of events takes nothing now; tried again in 5 s");
        e->write_again_ms = now + WRITE_AGAIN_MS;
        return;
    }
    free_arrived(e);
    for (unsigned i = 0; i < e->webhook_count; i++)
        e->webhooks[i].done_upto = 0;
}

static void tell_of_lost(struct events *e)
{
    uint64_t lost = events_lost(e);
    struct log_line line;
    if (lost == e->lost_told)
        return;
    log_begin(&line, e->options.log, "events_lost");
    log_u64(&line, "events", lost - e->lost_told);
    log_end(&line);
    e->lost_told = lost;
}

/* ---- figures ---- */

static void publish(struct events *e, uint64_t now)
{
    pthread_mutex_lock(&e->view_lock);
    for (unsigned i = 0; i < e->webhook_count; i++) {
        const struct webhook *w = &e->webhooks[i];
        struct webhook_view *v = &e->views[i];
        v->pending = event_store_pending(e->store, i);
        v->dropped = event_store_dropped(e->store, i);
        v->delivered = w->delivered;
        v->failures = w->failed;
        v->failing = w->failures > 0;
        v->again_ms = v->failing && w->due_mono_ms > now ? w->due_mono_ms - now : 0;
        (void)snprintf(v->last_error, sizeof v->last_error, "%s", w->last_error);
    }
    pthread_mutex_unlock(&e->view_lock);
}

unsigned events_view(struct events *e, struct webhook_view *out, unsigned max)
{
    if (e == NULL)
        return 0;
    pthread_mutex_lock(&e->view_lock);
    for (unsigned i = 0; i < e->webhook_count && i < max; i++)
        out[i] = e->views[i];
    pthread_mutex_unlock(&e->view_lock);
    return e->webhook_count;
}

uint64_t events_lost(const struct events *e)
{
    return e != NULL ? atomic_load_explicit(&e->shared.lost, memory_order_relaxed) : 0;
}

/* ---- the thread ---- */

static void collect_ended(struct events *e, uint64_t now)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(e->multi, &left)) != NULL;) {
        struct webhook *w = NULL;
        CURLcode result = m->data.result; /* the message goes with its handle */
        (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&w);
        webhook_ended(w, result, &e->random, now);
    }
}

/* Requests go on for so long; with `mailbox`, at most until something arrives. */
static void carry_on(struct events *e, int wait_ms, bool mailbox)
{
    struct curl_waitfd fd = {.fd = e->mailbox.event_fd, .events = CURL_WAIT_POLLIN};
    int running;
    (void)curl_multi_poll(e->multi, &fd, mailbox ? 1 : 0, wait_ms, NULL);
    (void)curl_multi_perform(e->multi, &running);
    collect_ended(e, clock_mono_ms());
}

/* Until the next request is due, or what was not written may be tried again. */
static int wait_ms(const struct events *e, uint64_t now)
{
    uint64_t wait = 60000;
    for (unsigned i = 0; i < e->webhook_count; i++) {
        const struct webhook *w = &e->webhooks[i];
        uint64_t due = w->due_mono_ms > now ? w->due_mono_ms - now : 0;
        if (!w->sending && w->due_mono_ms != 0 && due < wait)
            wait = due;
    }
    if (e->first != NULL || has_done(e)) {
        uint64_t again = e->write_again_ms > now ? e->write_again_ms - now : 0;
        wait = again < wait ? again : wait;
    }
    return (int)wait;
}

/* A moment for more events to come: no sender wakes this thread meanwhile, and one commit
 * takes them all. */
static void gather(struct events *e)
{
    uint64_t until = clock_mono_ms() + GATHER_MS, now;
    while (!e->stopping && (now = clock_mono_ms()) < until)
        carry_on(e, (int)(until - now), false);
    (void)mailbox_deliver(&e->mailbox);
}

/* Until something is to be done. */
static void rest(struct events *e)
{
    bool had = e->first != NULL;
    if (mailbox_prepare_sleep(&e->mailbox)) {
        carry_on(e, wait_ms(e, clock_mono_ms()), true);
        mailbox_awake(&e->mailbox);
    }
    (void)mailbox_deliver(&e->mailbox);
    if (e->first != NULL && !had)
        gather(e);
}

static void act(struct events *e)
{
    uint64_t now = clock_mono_ms();
    write_down(e, now);
    for (unsigned i = 0; i < e->webhook_count; i++) {
        struct webhook *w = &e->webhooks[i];
        webhook_note_pending(w, event_store_pending(e->store, i), now);
        webhook_start(w, e->store, e->options.config->hostname, now);
    }
    tell_of_lost(e);
    publish(e, now);
}

static bool is_sending(const struct events *e)
{
    for (unsigned i = 0; i < e->webhook_count; i++)
        if (e->webhooks[i].sending)
            return true;
    return false;
}

static void *run(void *context)
{
    struct events *e = context;
    while (!e->stopping) {
        act(e);
        rest(e);
    }
    uint64_t until = clock_mono_ms() + STOP_GRACE_MS, now;
    while (is_sending(e) && (now = clock_mono_ms()) < until)
        carry_on(e, (int)(until - now), false);
    e->write_again_ms = 0;
    write_down(e, clock_mono_ms());
    return NULL;
}

/* ---- starting and stopping ---- */

static void free_events(struct events *e)
{
    for (unsigned i = 0; i < e->webhook_count; i++)
        webhook_fini(&e->webhooks[i]);
    if (e->multi != NULL)
        (void)curl_multi_cleanup(e->multi);
    free_arrived(e);
    event_store_close(&e->store);
    pthread_mutex_destroy(&e->view_lock);
    free(e->webhooks);
    free(e->views);
    free(e);
}

static bool create_webhooks(struct events *e)
{
    const struct config *c = e->options.config;
    e->multi = curl_multi_init();
    e->webhooks = calloc(c->events.webhook_count, sizeof *e->webhooks);
    e->views = calloc(c->events.webhook_count, sizeof *e->views);
    if (e->multi == NULL || e->webhooks == NULL || e->views == NULL)
        return false;
    for (unsigned i = 0; i < c->events.webhook_count; i++) {
        struct webhook *w = &e->webhooks[i];
        e->webhook_count = i + 1;
        if (!webhook_init(w, &c->events.webhooks[i], i, e->multi, e->options.log))
            return false;
        (void)snprintf(e->views[i].url, sizeof e->views[i].url, "%s", w->shown_url);
        e->wanted |= w->config->events;
    }
    return true;
}

/* The store, and everything but the thread. */
static bool make_ready(struct events *e, struct error *error)
{
    const struct config *c = e->options.config;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !create_webhooks(e)) {
        error_set(error,
                  "libcurl cannot be set up for events.webhooks: out of memory, or a file of "
                  "authorities (ca_file) that cannot be read");
        return false;
    }
    struct event_store_options store = {.path = e->options.path,
                                        .bytes_max = c->events.store_max,
                                        .webhooks = c->events.webhooks,
                                        .webhook_count = c->events.webhook_count};
    e->store = event_store_open(&store, error);
    if (e->store != NULL)
        publish(e, clock_mono_ms());
    return e->store != NULL;
}

struct events *events_start(const struct events_options *options, struct error *error)
{
    struct events *e = aligned_alloc(64, (sizeof *e + 63) / 64 * 64);
    if (e == NULL) {
        error_set(error, "out of memory for events");
        return NULL;
    }
    memset(e, 0, sizeof *e);
    e->options = *options;
    pthread_mutex_init(&e->view_lock, NULL);
    random_init(&e->random);
    for (unsigned kind = 0; kind < EVENT_KINDS; kind++)
        e->taps[kind] =
            (struct tap){.tap.on_line = on_line, .events = e, .kind = (enum event_kind)kind};
    if (!make_ready(e, error)) {
        free_events(e);
        return NULL;
    }
    if (mailbox_init(&e->mailbox, e) != 0) {
        error_set(error, "no descriptor for events");
        free_events(e);
        return NULL;
    }
    int rc = thread_start(&e->thread, "events", run, e);
    if (rc == 0)
        return e;
    error_set(error, "events cannot start their thread: %s", strerrordesc_np(rc));
    mailbox_fini(&e->mailbox);
    free_events(e);
    return NULL;
}

static void on_stop(struct mail *mail, void *owner)
{
    (void)mail;
    struct events *e = owner;
    e->stopping = true;
}

void events_stop(struct events **e)
{
    if (*e == NULL)
        return;
    struct mail stop = {.on_arrival = on_stop};
    struct mail *mail = &stop;
    mailbox_post(&(*e)->mailbox, &mail);
    int rc = pthread_join((*e)->thread, NULL);
    ASSERT(rc == 0);
    mailbox_fini(&(*e)->mailbox);
    free_events(*e);
    *e = NULL;
}
