/* What this machine can do at most, measured: the limits that `nef infer --bench` is compared with. */
#ifndef NEF_CLI_INFER_PEAK_H
#define NEF_CLI_INFER_PEAK_H

#include <stdint.h>
#include "infer/kernels/kernels.h"

enum nef_peak {
    NEF_PEAK_MEMORY, /* bytes read a second, from memory that no cache holds */
    NEF_PEAK_INT8,   /* multiplications and additions of int8 products, both counted */
    NEF_PEAK_BF16,   /* the same of bf16 products; on sets without them, as floats */
    NEF_PEAK_FLOAT,
};
/* With THREADS threads, using what KERNELS may use. 0: can't be measured (no memory; no vector instructions). Takes
 * some tenths of a second. The caller has entered KERNELS. */
double nef_peak_measure(enum nef_peak what, uint32_t threads, const struct nef_kernels *kernels);

#endif
