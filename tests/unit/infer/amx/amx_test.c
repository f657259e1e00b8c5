/* The AMX set's code over a software matrix unit (amx_tile.h), so that its loops, paddings and scalings are tested on every
 * processor with AVX-512, bit by bit against the scalar set. A processor with the unit also runs the other tests of this
 * directory with the set itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/gguf/gguf.h"
#include "infer/kernels/kernels_internal.h"

extern const struct nef_kernels nef_kernels_amx_emulated;

static const uint32_t types[] = {NEF_GGML_F32,  NEF_GGML_F16,  NEF_GGML_BF16, NEF_GGML_Q8_0, NEF_GGML_Q4_0,
                                 NEF_GGML_Q5_0, NEF_GGML_Q4_K, NEF_GGML_Q5_K, NEF_GGML_Q6_K};
static uint64_t state = 7;

static uint64_t next(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static float unit(void)
{
    return (float)((double)(next() >> 40) / (double)(1 << 23) - 1.0);
}

static void *room(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

    assert_non_null(p);
    memset(p, 0, (bytes + 63) / 64 * 64);
    return p;
}

static bool here(void)
{
    return nef_kernels_get("avx512") != NULL && nef_kernels_thread_enter(nef_kernels_get("avx512")) == NEF_OK;
}

static void linear(uint32_t type, uint32_t n, uint32_t k, uint32_t rows)
{
    struct nef_matrix m;
    struct nef_act act;
    float *x = room((size_t)rows * k * 4), *y[2];
    uint8_t *payload, *scales, *buffer;
    void *scratch = room(nef_matmul_scratch(k));

    assert_int_equal(nef_matrix_shape(type, n, k, &m), NEF_OK);
    payload = room(nef_matrix_payload_bytes(&m));
    scales = room(nef_matrix_scale_bytes(&m) + 64);
    for (size_t i = 0; i < nef_matrix_payload_bytes(&m); i++) /* floats of middling size, and any integers */
        payload[i] = (uint8_t)(i % 2 == 0 || m.scales_kind != NEF_SCALES_NONE ? next() : (next() & 0x87u) | 0x38u);
    for (size_t i = 0; i < nef_matrix_scale_bytes(&m); i++)
        scales[i] = (uint8_t)(i % 2 == 0 ? next() : (next() & 0x87u) | 0x20u);
    m.payload = payload;
    m.scales = scales;
    for (size_t i = 0; i < (size_t)rows * k; i++)
        x[i] = next() % 50 == 0 ? 100 * unit() : unit();
    buffer = room(nef_act_bytes(rows, k));
    memset(buffer, 0xff, nef_act_bytes(rows, k)); /* padding holds anything */
    nef_act_place(&act, buffer, rows, k, x);
    for (unsigned i = 0; i < 2; i++) {
        const struct nef_kernels *set = i == 0 ? &nef_kernels_scalar : &nef_kernels_amx_emulated;
        uint32_t cut = i == 0 ? 0 : (uint32_t)(next() % m.tiles);

        y[i] = room((size_t)rows * n * 4);
        set->prepare(&m, &act, 0, rows);
        set->matmul(&m, &act, 0, cut, y[i], n, scratch);
        set->matmul(&m, &act, cut, m.tiles - cut, y[i], n, scratch);
    }
    assert_memory_equal(y[0], y[1], (size_t)rows * n * 4);
    free(x);
    free(y[0]);
    free(y[1]);
    free(payload);
    free(scales);
    free(buffer);
    free(scratch);
}

static void test_linear(void **unused)
{
    (void)unused;
    if (!here())
        skip();
    for (size_t t = 0; t < NEF_COUNT(types); t++) {
        bool k_type = types[t] >= NEF_GGML_Q4_K && types[t] <= NEF_GGML_Q6_K;

        linear(types[t], 16, k_type ? 256 : 32, 16);
        linear(types[t], 50, k_type ? 768 : 864, 33);
        linear(types[t], 33, k_type ? 512 : 320, 9);
        linear(types[t], 17, k_type ? 256 : 288, 512);
    }
}

