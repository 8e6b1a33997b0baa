#include "core/base/clock.h"
#include "tests/sim/sim_runs.h"

enum {
    MESSAGES = 6,
    CONTENT_BYTES = 300,
    RUNS = 100, /* that the first exchange has answered before: it is trusted with all there is */
    WELL_AGAIN_S = 3600,
    SECOND_US = 1000000,
    MOVED_ON_S = 20, /* patience, connecting elsewhere, and their transactions */
    WINDOW = 8,
    STRIDE_TLS = 7, /* a record is whole or not, so not every byte of one is a case of its own */
};

/* How the exchange with the fault is, and what it has shown before. */
struct like {
    bool starttls, chunking, trusted, forgetful;
    unsigned messages_max;
};

/* What the relay knows of the exchange from before. */
static void trust(struct sim_world *w, const struct sim_host *h)
{
    (void)health_tell(w->parts.health, &h->address, HEALTH_EVENT_SUCCESS, clock_mono_ms(),
                      clock_wall_ms(), 0);
    for (int i = 0; i < RUNS; i++)
        health_show(w->parts.health, &h->address, HEALTH_RUN_BDAT);
}

/* Every message arrived once (the books have been checked). Those whose last byte the
 * first exchange had not heard went elsewhere at once; of the others, what could not be
 * known was called so. */
static void check_messages(unsigned committed_max, const struct sim_fault *f)
{
    unsigned unknown = 0;
    for (const struct sim_message *m = sim_messages(); m != NULL; m = m->next)
        for (uint32_t i = 0; i < m->envelope.recipient_count; i++) {
            const struct sim_recipient *r = &m->recipients[i];
            if (r->was_unknown) {
                unknown++;
                continue;
            }
            if (r->attempts != 1)
                sim_fail(
                    "message %llu took %u attempts (fault %d, behind %lld said, %lld heard): %s",
                    (unsigned long long)m->id, r->attempts, (int)f->kind, (long long)f->after_said,
                    (long long)f->after_heard, r->state.last.text);
            if (r->ended_us > m->deadline_us)
                sim_fail("message %llu was held back until %.3f s (fault %d, behind %lld said, "
                         "%lld heard)",
                         (unsigned long long)m->id, (double)r->ended_us / 1e6, (int)f->kind,
                         (long long)f->after_said, (long long)f->after_heard);
        }
    if (unknown > committed_max)
        sim_fail("%u outcomes are unknown", unknown);
}

/* Several messages over one connection to the first of two exchanges, which has `fault`. */
static struct sim_passed run(const struct like *like, const struct sim_fault *fault,
                             struct sim_tally *tally)
{
    struct sim_world *w = sim_world_create(tally->worlds + 1);
    struct sim_host *first = sim_world_host(w), *second = sim_world_host(w);
    struct sim_domain *d = sim_world_domain(w);
    w->config->delivery.connections_per_destination = 1;
    w->config->delivery.transactions_in_flight_max = WINDOW;
    first->starttls = like->starttls;
    first->chunking = like->chunking;
    first->forgetful = like->forgetful;
    first->messages_max = like->messages_max;
    first->fault = *fault;
    first->fault.until_us = sim_now_us() + (uint64_t)WELL_AGAIN_S * SECOND_US;
    first->fault.first = 1; /* another connection to it finds it well */
    sim_domain_add(d, first, 10);
    sim_domain_add(d, second, 20);
    w->shows_trace = tally->shown > 0 && tally->worlds + 1 == tally->shown;
    sim_world_start(w);
    if (like->trusted)
        trust(w, first);
    for (int i = 0; i < MESSAGES; i++) {
        struct sim_message *m = sim_world_send(w, &d, 1, 1, CONTENT_BYTES);
        m->deadline_us = sim_now_us() + (uint64_t)MOVED_ON_S * SECOND_US;
    }
    sim_world_run(w);
    /* A 421 is an answer: what it leaves unanswered has not been taken. */
    unsigned committed_max = like->trusted ? MESSAGES : 1;
    check_messages(fault->kind == FAULT_NONE ? 0 : committed_max, fault);
    /* The first one on a connection goes by DATA, and so does what shares the write of its end. */
    bool all_well = fault->kind == FAULT_NONE && like->messages_max == 0;
    if (all_well && first->taken_by_bdat != (like->trusted ? MESSAGES - 2 : 0))
        sim_fail("%u of %d messages went by BDAT", first->taken_by_bdat, MESSAGES);
    sim_tally_add(tally, w);
    struct sim_passed passed = sim_first_dialogue(first);
    sim_world_destroy(&w);
    return passed;
}

