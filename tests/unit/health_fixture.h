/* A health table of the tests', whose hosts have numbers and whose clock begins at NOW. */
#ifndef ONWARD_TESTS_UNIT_HEALTH_FIXTURE_H
#define ONWARD_TESTS_UNIT_HEALTH_FIXTURE_H

#include "core/health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum {
    NOW = 1000000,
    WALL = 7777777,
    MINUTE = 60000,
    DEMOTE_MAX = 30 * MINUTE,
    DOWN_FIRST = 5000,
    TLS_BROKEN = 4 * 60 * MINUTE,
    PATIENCE_MIN = 1000,
    PATIENCE_MAX = 5000,
};

static inline struct health *make(unsigned entries)
{
    struct health_options options = {.entries = entries,
                                     .demote_first_ms = MINUTE,
                                     .demote_max_ms = DEMOTE_MAX,
                                     .down_first_ms = DOWN_FIRST,
                                     .tls_broken_ms = TLS_BROKEN,
                                     .patience_min_ms = PATIENCE_MIN,
                                     .patience_max_ms = PATIENCE_MAX};
    struct health *h = health_create(&options);
    assert_non_null(h);
    return h;
}

static inline struct address host(uint32_t n)
{
    const uint8_t ip[4] = {10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    return address_from_v4(ip, 25);
}

/* A jitter that leaves a back-off as it is, for the waits of these tests: its middle. */
static inline uint64_t middle_of(uint64_t wait)
{
    return wait / 10;
}

static inline enum health_state tell(struct health *h, uint32_t n, enum health_event event,
                                     uint64_t now)
{
    struct address a = host(n);
    return health_tell(h, &a, event, now, WALL + now, 0).now;
}

static inline struct health_view view(const struct health *h, uint32_t n)
{
    struct address a = host(n);
    return health_view(h, &a);
}

static inline uint32_t patience(const struct health *h, uint32_t n, enum health_phase phase)
{
    struct address a = host(n);
    return health_patience_ms(h, &a, phase);
}

static inline void demote(struct health *h, uint32_t n, uint64_t now)
{
    (void)tell(h, n, HEALTH_EVENT_SILENT, now);
    assert_int_equal(tell(h, n, HEALTH_EVENT_SILENT, now), HEALTH_DEMOTED);
}

#endif
