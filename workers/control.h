/* The control socket: a unix stream socket (mode 0600, its directory's owner decides who may use
 * it) on which `onward queue|suspend|health|route|status` ask the running relay. One request, one
 * JSON object on a line; then response lines, each a JSON object, the last of which has "done":true
 * (and "error" with what to do, where it failed). Runs on a thread of its own; a slow or hostile
 * client never touches mail: bounded lines, bounded clients, bounded time. */
#ifndef ONWARD_WORKERS_CONTROL_H
#define ONWARD_WORKERS_CONTROL_H

#include "core/config/config.h"
#include "core/health.h"
#include "core/log.h"
#include "core/queue/destination.h"
#include "core/queue/suspensions.h"
#include "core/spool/committer.h"
#include "core/spool/store.h"
#include "core/base/buf.h"
#include "dns/resolver.h"
#include "workers/chronicle.h"

#include <jansson.h>

struct control;

/* What requests are answered from; copied, its pointers borrowed for the control's life. */
struct control_options {
    const struct config *config;
    struct store *store;
    struct committer *committer;
    struct health *health;
    struct resolver *resolver;
    struct destination_table *destinations;
    struct suspensions *suspensions; /* or NULL; changed by the control's thread alone */
    struct chronicle *chronicle;     /* or NULL */
    struct log *log;                 /* or NULL */
    /* Appends members of the "status" answer (worker counters and such) to a JSON object; the
     * relay's. */
    void (*add_status)(void *context, void *json_object);
    /* Fills in the counters and sessions of all workers; NULL: no history is kept. */
    void (*read_sample)(void *context, struct chronicle_sample *sample_out);
    void *context;
};

/* Binds the socket (a stale one of a dead process is replaced, a live one refused) and starts the
 * thread. */
struct control *control_start(const struct control_options *options, struct error *error);

/* A request from within the process, answered as one on the socket would be. Whoever makes it keeps
 * it, and what it borrows, until on_answer. */
struct control_call {
    struct mail mail;
    struct slice request; /* the line, without its end */
    struct buf answer;    /* the lines; empty: out of memory. Whoever made the call frees it */
    void (*on_answer)(struct control_call *call); /* on the control's thread */
};

/* Makes the call. Any thread, never blocks; none may be under way at control_stop. */
void control_ask(struct control *c, struct control_call *call);

/* Is it an operation that changes nothing? False too where there is none of that name. */
bool control_only_reads(const char *op);

/* A request's member as text, e.g. from the query part of a URL. */
struct control_argument {
    const char *name, *value;
};

/* The request for `op`, its members in the types that it takes. NULL with `error`: no such
 * operation, member or value. */
json_t *control_request_of(const char *op, const struct control_argument *arguments, unsigned count,
                           struct error *error);

/* Answers what is under way, stops and joins the thread, removes the socket. NULL is harmless. */
void control_stop(struct control *c);

/* Frees it. After the committer and the resolver have stopped: whoever posts an answer looks at the
 * mailbox once more behind it. Nulls the caller's pointer. */
void control_destroy(struct control **c);

#endif
