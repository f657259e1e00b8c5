/* Opening, closing and rebuilding; what apply keeps in memory; flushing.
 *
 * An index is trusted only if the log agrees with it: the last record that row A says was applied must
 * stand at its place with its epoch, and the next place must follow it. Then equal epoch and offset mean
 * that everything before is equal too (design R6). Any doubt costs a rebuild, never a wrong answer: the log
 * is the truth.
 *
 * Which files of segments may go is not kept anywhere: after each flush a segment below the applied offset
 * without a row L is unlinked. That one rule covers a drop that was just applied, one whose process was
 * killed between flush and unlink, and what a replica kept that came back after others had dropped it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "store/store_internal.h"

#define ERASE_SWEEP_ROWS 1024u
/* Sums over all segments of a large cell aren't made anew after every small batch. */
#define STATS_EXACT_SEGMENTS 256u
#define STATS_SKIP_MAX       256u
#define CHUNK_BYTES      (NEF_RECORD_HEADER_BYTES + NEF_RECORD_BODY_MAX + 4096u)

/* ---- reading ---- */

void nef_cell_read_begin(struct nef_cell *cell)
{
    NEF_ASSERT(pthread_rwlock_rdlock(&cell->index_lock) == 0);
}

void nef_cell_read_end(struct nef_cell *cell)
{
    NEF_ASSERT(pthread_rwlock_unlock(&cell->index_lock) == 0);
}

struct nef_index_iter *nef_cell_rows(struct nef_cell *cell, const struct nef_row_key *from,
                                     const struct nef_row_key *to)
{
    nef_cell_read_begin(cell);
    if (cell->index == NULL)
        return NULL;
    return nef_index_iter_new(cell->index, NULL, from->data, from->bytes, to->data, to->bytes);
}

nef_err nef_cell_rows_end(struct nef_cell *cell, struct nef_index_iter *it, nef_err err)
{
    if (it == NULL) {
        err = NEF_E_UNAVAILABLE;
    } else {
        if (err == NEF_OK)
            err = nef_index_iter_error(it);
        nef_index_iter_free(it);
    }
    nef_cell_read_end(cell);
    return err;
}

void nef_buckets_changed(struct nef_cell *cell)
{
    cell->buckets_dirty = false;
    memset(&cell->open_bucket, 0, sizeof cell->open_bucket);
    if (cell->number == 0) /* names are there */
        (void)atomic_fetch_add(&cell->store->buckets.generation, 1);
}

nef_err nef_cell_get(struct nef_cell *cell, const struct nef_row_key *k, struct nef_buf *out_value)
{
    nef_err err;

    nef_cell_read_begin(cell);
    err = cell->index == NULL ? NEF_E_UNAVAILABLE
                              : nef_index_get(cell->index, NULL, k->data, k->bytes, out_value);
    nef_cell_read_end(cell);
    return err;
}

/* ---- what apply keeps in memory ---- */

/* A row that may be missing. */
static nef_err optional(nef_err err, bool *out_there)
{
    *out_there = err == NEF_OK;
    return err == NEF_E_NOT_FOUND ? NEF_OK : err;
}

static nef_err load_state_rows(struct nef_cell *cell)
{
    struct nef_buf *v = &cell->value;
    struct nef_row_key k;
    bool there;
    nef_err err;

    memset(&cell->at, 0, sizeof cell->at);
    memset(&cell->totals, 0, sizeof cell->totals);
    memset(&cell->checkpoint, 0, sizeof cell->checkpoint);
    memset(&cell->region, 0, sizeof cell->region);
    nef_key_kind(&k, 'A');
    err = optional(nef_index_get(cell->index, NULL, k.data, k.bytes, v), &there);
    if (err == NEF_OK && there)
        err = nef_row_applied_get(v->data, v->bytes, &cell->at);
    if (err != NEF_OK)
        return err;
    nef_key_kind(&k, 'T');
    err = optional(nef_index_get(cell->index, NULL, k.data, k.bytes, v), &there);
    if (err == NEF_OK && there)
        err = nef_row_totals_get(v->data, v->bytes, &cell->totals);
    if (err != NEF_OK)
        return err;
    nef_key_kind(&k, 'C');
    err = optional(nef_index_get(cell->index, NULL, k.data, k.bytes, v), &there);
    if (err == NEF_OK && there)
        err = nef_row_checkpoint_get(v->data, v->bytes, &cell->checkpoint);
    if (err != NEF_OK)
        return err;
    nef_key_kind(&k, 'R');
    err = optional(nef_index_get(cell->index, NULL, k.data, k.bytes, v), &cell->has_region);
    if (err == NEF_OK && cell->has_region)
        err = nef_row_region_get(v->data, v->bytes, &cell->region);
    cell->totals_dirty = cell->checkpoint_dirty = false;
    return err;
}

