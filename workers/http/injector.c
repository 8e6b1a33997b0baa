#include "workers/events/events.h"
#include "workers/http/injector.h"

#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/base/thread.h"
#include "smtp/content.h"
#include "smtp/trace.h"
#include "workers/http/body.h"
#include "workers/http/inject.h"
#include "workers/inbound/upload.h"
#include "workers/intake.h"

#include <openssl/sha.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TURN_RECIPIENTS = 16,    /* of one request before the next has its turn */
    UPLOADS_OUT_MAX = 256,   /* of one request at the committer */
    BYTES_OUT_MAX = 8 << 20, /* of an injector at the committer; one message may pass it */
    RECEIVED_MAX = 100,      /* RFC 5321 6.3 */
    FORGET_PERIOD_MS = 60000,
    KEY_MAX = 255,
    SMALL_BYTES = 1 << 20,  /* of values: such a request waits for nobody */
    WAITING_POLL_MS = 20,   /* others may have given memory back */
    BOUND_MARGIN = 1 << 20, /* what is rendered is judged by submission's limit behind it */
};

struct injector {
    struct injectors *all;
    pthread_t thread;
    bool started;
    struct mailbox mailbox;
    struct link waiting; /* struct injection; not read yet, for want of memory */
    struct link active;  /* struct injection; those that have recipients left or ops out */
    unsigned count;      /* of both */
    uint64_t bytes_out;
    bool stopping;
    struct random random;
    struct store_reader *reader;
    struct buf message; /* one message as it is rendered */
    struct mime_scratch scratch;
    uint64_t forget_at_ms; /* the first injector's: when old receipts are looked for */
    bool forgetting;
    struct {
        _Atomic uint64_t load; /* bytes of the bodies it has been given */
        _Atomic uint64_t requests, messages, bytes, failed_recipients, repeated_recipients;
    } shared;
};

struct injectors {
    struct http *http;
    const struct worker_parts *parts;
    struct injector *list;
    unsigned count;
    struct {
        _Atomic uint64_t memory; /* bytes of the values that were read, about */
        pthread_mutex_t lock;
        struct link keys; /* struct injection with a key, under way; guard: the lock */
        uint64_t free_at_ms[TOKENS_MAX + 1]; /* per token: when its rate allows more; the lock */
    } shared;
};

/* One request. */
struct injection {
    struct link link;     /* on the injector's waiting, then active */
    struct link key_link; /* on the injectors' keys */
    struct mail mail;     /* brings it to its injector */
    struct injector *injector;
    struct http_request *request;
    struct inject inject;
    uint64_t load;
    uint64_t memory; /* of its values, about; 0 where they are few */
    uint64_t began_ms;
    size_t count, next;    /* recipients, and how many have been begun */
    uint64_t *ids;         /* per recipient; 0 = none (yet) */
    const char **failures; /* per recipient, in the arena; or NULL */
    unsigned uploads_out;
    bool store_failed; /* for want of room or disk: the sender may try again */
    bool has_key;
    bool receipt_pending;
    struct receipt receipt;
    size_t repeated;
};

/* One message on its way. */
struct item {
    struct upload upload;
    struct injection *injection;
    size_t index;
    uint64_t bytes;
    struct envelope envelope;
    struct envelope_recipient recipient;
    char address[512], domain[DOMAIN_SIZE], origin[ADDRESS_TEXT_SIZE + TOKEN_NAME_MAX + 8];
};

static void go_on(struct injection *i);

/* ---- answers ---- */

static json_t *text_json(struct slice s)
{
    json_t *text = json_stringn(s.ptr, s.len);
    return text != NULL ? text : json_null();
}

/* So much of it as `max` bytes hold, whole characters. */
static struct slice cut_text(struct slice s, size_t max)
{
    size_t len = s.len < max ? s.len : max;
    while (len > 0 && len < s.len && ((unsigned char)s.ptr[len] & 0xc0) == 0x80)
        len--;
    return slice_take(s, len);
}

