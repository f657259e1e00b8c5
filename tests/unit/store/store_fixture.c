#include "store_fixture.h"
#include "io/file_posix.h"

uint64_t world_random(struct world *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void on_applied(void *context, uint32_t cell, uint64_t proposer, uint64_t number,
                       const struct nef_outcome *outcome, uint64_t end)
{
    struct world *w = context;

    (void)cell, (void)proposer;
    w->outcome = *outcome;
    w->outcome_number = number;
    w->outcome_end = end;
    w->applied_calls++;
}

void world_shell(struct world *w, const char *format, ...)
{
    char command[512];
    va_list list;

    (void)w;
    va_start(list, format);
    (void)vsnprintf(command, sizeof command, format, list);
    va_end(list);
    assert_int_equal(system(command), 0);
}

void world_log_open(struct world *w, uint32_t replica, uint32_t cell)
{
    struct nef_log_recovery recovery;
    struct nef_log_options options = {
        .cell = cell, .segment_bytes = WORLD_SEGMENT, .region = w->region};
    char path[128];

    (void)snprintf(path, sizeof path, "%s/z%u/" NEF_STORE_LOG_NAME, w->dir, replica, cell);
    OK(nef_dir_posix_open(path, true, &w->dirs[replica][cell]));
    options.dir = w->dirs[replica][cell];
    OK(nef_log_open(&options, &recovery, &w->logs[replica][cell]));
}

void world_store_open(struct world *w, uint32_t replica)
{
    struct nef_store_options options = {.region = w->region,
                                        .cell_count = WORLD_CELLS,
                                        .segment_bytes = WORLD_SEGMENT,
                                        .logs = w->logs[replica],
                                        .keys = w->keys,
                                        .cache_bytes = 4 << 20,
                                        .write_buffer_bytes = 4 << 20,
                                        .flush_log_bytes = 8 << 20,
                                        .flush_ops = 1000,
                                        .erase_within_ms = w->erase_within_ms,
                                        .live_fraction = 0.5,
                                        .checkpoint_log_bytes = w->checkpoint_log_bytes,
                                        .applied = replica == 0 ? on_applied : NULL,
                                        .context = w};
    char path[128];

    (void)snprintf(path, sizeof path, "%s/z%u", w->dir, replica);
    options.dir = path;
    OK(nef_store_open(&options, &w->stores[replica]));
}

void world_store_close(struct world *w, uint32_t replica)
{
    nef_store_close(w->stores[replica]);
    w->stores[replica] = NULL;
}

void world_open(struct world *w)
{
    char path[128];

    memset(w, 0, sizeof *w);
    w->random = 42;
    w->erase_within_ms = 86400000;
    w->checkpoint_log_bytes = (uint64_t)64 << 20;
    w->epoch = 1;
    w->time_ms = 1700000000000;
    w->proposer = 77;
    OK(nef_crypto_init());
    (void)snprintf(w->dir, sizeof w->dir, "/tmp/nef-store-test-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    (void)snprintf(path, sizeof path, "%s/customer.key", w->dir);
    OK(nef_keys_make_file(path));
    OK(nef_keys_open_file(path, &w->keys));
    nef_random(w->region.bytes, 16);
    for (uint32_t r = 0; r < WORLD_REPLICAS; r++) {
        world_shell(w, "mkdir -m 700 %s/z%u", w->dir, r);
        for (uint32_t c = 0; c < WORLD_CELLS; c++)
            world_log_open(w, r, c);
        world_store_open(w, r);
    }
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        struct nef_run run;

        if (c == 0)
            assert_int_equal(nef_store_region_next(w->stores[0], 1, &run), NEF_E_AGAIN);
        OK(nef_store_region_next(w->stores[0], c, &run));
        assert_true(run.bytes > 0);
        OK(world_propose(w, &run));
        OK(nef_store_region_next(w->stores[0], c, &run));
        assert_int_equal(run.bytes, 0);
    }
}

void world_stop(struct world *w)
{
    for (uint32_t r = 0; r < WORLD_REPLICAS; r++) {
        nef_store_close(w->stores[r]);
        w->stores[r] = NULL;
        for (uint32_t c = 0; c < WORLD_CELLS; c++) {
            if (w->logs[r][c] == NULL)
                continue;
            OK(nef_log_sync(w->logs[r][c], &(uint64_t){0}));
            nef_log_close(w->logs[r][c]);
            w->dirs[r][c]->ops->close(w->dirs[r][c]);
            w->logs[r][c] = NULL;
        }
    }
}

void world_start(struct world *w)
{
    for (uint32_t r = 0; r < WORLD_REPLICAS; r++) {
        for (uint32_t c = 0; c < WORLD_CELLS; c++)
            world_log_open(w, r, c);
        world_store_open(w, r);
    }
}

void world_close(struct world *w)
{
    world_stop(w);
    nef_keys_close(w->keys);
    world_shell(w, "rm -rf %s", w->dir);
}

static void append_bytes(struct world *w, uint32_t cell, uint64_t offset, const void *data,
                         uint64_t bytes)
{
    for (uint32_t r = 0; r < (w->away ? 1 : WORLD_REPLICAS); r++)
        OK(nef_log_append(w->logs[r][cell], offset, data, bytes));
}

void world_append_as(struct world *w, struct nef_run *run, uint64_t proposer, uint64_t number)
{
    uint64_t end = nef_log_end(w->logs[0][run->cell]);
    uint64_t place = nef_log_place(end, run->bytes, WORLD_SEGMENT), offset = place;
    struct nef_record record;

    nef_run_number(run, proposer, number);
    w->time_ms++;
    if (place != end) { /* pad */
        uint64_t bytes = WORLD_SEGMENT - end % WORLD_SEGMENT;
        uint8_t *pad = calloc(1, bytes);
        struct nef_record r = {.type = NEF_RECORD_PAD,
                               .flags = NEF_RECORD_LAST,
                               .cell = run->cell,
                               .body_bytes = (uint32_t)(bytes - NEF_RECORD_HEADER_BYTES)};

        assert_non_null(pad);
        nef_record_encode(&r, pad + NEF_RECORD_HEADER_BYTES, 0, pad);
        nef_record_stamp(pad, w->epoch, end, w->time_ms, 0);
        append_bytes(w, run->cell, end, pad, bytes);
        free(pad);
    }
    for (uint32_t at = 0; at < run->bytes;) {
        nef_record_stamp(run->data + at, w->epoch, offset, w->time_ms, 0);
        OK(nef_record_decode(run->data + at, &record));
        offset += nef_record_bytes(record.body_bytes);
        at += (uint32_t)nef_record_bytes(record.body_bytes);
    }
    append_bytes(w, run->cell, place, run->data, run->bytes);
    nef_run_free(run);
}

void world_apply(struct world *w, uint32_t replica)
{
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        uint64_t end = nef_log_end(w->logs[replica][c]);

        OK(nef_store_apply(w->stores[replica], c, end));
        assert_int_equal(nef_store_applied(w->stores[replica], c), end);
    }
}

