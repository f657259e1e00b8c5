/* The same bits, however a prompt gets through the model (docs/numerics.md): alone or beside others, with any number of
 * threads, cut into chunks of any size, with pages found or computed, by every set of kernels, with every type of
 * cache.
 *
 * Everything is compared with one run: scalar, one thread, one row at a time. */
#include "fixture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

static const enum nef_kv_type kv_types[] = {NEF_KV_F32, NEF_KV_BF16, NEF_KV_I8};
static const char *const models[] = {"qwen2-nano-Q8_0", "qwen3-nano-f32",     "qwen3-nano-Q4_0", "qwen3-pico-bf16",
                                     "qwen3-pico-f16",  "qwen3-pico-q4_k_m", "qwen3-pico-q6_k", "qwen2-pico-q5_0"};

static void assert_bits(const float *a, const float *b, uint32_t count)
{
    assert_memory_equal(a, b, count * sizeof(float));
}

/* Under a sanitizer the kernels are some ten times slower, and equal bits are equal in either build: a part of the
 * combinations there, all of them in the plain build (make soak). */
#ifdef __SANITIZE_ADDRESS__
#define THINNED     9
#define LONG_TOKENS 1100
#else
#define THINNED     3
#define LONG_TOKENS 2200
#endif

static float *reference(const char *name, enum nef_kv_type type, const uint32_t *tokens, uint32_t count)
{
    struct fixture f;
    struct nef_kv_cache *cache;
    float *logits;

    fixture_open(&f, name, "scalar", 1);
    cache = cache_open(&f, type, count / NEF_KV_TILE + 1);
    logits = logits_of(&f, cache, tokens, count, 1);
    nef_kv_close(cache);
    fixture_close(&f);
    return logits;
}

static void check(const char *name, const char *kernels, uint32_t threads, uint32_t chunk, enum nef_kv_type type,
                  const uint32_t *tokens, uint32_t count, const float *expected)
{
    struct fixture f;
    struct nef_kv_cache *cache;
    float *logits;

    fixture_open(&f, name, kernels, threads);
    cache = cache_open(&f, type, count / NEF_KV_TILE + 1);
    logits = logits_of(&f, cache, tokens, count, chunk);
    if (memcmp(logits, expected, f.vocab * sizeof(float)) != 0)
        print_error("%s, %s, %u threads, chunks of %u, cache type %d\n", name, kernels, threads, chunk, (int)type);
    assert_bits(logits, expected, f.vocab);
    free(logits);
    nef_kv_close(cache);
    fixture_close(&f);
}

static void threads_chunks_and_kernels(void **state)
{
    static const uint32_t threads[] = {1, 2, 3, 5}, chunks[] = {0, 1, 7, 64, 65};
    const char *kernels[8];
    uint32_t sets = kernel_names(kernels), tokens[150];

    (void)state;
    make_tokens(tokens, 150, 288, 1);
    for (size_t m = 0; m < NEF_COUNT(models); m++)
        for (size_t t = 0; t < NEF_COUNT(kv_types); t++) {
            float *expected = reference(models[m], kv_types[t], tokens, 150);

            for (uint32_t k = 0; k < sets; k++)
                for (size_t i = 0; i < NEF_COUNT(threads); i++)
                    for (size_t c = 0; c < NEF_COUNT(chunks); c++)
                        if ((i + c + k) % THINNED == 0 || (chunks[c] == 0 && threads[i] == 2))
                            check(models[m], kernels[k], threads[i], chunks[c], kv_types[t], tokens, 150, expected);
            free(expected);
        }
}

/* More than one segment, so that tasks are split and joined; the split depends on the number of threads. */
static void long_sequences(void **state)
{
    enum { COUNT = LONG_TOKENS };
    const char *kernels[8];
    uint32_t sets = kernel_names(kernels), *tokens = malloc(COUNT * sizeof(*tokens));

    (void)state;
    make_tokens(tokens, COUNT, 288, 2);
    for (size_t t = 0; t < NEF_COUNT(kv_types); t++) {
        struct fixture f;
        struct nef_kv_cache *cache;
        float *expected;

        fixture_open(&f, "qwen3-pico-bf16", kernels[sets - 1], 1);
        cache = cache_open(&f, kv_types[t], COUNT / NEF_KV_TILE + 1);
        expected = logits_of(&f, cache, tokens, COUNT, 0);
        nef_kv_close(cache);
        fixture_close(&f);
        check("qwen3-pico-bf16", kernels[sets - 1], 2, 100, kv_types[t], tokens, COUNT, expected);
        check("qwen3-pico-bf16", kernels[sets - 1], 5, 1, kv_types[t], tokens, COUNT, expected);
        check("qwen3-pico-bf16", kernels[sets - 1], 7, 0, kv_types[t], tokens, COUNT, expected);
        if (sets > 1)
            check("qwen3-pico-bf16", kernels[sets - 2], 3, 0, kv_types[t], tokens, COUNT, expected);
        check("qwen3-pico-bf16", "scalar", 4, 0, kv_types[t], tokens, COUNT, expected);
        free(expected);
    }
    free(tokens);
}

