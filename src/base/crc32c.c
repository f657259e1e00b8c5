/* CRC-32C: slicing-by-8 table as reference; three interleaved SSE4.2 streams where the processor has
 * them (one crc32 instruction has a latency of 3 cycles and a throughput of 1). The streams are
 * joined by multiplying with x^n mod P, precomputed as tables for the one stride that is used. */
#include "base/crc32c.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define POLY   0x82F63B78u
#define STRIDE 1360u /* bytes a stream; 3 * 1360 = 4080, nearly a page */

static uint32_t table[8][256];
static uint32_t skip[4][256]; /* advances a CRC over STRIDE zero bytes, a byte of the CRC at a time */
static bool have_hardware;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t run_table(uint32_t c, const uint8_t *p, size_t bytes)
{
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint32_t a, b;

        memcpy(&a, p, 4);
        memcpy(&b, p + 4, 4);
        a ^= c;
        c = table[7][a & 255] ^ table[6][a >> 8 & 255] ^ table[5][a >> 16 & 255] ^
            table[4][a >> 24] ^ table[3][b & 255] ^ table[2][b >> 8 & 255] ^
            table[1][b >> 16 & 255] ^ table[0][b >> 24];
    }
    while (bytes-- > 0)
        c = c >> 8 ^ table[0][(c ^ *p++) & 255];
    return c;
}

static void init(void)
{
    const char *forced = getenv("NEF_CRC32C");
    uint8_t zeros[STRIDE] = {0};

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? POLY : 0);
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
    for (int t = 0; t < 4; t++)
        for (uint32_t i = 0; i < 256; i++)
            skip[t][i] = run_table(i << (8 * t), zeros, sizeof(zeros));
#if defined(__x86_64__)
    __builtin_cpu_init();
    have_hardware = __builtin_cpu_supports("sse4.2") != 0;
#endif
    if (forced != NULL && strcmp(forced, "table") == 0)
        have_hardware = false;
}

uint32_t nef_crc32c_table(uint32_t crc, const void *data, size_t bytes)
{
    (void)pthread_once(&once, init);
    return ~run_table(~crc, (const uint8_t *)data, bytes);
}

#if defined(__x86_64__)
static uint32_t skip_stride(uint32_t c)
{
    return skip[0][c & 255] ^ skip[1][c >> 8 & 255] ^ skip[2][c >> 16 & 255] ^ skip[3][c >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t run_hardware(uint32_t crc, const uint8_t *p,
                                                               size_t bytes)
{
    uint64_t c = crc, v;

    while (bytes >= 3 * STRIDE) {
        uint64_t c1 = 0, c2 = 0, v1, v2;

        for (size_t i = 0; i < STRIDE; i += 8) {
            memcpy(&v, p + i, 8);
            memcpy(&v1, p + STRIDE + i, 8);
            memcpy(&v2, p + 2 * STRIDE + i, 8);
            c = __builtin_ia32_crc32di(c, v);
            c1 = __builtin_ia32_crc32di(c1, v1);
            c2 = __builtin_ia32_crc32di(c2, v2);
        }
        c = skip_stride((uint32_t)c) ^ c1;
        c = skip_stride((uint32_t)c) ^ c2;
        p += 3 * STRIDE;
        bytes -= 3 * STRIDE;
    }
    for (; bytes >= 8; bytes -= 8, p += 8) {
        memcpy(&v, p, 8);
        c = __builtin_ia32_crc32di(c, v);
    }
    while (bytes-- > 0)
        c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
    return (uint32_t)c;
}
#endif

uint32_t nef_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    (void)pthread_once(&once, init);
#if defined(__x86_64__)
    if (have_hardware)
        return ~run_hardware(~crc, (const uint8_t *)data, bytes);
#endif
    return ~run_table(~crc, (const uint8_t *)data, bytes);
}
