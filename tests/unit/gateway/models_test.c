/* A zone's models over a real store: the list follows the index, and what comes out of nef_models_open is what was put
 * in, or nothing. The runtime's part, four functions, is played here: whether reads are allowed, and repair from the
 * peer. */
#include "../store/store_fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/bytes.h"
#include "gateway/models.h"

struct nef_runtime {
    struct world *w;
    _Atomic nef_err read_err, done_err; /* of reads */
    uint32_t repairs;
    bool can_repair;
    int log; /* with one byte that isn't right */
    uint8_t right;
};
#define DAMAGE_AT  1500000
#define PART_BYTES (5000000u + 243456u) /* S3's least is 5 MiB */

struct nef_store *nef_runtime_store(struct nef_runtime *rt)
{
    return rt->w->stores[0];
}

nef_err nef_runtime_read_wait(struct nef_runtime *rt, uint32_t cell, const uint8_t tag[16], struct nef_read *out_read)
{
    (void)cell, (void)tag;
    *out_read = (struct nef_read){.epoch = 1};
    return rt->read_err;
}

nef_err nef_runtime_read_done(struct nef_runtime *rt, const struct nef_read *read)
{
    assert_int_equal(read->epoch, 1);
    return rt->done_err;
}

nef_err nef_runtime_repair(struct nef_runtime *rt, uint32_t cell, uint64_t offset)
{
    (void)cell, (void)offset;
    rt->repairs++;
    if (!rt->can_repair)
        return NEF_E_UNAVAILABLE;
    return pwrite(rt->log, &rt->right, 1, DAMAGE_AT) == 1 ? NEF_OK : NEF_E_IO;
}

/* ---- the scene ---- */

static struct world w;
static struct nef_runtime rt;
static struct nef_bucket bucket;
static struct nef_models *models;
static _Atomic unsigned changes;

static void on_changed(void *context)
{
    (void)context;
    atomic_fetch_add(&changes, 1);
}

static int set_up(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    world_open(&w);
    rt = (struct nef_runtime){.w = &w};
    atomic_store(&changes, 0);
    OK(nef_models_start(&(struct nef_models_options){.rt = &rt, .cells = WORLD_CELLS, .changed = on_changed}, &models));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    nef_models_stop(models);
    world_close(&w);
    return 0;
}

/* A GGUF file with one tensor of SIZE bytes. */
static void make_file(struct nef_buf *b, uint32_t floats, uint8_t fill)
{
    nef_buf_text(b, "GGUF");
    nef_buf_u32(b, 3);
    nef_buf_u64(b, 1);
    nef_buf_u64(b, 0);
    nef_buf_u64(b, 1);
    nef_buf_text(b, "t");
    nef_buf_u32(b, 1);
    nef_buf_u64(b, floats);
    nef_buf_u32(b, 0);
    nef_buf_u64(b, 0);
    while (b->bytes % 32 != 0)
        nef_buf_u8(b, 0);
    for (uint32_t i = 0; i < floats; i++)
        nef_buf_u32(b, (uint32_t)fill * 0x01010101u + i);
}

static void propose(struct nef_op *op, uint32_t cell, const uint8_t *dek)
{
    struct nef_run run;

    op->bucket_key = bucket.id;
    OK(nef_run_op(w.keys, op, cell, dek, NULL, NULL, 0, &run));
    OK(world_propose(&w, &run));
}

/* Pieces of one stream. */
static void put_pieces(uint32_t cell, const struct nef_id *stream, const uint8_t dek[32], const uint8_t *data,
                       size_t bytes)
{
    uint32_t pieces = (uint32_t)((bytes + NEF_PIECE_BYTES - 1) / NEF_PIECE_BYTES);

    for (uint32_t i = 0; i < pieces; i++) {
        size_t from = (size_t)i * NEF_PIECE_BYTES;
        struct nef_run run;

        OK(nef_run_piece(&bucket.id, stream, dek, i, i + 1 == pieces, NULL, cell, data + from,
                         (uint32_t)NEF_MIN(bytes - from, NEF_PIECE_BYTES), &run));
        OK(world_propose(&w, &run));
    }
}

static void attrs_of(struct nef_buf *attrs, const char *sha256)
{
    nef_attrs_begin(attrs);
    nef_attrs_add(attrs, NEF_MODELS_META_SOURCE, strlen(NEF_MODELS_META_SOURCE), "x", 1);
    if (sha256 != NULL)
        nef_attrs_add(attrs, NEF_MODELS_META_SHA256, strlen(NEF_MODELS_META_SHA256), sha256, strlen(sha256));
}

