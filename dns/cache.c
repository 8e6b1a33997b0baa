#include "dns/cache.h"

#include "core/base/assert.h"
#include "dns/hash.h"

#include <pthread.h>
#include <stdlib.h>

enum {
    SHARD_BITS = 4,
    SHARDS = 1 << SHARD_BITS,
    REFRESH_FRACTION = 10, /* the last tenth of a route's life */
};

struct entry {
    const struct route *route; /* referenced */
    uint64_t hash;
    uint64_t refresh_mono_ms; /* hits from here on ask for a refresh */
    uint32_t next;            /* in the bucket: index + 1, 0 ends */
    bool recent; /* asked for since the clock's hand passed; a new one has yet to prove itself */
    bool refreshing;
};

struct shard {
    struct {
        _Alignas(64) pthread_mutex_t lock; /* guards all below */
        struct entry *entries;
        uint32_t *buckets; /* index + 1 of the first entry, 0 = empty */
        uint32_t used, hand;
        uint64_t hits, misses;
    } shared;
};

struct cache {
    uint64_t seed;
    uint32_t shard_capacity;
    uint32_t bucket_mask;
    struct shard shards[SHARDS];
};

/* ---- life ---- */

static bool shard_init(struct shard *s, uint32_t capacity, uint32_t buckets)
{
    if (pthread_mutex_init(&s->shared.lock, NULL) != 0)
        return false;
    s->shared.entries = calloc(capacity, sizeof *s->shared.entries);
    s->shared.buckets = calloc(buckets, sizeof *s->shared.buckets);
    return s->shared.entries != NULL && s->shared.buckets != NULL;
}

static void shard_fini(struct shard *s)
{
    for (uint32_t i = 0; i < s->shared.used; i++)
        route_release(&s->shared.entries[i].route);
    free(s->shared.entries);
    free(s->shared.buckets);
    (void)pthread_mutex_destroy(&s->shared.lock);
}

struct cache *cache_create(unsigned entries_max)
{
    struct cache *c = aligned_alloc(_Alignof(struct cache), sizeof *c);
    if (c == NULL)
        return NULL;
    memset(c, 0, sizeof *c);
    struct random random;
    random_init(&random);
    c->seed = random_u64(&random);
    c->shard_capacity = entries_max / SHARDS + (entries_max % SHARDS != 0 || entries_max == 0);
    uint32_t buckets = 1;
    while (buckets < c->shard_capacity)
        buckets *= 2;
    c->bucket_mask = buckets - 1;
    bool ok = true;
    for (int i = 0; i < SHARDS; i++)
        ok = shard_init(&c->shards[i], c->shard_capacity, buckets) && ok;
    if (!ok)
        cache_destroy(&c);
    return c;
}

void cache_destroy(struct cache **c)
{
    if (*c == NULL)
        return;
    for (int i = 0; i < SHARDS; i++)
        shard_fini(&(*c)->shards[i]);
    free(*c);
    *c = NULL;
}

/* ---- finding ---- */

static struct shard *shard_of(struct cache *c, uint64_t hash)
{
    return &c->shards[hash >> (64 - SHARD_BITS)];
}

static uint32_t *bucket_of(const struct cache *c, struct shard *s, uint64_t hash)
{
    return &s->shared.buckets[(uint32_t)hash & c->bucket_mask];
}

static struct entry *find_locked(const struct cache *c, struct shard *s, uint64_t hash,
                                 struct slice domain)
{
    for (uint32_t at = *bucket_of(c, s, hash); at != 0; at = s->shared.entries[at - 1].next) {
        struct entry *e = &s->shared.entries[at - 1];
        if (e->hash == hash && slice_equal(slice_str(e->route->domain), domain))
            return e;
    }
    return NULL;
}

const struct route *cache_get(struct cache *c, struct slice domain, uint64_t mono_ms,
                              bool *refresh_out)
{
    uint64_t hash = hash_domain(c->seed, domain);
    struct shard *s = shard_of(c, hash);
    const struct route *route = NULL;
    *refresh_out = false;
    pthread_mutex_lock(&s->shared.lock);
    struct entry *e = find_locked(c, s, hash, domain);
    if (e != NULL && mono_ms < e->route->expires_mono_ms) {
        route = route_reference(e->route);
        e->recent = true;
        *refresh_out = mono_ms >= e->refresh_mono_ms && !e->refreshing;
        e->refreshing = e->refreshing || *refresh_out;
        s->shared.hits++;
    } else {
        s->shared.misses++;
    }
    pthread_mutex_unlock(&s->shared.lock);
    return route;
}

