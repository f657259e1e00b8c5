/* Building runs, and sealing and opening what is in them; see op.h.
 *
 * A run is one malloc: the sizes are known before, fields are encoded at the place where they will lie
 * and sealed there, pieces are sealed from the caller's buffer straight into the record. A leaf hash needs
 * 33 bytes before the plain fields; they are written where the record's header comes afterwards.
 *
 * Nonces under a DEK are (purpose, number): a piece's number, or 0 for fields. They never repeat because a
 * DEK serves one stream and one op; a change of metadata takes a fresh DEK. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/logaddr.h"
#include "store/op_internal.h"

#define PIECE_AAD_BYTES 41u /* bucket id, stream id, u64 piece, u8 last */
#define OP_AAD_BYTES    34u /* u16 type, bucket-key id, stream id */
#define LEAF_HEAD_BYTES 33u /* 0x00, salt */

_Static_assert(NEF_PIECE_BYTES + NEF_TAG_BYTES <= NEF_RECORD_BODY_MAX, "a piece fits a record");
_Static_assert(LEAF_HEAD_BYTES <= NEF_RECORD_HEADER_BYTES, "the leaf's head fits before the fields");

void nef_run_free(struct nef_run *run)
{
    if (run == NULL)
        return;
    free(run->data); /* only ciphertext and what is in clear anyway */
    *run = (struct nef_run){0};
}

static void set_nonce(uint8_t nonce[NEF_GCM_NONCE_BYTES], uint32_t purpose, uint64_t number)
{
    struct nef_writer w = nef_writer_of(nonce, NEF_GCM_NONCE_BYTES);

    nef_write_u32(&w, purpose);
    nef_write_u64(&w, number);
    NEF_ASSERT(!w.failed && w.at == NEF_GCM_NONCE_BYTES);
}

/* ---- pieces ---- */

static void set_piece_aad(uint8_t aad[PIECE_AAD_BYTES], const struct nef_id *bucket,
                          const struct nef_id *stream, uint32_t piece, bool last)
{
    struct nef_writer w = nef_writer_of(aad, PIECE_AAD_BYTES);

    nef_write_copy(&w, bucket->bytes, 16);
    nef_write_copy(&w, stream->bytes, 16);
    nef_write_u64(&w, piece);
    nef_write_u8(&w, last ? 1 : 0);
    NEF_ASSERT(!w.failed && w.at == PIECE_AAD_BYTES);
}

void nef_piece_seal(const struct nef_id *bucket, const struct nef_id *stream, const uint8_t dek[32],
                    uint32_t piece, bool last, const uint8_t *plain, uint32_t bytes, uint8_t *out)
{
    uint8_t nonce[NEF_GCM_NONCE_BYTES], aad[PIECE_AAD_BYTES];

    NEF_ASSERT(bytes >= 1 && bytes <= NEF_PIECE_BYTES);
    set_nonce(nonce, NEF_PURPOSE_PIECE, piece);
    set_piece_aad(aad, bucket, stream, piece, last);
    /* A seal fails only if OpenSSL can't allocate this thread's contexts: nothing can go on then. */
    NEF_ASSERT(nef_gcm_seal(dek, nonce, aad, sizeof(aad), plain, bytes, out) == NEF_OK);
}

nef_err nef_piece_open(const struct nef_id *bucket, const struct nef_id *stream,
                       const uint8_t dek[32], uint32_t piece, bool last, const uint8_t *cipher,
                       uint32_t bytes, uint8_t *out)
{
    uint8_t nonce[NEF_GCM_NONCE_BYTES], aad[PIECE_AAD_BYTES];

    set_nonce(nonce, NEF_PURPOSE_PIECE, piece);
    set_piece_aad(aad, bucket, stream, piece, last);
    return nef_gcm_open(dek, nonce, aad, sizeof(aad), cipher, bytes, out);
}

