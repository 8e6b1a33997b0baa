#include "core/base/histogram.h"

#include "core/base/assert.h"

#define DECADE(n) (uint64_t)(n), (uint64_t)(n)*5 / 2, (uint64_t)(n)*5

static const uint64_t bounds[] = {
    DECADE(100),         DECADE(1000),         DECADE(10000),     DECADE(100000),
    DECADE(1000000),     DECADE(10000000),     DECADE(100000000), DECADE(1000000000),
    DECADE(10000000000), DECADE(100000000000),
};
static_assert(sizeof bounds / sizeof *bounds == HISTOGRAM_BOUNDS, "a bucket for each bound");

uint64_t histogram_bound_us(unsigned i)
{
    ASSERT(i < HISTOGRAM_BOUNDS);
    return bounds[i];
}

/* The first bound that is not below it; five comparisons. */
static unsigned bucket_of(uint64_t us)
{
    unsigned low = 0, high = HISTOGRAM_BOUNDS;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (bounds[middle] < us)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* One writer: no need for a locked instruction. */
static void add(_Atomic uint64_t *to, uint64_t n)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

void histogram_note(struct histogram *h, uint64_t took_us, uint64_t times)
{
    add(&h->counts[bucket_of(took_us)], times);
    add(&h->sum_us, took_us * times);
}

void histogram_read(const struct histogram *h, struct histogram_reading *sum)
{
    for (unsigned i = 0; i <= HISTOGRAM_BOUNDS; i++)
        sum->counts[i] += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
    sum->sum_us += atomic_load_explicit(&h->sum_us, memory_order_relaxed);
}