const struct route *cache_peek(struct cache *c, struct slice domain, uint64_t mono_ms)
{
    uint64_t hash = hash_domain(c->seed, domain);
    struct shard *s = shard_of(c, hash);
    const struct route *route = NULL;
    pthread_mutex_lock(&s->shared.lock);
    struct entry *e = find_locked(c, s, hash, domain);
    if (e != NULL && mono_ms < e->route->expires_mono_ms)
        route = route_reference(e->route);
    pthread_mutex_unlock(&s->shared.lock);
    return route;
}

/* ---- storing ---- */

static void unlink_locked(const struct cache *c, struct shard *s, const struct entry *e)
{
    uint32_t self = (uint32_t)(e - s->shared.entries) + 1;
    uint32_t *at = bucket_of(c, s, e->hash);
    while (*at != self) {
        ASSERT(*at != 0);
        at = &s->shared.entries[*at - 1].next;
    }
    *at = e->next;
}

/* An entry to fill: an unused one, or the first that the clock's hand finds expired or not recent.
 * `*evicted_out` is then the route it held. Two rounds suffice, for the first takes every `recent`
 * away. */
static struct entry *make_room_locked(const struct cache *c, struct shard *s, uint64_t mono_ms,
                                      const struct route **evicted_out)
{
    if (s->shared.used < c->shard_capacity)
        return &s->shared.entries[s->shared.used++];
    for (;;) {
        struct entry *e = &s->shared.entries[s->shared.hand];
        s->shared.hand = (s->shared.hand + 1) % c->shard_capacity;
        if (!e->recent || e->route->expires_mono_ms <= mono_ms) {
            unlink_locked(c, s, e);
            *evicted_out = e->route;
            return e;
        }
        e->recent = false;
    }
}

static bool is_temporary_failure(const struct route *r)
{
    return r->kind == ROUTE_FAILED && r->failure.class == 4;
}

/* Failures are left to expire: looking them up ahead of time would double the load of what does not
 * work. Literals need no look-up. */
static uint64_t refresh_moment(const struct route *r, uint64_t mono_ms)
{
    if (r->kind == ROUTE_FAILED || r->kind == ROUTE_LITERAL || r->expires_mono_ms <= mono_ms)
        return UINT64_MAX;
    return r->expires_mono_ms - (r->expires_mono_ms - mono_ms) / REFRESH_FRACTION;
}

void cache_put(struct cache *c, const struct route *route, uint64_t mono_ms)
{
    struct slice domain = slice_str(route->domain);
    uint64_t hash = hash_domain(c->seed, domain);
    struct shard *s = shard_of(c, hash);
    const struct route *dropped = NULL;
    pthread_mutex_lock(&s->shared.lock);
    struct entry *e = find_locked(c, s, hash, domain);
    bool keep = e != NULL && e->route->expires_mono_ms > mono_ms && is_temporary_failure(route) &&
                !is_temporary_failure(e->route);
    if (!keep) {
        if (e != NULL) {
            dropped = e->route;
        } else {
            e = make_room_locked(c, s, mono_ms, &dropped);
            uint32_t *bucket = bucket_of(c, s, hash);
            *e = (struct entry){.hash = hash, .next = *bucket};
            *bucket = (uint32_t)(e - s->shared.entries) + 1;
        }
        e->route = route_reference(route);
        e->refresh_mono_ms = refresh_moment(route, mono_ms);
        e->refreshing = false;
    }
    pthread_mutex_unlock(&s->shared.lock);
    route_release(&dropped);
}

struct cache_figures cache_figures(struct cache *c)
{
    struct cache_figures sum = {0};
    for (int i = 0; i < SHARDS; i++) {
        struct shard *s = &c->shards[i];
        pthread_mutex_lock(&s->shared.lock);
        sum.hits += s->shared.hits;
        sum.misses += s->shared.misses;
        sum.entries += s->shared.used;
        pthread_mutex_unlock(&s->shared.lock);
    }
    return sum;
}
