/* Outcomes of proposals. outcomes.h is the contract.
 *
 *   proposer 0: id, order of its last apply, highest number, ring of `kept` outcomes
 *   proposer 1: ...
 *
 * The outcome of number n stands in slot n % kept of its proposer's ring. Everything here is a function
 * of the sequence of puts, so all replicas, and every replay, hold the same. */
#include "repl/outcomes.h"

#include <string.h>
#include "base/assert.h"
#include "base/err.h"

#ifndef NEF_MUTATION
#define NEF_MUTATION 0
#endif

struct proposer {
    uint64_t id; /* 0: free */
    uint64_t order;
    uint64_t number_max;
};

struct nef_outcomes {
    uint32_t proposer_count, kept;
    struct proposer *proposers;
    struct nef_outcome *rings; /* (proposer, number % kept) */
};

uint64_t nef_outcomes_bytes(uint32_t proposers, uint32_t kept)
{
    return sizeof(struct nef_outcomes) + proposers * sizeof(struct proposer) +
           (uint64_t)proposers * kept * sizeof(struct nef_outcome);
}

struct nef_outcomes *nef_outcomes_init(void *memory, uint32_t proposers, uint32_t kept)
{
    struct nef_outcomes *o = memory;

    NEF_ASSERT(proposers > 0 && kept > 0);
    memset(memory, 0, nef_outcomes_bytes(proposers, kept));
    o->proposer_count = proposers;
    o->kept = kept;
    o->proposers = (struct proposer *)(o + 1);
    o->rings = (struct nef_outcome *)(o->proposers + proposers);
    return o;
}

static struct nef_outcome *slot_of(const struct nef_outcomes *o, uint32_t p, uint64_t number)
{
    return &o->rings[(uint64_t)p * o->kept + number % o->kept];
}

bool nef_outcomes_find(const struct nef_outcomes *o, uint64_t proposer, uint64_t number,
                       struct nef_outcome *out)
{
    if (NEF_MUTATION == 10)
        return false;
    for (uint32_t p = 0; p < o->proposer_count; p++) {
        const struct nef_outcome *slot;

        if (o->proposers[p].id != proposer)
            continue;
        slot = slot_of(o, p, number);
        if (slot->number == number) {
            *out = *slot;
            return true;
        }
        if (number + o->kept <= o->proposers[p].number_max) {
            *out = (struct nef_outcome){.number = number, .code = NEF_E_TIMEOUT};
            return true;
        }
        return false;
    }
    return false;
}

/* The proposer's place, or the one it takes: a free one, else that which applied longest ago. */
static uint32_t place_for(const struct nef_outcomes *o, uint64_t proposer)
{
    uint32_t best = 0;

    for (uint32_t p = 0; p < o->proposer_count; p++)
        if (o->proposers[p].id == proposer)
            return p;
    for (uint32_t p = 0; p < o->proposer_count; p++) {
        if (o->proposers[p].id == 0)
            return p;
        if (o->proposers[p].order < o->proposers[best].order)
            best = p;
    }
    return best;
}

void nef_outcomes_put(struct nef_outcomes *o, uint64_t proposer, const struct nef_outcome *outcome,
                      uint64_t order, uint64_t *out_evicted)
{
    uint32_t p = place_for(o, proposer);
    struct proposer *at = &o->proposers[p];

    NEF_ASSERT(proposer != 0 && outcome->number != 0);
    *out_evicted = 0;
    if (at->id != proposer) {
        *out_evicted = at->id;
        *at = (struct proposer){.id = proposer};
        memset(slot_of(o, p, 0), 0, o->kept * sizeof(struct nef_outcome));
    }
    at->order = NEF_MAX(at->order, order);
    at->number_max = NEF_MAX(at->number_max, outcome->number);
    if (slot_of(o, p, outcome->number)->number <= outcome->number)
        *slot_of(o, p, outcome->number) = *outcome;
}
