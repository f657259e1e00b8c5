/* The state machine, op by op. After each test both replicas have the same rows, the second having applied
 * the log in pieces. */
#include "store_fixture.h"

static struct world w;

static int setup(void **state)
{
    (void)state;
    world_open(&w);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_apply_slowly(&w, 1);
    world_assert_same_rows(&w);
    world_close(&w);
    return 0;
}

static nef_err put(const struct nef_bucket *b, const char *key, size_t size, uint64_t seed)
{
    return world_put(&w, b, &(struct world_put){.key = key, .size = size, .seed = seed});
}

static nef_err check(const struct nef_bucket *b, const char *key, size_t size, uint64_t seed)
{
    return world_check(&w, 0, b, key, &size, &seed, 1);
}

static uint64_t live(uint32_t cell)
{
    struct nef_store_cell_stats s;

    nef_store_stats(w.stores[0], cell, &s);
    return s.bytes_live;
}

static void put_get_overwrite_delete(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    static const size_t sizes[] = {0, 1, 31, 4096, NEF_INLINE_BYTES_MAX, NEF_INLINE_BYTES_MAX + 1,
                                   NEF_PIECE_BYTES, NEF_PIECE_BYTES + 1, 3 * NEF_PIECE_BYTES + 17};

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(sizes); i++) {
        OK(put(&b, "object", sizes[i], i));
        OK(check(&b, "object", sizes[i], i));
    }
    assert_int_equal(check(&b, "objec", 0, 0), NEF_E_NOT_FOUND);
    OK(world_delete(&w, &b, "object", NULL));
    assert_int_equal(check(&b, "object", 0, 0), NEF_E_NOT_FOUND);
    OK(world_delete(&w, &b, "object", NULL)); /* S3: succeeds */
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        assert_int_equal(live(c), 0);
        assert_int_equal(world_rows(&w, 0, c, 'X'), 0);
        assert_int_equal(world_rows(&w, 0, c, 'S'), 0);
    }
}

static void conditions(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    struct nef_condition none = {.none = true}, any = {.any = true}, match = {0};
    struct world_put p = {.key = "k", .size = 10, .seed = 1};

    (void)state;
    p.condition = &any;
    assert_int_equal(world_put(&w, &b, &p), NEF_E_NOT_FOUND);
    world_etag(10, 1, match.match);
    p.condition = &match;
    assert_int_equal(world_put(&w, &b, &p), NEF_E_NOT_FOUND);
    p.condition = &none;
    OK(world_put(&w, &b, &p));
    assert_int_equal(world_put(&w, &b, &p), NEF_E_PRECONDITION);
    p = (struct world_put){.key = "k", .size = NEF_PIECE_BYTES * 2, .seed = 2, .condition = &none};
    assert_int_equal(world_put(&w, &b, &p), NEF_E_PRECONDITION);
    OK(check(&b, "k", 10, 1));
    for (uint32_t c = 0; c < WORLD_CELLS; c++) /* the refused put's data was freed */
        assert_int_equal(world_rows(&w, 0, c, 'S'), 0);
    p.condition = &match;
    OK(world_put(&w, &b, &p));
    OK(check(&b, "k", NEF_PIECE_BYTES * 2, 2));
    assert_int_equal(world_delete(&w, &b, "k", &match), NEF_E_PRECONDITION);
    world_etag(NEF_PIECE_BYTES * 2, 2, match.match);
    OK(world_delete(&w, &b, "k", &match));
    assert_int_equal(world_delete(&w, &b, "k", &match), NEF_E_NOT_FOUND);
}

