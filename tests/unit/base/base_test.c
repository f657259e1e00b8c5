/* Unit tests of src/base: readers and writers, hex, base64, CRC-32C, SipHash, log addresses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/logaddr.h"
#include "base/siphash.h"

static void reader_is_sticky_and_bounded(void **state)
{
    uint8_t bytes[15];
    struct nef_writer w = nef_writer_of(bytes, sizeof(bytes));
    struct nef_reader r;

    (void)state;
    nef_write_u8(&w, 1);
    nef_write_u16(&w, 0x0302);
    nef_write_u32(&w, 0x07060504);
    nef_write_u64(&w, 0x0f0e0d0c0b0a0908);
    assert_int_equal(nef_writer_end(&w), NEF_OK);
    for (size_t i = 0; i < sizeof(bytes); i++)
        assert_int_equal(bytes[i], i + 1);
    nef_write_u8(&w, 1);
    assert_int_equal(nef_writer_end(&w), NEF_E_LIMIT);

    r = nef_reader_of(bytes, sizeof(bytes));
    assert_int_equal(nef_read_u8(&r), 1);
    assert_int_equal(nef_read_u16(&r), 0x0302);
    assert_int_equal(nef_read_u32(&r), 0x07060504);
    assert_int_equal(nef_reader_end(&r), NEF_E_PROTOCOL); /* bytes left over */
    assert_int_equal(nef_read_u64(&r), 0x0f0e0d0c0b0a0908);
    assert_int_equal(nef_reader_end(&r), NEF_OK);
    assert_int_equal(nef_read_u32(&r), 0);
    assert_int_equal(nef_reader_end(&r), NEF_E_PROTOCOL);
}

static void block_above_its_limit_fails(void **state)
{
    struct nef_buf b = {0};
    struct nef_reader r;
    size_t n;

    (void)state;
    nef_buf_block(&b, "abc", 3);
    r = nef_reader_of(b.data, b.bytes);
    assert_non_null(nef_read_block(&r, 3, &n));
    assert_int_equal(n, 3);
    r = nef_reader_of(b.data, b.bytes);
    assert_null(nef_read_block(&r, 2, &n));
    assert_int_equal(n, 0);
    nef_buf_free(&b);
}

static void buf_grows_to_its_limit(void **state)
{
    struct nef_buf b = {.max = 1000};

    (void)state;
    for (int i = 0; i < 100; i++)
        nef_buf_printf(&b, "%09d", i);
    assert_int_equal(b.bytes, 900);
    assert_int_equal(nef_buf_end(&b), NEF_OK);
    assert_null(nef_buf_grow(&b, 101));
    assert_int_equal(nef_buf_end(&b), NEF_E_NOMEM);
    nef_buf_free(&b);
}

static void hex_and_base64(void **state)
{
    char text[64];
    uint8_t out[32];
    size_t n;
    /* RFC 4648 section 10 */
    static const char *const vectors[][2] = {{"", ""},         {"f", "Zg=="},
                                             {"fo", "Zm8="},   {"foo", "Zm9v"},
                                             {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="},
                                             {"foobar", "Zm9vYmFy"}};
    static const char *const bad[] = {"Zg", "Zg=", "Zh==", "Z===", "Zm9=", "Zm 9", "====", "Zm9v="};

    (void)state;
    nef_hex("\x00\xff\x1a", 3, text);
    assert_string_equal(text, "00ff1a");
    assert_int_equal(nef_unhex("00FF1a", 6, out, 3), NEF_OK);
    assert_memory_equal(out, "\x00\xff\x1a", 3);
    assert_int_equal(nef_unhex("00FF1g", 6, out, 3), NEF_E_INVALID);
    assert_int_equal(nef_unhex("00FF", 4, out, 3), NEF_E_INVALID);
    for (size_t i = 0; i < NEF_COUNT(vectors); i++) {
        nef_base64(vectors[i][0], strlen(vectors[i][0]), text);
        assert_string_equal(text, vectors[i][1]);
        assert_int_equal(nef_unbase64(text, strlen(text), out, sizeof(out), &n), NEF_OK);
        assert_int_equal(n, strlen(vectors[i][0]));
        assert_memory_equal(out, vectors[i][0], n);
    }
    for (size_t i = 0; i < NEF_COUNT(bad); i++)
        assert_int_equal(nef_unbase64(bad[i], strlen(bad[i]), out, sizeof(out), &n),
                         NEF_E_INVALID);
}

static void crc32c_vectors_and_paths_agree(void **state)
{
    static uint8_t data[20000];
    uint32_t x = 1;

    (void)state;
    assert_int_equal(nef_crc32c(0, "123456789", 9), 0xE3069283u);
    memset(data, 0, 32); /* RFC 3720 B.4 */
    assert_int_equal(nef_crc32c(0, data, 32), 0x8A9136AAu);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    for (size_t n = 0; n < sizeof(data); n += n < 200 ? 1 : 997)
        for (size_t at = 0; at < 3; at++) {
            uint32_t want = nef_crc32c_table(0, data + at, n > at ? n - at : 0);

            assert_int_equal(nef_crc32c(0, data + at, n > at ? n - at : 0), want);
        }
    assert_int_equal(nef_crc32c(nef_crc32c(0, data, 5000), data + 5000, 15000),
                     nef_crc32c(0, data, 20000));
}

static void siphash_vector(void **state)
{
    uint8_t key[16], in[15];
    uint8_t bucket[16] = {1, 2, 3};
    uint8_t joined[16 + 5];
    static const uint8_t zero[16];

    (void)state;
    for (int i = 0; i < 16; i++)
        key[i] = (uint8_t)i;
    for (int i = 0; i < 15; i++)
        in[i] = (uint8_t)i;
    assert_true(nef_siphash(key, in, 15) == 0xa129ca6149be45e5u); /* the paper, appendix A */
    memcpy(joined, bucket, 16);
    memcpy(joined + 16, "hello", 5);
    assert_int_equal(nef_slot(bucket, "hello", 5), nef_siphash(zero, joined, 21) % 4096);
    assert_int_equal(nef_slot_cell(0, 4), 0);
    assert_int_equal(nef_slot_cell(4095, 4), 3);
}

static void places_leave_room_for_a_pad(void **state)
{
    const uint64_t s = 65536;

    (void)state;
    assert_int_equal(nef_record_bytes(0), 192);
    assert_int_equal(nef_record_bytes(1), 256);
    assert_int_equal(nef_log_place(4096, 192, s), 4096);
    assert_int_equal(nef_log_place(s - 192, 192, s), s - 192);            /* fits exactly */
    assert_int_equal(nef_log_place(s - 256, 192, s), s + 4096);           /* 64 left: no pad fits */
    assert_int_equal(nef_log_place(s - 384, 192, s), s - 384);            /* 192 left: a pad fits */
    assert_int_equal(nef_log_place(s - 384, 448, s), s + 4096);
    assert_int_equal(nef_log_end_at(s, s), s + 4096);
    assert_int_equal(nef_log_end_at(s - 64, s), s - 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader_is_sticky_and_bounded),
        cmocka_unit_test(block_above_its_limit_fails),
        cmocka_unit_test(buf_grows_to_its_limit),
        cmocka_unit_test(hex_and_base64),
        cmocka_unit_test(crc32c_vectors_and_paths_agree),
        cmocka_unit_test(siphash_vector),
        cmocka_unit_test(places_leave_room_for_a_pad),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
