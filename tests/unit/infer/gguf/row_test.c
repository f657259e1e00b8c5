/* Unit tests of src/infer/gguf/row.c: each type's blocks, against rows that numpy computed exactly
 * (tests/data/infer/rows.*), and against values worked out by hand where random weights don't go: the ends of each
 * range, subnormal and infinite halves, the six-bit scales. All comparisons are of bits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "file.h"

static uint8_t *read_data(const char *name, size_t *out_bytes)
{
    const char *directory = getenv("NEF_TEST_DATA");
    char path[512];
    uint8_t *data;
    FILE *f;
    long end;

    (void)snprintf(path, sizeof(path), "%s/%s", directory != NULL ? directory : "tests/data/infer", name);
    f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("%s is missing", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    end = ftell(f);
    assert_true(end > 0);
    rewind(f);
    data = malloc((size_t)end + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)end, f), (size_t)end);
    data[end] = '\0';
    (void)fclose(f);
    *out_bytes = (size_t)end;
    return data;
}

static void rows_of_model_files_are_exact(void **state)
{
    static const enum nef_ggml_type all[] = {NEF_GGML_F32,  NEF_GGML_F16,  NEF_GGML_BF16, NEF_GGML_Q8_0, NEF_GGML_Q4_0,
                                             NEF_GGML_Q5_0, NEF_GGML_Q4_K, NEF_GGML_Q5_K, NEF_GGML_Q6_K};
    size_t list_bytes, wanted_bytes, bytes, at = 0;
    char *list = (char *)read_data("rows.txt", &list_bytes), *rest = list, *line;
    uint8_t *wanted = read_data("rows.f32", &wanted_bytes), *data;
    uint64_t seen = 0;

    (void)state;
    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
        char model[64], path[80], tensor[64], error[NEF_GGUF_ERROR_MAX];
        unsigned long row, columns;
        const struct nef_gguf_tensor *t;
        struct nef_gguf *file;
        float out[1024];

        assert_int_equal(sscanf(line, "%63s %63s %lu %lu", model, tensor, &row, &columns), 4);
        (void)snprintf(path, sizeof(path), "%s.gguf", model);
        data = read_data(path, &bytes);
        if (nef_gguf_parse(data, bytes, error, &file) != NEF_OK)
            fail_msg("%s: %s", path, error);
        t = nef_gguf_tensor(file, tensor);
        assert_non_null(t);
        assert_int_equal(t->dims[0], columns);
        assert_true(columns <= NEF_COUNT(out) && at + columns * sizeof(float) <= wanted_bytes);
        nef_gguf_row(t, row, out);
        if (memcmp(out, wanted + at, columns * sizeof(float)) != 0)
            fail_msg("%s %s (%s) row %lu differs", model, tensor, nef_ggml_type_name(t->type), row);
        at += columns * sizeof(float);
        seen |= 1ull << t->type;
        nef_gguf_free(file);
        free(data);
    }
    assert_int_equal(at, wanted_bytes);
    for (size_t i = 0; i < NEF_COUNT(all); i++)
        assert_true(seen >> all[i] & 1);
    free(list);
    free(wanted);
}

/* One row of one block (or COUNT floats) of DATA. */
static void row_of(uint32_t type, uint64_t count, const uint8_t *data, float *out)
{
    struct nef_gguf_tensor t = {.dims_count = 1, .dims = {count, 1, 1, 1}, .type = type, .data = data};

    nef_gguf_row(&t, 0, out);
}

static void assert_bits(float got, double wanted)
{
    float w = (float)wanted;

    if (memcmp(&got, &w, sizeof(w)) != 0)
        fail_msg("%a, not %a", (double)got, wanted);
}

static void every_half_is_converted_exactly(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
        double sign = bits & 0x8000 ? -1.0 : 1.0;
        uint8_t data[2] = {(uint8_t)bits, (uint8_t)(bits >> 8)};
        float out;

        row_of(NEF_GGML_F16, 1, data, &out);
        if (exponent == 31 && fraction != 0)
            assert_true(isnan(out));
        else if (exponent == 31)
            assert_bits(out, sign * (double)INFINITY);
        else if (exponent == 0)
            assert_bits(out, sign * ldexp(fraction, -24));
        else
            assert_bits(out, sign * ldexp(1024 + fraction, (int)exponent - 25));
    }
}

