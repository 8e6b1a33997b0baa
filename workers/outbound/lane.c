#include "workers/outbound/lane.h"

#include "core/base/assert.h"
#include "workers/chronicle.h"
#include "workers/outbound/lane_priv.h"
#include "workers/outbound/outbound.h"
#include "workers/outbound/outcome.h"
#include "workers/outbound/recovery.h"

#include <stdlib.h>

static void on_idle_over(struct timer *timer, void *owner);
static void on_call(struct mail *mail, void *owner);
static void take_next(struct lane *l, struct session *s);
static void go_on(struct lane *l);

struct worker *lane_worker(const struct lane *l)
{
    return l->worker;
}

/* ---- looking over the lane's sessions ---- */

/* Has this session's exchange given its verdict on the flight, so that another one is wanted? */
static bool was_asked(const struct lane *l, const struct session *s)
{
    return l->elsewhere && address_same_ip(&s->target.address, &l->asked);
}

static bool may_carry(const struct lane *l, const struct session *s)
{
    return s->ready && !was_asked(l, s);
}

/* Of those that are ready, the one at the best exchange. */
static struct session *find_carrier(const struct lane *l)
{
    struct session *best = NULL;
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (may_carry(l, s) &&
            (best == NULL || s->target.exchange->preference < best->target.exchange->preference))
            best = s;
    }
    return best;
}

/* Is a session on its way that may still become a carrier? */
static bool is_awaited(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (!s->greeted_well && s->flight == NULL && !was_asked(l, s))
            return true;
    }
    return false;
}

/* Is one on its way whose patience still holds? */
static bool is_followed(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (!s->greeted_well && !s->slow && !was_asked(l, s))
            return true;
    }
    return false;
}

static bool all_carriers_slow(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (s->flight != NULL && !s->slow)
            return false;
    }
    return true;
}

static void lane_check(const struct lane *l)
{
    unsigned carriers = 0;
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        ASSERT(s->lane == l && s->stage != SESSION_CLOSED);
        ASSERT(s->flight == NULL || s->flight == l->flight);
        carriers += s->flight != NULL;
    }
    ASSERT(l->flight == NULL || l->flight->carriers == carriers);
    ASSERT(l->flight == NULL || !l->idling);
}

/* ---- sessions come and go ---- */

static void count_ready(struct lane *l, struct session *s, bool ready)
{
    if (s->counted_ready == ready)
        return;
    s->counted_ready = ready;
    if (ready)
        destination_session_ready(l->destination);
    else
        destination_session_gone(l->destination);
}

void lane_let_go(struct lane *l, struct session *s)
{
    count_ready(l, s, false);
    if (s->flight != NULL) { /* a race it did not win: it has not sent the last byte (token) */
        ASSERT(!session_has_committed(s));
        s->flight->carriers--;
        s->flight = NULL;
        session_drop(s);
        return;
    }
    session_quit(s);
}

/* All but `keep` (which may be NULL): the race is over. */
static void let_others_go(struct lane *l, const struct session *keep)
{
    for (struct link *i = l->sessions.next; i != &l->sessions;) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        i = i->next;
        if (s != keep)
            lane_let_go(l, s);
    }
}

/* The others that carry the flight, when one of them has settled it. */
static void let_carriers_go(struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions;) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        i = i->next;
        if (s->flight != NULL)
            lane_let_go(l, s);
    }
}

/* A peer's own words outrank our conclusions; among equals the latest holds. */
static void note_failure(struct lane *l, const struct reply *reply, bool refusing)
{
    l->all_refusing &= refusing;
    if (l->failure.code == 0 || !reply_is_local(reply) || reply_is_local(&l->failure))
        l->failure = *reply;
}

/* A fresh order by what is known now. A route always has the same number of addresses, so it fits.
 */