/* Call VISIT for each row of KIND. */
static nef_err each_row(struct nef_cell *cell, char kind,
                        nef_err (*visit)(void *context, const uint8_t *k, size_t k_bytes,
                                         const uint8_t *value, size_t value_bytes),
                        void *context)
{
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    nef_err err = NEF_OK;

    nef_key_kind(&from, kind);
    to = from;
    nef_key_after_prefix(&to);
    it = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
    if (it == NULL)
        return NEF_E_NOMEM;
    for (nef_index_iter_first(it); err == NEF_OK && nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, value_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *value = nef_index_iter_value(it, &value_bytes);

        err = visit(context, k, k_bytes, value, value_bytes);
    }
    if (err == NEF_OK)
        err = nef_index_iter_error(it);
    nef_index_iter_free(it);
    return err;
}

static nef_err load_segment(void *context, const uint8_t *k, size_t k_bytes, const uint8_t *value,
                            size_t value_bytes)
{
    struct nef_cell *cell = context;
    struct nef_segment_count *s;
    struct nef_row_segment row;
    uint64_t segment;
    nef_err err = nef_key_read_u64(k, k_bytes, &segment);

    if (err == NEF_OK)
        err = nef_row_segment_get(value, value_bytes, &row);
    if (err != NEF_OK)
        return err;
    if (cell->segment_count == cell->segment_capacity) {
        uint32_t capacity = cell->segment_capacity == 0 ? 64 : cell->segment_capacity * 2;

        s = realloc(cell->segments, capacity * sizeof *s);
        if (s == NULL)
            return NEF_E_NOMEM;
        cell->segments = s;
        cell->segment_capacity = capacity;
    }
    cell->segments[cell->segment_count++] = (struct nef_segment_count){segment, row, false};
    return NEF_OK;
}

struct outcome_list {
    struct outcome_at {
        uint64_t proposer;
        struct nef_outcome outcome;
    } *items;
    uint32_t count, capacity;
};

static nef_err load_outcome(void *context, const uint8_t *k, size_t k_bytes, const uint8_t *value,
                            size_t value_bytes)
{
    struct outcome_list *list = context;
    struct outcome_at item;
    uint32_t slot;
    nef_err err = nef_key_read_outcome(k, k_bytes, &item.proposer, &slot);

    if (err == NEF_OK)
        err = nef_row_outcome_get(value, value_bytes, &item.outcome);
    if (err == NEF_OK && (item.proposer == 0 || item.outcome.number % NEF_OUTCOMES_KEPT != slot))
        err = NEF_E_CORRUPT;
    if (err != NEF_OK)
        return err;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? 1024 : list->capacity * 2;
        struct outcome_at *items = realloc(list->items, capacity * sizeof *items);

        if (items == NULL)
            return NEF_E_NOMEM;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
    return NEF_OK;
}

static int outcome_order(const void *a, const void *b)
{
    uint64_t x = ((const struct outcome_at *)a)->outcome.offset;
    uint64_t y = ((const struct outcome_at *)b)->outcome.offset;

    return x < y ? -1 : x > y;
}

/* In the order in which they were applied, so that the table ends as it was. */
static nef_err load_outcomes(struct nef_cell *cell)
{
    struct outcome_list list = {0};
    nef_err err = each_row(cell, 'Q', load_outcome, &list);

    cell->outcomes =
        nef_outcomes_init(cell->outcomes_memory, NEF_PROPOSERS_KEPT, NEF_OUTCOMES_KEPT);
    if (err == NEF_OK && list.count > 1)
        qsort(list.items, list.count, sizeof *list.items, outcome_order);
    for (uint32_t i = 0; err == NEF_OK && i < list.count; i++) {
        uint64_t evicted;

        nef_outcomes_put(cell->outcomes, list.items[i].proposer, &list.items[i].outcome,
                         list.items[i].outcome.offset, &evicted);
        if (evicted != 0)
            err = NEF_E_CORRUPT; /* more proposers than were ever kept */
    }
    free(list.items);
    return err;
}

