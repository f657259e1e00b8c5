/* What the model's and the engine's tests share: a loaded model of tests/data/infer, its cases, and prompts run in
 * chunks. */
#ifndef NEF_TEST_INFER_FIXTURE_H
#define NEF_TEST_INFER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>

#include "infer/model/model.h"

struct fixture {
    struct nef_pool *pool;
    struct nef_model *model;
    uint32_t vocab;
};
/* kernels: NULL for the best. Fails the test if the model can't be loaded. */
void fixture_open(struct fixture *f, const char *name, const char *kernels, uint32_t threads);
void fixture_open_with(struct fixture *f, const char *source, const char *cache, const char *kernels, uint32_t threads);
void fixture_close(struct fixture *f);
void fixture_path(const char *name, const char *suffix, char out[512]); /* of a file of tests/data/infer */

#define CASES_MAX 8
struct cases {
    uint32_t count;
    uint32_t prompt_count[CASES_MAX], prompt[CASES_MAX][512];
    uint32_t greedy_count[CASES_MAX], greedy[CASES_MAX][64];
    double gap[CASES_MAX][64];
    float *reference; /* count * vocab: float64 rounded once */
    float *llama;     /* the same by llama.cpp */
};
void cases_open(struct cases *c, const char *name, uint32_t vocab);
void cases_close(struct cases *c);

/* A cache for this model. */
struct nef_kv_cache *cache_open(const struct fixture *f, enum nef_kv_type type, uint32_t pages);
/* Logits of the last of COUNT tokens, computed in chunks of CHUNK rows (0: as large as they may be). Malloc'd. */
float *logits_of(const struct fixture *f, struct nef_kv_cache *cache, const uint32_t *tokens, uint32_t count,
                 uint32_t chunk);
/* The next token of SEQUENCE after TOKEN at POSITION. */
uint32_t argmax(const float *logits, uint32_t vocab);
void step(const struct fixture *f, struct nef_kv_sequence *sequence, uint32_t token, uint32_t position, float *logits);
/* Pseudo-random tokens below VOCAB. */
void make_tokens(uint32_t *out, uint32_t count, uint32_t vocab, uint32_t seed);
/* The sets that this processor has. */
uint32_t kernel_names(const char *out[8]);

#endif
