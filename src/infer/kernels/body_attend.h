/* Attention over the pages of a segment, for sets of vectors (see body_rows.h). Up to 8 rows go through the pages
 * together: heads that share the kv head, and tokens. In decode that is all of them, so K and V stream from memory
 * once; in prefill a page stays in the second cache while the blocks of rows pass. Keys have positions in lanes and
 * values have components in lanes, so neither product needs a sum across lanes.
 *
 * Rows of a block may see different numbers of pages: those that see less leave the block first, and what is left is
 * laid together again, so that every loop runs over a constant number of rows. */
#define ATTEND_ROWS 8u

struct attend_work {
    float q[ATTEND_ROWS][NEF_HEAD_DIM_MAX]; /* R(q) of the rows still in the block */
    float p[ATTEND_ROWS][NEF_KV_TILE];      /* scores, then R(p) */
    float alpha[ATTEND_ROWS];
};

/* ---- pages: vectors of (even, odd) pairs ---- */

NEF_VEC_INLINE void split_bf16(vi pairs, vf *out_even, vf *out_odd)
{
    *out_even = vf_bits(vi_slli(pairs, 16));
    *out_odd = vf_bits(vi_and(pairs, vi_set1((int32_t)0xffff0000u)));
}

/* Two int8 in the low half of each lane, sign-extended. */
NEF_VEC_INLINE void split_i8(vi pairs, vf *out_even, vf *out_odd)
{
    *out_even = vf_of_vi(vi_srai(vi_slli(pairs, 24), 24));
    *out_odd = vf_of_vi(vi_srai(pairs, 8));
}

/* Bytes of a page per vector of pairs. */
NEF_VEC_INLINE size_t pair_bytes(const enum nef_kv_type type)
{
    return type == NEF_KV_F32 ? 128 : type == NEF_KV_BF16 ? 64 : 32;
}

/* Components 2i, 2i + 1 of 16 positions; index counts such vectors through the page. */
NEF_VEC_INLINE void load_k(const enum nef_kv_type type, const uint8_t *page, size_t index, vf *out_even, vf *out_odd)
{
    const uint8_t *at = page + index * pair_bytes(type);

    if (type == NEF_KV_BF16) {
        split_bf16(vi_load(at), out_even, out_odd);
    } else if (type == NEF_KV_I8) {
        split_i8(vi_load_i16(at), out_even, out_odd);
    } else {
        *out_even = vf_load((const float *)(const void *)at);
        *out_odd = vf_load((const float *)(const void *)(at + 64));
    }
}

/* 16 components from c of positions 2i, 2i + 1. */
NEF_VEC_INLINE void load_v(const enum nef_kv_type type, const uint8_t *page, size_t d, size_t i, size_t c, vf *out_even,
                           vf *out_odd)
{
    if (type == NEF_KV_BF16) {
        split_bf16(vi_load(page + (i * d + c) * 4), out_even, out_odd);
    } else if (type == NEF_KV_I8) {
        split_i8(vi_load_i16(page + (i * d + c) * 2), out_even, out_odd);
    } else {
        *out_even = vf_load((const float *)(const void *)page + 2 * i * d + c);
        *out_odd = vf_load((const float *)(const void *)page + (2 * i + 1) * d + c);
    }
}

/* ---- scores ---- */

/* p[r][j] = scaled score of position j for ROWS rows. ahead: the page that is needed next, fetched meanwhile. */
NEF_VEC_INLINE void score_rows(const unsigned rows, const enum nef_kv_type type, const struct nef_attend *a,
                               const uint8_t *page, const uint8_t *ahead, const float (*q)[NEF_HEAD_DIM_MAX],
                               float (*p)[NEF_KV_TILE])
{
    uint32_t d = a->head_dim;
    size_t index = 0;

    for (uint32_t pos = 0; pos < NEF_KV_TILE; pos += LANES) {
        vf s[NEF_VEC_ROWS_PAIR], even[NEF_VEC_ROWS_PAIR], odd[NEF_VEC_ROWS_PAIR], k_even, k_odd;

        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            s[r] = vf_zero();
        for (uint32_t block = 0; block < d; block += 32) {
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                even[r] = odd[r] = vf_zero();
            for (uint32_t c = block; c < block + 32; c += 2, index++) {
                _mm_prefetch((const char *)ahead + index * pair_bytes(type), _MM_HINT_T0);
                load_k(type, page, index, &k_even, &k_odd);
                NEF_VEC_UNROLL
                for (unsigned r = 0; r < rows; r++) {
                    even[r] = vf_fma(vf_set1(q[r][c]), k_even, even[r]);
                    odd[r] = vf_fma(vf_set1(q[r][c + 1]), k_odd, odd[r]);
                }
            }
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                s[r] = vf_add(s[r], vf_add(even[r], odd[r]));
        }
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            if (type == NEF_KV_I8)
                s[r] = vf_mul(s[r], vf_load((const float *)(const void *)(page + (size_t)NEF_KV_TILE * d) + pos));
            vf_store(&p[r][pos], vf_mul(s[r], vf_set1(a->scale)));
        }
    }
}

