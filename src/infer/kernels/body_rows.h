/* What is done to rows, for sets of vectors: exp, the prepared forms of activations, writing into the cache, norm,
 * SiLU, rotary embedding. Written over vec_*.h and included once by each of avx2.c and avx512.c, so that both are one
 * text. docs/numerics.md and scalar.c say what each line must give. */
#include "base/assert.h"
#include "infer/kernels/kernels_internal.h"
#include "infer/kernels/body_math.h"

#define LANES 16u

/* The largest magnitude, as bits: NaNs come out above infinity. n: a multiple of 16. */
static uint32_t amax_bits(uint32_t n, const float *x)
{
    vi max = vi_zero();

    for (uint32_t i = 0; i < n; i += LANES)
        max = vi_max(max, vi_and(vi_bits(vf_load(x + i)), vi_set1(0x7fffffff)));
    return (uint32_t)vi_hmax(max);
}

/* Scale and inverse for integers up to LIMIT; inverse 0 means that all are 0. */
static float scale_of(uint32_t amax, float limit, float *out_inverse)
{
    *out_inverse = 0;
    if (amax >= 0x7f800000u)
        return NAN;
    if (nef_f32_of_bits(amax) < NEF_AMAX_MIN)
        return 0;
    *out_inverse = limit / nef_f32_of_bits(amax);
    return nef_f32_of_bits(amax) / limit;
}

static void quantize_group(const float *x, uint32_t columns, int16_t *x16, int8_t *hi, int8_t *lo, int32_t *sum16,
                           float *d)
{
    float inverse;

    *d = scale_of(amax_bits(columns, x), (float)NEF_X_MAX, &inverse);
    for (uint32_t k = 0; k < columns; k += LANES) {
        vi q = vi_zero(), low;

        if (inverse != 0) { /* else x may be a NaN */
            q = vi_of_vf(vf_mul(vf_load(x + k), vf_set1(inverse)));
            q = vi_min(vi_max(q, vi_set1(-NEF_X_MAX)), vi_set1(NEF_X_MAX));
        }
        low = vi_srai(vi_slli(q, 24), 24);
        vi_store_16(x16 + k, q);
        vi_store_8(lo + k, low);
        vi_store_8(hi + k, vi_srai(vi_sub(q, low), 8));
        sum16[k / LANES] = vi_hsum(q);
    }
}

