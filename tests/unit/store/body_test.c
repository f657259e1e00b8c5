/* Readers of bodies over a real log on a simulated disk; the index is a table of this file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "sim_disk.h"
#include "store/store_internal.h"

#define SEGMENT ((uint64_t)4 << 20)
#define CELL    0u

static const struct nef_id region = {"the region......"};
static const struct nef_id bucket = {"a bucket........"};

struct row {
    struct nef_id stream;
    uint32_t piece;
    struct nef_row_piece row;
    bool there;
};

static struct row *rows;
static uint32_t row_count, row_capacity;
static struct row *(*on_lookup)(struct row *row); /* what another thread does before the pin */

static struct row *find_row(const struct nef_id *stream, uint32_t piece)
{
    for (uint32_t i = 0; i < row_count; i++)
        if (rows[i].there && rows[i].piece == piece && nef_id_equal(&rows[i].stream, stream))
            return &rows[i];
    return NULL;
}

/* In place of lookup.c's. */
nef_err nef_store_piece(struct nef_store *store, uint32_t cell, const struct nef_id *stream,
                        uint32_t piece, struct nef_row_piece *out_piece)
{
    struct row *row = find_row(stream, piece);

    (void)store;
    assert_int_equal(cell, CELL);
    if (row == NULL)
        return NEF_E_NOT_FOUND;
    *out_piece = row->row;
    if (on_lookup != NULL)
        (void)on_lookup(row);
    return NEF_OK;
}

struct fixture {
    struct sim_disk *disk;
    struct nef_dir *dir;
    struct nef_log *log;
    struct nef_log *logs[1];
    struct nef_keys *keys;
    struct nef_store store;
    struct nef_object object;
    uint8_t *plain; /* of the whole object */
    uint64_t synced;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct nef_log_options o = {.cell = CELL, .segment_bytes = SEGMENT, .region = region};
    struct nef_log_recovery *recovery = calloc(1, sizeof(*recovery));
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
    char key_path[] = "/tmp/nef-body-XXXXXX";
    size_t bytes;
    int fd;

    assert_int_equal(nef_crypto_init(), NEF_OK);
    fd = mkstemp(key_path);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(key_path), 0);
    assert_int_equal(nef_keys_make_file(key_path), NEF_OK);
    assert_int_equal(nef_keys_open_file(key_path, &f->keys), NEF_OK);
    assert_int_equal(unlink(key_path), 0);
    assert_int_equal(nef_keys_create(f->keys, &bucket, wrapped, &bytes), NEF_OK);
    f->disk = sim_disk_new(5);
    f->dir = sim_disk_dir(f->disk, "cell-0");
    o.dir = f->dir;
    assert_int_equal(nef_log_open(&o, recovery, &f->log), NEF_OK);
    free(recovery);
    f->logs[0] = f->log;
    f->store.options.logs = f->logs;
    f->store.options.keys = f->keys;
    f->store.options.cell_count = 1;
    row_count = 0;
    on_lookup = NULL;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    nef_log_close(f->log);
    f->dir->ops->close(f->dir);
    sim_disk_free(f->disk);
    nef_keys_close(f->keys);
    free(f->object.parts);
    free(f->plain);
    free(rows);
    rows = NULL;
    row_count = row_capacity = 0;
    free(f);
    return 0;
}

/* Append a run as a primary would. Returns the offset of its last record. */
static uint64_t append(struct fixture *f, struct nef_run *run)
{
    uint64_t end = nef_log_end(f->log), place = nef_log_place(end, run->bytes, SEGMENT), at = 0, last = 0;

    if (place != end) {
        uint64_t left = SEGMENT - end % SEGMENT;
        struct nef_record pad = {.type = NEF_RECORD_PAD,
                                 .flags = NEF_RECORD_LAST,
                                 .cell = CELL,
                                 .body_bytes = (uint32_t)(left - NEF_RECORD_HEADER_BYTES)};
        uint8_t *data = malloc(left);

        nef_record_encode(&pad, NULL, 0, data);
        nef_record_stamp(data, 1, end, 1, 0);
        assert_int_equal(nef_log_append(f->log, end, data, left), NEF_OK);
        free(data);
    }
    nef_run_number(run, 1, 1);
    while (at < run->bytes) {
        struct nef_record r;

        nef_record_stamp(run->data + at, 1, place + at, 1, 0);
        assert_int_equal(nef_record_decode(run->data + at, &r), NEF_OK);
        last = place + at;
        at += nef_record_bytes(r.body_bytes);
    }
    assert_int_equal(nef_log_append(f->log, place, run->data, run->bytes), NEF_OK);
    return last;
}

