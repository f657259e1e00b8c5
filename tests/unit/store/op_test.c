/* Ops and runs: every type round trip, every truncation and many mutations of encoded ops, what sealed ops
 * and pieces must refuse, and that runs are what the log accepts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/bytes.h"
#include "base/logaddr.h"
#include "crypto/crypto.h"
#include "store/op.h"

static const struct nef_id region_key = {"the region's key"};
static const struct nef_id bucket = {"bucket one......"};
static const struct nef_id other_bucket = {"bucket two......"};
static const struct nef_id upload = {"an upload......."};
static const struct nef_id token = {"a deletion......"};
static const uint8_t tag[16] = "a key's tag....";

static struct nef_keys *keys;
static char dir[64];

static int group_set_up(void **state)
{
    uint8_t wrapped[NEF_WRAPPED_KEY_MAX];
    char path[96];
    size_t bytes;

    (void)state;
    assert_int_equal(nef_crypto_init(), NEF_OK);
    strcpy(dir, "/tmp/nef-op-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/customer.key", dir);
    assert_int_equal(nef_keys_make_file(path), NEF_OK);
    assert_int_equal(nef_keys_open_file(path, &keys), NEF_OK);
    assert_int_equal(nef_keys_create(keys, &region_key, wrapped, &bytes), NEF_OK);
    assert_int_equal(nef_keys_create(keys, &bucket, wrapped, &bytes), NEF_OK);
    assert_int_equal(nef_keys_create(keys, &other_bucket, wrapped, &bytes), NEF_OK);
    return unlink(path);
}

static int group_tear_down(void **state)
{
    (void)state;
    nef_keys_close(keys);
    return rmdir(dir);
}

static struct nef_text text(const char *t)
{
    return (struct nef_text){t, (uint32_t)strlen(t)};
}

/* One op of each type, with every field set. */
#define SAMPLE_COUNT 22u

static struct nef_buf attrs_buf, list_buf;
static uint8_t complete_parts[3 * 20];

static struct nef_attrs sample_attrs(void)
{
    nef_buf_reset(&attrs_buf);
    nef_attrs_begin(&attrs_buf);
    nef_attrs_add(&attrs_buf, "content-type", 12, "text/plain", 10);
    nef_attrs_add(&attrs_buf, "x-amz-meta-empty", 16, "", 0);
    nef_attrs_add(&attrs_buf, "x-amz-meta-name", 15, "caf\xc3\xa9", 5);
    assert_int_equal(nef_buf_end(&attrs_buf), NEF_OK);
    return (struct nef_attrs){attrs_buf.data, (uint32_t)attrs_buf.bytes};
}

static struct nef_checksum sample_checksum(uint8_t kind, uint8_t bytes)
{
    struct nef_checksum c = {.kind = kind, .scope = NEF_CHECKSUM_COMPOSITE, .bytes = bytes};

    memset(c.value, 0xab, bytes);
    return c;
}

static struct nef_op sample(unsigned i)
{
    static const struct nef_condition match = {.match = "0123456789abcdef0123456789abcdef-17"};
    static const struct nef_condition none = {.none = true};
    static const struct nef_condition any = {.any = true};
    struct nef_op op;

