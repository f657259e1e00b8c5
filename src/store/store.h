/* The store: buckets, objects, uploads and users of all cells of this process. It applies committed records
 * to the cells' indexes (one deterministic state machine a cell), answers look-ups from them, reads and
 * decrypts bodies from the logs, and builds the runs that change things. It proposes nothing itself: what
 * has to be proposed (requests, compaction, checkpoints) is handed to the caller as a struct nef_run.
 *
 * Threads: each cell has one apply thread (nef_store_apply); look-ups, readers and builders from any thread.
 * What a look-up sees is the state as of the last batch applied; the caller has waited at the gate (R5). */
#ifndef NEF_STORE_STORE_H
#define NEF_STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/id.h"
#include "index/index.h"
#include "keys/keys.h"
#include "repl/outcomes.h"
#include "seglog/seglog.h"
#include "store/budget.h"
#include "store/op.h"

struct nef_store;

/* Names in a zone's data directory. */
#define NEF_STORE_LOCK_NAME      "LOCK"        /* flock'd exclusively by whoever uses the directory */
#define NEF_STORE_INDEX_KEY_NAME "index.key"   /* wrapped by the customer key */
#define NEF_STORE_INDEX_NAME     "index-%u"    /* of a cell */
#define NEF_STORE_LOG_NAME       "cell-%u"     /* directory of a cell's segments */

struct nef_store_options {
    const char *dir; /* holds index-N of each cell and the wrapped index key */
    struct nef_id region;
    uint32_t cell_count;
    uint64_t segment_bytes;
    struct nef_log *const *logs; /* cell_count; borrowed */
    struct nef_keys *keys;       /* borrowed */
    size_t cache_bytes;          /* block cache of all cells: 32 MiB */
    size_t write_buffer_bytes;   /* all cells: 32 MiB */
    uint64_t flush_log_bytes;    /* 256 MiB */
    uint32_t flush_ops;          /* 100,000 */
    uint64_t erase_within_ms;    /* 24 h */
    double live_fraction;        /* 0.5: a segment with less of it alive is rewritten */
    uint64_t checkpoint_log_bytes; /* 64 MiB: a checkpoint is due after so much log at the earliest */

    /* An op of PROPOSER was applied and readers see it (or it was a duplicate: then its first outcome).
     * Called from the cell's apply thread after the batch was written. end: the run's end offset. */
    void (*applied)(void *context, uint32_t cell, uint64_t proposer, uint64_t number,
                    const struct nef_outcome *outcome, uint64_t end);
    void *context;

    /* For nef fsck. offline: erase and unlink nothing of the logs. checkpoint_before: per cell, load only a
     * checkpoint that begins below; NULL: any. */
    bool offline;
    const uint64_t *checkpoint_before;
};

/* Opens the indexes. One that is missing, corrupt, or whose applied (epoch, offset) is not a record border
 * of its log with that epoch is wiped and rebuilt: from the latest complete checkpoint if there is one,
 * else from the log's start (nef_store_apply does the rest). */
NEF_MUST_CHECK nef_err nef_store_open(const struct nef_store_options *options,
                                      struct nef_store **out_store);
void nef_store_close(struct nef_store *store); /* flushes; no apply may run */

uint64_t nef_store_applied(struct nef_store *store, uint32_t cell);
/* Wipe this cell's index and begin again from the latest complete checkpoint (SKIP, fsck). No apply. */
NEF_MUST_CHECK nef_err nef_store_rebuild(struct nef_store *store, uint32_t cell);

/* Apply records from applied up to UNTIL (a commit offset), in batches of bounded size, in log order; flush
 * when due; unlink dropped segments once flushed. NEF_E_CORRUPT: a record below commit doesn't verify;
 * nothing at or after it was applied (repair it from the peer, then call again). NEF_E_KEY: key missing.
 * NEF_E_AGAIN: the log has a hole below and no complete checkpoint above it yet (a replica that skipped what
 * was dropped): applied is 0 until more of the log is there. */
NEF_MUST_CHECK nef_err nef_store_apply(struct nef_store *store, uint32_t cell, uint64_t until);

/* The region's key: made known by the REGION op, which is the first op of each cell and gives every cell the
 * same key. The first primary proposes it for cell 0, and for the others once that was applied.
 * out_run->bytes 0: the cell has it. NEF_E_AGAIN: cell 0 hasn't, and cell isn't 0. */
NEF_MUST_CHECK nef_err nef_store_region_next(struct nef_store *store, uint32_t cell,
                                             struct nef_run *out_run);
/* The record of a loss that an operator accepted: EPOCH is the one it made, END what the cell's log ended with then.
 * out_run->bytes 0: the cell has it. Ask only when all that the log held before was applied. */
NEF_MUST_CHECK nef_err nef_store_override_next(struct nef_store *store, uint32_t cell, uint64_t epoch, uint64_t end,
                                               struct nef_run *out_run);
/* NEF_E_AGAIN until a REGION op was applied. */
NEF_MUST_CHECK nef_err nef_store_region_key(struct nef_store *store, struct nef_id *out_region_key);

/* ---- look-ups ---- */

