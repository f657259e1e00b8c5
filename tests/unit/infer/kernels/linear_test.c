/* Packing against the file's own rows; linear layers: every set against scalar bit by bit, however they are cut, and
 * scalar against float64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>
#include "base/assert.h"
#include "fixture.h"
#include "infer/gguf/gguf.h"

static const uint32_t types[] = {NEF_GGML_F32,  NEF_GGML_F16,  NEF_GGML_BF16, NEF_GGML_Q8_0, NEF_GGML_Q4_0,
                                 NEF_GGML_Q5_0, NEF_GGML_Q4_K, NEF_GGML_Q5_K, NEF_GGML_Q6_K};

/* Error of the products by form, relative to what each bound multiplies. */
#define X16_STEP   (0.5 / 32512) /* of a group's amax: rounding to 16 bits */
#define BF16_STEP  0x1p-9        /* of each x */
#define CHAIN_STEP 2e-5          /* of sum |x w|: some hundred roundings of 2^-24 */

struct layer {
    uint32_t type, rows;
    uint8_t *file, *payload, *scales;
    float *x;
    struct nef_matrix m;
};

static bool k_type(uint32_t type)
{
    return type == NEF_GGML_Q4_K || type == NEF_GGML_Q5_K || type == NEF_GGML_Q6_K;
}

static void layer_init(struct layer *l, struct random *r, uint32_t type, uint32_t n, uint32_t k, uint32_t rows,
                       enum values weights, enum values activations)
{
    l->type = type;
    l->rows = rows;
    assert_int_equal(nef_matrix_shape(type, n, k, &l->m), NEF_OK);
    l->file = room(rows_bytes(type, n, k));
    random_rows(r, weights, type, n, k, l->file);
    l->payload = room(nef_matrix_payload_bytes(&l->m));
    l->scales = room(nef_matrix_scale_bytes(&l->m));
    nef_pack(type, &l->m, l->file, 0, l->m.tiles, l->payload, l->scales);
    l->m.payload = l->payload;
    l->m.scales = l->scales;
    l->x = room((size_t)rows * k * sizeof(float));
    random_floats(r, activations, (size_t)rows * k, l->x);
}

static void layer_done(struct layer *l)
{
    free(l->file);
    free(l->payload);
    free(l->scales);
    free(l->x);
}

/* y (rows x n) of ROWS rows from row0 on, prepared in two parts, tiles in parts of at most `part`. */
static void run(const struct nef_kernels *set, const struct layer *l, uint32_t row0, uint32_t rows, uint32_t part,
                float *y)
{
    void *buffer = room(nef_act_bytes(rows, l->m.k)), *scratch = room(nef_matmul_scratch(l->m.k));
    struct nef_act act;

    nef_act_place(&act, buffer, rows, l->m.k, l->x + (size_t)row0 * l->m.k);
    set->prepare(&l->m, &act, rows / 2, rows - rows / 2);
    set->prepare(&l->m, &act, 0, rows / 2);
    for (uint32_t t = 0; t < l->m.tiles; t += part)
        set->matmul(&l->m, &act, t, NEF_MIN(part, l->m.tiles - t), y, l->m.n, scratch);
    free(buffer);
    free(scratch);
}

static void compare_sets(struct random *r, uint32_t type, uint32_t n, uint32_t k, uint32_t rows, enum values weights,
                         enum values activations)
{
    const struct nef_kernels *const *sets = fast_sets();
    size_t count = (size_t)rows * n;
    float *expected = room(count * sizeof(float)), *y = room((count + 1) * sizeof(float));
    struct layer l;
    char what[128];

    layer_init(&l, r, type, n, k, rows, weights, activations);
    run(scalar_set(), &l, 0, rows, l.m.tiles, expected);
    for (; *sets != NULL; sets++) {
        (void)snprintf(what, sizeof what, "%s %s n %u k %u rows %u values %d %d", (*sets)->name,
                       nef_ggml_type_name(type), n, k, rows, (int)weights, (int)activations);
        memset(y, 0x55, (count + 1) * sizeof(float));
        run(*sets, &l, 0, rows, l.m.tiles, y);
        assert_true(same_floats(what, expected, y, count));
        assert_int_equal(((uint32_t *)y)[count], 0x55555555); /* lanes beyond n are not written */
    }
    layer_done(&l);
    free(expected);
    free(y);
}