static void missing_pieces(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    struct world_put p = {.key = "k", .size = 3 * NEF_PIECE_BYTES, .seed = 1, .skip_piece = 2};
    struct nef_bucket other = b;

    (void)state;
    assert_int_equal(world_put(&w, &b, &p), NEF_E_NO_UPLOAD);
    p.skip_piece = 3;
    assert_int_equal(world_put(&w, &b, &p), NEF_E_NO_UPLOAD);
    for (uint32_t c = 0; c < WORLD_CELLS; c++)
        assert_int_equal(world_rows(&w, 0, c, 'X'), 0);
    p.skip_piece = 0;
    OK(world_put(&w, &b, &p));
    /* a bucket that isn't there */
    {
        uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
        size_t bytes;

        nef_random(other.id.bytes, 16);
        OK(nef_keys_create(w.keys, &other.id, wrapped, &bytes));
    }
    p.key = "x";
    assert_int_equal(world_put(&w, &other, &p), NEF_E_NO_BUCKET);
    assert_int_equal(put(&other, "x", 100, 1), NEF_E_NO_BUCKET);
}

static void duplicates(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    uint32_t cell = nef_store_cell(w.stores[0], &b.id, "k", 1);
    uint8_t dek[32] = {1}, plain[100] = {0};
    struct nef_run run, copy;
    struct nef_id stream;
    struct nef_op op;
    uint64_t first;

    (void)state;
    nef_random(stream.bytes, 16);
    for (int round = 0; round < 2; round++) {
        OK(nef_run_piece(&b.id, &stream, dek, 0, true, NULL, cell, plain, sizeof plain, &run));
        world_append_as(&w, &run, 5, 1);
        world_apply(&w, 0);
        OK((nef_err)w.outcome.code);
        if (round == 0)
            first = w.outcome.offset;
        assert_int_equal(w.outcome.offset, first);
    }
    assert_int_equal(world_rows(&w, 0, cell, 'E'), 1); /* the second copy is dead on arrival */
    memset(&op, 0, sizeof op);
    op.type = NEF_RECORD_OBJECT_PUT;
    op.stream = stream;
    op.bucket_key = b.id;
    op.u.object_put.bucket = b.id;
    op.u.object_put.key = (struct nef_text){"k", 1};
    op.u.object_put.size = sizeof plain;
    op.u.object_put.condition.none = true;
    (void)snprintf(op.u.object_put.etag, sizeof op.u.object_put.etag, "%032x", 1);
    {
        struct nef_buf attrs = {0};

        nef_attrs_begin(&attrs);
        op.u.object_put.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes};
        OK(nef_run_op(w.keys, &op, cell, dek, NULL, NULL, 0, &run));
        nef_buf_free(&attrs);
    }
    copy = run;
    copy.data = malloc(run.bytes);
    assert_non_null(copy.data);
    memcpy(copy.data, run.data, run.bytes);
    for (uint32_t at = 0; at < copy.bytes;) { /* as it was before it was numbered */
        struct nef_record r;

        OK(nef_record_decode(copy.data + at, &r));
        at += (uint32_t)nef_record_bytes(r.body_bytes);
    }
    world_append_as(&w, &run, 5, 2);
    world_apply(&w, 0);
    OK((nef_err)w.outcome.code);
    first = w.outcome.offset;
    /* If it were applied again, If-None-Match would refuse it. */
    world_append_as(&w, &copy, 5, 2);
    world_apply(&w, 0);
    OK((nef_err)w.outcome.code);
    assert_int_equal(w.outcome.offset, first);
    assert_int_equal(world_rows(&w, 0, cell, 'O'), 1);
}

