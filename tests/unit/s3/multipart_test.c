/* Multipart rules, ETags, upload ids, continuation tokens, and the table of errors. */
#include "s3_test.h"

#include "base/buf.h"
#include "crypto/crypto.h"
#include "s3/multipart.h"
#include "s3/token.h"

static struct nef_s3_error why;

static void upload_ids(void **state)
{
    static const char *const bad[] = {"",
                                      "x",
                                      "AAAAAAAAAAAAAAAAAAAAAA", /* zero: none */
                                      "AAAAAAAAAAAAAAAAAAAAAB", /* bits beyond the id */
                                      "AAAAAAAAAAAAAAAAAAAA+Q",
                                      "AAAAAAAAAAAAAAAAAAAAAQ==",
                                      "AAAAAAAAAAAAAAAAAAAA\xC3\xA9"};
    struct nef_id id, parsed;
    char text[NEF_S3_UPLOAD_ID_BYTES];

    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        memset(id.bytes, (int)(i ^ 0x5A), 16);
        id.bytes[3] = (uint8_t)i;
        id.bytes[15] = (uint8_t)(255 - i);
        nef_s3_upload_id_text(&id, text);
        assert_int_equal(strlen(text), 22);
        assert_int_equal(nef_s3_upload_id_parse(text, &parsed, &why), NEF_OK);
        assert_true(nef_id_equal(&id, &parsed));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(nef_s3_upload_id_parse(bad[i], &parsed, &why), NEF_E_NO_UPLOAD);
        assert_code(why, "NoSuchUpload");
    }
    assert_int_equal(nef_s3_upload_id_parse(NULL, &parsed, &why), NEF_E_NO_UPLOAD);
}

static void etags(void **state)
{
    uint8_t md5s[32];
    char etag[NEF_S3_ETAG_BYTES];

    (void)state;
    nef_hash_of(NEF_HASH_MD5, "", 0, md5s);
    nef_s3_etag_md5(md5s, etag);
    assert_string_equal(etag, "d41d8cd98f00b204e9800998ecf8427e");
    nef_hash_of(NEF_HASH_MD5, "a", 1, md5s + 16);
    nef_s3_etag_multipart(md5s, 2, etag);
    assert_string_equal(etag, "68083ea43d0307eecfa2b4749f19df15-2");
}

#define MIB5 (5ull << 20)

static void completion_rules(void **state)
{
    struct nef_s3_part_stored stored[4] = {{.number = 1, .bytes = MIB5},
                                           {.number = 2, .bytes = 7},
                                           {.number = 5, .bytes = MIB5},
                                           {.number = 9, .bytes = 1}};
    struct nef_s3_part_named named[3] = {{.number = 1}, {.number = 5}, {.number = 9}};
    uint32_t chosen[3];
    uint64_t bytes;

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        memset(stored[i].md5, (int)i, 16);
    nef_s3_etag_md5(stored[0].md5, named[0].etag);
    nef_s3_etag_md5(stored[2].md5, named[1].etag);
    nef_s3_etag_md5(stored[3].md5, named[2].etag);
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_OK);
    assert_true(chosen[0] == 0 && chosen[1] == 2 && chosen[2] == 3);
    assert_int_equal(bytes, 2 * MIB5 + 1);

    named[1].number = 2; /* there, under another ETag */
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_E_BAD_PART);
    assert_code(why, "InvalidPart");
    assert_string_equal(extra_of(&why, "PartNumber"), "2");
    nef_s3_etag_md5(stored[1].md5, named[1].etag);
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_E_PART_SIZE);
    assert_code(why, "EntityTooSmall");
    assert_string_equal(extra_of(&why, "MinSizeAllowed"), "5242880");
    named[1].number = 3; /* not there */
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_E_BAD_PART);
    named[1].number = 1;
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_E_PART_ORDER);
    assert_code(why, "InvalidPartOrder");

    named[1].number = 5;
    nef_s3_etag_md5(stored[2].md5, named[1].etag);
    assert_int_equal(
        nef_s3_checksum_parse(NEF_S3_CHECKSUM_CRC32, "y/Q5Jg==", false, &named[1].checksum),
        NEF_OK);
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_E_BAD_PART);
    stored[2].checksum = named[1].checksum;
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_OK);
    stored[0].bytes = NEF_OBJECT_BYTES_MAX;
    assert_int_equal(nef_s3_multipart_check(named, 3, stored, 4, "u", chosen, &bytes, &why),
                     NEF_E_LIMIT);
}