static void reorder(struct lane *l)
{
    struct target order[ROUTE_TARGETS_MAX];
    l->target_count = order_targets(l->route, l->worker->parts->health, &l->worker->random,
                                    l->worker->now_ms, order);
    ASSERT(l->target_count <= l->target_capacity);
    memcpy(l->targets, order, l->target_count * sizeof *order);
    l->next_target = 0;
    l->any_unwell = false;
    for (unsigned i = 0; i < l->target_count; i++)
        l->any_unwell |= order[i].state != HEALTH_HEALTHY;
}

/* A due probe that somebody else holds: this address goes to the end of the line. */
static void put_last(struct lane *l)
{
    struct target t = l->targets[l->next_target];
    t.needs_probe = false;
    t.rank = TARGET_BACKING_OFF;
    memmove(&l->targets[l->next_target], &l->targets[l->next_target + 1],
            (l->target_count - l->next_target - 1) * sizeof t);
    l->targets[l->target_count - 1] = t;
}

/* Connects to one address; a failure told at once is noted. */
static struct session *try_target(struct lane *l, const struct target *t, bool in_clear, bool probe)
{
    struct reply failure;
    bool host_fault = false;
    struct session *s = session_open(l, t, in_clear, &failure, &host_fault);
    if (s != NULL) {
        s->probe = probe;
        s->started_later = !list_empty(&l->sessions);
        list_push_back(&l->sessions, &s->lane_link);
        return s;
    }
    figure_add(&l->worker->shared.figures.sessions_failed, 1);
    lane_log_failure(l, NULL, t, "connect", &failure, "next exchange");
    note_failure(l, &failure, false);
    if (host_fault)
        recovery_tell(l->worker, t, HEALTH_EVENT_DOWN);
    else if (probe)
        health_probe_drop(l->worker->parts->health, &t->address);
    return NULL;
}

struct session *lane_try(struct lane *l, const struct target *t, bool probe)
{
    bool in_clear = t->tls_broken && l->worker->config->delivery.tls == CONFIG_TLS_OPPORTUNISTIC;
    return try_target(l, t, in_clear, probe);
}

/* Starts the next address of the order. A probe never runs alone: the one behind it starts as well.
 * False: none could be started. */
static bool start_next(struct lane *l)
{
    bool started = false;
    while (l->next_target < l->target_count && outbound_has_room(l->worker->outbound)) {
        struct target *t = &l->targets[l->next_target];
        bool probe = false;
        if (t->needs_probe) {
            probe = health_claim_probe(l->worker->parts->health, &t->address, l->worker->now_ms);
            if (!probe) {
                put_last(l);
                continue;
            }
        }
        l->next_target++;
        if (l->elsewhere && address_same_ip(&t->address, &l->asked))
            continue;
        if (lane_try(l, t, probe) == NULL)
            continue;
        started = true;
        if (!probe)
            break;
    }
    return started;
}

/* ---- beginning and ending ---- */

void lane_open(struct worker *w, struct destination *destination, const struct route *route)
{
    struct lane *l = calloc(1, sizeof *l);
    struct target *targets = calloc(ROUTE_TARGETS_MAX, sizeof *targets);
    if (l == NULL || targets == NULL) {
        free(l);
        free(targets);
        struct link list;
        list_init(&list);
        struct reply reply = reply_local(LOCAL_NO_RESOURCES);
        (void)destination_take_all(destination, &list);
        outcome_of_list(w, &list, &reply, true);
        (void)destination_lane_end(destination, true);
        destination_release(&destination);
        route_release(&route);
        return;
    }
    l->worker = w;
    l->destination = destination;
    l->route = route;
    l->targets = targets;
    l->all_refusing = true;
    l->idle.worker = w->index;
    list_init(&l->sessions);
    list_init(&l->turn_link);
    list_init(&l->idle.link);
    timer_init(&l->idle_timer, on_idle_over);
    timer_init(&l->look_timer, recovery_on_look);
    list_push_back(&w->outbound->lanes, &l->outbound_link);
    figure_add(&w->shared.figures.lanes_open, 1);
    l->target_capacity = ROUTE_TARGETS_MAX;
    reorder(l);
    struct target *fitted = reallocarray(targets, l->target_count + 1, sizeof *targets);
    l->targets = fitted != NULL ? fitted : targets;
    l->target_capacity = l->target_count;
    if (w->outbound->draining)
        lane_finish(l);
    else if (!outbound_has_room(w->outbound))
        list_push_back(&w->outbound->lanes_waiting, &l->turn_link);
    else
        go_on(l);
}

