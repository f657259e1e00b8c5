/* Checksums: known answers, any split, text forms, and what multipart objects get. */
#include "s3_test.h"

#include "crypto/crypto.h"
#include "s3/checksum.h"
#include "s3/crc_internal.h"

static void digest(enum nef_s3_checksum_kind kind, const void *data, size_t bytes, size_t piece,
                   struct nef_s3_checksum_value *out)
{
    struct nef_s3_checksum c;

    assert_int_equal(nef_s3_checksum_begin(&c, kind), NEF_OK);
    for (size_t at = 0; at < bytes; at += piece)
        nef_s3_checksum_update(&c, (const char *)data + at,
                               bytes - at < piece ? bytes - at : piece);
    nef_s3_checksum_end(&c, out);
    nef_s3_checksum_free(&c);
}

static void known_answers(void **state)
{
    static const struct {
        enum nef_s3_checksum_kind kind;
        const char *text;
    } cases[] = {
        {NEF_S3_CHECKSUM_CRC32, "y/Q5Jg=="},
        {NEF_S3_CHECKSUM_CRC32C, "4waSgw=="},
        {NEF_S3_CHECKSUM_CRC64NVME, "rosUhgp5mIg="},
        {NEF_S3_CHECKSUM_SHA1, "98O8HYCOBHMq32eZZczDTKeuNEE="},
        {NEF_S3_CHECKSUM_SHA256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nef_s3_checksum_value v, parsed;
        char text[NEF_S3_CHECKSUM_TEXT_MAX];

        digest(cases[i].kind, "123456789", 9, 2, &v);
        nef_s3_checksum_text(&v, text);
        assert_string_equal(text, cases[i].text);
        assert_int_equal(nef_s3_checksum_parse(cases[i].kind, text, false, &parsed), NEF_OK);
        assert_true(nef_s3_checksum_equal(&v, &parsed));
        parsed.bytes[0] ^= 1;
        assert_false(nef_s3_checksum_equal(&v, &parsed));
        assert_int_equal(nef_s3_checksum_by_name(nef_s3_checksum_name(cases[i].kind)),
                         cases[i].kind);
        assert_int_equal(nef_s3_checksum_by_header(nef_s3_checksum_header(cases[i].kind)),
                         cases[i].kind);
    }
    assert_int_equal(nef_s3_checksum_by_name("MD5"), NEF_S3_CHECKSUM_NONE);
}

/* Bit by bit: the specification of the two CRCs. */
static uint64_t crc_slowly(uint64_t poly, uint64_t crc, const uint8_t *p, size_t bytes)
{
    while (bytes-- > 0) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? poly : 0);
    }
    return crc;
}

static void crcs_of_all_lengths_and_splits(void **state)
{
    uint8_t data[1500];

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * i * 31 + i / 7);
    for (size_t n = 0; n < sizeof(data); n += n < 300 ? 1 : 37) {
        uint32_t c = nef_crc32(0, data + 3, n - (n > 3 ? 3 : n));
        uint64_t d = nef_crc64nvme(7, data, n);
        size_t skipped = n > 3 ? 3 : n;

        assert_int_equal(c, (uint32_t)~crc_slowly(0xEDB88320u, 0xFFFFFFFFu, data + 3, n - skipped));
        assert_true(d == ~crc_slowly(0x9A6C9329AC4BC9B5ull, ~7ull, data, n));
        for (size_t cut = 0; cut <= n; cut += 131) {
            assert_int_equal(nef_crc32(nef_crc32(0, data, cut), data + cut, n - cut),
                             nef_crc32(0, data, n));
            assert_true(nef_crc64nvme(nef_crc64nvme(0, data, cut), data + cut, n - cut) ==
                        nef_crc64nvme(0, data, n));
        }
    }
}

static void combining_is_concatenating(void **state)
{
    static const size_t cuts[][3] = {{0, 0, 0}, {1, 2, 3}, {100, 0, 1}, {4096, 5000, 7}};
    uint8_t data[10000];

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    for (unsigned kind = NEF_S3_CHECKSUM_CRC32; kind <= NEF_S3_CHECKSUM_CRC64NVME; kind++)
        for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
            struct nef_s3_checksum_combiner c;
            struct nef_s3_checksum_value part, combined, whole;
            size_t at = 0;

            assert_int_equal(nef_s3_checksum_combine_begin(&c, (enum nef_s3_checksum_kind)kind,
                                                           NEF_S3_CHECKSUM_FULL_OBJECT),
                             NEF_OK);
            for (unsigned k = 0; k < 3; k++) {
                digest((enum nef_s3_checksum_kind)kind, data + at, cuts[i][k], 1000, &part);
                nef_s3_checksum_combine_part(&c, &part, cuts[i][k]);
                at += cuts[i][k];
            }
            nef_s3_checksum_combine_end(&c, &combined);
            nef_s3_checksum_combine_free(&c);
            digest((enum nef_s3_checksum_kind)kind, data, at, 1000, &whole);
            assert_true(nef_s3_checksum_equal(&combined, &whole));
        }
    /* 5 GiB of zeros after one byte: no loop over bytes */
    assert_true(nef_crc_combine(NEF_S3_CHECKSUM_CRC32, 1, 0, 5ull << 30) != 0);
}

