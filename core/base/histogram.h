/* How long something took, counted by how long: a histogram over log-spaced buckets, in the shape
 * that Prometheus asks for (each bound with all that took at most so long).
 *
 * All histograms have the same bounds, 1, 2.5 and 5 in each decade from 100 us to 500,000 s: six
 * days, past any age limit, within a factor of 2.5. A quantile read off them is as exact as that.
 *
 * Each has one thread that notes, without a lock and without an allocation, in 35 ns at most; any
 * thread may read. What is read while something is noted may lack it in the sum but never in the
 * count: that is made of the buckets. */
#ifndef ONWARD_CORE_BASE_HISTOGRAM_H
#define ONWARD_CORE_BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

enum { HISTOGRAM_BOUNDS = 30 };

/* Embedded, zeroed, in what its thread owns. */
struct histogram {
    _Atomic uint64_t
        counts[HISTOGRAM_BOUNDS + 1]; /* by the least bound that holds it; last: beyond */
    _Atomic uint64_t sum_us;
};

/* What one or several hold. The reader's own. */
struct histogram_reading {
    uint64_t counts[HISTOGRAM_BOUNDS + 1];
    uint64_t sum_us;
};

/* The bound of bucket `i`, in us; i < HISTOGRAM_BOUNDS. */
uint64_t histogram_bound_us(unsigned i);

/* Counts one more, or `times` of them. Its own thread only. */
void histogram_note(struct histogram *h, uint64_t took_us, uint64_t times);

/* Adds what is counted so far to the reading, so that those of several threads are
 * one. Any thread. */
void histogram_read(const struct histogram *h, struct histogram_reading *sum);

#endif
