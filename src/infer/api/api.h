/* The OpenAI-compatible HTTP server of an engine.
 *
 *   POST /v1/chat/completions, /v1/completions, /v1/embeddings
 *   GET /v1/models, /v1/models/ID, /health, /metrics
 *   POST /tokenize, /detokenize                    as llama.cpp's server has them
 *
 * docs/inference.md is what users read. A request's way: the listener's thread reads the body (call.c), a worker parses
 * it (request.c), renders and tokenizes the prompt (prompt.c), compiles or finds the grammar (grammars.c) and hands it to
 * the engine (generate.c, embed.c), the engine's thread puts tokens into an answer (answer.c), and the listener's thread
 * takes text out as the client reads (stream.c, write.c).
 *
 * Prompts and answers never reach a trace. There is no authentication: what listens for others than this machine's
 * users stands behind a gateway. */
#ifndef NEF_INFER_API_H
#define NEF_INFER_API_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/engine/engine.h"
#include "infer/text/chat.h"
#include "infer/text/tokenizer.h"
#include "io/config.h"

#define NEF_API_LOADING "loading_model" /* code of the 503 of a server that has no model yet */

struct nef_api;

struct nef_api_options {
    struct nef_host_port listen;
    const char *unix_path; /* not NULL: a Unix socket */
    uint32_t connections_max;
    /* Behind a gateway: its headers x-nef-cache-salt, x-nef-weight and x-nef-priority say whose a request is. */
    bool trust_salt;
};

/* What it serves. All that is pointed to outlives the server. */
struct nef_api_model {
    struct nef_engine *engine;
    const struct nef_tokenizer *tokenizer;
    const char *alias; /* the model's name in answers */
    enum nef_chat_family family;
    uint32_t context;
    enum nef_pooling pooling;     /* of embeddings; NEF_POOLING_NONE: there are none */
    uint32_t embedding_end;       /* token after each text of /v1/embeddings, or NEF_NO_TOKEN */
    struct nef_sampling sampling; /* where a request is silent; not the seed */
    /* what /v1/models tells */
    uint32_t vocab, context_trained, embedding;
    uint64_t file_bytes;
    const char *kernels, *kv_type;
};

/* What Qwen publishes for a family and size (generation_config.json; embedding: the model's width); else llama.cpp's
 * presets. */
struct nef_sampling nef_api_sampling_of(enum nef_chat_family family, uint32_t embedding);

/* Listens. Until there is a model each request is answered with 503 "Loading model", as llama.cpp's server does, so that
 * one that loads can be told from one that hangs. Errors: those of nef_http_start. */
NEF_MUST_CHECK nef_err nef_api_start(const struct nef_api_options *options, struct nef_api **out_api);
/* Serves MODEL from now on; once. Takes some tenths of a second: makes the grammars' vocabulary. */
NEF_MUST_CHECK nef_err nef_api_serve(struct nef_api *api, const struct nef_api_model *model);
uint16_t nef_api_port(const struct nef_api *api); /* 0 for a Unix socket */
/* New requests are refused with 503, and no connection is taken; what runs goes on. */
void nef_api_quiesce(struct nef_api *api);
uint32_t nef_api_active(struct nef_api *api); /* requests under way */
/* Cancels what still runs, closes, frees. Before the engine is stopped. NULL is accepted. */
void nef_api_stop(struct nef_api *api);

#endif
