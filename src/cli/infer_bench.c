/* `nef infer --bench MODEL`: how fast the model runs here, and what share of the machine's limits that is.
 *
 * It calls the model directly, as the engine does (prompts in batches of 512 rows, then one row a step with a greedy
 * choice), so the numbers are those of the arithmetic, without HTTP. Tokens are random but always the same. A figure is
 * the best of some runs: on a shared machine the best is the least disturbed.
 *
 * --json prints an object a line instead: "load", then "limit" (memory, arithmetic), then "prefill" and "decode", with
 * the work that one token is (bytes read, or operations), so that a reader can compare runs with limits of its own. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "cli/cli.h"
#include "cli/infer_peak.h"
#include "cli/infer_setup.h"
#include "infer/engine/sampler.h"
#include "io/clock.h"

#define LIST_MAX      16u
#define TOKENS_MAX    (1u << 20) /* of a prompt: beyond any model's context */
#define DECODE_PRESET 128u
#define REPEAT_PRESET 3u

struct list {
    uint32_t count, value[LIST_MAX];
};
static const struct list prefill_preset = {2, {512, 2048}}, depth_preset = {2, {0, 2048}};

/* One measurement of several runs. */
struct result {
    const char *test;
    uint32_t depth, tokens, runs;
    double seconds[NEF_BENCH_REPEAT_MAX];
    double work;  /* of a token: operations, or bytes read */
    double limit; /* of that work in a second; 0: unknown */
};
struct bench {
    struct nef_infer_setup *s;
    const struct nef_model_config *config;
    struct list prefill, depth;
    uint32_t decode, repeat;
    bool json;
    double memory, arithmetic; /* limits: bytes and operations a second */
    double products;           /* int8 (or other) products that a weight costs */
    struct nef_kv_cache *cache;
    float *logits;
    void *scratch;
    uint32_t *tokens;
    uint8_t salt[32]; /* another one for each prefill: nothing is found in the cache */
};

static nef_err feed(struct bench *b, struct nef_kv_sequence *sequence, const uint32_t *tokens, uint32_t first,
                    uint32_t count)
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

/* A sequence for the first COUNT tokens, and whatever of them isn't cached yet run in batches; seconds. */
static nef_err prefill(struct bench *b, uint32_t count, bool afresh, struct nef_kv_sequence **out, double *out_seconds)
{
    uint64_t start = nef_now_ns();
    uint32_t at;
    nef_err err;

    for (size_t i = 0; afresh && ++b->salt[i] == 0; i++)
        continue;
    err = nef_kv_sequence_open(b->cache, b->salt, b->tokens, count, &at, out);
    if (err != NEF_OK)
        return err;
    NEF_ASSERT(at == 0 || !afresh);
    for (; at < count && err == NEF_OK; at += NEF_BATCH_ROWS_MAX)
        err = feed(b, *out, b->tokens + at, at, NEF_MIN(NEF_BATCH_ROWS_MAX, count - at));
    *out_seconds = (double)(nef_now_ns() - start) / 1e9;
    if (err != NEF_OK)
        nef_kv_sequence_close(*out);
    return err;
}

/* STEPS tokens from position AT on, one by one; seconds. */
static nef_err decode(struct bench *b, struct nef_kv_sequence *sequence, uint32_t at, uint32_t steps,
                      double *out_seconds)
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

/* Weights of the linear layers that each token of a prompt is multiplied with; the output layer runs for the last one
 * only. */
static double prefill_weights(const struct nef_model_config *c)
{
    double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim;

    return c->layers * (c->embedding * (q + 2 * kv) + q * c->embedding + 3.0 * c->embedding * c->ffn);
}

/* ---- what is printed ---- */

static void print_json(json_t *object)
{
    if (object == NULL || json_dumpf(object, stdout, JSON_REAL_PRECISION(12)) != 0 || putchar('\n') == EOF ||
        fflush(stdout) != 0) /* the reader may wait for it */
        (void)nef_complain("infer", "the figures can't be printed");
    json_decref(object);
}

