/* The event loop that libunbound runs on: its pluggable `ub_event_base` (unbound-event.h) over
 * plain epoll and the timing wheel. libunbound asks for events (descriptor, timeout, or both) and
 * we call them back; there is nothing else in its thread but the resolver's mailbox and timers,
 * which share this loop.
 *
 * One turn, by the owner:
 *   event_base_wait      sleep until a descriptor is ready, a timer is due or the mailbox wakes us
 *   event_base_dispatch  descriptors, then timers, then what asked for a timeout of zero
 * The time to sleep is worked out at each wait, because libunbound arms a zero timeout whenever a
 * query is submitted.
 *
 * Owner thread only; freed after the last context that uses it. */
#ifndef ONWARD_DNS_EVENT_BASE_H
#define ONWARD_DNS_EVENT_BASE_H

#include "core/base/timer.h"

#include <stdbool.h>

struct event_base;
struct ub_event_base;

/* NULL: out of descriptors or memory. */
struct event_base *event_base_create(void);

/* All events must have been freed (ub_ctx_delete does it). Nulls the caller's pointer. */
void event_base_destroy(struct event_base **b);

/* The same base in libunbound's eyes. */
struct ub_event_base *event_base_for_unbound(struct event_base *b);

/* Makes `fd` end the wait when it is readable; nothing is called. False where the kernel has no
 * room. */
bool event_base_wake_on(struct event_base *b, int fd);

/* The loop's timers, for the owner's own deadlines. */
struct timer_wheel *event_base_timers(struct event_base *b);

/* One turn: waits for readiness or the next deadline (or only looks), then calls what is due. */
void event_base_wait(struct event_base *b, bool may_sleep);
void event_base_dispatch(struct event_base *b);

#endif