static void add_row(const struct nef_id *stream, uint32_t piece, uint64_t record, uint32_t cipher_at,
                    uint32_t cipher_bytes)
{
    if (row_count == row_capacity) {
        row_capacity = row_capacity == 0 ? 64 : 2 * row_capacity;
        rows = realloc(rows, row_capacity * sizeof(*rows));
        assert_non_null(rows);
    }
    rows[row_count++] = (struct row){*stream, piece, {record, cipher_at, cipher_bytes}, true};
}

static void write_pieces(struct fixture *f, const struct nef_object_part *part, const uint8_t dek[32],
                         const uint8_t *plain)
{
    for (uint64_t at = 0; at < part->size; at += NEF_PIECE_BYTES) {
        uint32_t piece = (uint32_t)(at / NEF_PIECE_BYTES);
        uint32_t bytes = (uint32_t)NEF_MIN(part->size - at, (uint64_t)NEF_PIECE_BYTES);
        struct nef_run run = {0};

        assert_int_equal(nef_run_piece(&bucket, &part->stream, dek, piece, at + bytes == part->size,
                                       NULL, CELL, plain + at, bytes, &run),
                         NEF_OK);
        add_row(&part->stream, piece, append(f, &run), NEF_RECORD_HEADER_BYTES,
                bytes + NEF_TAG_BYTES);
        nef_run_free(&run);
    }
}

static void write_inline(struct fixture *f, const struct nef_object_part *part, const uint8_t dek[32],
                         const uint8_t *plain)
{
    struct nef_op op = {.type = NEF_RECORD_OBJECT_PUT, .stream = part->stream, .bucket_key = bucket};
    uint8_t *cipher = malloc(part->size + NEF_TAG_BYTES);
    uint32_t cipher_bytes = (uint32_t)part->size + NEF_TAG_BYTES;
    struct nef_run run = {0};
    struct nef_record r;
    uint64_t record;

    op.u.object_put = (struct nef_op_object_put){.bucket = bucket,
                                                 .key = {"a name", 6},
                                                 .size = part->size,
                                                 .etag = "0123456789abcdef0123456789abcdef",
                                                 .inline_body = true};
    nef_piece_seal(&bucket, &part->stream, dek, 0, true, plain, (uint32_t)part->size, cipher);
    assert_int_equal(nef_run_op(f->keys, &op, CELL, dek, NULL, cipher, cipher_bytes, &run), NEF_OK);
    record = append(f, &run);
    assert_int_equal(nef_log_record(f->log, record, &r, NULL, &(uint64_t){0}), NEF_OK);
    add_row(&part->stream, 0, record, NEF_RECORD_HEADER_BYTES + r.body_bytes - cipher_bytes,
            cipher_bytes);
    nef_run_free(&run);
    free(cipher);
}

/* An object of these parts, in the log and in the table. */
static void make(struct fixture *f, const uint64_t *sizes, uint32_t count, bool inline_body)
{
    uint64_t at = 0;

    f->object = (struct nef_object){.bucket = bucket, .cell = CELL, .part_count = count};
    f->object.parts = calloc(count, sizeof(*f->object.parts));
    for (uint32_t i = 0; i < count; i++)
        f->object.size += sizes[i];
    f->plain = malloc(f->object.size + 1);
    nef_random(f->plain, f->object.size);
    for (uint32_t i = 0; i < count; i++) {
        struct nef_object_part *part = &f->object.parts[i];
        uint8_t dek[32];

        nef_random(dek, sizeof(dek));
        nef_random(part->stream.bytes, 16);
        part->part = i + 1;
        part->size = sizes[i];
        assert_int_equal(nef_keys_wrap_dek(f->keys, &bucket, &part->stream, dek, part->wrapped_dek),
                         NEF_OK);
        if (inline_body)
            write_inline(f, part, dek, f->plain + at);
        else
            write_pieces(f, part, dek, f->plain + at);
        at += sizes[i];
    }
}

