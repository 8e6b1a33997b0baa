#include "workers/relay.h"

#include "core/base/clock.h"
#include "workers/control.h"
#include "workers/engine.h"
#include "workers/events/events.h"
#include "workers/http/http.h"
#include "workers/intake.h"
#include "workers/privileges.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum {
    DRAIN_POLL_MS = 20,
    CONFIGS_MAX =
        1000, /* changes keep the older configurations: connections still point into them */
};

struct relay {
    struct config *configs[CONFIGS_MAX]; /* newest last; owned */
    unsigned config_count;
    struct engine engine;
    struct log *log;
    struct control *control;
    struct http *http;
    int signal_fd;
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

/* ---- status ---- */

static uint64_t sum(const struct relay *r, size_t figure)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < r->engine.workers_started; i++) {
        const char *figures = (const char *)&r->engine.workers[i].shared.figures;
        total += atomic_load_explicit((const _Atomic uint64_t *)(const void *)(figures + figure),
                                      memory_order_relaxed);
    }
    return total;
}

static void add_events(const struct relay *r, json_t *answer)
{
    struct events *events = r->engine.parts.events;
    unsigned count = events_view(events, NULL, 0);
    struct webhook_view *views = calloc(count + 1, sizeof *views);
    if (count == 0 || views == NULL) {
        free(views);
        return;
    }
    (void)events_view(events, views, count);
    json_t *hooks = json_array();
    for (unsigned i = 0; i < count; i++) {
        const struct webhook_view *v = &views[i];
        json_t *hook =
            json_pack("{s:s,s:I,s:I,s:I,s:I,s:b}", "url", v->url, "pending", (json_int_t)v->pending,
                      "delivered", (json_int_t)v->delivered, "dropped", (json_int_t)v->dropped,
                      "failures", (json_int_t)v->failures, "failing", v->failing);
        if (v->failing)
            (void)json_object_set_new(hook, "again_ms", json_integer((json_int_t)v->again_ms));
        if (v->last_error[0] != '\0')
            (void)json_object_set_new(hook, "last_error", json_string(v->last_error));
        (void)json_array_append_new(hooks, hook);
    }
    free(views);
    (void)json_object_set_new(answer, "webhooks", hooks);
    (void)json_object_set_new(answer, "events_lost", json_integer((json_int_t)events_lost(events)));
}

/* May new mail be taken, why not, and what led to it. */
static void add_intake(const struct relay *r, json_t *answer)
{
    struct intake_view v = intake_view(r->engine.parts.intake);
    json_t *intake = json_pack(
        "{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "state",
        intake_word(v.state), "text", intake_reply(v.state)->text, "since_ms",
        (json_int_t)v.since_ms, "refused", (json_int_t)v.refused, "recipients_refused",
        (json_int_t)v.refused_recipients, "messages_queued", (json_int_t)v.messages, "messages_max",
        (json_int_t)v.limits.messages, "recipients_queued", (json_int_t)v.recipients,
        "recipients_max", (json_int_t)v.limits.recipients, "memory_bytes",
        (json_int_t)v.memory_bytes, "memory_max", (json_int_t)v.limits.memory_bytes,
        "allocated_bytes", (json_int_t)v.allocated_bytes, "disk_free_bytes",
        (json_int_t)v.disk_free_bytes, "disk_floor_bytes", (json_int_t)v.disk_floor_bytes,
        "ring_used", (json_int_t)jobs_length(r->engine.parts.jobs), "ring_slots",
        (json_int_t)config_of(r)->workers.job_ring_slots);
    if (v.share != UINT64_MAX)
        (void)json_object_set_new(intake, "domain_share", json_integer((json_int_t)v.share));
    (void)json_object_set_new(answer, "intake", intake);
}

