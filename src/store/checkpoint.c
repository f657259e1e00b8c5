/* Checkpoints: all rows of the index as records, so that the ops before them are needed by nobody.
 *
 *   BEGIN .. ROWS 0 .. (client traffic) .. ROWS 1 .. ROWS n-1 .. END
 *
 * The rows are those right after BEGIN was applied: its apply takes a RocksDB snapshot, and the primary's
 * maintenance walks over it and proposes the ROWS, one after the other, then END once all of them were
 * applied in order. A cell keeps (row C) the latest complete checkpoint and the one being written, which a
 * BEGIN of another replaces; what a primary that died left without END counts for nothing.
 *
 * Loading finds the newest END, reads its ROWS twice (first to check the digest, then to write them), and
 * apply goes on at the record after BEGIN. BEGIN was applied before the first ROWS was built, so it is
 * committed, whatever becomes of an END found above commit. A checkpoint counts only if the log is there
 * without a hole from its BEGIN to the end.
 *
 * Body of a ROWS record: u32 length, row R (the region's key, wrapped: without it nothing opens the rest) |
 * XAES under the region's key of (u32 length, key, u32 length, value)..., associated data "nef rows",
 * checkpoint id, u32 LE piece. Row A isn't among them; the BEGIN record says what it says. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "store/apply.h"

#define ROWS_PLAIN_TARGET ((size_t)1 << 20)
#define AAD_BYTES         (8u + 16u + 4u)

static void lock(struct nef_cell *cell)
{
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
}

static void unlock(struct nef_cell *cell)
{
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
}

/* ---- applying ---- */

