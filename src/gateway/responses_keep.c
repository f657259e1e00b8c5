/* See responses_keep.h. */
#include "gateway/responses_keep.h"
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "crypto/crypto.h"
#include "gateway/responses.h"
#include "server/region_ops.h"

#define REPAIRS_MAX 4u
#define TRIES_MAX   3u /* of a read whose lease went meanwhile */

/* ---- writing ---- */

static nef_err bucket_of(struct nef_keep *keep, struct nef_bucket *out)
{
    nef_err err = nef_store_bucket(nef_runtime_store(keep->rt), NEF_RESPONSES_BUCKET, out);

    return err == NEF_OK && out->closed ? NEF_E_NO_BUCKET : err;
}

static nef_err bucket_make(struct nef_keep *keep, struct nef_bucket *out)
{
    struct nef_read read = {0};
    nef_err err = bucket_of(keep, out);

    if (err != NEF_E_NO_BUCKET)
        return err;
    (void)pthread_mutex_lock(&keep->lock);
    err = nef_runtime_read_wait(keep->rt, UINT32_MAX, NULL, &read);
    if (err == NEF_OK)
        err = bucket_of(keep, out);
    if (err == NEF_E_NO_BUCKET) {
        err = nef_region_bucket_create(keep->rt, keep->keys, keep->cells, NEF_RESPONSES_BUCKET, "root", 0);
        if (err == NEF_OK || err == NEF_E_EXISTS) { /* the other zone was quicker: wait until it is here */
            err = nef_runtime_read_wait(keep->rt, UINT32_MAX, NULL, &read);
            if (err == NEF_OK)
                err = bucket_of(keep, out);
        }
    }
    (void)pthread_mutex_unlock(&keep->lock);
    return err;
}

struct body {
    char *text; /* malloc'd by jansson */
    size_t bytes;
};

static nef_err body_of(const json_t *value, struct body *out)
{
    out->text = json_dumps(value, JSON_COMPACT);
    if (out->text == NULL)
        return NEF_E_NOMEM;
    out->bytes = strlen(out->text);
    return NEF_OK;
}

static void body_free(struct body *b)
{
    if (b->text == NULL)
        return;
    nef_wipe(b->text, b->bytes);
    free(b->text);
}

static void op_of(const struct nef_bucket *bucket, const char *name, const struct body *body, bool once,
                  struct nef_op *op)
{
    uint8_t md5[16];

    memset(op, 0, sizeof(*op));
    op->type = NEF_RECORD_OBJECT_PUT;
    op->bucket_key = bucket->id;
    nef_random(&op->stream, sizeof(op->stream));
    op->u.object_put = (struct nef_op_object_put){.bucket = bucket->id,
                                                  .key = {name, (uint32_t)strlen(name)},
                                                  .size = body->bytes,
                                                  .condition = {.none = once},
                                                  .inline_body = body->bytes <= NEF_INLINE_BYTES_MAX};
    nef_hash_of(NEF_HASH_MD5, body->text, body->bytes, md5);
    nef_hex(md5, sizeof(md5), op->u.object_put.etag);
}

/* The op, whose body lies in it or was proposed before. */
static nef_err op_run(struct nef_keep *keep, const struct nef_op *op, const uint8_t dek[NEF_KEY_BYTES],
                      const struct body *body, struct nef_run *out_run)
{
    const struct nef_op_object_put *put = &op->u.object_put;
    uint8_t tag[16], *cipher = NULL;
    nef_err err = nef_store_tag(nef_runtime_store(keep->rt), &put->bucket, put->key.data, put->key.bytes, tag);
    uint32_t bytes = (uint32_t)body->bytes, cell;

    if (err != NEF_OK)
        return err;
    cell = nef_store_cell(nef_runtime_store(keep->rt), &put->bucket, put->key.data, put->key.bytes);
    if (put->inline_body) {
        cipher = malloc(bytes + NEF_TAG_BYTES);
        if (cipher == NULL)
            return NEF_E_NOMEM;
        nef_piece_seal(&put->bucket, &op->stream, dek, 0, true, (const uint8_t *)body->text, bytes, cipher);
    }
    err = nef_run_op(keep->keys, op, cell, dek, tag, cipher, cipher == NULL ? 0 : bytes + NEF_TAG_BYTES, out_run);
    free(cipher);
    return err;
}

