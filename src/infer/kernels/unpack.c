/* Packed weights read one value at a time (kernels.h has the layouts): for the scalar set, for rows of a tied
 * embedding, and as the other half of pack.c in the tests. The fast sets read the same bytes as vectors. */
#include "base/assert.h"
#include "infer/kernels/kernels_internal.h"
#include "infer/kernels/math.h"

static const uint8_t *block_at(const struct nef_matrix *m, uint32_t tile, uint32_t block)
{
    return m->payload + ((size_t)tile * m->blocks + block) * m->block_bytes;
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

void nef_unpack_block(const struct nef_matrix *m, uint32_t tile, uint32_t block,
                      int16_t out[NEF_TILE_ROWS][NEF_BLOCK_COLS])
{
    const uint8_t *p = block_at(m, tile, block);

    for (uint32_t k = 0; k < NEF_BLOCK_COLS; k++)
        for (uint32_t n = 0; n < NEF_TILE_ROWS; n++) {
            uint32_t quad = k / 4, at = n * 4 + k % 4, q;

            if (m->payload_kind == NEF_PAYLOAD_U8) {
                q = p[quad * 64 + at];
            } else {
                q = p[quad % 4 * 64 + at] >> (quad / 4 * 4) & 15;
                if (m->payload_kind == NEF_PAYLOAD_U5)
                    q |= (p[256 + at] >> quad & 1u) << 4;
                else if (m->payload_kind == NEF_PAYLOAD_U6)
                    q |= (p[256 + quad / 4 * 64 + at] >> quad % 4 * 2 & 3u) << 4;
            }
            out[n][k] = (int16_t)((int)q - m->bias);
        }
}

void nef_unpack_scale(const struct nef_matrix *m, uint32_t tile, uint32_t block, uint32_t half, uint32_t lane,
                      float *out_s, float *out_m)
{
    uint32_t groups = (m->blocks + m->group_blocks - 1) / m->group_blocks;
    const uint8_t *p = m->scales + ((size_t)tile * groups + block / m->group_blocks) * m->group_bytes;
    uint32_t within = block % m->group_blocks;
    float d = nef_f32_of_f16(u16_at(p + 2 * lane));

    *out_m = 0;
    switch (m->scales_kind) {
    case NEF_SCALES_BLOCK:
        *out_s = d;
        break;
    case NEF_SCALES_K45:
        *out_s = d * (float)p[64 + within * 32 + lane];
        *out_m = nef_f32_of_f16(u16_at(p + 32 + 2 * lane)) * (float)p[64 + within * 32 + 16 + lane];
        break;
    case NEF_SCALES_K6:
        *out_s = d * (float)(int8_t)p[32 + (within * 2 + half) * 16 + lane];
        break;
    case NEF_SCALES_NONE:
        NEF_ASSERT(m->scales_kind != NEF_SCALES_NONE);
        break;
    }
}

float nef_unpack_float(const struct nef_matrix *m, uint32_t tile, uint32_t column, uint32_t lane)
{
    const uint8_t *p = block_at(m, tile, column / NEF_BLOCK_COLS);
    uint32_t k = column % NEF_BLOCK_COLS, bits;

    switch (m->payload_kind) {
    case NEF_PAYLOAD_BF16:
        return nef_f32_of_bf16(u16_at(p + (k / 2 * 16 + lane) * 4 + k % 2 * 2));
    case NEF_PAYLOAD_F16:
        return nef_f32_of_f16(u16_at(p + (k * 16 + lane) * 2));
    case NEF_PAYLOAD_F32:
        memcpy(&bits, p + (k * 16 + lane) * 4, 4);
        return nef_f32_of_bits(bits);
    case NEF_PAYLOAD_U8:
    case NEF_PAYLOAD_U4:
    case NEF_PAYLOAD_U5:
    case NEF_PAYLOAD_U6:
        break;
    }
    NEF_ASSERT(m->payload_kind > NEF_PAYLOAD_U6);
    return 0;
}

void nef_unpack_row(const struct nef_matrix *m, uint32_t row, float *out)
{
    uint32_t tile = row / NEF_TILE_ROWS, lane = row % NEF_TILE_ROWS;
    int16_t q[NEF_TILE_ROWS][NEF_BLOCK_COLS];

    NEF_ASSERT(row < m->n);
    if (m->scales_kind == NEF_SCALES_NONE) {
        for (uint32_t k = 0; k < m->k; k++)
            out[k] = nef_unpack_float(m, tile, k, lane);
        return;
    }
    for (uint32_t b = 0; b < m->blocks; b++) {
        nef_unpack_block(m, tile, b, q);
        for (uint32_t k = 0; k < NEF_BLOCK_COLS; k++) {
            float s, offset;

            nef_unpack_scale(m, tile, b, k / 16, lane, &s, &offset);
            out[b * NEF_BLOCK_COLS + k] = m->scales_kind == NEF_SCALES_K45 ? fmaf(s, (float)q[lane][k], -offset)
                                                                            : s * (float)q[lane][k];
        }
    }
}
