/* What the files of store/ share; nobody else includes it.
 *
 * struct nef_cell has three kinds of fields. Those of the apply thread (batch, outcomes, segment counters)
 * are touched by nobody else. `index` may be read from any thread under index_lock held shared, which only
 * nef_store_rebuild takes exclusively. What maintenance and apply exchange is under `lock`. Lock order:
 * index_lock, then lock. index_lock is held shared across index reads and the visits of a listing (which may
 * read again: the lock prefers readers); neither is held when options.applied is called. */
#ifndef NEF_STORE_INTERNAL_H
#define NEF_STORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "base/assert.h"
#include "store/rows.h"
#include "store/store.h"

#define NEF_FREE_PIECES_MAX  8192u /* freed by one op; the streams of what is more become orphans (S) */
#define NEF_BATCH_RUNS_MAX   512u
#define NEF_BATCH_BYTES_MAX  ((size_t)4 << 20)
#define NEF_MOVES_MAX        256u  /* compaction: copies that wait for their `moved` */
#define NEF_REPAIR_AFTER_MS  60000u /* what an interrupted create or delete of a bucket left */

struct nef_segment_count {
    uint64_t segment;
    struct nef_row_segment row;
    bool dirty; /* it is in cell->dirty */
};

/* A body that compaction copies. from: where X named it; to: where the copy was applied (0: not yet). */
struct nef_move {
    struct nef_id stream;
    uint32_t piece;
    uint64_t from, to;
    uint64_t started_ms; /* 0: slot is free */
};

/* A segment that compaction leaves alone for a while. */
struct nef_skip {
    uint64_t segment; /* its number + 1; 0: free */
    uint64_t until_ms;
};
#define NEF_SKIPS_MAX 16u /* more that are damaged only take turns */

enum nef_checkpoint_state {
    NEF_CKPT_IDLE,
    NEF_CKPT_BEGUN,    /* BEGIN was handed out */
    NEF_CKPT_SNAPSHOT, /* BEGIN was applied: snapshot and begin are set */
    NEF_CKPT_ENDING,   /* all rows were handed out; END goes once apply has seen them */
};

struct nef_applied_note { /* told to options.applied after the batch was written */
    uint64_t proposer, number, end;
    struct nef_outcome outcome;
};

struct nef_cell {
    struct nef_store *store;
    uint32_t number;
    struct nef_log *log;
    char *path; /* of the index */

    pthread_rwlock_t index_lock; /* exclusively: only to replace `index` */
    struct nef_index *index;
    _Atomic uint64_t applied; /* what readers see; release after the batch was written */

    /* the apply thread's */
    struct nef_index_batch *batch;
    size_t batch_bytes;
    uint32_t batch_runs;
    struct nef_row_applied at; /* as of the batch */
    struct nef_row_region region;
    bool has_region, totals_dirty, checkpoint_dirty;
    struct nef_row_totals totals;
    struct nef_row_checkpoint checkpoint;
    uint32_t bucket_count, user_count;
    struct nef_id open_bucket; /* found open last, and unchanged since; zero: none */
    bool buckets_dirty;        /* the batch changes buckets */
    void *outcomes_memory;
    struct nef_outcomes *outcomes;
    struct nef_segment_count *segments; /* ascending by segment */
    uint32_t segment_count, segment_capacity;
    uint64_t *dirty; /* numbers of the segments whose counters changed in this batch */
    uint32_t dirty_count, dirty_capacity;
    uint32_t stats_skipped;
    struct nef_applied_note *notes; /* NEF_BATCH_RUNS_MAX */
    uint32_t note_count;
    struct nef_id *forget; /* bucket keys to forget once the batch is written */
    uint32_t forget_count, forget_capacity;
    bool stale;        /* a batch failed half-way: reload before the next */
    bool waiting;      /* the log has a hole and no complete checkpoint above it yet */
    uint64_t search_at, search_last, search_epoch; /* waiting: how far the log was searched, and the last
                                                    * record there, which tells if it was cut since */
    uint64_t *erase; /* bodies to punch once the batch is written */
    uint32_t erase_count, erase_capacity;
    uint64_t erase_cursor; /* where the sweep over E rows goes on */
    bool flush_wanted; /* segments were dropped */
    uint64_t flush_offset, flush_ops;
    uint8_t *chunk; /* read window over the log */
    uint64_t chunk_at;
    uint64_t chunk_bytes, chunk_ahead;
    /* scratch: a row read; a row read in between; an op's fields; a row to write; an object to write */
    struct nef_buf value, value2, fields, row, object;

    /* between apply and maintenance */
    pthread_mutex_t lock;
    struct nef_move moves[NEF_MOVES_MAX];
    uint32_t move_count;
    struct {
        enum nef_checkpoint_state state;
        struct nef_id id;
        uint64_t begin;
        struct nef_index_snapshot *snapshot;
        struct nef_index_iter *iter;
        struct nef_hash *hash;
        uint32_t pieces;      /* handed out */
        uint32_t pieces_seen; /* applied in order */
        uint64_t rows;
        bool lost; /* another checkpoint began meanwhile */
    } ckpt;
    struct nef_store_cell_stats stats; /* as of the last batch */
    uint64_t dead_ms; /* the oldest small dead body in full segments that no checkpoint covers; 0: none */
    uint64_t now_ms;  /* wall time of the last maintenance; 0: none yet */

