/* Injectors: the threads that make messages of injections (inject.h) and see them into the spool.
 *
 * A request is handed to the injector with the least to do, which reads it, then takes turns
 * between all it has: a few recipients each, so that one mailing of 50,000 holds up no single
 * message. What is rendered goes to the committer as submission's does (inbound/upload.h), a
 * bounded number at a time; when the last is durable, the request is answered.
 *
 * With an Idempotency-Key, the request's receipt is stored ahead of its messages and a mark with
 * each (core/spool/receipts.h): the same request under the same key, sent again, stores only what
 * is missing and has the same answer. */
#ifndef ONWARD_WORKERS_HTTP_INJECTOR_H
#define ONWARD_WORKERS_HTTP_INJECTOR_H

#include "workers/http/http_priv.h"

struct injectors;

/* Starts `http.threads` of them. NULL with `error`. */
struct injectors *injectors_start(struct http *h, const struct worker_parts *parts,
                                  struct error *error);

/* How long this caller must wait before it may inject again (http.recipients_per_second); 0 = not
 * at all. Any thread. */
uint64_t injectors_wait_ms(struct injectors *i, const struct http_caller *caller);

/* Hands a suspended request over; it is answered and resumed. Any thread. */
void injectors_take(struct injectors *i, struct http_request *r);

/* What is under way gets no further: messages at the committer are waited for, recipients not begun
 * are told so. Returns when nothing is left. Joins the threads. NULL is harmless. */
void injectors_stop(struct injectors *i);

/* After the committer has stopped. Nulls the caller's pointer. */
void injectors_destroy(struct injectors **i);

/* Since the start, all threads. */
struct injectors_figures {
    uint64_t requests, messages, bytes, failed_recipients, repeated_recipients;
};
/* A relaxed reading; any thread. */
struct injectors_figures injectors_figures(const struct injectors *i);

#endif
