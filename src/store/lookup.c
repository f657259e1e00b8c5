/* Look-ups of buckets, users, objects and pieces in what was applied. Any thread; the caller has waited at
 * the gate. Buckets and users are read in cell 0, which owns names. */
#include <stdlib.h>
#include <string.h>
#include "base/siphash.h"
#include "store/store_internal.h"

/* ---- the region ---- */

void nef_store_region_known(struct nef_store *store, const struct nef_id *region_key)
{
    NEF_ASSERT(pthread_mutex_lock(&store->region_lock) == 0);
    store->region_key = *region_key;
    store->has_region = true;
    NEF_ASSERT(pthread_mutex_unlock(&store->region_lock) == 0);
}

nef_err nef_store_region_key(struct nef_store *store, struct nef_id *out_region_key)
{
    nef_err err = NEF_E_AGAIN;

    NEF_ASSERT(pthread_mutex_lock(&store->region_lock) == 0);
    if (store->has_region) {
        *out_region_key = store->region_key;
        err = NEF_OK;
    }
    NEF_ASSERT(pthread_mutex_unlock(&store->region_lock) == 0);
    return err;
}

static nef_err region_row(struct nef_store *store, uint32_t cell, struct nef_row_region *out)
{
    struct nef_buf value = {0};
    struct nef_row_key k;
    nef_err err;

    nef_key_kind(&k, 'R');
    err = nef_cell_get(&store->cells[cell], &k, &value);
    if (err == NEF_OK)
        err = nef_row_region_get(value.data, value.bytes, out);
    nef_buf_free(&value);
    return err;
}

/* A fresh key, once: asked again before the op was applied, the same run comes out. */
static nef_err region_draft(struct nef_store *store, struct nef_row_region *out)
{
    struct nef_row_region *draft = &store->region_draft;
    size_t bytes = 0;
    nef_err err = NEF_OK;

    NEF_ASSERT(pthread_mutex_lock(&store->region_lock) == 0);
    if (!store->has_draft) {
        memset(draft, 0, sizeof *draft);
        nef_random(draft->region_key.bytes, sizeof draft->region_key.bytes);
        draft->op.region = store->options.region;
        draft->op.cell_count = store->options.cell_count;
        err = nef_keys_create(store->options.keys, &draft->region_key, draft->op.wrapped, &bytes);
        draft->op.wrapped_bytes = (uint32_t)bytes;
        store->has_draft = err == NEF_OK;
    }
    if (err == NEF_OK)
        *out = *draft;
    NEF_ASSERT(pthread_mutex_unlock(&store->region_lock) == 0);
    return err;
}

nef_err nef_store_region_next(struct nef_store *store, uint32_t cell, struct nef_run *out_run)
{
    struct nef_row_region row;
    struct nef_op op;
    nef_err err;

    NEF_ASSERT(cell < store->options.cell_count);
    err = region_row(store, cell, &row);
    if (err == NEF_OK)
        *out_run = (struct nef_run){.cell = cell};
    if (err != NEF_E_NOT_FOUND)
        return err;
    if (cell == 0) {
        err = region_draft(store, &row);
    } else {
        err = region_row(store, 0, &row);
        if (err == NEF_E_NOT_FOUND)
            err = NEF_E_AGAIN;
    }
    if (err != NEF_OK)
        return err;
    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_REGION;
    op.stream = row.region_key;
    op.bucket_key = row.region_key;
    op.u.region = row.op;
    return nef_run_op(store->options.keys, &op, cell, NULL, NULL, NULL, 0, out_run);
}

nef_err nef_store_override_next(struct nef_store *store, uint32_t cell, uint64_t epoch, uint64_t end,
                                struct nef_run *out_run)
{
    struct nef_buf value = {0};
    struct nef_row_key k;
    struct nef_op op;
    nef_err err;

