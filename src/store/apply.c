/* The apply loop: committed records, in log order, into the cell's index.
 *
 *   log --> window --> run (1 to 4 records) --> batch --> RocksDB --> options.applied
 *
 * 1. A run counts once and as a whole. Its proposal id is looked up first; one that was applied before
 *    returns its first outcome, and its data records are dead on arrival.
 * 2. Every batch holds row A (up to where), so a crash leaves the state as of some run's end.
 * 3. A record is checked before any row is written for its run: header, place, epoch, and the body's CRC
 *    of everything but bodies of pieces and checkpoint rows, which apply doesn't need and doesn't read.
 * 4. Rows depend on the log only: time is the record's, and batch borders leave no trace. Ops that walk
 *    over rows (close, complete, abort, drop) begin with an empty batch, so that an iterator sees all.
 * 5. After an error of this process the batch is thrown away and what is kept in memory is read again from
 *    the index, so memory and rows never part.
 *
 * Speed: the window is read ahead in growing chunks while records are small, and skips over large bodies;
 * many runs share one RocksDB write. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "store/apply.h"
#include "store/op_internal.h"

/* The largest record, and what a read ahead may bring beyond. */
#define CHUNK_BYTES     (NEF_RECORD_HEADER_BYTES + NEF_RECORD_BODY_MAX + 4096u)
#define CHUNK_AHEAD_MIN 4096u
#define CHUNK_AHEAD_MAX ((uint64_t)1 << 20)

struct run {
    struct nef_record records[NEF_PROPOSAL_RECORDS_MAX];
    uint32_t count;
    uint64_t end; /* place of what follows it */
    uint8_t wrapped_dek[NEF_WRAPPED_DEK_BYTES];
    bool has_dek;
    uint32_t op; /* index of its op; count if there is none */
    bool malformed;
};

/* ---- the window ---- */

/* BYTES bytes at OFFSET, all below UNTIL and in one segment. Valid until the next call. */
static nef_err window(struct nef_cell *cell, uint64_t offset, uint64_t bytes, uint64_t until,
                      const uint8_t **out)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes;
    uint64_t segment_end = (offset / segment_bytes + 1) * segment_bytes;
    uint64_t limit = NEF_MIN(until, segment_end);
    uint64_t want;
    nef_err err;

    if (offset >= cell->chunk_at && offset + bytes <= cell->chunk_at + cell->chunk_bytes) {
        *out = cell->chunk + (offset - cell->chunk_at);
        return NEF_OK;
    }
    if (offset + bytes > limit || bytes > CHUNK_BYTES)
        return NEF_E_CORRUPT; /* a record that claims to go past its segment or past commit */
    /* All of the last window was used: read further ahead. Some of it was skipped: less far. */
    if (offset >= cell->chunk_at && offset <= cell->chunk_at + cell->chunk_bytes)
        cell->chunk_ahead = NEF_MIN(cell->chunk_ahead * 2, CHUNK_AHEAD_MAX);
    else
        cell->chunk_ahead = CHUNK_AHEAD_MIN;
    want = NEF_MAX(bytes, cell->chunk_ahead);
    want = NEF_MIN(NEF_MIN(want, limit - offset), CHUNK_BYTES);
    cell->chunk_bytes = 0;
    err = nef_log_read(cell->log, offset, cell->chunk, want);
    if (err != NEF_OK)
        return err;
    cell->chunk_at = offset;
    cell->chunk_bytes = want;
    *out = cell->chunk;
    return NEF_OK;
}

static bool body_is_needed(uint16_t type)
{
    return type != NEF_RECORD_DATA && type != NEF_RECORD_CHECKPOINT_ROWS && type != NEF_RECORD_PAD &&
           type != NEF_RECORD_MARK;
}

/* One record, checked; its body too if apply needs it (then *out_body). */
static nef_err record_at(struct nef_cell *cell, uint64_t offset, uint64_t until,
                         struct nef_record *out, const uint8_t **out_body)
{
    const uint8_t *bytes;
    nef_err err = window(cell, offset, NEF_RECORD_HEADER_BYTES, until, &bytes);

    if (err != NEF_OK)
        return err;
    err = nef_record_decode(bytes, out);
    if (err == NEF_E_TORN) { /* an erase that a crash cut short leaves half a header; seglog knows it */
        uint64_t next;

        err = nef_log_record(cell->log, offset, out, NULL, &next);
    }
    if (err != NEF_OK)
        return err == NEF_E_TORN ? NEF_E_CORRUPT : err;
    if (out->cell != cell->number || out->offset != offset)
        return NEF_E_CORRUPT;
    if (!body_is_needed(out->type))
        return NEF_OK;
    err = window(cell, offset, nef_record_bytes(out->body_bytes), until, &bytes);
    if (err != NEF_OK)
        return err;
    *out_body = bytes + NEF_RECORD_HEADER_BYTES;
    return NEF_OK;
}

