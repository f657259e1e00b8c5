/* Batches: RocksDB's WriteBatchWithIndex, so that an op can see what the ops before it in the same batch
 * did, and deletion of ranges, which WriteBatchWithIndex lacks.
 *
 * A range deletion does two things: it deletes each key of the range that the batch itself has put so far,
 * and it is remembered in `ranges`. When the batch is written, the ranges come first and then the batch's
 * own updates in their order, which amounts to the order of the calls. A read looks into the batch first,
 * then, if the key lies in a range, knows that it is gone, and only else looks into the index. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "index/index_internal.h"

struct range { /* texts lie in range_bytes, from then to */
    size_t at;
    size_t from_bytes, to_bytes;
};

struct nef_index_batch {
    rocksdb_writebatch_wi_t *updates;
    rocksdb_options_t *options; /* reading from the batch alone wants some */
    struct range *ranges;
    size_t range_count, range_capacity;
    struct nef_buf range_bytes;
    bool failed; /* out of memory: the write will say so */
};

struct nef_index_batch *nef_index_batch_new(void)
{
    struct nef_index_batch *batch = calloc(1, sizeof(*batch));

    if (batch == NULL)
        return NULL;
    batch->updates = rocksdb_writebatch_wi_create(0, 1);
    batch->options = rocksdb_options_create();
    return batch;
}

void nef_index_batch_free(struct nef_index_batch *batch)
{
    if (batch == NULL)
        return;
    rocksdb_writebatch_wi_destroy(batch->updates);
    rocksdb_options_destroy(batch->options);
    nef_buf_free(&batch->range_bytes);
    free(batch->ranges);
    free(batch);
}

void nef_index_batch_clear(struct nef_index_batch *batch)
{
    rocksdb_writebatch_wi_clear(batch->updates);
    nef_buf_reset(&batch->range_bytes);
    batch->range_count = 0;
    batch->failed = false;
}

void nef_index_batch_put(struct nef_index_batch *batch, const void *key, size_t key_bytes,
                         const void *value, size_t value_bytes)
{
    rocksdb_writebatch_wi_put(batch->updates, key, key_bytes, value_bytes == 0 ? "" : value,
                              value_bytes);
}

void nef_index_batch_delete(struct nef_index_batch *batch, const void *key, size_t key_bytes)
{
    rocksdb_writebatch_wi_delete(batch->updates, key, key_bytes);
}