/* Scores of one row to R(p), m and l moved on; returns alpha. seen: positions of this tile, 1 .. 64. */
NEF_VEC_INLINE float soften(const enum nef_kv_type type, const uint8_t *v_page, uint32_t d, uint32_t seen, float *p,
                            float *m, float *l)
{
    vf s[4], max = vf_set1(-INFINITY), sum;
    float m_new, alpha;

    for (uint32_t i = 0; i < 4; i++) {
        uint32_t count = seen > i * LANES ? NEF_MIN(seen - i * LANES, LANES) : 0;

        s[i] = vf_first(vf_load(p + i * LANES), count, vf_set1(-INFINITY));
        max = vf_max(s[i], max);
    }
    m_new = vf_hmax(max);
    m_new = (m_new > *m ? m_new : *m) + 0.0f;
    alpha = nef_exp(*m - m_new);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t count = seen > i * LANES ? NEF_MIN(seen - i * LANES, LANES) : 0;

        s[i] = vf_first(v_exp(vf_sub(s[i], vf_set1(m_new))), count, vf_zero());
    }
    sum = vf_add(vf_add(vf_add(s[0], s[1]), s[2]), s[3]);
    *l = fmaf(*l, alpha, vf_fold(sum));
    *m = m_new;
    for (uint32_t i = 0; i < 4; i++) {
        if (type == NEF_KV_I8)
            s[i] = vf_mul(s[i], vf_load((const float *)(const void *)(v_page + (size_t)NEF_KV_TILE * d) + i * LANES));
        vf_store(p + i * LANES, type == NEF_KV_F32 ? s[i] : vf_bits(v_bf16(s[i])));
    }
    return alpha;
}

/* ---- values ---- */

NEF_VEC_INLINE void sum_values(const unsigned rows, const enum nef_kv_type type, uint32_t d, const uint8_t *page,
                               const uint8_t *ahead, const float (*p)[NEF_KV_TILE], const float *alpha, float *const *o)
{
    size_t index = 0;

    for (uint32_t c = 0; c < d; c += LANES) {
        vf out[NEF_VEC_ROWS_PAIR], even[NEF_VEC_ROWS_PAIR], odd[NEF_VEC_ROWS_PAIR], v_even, v_odd;

        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            out[r] = vf_mul(vf_load(o[r] + c), vf_set1(alpha[r]));
        for (uint32_t half = 0; half < NEF_KV_TILE; half += 32) {
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                even[r] = odd[r] = vf_zero();
            for (uint32_t j = half; j < half + 32; j += 2, index++) {
                _mm_prefetch((const char *)ahead + index * pair_bytes(type), _MM_HINT_T0);
                load_v(type, page, d, j / 2, c, &v_even, &v_odd);
                NEF_VEC_UNROLL
                for (unsigned r = 0; r < rows; r++) {
                    even[r] = vf_fma(vf_set1(p[r][j]), v_even, even[r]);
                    odd[r] = vf_fma(vf_set1(p[r][j + 1]), v_odd, odd[r]);
                }
            }
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                out[r] = vf_add(out[r], vf_add(even[r], odd[r]));
        }
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            vf_store(o[r] + c, out[r]);
    }
}

/* ---- a block of rows ---- */

#define ROWS_SWITCH(rows, X) \
    switch (rows) {          \
        X(1)                 \
        X(2)                 \
        X(3)                 \
        X(4)                 \
        X(5)                 \
        X(6)                 \
        X(7)                 \
        X(8)                 \
    }

