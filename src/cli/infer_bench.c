/* `nef infer --bench MODEL`: how fast the model runs here, and what share of the machine's limits that is.
 *
 * It calls the model directly, as the engine does (prompts in batches of 512 rows, then one row a step with a greedy choice), so
 * the numbers are those of the arithmetic, without HTTP. Tokens are random but always the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "cli/cli.h"
#include "cli/infer_peak.h"
#include "cli/infer_setup.h"
#include "infer/engine/sampler.h"
#include "io/clock.h"

#define SHORT_PROMPT 512u
#define LONG_PROMPT  2048u
#define DECODE       128u
#define DEEP_DECODE  64u
#define POSITIONS    (LONG_PROMPT + DECODE)

struct bench {
    struct nef_infer_setup *s;
    const struct nef_model_config *config;
    struct nef_kv_cache *cache;
    float *logits;
    void *scratch;
    uint32_t tokens[LONG_PROMPT];
    uint8_t salt[32]; /* another one for each sequence: nothing is found in the cache */
};

static nef_err feed(struct bench *b, struct nef_kv_sequence *sequence, const uint32_t *tokens, uint32_t first, uint32_t count)
{
    struct nef_row *rows = calloc(count, sizeof(*rows));
    nef_err err = rows == NULL ? NEF_E_NOMEM : nef_kv_reserve(sequence, first + count);

    for (uint32_t i = 0; i < count && err == NEF_OK; i++)
        rows[i] = (struct nef_row){sequence, tokens[i], first + i, i + 1 == count};
    if (err == NEF_OK)
        err = nef_model_forward(b->s->model, rows, count, b->logits);
    for (uint32_t i = 0; i < count && err == NEF_OK; i++)
        nef_kv_note(sequence, first + i, tokens[i]);
    free(rows);
    return err;
}

static nef_err open_sequence(struct bench *b, uint32_t count, struct nef_kv_sequence **out)
{
    uint32_t cached;
    nef_err err;

    b->salt[0]++;
    err = nef_kv_sequence_open(b->cache, b->salt, b->tokens, count, &cached, out);
    NEF_ASSERT(err != NEF_OK || cached == 0);
    return err;
}

/* COUNT tokens in batches; seconds. */
static nef_err prefill(struct bench *b, struct nef_kv_sequence *sequence, uint32_t count, double *out_seconds)
{
    uint64_t start = nef_now_ns();
    nef_err err = NEF_OK;

    for (uint32_t at = 0; at < count && err == NEF_OK; at += NEF_BATCH_ROWS_MAX)
        err = feed(b, sequence, b->tokens + at, at, NEF_MIN(NEF_BATCH_ROWS_MAX, count - at));
    *out_seconds = (double)(nef_now_ns() - start) / 1e9;
    return err;
}

/* STEPS tokens from position AT on, one by one; seconds. */
static nef_err decode(struct bench *b, struct nef_kv_sequence *sequence, uint32_t at, uint32_t steps, double *out_seconds)
{
    const struct nef_sampling greedy = {.temperature = 0};
    uint64_t start = nef_now_ns();
    uint32_t token = 0;
    nef_err err = NEF_OK;

    for (uint32_t i = 0; i < steps && err == NEF_OK; i++) {
        err = nef_sample(&greedy, b->logits, b->config->vocab, at + i, b->scratch, &token);
        if (err == NEF_OK)
            err = feed(b, sequence, &token, at + i, 1);
    }
    *out_seconds = (double)(nef_now_ns() - start) / 1e9;
    return err;
}

/* Weights of the linear layers that each token of a prompt is multiplied with; the output layer runs for the last one only. */
static double prefill_weights(const struct nef_model_config *c)
{
    double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim;

    return c->layers * (c->embedding * (q + 2 * kv) + q * c->embedding + 3.0 * c->embedding * c->ffn);
}

static void print_prefill(const char *name, double rate, double work, double peak)
{
    printf("%-22s %9.1f tok/s", name, rate);
    if (peak > 0)
        printf("   %5.1f %% of the arithmetic limit", 100 * rate * work / peak);
    printf("\n");
}

static void print_decode(const char *name, double rate, double bytes, double peak)
{
    printf("%-22s %9.1f tok/s", name, rate);
    if (peak > 0)
        printf("   %5.1f %% of the memory limit", 100 * rate * bytes / peak);
    printf("\n");
}

