/* See budget.h. */
#include "gateway/budget.h"
#include <string.h>
#include "base/assert.h"

#define SOON_MS  50u  /* between two ops when requests wait */
#define OFTEN_MS 250u /* else */
#define SLOT_MS  1000u

/* ---- the past ---- */

static void past_expire(struct nef_budget_past *p, uint64_t now)
{
    while (p->count > 0 && now - p->ring[p->first].at_ms >= NEF_BUDGET_WINDOW_MS) {
        memcpy(p->base, p->ring[p->first].spent, sizeof p->base);
        p->first = (p->first + 1) % NEF_BUDGET_SAMPLES;
        p->count--;
    }
}

/* All of SPENT was spent at NOW at the latest. Within a second it joins the last sample, whose time moves up. */
static void past_add(struct nef_budget_past *p, uint64_t now, const uint64_t spent[NEF_BUDGET_RESOURCES])
{
    struct nef_budget_sample *last = p->count == 0 ? NULL : &p->ring[(p->first + p->count - 1) % NEF_BUDGET_SAMPLES];

    if (last != NULL && memcmp(last->spent, spent, sizeof last->spent) == 0)
        return;
    if (last == NULL || (now - last->from_ms >= SLOT_MS && p->count < NEF_BUDGET_SAMPLES)) {
        last = &p->ring[(p->first + p->count++) % NEF_BUDGET_SAMPLES];
        last->from_ms = now;
    }
    last->at_ms = now;
    memcpy(last->spent, spent, sizeof last->spent);
}

/* What was spent a window before AT. */
static uint64_t past_base(const struct nef_budget_past *p, uint64_t at, unsigned r)
{
    uint64_t base = p->base[r];

    for (uint32_t i = 0; i < p->count; i++) {
        const struct nef_budget_sample *s = &p->ring[(p->first + i) % NEF_BUDGET_SAMPLES];

        if (at < s->at_ms || at - s->at_ms < NEF_BUDGET_WINDOW_MS)
            break;
        base = s->spent[r];
    }
    return base;
}

/* ---- what is known ---- */

static uint32_t own_index(const struct nef_budget *b)
{
    for (uint32_t i = 0; i < b->row.count; i++)
        if (strcmp(b->row.zones[i].name, b->zone) == 0)
            return i;
    return NEF_REPLICA_MAX;
}

static uint64_t base_at(const struct nef_budget *b, uint32_t i, uint64_t at, unsigned r)
{
    uint64_t base = past_base(&b->seen[i].past, at, r);
    const struct nef_budget_zone *z = &b->row.zones[i];

    if (base > z->spent[r] && strcmp(z->name, b->zone) != 0)
        base = z->spent[r];
    return base > z->base[r] ? base : z->base[r];
}

/* What others can have spent within a window before AT, if nothing changes. */
static uint64_t others_at(const struct nef_budget *b, uint64_t at, unsigned r)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < b->row.count; i++)
        if (strcmp(b->row.zones[i].name, b->zone) != 0)
            sum += b->row.zones[i].limit[r] - base_at(b, i, at, r);
    return sum;
}

static uint64_t own_used_at(const struct nef_budget *b, uint64_t at, unsigned r)
{
    uint32_t own = own_index(b);
    uint64_t base = own == NEF_REPLICA_MAX ? 0 : base_at(b, own, at, r);
    uint64_t used = b->spent[r] > base ? b->spent[r] - base : 0;

    return r == NEF_BUDGET_TOKENS ? used + b->reserved : used;
}

static uint64_t left_at(const struct nef_budget *b, uint64_t at, const struct nef_budget_whole *whole, unsigned r)
{
    uint64_t used = others_at(b, at, r) + own_used_at(b, at, r);

    return used < whole->units[r] ? whole->units[r] - used : 0;
}

static bool others_want(const struct nef_budget *b)
{
    for (uint32_t i = 0; i < b->row.count; i++) {
        const struct nef_budget_zone *z = &b->row.zones[i];

        if (strcmp(z->name, b->zone) != 0 &&
            (z->slots_unmet > 0 || z->unmet[NEF_BUDGET_REQUESTS] > 0 || z->unmet[NEF_BUDGET_TOKENS] > 0))
            return true;
    }
    return false;
}

