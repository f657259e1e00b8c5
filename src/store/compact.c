/* Compaction: segments that are mostly dead are rewritten, so that the log's length follows what is alive.
 *
 *   drop     segments before the latest checkpoint without a live byte
 *   moves    a segment that lies before the latest checkpoint and is less than live_fraction live, or holds a small
 *            body deleted too long ago, is read through; what X still names in it is proposed again as a
 *            DATA run, and once that was applied (nef_compact_copied) a `moved` op swaps the two
 *
 * One segment a cell is read at a time, the least live one first. One from which something couldn't be taken (a
 * damaged record) is left alone for a while, for it would stay the least live one, and nothing else would ever be
 * compacted. How fast all this goes is the caller's: each call has a bound on its cost (server/maintain.c).
 *
 * Nothing here decides anything: every op is checked again when it is applied, so a plan made from rows that
 * changed meanwhile does no harm. What is remembered between calls (moves under way, the place in a segment) may be
 * lost at any time: a copy without its `moved` is a dead record like any other, and is erased like one. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "store/plan.h"

#define DROP_ITEMS_MAX   64u
#define SCAN_RECORDS_MAX 8192u
#define LOOK_MS          400u    /* between looks at the segments, for what can be dropped */
#define AGAIN_MS         10000u  /* a segment that was read through, and in which something is still alive */
#define DAMAGED_MS       600000u /* one of which something couldn't be read: the scrub needs time to repair it */
#define MOVE_FORGET_MS   60000u
#define LOST_COPIES_MAX  8u

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
static nef_err abort_copy(struct nef_plan *p, const struct nef_move *m)
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
    return nef_plan_op(p, &op);
}

