#include "core/base/clock.h"
#include "core/domain.h"
#include "workers/control_priv.h"

#include <assert.h>
#include <stdlib.h>

enum {
    LIST_DEFAULT = 1000,
    LIST_MAX = 5000,
    SCAN_MAX = 20000,   /* messages looked at per request: the caller asks on from there */
    PER_SNAPSHOT = 256, /* messages read under one snapshot */
    CONTENT_SHOWN_MAX = 1 << 20,
};

/* ---- reading the store, a short snapshot at a time ---- */

struct filter {
    const char *domain; /* NULL: any */
    const char *state;  /* "active", "deferred", "held", "suspended"; NULL: any */
    struct suspensions *suspensions;
    json_int_t older_than_ms;
    json_int_t limit;
};

static bool is_suspended(const struct filter *f, const struct envelope_recipient *r)
{
    char domain[DOMAIN_SIZE];
    return suspensions_count(f->suspensions) > 0 &&
           slice_to_cstr(r->domain, domain, sizeof domain) &&
           suspensions_hold(f->suspensions, domain);
}

static const char *state_name(const struct filter *f, const struct envelope_recipient *r,
                              const struct store_state *s)
{
    if (s->progress == PROGRESS_HELD)
        return "held";
    if (is_suspended(f, r))
        return "suspended";
    return s->attempts > 0 ? "deferred" : "active";
}

static bool passes(const struct filter *f, const struct envelope_recipient *r,
                   const struct store_state *s)
{
    if (s->progress == PROGRESS_DONE)
        return false;
    if (f->domain != NULL && !slice_equal(r->domain, slice_str(f->domain)))
        return false;
    return f->state == NULL || strcmp(f->state, state_name(f, r, s)) == 0;
}

static json_t *describe(const struct filter *f, const struct envelope *e,
                        const struct envelope_recipient *r, const struct store_state *s,
                        uint64_t now_ms)
{
    char id[ENVELOPE_ID_SIZE];
    const char *state = state_name(f, r, s);
    envelope_id_format(e->id, id);
    json_t *o = json_pack(
        "{s:s,s:o,s:o,s:o,s:s,s:i,s:I,s:I,s:s}", "id", id, "sender", control_text(e->sender),
        "recipient", control_text(r->address), "domain", control_text(r->domain), "state", state,
        "attempts", (int)s->attempts, "bytes", (json_int_t)e->size_bytes, "age_ms",
        (json_int_t)(now_ms - e->arrived_wall_ms), "priority", envelope_priority_name(e->priority));
    if (o == NULL)
        return json_null();
    if (strcmp(state, "deferred") == 0)
        (void)json_object_set_new(o, "next_ms",
                                  json_integer((json_int_t)s->due_wall_ms - (json_int_t)now_ms));
    if (s->last.code != 0) {
        (void)json_object_set_new(o, "last", control_reply(&s->last));
        (void)json_object_set_new(o, "exchange", control_text(slice_str(s->last_exchange)));
    }
    return o;
}

/* Says each recipient of one message that passes; returns how many. The snapshot is open. */
static json_int_t say_message(struct control_client *c, const struct filter *f, uint64_t id,
                              struct slice record)
{
    struct envelope e;
    uint64_t now = clock_wall_ms();
    json_int_t said = 0;
    if (!envelope_decode(record, &e) || (json_int_t)(now - e.arrived_wall_ms) < f->older_than_ms)
        return 0;
    for (uint32_t i = 0; i < e.recipient_count; i++) {
        struct envelope_recipient r;
        struct store_state s;
        if (!envelope_decode_recipient(record, i, &r))
            break;
        if (!store_get_state(c->control->reader, id, i, &s))
            s = (struct store_state){.progress = PROGRESS_WAITING};
        if (!passes(f, &r, &s))
            continue;
        control_say(c, describe(f, &e, &r, &s, now));
        said++;
    }
    return said;
}

/* Absent is 0; false, having said so, where it is no id. */
static bool id_member(struct control_client *c, const json_t *request, const char *name,
                      uint64_t *out)
{
    const char *text = json_string_value(json_object_get(request, name));
    *out = 0;
    if (text == NULL || text[0] == '\0' || (envelope_id_parse(slice_str(text), out) && *out != 0))
        return true;
    control_error(c, "\"%.60s\" is no message id; `onward queue` shows them", text);
    return false;
}

bool control_domain_member(struct control_client *c, const json_t *request, char out[DOMAIN_SIZE])
{
    const char *text = json_string_value(json_object_get(request, "domain"));
    out[0] = '\0';
    if (text == NULL || domain_normalize(slice_str(text), out))
        return true;
    control_error(c, "\"%.60s\" is not a valid domain; give one such as example.org", text);
    return false;
}

static bool is_state(const char *name)
{
    return name == NULL || strcmp(name, "active") == 0 || strcmp(name, "deferred") == 0 ||
           strcmp(name, "held") == 0 || strcmp(name, "suspended") == 0;
}

