/* Linear layers on the matrix unit, for batches that fill its rows.
 *
 * Quantized weights: X = 256*hi + lo makes two products of signed bytes, S = 256*(hi.q) + lo.q, both exact in int32; the
 * scaling between blocks is done by the vector unit while the tiles work on the next block. BF16 weights: TDPBF16PS is
 * the definition itself (docs/numerics.md section 1), so whole rows are summed inside the tiles.
 *
 * Few rows (decode) read each weight once and are bound by memory: those, and F16 and F32, go to the AVX-512 set. */
#include <immintrin.h>
#include "base/assert.h"
#include "infer/kernels/amx.h"
#include "infer/kernels/amx_tile.h"

#define ROWS_MIN 9u /* below, the AVX-512 set reads the weights just as often and starts quicker */

/* tmm0..3 products, 4 and 5 activations (hi, lo), 6 weights */
static const struct tile_config config_block32 = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 32, 32, 64},
    .rows = {16, 16, 16, 16, 16, 16, 8},
};
static const struct tile_config config_block16 = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 16, 16, 64},
    .rows = {16, 16, 16, 16, 16, 16, 4},
};
/* tmm0..3 sums (2 x 2), 4 and 5 activations, 6 and 7 weights */
static const struct tile_config config_bf16 = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* A tile of weights, ready: signed bytes and the float scales of each block. */
struct weights {
    int8_t *q;      /* [block][8][16][4] */
    float *scale;   /* [block][16], or [block][2][16] for K6 */
    float *offset;  /* -m: [block][16], K45 only */
    float *sum;     /* float(sum of X): [row][block], K45 only */
    int32_t *parts; /* [2 buffers][4][16][16]: products on their way to the vector unit */
    float *y;       /* [16][16] */
};

static void *cut(uint8_t **at, size_t bytes)
{
    void *p = *at;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

/* NEF_AMX_SCRATCH has room for it. */
static void place(struct weights *w, void *scratch, uint32_t blocks)
{
    uint8_t *at = scratch;
    w->q = cut(&at, (size_t)blocks * 512);
    w->scale = cut(&at, (size_t)blocks * 2 * 64);
    w->offset = cut(&at, (size_t)blocks * 64);
    w->parts = cut(&at, 2 * 4 * 1024);
    w->y = cut(&at, 1024);
    w->sum = cut(&at, (size_t)blocks * NEF_MATMUL_ROWS_MAX * sizeof(float));
}

/* ---- one tile of weights ---- */

static void expand_block(const struct nef_matrix *m, const uint8_t *payload, int8_t *q)
{
    const __m512i bias = _mm512_set1_epi8((char)m->bias), nibble = _mm512_set1_epi8(15);
    if (m->payload_kind == NEF_PAYLOAD_U8) {
        for (int j = 0; j < 8; j++)
            _mm512_store_si512(q + 64 * j, _mm512_sub_epi8(_mm512_load_si512(payload + 64 * j), bias));
        return;
    }
    const __m512i two = _mm512_set1_epi8(3), fifth = _mm512_set1_epi8(16), zero = _mm512_setzero_si512();
    const __m512i high = m->payload_kind == NEF_PAYLOAD_U5 ? _mm512_load_si512(payload + 256) : zero;
    for (int j = 0; j < 4; j++) {
        __m512i v = _mm512_load_si512(payload + 64 * j);
        __m512i low = _mm512_and_si512(v, nibble);
        __m512i up = _mm512_and_si512(_mm512_srli_epi16(v, 4), nibble);
        if (m->payload_kind == NEF_PAYLOAD_U5) {
            __mmask64 a = _mm512_test_epi8_mask(high, _mm512_set1_epi8((char)(1 << j)));
            __mmask64 b = _mm512_test_epi8_mask(high, _mm512_set1_epi8((char)(1 << (j + 4))));
            low = _mm512_or_si512(low, _mm512_maskz_mov_epi8(a, fifth));
            up = _mm512_or_si512(up, _mm512_maskz_mov_epi8(b, fifth));
        }
        if (m->payload_kind == NEF_PAYLOAD_U6) {
            __m512i a = _mm512_srl_epi32(_mm512_load_si512(payload + 256), _mm_cvtsi32_si128(2 * j));
            __m512i b = _mm512_srl_epi32(_mm512_load_si512(payload + 320), _mm_cvtsi32_si128(2 * j));

            low = _mm512_or_si512(low, _mm512_slli_epi32(_mm512_and_si512(a, two), 4));
            up = _mm512_or_si512(up, _mm512_slli_epi32(_mm512_and_si512(b, two), 4));
        }
        _mm512_store_si512(q + 64 * j, _mm512_sub_epi8(low, bias));
        _mm512_store_si512(q + 64 * (j + 4), _mm512_sub_epi8(up, bias));
    }
}

static __m512 halves(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at)); }