static void composite_is_the_checksum_of_checksums(void **state)
{
    struct nef_s3_checksum_combiner c;
    struct nef_s3_checksum_value a, b, v, expected, parsed;
    uint8_t raw[64];
    char text[NEF_S3_CHECKSUM_TEXT_MAX];

    (void)state;
    digest(NEF_S3_CHECKSUM_SHA256, "first", 5, 5, &a);
    digest(NEF_S3_CHECKSUM_SHA256, "second", 6, 6, &b);
    memcpy(raw, a.bytes, 32);
    memcpy(raw + 32, b.bytes, 32);
    digest(NEF_S3_CHECKSUM_SHA256, raw, 64, 64, &expected);
    assert_int_equal(
        nef_s3_checksum_combine_begin(&c, NEF_S3_CHECKSUM_SHA256, NEF_S3_CHECKSUM_COMPOSITE),
        NEF_OK);
    nef_s3_checksum_combine_part(&c, &a, 5);
    nef_s3_checksum_combine_part(&c, &b, 6);
    nef_s3_checksum_combine_end(&c, &v);
    nef_s3_checksum_combine_free(&c);
    assert_memory_equal(v.bytes, expected.bytes, 32);
    assert_int_equal(v.parts, 2);
    nef_s3_checksum_text(&v, text);
    assert_string_equal(text + 44, "-2");
    assert_int_equal(nef_s3_checksum_parse(NEF_S3_CHECKSUM_SHA256, text, true, &parsed), NEF_OK);
    assert_true(nef_s3_checksum_equal(&v, &parsed));
    assert_int_equal(nef_s3_checksum_parse(NEF_S3_CHECKSUM_SHA256, text, false, &parsed),
                     NEF_E_INVALID);
}

static void malformed_texts(void **state)
{
    static const char *const bad[] = {
        "",           "y/Q5Jg",     "y/Q5Jg=",        "y/Q5Jg==-",
        "y/Q5Jg==-0", "y/Q5Jg==-x", "y/Q5Jg==-10001", "y/Q5Jg==-1x",
        "AAAAAAA=",   "y_Q5Jg==",   "y/Q5Jg== ",      "y/Q5Jg==-99999999999999999999"};
    struct nef_s3_checksum_value v;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(nef_s3_checksum_parse(NEF_S3_CHECKSUM_CRC32, bad[i], true, &v),
                         NEF_E_INVALID);
    assert_int_equal(nef_s3_checksum_parse(NEF_S3_CHECKSUM_CRC32, "y/Q5Jg==-10000", true, &v),
                     NEF_OK);
    assert_int_equal(v.parts, 10000);
}

static void types_of_uploads(void **state)
{
    enum nef_s3_checksum_type type;

    (void)state;
    assert_int_equal(nef_s3_checksum_multipart_type(NEF_S3_CHECKSUM_CRC32, 0, &type), NEF_OK);
    assert_int_equal(type, NEF_S3_CHECKSUM_COMPOSITE);
    assert_int_equal(nef_s3_checksum_multipart_type(NEF_S3_CHECKSUM_CRC64NVME, 0, &type), NEF_OK);
    assert_int_equal(type, NEF_S3_CHECKSUM_FULL_OBJECT);
    assert_int_equal(
        nef_s3_checksum_multipart_type(NEF_S3_CHECKSUM_CRC64NVME, NEF_S3_CHECKSUM_COMPOSITE, &type),
        NEF_E_UNSUPPORTED);
    assert_int_equal(
        nef_s3_checksum_multipart_type(NEF_S3_CHECKSUM_SHA1, NEF_S3_CHECKSUM_FULL_OBJECT, &type),
        NEF_E_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(crcs_of_all_lengths_and_splits),
        cmocka_unit_test(combining_is_concatenating),
        cmocka_unit_test(composite_is_the_checksum_of_checksums),
        cmocka_unit_test(malformed_texts),
        cmocka_unit_test(types_of_uploads),
    };

    if (nef_crypto_init() != NEF_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
