/* Whose turn it is where mail waits. There are two classes (envelope.h): transactional mail, such
 * as one-time codes, goes before bulk mail at each place where both wait: at the schedule, which
 * waits for room in the job ring; in the ring, which is two (jobs.h); at the destination
 * (destination.h); and for room for a connection (outbound.h). A delivery that a session carries
 * already is never interrupted: messages are short, so the next session that is free is soon
 * enough, and no connection is kept back for what may come.
 *
 * Bulk never starves: while both wait, every 8th taken is bulk. So much is left of the throughput
 * where a sender calls everything transactional, and a one-time code waits for one bulk message in
 * seven codes at most. */
#ifndef ONWARD_CORE_QUEUE_PRIORITY_H
#define ONWARD_CORE_QUEUE_PRIORITY_H

#include "core/spool/envelope.h"

enum { PRIORITY_BULK_EVERY = 8 };

/* How many were taken in a row before bulk that waited. Belongs to whoever takes: a place, or a
 * thread. Zero at first. */
struct priority_turn {
    uint8_t passed;
};

/* Which class is next, where mail of at least one waits. */
static inline enum envelope_priority priority_next(struct priority_turn *t, bool bulk,
                                                   bool transactional)
{
    if (transactional && (!bulk || t->passed + 1 < PRIORITY_BULK_EVERY)) {
        t->passed = bulk ? (uint8_t)(t->passed + 1) : 0;
        return PRIORITY_TRANSACTIONAL;
    }
    t->passed = 0;
    return PRIORITY_BULK;
}

/* What was taken of this class goes back untouched: the turn is that class's again. */
static inline void priority_return(struct priority_turn *t, enum envelope_priority class)
{
    if (class == PRIORITY_BULK)
        t->passed = PRIORITY_BULK_EVERY - 1;
    else if (t->passed > 0)
        t->passed--;
}

#endif
