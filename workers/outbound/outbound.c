#include "workers/outbound/outbound.h"

#include "core/base/assert.h"
#include "workers/outbound/lane_priv.h"
#include "workers/outbound/outcome.h"
#include "workers/outbound/recovery.h"

#include <stdlib.h>

enum { ROUTE_WAIT_BUCKETS = 1024, KEPT_OF_ROOM = 16 };

/* Deliveries of this worker that wait for one domain's route, and the question on its way. */
struct route_wait {
    struct link link; /* on outbound->route_waits */
    struct link bucket_link;
    struct link deliveries; /* struct delivery, by shared.queue_link */
    struct resolver_query query;
};

struct outbound *outbound_create(struct worker *w)
{
    struct outbound *o = calloc(1, sizeof *o);
    if (o == NULL)
        return NULL;
    o->route_wait_buckets = calloc(ROUTE_WAIT_BUCKETS, sizeof *o->route_wait_buckets);
    if (o->route_wait_buckets == NULL) {
        free(o);
        return NULL;
    }
    for (int i = 0; i < ROUTE_WAIT_BUCKETS; i++)
        list_init(&o->route_wait_buckets[i]);
    o->worker = w;
    list_init(&o->lanes);
    list_init(&o->idle_lanes);
    for (int p = 0; p < PRIORITIES; p++)
        list_init(&o->lanes_waiting[p]);
    list_init(&o->route_waits);
    list_init(&o->again);
    list_init(&o->leaving);
    list_init(&o->graveyard);
    return o;
}

void outbound_destroy(struct outbound **o)
{
    if (*o == NULL)
        return;
    ASSERT((*o)->sessions == 0 && list_empty(&(*o)->lanes) && list_empty(&(*o)->route_waits));
    free((*o)->route_wait_buckets);
    free(*o);
    *o = NULL;
}

/* ---- from a delivery to its destination ---- */

static void call_idle(struct worker *w, struct idle_lane *idle)
{
    if (idle->worker == w->index) {
        lane_called(idle);
        return;
    }
    struct mail *mail = lane_call_mail(idle);
    mailbox_post(&w->parts->workers[idle->worker].shared.mailbox, &mail);
}

static void end_one(struct worker *w, struct delivery *d, const struct reply *reply)
{
    struct link single;
    list_init(&single);
    list_push_back(&single, &d->shared.queue_link);
    outcome_of_list(w, &single, reply, false);
}

/* Queues the delivery where its route leads. */
static void queue_by_route(struct outbound *o, struct delivery *d, const struct route *route)
{
    struct worker *w = o->worker;
    if (suspensions_hold(w->parts->suspensions, d->domain->name)) { /* since it became due */
        struct reply reply = reply_local(LOCAL_SUSPENDED);
        end_one(w, d, &reply);
        return;
    }
    if (route->kind == ROUTE_FAILED) {
        end_one(w, d, &route->failure);
        return;
    }
    struct destination *destination =
        destination_acquire(w->parts->destinations, slice_str(route->destination_key));
    if (destination == NULL) {
        struct reply reply = reply_local(LOCAL_NO_RESOURCES);
        end_one(w, d, &reply);
        return;
    }
    struct idle_lane *idle = NULL;
    switch (destination_enqueue(destination, d, w->index,
                                w->config->delivery.connections_per_destination, &idle)) {
    case DESTINATION_ENOUGH:
        break;
    case DESTINATION_OPEN_LANE:
        if (recovery_is_needed(w, route) && destination_lane_decline(destination))
            break; /* another lane is finding out whether anybody is there */
        destination_reference(destination);
        lane_open(w, destination, route_reference(route));
        break;
    case DESTINATION_CALL_IDLE:
        call_idle(w, idle);
        break;
    }
    destination_release(&destination);
}