static __m512 bytes_unsigned(const uint8_t *at)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

static __m512 bytes_signed(const uint8_t *at)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

static void expand(const struct nef_matrix *m, uint32_t tile, struct weights *w)
{
    const uint8_t *payload = m->payload + (size_t)tile * m->blocks * m->block_bytes;
    uint32_t groups = (m->blocks + m->group_blocks - 1) / m->group_blocks;
    const uint8_t *scales = m->scales + (size_t)tile * groups * m->group_bytes;
    for (uint32_t b = 0; b < m->blocks; b++) {
        const uint8_t *group = scales + (size_t)(b / m->group_blocks) * m->group_bytes;
        uint32_t in = b % m->group_blocks;
        expand_block(m, payload + (size_t)b * m->block_bytes, w->q + (size_t)b * 512);
        if (m->scales_kind == NEF_SCALES_BLOCK) {
            _mm512_store_ps(w->scale + b * 16, halves(group));
        } else if (m->scales_kind == NEF_SCALES_K45) {
            const uint8_t *sc = group + 64 + 32 * in;
            __m512 offset = _mm512_mul_ps(halves(group + 32), bytes_unsigned(sc + 16));
            _mm512_store_ps(w->scale + b * 16, _mm512_mul_ps(halves(group), bytes_unsigned(sc)));
            _mm512_store_ps(w->offset + b * 16, _mm512_xor_ps(offset, _mm512_set1_ps(-0.0f)));
        } else {
            const uint8_t *sc = group + 32 + 32 * in;
            _mm512_store_ps(w->scale + b * 32, _mm512_mul_ps(halves(group), bytes_signed(sc)));
            _mm512_store_ps(w->scale + b * 32 + 16, _mm512_mul_ps(halves(group), bytes_signed(sc + 16)));
        }
    }
}

/* ---- quantized products ---- */

/* Both planes of 16 rows times one block of 32 columns, into parts: [hi, lo]. */
static inline void multiply32(const struct nef_act *act, uint32_t row, uint32_t block, const int8_t *q, int32_t *parts,
                              int odd)
{
    size_t at = (size_t)row * act->k + (size_t)block * NEF_BLOCK_COLS;
    tile_load(6, q + (size_t)block * 512, 64);
    tile_load(4, act->hi + at, act->k);
    tile_load(5, act->lo + at, act->k);
    if (odd) { /* other registers than the block before, so that the two overlap */
        tile_zero(0);
        tile_zero(1);
        tile_dot_i8(0, 4, 6);
        tile_dot_i8(1, 5, 6);
        tile_store(0, parts, 64);
        tile_store(1, parts + 256, 64);
    } else {
        tile_zero(2);
        tile_zero(3);
        tile_dot_i8(2, 4, 6);
        tile_dot_i8(3, 5, 6);
        tile_store(2, parts, 64);
        tile_store(3, parts + 256, 64);
    }
}

/* The same for the two halves of 16 columns: [hi, lo] of the first, [hi, lo] of the second. */
static inline void multiply16(const struct nef_act *act, uint32_t row, uint32_t block, const int8_t *q, int32_t *parts)
{
    size_t at = (size_t)row * act->k + (size_t)block * NEF_BLOCK_COLS;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    tile_load(6, q + (size_t)block * 512, 64);
    tile_load(4, act->hi + at, act->k);
    tile_load(5, act->lo + at, act->k);
    tile_dot_i8(0, 4, 6);
    tile_dot_i8(1, 5, 6);
    tile_load(6, q + (size_t)block * 512 + 256, 64);
    tile_load(4, act->hi + at + 16, act->k);
    tile_load(5, act->lo + at + 16, act->k);
    tile_dot_i8(2, 4, 6);
    tile_dot_i8(3, 5, 6);
    tile_store(0, parts, 64);
    tile_store(1, parts + 256, 64);
    tile_store(2, parts + 512, 64);
    tile_store(3, parts + 768, 64);
}

