/* What an index goes through when a log isn't what it was: a replica that comes back after others dropped
 * segments, a damaged record below commit, a key that was forgotten, an index that doesn't fit. */
#include <time.h>
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

static void churn(uint32_t ops, uint64_t seed)
{
    for (uint32_t i = 0; i < ops; i++) {
        char key[16];

        (void)snprintf(key, sizeof key, "k%u", i % 10);
        put(key, (i % 3) * 700000, seed + i);
    }
}

/* Bring replica 1's log of a cell to the end of replica 0's, record by record; apply now and then. */
static void fetch(uint32_t cell, bool *out_waited)
{
    uint8_t *bytes = malloc(WORLD_SEGMENT);
    uint64_t at = nef_log_end(w.logs[1][cell]);
    uint32_t count = 0;

    assert_non_null(bytes);
    *out_waited = false;
    while (at < nef_log_end(w.logs[0][cell])) {
        struct nef_record r;
        uint64_t next;

        OK(nef_log_record(w.logs[0][cell], at, &r, NULL, &next));
        OK(nef_log_read(w.logs[0][cell], at, bytes, nef_record_bytes(r.body_bytes)));
        OK(nef_log_append(w.logs[1][cell], at, bytes, nef_record_bytes(r.body_bytes)));
        at = next;
        if (++count % 5 == 0) {
            nef_err err = nef_store_apply(w.stores[1], cell, at);

            assert_true(err == NEF_OK || err == NEF_E_AGAIN);
            *out_waited = *out_waited || err == NEF_E_AGAIN;
            if (err == NEF_E_AGAIN) {
                assert_int_equal(nef_store_applied(w.stores[1], cell), 0);
                OK(nef_store_rebuild(w.stores[1], cell)); /* harmless */
            }
        }
    }
    free(bytes);
    OK(nef_store_apply(w.stores[1], cell, at));
}

static void returns_after_drops(void **state)
{
    bool waited = false;

    (void)state;
    churn(10, 1);
    world_apply(&w, 1);
    w.away = true;
    for (int round = 0; round < 3; round++) {
        churn(30, 100 * (uint64_t)round);
        for (uint32_t c = 0; c < WORLD_CELLS; c++)
            world_checkpoint(&w, c);
        world_maintain(&w, 100, NULL, 0);
    }
    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        uint64_t end = nef_log_end(w.logs[1][c]), start = nef_log_start(w.logs[0][c]);
        bool cell_waited;

        assert_true(start > end); /* what it would need next is gone */
        OK(nef_log_skip(w.logs[1][c], start));
        OK(nef_store_rebuild(w.stores[1], c));
        assert_int_equal(nef_store_apply(w.stores[1], c, start), NEF_E_AGAIN);
        if (c == 0) { /* restarts while it waits */
            world_store_close(&w, 1);
            world_store_open(&w, 1);
        }
        fetch(c, &cell_waited);
        waited = waited || cell_waited;
        OK(nef_cell_flush(&w.stores[1]->cells[c])); /* drops what it had kept from before */
        assert_true(nef_log_start(w.logs[1][c]) >= start);
    }
    assert_true(waited);
    world_assert_same_rows(&w);
    world_store_close(&w, 1);
    world_store_open(&w, 1);
    world_assert_same_rows(&w);
}