struct nef_bucket {
    struct nef_id id; /* also its bucket-key id */
    char name[NEF_BUCKET_NAME_MAX + 1];
    uint64_t created_ms;
    uint32_t flags;
    bool closed;
};
NEF_MUST_CHECK nef_err nef_store_bucket(struct nef_store *store, const char *name,
                                        struct nef_bucket *out_bucket); /* NEF_E_NO_BUCKET */
/* In name order; names > after. visit returns false to stop. */
NEF_MUST_CHECK nef_err nef_store_buckets(struct nef_store *store, const char *after,
                                         bool (*visit)(void *context, const struct nef_bucket *bucket),
                                         void *context);

/* What a user may do with models. Records from before there was such a thing, and users made without it: denied. */
#define NEF_AI_MODELS_BYTES 1024u
#define NEF_AI_ZONES_BYTES  256u
struct nef_user_ai {
    bool allowed;
    char models[NEF_AI_MODELS_BYTES]; /* names and commas; "*": all; "": none */
    char zones[NEF_AI_ZONES_BYTES];   /* that may compute for this user: names and commas; "*": all; "": none */
    uint64_t requests_min, tokens_min; /* in any 60 seconds, over the whole region; 0: no limit */
    uint32_t concurrency;              /* answers at once; 0: no limit */
    uint32_t weight;                   /* 1 .. NEF_AI_WEIGHT_MAX: share of an engine among those that want it */
    uint32_t priority;                 /* 0 .. NEF_AI_PRIORITY_MAX: who is refused first when capacity is short */
};

struct nef_user {
    char name[128];
    char access_key[64];
    char secret_key[128];
    char bucket[NEF_BUCKET_NAME_MAX + 1];
    bool read_only, disabled;
    struct nef_user_ai ai;
};
NEF_MUST_CHECK nef_err nef_store_user(struct nef_store *store, const char *access_key,
                                      struct nef_user *out_user); /* NEF_E_NOT_FOUND; wipe after use */
NEF_MUST_CHECK nef_err nef_store_users(struct nef_store *store,
                                       bool (*visit)(void *context, const struct nef_user *user),
                                       void *context);

uint32_t nef_store_cell(const struct nef_store *store, const struct nef_id *bucket, const void *key,
                        size_t key_bytes);
/* Leases of a user's AI budget, as of what was applied. NEF_E_NOT_FOUND: no zone ever asked for any. */
NEF_MUST_CHECK nef_err nef_store_budget(struct nef_store *store, const char *access_key,
                                        struct nef_budget_state *out_state);

NEF_MUST_CHECK nef_err nef_store_tag(struct nef_store *store, const struct nef_id *bucket,
                                     const void *key, size_t key_bytes, uint8_t out_tag[16]);

struct nef_object_part {
    struct nef_id stream;
    uint32_t part; /* number; 0 for a simple put */
    uint64_t size;
    uint8_t wrapped_dek[NEF_WRAPPED_DEK_BYTES];
    struct nef_checksum checksum;
};
/* One version of an object, complete; heap, immutable. */
struct nef_object {
    struct nef_id bucket;
    char *key; /* NUL-terminated as well */
    uint32_t key_bytes;
    uint32_t cell;
    uint64_t size;
    uint64_t modified_ms;
    char etag[NEF_ETAG_MAX + 1];
    struct nef_attrs attrs;
    struct nef_checksum checksum;
    uint32_t part_count; /* 1 for a simple put (0 if empty) */
    bool multipart;
    struct nef_object_part *parts;
};
NEF_MUST_CHECK nef_err nef_store_object(struct nef_store *store, const struct nef_bucket *bucket,
                                        const void *key, size_t key_bytes,
                                        struct nef_object **out_object); /* NEF_E_NOT_FOUND */
void nef_object_free(struct nef_object *object);

/* Listing: merges the cells; seeks past common prefixes. */
struct nef_list_query {
    struct nef_text prefix;
    struct nef_text delimiter; /* "" none */
    struct nef_text after;     /* keys (and common prefixes) > after */
    uint32_t max;              /* keys and common prefixes together; 0..NEF_LIST_MAX */
};
struct nef_list_entry {
    const char *key; /* or the common prefix */
    uint32_t key_bytes;
    bool is_prefix;
    uint64_t size;
    uint64_t modified_ms;
    const char *etag;
    struct nef_checksum checksum;
};
struct nef_list { /* entries and their texts in one arena; nef_list_free */
    uint32_t count;
    struct nef_list_entry *entries;
    bool truncated;
    void *memory;
};
NEF_MUST_CHECK nef_err nef_store_list(struct nef_store *store, const struct nef_bucket *bucket,
                                      const struct nef_list_query *query, struct nef_list *out_list);
void nef_list_free(struct nef_list *list);

struct nef_upload {
    struct nef_id id;
    struct nef_id bucket;
    char *key;
    uint32_t key_bytes;
    uint64_t created_ms;
    struct nef_attrs attrs;
    struct nef_checksum checksum; /* kind and scope chosen */
    char owner[64];
};
/* NEF_E_NO_UPLOAD if it isn't there or is of another key. */
NEF_MUST_CHECK nef_err nef_store_upload(struct nef_store *store, const struct nef_bucket *bucket,
                                        const void *key, size_t key_bytes, const struct nef_id *upload,
                                        struct nef_upload **out_upload);