/* Reads a range in steps of at most MAX; every byte must be right. */
static void read_range(struct fixture *f, uint64_t offset, uint64_t bytes, size_t max)
{
    uint8_t *out = malloc(max); /* exact, for ASan */
    struct nef_body *body = NULL;
    uint32_t bad_cell;
    uint64_t bad_offset, at = offset;
    size_t n;

    assert_int_equal(nef_body_open(&f->store, &f->object, offset, bytes, &body), NEF_OK);
    for (;;) {
        assert_int_equal(nef_body_read(body, out, max, &n, &bad_cell, &bad_offset), NEF_OK);
        if (n == 0)
            break;
        assert_true(n <= max && at + n <= offset + bytes);
        assert_memory_equal(out, f->plain + at, n);
        at += n;
    }
    assert_int_equal(at, offset + bytes);
    nef_body_close(body);
    free(out);
}

static void read_many_ranges(struct fixture *f)
{
    const uint64_t size = f->object.size;
    const uint64_t marks[] = {0, 1, size / 2, NEF_PIECE_BYTES - 1, NEF_PIECE_BYTES, NEF_PIECE_BYTES + 1,
                              2 * NEF_PIECE_BYTES, size - 1, size};

    read_range(f, 0, size, NEF_PIECE_BYTES);
    read_range(f, 0, size, NEF_PIECE_BYTES - 1);
    read_range(f, 0, size, 3 * NEF_PIECE_BYTES);
    read_range(f, 0, size, 65536);
    for (size_t i = 0; i < NEF_COUNT(marks); i++) {
        for (size_t j = 0; j < NEF_COUNT(marks); j++) {
            if (marks[i] > marks[j] || marks[j] > size)
                continue;
            read_range(f, marks[i], marks[j] - marks[i], 100000);
            read_range(f, marks[i], marks[j] - marks[i], NEF_PIECE_BYTES);
        }
    }
}

static void one_part_of_many_sizes(void **state)
{
    static const uint64_t sizes[] = {1, 17, NEF_PIECE_BYTES, NEF_PIECE_BYTES + 1, 7 * NEF_PIECE_BYTES - 1};
    struct fixture *f = *state;

    for (size_t i = 0; i < NEF_COUNT(sizes); i++) {
        make(f, &sizes[i], 1, false);
        read_many_ranges(f);
        free(f->object.parts);
        free(f->plain);
    }
    f->object.parts = NULL;
    f->plain = NULL;
}

static void inline_bodies(void **state)
{
    static const uint64_t sizes[] = {1, 4096, NEF_INLINE_BYTES_MAX};
    struct fixture *f = *state;

    for (size_t i = 0; i < NEF_COUNT(sizes); i++) {
        make(f, &sizes[i], 1, true);
        read_many_ranges(f);
        read_range(f, 0, sizes[i], 1);
        free(f->object.parts);
        free(f->plain);
    }
    f->object.parts = NULL;
    f->plain = NULL;
}

static void several_parts(void **state)
{
    static const uint64_t sizes[] = {2 * NEF_PIECE_BYTES + 5, 0, 1, NEF_PIECE_BYTES, 0, 300000, 0};
    struct fixture *f = *state;
    unsigned seed = 3;

    make(f, sizes, NEF_COUNT(sizes), false);
    read_many_ranges(f);
    for (int i = 0; i < 60; i++) {
        uint64_t from = (uint64_t)rand_r(&seed) % f->object.size;
        uint64_t bytes = (uint64_t)rand_r(&seed) % (f->object.size - from + 1);

        read_range(f, from, bytes, 1 + (size_t)rand_r(&seed) % 2000000);
    }
}

static void empty_and_out_of_range(void **state)
{
    struct fixture *f = *state;
    struct nef_body *body = NULL;
    uint64_t size = 100;

    f->object = (struct nef_object){.bucket = bucket};
    read_range(f, 0, 0, 10);
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, 1, &body), NEF_E_RANGE);
    make(f, &size, 1, true);
    read_range(f, 100, 0, 10);
    assert_int_equal(nef_body_open(&f->store, &f->object, 101, 0, &body), NEF_E_RANGE);
    assert_int_equal(nef_body_open(&f->store, &f->object, 100, 1, &body), NEF_E_RANGE);
    assert_int_equal(nef_body_open(&f->store, &f->object, 1, UINT64_MAX, &body), NEF_E_RANGE);
    f->object.size = 200; /* a row that says more than its parts hold */
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, 200, &body), NEF_E_DAMAGED);
    nef_keys_forget(f->keys, &bucket);
    f->object.size = 100;
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, 100, &body), NEF_OK);
    {
        uint8_t out[100];
        uint32_t bad_cell;
        uint64_t bad_offset;
        size_t n;

        assert_int_equal(nef_body_read(body, out, 100, &n, &bad_cell, &bad_offset), NEF_E_KEY);
    }
    nef_body_close(body);
    nef_body_close(NULL);
}

