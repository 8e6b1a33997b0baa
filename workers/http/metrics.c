#include "workers/http/injector.h"
#include "workers/intake.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* Prometheus' text format 0.0.4: per metric a HELP and a TYPE line and its samples. Counters end in
 * _total, units are base units and stand in the name; every label takes a few fixed values. A
 * histogram shows those of the common bounds (histogram.h) that what it measures can come to. */

enum { METRICS_BYTES_MAX = 1 << 20 };

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP onward_%s %s\n# TYPE onward_%s %s\n", name, help, name, type);
}

static void sample(struct buf *out, const char *name, uint64_t value)
{
    buf_printf(out, "onward_%s %llu\n", name, (unsigned long long)value);
}

static void labelled(struct buf *out, const char *name, const char *label, const char *is,
                     uint64_t value)
{
    buf_printf(out, "onward_%s{%s=\"%s\"} %llu\n", name, label, is, (unsigned long long)value);
}

static void counter(struct buf *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "counter", help);
    sample(out, name, value);
}

static void gauge(struct buf *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "gauge", help);
    sample(out, name, value);
}

/* A histogram's samples; `label` is "" or `name="value"`. Buckets are cumulative: those below the
 * first that is shown are in it. */
static void timed(struct buf *out, const char *name, const char *label,
                  const struct histogram_reading *r, uint64_t first_us, uint64_t last_us)
{
    uint64_t count = 0;
    const char *comma = label[0] != '\0' ? "," : "";
    const char *open = label[0] != '\0' ? "{" : "", *close = label[0] != '\0' ? "}" : "";
    for (unsigned i = 0; i < HISTOGRAM_BOUNDS; i++) {
        uint64_t bound_us = histogram_bound_us(i);
        count += r->counts[i];
        if (bound_us >= first_us && bound_us <= last_us)
            buf_printf(out, "onward_%s_bucket{%s%sle=\"%g\"} %llu\n", name, label, comma,
                       (double)bound_us / 1e6, (unsigned long long)count);
    }
    count += r->counts[HISTOGRAM_BOUNDS];
    buf_printf(out, "onward_%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, label, comma,
               (unsigned long long)count);
    buf_printf(out, "onward_%s_sum%s%s%s %.6f\n", name, open, label, close,
               (double)r->sum_us / 1e6);
    buf_printf(out, "onward_%s_count%s%s%s %llu\n", name, open, label, close,
               (unsigned long long)count);
}

/* ---- the workers' figures, summed ---- */

struct sums {
#define X(name) uint64_t name;
    WORKER_FIGURES(X)
#undef X
};

static struct sums sum_workers(const struct worker_parts *parts)
{
    struct sums s = {0};
    for (unsigned i = 0; i < parts->worker_count; i++) {
        const struct worker_figures *f = &parts->workers[i].shared.figures;
#define X(name) s.name += atomic_load_explicit(&f->name, memory_order_relaxed);
        WORKER_FIGURES(X)
#undef X
    }
    return s;
}

static void put_workers(struct buf *out, const struct worker_parts *parts)
{
    struct sums s = sum_workers(parts);
    gauge(out, "submissions_open", "SMTP connections of submitters now open.", s.submissions_open);
    counter(out, "submissions_total", "SMTP connections of submitters.", s.submissions_total);
    counter(out, "submissions_refused_total", "SMTP connections turned away at their greeting.",
            s.submissions_refused);
    counter(out, "smtp_messages_accepted_total", "Messages taken over SMTP.", s.messages_accepted);
    counter(out, "smtp_accepted_bytes_total", "Content taken over SMTP, in bytes.",
            s.bytes_accepted);
    head(out, "recipient_attempts_total", "counter", "Attempts at recipients by how they ended.");
    labelled(out, "recipient_attempts_total", "outcome", "delivered", s.recipients_delivered);
    labelled(out, "recipient_attempts_total", "outcome", "deferred", s.recipients_deferred);
    labelled(out, "recipient_attempts_total", "outcome", "bounced", s.recipients_bounced);
    counter(out, "outcomes_unknown_total",
            "Transactions lost behind the final dot, whose outcome is unknown (RFC 1047).",
            s.outcomes_unknown);
    gauge(out, "lanes_open", "Lanes now at work for destinations.", s.lanes_open);
    gauge(out, "sessions_open", "Connections to exchanges now open.", s.sessions_open);
    counter(out, "sessions_total", "Connections to exchanges.", s.sessions_total);
    counter(out, "sessions_failed_total", "Connections to exchanges that failed.",
            s.sessions_failed);
    counter(out, "transactions_total", "Transactions with exchanges.", s.transactions);
    counter(out, "races_started_total", "Exchanges started beside a slow one.", s.races_started);
    counter(out, "races_won_by_later_total", "Races that a later exchange won.",
            s.races_won_by_later);
    counter(out, "exchanges_recovered_total", "Exchanges that were well again.",
            s.exchanges_recovered);
    counter(out, "tls_handshakes_total", "TLS handshakes with exchanges.", s.tls_handshakes);
    counter(out, "tls_resumed_total", "Of them, those that resumed a session.", s.tls_resumed);
}

