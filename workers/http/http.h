/* The HTTP interface: a balancer's checks, Prometheus' figures, the operations of the command line
 * and injection, on listeners and threads of its own, so that nothing a client does there slows
 * mail.
 *
 *   /                             the page that shows what it is doing     page.c
 *   /livez, /readyz, /metrics     everybody may ask                        probes.c, metrics.c
 *   /api/control/<op>             as on the control socket (control.h)     operate.c
 *   /api/inject/v1                takes mail                               inject.c
 *
 * libmicrohttpd's thread of a listener reads requests whole, within bounds, and writes answers out.
 * What takes longer than a look at some figures is handed to another thread while the connection is
 * suspended: control requests to the control's, injections to an injector's (injector.h). The
 * keeper's thread ends connections that are over their time, however little they dribble.
 *
 * It is started before the engine, so that a balancer learns that the relay is starting, and told
 * when there is something behind it (http_serve). The relay's main thread calls all of this. */
#ifndef ONWARD_WORKERS_HTTP_HTTP_H
#define ONWARD_WORKERS_HTTP_HTTP_H

#include "core/config/config.h"
#include "core/log.h"
#include "workers/control.h"
#include "workers/worker.h"

struct http;

/* Reads certificate, key and tokens of `config` (borrowed for its life) with the rights that the
 * process has now: where it was started as root, none but root need be able to read them. Nothing
 * runs yet. NULL with `error`. */
struct http *http_create(const struct config *config, struct error *error);

/* Binds the listeners and answers: not ready yet. `log` (or NULL) is borrowed for its life. False
 * with `error`; http_stop and http_destroy are due in both cases. */
bool http_start(struct http *h, struct log *log, struct error *error);

/* The engine runs: requests are served from its `parts` and by `control`, borrowed until http_stop.
 * False with `error`: threads, memory. */
bool http_serve(struct http *h, const struct worker_parts *parts, struct control *control,
                struct error *error);

/* A new configuration, which must outlive it: limits and tokens. False with `error` where the token
 * file cannot be used, for instance because only root may read it and the relay is root no more;
 * the former tokens then hold on, and all else is taken over. */
bool http_reload(struct http *h, const struct config *config, struct error *error);

/* Has every injection and operation its answer, and has the client taken it? Injections that come
 * while the relay drains are refused. */
bool http_is_quiet(struct http *h);

/* Ends what is under way, with an answer where one can be given, and the threads; clients have a
 * second to finish their requests and to take their answers. Before the control and the engine stop. NULL is harmless. */
void http_stop(struct http *h);

/* Frees it, after the committer has stopped: it looks at mailboxes once more behind its answers.
 * Nulls the caller's pointer. */
void http_destroy(struct http **h);

#endif
