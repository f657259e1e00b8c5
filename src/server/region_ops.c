/* Buckets and users over all cells; see region_ops.h, and store/apply_bucket.c for what the ops
 * mean.
 *
 * An outcome that stays unknown in the middle (a failover that lasts too long) leaves cells that
 * differ: the client is told to try again, and the store's maintenance takes away what cell 0
 * doesn't know and completes deletions that cell 0 has done. */
#include "server/region_ops.h"
#include <string.h>
#include "base/trace.h"
#include "crypto/crypto.h"

nef_err nef_region_propose(struct nef_runtime *rt, struct nef_keys *keys, uint32_t cell,
                           struct nef_op *op)
{
    struct nef_outcome outcome;
    struct nef_run run = {0};
    uint8_t dek[NEF_KEY_BYTES];
    nef_err err = nef_store_region_key(nef_runtime_store(rt), &op->bucket_key);

    if (err != NEF_OK)
        return err == NEF_E_AGAIN ? NEF_E_UNAVAILABLE : err; /* the region is only being born */
    nef_random(&op->stream, sizeof(op->stream));
    nef_random(dek, sizeof(dek));
    err = nef_run_op(keys, op, cell, dek, NULL, NULL, 0, &run);
    nef_wipe(dek, sizeof(dek));
    if (err == NEF_OK)
        err = nef_runtime_propose_wait(rt, &run, &outcome);
    return err;
}

/* CLOSE, REOPEN and DELETE hold no names: they are clear records. */
static nef_err bucket_op(struct nef_runtime *rt, struct nef_keys *keys, uint32_t cell,
                         uint16_t type, const struct nef_id *bucket, const struct nef_id *token)
{
    struct nef_op op = {.type = type, .bucket_key = *bucket};
    struct nef_outcome outcome;
    struct nef_run run = {0};
    nef_err err;

    op.u.bucket = (struct nef_op_bucket){.bucket = *bucket, .token = *token};
    err = nef_run_op(keys, &op, cell, NULL, NULL, NULL, 0, &run);
    return err != NEF_OK ? err : nef_runtime_propose_wait(rt, &run, &outcome);
}

/* Take a bucket that cell 0 refused out of the cells FIRST.. again; maintenance does what fails
 * here. */
static void undo_create(struct nef_runtime *rt, struct nef_keys *keys, uint32_t first,
                        uint32_t cell_count, const struct nef_id *bucket)
{
    struct nef_id token;
    nef_err err = NEF_OK;

    nef_random(&token, sizeof(token));
    for (uint32_t cell = first; cell < cell_count; cell++) {
        err = bucket_op(rt, keys, cell, NEF_RECORD_BUCKET_CLOSE, bucket, &token);
        if (err == NEF_OK)
            err = bucket_op(rt, keys, cell, NEF_RECORD_BUCKET_DELETE, bucket, &token);
        if (err != NEF_OK)
            nef_trace(NEF_TRACE_WARN, "bucket_undo_left", "u:cell", (uint64_t)cell, "e:err",
                      (int)err, NULL);
    }
}

nef_err nef_region_bucket_create(struct nef_runtime *rt, struct nef_keys *keys, uint32_t cell_count,
                                 const char *name, const char *owner, uint32_t flags)
{
    struct nef_op op = {.type = NEF_RECORD_BUCKET_PUT};
    struct nef_op_bucket_put *put = &op.u.bucket_put;
    size_t wrapped_bytes = 0;
    nef_err err;

    nef_random(&put->bucket, sizeof(put->bucket));
    put->name = (struct nef_text){name, (uint32_t)strlen(name)};
    put->owner = (struct nef_text){owner, (uint32_t)strlen(owner)};
    put->flags = flags;
    err = nef_keys_create(keys, &put->bucket, put->wrapped, &wrapped_bytes);
    if (err != NEF_OK)
        return err;
    put->wrapped_bytes = (uint32_t)wrapped_bytes;
    for (uint32_t cell = cell_count; cell-- > 0 && err == NEF_OK;) {
        err = nef_region_propose(rt, keys, cell, &op);
        if (err == NEF_E_EXISTS || err == NEF_E_LIMIT) {
            undo_create(rt, keys, cell + 1, cell_count, &put->bucket);
            nef_keys_forget(keys, &put->bucket);
        }
    }
    return err;
}

nef_err nef_region_bucket_delete(struct nef_runtime *rt, struct nef_keys *keys, uint32_t cell_count,
                                 const struct nef_id *bucket)
{
    struct nef_id token;
    uint32_t tried = 0;
    nef_err err = NEF_OK, other;

    nef_random(&token, sizeof(token));
    while (tried < cell_count) {
        err = bucket_op(rt, keys, tried, NEF_RECORD_BUCKET_CLOSE, bucket, &token);
        tried++;
        if (err == NEF_E_NO_BUCKET && tried > 1)
            err = NEF_OK; /* gone there already: what an interrupted deletion left */
        if (err != NEF_OK)
            break;
    }
    if (err != NEF_OK) {
        /* Only what this very token closed is reopened, so an outcome that isn't known does no
         * harm. */
        while (tried-- > 0) {
            other = bucket_op(rt, keys, tried, NEF_RECORD_BUCKET_REOPEN, bucket, &token);
            if (other != NEF_OK && other != NEF_E_NO_BUCKET && other != NEF_E_PRECONDITION)
                nef_trace(NEF_TRACE_WARN, "bucket_reopen_left", "u:cell", (uint64_t)tried, "e:err",
                          (int)other, NULL);
        }
        return err;
    }
    for (uint32_t cell = 0; cell < cell_count; cell++) {
        err = bucket_op(rt, keys, cell, NEF_RECORD_BUCKET_DELETE, bucket, &token);
        if (cell == 0 && err != NEF_OK)
            return err;
        if (err != NEF_OK && err != NEF_E_NO_BUCKET)
            nef_trace(NEF_TRACE_WARN, "bucket_delete_left", "u:cell", (uint64_t)cell, "e:err",
                      (int)err, NULL);
    }
    return NEF_OK; /* cell 0 decides */
}

nef_err nef_region_user_put(struct nef_runtime *rt, struct nef_keys *keys, uint32_t cell_count,
                            const struct nef_user *user)
{
    struct nef_op op = {.type = NEF_RECORD_USER_PUT};
    nef_err err;

    op.u.user_put = (struct nef_op_user_put){
        .name = {user->name, (uint32_t)strlen(user->name)},
        .access_key = {user->access_key, (uint32_t)strlen(user->access_key)},
        .secret_key = {user->secret_key, (uint32_t)strlen(user->secret_key)},
        .bucket = {user->bucket, (uint32_t)strlen(user->bucket)},
        .read_only = user->read_only,
        .disabled = user->disabled,
        .ai = user->ai.allowed,
        .models = {user->ai.models, (uint32_t)strlen(user->ai.models)},
        .zones = {user->ai.zones, (uint32_t)strlen(user->ai.zones)},
        .requests_min = user->ai.requests_min,
        .tokens_min = user->ai.tokens_min,
        .concurrency = user->ai.concurrency,
        .weight = user->ai.weight,
        .priority = user->ai.priority};
    err = nef_region_propose(rt, keys, 0, &op);
    for (uint32_t cell = 1; cell < cell_count && err == NEF_OK; cell++) {
        nef_err other = nef_region_propose(rt, keys, cell, &op);

        if (other != NEF_OK)
            nef_trace(NEF_TRACE_WARN, "user_copy_left", "u:cell", (uint64_t)cell, "e:err", (int)other, NULL);
    }
    return err; /* cell 0 decides and is what is read; the next op on that user makes the copy, too */
}
