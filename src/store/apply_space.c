/* Applying what concerns space: data records, open streams, freeing, and the ops of compaction.
 *
 * A piece is live while a row X names its record. Every change of an X row changes the live bytes of the
 * record's segment in the same batch (row L), so the counters can be recomputed from X alone, which is what
 * fsck does. A dead copy of a piece in a DATA record has a row E until its bytes are erased or its segment
 * is dropped; a dead body inside an op only marks its segment (dead_ms), because an op can't be erased.
 *
 * A DATA record whose piece exists already is dead on arrival. That is what a proposal made twice leaves,
 * and it is also how compaction works: it appends a copy, and the `moved` op that follows swaps the roles
 * of the two records. `moved` trusts only rows: X must still name the old record and E must name the new
 * one as a dead copy of the same piece; whatever happened in between (deleted, overwritten, erased,
 * dropped) makes it a no-op. */
#include <stdlib.h>
#include <string.h>
#include "store/apply.h"

/* ---- rows of the batch ---- */

nef_err nef_batch_get(struct nef_cell *cell, const struct nef_row_key *k, struct nef_buf *out_value)
{
    return nef_index_batch_get(cell->index, cell->batch, k->data, k->bytes, out_value);
}

nef_err nef_batch_put(struct nef_cell *cell, const struct nef_row_key *k, const struct nef_buf *value)
{
    nef_err err = nef_buf_end(value);

    if (err != NEF_OK)
        return err;
    NEF_ASSERT(value->bytes <= NEF_ROW_VALUE_MAX);
    nef_index_batch_put(cell->batch, k->data, k->bytes, value->data, value->bytes);
    cell->batch_bytes += k->bytes + value->bytes;
    return NEF_OK;
}

void nef_batch_delete(struct nef_cell *cell, const struct nef_row_key *k)
{
    nef_index_batch_delete(cell->batch, k->data, k->bytes);
    cell->batch_bytes += k->bytes;
}

/* ---- segments ---- */

struct nef_segment_count *nef_counts_find(struct nef_cell *cell, uint64_t segment, uint32_t *out_at)
{
    uint32_t low = 0, high = cell->segment_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (cell->segments[middle].segment < segment)
            low = middle + 1;
        else
            high = middle;
    }
    *out_at = low;
    return low < cell->segment_count && cell->segments[low].segment == segment ? &cell->segments[low]
                                                                               : NULL;
}

/* Remember that the segment's row must go into the batch. */
static bool segment_dirty(struct nef_cell *cell, struct nef_segment_count *s)
{
    if (s->dirty)
        return true;
    if (cell->dirty_count == cell->dirty_capacity) {
        uint32_t capacity = cell->dirty_capacity == 0 ? 64 : cell->dirty_capacity * 2;
        uint64_t *dirty = realloc(cell->dirty, capacity * sizeof *dirty);

        if (dirty == NULL)
            return false;
        cell->dirty = dirty;
        cell->dirty_capacity = capacity;
    }
    cell->dirty[cell->dirty_count++] = s->segment;
    s->dirty = true;
    return true;
}

struct nef_segment_count *nef_counts_change(struct nef_cell *cell, uint64_t offset)
{
    uint64_t segment = offset / cell->store->options.segment_bytes;
    uint32_t at;
    struct nef_segment_count *s = nef_counts_find(cell, segment, &at);

    if (s == NULL) {
        if (cell->segment_count == cell->segment_capacity) {
            uint32_t capacity = cell->segment_capacity == 0 ? 64 : cell->segment_capacity * 2;

            s = realloc(cell->segments, capacity * sizeof *s);
            if (s == NULL)
                return NULL;
            cell->segments = s;
            cell->segment_capacity = capacity;
        }
        s = &cell->segments[at];
        memmove(s + 1, s, (cell->segment_count - at) * sizeof *s);
        *s = (struct nef_segment_count){.segment = segment};
        cell->segment_count++;
    }
    return segment_dirty(cell, s) ? s : NULL;
}

