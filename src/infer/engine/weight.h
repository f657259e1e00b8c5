/* exp for sampling and log probabilities: one definition, so that both see the same bits. Files that include it are
 * compiled without contraction to fma. */
#ifndef NEF_INFER_WEIGHT_H
#define NEF_INFER_WEIGHT_H

#include <stdint.h>
#include <string.h>

/* exp(x) for -81 <= x <= 0, 0 below -80; relative error < 3e-7. Range reduction with ln 2 in two parts, polynomial of
 * Cephes' expf. */
static inline float nef_weight(float x)
{
    float shifted = x * 1.44269504f + 12582912.0f; /* rounds to an integer in the low bits of the mantissa */
    float n = shifted - 12582912.0f, r = x - n * 0.693359375f - n * -2.12194440e-4f, p;
    uint32_t bits;

    p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &p, sizeof(bits));
    bits += (uint32_t)(int32_t)n << 23;
    memcpy(&p, &bits, sizeof(p));
    return x < -80.0f ? 0.0f : p;
}

#endif