static void damage_is_named_and_read_again_after_repair(void **state)
{
    struct fixture *f = *state;
    uint64_t size = 3 * NEF_PIECE_BYTES;
    uint8_t *out = malloc(NEF_PIECE_BYTES), *good;
    struct nef_body *body = NULL;
    uint32_t bad_cell = 99;
    uint64_t bad_offset = 0;
    size_t n = 0;

    make(f, &size, 1, false);
    for (unsigned place = 0; place < 3; place++) { /* header, ciphertext, tag */
        static const uint64_t at[] = {70, 5000, NEF_RECORD_HEADER_BYTES + NEF_PIECE_BYTES + 3};
        const struct nef_row_piece *row = &find_row(&f->object.parts[0].stream, 1)->row;
        uint64_t bytes = nef_row_piece_record_bytes(row);
        char name[64];
        bool hit = false;

        good = malloc(bytes);
        assert_int_equal(nef_log_read(f->log, row->record, good, bytes), NEF_OK);
        assert_int_equal(nef_log_sync(f->log, &f->synced), NEF_OK);
        for (unsigned s = 0; s < 4 && !hit; s++) { /* whatever the file's name looks like */
            const char *const formats[] = {"%016llx.log", "%016llx.seg", "%016llx", "%08llu.seg"};

            (void)snprintf(name, sizeof(name), formats[s],
                           (unsigned long long)(row->record / SEGMENT));
            hit = sim_disk_rot(f->disk, "cell-0", name, row->record % SEGMENT + at[place], 1);
        }
        assert_true(hit);
        assert_int_equal(nef_body_open(&f->store, &f->object, 0, size, &body), NEF_OK);
        assert_int_equal(nef_body_read(body, out, NEF_PIECE_BYTES, &n, &bad_cell, &bad_offset), NEF_OK);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(nef_body_read(body, out, NEF_PIECE_BYTES, &n, &bad_cell, &bad_offset),
                             NEF_E_CORRUPT);
            assert_int_equal(bad_cell, CELL);
            assert_int_equal(bad_offset, row->record);
        }
        assert_int_equal(nef_log_repair(f->log, row->record, good, bytes), NEF_OK);
        assert_int_equal(nef_body_read(body, out, NEF_PIECE_BYTES, &n, &bad_cell, &bad_offset), NEF_OK);
        assert_int_equal(n, NEF_PIECE_BYTES);
        assert_memory_equal(out, f->plain + NEF_PIECE_BYTES, n);
        nef_body_close(body);
        free(good);
    }
    free(out);
}

static void a_row_that_names_another_record_is_damage(void **state)
{
    struct fixture *f = *state;
    uint64_t size = 3 * NEF_PIECE_BYTES;
    struct nef_body *body = NULL;
    uint8_t *out = malloc(NEF_PIECE_BYTES);
    uint32_t bad_cell;
    uint64_t bad_offset, was;
    size_t n;

    make(f, &size, 1, false);
    was = rows[0].row.record;
    rows[0].row.record = rows[1].row.record; /* another piece of the same stream */
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, 10, &body), NEF_OK);
    assert_int_equal(nef_body_read(body, out, 10, &n, &bad_cell, &bad_offset), NEF_E_CORRUPT);
    assert_int_equal(bad_offset, rows[1].row.record);
    nef_body_close(body);
    rows[0].row.record = was + 64; /* no record at all */
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, 10, &body), NEF_OK);
    assert_int_equal(nef_body_read(body, out, 10, &n, &bad_cell, &bad_offset), NEF_E_CORRUPT);
    nef_body_close(body);
    rows[0].row.record = was;
    rows[0].row.cipher_bytes--;
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, 10, &body), NEF_OK);
    assert_int_equal(nef_body_read(body, out, 10, &n, &bad_cell, &bad_offset), NEF_E_CORRUPT);
    nef_body_close(body);
    free(out);
}

static struct fixture *moving;