/* Read the run at OFFSET and check it. NEF_E_RANGE: its end is not below UNTIL. */
static nef_err run_read(struct nef_cell *cell, uint64_t offset, uint64_t until, struct run *run)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes;
    uint64_t epoch = cell->at.epoch;

    run->count = 0;
    run->has_dek = run->malformed = false;
    run->op = NEF_PROPOSAL_RECORDS_MAX;
    for (;;) {
        struct nef_record *r = &run->records[run->count];
        const uint8_t *body = NULL;
        uint64_t end;
        nef_err err = record_at(cell, offset, until, r, &body);

        if (err != NEF_OK)
            return err;
        end = offset + nef_record_bytes(r->body_bytes);
        if (r->epoch < epoch || (end - 1) / segment_bytes != offset / segment_bytes)
            return NEF_E_CORRUPT;
        if (end > until)
            return NEF_E_RANGE;
        if (body != NULL) {
            err = nef_record_check_body(r, body);
            if (err != NEF_OK)
                return err;
        }
        epoch = r->epoch;
        if (run->count > 0 && (r->proposer != run->records[0].proposer ||
                               r->number != run->records[0].number || r->run_index != run->count))
            return NEF_E_CORRUPT; /* the primary checked the run before it was appended */
        if (r->type == NEF_RECORD_KEY && r->body_bytes == NEF_WRAPPED_DEK_BYTES && !run->has_dek) {
            memcpy(run->wrapped_dek, body, NEF_WRAPPED_DEK_BYTES);
            run->has_dek = true;
        } else if (r->type == NEF_RECORD_KEY) {
            run->malformed = true;
        }
        if (nef_record_is_op(r->type)) {
            run->malformed = run->malformed || run->op != NEF_PROPOSAL_RECORDS_MAX;
            run->op = run->count;
        }
        run->count++;
        offset = nef_log_end_at(end, segment_bytes);
        if (r->type == NEF_RECORD_PAD || r->type == NEF_RECORD_MARK ||
            (r->flags & NEF_RECORD_LAST) != 0)
            break;
        if (run->count == NEF_PROPOSAL_RECORDS_MAX)
            return NEF_E_CORRUPT;
        if (offset >= until)
            return NEF_E_RANGE;
    }
    run->end = offset;
    return NEF_OK;
}

/* ---- ops ---- */

static bool starts_with_empty_batch(uint16_t type)
{
    return type == NEF_RECORD_BUCKET_CLOSE || type == NEF_RECORD_USER_PUT || type == NEF_RECORD_UPLOAD_COMPLETE ||
           type == NEF_RECORD_UPLOAD_ABORT || type == NEF_RECORD_DROP;
}

/* Decrypt and decode. What can't be read although its CRC is good was written so by its proposer; every
 * replica refuses it the same way. */