/* A run of one DATA record whose ciphertext may lie in its place already. */
static void fill_data_run(const struct nef_record *record, const uint8_t *cipher, struct nef_run *run)
{
    run->bytes = (uint32_t)nef_record_bytes(record->body_bytes);
    run->cell = record->cell;
    memcpy(run->tag, record->key_tag, sizeof(run->tag));
    nef_record_encode(record, cipher, 0, run->data);
}

nef_err nef_run_piece(const struct nef_id *bucket, const struct nef_id *stream,
                      const uint8_t dek[32], uint32_t piece, bool last, const uint8_t tag[16],
                      uint32_t cell, const uint8_t *plain, uint32_t bytes, struct nef_run *out_run)
{
    struct nef_record record = {.type = NEF_RECORD_DATA,
                                .flags = NEF_RECORD_LAST,
                                .cell = cell,
                                .body_bytes = bytes + NEF_TAG_BYTES,
                                .stream = *stream,
                                .piece = piece};
    struct nef_run run = {0};
    uint8_t *cipher;

    NEF_ASSERT(bytes >= 1 && bytes <= NEF_PIECE_BYTES);
    run.data = malloc(nef_record_bytes(record.body_bytes));
    if (run.data == NULL)
        return NEF_E_NOMEM;
    memcpy(record.bucket_key_id, bucket->bytes, 16);
    if (tag != NULL)
        memcpy(record.key_tag, tag, 16);
    cipher = run.data + NEF_RECORD_HEADER_BYTES;
    nef_piece_seal(bucket, stream, dek, piece, last, plain, bytes, cipher);
    fill_data_run(&record, cipher, &run);
    *out_run = run;
    return NEF_OK;
}

nef_err nef_run_cipher(const struct nef_id *stream, const uint8_t bucket_key[16], uint32_t piece,
                       uint32_t cell, const uint8_t *cipher, uint32_t bytes, struct nef_run *out_run)
{
    struct nef_record record = {.type = NEF_RECORD_DATA,
                                .flags = NEF_RECORD_LAST,
                                .cell = cell,
                                .body_bytes = bytes,
                                .stream = *stream,
                                .piece = piece};
    struct nef_run run = {.frees_space = true}; /* the segment it leaves can go */

    NEF_ASSERT(bytes > NEF_TAG_BYTES && bytes <= NEF_PIECE_BYTES + NEF_TAG_BYTES);
    run.data = malloc(nef_record_bytes(record.body_bytes));
    if (run.data == NULL)
        return NEF_E_NOMEM;
    memcpy(record.bucket_key_id, bucket_key, 16);
    fill_data_run(&record, cipher, &run);
    *out_run = run;
    return NEF_OK;
}

/* ---- ops ---- */

static void set_op_aad(uint8_t aad[OP_AAD_BYTES], uint16_t type, const struct nef_id *bucket_key,
                       const struct nef_id *stream)
{
    struct nef_writer w = nef_writer_of(aad, OP_AAD_BYTES);

    nef_write_u16(&w, type);
    nef_write_copy(&w, bucket_key->bytes, 16);
    nef_write_copy(&w, stream->bytes, 16);
    NEF_ASSERT(!w.failed && w.at == OP_AAD_BYTES);
}

/* RFC 6962's leaf hash over salt and fields. HEAD is followed by the plain fields. For a clear op (dek
 * NULL) there is no salt: then only the byte before the fields is used. */
static void leaf_hash(const uint8_t *dek, uint8_t *head, size_t field_bytes, uint8_t out_leaf[32])
{
    if (dek == NULL) {
        head[LEAF_HEAD_BYTES - 1] = 0;
        nef_hash_of(NEF_HASH_SHA256, head + LEAF_HEAD_BYTES - 1, 1 + field_bytes, out_leaf);
        return;
    }
    head[0] = 0;
    nef_hmac_sha256(dek, NEF_KEY_BYTES, "nef leaf salt", 13, head + 1);
    nef_hash_of(NEF_HASH_SHA256, head, LEAF_HEAD_BYTES + field_bytes, out_leaf);
}