/* Up to where it may spend, and how many may run; nothing when the lease is over. */
static uint64_t limit_of(const struct nef_budget *b, uint64_t now, unsigned r)
{
    uint32_t own = own_index(b);
    uint64_t limit;

    if (own == NEF_REPLICA_MAX || now >= b->until_ms)
        return 0;
    limit = b->row.zones[own].limit[r];
    return b->asked && b->asked_limit[r] < limit ? b->asked_limit[r] : limit;
}

static uint32_t slots_of(const struct nef_budget *b, uint64_t now)
{
    uint32_t own = own_index(b);
    uint32_t slots;

    if (own == NEF_REPLICA_MAX || now >= b->until_ms)
        return 0;
    slots = b->row.zones[own].slots;
    return b->asked && b->asked_slots < slots ? b->asked_slots : slots;
}

void nef_budget_init(struct nef_budget *b, const char *zone, uint64_t start)
{
    NEF_ASSERT(strlen(zone) <= NEF_ZONE_NAME_MAX && start != 0);
    memset(b, 0, sizeof *b);
    memcpy(b->zone, zone, strlen(zone) + 1);
    b->start = start;
}

/* This zone's part of the row isn't what it was. */
static void own_changed(struct nef_budget *b, uint64_t now, uint32_t own, uint64_t number_before)
{
    const struct nef_budget_zone *z = &b->row.zones[own];

    /* Either an op of ours counted, and then it was none that was sent before the first of them; or another zone said
     * that our lease was over, and then there is nothing in it. */
    b->until_ms = b->asked && z->start == b->start && z->number == number_before + 1
                      ? b->asked_first_ms + NEF_BUDGET_LEASE_MS
                      : 0;
    b->asked = false;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        /* the process before may have spent it all */
        uint64_t least = z->start == b->start ? z->spent[r] : z->limit[r];

        if (b->spent[r] < least)
            b->spent[r] = least;
    }
    past_add(&b->seen[own].past, now, b->spent);
}

void nef_budget_saw(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_state *row)
{
    for (uint32_t i = 0; i < row->count; i++) {
        const struct nef_budget_zone *z = &row->zones[i];
        bool own = strcmp(z->name, b->zone) == 0;
        bool known = i < b->row.count && strcmp(b->row.zones[i].name, z->name) == 0;
        uint64_t before = known ? b->seen[i].number : 0;

        if (!known)
            memset(&b->seen[i], 0, sizeof b->seen[i]);
        past_expire(&b->seen[i].past, now_ms);
        if (known && b->seen[i].start == z->start && b->seen[i].number == z->number)
            continue;
        b->seen[i].start = z->start;
        b->seen[i].number = z->number;
        b->seen[i].since_ms = now_ms;
        b->row.zones[i] = *z;
        if (i >= b->row.count)
            b->row.count = i + 1;
        if (own)
            own_changed(b, now_ms, i, before);
        else
            past_add(&b->seen[i].past, now_ms, z->spent);
    }
    /* bases move without an op of the zone they are of */
    for (uint32_t i = 0; i < row->count; i++)
        memcpy(b->row.zones[i].base, row->zones[i].base, sizeof row->zones[i].base);
}

/* ---- spending ---- */

static void forget_demand(struct nef_budget *b, uint64_t now)
{
    while (now - b->halved_ms >= SLOT_MS && (b->demand[0] | b->demand[1]) != 0) {
        for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
            b->demand[r] /= 2;
        b->halved_ms += SLOT_MS;
    }
    if ((b->demand[0] | b->demand[1]) == 0)
        b->halved_ms = now;
    if (b->active && now - b->active_ms >= NEF_BUDGET_ACTIVE_MS)
        b->active = false;
}

static enum nef_budget_verdict refusal(const struct nef_budget *b, uint64_t now, const struct nef_budget_whole *whole,
                                       const uint64_t need[NEF_BUDGET_RESOURCES])
{
    if (whole->slots != 0 && b->running >= whole->slots)
        return NEF_BUDGET_REFUSED;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        uint64_t idle = 0; /* held elsewhere, and perhaps given back when somebody asks */

        for (uint32_t i = 0; i < b->row.count; i++)
            if (strcmp(b->row.zones[i].name, b->zone) != 0)
                idle += b->row.zones[i].limit[r] - b->row.zones[i].spent[r];
        if (whole->units[r] != 0 && left_at(b, now, whole, r) + idle < need[r])
            return NEF_BUDGET_REFUSED;
    }
    return NEF_BUDGET_WAIT;
}

