#include "dns/cache.h"

#include "dns/draft.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { NOW_MS = 1000000, LIFE_MS = DRAFT_TTL_S_MAX * 1000 };

static const struct draft_rules rules = {.delivery_port = 25, .use_ipv4 = true, .use_ipv6 = true};

/* A route of one exchange (the domain itself), alive for an hour. */
static const struct route *make_route(const char *domain, uint64_t now_ms)
{
    struct draft d;
    struct draft_exchange e = {.address_ttl_s = DRAFT_TTL_S_MAX, .v4_count = 1};
    draft_init(&d, slice_str(domain));
    d.ttl_s = DRAFT_TTL_S_MAX;
    d.exchanges = &e;
    d.exchange_count = 1;
    memcpy(e.name, d.domain, sizeof e.name);
    const struct route *r = draft_finish(&d, &rules, now_ms, 0);
    assert_non_null(r);
    assert_int_equal(r->expires_mono_ms, now_ms + LIFE_MS);
    return r;
}

static const struct route *put(struct cache *c, const char *domain, uint64_t now_ms)
{
    const struct route *r = make_route(domain, now_ms);
    cache_put(c, r, now_ms);
    return r;
}

static bool has(struct cache *c, const char *domain, uint64_t now_ms)
{
    const struct route *r = cache_peek(c, slice_str(domain), now_ms);
    bool found = r != NULL;
    if (found)
        assert_string_equal(r->domain, domain);
    route_release(&r);
    return found;
}

static void routes_are_found_until_they_expire(void **state)
{
    (void)state;
    struct cache *c = cache_create(100);
    const struct route *r = put(c, "a.example", NOW_MS);
    bool refresh;
    const struct route *hit = cache_get(c, SLICE_LIT("a.example"), NOW_MS + LIFE_MS - 1, &refresh);
    assert_ptr_equal(hit, r);
    assert_null(cache_get(c, SLICE_LIT("a.example"), NOW_MS + LIFE_MS, &refresh));
    assert_null(cache_get(c, SLICE_LIT("a.exampl"), NOW_MS, &refresh));
    assert_null(cache_get(c, SLICE_LIT(""), NOW_MS, &refresh));
    struct cache_figures figures = cache_figures(c);
    assert_int_equal(figures.hits, 1);
    assert_int_equal(figures.misses, 3);
    assert_int_equal(figures.entries, 1);
    cache_destroy(&c);
    assert_string_equal(hit->domain, "a.example"); /* references outlive the cache */
    route_release(&hit);
    route_release(&r);
}

static void hit_in_the_last_tenth_asks_for_one_refresh(void **state)
{
    (void)state;
    struct cache *c = cache_create(100);
    static const struct {
        uint64_t after_ms;
        bool refresh;
    } steps[] = {{0, false},
                 {LIFE_MS * 9 / 10 - 1, false},
                 {LIFE_MS * 9 / 10, true},
                 {LIFE_MS * 9 / 10, false},
                 {LIFE_MS - 1, false}};
    for (int round = 0; round < 2; round++) {
        const struct route *r = put(c, "a.example", NOW_MS); /* a new route may be refreshed anew */
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            bool refresh;
            const struct route *hit =
                cache_get(c, SLICE_LIT("a.example"), NOW_MS + steps[i].after_ms, &refresh);
            assert_ptr_equal(hit, r);
            assert_int_equal(refresh, steps[i].refresh);
            route_release(&hit);
        }
        route_release(&r);
    }
    cache_destroy(&c);
}

static void temporary_failure_never_replaces_a_route_that_holds(void **state)
{
    (void)state;
    struct cache *c = cache_create(100);
    const struct route *good = put(c, "a.example", NOW_MS);
    const struct route *bad =
        draft_failure(SLICE_LIT("a.example"), LOCAL_DNS_TEMPFAIL, NOW_MS + LIFE_MS / 2, 0);
    const struct route *gone =
        draft_failure(SLICE_LIT("a.example"), LOCAL_NXDOMAIN, NOW_MS + LIFE_MS / 2, 0);
    cache_put(c, bad, NOW_MS + LIFE_MS / 2);
    const struct route *hit = cache_peek(c, SLICE_LIT("a.example"), NOW_MS + LIFE_MS / 2);
    assert_ptr_equal(hit, good);
    route_release(&hit);
    cache_put(c, gone, NOW_MS + LIFE_MS / 2); /* DNS is sure of this one */
    hit = cache_peek(c, SLICE_LIT("a.example"), NOW_MS + LIFE_MS / 2);
    assert_ptr_equal(hit, gone);
    route_release(&hit);
    cache_put(c, good, NOW_MS);
    cache_put(c, bad, NOW_MS + LIFE_MS);
    hit = cache_peek(c, SLICE_LIT("a.example"), NOW_MS + LIFE_MS / 2);
    assert_ptr_equal(hit, bad);
    route_release(&hit);
    route_release(&good);
    route_release(&bad);
    route_release(&gone);
    cache_destroy(&c);
}

