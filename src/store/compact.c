/* Maintenance: what the primary proposes so that the log doesn't only grow.
 *
 *   moves    a segment that lies before the latest checkpoint and is less than half live, or holds a small
 *            body deleted too long ago, is read through; what X still names in it is proposed again as a
 *            DATA run, and once that was applied (nef_compact_copied) a `moved` op swaps the two
 *   drop     segments before the latest checkpoint without a live byte
 *   erase    bodies of DATA records that are dead for half of erase_within
 *   aborts   streams whose proposer is gone (or that were too large to free in one op)
 *   repairs  what a create or delete of a bucket left that nobody finished
 *
 * Nothing here decides anything: every op is checked again when it is applied, so a plan made from rows that
 * changed meanwhile does no harm. What is remembered between calls (moves under way, cursors) may be lost at
 * any time: a copy without its `moved` is a dead record like any other, and is erased like one. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "store/store_internal.h"

#define DROP_ITEMS_MAX   64u
#define ERASE_ITEMS_MAX  512u
#define DEAD_ROWS_MAX    2048u /* E rows looked at in a call */
#define STREAM_ROWS_MAX  1024u
#define SCAN_RECORDS_MAX 8192u
#define REPAIR_ROUNDS    16u   /* buckets are looked at every so many calls */
#define LOOK_ROUNDS      4u    /* each kind of duty has its turn every so many calls */
#define REPAIR_LAG_MAX   ((uint64_t)16 << 20)
#define MOVE_FORGET_MS   60000u
#define LOST_COPIES_MAX  8u
#define STREAM_AGE_MS    60000u

struct plan {
    struct nef_store *store;
    struct nef_cell *cell;
    uint64_t now_ms;
    struct nef_run *runs;
    uint32_t count, max;
};

static bool older(uint64_t now_ms, uint64_t then_ms, uint64_t age_ms)
{
    return now_ms > then_ms && now_ms - then_ms >= age_ms;
}

/* All that maintenance proposes names nobody, so it lies in clear and needs no DEK. */
static nef_err propose(struct plan *p, const struct nef_op *op)
{
    nef_err err = nef_run_op(p->store->options.keys, op, p->cell->number, NULL, NULL, NULL, 0,
                             &p->runs[p->count]);

    if (err == NEF_OK)
        p->count++;
    return err;
}

/* A clear op that is a list of items, already encoded. */
static nef_err propose_list(struct plan *p, uint16_t type, uint32_t count, const struct nef_buf *items)
{
    struct nef_op op;
    nef_err err = nef_buf_end(items);

    if (err != NEF_OK)
        return err;
    memset(&op, 0, sizeof op);
    op.type = type;
    op.u.list.count = count;
    op.u.list.items = items->data;
    return propose(p, &op);
}

/* ---- moves ---- */

void nef_compact_copied(struct nef_cell *cell, const struct nef_id *stream, uint32_t piece, uint64_t to)
{
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    for (uint32_t i = 0; cell->move_count > 0 && i < NEF_MOVES_MAX; i++) {
        struct nef_move *m = &cell->moves[i];

        if (m->started_ms != 0 && m->to == 0 && m->piece == piece &&
            nef_id_equal(&m->stream, stream)) {
            m->to = to;
            break;
        }
    }
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
}

/* A copy whose piece was deleted before it came looks like the first piece of a new stream, of this very
 * process: nobody would ever end that. It is told from a stream that is still written by where it begins. */
static nef_err abort_copy(struct plan *p, const struct nef_move *m)
{
    struct nef_buf value = {0};
    struct nef_row_stream row;
    struct nef_row_key k;
    struct nef_op op;
    nef_err err;

    nef_key_id(&k, 'S', &m->stream);
    err = nef_cell_get(p->cell, &k, &value);
    if (err == NEF_OK)
        err = nef_row_stream_get(value.data, value.bytes, &row);
    nef_buf_free(&value);
    if (err != NEF_OK || row.first <= m->from)
        return err == NEF_E_NOT_FOUND ? NEF_OK : err;
    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_STREAM_ABORT;
    op.stream = m->stream;
    op.u.stream_abort.proposer = row.proposer;
    return propose(p, &op);
}