enum nef_budget_verdict nef_budget_take(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                                        uint64_t tokens, uint64_t *out_tokens)
{
    uint64_t need[NEF_BUDGET_RESOURCES] = {[NEF_BUDGET_REQUESTS] = 1};
    uint32_t own = own_index(b);
    bool fits = own != NEF_REPLICA_MAX && now_ms < b->until_ms && !whole->denied;

    if (whole->denied)
        return NEF_BUDGET_REFUSED;
    if (whole->units[NEF_BUDGET_TOKENS] != 0)
        need[NEF_BUDGET_TOKENS] = tokens < whole->units[NEF_BUDGET_TOKENS] ? tokens : whole->units[NEF_BUDGET_TOKENS];
    forget_demand(b, now_ms);
    b->active = true;
    b->active_ms = now_ms;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        uint64_t held = r == NEF_BUDGET_TOKENS ? b->reserved : 0;

        fits = fits && (whole->units[r] == 0 || b->spent[r] + held + need[r] <= limit_of(b, now_ms, r));
    }
    fits = fits && (whole->slots == 0 || b->running < slots_of(b, now_ms));
    if (!fits) {
        enum nef_budget_verdict verdict = refusal(b, now_ms, whole, need);

        if (verdict == NEF_BUDGET_WAIT) {
            for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
                b->pending[r] += need[r];
            b->pending_slots++;
        }
        return verdict;
    }
    b->spent[NEF_BUDGET_REQUESTS]++;
    b->reserved += need[NEF_BUDGET_TOKENS];
    b->running++;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
        b->demand[r] += need[r];
    past_add(&b->seen[own].past, now_ms, b->spent);
    *out_tokens = need[NEF_BUDGET_TOKENS];
    return NEF_BUDGET_TAKEN;
}

void nef_budget_adopt(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole, uint64_t tokens,
                      uint64_t *out_tokens)
{
    forget_demand(b, now_ms);
    b->active = true;
    b->active_ms = now_ms;
    *out_tokens = whole->units[NEF_BUDGET_TOKENS] < tokens ? whole->units[NEF_BUDGET_TOKENS] : tokens;
    b->reserved += *out_tokens;
    b->running++;
}

void nef_budget_settle(struct nef_budget *b, uint64_t now_ms, uint64_t reserved, uint64_t used)
{
    uint32_t own = own_index(b);

    NEF_ASSERT(b->running > 0 && b->reserved >= reserved);
    b->running--;
    b->reserved -= reserved;
    b->spent[NEF_BUDGET_TOKENS] += used;
    if (own != NEF_REPLICA_MAX)
        past_add(&b->seen[own].past, now_ms, b->spent);
}

/* ---- asking ---- */

/* What this zone would like to have. */
static void desired(const struct nef_budget *b, const struct nef_budget_whole *whole,
                    uint64_t out_limit[NEF_BUDGET_RESOURCES], uint32_t *out_slots)
{
    bool ahead = b->active && !others_want(b);
    uint32_t slots = b->running + b->pending_slots;

    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        uint64_t more = 0;

        if (whole->units[r] != 0) {
            more = b->pending[r] + (r == NEF_BUDGET_TOKENS ? b->reserved : 0);
            if (ahead)
                more += b->demand[r] > 0 ? b->demand[r] : r == NEF_BUDGET_REQUESTS;
            if (more > whole->units[r])
                more = whole->units[r];
        }
        out_limit[r] = b->spent[r] + more;
    }
    if (whole->slots == 0)
        slots = 0;
    else if (ahead)
        slots += 1 + slots / 4;
    if (slots > whole->slots)
        slots = whole->slots;
    *out_slots = slots;
}

static bool is_due(const struct nef_budget *b, uint64_t now, const struct nef_budget_whole *whole,
                   const uint64_t limit[NEF_BUDGET_RESOURCES], uint32_t slots)
{
    uint32_t own = own_index(b);
    uint64_t since = now - b->asked_last_ms; /* of the first one: since long ago */
    const struct nef_budget_zone *z;
    bool holds, release, low = false;

    if (b->pending_slots > 0 || (own == NEF_REPLICA_MAX && b->running > 0)) /* adopted before anything was asked */
        return since >= SOON_MS;
    if (own == NEF_REPLICA_MAX || since < OFTEN_MS)
        return false;
    z = &b->row.zones[own];
    holds = z->slots > 0 || b->running > 0;
    release = z->slots > slots || z->slots_unmet > 0;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        uint64_t held = z->limit[r] > b->spent[r] ? z->limit[r] - b->spent[r] : 0;
        uint64_t wanted = limit[r] - b->spent[r];

        holds = holds || held > 0 || z->spent[r] != b->spent[r];
        release = release || held > wanted || z->unmet[r] > 0;
        low = low || (whole->units[r] != 0 && held < wanted / 2);
    }
    if (low || b->asked) /* running out; or an op has no outcome yet */
        return true;
    /* Giving back is urgent only when somebody waits for it, or when nobody will use it here. */
    if (release && (others_want(b) || !b->active))
        return true;
    return holds && since >= NEF_BUDGET_RENEW_MS;
}

