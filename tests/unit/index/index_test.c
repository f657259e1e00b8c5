/* src/index against a real directory: batches, ranges, snapshots, iterators, what a crash leaves, a wrong
 * key, damage, and that nothing readable ever lies in a file. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "index/index.h"

static const uint8_t key_a[32] = "index key a, 32 bytes long.....";
static const uint8_t key_b[32] = "index key b, 32 bytes long.....";

struct fixture {
    char dir[64];
    char path[96];
    struct nef_index_shared *shared;
    struct nef_index *index;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(f->dir, "/tmp/nef-index-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/index-0", f->dir);
    f->shared = nef_index_shared_new((size_t)4 << 20, (size_t)4 << 20);
    assert_non_null(f->shared);
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &f->index), NEF_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    nef_index_close(f->index);
    nef_index_shared_free(f->shared);
    assert_int_equal(nef_index_wipe(f->path), NEF_OK);
    assert_int_equal(rmdir(f->path), 0);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

static void put(struct nef_index_batch *b, const char *key, const char *value)
{
    nef_index_batch_put(b, key, strlen(key), value, strlen(value));
}

static void delete(struct nef_index_batch *b, const char *key)
{
    nef_index_batch_delete(b, key, strlen(key));
}

static void write_batch(struct fixture *f, struct nef_index_batch *b)
{
    assert_int_equal(nef_index_write(f->index, b), NEF_OK);
    nef_index_batch_clear(b);
}

static void expect_in(struct fixture *f, const struct nef_index_snapshot *snapshot, const char *key,
                      const char *value)
{
    struct nef_buf got = {0};
    nef_err err = nef_index_get(f->index, snapshot, key, strlen(key), &got);

    if (value == NULL) {
        assert_int_equal(err, NEF_E_NOT_FOUND);
    } else {
        assert_int_equal(err, NEF_OK);
        assert_int_equal(got.bytes, strlen(value));
        assert_memory_equal(nef_buf_cstr(&got), value, got.bytes);
    }
    nef_buf_free(&got);
}

static void expect(struct fixture *f, const char *key, const char *value)
{
    expect_in(f, NULL, key, value);
}

static void expect_batch(struct fixture *f, struct nef_index_batch *b, const char *key,
                         const char *value)
{
    struct nef_buf got = {0};
    nef_err err = nef_index_batch_get(f->index, b, key, strlen(key), &got);

    if (value == NULL) {
        assert_int_equal(err, NEF_E_NOT_FOUND);
    } else {
        assert_int_equal(err, NEF_OK);
        assert_string_equal(nef_buf_cstr(&got), value);
    }
    nef_buf_free(&got);
}

static void reopen(struct fixture *f)
{
    nef_index_close(f->index);
    f->index = NULL;
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &f->index), NEF_OK);
}

static void batch_is_atomic_and_seen_before_it_is_written(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();

    put(b, "a", "1");
    put(b, "b", "2");
    put(b, "empty", "");
    expect(f, "a", NULL);
    expect_batch(f, b, "a", "1");
    expect_batch(f, b, "empty", "");
    expect_batch(f, b, "none", NULL);
    write_batch(f, b);
    expect(f, "a", "1");
    expect(f, "empty", "");
    put(b, "a", "3");
    delete(b, "b");
    expect_batch(f, b, "a", "3");
    expect_batch(f, b, "b", NULL);
    expect(f, "b", "2");
    nef_index_batch_clear(b);
    write_batch(f, b);
    expect(f, "a", "1");
    expect(f, "b", "2");
    nef_index_batch_free(b);
}

static void range_deletion_keeps_the_order_of_calls(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();

    put(b, "k1", "old");
    put(b, "k2", "old");
    put(b, "k3", "old");
    put(b, "l", "old");
    write_batch(f, b);
    put(b, "k1", "in batch"); /* goes: put before the range was deleted */
    put(b, "k1", "twice");
    put(b, "l", "new");
    nef_index_batch_delete_range(b, "k", 1, "l", 1);
    put(b, "k2", "after"); /* stays */
    nef_index_batch_delete_range(b, "z", 1, "a", 1); /* empty range */
    expect_batch(f, b, "k1", NULL);
    expect_batch(f, b, "k2", "after");
    expect_batch(f, b, "k3", NULL);
    expect_batch(f, b, "l", "new");
    expect(f, "k3", "old");
    write_batch(f, b);
    expect(f, "k1", NULL);
    expect(f, "k2", "after");
    expect(f, "k3", NULL);
    expect(f, "l", "new");
    nef_index_batch_delete_range(b, "k", 1, "l", 1);
    nef_index_batch_delete_range(b, "l", 1, "m", 1);
    expect_batch(f, b, "l", NULL);
    write_batch(f, b);
    expect(f, "k2", NULL);
    expect(f, "l", NULL);
    put(b, "k3", "again");
    write_batch(f, b);
    expect(f, "k3", "again");
    reopen(f);
    expect(f, "k3", "again");
    expect(f, "k2", NULL);
    nef_index_batch_free(b);
}