static void damaged_record(void **state)
{
    uint32_t cell = nef_store_cell(w.stores[0], &bucket.id, "k", 1);
    uint64_t before = nef_log_end(w.logs[0][cell]), at, next;
    uint8_t *good = malloc(WORLD_SEGMENT);
    struct nef_record r;
    char command[256];

    (void)state;
    assert_non_null(good);
    world_apply(&w, 1);
    put("k", 1000, 1);
    at = nef_log_end(w.logs[0][cell]);
    put("k", 1000, 2);
    put("k", 1000, 3);
    OK(nef_log_record(w.logs[0][cell], at, &r, NULL, &next)); /* KEY; then its op */
    OK(nef_log_record(w.logs[0][cell], next, &r, NULL, &at));
    (void)snprintf(command, sizeof command,
                   "printf XXXX | dd conv=notrunc bs=1 seek=%llu of=%s/z1/cell-%u/%016llx.seg status=none",
                   (unsigned long long)(next % WORLD_SEGMENT + NEF_RECORD_HEADER_BYTES + 50), w.dir, cell,
                   (unsigned long long)(next / WORLD_SEGMENT));
    world_shell(&w, "%s", command);
    assert_int_equal(nef_store_apply(w.stores[1], cell, nef_log_end(w.logs[1][cell])), NEF_E_CORRUPT);
    assert_true(nef_store_applied(w.stores[1], cell) > before);
    assert_true(nef_store_applied(w.stores[1], cell) < next);
    assert_int_equal(nef_store_apply(w.stores[1], cell, nef_log_end(w.logs[1][cell])), NEF_E_CORRUPT);
    OK(nef_log_read(w.logs[0][cell], next, good, nef_record_bytes(r.body_bytes)));
    OK(nef_log_repair(w.logs[1][cell], next, good, nef_record_bytes(r.body_bytes)));
    world_apply(&w, 1);
    world_assert_same_rows(&w);
    free(good);
}

/* A key that another cell's deletion made this process forget comes back from the rows. */
static void forgotten_key(void **state)
{
    (void)state;
    put("a", 100, 1);
    nef_keys_forget(w.keys, &bucket.id);
    world_apply(&w, 1);
    world_assert_same_rows(&w);
    OK(world_check(&w, 1, &bucket, "a", &(size_t){100}, &(uint64_t){1}, 1));
}

/* The log was cut below what the index had applied, and went on otherwise. */
static void index_of_another_history(void **state)
{
    uint64_t ends[WORLD_CELLS];

    (void)state;
    churn(5, 1);
    world_apply(&w, 1);
    for (uint32_t c = 0; c < WORLD_CELLS; c++)
        ends[c] = nef_log_end(w.logs[0][c]);
    churn(10, 50);
    world_apply(&w, 1);
    world_stop(&w);
    w.epoch = 2;
    for (uint32_t r = 0; r < WORLD_REPLICAS; r++)
        for (uint32_t c = 0; c < WORLD_CELLS; c++) {
            world_log_open(&w, r, c);
            OK(nef_log_truncate(w.logs[r][c], ends[c]));
        }
    world_store_open(&w, 0); /* its index is ahead of the log: made anew */
    world_apply(&w, 0);
    churn(40, 90);
    world_store_open(&w, 1); /* as far as the log, but of epoch 1 */
    world_apply(&w, 1);
    world_assert_same_rows(&w);
}

static double seconds(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Not asserted, machines differ: what catching up costs. */
static void speed(void **state)
{
    uint64_t from, to;
    double t;

    (void)state;
    for (int round = 0; round < 2; round++) {
        world_apply(&w, 1);
        from = nef_log_end(w.logs[0][0]) + nef_log_end(w.logs[0][1]);
        for (uint32_t i = 0; i < (round == 0 ? 2000 : 8); i++) {
            char key[16];

            (void)snprintf(key, sizeof key, "s%u", i);
            put(key, round == 0 ? 4096 : 8 << 20, i);
        }
        to = nef_log_end(w.logs[0][0]) + nef_log_end(w.logs[0][1]);
        t = seconds();
        world_apply(&w, 1);
        t = seconds() - t;
        print_message("%s: %.0f MB/s, %.0f runs/s\n", round == 0 ? "4 KiB" : "8 MiB",
                      (double)(to - from) / 1e6 / t, (round == 0 ? 2000 : 72) / t);
    }
    world_assert_same_rows(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(returns_after_drops, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_record, setup, teardown),
        cmocka_unit_test_setup_teardown(forgotten_key, setup, teardown),
        cmocka_unit_test_setup_teardown(index_of_another_history, setup, teardown),
        cmocka_unit_test_setup_teardown(speed, setup, teardown),
    };

    return cmocka_run_group_tests_name("store_recover", tests, NULL, NULL);
}
