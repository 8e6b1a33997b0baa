/* The jobs: deliveries that are due, on their way from the schedule to the workers. A bounded
 * lock-free ring (base/ring.h) for each priority, so that a full ring of bulk mail delays nothing
 * that goes before it. The schedule pushes; any worker takes. Neither ever blocks. */
#ifndef ONWARD_CORE_QUEUE_JOBS_H
#define ONWARD_CORE_QUEUE_JOBS_H

#include "core/queue/delivery.h"
#include "core/queue/priority.h"

struct jobs;

/* Room for `capacity` (a power of two) of each priority. NULL: out of memory. */
struct jobs *jobs_create(unsigned capacity);
void jobs_destroy(struct jobs **j); /* must be empty */

/* False where the ring of its priority is full. */
bool jobs_push(struct jobs *j, struct delivery *d);

/* The next by priority; `turn` is the taker's. NULL: none. */
struct delivery *jobs_take(struct jobs *j, struct priority_turn *turn);

/* How many wait. A hint: others push and take meanwhile. */
unsigned jobs_length(const struct jobs *j);

#endif
