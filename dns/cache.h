/* The route cache: finished routes by domain, shared by all threads. Sharded by a seeded hash, so
 * that no one outside can aim domains at one shard; each shard has a short lock of its own, held
 * for a look-up and one reference taken, never across anything that waits. When a shard is full,
 * the clock algorithm evicts what was not asked for since its hand last passed.
 *
 * A hit in the last tenth of a route's life asks for a refresh, once: domains that get mail all the
 * time are looked up again before they expire, and no mail of theirs ever waits for DNS. */
#ifndef ONWARD_DNS_CACHE_H
#define ONWARD_DNS_CACHE_H

#include "dns/route.h"

struct cache;

/* Room for `entries_max` routes, rounded up to a multiple of the shards. NULL: out of memory. */
struct cache *cache_create(unsigned entries_max);

/* No thread may be using it. Nulls the caller's pointer. */
void cache_destroy(struct cache **c);

/* The unexpired route, referenced for the caller, or NULL. `*refresh_out` becomes true for the one
 * caller who should have the route looked up again. Counts as a hit or a miss. Any thread. */
const struct route *cache_get(struct cache *c, struct slice domain, uint64_t mono_ms,
                              bool *refresh_out);

/* The same for a second look: no count, no refresh. */
const struct route *cache_peek(struct cache *c, struct slice domain, uint64_t mono_ms);

/* Takes a reference of its own and replaces what the domain had; except that a temporary failure
 * never replaces a route that still holds. Any thread. */
void cache_put(struct cache *c, const struct route *route, uint64_t mono_ms);

/* Since it was made, and routes held now. */
struct cache_figures {
    uint64_t hits, misses, entries;
};
/* A relaxed reading. Any thread. */
struct cache_figures cache_figures(struct cache *c);

#endif
