/* Linear layers, for sets of vectors (see body_rows.h). A tile's 16 outputs are the lanes, so nothing is summed across
 * lanes; columns go by in groups of 256, and for each group:
 *
 *   1. quantized weights of TILES tiles are expanded to int16 pairs with their bias taken off, their scales to floats;
 *   2. as many rows as fit the registers are laid side by side in scratch (equal distances, so that all addresses are
 *      one base and a constant, and rows whose length is a power of two don't fall on the same cache sets);
 *   3. they go through the tiles; sums of rows wait in scratch between groups.
 *
 * Payload is read once whatever the number of rows. Float weights are used where they lie: a shift per vector costs
 * nothing beside the products. */
#define TILES    4u
#define X_STRIDE (NEF_GROUP_COLS + 32)
#define F_STRIDE (NEF_GROUP_COLS + 16)
#define ROWS_MAX NEF_MATMUL_ROWS_MAX

#define PREFETCH_BYTES 8192u /* measured on Zen 4: 8 KB ahead beats 1 to 4; its own prefetch stops at a page's end */

struct linear_work {
    int16_t w[TILES][NEF_GROUP_COLS / 2 * 32]; /* [k/2][n: 16][k%2] */
    float s[TILES][16][LANES];                 /* per block (K6: per half block) */
    float m[TILES][8][LANES];
    union {
        float y[TILES][ROWS_MAX][LANES];
        double wide[TILES / 2][ROWS_MAX][LANES]; /* F16, F32 */
    };
    int16_t x[NEF_VEC_ROWS_I16][X_STRIDE];
    float sum[NEF_VEC_ROWS_I16][8]; /* float(sum of X) per block */
    float d[NEF_VEC_ROWS_I16];
    float xf[NEF_VEC_ROWS_F32][F_STRIDE];
};

static const uint8_t *payload_at(const struct nef_matrix *m, uint32_t tile, uint32_t block)
{
    return m->payload + ((size_t)tile * m->blocks + block) * m->block_bytes;
}

static const uint8_t *scales_at(const struct nef_matrix *m, uint32_t tile, uint32_t block)
{
    return m->scales + ((size_t)tile * (m->blocks / m->group_blocks) + block / m->group_blocks) * m->group_bytes;
}

static void write_out(const struct nef_matrix *m, uint32_t tile, uint32_t rows, const float (*sums)[LANES], float *y,
                      size_t y_stride)
{
    uint32_t outputs = NEF_MIN(m->n - tile * LANES, LANES);

    for (size_t r = 0; r < rows; r++)
        vf_store_first(y + r * y_stride + tile * LANES, vf_load(sums[r]), outputs);
}

/* ---- quantized: expansion ---- */

/* A block's payload as unsigned bytes, out[k/4] holding [n: 16][k%4]. */
NEF_VEC_INLINE void unpack_bytes(const enum nef_payload kind, const uint8_t *p, vi out[8])
{
    vi nibble = vi_set1(0x0f0f0f0f), bit = vi_set1(0x01010101), fifth;

    if (kind == NEF_PAYLOAD_U8) {
        NEF_VEC_UNROLL
        for (unsigned j = 0; j < 8; j++)
            out[j] = vi_load(p + j * 64);
        return;
    }
    NEF_VEC_UNROLL
    for (unsigned j = 0; j < 4; j++) {
        out[j] = vi_and(vi_load(p + j * 64), nibble);
        out[j + 4] = vi_and(vi_srli(vi_load(p + j * 64), 4), nibble);
    }
    if (kind == NEF_PAYLOAD_U5) {
        fifth = vi_load(p + 256);
#define FIFTH(j) out[j] = vi_or(out[j], vi_slli(vi_and(vi_srli(fifth, j), bit), 4));
        FIFTH(0) FIFTH(1) FIFTH(2) FIFTH(3) FIFTH(4) FIFTH(5) FIFTH(6) FIFTH(7)
#undef FIFTH
    }
    if (kind == NEF_PAYLOAD_U6) {
        vi two = vi_set1(0x03030303), first = vi_load(p + 256), second = vi_load(p + 320);
#define UPPER(j, from, g) out[j] = vi_or(out[j], vi_slli(vi_and(vi_srli(from, 2 * (g)), two), 4));
        UPPER(0, first, 0) UPPER(1, first, 1) UPPER(2, first, 2) UPPER(3, first, 3)
        UPPER(4, second, 0) UPPER(5, second, 1) UPPER(6, second, 2) UPPER(7, second, 3)
#undef UPPER
    }
}