static struct link *bucket_of(struct outbound *o, struct slice domain)
{
    uint32_t hash =
        2166136261u; /* FNV-1a; at most as many entries as flights the resolver allows */
    for (size_t i = 0; i < domain.len; i++)
        hash = (hash ^ (uint8_t)domain.ptr[i]) * 16777619u;
    return &o->route_wait_buckets[hash % ROUTE_WAIT_BUCKETS];
}

static struct route_wait *find_wait(struct outbound *o, struct slice domain)
{
    struct link *bucket = bucket_of(o, domain);
    for (struct link *l = bucket->next; l != bucket; l = l->next) {
        struct route_wait *wait = CONTAINER_OF(l, struct route_wait, bucket_link);
        if (slice_equal(slice_str(wait->query.domain), domain))
            return wait;
    }
    return NULL;
}

static void on_route(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    struct route_wait *wait = CONTAINER_OF(mail, struct route_wait, query.mail);
    const struct route *route = wait->query.route;
    list_remove(&wait->link);
    list_remove(&wait->bucket_link);
    for (struct link *l; (l = list_pop_front(&wait->deliveries)) != NULL;)
        if (!w->stopping) /* else the spool has it */
            queue_by_route(w->outbound, CONTAINER_OF(l, struct delivery, shared.queue_link), route);
    route_release(&route);
    free(wait);
}

/* No route in the cache: the delivery waits with others for the same domain while the dns thread
 * looks. */
static void wait_for_route(struct outbound *o, struct delivery *d, struct slice domain)
{
    struct worker *w = o->worker;
    struct route_wait *wait = find_wait(o, domain);
    if (wait != NULL) {
        list_push_back(&wait->deliveries, &d->shared.queue_link);
        return;
    }
    wait = calloc(1, sizeof *wait);
    if (wait == NULL || !slice_to_cstr(domain, wait->query.domain, sizeof wait->query.domain)) {
        struct reply reply = reply_local(wait == NULL ? LOCAL_NO_RESOURCES : LOCAL_BAD_DOMAIN);
        free(wait);
        end_one(w, d, &reply);
        return;
    }
    list_init(&wait->deliveries);
    list_push_back(&wait->deliveries, &d->shared.queue_link);
    list_push_back(&o->route_waits, &wait->link);
    list_push_back(bucket_of(o, domain), &wait->bucket_link);
    wait->query.reply_to = &w->shared.mailbox;
    wait->query.on_answer = on_route;
    struct resolver_query *query = &wait->query;
    resolver_ask(w->parts->resolver, &query);
}

static void take_job(struct outbound *o, struct delivery *d)
{
    struct worker *w = o->worker;
    list_init(&d->shared.queue_link);
    if (d->flags & (DELIVERY_EXPIRED | DELIVERY_OPERATOR_BOUNCE)) {
        outcome_of_marked(w, d);
        return;
    }
    struct slice domain = slice_of(d->domain->name, d->domain->name_len);
    const struct route *route = resolver_cached(w->parts->resolver, domain, w->now_ms);
    if (route == NULL) {
        wait_for_route(o, d, domain);
        return;
    }
    queue_by_route(o, d, route);
    route_release(&route);
}

unsigned outbound_take_jobs(struct outbound *o, unsigned max)
{
    unsigned taken = 0;
    while (taken < max && !o->draining) {
        struct delivery *d = jobs_take(o->worker->parts->jobs, &o->turn);
        if (d == NULL)
            break;
        take_job(o, d);
        taken++;
    }
    return taken;
}

/* ---- a lane without mail ---- */

struct probe_order {
    struct mail mail;
    char domain[256];
};

static void on_probe(struct mail *mail, void *owner)
{
    struct worker *w = owner;
    struct probe_order *p = CONTAINER_OF(mail, struct probe_order, mail);
    const struct route *route =
        resolver_cached(w->parts->resolver, slice_str(p->domain), w->now_ms);
    struct destination *d = NULL;
    if (route != NULL && route->kind != ROUTE_FAILED)
        d = destination_acquire(w->parts->destinations, slice_str(route->destination_key));
    free(p);
    if (d == NULL) {
        route_release(&route);
        return;
    }
    destination_lane_begin(d);
    lane_open(w, d, route);
}

