#include "workers/engine.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/memory.h"
#include "core/base/net.h"
#include "workers/chronicle.h"
#include "workers/events/events.h"
#include "workers/inbound/client_counts.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    RESERVED_DESCRIPTORS = RESOLVER_SOCKETS + 64, /* and files, eventfds */
    FLIGHTS_MAX = 512,                            /* and its slow ones have a socket each */
    FLIGHT_LIMIT_MS = 20000,
    DEAF_MS = 100,     /* for handshakes under way to end, and to accept them */
    HANG_UP_MS = 1000, /* for the workers to do as they are told */
    LEAVING_MS = 5000, /* for another process to go, once its drain must be over */
    INTERFACE_ADDRESSES_MAX = 1024,
};

static_assert((int)FLIGHTS_MAX * (1 + (int)RESOLVER_SLOW_SHARE) <= (int)RESOLVER_SOCKETS,
              "name servers that are silent leave sockets for the others");

/* ---- called by the committer ---- */

/* Jobs are in the ring: wakes as many sleeping workers as there are jobs. One that has not started
 * looks into the ring before it first sleeps. */
static void on_pushed(void *context, unsigned count)
{
    struct engine *e = context;
    unsigned running = atomic_load(&e->workers_started);
    unsigned first = atomic_fetch_add_explicit(&e->next_wake, 1, memory_order_relaxed);
    for (unsigned i = 0; i < running && count > 0; i++) {
        struct worker *w = &e->workers[(first + i) % running];
        if (mailbox_wake_sleeper(&w->shared.mailbox))
            count--;
    }
}

static void on_spool_failed(void *context, const char *what)
{
    struct engine *e = context;
    (void)fprintf(
        stderr,
        "onward: %s. No more mail is taken and the relay stops; what got its 250 is in the "
        "spool\n",
        what);
    log_note(e->parts.log, "fatal", what);
    intake_fail(e->parts.intake);
    atomic_store(&e->failed, true);
    uint64_t one = 1;
    if (e->failed_fd >= 0)
        (void)!write(e->failed_fd, &one, sizeof one);
}

static void on_damaged(void *context, uint64_t id)
{
    struct engine *e = context;
    char text[96], name[ENVELOPE_ID_SIZE];
    envelope_id_format(id, name);
    (void)snprintf(text, sizeof text, "%s cannot be read or held in memory; it stays in the spool",
                   name);
    log_note(e->parts.log, "damaged", text);
}

/* ---- starting: what is used is there first ---- */

/* Raises the soft limit on descriptors to the hard one; returns how many connections each worker
 * may have. */
static unsigned sessions_per_worker(const struct config *c)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        limit = (struct rlimit){.rlim_cur = 1024, .rlim_max = 1024};
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    uint64_t all = limit.rlim_cur < 1 << 20 ? limit.rlim_cur : 1 << 20;
    uint64_t taken = RESERVED_DESCRIPTORS + c->submission.connections_max;
    uint64_t left = all > taken + 64 ? all - taken : 64;
    if (c->delivery.connections_max > 0 && c->delivery.connections_max < left)
        left = c->delivery.connections_max;
    uint64_t each = left / c->workers.threads;
    return each > 0 ? (unsigned)each : 1;
}

bool engine_listen(struct engine *e, const struct config *c, struct error *error)
{
    e->listeners = calloc(c->submission.listener_count, sizeof *e->listeners);
    if (e->listeners == NULL) {
        error_set(error, "out of memory");
        return false;
    }
    for (unsigned i = 0; i < c->submission.listener_count; i++) {
        e->listeners[i] = net_bind(&c->submission.listeners[i].address, error);
        if (e->listeners[i] < 0)
            return false;
        e->parts.listener_count = i + 1;
    }
    e->parts.listeners = e->listeners;
    return true;
}