static bool frees_space(uint16_t type)
{
    switch (type) {
    case NEF_RECORD_BUCKET_CLOSE:
    case NEF_RECORD_BUCKET_REOPEN:
    case NEF_RECORD_BUCKET_DELETE:
    case NEF_RECORD_OBJECT_DELETE:
    case NEF_RECORD_UPLOAD_ABORT:
    case NEF_RECORD_STREAM_ABORT:
    case NEF_RECORD_MOVED:
    case NEF_RECORD_ERASE:
    case NEF_RECORD_DROP:
    case NEF_RECORD_CHECKPOINT_BEGIN: /* segments may only go before a checkpoint */
    case NEF_RECORD_CHECKPOINT_END:
    case NEF_RECORD_OVERRIDE:
        return true;
    default:
        return false;
    }
}

/* Fields of OP, encoded at AT (room for nef_op_encoded_max), and checked as a reader will check them:
 * what apply would refuse is never proposed. */
static nef_err encode_at(const struct nef_op *op, uint8_t *at, size_t *out_bytes)
{
    size_t max = nef_op_encoded_max(op);
    struct nef_buf fields = {.data = at, .capacity = max, .max = max}; /* never grows */
    struct nef_op check;

    nef_op_encode(op, &fields);
    if (fields.failed || nef_op_decode(op->type, at, fields.bytes, &check) != NEF_OK)
        return NEF_E_INVALID;
    *out_bytes = fields.bytes;
    return NEF_OK;
}

static nef_err seal_op(struct nef_keys *keys, const struct nef_op *op, const uint8_t *dek,
                       const uint8_t *inline_cipher, uint32_t inline_bytes,
                       struct nef_record *record, struct nef_run *run)
{
    uint8_t nonce[NEF_GCM_NONCE_BYTES], aad[OP_AAD_BYTES];
    struct nef_record key_record = *record;
    uint64_t op_at = nef_record_bytes(NEF_WRAPPED_DEK_BYTES);
    uint8_t *body = run->data + op_at + NEF_RECORD_HEADER_BYTES;
    uint8_t *fields = body + 4;
    struct nef_writer length = nef_writer_of(body, 4);
    uint64_t size = 0;
    size_t bytes;
    nef_err err;

    err = encode_at(op, fields, &bytes);
    if (err != NEF_OK)
        return err;
    if (inline_bytes != (nef_op_inline_body(op, &size) ? size + NEF_TAG_BYTES : 0) ||
        4 + bytes + NEF_TAG_BYTES + inline_bytes > NEF_RECORD_BODY_MAX)
        return NEF_E_INVALID;
    leaf_hash(dek, fields - LEAF_HEAD_BYTES, bytes, record->leaf);
    set_nonce(nonce, NEF_PURPOSE_OP, 0);
    set_op_aad(aad, op->type, &op->bucket_key, &op->stream);
    err = nef_gcm_seal(dek, nonce, aad, sizeof(aad), fields, bytes, fields);
    if (err != NEF_OK)
        return err;
    nef_write_u32(&length, (uint32_t)(bytes + NEF_TAG_BYTES));
    if (inline_bytes > 0)
        memcpy(fields + bytes + NEF_TAG_BYTES, inline_cipher, inline_bytes);
    record->body_bytes = (uint32_t)(4 + bytes + NEF_TAG_BYTES + inline_bytes);
    record->run_index = 1;
    nef_record_encode(record, body, 0, run->data + op_at);

    key_record.type = NEF_RECORD_KEY;
    key_record.flags = 0;
    key_record.body_bytes = NEF_WRAPPED_DEK_BYTES;
    err = nef_keys_wrap_dek(keys, &op->bucket_key, &op->stream, dek,
                            run->data + NEF_RECORD_HEADER_BYTES);
    if (err != NEF_OK)
        return err;
    nef_record_encode(&key_record, run->data + NEF_RECORD_HEADER_BYTES, 0, run->data);
    run->bytes = (uint32_t)(op_at + nef_record_bytes(record->body_bytes));
    return NEF_OK;
}

