#include "core/base/assert.h"
#include "workers/outbound/lane_priv.h"
#include "workers/outbound/outbound.h"
#include "workers/outbound/outcome.h"
#include "workers/outbound/recovery.h"

/* ---- taking a message, and carrying it ---- */

void lane_flight_over(struct lane *l, struct session *last)
{
    struct reply reply = l->failure.code != 0 ? l->failure : reply_local(LOCAL_TIMEOUT);
    flight_give_up(l->flight, &reply);
    bool stranded =
        last == NULL && !l->flight->unknown && l->flight->exchanges == 0 && reply_is_local(&reply);
    outcome_of_flight(l->worker, &l->flight, last,
                      stranded ? recovery_stranding(l) : (struct stranding){0});
    l->failure = (struct reply){0};
    l->order_is_old = true;
    struct session *keep =
        lane_find_carrier(l); /* ready now: e.g. the preferred one, passed over by a 4xx */
    if (keep == NULL && last != NULL && last->stage != SESSION_CLOSED)
        keep = last; /* ready as soon as its machine says so */
    lane_let_others_go(l, keep);
    if (keep == NULL)
        lane_restart(l);
    else if (keep->ready)
        lane_take_next(l, keep);
}

/* Recipients that this exchange cannot take at all (SIZE, 8BITMIME, SMTPUTF8) are final with the
 * reason. */
static void refuse_uncarriable(struct flight *f, const struct session *s)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct flight_recipient *r = &f->recipients[i];
        struct reply why;
        if (r->progress == FLIGHT_UNTRIED &&
            !smtp_client_can_carry(s->smtp, &f->envelope, &r->recipient, &why))
            flight_settle(r, FLIGHT_FINAL, &why);
    }
}

/* Chooses the recipients of the next transaction over `s`. False: it can take none of them. */
static bool choose_batch(const struct lane *l, const struct session *s)
{
    struct flight *f = l->flight;
    refuse_uncarriable(f, s);
    uint32_t max = l->worker->config->delivery.recipients_per_transaction;
    uint32_t rcpt_max = smtp_client_rcpt_max(s->smtp); /* RFC 9422 */
    return flight_next_batch(f, rcpt_max > 0 && rcpt_max < max ? rcpt_max : max) > 0;
}

void lane_carry(struct lane *l, struct session *s)
{
    if (l->flight->carriers == 0 && !choose_batch(l, s))
        lane_flight_over(l, s);
    else
        session_carry(s, l->flight);
}

unsigned lane_count_sessions_to(const struct lane *l, const struct address *a)
{
    unsigned count = 0;
    for (const struct link *i = l->sessions.next; i != &l->sessions; i = i->next)
        count += address_same_ip(&CONTAINER_OF(i, struct session, lane_link)->target.address, a);
    return count;
}

/* A session for a flight whose outcome at one exchange is unknown: that exchange is asked first
 * (RFC 1047), as long as it is not backing off and leaves not as many others without an answer. */
static bool ask_first(struct lane *l, const struct session *ready)
{
    const struct address *first = l->flight->try_first;
    if (first == NULL || address_same_ip(first, &ready->target.address) ||
        lane_count_sessions_to(l, first) >= LANE_SESSIONS_PER_ADDRESS_MAX)
        return false;
    for (unsigned i = 0; i < l->target_count; i++) {
        if (!address_same_ip(&l->targets[i].address, first))
            continue;
        if (l->targets[i].rank == TARGET_BACKING_OFF ||
            !outbound_has_room(l->worker->outbound, lane_priority(l)))
            return false;
        return lane_try(l, &l->targets[i], 0) != NULL;
    }
    return false;
}

static bool is_worn_out(const struct lane *l, const struct session *s)
{
    const struct config *c = l->worker->config;
    uint32_t mail_max = smtp_client_mail_max(s->smtp); /* RFC 9422 */
    return s->messages >= c->delivery.messages_per_connection ||
           (mail_max > 0 && s->messages >= mail_max) ||
           l->worker->now_ms - s->opened_ms >= c->delivery.connection_lifetime_ms;
}

/* What was suspended while it was neither with the schedule nor in a queue waits for its
 * next attempt. */
static void defer_suspended(struct worker *w, struct link *list)
{
    struct link suspended;
    if (suspensions_count(w->parts->suspensions) == 0)
        return;
    list_init(&suspended);
    for (struct link *l = list->next, *next; l != list; l = next) {
        const struct delivery *d = CONTAINER_OF(l, struct delivery, shared.queue_link);
        next = l->next;
        if (!suspensions_hold(w->parts->suspensions, d->domain->name))
            continue;
        list_remove(l);
        list_push_back(&suspended, l);
    }
    struct reply reply = reply_local(LOCAL_SUSPENDED);
    outcome_of_list(w, &suspended, &reply, true);
}