static bool open_spool(struct engine *e, struct error *error)
{
    const struct config *c = e->parts.config;
    struct store_options options = {.path = c->spool.path,
                                    .map_bytes = c->spool.map_size,
                                    .free_floor_bytes = c->spool.free_floor,
                                    .wait_ms = c->drain_timeout_ms + LEAVING_MS,
                                    .readers_max = c->workers.threads + c->http.threads + 16};
    e->parts.store = store_open(&options, error);
    if (e->parts.store == NULL)
        return false;
    const char *doubt = store_reserve_doubt(e->parts.store);
    if (doubt != NULL && e->parts.log != NULL)
        log_note(e->parts.log, "no_reserve", doubt);
    uint64_t by_clock = clock_wall_ms() << 20; /* grows with time, so ids sort by age */
    uint64_t last;
    if (!store_last_id(e->parts.store, &last)) { /* an id must not be given a second time */
        store_explain_damage(e->parts.store, 0, error);
        return false;
    }
    atomic_init(&e->parts.shared->next_id, (last > by_clock ? last : by_clock) + 1);
    return true;
}

/* Beside the spool, behind its lock. */
static bool start_events(struct engine *e, struct error *error)
{
    const struct config *c = e->parts.config;
    char path[4096];
    if (c->events.webhook_count == 0)
        return true;
    (void)snprintf(path, sizeof path, "%s/events", c->spool.path);
    struct events_options options = {.config = c, .path = path, .log = e->parts.log};
    e->parts.events = events_start(&options, error);
    return e->parts.events != NULL;
}

/* In the spool's folder, behind its lock. */
static bool load_suspensions(struct engine *e, struct error *error)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/suspended", e->parts.config->spool.path);
    e->parts.suspensions = suspensions_load(path, clock_mono_ms(), clock_wall_ms(), error);
    return e->parts.suspensions != NULL;
}

struct schedule_policy engine_policy(const struct config *c)
{
    return (struct schedule_policy){.retry_first_ms = c->retry.first_ms,
                                    .retry_max_ms = c->retry.max_ms,
                                    .age_limit_ms = c->retry.age_limit_ms,
                                    .jitter_percent = 10};
}

/* What the kernel kills for has shares that we do not count: sockets' buffers, page tables, and the
 * spool's pages until they are written. */
static uint64_t memory_limit(const struct config *c)
{
    return c->memory.max > 0 ? c->memory.max : memory_group_limit() / 10 * 8;
}

struct intake_limits engine_intake_limits(const struct config *c)
{
    return (struct intake_limits){.memory_bytes = memory_limit(c),
                                  .messages = c->spool.messages_max,
                                  .recipients = c->spool.recipients_max};
}

static bool start_committer(struct engine *e, struct error *error)
{
    struct random random;
    random_init(&random);
    struct schedule_options options = {.policy = engine_policy(e->parts.config),
                                       .jobs = e->parts.jobs,
                                       .destinations = e->parts.destinations,
                                       .suspensions = e->parts.suspensions,
                                       .on_pushed = on_pushed,
                                       .context = e,
                                       .random_seed = random_u64(&random)};
    e->schedule = schedule_create(&options, clock_mono_ms(), clock_wall_ms());
    if (e->schedule == NULL) {
        error_set(error, "out of memory for the schedule");
        return false;
    }
    struct committer_options committer = {.store = e->parts.store,
                                          .schedule = e->schedule,
                                          .submitters = &e->parts.shared->submitters,
                                          .on_fatal = on_spool_failed,
                                          .on_damaged = on_damaged,
                                          .context = e};
    e->parts.committer = committer_start(&committer, error);
    return e->parts.committer != NULL;
}

/* Our own addresses: the configured ones, and those we listen on at the delivery port; where that
 * is all addresses, those of the interfaces too. */
static struct address *own_addresses(const struct config *c, unsigned *count_out)
{
    unsigned max = c->own_address_count + c->submission.listener_count + INTERFACE_ADDRESSES_MAX;
    struct address *own = calloc(max, sizeof *own);
    unsigned count = 0;
    bool on_all = false;
    for (unsigned i = 0; own != NULL && i < c->own_address_count; i++)
        own[count++] = c->own_addresses[i];
    for (unsigned i = 0; own != NULL && i < c->submission.listener_count; i++) {
        const struct address *a = &c->submission.listeners[i].address;
        if (a->port != c->delivery.port)
            continue;
        own[count++] = *a;
        on_all = on_all || address_is_unspecified(a);
    }
    if (on_all)
        count += net_interface_addresses(own + count, max - count);
    *count_out = count;
    return own;
}

