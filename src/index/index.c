/* Opening, reading and flushing a cell's index: RocksDB through its C API.
 *
 * Why these settings:
 * - No write-ahead log: the cell's log is it. One column family, so that a flush leaves on disk exactly
 *   what was written up to some batch: memtables go to disk in order, a batch is never split.
 * - All cells share one block cache, which also holds index and filter blocks, and one write-buffer
 *   budget: memory is bounded by two numbers whatever the count of cells and rows.
 * - Bloom filters (10 bits a key, about 1 % false): a look-up of a key that isn't there reads no block.
 * - Nothing may leave the encrypted environment: no info log (it names keys), no statistics files, no
 *   mmap, no direct I/O (which rewrites blocks and would repeat keystream).
 *
 * RocksDB's error texts can hold keys, so they are turned into a code here and never passed on. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "crypto/crypto.h"
#include "index/index_internal.h"

#define BLOOM_BITS         10.0
#define BLOCK_BYTES        ((size_t)4 << 10)
#define SST_BYTES          ((uint64_t)16 << 20)
#define MANIFEST_BYTES     ((size_t)1 << 20) /* begun anew past this: it is read whole at open */
#define OPEN_FILES_MAX     128
#define MEMTABLE_BYTES_MIN ((size_t)1 << 20)
#define MEMTABLE_BYTES_MAX ((size_t)16 << 20)
#define MEMTABLES_MAX      3 /* one that is filled while two are flushed */

struct nef_index_shared {
    rocksdb_cache_t *cache;
    struct nef_index_budget *budget;
    size_t memtable_bytes;
};

struct nef_index_shared *nef_index_shared_new(size_t cache_bytes, size_t write_buffer_bytes)
{
    struct nef_index_shared *shared = calloc(1, sizeof(*shared));
    uint8_t any;

    if (shared == NULL)
        return NULL;
    /* OpenSSL must be there before RocksDB: at exit they end in reverse order, and RocksDB's threads, which
     * hold contexts of OpenSSL, only end with it. */
    nef_random(&any, sizeof(any));
    /* a quarter, so that one busy cell can't take the whole budget with a single memtable */
    shared->memtable_bytes =
        NEF_MIN(NEF_MAX(write_buffer_bytes / 4, MEMTABLE_BYTES_MIN), MEMTABLE_BYTES_MAX);
    shared->cache = rocksdb_cache_create_lru(cache_bytes);
    shared->budget = nef_index_budget_new(write_buffer_bytes);
    if (shared->budget == NULL) {
        nef_index_shared_free(shared);
        return NULL;
    }
    return shared;
}

void nef_index_shared_free(struct nef_index_shared *shared)
{
    if (shared == NULL)
        return;
    if (shared->cache != NULL)
        rocksdb_cache_destroy(shared->cache);
    nef_index_budget_free(shared->budget);
    free(shared);
}

/* Texts are those of rocksdb::Status::ToString. */
nef_err nef_index_error(char **text)
{
    static const struct {
        const char *begin;
        nef_err err;
    } known[] = {
        {"NotFound: ", NEF_E_NOT_FOUND},
        {"Corruption: ", NEF_E_CORRUPT},
        {"Invalid argument: Found options incompatible with filesystem: Corruption: ",
         NEF_E_CORRUPT}, /* of the options file, which an open reads first */
        {"IO error: No space left on device", NEF_E_NOSPACE},
        {"IO error: No such file or directory", NEF_E_CORRUPT}, /* a file of the index is missing */
        {"IO error: lock hold by current process", NEF_E_BUSY},
        {"IO error: While lock file", NEF_E_BUSY},
        {"IO error: ", NEF_E_IO},
        {"Resource busy: ", NEF_E_BUSY},
    };
    nef_err err = NEF_E_IO; /* anything else: the index can't be used */

    if (*text == NULL)
        return NEF_OK;
    for (size_t i = 0; i < NEF_COUNT(known); i++) {
        if (strncmp(*text, known[i].begin, strlen(known[i].begin)) == 0) {
            err = known[i].err;
            break;
        }
    }
    rocksdb_free(*text);
    *text = NULL;
    return err;
}

static void set_table(rocksdb_options_t *options, const struct nef_index_shared *shared)
{
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();

    rocksdb_block_based_options_set_block_size(table, BLOCK_BYTES);
    rocksdb_block_based_options_set_block_cache(table, shared->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(table, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1);
    rocksdb_block_based_options_set_format_version(table, 5);
    /* takes the policy over */
    rocksdb_block_based_options_set_filter_policy(
        table, rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS));
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_block_based_options_destroy(table);
}

static rocksdb_options_t *make_options(const struct nef_index_shared *shared)
{
    rocksdb_options_t *options = rocksdb_options_create();

    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_paranoid_checks(options, 1);
    rocksdb_options_set_write_buffer_size(options, shared->memtable_bytes);
    rocksdb_options_set_max_write_buffer_number(options, MEMTABLES_MAX);
    rocksdb_options_set_max_background_jobs(options, 2);
    rocksdb_options_set_max_open_files(options, OPEN_FILES_MAX);
    rocksdb_options_set_target_file_size_base(options, SST_BYTES);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
    rocksdb_options_set_max_manifest_file_size(options, MANIFEST_BYTES);
    rocksdb_options_set_compression(options, rocksdb_lz4_compression);
    rocksdb_options_set_stats_dump_period_sec(options, 0);
    rocksdb_options_set_stats_persist_period_sec(options, 0);
    rocksdb_options_set_allow_mmap_reads(options, 0);
    rocksdb_options_set_allow_mmap_writes(options, 0);
    rocksdb_options_set_use_direct_reads(options, 0);
    rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 0);
    rocksdb_options_set_recycle_log_file_num(options, 0);
    set_table(options, shared);
    return options;
}