nef_err nef_apply_checkpoint_begin(struct nef_apply *a, nef_err *out_code)
{
    struct nef_row_checkpoint *c = &a->cell->checkpoint;

    if (nef_id_is_zero(&a->record->stream)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    *out_code = NEF_OK;
    c->pending = a->record->stream;
    c->pending_begin = a->record->offset;
    c->pending_pieces = 0;
    a->cell->checkpoint_dirty = true;
    return NEF_OK;
}

void nef_apply_checkpoint_rows(struct nef_cell *cell, const struct nef_record *r)
{
    struct nef_row_checkpoint *c = &cell->checkpoint;

    if (nef_id_is_zero(&c->pending) || !nef_id_equal(&c->pending, &r->stream) ||
        r->piece != c->pending_pieces)
        return;
    c->pending_pieces++;
    cell->checkpoint_dirty = true;
}

nef_err nef_apply_checkpoint_end(struct nef_apply *a, nef_err *out_code)
{
    struct nef_row_checkpoint *c = &a->cell->checkpoint;

    *out_code = NEF_OK;
    if (nef_id_is_zero(&c->pending) || !nef_id_equal(&c->pending, &a->record->stream) ||
        c->pending_begin != a->op.u.checkpoint_end.begin) {
        *out_code = NEF_E_PRECONDITION;
        return NEF_OK;
    }
    c->complete = c->pending;
    c->begin = c->pending_begin;
    c->end = a->record->offset;
    c->pending = (struct nef_id){{0}};
    c->pending_begin = 0;
    c->pending_pieces = 0;
    a->cell->checkpoint_dirty = true;
    return NEF_OK;
}

/* ---- writing one: the maintenance thread, with apply's help ---- */

void nef_checkpoint_forget(struct nef_cell *cell)
{
    if (cell->ckpt.iter != NULL)
        nef_index_iter_free(cell->ckpt.iter);
    if (cell->ckpt.snapshot != NULL)
        nef_index_snapshot_free(cell->index, cell->ckpt.snapshot);
    if (cell->ckpt.hash != NULL)
        nef_hash_free(cell->ckpt.hash);
    memset(&cell->ckpt, 0, sizeof cell->ckpt);
}

void nef_checkpoint_begun(struct nef_cell *cell, const struct nef_id *id, uint64_t begin)
{
    lock(cell);
    if (cell->ckpt.state == NEF_CKPT_BEGUN && nef_id_equal(&cell->ckpt.id, id)) {
        cell->ckpt.snapshot = nef_index_snapshot_new(cell->index);
        cell->ckpt.begin = begin;
        cell->ckpt.state = NEF_CKPT_SNAPSHOT;
        cell->ckpt.lost = cell->ckpt.snapshot == NULL;
    } else if (cell->ckpt.state != NEF_CKPT_IDLE && cell->ckpt.state != NEF_CKPT_BEGUN) {
        nef_checkpoint_forget(cell); /* another primary writes one: don't keep the snapshot until our next */
    }
    unlock(cell);
}

void nef_checkpoint_rows_seen(struct nef_cell *cell, const struct nef_id *id, uint32_t pieces)
{
    lock(cell);
    if (cell->ckpt.state != NEF_CKPT_IDLE && nef_id_equal(&cell->ckpt.id, id))
        cell->ckpt.pieces_seen = pieces;
    unlock(cell);
}

/* What a checkpoint costs is log, too, and segments can go only before one. So the next one is due when as much log
 * was written since the last one's end as that one took (which bounds what they cost to half of all log, if objects
 * are so small that their rows are as large), and then once it is eight times as much or half of what is alive. Counted
 * from the end: from the beginning, a region of small objects would write checkpoints for ever by itself. */
bool nef_store_checkpoint_due(struct nef_store *store, uint32_t number)
{
    struct nef_cell *cell = &store->cells[number];
    uint64_t applied = nef_store_applied(store, number), begin, end, dead_ms, now_ms, live, took, due;

    NEF_ASSERT(number < store->options.cell_count);
    lock(cell);
    begin = cell->stats.checkpoint_offset;
    end = cell->stats.checkpoint_end;
    live = cell->stats.bytes_live;
    dead_ms = cell->dead_ms;
    now_ms = cell->now_ms;
    unlock(cell);
    /* A deleted body inside an op goes with its segment, which must lie before a checkpoint first. */
    if (dead_ms != 0 && now_ms > dead_ms && now_ms - dead_ms >= store->options.erase_within_ms / 2)
        return true;
    took = end - begin; /* with what clients wrote meanwhile */
    due = NEF_MAX(NEF_MAX(store->options.checkpoint_log_bytes, took), NEF_MIN(8 * took, live / 2));
    return applied > end && applied - end >= due;
}

static void aad_of(const struct nef_id *id, uint32_t piece, uint8_t out[AAD_BYTES])
{
    memcpy(out, "nef rows", 8);
    memcpy(out + 8, id->bytes, 16);
    for (uint32_t i = 0; i < 4; i++)
        out[24 + i] = (uint8_t)(piece >> (8 * i));
}

/* The next rows of the snapshot, as many as fit. */
static nef_err collect_rows(struct nef_cell *cell, struct nef_buf *plain, struct nef_buf *region)
{
    struct nef_index_iter *it = cell->ckpt.iter;

    for (; nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);

        if (k_bytes == 1 && k[0] == 'A')
            continue;
        if (plain->bytes > 0 && plain->bytes + k_bytes + v_bytes + 8 > ROWS_PLAIN_TARGET)
            break;
        nef_buf_block(plain, k, k_bytes);
        nef_buf_block(plain, v, v_bytes);
        cell->ckpt.rows++;
    }
    if (nef_index_iter_error(it) != NEF_OK)
        return nef_index_iter_error(it);
    if (plain->bytes > 0) {
        struct nef_row_key k;

        nef_key_kind(&k, 'R');
        return nef_index_get(cell->index, cell->ckpt.snapshot, k.data, k.bytes, region);
    }
    return nef_buf_end(plain);
}

/* A ROWS run of PLAIN. */
static nef_err rows_run(struct nef_cell *cell, const struct nef_buf *plain, const struct nef_buf *region,
                        struct nef_run *out_run)
{
    struct nef_keys *keys = cell->store->options.keys;
    uint8_t aad[AAD_BYTES];
    struct nef_row_region row;
    struct nef_record r;
    uint64_t body_bytes = 4 + region->bytes + plain->bytes + NEF_XAES_OVERHEAD;
    struct nef_writer w;
    uint8_t *data;
    nef_err err = nef_row_region_get(region->data, region->bytes, &row);