    memset(&op, 0, sizeof(op));
    op.stream = (struct nef_id){"a stream's id..."};
    op.bucket_key = bucket;
    nef_buf_reset(&list_buf);
    switch (i) {
    case 0:
        op.type = NEF_RECORD_REGION;
        op.bucket_key = region_key;
        op.u.region.region = (struct nef_id){"a region"};
        memset(op.u.region.wrapped, 7, NEF_WRAPPED_KEY_MAX);
        op.u.region.wrapped_bytes = NEF_WRAPPED_KEY_MAX;
        op.u.region.cell_count = NEF_CELL_MAX;
        break;
    case 1:
        op.type = NEF_RECORD_BUCKET_PUT;
        op.bucket_key = region_key;
        op.u.bucket_put.bucket = bucket;
        op.u.bucket_put.name = text("a-bucket.name");
        op.u.bucket_put.owner = text("AKIAOWNER");
        memset(op.u.bucket_put.wrapped, 8, 88);
        op.u.bucket_put.wrapped_bytes = 88;
        op.u.bucket_put.flags = NEF_BUCKET_REQUIRE_2_2;
        break;
    case 2:
    case 3:
    case 4:
        op.type = (uint16_t)(NEF_RECORD_BUCKET_CLOSE + i - 2);
        op.u.bucket.bucket = bucket;
        op.u.bucket.token = token;
        break;
    case 5:
        op.type = NEF_RECORD_USER_PUT;
        op.bucket_key = region_key;
        op.u.user_put = (struct nef_op_user_put){.name = text("alice"),
                                                 .access_key = text("AKIAEXAMPLE"),
                                                 .secret_key = text("a very secret key"),
                                                 .bucket = text("her-bucket"),
                                                 .read_only = true,
                                                 .disabled = true};
        break;
    case 6: /* in pieces */
    case 7: /* inline */
        op.type = NEF_RECORD_OBJECT_PUT;
        op.u.object_put = (struct nef_op_object_put){
            .bucket = bucket,
            .key = text("directory/name \xc3\xa9\x01\n"),
            .size = i == 6 ? NEF_PUT_BYTES_MAX : 1000,
            .etag = "0123456789abcdef0123456789abcdef",
            .attrs = sample_attrs(),
            .checksum = sample_checksum(NEF_CHECKSUM_SHA256, 32),
            .condition = i == 6 ? match : none,
            .inline_body = i == 7};
        break;
    case 8: /* empty, nothing set */
        op.type = NEF_RECORD_OBJECT_PUT;
        op.u.object_put = (struct nef_op_object_put){
            .bucket = bucket, .key = text("k"), .etag = "d41d8cd98f00b204e9800998ecf8427e"};
        break;
    case 9:
        op.type = NEF_RECORD_OBJECT_DELETE;
        op.u.object_delete = (struct nef_op_object_delete){bucket, text("name"), any};
        break;
    case 10:
        op.type = NEF_RECORD_UPLOAD_CREATE;
        op.u.upload_create = (struct nef_op_upload_create){.bucket = bucket,
                                                           .key = text("big"),
                                                           .attrs = sample_attrs(),
                                                           .checksum = {NEF_CHECKSUM_CRC32, 1, 0, {0}},
                                                           .owner = text("AKIAEXAMPLE")};
        break;
    case 11:
    case 12:
        op.type = NEF_RECORD_PART_PUT;
        op.u.part_put = (struct nef_op_part_put){.bucket = bucket,
                                                 .key = text("big"),
                                                 .upload = upload,
                                                 .part = NEF_PART_COUNT_MAX,
                                                 .size = i == 11 ? 5u << 20 : NEF_INLINE_BYTES_MAX,
                                                 .md5 = "md5 of the part",
                                                 .checksum = sample_checksum(NEF_CHECKSUM_CRC64NVME, 8),
                                                 .inline_body = i == 12};
        break;
    case 13: {
        struct nef_writer w = nef_writer_of(complete_parts, sizeof(complete_parts));

        for (uint32_t part = 1; part <= 3; part++) {
            nef_write_u32(&w, part * 7);
            nef_write_copy(&w, "0123456789abcdef", 16);
        }
        op.type = NEF_RECORD_UPLOAD_COMPLETE;
        op.u.upload_complete =
            (struct nef_op_upload_complete){.bucket = bucket,
                                            .key = text("big"),
                                            .upload = upload,
                                            .etag = "0123456789abcdef0123456789abcdef-3",
                                            .checksum = sample_checksum(NEF_CHECKSUM_SHA1, 20),
                                            .condition = none,
                                            .part_count = 3,
                                            .parts = complete_parts};
        break;
    }
    case 14:
        op.type = NEF_RECORD_UPLOAD_ABORT;
        op.u.upload_abort = (struct nef_op_upload_abort){bucket, text("big"), upload};
        break;
    case 15:
        op.type = NEF_RECORD_STREAM_ABORT;
        op.u.stream_abort.proposer = 99;
        break;
    case 16:
        op.type = NEF_RECORD_MOVED;
        for (uint64_t n = 0; n < 5; n++) {
            nef_buf_append(&list_buf, upload.bytes, 16);
            nef_buf_u32(&list_buf, (uint32_t)n);
            nef_buf_u64(&list_buf, 64 * n);
            nef_buf_u64(&list_buf, 6400 * n);
        }
        op.u.list.count = 5;
        op.u.list.items = list_buf.data;
        break;
    case 17:
    case 18:
        op.type = i == 17 ? NEF_RECORD_ERASE : NEF_RECORD_DROP;
        nef_buf_u64(&list_buf, 64);
        nef_buf_u64(&list_buf, 1 << 20);
        op.u.list.count = 2;
        op.u.list.items = list_buf.data;
        break;
    case 19:
        op.type = NEF_RECORD_CHECKPOINT_BEGIN;
        op.u.checkpoint_begin.checkpoint = op.stream;
        break;
    case 20:
        op.type = NEF_RECORD_CHECKPOINT_END;
        op.u.checkpoint_end = (struct nef_op_checkpoint_end){.begin = 4096, .rows = 77};
        memset(op.u.checkpoint_end.digest, 9, 32);
        break;
    default:
        op.type = NEF_RECORD_OVERRIDE;
        op.u.override = (struct nef_op_override){.epoch = 12, .end = 8192};
        break;
    }
    return op;
}

