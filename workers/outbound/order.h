/* The order of an attempt: a route's addresses as RFC 5321 5.1 gives them, then as the health table
 * advises. What is usable now comes first, in order of preference; what is demoted or backing off
 * comes behind, by when it may be tried again. Nothing is ever left out. */
#ifndef ONWARD_WORKERS_OUTBOUND_ORDER_H
#define ONWARD_WORKERS_OUTBOUND_ORDER_H

#include "core/health.h"
#include "dns/route.h"

enum target_rank { TARGET_USABLE, TARGET_BACKING_OFF };

/* One address, and why it stands where it stands. */
struct target {
    const struct route_exchange *exchange; /* borrowed from the route */
    struct address address;
    enum target_rank rank;
    enum health_state state; /* as it was when the order was made: says why */
    uint64_t again_mono_ms;
    bool needs_probe; /* demoted and due: whoever claims the probe tries it in its turn */
    bool tls_broken;  /* opportunistic TLS goes in clear */
};

/* Writes at most ROUTE_TARGETS_MAX; returns how many. */
unsigned order_targets(const struct route *route, const struct health *health,
                       struct random *random, uint64_t mono_ms,
                       struct target out[ROUTE_TARGETS_MAX]);

#endif
