/* Sampling: Philox against Random123's known answers, each filter against its definition, drawn frequencies, edge
 * cases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/philox.h"
#include "infer/engine/sampler.h"

/* kat_vectors of Random123 1.14: philox4x32 10. */
static void philox_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(known); i++) {
        uint32_t out[4];

        nef_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].expected, sizeof(out));
    }
    assert_true(nef_choice_seed(7, 0) == 7); /* a request's seed is its first choice's; others follow from it, for ever */
    assert_true(nef_choice_seed(7, 1) == 0xa6b6376bbd563abaull && nef_choice_seed(UINT64_MAX, 127) == 0x23485c35ffd57e2ull);
    assert_true(nef_sampler_random(0, 0) == (double)(0x6627e8d5e169c58dull >> 11) * 0x1p-53);
}

static void random_numbers_are_uniform(void **state)
{
    uint32_t counts[16] = {0};
    double sum = 0;

    (void)state;
    for (uint64_t i = 0; i < 160000; i++) {
        double u = nef_sampler_random(42, i);

        assert_true(u >= 0 && u < 1);
        counts[(int)(u * 16)]++;
        sum += u;
    }
    assert_true(fabs(sum / 160000 - 0.5) < 0.004); /* 5.5 sigma */
    for (int i = 0; i < 16; i++)
        assert_in_range(counts[i], 9500, 10500);
    assert_true(nef_sampler_random(1, 5) != nef_sampler_random(2, 5));
    assert_true(nef_sampler_random(1, 5) != nef_sampler_random(1ull << 32 | 1, 5));
    assert_true(nef_sampler_random(1, 5) != nef_sampler_random(1, 1ull << 32 | 5));
}

static uint32_t sample(const struct nef_sampling *s, const float *logits, uint32_t vocab, uint64_t position)
{
    void *scratch = malloc(nef_sampler_scratch(vocab));
    uint32_t token = UINT32_MAX;

    assert_int_equal(nef_sample(s, logits, vocab, position, scratch, &token), NEF_OK);
    assert_true(token < vocab);
    free(scratch);
    return token;
}

static void make_logits(float *logits, uint32_t vocab, uint64_t seed, float spread)
{
    for (uint32_t i = 0; i < vocab; i++) { /* about normal: the sum of 4 uniform numbers */
        double sum = 0;

        for (uint64_t j = 0; j < 4; j++)
            sum += nef_sampler_random(seed, i * 4 + j) - 0.5;
        logits[i] = (float)sum * spread * 1.7f;
    }
}

static void greedy(void **state)
{
    const struct nef_sampling s = {.temperature = 0, .top_k = 1, .top_p = 0.1f, .seed = 7};
    float logits[100];

    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        logits[i] = -5;
    logits[70] = logits[30] = logits[99] = 2.5f;
    assert_int_equal(sample(&s, logits, 100, 0), 30); /* the lowest id among equals */
    logits[30] = -INFINITY;
    assert_int_equal(sample(&s, logits, 100, 0), 70);
    assert_int_equal(sample(&s, logits, 1, 0), 0);
}

static void refuses_what_is_no_distribution(void **state)
{
    static const struct nef_sampling all[] = {{.temperature = 0, .top_p = 1}, {.temperature = 1, .top_p = 1},
                                              {.temperature = 1, .top_p = 0.5f}};
    float logits[64];
    void *scratch = malloc(nef_sampler_scratch(64));
    uint32_t token = 77;

    (void)state;
    for (size_t s = 0; s < NEF_COUNT(all); s++) {
        for (uint32_t i = 0; i < 64; i++)
            logits[i] = -INFINITY;
        assert_int_equal(nef_sample(&all[s], logits, 64, 0, scratch, &token), NEF_E_CORRUPT);
        logits[5] = 1;
        assert_int_equal(nef_sample(&all[s], logits, 64, 0, scratch, &token), NEF_OK);
        assert_int_equal(token, 5);
        token = 77;
        logits[9] = NAN;
        assert_int_equal(nef_sample(&all[s], logits, 64, 0, scratch, &token), NEF_E_CORRUPT);
        logits[9] = INFINITY;
        assert_int_equal(nef_sample(&all[s], logits, 64, 0, scratch, &token), NEF_E_CORRUPT);
        assert_int_equal(token, 77);
    }
    free(scratch);
}

/* Drawn frequencies against the probabilities of the definition, computed here in double with libm and a plain sort. */
static const float *sort_by;

