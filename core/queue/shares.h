/* How many recipients each domain has queued, told to threads that may not ask the schedule: so
 * that a destination which takes no mail does not use up the room of a queue that is bounded
 * (workers/intake.h).
 *
 * Two rows of counters; a domain adds to one counter of each, chosen by a hash that nobody can
 * foresee. The lesser of its two is at least what it has, and more only where others meet it in
 * both rows: with a million recipients of ten thousand domains, by some hundreds (a count-min
 * sketch, as in Cormode and Muthukrishnan 2005). That needs no look-up, no memory that grows and no
 * lock.
 *
 * Owned by the schedule, changed by the committer's thread; any thread may ask. */
#ifndef ONWARD_CORE_QUEUE_SHARES_H
#define ONWARD_CORE_QUEUE_SHARES_H

#include "core/base/slice.h"

struct shares;

struct shares *shares_create(uint64_t seed); /* NULL: out of memory */
void shares_destroy(struct shares **s);

/* `recipients` of this domain (in normal form) came into the queue, or left it. */
void shares_add(struct shares *s, struct slice domain, uint32_t recipients);
void shares_drop(struct shares *s, struct slice domain, uint32_t recipients);

/* How many of them are queued, at most. Any thread. */
uint64_t shares_of(const struct shares *s, struct slice domain);

#endif