    NEF_ASSERT(cell < store->options.cell_count);
    nef_key_u64(&k, 'V', epoch);
    err = nef_cell_get(&store->cells[cell], &k, &value);
    nef_buf_free(&value);
    if (err == NEF_OK)
        *out_run = (struct nef_run){.cell = cell};
    if (err != NEF_E_NOT_FOUND)
        return err;
    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_OVERRIDE;
    op.u.override = (struct nef_op_override){.epoch = epoch, .end = end};
    return nef_run_op(store->options.keys, &op, cell, NULL, NULL, NULL, 0, out_run);
}

/* ---- buckets ---- */

static void bucket_fill(const struct nef_id *id, const struct nef_row_bucket *row,
                        struct nef_bucket *out)
{
    memset(out, 0, sizeof *out);
    out->id = *id;
    memcpy(out->name, row->name, sizeof out->name);
    out->created_ms = row->created_ms;
    out->flags = row->flags;
    out->closed = row->closed;
}

static nef_err bucket_by_id(struct nef_cell *cell, const struct nef_id *id, struct nef_buf *scratch,
                            struct nef_bucket *out)
{
    struct nef_row_bucket row;
    struct nef_row_key k;
    nef_err err;

    nef_key_id(&k, 'B', id);
    err = nef_cell_get(cell, &k, scratch);
    if (err == NEF_OK)
        err = nef_row_bucket_get(scratch->data, scratch->bytes, &row);
    if (err == NEF_OK)
        bucket_fill(id, &row, out);
    return err;
}

static uint32_t cache_slot(const char *name)
{
    static const uint8_t key[16];

    return (uint32_t)(nef_siphash(key, name, strlen(name)) % NEF_BUCKETS_CACHED);
}

static bool cache_get(struct nef_bucket_cache *cache, const char *name, uint64_t generation,
                      struct nef_bucket *out)
{
    uint32_t slot = cache_slot(name);
    bool found;

    pthread_mutex_lock(&cache->lock);
    found = cache->at[slot].generation == generation &&
            strcmp(cache->at[slot].bucket.name, name) == 0;
    if (found)
        *out = cache->at[slot].bucket;
    pthread_mutex_unlock(&cache->lock);
    return found;
}

static void cache_put(struct nef_bucket_cache *cache, uint64_t generation,
                      const struct nef_bucket *bucket)
{
    uint32_t slot = cache_slot(bucket->name);

    pthread_mutex_lock(&cache->lock);
    cache->at[slot].generation = generation;
    cache->at[slot].bucket = *bucket;
    pthread_mutex_unlock(&cache->lock);
}

nef_err nef_store_bucket(struct nef_store *store, const char *name, struct nef_bucket *out_bucket)
{
    /* noted before the rows are read: if they change meanwhile, what is cached is void at once */
    uint64_t generation = atomic_load(&store->buckets.generation);
    struct nef_cell *cell = &store->cells[0];
    struct nef_buf value = {0};
    struct nef_row_key k;
    struct nef_id id;
    nef_err err;

    if (name[0] == 0 || strlen(name) > NEF_BUCKET_NAME_MAX)
        return NEF_E_NO_BUCKET;
    if (cache_get(&store->buckets, name, generation, out_bucket))
        return NEF_OK;
    nef_key_text(&k, 'N', name, strlen(name));
    err = nef_cell_get(cell, &k, &value);
    if (err == NEF_OK)
        err = nef_row_name_get(value.data, value.bytes, &id);
    if (err == NEF_OK)
        err = bucket_by_id(cell, &id, &value, out_bucket);
    if (err == NEF_OK)
        cache_put(&store->buckets, generation, out_bucket);
    nef_buf_free(&value);
    return err == NEF_E_NOT_FOUND ? NEF_E_NO_BUCKET : err;
}