static void prepare(const struct nef_matrix *m, struct nef_act *act, uint32_t row0, uint32_t rows)
{
    uint32_t k = act->k, groups = (k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS;

    NEF_ASSERT(act->k == m->k && row0 <= act->rows && rows <= act->rows - row0);
    for (size_t r = row0; r < row0 + rows; r++) {
        if (m->payload_kind == NEF_PAYLOAD_BF16) {
            for (uint32_t i = 0; i < k; i += LANES)
                vi_store_16(act->bf16 + r * k + i, vi_srli(v_bf16(vf_load(act->x + r * k + i)), 16));
        } else if (m->scales_kind != NEF_SCALES_NONE) {
            for (uint32_t g = 0; g < groups; g++) {
                size_t at = r * k + g * NEF_GROUP_COLS;

                quantize_group(act->x + at, NEF_MIN(k - g * NEF_GROUP_COLS, NEF_GROUP_COLS), act->x16 + at,
                               act->hi + at, act->lo + at, act->sum16 + at / LANES, act->d + r * groups + g);
            }
        }
    }
}

/* ---- the cache ---- */

/* COUNT values of BYTES each, STRIDE apart in the page. BYTES is a constant where this is inlined. */
NEF_VEC_INLINE void scatter(const void *values, uint32_t count, const uint32_t bytes, uint8_t *out, size_t stride)
{
    for (uint32_t i = 0; i < count; i++)
        memcpy(out + i * stride, (const uint8_t *)values + (size_t)i * bytes, bytes);
}

static void put_f32(uint32_t d, bool value, uint8_t *page, uint32_t pos, const float *x)
{
    if (value)
        memcpy(page + (size_t)pos * d * 4, x, (size_t)d * 4);
    else
        scatter(x, d, 4, page + ((size_t)pos / 16 * d * 16 + pos % 16) * 4, 64);
}

static void put_bf16(uint32_t d, bool value, uint8_t *page, uint32_t pos, const float *x)
{
    uint16_t row[NEF_HEAD_DIM_MAX];

    for (uint32_t c = 0; c < d; c += LANES)
        vi_store_16(row + c, vi_srli(v_bf16(vf_load(x + c)), 16));
    if (value)
        scatter(row, d, 2, page + ((size_t)pos / 2 * d * 2 + pos % 2) * 2, 4);
    else
        scatter(row, d / 2, 4, page + ((size_t)pos / 16 * (d / 2) * 16 + pos % 16) * 4, 64);
}

static void put_i8(uint32_t d, bool value, uint8_t *page, uint32_t pos, const float *x)
{
    int8_t row[NEF_HEAD_DIM_MAX];
    float inverse, scale = scale_of(amax_bits(d, x), 127.0f, &inverse);

    for (uint32_t c = 0; c < d; c += LANES)
        vi_store_8(row + c, inverse == 0 ? vi_zero() : vi_of_vf(vf_mul(vf_load(x + c), vf_set1(inverse))));
    if (value)
        scatter(row, d, 1, page + (size_t)pos / 2 * d * 2 + pos % 2, 2);
    else
        scatter(row, d / 2, 2, page + ((size_t)pos / 16 * (d / 2) * 16 + pos % 16) * 2, 32);
    memcpy(page + (size_t)NEF_KV_TILE * d + 4 * (size_t)pos, &scale, 4);
}

static void kv_put(enum nef_kv_type type, uint32_t head_dim, bool value, void *page, uint32_t pos, const float *x)
{
    NEF_ASSERT(head_dim % 32 == 0 && head_dim <= NEF_HEAD_DIM_MAX && pos < NEF_KV_TILE);
    if (type == NEF_KV_F32)
        put_f32(head_dim, value, page, pos, x);
    else if (type == NEF_KV_BF16)
        put_bf16(head_dim, value, page, pos, x);
    else
        put_i8(head_dim, value, page, pos, x);
}

/* ---- elementwise ---- */

static void rms_norm(uint32_t n, const float *x, const float *w, float eps, float *out)
{
    vd sum = vd_zero();
    vf r;

    NEF_ASSERT(n % LANES == 0);
    for (uint32_t k = 0; k < n; k += LANES) {
        vd wide = vd_of_vf(vf_load(x + k));

        sum = vd_fma(wide, wide, sum);
    }
    r = vf_set1((float)(1.0 / sqrt(vd_fold(sum) / (double)n + (double)eps)));
    for (uint32_t k = 0; k < n; k += LANES)
        vf_store(out + k, vf_mul(vf_mul(vf_load(x + k), r), vf_load(w + k)));
}

NEF_VEC_INLINE vf v_silu_mul(vf gate, vf up)
{
    return vf_mul(vf_div(gate, vf_add(vf_set1(1.0f), v_exp(vf_neg(gate)))), up);
}

static void silu_mul(uint32_t n, const float *gate, const float *up, float *out)
{
    uint32_t whole = n / LANES * LANES, rest = n - whole;

    for (uint32_t i = 0; i < whole; i += LANES)
        vf_store(out + i, v_silu_mul(vf_load(gate + i), vf_load(up + i)));
    if (rest > 0)
        vf_store_first(out + whole, v_silu_mul(vf_load_first(gate + whole, rest), vf_load_first(up + whole, rest)),
                       rest);
}

static void add(uint32_t n, const float *x, float *y)
{
    uint32_t whole = n / LANES * LANES, rest = n - whole;

    for (uint32_t i = 0; i < whole; i += LANES)
        vf_store(y + i, vf_add(vf_load(y + i), vf_load(x + i)));
    if (rest > 0)
        vf_store_first(y + whole, vf_add(vf_load_first(y + whole, rest), vf_load_first(x + whole, rest)), rest);
}

static void rope(uint32_t head_dim, const float *cos, const float *sin, float *x)
{
    uint32_t half = head_dim / 2;

    NEF_ASSERT(half % LANES == 0);
    for (uint32_t i = 0; i < half; i += LANES) {
        vf a = vf_load(x + i), b = vf_load(x + half + i), c = vf_load(cos + i), s = vf_load(sin + i);

        vf_store(x + i, vf_fma(a, c, vf_neg(vf_mul(b, s))));
        vf_store(x + half + i, vf_fma(a, s, vf_mul(b, c)));
    }
}

/* ---- joining segments ---- */

static void attend_join(uint32_t head_dim, float *M, float *L, float *O, float m, float l, const float *o)
{
    float max = (m > *M ? m : *M) + 0.0f, a = nef_exp(*M - max), b = nef_exp(m - max);

    *M = max;
    *L = fmaf(*L, a, l * b);
    for (uint32_t c = 0; c < head_dim; c += LANES)
        vf_store(O + c, vf_fma(vf_load(O + c), vf_set1(a), vf_mul(vf_load(o + c), vf_set1(b))));
}

static void attend_finish(uint32_t head_dim, float L, const float *O, float *out)
{
    vf inverse = vf_set1(1.0f / L);

    for (uint32_t c = 0; c < head_dim; c += LANES)
        vf_store(out + c, vf_add(vf_mul(vf_load(O + c), inverse), vf_zero()));
}
