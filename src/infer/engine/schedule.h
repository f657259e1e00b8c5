/* Which sequences get how many rows of the next batch. PURE. */
#ifndef NEF_INFER_SCHEDULE_H
#define NEF_INFER_SCHEDULE_H

#include <stdint.h>
#include "infer/model/model.h"

/* What a batch should take at most where prompts are computed: twice this is how long a short prompt waits that comes
 * while a batch runs. */
#define NEF_SCHEDULE_BATCH_NS 150000000u
/* Prompt rows of a batch at least, and before anything was measured. Weights are read once for all rows, so fewer would
 * waste most of the machine. */
#define NEF_PROMPT_ROWS_MIN   32u
#define NEF_PROMPT_ROWS_FIRST 128u

struct nef_want {    /* one sequence */
    uint32_t left;   /* tokens that aren't computed yet, 1 or more; 1: it decodes */
    uint32_t tenant; /* index */
    uint32_t waited; /* batches since it got a row */
};
struct nef_want_tenant {
    uint64_t served; /* its counter (share.h) */
    uint32_t weight;
};
struct nef_schedule {
    const struct nef_want *wants; /* oldest first */
    uint32_t count;               /* 1 .. NEF_ENGINE_SLOTS_MAX */
    const struct nef_want_tenant *tenants;
    uint32_t tenant_count;
    uint32_t prompt_rows; /* of prompts, at most */
    uint64_t turn;        /* another one for each batch: it varies who of equals goes first */
};
/* Writes how many rows each sequence gets in this batch; their sum is 1 .. NEF_BATCH_ROWS_MAX.
 *
 *   1. every sequence that lacks one token (it decodes) gets its row. If there are more than rows, tenants get theirs
 *   by
 *      their counters, and the sequences of a tenant take turns (who waited longest is first); prompts keep
 *      NEF_PROMPT_ROWS_MIN rows;
 *   2. what is left, prompt_rows at most, goes to the tenants that have prompts, by their counters;
 *   3. of a tenant's rows its oldest prompt gets half, so that long ones go on whatever arrives;
 *   4. the other half goes to its prompts that need least, so that a short one doesn't wait for long ones;
 *   5. what is left over goes to its oldest again. */
void nef_schedule(const struct nef_schedule *s, uint32_t *out_rows);

/* prompt_rows for the next batch, when one with PROMPT_ROWS, of which USED were used, took NS; target_ns: what it
 * should take. */
uint32_t nef_schedule_pace(uint32_t prompt_rows, uint32_t used, uint64_t ns, uint64_t target_ns);

#endif
