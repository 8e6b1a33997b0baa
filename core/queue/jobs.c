#include "core/queue/jobs.h"

#include "core/base/ring.h"

#include <stdlib.h>

struct jobs {
    struct ring *rings[PRIORITIES];
};

struct jobs *jobs_create(unsigned capacity)
{
    struct jobs *j = calloc(1, sizeof *j);
    if (j == NULL)
        return NULL;
    for (int p = 0; p < PRIORITIES; p++) {
        j->rings[p] = ring_create(capacity);
        if (j->rings[p] == NULL) {
            jobs_destroy(&j);
            return NULL;
        }
    }
    return j;
}

void jobs_destroy(struct jobs **j)
{
    if (*j == NULL)
        return;
    for (int p = 0; p < PRIORITIES; p++)
        ring_destroy(&(*j)->rings[p]);
    free(*j);
    *j = NULL;
}

bool jobs_push(struct jobs *j, struct delivery *d)
{
    return ring_push(j->rings[d->message->priority], d);
}

struct delivery *jobs_take(struct jobs *j, struct priority_turn *turn)
{
    bool bulk = ring_length(j->rings[PRIORITY_BULK]) > 0;
    bool transactional = ring_length(j->rings[PRIORITY_TRANSACTIONAL]) > 0;
    enum envelope_priority first = priority_next(turn, bulk, transactional);
    struct delivery *d = ring_pop(j->rings[first]);
    if (d != NULL)
        return d;
    /* Others have taken it meanwhile, or one came into the other ring behind the look. */
    return ring_pop(j->rings[first == PRIORITY_BULK ? PRIORITY_TRANSACTIONAL : PRIORITY_BULK]);
}

unsigned jobs_length(const struct jobs *j)
{
    return ring_length(j->rings[PRIORITY_BULK]) + ring_length(j->rings[PRIORITY_TRANSACTIONAL]);
}
