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

/* The library's fences are assembler, which the thread sanitizer cannot read. This file is built
 * without it (Makefile), and it is told instead what the fences add up to: what was written to an
 * item before its push is seen after its pop. */
#ifdef ONWARD_THREAD_SANITIZER
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define HAND_OVER(item) __tsan_release(item)
#define TAKE_OVER(item) __tsan_acquire(item)
#else
#define HAND_OVER(item)
#define TAKE_OVER(item)
#endif

bool ring_push(struct ring *r, void *item)
{
    ASSERT(item != NULL);
    HAND_OVER(item);
    return ck_ring_enqueue_mpmc(&r->ring, r->slots, item);
}

void *ring_pop(struct ring *r)
{
    void *item = NULL;
    if (!ck_ring_dequeue_mpmc(&r->ring, r->slots, &item))
        return NULL;
    TAKE_OVER(item);
    return item;
}

unsigned ring_length(const struct ring *r)
{
    return ck_ring_size(&r->ring);
}
