/* Kernels: the arithmetic of a token, once for each kind of processor. PURE: pointers and sizes, no I/O, no threads,
 * no allocation (but packing's buffers are the caller's). What they compute is defined to the bit by
 * docs/numerics.md; scalar.c is that page in C, and every other set must equal it.
 *
 * Shapes. Activations are row-major floats, one row per token. Weights are packed once at load into tiles of 16
 * output rows (n), so that 16 neighbouring outputs are the 16 lanes of a vector:
 *
 *   block = 32 columns (k) x 16 rows (n); tile t holds rows 16t .. 16t+15, its blocks lie in ascending k.
 *   payload, at payload + (t * blocks + b) * block_bytes, 64-byte aligned:
 *     U8    512 bytes  [k/4: 8][n: 16][k%4: 4]     q + bias, unsigned (VNNI and AMX order)
 *     U4    256 bytes  [j: 4][n: 16][k%4: 4]       low nibble: k/4 = j, high nibble: k/4 = j + 4
 *     U5    320 bytes  U4, then [n: 16][k%4: 4]    bit j of the byte is the fifth bit of k/4 = j
 *     U6    384 bytes  U4, then [h: 2][n: 16][k%4: 4]    bits 2g, 2g + 1 of the byte are the upper two of k/4 = 4h + g
 *     BF16 1024 bytes  [k/2: 16][n: 16][k%2: 2]    uint16
 *     F16  1024 bytes  [k: 32][n: 16]              uint16
 *     F32  2048 bytes  [k: 32][n: 16]              float
 *   scales, at scales + (t * groups + g) * scale_bytes; a group is one block, or 8 blocks (256 columns) for K types:
 *     BLOCK  32 bytes   d[n: 16] f16                                   (Q8_0, Q4_0, Q5_0)
 *     K45   320 bytes   d[16] f16, dmin[16] f16, then 8 x (sc[16] u8, m[16] u8)      (Q4_K, Q5_K)
 *     K6    288 bytes   d[16] f16, then 16 x sc[16] i8, one per 16 columns           (Q6_K)
 *     NONE              (BF16, F16, F32)
 * Rows beyond n in the last tile are zero and their outputs are not written.
 *
 * Threads: functions are reentrant; callers cut work by tile (matmul) or by row. Every thread that calls them
 * has called nef_kernels_thread_enter() first (rounding and flush mode, matrix unit's permission). */
#ifndef NEF_INFER_KERNELS_H
#define NEF_INFER_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

#define NEF_NUMERICS_VERSION 2u /* docs/numerics.md */
#define NEF_TILE_ROWS        16u
#define NEF_BLOCK_COLS       32u
#define NEF_GROUP_COLS       256u /* of activations, and of K types */
#define NEF_X_MAX            32512

enum nef_payload {
    NEF_PAYLOAD_U8,
    NEF_PAYLOAD_U4,
    NEF_PAYLOAD_U5,
    NEF_PAYLOAD_U6,
    NEF_PAYLOAD_BF16,
    NEF_PAYLOAD_F16,
    NEF_PAYLOAD_F32
};
enum nef_scales { NEF_SCALES_NONE, NEF_SCALES_BLOCK, NEF_SCALES_K45, NEF_SCALES_K6 };

/* A packed weight matrix (n outputs, k inputs). Borrows payload and scales. */
struct nef_matrix {
    enum nef_payload payload_kind;
    enum nef_scales scales_kind;
    int bias;           /* what was added to q: 128 (Q8_0), 8 (Q4_0), 16 (Q5_0), 32 (Q6_K), 0 (Q4_K, Q5_K) */
    uint32_t n, k;      /* k is a multiple of 32 */
    uint32_t tiles;     /* ceil(n / 16) */
    uint32_t blocks;    /* k / 32 */
    size_t block_bytes; /* of payload */
    size_t group_bytes; /* of scales; 0 for NONE */
    uint32_t group_blocks; /* blocks of a scale group: 1, or 8 */
    const uint8_t *payload; /* 64-byte aligned */
    const uint8_t *scales;  /* 32-byte aligned */
};

