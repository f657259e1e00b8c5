/* Who waits, who gets a slot, who loses one.
 *
 *   generate() --> waiting --admit--> running --> finished
 *                     ^                  |
 *                     +---- put back ----+
 *
 * Each tenant has a queue by priority and order of arrival; share.h says whose head is next. It is admitted when there
 * are a slot and pages for all its tokens so far and one more, beyond what those that run have been promised; nobody
 * overtakes it, so that a long one gets its room at last.
 *
 * A running sequence is put back to the head of its tenant's queue, and computed again later, for three reasons: a
 * waiting one has a higher priority; it is another tenant's turn (nef_shares_claim); pages ran out as sequences grew.
 * By docs/numerics.md what is computed again has the same bits, so its client sees only a pause, and most of its pages
 * are usually found again.
 *
 * It can't end in a deadlock or go round for ever: the cache holds at least one sequence of full length (checked at
 * start), pages that nobody holds can always be taken, and when pages run out the youngest of the lowest priority goes,
 * but for tenants that are ahead of the asking one by a slice; so between two such changes a slice of new tokens was
 * computed. */
#include <string.h>
#include "infer/engine/engine_internal.h"

/* ---- lists ---- */

static void note_head(struct nef_tenant *t)
{
    if (t->first == NULL)
        t->last = NULL;
    t->priority = t->first == NULL ? 0 : t->first->request.priority;
    t->number = t->first == NULL ? 0 : t->first->number;
}

/* Does A stand before B in a queue? */
static bool before(const struct nef_generation *a, const struct nef_generation *b)
{
    return a->request.priority != b->request.priority ? a->request.priority > b->request.priority
                                                      : a->number < b->number;
}

void nef_queue_put(struct nef_engine *e, struct nef_generation *g)
{
    struct nef_tenant *t = g->tenant;
    struct nef_generation **at = &t->first;

    if (t->last != NULL && before(t->last, g))
        at = &t->last->next; /* nearly always */
    while (*at != NULL && before(*at, g))
        at = &(*at)->next;
    g->next = *at;
    *at = g;
    if (g->next == NULL)
        t->last = g;
    t->waiting++;
    e->waiting++;
    note_head(t);
}

/* Under the lock. G is its tenant's head, unless one of a higher priority has just arrived. */
static void take(struct nef_engine *e, struct nef_generation *g)
{
    struct nef_tenant *t = g->tenant;
    struct nef_generation **at = &t->first, *previous = NULL;

    while (*at != g) {
        previous = *at;
        at = &previous->next;
    }
    *at = g->next;
    if (t->last == g)
        t->last = previous;
    g->next = NULL;
    t->waiting--;
    e->waiting--;
    note_head(t);
}

void nef_queue_drop(struct nef_engine *e, uint32_t index)
{
    struct nef_generation *g = e->running[index];

    (void)pthread_mutex_lock(&e->lock);
    e->running_count--;
    (void)pthread_mutex_unlock(&e->lock);
    memmove(&e->running[index], &e->running[index + 1], (e->running_count - index) * sizeof(e->running[0]));
    for (uint32_t i = 0; i < e->running_count; i++)
        if (e->running[i]->leader == g) {
            e->running[i]->leader = NULL;
            e->running[i]->seeks = true;
        }
    g->leader = NULL;
}

static void put_back(struct nef_engine *e, uint32_t index)
{
    struct nef_generation *g = e->running[index];

    nef_kv_sequence_close(g->sequence); /* its full pages are found again, unless they are taken */
    g->sequence = NULL;
    g->computed = 0;
    g->rows = 0;
    if (g->pooled != NULL) /* it begins again */
        memset(g->pooled, 0, e->config->embedding * sizeof(g->pooled[0]));
    nef_queue_drop(e, index);
    (void)pthread_mutex_lock(&e->lock);
    g->tenant->running--;
    if (!g->contends) { /* not lifted: it didn't stay away */
        g->tenant->contending++;
        g->contends = true;
    }
    nef_queue_put(e, g);
    e->stats.preempted++;
    (void)pthread_mutex_unlock(&e->lock);
}

