#include "workers/outbound/outcome.h"

#include "core/base/assert.h"
#include "core/base/memory.h"
#include "smtp/dsn.h"
#include "workers/chronicle.h"
#include "workers/events/events.h"
#include "workers/outbound/observer.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    RETURNED_CONTENT_MAX =
        1 << 20,                 /* RET=FULL gives back the header section only beyond this, and of
                                       a header section as many whole lines */
    NOTICE_BYTES_MAX = 64 << 10, /* of a notice besides, and for each recipient: */
    NOTICE_RECIPIENT_BYTES_MAX = 4 << 10,
};

/* A notice on its way to the spool. */
struct notice {
    struct commit_message message; /* first: the op's list links these */
    struct buf content;
    struct buf envelope;
};

/* An outcome on its way to the committer: the op and all it borrows. */
struct outcome {
    struct commit_op op;
    struct worker *worker;
    struct outcome_recipient *recipients;
    struct reply *replies; /* what recipients[i].reply points at */
    char exchange[STORE_EXCHANGE_SIZE];
};

static void free_outcome(struct outcome *o)
{
    for (struct commit_message *m = o->op.u.outcome.generated; m != NULL;) {
        struct notice *n = CONTAINER_OF(m, struct notice, message);
        m = m->next;
        buf_fini(&n->content);
        buf_fini(&n->envelope);
        free(n);
    }
    free(o->recipients);
    free(o->replies);
    free(o);
}

/* Back on the worker: durable, or the spool has failed, which the committer has told the relay. */
static void on_committed(struct mail *mail, void *owner)
{
    (void)owner;
    free_outcome(CONTAINER_OF(mail, struct outcome, op.mail));
}

static struct outcome *create_outcome(struct worker *w, struct delivery *d)
{
    struct outcome *o = memory_must(1, sizeof *o);
    o->worker = w;
    o->recipients = memory_must(d->recipient_count, sizeof *o->recipients);
    o->replies = memory_must(d->recipient_count, sizeof *o->replies);
    o->op = (struct commit_op){
        .kind = COMMIT_OUTCOME, .reply_to = &w->shared.mailbox, .on_done = on_committed};
    o->op.u.outcome.delivery = d;
    o->op.u.outcome.recipients = o->recipients;
    o->op.u.outcome.recipient_count = d->recipient_count;
    return o;
}

/* ---- notices ---- */

/* The original's content as far as a notice returns it, appended to `out`. */
static bool read_content(struct worker *w, const struct envelope *e, uint64_t want, struct buf *out)
{
    if (!store_read_begin(w->reader))
        return false;
    bool ok = true;
    for (uint32_t chunk = 0; ok && buf_len(out) < want; chunk++) {
        struct slice bytes;
        ok = store_get_chunk(w->reader, e->id, chunk, &bytes) && bytes.len > 0;
        if (ok)
            buf_append(out, slice_take(bytes, want - buf_len(out)));
        ok = ok && buf_ok(out);
    }
    store_read_end(w->reader);
    return ok;
}

/* The lines that are there as a whole. */
static struct slice whole_lines(struct slice text)
{
    while (text.len > 0 && text.ptr[text.len - 1] != '\n')
        text.len--;
    return text;
}

