#include "tests/sim/sim_runs.h"

enum {
    MESSAGES = 200,
    CONTENT_BYTES = 400,
    SECOND_US = 1000000,
    LOOKS_S = 4, /* a lane looks again up to 2 s later, and up to 1 s of jitter; and it delivers */
    REST_S = 15, /* a lane looks after 10 s at the latest; what is released waits a second for each
                      attempt made */
    DEMOTED_S = 33 * 60, /* the longest time until the next probe: 30 minutes and a tenth */
};

/* How an exchange is out of order until it recovers. */
struct outage {
    struct sim_fault fault;
    bool is_told; /* refusals: asked again by the schedule, and not by probes */
};

static const struct outage outages[] = {
    {{.kind = FAULT_SILENT, .phase = SIM_GREETING}, false},
    {{.kind = FAULT_SILENT, .phase = SIM_EHLO}, false},
    {{.kind = FAULT_SILENT, .phase = SIM_MAIL}, false},
    {{.kind = FAULT_SILENT, .phase = SIM_DATA}, false},
    {{.kind = FAULT_NO_SYN}, false},
    {{.kind = FAULT_FLOOD, .phase = SIM_GREETING}, false},
    {{.kind = FAULT_GARBAGE, .phase = SIM_GREETING}, false},
    {{.kind = FAULT_REFUSED}, true},
    {{.kind = FAULT_CLOSE, .phase = SIM_GREETING}, true},
};

static const unsigned lasting_s[] = {10, 40, 90, 280, 700, 3 * 3600};

/* When the host would be asked next, as things stand when it recovers. */
static uint64_t next_asked_us(struct sim_world *w, const struct sim_host *h)
{
    struct health_view v = health_view(w->parts.health, &h->address);
    uint64_t asked = v.again_mono_ms * 1000;
    return asked > h->fault.until_us ? asked : h->fault.until_us;
}

static uint64_t last_end_us(void)
{
    uint64_t last = 0;
    for (const struct sim_message *m = sim_messages(); m != NULL; m = m->next)
        last = m->recipients[0].ended_us > last ? m->recipients[0].ended_us : last;
    return last;
}

static uint64_t first_end_us(void)
{
    uint64_t first = UINT64_MAX;
    for (const struct sim_message *m = sim_messages(); m != NULL; m = m->next)
        first = m->recipients[0].ended_us < first ? m->recipients[0].ended_us : first;
    return first;
}

/* The one exchange of a domain is out of order, mail waits for it, and it comes back: within the
 * time of its next probe mail goes to it again, and with it all that waits. */
static void run(const struct outage *outage, unsigned outage_s, struct sim_tally *tally)
{
    struct sim_world *w = sim_world_create(tally->worlds + 1);
    struct sim_host *h = sim_world_host(w);
    struct sim_domain *d = sim_world_domain(w);
    sim_domain_add(d, h, 10);
    h->fault = outage->fault;
    h->fault.percent = 100;
    h->fault.after_said = h->fault.after_heard = -1;
    h->fault.until_us = sim_now_us() + (uint64_t)outage_s * SECOND_US;
    sim_world_start(w);
    for (int i = 0; i < MESSAGES; i++)
        (void)sim_world_send(w, &d, 1, 1, CONTENT_BYTES);
    sim_world_run_until(w, h->fault.until_us);
    uint64_t asked = next_asked_us(w, h);
    if (asked > h->fault.until_us + (uint64_t)DEMOTED_S * SECOND_US)
        sim_fail("the next probe is %llu s away",
                 (unsigned long long)((asked - h->fault.until_us) / SECOND_US));
    sim_world_run(w);
    uint64_t first = first_end_us(), last = last_end_us();
    if (!outage->is_told && first > asked + LOOKS_S * SECOND_US)
        sim_fail("mail went %.1f s after the probe was due (fault %d in phase %d for %u s)",
                 (double)(first - asked) / SECOND_US, h->fault.kind, h->fault.phase, outage_s);
    if (last > first + REST_S * SECOND_US)
        sim_fail(
            "the last of what waited went %.1f s after the first (fault %d in phase %d for %u s)",
            (double)(last - first) / SECOND_US, h->fault.kind, h->fault.phase, outage_s);
    sim_tally_add(tally, w);
    sim_world_destroy(&w);
}

void sim_run_recovery(struct sim_tally *tally)
{
    for (size_t i = 0; i < sizeof outages / sizeof *outages; i++)
        for (size_t k = 0; k < sizeof lasting_s / sizeof *lasting_s; k++)
            run(&outages[i], lasting_s[k], tally);
}
