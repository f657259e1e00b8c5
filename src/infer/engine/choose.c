/* From a row of logits to a token, for one sequence; on the pool's threads, many at a time. The order is vLLM's:
 *
 *   log probabilities of the logits as they are
 *   mask of the grammar, bias, penalties
 *   temperature, top_k, top_p, min_p, draw (sampler.c)
 *
 * The thinking budget may say the token instead. Whatever it is, the grammar and the penalties take note of it.
 *
 * Masks are made here, between two passes of the model: some microseconds, and at most about a millisecond where a
 * state of a grammar is met for the first time (grammar.h), while the other threads choose for the other sequences. */
#include <math.h>
#include <string.h>
#include "infer/engine/engine_internal.h"
#include "infer/text/tokenizer.h"

/* A thread's scratch: the sampler's, the logits as they were, a mask. */
static size_t mask_words(uint32_t vocab)
{
    return (vocab + 31) / 32;
}

size_t nef_choose_scratch(uint32_t vocab)
{
    return nef_sampler_scratch(vocab) + (size_t)vocab * sizeof(float) + mask_words(vocab) * sizeof(uint32_t);
}

/* What is added to four logits, by the four bits of a mask. */
#define NO -INFINITY
static const float added[16][4] = {
    {NO, NO, NO, NO}, {0, NO, NO, NO}, {NO, 0, NO, NO}, {0, 0, NO, NO}, {NO, NO, 0, NO}, {0, NO, 0, NO},
    {NO, 0, 0, NO},   {0, 0, 0, NO},   {NO, NO, NO, 0}, {0, NO, NO, 0}, {NO, 0, NO, 0},  {0, 0, NO, 0},
    {NO, NO, 0, 0},   {0, NO, 0, 0},   {NO, 0, 0, 0},   {0, 0, 0, 0}};
#undef NO

static void apply_mask(const uint32_t *words, uint32_t vocab, float *logits)
{
    for (uint32_t i = 0; i < vocab; i += 32) {
        uint32_t word = words[i / 32];

        if (word == UINT32_MAX)
            continue;
        if (vocab - i < 32) {
            for (uint32_t k = 0; i + k < vocab; k++)
                logits[i + k] += added[word >> k & 1][0];
            continue;
        }
        for (uint32_t k = 0; k < 32; k += 4)
            for (uint32_t l = 0; l < 4; l++)
                logits[i + k + l] += added[word >> k & 15][l];
    }
}

static uint64_t thread_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static nef_err mask(const struct nef_engine *e, struct nef_choice *c, uint32_t *words, float *logits)
{
    uint64_t start = thread_ns();
    nef_err err;

    memset(words, 0, mask_words(e->config->vocab) * sizeof(*words)); /* the grammar's vocabulary may be smaller */
    err = nef_matcher_mask(c->g->matcher, words);
    if (err == NEF_OK)
        apply_mask(words, e->vocab_used, logits);
    c->mask_ns = NEF_MAX(thread_ns() - start, 1u);
    return err;
}

static nef_err draw(const struct nef_engine *e, struct nef_choice *c, float *logits, void *sampler, uint32_t *words)
{
    const struct nef_generate *r = &c->g->request;
    nef_err err;

    if (c->g->matcher != NULL) {
        err = mask(e, c, words, logits);
        if (err != NEF_OK)
            return err;
    }
    for (uint32_t i = 0; i < r->bias_count; i++)
        logits[r->bias[i].token] += r->bias[i].bias;
    if (c->g->tally != NULL)
        nef_tally_apply(c->g->tally, &r->sampling, logits);
    return nef_sample(&r->sampling, logits, e->vocab_used, c->position, sampler, &c->token);
}

/* What was chosen, to those that must know it. */
static nef_err note(struct nef_choice *c)
{
    struct nef_generation *g = c->g;
    nef_err err = NEF_OK;

    if (g->matcher != NULL) {
        err = nef_matcher_accept(g->matcher, c->token);
        c->over = err == NEF_OK && nef_matcher_ended(g->matcher);
    }
    if (err == NEF_OK && g->tally != NULL)
        err = nef_tally_add(g->tally, c->token, true);
    return err;
}

void nef_choose_part(void *engine, uint32_t part, void *scratch)
{
    struct nef_engine *e = engine;
    struct nef_choice *c = &e->choices[part];
    const struct nef_generate *r = &c->g->request;
    float *logits = e->logits + (size_t)part * e->config->vocab;
    float *original = (float *)((uint8_t *)scratch + nef_sampler_scratch(e->config->vocab));
    uint32_t *words = (uint32_t *)(original + e->config->vocab);
    bool asked = r->logprobs > 0 || c->prompt;
    struct nef_logsum sum = {0};

    c->logprob = NAN;
    if (asked) {
        c->err = nef_logsum(logits, e->vocab_used, &sum);
        if (c->err != NEF_OK)
            return;
        c->top_count = nef_logprob_top(&sum, logits, e->vocab_used, NEF_MAX(r->logprobs, 1u) - 1, c->top);
        memcpy(original, logits, e->vocab_used * sizeof(float));
    }
    if (c->prompt) {
        c->token = c->g->tokens[c->position];
    } else {
        c->token = nef_generation_forced(c->g);
        if (c->token == NEF_NO_TOKEN)
            c->err = draw(e, c, logits, scratch, words);
        if (c->err == NEF_OK)
            c->err = note(c);
    }
    if (asked && c->err == NEF_OK && c->token < e->vocab_used)
        c->logprob = nef_logprob_of(&sum, original[c->token]);
}