static nef_err live_add(struct nef_cell *cell, const struct nef_row_piece *piece)
{
    struct nef_segment_count *s = nef_counts_change(cell, piece->record);

    if (s == NULL)
        return NEF_E_NOMEM;
    s->row.live += nef_row_piece_record_bytes(piece);
    return NEF_OK;
}

static nef_err dead_put(struct nef_cell *cell, uint64_t offset, const struct nef_id *stream,
                        uint32_t piece, uint32_t cipher_bytes, uint64_t time_ms)
{
    struct nef_row_dead row = {
        .dead_ms = time_ms, .stream = *stream, .piece = piece, .cipher_bytes = cipher_bytes};
    struct nef_row_key k;

    nef_key_u64(&k, 'E', offset);
    nef_row_dead_put(&cell->row, &row);
    return nef_batch_put(cell, &k, &cell->row);
}

/* No row X names this place of the piece any more. */
static nef_err live_remove(struct nef_cell *cell, const struct nef_id *stream, uint32_t number,
                           const struct nef_row_piece *piece, uint64_t time_ms)
{
    struct nef_segment_count *s = nef_counts_change(cell, piece->record);
    uint64_t bytes = nef_row_piece_record_bytes(piece);

    if (s == NULL)
        return NEF_E_NOMEM;
    if (s->row.live < bytes)
        return NEF_E_CORRUPT; /* the index contradicts itself: rebuild it */
    s->row.live -= bytes;
    if (nef_row_piece_is_data(piece))
        return dead_put(cell, piece->record, stream, number, piece->cipher_bytes, time_ms);
    if (s->row.dead_ms == 0 || time_ms < s->row.dead_ms)
        s->row.dead_ms = time_ms;
    return NEF_OK;
}

/* ---- streams ---- */

uint32_t nef_pieces_of(uint64_t size)
{
    return (uint32_t)((size + NEF_PIECE_BYTES - 1) / NEF_PIECE_BYTES);
}

static nef_err stream_get(struct nef_cell *cell, const struct nef_id *stream,
                          struct nef_row_stream *out)
{
    struct nef_row_key k;
    nef_err err;

    nef_key_id(&k, 'S', stream);
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err == NEF_OK)
        err = nef_row_stream_get(cell->value2.data, cell->value2.bytes, out);
    return err;
}

static nef_err stream_put(struct nef_cell *cell, const struct nef_id *stream,
                          const struct nef_row_stream *row)
{
    struct nef_row_key k;

    nef_key_id(&k, 'S', stream);
    nef_row_stream_put(&cell->row, row);
    return nef_batch_put(cell, &k, &cell->row);
}

static void stream_close(struct nef_cell *cell, const struct nef_id *stream)
{
    struct nef_row_key k;

    nef_key_id(&k, 'S', stream);
    nef_batch_delete(cell, &k);
    NEF_ASSERT(cell->totals.streams > 0);
    cell->totals.streams--;
    cell->totals_dirty = true;
}

static nef_err piece_get(struct nef_cell *cell, const struct nef_id *stream, uint32_t piece,
                         struct nef_row_piece *out)
{
    struct nef_row_key k;
    nef_err err;

    nef_key_id_u32(&k, 'X', stream, piece);
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err == NEF_OK)
        err = nef_row_piece_get(cell->value2.data, cell->value2.bytes, out);
    return err;
}

static nef_err piece_put(struct nef_cell *cell, const struct nef_id *stream, uint32_t number,
                         const struct nef_row_piece *row)
{
    struct nef_row_key k;

    nef_key_id_u32(&k, 'X', stream, number);
    nef_row_piece_put(&cell->row, row);
    return nef_batch_put(cell, &k, &cell->row);
}

