/* CRC-32 (reflected 0xEDB88320) and CRC-64/NVME (reflected 0x9A6C9329AC4BC9B5), and combining CRCs.
 *
 * Both are slicing-by-8 over tables made once, which is also the reference; where the processor has
 * carry-less multiplication, long runs are folded by it (crc_clmul.c). nef_crc_combine multiplies
 * by x^(8n) modulo the polynomial, as zlib's crc32_combine does, so that a multipart object's CRC
 * comes from its parts without reading them. */
#include <pthread.h>
#include <string.h>
#include "base/assert.h"
#include "s3/checksum.h"
#include "s3/crc_internal.h"

#define POLY32  0xEDB88320u
#define POLY32C 0x82F63B78u
#define POLY64  0x9A6C9329AC4BC9B5ull

static uint32_t table32[8][256];
static uint64_t table64[8][256];
static bool have_clmul;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        uint64_t d = i;

        for (int k = 0; k < 8; k++) {
            c = c >> 1 ^ (c & 1 ? POLY32 : 0);
            d = d >> 1 ^ (d & 1 ? POLY64 : 0);
        }
        table32[0][i] = c;
        table64[0][i] = d;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++) {
            uint32_t c = table32[t - 1][i];
            uint64_t d = table64[t - 1][i];

            table32[t][i] = c >> 8 ^ table32[0][c & 255];
            table64[t][i] = d >> 8 ^ table64[0][d & 255];
        }
}

static uint32_t run32(uint32_t c, const uint8_t *p, size_t bytes)
{
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint32_t a, b;

        memcpy(&a, p, 4);
        memcpy(&b, p + 4, 4);
        a ^= c;
        c = table32[7][a & 255] ^ table32[6][a >> 8 & 255] ^ table32[5][a >> 16 & 255] ^
            table32[4][a >> 24] ^ table32[3][b & 255] ^ table32[2][b >> 8 & 255] ^
            table32[1][b >> 16 & 255] ^ table32[0][b >> 24];
    }
    while (bytes-- > 0)
        c = c >> 8 ^ table32[0][(c ^ *p++) & 255];
    return c;
}

static uint64_t run64(uint64_t c, const uint8_t *p, size_t bytes)
{
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t a;

        memcpy(&a, p, 8);
        a ^= c;
        c = table64[7][a & 255] ^ table64[6][a >> 8 & 255] ^ table64[5][a >> 16 & 255] ^
            table64[4][a >> 24 & 255] ^ table64[3][a >> 32 & 255] ^ table64[2][a >> 40 & 255] ^
            table64[1][a >> 48 & 255] ^ table64[0][a >> 56];
    }
    while (bytes-- > 0)
        c = c >> 8 ^ table64[0][(c ^ *p++) & 255];
    return c;
}

static uint32_t folded32(uint32_t c, const uint8_t *p, size_t bytes)
{
    return run32(0, nef_crc_clmul_fold32(c, p, bytes).bytes, 16);
}

static uint64_t folded64(uint64_t c, const uint8_t *p, size_t bytes)
{
    return run64(0, nef_crc_clmul_fold64(c, p, bytes).bytes, 16);
}

/* The kernel is used only if it agrees with the tables on this machine. */
static void init(void)
{
    uint8_t sample[208];

    make_tables();
    for (size_t i = 0; i < sizeof(sample); i++)
        sample[i] = (uint8_t)(i * 167 + 13);
    have_clmul = nef_crc_clmul_usable();
    for (size_t bytes = 64; bytes <= sizeof(sample) && have_clmul; bytes += 16)
        have_clmul = folded32(0x12345678, sample, bytes) == run32(0x12345678, sample, bytes) &&
                     folded64(0x123456789, sample, bytes) == run64(0x123456789, sample, bytes);
}

uint32_t nef_crc32(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t c = ~crc;

    (void)pthread_once(&once, init);
    if (have_clmul && bytes >= NEF_CRC_CLMUL_MIN) {
        size_t folded = bytes & ~(size_t)15;

        c = folded32(c, p, folded);
        p += folded;
        bytes -= folded;
    }
    return ~run32(c, p, bytes);
}

uint64_t nef_crc64nvme(uint64_t crc, const void *data, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)data;
    uint64_t c = ~crc;

    (void)pthread_once(&once, init);
    if (have_clmul && bytes >= NEF_CRC_CLMUL_MIN) {
        size_t folded = bytes & ~(size_t)15;

        c = folded64(c, p, folded);
        p += folded;
        bytes -= folded;
    }
    return ~run64(c, p, bytes);
}

/* a * b modulo the polynomial, reflected: the highest bit of WIDTH is x^0. */
static uint64_t multiply(uint64_t poly, unsigned width, uint64_t a, uint64_t b)
{
    uint64_t product = 0;

    for (uint64_t bit = 1ull << (width - 1); bit != 0; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = b >> 1 ^ (b & 1 ? poly : 0);
    }
    return product;
}

uint64_t nef_crc_power(uint64_t poly, unsigned width, uint64_t exponent)
{
    uint64_t result = 1ull << (width - 1), square = 1ull << (width - 2); /* x^0, x^1 */

    for (; exponent != 0; exponent >>= 1) {
        if (exponent & 1)
            result = multiply(poly, width, result, square);
        square = multiply(poly, width, square, square);
    }
    return result;
}

uint64_t nef_crc_combine(enum nef_s3_checksum_kind kind, uint64_t a, uint64_t b, uint64_t b_bytes)
{
    uint64_t poly = kind == NEF_S3_CHECKSUM_CRC32    ? POLY32
                    : kind == NEF_S3_CHECKSUM_CRC32C ? POLY32C
                                                     : POLY64;
    unsigned width = kind == NEF_S3_CHECKSUM_CRC64NVME ? 64 : 32;

    NEF_ASSERT(kind == NEF_S3_CHECKSUM_CRC32 || kind == NEF_S3_CHECKSUM_CRC32C ||
               kind == NEF_S3_CHECKSUM_CRC64NVME);
    NEF_ASSERT(b_bytes < 1ull << 60);
    return multiply(poly, width, nef_crc_power(poly, width, b_bytes * 8), a) ^ b;
}