NEF_VEC_INLINE void expand_blocks(const enum nef_payload kind, const struct nef_matrix *m, const uint8_t *p,
                                  uint32_t blocks, int16_t *out)
{
    vi bias = vi_set1_16((int16_t)m->bias), bytes[8];

    for (uint32_t b = 0; b < blocks; b++, p += m->block_bytes) {
        for (uint32_t line = 0; line < m->block_bytes; line += 64)
            _mm_prefetch((const char *)p + PREFETCH_BYTES + line, _MM_HINT_T0);
        unpack_bytes(kind, p, bytes);
        NEF_VEC_UNROLL
        for (unsigned j = 0; j < 8; j++, out += 64) {
            vi_store(out, vi_sub16(vi_bytes01(bytes[j]), bias));
            vi_store(out + 32, vi_sub16(vi_bytes23(bytes[j]), bias));
        }
    }
}

static void expand(const struct nef_matrix *m, uint32_t tile, uint32_t block, uint32_t blocks, int16_t *out)
{
    const uint8_t *p = payload_at(m, tile, block);

    if (m->payload_kind == NEF_PAYLOAD_U8)
        expand_blocks(NEF_PAYLOAD_U8, m, p, blocks, out);
    else if (m->payload_kind == NEF_PAYLOAD_U4)
        expand_blocks(NEF_PAYLOAD_U4, m, p, blocks, out);
    else if (m->payload_kind == NEF_PAYLOAD_U5)
        expand_blocks(NEF_PAYLOAD_U5, m, p, blocks, out);
    else
        expand_blocks(NEF_PAYLOAD_U6, m, p, blocks, out);
}

/* s (and m) of block I of the scale group at P. K6 has two s, for the block's halves. */
NEF_VEC_INLINE void load_scales(const enum nef_scales kind, const uint8_t *p, uint32_t i, vf *out_s, vf *out_second)
{
    vf d = vf_load_f16(p);

    if (kind == NEF_SCALES_BLOCK) {
        *out_s = *out_second = d;
    } else if (kind == NEF_SCALES_K45) {
        *out_s = vf_mul(d, vf_of_vi(vi_load_u8(p + 64 + i * 32)));
        *out_second = vf_mul(vf_load_f16(p + 32), vf_of_vi(vi_load_u8(p + 64 + i * 32 + 16)));
    } else {
        *out_s = vf_mul(d, vf_of_vi(vi_load_i8(p + 32 + i * 32)));
        *out_second = vf_mul(d, vf_of_vi(vi_load_i8(p + 32 + i * 32 + 16)));
    }
}

static void expand_scales(const struct nef_matrix *m, uint32_t tile, uint32_t block, uint32_t blocks, float (*s)[LANES],
                          float (*offset)[LANES])
{
    for (uint32_t i = 0; i < blocks; i++) {
        const uint8_t *p = scales_at(m, tile, block + i);
        vf first, second;

        if (m->scales_kind == NEF_SCALES_BLOCK) {
            load_scales(NEF_SCALES_BLOCK, p, 0, &first, &second);
            vf_store(s[i], first);
        } else if (m->scales_kind == NEF_SCALES_K45) {
            load_scales(NEF_SCALES_K45, p, i, &first, &second);
            vf_store(s[i], first);
            vf_store(offset[i], second);
        } else {
            load_scales(NEF_SCALES_K6, p, i, &first, &second);
            vf_store(s[2 * i], first);
            vf_store(s[2 * i + 1], second);
        }
    }
}

/* ---- quantized: products ---- */

