/* After the model: what was computed is noted and charged, tokens are handed out, what ends ends. */
#include <math.h>
#include "infer/engine/engine_internal.h"

/* ---- embeddings ---- */

/* Pooling: the mean is a sum in double over positions in ascending order, for each component by itself, divided by
 * their number and rounded to float once; first and last are the state itself. STATES: of this batch's rows that want
 * them. */
static void pool(struct nef_engine *e, struct nef_generation *g, const float *states, uint32_t rows)
{
    uint32_t width = e->config->embedding;

    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < width; i++)
            g->pooled[i] += (double)states[(size_t)row * width + i];
}

static enum nef_finish give_embedding(struct nef_engine *e, struct nef_generation *g)
{
    uint32_t width = e->config->embedding;
    double by = g->request.pooling == NEF_POOLING_MEAN ? (double)g->count : 1.0;
    float *values = (float *)(void *)(g->pooled + width);

    for (uint32_t i = 0; i < width; i++)
        values[i] = (float)(g->pooled[i] / by);
    g->request.embedding(g->request.context, values, width);
    return NEF_FINISH_STOP;
}

/* ---- tokens ---- */

static void tell_prompt(struct nef_generation *g, const struct nef_token *t)
{
    NEF_ASSERT(t->position == g->told); /* in order, and once: also after it was put back */
    g->told = t->position + 1;
    if (g->request.prompt_token != NULL)
        g->request.prompt_token(g->request.context, t);
}

/* A chosen token. Says how G ends with it, NEF_FINISH_NONE: it doesn't. */
static enum nef_finish take_token(struct nef_generation *g, const struct nef_choice *c, nef_err *out_err)
{
    const struct nef_token token = {c->token, c->position, c->logprob, c->top, c->top_count};
    nef_err err;

    if (atomic_load(&g->cancelled))
        return NEF_FINISH_CANCELLED;
    if (c->over || (g->request.ends != NULL && g->request.ends(g->request.context, c->token)))
        return NEF_FINISH_STOP;
    err = nef_generation_append(g, c->token);
    if (err != NEF_OK) {
        *out_err = err;
        return NEF_FINISH_ERROR;
    }
    if (g->request.token != NULL && !g->request.token(g->request.context, &token))
        return NEF_FINISH_STOP;
    return g->count == g->limit ? NEF_FINISH_LENGTH : NEF_FINISH_NONE;
}

static enum nef_finish take_choice(struct nef_generation *g, const struct nef_choice *c, nef_err *out_err)
{
    *out_err = c->err;
    if (c->err != NEF_OK)
        return NEF_FINISH_ERROR;
    if (!c->prompt)
        return take_token(g, c, out_err);
    tell_prompt(g, &(struct nef_token){c->token, c->position, c->logprob, c->top, c->top_count});
    return NEF_FINISH_NONE;
}

/* ---- a batch ---- */

/* The rows of G were computed. */
static void note_rows(struct nef_engine *e, struct nef_generation *g)
{
    uint32_t charge;

    for (uint32_t n = 0; n < g->rows; n++, g->computed++)
        nef_kv_note(g->sequence, g->computed, g->tokens[g->computed]);
    charge = g->computed > g->charged ? g->computed - g->charged : 0;
    g->charged += charge;
    (void)pthread_mutex_lock(&e->lock);
    nef_shares_charge(g->tenant, charge);
    if (g->contends && g->computed == g->count) {
        nef_shares_content(&e->shares, g->tenant);
        g->contends = false;
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (g->request.prompt_logprobs && g->told == 0)
        tell_prompt(g, &(struct nef_token){g->tokens[0], 0, NAN, NULL, 0});
}

static void note_choices(struct nef_engine *e, uint64_t generated)
{
    (void)pthread_mutex_lock(&e->lock);
    e->stats.generated_tokens += generated;
    for (uint32_t i = 0; i < e->choice_count; i++) {
        const struct nef_choice *c = &e->choices[i];

        e->stats.masks += c->mask_ns != 0;
        e->stats.mask_ns += c->mask_ns;
        e->stats.mask_ns_max = NEF_MAX(e->stats.mask_ns_max, c->mask_ns);
    }
    (void)pthread_mutex_unlock(&e->lock);
}

struct over {
    struct nef_generation *g;
    enum nef_finish finish;
    nef_err err;
};

void nef_engine_deliver(struct nef_engine *e, nef_err batch_err)
{
    const float *states = nef_model_hidden(e->model);
    struct over over[NEF_ENGINE_SLOTS_MAX];
    uint32_t at = 0, row = 0, over_count = 0;
    uint64_t generated = 0;

    for (uint32_t i = 0; i < e->running_count; i++) {
        struct nef_generation *g = e->running[i];
        struct over o = {g, NEF_FINISH_NONE, NEF_OK};
        uint32_t hidden = 0;

        if (g->rows == 0)
            continue;
        for (uint32_t n = 0; n < g->rows; n++)
            hidden += e->rows[row++].hidden;
        if (batch_err != NEF_OK) {
            over[over_count++] = (struct over){g, NEF_FINISH_ERROR, batch_err};
            continue;
        }
        note_rows(e, g);
        if (hidden > 0)
            pool(e, g, states, hidden);
        states += (size_t)hidden * e->config->embedding;
        for (; at < e->choice_count && e->choices[at].g == g; at++)
            if (o.finish == NEF_FINISH_NONE) {
                uint32_t before = g->count;

                o.finish = take_choice(g, &e->choices[at], &o.err);
                generated += g->count - before;
            }
        if (o.finish == NEF_FINISH_NONE && g->computed == g->limit)
            o.finish = g->pooled != NULL ? give_embedding(e, g) : NEF_FINISH_LENGTH; /* no token was wanted */
        if (o.finish != NEF_FINISH_NONE)
            over[over_count++] = o;
    }
    if (batch_err == NEF_OK)
        note_choices(e, generated);
    for (uint32_t i = 0; i < over_count; i++) {
        uint32_t index = 0;

        while (e->running[index] != over[i].g)
            index++;
        nef_queue_drop(e, index);
        nef_generation_end(e, over[i].g, true, over[i].finish, over[i].err);
    }
}