    /* the maintenance thread's */
    uint64_t scan_segment, scan_offset; /* the segment being rewritten; scan_offset 0: none */
    bool scan_damaged;                  /* something in it couldn't be read */
    bool look_wanted;                   /* it was read through: choose another */
    uint64_t look_ms;                   /* the last look at all segments */
    struct nef_skip skipped[NEF_SKIPS_MAX];
    uint32_t skip_next;
    uint64_t dead_cursor;               /* over E rows */
    struct nef_id stream_cursor;        /* over S rows */
    uint64_t rounds;
};

/* Buckets by name as look-ups found them: nearly every request asks for one. An entry counts only as long as
 * no batch that changes buckets was written since before it was read. */
#define NEF_BUCKETS_CACHED 64u
struct nef_bucket_cache {
    pthread_mutex_t lock;
    _Atomic uint64_t generation;
    struct {
        uint64_t generation; /* 0: empty */
        struct nef_bucket bucket;
    } at[NEF_BUCKETS_CACHED];
};

struct nef_store {
    struct nef_store_options options;
    struct nef_bucket_cache buckets;
    char *dir;
    struct nef_index_shared *shared;
    uint8_t *index_key; /* 32 bytes of locked memory */
    pthread_mutex_t region_lock;
    bool has_region;
    struct nef_id region_key;           /* region_lock */
    struct nef_row_region region_draft; /* region_lock: made by nef_store_region_next, until applied */
    bool has_draft;
    struct nef_cell *cells;
};

/* ---- reading the index: any thread ---- */

void nef_cell_read_begin(struct nef_cell *cell); /* index_lock shared */
void nef_cell_read_end(struct nef_cell *cell);
/* Begin reading: rows from FROM up to TO (without it), not positioned yet. NULL: there is no index now, or no memory.
 * Either way nef_cell_rows_end ends it. */
struct nef_index_iter *nef_cell_rows(struct nef_cell *cell, const struct nef_row_key *from,
                                     const struct nef_row_key *to);
/* ERR, or else what the iterator met. IT may be NULL: NEF_E_UNAVAILABLE. */
NEF_MUST_CHECK nef_err nef_cell_rows_end(struct nef_cell *cell, struct nef_index_iter *it, nef_err err);
/* One row of what was written. NEF_E_NOT_FOUND. */
/* Bucket rows of this cell's index changed: what look-ups cached is void. */
void nef_buckets_changed(struct nef_cell *cell);
NEF_MUST_CHECK nef_err nef_cell_get(struct nef_cell *cell, const struct nef_row_key *k,
                                    struct nef_buf *out_value);
/* Where a piece lies now; NEF_E_NOT_FOUND. For body.c. */
NEF_MUST_CHECK nef_err nef_store_piece(struct nef_store *store, uint32_t cell,
                                       const struct nef_id *stream, uint32_t piece,
                                       struct nef_row_piece *out_piece);

/* ---- store.c ---- */

/* (Re)read what apply keeps in memory from the index. */
NEF_MUST_CHECK nef_err nef_cell_load(struct nef_cell *cell);
/* Make region and bucket keys of the cell's rows known. */
NEF_MUST_CHECK nef_err nef_cell_load_keys(struct nef_cell *cell);
void nef_store_region_known(struct nef_store *store, const struct nef_id *region_key);
void nef_cell_stats_update(struct nef_cell *cell); /* apply thread, after a batch */
/* Punch the bodies of cell->erase; what is pinned now is left to a later sweep. */
NEF_MUST_CHECK nef_err nef_cell_erase(struct nef_cell *cell);
/* Flush, then unlink segments that no row needs. */
NEF_MUST_CHECK nef_err nef_cell_flush(struct nef_cell *cell);

/* ---- checkpoint.c ---- */

/* Fill an empty index from the latest complete checkpoint in the log, or for its very beginning. When the
 * log has neither (a returning replica that skipped what was dropped), cell->waiting is set. */
NEF_MUST_CHECK nef_err nef_checkpoint_load(struct nef_cell *cell);
/* While waiting: look for a checkpoint that ends below UNTIL, and load it. */
NEF_MUST_CHECK nef_err nef_checkpoint_wait(struct nef_cell *cell, uint64_t until);
void nef_checkpoint_forget(struct nef_cell *cell); /* under lock: give up what is being written */
/* From apply: BEGIN was written; a ROWS record came; another checkpoint's BEGIN. */
void nef_checkpoint_begun(struct nef_cell *cell, const struct nef_id *id, uint64_t begin);
void nef_checkpoint_rows_seen(struct nef_cell *cell, const struct nef_id *id, uint32_t pieces);

/* ---- compact.c, called by apply ---- */

/* A copy of a piece that exists already was applied at TO. */
void nef_compact_copied(struct nef_cell *cell, const struct nef_id *stream, uint32_t piece,
                        uint64_t to);

#endif
