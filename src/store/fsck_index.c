/* fsck of indexes: each against its log, and against one that is built afresh.
 *
 * The fresh one is built by the same code that applies in a zone, from the latest checkpoint that begins
 * below what the index has applied, up to exactly there; every row must be equal. That finds whatever went
 * wrong in RocksDB or in memory. What the code itself got wrong would be equal on both sides, so the rows are
 * also checked for what must be true of them in any case. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "io/file_posix.h"
#include "store/fsck_internal.h"
#include "store/store_internal.h"

#define TEMPORARY_NAME "fsck.tmp"
#define CACHE_BYTES    ((size_t)32 << 20)
#define SHOWN_BYTES    40u /* of a row's key in a finding */

struct check {
    struct nef_fsck *f;
    uint32_t zone;
    struct nef_dir *dirs[NEF_CELL_MAX];
    struct nef_log *logs[NEF_CELL_MAX];
    struct nef_index *indexes[NEF_CELL_MAX];
    struct nef_row_applied at[NEF_CELL_MAX];
    uint64_t until[NEF_CELL_MAX]; /* 0: this cell's index can't be compared */
    struct nef_index_shared *shared;
    uint8_t *key;
};

static const char *data_dir(const struct check *c)
{
    return c->f->options->zones[c->zone].data_dir;
}

static void path_of(const struct check *c, const char *name, char out[4096])
{
    (void)snprintf(out, 4096, "%s/%s", data_dir(c), name);
}