static void add_status(void *context, void *answer)
{
    const struct relay *r = context;
    add_intake(r, answer);
    json_t *workers = json_object_get(answer, "workers");
    if (workers == NULL) {
        workers = json_object();
        (void)json_object_set_new(answer, "workers", workers);
    }
#define X(name)                                                                                    \
    (void)json_object_set_new(                                                                     \
        workers, #name, json_integer((json_int_t)sum(r, offsetof(struct worker_figures, name))));
    WORKER_FIGURES(X)
#undef X
    (void)json_object_set_new(answer, "log_dropped", json_integer((json_int_t)log_dropped(r->log)));
    add_events(r, answer);
    (void)json_object_set_new(
        answer, "draining", json_boolean(intake_state(r->engine.parts.intake) == INTAKE_DRAINING));
}

static void read_sample(void *context, struct chronicle_sample *s)
{
    const struct relay *r = context;
    s->accepted = sum(r, offsetof(struct worker_figures, messages_accepted));
    s->delivered = sum(r, offsetof(struct worker_figures, recipients_delivered));
    s->deferred = sum(r, offsetof(struct worker_figures, recipients_deferred));
    s->bounced = sum(r, offsetof(struct worker_figures, recipients_bounced));
    s->unknown = sum(r, offsetof(struct worker_figures, outcomes_unknown));
    s->sessions = sum(r, offsetof(struct worker_figures, sessions_open));
}

/* ---- starting ---- */

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
        error_set(error, "cannot set up signals: %m");
    return r->signal_fd >= 0;
}

static bool start_control(struct relay *r, struct error *error)
{
    struct control_options options = {.config = config_of(r),
                                      .store = r->engine.parts.store,
                                      .committer = r->engine.parts.committer,
                                      .health = r->engine.parts.health,
                                      .resolver = r->engine.parts.resolver,
                                      .destinations = r->engine.parts.destinations,
                                      .suspensions = r->engine.parts.suspensions,
                                      .chronicle = r->engine.parts.chronicle,
                                      .log = r->log,
                                      .add_status = add_status,
                                      .read_sample = read_sample,
                                      .context = r};
    r->control = control_start(&options, error);
    return r->control != NULL;
}

/* Returns 0 or the exit status of what failed. Signals are blocked and rights given up before the
 * first thread is made. */
static int start(struct relay *r, struct error *error)
{
    const struct config *c = config_of(r);
    if (!privileges_check(c, error))
        return EX_NOPERM;
    r->engine.failed_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (r->engine.failed_fd < 0) {
        error_set(error, "no descriptor to hear of failures by: %m");
        return EX_OSERR;
    }
    if (!block_signals(r, error))
        return EX_OSERR;
    if (!engine_listen(&r->engine, c, error))
        return EX_UNAVAILABLE;
    r->http = http_create(c, error);
    if (r->http == NULL)
        return EX_UNAVAILABLE;
    if (!privileges_drop(c, error) || !privileges_confine(c, error))
        return EX_NOPERM;
    r->log = log_open(c->log.path, error);
    if (r->log == NULL)
        return EX_CANTCREAT;
    /* First the spool: a process that leaves it is waited for, and until then has the
     * sockets too. */
    int status = engine_open(&r->engine, c, r->log, error);
    if (status != 0)
        return status;
    if (!http_start(r->http, r->log, error)) /* /readyz says "starting" while the queue is loaded */
        return EX_UNAVAILABLE;
    status = engine_start(&r->engine, true, error);
    if (status != 0)
        return status;
    return start_control(r, error) && http_serve(r->http, &r->engine.parts, r->control, error)
               ? 0
               : EX_UNAVAILABLE;
}

/* ---- running ---- */