static bool is_clear(uint16_t type)
{
    return type != NEF_RECORD_BUCKET_PUT && type != NEF_RECORD_USER_PUT &&
           !(type >= NEF_RECORD_OBJECT_PUT && type <= NEF_RECORD_UPLOAD_ABORT);
}

static void expect_text(struct nef_text a, struct nef_text b)
{
    assert_int_equal(a.bytes, b.bytes);
    assert_memory_equal(a.data, b.data, a.bytes);
}

static void expect_same(const struct nef_op *a, const struct nef_op *b)
{
    struct nef_buf x = {0}, y = {0};

    nef_op_encode(a, &x);
    nef_op_encode(b, &y);
    assert_int_equal(nef_buf_end(&x), NEF_OK);
    assert_int_equal(x.bytes, y.bytes);
    assert_memory_equal(x.data, y.data, x.bytes);
    nef_buf_free(&x);
    nef_buf_free(&y);
}

static void every_op_comes_back(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SAMPLE_COUNT; i++) {
        struct nef_op op = sample(i), got;
        struct nef_buf b = {0};

        nef_op_encode(&op, &b);
        assert_int_equal(nef_buf_end(&b), NEF_OK);
        assert_int_equal(nef_op_decode(op.type, b.data, b.bytes, &got), NEF_OK);
        assert_int_equal(got.type, op.type);
        expect_same(&op, &got);
        nef_buf_free(&b);
    }
}

static void fields_come_back(void **state)
{
    struct nef_op op, got;
    struct nef_buf b = {0};
    struct nef_attr a;
    struct nef_op_moved moved;
    struct nef_op_complete_part part;

    (void)state;
    op = sample(7);
    nef_op_encode(&op, &b);
    assert_int_equal(nef_op_decode(op.type, b.data, b.bytes, &got), NEF_OK);
    assert_true(nef_id_equal(&got.u.object_put.bucket, &bucket));
    expect_text(got.u.object_put.key, op.u.object_put.key);
    assert_int_equal(got.u.object_put.size, 1000);
    assert_string_equal(got.u.object_put.etag, op.u.object_put.etag);
    assert_true(got.u.object_put.condition.none);
    assert_false(got.u.object_put.condition.any);
    assert_string_equal(got.u.object_put.condition.match, "");
    assert_true(got.u.object_put.inline_body);
    assert_int_equal(got.u.object_put.checksum.kind, NEF_CHECKSUM_SHA256);
    assert_int_equal(got.u.object_put.checksum.scope, NEF_CHECKSUM_COMPOSITE);
    assert_memory_equal(got.u.object_put.checksum.value, op.u.object_put.checksum.value, 32);
    assert_int_equal(nef_attrs_count(&got.u.object_put.attrs), 3);
    assert_true(nef_attrs_at(&got.u.object_put.attrs, 2, &a));
    assert_int_equal(a.value_bytes, 5);
    assert_memory_equal(a.value, "caf\xc3\xa9", 5);
    assert_false(nef_attrs_at(&got.u.object_put.attrs, 3, &a));
    assert_true(nef_attrs_find(&got.u.object_put.attrs, "content-type", &a));
    assert_memory_equal(a.value, "text/plain", 10);
    assert_false(nef_attrs_find(&got.u.object_put.attrs, "content-typ", &a));
    nef_buf_reset(&b);

    op = sample(16);
    nef_op_encode(&op, &b);
    assert_int_equal(nef_op_decode(op.type, b.data, b.bytes, &got), NEF_OK);
    assert_int_equal(got.u.list.count, 5);
    nef_op_item_moved(&got, 4, &moved);
    assert_true(nef_id_equal(&moved.stream, &upload));
    assert_int_equal(moved.piece, 4);
    assert_int_equal(moved.from, 256);
    assert_int_equal(moved.to, 25600);
    nef_buf_reset(&b);

    op = sample(18);
    nef_op_encode(&op, &b);
    assert_int_equal(nef_op_decode(op.type, b.data, b.bytes, &got), NEF_OK);
    assert_int_equal(nef_op_item_u64(&got, 1), 1 << 20);
    nef_buf_reset(&b);

    op = sample(13);
    nef_op_encode(&op, &b);
    assert_int_equal(nef_op_decode(op.type, b.data, b.bytes, &got), NEF_OK);
    nef_op_complete_part_at(&got, 2, &part);
    assert_int_equal(part.part, 21);
    assert_memory_equal(part.md5, "0123456789abcdef", 16);
    nef_buf_reset(&b);

    op = sample(5);
    nef_op_encode(&op, &b);
    assert_int_equal(nef_op_decode(op.type, b.data, b.bytes, &got), NEF_OK);
    expect_text(got.u.user_put.secret_key, op.u.user_put.secret_key);
    assert_true(got.u.user_put.read_only && got.u.user_put.disabled);
    nef_buf_free(&b);
}