static nef_err free_pieces(struct nef_cell *cell, const struct nef_id *stream, uint32_t count,
                           uint64_t time_ms)
{
    for (uint32_t i = 0; i < count; i++) {
        struct nef_row_piece piece;
        struct nef_row_key k;
        nef_err err = piece_get(cell, stream, i, &piece);

        if (err == NEF_E_NOT_FOUND)
            continue; /* an open stream's pieces may have come out of order */
        if (err == NEF_OK)
            err = live_remove(cell, stream, i, &piece, time_ms);
        if (err != NEF_OK)
            return err;
        nef_key_id_u32(&k, 'X', stream, i);
        nef_batch_delete(cell, &k);
    }
    return NEF_OK;
}

nef_err nef_free_open_stream(struct nef_cell *cell, const struct nef_id *stream, uint64_t time_ms)
{
    struct nef_row_stream row;
    nef_err err = stream_get(cell, stream, &row);

    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err == NEF_OK)
        err = free_pieces(cell, stream, row.top, time_ms);
    if (err == NEF_OK)
        stream_close(cell, stream);
    return err;
}

nef_err nef_free_stream(struct nef_cell *cell, const struct nef_id *stream, uint64_t size,
                        uint64_t time_ms, uint32_t *budget)
{
    uint32_t pieces = nef_pieces_of(size);
    struct nef_row_stream row;

    if (pieces <= *budget) {
        *budget -= pieces;
        return free_pieces(cell, stream, pieces, time_ms);
    }
    *budget = 0;
    row = (struct nef_row_stream){.time_ms = time_ms,
                                  .cipher_bytes = size + (uint64_t)pieces * NEF_TAG_BYTES,
                                  .count = pieces,
                                  .top = pieces};
    cell->totals.streams++;
    cell->totals_dirty = true;
    return stream_put(cell, stream, &row);
}

/* ---- data records ---- */

