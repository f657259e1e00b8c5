/* Random operations against a model: content, listings, replica equality over restarts and rolled back
 * indexes, checkpoints and rebuilds, compaction and erasure. NEF_SEED in the environment replays a run. */
#include "store_fixture.h"
#include <unistd.h>

#define MODEL_MAX 96u

struct entry {
    char key[24];
    size_t size;
    uint64_t seed;
    bool there;
};

static struct world w;
static struct entry model[MODEL_MAX];
static struct nef_bucket bucket;

static int setup(void **state)
{
    const char *seed = getenv("NEF_SEED");
    static const char alphabet[] = "ab/.\xc3\xa9";

    (void)state;
    world_open(&w);
    w.random = seed != NULL ? strtoull(seed, NULL, 0) : nef_random_u64();
    print_message("NEF_SEED=%llu\n", (unsigned long long)w.random);
    bucket = world_bucket(&w, "bucket");
    memset(model, 0, sizeof model);
    for (uint32_t i = 0; i < MODEL_MAX; i++) {
        size_t bytes = 1 + world_random(&w) % 8;

        for (size_t k = 0; k < bytes; k++)
            model[i].key[k] = alphabet[world_random(&w) % (sizeof alphabet - 1)];
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(model[k].key, model[i].key) == 0) {
                memset(&model[i], 0, sizeof model[i]);
                i--;
                break;
            }
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_close(&w);
    return 0;
}

static size_t random_size(void)
{
    switch (world_random(&w) % 8) {
    case 0: return 0;
    case 1: return world_random(&w) % (NEF_INLINE_BYTES_MAX + 2);
    case 2: return NEF_INLINE_BYTES_MAX + world_random(&w) % NEF_PIECE_BYTES;
    case 3: return NEF_PIECE_BYTES + world_random(&w) % NEF_PIECE_BYTES;
    default: return world_random(&w) % 5000;
    }
}

static void random_op(void)
{
    struct entry *e = &model[world_random(&w) % MODEL_MAX];
    struct nef_condition none = {.none = true};
    struct world_put p = {.key = e->key, .size = random_size(), .seed = world_random(&w)};
    nef_err err;

    w.time_ms += world_random(&w) % 1000;
    switch (world_random(&w) % 6) {
    case 0:
        OK(world_delete(&w, &bucket, e->key, NULL));
        e->there = false;
        return;
    case 1:
        p.condition = &none;
        err = world_put(&w, &bucket, &p);
        assert_int_equal(err, e->there ? NEF_E_PRECONDITION : NEF_OK);
        if (err != NEF_OK)
            return;
        break;
    case 2:
        if (world_random(&w) % 4 == 0) {
            p.lose_op = true;
            OK(world_put(&w, &bucket, &p));
            return;
        }
        /* fall through */
    default:
        OK(world_put(&w, &bucket, &p));
    }
    e->there = true;
    e->size = p.size;
    e->seed = p.seed;
}

