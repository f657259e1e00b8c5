/* Look-ups and listings of multipart uploads and their parts. M rows sort by (key, upload id) within a
 * bucket, as S3's ListMultipartUploads does; the cells are merged. */
#include <stdlib.h>
#include <string.h>
#include "store/store_internal.h"

static nef_err upload_make(const struct nef_row_upload *row, const struct nef_id *bucket,
                           const struct nef_id *id, const void *key, size_t key_bytes,
                           struct nef_upload **out_upload)
{
    uint8_t *memory = calloc(1, sizeof(struct nef_upload) + row->attrs.bytes + key_bytes + 1);
    struct nef_upload *u = (struct nef_upload *)(void *)memory;
    uint8_t *attrs = memory + sizeof *u;

    if (memory == NULL)
        return NEF_E_NOMEM;
    u->id = *id;
    u->bucket = *bucket;
    u->created_ms = row->created_ms;
    u->checksum = row->checksum;
    memcpy(u->owner, row->owner, sizeof u->owner);
    if (row->attrs.bytes > 0)
        memcpy(attrs, row->attrs.data, row->attrs.bytes);
    u->attrs = (struct nef_attrs){attrs, row->attrs.bytes};
    u->key = (char *)attrs + row->attrs.bytes;
    memcpy(u->key, key, key_bytes);
    u->key_bytes = (uint32_t)key_bytes;
    *out_upload = u;
    return NEF_OK;
}
_Static_assert(sizeof(((struct nef_upload *)0)->owner) ==
                   sizeof(((struct nef_row_upload *)0)->owner),
               "copied as a whole");

nef_err nef_store_upload(struct nef_store *store, const struct nef_bucket *bucket, const void *key,
                         size_t key_bytes, const struct nef_id *upload,
                         struct nef_upload **out_upload)
{
    struct nef_buf value = {0};
    struct nef_row_upload row;
    struct nef_row_key k;
    uint32_t cell;
    nef_err err;

    if (!nef_key_valid(key, key_bytes))
        return NEF_E_NO_UPLOAD;
    cell = nef_store_cell(store, &bucket->id, key, key_bytes);
    nef_key_upload(&k, &bucket->id, key, key_bytes, upload);
    err = nef_cell_get(&store->cells[cell], &k, &value);
    if (err == NEF_OK)
        err = nef_row_upload_get(value.data, value.bytes, &row);
    if (err == NEF_OK)
        err = upload_make(&row, &bucket->id, upload, key, key_bytes, out_upload);
    nef_buf_free(&value);
    return err == NEF_E_NOT_FOUND ? NEF_E_NO_UPLOAD : err;
}

void nef_upload_free(struct nef_upload *upload)
{
    free(upload);
}

/* Where a listing begins. With only a key: above all uploads of that key (no key holds a zero byte, so one
 * byte 1 behind it is above its zero). */
static void uploads_start(const struct nef_bucket *bucket, struct nef_text after_key,
                          const struct nef_id *after_id, struct nef_row_key *out)
{
    if (after_id != NULL && !nef_id_is_zero(after_id)) {
        nef_key_upload(out, &bucket->id, after_key.data, after_key.bytes, after_id);
        nef_key_after_prefix(out); /* ids are as long as each other: the next one */
        return;
    }
    nef_key_id(out, 'M', &bucket->id);
    memcpy(out->data + out->bytes, after_key.data, after_key.bytes);
    out->bytes += after_key.bytes;
    out->data[out->bytes++] = 1;
}

static int key_compare(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int c = memcmp(a, b, NEF_MIN(a_bytes, b_bytes));

    return c != 0 ? c : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static struct nef_index_iter *least(struct nef_index_iter *const *iters, uint32_t count)
{
    struct nef_index_iter *best = NULL;
    const uint8_t *best_k = NULL;
    size_t best_bytes = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *k;
        size_t bytes;

        if (!nef_index_iter_valid(iters[i]))
            continue;
        k = nef_index_iter_key(iters[i], &bytes);
        if (best == NULL || key_compare(k, bytes, best_k, best_bytes) < 0) {
            best = iters[i];
            best_k = k;
            best_bytes = bytes;
        }
    }
    return best;
}

