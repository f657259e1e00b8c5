/* CopyObject and UploadPartCopy, in a worker: the source is read and verified piece by piece and
 * sealed anew under the target's own DEK, with the memory of one upload. The source is the version
 * that the look-up found; if it is overwritten meanwhile, its segments stay pinned by the reader.
 *
 * Metadata are the source's or, with REPLACE, the request's. An object isn't copied onto itself
 * unless that changes something, as S3 has it. */
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "base/trace.h"
#include "server/s3_internal.h"

/* ---- the body ---- */

static nef_err wait_room(struct stream *st, uint8_t **out, uint32_t *out_bytes)
{
    for (;;) {
        uint64_t seen = call_notices(st->call);
        nef_err err = stream_room(st, out, out_bytes);

        if (err != NEF_E_AGAIN)
            return err;
        call_wait_notice(st->call, seen);
    }
}

static nef_err wait_finish(struct stream *st)
{
    for (;;) {
        uint64_t seen = call_notices(st->call);
        nef_err err = stream_finish(st);

        if (err != NEF_E_AGAIN)
            return err;
        call_wait_notice(st->call, seen);
    }
}

/* Damage is repaired from the peer once per read; a second time in the same place is an error. */
static nef_err read_repairing(struct call *c, uint8_t *out, size_t max, size_t *out_bytes)
{
    nef_err err = nef_body_read(c->body, out, max, out_bytes, &c->bad_cell, &c->bad_offset);

    if (err != NEF_E_CORRUPT)
        return err;
    err = nef_runtime_repair(c->s->rt, c->bad_cell, c->bad_offset);
    nef_trace(NEF_TRACE_WARN, "read_met_damage", "s:id", c->id, "u:cell", (uint64_t)c->bad_cell,
              "u:offset", c->bad_offset, "e:repair", (int)err, NULL);
    if (err == NEF_OK)
        err = nef_body_read(c->body, out, max, out_bytes, &c->bad_cell, &c->bad_offset);
    return err == NEF_E_CORRUPT ? NEF_E_DAMAGED : err;
}

/* Copies [first, first + bytes) of SOURCE into c->stream; digests to c->intake. */
static nef_err copy_body(struct call *c, const struct nef_object *source, uint64_t first,
                         uint64_t bytes, enum nef_s3_checksum_kind kind)
{
    struct intake *in = &c->intake;
    uint64_t left = bytes;
    nef_err err;

    in->md5 = nef_hash_new(NEF_HASH_MD5);
    if (in->md5 == NULL)
        return NEF_E_NOMEM;
    if (kind != NEF_S3_CHECKSUM_NONE) {
        err = nef_s3_checksum_begin(&in->checksum, kind);
        if (err != NEF_OK)
            return err;
    }
    err = stream_begin(c, &c->stream, bytes);
    if (err == NEF_OK && bytes > 0)
        err = nef_body_open(c->s->store, source, first, bytes, &c->body);
    while (err == NEF_OK && left > 0) {
        uint8_t *room = NULL;
        uint32_t room_bytes = 0;
        size_t n = 0;

        err = wait_room(&c->stream, &room, &room_bytes);
        if (err == NEF_OK)
            err = read_repairing(c, room, (size_t)NEF_MIN(left, room_bytes), &n);
        if (err == NEF_OK && n == 0)
            err = NEF_E_CORRUPT; /* shorter than its row says */
        if (err != NEF_OK)
            break;
        nef_hash_update(in->md5, room, n);
        if (kind != NEF_S3_CHECKSUM_NONE)
            nef_s3_checksum_update(&in->checksum, room, n);
        stream_filled(&c->stream, (uint32_t)n);
        left -= n;
    }
    nef_body_close(c->body);
    c->body = NULL;
    if (err != NEF_OK)
        return err;
    nef_hash_final(in->md5, in->md5_value);
    if (kind != NEF_S3_CHECKSUM_NONE)
        nef_s3_checksum_end(&in->checksum, &in->checksum_value);
    return wait_finish(&c->stream);
}

/* ---- source and target ---- */

/* The source object, its conditions checked. False: answered. */
static bool find_source(struct call *c, struct nef_bucket *out_bucket)
{
    const struct nef_s3_request *r = &c->request;
    const char *condition = NULL;
    nef_err err = call_bucket_wait(c, r->source_bucket, out_bucket);

    if (err == NEF_OK)
        err = call_object_wait(c, out_bucket, r->source_key, r->source_key_bytes, &c->object);
    if (err != NEF_OK) {
        nef_s3_error_of(&c->why, err);
        if (c->why.code == NEF_S3_NO_SUCH_BUCKET)
            nef_s3_error_extra(&c->why, "BucketName", r->source_bucket);
        if (c->why.code == NEF_S3_NO_SUCH_KEY)
            nef_s3_error_extra(&c->why, "Key", r->source_key);
        (void)call_answer_why(c);
        return false;
    }
    if (nef_s3_condition_copy(&r->source_conditions, c->object->etag,
                              (int64_t)(c->object->modified_ms / 1000),
                              (int64_t)(nef_wall_ms() / 1000), &condition) != NEF_S3_VERDICT_GO) {
        (void)nef_s3_condition_refuse(condition, &c->why);
        (void)call_answer_why(c);
        return false;
    }
    return true;
}

