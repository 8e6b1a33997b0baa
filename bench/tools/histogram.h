/* A histogram of durations: 32 steps to each doubling, so a value read back is at most 3 % off.
 * Owned by one thread, or guarded by its owner; two are added to make one. */
#pragma once
#include <stdint.h>
#include <stdio.h>

enum {
    HISTOGRAM_STEPS = 32,     /* to each doubling; a power of two */
    HISTOGRAM_DOUBLINGS = 36, /* above the first 32 us: beyond 24 days, all is the same */
    HISTOGRAM_BUCKETS = HISTOGRAM_STEPS * (HISTOGRAM_DOUBLINGS + 1),
};

struct histogram {
    uint64_t count, max_us;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Notes one duration in nanoseconds. */
void histogram_note(struct histogram *h, uint64_t ns);

/* Adds `other` to `h`. */
void histogram_add(struct histogram *h, const struct histogram *other);

/* The duration in microseconds that `part` (0 to 1) of all are not above; 0 where there is none. */
uint64_t histogram_at(const struct histogram *h, double part);

/* Prints {"count": ..., "p50_us": ..., ..., "max_us": ..., "points": [[part, us], ...]}; the points
 * make a curve. */
void histogram_print(const struct histogram *h, FILE *out);
