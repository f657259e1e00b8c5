/* The AMX set: its own matmul and attend, the AVX-512 set's rest. See kernels.h for what they compute. */
#ifndef NEF_INFER_KERNELS_AMX_H
#define NEF_INFER_KERNELS_AMX_H

#include "infer/kernels/kernels_internal.h"

#ifdef NEF_AMX_EMULATED /* the same code over a software matrix unit, for tests */
#define nef_amx_matmul  nef_amx_emulated_matmul
#define nef_amx_attend  nef_amx_emulated_attend
#define nef_kernels_amx nef_kernels_amx_emulated
#endif

void nef_amx_matmul(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                    size_t y_stride, void *scratch);
void nef_amx_attend(const struct nef_attend *a, void *scratch);
extern const struct nef_kernels nef_kernels_amx;

#endif