static void log_injected(const struct injection *i, size_t failed)
{
    char client[ADDRESS_TEXT_SIZE];
    struct log_line line;
    address_format_ip(&i->request->caller.address, client);
    log_begin(&line, i->injector->all->http->log, "injected");
    log_cstr(&line, "client", client);
    log_cstr(&line, "token", i->request->caller.name);
    log_str(&line, "sender", slice_str(i->inject.sender));
    log_u64(&line, "recipients", i->count);
    log_u64(&line, "failed", failed);
    log_u64(&line, "repeated", i->repeated);
    log_u64(&line, "ms", clock_mono_ms() - i->began_ms);
    log_end(&line);
}

/* The answer in KumoMTA's shape, and one entry per recipient besides. */
static void answer(struct injection *i)
{
    json_t *failed = json_array(), *errors = json_array(), *list = json_array();
    size_t failures = 0;
    for (size_t n = 0; n < i->count; n++) {
        struct slice email = inject_email(&i->inject, n);
        if (i->ids[n] != 0) {
            char id[ENVELOPE_ID_SIZE];
            envelope_id_format(i->ids[n], id);
            (void)json_array_append_new(
                list, json_pack("{s:o,s:s}", "email", text_json(email), "id", id));
            continue;
        }
        const char *why = i->failures[n] != NULL ? i->failures[n] : "not begun";
        char text[1200];
        (void)snprintf(text, sizeof text, "%.*s: %s", SLICE_ARG(cut_text(email, 300)), why);
        failures++;
        (void)json_array_append_new(failed, text_json(email));
        (void)json_array_append_new(errors, text_json(slice_str(text)));
        (void)json_array_append_new(list, json_pack("{s:o,s:o}", "email", text_json(email), "error",
                                                    text_json(slice_str(why))));
    }
    bool nothing = failures == i->count && i->store_failed;
    log_injected(i, failures);
    atomic_fetch_add(&i->injector->shared.failed_recipients, failures);
    http_answer_json(i->request, nothing ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK,
                     json_pack("{s:I,s:I,s:o,s:o,s:o}", "success_count",
                               (json_int_t)(i->count - failures), "fail_count",
                               (json_int_t)failures, "failed_recipients", failed, "errors", errors,
                               "recipients", list));
    if (nothing)
        http_answer_field(i->request, MHD_HTTP_HEADER_RETRY_AFTER, "5");
}

/* ---- keys ---- */

static void drop_key(struct injection *i)
{
    struct injectors *all = i->injector->all;
    if (!i->has_key)
        return;
    (void)pthread_mutex_lock(&all->shared.lock);
    list_remove(&i->key_link);
    (void)pthread_mutex_unlock(&all->shared.lock);
}

/* Takes the key for this request. False: another one under way has it. */
static bool take_key(struct injection *i)
{
    struct injectors *all = i->injector->all;
    bool taken = false;
    (void)pthread_mutex_lock(&all->shared.lock);
    for (struct link *l = all->shared.keys.next; l != &all->shared.keys && !taken; l = l->next) {
        const struct injection *other = CONTAINER_OF(l, struct injection, key_link);
        taken = memcmp(other->receipt.key, i->receipt.key, RECEIPT_KEY_BYTES) == 0;
    }
    if (!taken)
        list_push_back(&all->shared.keys, &i->key_link);
    (void)pthread_mutex_unlock(&all->shared.lock);
    i->has_key = !taken;
    return !taken;
}

/* Keys belong to a caller: another's of the same spelling is another. */
static void hash_key(const struct http_caller *caller, const char *key,
                     unsigned char out[RECEIPT_KEY_BYTES])
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    char text[TOKEN_NAME_MAX + KEY_MAX + 4];
    int len = snprintf(text, sizeof text, "%s\n%.255s", caller->name, key);
    (void)SHA256((const unsigned char *)text, (size_t)len, digest);
    memcpy(out, digest, RECEIPT_KEY_BYTES);
}

/* ---- ending ---- */

