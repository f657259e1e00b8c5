/* The client's side: what it signs passes the server's own check and Amazon's published example; answers that our
 * writer makes are read back, and others are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "crypto/crypto.h"
#include "s3/client.h"
#include "s3/sigv4.h"
#include "s3/xml.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/* "GET Object" of Amazon's documentation, "Examples: Signature Calculations". */
static void signs_as_amazon_shows(void **state)
{
    const struct nef_http_field range[] = {{"range", "bytes=0-9"}};
    const struct nef_s3_client_request request = {
        .access_key = "AKIAIOSFODNN7EXAMPLE",
        .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        .region = "us-east-1",
        .method = "GET",
        .target = "/test.txt",
        .host = "examplebucket.s3.amazonaws.com",
        .headers = range,
        .header_count = 1,
        .payload = EMPTY,
        .now_s = 1369353600,
    };
    struct nef_buf out = {0};
    char date[17];

    (void)state;
    assert_int_equal(nef_s3_client_sign(&request, &out, date), NEF_OK);
    assert_string_equal(date, "20130524T000000Z");
    assert_string_equal(nef_buf_cstr(&out),
                        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
                        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
                        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    nef_buf_free(&out);
}

static void server_accepts_what_client_signs(void **state)
{
    struct nef_buf target = {0}, authorization = {0};
    const struct nef_http_field more[] = {{"x-amz-meta-source", "a  b"}, {"if-match", "\"x\""}};
    struct nef_s3_client_request request = {
        .access_key = "KEY",
        .secret_key = "secret",
        .region = "eu-paris",
        .method = "PUT",
        .host = "127.0.0.1:9000",
        .headers = more,
        .header_count = 2,
        .payload = "UNSIGNED-PAYLOAD",
        .now_s = 1700000000,
    };
    struct nef_s3_error why;
    struct nef_sigv4_key key;
    struct nef_sigv4 auth;
    char date[17];

    (void)state;
    nef_s3_client_path(&target, "nef-models", "Qwen/a b%2F\xc3\xa9+~.gguf");
    nef_buf_text(&target, "?partNumber=2&uploadId=");
    nef_s3_client_value(&target, "x/y=&z");
    request.target = nef_buf_cstr(&target);
    assert_string_equal(request.target,
                        "/nef-models/Qwen/a%20b%252F%C3%A9%2B~.gguf?partNumber=2&uploadId=x%2Fy%3D%26z");
    assert_int_equal(nef_s3_client_sign(&request, &authorization, date), NEF_OK);
    {
        const struct nef_http_field fields[] = {
            {"Host", "127.0.0.1:9000"},
            {"x-amz-meta-source", "a  b"},
            {"If-Match", "\"x\""},
            {"X-Amz-Date", date},
            {"x-amz-content-sha256", "UNSIGNED-PAYLOAD"},
            {"Authorization", nef_buf_cstr(&authorization)},
        };
        struct nef_s3_http http = {"PUT", request.target, fields, 6};

        assert_int_equal(nef_sigv4_parse(&http, "eu-paris", 1700000000, &auth, &why), NEF_OK);
        nef_sigv4_derive("secret", auth.date, "eu-paris", &key);
        assert_int_equal(nef_sigv4_verify(&http, &auth, &key, &why), NEF_OK);
        http.method = "GET";
        assert_int_equal(nef_sigv4_verify(&http, &auth, &key, &why), NEF_E_DENIED);
    }
    nef_buf_free(&target);
    nef_buf_free(&authorization);
}

static void reads_what_the_server_writes(void **state)
{
    const struct nef_s3_xml_part parts[] = {{.number = 1, .bytes = 5, .etag = "aa"},
                                            {.number = 7, .bytes = 1, .etag = "b"}};
    const struct nef_s3_xml_object objects[] = {
        {.object_key = "a&b", .object_key_bytes = 3, .bytes = 12, .etag = "cc-1", .modified_ms = 1700000000000}};
    const struct nef_s3_xml_upload uploads[] = {{.object_key = "m", .object_key_bytes = 1, .upload_id = "id1"},
                                                {.object_key = "n", .object_key_bytes = 1, .upload_id = "id2"}};
    const struct nef_s3_owner owner = {.id = "o", .display_name = "o"};
    struct nef_s3_answer_list list;
    struct nef_buf b = {0};
    char id[NEF_S3_UPLOAD_ID_MAX + 1];

    (void)state;
    nef_s3_xml_initiate(&b, "nef-models", "m", 1, "upload-1");
    assert_int_equal(nef_s3_answer_upload_id(b.data, b.bytes, id), NEF_OK);
    assert_string_equal(id, "upload-1");
    nef_buf_reset(&b);
    nef_s3_xml_list_parts(&b, &(struct nef_s3_xml_parts){.bucket = "nef-models",
                                                         .object_key = "m",
                                                         .object_key_bytes = 1,
                                                         .upload_id = "u",
                                                         .next_marker = 7,
                                                         .max = 2,
                                                         .truncated = true,
                                                         .owner = &owner,
                                                         .parts = parts,
                                                         .part_count = 2});
    assert_int_equal(nef_s3_answer_parts(b.data, b.bytes, &list), NEF_OK);
    assert_int_equal(list.count, 2);
    assert_int_equal(((struct nef_s3_answer_part *)list.items)[1].number, 7);
    assert_int_equal(((struct nef_s3_answer_part *)list.items)[0].bytes, 5);
    assert_string_equal(((struct nef_s3_answer_part *)list.items)[0].etag, "aa");
    assert_string_equal(list.next, "7");
    free(list.items);
    nef_buf_reset(&b);
    nef_s3_xml_list_objects_v2(&b, &(struct nef_s3_xml_listing){.bucket = "nef-models",
                                                                .prefix = "",
                                                                .max = 1,
                                                                .truncated = true,
                                                                .objects = objects,
                                                                .object_count = 1,
                                                                .next_continuation_token = "t/1"});
    assert_int_equal(nef_s3_answer_objects(b.data, b.bytes, &list), NEF_OK);
    assert_int_equal(list.count, 1);
    assert_string_equal(((struct nef_s3_answer_object *)list.items)[0].key, "a&b");
    assert_string_equal(((struct nef_s3_answer_object *)list.items)[0].etag, "cc-1");
    assert_string_equal(((struct nef_s3_answer_object *)list.items)[0].modified, "2023-11-14T22:13:20.000Z");
    assert_string_equal(list.next, "t/1");
    free(list.items);
    nef_buf_reset(&b);
    nef_s3_xml_list_uploads(
        &b, &(struct nef_s3_xml_uploads){
                .bucket = "nef-models", .max = 10, .owner = &owner, .uploads = uploads, .upload_count = 2});
    assert_int_equal(nef_s3_answer_uploads(b.data, b.bytes, &list), NEF_OK);
    assert_int_equal(list.count, 2);
    assert_string_equal(((struct nef_s3_answer_upload *)list.items)[1].key, "n");
    assert_string_equal(((struct nef_s3_answer_upload *)list.items)[1].id, "id2");
    assert_string_equal(list.next, "");
    free(list.items);
    nef_buf_free(&b);
}

static void refuses_what_is_no_answer(void **state)
{
    static const char *const bad[] = {
        "",
        "x",
        "<ListPartsResult>",
        "<Other/>",
        "<ListPartsResult><Part><PartNumber>0</PartNumber></Part></ListPartsResult>",
        "<ListPartsResult><Part><PartNumber>10001</PartNumber></Part></ListPartsResult>",
        "<ListPartsResult><Part><Size>-1</Size></Part></ListPartsResult>",
        "<ListPartsResult><Part><Size>99999999999999999999</Size></Part></ListPartsResult>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><ListPartsResult/>",
        "<ListPartsResult><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></ListPartsResult>",
        ("<ListPartsResult><Part><ETag>0123456789012345678901234567890123456789012345678901234567890</ETag></Part>"
         "</ListPartsResult>"),
    };
    struct nef_s3_answer_error error;
    struct nef_s3_answer_list list = {.count = 77};
    char id[NEF_S3_UPLOAD_ID_MAX + 1] = "before";
    struct nef_buf many = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(nef_s3_answer_parts(bad[i], strlen(bad[i]), &list), NEF_E_PROTOCOL);
    nef_buf_text(&many, "<ListPartsResult>");
    for (unsigned i = 0; i <= NEF_LIST_MAX; i++)
        nef_buf_text(&many, "<Part/>");
    nef_buf_text(&many, "</ListPartsResult>");
    assert_int_equal(nef_s3_answer_parts(many.data, many.bytes, &list), NEF_E_PROTOCOL);
    assert_int_equal(list.count, 77);
    nef_buf_free(&many);
    assert_int_equal(nef_s3_answer_upload_id("<InitiateMultipartUploadResult/>", 32, id), NEF_E_PROTOCOL);
    assert_string_equal(id, "before");
    assert_true(nef_s3_answer_error("<Error><Code>SlowDown</Code><Message>m</Message></Error>", 56, &error));
    assert_string_equal(error.code, "SlowDown");
    assert_false(nef_s3_answer_error("<Error/>", 8, &error));
    assert_false(nef_s3_answer_error("<html/>", 7, &error));
}

static int init(void **state)
{
    (void)state;
    return nef_crypto_init() == NEF_OK ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs_as_amazon_shows),
        cmocka_unit_test(server_accepts_what_client_signs),
        cmocka_unit_test(reads_what_the_server_writes),
        cmocka_unit_test(refuses_what_is_no_answer),
    };

    return cmocka_run_group_tests(tests, init, NULL);
}
