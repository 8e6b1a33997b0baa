/* From a flight's results to what is kept: one commit per delivery, with the bounces, delay notices
 * and relay notices it causes, log lines and figures. The one place that decides delivered,
 * deferred or bounced. */
#ifndef ONWARD_WORKERS_OUTBOUND_OUTCOME_H
#define ONWARD_WORKERS_OUTBOUND_OUTCOME_H

#include "workers/outbound/flight.h"
#include "workers/outbound/session.h"

/* Where and how the last word was spoken, for log and bounce. `session` may be NULL: none was
 * reached. */
struct outcome_origin {
    const struct session *session;
};

/* Ends the flight: every recipient is final (asserted). Posts its deliveries to the committer and
 * frees it. */
void outcome_of_flight(struct worker *w, struct flight **f, const struct session *session);

/* All recipients of each delivery on `list` (emptied) get `reply`: no route, no exchange, expired,
 * returned by the operator. Class 5 bounces, unless `defer_anyway`. */
void outcome_of_list(struct worker *w, struct link *list, const struct reply *reply,
                     bool defer_anyway);

/* A delivery the schedule marked: past its age limit, or to be returned by the operator's wish. */
void outcome_of_marked(struct worker *w, struct delivery *d);

#endif
