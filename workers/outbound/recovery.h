/* What becomes of an exchange that failed: the health table is told of it, a lane that it holds up
 * looks at it again in time, and what was left behind goes when it is back.
 *
 *   DEMOTED ... its time is up: a lane opens a new connection beside its parked ones, as the one
 *               probe in the process; or, where no mail is out, the schedule sends one delivery
 *   probe fails  -> demoted again, twice as long
 *   EHLO is accepted -> HEALTHY: the other lanes see it when they look next; what was stranded in
 *               the queue is released (schedule_release)
 *
 * Worker thread only. */
#ifndef ONWARD_WORKERS_OUTBOUND_RECOVERY_H
#define ONWARD_WORKERS_OUTBOUND_RECOVERY_H

#include "workers/outbound/outcome.h"

/* Tells the health table; where the exchange has recovered, logs it and releases what waits. */
void recovery_tell(struct worker *w, const struct target *t, enum health_event event);

/* What a silence, or an end, says of the host that the session went to. */
enum health_event recovery_silence_of(const struct session *s);
enum health_event recovery_event_of(const struct session *s, enum session_end end);

/* Arms the lane's timer for when one of its unwell addresses, better than what it is using, may be
 * tried again; harmless where it is armed already. */
void recovery_look_later(struct lane *l);
void recovery_on_look(struct timer *timer, void *owner); /* the timer's */

/* Which exchanges the lane's mail was left behind by. A host that has answered, if only to send us
 * away, is asked again by the schedule alone. */
struct stranding recovery_stranding(const struct lane *l);

/* Is none of the route's addresses well? Then one lane finds out for all. */
bool recovery_is_needed(struct worker *w, const struct route *route);

#endif