void nef_upload_free(struct nef_upload *upload);
/* Uploads in order of (key, id) with prefix, (key, id) > (after_key, after_id); each is valid for the call
 * only. visit returns false to stop. Merges the cells. */
NEF_MUST_CHECK nef_err nef_store_uploads(struct nef_store *store, const struct nef_bucket *bucket,
                                         struct nef_text prefix, struct nef_text after_key,
                                         const struct nef_id *after_id,
                                         bool (*visit)(void *context, const struct nef_upload *upload),
                                         void *context);
struct nef_part {
    uint32_t part;
    uint64_t size;
    uint64_t modified_ms;
    uint8_t md5[16];
    struct nef_checksum checksum;
};
NEF_MUST_CHECK nef_err nef_store_parts(struct nef_store *store, const struct nef_upload *upload,
                                       uint32_t after_part,
                                       bool (*visit)(void *context, const struct nef_part *part),
                                       void *context);

/* ---- reading bodies ---- */

/* Reader of [offset, offset+bytes) of one object, which must outlive it; pins the segments it reads, so
 * that an object deleted meanwhile is read to its end (beyond 4 GiB ahead: NEF_E_NOT_FOUND). One thread at
 * a time. NEF_E_RANGE; NEF_E_KEY; NEF_E_DAMAGED: the index is wrong. */
struct nef_body;
NEF_MUST_CHECK nef_err nef_body_open(struct nef_store *store, const struct nef_object *object,
                                     uint64_t offset, uint64_t bytes, struct nef_body **out_body);
/* The next bytes, at most max (decrypts whole pieces; straight into out where a whole piece fits).
 * *out_bytes 0 at the end. NEF_E_CORRUPT: a piece doesn't verify; *out_bad_cell / *out_bad_offset say
 * where (repair, then call again). NEF_E_NOT_FOUND: it was deleted and dropped meanwhile. */
NEF_MUST_CHECK nef_err nef_body_read(struct nef_body *body, uint8_t *out, size_t max, size_t *out_bytes,
                                     uint32_t *out_bad_cell, uint64_t *out_bad_offset);
/* For threads that must not wait for the disk: after nef_body_now(body, true) a read gives NEF_E_AGAIN where it would
 * have to. Then nef_body_load, in a thread that may wait, brings what the next read needs into the reader's memory;
 * errors as of nef_body_read. The index is asked in either case (when a window begins, or a piece has moved). */
void nef_body_now(struct nef_body *body, bool now);
NEF_MUST_CHECK nef_err nef_body_load(struct nef_body *body, uint32_t *out_bad_cell, uint64_t *out_bad_offset);
void nef_body_close(struct nef_body *body);

/* ---- maintenance; what to propose next, if anything. One maintenance thread, on the primary only. ---- */

/* Next runs for CELL, at most max of them: erasures that are due, aborts of streams whose proposer is not among
 * `alive` (process starts that may still finish them), bucket repairs (orphans of an interrupted create or delete,
 * older than 60 s). Each kind has its turn every few calls. now_ms: wall time. */
NEF_MUST_CHECK nef_err nef_store_maintain(struct nef_store *store, uint32_t cell, uint64_t now_ms,
                                          const uint64_t *alive, uint32_t alive_count,
                                          struct nef_run *out_runs, uint32_t max, uint32_t *out_count);
/* Compaction: next runs for CELL, at most max (> 0) of them: drops of dead segments, copies of what is alive in mostly
 * dead ones, and `moved` for copies of earlier calls that were applied since. Call it again when these runs have their
 * outcomes, whatever they are. What the copies cost is bounded by cost_max, but for the last: their bytes, and
 * NEF_COMPACT_RECORD_COST each, since a small one costs a log write, an outcome and two rows like a large one. */
#define NEF_COMPACT_RECORD_COST 4096u
NEF_MUST_CHECK nef_err nef_store_compact(struct nef_store *store, uint32_t cell, uint64_t now_ms, uint64_t cost_max,
                                         struct nef_run *out_runs, uint32_t max, uint32_t *out_count,
                                         uint64_t *out_cost);
/* Is so much log written since the last checkpoint ended that the next one is worth its cost? */
bool nef_store_checkpoint_due(struct nef_store *store, uint32_t cell);
/* First run: CHECKPOINT_BEGIN; once it has been applied the following calls give the ROWS of the snapshot
 * that its apply took, at last the END. out_run->bytes 0: wait for the begin to be applied. out_done after END. */
NEF_MUST_CHECK nef_err nef_store_checkpoint_next(struct nef_store *store, uint32_t cell, bool start,
                                                 struct nef_run *out_run, bool *out_done);

struct nef_store_cell_stats {
    uint64_t objects, bytes_live, bytes_log, segments, streams_open;
    uint64_t checkpoint_offset, checkpoint_end; /* of the latest complete one */
};
void nef_store_stats(struct nef_store *store, uint32_t cell, struct nef_store_cell_stats *out_stats);

#endif
