/* One request: checked, copied, and at last ended. What costs time that grows with the request (copying, reading
 * continued tokens with the grammar, counting tokens for penalties) is done here, by the thread that asks, not by the
 * engine's.
 *
 * Ownership: a generation has one reference of its caller's and one of the engine's, which ends with finished(). */
#include <stdlib.h>
#include <string.h>
#include "crypto/crypto.h"
#include "infer/engine/engine_internal.h"
#include "infer/text/tokenizer.h"

/* ---- what may be asked ---- */

static bool tokens_fit(const uint32_t *tokens, uint32_t count, uint32_t vocab)
{
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] >= vocab)
            return false;
    return true;
}

static bool within(float value, float least, float most)
{
    return value >= least && value <= most; /* and no NaN */
}

static bool numbers_fit(const struct nef_engine *e, const struct nef_generate *r)
{
    const struct nef_sampling *s = &r->sampling;

    for (uint32_t i = 0; i < r->bias_count; i++)
        if (r->bias[i].token >= e->config->vocab || !within(r->bias[i].bias, -100, 100))
            return false;
    return within(s->presence_penalty, -100, 100) && within(s->frequency_penalty, -100, 100) &&
           (s->repetition_penalty == 0 || within(s->repetition_penalty, 0x1p-10f, 0x1p10f)) &&
           r->weight <= NEF_ENGINE_WEIGHT_MAX && r->priority <= NEF_ENGINE_PRIORITY_MAX;
}

static nef_err check(const struct nef_engine *e, const struct nef_generate *r)
{
    uint32_t vocab = e->config->vocab;

    if (r->prompt_count < 1 || r->prompt_count >= e->context || r->continued >= r->prompt_count ||
        r->bias_count > NEF_ENGINE_BIAS_MAX || r->budget_count > NEF_ENGINE_BUDGET_MAX ||
        r->logprobs > 1 + NEF_ENGINE_LOGPROBS_MAX)
        return NEF_E_RANGE;
    if (!tokens_fit(r->prompt, r->prompt_count, vocab) || !tokens_fit(r->budget_text, r->budget_count, vocab) ||
        !numbers_fit(e, r))
        return NEF_E_RANGE;
    if (r->grammar != NULL && nef_grammar_words(r->grammar) > (vocab + 31) / 32)
        return NEF_E_RANGE;
    if (r->embedding != NULL && (r->pooling < NEF_POOLING_MEAN || r->pooling > NEF_POOLING_LAST || r->continued != 0 ||
                                 r->grammar != NULL || r->prompt_logprobs))
        return NEF_E_RANGE;
    return NEF_OK;
}

/* ---- making ---- */

static void destroy(struct nef_generation *g)
{
    if (g->tokens != NULL)
        nef_wipe(g->tokens, (size_t)g->room * sizeof(g->tokens[0]));
    free(g->tokens);
    free(g->lists);
    free(g->pooled);
    nef_matcher_close(g->matcher);
    nef_tally_free(g->tally);
    free(g);
}

void nef_generation_unref(struct nef_generation *g)
{
    if (g == NULL || atomic_fetch_sub(&g->references, 1) != 1)
        return;
    destroy(g);
}

/* bias and budget_text, behind each other. */
static nef_err copy_lists(struct nef_generation *g, const struct nef_generate *r)
{
    size_t bias_bytes = r->bias_count * sizeof(r->bias[0]), budget_bytes = r->budget_count * sizeof(r->budget_text[0]);

    g->request = *r;
    g->request.prompt = NULL;
    g->request.bias = NULL;
    g->request.budget_text = NULL;
    g->request.grammar = NULL; /* the matcher has a reference */
    if (bias_bytes + budget_bytes == 0)
        return NEF_OK;
    g->lists = malloc(bias_bytes + budget_bytes);
    if (g->lists == NULL)
        return NEF_E_NOMEM;
    if (bias_bytes > 0)
        memcpy(g->lists, r->bias, bias_bytes);
    if (budget_bytes > 0)
        memcpy((uint8_t *)g->lists + bias_bytes, r->budget_text, budget_bytes);
    g->request.bias = g->lists;
    g->request.budget_text = (const uint32_t *)(const void *)((const uint8_t *)g->lists + bias_bytes);
    return NEF_OK;
}

/* think_end as the token at POSITION. */
static void note_thought(struct nef_generation *g, uint32_t position, uint32_t token)
{
    if (token == g->request.think_end && position >= g->first && position - g->first < g->request.thinking_max)
        g->thought = true;
}

/* What grammar, penalties and budget must know of the tokens so far. */
static nef_err read_tokens(struct nef_generation *g, struct nef_grammar *grammar)
{
    nef_err err = NEF_OK;

    if (nef_penalties_wanted(&g->request.sampling))
        err = nef_tally_new(&g->tally);
    for (uint32_t i = 0; i < g->count && err == NEF_OK && g->tally != NULL; i++)
        err = nef_tally_add(g->tally, g->tokens[i], i >= g->first);
    if (err == NEF_OK && grammar != NULL)
        err = nef_matcher_open(grammar, &g->matcher);
    for (uint32_t i = g->first; i < g->count && err == NEF_OK; i++) {
        note_thought(g, i, g->tokens[i]);
        if (g->matcher != NULL)
            err = nef_matcher_accept(g->matcher, g->tokens[i]);
    }
    if (err == NEF_OK && g->matcher != NULL && nef_matcher_ended(g->matcher))
        err = NEF_E_INVALID;
    return err;
}

