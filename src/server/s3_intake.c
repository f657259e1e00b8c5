/* A request's body as it comes in: decoded if it is aws-chunked, hashed, and verified at its end
 * against everything the request promised of it: size, payload hash, chunk signatures, Content-MD5,
 * checksums.
 *
 * Nothing that came in may be acknowledged, or named by an op, before intake_end is NEF_OK. */
#include <string.h>
#include "base/assert.h"
#include "server/s3_internal.h"

nef_err intake_begin(struct call *c, bool want_md5, enum nef_s3_checksum_kind want_checksum)
{
    struct intake *in = &c->intake;
    const struct nef_s3_request *r = &c->request;
    enum nef_s3_checksum_kind kind = r->checksum.kind;
    bool streaming =
        c->auth.payload != NEF_S3_PAYLOAD_UNSIGNED && c->auth.payload != NEF_S3_PAYLOAD_SIGNED;
    int64_t expected = streaming ? r->decoded_content_bytes : r->content_bytes;
    nef_err err;

    if (expected < 0)
        return nef_s3_refuse(&c->why, NEF_S3_MISSING_CONTENT_LENGTH, NULL);
    in->expected = (uint64_t)expected;
    if (kind == NEF_S3_CHECKSUM_NONE)
        kind = r->trailer_checksum;
    if (kind == NEF_S3_CHECKSUM_NONE)
        kind = want_checksum;
    if (kind != NEF_S3_CHECKSUM_NONE) {
        err = nef_s3_checksum_begin(&in->checksum, kind);
        if (err != NEF_OK)
            goto fail;
    }
    err = NEF_E_NOMEM;
    if (want_md5 || r->has_content_md5) {
        in->md5 = nef_hash_new(NEF_HASH_MD5);
        if (in->md5 == NULL)
            goto fail;
    }
    if (c->auth.payload == NEF_S3_PAYLOAD_SIGNED) {
        in->sha256 = nef_hash_new(NEF_HASH_SHA256);
        if (in->sha256 == NULL)
            goto fail;
    }
    if (streaming) {
        err = nef_chunked_new(&c->auth, &c->key, in->expected, r->trailer_checksum, &in->chunked);
        if (err != NEF_OK)
            goto fail;
    }
    return NEF_OK;
fail:
    nef_s3_error_of(&c->why, err);
    return err;
}

nef_err intake_step(struct call *c, const uint8_t *input, size_t bytes, size_t data_max,
                    size_t *out_used, const uint8_t **out_data, size_t *out_data_bytes)
{
    struct intake *in = &c->intake;
    const uint8_t *data = input;
    size_t used = bytes, data_bytes = bytes;
    nef_err err;

    /* Framing only makes input longer than its data, so bounding the input bounds the data. Once
     * all data is in, only framing may follow, and the decoder refuses anything else. */
    if (in->got < in->expected)
        bytes = NEF_MIN(bytes, data_max);
    if (in->chunked != NULL) {
        err = nef_chunked_step(in->chunked, input, bytes, &used, &data, &data_bytes, &c->why);
        if (err != NEF_OK)
            return err;
    } else {
        used = data_bytes = bytes;
    }
    if (data_bytes > in->expected - in->got)
        return nef_s3_refuse(&c->why, NEF_S3_INCOMPLETE_BODY, NULL);
    in->got += data_bytes;
    if (data_bytes > 0) {
        if (in->md5 != NULL)
            nef_hash_update(in->md5, data, data_bytes);
        if (in->sha256 != NULL)
            nef_hash_update(in->sha256, data, data_bytes);
        if (in->checksum.kind != NEF_S3_CHECKSUM_NONE)
            nef_s3_checksum_update(&in->checksum, data, data_bytes);
    }
    *out_used = used;
    *out_data = data;
    *out_data_bytes = data_bytes;
    return NEF_OK;
}

nef_err intake_end(struct call *c)
{
    struct intake *in = &c->intake;
    const struct nef_s3_request *r = &c->request;
    struct nef_s3_checksum_value trailer = {.kind = NEF_S3_CHECKSUM_NONE};
    uint8_t digest[32];
    nef_err err;

    if (in->chunked != NULL) {
        err = nef_chunked_end(in->chunked, &trailer, &c->why);
        if (err != NEF_OK)
            return err;
    }
    if (in->got != in->expected)
        return nef_s3_refuse(&c->why, NEF_S3_INCOMPLETE_BODY, NULL);
    if (in->sha256 != NULL) {
        nef_hash_final(in->sha256, digest);
        err = nef_sigv4_check_payload(&c->auth, digest, &c->why);
        if (err != NEF_OK)
            return err;
    }
    if (in->md5 != NULL) {
        nef_hash_final(in->md5, in->md5_value);
        if (r->has_content_md5 && memcmp(in->md5_value, r->content_md5, 16) != 0)
            return nef_s3_refuse(&c->why, NEF_S3_BAD_DIGEST, NULL);
    }
    if (in->checksum.kind != NEF_S3_CHECKSUM_NONE) {
        const struct nef_s3_checksum_value *promised =
            r->checksum.kind != NEF_S3_CHECKSUM_NONE ? &r->checksum : &trailer;

        nef_s3_checksum_end(&in->checksum, &in->checksum_value);
        if (promised->kind == NEF_S3_CHECKSUM_NONE)
            return NEF_OK; /* computed because the upload wants it kept */
        if (promised->kind != in->checksum_value.kind ||
            memcmp(promised->bytes, in->checksum_value.bytes,
                   nef_s3_checksum_bytes(promised->kind)) != 0)
            return nef_s3_refuse(&c->why, NEF_S3_BAD_DIGEST,
                                 "The %s you specified did not match the calculated checksum.",
                                 nef_s3_checksum_name(in->checksum_value.kind));
    }
    return NEF_OK;
}

void intake_free(struct intake *in)
{
    nef_chunked_free(in->chunked);
    nef_hash_free(in->md5);
    nef_hash_free(in->sha256);
    nef_s3_checksum_free(&in->checksum);
    in->chunked = NULL;
    in->md5 = in->sha256 = NULL;
}