static void tokens(void **state)
{
    char key[NEF_OBJECT_KEY_MAX + 1];
    struct nef_s3_token token;

    (void)state;
    for (size_t bytes = 0; bytes <= NEF_OBJECT_KEY_MAX; bytes += bytes < 10 ? 1 : 169) {
        struct nef_buf b = {0};
        char *text;

        for (size_t i = 0; i < bytes; i++)
            key[i] = (char)(i * 37 % 255 + 1);
        nef_s3_token_text(key, bytes, &b);
        text = (char *)(uintptr_t)nef_buf_cstr(&b);
        assert_int_equal(nef_s3_token_parse(text, &token, &why), NEF_OK);
        assert_int_equal(token.last_bytes, bytes);
        assert_memory_equal(token.last, key, bytes);
        for (size_t i = 0; text[i] != '\0'; i++) {
            char before = text[i];

            text[i] = before == 'A' ? 'B' : 'A';
            assert_int_not_equal(nef_s3_token_parse(text, &token, &why), NEF_OK);
            assert_code(why, "InvalidArgument");
            text[i] = before;
        }
        text[strlen(text) - 1] = '\0';
        assert_int_not_equal(nef_s3_token_parse(text, &token, &why), NEF_OK);
        nef_buf_free(&b);
    }
    assert_int_not_equal(nef_s3_token_parse("", &token, &why), NEF_OK);
    assert_string_equal(why.message, "The continuation token provided is incorrect");
    assert_int_not_equal(nef_s3_token_parse("a=b", &token, &why), NEF_OK);
}

static void errors(void **state)
{
    static const struct {
        nef_err err;
        const char *code;
        unsigned status;
    } cases[] = {
        {NEF_E_NO_BUCKET, "NoSuchBucket", 404},          {NEF_E_NOT_FOUND, "NoSuchKey", 404},
        {NEF_E_PRECONDITION, "PreconditionFailed", 412}, {NEF_E_BUSY, "SlowDown", 503},
        {NEF_E_UNAVAILABLE, "ServiceUnavailable", 503},  {NEF_E_TIMEOUT, "ServiceUnavailable", 503},
        {NEF_E_NOSPACE, "ServiceUnavailable", 503},      {NEF_E_DIGEST, "BadDigest", 400},
        {NEF_E_CORRUPT, "InternalError", 500},           {NEF_E_DENIED, "AccessDenied", 403},
        {NEF_E_NOT_EMPTY, "BucketNotEmpty", 409},        {NEF_E_NO_UPLOAD, "NoSuchUpload", 404},
        {NEF_E_UNSUPPORTED, "NotImplemented", 501},
    };
    struct nef_buf b = {0};
    char huge[NEF_S3_ERROR_TEXT_BYTES + 10];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        nef_s3_error_of(&why, cases[i].err);
        assert_code(why, cases[i].code);
        assert_int_equal(nef_s3_code_status(why.code), cases[i].status);
        assert_int_equal(nef_s3_code_of(cases[i].err), why.code);
    }
    for (int err = NEF_OK + 1; err <= NEF_E_CRYPTO; err++)
        assert_int_not_equal(nef_s3_code_status(nef_s3_code_of((nef_err)err)), 200);
    nef_s3_error_of(&why, NEF_E_NOSPACE);
    assert_non_null(strstr(why.message, "no space"));

    assert_int_equal(nef_s3_refuse(&why, NEF_S3_NO_SUCH_KEY, NULL), NEF_E_INVALID);
    nef_s3_error_extra(&why, "Key", "a<b");
    memset(huge, 'x', sizeof(huge));
    huge[sizeof(huge) - 1] = '\0';
    nef_s3_error_extra(&why, "TooLong", huge); /* left out */
    nef_s3_error_document(&why, "/b/a<b", "R", NULL, &b);
    assert_string_equal(nef_buf_cstr(&b),
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>"
                        "<Message>The specified key does not exist.</Message><Key>a&lt;b</Key>"
                        "<Resource>/b/a&lt;b</Resource><RequestId>R</RequestId></Error>");
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upload_ids), cmocka_unit_test(etags),  cmocka_unit_test(completion_rules),
        cmocka_unit_test(tokens),     cmocka_unit_test(errors),
    };

    if (nef_crypto_init() != NEF_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