    if (err == NEF_OK)
        err = nef_buf_end(plain);
    if (err != NEF_OK)
        return err;
    if (body_bytes > NEF_RECORD_BODY_MAX)
        return NEF_E_LIMIT;
    data = calloc(1, nef_record_bytes(body_bytes));
    if (data == NULL)
        return NEF_E_NOMEM;
    w = nef_writer_of(data + NEF_RECORD_HEADER_BYTES, body_bytes);
    nef_write_block(&w, region->data, region->bytes);
    aad_of(&cell->ckpt.id, cell->ckpt.pieces, aad);
    err = nef_keys_seal(keys, &row.region_key, aad, sizeof aad, plain->data, plain->bytes,
                        w.data + w.at);
    if (err != NEF_OK) {
        free(data);
        return err;
    }
    memset(&r, 0, sizeof r);
    r.type = NEF_RECORD_CHECKPOINT_ROWS;
    r.flags = NEF_RECORD_LAST;
    r.cell = cell->number;
    r.body_bytes = (uint32_t)body_bytes;
    r.stream = cell->ckpt.id;
    memcpy(r.bucket_key_id, row.region_key.bytes, sizeof r.bucket_key_id);
    r.piece = cell->ckpt.pieces;
    nef_record_encode(&r, data + NEF_RECORD_HEADER_BYTES, 0, data);
    *out_run = (struct nef_run){
        .data = data, .bytes = (uint32_t)nef_record_bytes(body_bytes), .cell = cell->number};
    return NEF_OK;
}

static nef_err begin_run(struct nef_cell *cell, struct nef_run *out_run)
{
    struct nef_op op;
    nef_err err;

    nef_checkpoint_forget(cell);
    nef_random(cell->ckpt.id.bytes, sizeof cell->ckpt.id.bytes);
    cell->ckpt.hash = nef_hash_new(NEF_HASH_SHA256);
    if (cell->ckpt.hash == NULL)
        return NEF_E_NOMEM;
    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_CHECKPOINT_BEGIN;
    op.stream = cell->ckpt.id;
    op.u.checkpoint_begin.checkpoint = cell->ckpt.id;
    err = nef_run_op(cell->store->options.keys, &op, cell->number, NULL, NULL, NULL, 0, out_run);
    if (err == NEF_OK)
        cell->ckpt.state = NEF_CKPT_BEGUN;
    else
        nef_checkpoint_forget(cell);
    return err;
}

static nef_err end_run(struct nef_cell *cell, struct nef_run *out_run)
{
    struct nef_op op;

    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_CHECKPOINT_END;
    op.stream = cell->ckpt.id;
    op.u.checkpoint_end.begin = cell->ckpt.begin;
    op.u.checkpoint_end.rows = cell->ckpt.rows;
    nef_hash_final(cell->ckpt.hash, op.u.checkpoint_end.digest);
    return nef_run_op(cell->store->options.keys, &op, cell->number, NULL, NULL, NULL, 0, out_run);
}

static nef_err next_rows(struct nef_cell *cell, struct nef_run *out_run)
{
    struct nef_buf plain = {0}, region = {0};
    nef_err err;

    if (cell->ckpt.iter == NULL) {
        cell->ckpt.iter =
            nef_index_iter_new(cell->index, cell->ckpt.snapshot, NULL, 0, NULL, 0);
        if (cell->ckpt.iter == NULL)
            return NEF_E_NOMEM;
        nef_index_iter_first(cell->ckpt.iter);
    }
    err = collect_rows(cell, &plain, &region);
    if (err == NEF_OK && plain.bytes == 0)
        cell->ckpt.state = NEF_CKPT_ENDING;
    else if (err == NEF_OK)
        err = rows_run(cell, &plain, &region, out_run);
    if (err == NEF_OK && plain.bytes > 0) {
        nef_hash_update(cell->ckpt.hash, plain.data, plain.bytes);
        cell->ckpt.pieces++;
    }
    nef_buf_free(&plain);
    nef_buf_free(&region);
    return err;
}

nef_err nef_store_checkpoint_next(struct nef_store *store, uint32_t number, bool start,
                                  struct nef_run *out_run, bool *out_done)
{
    struct nef_cell *cell = &store->cells[number];
    struct nef_run run = {.cell = number};
    bool done = false;
    nef_err err = NEF_OK;

    NEF_ASSERT(number < store->options.cell_count);
    nef_cell_read_begin(cell); /* a rebuild takes snapshot and iterator away */
    lock(cell);
    if (cell->index == NULL) {
        err = NEF_E_UNAVAILABLE;
    } else if (start) {
        err = begin_run(cell, &run);
    } else if (cell->ckpt.lost || cell->ckpt.state == NEF_CKPT_IDLE) {
        nef_checkpoint_forget(cell);
        err = NEF_E_AGAIN; /* another began meanwhile, or a rebuild: begin again */
    } else {
        if (cell->ckpt.state == NEF_CKPT_SNAPSHOT)
            err = next_rows(cell, &run);
        if (err == NEF_OK && cell->ckpt.state == NEF_CKPT_ENDING &&
            cell->ckpt.pieces_seen == cell->ckpt.pieces) {
            err = end_run(cell, &run);
            done = err == NEF_OK;
        }
        if (err != NEF_OK || done)
            nef_checkpoint_forget(cell);
    }
    unlock(cell);
    nef_cell_read_end(cell);
    if (err != NEF_OK)
        return err;
    *out_run = run;
    *out_done = done;
    return NEF_OK;
}

