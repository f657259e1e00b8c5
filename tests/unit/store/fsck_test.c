/* nef fsck: a clean region is clean, and each injected damage is found where it is. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/fsck.h"
#include "store_fixture.h"

static struct world w;
static struct nef_bucket bucket;

struct found {
    uint32_t problems, notes;
    struct nef_fsck_finding first; /* problem */
    char texts[8192];
};

static void report(void *context, const struct nef_fsck_finding *finding)
{
    struct found *f = context;
    size_t used = strlen(f->texts);

    if (finding->problem && f->problems++ == 0)
        f->first = *finding;
    if (!finding->problem)
        f->notes++;
    (void)snprintf(f->texts + used, sizeof f->texts - used, "%s %u %lld: %s\n", finding->zone,
                   finding->cell, (long long)finding->offset, finding->text);
}

static int fsck(struct found *f, bool rebuild)
{
    char dirs[2][128];
    struct nef_fsck_zone zones[2] = {{"a", dirs[0]}, {"b", dirs[1]}};
    struct nef_fsck_options o = {.zones = zones,
                                 .zone_count = 2,
                                 .region = w.region,
                                 .cell_count = WORLD_CELLS,
                                 .segment_bytes = WORLD_SEGMENT,
                                 .keys = w.keys,
                                 .rebuild_index = rebuild,
                                 .report = report,
                                 .context = f};

    memset(f, 0, sizeof *f);
    for (uint32_t r = 0; r < 2; r++)
        (void)snprintf(dirs[r], sizeof dirs[r], "%s/z%u", w.dir, r);
    return nef_fsck(&o);
}

static void expect(int status, bool rebuild)
{
    struct found f;
    int got = fsck(&f, rebuild);

    if (got != status)
        fail_msg("status %d instead of %d:\n%s", got, status, f.texts);
}

/* Some of everything: objects, parts, checkpoints, moved and dropped segments. Then stopped. */
static int setup(void **state)
{
    uint32_t sizes[] = {0, 100, 70000, 3000000};
    struct nef_id upload;

    (void)state;
    world_open(&w);
    bucket = world_bucket(&w, "bucket");
    for (uint32_t i = 0; i < 60; i++) {
        char key[16];

        (void)snprintf(key, sizeof key, "k%u", i % 25);
        if (i % 7 == 6)
            OK(world_delete(&w, &bucket, key, NULL));
        else
            OK(world_put(&w, &bucket, &(struct world_put){.key = key, .size = sizes[i % 4], .seed = i}));
        if (i == 30 || i == 50) {
            for (uint32_t c = 0; c < WORLD_CELLS; c++)
                world_checkpoint(&w, c);
            world_maintain(&w, 40, NULL, 0);
        }
    }
    upload = world_upload(&w, &bucket, "u");
    OK(world_put(&w, &bucket,
                 &(struct world_put){.key = "u", .upload = &upload, .part = 1, .size = 2000000, .seed = 3}));
    world_apply(&w, 1);
    world_stop(&w);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_close(&w);
    return 0;
}

/* The file and place of an offset in a replica's log. */
static int open_at(uint32_t replica, uint32_t cell, uint64_t offset)
{
    char path[256];
    int fd;

    (void)snprintf(path, sizeof path, "%s/z%u/cell-%u/%016llx.seg", w.dir, replica, cell,
                   (unsigned long long)(offset / WORLD_SEGMENT));
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    return fd;
}

static void flip(uint32_t replica, uint32_t cell, uint64_t offset)
{
    int fd = open_at(replica, cell, offset);
    off_t at = (off_t)(offset % WORLD_SEGMENT);
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(close(fd), 0);
}

/* Some record of a type in the log. */
static uint64_t find_record(uint32_t cell, uint16_t type)
{
    uint64_t at, end, next;
    struct nef_record r;

    world_start(&w);
    end = nef_log_end(w.logs[0][cell]);
    for (at = nef_log_start(w.logs[0][cell]); at < end; at = next) {
        OK(nef_log_record(w.logs[0][cell], at, &r, NULL, &next));
        if (r.type == type && (r.flags & NEF_RECORD_ERASED) == 0)
            break;
    }
    assert_true(at < end);
    world_stop(&w);
    return at;
}

static void clean(void **state)
{
    (void)state;
    expect(0, false);
    expect(0, false);
    expect(0, true);
    expect(0, false);
    world_start(&w);
    world_apply(&w, 0);
    world_apply(&w, 1);
    world_assert_same_rows(&w);
}

static void in_use(void **state)
{
    char path[128];
    int fd;

    (void)state;
    (void)snprintf(path, sizeof path, "%s/z1/LOCK", w.dir);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    expect(2, false);
    assert_int_equal(close(fd), 0);
    expect(0, false);
}

static void damaged_records(void **state)
{
    static const struct {
        uint16_t type;
        uint32_t at;
    } places[] = {{NEF_RECORD_DATA, NEF_RECORD_HEADER_BYTES + 1000},
                  {NEF_RECORD_OBJECT_PUT, NEF_RECORD_HEADER_BYTES + 9},
                  {NEF_RECORD_CHECKPOINT_ROWS, NEF_RECORD_HEADER_BYTES + 1},
                  {NEF_RECORD_KEY, 100}};

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(places); i++) {
        uint32_t cell = (uint32_t)i % WORLD_CELLS;
        uint64_t offset = find_record(cell, places[i].type);
        struct found f;

        flip(1, cell, offset + places[i].at);
        assert_int_equal(fsck(&f, false), 1);
        assert_string_equal(f.first.zone, "b");
        assert_int_equal(f.first.cell, cell);
        assert_int_equal(f.first.offset, offset);
        assert_int_equal(fsck(&f, true), 1); /* an index isn't made from a faulty log */
        flip(1, cell, offset + places[i].at);
        expect(0, false);
    }
}

