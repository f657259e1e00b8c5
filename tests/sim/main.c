/* nef_sim: run seeds. `--seeds FROM-TO` runs FROM..TO, prints each seed that fails and exits with 1;
 * `--seed N [--trace]` replays one. */
#include "sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

static struct sim sim;

static int usage(void)
{
    fprintf(stderr, "usage: nef_sim --seeds FROM-TO | --seed N [--trace]\n");
    return 2;
}

int main(int argc, char **argv)
{
    unsigned long from = 1, to = 0, bad = 0;
    bool trace = false, keep_going = false;
    uint64_t steps = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--keep-going") == 0)
            keep_going = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc &&
                 sscanf(argv[i + 1], "%lu", &from) == 1)
            to = from, i++;
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc &&
                 sscanf(argv[i + 1], "%lu-%lu", &from, &to) == 2)
            i++;
        else
            return usage();
    }
    if (to < from)
        return usage();
    for (unsigned long seed = from; seed <= to; seed++) {
        bool good = sim_run_seed(seed, trace, &sim);

        steps += sim.steps;
        if (!good) {
            printf("seed %lu failed at %.1f ms: %s\n", seed, (double)sim.now / 1e6, sim.failure);
            fflush(stdout);
            bad++;
        }
        sim_free(&sim);
        if (bad > 0 && !keep_going)
            break;
    }
    printf("seeds %lu-%lu: %lu failed, %lu steps\n", from, to, bad, (unsigned long)steps);
    fflush(stdout);
    return bad > 0;
}
