#include "dns/flight.h"

#include "core/base/assert.h"
#include "core/base/clock.h"

#include <stdlib.h>
#include <unbound.h>
#include <unbound-event.h>

enum {
    LOOKUP_MAGIC = 0x10076b0d,
    CLASS_IN = 1,
    SEC_BOGUS = 1,
    SEC_SECURE = 2,
};

/* The legal next states of each, a bit each. */
static const unsigned next_states[] = {
    [FLIGHT_ASKS_MX] = 1u << FLIGHT_ASKS_ADDRESSES | 1u << FLIGHT_LANDED,
    [FLIGHT_ASKS_ADDRESSES] = 1u << FLIGHT_LANDED,
    [FLIGHT_LANDED] = 0,
};

static void flight_check(const struct flight *f)
{
    ASSERT(f->pending <= f->lookup_count + 1);
    switch (f->state) {
    case FLIGHT_ASKS_MX:
        ASSERT(f->lookups == NULL && f->route == NULL);
        break;
    case FLIGHT_ASKS_ADDRESSES:
        ASSERT(f->draft.failure == 0 && f->draft.exchange_count > 0);
        ASSERT(!f->mx.pending && f->route == NULL);
        break;
    case FLIGHT_LANDED:
        ASSERT(f->pending == 0 && !timer_armed(&f->timer));
        break;
    }
}

static void flight_move(struct flight *f, enum flight_state to)
{
    ASSERT((next_states[f->state] & 1u << to) != 0);
    f->state = to;
    flight_check(f);
}

static void stir(struct flight *f)
{
    if (list_empty(&f->stirred_link))
        list_push_back(&f->deck->stirred, &f->stirred_link);
}

/* ---- asking ---- */

/* Bogus first: such an answer has data as well, and an rcode of its own. */
static enum dns_answer read_answer(const struct lookup *l, int rcode, struct slice bytes, int sec,
                                   struct packet *p)
{
    if (sec == SEC_BOGUS)
        return ANSWER_BOGUS;
    if (rcode != 0 || bytes.ptr == NULL)
        return ANSWER_FAILED;
    return packet_open(p, bytes, l->type);
}

static void take_answer(struct lookup *l, enum dns_answer answer, struct packet *p, bool secure,
                        const char *why)
{
    struct flight *f = l->flight;
    ASSERT(l->pending && f->pending > 0);
    l->pending = false;
    f->pending--;
    if (l == &f->mx)
        draft_take_mx(&f->draft, answer, p, secure, slice_str(why != NULL ? why : ""));
    else
        draft_take_addresses(&f->draft, l->exchange, l->type, answer, p, secure);
    stir(f);
}

static void on_answer(void *context, int rcode, void *packet, int packet_len, int sec,
                      char *why_bogus, int was_ratelimited)
{
    (void)was_ratelimited; /* then it failed, like any other SERVFAIL */
    struct lookup *l = context;
    ASSERT(l->magic == LOOKUP_MAGIC);
    struct slice bytes = slice_of(packet, packet_len > 0 ? (size_t)packet_len : 0);
    struct packet p;
    enum dns_answer answer = read_answer(l, rcode, bytes, sec, &p);
    take_answer(l, answer, &p, sec == SEC_SECURE, why_bogus);
}

static void ask(struct lookup *l, const char *name)
{
    struct flight *f = l->flight;
    l->pending = true;
    f->pending++;
    int rc = ub_resolve_event(f->deck->context, name, (int)l->type, CLASS_IN, l, on_answer, &l->id);
    if (rc != 0) /* out of memory: it will not call back */
        take_answer(l, ANSWER_FAILED, NULL, false, NULL);
}

static void cancel(struct lookup *l)
{
    ASSERT(l->pending);
    (void)ub_cancel(l->flight->deck->context, l->id);
}

/* Whatever is still out counts as failed. */
static void give_up_waiting(struct flight *f)
{
    if (f->mx.pending) {
        cancel(&f->mx);
        take_answer(&f->mx, ANSWER_FAILED, NULL, false, NULL);
    }
    for (unsigned i = 0; i < f->lookup_count; i++) {
        if (!f->lookups[i].pending)
            continue;
        cancel(&f->lookups[i]);
        take_answer(&f->lookups[i], ANSWER_FAILED, NULL, false, NULL);
    }
}

