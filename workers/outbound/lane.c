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

struct worker *lane_worker(const struct lane *l)
{
    return l->worker;
}

/* ---- looking over the lane's sessions ---- */

bool lane_has_asked(const struct lane *l, const struct address *a)
{
    return l->flight != NULL && flight_has_asked(l->flight, a);
}

static bool was_asked(const struct lane *l, const struct session *s)
{
    return lane_has_asked(l, &s->target.address);
}

static bool may_carry(const struct lane *l, const struct session *s)
{
    return s->ready && !was_asked(l, s);
}

struct session *lane_find_carrier(const struct lane *l)
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

/* Not ready, but on its way to it: with its greeting, or with the replies to what was
 * handed over. */
static bool is_coming(const struct lane *l, const struct session *s)
{
    bool busy = s->handed_over > 0 && s->flight == NULL && !s->broken_off && !s->retiring;
    return (!s->greeted_well || busy) && !was_asked(l, s);
}

/* The reply to what was handed over to it takes longer than its patience: nobody counts on it. */
static bool is_late(const struct session *s)
{
    return s->slow && s->handed_over > 0;
}

static bool is_any_late(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next)
        if (is_late(CONTAINER_OF(i, struct session, lane_link)))
            return true;
    return false;
}

/* Is a session on its way that may still become a carrier? */
bool lane_is_awaited(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (is_coming(l, s) && s->flight == NULL && !is_late(s))
            return true;
    }
    return false;
}

/* Is one on its way whose patience still holds? */
static bool is_followed(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (is_coming(l, s) && !s->slow)
            return true;
    }
    return false;
}

/* Is there none but those that only wait for what was handed over to them? */
static bool is_deserted(const struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next)
        if (!CONTAINER_OF(i, struct session, lane_link)->retiring)
            return false;
    return true;
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
        ASSERT(!s->retiring || s->flight == NULL);
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
        session_break_off(s);
    }
    s->retiring = s->handed_over > 0;
    if (s->retiring)
        return;
    if (s->broken_off)
        session_drop(s);
    else
        session_quit(s);
}

void lane_let_others_go(struct lane *l, const struct session *keep)
{
    for (struct link *i = l->sessions.next; i != &l->sessions;) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        i = i->next;
        if (s != keep)
            lane_let_go(l, s);
    }
}

void lane_note_failure(struct lane *l, const struct reply *reply, bool refusing)
{
    l->all_refusing &= refusing;
    if (l->failure.code == 0 || !reply_is_local(reply) || reply_is_local(&l->failure))
        l->failure = *reply;
}

/* A fresh order by what is known now. A route always has the same number of addresses,
 * so it fits. */
static void reorder(struct lane *l)
{
    struct target order[ROUTE_TARGETS_MAX];
    l->target_count = order_targets(l->route, l->worker->parts->health, &l->worker->random,
                                    l->worker->now_ms, order);
    ASSERT(l->target_count <= l->target_capacity);
    memcpy(l->targets, order, l->target_count * sizeof *order);
    l->next_target = 0;
    l->order_is_old = false;
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
static struct session *try_target(struct lane *l, const struct target *t, bool in_clear,
                                  uint64_t probe)
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
    lane_note_failure(l, &failure, false);
    if (host_fault)
        recovery_tell(l->worker, t, HEALTH_EVENT_DOWN);
    else if (probe != 0)
        health_probe_drop(l->worker->parts->health, &t->address, probe);
    return NULL;
}

struct session *lane_try(struct lane *l, const struct target *t, uint64_t probe)
{
    bool in_clear = t->tls_broken && l->worker->config->delivery.tls == CONFIG_TLS_OPPORTUNISTIC;
    return try_target(l, t, in_clear, probe);
}

/* As many of this lane are parked there as may be: an exchange that answers no content's end gets
 * no more of its mail, be it that the others are slow, fail, or ask to come later. */