nef_err nef_apply_data(struct nef_cell *cell, const struct nef_record *r, bool duplicate)
{
    uint64_t time_ms = NEF_MAX(r->time_ms, 1);
    struct nef_row_piece piece = {r->offset, NEF_RECORD_HEADER_BYTES, r->body_bytes};
    struct nef_row_piece existing;
    struct nef_row_stream stream;
    nef_err err;

    if (duplicate || nef_id_is_zero(&r->stream) || r->piece >= NEF_STREAM_PIECES_MAX ||
        r->body_bytes <= NEF_TAG_BYTES || r->body_bytes > NEF_PIECE_BYTES + NEF_TAG_BYTES)
        return dead_put(cell, r->offset, &r->stream, r->piece, r->body_bytes, time_ms);
    err = piece_get(cell, &r->stream, r->piece, &existing);
    if (err == NEF_OK) {
        err = dead_put(cell, r->offset, &r->stream, r->piece, r->body_bytes, time_ms);
        if (err == NEF_OK)
            nef_compact_copied(cell, &r->stream, r->piece, r->offset);
        return err;
    }
    if (err != NEF_E_NOT_FOUND)
        return err;
    err = stream_get(cell, &r->stream, &stream);
    if (err == NEF_E_NOT_FOUND) {
        stream = (struct nef_row_stream){
            .proposer = r->proposer, .first = r->offset, .time_ms = time_ms};
        cell->totals.streams++;
        cell->totals_dirty = true;
        err = NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    stream.cipher_bytes += r->body_bytes;
    stream.count++;
    stream.top = NEF_MAX(stream.top, r->piece + 1);
    err = stream_put(cell, &r->stream, &stream);
    if (err == NEF_OK)
        err = piece_put(cell, &r->stream, r->piece, &piece);
    if (err == NEF_OK)
        err = live_add(cell, &piece);
    return err;
}

nef_err nef_stream_check(struct nef_apply *a, uint64_t size, bool inline_body, nef_err *out_code)
{
    const struct nef_record *r = a->record;
    uint32_t inline_bytes = r->body_bytes - a->inline_at;
    struct nef_row_stream stream;
    struct nef_row_piece piece;
    nef_err err;

    *out_code = NEF_OK;
    if (nef_id_is_zero(&r->stream) || size > NEF_PUT_BYTES_MAX) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    err = stream_get(a->cell, &r->stream, &stream);
    if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        return err;
    if (size > 0 && !inline_body) {
        uint32_t pieces = nef_pieces_of(size);

        /* count and top say that 0..pieces-1 are all there, the bytes that each has its length */
        if (err == NEF_E_NOT_FOUND || stream.count != pieces || stream.top != pieces ||
            stream.cipher_bytes != size + (uint64_t)pieces * NEF_TAG_BYTES)
            *out_code = NEF_E_NO_UPLOAD;
        return NEF_OK;
    }
    if (err == NEF_OK || inline_bytes != (inline_body ? size + NEF_TAG_BYTES : 0) ||
        size > NEF_INLINE_BYTES_MAX || (inline_body && size == 0)) {
        *out_code = NEF_E_PROTOCOL;
        return NEF_OK;
    }
    err = piece_get(a->cell, &r->stream, 0, &piece);
    if (err == NEF_OK)
        *out_code = NEF_E_EXISTS; /* a stream id used twice */
    return err == NEF_E_NOT_FOUND ? NEF_OK : err;
}

nef_err nef_stream_take(struct nef_apply *a, uint64_t size, bool inline_body)
{
    const struct nef_record *r = a->record;
    struct nef_row_piece piece = {r->offset, NEF_RECORD_HEADER_BYTES + a->inline_at,
                                  r->body_bytes - a->inline_at};
    nef_err err;

    if (size == 0)
        return NEF_OK;
    if (!inline_body) {
        stream_close(a->cell, &r->stream);
        return NEF_OK;
    }
    err = piece_put(a->cell, &r->stream, 0, &piece);
    if (err == NEF_OK)
        err = live_add(a->cell, &piece);
    return err;
}

nef_err nef_apply_stream_abort(struct nef_apply *a, nef_err *out_code)
{
    struct nef_row_stream stream;
    nef_err err = stream_get(a->cell, &a->record->stream, &stream);

    *out_code = NEF_OK;
    if (err == NEF_E_NOT_FOUND)
        return NEF_OK; /* ended meanwhile */
    if (err != NEF_OK)
        return err;
    if (stream.proposer != a->op.u.stream_abort.proposer)
        return NEF_OK; /* an id of somebody else's stream */
    return nef_free_open_stream(a->cell, &a->record->stream, a->time_ms);
}

/* ---- compaction ---- */

static nef_err moved_one(struct nef_apply *a, const struct nef_op_moved *m)
{
    struct nef_cell *cell = a->cell;
    struct nef_row_piece from, to;
    struct nef_row_dead dead;
    struct nef_row_key k;
    nef_err err;

    err = piece_get(cell, &m->stream, m->piece, &from);
    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err != NEF_OK)
        return err;
    if (from.record != m->from)
        return NEF_OK;
    nef_key_u64(&k, 'E', m->to);
    err = nef_batch_get(cell, &k, &cell->value2);
    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err == NEF_OK)
        err = nef_row_dead_get(cell->value2.data, cell->value2.bytes, &dead);
    if (err != NEF_OK)
        return err;
    if (dead.erased != 0 || !nef_id_equal(&dead.stream, &m->stream) || dead.piece != m->piece ||
        dead.cipher_bytes != from.cipher_bytes)
        return NEF_OK;
    nef_batch_delete(cell, &k);
    to = (struct nef_row_piece){m->to, NEF_RECORD_HEADER_BYTES, from.cipher_bytes};
    err = live_remove(cell, &m->stream, m->piece, &from, a->time_ms);
    if (err == NEF_OK)
        err = live_add(cell, &to);
    if (err == NEF_OK)
        err = piece_put(cell, &m->stream, m->piece, &to);
    return err;
}