static void bf16_is_the_upper_half_of_a_float(void **state)
{
    static const uint8_t data[] = {0x80, 0x3f, 0x00, 0x80, 0x80, 0xff, 0x49, 0x40};
    float out[4];

    (void)state;
    row_of(NEF_GGML_BF16, 4, data, out);
    assert_bits(out[0], 1.0);
    assert_bits(out[1], -0.0);
    assert_bits(out[2], -(double)INFINITY);
    assert_bits(out[3], 3.140625);
}

static void blocks_of_32_reach_both_ends(void **state)
{
    uint8_t q8[34] = {0x00, 0x3c}, q4[18] = {0x01, 0x00}, q5[22] = {0xff, 0xfb};
    float out[32];

    (void)state;
    q8[2] = 0x80;
    q8[33] = 0x7f;
    row_of(NEF_GGML_Q8_0, 32, q8, out);
    assert_bits(out[0], -128);
    assert_bits(out[1], 0);
    assert_bits(out[31], 127);

    q4[2] = 0xf0;  /* weight 0: nibble 0, weight 16: nibble 15 */
    q4[17] = 0x8e; /* weight 15: 14, weight 31: 8 */
    row_of(NEF_GGML_Q4_0, 32, q4, out);
    assert_bits(out[0], ldexp(-8, -24));
    assert_bits(out[16], ldexp(7, -24));
    assert_bits(out[15], ldexp(6, -24));
    assert_bits(out[31], 0.0);

    q5[5] = 0x80;  /* the fifth bit of weight 31 */
    q5[6] = 0x0f;  /* weight 0: 15, weight 16: 0 */
    q5[21] = 0xf1; /* weight 15: 1, weight 31: 15 and the fifth bit */
    row_of(NEF_GGML_Q5_0, 32, q5, out);
    assert_bits(out[0], -65504.0 * (15 - 16));
    assert_bits(out[16], -65504.0 * (0 - 16));
    assert_bits(out[15], -65504.0 * (1 - 16));
    assert_bits(out[31], -65504.0 * (31 - 16));
}

/* Scales and offsets are 6 bits, spread over 12 bytes; each sub-block gets its own here. */
static void six_bit_scales_are_found(void **state)
{
    (void)state;
    for (uint32_t bits = 4; bits <= 5; bits++) {
        uint8_t block[176] = {0x00, 0x3c, 0x00, 0x38}, *low = block + (bits == 4 ? 16 : 48); /* d = 1, dmin = 0.5 */
        uint32_t sc[8], m[8];
        float out[256];

        for (uint32_t j = 0; j < 8; j++) {
            sc[j] = 63 - 7 * j;
            m[j] = 9 * j;
            if (j < 4) {
                block[4 + j] |= (uint8_t)sc[j];
                block[8 + j] |= (uint8_t)m[j];
            } else {
                block[4 + j - 4] |= (uint8_t)(sc[j] >> 4 << 6);
                block[4 + j] |= (uint8_t)(m[j] >> 4 << 6);
                block[4 + j + 4] |= (uint8_t)((sc[j] & 15) | (m[j] & 15) << 4);
            }
        }
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t j = i / 32, l = i % 32, q = (i * 7 + j) % (1u << bits);

            low[j / 2 * 32 + l] |= (uint8_t)((q & 15) << (j % 2 * 4));
            if (bits == 5)
                block[16 + l] |= (uint8_t)(q >> 4 << j);
        }
        row_of(bits == 4 ? NEF_GGML_Q4_K : NEF_GGML_Q5_K, 256, block, out);
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t j = i / 32, q = (i * 7 + j) % (1u << bits);

            assert_bits(out[i], sc[j] * (double)q - 0.5 * m[j]);
        }
    }
}

