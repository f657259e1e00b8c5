/* What compact.c and maintain.c share: runs that a call wants proposed. The maintenance thread's. */
#ifndef NEF_STORE_PLAN_H
#define NEF_STORE_PLAN_H

#include "store/store_internal.h"

struct nef_plan {
    struct nef_store *store;
    struct nef_cell *cell;
    uint64_t now_ms; /* wall time */
    struct nef_run *runs;
    uint32_t count, max;
};

/* Wall clocks are set: what lies in the future isn't old. */
bool nef_plan_older(uint64_t now_ms, uint64_t then_ms, uint64_t age_ms);
/* All that maintenance proposes names nobody, so it lies in clear and needs no DEK. The caller saw that there is room. */
NEF_MUST_CHECK nef_err nef_plan_op(struct nef_plan *p, const struct nef_op *op);
/* A clear op that is a list of items, already encoded. */
NEF_MUST_CHECK nef_err nef_plan_list(struct nef_plan *p, uint16_t type, uint32_t count, const struct nef_buf *items);
/* Give up what was planned. */
void nef_plan_drop(struct nef_plan *p);

#endif
