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
#include "infer/engine/logprob.h"
#include "infer/engine/sampler.h"
#include "infer/grammar/grammar.h"
#include "infer/model/model.h"

struct nef_engine;
struct nef_engine_options {
    struct nef_model *model;  /* outlives the engine; nobody else runs it or its pool meanwhile */
    uint32_t slots;           /* sequences at once (1 .. NEF_ENGINE_SLOTS_MAX) */
    uint32_t context;         /* positions of one sequence at most (2 .. NEF_MODEL_CONTEXT_MAX) */
    uint32_t vocab_used;      /* tokens that the tokenizer has: logits beyond are padding and never sampled; 0: all */
    enum nef_kv_type kv_type;
    uint64_t kv_bytes; /* memory of the cache at most, at least that of one sequence; 0: what all slots can use, but not
                               * more than half of the machine's memory */
    uint32_t waiting_max;        /* requests that wait for a slot; more are refused with NEF_E_BUSY */
    uint32_t tenant_waiting_max; /* of them, of one tenant; 0: no bound of its own */
};
/* Errors: NEF_E_RANGE (an option), NEF_E_NOMEM, NEF_E_SYSTEM, NEF_E_UNSUPPORTED (as nef_kernels_thread_enter). */
NEF_MUST_CHECK nef_err nef_engine_start(const struct nef_engine_options *options, struct nef_engine **out_engine);
/* No new requests from here on (NEF_E_CLOSED); returns when all that were accepted have ended. Not from a callback. */
void nef_engine_drain(struct nef_engine *engine);
/* Cancels what runs (each gets its end), joins the thread, frees. Nobody calls into the engine at that time or
 * afterwards. */
void nef_engine_stop(struct nef_engine *engine);

enum nef_finish { NEF_FINISH_NONE, NEF_FINISH_STOP, NEF_FINISH_LENGTH, NEF_FINISH_CANCELLED, NEF_FINISH_ERROR };

struct nef_token { /* what a callback is told */
    uint32_t token, position;
    /* Log softmax of the model's own logits over the tokenizer's vocabulary: before mask, bias, penalties and
     * temperature (vLLM's raw_logprobs). NAN unless asked for. */
    float logprob;
    /* The top_count most likely ones, descending, equals: lower id first. Valid during the callback. */
    const struct nef_logprob *top;
    uint32_t top_count;
};

/* GGUF's ARCH.pooling_type, in its numbers. */
enum nef_pooling { NEF_POOLING_NONE, NEF_POOLING_MEAN, NEF_POOLING_CLS, NEF_POOLING_LAST };

struct nef_generation; /* one request; counted references */
struct nef_generate {
    const uint32_t *prompt; /* copied; 1 .. context - 1 tokens */
    uint32_t prompt_count;
    /* The last so many of the prompt's tokens were generated before, by an earlier try of the same request: penalties,
     * grammar, thinking budget, positions and tokens_max count them as generated, and they are not delivered again. So
     * an answer that was cut off goes on with the same bits. Below prompt_count. */
    uint32_t continued;
    uint32_t tokens_max; /* of the whole answer; 0: none are wanted (the prompt is computed) */
    struct nef_sampling sampling;
    const struct nef_logit_bias *bias; /* copied */
    uint32_t bias_count;               /* at most NEF_ENGINE_BIAS_MAX */
    /* NULL: none. A reference is taken. Where its text has ended, so has the generation (NEF_FINISH_STOP). */
    struct nef_grammar *grammar;
    /* Thinking: when the first thinking_max generated tokens hold no think_end, the next ones are budget_text, whatever
     * the model would say; it should end with think_end. thinking_max 0 or think_end NEF_NO_TOKEN: no budget. */
    uint32_t think_end, thinking_max;
    const uint32_t *budget_text; /* copied */
    uint32_t budget_count;       /* at most NEF_ENGINE_BUDGET_MAX */
    uint32_t logprobs;           /* 0: none; 1 + k: of the chosen token and of the k most likely ones */
    /* prompt_token is called for each token of the prompt (of the first with a NAN; not for the continued ones), with
     * so many most likely ones as `logprobs` says. The prefix cache isn't read then. */
    bool prompt_logprobs;
    uint8_t salt[32]; /* of the prefix cache */
    /* Fairness: a tenant's share of the machine is its weight (1 .. NEF_ENGINE_WEIGHT_MAX; 0 is 1) among those that
     * want it, whatever number of requests it has (share.h). The weight is that of the tenant's latest request. */
    uint64_t tenant;
    uint32_t weight;
    /* 0 normal; a higher one (up to NEF_ENGINE_PRIORITY_MAX) is admitted first, and takes the slot of a lower one */
    uint32_t priority;