/* ---- ends that come from outside ---- */

static struct nef_generation *unlink_cancelled(struct nef_engine *e, struct nef_tenant *t, bool all,
                                               struct nef_generation *gone)
{
    struct nef_generation **at, *g;

    t->last = NULL;
    for (at = &t->first; (g = *at) != NULL;) {
        if (!all && !atomic_load(&g->cancelled)) {
            t->last = g;
            at = &g->next;
            continue;
        }
        *at = g->next;
        g->next = gone;
        gone = g;
        t->waiting--;
        e->waiting--;
    }
    note_head(t);
    return gone;
}

void nef_queue_reap(struct nef_engine *e, bool all)
{
    struct nef_generation *gone = NULL, *g;
    bool cancels;

    (void)pthread_mutex_lock(&e->lock);
    cancels = e->cancels || all;
    e->cancels = false;
    for (uint32_t i = 0; cancels && i < e->shares.count; i++)
        gone = unlink_cancelled(e, e->shares.tenants[i], all, gone);
    (void)pthread_mutex_unlock(&e->lock);
    if (!cancels)
        return;
    while ((g = gone) != NULL) {
        gone = g->next;
        nef_generation_end(e, g, false, NEF_FINISH_CANCELLED, NEF_OK);
    }
    for (uint32_t i = e->running_count; i-- > 0;) {
        g = e->running[i];
        if (!all && !atomic_load(&g->cancelled))
            continue;
        nef_queue_drop(e, i);
        nef_generation_end(e, g, true, NEF_FINISH_CANCELLED, NEF_OK);
    }
}

/* ---- making way ---- */

/* Of two running ones that could be put back, is A the better victim? */
static bool rather(const struct nef_generation *a, const struct nef_generation *b)
{
    return b == NULL || (a->request.priority != b->request.priority ? a->request.priority < b->request.priority
                                                                    : a->number > b->number);
}

/* The youngest of the lowest priority; TENANT NULL: of all. */
static uint32_t youngest(const struct nef_engine *e, const struct nef_tenant *tenant, uint32_t priority_below)
{
    const struct nef_generation *best = NULL;
    uint32_t at = UINT32_MAX;

    for (uint32_t i = 0; i < e->running_count; i++) {
        const struct nef_generation *g = e->running[i];

        if ((tenant != NULL && g->tenant != tenant) || g->request.priority >= priority_below || !rather(g, best))
            continue;
        best = g;
        at = i;
    }
    return at;
}

/* No slot is free: whose head gets one, and by whose loss? UINT32_MAX: nobody's. */
static uint32_t claim(struct nef_engine *e, struct nef_tenant **out_tenant)
{
    struct nef_tenant *next, *victim = NULL;
    uint32_t at = UINT32_MAX;

    (void)pthread_mutex_lock(&e->lock);
    next = nef_shares_next(&e->shares);
    if (next != NULL && next->priority > 0)
        at = youngest(e, NULL, next->priority);
    if (at == UINT32_MAX) {
        next = nef_shares_claim(&e->shares, e->slots, &victim);
        if (next != NULL)
            at = youngest(e, victim, next->priority + 1); /* never of a higher one */
    }
    (void)pthread_mutex_unlock(&e->lock);
    *out_tenant = next;
    return at;
}

uint32_t nef_queue_make_room(struct nef_engine *e, const struct nef_generation *g)
{
    const struct nef_generation *best = NULL;
    uint32_t at = UINT32_MAX;

    (void)pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < e->running_count; i++) {
        const struct nef_generation *other = e->running[i];

        if (other->request.priority > g->request.priority || other->tenant == g->tenant ||
            other->tenant->served < g->tenant->served + (uint64_t)NEF_SHARE_SLICE * NEF_SHARE_UNIT ||
            !rather(other, best))
            continue;
        best = other;
        at = i;
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (at == UINT32_MAX)
        at = youngest(e, NULL, UINT32_MAX);
    NEF_ASSERT(at != UINT32_MAX);
    put_back(e, at);
    return at;
}

