/* Folding of reflected CRCs with PCLMULQDQ (Gopal et al., "Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ Instruction", Intel 2009): four 16-byte lanes, each folded forward by
 * 512 bits a round, then into one of 16 bytes, which crc.c finishes with its tables, so that no
 * Barrett constants are needed.
 *
 * A lane L of low half l and high half h stands before D more bits. In the reflected order the low
 * half is the earlier 64 bits, of the higher powers: L * x^D = l * x^(D+64) ^ h * x^D modulo P. The
 * product of two reflected values of 64 bits has 127 bits and comes out one place low, so the
 * constants are for an exponent less by one. A CRC-32 constant stands in the upper half of its 64
 * bits. */
#include <string.h>
#include "base/assert.h"
#include "s3/crc_internal.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#include <pthread.h>
#include <wmmintrin.h>

struct constants {
    uint64_t by_512[2]; /* for the low and the high half of a lane */
    uint64_t by_128[2];
};

static struct constants constants32, constants64;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t power(unsigned width, uint64_t exponent)
{
    if (width == 32)
        return nef_crc_power(0xEDB88320u, 32, exponent) << 32;
    return nef_crc_power(0x9A6C9329AC4BC9B5ull, 64, exponent);
}

static void fill(struct constants *c, unsigned width)
{
    c->by_512[0] = power(width, 512 + 64 - 1);
    c->by_512[1] = power(width, 512 - 1);
    c->by_128[0] = power(width, 128 + 64 - 1);
    c->by_128[1] = power(width, 128 - 1);
}

static void init(void)
{
    fill(&constants32, 32);
    fill(&constants64, 64);
}

__attribute__((target("pclmul,sse2"))) static inline __m128i fold(__m128i lane, __m128i k,
                                                                  __m128i next)
{
    return _mm_xor_si128(next, _mm_xor_si128(_mm_clmulepi64_si128(lane, k, 0x00),
                                             _mm_clmulepi64_si128(lane, k, 0x11)));
}

static inline __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

__attribute__((target("pclmul,sse2"))) static struct nef_crc_block
run(const struct constants *c, uint64_t crc, const uint8_t *p, size_t bytes)
{
    __m128i k = load((const uint8_t *)c->by_512);
    __m128i a = _mm_xor_si128(load(p), _mm_set_epi64x(0, (long long)crc));
    __m128i b = load(p + 16), d = load(p + 32), e = load(p + 48);
    struct nef_crc_block out;

    NEF_ASSERT(bytes >= 64 && bytes % 16 == 0);
    for (p += 64, bytes -= 64; bytes >= 64; p += 64, bytes -= 64) {
        a = fold(a, k, load(p));
        b = fold(b, k, load(p + 16));
        d = fold(d, k, load(p + 32));
        e = fold(e, k, load(p + 48));
    }
    k = load((const uint8_t *)c->by_128);
    a = fold(fold(fold(a, k, b), k, d), k, e);
    for (; bytes > 0; p += 16, bytes -= 16)
        a = fold(a, k, load(p));
    _mm_storeu_si128((__m128i *)(void *)out.bytes, a);
    return out;
}

bool nef_crc_clmul_usable(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("pclmul") != 0;
}

struct nef_crc_block nef_crc_clmul_fold32(uint32_t crc, const uint8_t *data, size_t bytes)
{
    (void)pthread_once(&once, init);
    return run(&constants32, crc, data, bytes);
}

struct nef_crc_block nef_crc_clmul_fold64(uint64_t crc, const uint8_t *data, size_t bytes)
{
    (void)pthread_once(&once, init);
    return run(&constants64, crc, data, bytes);
}
#else
bool nef_crc_clmul_usable(void)
{
    return false;
}

struct nef_crc_block nef_crc_clmul_fold32(uint32_t crc, const uint8_t *data, size_t bytes)
{
    (void)crc, (void)data, (void)bytes;
    nef_assert_fail(__FILE__, __LINE__, "no carry-less multiplication here");
}

struct nef_crc_block nef_crc_clmul_fold64(uint64_t crc, const uint8_t *data, size_t bytes)
{
    (void)crc, (void)data, (void)bytes;
    nef_assert_fail(__FILE__, __LINE__, "no carry-less multiplication here");
}
#endif