static void test_pack_keeps_every_row(void **state)
{
    struct random r = {1};

    (void)state;
    (void)fast_sets(); /* flush mode */
    for (size_t t = 0; t < NEF_COUNT(types); t++)
        for (uint32_t n = 1; n < 40; n += 11) {
            uint32_t k = k_type(types[t]) ? 512 : 288;
            float *expected = room(k * sizeof(float)), *row = room(k * sizeof(float));
            uint8_t *payload, *scales;
            struct nef_gguf_tensor tensor = {.dims_count = 2, .dims = {k, n, 1, 1}, .type = types[t]};
            struct layer l;

            layer_init(&l, &r, types[t], n, k, 1, WILD, PLAIN);
            tensor.data = l.file;
            tensor.bytes = rows_bytes(types[t], n, k);
            for (uint32_t i = 0; i < n; i++) {
                nef_gguf_row(&tensor, i, expected);
                nef_unpack_row(&l.m, i, row);
                assert_true(same_floats(nef_ggml_type_name(types[t]), expected, row, k));
            }
            /* tile by tile, last first, gives the same bytes */
            payload = room(nef_matrix_payload_bytes(&l.m));
            scales = room(nef_matrix_scale_bytes(&l.m));
            memset(payload, 0x77, nef_matrix_payload_bytes(&l.m));
            for (uint32_t tile = l.m.tiles; tile-- > 0;)
                nef_pack(types[t], &l.m, l.file, tile, 1, payload, scales);
            assert_memory_equal(payload, l.payload, nef_matrix_payload_bytes(&l.m));
            assert_memory_equal(scales, l.scales, nef_matrix_scale_bytes(&l.m));
            layer_done(&l);
            free(payload);
            free(scales);
            free(expected);
            free(row);
        }
}

static void test_shapes_are_checked(void **state)
{
    struct nef_matrix m = {.n = 7};

    (void)state;
    assert_int_equal(nef_matrix_shape(3, 16, 32, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q8_0, 16, 33, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_F32, 16, 16, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q4_K, 16, 128, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q8_0, 0, 32, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q8_0, 16, 0, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q8_0, 1ull << 40, 32, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q8_0, 16, 1ull << 40, &m), NEF_E_UNSUPPORTED);
    assert_int_equal(m.n, 7); /* untouched */
    assert_int_equal(nef_matrix_shape(NEF_GGML_Q6_K, 17, 512, &m), NEF_OK);
    assert_int_equal(nef_matrix_payload_bytes(&m), 2 * 16 * 384);
    assert_int_equal(nef_matrix_scale_bytes(&m), 2 * 2 * 288);
}

static void test_sets_equal_scalar_for_every_row_count(void **state)
{
    struct random r = {2};

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(types); t++)
        for (uint32_t rows = 1; rows <= 66; rows += rows < 33 || rows > 61 ? 1 : 29) /* where sets change their way */
            compare_sets(&r, types[t], 35, k_type(types[t]) ? 256 : 288, rows, PLAIN, rows % 2 == 0 ? PLAIN : WILD);
}

static void test_sets_equal_scalar_for_shapes(void **state)
{
    static const uint32_t columns[] = {32, 64, 224, 256, 896, 1056, 3072}, outputs[] = {1, 15, 16, 17, 50};
    static const uint32_t rows[] = {1, 3, 8, 9, 14};
    struct random r = {3};

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(types); t++)
        for (size_t i = 0; i < NEF_COUNT(columns); i++) {
            uint32_t k = k_type(types[t]) ? (columns[i] + 255) / 256 * 256 : columns[i];

            for (size_t j = 0; j < NEF_COUNT(rows); j++)
                compare_sets(&r, types[t], outputs[(i + j) % NEF_COUNT(outputs)], k, rows[j], j % 2 == 0 ? WILD : PLAIN,
                             WILD);
        }
}

static void test_sets_equal_scalar_for_512_rows(void **state)
{
    struct random r = {4};

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(types); t++)
        compare_sets(&r, types[t], 18, k_type(types[t]) ? 256 : 288, 512, PLAIN, WILD);
}

static void test_nans_and_infinities_stay_in_their_group(void **state)
{
    struct random r = {5};

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(types); t++)
        for (uint32_t rows = 2; rows < 20; rows += 7)
            compare_sets(&r, types[t], 20, 512, rows, PLAIN, BROKEN);
}

