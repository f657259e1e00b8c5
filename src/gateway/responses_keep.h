/* Small objects of the bucket NEF_RESPONSES_BUCKET: what is kept of responses. Everything is an object like any other,
 * so it is encrypted, replicated, checkpointed and erased like any other.
 *
 *   a/ID             there is an answer to be made (or to be put away); empty
 *   r/ID/h           head: {"id", "created", "owner", "request", "input", "seed"}; made once
 *   r/ID/p/NNNNNNNN  piece (hex): {"w": writer, "r": [records]}, and "claim": true or "cancel": true; each made once
 *   r/ID/f           all records, once there is an end; then pieces go but for claims and cancels
 *
 * An ID begins with the time of its making, so names are in that order.
 * Threads: any but the runtime's and listeners': the functions block, but for nef_keep_run. */
#ifndef NEF_GATEWAY_RESPONSES_KEEP_H
#define NEF_GATEWAY_RESPONSES_KEEP_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include "base/buf.h"
#include "base/err.h"
#include "keys/keys.h"
#include "server/runtime.h"

#define NEF_KEEP_NAME_BYTES 128u

struct nef_keep {
    struct nef_runtime *rt;
    struct nef_keys *keys;
    uint32_t cells;
    pthread_mutex_t lock; /* of making the bucket */
};

/* A put of JSON, that isn't larger than fits in an op, as a run to propose: for pieces. once: only if there is no such
 * object yet (its outcome is then NEF_E_PRECONDITION). Doesn't block. NEF_E_NO_BUCKET, NEF_E_LIMIT: too large;
 * NEF_E_NOMEM, NEF_E_KEY. */
NEF_MUST_CHECK nef_err nef_keep_run(struct nef_keep *keep, const char *name, const json_t *value, bool once,
                                    struct nef_run *out_run);
/* A put of any size; makes the bucket. NEF_E_PRECONDITION; what nef_runtime_propose_wait returns. */
NEF_MUST_CHECK nef_err nef_keep_put(struct nef_keep *keep, const char *name, const json_t *value, bool once);
/* What is committed. fresh: also what was committed in the other zone a moment ago; else what was applied here,
 * without asking anyone. NEF_E_NOT_FOUND; NEF_E_UNAVAILABLE; NEF_E_PROTOCOL: it is no JSON. */
NEF_MUST_CHECK nef_err nef_keep_get(struct nef_keep *keep, const char *name, bool fresh, json_t **out_value);
NEF_MUST_CHECK nef_err nef_keep_delete(struct nef_keep *keep, const char *name); /* NEF_OK if it isn't there */
/* Names that begin with PREFIX, of what was applied here, in order, after AFTER (""), until VISIT returns false. */
NEF_MUST_CHECK nef_err nef_keep_list(struct nef_keep *keep, const char *prefix, const char *after,
                                     bool (*visit)(void *context, const char *name), void *context);

#endif