static int more_likely(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    if (sort_by[x] != sort_by[y])
        return sort_by[x] > sort_by[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static void probabilities(const struct nef_sampling *s, const float *logits, uint32_t vocab, double *out)
{
    uint32_t *order = malloc(vocab * sizeof(*order)), kept = vocab;
    double sum = 0, at = 0, most;

    for (uint32_t i = 0; i < vocab; i++) {
        order[i] = i;
        out[i] = 0;
    }
    sort_by = logits;
    qsort(order, vocab, sizeof(*order), more_likely);
    if (s->top_k > 0 && s->top_k < kept)
        kept = s->top_k;
    most = logits[order[0]];
    for (uint32_t i = 0; i < kept; i++)
        sum += out[order[i]] = exp((logits[order[i]] - most) / s->temperature);
    for (uint32_t i = 0; i < kept && s->top_p < 1; i++) {
        at += out[order[i]];
        if (at >= s->top_p * sum) {
            for (uint32_t j = i + 1; j < kept; j++)
                out[order[j]] = 0;
            kept = i + 1;
        }
    }
    sum = 0;
    for (uint32_t i = 0; i < kept; i++) {
        if (out[order[i]] < s->min_p)
            out[order[i]] = 0;
        sum += out[order[i]];
    }
    for (uint32_t i = 0; i < vocab; i++)
        out[i] /= sum;
    free(order);
}

static const struct nef_sampling settings[] = {
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.7f, .top_p = 1},
    {.temperature = 1, .top_p = 1, .top_k = 5},
    {.temperature = 2, .top_p = 0.9f},
    {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20},
    {.temperature = 1, .top_p = 1, .min_p = 0.05f},
    {.temperature = 1.5f, .top_p = 0.8f, .top_k = 50, .min_p = 0.1f},
    {.temperature = 1, .top_p = 0.999999f},
    {.temperature = 1, .top_p = 1, .top_k = 1000000},
    {.temperature = 1, .top_p = 0.5f, .top_k = 1000000},
};

static void draws_what_is_defined(void **state)
{
    enum { VOCAB = 700, DRAWS = 10000 };
    float logits[VOCAB];
    double expected[VOCAB];

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(settings); i++) {
        struct nef_sampling s = settings[i];
        uint32_t *counts = calloc(VOCAB, sizeof(*counts)), cells = 0;
        double chi = 0, rest = 0, rest_count = 0;

        make_logits(logits, VOCAB, 100 + i, 3);
        logits[13] = -INFINITY;
        s.seed = 1000 + i;
        probabilities(&s, logits, VOCAB, expected);
        for (uint32_t n = 0; n < DRAWS; n++)
            counts[sample(&s, logits, VOCAB, n)]++;
        for (uint32_t t = 0; t < VOCAB; t++) {
            double e = expected[t] * DRAWS;

            if (expected[t] == 0)
                assert_int_equal(counts[t], 0); /* filtered: never */
            if (e < 20) {
                rest += e;
                rest_count += counts[t];
                continue;
            }
            chi += (counts[t] - e) * (counts[t] - e) / e;
            cells++;
        }
        if (rest >= 20) {
            chi += (rest_count - rest) * (rest_count - rest) / rest;
            cells++;
        }
        /* Chi-squared has mean cells - 1 and variance twice that; five sigma. */
        assert_true(chi < cells + 5 * sqrt(2.0 * cells) + 5);
        free(counts);
    }
}

/* At the size of a real vocabulary the threshold is lowered step by step; equal logits lie across it. */
static void filters_of_a_large_vocabulary(void **state)
{
    enum { VOCAB = 151936 };
    float *logits = malloc(VOCAB * sizeof(float));
    double *expected = malloc(VOCAB * sizeof(double));

    (void)state;
    for (int shape = 0; shape < 4; shape++) {
        for (size_t i = 0; i < NEF_COUNT(settings); i++) {
            struct nef_sampling s = settings[i];

            if (s.top_k == 1000000 && shape > 0)
                continue;
            make_logits(logits, VOCAB, 5, shape == 0 ? 3 : shape == 1 ? 0.01f : 12);
            for (uint32_t t = 0; t < VOCAB && shape == 3; t++)
                logits[t] = floorf(logits[t] / 8); /* thousands of equals */
            s.seed = 9;
            probabilities(&s, logits, VOCAB, expected);
            for (uint32_t n = 0; n < 6; n++) {
                uint32_t token = sample(&s, logits, VOCAB, n);

                if (!(expected[token] > 0)) { /* at the very edge of top_p rounding may decide for a neighbour */
                    double edge = 0;

                    for (uint32_t t = 0; t < VOCAB; t++)
                        if (expected[t] > 0 && (edge == 0 || logits[t] < edge))
                            edge = logits[t];
                    assert_true(s.top_p < 1 && fabs(edge - logits[token]) < 1e-3);
                }
            }
        }
    }
    free(expected);
    free(logits);
}

