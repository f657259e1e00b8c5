/* From a GGUF tensor's rows to tiles of 16 outputs. The integers and scales of the file are kept as they are, only
 * their order changes (and a bias makes them unsigned), so packing loses nothing; the block layouts are described in
 * gguf/row.c and come from ggml-common.h.
 *
 * A row is first taken apart into plain arrays (32 columns of small integers, their scales), then put into the tile:
 * one pair of steps per type instead of one loop per pair of types. */
#include "base/assert.h"
#include "base/limits.h"
#include "infer/gguf/gguf.h"
#include "infer/kernels/kernels.h"
#include "infer/kernels/math.h"

struct kind {
    uint32_t type;
    enum nef_payload payload;
    enum nef_scales scales;
    int bias;
    uint32_t columns, bytes; /* of a block of the file */
};

static const struct kind kinds[] = {
    {NEF_GGML_F32, NEF_PAYLOAD_F32, NEF_SCALES_NONE, 0, 1, 4},
    {NEF_GGML_F16, NEF_PAYLOAD_F16, NEF_SCALES_NONE, 0, 1, 2},
    {NEF_GGML_BF16, NEF_PAYLOAD_BF16, NEF_SCALES_NONE, 0, 1, 2},
    {NEF_GGML_Q8_0, NEF_PAYLOAD_U8, NEF_SCALES_BLOCK, 128, 32, 34},
    {NEF_GGML_Q4_0, NEF_PAYLOAD_U4, NEF_SCALES_BLOCK, 8, 32, 18},
    {NEF_GGML_Q5_0, NEF_PAYLOAD_U5, NEF_SCALES_BLOCK, 16, 32, 22},
    {NEF_GGML_Q4_K, NEF_PAYLOAD_U4, NEF_SCALES_K45, 0, 256, 144},
    {NEF_GGML_Q5_K, NEF_PAYLOAD_U5, NEF_SCALES_K45, 0, 256, 176},
    {NEF_GGML_Q6_K, NEF_PAYLOAD_U6, NEF_SCALES_K6, 32, 256, 210},
};

static const size_t payload_bytes[] = {
    [NEF_PAYLOAD_U8] = 512, [NEF_PAYLOAD_U4] = 256,    [NEF_PAYLOAD_U5] = 320,  [NEF_PAYLOAD_U6] = 384,
    [NEF_PAYLOAD_BF16] = 1024, [NEF_PAYLOAD_F16] = 1024, [NEF_PAYLOAD_F32] = 2048,
};
static const size_t scale_bytes[] = {
    [NEF_SCALES_NONE] = 0, [NEF_SCALES_BLOCK] = 32, [NEF_SCALES_K45] = 320, [NEF_SCALES_K6] = 288,
};

static const struct kind *kind_of(uint32_t type)
{
    for (size_t i = 0; i < NEF_COUNT(kinds); i++)
        if (kinds[i].type == type)
            return &kinds[i];
    return NULL;
}

nef_err nef_matrix_shape(uint32_t ggml_type, uint64_t n, uint64_t k, struct nef_matrix *out_matrix)
{
    const struct kind *kind = kind_of(ggml_type);

    if (kind == NULL || n == 0 || k == 0 || k % NEF_BLOCK_COLS != 0 || k % kind->columns != 0)
        return NEF_E_UNSUPPORTED;
    if (n > NEF_MATRIX_N_MAX || k > NEF_MATRIX_K_MAX)
        return NEF_E_UNSUPPORTED;
    *out_matrix = (struct nef_matrix){
        .payload_kind = kind->payload,
        .scales_kind = kind->scales,
        .bias = kind->bias,
        .n = (uint32_t)n,
        .k = (uint32_t)k,
        .tiles = (uint32_t)((n + NEF_TILE_ROWS - 1) / NEF_TILE_ROWS),
        .blocks = (uint32_t)(k / NEF_BLOCK_COLS),
        .block_bytes = payload_bytes[kind->payload],
        .group_bytes = scale_bytes[kind->scales],
        .group_blocks = kind->columns == NEF_GROUP_COLS ? NEF_GROUP_COLS / NEF_BLOCK_COLS : 1,
    };
    return NEF_OK;
}

size_t nef_matrix_payload_bytes(const struct nef_matrix *m)
{
    return (size_t)m->tiles * m->blocks * m->block_bytes;
}

size_t nef_matrix_scale_bytes(const struct nef_matrix *m)
{
    return (size_t)m->tiles * (m->blocks / m->group_blocks) * m->group_bytes;
}

/* ---- taking a block of the file apart ---- */