/* The next message of the queue, bound; NULL: there is none. */
static struct flight *take_from_queue(struct lane *l)
{
    struct link list;
    list_init(&list);
    while (destination_take(l->destination, l->worker->config->delivery.recipients_per_transaction,
                            &list) > 0) {
        bool damaged = false;
        defer_suspended(l->worker, &list);
        if (list_empty(&list))
            continue;
        struct flight *f = flight_create(&list, l->worker->reader, l->worker->now_ms, &damaged);
        if (f != NULL)
            return f;
        struct reply reply = reply_local(damaged ? LOCAL_SPOOL_DAMAGED : LOCAL_NO_RESOURCES);
        outcome_of_list(l->worker, &list, &reply, true);
    }
    return NULL;
}

bool lane_adopt(struct lane *l)
{
    if (l->flight == NULL && !list_empty(&l->returned))
        l->flight = CONTAINER_OF(list_pop_front(&l->returned), struct flight, link);
    return l->flight != NULL;
}

void lane_take_next(struct lane *l, struct session *s)
{
    ASSERT(l->flight == NULL && s->ready);
    if (l->worker->outbound->draining) {
        lane_finish(l);
        return;
    }
    if (s->messages > 0 && is_worn_out(l, s)) {
        lane_let_go(l, s);
        lane_restart(l);
        return;
    }
    if (l->any_unwell)
        recovery_look_later(l);
    if (lane_adopt(l)) { /* not done with, and perhaps not by this session */
        lane_go_on(l);
        return;
    }
    l->order_is_old |= s->messages > 0;
    l->flight = take_from_queue(l);
    if (l->flight == NULL)
        lane_idle(l, s);
    else if (!ask_first(l, s))
        lane_carry(l, s);
}

/* ---- one behind the other ---- */

/* Nobody else is on his way to anything here: no race is on. */
static bool is_alone(const struct lane *l, const struct session *s)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *other = CONTAINER_OF(i, struct session, lane_link);
        if (other != s && !other->retiring)
            return false;
    }
    return true;
}

/* The current flight, which nobody carries any more, goes back to where it was taken. */
static void give_back(struct lane *l)
{
    struct flight *f = l->flight;
    l->flight = NULL;
    flight_forget_batch(f);
    if (!flight_is_untouched(f)) {
        list_push_front(&l->returned, &f->link);
        return;
    }
    struct link list;
    list_init(&list);
    flight_undo(&f, &list);
    destination_put_back(l->destination, &list);
}

/* Can this session carry the current flight now? */
static bool is_for(struct lane *l, const struct session *s)
{
    const struct address *first = l->flight->try_first;
    bool wanted_here = first == NULL || address_same_ip(first, &s->target.address);
    return wanted_here && !lane_has_asked(l, &s->target.address) && choose_batch(l, s);
}

bool lane_bind_behind(struct lane *l, struct session *s)
{
    struct flight *before = s->flight;
    if (l->is_aside || l->worker->outbound->draining || !is_alone(l, s) || is_worn_out(l, s) ||
        l->flight != before || (s->binding_ahead && !list_empty(&l->returned)))
        return false;
    l->flight = NULL;
    if (!lane_adopt(l))
        l->flight = take_from_queue(l);
    if (l->flight == NULL) {
        l->flight = before;
        return false;
    }
    l->order_is_old = true;
    bool here = is_for(l, s);
    if (!here && s->binding_ahead) {
        give_back(l);
        l->flight = before;
        return false;
    }
    if (before != NULL)
        session_hand_over(s);
    if (here)
        session_carry(s, l->flight);
    else if (lane_has_asked(l, &s->target.address))
        lane_go_on(l);
    else if (!ask_first(l, s))
        lane_carry(l, s);
    return s->stage != SESSION_CLOSED && s->flight != NULL;
}

void lane_unbind(struct lane *l, struct session *s)
{
    give_back(l);
    l->flight = s->sending->flight;
}

/* ---- what a transaction came to ---- */

static bool all_refused_for_good(const struct carriage *c)
{
    for (uint32_t i = 0; i < c->transaction.recipient_count; i++)
        if (c->replies[i].class != 5)
            return false;
    return true;
}

/* 530 in clear text asks for TLS that did not work out a moment ago (RFC 3207 4): it speaks of the
 * connection, not of the recipient, so nothing is bounced for it. */
static void soften_demand_for_tls(const struct session *s, struct carriage *c)
{
    for (uint32_t i = 0; i < c->transaction.recipient_count && s->conn.ssl == NULL; i++)
        if (c->replies[i].code == 530)
            c->replies[i].class = 4;
}

/* Unknown, out of order, or its syntax wrong, and not for an address in it (RFC 3463 x.1.x)? */
static bool is_misread(const struct reply *r)
{
    return r->code == 500 || r->code == 502 || r->code == 503 ||
           (r->code == 501 && r->subject == 5);
}

