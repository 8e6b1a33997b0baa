/* The simulated spool: messages in memory, a commit that takes its time, and the real schedule
 * above it. It stands in for core/spool's store and committer at link time, and holds the books:
 * every recipient of every message, and what became of it. */
#ifndef ONWARD_TESTS_SIM_SPOOL_H
#define ONWARD_TESTS_SIM_SPOOL_H

#include "core/queue/schedule.h"
#include "core/spool/committer.h"
#include "core/spool/envelope.h"
#include "core/spool/store.h"

enum sim_end { SIM_WAITING, SIM_DELIVERED, SIM_BOUNCED };

struct sim_recipient {
    enum sim_end end;
    unsigned attempts;
    bool was_unknown; /* an attempt's outcome could not be known (RFC 1047) */
    uint64_t ended_us;
    struct store_state state;
};

struct sim_message {
    uint64_t id;
    bool is_notice;
    bool urgent; /* the world says: to be delivered by `deadline_us`, at the first attempt */
    uint64_t deadline_us; /* were nothing queued before it */
    uint64_t sent_us;
    uint64_t routed_us; /* by then the routes of its domains are known */
    struct buf record;
    struct buf content;
    struct envelope envelope; /* without recipients */
    struct sim_recipient *recipients;
    struct sim_message *next;
};

/* Starts anew with this schedule, which it drives. */
void sim_spool_reset(struct schedule *schedule);

/* Stores a message and queues it, as the committer does behind a submission's 250. */
struct sim_message *sim_spool_add(const struct envelope *e, struct slice content);

struct sim_message *sim_messages(void); /* newest first */

/* Commits on their way. */
unsigned sim_commits_pending(void);

struct sim_totals {
    uint64_t messages, recipients, delivered, bounced, deferrals, unknown, notices;
};
struct sim_totals sim_spool_totals(void);

#endif
