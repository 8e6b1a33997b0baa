/* What the simulation runs: random worlds by seed, one dialogue with a fault at every byte, a burst
 * without room for it, exchanges that recover, and scenes. */
#ifndef ONWARD_TESTS_SIM_RUNS_H
#define ONWARD_TESTS_SIM_RUNS_H

#include "tests/sim/sim_world.h"

struct sim_tally {
    uint64_t worlds, steps;
    uint64_t compared; /* worlds that were run twice */
    uint64_t shown;    /* the trace of the world with this number is shown; 0 = none */
    struct sim_totals totals;
};

/* A world made of `seed` alone, run to its end. Ends the process where an invariant breaks. */
void sim_run_seed(uint64_t seed, bool shows_trace, struct sim_tally *tally);

/* The same, run twice: ends the process at the first thing that was not as in the first run
 * (sim_trail.h). Counts once. */
void sim_run_seed_twice(uint64_t seed, struct sim_tally *tally);

/* The same dialogue, over and over: the first exchange falls silent, closes, resets or answers 421
 * behind each single byte that it says, and each that it hears. */
void sim_run_bytes(struct sim_tally *tally);

/* Several messages over one connection, one behind the other and in flight together, with a fault
 * at every byte of all that; and exchanges that do not take what is sent ahead. */
void sim_run_pipeline(struct sim_tally *tally);

/* Well exchanges, and fewer connections than there is mail for. */
void sim_run_room(struct sim_tally *tally);

/* The one exchange of a domain is out of order for a time, with mail waiting. */
void sim_run_recovery(struct sim_tally *tally);

/* What bulk senders meet, scene by scene. */
void sim_run_scenes(struct sim_tally *tally);

void sim_tally_add(struct sim_tally *tally, const struct sim_world *w);

#endif
