/* What the files of this directory share: the sets, and how packed weights are read one value at a time. */
#ifndef NEF_INFER_KERNELS_INTERNAL_H
#define NEF_INFER_KERNELS_INTERNAL_H

#include "infer/kernels/kernels.h"

extern const struct nef_kernels nef_kernels_scalar;
#if defined(__x86_64__)
extern const struct nef_kernels nef_kernels_avx2;
extern const struct nef_kernels nef_kernels_avx512;
#endif

/* ---- scratch (nef_matmul_scratch): what the scalar set and the vector sets need of it ---- */

#define NEF_VEC_WORK_BYTES  (256u << 10) /* whatever k is */
#define NEF_VEC_GROUP_BYTES 4864u        /* or this for each 256 columns and 8 rows, when rows are few: */
#define NEF_VEC_FEW_ROWS    64u          /* at most */
/* The AMX set: a tile of weights, and sums of NEF_MATMUL_ROWS_MAX rows, for each 32 columns; or rows of attention. */
#define NEF_AMX_BLOCK_BYTES (512u + 3 * 64 + NEF_MATMUL_ROWS_MAX * 4)
#define NEF_AMX_WORK_BYTES  (2u * 4 * 1024 + 1024)
#define NEF_AMX_ROWS        64u
#define NEF_AMX_ATTEND_BYTES                                                                                           \
    (NEF_AMX_ROWS * NEF_HEAD_DIM_MAX * (2 + 4) + 16 * 64 * (4 + 2) + 2 * NEF_KV_TILE * NEF_HEAD_DIM_MAX * 2 +         \
     2 * NEF_AMX_ROWS * 4)
#define NEF_AMX_SCRATCH(k_max)                                                                                         \
    NEF_MAX((size_t)NEF_AMX_ATTEND_BYTES, (size_t)(k_max) / NEF_BLOCK_COLS * NEF_AMX_BLOCK_BYTES + NEF_AMX_WORK_BYTES)

#define NEF_CHAIN_COLS 8u /* of F16 and F32 weights: columns of a chain */

/* ---- selftest.c ---- */

/* Whether SET gives the scalar set's bits on small vectors: a processor, emulator or compiler that computes differently
 * must not be used. Run in a thread that has entered. */
bool nef_kernels_agree(const struct nef_kernels *set);

/* ---- unpack.c ---- */

/* q of a block: out[lane][column], without the bias. Integer payloads only. */
void nef_unpack_block(const struct nef_matrix *m, uint32_t tile, uint32_t block,
                      int16_t out[NEF_TILE_ROWS][NEF_BLOCK_COLS]);
/* s and m of a lane for the 16 columns (half 0 or 1) of a block; m is 0 for types without offsets. */
void nef_unpack_scale(const struct nef_matrix *m, uint32_t tile, uint32_t block, uint32_t half, uint32_t lane,
                      float *out_s, float *out_m);
/* A weight of the BF16, F16 or F32 payloads. */
float nef_unpack_float(const struct nef_matrix *m, uint32_t tile, uint32_t column, uint32_t lane);

#endif
