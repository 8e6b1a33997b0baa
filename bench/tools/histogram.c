#include "bench/tools/histogram.h"

#include <inttypes.h>
#include <stdbool.h>

static unsigned bucket_of(uint64_t us)
{
    if (us < HISTOGRAM_STEPS)
        return (unsigned)us;
    unsigned doubling = 58 - (unsigned)__builtin_clzll(us); /* 32..63 us: 0 */
    if (doubling >= HISTOGRAM_DOUBLINGS)
        return HISTOGRAM_BUCKETS - 1;
    return HISTOGRAM_STEPS * (doubling + 1) + (unsigned)(us >> doubling) - HISTOGRAM_STEPS;
}

/* The largest value that falls into a bucket. */
static uint64_t top_of(unsigned bucket)
{
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    unsigned doubling = bucket / HISTOGRAM_STEPS - 1;
    return ((uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS + 1) << doubling) - 1;
}

void histogram_note(struct histogram *h, uint64_t ns)
{
    uint64_t us = ns / 1000;
    h->count++;
    h->buckets[bucket_of(us)]++;
    h->max_us = us > h->max_us ? us : h->max_us;
}

void histogram_add(struct histogram *h, const struct histogram *other)
{
    h->count += other->count;
    h->max_us = other->max_us > h->max_us ? other->max_us : h->max_us;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        h->buckets[i] += other->buckets[i];
}

uint64_t histogram_at(const struct histogram *h, double part)
{
    uint64_t wanted = (uint64_t)(part * (double)h->count), seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > wanted || (seen == h->count && seen > 0))
            return top_of(i) < h->max_us ? top_of(i) : h->max_us;
    }
    return 0;
}

void histogram_print(const struct histogram *h, FILE *out)
{
    static const double parts[] = {0,  .05, .1,   .2,  .3,   .4,   .5,   .6,    .7,   .8,
                                   .9, .95, .975, .99, .995, .998, .999, .9995, .9999};
    (void)fprintf(out,
                  "{\"count\": %" PRIu64 ", \"p50_us\": %" PRIu64 ", \"p90_us\": %" PRIu64
                  ", \"p99_us\": %" PRIu64 ", \"p999_us\": %" PRIu64 ", \"max_us\": %" PRIu64
                  ", \"points\": [",
                  h->count, histogram_at(h, .5), histogram_at(h, .9), histogram_at(h, .99),
                  histogram_at(h, .999), h->max_us);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        (void)fprintf(out, "[%g, %" PRIu64 "], ", parts[i], histogram_at(h, parts[i]));
    (void)fprintf(out, "[1, %" PRIu64 "]]}", h->max_us);
}
