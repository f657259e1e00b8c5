/* Log probabilities; see logprob.h. No function of libm, as in the rest of the path of a token (docs/numerics.md): ln
 * is made of + - * / here, with an error below 1e-15. */
#include "infer/engine/logprob.h"
#include <stdbool.h>
#include <string.h>
#include "infer/engine/weight.h"

#define LANES 16u
#define LN2_HI 0x1.62e42fee00000p-1 /* 33 bits: times any exponent it is exact */
#define LN2_LO 0x1.a39ef35793c76p-33
#define SQRT2  0x1.6a09e667f3bcdp+0

/* x = 2^e m, m in [sqrt(1/2), sqrt(2)], ln m = 2 atanh((m - 1) / (m + 1)). For normal x > 0. */
static double ln(double x)
{
    double m, s, z, p = 0;
    uint64_t bits;
    int64_t e;

    memcpy(&bits, &x, sizeof(bits));
    e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffull) | 1023ull << 52;
    memcpy(&m, &bits, sizeof(m));
    if (m > SQRT2) {
        m *= 0.5;
        e++;
    }
    s = (m - 1) / (m + 1);
    z = s * s; /* at most 0.0295: the term of s^23 is below 1e-18 of the first */
    for (int i = 21; i >= 3; i -= 2)
        p = p * z + 1.0 / i;
    return (double)e * LN2_HI + (2 * (s * z * p + s) + (double)e * LN2_LO);
}

nef_err nef_logsum(const float *logits, uint32_t vocab, struct nef_logsum *out_sum)
{
    float largest = -__builtin_inff();
    double lanes[LANES] = {0};
    bool bad = false;
    uint32_t i = 0;

    for (uint32_t k = 0; k < vocab; k++) {
        bad |= logits[k] != logits[k];
        largest = logits[k] > largest ? logits[k] : largest;
    }
    if (bad || !(largest > -__builtin_inff()) || !(largest < __builtin_inff()))
        return NEF_E_CORRUPT;
    for (; i + LANES <= vocab; i += LANES) {
        float weights[LANES]; /* apart, so that compilers see what is the same operation on all */

        for (uint32_t l = 0; l < LANES; l++) {
            float x = logits[i + l] - largest;

            weights[l] = nef_weight(x < -81.0f ? -81.0f : x);
        }
        for (uint32_t l = 0; l < LANES; l++)
            lanes[l] += (double)weights[l];
    }
    for (uint32_t l = 0; i + l < vocab; l++) {
        float x = logits[i + l] - largest;

        lanes[l] += (double)nef_weight(x < -81.0f ? -81.0f : x);
    }
    for (uint32_t half = LANES / 2; half > 0; half /= 2)
        for (uint32_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    *out_sum = (struct nef_logsum){largest, ln(lanes[0])};
    return NEF_OK;
}

float nef_logprob_of(const struct nef_logsum *sum, float logit)
{
    return (float)(((double)logit - (double)sum->largest) - sum->log);
}

uint32_t nef_logprob_top(const struct nef_logsum *sum, const float *logits, uint32_t vocab, uint32_t count,
                         struct nef_logprob *out_top)
{
    uint32_t have = 0;

    /* `logprob` holds the logit until the end: it decides, since rounding could make two equal. */
    for (uint32_t i = 0; i < vocab && count > 0; i++) {
        uint32_t at = have < count ? have : count - 1;

        if (logits[i] == -__builtin_inff() || (have == count && !(logits[i] > out_top[count - 1].logprob)))
            continue;
        for (; at > 0 && logits[i] > out_top[at - 1].logprob; at--)
            out_top[at] = out_top[at - 1];
        out_top[at] = (struct nef_logprob){i, logits[i]};
        have += have < count;
    }
    for (uint32_t i = 0; i < have; i++)
        out_top[i].logprob = nef_logprob_of(sum, out_top[i].logprob);
    return have;
}