static struct resolver_zone *stub_zones(const struct config *c)
{
    unsigned count = 0;
    while (c->dns.stub_zones[count].name != NULL)
        count++;
    struct resolver_zone *zones = calloc(count + 1, sizeof *zones);
    for (unsigned i = 0; zones != NULL && i < count; i++)
        zones[i] = (struct resolver_zone){c->dns.stub_zones[i].name, c->dns.stub_zones[i].servers};
    return zones;
}

static bool start_resolver(struct engine *e, struct error *error)
{
    const struct config *c = e->parts.config;
    unsigned own_count = 0;
    struct address *own = own_addresses(c, &own_count);
    struct resolver_zone *stubs = stub_zones(c);
    if (own != NULL && stubs != NULL) {
        struct resolver_options options = {.forwarders = c->dns.forwarders,
                                           .stubs = stubs,
                                           .unbound_options = c->dns.unbound,
                                           .dnssec = c->dns.dnssec,
                                           .own_names = c->own_names,
                                           .own_addresses = own,
                                           .own_address_count = own_count,
                                           .delivery_port = c->delivery.port,
                                           .use_ipv4 = c->delivery.use_ipv4,
                                           .use_ipv6 = c->delivery.use_ipv6,
                                           .flights_max = FLIGHTS_MAX,
                                           .flight_limit_ms = FLIGHT_LIMIT_MS,
                                           .cache_entries_max = c->dns.cache_entries};
        e->parts.resolver = resolver_start(&options, error);
    } else {
        error_set(error, "out of memory for the resolver");
    }
    free(own);
    free(stubs);
    return e->parts.resolver != NULL;
}

static bool create_tables(struct engine *e, struct error *error)
{
    const struct config *c = e->parts.config;
    struct random random;
    random_init(&random);
    struct health_options health = {.entries = c->health.entries,
                                    .demote_first_ms = c->health.demote_first_ms,
                                    .demote_max_ms = c->health.demote_max_ms,
                                    .down_first_ms = c->health.down_first_ms,
                                    .tls_broken_ms = c->health.tls_broken_ms,
                                    .patience_min_ms = c->delivery.patience_min_ms,
                                    .patience_max_ms = c->delivery.patience_max_ms};
    struct intake_limits limits = engine_intake_limits(c);
    e->parts.health = health_create(&health);
    e->parts.destinations = destination_table_create();
    e->parts.chronicle = chronicle_create();
    e->parts.jobs = jobs_create(c->workers.job_ring_slots);
    e->parts.shared->clients = client_counts_create();
    e->parts.intake = intake_create(&limits);
    e->workers = calloc(c->workers.threads, sizeof *e->workers);
    e->parts.workers = e->workers;
    e->parts.worker_count = c->workers.threads;
    e->parts.sessions_max = sessions_per_worker(c);
    if (e->parts.chronicle == NULL || e->parts.health == NULL || e->parts.destinations == NULL ||
        e->parts.jobs == NULL || e->parts.shared->clients == NULL || e->parts.intake == NULL ||
        e->workers == NULL) {
        error_set(error, "out of memory for the shared tables");
        return false;
    }
    if (c->delivery.tls == CONFIG_TLS_OFF)
        return true;
    e->parts.tls =
        tls_create(c->delivery.tls == CONFIG_TLS_REQUIRED, c->delivery.tls_ca_file, error);
    return e->parts.tls != NULL;
}

static bool start_workers(struct engine *e, struct error *error)
{
    for (unsigned i = 0; i < e->parts.worker_count; i++) {
        if (!worker_start(&e->workers[i], i, &e->parts, error))
            return false;
        atomic_store(&e->workers_started, i + 1);
    }
    return true;
}

/* Not before the spool is ours: until then callers are refused, and may try another relay. */
static bool take_callers(struct engine *e, struct error *error)
{
    const struct config_listener *listeners = e->parts.config->submission.listeners;
    for (unsigned i = 0; i < e->parts.listener_count; i++)
        if (!net_listen_bound(e->listeners[i], &listeners[i].address, error))
            return false;
    return true;
}

int engine_open(struct engine *e, const struct config *config, struct log *log, struct error *error)
{
    void *shared = aligned_alloc(64, (sizeof *e->parts.shared + 63) / 64 * 64);
    if (shared == NULL) {
        error_set(error, "out of memory for the shared tables");
        return EX_OSERR;
    }
    memset(shared, 0, sizeof *e->parts.shared);
    e->parts.config = config;
    e->parts.log = log;
    e->parts.shared = shared;
    if (!create_tables(e, error))
        return EX_OSERR;
    if (!open_spool(e, error))
        return EX_TEMPFAIL;
    return take_callers(e, error) ? 0 : EX_UNAVAILABLE;
}

