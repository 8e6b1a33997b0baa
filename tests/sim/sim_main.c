/* The simulation's command line (tests/sim/README.md). */
#include "tests/sim/sim_runs.h"
#include "tests/sim/sim_trail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPARED_EVERY = 4 }; /* of many worlds, one in so many is run twice */

static void print(const char *what, const struct sim_tally *t)
{
    (void)printf("%s: %llu worlds, %llu steps; %llu messages for %llu recipients: %llu delivered, "
                 "%llu bounced; %llu deferrals, %llu unknown outcomes, %llu notices",
                 what, (unsigned long long)t->worlds, (unsigned long long)t->steps,
                 (unsigned long long)t->totals.messages, (unsigned long long)t->totals.recipients,
                 (unsigned long long)t->totals.delivered, (unsigned long long)t->totals.bounced,
                 (unsigned long long)t->totals.deferrals, (unsigned long long)t->totals.unknown,
                 (unsigned long long)t->totals.notices);
    if (t->compared > 0)
        (void)printf("; %llu run twice, each time the same", (unsigned long long)t->compared);
    (void)printf("\n");
}

static int usage(void)
{
    (void)fputs("usage: sim seed N | sim trail N | sim seeds FROM COUNT | sim digests FROM COUNT | "
                "sim list FILE | sim bytes [N] | sim pipeline [N] | sim room | sim recovery | "
                "sim scenes\n",
                stderr);
    return 2;
}

static void run_many(uint64_t from, uint64_t count, struct sim_tally *t)
{
    for (uint64_t seed = from; seed < from + count; seed++)
        if (seed % COMPARED_EVERY == 0)
            sim_run_seed_twice(seed, t);
        else
            sim_run_seed(seed, false, t);
    print("seeds", t);
}

/* A line a world, to compare two processes, two machines or two compilers by. */
static void run_digests(uint64_t from, uint64_t count, struct sim_tally *t)
{
    for (uint64_t seed = from; seed < from + count; seed++) {
        uint64_t before = t->steps;
        sim_run_seed(seed, false, t);
        (void)printf("%llu %016llx %llu steps\n", (unsigned long long)seed,
                     (unsigned long long)sim_trail_digest(),
                     (unsigned long long)(t->steps - before));
    }
}

/* Seeds that failed once, one a line; what stands behind a number is a comment. */
static int run_list(const char *path, struct sim_tally *t)
{
    char line[256];
    FILE *in = fopen(path, "r");
    if (in == NULL)
        return usage();
    while (fgets(line, sizeof line, in) != NULL)
        if (line[0] >= '0' && line[0] <= '9')
            sim_run_seed_twice(strtoull(line, NULL, 10), t);
    (void)fclose(in);
    print("kept seeds", t);
    return 0;
}

int main(int argc, char **argv)
{
    struct sim_tally t = {0};
    if (argc == 3 && strcmp(argv[1], "seed") == 0) {
        sim_run_seed(strtoull(argv[2], NULL, 10), true, &t);
        print("seed", &t);
    } else if (argc == 3 && strcmp(argv[1], "trail") == 0) {
        sim_trail_use(SIM_TRAIL_PRINT);
        sim_run_seed(strtoull(argv[2], NULL, 10), false, &t);
    } else if (argc == 4 && strcmp(argv[1], "seeds") == 0) {
        run_many(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10), &t);
    } else if (argc == 4 && strcmp(argv[1], "digests") == 0) {
        run_digests(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10), &t);
    } else if (argc == 3 && strcmp(argv[1], "list") == 0) {
        return run_list(argv[2], &t);
    } else if ((argc == 2 || argc == 3) && strcmp(argv[1], "bytes") == 0) {
        t.shown = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
        sim_run_bytes(&t);
        print("a fault at every byte", &t);
    } else if ((argc == 2 || argc == 3) && strcmp(argv[1], "pipeline") == 0) {
        t.shown = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
        sim_run_pipeline(&t);
        print("several messages, a fault at every byte", &t);
    } else if (argc == 2 && strcmp(argv[1], "room") == 0) {
        sim_run_room(&t);
        print("without room", &t);
    } else if (argc == 2 && strcmp(argv[1], "recovery") == 0) {
        sim_run_recovery(&t);
        print("recovery", &t);
    } else if (argc == 2 && strcmp(argv[1], "scenes") == 0) {
        sim_run_scenes(&t);
        print("scenes", &t);
    } else {
        return usage();
    }
    return 0;
}
