#include "workers/outbound/recovery.h"

#include "core/base/assert.h"
#include "workers/chronicle.h"
#include "workers/outbound/lane_priv.h"
#include "workers/outbound/outbound.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    LOOK_SOON_MS = 2000,        /* somebody is finding out, or has just found out */
    LOOK_LATEST_MS = 10000,     /* another destination's lane may have found out meanwhile */
    LOOK_AT_SUSPECT_MS = 30000, /* a slow but honest greeting comes sooner than that */
    LOOK_JITTER_MS = 1000,      /* the lanes of a destination do not look together */
    LOOK_NEVER = -1,
};

/* ---- telling ---- */

static void log_recovery(struct worker *w, const struct target *t, enum health_state before)
{
    struct log_line line;
    char address[ADDRESS_TEXT_SIZE];
    address_format(&t->address, address);
    log_begin(&line, w->parts->log, "recovered");
    log_cstr(&line, "exchange", t->exchange->name);
    log_cstr(&line, "address", address);
    log_cstr(&line, "was", health_state_name(before));
    log_end(&line);
}

static void on_released(struct mail *mail, void *owner)
{
    (void)owner;
    free(CONTAINER_OF(mail, struct commit_op, mail));
}

/* Where there is no memory to say so, what waits goes in its turn. */
static void release(struct worker *w, uint64_t mark)
{
    struct commit_op *op = calloc(1, sizeof *op);
    if (op == NULL)
        return;
    *op = (struct commit_op){
        .kind = COMMIT_RELEASE, .reply_to = &w->shared.mailbox, .on_done = on_released};
    op->u.release_mark = mark;
    committer_submit(w->parts->committer, &op);
}

static void note_change(struct worker *w, const struct target *t, struct health_change change)
{
    struct chronicle_change c = {
        .wall_ms = w->wall_ms, .address = t->address, .before = change.before, .now = change.now};
    (void)snprintf(c.name, sizeof c.name, "%s", t->exchange->name);
    chronicle_change(w->parts->chronicle, &c);
}

void recovery_tell(struct worker *w, const struct target *t, enum health_event event)
{
    struct health *health = w->parts->health;
    struct health_change change =
        health_tell(health, &t->address, event, w->now_ms, w->wall_ms, random_u64(&w->random));
    if (change.before != change.now)
        note_change(w, t, change);
    if (!health_has_recovered(change))
        return;
    log_recovery(w, t, change.before);
    figure_add(&w->shared.figures.exchanges_recovered, 1);
    release(w, health_mark(health, &t->address));
}

/* Where it fell silent: behind EHLO it takes more than a greeting to prove it well. */
enum health_event recovery_silence_of(const struct session *s)
{
    return s->greeted_well ? HEALTH_EVENT_SILENT_LATE : HEALTH_EVENT_SILENT;
}

enum health_event recovery_event_of(const struct session *s, enum session_end end)
{
    switch (end) {
    case END_SILENT:
        return recovery_silence_of(s);
    case END_BROKEN:
        return s->greeted_well ? HEALTH_EVENT_BROKEN_LATE : HEALTH_EVENT_BROKEN;
    case END_BUSY:
        return HEALTH_EVENT_BUSY;
    case END_REFUSING:
        return HEALTH_EVENT_REFUSING;
    case END_TLS_FAILED:
        return HEALTH_EVENT_TLS_BROKEN;
    case END_DOWN:
    case END_TLS_POLICY:
    case END_LOCAL:
        break;
    }
    return s->greeted_well ? HEALTH_EVENT_DOWN_LATE : HEALTH_EVENT_DOWN;
}

/* ---- looking again ---- */

/* The lane's last session to this address, or NULL. */
static const struct session *newest_to(const struct lane *l, const struct address *a)
{
    for (const struct link *i = l->sessions.prev; i != &l->sessions; i = i->prev) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (address_same_ip(&s->target.address, a))
            return s;
    }
    return NULL;
}

/* The preference of the best exchange that serves the lane now: only better ones are looked at. */
static unsigned served_preference(const struct lane *l)
{
    unsigned best = UINT32_MAX;
    for (const struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        const struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (!s->slow && s->target.exchange->preference < best)
            best = s->target.exchange->preference;
    }
    return best;
}

/* When this address is worth another connection; up to `now` for at once. */
static uint64_t worth_at(const struct lane *l, const struct target *t)
{
    const struct session *s = newest_to(l, &t->address);
    switch (t->state) {
    case HEALTH_HEALTHY: /* others get through */
        return s != NULL ? s->opened_ms + LOOK_SOON_MS : 0;
    case HEALTH_SUSPECT:
        return s != NULL ? s->opened_ms + LOOK_AT_SUSPECT_MS : 0;
    case HEALTH_DEMOTED:
    case HEALTH_DOWN:
    case HEALTH_BUSY:
    case HEALTH_REFUSING:
        break;
    }
    bool probed_by_another = t->rank == TARGET_BACKING_OFF && t->again_mono_ms <= l->worker->now_ms;
    return probed_by_another ? UINT64_MAX : t->again_mono_ms;
}