static void multipart(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    struct nef_id u = world_upload(&w, &b, "big"), other;
    const size_t five = NEF_PART_BYTES_MIN;
    size_t sizes[3] = {five, five + 3, 77};
    uint64_t seeds[3] = {11, 12, 13};
    uint32_t parts[3] = {1, 2, 9}, wrong[2] = {1, 3};
    struct world_put p = {.key = "big", .upload = &u};
    struct nef_upload *upload;
    struct nef_object *o;
    struct nef_attr attr;

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        p.part = parts[i];
        p.size = sizes[i];
        p.seed = seeds[i] + 100; /* replaced below */
        OK(world_put(&w, &b, &p));
        p.seed = seeds[i];
        OK(world_put(&w, &b, &p));
    }
    p.part = 5; /* never selected */
    p.size = 1000;
    OK(world_put(&w, &b, &p));
    OK(nef_store_upload(w.stores[0], &b, "big", 3, &u, &upload));
    assert_string_equal(upload->owner, "root");
    nef_upload_free(upload);
    assert_int_equal(nef_store_upload(w.stores[0], &b, "bi", 2, &u, &upload), NEF_E_NO_UPLOAD);
    nef_random(other.bytes, 16);
    p.upload = &other;
    assert_int_equal(world_put(&w, &b, &p), NEF_E_NO_UPLOAD);
    assert_int_equal(world_complete(&w, &b, "big", &other, parts, seeds, sizes, 3), NEF_E_NO_UPLOAD);
    assert_int_equal(world_complete(&w, &b, "big", &u, wrong, seeds, sizes, 2), NEF_E_BAD_PART);
    seeds[1]++;
    assert_int_equal(world_complete(&w, &b, "big", &u, parts, seeds, sizes, 3), NEF_E_BAD_PART);
    seeds[1]--;
    {
        uint32_t small[2] = {5, 9};
        size_t small_sizes[2] = {1000, 77};
        uint64_t small_seeds[2] = {13, 13};

        assert_int_equal(world_complete(&w, &b, "big", &u, small, small_seeds, small_sizes, 2),
                         NEF_E_PART_SIZE);
    }
    OK(put(&b, "big", 5, 5));
    OK(world_complete(&w, &b, "big", &u, parts, seeds, sizes, 3));
    OK(world_check(&w, 0, &b, "big", sizes, seeds, 3));
    OK(nef_store_object(w.stores[0], &b, "big", 3, &o));
    assert_true(o->multipart);
    assert_true(nef_attrs_find(&o->attrs, "content-type", &attr));
    assert_memory_equal(attr.value, "video/mp4", 9);
    nef_object_free(o);
    assert_int_equal(world_complete(&w, &b, "big", &u, parts, seeds, sizes, 3), NEF_E_NO_UPLOAD);
    OK(world_delete(&w, &b, "big", NULL));
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        assert_int_equal(live(c), 0);
        assert_int_equal(world_rows(&w, 0, c, 'X') + world_rows(&w, 0, c, 'P') +
                             world_rows(&w, 0, c, 'M') + world_rows(&w, 0, c, 'S'), 0);
    }
}

struct seen {
    uint32_t count;
    char keys[16][16];
    struct nef_id ids[16];
    uint32_t parts[16];
};

static bool see_upload(void *context, const struct nef_upload *u)
{
    struct seen *s = context;

    memcpy(s->keys[s->count], u->key, u->key_bytes + 1);
    s->ids[s->count++] = u->id;
    return s->count < 16;
}

static bool see_part(void *context, const struct nef_part *p)
{
    struct seen *s = context;

    s->parts[s->count++] = p->part;
    return true;
}

