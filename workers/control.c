#include "workers/control_priv.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/net_unix.h"
#include "core/base/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IDLE_LIMIT_MS = 30000, SOCKET_MODE = 0600, DEAF_MS = 100 };

static void pump(struct control_client *c);
static void end_call(struct control_client *c);

/* ---- answering ---- */

void control_say(struct control_client *c, json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(object);
    if (text == NULL)
        return;
    buf_append_str(&c->out, text);
    buf_append_str(&c->out, "\n");
    free(text);
}

void control_done(struct control_client *c, json_t *object)
{
    if (object == NULL)
        object = json_object();
    (void)json_object_set_new(object, "done", json_true());
    control_say(c, object);
}

void control_error(struct control_client *c, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    control_done(c, json_pack("{s:o}", "error", control_text(slice_str(text))));
}

json_t *control_text(struct slice s)
{
    json_t *text = json_stringn(s.ptr, s.len);
    if (text != NULL)
        return text;
    char *copy = malloc(s.len + 1);
    for (size_t i = 0; copy != NULL && i < s.len; i++)
        copy[i] = s.ptr[i] >= ' ' && s.ptr[i] < 0x7f ? s.ptr[i] : '?';
    text = copy != NULL ? json_stringn(copy, s.len) : json_null();
    free(copy);
    return text;
}

json_t *control_reply(const struct reply *r)
{
    char status[32];
    (void)snprintf(status, sizeof status, "%u.%u.%u", (unsigned)r->class, (unsigned)r->subject,
                   (unsigned)r->detail);
    return json_pack("{s:i,s:s,s:o}", "code", reply_is_local(r) ? 0 : (int)r->code, "status",
                     status, "text", control_text(slice_of(r->text, r->text_len)));
}

json_t *control_describe_status(const struct control_options *o)
{
    struct committer_figures f = committer_figures(o->committer);
    struct resolver_figures d = resolver_figures(o->resolver);
    json_t *status =
        json_pack("{s:{s:I,s:I,s:I,s:I,s:I,s:I},s:{s:I,s:I,s:I,s:I,s:I},s:b}", "spool",
                  "messages_queued", (json_int_t)f.messages_queued, "recipients_queued",
                  (json_int_t)f.recipients_queued, "transactional_queued",
                  (json_int_t)f.transactional_queued, "commits", (json_int_t)f.commits,
                  "messages_stored", (json_int_t)f.messages, "outcomes", (json_int_t)f.outcomes,
                  "dns", "flights", (json_int_t)d.flights, "cache_hits", (json_int_t)d.cache_hits,
                  "cache_misses", (json_int_t)d.cache_misses, "failures", (json_int_t)d.failures,
                  "cached", (json_int_t)d.cached, "has_room", store_has_room(o->store));
    if (status != NULL)
        (void)json_object_set_new(status, "suspended",
                                  json_integer((json_int_t)suspensions_count(o->suspensions)));
    if (status != NULL && o->add_status != NULL)
        o->add_status(o->context, status);
    return status;
}

void control_status(struct control_client *c, const json_t *request)
{
    (void)request;
    control_done(c, control_describe_status(&c->control->options));
}

/* ---- requests ---- */

/* What a request may hold besides "op". */
struct member {
    const char *name;
    json_type type; /* JSON_TRUE stands for both */
};

struct request {
    const char *op;
    bool only_reads; /* changes nothing */
    void (*run)(struct control_client *c, const json_t *request);
    struct member members[5]; /* ends with name NULL */
};

