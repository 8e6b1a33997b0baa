#include "core/base/random.h"

#include "core/base/assert.h"

/* xoshiro256** by Blackman and Vigna (public domain algorithm), seeded through splitmix64. */

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = (*x += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void random_init_seed(struct random *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        r->state[i] = splitmix(&seed);
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t random_u64(struct random *r)
{
    uint64_t *s = r->state;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t random_below(struct random *r, uint64_t bound)
{
    ASSERT(bound > 0);
    uint64_t floor = -bound % bound; /* 2^64 mod bound: draws below it would favour small values */
    for (;;) {
        uint64_t draw = random_u64(r);
        if (draw >= floor)
            return draw % bound;
    }
}

uint64_t random_jitter(struct random *r, uint64_t value, unsigned percent)
{
    uint64_t span = value * percent / 100;
    return span > 0 ? value - span + random_below(r, 2 * span + 1) : value;
}
