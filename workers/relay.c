#include "workers/relay.h"

#include "core/base/assert.h"
#include "core/base/clock.h"
#include "core/base/net.h"
#include "core/queue/schedule.h"
#include "workers/control.h"
#include "workers/inbound/client_counts.h"
#include "workers/worker.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <sysexits.h>
#include <poll.h>
#include <unistd.h>

enum {
    RESERVED_DESCRIPTORS =
        1024 + 64, /* libunbound's outgoing-range (DESIGN.md 8), files, eventfds */
    DRAIN_POLL_MS = 20,
    FLIGHTS_MAX = 512,
    FLIGHT_LIMIT_MS = 20000,
    CONFIGS_MAX = 64, /* reloads keep the older configurations: connections still point into them */
};

struct relay {
    struct config *configs[CONFIGS_MAX]; /* newest last; owned */
    unsigned config_count;
    struct worker_parts parts;
    struct schedule *schedule;
    struct control *control;
    struct worker *workers;
    atomic_uint workers_started; /* the committer wakes these: it runs before them */
    int *listeners;
    int signal_fd;
    int wake_fd;           /* written by the committer when the spool has failed */
    atomic_uint next_wake; /* the worker to look at first when jobs are pushed */
    atomic_bool failed;
};

static const struct config *config_of(const struct relay *r)
{
    return r->configs[r->config_count - 1];
}

static int complain(const struct error *error, int status)
{
    (void)fprintf(stderr, "onward: %s\n", error->text);
    return status;
}

/* ---- called by the committer ---- */

/* Jobs are in the ring: wakes as many sleeping workers as there are jobs. One that has not started
 * looks into the ring before it first sleeps. */
static void on_pushed(void *context, unsigned count)
{
    struct relay *r = context;
    unsigned running = atomic_load(&r->workers_started);
    unsigned first = atomic_fetch_add_explicit(&r->next_wake, 1, memory_order_relaxed);
    for (unsigned i = 0; i < running && count > 0; i++) {
        struct worker *w = &r->workers[(first + i) % running];
        if (mailbox_wake_sleeper(&w->shared.mailbox))
            count--;
    }
}

static void on_spool_failed(void *context, const char *what)
{
    struct relay *r = context;
    (void)fprintf(stderr,
                  "onward: the spool cannot be written: %s; taking no more mail and stopping. What "
                  "got its 250 is in the spool: mend the disk and start again\n",
                  what);
    log_note(r->parts.log, "fatal", what);
    atomic_store(&r->failed, true);
    uint64_t one = 1;
    (void)!write(r->wake_fd, &one, sizeof one);
}

static void on_damaged(void *context, uint64_t id)
{
    struct relay *r = context;
    char text[96], name[ENVELOPE_ID_SIZE];
    envelope_id_format(id, name);
    (void)snprintf(text, sizeof text, "%s cannot be read or held in memory; it stays in the spool",
                   name);
    log_note(r->parts.log, "damaged", text);
}

/* ---- status ---- */

static void add_status(void *context, void *answer)
{
    const struct relay *r = context;
    json_t *workers = json_object_get(answer, "workers");
    if (workers == NULL) {
        workers = json_object();
        (void)json_object_set_new(answer, "workers", workers);
    }
#define X(name)                                                                                    \
    {                                                                                              \
        uint64_t sum = 0;                                                                          \
        for (unsigned i = 0; i < r->workers_started; i++)                                          \
            sum += atomic_load_explicit(&r->workers[i].shared.figures.name, memory_order_relaxed); \
        (void)json_object_set_new(workers, #name, json_integer((json_int_t)sum));                  \
    }
    WORKER_FIGURES(X)
#undef X
    (void)json_object_set_new(answer, "log_dropped",
                              json_integer((json_int_t)log_dropped(r->parts.log)));
    (void)json_object_set_new(answer, "draining",
                              json_boolean(atomic_load(&r->parts.shared->draining)));
}

/* ---- starting, in the order of the message's way backwards: what is used is there first ---- */

static bool block_signals(struct relay *r, struct error *error)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    (void)signal(SIGPIPE, SIG_IGN);
    int rc = pthread_sigmask(SIG_BLOCK, &set, NULL);
    r->signal_fd = rc == 0 ? signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC) : -1;
    if (r->signal_fd < 0)
        error_set(error, "cannot set up signals: %s", strerror(errno));
    return r->signal_fd >= 0;
}

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

