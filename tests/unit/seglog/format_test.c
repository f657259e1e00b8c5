/* Unit tests of src/seglog/format.c: what is written is read back, and every bit counts. */
#include "fixture.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "seglog/seglog_internal.h"

static struct nef_record sample(void)
{
    struct nef_record r = {.type = NEF_RECORD_OBJECT_PUT,
                           .flags = NEF_RECORD_LAST,
                           .cell = 9,
                           .epoch = 5,
                           .offset = 4096 + 640,
                           .time_ms = 1700000000123,
                           .synced_before = 4096,
                           .body_bytes = 100,
                           .run_index = 2,
                           .proposer = 0x1122334455667788,
                           .number = 42,
                           .piece = 7};

    memset(r.stream.bytes, 1, 16);
    memset(r.key_tag, 2, 16);
    memset(r.bucket_key_id, 3, 16);
    memset(r.leaf, 4, 32);
    return r;
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++, v >>= 8)
        p[i] = (uint8_t)v;
}

static void make_good(uint8_t *header)
{
    put32(header + 188, nef_crc32c(0, header, 188));
}

static void record_has_its_documented_layout(void **state)
{
    uint8_t out[320], body[100];
    struct nef_record r = sample(), back;

    (void)state;
    memset(body, 0xbb, sizeof(body));
    memset(out, 0xff, sizeof(out));
    nef_record_encode(&r, body, 0, out);
    assert_memory_equal(out, "NefR\x01\x00\x18\x00\x01\x00\x00\x00\x09\x00\x00\x00", 16);
    assert_memory_equal(out + 16, "\x05\0\0\0\0\0\0\0\x80\x12\0\0\0\0\0\0", 16);
    assert_memory_equal(out + 40, "\x64\0\0\0\x02\0\0\0", 8);
    assert_int_equal(out[48], 0);
    assert_int_equal(out[64], 1);
    assert_memory_equal(out + 80, "\x88\x77\x66\x55\x44\x33\x22\x11\x2a\0\0\0\0\0\0\0", 16);
    assert_int_equal(out[96], 2);
    assert_int_equal(out[112], 3);
    assert_int_equal(out[128], 4);
    assert_memory_equal(out + 160, "\0\x10\0\0\0\0\0\0\x07\0\0\0", 12);
    assert_memory_equal(out + 192, body, 100);
    for (int i = 292; i < 320; i++)
        assert_int_equal(out[i], 0);
    assert_int_equal(nef_record_bytes(100), 320);
    memset(&back, 0, sizeof(back));
    assert_int_equal(nef_record_decode(out, &back), NEF_OK);
    r.body_crc = nef_crc32c(0, body, 100);
    assert_memory_equal(&back, &r, sizeof(r));
    assert_int_equal(nef_record_check_body(&back, out + 192), NEF_OK);

    /* in place, and with a CRC that is known already */
    memcpy(out + 192, body, 100);
    nef_record_encode(&r, out + 192, 1, out);
    assert_int_equal(nef_record_decode(out, &back), NEF_OK);
    assert_int_equal(nef_record_check_body(&back, out + 192), NEF_OK);
}