static inline __m512 scaled(const int32_t *parts, int row, __m512 scale, __m512 sum)
{
    __m512i hi = _mm512_slli_epi32(_mm512_load_si512(parts + 16 * row), 8);
    __m512i s = _mm512_add_epi32(hi, _mm512_load_si512(parts + 256 + 16 * row));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), scale, sum);
}

/* Sixteen rows from ROW against the tile in W, into w->y. KIND is a constant: one loop for each. */
static inline __attribute__((always_inline)) void rows16(const struct nef_matrix *m, const struct nef_act *act,
                                                         uint32_t row, const struct weights *w, enum nef_scales kind)
{
    uint32_t d_stride = (act->k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS;
    __m512 sum[16];
    for (int r = 0; r < 16; r++)
        _mm512_store_ps(w->y + 16 * r, _mm512_setzero_ps());
    if (kind == NEF_SCALES_K6)
        multiply16(act, row, 0, w->q, w->parts);
    else
        multiply32(act, row, 0, w->q, w->parts, 0);
    for (uint32_t b0 = 0; b0 < m->blocks; b0 += NEF_GROUP_COLS / NEF_BLOCK_COLS) {
        uint32_t b1 = b0 + NEF_GROUP_COLS / NEF_BLOCK_COLS < m->blocks ? b0 + NEF_GROUP_COLS / NEF_BLOCK_COLS : m->blocks;
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++)
            sum[r] = _mm512_setzero_ps();
        for (uint32_t b = b0; b < b1; b++) {
            const int32_t *parts = w->parts + 1024 * (b & 1);
            int32_t *next = w->parts + 1024 * (~b & 1);
            if (b + 1 < m->blocks) {
                if (kind == NEF_SCALES_K6)
                    multiply16(act, row, b + 1, w->q, next);
                else
                    multiply32(act, row, b + 1, w->q, next, ~b & 1);
            }
            if (kind == NEF_SCALES_K6) {
                __m512 s0 = _mm512_load_ps(w->scale + b * 32), s1 = _mm512_load_ps(w->scale + b * 32 + 16);
#pragma GCC unroll 16
                for (int r = 0; r < 16; r++)
                    sum[r] = scaled(parts + 512, r, s1, scaled(parts, r, s0, sum[r]));
            } else {
                __m512 s = _mm512_load_ps(w->scale + b * 16);
#pragma GCC unroll 16
                for (int r = 0; r < 16; r++)
                    sum[r] = scaled(parts, r, s, sum[r]);
            }
            if (kind == NEF_SCALES_K45) {
                __m512 offset = _mm512_load_ps(w->offset + b * 16);
                const float *x = w->sum + (size_t)row * m->blocks + b;
#pragma GCC unroll 16
                for (int r = 0; r < 16; r++)
                    sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(x[(size_t)r * m->blocks]), offset, sum[r]);
            }
        }
        const float *d = act->d + (size_t)row * d_stride + b0 / (NEF_GROUP_COLS / NEF_BLOCK_COLS);
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            __m512 y = _mm512_load_ps(w->y + 16 * r);
            _mm512_store_ps(w->y + 16 * r, _mm512_fmadd_ps(_mm512_set1_ps(d[(size_t)r * d_stride]), sum[r], y));
        }
    }
}