int engine_start(struct engine *e, bool listen, struct error *error)
{
    if (listen && !start_events(e, error))
        return EX_CANTCREAT;
    if (listen && !load_suspensions(e, error))
        return EX_CONFIG;
    if (!start_resolver(e, error))
        return EX_CONFIG;
    if (!start_committer(e, error))
        return EX_TEMPFAIL;
    intake_open(e->parts.intake, e->parts.store, e->parts.committer);
    return start_workers(e, error) ? 0 : EX_OSERR;
}

/* ---- stopping ---- */

static void nap_ms(int ms)
{
    (void)poll(NULL, 0, ms);
}

static void close_listeners(struct engine *e)
{
    for (unsigned i = 0; i < e->parts.listener_count; i++)
        net_close(e->listeners[i]);
    e->parts.listener_count = 0;
}

/* Connections that the kernel had taken when it went deaf are accepted meanwhile, and told 421. */
void engine_drain(struct engine *e)
{
    intake_drain(e->parts.intake);
    store_leave(e->parts.store);
    for (unsigned i = 0; i < e->parts.listener_count; i++)
        net_listener_deafen(e->listeners[i]);
    nap_ms(DEAF_MS);
    for (unsigned i = 0; i < e->workers_started; i++)
        (void)worker_drain(&e->workers[i]);
    for (int i = 0; i < HANG_UP_MS && atomic_load(&e->parts.shared->listening) > 0; i++)
        nap_ms(1);
    if (atomic_load(&e->parts.shared->listening) == 0)
        close_listeners(e);
}

void engine_hang_up(struct engine *e)
{
    for (unsigned i = 0; i < e->workers_started; i++)
        (void)worker_hang_up(&e->workers[i]);
    for (int i = 0; i < HANG_UP_MS && atomic_load(&e->parts.shared->submitters) > 0; i++)
        nap_ms(1);
}

bool engine_is_quiet(struct engine *e)
{
    for (unsigned i = 0; i < e->workers_started; i++)
        if (!worker_is_quiet(&e->workers[i]))
            return false;
    return true;
}

/* What still waits at a destination is let go: the schedule frees it, and the spool has it. */
static void empty_destination(void *context, struct destination *d)
{
    struct link list;
    (void)context;
    list_init(&list);
    (void)destination_take_all(d, &list);
    while (list_pop_front(&list) != NULL)
        continue;
}

/* Takes everything down, whatever of it was started. */
void engine_stop(struct engine *e)
{
    if (e->parts.shared == NULL) { /* it was never started */
        close_listeners(e);
        free(e->listeners);
        return;
    }
    for (unsigned i = 0; i < e->workers_started; i++)
        worker_stop(&e->workers[i]);
    if (e->parts.intake != NULL)
        intake_close(e->parts.intake);
    if (e->parts.resolver != NULL)
        resolver_stop(&e->parts.resolver);
    if (e->parts.committer != NULL)
        committer_stop(&e->parts.committer);
    for (unsigned i = 0; i < e->workers_started; i++)
        worker_bury(&e->workers[i]);
    events_stop(&e->parts.events);
    close_listeners(e);
    free(e->listeners);
    struct priority_turn turn = {0};
    while (e->parts.jobs != NULL && jobs_take(e->parts.jobs, &turn) != NULL)
        continue; /* the schedule frees them */
    if (e->parts.destinations != NULL)
        destination_table_visit(e->parts.destinations, empty_destination, NULL);
    if (e->schedule != NULL)
        schedule_destroy(&e->schedule);
    if (e->parts.store != NULL)
        store_close(&e->parts.store);
    destination_table_destroy(&e->parts.destinations);
    health_destroy(&e->parts.health);
    chronicle_destroy(&e->parts.chronicle);
    client_counts_destroy(&e->parts.shared->clients);
    intake_destroy(&e->parts.intake);
    jobs_destroy(&e->parts.jobs);
    suspensions_destroy(&e->parts.suspensions);
    tls_destroy(&e->parts.tls);
    free(e->workers);
    free(e->parts.shared);
}
