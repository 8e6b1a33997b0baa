#include "tests/sim/sim_runs.h"
#include "tests/sim/sim_trail.h"

#include <stdio.h>

enum { MESSAGES_MAX = 30, MESSAGES_MANY = 120, MINUTE_US = 60 * 1000000 };

static uint64_t pick(uint64_t from, uint64_t to)
{
    return from + random_below(sim_random(), to - from + 1);
}

/* ---- faults ---- */

static const char *pick_reply(enum sim_phase phase)
{
    static const char *const replies[SIM_OTHER][5] = {
        [SIM_GREETING] = {"421 4.3.2 Busy\r\n", "450 4.3.2 Later\r\n", "554 5.3.2 No mail here\r\n",
                          "521 5.3.2 Accepts no mail\r\n", "220-a\r\n220 b\r\n"},
        [SIM_EHLO] = {"502 5.5.1 What is that?\r\n", "421 4.3.2 Busy\r\n", "450 4.3.2 Later\r\n",
                      "250 plain\r\n", "550 5.7.1 Go away\r\n"},
        [SIM_STARTTLS] = {"454 4.7.0 Not now\r\n", "502 5.5.1 What?\r\n", "421 4.3.2 Busy\r\n",
                          "220 2.0.0 Go on\r\n", "501 5.5.4 No\r\n"},
        [SIM_HANDSHAKE] = {"421 4.3.2 Busy\r\n", "220 hello\r\n", "\r\n", "500 What?\r\n", "x\r\n"},
        [SIM_MAIL] = {"421 4.3.2 Busy\r\n", "451 4.3.0 Error\r\n", "450 4.7.1 Greylisted\r\n",
                      "550 5.7.1 Not from you\r\n", "452 4.3.1 No room\r\n"},
        [SIM_RCPT] = {"450 4.2.0 Mailbox busy\r\n", "451 4.3.0 Error\r\n", "550 5.1.1 Nobody\r\n",
                      "552 5.2.2 Full\r\n", "421 4.3.2 Busy\r\n"},
        [SIM_DATA] = {"451 4.3.0 Error\r\n", "554 5.7.1 No\r\n", "421 4.3.2 Busy\r\n",
                      "450 4.7.0 Slow down\r\n", "354\r\n"},
        [SIM_DOT] = {"451 4.3.0 Error\r\n", "554 5.7.1 Spam\r\n", "421 4.3.2 Busy\r\n",
                     "450 4.7.1 Greylisted\r\n", "552 5.3.4 Too big\r\n"},
    };
    return replies[phase][pick(0, 4)];
}

static void make_fault(struct sim_host *h)
{
    struct sim_fault *f = &h->fault;
    f->kind = (enum sim_fault_kind)pick(FAULT_NO_SYN, FAULT_KINDS - 1);
    f->phase = f->kind == FAULT_LOSE ? SIM_DOT : (enum sim_phase)pick(SIM_GREETING, SIM_DOT);
    if (f->kind == FAULT_REPLY)
        f->reply = pick_reply(f->phase);
    if (f->kind == FAULT_DELAY)
        f->delay_us = sim_chance(70) ? pick(1, 20000000) : pick(1, UINT64_C(700000000));
    f->percent = sim_chance(70) ? 100 : (unsigned)pick(1, 99);
    if (sim_chance(50))
        f->until_us =
            sim_now_us() + pick(1, sim_chance(50) ? UINT64_C(600000000) : UINT64_C(86400000000));
}

/* Whatever this host does, a message that met it first is on its way through another within its
 * patience: nothing of the fault is a verdict on the message, and nothing comes behind the dot. */
static bool is_harmless(const struct sim_host *h)
{
    const struct sim_fault *f = &h->fault;
    switch (f->kind) {
    case FAULT_NONE:
        return h->latency_us <= 20000;
    case FAULT_NO_SYN:
    case FAULT_REFUSED:
    case FAULT_UNREACHABLE:
        return true;
    case FAULT_SILENT:
    case FAULT_CLOSE:
    case FAULT_RESET:
    case FAULT_GARBAGE:
    case FAULT_FLOOD:
    case FAULT_TRICKLE:
    case FAULT_DELAY:
        return f->phase < SIM_DOT && h->latency_us <= 50000;
    case FAULT_REPLY:
        return f->phase == SIM_GREETING && strncmp(f->reply, "220", 3) != 0;
    case FAULT_HALT:
    case FAULT_LOSE:
    case FAULT_KINDS:
        break;
    }
    return false;
}

/* ---- the world ---- */

static void make_hosts(struct sim_world *w)
{
    static const uint64_t latencies_us[] = {50, 500, 5000, 20000, 100000, 300000};
    unsigned count = (unsigned)pick(1, 8);
    for (unsigned i = 0; i < count; i++) {
        struct sim_host *h = sim_world_host(w);
        h->latency_us = latencies_us[pick(0, 5)];
        h->pipelining = sim_chance(80);
        h->eightbit = sim_chance(90);
        h->enhanced = sim_chance(80);
        h->dsn = sim_chance(60);
        h->size = sim_chance(80);
        h->rcpt_max = sim_chance(10) ? (unsigned)pick(1, 3) : 0;
        h->starttls = sim_chance(15);
        h->chunking = sim_chance(50);
        h->forgetful = sim_chance(5);
        h->messages_max = sim_chance(10) ? (unsigned)pick(1, 6) : 0;
        if (sim_chance(60))
            make_fault(h);
    }
}