void lane_resume(struct lane *l)
{
    list_remove(&l->turn_link);
    go_on(l);
}

static void release(struct lane *l)
{
    list_remove(&l->outbound_link);
    list_remove(&l->turn_link);
    timer_disarm(&l->worker->timers, &l->idle_timer);
    timer_disarm(&l->worker->timers, &l->look_timer);
    figure_drop(&l->worker->shared.figures.lanes_open, 1);
    free(l->targets);
    free(l);
}

void lane_finish(struct lane *l)
{
    ASSERT(l->flight == NULL);
    let_others_go(l, NULL);
    struct worker *w = l->worker;
    struct destination *destination = l->destination;
    const struct route *route = l->route;
    bool again = destination_lane_end(destination, w->outbound->draining);
    release(l);
    if (again) { /* mail came in between and no other lane is left: this one's place is taken again
                  */
        lane_open(w, destination, route);
        return;
    }
    destination_release(&destination);
    route_release(&route);
}

/* Every address has failed. What waits at the destination has had its attempt, unless others get
 * through. */
static void spent(struct lane *l)
{
    lane_log_spent(l, &l->failure);
    if (destination_figures(l->destination).sessions_ready == 0) {
        struct link list;
        list_init(&list);
        struct reply reply = l->failure.code != 0 ? l->failure : reply_local(LOCAL_NO_RESOURCES);
        bool bounce = l->all_refusing && l->failure.code != 0 &&
                      l->worker->config->delivery.bounce_on_refusing;
        (void)destination_take_all(l->destination, &list);
        outcome_of_stranded(l->worker, &list, &reply, !bounce, recovery_stranding(l));
    }
    lane_finish(l);
}

/* ---- carrying ---- */