static void end(struct injection *i)
{
    struct injector *j = i->injector;
    struct http_request *r = i->request;
    drop_key(i);
    list_remove(&i->link);
    j->count--;
    inject_fini(&i->inject);
    atomic_fetch_sub(&j->all->shared.memory, i->memory);
    atomic_fetch_sub(&j->shared.load, i->load);
    free(i->ids);
    free(i->failures);
    free(i);
    http_resume(r);
}

static void refuse(struct injection *i, unsigned status, const char *text)
{
    http_answer_error(i->request, status, "%s", text);
    end(i);
}

static void note_failure(struct injection *i, size_t index, const char *text)
{
    struct slice kept;
    i->failures[index] = arena_copy(&i->inject.arena, slice_of(text, strlen(text) + 1), &kept)
                             ? kept.ptr
                             : "out of memory";
}

/* ---- one message ---- */

static void log_accepted(const struct item *t)
{
    const struct injection *i = t->injection;
    char id[ENVELOPE_ID_SIZE], client[ADDRESS_TEXT_SIZE];
    struct log_line line;
    atomic_fetch_add(&i->injector->shared.messages, 1);
    atomic_fetch_add(&i->injector->shared.bytes, t->envelope.size_bytes);
    struct log *log = i->request->config->log.deliveries ? i->injector->all->http->log : NULL;
    struct log_tap *tap = events_tap(i->injector->all->parts->events, EVENT_ACCEPTED);
    if (log == NULL && tap == NULL)
        return;
    envelope_id_format(t->upload.id, id);
    address_format_ip(&i->request->caller.address, client);
    log_begin_tapped(&line, log, tap, "accepted");
    log_cstr(&line, "id", id);
    log_cstr(&line, "client", client);
    log_cstr(&line, "token", i->request->caller.name);
    log_str(&line, "sender", t->envelope.sender);
    log_cstr(&line, "priority", envelope_priority_name(t->envelope.priority));
    log_u64(&line, "recipients", 1);
    log_u64(&line, "bytes", t->envelope.size_bytes);
    log_end(&line);
}

static void free_item(struct item *t)
{
    t->injection->injector->bytes_out -= t->bytes;
    t->injection->uploads_out--;
    upload_fini(&t->upload);
    free(t);
}

static void conclude(struct item *t)
{
    struct injection *i = t->injection;
    if (t->upload.status == STORE_OK) {
        i->ids[t->index] = t->upload.id;
        log_accepted(t);
    } else if (i->failures[t->index] == NULL) {
        i->store_failed = true;
        note_failure(i, t->index,
                     t->upload.status == STORE_NO_ROOM
                         ? "no room for this message now, try again later"
                         : "the spool cannot be written, try another relay");
    }
    free_item(t);
}

static void submit(struct item *t)
{
    struct injection *i = t->injection;
    struct receipt_mark mark = {.recipient = (uint32_t)t->index};
    memcpy(mark.key, i->receipt.key, sizeof mark.key);
    if (!upload_message(&t->upload, &t->envelope, i->has_key ? &mark : NULL))
        conclude(t);
}

static void on_stored(struct upload *u, bool ended)
{
    struct item *t = CONTAINER_OF(u, struct item, upload);
    struct injection *i = t->injection;
    if (ended)
        conclude(t);
    else if (u->ops_out == 0)
        submit(t);
    go_on(i);
}

static const char *content_error(enum smtp_content_error error)
{
    switch (error) {
    case SMTP_CONTENT_LINE_TOO_LONG:
        return "a line of the message is longer than submission.text_line_max";
    case SMTP_CONTENT_TOO_LARGE:
        return "the message is larger than submission.message_size_max";
    case SMTP_CONTENT_LOOP:
        return "too many Received fields: a mail loop";
    case SMTP_CONTENT_NUL:
        return "a NUL stands in the message: encode binary parts";
    case SMTP_CONTENT_OK:
    case SMTP_CONTENT_BARE_CR:
    case SMTP_CONTENT_BARE_LF:
        break;
    }
    return "the message cannot be read";
}

/* The rendered message into the upload, as submission's content goes: Received in front, what is
 * missing put in, all that passes a bound refused. NULL, or what is wrong. */