/* In a heap block of the exact size, so that ASan sees one byte read too many. */
static nef_err decode_exact(uint16_t type, const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes == 0 ? 1 : bytes);
    struct nef_buf again = {0};
    struct nef_op op;
    nef_err err;

    if (bytes > 0)
        memcpy(copy, data, bytes);
    err = nef_op_decode(type, bytes == 0 ? NULL : copy, bytes, &op);
    if (err == NEF_OK) { /* one encoding for one value */
        nef_op_encode(&op, &again);
        assert_int_equal(again.bytes, bytes);
        assert_memory_equal(again.data, copy, bytes);
    } else {
        assert_int_equal(err, NEF_E_PROTOCOL);
    }
    nef_buf_free(&again);
    free(copy);
    return err;
}

static void truncated_and_mutated_ops_are_refused_or_valid(void **state)
{
    unsigned seed = 11;

    (void)state;
    for (unsigned i = 0; i < SAMPLE_COUNT; i++) {
        struct nef_op op = sample(i);
        struct nef_buf b = {0};
        uint8_t *data;
        size_t bytes;

        nef_op_encode(&op, &b);
        for (size_t cut = 0; cut < b.bytes; cut++)
            assert_int_equal(decode_exact(op.type, b.data, cut), NEF_E_PROTOCOL);
        nef_buf_u8(&b, 0);
        assert_int_equal(decode_exact(op.type, b.data, b.bytes), NEF_E_PROTOCOL);
        bytes = b.bytes - 1;
        data = malloc(bytes);
        for (size_t at = 0; at < bytes; at++) {
            for (unsigned v = 0; v < 256; v += 5) {
                memcpy(data, b.data, bytes);
                data[at] = (uint8_t)v;
                (void)decode_exact(op.type, data, bytes);
            }
        }
        for (unsigned round = 0; round < 3000; round++) {
            memcpy(data, b.data, bytes);
            for (int n = rand_r(&seed) % 4; n >= 0; n--)
                data[(size_t)rand_r(&seed) % bytes] = (uint8_t)rand_r(&seed);
            (void)decode_exact((uint16_t)(rand_r(&seed) % 52), data, bytes);
        }
        free(data);
        nef_buf_free(&b);
    }
}

/* Proposing what a reader would refuse is refused before it is in the log. */
static void impossible_fields_are_not_proposed(void **state)
{
    uint8_t dek[32], body[NEF_INLINE_BYTES_MAX + 64] = {0};
    char long_key[NEF_OBJECT_KEY_MAX + 2];
    struct nef_run run = {0};
    struct nef_buf attrs = {0};

    (void)state;
    nef_random(dek, sizeof(dek));
    memset(long_key, 'k', sizeof(long_key));
#define REFUSED(sample_number, change, inline_bytes)                                               \
    do {                                                                                           \
        struct nef_op op = sample(sample_number);                                                  \
        change;                                                                                    \
        assert_int_equal(nef_run_op(keys, &op, 0, is_clear(op.type) ? NULL : dek, tag, body,       \
                                    inline_bytes, &run),                                           \
                         NEF_E_INVALID);                                                           \
        assert_null(run.data);                                                                     \
    } while (0)
    REFUSED(6, op.u.object_put.key.bytes = 0, 0);
    REFUSED(6, (op.u.object_put.key = (struct nef_text){long_key, sizeof(long_key)}), 0);
    REFUSED(6, (op.u.object_put.key = (struct nef_text){"a\0b", 3}), 0);
    REFUSED(6, op.u.object_put.size++, 0);
    REFUSED(6, op.u.object_put.etag[0] = 'G', 0);
    REFUSED(6, op.u.object_put.etag[0] = '\0', 0);
    REFUSED(6, op.u.object_put.checksum.kind = 6, 0);
    REFUSED(6, op.u.object_put.checksum.bytes = 31, 0);
    REFUSED(6, op.u.object_put.condition.match[3] = '\n', 0);
    REFUSED(6, , 16);
    REFUSED(7, , 0);
    REFUSED(7, , 1015);
    REFUSED(7, op.u.object_put.size = 0, 16);
    REFUSED(7, op.u.object_put.size = NEF_INLINE_BYTES_MAX + 1, NEF_INLINE_BYTES_MAX + 17);
    REFUSED(12, op.u.part_put.part = 0, NEF_INLINE_BYTES_MAX + 16);
    REFUSED(12, op.u.part_put.part = NEF_PART_COUNT_MAX + 1, NEF_INLINE_BYTES_MAX + 16);
    REFUSED(13, complete_parts[20] = 7, 0); /* 7, 7, 21 */
    REFUSED(13, complete_parts[20] = 22, 0);
    REFUSED(13, op.u.upload_complete.part_count = 0, 0);
    REFUSED(1, op.u.bucket_put.name = text("ab"), 0);
    REFUSED(1, op.u.bucket_put.name = text("Bucket"), 0);
    REFUSED(1, op.u.bucket_put.flags = 2, 0);
    REFUSED(1, op.u.bucket_put.wrapped_bytes = 0, 0);
    REFUSED(5, op.u.user_put.access_key = text(""), 0);
    REFUSED(5, op.u.user_put.name = text("a\nb"), 0);
    REFUSED(5, (op.u.user_put.secret_key = (struct nef_text){long_key, 128}), 0);
    REFUSED(0, op.u.region.cell_count = 0, 0);
    REFUSED(0, op.u.region.cell_count = NEF_CELL_MAX + 1, 0);
    REFUSED(2, (op.u.bucket.token = (struct nef_id){{0}}), 0);
    REFUSED(16, list_buf.data[20] = 1, 0);
    REFUSED(17, op.u.list.count = 0, 0);

    /* attributes that could split a response, or count wrongly */
    nef_attrs_begin(&attrs);
    nef_attrs_add(&attrs, "x-amz-meta-a", 12, "a\r\nSet-Cookie: b", 16);
    REFUSED(6, (op.u.object_put.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes}), 0);
    nef_buf_reset(&attrs);
    nef_attrs_begin(&attrs);
    nef_attrs_add(&attrs, "x:y", 3, "a", 1);
    REFUSED(6, (op.u.object_put.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes}), 0);
    nef_buf_reset(&attrs);
    nef_attrs_begin(&attrs);
    nef_attrs_add(&attrs, "x", 1, "a", 1);
    attrs.data[0] = 2;
    REFUSED(6, (op.u.object_put.attrs = (struct nef_attrs){attrs.data, (uint32_t)attrs.bytes}), 0);
    nef_buf_free(&attrs);
}

