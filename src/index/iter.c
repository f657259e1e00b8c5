/* Iterators over a range of the index. The bounds are copied: RocksDB keeps only pointers to them. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "index/index_internal.h"

struct nef_index_iter {
    rocksdb_iterator_t *iterator;
    rocksdb_readoptions_t *read;
    uint8_t bounds[]; /* lower, upper */
};

struct nef_index_iter *nef_index_iter_new(struct nef_index *index,
                                          const struct nef_index_snapshot *snapshot,
                                          const void *lower, size_t lower_bytes, const void *upper,
                                          size_t upper_bytes)
{
    struct nef_index_iter *iter;

    if (lower == NULL)
        lower_bytes = 0;
    if (upper == NULL)
        upper_bytes = 0;
    iter = calloc(1, sizeof(*iter) + lower_bytes + upper_bytes);
    if (iter == NULL)
        return NULL;
    iter->read = rocksdb_readoptions_create();
    /* dropping files that only this iterator held is left to a background thread */
    rocksdb_readoptions_set_background_purge_on_iterator_cleanup(iter->read, 1);
    if (snapshot != NULL)
        rocksdb_readoptions_set_snapshot(iter->read, snapshot->snapshot);
    if (lower != NULL) {
        memcpy(iter->bounds, lower, lower_bytes);
        rocksdb_readoptions_set_iterate_lower_bound(iter->read, (const char *)iter->bounds,
                                                    lower_bytes);
    }
    if (upper != NULL) {
        memcpy(iter->bounds + lower_bytes, upper, upper_bytes);
        rocksdb_readoptions_set_iterate_upper_bound(
            iter->read, (const char *)iter->bounds + lower_bytes, upper_bytes);
    }
    iter->iterator = rocksdb_create_iterator(index->db, iter->read);
    return iter;
}

void nef_index_iter_free(struct nef_index_iter *iter)
{
    if (iter == NULL)
        return;
    rocksdb_iter_destroy(iter->iterator);
    rocksdb_readoptions_destroy(iter->read);
    free(iter);
}

void nef_index_iter_seek(struct nef_index_iter *iter, const void *key, size_t key_bytes)
{
    rocksdb_iter_seek(iter->iterator, key, key_bytes);
}

void nef_index_iter_first(struct nef_index_iter *iter)
{
    rocksdb_iter_seek_to_first(iter->iterator);
}

bool nef_index_iter_valid(const struct nef_index_iter *iter)
{
    return rocksdb_iter_valid(iter->iterator) != 0;
}

void nef_index_iter_next(struct nef_index_iter *iter)
{
    NEF_ASSERT(nef_index_iter_valid(iter));
    rocksdb_iter_next(iter->iterator);
}

const uint8_t *nef_index_iter_key(const struct nef_index_iter *iter, size_t *out_bytes)
{
    NEF_ASSERT(nef_index_iter_valid(iter));
    return (const uint8_t *)rocksdb_iter_key(iter->iterator, out_bytes);
}

const uint8_t *nef_index_iter_value(const struct nef_index_iter *iter, size_t *out_bytes)
{
    NEF_ASSERT(nef_index_iter_valid(iter));
    return (const uint8_t *)rocksdb_iter_value(iter->iterator, out_bytes);
}

nef_err nef_index_iter_error(const struct nef_index_iter *iter)
{
    char *text = NULL;

    rocksdb_iter_get_error(iter->iterator, &text);
    return nef_index_error(&text);
}