/* `moved` for the copies that were applied; those that never came are forgotten. */
static nef_err finish_moves(struct plan *p)
{
    struct nef_cell *cell = p->cell;
    struct nef_buf items = {0};
    struct nef_move lost[LOST_COPIES_MAX];
    uint32_t count = 0, lost_count = 0;
    nef_err err = NEF_OK;

    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    for (uint32_t i = 0; cell->move_count > 0 && i < NEF_MOVES_MAX; i++) {
        struct nef_move *m = &cell->moves[i];

        if (m->started_ms == 0 || (m->to == 0 && !older(p->now_ms, m->started_ms, MOVE_FORGET_MS)))
            continue;
        if (m->to != 0) {
            nef_buf_append(&items, m->stream.bytes, 16);
            nef_buf_u32(&items, m->piece);
            nef_buf_u64(&items, m->from);
            nef_buf_u64(&items, m->to);
            count++;
        } else if (lost_count < LOST_COPIES_MAX) {
            lost[lost_count++] = *m;
        } else {
            continue; /* the next call */
        }
        m->started_ms = 0;
        cell->move_count--;
    }
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
    if (count > 0)
        err = propose_list(p, NEF_RECORD_MOVED, count, &items);
    for (uint32_t i = 0; err == NEF_OK && i < lost_count && p->count < p->max; i++)
        err = abort_copy(p, &lost[i]);
    nef_buf_free(&items);
    return err;
}

/* A slot for the copy of a piece; NULL: none is free, or it is being copied. */
static struct nef_move *move_slot(struct nef_cell *cell, const struct nef_id *stream, uint32_t piece)
{
    struct nef_move *slot = NULL;

    for (uint32_t i = 0; i < NEF_MOVES_MAX; i++) {
        struct nef_move *m = &cell->moves[i];

        if (m->started_ms == 0)
            slot = slot == NULL ? m : slot;
        else if (m->piece == piece && nef_id_equal(&m->stream, stream))
            return NULL;
    }
    return slot;
}