static const char *pass_content(struct item *t, struct slice message)
{
    const struct injection *i = t->injection;
    const struct config *config = i->request->config;
    struct upload *u = &t->upload;
    char date[SMTP_TRACE_LINE_SIZE], message_id[SMTP_TRACE_LINE_SIZE];
    struct smtp_trace trace = {.client = i->request->caller.address,
                               .helo = slice_str(i->request->caller.name),
                               .protocol = "HTTP",
                               .hostname = config->hostname,
                               .id = u->id,
                               .wall_ms = t->envelope.arrived_wall_ms,
                               .envelope = &t->envelope};
    smtp_trace_received(&trace, &u->content);
    smtp_trace_date_line(&trace, date);
    smtp_trace_message_id_line(&trace, message_id);
    size_t trace_bytes = buf_len(&u->content), used = 0;
    struct smtp_content_limits limits = {.bytes_max = config->submission.message_size_max,
                                         .line_bytes_max = config->submission.text_line_max,
                                         .received_max = RECEIVED_MAX};
    struct smtp_content c;
    smtp_content_begin(&c, SMTP_CONTENT_BDAT, &limits, &u->content);
    c.date_line = slice_str(date);
    c.message_id_line = slice_str(message_id);
    while (smtp_content_feed(&c, message, &used) == SMTP_CONTENT_FULL) {
        message = slice_skip(message, used);
        upload_chunk(u);
    }
    while (smtp_content_finish(&c) == SMTP_CONTENT_FULL)
        upload_chunk(u);
    t->envelope.size_bytes = c.bytes + trace_bytes;
    t->envelope.header_bytes = c.header_bytes + (uint32_t)trace_bytes;
    t->envelope.flags = (uint8_t)((c.has_8bit ? ENVELOPE_HAS_8BIT | ENVELOPE_BODY_8BIT : 0) |
                                  (c.has_dot_lines ? ENVELOPE_HAS_DOTS : 0) |
                                  (c.has_utf8_header ? ENVELOPE_HAS_UTF8_HEADER : 0));
    return c.error == SMTP_CONTENT_OK ? NULL : content_error(c.error);
}

static struct item *create_item(struct injection *i, const struct inject_recipient *r)
{
    const struct worker_parts *parts = i->injector->all->parts;
    struct item *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    char client[ADDRESS_TEXT_SIZE];
    address_format_ip(&i->request->caller.address, client);
    t->injection = i;
    t->index = i->next;
    memcpy(t->address, r->address, sizeof t->address);
    memcpy(t->domain, r->domain, sizeof t->domain);
    (void)snprintf(t->origin, sizeof t->origin, "[%s] %s", client, i->request->caller.name);
    upload_init(&t->upload, parts->committer, &i->injector->mailbox, on_stored);
    upload_begin(&t->upload, atomic_fetch_add(&parts->shared->next_id, 1));
    t->recipient = (struct envelope_recipient){
        .address = slice_str(t->address), .domain = slice_str(t->domain), .orcpt = SLICE_LIT("")};
    t->envelope = (struct envelope){.id = t->upload.id,
                                    .arrived_wall_ms = clock_wall_ms(),
                                    .sender = slice_str(i->inject.sender),
                                    .envid = SLICE_LIT(""),
                                    .origin = slice_str(t->origin),
                                    .priority = i->inject.priority,
                                    .recipients = &t->recipient,
                                    .recipient_count = 1};
    i->uploads_out++;
    return t;
}

