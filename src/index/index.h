/* One cell's index: an ordered map of bytes to bytes in RocksDB, encrypted at rest, without a write-ahead
 * log (the cell's log is that). The only directory that includes rocksdb/c.h; encrypted_env.cc is the only
 * C++ (the C API cannot give RocksDB an EncryptedEnv).
 *
 * Batches are atomic; the caller puts its applied offset into each batch, so what a crash leaves is a
 * state as of some applied offset, and the log from there on brings back the rest.
 * Threads: reads and iterators from any thread; one writer at a time. */
#ifndef NEF_INDEX_INDEX_H
#define NEF_INDEX_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

struct nef_index;
struct nef_index_shared; /* block cache and write-buffer budget of all cells of a process */
struct nef_index_batch;
struct nef_index_iter;
struct nef_index_snapshot;

struct nef_index_shared *nef_index_shared_new(size_t cache_bytes, size_t write_buffer_bytes);
void nef_index_shared_free(struct nef_index_shared *shared);

/* key: 32 bytes, of the AES-256-CTR encryption; copied into locked memory. Creates the directory if it is
 * missing. NEF_E_BUSY: it is open elsewhere. NEF_E_CORRUPT: RocksDB says so, or the key is another one (each file's prefix tells): the caller
 * wipes and rebuilds. */
NEF_MUST_CHECK nef_err nef_index_open(struct nef_index_shared *shared, const char *path,
                                      const uint8_t key[32], struct nef_index **out_index);
void nef_index_close(struct nef_index *index);
/* Remove all files of a closed index. */
NEF_MUST_CHECK nef_err nef_index_wipe(const char *path);

/* NEF_E_NOT_FOUND; NEF_E_CORRUPT, NEF_E_IO. out is reset first. snapshot may be NULL. */
NEF_MUST_CHECK nef_err nef_index_get(struct nef_index *index, const struct nef_index_snapshot *snapshot,
                                     const void *key, size_t key_bytes, struct nef_buf *out_value);

struct nef_index_batch *nef_index_batch_new(void);
void nef_index_batch_free(struct nef_index_batch *batch);
void nef_index_batch_clear(struct nef_index_batch *batch);
void nef_index_batch_put(struct nef_index_batch *batch, const void *key, size_t key_bytes,
                         const void *value, size_t value_bytes);
void nef_index_batch_delete(struct nef_index_batch *batch, const void *key, size_t key_bytes);
void nef_index_batch_delete_range(struct nef_index_batch *batch, const void *from, size_t from_bytes,
                                  const void *to, size_t to_bytes); /* [from, to) */
NEF_MUST_CHECK nef_err nef_index_write(struct nef_index *index, struct nef_index_batch *batch);

/* Read what a batch has not yet written: "read your own writes" for ops applied in one batch. Needs a
 * batch made by nef_index_batch_new (it is RocksDB's WriteBatchWithIndex inside). */
NEF_MUST_CHECK nef_err nef_index_batch_get(struct nef_index *index, struct nef_index_batch *batch,
                                           const void *key, size_t key_bytes, struct nef_buf *out_value);

struct nef_index_snapshot *nef_index_snapshot_new(struct nef_index *index);
void nef_index_snapshot_free(struct nef_index *index, struct nef_index_snapshot *snapshot);

/* Iterator over [lower, upper); NULL bounds are open. Key and value views are valid until it moves. */
struct nef_index_iter *nef_index_iter_new(struct nef_index *index,
                                          const struct nef_index_snapshot *snapshot, const void *lower,
                                          size_t lower_bytes, const void *upper, size_t upper_bytes);
void nef_index_iter_free(struct nef_index_iter *iter);
void nef_index_iter_seek(struct nef_index_iter *iter, const void *key, size_t key_bytes);
void nef_index_iter_first(struct nef_index_iter *iter);
bool nef_index_iter_valid(const struct nef_index_iter *iter);
void nef_index_iter_next(struct nef_index_iter *iter);
const uint8_t *nef_index_iter_key(const struct nef_index_iter *iter, size_t *out_bytes);
const uint8_t *nef_index_iter_value(const struct nef_index_iter *iter, size_t *out_bytes);
NEF_MUST_CHECK nef_err nef_index_iter_error(const struct nef_index_iter *iter);

/* Memtables to disk, synced; after NEF_OK what was written before is durable. Blocking. */
NEF_MUST_CHECK nef_err nef_index_flush(struct nef_index *index);

#endif
