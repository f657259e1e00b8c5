/* 16 lanes as one zmm register. The same names as vec_avx2.h; vec_*.h are what body_*.h are written in.
 *
 *   vf  16 floats    vi  16 int32 (or 32 int16, 64 bytes: a dword of them per lane)    vd  16 doubles
 * vf_fma(a, b, c) = a*b + c, vf_fnma(a, b, c) = c - a*b, both rounded once. vf_max(a, b) is a > b ? a : b, so a NaN in
 * a is passed over. vi_of_vf rounds to nearest even. Loads and stores need no alignment. */
#ifndef NEF_INFER_KERNELS_VEC_H
#define NEF_INFER_KERNELS_VEC_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define NEF_VEC_INLINE static inline __attribute__((always_inline))
/* For loops over rows: their values must lie in registers. */
#ifdef __clang__
#define NEF_VEC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define NEF_VEC_UNROLL _Pragma("GCC unroll 16")
#endif

/* Rows that are held in registers at once: of int16 products (one sum a row, and its scaled sum), of float products
 * with two chains, and with one. 32 registers. */
#define NEF_VEC_ROWS_I16  12
#define NEF_VEC_ROWS_PAIR 8
#define NEF_VEC_ROWS_F32  8

typedef __m512 vf;
typedef __m512i vi;
typedef struct {
    __m512d a, b; /* lanes 0 .. 7, 8 .. 15 */
} vd;

#define VD(x, y) ((vd){x, y})

NEF_VEC_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
NEF_VEC_INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
NEF_VEC_INLINE vf vf_set1(float f) { return _mm512_set1_ps(f); }
NEF_VEC_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
NEF_VEC_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
NEF_VEC_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
NEF_VEC_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
NEF_VEC_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
NEF_VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
NEF_VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
NEF_VEC_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
NEF_VEC_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
NEF_VEC_INLINE vf vf_neg(vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
/* v, but 0 where x < limit. */
NEF_VEC_INLINE vf vf_zero_below(vf v, vf x, vf limit)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
}
/* v in the first COUNT lanes (0 .. 16), other elsewhere. */
NEF_VEC_INLINE vf vf_first(vf v, unsigned count, vf other)
{
    return _mm512_mask_mov_ps(other, (__mmask16)((1u << count) - 1), v);
}
NEF_VEC_INLINE void vf_store_first(float *p, vf v, unsigned count)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), v);
}
NEF_VEC_INLINE vf vf_load_first(const float *p, unsigned count)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}

NEF_VEC_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
NEF_VEC_INLINE void vi_store(void *p, vi v) { _mm512_storeu_si512(p, v); }
NEF_VEC_INLINE vi vi_set1(int32_t i) { return _mm512_set1_epi32(i); }
NEF_VEC_INLINE vi vi_set1_16(int16_t i) { return _mm512_set1_epi16(i); }
NEF_VEC_INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
NEF_VEC_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
NEF_VEC_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
NEF_VEC_INLINE vi vi_sub16(vi a, vi b) { return _mm512_sub_epi16(a, b); }
NEF_VEC_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
NEF_VEC_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
NEF_VEC_INLINE vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
NEF_VEC_INLINE vi vi_min(vi a, vi b) { return _mm512_min_epi32(a, b); }
#define vi_slli(a, n) _mm512_slli_epi32(a, n)
#define vi_srai(a, n) _mm512_srai_epi32(a, n)
#define vi_srli(a, n) _mm512_srli_epi32(a, n)
/* v, but other where a > b. */
NEF_VEC_INLINE vi vi_where_greater(vi a, vi b, vi other, vi v)
{
    return _mm512_mask_mov_epi32(v, _mm512_cmpgt_epi32_mask(a, b), other);
}
/* Each lane's dword: bytes 0, 1 (2, 3) as two int16. */
NEF_VEC_INLINE vi vi_bytes01(vi v)
{
    return _mm512_shuffle_epi8(
        v, _mm512_set4_epi32((int)0x800d800cu, (int)0x80098008u, (int)0x80058004u, (int)0x80018000u));
}
NEF_VEC_INLINE vi vi_bytes23(vi v)
{
    return _mm512_shuffle_epi8(
        v, _mm512_set4_epi32((int)0x800f800eu, (int)0x800b800au, (int)0x80078006u, (int)0x80038002u));
}
/* acc + the product of two int16 a lane, exact. */
NEF_VEC_INLINE vi vi_dot16(vi acc, vi a, vi b) { return _mm512_dpwssd_epi32(acc, a, b); }
/* The same with one pair X for all lanes. Written out, because gcc 12 broadcasts into a register first and moves the sum
 * to and fro: three instructions for this one. */