/* NULL, or why the next recipient gets nothing. */
static const char *begin_message(struct injection *i, struct error *error)
{
    struct injector *j = i->injector;
    struct inject_recipient r;
    enum intake_state state = intake_state(j->all->parts->intake);
    bool stopping = atomic_load(&j->all->http->shared.stopping);
    if (state != INTAKE_OPEN || stopping) {
        i->store_failed = true;
        return intake_reply(stopping ? INTAKE_DRAINING : state)->text;
    }
    buf_clear(&j->message);
    j->message.bound = i->request->config->submission.message_size_max + BOUND_MARGIN;
    j->scratch.text.bound = j->scratch.lines.bound = j->message.bound;
    if (!inject_recipient(&i->inject, i->next, &r, error))
        return error->text;
    const struct smtp_refusal *why = intake_refuse_domain(j->all->parts->intake, r.domain);
    if (why != NULL) {
        i->store_failed = true;
        return why->text;
    }
    if (!mime_render(i->inject.message, &r.mime, &j->scratch, &j->message, error))
        return error->text;
    struct item *t = create_item(i, &r);
    if (t == NULL)
        return "out of memory";
    t->bytes = buf_len(&j->message);
    j->bytes_out += t->bytes;
    const char *wrong = pass_content(t, buf_slice(&j->message));
    bool utf8 = r.is_utf8 || i->inject.sender_is_utf8 ||
                (t->envelope.flags & ENVELOPE_HAS_UTF8_HEADER) != 0;
    t->envelope.flags |= utf8 ? ENVELOPE_SMTPUTF8 : 0;
    if (wrong != NULL) {
        /* What is at the committer already comes back to the item; only then is it freed. */
        note_failure(i, t->index, wrong);
        t->upload.status = STORE_NO_ROOM;
        if (t->upload.ops_out == 0)
            free_item(t);
        return NULL;
    }
    if (t->upload.ops_out == 0)
        submit(t);
    return NULL;
}

/* ---- turns ---- */

static bool may_begin(const struct injection *i)
{
    return i->next < i->count && !i->receipt_pending && i->uploads_out < UPLOADS_OUT_MAX &&
           i->injector->bytes_out < BYTES_OUT_MAX;
}

/* A few recipients. True: there are more that could be begun now. */
static bool take_turn(struct injection *i)
{
    struct error error;
    for (int n = 0; n < TURN_RECIPIENTS && may_begin(i); n++) {
        if (i->ids[i->next] == 0) {
            error.text[0] = '\0';
            const char *wrong = begin_message(i, &error);
            if (wrong != NULL)
                note_failure(i, i->next, wrong);
        }
        i->next++;
    }
    return may_begin(i);
}

static void go_on(struct injection *i)
{
    if (i->next < i->count || i->uploads_out > 0 || i->receipt_pending)
        return;
    answer(i);
    end(i);
}

/* ---- receipts ---- */

struct receipt_op {
    struct commit_op op;
    struct injection *injection; /* COMMIT_RECEIPT */
    struct injector *injector;   /* COMMIT_FORGET */
};

static void on_receipt(struct mail *mail, void *owner)
{
    (void)owner;
    struct receipt_op *o = CONTAINER_OF(mail, struct receipt_op, op.mail);
    struct injection *i = o->injection;
    i->receipt_pending = false;
    if (o->op.status != STORE_OK) { /* nothing is begun without it */
        for (; i->next < i->count; i->next++)
            if (i->ids[i->next] == 0)
                note_failure(i, i->next, "no room for this message now, try again later");
        i->store_failed = true;
    }
    free(o);
    go_on(i);
}

static bool post_receipt(struct injection *i)
{
    struct receipt_op *o = calloc(1, sizeof *o);
    if (o == NULL)
        return false;
    o->injection = i;
    o->op = (struct commit_op){
        .kind = COMMIT_RECEIPT, .reply_to = &i->injector->mailbox, .on_done = on_receipt};
    o->op.u.receipt.receipt = i->receipt;
    i->receipt_pending = true;
    struct commit_op *op = &o->op;
    committer_submit(i->injector->all->parts->committer, &op);
    return true;
}

/* Has this key been used? Then for the same request, whose marks say what is stored. Returns 0, or
 * a status with `text`. */
