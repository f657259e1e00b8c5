/* One batch: who takes part with how many rows, their pages, the model.
 *
 * Beginnings that several have in common are computed once. A sequence whose next page another one, older and of the
 * same salt, is going to compute, follows that one: it has no rows until those pages are there, and takes them then (n
 * choices of one prompt, or many requests with one long system prompt that arrive at once). Leaders are older than
 * their followers, so the oldest follows nobody and there is no circle. When a leader ends, fails or is put back, its
 * followers look for another one, and the oldest of them goes on itself. A leader is served by the counter of the
 * neediest tenant that waits for it.
 *
 * How long a batch may take is held by the number of prompt rows (nef_schedule_pace). */
#include <string.h>
#include "infer/engine/engine_internal.h"

/* ---- common beginnings ---- */

static uint32_t common(const struct nef_generation *a, const struct nef_generation *b)
{
    uint32_t count = NEF_MIN(a->count, b->count), i = 0;

    while (i < count && a->tokens[i] == b->tokens[i])
        i++;
    return i;
}

/* The older one that will compute the longest beginning of running[index], beyond what that has. */
static void seek(struct nef_engine *e, uint32_t index)
{
    struct nef_generation *g = e->running[index];
    bool any = false;

    g->seeks = false;
    for (uint32_t i = 0; i < index; i++) {
        struct nef_generation *other = e->running[i];
        uint32_t until;

        if (nef_generation_computes_all(other) ||
            memcmp(other->request.salt, g->request.salt, sizeof(g->request.salt)) != 0)
            continue;
        until = NEF_MIN(common(g, other), g->count - 1) / NEF_KV_TILE * NEF_KV_TILE; /* what nef_kv_adopt takes */
        if (until <= g->computed || until <= other->computed || (any && until <= g->follows))
            continue;
        g->leader = other;
        g->follows = until;
        any = true;
    }
    if (any) {
        (void)pthread_mutex_lock(&e->lock);
        e->stats.shared_waits++;
        (void)pthread_mutex_unlock(&e->lock);
    }
}

/* Pages that others have computed meanwhile; and whom to wait for. */
static nef_err catch_up(struct nef_engine *e, uint32_t index)
{
    struct nef_generation *g = e->running[index];
    nef_err err;

    if (g->leader != NULL) {
        if (g->leader->computed < g->follows)
            return NEF_OK;
        g->leader = NULL;
        g->seeks = true;
    }
    if (g->computed % NEF_KV_TILE != 0 || g->count - g->computed <= NEF_KV_TILE || nef_generation_computes_all(g))
        return NEF_OK;
    err = nef_kv_adopt(g->sequence, g->tokens, g->count, &g->computed);
    if (err != NEF_OK)
        return err;
    g->charged = NEF_MAX(g->charged, g->computed);
    if (g->seeks)
        seek(e, index);
    return NEF_OK;
}

static void catch_up_all(struct nef_engine *e)
{
    for (uint32_t i = 0; i < e->running_count;) {
        struct nef_generation *g = e->running[i];
        nef_err err = catch_up(e, i);

        if (err == NEF_OK) {
            i++;
            continue;
        }
        nef_queue_drop(e, i);
        nef_generation_end(e, g, true, NEF_FINISH_ERROR, err);
    }
}

/* ---- rows ---- */

struct plan {
    struct nef_want wants[NEF_ENGINE_SLOTS_MAX];
    struct nef_generation *of[NEF_ENGINE_SLOTS_MAX];
    struct nef_want_tenant tenants[NEF_ENGINE_SLOTS_MAX];
    uint32_t rows[NEF_ENGINE_SLOTS_MAX];
    uint32_t count, tenant_count;
};

static void rank(struct nef_engine *e, struct plan *p)
{
    (void)pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < e->running_count; i++)
        e->running[i]->tenant->index = UINT32_MAX;
    for (uint32_t i = 0; i < e->running_count; i++) {
        struct nef_tenant *t = e->running[i]->tenant;

        if (t->index == UINT32_MAX) {
            t->index = p->tenant_count;
            p->tenants[p->tenant_count++] = (struct nef_want_tenant){t->served, t->weight};
        }
        e->running[i]->rank = t->index;
    }
    (void)pthread_mutex_unlock(&e->lock);
    for (uint32_t i = e->running_count; i-- > 0;) { /* followers are younger than their leaders */
        struct nef_generation *g = e->running[i], *leader = g->leader;

        if (leader != NULL && p->tenants[g->rank].served < p->tenants[leader->rank].served)
            leader->rank = g->rank;
    }
}