/* ---- loading ---- */

struct found {
    uint64_t begin, end;
    struct nef_id id;
    uint64_t rows;
    uint8_t digest[32];
};

static uint64_t first_place(const struct nef_cell *cell, uint64_t segment)
{
    return segment * cell->store->options.segment_bytes + NEF_SEGMENT_HEADER_BYTES;
}

/* Where the part of the log begins that reaches to its end without a hole. */
static nef_err suffix_start(struct nef_cell *cell, uint64_t *out_start)
{
    uint64_t end = nef_log_end(cell->log), start = end;
    uint32_t count = nef_log_segments(cell->log, NULL, 0);
    uint64_t *numbers;

    if (count > 0) {
        numbers = malloc(count * sizeof *numbers);
        if (numbers == NULL)
            return NEF_E_NOMEM;
        count = NEF_MIN(nef_log_segments(cell->log, numbers, count), count);
        while (count > 0 && first_place(cell, numbers[count - 1]) >= end)
            count--; /* prepared ahead */
        while (count > 0 &&
               nef_log_present_until(cell->log, first_place(cell, numbers[count - 1])) == end)
            start = first_place(cell, numbers[--count]);
        free(numbers);
    }
    *out_start = start;
    return NEF_OK;
}

static nef_err read_end(struct nef_cell *cell, uint64_t offset, struct found *out)
{
    struct nef_record r;
    struct nef_op op;
    uint32_t inline_at;
    uint64_t next;
    nef_err err = nef_log_record(cell->log, offset, &r, cell->chunk, &next);

    cell->chunk_bytes = 0;
    if (err == NEF_OK)
        err = nef_op_open(cell->store->options.keys, &r, cell->chunk, NULL, &cell->fields, &op,
                          &inline_at, NULL);
    if (err != NEF_OK)
        return err;
    *out = (struct found){.begin = op.u.checkpoint_end.begin,
                          .end = offset,
                          .id = r.stream,
                          .rows = op.u.checkpoint_end.rows};
    memcpy(out->digest, op.u.checkpoint_end.digest, sizeof out->digest);
    return NEF_OK;
}

/* Look for ENDs in [FROM, TO): the last one whose BEGIN is at LEAST or above. Stops quietly where the log
 * can't be read; *out_at: how far it came, with the last record there. */
static void find_end(struct nef_cell *cell, uint64_t from, uint64_t to, uint64_t least,
                     struct found *out_found, bool *out_any, uint64_t *out_at, uint64_t *out_last,
                     uint64_t *out_epoch)
{
    const uint64_t *before = cell->store->options.checkpoint_before;
    uint64_t limit = before != NULL ? before[cell->number] : UINT64_MAX, at = from;

    *out_any = false;
    while (at < to) {
        struct nef_record r;
        struct found f;
        uint64_t next;

        if (nef_log_record(cell->log, at, &r, NULL, &next) != NEF_OK || next > to)
            break;
        if (r.type == NEF_RECORD_CHECKPOINT_END && read_end(cell, at, &f) == NEF_OK &&
            f.begin >= least && f.begin < at && f.begin < limit) {
            *out_found = f;
            *out_any = true;
        }
        *out_last = at;
        *out_epoch = r.epoch;
        at = next;
    }
    *out_at = at;
}

static nef_err write_row(struct nef_cell *cell, const uint8_t *k, size_t k_bytes, const uint8_t *v,
                         size_t v_bytes)
{
    nef_err err = NEF_OK;

    nef_index_batch_put(cell->batch, k, k_bytes, v, v_bytes);
    cell->batch_bytes += k_bytes + v_bytes;
    if (cell->batch_bytes >= NEF_BATCH_BYTES_MAX) {
        err = nef_index_write(cell->index, cell->batch);
        nef_index_batch_clear(cell->batch);
        cell->batch_bytes = 0;
    }
    return err;
}