/* ---- runs ---- */

struct opened {
    struct nef_record key, record;
    const uint8_t *wrapped_dek, *body;
};

/* The records of a run, checked as the log checks them. */
static struct opened split(const struct nef_run *run)
{
    struct opened o = {0};
    size_t at = 0;

    assert_int_equal(nef_record_decode(run->data, &o.key), NEF_OK);
    if (o.key.type == NEF_RECORD_KEY) {
        o.wrapped_dek = run->data + NEF_RECORD_HEADER_BYTES;
        at = (size_t)nef_record_bytes(o.key.body_bytes);
    }
    assert_int_equal(nef_record_decode(run->data + at, &o.record), NEF_OK);
    o.body = run->data + at + NEF_RECORD_HEADER_BYTES;
    assert_int_equal(run->bytes, at + nef_record_bytes(o.record.body_bytes));
    return o;
}

static uint8_t inline_plain[NEF_INLINE_BYTES_MAX];

static nef_err make(const struct nef_op *op, const uint8_t dek[32], struct nef_run *out_run)
{
    static uint8_t cipher[NEF_INLINE_BYTES_MAX + NEF_TAG_BYTES];
    uint32_t plain_bytes = 0;

    if (op->type == NEF_RECORD_OBJECT_PUT && op->u.object_put.inline_body)
        plain_bytes = (uint32_t)op->u.object_put.size;
    if (op->type == NEF_RECORD_PART_PUT && op->u.part_put.inline_body)
        plain_bytes = (uint32_t)op->u.part_put.size;
    if (plain_bytes > 0)
        nef_piece_seal(&bucket, &op->stream, dek, 0, true, inline_plain, plain_bytes, cipher);
    return nef_run_op(keys, op, 3, is_clear(op->type) ? NULL : dek, tag,
                      plain_bytes > 0 ? cipher : NULL,
                      plain_bytes > 0 ? plain_bytes + NEF_TAG_BYTES : 0, out_run);
}

