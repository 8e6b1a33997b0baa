/* Randomness for jitter, shuffles and identifiers: one generator per thread, seeded from the
 * kernel. Not for keys: OpenSSL makes those. */
#ifndef ONWARD_CORE_BASE_RANDOM_H
#define ONWARD_CORE_BASE_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state[4];
};

/* Seeded from the kernel (getrandom). A simulation stands in for it, so that its worlds replay. */
void random_init(struct random *r);

/* Seeded by this number: the same draws each time. */
void random_init_seed(struct random *r, uint64_t seed);

/* 64 uniform bits. */
uint64_t random_u64(struct random *r);

/* Uniform in [0, bound), without modulo bias; `bound` is at least 1. */
uint64_t random_below(struct random *r, uint64_t bound);

/* `value` moved by a uniform amount of at most `percent` of it, up or down. */
uint64_t random_jitter(struct random *r, uint64_t value, unsigned percent);

#endif