bool outbound_probe(struct worker *w, struct slice domain)
{
    struct probe_order *p = calloc(1, sizeof *p);
    if (p == NULL || !slice_to_cstr(domain, p->domain, sizeof p->domain)) {
        free(p);
        return false;
    }
    p->mail.on_arrival = on_probe;
    struct mail *mail = &p->mail;
    mailbox_post(&w->shared.mailbox, &mail);
    return true;
}

/* ---- room for connections ---- */

bool outbound_is_full(const struct outbound *o, enum envelope_priority priority)
{
    unsigned max = o->worker->parts->sessions_max;
    return o->sessions >= (priority == PRIORITY_BULK ? max - max / KEPT_OF_ROOM : max);
}

bool outbound_has_room(struct outbound *o, enum envelope_priority priority)
{
    if (!outbound_is_full(o, priority))
        return true;
    if (list_empty(&o->idle_lanes))
        return false;
    struct lane *oldest = CONTAINER_OF(o->idle_lanes.next, struct lane, turn_link);
    if (lane_leave_idle(oldest))
        lane_finish(oldest);
    return !outbound_is_full(o, priority);
}

void outbound_wait_for_room(struct outbound *o, struct lane *l)
{
    if (list_empty(&l->turn_link))
        list_push_back(&o->lanes_waiting[lane_priority(l)], &l->turn_link);
}

static bool may_resume(struct outbound *o, enum envelope_priority priority)
{
    return !list_empty(&o->lanes_waiting[priority]) && outbound_has_room(o, priority);
}

/* In the order they came, by turns where both classes wait. */
static void resume_waiting(struct outbound *o)
{
    for (;;) {
        bool bulk = may_resume(o, PRIORITY_BULK);
        bool transactional = may_resume(o, PRIORITY_TRANSACTIONAL);
        if (!bulk && !transactional)
            return;
        enum envelope_priority next = priority_next(&o->room_turn, bulk, transactional);
        if (!list_empty(&o->lanes_waiting[next])) /* looking for room may have ended it */
            lane_resume(CONTAINER_OF(o->lanes_waiting[next].next, struct lane, turn_link));
    }
}

static void bury(struct outbound *o)
{
    for (struct link *l; (l = list_pop_front(&o->graveyard)) != NULL;)
        session_destroy(CONTAINER_OF(l, struct session, lane_link));
}

bool outbound_end_turn(struct outbound *o)
{
    struct link turn;
    list_init(&turn);
    list_splice_back(&turn, &o->again);
    for (struct link *l; (l = list_pop_front(&turn)) != NULL;)
        session_read_on(CONTAINER_OF(l, struct session, again_link));
    bury(o);
    resume_waiting(o);
    bury(o);
    return !list_empty(&o->again);
}

/* ---- stopping ---- */

void outbound_drain(struct outbound *o)
{
    o->draining = true;
    for (struct link *l = o->lanes.next; l != &o->lanes;) {
        struct lane *lane = CONTAINER_OF(l, struct lane, outbound_link);
        l = l->next;
        lane_drain(lane);
    }
    for (struct link *l = o->leaving.next; l != &o->leaving;) {
        struct session *s = CONTAINER_OF(l, struct session, lane_link);
        l = l->next;
        if (!s->closing) /* a probe without mail */
            session_drop(s);
    }
}

void outbound_abandon(struct outbound *o)
{
    o->draining = true;
    for (struct link *l; (l = list_pop_front(&o->lanes)) != NULL;)
        lane_abandon(CONTAINER_OF(l, struct lane, outbound_link));
    while (!list_empty(&o->leaving))
        session_drop(CONTAINER_OF(o->leaving.next, struct session, lane_link));
    bury(o);
}
