/* Who may spend how much of a user's AI budget: what row G holds, and how an op changes it. PURE; cell 0 only.
 *
 * A budget is R units (requests, or tokens) in any 60 seconds, and C answers at once, over the whole region. Each zone
 * has counters that never fall: `spent`, what it told of; `limit`, up to where it may spend; `base`, what it had spent
 * a minute ago at the latest. `limit - base` is then the most that it can have spent in the last 60 seconds, and
 *
 *     sum over zones of (limit - base) <= R        sum over zones of slots <= C
 *
 * holds after every op, because an op is given only what is left. (A zone that spent more than it may, since an answer
 * was longer than expected, can make the sum larger; then nobody gets any until it is back below.)
 *
 * No clock is looked at here: that what was spent a minute ago was spent a minute ago is claimed by the zone that
 * proposes, which measured it (gateway/budget.h), and a claim never goes beyond what was spent at all. An op counts
 * only if it was made for the state it finds (`start` and `number` of its zone), so one that comes late, or twice,
 * changes nothing.
 *
 * A zone keeps what it got for NEF_BUDGET_LEASE_MS after it asked. That the lease of another zone is over is claimed
 * likewise: then that zone counts as having spent all it might have, its slots are free, and its next op fails and
 * reads first. */
#ifndef NEF_STORE_BUDGET_H
#define NEF_STORE_BUDGET_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/limits.h"
#include "store/op.h"

struct nef_budget_zone {
    char name[NEF_ZONE_NAME_MAX + 1];
    uint64_t start;  /* the process that spends */
    uint64_t number; /* grows with every op that counts */
    uint64_t spent[NEF_BUDGET_RESOURCES], limit[NEF_BUDGET_RESOURCES], base[NEF_BUDGET_RESOURCES];
    uint64_t unmet[NEF_BUDGET_RESOURCES]; /* what it asked for and didn't get the last time */
    uint32_t slots, slots_unmet;
};

struct nef_budget_state {
    uint32_t count;
    struct nef_budget_zone zones[NEF_REPLICA_MAX];
};

struct nef_budget_whole {
    uint64_t units[NEF_BUDGET_RESOURCES]; /* 0: no limit */
    uint32_t slots;                       /* 0: no limit */
    bool denied;                          /* the user has no rights (any more): nothing is given */
};

/* NULL: it has no part yet. */
struct nef_budget_zone *nef_budget_find(struct nef_budget_state *state, const char *name, size_t bytes);

/* Apply one entry of ZONE's process START. False: it doesn't count, and nothing was changed. */
bool nef_budget_decide(struct nef_budget_state *state, const struct nef_budget_whole *whole,
                       const struct nef_text *zone, uint64_t start, const struct nef_budget_entry *entry);

/* Row G. get: NEF_E_CORRUPT for what put can't have written. */
void nef_budget_put(struct nef_buf *out, const struct nef_budget_state *state);
NEF_MUST_CHECK nef_err nef_budget_get(const void *value, size_t bytes, struct nef_budget_state *out_state);

#endif