static const struct request requests[] = {
    {"queue.list",
     true,
     control_queue_list,
     {{"domain", JSON_STRING},
      {"state", JSON_STRING},
      {"older_than_ms", JSON_INTEGER},
      {"limit", JSON_INTEGER},
      {"after", JSON_STRING}}},
    {"queue.show", true, control_queue_show, {{"id", JSON_STRING}, {"content", JSON_TRUE}}},
#define QUEUE_EDIT_MEMBERS                                                                         \
    {                                                                                              \
        {"id", JSON_STRING}, {"domain", JSON_STRING},                                              \
        {                                                                                          \
            "all", JSON_TRUE                                                                       \
        }                                                                                          \
    }
    {"queue.hold", false, control_queue_edit, QUEUE_EDIT_MEMBERS},
    {"queue.release", false, control_queue_edit, QUEUE_EDIT_MEMBERS},
    {"queue.retry", false, control_queue_edit, QUEUE_EDIT_MEMBERS},
    {"queue.bounce", false, control_queue_edit, QUEUE_EDIT_MEMBERS},
    {"suspend",
     false,
     control_suspend,
     {{"domain", JSON_STRING},
      {"all", JSON_TRUE},
      {"for_ms", JSON_INTEGER},
      {"reason", JSON_STRING}}},
    {"resume", false, control_unsuspend, {{"domain", JSON_STRING}, {"all", JSON_TRUE}}},
    {"suspend.list", true, control_suspend_list, {{NULL, JSON_NULL}}},
    {"health.list", true, control_health_list, {{NULL, JSON_NULL}}},
    {"health.demote",
     false,
     control_health_edit,
     {{"address", JSON_STRING}, {"duration_ms", JSON_INTEGER}}},
    {"health.clear", false, control_health_edit, {{"address", JSON_STRING}}},
    {"route", true, control_route, {{"domain", JSON_STRING}, {"fresh", JSON_TRUE}}},
    {"status", true, control_status, {{NULL, JSON_NULL}}},
    {"view", true, control_view, {{"history", JSON_TRUE}}},
};

static const struct request *find_request(const char *op)
{
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
        if (strcmp(op, requests[i].op) == 0)
            return &requests[i];
    return NULL;
}

static bool takes(const struct request *r, const char *key, const json_t *value)
{
    json_type type = json_is_boolean(value) ? JSON_TRUE : json_typeof(value);
    size_t max = sizeof r->members / sizeof *r->members;
    for (size_t i = 0; i < max && r->members[i].name != NULL; i++)
        if (strcmp(key, r->members[i].name) == 0)
            return type == r->members[i].type;
    return strcmp(key, "op") == 0;
}

/* A member that is unknown or of another type is refused: what it was meant for would
 * be left out. */
static bool check_members(struct control_client *c, const struct request *r, json_t *request)
{
    for (void *i = json_object_iter(request); i != NULL; i = json_object_iter_next(request, i)) {
        const char *key = json_object_iter_key(i);
        if (takes(r, key, json_object_iter_value(i)))
            continue;
        control_error(c, "%s does not take this \"%.60s\"", r->op, key);
        return false;
    }
    return true;
}

/* An argument given as text, in the type that the member has. NULL: it is no member, or no such
 * value. */
static json_t *value_of(const struct request *r, const struct control_argument *a)
{
    size_t max = sizeof r->members / sizeof *r->members;
    for (size_t i = 0; i < max && r->members[i].name != NULL; i++) {
        if (strcmp(a->name, r->members[i].name) != 0)
            continue;
        uint64_t number;
        if (r->members[i].type == JSON_STRING)
            return json_string(a->value);
        if (r->members[i].type == JSON_INTEGER)
            return slice_to_u64(slice_str(a->value), &number) && number <= INT64_MAX
                       ? json_integer((json_int_t)number)
                       : NULL;
        bool yes = strcmp(a->value, "true") == 0;
        return yes || strcmp(a->value, "false") == 0 ? json_boolean(yes) : NULL;
    }
    return NULL;
}

void control_run(struct control_client *c, struct slice line)
{
    json_error_t error;
    json_t *request = json_loadb(line.ptr, line.len, JSON_REJECT_DUPLICATES, &error);
    const char *op = json_string_value(json_object_get(request, "op"));
    const struct request *known = op != NULL ? find_request(op) : NULL;
    if (op == NULL)
        control_error(c, "not a request: expected one JSON object with \"op\" on a line");
    else if (known == NULL)
        control_error(c, "unknown op %.60s", op);
    else if (check_members(c, known, request))
        known->run(c, request);
    json_decref(request);
}

bool control_only_reads(const char *op)
{
    const struct request *known = find_request(op);
    return known != NULL && known->only_reads;
}

json_t *control_request_of(const char *op, const struct control_argument *arguments, unsigned count,
                           struct error *error)
{
    const struct request *known = find_request(op);
    json_t *request = known != NULL ? json_pack("{s:s}", "op", op) : NULL;
    if (request == NULL)
        error_set(error, "unknown op %.60s", op);
    for (unsigned i = 0; request != NULL && i < count; i++) {
        const struct control_argument *a = &arguments[i];
        json_t *value = value_of(known, a);
        if (value != NULL && json_object_set_new(request, a->name, value) == 0)
            continue;
        error_set(error, "%s does not take this \"%.60s\"", op, a->name);
        json_decref(request);
        request = NULL;
    }
    return request;
}

/* ---- clients ---- */