static void print_model(const struct bench *b, uint32_t threads)
{
    const struct nef_infer_setup *s = b->s;
    uint64_t file = nef_model_file_bytes(s->model), weights = nef_model_weight_bytes(s->model);

    if (b->json) {
        print_json(json_pack("{ss ss ss ss si ss ss ss sf sI sI sI}", "engine", "nef", "test", "load", "version",
                             NEF_VERSION, "model", s->alias, "threads", (int)threads, "kernels", s->kernels->name,
                             "features", nef_kernels_features(), "kv", nef_kv_type_name(s->kv_type), "load_s",
                             (double)s->load_ms / 1000, "file_bytes", (json_int_t)file, "weight_bytes",
                             (json_int_t)weights, "position_bytes",
                             (json_int_t)nef_kv_position_bytes(b->config, s->kv_type)));
        return;
    }
    printf("model                     %s, %.2f GB file, %.2f GB a decode step\n", s->alias, (double)file / 1e9,
           (double)weights / 1e9);
    printf("kernels                   %s (processor: %s), %u threads, KV %s\n", s->kernels->name,
           nef_kernels_features(), threads, nef_kv_type_name(s->kv_type));
    printf("load                      %9.2f s\n", (double)s->load_ms / 1000);
    (void)fflush(stdout);
}

static void print_limits(const struct bench *b, const char *what)
{
    if (b->json) {
        print_json(json_pack("{ss ss ss sf}", "engine", "nef", "test", "limit", "what", "memory", "per_s", b->memory));
        print_json(json_pack("{ss ss ss ss sf}", "engine", "nef", "test", "limit", "what", "arithmetic", "of", what,
                             "per_s", b->arithmetic));
        return;
    }
    if (b->memory > 0)
        printf("memory limit              %9.1f GB/s read\n", b->memory / 1e9);
    if (b->arithmetic > 0)
        printf("arithmetic limit          %9.1f Gop/s (%s)\n", b->arithmetic / 1e9, what);
    (void)fflush(stdout);
}

static void print_result(const struct bench *b, const struct result *r)
{
    double best = r->seconds[0], rate;
    bool is_prefill = strcmp(r->test, "prefill") == 0;
    char name[64];

    for (uint32_t i = 1; i < r->runs; i++)
        best = r->seconds[i] < best ? r->seconds[i] : best;
    rate = r->tokens / best;
    if (b->json) {
        json_t *runs = json_array();

        for (uint32_t i = 0; i < r->runs; i++)
            (void)json_array_append_new(runs, json_real(r->tokens / r->seconds[i])); /* json_pack refuses NULL */
        print_json(json_pack("{ss ss si si sf so ss sf}", "engine", "nef", "test", r->test, "depth", (int)r->depth,
                             "tokens", (int)r->tokens, "tokens_per_s", rate, "runs", runs, "limit",
                             is_prefill ? "arithmetic" : "memory", "work_per_token", r->work));
        return;
    }
    (void)snprintf(name, sizeof(name), r->depth > 0 ? "%s %u at depth %u" : "%s %u", r->test, r->tokens, r->depth);
    printf("%-25s %9.1f tok/s", name, rate);
    if (r->limit > 0)
        printf("   %5.1f %% of the %s limit", 100 * rate * r->work / r->limit, is_prefill ? "arithmetic" : "memory");
    printf("\n");
    (void)fflush(stdout);
}

/* ---- what is measured ---- */

static nef_err measure_prefill(struct bench *b, uint32_t tokens)
{
    struct result r = {"prefill", 0, tokens, b->repeat, .limit = b->arithmetic};
    struct nef_kv_sequence *sequence;
    double warming;
    nef_err err = prefill(b, NEF_MIN(tokens, NEF_BATCH_ROWS_MAX), true, &sequence, &warming);

    r.work = 2 * b->products * prefill_weights(b->config);
    if (err == NEF_OK)
        nef_kv_sequence_close(sequence);
    for (uint32_t i = 0; i < b->repeat && err == NEF_OK; i++) {
        err = prefill(b, tokens, true, &sequence, &r.seconds[i]);
        if (err == NEF_OK)
            nef_kv_sequence_close(sequence);
    }
    if (err == NEF_OK)
        print_result(b, &r);
    return err;
}

/* From a prompt of DEPTH tokens (0: one, for there must be something to go on from). Repeats find the prompt in the
 * cache. */
