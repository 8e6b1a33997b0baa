/* A simulated world: exchanges, domains and one worker of the relay between them, on simulated time
 * (sim_net.h) with a simulated spool (sim_spool.h). The schedule, routes, health table, lanes,
 * sessions and protocol machine are the relay's own.
 *
 *   sim_world_create -> hosts, domains -> sim_world_start -> messages -> sim_world_run -> destroy
 *
 * Invariants are asserted after each step, and the books are checked at the end (sim_world_run). */
#ifndef ONWARD_TESTS_SIM_WORLD_H
#define ONWARD_TESTS_SIM_WORLD_H

#include "tests/sim/sim_host.h"
#include "tests/sim/sim_spool.h"
#include "workers/cli/trace_print.h"
#include "workers/worker.h"

enum { SIM_HOSTS_MAX = 16, SIM_DOMAINS_MAX = 16, SIM_EXCHANGES_MAX = 8 };

struct sim_domain {
    char name[32];
    unsigned count;
    struct sim_host *exchanges[SIM_EXCHANGES_MAX];
    uint16_t preferences[SIM_EXCHANGES_MAX];
    uint64_t dns_us;           /* a look-up takes so long */
    unsigned dns_failures;     /* the first so many look-ups fail for now */
    bool is_missing;           /* NXDOMAIN */
    bool urgent;               /* one exchange is well: mail arrives soon, at the first attempt */
    const struct route *route; /* cached */
};

struct sim_world {
    struct config *config; /* may be changed before sim_world_start */
    struct sim_host hosts[SIM_HOSTS_MAX];
    struct sim_domain domains[SIM_DOMAINS_MAX];
    unsigned host_count, domain_count;
    struct sim_domain *home; /* where notices go; its one host is well */
    unsigned sessions_max;

    struct worker_parts parts;
    struct worker worker;
    struct schedule *schedule;
    uint64_t schedule_due_us;
    bool busy;
    uint64_t next_id;
    uint64_t steps, steps_now; /* in all; since time last moved */
    struct observer observer;
    bool shows_trace; /* print every event of every session */
    struct trace_print print;
};

struct sim_world *sim_world_create(uint64_t seed);
void sim_world_destroy(struct sim_world **w);

/* Both live as long as the world; the caller fills in the rest. A new host is well. */
struct sim_host *sim_world_host(struct sim_world *w);
struct sim_domain *sim_world_domain(struct sim_world *w);
void sim_domain_add(struct sim_domain *d, struct sim_host *h, uint16_t preference);

void sim_world_start(struct sim_world *w);

/* A message of `bytes` for recipients at these domains, some at each. */
struct sim_message *sim_world_send(struct sim_world *w, struct sim_domain *const *domains,
                                   unsigned domain_count, unsigned recipients_each, size_t bytes);

/* Runs up to this moment. */
void sim_world_run_until(struct sim_world *w, uint64_t until_us);

/* Runs until every recipient has its end and every connection is closed, and checks the books. */
void sim_world_run(struct sim_world *w);

/* Ends the process, saying what is wrong, when, and in which world. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