static void check_model(uint32_t replica)
{
    for (uint32_t i = 0; i < MODEL_MAX; i++) {
        const struct entry *e = &model[i];

        assert_int_equal(world_check(&w, replica, &bucket, e->key, &e->size, &e->seed, 1),
                         e->there ? NEF_OK : NEF_E_NOT_FOUND);
    }
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Keys and common prefixes as S3 defines them, the slow way. */
static uint32_t model_list(const char *prefix, const char *delimiter, const char *after,
                           char out[MODEL_MAX][24], bool *is_prefix)
{
    const char *keys[MODEL_MAX];
    uint32_t count = 0, found = 0;

    for (uint32_t i = 0; i < MODEL_MAX; i++)
        if (model[i].there && strncmp(model[i].key, prefix, strlen(prefix)) == 0)
            keys[count++] = model[i].key;
    qsort(keys, count, sizeof *keys, by_key);
    for (uint32_t i = 0; i < count; i++) {
        const char *at = delimiter[0] != 0 ? strstr(keys[i] + strlen(prefix), delimiter) : NULL;
        char item[24] = {0};

        if (strcmp(keys[i], after) <= 0)
            continue;
        memcpy(item, keys[i], at != NULL ? (size_t)(at - keys[i]) + strlen(delimiter) : strlen(keys[i]));
        if (strcmp(item, after) <= 0)
            continue;
        if (found > 0 && is_prefix[found - 1] && strcmp(out[found - 1], item) == 0)
            continue;
        memcpy(out[found], item, sizeof item);
        is_prefix[found++] = at != NULL;
    }
    return found;
}

static void check_lists(uint32_t rounds)
{
    static const char *const prefixes[] = {"", "a", "a/", "b", "/", "\xc3", "zz", "ab"};
    static const char *const delimiters[] = {"", "/", "a", "//", "b."};

    while (rounds-- > 0) {
        const char *prefix = prefixes[world_random(&w) % NEF_COUNT(prefixes)];
        const char *delimiter = delimiters[world_random(&w) % NEF_COUNT(delimiters)];
        char after[24] = {0};
        char expected[MODEL_MAX][24];
        bool is_prefix[MODEL_MAX];
        uint32_t count, at = 0, max = 1 + (uint32_t)(world_random(&w) % 20);
        struct nef_list list;

        if (world_random(&w) % 2 == 0)
            memcpy(after, model[world_random(&w) % MODEL_MAX].key, sizeof after);
        count = model_list(prefix, delimiter, after, expected, is_prefix);
        do { /* page by page */
            struct nef_list_query q = {.prefix = {prefix, (uint32_t)strlen(prefix)},
                                       .delimiter = {delimiter, (uint32_t)strlen(delimiter)},
                                       .after = {after, (uint32_t)strlen(after)},
                                       .max = max};
            bool truncated;

            OK(nef_store_list(w.stores[0], &bucket, &q, &list));
            assert_true(list.count <= max);
            for (uint32_t i = 0; i < list.count; i++, at++) {
                assert_true(at < count);
                assert_string_equal(list.entries[i].key, expected[at]);
                assert_int_equal(list.entries[i].is_prefix, is_prefix[at]);
                assert_int_equal(list.entries[i].key_bytes, strlen(expected[at]));
            }
            assert_int_equal(list.truncated, at < count);
            truncated = list.truncated;
            if (list.count > 0)
                memcpy(after, list.entries[list.count - 1].key, list.entries[list.count - 1].key_bytes + 1);
            nef_list_free(&list);
            if (!truncated)
                break;
        } while (true);
        assert_int_equal(at, count);
    }
}

static void content_and_lists(void **state)
{
    (void)state;
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 60; i++)
            random_op();
        check_lists(60);
    }
    check_model(0);
    world_apply_slowly(&w, 1);
    check_model(1);
    world_assert_same_rows(&w);
}

/* Replica 1 restarts in between; now and then its index comes back from an older copy, as a crash before a
 * flush would leave it. */
static void restarts(void **state)
{
    bool copied = false;

    (void)state;
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 30; i++)
            random_op();
        world_apply_slowly(&w, 1);
        world_store_close(&w, 1);
        if (copied && world_random(&w) % 2 == 0)
            world_shell(&w, "cd %s/z1 && rm -rf index-0 index-1 && cp -r old/* .", w.dir);
        world_shell(&w, "cd %s/z1 && rm -rf old && mkdir old && cp -r index-0 index-1 old", w.dir);
        copied = true;
        world_store_open(&w, 1);
        if (round % 4 == 3) {
            world_store_close(&w, 0); /* the writer too: outcomes must be what they were */
            world_store_open(&w, 0);
        }
        world_apply_slowly(&w, 1);
        world_assert_same_rows(&w);
    }
    check_model(1);
}

static void checkpoint_and_rebuild(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 40; i++)
            random_op();
        for (uint32_t c = 0; c < WORLD_CELLS; c++)
            world_checkpoint(&w, c);
        for (int i = 0; i < 20; i++)
            random_op();
        world_apply_slowly(&w, 1);
        world_assert_same_rows(&w);
        for (uint32_t c = 0; c < WORLD_CELLS; c++) {
            uint64_t begin = w.stores[1]->cells[c].checkpoint.begin;

            OK(nef_store_rebuild(w.stores[1], c));
            assert_true(nef_store_applied(w.stores[1], c) > begin); /* from the checkpoint, not from 0 */
        }
        world_apply_slowly(&w, 1);
        world_assert_same_rows(&w);
        world_store_close(&w, 1); /* and from an index that is gone */
        world_shell(&w, "rm -rf %s/z1/index-*", w.dir);
        world_store_open(&w, 1);
        world_apply_slowly(&w, 1);
        world_assert_same_rows(&w);
    }
    check_model(1);
}