NEF_VEC_INLINE vi vi_dot16_pair(vi acc, vi a, const int16_t *x)
{
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const int32_t *)(const void *)x));
    return acc;
}

/* acc + the products of four unsigned bytes a lane with the four signed ones at X, the same for all lanes; exact. */
NEF_VEC_INLINE vi vi_dot8_quad(vi acc, vi a, const int8_t *x)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const int32_t *)(const void *)x));
    return acc;
}

NEF_VEC_INLINE vf vf_of_vi(vi v) { return _mm512_cvtepi32_ps(v); }
NEF_VEC_INLINE vi vi_of_vf(vf v) { return _mm512_cvtps_epi32(v); }
NEF_VEC_INLINE vf vf_bits(vi v) { return _mm512_castsi512_ps(v); }
NEF_VEC_INLINE vi vi_bits(vf v) { return _mm512_castps_si512(v); }
NEF_VEC_INLINE vf vf_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
NEF_VEC_INLINE vi vi_load_u16(const void *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
NEF_VEC_INLINE vi vi_load_i16(const void *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256(p)); }
NEF_VEC_INLINE vi vi_load_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
NEF_VEC_INLINE vi vi_load_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
/* The low 16 or 8 bits of each lane. */
NEF_VEC_INLINE void vi_store_16(void *p, vi v) { _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(v)); }
NEF_VEC_INLINE void vi_store_8(void *p, vi v) { _mm_storeu_si128(p, _mm512_cvtepi32_epi8(v)); }

NEF_VEC_INLINE vd vd_zero(void) { return VD(_mm512_setzero_pd(), _mm512_setzero_pd()); }
NEF_VEC_INLINE vd vd_load(const double *p) { return VD(_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)); }
NEF_VEC_INLINE void vd_store(double *p, vd v)
{
    _mm512_storeu_pd(p, v.a);
    _mm512_storeu_pd(p + 8, v.b);
}
NEF_VEC_INLINE vd vd_of_vf(vf v)
{
    return VD(_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}
NEF_VEC_INLINE vf vf_of_vd(vd v)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(v.a)), _mm512_cvtpd_ps(v.b), 1);
}
NEF_VEC_INLINE vd vd_add(vd x, vd y) { return VD(_mm512_add_pd(x.a, y.a), _mm512_add_pd(x.b, y.b)); }
NEF_VEC_INLINE vd vd_fma(vd x, vd y, vd z)
{
    return VD(_mm512_fmadd_pd(x.a, y.a, z.a), _mm512_fmadd_pd(x.b, y.b, z.b));
}
/* As vf_fold. */
NEF_VEC_INLINE double vd_fold(vd v)
{
    __m512d x = _mm512_add_pd(v.a, v.b);
    __m256d y = _mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    __m128d z = _mm_add_pd(_mm256_castpd256_pd128(y), _mm256_extractf128_pd(y, 1));

    return _mm_cvtsd_f64(_mm_add_sd(z, _mm_unpackhi_pd(z, z)));
}

/* Lanes added as i + (i+8), i + (i+4), i + (i+2), i + (i+1): numerics.md. */
NEF_VEC_INLINE float vf_fold(vf v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
NEF_VEC_INLINE float vf_hmax(vf v) { return _mm512_reduce_max_ps(v); } /* no NaNs */
NEF_VEC_INLINE int32_t vi_hmax(vi v) { return _mm512_reduce_max_epi32(v); }
NEF_VEC_INLINE int32_t vi_hsum(vi v) { return _mm512_reduce_add_epi32(v); }

#endif