/* d*sc*q - dmin*m is rounded once, also where its terms lie far apart. */
static void products_less_offsets_are_rounded_once(void **state)
{
    uint8_t block[144] = {0xff, 0x3f, 0x01, 0x00}; /* d = 2047/1024, dmin = 2^-24 */
    float out[256];

    (void)state;
    block[4] = 63;
    block[8] = 1;
    memset(block + 16, 0xff, 128);
    row_of(NEF_GGML_Q4_K, 256, block, out);
    assert_bits(out[0], 2047.0 / 1024 * 63 * 15 - 0x1p-24);
    block[0] = 0x00; /* 2^15 * 63 * 15 - 63 * 2^-24 needs 51 bits */
    block[1] = 0x78;
    block[8] = 63;
    row_of(NEF_GGML_Q4_K, 256, block, out);
    assert_bits(out[0], 32768.0 * 63 * 15 - 63 * 0x1p-24);
    assert_true((double)out[0] == 32768.0 * 63 * 15);
}

static void q6_k_has_signed_scales_for_16_weights(void **state)
{
    uint8_t block[210] = {0};
    float out[256];

    (void)state;
    block[208] = 0x00;
    block[209] = 0x3c; /* d = 1 */
    for (uint32_t g = 0; g < 16; g++)
        block[192 + g] = (uint8_t)(g % 2 == 0 ? -128 + (int)g : 127 - (int)g);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t q = i * 11 % 64, half = i / 128, quarter = i % 128 / 32, l = i % 32;

        block[half * 64 + quarter % 2 * 32 + l] |= (uint8_t)((q & 15) << (quarter / 2 * 4));
        block[128 + half * 32 + l] |= (uint8_t)(q >> 4 << quarter * 2);
    }
    row_of(NEF_GGML_Q6_K, 256, block, out);
    for (uint32_t i = 0; i < 256; i++) {
        int g = (int)i / 16, sc = g % 2 == 0 ? -128 + g : 127 - g, q = (int)(i * 11 % 64) - 32;

        assert_bits(out[i], q == 0 && sc < 0 ? -0.0 : (double)sc * q);
    }
}

static void rows_follow_each_other(void **state)
{
    float data[24], out[4];
    struct nef_gguf_tensor t = {.dims_count = 3, .dims = {4, 3, 2, 1}, .data = (const uint8_t *)data};

    (void)state;
    for (int i = 0; i < 24; i++)
        data[i] = (float)i;
    nef_gguf_row(&t, 5, out);
    assert_bits(out[0], 20);
    assert_bits(out[3], 23);
}

static void block_sizes_and_names(void **state)
{
    uint32_t weights = 1, bytes = 1;

    (void)state;
    for (uint32_t type = 0; type < 64; type++) {
        bool known = nef_ggml_block(type, &weights, &bytes);

        assert_int_equal(known, nef_ggml_type_name(type) != NULL);
        assert_true(weights >= 1 && weights <= 256 && bytes >= 2 && bytes <= 210);
    }
    assert_true(nef_ggml_block(NEF_GGML_Q5_K, &weights, &bytes));
    assert_true(weights == 256 && bytes == 176);
    assert_string_equal(nef_ggml_type_name(NEF_GGML_BF16), "BF16");
}

int run_row_tests(void)
{
    const struct CMUnitTest row_tests[] = {
        cmocka_unit_test(rows_of_model_files_are_exact),
        cmocka_unit_test(every_half_is_converted_exactly),
        cmocka_unit_test(bf16_is_the_upper_half_of_a_float),
        cmocka_unit_test(blocks_of_32_reach_both_ends),
        cmocka_unit_test(six_bit_scales_are_found),
        cmocka_unit_test(products_less_offsets_are_rounded_once),
        cmocka_unit_test(q6_k_has_signed_scales_for_16_weights),
        cmocka_unit_test(rows_follow_each_other),
        cmocka_unit_test(block_sizes_and_names),
    };

    return cmocka_run_group_tests(row_tests, NULL, NULL);
}
