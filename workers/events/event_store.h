/* The events that webhooks have not taken yet: a bounded LMDB environment beside the spool, so that
 * a receiver that is down for hours loses nothing and a restart goes on where it was.
 *
 *   meta      one record: format, the store's name, the last number given, bytes held
 *   events    number -> kind, then the event as a line of JSON; numbers are never given twice
 *   cursors   URL -> the last event its webhook is done with
 *
 * What all webhooks are done with is removed. Beyond the bound the oldest events are dropped, each
 * counted for every webhook that wanted it and did not have it.
 *
 * Owner: the events thread (events.h), which alone calls anything here. Writes are gathered between
 * event_store_begin and event_store_commit, and are durable when that returns true. */
#ifndef ONWARD_WORKERS_EVENTS_EVENT_STORE_H
#define ONWARD_WORKERS_EVENTS_EVENT_STORE_H

#include "core/base/buf.h"
#include "core/base/error.h"
#include "core/config/config.h"

struct event_store;

/* Copied by event_store_open, but for `webhooks`, which outlive the store. */
struct event_store_options {
    const char *path; /* directory; created 0700 where missing */
    uint64_t bytes_max;
    const struct config_webhook *webhooks; /* named by their place in here */
    unsigned webhook_count;
};

/* Opens or creates. A webhook that was not known before begins with what comes from now on; one
 * that is no longer configured is forgotten. NULL with `error`. */
struct event_store *event_store_open(const struct event_store_options *options,
                                     struct error *error);

/* Nulls the caller's pointer; NULL is harmless. */
void event_store_close(struct event_store **s);

/* ---- writing ---- */

/* False: nothing can be written now; no transaction is open. */
bool event_store_begin(struct event_store *s);

/* `line` is one JSON object, as the log has it. */
void event_store_append(struct event_store *s, enum event_kind kind, struct slice line);

/* The webhook is done with everything up to the event of this number. */
void event_store_advance(struct event_store *s, unsigned webhook, uint64_t number);

/* False: nothing since event_store_begin was written (no room, an I/O error), and the store is as
 * it was before. */
bool event_store_commit(struct event_store *s);

/* ---- reading ---- */

/* A batch for one webhook: what it wants of the events behind its cursor, oldest first, each as a
 * JSON object with its "event_id" in front, parted by commas. */
struct event_batch {
    unsigned count;
    uint64_t upto; /* to be given to event_store_advance when it was taken; 0: nothing is stored
                      behind the cursor */
};

/* Appends to `out` at most `count_max` events and about `bytes_max` bytes, at least one event where
 * there is one. */
struct event_batch event_store_read(struct event_store *s, unsigned webhook, unsigned count_max,
                                    size_t bytes_max, struct buf *out);

/* Events stored that the webhook wants and is not done with; events it wanted that were dropped
 * since the store was opened. */
uint64_t event_store_pending(const struct event_store *s, unsigned webhook);
uint64_t event_store_dropped(const struct event_store *s, unsigned webhook);

#endif
