/* Which sets there are, which this processor can run, and the state that a computing thread must be in.
 *
 * A set that the processor has is compared with the scalar one on small vectors when it is first asked for; one that
 * disagrees is as if it were not there. Sets stand in the table from the best to the plainest. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "infer/kernels/kernels_internal.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "infer/kernels/amx.h"
#endif

struct set {
    const struct nef_kernels *kernels;
    bool (*available)(void);
    nef_err (*enter)(void); /* besides the flush mode; NULL: nothing */
};

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
/* __builtin_cpu_supports also asks XGETBV whether the system saves the registers. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

/* Leaf 7: EDX 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8. XCR0 17 and 18: the system saves tiles and their configuration. */
static bool has_amx(void)
{
    unsigned a, b, c, d, low, high;

    if (!has_avx512() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0)
        return false;
    if ((d & 1u << 22) == 0 || (d & 1u << 24) == 0 || (d & 1u << 25) == 0)
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 3u << 17) == 3u << 17;
}

/* Linux gives tile data to processes that ask (Documentation/arch/x86/xstate.rst); asking again does no harm. */
static nef_err amx_enter(void)
{
    const long arch_req_xcomp_perm = 0x1023, xfeature_tile_data = 18;

    return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_tile_data) == 0 ? NEF_OK : NEF_E_UNSUPPORTED;
}
#endif

static const struct set sets[] = {
#if defined(__x86_64__)
    {&nef_kernels_amx, has_amx, amx_enter},
    {&nef_kernels_avx512, has_avx512, NULL},
    {&nef_kernels_avx2, has_avx2, NULL},
#endif
    {&nef_kernels_scalar, always, NULL},
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool usable[NEF_COUNT(sets)];
static char features[64];
static const char *wrong; /* the best set that this processor has and that failed the comparison */

/* ---- flush mode ---- */

#if defined(__x86_64__)
#define MXCSR_WANTED 0x9fc0u /* FTZ, all exceptions masked, DAZ; round to nearest */

static uint32_t mode_enter(void)
{
    uint32_t before = _mm_getcsr();

    _mm_setcsr(MXCSR_WANTED);
    return before;
}

static void mode_restore(uint32_t before)
{
    _mm_setcsr(before);
}
#elif defined(__aarch64__)
/* FPCR.FZ flushes inputs and results. (It calls a result tiny before rounding, x86 after: a product that rounds up to
 * exactly 2^-126 differs.) */
static uint32_t mode_enter(void)
{
    uint64_t before;

    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24));
    return (uint32_t)before;
}

static void mode_restore(uint32_t before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)before));
}
#else
#error "how does this processor flush subnormals to zero? (docs/numerics.md)"
#endif

/* ---- which sets ---- */

static void look(void)
{
    uint32_t before = mode_enter();

    for (size_t i = 0; i < NEF_COUNT(sets); i++) {
        usable[i] = sets[i].available();
        if (usable[i] && sets[i].enter != NULL)
            usable[i] = sets[i].enter() == NEF_OK;
        if (usable[i] && sets[i].kernels != &nef_kernels_scalar) {
            usable[i] = nef_kernels_agree(sets[i].kernels);
            if (!usable[i] && wrong == NULL)
                wrong = sets[i].kernels->name;
        }
    }
    mode_restore(before);
#if defined(__x86_64__)
    (void)snprintf(features, sizeof features, "%s%s%s%s", has_avx2() ? "avx2" : "", has_avx512() ? " avx512 vnni" : "",
                   has_avx512() && __builtin_cpu_supports("avx512bf16") ? " bf16" : "", has_amx() ? " amx" : "");
#endif
}

const struct nef_kernels *nef_kernels_get(const char *name)
{
    (void)pthread_once(&once, look); /* can't fail with a valid once */
    for (size_t i = 0; i < NEF_COUNT(sets); i++)
        if (usable[i] && (name == NULL || strcmp(name, sets[i].kernels->name) == 0))
            return sets[i].kernels;
    return NULL;
}

nef_err nef_kernels_thread_enter(const struct nef_kernels *set)
{
    (void)pthread_once(&once, look);
    for (size_t i = 0; i < NEF_COUNT(sets); i++) {
        if (sets[i].kernels != set)
            continue;
        if (!usable[i])
            return NEF_E_UNSUPPORTED;
        (void)mode_enter(); /* for the rest of the thread's life */
        return sets[i].enter == NULL ? NEF_OK : sets[i].enter();
    }
    return NEF_E_UNSUPPORTED;
}

const char *nef_kernels_features(void)
{
    (void)pthread_once(&once, look);
    return features;
}

const char *nef_kernels_disagree(void)
{
    (void)pthread_once(&once, look);
    return wrong;
}

size_t nef_matmul_scratch(uint32_t k_max)
{
    size_t few = ((size_t)k_max + NEF_GROUP_COLS - 1) / NEF_GROUP_COLS * NEF_VEC_GROUP_BYTES * (NEF_VEC_FEW_ROWS / 8);

    return NEF_MAX(NEF_MAX(few, (size_t)NEF_VEC_WORK_BYTES), NEF_AMX_SCRATCH(k_max));
}