static void stage_x16(enum nef_scales kind, const struct nef_act *act, uint32_t group, uint32_t row, uint32_t rows, uint32_t blocks,
                      struct linear_work *w)
{
    uint32_t groups = (act->k + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS;

    for (uint32_t i = 0; i < rows; i++) {
        size_t at = (size_t)(row + i) * act->k + group * NEF_GROUP_COLS;
        const int32_t *sum16 = act->sum16 + at / 16;

        for (uint32_t b = 0; b < blocks; b++) {
            vi_store(w->x[i] + b * 32, vi_load(act->x16 + at + b * 32));
            if (kind == NEF_SCALES_K45) /* the only ones with offsets */
                w->sum[i][b] = (float)(sum16[2 * b] + sum16[2 * b + 1]);
        }
        w->d[i] = act->d[(size_t)(row + i) * groups + group];
    }
}

/* ROWS staged rows through one expanded tile; y[r] moves on by a group. */
NEF_VEC_INLINE void dot_rows_i16(const unsigned rows, const enum nef_scales kind, const struct linear_work *w,
                                 uint32_t tile, uint32_t blocks, float (*y)[LANES])
{
    const unsigned parts = kind == NEF_SCALES_K6 ? 2 : 1, pairs = 16 / parts;
    const int16_t *weight = w->w[tile], *x = w->x[0];
    vf a[NEF_VEC_ROWS_I16];
    vi s[NEF_VEC_ROWS_I16];

    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        a[r] = vf_zero();
    for (uint32_t part = 0; part < blocks * parts; part++) {
        vf scale = vf_load(w->s[tile][part]);

        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            s[r] = vi_zero();
        for (unsigned i = 0; i < pairs; i++, weight += 32, x += 2) {
            vi v = vi_load(weight);

            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                s[r] = vi_dot16_pair(s[r], v, x + r * X_STRIDE);
        }
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            a[r] = vf_fma(vf_of_vi(s[r]), scale, a[r]);
        if (kind == NEF_SCALES_K45) {
            vf offset = vf_load(w->m[tile][part]);

            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                a[r] = vf_fnma(vf_set1(w->sum[r][part]), offset, a[r]);
        }
    }
    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        vf_store(y[r], vf_fma(vf_set1(w->d[r]), a[r], vf_load(y[r])));
}

#define DOT_CASE(R)                                                                                                    \
    case R:                                                                                                            \
        if (R <= NEF_VEC_ROWS_I16)                                                                                     \
            dot_rows_i16(R <= NEF_VEC_ROWS_I16 ? R : 1, kind, w, tile, blocks, y);                                     \
        break;
NEF_VEC_INLINE void dot_i16_kind(const enum nef_scales kind, const struct linear_work *w, uint32_t tile,
                                 uint32_t blocks, uint32_t rows, float (*y)[LANES])
{
    switch (rows) {
        DOT_CASE(1)
        DOT_CASE(2)
        DOT_CASE(3)
        DOT_CASE(4)
        DOT_CASE(5)
        DOT_CASE(6)
        DOT_CASE(7)
        DOT_CASE(8)
        DOT_CASE(9)
        DOT_CASE(10)
        DOT_CASE(11)
        DOT_CASE(12)
    }
}
#undef DOT_CASE

static void dot_i16(enum nef_scales kind, const struct linear_work *w, uint32_t tile, uint32_t blocks, uint32_t rows,
                    float (*y)[LANES])
{
    if (kind == NEF_SCALES_BLOCK)
        dot_i16_kind(NEF_SCALES_BLOCK, w, tile, blocks, rows, y);
    else if (kind == NEF_SCALES_K45)
        dot_i16_kind(NEF_SCALES_K45, w, tile, blocks, rows, y);
    else
        dot_i16_kind(NEF_SCALES_K6, w, tile, blocks, rows, y);
}

static void matmul_quantized(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles,
                             float *y, size_t y_stride, struct linear_work *w)
{
    uint32_t at_once = act->rows > NEF_VEC_ROWS_I16 ? TILES : 1, here; /* few rows: memory is the limit, one stream */
    uint32_t parts = (act->rows + NEF_VEC_ROWS_I16 - 1) / NEF_VEC_ROWS_I16, rows; /* of rows, alike in size */

    for (uint32_t t = tile0; t < tile0 + tiles; t += here) {
        here = NEF_MIN(tile0 + tiles - t, at_once);
        for (uint32_t i = 0; i < here; i++)
            memset(w->y[i], 0, act->rows * sizeof w->y[i][0]);
        for (uint32_t block = 0; block < m->blocks; block += 8) {
            uint32_t blocks = NEF_MIN(m->blocks - block, 8u);

            for (uint32_t i = 0; i < here; i++) {
                expand(m, t + i, block, blocks, w->w[i]);
                expand_scales(m, t + i, block, blocks, w->s[i], w->m[i]);
            }
            for (uint32_t r = 0, part = 1; r < act->rows; r += rows, part++) {
                rows = act->rows * part / parts - r;
                stage_x16(m->scales_kind, act, block / 8, r, rows, blocks, w);
                for (uint32_t i = 0; i < here; i++)
                    dot_i16(m->scales_kind, w, i, blocks, rows, w->y[i] + r);
            }
        }
        for (uint32_t i = 0; i < here; i++)
            write_out(m, t + i, act->rows, (const float(*)[LANES])w->y[i], y, y_stride);
    }
}

/* ---- BF16, F16, F32 ---- */

static void stage_float(enum nef_payload kind, const struct nef_act *act, uint32_t column, uint32_t columns,
                        uint32_t row, uint32_t rows, struct linear_work *w)
{
    for (uint32_t i = 0; i < rows; i++) {
        size_t at = (size_t)(row + i) * act->k + column;

        if (kind == NEF_PAYLOAD_BF16) {
            for (uint32_t k = 0; k < columns; k += LANES)
                vf_store(w->xf[i] + k, vf_bits(vi_slli(vi_load_u16(act->bf16 + at + k), 16)));
        } else {
            memcpy(w->xf[i], act->x + at, columns * sizeof(float));
        }
    }
}

NEF_VEC_INLINE void dot_rows_bf16(const unsigned rows, const struct linear_work *w, const uint8_t *p, uint32_t columns,
                                  float (*y)[LANES])
{
    const float *x = w->xf[0];
    vf even[NEF_VEC_ROWS_PAIR], odd[NEF_VEC_ROWS_PAIR], sum[NEF_VEC_ROWS_PAIR], w_even, w_odd;

    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        sum[r] = vf_load(y[r]);
    for (uint32_t k = 0; k < columns; k += NEF_BLOCK_COLS) {
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            even[r] = odd[r] = vf_zero();
        for (unsigned i = 0; i < NEF_BLOCK_COLS; i += 2, x += 2, p += 64) {
            _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
            split_bf16(vi_load(p), &w_even, &w_odd);
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++) {
                even[r] = vf_fma(vf_set1(x[r * F_STRIDE]), w_even, even[r]);
                odd[r] = vf_fma(vf_set1(x[r * F_STRIDE + 1]), w_odd, odd[r]);
            }
        }
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            sum[r] = vf_add(sum[r], vf_add(even[r], odd[r]));
    }
    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        vf_store(y[r], sum[r]);
}