static unsigned families(const struct draft_rules *rules, enum packet_type out[2])
{
    unsigned count = 0;
    if (rules->use_ipv4)
        out[count++] = PACKET_A;
    if (rules->use_ipv6)
        out[count++] = PACKET_AAAA;
    return count;
}

/* All exchanges and both families side by side. */
static void ask_addresses(struct flight *f)
{
    enum packet_type types[2];
    unsigned per_exchange = families(f->deck->rules, types);
    unsigned count = f->draft.exchange_count * per_exchange;
    f->lookups = calloc(count > 0 ? count : 1, sizeof *f->lookups);
    if (f->lookups == NULL) {
        for (unsigned i = 0; i < f->draft.exchange_count; i++)
            draft_take_addresses(&f->draft, i, PACKET_A, ANSWER_FAILED, NULL, false);
        return;
    }
    f->lookup_count = count;
    for (unsigned i = 0; i < count; i++) {
        f->lookups[i] = (struct lookup){.magic = LOOKUP_MAGIC,
                                        .exchange = (uint8_t)(i / per_exchange),
                                        .type = types[i % per_exchange],
                                        .flight = f};
        ask(&f->lookups[i], f->draft.exchanges[i / per_exchange].name);
    }
}

/* ---- moving on ---- */

static void on_timer(struct timer *timer, void *owner)
{
    (void)owner;
    struct flight *f = CONTAINER_OF(timer, struct flight, timer);
    f->time_is_up = true;
    stir(f);
}

static void shorten_to_grace(struct flight *f)
{
    uint64_t due_ms = clock_mono_ms() + FLIGHT_GRACE_MS;
    if (timer_armed(&f->timer) && due_ms < f->timer.due_ms && draft_is_usable(&f->draft))
        timer_arm(f->deck->timers, &f->timer, due_ms);
}

static void land(struct flight *f)
{
    timer_disarm(f->deck->timers, &f->timer);
    f->route = draft_finish(&f->draft, f->deck->rules, clock_mono_ms(), clock_wall_ms());
    flight_move(f, FLIGHT_LANDED);
    f->deck->on_landed(f, f->deck->owner);
}

static void advance(struct flight *f)
{
    if (f->time_is_up)
        give_up_waiting(f);
    switch (f->state) {
    case FLIGHT_ASKS_MX:
        if (f->pending > 0)
            return;
        if (f->draft.failure != 0) {
            land(f);
            return;
        }
        flight_move(f, FLIGHT_ASKS_ADDRESSES);
        ask_addresses(f);
        stir(f); /* the answers may all have been there */
        return;
    case FLIGHT_ASKS_ADDRESSES:
        if (f->pending == 0)
            land(f);
        else
            shorten_to_grace(f);
        return;
    case FLIGHT_LANDED:
        break;
    }
    ASSERT(false);
}

/* ---- public ---- */

void flight_deck_init(struct flight_deck *d)
{
    list_init(&d->stirred);
}

void flight_deck_run(struct flight_deck *d)
{
    for (struct link *l; (l = list_pop_front(&d->stirred)) != NULL;)
        advance(CONTAINER_OF(l, struct flight, stirred_link));
}

void flight_start(struct flight *f, struct flight_deck *deck, struct slice domain)
{
    *f = (struct flight){.deck = deck, .state = FLIGHT_ASKS_MX};
    f->mx = (struct lookup){.magic = LOOKUP_MAGIC, .type = PACKET_MX, .flight = f};
    draft_init(&f->draft, domain);
    list_init(&f->stirred_link);
    timer_init(&f->timer, on_timer);
    timer_arm(deck->timers, &f->timer, clock_mono_ms() + deck->limit_ms);
    ask(&f->mx, f->draft.domain);
}

void flight_fini(struct flight *f)
{
    if (f->mx.pending)
        cancel(&f->mx);
    for (unsigned i = 0; i < f->lookup_count; i++)
        if (f->lookups[i].pending)
            cancel(&f->lookups[i]);
    timer_disarm(f->deck->timers, &f->timer);
    list_remove(&f->stirred_link);
    free(f->lookups);
    draft_fini(&f->draft);
    route_release(&f->route);
}
