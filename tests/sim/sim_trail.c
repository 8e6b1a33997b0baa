#include "tests/sim/sim_trail.h"

#include "core/base/assert.h"
#include "tests/sim/sim_world.h"

#include <stdio.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { KEPT_MAX = 1 << 20 }; /* 48 MB; of a longer trail the rest is judged by its digest */

struct note {
    uint64_t step, at_us;
    const char *what;
    uint64_t number;
    size_t len;
    uint64_t digest; /* up to here, with this */
};

static struct {
    enum sim_trail_use use;
    uint64_t step, now_us, digest;
    uint64_t kept_digest; /* of all of the trail that was kept */
    struct note *kept;
    size_t count, room; /* of `kept` */
    size_t at;          /* of those compared */
} trail;

void sim_trail_use(enum sim_trail_use use)
{
    trail.use = use;
}

void sim_trail_begin(void)
{
    trail.step = trail.now_us = trail.digest = 0;
    trail.at = 0;
    if (trail.use == SIM_TRAIL_KEEP)
        trail.kept_digest = trail.count = 0;
}

void sim_trail_step(uint64_t now_us)
{
    trail.step++;
    trail.now_us = now_us;
}

static void keep(const struct note *n)
{
    trail.kept_digest = n->digest;
    if (trail.count == KEPT_MAX)
        return;
    if (trail.count == trail.room) {
        trail.room = trail.room > 0 ? 2 * trail.room : 1 << 16;
        trail.kept = reallocarray(trail.kept, trail.room, sizeof *trail.kept);
        ASSERT(trail.kept != NULL);
    }
    trail.kept[trail.count++] = *n;
}

#define NOTE_FORMAT "step %llu at %.6f s, \"%s\" %llu with %zu bytes (digest %016llx)"
#define NOTE_ARGUMENTS(n_)                                                                         \
    (unsigned long long)(n_)->step, (double)(n_)->at_us / 1e6, (n_)->what,                         \
        (unsigned long long)(n_)->number, (n_)->len, (unsigned long long)(n_)->digest

static void compare(const struct note *n)
{
    if (trail.at == KEPT_MAX)
        return;
    if (trail.at == trail.count)
        sim_fail("the second run goes on where the first had ended: " NOTE_FORMAT,
                 NOTE_ARGUMENTS(n));
    const struct note *first = &trail.kept[trail.at++];
    if (n->digest != first->digest || n->step != first->step || n->at_us != first->at_us)
        sim_fail("the second run is not the first: now " NOTE_FORMAT ", then " NOTE_FORMAT,
                 NOTE_ARGUMENTS(n), NOTE_ARGUMENTS(first));
}

void sim_trail_note(const char *what, uint64_t number, struct slice bytes)
{
    uint64_t head[] = {trail.digest, trail.step, trail.now_us, (unsigned char)what[0], number};
    trail.digest = XXH3_64bits_withSeed(bytes.ptr, bytes.len, XXH3_64bits(head, sizeof head));
    struct note n = {trail.step, trail.now_us, what, number, bytes.len, trail.digest};
    switch (trail.use) {
    case SIM_TRAIL_DIGEST:
        break;
    case SIM_TRAIL_PRINT:
        (void)printf(NOTE_FORMAT "\n", NOTE_ARGUMENTS(&n));
        break;
    case SIM_TRAIL_KEEP:
        keep(&n);
        break;
    case SIM_TRAIL_COMPARE:
        compare(&n);
        break;
    }
}

void sim_trail_end(void)
{
    if (trail.use != SIM_TRAIL_COMPARE)
        return;
    if (trail.at < trail.count)
        sim_fail("the second run ended before " NOTE_FORMAT, NOTE_ARGUMENTS(&trail.kept[trail.at]));
    if (trail.digest != trail.kept_digest)
        sim_fail("the second run is not the first, somewhere behind its first %d things: compare "
                 "two outputs of `sim_main trail`",
                 KEPT_MAX);
}

uint64_t sim_trail_digest(void)
{
    return trail.digest;
}
