/* aws-chunked bodies: Amazon's published examples in every kind of split, and damaged ones. */
#include "s3_test.h"

#include "base/buf.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "s3/chunked.h"

/* API reference, "Transferring Payload in Multiple Chunks" and "Including Trailing Headers": 66,560
 * bytes of 'a' in chunks of 65,536 and 1,024. */
static const char *const chunk_signatures[2][3] = {
    {"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
     "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
     "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"},
    {"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
     "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
     "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"}};
static const char *const seeds[2] = {
    "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"};
#define TRAILER_SIGNATURE "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"

#define TOTAL 66560u

static struct nef_sigv4 auth;
static struct nef_sigv4_key key;
static struct nef_s3_error why;
static bool any_data; /* framing was damaged, so data may be other bytes until that is noticed */

static void setup_auth(enum nef_s3_payload payload, const char *seed)
{
    auth = (struct nef_sigv4){.payload = payload};
    strcpy(auth.date, "20130524");
    strcpy(auth.region, "us-east-1");
    strcpy(auth.timestamp, "20130524T000000Z");
    assert_int_equal(nef_unhex(seed, 64, auth.signature, 32), NEF_OK);
    nef_sigv4_derive(SECRET, auth.date, auth.region, &key);
}

static void build(struct nef_buf *b, bool trailer)
{
    static const size_t sizes[3] = {65536, 1024, 0};

    for (unsigned i = 0; i < 3; i++) {
        nef_buf_printf(b, "%zx;chunk-signature=%s\r\n", sizes[i], chunk_signatures[trailer][i]);
        memset(nef_buf_grow(b, sizes[i]), 'a', sizes[i]);
        if (sizes[i] > 0 || !trailer)
            nef_buf_text(b, "\r\n");
    }
    if (trailer)
        nef_buf_text(b, "x-amz-checksum-crc32c:sOO8/Q==\r\n"
                        "x-amz-trailer-signature:" TRAILER_SIGNATURE "\r\n\r\n");
}

/* Feeds B in pieces that NEXT gives, and checks that what comes out is the promised 'a's. */
static nef_err feed(const struct nef_buf *b, enum nef_s3_checksum_kind trailer, size_t piece_max,
                    uint64_t total, struct nef_s3_checksum_value *out)
{
    struct nef_chunked *c;
    size_t at = 0, given = 0;
    unsigned state = 1;
    nef_err err = NEF_OK;

    assert_int_equal(nef_chunked_new(&auth, &key, total, trailer, &c), NEF_OK);
    while (at < b->bytes && err == NEF_OK) {
        size_t piece, left, used, data_bytes;
        const uint8_t *data, *input = b->data + at;

        state = state * 1103515245u + 12345u;
        piece = piece_max == 1 ? 1 : 1 + state / 65536u % piece_max;
        left = piece = piece < b->bytes - at ? piece : b->bytes - at;
        while (left > 0 && err == NEF_OK) {
            err = nef_chunked_step(c, input, left, &used, &data, &data_bytes, &why);
            if (err != NEF_OK)
                break;
            assert_true(used > 0 && used <= left && data_bytes <= used);
            for (size_t i = 0; i < data_bytes; i++)
                assert_true(any_data || data[i] == 'a');
            given += data_bytes;
            input += used;
            left -= used;
        }
        at += piece;
    }
    if (err == NEF_OK)
        err = nef_chunked_end(c, out, &why);
    if (err == NEF_OK)
        assert_int_equal(given, total);
    nef_chunked_free(c);
    return err;
}

static void published_examples_in_any_split(void **state)
{
    static const size_t pieces[] = {1, 2, 3, 7, 100, 5000, 100000};

    (void)state;
    for (unsigned trailer = 0; trailer < 2; trailer++) {
        struct nef_buf b = {0};

        build(&b, trailer == 1);
        setup_auth(trailer ? NEF_S3_PAYLOAD_STREAMING_SIGNED_TRAILER
                           : NEF_S3_PAYLOAD_STREAMING_SIGNED,
                   seeds[trailer]);
        for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
            struct nef_s3_checksum_value sum;
            char text[NEF_S3_CHECKSUM_TEXT_MAX];

            assert_int_equal(feed(&b, NEF_S3_CHECKSUM_CRC32C, pieces[i], TOTAL, &sum), NEF_OK);
            if (trailer) {
                nef_s3_checksum_text(&sum, text);
                assert_string_equal(text, "sOO8/Q==");
            } else {
                assert_int_equal(sum.kind, NEF_S3_CHECKSUM_NONE);
            }
        }
        nef_buf_free(&b);
    }
}

static void a_changed_byte_is_refused(void **state)
{
    struct nef_s3_checksum_value sum;

    (void)state;
    for (unsigned trailer = 0; trailer < 2; trailer++) {
        struct nef_buf b = {0};

        build(&b, trailer == 1);
        setup_auth(trailer ? NEF_S3_PAYLOAD_STREAMING_SIGNED_TRAILER
                           : NEF_S3_PAYLOAD_STREAMING_SIGNED,
                   seeds[trailer]);
        for (size_t at = 0; at < b.bytes; at += at < 120 || at > 65600 ? 1 : 997) {
            bool data = b.data[at] == 'a' && at > 90 && at < b.bytes - 300;

            if (data) /* that is changed_data_fails_its_chunk */
                continue;
            any_data = true;
            b.data[at] ^= 0x01;
            assert_int_not_equal(feed(&b, NEF_S3_CHECKSUM_CRC32C, 1000, TOTAL, &sum), NEF_OK);
            b.data[at] ^= 0x01;
            any_data = false;
        }
        assert_int_equal(feed(&b, NEF_S3_CHECKSUM_CRC32C, 1000, TOTAL, &sum), NEF_OK);
        for (size_t n = 1; n < 300; n++) { /* cut short */
            size_t whole = b.bytes;

            b.bytes -= n;
            assert_int_not_equal(feed(&b, NEF_S3_CHECKSUM_CRC32C, 1000, TOTAL, &sum), NEF_OK);
            b.bytes = whole;
        }
        nef_buf_text(&b, "x"); /* more than there should be */
        assert_int_not_equal(feed(&b, NEF_S3_CHECKSUM_CRC32C, 1000, TOTAL, &sum), NEF_OK);
        nef_buf_free(&b);
    }
}