void world_apply_slowly(struct world *w, uint32_t replica)
{
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        struct nef_log *log = w->logs[replica][c];
        uint64_t end = nef_log_end(log), at = nef_store_applied(w->stores[replica], c);

        while (at < end) {
            uint32_t records = 1 + (uint32_t)(world_random(w) % 20);
            struct nef_record r;

            /* any record border will do: apply stops at the last whole run below it */
            while (records-- > 0 && at < end)
                OK(nef_log_record(log, at, &r, NULL, &at));
            OK(nef_store_apply(w->stores[replica], c, at));
        }
        assert_int_equal(nef_store_applied(w->stores[replica], c), end);
    }
}

nef_err world_propose(struct world *w, struct nef_run *run)
{
    uint32_t cell = run->cell;
    uint64_t number = ++w->number;

    world_append_as(w, run, w->proposer, number);
    OK(nef_store_apply(w->stores[0], cell, nef_log_end(w->logs[0][cell])));
    assert_int_equal(w->outcome_number, number);
    assert_int_equal(w->outcome_end, nef_log_end(w->logs[0][cell]));
    return (nef_err)w->outcome.code;
}

static nef_err propose_op(struct world *w, struct nef_op *op, uint32_t cell, const uint8_t *dek,
                          const uint8_t *inline_cipher, uint32_t inline_bytes)
{
    uint8_t own[32];
    struct nef_run run;

    nef_random(own, sizeof own);
    if (nef_id_is_zero(&op->stream))
        nef_random(op->stream.bytes, 16);
    OK(nef_run_op(w->keys, op, cell, dek != NULL ? dek : own, NULL, inline_cipher, inline_bytes, &run));
    return world_propose(w, &run);
}

struct nef_bucket world_bucket(struct world *w, const char *name)
{
    struct nef_op op;
    struct nef_bucket bucket;
    struct nef_id id;
    size_t bytes;

