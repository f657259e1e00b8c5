/* Numbers as docs/numerics.md defines them, one value at a time: what scalar.c, packing and the tests compute with, and
 * the constants that the vector sets share. Conversions are made of integer operations, so they hold on any processor
 * and in any flush mode. Here only + - * / sqrt, fma and bits; sin, cos and pow in double are in math.c. */
#ifndef NEF_INFER_KERNELS_MATH_H
#define NEF_INFER_KERNELS_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) = 2^n * p(r), r = x - n ln 2 in two steps, |r| < 0.3475. p: minimax for the relative error (3.1e-9, a
 * twentieth of half an ulp) with its two lowest coefficients fixed at 1, so that exp(0) is 1. In all below 1 ulp
 * (tests). */
#define NEF_EXP_LOW    (-87.0f) /* below: 0. The smallest result, 1.6e-38, is a normal number */
#define NEF_EXP_HIGH   88.0f
#define NEF_EXP_LOG2E  1.44269504f
#define NEF_EXP_LN2_HI 0.693359375f /* 9 bits: n times it is exact */
#define NEF_EXP_LN2_LO (-2.12194440e-4f)
#define NEF_EXP_C6     0x1.6a21acp-10f
#define NEF_EXP_C5     0x1.123b6ap-7f
#define NEF_EXP_C4     0x1.5558fap-5f
#define NEF_EXP_C3     0x1.555490p-3f
#define NEF_EXP_C2     0x1.fffffcp-2f

/* A group of activations or a row of the int8 cache whose largest magnitude lies below this is zero: its inverse
 * scale would overflow. */
#define NEF_AMAX_MIN 0x1p-100f

static inline uint32_t nef_bits_of_f32(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float nef_f32_of_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest even, for |x| < 2^22 (rintf is a call on the oldest x86-64). */
static inline float nef_rint(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* binary16 to binary32: exact, subnormals too. NaNs become quiet. */
static inline float nef_f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 1023u;

    if (exponent == 31)
        return nef_f32_of_bits(sign | 0x7f800000u | fraction << 13 | (fraction != 0 ? 0x400000u : 0));
    if (exponent == 0 && fraction != 0) {
        uint32_t shift = (uint32_t)__builtin_clz(fraction) - 21; /* brings the leading bit to bit 10 */

        return nef_f32_of_bits(sign | (113 - shift) << 23 | (fraction << shift & 1023u) << 13);
    }
    return nef_f32_of_bits(exponent == 0 ? sign : sign | (exponent + 112) << 23 | fraction << 13);
}

static inline float nef_f32_of_bf16(uint16_t h)
{
    return nef_f32_of_bits((uint32_t)h << 16);
}

/* Round to nearest even; a subnormal is read as zero, a NaN becomes quiet. */
static inline uint16_t nef_bf16_of_f32(float f)
{
    uint32_t bits = nef_bits_of_f32(f), magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    if (magnitude < 0x00800000u)
        return (uint16_t)(bits >> 16 & 0x8000u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* docs/numerics.md section 3. */
static inline float nef_exp(float x)
{
    float n, r, p;

    if (x != x)
        return x;
    if (x < NEF_EXP_LOW)
        return 0;
    x = x < NEF_EXP_HIGH ? x : NEF_EXP_HIGH;
    n = nef_rint(x * NEF_EXP_LOG2E);
    r = fmaf(-n, NEF_EXP_LN2_HI, x);
    r = fmaf(-n, NEF_EXP_LN2_LO, r);
    p = fmaf(NEF_EXP_C6, r, NEF_EXP_C5);
    p = fmaf(p, r, NEF_EXP_C4);
    p = fmaf(p, r, NEF_EXP_C3);
    p = fmaf(p, r, NEF_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return nef_f32_of_bits(nef_bits_of_f32(p) + ((uint32_t)(int32_t)n << 23));
}

#endif