/* A command that went behind another message's end and is not understood: the host has lost a part
 * of what was sent ahead. That speaks of the host, not of the recipient. */
static void soften_misreading(const struct lane *l, const struct session *s, struct carriage *c)
{
    if (!c->was_behind || !is_misread(&c->replies[0]))
        return;
    health_show(l->worker->parts->health, &s->target.address, HEALTH_MISMATCH);
    for (uint32_t i = 0; i < c->transaction.recipient_count; i++)
        if (is_misread(&c->replies[i]))
            c->replies[i].class = 4;
}

static void want_elsewhere(struct lane *l, struct flight *f, const struct session *s)
{
    flight_note_asked(f, &s->target.address);
    health_show(l->worker->parts->health, &s->target.address, HEALTH_RESTART);
}

static bool has_another_address(const struct lane *l, const struct address *than)
{
    for (unsigned i = 0; i < l->target_count; i++)
        if (!address_same_ip(&l->targets[i].address, than))
            return true;
    return false;
}

/* A lane that stepped aside has work again: one more than was granted, for what is its own. */
static void come_back(struct lane *l)
{
    if (l->counted_aside)
        destination_aside_over(l->destination);
    destination_lane_begin(l->destination);
    l->is_aside = l->counted_aside = false;
}

void lane_take_up_returned(struct lane *l)
{
    if (list_empty(&l->returned))
        return;
    if (l->is_aside)
        come_back(l);
    if (l->flight != NULL || (l->idling && !lane_leave_idle(l)))
        return; /* behind that, or behind the call that is on its way */
    lane_restart(l);
}

/* A handed over flight is answered: told, or, where it is not done with, the lane's once more. */
static void on_answered(struct lane *l, struct session *s, struct flight *f,
                        const struct carriage *c)
{
    flight_apply(f, c->replies, lane_is_awaited(l));
    bool elsewhere = !flight_has_untried(f) && has_another_address(l, &s->target.address) &&
                     flight_try_elsewhere(f);
    if (elsewhere) {
        want_elsewhere(l, f, s);
        lane_log_failure(l, s, &s->target, "transaction", &c->replies[0], "one other exchange");
    }
    if (flight_has_untried(f)) {
        list_push_back(&l->returned, &f->link);
        if (elsewhere || s->retiring || l->is_aside)
            lane_take_up_returned(l); /* else it goes over this one, as soon as there is room */
        return;
    }
    flight_give_up(f, &c->replies[0]);
    outcome_of_flight(l->worker, &f, s, (struct stranding){0});
}

/* The current flight has its answer from `s`, which is first. */
static void on_current_answered(struct lane *l, struct session *s, const struct carriage *c)
{
    struct flight *f = l->flight;
    flight_apply(f, c->replies, lane_is_awaited(l));
    if (flight_has_untried(f))
        return; /* the rest goes over this session, as soon as it is ready */
    if (flight_try_elsewhere(f)) {
        want_elsewhere(l, f, s);
        struct session *spare = lane_find_carrier(l);
        bool to_come = spare != NULL || lane_race(l) || lane_is_awaited(l);
        bool in_line = !to_come && lane_wait_for_room(l);
        if (to_come || in_line)
            lane_log_failure(l, s, &s->target, "transaction", &c->replies[0], "one other exchange");
        if (in_line)
            lane_let_go(l, s); /* it may be what takes the room */
        if (spare != NULL)
            lane_carry(l, spare);
        if (to_come || in_line)
            return;
    }
    lane_flight_over(l, s);
}

/* The others that carry the flight, when `first` has settled it. */
static void let_carriers_go(struct lane *l, const struct session *first)
{
    for (struct link *i = l->sessions.next; i != &l->sessions;) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        i = i->next;
        if (s->flight != NULL && s != first)
            lane_let_go(l, s);
    }
}

void lane_on_done(struct lane *l, struct session *s, struct carriage *c)
{
    struct flight *f = c->flight;
    recovery_tell(l->worker, &s->target, HEALTH_EVENT_CARRIED);
    soften_demand_for_tls(s, c);
    soften_misreading(l, s, c);
    if (f != l->flight) {
        on_answered(l, s, f, c);
        return;
    }
    bool committed = f->token == s;
    if (!committed && f->carriers > 0 && (f->token != NULL || !all_refused_for_good(c))) {
        /* Refused here before the commit point, while another session still carries it. */
        flight_note_asked(f, &s->target.address);
        lane_note_failure(l, &c->replies[0], false);
        lane_go_on(l);
        return;
    }
    let_carriers_go(l, s);
    on_current_answered(l, s, c);
}

/* ---- what is lost with a session ---- */