/* Open a ROWS record's body (in cell->chunk) and take its rows. */
static nef_err take_rows(struct nef_cell *cell, const struct nef_record *r, bool write,
                         struct nef_hash *hash, uint64_t *rows)
{
    struct nef_keys *keys = cell->store->options.keys;
    struct nef_reader reader = nef_reader_of(cell->chunk, r->body_bytes);
    struct nef_row_region region;
    uint8_t aad[AAD_BYTES];
    const uint8_t *view, *sealed;
    size_t bytes = 0, plain_bytes;
    nef_err err;

    view = nef_read_block(&reader, 4096, &bytes);
    if (view == NULL || nef_reader_left(&reader) <= NEF_XAES_OVERHEAD)
        return NEF_E_CORRUPT;
    err = nef_row_region_get(view, bytes, &region);
    if (err == NEF_OK)
        err = nef_keys_load(keys, &region.region_key, region.op.wrapped, region.op.wrapped_bytes);
    if (err != NEF_OK)
        return err;
    plain_bytes = nef_reader_left(&reader) - NEF_XAES_OVERHEAD;
    sealed = nef_read_view(&reader, nef_reader_left(&reader));
    nef_buf_reset(&cell->object);
    if (nef_buf_grow(&cell->object, plain_bytes) == NULL)
        return NEF_E_NOMEM;
    aad_of(&r->stream, r->piece, aad);
    err = nef_keys_open(keys, &region.region_key, aad, sizeof aad, sealed,
                        plain_bytes + NEF_XAES_OVERHEAD, cell->object.data);
    if (err != NEF_OK)
        return err;
    nef_hash_update(hash, cell->object.data, plain_bytes);
    reader = nef_reader_of(cell->object.data, plain_bytes);
    while (err == NEF_OK && nef_reader_left(&reader) > 0) {
        size_t k_bytes = 0, v_bytes = 0;
        const uint8_t *k = nef_read_block(&reader, NEF_ROW_KEY_MAX, &k_bytes);
        const uint8_t *v = nef_read_block(&reader, NEF_ROW_VALUE_MAX, &v_bytes);

        if (reader.failed || k_bytes == 0)
            return NEF_E_CORRUPT;
        if (write)
            err = write_row(cell, k, k_bytes, v, v_bytes);
        (*rows)++;
    }
    return err;
}

/* Go over a checkpoint's records. First without writing: is it whole? */
static nef_err go_over(struct nef_cell *cell, const struct found *f, bool write)
{
    struct nef_hash *hash = nef_hash_new(NEF_HASH_SHA256);
    uint64_t at = f->begin, next = 0, rows = 0, begin_next = 0;
    struct nef_record r;
    struct nef_record begin;
    uint8_t digest[32];
    uint32_t piece = 0;
    nef_err err;

    if (hash == NULL)
        return NEF_E_NOMEM;
    err = nef_log_record(cell->log, at, &begin, NULL, &begin_next);
    if (err == NEF_OK && (begin.type != NEF_RECORD_CHECKPOINT_BEGIN ||
                          !nef_id_equal(&begin.stream, &f->id)))
        err = NEF_E_CORRUPT;
    for (at = begin_next; err == NEF_OK && at < f->end; at = next) {
        err = nef_log_record(cell->log, at, &r, NULL, &next);
        if (err != NEF_OK || r.type != NEF_RECORD_CHECKPOINT_ROWS ||
            !nef_id_equal(&r.stream, &f->id) || r.piece != piece)
            continue; /* the same rule as apply's: in order, each once */
        err = nef_log_record(cell->log, at, &r, cell->chunk, &next);
        cell->chunk_bytes = 0;
        if (err == NEF_OK)
            err = take_rows(cell, &r, write, hash, &rows);
        piece++;
    }
    nef_hash_final(hash, digest);
    nef_hash_free(hash);
    if (err == NEF_OK && (rows != f->rows || memcmp(digest, f->digest, sizeof digest) != 0))
        err = NEF_E_CORRUPT;
    if (err != NEF_OK || !write)
        return err;
    cell->at = (struct nef_row_applied){
        .epoch = begin.epoch,
        .offset = nef_log_end_at(f->begin + nef_record_bytes(begin.body_bytes),
                                 cell->store->options.segment_bytes),
        .last = f->begin,
        .version = NEF_ROWS_VERSION};
    nef_row_applied_put(&cell->row, &cell->at);
    err = nef_buf_end(&cell->row);
    if (err == NEF_OK) {
        nef_index_batch_put(cell->batch, "A", 1, cell->row.data, cell->row.bytes);
        err = nef_index_write(cell->index, cell->batch);
    }
    nef_index_batch_clear(cell->batch);
    cell->batch_bytes = 0;
    return err;
}

