/* sin, cos and pow in double, for the tables of the rotary embedding: made of + - * / and fma alone, so that the tables
 * are the same bits with any libm. Not for the path of a token (tables are made at load), and not general: ranges as in
 * kernels.h.
 *
 * Sources: W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980 (reduction); the polynomials of sin
 * and cos on [-pi/4, pi/4] are fdlibm's (k_sin.c, k_cos.c, error below 2^-57). */
#include "base/assert.h"
#include "infer/kernels/kernels.h"
#include "infer/kernels/math.h"

#define TWO_OVER_PI 0x1.45f306dc9c883p-1
#define PIO2_HI     0x1.921fb54442d18p+0
#define PIO2_LO     0x1.1a62633145c07p-54
#define LN2_HI      0x1.62e42fee00000p-1 /* 33 bits: times any exponent it is exact */
#define LN2_LO      0x1.a39ef35793c76p-33
#define LOG2E       0x1.71547652b82fep+0
#define SQRT2       0x1.6a09e667f3bcdp+0

static uint64_t bits_of(double d)
{
    uint64_t bits;

    memcpy(&bits, &d, sizeof bits);
    return bits;
}

static double of_bits(uint64_t bits)
{
    double d;

    memcpy(&d, &bits, sizeof d);
    return d;
}

/* Round to nearest even, for |x| < 2^51. */
static double nearest(double x)
{
    return (x + 0x1.8p52) - 0x1.8p52;
}

static double sin_polynomial(double r)
{
    double z = r * r, p = 0x1.5d93a5acfd57cp-33;

    p = fma(p, z, -0x1.ae5e68a2b9cebp-26);
    p = fma(p, z, 0x1.71de357b1fe7dp-19);
    p = fma(p, z, -0x1.a01a019c161d5p-13);
    p = fma(p, z, 0x1.111111110f8a6p-7);
    p = fma(p, z, -0x1.5555555555549p-3);
    return fma(r * z, p, r);
}

static double cos_polynomial(double r)
{
    double z = r * r, p = -0x1.8fae9be8838d4p-37;

    p = fma(p, z, 0x1.1ee9ebdb4b1c4p-29);
    p = fma(p, z, -0x1.27e4f809c52adp-22);
    p = fma(p, z, 0x1.a01a019cb159p-16);
    p = fma(p, z, -0x1.6c16c16c15177p-10);
    p = fma(p, z, 0x1.555555555554cp-5);
    p = fma(p, z, -0.5);
    return fma(z, p, 1.0);
}

/* x = q pi/2 + r. For |x| < 2^30 the first fma is exact: q PIO2_HI is a multiple of 2^-52, and r lies below 1. */
static double quarter(double x, uint32_t turn)
{
    double n = nearest(x * TWO_OVER_PI), r;
    uint32_t q;

    NEF_ASSERT(x > -0x1p30 && x < 0x1p30);
    r = fma(-n, PIO2_HI, x);
    r = fma(-n, PIO2_LO, r);
    q = (uint32_t)(int64_t)n + turn;
    switch (q & 3) {
    case 0:
        return sin_polynomial(r);
    case 1:
        return cos_polynomial(r);
    case 2:
        return -sin_polynomial(r);
    default:
        return -cos_polynomial(r);
    }
}

double nef_math_sin(double x)
{
    return quarter(x, 0);
}

double nef_math_cos(double x)
{
    return quarter(x, 1);
}

/* ln(x) = *out_high + *out_low, error 1e-16: x = 2^e m, m in [sqrt(1/2), sqrt(2)], ln m = 2 atanh((m-1)/(m+1)). */
static void ln(double x, double *out_high, double *out_low)
{
    int64_t e = (int64_t)(bits_of(x) >> 52) - 1023;
    double m = of_bits((bits_of(x) & 0xfffffffffffffull) | 1023ull << 52), s, z, p = 0, log_m, high;

    if (m > SQRT2) {
        m *= 0.5;
        e++;
    }
    s = (m - 1) / (m + 1);
    z = s * s; /* at most 0.0295: the term of s^23 is below 1e-18 of the first */
    for (int i = 21; i >= 3; i -= 2)
        p = fma(p, z, 1.0 / i);
    log_m = 2 * fma(s * z, p, s);
    high = fma((double)e, LN2_HI, log_m);
    *out_low = fma((double)e, LN2_LO, log_m - (high - (double)e * LN2_HI));
    *out_high = high;
}

double nef_math_pow(double base, double exponent)
{
    double high, low, y, rest, n, r, p = 1;

    NEF_ASSERT(base >= 0x1p-1022 && base <= 0x1.fffffffffffffp1023);
    ln(base, &high, &low);
    y = exponent * high;
    if (!(y < 709))
        return y >= 709 ? HUGE_VAL : y;
    if (y < -708)
        return 0;
    rest = fma(exponent, high, -y) + exponent * low;
    n = nearest(y * LOG2E);
    r = fma(-n, LN2_HI, y);
    r = fma(-n, LN2_LO, r) + rest;
    for (int i = 15; i >= 1; i--) /* Taylor: |r| < 0.35, the first term left out is below 1e-20 */
        p = fma(p * r, 1.0 / i, 1.0);
    return p * of_bits((uint64_t)(1023 + (int64_t)n) << 52);
}
