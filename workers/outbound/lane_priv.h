/* The lane's body, for this folder only. */
#ifndef ONWARD_WORKERS_OUTBOUND_LANE_PRIV_H
#define ONWARD_WORKERS_OUTBOUND_LANE_PRIV_H

#include "workers/outbound/lane.h"

/* Parked connections of a lane to one address. One more is opened only in the place of
 * the oldest. */
enum { LANE_SESSIONS_PER_ADDRESS_MAX = 3 };

struct lane {
    struct link outbound_link; /* on outbound->lanes */
    struct link turn_link;     /* on outbound->idle_lanes or ->lanes_waiting, or neither */
    struct worker *worker;
    struct destination *destination; /* referenced */
    const struct route *route;       /* referenced */
    struct target *targets;          /* the order of this attempt; owned */
    unsigned target_count, next_target, target_capacity;
    bool order_is_old; /* made for a message before this one: another is made before one is tried */
    struct link sessions;  /* struct session, in the order they were started */
    struct flight *flight; /* the message being carried, or NULL; owned */
    struct link returned;  /* struct flight, by link: handed over once, and not done with; owned */
    struct reply failure;  /* what a later "all addresses spent" reports; code 0 = none */
    bool all_refusing;     /* every failure so far was a 5xx greeting */
    bool any_unwell;       /* one of the addresses was, when the order was made */
    bool is_aside;         /* has no right any more: waits for its sessions' last replies, to end */
    bool counted_aside;    /* and the destination counts it so */
    bool idling;           /* registered at the destination, or called but not yet reached */
    bool abandoned;        /* the worker stops; only a call on its way keeps the memory */
    struct idle_lane idle;
    struct timer idle_timer;
    struct timer look_timer; /* when to look at an unwell address again (recovery.h) */
    struct mail call;
};

/* Connects to one address, as its probe (what health_claim_probe said) or not (0); NULL where that
 * failed at once, which is noted. */
struct session *lane_try(struct lane *l, const struct target *t, uint64_t probe);

/* The lane goes on without this session, which carries nothing that is the lane's or has lost a
 * race. Where something was handed over to it, it stays until that is answered. */
void lane_let_go(struct lane *l, struct session *s);

/* All but `keep` (which may be NULL): the race is over. */
void lane_let_others_go(struct lane *l, const struct session *keep);

/* Transactional where mail of that class waits for it, or is being carried. */
enum envelope_priority lane_priority(const struct lane *l);

/* Its first try, after waiting for room. */
void lane_resume(struct lane *l);

/* Ends it: sessions let go, the right given back. What was handed over is waited for. */
void lane_finish(struct lane *l);

/* It is aside: ends it as soon as nothing is waited for. */
void lane_finish_aside(struct lane *l);

/* Starts over with a fresh order, or ends where no mail waits. */
void lane_restart(struct lane *l);

/* Something ended: is there still a way for the flight, or for the queue? */
void lane_go_on(struct lane *l);

/* Starts the next address of the order; false: none could be started. */
bool lane_start_next(struct lane *l);

/* Is one on its way whose patience holds, or can one be started? */
bool lane_race(struct lane *l);

/* Another address, and no room for a connection to it: the lane waits in line. */
bool lane_wait_for_room(struct lane *l);

/* No mail: keeps the connection of this session for a while. */
void lane_idle(struct lane *l, struct session *s);
bool lane_leave_idle(struct lane *l);

/* Opens more lanes where more mail waits than there are, as far as the limits allow it. */
void lane_open_others(const struct lane *l);

/* The best ready session that may carry the flight; one on its way that may become that; has the
 * exchange at this address given its verdict on the flight, so that another one is wanted? */
struct session *lane_find_carrier(const struct lane *l);
bool lane_is_awaited(const struct lane *l);
bool lane_has_asked(const struct lane *l, const struct address *a);

/* The lane's sessions to this address, those that only wait for a late reply among them. */
unsigned lane_count_sessions_to(const struct lane *l, const struct address *a);

/* A peer's own words outrank our conclusions; among equals the latest holds. */
void lane_note_failure(struct lane *l, const struct reply *reply, bool refusing);

/* ---- lane_carry.c ---- */

/* Late binding: only now, with a session ready for MAIL, does a message leave the queue. */
void lane_take_next(struct lane *l, struct session *s);

/* Carries the current flight over `s`: its next batch, or, in a race, the batch that another
 * session carries. */
void lane_carry(struct lane *l, struct session *s);

/* The flight is over: tells its outcome, lets the slow ones go, takes the next message. */
void lane_flight_over(struct lane *l, struct session *last);

/* The next of what came back becomes the current flight, where there is none. False: there
 * is none now. */
bool lane_adopt(struct lane *l);

/* The session is lost, and with it its part in the flight, and what was handed over to it. */
void lane_lose_carrier(struct lane *l, struct session *s);
void lane_lose_handed_over(struct lane *l, struct session *s);

/* Something came back: it goes as soon as nothing else does. */
void lane_take_up_returned(struct lane *l);

/* What came back and has no lane to go on with gets this reply, or its own last one. */
void lane_settle_returned(struct lane *l, const struct reply *reply);

/* lane_log.c: what the attempt log and an observer hear of a lane. The log's lines about exchanges
 * that failed or were too slow are kept also when the message got through elsewhere. */
void lane_log_failure(const struct lane *l, const struct session *s, const struct target *t,
                      const char *phase, const struct reply *reply, const char *next);
void lane_log_spent(const struct lane *l, const struct reply *reply);
void lane_log_patience(const struct lane *l, const struct session *s, bool raced);
void lane_log_late(const struct lane *l, const struct session *s);

#endif
