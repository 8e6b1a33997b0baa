/* Randomness for jitter, shuffles and identifiers: one generator per thread, seeded from the
 * kernel. A simulation seeds it itself. Not for keys: OpenSSL makes those. */
#ifndef ONWARD_CORE_BASE_RANDOM_H
#define ONWARD_CORE_BASE_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state[4];
};

/* Seeded from the kernel (getrandom). */
void random_init(struct random *r);
void random_init_seed(struct random *r, uint64_t seed);

/* 64 uniform bits. */
uint64_t random_u64(struct random *r);

/* Uniform in [0, bound), without modulo bias; `bound` is at least 1. */
uint64_t random_below(struct random *r, uint64_t bound);

/* `value` moved by a uniform amount of at most `percent` of it, up or down. */
uint64_t random_jitter(struct random *r, uint64_t value, unsigned percent);

#endif