/* Several sequences side by side in one batch, at different depths, some deciding, some computing their prompts. */
static void beside_others(void **state)
{
    enum { SEQUENCES = 9 };
    static const uint32_t counts[SEQUENCES] = {1, 2, 17, 63, 64, 65, 130, 200, 31};
    static const uint32_t chunk[SEQUENCES] = {1, 1, 5, 9, 64, 13, 40, 3, 1};
    static const uint8_t salt[32];

    (void)state;
    for (size_t m = 0; m < NEF_COUNT(models); m++) {
        uint32_t tokens[SEQUENCES][200], at[SEQUENCES], left = SEQUENCES;
        float *expected[SEQUENCES], *logits;
        struct nef_kv_sequence *sequence[SEQUENCES];
        struct nef_kv_cache *cache;
        struct fixture f;

        fixture_open(&f, models[m], NULL, 3);
        cache = cache_open(&f, NEF_KV_BF16, 40);
        logits = malloc(SEQUENCES * f.vocab * sizeof(float));
        for (uint32_t i = 0; i < SEQUENCES; i++) {
            make_tokens(tokens[i], counts[i], f.vocab, 100 + i);
            expected[i] = reference(models[m], NEF_KV_BF16, tokens[i], counts[i]);
            assert_int_equal(nef_kv_sequence_open(cache, salt, tokens[i], counts[i], &at[i], &sequence[i]), NEF_OK);
            assert_int_equal(nef_kv_reserve(sequence[i], counts[i]), NEF_OK);
        }
        assert_int_equal(nef_kernels_thread_enter(nef_model_kernels(f.model)), NEF_OK);
        while (left > 0) {
            struct nef_row rows[NEF_BATCH_ROWS_MAX];
            uint32_t n = 0, wanted = 0, ended[SEQUENCES];

            for (uint32_t i = 0; i < SEQUENCES; i++)
                for (uint32_t r = 0; r < chunk[i] && at[i] < counts[i]; r++, at[i]++) {
                    bool last = at[i] + 1 == counts[i];

                    rows[n++] = (struct nef_row){sequence[i], tokens[i][at[i]], at[i], last};
                    if (last)
                        ended[wanted++] = i;
                }
            assert_int_equal(nef_model_forward(f.model, rows, n, logits), NEF_OK);
            for (uint32_t w = 0; w < wanted; w++, left--)
                assert_bits(logits + w * f.vocab, expected[ended[w]], f.vocab);
        }
        for (uint32_t i = 0; i < SEQUENCES; i++) {
            nef_kv_sequence_close(sequence[i]);
            free(expected[i]);
        }
        free(logits);
        nef_kv_close(cache);
        fixture_close(&f);
    }
}

/* A second sequence with the same beginning takes its pages and gets the bits of a cold one. */
static void found_pages(void **state)
{
    uint32_t tokens[200];

    (void)state;
    for (size_t t = 0; t < NEF_COUNT(kv_types); t++) {
        struct fixture f;
        struct nef_kv_cache *warm, *cold;
        float *a, *b, *c;

        fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
        warm = cache_open(&f, kv_types[t], 8);
        cold = cache_open(&f, kv_types[t], 8);
        make_tokens(tokens, 200, f.vocab, 5);
        a = logits_of(&f, warm, tokens, 200, 33);
        make_tokens(tokens + 140, 60, f.vocab, 6);
        b = logits_of(&f, warm, tokens, 200, 0); /* 128 positions are found */
        c = logits_of(&f, cold, tokens, 200, 1);
        assert_bits(b, c, f.vocab);
        assert_memory_not_equal(a, b, f.vocab * sizeof(float));
        free(a);
        free(b);
        free(c);
        nef_kv_close(warm);
        nef_kv_close(cold);
        fixture_close(&f);
    }
}

/* Hidden states: of the rows that want them, in row order, the same bits whatever is beside them, and those that the
 * logits are made of. */
