/* Compaction as a duty that never stands still: a damaged segment holds up no other, what it costs is bounded, and
 * checkpoints don't follow from themselves. That it loses nothing is in store_random_test.c. */
#include "store_fixture.h"

static struct world w;
static struct nef_bucket bucket;

static int setup(void **state)
{
    (void)state;
    world_open(&w);
    bucket = world_bucket(&w, "bucket");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_close(&w);
    return 0;
}

static void put(const char *key, size_t size, uint64_t seed)
{
    OK(world_put(&w, &bucket, &(struct world_put){.key = key, .size = size, .seed = seed}));
}

static void check(const char *key, size_t size, uint64_t seed)
{
    OK(world_check(&w, 0, &bucket, key, &size, &seed, 1));
}

/* Keys of one cell, so that a test knows what lies beside what. */
static void key_of(uint32_t cell, uint32_t number, char out[32])
{
    uint32_t salt = 0;

    do
        (void)snprintf(out, 32, "k%u-%u", number, salt++);
    while (nef_store_cell(w.stores[0], &bucket.id, out, strlen(out)) != cell);
}

static uint64_t segment_of(const char *key, uint64_t *out_record)
{
    struct nef_row_piece piece;
    struct nef_object *o;

    OK(nef_store_object(w.stores[0], &bucket, key, strlen(key), &o));
    OK(nef_store_piece(w.stores[0], 0, &o->parts[0].stream, 0, &piece));
    nef_object_free(o);
    *out_record = piece.record;
    return piece.record / WORLD_SEGMENT;
}

static bool has_segment(uint64_t number)
{
    uint64_t numbers[64];
    uint32_t count = NEF_MIN(nef_log_segments(w.logs[0][0], numbers, 64), 64u);

    for (uint32_t i = 0; i < count; i++)
        if (numbers[i] == number)
            return true;
    return false;
}

/* A segment of cell 0 that holds small objects that stay and large ones that go. Their keys' numbers begin at FIRST. */
static void fill_segment(uint32_t first, uint32_t small)
{
    char key[32];

    for (uint32_t i = 0; i < small; i++) {
        key_of(0, first + i, key);
        put(key, 1000, first + i);
    }
    for (uint32_t i = 0; i < 6; i++) {
        key_of(0, 900000 + first + i, key);
        put(key, 700000, 1);
        OK(world_delete(&w, &bucket, key, NULL));
    }
}

/* The least live segment has a record that can't be read. It would stay the first choice for ever. */
static void damage_holds_up_nothing_else(void **state)
{
    uint64_t bad_segment, segment, at, other;
    char bad[32], key[32], command[256];

    (void)state;
    fill_segment(0, 5);
    fill_segment(100, 20);
    fill_segment(200, 20);
    fill_segment(300, 1);
    key_of(0, 2, bad);
    bad_segment = segment_of(bad, &at);
    key_of(0, 110, key);
    segment = segment_of(key, &other);
    assert_true(segment > bad_segment);
    (void)snprintf(command, sizeof command,
                   "printf XXXX | dd conv=notrunc bs=1 seek=%llu of=%s/z0/cell-0/%016llx.seg status=none",
                   (unsigned long long)(at % WORLD_SEGMENT + NEF_RECORD_HEADER_BYTES + 300), w.dir,
                   (unsigned long long)bad_segment);
    world_shell(&w, "%s", command);
    world_checkpoint(&w, 0);
    world_maintain(&w, 60, NULL, 0);
    assert_true(has_segment(bad_segment)); /* what it holds can't be copied */
    assert_false(has_segment(segment));
    for (uint32_t i = 0; i < 20; i++) {
        key_of(0, 100 + i, key);
        check(key, 1000, 100 + i);
    }
    assert_true(w.stores[0]->cells[0].move_count == 0);
}

/* Small records are counted with what they cost, and the bound is passed by one copy at most. */
static void cost_is_bounded(void **state)
{
    uint64_t cost = 0, most = 10 * (NEF_COMPACT_RECORD_COST + 1300);
    struct nef_run runs[64];
    uint32_t count = 0, copies = 0;

    (void)state;
    fill_segment(0, 200);
    fill_segment(300, 250); /* the first is the least live one */
    world_checkpoint(&w, 0);
    w.time_ms += 1000;
    OK(nef_store_compact(w.stores[0], 0, w.time_ms, most, runs, 64, &count, &cost));
    for (uint32_t i = 0; i < count; i++) {
        copies += runs[i].is_op ? 0 : 1;
        (void)world_propose(&w, &runs[i]);
    }
    assert_in_range(copies, 9, 12);
    assert_in_range(cost, most / 2, most + NEF_COMPACT_RECORD_COST + 2000);
    OK(nef_store_compact(w.stores[0], 0, w.time_ms, 0, runs, 64, &count, &cost)); /* no more copies: the moves only */
    assert_int_equal(count, 1);
    assert_true(runs[0].is_op);
    assert_int_equal(cost, 0);
    (void)world_propose(&w, &runs[0]);
}

static void live_fraction_decides(void **state)
{
    uint64_t segment, at;
    char key[32];

    (void)state;
    for (uint32_t i = 0; i < 5; i++) { /* 3 of 5 stay */
        key_of(0, i, key);
        put(key, 700000, i);
    }
    key_of(0, 0, key);
    segment = segment_of(key, &at);
    for (uint32_t i = 3; i < 5; i++) {
        key_of(0, i, key);
        OK(world_delete(&w, &bucket, key, NULL));
    }
    fill_segment(100, 1);
    world_checkpoint(&w, 0);
    world_maintain(&w, 60, NULL, 0);
    assert_true(has_segment(segment));
    w.stores[0]->options.live_fraction = 0.8;
    world_maintain(&w, 60, NULL, 0);
    assert_false(has_segment(segment));
    for (uint32_t i = 0; i < 3; i++) {
        key_of(0, i, key);
        check(key, 700000, i);
    }
}

/* Rows of small objects with long names take as much log as the objects: counted from where the last checkpoint began,
 * the next one would be due when it ends, and so on, in a region that nobody writes to. */
static void checkpoints_end(void **state)
{
    char key[900];
    uint64_t end;

    (void)state;
    w.stores[0]->options.checkpoint_log_bytes = 64 << 10;
    assert_false(nef_store_checkpoint_due(w.stores[0], 1));
    for (uint32_t i = 0; i < 2000; i++) {
        (void)snprintf(key, sizeof key, "%0880u", i);
        put(key, 1, i);
    }
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        assert_true(nef_store_checkpoint_due(w.stores[0], c));
        world_checkpoint(&w, c);
        assert_false(nef_store_checkpoint_due(w.stores[0], c));
    }
    end = nef_log_end(w.logs[0][0]);
    for (uint32_t i = 0; nef_log_end(w.logs[0][0]) < end + (2 << 20); i++) { /* and the next one comes */
        (void)snprintf(key, sizeof key, "%0880u", i);
        put(key, 1, i);
    }
    assert_true(nef_store_checkpoint_due(w.stores[0], 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(damage_holds_up_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(cost_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(live_fraction_decides, setup, teardown),
        cmocka_unit_test_setup_teardown(checkpoints_end, setup, teardown),
    };

    return cmocka_run_group_tests_name("compact", tests, NULL, NULL);
}