static void iterators_and_snapshots(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();
    struct nef_index_snapshot *snapshot;
    struct nef_index_iter *i;
    char key[16];
    char bound[] = "k05";
    size_t bytes, n = 0;

    for (int k = 9; k >= 0; k--) {
        (void)snprintf(key, sizeof(key), "k%02d", k);
        put(b, key, key);
    }
    put(b, "j", "before");
    put(b, "l", "after");
    write_batch(f, b);
    snapshot = nef_index_snapshot_new(f->index);
    put(b, "k00", "changed");
    delete(b, "k01");
    write_batch(f, b);
    expect_in(f, snapshot, "k00", "k00");
    expect_in(f, snapshot, "k01", "k01");
    expect(f, "k00", "changed");

    i = nef_index_iter_new(f->index, snapshot, "k", 1, bound, 3);
    memset(bound, 'x', 3); /* bounds are copied */
    for (nef_index_iter_first(i); nef_index_iter_valid(i); nef_index_iter_next(i), n++) {
        (void)snprintf(key, sizeof(key), "k%02zu", n);
        assert_memory_equal(nef_index_iter_key(i, &bytes), key, 3);
        assert_int_equal(bytes, 3);
        assert_memory_equal(nef_index_iter_value(i, &bytes), key, 3);
    }
    assert_int_equal(n, 5);
    assert_int_equal(nef_index_iter_error(i), NEF_OK);
    nef_index_iter_seek(i, "k03x", 4);
    assert_true(nef_index_iter_valid(i));
    assert_memory_equal(nef_index_iter_key(i, &bytes), "k04", 3);
    nef_index_iter_free(i);

    i = nef_index_iter_new(f->index, NULL, NULL, 0, NULL, 0);
    for (n = 0, nef_index_iter_first(i); nef_index_iter_valid(i); nef_index_iter_next(i))
        n++;
    assert_int_equal(n, 11);
    nef_index_iter_free(i);
    nef_index_iter_free(NULL);
    nef_index_snapshot_free(f->index, snapshot);
    nef_index_batch_free(b);
}

/* The process of the next test: it is started anew because RocksDB's threads don't survive a fork. */
static int write_and_die(const char *path)
{
    struct nef_index_shared *shared = nef_index_shared_new((size_t)1 << 20, (size_t)4 << 20);
    struct nef_index_batch *b = nef_index_batch_new();
    struct nef_index *index;
    uint8_t value[512];

    if (nef_index_open(shared, path, key_a, &index) != NEF_OK)
        return 1;
    for (uint32_t n = 1; n <= 20000; n++) {
        char key[32];

        nef_random(value, sizeof(value));
        (void)snprintf(key, sizeof(key), "row%08u", n);
        nef_index_batch_put(b, key, strlen(key), value, sizeof(value));
        nef_index_batch_put(b, "left", 4, &n, sizeof(n));
        nef_index_batch_put(b, "right", 5, &n, sizeof(n));
        if (nef_index_write(index, b) != NEF_OK)
            return 2;
        nef_index_batch_clear(b);
        if (n == 5000 && nef_index_flush(index) != NEF_OK)
            return 3;
    }
    _exit(0); /* without closing */
}