nef_err nef_keep_run(struct nef_keep *keep, const char *name, const json_t *value, bool once, struct nef_run *out_run)
{
    struct nef_bucket bucket;
    struct body body = {0};
    uint8_t dek[NEF_KEY_BYTES];
    struct nef_op op;
    nef_err err = bucket_of(keep, &bucket);

    if (err == NEF_OK)
        err = body_of(value, &body);
    if (err == NEF_OK && body.bytes > NEF_INLINE_BYTES_MAX)
        err = NEF_E_LIMIT;
    if (err == NEF_OK) {
        nef_random(dek, sizeof(dek));
        op_of(&bucket, name, &body, once, &op);
        err = op_run(keep, &op, dek, &body, out_run);
        nef_wipe(dek, sizeof(dek));
    }
    body_free(&body);
    return err;
}

/* The pieces of a body that doesn't fit in its op, one after the other. */
static nef_err propose_pieces(struct nef_keep *keep, const struct nef_op *op, const uint8_t dek[NEF_KEY_BYTES],
                              const struct body *body)
{
    const struct nef_op_object_put *put = &op->u.object_put;
    struct nef_store *store = nef_runtime_store(keep->rt);
    uint32_t cell = nef_store_cell(store, &put->bucket, put->key.data, put->key.bytes), piece = 0;
    uint8_t tag[16];
    nef_err err = nef_store_tag(store, &put->bucket, put->key.data, put->key.bytes, tag);

    for (size_t at = 0; err == NEF_OK && at < body->bytes; piece++) {
        uint32_t bytes = (uint32_t)NEF_MIN(body->bytes - at, (size_t)NEF_PIECE_BYTES);
        struct nef_run run = {0};

        err = nef_run_piece(&put->bucket, &op->stream, dek, piece, at + bytes == body->bytes, tag, cell,
                            (const uint8_t *)body->text + at, bytes, &run);
        if (err == NEF_OK)
            err = nef_runtime_propose_wait(keep->rt, &run, NULL);
        at += bytes;
    }
    return err;
}

nef_err nef_keep_put(struct nef_keep *keep, const char *name, const json_t *value, bool once)
{
    struct nef_bucket bucket;
    struct body body = {0};
    uint8_t dek[NEF_KEY_BYTES];
    struct nef_run run = {0};
    struct nef_op op;
    nef_err err = bucket_make(keep, &bucket);

    if (err == NEF_OK)
        err = body_of(value, &body);
    if (err != NEF_OK)
        return err;
    nef_random(dek, sizeof(dek));
    op_of(&bucket, name, &body, once, &op);
    if (!op.u.object_put.inline_body)
        err = propose_pieces(keep, &op, dek, &body);
    if (err == NEF_OK)
        err = op_run(keep, &op, dek, &body, &run);
    if (err == NEF_OK)
        err = nef_runtime_propose_wait(keep->rt, &run, NULL);
    nef_wipe(dek, sizeof(dek));
    body_free(&body);
    return err;
}

nef_err nef_keep_delete(struct nef_keep *keep, const char *name)
{
    struct nef_store *store = nef_runtime_store(keep->rt);
    struct nef_op op = {.type = NEF_RECORD_OBJECT_DELETE};
    struct nef_bucket bucket;
    uint8_t dek[NEF_KEY_BYTES], tag[16];
    struct nef_run run = {0};
    nef_err err = bucket_of(keep, &bucket);

    if (err != NEF_OK)
        return err == NEF_E_NO_BUCKET ? NEF_OK : err;
    op.bucket_key = bucket.id;
    op.u.object_delete = (struct nef_op_object_delete){.bucket = bucket.id, .key = {name, (uint32_t)strlen(name)}};
    nef_random(&op.stream, sizeof(op.stream));
    nef_random(dek, sizeof(dek));
    err = nef_store_tag(store, &bucket.id, name, strlen(name), tag);
    if (err == NEF_OK)
        err =
            nef_run_op(keep->keys, &op, nef_store_cell(store, &bucket.id, name, strlen(name)), dek, tag, NULL, 0, &run);
    nef_wipe(dek, sizeof(dek));
    if (err == NEF_OK)
        err = nef_runtime_propose_wait(keep->rt, &run, NULL);
    return err == NEF_E_NOT_FOUND ? NEF_OK : err;
}

/* ---- reading ---- */

