/* Events out: what became of each recipient, told to webhooks as batches of JSON by POST.
 *
 *   worker --log line, tapped--> mailbox -> [gather -> store -> commit] -> POST -> 2xx -> cursor
 *                                                                          `-> else: again, later
 *
 * A thread of its own does all of it: it gathers events for a moment, writes them into a store
 * beside the spool (event_store.h), and posts what is stored, one request at a time for each
 * webhook. No worker and no commit of mail waits for it. An event is a line of the log with an id
 * in front, so both say the same.
 *
 * What a crash costs: an event is in the store some 50 ms behind the mail's outcome; those of that
 * moment are lost by a crash or a power cut. From the store on each is told at least once: a batch
 * whose answer was lost, or that was under way when the relay stopped, is sent again with the same
 * ids. Beyond events.store_max the oldest are dropped and counted. */
#ifndef ONWARD_WORKERS_EVENTS_EVENTS_H
#define ONWARD_WORKERS_EVENTS_EVENTS_H

#include "core/config/config.h"
#include "core/log.h"

struct events;

/* Copied by events_start; what it points at outlives the events. */
struct events_options {
    const struct config *config;
    const char *path; /* of the store */
    struct log *log;
};

/* Opens the store and starts the thread. NULL with `error`. */
struct events *events_start(const struct events_options *options, struct error *error);

/* Stores what was told before, gives requests under way a second, stops and joins the thread. Nulls
 * the caller's pointer; NULL is harmless. */
void events_stop(struct events **e);

/* For log_begin_tapped: where lines of this kind go, or NULL where no webhook wants them. Any
 * thread; `e` may be NULL. */
struct log_tap *events_tap(struct events *e, enum event_kind kind);

/* What one webhook is at. */
struct webhook_view {
    char url[128];        /* without user, password and query */
    uint64_t pending;     /* events stored that it has not taken */
    uint64_t delivered;   /* events taken since the start */
    uint64_t dropped;     /* that it never got */
    uint64_t failures;    /* requests that failed since the start */
    bool failing;         /* the last one did */
    uint64_t again_ms;    /* then: in how long it is tried again */
    char last_error[160]; /* of the last failure; "" = none */
};

/* How many webhooks there are; the first `max` into `out`. Any thread; `e` may be NULL. */
unsigned events_view(struct events *e, struct webhook_view *out, unsigned max);

/* Events lost before they could be stored: too many at once, or the disk would not take them. Any
 * thread; `e` may be NULL. */
uint64_t events_lost(const struct events *e);

#endif
