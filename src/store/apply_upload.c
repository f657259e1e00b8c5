/* Applying multipart uploads. Completing copies nothing: the object's row takes over the parts' streams, in
 * order, and what wasn't selected is freed. S3's rules: parts ascend, each must be there with the MD5 that
 * was answered for it, and each but the last has at least 5 MiB. A complete that fails leaves the upload as
 * it is. A complete that is repeated under its own proposal id returns its first outcome (outcomes.h);
 * under another it finds no upload. */
#include <string.h>
#include "store/apply.h"

static nef_err upload_get(struct nef_cell *cell, const struct nef_row_key *k,
                          struct nef_row_upload *out_row, nef_err *out_code)
{
    nef_err err = nef_batch_get(cell, k, &cell->value2);

    if (err == NEF_E_NOT_FOUND) {
        *out_code = NEF_E_NO_UPLOAD;
        return NEF_OK;
    }
    if (err == NEF_OK)
        err = nef_row_upload_get(cell->value2.data, cell->value2.bytes, out_row);
    return err;
}

static nef_err part_get(struct nef_cell *cell, const struct nef_row_key *k, struct nef_row_part *out)
{
    nef_err err = nef_batch_get(cell, k, &cell->value2);

    if (err == NEF_OK)
        err = nef_row_part_get(cell->value2.data, cell->value2.bytes, out);
    return err;
}