static bool is_urgent(const struct sim_domain *d)
{
    bool any_well = false, all_harmless = true;
    for (unsigned i = 0; i < d->count; i++) {
        const struct sim_host *h = d->exchanges[i];
        any_well |= h->fault.kind == FAULT_NONE && h->latency_us <= 20000 && h->rcpt_max == 0;
        all_harmless &= is_harmless(h);
    }
    return any_well && all_harmless && d->dns_failures == 0 && !d->is_missing;
}

static void make_domains(struct sim_world *w, bool roomy)
{
    unsigned count = (unsigned)pick(1, 6);
    for (unsigned i = 0; i < count; i++) {
        struct sim_domain *d = sim_world_domain(w);
        unsigned exchanges = (unsigned)pick(1, 4), first = (unsigned)pick(1, w->host_count - 1);
        for (unsigned k = 0; k < exchanges && k < w->host_count - 1; k++)
            sim_domain_add(d, &w->hosts[1 + (first + k) % (w->host_count - 1)],
                           (uint16_t)(sim_chance(70) ? 10 * (k + 1) : 10));
        d->dns_us = pick(100, 2000000);
        d->dns_failures = sim_chance(10) ? (unsigned)pick(1, 3) : 0;
        d->is_missing = sim_chance(3);
        d->urgent = roomy && is_urgent(d);
    }
}

static bool make_limits(struct sim_world *w)
{
    struct config *c = w->config;
    c->delivery.connections_per_destination = (unsigned)pick(1, sim_chance(50) ? 2 : 20);
    c->delivery.transactions_in_flight_max = (unsigned)pick(1, 10);
    c->delivery.content_with_envelope_max = sim_chance(50) ? 4000 : 500000;
    c->delivery.messages_per_connection = (unsigned)pick(1, 50);
    c->delivery.recipients_per_transaction = (unsigned)pick(1, 10);
    c->delivery.idle_ms = pick(1, 3000);
    c->delivery.bounce_on_refusing = sim_chance(20);
    if (sim_chance(20))
        c->retry.age_limit_ms = pick(1, 36) * 3600000;
    bool roomy = sim_chance(80);
    if (!roomy)
        w->sessions_max = (unsigned)pick(1, 5);
    return roomy;
}

static void on_send(void *context, uint64_t unused)
{
    (void)unused;
    struct sim_world *w = context;
    struct sim_domain *domains[3];
    unsigned count = (unsigned)pick(1, 3), first = (unsigned)pick(1, w->domain_count - 1);
    if (count > w->domain_count - 1)
        count = w->domain_count - 1;
    for (unsigned i = 0; i < count; i++)
        domains[i] = &w->domains[1 + (first + i) % (w->domain_count - 1)];
    size_t bytes = sim_chance(90) ? (size_t)pick(0, 4000) : (size_t)pick(60000, 400000);
    (void)sim_world_send(w, domains, count, (unsigned)pick(1, 4), bytes);
}

void sim_tally_add(struct sim_tally *tally, const struct sim_world *w)
{
    struct sim_totals t = sim_spool_totals();
    tally->worlds++;
    tally->steps += w->steps;
    tally->totals.messages += t.messages;
    tally->totals.recipients += t.recipients;
    tally->totals.delivered += t.delivered;
    tally->totals.bounced += t.bounced;
    tally->totals.deferrals += t.deferrals;
    tally->totals.unknown += t.unknown;
    tally->totals.notices += t.notices;
}

void sim_run_seed(uint64_t seed, bool shows_trace, struct sim_tally *tally)
{
    struct sim_world *w = sim_world_create(seed);
    w->shows_trace = shows_trace;
    make_hosts(w);
    make_domains(w, make_limits(w));
    sim_world_start(w);
    uint64_t span_us = sim_chance(50) ? 1 : pick(1, 30 * (uint64_t)MINUTE_US);
    unsigned messages = (unsigned)pick(1, sim_chance(20) ? MESSAGES_MANY : MESSAGES_MAX);
    on_send(w, 0);
    for (unsigned i = 1; i < messages; i++)
        sim_after(pick(0, span_us), on_send, w, 0);
    sim_world_run(w);
    sim_tally_add(tally, w);
    sim_world_destroy(&w);
}

void sim_run_seed_twice(uint64_t seed, struct sim_tally *tally)
{
    struct sim_tally again = {0};
    sim_trail_use(SIM_TRAIL_KEEP);
    sim_run_seed(seed, false, tally);
    sim_trail_use(SIM_TRAIL_COMPARE);
    sim_run_seed(seed, false, &again);
    sim_trail_end();
    sim_trail_use(SIM_TRAIL_DIGEST);
    tally->compared++;
}
