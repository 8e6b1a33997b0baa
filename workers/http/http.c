#include "workers/http/http_priv.h"
#include "workers/http/injector.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/net.h"
#include "core/base/net_unix.h"
#include "core/base/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    KEEPER_PERIOD_MS = 500,
    CONNECTION_BYTES = 32 * 1024, /* a request's head, and what of the answer is on its way */
    PEM_BYTES_MAX = 1 << 20,
    UNIX_MODE = 0660,
    STOP_WAIT_MS = 20,
    STOP_ANSWERS_MS = 1000,
    DEAF_MS = 100, /* as submission's: who was in the backlog is answered */
};

/* ---- the keeper: ends what is over its time ---- */

static void end_overdue(struct http *h)
{
    uint64_t now = clock_mono_ms();
    for (struct link *l = h->shared.connections.next; l != &h->shared.connections; l = l->next) {
        struct http_connection *c = CONTAINER_OF(l, struct http_connection, link);
        /* Its listener's thread sees the end of the stream; it alone closes, after taking the
         * connection off the list. */
        if (c->deadline_ms <= now)
            (void)shutdown(c->fd, SHUT_RDWR);
    }
}

static void *keep(void *context)
{
    struct http *h = context;
    (void)pthread_mutex_lock(&h->shared.lock);
    while (!atomic_load(&h->shared.stopping)) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += KEEPER_PERIOD_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        (void)pthread_cond_timedwait(&h->shared.wake, &h->shared.lock, &until);
        end_overdue(h);
    }
    (void)pthread_mutex_unlock(&h->shared.lock);
    return NULL;
}

static bool start_keeper(struct http *h, struct error *error)
{
    h->keeper_runs = thread_start(&h->keeper, "http-keeper", keep, h) == 0;
    if (!h->keeper_runs)
        error_set(error, "the HTTP interface's thread cannot start");
    return h->keeper_runs;
}

/* ---- listeners ---- */

/* A PEM file as text with its NUL. NULL with `error`. */
static char *read_pem(const char *path, const char *key, struct error *error)
{
    FILE *file = fopen(path, "re");
    char *text = file != NULL ? malloc(PEM_BYTES_MAX) : NULL;
    size_t len = text != NULL ? fread(text, 1, PEM_BYTES_MAX - 1, file) : 0;
    if (file == NULL)
        error_set(error, "cannot read %s %s: %m; the relay's user must be able to", key, path);
    else if (len == 0)
        error_set(error, "%s %s: cannot be read, or is empty; expected a PEM file", key, path);
    if (file != NULL)
        (void)fclose(file);
    if (len == 0) {
        free(text);
        return NULL;
    }
    text[len] = '\0';
    return text;
}

static bool read_certificate(struct http *h, const struct config *c, struct error *error)
{
    bool wanted = false;
    for (unsigned i = 0; i < c->http.listener_count; i++)
        wanted |= c->http.listeners[i].tls;
    if (!wanted)
        return true;
    h->certificate = read_pem(c->http.tls_certificate, "http.tls_certificate", error);
    h->key = h->certificate != NULL ? read_pem(c->http.tls_key, "http.tls_key", error) : NULL;
    return h->key != NULL;
}

static struct MHD_Daemon *start_daemon(struct http_listener *l, int fd, const struct config *c)
{
    /* Not epoll: libmicrohttpd 0.9.75 uses it edge-triggered and takes a short read for all there
     * is, so it never learns of a client that has gone behind its last bytes. */
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, l->http->certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, l->http->key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (char[]){"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"}},
        {MHD_OPTION_END, 0, NULL},
    };
    if (l->config->tls)
        flags |= MHD_USE_TLS;
    return MHD_start_daemon(
        flags, 0, NULL, NULL, http_on_request, l, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, c->http.connections_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)(c->http.idle_timeout_ms / 1000), MHD_OPTION_NOTIFY_COMPLETED, http_on_completed,
        l, MHD_OPTION_NOTIFY_CONNECTION, http_on_connection, l, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        l->config->tls ? MHD_OPTION_ARRAY : MHD_OPTION_END, tls, MHD_OPTION_END);
}

static bool open_listener(struct http *h, const struct config *c, unsigned i, struct error *error)
{
    const struct config_http_listener *config = &c->http.listeners[i];
    struct http_listener *l = &h->listeners[i];
    *l = (struct http_listener){.http = h, .config = config};
    int fd = config->socket != NULL
                 ? net_listen_unix(config->socket, UNIX_MODE, "http.listen", error)
                 : net_listen(&config->address, error);
    if (fd < 0)
        return false;
    l->daemon = start_daemon(l, fd, c);
    if (l->daemon == NULL) {
        net_close(fd);
        error_set(error, config->tls
                             ? "http.listen: TLS cannot start; do http.tls_certificate and "
                               "http.tls_key hold a PEM certificate and its key?"
                             : "http.listen: cannot start: out of memory, threads or descriptors");
        return false;
    }
    h->listener_count = i + 1;
    return true;
}