    memset(&op, 0, sizeof op);
    nef_random(id.bytes, 16);
    op.type = NEF_RECORD_BUCKET_PUT;
    OK(nef_store_region_key(w->stores[0], &op.bucket_key));
    op.u.bucket_put.bucket = id;
    op.u.bucket_put.name = (struct nef_text){name, (uint32_t)strlen(name)};
    op.u.bucket_put.owner = (struct nef_text){"root", 4};
    OK(nef_keys_create(w->keys, &id, op.u.bucket_put.wrapped, &bytes));
    op.u.bucket_put.wrapped_bytes = (uint32_t)bytes;
    for (uint32_t c = WORLD_CELLS; c-- > 0;) {
        op.stream = (struct nef_id){{0}};
        OK(propose_op(w, &op, c, NULL, NULL, 0));
    }
    OK(nef_store_bucket(w->stores[0], name, &bucket));
    assert_true(nef_id_equal(&bucket.id, &id));
    return bucket;
}

nef_err world_bucket_op(struct world *w, uint32_t cell, uint16_t type, const struct nef_id *bucket,
                        const struct nef_id *token)
{
    struct nef_op op;

    memset(&op, 0, sizeof op);
    op.type = type;
    op.u.bucket.bucket = *bucket;
    op.u.bucket.token = *token;
    {
        struct nef_run run;

        OK(nef_run_op(w->keys, &op, cell, NULL, NULL, NULL, 0, &run));
        return world_propose(w, &run);
    }
}

void world_fill(uint8_t *out, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i++) {
        if (i % 8 == 0)
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        out[i] = (uint8_t)(seed >> (8 * (i % 8)));
    }
}

static void md5_of(size_t size, uint64_t seed, uint8_t out[16])
{
    uint8_t *data = malloc(size + 1);

    assert_non_null(data);
    world_fill(data, size, seed);
    nef_hash_of(NEF_HASH_MD5, data, size, out);
    free(data);
}

void world_etag(size_t size, uint64_t seed, char out[NEF_ETAG_MAX + 1])
{
    uint8_t md5[16];

    md5_of(size, seed, md5);
    nef_hex(md5, 16, out);
}

nef_err world_put(struct world *w, const struct nef_bucket *bucket, const struct world_put *put)
{
    uint32_t cell = nef_store_cell(w->stores[0], &bucket->id, put->key, strlen(put->key));
    bool is_inline = put->size > 0 && put->size <= NEF_INLINE_BYTES_MAX && !put->pieces;
    uint8_t *data = malloc(put->size + 1), *cipher = NULL;
    struct nef_buf attrs = {0};
    uint32_t pieces = (uint32_t)((put->size + NEF_PIECE_BYTES - 1) / NEF_PIECE_BYTES);
    uint8_t dek[32], md5[16];
    struct nef_id stream;
    struct nef_op op;
    nef_err err;

    assert_non_null(data);
    world_fill(data, put->size, put->seed);
    nef_hash_of(NEF_HASH_MD5, data, put->size, md5);
    nef_random(dek, sizeof dek);
    nef_random(stream.bytes, 16);
    for (uint32_t i = 0; !is_inline && i < pieces; i++) {
        size_t from = (size_t)i * NEF_PIECE_BYTES;
        struct nef_run run;

        if (put->skip_piece == i + 1)
            continue;
        OK(nef_run_piece(&bucket->id, &stream, dek, i, i + 1 == pieces, NULL, cell, data + from,
                         (uint32_t)NEF_MIN(put->size - from, NEF_PIECE_BYTES), &run));
        OK(world_propose(w, &run));
    }
    if (put->lose_op) {
        free(data);
        return NEF_OK;
    }
    if (is_inline) {
        cipher = malloc(put->size + NEF_TAG_BYTES);
        assert_non_null(cipher);
        nef_piece_seal(&bucket->id, &stream, dek, 0, true, data, (uint32_t)put->size, cipher);
    }
    memset(&op, 0, sizeof op);
    op.stream = stream;
    op.bucket_key = bucket->id;
    nef_attrs_begin(&attrs);
    nef_attrs_add(&attrs, "content-type", 12, "text/plain", 10);
    if (put->upload != NULL) {
        op.type = NEF_RECORD_PART_PUT;
        op.u.part_put.bucket = bucket->id;
        op.u.part_put.key = (struct nef_text){put->key, (uint32_t)strlen(put->key)};
        op.u.part_put.upload = *put->upload;
        op.u.part_put.part = put->part;
        op.u.part_put.size = put->size;
        memcpy(op.u.part_put.md5, md5, 16);
        op.u.part_put.inline_body = is_inline;
    } else {
        op.type = NEF_RECORD_OBJECT_PUT;
        op.u.object_put.bucket = bucket->id;
        op.u.object_put.key = (struct nef_text){put->key, (uint32_t)strlen(put->key)};
        op.u.object_put.size = put->size;
        nef_hex(md5, 16, op.u.object_put.etag);
        op.u.object_put.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes};
        op.u.object_put.inline_body = is_inline;
        if (put->condition != NULL)
            op.u.object_put.condition = *put->condition;
    }
    err = propose_op(w, &op, cell, dek, cipher, cipher != NULL ? (uint32_t)put->size + 16 : 0);
    nef_buf_free(&attrs);
    free(cipher);
    free(data);
    return err;
}