static void free_client(struct control_client *c)
{
    list_remove(&c->link);
    c->control->client_count--;
    buf_fini(&c->in);
    buf_fini(&c->out);
    free(c);
}

static void close_client(struct control_client *c)
{
    if (c->closed || c->call != NULL)
        return;
    c->closed = true;
    timer_disarm(&c->control->timers, &c->idle);
    conn_close(&c->conn);
    if (!c->busy)
        free_client(c);
}

void control_resume(struct control_client *c)
{
    ASSERT(c->busy);
    c->busy = false;
    if (c->call != NULL)
        end_call(c);
    else if (c->closed)
        free_client(c);
    else
        pump(c);
}

static void on_idle(struct timer *timer, void *owner)
{
    (void)owner;
    close_client(CONTAINER_OF(timer, struct control_client, idle));
}

/* Longer than any answer may be: says so instead. */
static void bound_answer(struct control_client *c)
{
    if (buf_ok(&c->out))
        return;
    buf_clear(&c->out);
    control_error(c, "the answer is too long; ask for less with \"limit\"");
}

/* Runs the next whole line, if there is one. False: nothing to run now. */
static bool run_next(struct control_client *c)
{
    struct slice in = buf_slice(&c->in);
    size_t lf = slice_find(in, '\n');
    if (c->busy || lf == in.len)
        return false;
    struct slice line = slice_take(in, lf);
    control_run(c, line);
    buf_consume(&c->in, lf + 1);
    bound_answer(c);
    return true;
}

static bool receive(struct control_client *c)
{
    char bytes[4096];
    size_t len = 0;
    enum net_status status = conn_read(&c->conn, bytes, sizeof bytes, &len);
    if (status == NET_AGAIN)
        return true;
    if (status != NET_OK)
        return false;
    buf_append(&c->in, slice_of(bytes, len));
    return buf_ok(&c->in); /* a line longer than any request: go away */
}

static void pump(struct control_client *c)
{
    timer_arm(&c->control->timers, &c->idle, clock_mono_ms() + IDLE_LIMIT_MS);
    for (;;) {
        enum net_status status = conn_flush(&c->conn, &c->out);
        if (status == NET_AGAIN)
            return; /* a slow reader waits with its own answer only */
        if (status != NET_OK) {
            close_client(c);
            return;
        }
        if (run_next(c))
            continue;
        if (c->busy || !c->conn.readable)
            return;
        if (!receive(c)) {
            close_client(c);
            return;
        }
    }
}

static void on_client_ready(struct watch *watch, unsigned events)
{
    struct control_client *c = CONTAINER_OF(watch, struct control_client, conn.watch);
    conn_note(&c->conn, events);
    pump(c);
}

static struct control_client *create_client(struct control *control)
{
    struct control_client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->control = control;
    buf_init(&c->in, CONTROL_LINE_MAX);
    buf_init(&c->out, CONTROL_ANSWER_MAX);
    list_init(&c->link);
    timer_init(&c->idle, on_idle);
    control->client_count++;
    list_push_back(&control->clients, &c->link);
    return c;
}

static void on_connection(struct watch *watch, unsigned events);

/* Out of descriptors: the poller would tell of the caller all the time. */
static void be_deaf(struct control *c)
{
    poller_remove(c->poller, &c->listener_watch);
    timer_arm(&c->timers, &c->deaf_timer, clock_mono_ms() + DEAF_MS);
}

static void on_deaf_over(struct timer *timer, void *owner)
{
    struct control *c = owner;
    (void)timer;
    if (!c->stopping &&
        !poller_add(c->poller, &c->listener_watch, c->listener, POLLER_LEVEL_READ, on_connection))
        be_deaf(c);
}

static void on_connection(struct watch *watch, unsigned events)
{
    (void)events;
    struct control *control = CONTAINER_OF(watch, struct control, listener_watch);
    int fd = accept4(control->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno != EAGAIN)
        be_deaf(control);
    if (fd < 0)
        return;
    struct control_client *c =
        control->client_count < CONTROL_CLIENTS_MAX ? create_client(control) : NULL;
    if (c == NULL) {
        (void)close(fd);
        return;
    }
    if (!conn_open(&c->conn, control->poller, fd, on_client_ready)) {
        free_client(c);
        return;
    }
    pump(c);
}

/* ---- calls from within ---- */

static void end_call(struct control_client *c)
{
    struct control_call *call = c->call;
    bound_answer(c);
    call->answer = c->out;
    buf_init(&c->out, CONTROL_ANSWER_MAX);
    free_client(c);
    call->on_answer(call);
}