static nef_err count_row(void *context, const uint8_t *k, size_t k_bytes, const uint8_t *value,
                         size_t value_bytes)
{
    uint32_t *count = context;

    (void)k, (void)k_bytes, (void)value, (void)value_bytes;
    (*count)++;
    return NEF_OK;
}

static nef_err load_key(void *context, const uint8_t *k, size_t k_bytes, const uint8_t *value,
                        size_t value_bytes)
{
    struct nef_cell *cell = context;
    struct nef_row_bucket row;
    struct nef_id id;
    nef_err err = nef_key_read_id(k, k_bytes, &id);

    if (err == NEF_OK)
        err = nef_row_bucket_get(value, value_bytes, &row);
    if (err == NEF_OK)
        err = nef_keys_load(cell->store->options.keys, &id, row.wrapped, row.wrapped_bytes);
    return err;
}

nef_err nef_cell_load_keys(struct nef_cell *cell)
{
    nef_err err;

    if (!cell->has_region)
        return NEF_OK;
    err = nef_keys_load(cell->store->options.keys, &cell->region.region_key, cell->region.op.wrapped,
                        cell->region.op.wrapped_bytes);
    if (err != NEF_OK)
        return err;
    nef_store_region_known(cell->store, &cell->region.region_key);
    return each_row(cell, 'B', load_key, cell);
}

nef_err nef_cell_load(struct nef_cell *cell)
{
    nef_err err = load_state_rows(cell);

    nef_buckets_changed(cell);
    cell->segment_count = 0;
    cell->dirty_count = 0;
    cell->stats_skipped = STATS_SKIP_MAX;
    cell->bucket_count = cell->user_count = 0;
    if (err == NEF_OK)
        err = each_row(cell, 'L', load_segment, cell);
    if (err == NEF_OK)
        err = load_outcomes(cell);
    if (err == NEF_OK)
        err = each_row(cell, 'B', count_row, &cell->bucket_count);
    if (err == NEF_OK)
        err = each_row(cell, 'U', count_row, &cell->user_count);
    if (err != NEF_OK)
        return err;
    nef_cell_stats_update(cell);
    atomic_store_explicit(&cell->applied, cell->at.offset, memory_order_release);
    return NEF_OK;
}

void nef_cell_stats_update(struct nef_cell *cell)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes, dead_ms = 0, live = 0, log = 0;
    bool sums = cell->segment_count <= STATS_EXACT_SEGMENTS ||
                ++cell->stats_skipped > STATS_SKIP_MAX;

    for (uint32_t i = 0; sums && i < cell->segment_count; i++) {
        const struct nef_segment_count *c = &cell->segments[i];

        live += c->row.live;
        log += c->row.total;
        if (c->row.dead_ms != 0 && c->segment >= cell->checkpoint.begin / segment_bytes &&
            c->segment < cell->at.offset / segment_bytes && (dead_ms == 0 || c->row.dead_ms < dead_ms))
            dead_ms = c->row.dead_ms;
    }
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    cell->stats.objects = cell->totals.objects;
    cell->stats.streams_open = cell->totals.streams;
    cell->stats.segments = cell->segment_count;
    cell->stats.checkpoint_offset = cell->checkpoint.begin;
    cell->stats.checkpoint_end = cell->checkpoint.end;
    if (sums) {
        cell->stats.bytes_live = live;
        cell->stats.bytes_log = log;
        cell->dead_ms = dead_ms;
        cell->stats_skipped = 0;
    }
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
}

void nef_store_stats(struct nef_store *store, uint32_t number,
                     struct nef_store_cell_stats *out_stats)
{
    struct nef_cell *cell = &store->cells[number];

    NEF_ASSERT(number < store->options.cell_count);
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    *out_stats = cell->stats;
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
}

uint64_t nef_store_applied(struct nef_store *store, uint32_t number)
{
    NEF_ASSERT(number < store->options.cell_count);
    return atomic_load_explicit(&store->cells[number].applied, memory_order_acquire);
}

/* ---- erasing and flushing ---- */

