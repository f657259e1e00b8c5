/* Applying OBJECT_PUT and OBJECT_DELETE. Conditions are decided here, in log order, from the rows alone, so
 * every replica and every replay decides the same (design section 3, point 4). */
#include <string.h>
#include "store/apply.h"

nef_err nef_object_check(struct nef_apply *a, const struct nef_row_key *k,
                         const struct nef_condition *condition, bool *out_exists,
                         struct nef_row_object *out_row, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    bool must_exist = condition->any || condition->match[0] != 0;
    nef_err err = nef_batch_get(cell, k, &cell->value);

    *out_code = NEF_OK;
    if (err == NEF_E_NOT_FOUND) {
        *out_exists = false;
        if (must_exist)
            *out_code = NEF_E_NOT_FOUND; /* S3: If-Match on a key that isn't there is NoSuchKey */
        return NEF_OK;
    }
    if (err == NEF_OK)
        err = nef_row_object_get(cell->value.data, cell->value.bytes, out_row);
    if (err != NEF_OK)
        return err;
    *out_exists = true;
    if (condition->none || (condition->match[0] != 0 && strcmp(condition->match, out_row->etag) != 0))
        *out_code = NEF_E_PRECONDITION;
    return NEF_OK;
}

nef_err nef_object_free_parts(struct nef_cell *cell, const struct nef_row_object *row,
                              uint64_t time_ms, uint32_t *budget)
{
    for (uint32_t i = 0; i < row->part_count; i++) {
        struct nef_object_part part;
        nef_err err;

        nef_row_object_part(row, i, &part);
        err = nef_free_stream(cell, &part.stream, part.size, time_ms, budget);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

nef_err nef_apply_object_put(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_object_put *op = &a->op.u.object_put;
    uint32_t budget = NEF_FREE_PIECES_MAX;
    struct nef_row_object old, row;
    struct nef_object_part part;
    struct nef_row_key k;
    bool exists = false;
    nef_err err;

    if (!nef_id_equal(&op->bucket, &a->op.bucket_key) ||
        !nef_key_valid(op->key.data, op->key.bytes)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    err = nef_bucket_open(cell, &op->bucket, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    nef_key_object(&k, &op->bucket, op->key.data, op->key.bytes);
    err = nef_object_check(a, &k, &op->condition, &exists, &old, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    err = nef_stream_check(a, op->size, op->inline_body, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;

    if (exists)
        err = nef_object_free_parts(cell, &old, a->time_ms, &budget);
    if (err == NEF_OK)
        err = nef_stream_take(a, op->size, op->inline_body);
    if (err != NEF_OK)
        return err;
    memset(&row, 0, sizeof row);
    row.size = op->size;
    row.modified_ms = a->time_ms;
    memcpy(row.etag, op->etag, sizeof row.etag);
    row.checksum = op->checksum;
    row.attrs = op->attrs;
    row.part_count = op->size > 0 ? 1 : 0;
    nef_row_object_put(&cell->row, &row);
    if (op->size > 0) {
        part = (struct nef_object_part){
            .stream = a->record->stream, .size = op->size, .checksum = op->checksum};
        memcpy(part.wrapped_dek, a->wrapped_dek, sizeof part.wrapped_dek);
        nef_row_object_part_put(&cell->row, &part);
    }
    err = nef_batch_put(cell, &k, &cell->row);
    if (err == NEF_OK && !exists) {
        cell->totals.objects++;
        cell->totals_dirty = true;
    }
    return err;
}

nef_err nef_apply_object_delete(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_object_delete *op = &a->op.u.object_delete;
    uint32_t budget = NEF_FREE_PIECES_MAX;
    struct nef_condition condition = op->condition;
    struct nef_row_object old;
    struct nef_row_key k;
    bool exists = false;
    nef_err err;

    if (!nef_id_equal(&op->bucket, &a->op.bucket_key) ||
        !nef_key_valid(op->key.data, op->key.bytes)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    err = nef_bucket_open(cell, &op->bucket, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    condition.none = false; /* has no meaning for a delete */
    nef_key_object(&k, &op->bucket, op->key.data, op->key.bytes);
    err = nef_object_check(a, &k, &condition, &exists, &old, out_code);
    if (err != NEF_OK || *out_code != NEF_OK || !exists)
        return err; /* S3: deleting a key that isn't there succeeds */
    err = nef_object_free_parts(cell, &old, a->time_ms, &budget);
    if (err != NEF_OK)
        return err;
    nef_batch_delete(cell, &k);
    NEF_ASSERT(cell->totals.objects > 0);
    cell->totals.objects--;
    cell->totals_dirty = true;
    return NEF_OK;
}