static struct notice *compose(struct worker *w, struct dsn *dsn)
{
    const struct envelope *original = dsn->original;
    bool full = dsn->kind == DSN_FAILED && original->ret != RET_HDRS &&
                original->size_bytes <= RETURNED_CONTENT_MAX;
    uint64_t want = full ? original->size_bytes : original->header_bytes;
    if (want > RETURNED_CONTENT_MAX)
        want = RETURNED_CONTENT_MAX;
    struct notice *n = calloc(1, sizeof *n);
    if (n == NULL)
        return NULL;
    buf_init(&n->content, RETURNED_CONTENT_MAX + NOTICE_BYTES_MAX +
                              (size_t)dsn->recipient_count * NOTICE_RECIPIENT_BYTES_MAX);
    buf_init(&n->envelope, ENVELOPE_ENCODED_MAX);
    struct buf returned;
    buf_init(&returned, RETURNED_CONTENT_MAX + 1);
    if (!read_content(w, original, want, &returned))
        buf_clear(&returned); /* the notice matters more than the copy */
    dsn->content = full ? buf_slice(&returned) : whole_lines(buf_slice(&returned));
    dsn->content_is_full = full && buf_len(&returned) > 0;
    struct envelope e;
    struct envelope_recipient r;
    char domain[256];
    bool ok = dsn_compose(dsn, &n->content, &e, &r, domain);
    buf_fini(&returned);
    if (ok) {
        e.id = dsn->id;
        e.arrived_wall_ms = dsn->wall_ms;
        e.origin = SLICE_LIT("notice");
        e.recipients = &r;
        e.recipient_count = 1;
        envelope_encode(&e, &n->envelope);
    }
    if (!ok || !buf_ok(&n->content) || !buf_ok(&n->envelope)) {
        buf_fini(&n->content);
        buf_fini(&n->envelope);
        free(n);
        return NULL;
    }
    n->message = (struct commit_message){
        .id = dsn->id, .envelope = buf_slice(&n->envelope), .chunk = buf_slice(&n->content)};
    return n;
}

/* What one attempt at a delivery came to, before it becomes an op. */
struct results {
    struct delivery *delivery;
    const struct envelope *envelope;
    const struct envelope_recipient *recipients; /* delivery->recipient_count of them */
    struct outcome *outcome;                     /* verdicts and replies are set */
    struct slice exchange;                       /* name, or empty */
    bool relayed_onwards; /* the exchange took over the DSN duty (RFC 3461) */
};

/* By the monotonic clock, so that a wall clock that is set makes nobody's message old. */
static uint64_t age_ms(const struct worker *w, const struct results *r)
{
    int64_t age = (int64_t)w->now_ms - atomic_load_explicit(&r->delivery->message->arrived_mono_ms,
                                                            memory_order_relaxed);
    return age > 0 ? (uint64_t)age : 0;
}

static bool wants(const struct results *r, enum dsn_kind kind, uint32_t i)
{
    static const enum outcome_verdict verdicts[] = {[DSN_FAILED] = OUTCOME_BOUNCED,
                                                    [DSN_DELAYED] = OUTCOME_DEFERRED,
                                                    [DSN_RELAYED] = OUTCOME_DELIVERED};
    return r->outcome->recipients[i].verdict == verdicts[kind] &&
           dsn_wanted(kind, r->envelope, &r->recipients[i]);
}

