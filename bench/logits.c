/* Logits of the last position of given prompts, for the accuracy table of infer.py: what `driver logits` is for
 * llama.cpp.
 *
 *   bench_logits MODEL KV OUT TOKENS...     KV: default, f32, bf16 or i8; TOKENS: 1,2,3 (a prompt each)
 *
 * Raw little-endian floats, a row a prompt. Each prompt has a cache of its own, and runs in batches as the engine's
 * do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "crypto/crypto.h"
#include "infer/model/model.h"

#define TOKENS_MAX 4096u

static int complain(const char *what, const char *why)
{
    (void)fprintf(stderr, "bench_logits: %s: %s\n", what, why);
    return 1;
}

/* Returns how many; 0: not a list of numbers below VOCAB. */
static uint32_t tokens_of(const char *text, uint32_t vocab, uint32_t *out)
{
    const char *at = text;

    for (uint32_t count = 0; count < TOKENS_MAX;) {
        char *end;
        unsigned long number = strtoul(at, &end, 10);

        if (*at < '0' || *at > '9' || (*end != ',' && *end != '\0') || number >= vocab)
            return 0;
        out[count++] = (uint32_t)number;
        if (*end == '\0')
            return count;
        at = end + 1;
    }
    return 0;
}

static bool kv_type_of(const char *name, const struct nef_model *model, enum nef_kv_type *out)
{
    if (strcmp(name, "default") == 0)
        *out = nef_model_kv_default(model);
    else if (strcmp(name, "f32") == 0)
        *out = NEF_KV_F32;
    else if (strcmp(name, "bf16") == 0)
        *out = NEF_KV_BF16;
    else if (strcmp(name, "i8") == 0)
        *out = NEF_KV_I8;
    else
        return false;
    return true;
}

static nef_err run(struct nef_model *model, enum nef_kv_type type, const uint32_t *tokens, uint32_t count,
                   float *logits)
{
    static const uint8_t salt[32] = {1};
    const struct nef_model_config *c = nef_model_config(model);
    const struct nef_kv_options options = {type, c->layers, c->kv_heads, c->head_dim, count / NEF_KV_TILE + 1};
    struct nef_row *rows = calloc(NEF_BATCH_ROWS_MAX, sizeof(*rows));
    struct nef_kv_sequence *sequence = NULL;
    struct nef_kv_cache *cache = NULL;
    uint32_t at = 0;
    nef_err err = rows == NULL ? NEF_E_NOMEM : nef_kv_open(&options, &cache);

    if (err == NEF_OK)
        err = nef_kv_sequence_open(cache, salt, tokens, count, &at, &sequence);
    while (at < count && err == NEF_OK) {
        uint32_t some = NEF_MIN(count - at, NEF_BATCH_ROWS_MAX);

        for (uint32_t i = 0; i < some; i++)
            rows[i] = (struct nef_row){sequence, tokens[at + i], at + i, at + i + 1 == count};
        err = nef_kv_reserve(sequence, at + some);
        if (err == NEF_OK)
            err = nef_model_forward(model, rows, some, logits);
        for (uint32_t i = 0; i < some && err == NEF_OK; i++)
            nef_kv_note(sequence, at + i, tokens[at + i]);
        at += some;
    }
    if (sequence != NULL)
        nef_kv_sequence_close(sequence);
    if (cache != NULL)
        nef_kv_close(cache);
    free(rows);
    return err;
}

int main(int argc, char **argv)
{
    static uint32_t tokens[TOKENS_MAX];
    const struct nef_kernels *kernels = nef_kernels_get(getenv("NEF_KERNELS"));
    char why[NEF_GGUF_ERROR_MAX] = "";
    struct nef_model_options options = {.source = argc > 1 ? argv[1] : NULL, .kernels = kernels};
    struct nef_model *model = NULL;
    struct nef_pool *pool = NULL;
    enum nef_kv_type type;
    float *logits = NULL;
    FILE *out = NULL;
    uint32_t vocab;
    int status = 1;
    nef_err err;

    if (argc < 5 || kernels == NULL) {
        (void)fprintf(stderr, "bench_logits MODEL KV OUT TOKENS... (and NEF_KERNELS must fit this processor)\n");
        return 2;
    }
    err = nef_crypto_init();
    if (err == NEF_OK)
        err = nef_kernels_thread_enter(kernels);
    if (err == NEF_OK)
        err = nef_pool_start(0, 0, kernels, &pool);
    if (err == NEF_OK) {
        options.pool = pool;
        err = nef_model_load(&options, why, &model);
    }
    if (err != NEF_OK) {
        (void)complain(argv[1], why[0] != '\0' ? why : nef_err_text(err));
        goto out;
    }
    vocab = nef_model_config(model)->vocab;
    logits = malloc(vocab * sizeof(float));
    out = fopen(argv[3], "wbe");
    if (!kv_type_of(argv[2], model, &type) || logits == NULL || out == NULL) {
        (void)complain(argv[2], "no type of cache, or no memory, or OUT can't be written");
        goto out;
    }
    for (int i = 4; i < argc; i++) {
        uint32_t count = tokens_of(argv[i], vocab, tokens);

        err = count == 0 ? NEF_E_INVALID : run(model, type, tokens, count, logits);
        if (err != NEF_OK || fwrite(logits, sizeof(float), vocab, out) != vocab) {
            (void)complain(argv[i], err != NEF_OK ? nef_err_text(err) : "OUT can't be written");
            goto out;
        }
    }
    status = fflush(out) == 0 ? 0 : complain(argv[3], "can't be written");
out:
    if (out != NULL)
        (void)fclose(out);
    free(logits);
    if (model != NULL)
        nef_model_free(model);
    if (pool != NULL)
        nef_pool_stop(pool);
    return status;
}