nef_err world_delete(struct world *w, const struct nef_bucket *bucket, const char *key,
                     const struct nef_condition *condition)
{
    struct nef_op op;

    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_OBJECT_DELETE;
    op.bucket_key = bucket->id;
    op.u.object_delete.bucket = bucket->id;
    op.u.object_delete.key = (struct nef_text){key, (uint32_t)strlen(key)};
    if (condition != NULL)
        op.u.object_delete.condition = *condition;
    return propose_op(w, &op, nef_store_cell(w->stores[0], &bucket->id, key, strlen(key)), NULL, NULL,
                      0);
}

struct nef_id world_upload(struct world *w, const struct nef_bucket *bucket, const char *key)
{
    struct nef_buf attrs = {0};
    struct nef_op op;

    memset(&op, 0, sizeof op);
    nef_attrs_begin(&attrs);
    nef_attrs_add(&attrs, "content-type", 12, "video/mp4", 9);
    op.type = NEF_RECORD_UPLOAD_CREATE;
    op.bucket_key = bucket->id;
    nef_random(op.stream.bytes, 16);
    op.u.upload_create.bucket = bucket->id;
    op.u.upload_create.key = (struct nef_text){key, (uint32_t)strlen(key)};
    op.u.upload_create.owner = (struct nef_text){"root", 4};
    op.u.upload_create.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes};
    OK(propose_op(w, &op, nef_store_cell(w->stores[0], &bucket->id, key, strlen(key)), NULL, NULL, 0));
    nef_buf_free(&attrs);
    return op.stream;
}

nef_err world_complete(struct world *w, const struct nef_bucket *bucket, const char *key,
                       const struct nef_id *upload, const uint32_t *parts, const uint64_t *seeds,
                       const size_t *sizes, uint32_t count)
{
    struct nef_buf list = {0};
    struct nef_op op;
    nef_err err;

    for (uint32_t i = 0; i < count; i++) {
        uint8_t md5[16];

        md5_of(sizes[i], seeds[i], md5);
        nef_buf_u32(&list, parts[i]);
        nef_buf_append(&list, md5, 16);
    }
    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_UPLOAD_COMPLETE;
    op.bucket_key = bucket->id;
    op.u.upload_complete.bucket = bucket->id;
    op.u.upload_complete.key = (struct nef_text){key, (uint32_t)strlen(key)};
    op.u.upload_complete.upload = *upload;
    (void)snprintf(op.u.upload_complete.etag, sizeof op.u.upload_complete.etag, "%032x-%u", 7, count);
    op.u.upload_complete.part_count = count;
    op.u.upload_complete.parts = list.data;
    err = propose_op(w, &op, nef_store_cell(w->stores[0], &bucket->id, key, strlen(key)), NULL, NULL,
                     0);
    nef_buf_free(&list);
    return err;
}

static nef_err check_part(struct world *w, uint32_t replica, const struct nef_object *o,
                          const struct nef_object_part *part, size_t size, uint64_t seed)
{
    uint8_t *expected = malloc(size + 1), *body = malloc(NEF_RECORD_BODY_MAX);
    uint8_t *plain = malloc(NEF_PIECE_BYTES), dek[32];
    uint32_t pieces = (uint32_t)((size + NEF_PIECE_BYTES - 1) / NEF_PIECE_BYTES);
    nef_err err = part->size == size ? NEF_OK : NEF_E_RANGE;

    assert_true(expected != NULL && body != NULL && plain != NULL);
    world_fill(expected, size, seed);
    if (err == NEF_OK)
        err = nef_keys_unwrap_dek(w->keys, &o->bucket, &part->stream, part->wrapped_dek, dek);
    for (uint32_t i = 0; err == NEF_OK && i < pieces; i++) {
        size_t from = (size_t)i * NEF_PIECE_BYTES, bytes = NEF_MIN(size - from, NEF_PIECE_BYTES);
        struct nef_row_piece piece;
        struct nef_record r;
        uint64_t next;

        err = nef_store_piece(w->stores[replica], o->cell, &part->stream, i, &piece);
        if (err == NEF_OK)
            err = nef_log_record(w->logs[replica][o->cell], piece.record, &r, body, &next);
        if (err == NEF_OK && piece.cipher_bytes != bytes + NEF_TAG_BYTES)
            err = NEF_E_RANGE;
        if (err == NEF_OK)
            err = nef_piece_open(&o->bucket, &part->stream, dek, i, i + 1 == pieces,
                                 body + piece.cipher_at - NEF_RECORD_HEADER_BYTES, piece.cipher_bytes,
                                 plain);
        if (err == NEF_OK && memcmp(plain, expected + from, bytes) != 0)
            err = NEF_E_DIGEST;
    }
    free(expected);
    free(body);
    free(plain);
    return err;
}

