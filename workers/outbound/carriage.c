#include "workers/outbound/carriage.h"

#include "core/base/assert.h"
#include "workers/outbound/lane.h"
#include "workers/outbound/session_priv.h"

#include <stdlib.h>

enum { BODY_BLOCK_BYTES = 64 * 1024 }; /* its limit holds for each block (RFC 5321 4.5.3.2.5) */

static struct carriage *first_of(const struct session *s)
{
    return list_empty(&s->carriages) ? NULL
                                     : CONTAINER_OF(s->carriages.next, struct carriage, link);
}

static struct carriage *last_of(const struct session *s)
{
    return list_empty(&s->carriages) ? NULL
                                     : CONTAINER_OF(s->carriages.prev, struct carriage, link);
}

bool session_is_committed(const struct session *s)
{
    const struct carriage *c = first_of(s);
    return c != NULL && c->sent;
}

bool session_is_unheard(const struct session *s)
{
    const struct carriage *c = first_of(s);
    return c != NULL && c->was_behind && !c->sent && smtp_client_last_phase(s->smtp) == SMTP_MAIL;
}

/* ---- how much, and how ---- */

static struct health_trust trust_of(const struct session *s)
{
    return health_trust(s->worker->parts->health, &s->target.address,
                        s->worker->config->delivery.transactions_in_flight_max);
}

/* By BDAT a message is committed before a word of it is answered: over a connection that has
 * answered before, to a host that has often enough. */
static bool may_use_bdat(const struct session *s, const struct health_trust *trust)
{
    return s->answered > 0 && trust->bdat &&
           (smtp_client_capabilities(s->smtp) & SMTP_CAP_CHUNKING) != 0;
}

static enum smtp_content choose(const struct session *s, const struct flight *f)
{
    struct health_trust trust = trust_of(s);
    bool fits = f->envelope.size_bytes <= s->worker->config->delivery.content_with_envelope_max;
    bool by_bdat = fits && !s->binding_ahead && s->in_flight < trust.window;
    return by_bdat && may_use_bdat(s, &trust) ? SMTP_BY_BDAT : SMTP_BY_DATA;
}

/* The host has yet to show that it takes BDAT well, one by one, and such messages are on their way:
 * behind an end they would go by DATA. */
static bool is_proving(const struct session *s, const struct health_trust *trust,
                       const struct carriage *last)
{
    const struct config *c = s->worker->config;
    return may_use_bdat(s, trust) && trust->window == 1 &&
           c->delivery.transactions_in_flight_max > 1 && last->flight != NULL &&
           last->flight->envelope.size_bytes <= c->delivery.content_with_envelope_max;
}

bool session_wants_more(const struct session *s)
{
    const struct carriage *c = last_of(s);
    if (c == NULL || !c->sent || c->flight == NULL || s->retiring || s->lane == NULL || s->large ||
        s->stage != SESSION_TALKING || s->closing || !smtp_client_may_begin(s->smtp))
        return false;
    struct health_trust trust = trust_of(s);
    if (c->transaction.by == SMTP_BY_BDAT)
        return s->in_flight < trust.window;
    return trust.behind && !is_proving(s, &trust, c);
}

void session_refill(struct session *s)
{
    while (session_wants_more(s) && lane_bind_behind(s->lane, s))
        continue;
}

/* ---- carrying ---- */

static struct carriage *create(struct session *s, struct flight *f)
{
    struct carriage *c = calloc(1, sizeof *c + f->batch_count * sizeof *c->replies);
    if (c == NULL)
        return NULL;
    *c = (struct carriage){.flight = f,
                           .transaction = {.envelope = &f->envelope,
                                           .recipients = f->batch_recipients,
                                           .replies = c->replies,
                                           .recipient_count = f->batch_count,
                                           .by = choose(s, f)},
                           .began_ms = s->worker->now_ms,
                           .was_behind = s->in_flight > 0};
    return c;
}