/* cut: pages of a first call; all rows see more than those. */
static void attention(enum nef_kv_type type, uint32_t d, uint32_t rows, uint32_t segment, uint32_t cut)
{
    enum { PAGES = NEF_KV_SEGMENT / NEF_KV_TILE };
    size_t bytes = nef_kv_page_bytes(type, d);
    uint8_t *pages = room(2 * PAGES * bytes);
    const void *k[PAGES], *v[PAGES];
    float *q_all = room((size_t)rows * d * 4), *row = room(d * 4), *o_all[2];
    const float **q = calloc(rows, sizeof(*q));
    float **o = calloc(rows, sizeof(*o));
    uint32_t *limit = calloc(rows, sizeof(*limit));
    float *m[2], *l[2];
    void *scratch = room(nef_matmul_scratch(NEF_BLOCK_COLS));
    uint32_t least = cut * NEF_KV_TILE, seen = least + 1 + (uint32_t)(next() % (NEF_KV_SEGMENT - least));

    assert_true(q != NULL && o != NULL && limit != NULL);
    for (uint32_t p = 0; p < PAGES; p++) {
        k[p] = pages + 2 * p * bytes;
        v[p] = pages + (2 * p + 1) * bytes;
    }
    for (uint32_t pos = 0; pos < seen; pos++)
        for (unsigned value = 0; value < 2; value++) {
            for (uint32_t c = 0; c < d; c++)
                row[c] = 2 * unit();
            nef_kernels_scalar.kv_put(type, d, value == 1, pages + (2 * (pos / NEF_KV_TILE) + value) * bytes,
                                      pos % NEF_KV_TILE, row);
        }
    for (uint32_t r = 0; r < rows; r++) {
        q[r] = q_all + (size_t)r * d;
        for (uint32_t c = 0; c < d; c++)
            q_all[(size_t)r * d + c] = 3 * unit();
        limit[r] = segment * NEF_KV_SEGMENT + least + (uint32_t)(next() % (seen - least));
    }
    for (unsigned i = 0; i < 2; i++) {
        const struct nef_kernels *set = i == 0 ? &nef_kernels_scalar : &nef_kernels_amx_emulated;
        struct nef_attend a = {.type = type, .head_dim = d, .rows = rows, .q = q, .limit = limit, .pages = PAGES,
                               .first = segment * NEF_KV_SEGMENT, .k_page = k, .v_page = v, .scale = 0.17f, .out_o = o};

        a.out_m = m[i] = room(rows * 4);
        a.out_l = l[i] = room(rows * 4);
        o_all[i] = room((size_t)rows * d * 4);
        for (uint32_t r = 0; r < rows; r++)
            o[r] = o_all[i] + (size_t)r * d;
        if (cut > 0) { /* the first pages, then the rest */
            a.pages = cut;
            set->attend(&a, scratch);
            a.pages = PAGES - cut;
            a.first += cut * NEF_KV_TILE;
            a.k_page += cut;
            a.v_page += cut;
            a.resume = true;
        }
        set->attend(&a, scratch);
        for (uint32_t r = 0; r < rows; r++)
            set->attend_finish(d, a.out_l[r], o[r], o[r]); /* evens out signs of zero */
    }
    assert_memory_equal(m[0], m[1], rows * 4);
    assert_memory_equal(l[0], l[1], rows * 4);
    assert_memory_equal(o_all[0], o_all[1], (size_t)rows * d * 4);
    for (unsigned i = 0; i < 2; i++) {
        free(m[i]);
        free(l[i]);
        free(o_all[i]);
    }
    free(scratch);
    free(limit);
    free(o);
    free(q);
    free(row);
    free(q_all);
    free(pages);
}

static void test_attention(void **unused)
{
    static const uint32_t dims[] = {32, 64, 128, 256};

    (void)unused;
    if (!here())
        skip();
    for (int type = NEF_KV_BF16; type <= NEF_KV_I8; type++)
        for (size_t i = 0; i < NEF_COUNT(dims); i++) {
            attention((enum nef_kv_type)type, dims[i], 8, 0, 0);
            attention((enum nef_kv_type)type, dims[i], 21, 3, 0);
            attention((enum nef_kv_type)type, dims[i], 19, 1, 1 + (uint32_t)i * 4);
        }
    attention(NEF_KV_BF16, 64, 130, 0, 0);
    attention(NEF_KV_I8, 64, 70, 1, 0);
}

static void test_agrees(void **unused)
{
    (void)unused;
    if (!here())
        skip();
    assert_true(nef_kernels_agree(&nef_kernels_amx_emulated));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_agrees),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