static void hex_of(const struct nef_buf *data, char out[65])
{
    uint8_t digest[32];

    nef_hash_of(NEF_HASH_SHA256, data->data, data->bytes, digest);
    nef_hex(digest, 32, out);
}

static void put(const char *key, const struct nef_buf *data, const char *sha256)
{
    uint32_t cell = nef_store_cell(w.stores[0], &bucket.id, key, strlen(key));
    struct nef_op op = {.type = NEF_RECORD_OBJECT_PUT};
    struct nef_buf attrs = {0};
    uint8_t dek[32], md5[16];

    nef_random(dek, 32);
    nef_random(op.stream.bytes, 16);
    put_pieces(cell, &op.stream, dek, data->data, data->bytes);
    nef_hash_of(NEF_HASH_MD5, data->data, data->bytes, md5);
    attrs_of(&attrs, sha256);
    op.u.object_put.bucket = bucket.id;
    op.u.object_put.key = (struct nef_text){key, (uint32_t)strlen(key)};
    op.u.object_put.size = data->bytes;
    nef_hex(md5, 16, op.u.object_put.etag);
    op.u.object_put.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes};
    propose(&op, cell, dek);
    nef_buf_free(&attrs);
}

/* In parts of PART bytes with their digests, as `nef model add` does it; part WRONG (from 1) with another one. */
static void put_parts(const char *key, const struct nef_buf *data, size_t part, uint32_t wrong)
{
    uint32_t cell = nef_store_cell(w.stores[0], &bucket.id, key, strlen(key)), count = 0;
    struct nef_op create = {.type = NEF_RECORD_UPLOAD_CREATE}, complete = {.type = NEF_RECORD_UPLOAD_COMPLETE};
    struct nef_text name = {key, (uint32_t)strlen(key)};
    struct nef_buf attrs = {0}, list = {0};
    uint8_t dek[32];

    nef_random(dek, 32);
    attrs_of(&attrs, NULL);
    nef_random(create.stream.bytes, 16);
    create.u.upload_create.bucket = bucket.id;
    create.u.upload_create.key = name;
    create.u.upload_create.owner = (struct nef_text){"root", 4};
    create.u.upload_create.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes};
    create.u.upload_create.checksum =
        (struct nef_checksum){.kind = NEF_CHECKSUM_SHA256, .scope = NEF_CHECKSUM_COMPOSITE};
    propose(&create, cell, dek);
    for (size_t at = 0; at < data->bytes; at += part) {
        size_t bytes = NEF_MIN(part, data->bytes - at);
        struct nef_op op = {.type = NEF_RECORD_PART_PUT};
        struct nef_op_part_put *p = &op.u.part_put;

        nef_random(dek, 32);
        nef_random(op.stream.bytes, 16);
        put_pieces(cell, &op.stream, dek, data->data + at, bytes);
        p->bucket = bucket.id;
        p->key = name;
        p->upload = create.stream;
        p->part = ++count;
        p->size = bytes;
        nef_hash_of(NEF_HASH_MD5, data->data + at, bytes, p->md5);
        p->checksum =
            (struct nef_checksum){.kind = NEF_CHECKSUM_SHA256, .scope = NEF_CHECKSUM_FULL_OBJECT, .bytes = 32};
        nef_hash_of(NEF_HASH_SHA256, data->data + at, bytes, p->checksum.value);
        if (count == wrong)
            p->checksum.value[31] ^= 1;
        nef_buf_u32(&list, count);
        nef_buf_append(&list, p->md5, 16);
        propose(&op, cell, dek);
    }
    nef_random(dek, 32);
    nef_random(complete.stream.bytes, 16);
    complete.u.upload_complete.bucket = bucket.id;
    complete.u.upload_complete.key = name;
    complete.u.upload_complete.upload = create.stream;
    (void)snprintf(complete.u.upload_complete.etag, sizeof(complete.u.upload_complete.etag), "%032x-%u", wrong, count);
    complete.u.upload_complete.part_count = count;
    complete.u.upload_complete.parts = list.data;
    propose(&complete, cell, dek);
    nef_buf_free(&attrs);
    nef_buf_free(&list);
}

/* Until the list has COUNT models and its version is beyond VERSION. */
static uint64_t wait_list(uint32_t count, uint64_t version)
{
    for (unsigned i = 0; i < 2000; i++) {
        struct nef_model_info *list;
        uint32_t n;

        OK(nef_models_list(models, &list, &n));
        free(list);
        if (n == count && nef_models_version(models) > version)
            return nef_models_version(models);
        (void)usleep(10000);
    }
    fail_msg("the list doesn't get %u models", count);
    return 0;
}

