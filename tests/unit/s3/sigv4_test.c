/* Signature Version 4: Amazon's published examples, requests that botocore signed, and refusals. */
#include "s3_test.h"

#include "base/bytes.h"
#include "crypto/crypto.h"
#include "s3/chunked.h"
#include "s3/condition.h"
#include "s3/sigv4.h"

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define NOW   1369353600 /* 20130524T000000Z */
#define SCOPE "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
#define AUTH(headers, signature)                                                                   \
    "AWS4-HMAC-SHA256 Credential=" SCOPE ",SignedHeaders=" headers ",Signature=" signature

static struct nef_sigv4 auth;
static struct nef_s3_error why;

static nef_err check(const struct nef_s3_http *http, const char *region, int64_t now_s)
{
    struct nef_sigv4_key key;
    nef_err err;

    memset(&why, 0, sizeof(why));
    err = nef_sigv4_parse(http, region, now_s, &auth, &why);
    if (err != NEF_OK)
        return err;
    assert_string_equal(auth.access_key, ACCESS);
    nef_sigv4_derive(SECRET, auth.date, region, &key);
    return nef_sigv4_verify(http, &auth, &key, &why);
}

#define SIGNED(method, target, ...)                                                                \
    (&(struct nef_s3_http){(method), (target), (const struct nef_http_field[]){__VA_ARGS__},        \
                           sizeof((const struct nef_http_field[]){__VA_ARGS__}) /                   \
                               sizeof(struct nef_http_field)})

#define HOST                                                                                       \
    {                                                                                              \
        "Host", "examplebucket.s3.amazonaws.com"                                                   \
    }
#define DATE                                                                                       \
    {                                                                                              \
        "x-amz-date", "20130524T000000Z"                                                           \
    }
#define SHA                                                                                        \
    {                                                                                              \
        "x-amz-content-sha256", EMPTY                                                              \
    }

/* API reference, "Signature Calculations for the Authorization Header: Transferring Payload in a
 * Single Chunk" and "Authenticating Requests: Using Query Parameters". */