static void every_run_opens(void **state)
{
    struct nef_buf scratch = {0};
    uint8_t dek[32], got_dek[32];

    (void)state;
    nef_random(inline_plain, sizeof(inline_plain));
    nef_random(dek, sizeof(dek));
    for (unsigned i = 0; i < SAMPLE_COUNT; i++) {
        struct nef_op op = sample(i), got;
        struct nef_run run = {0};
        struct nef_record first;
        struct opened o;
        uint32_t inline_at = 0;

        assert_int_equal(make(&op, dek, &run), NEF_OK);
        assert_true(run.is_op);
        assert_int_equal(run.cell, 3);
        assert_memory_equal(run.tag, tag, 16);
        nef_run_number(&run, 0x1122334455667788u, 42);
        assert_int_equal(nef_record_check_run(run.data, run.bytes, 3, &first), NEF_OK);
        assert_int_equal(first.proposer, 0x1122334455667788u);
        assert_int_equal(first.number, 42);
        assert_memory_equal(first.key_tag, tag, 16);
        o = split(&run);
        assert_int_equal(o.wrapped_dek == NULL, is_clear(op.type));
        assert_int_equal(o.record.type, op.type);
        assert_int_equal(o.record.number, 42);
        assert_int_equal(nef_op_open(keys, &o.record, o.body, o.wrapped_dek, &scratch, &got,
                                     &inline_at, got_dek),
                         NEF_OK);
        assert_true(nef_id_equal(&got.stream, &op.stream));
        assert_true(nef_id_equal(&got.bucket_key, &op.bucket_key));
        expect_same(&op, &got);
        if (!is_clear(op.type)) {
            assert_memory_equal(got_dek, dek, 32);
            /* no name is in the clear */
            assert_null(memmem(run.data, run.bytes, "directory", 9));
            assert_null(memmem(run.data, run.bytes, "alice", 5));
            assert_null(memmem(run.data, run.bytes, "a-bucket", 8));
            assert_null(memmem(run.data, run.bytes, "content-type", 12));
        }
        if (i == 7) {
            uint8_t plain[1000];

            assert_int_equal(o.record.body_bytes - inline_at, 1016);
            assert_int_equal(nef_piece_open(&bucket, &op.stream, dek, 0, true, o.body + inline_at,
                                            1016, plain),
                             NEF_OK);
            assert_memory_equal(plain, inline_plain, 1000);
        } else if (i != 12) {
            assert_int_equal(inline_at, o.record.body_bytes);
        }
        nef_run_free(&run);
    }
    nef_buf_free(&scratch);
}

static void only_what_makes_room_is_admitted_when_full(void **state)
{
    uint8_t dek[32] = {1};

    (void)state;
    for (unsigned i = 0; i < SAMPLE_COUNT; i++) {
        struct nef_op op = sample(i);
        struct nef_run run = {0};
        bool grows = op.type == NEF_RECORD_REGION || op.type == NEF_RECORD_BUCKET_PUT ||
                     op.type == NEF_RECORD_USER_PUT || op.type == NEF_RECORD_OBJECT_PUT ||
                     op.type == NEF_RECORD_UPLOAD_CREATE || op.type == NEF_RECORD_PART_PUT ||
                     op.type == NEF_RECORD_UPLOAD_COMPLETE;

        assert_int_equal(make(&op, dek, &run), NEF_OK);
        assert_int_equal(run.frees_space, !grows);
        nef_run_free(&run);
    }
}

static nef_err open_with(const struct opened *o)
{
    struct nef_buf scratch = {0};
    struct nef_op got;
    uint32_t inline_at;
    nef_err err = nef_op_open(keys, &o->record, o->body, o->wrapped_dek, &scratch, &got, &inline_at,
                              NULL);

    nef_buf_free(&scratch);
    return err;
}

static void a_changed_op_is_refused(void **state)
{
    struct nef_op op = sample(7);
    uint8_t dek[32], other_dek[32];
    uint8_t wrapped[NEF_WRAPPED_DEK_BYTES];
    struct nef_run run = {0};
    struct opened o, c;
    uint8_t *body;
    size_t sealed_bytes;

    (void)state;
    nef_random(dek, sizeof(dek));
    nef_random(other_dek, sizeof(other_dek));
    assert_int_equal(make(&op, dek, &run), NEF_OK);
    o = split(&run);
    assert_int_equal(open_with(&o), NEF_OK);

    c = o; /* another stream, another bucket key, one that isn't known, another type */
    c.record.stream = upload;
    assert_int_equal(open_with(&c), NEF_E_CORRUPT);
    c = o;
    memcpy(c.record.bucket_key_id, other_bucket.bytes, 16);
    assert_int_equal(open_with(&c), NEF_E_CORRUPT);
    memcpy(c.record.bucket_key_id, token.bytes, 16);
    assert_int_equal(open_with(&c), NEF_E_KEY);
    c = o;
    c.record.type = NEF_RECORD_PART_PUT;
    assert_int_equal(open_with(&c), NEF_E_CORRUPT);
    c = o;
    c.record.leaf[31] ^= 1;
    assert_int_equal(open_with(&c), NEF_E_CORRUPT);
    c = o;
    c.wrapped_dek = NULL;
    assert_int_equal(open_with(&c), NEF_E_PROTOCOL);
    /* another DEK, well wrapped */
    assert_int_equal(nef_keys_wrap_dek(keys, &bucket, &op.stream, other_dek, wrapped), NEF_OK);
    c = o;
    c.wrapped_dek = wrapped;
    assert_int_equal(open_with(&c), NEF_E_CORRUPT);
    /* the right DEK wrapped for another stream */
    assert_int_equal(nef_keys_wrap_dek(keys, &bucket, &upload, dek, wrapped), NEF_OK);
    assert_int_equal(open_with(&c), NEF_E_CORRUPT);

    body = malloc(o.record.body_bytes);
    c = o;
    c.body = body;
    memcpy(body, o.body, o.record.body_bytes);
    sealed_bytes = body[0] | (size_t)body[1] << 8;
    for (size_t at = 0; at < 4 + sealed_bytes; at++) {
        body[at] ^= 0x20;
        assert_int_not_equal(open_with(&c), NEF_OK);
        body[at] ^= 0x20;
    }
    for (uint32_t bytes = 0; bytes < o.record.body_bytes; bytes++) {
        uint8_t *cut = malloc(bytes == 0 ? 1 : bytes);

        memcpy(cut, o.body, bytes);
        c.body = cut;
        c.record.body_bytes = bytes;
        assert_int_not_equal(open_with(&c), NEF_OK);
        free(cut);
    }
    free(body);
    nef_run_free(&run);
}

