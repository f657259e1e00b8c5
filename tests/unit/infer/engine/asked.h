/* What the engine's tests share: requests whose answers are kept, waited for and compared with a plain loop over model
 * and sampler. */
#ifndef NEF_TEST_INFER_ASKED_H
#define NEF_TEST_INFER_ASKED_H

#include "fixture.h"
#include <pthread.h>
#include <time.h>
#include "base/limits.h"
#include "infer/engine/engine.h"

#define TOKENS_MAX 512

struct answer {
    uint32_t tokens[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    struct nef_logprob top[TOKENS_MAX][NEF_ENGINE_LOGPROBS_MAX];
    uint32_t top_count[TOKENS_MAX];
    uint32_t count, next_position, cached, stop_after, ends_with;
    uint32_t prompt_told; /* tokens */
    uint32_t prompt_tokens[TOKENS_MAX];
    float prompt_logprobs[TOKENS_MAX];
    struct nef_logprob prompt_top[TOKENS_MAX][NEF_ENGINE_LOGPROBS_MAX];
    float embedding[512];
    uint32_t embedding_count;
    enum nef_finish finish;
    nef_err err;
    bool done;            /* under a lock */
    struct timespec pace; /* slept for each token: holds the engine's thread */
    struct nef_generation *generation; /* of asked() */
};
void wait_for(struct answer *a);
/* The callbacks fill A; positions are checked. */
struct nef_generate request(struct answer *a, const uint32_t *prompt, uint32_t count, uint32_t tokens_max,
                            struct nef_sampling sampling);
/* Asks; the answer is waited for with wait_for, and the reference dropped with told(). */
void asked(struct nef_engine *engine, struct answer *a, const struct nef_generate *g);
void told(struct answer *a);
void ask_and_wait(struct nef_engine *engine, struct answer *a, const struct nef_generate *g);

struct nef_engine *start(const struct fixture *f, uint32_t slots, uint32_t context, uint64_t kv_bytes,
                         uint32_t waiting);
uint64_t kv_bytes_of(const struct fixture *f, uint32_t pages);
/* What a request gets alone. */
void alone(const struct fixture *f, const uint32_t *prompt, uint32_t count, uint32_t wanted,
           struct nef_sampling sampling, uint32_t *out);

#endif
