/* What the kernels' tests share: random numbers of chosen kinds, comparison of bits, and the sets of this processor. */
#ifndef NEF_TESTS_UNIT_INFER_KERNELS_FIXTURE_H
#define NEF_TESTS_UNIT_INFER_KERNELS_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "infer/kernels/kernels.h"

struct random {
    uint64_t state;
};
uint64_t random_next(struct random *r);
uint32_t random_below(struct random *r, uint32_t limit);
float random_unit(struct random *r); /* -1 .. 1 */

/* PLAIN: -1 .. 1. WILD: also 0, -0, subnormals, 1e-37 .. 1e30, and runs of zeros. BROKEN: WILD with some NaNs and
 * infinities. */
enum values { PLAIN, WILD, BROKEN };
void random_floats(struct random *r, enum values kind, size_t count, float *out);
/* Rows of a tensor as a GGUF has them. WILD: scales may be 0, subnormal or large. */
void random_rows(struct random *r, enum values kind, uint32_t type, uint64_t n, uint64_t k, uint8_t *out);
size_t rows_bytes(uint32_t type, uint64_t n, uint64_t k);

/* Equal bits; any NaN equals any other (docs/numerics.md). Prints the first difference. */
bool same_floats(const char *what, const float *a, const float *b, size_t count);

void *room(size_t bytes); /* 64-byte aligned; the caller frees it. Aborts when there is none */

/* The sets besides scalar that this processor has, NULL at the end; enters this thread. */
const struct nef_kernels *const *fast_sets(void);
const struct nef_kernels *scalar_set(void);

#endif