static int compare(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    int c = memcmp(a, b, NEF_MIN(a_bytes, b_bytes));

    return c != 0 ? c : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static bool range_holds(const struct nef_index_batch *batch, const struct range *range,
                        const void *key, size_t key_bytes)
{
    const uint8_t *from = batch->range_bytes.data + range->at;

    return compare(key, key_bytes, from, range->from_bytes) >= 0 &&
           compare(key, key_bytes, from + range->from_bytes, range->to_bytes) < 0;
}

/* Keys of the batch that lie in a range: collected first, since deleting changes what is walked. */
struct covered {
    const struct nef_index_batch *batch;
    const struct range *range;
    struct nef_buf keys; /* u32 length, key */
};

static void covered_put(void *context, const char *key, size_t key_bytes, const char *value,
                        size_t value_bytes)
{
    struct covered *c = context;

    (void)value;
    (void)value_bytes;
    if (range_holds(c->batch, c->range, key, key_bytes))
        nef_buf_block(&c->keys, key, key_bytes);
}

static void covered_deleted(void *context, const char *key, size_t key_bytes)
{
    (void)context; /* is deleted already, or was put again and then comes as a put as well */
    (void)key;
    (void)key_bytes;
}

static void delete_covered(struct nef_index_batch *batch, const struct range *range)
{
    struct covered c = {.batch = batch, .range = range};
    struct nef_reader r;

    rocksdb_writebatch_wi_iterate(batch->updates, &c, covered_put, covered_deleted);
    if (c.keys.failed)
        batch->failed = true;
    r = nef_reader_of(c.keys.data, c.keys.failed ? 0 : c.keys.bytes);
    while (nef_reader_left(&r) > 0) {
        size_t bytes = 0;
        const uint8_t *key = nef_read_block(&r, SIZE_MAX, &bytes);

        NEF_ASSERT(!r.failed);
        rocksdb_writebatch_wi_delete(batch->updates, (const char *)key, bytes);
    }
    nef_buf_free(&c.keys);
}

void nef_index_batch_delete_range(struct nef_index_batch *batch, const void *from,
                                  size_t from_bytes, const void *to, size_t to_bytes)
{
    struct range *range;

    if (compare(from, from_bytes, to, to_bytes) >= 0)
        return;
    if (batch->range_count == batch->range_capacity) {
        size_t capacity = batch->range_capacity == 0 ? 8 : 2 * batch->range_capacity;
        struct range *ranges = realloc(batch->ranges, capacity * sizeof(*ranges));

        if (ranges == NULL) {
            batch->failed = true;
            return;
        }
        batch->ranges = ranges;
        batch->range_capacity = capacity;
    }
    range = &batch->ranges[batch->range_count];
    *range = (struct range){batch->range_bytes.bytes, from_bytes, to_bytes};
    nef_buf_append(&batch->range_bytes, from, from_bytes);
    nef_buf_append(&batch->range_bytes, to, to_bytes);
    if (batch->range_bytes.failed) {
        batch->failed = true;
        return;
    }
    batch->range_count++;
    delete_covered(batch, range);
}

static void copy_put(void *context, const char *key, size_t key_bytes, const char *value,
                     size_t value_bytes)
{
    rocksdb_writebatch_put(context, key, key_bytes, value, value_bytes);
}

static void copy_deleted(void *context, const char *key, size_t key_bytes)
{
    rocksdb_writebatch_delete(context, key, key_bytes);
}

nef_err nef_index_write(struct nef_index *index, struct nef_index_batch *batch)
{
    rocksdb_writebatch_t *all;
    char *text = NULL;

    if (batch->failed)
        return NEF_E_NOMEM;
    if (batch->range_count == 0) {
        rocksdb_write_writebatch_wi(index->db, index->write, batch->updates, &text);
        return nef_index_error(&text);
    }
    all = rocksdb_writebatch_create();
    for (size_t i = 0; i < batch->range_count; i++) {
        const struct range *range = &batch->ranges[i];
        const char *from = (const char *)batch->range_bytes.data + range->at;

        rocksdb_writebatch_delete_range(all, from, range->from_bytes, from + range->from_bytes,
                                        range->to_bytes);
    }
    rocksdb_writebatch_wi_iterate(batch->updates, all, copy_put, copy_deleted);
    rocksdb_write(index->db, index->write, all, &text);
    rocksdb_writebatch_destroy(all);
    return nef_index_error(&text);
}

static bool in_ranges(const struct nef_index_batch *batch, const void *key, size_t key_bytes)
{
    for (size_t i = 0; i < batch->range_count; i++)
        if (range_holds(batch, &batch->ranges[i], key, key_bytes))
            return true;
    return false;
}

nef_err nef_index_batch_get(struct nef_index *index, struct nef_index_batch *batch, const void *key,
                            size_t key_bytes, struct nef_buf *out_value)
{
    char *text = NULL;
    size_t bytes = 0;
    char *value;
    nef_err err;

    nef_buf_reset(out_value);
    if (in_ranges(batch, key, key_bytes))
        value = rocksdb_writebatch_wi_get_from_batch(batch->updates, batch->options, key, key_bytes,
                                                     &bytes, &text);
    else
        value = rocksdb_writebatch_wi_get_from_batch_and_db(batch->updates, index->db, index->read,
                                                            key, key_bytes, &bytes, &text);
    err = nef_index_error(&text);
    if (err == NEF_OK && value == NULL)
        err = NEF_E_NOT_FOUND;
    if (err == NEF_OK) {
        nef_buf_append(out_value, value, bytes);
        err = nef_buf_end(out_value);
    }
    rocksdb_free(value);
    return err;
}
