/* An arena: memory that is given out piece by piece and taken back all at once, for what lives as
 * long as one transaction. Holds nothing until it is used. Not thread-safe; owned by whoever embeds
 * it. */
#ifndef ONWARD_CORE_BASE_ARENA_H
#define ONWARD_CORE_BASE_ARENA_H

#include "core/base/slice.h"

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first; owned */
};

/* An empty arena, and the two ways to take everything back: to use it again, and for good. */
void arena_init(struct arena *a);
void arena_clear(struct arena *a); /* everything given out is gone */
void arena_fini(struct arena *a);

/* Aligned for any type; NULL when out of memory. */
void *arena_alloc(struct arena *a, size_t size);

/* A copy of `from` in the arena. False when out of memory. */
bool arena_copy(struct arena *a, struct slice from, struct slice *out);

#endif