/* ---- how long things take ---- */

enum { MS = 1000, SECOND = 1000 * MS };

static const uint64_t LONGEST_US = UINT64_MAX;

static void put_delivery_times(struct buf *out, const struct worker_parts *parts)
{
    head(out, "delivery_seconds", "histogram",
         "Time from a message's acceptance to a recipient's delivery, by priority.");
    for (unsigned p = 0; p < PRIORITIES; p++) {
        struct histogram_reading r = {0};
        char label[64];
        for (unsigned i = 0; i < parts->worker_count; i++)
            histogram_read(&parts->workers[i].shared.times.delivery[p], &r);
        (void)snprintf(label, sizeof label, "priority=\"%s\"", envelope_priority_name((uint8_t)p));
        timed(out, "delivery_seconds", label, &r, MS, LONGEST_US);
    }
}

static void put_times(struct buf *out, const struct worker_parts *parts)
{
    struct histogram_reading sessions = {0}, commits = {0}, flights = {0};
    put_delivery_times(out, parts);
    for (unsigned i = 0; i < parts->worker_count; i++)
        histogram_read(&parts->workers[i].shared.times.session, &sessions);
    head(out, "session_setup_seconds", "histogram",
         "Time from connecting to an exchange until it is ready for mail: handshakes, greeting, "
         "EHLO.");
    timed(out, "session_setup_seconds", "", &sessions, MS, 1000ull * SECOND);
    committer_commit_times(parts->committer, &commits);
    head(out, "spool_commit_seconds", "histogram",
         "Time that a transaction of the spool takes to be written and synced.");
    timed(out, "spool_commit_seconds", "", &commits, 100, 10ull * SECOND);
    resolver_flight_times(parts->resolver, &flights);
    head(out, "dns_flight_seconds", "histogram",
         "Time that a look-up of a domain's route takes, from MX to the last address.");
    timed(out, "dns_flight_seconds", "", &flights, 100, 50ull * SECOND);
}

/* ---- spool, names, exchanges ---- */

static void put_spool(struct buf *out, const struct worker_parts *parts)
{
    struct committer_figures f = committer_figures(parts->committer);
    gauge(out, "queue_messages", "Messages in the queue.", f.messages_queued);
    gauge(out, "queue_recipients", "Recipients in the queue.", f.recipients_queued);
    gauge(out, "queue_transactional_recipients", "Recipients of transactional mail in the queue.",
          f.transactional_queued);
    counter(out, "spool_commits_total", "Transactions made durable, one sync each.", f.commits);
    counter(out, "spool_messages_total", "Messages stored, bounces included.", f.messages);
    counter(out, "spool_outcomes_total", "Outcomes of attempts stored.", f.outcomes);
    gauge(out, "spool_has_room", "1 where the spool takes new mail, 0 below its floor.",
          store_has_room(parts->store));
    gauge(out, "jobs_waiting", "Deliveries due that no worker has taken yet.",
          jobs_length(parts->jobs));
}

static void put_suspensions(struct buf *out, const struct worker_parts *parts)
{
    struct suspension all;
    bool everything = suspensions_find(parts->suspensions, "", &all);
    unsigned count = suspensions_count(parts->suspensions); /* "all" may have ended since */
    gauge(out, "suspended_domains", "Domains whose deliveries an operator has suspended.",
          count > 0 ? count - everything : 0);
    gauge(out, "suspended_all", "1 where deliveries to all domains are suspended.", everything);
}

static void put_dns(struct buf *out, const struct worker_parts *parts)
{
    struct resolver_figures d = resolver_figures(parts->resolver);
    counter(out, "dns_flights_total", "Look-ups of a domain's route.", d.flights);
    counter(out, "dns_failures_total", "Look-ups that failed for now.", d.failures);
    counter(out, "dns_cache_hits_total", "Routes found in the cache.", d.cache_hits);
    counter(out, "dns_cache_misses_total", "Routes not found in the cache.", d.cache_misses);
    gauge(out, "dns_cached_routes", "Routes in the cache.", d.cached);
}

enum { STATES = HEALTH_REFUSING + 1 };