static bool open_listeners(struct relay *r, struct error *error)
{
    const struct config *c = config_of(r);
    r->listeners = calloc(c->submission.listener_count, sizeof *r->listeners);
    if (r->listeners == NULL) {
        error_set(error, "out of memory");
        return false;
    }
    for (unsigned i = 0; i < c->submission.listener_count; i++) {
        r->listeners[i] = net_listen(&c->submission.listeners[i].address, error);
        if (r->listeners[i] < 0)
            return false;
        r->parts.listener_count = i + 1;
    }
    r->parts.listeners = r->listeners;
    return true;
}

static bool open_spool(struct relay *r, struct error *error)
{
    const struct config *c = config_of(r);
    struct store_options options = {.path = c->spool.path,
                                    .map_bytes = c->spool.map_size,
                                    .free_floor_bytes = c->spool.free_floor,
                                    .readers_max = c->workers.threads + 16};
    r->parts.store = store_open(&options, error);
    if (r->parts.store == NULL)
        return false;
    uint64_t by_clock = clock_wall_ms() << 20; /* grows with time, so ids sort by age */
    uint64_t last = store_last_id(r->parts.store);
    atomic_init(&r->parts.shared->next_id, (last > by_clock ? last : by_clock) + 1);
    return true;
}

static struct schedule_policy policy_of(const struct config *c)
{
    return (struct schedule_policy){.retry_first_ms = c->retry.first_ms,
                                    .retry_max_ms = c->retry.max_ms,
                                    .age_limit_ms = c->retry.age_limit_ms,
                                    .jitter_percent = 10};
}

static bool start_committer(struct relay *r, struct error *error)
{
    struct random random;
    random_init(&random);
    struct schedule_options options = {.policy = policy_of(config_of(r)),
                                       .ring = r->parts.jobs,
                                       .destinations = r->parts.destinations,
                                       .on_pushed = on_pushed,
                                       .context = r,
                                       .random_seed = random_u64(&random)};
    r->schedule = schedule_create(&options, clock_mono_ms(), clock_wall_ms());
    if (r->schedule == NULL) {
        error_set(error, "out of memory for the schedule");
        return false;
    }
    struct committer_options committer = {.store = r->parts.store,
                                          .schedule = r->schedule,
                                          .on_fatal = on_spool_failed,
                                          .on_damaged = on_damaged,
                                          .context = r};
    r->parts.committer = committer_start(&committer, error);
    return r->parts.committer != NULL;
}

/* Our own addresses: those we listen on at the delivery port, and the configured ones. */
static struct address *own_addresses(const struct config *c, unsigned *count_out)
{
    unsigned max = c->own_address_count + c->submission.listener_count;
    struct address *own = calloc(max + 1, sizeof *own);
    unsigned count = 0;
    for (unsigned i = 0; own != NULL && i < c->own_address_count; i++)
        own[count++] = c->own_addresses[i];
    for (unsigned i = 0; own != NULL && i < c->submission.listener_count; i++)
        if (c->submission.listeners[i].address.port == c->delivery.port)
            own[count++] = c->submission.listeners[i].address;
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

static bool start_resolver(struct relay *r, struct error *error)
{
    const struct config *c = config_of(r);
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
        r->parts.resolver = resolver_start(&options, error);
    } else {
        error_set(error, "out of memory for the resolver");
    }
    free(own);
    free(stubs);
    return r->parts.resolver != NULL;
}