/* Two chains of eight columns are added in float; from there on in double. */
NEF_VEC_INLINE void dot_rows_float(const unsigned rows, const enum nef_payload kind, const struct linear_work *w,
                                   const uint8_t *p, uint32_t columns, double (*y)[LANES])
{
    const float *x = w->xf[0];
    vf a[2][NEF_VEC_ROWS_F32];
    vd sum[NEF_VEC_ROWS_F32];

    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        sum[r] = vd_load(y[r]);
    for (uint32_t k = 0; k < columns; k += 2 * NEF_CHAIN_COLS) {
        NEF_VEC_UNROLL
        for (unsigned chain = 0; chain < 2; chain++) {
            NEF_VEC_UNROLL
            for (unsigned r = 0; r < rows; r++)
                a[chain][r] = vf_zero();
            for (unsigned i = 0; i < NEF_CHAIN_COLS; i++, x++, p += kind == NEF_PAYLOAD_F16 ? 32 : 64) {
                vf v;

                _mm_prefetch((const char *)p + PREFETCH_BYTES, _MM_HINT_T0);
                v = kind == NEF_PAYLOAD_F16 ? vf_load_f16(p) : vf_load((const float *)(const void *)p);
                NEF_VEC_UNROLL
                for (unsigned r = 0; r < rows; r++)
                    a[chain][r] = vf_fma(vf_set1(x[r * F_STRIDE]), v, a[chain][r]);
            }
        }
        NEF_VEC_UNROLL
        for (unsigned r = 0; r < rows; r++)
            sum[r] = vd_add(sum[r], vd_of_vf(vf_add(a[0][r], a[1][r])));
    }
    NEF_VEC_UNROLL
    for (unsigned r = 0; r < rows; r++)
        vd_store(y[r], sum[r]);
}

