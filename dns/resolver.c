#include "dns/resolver.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/thread.h"
#include "dns/cache.h"
#include "dns/context.h"
#include "dns/event_base.h"
#include "dns/flight.h"
#include "dns/hash.h"

#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <unbound.h>

enum { SEARCH_BUCKETS = 4096 };

/* Where a search stands:
 *
 *   IN_LINE -> QUICK -> landed           as long as there are few
 *              QUICK -> SLOW -> landed   where it keeps others in line for more than RESOLVER_QUICK_MS
 *
 * So name servers that never answer hold up nobody else's mail, unless very many do. None is given
 * up early for it: libunbound would go on asking all the same, and keep its sockets. */
enum search_place { IN_LINE, QUICK, SLOW, PLACES };

/* One domain being looked up, or waiting in line for it, and all who asked. */
struct search {
    struct flight flight; /* valid while it flies */
    enum search_place place;
    uint64_t took_off_us;
    char domain[DOMAIN_SIZE]; /* normal form */
    struct link bucket_link;
    struct link place_link; /* on the resolver's list of that place */
    struct mail *waiters; /* struct resolver_query, by mail.next; newest first. Empty: a refresh */
};

/* A hot route's time is nearly up: sent to the dns thread by whoever noticed. */
struct refresh {
    struct mail mail;
    char domain[DOMAIN_SIZE];
};

struct resolver {
    struct cache *cache; /* locks itself */
    pthread_t thread;
    char (*own_names)[DOMAIN_SIZE];
    struct address *own_addresses;
    const struct route *no_resources; /* the answer when there is no memory for one */

    /* The dns thread's own. */
    struct draft_rules rules;
    struct event_base *base;
    struct ub_ctx *context;
    struct flight_deck deck;
    struct link buckets[SEARCH_BUCKETS]; /* struct search */
    uint64_t seed;
    struct link places[PLACES]; /* struct search, in the order of their asking */
    unsigned counts[PLACES];
    unsigned quick_max, slow_max;
    struct timer way_timer; /* the oldest quick flight is slow then, and somebody in line */
    bool stopping;
    struct mail stop_mail;

    struct {
        struct mailbox mailbox;                          /* lock-free; the dns thread owns it */
        _Alignas(64) _Atomic uint64_t flights, failures; /* the dns thread writes */
        struct histogram flight_times;                   /* likewise */
    } shared;
};

/* Between resolver_start and its thread, until `done`. */
struct startup {
    struct resolver *resolver;
    const struct resolver_options *options;
    struct error *error;
    bool ok;
    sem_t done;
};

/* ---- answering ---- */

/* Takes over the reference of `route`. */
static void answer(struct resolver *r, struct mail *mail, const struct route *route)
{
    struct resolver_query *query = CONTAINER_OF(mail, struct resolver_query, mail);
    query->route = route != NULL ? route : route_reference(r->no_resources);
    mail->on_arrival = query->on_answer;
    mailbox_post(query->reply_to, &mail);
}

static void answer_failure(struct resolver *r, struct mail *mail, struct slice domain,
                           enum reply_local why)
{
    answer(r, mail, draft_failure(domain, why, clock_mono_ms(), clock_wall_ms()));
}

/* ---- searches ---- */

static struct link *bucket_of(struct resolver *r, struct slice domain)
{
    return &r->buckets[hash_domain(r->seed, domain) % SEARCH_BUCKETS];
}

static struct search *find_search(struct resolver *r, struct slice domain)
{
    struct link *bucket = bucket_of(r, domain);
    for (struct link *l = bucket->next; l != bucket; l = l->next) {
        struct search *s = CONTAINER_OF(l, struct search, bucket_link);
        if (slice_equal(slice_str(s->domain), domain))
            return s;
    }
    return NULL;
}

static void place(struct resolver *r, struct search *s, enum search_place to)
{
    list_remove(&s->place_link);
    r->counts[s->place]--;
    s->place = to;
    list_push_back(&r->places[to], &s->place_link);
    r->counts[to]++;
}

static struct search *first_of(struct resolver *r, enum search_place place)
{
    struct link *list = &r->places[place];
    return list_empty(list) ? NULL : CONTAINER_OF(list->next, struct search, place_link);
}

static void fly(struct resolver *r, struct search *s)
{
    place(r, s, QUICK);
    s->took_off_us = clock_mono_us();
    atomic_fetch_add_explicit(&r->shared.flights, 1, memory_order_relaxed);
    flight_start(&s->flight, &r->deck, slice_str(s->domain));
}

