/* src/keys: key files and what is refused of them, bucket keys, DEKs, seals, tags, the index key; that
 * nothing sealed for one place opens in another; and threads beside a forget. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "crypto/crypto.h"
#include "keys/keys.h"

struct fixture {
    char dir[64];
    char path[96];
    struct nef_keys *keys;
};

static const struct nef_id region_id = {"the region's id"};
static const struct nef_id bucket_id = {"a bucket's id.."};
static const struct nef_id other_id = {"another bucket."};
static const struct nef_id stream_id = {"a stream's id.."};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_int_equal(nef_crypto_init(), NEF_OK);
    strcpy(f->dir, "/tmp/nef-keys-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/customer.key", f->dir);
    assert_int_equal(nef_keys_make_file(f->path), NEF_OK);
    assert_int_equal(nef_keys_open_file(f->path, &f->keys), NEF_OK);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    nef_keys_close(f->keys);
    nef_keys_close(NULL);
    (void)unlink(f->path);
    assert_int_equal(rmdir(f->dir), 0); /* no temporary file was left */
    free(f);
    return 0;
}

static size_t slurp(const char *path, char *out, size_t max)
{
    int fd = open(path, O_RDONLY);
    ssize_t n;

    assert_true(fd >= 0);
    n = read(fd, out, max);
    assert_true(n >= 0);
    assert_int_equal(close(fd), 0);
    return (size_t)n;
}

static void spill(const char *path, const char *data, size_t bytes, mode_t mode)
{
    int fd;

    (void)unlink(path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), bytes);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
}

static void a_key_file_is_private_and_never_replaced(void **state)
{
    struct fixture *f = *state;
    struct nef_keys *keys = NULL;
    char text[128], again[128];
    struct stat st;
    size_t bytes;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    bytes = slurp(f->path, text, sizeof(text));
    assert_int_equal(bytes, 101);
    assert_int_equal(nef_keys_make_file(f->path), NEF_E_EXISTS);
    assert_int_equal(slurp(f->path, again, sizeof(again)), bytes);
    assert_memory_equal(text, again, bytes);
    for (mode_t mode = 1; mode <= 077; mode++) {
        assert_int_equal(chmod(f->path, 0600 | mode), 0);
        assert_int_equal(nef_keys_open_file(f->path, &keys), NEF_E_CONFIG);
    }
    assert_int_equal(chmod(f->path, 0600), 0);
    assert_int_equal(nef_keys_open_file(f->dir, &keys), NEF_E_CONFIG);
    assert_int_equal(nef_keys_open_file("/tmp/nef-keys-not-there", &keys), NEF_E_NOT_FOUND);
    assert_null(keys);
}

static void a_changed_key_file_is_refused(void **state)
{
    struct fixture *f = *state;
    struct nef_keys *keys = NULL;
    char text[128];
    size_t bytes = slurp(f->path, text, sizeof(text));

    for (size_t cut = 0; cut < bytes; cut += 9) {
        spill(f->path, text, cut, 0600);
        assert_int_equal(nef_keys_open_file(f->path, &keys), NEF_E_CONFIG);
    }
    text[bytes] = '\n';
    spill(f->path, text, bytes + 1, 0600);
    assert_int_equal(nef_keys_open_file(f->path, &keys), NEF_E_CONFIG);
    for (size_t at = 0; at < bytes; at++) { /* every character, a mistyped digit included */
        char was = text[at];

        text[at] = was == '7' ? '8' : '7';
        spill(f->path, text, bytes, 0600);
        assert_int_equal(nef_keys_open_file(f->path, &keys), NEF_E_CONFIG);
        text[at] = was;
    }
    spill(f->path, text, bytes, 0600);
    assert_int_equal(nef_keys_open_file(f->path, &keys), NEF_OK);
    nef_keys_close(keys);
}