static void logs_differ(void **state)
{
    struct found f;
    uint64_t end;

    (void)state;
    world_start(&w);
    end = nef_log_end(w.logs[0][0]);
    for (uint32_t r = 0; r < 2; r++) {
        uint8_t record[NEF_RECORD_HEADER_BYTES] = {0};
        struct nef_record mark = {.type = NEF_RECORD_MARK, .flags = NEF_RECORD_LAST};

        nef_record_encode(&mark, NULL, 0, record);
        nef_record_stamp(record, 1, end, 1700000000000 + r, 0);
        OK(nef_log_append(w.logs[r][0], end, record, sizeof record));
    }
    world_stop(&w);
    assert_int_equal(fsck(&f, false), 1);
    assert_int_equal(f.first.offset, end);
    assert_int_equal(f.problems, 1);

    world_start(&w); /* a tail that lost an election is no problem */
    OK(nef_log_truncate(w.logs[1][0], end));
    {
        uint8_t record[NEF_RECORD_HEADER_BYTES] = {0};
        struct nef_record mark = {.type = NEF_RECORD_MARK, .flags = NEF_RECORD_LAST};

        nef_record_encode(&mark, NULL, 0, record);
        nef_record_stamp(record, 2, end, 1700000000009, 0);
        OK(nef_log_append(w.logs[1][0], end, record, sizeof record));
    }
    world_stop(&w);
    assert_int_equal(fsck(&f, false), 0);
    assert_int_equal(f.notes, 1);
}

static void damaged_index(void **state)
{
    static const char kinds[] = {'X', 'O', 'L', 'Q'};
    char path[256];
    struct found f;

    (void)state;
    for (size_t i = 0; i < sizeof kinds; i++) {
        bool done = false;

        for (uint32_t c = 0; c < WORLD_CELLS && !done; c++) {
            uint8_t from = (uint8_t)kinds[i], to = (uint8_t)(kinds[i] + 1);
            struct nef_index_batch *batch = nef_index_batch_new();
            struct nef_index_iter *it;
            struct nef_index *index;

            world_start(&w);
            index = w.stores[1]->cells[c].index;
            it = nef_index_iter_new(index, NULL, &from, 1, &to, 1);
            nef_index_iter_first(it);
            if (nef_index_iter_valid(it)) {
                size_t k_bytes;
                const uint8_t *k = nef_index_iter_key(it, &k_bytes);

                nef_index_batch_delete(batch, k, k_bytes);
                OK(nef_index_write(index, batch));
                done = true;
            }
            nef_index_iter_free(it);
            nef_index_batch_free(batch);
            world_stop(&w);
        }
        assert_true(done);
        assert_int_equal(fsck(&f, false), 1);
        assert_string_equal(f.first.zone, "b");
        expect(0, true);
        expect(0, false);
    }
    (void)snprintf(path, sizeof path, "%s/z0", w.dir);
    world_shell(&w, "rm -rf %s/index-1", path);
    assert_int_equal(fsck(&f, false), 1);
    assert_int_equal(f.problems, 1);
    expect(0, true);
    expect(0, false);
}

/* What a kill -9 before the first flush leaves: files of an index, and no row in it. */
static void empty_index(void **state)
{
    struct found f;
    uint32_t cell = 0;

    (void)state;
    world_start(&w);
    while (cell < WORLD_CELLS && nef_log_start(w.logs[1][cell]) == NEF_SEGMENT_HEADER_BYTES)
        cell++;
    world_stop(&w);
    assert_true(cell < WORLD_CELLS); /* its log lost its beginning to compaction, so the index must be there */
    world_shell(&w, "rm -rf %s/z1/index-%u/*", w.dir, cell);
    assert_int_equal(fsck(&f, false), 1);
    assert_int_equal(f.problems, 1);
    assert_int_equal(f.first.cell, cell);
    world_close(&w);

    world_open(&w);
    bucket = world_bucket(&w, "bucket");
    OK(world_put(&w, &bucket, &(struct world_put){.key = "k", .size = 100, .seed = 1}));
    world_apply(&w, 1);
    world_stop(&w);
    world_shell(&w, "rm -rf %s/z1/index-*/*", w.dir);
    assert_int_equal(fsck(&f, false), 0);
    assert_int_equal(f.notes, WORLD_CELLS);
    world_start(&w);
    world_apply(&w, 0);
    world_apply(&w, 1);
    world_assert_same_rows(&w);
    world_stop(&w);
    expect(0, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(clean, setup, teardown),
        cmocka_unit_test_setup_teardown(in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_records, setup, teardown),
        cmocka_unit_test_setup_teardown(logs_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_index, setup, teardown),
        cmocka_unit_test_setup_teardown(empty_index, setup, teardown),
    };

    return cmocka_run_group_tests_name("fsck", tests, NULL, NULL);
}
