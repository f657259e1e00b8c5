/* The specification: docs/numerics.md as plain loops, in its order. Every other set must equal this one bit by bit, and
 * it runs on any processor; it is never tuned beyond reading each packed block once per call.
 *
 * Compiled with -ffp-contract=off, so that fma happens only where it is written. Loops over lanes or components may be
 * vectorized by the compiler: they never sum across them. */
#include "base/assert.h"
#include "infer/kernels/kernels_internal.h"
#include "infer/kernels/math.h"

#define LANES 16u

/* ---- linear layers: activations ---- */

static void quantize_group(const float *x, uint32_t columns, int16_t *x16, int8_t *hi, int8_t *lo, int32_t *sum16,
                           float *d)
{
    float amax = 0, inverse = 0;
    bool finite = true;

    for (uint32_t k = 0; k < columns; k++) {
        float magnitude = fabsf(x[k]);

        finite = finite && magnitude < INFINITY;
        amax = magnitude > amax ? magnitude : amax;
    }
    if (!finite) {
        *d = NAN;
    } else if (amax < NEF_AMAX_MIN) {
        *d = 0;
    } else {
        *d = amax / (float)NEF_X_MAX;
        inverse = (float)NEF_X_MAX / amax;
    }
    for (uint32_t k = 0; k < columns; k++) {
        int32_t q = inverse == 0 ? 0 : (int32_t)nef_rint(x[k] * inverse);

        q = NEF_MIN(NEF_MAX(q, -NEF_X_MAX), NEF_X_MAX);
        x16[k] = (int16_t)q;
        lo[k] = (int8_t)(uint8_t)(q & 0xff);
        hi[k] = (int8_t)((q - lo[k]) / 256);
        sum16[k / 16] = (k % 16 == 0 ? 0 : sum16[k / 16]) + q;
    }
}