static void upload_listings(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    struct nef_id ids[4];
    static const char *const keys[] = {"a", "a", "ab", "b/c"};
    struct seen s = {0};
    struct nef_upload *u;
    struct nef_op op;
    struct nef_run run;
    uint8_t dek[32] = {3};

    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        ids[i] = world_upload(&w, &b, keys[i]);
    OK(nef_store_uploads(w.stores[0], &b, (struct nef_text){"", 0}, (struct nef_text){"", 0}, NULL,
                         see_upload, &s));
    assert_int_equal(s.count, 4);
    assert_string_equal(s.keys[0], "a");
    assert_string_equal(s.keys[1], "a");
    assert_true(memcmp(s.ids[0].bytes, s.ids[1].bytes, 16) < 0);
    assert_string_equal(s.keys[2], "ab");
    assert_string_equal(s.keys[3], "b/c");
    {
        struct nef_id first = s.ids[0];

        s.count = 0;
        OK(nef_store_uploads(w.stores[0], &b, (struct nef_text){"a", 1}, (struct nef_text){"a", 1}, &first,
                             see_upload, &s));
        assert_int_equal(s.count, 2);
        s.count = 0;
        OK(nef_store_uploads(w.stores[0], &b, (struct nef_text){"", 0}, (struct nef_text){"a", 1}, NULL,
                             see_upload, &s));
        assert_int_equal(s.count, 2);
        assert_string_equal(s.keys[0], "ab");
    }
    for (uint32_t i = 0; i < 3; i++)
        OK(world_put(&w, &b, &(struct world_put){.key = "ab", .upload = &ids[2], .part = 3 - i, .size = 9}));
    OK(nef_store_upload(w.stores[0], &b, "ab", 2, &ids[2], &u));
    s.count = 0;
    OK(nef_store_parts(w.stores[0], u, 1, see_part, &s));
    assert_int_equal(s.count, 2);
    assert_int_equal(s.parts[0], 2);
    nef_upload_free(u);
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t cell = nef_store_cell(w.stores[0], &b.id, keys[i], strlen(keys[i]));

        memset(&op, 0, sizeof op);
        op.type = NEF_RECORD_UPLOAD_ABORT;
        nef_random(op.stream.bytes, 16);
        op.bucket_key = b.id;
        op.u.upload_abort.bucket = b.id;
        op.u.upload_abort.key = (struct nef_text){keys[i], (uint32_t)strlen(keys[i])};
        op.u.upload_abort.upload = ids[i];
        OK(nef_run_op(w.keys, &op, cell, dek, NULL, NULL, 0, &run));
        OK(world_propose(&w, &run));
    }
    assert_int_equal(live(0) + live(1), 0);
}

static void bucket_deletion(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket"), found;
    struct nef_id t1, t2;

    (void)state;
    nef_random(t1.bytes, 16);
    nef_random(t2.bytes, 16);
    OK(put(&b, "k", 10, 1));
    {
        uint32_t holder = nef_store_cell(w.stores[0], &b.id, "k", 1);

        assert_int_equal(world_bucket_op(&w, holder, NEF_RECORD_BUCKET_CLOSE, &b.id, &t1),
                         NEF_E_NOT_EMPTY);
        OK(world_bucket_op(&w, 1 - holder, NEF_RECORD_BUCKET_CLOSE, &b.id, &t1));
        OK(world_bucket_op(&w, 1 - holder, NEF_RECORD_BUCKET_REOPEN, &b.id, &t1));
    }
    OK(world_delete(&w, &b, "k", NULL));
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        OK(world_bucket_op(&w, c, NEF_RECORD_BUCKET_CLOSE, &b.id, &t1));
        OK(world_bucket_op(&w, c, NEF_RECORD_BUCKET_CLOSE, &b.id, &t1));
        assert_int_equal(world_bucket_op(&w, c, NEF_RECORD_BUCKET_CLOSE, &b.id, &t2), NEF_E_AGAIN);
        assert_int_equal(world_bucket_op(&w, c, NEF_RECORD_BUCKET_REOPEN, &b.id, &t2),
                         NEF_E_PRECONDITION);
        assert_int_equal(world_bucket_op(&w, c, NEF_RECORD_BUCKET_DELETE, &b.id, &t2),
                         NEF_E_PRECONDITION);
    }
    assert_int_equal(put(&b, "k", 10, 1), NEF_E_NO_BUCKET);
    /* a slow deletion's DELETE after its bucket was reopened and closed by another */
    OK(world_bucket_op(&w, 0, NEF_RECORD_BUCKET_REOPEN, &b.id, &t1));
    assert_int_equal(world_bucket_op(&w, 0, NEF_RECORD_BUCKET_DELETE, &b.id, &t1), NEF_E_PRECONDITION);
    OK(world_bucket_op(&w, 0, NEF_RECORD_BUCKET_CLOSE, &b.id, &t2));
    assert_int_equal(world_bucket_op(&w, 0, NEF_RECORD_BUCKET_DELETE, &b.id, &t1), NEF_E_PRECONDITION);
    OK(world_bucket_op(&w, 0, NEF_RECORD_BUCKET_DELETE, &b.id, &t2));
    assert_int_equal(nef_store_bucket(w.stores[0], "bucket", &found), NEF_E_NO_BUCKET);
    OK(world_bucket_op(&w, 1, NEF_RECORD_BUCKET_DELETE, &b.id, &t1));
    assert_int_equal(world_bucket_op(&w, 1, NEF_RECORD_BUCKET_DELETE, &b.id, &t1), NEF_E_NO_BUCKET);
    b = world_bucket(&w, "bucket"); /* the name is free again */
    OK(put(&b, "k", 10, 1));
}