static unsigned look_up_key(struct injection *i, const char *key, const char **text)
{
    struct injector *j = i->injector;
    struct receipt known;
    if (strlen(key) == 0 || strlen(key) > KEY_MAX) {
        *text = "Idempotency-Key is a word of 1 to 255 characters";
        return MHD_HTTP_BAD_REQUEST;
    }
    hash_key(&i->request->caller, key, i->receipt.key);
    if (!take_key(i)) {
        *text = "a request with this Idempotency-Key is under way; ask again when it is answered";
        return MHD_HTTP_CONFLICT;
    }
    i->receipt.made_wall_ms = clock_wall_ms();
    if (!store_read_begin(j->reader)) {
        *text = "the spool cannot be read now, try again later";
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    }
    bool found = store_get_receipt(j->reader, i->receipt.key, &known);
    bool same = found && memcmp(known.digest, i->receipt.digest, sizeof known.digest) == 0;
    if (same)
        store_get_marks(j->reader, i->receipt.key, i->ids, (uint32_t)i->count);
    store_read_end(j->reader);
    if (found && !same) {
        *text = "this Idempotency-Key was used for another request; give each mailing its own";
        return MHD_HTTP_UNPROCESSABLE_CONTENT;
    }
    for (size_t n = 0; n < i->count; n++)
        i->repeated += i->ids[n] != 0;
    atomic_fetch_add(&j->shared.repeated_recipients, i->repeated);
    if (found || post_receipt(i))
        return 0;
    *text = "out of memory";
    return MHD_HTTP_SERVICE_UNAVAILABLE;
}

static void forget_old(struct injector *j);

static void on_forgotten(struct mail *mail, void *owner)
{
    (void)owner;
    struct receipt_op *o = CONTAINER_OF(mail, struct receipt_op, op.mail);
    struct injector *j = o->injector;
    bool ok = o->op.status == STORE_OK;
    free(o);
    j->forgetting = false;
    if (ok && !j->stopping)
        forget_old(j); /* what is left of it, or the next */
}

/* Receipts whose time is up, one step at a time. */
static void forget_old(struct injector *j)
{
    const struct config *config = atomic_load(&j->all->http->shared.config);
    struct receipt oldest;
    j->forget_at_ms = clock_mono_ms() + FORGET_PERIOD_MS;
    if (j->forgetting || !store_read_begin(j->reader))
        return;
    bool any = store_oldest_receipt(j->reader, &oldest);
    store_read_end(j->reader);
    struct receipt_op *o = NULL;
    if (any && clock_wall_ms() >= oldest.made_wall_ms + config->http.idempotency_window_ms)
        o = calloc(1, sizeof *o);
    if (o == NULL)
        return;
    o->injector = j;
    o->op =
        (struct commit_op){.kind = COMMIT_FORGET, .reply_to = &j->mailbox, .on_done = on_forgotten};
    o->op.u.receipt.receipt = oldest;
    j->forgetting = true;
    struct commit_op *op = &o->op;
    committer_submit(j->all->parts->committer, &op);
}

/* ---- a request arrives ---- */

/* Lets `count` more of the token's recipients through; their time is charged to what comes next. */
static void charge_rate(struct injection *i)
{
    unsigned rate = i->request->config->http.recipients_per_second;
    struct injectors *all = i->injector->all;
    if (rate == 0)
        return;
    uint64_t now = clock_mono_ms();
    uint64_t *free_at = &all->shared.free_at_ms[i->request->caller.index];
    (void)pthread_mutex_lock(&all->shared.lock);
    *free_at = (*free_at > now ? *free_at : now) + (uint64_t)i->count * 1000 / rate;
    (void)pthread_mutex_unlock(&all->shared.lock);
}