/* The largest sums: all X at +-32512, all weights at the ends of their range. */
static void test_extremes_do_not_overflow(void **state)
{
    static const uint32_t quantized[] = {NEF_GGML_Q8_0, NEF_GGML_Q4_0, NEF_GGML_Q5_0, NEF_GGML_Q4_K, NEF_GGML_Q5_K,
                                         NEF_GGML_Q6_K};
    const struct nef_kernels *const *sets;

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(quantized); t++)
        for (uint32_t fill = 0; fill < 3; fill++)
            for (uint32_t rows = 1; rows < 16; rows += 7) {
                static const uint8_t bytes[] = {0x00, 0xff, 0x80};
                static const uint16_t one = 0x3c00;
                uint32_t weights, block;
                float expected[16 * 16], y[16 * 16];
                struct random r = {6};
                struct layer l;

                sets = fast_sets();
                layer_init(&l, &r, quantized[t], 16, 512, rows, PLAIN, PLAIN);
                assert_true(nef_ggml_block(quantized[t], &weights, &block));
                memset(l.file, bytes[fill], rows_bytes(quantized[t], 16, 512));
                for (size_t i = 0; i < rows_bytes(quantized[t], 16, 512); i += block) {
                    memcpy(l.file + i + (quantized[t] == NEF_GGML_Q6_K ? 208 : 0), &one, 2);
                    if (quantized[t] == NEF_GGML_Q4_K || quantized[t] == NEF_GGML_Q5_K)
                        memcpy(l.file + i + 2, &one, 2);
                }
                nef_pack(quantized[t], &l.m, l.file, 0, 1, l.payload, l.scales);
                for (uint32_t i = 0; i < rows * 512; i++)
                    l.x[i] = i / 512 % 2 == 0 ? 3.0f : -3.0f;
                run(scalar_set(), &l, 0, rows, 1, expected);
                for (; *sets != NULL; sets++) {
                    run(*sets, &l, 0, rows, 1, y);
                    assert_true(same_floats((*sets)->name, expected, y, (size_t)rows * 16));
                }
                if (quantized[t] == NEF_GGML_Q8_0) /* x is exact here: 512 * 3 * q */
                    assert_true(fabs((double)expected[0] - 1536.0 * (int8_t)bytes[fill]) <= 0.2);
                layer_done(&l);
            }
}

static void test_cuts_do_not_show(void **state)
{
    struct random r = {7};

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(types); t++) {
        const struct nef_kernels *const *sets = fast_sets();
        const uint32_t rows = 37, n = 70;
        float *whole = room(rows * n * sizeof(float)), *cut = room(rows * n * sizeof(float));
        struct layer l;

        layer_init(&l, &r, types[t], n, 768, rows, PLAIN, WILD);
        for (; *sets != NULL; sets++) {
            run(*sets, &l, 0, rows, l.m.tiles, whole);
            run(*sets, &l, 0, rows, 1, cut);
            assert_true(same_floats("one tile at a time", whole, cut, rows * n));
            run(*sets, &l, 0, rows, 3, cut);
            assert_true(same_floats("three tiles at a time", whole, cut, rows * n));
            for (uint32_t row = 0, part = 1; row < rows; row += part, part = 1 + random_below(&r, 13)) {
                part = NEF_MIN(part, rows - row);
                run(*sets, &l, row, part, 2, cut + row * n);
            }
            assert_true(same_floats("some rows at a time", whole, cut, rows * n));
        }
        layer_done(&l);
        free(whole);
        free(cut);
    }
}

static void test_scalar_is_near_float64(void **state)
{
    struct random r = {8};

    (void)state;
    (void)fast_sets();
    for (size_t t = 0; t < NEF_COUNT(types); t++) {
        const uint32_t rows = 3, n = 33, k = 768;
        float *y = room(rows * n * sizeof(float)), *w = room(k * sizeof(float));
        struct layer l;

        layer_init(&l, &r, types[t], n, k, rows, PLAIN, PLAIN);
        run(scalar_set(), &l, 0, rows, l.m.tiles, y);
        for (uint32_t i = 0; i < n; i++) {
            nef_unpack_row(&l.m, i, w);
            for (uint32_t row = 0; row < rows; row++) {
                double sum = 0, size = 0, weight = 0, bound;

                for (uint32_t c = 0; c < k; c++) {
                    sum += (double)l.x[row * k + c] * (double)w[c];
                    size += fabs((double)l.x[row * k + c] * (double)w[c]);
                    weight += fabs((double)w[c]);
                }
                bound = CHAIN_STEP * size;
                if (types[t] == NEF_GGML_BF16)
                    bound += BF16_STEP * size;
                else if (types[t] != NEF_GGML_F16 && types[t] != NEF_GGML_F32)
                    bound +=
                        X16_STEP * weight + CHAIN_STEP * 40 * weight; /* q*s and m are summed apart: both are larger */
                assert_true(fabs((double)y[row * n + i] - sum) <= bound);
            }
        }
        layer_done(&l);
        free(y);
        free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_keeps_every_row),
        cmocka_unit_test(test_shapes_are_checked),
        cmocka_unit_test(test_sets_equal_scalar_for_every_row_count),
        cmocka_unit_test(test_sets_equal_scalar_for_shapes),
        cmocka_unit_test(test_sets_equal_scalar_for_512_rows),
        cmocka_unit_test(test_nans_and_infinities_stay_in_their_group),
        cmocka_unit_test(test_extremes_do_not_overflow),
        cmocka_unit_test(test_cuts_do_not_show),
        cmocka_unit_test(test_scalar_is_near_float64),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