static void every_bit_is_covered(void **state)
{
    uint8_t out[320];
    struct nef_record r = sample(), back;

    (void)state;
    memset(out + 192, 0xcd, 100);
    nef_record_encode(&r, out + 192, 0, out);
    assert_int_equal(nef_record_decode(out, &r), NEF_OK);
    for (unsigned bit = 0; bit < 8 * 320; bit++) {
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (bit / 8 < 192)
            assert_int_equal(nef_record_decode(out, &back), NEF_E_TORN);
        else
            assert_int_equal(nef_record_check_body(&r, out + 192), NEF_E_CORRUPT);
        out[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    memset(out, 0, 192);
    assert_int_equal(nef_record_decode(out, &back), NEF_E_TORN);
}

static void unknown_is_refused_by_name(void **state)
{
    static const struct {
        unsigned at;
        uint8_t value;
        nef_err err;
    } cases[] = {
        {4, 2, NEF_E_VERSION},   {6, 99, NEF_E_VERSION},  {8, 5, NEF_E_CORRUPT},
        {26, 1, NEF_OK},         {24, 1, NEF_E_CORRUPT},  {43, 0x7f, NEF_E_CORRUPT},
        {44, 4, NEF_E_CORRUPT},  {50, 1, NEF_E_CORRUPT},  {165, 1, NEF_E_CORRUPT},
        {175, 1, NEF_E_CORRUPT},
    };
    uint8_t out[320];
    struct nef_record r = sample(), back;

    (void)state;
    memset(out + 192, 0xcd, 100);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        nef_record_encode(&r, out + 192, 0, out);
        out[cases[i].at] = cases[i].value;
        make_good(out);
        memset(&back, 0x77, sizeof(back));
        assert_int_equal(nef_record_decode(out, &back), cases[i].err);
        if (cases[i].err != NEF_OK)
            assert_int_equal(back.type, 0x7777); /* untouched */
    }
}

static void stamp_and_erase_keep_the_header_good(void **state)
{
    uint8_t out[320], canonical[188], again[188];
    struct nef_record r = sample(), back;
    bool half;

    (void)state;
    memset(out + 192, 0xcd, 100);
    nef_record_encode(&r, out + 192, 0, out);
    nef_record_stamp(out, 6, 8192, 99, 640);
    assert_int_equal(nef_record_decode(out, &back), NEF_OK);
    assert_int_equal(back.epoch, 6);
    assert_int_equal(back.offset, 8192);
    assert_int_equal(back.time_ms, 99);
    assert_int_equal(back.synced_before, 640);
    nef_record_canonical(out, canonical);
    nef_record_mark_erased(out);
    nef_record_canonical(out, again);
    assert_memory_equal(canonical, again, 188);
    assert_int_equal(nef_record_decode(out, &back), NEF_OK);
    assert_int_equal(back.flags, NEF_RECORD_LAST | NEF_RECORD_ERASED);
    assert_int_equal(nef_record_check_body(&back, out + 192), NEF_E_CORRUPT);
    memset(out + 192, 0, 128);
    assert_int_equal(nef_record_check_body(&back, out + 192), NEF_OK);

    /* only the flag reached the disk, or only the CRC */
    out[8] ^= NEF_RECORD_ERASED;
    assert_int_equal(nef_record_decode(out, &back), NEF_E_TORN);
    assert_int_equal(nef_record_decode_at(out, 9, 8192, &back, &half), NEF_OK);
    assert_true(half);
    assert_int_equal(back.flags, NEF_RECORD_LAST);
    nef_record_clear_erased(out);
    out[8] ^= NEF_RECORD_ERASED;
    assert_int_equal(nef_record_decode_at(out, 9, 8192, &back, &half), NEF_OK);
    assert_true(half);
    assert_int_equal(back.flags, NEF_RECORD_LAST);
    nef_record_clear_erased(out);
    assert_int_equal(nef_record_decode_at(out, 9, 8192, &back, &half), NEF_OK);
    assert_false(half);
    assert_int_equal(nef_record_decode_at(out, 8, 8192, &back, &half), NEF_E_CORRUPT);
    assert_int_equal(nef_record_decode_at(out, 9, 8256, &back, &half), NEF_E_CORRUPT);
}

static size_t make_run(uint8_t *out, uint32_t count)
{
    size_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct nef_record r = {.type = i + 1 < count ? NEF_RECORD_DATA : NEF_RECORD_OBJECT_PUT,
                               .flags = i + 1 == count ? NEF_RECORD_LAST : 0,
                               .cell = 9,
                               .body_bytes = 10 * i,
                               .run_index = i,
                               .proposer = 1,
                               .number = 2};

        memset(out + at + 192, 0xee, 10 * i);
        nef_record_encode(&r, out + at + 192, 0, out + at);
        at += nef_record_bytes(r.body_bytes);
    }
    return at;
}

static void run_of_another_process_is_checked(void **state)
{
    uint8_t run[2048];
    struct nef_record first;
    size_t bytes;

    (void)state;
    for (uint32_t n = 1; n <= 4; n++) {
        bytes = make_run(run, n);
        assert_int_equal(nef_record_check_run(run, bytes, 9, &first), NEF_OK);
        assert_int_equal(first.run_index, 0);
        assert_int_equal(nef_record_check_run(run, bytes, 8, &first), NEF_E_PROTOCOL);
        for (size_t cut = 0; cut < bytes; cut++)
            assert_int_equal(nef_record_check_run(run, cut, 9, &first), NEF_E_PROTOCOL);
        memset(run + bytes, 0, 64);
        assert_int_equal(nef_record_check_run(run, bytes + 64, 9, &first), NEF_E_PROTOCOL);
    }
    bytes = make_run(run, 2);
    nef_record_stamp(run, 1, 0, 0, 0);
    assert_int_equal(nef_record_check_run(run, bytes, 9, &first), NEF_E_PROTOCOL);
    bytes = make_run(run, 2);
    nef_record_mark_erased(run);
    assert_int_equal(nef_record_check_run(run, bytes, 9, &first), NEF_E_PROTOCOL);
    bytes = make_run(run, 1);
    run[6] = NEF_RECORD_PAD;
    make_good(run);
    assert_int_equal(nef_record_check_run(run, bytes, 9, &first), NEF_E_PROTOCOL);
    bytes = make_run(run, 2);
    run[bytes - 64] ^= 1; /* a body's byte */
    assert_int_equal(nef_record_check_run(run, bytes, 9, &first), NEF_E_PROTOCOL);
}