static void on_call(struct mail *mail, void *owner)
{
    struct control_call *call = CONTAINER_OF(mail, struct control_call, mail);
    struct control_client *c = create_client(owner);
    if (c == NULL) { /* the empty answer says it */
        buf_init(&call->answer, CONTROL_ANSWER_MAX);
        call->on_answer(call);
        return;
    }
    c->call = call;
    control_run(c, call->request);
    if (!c->busy)
        end_call(c);
}

void control_ask(struct control *c, struct control_call *call)
{
    struct mail *mail = &call->mail;
    mail->on_arrival = on_call;
    mailbox_post(&c->mailbox, &mail);
}

/* ---- the thread ---- */

static void on_mailbox(struct watch *watch, unsigned events)
{
    (void)watch, (void)events;
}

static void *run(void *context)
{
    struct control *c = context;
    while (!c->stopping || c->client_count > 0) {
        int count = 0;
        if (mailbox_prepare_sleep(&c->mailbox)) {
            count = poller_fetch(c->poller, timer_wheel_wait_ms(&c->timers, clock_mono_ms()));
            mailbox_awake(&c->mailbox);
        }
        (void)mailbox_deliver(&c->mailbox);
        poller_dispatch(c->poller, count);
        (void)timer_wheel_advance(&c->timers, clock_mono_ms());
        if (!c->stopping)
            continue;
        for (struct link *l = c->clients.next;
             l != &c->clients;) { /* busy ones wait for their answer */
            struct control_client *client = CONTAINER_OF(l, struct control_client, link);
            l = l->next;
            close_client(client);
        }
    }
    return NULL;
}

/* ---- the socket ---- */

/* All but what other threads may still look at: its mailbox. */
static void close_control(struct control *c)
{
    if (c->poller != NULL) {
        poller_remove(c->poller, &c->listener_watch);
        poller_remove(c->poller, &c->mailbox_watch);
    }
    if (c->listener >= 0) {
        (void)close(c->listener);
        (void)unlink(c->options.config->control.socket);
        c->listener = -1;
    }
    json_decref(c->survey);
    c->survey = NULL;
    store_reader_destroy(&c->reader);
    poller_destroy(&c->poller);
}

void control_destroy(struct control **c)
{
    if (*c == NULL)
        return;
    if ((*c)->mailbox.event_fd >= 0)
        mailbox_fini(&(*c)->mailbox);
    free(*c);
    *c = NULL;
}

static void free_control(struct control *c)
{
    close_control(c);
    control_destroy(&c);
}

struct control *control_start(const struct control_options *options, struct error *error)
{
    struct control *c = calloc(1, sizeof *c);
    if (c == NULL) {
        error_set(error, "out of memory for the control socket");
        return NULL;
    }
    c->options = *options;
    c->listener = c->mailbox.event_fd = c->mailbox_watch.fd = c->listener_watch.fd = -1;
    list_init(&c->clients);
    timer_wheel_init(&c->timers, clock_mono_ms(), c);
    timer_init(&c->deaf_timer, on_deaf_over);
    random_init(&c->random);
    control_start_sampling(c);
    control_start_suspensions(c);
    c->poller = poller_create();
    c->reader = store_reader_create(options->store);
    c->listener =
        net_listen_unix(options->config->control.socket, SOCKET_MODE, "control.socket", error);
    if (c->listener < 0) {
        free_control(c);
        return NULL;
    }
    bool ok =
        c->poller != NULL && c->reader != NULL && mailbox_init(&c->mailbox, c) == 0 &&
        poller_add(c->poller, &c->mailbox_watch, c->mailbox.event_fd, POLLER_LEVEL_READ,
                   on_mailbox) &&
        poller_add(c->poller, &c->listener_watch, c->listener, POLLER_LEVEL_READ, on_connection) &&
        thread_start(&c->thread, "control", run, c) == 0;
    if (!ok) {
        error_set(error, "the control socket's thread cannot start: out of memory or descriptors");
        free_control(c);
        return NULL;
    }
    return c;
}

static void on_stop(struct mail *mail, void *owner)
{
    (void)mail;
    struct control *c = owner;
    c->stopping = true;
    poller_remove(c->poller, &c->listener_watch);
}

void control_stop(struct control *c)
{
    if (c == NULL)
        return;
    struct mail stop = {.on_arrival = on_stop};
    struct mail *mail = &stop;
    mailbox_post(&c->mailbox, &mail);
    int rc = pthread_join(c->thread, NULL);
    ASSERT(rc == 0);
    close_control(c);
}
