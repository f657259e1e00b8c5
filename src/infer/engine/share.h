/* Who is served next: fairness between tenants. PURE.
 *
 * After Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each tenant has a
 * counter of the rows (tokens) that were computed for it, divided by its weight, and whoever has the least goes first.
 * A tenant that comes back after it wanted nothing is lifted to the least of those that contend, so that nobody saves
 * up credit by staying away. Work is never held back for fairness: who wants nothing leaves his share to the others.
 *
 *   admission   the least counter gets the next slot
 *   slots       a tenant that holds fewer than its share gets one of a tenant that holds more, at once; where there are
 *               more tenants than slots, they take turns, a slice long (nef_shares_claim)
 *   rows        the least counter gets the next rows of a batch (schedule.h)
 *
 * A tenant exists from its first request until it is idle and its counter says nothing any more. */
#ifndef NEF_INFER_SHARE_H
#define NEF_INFER_SHARE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

#define NEF_SHARE_UNIT  (1u << 20)                   /* of a counter: one row at weight 1 */
/* Rows that a tenant may be ahead of another one before it loses its only slots to it. What a change costs is at most a
 * page of 64 positions that is computed again. */
#define NEF_SHARE_SLICE 256u

struct nef_generation;
struct nef_tenant {
    uint64_t id;
    uint64_t served; /* its counter */
    uint32_t weight; /* 1 .. NEF_ENGINE_WEIGHT_MAX */
    uint32_t waiting, running;
    uint32_t contending; /* of its requests: those that wait, and those whose prompt isn't computed yet */
    /* The caller's: its queue, and of its head the priority and the number, which grows with each request. */
    struct nef_generation *first, *last;
    uint32_t priority;
    uint64_t number;
    uint32_t index; /* the caller's, too */
};
struct nef_shares { /* zeroed is empty */
    struct nef_tenant **tenants;
    uint32_t count, room;
    uint64_t last; /* counter of whoever ceased to contend last */
};
void nef_shares_done(struct nef_shares *s); /* all are idle */
/* The tenant of that id, made if needed. Valid while it waits or runs; idle ones until the next call. Errors:
 * NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_shares_find(struct nef_shares *s, uint64_t id, uint32_t weight,
                                       struct nef_tenant **out_tenant);
/* One more, one fewer of T's requests contends. */
void nef_shares_contend(struct nef_shares *s, struct nef_tenant *t);
void nef_shares_content(struct nef_shares *s, struct nef_tenant *t);
void nef_shares_charge(struct nef_tenant *t, uint32_t rows);
/* Is A to be served before B? Of equal counters the lower number goes first. */
bool nef_shares_before(const struct nef_tenant *a, const struct nef_tenant *b);
/* Whose head gets the next free slot: the highest priority, then the least counter. NULL: nobody waits. */
struct nef_tenant *nef_shares_next(const struct nef_shares *s);
/* No slot of SLOTS is free. Which tenant's head gets one nevertheless, and of whom? NULL: nobody's. Moving a slot so
 * never makes the opposite move come next. */
struct nef_tenant *nef_shares_claim(const struct nef_shares *s, uint32_t slots, struct nef_tenant **out_victim);

#endif
