/* See fixture.h. */
#include "fixture.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "crypto/crypto.h"

void fixture_path(const char *name, const char *suffix, char out[512])
{
    (void)snprintf(out, 512, "%s/%s%s", NEF_TEST_DATA, name, suffix);
}

void fixture_open_with(struct fixture *f, const char *source, const char *cache, const char *kernels, uint32_t threads)
{
    const struct nef_kernels *set = nef_kernels_get(kernels);
    char error[NEF_GGUF_ERROR_MAX] = "";
    nef_err err;

    assert_non_null(set);
    assert_int_equal(nef_crypto_init(), NEF_OK);
    assert_int_equal(nef_kernels_thread_enter(set), NEF_OK);
    assert_int_equal(nef_pool_start(threads, 0, set, &f->pool), NEF_OK);
    err = nef_model_load(&(struct nef_model_options){.source = source, .cache = cache, .kernels = set, .pool = f->pool},
                         error, &f->model);
    if (err != NEF_OK)
        print_error("%s: %s: %s\n", source, nef_err_name(err), error);
    assert_int_equal(err, NEF_OK);
    f->vocab = nef_model_config(f->model)->vocab;
}

void fixture_open(struct fixture *f, const char *name, const char *kernels, uint32_t threads)
{
    char path[512];

    fixture_path(name, ".gguf", path);
    fixture_open_with(f, path, NULL, kernels, threads);
}

void fixture_close(struct fixture *f)
{
    nef_model_free(f->model);
    nef_pool_stop(f->pool);
}

static float *read_floats(const char *name, const char *suffix, size_t count)
{
    float *out = malloc(count * sizeof(float));
    char path[512];
    FILE *file;

    fixture_path(name, suffix, path);
    file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(out, sizeof(float), count, file), count);
    assert_int_equal(fgetc(file), EOF);
    (void)fclose(file);
    return out;
}

void cases_open(struct cases *c, const char *name, uint32_t vocab)
{
    json_error_t error;
    char path[512];
    json_t *root, *all;

    memset(c, 0, sizeof(*c));
    fixture_path(name, ".json", path);
    root = json_load_file(path, 0, &error);
    assert_non_null(root);
    all = json_object_get(root, "cases");
    c->count = (uint32_t)json_array_size(all);
    assert_in_range(c->count, 1, CASES_MAX);
    for (uint32_t i = 0; i < c->count; i++) {
        const json_t *one = json_array_get(all, i), *prompt = json_object_get(one, "prompt");
        const json_t *greedy = json_object_get(one, "greedy"), *gap = json_object_get(one, "greedy_gap");

        c->prompt_count[i] = (uint32_t)json_array_size(prompt);
        c->greedy_count[i] = (uint32_t)json_array_size(greedy);
        assert_in_range(c->prompt_count[i], 1, 512);
        assert_in_range(c->greedy_count[i], 1, 64);
        for (uint32_t t = 0; t < c->prompt_count[i]; t++)
            c->prompt[i][t] = (uint32_t)json_integer_value(json_array_get(prompt, t));
        for (uint32_t t = 0; t < c->greedy_count[i]; t++) {
            c->greedy[i][t] = (uint32_t)json_integer_value(json_array_get(greedy, t));
            c->gap[i][t] = json_number_value(json_array_get(gap, t));
        }
    }
    json_decref(root);
    c->reference = read_floats(name, ".ref.f32", (size_t)c->count * vocab);
    c->llama = read_floats(name, ".logits.f32", (size_t)c->count * vocab);
}

void cases_close(struct cases *c)
{
    free(c->reference);
    free(c->llama);
}

struct nef_kv_cache *cache_open(const struct fixture *f, enum nef_kv_type type, uint32_t pages)
{
    const struct nef_model_config *c = nef_model_config(f->model);
    struct nef_kv_cache *cache;

    assert_int_equal(nef_kv_open(&(struct nef_kv_options){.type = type, .layers = c->layers, .kv_heads = c->kv_heads,
                                                          .head_dim = c->head_dim, .pages = pages}, &cache), NEF_OK);
    return cache;
}

float *logits_of(const struct fixture *f, struct nef_kv_cache *cache, const uint32_t *tokens, uint32_t count,
                 uint32_t chunk)
{
    static const uint8_t salt[32] = {1};
    float *logits = calloc(f->vocab, sizeof(float));
    struct nef_kv_sequence *sequence;
    uint32_t at;

    if (chunk == 0)
        chunk = NEF_BATCH_ROWS_MAX;
    assert_int_equal(nef_kv_sequence_open(cache, salt, tokens, count, &at, &sequence), NEF_OK);
    assert_int_equal(nef_kv_reserve(sequence, count), NEF_OK);
    while (at < count) {
        struct nef_row rows[NEF_BATCH_ROWS_MAX];
        uint32_t n = NEF_MIN(chunk, count - at);

        for (uint32_t i = 0; i < n; i++)
            rows[i] = (struct nef_row){sequence, tokens[at + i], at + i, at + i + 1 == count};
        assert_int_equal(nef_model_forward(f->model, rows, n, logits), NEF_OK);
        for (uint32_t i = 0; i < n; i++)
            nef_kv_note(sequence, at + i, tokens[at + i]);
        at += n;
    }
    nef_kv_sequence_close(sequence);
    return logits;
}

uint32_t argmax(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

void step(const struct fixture *f, struct nef_kv_sequence *sequence, uint32_t token, uint32_t position, float *logits)
{
    struct nef_row row = {sequence, token, position, true};

    assert_int_equal(nef_kv_reserve(sequence, position + 1), NEF_OK);
    assert_int_equal(nef_model_forward(f->model, &row, 1, logits), NEF_OK);
    nef_kv_note(sequence, position, token);
}

void make_tokens(uint32_t *out, uint32_t count, uint32_t vocab, uint32_t seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;

    for (uint32_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        out[i] = (uint32_t)(state >> 33) % vocab;
    }
}

uint32_t kernel_names(const char *out[8])
{
    static const char *const all[] = {"scalar", "avx2", "avx512", "amx"};
    uint32_t count = 0;

    for (size_t i = 0; i < NEF_COUNT(all); i++)
        if (nef_kernels_get(all[i]) != NULL)
            out[count++] = all[i];
    return count;
}