void lane_lose_carrier(struct lane *l, struct session *s)
{
    struct flight *f = s->flight;
    if (f == NULL)
        return;
    struct carriage *c = CONTAINER_OF(s->carriages.prev, struct carriage, link);
    ASSERT(c->flight == f);
    bool committed = f->token == s;
    s->transaction_began_ms = c->began_ms;
    s->flight = NULL;
    f->carriers--;
    if (!committed)
        return;
    lane_let_others_go(l, NULL);
    if (smtp_client_said_goodbye(s->smtp)) {
        flight_forget_batch(f);
        return;
    }
    flight_apply_unknown(f, c->replies, &s->target.address);
    figure_add(&l->worker->shared.figures.outcomes_unknown, 1);
}

static void lose_one(struct lane *l, struct session *s, const struct carriage *c)
{
    struct flight *f = c->flight;
    if (smtp_client_said_goodbye(s->smtp)) { /* it was closing, and has taken nothing more */
        flight_forget_batch(f);
        list_push_back(&l->returned, &f->link);
        return;
    }
    flight_apply_unknown(f, c->replies, &s->target.address);
    figure_add(&l->worker->shared.figures.outcomes_unknown, 1);
    if (flight_has_untried(f)) {
        list_push_back(&l->returned, &f->link);
        return;
    }
    flight_give_up(f, &c->replies[0]);
    outcome_of_flight(l->worker, &f, s, (struct stranding){0});
}

void lane_lose_handed_over(struct lane *l, struct session *s)
{
    for (struct link *i = s->carriages.next; i != &s->carriages; i = i->next) {
        struct carriage *c = CONTAINER_OF(i, struct carriage, link);
        if (c->flight == NULL || c->flight == s->flight)
            continue;
        s->handed_over--;
        s->transaction_began_ms = c->began_ms;
        lose_one(l, s, c);
        c->flight = NULL;
    }
    ASSERT(s->handed_over == 0);
}

void lane_settle_returned(struct lane *l, const struct reply *reply)
{
    for (struct link *i; (i = list_pop_front(&l->returned)) != NULL;) {
        struct flight *f = CONTAINER_OF(i, struct flight, link);
        flight_give_up(f, reply);
        outcome_of_flight(l->worker, &f, NULL, (struct stranding){0});
    }
}

/* ---- late, or never ---- */

/* Is somebody else here who can carry the next message, or may soon? Who is slow himself is no
 * help: with him as company the lane would commit one message after the other to a host that
 * answers none. */
static bool is_helped(const struct lane *l, const struct session *s)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *other = CONTAINER_OF(i, struct session, lane_link);
        if (other != s && !other->retiring && (other->ready || !other->slow))
            return true;
    }
    return false;
}

/* It has nothing left to wait for but a reply that is late: others come in its place. False: as
 * many as may have stepped aside already. */
static bool step_aside(struct lane *l)
{
    if (!destination_step_aside(l->destination,
                                l->worker->config->delivery.connections_per_destination))
        return false;
    l->is_aside = l->counted_aside = true;
    list_remove(&l->turn_link);
    lane_let_others_go(l, NULL);
    lane_open_others(l);
    return true;
}

void lane_on_late(struct lane *l, struct session *s)
{
    if (l->is_aside)
        return;
    s->slow = true;
    recovery_tell(l->worker, &s->target, HEALTH_EVENT_SILENT_LATE); /* others go first meanwhile */
    lane_log_late(l, s);
    if (s->flight != NULL && s->flight->token == s) {
        let_carriers_go(l, s);
        session_hand_over(s);
        l->flight = NULL;
    } else if (s->flight != NULL && s->flight->carriers == 1) {
        session_break_off(s);
        give_back(l);
    }
    bool has_work = l->flight != NULL || !list_empty(&l->returned) || is_helped(l, s);
    if (has_work || !step_aside(l))
        lane_go_on(l);
}

void lane_on_misfire(struct lane *l, struct session *s)
{
    struct reply reply = reply_local_about(LOCAL_TIMEOUT, slice_str(s->target.exchange->name));
    ASSERT(s->flight == l->flight && s->handed_over == 0);
    health_show(l->worker->parts->health, &s->target.address, HEALTH_MISFIRE);
    lane_log_failure(l, s, &s->target, session_phase_name(s), &reply, "new connection");
    session_break_off(s);
    if (l->flight->carriers == 0)
        give_back(l);
    lane_let_go(l, s);
    if (l->flight == NULL)
        lane_restart(l);
    else
        lane_go_on(l);
}

void lane_on_broken_off(struct lane *l, struct session *s)
{
    lane_let_go(l, s);
    if (l->is_aside)
        lane_finish_aside(l);
    else if (l->flight != NULL)
        lane_go_on(l);
    else if (!l->idling)
        lane_restart(l); /* it has failed nobody: its address is as good as any for what waits */
}