/* Between look-up and pin, compaction copies the piece and drops its old segment. */
static struct row *move_it(struct row *row)
{
    struct nef_run run = {0};
    uint64_t bytes = nef_row_piece_record_bytes(&row->row);
    uint8_t *record = malloc(bytes);
    uint64_t segment = row->row.record / SEGMENT;

    on_lookup = NULL;
    assert_int_equal(nef_log_read(moving->log, row->row.record, record, bytes), NEF_OK);
    assert_int_equal(nef_run_cipher(&row->stream, bucket.bytes, row->piece, CELL,
                                    record + row->row.cipher_at, row->row.cipher_bytes, &run),
                     NEF_OK);
    row->row.record = append(moving, &run);
    row->row.cipher_at = NEF_RECORD_HEADER_BYTES;
    assert_int_not_equal(row->row.record / SEGMENT, segment);
    assert_int_equal(nef_log_drop(moving->log, segment), NEF_OK);
    nef_run_free(&run);
    free(record);
    return row;
}

/* The same, but the old record is only punched. */
static struct row *erase_it(struct row *row)
{
    struct nef_run run = {0};
    uint64_t bytes = nef_row_piece_record_bytes(&row->row), old = row->row.record;
    uint8_t *record = malloc(bytes);

    on_lookup = NULL;
    assert_int_equal(nef_log_read(moving->log, old, record, bytes), NEF_OK);
    assert_int_equal(nef_run_cipher(&row->stream, bucket.bytes, row->piece, CELL,
                                    record + row->row.cipher_at, row->row.cipher_bytes, &run),
                     NEF_OK);
    row->row.record = append(moving, &run);
    assert_int_equal(nef_log_erase(moving->log, old), NEF_OK);
    nef_run_free(&run);
    free(record);
    return row;
}

static struct row *erase_and_forget(struct row *row)
{
    on_lookup = NULL;
    assert_int_equal(nef_log_erase(moving->log, row->row.record), NEF_OK);
    row->there = false;
    return row;
}

static void a_piece_that_moves_is_found_again(void **state)
{
    struct fixture *f = *state;
    uint64_t size = 6 * NEF_PIECE_BYTES; /* the log's tail is in a later segment than its beginning */

    moving = f;
    make(f, &size, 1, false);
    on_lookup = erase_it;
    read_range(f, 0, 5000, 5000);
    on_lookup = move_it;
    read_range(f, NEF_PIECE_BYTES, 5000, 5000);
}

static void an_object_deleted_meanwhile(void **state)
{
    struct fixture *f = *state;
    uint64_t size = 9 * NEF_PIECE_BYTES, at = 0;
    uint8_t *out = malloc(NEF_PIECE_BYTES);
    struct nef_body *body = NULL;
    uint32_t bad_cell;
    uint64_t bad_offset;
    size_t n;

    moving = f;
    make(f, &size, 1, false);
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, size, &body), NEF_OK);
    for (uint32_t i = 0; i < row_count; i++)
        rows[i].there = false;
    for (uint64_t s = 0; s < 2; s++)
        assert_int_equal(nef_log_drop(f->log, s), NEF_OK);
    while (at < size) { /* read to its end all the same */
        assert_int_equal(nef_body_read(body, out, NEF_PIECE_BYTES, &n, &bad_cell, &bad_offset), NEF_OK);
        assert_memory_equal(out, f->plain + at, n);
        at += n;
    }
    nef_body_close(body);
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, size, &body), NEF_E_NOT_FOUND);
    for (uint32_t i = 0; i < row_count; i++)
        rows[i].there = true; /* rows that still name dropped segments */
    assert_int_equal(nef_body_open(&f->store, &f->object, 0, size, &body), NEF_E_NOT_FOUND);
    /* gone between look-up and pin */
    on_lookup = erase_and_forget;
    assert_int_equal(nef_body_open(&f->store, &f->object, 8 * NEF_PIECE_BYTES, 10, &body), NEF_OK);
    assert_int_equal(nef_body_read(body, out, 10, &n, &bad_cell, &bad_offset), NEF_E_NOT_FOUND);
    nef_body_close(body);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(one_part_of_many_sizes),
        T(inline_bodies),
        T(several_parts),
        T(empty_and_out_of_range),
        T(damage_is_named_and_read_again_after_repair),
        T(a_row_that_names_another_record_is_damage),
        T(a_piece_that_moves_is_found_again),
        T(an_object_deleted_meanwhile),
    };

    return cmocka_run_group_tests_name("body", tests, NULL, NULL);
}