static bool create_tables(struct relay *r, struct error *error)
{
    const struct config *c = config_of(r);
    struct random random;
    random_init(&random);
    struct health_options health = {.entries = c->health.entries,
                                    .demote_first_ms = c->health.demote_first_ms,
                                    .demote_max_ms = c->health.demote_max_ms,
                                    .down_first_ms = c->health.down_first_ms,
                                    .tls_broken_ms = c->health.tls_broken_ms,
                                    .patience_min_ms = c->delivery.patience_min_ms,
                                    .patience_max_ms = c->delivery.patience_max_ms};
    r->parts.health = health_create(&health);
    r->parts.destinations = destination_table_create();
    r->parts.jobs = ring_create(c->workers.job_ring_slots);
    r->parts.shared->clients = client_counts_create();
    r->workers = calloc(c->workers.threads, sizeof *r->workers);
    r->parts.workers = r->workers;
    r->parts.worker_count = c->workers.threads;
    r->parts.sessions_max = sessions_per_worker(c);
    if (r->parts.health == NULL || r->parts.destinations == NULL || r->parts.jobs == NULL ||
        r->parts.shared->clients == NULL || r->workers == NULL) {
        error_set(error, "out of memory for the shared tables");
        return false;
    }
    if (c->delivery.tls == CONFIG_TLS_OFF)
        return true;
    r->parts.tls =
        tls_create(c->delivery.tls == CONFIG_TLS_REQUIRED, c->delivery.tls_ca_file, error);
    return r->parts.tls != NULL;
}

static bool start_workers(struct relay *r, struct error *error)
{
    for (unsigned i = 0; i < r->parts.worker_count; i++) {
        if (!worker_start(&r->workers[i], i, &r->parts, error))
            return false;
        atomic_store(&r->workers_started, i + 1);
    }
    return true;
}

static bool start_control(struct relay *r, struct error *error)
{
    struct control_options options = {.config = config_of(r),
                                      .store = r->parts.store,
                                      .committer = r->parts.committer,
                                      .health = r->parts.health,
                                      .resolver = r->parts.resolver,
                                      .destinations = r->parts.destinations,
                                      .add_status = add_status,
                                      .context = r};
    r->control = control_start(&options, error);
    return r->control != NULL;
}

/* Everything, one after the other; returns 0 or the exit status of what failed. */
static int start(struct relay *r, struct error *error)
{
    const struct config *c = config_of(r);
    if (!block_signals(r, error))
        return EX_OSERR;
    r->parts.log = log_open(c->log.path, error);
    if (r->parts.log == NULL)
        return EX_CANTCREAT;
    if (!create_tables(r, error))
        return EX_OSERR;
    if (!open_spool(r, error))
        return EX_TEMPFAIL;
    if (!open_listeners(r, error))
        return EX_UNAVAILABLE;
    if (!start_resolver(r, error))
        return EX_CONFIG;
    if (!start_committer(r, error))
        return EX_TEMPFAIL;
    if (!start_workers(r, error))
        return EX_OSERR;
    if (!start_control(r, error))
        return EX_UNAVAILABLE;
    return 0;
}

/* ---- running ---- */

static void reload(struct relay *r)
{
    struct error error = {0};
    log_reopen(r->parts.log);
    struct config *fresh = config_load(config_of(r)->path, &error);
    if (fresh == NULL) {
        (void)fprintf(stderr, "onward: not reloaded: %s\n", error.text);
        log_note(r->parts.log, "reload_refused", error.text);
        return;
    }
    const char *conflict = config_reload_conflict(config_of(r), fresh);
    if (conflict != NULL || r->config_count == CONFIGS_MAX) {
        const char *why = conflict != NULL ? conflict : "too many reloads";
        (void)fprintf(stderr, "onward: not reloaded: %s needs a restart\n", why);
        log_note(r->parts.log, "reload_refused", why);
        config_free(&fresh);
        return;
    }
    r->configs[r->config_count++] = fresh;
    struct schedule_policy policy = policy_of(fresh);
    bool told = committer_set_policy(r->parts.committer, &policy);
    for (unsigned i = 0; i < r->workers_started; i++)
        told &= worker_reload(&r->workers[i], fresh);
    log_note(r->parts.log, told ? "reloaded" : "reload_partial", fresh->path);
}