nef_err nef_store_buckets(struct nef_store *store, const char *after,
                          bool (*visit)(void *context, const struct nef_bucket *bucket),
                          void *context)
{
    struct nef_cell *cell = &store->cells[0];
    struct nef_row_key from, to, start;
    struct nef_index_iter *it;
    struct nef_buf value = {0};
    bool more = true;
    nef_err err = NEF_OK;

    if (after != NULL && strlen(after) > NEF_OBJECT_KEY_MAX)
        return NEF_E_INVALID;
    nef_key_kind(&from, 'N');
    to = from;
    nef_key_after_prefix(&to);
    it = nef_cell_rows(cell, &from, &to);
    if (it == NULL)
        goto out;
    if (after != NULL && after[0] != 0) { /* the least name above: one zero byte more */
        nef_key_text(&start, 'N', after, strlen(after) + 1);
        nef_index_iter_seek(it, start.data, start.bytes);
    } else {
        nef_index_iter_first(it);
    }
    for (; more && nef_index_iter_valid(it); nef_index_iter_next(it)) {
        struct nef_row_bucket row;
        struct nef_bucket bucket;
        struct nef_row_key k;
        struct nef_id id;
        size_t bytes;
        const uint8_t *v = nef_index_iter_value(it, &bytes);

        err = nef_row_name_get(v, bytes, &id);
        if (err != NEF_OK)
            break;
        nef_key_id(&k, 'B', &id);
        err = nef_index_get(cell->index, NULL, k.data, k.bytes, &value);
        if (err == NEF_E_NOT_FOUND) { /* deleted since the iterator was made */
            err = NEF_OK;
            continue;
        }
        if (err == NEF_OK)
            err = nef_row_bucket_get(value.data, value.bytes, &row);
        if (err != NEF_OK)
            break;
        bucket_fill(&id, &row, &bucket);
        more = visit(context, &bucket);
    }
out:
    err = nef_cell_rows_end(cell, it, err);
    nef_buf_free(&value);
    return err;
}

/* ---- users ---- */

nef_err nef_store_user(struct nef_store *store, const char *access_key, struct nef_user *out_user)
{
    struct nef_buf value = {0};
    struct nef_user user;
    struct nef_row_key k;
    size_t bytes = strlen(access_key);
    nef_err err;

    memset(&user, 0, sizeof user);
    if (bytes == 0 || bytes >= sizeof user.access_key)
        return NEF_E_NOT_FOUND;
    nef_key_text(&k, 'U', access_key, bytes);
    err = nef_cell_get(&store->cells[0], &k, &value);
    if (err == NEF_OK)
        err = nef_row_user_get(value.data, value.bytes, &user);
    if (err == NEF_OK) {
        memcpy(user.access_key, access_key, bytes);
        *out_user = user;
    }
    nef_wipe(&user, sizeof user);
    nef_buf_free(&value); /* wipes */
    return err;
}

nef_err nef_store_users(struct nef_store *store,
                        bool (*visit)(void *context, const struct nef_user *user), void *context)
{
    struct nef_cell *cell = &store->cells[0];
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    struct nef_user user;
    bool more = true;
    nef_err err = NEF_OK;

    nef_key_kind(&from, 'U');
    to = from;
    nef_key_after_prefix(&to);
    it = nef_cell_rows(cell, &from, &to);
    if (it == NULL)
        goto out;
    for (nef_index_iter_first(it); more && nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &bytes);

        memset(&user, 0, sizeof user);
        err = k_bytes - 1 < sizeof user.access_key ? nef_row_user_get(v, bytes, &user) : NEF_E_CORRUPT;
        if (err != NEF_OK)
            break;
        memcpy(user.access_key, k + 1, k_bytes - 1);
        more = visit(context, &user);
    }
    nef_wipe(&user, sizeof user);
out:
    err = nef_cell_rows_end(cell, it, err);
    return err;
}

nef_err nef_store_budget(struct nef_store *store, const char *access_key, struct nef_budget_state *out_state)
{
    struct nef_buf value = {0};
    struct nef_row_key k;
    size_t bytes = strlen(access_key);
    nef_err err;

    if (bytes == 0 || bytes >= sizeof((struct nef_user *)0)->access_key)
        return NEF_E_NOT_FOUND;
    nef_key_text(&k, 'G', access_key, bytes);
    err = nef_cell_get(&store->cells[0], &k, &value);
    if (err == NEF_OK)
        err = nef_budget_get(value.data, value.bytes, out_state);
    nef_buf_free(&value);
    return err;
}