/* A process that dies leaves what was flushed and perhaps a prefix of what came after, whole batches. */
static void a_crash_leaves_a_prefix_of_batches(void **state)
{
    struct fixture *f = *state;
    struct nef_buf left = {0}, right = {0}, row = {0};
    char key[32];
    pid_t child;
    uint32_t n;
    int status;

    nef_index_close(f->index);
    f->index = NULL;
    child = fork();
    if (child == 0) {
        (void)execl("/proc/self/exe", "index_test", "write_and_die", f->path, (char *)NULL);
        _exit(9);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &f->index), NEF_OK);
    assert_int_equal(nef_index_get(f->index, NULL, "left", 4, &left), NEF_OK);
    assert_int_equal(nef_index_get(f->index, NULL, "right", 5, &right), NEF_OK);
    assert_memory_equal(left.data, right.data, 4);
    memcpy(&n, left.data, 4);
    assert_true(n >= 5000 && n <= 20000);
    for (uint32_t k = 1; k <= 20000; k += 7) {
        (void)snprintf(key, sizeof(key), "row%08u", k);
        assert_int_equal(nef_index_get(f->index, NULL, key, strlen(key), &row),
                         k <= n ? NEF_OK : NEF_E_NOT_FOUND);
    }
    nef_buf_free(&left);
    nef_buf_free(&right);
    nef_buf_free(&row);
}

/* Visits each file of the index with its whole content. */
static size_t each_file(const char *path, void (*visit)(const char *name, const uint8_t *data,
                                                        size_t bytes))
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    size_t files = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char name[512];
        struct stat st;
        uint8_t *data;
        int fd;

        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        fd = open(name, O_RDONLY);
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        data = malloc((size_t)st.st_size + 1);
        assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
        visit(entry->d_name, data, (size_t)st.st_size);
        free(data);
        assert_int_equal(close(fd), 0);
        files++;
    }
    assert_int_equal(closedir(dir), 0);
    return files;
}

static void expect_unreadable(const char *name, const uint8_t *data, size_t bytes)
{
    /* names, values, and texts that RocksDB writes into its own files */
    static const char *const known[] = {"secret-object-name", "secret-value", "rocksdb", "leveldb",
                                        "MANIFEST", "index-0", "LOG", "DBOptions", "bucket"};

    if (strcmp(name, "LOCK") == 0) {
        assert_int_equal(bytes, 0);
        return;
    }
    assert_true(strncmp(name, "LOG", 3) != 0); /* no info log at all */
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        assert_null(memmem(data, bytes, known[i], strlen(known[i])));
    if (bytes > 0) {
        assert_true(bytes >= 4096);
        assert_memory_equal(data, "NefI", 4);
    }
}

static void nothing_readable_is_on_disk(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();
    char key[64];

    for (int round = 0; round < 6; round++) { /* enough level-0 files for a compaction */
        for (int i = 0; i < 500; i++) {
            (void)snprintf(key, sizeof(key), "bucket/secret-object-name-%d", i);
            put(b, key, "secret-value secret-value secret-value");
        }
        write_batch(f, b);
        assert_int_equal(nef_index_flush(f->index), NEF_OK);
    }
    nef_index_batch_delete_range(b, "bucket/secret-object-name-1", 27, "bucket/secret-object-name-3",
                                 27);
    write_batch(f, b);
    assert_true(each_file(f->path, expect_unreadable) >= 5);
    reopen(f);
    assert_true(each_file(f->path, expect_unreadable) >= 5);
    expect(f, "bucket/secret-object-name-499", "secret-value secret-value secret-value");
    nef_index_batch_free(b);
}

static void another_key_is_refused(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();
    struct nef_index *other = NULL;

    put(b, "a", "1");
    write_batch(f, b);
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &other), NEF_E_BUSY);
    nef_index_close(f->index);
    f->index = NULL;
    assert_int_equal(nef_index_open(f->shared, f->path, key_b, &other), NEF_E_CORRUPT);
    assert_null(other);
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &f->index), NEF_OK);
    expect(f, "a", "1");
    /* wiped, it is a new one under any key */
    nef_index_close(f->index);
    f->index = NULL;
    assert_int_equal(nef_index_wipe(f->path), NEF_OK);
    assert_int_equal(nef_index_wipe("/tmp/nef-index-that-is-not-there"), NEF_OK);
    assert_int_equal(nef_index_open(f->shared, f->path, key_b, &f->index), NEF_OK);
    expect(f, "a", NULL);
    nef_index_batch_free(b);
}

static const char *damaged_dir;
static const char *damaged_suffix;

static void damage(const char *name, const uint8_t *data, size_t bytes)
{
    char path[512];
    int fd;
    uint8_t flipped;

    if (strstr(name, damaged_suffix) == NULL || bytes <= 4200)
        return;
    (void)snprintf(path, sizeof(path), "%s/%s", damaged_dir, name);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    flipped = data[4180] ^ 0x40;
    assert_int_equal(pwrite(fd, &flipped, 1, 4180), 1);
    assert_int_equal(close(fd), 0);
}

