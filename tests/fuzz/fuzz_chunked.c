/* libFuzzer target: the aws-chunked decoder. Byte 0 chooses the kind, the checksum and how the rest
 * is split; spans must lie in the input and never be more than was promised. */
#include <stdint.h>
#include <string.h>
#include "base/assert.h"
#include "s3/chunked.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const enum nef_s3_payload kinds[] = {
        NEF_S3_PAYLOAD_STREAMING_SIGNED, NEF_S3_PAYLOAD_STREAMING_SIGNED_TRAILER,
        NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER, NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER};
    struct nef_sigv4 auth = {.date = "20130524", .region = "r", .timestamp = "20130524T000000Z"};
    struct nef_sigv4_key key = {.date = "20130524"};
    struct nef_s3_checksum_value sum;
    struct nef_s3_error why;
    struct nef_chunked *c;
    uint64_t promised, given = 0;
    size_t piece;
    nef_err err = NEF_OK;

    if (bytes < 2)
        return 0;
    auth.payload = kinds[data[0] & 3];
    piece = 1 + (data[0] >> 5) * 7u;
    promised = data[1];
    if (nef_chunked_new(
            &auth, &key, promised,
            (enum nef_s3_checksum_kind)((data[0] >> 2 & 7) % NEF_S3_CHECKSUM_KIND_COUNT),
            &c) != NEF_OK)
        return 0;
    for (data += 2, bytes -= 2; bytes > 0 && err == NEF_OK;) {
        size_t n = bytes < piece ? bytes : piece, used, span_bytes;
        const uint8_t *span;

        err = nef_chunked_step(c, data, n, &used, &span, &span_bytes, &why);
        if (err != NEF_OK)
            break;
        NEF_ASSERT(used > 0 && used <= n);
        NEF_ASSERT(span_bytes == 0 || (span >= data && span + span_bytes <= data + used));
        given += span_bytes;
        NEF_ASSERT(given <= promised);
        data += used;
        bytes -= used;
    }
    if (err == NEF_OK && nef_chunked_end(c, &sum, &why) == NEF_OK)
        NEF_ASSERT(given == promised);
    nef_chunked_free(c);
    return 0;
}