static void run_kind(const struct like *like, enum sim_fault_kind kind, struct sim_tally *tally)
{
    struct sim_fault f = {.after_said = -1, .after_heard = -1, .percent = 100};
    struct sim_passed whole = run(like, &f, tally);
    unsigned stride = like->starttls ? STRIDE_TLS : 1;
    f.kind = kind;
    for (uint64_t at = 0; at <= whole.said; at += stride) {
        f.after_said = (int64_t)at;
        (void)run(like, &f, tally);
    }
    f.after_said = -1;
    for (uint64_t at = 0; at <= whole.heard; at += stride) {
        f.after_heard = (int64_t)at;
        (void)run(like, &f, tally);
    }
}

/* A stranger that answers well is given more and more: in the end most messages are in flight
 * beside others. */
static void check_growth(struct sim_tally *tally)
{
    enum { LATENCY_US = 50000, GROWTH_MESSAGES = 300, ROUND_TRIPS_S = 12 };
    struct sim_world *w = sim_world_create(tally->worlds + 1);
    struct sim_host *h = sim_world_host(w);
    struct sim_domain *d = sim_world_domain(w);
    w->config->delivery.connections_per_destination = 1;
    h->chunking = true;
    h->latency_us = LATENCY_US;
    sim_domain_add(d, h, 10);
    sim_world_start(w);
    uint64_t began_us = sim_now_us(), ended_us = 0;
    for (int i = 0; i < GROWTH_MESSAGES; i++)
        (void)sim_world_send(w, &d, 1, 1, CONTENT_BYTES);
    sim_world_run(w);
    for (const struct sim_message *m = sim_messages(); m != NULL; m = m->next)
        if (m->recipients[0].ended_us > ended_us)
            ended_us = m->recipients[0].ended_us;
    if (h->connections != 1 || ended_us - began_us > (uint64_t)ROUND_TRIPS_S * SECOND_US)
        sim_fail("%u connections, %.1f s for %d messages, %u by BDAT", h->connections,
                 (double)(ended_us - began_us) / 1e6, GROWTH_MESSAGES, h->taken_by_bdat);
    sim_tally_add(tally, w);
    sim_world_destroy(&w);
}

void sim_run_pipeline(struct sim_tally *tally)
{
    static const enum sim_fault_kind kinds[] = {FAULT_SILENT, FAULT_CLOSE, FAULT_RESET,
                                                FAULT_REPLY};
    static const struct like likes[] = {
        {.chunking = false},
        {.starttls = true},
        {.chunking = true, .trusted = true},
        {.chunking = true, .trusted = true, .starttls = true},
    };
    static const struct like odd[] = {
        {.forgetful = true},
        {.messages_max = 1},
        {.messages_max = 3},
        {.messages_max = 1, .chunking = true, .trusted = true},
        {.messages_max = 3, .chunking = true, .trusted = true},
        {.messages_max = 3, .chunking = true, .trusted = true, .starttls = true},
    };
    check_growth(tally);
    static const struct sim_fault none = {.after_said = -1, .after_heard = -1, .percent = 100};
    for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++)
        (void)run(&odd[i], &none, tally);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (unsigned k = 0; k < sizeof likes / sizeof *likes; k++)
            run_kind(&likes[k], kinds[i], tally);
}