static bool see_bucket(void *context, const struct nef_bucket *b)
{
    struct seen *s = context;

    memcpy(s->keys[s->count++], b->name, 16);
    return true;
}

static void bucket_repairs(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket"), c = world_bucket(&w, "closed");
    struct nef_id token, orphan;
    struct seen s = {0};
    struct nef_op op;
    struct nef_run run;
    uint8_t dek[32] = {9};
    size_t bytes;

    (void)state;
    nef_random(token.bytes, 16);
    /* a create that got no further than cell 1 */
    memset(&op, 0, sizeof op);
    nef_random(orphan.bytes, 16);
    nef_random(op.stream.bytes, 16);
    op.type = NEF_RECORD_BUCKET_PUT;
    OK(nef_store_region_key(w.stores[0], &op.bucket_key));
    op.u.bucket_put.bucket = orphan;
    op.u.bucket_put.name = (struct nef_text){"orphan", 6};
    op.u.bucket_put.owner = (struct nef_text){"root", 4};
    OK(nef_keys_create(w.keys, &orphan, op.u.bucket_put.wrapped, &bytes));
    op.u.bucket_put.wrapped_bytes = (uint32_t)bytes;
    OK(nef_run_op(w.keys, &op, 1, dek, NULL, NULL, 0, &run));
    OK(world_propose(&w, &run));
    /* a delete that closed every cell and stopped; one that deleted in cell 0 and stopped */
    for (uint32_t i = 0; i < WORLD_CELLS; i++) {
        OK(world_bucket_op(&w, i, NEF_RECORD_BUCKET_CLOSE, &b.id, &token));
        OK(world_bucket_op(&w, i, NEF_RECORD_BUCKET_CLOSE, &c.id, &token));
    }
    OK(world_bucket_op(&w, 0, NEF_RECORD_BUCKET_DELETE, &c.id, &token));
    world_maintain(&w, 40, NULL, 0);
    assert_int_equal(world_rows(&w, 0, 1, 'B'), 3); /* too early */
    for (int i = 0; i < 3; i++) {
        w.time_ms += 61000;
        world_maintain(&w, 40, NULL, 0);
    }
    assert_int_equal(world_rows(&w, 0, 0, 'B'), 1);
    assert_int_equal(world_rows(&w, 0, 1, 'B'), 1);
    OK(put(&b, "k", 10, 1));
    OK(put(&b, "k2", 10, 1));
    OK(put(&b, "k3", 10, 1));
    OK(nef_store_buckets(w.stores[0], "", see_bucket, &s));
    assert_int_equal(s.count, 1);
    assert_string_equal(s.keys[0], "bucket");
}

static bool see_user(void *context, const struct nef_user *u)
{
    struct seen *s = context;

    memcpy(s->keys[s->count++], u->access_key, 16);
    return true;
}

static void users(void **state)
{
    struct nef_user u;
    struct seen s = {0};

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (uint32_t c = 0; c < WORLD_CELLS; c++) {
            struct nef_op op;
            struct nef_run run;
            uint8_t dek[32] = {9};

            memset(&op, 0, sizeof op);
            op.type = NEF_RECORD_USER_PUT;
            nef_random(op.stream.bytes, 16);
            OK(nef_store_region_key(w.stores[0], &op.bucket_key));
            op.u.user_put.name = (struct nef_text){"ann", 3};
            op.u.user_put.access_key = (struct nef_text){"AKIA", 4};
            op.u.user_put.secret_key = (struct nef_text){"secret", 6};
            op.u.user_put.bucket = (struct nef_text){"", 0};
            op.u.user_put.disabled = round == 1;
            OK(nef_run_op(w.keys, &op, c, dek, NULL, NULL, 0, &run));
            OK(world_propose(&w, &run));
        }
        OK(nef_store_user(w.stores[0], "AKIA", &u));
        assert_string_equal(u.name, "ann");
        assert_string_equal(u.access_key, "AKIA");
        assert_string_equal(u.secret_key, "secret");
        assert_int_equal(u.disabled, round == 1);
    }
    assert_int_equal(nef_store_user(w.stores[0], "AKIB", &u), NEF_E_NOT_FOUND);
    OK(nef_store_users(w.stores[0], see_user, &s));
    assert_int_equal(s.count, 1);
}

