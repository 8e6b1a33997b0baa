/* The simulation's command line (tests/sim/README.md). */
#include "tests/sim/sim_runs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print(const char *what, const struct sim_tally *t)
{
    (void)printf("%s: %llu worlds, %llu steps; %llu messages for %llu recipients: %llu delivered, "
                 "%llu bounced; %llu deferrals, %llu unknown outcomes, %llu notices\n",
                 what, (unsigned long long)t->worlds, (unsigned long long)t->steps,
                 (unsigned long long)t->totals.messages, (unsigned long long)t->totals.recipients,
                 (unsigned long long)t->totals.delivered, (unsigned long long)t->totals.bounced,
                 (unsigned long long)t->totals.deferrals, (unsigned long long)t->totals.unknown,
                 (unsigned long long)t->totals.notices);
}

static int usage(void)
{
    (void)fputs("usage: sim seed N | sim seeds FROM COUNT | sim list FILE | sim bytes [N] | sim "
                "pipeline [N] | sim room | "
                "sim recovery\n",
                stderr);
    return 2;
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
            sim_run_seed(strtoull(line, NULL, 10), false, t);
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
    } else if (argc == 4 && strcmp(argv[1], "seeds") == 0) {
        uint64_t from = strtoull(argv[2], NULL, 10), count = strtoull(argv[3], NULL, 10);
        for (uint64_t i = 0; i < count; i++)
            sim_run_seed(from + i, false, &t);
        print("seeds", &t);
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
    } else {
        return usage();
    }
    return 0;
}