/* Room beside what is parked there already: the oldest is the least likely to be answered. False:
 * all of them carry the flight. */
static bool make_place(struct lane *l, const struct address *a)
{
    struct session *oldest = NULL;
    unsigned parked = 0;
    for (struct link *i = l->sessions.next; i != &l->sessions; i = i->next) {
        struct session *s = CONTAINER_OF(i, struct session, lane_link);
        if (!address_same_ip(&s->target.address, a))
            continue;
        parked++;
        if (oldest == NULL && s->in_flight == 0)
            oldest = s;
    }
    if (parked < LANE_SESSIONS_PER_ADDRESS_MAX)
        return true;
    if (oldest != NULL)
        lane_let_go(l, oldest);
    return oldest != NULL;
}

static bool may_help(const struct lane *l, const struct target *t, unsigned served)
{
    return t->exchange->preference < served && !lane_has_asked(l, &t->address);
}

/* Connects to the first address that is worth it, beside what is parked; a probe never runs alone
 * where another may help. */
static void look(struct lane *l)
{
    struct worker *w = l->worker;
    struct target order[ROUTE_TARGETS_MAX];
    unsigned served = served_preference(l);
    unsigned count = order_targets(l->route, w->parts->health, &w->random, w->now_ms, order);
    for (unsigned i = 0; i < count && outbound_has_room(w->outbound, PRIORITY_BULK); i++) {
        const struct target *t = &order[i];
        if (!may_help(l, t, served) || worth_at(l, t) > w->now_ms || !make_place(l, &t->address))
            continue;
        uint64_t probe = 0;
        if (t->needs_probe &&
            (probe = health_claim_probe(w->parts->health, &t->address, w->now_ms)) == 0)
            continue;
        if (lane_try(l, t, probe) != NULL && probe == 0)
            break;
    }
}

/* Milliseconds until the lane should look; LOOK_NEVER where all that could help is in use. */
static int64_t next_look(const struct lane *l)
{
    struct worker *w = l->worker;
    struct target order[ROUTE_TARGETS_MAX];
    uint64_t soonest = w->now_ms + LOOK_LATEST_MS, soon = w->now_ms + LOOK_SOON_MS;
    unsigned served = served_preference(l);
    unsigned count = order_targets(l->route, w->parts->health, &w->random, w->now_ms, order);
    bool any = false;
    for (unsigned i = 0; i < count; i++) {
        if (!may_help(l, &order[i], served))
            continue;
        uint64_t at = worth_at(l, &order[i]);
        at = at < soon || at == UINT64_MAX ? soon : at;
        soonest = at < soonest ? at : soonest;
        any = true;
    }
    return any ? (int64_t)(soonest - w->now_ms) : LOOK_NEVER;
}

void recovery_look_later(struct lane *l)
{
    struct worker *w = l->worker;
    if (timer_armed(&l->look_timer))
        return;
    int64_t wait = next_look(l);
    l->any_unwell = wait != LOOK_NEVER;
    if (l->any_unwell)
        timer_arm(&w->timers, &l->look_timer,
                  w->now_ms + (uint64_t)wait + random_below(&w->random, LOOK_JITTER_MS));
}

void recovery_on_look(struct timer *timer, void *owner)
{
    struct lane *l = CONTAINER_OF(timer, struct lane, look_timer);
    ASSERT(owner == l->worker);
    if (l->idling || l->is_aside || l->worker->outbound->draining)
        return;
    look(l);
    recovery_look_later(l);
}

/* ---- what is left behind ---- */

struct stranding recovery_stranding(const struct lane *l)
{
    struct worker *w = l->worker;
    struct stranding stranding = {0};
    for (unsigned i = 0; i < l->target_count; i++) {
        const struct address *a = &l->targets[i].address;
        struct health_view v = health_view(w->parts->health, a);
        bool may_come_back =
            v.state == HEALTH_SUSPECT || v.state == HEALTH_DEMOTED || v.state == HEALTH_DOWN;
        if (may_come_back)
            stranding.at |= health_mark(w->parts->health, a);
        uint64_t wait = v.again_mono_ms > w->now_ms ? v.again_mono_ms - w->now_ms : 0;
        if (v.state == HEALTH_DEMOTED && wait > 0 &&
            (stranding.probe_in_ms == 0 || wait < stranding.probe_in_ms))
            stranding.probe_in_ms = wait;
    }
    return stranding;
}

bool recovery_is_needed(struct worker *w, const struct route *route)
{
    struct target order[ROUTE_TARGETS_MAX];
    unsigned count = order_targets(route, w->parts->health, &w->random, w->now_ms, order);
    for (unsigned i = 0; i < count; i++)
        if (order[i].rank == TARGET_USABLE && !order[i].needs_probe)
            return false;
    return true;
}