nef_err nef_cell_erase(struct nef_cell *cell)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes;
    uint32_t i = 0;

    if (cell->store->options.offline)
        cell->erase_count = 0;
    while (i < cell->erase_count) {
        uint32_t from = i;
        nef_err err;

        while (i < cell->erase_count &&
               cell->erase[i] / segment_bytes == cell->erase[from] / segment_bytes)
            i++;
        err = nef_log_erase_many(cell->log, cell->erase + from, i - from);
        if (err == NEF_E_AGAIN || err == NEF_E_NOT_FOUND)
            continue; /* pinned: the sweep comes back to it; dropped: nothing is left to erase */
        if (err == NEF_E_TORN || err == NEF_E_CORRUPT || err == NEF_E_RANGE) {
            nef_trace(NEF_TRACE_WARN, "erase_failed", "u:cell", (uint64_t)cell->number, "u:offset",
                      cell->erase[from], "e:error", err, NULL); /* damaged: scrub repairs it first */
            continue;
        }
        if (err != NEF_OK)
            return err;
    }
    cell->erase_count = 0;
    return NEF_OK;
}

/* Some E rows a flush: erase what an ERASE op named and what couldn't be erased then (a pinned segment, a
 * crash between the batch and the hole). */
static nef_err erase_sweep(struct nef_cell *cell)
{
    struct nef_row_key from, to;
    struct nef_index_iter *it;
    uint32_t left = ERASE_SWEEP_ROWS;
    nef_err err = NEF_OK;

    nef_key_u64(&from, 'E', cell->erase_cursor);
    nef_key_kind(&to, 'E');
    nef_key_after_prefix(&to);
    it = nef_index_iter_new(cell->index, NULL, from.data, from.bytes, to.data, to.bytes);
    if (it == NULL)
        return NEF_E_NOMEM;
    cell->erase_count = 0;
    for (nef_index_iter_first(it); left > 0 && nef_index_iter_valid(it); nef_index_iter_next(it), left--) {
        size_t k_bytes, bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &bytes);
        struct nef_row_dead row;
        struct nef_record record;
        uint64_t offset, next;

        err = nef_key_read_u64(k, k_bytes, &offset);
        if (err == NEF_OK)
            err = nef_row_dead_get(v, bytes, &row);
        if (err != NEF_OK)
            break;
        cell->erase_cursor = offset + 1;
        if (row.erased == 0 ||
            nef_log_record(cell->log, offset, &record, NULL, &next) != NEF_OK ||
            (record.flags & NEF_RECORD_ERASED) != 0)
            continue;
        if (cell->erase_count == cell->erase_capacity)
            break; /* the next sweep */
        cell->erase[cell->erase_count++] = offset;
    }
    if (err == NEF_OK && !nef_index_iter_valid(it))
        cell->erase_cursor = 0;
    if (err == NEF_OK)
        err = nef_index_iter_error(it);
    nef_index_iter_free(it);
    return err == NEF_OK ? nef_cell_erase(cell) : err;
}

nef_err nef_cell_flush(struct nef_cell *cell)
{
    uint64_t current = cell->at.offset / cell->store->options.segment_bytes;
    uint32_t count = nef_log_segments(cell->log, NULL, 0), at = 0;
    uint64_t *numbers = NULL;
    nef_err err;

    if (count > 0) {
        numbers = malloc(count * sizeof *numbers);
        if (numbers == NULL)
            return NEF_E_NOMEM;
        count = NEF_MIN(nef_log_segments(cell->log, numbers, count), count);
    }
    err = erase_sweep(cell);
    if (err == NEF_OK)
        err = nef_index_flush(cell->index);
    if (cell->store->options.offline)
        count = 0;
    for (uint32_t i = 0; err == NEF_OK && i < count && numbers[i] < current; i++) {
        while (at < cell->segment_count && cell->segments[at].segment < numbers[i])
            at++;
        if (at < cell->segment_count && cell->segments[at].segment == numbers[i])
            continue;
        nef_trace(NEF_TRACE_INFO, "segment_dropped", "u:cell", (uint64_t)cell->number, "u:segment",
                  numbers[i], NULL);
        err = nef_log_drop(cell->log, numbers[i]);
    }
    free(numbers);
    if (err != NEF_OK)
        return err;
    cell->flush_offset = cell->at.offset;
    cell->flush_ops = 0;
    cell->flush_wanted = false;
    return NEF_OK;
}

