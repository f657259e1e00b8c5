/* Block layouts (ggml-common.h) and one row as floats.
 *
 *   Q8_0  32 weights,  34 bytes: d f16, q i8[32]                                     d*q
 *   Q4_0  32 weights,  18 bytes: d f16, 16 bytes                                     d*(nibble - 8)
 *   Q5_0  32 weights,  22 bytes: d f16, high bits u32, 16 bytes                      d*(5 bits - 16)
 *         byte j holds weight j in its low nibble and weight j + 16 in its high one
 *   Q4_K 256 weights, 144 bytes: d f16, dmin f16, 12 bytes scales, 128 bytes         d*sc*q - dmin*m
 *   Q5_K 256 weights, 176 bytes: d f16, dmin f16, 12 bytes scales, 32 bytes high bits, 128 bytes
 *         8 sub-blocks of 32; byte 32*(j/2) + l holds weight l of sub-block j, in its low nibble for an even j, in its
 *         high one for an odd j; the fifth bit of weight l of sub-block j is bit j of high byte l
 *         sc and m of sub-block j, 6 bits each: j < 4: the low 6 bits of bytes j and j + 4; else the nibbles of byte
 *         j + 4 (sc low, m high), and above them bits 6 and 7 of byte j - 4 (sc) and of byte j (m)
 *   Q6_K 256 weights, 210 bytes: ql 128 bytes, qh 64 bytes, sc i8[16], d f16         d*sc*(6 bits - 32)
 *         halves of 128 weights (64 bytes of ql, 32 of qh); weight 32*i + l of a half: its low 4 bits are in
 *         ql[32*(i%2) + l], the low nibble for i < 2; above them bits 2i and 2i + 1 of qh[l]; one sc for 16 weights
 *
 * d*q, d*sc*q and dmin*m are exact in float (11 + 6 + 5 bits at most), so d*sc*q - dmin*m is rounded once, as
 * the fma that docs/numerics.md writes, whether or not the compiler makes one of it. */
#include <string.h>

#include "base/assert.h"
#include "infer/gguf/gguf_internal.h"

bool nef_ggml_block(uint32_t type, uint32_t *out_weights, uint32_t *out_bytes)
{
    uint32_t weights, bytes;

    switch (type) {
    case NEF_GGML_F32:
        weights = 1, bytes = 4;
        break;
    case NEF_GGML_F16:
    case NEF_GGML_BF16:
        weights = 1, bytes = 2;
        break;
    case NEF_GGML_Q8_0:
        weights = 32, bytes = 34;
        break;
    case NEF_GGML_Q4_0:
        weights = 32, bytes = 18;
        break;
    case NEF_GGML_Q5_0:
        weights = 32, bytes = 22;
        break;
    case NEF_GGML_Q4_K:
        weights = 256, bytes = 144;
        break;
    case NEF_GGML_Q5_K:
        weights = 256, bytes = 176;
        break;
    case NEF_GGML_Q6_K:
        weights = 256, bytes = 210;
        break;
    default:
        return false;
    }
    *out_weights = weights;
    *out_bytes = bytes;
    return true;
}

const char *nef_ggml_type_name(uint32_t type)
{
    switch (type) {
    case NEF_GGML_F32:
        return "F32";
    case NEF_GGML_F16:
        return "F16";
    case NEF_GGML_BF16:
        return "BF16";
    case NEF_GGML_Q8_0:
        return "Q8_0";
    case NEF_GGML_Q4_0:
        return "Q4_0";
    case NEF_GGML_Q5_0:
        return "Q5_0";
    case NEF_GGML_Q4_K:
        return "Q4_K";
    case NEF_GGML_Q5_K:
        return "Q5_K";
    case NEF_GGML_Q6_K:
        return "Q6_K";
    default:
        return NULL;
    }
}