    /* Callbacks are made in the engine's thread, quick and without blocking. */

    bool (*ends)(void *context, uint32_t token); /* end-of-generation tokens: not delivered. NULL: none */
    /* A token at its position in the sequence, in order. Returning false ends the generation as NEF_FINISH_STOP (a stop
     * string was found). */
    bool (*token)(void *context, const struct nef_token *t);
    void (*prompt_token)(void *context, const struct nef_token *t); /* NULL: not told. Before all token() */
    /* Not NULL: an embedding of the prompt is wanted, pooled by `pooling` (MEAN, CLS or LAST) over the normed hidden
     * states, not normalized; nothing is generated. Called once, before finished(). */
    void (*embedding)(void *context, const float *values, uint32_t count);
    enum nef_pooling pooling;
    /* Once, last. cached: prompt tokens that needed no computing. err: with NEF_FINISH_ERROR. */
    void (*finished)(void *context, enum nef_finish finish, nef_err err, uint32_t cached);
    void *context;
};
/* Any thread. *out_generation is one reference, the caller's; callbacks may come before this returns. Time grows with
 * `continued`, since a grammar reads those tokens here. Errors: NEF_E_RANGE (empty prompt, a token out of the
 * vocabulary, longer than the context, a number out of its bounds, a grammar of another vocabulary), NEF_E_INVALID (the
 * continued tokens are none of the grammar's, or its end), NEF_E_BUSY (too many wait), NEF_E_CLOSED, NEF_E_NOMEM; then
 * no callback is made. Finishing with NEF_E_INVALID: a forced token isn't allowed by the grammar. */
NEF_MUST_CHECK nef_err nef_engine_generate(struct nef_engine *engine, const struct nef_generate *g,
                                           struct nef_generation **out_generation);
/* Any thread: ends it soon (finished is still called). Harmless when it has ended. */
void nef_generation_cancel(struct nef_generation *generation);
void nef_generation_unref(struct nef_generation *generation);

/* Counters grow from the start on, but for those that say "now". */
struct nef_engine_stats {
    uint64_t prompt_tokens, cached_tokens, generated_tokens; /* prompt_tokens with the cached ones */
    uint64_t requests, refused;
    uint64_t finished[NEF_FINISH_ERROR + 1]; /* by enum nef_finish */
    uint64_t steps, step_ns;                 /* batches, and all that belongs to them */
    uint64_t forward_ns, sample_ns;          /* of it: the model; choosing tokens, with masks */
    uint64_t prompt_rows, decode_rows;       /* of all batches */
    uint64_t masks, mask_ns, mask_ns_max;    /* of grammars; CPU time of all threads */
    uint64_t queue_ns;                       /* that requests waited for their first slot, in all */
    uint64_t preempted;                      /* sequences put back: pages ran out, or it was another tenant's turn */
    uint64_t shared_waits;                   /* sequences that waited for a beginning that another one was computing */
    uint32_t running, waiting, slots, tenants; /* now; tenants that wait or run */
    uint32_t kv_pages, kv_pages_free;          /* now */
    uint64_t kv_page_bytes;
};
void nef_engine_stats(struct nef_engine *engine, struct nef_engine_stats *out_stats); /* any thread */

#endif
