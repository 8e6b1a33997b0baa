/* A worker's delivering half: takes deliveries from the job ring, finds their routes, queues them
 * at their destinations and runs the lanes. Owner: its worker.
 *
 *   ring -> [expired? -> outcome] -> route in cache? -> destination queue -> lane -> session
 *                                        \-> wait for the dns thread, by domain
 *
 * A worker has room for `sessions_max` connections, a sixteenth of it for lanes to destinations
 * where transactional mail waits. Lanes beyond it wait in line here, those first, counted at their
 * destinations, and open as connections close; idle connections are closed to make room. */
#ifndef ONWARD_WORKERS_OUTBOUND_OUTBOUND_H
#define ONWARD_WORKERS_OUTBOUND_OUTBOUND_H

#include "workers/outbound/lane.h"

struct outbound {
    struct worker *worker;
    unsigned sessions;                     /* open connections */
    struct link lanes;                     /* all lanes of this worker */
    struct link idle_lanes;                /* those that keep a connection, oldest first */
    struct link lanes_waiting[PRIORITIES]; /* struct lane without room for a session yet */
    struct link route_waits;               /* one per domain being looked up */
    struct link *route_wait_buckets;
    struct link again;         /* sessions that have input left to read after a bounded turn */
    struct link leaving;       /* sessions that have said QUIT and belong to no lane */
    struct link graveyard;     /* closed sessions, freed at the end of the turn */
    struct priority_turn turn; /* at the job rings */
    struct priority_turn room_turn;
    bool draining;
};

struct outbound *outbound_create(struct worker *w); /* NULL: out of memory */
void outbound_destroy(struct outbound **o);

/* Takes up to `max` jobs from the ring. Returns how many. */
unsigned outbound_take_jobs(struct outbound *o, unsigned max);

/* End of the worker's turn: reads on where it was cut short, frees closed sessions, opens waiting
 * lanes where there is room. True: more to read, so do not sleep. */
bool outbound_end_turn(struct outbound *o);

/* No room for one more connection of a lane of this priority? */
bool outbound_is_full(const struct outbound *o, enum envelope_priority priority);

/* Room for one more, if need be by closing the oldest idle one. */
bool outbound_has_room(struct outbound *o, enum envelope_priority priority);

/* The lane goes on (lane_resume) when there is room. Harmless where it waits already. */
void outbound_wait_for_room(struct outbound *o, struct lane *l);

/* Opens a lane to `domain` for its own sake: it goes as far as READY, finds no mail, and leaves
 * with QUIT. For `onward trace --probe`. Any thread; the domain's route must be in the cache.
 * False: out of memory. */
bool outbound_probe(struct worker *w, struct slice domain);

/* Takes no more jobs and ends every lane after its flight; or cuts everything (lane_abandon). */
void outbound_drain(struct outbound *o);
void outbound_abandon(struct outbound *o);

#endif
