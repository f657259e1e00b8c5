/* The set for processors with AVX-512 F, BW, DQ, VL and VNNI. The common text of body_*.h over zmm registers, and one
 * thing more: the rows of decode, up to NEF_VEC_FEW_ROWS, take the payload's bytes as they are (vpdpbusd), X going in
 * as two planes of bytes,
 *
 *     S = sum (q + bias) X - bias sum X,   sum (q + bias) X = 256 sum (q + bias) hi + sum (q + bias) lo
 *
 * all exact in int32. That is as many products as with int16 pairs but no expansion, so the payload streams through
 * registers and memory is the limit. More rows (half as many for K types, which join more) pay for the expansion
 * once and then save the joining of planes. */
#include "infer/kernels/vec_avx512.h"

#include "infer/kernels/body_rows.h"
/* after body_rows.h, whose names they use */
#include "infer/kernels/body_attend.h"
#include "infer/kernels/body_linear.h"

#define FEW                8u
/* Measured on Zen 4: with one or two rows of bytes that need no unpacking the next blocks' loads are under way
 * already, and asking for them again costs a fifth; otherwise the work on a block fills the window, and it gains up to
 * a third. */
#define FEW_PREFETCH_ROWS  3u
#define FEW_PREFETCH_BYTES 2048u

/* Rows side by side, a group of 256 columns after another. */
struct few {
    int8_t x[FEW][2][NEF_GROUP_COLS]; /* hi, lo */
    union {
        int32_t start[FEW][16]; /* -bias * sum X, of 32 columns (K6: of 16): where the sum of the low plane begins */
        float sum[FEW][8];      /* K45 has no bias, but offsets */
    };
    float d[FEW];
    float pad[8];
};
_Static_assert(sizeof(struct few) % 64 == 0, "groups stay aligned");
_Static_assert(sizeof(struct few) <= NEF_VEC_GROUP_BYTES, "nef_matmul_scratch covers k / 256 of them");

/* Rows [row0, row0 + rows). */
static void stage_few(const struct nef_matrix *m, const struct nef_act *act, uint32_t row0, uint32_t rows,
                      struct few *out)
{
    uint32_t groups = (act->k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS;

    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t r = 0; r < rows; r++) {
            size_t at = (size_t)(row0 + r) * act->k + g * NEF_GROUP_COLS;
            uint32_t columns = NEF_MIN(act->k - g * NEF_GROUP_COLS, NEF_GROUP_COLS);
            vi sum16 = _mm512_maskz_loadu_epi32((__mmask16)((1u << columns / 16) - 1), act->sum16 + at / 16);
            __m256i sum32 = _mm512_cvtepi64_epi32(vi_add(sum16, _mm512_srli_epi64(sum16, 32)));

            for (uint32_t i = 0; i < columns; i += 32) {
                _mm256_storeu_si256((void *)(out[g].x[r][0] + i), _mm256_loadu_si256((const void *)(act->hi + at + i)));
                _mm256_storeu_si256((void *)(out[g].x[r][1] + i), _mm256_loadu_si256((const void *)(act->lo + at + i)));
            }
            out[g].d[r] = act->d[(size_t)(row0 + r) * groups + g];
            if (m->scales_kind == NEF_SCALES_K6)
                vi_store(out[g].start[r], _mm512_mullo_epi32(sum16, vi_set1(-m->bias)));
            else if (m->scales_kind == NEF_SCALES_BLOCK)
                _mm256_storeu_si256((void *)out[g].start[r], _mm256_mullo_epi32(sum32, _mm256_set1_epi32(-m->bias)));
            else
                _mm256_storeu_ps(out[g].sum[r], _mm256_cvtepi32_ps(sum32));
        }
}

/* S of ROWS rows for quads [quad, quad + count) of a block. start: of this block or half block. */
NEF_VEC_INLINE void dot_bytes(const unsigned rows, const enum nef_scales kind, const vi *bytes, const struct few *f,
                              uint32_t column, uint32_t start, const unsigned quad, const unsigned count, vi *out_s)
{
    vi high[FEW], low[FEW];

    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        high[r] = vi_zero();
        low[r] = kind == NEF_SCALES_K45 ? vi_zero() : vi_set1(f->start[r][start]);
    }
    NEF_VEC_UNROLL
    for (unsigned j = quad; j < quad + count; j++) {
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            high[r] = vi_dot8_quad(high[r], bytes[j], f->x[r][0] + column + 4 * j);
            low[r] = vi_dot8_quad(low[r], bytes[j], f->x[r][1] + column + 4 * j);
        }
    }
    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        out_s[r] = vi_add(vi_slli(high[r], 8), low[r]);
}

