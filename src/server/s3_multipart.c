/* Multipart uploads: create, complete, abort; in a worker. Their parts are put by s3_put.c and
 * s3_copy.c.
 *
 * Completing copies nothing: the op names the parts, and the object's row takes over their streams.
 * What the client named is checked twice: here against the index, for S3's error messages and the
 * checksum, and when the op is applied, which is what counts. A complete that is repeated after a
 * lost answer finds no upload; if the object is what it would have made, it is answered like the
 * first. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "server/s3_internal.h"

static nef_err propose_wait(struct call *c, struct nef_op *op)
{
    struct nef_outcome outcome;
    struct nef_run run = {0};
    uint8_t dek[NEF_KEY_BYTES];
    nef_err err;

    op->bucket_key = c->bucket.id;
    nef_random(dek, sizeof(dek));
    err = nef_run_op(c->s->keys, op, c->cell, dek, c->tag, NULL, 0, &run);
    nef_wipe(dek, sizeof(dek));
    if (err == NEF_OK)
        err = nef_runtime_propose_wait(c->s->rt, &run, &outcome);
    return err;
}

void upload_create_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    enum nef_s3_checksum_type type = NEF_S3_CHECKSUM_TYPE_NONE;
    struct nef_op op = {.type = NEF_RECORD_UPLOAD_CREATE};
    char id[NEF_S3_UPLOAD_ID_BYTES];
    struct nef_buf attrs = {0}, out = {0};
    nef_err err;

    if (r->checksum_kind != NEF_S3_CHECKSUM_NONE) {
        err = nef_s3_checksum_multipart_type(r->checksum_kind, r->checksum_type, &type);
        if (err != NEF_OK) {
            (void)call_refuse(c, NEF_S3_INVALID_REQUEST,
                              "The checksum type can't be used with that checksum algorithm.");
            return;
        }
    }
    call_attrs(c, &attrs);
    err = nef_buf_end(&attrs);
    if (err == NEF_OK)
        err = call_place(c, r->object_key, r->object_key_bytes);
    if (err == NEF_OK)
        err = call_check_durability(c);
    if (err == NEF_OK) {
        nef_random(&op.stream, sizeof(op.stream));
        op.u.upload_create = (struct nef_op_upload_create){
            .bucket = c->bucket.id,
            .key = {r->object_key, (uint32_t)r->object_key_bytes},
            .attrs = {attrs.data, (uint32_t)attrs.bytes},
            .checksum = {.kind = (uint8_t)r->checksum_kind,
                         .scope = type == NEF_S3_CHECKSUM_COMPOSITE ? NEF_CHECKSUM_COMPOSITE
                                                                    : NEF_CHECKSUM_FULL_OBJECT},
            .owner = {c->who.name, (uint32_t)strlen(c->who.name)}};
        err = propose_wait(c, &op);
    }
    nef_buf_free(&attrs);
    if (err != NEF_OK) {
        (void)call_fail_write_wait(c, err);
        return;
    }
    nef_s3_upload_id_text(&op.stream, id);
    nef_s3_xml_initiate(&out, r->bucket, r->object_key, r->object_key_bytes, id);
    (void)call_answer_xml(c, 200, &out);
    if (r->checksum_kind != NEF_S3_CHECKSUM_NONE) {
        call_header(c, "x-amz-checksum-algorithm", nef_s3_checksum_name(r->checksum_kind));
        call_header(c, "x-amz-checksum-type", nef_s3_checksum_type_name(type));
    }
    call_header_durability(c);
}

void upload_abort_work(struct call *c)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_op op = {.type = NEF_RECORD_UPLOAD_ABORT};
    nef_err err;

    op.u.upload_abort.bucket = c->bucket.id;
    op.u.upload_abort.key = (struct nef_text){r->object_key, (uint32_t)r->object_key_bytes};
    err = nef_s3_upload_id_parse(r->upload_id, &op.u.upload_abort.upload, &c->why);
    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    nef_random(&op.stream, sizeof(op.stream));
    err = call_place(c, r->object_key, r->object_key_bytes);
    if (err == NEF_OK)
        err = propose_wait(c, &op);
    if (err != NEF_OK) {
        (void)call_fail_write_wait(c, err);
        return;
    }
    (void)call_answer_empty(c, 204);
    call_header_durability(c);
}

/* ---- complete ---- */

struct completing {
    struct nef_s3_complete named;
    struct nef_upload *upload;
    struct nef_s3_part_stored *stored;
    uint32_t stored_count, stored_capacity;
    uint32_t *chosen;
    uint8_t *md5s;  /* 16 a part */
    uint8_t *parts; /* as the op wants them: u32 LE, 16 */
    uint64_t bytes;
    char etag[NEF_S3_ETAG_BYTES];
    struct nef_s3_checksum_value checksum;
    bool failed;
};