static void prepare(const struct nef_matrix *m, struct nef_act *act, uint32_t row0, uint32_t rows)
{
    uint32_t k = act->k, groups = (k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS;

    NEF_ASSERT(act->k == m->k && row0 <= act->rows && rows <= act->rows - row0);
    for (size_t r = row0; r < row0 + rows; r++) {
        const float *x = act->x + r * k;

        if (m->payload_kind == NEF_PAYLOAD_BF16) {
            for (uint32_t i = 0; i < k; i++)
                act->bf16[r * k + i] = nef_bf16_of_f32(x[i]);
        } else if (m->scales_kind != NEF_SCALES_NONE) {
            for (uint32_t g = 0; g < groups; g++) {
                size_t at = r * k + g * NEF_GROUP_COLS;

                quantize_group(act->x + at, NEF_MIN(k - g * NEF_GROUP_COLS, NEF_GROUP_COLS), act->x16 + at,
                               act->hi + at, act->lo + at, act->sum16 + at / 16, act->d + r * groups + g);
            }
        }
    }
}

/* ---- linear layers: products ---- */

/* One group of one tile, ready to be used for all rows. */
struct group {
    uint32_t blocks; /* up to 8 */
    int16_t q[8][LANES][NEF_BLOCK_COLS];
    float s[8][2][LANES], m[8][LANES];
};

static void read_group(const struct nef_matrix *m, uint32_t tile, uint32_t group, struct group *out)
{
    float offset;

    out->blocks = NEF_MIN(m->blocks - group * 8, 8u);
    for (uint32_t i = 0; i < out->blocks; i++) {
        uint32_t block = group * 8 + i;

        nef_unpack_block(m, tile, block, out->q[i]);
        for (uint32_t n = 0; n < LANES; n++) {
            nef_unpack_scale(m, tile, block, 0, n, &out->s[i][0][n], &out->m[i][n]);
            nef_unpack_scale(m, tile, block, 1, n, &out->s[i][1][n], &offset);
        }
    }
}

static int32_t dot(const int16_t *q, const int16_t *x, uint32_t count)
{
    int32_t sum = 0;

    for (uint32_t k = 0; k < count; k++)
        sum += q[k] * x[k];
    return sum;
}

/* y[n] for one row after one more group. x, sum16: of this group. */
static void add_group(enum nef_scales scales, const struct group *g, const int16_t *x, const int32_t *sum16, float d,
                      float y[LANES])
{
    for (uint32_t n = 0; n < LANES; n++) {
        float a = 0;

        for (uint32_t b = 0; b < g->blocks; b++) {
            const int16_t *q = g->q[b][n], *xb = x + b * NEF_BLOCK_COLS;

            if (scales == NEF_SCALES_K6) {
                a = fmaf((float)dot(q, xb, 16), g->s[b][0][n], a);
                a = fmaf((float)dot(q + 16, xb + 16, 16), g->s[b][1][n], a);
                continue;
            }
            a = fmaf((float)dot(q, xb, 32), g->s[b][0][n], a);
            if (scales == NEF_SCALES_K45)
                a = fmaf((float)(sum16[2 * b] + sum16[2 * b + 1]), -g->m[b][n], a);
        }
        y[n] = fmaf(d, a, y[n]);
    }
}

static void store(const struct nef_matrix *m, uint32_t tile, const float y[LANES], float *out)
{
    for (uint32_t n = 0; n < LANES && tile * LANES + n < m->n; n++)
        out[tile * LANES + n] = y[n];
}

static void matmul_quantized(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile, float *y,
                             size_t y_stride, float (*sums)[LANES])
{
    uint32_t k = act->k, groups = (k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS;
    struct group g;

    memset(sums, 0, act->rows * sizeof *sums);
    for (uint32_t i = 0; i < groups; i++) {
        read_group(m, tile, i, &g);
        for (size_t r = 0; r < act->rows; r++) {
            size_t at = r * k + i * NEF_GROUP_COLS;

            add_group(m->scales_kind, &g, act->x16 + at, act->sum16 + at / 16, act->d[r * groups + i], sums[r]);
        }
    }
    for (size_t r = 0; r < act->rows; r++)
        store(m, tile, sums[r], y + r * y_stride);
}

static void matmul_bf16(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile, float *y, size_t y_stride,
                        float (*sums)[LANES])
{
    float w[NEF_BLOCK_COLS][LANES];

    memset(sums, 0, act->rows * sizeof *sums);
    for (uint32_t b = 0; b < m->blocks; b++) {
        for (uint32_t i = 0; i < NEF_BLOCK_COLS; i++)
            for (uint32_t n = 0; n < LANES; n++)
                w[i][n] = nef_unpack_float(m, tile, b * NEF_BLOCK_COLS + i, n);
        for (size_t r = 0; r < act->rows; r++) {
            const uint16_t *x = act->bf16 + r * act->k + b * NEF_BLOCK_COLS;

            for (uint32_t n = 0; n < LANES; n++) {
                float even = 0, odd = 0;

                for (uint32_t i = 0; i < NEF_BLOCK_COLS; i += 2) {
                    even = fmaf(nef_f32_of_bf16(x[i]), w[i][n], even);
                    odd = fmaf(nef_f32_of_bf16(x[i + 1]), w[i + 1][n], odd);
                }
                sums[r][n] = sums[r][n] + (even + odd);
            }
        }
    }
    for (size_t r = 0; r < act->rows; r++)
        store(m, tile, sums[r], y + r * y_stride);
}

static void matmul_float(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile, float *y,
                         size_t y_stride, double (*sums)[LANES])
{
    float w[NEF_BLOCK_COLS][LANES], rounded[LANES];

    memset(sums, 0, act->rows * sizeof *sums);
    for (uint32_t k = 0; k < m->k; k += NEF_BLOCK_COLS) {
        for (uint32_t i = 0; i < NEF_BLOCK_COLS; i++)
            for (uint32_t n = 0; n < LANES; n++)
                w[i][n] = nef_unpack_float(m, tile, k + i, n);
        for (size_t r = 0; r < act->rows; r++)
            for (uint32_t n = 0; n < LANES; n++) {
                float a[NEF_BLOCK_COLS / NEF_CHAIN_COLS] = {0};

                for (uint32_t i = 0; i < NEF_BLOCK_COLS; i++)
                    a[i / NEF_CHAIN_COLS] = fmaf(act->x[r * act->k + k + i], w[i][n], a[i / NEF_CHAIN_COLS]);
                sums[r][n] = (sums[r][n] + (double)(a[0] + a[1])) + (double)(a[2] + a[3]);
            }
    }
    for (size_t r = 0; r < act->rows; r++) {
        for (uint32_t n = 0; n < LANES; n++)
            rounded[n] = (float)sums[r][n];
        store(m, tile, rounded, y + r * y_stride);
    }
}

static void matmul(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles, float *y,
                   size_t y_stride, void *scratch)
{
    NEF_ASSERT(act->k == m->k && act->rows <= NEF_MATMUL_ROWS_MAX);
    NEF_ASSERT(tile0 <= m->tiles && tiles <= m->tiles - tile0);
    for (uint32_t t = tile0; t < tile0 + tiles; t++) {
        if (m->payload_kind == NEF_PAYLOAD_BF16)
            matmul_bf16(m, act, t, y, y_stride, scratch);
        else if (m->scales_kind == NEF_SCALES_NONE)
            matmul_float(m, act, t, y, y_stride, scratch);
        else
            matmul_quantized(m, act, t, y, y_stride, scratch);
    }
}

/* ---- attention: the cache ---- */

/* Where component c of position pos stands in a page, in values. Keys: (c/2, pos%16, c%2) within 16 positions, so that
 * 16 positions are the lanes; values: (pos/2, c, pos%2), so that 16 components are. F32 has no pairs. */
static size_t kv_at(enum nef_kv_type type, uint32_t head_dim, bool value, uint32_t pos, uint32_t c)
{
    size_t d = head_dim;

    if (type == NEF_KV_F32)
        return value ? pos * d + c : (pos / 16 * d + c) * 16 + pos % 16;
    return value ? (pos / 2 * d + c) * 2 + pos % 2 : ((pos / 16 * (d / 2) + c / 2) * 16 + pos % 16) * 2 + c % 2;
}

static void kv_put(enum nef_kv_type type, uint32_t head_dim, bool value, void *page, uint32_t pos, const float *x)
{
    float amax = 0, inverse = 0, scale = 0;
    bool finite = true;

    NEF_ASSERT(head_dim % 32 == 0 && head_dim <= NEF_HEAD_DIM_MAX && pos < NEF_KV_TILE);
    if (type != NEF_KV_I8) {
        for (uint32_t c = 0; c < head_dim; c++) {
            if (type == NEF_KV_BF16)
                ((uint16_t *)page)[kv_at(type, head_dim, value, pos, c)] = nef_bf16_of_f32(x[c]);
            else
                ((float *)page)[kv_at(type, head_dim, value, pos, c)] = x[c];
        }
        return;
    }
    for (uint32_t c = 0; c < head_dim; c++) {
        float magnitude = fabsf(x[c]);

        finite = finite && magnitude < INFINITY;
        amax = magnitude > amax ? magnitude : amax;
    }
    if (!finite) {
        scale = NAN;
    } else if (amax >= NEF_AMAX_MIN) {
        scale = amax / 127.0f;
        inverse = 127.0f / amax;
    }
    for (uint32_t c = 0; c < head_dim; c++)
        ((int8_t *)page)[kv_at(type, head_dim, value, pos, c)] = inverse == 0 ? 0 : (int8_t)nef_rint(x[c] * inverse);
    memcpy((int8_t *)page + (size_t)NEF_KV_TILE * head_dim + 4 * (size_t)pos, &scale, 4);
}

static float kv_get(enum nef_kv_type type, uint32_t head_dim, bool value, const void *page, uint32_t pos, uint32_t c)
{
    size_t at = kv_at(type, head_dim, value, pos, c);

    if (type == NEF_KV_BF16)
        return nef_f32_of_bf16(((const uint16_t *)page)[at]);
    return type == NEF_KV_F32 ? ((const float *)page)[at] : (float)((const int8_t *)page)[at];
}

static float kv_scale(uint32_t head_dim, const void *page, uint32_t pos)
{
    float scale;

    memcpy(&scale, (const int8_t *)page + (size_t)NEF_KV_TILE * head_dim + 4 * (size_t)pos, 4);
    return scale;
}

/* R of the page: what enters a product. */
static float rounded(enum nef_kv_type type, float x)
{
    return type == NEF_KV_F32 ? x : nef_f32_of_bf16(nef_bf16_of_f32(x));
}

/* ---- attention: one row against one tile ---- */

static float score(const struct nef_attend *a, const float *q, const void *k_page, uint32_t pos)
{
    float s = 0;

    for (uint32_t block = 0; block < a->head_dim; block += 32) {
        float even = 0, odd = 0;

        for (uint32_t c = block; c < block + 32; c += 2) {
            even = fmaf(rounded(a->type, q[c]), kv_get(a->type, a->head_dim, false, k_page, pos, c), even);
            odd = fmaf(rounded(a->type, q[c + 1]), kv_get(a->type, a->head_dim, false, k_page, pos, c + 1), odd);
        }
        s = s + (even + odd);
    }
    if (a->type == NEF_KV_I8)
        s = s * kv_scale(a->head_dim, k_page, pos);
    return s * a->scale;
}

static float fold(float lane[LANES])
{
    for (uint32_t step = 8; step > 0; step /= 2)
        for (uint32_t i = 0; i < step; i++)
            lane[i] = lane[i] + lane[i + step];
    return lane[0];
}

static float sum_of_tile(const float p[NEF_KV_TILE])
{
    float lane[LANES];

    for (uint32_t i = 0; i < LANES; i++)
        lane[i] = ((p[i] + p[i + 16]) + p[i + 32]) + p[i + 48];
    return fold(lane);
}

/* seen: positions of this tile that the row may see, 1 .. 64. */
static void attend_tile(const struct nef_attend *a, const float *q, const void *k_page, const void *v_page,
                        uint32_t seen, float *m, float *l, float *o)
{
    float p[NEF_KV_TILE], max = *m, alpha;

    for (uint32_t j = 0; j < seen; j++) {
        p[j] = score(a, q, k_page, j);
        max = p[j] > max ? p[j] : max;
    }
    max = max + 0.0f;
    alpha = nef_exp(*m - max);
    for (uint32_t j = 0; j < NEF_KV_TILE; j++)
        p[j] = j < seen ? nef_exp(p[j] - max) : 0;
    *l = fmaf(*l, alpha, sum_of_tile(p));
    *m = max;
    for (uint32_t j = 0; j < NEF_KV_TILE; j++)
        p[j] = rounded(a->type, a->type == NEF_KV_I8 ? p[j] * kv_scale(a->head_dim, v_page, j) : p[j]);
    for (uint32_t c = 0; c < a->head_dim; c++) {
        o[c] = o[c] * alpha;
        for (uint32_t half = 0; half < NEF_KV_TILE; half += 32) {
            float even = 0, odd = 0;

            for (uint32_t j = half; j < half + 32; j += 2) {
                even = fmaf(p[j], kv_get(a->type, a->head_dim, true, v_page, j, c), even);
                odd = fmaf(p[j + 1], kv_get(a->type, a->head_dim, true, v_page, j + 1, c), odd);
            }
            o[c] = o[c] + (even + odd);
        }
    }
}

static void attend(const struct nef_attend *a, void *scratch)
{
    (void)scratch;
    NEF_ASSERT(a->pages >= 1 && a->pages <= NEF_KV_SEGMENT / NEF_KV_TILE);
    for (uint32_t r = 0; r < a->rows; r++) {
        uint32_t seen, at = 0;

        NEF_ASSERT(a->limit[r] >= a->first);
        seen = NEF_MIN(a->limit[r] - a->first, a->pages * NEF_KV_TILE - 1) + 1;
        if (!a->resume) {
            a->out_m[r] = -INFINITY;
            a->out_l[r] = 0;
            memset(a->out_o[r], 0, a->head_dim * sizeof(float));
        }
        for (uint32_t page = 0; at < seen; page++, at += NEF_KV_TILE)
            attend_tile(a, a->q[r], a->k_page[page], a->v_page[page], NEF_MIN(seen - at, NEF_KV_TILE), &a->out_m[r],
                        &a->out_l[r], a->out_o[r]);
    }
}

static void attend_join(uint32_t head_dim, float *M, float *L, float *O, float m, float l, const float *o)
{
    float max = (m > *M ? m : *M) + 0.0f, a = nef_exp(*M - max), b = nef_exp(m - max);

    *M = max;
    *L = fmaf(*L, a, l * b);
    for (uint32_t c = 0; c < head_dim; c++)
        O[c] = fmaf(O[c], a, o[c] * b);
}

static void attend_finish(uint32_t head_dim, float L, const float *O, float *out)
{
    float inverse = 1.0f / L;

    for (uint32_t c = 0; c < head_dim; c++)
        out[c] = O[c] * inverse + 0.0f;
}

/* ---- the rest ---- */

static void rms_norm(uint32_t n, const float *x, const float *w, float eps, float *out)
{
    double lane[LANES] = {0};
    float r;

    NEF_ASSERT(n % LANES == 0);
    for (uint32_t k = 0; k < n; k++)
        lane[k % LANES] = fma((double)x[k], (double)x[k], lane[k % LANES]);
    for (uint32_t step = LANES / 2; step > 0; step /= 2)
        for (uint32_t i = 0; i < step; i++)
            lane[i] = lane[i] + lane[i + step];
    r = (float)(1.0 / sqrt(lane[0] / (double)n + (double)eps));
    for (uint32_t k = 0; k < n; k++)
        out[k] = x[k] * r * w[k];
}

static void silu_mul(uint32_t n, const float *gate, const float *up, float *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + nef_exp(-gate[i])) * up[i];
}

static void add(uint32_t n, const float *x, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = y[i] + x[i];
}

static void rope(uint32_t head_dim, const float *cos, const float *sin, float *x)
{
    uint32_t half = head_dim / 2;

    for (uint32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];

        x[i] = fmaf(a, cos[i], -(b * sin[i]));
        x[i + half] = fmaf(a, sin[i], b * cos[i]);
    }
}

const struct nef_kernels nef_kernels_scalar = {
    .name = "scalar",
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