static nef_err copy_piece(struct plan *p, const struct nef_record *r, uint32_t piece_number,
                          const struct nef_row_piece *piece, uint8_t *body)
{
    struct nef_cell *cell = p->cell;
    struct nef_record again;
    struct nef_move *slot;
    uint64_t next;
    nef_err err = nef_log_record(cell->log, r->offset, &again, body, &next);

    if (err == NEF_E_CORRUPT || err == NEF_E_TORN) {
        nef_trace(NEF_TRACE_WARN, "compact_damaged", "u:cell", (uint64_t)cell->number, "u:offset",
                  r->offset, NULL); /* scrub repairs it; the segment stays until then */
        return NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    if ((again.flags & NEF_RECORD_ERASED) != 0 ||
        (uint64_t)piece->cipher_at - NEF_RECORD_HEADER_BYTES + piece->cipher_bytes != again.body_bytes)
        return NEF_OK;
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    slot = move_slot(cell, &r->stream, piece_number);
    if (slot != NULL) {
        *slot = (struct nef_move){.stream = r->stream,
                                  .piece = piece_number,
                                  .from = r->offset,
                                  .started_ms = NEF_MAX(p->now_ms, 1)};
        cell->move_count++;
    }
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
    if (slot == NULL)
        return NEF_OK;
    err = nef_run_cipher(&r->stream, r->bucket_key_id, piece_number, cell->number,
                         body + (piece->cipher_at - NEF_RECORD_HEADER_BYTES), piece->cipher_bytes,
                         &p->runs[p->count]);
    if (err == NEF_OK)
        p->count++;
    return err;
}

/* Go on reading the victim from scan_offset; propose copies of what is live. */
static nef_err scan_segment(struct plan *p, struct nef_buf *value)
{
    struct nef_cell *cell = p->cell;
    uint64_t segment_bytes = p->store->options.segment_bytes;
    uint64_t end = (cell->scan_segment + 1) * segment_bytes;
    uint8_t *body = malloc(NEF_RECORD_BODY_MAX);
    nef_err err = NEF_OK;

    if (body == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < SCAN_RECORDS_MAX && p->count < p->max && cell->scan_offset < end; i++) {
        struct nef_row_piece piece;
        struct nef_record r;
        struct nef_row_key k;
        uint64_t next;
        uint32_t number;

        err = nef_log_record(cell->log, cell->scan_offset, &r, NULL, &next);
        if (err != NEF_OK) { /* damaged or just dropped: another round, another look */
            err = NEF_OK;
            cell->scan_offset = end;
            break;
        }
        number = r.type == NEF_RECORD_DATA ? r.piece : 0;
        if (r.type == NEF_RECORD_DATA || r.type == NEF_RECORD_OBJECT_PUT ||
            r.type == NEF_RECORD_PART_PUT) {
            nef_key_id_u32(&k, 'X', &r.stream, number);
            err = nef_cell_get(cell, &k, value);
            if (err == NEF_OK)
                err = nef_row_piece_get(value->data, value->bytes, &piece);
            if (err == NEF_OK && piece.record == r.offset)
                err = copy_piece(p, &r, number, &piece, body);
            if (err != NEF_OK && err != NEF_E_NOT_FOUND)
                break;
            err = NEF_OK;
        }
        cell->scan_offset = next;
    }
    if (cell->scan_offset >= end)
        cell->scan_offset = 0;
    free(body);
    return err;
}

/* ---- segments ---- */

static bool rewrite_due(const struct plan *p, const struct nef_row_segment *row)
{
    return row->live < row->total / 2 ||
           (row->dead_ms != 0 &&
            older(p->now_ms, row->dead_ms, p->store->options.erase_within_ms / 2));
}

/* Look at every L row below the checkpoint: what to drop, and the least live segment to rewrite. */
static nef_err look_at_segments(struct plan *p, struct nef_buf *drops, uint32_t *drop_count,
                                uint64_t *victim, bool *have_victim)
{
    struct nef_cell *cell = p->cell;
    uint64_t segment_bytes = p->store->options.segment_bytes, least = UINT64_MAX;
    struct nef_store_cell_stats stats;
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    bool scan_goes_on = false;
    nef_err err = NEF_OK;

    nef_store_stats(p->store, cell->number, &stats);
    nef_key_kind(&from, 'L');
    nef_key_u64(&to, 'L', stats.checkpoint_offset / segment_bytes);
    *have_victim = false;
    it = nef_cell_rows(cell, &from, &to);
    if (it == NULL)
        return nef_cell_rows_end(cell, it, NEF_OK);
    for (nef_index_iter_first(it); nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);
        struct nef_row_segment row;
        uint64_t segment;

        err = nef_key_read_u64(k, k_bytes, &segment);
        if (err == NEF_OK)
            err = nef_row_segment_get(v, v_bytes, &row);
        if (err != NEF_OK)
            break;
        if (row.live == 0) {
            if (*drop_count < DROP_ITEMS_MAX) {
                nef_buf_u64(drops, segment);
                (*drop_count)++;
            }
            continue;
        }
        if (!rewrite_due(p, &row))
            continue;
        scan_goes_on = scan_goes_on || (cell->scan_offset != 0 && cell->scan_segment == segment);
        if (row.live < least) {
            least = row.live;
            *victim = segment;
            *have_victim = true;
        }
    }
    err = nef_cell_rows_end(cell, it, err);
    if (scan_goes_on)
        *victim = cell->scan_segment;
    return err;
}

static nef_err plan_segments(struct plan *p)
{
    struct nef_cell *cell = p->cell;
    uint64_t victim = 0;
    struct nef_buf drops = {0}, value = {0};
    uint32_t drop_count = 0;
    bool have_victim;
    nef_err err = look_at_segments(p, &drops, &drop_count, &victim, &have_victim);

    if (err == NEF_OK && drop_count > 0)
        err = propose_list(p, NEF_RECORD_DROP, drop_count, &drops);
    if (err == NEF_OK && have_victim && p->count < p->max) {
        if (cell->scan_offset == 0 || cell->scan_segment != victim) {
            cell->scan_segment = victim;
            cell->scan_offset =
                victim * p->store->options.segment_bytes + NEF_SEGMENT_HEADER_BYTES;
        }
        err = scan_segment(p, &value);
    } else if (!have_victim) {
        cell->scan_offset = 0;
    }
    nef_buf_free(&drops);
    nef_buf_free(&value);
    return err;
}

/* ---- erasures ---- */

