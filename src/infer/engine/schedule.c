/* Rows of a batch; see schedule.h. */
#include "infer/engine/schedule.h"
#include <stdlib.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/engine/share.h"

#define QUANTUM 32u /* prompt rows that a tenant gets at a time: a matrix unit's tile */

/* BUDGET rows to tenants by their counters, each as many as it wants at most. */
static void divide(const struct nef_schedule *s, const uint32_t *wanted, uint32_t quantum, uint32_t budget,
                   uint32_t *out_given)
{
    uint64_t counters[NEF_ENGINE_SLOTS_MAX];

    for (uint32_t t = 0; t < s->tenant_count; t++) {
        counters[t] = s->tenants[t].served;
        out_given[t] = 0;
    }
    while (budget > 0) {
        uint32_t least = s->tenant_count, rows;

        for (uint32_t t = 0; t < s->tenant_count; t++)
            if (wanted[t] > out_given[t] && (least == s->tenant_count || counters[t] < counters[least]))
                least = t;
        if (least == s->tenant_count)
            return;
        rows = NEF_MIN(NEF_MIN(quantum, budget), wanted[least] - out_given[least]);
        out_given[least] += rows;
        counters[least] += (uint64_t)rows * NEF_SHARE_UNIT / s->tenants[least].weight;
        budget -= rows;
    }
}

struct turn {
    uint32_t waited, lot, index;
};

/* The same order each time would serve those behind less often than those in front. */
static uint32_t lot(uint64_t turn, uint32_t index)
{
    uint64_t x = (turn << 20 | index) * 0x9E3779B97F4A7C15u;

    return (uint32_t)((x ^ x >> 29) * 0xBF58476D1CE4E5B9u >> 32);
}

static int longest_first(const void *a, const void *b)
{
    const struct turn *x = a, *y = b;

    if (x->waited != y->waited)
        return x->waited > y->waited ? -1 : 1;
    if (x->lot != y->lot)
        return x->lot < y->lot ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* One row to each that decodes, or to ROOM of them. Returns how many. */
static uint32_t give_decoding(const struct nef_schedule *s, uint32_t room, uint32_t *out_rows)
{
    uint32_t wanted[NEF_ENGINE_SLOTS_MAX] = {0}, given[NEF_ENGINE_SLOTS_MAX];
    struct turn turns[NEF_ENGINE_SLOTS_MAX];
    uint32_t count = 0;

    for (uint32_t i = 0; i < s->count; i++)
        if (s->wants[i].left == 1) {
            wanted[s->wants[i].tenant]++;
            turns[count++] = (struct turn){s->wants[i].waited, lot(s->turn, i), i};
        }
    if (count > room)
        qsort(turns, count, sizeof(turns[0]), longest_first);
    divide(s, wanted, 1, room, given);
    for (uint32_t i = 0; i < count; i++)
        if (given[s->wants[turns[i].index].tenant] > 0) {
            given[s->wants[turns[i].index].tenant]--;
            out_rows[turns[i].index] = 1;
        }
    return NEF_MIN(count, room);
}

/* BUDGET rows to the prompts of a tenant, which want as many or more. */
static void give_tenant(const struct nef_schedule *s, uint32_t tenant, uint32_t budget, uint32_t *out_rows)
{
    uint32_t oldest = 0, prompts = 0, first;

    for (uint32_t i = s->count; i-- > 0;)
        if (s->wants[i].left > 1 && s->wants[i].tenant == tenant) {
            oldest = i;
            prompts++;
        }
    first = NEF_MIN(s->wants[oldest].left, prompts == 1 ? budget : (budget + 1) / 2);
    out_rows[oldest] = first;
    budget -= first;
    for (uint32_t n = 1; n < prompts && budget > 0; n++) {
        uint32_t least = s->count;

        for (uint32_t i = oldest + 1; i < s->count; i++)
            if (s->wants[i].left > 1 && s->wants[i].tenant == tenant && out_rows[i] == 0 &&
                (least == s->count || s->wants[i].left < s->wants[least].left))
                least = i;
        out_rows[least] = NEF_MIN(s->wants[least].left, budget);
        budget -= out_rows[least];
    }
    out_rows[oldest] += NEF_MIN(s->wants[oldest].left - first, budget);
}

void nef_schedule(const struct nef_schedule *s, uint32_t *out_rows)
{
    uint32_t wanted[NEF_ENGINE_SLOTS_MAX] = {0}, given[NEF_ENGINE_SLOTS_MAX];
    uint32_t left = NEF_BATCH_ROWS_MAX;
    uint64_t prompts = 0;

    NEF_ASSERT(s->count > 0 && s->count <= NEF_ENGINE_SLOTS_MAX);
    NEF_ASSERT(s->tenant_count > 0 && s->tenant_count <= NEF_ENGINE_SLOTS_MAX);
    NEF_ASSERT(s->prompt_rows > 0);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct nef_want *w = &s->wants[i];

        NEF_ASSERT(w->left > 0 && w->tenant < s->tenant_count);
        out_rows[i] = 0;
        if (w->left == 1)
            continue;
        prompts += w->left;
        wanted[w->tenant] += NEF_MIN(w->left, NEF_BATCH_ROWS_MAX); /* no overflow, and nobody gets more */
    }
    left -= give_decoding(s, left - (uint32_t)NEF_MIN(prompts, (uint64_t)NEF_PROMPT_ROWS_MIN), out_rows);
    if (prompts == 0)
        return;
    divide(s, wanted, QUANTUM, NEF_MIN(left, s->prompt_rows), given);
    for (uint32_t t = 0; t < s->tenant_count; t++)
        if (given[t] > 0)
            give_tenant(s, t, given[t], out_rows);
}

uint32_t nef_schedule_pace(uint32_t prompt_rows, uint32_t used, uint64_t ns, uint64_t target_ns)
{
    uint64_t fits;

    if (used < prompt_rows / 2 || ns == 0)
        return prompt_rows; /* says nothing about it */
    fits = used * target_ns / ns;
    if (used < prompt_rows && fits >= used)
        return prompt_rows; /* it wasn't what limited the batch */
    /* One batch says little: it may have been held up. */
    fits = NEF_MAX(NEF_MIN(fits, (uint64_t)prompt_rows + prompt_rows / 4), (uint64_t)prompt_rows / 2);
    return (uint32_t)NEF_MAX(NEF_MIN(fits, (uint64_t)NEF_BATCH_ROWS_MAX), (uint64_t)NEF_PROMPT_ROWS_MIN);
}
