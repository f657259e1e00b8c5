/* Attention on the matrix unit, for prompts: 16 query rows at a time against tiles of 64 positions, as docs/numerics.md
 * section 2 says. Both products are TDPBF16PS in the order that section defines; softmax is the vector unit's. Pages lie in the
 * cache as the unit wants its second operand, so nothing is copied but the int8 cache's pages, which are widened once for
 * ROWS rows. Few rows (decode) and the F32 cache go to the AVX-512 set. */
#include <math.h>
#include "base/assert.h"
#include "infer/kernels/amx.h"
#include "infer/kernels/amx_tile.h"
#include "infer/kernels/vec_avx512.h"
#include "infer/kernels/body_math.h"

#define ROWS     NEF_AMX_ROWS
#define ROWS_MIN 8u

static const struct tile_config config = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

struct state {
    uint16_t *q;    /* [ROWS][head_dim] bf16 */
    float *o;       /* [ROWS][head_dim] */
    float *scores;  /* [16][64] */
    uint16_t *p;    /* [16][64] bf16 */
    uint16_t *wide; /* K, then V of a page of the int8 cache as bf16 */
    float *m, *l;   /* [ROWS] */
};

/* NEF_AMX_SCRATCH has room for it. */
static void place(struct state *s, void *scratch)
{
    uint8_t *at = scratch;

    s->q = (uint16_t *)at;
    s->o = (float *)(at += ROWS * NEF_HEAD_DIM_MAX * 2);
    s->scores = (float *)(at += ROWS * NEF_HEAD_DIM_MAX * 4);
    s->p = (uint16_t *)(at += 16 * 64 * 4);
    s->wide = (uint16_t *)(at += 16 * 64 * 2);
    s->m = (float *)(at += 2 * NEF_KV_TILE * NEF_HEAD_DIM_MAX * 2);
    s->l = s->m + ROWS;
}

/* The integers of an int8 page, exact in bf16; scales stay behind. */
static const uint16_t *widen(const void *page, uint32_t head_dim, uint16_t *out)
{
    for (uint32_t i = 0; i < NEF_KV_TILE * head_dim; i += 16)
        vi_store_16(out + i, vi_srli(vi_bits(vf_of_vi(vi_load_i8((const int8_t *)page + i))), 16));
    return out;
}

static const float *scales_of(const void *page, uint32_t head_dim)
{
    return (const float *)((const int8_t *)page + (size_t)NEF_KV_TILE * head_dim);
}

/* scores = 16 rows of q times the 64 keys of a page [pos/16][d/2][16][2]. */
static void multiply_keys(const uint16_t *q, const uint16_t *k, uint32_t d, float *scores)
{
    const uint16_t *k1 = k + 16 * d, *k2 = k1 + 16 * d, *k3 = k2 + 16 * d;

    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    for (uint32_t c = 0; c < d; c += 32) {
        size_t at = (size_t)c * 16;

        tile_load(4, q + c, d * 2);
        tile_load(5, k + at, 64);
        tile_load(6, k1 + at, 64);
        tile_load(7, k2 + at, 64);
        tile_dot_bf16(0, 4, 5);
        tile_load(5, k3 + at, 64);
        tile_dot_bf16(1, 4, 6);
        tile_dot_bf16(2, 4, 7);
        tile_dot_bf16(3, 4, 5);
    }
    tile_store(0, scores, 256);
    tile_store(1, scores + 16, 256);
    tile_store(2, scores + 32, 256);
    tile_store(3, scores + 48, 256);
}

/* o = 16 rows of o (scaled already) + p times the 64 values of a page [pos/2][d][2], its halves one after the other. */
static void multiply_values(const uint16_t *p, const uint16_t *v, uint32_t d, float *o)
{
    const uint16_t *v1 = v + (size_t)32 * d;

    tile_load(4, p, 128);
    tile_load(5, p + 32, 128);
    for (uint32_t c = 0; c < d; c += 32) {
        tile_load(0, o + c, d * 4);
        tile_load(6, v + 2 * c, d * 4);
        tile_dot_bf16(0, 4, 6);
        tile_load(1, o + c + 16, d * 4);
        tile_load(7, v + 2 * (c + 16), d * 4);
        tile_dot_bf16(1, 4, 7);
        tile_load(6, v1 + 2 * c, d * 4);
        tile_dot_bf16(0, 5, 6);
        tile_load(7, v1 + 2 * (c + 16), d * 4);
        tile_dot_bf16(1, 5, 7);
        tile_store(0, o + c, d * 4);
        tile_store(1, o + c + 16, d * 4);
    }
}

