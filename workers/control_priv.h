/* The control thread's body, for control*.c only: control.c moves lines, control_queue.c,
 * control_suspend.c, control_health.c, control_route.c and control_view.c answer requests. */
#ifndef ONWARD_WORKERS_CONTROL_PRIV_H
#define ONWARD_WORKERS_CONTROL_PRIV_H

#include "core/base/poller.h"
#include "core/base/random.h"
#include "core/base/timer.h"
#include "core/domain.h"
#include "workers/conn.h"
#include "workers/control.h"

#include <jansson.h>
#include <pthread.h>

enum { CONTROL_CLIENTS_MAX = 32, CONTROL_LINE_MAX = 64 * 1024, CONTROL_ANSWER_MAX = 16 << 20 };

struct control {
    struct control_options options;
    struct poller *poller;
    struct mailbox mailbox; /* its owner is the control */
    struct watch mailbox_watch;
    struct watch listener_watch;
    struct timer deaf_timer; /* armed: out of descriptors, no caller is looked for meanwhile */
    int listener;
    struct timer_wheel timers; /* its owner is the control */
    struct random random;
    struct timer sample_timer;     /* of the chronicle */
    struct timer suspension_timer; /* the next one's time is up */
    uint64_t started_mono_ms;
    json_t *survey; /* the last one; owned; NULL: none yet */
    uint64_t surveyed_mono_ms;
    struct store_reader *reader;
    struct link clients;
    unsigned client_count;
    bool stopping;
    pthread_t thread;
};

/* One connection. A request that must wait for another thread keeps it busy; its next
 * line waits. */
struct control_client {
    struct link link;
    struct control *control;
    struct conn conn;
    struct buf in;
    struct buf out;
    struct timer idle;
    struct control_call *call; /* from within the process: no connection, one request */
    bool busy;                 /* an answer is on its way from another thread */
    bool closed;               /* gone, but busy: freed when that answer comes */
};

/* A line of the answer. Takes over the reference to `object`. */
void control_say(struct control_client *c, json_t *object);

/* The last line: "done" is added. `object` may be NULL. */
void control_done(struct control_client *c, json_t *object);

/* The last line of a request that failed. */
void control_error(struct control_client *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* From another thread's answer: sends what was said and goes on with the next line, or frees a
 * closed client. */
void control_resume(struct control_client *c);

/* Answers one line, or keeps the client busy until another thread has answered. */
void control_run(struct control_client *c, struct slice line);

/* Each request: its name and what answers it. */
void control_queue_list(struct control_client *c, const json_t *request);
void control_queue_show(struct control_client *c, const json_t *request);
void control_queue_edit(struct control_client *c, const json_t *request);
void control_health_list(struct control_client *c, const json_t *request);
void control_health_edit(struct control_client *c, const json_t *request);
void control_route(struct control_client *c, const json_t *request);
void control_status(struct control_client *c, const json_t *request);
void control_view(struct control_client *c, const json_t *request);

void control_suspend(struct control_client *c, const json_t *request);
void control_unsuspend(struct control_client *c, const json_t *request);
void control_suspend_list(struct control_client *c, const json_t *request);

/* Suspensions whose time is up are taken out from now on. Before the thread starts; and again, by
 * its second half, whenever one has changed. */
void control_start_suspensions(struct control *c);
void control_await_suspensions(struct control *c);

/* Figures go into the chronicle every few seconds from now on. Before the thread starts. */
void control_start_sampling(struct control *c);

/* What more than one request tells: a host of the health table; the status without its end. New
 * references. */
json_t *control_describe_host(const struct health_view *v);
json_t *control_describe_status(const struct control_options *o);

/* A suspension; up to `max` of them as an array. New references. */
json_t *control_describe_suspension(const struct suspension *s);
json_t *control_suspensions(const struct control_options *o, unsigned max);

/* The request's "domain" in the normal form that the queue knows it by; absent is "". False, having
 * said so, where it is none. */
bool control_domain_member(struct control_client *c, const json_t *request, char out[DOMAIN_SIZE]);

/* The queue by domain and age, at most a few seconds old. A new reference. */
json_t *control_survey(struct control *c);

/* A reply as JSON: "code", "status", "text". */
json_t *control_reply(const struct reply *r);

/* A slice as a JSON string; bytes that are not UTF-8 become '?'. */
json_t *control_text(struct slice s);

#endif
