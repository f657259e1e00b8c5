/* exp and rounding to bf16 for sets of vectors, over vec_*.h: docs/numerics.md, and math.h one value at a time. */
#ifndef NEF_INFER_KERNELS_BODY_MATH_H
#define NEF_INFER_KERNELS_BODY_MATH_H

#include "infer/kernels/math.h"

NEF_VEC_INLINE vf v_exp(vf x)
{
    vf c = vf_min(vf_set1(NEF_EXP_HIGH), x), n, r, p;
    vi whole = vi_of_vf(vf_mul(c, vf_set1(NEF_EXP_LOG2E)));

    n = vf_of_vi(whole);
    r = vf_fnma(n, vf_set1(NEF_EXP_LN2_HI), c);
    r = vf_fnma(n, vf_set1(NEF_EXP_LN2_LO), r);
    p = vf_fma(vf_set1(NEF_EXP_C6), r, vf_set1(NEF_EXP_C5));
    p = vf_fma(p, r, vf_set1(NEF_EXP_C4));
    p = vf_fma(p, r, vf_set1(NEF_EXP_C3));
    p = vf_fma(p, r, vf_set1(NEF_EXP_C2));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    /* A NaN passes: its n is the integer's least value, which shifts to 0. */
    p = vf_bits(vi_add(vi_bits(p), vi_slli(whole, 23)));
    return vf_zero_below(p, x, vf_set1(NEF_EXP_LOW));
}

/* bf16(x) in the upper half of each lane, the lower half zero: a float, or after a shift the 16 bits. */
NEF_VEC_INLINE vi v_bf16(vf x)
{
    vi bits = vi_bits(x), magnitude = vi_and(bits, vi_set1(0x7fffffff)), out;

    out = vi_add(vi_add(bits, vi_set1(0x7fff)), vi_and(vi_srli(bits, 16), vi_set1(1)));
    out = vi_where_greater(magnitude, vi_set1(0x7f800000), vi_or(bits, vi_set1(0x00400000)), out);
    out = vi_where_greater(vi_set1(0x00800000), magnitude, vi_and(bits, vi_set1((int32_t)0x80000000u)), out);
    return vi_and(out, vi_set1((int32_t)0xffff0000u));
}

#endif
