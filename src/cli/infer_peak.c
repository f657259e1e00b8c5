/* Limits of the machine; see infer_peak.h. Every thread repeats one loop for a while, from registers (or from memory),
 * and the results of all are added up. The loops are as independent as the processor's pipelines want: what they reach
 * is a limit, not a goal. Threads of their own, so that the model's keep their matrix unit's configuration. */
#include "cli/infer_peak.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "io/clock.h"

#define MEASURE_MS   150u
#define MEMORY_BYTES ((size_t)512 << 20) /* of all threads: far above any cache */
#define WARM_US      300000u /* until each has touched its memory */

/* Does a piece of work and returns how much it was. */
typedef double (*piece)(void *memory, size_t bytes);

#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2   __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define BF16   __attribute__((target("avx512f,avx512bf16")))
#define ROUNDS 20000
#define CHAINS 12 /* accumulators: more than latency times units */
#define UNROLL _Pragma("GCC unroll 12") /* keeps accumulators in registers */

AVX2 static double read_avx2(void *memory, size_t bytes)
{
    const __m256i *at = memory;
    __m256i sum[4] = {0};
    volatile uint64_t keep;

    for (size_t i = 0; i < bytes / sizeof(*at); i += 4)
        for (size_t j = 0; j < 4; j++)
            sum[j] = _mm256_xor_si256(sum[j], _mm256_load_si256(at + i + j));
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
    keep = (uint64_t)_mm256_extract_epi64(sum[0], 0);
    (void)keep;
    return (double)bytes;
}

/* The empty asm after each round keeps the compiler from folding rounds together. */
#define KEEP(x) __asm__ volatile("" : "+x"(x))
#define KEEP_V(x) __asm__ volatile("" : "+v"(x))

AVX2 static double int8_avx2(void *memory, size_t bytes)
{
    __m256i sum[CHAINS] = {0}, a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);

    (void)memory;
    (void)bytes;
    for (int i = 0; i < ROUNDS; i++)
        UNROLL for (int j = 0; j < CHAINS; j++) {
            __m256i product = _mm256_maddubs_epi16(a, b);

            KEEP(product);
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(product, ones));
        }
    UNROLL for (int j = 0; j < CHAINS; j++)
        KEEP(sum[j]);
    return (double)ROUNDS * CHAINS * 32 * 2;
}

AVX512 static double int8_avx512(void *memory, size_t bytes)
{
    __m512i sum[CHAINS] = {0}, a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);

    (void)memory;
    (void)bytes;
    for (int i = 0; i < ROUNDS; i++)
        UNROLL for (int j = 0; j < CHAINS; j++) {
            sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
            KEEP_V(sum[j]);
        }
    return (double)ROUNDS * CHAINS * 64 * 2;
}

BF16 static double bf16_avx512(void *memory, size_t bytes)
{
    __m512 sum[CHAINS] = {0}, one = _mm512_set1_ps(1.0f);
    __m512bh a = _mm512_cvtne2ps_pbh(one, one);

    (void)memory;
    (void)bytes;
    for (int i = 0; i < ROUNDS; i++)
        UNROLL for (int j = 0; j < CHAINS; j++) {
            sum[j] = _mm512_dpbf16_ps(sum[j], a, a);
            KEEP_V(sum[j]);
        }
    return (double)ROUNDS * CHAINS * 32 * 2;
}

AVX2 static double float_avx2(void *memory, size_t bytes)
{
    __m256 sum[CHAINS] = {0}, a = _mm256_set1_ps(1.5f);

    (void)memory;
    (void)bytes;
    for (int i = 0; i < ROUNDS; i++)
        UNROLL for (int j = 0; j < CHAINS; j++) {
            sum[j] = _mm256_fmadd_ps(a, a, sum[j]);
            KEEP(sum[j]);
        }
    return (double)ROUNDS * CHAINS * 8 * 2;
}

AVX512 static double float_avx512(void *memory, size_t bytes)
{
    __m512 sum[CHAINS] = {0}, a = _mm512_set1_ps(1.5f);

    (void)memory;
    (void)bytes;
    for (int i = 0; i < ROUNDS; i++)
        UNROLL for (int j = 0; j < CHAINS; j++) {
            sum[j] = _mm512_fmadd_ps(a, a, sum[j]);
            KEEP_V(sum[j]);
        }
    return (double)ROUNDS * CHAINS * 16 * 2;
}

/* Tiles of 16 rows of 64 bytes; four accumulators. By hand: gcc 12's intrinsics declare too little of what they touch.
 * The whole run is one asm statement, so that nothing of the compiler's comes between. */
