/* Log probabilities and penalties against a plain reference in double with libm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "infer/engine/logprob.h"
#include "infer/engine/penalty.h"

#define VOCAB 3001

static void make_logits(float *logits, uint32_t vocab, uint64_t seed, float spread)
{
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = (float)(nef_sampler_random(seed, i) + nef_sampler_random(seed, vocab + i) - 1.0) * spread;
}

static double reference_log_sum(const float *logits, uint32_t vocab)
{
    double most = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < vocab; i++)
        most = fmax(most, (double)logits[i]);
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum);
}

static void logprobs_are_those_of_the_definition(void **state)
{
    static const uint32_t sizes[] = {1, 2, 15, 16, 17, 31, 1000, VOCAB};
    float logits[VOCAB];

    (void)state;
    for (size_t n = 0; n < NEF_COUNT(sizes); n++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            float spread = (float[]){0, 1, 10, 60, 400}[seed % 5];
            struct nef_logsum sum;
            double expected;

            make_logits(logits, sizes[n], seed, spread);
            if (seed % 7 == 3 && sizes[n] > 2)
                logits[1] = -INFINITY;
            expected = reference_log_sum(logits, sizes[n]);
            assert_int_equal(nef_logsum(logits, sizes[n], &sum), NEF_OK);
            for (uint32_t i = 0; i < sizes[n]; i += 1 + sizes[n] / 50) {
                double got = (double)nef_logprob_of(&sum, logits[i]), want = (double)logits[i] - expected;

                if (isinf(want))
                    assert_true(got == want);
                else
                    assert_true(fabs(got - want) <= 1e-6 + 1e-7 * fabs(want));
            }
        }
}

/* The bits of a few, so that no change of compiler, order or machine passes unnoticed. */
static void logprobs_have_known_bits(void **state)
{
    float logits[VOCAB];
    struct nef_logsum sum;

    (void)state;
    make_logits(logits, VOCAB, 7, 12);
    assert_int_equal(nef_logsum(logits, VOCAB, &sum), NEF_OK);
    assert_true(fabs((double)sum.largest + sum.log - reference_log_sum(logits, VOCAB)) < 1e-6);
    assert_true(sum.log == 0x1.ac7ca0a71a576p+1);
    assert_true(nef_logprob_of(&sum, logits[100]) == -0x1.807dfcp+3f);
}

static void no_distribution_is_refused(void **state)
{
    static const float bad[][3] = {{1, NAN, 2}, {INFINITY, 1, 2}, {-INFINITY, -INFINITY, -INFINITY}};
    struct nef_logsum sum = {42, 42};

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(bad); i++)
        assert_int_equal(nef_logsum(bad[i], 3, &sum), NEF_E_CORRUPT);
    assert_true(sum.largest == 42 && sum.log == 42);
}

static const float *sort_by;

static int more_likely(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    if (sort_by[x] != sort_by[y])
        return sort_by[x] > sort_by[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static void the_most_likely_ones_are_told(void **state)
{
    float logits[VOCAB];
    uint32_t order[VOCAB];

    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        uint32_t vocab = seed % 3 == 0 ? 10 : VOCAB, count = (uint32_t)seed % 21, got, finite = 0;
        struct nef_logprob top[20];
        struct nef_logsum sum;

        make_logits(logits, vocab, seed, 9);
        for (uint32_t i = 0; i < vocab; i++) {
            if (seed % 2 == 0)
                logits[i] = floorf(logits[i]); /* many are equal */
            if (seed % 5 == 0 && i % 2 == 0)
                logits[i] = -INFINITY;
            finite += logits[i] > -INFINITY;
            order[i] = i;
        }
        sort_by = logits;
        qsort(order, vocab, sizeof(order[0]), more_likely);
        assert_int_equal(nef_logsum(logits, vocab, &sum), NEF_OK);
        got = nef_logprob_top(&sum, logits, vocab, count, top);
        assert_int_equal(got, NEF_MIN(count, finite));
        for (uint32_t i = 0; i < got; i++) {
            assert_int_equal(top[i].token, order[i]);
            assert_true(top[i].logprob == nef_logprob_of(&sum, logits[order[i]]));
        }
    }
}

static void penalties_are_vllms(void **state)
{
    float logits[VOCAB], expected[VOCAB];

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint32_t generated[VOCAB] = {0}, prompt[VOCAB] = {0}, count = (uint32_t)(seed * 60);
        const struct nef_sampling s = {.repetition_penalty = seed % 3 == 0 ? 0 : 1.3f,
                                       .frequency_penalty = seed % 2 == 0 ? 0.4f : -0.3f,
                                       .presence_penalty = seed % 5 == 0 ? 0 : 1.1f};
        struct nef_tally *tally;

        make_logits(logits, VOCAB, seed, 5);
        memcpy(expected, logits, sizeof(logits));
        assert_true(nef_penalties_wanted(&s));
        assert_int_equal(nef_tally_new(&tally), NEF_OK);
        for (uint32_t i = 0; i < count; i++) {
            bool said = i >= count / 2;
            uint32_t token = (uint32_t)(nef_sampler_random(seed + 1000, i) * (seed % 4 == 1 ? 30 : VOCAB));

            assert_int_equal(nef_tally_add(tally, token, said), NEF_OK);
            if (said)
                generated[token]++;
            else
                prompt[token]++;
        }
        nef_tally_apply(tally, &s, logits);
        for (uint32_t i = 0; i < VOCAB; i++) {
            float r = s.repetition_penalty == 0 ? 1 : s.repetition_penalty;

            if (prompt[i] + generated[i] > 0)
                expected[i] = expected[i] > 0 ? expected[i] / r : expected[i] * r;
            if (generated[i] > 0) {
                expected[i] = expected[i] - s.frequency_penalty * (float)generated[i];
                expected[i] = expected[i] - s.presence_penalty;
            }
        }
        assert_memory_equal(logits, expected, sizeof(logits));
        nef_tally_free(tally);
    }
    assert_false(nef_penalties_wanted(&(struct nef_sampling){.temperature = 1}));
    assert_false(nef_penalties_wanted(&(struct nef_sampling){.repetition_penalty = 1}));
    nef_tally_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logprobs_are_those_of_the_definition),
        cmocka_unit_test(logprobs_have_known_bits),
        cmocka_unit_test(no_distribution_is_refused),
        cmocka_unit_test(the_most_likely_ones_are_told),
        cmocka_unit_test(penalties_are_vllms),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
