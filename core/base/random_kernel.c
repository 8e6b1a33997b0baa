#include "core/base/assert.h"
#include "core/base/random.h"

#include <sys/random.h>

/* Apart from the generator, so that a simulation links with its own. */
void random_init(struct random *r)
{
    uint64_t seed = 0;
    ssize_t n = getrandom(&seed, sizeof seed, 0);
    ASSERT(n == (ssize_t)sizeof seed);
    random_init_seed(r, seed);
}