static void full_cache_evicts_what_nobody_asks_for(void **state)
{
    (void)state;
    enum { ROOM = 1600, FLOOD = 20000 };
    struct cache *c = cache_create(ROOM);
    const struct route *hot = put(c, "hot.example", NOW_MS);
    for (int i = 0; i < FLOOD; i++) {
        char domain[32];
        (void)snprintf(domain, sizeof domain, "d%d.example", i);
        const struct route *r = put(c, domain, NOW_MS);
        assert_true(has(c, domain, NOW_MS));
        route_release(&r);
        bool refresh;
        const struct route *hit = cache_get(c, SLICE_LIT("hot.example"), NOW_MS, &refresh);
        assert_ptr_equal(hit, hot);
        route_release(&hit);
    }
    assert_int_equal(cache_figures(c).entries, ROOM);
    assert_false(has(c, "d0.example", NOW_MS));
    route_release(&hot);
    cache_destroy(&c);
}

static void smallest_cache_still_works(void **state)
{
    (void)state;
    for (unsigned room = 0; room <= 17; room += 17) {
        struct cache *c = cache_create(room);
        for (int i = 0; i < 1000; i++) {
            char domain[32];
            (void)snprintf(domain, sizeof domain, "d%d.example", i);
            const struct route *r = put(c, domain, NOW_MS);
            assert_true(has(c, domain, NOW_MS));
            route_release(&r);
        }
        cache_destroy(&c);
    }
}

/* ---- concurrency ---- */

enum { THREADS = 4, ROUNDS = 20000, DOMAINS = 200 };

struct hammer {
    struct cache *cache;
    uint64_t seed;
    uint64_t gets, wrong;
    atomic_uint *refreshes;
};

static void *hammer(void *arg)
{
    struct hammer *h = arg;
    struct random random;
    random_init_seed(&random, h->seed);
    for (int i = 0; i < ROUNDS; i++) {
        char domain[32];
        (void)snprintf(domain, sizeof domain, "d%u.example",
                       (unsigned)random_below(&random, DOMAINS));
        if (random_below(&random, 8) == 0) {
            const struct route *r = put(h->cache, domain, NOW_MS);
            route_release(&r);
            continue;
        }
        bool refresh;
        const struct route *r = cache_get(h->cache, slice_str(domain), NOW_MS, &refresh);
        h->gets++;
        if (r != NULL && strcmp(r->domain, domain) != 0)
            h->wrong++;
        route_release(&r);
    }
    return NULL;
}

static void run_threads(struct hammer *hammers, void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, body, &hammers[i]), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void many_threads_read_write_and_evict_at_once(void **state)
{
    (void)state;
    struct cache *c = cache_create(DOMAINS / 2);
    struct hammer hammers[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        hammers[i] = (struct hammer){.cache = c, .seed = i + 1};
    run_threads(hammers, hammer);
    uint64_t gets = 0;
    for (int i = 0; i < THREADS; i++) {
        gets += hammers[i].gets;
        assert_int_equal(hammers[i].wrong, 0);
    }
    struct cache_figures figures = cache_figures(c);
    assert_int_equal(figures.hits + figures.misses, gets);
    assert_true(figures.hits > 0 && figures.misses > 0);
    cache_destroy(&c);
}

static void *ask_late(void *arg)
{
    struct hammer *h = arg;
    for (int i = 0; i < ROUNDS; i++) {
        bool refresh;
        const struct route *r =
            cache_get(h->cache, SLICE_LIT("a.example"), NOW_MS + LIFE_MS - 1, &refresh);
        h->wrong += r == NULL;
        if (refresh)
            atomic_fetch_add(h->refreshes, 1);
        route_release(&r);
    }
    return NULL;
}

static void only_one_of_many_threads_is_told_to_refresh(void **state)
{
    (void)state;
    struct cache *c = cache_create(100);
    const struct route *r = put(c, "a.example", NOW_MS);
    atomic_uint refreshes;
    atomic_init(&refreshes, 0);
    struct hammer hammers[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        hammers[i] = (struct hammer){.cache = c, .refreshes = &refreshes};
    run_threads(hammers, ask_late);
    assert_int_equal(atomic_load(&refreshes), 1);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(hammers[i].wrong, 0);
    assert_int_equal(atomic_load(&r->shared.references), 2); /* the cache's and ours */
    route_release(&r);
    cache_destroy(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_are_found_until_they_expire),
        cmocka_unit_test(hit_in_the_last_tenth_asks_for_one_refresh),
        cmocka_unit_test(temporary_failure_never_replaces_a_route_that_holds),
        cmocka_unit_test(full_cache_evicts_what_nobody_asks_for),
        cmocka_unit_test(smallest_cache_still_works),
        cmocka_unit_test(many_threads_read_write_and_evict_at_once),
        cmocka_unit_test(only_one_of_many_threads_is_told_to_refresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