static nef_err clear_op(const struct nef_op *op, struct nef_record *record, struct nef_run *run)
{
    uint8_t *fields = run->data + NEF_RECORD_HEADER_BYTES;
    size_t bytes;
    nef_err err;

    err = encode_at(op, fields, &bytes);
    if (err != NEF_OK)
        return err;
    if (bytes > NEF_RECORD_BODY_MAX)
        return NEF_E_INVALID;
    leaf_hash(NULL, fields - LEAF_HEAD_BYTES, bytes, record->leaf);
    record->body_bytes = (uint32_t)bytes;
    nef_record_encode(record, fields, 0, run->data);
    run->bytes = (uint32_t)nef_record_bytes(bytes);
    return NEF_OK;
}

nef_err nef_run_op(struct nef_keys *keys, const struct nef_op *op, uint32_t cell,
                   const uint8_t *dek, const uint8_t tag[16], const uint8_t *inline_cipher,
                   uint32_t inline_bytes, struct nef_run *out_run)
{
    bool clear = nef_op_is_clear(op->type);
    struct nef_run run = {.cell = cell, .is_op = true, .frees_space = frees_space(op->type)};
    struct nef_record record = {
        .type = op->type, .flags = NEF_RECORD_LAST, .cell = cell, .stream = op->stream};
    size_t max = nef_op_encoded_max(op);
    uint64_t room;
    nef_err err;

    NEF_ASSERT(clear == (dek == NULL));
    NEF_ASSERT(clear || (!nef_id_is_zero(&op->stream) && !nef_id_is_zero(&op->bucket_key)));
    if (max > NEF_RECORD_BODY_MAX || inline_bytes > NEF_INLINE_BYTES_MAX + NEF_TAG_BYTES)
        return NEF_E_INVALID;
    memcpy(record.bucket_key_id, op->bucket_key.bytes, 16);
    if (tag != NULL) {
        memcpy(record.key_tag, tag, 16);
        memcpy(run.tag, tag, 16);
    }
    room = nef_record_bytes(NEF_WRAPPED_DEK_BYTES) +
           nef_record_bytes(4 + max + NEF_TAG_BYTES + inline_bytes);
    run.data = malloc(room);
    if (run.data == NULL)
        return NEF_E_NOMEM;
    err = clear ? clear_op(op, &record, &run)
                : seal_op(keys, op, dek, inline_cipher, inline_bytes, &record, &run);
    if (err != NEF_OK) {
        nef_wipe(run.data, room); /* fields may lie there in plain */
        nef_run_free(&run);
        return err;
    }
    *out_run = run;
    return NEF_OK;
}

void nef_run_number(struct nef_run *run, uint64_t proposer, uint64_t number)
{
    struct nef_record record;

    for (uint64_t at = 0; at < run->bytes; at += nef_record_bytes(record.body_bytes)) {
        nef_record_propose(run->data + at, proposer, number);
        NEF_ASSERT(nef_record_decode(run->data + at, &record) == NEF_OK);
    }
}

/* ---- opening ---- */

/* The op's bucket must be the one whose key sealed it, so that no key of one bucket can change another. */
static bool bucket_fits(const struct nef_op *op)
{
    switch (op->type) {
    case NEF_RECORD_OBJECT_PUT:
        return nef_id_equal(&op->u.object_put.bucket, &op->bucket_key);
    case NEF_RECORD_OBJECT_DELETE:
        return nef_id_equal(&op->u.object_delete.bucket, &op->bucket_key);
    case NEF_RECORD_UPLOAD_CREATE:
        return nef_id_equal(&op->u.upload_create.bucket, &op->bucket_key);
    case NEF_RECORD_PART_PUT:
        return nef_id_equal(&op->u.part_put.bucket, &op->bucket_key);
    case NEF_RECORD_UPLOAD_COMPLETE:
        return nef_id_equal(&op->u.upload_complete.bucket, &op->bucket_key);
    case NEF_RECORD_UPLOAD_ABORT:
        return nef_id_equal(&op->u.upload_abort.bucket, &op->bucket_key);
    default:
        return true;
    }
}