nef_err nef_apply_moved(struct nef_apply *a, nef_err *out_code)
{
    *out_code = NEF_OK;
    for (uint32_t i = 0; i < a->op.u.list.count; i++) {
        struct nef_op_moved m;
        nef_err err;

        nef_op_item_moved(&a->op, i, &m);
        err = moved_one(a, &m);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

static nef_err erase_later(struct nef_cell *cell, uint64_t offset)
{
    if (cell->erase_count == cell->erase_capacity) {
        uint32_t capacity = cell->erase_capacity == 0 ? 256 : cell->erase_capacity * 2;
        uint64_t *list = realloc(cell->erase, capacity * sizeof *list);

        if (list == NULL)
            return NEF_E_NOMEM;
        cell->erase = list;
        cell->erase_capacity = capacity;
    }
    cell->erase[cell->erase_count++] = offset;
    return NEF_OK;
}

nef_err nef_apply_erase(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;

    *out_code = NEF_OK;
    for (uint32_t i = 0; i < a->op.u.list.count; i++) {
        uint64_t offset = nef_op_item_u64(&a->op, i);
        struct nef_row_dead row;
        struct nef_row_key k;
        nef_err err;

        nef_key_u64(&k, 'E', offset);
        err = nef_batch_get(cell, &k, &cell->value2);
        if (err == NEF_E_NOT_FOUND)
            continue; /* live again (moved), or dropped */
        if (err == NEF_OK)
            err = nef_row_dead_get(cell->value2.data, cell->value2.bytes, &row);
        if (err != NEF_OK)
            return err;
        if (row.erased != 0)
            continue;
        row.erased = a->record->offset;
        nef_row_dead_put(&cell->row, &row);
        err = nef_batch_put(cell, &k, &cell->row);
        if (err == NEF_OK)
            err = erase_later(cell, offset);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

/* Delete the E rows of a segment. The batch is empty (apply.c writes it before a drop), so the index's own
 * iterator sees every row. */
static nef_err drop_dead_rows(struct nef_cell *cell, uint64_t segment)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes;
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    nef_err err;

    nef_key_u64(&from, 'E', segment * segment_bytes);
    nef_key_u64(&to, 'E', (segment + 1) * segment_bytes);
    it = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
    if (it == NULL)
        return NEF_E_NOMEM;
    for (nef_index_iter_first(it); nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t bytes;
        const uint8_t *k = nef_index_iter_key(it, &bytes);

        nef_index_batch_delete(cell->batch, k, bytes);
        cell->batch_bytes += bytes;
    }
    err = nef_index_iter_error(it);
    nef_index_iter_free(it);
    return err;
}

nef_err nef_apply_drop(struct nef_apply *a, nef_err *out_code)
{
    struct nef_cell *cell = a->cell;
    uint64_t limit = cell->checkpoint.begin / cell->store->options.segment_bytes;

    *out_code = NEF_OK;
    for (uint32_t i = 0; i < a->op.u.list.count; i++) {
        uint64_t segment = nef_op_item_u64(&a->op, i);
        struct nef_row_key k;
        uint32_t at;
        const struct nef_segment_count *s = nef_counts_find(cell, segment, &at);
        nef_err err;

        /* Decided again here, in log order: something may have been moved into it since it was proposed. */
        if (s == NULL || segment >= limit || s->row.live != 0 ||
            nef_id_is_zero(&cell->checkpoint.complete))
            continue;
        err = drop_dead_rows(cell, segment);
        if (err != NEF_OK)
            return err;
        nef_key_u64(&k, 'L', segment);
        nef_batch_delete(cell, &k);
        cell->segment_count--;
        memmove(&cell->segments[at], &cell->segments[at + 1],
                (cell->segment_count - at) * sizeof *cell->segments);
        cell->flush_wanted = true;
    }
    return NEF_OK;
}