static nef_err plan_erasures(struct plan *p)
{
    struct nef_cell *cell = p->cell;
    uint64_t after_ms = p->store->options.erase_within_ms / 2;
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    struct nef_buf items = {0};
    uint32_t count = 0, looked = 0;
    nef_err err = NEF_OK;

    nef_key_u64(&from, 'E', cell->dead_cursor);
    nef_key_kind(&to, 'E');
    nef_key_after_prefix(&to);
    it = nef_cell_rows(cell, &from, &to);
    if (it == NULL)
        return nef_cell_rows_end(cell, it, NEF_OK);
    for (nef_index_iter_first(it);
         nef_index_iter_valid(it) && looked < DEAD_ROWS_MAX && count < ERASE_ITEMS_MAX;
         nef_index_iter_next(it), looked++) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);
        struct nef_row_dead row;
        uint64_t offset;

        err = nef_key_read_u64(k, k_bytes, &offset);
        if (err == NEF_OK)
            err = nef_row_dead_get(v, v_bytes, &row);
        if (err != NEF_OK)
            break;
        cell->dead_cursor = offset + 1;
        if (row.erased == 0 && older(p->now_ms, row.dead_ms, after_ms)) {
            nef_buf_u64(&items, offset);
            count++;
        }
    }
    if (err == NEF_OK && !nef_index_iter_valid(it))
        cell->dead_cursor = 0;
    err = nef_cell_rows_end(cell, it, err);
    if (err == NEF_OK && count > 0)
        err = propose_list(p, NEF_RECORD_ERASE, count, &items);
    nef_buf_free(&items);
    return err;
}

/* ---- streams ---- */

static bool is_alive(const struct nef_row_stream *row, const uint64_t *alive, uint32_t alive_count)
{
    for (uint32_t i = 0; i < alive_count; i++)
        if (alive[i] == row->proposer)
            return true;
    return false;
}

static nef_err plan_aborts(struct plan *p, const uint64_t *alive, uint32_t alive_count)
{
    struct nef_cell *cell = p->cell;
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    uint32_t looked = 0;
    nef_err err = NEF_OK;

    nef_key_id(&from, 'S', &cell->stream_cursor);
    nef_key_kind(&to, 'S');
    nef_key_after_prefix(&to);
    it = nef_cell_rows(cell, &from, &to);
    if (it == NULL)
        return nef_cell_rows_end(cell, it, NEF_OK);
    nef_index_iter_first(it);
    for (; err == NEF_OK && nef_index_iter_valid(it) && looked < STREAM_ROWS_MAX && p->count < p->max;
         nef_index_iter_next(it), looked++) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);
        struct nef_row_stream row;
        struct nef_op op;

        memset(&op, 0, sizeof op);
        err = nef_key_read_id(k, k_bytes, &op.stream);
        if (err == NEF_OK)
            err = nef_row_stream_get(v, v_bytes, &row);
        if (err != NEF_OK)
            break;
        cell->stream_cursor = op.stream;
        /* The age keeps clear of a proposer that has just started and isn't in the list yet. */
        if (row.proposer != 0 &&
            (is_alive(&row, alive, alive_count) || !older(p->now_ms, row.time_ms, STREAM_AGE_MS)))
            continue;
        op.type = NEF_RECORD_STREAM_ABORT;
        op.u.stream_abort.proposer = row.proposer;
        err = propose(p, &op);
    }
    if (err == NEF_OK && !nef_index_iter_valid(it))
        memset(&cell->stream_cursor, 0, sizeof cell->stream_cursor);
    err = nef_cell_rows_end(cell, it, err);
    return err;
}

/* ---- buckets ---- */

static nef_err propose_bucket(struct plan *p, uint16_t type, const struct nef_id *bucket,
                              const struct nef_id *token)
{
    struct nef_op op;
    nef_err err;

    memset(&op, 0, sizeof op);
    op.type = type;
    op.u.bucket.bucket = *bucket;
    op.u.bucket.token = *token;
    err = propose(p, &op);
    if (err == NEF_OK)
        nef_trace(NEF_TRACE_INFO, "bucket_repair", "u:cell", (uint64_t)p->cell->number, "s:op",
                  nef_record_type_name(type), NULL);
    return err;
}

struct bucket {
    struct nef_id id;
    struct nef_row_bucket row;
};

/* Only what has been as it is for long: younger ones may be under way. Cell 0's open ones are right by definition. */
static bool may_need_repair(const struct plan *p, const struct nef_row_bucket *row)
{
    if (row->closed)
        return older(p->now_ms, row->closed_ms, NEF_REPAIR_AFTER_MS);
    return p->cell->number != 0 && older(p->now_ms, row->created_ms, NEF_REPAIR_AFTER_MS);
}

/* Cell 0 says what there is. It is reopened first; only then the others: otherwise a deletion that is still
 * under way could delete the name after another cell had taken a put again. */
static nef_err repair_bucket(struct plan *p, const struct nef_id *id, const struct nef_row_bucket *row,
                             struct nef_buf *value)
{
    struct nef_row_bucket owner;
    struct nef_row_key k;
    struct nef_id token;
    nef_err err;