/* Takes the oldest quick flight for a slow one. False where it is not yet, which the timer tells,
 * or where there are too many. */
static bool make_way(struct resolver *r)
{
    struct search *s = first_of(r, QUICK);
    if (r->counts[SLOW] == r->slow_max)
        return false;
    uint64_t slow_ms = s->took_off_us / 1000 + RESOLVER_QUICK_MS;
    if (clock_mono_ms() < slow_ms) {
        timer_arm(event_base_timers(r->base), &r->way_timer, slow_ms);
        return false;
    }
    place(r, s, SLOW);
    return true;
}

static void fly_next_in_line(struct resolver *r)
{
    while (r->counts[IN_LINE] > 0 && (r->counts[QUICK] < r->quick_max || make_way(r)))
        fly(r, first_of(r, IN_LINE));
}

static void on_way_timer(struct timer *timer, void *owner)
{
    (void)owner;
    fly_next_in_line(CONTAINER_OF(timer, struct resolver, way_timer));
}

/* The domain's search, begun where there was none; NULL when out of memory. */
static struct search *open_search(struct resolver *r, struct slice domain)
{
    struct search *s = find_search(r, domain);
    if (s != NULL)
        return s;
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    bool fits = slice_to_cstr(domain, s->domain, sizeof s->domain);
    ASSERT(fits);
    list_push_back(bucket_of(r, domain), &s->bucket_link);
    list_push_back(&r->places[IN_LINE], &s->place_link);
    r->counts[IN_LINE]++;
    fly_next_in_line(r);
    return s;
}

static void destroy_search(struct resolver *r, struct search *s)
{
    ASSERT(s->waiters == NULL);
    if (s->place != IN_LINE)
        flight_fini(&s->flight);
    list_remove(&s->place_link);
    r->counts[s->place]--;
    list_remove(&s->bucket_link);
    free(s);
}

static struct mail *pop_waiter(struct search *s)
{
    struct mail *mail = s->waiters;
    if (mail != NULL)
        s->waiters = mail->next;
    return mail;
}

static void on_landed(struct flight *f, void *owner)
{
    struct resolver *r = owner;
    struct search *s = CONTAINER_OF(f, struct search, flight);
    const struct route *route = route_reference(f->route != NULL ? f->route : r->no_resources);
    histogram_note(&r->shared.flight_times, clock_mono_us() - s->took_off_us, 1);
    if (route->kind == ROUTE_FAILED && route->failure.class == 4)
        atomic_fetch_add_explicit(&r->shared.failures, 1, memory_order_relaxed);
    if (f->route != NULL)
        cache_put(r->cache, route, clock_mono_ms());
    for (struct mail *mail; (mail = pop_waiter(s)) != NULL;)
        answer(r, mail, route_reference(route));
    route_release(&route);
    destroy_search(r, s);
    fly_next_in_line(r);
}

/* ---- mail to the dns thread ---- */

static void answer_literal(struct resolver *r, struct mail *mail, struct slice domain)
{
    uint64_t now_ms = clock_mono_ms();
    const struct route *route = draft_literal(domain, &r->rules, now_ms, clock_wall_ms());
    if (route != NULL)
        cache_put(r->cache, route, now_ms);
    answer(r, mail, route);
}

static void on_query(struct mail *mail, void *owner)
{
    struct resolver *r = owner;
    struct resolver_query *query = CONTAINER_OF(mail, struct resolver_query, mail);
    struct slice asked = slice_of(query->domain, strnlen(query->domain, sizeof query->domain - 1));
    if (r->stopping) {
        answer_failure(r, mail, asked, LOCAL_SHUTDOWN);
        return;
    }
    char name[DOMAIN_SIZE];
    if (!domain_normalize(asked, name)) { /* libunbound leaks on names that are none */
        answer_failure(r, mail, asked, LOCAL_BAD_DOMAIN);
        return;
    }
    struct slice domain = slice_str(name);
    /* Another flight may have landed while this was on its way. */
    const struct route *cached =
        query->fresh ? NULL : cache_peek(r->cache, domain, clock_mono_ms());
    if (cached != NULL) {
        answer(r, mail, cached);
        return;
    }
    if (name[0] == '[') {
        answer_literal(r, mail, domain);
        return;
    }
    struct search *s = open_search(r, domain);
    if (s == NULL) {
        answer(r, mail, NULL);
        return;
    }
    mail->next = s->waiters;
    s->waiters = mail;
}

