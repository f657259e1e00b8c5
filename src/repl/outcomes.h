/* Outcomes of proposals (design section 3, point 5): a proposal made again after a failover returns its
 * first outcome and changes nothing. PURE.
 *
 * Index state: one table per cell, changed only by applying records in log order, so every replica has
 * the same. It keeps, for each of the last NEF_PROPOSERS_KEPT proposers (process starts), the outcomes of
 * its last NEF_OUTCOMES_KEPT numbers. The proposer that applied longest ago goes first. The store writes
 * each change as a row in the same batch as the op and loads the rows at start (nef_outcomes_put).
 * Numbers of one proposer may arrive out of order within the window; one below the window counts as
 * already applied with outcome NEF_E_TIMEOUT (nobody waits for it any more). Threads: none of its own. */
#ifndef NEF_REPL_OUTCOMES_H
#define NEF_REPL_OUTCOMES_H

#include <stdbool.h>
#include <stdint.h>
#include "base/limits.h"

struct nef_outcome {
    uint64_t number; /* 0: none */
    uint64_t offset; /* of the run's first record that counted */
    uint32_t code;   /* nef_err */
    uint32_t detail; /* the store's */
};

struct nef_outcomes;

uint64_t nef_outcomes_bytes(uint32_t proposers, uint32_t kept);
struct nef_outcomes *nef_outcomes_init(void *memory, uint32_t proposers, uint32_t kept);

/* True and *out if NUMBER of PROPOSER was applied before (or is below the window). */
bool nef_outcomes_find(const struct nef_outcomes *o, uint64_t proposer, uint64_t number,
                       struct nef_outcome *out);
/* Remember. order: the log offset, decides which proposer is oldest. out_evicted: a proposer whose rows
 * must go (0: none). Slot of the row in the proposer's ring: number % kept. */
void nef_outcomes_put(struct nef_outcomes *o, uint64_t proposer, const struct nef_outcome *outcome,
                      uint64_t order, uint64_t *out_evicted);

#endif