/* ---- packing (pack.c) ---- */

/* Shape of a packed matrix for a ggml type; payload and scales stay NULL. Errors: NEF_E_UNSUPPORTED (type, k not a
 * multiple of 32, with K types of 256, or n or k 0 or above NEF_MATRIX_N_MAX, NEF_MATRIX_K_MAX). */
NEF_MUST_CHECK nef_err nef_matrix_shape(uint32_t ggml_type, uint64_t n, uint64_t k, struct nef_matrix *out_matrix);
size_t nef_matrix_payload_bytes(const struct nef_matrix *m);
size_t nef_matrix_scale_bytes(const struct nef_matrix *m);
/* Pack tiles [tile0, tile0 + tiles) from the file's rows. rows: row-major as in GGUF. payload, scales: whole buffers of
 * M's sizes; only these tiles' parts are written, so threads may pack different tiles at once. */
void nef_pack(uint32_t ggml_type, const struct nef_matrix *m, const uint8_t *rows, uint32_t tile0, uint32_t tiles,
              uint8_t *payload, uint8_t *scales);
/* Row `row` of a packed matrix as floats (embeddings of a tied model); equals nef_gguf_row's bits. */
void nef_unpack_row(const struct nef_matrix *m, uint32_t row, float *out);

/* ---- activations ---- */

/* Rows in the form that a matrix's payload kind needs. The buffers are the caller's (nef_act_bytes); a set fills those
 * that it uses and may leave others alone. All are row-major with `k` columns (or k/32, ...) a row. */
struct nef_act {
    uint32_t rows, k;
    const float *x;  /* F16 and F32 payloads read these */
    uint16_t *bf16;  /* BF16 payload */
    int16_t *x16;    /* quantized payloads: X, and ... */
    int8_t *hi, *lo; /* ... X = 256*hi + lo */
    int32_t *sum16;  /* sum of X over each 16 columns: k/16 a row */
    float *d;        /* scale per group of 256: ceil(k/256) a row */
};
/* Bytes of one buffer that holds all of the above but x for ROWS rows, and its cutting (64-byte aligned parts). Rows
 * are padded to a multiple of 16: sets may read (never use) the padding. */
size_t nef_act_bytes(uint32_t rows_max, uint32_t k_max);
void nef_act_place(struct nef_act *act, void *buffer, uint32_t rows, uint32_t k, const float *x);

/* ---- attention ---- */

#define NEF_KV_TILE     64u   /* positions of a page of the cache and of a softmax tile */
#define NEF_KV_SEGMENT  1024u /* positions of one partial result */
#define NEF_HEAD_DIM_MAX 256u
enum nef_kv_type { NEF_KV_BF16, NEF_KV_F32, NEF_KV_I8 };

/* One page of one layer and one kv head, head_dim d (a multiple of 32):
 *   BF16  K [pos/16: 4][d/2][pos%16: 16][2] uint16     V [pos/2: 32][d][2] uint16
 *   F32   K [pos/16: 4][d][pos%16: 16] float           V [pos: 64][d] float
 *   I8    K [pos/16: 4][d/2][16][2] int8, then 64 float scales    V [pos/2: 32][d][2] int8, then 64 float scales
 * Positions not yet written hold zero bytes. 64-byte aligned. */
size_t nef_kv_page_bytes(enum nef_kv_type type, uint32_t head_dim); /* of K or V, not both; a multiple of 64 */

/* Query rows of one kv head against pages of one segment, all of them or some that follow each other: rows may be of
 * several sequences, as long as these pages are the same for all. Row r: query r (a token and one of the heads that
 * share the kv head), may see positions 0 .. limit[r] (inclusive). Rows whose limit lies below `first` are not given. */