static bool is_crowded(const struct lane *l, const struct address *a)
{
    return lane_count_sessions_to(l, a) >= LANE_SESSIONS_PER_ADDRESS_MAX;
}

/* One of the lane's goes there already, and may yet carry its mail. */
static bool is_tried(const struct lane *l, const struct address *a)
{
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (!s->retiring && !is_late(s) && address_same_ip(a, &s->target.address))
            return true;
    }
    return false;
}

/* A probe never runs alone: the one behind it starts as well. */
bool lane_start_next(struct lane *l)
{
    bool started = false;
    if (l->order_is_old)
        reorder(l);
    while (l->next_target < l->target_count &&
           outbound_has_room(l->worker->outbound, lane_priority(l))) {
        struct target *t = &l->targets[l->next_target];
        uint64_t probe = 0;
        if (is_tried(l, &t->address) || is_crowded(l, &t->address) ||
            lane_has_asked(l, &t->address)) {
            l->next_target++;
            continue;
        }
        if (t->needs_probe) {
            probe = health_claim_probe(l->worker->parts->health, &t->address, l->worker->now_ms);
            if (probe == 0) {
                put_last(l);
                continue;
            }
        }
        l->next_target++;
        if (lane_try(l, t, probe) == NULL)
            continue;
        started = true;
        if (probe == 0)
            break;
    }
    return started;
}

enum envelope_priority lane_priority(const struct lane *l)
{
    bool carries = l->flight != NULL && l->flight->envelope.priority == PRIORITY_TRANSACTIONAL;
    return carries || destination_figures(l->destination).transactional > 0 ? PRIORITY_TRANSACTIONAL
                                                                            : PRIORITY_BULK;
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
    list_init(&l->returned);
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
    else if (!outbound_has_room(w->outbound, lane_priority(l)))
        outbound_wait_for_room(w->outbound, l);
    else
        lane_go_on(l);
}

