/* The trail of a world: each thing that happens in it, with its time and its bytes, and a digest of
 * all so far. Two runs of a seed leave the same trail, in one process or in two; where they do not,
 * the simulation replays nothing, and the first thing that was different says why.
 *
 * One trail at a time, of the world that runs. */
#ifndef ONWARD_TESTS_SIM_TRAIL_H
#define ONWARD_TESTS_SIM_TRAIL_H

#include "core/base/slice.h"

#include <stdbool.h>

/* What becomes of a trail while it is made. */
enum sim_trail_use {
    SIM_TRAIL_DIGEST, /* the digest alone */
    SIM_TRAIL_PRINT,  /* a line for each thing, to compare two processes by */
    SIM_TRAIL_KEEP,   /* kept, to compare the next one with */
    SIM_TRAIL_COMPARE /* ends the process (sim_fail) where it leaves the one that was kept */
};

/* Of the worlds that begin from now on; at first, DIGEST. */
void sim_trail_use(enum sim_trail_use use);

/* A world begins. */
void sim_trail_begin(void);

/* A step of the world begins at this moment. */
void sim_trail_step(uint64_t now_us);

/* In this step: `what` (static storage) came about, of the connection, event, recipient...
 * `number`, with these bytes. */
void sim_trail_note(const char *what, uint64_t number, struct slice bytes);

/* The world has ended: COMPARE fails where the kept trail goes on. */
void sim_trail_end(void);

/* Of everything noted since the beginning, in order. */
uint64_t sim_trail_digest(void);

#endif
