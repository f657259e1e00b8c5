/* PutObject and UploadPart: a state machine that never blocks.
 *
 *   put_start   before the body: limits, durability, for a part its upload; "100 Continue" follows
 *   put_body    hashes the body and fills pieces
 *   put_step    after it: verifies, waits for the pieces, proposes the op, answers its outcome
 *
 * A part's upload is looked up before its body is read: unknown ones are refused early, and its
 * checksum algorithm is computed for parts that bring none. Whether it still exists is decided when
 * the op is applied. */
#include <string.h>
#include "base/assert.h"
#include "server/s3_internal.h"

enum put_step {
    PUT_VERIFY,
    PUT_PIECES,
    PUT_PROPOSED,
    PUT_REFUSED, /* a worker finds out what to answer */
};

/* The upload of a part: what checksum it keeps. */
static nef_err find_upload(struct call *c, enum nef_s3_checksum_kind *out_kind)
{
    struct nef_upload *upload = NULL;
    struct nef_id id;
    nef_err err = nef_s3_upload_id_parse(c->request.upload_id, &id, &c->why);

    if (err != NEF_OK)
        return err;
    err = nef_store_upload(c->s->store, &c->bucket, c->request.object_key,
                           c->request.object_key_bytes, &id, &upload);
    if (err == NEF_E_NO_UPLOAD) { /* perhaps made through the other zone a moment ago */
        err = call_gate(c, c->cell, c->tag);
        if (err == NEF_OK)
            err = nef_store_upload(c->s->store, &c->bucket, c->request.object_key,
                                   c->request.object_key_bytes, &id, &upload);
        if (err == NEF_E_AGAIN)
            return err;
    }
    if (err != NEF_OK) {
        nef_s3_error_of(&c->why, err);
        return err;
    }
    *out_kind = (enum nef_s3_checksum_kind)upload->checksum.kind;
    nef_upload_free(upload);
    return NEF_OK;
}

enum nef_http_next put_start(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    enum nef_s3_checksum_kind kind = NEF_S3_CHECKSUM_NONE;
    nef_err err;

    if (!c->has_tag) {
        err = call_place(c, r->object_key, r->object_key_bytes);
        if (err != NEF_OK)
            return call_fail(c, err);
    }
    if (r->op == NEF_S3_OP_UPLOAD_PART) {
        err = find_upload(c, &kind);
        if (err == NEF_E_AGAIN)
            return NEF_HTTP_WAIT;
        if (err != NEF_OK)
            return call_answer_why(c);
    }
    err = call_check_durability(c);
    if (err != NEF_OK)
        return call_fail(c, err);
    err = intake_begin(c, true, kind);
    if (err != NEF_OK)
        return call_answer_why(c);
    if (c->intake.expected > NEF_PUT_BYTES_MAX) {
        (void)nef_s3_refuse(&c->why, NEF_S3_ENTITY_TOO_LARGE, NULL);
        nef_s3_error_extra_number(&c->why, "ProposedSize", c->intake.expected);
        nef_s3_error_extra_number(&c->why, "MaxSizeAllowed", NEF_PUT_BYTES_MAX);
        return call_answer_why(c);
    }
    if (kind != NEF_S3_CHECKSUM_NONE && c->intake.checksum.kind != kind)
        return call_refuse(c, NEF_S3_INVALID_REQUEST,
                           "The checksum's algorithm is not the one the upload was created with.");
    err = stream_begin(c, &c->stream, c->intake.expected);
    if (err != NEF_OK)
        return call_fail(c, err);
    c->step = PUT_VERIFY;
    return NEF_HTTP_GO;
}

/* The answer to a body that isn't taken: its pieces are given up first. */
static enum nef_http_next give_up(struct call *c, nef_err err, bool why_is_filled)
{
    stream_end(&c->stream);
    return why_is_filled ? call_answer_why(c) : call_fail(c, err);
}

enum nef_http_next put_body(struct call *c, const uint8_t *data, size_t bytes, size_t *out_used)
{
    struct intake *in = &c->intake;

