/* Speed of the inference kernels on one thread: for each set that this processor has, weight type and number of rows,
 * the weights read (GB/s, packed bytes) and the products (Gop/s, a multiplication and an addition being 2); then
 * attention at some depths. Memory is larger than the caches where decode is measured, so few rows show the memory's
 * limit and many the arithmetic's.
 *
 *   bench_kernels [SET [TYPE [MEGABYTES]]]     all sets, all types (or "attend") and 192 MB by default
 *
 * Weights are any bytes: speed doesn't depend on values. Times are of the thread's processor, so that a busy machine
 * only disturbs the caches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/assert.h"
#include "infer/gguf/gguf.h"
#include "infer/kernels/kernels.h"

#define K       1024u
#define SECONDS 0.15 /* at least, of each measurement */

static const struct {
    const char *name;
    uint32_t type;
} types[] = {{"Q8_0", NEF_GGML_Q8_0}, {"Q4_0", NEF_GGML_Q4_0}, {"Q5_0", NEF_GGML_Q5_0},
             {"Q4_K", NEF_GGML_Q4_K}, {"Q5_K", NEF_GGML_Q5_K}, {"Q6_K", NEF_GGML_Q6_K},
             {"BF16", NEF_GGML_BF16}, {"F16", NEF_GGML_F16},   {"F32", NEF_GGML_F32}};
static const uint32_t row_counts[] = {1, 2, 4, 8, 12, 16, 32, 64, 512};

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

    if (p == NULL) {
        (void)fprintf(stderr, "bench_kernels: out of memory\n");
        exit(1);
    }
    memset(p, 0x11, bytes);
    return p;
}

static void fill(float *x, size_t count)
{
    uint32_t state = 1;

    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
    }
}

static void matmul(const struct nef_kernels *set, const char *type, size_t megabytes)
{
    float *x = room(NEF_MATMUL_ROWS_MAX * K * sizeof *x), *y;
    void *act_room = room(nef_act_bytes(NEF_MATMUL_ROWS_MAX, K)), *scratch = room(nef_matmul_scratch(K));
    uint8_t *bytes = room(megabytes << 20);
    struct nef_matrix m;
    struct nef_act act;

    fill(x, NEF_MATMUL_ROWS_MAX * K);
    y = room((size_t)NEF_MATMUL_ROWS_MAX * 4096 * sizeof *y);
    for (size_t t = 0; t < NEF_COUNT(types); t++) {
        if (type != NULL && strcmp(type, types[t].name) != 0)
            continue;
        (void)printf("%-7s %-5s", set->name, types[t].name);
        for (size_t r = 0; r < NEF_COUNT(row_counts); r++) {
            uint32_t rows = row_counts[r], copies, passes = 0;
            size_t weight_bytes, payload;
            double start, seconds, cost = 0;

            /* a matrix of 256 outputs where the arithmetic counts, many of 4,096 one after another where memory does */
            if (nef_matrix_shape(types[t].type, rows > 8 ? 256 : 4096, K, &m) != NEF_OK)
                exit(1);
            payload = (nef_matrix_payload_bytes(&m) + 63) / 64 * 64;
            weight_bytes = payload + (nef_matrix_scale_bytes(&m) + 63) / 64 * 64;
            copies = rows > 8 ? 1 : (uint32_t)((megabytes << 20) / weight_bytes);
            nef_act_place(&act, act_room, rows, K, x);
            set->prepare(&m, &act, 0, rows);
            start = now();
            do {
                m.payload = bytes + (passes % copies) * weight_bytes;
                m.scales = m.payload + payload;
                set->matmul(&m, &act, 0, m.tiles, y, m.n, scratch);
                passes++;
                seconds = now() - start;
            } while (seconds < SECONDS);
            cost = (double)passes / seconds;
            (void)printf("  %u: %.1f GB/s %.0f Gop/s", rows, cost * (double)weight_bytes * 1e-9,
                         cost * 2.0 * rows * m.n * K * 1e-9);
            (void)fflush(stdout);
        }
        (void)printf("\n");
    }
    free(x);
    free(y);
    free(act_room);
    free(scratch);
    free(bytes);
}