static struct nef_model_info info_of(const char *name)
{
    struct nef_model_info info;

    OK(nef_models_find(models, name, &info));
    return info;
}

static nef_err open_model(const struct nef_model_info *info, char *why, int *fd)
{
    nef_err err;

    *fd = -1;
    memset(why, 'x', NEF_MODELS_WHY_MAX);
    err = nef_models_open(models, info, NULL, why, fd);
    assert_true((err == NEF_OK) == (*fd >= 0));
    assert_non_null(memchr(why, '\0', NEF_MODELS_WHY_MAX));
    return err;
}

static void assert_content(int fd, const struct nef_buf *data)
{
    struct stat st;
    uint8_t *map;

    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, data->bytes);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 0);
    map = mmap(NULL, data->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(map != MAP_FAILED);
    assert_memory_equal(map, data->data, data->bytes);
    (void)munmap(map, data->bytes);
}

/* ---- the tests ---- */

static void names(void **state)
{
    static const char *const good[] = {"a", "Qwen/Qwen3-0.6B", "qwen3_8b.q4", "0", "a/b/c"};
    static const char *const bad[] = {"", ".a", "-a", "/a", "a/", "a//b", "a b", "a\"b", "a\\b", "\xc3\xa9", "a\n"};
    char longest[NEF_MODEL_NAME_MAX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(nef_model_name_ok(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(nef_model_name_ok(bad[i], strlen(bad[i])));
    memset(longest, 'a', sizeof(longest));
    assert_true(nef_model_name_ok(longest, NEF_MODEL_NAME_MAX));
    assert_false(nef_model_name_ok(longest, NEF_MODEL_NAME_MAX + 1));
}

static void the_list_follows_the_index(void **state)
{
    struct nef_buf file = {0}, json = {0};
    struct nef_model_info *list, info;
    uint64_t version = wait_list(0, 0);
    uint32_t count;
    char hex[65];

    (void)state;
    assert_true(nef_models_known(models));
    make_file(&file, 100, 1);
    hex_of(&file, hex);
    bucket = world_bucket(&w, NEF_MODELS_BUCKET);
    put("qwen/b", &file, hex);
    version = wait_list(1, version);
    put("a", &file, NULL);
    put("no model", &file, NULL);
    version = wait_list(2, version);
    OK(nef_models_list(models, &list, &count));
    assert_string_equal(list[0].name, "a");
    assert_false(list[0].has_sha256);
    assert_string_equal(list[1].name, "qwen/b");
    assert_true(list[1].has_sha256 && list[1].bytes == file.bytes && list[1].created_ms > 0);
    nef_models_json(&list[1], &json);
    assert_non_null(strstr(nef_buf_cstr(&json), "\"id\":\"qwen/b\",\"object\":\"model\",\"created\":"));
    assert_non_null(strstr(nef_buf_cstr(&json), hex));
    free(list);
    assert_int_equal(nef_models_find(models, "no model", &info), NEF_E_NOT_FOUND);
    rt.read_err = NEF_E_UNAVAILABLE; /* a zone that may not read keeps what it knew */
    OK(world_delete(&w, &bucket, "a", NULL));
    (void)usleep(600000);
    assert_int_equal(nef_models_version(models), version);
    rt.read_err = NEF_OK;
    version = wait_list(1, version);
    assert_true(atomic_load(&changes) >= 4);
    nef_buf_free(&file);
    nef_buf_free(&json);
}

static void what_was_stored_comes_out_sealed(void **state)
{
    struct nef_buf file = {0};
    char hex[65], why[NEF_MODELS_WHY_MAX];
    struct nef_model_info info;
    int fd;

    (void)state;
    bucket = world_bucket(&w, NEF_MODELS_BUCKET);
    make_file(&file, 2900000, 3);
    hex_of(&file, hex);
    put("m", &file, hex);
    put_parts("parts", &file, PART_BYTES, 0); /* three; their borders aren't those of pieces */
    (void)wait_list(2, 0);
    for (unsigned i = 0; i < 2; i++) {
        info = info_of(i == 0 ? "m" : "parts");
        OK(open_model(&info, why, &fd));
        assert_content(fd, &file);
        assert_int_equal(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
        assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        assert_int_equal(pwrite(fd, "x", 1, 0), -1);
        assert_int_equal(errno, EPERM);
        (void)close(fd);
    }
    nef_buf_free(&file);
}

static void what_is_wrong_does_not_come_out(void **state)
{
    struct nef_buf file = {0}, other = {0}, text = {0}, cut = {0};
    char hex[65], why[NEF_MODELS_WHY_MAX];
    struct nef_model_info info;
    atomic_bool cancel = true;
    int fd = -1;

    (void)state;
    bucket = world_bucket(&w, NEF_MODELS_BUCKET);
    make_file(&file, 2900000, 3);
    make_file(&other, 700000, 4);
    hex_of(&other, hex);
    nef_buf_text(&text, "this is no model at all");
    nef_buf_append(&cut, file.data, file.bytes - 4);
    put("digest", &file, hex);
    put_parts("part", &file, PART_BYTES, 3);
    put("text", &text, NULL);
    put("cut", &cut, NULL);
    put("gone", &file, NULL);
    put("m", &file, NULL);
    (void)wait_list(6, 0);
    info = info_of("digest");
    assert_int_equal(open_model(&info, why, &fd), NEF_E_DIGEST);
    assert_non_null(strstr(why, "digest"));
    info = info_of("part");
    assert_int_equal(open_model(&info, why, &fd), NEF_E_DIGEST);
    info = info_of("text");
    assert_int_equal(open_model(&info, why, &fd), NEF_E_PROTOCOL);
    info = info_of("cut");
    assert_int_equal(open_model(&info, why, &fd), NEF_E_PROTOCOL);
    assert_non_null(strstr(why, "beyond the end"));
    info = info_of("gone");
    OK(world_delete(&w, &bucket, "gone", NULL));
    assert_int_equal(open_model(&info, why, &fd), NEF_E_NOT_FOUND);
    info = info_of("m");
    put("m", &other, hex); /* another content under the same name isn't what was asked for */
    assert_int_equal(open_model(&info, why, &fd), NEF_E_NOT_FOUND);
    (void)wait_list(5, 0);
    for (unsigned i = 0; i < 300 && !info.has_sha256; i++) {
        info = info_of("m");
        (void)usleep(10000);
    }
    assert_int_equal(nef_models_open(models, &info, &cancel, why, &fd), NEF_E_CLOSED);
    assert_int_equal(fd, -1);
    rt.read_err = NEF_E_UNAVAILABLE;
    assert_int_equal(open_model(&info, why, &fd), NEF_E_UNAVAILABLE);
    rt.read_err = NEF_OK;
    rt.done_err = NEF_E_AGAIN; /* the lease ended while it was looked up */
    assert_int_equal(open_model(&info, why, &fd), NEF_E_UNAVAILABLE);
    rt.done_err = NEF_OK;
    OK(open_model(&info, why, &fd));
    assert_content(fd, &other);
    (void)close(fd);
    nef_buf_free(&file);
    nef_buf_free(&other);
    nef_buf_free(&text);
    nef_buf_free(&cut);
}

/* A byte of a piece in the log is flipped, on the disk. */
static void damage_is_repaired_or_refused(void **state)
{
    char path[256], why[NEF_MODELS_WHY_MAX];
    struct nef_model_info info;
    struct nef_buf file = {0};
    uint8_t wrong;
    int fd;

    (void)state;
    bucket = world_bucket(&w, NEF_MODELS_BUCKET);
    make_file(&file, 700000, 9);
    put("m", &file, NULL);
    (void)wait_list(1, 0);
    info = info_of("m");
    (void)snprintf(path, sizeof(path), "%s/z0/" NEF_STORE_LOG_NAME "/%016x.seg", w.dir,
                   nef_store_cell(w.stores[0], &bucket.id, "m", 1), 0);
    rt.log = open(path, O_RDWR);
    assert_true(rt.log >= 0);
    assert_int_equal(pread(rt.log, &rt.right, 1, DAMAGE_AT), 1);
    wrong = rt.right ^ 0x10;
    assert_int_equal(pwrite(rt.log, &wrong, 1, DAMAGE_AT), 1);
    assert_int_equal(open_model(&info, why, &fd), NEF_E_UNAVAILABLE);
    assert_int_equal(rt.repairs, 1);
    assert_non_null(strstr(why, "damaged"));
    rt.can_repair = true;
    OK(open_model(&info, why, &fd));
    assert_int_equal(rt.repairs, 2);
    assert_content(fd, &file);
    (void)close(fd);
    (void)close(rt.log);
    nef_buf_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test_setup_teardown(the_list_follows_the_index, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_stored_comes_out_sealed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_wrong_does_not_come_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_repaired_or_refused, set_up, tear_down),
    };

    if (nef_crypto_init() != NEF_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
