/* The HTTP interface's body, for this folder only: http.c starts and stops, request.c receives and
 * answers, routes.c says who serves what. */
#ifndef ONWARD_WORKERS_HTTP_HTTP_PRIV_H
#define ONWARD_WORKERS_HTTP_HTTP_PRIV_H

#include "core/base/buf.h"
#include "core/base/list.h"
#include "workers/http/http.h"
#include "workers/http/tokens.h"

#include <microhttpd.h>
#include <zlib.h>

enum { HTTP_LISTENERS_MAX = 16, HTTP_ROUTES_MAX = 16, HTTP_STATUS_CLASSES = 4 };

struct http_request;

/* What answers a path. */
struct http_route {
    const char *path;
    bool prefix;                    /* whatever begins with `path` */
    bool gets;                      /* GET and HEAD */
    bool posts;                     /* POST */
    unsigned get_scope, post_scope; /* enum token_scope; 0: everybody */
    bool (*admit)(
        struct http_request *r); /* the head was read: false, having answered, refuses; or NULL */
    bool takes_large;            /* a body up to http.body_size_max, else 64 KB */
    void (*serve)(struct http_request *r); /* answers, or has it answered by another thread */
};

/* The table; `*count_out` routes. The first that fits a path serves it. */
const struct http_route *http_routes(unsigned *count_out);

struct http_listener {
    struct http *http;
    struct MHD_Daemon *daemon;
    const struct config_http_listener *config;
};

struct http {
    struct log *log;
    struct http_listener listeners[HTTP_LISTENERS_MAX];
    unsigned listener_count;
    char *certificate, *key; /* PEM text, or NULL */
    struct control *control; /* set before `parts` */
    pthread_t keeper;
    bool keeper_runs;
    struct injectors *injectors;
    struct {
        _Atomic(const struct config *) config;
        _Atomic(const struct worker_parts *) parts; /* NULL: the relay is starting */
        atomic_bool stopping;
        _Atomic uint64_t memory; /* bytes of bodies received and under way */
        atomic_uint suspended;   /* requests that another thread is to answer */
        atomic_uint unfinished;  /* these, and those of them whose answer is on its way */
        atomic_uint requests;    /* all that have begun, till their answer has gone */
        _Atomic uint64_t answers[HTTP_ROUTES_MAX + 1][HTTP_STATUS_CLASSES]; /* 2xx to 5xx */
        pthread_mutex_t lock;    /* guards what follows; held for a few moves */
        pthread_cond_t wake;     /* of the keeper */
        struct link connections; /* struct http_connection */
        struct tokens *tokens;   /* newest; requests take what they need of it under the lock */
    } shared;
};

/* One TCP or unix connection, so that the keeper can end it. Guard: the http's lock. */
struct http_connection {
    struct link link;
    int fd;
    uint64_t deadline_ms; /* monotonic; UINT64_MAX while the wait is ours */
};

/* Who asks, and what that may be. */
struct http_caller {
    char name[TOKEN_NAME_MAX +
              1]; /* of the token; "" where none was given; "local" on a unix socket */
    unsigned scopes;
    unsigned index;         /* of the token; TOKENS_MAX on a unix socket */
    struct address address; /* 0.0.0.0 on a unix socket */
};

/* One request, from its head to the end of its answer. Owned by its listener's thread; while it is
 * suspended, by the thread that is to answer it. */
struct http_request {
    struct http *http;
    struct http_listener *listener;
    struct MHD_Connection *connection;
    struct http_connection *transport;
    const struct http_route *route;   /* NULL: none fits */
    const struct config *config;      /* as it was when the request came */
    const struct worker_parts *parts; /* NULL: the relay is starting */
    struct http_caller caller;
    const char *idempotency_key; /* or NULL; libmicrohttpd's, for the request's life */
    char path[256];
    bool is_post;
    bool suspended;
    bool unfinished; /* it was suspended: counted until its answer has gone */
    uint64_t began_ms;
    char *body; /* inflated; owned */
    size_t body_len, body_capacity;
    uint64_t charged; /* of it, to the http's memory */
    bool is_gzip, gzip_ended;
    z_stream inflater;
    unsigned status; /* 0: not answered yet */
    struct MHD_Response
        *response; /* what is to be said; owned. NULL: nothing, or no memory for it */
};

/* ---- answering (request.c) ---- */

/* The answer, whose `bytes` (from malloc) it takes over. */
void http_answer(struct http_request *r, unsigned status, const char *type, char *bytes,
                 size_t len);

/* Takes over the reference to `object`. */
void http_answer_json(struct http_request *r, unsigned status, json_t *object);

/* {"error": "..."} */
void http_answer_error(struct http_request *r, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A further field of the answer that was given, e.g. Retry-After. */
void http_answer_field(struct http_request *r, const char *name, const char *value);

/* From `serve`: another thread answers and then calls http_resume, both in its own time. False,
 * having answered, where the relay stops. */
bool http_suspend(struct http_request *r);
void http_resume(struct http_request *r);

/* A field of the request, or NULL. In `serve` only. */
const char *http_field(const struct http_request *r, const char *name);

/* libmicrohttpd's callbacks, for http.c. */
enum MHD_Result http_on_request(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_len, void **request);
void http_on_completed(void *context, struct MHD_Connection *connection, void **request,
                       enum MHD_RequestTerminationCode how);
void http_on_connection(void *context, struct MHD_Connection *connection, void **transport,
                        enum MHD_ConnectionNotificationCode what);

/* ---- what serves ---- */

/* Does the relay take mail now, and why not: a word of intake.h (probes.c). */
bool http_ready(const struct http *h, const char **reason_out);

void http_serve_livez(struct http_request *r);   /* probes.c */
void http_serve_readyz(struct http_request *r);  /* probes.c */
void http_serve_metrics(struct http_request *r); /* metrics.c */
void http_serve_control(struct http_request *r); /* operate.c */
bool http_admit_inject(struct http_request *r);  /* receive.c */
void http_serve_inject(struct http_request *r);  /* receive.c */
void http_serve_page(struct http_request *r);    /* page.c */

#endif