/* Puts a notice of this kind on the op where any recipient calls for one. */
static bool add_notice(struct worker *w, const struct results *r, enum dsn_kind kind)
{
    uint32_t count = r->delivery->recipient_count, told = 0;
    ASSERT(count > 0);
    struct dsn_recipient *about = calloc(count, sizeof *about);
    if (about == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (wants(r, kind, i))
            about[told++] = (struct dsn_recipient){.recipient = &r->recipients[i],
                                                   .reply = &r->outcome->replies[i],
                                                   .exchange = r->exchange};
    struct notice *n = NULL;
    if (told > 0) {
        struct dsn dsn = {.kind = kind,
                          .hostname = w->config->hostname,
                          .postmaster = w->config->postmaster,
                          .id = atomic_fetch_add(&w->parts->shared->next_id, 1),
                          .wall_ms = w->wall_ms,
                          .give_up_wall_ms =
                              w->wall_ms + w->config->retry.age_limit_ms - age_ms(w, r),
                          .original = r->envelope,
                          .recipients = about,
                          .recipient_count = told};
        n = compose(w, &dsn);
    }
    free(about);
    if (n == NULL)
        return false;
    n->message.next = r->outcome->op.u.outcome.generated;
    r->outcome->op.u.outcome.generated = &n->message;
    return true;
}

static bool delay_is_due(const struct worker *w, const struct results *r)
{
    uint64_t after = w->config->retry.delay_notice_ms;
    return after > 0 && !(r->delivery->flags & DELIVERY_DELAY_NOTICED) && age_ms(w, r) >= after;
}

/* A failure that its sender cannot be told, for want of memory, waits for the next attempt. */
static void defer_untold(const struct results *r)
{
    for (uint32_t i = 0; i < r->delivery->recipient_count; i++)
        if (wants(r, DSN_FAILED, i))
            r->outcome->recipients[i].verdict = OUTCOME_DEFERRED;
}

static void add_notices(struct worker *w, const struct results *r)
{
    if (!add_notice(w, r, DSN_FAILED))
        defer_untold(r);
    if (!r->relayed_onwards)
        (void)add_notice(w, r, DSN_RELAYED);
    if (delay_is_due(w, r))
        r->outcome->op.u.outcome.delay_noticed = add_notice(w, r, DSN_DELAYED);
}

/* ---- log and figures ---- */

static const char *verdict_name(const struct outcome_recipient *r, const struct reply *reply)
{
    if (reply->code == LOCAL_UNKNOWN_OUTCOME)
        return "unknown";
    static const char *const names[] = {[OUTCOME_DELIVERED] = "delivered",
                                        [OUTCOME_BOUNCED] = "bounced",
                                        [OUTCOME_DEFERRED] = "deferred"};
    return names[r->verdict];
}

static void log_time(struct log_line *line, const char *key, uint32_t ms)
{
    if (ms != UINT32_MAX)
        log_u64(line, key, ms);
}

static void log_session(struct log_line *line, const struct worker *w, const struct session *s)
{
    char address[ADDRESS_TEXT_SIZE];
    address_format(&s->target.address, address);
    log_cstr(line, "exchange", s->target.exchange->name);
    log_cstr(line, "address", address);
    if (s->conn.ssl != NULL)
        log_cstr(line, "tls", tls_version(s->conn.ssl));
    log_time(line, "connect_ms", s->times.connect_ms);
    log_time(line, "greeting_ms", s->times.greeting_ms);
    log_time(line, "ehlo_ms", s->times.ehlo_ms);
    log_time(line, "tls_ms", s->times.tls_ms);
    if (s->transaction_began_ms > 0)
        log_u64(line, "transaction_ms", w->now_ms - s->transaction_began_ms);
    log_u64(line, "session_messages", s->messages);
}

static enum event_kind event_of(const struct outcome_recipient *r, const struct reply *reply)
{
    static const enum event_kind kinds[] = {[OUTCOME_DELIVERED] = EVENT_DELIVERED,
                                            [OUTCOME_BOUNCED] = EVENT_BOUNCED,
                                            [OUTCOME_DEFERRED] = EVENT_DEFERRED};
    return reply->code == LOCAL_UNKNOWN_OUTCOME ? EVENT_UNKNOWN : kinds[r->verdict];
}

/* For the log, where it is to have a line for each, and the webhooks that want to know. */
static void log_recipient(struct worker *w, const struct results *r, uint32_t i,
                          const struct session *s)
{
    const struct outcome_recipient *recipient = &r->outcome->recipients[i];
    const struct reply *reply = &r->outcome->replies[i];
    struct log *log = w->config->log.deliveries ? w->parts->log : NULL;
    struct log_tap *tap = events_tap(w->parts->events, event_of(recipient, reply));
    struct log_line line;
    char id[ENVELOPE_ID_SIZE];
    if (log == NULL && tap == NULL)
        return;
    envelope_id_format(r->delivery->message->id, id);
    log_begin_tapped(&line, log, tap, verdict_name(recipient, reply));
    log_cstr(&line, "id", id);
    if (r->envelope != NULL) {
        log_str(&line, "sender", r->envelope->sender);
        log_str(&line, "recipient", r->recipients[i].address);
    }
    log_cstr(&line, "domain", r->delivery->domain->name);
    log_cstr(&line, "priority", envelope_priority_name(r->delivery->message->priority));
    log_u64(&line, "attempt", r->delivery->attempts + 1u);
    log_u64(&line, "age_ms", age_ms(w, r));
    if (s != NULL)
        log_session(&line, w, s);
    log_reply(&line, reply);
    log_end(&line);
}

static void tell_verdict(struct worker *w, const struct results *r, uint32_t i,
                         const struct session *s)
{
    struct observer *o = w->parts->observer;
    const struct reply *reply = &r->outcome->replies[i];
    if (o == NULL)
        return;
    struct observed what = {.kind = OBSERVED_VERDICT,
                            .session = s,
                            .target = s != NULL ? &s->target : NULL,
                            .bytes = r->envelope != NULL ? r->recipients[i].address : slice_str(""),
                            .amount = r->delivery->message->id,
                            .reply = reply,
                            .note = verdict_name(&r->outcome->recipients[i], reply)};
    o->on_event(o, &what);
}

/* For those who look at the relay as it runs. */
static void chronicle(struct worker *w, const struct results *r, uint32_t i,
                      const struct session *s, enum failure_kind kind)
{
    struct failure f = {.kind = kind,
                        .phase = "",
                        .reply = r->outcome->replies[i],
                        .id = r->delivery->message->id,
                        .wall_ms = w->wall_ms};
    if (f.reply.code == LOCAL_UNKNOWN_OUTCOME)
        f.kind = FAILURE_UNKNOWN;
    (void)snprintf(f.domain, sizeof f.domain, "%s", r->delivery->domain->name);
    if (s != NULL) {
        f.has_address = true;
        f.address = s->target.address;
        (void)snprintf(f.exchange, sizeof f.exchange, "%s", s->target.exchange->name);
    }
    chronicle_failure(w->parts->chronicle, &f);
}

static void account(struct worker *w, const struct results *r, const struct session *s)
{
    for (uint32_t i = 0; i < r->delivery->recipient_count; i++) {
        switch ((enum outcome_verdict)r->outcome->recipients[i].verdict) {
        case OUTCOME_DELIVERED:
            figure_add(&w->shared.figures.recipients_delivered, 1);
            histogram_note(&w->shared.times.delivery[r->delivery->message->priority],
                           age_ms(w, r) * 1000, 1);
            break;
        case OUTCOME_DEFERRED:
            figure_add(&w->shared.figures.recipients_deferred, 1);
            chronicle(w, r, i, s, FAILURE_DEFERRED);
            break;
        case OUTCOME_BOUNCED:
            figure_add(&w->shared.figures.recipients_bounced, 1);
            chronicle(w, r, i, s, FAILURE_BOUNCED);
            break;
        }
        log_recipient(w, r, i, s);
        tell_verdict(w, r, i, s);
    }
}

/* ---- verdicts ---- */

static enum outcome_verdict verdict_of(const struct reply *reply, bool defer_anyway)
{
    if (reply->class == 2)
        return OUTCOME_DELIVERED;
    return reply->class == 5 && !defer_anyway ? OUTCOME_BOUNCED : OUTCOME_DEFERRED;
}

static void set_verdict(struct outcome *o, uint32_t i, uint32_t recipient,
                        const struct reply *reply, bool defer_anyway)
{
    o->replies[i] = *reply;
    o->recipients[i] = (struct outcome_recipient){
        .recipient = recipient,
        .verdict = (uint8_t)verdict_of(reply, defer_anyway),
        .reply = &o->replies[i],
    };
}

static void submit(struct worker *w, struct results *r, const struct session *s)
{
    if (r->envelope != NULL)
        add_notices(w, r);
    account(w, r, s);
    struct commit_op *op = &r->outcome->op;
    committer_submit(w->parts->committer, &op);
}

static void name_exchange(struct outcome *o, const struct session *s)
{
    if (s == NULL)
        return;
    char ip[ADDRESS_TEXT_SIZE];
    address_format_ip(&s->target.address, ip);
    (void)snprintf(o->exchange, sizeof o->exchange, "%s [%s]", s->target.exchange->name, ip);
    o->op.u.outcome.exchange = o->exchange;
}

static void strand(struct outcome *o, struct stranding stranding)
{
    o->op.u.outcome.stranded_at = stranding.at;
    o->op.u.outcome.probe_in_ms = stranding.probe_in_ms;
}

void outcome_of_flight(struct worker *w, struct flight **flight, const struct session *s,
                       struct stranding stranding)
{
    struct flight *f = *flight;
    ASSERT(f->carriers == 0);
    struct envelope_recipient *recipients = memory_must(f->count, sizeof *recipients);
    uint32_t at = 0;
    for (struct link *l; (l = list_pop_front(&f->deliveries)) != NULL;) {
        struct delivery *d = CONTAINER_OF(l, struct delivery, shared.queue_link);
        struct outcome *o = create_outcome(w, d);
        for (uint32_t i = 0; i < d->recipient_count; i++, at++) {
            const struct flight_recipient *r = &f->recipients[at];
            ASSERT(r->delivery == d && r->progress == FLIGHT_FINAL);
            recipients[i] = r->recipient;
            set_verdict(o, i, r->index, &r->reply, false);
        }
        o->op.u.outcome.has_try_first = f->unknown;
        o->op.u.outcome.try_first = f->unknown_at;
        name_exchange(o, s);
        strand(o, stranding);
        struct results results = {
            .delivery = d,
            .envelope = &f->envelope,
            .recipients = recipients,
            .outcome = o,
            .exchange = s != NULL ? slice_str(s->target.exchange->name) : SLICE_LIT(""),
            .relayed_onwards =
                s != NULL && (smtp_client_capabilities(s->smtp) & SMTP_CAP_DSN) != 0};
        submit(w, &results, s);
    }
    ASSERT(at == f->count);
    free(recipients);
    flight_destroy(flight);
}

/* The same reply for all of a flight's recipients: used for deliveries that never got
 * to a session. */
static void outcome_of_one(struct worker *w, struct delivery *d, const struct reply *reply,
                           bool defer_anyway, struct stranding stranding)
{
    struct link single;
    bool damaged = false;
    list_init(&single);
    list_push_back(&single, &d->shared.queue_link);
    struct flight *f = flight_create(&single, w->reader, w->now_ms, &damaged);
    struct outcome *o = create_outcome(w, d);
    strand(o, stranding);
    const uint32_t *indexes = delivery_recipients(d);
    struct envelope_recipient *recipients = memory_must(d->recipient_count, sizeof *recipients);
    for (uint32_t i = 0; i < d->recipient_count; i++) {
        if (f != NULL)
            recipients[i] = f->recipients[i].recipient;
        /* What cannot be read cannot be told to its sender either: it stays, for the operator to
         * see. */
        set_verdict(o, i, indexes[i], reply, defer_anyway || f == NULL);
    }
    if (d->try_first != NULL) {
        o->op.u.outcome.has_try_first = true;
        o->op.u.outcome.try_first = *d->try_first;
    }
    struct results results = {.delivery = d,
                              .envelope = f != NULL ? &f->envelope : NULL,
                              .recipients = recipients,
                              .outcome = o,
                              .exchange = SLICE_LIT("")};
    list_remove(&d->shared.queue_link); /* the delivery is the committer's from here on */
    submit(w, &results, NULL);
    free(recipients);
    if (f != NULL)
        flight_destroy(&f);
}

void outcome_of_stranded(struct worker *w, struct link *list, const struct reply *reply,
                         bool defer_anyway, struct stranding stranding)
{
    for (struct link *l; (l = list_pop_front(list)) != NULL; stranding.probe_in_ms = 0)
        outcome_of_one(w, CONTAINER_OF(l, struct delivery, shared.queue_link), reply, defer_anyway,
                       stranding);
}

void outcome_of_list(struct worker *w, struct link *list, const struct reply *reply,
                     bool defer_anyway)
{
    outcome_of_stranded(w, list, reply, defer_anyway, (struct stranding){0});
}

/* The age limit's bounce names what the last attempt said, which is what the sender needs. */
static struct reply expired(struct worker *w, const struct delivery *d)
{
    struct store_state state;
    struct reply reply = reply_local(LOCAL_EXPIRED);
    if (!store_read_begin(w->reader))
        return reply;
    if (store_get_state(w->reader, d->message->id, delivery_recipients(d)[0], &state) &&
        state.last.code != 0) {
        char last[REPLY_TEXT_SIZE + 32];
        size_t len = reply_format(&state.last, last, sizeof last);
        reply = reply_local_about(LOCAL_EXPIRED, slice_of(last, len));
    }
    store_read_end(w->reader);
    return reply;
}

void outcome_of_marked(struct worker *w, struct delivery *d)
{
    struct reply reply =
        d->flags & DELIVERY_OPERATOR_BOUNCE ? reply_local(LOCAL_OPERATOR_BOUNCE) : expired(w, d);
    outcome_of_one(w, d, &reply, false, (struct stranding){0});
}
