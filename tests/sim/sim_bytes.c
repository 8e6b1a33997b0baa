#include "tests/sim/sim_runs.h"

enum { CONTENT_BYTES = 400, WELL_AGAIN_S = 3600 };

/* One message to a domain of two exchanges, the first of which has `fault`. Before the commit point
 * (`urgent`) the message must get through at once; behind it, when the first one is well again. */
static struct sim_passed run(const struct sim_host *like, const struct sim_fault *fault,
                             bool urgent, struct sim_tally *tally)
{
    struct sim_world *w = sim_world_create(tally->worlds);
    struct sim_host *first = sim_world_host(w), *second = sim_world_host(w);
    struct sim_domain *d = sim_world_domain(w);
    first->pipelining = like->pipelining;
    first->starttls = like->starttls;
    first->fault = *fault;
    first->fault.until_us = sim_now_us() + WELL_AGAIN_S * UINT64_C(1000000);
    /* What fails in the handshake is tried again in clear at once: there all is well. */
    first->fault.first = like->starttls ? 1 : 0;
    sim_domain_add(d, first, 10);
    sim_domain_add(d, second, 20);
    d->urgent = urgent;
    w->shows_trace = tally->shown > 0 && tally->worlds == tally->shown;
    sim_world_start(w);
    (void)sim_world_send(w, &d, 1, 2, CONTENT_BYTES);
    sim_world_run(w);
    if (sim_spool_totals().bounced > 0)
        sim_fail("it was bounced (fault %d, behind %lld said, %lld heard)", (int)fault->kind,
                 (long long)fault->after_said, (long long)fault->after_heard);
    sim_tally_add(tally, w);
    struct sim_passed passed = sim_first_dialogue(first);
    sim_world_destroy(&w);
    return passed;
}

static void run_kind(const struct sim_host *like, enum sim_fault_kind kind, struct sim_tally *tally)
{
    struct sim_fault f = {.after_said = -1, .after_heard = -1, .percent = 100};
    struct sim_passed whole = run(like, &f, true, tally);
    f.kind = kind;
    /* Behind "354 " a 421 is but an odd text. */
    uint64_t glued = kind == FAULT_REPLY ? sizeof "354 Go on\r\n" - 2 : 0;
    for (uint64_t at = 0; at <= whole.said; at++) {
        f.after_said = (int64_t)at;
        (void)run(like, &f, at + glued < whole.invited_said, tally);
    }
    f.after_said = -1;
    for (uint64_t at = 0; at <= whole.heard; at++) {
        f.after_heard = (int64_t)at;
        (void)run(like, &f, at < whole.invited_heard, tally);
    }
}

void sim_run_bytes(struct sim_tally *tally)
{
    static const enum sim_fault_kind kinds[] = {FAULT_SILENT, FAULT_CLOSE, FAULT_RESET,
                                                FAULT_REPLY};
    static const struct sim_host likes[] = {
        {.pipelining = true}, {.pipelining = false}, {.pipelining = true, .starttls = true}};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (unsigned k = 0; k < sizeof likes / sizeof *likes; k++)
            run_kind(&likes[k], kinds[i], tally);
}