void control_queue_list(struct control_client *c, const json_t *request)
{
    char domain[DOMAIN_SIZE];
    uint64_t id;
    struct filter f = {.suspensions = c->control->options.suspensions,
                       .state = json_string_value(json_object_get(request, "state")),
                       .older_than_ms =
                           json_integer_value(json_object_get(request, "older_than_ms")),
                       .limit = json_integer_value(json_object_get(request, "limit"))};
    if (f.limit <= 0 || f.limit > LIST_MAX)
        f.limit = f.limit <= 0 ? LIST_DEFAULT : LIST_MAX;
    if (!control_domain_member(c, request, domain) || !id_member(c, request, "after", &id))
        return;
    f.domain = domain[0] != '\0' ? domain : NULL;
    if (!is_state(f.state)) {
        control_error(c, "\"%.60s\" is no state; there are active, deferred, suspended and held",
                      f.state);
        return;
    }
    unsigned scanned = 0;
    json_int_t said = 0;
    bool more = true;
    while (more && said < f.limit && scanned < SCAN_MAX) {
        if (!store_read_begin(c->control->reader)) {
            control_error(c, "the spool cannot be read now");
            return;
        }
        for (int i = 0; i < PER_SNAPSHOT && more && said < f.limit; i++, scanned++) {
            struct slice record;
            more = store_next_envelope(c->control->reader, id, &id, &record);
            if (more)
                said += say_message(c, &f, id, record);
        }
        store_read_end(c->control->reader);
    }
    char last[ENVELOPE_ID_SIZE];
    envelope_id_format(id, last);
    control_done(c, more ? json_pack("{s:I,s:s}", "count", said, "after", last)
                         : json_pack("{s:I}", "count", said));
}

/* ---- one message ---- */

static json_t *read_content(struct control_client *c, const struct envelope *e)
{
    struct buf content;
    buf_init(&content, CONTENT_SHOWN_MAX);
    for (uint32_t chunk = 0; buf_len(&content) < e->size_bytes; chunk++) {
        struct slice bytes;
        if (!store_get_chunk(c->control->reader, e->id, chunk, &bytes) || bytes.len == 0)
            break;
        buf_append(&content, bytes);
        if (!buf_ok(&content))
            break;
    }
    json_t *text = control_text(buf_slice(&content));
    buf_fini(&content);
    return text;
}

void control_queue_show(struct control_client *c, const json_t *request)
{
    const struct filter all = {.suspensions = c->control->options.suspensions};
    uint64_t id;
    struct slice record;
    struct envelope e;
    if (!id_member(c, request, "id", &id))
        return;
    if (!store_read_begin(c->control->reader)) {
        control_error(c, "the spool cannot be read now");
        return;
    }
    if (id == 0 || !store_get_envelope(c->control->reader, id, &record) ||
        !envelope_decode(record, &e)) {
        store_read_end(c->control->reader);
        control_error(
            c, "no such message in the queue: it was delivered or returned, or the id is mistyped");
        return;
    }
    (void)say_message(c, &all, id, record);
    json_t *last = json_pack("{s:o,s:o,s:i}", "origin", control_text(e.origin), "envid",
                             control_text(e.envid), "header_bytes", (int)e.header_bytes);
    if (json_is_true(json_object_get(request, "content")))
        (void)json_object_set_new(last, "content", read_content(c, &e));
    store_read_end(c->control->reader);
    control_done(c, last);
}

/* ---- edits: carried out by the committer ---- */

struct edit {
    struct commit_op op;
    struct control_client *client;
};

static void on_edited(struct mail *mail, void *owner)
{
    (void)owner;
    struct edit *e = CONTAINER_OF(mail, struct edit, op.mail);
    struct control_client *c = e->client;
    if (e->op.status != STORE_OK)
        control_error(c, "the spool cannot be written now");
    else
        control_done(c, json_pack("{s:I}", "matched", (json_int_t)e->op.u.edit.matched));
    free(e);
    control_resume(c);
}

static enum commit_edit edit_of(const char *op)
{
    if (strcmp(op, "queue.hold") == 0)
        return EDIT_HOLD;
    if (strcmp(op, "queue.release") == 0)
        return EDIT_RELEASE;
    return strcmp(op, "queue.retry") == 0 ? EDIT_RETRY : EDIT_BOUNCE;
}

/* An id that is mistyped, or of a message that has left, needs no search through the queue. */
static bool is_known_absent(struct control_client *c, uint64_t id)
{
    struct slice record;
    if (!store_read_begin(c->control->reader))
        return false;
    bool absent = !store_get_envelope(c->control->reader, id, &record);
    store_read_end(c->control->reader);
    return absent;
}

void control_queue_edit(struct control_client *c, const json_t *request)
{
    char domain[DOMAIN_SIZE];
    bool all = json_is_true(json_object_get(request, "all"));
    uint64_t id;
    if (!control_domain_member(c, request, domain) || !id_member(c, request, "id", &id))
        return;
    if ((id != 0) + (domain[0] != '\0') + all != 1) {
        control_error(c, "name exactly one of a message id, a domain, or all");
        return;
    }
    if (id != 0 && is_known_absent(c, id)) {
        control_done(c, json_pack("{s:I}", "matched", (json_int_t)0));
        return;
    }
    struct edit *e = calloc(1, sizeof *e);
    if (e == NULL) {
        control_error(c, "out of memory");
        return;
    }
    e->client = c;
    e->op = (struct commit_op){
        .kind = COMMIT_EDIT, .reply_to = &c->control->mailbox, .on_done = on_edited};
    e->op.u.edit.edit = edit_of(json_string_value(json_object_get(request, "op")));
    e->op.u.edit.id = id;
    static_assert(sizeof e->op.u.edit.domain >= DOMAIN_SIZE, "a domain fits");
    memcpy(e->op.u.edit.domain, domain, sizeof domain);
    c->busy = true;
    struct commit_op *op = &e->op;
    committer_submit(c->control->options.committer, &op);
}
