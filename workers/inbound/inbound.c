#include "workers/inbound/inbound.h"

#include "core/base/assert.h"
#include "core/domain.h"
#include "workers/inbound/submission.h"
#include "workers/intake.h"

#include <stdlib.h>

enum {
    ACCEPTS_PER_EVENT = 16,
    DEAF_MS = 100,
    COMMAND_BYTES_MAX =
        4096, /* 512 (RFC 5321 4.5.3.1.4) and what DSN, SMTPUTF8 and long parameters add */
    RECEIVED_MAX = 100, /* RFC 5321 6.3 */
};

/* ---- connections come in ---- */

/* A connection on its way to the worker that is to serve it. */
struct handover {
    struct mail mail;
    int fd;
    unsigned listener;
    struct address peer;
};

void inbound_refuse(struct inbound *i, int fd)
{
    if (fd >= 0)
        net_close(fd);
    atomic_fetch_sub(&i->worker->shared.clients, 1);
}

static void on_handover(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    struct handover *h = CONTAINER_OF(mail, struct handover, mail);
    if (w->stopping)
        inbound_refuse(w->inbound, h->fd);
    else
        submission_open(w->inbound, h->fd, &h->peer, h->listener);
    free(h);
}

/* The kernel wakes the same worker for one caller after the other as long as it sleeps in between,
 * and long-lived connections stay where they are. So of this worker and any other the one with
 * fewer gets it: two choices keep all about even. */
static struct worker *less_busy(struct worker *w)
{
    unsigned listening = atomic_load_explicit(&w->parts->shared->listening, memory_order_acquire);
    if (listening < 2)
        return w;
    struct worker *other = &w->parts->workers[random_below(&w->random, listening)];
    return atomic_load_explicit(&other->shared.clients, memory_order_relaxed) <
                   atomic_load_explicit(&w->shared.clients, memory_order_relaxed)
               ? other
               : w;
}

static void place(struct inbound *i, int fd, const struct address *peer, unsigned listener)
{
    struct worker *to = less_busy(i->worker);
    struct handover *h = to != i->worker ? malloc(sizeof *h) : NULL;
    if (h == NULL) {
        atomic_fetch_add(&i->worker->shared.clients, 1);
        submission_open(i, fd, peer, listener);
        return;
    }
    *h = (struct handover){
        .mail.on_arrival = on_handover, .fd = fd, .listener = listener, .peer = *peer};
    struct mail *mail = &h->mail;
    atomic_fetch_add(&to->shared.clients, 1);
    mailbox_post(&to->shared.mailbox, &mail);
}

static void ignore_callers(struct inbound *i)
{
    for (unsigned n = 0; n < i->worker->parts->listener_count; n++)
        poller_remove(i->worker->poller, &i->listeners[n].watch);
}

static void on_connection(struct watch *watch, unsigned events);

static bool watch_callers(struct inbound *i)
{
    const struct worker_parts *parts = i->worker->parts;
    for (unsigned n = 0; n < parts->listener_count; n++)
        if (!poller_add(i->worker->poller, &i->listeners[n].watch, parts->listeners[n],
                        POLLER_LEVEL_READ_SHARED, on_connection))
            return false;
    return true;
}

/* Out of descriptors: the kernel's backlog keeps callers until some are free, and would tell of
 * them all the time. */
static void be_deaf(struct inbound *i)
{
    ignore_callers(i);
    timer_arm(&i->worker->timers, &i->deaf_timer, i->worker->now_ms + DEAF_MS);
}

static void on_deaf_over(struct timer *timer, void *owner)
{
    (void)owner;
    struct inbound *i = CONTAINER_OF(timer, struct inbound, deaf_timer);
    if (!watch_callers(i))
        be_deaf(i);
}

static void on_connection(struct watch *watch, unsigned events)
{
    (void)events;
    struct listener *listener = CONTAINER_OF(watch, struct listener, watch);
    for (int n = 0; n < ACCEPTS_PER_EVENT; n++) {
        int fd = -1;
        struct address peer;
        enum net_status status = net_accept(watch->fd, &fd, &peer);
        if (status == NET_NO_RESOURCES)
            be_deaf(listener->inbound);
        if (status != NET_OK)
            return;
        place(listener->inbound, fd, &peer, listener->index);
    }
}