struct nef_attend {
    enum nef_kv_type type;
    uint32_t head_dim;
    uint32_t rows;
    const float *const *q;    /* rows pointers to head_dim floats */
    const uint32_t *limit;
    uint32_t first;           /* position where the first of these pages begins: a multiple of NEF_KV_TILE */
    uint32_t pages;           /* 1 .. NEF_KV_SEGMENT / NEF_KV_TILE */
    bool resume;              /* m, l and o hold what the segment's pages before these gave; else they are set */
    const void *const *k_page; /* in order */
    const void *const *v_page;
    float scale;              /* 1/sqrt(head_dim), rounded to float */
    float *out_m, *out_l;     /* rows */
    float *const *out_o;      /* rows pointers to head_dim floats */
};

/* ---- a set ---- */

struct nef_kernels {
    const char *name; /* "scalar", "avx2", "avx512", "amx" */

    /* ---- linear layers ---- */
    /* Fill act's buffers for rows [row0, row0 + rows) as M's payload kind needs them. */
    void (*prepare)(const struct nef_matrix *m, struct nef_act *act, uint32_t row0, uint32_t rows);
    /* y[r * y_stride + i] for all rows of ACT and outputs i of tiles [tile0, tile0 + tiles). scratch:
     * nef_matmul_scratch bytes, 64-byte aligned, of this thread alone. */
    void (*matmul)(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                   size_t y_stride, void *scratch);

    /* ---- attention ---- */
    /* Write K or V of one position into its page (value false: key, true: value). x: head_dim floats. */
    void (*kv_put)(enum nef_kv_type type, uint32_t head_dim, bool value, void *page, uint32_t pos_in_page,
                   const float *x);
    void (*attend)(const struct nef_attend *a, void *scratch);
    /* Join a segment's partial (m, l, o) to (M, L, O) in place; finish divides: out = O * (1/L) + 0. */
    void (*attend_join)(uint32_t head_dim, float *M, float *L, float *O, float m, float l, const float *o);
    void (*attend_finish)(uint32_t head_dim, float L, const float *O, float *out);

    /* ---- elementwise, one row of n (a multiple of 16 for norm; any for others) ---- */
    void (*rms_norm)(uint32_t n, const float *x, const float *w, float eps, float *out); /* out may be x */
    void (*silu_mul)(uint32_t n, const float *gate, const float *up, float *out);
    void (*add)(uint32_t n, const float *x, float *y);                                      /* y = y + x */
    void (*rope)(uint32_t head_dim, const float *cos, const float *sin, float *x);          /* tables: head_dim/2 */
};
#define NEF_MATMUL_ROWS_MAX 512u /* rows of an act at most */
size_t nef_matmul_scratch(uint32_t k_max);            /* bytes a thread needs, for matmul and attend alike */

/* ---- dispatch.c ---- */

/* The set NAME ("scalar", ...), or with NULL the best that this processor has; the environment's NEF_KERNELS is the
 * caller's to read. NULL: unknown, or not on this processor. Sets live forever. */
const struct nef_kernels *nef_kernels_get(const char *name);
/* In every computing thread, before its first kernel: FTZ, DAZ, round to nearest; asks the system for the matrix unit
 * once per process. Errors: NEF_E_UNSUPPORTED (the set can't run in this thread). */
NEF_MUST_CHECK nef_err nef_kernels_thread_enter(const struct nef_kernels *set);
/* 2-letter facts for --bench: "avx512 vnni bf16 amx" as found. Static string. */
const char *nef_kernels_features(void);
/* The best set whose instructions this processor has but which didn't give the scalar set's bits when it was compared at
 * first use, and which is therefore left out (for the caller to say); NULL: none. Static string. */
const char *nef_kernels_disagree(void);

/* ---- math.h has exp; the rope table is made here, in double, by own sin and cos ---- */
double nef_math_sin(double x); /* |x| < 2^30, error < 1e-14 */
double nef_math_cos(double x);
double nef_math_pow(double base, double exponent); /* base > 0, normal; error < 1e-13 relative: rope frequencies */

#endif