/* One page for COUNT rows, row[i] of the call being at w->q[i]. seen[i]: positions from this page's first on. */
NEF_VEC_INLINE void attend_page(const enum nef_kv_type type, const struct nef_attend *a, struct attend_work *w,
                                const uint8_t *k_page, const uint8_t *v_page, const uint8_t *next, unsigned count,
                                const uint32_t *row, const uint32_t *seen)
{
    float *o[ATTEND_ROWS];

    for (unsigned i = 0; i < count; i += NEF_VEC_ROWS_PAIR) {
        const unsigned part = NEF_MIN(count - i, NEF_VEC_ROWS_PAIR);

#define SCORE(R)                                                                                                       \
    case R:                                                                                                            \
        if (R <= NEF_VEC_ROWS_PAIR)                                                                                    \
            score_rows(R, type, a, k_page, v_page, (const float(*)[NEF_HEAD_DIM_MAX])w->q + i, w->p + i);              \
        break;
        ROWS_SWITCH(part, SCORE)
#undef SCORE
    }
    for (unsigned i = 0; i < count; i++) {
        o[i] = a->out_o[row[i]];
        w->alpha[i] = soften(type, v_page, a->head_dim, NEF_MIN(seen[i], NEF_KV_TILE), w->p[i], &a->out_m[row[i]],
                             &a->out_l[row[i]]);
    }
    for (unsigned i = 0; i < count; i += NEF_VEC_ROWS_PAIR) {
        const unsigned part = NEF_MIN(count - i, NEF_VEC_ROWS_PAIR);

#define VALUES(R)                                                                                                      \
    case R:                                                                                                            \
        if (R <= NEF_VEC_ROWS_PAIR)                                                                                    \
            sum_values(R, type, a->head_dim, v_page, next, (const float(*)[NEF_KV_TILE])w->p + i, w->alpha + i,        \
                       o + i);                                                                                         \
        break;
        ROWS_SWITCH(part, VALUES)
#undef VALUES
    }
}

static void stage_q(const struct nef_attend *a, uint32_t row, float *out)
{
    for (uint32_t c = 0; c < a->head_dim; c += LANES) {
        vf q = vf_load(a->q[row] + c);

        vf_store(out + c, a->type == NEF_KV_F32 ? q : vf_bits(v_bf16(q)));
    }
}

/* Rows first .. first + count - 1 through all the pages that they may see. */
NEF_VEC_INLINE void attend_block(const enum nef_kv_type type, const struct nef_attend *a, struct attend_work *w,
                                 uint32_t first, unsigned count)
{
    uint32_t row[ATTEND_ROWS], seen[ATTEND_ROWS];

    for (unsigned i = 0; i < count; i++) {
        uint32_t r = first + i;

        NEF_ASSERT(a->limit[r] >= a->first);
        row[i] = r;
        seen[i] = NEF_MIN(a->limit[r] - a->first, a->pages * NEF_KV_TILE - 1) + 1;
        if (!a->resume) {
            a->out_m[r] = -INFINITY;
            a->out_l[r] = 0;
            memset(a->out_o[r], 0, a->head_dim * sizeof(float));
        }
        stage_q(a, r, w->q[i]);
    }
    for (uint32_t page = 0; count > 0; page++) {
        unsigned left = 0;
        bool more = false; /* some row sees the next page */

        for (unsigned i = 0; i < count; i++)
            more = more || seen[i] > NEF_KV_TILE;
        attend_page(type, a, w, a->k_page[page], a->v_page[page], a->k_page[more ? page + 1 : page], count, row, seen);
        for (unsigned i = 0; i < count; i++) {
            if (seen[i] <= NEF_KV_TILE)
                continue;
            if (left != i)
                stage_q(a, row[i], w->q[left]);
            row[left] = row[i];
            seen[left++] = seen[i] - NEF_KV_TILE;
        }
        count = left;
    }
}

static void attend_bf16(const struct nef_attend *a, struct attend_work *w, uint32_t first, unsigned count)
{
    attend_block(NEF_KV_BF16, a, w, first, count);
}

static void attend_f32(const struct nef_attend *a, struct attend_work *w, uint32_t first, unsigned count)
{
    attend_block(NEF_KV_F32, a, w, first, count);
}

static void attend_i8(const struct nef_attend *a, struct attend_work *w, uint32_t first, unsigned count)
{
    attend_block(NEF_KV_I8, a, w, first, count);
}

static void attend(const struct nef_attend *a, void *scratch)
{
    _Static_assert(sizeof(struct attend_work) <= NEF_VEC_WORK_BYTES, "nef_matmul_scratch covers attention");
    NEF_ASSERT(a->head_dim % 32 == 0 && a->head_dim <= NEF_HEAD_DIM_MAX);
    NEF_ASSERT(a->pages >= 1 && a->pages <= NEF_KV_SEGMENT / NEF_KV_TILE);
    for (uint32_t first = 0; first < a->rows; first += ATTEND_ROWS) {
        unsigned count = NEF_MIN(a->rows - first, ATTEND_ROWS);

        if (a->type == NEF_KV_BF16)
            attend_bf16(a, scratch, first, count);
        else if (a->type == NEF_KV_F32)
            attend_f32(a, scratch, first, count);
        else
            attend_i8(a, scratch, first, count);
    }
}