    if (p->cell->number == 0)
        return propose_bucket(p, NEF_RECORD_BUCKET_REOPEN, id, &row->token);
    nef_key_id(&k, 'B', id);
    err = nef_cell_get(&p->store->cells[0], &k, value);
    if (err == NEF_E_NOT_FOUND) {
        if (row->closed)
            return propose_bucket(p, NEF_RECORD_BUCKET_DELETE, id, &row->token);
        nef_random(token.bytes, sizeof token.bytes);
        return propose_bucket(p, NEF_RECORD_BUCKET_CLOSE, id, &token);
    }
    if (err == NEF_OK)
        err = nef_row_bucket_get(value->data, value->bytes, &owner);
    if (err != NEF_OK || owner.closed || !row->closed)
        return err;
    return propose_bucket(p, NEF_RECORD_BUCKET_REOPEN, id, &row->token);
}

/* The buckets of this cell that may need repair, appended to out_buckets. Read to the end before cell 0 is asked: a
 * listing holds cell 0 and then asks the others, so holding this one while asking cell 0 could stop both. */
static nef_err find_repairs(const struct plan *p, struct nef_buf *out_buckets)
{
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    nef_err err = NEF_OK;

    nef_key_kind(&from, 'B');
    to = from;
    nef_key_after_prefix(&to);
    it = nef_cell_rows(p->cell, &from, &to);
    if (it == NULL)
        return nef_cell_rows_end(p->cell, it, NEF_OK);
    nef_index_iter_first(it);
    for (; err == NEF_OK && nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);
        struct bucket b;

        memset(&b, 0, sizeof b);
        err = nef_key_read_id(k, k_bytes, &b.id);
        if (err == NEF_OK)
            err = nef_row_bucket_get(v, v_bytes, &b.row);
        if (err == NEF_OK && may_need_repair(p, &b.row))
            nef_buf_append(out_buckets, &b, sizeof b);
    }
    if (err == NEF_OK)
        err = nef_buf_end(out_buckets);
    return nef_cell_rows_end(p->cell, it, err);
}

static nef_err plan_repairs(struct plan *p)
{
    struct nef_log *log0 = p->store->options.logs[0];
    struct nef_buf buckets = {0}, value = {0};
    nef_err err;

    /* What cell 0 doesn't know must not be a bucket whose op just wasn't applied here yet. */
    if (nef_log_end(log0) - NEF_MIN(nef_log_end(log0), nef_store_applied(p->store, 0)) > REPAIR_LAG_MAX)
        return NEF_OK;
    err = find_repairs(p, &buckets);
    for (size_t at = 0; err == NEF_OK && at < buckets.bytes && p->count < p->max; at += sizeof(struct bucket)) {
        struct bucket b;

        memcpy(&b, buckets.data + at, sizeof b);
        err = repair_bucket(p, &b.id, &b.row, &value);
    }
    nef_buf_free(&buckets);
    nef_buf_free(&value);
    return err;
}

/* ---- all of it ---- */

nef_err nef_store_maintain(struct nef_store *store, uint32_t number, uint64_t now_ms,
                           const uint64_t *alive, uint32_t alive_count, struct nef_run *out_runs,
                           uint32_t max, uint32_t *out_count)
{
    struct nef_cell *cell = &store->cells[number];
    struct plan p = {
        .store = store, .cell = cell, .now_ms = now_ms, .runs = out_runs, .max = max};
    uint64_t round;
    nef_err err = NEF_OK;

    NEF_ASSERT(number < store->options.cell_count);
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    cell->now_ms = now_ms;
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
    if (p.count < max)
        err = finish_moves(&p);
    round = cell->rounds++;
    if (err == NEF_OK && p.count < max && round % REPAIR_ROUNDS == 0)
        err = plan_repairs(&p);
    if (err == NEF_OK && p.count < max && round % LOOK_ROUNDS == 1)
        err = plan_erasures(&p);
    if (err == NEF_OK && p.count < max && round % LOOK_ROUNDS == 2)
        err = plan_aborts(&p, alive, alive_count);
    if (err == NEF_OK && p.count < max && (round % LOOK_ROUNDS == 3 || cell->scan_offset != 0))
        err = plan_segments(&p);
    if (err != NEF_OK) {
        while (p.count > 0)
            nef_run_free(&out_runs[--p.count]);
        return err;
    }
    *out_count = p.count;
    return NEF_OK;
}