static float from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* IEEE binary16, two bytes anywhere. Exact; as the processor's own conversion, NaNs become quiet. */
static float half(const uint8_t *p)
{
    uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    uint32_t sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;

    if (exponent == 31)
        return from_bits(sign | 0x7f800000 | fraction << 13 | (fraction != 0 ? 0x400000 : 0));
    if (exponent != 0)
        return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    return from_bits(sign | 0x3f800000) * (float)fraction * 0x1p-24f; /* zero or subnormal in half, normal here */
}

static void row_q8_0(const uint8_t *p, float *out)
{
    float d = half(p);

    for (uint32_t i = 0; i < 32; i++)
        out[i] = d * (float)(int8_t)p[2 + i];
}

static void row_q4_0(const uint8_t *p, float *out)
{
    float d = half(p);

    for (uint32_t i = 0; i < 16; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

static void row_q5_0(const uint8_t *p, float *out)
{
    float d = half(p);
    uint32_t high;

    memcpy(&high, p + 2, sizeof(high));
    for (uint32_t i = 0; i < 16; i++) {
        out[i] = d * (float)((int)((p[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        out[i + 16] = d * (float)((int)((p[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
    }
}

/* Q4_K, and Q5_K with HIGH bits (NULL: none). */
static void row_k45(const uint8_t *p, const uint8_t *high, const uint8_t *low, float *out)
{
    float d = half(p), dmin = half(p + 2);
    const uint8_t *packed = p + 4;

    for (uint32_t j = 0; j < 8; j++) {
        uint32_t sc, m;
        float s, offset;

        if (j < 4) {
            sc = packed[j] & 63;
            m = packed[j + 4] & 63;
        } else {
            sc = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
            m = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
        }
        s = d * (float)sc;
        offset = dmin * (float)m;
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t q = low[j / 2 * 32 + i] >> (j % 2 * 4) & 15;

            if (high != NULL)
                q |= (high[i] >> j & 1u) << 4;
            out[j * 32 + i] = s * (float)q - offset;
        }
    }
}

static void row_q6_k(const uint8_t *p, float *out)
{
    float d = half(p + 208);

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t part = i / 128, quarter = i % 128 / 32, l = i % 32;
        const uint8_t *ql = p + part * 64, *qh = p + 128 + part * 32;
        int q = (int)((ql[quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15) | (qh[l] >> (quarter * 2) & 3) << 4) - 32;

        out[i] = d * (float)(int8_t)p[192 + i / 16] * (float)q;
    }
}

void nef_gguf_row(const struct nef_gguf_tensor *tensor, uint64_t row, float *out)
{
    uint32_t weights, bytes;
    uint64_t blocks;
    const uint8_t *p;

    NEF_ASSERT(nef_ggml_block(tensor->type, &weights, &bytes));
    NEF_ASSERT(row < tensor->dims[1] * tensor->dims[2] * tensor->dims[3]);
    blocks = tensor->dims[0] / weights;
    p = tensor->data + row * blocks * bytes;
    for (uint64_t b = 0; b < blocks; b++, p += bytes, out += weights) {
        switch ((enum nef_ggml_type)tensor->type) {
        case NEF_GGML_F32:
            memcpy(out, p, sizeof(*out));
            break;
        case NEF_GGML_F16:
            *out = half(p);
            break;
        case NEF_GGML_BF16:
            *out = from_bits((uint32_t)p[0] << 16 | (uint32_t)p[1] << 24);
            break;
        case NEF_GGML_Q8_0:
            row_q8_0(p, out);
            break;
        case NEF_GGML_Q4_0:
            row_q4_0(p, out);
            break;
        case NEF_GGML_Q5_0:
            row_q5_0(p, out);
            break;
        case NEF_GGML_Q4_K:
            row_k45(p, NULL, p + 16, out);
            break;
        case NEF_GGML_Q5_K:
            row_k45(p, p + 16, p + 48, out);
            break;
        case NEF_GGML_Q6_K:
            row_q6_k(p, out);
            break;
        }
    }
}