/* What all ops on an upload check first. */
static nef_err target_check(struct nef_apply *a, const struct nef_id *bucket,
                            const struct nef_text *key, nef_err *out_code)
{
    if (!nef_id_equal(bucket, &a->op.bucket_key) || !nef_key_valid(key->data, key->bytes)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    return nef_bucket_open(a->cell, bucket, out_code);
}

nef_err nef_apply_upload_create(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_upload_create *op = &a->op.u.upload_create;
    struct nef_row_upload row;
    struct nef_row_key k;
    nef_err err = target_check(a, &op->bucket, &op->key, out_code);

    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    memset(&row, 0, sizeof row);
    if (nef_id_is_zero(&a->record->stream) || op->owner.bytes >= sizeof row.owner ||
        (op->owner.bytes > 0 && memchr(op->owner.data, 0, op->owner.bytes) != NULL)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    nef_key_upload(&k, &op->bucket, op->key.data, op->key.bytes, &a->record->stream);
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err == NEF_OK) {
        *out_code = NEF_E_EXISTS; /* an upload id used twice */
        return NEF_OK;
    }
    if (err != NEF_E_NOT_FOUND)
        return err;
    row.created_ms = a->time_ms;
    row.checksum = op->checksum;
    if (op->owner.bytes > 0)
        memcpy(row.owner, op->owner.data, op->owner.bytes);
    row.attrs = op->attrs;
    nef_row_upload_put(&cell->row, &row);
    err = nef_batch_put(cell, &k, &cell->row);
    cell->totals.uploads++;
    cell->totals_dirty = true;
    return err;
}

nef_err nef_apply_part_put(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_part_put *op = &a->op.u.part_put;
    uint32_t budget = NEF_FREE_PIECES_MAX;
    struct nef_row_upload upload;
    struct nef_row_part old, row;
    struct nef_row_key k;
    bool exists;
    nef_err err = target_check(a, &op->bucket, &op->key, out_code);

    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    if (op->part < 1 || op->part > NEF_PART_COUNT_MAX) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    nef_key_upload(&k, &op->bucket, op->key.data, op->key.bytes, &op->upload);
    err = upload_get(cell, &k, &upload, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    err = nef_stream_check(a, op->size, op->inline_body, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    nef_key_id_u32(&k, 'P', &op->upload, op->part);
    err = part_get(cell, &k, &old);
    if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        return err;
    exists = err == NEF_OK;

    err = exists ? nef_free_stream(cell, &old.stream, old.size, a->time_ms, &budget) : NEF_OK;
    if (err == NEF_OK)
        err = nef_stream_take(a, op->size, op->inline_body);
    if (err != NEF_OK)
        return err;
    memset(&row, 0, sizeof row);
    row.stream = a->record->stream;
    row.size = op->size;
    row.modified_ms = a->time_ms;
    memcpy(row.md5, op->md5, sizeof row.md5);
    row.checksum = op->checksum;
    memcpy(row.wrapped_dek, a->wrapped_dek, sizeof row.wrapped_dek);
    nef_row_part_put(&cell->row, &row);
    return nef_batch_put(cell, &k, &cell->row);
}

/* Check the selected parts and add up their sizes; with `write`, append them to the row in cell->object. */
static nef_err select_parts(struct nef_apply *a, bool write, uint64_t *out_size, nef_err *out_code)
{
    const struct nef_op_upload_complete *op = &a->op.u.upload_complete;
    struct nef_cell *cell = a->cell;
    uint64_t size = 0;
    uint32_t last = 0;

    *out_code = NEF_OK;
    for (uint32_t i = 0; i < op->part_count; i++) {
        struct nef_op_complete_part selected;

        nef_op_complete_part_at(&a->op, i, &selected);
        if (selected.part <= last) {
            *out_code = NEF_E_PART_ORDER;
            return NEF_OK;
        }
        last = selected.part;
    }
    for (uint32_t i = 0; i < op->part_count; i++) {
        struct nef_op_complete_part selected;
        struct nef_row_part row;
        struct nef_row_key k;
        nef_err err;

        nef_op_complete_part_at(&a->op, i, &selected);
        nef_key_id_u32(&k, 'P', &op->upload, selected.part);
        err = part_get(cell, &k, &row);
        if (err == NEF_E_NOT_FOUND || (err == NEF_OK && memcmp(row.md5, selected.md5, 16) != 0)) {
            *out_code = NEF_E_BAD_PART;
            return NEF_OK;
        }
        if (err != NEF_OK)
            return err;
        if (i + 1 < op->part_count && row.size < NEF_PART_BYTES_MIN) {
            *out_code = NEF_E_PART_SIZE;
            return NEF_OK;
        }
        size += row.size;
        if (write) {
            struct nef_object_part part = {.stream = row.stream,
                                           .part = selected.part,
                                           .size = row.size,
                                           .checksum = row.checksum};

            memcpy(part.wrapped_dek, row.wrapped_dek, sizeof part.wrapped_dek);
            nef_row_object_part_put(&cell->object, &part);
        }
    }
    if (op->part_count == 0 || op->part_count > NEF_PART_COUNT_MAX)
        *out_code = NEF_E_BAD_PART;
    else if (size > NEF_OBJECT_BYTES_MAX)
        *out_code = NEF_E_LIMIT;
    *out_size = size;
    return NEF_OK;
}

/* Delete the upload's P rows and free those streams that no selected part takes over. The batch held nothing
 * of this upload when the op began (apply.c writes it first), so the index's iterator sees every part. */
static nef_err end_parts(struct nef_apply *a, const struct nef_id *upload, uint32_t selected_count,
                         uint32_t *budget)
{
    struct nef_cell *cell = a->cell;
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    uint32_t next = 0;
    nef_err err = NEF_OK;

    nef_key_id(&from, 'P', upload);
    to = from;
    nef_key_after_prefix(&to);
    it = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
    if (it == NULL)
        return NEF_E_NOMEM;
    for (nef_index_iter_first(it); err == NEF_OK && nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, value_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *value = nef_index_iter_value(it, &value_bytes);
        struct nef_op_complete_part selected = {0};
        struct nef_row_part row;
        struct nef_id id;
        uint32_t part = 0;

        err = nef_key_read_id_u32(k, k_bytes, &id, &part);
        if (err == NEF_OK)
            err = nef_row_part_get(value, value_bytes, &row);
        if (err != NEF_OK)
            break;
        while (next < selected_count) { /* both ascend by part number */
            nef_op_complete_part_at(&a->op, next, &selected);
            if (selected.part >= part)
                break;
            next++;
        }
        if (next == selected_count || selected.part != part)
            err = nef_free_stream(cell, &row.stream, row.size, a->time_ms, budget);
        nef_index_batch_delete(cell->batch, k, k_bytes);
        cell->batch_bytes += k_bytes;
    }
    if (err == NEF_OK)
        err = nef_index_iter_error(it);
    nef_index_iter_free(it);
    return err;
}

static void upload_close(struct nef_cell *cell, const struct nef_row_key *k)
{
    nef_batch_delete(cell, k);
    NEF_ASSERT(cell->totals.uploads > 0);
    cell->totals.uploads--;
    cell->totals_dirty = true;
}

nef_err nef_apply_upload_complete(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_op_upload_complete *op = &a->op.u.upload_complete;
    uint32_t budget = NEF_FREE_PIECES_MAX;
    struct nef_row_key upload_key, k;
    struct nef_row_upload upload;
    struct nef_row_object old, row;
    bool exists = false;
    uint64_t size = 0;
    nef_err err = target_check(a, &op->bucket, &op->key, out_code);

    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    nef_key_upload(&upload_key, &op->bucket, op->key.data, op->key.bytes, &op->upload);
    err = upload_get(cell, &upload_key, &upload, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    err = select_parts(a, false, &size, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    nef_key_object(&k, &op->bucket, op->key.data, op->key.bytes);
    err = nef_object_check(a, &k, &op->condition, &exists, &old, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;

    /* The new row is composed before the P rows go; in a buffer of its own, since freeing uses `row`. */
    err = upload_get(cell, &upload_key, &upload, out_code);
    if (err != NEF_OK)
        return err;
    memset(&row, 0, sizeof row);
    row.size = size;
    row.modified_ms = a->time_ms;
    memcpy(row.etag, op->etag, sizeof row.etag);
    row.checksum = op->checksum;
    row.multipart = true;
    row.attrs = upload.attrs;
    row.part_count = op->part_count;
    nef_row_object_put(&cell->object, &row);
    err = select_parts(a, true, &size, out_code);
    NEF_ASSERT(err != NEF_OK || *out_code == NEF_OK);
    if (err == NEF_OK && exists)
        err = nef_object_free_parts(cell, &old, a->time_ms, &budget);
    if (err == NEF_OK)
        err = end_parts(a, &op->upload, op->part_count, &budget);
    if (err == NEF_OK)
        err = nef_batch_put(cell, &k, &cell->object);
    if (err != NEF_OK)
        return err;
    upload_close(cell, &upload_key);
    if (!exists) {
        cell->totals.objects++;
        cell->totals_dirty = true;
    }
    return NEF_OK;
}

nef_err nef_apply_upload_abort(struct nef_apply *a, nef_err *out_code)
{
    const struct nef_op_upload_abort *op = &a->op.u.upload_abort;
    uint32_t budget = NEF_FREE_PIECES_MAX;
    struct nef_row_upload upload;
    struct nef_row_key k;
    nef_err err = target_check(a, &op->bucket, &op->key, out_code);

    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    nef_key_upload(&k, &op->bucket, op->key.data, op->key.bytes, &op->upload);
    err = upload_get(a->cell, &k, &upload, out_code);
    if (err != NEF_OK || *out_code != NEF_OK)
        return err;
    err = end_parts(a, &op->upload, 0, &budget);
    if (err == NEF_OK)
        upload_close(a->cell, &k);
    return err;
}
