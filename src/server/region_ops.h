/* Ops that belong to the region and not to an object: buckets and users. What names something is
 * sealed under the region's key; they live in cell 0 and are repeated in every other cell.
 * Blocking: for workers. */
#ifndef NEF_SERVER_REGION_OPS_H
#define NEF_SERVER_REGION_OPS_H

#include <stdbool.h>
#include "server/runtime.h"

/* Propose a sealed OP (stream and bucket_key are set here) to CELL and wait. The outcome's code, or
 * why there is none. */
NEF_MUST_CHECK nef_err nef_region_propose(struct nef_runtime *rt, struct nef_keys *keys,
                                          uint32_t cell, struct nef_op *op);

/* Make a bucket: its key, then its op in every cell, in cell 0 last: whoever sees it there finds it
 * in all. NEF_E_EXISTS: the name is taken (and what was made is taken away). */
NEF_MUST_CHECK nef_err nef_region_bucket_create(struct nef_runtime *rt, struct nef_keys *keys,
                                                uint32_t cell_count, const char *name,
                                                const char *owner, uint32_t flags);
/* Close in every cell, delete in cell 0, then in the others. NEF_E_NOT_EMPTY: a cell holds
 * something; reopened. NEF_E_AGAIN: another deletion is under way. Interrupted, it is completed or
 * undone by maintenance. */
NEF_MUST_CHECK nef_err nef_region_bucket_delete(struct nef_runtime *rt, struct nef_keys *keys,
                                                uint32_t cell_count, const struct nef_id *bucket);

/* Create or change a user, known by its access key; in cell 0 last. */
NEF_MUST_CHECK nef_err nef_region_user_put(struct nef_runtime *rt, struct nef_keys *keys,
                                           uint32_t cell_count, const struct nef_user *user);

#endif