static bool keep_part(void *context, const struct nef_part *part)
{
    struct completing *w = context;
    struct nef_s3_part_stored *s;

    if (w->stored_count == w->stored_capacity) {
        uint32_t capacity = w->stored_capacity == 0 ? 64 : w->stored_capacity * 2;
        struct nef_s3_part_stored *more = realloc(w->stored, capacity * sizeof(*more));

        if (more == NULL) {
            w->failed = true;
            return false;
        }
        w->stored = more;
        w->stored_capacity = capacity;
    }
    s = &w->stored[w->stored_count++];
    *s = (struct nef_s3_part_stored){.number = part->part, .bytes = part->size};
    memcpy(s->md5, part->md5, sizeof(s->md5));
    s->checksum = checksum_of_store(&part->checksum, 0);
    return w->stored_count < NEF_PART_COUNT_MAX;
}

/* What is stored of the upload, read behind the gate of its key. */
static nef_err load(struct call *c, struct completing *w, const struct nef_id *id)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_read read = {0};
    nef_err err = nef_runtime_read_wait(c->s->rt, c->cell, c->tag, &read);

    if (err == NEF_OK)
        err = nef_store_upload(c->s->store, &c->bucket, r->object_key, r->object_key_bytes, id,
                               &w->upload);
    if (err == NEF_OK)
        err = nef_store_parts(c->s->store, w->upload, 0, keep_part, w);
    return err == NEF_OK && w->failed ? NEF_E_NOMEM : err;
}

/* The object's checksum from its parts'; compares it with what the request says. */
static nef_err combine(struct call *c, struct completing *w)
{
    enum nef_s3_checksum_kind kind = (enum nef_s3_checksum_kind)w->upload->checksum.kind;
    const struct nef_s3_checksum_value *promised = &c->request.checksum;
    struct nef_s3_checksum_combiner combiner = {0};
    nef_err err;

    if (kind == NEF_S3_CHECKSUM_NONE)
        return NEF_OK;
    err = nef_s3_checksum_combine_begin(&combiner, kind,
                                        w->upload->checksum.scope == NEF_CHECKSUM_COMPOSITE
                                            ? NEF_S3_CHECKSUM_COMPOSITE
                                            : NEF_S3_CHECKSUM_FULL_OBJECT);
    if (err != NEF_OK)
        goto out;
    for (size_t i = 0; i < w->named.part_count; i++) {
        const struct nef_s3_part_stored *s = &w->stored[w->chosen[i]];

        if (s->checksum.kind != kind) {
            err = nef_s3_refuse(&c->why, NEF_S3_INVALID_PART, NULL);
            goto out_filled;
        }
        nef_s3_checksum_combine_part(&combiner, &s->checksum, s->bytes);
    }
    nef_s3_checksum_combine_end(&combiner, &w->checksum);
    if (promised->kind != NEF_S3_CHECKSUM_NONE &&
        (promised->kind != kind ||
         memcmp(promised->bytes, w->checksum.bytes, nef_s3_checksum_bytes(kind)) != 0)) {
        err = nef_s3_refuse(&c->why, NEF_S3_BAD_DIGEST, NULL);
        goto out_filled;
    }
out:
    if (err != NEF_OK)
        nef_s3_error_of(&c->why, err);
out_filled:
    nef_s3_checksum_combine_free(&combiner);
    return err;
}

/* Checks the client's list and makes the op's. c->why is filled on failure. */
static nef_err choose(struct call *c, struct completing *w)
{
    size_t count = w->named.part_count;
    nef_err err;

    w->chosen = calloc(count, sizeof(*w->chosen));
    w->md5s = malloc(count * 16);
    w->parts = malloc(count * 20);
    if (w->chosen == NULL || w->md5s == NULL || w->parts == NULL) {
        nef_s3_error_of(&c->why, NEF_E_NOMEM);
        return NEF_E_NOMEM;
    }
    err = nef_s3_multipart_check(w->named.parts, count, w->stored, w->stored_count,
                                 c->request.upload_id, w->chosen, &w->bytes, &c->why);
    if (err != NEF_OK)
        return err;
    if (c->request.multipart_object_bytes >= 0 &&
        (uint64_t)c->request.multipart_object_bytes != w->bytes)
        return nef_s3_refuse(&c->why, NEF_S3_INVALID_REQUEST,
                             "The provided 'x-amz-mp-object-size' header does not match what was "
                             "computed.");
    for (size_t i = 0; i < count; i++) {
        const struct nef_s3_part_stored *s = &w->stored[w->chosen[i]];
        struct nef_writer out = nef_writer_of(w->parts + i * 20, 20);

        nef_write_u32(&out, s->number);
        nef_write_copy(&out, s->md5, 16);
        memcpy(w->md5s + i * 16, s->md5, 16);
    }
    nef_s3_etag_multipart(w->md5s, count, w->etag);
    return combine(c, w);
}