static void count_state(void *context, const struct health_view *v)
{
    uint64_t *counts = context;
    counts[v->state]++;
}

static void put_health(struct buf *out, const struct worker_parts *parts)
{
    uint64_t counts[STATES] = {0};
    health_visit(parts->health, count_state, counts);
    head(out, "exchanges", "gauge", "Exchange addresses known, by their health.");
    for (int i = 0; i < STATES; i++)
        labelled(out, "exchanges", "state", health_state_name((enum health_state)i), counts[i]);
}

/* ---- HTTP and the process ---- */

static void put_http(struct buf *out, struct http *h)
{
    static const char *const classes[HTTP_STATUS_CLASSES] = {"2xx", "3xx", "4xx", "5xx"};
    unsigned count;
    const struct http_route *routes = http_routes(&count);
    head(out, "http_requests_total", "counter", "HTTP requests by path and class of answer.");
    for (unsigned i = 0; i <= count; i++)
        for (int k = 0; k < HTTP_STATUS_CLASSES; k++) {
            uint64_t n = atomic_load_explicit(&h->shared.answers[i][k], memory_order_relaxed);
            if (n > 0)
                buf_printf(out, "onward_http_requests_total{path=\"%s\",class=\"%s\"} %llu\n",
                           i < count ? routes[i].path : "other", classes[k], (unsigned long long)n);
        }
    gauge(out, "http_body_bytes", "Bodies of HTTP requests in memory, in bytes.",
          atomic_load(&h->shared.memory));
}

static void put_injections(struct buf *out, const struct http *h)
{
    struct injectors_figures f = injectors_figures(h->injectors);
    counter(out, "http_injections_total", "Injections over HTTP that were read.", f.requests);
    counter(out, "http_messages_accepted_total", "Messages taken over HTTP.", f.messages);
    counter(out, "http_accepted_bytes_total", "Content taken over HTTP, in bytes.", f.bytes);
    counter(out, "http_recipients_failed_total", "Recipients of injections that got no message.",
            f.failed_recipients);
    counter(out, "http_recipients_repeated_total",
            "Recipients of repeated injections (Idempotency-Key) whose message was stored before.",
            f.repeated_recipients);
}

/* The name that Prometheus' client libraries give it. */
static void put_process(struct buf *out)
{
    struct rusage usage = {0};
    (void)getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    buf_printf(out,
               "# HELP process_cpu_seconds_total User and system CPU time, in seconds.\n"
               "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %.6f\n",
               cpu);
}

static void put_intake(struct buf *out, const struct worker_parts *parts)
{
    struct intake_view v = intake_view(parts->intake);
    counter(out, "intake_refused_total", "Messages and connections refused for want of room.",
            v.refused);
    counter(out, "intake_recipients_refused_total",
            "Recipients refused because their domain had its share of a nearly full queue.",
            v.refused_recipients);
    gauge(out, "memory_bytes", "Anonymous memory held, in bytes.", v.memory_bytes);
    gauge(out, "memory_limit_bytes", "Above it no new mail is taken, in bytes; 0 = no limit.",
          v.limits.memory_bytes);
    gauge(out, "spool_free_bytes", "Free room on the spool's disk, in bytes.", v.disk_free_bytes);
    gauge(out, "spool_floor_bytes", "Below so much free room no new mail is taken, in bytes.",
          v.disk_floor_bytes);
}

static void put_state(struct buf *out, const struct http *h)
{
    const char *reason;
    head(out, "build_info", "gauge", "The version that runs.");
    labelled(out, "build_info", "version", ONWARD_VERSION, 1);
    gauge(out, "ready", "1 where /readyz says yes.", http_ready(h, &reason));
    if (h->log != NULL)
        counter(out, "log_lines_dropped_total", "Log lines dropped because the disk was slow.",
                log_dropped(h->log));
}

void http_serve_metrics(struct http_request *r)
{
    struct buf out;
    buf_init(&out, METRICS_BYTES_MAX);
    put_state(&out, r->http);
    if (r->parts != NULL) {
        put_workers(&out, r->parts);
        put_times(&out, r->parts);
        put_spool(&out, r->parts);
        put_suspensions(&out, r->parts);
        put_intake(&out, r->parts);
        put_dns(&out, r->parts);
        put_health(&out, r->parts);
        put_injections(&out, r->http);
    }
    put_http(&out, r->http);
    put_process(&out);
    struct slice text = buf_slice(&out);
    char *copy = buf_ok(&out) ? malloc(text.len) : NULL;
    if (copy != NULL)
        memcpy(copy, text.ptr, text.len);
    buf_fini(&out);
    http_answer(r, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", copy, text.len);
}