/* Opens the sealed fields behind the leaf's head in scratch. */
static nef_err open_fields(struct nef_keys *keys, const struct nef_record *record,
                           const uint8_t *body, const uint8_t *wrapped_dek, struct nef_buf *scratch,
                           uint8_t dek[32], size_t *out_bytes, uint32_t *out_end)
{
    uint8_t nonce[NEF_GCM_NONCE_BYTES], aad[OP_AAD_BYTES];
    struct nef_reader r = nef_reader_of(body, record->body_bytes);
    uint32_t sealed_bytes = nef_read_u32(&r);
    const uint8_t *sealed = nef_read_view(&r, sealed_bytes);
    struct nef_id bucket_key;
    uint8_t *fields;
    nef_err err;

    if (sealed == NULL || sealed_bytes < NEF_TAG_BYTES || wrapped_dek == NULL)
        return NEF_E_PROTOCOL;
    memcpy(bucket_key.bytes, record->bucket_key_id, 16);
    err = nef_keys_unwrap_dek(keys, &bucket_key, &record->stream, wrapped_dek, dek);
    if (err != NEF_OK)
        return err;
    fields = nef_buf_grow(scratch, sealed_bytes - NEF_TAG_BYTES);
    if (fields == NULL)
        return NEF_E_NOMEM;
    set_nonce(nonce, NEF_PURPOSE_OP, 0);
    set_op_aad(aad, record->type, &bucket_key, &record->stream);
    err = nef_gcm_open(dek, nonce, aad, sizeof(aad), sealed, sealed_bytes, fields);
    if (err != NEF_OK)
        return err;
    *out_bytes = sealed_bytes - NEF_TAG_BYTES;
    *out_end = (uint32_t)r.at;
    return NEF_OK;
}

nef_err nef_op_open(struct nef_keys *keys, const struct nef_record *record, const uint8_t *body,
                    const uint8_t *wrapped_dek, struct nef_buf *scratch, struct nef_op *out_op,
                    uint32_t *out_inline_at, uint8_t *out_dek)
{
    bool clear = nef_op_is_clear(record->type);
    uint32_t end = record->body_bytes;
    uint8_t dek[NEF_KEY_BYTES] = {0}, leaf[32];
    struct nef_op op;
    uint64_t size = 0;
    size_t bytes = 0;
    nef_err err;

    nef_buf_reset(scratch);
    if (nef_buf_grow(scratch, LEAF_HEAD_BYTES) == NULL)
        return NEF_E_NOMEM;
    if (clear) {
        bytes = record->body_bytes;
        nef_buf_append(scratch, body, bytes);
        err = nef_buf_end(scratch);
    } else {
        err = open_fields(keys, record, body, wrapped_dek, scratch, dek, &bytes, &end);
    }
    if (err != NEF_OK)
        goto out;
    leaf_hash(clear ? NULL : dek, scratch->data, bytes, leaf);
    if (memcmp(leaf, record->leaf, sizeof(leaf)) != 0) {
        err = NEF_E_CORRUPT;
        goto out;
    }
    err = nef_op_decode(record->type, scratch->data + LEAF_HEAD_BYTES, bytes, &op);
    if (err != NEF_OK)
        goto out;
    op.stream = record->stream;
    memcpy(op.bucket_key.bytes, record->bucket_key_id, 16);
    if (!bucket_fits(&op) || record->body_bytes - end !=
                                 (nef_op_inline_body(&op, &size) ? size + NEF_TAG_BYTES : 0)) {
        err = NEF_E_PROTOCOL;
        goto out;
    }
    *out_op = op;
    *out_inline_at = end;
    if (out_dek != NULL)
        memcpy(out_dek, dek, sizeof(dek));
out:
    nef_wipe(dek, sizeof(dek));
    return err;
}
