#include "workers/http/http_priv.h"

#include <stdlib.h>

/* A request of the control's, on its way there and back. */
struct operation {
    struct control_call call;
    struct http_request *request;
    char *line;
};

/* The lines of a control's answer as one object: {"items": [...], and what the last line says}. */
static json_t *gather(struct slice lines)
{
    json_t *items = json_array(), *last = NULL;
    while (lines.len > 0) {
        size_t end = slice_find(lines, '\n');
        json_t *line = json_loadb(lines.ptr, end, 0, NULL);
        lines = slice_skip(lines, end + 1);
        if (line != NULL && json_is_true(json_object_get(line, "done")))
            last = line;
        else
            (void)json_array_append_new(items, line);
    }
    if (last != NULL) {
        (void)json_object_del(last, "done");
        (void)json_object_set(last, "items", items);
    }
    json_decref(items);
    return last;
}

static void on_answer(struct control_call *call)
{
    struct operation *o = CONTAINER_OF(call, struct operation, call);
    json_t *answer = gather(buf_slice(&call->answer));
    if (answer == NULL)
        http_answer_error(o->request, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
    else
        http_answer_json(
            o->request,
            json_object_get(answer, "error") != NULL ? MHD_HTTP_BAD_REQUEST : MHD_HTTP_OK, answer);
    http_resume(o->request);
    buf_fini(&call->answer);
    free(o->line);
    free(o);
}

/* ---- the request ---- */

enum { ARGUMENTS_MAX = 8 };

struct arguments {
    struct control_argument list[ARGUMENTS_MAX];
    unsigned count;
    bool too_many;
};

static enum MHD_Result on_argument(void *context, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    (void)kind;
    struct arguments *a = context;
    if (a->count == ARGUMENTS_MAX) {
        a->too_many = true;
        return MHD_NO;
    }
    a->list[a->count++] = (struct control_argument){name, value != NULL ? value : ""};
    return MHD_YES;
}

/* NULL, having answered, where it is none. */
static json_t *read_request(struct http_request *r, const char *op)
{
    struct error error = {{0}};
    json_t *request;
    if (r->is_post) {
        json_error_t where;
        request = r->body_len > 0 ? json_loadb(r->body, r->body_len, JSON_REJECT_DUPLICATES, &where)
                                  : json_object();
        if (!json_is_object(request) || json_object_get(request, "op") != NULL) {
            http_answer_error(r, MHD_HTTP_BAD_REQUEST,
                              "the body must be one JSON object with the members of %.60s", op);
            json_decref(request);
            return NULL;
        }
        (void)json_object_set_new(request, "op", json_string(op));
        return request;
    }
    struct arguments a = {.count = 0};
    (void)MHD_get_connection_values(r->connection, MHD_GET_ARGUMENT_KIND, on_argument, &a);
    request = a.too_many ? NULL : control_request_of(op, a.list, a.count, &error);
    if (request == NULL)
        http_answer_error(r, MHD_HTTP_BAD_REQUEST, "%s",
                          a.too_many ? "too many members" : error.text);
    return request;
}

void http_serve_control(struct http_request *r)
{
    const char *op = r->path + strlen(r->route->path);
    if (r->parts == NULL) {
        http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE, "the relay is starting");
        return;
    }
    if (!r->is_post && !control_only_reads(op)) {
        http_answer_error(r, MHD_HTTP_NOT_FOUND,
                          "%.60s is no operation that reads; changes are made by POST", op);
        return;
    }
    json_t *request = read_request(r, op);
    if (request == NULL)
        return;
    struct operation *o = calloc(1, sizeof *o);
    char *line = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (o == NULL || line == NULL) {
        free(o);
        free(line);
        http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
        return;
    }
    *o = (struct operation){
        .request = r, .line = line, .call = {.request = slice_str(line), .on_answer = on_answer}};
    if (http_suspend(r)) {
        control_ask(r->http->control, &o->call);
        return;
    }
    free(line);
    free(o);
}
