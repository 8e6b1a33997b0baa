/* From a flight's results to what is kept: one commit per delivery, with the bounces, delay notices
 * and relay notices it causes, log lines and figures. The one place that decides delivered,
 * deferred or bounced. */
#ifndef ONWARD_WORKERS_OUTBOUND_OUTCOME_H
#define ONWARD_WORKERS_OUTBOUND_OUTCOME_H

#include "workers/outbound/flight.h"
#include "workers/outbound/session.h"

/* Why mail is left behind where no exchange could be reached, and until when (schedule_release). */
struct stranding {
    uint64_t at;          /* health_mark of the exchanges that may come back; 0: not stranded */
    uint64_t probe_in_ms; /* when one of them may be probed: one delivery goes then; 0: none */
};

/* Ends the flight: every recipient is final (asserted). Posts its deliveries to the committer and
 * frees it. `session` had the last word, for log and bounce; NULL: none was reached. */
void outcome_of_flight(struct worker *w, struct flight **f, const struct session *session,
                       struct stranding stranding);

/* All recipients of each delivery on `list` (emptied) get `reply`: no route, expired, returned by
 * the operator, no memory. Class 5 bounces, unless `defer_anyway`. */
void outcome_of_list(struct worker *w, struct link *list, const struct reply *reply,
                     bool defer_anyway);

/* The same for a whole queue that no exchange could be reached for. */
void outcome_of_stranded(struct worker *w, struct link *list, const struct reply *reply,
                         bool defer_anyway, struct stranding stranding);

/* A delivery the schedule marked: past its age limit, or to be returned by the operator's wish. */
void outcome_of_marked(struct worker *w, struct delivery *d);

#endif