nef_err world_check(struct world *w, uint32_t replica, const struct nef_bucket *bucket,
                    const char *key, const size_t *sizes, const uint64_t *seeds, uint32_t count)
{
    struct nef_object *o;
    uint64_t total = 0;
    nef_err err = nef_store_object(w->stores[replica], bucket, key, strlen(key), &o);

    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; i < count; i++)
        total += sizes[i];
    if (o->size != total || o->part_count != (total == 0 && count == 1 ? 0 : count))
        err = NEF_E_RANGE;
    for (uint32_t i = 0; err == NEF_OK && i < o->part_count; i++)
        err = check_part(w, replica, o, &o->parts[i], sizes[i], seeds[i]);
    nef_object_free(o);
    return err;
}

void world_assert_same_rows(struct world *w)
{
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        struct nef_index_iter *a = nef_index_iter_new(w->stores[0]->cells[c].index, NULL, NULL, 0, NULL, 0);
        struct nef_index_iter *b = nef_index_iter_new(w->stores[1]->cells[c].index, NULL, NULL, 0, NULL, 0);

        nef_index_iter_first(a);
        nef_index_iter_first(b);
        while (nef_index_iter_valid(a) && nef_index_iter_valid(b)) {
            size_t ka_bytes, kb_bytes, va_bytes, vb_bytes;
            const uint8_t *ka = nef_index_iter_key(a, &ka_bytes), *kb = nef_index_iter_key(b, &kb_bytes);
            const uint8_t *va = nef_index_iter_value(a, &va_bytes);
            const uint8_t *vb = nef_index_iter_value(b, &vb_bytes);

            if (ka_bytes != kb_bytes || memcmp(ka, kb, ka_bytes) != 0)
                fail_msg("cell %u: a row of kind %c is missing on one side (other %c)", c, ka[0], kb[0]);
            if (va_bytes != vb_bytes || memcmp(va, vb, va_bytes) != 0)
                fail_msg("cell %u: a row of kind %c differs", c, ka[0]);
            nef_index_iter_next(a);
            nef_index_iter_next(b);
        }
        assert_false(nef_index_iter_valid(a));
        assert_false(nef_index_iter_valid(b));
        nef_index_iter_free(a);
        nef_index_iter_free(b);
    }
}

uint64_t world_rows(struct world *w, uint32_t replica, uint32_t cell, char kind)
{
    uint8_t from = (uint8_t)kind, to = (uint8_t)(kind + 1);
    struct nef_index_iter *it =
        nef_index_iter_new(w->stores[replica]->cells[cell].index, NULL, &from, 1, &to, 1);
    uint64_t count = 0;

    for (nef_index_iter_first(it); nef_index_iter_valid(it); nef_index_iter_next(it))
        count++;
    nef_index_iter_free(it);
    return count;
}

void world_maintain(struct world *w, uint32_t rounds, const uint64_t *alive, uint32_t alive_count)
{
    for (uint32_t i = 0; i < rounds; i++) {
        w->time_ms += 100;
        for (uint32_t c = 0; c < WORLD_CELLS; c++) {
            struct nef_run runs[16];
            uint32_t count = 0;
            uint64_t cost = 0;

            OK(nef_store_maintain(w->stores[0], c, w->time_ms, alive, alive_count, runs, 16, &count));
            for (uint32_t k = 0; k < count; k++)
                (void)world_propose(w, &runs[k]);
            count = 0;
            OK(nef_store_compact(w->stores[0], c, w->time_ms, UINT64_MAX, runs, 16, &count, &cost));
            for (uint32_t k = 0; k < count; k++)
                (void)world_propose(w, &runs[k]);
        }
    }
}

void world_checkpoint(struct world *w, uint32_t cell)
{
    bool done = false, start = true;

    while (!done) {
        struct nef_run run;

        OK(nef_store_checkpoint_next(w->stores[0], cell, start, &run, &done));
        assert_true(run.bytes > 0);
        OK(world_propose(w, &run));
        start = false;
    }
}
