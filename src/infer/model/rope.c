/* Tables of cos and sin; see rope.h.
 *
 * The angle of pair i at position p is p * f[i], f[i] = base^(-2i/d). Linear scaling divides f by the factor. YaRN
 * leaves frequencies that turn often within the original context as they are, divides slow ones, and blends those
 * between: */
#include "infer/model/rope.h"
#include <math.h>
#include "base/assert.h"

#define PI 3.14159265358979323846

/* Natural logarithm of a positive, finite x, error < 1e-15 relative to 1: x = m * 2^e with m in [sqrt(1/2), sqrt(2)),
 * and ln m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.172, by its series. (libm's may differ between systems.) */
static double natural_log(double x)
{
    const double ln2 = 0.69314718055994530942;
    double m, s, s2, sum = 0.0;
    int exponent;

    NEF_ASSERT(x > 0.0 && x < 1e300);
    m = frexp(x, &exponent); /* exact */
    if (m < 0.70710678118654752440) {
        m *= 2.0;
        exponent--;
    }
    s = (m - 1.0) / (m + 1.0);
    s2 = s * s;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * s2 + 1.0 / k;
    return exponent * ln2 + 2.0 * s * sum;
}

/* The pair that turns BETA times within the original context. */
static double yarn_pair(const struct nef_model_config *c, double beta)
{
    return c->head_dim * natural_log(c->rope_original_context / (beta * 2.0 * PI)) / (2.0 * natural_log(c->rope_base));
}

void nef_rope_init(const struct nef_model_config *c, struct nef_rope *out_rope)
{
    double low = 0.0, high = 0.0;
    bool yarn = c->rope_scaling == NEF_ROPE_YARN && c->yarn_ext_factor != 0.0;

    NEF_ASSERT(c->head_dim <= NEF_HEAD_DIM_MAX && c->head_dim % 2 == 0);
    out_rope->half = c->head_dim / 2;
    out_rope->scale = c->rope_attn_factor;
    if (yarn) {
        low = NEF_MAX(0.0, floor(yarn_pair(c, c->yarn_beta_fast)));
        high = NEF_MIN((double)(c->head_dim - 1), ceil(yarn_pair(c, c->yarn_beta_slow)));
        out_rope->scale *= 1.0 + 0.1 * natural_log(c->rope_factor);
    }
    for (uint32_t i = 0; i < out_rope->half; i++) {
        double plain = nef_math_pow(c->rope_base, -2.0 * i / c->head_dim);
        double scaled = plain / c->rope_factor;

        if (yarn) {
            double ramp = (i - low) / NEF_MAX(0.001, high - low);
            double mix = (1.0 - NEF_MIN(1.0, NEF_MAX(0.0, ramp))) * c->yarn_ext_factor;

            scaled = scaled * (1.0 - mix) + plain * mix;
        }
        out_rope->frequency[i] = scaled;
    }
}

void nef_rope_fill(const struct nef_rope *rope, uint32_t position, float *out_cos, float *out_sin)
{
    for (uint32_t i = 0; i < rope->half; i++) {
        double angle = position * rope->frequency[i];

        out_cos[i] = (float)(nef_math_cos(angle) * rope->scale);
        out_sin[i] = (float)(nef_math_sin(angle) * rope->scale);
    }
}
