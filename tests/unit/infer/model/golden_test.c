/* The forward pass against references: float64 on the dequantized weights, and llama.cpp (tests/data/infer/README.md).
 *
 *   F32         every logit within 1e-4 of the reference, and rms as for the others
 *   the others  rms distance from the reference not larger than llama.cpp's, with an F32 cache as llama.cpp's
 *   references have,
 *               and also with the default one (BF16), but for BF16 weights: there both round activations to the same 8
 *               bits, so nothing is left to pay for the cache, and three times llama.cpp's is allowed
 *   chains      greedy tokens are the reference's, wherever the gap to the second best is not within that distance */
#include "fixture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const models[] = {
    "qwen2-nano-f32",      "qwen3-nano-f32",   "qwen2-nano-Q8_0",   "qwen3-nano-Q8_0",     "qwen3-nano-Q4_0",
    "qwen3-pico-q4_k_m",   "qwen3-pico-q5_k_m", "qwen3-pico-q6_k", "qwen3-pico-f16",       "qwen3-pico-bf16",
    "qwen2-pico-q5_0",     "qwen3-pico-yarn-q8_0",
};
#define MODELS (sizeof(models) / sizeof(models[0]))

static double rms(const float *a, const float *b, uint32_t count, double *out_max)
{
    double sum = 0, most = 0;

    for (uint32_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);

        sum += d * d;
        most = d > most ? d : most;
    }
    *out_max = most;
    return sqrt(sum / count);
}

static bool is_f32(const char *name)
{
    return strstr(name, "-f32") != NULL;
}

static void check_model(const char *name, const char *kernels, bool default_cache)
{
    struct fixture f;
    struct cases c;

    fixture_open(&f, name, kernels, 2);
    cases_open(&c, name, f.vocab);
    for (uint32_t i = 0; i < c.count; i++) {
        const float *reference = c.reference + (size_t)i * f.vocab;
        struct nef_kv_cache *cache = cache_open(&f, default_cache ? nef_model_kv_default(f.model) : NEF_KV_F32, 4);
        float *logits = logits_of(&f, cache, c.prompt[i], c.prompt_count[i], 0);
        double most, llama_most, ours = rms(logits, reference, f.vocab, &most);
        double llama = rms(c.llama + (size_t)i * f.vocab, reference, f.vocab, &llama_most);

        print_message("%-22s %2u tokens: rms %.2e (llama.cpp %.2e), most %.2e\n", name, c.prompt_count[i], ours, llama,
                      most);
        if (is_f32(name))
            assert_true(most <= 1e-4 && ours <= llama);
        else if (strstr(name, "-bf16") != NULL)
            /* the same roundings, so nearly the same distance */
            assert_true(ours <= llama * 1.001);
        else
            assert_true(ours <= llama);
        free(logits);
        nef_kv_close(cache);
    }
    cases_close(&c);
    fixture_close(&f);
}

static void logits_are_as_near_as_promised(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++)
        check_model(models[i], NULL, false);
}

static void with_the_default_cache_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++)
        check_model(models[i], NULL, true);
}

static void scalar_is_as_near(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++)
        check_model(models[i], "scalar", false);
}

/* Follow the reference's chain (so that one flip doesn't end the comparison) and compare each next token. */
static void greedy_chains(void **state)
{
    uint32_t compared = 0, near = 0;

    (void)state;
    for (size_t m = 0; m < MODELS; m++) {
        struct fixture f;
        struct cases c;

        fixture_open(&f, models[m], NULL, 2);
        cases_open(&c, models[m], f.vocab);
        for (uint32_t i = 0; i < c.count; i++) {
            static const uint8_t salt[32];
            struct nef_kv_cache *cache = cache_open(&f, nef_model_kv_default(f.model), 4);
            struct nef_kv_sequence *sequence;
            float *logits = logits_of(&f, cache, c.prompt[i], c.prompt_count[i], 0);
            double most, llama = rms(c.llama + (size_t)i * f.vocab, c.reference + (size_t)i * f.vocab, f.vocab, &most);
            double within = is_f32(models[m]) ? 1e-3 : 6 * llama; /* both logits may be off, in opposite directions */
            uint32_t cached;

            assert_int_equal(nef_kv_sequence_open(cache, salt, c.prompt[i], c.prompt_count[i], &cached, &sequence),
                             NEF_OK);
            for (uint32_t t = 0; t + 1 < c.prompt_count[i]; t++)
                step(&f, sequence, c.prompt[i][t], t, logits);
            step(&f, sequence, c.prompt[i][c.prompt_count[i] - 1], c.prompt_count[i] - 1, logits);
            for (uint32_t t = 0; t < c.greedy_count[i]; t++) {
                uint32_t token = argmax(logits, f.vocab);

                compared++;
                if (c.gap[i][t] <= within)
                    near++;
                else
                    assert_int_equal(token, c.greedy[i][t]);
                if (is_f32(models[m]))
                    assert_int_equal(token, c.greedy[i][t]);
                step(&f, sequence, c.greedy[i][t], c.prompt_count[i] + t, logits);
            }
            nef_kv_sequence_close(sequence);
            nef_kv_close(cache);
            free(logits);
        }
        cases_close(&c);
        fixture_close(&f);
    }
    print_message("%u tokens compared, %u of them too near to another one to tell\n", compared, near);
    assert_true(near * 2 < compared);
}

/* I8 keeps about 7 bits of keys and values: coarser, but not another model. */
static void int8_cache_is_near(void **state)
{
    (void)state;
    for (size_t m = 0; m < MODELS; m++) {
        struct fixture f;
        struct cases c;

        fixture_open(&f, models[m], NULL, 1);
        cases_open(&c, models[m], f.vocab);
        for (uint32_t i = 0; i < c.count; i++) {
            struct nef_kv_cache *cache = cache_open(&f, NEF_KV_I8, 4);
            float *logits = logits_of(&f, cache, c.prompt[i], c.prompt_count[i], 0);
            double most;

            assert_true(rms(logits, c.reference + (size_t)i * f.vocab, f.vocab, &most) < 0.1);
            free(logits);
            nef_kv_close(cache);
        }
        cases_close(&c);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_as_near_as_promised),
        cmocka_unit_test(with_the_default_cache_too),
        cmocka_unit_test(scalar_is_as_near),
        cmocka_unit_test(greedy_chains),
        cmocka_unit_test(int8_cache_is_near),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