static __mmask16 outputs(const struct nef_matrix *m, uint32_t tile)
{
    uint32_t left = m->n - tile * NEF_TILE_ROWS;
    return (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
}

static void give(const float *from, const struct nef_act *act, uint32_t row, __mmask16 mask, float *y, size_t y_stride)
{
    uint32_t count = act->rows - row < 16 ? act->rows - row : 16;
    for (uint32_t r = 0; r < count; r++)
        _mm512_mask_storeu_ps(y + (row + r) * y_stride, mask, _mm512_load_ps(from + 16 * r));
}

static void matmul_quantized(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles,
                             float *y, size_t y_stride, void *scratch)
{
    struct weights w;
    place(&w, scratch, m->blocks);
    tile_configure(m->scales_kind == NEF_SCALES_K6 ? &config_block16 : &config_block32);
    if (m->scales_kind == NEF_SCALES_K45)
        for (uint32_t r = 0; r < (act->rows + 15) / 16 * 16; r++)
            for (uint32_t b = 0; b < m->blocks; b++) {
                const int32_t *sum = act->sum16 + (size_t)r * (act->k / 16) + 2 * b;
                /* rows of padding hold anything: unsigned, so that they can't overflow */
                w.sum[(size_t)r * m->blocks + b] = (float)(int32_t)((uint32_t)sum[0] + (uint32_t)sum[1]);
            }
    for (uint32_t t = tile0; t < tile0 + tiles; t++) {
        __mmask16 mask = outputs(m, t);
        expand(m, t, &w);
        for (uint32_t row = 0; row < act->rows; row += 16) {
            if (m->scales_kind == NEF_SCALES_BLOCK)
                rows16(m, act, row, &w, NEF_SCALES_BLOCK);
            else if (m->scales_kind == NEF_SCALES_K45)
                rows16(m, act, row, &w, NEF_SCALES_K45);
            else
                rows16(m, act, row, &w, NEF_SCALES_K6);
            give(w.y, act, row, mask, y + (size_t)t * NEF_TILE_ROWS, y_stride);
        }
    }
    tile_release();
}

/* ---- BF16 ---- */

/* Rows [row, row + 32) or 16, against one or two tiles of weights: sums stay in tmm0..3. */
static inline void sum_bf16(const struct nef_matrix *m, const struct nef_act *act, uint32_t row, int two_rows,
                            const uint8_t *w0, const uint8_t *w1)
{
    const uint16_t *a0 = act->bf16 + (size_t)row * act->k, *a1 = a0 + (size_t)16 * act->k;
    ptrdiff_t stride = (ptrdiff_t)act->k * 2;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    for (uint32_t b = 0; b < m->blocks; b++) {
        tile_load(4, a0 + (size_t)b * NEF_BLOCK_COLS, stride);
        tile_load(6, w0 + (size_t)b * 1024, 64);
        tile_dot_bf16(0, 4, 6);
        if (w1 != NULL) {
            tile_load(7, w1 + (size_t)b * 1024, 64);
            tile_dot_bf16(1, 4, 7);
        }
        if (two_rows) {
            tile_load(5, a1 + (size_t)b * NEF_BLOCK_COLS, stride);
            tile_dot_bf16(2, 5, 6);
            if (w1 != NULL)
                tile_dot_bf16(3, 5, 7);
        }
    }
}

static void matmul_bf16(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                        size_t y_stride, void *scratch)
{
    float *out = scratch;
    size_t tile_bytes = (size_t)m->blocks * m->block_bytes;
    tile_configure(&config_bf16);
    for (uint32_t t = tile0; t < tile0 + tiles; t += 2) {
        int two = t + 1 < tile0 + tiles;
        const uint8_t *w0 = m->payload + t * tile_bytes, *w1 = two ? w0 + tile_bytes : NULL;
        float *to = y + (size_t)t * NEF_TILE_ROWS;
        for (uint32_t row = 0; row < act->rows; row += 32) {
            int two_rows = row + 16 < act->rows;
            sum_bf16(m, act, row, two_rows, w0, w1);
            tile_store(0, out, 64);
            tile_store(1, out + 256, 64);
            tile_store(2, out + 512, 64);
            tile_store(3, out + 768, 64);
            give(out, act, row, outputs(m, t), to, y_stride);
            if (two)
                give(out + 256, act, row, outputs(m, t + 1), to + 16, y_stride);
            if (two_rows)
                give(out + 512, act, row + 16, outputs(m, t), to, y_stride);
            if (two_rows && two)
                give(out + 768, act, row + 16, outputs(m, t + 1), to + 16, y_stride);
        }
    }
    tile_release();
}

void nef_amx_matmul(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                    size_t y_stride, void *scratch)
{
    NEF_ASSERT(act->rows <= NEF_MATMUL_ROWS_MAX);
    if (act->rows < ROWS_MIN || m->payload_kind == NEF_PAYLOAD_F16 || m->payload_kind == NEF_PAYLOAD_F32)
        nef_kernels_avx512.matmul(m, act, tile0, tiles, y, y_stride, scratch);
    else if (m->payload_kind == NEF_PAYLOAD_BF16)
        matmul_bf16(m, act, tile0, tiles, y, y_stride, scratch);
    else
        matmul_quantized(m, act, tile0, tiles, y, y_stride, scratch);
}
