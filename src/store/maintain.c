/* Maintenance: what the primary proposes so that the log doesn't keep what nobody needs; compaction is compact.c.
 *
 *   erase    bodies of DATA records that are dead for half of erase_within
 *   aborts   streams whose proposer is gone (or that were too large to free in one op)
 *   repairs  what a create or delete of a bucket left that nobody finished
 *
 * Nothing here decides anything: every op is checked again when it is applied, so a plan made from rows that
 * changed meanwhile does no harm. What is remembered between calls (cursors) may be lost at any time. */
#include <string.h>
#include "base/trace.h"
#include "store/plan.h"

#define ERASE_ITEMS_MAX  512u
#define DEAD_ROWS_MAX    2048u /* E rows looked at in a call */
#define STREAM_ROWS_MAX  1024u
#define REPAIR_ROUNDS    16u   /* buckets are looked at every so many calls */
#define LOOK_ROUNDS      4u    /* the other duties have their turns every so many calls */
#define REPAIR_LAG_MAX   ((uint64_t)16 << 20)
#define STREAM_AGE_MS    60000u

/* ---- plans ---- */

bool nef_plan_older(uint64_t now_ms, uint64_t then_ms, uint64_t age_ms)
{
    return now_ms > then_ms && now_ms - then_ms >= age_ms;
}

nef_err nef_plan_op(struct nef_plan *p, const struct nef_op *op)
{
    nef_err err = nef_run_op(p->store->options.keys, op, p->cell->number, NULL, NULL, NULL, 0,
                             &p->runs[p->count]);

    if (err == NEF_OK)
        p->count++;
    return err;
}

nef_err nef_plan_list(struct nef_plan *p, uint16_t type, uint32_t count, const struct nef_buf *items)
{
    struct nef_op op;
    nef_err err = nef_buf_end(items);

    if (err != NEF_OK)
        return err;
    memset(&op, 0, sizeof op);
    op.type = type;
    op.u.list.count = count;
    op.u.list.items = items->data;
    return nef_plan_op(p, &op);
}

void nef_plan_drop(struct nef_plan *p)
{
    while (p->count > 0)
        nef_run_free(&p->runs[--p->count]);
}

/* ---- erasures ---- */

static nef_err plan_erasures(struct nef_plan *p)
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
        if (row.erased == 0 && nef_plan_older(p->now_ms, row.dead_ms, after_ms)) {
            nef_buf_u64(&items, offset);
            count++;
        }
    }
    if (err == NEF_OK && !nef_index_iter_valid(it))
        cell->dead_cursor = 0;
    err = nef_cell_rows_end(cell, it, err);
    if (err == NEF_OK && count > 0)
        err = nef_plan_list(p, NEF_RECORD_ERASE, count, &items);
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

static nef_err plan_aborts(struct nef_plan *p, const uint64_t *alive, uint32_t alive_count)
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
            (is_alive(&row, alive, alive_count) || !nef_plan_older(p->now_ms, row.time_ms, STREAM_AGE_MS)))
            continue;
        op.type = NEF_RECORD_STREAM_ABORT;
        op.u.stream_abort.proposer = row.proposer;
        err = nef_plan_op(p, &op);
    }
    if (err == NEF_OK && !nef_index_iter_valid(it))
        memset(&cell->stream_cursor, 0, sizeof cell->stream_cursor);
    err = nef_cell_rows_end(cell, it, err);
    return err;
}

/* ---- buckets ---- */

static nef_err propose_bucket(struct nef_plan *p, uint16_t type, const struct nef_id *bucket,
                              const struct nef_id *token)
{
    struct nef_op op;
    nef_err err;

    memset(&op, 0, sizeof op);
    op.type = type;
    op.u.bucket.bucket = *bucket;
    op.u.bucket.token = *token;
    err = nef_plan_op(p, &op);
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
static bool may_need_repair(const struct nef_plan *p, const struct nef_row_bucket *row)
{
    if (row->closed)
        return nef_plan_older(p->now_ms, row->closed_ms, NEF_REPAIR_AFTER_MS);
    return p->cell->number != 0 && nef_plan_older(p->now_ms, row->created_ms, NEF_REPAIR_AFTER_MS);
}

/* Cell 0 says what there is. It is reopened first; only then the others: otherwise a deletion that is still
 * under way could delete the name after another cell had taken a put again. */
static nef_err repair_bucket(struct nef_plan *p, const struct nef_id *id, const struct nef_row_bucket *row,
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
static nef_err find_repairs(const struct nef_plan *p, struct nef_buf *out_buckets)
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

static nef_err plan_repairs(struct nef_plan *p)
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
    struct nef_plan p = {
        .store = store, .cell = cell, .now_ms = now_ms, .runs = out_runs, .max = max};
    uint64_t round = cell->rounds++;
    nef_err err = NEF_OK;

    NEF_ASSERT(number < store->options.cell_count);
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    cell->now_ms = now_ms;
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
    if (p.count < max && round % REPAIR_ROUNDS == 0)
        err = plan_repairs(&p);
    if (err == NEF_OK && p.count < max && round % LOOK_ROUNDS == 1)
        err = plan_erasures(&p);
    if (err == NEF_OK && p.count < max && round % LOOK_ROUNDS == 2)
        err = plan_aborts(&p, alive, alive_count);
    if (err != NEF_OK) {
        nef_plan_drop(&p);
        return err;
    }
    *out_count = p.count;
    return NEF_OK;
}
