/* The engine: requests in, tokens out. One thread runs steps: it admits waiting requests into slots, cuts long prompts
 * into chunks, puts decode rows and prompt rows into one batch, runs the model, samples, and tells each request.
 *
 * Requests are token ids; text is the caller's (api/). Numerics don't depend on what runs beside a request. */
#ifndef NEF_INFER_ENGINE_H
#define NEF_INFER_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/model/model.h"
#include "infer/engine/sampler.h"

struct nef_engine;
struct nef_engine_options {
    struct nef_model *model;  /* outlives the engine; nobody else runs it or its pool meanwhile */
    uint32_t slots;           /* sequences at once (1 .. NEF_ENGINE_SLOTS_MAX) */
    uint32_t context;         /* positions of one sequence at most (2 .. NEF_MODEL_CONTEXT_MAX) */
    enum nef_kv_type kv_type;
    uint64_t kv_bytes; /* memory of the cache at most, at least that of one sequence; 0: what all slots can use, but not
                               * more than half of the machine's memory */
    uint32_t waiting_max;     /* requests that wait for a slot; more are refused with NEF_E_BUSY */
};
/* Errors: NEF_E_RANGE (an option), NEF_E_NOMEM, NEF_E_SYSTEM, NEF_E_UNSUPPORTED (as nef_kernels_thread_enter). */
NEF_MUST_CHECK nef_err nef_engine_start(const struct nef_engine_options *options, struct nef_engine **out_engine);
/* No new requests from here on (NEF_E_CLOSED); returns when all that were accepted have ended. Not from a callback. */
void nef_engine_drain(struct nef_engine *engine);
/* Cancels what runs (each gets its end), joins the thread, frees. Nobody calls into the engine at that time or
 * afterwards. */
void nef_engine_stop(struct nef_engine *engine);

enum nef_finish { NEF_FINISH_NONE, NEF_FINISH_STOP, NEF_FINISH_LENGTH, NEF_FINISH_CANCELLED, NEF_FINISH_ERROR };

struct nef_generation; /* one request; counted references */
struct nef_generate {
    const uint32_t *prompt; /* copied; 1 .. context - 1 tokens */
    uint32_t prompt_count;
    uint32_t tokens_max;    /* 0: none are wanted (the prompt is computed) */
    struct nef_sampling sampling;
    uint8_t salt[32];       /* of the prefix cache */
    bool (*ends)(void *context, uint32_t token); /* end-of-generation tokens: not delivered. NULL: none */
    /* In the engine's thread, quick and without blocking. A token at its position in the sequence, in order. Returning
     * false ends the generation as NEF_FINISH_STOP (a stop string was found). */
    bool (*token)(void *context, uint32_t token, uint32_t position);
    /* Once, last. cached: prompt tokens that needed no computing. err: with NEF_FINISH_ERROR. */
    void (*finished)(void *context, enum nef_finish finish, nef_err err, uint32_t cached);
    void *context;
};
/* Any thread. *out_generation is one reference, the caller's; callbacks may come before this returns. Errors:
 * NEF_E_RANGE (empty prompt, a token out of the vocabulary, longer than the context), NEF_E_BUSY (too many wait),
 * NEF_E_CLOSED, NEF_E_NOMEM; then no callback is made. */
NEF_MUST_CHECK nef_err nef_engine_generate(struct nef_engine *engine, const struct nef_generate *g,
                                           struct nef_generation **out_generation);
/* Any thread: ends it soon (finished is still called). Harmless when it has ended. */
void nef_generation_cancel(struct nef_generation *generation);
void nef_generation_unref(struct nef_generation *generation);

struct nef_engine_stats {
    uint64_t prompt_tokens, cached_tokens, generated_tokens, requests, refused;
    uint32_t running, waiting, slots;
    uint32_t kv_pages, kv_pages_free;
    uint64_t preempted; /* sequences put back because pages ran out */
};
void nef_engine_stats(struct nef_engine *engine, struct nef_engine_stats *out_stats); /* any thread */

#endif
