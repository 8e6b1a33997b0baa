/* A seeded hash of domain names, for the tables of this folder: whoever chooses domains must not be
 * able to choose buckets. Not for anything that is stored. */
#ifndef ONWARD_DNS_HASH_H
#define ONWARD_DNS_HASH_H

#include "core/base/slice.h"

/* Spreads every bit of `x` over all others. */
static inline uint64_t hash_mix(uint64_t x)
{
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 29);
}

/* `domain` in normal form. */
static inline uint64_t hash_domain(uint64_t seed, struct slice domain)
{
    uint64_t hash = seed ^ domain.len;
    while (domain.len >= sizeof hash) {
        uint64_t word;
        memcpy(&word, domain.ptr, sizeof word);
        hash = hash_mix(hash ^ word) + seed;
        domain = slice_skip(domain, sizeof word);
    }
    uint64_t word = 0;
    if (domain.len > 0)
        memcpy(&word, domain.ptr, domain.len);
    return hash_mix(hash_mix(hash ^ word));
}

#endif
