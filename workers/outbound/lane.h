/* A lane: the right to run one session at a time for a destination, and the race that finds one.
 *
 *   lane_open: the route's addresses are put in order (order.h); the first one is tried
 *     a session fails             -> the next address at once
 *     a session's patience ends   -> the next address *beside* it; the slow one is kept
 *     a session becomes ready     -> it takes a message from the destination's queue (late binding)
 *     its last byte is about to go, or has gone, and no race is on
 *                                 -> the flight is *handed over* to its session, and the next message bound
 *                                    behind it (carriage.h); its replies are told later, in order
 *     the carrier's patience ends -> another session carries the same flight beside it; the commit
 *                                    token decides who sends the last byte
 *     ... behind the last byte    -> what was bound behind it goes back to the queue, and the lane *steps
 *                                    aside*: it gives its right back and only waits for that reply; where as
 *                                    many have, it goes on at the next exchange beside it
 *     the flight has its outcome  -> slow ones are let go; the ready session takes the next message
 *     a handed over flight is not done with (some recipients are for another transaction, or another
 *       exchange)                 -> it comes back, and is the next one
 *     no mail                     -> the connection is kept a moment (idle), then QUIT
 *     every address is spent      -> what waits at the destination is deferred, unless others get
 *                                 through
 *
 * Invariants (lane_check): a lane has a session, or is ending; a flight has a carrier, or a session
 * on its way to it; at most one session holds the flight's token; at most one flight of a lane is
 * not committed. Worker thread only. */
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

/* ---- what sessions tell (session.c, carriage.c) ---- */
void lane_on_ready(struct lane *l, struct session *s);
void lane_on_patience(struct lane *l, struct session *s);
void lane_on_end(struct lane *l, struct session *s, enum session_end end,
                 const struct reply *reply);

/* A large content is on its way, and may be for long. */
void lane_on_long(struct lane *l);

/* The oldest transaction is over, `c->transaction.replies` are filled; its flight is
 * the lane's now. */
void lane_on_done(struct lane *l, struct session *s, struct carriage *c);

/* The reply behind a last byte takes longer than usual. */
void lane_on_late(struct lane *l, struct session *s);

/* Nothing of what was sent behind a content's end is answered, though that is. */
void lane_on_misfire(struct lane *l, struct session *s);

/* All that was handed over is answered, and behind it is nothing but what was broken off. */
void lane_on_broken_off(struct lane *l, struct session *s);

/* One more message may be bound behind what `s` has sent: true where one was. */
bool lane_bind_behind(struct lane *l, struct session *s);

/* The flight bound behind an end that did not go out after all goes back, and the one before it is
 * the current one again. */
void lane_unbind(struct lane *l, struct session *s);

#endif