static nef_err read_body(struct nef_keep *keep, const struct nef_object *object, struct nef_buf *out)
{
    struct nef_body *body = NULL;
    uint32_t repairs = 0;
    uint8_t *at;
    nef_err err;

    if (object->size > NEF_BUF_MAX)
        return NEF_E_LIMIT;
    if (object->size == 0)
        return NEF_OK;
    at = nef_buf_grow(out, (size_t)object->size);
    if (at == NULL)
        return NEF_E_NOMEM;
    err = nef_body_open(nef_runtime_store(keep->rt), object, 0, object->size, &body);
    for (size_t got = 0; err == NEF_OK && got < object->size;) {
        uint32_t bad_cell = 0;
        uint64_t bad_offset = 0;
        size_t bytes = 0;

        err = nef_body_read(body, at + got, (size_t)object->size - got, &bytes, &bad_cell, &bad_offset);
        got += bytes;
        if (err == NEF_E_CORRUPT && repairs++ < REPAIRS_MAX)
            err = nef_runtime_repair(keep->rt, bad_cell, bad_offset);
        else if (err == NEF_OK && bytes == 0)
            err = NEF_E_CORRUPT;
    }
    nef_body_close(body);
    return err;
}

static nef_err find(struct nef_keep *keep, const char *name, struct nef_object **out)
{
    struct nef_bucket bucket;
    nef_err err = bucket_of(keep, &bucket);

    if (err == NEF_E_NO_BUCKET)
        return NEF_E_NOT_FOUND;
    return err != NEF_OK ? err : nef_store_object(nef_runtime_store(keep->rt), &bucket, name, strlen(name), out);
}

/* The cell whose state an answer about NAME stands on; all of them if there is no bucket here yet. */
static nef_err wait_for(struct nef_keep *keep, const char *name, struct nef_read *read)
{
    struct nef_bucket bucket;
    uint8_t tag[16];
    nef_err err = bucket_of(keep, &bucket);

    if (err == NEF_E_NO_BUCKET)
        return nef_runtime_read_wait(keep->rt, UINT32_MAX, NULL, read);
    if (err == NEF_OK)
        err = nef_store_tag(nef_runtime_store(keep->rt), &bucket.id, name, strlen(name), tag);
    if (err == NEF_OK)
        err = nef_runtime_read_wait(
            keep->rt, nef_store_cell(nef_runtime_store(keep->rt), &bucket.id, name, strlen(name)), tag, read);
    return err;
}

nef_err nef_keep_get(struct nef_keep *keep, const char *name, bool fresh, json_t **out_value)
{
    struct nef_object *object = NULL;
    struct nef_buf body = {0};
    json_error_t error;
    json_t *value;
    nef_err err = NEF_OK;

    for (uint32_t tries = 0; tries < TRIES_MAX; tries++) {
        struct nef_read read = {0};

        if (fresh)
            err = wait_for(keep, name, &read);
        if (err != NEF_OK)
            return err;
        err = find(keep, name, &object);
        if (!fresh || nef_runtime_read_done(keep->rt, &read) == NEF_OK)
            break;
        nef_object_free(object);
        object = NULL;
        err = NEF_E_UNAVAILABLE;
    }
    if (err == NEF_OK)
        err = read_body(keep, object, &body);
    nef_object_free(object);
    if (err == NEF_OK) {
        value = json_loadb((const char *)body.data, body.bytes, JSON_ALLOW_NUL, &error);
        err = value == NULL ? NEF_E_PROTOCOL : NEF_OK;
        if (value != NULL)
            *out_value = value;
    }
    nef_buf_free(&body);
    return err;
}

nef_err nef_keep_list(struct nef_keep *keep, const char *prefix, const char *after,
                      bool (*visit)(void *context, const char *name), void *context)
{
    char at[NEF_KEEP_NAME_BYTES] = "";
    bool more = true;
    struct nef_bucket bucket;
    nef_err err = bucket_of(keep, &bucket);

    if (err == NEF_E_NO_BUCKET)
        return NEF_OK;
    if (strlen(after) < sizeof(at))
        (void)strcpy(at, after);
    while (err == NEF_OK && more) {
        struct nef_list_query query = {
            .prefix = {prefix, (uint32_t)strlen(prefix)}, .after = {at, (uint32_t)strlen(at)}, .max = NEF_LIST_MAX};
        struct nef_list list;

        err = nef_store_list(nef_runtime_store(keep->rt), &bucket, &query, &list);
        if (err != NEF_OK)
            break;
        for (uint32_t i = 0; i < list.count && more; i++) {
            if (list.entries[i].key_bytes >= sizeof(at))
                continue; /* none of ours */
            memcpy(at, list.entries[i].key, list.entries[i].key_bytes);
            at[list.entries[i].key_bytes] = '\0';
            more = visit(context, at);
        }
        more = more && list.truncated && list.count > 0;
        nef_list_free(&list);
    }
    return err;
}