/* ---- opening ---- */

static nef_err index_open(struct nef_cell *cell)
{
    struct nef_store *store = cell->store;
    nef_err err = nef_index_open(store->shared, cell->path, store->index_key, &cell->index);

    if (err != NEF_E_CORRUPT)
        return err;
    nef_trace(NEF_TRACE_WARN, "index_corrupt", "u:cell", (uint64_t)cell->number, NULL);
    err = nef_index_wipe(cell->path);
    if (err == NEF_OK)
        err = nef_index_open(store->shared, cell->path, store->index_key, &cell->index);
    return err;
}

/* Does the log hold what the index says was applied? */
static bool log_agrees(struct nef_cell *cell)
{
    uint64_t segment_bytes = cell->store->options.segment_bytes;
    const struct nef_row_applied *at = &cell->at;
    struct nef_record r;
    uint64_t next;
    nef_err err;

    if (at->version != NEF_ROWS_VERSION) /* no row A */
        return false;
    if (at->offset > nef_log_end(cell->log))
        return false;
    if (at->offset < nef_log_end(cell->log) &&
        nef_log_next_present(cell->log, at->offset) != at->offset)
        return false; /* a hole follows */
    if (at->epoch == 0)
        return at->offset == nef_log_start(cell->log) && at->offset == NEF_SEGMENT_HEADER_BYTES;
    if (at->last >= at->offset || at->last < nef_log_start(cell->log))
        return false;
    err = nef_log_record(cell->log, at->last, &r, NULL, &next);
    return err == NEF_OK && r.epoch == at->epoch &&
           nef_log_end_at(at->last + nef_record_bytes(r.body_bytes), segment_bytes) == at->offset;
}

/* Wipe and fill again. No apply runs; readers wait on index_lock only while the files are replaced. */
static nef_err rebuild(struct nef_cell *cell)
{
    nef_err err;

    nef_trace(nef_log_end(cell->log) > NEF_SEGMENT_HEADER_BYTES ? NEF_TRACE_WARN : NEF_TRACE_DEBUG,
              "index_rebuild", "u:cell", (uint64_t)cell->number, NULL);
    NEF_ASSERT(pthread_rwlock_wrlock(&cell->index_lock) == 0);
    atomic_store_explicit(&cell->applied, 0, memory_order_release);
    NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
    nef_checkpoint_forget(cell);
    cell->move_count = 0;
    memset(cell->moves, 0, sizeof cell->moves);
    NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
    nef_index_close(cell->index);
    cell->index = NULL;
    err = nef_index_wipe(cell->path);
    if (err == NEF_OK)
        err = index_open(cell);
    NEF_ASSERT(pthread_rwlock_unlock(&cell->index_lock) == 0);
    nef_index_batch_clear(cell->batch);
    cell->stale = true;
    if (err == NEF_OK)
        err = nef_cell_load(cell); /* empties what is kept in memory */
    if (err == NEF_OK)
        err = nef_checkpoint_load(cell);
    if (err != NEF_OK)
        return err;
    cell->stale = false;
    cell->flush_offset = cell->at.offset;
    return NEF_OK;
}

nef_err nef_store_rebuild(struct nef_store *store, uint32_t number)
{
    NEF_ASSERT(number < store->options.cell_count);
    if (store->cells[number].waiting) /* nothing was applied: there is nothing to wipe */
        return NEF_OK;
    return rebuild(&store->cells[number]);
}

static nef_err cell_open(struct nef_store *store, uint32_t number)
{
    struct nef_cell *cell = &store->cells[number];
    nef_err err;

    cell->log = store->options.logs[number];
    cell->chunk = malloc(CHUNK_BYTES);
    cell->notes = calloc(NEF_BATCH_RUNS_MAX, sizeof *cell->notes);
    cell->forget = calloc(NEF_BATCH_RUNS_MAX, sizeof *cell->forget);
    cell->erase = calloc(ERASE_SWEEP_ROWS, sizeof *cell->erase);
    cell->erase_capacity = ERASE_SWEEP_ROWS;
    cell->outcomes_memory = malloc(nef_outcomes_bytes(NEF_PROPOSERS_KEPT, NEF_OUTCOMES_KEPT));
    cell->batch = nef_index_batch_new();
    if (asprintf(&cell->path, "%s/" NEF_STORE_INDEX_NAME, store->dir, number) < 0)
        cell->path = NULL;
    if (cell->chunk == NULL || cell->notes == NULL || cell->forget == NULL ||
        cell->erase == NULL ||
        cell->outcomes_memory == NULL || cell->batch == NULL || cell->path == NULL)
        return NEF_E_NOMEM;
    err = index_open(cell);
    if (err != NEF_OK)
        return err;
    err = nef_cell_load(cell);
    if (err == NEF_OK && log_agrees(cell)) {
        cell->flush_offset = cell->at.offset;
        return nef_cell_load_keys(cell);
    }
    if (err != NEF_OK && err != NEF_E_CORRUPT && err != NEF_E_VERSION)
        return err;
    return rebuild(cell);
}

