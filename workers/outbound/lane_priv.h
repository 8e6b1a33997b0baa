/* The lane's body, for this folder only. */
#ifndef ONWARD_WORKERS_OUTBOUND_LANE_PRIV_H
#define ONWARD_WORKERS_OUTBOUND_LANE_PRIV_H

#include "workers/outbound/lane.h"

/* Parked connections of a lane to one address. One more is opened only in the place of the oldest. */
enum { LANE_SESSIONS_PER_ADDRESS_MAX = 3 };

struct lane {
    struct link outbound_link; /* on outbound->lanes */
    struct link turn_link;     /* on outbound->idle_lanes or ->lanes_waiting, or neither */
    struct worker *worker;
    struct destination *destination; /* referenced */
    const struct route *route;       /* referenced */
    struct target *targets;          /* the order of this attempt; owned */
    unsigned target_count, next_target, target_capacity;
    struct link sessions;  /* struct session, in the order they were started */
    struct flight *flight; /* the message being carried, or NULL; owned */
    bool elsewhere;        /* the flight had a 4xx at `asked`: one other exchange is asked */
    struct address asked;
    struct reply failure; /* what a later "all addresses spent" reports; code 0 = none */
    bool all_refusing;    /* every failure so far was a 5xx greeting */
    bool any_unwell;      /* one of the addresses was, when the order was made */
    bool idling;          /* registered at the destination, or called but not yet reached */
    bool abandoned;       /* the worker stops; only a call on its way keeps the memory */
    struct idle_lane idle;
    struct timer idle_timer;
    struct timer look_timer; /* when to look at an unwell address again (recovery.h) */
    struct mail call;
};

/* Connects to one address, as its probe or not; NULL where that failed at once, which is noted. */
struct session *lane_try(struct lane *l, const struct target *t, bool probe);

/* The lane goes on without this session, which carries nothing or has lost a race. */
void lane_let_go(struct lane *l, struct session *s);

/* Its first try, after waiting for room. */
void lane_resume(struct lane *l);

/* Ends it: sessions let go, the right given back. */
void lane_finish(struct lane *l);

/* Starts over with a fresh order, or ends where no mail waits. */
void lane_restart(struct lane *l);

bool lane_leave_idle(struct lane *l);

/* lane_log.c: what the attempt log and an observer hear of a lane. The log's lines about exchanges
 * that failed or were too slow are kept also when
 * the message got through elsewhere. */
void lane_log_failure(const struct lane *l, const struct session *s, const struct target *t,
                      const char *phase, const struct reply *reply, const char *next);
void lane_log_spent(const struct lane *l, const struct reply *reply);
void lane_log_patience(const struct lane *l, const struct session *s, bool raced);

#endif