/* Copy, propose, wait. False: answered. */
static bool copy_and_commit(struct call *c, uint64_t first, uint64_t bytes,
                            enum nef_s3_checksum_kind kind, const struct nef_attrs *attrs)
{
    struct nef_outcome outcome;
    struct nef_run run = {0};
    nef_err err;

    err = call_place(c, c->request.object_key, c->request.object_key_bytes);
    if (err == NEF_OK)
        err = call_check_durability(c);
    if (err == NEF_OK) {
        call_block(c, true);
        err = copy_body(c, c->object, first, bytes, kind);
        if (err == NEF_OK)
            err = put_build(c, attrs, &run);
        if (err == NEF_OK)
            err = nef_runtime_propose_wait(c->s->rt, &run, &outcome);
        if (err == NEF_OK)
            stream_committed(&c->stream);
        stream_end(&c->stream);
        call_block(c, false);
    }
    if (err != NEF_OK)
        (void)call_fail_write_wait(c, err);
    return err == NEF_OK;
}

void copy_object_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    enum nef_s3_checksum_kind kind = r->checksum_kind;
    struct nef_object *target = NULL;
    struct nef_bucket source_bucket;
    char etag[NEF_S3_ETAG_BYTES];
    uint64_t modified_ms = nef_wall_ms();
    struct nef_buf out = {0};

    if (!find_source(c, &source_bucket))
        return;
    if (nef_id_equal(&source_bucket.id, &c->bucket.id) && !r->metadata_replace &&
        r->source_key_bytes == r->object_key_bytes &&
        memcmp(r->source_key, r->object_key, r->object_key_bytes) == 0) {
        (void)call_refuse(
            c, NEF_S3_INVALID_REQUEST,
            "This copy request is illegal because it is trying to copy an object to itself "
            "without changing the object's metadata, storage class, website redirect "
            "location or encryption attributes.");
        return;
    }
    if (c->object->size > NEF_PUT_BYTES_MAX) {
        (void)call_refuse(
            c, NEF_S3_INVALID_REQUEST,
            "The specified copy source is larger than the maximum allowable size for a copy "
            "source: 5368709120");
        return;
    }
    if (kind == NEF_S3_CHECKSUM_NONE)
        kind = (enum nef_s3_checksum_kind)c->object->checksum.kind;
    if (!copy_and_commit(c, 0, c->object->size, kind,
                         r->metadata_replace ? NULL : &c->object->attrs))
        return;
    /* The op was applied here: its time is in the row, unless it was overwritten already. */
    if (nef_store_object(c->s->store, &c->bucket, r->object_key, r->object_key_bytes, &target) ==
        NEF_OK) {
        modified_ms = target->modified_ms;
        nef_object_free(target);
    }
    nef_s3_etag_md5(c->intake.md5_value, etag);
    nef_s3_xml_copy_object(&out, etag, (int64_t)modified_ms, &c->intake.checksum_value);
    (void)call_answer_xml(c, 200, &out);
    call_header_durability(c);
}

void copy_part_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    uint64_t first = 0, bytes;
    struct nef_upload *upload = NULL;
    struct nef_bucket source_bucket;
    struct nef_read read = {0};
    struct nef_id id;
    enum nef_s3_checksum_kind kind;
    char etag[NEF_S3_ETAG_BYTES];
    struct nef_buf out = {0};
    nef_err err = nef_s3_upload_id_parse(r->upload_id, &id, &c->why);

    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    err = call_place(c, r->object_key, r->object_key_bytes);
    if (err == NEF_OK)
        err = nef_runtime_read_wait(c->s->rt, c->cell, c->tag, &read);
    if (err == NEF_OK)
        err = nef_store_upload(c->s->store, &c->bucket, r->object_key, r->object_key_bytes, &id,
                               &upload);
    if (err != NEF_OK) {
        (void)call_fail(c, err);
        return;
    }
    kind = (enum nef_s3_checksum_kind)upload->checksum.kind;
    nef_upload_free(upload);
    if (!find_source(c, &source_bucket))
        return;
    bytes = c->object->size;
    if (r->has_source_range) {
        if (r->source_last < r->source_first || r->source_last >= c->object->size) {
            (void)nef_s3_refuse(&c->why, NEF_S3_INVALID_ARGUMENT,
                                "Range specified is not valid for source object of size: %llu",
                                (unsigned long long)c->object->size);
            (void)call_answer_why(c);
            return;
        }
        first = r->source_first;
        bytes = r->source_last - r->source_first + 1;
    }
    if (bytes > NEF_PUT_BYTES_MAX) {
        (void)call_refuse(c, NEF_S3_ENTITY_TOO_LARGE, NULL);
        return;
    }
    if (!copy_and_commit(c, first, bytes, kind, NULL))
        return;
    nef_s3_etag_md5(c->intake.md5_value, etag);
    nef_s3_xml_copy_part(&out, etag, (int64_t)nef_wall_ms(), &c->intake.checksum_value);
    (void)call_answer_xml(c, 200, &out);
    call_header_durability(c);
}
