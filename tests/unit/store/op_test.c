/* Ops: every type round trip, every truncation and many mutations of encoded ops, and fields that a reader would
 * refuse. */
#include <stdlib.h>
#include <string.h>
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "op_fixture.h"

static void expect_text(struct nef_text a, struct nef_text b)
{
    assert_int_equal(a.bytes, b.bytes);
    assert_memory_equal(a.data, b.data, a.bytes);
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
        cmocka_unit_test(attrs_alone),
    };

    return cmocka_run_group_tests_name("op", tests, op_set_up, op_tear_down);
}