static nef_err logs_open(struct check *c)
{
    const struct nef_fsck_options *o = c->f->options;

    for (uint32_t i = 0; i < o->cell_count; i++) {
        struct nef_log_options options = {
            .cell = i, .segment_bytes = o->segment_bytes, .region = o->region};
        struct nef_log_recovery recovery;
        char path[4096];
        nef_err err;

        (void)snprintf(path, sizeof path, "%s/" NEF_STORE_LOG_NAME, data_dir(c), i);
        err = nef_dir_posix_open(path, false, &c->dirs[i]);
        options.dir = c->dirs[i];
        if (err == NEF_OK)
            err = nef_log_open(&options, &recovery, &c->logs[i]);
        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

static void logs_close(struct check *c)
{
    for (uint32_t i = 0; i < c->f->options->cell_count; i++) {
        if (c->logs[i] != NULL)
            nef_log_close(c->logs[i]);
        if (c->dirs[i] != NULL)
            c->dirs[i]->ops->close(c->dirs[i]);
    }
}

static nef_err store_open(struct check *c, const char *dir, const uint64_t *before,
                          struct nef_store **out)
{
    const struct nef_fsck_options *o = c->f->options;
    struct nef_store_options options = {.dir = dir,
                                        .region = o->region,
                                        .cell_count = o->cell_count,
                                        .segment_bytes = o->segment_bytes,
                                        .logs = c->logs,
                                        .keys = o->keys,
                                        .cache_bytes = CACHE_BYTES,
                                        .write_buffer_bytes = CACHE_BYTES,
                                        .flush_log_bytes = (uint64_t)256 << 20,
                                        .flush_ops = 100000,
                                        .erase_within_ms = 86400000, /* offline: nothing is maintained */
                                        .offline = true,
                                        .checkpoint_before = before};

    return nef_store_open(&options, out);
}

/* ---- what an index says of itself ---- */

static bool fits_log(struct check *c, uint32_t cell)
{
    const struct nef_row_applied *at = &c->at[cell];
    struct nef_log *log = c->logs[cell];
    struct nef_record r;
    uint64_t next;

    if (at->offset > nef_log_end(log))
        return false;
    if (at->epoch == 0)
        return at->offset == nef_log_start(log);
    return nef_log_record(log, at->last, &r, NULL, &next) == NEF_OK && r.epoch == at->epoch &&
           nef_log_end_at(at->last + nef_record_bytes(r.body_bytes),
                          c->f->options->segment_bytes) == at->offset;
}

static nef_err is_empty(struct nef_index *index, bool *out_empty)
{
    struct nef_index_iter *it = nef_index_iter_new(index, NULL, NULL, 0, NULL, 0);
    nef_err err;

    if (it == NULL)
        return NEF_E_NOMEM;
    nef_index_iter_first(it);
    err = nef_index_iter_error(it);
    if (err == NEF_OK)
        *out_empty = !nef_index_iter_valid(it);
    nef_index_iter_free(it);
    return err;
}

static nef_err index_open(struct check *c, uint32_t cell)
{
    struct nef_buf value = {0};
    struct stat st;
    char path[4096];
    bool empty = false;
    nef_err err;

    (void)snprintf(path, sizeof path, "%s/" NEF_STORE_INDEX_NAME, data_dir(c), cell);
    if (stat(path, &st) != 0) {
        nef_fsck_say(c->f, true, c->zone, cell, UINT64_MAX, "there is no index");
        return NEF_OK;
    }
    err = nef_index_open(c->shared, path, c->key, &c->indexes[cell]);
    if (err == NEF_E_CORRUPT) {
        nef_fsck_say(c->f, true, c->zone, cell, UINT64_MAX, "the index can't be opened: %s",
                     nef_err_text(err));
        return NEF_OK;
    }
    if (err == NEF_OK)
        err = nef_index_get(c->indexes[cell], NULL, "A", 1, &value);
    if (err == NEF_OK)
        err = nef_row_applied_get(value.data, value.bytes, &c->at[cell]);
    nef_buf_free(&value);
    if (err == NEF_E_NOT_FOUND && nef_log_start(c->logs[cell]) == NEF_SEGMENT_HEADER_BYTES) {
        nef_err found = is_empty(c->indexes[cell], &empty);

        if (found != NEF_OK && found != NEF_E_CORRUPT)
            return found;
    }
    if (empty) { /* a zone that was killed before its first flush; nothing is lost with it */
        nef_fsck_say(c->f, false, c->zone, cell, UINT64_MAX,
                     "the index is empty; the log is whole, and the zone makes it from that when it starts");
        return NEF_OK;
    }
    if (err == NEF_E_NOT_FOUND || err == NEF_E_CORRUPT || err == NEF_E_VERSION) {
        nef_fsck_say(c->f, true, c->zone, cell, UINT64_MAX,
                     "the index doesn't say what it has applied: %s", nef_err_text(err));
        return NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    if (!fits_log(c, cell)) {
        nef_fsck_say(c->f, true, c->zone, cell, c->at[cell].offset,
                     "what the index has applied isn't in the log");
        return NEF_OK;
    }
    c->until[cell] = c->at[cell].offset;
    return NEF_OK;
}

/* ---- rows ---- */

static void say_row(struct check *c, uint32_t cell, const uint8_t *k, size_t k_bytes, const char *what)
{
    char hex[2 * SHOWN_BYTES + 1];
    size_t shown = NEF_MIN(k_bytes, SHOWN_BYTES);

    /* hexadecimal, cut, and nothing of an object's name: names are customer data */
    if (k[0] == 'O' || k[0] == 'M')
        shown = NEF_MIN(shown, 17);
    else if (k[0] == 'N' || k[0] == 'U')
        shown = 1;
    nef_hex(k, shown, hex);
    nef_fsck_say(c->f, true, c->zone, cell, UINT64_MAX, "row %c (key %s, %zu bytes): %s", k[0], hex,
                 k_bytes, what);
}

static int row_order(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, NEF_MIN(a_bytes, b_bytes));

    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static nef_err compare_rows(struct check *c, uint32_t cell, struct nef_index *fresh)
{
    struct nef_index_iter *a = nef_index_iter_new(c->indexes[cell], NULL, NULL, 0, NULL, 0);
    struct nef_index_iter *b = nef_index_iter_new(fresh, NULL, NULL, 0, NULL, 0);
    nef_err err = a == NULL || b == NULL ? NEF_E_NOMEM : NEF_OK;

    if (err == NEF_OK) {
        nef_index_iter_first(a);
        nef_index_iter_first(b);
    }
    while (err == NEF_OK && (nef_index_iter_valid(a) || nef_index_iter_valid(b))) {
        size_t ka_bytes = 0, kb_bytes = 0, va_bytes, vb_bytes;
        bool has_a = nef_index_iter_valid(a), has_b = nef_index_iter_valid(b);
        const uint8_t *ka = has_a ? nef_index_iter_key(a, &ka_bytes) : NULL;
        const uint8_t *kb = has_b ? nef_index_iter_key(b, &kb_bytes) : NULL;
        int order = !has_a ? 1 : !has_b ? -1 : row_order(ka, ka_bytes, kb, kb_bytes);

        if (order < 0) {
            say_row(c, cell, ka, ka_bytes, "is in the index, but the log doesn't make it");
            nef_index_iter_next(a);
        } else if (order > 0) {
            say_row(c, cell, kb, kb_bytes, "is missing in the index");
            nef_index_iter_next(b);
        } else {
            const uint8_t *va = nef_index_iter_value(a, &va_bytes);
            const uint8_t *vb = nef_index_iter_value(b, &vb_bytes);

            if (va_bytes != vb_bytes || memcmp(va, vb, va_bytes) != 0)
                say_row(c, cell, ka, ka_bytes, "isn't what the log makes of it");
            nef_index_iter_next(a);
            nef_index_iter_next(b);
        }
    }
    if (err == NEF_OK)
        err = nef_index_iter_error(a);
    if (err == NEF_OK)
        err = nef_index_iter_error(b);
    if (a != NULL)
        nef_index_iter_free(a);
    if (b != NULL)
        nef_index_iter_free(b);
    return err;
}

struct rows {
    struct check *c;
    uint32_t cell;
    uint64_t *live; /* by segment, as rows X add up */
    bool *dropped;  /* by segment: a DROP that the index hasn't applied yet names it */
    bool erases;    /* there is an ERASE that the index hasn't applied yet */
    uint64_t live_count;
};

/* An index may be behind the log (it was made anew up to a checkpoint): what it names may have been
 * deleted or moved, and erased or dropped, after that. */
static nef_err find_drops(struct rows *r)
{
    struct check *c = r->c;
    uint8_t *body = malloc(NEF_RECORD_BODY_MAX);
    struct nef_buf fields = {0};
    uint64_t next;
    nef_err err = body == NULL ? NEF_E_NOMEM : NEF_OK;

    for (uint64_t at = c->until[r->cell]; err == NEF_OK && at < nef_log_end(c->logs[r->cell]); at = next) {
        struct nef_record record;
        struct nef_op op;
        uint32_t inline_at;

        err = nef_log_record(c->logs[r->cell], at, &record, NULL, &next);
        r->erases = r->erases || (err == NEF_OK && record.type == NEF_RECORD_ERASE);
        if (err != NEF_OK || record.type != NEF_RECORD_DROP)
            continue;
        err = nef_log_record(c->logs[r->cell], at, &record, body, &next);
        if (err != NEF_OK ||
            nef_op_open(c->f->options->keys, &record, body, NULL, &fields, &op, &inline_at, NULL) != NEF_OK)
            continue; /* refused when it is applied, too */
        for (uint32_t i = 0; i < op.u.list.count; i++)
            if (nef_op_item_u64(&op, i) < r->live_count)
                r->dropped[nef_op_item_u64(&op, i)] = true;
    }
    free(body);
    nef_buf_free(&fields);
    return err;
}

/* Does the record that a row X names hold this piece? */
static bool piece_fits(struct rows *r, const struct nef_id *stream, uint32_t number,
                       const struct nef_row_piece *piece)
{
    struct nef_record record;
    uint64_t next;

    if (r->dropped[piece->record / r->c->f->options->segment_bytes] &&
        nef_log_next_present(r->c->logs[r->cell], piece->record) != piece->record)
        return true;
    if (nef_log_record(r->c->logs[r->cell], piece->record, &record, NULL, &next) != NEF_OK ||
        !nef_id_equal(&record.stream, stream) || ((record.flags & NEF_RECORD_ERASED) != 0 && !r->erases) ||
        (uint64_t)piece->cipher_at - NEF_RECORD_HEADER_BYTES + piece->cipher_bytes != record.body_bytes)
        return false;
    if (nef_row_piece_is_data(piece))
        return record.type == NEF_RECORD_DATA && record.piece == number;
    return number == 0 && (record.type == NEF_RECORD_OBJECT_PUT || record.type == NEF_RECORD_PART_PUT);
}

static bool check_piece(struct rows *r, const uint8_t *k, size_t k_bytes, const uint8_t *v,
                        size_t v_bytes)
{
    uint64_t segment;
    struct nef_row_piece piece;
    struct nef_id stream;
    uint32_t number;

    if (nef_key_read_id_u32(k, k_bytes, &stream, &number) != NEF_OK ||
        nef_row_piece_get(v, v_bytes, &piece) != NEF_OK)
        return false;
    segment = piece.record / r->c->f->options->segment_bytes;
    if (segment >= r->live_count)
        return false;
    r->live[segment] += nef_row_piece_record_bytes(&piece);
    return piece_fits(r, &stream, number, &piece);
}

/* All pieces of a stream of SIZE bytes, each as long as it must be. */
static bool stream_complete(struct rows *r, const struct nef_id *stream, uint64_t size)
{
    struct nef_buf value = {0};
    bool good = size <= NEF_PUT_BYTES_MAX;

    for (uint64_t at = 0; good && at < size; at += NEF_PIECE_BYTES) {
        struct nef_row_piece piece;
        struct nef_row_key k;

        nef_key_id_u32(&k, 'X', stream, (uint32_t)(at / NEF_PIECE_BYTES));
        good = nef_index_get(r->c->indexes[r->cell], NULL, k.data, k.bytes, &value) == NEF_OK &&
               nef_row_piece_get(value.data, value.bytes, &piece) == NEF_OK &&
               piece.cipher_bytes == NEF_MIN(size - at, NEF_PIECE_BYTES) + NEF_TAG_BYTES;
    }
    nef_buf_free(&value);
    return good;
}

static bool check_object(struct rows *r, const uint8_t *v, size_t v_bytes)
{
    struct nef_row_object row;
    uint64_t size = 0;

    if (nef_row_object_get(v, v_bytes, &row) != NEF_OK)
        return false;
    for (uint32_t i = 0; i < row.part_count; i++) {
        struct nef_object_part part;

        nef_row_object_part(&row, i, &part);
        size += part.size;
        if (!stream_complete(r, &part.stream, part.size))
            return false;
    }
    return size == row.size;
}

static bool check_part(struct rows *r, const uint8_t *v, size_t v_bytes)
{
    struct nef_row_part row;

    return nef_row_part_get(v, v_bytes, &row) == NEF_OK && stream_complete(r, &row.stream, row.size);
}

/* L rows against the sums; segments without L row must have no live byte. */
static void check_segments(struct rows *r)
{
    struct nef_buf value = {0};
    uint64_t segment_bytes = r->c->f->options->segment_bytes;

    for (uint64_t s = 0; s < r->live_count; s++) {
        struct nef_row_segment row = {0};
        struct nef_row_key k;

        nef_key_u64(&k, 'L', s);
        if (nef_index_get(r->c->indexes[r->cell], NULL, k.data, k.bytes, &value) == NEF_OK &&
            nef_row_segment_get(value.data, value.bytes, &row) != NEF_OK)
            row.live = UINT64_MAX;
        if (row.live != r->live[s])
            nef_fsck_say(r->c->f, true, r->c->zone, r->cell, s * segment_bytes,
                         "segment %llu counts %llu live bytes, its pieces are %llu",
                         (unsigned long long)s, (unsigned long long)row.live,
                         (unsigned long long)r->live[s]);
    }
    nef_buf_free(&value);
}

/* A row V; told here only if its record isn't in the log any more. */
static bool check_override(struct rows *r, const uint8_t *k, size_t k_bytes, const uint8_t *v, size_t v_bytes)
{
    struct nef_op_override op;
    struct nef_row_override row;

    if (nef_key_read_u64(k, k_bytes, &op.epoch) != NEF_OK || nef_row_override_get(v, v_bytes, &row) != NEF_OK)
        return false;
    op.end = row.end;
    if (nef_log_next_present(r->c->logs[r->cell], row.offset) != row.offset)
        nef_fsck_override(r->c->f, r->c->zone, r->cell, row.offset, row.time_ms, &op);
    return true;
}

static nef_err check_rows(struct check *c, uint32_t cell)
{
    struct rows r = {.c = c, .cell = cell};
    struct nef_index_iter *it = NULL;
    nef_err err = NEF_E_NOMEM;

    r.live_count = nef_log_end(c->logs[cell]) / c->f->options->segment_bytes + 1;
    r.live = calloc(r.live_count, sizeof *r.live);
    r.dropped = calloc(r.live_count, sizeof *r.dropped);
    if (r.live == NULL || r.dropped == NULL)
        goto out;
    err = find_drops(&r);
    if (err != NEF_OK)
        goto out;
    it = nef_index_iter_new(c->indexes[cell], NULL, NULL, 0, NULL, 0);
    if (it == NULL) {
        err = NEF_E_NOMEM;
        goto out;
    }
    for (nef_index_iter_first(it); nef_index_iter_valid(it); nef_index_iter_next(it)) {
        size_t k_bytes, v_bytes;
        const uint8_t *k = nef_index_iter_key(it, &k_bytes);
        const uint8_t *v = nef_index_iter_value(it, &v_bytes);

        if (k[0] == 'X' && !check_piece(&r, k, k_bytes, v, v_bytes))
            say_row(c, cell, k, k_bytes, "names no record of that piece");
        if (k[0] == 'O' && !check_object(&r, v, v_bytes))
            say_row(c, cell, k, k_bytes, "the object's pieces aren't all there");
        if (k[0] == 'P' && !check_part(&r, v, v_bytes))
            say_row(c, cell, k, k_bytes, "the part's pieces aren't all there");
        if (k[0] == 'V' && !check_override(&r, k, k_bytes, v, v_bytes))
            say_row(c, cell, k, k_bytes, "doesn't say what loss was accepted");
    }
    err = nef_index_iter_error(it);
    if (err == NEF_E_CORRUPT) {
        nef_fsck_say(c->f, true, c->zone, cell, UINT64_MAX, "the index can't be read to its end");
        err = NEF_OK;
    } else if (err == NEF_OK) {
        check_segments(&r);
    }
out:
    if (it != NULL)
        nef_index_iter_free(it);
    free(r.live);
    free(r.dropped);
    return err;
}

/* ---- the fresh index ---- */

static nef_err wipe_temporary(const struct check *c, const char *path)
{
    char file[4200];
    nef_err err = NEF_OK;

    for (uint32_t i = 0; err == NEF_OK && i < c->f->options->cell_count; i++) {
        struct stat st;

        (void)snprintf(file, sizeof file, "%s/" NEF_STORE_INDEX_NAME, path, i);
        if (stat(file, &st) == 0) {
            err = nef_index_wipe(file);
            (void)rmdir(file);
        }
    }
    (void)snprintf(file, sizeof file, "%s/" NEF_STORE_INDEX_KEY_NAME, path);
    (void)unlink(file);
    (void)rmdir(path);
    return err;
}

static nef_err compare_fresh(struct check *c)
{
    const struct nef_fsck_options *o = c->f->options;
    struct nef_store *fresh = NULL;
    char path[4096];
    nef_err err;

    path_of(c, TEMPORARY_NAME, path);
    err = wipe_temporary(c, path); /* of a check that was interrupted */
    if (err != NEF_OK)
        return err;
    if (mkdir(path, 0700) != 0)
        return NEF_E_IO;
    err = store_open(c, path, c->until, &fresh);
    for (uint32_t i = 0; err == NEF_OK && i < o->cell_count; i++) {
        if (c->until[i] == 0)
            continue;
        err = nef_store_apply(fresh, i, c->until[i]);
        if (err == NEF_E_AGAIN) {
            nef_fsck_say(c->f, true, c->zone, i, UINT64_MAX,
                         "the log has neither its beginning nor a checkpoint below what the index applied");
            err = NEF_OK;
            continue;
        }
        if (err == NEF_OK && nef_store_applied(fresh, i) != c->until[i]) {
            nef_fsck_say(c->f, true, c->zone, i, c->until[i], "no run of records ends where the index does");
            continue;
        }
        if (err == NEF_OK)
            err = compare_rows(c, i, fresh->cells[i].index);
    }
    nef_store_close(fresh);
    if (wipe_temporary(c, path) != NEF_OK && err == NEF_OK)
        err = NEF_E_IO;
    return err;
}

static nef_err check_indexes(struct check *c)
{
    const struct nef_fsck_options *o = c->f->options;
    struct stat st;
    char path[4096];
    nef_err err;

    path_of(c, NEF_STORE_INDEX_KEY_NAME, path);
    if (stat(path, &st) != 0) { /* opening would make one */
        nef_fsck_say(c->f, true, c->zone, 0, UINT64_MAX, "there is no index key, so no index can be read");
        return NEF_OK;
    }
    c->key = nef_secret_new(NEF_KEY_BYTES);
    c->shared = nef_index_shared_new(CACHE_BYTES, CACHE_BYTES);
    if (c->key == NULL || c->shared == NULL)
        return NEF_E_NOMEM;
    err = nef_keys_index_key(o->keys, path, c->key);
    for (uint32_t i = 0; err == NEF_OK && i < o->cell_count; i++)
        err = index_open(c, i);
    for (uint32_t i = 0; err == NEF_OK && i < o->cell_count; i++)
        if (c->until[i] != 0)
            err = check_rows(c, i);
    if (err == NEF_OK)
        err = compare_fresh(c);
    return err;
}

/* ---- making it anew ---- */

static nef_err rebuild(struct check *c, const uint64_t *marks)
{
    struct nef_store *store = NULL;
    nef_err err = store_open(c, data_dir(c), NULL, &store);

    for (uint32_t i = 0; err == NEF_OK && i < c->f->options->cell_count; i++) {
        uint64_t until = NEF_MAX(marks[i], nef_store_applied(store, i)); /* both are committed */

        err = nef_store_rebuild(store, i);
        if (err == NEF_OK && until > nef_store_applied(store, i))
            err = nef_store_apply(store, i, until);
        if (err == NEF_E_AGAIN) {
            nef_fsck_say(c->f, true, c->zone, i, UINT64_MAX,
                         "the log has neither its beginning nor a checkpoint: catch up from the peer first");
            err = NEF_OK;
        } else if (err == NEF_OK) {
            nef_fsck_say(c->f, false, c->zone, i, nef_store_applied(store, i),
                         "the index was made anew up to here");
        }
    }
    nef_store_close(store);
    return err;
}

nef_err nef_fsck_index(struct nef_fsck *f, uint32_t zone, const uint64_t *marks)
{
    struct check *c = calloc(1, sizeof *c);
    nef_err err;

    if (c == NULL)
        return NEF_E_NOMEM;
    c->f = f;
    c->zone = zone;
    err = logs_open(c);
    if (err == NEF_OK)
        err = f->options->rebuild_index ? rebuild(c, marks) : check_indexes(c);
    for (uint32_t i = 0; i < f->options->cell_count; i++)
        if (c->indexes[i] != NULL)
            nef_index_close(c->indexes[i]);
    nef_index_shared_free(c->shared);
    nef_secret_free(c->key, NEF_KEY_BYTES);
    logs_close(c);
    free(c);
    return err;
}
