/* What the files of index/ share: the structs, and what they need of RocksDB that its C API does not
 * offer (encrypted_env.cc). */
#ifndef NEF_INDEX_INDEX_INTERNAL_H
#define NEF_INDEX_INDEX_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "rocksdb/c.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NEF_INDEX_PREFIX_BYTES 4096u /* of each file: magic, IV, check */

struct nef_index_env;    /* an encrypting environment under one key */
struct nef_index_budget; /* memory of all memtables of a process */

/* key: 32 bytes; borrowed, must outlive the environment. NULL: out of memory. Free it only after the
 * database that uses it was closed. */
struct nef_index_env *nef_index_env_new(const uint8_t *key);
void nef_index_env_free(struct nef_index_env *env);

struct nef_index_budget *nef_index_budget_new(size_t bytes);
void nef_index_budget_free(struct nef_index_budget *budget);

/* Make OPTIONS use the environment, the shared budget, and a logger that writes nothing. False if this
 * librocksdb's rocksdb_options_t isn't laid out as we know it (then nothing may be opened: it would
 * not be encrypted). */
bool nef_index_options_attach(rocksdb_options_t *options, struct nef_index_env *env,
                              struct nef_index_budget *budget);

#ifdef __cplusplus
}
#else

#include "index/index.h"

struct nef_index {
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_readoptions_t *read;
    rocksdb_writeoptions_t *write;
    struct nef_index_env *env;
    uint8_t *key; /* 32 bytes of locked memory that env uses */
};

struct nef_index_snapshot {
    const rocksdb_snapshot_t *snapshot;
    rocksdb_readoptions_t *read;
};

/* Code of an error text of the C API, which it frees and sets to NULL; NEF_OK for NULL. */
NEF_MUST_CHECK nef_err nef_index_error(char **text);

#endif

#endif
