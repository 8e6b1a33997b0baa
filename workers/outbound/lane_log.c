#include "workers/chronicle.h"
#include "workers/outbound/lane_priv.h"
#include "workers/outbound/observer.h"

#include <stdio.h>

static void tell(const struct lane *l, const struct observed *what)
{
    struct observer *o = l->worker->parts->observer;
    if (o != NULL)
        o->on_event(o, what);
}

static void begin(struct log_line *line, const struct lane *l, const char *event,
                  const struct target *t, const char *phase)
{
    char address[ADDRESS_TEXT_SIZE];
    address_format(&t->address, address);
    log_begin(line, l->worker->parts->log, event);
    log_str(line, "destination", destination_key(l->destination));
    log_cstr(line, "exchange", t->exchange->name);
    log_cstr(line, "address", address);
    log_u64(line, "preference", t->exchange->preference);
    log_cstr(line, "phase", phase);
    if (l->flight != NULL) {
        char id[ENVELOPE_ID_SIZE];
        envelope_id_format(l->flight->envelope.id, id);
        log_cstr(line, "id", id);
    }
}

/* The same for those who look at the relay as it runs. */
static void chronicle(const struct lane *l, enum failure_kind kind, const struct target *t,
                      const char *phase, const struct reply *reply)
{
    struct failure f = {.kind = kind,
                        .has_address = true,
                        .address = t->address,
                        .phase = phase,
                        .id = l->flight != NULL ? l->flight->envelope.id : 0,
                        .wall_ms = l->worker->wall_ms};
    if (reply != NULL)
        f.reply = *reply;
    (void)snprintf(f.exchange, sizeof f.exchange, "%s", t->exchange->name);
    chronicle_failure(l->worker->parts->chronicle, &f);
}

void lane_log_failure(const struct lane *l, const struct session *s, const struct target *t,
                      const char *phase, const struct reply *reply, const char *next)
{
    struct log_line line;
    tell(l, &(struct observed){.kind = OBSERVED_FAILED,
                               .session = s,
                               .target = t,
                               .bytes = slice_str(phase),
                               .reply = reply,
                               .note = next});
    chronicle(l, FAILURE_EXCHANGE, t, phase, reply);
    if (!l->worker->config->log.deliveries)
        return;
    begin(&line, l, "exchange_failed", t, phase);
    log_reply(&line, reply);
    struct health_view view = health_view(l->worker->parts->health, &t->address);
    log_cstr(&line, "health_before", health_state_name(view.state));
    log_cstr(&line, "next", next);
    log_end(&line);
}

static void log_slow(const struct lane *l, const struct session *s, const char *next)
{
    struct log_line line;
    chronicle(l, FAILURE_SLOW, &s->target, session_phase_name(s), NULL);
    if (!l->worker->config->log.deliveries)
        return;
    begin(&line, l, "exchange_slow", &s->target, session_phase_name(s));
    log_u64(&line, "waited_ms", l->worker->now_ms - s->phase_began_ms);
    struct health_view view = health_view(l->worker->parts->health, &s->target.address);
    log_cstr(&line, "health", health_state_name(view.state));
    log_u64(&line, "strikes", view.strikes);
    log_cstr(&line, "next", next);
    log_end(&line);
}

void lane_log_patience(const struct lane *l, const struct session *s, bool raced)
{
    if (raced)
        chronicle_race(l->worker->parts->chronicle, &s->target.address, false);
    log_slow(l, s, raced ? "another exchange beside it" : "none left to race; kept waiting");
}

void lane_log_late(const struct lane *l, const struct session *s)
{
    log_slow(l, s, "its reply is waited for; what is behind it goes another way");
}

void lane_log_spent(const struct lane *l, const struct reply *reply)
{
    tell(l, &(struct observed){.kind = OBSERVED_SPENT, .reply = reply});
}