static nef_err make(struct nef_engine *e, const struct nef_generate *r, struct nef_generation **out)
{
    struct nef_generation *g = calloc(1, sizeof(*g));
    nef_err err;

    if (g == NULL)
        return NEF_E_NOMEM;
    atomic_store(&g->references, 2);
    g->engine = e;
    err = copy_lists(g, r);
    if (err != NEF_OK)
        goto out;
    g->first = r->prompt_count - r->continued;
    /* Of the first position's state nothing depends on what comes after it. */
    g->count = r->embedding != NULL && r->pooling == NEF_POOLING_CLS ? 1 : r->prompt_count;
    g->limit = g->count;
    if (r->embedding == NULL)
        g->limit = NEF_MAX(g->count, g->first + NEF_MIN(r->tokens_max, e->context - g->first));
    g->room = g->count;
    g->tokens = malloc((size_t)g->room * sizeof(g->tokens[0]));
    if (r->embedding != NULL)
        g->pooled = calloc(e->config->embedding, sizeof(double) + sizeof(float));
    if (g->tokens == NULL || (r->embedding != NULL && g->pooled == NULL)) {
        err = NEF_E_NOMEM;
        goto out;
    }
    memcpy(g->tokens, r->prompt, (size_t)g->count * sizeof(g->tokens[0]));
    err = read_tokens(g, r->grammar);
    if (err != NEF_OK)
        goto out;
    *out = g;
    return NEF_OK;
out:
    destroy(g);
    return err;
}

/* Under the lock. So many may wait beyond those for which slots are free: the engine's thread may just not have come to
 * them yet. */
static nef_err enter(struct nef_engine *e, struct nef_generation *g)
{
    uint32_t free_slots = e->slots - e->running_count, weight = NEF_MAX(g->request.weight, 1u);
    nef_err err;

    if (e->closed)
        return NEF_E_CLOSED;
    if (e->waiting >= e->waiting_max + free_slots)
        return NEF_E_BUSY;
    err = nef_shares_find(&e->shares, g->request.tenant, weight, &g->tenant);
    if (err != NEF_OK)
        return err;
    if (e->tenant_waiting_max > 0 && g->tenant->waiting >= e->tenant_waiting_max + free_slots)
        return NEF_E_BUSY;
    g->number = e->arrivals++;
    g->arrived_ns = nef_engine_now_ns();
    g->contends = true;
    nef_shares_contend(&e->shares, g->tenant);
    nef_queue_put(e, g);
    return NEF_OK;
}

nef_err nef_engine_generate(struct nef_engine *e, const struct nef_generate *request,
                            struct nef_generation **out_generation)
{
    struct nef_generation *g;
    nef_err err = check(e, request);

    if (err == NEF_OK)
        err = make(e, request, &g);
    if (err != NEF_OK)
        return err;
    (void)pthread_mutex_lock(&e->lock);
    err = enter(e, g);
    if (err == NEF_OK) {
        e->accepted++;
        e->stats.requests++;
        (void)pthread_cond_signal(&e->work);
        *out_generation = g;
    } else {
        e->stats.refused++;
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (err != NEF_OK)
        destroy(g);
    return err;
}

/* ---- while it runs ---- */

void nef_generation_cancel(struct nef_generation *g)
{
    struct nef_engine *e = g->engine;

    atomic_store(&g->cancelled, true);
    if (atomic_load(&g->ended))
        return;
    (void)pthread_mutex_lock(&e->lock);
    e->cancels = true;
    (void)pthread_cond_signal(&e->work);
    (void)pthread_mutex_unlock(&e->lock);
}

nef_err nef_generation_append(struct nef_generation *g, uint32_t token)
{
    if (g->count == g->room) {
        uint32_t room = NEF_MIN(g->limit, g->room + NEF_MAX(g->room / 2, 64u));
        uint32_t *grown = malloc((size_t)room * sizeof(grown[0]));

        if (grown == NULL)
            return NEF_E_NOMEM;
        memcpy(grown, g->tokens, (size_t)g->count * sizeof(grown[0]));
        /* as when it is freed; realloc would leave a copy */
        nef_wipe(g->tokens, (size_t)g->room * sizeof(g->tokens[0]));
        free(g->tokens);
        g->tokens = grown;
        g->room = room;
    }
    note_thought(g, g->count, token);
    g->tokens[g->count++] = token;
    return NEF_OK;
}

/* Of the number of generated tokens and of nothing else, so that a continuation goes on in the middle of the text. */
uint32_t nef_generation_forced(const struct nef_generation *g)
{
    const struct nef_generate *r = &g->request;
    uint32_t generated = g->count - g->first;

    if (r->thinking_max == 0 || r->think_end == NEF_NO_TOKEN || g->thought || generated < r->thinking_max ||
        generated - r->thinking_max >= r->budget_count)
        return NEF_NO_TOKEN;
    return r->budget_text[generated - r->thinking_max];
}

void nef_generation_end(struct nef_engine *e, struct nef_generation *g, bool runs, enum nef_finish finish, nef_err err)
{
    nef_kv_sequence_close(g->sequence);
    g->sequence = NULL;
    if (g->request.finished != NULL)
        g->request.finished(g->request.context, finish, err, g->cached);
    (void)pthread_mutex_lock(&e->lock);
    if (runs)
        g->tenant->running--;
    if (g->contends)
        nef_shares_content(&e->shares, g->tenant);
    g->contends = false;
    g->tenant = NULL;
    e->stats.finished[finish]++;
    e->accepted--;
    if (e->accepted == 0)
        (void)pthread_cond_broadcast(&e->idle);
    (void)pthread_mutex_unlock(&e->lock);
    atomic_store(&g->ended, true);
    nef_generation_unref(g);
}