/* 32 (or with K types 256) columns of a row: q with its bias added, scales as the file has them. */
struct taken {
    uint8_t q[NEF_GROUP_COLS];
    uint8_t d[2], dmin[2]; /* f16 */
    uint8_t sc[16], m[8];
};

static void take_0(uint32_t type, const uint8_t *p, struct taken *out)
{
    uint32_t high = 0;
    const uint8_t *low = p + 2;

    memcpy(out->d, p, 2);
    if (type == NEF_GGML_Q5_0) {
        high = (uint32_t)p[2] | (uint32_t)p[3] << 8 | (uint32_t)p[4] << 16 | (uint32_t)p[5] << 24;
        low = p + 6;
    }
    for (uint32_t i = 0; i < 16; i++) {
        out->q[i] = (uint8_t)((low[i] & 15) | (high >> i & 1) << 4);
        out->q[i + 16] = (uint8_t)(low[i] >> 4 | (high >> (i + 16) & 1) << 4);
    }
}

static void take_k45(uint32_t type, const uint8_t *p, struct taken *out)
{
    const uint8_t *packed = p + 4, *high = type == NEF_GGML_Q5_K ? p + 16 : NULL, *low = p + (high != NULL ? 48 : 16);

    memcpy(out->d, p, 2);
    memcpy(out->dmin, p + 2, 2);
    for (uint32_t j = 0; j < 8; j++) {
        if (j < 4) {
            out->sc[j] = packed[j] & 63;
            out->m[j] = packed[j + 4] & 63;
        } else {
            out->sc[j] = (uint8_t)((packed[j + 4] & 15) | packed[j - 4] >> 6 << 4);
            out->m[j] = (uint8_t)(packed[j + 4] >> 4 | packed[j] >> 6 << 4);
        }
        for (uint32_t i = 0; i < 32; i++)
            out->q[j * 32 + i] = (uint8_t)((low[j / 2 * 32 + i] >> (j % 2 * 4) & 15) |
                                           (high != NULL ? (high[i] >> j & 1) << 4 : 0));
    }
}