/* ---- objects ---- */

uint32_t nef_store_cell(const struct nef_store *store, const struct nef_id *bucket, const void *key,
                        size_t key_bytes)
{
    return nef_slot_cell(nef_slot(bucket->bytes, key, key_bytes), store->options.cell_count);
}

nef_err nef_store_tag(struct nef_store *store, const struct nef_id *bucket, const void *key,
                      size_t key_bytes, uint8_t out_tag[16])
{
    struct nef_id region_key;
    nef_err err = nef_store_region_key(store, &region_key);

    if (err == NEF_OK)
        err = nef_keys_tag(store->options.keys, &region_key, bucket, key, key_bytes, out_tag);
    return err;
}

/* One allocation: the object, its parts, its key, its attributes. */
static nef_err object_make(const struct nef_row_object *row, const struct nef_id *bucket,
                           const void *key, size_t key_bytes, uint32_t cell,
                           struct nef_object **out_object)
{
    size_t parts_at = (sizeof(struct nef_object) + 15) & ~(size_t)15;
    size_t attrs_at = parts_at + row->part_count * sizeof(struct nef_object_part);
    size_t key_at = attrs_at + row->attrs.bytes;
    uint8_t *memory = calloc(1, key_at + key_bytes + 1);
    struct nef_object *o = (struct nef_object *)(void *)memory;

    if (memory == NULL)
        return NEF_E_NOMEM;
    o->bucket = *bucket;
    o->cell = cell;
    o->size = row->size;
    o->modified_ms = row->modified_ms;
    memcpy(o->etag, row->etag, sizeof o->etag);
    o->checksum = row->checksum;
    o->multipart = row->multipart;
    o->part_count = row->part_count;
    o->parts = (struct nef_object_part *)(void *)(memory + parts_at);
    for (uint32_t i = 0; i < row->part_count; i++)
        nef_row_object_part(row, i, &o->parts[i]);
    if (row->attrs.bytes > 0)
        memcpy(memory + attrs_at, row->attrs.data, row->attrs.bytes);
    o->attrs = (struct nef_attrs){memory + attrs_at, row->attrs.bytes};
    o->key = (char *)memory + key_at;
    memcpy(o->key, key, key_bytes);
    o->key_bytes = (uint32_t)key_bytes;
    *out_object = o;
    return NEF_OK;
}

nef_err nef_store_object(struct nef_store *store, const struct nef_bucket *bucket, const void *key,
                         size_t key_bytes, struct nef_object **out_object)
{
    struct nef_buf value = {0};
    struct nef_row_object row;
    struct nef_row_key k;
    uint32_t cell;
    nef_err err;

    if (!nef_key_valid(key, key_bytes))
        return NEF_E_NOT_FOUND;
    cell = nef_store_cell(store, &bucket->id, key, key_bytes);
    nef_key_object(&k, &bucket->id, key, key_bytes);
    err = nef_cell_get(&store->cells[cell], &k, &value);
    if (err == NEF_OK)
        err = nef_row_object_get(value.data, value.bytes, &row);
    if (err == NEF_OK)
        err = object_make(&row, &bucket->id, key, key_bytes, cell, out_object);
    nef_buf_free(&value);
    return err;
}

void nef_object_free(struct nef_object *object)
{
    free(object);
}

nef_err nef_store_piece(struct nef_store *store, uint32_t cell, const struct nef_id *stream,
                        uint32_t piece, struct nef_row_piece *out_piece)
{
    struct nef_buf value = {0};
    struct nef_row_key k;
    nef_err err;

    NEF_ASSERT(cell < store->options.cell_count);
    nef_key_id_u32(&k, 'X', stream, piece);
    err = nef_cell_get(&store->cells[cell], &k, &value);
    if (err == NEF_OK)
        err = nef_row_piece_get(value.data, value.bytes, out_piece);
    nef_buf_free(&value);
    return err;
}
