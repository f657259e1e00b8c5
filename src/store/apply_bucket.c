/* Applying ops that go to every cell: region, buckets, users.
 *
 * A bucket exists in a cell from its BUCKET_PUT there to its BUCKET_DELETE there; cell 0 also owns the name,
 * so a bucket exists for clients from and to its ops in cell 0. Creating goes to cells 1..n-1 first and to
 * cell 0 last; deleting closes every cell, deletes in cell 0, then in the others. A deletion is known by
 * its token: REOPEN and DELETE count only for the CLOSE with the same token, so what a slow or repeated
 * deletion still sends can't touch a bucket that was reopened and closed by another. A CLOSE that finds the
 * bucket closed by another deletion answers NEF_E_AGAIN. */
#include <string.h>
#include "base/trace.h"
#include "store/apply.h"

static nef_err bucket_get(struct nef_cell *cell, const struct nef_id *bucket,
                          struct nef_row_bucket *out)
{
    struct nef_row_key k;
    nef_err err;

    nef_key_id(&k, 'B', bucket);
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err == NEF_OK)
        err = nef_row_bucket_get(cell->value2.data, cell->value2.bytes, out);
    return err;
}

static void buckets_change(struct nef_cell *cell)
{
    cell->buckets_dirty = true;
    memset(&cell->open_bucket, 0, sizeof cell->open_bucket);
}

static nef_err bucket_put(struct nef_cell *cell, const struct nef_id *bucket,
                          const struct nef_row_bucket *row)
{
    struct nef_row_key k;

    buckets_change(cell);
    nef_key_id(&k, 'B', bucket);
    nef_row_bucket_put(&cell->row, row);
    return nef_batch_put(cell, &k, &cell->row);
}

nef_err nef_bucket_open(struct nef_cell *cell, const struct nef_id *bucket, nef_err *out_code)
{
    struct nef_row_bucket row;
    nef_err err;

    *out_code = NEF_OK;
    if (!nef_id_is_zero(bucket) && nef_id_equal(bucket, &cell->open_bucket))
        return NEF_OK; /* each op asks, and nearly always for the same */
    err = bucket_get(cell, bucket, &row);
    if (err == NEF_E_NOT_FOUND || (err == NEF_OK && row.closed)) {
        *out_code = NEF_E_NO_BUCKET;
        return NEF_OK;
    }
    if (err == NEF_OK)
        cell->open_bucket = *bucket;
    return err;
}

nef_err nef_apply_load_key(struct nef_cell *cell, const struct nef_id *key)
{
    struct nef_keys *keys = cell->store->options.keys;
    struct nef_row_bucket row;
    nef_err err;

    if (cell->has_region && nef_id_equal(key, &cell->region.region_key))
        return nef_keys_load(keys, key, cell->region.op.wrapped, cell->region.op.wrapped_bytes);
    err = bucket_get(cell, key, &row);
    if (err == NEF_OK)
        err = nef_keys_load(keys, key, row.wrapped, row.wrapped_bytes);
    return err;
}

nef_err nef_apply_region(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_region *op = &a->op.u.region;
    struct nef_row_region row;
    struct nef_row_key k;
    nef_err err;

    *out_code = NEF_OK;
    if (cell->has_region) {
        *out_code = NEF_E_EXISTS;
        return NEF_OK;
    }
    if (!nef_id_equal(&op->region, &cell->store->options.region) ||
        nef_id_is_zero(&a->record->stream) || op->cell_count != cell->store->options.cell_count) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    err = nef_keys_load(cell->store->options.keys, &a->record->stream, op->wrapped,
                        op->wrapped_bytes);
    if (err != NEF_OK)
        return err;
    row = (struct nef_row_region){.region_key = a->record->stream, .op = *op};
    nef_key_kind(&k, 'R');
    nef_row_region_put(&cell->row, &row);
    err = nef_batch_put(cell, &k, &cell->row);
    if (err != NEF_OK)
        return err;
    cell->region = row;
    cell->has_region = true;
    return NEF_OK;
}

static bool copy_text(char *out, size_t room, const struct nef_text *text)
{
    if (text->bytes >= room || (text->bytes > 0 && memchr(text->data, 0, text->bytes) != NULL))
        return false;
    if (text->bytes > 0)
        memcpy(out, text->data, text->bytes);
    out[text->bytes] = 0;
    return true;
}

/* Cell 0: is the name free, or this bucket's own? */
static nef_err name_check(struct nef_cell *cell, const struct nef_row_key *k,
                          const struct nef_id *bucket, nef_err *out_code)
{
    struct nef_id holder;
    nef_err err = nef_batch_get(cell, k, &cell->value2);

    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err == NEF_OK)
        err = nef_row_name_get(cell->value2.data, cell->value2.bytes, &holder);
    if (err == NEF_OK && !nef_id_equal(&holder, bucket))
        *out_code = NEF_E_EXISTS;
    return err;
}