NEF_VEC_INLINE void few_tile(const unsigned rows, const enum nef_payload payload, const enum nef_scales kind,
                             const struct nef_matrix *m, const struct few *f, uint32_t tile, float *y, size_t y_stride)
{
    const uint8_t *p = payload_at(m, tile, 0), *scales = scales_at(m, tile, 0);
    const size_t block_bytes = payload == NEF_PAYLOAD_U8   ? 512
                               : payload == NEF_PAYLOAD_U4 ? 256
                               : payload == NEF_PAYLOAD_U5 ? 320
                                                           : 384;
    const bool ahead = rows >= FEW_PREFETCH_ROWS || payload != NEF_PAYLOAD_U8;
    uint32_t outputs = NEF_MIN(m->n - tile * LANES, LANES);
    vf sum[FEW], a[FEW], scale, second;
    vi bytes[8], s[FEW];

    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        sum[r] = vf_zero();
    for (uint32_t block = 0; block < m->blocks; block += 8, f++) {
        uint32_t blocks = NEF_MIN(m->blocks - block, 8u);

        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            a[r] = vf_zero();
        for (uint32_t i = 0; i < blocks; i++, p += block_bytes) {
            for (unsigned line = 0; ahead && line < block_bytes; line += 64)
                _mm_prefetch((const char *)p + FEW_PREFETCH_BYTES + line, _MM_HINT_T0);
            unpack_bytes(payload, p, bytes);
            load_scales(kind, scales, i, &scale, &second);
            if (kind == NEF_SCALES_BLOCK)
                scales += 32;
            dot_bytes(rows, kind, bytes, f, i * 32, kind == NEF_SCALES_K6 ? 2 * i : i, 0, kind == NEF_SCALES_K6 ? 4 : 8,
                      s);
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                a[r] = vf_fma(vf_of_vi(s[r]), scale, a[r]);
            if (kind == NEF_SCALES_K6)
                dot_bytes(rows, kind, bytes, f, i * 32, 2 * i + 1, 4, 4, s);
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++) {
                if (kind == NEF_SCALES_K6)
                    a[r] = vf_fma(vf_of_vi(s[r]), second, a[r]);
                else if (kind == NEF_SCALES_K45)
                    a[r] = vf_fnma(vf_set1(f->sum[r][i]), second, a[r]);
            }
        }
        if (kind != NEF_SCALES_BLOCK)
            scales += m->group_bytes;
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            sum[r] = vf_fma(vf_set1(f->d[r]), a[r], sum[r]);
    }
    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        vf_store_first(y + r * y_stride + tile * LANES, sum[r], outputs);
}

#define FEW_CASE(R)                                                                                                    \
    case R:                                                                                                            \
        for (uint32_t t = tile0; t < tile0 + tiles; t++)                                                               \
            few_tile(R, payload, kind, m, f, t, y, y_stride);                                                          \
        break;
NEF_VEC_INLINE void few_kind(const enum nef_payload payload, const enum nef_scales kind, const struct nef_matrix *m,
                             const struct few *f, uint32_t rows, uint32_t tile0, uint32_t tiles, float *y,
                             size_t y_stride)
{
    ROWS_SWITCH(rows, FEW_CASE)
}

static void few_rows(const struct nef_matrix *m, const struct few *f, uint32_t rows, uint32_t tile0, uint32_t tiles,
                     float *y, size_t y_stride)
{
    if (m->scales_kind == NEF_SCALES_K6)
        few_kind(NEF_PAYLOAD_U6, NEF_SCALES_K6, m, f, rows, tile0, tiles, y, y_stride);
    else if (m->payload_kind == NEF_PAYLOAD_U8)
        few_kind(NEF_PAYLOAD_U8, NEF_SCALES_BLOCK, m, f, rows, tile0, tiles, y, y_stride);
    else if (m->payload_kind == NEF_PAYLOAD_U4 && m->scales_kind == NEF_SCALES_BLOCK)
        few_kind(NEF_PAYLOAD_U4, NEF_SCALES_BLOCK, m, f, rows, tile0, tiles, y, y_stride);
    else if (m->payload_kind == NEF_PAYLOAD_U4)
        few_kind(NEF_PAYLOAD_U4, NEF_SCALES_K45, m, f, rows, tile0, tiles, y, y_stride);
    else if (m->scales_kind == NEF_SCALES_BLOCK)
        few_kind(NEF_PAYLOAD_U5, NEF_SCALES_BLOCK, m, f, rows, tile0, tiles, y, y_stride);
    else
        few_kind(NEF_PAYLOAD_U5, NEF_SCALES_K45, m, f, rows, tile0, tiles, y, y_stride);
}

/* In parts of at most FEW rows, alike in size; a tile stays in the near caches while they pass. */
static void matmul_few(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                       size_t y_stride, struct few *f)
{
    uint32_t groups = (act->k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS, parts = (act->rows + FEW - 1) / FEW;
    uint32_t at_once = parts == 1 ? tiles : 1;

    for (uint32_t i = 0; i < parts; i++) {
        uint32_t row0 = act->rows * i / parts;

        stage_few(m, act, row0, act->rows * (i + 1) / parts - row0, f + (size_t)i * groups);
    }
    for (uint32_t t = tile0; t < tile0 + tiles; t += at_once)
        for (uint32_t i = 0; i < parts; i++) {
            uint32_t row0 = act->rows * i / parts;

            few_rows(m, f + (size_t)i * groups, act->rows * (i + 1) / parts - row0, t, at_once, y + row0 * y_stride,
                     y_stride);
        }
}

static void matmul(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                   size_t y_stride, void *scratch)
{
    _Static_assert(sizeof(struct linear_work) <= NEF_VEC_WORK_BYTES, "nef_matmul_scratch covers it");
    NEF_ASSERT(act->k == m->k && act->rows <= NEF_MATMUL_ROWS_MAX);
    NEF_ASSERT(tile0 <= m->tiles && tiles <= m->tiles - tile0);
    if (m->scales_kind == NEF_SCALES_NONE)
        matmul_float(m, act, tile0, tiles, y, y_stride, scratch);
    else if (act->rows <= (m->scales_kind == NEF_SCALES_BLOCK ? NEF_VEC_FEW_ROWS : NEF_VEC_FEW_ROWS / 2))
        matmul_few(m, act, tile0, tiles, y, y_stride, scratch);
    else
        matmul_quantized(m, act, tile0, tiles, y, y_stride, scratch);
}

const struct nef_kernels nef_kernels_avx512 = {
    .name = "avx512",
    .prepare = prepare,
    .matmul = matmul,
    .kv_put = kv_put,
    .attend = attend,
    .attend_join = attend_join,
    .attend_finish = attend_finish,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .add = add,
    .rope = rope,
};
