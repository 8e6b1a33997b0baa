#include "workers/outbound/order.h"

static struct target assess(const struct route_target *from, const struct health *health,
                            uint64_t mono_ms)
{
    struct health_view view = health_view(health, &from->address);
    bool due = view.again_mono_ms <= mono_ms;
    bool demoted = view.state == HEALTH_DEMOTED;
    bool well = view.state == HEALTH_HEALTHY || view.state == HEALTH_SUSPECT;
    bool usable = well || (due && !(demoted && view.probing));
    return (struct target){.exchange = from->exchange,
                           .address = from->address,
                           .rank = usable ? TARGET_USABLE : TARGET_BACKING_OFF,
                           .state = view.state,
                           .again_mono_ms = view.again_mono_ms,
                           .needs_probe = demoted && usable,
                           .tls_broken = view.tls_broken_until_mono_ms > mono_ms};
}

static bool goes_before(const struct target *a, const struct target *b)
{
    if (a->rank != b->rank)
        return a->rank < b->rank;
    return a->rank == TARGET_BACKING_OFF && a->again_mono_ms < b->again_mono_ms;
}

/* Stable insertion sort: equals keep the order of the route. At most ROUTE_TARGETS_MAX. */
static void insert_sorted(struct target *out, unsigned count, struct target item)
{
    unsigned at = count;
    while (at > 0 && goes_before(&item, &out[at - 1])) {
        out[at] = out[at - 1];
        at--;
    }
    out[at] = item;
}

unsigned order_targets(const struct route *route, const struct health *health,
                       struct random *random, uint64_t mono_ms,
                       struct target out[ROUTE_TARGETS_MAX])
{
    struct route_target plain[ROUTE_TARGETS_MAX];
    unsigned count = route_targets(route, random, plain);
    for (unsigned i = 0; i < count; i++)
        insert_sorted(out, i, assess(&plain[i], health, mono_ms));
    return count;
}
