/* Requests: operations, names, parameters, headers, and what is refused with which code. */
#include "s3_test.h"

static struct nef_s3_request r;
static struct nef_s3_error why;

static nef_err parse(const struct nef_s3_http *http)
{
    nef_s3_request_free(&r);
    memset(&why, 0, sizeof(why));
    return nef_s3_request_parse(http, &r, &why);
}

#define assert_parses(...) assert_int_equal(parse(HTTP(__VA_ARGS__)), NEF_OK)
#define assert_refused(code, ...)                                                                  \
    do {                                                                                           \
        assert_int_not_equal(parse(HTTP(__VA_ARGS__)), NEF_OK);                                    \
        assert_code(why, code);                                                                    \
    } while (0)

static int teardown(void **state)
{
    (void)state;
    nef_s3_request_free(&r);
    return 0;
}

static void each_operation_is_found(void **state)
{
    static const struct {
        const char *method, *target, *name;
        bool built;
    } cases[] = {
        {"GET", "/", "ListBuckets", true},
        {"PUT", "/bucket", "CreateBucket", true},
        {"PUT", "/bucket/", "CreateBucket", true},
        {"DELETE", "/bucket", "DeleteBucket", true},
        {"HEAD", "/bucket", "HeadBucket", true},
        {"GET", "/bucket?location", "GetBucketLocation", true},
        {"GET", "/bucket/?location=", "GetBucketLocation", true},
        {"GET", "/bucket?versioning", "GetBucketVersioning", true},
        {"PUT", "/bucket?versioning", "PutBucketVersioning", false},
        {"GET", "/bucket", "ListObjects", true},
        {"GET", "/bucket?list-type=2&prefix=a", "ListObjectsV2", true},
        {"GET", "/bucket?versions", "ListObjectVersions", true},
        {"GET", "/bucket?uploads", "ListMultipartUploads", true},
        {"GET", "/bucket/key", "GetObject", true},
        {"GET", "/bucket/key?x-id=GetObject", "GetObject", true},
        {"HEAD", "/bucket/key", "HeadObject", true},
        {"DELETE", "/bucket/key", "DeleteObject", true},
        {"POST", "/bucket/key?uploads", "CreateMultipartUpload", true},
        {"POST", "/bucket/key?uploadId=x", "CompleteMultipartUpload", true},
        {"DELETE", "/bucket/key?uploadId=x", "AbortMultipartUpload", true},
        {"GET", "/bucket/key?uploadId=x", "ListParts", true},
        {"PUT", "/bucket?acl", "PutBucketAcl", false},
        {"GET", "/bucket/key?tagging", "GetObjectTagging", true},
        {"POST", "/bucket/key?select&select-type=2", "SelectObjectContent", false},
        {"GET", "/bucket/key?attributes", "GetObjectAttributes", false},
        {"DELETE", "/bucket?lifecycle", "DeleteBucketLifecycle", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_parses(cases[i].method, cases[i].target);
        assert_string_equal(r.op_name, cases[i].name);
        assert_int_equal(r.op != NEF_S3_OP_NOT_IMPLEMENTED, cases[i].built);
        if (cases[i].built)
            assert_string_equal(nef_s3_op_name(r.op), cases[i].name);
    }
    assert_int_equal(nef_s3_request_not_implemented(&r, &why), NEF_E_UNSUPPORTED);
    assert_string_equal(why.message, "DeleteBucketLifecycle is not implemented");
    assert_parses("PUT", "/bucket/key", {"Content-Length", "0"});
    assert_int_equal(r.op, NEF_S3_OP_PUT_OBJECT);
    assert_parses("PUT", "/bucket/key", {"x-amz-copy-source", "/other/a%20b%2F+?versionId=null"});
    assert_int_equal(r.op, NEF_S3_OP_COPY_OBJECT);
    assert_string_equal(r.source_bucket, "other");
    assert_string_equal(r.source_key, "a b/+");
    assert_parses("PUT", "/bucket/key?uploadId=u&partNumber=10000",
                  {"x-amz-copy-source", "other/key"}, {"x-amz-copy-source-range", "bytes=5-9"});
    assert_int_equal(r.op, NEF_S3_OP_UPLOAD_PART_COPY);
    assert_int_equal(r.part_number, 10000);
    assert_true(r.has_source_range && r.source_first == 5 && r.source_last == 9);
    assert_refused("MethodNotAllowed", "POST", "/");
    assert_refused("MethodNotAllowed", "PATCH", "/bucket/key");
    assert_refused("MethodNotAllowed", "DELETE", "/bucket?location");
    assert_refused("InvalidArgument", "GET", "/bucket?acl&policy");
    assert_refused("NotImplemented", "POST", "/bucket");
    assert_refused("AccessForbidden", "OPTIONS", "/bucket/key");
}

static void paths_are_decoded_once(void **state)
{
    char target[4000] = "/bucket/";

    (void)state;
    assert_parses("GET", "/bucket/a+b%20c%252F%2F/d//");
    assert_string_equal(r.object_key, "a+b c%2F//d//");
    assert_int_equal(r.object_key_bytes, 13);
    assert_string_equal(r.resource, "/bucket/a+b c%2F//d//");
    assert_parses("GET", "/bucket//k");
    assert_string_equal(r.object_key, "/k");
    assert_parses("GET", "http://host:9000/bucket/k?response-expires=x");
    assert_string_equal(r.object_key, "k");
    assert_string_equal(r.response_expires, "x");
    assert_parses("GET", "http://host:9000");
    assert_int_equal(r.op, NEF_S3_OP_LIST_BUCKETS);
    assert_parses("GET", "/bucket/..%2f../%C3%A9");
    assert_string_equal(r.object_key, "../../\xC3\xA9");

    memset(target + 8, 'k', 1025);
    target[8 + 1024] = '\0';
    assert_parses("GET", target);
    target[8 + 1024] = 'k';
    assert_refused("KeyTooLongError", "GET", target);
    assert_refused("InvalidURI", "GET", "/bucket/%00");
    assert_refused("InvalidURI", "GET", "/bucket/%zz");
    assert_refused("InvalidURI", "GET", "/bucket/%4");
    assert_refused("InvalidURI", "GET", "/bucket/%ff");
    assert_refused("InvalidURI", "GET", "/bucket/%ed%a0%80");
    assert_refused("InvalidURI", "GET", "bucket/key");
    assert_refused("InvalidBucketName", "GET", "//key");
}

static void bucket_names(void **state)
{
    static const char *const good[] = {"abc", "a-b", "a.b.c", "1bc", "my-bucket-1", "1.2.3"};
    static const char *const bad[] = {"ab",   "Abc",       "a_b",       "-ab",      "ab-",
                                      "a..b", "1.2.3.4",   "xn--abc",   "a b",      ".abc",
                                      "abc.", "sthree-ab", "abc--x-s3", "abc.mrap", "abc-s3alias"};
    char longest[65];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(nef_s3_bucket_name_check(good[i]), NEF_OK);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(nef_s3_bucket_name_check(bad[i]), NEF_E_INVALID);
    memset(longest, 'a', 64);
    longest[64] = '\0';
    assert_int_equal(nef_s3_bucket_name_check(longest), NEF_E_INVALID);
    longest[63] = '\0';
    assert_int_equal(nef_s3_bucket_name_check(longest), NEF_OK);
}

static void list_parameters(void **state)
{
    (void)state;
    assert_parses("GET",
                  "/bucket?list-type=2&prefix=a%2Bb+c&delimiter=%2F&max-keys=5000&start-after=x"
                  "&continuation-token=t&encoding-type=url&fetch-owner=true");
    assert_string_equal(r.prefix, "a+b c");
    assert_string_equal(r.delimiter, "/");
    assert_int_equal(r.list_max, 1000);
    assert_string_equal(r.start_after, "x");
    assert_string_equal(r.continuation_token, "t");
    assert_true(r.encoding_url && r.fetch_owner);
    assert_parses("GET", "/bucket?max-keys=0&marker=m");
    assert_int_equal(r.list_max, 0);
    assert_string_equal(r.marker, "m");
    assert_string_equal(r.prefix, "");
    assert_null(r.continuation_token);
    assert_parses("GET", "/bucket/key?uploadId=u&max-parts=7&part-number-marker=3");
    assert_int_equal(r.list_max, 7);
    assert_int_equal(r.part_number_marker, 3);
    assert_refused("InvalidArgument", "GET", "/bucket?max-keys=-1");
    assert_string_equal(extra_of(&why, "ArgumentName"), "max-keys");
    assert_refused("InvalidArgument", "GET", "/bucket?max-keys=2147483648");
    assert_refused("InvalidArgument", "GET", "/bucket?max-keys=x");
    assert_refused("InvalidArgument", "GET", "/bucket?encoding-type=base64");
    assert_refused("InvalidArgument", "GET", "/bucket?list-type=3");
    assert_refused("InvalidArgument", "PUT", "/bucket/k?uploadId=u&partNumber=0",
                   {"Content-Length", "1"});
    assert_refused("InvalidArgument", "PUT", "/bucket/k?uploadId=u&partNumber=10001",
                   {"Content-Length", "1"});
    assert_refused("InvalidArgument", "PUT", "/bucket/k?partNumber=1", {"Content-Length", "1"});
    assert_refused("InvalidArgument", "GET", "/bucket/k?versionId=abc");
    assert_refused("InvalidArgument", "GET", "/bucket/k?response-expires=a%0d%0ab");
    assert_parses("GET", "/bucket/k?versionId=null");
    assert_true(r.version_null);
}

static void object_headers(void **state)
{
    (void)state;
    assert_parses("PUT", "/bucket/k", {"content-length", "12"}, {"Content-Type", " text/plain "},
                  {"Content-Encoding", "aws-chunked, gzip"}, {"X-Amz-Meta-B", "2"},
                  {"x-amz-meta-a", "1"}, {"x-amz-meta-b", " 3 "}, {"x-amz-meta-b", "4"},
                  {"Cache-Control", "no-cache"}, {"Content-Disposition", "inline"},
                  {"Content-Language", "fr"}, {"Expires", "never"}, {"x-amz-acl", "private"},
                  {"x-amz-storage-class", "STANDARD"}, {"x-amz-server-side-encryption", "AES256"},
                  {"Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="},
                  {"x-amz-decoded-content-length", "7"}, {"If-None-Match", "*"});
    assert_string_equal(r.content_type, "text/plain");
    assert_string_equal(r.content_encoding, "gzip");
    assert_string_equal(r.cache_control, "no-cache");
    assert_string_equal(r.content_disposition, "inline");
    assert_string_equal(r.content_language, "fr");
    assert_string_equal(r.expires, "never");
    assert_int_equal(r.meta_count, 2);
    assert_string_equal(r.meta[0].name, "a");
    assert_string_equal(r.meta[1].name, "b");
    assert_string_equal(r.meta[1].value, "2,3,4");
    assert_int_equal(r.content_bytes, 12);
    assert_int_equal(r.decoded_content_bytes, 7);
    assert_true(r.has_content_md5);
    assert_int_equal(r.content_md5[0], 0xd4);
    assert_int_equal(r.write_condition, NEF_S3_WRITE_IF_ABSENT);

    assert_parses("PUT", "/bucket/k", {"Content-Length", "0"}, {"Content-Encoding", "aws-chunked"},
                  {"If-Match", "\"abc\""});
    assert_null(r.content_encoding);
    assert_int_equal(r.write_condition, NEF_S3_WRITE_IF_ETAG);
    assert_string_equal(r.write_etag, "abc");
    assert_parses("DELETE", "/bucket/k", {"If-Match", "*"});
    assert_int_equal(r.write_condition, NEF_S3_WRITE_IF_EXISTS);
    assert_parses("GET", "/bucket/k", {"If-None-Match", "\"a\""}, {"Range", "bytes=1-"},
                  {"If-Modified-Since", "x"}, {"x-amz-checksum-mode", "ENABLED"});
    assert_int_equal(r.write_condition, NEF_S3_WRITE_ALWAYS);
    assert_string_equal(r.conditions.if_none_match, "\"a\"");
    assert_string_equal(r.range, "bytes=1-");
    assert_true(r.checksum_mode);
}

static void what_is_not_built_is_refused(void **state)
{
    static const struct {
        const char *name, *value, *code;
    } cases[] = {
        {"x-amz-acl", "public-read", "AccessControlListNotSupported"},
        {"x-amz-grant-read", "id=1", "AccessControlListNotSupported"},
        {"x-amz-storage-class", "GLACIER", "InvalidStorageClass"},
        {"x-amz-server-side-encryption", "aws:kms", "NotImplemented"},
        {"x-amz-server-side-encryption", "ROT13", "InvalidEncryptionAlgorithmError"},
        {"x-amz-server-side-encryption-customer-algorithm", "AES256", "NotImplemented"},
        {"x-amz-server-side-encryption-aws-kms-key-id", "k", "NotImplemented"},
        {"x-amz-tagging", "a=b", "NotImplemented"},
        {"x-amz-object-lock-mode", "COMPLIANCE", "NotImplemented"},
        {"x-amz-website-redirect-location", "/", "NotImplemented"},
        {"x-amz-write-offset-bytes", "5", "NotImplemented"},
        {"x-amz-checksum-sha512", "AAAA", "NotImplemented"},
        {"x-amz-checksum-crc32", "AAAA", "InvalidRequest"},
        {"x-amz-checksum-crc32", "AAAAAA==-2", "InvalidRequest"},
        {"x-amz-trailer", "x-other", "InvalidRequest"},
        {"x-amz-sdk-checksum-algorithm", "CRC32", "InvalidRequest"},
        {"Content-MD5", "short", "InvalidDigest"},
        {"If-None-Match", "\"etag\"", "NotImplemented"},
        {"If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT", "NotImplemented"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(cases[i].code, "PUT", "/bucket/k", {"Content-Length", "1"},
                       {cases[i].name, cases[i].value});
    assert_refused("MissingContentLength", "PUT", "/bucket/k");
    assert_refused("EntityTooLarge", "PUT", "/bucket/k", {"Content-Length", "5368709121"});
    assert_string_equal(extra_of(&why, "MaxSizeAllowed"), "5368709120");
    assert_parses("PUT", "/bucket/k", {"Content-Length", "5368709120"});
    assert_refused("InvalidRequest", "POST", "/bucket?delete", {"Content-Length", "1"});
    assert_refused("MaxMessageLengthExceeded", "POST", "/bucket?delete",
                   {"Content-Length", "99999999"}, {"Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="});
    assert_refused("InvalidRequest", "GET", "/bucket/k?partNumber=1", {"Range", "bytes=0-1"});
    assert_refused("InvalidRequest", "PUT", "/bucket/k", {"x-amz-copy-source", "bucket/k"});
    assert_parses("PUT", "/bucket/k", {"x-amz-copy-source", "bucket/k"},
                  {"x-amz-metadata-directive", "REPLACE"});
    assert_true(r.metadata_replace);
    assert_refused("InvalidArgument", "PUT", "/bucket/k", {"x-amz-copy-source", "bucket"});
    assert_refused("InvalidArgument", "PUT", "/bucket/k",
                   {"x-amz-copy-source", "other/k?versionId=1"});
    assert_refused("InvalidArgument", "PUT", "/bucket/k", {"x-amz-copy-source", "other/k?x=1"});
    assert_refused("InvalidArgument", "PUT", "/bucket/k?uploadId=u&partNumber=1",
                   {"x-amz-copy-source", "other/k"}, {"x-amz-copy-source-range", "bytes=5-"});
}

static void checksums_of_requests(void **state)
{
    (void)state;
    assert_parses("PUT", "/bucket/k", {"Content-Length", "9"}, {"x-amz-checksum-crc32", "y/Q5Jg=="},
                  {"x-amz-sdk-checksum-algorithm", "CRC32"});
    assert_int_equal(r.checksum.kind, NEF_S3_CHECKSUM_CRC32);
    assert_int_equal(r.checksum.bytes[0], 0xcb);
    assert_int_equal(r.checksum_kind, NEF_S3_CHECKSUM_CRC32);
    assert_parses("PUT", "/bucket/k", {"Content-Length", "9"},
                  {"x-amz-trailer", "x-amz-checksum-crc64nvme"});
    assert_int_equal(r.trailer_checksum, NEF_S3_CHECKSUM_CRC64NVME);
    assert_int_equal(r.checksum_kind, NEF_S3_CHECKSUM_CRC64NVME);
    assert_refused("InvalidRequest", "PUT", "/bucket/k", {"Content-Length", "9"},
                   {"x-amz-checksum-crc32", "y/Q5Jg=="}, {"x-amz-checksum-crc32c", "y/Q5Jg=="});
    assert_refused("InvalidRequest", "PUT", "/bucket/k", {"Content-Length", "9"},
                   {"x-amz-checksum-crc32", "y/Q5Jg=="}, {"x-amz-sdk-checksum-algorithm", "SHA1"});
    assert_parses("POST", "/bucket/k?uploads", {"x-amz-checksum-algorithm", "CRC32"},
                  {"x-amz-checksum-type", "FULL_OBJECT"});
    assert_int_equal(r.checksum_kind, NEF_S3_CHECKSUM_CRC32);
    assert_int_equal(r.checksum_type, NEF_S3_CHECKSUM_FULL_OBJECT);
    assert_refused("InvalidRequest", "POST", "/bucket/k?uploads",
                   {"x-amz-checksum-algorithm", "SHA256"}, {"x-amz-checksum-type", "FULL_OBJECT"});
    assert_refused("InvalidRequest", "POST", "/bucket/k?uploads",
                   {"x-amz-checksum-algorithm", "XXHASH3"});
    assert_parses("POST", "/bucket/k?uploadId=u", {"x-amz-checksum-crc32", "y/Q5Jg==-3"},
                  {"x-amz-mp-object-size", "77"});
    assert_int_equal(r.checksum.parts, 3);
    assert_int_equal(r.multipart_object_bytes, 77);
}

static void metadata_is_bounded(void **state)
{
    struct nef_http_field headers[300];
    struct nef_s3_http http = {"PUT", "/bucket/k", headers, 0};
    char value[2049], *huge = malloc(20000);

    (void)state;
    memset(value, 'v', sizeof(value));
    value[2047] = '\0';
    assert_parses("PUT", "/bucket/k", {"Content-Length", "0"}, {"x-amz-meta-n", value});
    value[2047] = 'v';
    value[2048] = '\0';
    assert_refused("MetadataTooLarge", "PUT", "/bucket/k", {"Content-Length", "0"},
                   {"x-amz-meta-n", value});
    /* many headers of one name are joined without growing beyond what they bring */
    headers[http.header_count++] = (struct nef_http_field){"Content-Length", "0"};
    while (http.header_count < 257)
        headers[http.header_count++] = (struct nef_http_field){"x-amz-meta-a", "1234567"};
    assert_int_equal(parse(&http), NEF_OK);
    assert_int_equal(r.meta_count, 1);
    assert_int_equal(strlen(r.meta[0].value), 256 * 8 - 1);
    headers[http.header_count++] = (struct nef_http_field){"x-amz-meta-a", "1"};
    assert_int_not_equal(parse(&http), NEF_OK);
    assert_code(why, "MetadataTooLarge");

    assert_non_null(huge);
    memset(huge, 'x', 20000);
    huge[19999] = '\0';
    assert_refused("RequestHeaderSectionTooLarge", "GET", "/bucket", {"x", huge});
    huge[0] = '/';
    assert_refused("InvalidURI", "GET", huge);
    memset(huge, '&', 20000);
    memcpy(huge, "/bucket?", 8);
    for (int i = 0; i < 65; i++)
        huge[8 + 2 * i] = 'a';
    huge[8 + 130] = '\0';
    assert_refused("InvalidURI", "GET", huge);
    free(huge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(each_operation_is_found, teardown),
        cmocka_unit_test_teardown(paths_are_decoded_once, teardown),
        cmocka_unit_test(bucket_names),
        cmocka_unit_test_teardown(list_parameters, teardown),
        cmocka_unit_test_teardown(object_headers, teardown),
        cmocka_unit_test_teardown(what_is_not_built_is_refused, teardown),
        cmocka_unit_test_teardown(checksums_of_requests, teardown),
        cmocka_unit_test_teardown(metadata_is_bounded, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