void lane_resume(struct lane *l)
{
    list_remove(&l->turn_link);
    lane_go_on(l);
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

static void drop_references(struct lane *l)
{
    destination_release(&l->destination);
    route_release(&l->route);
}

void lane_finish_aside(struct lane *l)
{
    ASSERT(l->is_aside && l->flight == NULL && list_empty(&l->returned));
    if (!list_empty(&l->sessions))
        return;
    if (l->counted_aside)
        destination_aside_over(l->destination);
    drop_references(l);
    release(l);
}

void lane_finish(struct lane *l)
{
    ASSERT(l->flight == NULL && !l->is_aside);
    struct reply reply = reply_local(LOCAL_SHUTDOWN);
    lane_settle_returned(l, &reply);
    lane_let_others_go(l, NULL);
    l->is_aside = true; /* at an end, or waiting for what was handed over */
    list_remove(&l->turn_link);
    if (destination_lane_end(l->destination, l->worker->outbound->draining)) {
        /* Mail came in between and no other lane is left: this one's place is taken again. */
        destination_reference(l->destination);
        lane_open(l->worker, l->destination, route_reference(l->route));
    }
    lane_finish_aside(l);
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

/* ---- going on ---- */

void lane_idle(struct lane *l, struct session *s)
{
    lane_let_others_go(l, s);
    if (!destination_idle_enter(l->destination, &l->idle)) {
        lane_take_next(l, s); /* mail came in between */
        return;
    }
    l->idling = true;
    list_remove(&l->turn_link); /* it may have waited for room since its session was under way */
    list_push_back(&l->worker->outbound->idle_lanes, &l->turn_link);
    timer_arm(&l->worker->timers, &l->idle_timer,
              l->worker->now_ms + l->worker->config->delivery.idle_ms);
}

bool lane_race(struct lane *l)
{
    return is_followed(l) || lane_start_next(l);
}

/* A connection that has said QUIT makes room as soon as it is closed. */
bool lane_wait_for_room(struct lane *l)
{
    struct outbound *o = l->worker->outbound;
    if (l->next_target == l->target_count || !outbound_is_full(o, lane_priority(l)))
        return false;
    outbound_wait_for_room(o, l);
    return true;
}

/* In line for room: a session that is ready, and not for this flight, may be what takes it. */
static void make_room(struct lane *l)
{
    for (struct link *i = l->sessions.next; i != &l->sessions;) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        i = i->next;
        if (s->ready)
            lane_let_go(l, s);
    }
}

/* Those whose patience is over are waited for, but not they alone while there is
 * another address. */
void lane_go_on(struct lane *l)
{
    lane_check(l);
    if (!l->idling)
        (void)lane_adopt(l);
    struct session *ready = lane_find_carrier(l);
    if (l->flight == NULL) {
        if (l->idling)
            return;
        if (ready != NULL)
            lane_take_next(l, ready);
        else if (!lane_race(l) && is_deserted(l) && !lane_wait_for_room(l))
            spent(l);
        return;
    }
    if (l->flight->token != NULL || !all_carriers_slow(l))
        return;
    if (ready != NULL)
        lane_carry(l, ready);
    else if (lane_race(l) || l->flight->carriers > 0 || lane_is_awaited(l) ||
             (l->flight->asked_count == 0 && is_any_late(l)))
        return;
    else if (lane_wait_for_room(l))
        make_room(l);
    else
        lane_flight_over(l, NULL);
}

void lane_restart(struct lane *l)
{
    bool has_mail =
        destination_figures(l->destination).queued > 0 && !l->worker->outbound->draining;
    if (!has_mail && list_empty(&l->returned)) {
        lane_finish(l);
        return;
    }
    reorder(l);
    l->all_refusing = true;
    lane_go_on(l);
}

/* ---- what sessions tell ---- */

/* A word that the destination can be reached: where mail waits for more lanes than there are, those
 * that are trusted now are opened, so lanes double with each round of sessions that get through. */
void lane_open_others(const struct lane *l)
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
    if (s->retiring || l->is_aside) {
        s->retiring = false;
        lane_let_go(l, s);
        if (l->is_aside)
            lane_finish_aside(l);
        return;
    }
    count_ready(l, s, true);
    if (s->messages == 0)
        lane_open_others(l);
    if (s->started_later && s->messages == 0) {
        figure_add(&l->worker->shared.figures.races_won_by_later, 1);
        chronicle_race(l->worker->parts->chronicle, &s->target.address, true);
    }
    if (l->flight == NULL) {
        if (!l->idling)
            lane_take_next(l, s);
        return;
    }
    if (!may_carry(l, s)) {
        if (!list_empty(&l->turn_link))
            make_room(l);
        return;
    }
    if (l->flight->carriers == 0 || (l->flight->token == NULL && all_carriers_slow(l)))
        lane_carry(l, s);
}

void lane_on_long(struct lane *l)
{
    struct worker *w = l->worker;
    if (l->is_aside || w->outbound->draining ||
        !destination_lane_add_beside(l->destination,
                                     w->config->delivery.connections_per_destination))
        return;
    destination_reference(l->destination);
    lane_open(w, l->destination, route_reference(l->route));
}

void lane_on_patience(struct lane *l, struct session *s)
{
    lane_check(l);
    if (s->retiring || l->is_aside)
        return;
    if (s->stage == SESSION_TLS && l->worker->config->delivery.tls == CONFIG_TLS_OPPORTUNISTIC) {
        struct reply reply = reply_local_about(LOCAL_TLS_FAILED, SLICE_LIT("no answer in time"));
        session_fail(s, END_TLS_FAILED, &reply);
        return;
    }
    recovery_tell(l->worker, &s->target, recovery_silence_of(s));
    recovery_look_later(l);
    if (l->flight != NULL ? l->flight->token != NULL || !all_carriers_slow(l) : s->ready)
        return; /* somebody is on his way to the commit point, or behind it */
    struct session *spare = l->flight != NULL ? lane_find_carrier(l) : NULL;
    bool raced = spare != NULL || lane_race(l);
    lane_log_patience(l, s, raced);
    if (raced)
        figure_add(&l->worker->shared.figures.races_started, 1);
    if (spare != NULL)
        lane_carry(l, spare); /* last: where it can take none of the recipients, the lane may end */
}