static void take_k6(const uint8_t *p, struct taken *out)
{
    memcpy(out->d, p + 208, 2);
    memcpy(out->sc, p + 192, 16);
    for (uint32_t i = 0; i < NEF_GROUP_COLS; i++) {
        uint32_t half = i / 128, quarter = i % 128 / 32, l = i % 32;

        out->q[i] = (uint8_t)((p[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15) |
                              (p[128 + half * 32 + l] >> (quarter * 2) & 3) << 4);
    }
}

static void take(uint32_t type, const uint8_t *p, struct taken *out)
{
    if (type == NEF_GGML_Q4_K || type == NEF_GGML_Q5_K)
        take_k45(type, p, out);
    else if (type == NEF_GGML_Q6_K)
        take_k6(p, out);
    else
        take_0(type, p, out);
}

/* ---- putting it into a tile ---- */

/* Nibbles and more, four columns at a time, as the bytes of one word: the layouts keep k%4 together. */
static void put_block(enum nef_payload payload, const uint8_t *q, uint32_t lane, uint8_t *block)
{
    uint32_t quad[8], fifth = 0;

    memcpy(quad, q, sizeof quad);
    for (uint32_t j = 0; j < 4; j++) {
        uint32_t nibbles = (quad[j] & 0x0f0f0f0fu) | (quad[j + 4] & 0x0f0f0f0fu) << 4;

        memcpy(block + j * 64 + lane * 4, &nibbles, 4);
    }
    if (payload == NEF_PAYLOAD_U5) {
        for (uint32_t j = 0; j < 8; j++)
            fifth |= (quad[j] >> 4 & 0x01010101u) << j;
        memcpy(block + 256 + lane * 4, &fifth, 4);
    }
    for (uint32_t h = 0; h < 2 && payload == NEF_PAYLOAD_U6; h++) {
        uint32_t upper = 0;

        for (uint32_t g = 0; g < 4; g++)
            upper |= (quad[4 * h + g] >> 4 & 0x03030303u) << 2 * g;
        memcpy(block + 256 + 64 * h + lane * 4, &upper, 4);
    }
}

static void put_scales(enum nef_scales scales, const struct taken *t, uint32_t lane, uint8_t *group)
{
    memcpy(group + 2 * lane, t->d, 2);
    if (scales == NEF_SCALES_K45) {
        memcpy(group + 32 + 2 * lane, t->dmin, 2);
        for (uint32_t j = 0; j < 8; j++) {
            group[64 + j * 32 + lane] = t->sc[j];
            group[64 + j * 32 + 16 + lane] = t->m[j];
        }
    } else if (scales == NEF_SCALES_K6) {
        for (uint32_t j = 0; j < 16; j++)
            group[32 + j * 16 + lane] = t->sc[j];
    }
}

static void put_float(enum nef_payload payload, const uint8_t *row, uint32_t k, uint32_t lane, uint8_t *block)
{
    if (payload == NEF_PAYLOAD_BF16) {
        for (uint32_t i = 0; i < NEF_BLOCK_COLS / 2; i++)
            memcpy(block + (i * 16 + lane) * 4, row + 2 * ((size_t)k + 2 * i), 4);
        return;
    }
    for (uint32_t i = 0; i < NEF_BLOCK_COLS; i++, k++) {
        if (payload == NEF_PAYLOAD_F16)
            memcpy(block + (i * 16 + lane) * 2, row + 2 * (size_t)k, 2);
        else
            memcpy(block + (i * 16 + lane) * 4, row + 4 * (size_t)k, 4);
    }
}

/* Lane `lane` of a tile, from one row of the file. Every byte of the lane is written. */
static void pack_row(const struct kind *kind, const struct nef_matrix *m, const uint8_t *row, uint32_t lane,
                     uint8_t *payload, uint8_t *scales)
{
    struct taken taken;

    if (kind->scales == NEF_SCALES_NONE) {
        for (uint32_t b = 0; b < m->blocks; b++)
            put_float(kind->payload, row, b * NEF_BLOCK_COLS, lane, payload + b * m->block_bytes);
        return;
    }
    for (uint32_t g = 0; g < m->blocks / m->group_blocks; g++) {
        take(kind->type, row + (size_t)g * kind->bytes, &taken);
        put_scales(kind->scales, &taken, lane, scales + g * m->group_bytes);
        for (uint32_t b = 0; b < m->group_blocks; b++)
            put_block(kind->payload, taken.q + b * NEF_BLOCK_COLS, lane,
                      payload + ((size_t)g * m->group_blocks + b) * m->block_bytes);
    }
}

/* Q8_0, of which there is most to read at a start: LANES rows at once, their bytes made unsigned on the way. */
static void pack_bytes(const struct nef_matrix *m, const uint8_t *rows, size_t row_bytes, uint32_t lanes,
                       uint8_t *payload, uint8_t *scales)
{
    for (uint32_t b = 0; b < m->blocks; b++, rows += 34, payload += 512, scales += 32)
        for (uint32_t lane = 0; lane < lanes; lane++) {
            const uint8_t *from = rows + lane * row_bytes;

            memcpy(scales + 2 * lane, from, 2);
            for (uint32_t j = 0; j < 8; j++) {
                uint32_t quad;

                memcpy(&quad, from + 2 + 4 * j, 4);
                quad ^= 0x80808080u; /* + 128 */
                memcpy(payload + j * 64 + lane * 4, &quad, 4);
            }
        }
}

void nef_pack(uint32_t ggml_type, const struct nef_matrix *m, const uint8_t *rows, uint32_t tile0, uint32_t tiles,
              uint8_t *payload, uint8_t *scales)
{
    const struct kind *kind = kind_of(ggml_type);
    size_t payload_tile = m->blocks * m->block_bytes, scale_tile = m->blocks / m->group_blocks * m->group_bytes;
    size_t row_bytes;

    NEF_ASSERT(kind != NULL && kind->payload == m->payload_kind && kind->scales == m->scales_kind);
    NEF_ASSERT(tile0 <= m->tiles && tiles <= m->tiles - tile0);
    row_bytes = (size_t)m->k / kind->columns * kind->bytes;
    for (uint32_t t = tile0; t < tile0 + tiles; t++) {
        uint8_t *p = payload + t * payload_tile, *s = scale_tile == 0 ? NULL : scales + t * scale_tile;
        const uint8_t *from = rows + (size_t)t * NEF_TILE_ROWS * row_bytes;
        uint32_t lanes = NEF_MIN(m->n - t * NEF_TILE_ROWS, NEF_TILE_ROWS);

        if (lanes < NEF_TILE_ROWS) { /* the others are zero */
            memset(p, 0, payload_tile);
            if (s != NULL)
                memset(s, 0, scale_tile);
        }
        if (m->payload_kind == NEF_PAYLOAD_U8) {
            pack_bytes(m, from, row_bytes, lanes, p, s);
            continue;
        }
        for (uint32_t lane = 0; lane < lanes; lane++)
            pack_row(kind, m, from + lane * row_bytes, lane, p, s);
    }
}