static nef_err op_open(struct nef_apply *a, const uint8_t *body, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    const struct nef_record *r = a->record;
    struct nef_id key;
    nef_err err;

    *out_code = NEF_OK;
    if (!nef_op_is_clear(r->type)) {
        memcpy(key.bytes, r->bucket_key_id, sizeof key.bytes);
        if (a->wrapped_dek == NULL) {
            *out_code = NEF_E_PROTOCOL;
            return NEF_OK;
        }
        if (!cell->has_region || !nef_id_equal(&key, &cell->region.region_key)) {
            struct nef_row_key k;

            /* The row decides, not what this process still has in its memory of keys. */
            nef_key_id(&k, 'B', &key);
            err = nef_batch_get(cell, &k, &cell->value2);
            if (err == NEF_E_NOT_FOUND) {
                *out_code = NEF_E_NO_BUCKET;
                return NEF_OK;
            }
            if (err != NEF_OK)
                return err;
        }
    }
    err = nef_op_open(cell->store->options.keys, r, body, a->wrapped_dek, &cell->fields, &a->op,
                      &a->inline_at, NULL);
    if (err == NEF_E_KEY && !nef_op_is_clear(r->type)) {
        err = nef_apply_load_key(cell, &key);
        if (err == NEF_OK)
            err = nef_op_open(cell->store->options.keys, r, body, a->wrapped_dek, &cell->fields,
                              &a->op, &a->inline_at, NULL);
    }
    if (err == NEF_E_PROTOCOL || err == NEF_E_CORRUPT || err == NEF_E_VERSION) {
        nef_trace(NEF_TRACE_ERROR, "op_unreadable", "u:cell", (uint64_t)cell->number, "u:offset",
                  r->offset, "s:type", nef_record_type_name(r->type), "e:error", err, NULL);
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    if (err == NEF_OK)
        NEF_ASSERT(a->inline_at <= r->body_bytes);
    return err;
}

/* What names buckets and users is sealed under the region's key, ops on objects under their bucket's. */
static bool is_region_op(uint16_t type)
{
    return type == NEF_RECORD_BUCKET_PUT || type == NEF_RECORD_USER_PUT || type == NEF_RECORD_BUDGET;
}

static nef_err op_apply(struct nef_apply *a, nef_err *out_code)
{
    *out_code = NEF_OK;
    if (is_region_op(a->record->type) && !nef_id_equal(&a->op.bucket_key, &a->cell->region.region_key)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    switch (a->record->type) {
    case NEF_RECORD_REGION: return nef_apply_region(a, out_code);
    case NEF_RECORD_BUCKET_PUT: return nef_apply_bucket_put(a, out_code);
    case NEF_RECORD_BUCKET_CLOSE: return nef_apply_bucket_close(a, out_code);
    case NEF_RECORD_BUCKET_REOPEN: return nef_apply_bucket_reopen(a, out_code);
    case NEF_RECORD_BUCKET_DELETE: return nef_apply_bucket_delete(a, out_code);
    case NEF_RECORD_USER_PUT: return nef_apply_user_put(a, out_code);
    case NEF_RECORD_BUDGET: return nef_apply_budget(a, out_code);
    case NEF_RECORD_OBJECT_PUT: return nef_apply_object_put(a, out_code);
    case NEF_RECORD_OBJECT_DELETE: return nef_apply_object_delete(a, out_code);
    case NEF_RECORD_UPLOAD_CREATE: return nef_apply_upload_create(a, out_code);
    case NEF_RECORD_PART_PUT: return nef_apply_part_put(a, out_code);
    case NEF_RECORD_UPLOAD_COMPLETE: return nef_apply_upload_complete(a, out_code);
    case NEF_RECORD_UPLOAD_ABORT: return nef_apply_upload_abort(a, out_code);
    case NEF_RECORD_STREAM_ABORT: return nef_apply_stream_abort(a, out_code);
    case NEF_RECORD_MOVED: return nef_apply_moved(a, out_code);
    case NEF_RECORD_ERASE: return nef_apply_erase(a, out_code);
    case NEF_RECORD_DROP: return nef_apply_drop(a, out_code);
    case NEF_RECORD_CHECKPOINT_BEGIN: return nef_apply_checkpoint_begin(a, out_code);
    case NEF_RECORD_CHECKPOINT_END: return nef_apply_checkpoint_end(a, out_code);
    case NEF_RECORD_OVERRIDE: return nef_apply_override(a, out_code);
    default:
        *out_code = NEF_E_UNSUPPORTED; /* reserved types */
        return NEF_OK;
    }
}

static nef_err op_run(struct nef_cell *cell, const struct run *run, uint64_t until, nef_err *out_code)
{
    const struct nef_record *r = &run->records[run->op];
    struct nef_apply a = {.cell = cell,
                          .record = r,
                          .time_ms = NEF_MAX(r->time_ms, 1),
                          .wrapped_dek = run->has_dek ? run->wrapped_dek : NULL};
    const uint8_t *body;
    nef_err err;

    err = window(cell, r->offset, nef_record_bytes(r->body_bytes), until, &body);
    if (err != NEF_OK)
        return err;
    err = op_open(&a, body + NEF_RECORD_HEADER_BYTES, out_code);
    if (err == NEF_OK && *out_code == NEF_OK)
        err = op_apply(&a, out_code);
    /* A refused op's body will never be asked for: free it at once. */
    if (err == NEF_OK && *out_code != NEF_OK && !nef_op_is_clear(r->type) && !nef_id_is_zero(&r->stream))
        err = nef_free_open_stream(cell, &r->stream, a.time_ms);
    return err;
}

/* ---- runs ---- */

static nef_err outcome_put(struct nef_cell *cell, uint64_t proposer, const struct nef_outcome *outcome)
{
    struct nef_row_key k;
    uint64_t evicted = 0;

    nef_outcomes_put(cell->outcomes, proposer, outcome, outcome->offset, &evicted);
    if (evicted != 0) { /* once per process start, long ago: delete its rows unseen */
        for (uint32_t slot = 0; slot < NEF_OUTCOMES_KEPT; slot++) {
            nef_key_outcome(&k, evicted, slot);
            nef_batch_delete(cell, &k);
        }
    }
    nef_key_outcome(&k, proposer, (uint32_t)(outcome->number % NEF_OUTCOMES_KEPT));
    nef_row_outcome_put(&cell->row, outcome);
    return nef_batch_put(cell, &k, &cell->row);
}

static nef_err segment_totals(struct nef_cell *cell, const struct run *run)
{
    for (uint32_t i = 0; i < run->count; i++) {
        struct nef_segment_count *s = nef_counts_change(cell, run->records[i].offset);

        if (s == NULL)
            return NEF_E_NOMEM;
        s->row.total += nef_record_bytes(run->records[i].body_bytes);
    }
    return NEF_OK;
}

static nef_err run_apply(struct nef_cell *cell, const struct run *run, uint64_t until)
{
    const struct nef_record *first = &run->records[0];
    bool proposed = first->proposer != 0 && first->number != 0;
    struct nef_outcome outcome = {.number = first->number, .offset = first->offset};
    bool duplicate = proposed && nef_outcomes_find(cell->outcomes, first->proposer, first->number,
                                                   &outcome);
    nef_err code = NEF_OK;
    nef_err err = segment_totals(cell, run);

    for (uint32_t i = 0; err == NEF_OK && i < run->count; i++) {
        const struct nef_record *r = &run->records[i];

        if (r->type == NEF_RECORD_DATA)
            err = nef_apply_data(cell, r, duplicate || run->malformed);
        else if (r->type == NEF_RECORD_CHECKPOINT_ROWS && !duplicate)
            nef_apply_checkpoint_rows(cell, r);
    }
    if (err == NEF_OK && run->op < run->count && !duplicate) {
        code = NEF_E_PROTOCOL;
        if (!run->malformed)
            err = op_run(cell, run, until, &code);
    }
    if (err == NEF_OK && proposed && !duplicate) {
        outcome.code = code;
        err = outcome_put(cell, first->proposer, &outcome);
    }
    if (err != NEF_OK)
        return err;
    cell->at.epoch = run->records[run->count - 1].epoch;
    cell->at.last = run->records[run->count - 1].offset;
    cell->at.offset = run->end;
    cell->batch_runs++;
    if (proposed)
        cell->notes[cell->note_count++] =
            (struct nef_applied_note){first->proposer, first->number, run->end, outcome};
    return NEF_OK;
}

/* ---- batches ---- */

static nef_err batch_state_rows(struct nef_cell *cell)
{
    struct nef_row_key k;
    nef_err err = NEF_OK;

    for (uint32_t i = 0; err == NEF_OK && i < cell->dirty_count; i++) {
        uint32_t at;
        struct nef_segment_count *s = nef_counts_find(cell, cell->dirty[i], &at);

        if (s == NULL)
            continue; /* dropped in this batch */
        nef_key_u64(&k, 'L', s->segment);
        nef_row_segment_put(&cell->row, &s->row);
        err = nef_batch_put(cell, &k, &cell->row);
        s->dirty = false;
    }
    if (err == NEF_OK && cell->totals_dirty) {
        nef_key_kind(&k, 'T');
        nef_row_totals_put(&cell->row, &cell->totals);
        err = nef_batch_put(cell, &k, &cell->row);
    }
    if (err == NEF_OK && cell->checkpoint_dirty) {
        nef_key_kind(&k, 'C');
        nef_row_checkpoint_put(&cell->row, &cell->checkpoint);
        err = nef_batch_put(cell, &k, &cell->row);
    }
    if (err == NEF_OK) {
        nef_key_kind(&k, 'A');
        nef_row_applied_put(&cell->row, &cell->at);
        err = nef_batch_put(cell, &k, &cell->row);
    }
    return err;
}

static void batch_clear(struct nef_cell *cell)
{
    nef_index_batch_clear(cell->batch);
    cell->batch_bytes = 0;
    cell->batch_runs = 0;
    cell->note_count = 0;
    cell->forget_count = 0;
    cell->erase_count = 0;
    cell->dirty_count = 0;
}

/* A deleted bucket's key goes when no cell has the bucket any more: one that lags may still have to open
 * ops that are sealed under it. (If it loads the bucket a moment later, op_open loads the key again.) */
static void forget_keys(struct nef_cell *cell)
{
    struct nef_store *store = cell->store;

    for (uint32_t i = 0; i < cell->forget_count; i++) {
        struct nef_row_key k;
        bool known = false;

        nef_key_id(&k, 'B', &cell->forget[i]);
        for (uint32_t c = 0; c < store->options.cell_count && !known; c++)
            known = nef_cell_get(&store->cells[c], &k, &cell->value2) != NEF_E_NOT_FOUND;
        if (!known)
            nef_keys_forget(store->options.keys, &cell->forget[i]);
    }
}

nef_err nef_batch_commit(struct nef_cell *cell)
{
    const struct nef_store_options *o = &cell->store->options;
    nef_err err;

    if (cell->batch_runs == 0)
        return NEF_OK;
    err = batch_state_rows(cell);
    if (err == NEF_OK)
        err = nef_index_write(cell->index, cell->batch);
    if (err != NEF_OK)
        return err;
    if (cell->buckets_dirty)
        nef_buckets_changed(cell);
    cell->totals_dirty = false;
    if (cell->checkpoint_dirty)
        nef_checkpoint_rows_seen(cell, &cell->checkpoint.pending, cell->checkpoint.pending_pieces);
    cell->checkpoint_dirty = false;
    if (cell->has_region)
        nef_store_region_known(cell->store, &cell->region.region_key);
    nef_cell_stats_update(cell);
    atomic_store_explicit(&cell->applied, cell->at.offset, memory_order_release);
    for (uint32_t i = 0; o->applied != NULL && i < cell->note_count; i++)
        o->applied(o->context, cell->number, cell->notes[i].proposer, cell->notes[i].number,
                   &cell->notes[i].outcome, cell->notes[i].end);
    forget_keys(cell);
    err = nef_cell_erase(cell);
    cell->flush_ops += cell->batch_runs;
    batch_clear(cell);
    return err;
}

static nef_err flush_if_due(struct nef_cell *cell)
{
    const struct nef_store_options *o = &cell->store->options;

    if (cell->at.offset - cell->flush_offset < o->flush_log_bytes &&
        cell->flush_ops < o->flush_ops && !cell->flush_wanted)
        return NEF_OK;
    return nef_cell_flush(cell);
}

/* Throw away the batch; memory follows the index again. */
static nef_err reload(struct nef_cell *cell)
{
    nef_err err;

    batch_clear(cell);
    err = nef_cell_load(cell);
    cell->stale = err != NEF_OK;
    return err;
}

nef_err nef_store_apply(struct nef_store *store, uint32_t number, uint64_t until)
{
    struct nef_cell *cell = &store->cells[number];
    struct run run;
    nef_err err = NEF_OK;

    NEF_ASSERT(number < store->options.cell_count);
    if (cell->stale)
        err = reload(cell);
    if (err == NEF_OK && cell->waiting)
        err = nef_checkpoint_wait(cell, until);
    if (err != NEF_OK)
        return err;
    cell->chunk_bytes = 0; /* a repair may have changed what was read before */
    while (cell->at.offset < until) {
        uint16_t op;

        err = run_read(cell, cell->at.offset, until, &run);
        if (err == NEF_E_RANGE) {
            err = NEF_OK; /* the rest of the run isn't committed yet */
            break;
        }
        if (err != NEF_OK) {
            nef_err unread = err;

            nef_trace(NEF_TRACE_ERROR, "apply_stopped", "u:cell", (uint64_t)number, "u:offset",
                      cell->at.offset, "e:error", err, NULL);
            err = nef_batch_commit(cell); /* what came before it counts */
            if (err == NEF_OK)
                return unread == NEF_E_NOT_FOUND ? NEF_E_CORRUPT : unread;
            break;
        }
        op = run.op < run.count ? run.records[run.op].type : 0;
        if (starts_with_empty_batch(op))
            err = nef_batch_commit(cell);
        if (err == NEF_OK)
            err = run_apply(cell, &run, until);
        if (err == NEF_OK &&
            (cell->batch_runs >= NEF_BATCH_RUNS_MAX || cell->batch_bytes >= NEF_BATCH_BYTES_MAX ||
             op == NEF_RECORD_CHECKPOINT_BEGIN))
            err = nef_batch_commit(cell);
        if (err == NEF_OK && op == NEF_RECORD_CHECKPOINT_BEGIN)
            nef_checkpoint_begun(cell, &cell->checkpoint.pending, cell->checkpoint.pending_begin);
        if (err == NEF_OK && cell->batch_runs == 0)
            err = flush_if_due(cell);
        if (err != NEF_OK)
            break;
    }
    if (err == NEF_OK)
        err = nef_batch_commit(cell);
    if (err == NEF_OK)
        err = flush_if_due(cell);
    if (err != NEF_OK) {
        nef_trace(NEF_TRACE_ERROR, "apply_failed", "u:cell", (uint64_t)number, "u:offset",
                  cell->at.offset, "e:error", err, NULL);
        batch_clear(cell);
        cell->stale = true;
    }
    return err;
}