/* A kept connection that the exchange has closed meanwhile says nothing about its health. */
static bool was_stale(const struct session *s, enum session_end end)
{
    /* It has had enough messages, and there were more on their way. */
    if (session_is_committed(s) && smtp_client_said_goodbye(s->smtp))
        return s->answered > 0;
    bool no_answer = s->flight == NULL || smtp_client_last_phase(s->smtp) == SMTP_MAIL;
    return s->messages > (s->flight != NULL ? 1u : 0u) && s->handed_over == 0 && no_answer &&
           (end == END_DOWN || end == END_BUSY);
}

/* A session of a lane that was not carrying anything has ended. */
static void end_at_rest(struct lane *l)
{
    bool has_returned = !list_empty(&l->returned);
    lane_take_up_returned(l);
    if (has_returned)
        return;
    if (l->is_aside)
        lane_finish_aside(l);
    else if (lane_find_carrier(l) == NULL && lane_leave_idle(l))
        lane_finish(l); /* else called already: the mail on its way restarts the lane */
}

void lane_on_end(struct lane *l, struct session *s, enum session_end end, const struct reply *reply)
{
    if ((end == END_DOWN || end == END_SILENT) && smtp_client_said_goodbye(s->smtp))
        end = END_BUSY;
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
    lane_note_failure(l, reply, end == END_REFUSING);
    count_ready(l, s, false);
    lane_lose_handed_over(l, s);
    lane_lose_carrier(l, s);
    if (l->is_aside || l->idling) {
        end_at_rest(l);
        return;
    }
    if (in_clear_next && try_target(l, &s->target, true, s->probe) != NULL)
        return;
    if (stale && is_deserted(l))
        l->next_target = 0;
    if (l->flight != NULL && l->flight->carriers == 0 && !flight_has_untried(l->flight))
        lane_flight_over(l, l->flight->unknown ? s : NULL);
    else
        lane_go_on(l);
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
    struct session *s = lane_find_carrier(l);
    if (s != NULL)
        lane_take_next(l, s);
    else if (is_deserted(l))
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
    if (l->flight != NULL || l->is_aside)
        return; /* lane_take_next ends the lane behind it */
    if (!l->idling || lane_leave_idle(l))
        lane_finish(l);
}

/* The schedule frees its deliveries; the spool still has the message. */
static void abandon_flight(struct flight **f)
{
    if (*f == NULL)
        return;
    (*f)->carriers = 0;
    while (list_pop_front(&(*f)->deliveries) != NULL)
        continue;
    flight_destroy(f);
}

static void abandon_session(struct lane *l, struct session *s)
{
    count_ready(l, s, false);
    for (struct link *i = s->carriages.next; i != &s->carriages; i = i->next) {
        struct carriage *c = CONTAINER_OF(i, struct carriage, link);
        if (c->flight != s->flight)
            abandon_flight(&c->flight);
    }
    s->flight = NULL;
    s->handed_over = 0;
    session_drop(s);
}

void lane_abandon(struct lane *l)
{
    bool called = l->idling && !lane_leave_idle(l);
    for (struct link *i; (i = list_pop_front(&l->sessions)) != NULL;)
        abandon_session(l, CONTAINER_OF(i, struct session, lane_link));
    abandon_flight(&l->flight);
    for (struct link *i; (i = list_pop_front(&l->returned)) != NULL;) {
        struct flight *f = CONTAINER_OF(i, struct flight, link);
        abandon_flight(&f);
    }
    if (l->counted_aside)
        destination_aside_over(l->destination);
    if (!l->is_aside)
        (void)destination_lane_end(l->destination, true);
    drop_references(l);
    if (called)
        l->abandoned = true; /* freed when its call arrives */
    else
        release(l);
}