#define BF16_CASE(R)                                                                                                   \
    case R:                                                                                                            \
        if (R <= NEF_VEC_ROWS_PAIR)                                                                                    \
            dot_rows_bf16(R <= NEF_VEC_ROWS_PAIR ? R : 1, w, p, columns, y);                                           \
        break;
static void dot_bf16(const struct linear_work *w, const uint8_t *p, uint32_t columns, uint32_t rows, float (*y)[LANES])
{
    ROWS_SWITCH(rows, BF16_CASE)
}

#define FLOAT_CASE(R)                                                                                                  \
    case R:                                                                                                            \
        if (R <= NEF_VEC_ROWS_F32)                                                                                     \
            dot_rows_float(R <= NEF_VEC_ROWS_F32 ? R : 1, kind, w, p, columns, y);                                     \
        break;
NEF_VEC_INLINE void dot_float_kind(const enum nef_payload kind, const struct linear_work *w, const uint8_t *p,
                                   uint32_t columns, uint32_t rows, double (*y)[LANES])
{
    ROWS_SWITCH(rows, FLOAT_CASE)
}

/* ROWS staged rows, of which ROW is the first, through tile I of those in work. */
static void dot_float(enum nef_payload kind, struct linear_work *w, uint32_t i, const uint8_t *p, uint32_t columns,
                      uint32_t row, uint32_t rows)
{
    if (kind == NEF_PAYLOAD_BF16)
        dot_bf16(w, p, columns, rows, w->y[i] + row);
    else if (kind == NEF_PAYLOAD_F16)
        dot_float_kind(NEF_PAYLOAD_F16, w, p, columns, rows, w->wide[i] + row);
    else
        dot_float_kind(NEF_PAYLOAD_F32, w, p, columns, rows, w->wide[i] + row);
}

static void write_out_wide(const struct nef_matrix *m, uint32_t tile, uint32_t rows, const double (*sums)[LANES],
                           float *y, size_t y_stride)
{
    uint32_t outputs = NEF_MIN(m->n - tile * LANES, LANES);

    for (size_t r = 0; r < rows; r++)
        vf_store_first(y + r * y_stride + tile * LANES, vf_of_vd(vd_load(sums[r])), outputs);
}

static void matmul_float(const struct nef_matrix *m, const struct nef_act *act, uint32_t tile0, uint32_t tiles,
                         float *y, size_t y_stride, struct linear_work *w)
{
    bool wide = m->payload_kind != NEF_PAYLOAD_BF16;
    uint32_t rows_at_once = wide ? NEF_VEC_ROWS_F32 : NEF_VEC_ROWS_PAIR, here;
    uint32_t at_once = act->rows <= rows_at_once ? 1 : wide ? TILES / 2 : TILES;

    for (uint32_t t = tile0; t < tile0 + tiles; t += here) {
        here = NEF_MIN(tile0 + tiles - t, at_once);
        for (uint32_t i = 0; i < here && wide; i++)
            memset(w->wide[i], 0, act->rows * sizeof w->wide[i][0]);
        for (uint32_t i = 0; i < here && !wide; i++)
            memset(w->y[i], 0, act->rows * sizeof w->y[i][0]);
        for (uint32_t k = 0; k < m->k; k += NEF_GROUP_COLS) {
            uint32_t columns = NEF_MIN(m->k - k, NEF_GROUP_COLS);

            for (uint32_t r = 0; r < act->rows; r += rows_at_once) {
                uint32_t rows = NEF_MIN(act->rows - r, rows_at_once);

                stage_float(m->payload_kind, act, k, columns, r, rows, w);
                for (uint32_t i = 0; i < here; i++)
                    dot_float(m->payload_kind, w, i, payload_at(m, t + i, k / NEF_BLOCK_COLS), columns, r, rows);
            }
        }
        for (uint32_t i = 0; i < here && wide; i++)
            write_out_wide(m, t + i, act->rows, (const double(*)[LANES])w->wide[i], y, y_stride);
        for (uint32_t i = 0; i < here && !wide; i++)
            write_out(m, t + i, act->rows, (const float(*)[LANES])w->y[i], y, y_stride);
    }
}