static void lost_streams(void **state)
{
    struct nef_bucket b = world_bucket(&w, "bucket");
    struct world_put p = {.key = "k", .size = 2 * NEF_PIECE_BYTES, .seed = 1, .lose_op = true};
    uint64_t alive = 77;

    (void)state;
    OK(world_put(&w, &b, &p));
    w.time_ms += 120000;
    world_maintain(&w, 8, &alive, 1); /* its proposer may still end it */
    assert_true(live(0) + live(1) > 0);
    world_maintain(&w, 8, NULL, 0);
    assert_int_equal(live(0) + live(1), 0);
}

/* R8: an accepted loss is known by its epoch, counts once, and lies in the index of every replica. */
static void accepted_losses(void **state)
{
    struct nef_row_override row;
    struct nef_buf value = {0};
    struct nef_run run = {0}, late = {0};
    struct nef_row_key k;
    uint64_t end = nef_log_end(w.logs[0][1]), offset;

    (void)state;
    w.epoch += 2;
    OK(nef_store_override_next(w.stores[0], 1, w.epoch, end, &run));
    OK(nef_store_override_next(w.stores[0], 1, w.epoch, end, &late)); /* of a primary that died meanwhile */
    assert_true(run.frees_space); /* a full disk doesn't keep it out */
    OK(world_propose(&w, &run));
    OK(world_propose(&w, &late));
    nef_key_u64(&k, 'V', w.epoch);
    OK(nef_cell_get(&w.stores[0]->cells[1], &k, &value));
    OK(nef_row_override_get(value.data, value.bytes, &row));
    offset = row.offset;
    assert_int_equal(row.end, end);
    assert_int_equal(offset, end); /* the first one */
    assert_int_equal(nef_log_epoch_start(w.logs[0][1], w.epoch), end);
    OK(nef_store_override_next(w.stores[0], 1, w.epoch, end, &run));
    assert_int_equal(run.bytes, 0);
    assert_int_equal(nef_cell_get(&w.stores[0]->cells[0], &k, &value), NEF_E_NOT_FOUND); /* each cell has its own */
    OK(nef_store_override_next(w.stores[0], 1, w.epoch + 1, end, &run)); /* of an epoch that isn't yet */
    assert_int_equal(world_propose(&w, &run), NEF_E_PROTOCOL);
    world_apply_slowly(&w, 1);
    world_assert_same_rows(&w);
    nef_buf_free(&value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(accepted_losses, setup, teardown),
        cmocka_unit_test_setup_teardown(put_get_overwrite_delete, setup, teardown),
        cmocka_unit_test_setup_teardown(conditions, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_pieces, setup, teardown),
        cmocka_unit_test_setup_teardown(duplicates, setup, teardown),
        cmocka_unit_test_setup_teardown(multipart, setup, teardown),
        cmocka_unit_test_setup_teardown(upload_listings, setup, teardown),
        cmocka_unit_test_setup_teardown(bucket_deletion, setup, teardown),
        cmocka_unit_test_setup_teardown(bucket_repairs, setup, teardown),
        cmocka_unit_test_setup_teardown(users, setup, teardown),
        cmocka_unit_test_setup_teardown(lost_streams, setup, teardown),
    };

    return cmocka_run_group_tests_name("store_ops", tests, NULL, NULL);
}