static void published_examples(void **state)
{
    (void)state;
    assert_int_equal(
        check(SIGNED("GET", "/test.txt", HOST, DATE, SHA, {"Range", "bytes=0-9"},
                     {"Authorization",
                      AUTH("host;range;x-amz-content-sha256;x-amz-date",
                           "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")}),
              "us-east-1", NOW),
        NEF_OK);
    assert_int_equal(
        check(SIGNED("PUT", "/test$file.text", HOST, DATE,
                     {"Date", "Fri, 24 May 2013 00:00:00 GMT"},
                     {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                     {"x-amz-content-sha256",
                      "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"},
                     {"Authorization",
                      AUTH("date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                           "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")}),
              "us-east-1", NOW),
        NEF_OK);
    assert_int_equal(auth.payload, NEF_S3_PAYLOAD_SIGNED);
    assert_int_equal(
        check(SIGNED("GET", "/?lifecycle", HOST, DATE, SHA,
                     {"Authorization",
                      AUTH("host;x-amz-content-sha256;x-amz-date",
                           "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")}),
              "us-east-1", NOW),
        NEF_OK);
    assert_int_equal(
        check(SIGNED("GET", "/?max-keys=2&prefix=J", HOST, DATE, SHA,
                     {"Authorization",
                      AUTH("host;x-amz-content-sha256;x-amz-date",
                           "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")}),
              "us-east-1", NOW),
        NEF_OK);
}

#define PRESIGNED                                                                                  \
    "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524"  \
    "%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400"             \
    "&X-Amz-SignedHeaders=host&X-Amz-Signature="                                                   \
    "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"

static void presigned(void **state)
{
    (void)state;
    assert_int_equal(check(SIGNED("GET", PRESIGNED, HOST), "us-east-1", NOW), NEF_OK);
    assert_true(auth.presigned);
    assert_int_equal(auth.payload, NEF_S3_PAYLOAD_UNSIGNED);
    assert_int_equal(check(SIGNED("GET", PRESIGNED, HOST), "us-east-1", NOW + 86400), NEF_OK);
    assert_int_equal(check(SIGNED("GET", PRESIGNED, HOST), "us-east-1", NOW + 86401), NEF_E_DENIED);
    assert_string_equal(why.message, "Request has expired");
    assert_string_equal(extra_of(&why, "Expires"), "2013-05-25T00:00:00Z");
    assert_int_equal(check(SIGNED("GET", PRESIGNED, HOST), "us-east-1", NOW - 901), NEF_E_DENIED);
    assert_string_equal(why.message, "Request is not valid yet");
    assert_int_equal(check(SIGNED("PUT", PRESIGNED, HOST), "us-east-1", NOW), NEF_E_DENIED);
    assert_code(why, "SignatureDoesNotMatch");
    assert_int_equal(check(SIGNED("GET", PRESIGNED "&x=1", HOST), "us-east-1", NOW), NEF_E_DENIED);
    assert_code(why, "SignatureDoesNotMatch");
    /* nobody may add what would change the request */
    assert_int_equal(
        check(SIGNED("GET", PRESIGNED, HOST, {"x-amz-acl", "private"}), "us-east-1", NOW),
        NEF_E_DENIED);
    assert_string_equal(extra_of(&why, "HeadersNotSigned"), "x-amz-acl");
    assert_int_equal(check(SIGNED("PUT", PRESIGNED, HOST,
                                  {"x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}),
                           "us-east-1", NOW),
                     NEF_E_DENIED);
    assert_string_equal(extra_of(&why, "HeadersNotSigned"), "x-amz-content-sha256");
    /* an unsigned hash isn't part of the signature and is still checked against the body */
    assert_int_equal(check(SIGNED("GET", PRESIGNED, HOST, SHA), "us-east-1", NOW), NEF_OK);
    assert_int_equal(auth.payload, NEF_S3_PAYLOAD_SIGNED);
}

struct captured {
    const char *name, *method, *target;
    struct nef_http_field headers[24];
    size_t header_count;
    const char *body;
    size_t body_bytes;
};

static const struct captured captured[] = {
#include "signed_old.inc"
#include "signed_new.inc"
};

/* The body of C as the server takes it: decoded or not, hashed, compared. */
static void check_body(const struct captured *c, const struct nef_s3_request *request)
{
    struct nef_s3_checksum sum;
    struct nef_s3_checksum_value promised, computed;
    const uint8_t *input = (const uint8_t *)c->body, *data;
    size_t left = c->body_bytes, used, data_bytes;
    struct nef_chunked *chunked;
    uint8_t digest[32];

    if (auth.payload == NEF_S3_PAYLOAD_SIGNED) {
        nef_hash_of(NEF_HASH_SHA256, c->body, c->body_bytes, digest);
        assert_int_equal(nef_sigv4_check_payload(&auth, digest, &why), NEF_OK);
        digest[5] ^= 1;
        assert_int_equal(nef_sigv4_check_payload(&auth, digest, &why), NEF_E_DIGEST);
        assert_code(why, "XAmzContentSHA256Mismatch");
    }
    if (auth.payload != NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER)
        return;
    assert_int_equal(nef_chunked_new(&auth, NULL, (uint64_t)request->decoded_content_bytes,
                                     request->trailer_checksum, &chunked),
                     NEF_OK);
    assert_int_equal(nef_s3_checksum_begin(&sum, request->trailer_checksum), NEF_OK);
    for (; left > 0; input += used, left -= used) {
        assert_int_equal(nef_chunked_step(chunked, input, left, &used, &data, &data_bytes, &why),
                         NEF_OK);
        nef_s3_checksum_update(&sum, data, data_bytes);
    }
    assert_int_equal(nef_chunked_end(chunked, &promised, &why), NEF_OK);
    nef_s3_checksum_end(&sum, &computed);
    assert_true(nef_s3_checksum_equal(&promised, &computed));
    nef_s3_checksum_free(&sum);
    nef_chunked_free(chunked);
}

static void requests_of_botocore(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(captured) / sizeof(captured[0]); i++) {
        const struct captured *c = &captured[i];
        struct nef_s3_http http = {c->method, c->target, c->headers, c->header_count};
        const char *date = nef_s3_http_header(&http, "x-amz-date");
        struct nef_s3_request request;
        char text[17];
        int64_t now_s;
        nef_err err;

        if (date == NULL) {
            memcpy(text, strstr(c->target, "X-Amz-Date=") + 11, 16);
            text[16] = '\0';
            date = text;
        }
        assert_int_equal(nef_s3_date_basic(date, &now_s), NEF_OK);
        err = check(&http, "eu-paris", now_s + 5);
        if (err != NEF_OK)
            fail_msg("%s: %s %s", c->name, nef_s3_code_name(why.code), why.message);
        err = nef_s3_request_parse(&http, &request, &why);
        if (err != NEF_OK)
            fail_msg("%s: %s %s", c->name, nef_s3_code_name(why.code), why.message);
        check_body(c, &request);
        if (strstr(c->name, "put_text") != NULL || strstr(c->name, "get_range") != NULL)
            assert_string_equal(request.object_key, "a b+c%d/\xC3\xA9~(1)!*'&=?#;:@$,/x//y");
        if (strstr(c->name, "_copy") != NULL && strstr(c->name, "part") == NULL)
            assert_string_equal(request.source_key, "a b+c%d/\xC3\xA9~(1)!*'&=?#;:@$,/x//y");
        if (strstr(c->name, "list_v2") != NULL) {
            assert_string_equal(request.prefix, "a b+c/\xC3\xA9");
            assert_string_equal(request.start_after, "x&y=z");
        }
        nef_s3_request_free(&request);
    }
}

static void refused(const char *code, const struct nef_s3_http *http, int64_t now_s)
{
    assert_int_not_equal(check(http, "us-east-1", now_s), NEF_OK);
    assert_code(why, code);
}

#define GOOD_SIGNATURE "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
#define HEADERS        "host;range;x-amz-content-sha256;x-amz-date"

static void authorization(const char *code, const char *value)
{
    refused(code,
            SIGNED("GET", "/test.txt", HOST, DATE, SHA, {"Range", "bytes=0-9"},
                   {"Authorization", value}),
            NOW);
}

static void refusals(void **state)
{
    (void)state;
    refused("AccessDenied", SIGNED("GET", "/", HOST), NOW);
    authorization("SignatureDoesNotMatch", AUTH(HEADERS, "00" EMPTY));
    authorization("SignatureDoesNotMatch", AUTH(HEADERS, EMPTY));
    assert_string_equal(extra_of(&why, "AWSAccessKeyId"), ACCESS);
    assert_non_null(strstr(extra_of(&why, "StringToSign"), "AWS4-HMAC-SHA256\n20130524T000000Z\n"));
    assert_non_null(strstr(extra_of(&why, "CanonicalRequest"), "GET\n/test.txt\n\nhost:"));
    authorization("InvalidRequest", "AWS " ACCESS ":frJIUN8DYpKDtOLCwo//yllqDzg=");
    authorization("NotImplemented", "AWS4-ECDSA-P256-SHA256 Credential=x");
    authorization("InvalidArgument", "Basic QWxhZGRpbg==");
    assert_string_equal(extra_of(&why, "ArgumentValue"), "Basic"); /* never a credential, which may be another's */
    authorization("InvalidArgument", "db833a6f60a23f71ae34ae15ff257bdc");
    assert_string_equal(extra_of(&why, "ArgumentValue"), "");
    authorization("AuthorizationHeaderMalformed", "AWS4-HMAC-SHA256 Credential=" SCOPE);
    authorization("AuthorizationHeaderMalformed",
                  "AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=host,Signature=" EMPTY);
    authorization("AuthorizationHeaderMalformed",
                  "AWS4-HMAC-SHA256 Credential=" ACCESS
                  "/20130524/eu-west-1/s3/aws4_request,SignedHeaders=host,Signature=" EMPTY);
    assert_string_equal(why.message,
                        "The authorization header is malformed; the region 'eu-west-1' "
                        "is wrong; expecting 'us-east-1'");
    assert_string_equal(extra_of(&why, "Region"), "us-east-1");
    authorization("AuthorizationHeaderMalformed",
                  "AWS4-HMAC-SHA256 Credential=" ACCESS
                  "/20130525/us-east-1/s3/aws4_request,SignedHeaders=" HEADERS ",Signature=" EMPTY);
    authorization("AuthorizationHeaderMalformed",
                  "AWS4-HMAC-SHA256 Credential=" ACCESS
                  "/20130524/us-east-1/ec2/aws4_request,SignedHeaders=host,Signature=" EMPTY);
    authorization("AccessDenied", AUTH("x-amz-content-sha256;x-amz-date", GOOD_SIGNATURE));
    authorization("AccessDenied", AUTH("host;x-amz-date", GOOD_SIGNATURE));
    refused("RequestTimeTooSkewed",
            SIGNED("GET", "/test.txt", HOST, DATE, SHA, {"Range", "bytes=0-9"},
                   {"Authorization", AUTH(HEADERS, GOOD_SIGNATURE)}),
            NOW + 901);
    refused("RequestTimeTooSkewed",
            SIGNED("GET", "/test.txt", HOST, DATE, SHA, {"Range", "bytes=0-9"},
                   {"Authorization", AUTH(HEADERS, GOOD_SIGNATURE)}),
            NOW - 901);
    refused("AccessDenied",
            SIGNED("GET", "/test.txt", HOST, SHA, {"Authorization", AUTH(HEADERS, GOOD_SIGNATURE)}),
            NOW);
    refused("InvalidRequest",
            SIGNED("GET", "/test.txt", HOST, DATE,
                   {"Authorization", AUTH("host;x-amz-date", GOOD_SIGNATURE)}),
            NOW);
    refused("InvalidArgument",
            SIGNED("GET", "/test.txt", HOST, DATE, {"x-amz-content-sha256", "abc"},
                   {"Authorization", AUTH("host;x-amz-content-sha256;x-amz-date", GOOD_SIGNATURE)}),
            NOW);
    refused("NotImplemented",
            SIGNED("GET", "/test.txt", HOST, DATE,
                   {"x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"},
                   {"Authorization", AUTH("host;x-amz-content-sha256;x-amz-date", GOOD_SIGNATURE)}),
            NOW);
    refused("InvalidToken",
            SIGNED("GET", "/", HOST, DATE, SHA, {"x-amz-security-token", "t"},
                   {"Authorization", AUTH(HEADERS, GOOD_SIGNATURE)}),
            NOW);
    refused("InvalidRequest", SIGNED("GET", "/k?AWSAccessKeyId=x&Signature=y&Expires=1", HOST),
            NOW);
    refused("InvalidArgument", SIGNED("GET", PRESIGNED, HOST, {"Authorization", "AWS a:b"}), NOW);
    refused("AuthorizationQueryParametersError",
            SIGNED("GET", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256", HOST), NOW);

    assert_int_equal(nef_sigv4_unknown_key(&auth, &why), NEF_E_DENIED);
    assert_code(why, "InvalidAccessKeyId");
}

static void expires(const char *value, const char *code)
{
    char target[1024];

    (void)snprintf(target, sizeof(target),
                   "/t?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%s&X-Amz-Date="
                   "20130524T000000Z&X-Amz-Expires=%s&X-Amz-SignedHeaders=host&X-Amz-Signature=%s",
                   SCOPE, value, EMPTY);
    refused(code, SIGNED("GET", target, HOST), NOW);
}

static void presigned_lifetimes(void **state)
{
    (void)state;
    expires("604800", "SignatureDoesNotMatch"); /* which is looked at last */
    expires("604801", "AuthorizationQueryParametersError");
    expires("99999999999999999999", "AuthorizationQueryParametersError");
    expires("-1", "AuthorizationQueryParametersError");
    expires("x", "AuthorizationQueryParametersError");
    expires("", "AuthorizationQueryParametersError");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_examples),   cmocka_unit_test(presigned),
        cmocka_unit_test(requests_of_botocore), cmocka_unit_test(refusals),
        cmocka_unit_test(presigned_lifetimes),
    };

    if (nef_crypto_init() != NEF_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
