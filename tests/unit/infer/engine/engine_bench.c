/* The engine under load, run by hand: engine_bench MODEL.gguf [STREAMS [KV [PART]]]
 *
 *   streams   STREAMS (32) prompts of 200 tokens at once, 128 tokens each: throughput, times to the first token, memory
 *   among     a short prompt while the others decode, and while they are still in their prompts: its first token
 *   grammar   STREAMS streams, half of them with a grammar or without: what that costs the other half a token */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/engine/engine.h"

#define STREAMS_MAX 256u

struct stream {
    uint64_t asked_ns, first_ns, last_ns;
    uint32_t tokens;
    atomic_bool done;
    struct nef_generation *generation;
};

static struct nef_engine *engine;
static uint32_t vocab, streams = 32;
static struct stream all[STREAMS_MAX + 1];

static uint64_t now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pause_ms(long ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static bool on_token(void *context, const struct nef_token *t)
{
    struct stream *s = context;

    (void)t;
    s->last_ns = now();
    if (s->tokens++ == 0)
        s->first_ns = s->last_ns;
    return true;
}

static void on_finished(void *context, enum nef_finish finish, nef_err err, uint32_t cached)
{
    struct stream *s = context;

    (void)cached;
    if (finish == NEF_FINISH_ERROR)
        fprintf(stderr, "failed: %s\n", nef_err_name(err));
    atomic_store(&s->done, true);
}

static void ask(struct stream *s, uint32_t seed, uint32_t prompt, uint32_t tokens, struct nef_grammar *grammar)
{
    uint32_t *ids = malloc(prompt * sizeof(*ids));
    uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;

    for (uint32_t i = 0; i < prompt; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (uint32_t)(state >> 33) % vocab;
    }
    s->asked_ns = now();
    s->first_ns = s->tokens = 0;
    atomic_store(&s->done, false);
    NEF_ASSERT(nef_engine_generate(engine,
                                   &(struct nef_generate){.prompt = ids,
                                                          .prompt_count = prompt,
                                                          .tokens_max = tokens,
                                                          .sampling = {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f,
                                                                       .seed = seed},
                                                          .grammar = grammar,
                                                          .token = on_token,
                                                          .finished = on_finished,
                                                          .context = s},
                                   &s->generation) == NEF_OK);
    free(ids);
}

static void wait_all(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        while (!atomic_load(&all[i].done))
            pause_ms(1);
        nef_generation_unref(all[i].generation);
    }
}

