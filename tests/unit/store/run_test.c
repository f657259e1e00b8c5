/* Runs: what sealed ops and pieces must refuse, that leaves are as documented, and that runs are what the log
 * accepts. */
#include <stdlib.h>
#include <string.h>
#include "base/bytes.h"
#include "base/logaddr.h"
#include "crypto/crypto.h"
#include "op_fixture.h"

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
                     op.type == NEF_RECORD_USER_PUT || op.type == NEF_RECORD_BUDGET || op.type == NEF_RECORD_OBJECT_PUT ||
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_run_opens),
        cmocka_unit_test(only_what_makes_room_is_admitted_when_full),
        cmocka_unit_test(a_changed_op_is_refused),
        cmocka_unit_test(an_op_under_another_buckets_key_is_refused),
        cmocka_unit_test(pieces_open_only_in_their_place),
        cmocka_unit_test(leaves_are_as_documented),
        cmocka_unit_test(the_largest_complete_fits),
    };

    return cmocka_run_group_tests_name("run", tests, op_set_up, op_tear_down);
}