static nef_err visit_upload(const struct nef_bucket *bucket, const struct nef_index_iter *it,
                            bool (*visit)(void *context, const struct nef_upload *upload),
                            void *context, bool *out_more)
{
    size_t k_bytes, v_bytes;
    const uint8_t *k = nef_index_iter_key(it, &k_bytes);
    const uint8_t *v = nef_index_iter_value(it, &v_bytes);
    struct nef_upload *upload;
    struct nef_row_upload row;
    struct nef_text key;
    struct nef_id id;
    nef_err err = nef_key_read_upload(k, k_bytes, &key, &id);

    if (err == NEF_OK)
        err = nef_row_upload_get(v, v_bytes, &row);
    if (err == NEF_OK)
        err = upload_make(&row, &bucket->id, &id, key.data, key.bytes, &upload);
    if (err != NEF_OK)
        return err;
    *out_more = visit(context, upload);
    nef_upload_free(upload);
    return NEF_OK;
}

nef_err nef_store_uploads(struct nef_store *store, const struct nef_bucket *bucket,
                          struct nef_text prefix, struct nef_text after_key,
                          const struct nef_id *after_id,
                          bool (*visit)(void *context, const struct nef_upload *upload),
                          void *context)
{
    struct nef_index_iter *iters[NEF_CELL_MAX] = {NULL};
    struct nef_row_key from, to, start;
    uint32_t locked = 0;
    bool more = true;
    nef_err err = NEF_OK;

    if (prefix.bytes > NEF_OBJECT_KEY_MAX)
        return NEF_OK;
    after_key.bytes = NEF_MIN(after_key.bytes, NEF_OBJECT_KEY_MAX);
    nef_key_id(&from, 'M', &bucket->id);
    if (prefix.bytes > 0)
        memcpy(from.data + from.bytes, prefix.data, prefix.bytes);
    from.bytes += prefix.bytes;
    to = from;
    nef_key_after_prefix(&to);
    for (; err == NEF_OK && locked < store->options.cell_count; locked++) {
        struct nef_cell *cell = &store->cells[locked];

        nef_cell_read_begin(cell);
        if (cell->index == NULL) {
            err = NEF_E_UNAVAILABLE;
            continue;
        }
        iters[locked] = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
        if (iters[locked] == NULL) {
            err = NEF_E_NOMEM;
            continue;
        }
        if (after_key.bytes > 0) {
            uploads_start(bucket, after_key, after_id, &start);
            if (key_compare(start.data, start.bytes, from.data, from.bytes) > 0)
                nef_index_iter_seek(iters[locked], start.data, start.bytes);
            else
                nef_index_iter_first(iters[locked]);
        } else {
            nef_index_iter_first(iters[locked]);
        }
    }
    while (err == NEF_OK && more) {
        struct nef_index_iter *it = least(iters, store->options.cell_count);

        if (it == NULL)
            break;
        err = visit_upload(bucket, it, visit, context, &more);
        nef_index_iter_next(it);
    }
    for (uint32_t i = 0; i < locked; i++) {
        if (err == NEF_OK && iters[i] != NULL)
            err = nef_index_iter_error(iters[i]);
        if (iters[i] != NULL)
            nef_index_iter_free(iters[i]);
        nef_cell_read_end(&store->cells[i]);
    }
    return err;
}

nef_err nef_store_parts(struct nef_store *store, const struct nef_upload *upload,
                        uint32_t after_part,
                        bool (*visit)(void *context, const struct nef_part *part), void *context)
{
    uint32_t number = nef_store_cell(store, &upload->bucket, upload->key, upload->key_bytes);
    struct nef_cell *cell = &store->cells[number];
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    bool more = true;
    nef_err err = NEF_OK;

    if (after_part >= NEF_PART_COUNT_MAX)
        return NEF_OK;
    nef_key_id_u32(&from, 'P', &upload->id, after_part + 1);
    nef_key_id(&to, 'P', &upload->id);
    nef_key_after_prefix(&to);
    it = nef_cell_rows(cell, &from, &to);
    if (it == NULL)
        goto out;
    for (nef_index_iter_first(it); more && nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);
        struct nef_row_part row;
        struct nef_part part;
        struct nef_id id;

        memset(&part, 0, sizeof part);
        err = nef_key_read_id_u32(k, k_bytes, &id, &part.part);
        if (err == NEF_OK)
            err = nef_row_part_get(v, v_bytes, &row);
        if (err != NEF_OK)
            break;
        part.size = row.size;
        part.modified_ms = row.modified_ms;
        memcpy(part.md5, row.md5, sizeof part.md5);
        part.checksum = row.checksum;
        more = visit(context, &part);
    }
out:
    err = nef_cell_rows_end(cell, it, err);
    return err;
}