static void plan(struct nef_engine *e)
{
    struct plan p = {.count = 0};
    bool told = false; /* somebody's prompt takes rows of logits */

    catch_up_all(e);
    if (e->running_count == 0)
        return;
    rank(e, &p);
    for (uint32_t i = 0; i < e->running_count; i++) {
        struct nef_generation *g = e->running[i];
        uint32_t left = g->count - g->computed;

        g->rows = 0;
        if (g->leader != NULL)
            continue;
        if (g->request.prompt_logprobs && g->told < g->first) {
            if (told)
                continue;
            told = true;
            left = NEF_MIN(left, NEF_PROMPT_LOGITS_MAX);
        }
        p.of[p.count] = g;
        p.wants[p.count++] = (struct nef_want){left, g->rank, g->waited};
    }
    nef_schedule(&(struct nef_schedule){.wants = p.wants,
                                        .count = p.count,
                                        .tenants = p.tenants,
                                        .tenant_count = p.tenant_count,
                                        .prompt_rows = e->prompt_rows,
                                        .turn = e->turn++},
                 p.rows);
    for (uint32_t i = 0; i < p.count; i++) {
        p.of[i]->rows = p.rows[i];
        p.of[i]->waited = p.rows[i] > 0 ? 0 : p.of[i]->waited + 1;
    }
}

/* Pages for what was planned, oldest first. */
static void reserve(struct nef_engine *e)
{
    for (uint32_t i = 0; i < e->running_count;) {
        struct nef_generation *g = e->running[i];
        nef_err err = g->rows == 0 ? NEF_OK : nef_kv_reserve(g->sequence, g->computed + g->rows);

        if (err == NEF_E_BUSY) {
            NEF_ASSERT(e->running_count > 1); /* the cache holds one sequence of any length */
            if (nef_queue_make_room(e, g) < i)
                i--; /* again for G, unless it was G */
        } else if (err != NEF_OK) {
            nef_queue_drop(e, i);
            nef_generation_end(e, g, true, NEF_FINISH_ERROR, err);
        } else {
            i++;
        }
    }
}

static void add_row(struct nef_engine *e, struct nef_generation *g, uint32_t position)
{
    const struct nef_generate *r = &g->request;
    bool last = position + 1 == g->count, choose = last && g->count < g->limit;
    bool tell = r->prompt_logprobs && position + 1 < g->first && position + 1 >= g->told;

    e->rows[e->row_count++] =
        (struct nef_row){.sequence = g->sequence,
                         .token = g->tokens[position],
                         .position = position,
                         .logits = choose || tell,
                         .hidden = r->embedding != NULL && (last || r->pooling == NEF_POOLING_MEAN)};
    if (!choose && !tell)
        return;
    NEF_ASSERT(e->choice_count < NEF_CHOICES_MAX);
    e->choices[e->choice_count++] = (struct nef_choice){.g = g, .position = position + 1, .prompt = tell};
}

static void fill(struct nef_engine *e)
{
    e->row_count = e->prompt_row_count = e->choice_count = 0;
    for (uint32_t i = 0; i < e->running_count; i++) {
        struct nef_generation *g = e->running[i];

        if (g->count - g->computed > 1)
            e->prompt_row_count += g->rows;
        for (uint32_t n = 0; n < g->rows; n++)
            add_row(e, g, g->computed + n);
    }
}

/* ---- the batch ---- */

static void note_times(struct nef_engine *e, uint64_t start, uint64_t model, uint64_t chosen)
{
    uint64_t now = nef_engine_now_ns(), ns = now - start;

    /* Prompts beside a large model's decoding may take as long as that does. */
    if (e->prompt_row_count > 0)
        e->prompt_rows = nef_schedule_pace(e->prompt_rows, e->prompt_row_count, ns,
                                           NEF_MAX(2 * e->decode_ns, (uint64_t)NEF_SCHEDULE_BATCH_NS));
    else
        e->decode_ns = e->decode_ns == 0 ? ns : e->decode_ns - e->decode_ns / 8 + ns / 8;
    (void)pthread_mutex_lock(&e->lock);
    e->stats.steps++;
    e->stats.step_ns += ns;
    e->stats.forward_ns += model - start;
    e->stats.sample_ns += chosen - model;
    e->stats.prompt_rows += e->prompt_row_count;
    e->stats.decode_rows += e->row_count - e->prompt_row_count;
    (void)pthread_mutex_unlock(&e->lock);
}

void nef_engine_step(struct nef_engine *e)
{
    uint64_t start = nef_engine_now_ns(), model, chosen;
    nef_err err;

    plan(e);
    reserve(e);
    fill(e);
    if (e->row_count == 0)
        return; /* memory ran out for all that was planned */
    err = nef_model_forward(e->model, e->rows, e->row_count, e->logits);
    model = nef_engine_now_ns();
    if (err == NEF_OK)
        nef_pool_run(nef_model_pool(e->model), e->choice_count, nef_choose_part, e);
    chosen = nef_engine_now_ns();
    nef_engine_deliver(e, err);
    note_times(e, start, model, chosen);
}
