#include "dns/route.h"

#include "core/base/assert.h"

#include <stdlib.h>

static_assert((int)ROUTE_EXCHANGES_MAX <= (int)ROUTE_TARGETS_MAX,
              "each exchange gets a place in an attempt");

/* The targets written so far. */
struct listing {
    struct route_target *out;
    unsigned count;
    unsigned quota; /* addresses each exchange may have */
};

const struct route *route_reference(const struct route *r)
{
    struct route *shared = (struct route *)r; /* only the count is ever written */
    unsigned before =
        atomic_fetch_add_explicit(&shared->shared.references, 1, memory_order_relaxed);
    ASSERT(before > 0);
    return r;
}

void route_release(const struct route **r)
{
    struct route *shared = (struct route *)*r;
    *r = NULL;
    if (shared == NULL)
        return;
    unsigned before =
        atomic_fetch_sub_explicit(&shared->shared.references, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1)
        free(shared);
}

/* Fisher and Yates: every order is equally likely. */
static void shuffle(uint8_t *items, unsigned count, struct random *random)
{
    for (unsigned i = count; i > 1; i--) {
        unsigned j = (unsigned)random_below(random, i);
        uint8_t item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

static unsigned shuffled(uint8_t *items, unsigned first, unsigned count, struct random *random)
{
    for (unsigned i = 0; i < count; i++)
        items[i] = (uint8_t)(first + i);
    shuffle(items, count, random);
    return count;
}

static unsigned address_count(const struct route_exchange *e)
{
    return (unsigned)e->v4_count + e->v6_count;
}

/* The most addresses per exchange with which all exchanges fit: a few hosts with very many
 * addresses must not push a worse exchange, perhaps the only one that works, off the list. */
static unsigned fair_quota(const struct route *r)
{
    unsigned quota = 0, total;
    do {
        quota++;
        total = 0;
        for (unsigned i = 0; i < r->exchange_count; i++) {
            unsigned n = address_count(&r->exchanges[i]);
            total += n <= quota ? n : quota + 1;
        }
    } while (total <= ROUTE_TARGETS_MAX && quota < 2 * ROUTE_ADDRESSES_MAX);
    return quota;
}

/* Exchanges often share addresses; trying one twice in an attempt tells nothing new. */
static bool is_listed(const struct listing *l, const struct address *a)
{
    for (unsigned i = 0; i < l->count; i++)
        if (address_same_ip(&l->out[i].address, a) && l->out[i].address.port == a->port)
            return true;
    return false;
}

static void list_address(struct listing *l, const struct route_exchange *e, const struct address *a)
{
    if (l->count < ROUTE_TARGETS_MAX && !is_listed(l, a))
        l->out[l->count++] = (struct route_target){.exchange = e, .address = *a};
}

/* IPv6 first (RFC 6724 would), then turn about while both last. */
static void list_exchange(struct listing *l, const struct route_exchange *e, struct random *random)
{
    ASSERT(e->v4_count <= ROUTE_ADDRESSES_MAX && e->v6_count <= ROUTE_ADDRESSES_MAX);
    uint8_t v4[ROUTE_ADDRESSES_MAX], v6[ROUTE_ADDRESSES_MAX];
    unsigned v4_left = shuffled(v4, 0, e->v4_count, random);
    unsigned v6_left = shuffled(v6, 0, e->v6_count, random);
    bool want_v6 = true;
    for (unsigned taken = 0; taken < l->quota && v4_left + v6_left > 0; taken++) {
        if ((want_v6 && v6_left > 0) || v4_left == 0)
            list_address(l, e, &e->v6[v6[--v6_left]]);
        else
            list_address(l, e, &e->v4[v4[--v4_left]]);
        want_v6 = !want_v6;
    }
}

unsigned route_targets(const struct route *r, struct random *random,
                       struct route_target out[ROUTE_TARGETS_MAX])
{
    ASSERT(r->exchange_count <= ROUTE_EXCHANGES_MAX);
    struct listing l = {.out = out, .quota = fair_quota(r)};
    unsigned first = 0;
    while (first < r->exchange_count) {
        unsigned end = first + 1;
        while (end < r->exchange_count &&
               r->exchanges[end].preference == r->exchanges[first].preference)
            end++;
        uint8_t order[ROUTE_EXCHANGES_MAX];
        unsigned count = shuffled(order, first, end - first, random);
        for (unsigned i = 0; i < count; i++)
            list_exchange(&l, &r->exchanges[order[i]], random);
        first = end;
    }
    return l.count;
}