static uint64_t log_bytes(void)
{
    return (nef_log_segments(w.logs[0][0], NULL, 0) + nef_log_segments(w.logs[0][1], NULL, 0)) *
           WORLD_SEGMENT;
}

/* What a compacted log may have at most: segments that are half live, and of each cell those from the checkpoint on (at
 * most two) and one that its records reach into. */
static uint64_t compacted_bytes(void)
{
    uint64_t bytes = 0;

    for (uint32_t c = 0; c < WORLD_CELLS; c++) {
        struct nef_store_cell_stats stats;

        nef_store_stats(w.stores[0], c, &stats);
        bytes += 2 * stats.bytes_live + 3 * WORLD_SEGMENT;
    }
    return bytes;
}

static void compaction(void **state)
{
    uint64_t before, unshrunk;
    int shrunk = 0;

    (void)state;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 120; i++) {
            random_op();
            if (i % 3 == 0)
                world_maintain(&w, 1, &w.proposer, 1);
        }
        before = log_bytes();
        w.time_ms += 70000;
        for (int i = 0; i < 4; i++) {
            for (uint32_t c = 0; c < WORLD_CELLS; c++)
                world_checkpoint(&w, c);
            world_maintain(&w, 120, NULL, 0);
        }
        unshrunk = log_bytes();
        print_message("log %llu -> %llu MiB\n", (unsigned long long)before >> 20,
                      (unsigned long long)unshrunk >> 20);
        shrunk += unshrunk < before; /* or it was compact already */
        assert_in_range(unshrunk, 0, compacted_bytes());
        check_model(0);
        world_apply_slowly(&w, 1);
        world_assert_same_rows(&w);
        check_model(1);
        if (round % 2 == 1) {
            for (uint32_t c = 0; c < WORLD_CELLS; c++)
                OK(nef_store_rebuild(w.stores[1], c));
            world_apply_slowly(&w, 1);
            world_assert_same_rows(&w);
        }
    }
    assert_true(shrunk >= 2);
    check_lists(50);
}

/* What was deleted is gone from both disks after erase_within. */
static void erasure(void **state)
{
    uint64_t offsets[8];
    uint32_t cell = nef_store_cell(w.stores[0], &bucket.id, "doomed", 6);
    struct world_put p = {.key = "doomed", .size = 5 * NEF_PIECE_BYTES, .seed = 4};
    struct nef_object *o;
    uint8_t *body = malloc(NEF_RECORD_BODY_MAX);

    (void)state;
    assert_non_null(body);
    OK(world_put(&w, &bucket, &p));
    OK(nef_store_object(w.stores[0], &bucket, "doomed", 6, &o));
    for (uint32_t i = 0; i < 5; i++) {
        struct nef_row_piece piece;

        OK(nef_store_piece(w.stores[0], cell, &o->parts[0].stream, i, &piece));
        offsets[i] = piece.record;
    }
    nef_object_free(o);
    OK(world_delete(&w, &bucket, "doomed", NULL));
    OK(nef_log_pin(w.logs[0][cell], offsets[0])); /* a reader holds it: done later, by the sweep */
    w.time_ms += w.erase_within_ms;
    world_maintain(&w, 8, NULL, 0);
    nef_log_unpin(w.logs[0][cell], offsets[0]);
    OK(nef_cell_flush(&w.stores[0]->cells[cell]));
    world_apply_slowly(&w, 1);
    for (uint32_t r = 0; r < WORLD_REPLICAS; r++)
        for (uint32_t i = 0; i < 5; i++) {
            struct nef_record record;
            uint64_t next;

            OK(nef_log_record(w.logs[r][cell], offsets[i], &record, body, &next));
            assert_true((record.flags & NEF_RECORD_ERASED) != 0);
            for (uint32_t k = 0; k < record.body_bytes; k++)
                assert_int_equal(body[k], 0);
        }
    free(body);
    world_assert_same_rows(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(content_and_lists, setup, teardown),
        cmocka_unit_test_setup_teardown(restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(checkpoint_and_rebuild, setup, teardown),
        cmocka_unit_test_setup_teardown(compaction, setup, teardown),
        cmocka_unit_test_setup_teardown(erasure, setup, teardown),
    };

    return cmocka_run_group_tests_name("store_random", tests, NULL, NULL);
}
