/* Destinations: where mail is going, as the set of exchanges behind it. Domains hosted at one
 * provider have the same exchanges and so share one destination: its queue, its connections, its
 * limit.
 *
 * Late binding: routed deliveries wait in the destination's queue; a session takes one only when it
 * is ready for MAIL, so a connection that hangs holds no mail. A *lane* is the right to run one
 * session at a time (with others raced beside it) for the destination; there are at most
 * `lanes_max` of them over all workers. Idle lanes keep their connection a moment and are called
 * back by new mail.
 *
 * One lock per destination, held for a few pointer moves and never across I/O or a callback. Any
 * thread may call anything here. A destination lives while it is referenced; the table forgets
 * unreferenced ones. */
#ifndef ONWARD_CORE_QUEUE_DESTINATION_H
#define ONWARD_CORE_QUEUE_DESTINATION_H

#include "core/queue/delivery.h"

struct destination_table;
struct destination;

/* An idle lane as its worker knows it: enough to send it mail. */
struct idle_lane {
    struct link link; /* guard: the destination's lock */
    unsigned worker;  /* index */
    bool queued;      /* guard: the destination's lock; on the idle list */
};

/* An empty table; NULL: out of memory. */
struct destination_table *destination_table_create(void);
void destination_table_destroy(struct destination_table **t); /* all must be unreferenced */

/* The destination with this key (made where missing), referenced. NULL when out of memory. */
struct destination *destination_acquire(struct destination_table *t, struct slice key);
void destination_reference(struct destination *d);
void destination_release(struct destination **d);

/* The key it was acquired by. Borrowed from the destination. */
struct slice destination_key(const struct destination *d);

/* What the caller of destination_enqueue must do. */
enum destination_call {
    DESTINATION_ENOUGH,    /* lanes are on their way to it */
    DESTINATION_OPEN_LANE, /* open a lane: it is counted already; destination_lane_end gives it back
                            */
    DESTINATION_CALL_IDLE, /* tell that worker's lane, taken off the idle list, that there is mail
                            */
};

/* Queues `delivery` (the caller gives it up) and says who should fetch it. Deliveries of one
 * message at one destination are linked so that one transaction can carry them all. Prefers an idle
 * lane of `worker`. The delivery holds a reference on the destination while queued. */
enum destination_call destination_enqueue(struct destination *d, struct delivery *delivery,
                                          unsigned worker, unsigned lanes_max,
                                          struct idle_lane **idle_out);

/* The oldest delivery of the class whose turn it is (priority.h) and those of the same message
 * right behind it, up to `recipients_max` recipients together (always at least one delivery), moved
 * to `out`. Returns how many; 0 = queue empty. */
unsigned destination_take(struct destination *d, uint32_t recipients_max, struct link *out);

/* What destination_take gave (the caller's own `list`, emptied), untouched, is the front of the
 * queue again, and it is its class's turn again. */
void destination_put_back(struct destination *d, struct link *list);

/* Everything queued, moved to `out`: the destination cannot be reached now. Returns how many. */
uint64_t destination_take_all(struct destination *d, struct link *out);

/* Takes one delivery out of whatever destination's queue it waits in; false where it is not queued
 * (a session has it, or it waits for its route). Committer thread: for the age limit and operators.
 */
bool destination_withdraw(struct destination_table *t, struct delivery *delivery);

/* The lane found the queue empty and keeps its connection: true = registered as idle; false = mail
 * has come in between, take it. */
bool destination_idle_enter(struct destination *d, struct idle_lane *lane);

/* The lane leaves the idle list (its time is up). False: it has been called already, mail is
 * coming. */
bool destination_idle_leave(struct destination *d, struct idle_lane *lane);

/* A session of this destination became ready / ended: told so that a lane that fails knows whether
 * others still get through. */
void destination_session_ready(struct destination *d);
void destination_session_gone(struct destination *d);

/* Room for one more lane, and more mail queued than lanes? Then it is counted, and the caller opens
 * it. */
bool destination_lane_add(struct destination *d, unsigned lanes_max);

/* The same where any mail waits: a lane that is at work will be so for long. */
bool destination_lane_add_beside(struct destination *d, unsigned lanes_max);

/* A lane beyond what destination_enqueue granted: one that is opened to look, not to fetch. */
void destination_lane_begin(struct destination *d);

/* A lane that destination_enqueue granted need not be opened where others are. False: there is none
 * besides, so it must be. */
bool destination_lane_decline(struct destination *d);

/* A lane ends. True: mail is queued and no other lane is left, so the right stays with the caller,
 * who opens a lane anew. Never so where `stopping`. */
bool destination_lane_end(struct destination *d, bool stopping);

/* A lane waits, longer than is usual, for the reply to a content's end, and nothing is raced there.
 * True: its right is given back, so that others come in its place, and destination_aside_over
 * follows when it is done; false: as many as there may be lanes have stepped aside already. */
bool destination_step_aside(struct destination *d, unsigned lanes_max);
void destination_aside_over(struct destination *d);

/* A reading, taken under the lock. */
struct destination_figures {
    uint64_t queued;
    uint64_t transactional; /* of those queued */
    unsigned lanes, sessions_ready, idle, aside;
};
/* What it has now. Any thread. */
struct destination_figures destination_figures(struct destination *d);

/* Calls `visit` for each destination, without the table's lock held during the call. */
void destination_table_visit(struct destination_table *t,
                             void (*visit)(void *context, struct destination *d), void *context);

#endif