static void cut(const char *name, const uint8_t *data, size_t bytes)
{
    char path[512];

    (void)data;
    (void)snprintf(path, sizeof(path), "%s/%s", damaged_dir, name);
    if (strstr(name, damaged_suffix) != NULL && bytes > 100)
        assert_int_equal(truncate(path, 100), 0);
}

static void damage_is_corruption(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();
    struct nef_buf got = {0};
    char key[32];
    nef_err err;

    for (int i = 0; i < 1000; i++) {
        (void)snprintf(key, sizeof(key), "row%04d", i);
        put(b, key, "a value of some bytes, so that there are several blocks in the file");
    }
    write_batch(f, b);
    nef_index_close(f->index);
    f->index = NULL;
    damaged_dir = f->path;
    damaged_suffix = ".sst";
    (void)each_file(f->path, damage);
    err = nef_index_open(f->shared, f->path, key_a, &f->index);
    if (err == NEF_OK)
        err = nef_index_get(f->index, NULL, "row0000", 7, &got);
    assert_int_equal(err, NEF_E_CORRUPT);
    nef_index_close(f->index);
    f->index = NULL;
    damaged_suffix = "MANIFEST";
    (void)each_file(f->path, damage);
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &f->index), NEF_E_CORRUPT);
    /* a file that was cut within its prefix: RocksDB would assert */
    (void)each_file(f->path, cut);
    assert_int_equal(nef_index_open(f->shared, f->path, key_a, &f->index), NEF_E_CORRUPT);
    assert_null(f->index);
    nef_buf_free(&got);
    nef_index_batch_free(b);
}

/* Random batches of puts, deletes and range deletes against a table of 64 keys. */
static void random_batches_agree_with_a_model(void **state)
{
    struct fixture *f = *state;
    struct nef_index_batch *b = nef_index_batch_new();
    int written[64] = {0}, pending[64];
    unsigned seed = 7;

    for (int round = 1; round <= 400; round++) {
        memcpy(pending, written, sizeof(pending));
        for (int step = 0; step < 12; step++) {
            unsigned kind = (unsigned)rand_r(&seed) % 5;
            uint8_t k = (uint8_t)(rand_r(&seed) % 64), to = (uint8_t)(k + rand_r(&seed) % 20);
            int value = rand_r(&seed) + 1;

            if (kind < 2) {
                nef_index_batch_put(b, &k, 1, &value, sizeof(value));
                pending[k] = value;
            } else if (kind == 2) {
                nef_index_batch_delete(b, &k, 1);
                pending[k] = 0;
            } else if (kind == 3) {
                nef_index_batch_delete_range(b, &k, 1, &to, 1);
                for (unsigned i = k; i < to && i < 64; i++)
                    pending[i] = 0;
            } else {
                struct nef_buf got = {0};
                nef_err err = nef_index_batch_get(f->index, b, &k, 1, &got);

                assert_int_equal(err, pending[k] == 0 ? NEF_E_NOT_FOUND : NEF_OK);
                if (err == NEF_OK)
                    assert_memory_equal(got.data, &pending[k], sizeof(int));
                nef_buf_free(&got);
            }
        }
        if (round % 3 == 0) {
            nef_index_batch_clear(b); /* thrown away */
        } else {
            write_batch(f, b);
            memcpy(written, pending, sizeof(written));
        }
        if (round % 50 == 0)
            reopen(f);
        for (uint8_t k = 0; k < 64; k++) {
            struct nef_buf got = {0};
            nef_err err = nef_index_get(f->index, NULL, &k, 1, &got);

            assert_int_equal(err, written[k] == 0 ? NEF_E_NOT_FOUND : NEF_OK);
            if (err == NEF_OK)
                assert_memory_equal(got.data, &written[k], sizeof(int));
            nef_buf_free(&got);
        }
    }
    nef_index_batch_free(b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batch_is_atomic_and_seen_before_it_is_written, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(range_deletion_keeps_the_order_of_calls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(iterators_and_snapshots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_crash_leaves_a_prefix_of_batches, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_readable_is_on_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_key_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_corruption, set_up, tear_down),
        cmocka_unit_test_setup_teardown(random_batches_agree_with_a_model, set_up, tear_down),
    };

    if (argc == 3 && strcmp(argv[1], "write_and_die") == 0)
        return write_and_die(argv[2]);
    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
