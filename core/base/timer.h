/* Deadlines on a hierarchical timing wheel: arm, disarm and expire in constant time however many
 * there are (15,000 parked sessions, a million waiting recipients). Resolution is 1 ms of the
 * monotonic clock, the reach 2^36 ms (two years). A timer is embedded in what it belongs to, is
 * owned by one thread and is on one wheel at a time.
 *
 * Six levels of 64 slots each: level L holds what is due within 64^(L+1) ms; when the hand passes
 * a slot of a higher level, that slot's timers are sorted down again. */
#ifndef ONWARD_CORE_BASE_TIMER_H
#define ONWARD_CORE_BASE_TIMER_H

#include "core/base/list.h"

#include <stdint.h>

enum { TIMER_LEVELS = 6, TIMER_SLOTS = 64 };

struct timer {
    struct link link; /* on a slot of the wheel, or on none */
    uint64_t due_ms;  /* monotonic */
    void (*on_due)(struct timer *timer, void *owner);
};

/* The wheel. Owned by one thread. */
struct timer_wheel {
    uint64_t now_ms; /* the hand: everything due at or before it has been called */
    uint64_t armed;
    void *owner;
    uint64_t occupied[TIMER_LEVELS]; /* a bit per slot that may hold timers */
    struct link slots[TIMER_LEVELS][TIMER_SLOTS];
};

/* An empty wheel at `now_ms`; `owner` is what on_due gets. */
void timer_wheel_init(struct timer_wheel *w, uint64_t now_ms, void *owner);

/* Must precede the first arm. `on_due` runs on the wheel's thread and may arm, disarm or free. */
void timer_init(struct timer *t, void (*on_due)(struct timer *timer, void *owner));

/* Arms for `due_ms`, moving it where it was armed already. What is due now or in the past fires at
 * the next advance. */
void timer_arm(struct timer_wheel *w, struct timer *t, uint64_t due_ms);

/* Harmless where it is not armed. */
void timer_disarm(struct timer_wheel *w, struct timer *t);

static inline bool timer_armed(const struct timer *t)
{
    return !list_empty(&t->link);
}

/* Moves the hand to `now_ms` and calls what became due, in order of due time to the millisecond.
 * Returns how many were called. A clock that stands still or steps back is harmless. */
unsigned timer_wheel_advance(struct timer_wheel *w, uint64_t now_ms);

/* Milliseconds until the next call of `timer_wheel_advance` can have work to do (at most
 * 60,000, and never later than the earliest deadline); -1 where nothing is armed. */
int timer_wheel_wait_ms(const struct timer_wheel *w, uint64_t now_ms);

#endif
