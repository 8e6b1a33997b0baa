/* The resolver: routes for all workers from one thread that owns one libunbound event context, with
 * a cache of finished routes above it.
 *
 * A worker first looks into the cache (a sharded hash, one reference taken, well under 1 us). On a
 * miss it sends a query to the dns thread, which looks again, flies one look-up per domain however
 * many ask, and answers every waiter's mailbox with the same route. No worker ever calls libunbound
 * or waits for it. A flight: MX; then A and AAAA of every exchange side by side; or, where there is
 * no MX at all, A and AAAA of the domain itself (implicit MX). It has about 20 s, and once some
 * exchange has an address only 2 s more for the rest; what is not in by then counts as failed.
 * Where others wait in line for a flight, one of more than 2 s no longer counts against them,
 * unless there are very many such: silent name servers hold up nobody else's mail. Failures are
 * routes too (ROUTE_FAILED) and are cached; but a temporary one never replaces a route that still
 * holds. A hot route is looked up again shortly before it expires. */
#ifndef ONWARD_DNS_RESOLVER_H
#define ONWARD_DNS_RESOLVER_H

#include "core/base/error.h"
#include "core/base/histogram.h"
#include "core/base/mailbox.h"
#include "dns/route.h"

struct resolver;

enum {
    RESOLVER_QUICK_MS = 2000, /* a flight that takes longer is slow */
    RESOLVER_SLOW_SHARE = 3,  /* of them there may be so many times as many as of others */
    RESOLVER_SOCKETS = 2048,  /* what libunbound asks name servers from, at most */
};

/* A zone that is asked of servers of its own. */
struct resolver_zone {
    const char *name;           /* "sampleorg.com" */
    const char *const *servers; /* "127.0.0.1@5353"; NULL-terminated */
};

/* Borrowed during resolver_start only. */
struct resolver_options {
    const char *const *forwarders; /* "192.0.2.53" or "192.0.2.53@5353"; NULL-terminated; empty =
                                      full recursion from the root */
    const struct resolver_zone *stubs;  /* ends with name NULL */
    const char *const *unbound_options; /* "option: value", NULL-terminated; applied last */
    bool dnssec;                        /* validate with /usr/share/dns/root.key where it exists */
    const char *const *own_names;       /* NULL-terminated; exchanges that are this relay */
    const struct address
        *own_addresses; /* port 0 = any port; 0.0.0.0 or :: = the loopback's, all */
    unsigned own_address_count;
    uint16_t delivery_port;
    bool use_ipv4, use_ipv6;
    unsigned flights_max;       /* at once, besides slow ones; further domains wait their turn */
    uint32_t flight_limit_ms;   /* 20 s; counted from take-off */
    unsigned cache_entries_max; /* rounded up to a multiple of 16 */
};

/* Starts the thread. NULL with `error` (a bad option names itself). */
struct resolver *resolver_start(const struct resolver_options *options, struct error *error);

/* Answers everything still asked with LOCAL_SHUTDOWN, stops and joins the thread. The answers may
 * arrive in the askers' mailboxes; nobody may ask or look into the cache any more. Nulls the
 * caller's pointer. */
void resolver_stop(struct resolver **r);

/* The domain's route from the cache, referenced for the caller; NULL where there is none or it has
 * expired. Lock-free or a short shard lock; any thread. `domain` is a routing key (envelope.h). */
const struct route *resolver_cached(struct resolver *r, struct slice domain, uint64_t mono_ms);

/* A question and its answer. Owned by the asker's thread again when on_answer runs there. */
struct resolver_query {
    struct mail mail;
    char domain[256]; /* need not be in normal form; the route's is */
    bool fresh;       /* look up even if a route is cached (onward trace, route --fresh);
                       * libunbound's own cache still answers for a record's TTL */
    struct mailbox *reply_to;
    void (*on_answer)(struct mail *mail, void *owner); /* runs in reply_to's thread */
    const struct route *route; /* the answer, referenced for the asker; never NULL */
};

/* Hands the query over and nulls the pointer. Any thread; never blocks. */
void resolver_ask(struct resolver *r, struct resolver_query **query);

/* Since the start. */
struct resolver_figures {
    uint64_t flights, cache_hits, cache_misses;
    uint64_t failures; /* flights that ended in a temporary failure */
    uint64_t cached;   /* routes now */
};
/* A relaxed reading. Any thread. */
struct resolver_figures resolver_figures(struct resolver *r);

/* How long each flight took, from its take-off: added to `sum`. Any thread. */
void resolver_flight_times(const struct resolver *r, struct histogram_reading *sum);

#endif