/* The first record of an epoch counts. */
nef_err nef_apply_override(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_override *op = &a->op.u.override;
    struct nef_row_override row = {.end = op->end, .offset = a->record->offset, .time_ms = a->time_ms};
    struct nef_row_key k;
    nef_err err;

    if (op->epoch == 0 || op->epoch > a->record->epoch || op->end > a->record->offset) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    *out_code = NEF_OK;
    nef_key_u64(&k, 'V', op->epoch);
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err != NEF_E_NOT_FOUND)
        return err;
    nef_row_override_put(&cell->row, &row);
    return nef_batch_put(cell, &k, &cell->row);
}

nef_err nef_apply_bucket_put(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_bucket_put *op = &a->op.u.bucket_put;
    struct nef_row_bucket row, old;
    struct nef_row_key name;
    bool exists;
    nef_err err;

    memset(&row, 0, sizeof row);
    *out_code = NEF_OK;
    if (nef_id_is_zero(&op->bucket) || op->name.bytes == 0 ||
        op->wrapped_bytes > sizeof row.wrapped ||
        !copy_text(row.name, sizeof row.name, &op->name) ||
        !copy_text(row.owner, sizeof row.owner, &op->owner)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    err = bucket_get(cell, &op->bucket, &old);
    if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        return err;
    exists = err == NEF_OK;
    if (exists) { /* settings */
        if (old.closed)
            *out_code = NEF_E_NO_BUCKET;
        else if (strcmp(old.name, row.name) != 0)
            *out_code = NEF_E_PROTOCOL;
        if (*out_code != NEF_OK)
            return NEF_OK;
        old.flags = op->flags;
        memcpy(old.owner, row.owner, sizeof old.owner);
        return bucket_put(cell, &op->bucket, &old);
    }
    if (cell->bucket_count >= NEF_BUCKET_COUNT_MAX) {
        *out_code = NEF_E_LIMIT;
        return NEF_OK;
    }
    nef_key_text(&name, 'N', row.name, strlen(row.name));
    if (cell->number == 0) {
        err = name_check(cell, &name, &op->bucket, out_code);
        if (err != NEF_OK || *out_code != NEF_OK)
            return err;
    }
    err = nef_keys_load(cell->store->options.keys, &op->bucket, op->wrapped, op->wrapped_bytes);
    if (err != NEF_OK)
        return err;
    row.created_ms = a->time_ms;
    row.flags = op->flags;
    memcpy(row.wrapped, op->wrapped, op->wrapped_bytes);
    row.wrapped_bytes = op->wrapped_bytes;
    err = bucket_put(cell, &op->bucket, &row);
    if (err == NEF_OK && cell->number == 0) {
        nef_buf_reset(&cell->row);
        nef_buf_append(&cell->row, op->bucket.bytes, sizeof op->bucket.bytes);
        err = nef_batch_put(cell, &name, &cell->row);
    }
    if (err == NEF_OK)
        cell->bucket_count++;
    return err;
}

/* Does the index hold a row that begins with K? The batch is empty (apply.c writes it before a close). */
static nef_err any_row(struct nef_cell *cell, const struct nef_row_key *k, bool *out_any)
{
    struct nef_row_key end = *k;
    struct nef_index_iter *it;
    nef_err err;

    nef_key_after_prefix(&end);
    it = nef_index_iter_new(cell->index, NULL, k->data, k->bytes, end.data, end.bytes);
    if (it == NULL)
        return NEF_E_NOMEM;
    nef_index_iter_first(it);
    *out_any = nef_index_iter_valid(it);
    err = nef_index_iter_error(it);
    nef_index_iter_free(it);
    return err;
}

nef_err nef_apply_bucket_close(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_bucket *op = &a->op.u.bucket;
    struct nef_row_bucket row;
    bool objects = false, uploads = false;
    struct nef_row_key k;
    nef_err err = bucket_get(cell, &op->bucket, &row);

    *out_code = NEF_OK;
    if (err == NEF_E_NOT_FOUND) {
        *out_code = NEF_E_NO_BUCKET;
        return NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    if (row.closed) {
        *out_code = nef_id_equal(&row.token, &op->token) ? NEF_OK : NEF_E_AGAIN;
        return NEF_OK;
    }
    nef_key_id(&k, 'O', &op->bucket);
    err = any_row(cell, &k, &objects);
    if (err == NEF_OK) {
        nef_key_id(&k, 'M', &op->bucket);
        err = any_row(cell, &k, &uploads);
    }
    if (err != NEF_OK)
        return err;
    if (objects || uploads) {
        *out_code = NEF_E_NOT_EMPTY;
        return NEF_OK;
    }
    row.closed = true;
    row.token = op->token;
    row.closed_ms = a->time_ms;
    return bucket_put(cell, &op->bucket, &row);
}

nef_err nef_apply_bucket_reopen(struct nef_apply *a, nef_err *out_code)
{
    const struct nef_op_bucket *op = &a->op.u.bucket;
    struct nef_row_bucket row;
    nef_err err = bucket_get(a->cell, &op->bucket, &row);

    *out_code = NEF_OK;
    if (err == NEF_E_NOT_FOUND) {
        *out_code = NEF_E_NO_BUCKET;
        return NEF_OK;
    }
    if (err != NEF_OK || !row.closed)
        return err;
    if (!nef_id_equal(&row.token, &op->token)) {
        *out_code = NEF_E_PRECONDITION;
        return NEF_OK;
    }
    row.closed = false;
    row.token = (struct nef_id){{0}};
    row.closed_ms = 0;
    return bucket_put(a->cell, &op->bucket, &row);
}

nef_err nef_apply_bucket_delete(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_bucket *op = &a->op.u.bucket;
    struct nef_row_bucket row;
    struct nef_row_key k;
    nef_err err = bucket_get(cell, &op->bucket, &row);

    *out_code = NEF_OK;
    if (err == NEF_E_NOT_FOUND) {
        *out_code = NEF_E_NO_BUCKET;
        return NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    if (!row.closed || !nef_id_equal(&row.token, &op->token)) {
        *out_code = NEF_E_PRECONDITION;
        return NEF_OK;
    }
    if (cell->forget_count == NEF_BATCH_RUNS_MAX)
        return NEF_E_LIMIT; /* can't be: a batch has no more runs */
    cell->forget[cell->forget_count++] = op->bucket;
    buckets_change(cell);
    nef_key_id(&k, 'B', &op->bucket);
    nef_batch_delete(cell, &k);
    if (cell->number == 0) {
        nef_key_text(&k, 'N', row.name, strlen(row.name));
        nef_batch_delete(cell, &k);
    }
    NEF_ASSERT(cell->bucket_count > 0);
    cell->bucket_count--;
    return NEF_OK;
}

/* Has another user who isn't disabled this name? The batch is empty (apply.c writes it before a user's op). Ops on
 * users are rare and users are few, so all of them are looked at. */
static nef_err name_taken(struct nef_cell *cell, const struct nef_user *user, bool *out_taken)
{
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    struct nef_user other;
    size_t key_bytes = strlen(user->access_key);
    nef_err err = NEF_OK;

    nef_key_kind(&from, 'U');
    to = from;
    nef_key_after_prefix(&to);
    it = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
    if (it == NULL)
        return NEF_E_NOMEM;
    *out_taken = false;
    memset(&other, 0, sizeof other);
    for (nef_index_iter_first(it); err == NEF_OK && !*out_taken && nef_index_iter_valid(it);
         nef_index_iter_next(it)) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);
        bool self = k_bytes == key_bytes + 1 && memcmp(k + 1, user->access_key, key_bytes) == 0;

        err = nef_row_user_get(v, v_bytes, &other);
        *out_taken = err == NEF_OK && !self && !other.disabled && strcmp(other.name, user->name) == 0;
    }
    if (err == NEF_OK)
        err = nef_index_iter_error(it);
    nef_index_iter_free(it);
    nef_wipe(&other, sizeof other);
    return err;
}

nef_err nef_apply_user_put(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_user_put *op = &a->op.u.user_put;
    struct nef_user user;
    struct nef_row_key k;
    nef_err err;

    memset(&user, 0, sizeof user);
    *out_code = NEF_OK;
    if (op->access_key.bytes == 0 ||
        !copy_text(user.access_key, sizeof user.access_key, &op->access_key) ||
        !copy_text(user.name, sizeof user.name, &op->name) ||
        !copy_text(user.secret_key, sizeof user.secret_key, &op->secret_key) ||
        !copy_text(user.bucket, sizeof user.bucket, &op->bucket) ||
        (op->ai && (!copy_text(user.ai.models, sizeof user.ai.models, &op->models) ||
                    !copy_text(user.ai.zones, sizeof user.ai.zones, &op->zones)))) {
        *out_code = NEF_E_PROTOCOL;
        goto out_ok;
    }
    user.read_only = op->read_only;
    user.disabled = op->disabled;
    user.ai.allowed = op->ai;
    user.ai.requests_min = op->requests_min;
    user.ai.tokens_min = op->tokens_min;
    user.ai.concurrency = op->concurrency;
    user.ai.weight = op->weight;
    user.ai.priority = op->priority;
    if (cell->number == 0 && !user.disabled) { /* cell 0 decides, as for buckets; the others have copies */
        bool taken = false;

        err = name_taken(cell, &user, &taken);
        if (err != NEF_OK || taken) {
            nef_wipe(&user, sizeof user);
            *out_code = taken ? NEF_E_EXISTS : NEF_OK;
            return err;
        }
    }
    nef_key_text(&k, 'U', user.access_key, strlen(user.access_key));
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err == NEF_E_NOT_FOUND) {
        if (cell->user_count >= NEF_USER_COUNT_MAX) {
            *out_code = NEF_E_LIMIT;
            goto out_ok;
        }
        cell->user_count++;
        err = NEF_OK;
    }
    if (err == NEF_OK) {
        nef_row_user_put(&cell->row, &user);
        err = nef_batch_put(cell, &k, &cell->row);
    }
    nef_wipe(&user, sizeof user);
    if (cell->row.data != NULL) /* the secret doesn't stay in the scratch */
        nef_wipe(cell->row.data, cell->row.bytes);
    return err;
out_ok:
    nef_wipe(&user, sizeof user);
    return NEF_OK;
}