/* Waits for signals; returns when the relay is to stop. */
static void run(struct relay *r)
{
    struct pollfd fds[2] = {{.fd = r->signal_fd, .events = POLLIN},
                            {.fd = r->wake_fd, .events = POLLIN}};
    while (!atomic_load(&r->failed)) {
        struct signalfd_siginfo info;
        if (poll(fds, 2, -1) < 0 || read(r->signal_fd, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo != SIGHUP)
            return;
        (void)sd_notify(0, "RELOADING=1");
        reload(r);
        (void)sd_notify(0, "READY=1");
    }
}

static bool all_quiet(struct relay *r)
{
    for (unsigned i = 0; i < r->workers_started; i++)
        if (!worker_is_quiet(&r->workers[i]))
            return false;
    return true;
}

/* No new mail; transactions under way finish, within the limit. */
static void drain(struct relay *r)
{
    (void)sd_notify(0, "STOPPING=1");
    log_note(r->parts.log, "draining", "no new mail; finishing what is under way");
    atomic_store(&r->parts.shared->draining, true);
    for (unsigned i = 0; i < r->workers_started; i++)
        (void)worker_drain(&r->workers[i]);
    uint64_t until = clock_mono_ms() + config_of(r)->drain_timeout_ms;
    while (!all_quiet(r) && clock_mono_ms() < until && !atomic_load(&r->failed)) {
        struct pollfd fd = {.fd = r->signal_fd, .events = POLLIN};
        struct signalfd_siginfo info;
        if (poll(&fd, 1, DRAIN_POLL_MS) > 0 && read(r->signal_fd, &info, sizeof info) > 0 &&
            info.ssi_signo != SIGHUP)
            return; /* asked a second time: now */
    }
}

static void close_listeners(struct relay *r)
{
    for (unsigned i = 0; i < r->parts.listener_count; i++)
        net_close(r->listeners[i]);
    free(r->listeners);
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
static void stop(struct relay *r)
{
    control_stop(&r->control);
    for (unsigned i = 0; i < r->workers_started; i++)
        worker_stop(&r->workers[i]);
    if (r->parts.resolver != NULL)
        resolver_stop(&r->parts.resolver);
    if (r->parts.committer != NULL)
        committer_stop(&r->parts.committer);
    for (unsigned i = 0; i < r->workers_started; i++)
        worker_bury(&r->workers[i]);
    close_listeners(r);
    while (r->parts.jobs != NULL && ring_pop(r->parts.jobs) != NULL)
        continue; /* the schedule frees them */
    if (r->parts.destinations != NULL)
        destination_table_visit(r->parts.destinations, empty_destination, NULL);
    if (r->schedule != NULL)
        schedule_destroy(&r->schedule);
    if (r->parts.store != NULL)
        store_close(&r->parts.store);
    destination_table_destroy(&r->parts.destinations);
    health_destroy(&r->parts.health);
    client_counts_destroy(&r->parts.shared->clients);
    ring_destroy(&r->parts.jobs);
    tls_destroy(&r->parts.tls);
    if (r->parts.log != NULL)
        log_close(&r->parts.log);
    if (r->signal_fd >= 0)
        (void)close(r->signal_fd);
    free(r->workers);
}

int relay_serve(const char *config_path)
{
    struct error error = {0};
    struct relay *r = calloc(1, sizeof *r);
    void *shared = aligned_alloc(64, (sizeof *r->parts.shared + 63) / 64 * 64);
    ASSERT(r != NULL && shared != NULL);
    memset(shared, 0, sizeof *r->parts.shared);
    r->parts.shared = shared;
    r->signal_fd = -1;
    r->configs[0] = config_load(config_path, &error);
    if (r->configs[0] == NULL) {
        free(shared);
        free(r);
        return complain(&error, EX_CONFIG);
    }
    r->config_count = 1;
    r->parts.config = r->configs[0];
    r->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int status = start(r, &error);
    if (status == 0) {
        (void)sd_notify(0, "READY=1");
        log_note(r->parts.log, "started", config_of(r)->path);
        run(r);
        drain(r);
        status = atomic_load(&r->failed) ? EX_IOERR : 0;
    } else {
        (void)complain(&error, status);
    }
    stop(r);
    (void)close(r->wake_fd);
    for (unsigned i = 0; i < r->config_count; i++)
        config_free(&r->configs[i]);
    free(shared);
    free(r);
    return status;
}
