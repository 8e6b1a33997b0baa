#include "core/base/ring.h"

#include "core/base/assert.h"

#include <ck_ring.h>
#include <stdlib.h>

struct ring {
    ck_ring_t ring;
    ck_ring_buffer_t *slots;
};

struct ring *ring_create(unsigned capacity)
{
    ASSERT(capacity >= 4 && (capacity & (capacity - 1)) == 0);
    struct ring *r = aligned_alloc(64, (sizeof *r + 63) / 64 * 64);
    ck_ring_buffer_t *slots = calloc(capacity, sizeof *slots);
    if (r == NULL || slots == NULL) {
        free(r);
        free(slots);
        return NULL;
    }
    ck_ring_init(&r->ring, capacity);
    r->slots = slots;
    return r;
}

void ring_destroy(struct ring **r)
{
    if (*r == NULL)
        return;
    ASSERT(ck_ring_size(&(*r)->ring) == 0);
    free((*r)->slots);
    free(*r);
    *r = NULL;
}

bool ring_push(struct ring *r, void *item)
{
    ASSERT(item != NULL);
    return ck_ring_enqueue_mpmc(&r->ring, r->slots, item);
}

void *ring_pop(struct ring *r)
{
    void *item = NULL;
    return ck_ring_dequeue_mpmc(&r->ring, r->slots, &item) ? item : NULL;
}

unsigned ring_length(const struct ring *r)
{
    return ck_ring_size(&r->ring);
}
