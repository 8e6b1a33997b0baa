/* What the hot path's look-ups cost, in nanoseconds each: the least of several rounds, since all
 * that comes on top is this machine's.
 *
 *   build/release/bench/costs
 *
 * The tables are as full as a busy relay has them, and keys are asked for at random, so that most
 * look-ups miss the processor's nearest cache as they do in earnest. One thread; `contended` has a
 * second one at the same work. */
#include "core/base/assert.h"
#include "core/base/random.h"
#include "core/base/ring.h"
#include "core/health.h"
#include "core/queue/destination.h"
#include "dns/cache.h"
#include "workers/outbound/order.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    HOSTS = 20000,
    DOMAINS = 10000,
    CALLS = 200000, /* a round */
    ROUNDS = 9,
    NAME_SIZE = 32,
};

/* What is measured: a name, and one call with a random number. */
struct cost {
    const char *name;
    void (*call)(uint64_t number);
    bool alone; /* not made for two threads at the same time */
};

static struct {
    struct health *health;
    struct cache *cache;
    struct ring *ring;
    struct destination_table *destinations;
    struct address hosts[HOSTS];
    char names[DOMAINS][NAME_SIZE];
    struct route_exchange exchanges[DOMAINS][2];
    struct route *routes[DOMAINS];
    struct random random;
    volatile uint64_t sink; /* what a call finds is put here, so that none is left out */
} table;

/* ---- the calls ---- */

static void look_up_health(uint64_t number)
{
    table.sink += health_view(table.health, &table.hosts[number % HOSTS]).state;
}

static void tell_carried(uint64_t number)
{
    const struct address *a = &table.hosts[number % HOSTS];
    table.sink += health_tell(table.health, a, HEALTH_EVENT_CARRIED, number, number, number).now;
}

static void look_up_route(uint64_t number)
{
    bool refresh = false;
    const struct route *r =
        cache_get(table.cache, slice_str(table.names[number % DOMAINS]), 1, &refresh);
    ASSERT(r != NULL);
    route_release(&r);
}

static void order_two_exchanges(uint64_t number)
{
    struct target order[ROUTE_TARGETS_MAX];
    table.sink +=
        order_targets(table.routes[number % DOMAINS], table.health, &table.random, 1, order);
}

static void through_the_ring(uint64_t number)
{
    (void)ring_push(table.ring, &table.hosts[number % HOSTS]);
    table.sink += (uintptr_t)ring_pop(table.ring);
}

static void through_a_destination(uint64_t number)
{
    static struct message message;
    struct delivery delivery = {.message = &message, .recipient_count = 1};
    struct idle_lane *idle = NULL;
    struct link out;
    list_init(&out);
    list_init(&delivery.shared.queue_link);
    struct destination *d =
        destination_acquire(table.destinations, slice_str(table.names[number % DOMAINS]));
    ASSERT(d != NULL);
    (void)destination_enqueue(d, &delivery, 0, 1, &idle);
    table.sink += destination_take(d, 1, &out);
    (void)destination_lane_end(d, true);
    destination_release(&d);
}

static const struct cost costs[] = {
    {"health table: look up one of 20,000 exchanges", look_up_health, false},
    {"health table: tell of a transaction that went well", tell_carried, false},
    {"route cache: look up one of 10,000 domains", look_up_route, false},
    {"order two exchanges by preference and health", order_two_exchanges, true},
    {"job ring: push and pop", through_the_ring, false},
    {"destination: find, enqueue, take, release", through_a_destination, true},
};

/* ---- the table ---- */

static void fill(void)
{
    const struct health_options options = {.entries = 65536,
                                           .demote_first_ms = 60000,
                                           .demote_max_ms = 1800000,
                                           .down_first_ms = 5000,
                                           .tls_broken_ms = 3600000,
                                           .patience_min_ms = 1000,
                                           .patience_max_ms = 5000};
    random_init_seed(&table.random, 1);
    table.health = health_create(&options);
    table.cache = cache_create(DOMAINS * 2);
    table.ring = ring_create(1024);
    table.destinations = destination_table_create();
    ASSERT(table.health != NULL && table.cache != NULL && table.ring != NULL);
    for (unsigned i = 0; i < HOSTS; i++) {
        char text[NAME_SIZE];
        (void)snprintf(text, sizeof text, "10.0.%u.%u", i / 250, i % 250 + 1);
        bool sound = address_parse_ip(slice_str(text), &table.hosts[i]);
        ASSERT(sound);
        (void)health_tell(table.health, &table.hosts[i], HEALTH_EVENT_SUCCESS, 1, 1, 0);
    }
    for (unsigned i = 0; i < DOMAINS; i++) {
        (void)snprintf(table.names[i], NAME_SIZE, "domain-%u.example", i);
        for (unsigned k = 0; k < 2; k++)
            table.exchanges[i][k] = (struct route_exchange){.name = table.names[i],
                                                            .preference = (uint16_t)(10 * k),
                                                            .v4_count = 1,
                                                            .v4 = &table.hosts[2 * i + k]};
        struct route *r = calloc(1, sizeof *r);
        ASSERT(r != NULL);
        atomic_init(&r->shared.references, 1);
        r->kind = ROUTE_MX;
        r->domain = table.names[i];
        r->destination_key = table.names[i];
        r->expires_mono_ms = UINT64_MAX;
        r->exchange_count = 2;
        r->exchanges = table.exchanges[i];
        table.routes[i] = r;
        cache_put(table.cache, r, 1);
    }
}

/* ---- measuring ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void run(const struct cost *cost, uint64_t seed, unsigned calls)
{
    struct random random;
    random_init_seed(&random, seed);
    for (unsigned i = 0; i < calls; i++)
        cost->call(random_u64(&random));
}

static void nothing(uint64_t number)
{
    table.sink += number;
}

/* Nanoseconds a call, of all rounds the quickest. */
static double measure(const struct cost *cost)
{
    uint64_t least = UINT64_MAX;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t began = now_ns();
        run(cost, round, CALLS);
        uint64_t took = now_ns() - began;
        least = took < least ? took : least;
    }
    return (double)least / CALLS;
}

static atomic_bool is_over;

static void *contend(void *context)
{
    for (uint64_t seed = 1000; !atomic_load(&is_over); seed++)
        run(context, seed, 1000);
    return NULL;
}

static double measure_contended(const struct cost *cost)
{
    pthread_t other;
    struct cost same = *cost;
    atomic_store(&is_over, false);
    int rc = pthread_create(&other, NULL, contend, &same);
    ASSERT(rc == 0);
    double ns = measure(cost);
    atomic_store(&is_over, true);
    (void)pthread_join(other, NULL);
    return ns;
}

int main(void)
{
    fill();
    const struct cost empty = {"", nothing, true};
    double loop = measure(&empty); /* the loop and the random number are nobody's cost */
    (void)printf("%-52s %8s %10s\n", "nanoseconds a call", "alone", "contended");
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) {
        (void)printf("%-52s %8.0f ", costs[i].name, measure(&costs[i]) - loop);
        if (costs[i].alone)
            (void)printf("%10s\n", "-");
        else
            (void)printf("%10.0f\n", measure_contended(&costs[i]) - loop);
    }
    return 0;
}
