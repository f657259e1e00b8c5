/* The read gate (R5). gate.h is the contract.
 *
 *   ring, oldest to newest:  [tag, end] [tag, end] [tag, end] ...
 *                             ^tail                            ^head (sequence numbers, never wrap)
 *   chains: buckets[hash(tag)] -> newest entry of that hash -> prev -> prev ... until below tail
 *   the all-zero tag has a chain of its own, because it touches every key.
 *
 * Ends rise along the ring, so "newest op at or below the bound" is a binary search for a listing and a
 * short walk down one chain for a key. Two tags in one bucket are told apart by comparing them. What
 * didn't fit into the ring is remembered as one range [overflow_from, overflow_until]: reads that could
 * be touched by it wait for all of it. */
#include "repl/gate.h"

#include <string.h>
#include "base/assert.h"

#ifndef NEF_MUTATION
#define NEF_MUTATION 0
#endif

struct entry {
    uint8_t tag[16];
    uint64_t end;
    uint64_t prev; /* sequence number + 1 of the next older entry in this chain; 0: none */
};

struct nef_gate {
    uint64_t applied;
    uint64_t tail, head; /* sequence numbers */
    uint64_t overflow_from, overflow_until; /* ends of the first and last op left out; 0: none */
    uint64_t every_key;                     /* chain of the all-zero tag */
    uint32_t entries_max;
    uint32_t bucket_count; /* a power of two */
    uint64_t *buckets;
    struct entry *entries;
};

static const uint8_t zero_tag[16];

static uint32_t bucket_count_for(uint32_t entries_max)
{
    uint32_t n = 16;

    while (n < entries_max && n < 1u << 20)
        n *= 2;
    return n;
}

uint64_t nef_gate_bytes(uint32_t entries_max)
{
    return sizeof(struct nef_gate) + bucket_count_for(entries_max) * sizeof(uint64_t) +
           (uint64_t)entries_max * sizeof(struct entry);
}

struct nef_gate *nef_gate_init(void *memory, uint32_t entries_max, uint64_t applied)
{
    struct nef_gate *g = memory;

    NEF_ASSERT(entries_max > 0);
    memset(memory, 0, nef_gate_bytes(entries_max));
    g->applied = applied;
    g->entries_max = entries_max;
    g->bucket_count = bucket_count_for(entries_max);
    g->buckets = (uint64_t *)(g + 1);
    g->entries = (struct entry *)(g->buckets + g->bucket_count);
    return g;
}

static struct entry *entry_at(const struct nef_gate *g, uint64_t sequence)
{
    return &g->entries[sequence % g->entries_max];
}

/* Tags are HMACs, so any of their bytes is a good hash. */
static uint64_t *chain_of(const struct nef_gate *g, const uint8_t tag[16])
{
    uint32_t hash;

    if (memcmp(tag, zero_tag, 16) == 0)
        return (uint64_t *)&g->every_key;
    memcpy(&hash, tag, sizeof hash);
    return &g->buckets[hash & (g->bucket_count - 1)];
}

void nef_gate_mark(struct nef_gate *g, const uint8_t tag[16], uint64_t end)
{
    struct entry *e;
    uint64_t *chain;

    if (end <= g->applied)
        return;
    if (g->overflow_until > 0 || g->head - g->tail == g->entries_max) {
        if (g->overflow_from == 0)
            g->overflow_from = end;
        g->overflow_until = end;
        return;
    }
    NEF_ASSERT(g->head == g->tail || entry_at(g, g->head - 1)->end < end);
    chain = chain_of(g, tag);
    e = entry_at(g, g->head);
    memcpy(e->tag, tag, 16);
    e->end = end;
    e->prev = *chain;
    *chain = ++g->head;
}

void nef_gate_cut(struct nef_gate *g, uint64_t to)
{
    while (g->head > g->tail && entry_at(g, g->head - 1)->end > to) {
        struct entry *e = entry_at(g, g->head - 1);

        *chain_of(g, e->tag) = e->prev;
        g->head--;
    }
    if (g->overflow_from > to)
        g->overflow_from = g->overflow_until = 0;
    else if (g->overflow_until > to)
        g->overflow_until = to;
    if (g->applied > to)
        g->applied = to; /* an accepted loss: what was applied above is rebuilt */
}

void nef_gate_applied(struct nef_gate *g, uint64_t applied)
{
    if (applied <= g->applied)
        return;
    g->applied = applied;
    while (g->tail < g->head && entry_at(g, g->tail)->end <= applied)
        g->tail++;
    if (g->overflow_until <= applied)
        g->overflow_from = g->overflow_until = 0;
}

/* End of the newest entry of a chain that has TAG and ends at or below BOUND; 0: none. */
static uint64_t newest_in(const struct nef_gate *g, uint64_t chain, const uint8_t tag[16],
                          uint64_t bound)
{
    for (uint64_t s = chain; s > g->tail; s = entry_at(g, s - 1)->prev) {
        const struct entry *e = entry_at(g, s - 1);

        if (e->end <= bound && memcmp(e->tag, tag, 16) == 0)
            return e->end;
    }
    return 0;
}

static uint64_t newest_of_all(const struct nef_gate *g, uint64_t bound)
{
    uint64_t low = g->tail, high = g->head; /* entries below low end at or below bound */

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;

        if (entry_at(g, middle)->end <= bound)
            low = middle + 1;
        else
            high = middle;
    }
    return low > g->tail ? entry_at(g, low - 1)->end : 0;
}

uint64_t nef_gate_wait(const struct nef_gate *g, const uint8_t tag[16], uint64_t bound)
{
    uint64_t until;

    if (NEF_MUTATION == 9)
        return 0;
    if (g->overflow_from > 0 && bound >= g->overflow_from)
        return NEF_MIN(bound, g->overflow_until);
    if (!tag)
        return newest_of_all(g, bound);
    until = newest_in(g, g->every_key, zero_tag, bound);
    if (memcmp(tag, zero_tag, 16) != 0) {
        uint64_t own = newest_in(g, *chain_of(g, tag), tag, bound);

        until = NEF_MAX(until, own);
    }
    return until;
}