/* One row of scores becomes its p in bf16; m and l move on. seen: 1 .. 64. Returns alpha. */
static float soften(const struct nef_attend *a, const float *scores, const float *k_scale, const float *v_scale,
                    uint32_t seen, float *m, float *l, uint16_t *p)
{
    vf s[4], top = vf_set1(-INFINITY);
    float max, alpha;

    for (uint32_t i = 0; i < 4; i++) {
        uint32_t count = seen > 16 * i ? NEF_MIN(seen - 16 * i, 16u) : 0;

        s[i] = vf_load(scores + 16 * i);
        if (k_scale != NULL)
            s[i] = vf_mul(s[i], vf_load(k_scale + 16 * i));
        s[i] = vf_mul(s[i], vf_set1(a->scale));
        top = vf_max(vf_first(s[i], count, vf_set1(-INFINITY)), top);
    }
    max = vf_hmax(top);
    max = (max > *m ? max : *m) + 0.0f;
    alpha = nef_exp(*m - max);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t count = seen > 16 * i ? NEF_MIN(seen - 16 * i, 16u) : 0;

        s[i] = vf_first(v_exp(vf_sub(s[i], vf_set1(max))), count, vf_zero());
    }
    *l = fmaf(*l, alpha, vf_fold(vf_add(vf_add(vf_add(s[0], s[1]), s[2]), s[3])));
    *m = max;
    for (uint32_t i = 0; i < 4; i++) {
        if (v_scale != NULL)
            s[i] = vf_mul(s[i], vf_load(v_scale + 16 * i));
        vi_store_16(p + 16 * i, vi_srli(v_bf16(s[i]), 16));
    }
    return alpha;
}

/* Rows [row0, row0 + count) of A, count up to ROWS. */
static void attend_rows(const struct nef_attend *a, uint32_t row0, uint32_t count, const struct state *s)
{
    uint32_t d = a->head_dim, last = 0, padded = (count + 15) / 16 * 16;

    for (uint32_t r = 0; r < padded; r++) {
        for (uint32_t c = 0; c < d; c += 16)
            vi_store_16(s->q + (size_t)r * d + c,
                        r < count ? vi_srli(v_bf16(vf_load(a->q[row0 + r] + c)), 16) : vi_zero());
        if (a->resume && r < count)
            memcpy(s->o + (size_t)r * d, a->out_o[row0 + r], d * sizeof(float));
        else
            memset(s->o + (size_t)r * d, 0, d * sizeof(float));
        s->m[r] = a->resume && r < count ? a->out_m[row0 + r] : -INFINITY;
        s->l[r] = a->resume && r < count ? a->out_l[row0 + r] : 0;
        if (r < count)
            last = NEF_MAX(last, NEF_MIN(a->limit[row0 + r] - a->first, a->pages * NEF_KV_TILE - 1));
    }
    for (uint32_t page = 0; page * NEF_KV_TILE <= last; page++) {
        uint32_t from = a->first + page * NEF_KV_TILE;
        const uint16_t *k = a->k_page[page], *v = a->v_page[page];
        const float *k_scale = NULL, *v_scale = NULL;

        if (a->type == NEF_KV_I8) {
            k_scale = scales_of(k, d);
            v_scale = scales_of(v, d);
            k = widen(k, d, s->wide);
            v = widen(v, d, s->wide + NEF_KV_TILE * NEF_HEAD_DIM_MAX);
        }
        for (uint32_t r0 = 0; r0 < padded; r0 += 16) {
            bool any = false;

            for (uint32_t r = r0; r < NEF_MIN(r0 + 16, count); r++)
                any = any || a->limit[row0 + r] >= from;
            if (!any)
                continue;
            multiply_keys(s->q + (size_t)r0 * d, k, d, s->scores);
            for (uint32_t r = r0; r < r0 + 16; r++) {
                uint16_t *p = s->p + 64 * (r - r0);

                if (r >= count || a->limit[row0 + r] < from) { /* takes no part: o*1 + 0 */
                    memset(p, 0, 64 * sizeof(*p));
                    continue;
                }
                float alpha = soften(a, s->scores + 64 * (r - r0), k_scale, v_scale,
                                     NEF_MIN(a->limit[row0 + r] - from + 1, NEF_KV_TILE), &s->m[r], &s->l[r], p);
                for (uint32_t c = 0; c < d; c += 16)
                    vf_store(s->o + (size_t)r * d + c, vf_mul(vf_load(s->o + (size_t)r * d + c), vf_set1(alpha)));
            }
            multiply_values(s->p, v, d, s->o + (size_t)r0 * d);
        }
    }
    for (uint32_t r = 0; r < count; r++) {
        a->out_m[row0 + r] = s->m[r];
        a->out_l[row0 + r] = s->l[r];
        memcpy(a->out_o[row0 + r], s->o + (size_t)r * d, d * sizeof(float));
    }
}

void nef_amx_attend(const struct nef_attend *a, void *scratch)
{
    struct state s;

    if (a->type == NEF_KV_F32 || a->rows < ROWS_MIN) {
        nef_kernels_avx512.attend(a, scratch);
        return;
    }
    NEF_ASSERT(a->head_dim % 32 == 0 && a->head_dim <= NEF_HEAD_DIM_MAX);
    NEF_ASSERT(a->pages >= 1 && a->pages <= NEF_KV_SEGMENT / NEF_KV_TILE);
    place(&s, scratch);
    tile_configure(&config);
    for (uint32_t row0 = 0; row0 < a->rows; row0 += ROWS)
        attend_rows(a, row0, NEF_MIN(a->rows - row0, ROWS), &s);
    tile_release();
}
