#include "core/queue/shares.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { ROWS = 2, COUNTERS = 4096 };

struct shares {
    uint64_t seed;
    struct {
        _Atomic uint32_t counts[ROWS][COUNTERS]; /* relaxed: each is a figure of its own */
    } shared;                                    /* written by the committer, read by any */
};

struct places {
    uint32_t at[ROWS];
};

/* Two halves of one hash: domains that meet in one row do not therefore in the other. */
static struct places places_of(const struct shares *s, struct slice domain)
{
    uint64_t hash = s->seed;
    for (size_t i = 0; i < domain.len; i++) {
        hash = (hash ^ (unsigned char)domain.ptr[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    return (struct places){{(uint32_t)hash % COUNTERS, (uint32_t)(hash >> 32) % COUNTERS}};
}

struct shares *shares_create(uint64_t seed)
{
    struct shares *s = calloc(1, sizeof *s);
    if (s != NULL)
        s->seed = seed;
    return s;
}

void shares_destroy(struct shares **s)
{
    free(*s);
    *s = NULL;
}

void shares_add(struct shares *s, struct slice domain, uint32_t recipients)
{
    struct places p = places_of(s, domain);
    for (int row = 0; row < ROWS; row++)
        atomic_fetch_add_explicit(&s->shared.counts[row][p.at[row]], recipients,
                                  memory_order_relaxed);
}

void shares_drop(struct shares *s, struct slice domain, uint32_t recipients)
{
    struct places p = places_of(s, domain);
    for (int row = 0; row < ROWS; row++)
        atomic_fetch_sub_explicit(&s->shared.counts[row][p.at[row]], recipients,
                                  memory_order_relaxed);
}

uint64_t shares_of(const struct shares *s, struct slice domain)
{
    struct places p = places_of(s, domain);
    uint32_t least = UINT32_MAX;
    for (int row = 0; row < ROWS; row++) {
        uint32_t count =
            atomic_load_explicit(&s->shared.counts[row][p.at[row]], memory_order_relaxed);
        least = count < least ? count : least;
    }
    return least;
}