static void hidden_states(void **state)
{
    static const uint8_t salt[2][32] = {{1}, {2}};
    static const uint32_t chunks[] = {1, 7, 100};
    float *expected = NULL, *logits[2];
    uint32_t tokens[100], width;
    struct fixture f;

    (void)state;
    fixture_open(&f, "qwen3-nano-f32", NULL, 2);
    width = nef_model_config(f.model)->embedding;
    make_tokens(tokens, 100, f.vocab, 3);
    logits[0] = malloc(100 * f.vocab * sizeof(float));
    logits[1] = malloc(100 * f.vocab * sizeof(float));
    for (size_t c = 0; c < NEF_COUNT(chunks); c++)
        for (int with_logits = 0; with_logits < 2; with_logits++) {
            struct nef_kv_cache *cache = cache_open(&f, NEF_KV_F32, 8);
            float *got = calloc(100 * width, sizeof(float));
            struct nef_kv_sequence *s[2];
            uint32_t cached;

            for (int i = 0; i < 2; i++) {
                assert_int_equal(nef_kv_sequence_open(cache, salt[i], NULL, 0, &cached, &s[i]), NEF_OK);
                assert_int_equal(nef_kv_reserve(s[i], 100), NEF_OK);
            }
            for (uint32_t at = 0; at < 100;) {
                uint32_t n = NEF_MIN(chunks[c], 100 - at), count = 0, wanted = 0;
                struct nef_row rows[200];

                for (uint32_t i = 0; i < n; i++) /* every third */
                    rows[count++] = (struct nef_row){s[0], tokens[at + i], at + i, with_logits != 0, (at + i) % 3 == 0};
                for (uint32_t i = 0; i < n; i++)
                    rows[count++] = (struct nef_row){s[1], tokens[99 - at - i], at + i, false, c == 1};
                assert_int_equal(nef_model_forward(f.model, rows, count, logits[0]), NEF_OK);
                for (uint32_t i = 0; i < n; i++)
                    if ((at + i) % 3 == 0)
                        memcpy(got + (at + i) * width, nef_model_hidden(f.model) + wanted++ * width,
                               width * sizeof(float));
                if (with_logits && at == 0 && c == 0)
                    memcpy(logits[1], logits[0], f.vocab * sizeof(float));
                at += n;
            }
            if (expected == NULL)
                expected = got;
            else {
                assert_bits(got, expected, 100 * width);
                free(got);
            }
            for (int i = 0; i < 2; i++)
                nef_kv_sequence_close(s[i]);
            nef_kv_close(cache);
        }
    for (uint32_t i = 0; i < f.vocab; i += 97) { /* the tied embedding of token i, times the hidden state */
        const struct nef_gguf_tensor *t = nef_gguf_tensor(nef_model_metadata(f.model), "token_embd.weight");
        float row[1024];
        double sum = 0;

        if (!nef_model_config(f.model)->tied)
            t = nef_gguf_tensor(nef_model_metadata(f.model), "output.weight");
        nef_gguf_row(t, i, row);
        for (uint32_t k = 0; k < width; k++)
            sum += (double)row[k] * (double)expected[k];
        assert_true(fabs(sum - (double)logits[1][i]) < 1e-3);
    }
    free(expected);
    free(logits[0]);
    free(logits[1]);
    fixture_close(&f);
}

static void bad_batches_are_refused(void **state)
{
    static const uint8_t salt[32];
    struct nef_row rows[4];
    struct nef_kv_sequence *a, *b;
    struct nef_kv_cache *cache, *other;
    struct fixture f;
    float *logits;
    uint32_t cached;

    (void)state;
    fixture_open(&f, "qwen3-nano-Q8_0", NULL, 2);
    logits = malloc(4 * f.vocab * sizeof(float));
    cache = cache_open(&f, NEF_KV_F32, 4);
    assert_int_equal(nef_kv_sequence_open(cache, salt, NULL, 0, &cached, &a), NEF_OK);
    assert_int_equal(nef_kv_sequence_open(cache, salt, NULL, 0, &cached, &b), NEF_OK);
    rows[0] = (struct nef_row){a, 1, 0, true};
    assert_int_equal(nef_model_forward(f.model, rows, 1, logits), NEF_E_RANGE); /* no page */
    assert_int_equal(nef_kv_reserve(a, 64), NEF_OK);
    assert_int_equal(nef_kv_reserve(b, 64), NEF_OK);
    assert_int_equal(nef_model_forward(f.model, rows, 1, logits), NEF_OK);
    assert_int_equal(nef_model_forward(f.model, rows, 0, logits), NEF_E_RANGE);
    rows[0].token = f.vocab;
    assert_int_equal(nef_model_forward(f.model, rows, 1, logits), NEF_E_RANGE);
    rows[0].token = 1;
    rows[1] = (struct nef_row){a, 1, 2, false}; /* not the next position */
    assert_int_equal(nef_model_forward(f.model, rows, 2, logits), NEF_E_RANGE);
    rows[1] = (struct nef_row){b, 1, 0, false};
    rows[2] = (struct nef_row){a, 1, 1, false}; /* apart from its sequence */
    assert_int_equal(nef_model_forward(f.model, rows, 3, logits), NEF_E_RANGE);
    nef_kv_sequence_close(a);
    nef_kv_sequence_close(b);
    nef_kv_close(cache);
    assert_int_equal(
        nef_kv_open(
            &(struct nef_kv_options){.type = NEF_KV_F32, .layers = 1, .kv_heads = 2, .head_dim = 32, .pages = 2},
            &other),
        NEF_OK);
    assert_int_equal(nef_kv_sequence_open(other, salt, NULL, 0, &cached, &a), NEF_OK);
    assert_int_equal(nef_kv_reserve(a, 64), NEF_OK);
    rows[0].sequence = a;
    assert_int_equal(nef_model_forward(f.model, rows, 1, logits), NEF_E_RANGE); /* a cache of another shape */
    nef_kv_sequence_close(a);
    nef_kv_close(other);
    free(logits);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_chunks_and_kernels), cmocka_unit_test(long_sequences),
        cmocka_unit_test(beside_others),              cmocka_unit_test(found_pages),
        cmocka_unit_test(hidden_states),                  cmocka_unit_test(bad_batches_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