/* Its name in lower case and a colon, as the decoder compares it; empty where there is none. */
static struct slice priority_field(struct inbound *i)
{
    const char *name = i->worker->config->submission.priority_header;
    size_t len = 0;
    for (; name[len] != '\0' && len < sizeof i->priority_field - 1; len++)
        i->priority_field[len] =
            name[len] >= 'A' && name[len] <= 'Z' ? (char)(name[len] | 0x20) : name[len];
    if (len > 0)
        i->priority_field[len++] = ':';
    return slice_of(i->priority_field, len);
}

static const struct smtp_refusal *refuse_domain(void *context, const char *domain)
{
    return intake_refuse_domain(context, domain);
}

void inbound_reload(struct inbound *i)
{
    const struct config *c = i->worker->config;
    i->smtp = (struct smtp_server_options){.hostname = c->hostname,
                                           .message_bytes_max = c->submission.message_size_max,
                                           .recipients_max = c->submission.recipients_max,
                                           .command_bytes_max = COMMAND_BYTES_MAX,
                                           .text_line_bytes_max = c->submission.text_line_max,
                                           .bad_commands_max = c->submission.bad_commands_max,
                                           .priority_field = priority_field(i),
                                           .received_max = RECEIVED_MAX,
                                           .normalize_domain = domain_normalize,
                                           .refuse_domain = refuse_domain,
                                           .context = i->worker->parts->intake};
}

struct inbound *inbound_create(struct worker *w, struct error *error)
{
    const struct worker_parts *parts = w->parts;
    struct inbound *i = calloc(1, sizeof *i);
    struct listener *listeners = calloc(parts->listener_count, sizeof *listeners);
    if (i == NULL || listeners == NULL) {
        free(i);
        free(listeners);
        error_set(error, "out of memory for the submission listeners");
        return NULL;
    }
    i->worker = w;
    i->listeners = listeners;
    list_init(&i->submissions);
    list_init(&i->graveyard);
    list_init(&i->again);
    inbound_reload(i);
    timer_init(&i->deaf_timer, on_deaf_over);
    i->listening = true;
    atomic_fetch_add(&parts->shared->listening, 1);
    for (unsigned n = 0; n < parts->listener_count; n++)
        listeners[n] = (struct listener){.watch.fd = -1, .inbound = i, .index = n};
    if (watch_callers(i))
        return i;
    error_set(error, "cannot watch the submission listeners: out of memory or watches");
    inbound_destroy(&i);
    return NULL;
}

static void stop_listening(struct inbound *i)
{
    if (!i->listening)
        return;
    i->listening = false;
    timer_disarm(&i->worker->timers, &i->deaf_timer);
    ignore_callers(i);
    atomic_fetch_sub(&i->worker->parts->shared->listening, 1);
}

static void bury(struct inbound *i)
{
    for (struct link *l; (l = list_pop_front(&i->graveyard)) != NULL;)
        submission_destroy(CONTAINER_OF(l, struct submission, link));
}

void inbound_destroy(struct inbound **i)
{
    if (*i == NULL)
        return;
    stop_listening(*i);
    bury(*i);
    ASSERT(list_empty(&(*i)->submissions));
    free((*i)->listeners);
    free(*i);
    *i = NULL;
}

bool inbound_end_turn(struct inbound *i)
{
    struct link turn;
    list_init(&turn);
    list_splice_back(&turn, &i->again);
    for (struct link *l; (l = list_pop_front(&turn)) != NULL;)
        submission_pump(CONTAINER_OF(l, struct submission, again_link));
    if (i->draining)
        for (struct link *l = i->submissions.next; l != &i->submissions;) {
            struct submission *s = CONTAINER_OF(l, struct submission, link);
            l = l->next;
            submission_drain(s);
        }
    bury(i);
    return !list_empty(&i->again);
}

void inbound_drain(struct inbound *i)
{
    i->draining = true;
    stop_listening(i);
}

void inbound_hang_up(struct inbound *i)
{
    for (struct link *l = i->submissions.next; l != &i->submissions;) {
        struct submission *s = CONTAINER_OF(l, struct submission, link);
        l = l->next;
        submission_hang_up(s);
    }
}

void inbound_abandon(struct inbound *i)
{
    stop_listening(i);
    for (struct link *l = i->submissions.next; l != &i->submissions;) {
        struct submission *s = CONTAINER_OF(l, struct submission, link);
        l = l->next;
        submission_close(s);
    }
    bury(i);
}