/* ---- starting and stopping ---- */

/* No new connection is made; those that wait to be accepted still are. */
static void be_deaf(struct http *h)
{
    for (unsigned i = 0; i < h->listener_count; i++) {
        const union MHD_DaemonInfo *info =
            MHD_get_daemon_info(h->listeners[i].daemon, MHD_DAEMON_INFO_LISTEN_FD);
        if (info != NULL && h->listeners[i].config->socket == NULL)
            net_listener_deafen(info->listen_fd);
    }
}

static void init_lock(struct http *h)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&h->shared.wake, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    (void)pthread_mutex_init(&h->shared.lock, NULL);
}

struct http *http_create(const struct config *config, struct error *error)
{
    static_assert(HTTP_LISTENERS_MAX >= 16, "as many as the configuration may list");
    struct http *h = calloc(1, sizeof *h);
    if (h == NULL) {
        error_set(error, "out of memory for the HTTP interface");
        return NULL;
    }
    init_lock(h);
    list_init(&h->shared.connections);
    atomic_store(&h->shared.config, config);
    h->shared.tokens = tokens_load(config->http.token_file, error);
    if (h->shared.tokens == NULL || !read_certificate(h, config, error))
        http_destroy(&h);
    return h;
}

bool http_start(struct http *h, struct log *log, struct error *error)
{
    const struct config *config = atomic_load(&h->shared.config);
    h->log = log;
    for (unsigned i = 0; i < config->http.listener_count; i++)
        if (!open_listener(h, config, i, error))
            return false;
    return start_keeper(h, error);
}

bool http_serve(struct http *h, const struct worker_parts *parts, struct control *control,
                struct error *error)
{
    h->control = control;
    h->injectors = injectors_start(h, parts, error);
    if (h->injectors == NULL)
        return false;
    atomic_store(&h->shared.parts, parts);
    return true;
}

bool http_reload(struct http *h, const struct config *config, struct error *error)
{
    struct tokens *fresh = tokens_load(config->http.token_file, error);
    atomic_store(&h->shared.config, config);
    if (fresh == NULL)
        return false;
    (void)pthread_mutex_lock(&h->shared.lock);
    struct tokens *former = h->shared.tokens;
    h->shared.tokens = fresh;
    (void)pthread_mutex_unlock(&h->shared.lock);
    tokens_free(&former);
    return true;
}

bool http_is_quiet(struct http *h)
{
    return atomic_load(&h->shared.unfinished) == 0;
}

void http_stop(struct http *h)
{
    if (h == NULL)
        return;
    (void)pthread_mutex_lock(&h->shared.lock);
    atomic_store(&h->shared.stopping, true);
    (void)pthread_cond_signal(&h->shared.wake);
    (void)pthread_mutex_unlock(&h->shared.lock);
    if (h->keeper_runs)
        (void)pthread_join(h->keeper, NULL);
    h->keeper_runs = false;
    /* libmicrohttpd may not be stopped over a suspended connection: its answer is on the way. */
    while (atomic_load(&h->shared.suspended) > 0)
        (void)usleep(STOP_WAIT_MS * 1000);
    be_deaf(h);
    uint64_t now = clock_mono_ms(), until = now + STOP_ANSWERS_MS;
    uint64_t deaf_until = now + (h->listener_count > 0 ? DEAF_MS : 0);
    while ((now = clock_mono_ms()) < deaf_until ||
           (atomic_load(&h->shared.requests) > 0 && now < until))
        (void)usleep(STOP_WAIT_MS * 1000);
    for (unsigned i = 0; i < h->listener_count; i++) {
        MHD_stop_daemon(h->listeners[i].daemon);
        if (h->listeners[i].config->socket != NULL)
            (void)unlink(h->listeners[i].config->socket);
    }
    h->listener_count = 0;
    injectors_stop(h->injectors);
}

void http_destroy(struct http **h)
{
    if (*h == NULL)
        return;
    ASSERT((*h)->listener_count == 0 && list_empty(&(*h)->shared.connections));
    injectors_destroy(&(*h)->injectors);
    tokens_free(&(*h)->shared.tokens);
    free((*h)->certificate);
    free((*h)->key);
    (void)pthread_mutex_destroy(&(*h)->shared.lock);
    (void)pthread_cond_destroy(&(*h)->shared.wake);
    free(*h);
    *h = NULL;
}