static void same_seed_and_position_same_token(void **state)
{
    enum { VOCAB = 3000 };
    const struct nef_sampling s = {.temperature = 1, .top_p = 0.9f, .seed = 77},
                              t = {.temperature = 1, .top_p = 0.9f, .seed = 78};
    float logits[VOCAB], before[VOCAB];
    uint32_t differs = 0, differs_seed = 0;

    (void)state;
    make_logits(logits, VOCAB, 3, 3);
    memcpy(before, logits, sizeof(before));
    for (uint64_t n = 0; n < 200; n++) {
        uint32_t token = sample(&s, logits, VOCAB, n);

        assert_int_equal(token, sample(&s, logits, VOCAB, n));
        differs += token != sample(&s, logits, VOCAB, n + 1);
        differs_seed += token != sample(&t, logits, VOCAB, n);
    }
    assert_memory_equal(logits, before, sizeof(before));
    assert_true(differs > 100 && differs_seed > 100);
}

/* What a mask leaves, of many or few: the same as if there were nothing else. */
static void masked_tokens_might_not_be_there(void **state)
{
    const uint32_t vocab = 30011;
    float *logits = malloc(vocab * sizeof(float)), *left = malloc(vocab * sizeof(float));
    uint32_t *ids = malloc(vocab * sizeof(uint32_t));

    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        const uint32_t every = (uint32_t[]){1, 3, 500, 1777, 15000}[seed % 5];
        const struct nef_sampling s = {.temperature = 0.8f,
                                       .top_k = (uint32_t[]){0, 1, 20, 256, 300}[seed / 5 % 5],
                                       .top_p = (float[]){1, 0.9f, 0.2f}[seed % 3],
                                       .min_p = seed % 4 == 0 ? 0.01f : 0,
                                       .seed = seed};
        uint32_t count = 0;

        make_logits(logits, vocab, seed, 4);
        for (uint32_t i = 0; i < vocab; i++)
            if (i % every == seed % every) {
                ids[count] = i;
                left[count++] = logits[i];
            } else {
                logits[i] = -INFINITY;
            }
        for (uint64_t n = 0; n < 4; n++)
            assert_int_equal(sample(&s, logits, vocab, n), ids[sample(&s, left, count, n)]);
    }
    free(logits);
    free(left);
    free(ids);
}

static void extremes(void **state)
{
    float logits[300];

    (void)state;
    make_logits(logits, 300, 4, 3);
    logits[123] = 50;
    for (uint64_t n = 0; n < 50; n++) {
        assert_int_equal(sample(&(struct nef_sampling){.temperature = 1e-30f, .top_p = 1}, logits, 300, n), 123);
        assert_int_equal(sample(&(struct nef_sampling){.temperature = 1, .top_p = 0}, logits, 300, n), 123);
        assert_int_equal(sample(&(struct nef_sampling){.temperature = 5, .top_p = 1, .top_k = 1}, logits, 300, n), 123);
        assert_int_equal(sample(&(struct nef_sampling){.temperature = 5, .top_p = 1, .min_p = 1}, logits, 300, n), 123);
        assert_int_equal(sample(&(struct nef_sampling){.temperature = 5, .top_p = 1, .min_p = 9}, logits, 300, n), 123);
        (void)sample(&(struct nef_sampling){.temperature = 1e30f, .top_p = 0.9f}, logits, 300, n);
    }
    for (uint32_t i = 0; i < 300; i++)
        logits[i] = i % 2 == 0 ? 0.0f : -0.0f; /* all equal: ids alone decide */
    for (uint64_t n = 0; n < 200; n++)
        assert_true(sample(&(struct nef_sampling){.temperature = 1, .top_p = 1, .top_k = 10}, logits, 300, n) < 10);
    for (uint32_t i = 0; i < 300; i++)
        logits[i] = i == 0 ? 3e38f : -3e38f;
    assert_int_equal(sample(&(struct nef_sampling){.temperature = 1, .top_p = 0.99f}, logits, 300, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(random_numbers_are_uniform),
        cmocka_unit_test(greedy),
        cmocka_unit_test(refuses_what_is_no_distribution),
        cmocka_unit_test(draws_what_is_defined),
        cmocka_unit_test(filters_of_a_large_vocabulary),
        cmocka_unit_test(same_seed_and_position_same_token),
        cmocka_unit_test(masked_tokens_might_not_be_there),
        cmocka_unit_test(extremes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