/* A zone that holds the key of one bucket can't name another one inside. */
static void an_op_under_another_buckets_key_is_refused(void **state)
{
    struct nef_op op = sample(9);
    uint8_t dek[32] = {5};
    struct nef_run run = {0};
    struct opened o;

    (void)state;
    op.bucket_key = other_bucket; /* fields still say `bucket` */
    assert_int_equal(make(&op, dek, &run), NEF_OK);
    o = split(&run);
    assert_int_equal(open_with(&o), NEF_E_PROTOCOL);
    nef_run_free(&run);
}

static void pieces_open_only_in_their_place(void **state)
{
    static uint8_t plain[NEF_PIECE_BYTES], got[NEF_PIECE_BYTES];
    static const uint32_t sizes[] = {1, 15, 16, 17, 4096, NEF_PIECE_BYTES - 1, NEF_PIECE_BYTES};
    const struct nef_id stream = {"a stream's id..."};
    uint8_t dek[32], other_dek[32];

    (void)state;
    nef_random(dek, sizeof(dek));
    nef_random(other_dek, sizeof(other_dek));
    nef_random(plain, sizeof(plain));
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        uint32_t bytes = sizes[s];
        struct nef_run run = {0}, copy = {0};
        struct opened o;
        struct nef_record first;

        assert_int_equal(nef_run_piece(&bucket, &stream, dek, 6, false, tag, 3, plain, bytes, &run),
                         NEF_OK);
        assert_false(run.is_op);
        assert_memory_equal(run.tag, tag, 16);
        nef_run_number(&run, 1, 2);
        assert_int_equal(nef_record_check_run(run.data, run.bytes, 3, &first), NEF_OK);
        o = split(&run);
        assert_int_equal(o.record.type, NEF_RECORD_DATA);
        assert_int_equal(o.record.piece, 6);
        assert_memory_equal(o.record.bucket_key_id, bucket.bytes, 16);
        assert_true(nef_id_equal(&o.record.stream, &stream));
        assert_int_equal(o.record.body_bytes, bytes + NEF_TAG_BYTES);
        if (bytes >= 16)
            assert_null(memmem(run.data, run.bytes, plain, 16));
#define OPEN(b, st, key, number, last)                                                             \
    nef_piece_open(&(b), &(st), key, number, last, o.body, o.record.body_bytes, got)
        assert_int_equal(OPEN(bucket, stream, dek, 6, false), NEF_OK);
        assert_memory_equal(got, plain, bytes);
        assert_int_equal(OPEN(bucket, stream, dek, 6, true), NEF_E_CORRUPT);  /* last flag */
        assert_int_equal(OPEN(bucket, stream, dek, 7, false), NEF_E_CORRUPT); /* swapped */
        assert_int_equal(OPEN(bucket, upload, dek, 6, false), NEF_E_CORRUPT); /* stream */
        assert_int_equal(OPEN(other_bucket, stream, dek, 6, false), NEF_E_CORRUPT);
        assert_int_equal(OPEN(bucket, stream, other_dek, 6, false), NEF_E_CORRUPT);
        assert_int_equal(nef_piece_open(&bucket, &stream, dek, 6, false, o.body,
                                        o.record.body_bytes - 1, got),
                         NEF_E_CORRUPT);
        assert_int_equal(nef_piece_open(&bucket, &stream, dek, 6, false, o.body, 15, got),
                         NEF_E_CORRUPT);

        /* moved elsewhere as it is */
        assert_int_equal(nef_run_cipher(&stream, o.record.bucket_key_id, 6, 3, o.body,
                                        o.record.body_bytes, &copy),
                         NEF_OK);
        assert_true(copy.frees_space);
        nef_run_number(&copy, 1, 3);
        assert_int_equal(nef_record_check_run(copy.data, copy.bytes, 3, &first), NEF_OK);
        assert_int_equal(first.body_crc, o.record.body_crc);
        assert_int_equal(first.piece, 6);
        nef_run_free(&copy);
        nef_run_free(&run);
    }
    nef_run_free(NULL);
}

