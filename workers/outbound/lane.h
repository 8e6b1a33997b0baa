/* A lane: the right to run one session at a time for a destination, and the race that finds one.
 *
 *   lane_open: the route's addresses are put in order (order.h); the first one is tried
 *     a session fails             -> the next address at once
 *     a session's patience ends   -> the next address *beside* it; the slow one is kept
 *     a session becomes ready     -> it takes a message from the destination's queue (late binding)
 *     the carrier's patience ends -> another session carries the same flight beside it; the commit
 *                                    token decides who sends the last byte
 *     the flight has its outcome  -> slow ones are let go; the ready session takes the next message
 *     no mail                     -> the connection is kept a moment (idle), then QUIT
 *     every address is spent      -> what waits at the destination is deferred, unless others get
 *                                 through
 *
 * Invariants (lane_check): a lane has a session, or is ending; a flight has a carrier, or a session
 * on its way to it; at most one session holds the flight's token. Worker thread only. */
#ifndef ONWARD_WORKERS_OUTBOUND_LANE_H
#define ONWARD_WORKERS_OUTBOUND_LANE_H

#include "dns/route.h"
#include "workers/outbound/session.h"

/* The worker that a lane belongs to. */
struct worker *lane_worker(const struct lane *l);

/* Opens a lane that destination_enqueue granted (it is counted). Takes over the caller's
 * references. */
void lane_open(struct worker *w, struct destination *destination, const struct route *route);

/* The destination called an idle lane: there is mail. Its own worker's thread. */
void lane_called(struct idle_lane *idle);

/* The lane behind an idle entry, to post it mail: any thread, right after it was taken off the idle
 * list. */
struct mail *lane_call_mail(struct idle_lane *idle);

/* Draining: ends the lane now if it carries nothing, else after its flight. */
void lane_drain(struct lane *l);

/* Cuts everything: sessions closed, the flight dropped without an outcome (the spool has it). */
void lane_abandon(struct lane *l);

/* ---- what sessions tell (session.c) ---- */
void lane_on_ready(struct lane *l, struct session *s);
void lane_on_patience(struct lane *l, struct session *s);
void lane_on_done(struct lane *l, struct session *s); /* s->transaction.replies are filled */
void lane_on_end(struct lane *l, struct session *s, enum session_end end,
                 const struct reply *reply);

#endif