/* RocksDB's EncryptedEnv asserts that a file that isn't empty holds a whole prefix. A crash or damage can leave
 * less, which would end every start from then on: here it is corruption, which the log repairs. */
static nef_err check_prefixes(const char *path)
{
    nef_err err = NEF_OK;
    struct dirent *entry;
    struct stat st;
    DIR *dir = opendir(path);

    if (dir == NULL)
        return NEF_E_IO;
    for (errno = 0; err == NEF_OK && (entry = readdir(dir)) != NULL; errno = 0) {
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            err = NEF_E_IO;
        else if (S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size < (off_t)NEF_INDEX_PREFIX_BYTES)
            err = NEF_E_CORRUPT;
    }
    if (err == NEF_OK && errno != 0)
        err = NEF_E_IO;
    (void)closedir(dir); /* nothing was written through it */
    return err;
}

nef_err nef_index_open(struct nef_index_shared *shared, const char *path, const uint8_t key[32],
                       struct nef_index **out_index)
{
    struct nef_index *index = calloc(1, sizeof(*index));
    char *text = NULL;
    nef_err err = NEF_E_NOMEM;

    if (index == NULL)
        return NEF_E_NOMEM;
    index->key = nef_secret_new(NEF_KEY_BYTES);
    if (index->key == NULL)
        goto out;
    memcpy(index->key, key, NEF_KEY_BYTES);
    index->env = nef_index_env_new(index->key);
    if (index->env == NULL)
        goto out;
    index->options = make_options(shared);
    if (!nef_index_options_attach(index->options, index->env, shared->budget)) {
        err = NEF_E_UNSUPPORTED;
        goto out;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        err = errno == ENOSPC ? NEF_E_NOSPACE : NEF_E_IO;
        goto out;
    }
    err = check_prefixes(path);
    if (err != NEF_OK)
        goto out;
    index->read = rocksdb_readoptions_create();
    index->write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(index->write, 1);
    index->db = rocksdb_open(index->options, path, &text);
    err = nef_index_error(&text);
    if (err != NEF_OK)
        goto out;
    *out_index = index;
    index = NULL;
out:
    nef_index_close(index);
    return err;
}

void nef_index_close(struct nef_index *index)
{
    if (index == NULL)
        return;
    if (index->db != NULL)
        rocksdb_close(index->db); /* flushes; what a failed flush loses, the log brings back */
    if (index->read != NULL)
        rocksdb_readoptions_destroy(index->read);
    if (index->write != NULL)
        rocksdb_writeoptions_destroy(index->write);
    if (index->options != NULL)
        rocksdb_options_destroy(index->options);
    nef_index_env_free(index->env);
    nef_secret_free(index->key, NEF_KEY_BYTES);
    free(index);
}

/* Not rocksdb_destroy_db: it wants to read a manifest that may be what is broken. */
nef_err nef_index_wipe(const char *path)
{
    nef_err err = NEF_OK;
    struct dirent *entry;
    DIR *dir = opendir(path);
    int fd;

    if (dir == NULL)
        return errno == ENOENT ? NEF_OK : NEF_E_IO;
    fd = dirfd(dir);
    for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) != 0 && errno != ENOENT) {
            err = NEF_E_IO;
            break;
        }
    }
    if (err == NEF_OK && (errno != 0 || fsync(fd) != 0))
        err = NEF_E_IO;
    (void)closedir(dir); /* nothing was written through it */
    return err;
}

nef_err nef_index_get(struct nef_index *index, const struct nef_index_snapshot *snapshot,
                      const void *key, size_t key_bytes, struct nef_buf *out_value)
{
    rocksdb_pinnableslice_t *slice;
    const char *value;
    size_t bytes = 0;
    char *text = NULL;
    nef_err err;

    nef_buf_reset(out_value);
    slice = rocksdb_get_pinned(index->db, snapshot == NULL ? index->read : snapshot->read, key,
                               key_bytes, &text);
    err = nef_index_error(&text);
    if (err != NEF_OK)
        goto out;
    if (slice == NULL) {
        err = NEF_E_NOT_FOUND;
        goto out;
    }
    value = rocksdb_pinnableslice_value(slice, &bytes);
    nef_buf_append(out_value, value, bytes);
    err = nef_buf_end(out_value);
out:
    rocksdb_pinnableslice_destroy(slice); /* accepts NULL */
    return err;
}

struct nef_index_snapshot *nef_index_snapshot_new(struct nef_index *index)
{
    struct nef_index_snapshot *snapshot = calloc(1, sizeof(*snapshot));

    if (snapshot == NULL)
        return NULL;
    snapshot->snapshot = rocksdb_create_snapshot(index->db);
    snapshot->read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(snapshot->read, snapshot->snapshot);
    return snapshot;
}

void nef_index_snapshot_free(struct nef_index *index, struct nef_index_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    rocksdb_readoptions_destroy(snapshot->read);
    rocksdb_release_snapshot(index->db, snapshot->snapshot);
    free(snapshot);
}

nef_err nef_index_flush(struct nef_index *index)
{
    rocksdb_flushoptions_t *options = rocksdb_flushoptions_create();
    char *text = NULL;

    rocksdb_flushoptions_set_wait(options, 1);
    rocksdb_flush(index->db, options, &text);
    rocksdb_flushoptions_destroy(options);
    return nef_index_error(&text);
}