    *out_used = 0;
    while (*out_used < bytes) {
        const uint8_t *span = NULL;
        uint8_t *room = NULL;
        uint32_t room_bytes = 0;
        size_t used = 0, span_bytes = 0;
        nef_err err;

        if (in->got < in->expected) {
            err = stream_room(&c->stream, &room, &room_bytes);
            if (err == NEF_E_AGAIN)
                return NEF_HTTP_WAIT;
            if (err != NEF_OK)
                return give_up(c, err, false);
        }
        err = intake_step(c, data + *out_used, bytes - *out_used, room_bytes, &used, &span,
                          &span_bytes);
        if (err != NEF_OK)
            return give_up(c, err, true);
        if (span_bytes > 0) {
            NEF_ASSERT(span_bytes <= room_bytes);
            memcpy(room, span, span_bytes);
            stream_filled(&c->stream, (uint32_t)span_bytes);
        }
        *out_used += used;
    }
    return NEF_HTTP_GO;
}

nef_err put_build(struct call *c, const struct nef_attrs *attrs, struct nef_run *out_run)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_text key = {r->object_key, (uint32_t)r->object_key_bytes};
    struct nef_checksum checksum = checksum_to_store(&c->intake.checksum_value);
    struct nef_op op = {0};
    struct nef_buf own_attrs = {0};
    bool inline_body = stream_is_inline(&c->stream) && c->stream.size > 0;
    nef_err err = NEF_OK;

    if (r->op == NEF_S3_OP_UPLOAD_PART || r->op == NEF_S3_OP_UPLOAD_PART_COPY) {
        struct nef_op_part_put *part = &op.u.part_put;

        op.type = NEF_RECORD_PART_PUT;
        *part = (struct nef_op_part_put){.bucket = c->bucket.id,
                                         .key = key,
                                         .part = r->part_number,
                                         .size = c->stream.size,
                                         .checksum = checksum,
                                         .inline_body = inline_body};
        memcpy(part->md5, c->intake.md5_value, sizeof(part->md5));
        err = nef_s3_upload_id_parse(r->upload_id, &part->upload, &c->why);
        return err != NEF_OK ? err : stream_op(&c->stream, &op, out_run);
    }
    op.type = NEF_RECORD_OBJECT_PUT;
    op.u.object_put = (struct nef_op_object_put){.bucket = c->bucket.id,
                                                 .key = key,
                                                 .size = c->stream.size,
                                                 .checksum = checksum,
                                                 .condition = call_condition(c),
                                                 .inline_body = inline_body};
    nef_s3_etag_md5(c->intake.md5_value, op.u.object_put.etag);
    if (attrs != NULL) {
        op.u.object_put.attrs = *attrs;
    } else {
        call_attrs(c, &own_attrs);
        err = nef_buf_end(&own_attrs);
        op.u.object_put.attrs = (struct nef_attrs){own_attrs.data, (uint32_t)own_attrs.bytes};
    }
    if (err == NEF_OK)
        err = stream_op(&c->stream, &op, out_run);
    nef_buf_free(&own_attrs);
    return err;
}

static enum nef_http_next answer(struct call *c)
{
    char etag[NEF_S3_ETAG_BYTES];

    (void)call_answer_empty(c, 200);
    nef_s3_etag_md5(c->intake.md5_value, etag);
    call_header_etag(c, etag);
    call_header_checksum(c, &c->intake.checksum_value);
    call_header_durability(c);
    return NEF_HTTP_ANSWERED;
}

enum nef_http_next put_step(struct call *c)
{
    struct nef_run run = {0};
    nef_err err;

    switch ((enum put_step)c->step) {
    case PUT_VERIFY:
        err = intake_end(c);
        if (err != NEF_OK)
            return give_up(c, err, true);
        c->step = PUT_PIECES;
        /* fall through */
    case PUT_PIECES:
        err = stream_finish(&c->stream);
        if (err == NEF_E_AGAIN)
            return NEF_HTTP_WAIT;
        if (err == NEF_OK)
            err = put_build(c, NULL, &run);
        if (err == NEF_OK)
            err = call_propose(c, &run);
        if (err != NEF_OK)
            return give_up(c, err, false);
        c->step = PUT_PROPOSED;
        return NEF_HTTP_WAIT;
    case PUT_PROPOSED:
        if (atomic_load_explicit(&c->proposal, memory_order_acquire) != PROPOSAL_DONE)
            return NEF_HTTP_WAIT;
        err = call_outcome(c);
        if (err == NEF_OK)
            stream_committed(&c->stream);
        stream_end(&c->stream);
        if (err == NEF_OK)
            return answer(c);
        c->step = PUT_REFUSED;
        return call_fail_write(c, err);
    case PUT_REFUSED:
        return atomic_load_explicit(&c->worked, memory_order_acquire) ? NEF_HTTP_ANSWERED
                                                                      : NEF_HTTP_WAIT;
    }
    return NEF_HTTP_DROP;
}
