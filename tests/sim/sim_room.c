#include "tests/sim/sim_runs.h"

enum { MESSAGES = 20, CONTENT_BYTES = 400 };

/* Never takes anything now, so that the other exchange is asked. */
static const struct sim_fault decoy = {.kind = FAULT_REPLY,
                                       .phase = SIM_RCPT,
                                       .reply = "451 4.3.0 Try again later\r\n",
                                       .percent = 100,
                                       .after_said = -1,
                                       .after_heard = -1};

/* A burst for well exchanges over fewer connections than lanes, each of which is worn out soon:
 * whoever has to wait for room waits, and nothing is put off for want of it. */
static void run(unsigned sessions_max, unsigned messages_per_connection, bool decoys,
                struct sim_tally *tally)
{
    struct sim_world *w = sim_world_create(tally->worlds);
    struct sim_domain *domains[2];
    for (int i = 0; i < 2; i++) {
        domains[i] = sim_world_domain(w);
        struct sim_host *first = sim_world_host(w);
        sim_domain_add(domains[i], first, 10);
        if (decoys) {
            first->fault = decoy;
            sim_domain_add(domains[i], sim_world_host(w), 20);
        }
    }
    w->sessions_max = sessions_max;
    w->config->delivery.messages_per_connection = messages_per_connection;
    sim_world_start(w);
    for (int i = 0; i < MESSAGES; i++)
        (void)sim_world_send(w, &domains[i % 2], 1, 1, CONTENT_BYTES);
    sim_world_run(w);
    struct sim_totals t = sim_spool_totals();
    if (t.deferrals > 0 || t.bounced > 0)
        sim_fail("%llu deferrals with room for %u connections of %u messages",
                 (unsigned long long)t.deferrals, sessions_max, messages_per_connection);
    sim_tally_add(tally, w);
    sim_world_destroy(&w);
}

void sim_run_room(struct sim_tally *tally)
{
    for (unsigned sessions = 1; sessions <= 4; sessions++)
        for (unsigned messages = 1; messages <= 4; messages++)
            for (int decoys = 0; decoys < 2; decoys++)
                run(sessions, messages, decoys == 1, tally);
}