static void on_refresh(struct mail *mail, void *owner)
{
    struct resolver *r = owner;
    struct refresh *refresh = CONTAINER_OF(mail, struct refresh, mail);
    if (!r->stopping) /* without memory for it, the route simply expires */
        (void)open_search(r, slice_str(refresh->domain));
    free(refresh);
}

static void on_stop(struct mail *mail, void *owner)
{
    (void)mail;
    struct resolver *r = owner;
    r->stopping = true;
}

/* ---- the dns thread ---- */

static void abandon_searches(struct resolver *r)
{
    for (int i = 0; i < SEARCH_BUCKETS; i++) {
        for (struct link *l; (l = list_pop_front(&r->buckets[i])) != NULL;) {
            struct search *s = CONTAINER_OF(l, struct search, bucket_link);
            for (struct mail *mail; (mail = pop_waiter(s)) != NULL;)
                answer_failure(r, mail, slice_str(s->domain), LOCAL_SHUTDOWN);
            destroy_search(r, s);
        }
    }
    for (int i = 0; i < PLACES; i++)
        ASSERT(r->counts[i] == 0);
}

static bool set_up(struct resolver *r, const struct resolver_options *options, struct error *error)
{
    r->base = event_base_create();
    if (r->base == NULL || !event_base_wake_on(r->base, r->shared.mailbox.event_fd)) {
        error_set(error, "out of descriptors or memory for the dns thread");
        return false;
    }
    r->context = context_create(event_base_for_unbound(r->base), options, error);
    if (r->context == NULL)
        return false;
    r->deck = (struct flight_deck){.context = r->context,
                                   .timers = event_base_timers(r->base),
                                   .rules = &r->rules,
                                   .limit_ms = options->flight_limit_ms,
                                   .on_landed = on_landed,
                                   .owner = r};
    flight_deck_init(&r->deck);
    return true;
}

static void tear_down(struct resolver *r)
{
    if (r->context != NULL)
        ub_ctx_delete(r->context);
    r->context = NULL;
    if (r->base != NULL)
        timer_disarm(event_base_timers(r->base), &r->way_timer);
    event_base_destroy(&r->base);
}

static void *run(void *arg)
{
    struct startup *startup = arg;
    struct resolver *r = startup->resolver;
    bool ok = set_up(r, startup->options, startup->error);
    startup->ok = ok;
    (void)sem_post(&startup->done); /* the caller's stack is out of bounds from here on */
    while (ok && !r->stopping) {
        bool may_sleep = mailbox_prepare_sleep(&r->shared.mailbox);
        event_base_wait(r->base, may_sleep);
        mailbox_awake(&r->shared.mailbox);
        event_base_dispatch(r->base);
        (void)mailbox_deliver(&r->shared.mailbox);
        flight_deck_run(&r->deck);
    }
    abandon_searches(r);
    tear_down(r);
    return NULL;
}

/* Starts the thread with all signals blocked, and waits until its context stands or has failed. */
static bool start_thread(struct resolver *r, const struct resolver_options *options,
                         struct error *error)
{
    struct startup startup = {.resolver = r, .options = options, .error = error};
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)sem_init(&startup.done, 0, 0);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    int rc = thread_start(&r->thread, "dns", run, &startup);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0) {
        while (sem_wait(&startup.done) != 0)
            continue; /* a signal came in between */
        if (!startup.ok)
            (void)pthread_join(r->thread, NULL);
    } else {
        error_set(error, "the dns thread cannot be started: %s", strerrordesc_np(rc));
    }
    (void)sem_destroy(&startup.done);
    return startup.ok;
}

/* ---- start and stop ---- */

static unsigned count_strings(const char *const *list)
{
    unsigned count = 0;
    while (list != NULL && list[count] != NULL)
        count++;
    return count;
}

static bool copy_rules(struct resolver *r, const struct resolver_options *o, struct error *error)
{
    unsigned names = count_strings(o->own_names);
    unsigned addresses = o->own_address_count;
    r->own_names = calloc((size_t)names + 1, sizeof *r->own_names);
    r->own_addresses = calloc((size_t)addresses + 1, sizeof *r->own_addresses);
    if (r->own_names == NULL || r->own_addresses == NULL) {
        error_set(error, "out of memory for the resolver");
        return false;
    }
    for (unsigned i = 0; i < names; i++) {
        if (!domain_normalize(slice_str(o->own_names[i]), r->own_names[i])) {
            error_set(error, "the relay's own name \"%s\" is not a valid host name",
                      o->own_names[i]);
            return false;
        }
    }
    if (addresses > 0)
        memcpy(r->own_addresses, o->own_addresses, addresses * sizeof *r->own_addresses);
    r->rules = (struct draft_rules){.own_names = (const char(*)[DOMAIN_SIZE])r->own_names,
                                    .own_name_count = names,
                                    .own_addresses = r->own_addresses,
                                    .own_address_count = addresses,
                                    .delivery_port = o->delivery_port,
                                    .use_ipv4 = o->use_ipv4,
                                    .use_ipv6 = o->use_ipv6};
    return true;
}

