/* 16 lanes as two ymm registers; see vec_avx512.h for what the names mean. Lanes 0 .. 7 are in a. */
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

/* 16 registers, two for each value. */
#define NEF_VEC_ROWS_I16  4
#define NEF_VEC_ROWS_PAIR 2
#define NEF_VEC_ROWS_F32  4

typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi;

typedef struct {
    __m256d a, b, c, d; /* four lanes each */
} vd;

#define VF(x, y) ((vf){x, y})
#define VI(x, y) ((vi){x, y})

NEF_VEC_INLINE vf vf_load(const float *p) { return VF(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
NEF_VEC_INLINE void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
NEF_VEC_INLINE vf vf_set1(float f)
{
    __m256 v = _mm256_set1_ps(f);

    return VF(v, v);
}
NEF_VEC_INLINE vf vf_zero(void) { return VF(_mm256_setzero_ps(), _mm256_setzero_ps()); }
NEF_VEC_INLINE vf vf_add(vf x, vf y) { return VF(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
NEF_VEC_INLINE vf vf_sub(vf x, vf y) { return VF(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
NEF_VEC_INLINE vf vf_mul(vf x, vf y) { return VF(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
NEF_VEC_INLINE vf vf_div(vf x, vf y) { return VF(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
NEF_VEC_INLINE vf vf_fma(vf x, vf y, vf z)
{
    return VF(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
NEF_VEC_INLINE vf vf_fnma(vf x, vf y, vf z)
{
    return VF(_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b));
}
NEF_VEC_INLINE vf vf_max(vf x, vf y) { return VF(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
NEF_VEC_INLINE vf vf_min(vf x, vf y) { return VF(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
NEF_VEC_INLINE vf vf_neg(vf x)
{
    __m256 sign = _mm256_set1_ps(-0.0f);

    return VF(_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign));
}
NEF_VEC_INLINE vf vf_zero_below(vf v, vf x, vf limit)
{
    return VF(_mm256_and_ps(v.a, _mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ)),
              _mm256_and_ps(v.b, _mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ)));
}
NEF_VEC_INLINE vi vi_first(unsigned count) /* all ones in the first COUNT lanes */
{
    __m256i n = _mm256_set1_epi32((int)count), lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return VI(_mm256_cmpgt_epi32(n, lane), _mm256_cmpgt_epi32(n, _mm256_add_epi32(lane, _mm256_set1_epi32(8))));
}
NEF_VEC_INLINE vf vf_first(vf v, unsigned count, vf other)
{
    vi mask = vi_first(count);

    return VF(_mm256_blendv_ps(other.a, v.a, _mm256_castsi256_ps(mask.a)),
              _mm256_blendv_ps(other.b, v.b, _mm256_castsi256_ps(mask.b)));
}
NEF_VEC_INLINE void vf_store_first(float *p, vf v, unsigned count)
{
    vi mask = vi_first(count);

    _mm256_maskstore_ps(p, mask.a, v.a);
    if (count > 8)
        _mm256_maskstore_ps(p + 8, mask.b, v.b);
}
NEF_VEC_INLINE vf vf_load_first(const float *p, unsigned count)
{
    vi mask = vi_first(count);

    return VF(_mm256_maskload_ps(p, mask.a), count > 8 ? _mm256_maskload_ps(p + 8, mask.b) : _mm256_setzero_ps());
}

NEF_VEC_INLINE vi vi_load(const void *p)
{
    return VI(_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1));
}
NEF_VEC_INLINE void vi_store(void *p, vi v)
{
    _mm256_storeu_si256(p, v.a);
    _mm256_storeu_si256((__m256i *)p + 1, v.b);
}
NEF_VEC_INLINE vi vi_set1(int32_t i)
{
    __m256i v = _mm256_set1_epi32(i);

    return VI(v, v);
}
NEF_VEC_INLINE vi vi_set1_16(int16_t i)
{
    __m256i v = _mm256_set1_epi16(i);

    return VI(v, v);
}
NEF_VEC_INLINE vi vi_zero(void) { return VI(_mm256_setzero_si256(), _mm256_setzero_si256()); }
NEF_VEC_INLINE vi vi_add(vi x, vi y) { return VI(_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)); }
NEF_VEC_INLINE vi vi_sub(vi x, vi y) { return VI(_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)); }
NEF_VEC_INLINE vi vi_sub16(vi x, vi y) { return VI(_mm256_sub_epi16(x.a, y.a), _mm256_sub_epi16(x.b, y.b)); }
NEF_VEC_INLINE vi vi_and(vi x, vi y) { return VI(_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)); }
NEF_VEC_INLINE vi vi_or(vi x, vi y) { return VI(_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)); }
NEF_VEC_INLINE vi vi_max(vi x, vi y) { return VI(_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)); }
NEF_VEC_INLINE vi vi_min(vi x, vi y) { return VI(_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)); }
#define vi_slli(v, n) VI(_mm256_slli_epi32((v).a, n), _mm256_slli_epi32((v).b, n))
#define vi_srai(v, n) VI(_mm256_srai_epi32((v).a, n), _mm256_srai_epi32((v).b, n))
#define vi_srli(v, n) VI(_mm256_srli_epi32((v).a, n), _mm256_srli_epi32((v).b, n))
NEF_VEC_INLINE vi vi_where_greater(vi x, vi y, vi other, vi v)
{
    return VI(_mm256_blendv_epi8(v.a, other.a, _mm256_cmpgt_epi32(x.a, y.a)),
              _mm256_blendv_epi8(v.b, other.b, _mm256_cmpgt_epi32(x.b, y.b)));
}
NEF_VEC_INLINE vi vi_bytes01(vi v)
{
    __m256i at = _mm256_setr_epi32((int)0x80018000u, (int)0x80058004u, (int)0x80098008u, (int)0x800d800cu,
                                   (int)0x80018000u, (int)0x80058004u, (int)0x80098008u, (int)0x800d800cu);

    return VI(_mm256_shuffle_epi8(v.a, at), _mm256_shuffle_epi8(v.b, at));
}
NEF_VEC_INLINE vi vi_bytes23(vi v)
{
    __m256i at = _mm256_setr_epi32((int)0x80038002u, (int)0x80078006u, (int)0x800b800au, (int)0x800f800eu,
                                   (int)0x80038002u, (int)0x80078006u, (int)0x800b800au, (int)0x800f800eu);

    return VI(_mm256_shuffle_epi8(v.a, at), _mm256_shuffle_epi8(v.b, at));
}
/* vpmaddwd: vpmaddubsw on bytes would saturate at 16 bits. */
NEF_VEC_INLINE vi vi_dot16(vi acc, vi x, vi y)
{
    return VI(_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, y.a)),
              _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, y.b)));
}
/* The same with one pair X for all lanes. */
NEF_VEC_INLINE vi vi_dot16_pair(vi acc, vi a, const int16_t *x)
{
    int32_t pair;

    memcpy(&pair, x, 4);
    return vi_dot16(acc, a, vi_set1(pair));
}

NEF_VEC_INLINE vf vf_of_vi(vi v) { return VF(_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)); }
NEF_VEC_INLINE vi vi_of_vf(vf v) { return VI(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)); }
NEF_VEC_INLINE vf vf_bits(vi v) { return VF(_mm256_castsi256_ps(v.a), _mm256_castsi256_ps(v.b)); }
NEF_VEC_INLINE vi vi_bits(vf v) { return VI(_mm256_castps_si256(v.a), _mm256_castps_si256(v.b)); }
NEF_VEC_INLINE __m128i xmm_load(const void *p) { return _mm_loadu_si128(p); }
NEF_VEC_INLINE __m128i xmm_load8(const void *p) { return _mm_loadl_epi64(p); }
NEF_VEC_INLINE vf vf_load_f16(const void *p)
{
    return VF(_mm256_cvtph_ps(xmm_load(p)), _mm256_cvtph_ps(xmm_load((const __m128i *)p + 1)));
}
NEF_VEC_INLINE vi vi_load_u16(const void *p)
{
    return VI(_mm256_cvtepu16_epi32(xmm_load(p)), _mm256_cvtepu16_epi32(xmm_load((const __m128i *)p + 1)));
}
NEF_VEC_INLINE vi vi_load_i16(const void *p)
{
    return VI(_mm256_cvtepi16_epi32(xmm_load(p)), _mm256_cvtepi16_epi32(xmm_load((const __m128i *)p + 1)));
}
NEF_VEC_INLINE vi vi_load_u8(const void *p)
{
    return VI(_mm256_cvtepu8_epi32(xmm_load8(p)), _mm256_cvtepu8_epi32(xmm_load8((const uint8_t *)p + 8)));
}
NEF_VEC_INLINE vi vi_load_i8(const void *p)
{
    return VI(_mm256_cvtepi8_epi32(xmm_load8(p)), _mm256_cvtepi8_epi32(xmm_load8((const uint8_t *)p + 8)));
}
NEF_VEC_INLINE __m256i ymm_low16(vi v) /* the low halves of 16 lanes, in order */
{
    __m256i mask = _mm256_set1_epi32(0xffff);
    __m256i packed = _mm256_packus_epi32(_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask));

    return _mm256_permute4x64_epi64(packed, 0xd8);
}
NEF_VEC_INLINE void vi_store_16(void *p, vi v) { _mm256_storeu_si256(p, ymm_low16(v)); }
NEF_VEC_INLINE void vi_store_8(void *p, vi v)
{
    __m256i half = _mm256_and_si256(ymm_low16(v), _mm256_set1_epi16(0xff));

    _mm_storeu_si128(p, _mm_packus_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}

NEF_VEC_INLINE vd vd_zero(void)
{
    __m256d v = _mm256_setzero_pd();

    return (vd){v, v, v, v};
}
NEF_VEC_INLINE vd vd_load(const double *p)
{
    return (vd){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4), _mm256_loadu_pd(p + 8), _mm256_loadu_pd(p + 12)};
}
NEF_VEC_INLINE void vd_store(double *p, vd v)
{
    _mm256_storeu_pd(p, v.a);
    _mm256_storeu_pd(p + 4, v.b);
    _mm256_storeu_pd(p + 8, v.c);
    _mm256_storeu_pd(p + 12, v.d);
}
NEF_VEC_INLINE vd vd_of_vf(vf v)
{
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(v.a)), _mm256_cvtps_pd(_mm256_extractf128_ps(v.a, 1)),
                _mm256_cvtps_pd(_mm256_castps256_ps128(v.b)), _mm256_cvtps_pd(_mm256_extractf128_ps(v.b, 1))};
}
NEF_VEC_INLINE vf vf_of_vd(vd v)
{
    return VF(_mm256_set_m128(_mm256_cvtpd_ps(v.b), _mm256_cvtpd_ps(v.a)),
              _mm256_set_m128(_mm256_cvtpd_ps(v.d), _mm256_cvtpd_ps(v.c)));
}
NEF_VEC_INLINE vd vd_add(vd x, vd y)
{
    return (vd){_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b), _mm256_add_pd(x.c, y.c), _mm256_add_pd(x.d, y.d)};
}
NEF_VEC_INLINE vd vd_fma(vd x, vd y, vd z)
{
    return (vd){_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b), _mm256_fmadd_pd(x.c, y.c, z.c),
                _mm256_fmadd_pd(x.d, y.d, z.d)};
}
NEF_VEC_INLINE double vd_fold(vd v)
{
    __m256d y = _mm256_add_pd(_mm256_add_pd(v.a, v.c), _mm256_add_pd(v.b, v.d));
    __m128d z = _mm_add_pd(_mm256_castpd256_pd128(y), _mm256_extractf128_pd(y, 1));

    return _mm_cvtsd_f64(_mm_add_sd(z, _mm_unpackhi_pd(z, z)));
}

NEF_VEC_INLINE float vf_fold(vf v)
{
    __m256 x = _mm256_add_ps(v.a, v.b);
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
NEF_VEC_INLINE float vf_hmax(vf v)
{
    __m256 x = _mm256_max_ps(v.a, v.b);
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
NEF_VEC_INLINE int32_t vi_hmax(vi v)
{
    __m256i x = _mm256_max_epi32(v.a, v.b);
    __m128i y = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}
NEF_VEC_INLINE int32_t vi_hsum(vi v)
{
    __m256i x = _mm256_add_epi32(v.a, v.b);
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}

#endif