static void cell_close(struct nef_cell *cell)
{
    if (cell->index != NULL) {
        /* A failed flush loses nothing: the log has it all. */
        if (!cell->stale && nef_index_flush(cell->index) != NEF_OK)
            nef_trace(NEF_TRACE_WARN, "index_flush_failed", "u:cell", (uint64_t)cell->number, NULL);
        NEF_ASSERT(pthread_mutex_lock(&cell->lock) == 0);
        nef_checkpoint_forget(cell);
        NEF_ASSERT(pthread_mutex_unlock(&cell->lock) == 0);
        nef_index_close(cell->index);
    }
    if (cell->batch != NULL)
        nef_index_batch_free(cell->batch);
    free(cell->chunk);
    free(cell->notes);
    free(cell->forget);
    free(cell->erase);
    free(cell->outcomes_memory);
    free(cell->segments);
    free(cell->dirty);
    free(cell->path);
    nef_buf_free(&cell->value);
    nef_buf_free(&cell->value2);
    nef_buf_free(&cell->fields);
    nef_buf_free(&cell->row);
    nef_buf_free(&cell->object);
    pthread_rwlock_destroy(&cell->index_lock);
    pthread_mutex_destroy(&cell->lock);
}

void nef_store_close(struct nef_store *store)
{
    if (store == NULL)
        return;
    for (uint32_t i = 0; store->cells != NULL && i < store->options.cell_count; i++)
        cell_close(&store->cells[i]);
    free(store->cells);
    nef_index_shared_free(store->shared);
    nef_secret_free(store->index_key, NEF_KEY_BYTES);
    free(store->dir);
    pthread_mutex_destroy(&store->region_lock);
    free(store);
}

nef_err nef_store_open(const struct nef_store_options *options, struct nef_store **out_store)
{
    struct nef_store *store;
    char *path = NULL;
    nef_err err = NEF_E_NOMEM;

    NEF_ASSERT(options->cell_count > 0 && options->cell_count <= NEF_CELL_MAX);
    store = calloc(1, sizeof *store);
    if (store == NULL)
        return NEF_E_NOMEM;
    store->options = *options;
    NEF_ASSERT(pthread_mutex_init(&store->region_lock, NULL) == 0);
    NEF_ASSERT(pthread_mutex_init(&store->buckets.lock, NULL) == 0);
    store->index_key = nef_secret_new(NEF_KEY_BYTES);
    store->dir = strdup(options->dir);
    store->shared = nef_index_shared_new(options->cache_bytes, options->write_buffer_bytes);
    store->cells = calloc(options->cell_count, sizeof *store->cells);
    for (uint32_t i = 0; store->cells != NULL && i < options->cell_count; i++) {
        struct nef_cell *cell = &store->cells[i];

        cell->store = store;
        cell->number = i;
        NEF_ASSERT(pthread_rwlock_init(&cell->index_lock, NULL) == 0);
        NEF_ASSERT(pthread_mutex_init(&cell->lock, NULL) == 0);
    }
    if (store->index_key == NULL || store->dir == NULL || store->shared == NULL ||
        store->cells == NULL || asprintf(&path, "%s/" NEF_STORE_INDEX_KEY_NAME, store->dir) < 0) {
        path = NULL;
        goto out;
    }
    err = nef_keys_index_key(options->keys, path, store->index_key);
    for (uint32_t i = 0; err == NEF_OK && i < options->cell_count; i++)
        err = cell_open(store, i);
out:
    free(path);
    if (err != NEF_OK) {
        nef_store_close(store);
        return err;
    }
    *out_store = store;
    return NEF_OK;
}