static void read_request(struct injection *i)
{
    struct injector *j = i->injector;
    struct http_request *r = i->request;
    struct error error = {{0}};
    char boundary[MIME_BOUNDARY_WORD_MAX + 1];
    (void)snprintf(boundary, sizeof boundary, "%016llx",
                   (unsigned long long)random_u64(&j->random));
    struct slice body = slice_of(r->body, r->body_len);
    (void)SHA256((const unsigned char *)body.ptr, body.len, i->receipt.digest);
    bool ok = inject_read(&i->inject, body, boundary, &error);
    http_body_fini(r);
    if (!ok) {
        refuse(i, MHD_HTTP_BAD_REQUEST, error.text);
        return;
    }
    i->count = inject_count(&i->inject);
    if (i->count > r->config->http.recipients_max) {
        refuse(i, MHD_HTTP_CONTENT_TOO_LARGE,
               "more recipients than http.recipients_max; send them in several requests");
        return;
    }
    i->ids = calloc(i->count, sizeof *i->ids);
    i->failures = calloc(i->count, sizeof *i->failures);
    if (i->ids == NULL || i->failures == NULL) {
        refuse(i, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
        return;
    }
    const char *text = NULL;
    unsigned status = r->idempotency_key != NULL ? look_up_key(i, r->idempotency_key, &text) : 0;
    if (status != 0) {
        refuse(i, status, text);
        return;
    }
    charge_rate(i);
    atomic_fetch_add(&j->shared.requests, 1);
}

/* What JSON says in a few bytes takes many times as much when it is read: so all injections
 * together may hold http.memory_max of it, or one alone. False: not now. */
static bool take_memory(struct injection *i)
{
    _Atomic uint64_t *held = &i->injector->all->shared.memory;
    uint64_t had = atomic_load(held);
    do {
        if (had > 0 && had + i->memory > i->request->config->http.memory_max)
            return false;
    } while (!atomic_compare_exchange_weak(held, &had, had + i->memory));
    return true;
}

/* Those for which there is memory, in the order they came; small ones at once. */
static void read_waiting(struct injector *j)
{
    bool full = false;
    for (struct link *l = j->waiting.next; l != &j->waiting;) {
        struct injection *i = CONTAINER_OF(l, struct injection, link);
        l = l->next;
        full = full || (i->memory > 0 && !take_memory(i));
        if (full && i->memory > 0)
            continue;
        list_remove(&i->link);
        list_push_back(&j->active, &i->link);
        read_request(i);
    }
}

static void on_request(struct mail *mail, void *owner)
{
    struct injector *j = owner;
    struct injection *i = CONTAINER_OF(mail, struct injection, mail);
    struct slice body = slice_of(i->request->body, i->request->body_len);
    uint64_t memory = body.len + inject_values(body) * INJECT_VALUE_BYTES;
    i->memory = memory > SMALL_BYTES ? memory : 0;
    list_push_back(&j->waiting, &i->link);
    j->count++;
}

/* ---- the threads ---- */

static void sleep_until_mail(struct injector *j)
{
    buf_clear(&j->message);
    buf_shrink(&j->message); /* a large message's memory goes back */
    if (!mailbox_prepare_sleep(&j->mailbox))
        return;
    struct pollfd fd = {.fd = j->mailbox.event_fd, .events = POLLIN};
    (void)poll(&fd, 1, list_empty(&j->waiting) ? FORGET_PERIOD_MS : WAITING_POLL_MS);
    mailbox_awake(&j->mailbox);
}

static bool take_turns(struct injector *j)
{
    bool more = false;
    for (struct link *l = j->active.next; l != &j->active;) {
        struct injection *i = CONTAINER_OF(l, struct injection, link);
        l = l->next;
        more |= take_turn(i);
        go_on(i);
    }
    return more;
}

static void *run(void *context)
{
    struct injector *j = context;
    bool more = false;
    while (!j->stopping || j->count > 0 || j->forgetting) {
        if (!more)
            sleep_until_mail(j);
        (void)mailbox_deliver(&j->mailbox);
        read_waiting(j);
        more = take_turns(j);
        if (j == j->all->list && !j->stopping && clock_mono_ms() >= j->forget_at_ms)
            forget_old(j);
    }
    return NULL;
}

static bool start_one(struct injectors *all, struct injector *j)
{
    j->all = all;
    j->mailbox.event_fd = -1;
    list_init(&j->waiting);
    list_init(&j->active);
    random_init(&j->random);
    buf_init(&j->message, BOUND_MARGIN);
    mime_scratch_init(&j->scratch, BOUND_MARGIN);
    j->reader = store_reader_create(all->parts->store);
    if (j->reader == NULL || mailbox_init(&j->mailbox, j) != 0)
        return false;
    j->started = thread_start(&j->thread, "injector", run, j) == 0;
    return j->started;
}

struct injectors *injectors_start(struct http *h, const struct worker_parts *parts,
                                  struct error *error)
{
    const struct config *config = atomic_load(&h->shared.config);
    struct injectors *all = calloc(1, sizeof *all);
    if (all != NULL)
        all->list = calloc(config->http.threads, sizeof *all->list);
    if (all == NULL || all->list == NULL) {
        free(all);
        error_set(error, "out of memory for http.threads");
        return NULL;
    }
    all->http = h;
    all->parts = parts;
    list_init(&all->shared.keys);
    (void)pthread_mutex_init(&all->shared.lock, NULL);
    for (unsigned i = 0; i < config->http.threads; i++) {
        all->count = i + 1;
        if (!start_one(all, &all->list[i])) {
            error_set(error, "http.threads: cannot start: out of memory, descriptors or threads");
            injectors_stop(all);
            injectors_destroy(&all);
            return NULL;
        }
    }
    return all;
}

uint64_t injectors_wait_ms(struct injectors *all, const struct http_caller *caller)
{
    uint64_t now = clock_mono_ms();
    (void)pthread_mutex_lock(&all->shared.lock);
    uint64_t free_at = all->shared.free_at_ms[caller->index];
    (void)pthread_mutex_unlock(&all->shared.lock);
    return free_at > now ? free_at - now : 0;
}

void injectors_take(struct injectors *all, struct http_request *r)
{
    struct injection *i = calloc(1, sizeof *i);
    if (i == NULL) {
        http_answer_error(r, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
        http_resume(r);
        return;
    }
    struct injector *best = &all->list[0];
    for (unsigned n = 1; n < all->count; n++)
        if (atomic_load(&all->list[n].shared.load) < atomic_load(&best->shared.load))
            best = &all->list[n];
    i->injector = best;
    i->request = r;
    i->load = r->body_len + 1;
    i->began_ms = r->began_ms;
    i->mail.on_arrival = on_request;
    list_init(&i->link);
    list_init(&i->key_link);
    arena_init(&i->inject.arena);
    atomic_fetch_add(&best->shared.load, i->load);
    struct mail *mail = &i->mail;
    mailbox_post(&best->mailbox, &mail);
}

static void on_stop(struct mail *mail, void *owner)
{
    (void)mail;
    struct injector *j = owner;
    j->stopping = true;
}

void injectors_stop(struct injectors *all)
{
    for (unsigned i = 0; all != NULL && i < all->count; i++) {
        struct injector *j = &all->list[i];
        if (!j->started)
            continue;
        struct mail stop = {.on_arrival = on_stop};
        struct mail *mail = &stop;
        mailbox_post(&j->mailbox, &mail);
        (void)pthread_join(j->thread, NULL);
        j->started = false;
        store_reader_destroy(&j->reader);
    }
}

void injectors_destroy(struct injectors **all)
{
    if (*all == NULL)
        return;
    for (unsigned i = 0; i < (*all)->count; i++) {
        struct injector *j = &(*all)->list[i];
        store_reader_destroy(&j->reader);
        if (j->mailbox.event_fd >= 0) {
            while (mailbox_deliver(&j->mailbox) > 0) /* e.g. chunks that were given up */
                continue;
            mailbox_fini(&j->mailbox);
        }
        buf_fini(&j->message);
        mime_scratch_fini(&j->scratch);
    }
    (void)pthread_mutex_destroy(&(*all)->shared.lock);
    free((*all)->list);
    free(*all);
    *all = NULL;
}

struct injectors_figures injectors_figures(const struct injectors *all)
{
    struct injectors_figures f = {0};
    for (unsigned i = 0; i < all->count; i++) {
        const struct injector *j = &all->list[i];
        f.requests += atomic_load_explicit(&j->shared.requests, memory_order_relaxed);
        f.messages += atomic_load_explicit(&j->shared.messages, memory_order_relaxed);
        f.bytes += atomic_load_explicit(&j->shared.bytes, memory_order_relaxed);
        f.failed_recipients +=
            atomic_load_explicit(&j->shared.failed_recipients, memory_order_relaxed);
        f.repeated_recipients +=
            atomic_load_explicit(&j->shared.repeated_recipients, memory_order_relaxed);
    }
    return f;
}