/* The flight is over: tells its outcome, lets the slow ones go, takes the next message. */
static void flight_over(struct lane *l, struct session *last)
{
    struct reply reply = l->failure.code != 0 ? l->failure : reply_local(LOCAL_TIMEOUT);
    flight_give_up(l->flight, &reply);
    bool stranded = last == NULL && !l->flight->unknown && reply_is_local(&reply);
    outcome_of_flight(l->worker, &l->flight, last,
                      stranded ? recovery_stranding(l) : (struct stranding){0});
    l->elsewhere = false;
    l->failure = (struct reply){0};
    struct session *keep =
        find_carrier(l); /* ready now: e.g. the preferred one, passed over by a 4xx */
    if (keep == NULL && last != NULL && last->stage != SESSION_CLOSED)
        keep = last; /* ready as soon as its machine says so */
    let_others_go(l, keep);
    if (keep == NULL)
        lane_restart(l);
    else if (keep->ready)
        take_next(l, keep);
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

/* Carries the current flight over `s`: its next batch, or, in a race, the batch that another
 * session carries. */
static void carry(struct lane *l, struct session *s)
{
    struct flight *f = l->flight;
    if (f->carriers == 0) {
        refuse_uncarriable(f, s);
        uint32_t max = l->worker->config->delivery.recipients_per_transaction;
        uint32_t rcpt_max = smtp_client_rcpt_max(s->smtp); /* RFC 9422 */
        if (flight_next_batch(f, rcpt_max > 0 && rcpt_max < max ? rcpt_max : max) == 0) {
            flight_over(l, s);
            return;
        }
    }
    session_carry(s, f);
}

/* A session for a flight whose outcome at one exchange is unknown: that exchange is asked first
 * (RFC 1047). */
static bool ask_first(struct lane *l, const struct session *ready)
{
    const struct address *first = l->flight->try_first;
    if (first == NULL || address_same_ip(first, &ready->target.address))
        return false;
    for (unsigned i = 0; i < l->target_count; i++) {
        if (!address_same_ip(&l->targets[i].address, first))
            continue;
        if (l->targets[i].rank == TARGET_BACKING_OFF || !outbound_has_room(l->worker->outbound))
            return false;
        return lane_try(l, &l->targets[i], false) != NULL;
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

static void idle(struct lane *l, struct session *s)
{
    let_others_go(l, s);
    if (!destination_idle_enter(l->destination, &l->idle)) {
        take_next(l, s); /* mail came in between */
        return;
    }
    l->idling = true;
    list_remove(&l->turn_link); /* it may have waited for room since its session was under way */
    list_push_back(&l->worker->outbound->idle_lanes, &l->turn_link);
    timer_arm(&l->worker->timers, &l->idle_timer,
              l->worker->now_ms + l->worker->config->delivery.idle_ms);
}

/* Late binding: only now, with a session ready for MAIL, does a message leave the queue. */
static void take_next(struct lane *l, struct session *s)
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
    struct link list;
    list_init(&list);
    while (destination_take(l->destination, l->worker->config->delivery.recipients_per_transaction,
                            &list) > 0) {
        bool damaged = false;
        l->flight = flight_create(&list, l->worker->reader, l->worker->now_ms, &damaged);
        if (l->flight != NULL) {
            if (!ask_first(l, s))
                carry(l, s);
            return;
        }
        struct reply reply = reply_local(damaged ? LOCAL_SPOOL_DAMAGED : LOCAL_NO_RESOURCES);
        outcome_of_list(l->worker, &list, &reply, true);
    }
    idle(l, s);
}

/* Is one on its way whose patience holds, or can one be started? */
static bool race(struct lane *l)
{
    return is_followed(l) || start_next(l);
}

/* Is there another address, but no room for a connection to it? Then the lane waits in line: a
 * connection that has said QUIT makes room as soon as it is closed. */
static bool wait_for_room(struct lane *l)
{
    struct outbound *o = l->worker->outbound;
    if (l->next_target == l->target_count || o->sessions < l->worker->parts->sessions_max)
        return false;
    if (list_empty(&l->turn_link))
        list_push_back(&o->lanes_waiting, &l->turn_link);
    return true;
}

/* Something ended: is there still a way for the flight, or for the queue? Those whose patience is
 * over are waited for, but not they alone while there is another address. */
static void go_on(struct lane *l)
{
    lane_check(l);
    struct session *ready = find_carrier(l);
    if (l->flight == NULL) {
        if (l->idling)
            return;
        if (ready != NULL)
            take_next(l, ready);
        else if (!race(l) && list_empty(&l->sessions) && !wait_for_room(l))
            spent(l);
        return;
    }
    if (l->flight->token != NULL || !all_carriers_slow(l))
        return;
    if (ready != NULL)
        carry(l, ready);
    else if (!race(l) && l->flight->carriers == 0 && !is_awaited(l) && !wait_for_room(l))
        flight_over(l, NULL);
}

void lane_restart(struct lane *l)
{
    if (l->worker->outbound->draining || destination_figures(l->destination).queued == 0) {
        lane_finish(l);
        return;
    }
    reorder(l);
    l->all_refusing = true;
    go_on(l);
}

/* ---- what sessions tell ---- */

/* A word that the destination can be reached: where mail waits for more lanes than there are, those
 * that are trusted now are opened, so lanes double with each round of sessions that get through. */
static void open_others(const struct lane *l)
{
    struct worker *w = l->worker;
    while (!w->outbound->draining &&
           destination_lane_add(l->destination, w->config->delivery.connections_per_destination)) {
        destination_reference(l->destination);
        lane_open(w, l->destination, route_reference(l->route));
    }
}

void lane_on_ready(struct lane *l, struct session *s)
{
    count_ready(l, s, true);
    if (s->messages == 0)
        open_others(l);
    if (s->started_later && s->messages == 0) {
        figure_add(&l->worker->shared.figures.races_won_by_later, 1);
        chronicle_race(l->worker->parts->chronicle, &s->target.address, true);
    }
    if (l->flight == NULL) {
        if (!l->idling)
            take_next(l, s);
        return;
    }
    if (!may_carry(l, s))
        return;
    if (l->flight->carriers == 0 || (l->flight->token == NULL && all_carriers_slow(l)))
        carry(l, s);
}

void lane_on_patience(struct lane *l, struct session *s)
{
    lane_check(l);
    if (s->stage == SESSION_TLS && l->worker->config->delivery.tls == CONFIG_TLS_OPPORTUNISTIC) {
        struct reply reply = reply_local_about(LOCAL_TLS_FAILED, SLICE_LIT("no answer in time"));
        session_fail(s, END_TLS_FAILED, &reply);
        return;
    }
    recovery_tell(l->worker, &s->target, recovery_silence_of(s));
    recovery_look_later(l);
    if (l->flight != NULL ? l->flight->token != NULL || !all_carriers_slow(l) : s->ready)
        return; /* somebody is on his way to the commit point, or behind it */
    struct session *spare = l->flight != NULL ? find_carrier(l) : NULL;
    bool raced = spare != NULL || race(l);
    lane_log_patience(l, s, raced);
    if (raced)
        figure_add(&l->worker->shared.figures.races_started, 1);
    if (spare != NULL)
        carry(l, spare); /* last: where it can take none of the recipients, the lane may end */
}

static bool all_refused_for_good(const struct session *s)
{
    for (uint32_t i = 0; i < s->transaction.recipient_count; i++)
        if (s->transaction.replies[i].class != 5)
            return false;
    return true;
}

/* 530 in clear text asks for TLS that did not work out a moment ago (RFC 3207 4): it speaks of the
 * connection, not of the recipient, so nothing is bounced for it. */
static void soften_demand_for_tls(struct session *s)
{
    for (uint32_t i = 0; i < s->transaction.recipient_count && s->conn.ssl == NULL; i++)
        if (s->transaction.replies[i].code == 530)
            s->transaction.replies[i].class = 4;
}

void lane_on_done(struct lane *l, struct session *s)
{
    struct flight *f = l->flight;
    ASSERT(s->flight == f && f != NULL);
    bool committed = f->token == s;
    s->flight = NULL;
    f->carriers--;
    recovery_tell(l->worker, &s->target, HEALTH_EVENT_CARRIED);
    soften_demand_for_tls(s);
    if (!committed && f->carriers > 0 && (f->token != NULL || !all_refused_for_good(s))) {
        /* Refused here before the commit point, while another session still carries it. */
        l->elsewhere = true;
        l->asked = s->target.address;
        note_failure(l, &s->transaction.replies[0], false);
        go_on(l);
        return;
    }
    let_carriers_go(l);
    flight_apply(f, s->transaction.replies, is_awaited(l));
    if (flight_has_untried(f))
        return; /* the rest goes over this session, as soon as it is ready */
    if (flight_try_elsewhere(f)) {
        l->elsewhere = true;
        l->asked = s->target.address;
        bool to_come = is_awaited(l) || start_next(l);
        bool in_line = !to_come && wait_for_room(l);
        if (to_come || in_line)
            lane_log_failure(l, s, &s->target, "transaction", &s->transaction.replies[0],
                             "one other exchange");
        if (in_line)
            lane_let_go(l, s); /* it may be what takes the room */
        if (to_come || in_line)
            return;
    }
    flight_over(l, s);
}

/* A kept connection that the exchange has closed meanwhile says nothing about its health. */
static bool was_stale(const struct session *s, enum session_end end)
{
    bool no_answer = s->flight == NULL || smtp_client_last_phase(s->smtp) == SMTP_MAIL;
    return s->messages > (s->flight != NULL ? 1u : 0u) && no_answer &&
           (end == END_DOWN || end == END_BUSY);
}

/* The session's part in the flight ends with it. */
static void lose_carrier(struct lane *l, struct session *s)
{
    struct flight *f = s->flight;
    if (f == NULL)
        return;
    bool committed = f->token == s;
    s->flight = NULL;
    f->carriers--;
    if (!committed)
        return;
    let_others_go(l, NULL);
    flight_apply_unknown(f, s->transaction.replies, &s->target.address);
    figure_add(&l->worker->shared.figures.outcomes_unknown, 1);
}

void lane_on_end(struct lane *l, struct session *s, enum session_end end, const struct reply *reply)
{
    bool stale = was_stale(s, end);
    bool in_clear_next = end == END_TLS_FAILED && !s->in_clear &&
                         l->worker->config->delivery.tls == CONFIG_TLS_OPPORTUNISTIC;
    figure_add(&l->worker->shared.figures.sessions_failed, 1);
    lane_log_failure(l, s, &s->target, s->ended_in, reply,
                     stale           ? "new connection"
                     : in_clear_next ? "same exchange in clear"
                                     : "next exchange");
    if (!stale && end != END_LOCAL && end != END_TLS_POLICY)
        recovery_tell(l->worker, &s->target, recovery_event_of(s, end));
    note_failure(l, reply, end == END_REFUSING);
    count_ready(l, s, false);
    lose_carrier(l, s);
    if (l->idling) {
        if (lane_leave_idle(l))
            lane_finish(l);
        return; /* called already: the mail on its way restarts the lane */
    }
    if (in_clear_next && try_target(l, &s->target, true, s->probe) != NULL)
        return;
    if (stale && list_empty(&l->sessions))
        l->next_target = 0;
    if (l->flight != NULL && l->flight->carriers == 0 && !flight_has_untried(l->flight))
        flight_over(l, l->flight->unknown ? s : NULL);
    else
        go_on(l);
}

/* ---- idling ---- */

/* Off the idle list and the timer. False: somebody has called it already. */
bool lane_leave_idle(struct lane *l)
{
    ASSERT(l->idling);
    timer_disarm(&l->worker->timers, &l->idle_timer);
    list_remove(&l->turn_link);
    if (!destination_idle_leave(l->destination, &l->idle))
        return false;
    l->idling = false;
    return true;
}

static void on_idle_over(struct timer *timer, void *owner)
{
    struct lane *l = CONTAINER_OF(timer, struct lane, idle_timer);
    ASSERT(owner == l->worker);
    if (lane_leave_idle(l))
        lane_finish(l);
}

struct mail *lane_call_mail(struct idle_lane *idle)
{
    struct lane *l = CONTAINER_OF(idle, struct lane, idle);
    l->call.on_arrival = on_call;
    return &l->call;
}

void lane_called(struct idle_lane *idle)
{
    struct lane *l = CONTAINER_OF(idle, struct lane, idle);
    ASSERT(worker_is_current(l->worker) && l->idling);
    l->idling = false;
    timer_disarm(&l->worker->timers, &l->idle_timer);
    list_remove(&l->turn_link);
    if (l->abandoned) {
        release(l);
        return;
    }
    struct session *s = find_carrier(l);
    if (s != NULL)
        take_next(l, s);
    else if (list_empty(&l->sessions))
        lane_restart(l);
}

static void on_call(struct mail *mail, void *owner)
{
    (void)owner;
    lane_called(&CONTAINER_OF(mail, struct lane, call)->idle);
}

/* ---- stopping ---- */

void lane_drain(struct lane *l)
{
    if (l->flight != NULL)
        return; /* take_next ends the lane behind it */
    if (!l->idling || lane_leave_idle(l))
        lane_finish(l);
}

void lane_abandon(struct lane *l)
{
    bool called = l->idling && !lane_leave_idle(l);
    for (struct link *i; (i = list_pop_front(&l->sessions)) != NULL;) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        count_ready(l, s, false);
        s->flight = NULL;
        session_drop(s);
    }
    if (l->flight != NULL) {
        l->flight->carriers = 0;
        while (list_pop_front(&l->flight->deliveries) != NULL)
            continue; /* the schedule frees them; the spool still has the message */
        flight_destroy(&l->flight);
    }
    (void)destination_lane_end(l->destination, true);
    destination_release(&l->destination);
    route_release(&l->route);
    if (called)
        l->abandoned = true; /* freed when its call arrives */
    else
        release(l);
}