static void begin_body(struct session *s, struct carriage *c)
{
    const struct envelope *e = &c->flight->envelope;
    s->sending = c;
    s->large = false;
    body_begin(&s->body, e->id, e->size_bytes, (e->flags & ENVELOPE_HAS_DOTS) != 0,
               c->transaction.by == SMTP_BY_BDAT);
}

void session_carry(struct session *s, struct flight *f)
{
    ASSERT(s->flight == NULL);
    struct carriage *c = create(s, f);
    if (c == NULL) {
        struct reply reply = reply_local(LOCAL_NO_RESOURCES);
        session_fail(s, END_LOCAL, &reply);
        return;
    }
    list_push_back(&s->carriages, &c->link);
    s->in_flight++;
    s->flight = f;
    f->carriers++;
    s->ready = false;
    s->messages++;
    s->sent_ahead |= c->was_behind || c->transaction.by == SMTP_BY_BDAT;
    figure_add(&s->worker->shared.figures.transactions, 1);
    smtp_client_begin(s->smtp, &c->transaction);
    session_watch_time(s, NULL);
    if (s->binding_ahead)
        return;
    if (c->transaction.by == SMTP_BY_BDAT) {
        begin_body(s, c);
        (void)session_send_content(s);
        return;
    }
    enum net_status status = session_write_out(s);
    if (status != NET_OK && status != NET_AGAIN)
        session_lose(s, status);
}

void session_hand_over(struct session *s)
{
    struct flight *f = s->flight;
    ASSERT(f != NULL && f->token == s && f->carriers == 1);
    f->carriers = 0;
    s->flight = NULL;
    s->handed_over++;
}

/* The write that was to hold the end of the last message held less: what was bound behind
 * it goes back. */
static void take_back_ahead(struct session *s)
{
    struct carriage *c = last_of(s);
    buf_clear(&s->out);
    smtp_client_retract(s->smtp);
    list_remove(&c->link);
    s->in_flight--;
    s->messages--;
    c->flight->carriers--;
    s->flight = NULL;
    free(c);
    lane_unbind(s->lane, s);
    s->flight = s->sending->flight;
    s->flight->carriers = 1;
    s->handed_over--;
}

void session_break_off(struct session *s)
{
    struct carriage *c = last_of(s);
    ASSERT(c != NULL && c->flight == s->flight && s->flight != NULL && s->flight->token != s);
    s->flight->carriers--;
    s->flight = NULL;
    c->flight = NULL;
    s->broken_off = true;
    if (s->sending == c)
        s->sending = NULL;
}

struct carriage *session_take_done(struct session *s)
{
    struct carriage *c = first_of(s);
    ASSERT(c != NULL && c->flight != NULL);
    list_remove(&c->link);
    s->in_flight--;
    s->answered++;
    s->transaction_began_ms = c->began_ms;
    if (s->sending == c)
        s->sending = NULL;
    if (c->flight == s->flight) {
        c->flight->carriers--;
        s->flight = NULL;
    } else {
        s->handed_over--;
    }
    health_show(s->worker->parts->health, &s->target.address,
                c->transaction.by == SMTP_BY_BDAT ? HEALTH_RUN_BDAT : HEALTH_RUN);
    return c;
}

void session_free_carriages(struct session *s)
{
    for (struct link *l; (l = list_pop_front(&s->carriages)) != NULL;)
        free(CONTAINER_OF(l, struct carriage, link));
    s->in_flight = 0;
}

/* ---- contents ---- */

static bool take_token(void *context)
{
    struct session *s = context;
    return flight_take_token(s->sending->flight, s);
}

void session_begin_content(struct session *s)
{
    begin_body(s, first_of(s));
}

/* The next one's commands are to share the write of this one's end. Whether that write will hold
 * all of it, only the kernel knows: take_back_ahead puts it right where not. */