static void reload(struct relay *r)
{
    struct error error = {0};
    log_reopen(r->log);
    struct config *fresh = config_load(config_of(r)->path, &error);
    if (fresh == NULL) {
        (void)fprintf(stderr, "onward: not reloaded: %s\n", error.text);
        log_note(r->log, "reload_refused", error.text);
        return;
    }
    const char *conflict = config_reload_conflict(config_of(r), fresh);
    bool same =
        slice_equal(fresh->text, config_of(r)->text); /* it is the log or the tokens, then */
    if (conflict != NULL || (!same && r->config_count == CONFIGS_MAX)) {
        const char *why = conflict != NULL ? conflict : "one change too many";
        (void)fprintf(stderr, "onward: not reloaded: %s needs a restart\n", why);
        log_note(r->log, "reload_refused", why);
        config_free(&fresh);
        return;
    }
    if (same) {
        config_free(&fresh);
        fresh = r->configs[r->config_count - 1];
    } else {
        r->configs[r->config_count++] = fresh;
    }
    struct schedule_policy policy = engine_policy(fresh);
    bool told = committer_set_policy(r->engine.parts.committer, &policy);
    for (unsigned i = 0; i < r->engine.workers_started; i++)
        told &= worker_reload(&r->engine.workers[i], fresh);
    struct intake_limits limits = engine_intake_limits(fresh);
    intake_set_limits(r->engine.parts.intake, &limits);
    if (!http_reload(r->http, fresh, &error)) {
        (void)fprintf(stderr, "onward: the HTTP tokens are not reloaded, the former hold on: %s\n",
                      error.text);
        log_note(r->log, "tokens_not_reloaded", error.text);
    }
    log_note(r->log, told ? "reloaded" : "reload_partial", fresh->path);
}

/* Waits for signals and keeps the intake's figures fresh; returns when the relay is to stop. */
static void run(struct relay *r)
{
    struct pollfd fds[2] = {{.fd = r->signal_fd, .events = POLLIN},
                            {.fd = r->engine.failed_fd, .events = POLLIN}};
    while (!atomic_load(&r->engine.failed)) {
        struct signalfd_siginfo info;
        intake_refresh(r->engine.parts.intake, r->log);
        if (poll(fds, 2, INTAKE_REFRESH_MS) <= 0 ||
            read(r->signal_fd, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo != SIGHUP)
            return;
        (void)sd_notify(0, "RELOADING=1");
        reload(r);
        (void)sd_notify(0, "READY=1");
    }
}

/* No new mail; transactions under way finish, within the limit. */
static void drain(struct relay *r)
{
    (void)sd_notify(0, "STOPPING=1");
    log_note(r->log, "draining", "no new mail; finishing what is under way");
    engine_drain(&r->engine);
    uint64_t until = clock_mono_ms() + config_of(r)->drain_timeout_ms;
    while (!(engine_is_quiet(&r->engine) && http_is_quiet(r->http)) && clock_mono_ms() < until &&
           !atomic_load(&r->engine.failed)) {
        struct pollfd fd = {.fd = r->signal_fd, .events = POLLIN};
        struct signalfd_siginfo info;
        if (poll(&fd, 1, DRAIN_POLL_MS) > 0 && read(r->signal_fd, &info, sizeof info) > 0 &&
            info.ssi_signo != SIGHUP)
            break; /* asked a second time: now */
    }
    engine_hang_up(&r->engine);
}

static void stop(struct relay *r)
{
    http_stop(r->http);
    control_stop(r->control);
    engine_stop(&r->engine);
    control_destroy(&r->control);
    http_destroy(&r->http);
    if (r->log != NULL)
        log_close(&r->log);
    if (r->signal_fd >= 0)
        (void)close(r->signal_fd);
    if (r->engine.failed_fd >= 0)
        (void)close(r->engine.failed_fd);
    for (unsigned i = 0; i < r->config_count; i++)
        config_free(&r->configs[i]);
}

int relay_serve(const char *config_path)
{
    struct error error = {0};
    struct relay *r = calloc(1, sizeof *r);
    if (r == NULL) {
        error_set(&error, "out of memory");
        return complain(&error, EX_OSERR);
    }
    r->signal_fd = r->engine.failed_fd = -1;
    r->configs[0] = config_load(config_path, &error);
    if (r->configs[0] == NULL) {
        free(r);
        return complain(&error, EX_CONFIG);
    }
    r->config_count = 1;
    int status = start(r, &error);
    if (status == 0) {
        (void)sd_notify(0, "READY=1");
        log_note(r->log, "started", config_of(r)->path);
        run(r);
        drain(r);
        status = atomic_load(&r->engine.failed) ? EX_IOERR : 0;
    } else {
        (void)complain(&error, status);
    }
    stop(r);
    free(r);
    return status;
}
