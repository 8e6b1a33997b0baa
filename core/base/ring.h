/* Bounded lock-free multi-producer multi-consumer ring of pointers (Concurrency Kit's ck_ring).
 * Any thread may push or pop; neither ever blocks. */
#ifndef ONWARD_CORE_BASE_RING_H
#define ONWARD_CORE_BASE_RING_H

#include <stdbool.h>

struct ring;

/* `capacity` is a power of two, at least 4; one slot of it stays empty. NULL when out of memory. */
struct ring *ring_create(unsigned capacity);

/* The ring must be empty. Nulls the caller's pointer. */
void ring_destroy(struct ring **r);

/* False where the ring is full. */
bool ring_push(struct ring *r, void *item);

/* NULL where the ring is empty. */
void *ring_pop(struct ring *r);

/* A hint: others push and pop meanwhile. */
unsigned ring_length(const struct ring *r);

#endif