/* `moved` for the copies that were applied; those that never came are forgotten. */
static nef_err finish_moves(struct nef_plan *p)
{
    struct nef_cell *cell = p->cell;
    struct nef_buf items = {0};
    struct nef_move lost[LOST_COPIES_MAX];
    uint32_t count = 0, lost_count = 0;
    nef_err err = NEF_OK;

    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    for (uint32_t i = 0; cell->move_count > 0 && i < NEF_MOVES_MAX; i++) {
        struct nef_move *m = &cell->moves[i];

        if (m->started_ms == 0 || (m->to == 0 && !nef_plan_older(p->now_ms, m->started_ms, MOVE_FORGET_MS)))
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
        err = nef_plan_list(p, NEF_RECORD_MOVED, count, &items);
    for (uint32_t i = 0; err == NEF_OK && i < lost_count && p->count < p->max; i++)
        err = abort_copy(p, &lost[i]);
    nef_buf_free(&items);
    return err;
}

/* A slot for the copy of a piece; NULL: it is being copied already. The caller saw that there is a free one. */
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

/* Copies that wait, for their outcome or their `moved`. */
static uint32_t moves(struct nef_cell *cell)
{
    uint32_t count;

    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    count = cell->move_count;
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
    return count;
}

static nef_err copy_piece(struct nef_plan *p, const struct nef_record *r, uint32_t piece_number,
                          const struct nef_row_piece *piece, uint8_t *body)
{
    struct nef_cell *cell = p->cell;
    struct nef_record again;
    struct nef_move *slot;
    uint64_t next;
    nef_err err = nef_log_record(cell->log, r->offset, &again, body, &next);

    if (err == NEF_E_CORRUPT || err == NEF_E_TORN || err == NEF_E_VERSION || err == NEF_E_IO) {
        nef_trace(NEF_TRACE_WARN, "compact_damaged", "u:cell", (uint64_t)cell->number, "u:offset",
                  r->offset, NULL); /* scrub repairs it; the segment stays until then */
        cell->scan_damaged = true;
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

/* The record at cell->scan_offset: a copy of what is alive in it. */
static nef_err scan_record(struct nef_plan *p, struct nef_buf *value, uint8_t *body, uint64_t *out_next)
{
    struct nef_cell *cell = p->cell;
    struct nef_row_piece piece;
    struct nef_record r;
    struct nef_row_key k;
    uint32_t number;
    nef_err err = nef_log_record(cell->log, cell->scan_offset, &r, NULL, out_next);

    if (err != NEF_OK) { /* damaged or just dropped: another time, another look */
        cell->scan_damaged = cell->scan_damaged || err != NEF_E_NOT_FOUND;
        *out_next = UINT64_MAX;
        return NEF_OK;
    }
    if (r.type != NEF_RECORD_DATA && r.type != NEF_RECORD_OBJECT_PUT && r.type != NEF_RECORD_PART_PUT)
        return NEF_OK;
    number = r.type == NEF_RECORD_DATA ? r.piece : 0;
    nef_key_id_u32(&k, 'X', &r.stream, number);
    err = nef_cell_get(cell, &k, value);
    if (err == NEF_OK)
        err = nef_row_piece_get(value->data, value->bytes, &piece);
    if (err == NEF_OK && piece.record == r.offset)
        err = copy_piece(p, &r, number, &piece, body);
    return err == NEF_E_NOT_FOUND ? NEF_OK : err;
}

/* It was read through. What isn't alive in it soon, since all was copied, isn't looked into again at once. */
static void scan_ended(struct nef_plan *p)
{
    struct nef_cell *cell = p->cell;

    cell->skipped[cell->skip_next] = (struct nef_skip){
        cell->scan_segment + 1, p->now_ms + (cell->scan_damaged ? DAMAGED_MS : AGAIN_MS)};
    cell->skip_next = (cell->skip_next + 1) % NEF_SKIPS_MAX;
    cell->scan_offset = 0;
    cell->look_wanted = true; /* for the next one */
}

/* Go on reading the victim from scan_offset; propose copies of what is alive, while COST allows. */
static nef_err scan_segment(struct nef_plan *p, uint64_t cost_max, uint64_t *cost)
{
    struct nef_cell *cell = p->cell;
    uint64_t end = (cell->scan_segment + 1) * p->store->options.segment_bytes;
    uint8_t *body = malloc(NEF_RECORD_BODY_MAX);
    uint32_t room = NEF_MOVES_MAX - moves(cell), before = p->count;
    struct nef_buf value = {0};
    nef_err err = NEF_OK;

    if (body == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; err == NEF_OK && i < SCAN_RECORDS_MAX && p->count < p->max &&
                         p->count - before < room && *cost < cost_max && cell->scan_offset < end; i++) {
        uint32_t count = p->count;
        uint64_t next = end;

        err = scan_record(p, &value, body, &next);
        if (err == NEF_OK)
            cell->scan_offset = next;
        if (p->count > count)
            *cost += NEF_COMPACT_RECORD_COST + p->runs[count].bytes;
    }
    if (cell->scan_offset >= end)
        scan_ended(p);
    nef_buf_free(&value);
    free(body);
    return err;
}

/* ---- segments ---- */

static bool rewrite_due(const struct nef_plan *p, const struct nef_row_segment *row)
{
    return (double)row->live < (double)row->total * p->store->options.live_fraction ||
           (row->dead_ms != 0 &&
            nef_plan_older(p->now_ms, row->dead_ms, p->store->options.erase_within_ms / 2));
}

static bool skipped(const struct nef_plan *p, uint64_t segment)
{
    for (uint32_t i = 0; i < NEF_SKIPS_MAX; i++) {
        const struct nef_skip *s = &p->cell->skipped[i];

        /* a clock that was set back must not make it longer */
        if (s->segment == segment + 1 && p->now_ms < s->until_ms && s->until_ms - p->now_ms <= DAMAGED_MS)
            return true;
    }
    return false;
}

/* Look at every L row below the checkpoint: what to drop, and the least live segment to rewrite. */
static nef_err look_at_segments(struct nef_plan *p, struct nef_buf *drops, uint32_t *drop_count,
                                uint64_t *victim, bool *have_victim)
{
    struct nef_cell *cell = p->cell;
    uint64_t segment_bytes = p->store->options.segment_bytes, least = UINT64_MAX;
    struct nef_store_cell_stats stats;
    struct nef_row_key from, to;
    struct nef_index_iter *it;
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
        } else if (rewrite_due(p, &row) && row.live < least && !skipped(p, segment)) {
            least = row.live;
            *victim = segment;
            *have_victim = true;
        }
    }
    return nef_cell_rows_end(cell, it, err);
}

/* Propose drops; choose a segment if none is being read. */
static nef_err look(struct nef_plan *p)
{
    struct nef_cell *cell = p->cell;
    struct nef_buf drops = {0};
    uint32_t drop_count = 0;
    uint64_t victim = 0;
    bool have_victim;
    nef_err err = look_at_segments(p, &drops, &drop_count, &victim, &have_victim);

    if (err == NEF_OK && drop_count > 0)
        err = nef_plan_list(p, NEF_RECORD_DROP, drop_count, &drops);
    if (err == NEF_OK && cell->scan_offset == 0 && have_victim) {
        cell->scan_segment = victim;
        cell->scan_offset = victim * p->store->options.segment_bytes + NEF_SEGMENT_HEADER_BYTES;
        cell->scan_damaged = false;
    }
    nef_buf_free(&drops);
    return err;
}

nef_err nef_store_compact(struct nef_store *store, uint32_t number, uint64_t now_ms, uint64_t cost_max,
                          struct nef_run *out_runs, uint32_t max, uint32_t *out_count, uint64_t *out_cost)
{
    struct nef_cell *cell = &store->cells[number];
    struct nef_plan p = {.store = store, .cell = cell, .now_ms = now_ms, .runs = out_runs, .max = max};
    uint64_t cost = 0;
    nef_err err;

    NEF_ASSERT(number < store->options.cell_count && max > 0);
    err = finish_moves(&p);
    /* At once if a segment was just read through and all of it has moved; a clock that was set back does no harm. */
    if (err == NEF_OK && p.count < max &&
        ((cell->look_wanted && moves(cell) == 0) || now_ms < cell->look_ms || now_ms - cell->look_ms >= LOOK_MS)) {
        err = look(&p);
        cell->look_ms = now_ms;
        cell->look_wanted = false;
    }
    if (err == NEF_OK && cell->scan_offset != 0)
        err = scan_segment(&p, cost_max, &cost);
    if (err != NEF_OK) {
        nef_plan_drop(&p);
        return err;
    }
    *out_count = p.count;
    *out_cost = cost;
    return NEF_OK;
}