static void segment_header_round_trip(void **state)
{
    struct nef_segment_header h = {.cell = 2, .segment = 77, .segment_bytes = NEF_SEGMENT_BYTES}, back;
    uint8_t bytes[NEF_SEGMENT_HEADER_BYTES];

    (void)state;
    memset(h.region.bytes, 9, 16);
    nef_segment_header_encode(&h, bytes);
    memset(&back, 0, sizeof(back));
    assert_int_equal(nef_segment_header_decode(bytes, &back), NEF_OK);
    assert_int_equal(back.cell, 2);
    assert_int_equal(back.segment, 77);
    assert_int_equal(back.segment_bytes, NEF_SEGMENT_BYTES);
    assert_true(nef_id_equal(&back.region, &h.region));
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] ^= 0x10;
        assert_int_equal(nef_segment_header_decode(bytes, &back), NEF_E_TORN);
        bytes[i] ^= 0x10;
    }
    bytes[4] = 9;
    put32(bytes + 4092, nef_crc32c(0, bytes, 4092));
    assert_int_equal(nef_segment_header_decode(bytes, &back), NEF_E_VERSION);
    h.segment_bytes = 12345;
    nef_segment_header_encode(&h, bytes);
    assert_int_equal(nef_segment_header_decode(bytes, &back), NEF_E_CORRUPT);
}

static void types_have_names(void **state)
{
    (void)state;
    assert_string_equal(nef_record_type_name(NEF_RECORD_OBJECT_PUT), "object_put");
    assert_string_equal(nef_record_type_name(NEF_RECORD_CHECKPOINT_ROWS), "checkpoint_rows");
    assert_null(nef_record_type_name(0));
    assert_null(nef_record_type_name(31));
    assert_true(nef_record_is_op(NEF_RECORD_DROP));
    assert_false(nef_record_is_op(NEF_RECORD_KEY));
    assert_false(nef_record_is_op(1000));
}

static void names_of_files(void **state)
{
    static const char *const others[] = {"", "x", "00000000000000010.seg", "000000000000001.seg",
                                         "00000000000000zz.seg", "0000000000000010.segx",
                                         "000000000000001A.seg"};
    char name[NEF_NAME_BYTES];
    uint64_t number = 0;

    (void)state;
    nef_segment_name(0xabc, name);
    assert_string_equal(name, "0000000000000abc.seg");
    assert_int_equal(nef_name_parse(name, &number), NEF_NAME_SEGMENT);
    assert_int_equal(number, 0xabc);
    assert_int_equal(nef_name_parse("ffffffffffffffff.seal", &number), NEF_NAME_SEAL);
    assert_int_equal(number, UINT64_MAX);
    assert_int_equal(nef_name_parse("0000000000000001.seal.tmp", &number), NEF_NAME_TEMPORARY);
    assert_int_equal(nef_name_parse("truncate", &number), NEF_NAME_CUT);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_int_equal(nef_name_parse(others[i], &number), NEF_NAME_OTHER);
}

static void seal_round_trip(void **state)
{
    struct nef_seal seal = {.cell = 1,
                            .segment = 3,
                            .segment_bytes = 65536,
                            .end = 4 * 65536,
                            .record_count = 12,
                            .mark = 70000,
                            .last_epoch = 300},
                    back;
    uint8_t bytes[NEF_SIDECAR_BYTES_MAX];
    size_t n;

    (void)state;
    for (uint64_t i = 0; i < 300; i++)
        (void)nef_epochs_note(&seal.epochs, i + 1, 4096 + 64 * i);
    assert_int_equal(seal.epochs.count, NEF_EPOCHS_KEPT);
    assert_int_equal(seal.epochs.at[0].epoch, 300 - NEF_EPOCHS_KEPT + 1);
    n = nef_seal_encode(&seal, bytes);
    assert_int_equal(nef_seal_decode(bytes, n, &back), NEF_OK);
    assert_int_equal(back.end, seal.end);
    assert_int_equal(back.last_epoch, 300);
    assert_memory_equal(&back.epochs, &seal.epochs, sizeof(seal.epochs));
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 0x80;
        assert_int_equal(nef_seal_decode(bytes, n, &back), NEF_E_CORRUPT);
        bytes[i] ^= 0x80;
    }
    assert_int_equal(nef_seal_decode(bytes, n - 1, &back), NEF_E_CORRUPT);
    seal.end = 65536;
    n = nef_seal_encode(&seal, bytes);
    assert_int_equal(nef_seal_decode(bytes, n, &back), NEF_E_CORRUPT);
    bytes[4] = 2;
    put32(bytes + n - 4, nef_crc32c(0, bytes, n - 4));
    assert_int_equal(nef_seal_decode(bytes, n, &back), NEF_E_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(record_has_its_documented_layout),
        cmocka_unit_test(every_bit_is_covered),
        cmocka_unit_test(unknown_is_refused_by_name),
        cmocka_unit_test(stamp_and_erase_keep_the_header_good),
        cmocka_unit_test(run_of_another_process_is_checked),
        cmocka_unit_test(segment_header_round_trip),
        cmocka_unit_test(types_have_names),
        cmocka_unit_test(names_of_files),
        cmocka_unit_test(seal_round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