static void attention(const struct nef_kernels *set, size_t megabytes)
{
    static const char *const names[] = {"bf16", "f32", "i8"};
    enum { DIM = 128, PAGES = NEF_KV_SEGMENT / NEF_KV_TILE };
    float *q = room(NEF_MATMUL_ROWS_MAX * DIM * sizeof *q), *o = room(NEF_MATMUL_ROWS_MAX * DIM * sizeof *o);
    float m[NEF_MATMUL_ROWS_MAX], l[NEF_MATMUL_ROWS_MAX], *out_o[NEF_MATMUL_ROWS_MAX];
    const float *rows_q[NEF_MATMUL_ROWS_MAX];
    uint32_t limit[NEF_MATMUL_ROWS_MAX];
    uint8_t *bytes = room(megabytes << 20);
    void *scratch = room(nef_matmul_scratch(K));

    fill(q, NEF_MATMUL_ROWS_MAX * DIM);
    for (uint32_t i = 0; i < NEF_MATMUL_ROWS_MAX; i++) {
        rows_q[i] = q + (size_t)i * DIM;
        out_o[i] = o + (size_t)i * DIM;
        limit[i] = NEF_KV_SEGMENT - 1;
    }
    memset(bytes, 0, megabytes << 20);
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++) {
        (void)printf("%-7s attend %-5s", set->name, names[type]);
        for (uint32_t rows = 1; rows <= 512; rows *= 2) {
            size_t page = nef_kv_page_bytes((enum nef_kv_type)type, DIM), segment = 2 * PAGES * page;
            uint32_t copies = rows > 8 ? 1 : (uint32_t)((megabytes << 20) / segment), passes = 0;
            const void *k[PAGES], *v[PAGES];
            struct nef_attend a = {.type = (enum nef_kv_type)type,
                                   .head_dim = DIM,
                                   .rows = rows,
                                   .q = rows_q,
                                   .limit = limit,
                                   .pages = PAGES,
                                   .k_page = k,
                                   .v_page = v,
                                   .scale = 0.088f,
                                   .out_m = m,
                                   .out_l = l,
                                   .out_o = out_o};
            double start = now(), seconds;

            do {
                for (uint32_t i = 0; i < PAGES; i++) {
                    k[i] = bytes + (passes % copies) * segment + 2 * i * page;
                    v[i] = (const uint8_t *)k[i] + page;
                }
                set->attend(&a, scratch);
                passes++;
                seconds = now() - start;
            } while (seconds < SECONDS);
            (void)printf("  %u: %.1f GB/s %.0f Gop/s", rows, passes / seconds * (double)segment * 1e-9,
                         passes / seconds * 4.0 * rows * NEF_KV_SEGMENT * DIM * 1e-9);
            (void)fflush(stdout);
        }
        (void)printf("\n");
    }
    free(q);
    free(o);
    free(bytes);
    free(scratch);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"scalar", "avx2", "avx512", "amx"};
    const char *type = argc > 2 ? argv[2] : NULL;
    size_t megabytes = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) : 192;

    if (megabytes < 32 || megabytes > 1u << 16) {
        (void)fprintf(stderr, "bench_kernels: MEGABYTES is 32 .. 65536\n");
        return 1;
    }
    (void)printf("processor has: %s\n", nef_kernels_features());
    for (size_t i = 0; i < NEF_COUNT(names); i++) {
        const struct nef_kernels *set = nef_kernels_get(names[i]);

        if (set == NULL || (argc > 1 && strcmp(argv[1], names[i]) != 0))
            continue;
        if (nef_kernels_thread_enter(set) != NEF_OK)
            return 1;
        matmul(set, type, megabytes);
        if (type == NULL || strcmp(type, "attend") == 0)
            attention(set, megabytes);
    }
    return 0;
}