/* Load F into the empty index. *out_whole false: it isn't whole, the index is still empty. */
static nef_err load(struct nef_cell *cell, const struct found *f, bool *out_whole)
{
    nef_err err = go_over(cell, f, false);

    *out_whole = err == NEF_OK;
    if (err == NEF_E_NOMEM || err == NEF_E_KEY || err == NEF_E_IO)
        return err;
    if (err != NEF_OK) {
        nef_trace(NEF_TRACE_WARN, "checkpoint_bad", "u:cell", (uint64_t)cell->number, "u:begin",
                  f->begin, "e:error", err, NULL);
        return NEF_OK;
    }
    err = go_over(cell, f, true);
    if (err == NEF_OK)
        err = nef_cell_load(cell);
    if (err == NEF_OK)
        err = nef_cell_load_keys(cell);
    if (err == NEF_OK)
        nef_trace(NEF_TRACE_INFO, "checkpoint_loaded", "u:cell", (uint64_t)cell->number, "u:begin",
                  f->begin, "u:rows", f->rows, NULL);
    return err;
}

static nef_err begin_at_first_record(struct nef_cell *cell)
{
    nef_err err;

    cell->at = (struct nef_row_applied){.offset = NEF_SEGMENT_HEADER_BYTES, .version = NEF_ROWS_VERSION};
    nef_row_applied_put(&cell->row, &cell->at);
    err = nef_buf_end(&cell->row);
    if (err == NEF_OK) {
        nef_index_batch_put(cell->batch, "A", 1, cell->row.data, cell->row.bytes);
        err = nef_index_write(cell->index, cell->batch);
    }
    nef_index_batch_clear(cell->batch);
    return err == NEF_OK ? nef_cell_load(cell) : err;
}

nef_err nef_checkpoint_load(struct nef_cell *cell)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes;
    uint64_t end = nef_log_end(cell->log), start, at, last, epoch;
    nef_err err = suffix_start(cell, &start);

    cell->waiting = false;
    if (err != NEF_OK)
        return err;
    for (uint64_t s = end / segment_bytes + 1; s-- > start / segment_bytes;) {
        uint64_t from = first_place(cell, s);
        bool any, whole;
        struct found f;

        if (from >= end)
            continue;
        find_end(cell, from, NEF_MIN(end, first_place(cell, s + 1)), start, &f, &any, &at, &last,
                 &epoch);
        if (!any)
            continue;
        err = load(cell, &f, &whole);
        if (err != NEF_OK || whole)
            return err;
    }
    if (start == NEF_SEGMENT_HEADER_BYTES)
        return begin_at_first_record(cell);
    nef_trace(NEF_TRACE_WARN, "checkpoint_awaited", "u:cell", (uint64_t)cell->number, "u:log_start",
              start, "u:log_end", end, NULL);
    cell->waiting = true;
    cell->search_at = start;
    cell->search_last = cell->search_epoch = 0;
    return NEF_OK;
}

nef_err nef_checkpoint_wait(struct nef_cell *cell, uint64_t until)
{
    struct nef_record r;
    struct found f;
    uint64_t start, next;
    bool any, whole;
    nef_err err = suffix_start(cell, &start);

    if (err != NEF_OK)
        return err;
    if (start == NEF_SEGMENT_HEADER_BYTES) { /* the log was cut back to its beginning and came again */
        cell->waiting = false;
        return begin_at_first_record(cell);
    }
    /* Equal epoch and offset mean equal prefix (R6): otherwise the log was cut below what was searched. */
    if (cell->search_at < start || cell->search_at > until ||
        (cell->search_epoch != 0 &&
         (nef_log_record(cell->log, cell->search_last, &r, NULL, &next) != NEF_OK ||
          r.epoch != cell->search_epoch))) {
        cell->search_at = start;
        cell->search_epoch = 0;
    }
    find_end(cell, cell->search_at, until, start, &f, &any, &cell->search_at, &cell->search_last,
             &cell->search_epoch);
    if (!any)
        return NEF_E_AGAIN;
    err = load(cell, &f, &whole);
    if (err != NEF_OK)
        return err;
    if (!whole)
        return NEF_E_AGAIN;
    cell->waiting = false;
    cell->flush_offset = cell->at.offset;
    return NEF_OK;
}