static void changed_data_fails_its_chunk(void **state)
{
    struct nef_buf b = {0};
    struct nef_chunked *c;
    const uint8_t *data, *input;
    size_t left, used, data_bytes;
    nef_err err = NEF_OK;

    (void)state;
    build(&b, false);
    setup_auth(NEF_S3_PAYLOAD_STREAMING_SIGNED, seeds[0]);
    b.data[1000] = 'b';
    assert_int_equal(nef_chunked_new(&auth, &key, TOTAL, NEF_S3_CHECKSUM_NONE, &c), NEF_OK);
    for (input = b.data, left = b.bytes; left > 0 && err == NEF_OK; input += used, left -= used)
        err = nef_chunked_step(c, input, left, &used, &data, &data_bytes, &why);
    assert_int_equal(err, NEF_E_DENIED);
    assert_code(why, "SignatureDoesNotMatch");
    nef_chunked_free(c);
    nef_buf_free(&b);
}

static void unsigned_case(const char *text, enum nef_s3_checksum_kind trailer, uint64_t total,
                          const char *code)
{
    struct nef_buf b = {0};
    struct nef_s3_checksum_value sum;

    nef_buf_text(&b, text);
    for (size_t piece = 1; piece < 40; piece += 13) {
        nef_err err = feed(&b, trailer, piece, total, &sum);

        if (code == NULL) {
            assert_int_equal(err, NEF_OK);
            assert_int_equal(sum.kind, trailer);
        } else {
            assert_int_not_equal(err, NEF_OK);
            assert_code(why, code);
        }
    }
    nef_buf_free(&b);
}

static void unsigned_trailers(void **state)
{
    enum nef_s3_checksum_kind crc32 = NEF_S3_CHECKSUM_CRC32, none = NEF_S3_CHECKSUM_NONE;

    (void)state;
    setup_auth(NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER, seeds[0]);
    unsigned_case("3\r\naaa\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", crc32, 3, NULL);
    unsigned_case("3\r\naaa\r\n0\r\nX-Amz-Checksum-CRC32: AAAAAA== \n\r\n", crc32, 3, NULL);
    unsigned_case("0\r\n\r\n", none, 0, NULL);
    unsigned_case("00003;x=y\r\naaa\r\n1\r\na\r\n0\r\n\r\n", none, 4, NULL);
    unsigned_case("3\r\naaa\r\n0\r\n\r\n", crc32, 3, "MalformedTrailerError");
    unsigned_case("3\r\naaa\r\n0\r\nx-amz-checksum-sha1:AAAA\r\n\r\n", crc32, 3,
                  "MalformedTrailerError");
    unsigned_case("3\r\naaa\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n", crc32, 3, "InvalidRequest");
    unsigned_case("3\r\naaa\r\n0\r\nnonsense\r\n\r\n", crc32, 3, "MalformedTrailerError");
    unsigned_case("3\r\naaa\r\n0\r\nx-amz-trailer-signature:" TRAILER_SIGNATURE "\r\n\r\n", none, 3,
                  "MalformedTrailerError");
    unsigned_case("3\r\naaa\r\n0\r\n\r\nmore", none, 3, "MalformedTrailerError");
    unsigned_case("3\r\naaa\r\n", none, 3, "IncompleteBody");
    unsigned_case("3\r\naaa\r\n0\r\n\r\n", none, 4, "IncompleteBody");
    unsigned_case("3\r\naaa\r\n0\r\n\r\n", none, 2, "IncompleteBody");
    unsigned_case("ffffffffffffffff\r\n", none, 2, "InvalidRequest");
    unsigned_case("fffffffffffffff\r\n", none, 2, "IncompleteBody");
    unsigned_case("-3\r\naaa\r\n", none, 3, "InvalidRequest");
    unsigned_case("\r\n", none, 3, "InvalidRequest");
    unsigned_case("3\r\naaaa\r\n", none, 4, "InvalidRequest");
}

static void lines_are_bounded(void **state)
{
    struct nef_buf b = {0};
    struct nef_s3_checksum_value sum;

    (void)state;
    setup_auth(NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER, seeds[0]);
    memset(nef_buf_grow(&b, 5000), '0', 5000);
    assert_int_not_equal(feed(&b, NEF_S3_CHECKSUM_NONE, 100, 3, &sum), NEF_OK);
    nef_buf_reset(&b);
    nef_buf_text(&b, "0\r\n");
    for (int i = 0; i < 1000; i++)
        nef_buf_text(&b, "x-amz-checksum-crc32:AAAAAA==\r\n");
    assert_int_not_equal(feed(&b, NEF_S3_CHECKSUM_CRC32, 100, 0, &sum), NEF_OK);
    assert_code(why, "MalformedTrailerError");
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_examples_in_any_split),
        cmocka_unit_test(a_changed_byte_is_refused),
        cmocka_unit_test(changed_data_fails_its_chunk),
        cmocka_unit_test(unsigned_trailers),
        cmocka_unit_test(lines_are_bounded),
    };

    if (nef_crypto_init() != NEF_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