static double matrix(bool int8)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t columns[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {.palette = 1};
    long rounds = ROUNDS;

    for (int i = 0; i < 6; i++) {
        config.columns[i] = 64;
        config.rows[i] = 16;
    }
    if (int8)
        __asm__ volatile("ldtilecfg (%1)\n"
                         "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n tilezero %%tmm4\n "
                         "tilezero %%tmm5\n"
                         "1:\n"
                         "tdpbssd %%tmm5, %%tmm4, %%tmm0\n tdpbssd %%tmm5, %%tmm4, %%tmm1\n"
                         "tdpbssd %%tmm5, %%tmm4, %%tmm2\n tdpbssd %%tmm5, %%tmm4, %%tmm3\n"
                         "dec %0\n jnz 1b\n tilerelease\n"
                         : "+r"(rounds)
                         : "r"(&config)
                         : "memory", "cc");
    else
        __asm__ volatile("ldtilecfg (%1)\n"
                         "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n tilezero %%tmm4\n "
                         "tilezero %%tmm5\n"
                         "1:\n"
                         "tdpbf16ps %%tmm5, %%tmm4, %%tmm0\n tdpbf16ps %%tmm5, %%tmm4, %%tmm1\n"
                         "tdpbf16ps %%tmm5, %%tmm4, %%tmm2\n tdpbf16ps %%tmm5, %%tmm4, %%tmm3\n"
                         "dec %0\n jnz 1b\n tilerelease\n"
                         : "+r"(rounds)
                         : "r"(&config)
                         : "memory", "cc");
    return (double)ROUNDS * 4 * 16 * 16 * (int8 ? 64 : 32) * 2;
}

static double int8_amx(void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
    return matrix(true);
}

static double bf16_amx(void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
    return matrix(false);
}

static piece piece_of(enum nef_peak what, const char *kernels)
{
    const bool amx = strcmp(kernels, "amx") == 0, avx512 = amx || strcmp(kernels, "avx512") == 0;
    const bool avx2 = avx512 || strcmp(kernels, "avx2") == 0;

    switch (what) {
    case NEF_PEAK_MEMORY:
        return __builtin_cpu_supports("avx2") ? read_avx2 : NULL; /* the limit is the memory's, whatever reads */
    case NEF_PEAK_INT8:
        return amx ? int8_amx : avx512 && __builtin_cpu_supports("avx512vnni") ? int8_avx512 : avx2 ? int8_avx2 : NULL;
    case NEF_PEAK_BF16:
        if (amx)
            return bf16_amx;
        if (avx512 && __builtin_cpu_supports("avx512bf16"))
            return bf16_avx512;
        break;
    case NEF_PEAK_FLOAT:
        break;
    }
    return avx512 ? float_avx512 : avx2 ? float_avx2 : NULL;
}
#else
static piece piece_of(enum nef_peak what, const char *kernels)
{
    (void)what;
    (void)kernels;
    return NULL;
}
#endif

struct worker {
    pthread_t thread;
    struct measurement *m;
    uint8_t *memory;
    size_t bytes;
    double rate;
    bool started;
};

struct measurement {
    piece work;
    atomic_bool go; /* all threads exist and are warm, or as good as */
};

static void *run(void *context)
{
    struct worker *w = context;
    uint64_t start, now;
    double done = 0;

    if (w->bytes > 0)
        memset(w->memory, 1, w->bytes); /* each thread its own pages, near itself */
    (void)w->m->work(w->memory, w->bytes);
    while (!atomic_load(&w->m->go))
        (void)sched_yield();
    start = nef_now_ns();
    do {
        done += w->m->work(w->memory, w->bytes);
        now = nef_now_ns();
    } while (now - start < MEASURE_MS * 1000000ull);
    w->rate = done * 1e9 / (double)(now - start);
    return NULL;
}

double nef_peak_measure(enum nef_peak what, uint32_t threads, const struct nef_kernels *kernels)
{
    struct measurement m = {.work = piece_of(what, kernels->name)};
    size_t bytes = what == NEF_PEAK_MEMORY ? MEMORY_BYTES : 0, share;
    struct worker *workers = calloc(threads, sizeof(*workers));
    uint8_t *memory = NULL;
    double sum = 0;

    if (workers == NULL || m.work == NULL)
        goto out;
    share = bytes / threads / 4096 * 4096;
    if (bytes > 0) {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            memory = NULL;
            goto out;
        }
        (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a hint */
    }
    for (uint32_t i = 0; i < threads; i++) {
        workers[i] = (struct worker){.m = &m, .memory = memory == NULL ? NULL : memory + share * i, .bytes = share};
        workers[i].started = pthread_create(&workers[i].thread, NULL, run, &workers[i]) == 0;
    }
    (void)usleep(WARM_US);
    atomic_store(&m.go, true);
    for (uint32_t i = 0; i < threads; i++) {
        if (!workers[i].started)
            continue;
        (void)pthread_join(workers[i].thread, NULL);
        sum += workers[i].rate;
    }
out:
    if (memory != NULL)
        (void)munmap(memory, bytes);
    free(workers);
    return sum;
}