bool nef_budget_wants(struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                      struct nef_budget_entry *out_entry)
{
    struct nef_budget_entry entry;
    uint32_t own = own_index(b);

    forget_demand(b, now_ms);
    for (uint32_t i = 0; i < b->row.count; i++)
        past_expire(&b->seen[i].past, now_ms);
    memset(&entry, 0, sizeof entry);
    desired(b, whole, entry.limit, &entry.slots);
    if (!is_due(b, now_ms, whole, entry.limit, entry.slots))
        return false;
    if (own != NEF_REPLICA_MAX) {
        entry.start = b->row.zones[own].start;
        entry.number = b->row.zones[own].number;
    }
    memcpy(entry.spent, b->spent, sizeof entry.spent);
    for (uint32_t i = 0; i < b->row.count; i++) {
        const struct nef_budget_zone *z = &b->row.zones[i];
        struct nef_budget_claim *c = &entry.claims[entry.claim_count];
        bool holds = z->slots > 0;

        memset(c, 0, sizeof *c);
        c->zone = (struct nef_text){z->name, (uint32_t)strlen(z->name)};
        c->start = z->start;
        c->number = z->number;
        for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
            c->base[r] = past_base(&b->seen[i].past, now_ms, r);
            holds = holds || z->limit[r] > z->spent[r];
        }
        c->over = i != own && holds && now_ms - b->seen[i].since_ms >= NEF_BUDGET_OVER_MS;
        entry.claim_count++;
    }
    if (!b->asked) {
        b->asked = true;
        b->asked_first_ms = now_ms;
        memcpy(b->asked_limit, entry.limit, sizeof b->asked_limit);
        b->asked_slots = entry.slots;
    }
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        if (entry.limit[r] < b->asked_limit[r])
            b->asked_limit[r] = entry.limit[r];
        b->pending[r] = 0;
    }
    if (entry.slots < b->asked_slots)
        b->asked_slots = entry.slots;
    b->pending_slots = 0;
    b->asked_last_ms = now_ms;
    *out_entry = entry;
    return true;
}

/* ---- telling ---- */

uint64_t nef_budget_left(const struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                         unsigned resource)
{
    return left_at(b, now_ms, whole, resource);
}

uint64_t nef_budget_wait_ms(const struct nef_budget *b, uint64_t now_ms, const struct nef_budget_whole *whole,
                            unsigned resource, uint64_t amount)
{
    uint64_t best = now_ms + NEF_BUDGET_WINDOW_MS;

    if (amount > whole->units[resource])
        amount = whole->units[resource];
    if (left_at(b, now_ms, whole, resource) >= amount)
        return 0;
    for (uint32_t i = 0; i < b->row.count; i++)
        for (uint32_t k = 0; k < b->seen[i].past.count; k++) {
            const struct nef_budget_past *p = &b->seen[i].past;
            uint64_t at = p->ring[(p->first + k) % NEF_BUDGET_SAMPLES].at_ms + NEF_BUDGET_WINDOW_MS;

            if (at < best && left_at(b, at, whole, resource) >= amount)
                best = at;
        }
    return best > now_ms ? best - now_ms : 1;
}

bool nef_budget_idle(const struct nef_budget *b, uint64_t now_ms)
{
    uint32_t own = own_index(b);

    if (b->running > 0 || b->active || b->asked || b->pending_slots > 0 ||
        now_ms - b->active_ms < 2 * NEF_BUDGET_WINDOW_MS)
        return false;
    if (own == NEF_REPLICA_MAX)
        return true;
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
        if (b->row.zones[own].limit[r] != b->spent[r])
            return false;
    return b->row.zones[own].slots == 0;
}