static void a_dek_opens_only_where_it_was_wrapped(void **state)
{
    struct fixture *f = *state;
    uint8_t wrapped_key[NEF_WRAPPED_KEY_MAX], wrapped[NEF_WRAPPED_DEK_BYTES];
    uint8_t dek[32], got[32];
    size_t bytes;

    nef_random(dek, sizeof(dek));
    assert_int_equal(nef_keys_wrap_dek(f->keys, &bucket_id, &stream_id, dek, wrapped), NEF_E_KEY);
    assert_int_equal(nef_keys_create(f->keys, &bucket_id, wrapped_key, &bytes), NEF_OK);
    assert_int_equal(nef_keys_create(f->keys, &other_id, wrapped_key, &bytes), NEF_OK);
    assert_int_equal(nef_keys_create(f->keys, &other_id, wrapped_key, &bytes), NEF_E_EXISTS);
    assert_int_equal(nef_keys_wrap_dek(f->keys, &bucket_id, &stream_id, dek, wrapped), NEF_OK);
    assert_int_equal(nef_keys_unwrap_dek(f->keys, &bucket_id, &stream_id, wrapped, got), NEF_OK);
    assert_memory_equal(got, dek, 32);
    assert_int_equal(nef_keys_unwrap_dek(f->keys, &bucket_id, &other_id, wrapped, got),
                     NEF_E_CORRUPT);
    assert_int_equal(nef_keys_unwrap_dek(f->keys, &other_id, &stream_id, wrapped, got),
                     NEF_E_CORRUPT);
    assert_int_equal(nef_keys_unwrap_dek(f->keys, &region_id, &stream_id, wrapped, got), NEF_E_KEY);
    /* nor as something that was sealed */
    assert_int_equal(nef_keys_open(f->keys, &bucket_id, stream_id.bytes, 16, wrapped,
                                   sizeof(wrapped), got),
                     NEF_E_CORRUPT);
    for (size_t bit = 0; bit < 8 * sizeof(wrapped); bit++) {
        wrapped[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(nef_keys_unwrap_dek(f->keys, &bucket_id, &stream_id, wrapped, got),
                         NEF_E_CORRUPT);
        wrapped[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    nef_keys_forget(f->keys, &bucket_id);
    nef_keys_forget(f->keys, &bucket_id);
    assert_int_equal(nef_keys_unwrap_dek(f->keys, &bucket_id, &stream_id, wrapped, got), NEF_E_KEY);
}

static void a_wrapped_bucket_key_loads_under_its_customer_key_only(void **state)
{
    struct fixture *f = *state;
    struct nef_keys *second = NULL, *foreign = NULL;
    uint8_t wrapped_key[NEF_WRAPPED_KEY_MAX], fresh[NEF_WRAPPED_KEY_MAX];
    uint8_t wrapped[NEF_WRAPPED_DEK_BYTES], dek[32], got[32];
    char path[128];
    size_t bytes, fresh_bytes;

    nef_random(dek, sizeof(dek));
    assert_int_equal(nef_keys_create(f->keys, &bucket_id, wrapped_key, &bytes), NEF_OK);
    assert_int_equal(nef_keys_wrap_dek(f->keys, &bucket_id, &stream_id, dek, wrapped), NEF_OK);
    assert_int_equal(nef_keys_load(f->keys, &bucket_id, wrapped_key, bytes), NEF_OK);
    assert_int_equal(nef_keys_load(f->keys, &other_id, wrapped_key, bytes), NEF_E_CORRUPT);

    /* the other zone, the same customer key */
    assert_int_equal(nef_keys_open_file(f->path, &second), NEF_OK);
    assert_int_equal(nef_keys_load(second, &bucket_id, wrapped_key, bytes), NEF_OK);
    assert_int_equal(nef_keys_unwrap_dek(second, &bucket_id, &stream_id, wrapped, got), NEF_OK);
    assert_memory_equal(got, dek, 32);
    nef_keys_forget(second, &bucket_id);
    assert_int_equal(nef_keys_create(second, &bucket_id, fresh, &fresh_bytes), NEF_OK);
    assert_int_equal(nef_keys_load(second, &bucket_id, wrapped_key, bytes), NEF_E_EXISTS);
    for (size_t n = 0; n < bytes; n++)
        assert_int_equal(nef_keys_load(second, &other_id, wrapped_key, n), NEF_E_CORRUPT);
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        wrapped_key[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(nef_keys_load(f->keys, &bucket_id, wrapped_key, bytes), NEF_OK);
        wrapped_key[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }

    (void)snprintf(path, sizeof(path), "%s/foreign.key", f->dir);
    assert_int_equal(nef_keys_make_file(path), NEF_OK);
    assert_int_equal(nef_keys_open_file(path, &foreign), NEF_OK);
    assert_int_equal(nef_keys_load(foreign, &bucket_id, wrapped_key, bytes), NEF_E_KEY);
    assert_int_equal(unlink(path), 0);
    nef_keys_close(second);
    nef_keys_close(foreign);
}

static void seals_are_bound_to_their_data(void **state)
{
    struct fixture *f = *state;
    uint8_t wrapped_key[NEF_WRAPPED_KEY_MAX];
    uint8_t plain[1000], sealed[1000 + NEF_XAES_OVERHEAD], got[1000];
    size_t bytes;

    nef_random(plain, sizeof(plain));
    assert_int_equal(nef_keys_create(f->keys, &region_id, wrapped_key, &bytes), NEF_OK);
    assert_int_equal(nef_keys_seal(f->keys, &region_id, "rows 1", 6, plain, 1000, sealed), NEF_OK);
    assert_int_equal(nef_keys_open(f->keys, &region_id, "rows 1", 6, sealed, sizeof(sealed), got),
                     NEF_OK);
    assert_memory_equal(got, plain, 1000);
    assert_int_equal(nef_keys_open(f->keys, &region_id, "rows 2", 6, sealed, sizeof(sealed), got),
                     NEF_E_CORRUPT);
    assert_int_equal(nef_keys_open(f->keys, &region_id, "rows 1", 6, sealed, sizeof(sealed) - 1, got),
                     NEF_E_CORRUPT);
    assert_int_equal(nef_keys_open(f->keys, &region_id, "rows 1", 6, sealed, 3, got), NEF_E_CORRUPT);
}

static void tags_are_of_bucket_and_key(void **state)
{
    struct fixture *f = *state;
    struct nef_keys *second = NULL;
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX], a[16], b[16];
    uint8_t long_key[2000] = {0};
    size_t bytes;

    assert_int_equal(nef_keys_tag(f->keys, &region_id, &bucket_id, "key", 3, a), NEF_E_KEY);
    assert_int_equal(nef_keys_create(f->keys, &region_id, wrapped, &bytes), NEF_OK);
    assert_int_equal(nef_keys_tag(f->keys, &region_id, &bucket_id, "key", 3, a), NEF_OK);
    assert_int_equal(nef_keys_tag(f->keys, &region_id, &other_id, "key", 3, b), NEF_OK);
    assert_memory_not_equal(a, b, 16);
    assert_int_equal(nef_keys_tag(f->keys, &region_id, &bucket_id, "kez", 3, b), NEF_OK);
    assert_memory_not_equal(a, b, 16);
    assert_int_equal(nef_keys_tag(f->keys, &region_id, &bucket_id, long_key, 1025, b), NEF_E_LIMIT);
    assert_int_equal(nef_keys_tag(f->keys, &region_id, &bucket_id, long_key, 1024, b), NEF_OK);
    assert_int_equal(nef_keys_open_file(f->path, &second), NEF_OK);
    assert_int_equal(nef_keys_load(second, &region_id, wrapped, bytes), NEF_OK);
    assert_int_equal(nef_keys_tag(second, &region_id, &bucket_id, "key", 3, b), NEF_OK);
    assert_memory_equal(a, b, 16); /* equal in both zones */
    nef_keys_close(second);
}

static void the_index_key_is_made_once(void **state)
{
    struct fixture *f = *state;
    char path[128], file[256];
    uint8_t a[32], b[32];
    struct stat st;
    size_t bytes;

    (void)snprintf(path, sizeof(path), "%s/index.key", f->dir);
    assert_int_equal(nef_keys_index_key(f->keys, path, a), NEF_OK);
    assert_int_equal(nef_keys_index_key(f->keys, path, b), NEF_OK);
    assert_memory_equal(a, b, 32);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    bytes = slurp(path, file, sizeof(file));
    assert_null(memmem(file, bytes, a, 8)); /* not in clear */
    file[40] ^= 1;
    spill(path, file, bytes, 0600);
    assert_int_equal(nef_keys_index_key(f->keys, path, b), NEF_E_CORRUPT);
    spill(path, file, bytes - 1, 0600);
    assert_int_equal(nef_keys_index_key(f->keys, path, b), NEF_E_CORRUPT);
    spill(path, file, 200, 0600);
    assert_int_equal(nef_keys_index_key(f->keys, path, b), NEF_E_CORRUPT);
    /* a bucket key's wrapped form is no index key */
    assert_int_equal(nef_keys_create(f->keys, &(struct nef_id){{0}}, (uint8_t *)file, &bytes), NEF_OK);
    spill(path, file, bytes, 0600);
    assert_int_equal(nef_keys_index_key(f->keys, path, b), NEF_E_CORRUPT);
    assert_int_equal(unlink(path), 0);
}

static void *wrap_and_unwrap(void *context)
{
    struct nef_keys *keys = context;
    uint8_t dek[32], got[32], wrapped[NEF_WRAPPED_DEK_BYTES];

    for (int i = 0; i < 3000; i++) {
        nef_err err;

        nef_random(dek, sizeof(dek));
        err = nef_keys_wrap_dek(keys, &bucket_id, &stream_id, dek, wrapped);
        if (err == NEF_OK)
            err = nef_keys_unwrap_dek(keys, &bucket_id, &stream_id, wrapped, got);
        if (err != NEF_E_KEY && (err != NEF_OK || memcmp(got, dek, 32) != 0))
            return context;
    }
    return NULL;
}

static void keys_come_and_go_beside_their_use(void **state)
{
    struct fixture *f = *state;
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
    pthread_t threads[3];
    size_t bytes;

    assert_int_equal(nef_keys_create(f->keys, &bucket_id, wrapped, &bytes), NEF_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wrap_and_unwrap, f->keys), 0);
    for (int i = 0; i < 500; i++) {
        nef_keys_forget(f->keys, &bucket_id);
        assert_int_equal(nef_keys_load(f->keys, &bucket_id, wrapped, bytes), NEF_OK);
    }
    for (int i = 0; i < 3; i++) {
        void *failed;

        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
}

static void many_keys(void **state)
{
    struct fixture *f = *state;
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX], tag[16];
    struct nef_id ids[300];
    size_t bytes;

    nef_random(ids, sizeof(ids));
    for (int i = 0; i < 300; i++) {
        ids[i].bytes[0] = ids[i].bytes[1] = 1; /* all in one chain */
        assert_int_equal(nef_keys_create(f->keys, &ids[i], wrapped, &bytes), NEF_OK);
    }
    for (int i = 0; i < 300; i += 2)
        nef_keys_forget(f->keys, &ids[i]);
    for (int i = 0; i < 300; i++)
        assert_int_equal(nef_keys_tag(f->keys, &ids[i], &bucket_id, "k", 1, tag),
                         i % 2 == 0 ? NEF_E_KEY : NEF_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(a_key_file_is_private_and_never_replaced),
        T(a_changed_key_file_is_refused),
        T(a_dek_opens_only_where_it_was_wrapped),
        T(a_wrapped_bucket_key_loads_under_its_customer_key_only),
        T(seals_are_bound_to_their_data),
        T(tags_are_of_bucket_and_key),
        T(the_index_key_is_made_once),
        T(keys_come_and_go_beside_their_use),
        T(many_keys),
    };

    return cmocka_run_group_tests_name("keys", tests, NULL, NULL);
}