static nef_err measure_decode(struct bench *b, uint32_t depth)
{
    struct result r = {"decode", depth, b->decode, b->repeat, .limit = b->memory};
    uint32_t prompt = depth == 0 ? 1 : depth;
    struct nef_kv_sequence *sequence;
    double ignored;
    nef_err err = NEF_OK;

    r.work = (double)nef_model_weight_bytes(b->s->model) +
             (double)nef_kv_position_bytes(b->config, b->s->kv_type) * (depth + b->decode / 2.0);
    for (uint32_t i = 0; i <= b->repeat && err == NEF_OK; i++) { /* the first, shorter one warms up */
        err = prefill(b, prompt, i == 0, &sequence, &ignored);
        if (err != NEF_OK)
            break;
        err = decode(b, sequence, prompt, i == 0 ? (b->decode + 7) / 8 : b->decode,
                     i == 0 ? &ignored : &r.seconds[i - 1]);
        nef_kv_sequence_close(sequence);
    }
    if (err == NEF_OK)
        print_result(b, &r);
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

/* "512,2048"; numbers from MIN on. */
static bool list_of(const char *option, const char *text, uint32_t min, struct list *out)
{
    const char *at = text;

    *out = (struct list){0};
    for (;;) {
        char *end;
        unsigned long number = strtoul(at, &end, 10);

        if (*at < '0' || *at > '9' || (*end != ',' && *end != '\0') || number < min || number > TOKENS_MAX ||
            out->count == LIST_MAX) {
            (void)nef_complain("infer", "--%s must be at most %u numbers from %u to %u, as in 512,2048; not '%s'",
                               option, LIST_MAX, min, TOKENS_MAX, text);
            return false;
        }
        out->value[out->count++] = (uint32_t)number;
        if (*end == '\0')
            return true;
        at = end + 1;
    }
}

static bool options_of(const struct nef_infer_bench_options *o, struct bench *b)
{
    b->json = o->json;
    b->decode = o->decode != 0 ? o->decode : DECODE_PRESET;
    b->repeat = o->repeat != 0 ? o->repeat : REPEAT_PRESET;
    if (o->prefill == NULL && o->depth == NULL) {
        b->prefill = prefill_preset;
        b->depth = depth_preset;
        return true;
    }
    return (o->prefill == NULL || list_of("prefill", o->prefill, 1, &b->prefill)) &&
           (o->depth == NULL || list_of("depth", o->depth, 0, &b->depth));
}

/* Cache, prompt and buffers for the longest of all tests. */
static nef_err make_room(struct bench *b)
{
    const struct nef_model_config *c = b->config;
    struct nef_kv_options kv = {b->s->kv_type, c->layers, c->kv_heads, c->head_dim, 0};
    uint64_t state = 20260101;
    uint32_t positions = 1;

    for (uint32_t i = 0; i < b->prefill.count; i++)
        positions = NEF_MAX(positions, b->prefill.value[i]);
    for (uint32_t i = 0; i < b->depth.count; i++)
        positions = NEF_MAX(positions, b->depth.value[i] + b->decode + 1);
    kv.pages = (positions + 2 * NEF_KV_TILE) / NEF_KV_TILE; /* one more: what repeats find isn't dropped for room */
    b->tokens = calloc(positions, sizeof(*b->tokens));
    b->logits = malloc(c->vocab * sizeof(float));
    b->scratch = malloc(nef_sampler_scratch(c->vocab));
    if (b->tokens == NULL || b->logits == NULL || b->scratch == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < positions; i++) { /* Knuth's MMIX generator */
        state = state * 6364136223846793005u + 1442695040888963407u;
        b->tokens[i] = (uint32_t)((state >> 33) % c->vocab);
    }
    return nef_kv_open(&kv, &b->cache);
}

int nef_infer_bench(const struct nef_infer_options *o, const struct nef_infer_bench_options *bench_options)
{
    struct nef_infer_setup s = {.engine = NULL};
    struct bench *b = calloc(1, sizeof(*b));
    const char *what;
    enum nef_peak peak;
    uint32_t threads;
    nef_err err;
    int status = 2;

    if (b == NULL)
        return nef_complain("infer", "out of memory");
    if (!options_of(bench_options, b))
        goto out;
    status = nef_infer_load(o, &s);
    if (status != 0)
        goto out;
    b->s = &s;
    b->config = nef_model_config(s.model);
    threads = nef_pool_threads(s.pool);
    err = make_room(b);
    if (err == NEF_OK) {
        print_model(b, threads);
        peak = limit_of(s.model, &what, &b->products);
        b->memory = nef_peak_measure(NEF_PEAK_MEMORY, threads, s.kernels);
        b->arithmetic = nef_peak_measure(peak, threads, s.kernels);
        print_limits(b, what);
    }
    for (uint32_t i = 0; i < b->prefill.count && err == NEF_OK; i++)
        err = measure_prefill(b, b->prefill.value[i]);
    for (uint32_t i = 0; i < b->depth.count && err == NEF_OK; i++)
        err = measure_decode(b, b->depth.value[i]);
    if (err != NEF_OK)
        status = nef_complain("infer", "the benchmark failed: %s", nef_err_text(err));
out:
    if (b->cache != NULL)
        nef_kv_close(b->cache);
    free(b->logits);
    free(b->scratch);
    free(b->tokens);
    free(b);
    nef_infer_done(&s);
    return status;
}