/* The leaf hash as docs/formats.md gives it. */
static void leaves_are_as_documented(void **state)
{
    struct nef_buf input = {0}, fields = {0};
    uint8_t dek[32] = {9}, salt[32], leaf[32];
    struct nef_run run = {0};
    struct nef_op op = sample(9);

    (void)state;
    assert_int_equal(make(&op, dek, &run), NEF_OK);
    nef_op_encode(&op, &fields);
    nef_hmac_sha256(dek, 32, "nef leaf salt", 13, salt);
    nef_buf_u8(&input, 0);
    nef_buf_append(&input, salt, 32);
    nef_buf_append(&input, fields.data, fields.bytes);
    nef_hash_of(NEF_HASH_SHA256, input.data, input.bytes, leaf);
    assert_memory_equal(split(&run).record.leaf, leaf, 32);
    nef_run_free(&run);

    op = sample(15);
    assert_int_equal(make(&op, dek, &run), NEF_OK);
    nef_buf_reset(&fields);
    nef_op_encode(&op, &fields);
    nef_buf_reset(&input);
    nef_buf_u8(&input, 0);
    nef_buf_append(&input, fields.data, fields.bytes);
    nef_hash_of(NEF_HASH_SHA256, input.data, input.bytes, leaf);
    assert_memory_equal(split(&run).record.leaf, leaf, 32);
    assert_int_equal(split(&run).record.body_bytes, fields.bytes);
    nef_run_free(&run);
    nef_buf_free(&input);
    nef_buf_free(&fields);
}

static void the_largest_complete_fits(void **state)
{
    struct nef_op op = sample(13), got;
    struct nef_buf parts = {0}, scratch = {0};
    struct nef_op_complete_part part;
    uint8_t dek[32] = {3};
    struct nef_run run = {0};
    struct opened o;
    uint32_t inline_at;

    (void)state;
    for (uint32_t i = 1; i <= NEF_PART_COUNT_MAX; i++) {
        nef_buf_u32(&parts, i);
        nef_buf_append(&parts, "0123456789abcdef", 16);
    }
    op.u.upload_complete.part_count = NEF_PART_COUNT_MAX;
    op.u.upload_complete.parts = parts.data;
    assert_int_equal(make(&op, dek, &run), NEF_OK);
    o = split(&run);
    assert_int_equal(nef_op_open(keys, &o.record, o.body, o.wrapped_dek, &scratch, &got, &inline_at,
                                 NULL),
                     NEF_OK);
    nef_op_complete_part_at(&got, NEF_PART_COUNT_MAX - 1, &part);
    assert_int_equal(part.part, NEF_PART_COUNT_MAX);
    nef_run_free(&run);
    nef_buf_free(&parts);
    nef_buf_free(&scratch);
}

static void attrs_alone(void **state)
{
    struct nef_attrs none = {NULL, 0};
    struct nef_attr a;
    struct nef_buf b = {0};
    static char big[70000];

    (void)state;
    assert_int_equal(nef_attrs_count(&none), 0);
    assert_false(nef_attrs_at(&none, 0, &a));
    assert_false(nef_attrs_find(&none, "x", &a));
    nef_attrs_begin(&b);
    for (int i = 0; i < 300; i++)
        nef_attrs_add(&b, "name", 4, "value", 5);
    assert_int_equal(nef_attrs_count(&(struct nef_attrs){b.data, (uint32_t)b.bytes}), 300);
    assert_true(nef_attrs_at(&(struct nef_attrs){b.data, (uint32_t)b.bytes}, 299, &a));
    nef_attrs_add(&b, "name", 4, big, sizeof(big));
    assert_int_not_equal(nef_buf_end(&b), NEF_OK);
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_comes_back),
        cmocka_unit_test(fields_come_back),
        cmocka_unit_test(truncated_and_mutated_ops_are_refused_or_valid),
        cmocka_unit_test(impossible_fields_are_not_proposed),
        cmocka_unit_test(every_run_opens),
        cmocka_unit_test(only_what_makes_room_is_admitted_when_full),
        cmocka_unit_test(a_changed_op_is_refused),
        cmocka_unit_test(an_op_under_another_buckets_key_is_refused),
        cmocka_unit_test(pieces_open_only_in_their_place),
        cmocka_unit_test(leaves_are_as_documented),
        cmocka_unit_test(the_largest_complete_fits),
        cmocka_unit_test(attrs_alone),
    };
    int failed = cmocka_run_group_tests_name("op", tests, group_set_up, group_tear_down);

    nef_buf_free(&attrs_buf);
    nef_buf_free(&list_buf);
    return failed;
}