static double resident_gb(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    NEF_ASSERT(file != NULL && fscanf(file, "%lu %lu", &size, &resident) == 2);
    (void)fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1e9;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void measure_streams(void)
{
    double first[STREAMS_MAX], peak = 0;
    struct nef_engine_stats s;
    uint64_t start = now(), tokens = 0, last = 0;

    for (uint32_t i = 0; i < streams; i++)
        ask(&all[i], 1000 + i, 200, 128, NULL);
    while (!atomic_load(&all[0].done)) {
        pause_ms(20);
        peak = NEF_MAX(peak, resident_gb());
    }
    wait_all(streams);
    for (uint32_t i = 0; i < streams; i++) {
        first[i] = (double)(all[i].first_ns - all[i].asked_ns) / 1e9;
        tokens += all[i].tokens;
        last = NEF_MAX(last, all[i].last_ns);
    }
    qsort(first, streams, sizeof(first[0]), ascending);
    pause_ms(200);
    printf("streams  %u of 200 in, 128 out: %.1f tok/s out, first token p50 %.2f s, p99 %.2f s\n", streams,
           (double)tokens / ((double)(last - start) / 1e9), first[streams / 2], first[streams * 99 / 100]);
    nef_engine_stats(engine, &s);
    printf("streams  RSS %.2f GB, while they ran at most %.2f GB; a batch %.1f ms, of it %.1f ms choosing tokens\n",
           resident_gb(), peak, (double)s.step_ns / 1e6 / (double)s.steps, (double)s.sample_ns / 1e6 / (double)s.steps);
    (void)fflush(stdout);
}

static void measure_among(uint32_t prompt, long after_ms, const char *when)
{
    struct stream *s = &all[streams - 1];

    for (uint32_t i = 0; i + 1 < streams; i++)
        ask(&all[i], 2000 + i + prompt, prompt, 64, NULL);
    while (after_ms == 0 && all[streams - 2].tokens == 0) /* racy, and good enough here */
        pause_ms(5);
    pause_ms(after_ms);
    ask(s, 77 + prompt, 20, 4, NULL);
    wait_all(streams);
    printf("among    %u with prompts of %u, %s: first token %.3f s\n", streams - 1, prompt, when,
           (double)(s->first_ns - s->asked_ns) / 1e9);
    (void)fflush(stdout);
}

static struct nef_grammar *grammar_of(const struct nef_model *model, struct nef_grammar_vocab **out_vocab)
{
    static const char text[] = "{\"type\": \"array\", \"minItems\": 300, \"items\": {\"anyOf\": ["
                               "{\"type\": \"string\", \"pattern\": \"^[A-Za-z ,.]{1,80}$\"}, "
                               "{\"type\": \"object\", \"properties\": {"
                               "\"name\": {\"type\": \"string\", \"maxLength\": 40}, "
                               "\"age\": {\"type\": \"integer\"}}, "
                               "\"required\": [\"name\", \"age\"], \"additionalProperties\": false}]}}";
    struct nef_grammar_options o = {.answer = NEF_GRAMMAR_SCHEMA};
    json_t *schema = json_loads(text, 0, NULL);
    struct nef_tokenizer *tokenizer;
    struct nef_grammar *g;
    char why[1024] = "";

    NEF_ASSERT(nef_tokenizer_open(nef_model_metadata(model), why, &tokenizer) == NEF_OK);
    NEF_ASSERT(nef_grammar_vocab_open(tokenizer, out_vocab) == NEF_OK);
    nef_tokenizer_close(tokenizer);
    o.schema = schema;
    NEF_ASSERT(schema != NULL && nef_grammar_compile(*out_vocab, &o, why, &g) == NEF_OK);
    json_decref(schema);
    NEF_ASSERT(nef_grammar_warm(g, 512) == NEF_OK); /* as the API does, in the thread that compiles */
    return g;
}

/* Milliseconds a token of the streams without a grammar, while all run. */
static double neighbours(struct nef_grammar *grammar)
{
    double sum = 0;

    for (uint32_t i = 0; i < streams; i++)
        ask(&all[i], 5000 + i, 20, 100, i % 2 == 1 ? grammar : NULL);
    wait_all(streams);
    for (uint32_t i = 0; i < streams; i += 2)
        sum += (double)(all[i].last_ns - all[i].first_ns) / 1e6 / (all[i].tokens - 1);
    return sum / ((streams + 1) / 2);
}

static void measure_grammar(const struct nef_model *model)
{
    struct nef_grammar_vocab *grammar_vocab;
    struct nef_engine_stats before, after;
    double with = 0, without = 0;

    for (int round = 0; round < 3; round++) { /* each time a grammar that nobody has met */
        struct nef_grammar *g = grammar_of(model, &grammar_vocab);
        double one, choosing;

        nef_engine_stats(engine, &before);
        one = neighbours(NULL);
        nef_engine_stats(engine, &after);
        choosing = (double)(after.sample_ns - before.sample_ns) / 1e6 / (double)(after.steps - before.steps);
        without = round == 0 || one < without ? one : without;
        nef_engine_stats(engine, &before);
        one = neighbours(g);
        with = round == 0 || one < with ? one : with;
        nef_engine_stats(engine, &after);
        printf("grammar  choosing %.2f ms a batch, without grammars %.2f\n",
               (double)(after.sample_ns - before.sample_ns) / 1e6 / (double)(after.steps - before.steps), choosing);
        printf("grammar  %u masks, mean %.3f ms, worst of all %.3f ms; neighbours %.2f ms a token\n",
               (unsigned)(after.masks - before.masks),
               (double)(after.mask_ns - before.mask_ns) / 1e6 / (double)(after.masks - before.masks),
               (double)after.mask_ns_max / 1e6, one);
        (void)fflush(stdout);
        nef_grammar_unref(g);
        nef_grammar_vocab_close(grammar_vocab);
    }
    printf("grammar  neighbours' token: %.2f ms beside grammars, %.2f ms without: %+.1f %%\n", with, without,
           100 * (with / without - 1));
}

int main(int argc, char **argv)
{
    const struct nef_kernels *kernels = nef_kernels_get(NULL);
    const char *part = argc > 4 ? argv[4] : NULL;
    char why[1024] = "";
    struct nef_pool *pool;
    struct nef_model *model;
    struct nef_engine_options o;
    enum nef_kv_type kv;

    NEF_ASSERT(argc > 1 && nef_crypto_init() == NEF_OK && nef_kernels_thread_enter(kernels) == NEF_OK);
    streams = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 32;
    NEF_ASSERT(streams >= 2 && streams <= STREAMS_MAX);
    NEF_ASSERT(nef_pool_start(0, 0, kernels, &pool) == NEF_OK);
    if (nef_model_load(&(struct nef_model_options){.source = argv[1], .kernels = kernels, .pool = pool}, why, &model) !=
        NEF_OK) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    vocab = nef_model_config(model)->vocab;
    kv = nef_model_kv_default(model);
    if (argc > 3)
        kv = strcmp(argv[3], "i8") == 0 ? NEF_KV_I8 : NEF_KV_BF16;
    o = (struct nef_engine_options){
        .model = model, .slots = streams, .context = 2048, .kv_type = kv, .waiting_max = STREAMS_MAX};
    NEF_ASSERT(nef_engine_start(&o, &engine) == NEF_OK);
    printf("loaded   RSS %.2f GB\n", resident_gb());
    if (part == NULL || strcmp(part, "streams") == 0)
        measure_streams();
    if (part == NULL || strcmp(part, "among") == 0) {
        measure_among(200, 0, "which decode");
        measure_among(400, 300, "which are in their prompts");
    }
    if (part == NULL || strcmp(part, "grammar") == 0)
        measure_grammar(model);
    nef_engine_stop(engine);
    nef_model_free(model);
    nef_pool_stop(pool);
    return 0;
}
