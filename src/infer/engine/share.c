/* Tenants and their counters; see share.h. Lists are walked from end to end: there are as many tenants as requests at
 * most, and they are looked at once per request and per batch. */
#include "infer/engine/share.h"
#include <stdlib.h>
#include "base/assert.h"
#include "base/limits.h"

void nef_shares_done(struct nef_shares *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        NEF_ASSERT(s->tenants[i]->waiting == 0 && s->tenants[i]->running == 0);
        free(s->tenants[i]);
    }
    free(s->tenants);
    *s = (struct nef_shares){0};
}

static bool idle(const struct nef_tenant *t)
{
    return t->waiting == 0 && t->running == 0;
}

/* What a tenant that begins to contend is lifted to. */
static uint64_t level(const struct nef_shares *s)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < s->count; i++)
        if (s->tenants[i]->contending > 0)
            least = NEF_MIN(least, s->tenants[i]->served);
    return least == UINT64_MAX ? s->last : least;
}

/* Idle tenants that would be lifted anyway are forgotten; beyond a number of them the one with the least counter too,
 * which gains it the least. */
static void forget(struct nef_shares *s)
{
    uint64_t now = level(s);
    uint32_t kept = 0, idles = 0, least = UINT32_MAX;

    for (uint32_t i = 0; i < s->count; i++) {
        if (idle(s->tenants[i]) && s->tenants[i]->served <= now) {
            free(s->tenants[i]);
            continue;
        }
        s->tenants[kept] = s->tenants[i];
        if (idle(s->tenants[kept])) {
            idles++;
            if (least == UINT32_MAX || s->tenants[kept]->served < s->tenants[least]->served)
                least = kept;
        }
        kept++;
    }
    s->count = kept;
    if (idles > NEF_ENGINE_IDLE_TENANTS_MAX) {
        free(s->tenants[least]);
        s->tenants[least] = s->tenants[--s->count];
    }
}

nef_err nef_shares_find(struct nef_shares *s, uint64_t id, uint32_t weight, struct nef_tenant **out_tenant)
{
    struct nef_tenant *t;

    NEF_ASSERT(weight >= 1 && weight <= NEF_ENGINE_WEIGHT_MAX);
    for (uint32_t i = 0; i < s->count; i++)
        if (s->tenants[i]->id == id) {
            s->tenants[i]->weight = weight;
            *out_tenant = s->tenants[i];
            return NEF_OK;
        }
    forget(s);
    if (s->count == s->room) {
        uint32_t room = s->room == 0 ? 16 : s->room * 2;
        struct nef_tenant **grown = realloc(s->tenants, room * sizeof(grown[0]));

        if (grown == NULL)
            return NEF_E_NOMEM;
        s->tenants = grown;
        s->room = room;
    }
    t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NEF_E_NOMEM;
    t->id = id;
    t->weight = weight;
    s->tenants[s->count++] = t;
    *out_tenant = t;
    return NEF_OK;
}

void nef_shares_contend(struct nef_shares *s, struct nef_tenant *t)
{
    if (t->contending == 0)
        t->served = NEF_MAX(t->served, level(s));
    t->contending++;
}

void nef_shares_content(struct nef_shares *s, struct nef_tenant *t)
{
    NEF_ASSERT(t->contending > 0);
    if (--t->contending == 0)
        s->last = t->served;
}

void nef_shares_charge(struct nef_tenant *t, uint32_t rows)
{
    t->served += (uint64_t)rows * NEF_SHARE_UNIT / t->weight;
}

bool nef_shares_before(const struct nef_tenant *a, const struct nef_tenant *b)
{
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return a->served != b->served ? a->served < b->served : a->number < b->number;
}

struct nef_tenant *nef_shares_next(const struct nef_shares *s)
{
    struct nef_tenant *next = NULL;

    for (uint32_t i = 0; i < s->count; i++)
        if (s->tenants[i]->waiting > 0 && (next == NULL || nef_shares_before(s->tenants[i], next)))
            next = s->tenants[i];
    return next;
}

struct nef_tenant *nef_shares_claim(const struct nef_shares *s, uint32_t slots, struct nef_tenant **out_victim)
{
    struct nef_tenant *rich = NULL, *ahead = NULL, *claims = NULL, *victim = NULL;
    uint64_t weights = 0;

    for (uint32_t i = 0; i < s->count; i++)
        weights += idle(s->tenants[i]) ? 0 : s->tenants[i]->weight;
    for (uint32_t i = 0; i < s->count; i++) {
        struct nef_tenant *t = s->tenants[i];

        if (t->running == 0)
            continue;
        /* rich: keeps its share of the slots without one of them; of those, who holds the most for its weight */
        if ((uint64_t)(t->running - 1) * weights >= (uint64_t)slots * t->weight &&
            (rich == NULL || (uint64_t)t->running * rich->weight > (uint64_t)rich->running * t->weight))
            rich = t;
        if (ahead == NULL || t->served > ahead->served)
            ahead = t;
    }
    for (uint32_t i = 0; i < s->count; i++) {
        struct nef_tenant *t = s->tenants[i], *of = NULL;

        if (t->waiting == 0 || (claims != NULL && !nef_shares_before(t, claims)))
            continue;
        if (rich != NULL && t != rich && (uint64_t)(t->running + 1) * weights <= (uint64_t)slots * t->weight &&
            t->served <= rich->served)
            of = rich;
        else if (t->running == 0 && ahead != NULL && ahead != t &&
                 ahead->served >= t->served + (uint64_t)NEF_SHARE_SLICE * NEF_SHARE_UNIT)
            of = ahead;
        if (of == NULL)
            continue;
        claims = t;
        victim = of;
    }
    if (claims != NULL)
        *out_victim = victim;
    return claims;
}