/* ---- admission ---- */

static uint32_t pages_of(uint32_t positions)
{
    return positions / NEF_KV_TILE + (positions % NEF_KV_TILE != 0);
}

/* Pages that G was promised at admission and hasn't taken. */
static uint32_t promised(const struct nef_generation *g)
{
    uint32_t wanted = pages_of(NEF_MIN(g->count + 1, g->limit)), held = nef_kv_reserved(g->sequence) / NEF_KV_TILE;

    return wanted > held ? wanted - held : 0;
}

static bool room_for(const struct nef_engine *e, const struct nef_generation *g)
{
    uint64_t wanted = promised(g);

    for (uint32_t i = 0; i < e->running_count; i++)
        wanted += promised(e->running[i]);
    return e->running_count == 0 || wanted <= nef_kv_pages_free(e->cache);
}

static nef_err open_sequence(struct nef_engine *e, struct nef_generation *g)
{
    /* one token alone finds nothing */
    uint32_t count = nef_generation_computes_all(g) ? 1 : g->count;

    return nef_kv_sequence_open(e->cache, g->request.salt, g->tokens, count, &g->computed, &g->sequence);
}

/* Under the lock. */
static void count_admitted(struct nef_engine *e, struct nef_generation *g)
{
    g->admitted_before = true;
    g->cached = NEF_MIN(g->computed, g->first);
    g->charged = g->computed;
    e->stats.prompt_tokens += g->count;
    e->stats.cached_tokens += g->computed;
    e->stats.queue_ns += nef_engine_now_ns() - g->arrived_ns;
}

static void insert_running(struct nef_engine *e, struct nef_generation *g)
{
    uint32_t at = e->running_count;

    while (at > 0 && e->running[at - 1]->number > g->number)
        at--;
    memmove(&e->running[at + 1], &e->running[at], (e->running_count - at) * sizeof(e->running[0]));
    e->running[at] = g;
    g->leader = NULL;
    g->seeks = true;
    g->waited = 0;
    (void)pthread_mutex_lock(&e->lock);
    take(e, g);
    g->tenant->running++;
    e->running_count++;
    if (!g->admitted_before)
        count_admitted(e, g);
    (void)pthread_mutex_unlock(&e->lock);
}

/* G is its tenant's head, and there is a slot. False: pages must become free first. */
static bool admit(struct nef_engine *e, struct nef_generation *g)
{
    nef_err err = open_sequence(e, g);

    if (err != NEF_OK) {
        (void)pthread_mutex_lock(&e->lock);
        take(e, g);
        (void)pthread_mutex_unlock(&e->lock);
        nef_generation_end(e, g, false, NEF_FINISH_ERROR, err);
        return true;
    }
    if (room_for(e, g)) {
        insert_running(e, g);
        return true;
    }
    nef_kv_sequence_close(g->sequence);
    g->sequence = NULL;
    g->computed = 0;
    return false;
}

void nef_queue_admit(struct nef_engine *e)
{
    for (;;) {
        struct nef_tenant *next;
        struct nef_generation *g;
        uint32_t victim = UINT32_MAX;

        (void)pthread_mutex_lock(&e->lock);
        next = nef_shares_next(&e->shares);
        (void)pthread_mutex_unlock(&e->lock);
        if (next == NULL)
            return;
        if (e->running_count == e->slots) {
            victim = claim(e, &next);
            if (victim == UINT32_MAX)
                return;
        }
        (void)pthread_mutex_lock(&e->lock);
        g = next->first;
        (void)pthread_mutex_unlock(&e->lock);
        if (victim != UINT32_MAX)
            put_back(e, victim);
        while (!admit(e, g)) {
            /* The same claims hold for pages. */
            struct nef_tenant *claims;

            victim = claim(e, &claims);
            if (victim == UINT32_MAX || claims != next)
                return;
            put_back(e, victim);
        }
    }
}
