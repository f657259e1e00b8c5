/* A model made ready, for `nef infer` and `nef chat`: kernels, threads, weights, tokenizer, engine. */
#ifndef NEF_CLI_INFER_SETUP_H
#define NEF_CLI_INFER_SETUP_H

#include <stdbool.h>
#include <stdint.h>
#include "infer/engine/engine.h"
#include "infer/model/model.h"
#include "infer/text/chat.h"
#include "infer/text/tokenizer.h"

#define NEF_ALIAS_MAX 128u

/* The options of the command line, with their presets where they aren't given. */
struct nef_infer_options {
    const char *command; /* for complaints */
    const char *model, *cache_file, *kv_type, *alias, *pooling;
    uint32_t threads, context, slots; /* 0: presets */
    uint32_t waiting_max, tenant_waiting_max;
};
struct nef_infer_setup {
    const struct nef_kernels *kernels;
    struct nef_pool *pool;
    struct nef_model *model;
    struct nef_tokenizer *tokenizer;
    struct nef_engine *engine;
    enum nef_chat_family family;
    enum nef_kv_type kv_type;
    enum nef_pooling pooling;
    uint32_t embedding_end; /* token after a text that is embedded, or NEF_NO_TOKEN */
    uint32_t context, slots;
    uint64_t load_ms;
    char alias[NEF_ALIAS_MAX];
};

/* Kernels, threads and weights; what is wrong was said. Returns the exit status, 0 when it went well. */
int nef_infer_load(const struct nef_infer_options *o, struct nef_infer_setup *out);
/* After that: tokenizer and engine. */
int nef_infer_engine(const struct nef_infer_options *o, struct nef_infer_setup *s);
/* After that: how embeddings are pooled, by the file, or by the option where the file says nothing. */
int nef_infer_pooling(const struct nef_infer_options *o, struct nef_infer_setup *s);
void nef_infer_done(struct nef_infer_setup *s); /* zeroed and half-built ones are fine */

const char *nef_kv_type_name(enum nef_kv_type type);
/* Of one position, all layers. */
uint64_t nef_kv_position_bytes(const struct nef_model_config *config, enum nef_kv_type type);

/* ---- infer_bench.c ---- */

#define NEF_BENCH_REPEAT_MAX 64u

struct nef_infer_bench_options {
    /* lists of numbers of tokens; NULL: none, but the presets of both where both are NULL */
    const char *prefill, *depth;
    uint32_t decode, repeat;     /* 0: presets */
    bool json;
};
/* Returns the exit status. */
int nef_infer_bench(const struct nef_infer_options *o, const struct nef_infer_bench_options *bench_options);

#endif