static nef_err measure(struct bench *b, double memory, double arithmetic, double work)
{
    const double weights = (double)nef_model_weight_bytes(b->s->model);
    const double position = (double)nef_kv_position_bytes(b->config, b->s->kv_type);
    struct nef_kv_sequence *sequence = NULL;
    double seconds = 0, once;
    nef_err err = NEF_OK;

    for (int i = 0; i < 4 && err == NEF_OK; i++) { /* the first one warms up */
        err = open_sequence(b, SHORT_PROMPT, &sequence);
        if (err == NEF_OK)
            err = prefill(b, sequence, SHORT_PROMPT, &once);
        if (i > 0)
            seconds += once;
        if (sequence != NULL)
            nef_kv_sequence_close(sequence);
        sequence = NULL;
    }
    if (err == NEF_OK)
        print_prefill("prefill 512", 3 * SHORT_PROMPT / seconds, work, arithmetic);
    if (err == NEF_OK)
        err = open_sequence(b, 1, &sequence);
    if (err == NEF_OK)
        err = prefill(b, sequence, 1, &once);
    if (err == NEF_OK)
        err = decode(b, sequence, 1, DECODE, &seconds);
    if (err == NEF_OK)
        print_decode("decode 128", DECODE / seconds, weights + position * DECODE / 2, memory);
    if (sequence != NULL)
        nef_kv_sequence_close(sequence);
    sequence = NULL;
    if (err == NEF_OK)
        err = open_sequence(b, LONG_PROMPT, &sequence);
    if (err == NEF_OK)
        err = prefill(b, sequence, LONG_PROMPT, &seconds);
    if (err == NEF_OK)
        print_prefill("prefill 2048", LONG_PROMPT / seconds, work, arithmetic);
    if (err == NEF_OK)
        err = decode(b, sequence, LONG_PROMPT, DEEP_DECODE, &seconds);
    if (err == NEF_OK)
        print_decode("decode at depth 2048", DEEP_DECODE / seconds, weights + position * (LONG_PROMPT + DEEP_DECODE / 2),
                     memory);
    if (sequence != NULL)
        nef_kv_sequence_close(sequence);
    return err;
}

/* What most weights are, and which limit theirs is. */
static enum nef_peak limit_of(const struct nef_model *model, const char **out_name, double *out_products)
{
    const struct nef_gguf_tensor *q = nef_gguf_tensor(nef_model_metadata(model), "blk.0.attn_q.weight");
    uint32_t type = q == NULL ? NEF_GGML_F32 : q->type;

    *out_products = 1;
    if (type == NEF_GGML_BF16) {
        *out_name = "bf16 products";
        return NEF_PEAK_BF16;
    }
    if (type == NEF_GGML_F16 || type == NEF_GGML_F32) {
        *out_name = "float products";
        return NEF_PEAK_FLOAT;
    }
    *out_products = 2; /* activations have 16 bits: docs/numerics.md */
    *out_name = "int8 products, two a weight";
    return NEF_PEAK_INT8;
}

int nef_infer_bench(const struct nef_infer_options *o)
{
    struct nef_infer_setup s = {.engine = NULL};
    struct bench *b = calloc(1, sizeof(*b));
    struct nef_kv_options kv;
    uint64_t state = 20260101;
    double memory, arithmetic, products;
    const char *what;
    enum nef_peak peak;
    nef_err err;
    int status = 1;

    if (b == NULL)
        return nef_complain("infer", "out of memory");
    status = nef_infer_load(o, &s);
    if (status != 0)
        goto out;
    b->s = &s;
    b->config = nef_model_config(s.model);
    for (uint32_t i = 0; i < LONG_PROMPT; i++) { /* Knuth's MMIX generator */
        state = state * 6364136223846793005u + 1442695040888963407u;
        b->tokens[i] = (uint32_t)((state >> 33) % b->config->vocab);
    }
    kv = (struct nef_kv_options){s.kv_type, b->config->layers, b->config->kv_heads, b->config->head_dim,
                                 (POSITIONS + NEF_KV_TILE) / NEF_KV_TILE};
    b->logits = malloc(b->config->vocab * sizeof(float));
    b->scratch = malloc(nef_sampler_scratch(b->config->vocab));
    err = b->logits == NULL || b->scratch == NULL ? NEF_E_NOMEM : nef_kv_open(&kv, &b->cache);
    if (err == NEF_OK) {
        uint32_t threads = nef_pool_threads(s.pool);

        peak = limit_of(s.model, &what, &products);
        printf("model                  %s, %.2f GB file, %.2f GB a decode step\n", s.alias,
               (double)nef_model_file_bytes(s.model) / 1e9, (double)nef_model_weight_bytes(s.model) / 1e9);
        printf("kernels                %s (processor: %s), %u threads, KV %s\n", s.kernels->name, nef_kernels_features(),
               threads, nef_kv_type_name(s.kv_type));
        printf("load                   %9.2f s\n", (double)s.load_ms / 1000);
        memory = nef_peak_measure(NEF_PEAK_MEMORY, threads, s.kernels);
        arithmetic = nef_peak_measure(peak, threads, s.kernels);
        if (memory > 0)
            printf("memory limit           %9.1f GB/s read\n", memory / 1e9);
        if (arithmetic > 0)
            printf("arithmetic limit       %9.1f Gop/s (%s)\n", arithmetic / 1e9, what);
        (void)fflush(stdout);
        err = measure(b, memory, arithmetic, 2 * products * prefill_weights(b->config));
    }
    if (err != NEF_OK)
        status = nef_complain("infer", "the benchmark failed: %s", nef_err_text(err));
out:
    if (b->cache != NULL)
        nef_kv_close(b->cache);
    free(b->logits);
    free(b->scratch);
    free(b);
    nef_infer_done(&s);
    return status;
}