static bool fill(struct resolver *r, const struct resolver_options *o, struct error *error)
{
    struct random random;
    random_init(&random);
    r->seed = random_u64(&random);
    for (int i = 0; i < PLACES; i++)
        list_init(&r->places[i]);
    timer_init(&r->way_timer, on_way_timer);
    for (int i = 0; i < SEARCH_BUCKETS; i++)
        list_init(&r->buckets[i]);
    r->quick_max = o->flights_max > 0 ? o->flights_max : 1;
    r->slow_max = r->quick_max * RESOLVER_SLOW_SHARE;
    if (!copy_rules(r, o, error))
        return false;
    r->cache = cache_create(o->cache_entries_max);
    r->no_resources =
        draft_failure(SLICE_LIT(""), LOCAL_NO_RESOURCES, clock_mono_ms(), clock_wall_ms());
    if (r->cache == NULL || r->no_resources == NULL) {
        error_set(error, "out of memory for the route cache");
        return false;
    }
    return true;
}

static void destroy(struct resolver *r)
{
    cache_destroy(&r->cache);
    route_release(&r->no_resources);
    free(r->own_names);
    free(r->own_addresses);
    free(r);
}

struct resolver *resolver_start(const struct resolver_options *options, struct error *error)
{
    struct resolver *r = aligned_alloc(_Alignof(struct resolver), sizeof *r);
    if (r == NULL) {
        error_set(error, "out of memory for the resolver");
        return NULL;
    }
    memset(r, 0, sizeof *r);
    if (mailbox_init(&r->shared.mailbox, r) != 0) {
        error_set(error, "out of descriptors for the dns thread");
        free(r);
        return NULL;
    }
    if (!fill(r, options, error) || !start_thread(r, options, error)) {
        mailbox_fini(&r->shared.mailbox);
        destroy(r);
        return NULL;
    }
    return r;
}

void resolver_stop(struct resolver **r)
{
    struct resolver *stopped = *r;
    *r = NULL;
    if (stopped == NULL)
        return;
    stopped->stop_mail.on_arrival = on_stop;
    struct mail *mail = &stopped->stop_mail;
    mailbox_post(&stopped->shared.mailbox, &mail);
    (void)pthread_join(stopped->thread, NULL);
    /* What came behind the stop: this thread is the mailbox's owner now. */
    (void)mailbox_deliver(&stopped->shared.mailbox);
    mailbox_fini(&stopped->shared.mailbox);
    destroy(stopped);
}

/* ---- from any thread ---- */

static void send_refresh(struct resolver *r, const struct route *route)
{
    struct refresh *refresh = calloc(1, sizeof *refresh);
    if (refresh == NULL)
        return; /* then it expires, and the next mail waits for a flight */
    bool fits = slice_to_cstr(slice_str(route->domain), refresh->domain, sizeof refresh->domain);
    ASSERT(fits);
    refresh->mail.on_arrival = on_refresh;
    struct mail *mail = &refresh->mail;
    mailbox_post(&r->shared.mailbox, &mail);
}

const struct route *resolver_cached(struct resolver *r, struct slice domain, uint64_t mono_ms)
{
    bool refresh;
    const struct route *route = cache_get(r->cache, domain, mono_ms, &refresh);
    if (refresh)
        send_refresh(r, route);
    return route;
}

void resolver_ask(struct resolver *r, struct resolver_query **query)
{
    struct mail *mail = &(*query)->mail;
    *query = NULL;
    mail->on_arrival = on_query;
    mailbox_post(&r->shared.mailbox, &mail);
}

struct resolver_figures resolver_figures(struct resolver *r)
{
    struct cache_figures cache = cache_figures(r->cache);
    return (struct resolver_figures){
        .flights = atomic_load_explicit(&r->shared.flights, memory_order_relaxed),
        .failures = atomic_load_explicit(&r->shared.failures, memory_order_relaxed),
        .cache_hits = cache.hits,
        .cache_misses = cache.misses,
        .cached = cache.entries,
    };
}

void resolver_flight_times(const struct resolver *r, struct histogram_reading *sum)
{
    histogram_read(&r->shared.flight_times, sum);
}