static bool bind_ahead(struct session *s)
{
    struct carriage *c = s->sending;
    if (s->in_flight != 1 || !body_end_is_near(&s->body) || s->retiring || s->large ||
        !smtp_client_may_begin(s->smtp))
        return false;
    struct health_trust trust = trust_of(s);
    if (!trust.behind || (may_use_bdat(s, &trust) && trust.window > 1) || is_proving(s, &trust, c))
        return false;
    if (!flight_take_token(c->flight, s))
        return false;
    s->binding_ahead = true;
    bool bound = lane_bind_behind(s->lane, s);
    s->binding_ahead = false;
    return bound;
}

static void content_is_sent(struct session *s, struct slice behind)
{
    struct carriage *c = s->sending;
    bool by_bdat = c->transaction.by == SMTP_BY_BDAT;
    s->sending = NULL;
    c->sent = true;
    s->taken = 0; /* its reply has a patience of its own */
    session_tell(s, (struct observed){.kind = OBSERVED_CONTENT,
                                      .amount = s->body.sent,
                                      .note = by_bdat ? "BDAT" : NULL});
    if (behind.len > 0)
        session_tell(s, (struct observed){.kind = OBSERVED_SENT, .bytes = behind});
    smtp_client_body_sent(s->smtp);
    s->phase_seen = SMTP_CLOSED; /* other deadlines hold for what is committed */
    session_watch_time(s, NULL);
}

bool session_send_content(struct session *s)
{
    struct carriage *c = s->sending;
    uint64_t before = s->body.sent;
    bool by_bdat = c->transaction.by == SMTP_BY_BDAT;
    bool ahead = !by_bdat && bind_ahead(s);
    if (s->stage == SESSION_CLOSED)
        return false;
    if (by_bdat)
        session_tell_unseen(s);
    struct slice behind = by_bdat || buf_len(&s->out) == 0 ? SLICE_LIT("") : buf_slice(&s->out);
    enum body_status status =
        body_send(&s->body, &s->conn, &s->out, s->worker->reader, take_token, s);
    s->out_told = buf_len(&s->out);
    if (!s->body.committed && ahead)
        take_back_ahead(s);
    if (!s->body.committed)
        flight_return_token(c->flight, s);
    switch (status) {
    case BODY_SENT:
        content_is_sent(s, behind);
        return true;
    case BODY_AGAIN:
        if (!by_bdat && (!s->large || before / BODY_BLOCK_BYTES != s->body.sent / BODY_BLOCK_BYTES))
            session_await_taking(s);
        return true;
    case BODY_NO_TOKEN:
        /* Another session was first to the commit point: the lane lets this one go when that one is
         * done. */
        s->sending = NULL;
        return true;
    case BODY_DAMAGED: {
        struct reply reply = reply_local(LOCAL_SPOOL_DAMAGED);
        session_fail(s, END_LOCAL, &reply);
        return false;
    }
    case BODY_LOST:
        session_lose(s, s->body.net);
        return false;
    }
    ASSERT(false);
}

/* ---- what the end of a session shows ---- */

static bool any_committed(const struct session *s)
{
    for (const struct link *l = s->carriages.next; l != &s->carriages; l = l->next) {
        const struct carriage *c = CONTAINER_OF(l, const struct carriage, link);
        if (c->sent && c->transaction.by == SMTP_BY_BDAT)
            return true;
    }
    return false;
}

void session_show_end(struct session *s, enum session_end why)
{
    struct health *health = s->worker->parts->health;
    if (why == END_LOCAL)
        return;
    if (why == END_BROKEN && s->sent_ahead)
        health_show(health, &s->target.address, HEALTH_MISMATCH);
    else if (any_committed(s) && !smtp_client_said_goodbye(s->smtp))
        health_show(health, &s->target.address, HEALTH_BATCH_LOST);
    else if (session_is_unheard(s) && (why == END_DOWN || why == END_SILENT))
        health_show(health, &s->target.address, HEALTH_MISFIRE);
}