/* No such upload: is the object there that this very list would have made? */
static bool done_before(struct call *c, const struct completing *w)
{
    size_t count = w->named.part_count;
    struct nef_object *object = NULL;
    char etag[NEF_S3_ETAG_BYTES];
    bool same = false;
    uint8_t *md5s = malloc(count * 16);

    if (md5s == NULL)
        return false;
    for (size_t i = 0; i < count; i++)
        if (nef_unhex(w->named.parts[i].etag, strlen(w->named.parts[i].etag), md5s + i * 16, 16) !=
            NEF_OK)
            goto out;
    nef_s3_etag_multipart(md5s, count, etag);
    if (nef_store_object(c->s->store, &c->bucket, c->request.object_key,
                         c->request.object_key_bytes, &object) == NEF_OK)
        same = object->multipart && strcmp(object->etag, etag) == 0;
    nef_object_free(object);
out:
    free(md5s);
    return same;
}

static void answer(struct call *c, const char *etag, const struct nef_s3_checksum_value *checksum)
{
    struct nef_buf location = {0}, out = {0};

    nef_buf_text(&location, c->s->tls ? "https://" : "http://");
    nef_buf_text(&location, c->host[0] != '\0' ? c->host : "localhost");
    nef_buf_text(&location, "/");
    nef_s3_xml_url(&location, c->request.bucket, strlen(c->request.bucket));
    nef_buf_text(&location, "/");
    nef_s3_xml_url(&location, c->request.object_key, c->request.object_key_bytes);
    nef_s3_xml_complete(&out, nef_buf_cstr(&location), c->request.bucket, c->request.object_key,
                        c->request.object_key_bytes, etag, checksum);
    nef_buf_free(&location);
    (void)call_answer_xml(c, 200, &out);
    call_header_durability(c);
}

static void complete(struct call *c, struct completing *w)
{
    const struct nef_s3_request *r = &c->request;
    struct nef_op op = {.type = NEF_RECORD_UPLOAD_COMPLETE};
    struct nef_id id;
    nef_err err = nef_s3_upload_id_parse(r->upload_id, &id, &c->why);

    if (err == NEF_OK)
        err = nef_s3_xml_parse_complete(c->xml.data, c->xml.bytes, &w->named, &c->why);
    if (err != NEF_OK) {
        (void)call_answer_why(c);
        return;
    }
    err = call_place(c, r->object_key, r->object_key_bytes);
    if (err == NEF_OK)
        err = call_check_durability(c);
    if (err == NEF_OK)
        err = load(c, w, &id);
    if (err == NEF_OK) {
        err = choose(c, w);
        if (err != NEF_OK) {
            (void)call_answer_why(c);
            return;
        }
        nef_random(&op.stream, sizeof(op.stream));
        op.u.upload_complete =
            (struct nef_op_upload_complete){.bucket = c->bucket.id,
                                            .key = {r->object_key, (uint32_t)r->object_key_bytes},
                                            .upload = id,
                                            .checksum = checksum_to_store(&w->checksum),
                                            .condition = call_condition(c),
                                            .part_count = (uint32_t)w->named.part_count,
                                            .parts = w->parts};
        memcpy(op.u.upload_complete.etag, w->etag, sizeof(w->etag));
        err = propose_wait(c, &op);
    }
    if (err == NEF_E_NO_UPLOAD && done_before(c, w)) {
        struct nef_object *object = NULL;

        if (nef_store_object(c->s->store, &c->bucket, r->object_key, r->object_key_bytes,
                             &object) == NEF_OK) {
            struct nef_s3_checksum_value v =
                checksum_of_store(&object->checksum, object->part_count);

            answer(c, object->etag, &v);
            nef_object_free(object);
            return;
        }
    }
    if (err != NEF_OK)
        (void)call_fail_write_wait(c, err);
    else
        answer(c, w->etag, &w->checksum);
}

void upload_complete_work(struct call *c)
{
    struct completing w = {0};

    complete(c, &w);
    nef_s3_complete_free(&w.named);
    nef_upload_free(w.upload);
    free(w.stored);
    free(w.chosen);
    free(w.md5s);
    free(w.parts);
}
