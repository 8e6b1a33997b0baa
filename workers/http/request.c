#include "workers/http/http_priv.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "workers/http/body.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- answers ---- */

static void set_response(struct http_request *r, unsigned status, struct MHD_Response *response,
                         const char *type)
{
    ASSERT(r->status == 0);
    r->status = status;
    r->response = response;
    if (response == NULL) /* out of memory: answered all the same, by closing the connection */
        return;
    http_answer_field(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    http_answer_field(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    http_answer_field(r, "X-Content-Type-Options", "nosniff");
}

void http_answer(struct http_request *r, unsigned status, const char *type, char *bytes, size_t len)
{
    struct MHD_Response *response =
        bytes != NULL ? MHD_create_response_from_buffer(len, bytes, MHD_RESPMEM_MUST_FREE) : NULL;
    if (response == NULL)
        free(bytes);
    set_response(r, status, response, type);
}

void http_answer_json(struct http_request *r, unsigned status, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(object);
    size_t len = text != NULL ? strlen(text) : 0;
    char *line = text != NULL ? realloc(text, len + 1) : NULL;
    if (line != NULL)
        line[len++] = '\n'; /* in the NUL's place: a terminal's prompt stands on its own line */
    http_answer(r, status, "application/json", line, len);
}

void http_answer_error(struct http_request *r, unsigned status, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c != '\0'; c++) /* quotes what was sent: never more than ASCII */
        if (*c < ' ' || *c > '~')
            *c = '?';
    http_answer_json(r, status, json_pack("{s:s}", "error", text));
}

void http_answer_field(struct http_request *r, const char *name, const char *value)
{
    if (r->response != NULL)
        (void)MHD_add_response_header(r->response, name, value);
}

const char *http_field(const struct http_request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

/* ---- time limits: the keeper ends what is over them ---- */

static void set_deadline(struct http *h, struct http_connection *c, uint64_t deadline_ms)
{
    (void)pthread_mutex_lock(&h->shared.lock);
    c->deadline_ms = deadline_ms;
    (void)pthread_mutex_unlock(&h->shared.lock);
}

bool http_suspend(struct http_request *r)
{
    struct http *h = r->http;
    atomic_fetch_add(&h->shared.suspended, 1);
    /* Counted first: whoever stops either sees it counted, or is seen here. */
    if (atomic_load(&h->shared.stopping)) {
        atomic_fetch_sub(&h->shared.suspended, 1);
        http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the relay is shutting down");
        return false;
    }
    r->suspended = r->unfinished = true;
    atomic_fetch_add(&h->shared.unfinished, 1);
    set_deadline(h, r->transport, UINT64_MAX);
    MHD_suspend_connection(r->connection);
    return true;
}

void http_resume(struct http_request *r)
{
    struct http *h = r->http;
    MHD_resume_connection(r->connection); /* from here on the request is its listener's */
    atomic_fetch_sub(&h->shared.suspended, 1);
}

static enum MHD_Result send_answer(struct http_request *r)
{
    if (r->response == NULL)
        return MHD_NO;
    set_deadline(r->http, r->transport, clock_mono_ms() + r->config->http.request_timeout_ms);
    enum MHD_Result result = MHD_queue_response(r->connection, r->status, r->response);
    unsigned count, class = r->status / 100 - 2;
    const struct http_route *routes = http_routes(&count);
    unsigned index = r->route != NULL ? (unsigned)(r->route - routes) : count;
    if (class < HTTP_STATUS_CLASSES)
        atomic_fetch_add_explicit(&r->http->shared.answers[index][class], 1, memory_order_relaxed);
    return result;
}

/* ---- who asks ---- */

static const struct http_route *find_route(const char *path)
{
    unsigned count;
    const struct http_route *routes = http_routes(&count);
    for (unsigned i = 0; i < count; i++)
        if (routes[i].prefix ? strncmp(path, routes[i].path, strlen(routes[i].path)) == 0
                             : strcmp(path, routes[i].path) == 0)
            return &routes[i];
    return NULL;
}

/* The token of "Bearer token" (RFC 6750 2.1); false where there is none. */
static bool bearer_token(const struct http_request *r, struct slice *token_out)
{
    const char *field = http_field(r, MHD_HTTP_HEADER_AUTHORIZATION);
    struct slice value = field != NULL ? slice_str(field) : SLICE_LIT("");
    if (!slice_starts_nocase(value, SLICE_LIT("Bearer ")))
        return false;
    *token_out = slice_trim(slice_skip(value, 7));
    return true;
}

static void identify(struct http_request *r)
{
    struct http_caller *c = &r->caller;
    c->index = TOKENS_MAX;
    if (r->listener->config->socket != NULL) {
        (void)snprintf(c->name, sizeof c->name, "local");
        c->scopes = SCOPE_INJECT | SCOPE_READ | SCOPE_ADMIN;
        (void)address_parse_ip(SLICE_LIT("127.0.0.1"), &c->address);
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info != NULL)
        (void)address_from_sockaddr(info->client_addr, &c->address);
    struct slice token;
    if (!bearer_token(r, &token))
        return;
    (void)pthread_mutex_lock(&r->http->shared.lock);
    const struct token_holder *holder = tokens_find(r->http->shared.tokens, token);
    if (holder != NULL) {
        (void)snprintf(c->name, sizeof c->name, "%s", holder->name);
        c->scopes = holder->scopes;
        c->index = holder->index;
    }
    (void)pthread_mutex_unlock(&r->http->shared.lock);
}

/* False, having answered, where the caller may not do this. */
static bool may(struct http_request *r, unsigned scope)
{
    struct slice token;
    if (scope == 0 || (r->caller.scopes & scope) != 0)
        return true;
    if (r->caller.scopes != 0) {
        http_answer_error(r, MHD_HTTP_FORBIDDEN,
                          "the token of %s lacks the scope for this; http.token_file gives it",
                          r->caller.name);
        return false;
    }
    http_answer_error(r, MHD_HTTP_UNAUTHORIZED, "%s",
                      bearer_token(r, &token)
                          ? "this token is not in http.token_file"
                          : "a token is needed: send `Authorization: Bearer TOKEN` with one of "
                            "http.token_file, or use a unix socket of http.listen");
    http_answer_field(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer realm=\"onward\"");
    return false;
}

/* False, having answered: the head of the request is enough to refuse it. */
static bool admit(struct http_request *r, const char *method)
{
    bool gets =
        strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    r->is_post = strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    if (r->route == NULL) {
        http_answer_error(r, MHD_HTTP_NOT_FOUND, "nothing is served at %.200s", r->path);
        return false;
    }
    if (!(gets && r->route->gets) && !(r->is_post && r->route->posts)) {
        http_answer_error(r, MHD_HTTP_METHOD_NOT_ALLOWED, "%.20s is not for %.200s", method,
                          r->path);
        http_answer_field(r, MHD_HTTP_HEADER_ALLOW,
                          !r->route->posts  ? "GET, HEAD"
                          : !r->route->gets ? "POST"
                                            : "GET, HEAD, POST");
        return false;
    }
    identify(r);
    return may(r, r->is_post ? r->route->post_scope : r->route->get_scope) &&
           (r->route->admit == NULL || r->route->admit(r)) && http_body_begin(r);
}

/* ---- where the body ends ---- */

static enum MHD_Result count_length(void *context, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
    (void)kind, (void)value;
    *(unsigned *)context +=
        slice_equal_nocase(slice_str(name), SLICE_LIT(MHD_HTTP_HEADER_CONTENT_LENGTH));
    return MHD_YES;
}

/* False, having answered: another server in front may see the body end elsewhere than we do,
 * and take what follows for a request of its own (RFC 9112 6.3, 11.2). The connection is
 * closed behind it. */
static bool has_one_end(struct http_request *r)
{
    const char *coding = http_field(r, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    unsigned ends = coding != NULL;
    (void)MHD_get_connection_values(r->connection, MHD_HEADER_KIND, count_length, &ends);
    if (coding != NULL && !slice_equal_nocase(slice_str(coding), SLICE_LIT("chunked")))
        http_answer_error(
            r, MHD_HTTP_NOT_IMPLEMENTED,
            "Transfer-Encoding %.40s is not known here; use chunked, or Content-Length", coding);
    else if (ends > 1)
        http_answer_error(r, MHD_HTTP_BAD_REQUEST,
                          "the end of the body is told twice; send one Content-Length, or "
                          "Transfer-Encoding: chunked");
    else
        return true;
    http_answer_field(r, MHD_HTTP_HEADER_CONNECTION, "close");
    return false;
}

/* The path of "http://host/path", which servers must take as well (RFC 9112 3.2.2). */
static const char *skip_authority(const char *target)
{
    struct slice s = slice_str(target);
    if (!slice_starts_nocase(s, SLICE_LIT("http://")) &&
        !slice_starts_nocase(s, SLICE_LIT("https://")))
        return target;
    const char *path = strchr(strstr(target, "//") + 2, '/');
    return path != NULL ? path : "/";
}

/* ---- libmicrohttpd's callbacks ---- */

static struct http_request *create_request(struct http_listener *l,
                                           struct MHD_Connection *connection, const char *path)
{
    struct http_request *r = calloc(1, sizeof *r);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (r == NULL || info == NULL || info->socket_context == NULL) {
        free(r);
        return NULL;
    }
    r->http = l->http;
    atomic_fetch_add(&l->http->shared.requests, 1);
    r->listener = l;
    r->connection = connection;
    r->transport = info->socket_context;
    r->config = atomic_load(&l->http->shared.config);
    r->parts = atomic_load(&l->http->shared.parts);
    r->began_ms = clock_mono_ms();
    (void)snprintf(r->path, sizeof r->path, "%s", skip_authority(path));
    r->route = find_route(r->path);
    return r;
}

enum MHD_Result http_on_request(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_len, void **request)
{
    (void)version;
    struct http_request *r = *request;
    if (r == NULL) { /* its head was read */
        r = create_request(context, connection, url);
        if (r == NULL)
            return MHD_NO;
        *request = r;
        if (!has_one_end(r))
            return send_answer(r);
        return admit(r, method) || http_body_may_drop(r) ? MHD_YES : send_answer(r);
    }
    if (*upload_len > 0) {
        bool go_on = http_body_feed(r, slice_of(upload, *upload_len));
        *upload_len = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    if (r->status == 0 && !r->suspended && http_body_end(r))
        r->route->serve(r);
    else if (r->suspended)
        r->suspended = false; /* the other thread has answered */
    return r->suspended ? MHD_YES : send_answer(r);
}

void http_on_completed(void *context, struct MHD_Connection *connection, void **request,
                       enum MHD_RequestTerminationCode how)
{
    (void)context, (void)connection, (void)how;
    struct http_request *r = *request;
    if (r == NULL)
        return;
    *request = NULL;
    set_deadline(r->http, r->transport,
                 clock_mono_ms() + r->config->http.idle_timeout_ms +
                     r->config->http.request_timeout_ms);
    http_body_fini(r);
    if (r->response != NULL)
        MHD_destroy_response(r->response);
    atomic_fetch_sub(&r->http->shared.requests, 1);
    if (r->unfinished)
        atomic_fetch_sub(&r->http->shared.unfinished, 1);
    free(r);
}

void http_on_connection(void *context, struct MHD_Connection *connection, void **transport,
                        enum MHD_ConnectionNotificationCode what)
{
    struct http_listener *l = context;
    struct http *h = l->http;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        struct http_connection *closed = *transport;
        if (closed == NULL)
            return;
        (void)pthread_mutex_lock(&h->shared.lock);
        list_remove(&closed->link);
        (void)pthread_mutex_unlock(&h->shared.lock);
        free(closed);
        return;
    }
    struct http_connection *c = calloc(1, sizeof *c);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *transport = c;
    if (c == NULL || info == NULL) /* its requests are refused */
        return;
    c->fd = info->connect_fd;
    c->deadline_ms = clock_mono_ms() + atomic_load(&h->shared.config)->http.request_timeout_ms;
    (void)pthread_mutex_lock(&h->shared.lock);
    list_push_back(&h->shared.connections, &c->link);
    (void)pthread_mutex_unlock(&h->shared.lock);
}
