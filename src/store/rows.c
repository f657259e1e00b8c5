/* Codecs of the index's rows; rows.h is the layout. Values come from our own disk through RocksDB's
 * checksums, yet they are read with bounds like anything else: a row that doesn't parse is NEF_E_CORRUPT
 * and leads to a rebuild of the index, never to a crash. */
#include <string.h>
#include "base/assert.h"
#include "store/rows.h"

#define PART_BYTES (16u + 4u + 8u + NEF_WRAPPED_DEK_BYTES + 35u)

/* ---- keys ---- */

static void key_start(struct nef_row_key *k, char kind)
{
    k->data[0] = (uint8_t)kind;
    k->bytes = 1;
}

static void key_append(struct nef_row_key *k, const void *data, size_t bytes)
{
    NEF_ASSERT(k->bytes + bytes <= sizeof k->data);
    if (bytes > 0)
        memcpy(k->data + k->bytes, data, bytes);
    k->bytes += (uint32_t)bytes;
}

static void key_append_u64(struct nef_row_key *k, uint64_t v)
{
    uint8_t b[8];

    nef_put_be64(b, v);
    key_append(k, b, 8);
}

static void key_append_u32(struct nef_row_key *k, uint32_t v)
{
    uint8_t b[4];

    nef_put_be32(b, v);
    key_append(k, b, 4);
}

void nef_key_kind(struct nef_row_key *k, char kind)
{
    key_start(k, kind);
}

void nef_key_id(struct nef_row_key *k, char kind, const struct nef_id *id)
{
    key_start(k, kind);
    key_append(k, id->bytes, 16);
}

void nef_key_text(struct nef_row_key *k, char kind, const void *text, size_t bytes)
{
    key_start(k, kind);
    key_append(k, text, bytes);
}

void nef_key_u64(struct nef_row_key *k, char kind, uint64_t number)
{
    key_start(k, kind);
    key_append_u64(k, number);
}

void nef_key_id_u32(struct nef_row_key *k, char kind, const struct nef_id *id, uint32_t n)
{
    nef_key_id(k, kind, id);
    key_append_u32(k, n);
}

void nef_key_object(struct nef_row_key *k, const struct nef_id *bucket, const void *object_key,
                    size_t key_bytes)
{
    nef_key_id(k, 'O', bucket);
    key_append(k, object_key, key_bytes);
    key_append(k, "", 1);
}

void nef_key_upload(struct nef_row_key *k, const struct nef_id *bucket, const void *object_key,
                    size_t key_bytes, const struct nef_id *upload)
{
    nef_key_id(k, 'M', bucket);
    key_append(k, object_key, key_bytes);
    key_append(k, "", 1);
    key_append(k, upload->bytes, 16);
}

void nef_key_outcome(struct nef_row_key *k, uint64_t proposer, uint32_t slot)
{
    uint8_t b[2] = {(uint8_t)(slot >> 8), (uint8_t)slot};

    nef_key_u64(k, 'Q', proposer);
    key_append(k, b, 2);
}

void nef_key_after_prefix(struct nef_row_key *k)
{
    while (k->bytes > 0 && k->data[k->bytes - 1] == 0xff)
        k->bytes--;
    NEF_ASSERT(k->bytes > 0);
    k->data[k->bytes - 1]++;
}

bool nef_key_valid(const void *object_key, size_t key_bytes)
{
    return key_bytes >= 1 && key_bytes <= NEF_OBJECT_KEY_MAX && memchr(object_key, 0, key_bytes) == NULL;
}

nef_err nef_key_read_object(const uint8_t *k, size_t bytes, struct nef_text *out_key)
{
    if (bytes < 1 + 16 + 2 || bytes > 1 + 16 + NEF_OBJECT_KEY_MAX + 1 || k[bytes - 1] != 0)
        return NEF_E_CORRUPT;
    *out_key = (struct nef_text){(const char *)k + 17, (uint32_t)(bytes - 18)};
    return NEF_OK;
}

nef_err nef_key_read_upload(const uint8_t *k, size_t bytes, struct nef_text *out_key,
                            struct nef_id *out_upload)
{
    if (bytes < 1 + 16 + 2 + 16 || bytes > NEF_ROW_KEY_MAX || k[bytes - 17] != 0)
        return NEF_E_CORRUPT;
    *out_key = (struct nef_text){(const char *)k + 17, (uint32_t)(bytes - 34)};
    memcpy(out_upload->bytes, k + bytes - 16, 16);
    return NEF_OK;
}

nef_err nef_key_read_id(const uint8_t *k, size_t bytes, struct nef_id *out_id)
{
    if (bytes != 17)
        return NEF_E_CORRUPT;
    memcpy(out_id->bytes, k + 1, 16);
    return NEF_OK;
}

nef_err nef_key_read_id_u32(const uint8_t *k, size_t bytes, struct nef_id *out_id, uint32_t *out_n)
{
    if (bytes != 21)
        return NEF_E_CORRUPT;
    memcpy(out_id->bytes, k + 1, 16);
    *out_n = nef_get_be32(k + 17);
    return NEF_OK;
}

nef_err nef_key_read_u64(const uint8_t *k, size_t bytes, uint64_t *out_number)
{
    if (bytes != 9)
        return NEF_E_CORRUPT;
    *out_number = nef_get_be64(k + 1);
    return NEF_OK;
}

nef_err nef_key_read_outcome(const uint8_t *k, size_t bytes, uint64_t *out_proposer,
                             uint32_t *out_slot)
{
    if (bytes != 11)
        return NEF_E_CORRUPT;
    *out_proposer = nef_get_be64(k + 1);
    *out_slot = (uint32_t)k[9] << 8 | k[10];
    return NEF_OK;
}

/* ---- pieces of values ---- */

static nef_err row_end(const struct nef_reader *r)
{
    return nef_reader_end(r) == NEF_OK ? NEF_OK : NEF_E_CORRUPT;
}

static void put_text(struct nef_buf *out, const char *text)
{
    nef_buf_block(out, text, strlen(text));
}

/* A text of at most room-1 bytes without NUL, into a NUL-terminated array. */
static void get_text(struct nef_reader *r, char *out, size_t room)
{
    size_t bytes = 0;
    const uint8_t *view = nef_read_block(r, room - 1, &bytes);

    out[0] = 0;
    if (view == NULL || r->failed)
        return;
    if (memchr(view, 0, bytes) != NULL) {
        r->failed = true;
        return;
    }
    memcpy(out, view, bytes);
    out[bytes] = 0;
}

static void put_checksum(struct nef_buf *out, const struct nef_checksum *c)
{
    NEF_ASSERT(c->bytes <= sizeof c->value);
    nef_buf_u8(out, c->kind);
    nef_buf_u8(out, c->scope);
    nef_buf_u8(out, c->bytes);
    nef_buf_append(out, c->value, sizeof c->value);
}

static void get_checksum(struct nef_reader *r, struct nef_checksum *c)
{
    c->kind = nef_read_u8(r);
    c->scope = nef_read_u8(r);
    c->bytes = nef_read_u8(r);
    nef_read_copy(r, c->value, sizeof c->value);
    if (c->kind > NEF_CHECKSUM_SHA256 || c->scope > NEF_CHECKSUM_COMPOSITE || c->bytes > sizeof c->value)
        r->failed = true;
}

/* ---- values ---- */

void nef_row_applied_put(struct nef_buf *out, const struct nef_row_applied *row)
{
    nef_buf_reset(out);
    nef_buf_u32(out, row->version);
    nef_buf_u64(out, row->epoch);
    nef_buf_u64(out, row->offset);
    nef_buf_u64(out, row->last);
}

nef_err nef_row_applied_get(const void *value, size_t bytes, struct nef_row_applied *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_applied row;

    row.version = nef_read_u32(&r);
    if (!r.failed && row.version != NEF_ROWS_VERSION)
        return NEF_E_VERSION;
    row.epoch = nef_read_u64(&r);
    row.offset = nef_read_u64(&r);
    row.last = nef_read_u64(&r);
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_region_put(struct nef_buf *out, const struct nef_row_region *row)
{
    nef_buf_reset(out);
    nef_buf_append(out, row->region_key.bytes, 16);
    nef_buf_append(out, row->op.region.bytes, 16);
    nef_buf_u32(out, row->op.cell_count);
    nef_buf_block(out, row->op.wrapped, row->op.wrapped_bytes);
}

/* The wrapped key of a region or a bucket. */
static uint32_t get_wrapped(struct nef_reader *r, uint8_t out[NEF_WRAPPED_KEY_MAX])
{
    size_t bytes = 0;
    const uint8_t *view = nef_read_block(r, NEF_WRAPPED_KEY_MAX, &bytes);

    memset(out, 0, NEF_WRAPPED_KEY_MAX);
    if (view == NULL || r->failed)
        return 0;
    memcpy(out, view, bytes);
    return (uint32_t)bytes;
}

nef_err nef_row_region_get(const void *value, size_t bytes, struct nef_row_region *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_region row;

    memset(&row, 0, sizeof row);
    nef_read_copy(&r, row.region_key.bytes, 16);
    nef_read_copy(&r, row.op.region.bytes, 16);
    row.op.cell_count = nef_read_u32(&r);
    row.op.wrapped_bytes = get_wrapped(&r, row.op.wrapped);
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_totals_put(struct nef_buf *out, const struct nef_row_totals *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->objects);
    nef_buf_u64(out, row->uploads);
    nef_buf_u64(out, row->streams);
}

nef_err nef_row_totals_get(const void *value, size_t bytes, struct nef_row_totals *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_totals row;

    row.objects = nef_read_u64(&r);
    row.uploads = nef_read_u64(&r);
    row.streams = nef_read_u64(&r);
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_checkpoint_put(struct nef_buf *out, const struct nef_row_checkpoint *row)
{
    nef_buf_reset(out);
    nef_buf_append(out, row->complete.bytes, 16);
    nef_buf_u64(out, row->begin);
    nef_buf_u64(out, row->end);
    nef_buf_append(out, row->pending.bytes, 16);
    nef_buf_u64(out, row->pending_begin);
    nef_buf_u32(out, row->pending_pieces);
}

nef_err nef_row_checkpoint_get(const void *value, size_t bytes, struct nef_row_checkpoint *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_checkpoint row;

    nef_read_copy(&r, row.complete.bytes, 16);
    row.begin = nef_read_u64(&r);
    row.end = nef_read_u64(&r);
    nef_read_copy(&r, row.pending.bytes, 16);
    row.pending_begin = nef_read_u64(&r);
    row.pending_pieces = nef_read_u32(&r);
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_override_put(struct nef_buf *out, const struct nef_row_override *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->end);
    nef_buf_u64(out, row->offset);
    nef_buf_u64(out, row->time_ms);
}

nef_err nef_row_override_get(const void *value, size_t bytes, struct nef_row_override *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_override row;

    row.end = nef_read_u64(&r);
    row.offset = nef_read_u64(&r);
    row.time_ms = nef_read_u64(&r);
    if (row_end(&r) != NEF_OK || row.end > row.offset)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_bucket_put(struct nef_buf *out, const struct nef_row_bucket *row)
{
    nef_buf_reset(out);
    put_text(out, row->name);
    put_text(out, row->owner);
    nef_buf_u64(out, row->created_ms);
    nef_buf_u32(out, row->flags);
    nef_buf_u8(out, row->closed);
    nef_buf_append(out, row->token.bytes, 16);
    nef_buf_u64(out, row->closed_ms);
    nef_buf_block(out, row->wrapped, row->wrapped_bytes);
}

nef_err nef_row_bucket_get(const void *value, size_t bytes, struct nef_row_bucket *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_bucket row;
    uint8_t closed;

    memset(&row, 0, sizeof row);
    get_text(&r, row.name, sizeof row.name);
    get_text(&r, row.owner, sizeof row.owner);
    row.created_ms = nef_read_u64(&r);
    row.flags = nef_read_u32(&r);
    closed = nef_read_u8(&r);
    row.closed = closed == 1;
    nef_read_copy(&r, row.token.bytes, 16);
    row.closed_ms = nef_read_u64(&r);
    row.wrapped_bytes = get_wrapped(&r, row.wrapped);
    if (row_end(&r) != NEF_OK || closed > 1)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

nef_err nef_row_name_get(const void *value, size_t bytes, struct nef_id *out)
{
    if (bytes != 16)
        return NEF_E_CORRUPT;
    memcpy(out->bytes, value, 16);
    return NEF_OK;
}

void nef_row_user_put(struct nef_buf *out, const struct nef_user *row)
{
    nef_buf_reset(out);
    put_text(out, row->name);
    put_text(out, row->secret_key);
    put_text(out, row->bucket);
    nef_buf_u8(out, row->read_only);
    nef_buf_u8(out, row->disabled);
    if (!row->ai.allowed) /* then the row is what it was before there were such rights */
        return;
    put_text(out, row->ai.models);
    put_text(out, row->ai.zones);
    nef_buf_u64(out, row->ai.requests_min);
    nef_buf_u64(out, row->ai.tokens_min);
    nef_buf_u32(out, row->ai.concurrency);
    nef_buf_u32(out, row->ai.weight);
    nef_buf_u32(out, row->ai.priority);
}

static void get_ai(struct nef_reader *r, struct nef_user_ai *out)
{
    out->allowed = true;
    get_text(r, out->models, sizeof out->models);
    get_text(r, out->zones, sizeof out->zones);
    out->requests_min = nef_read_u64(r);
    out->tokens_min = nef_read_u64(r);
    out->concurrency = nef_read_u32(r);
    out->weight = nef_read_u32(r);
    out->priority = nef_read_u32(r);
}

nef_err nef_row_user_get(const void *value, size_t bytes, struct nef_user *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    uint8_t read_only, disabled;

    get_text(&r, out->name, sizeof out->name);
    get_text(&r, out->secret_key, sizeof out->secret_key);
    get_text(&r, out->bucket, sizeof out->bucket);
    read_only = nef_read_u8(&r);
    disabled = nef_read_u8(&r);
    memset(&out->ai, 0, sizeof out->ai);
    if (!r.failed && nef_reader_left(&r) > 0)
        get_ai(&r, &out->ai);
    if (row_end(&r) != NEF_OK || read_only > 1 || disabled > 1)
        return NEF_E_CORRUPT;
    out->read_only = read_only == 1;
    out->disabled = disabled == 1;
    return NEF_OK;
}

void nef_row_object_put(struct nef_buf *out, const struct nef_row_object *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->size);
    nef_buf_u64(out, row->modified_ms);
    put_text(out, row->etag);
    put_checksum(out, &row->checksum);
    nef_buf_u8(out, row->multipart);
    nef_buf_block(out, row->attrs.data, row->attrs.bytes);
    nef_buf_u32(out, row->part_count);
}

void nef_row_object_part_put(struct nef_buf *out, const struct nef_object_part *part)
{
    nef_buf_append(out, part->stream.bytes, 16);
    nef_buf_u32(out, part->part);
    nef_buf_u64(out, part->size);
    nef_buf_append(out, part->wrapped_dek, NEF_WRAPPED_DEK_BYTES);
    put_checksum(out, &part->checksum);
}

nef_err nef_row_object_get(const void *value, size_t bytes, struct nef_row_object *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_object row;
    size_t attrs_bytes = 0;
    uint8_t multipart;

    memset(&row, 0, sizeof row);
    row.size = nef_read_u64(&r);
    row.modified_ms = nef_read_u64(&r);
    get_text(&r, row.etag, sizeof row.etag);
    get_checksum(&r, &row.checksum);
    multipart = nef_read_u8(&r);
    row.multipart = multipart == 1;
    row.attrs.data = nef_read_block(&r, NEF_RECORD_BODY_MAX, &attrs_bytes);
    row.attrs.bytes = (uint32_t)attrs_bytes;
    row.part_count = nef_read_u32(&r);
    if (r.failed || multipart > 1 || row.part_count > NEF_PART_COUNT_MAX)
        return NEF_E_CORRUPT;
    row.parts = nef_read_view(&r, (size_t)row.part_count * PART_BYTES);
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_object_part(const struct nef_row_object *row, uint32_t i, struct nef_object_part *out)
{
    struct nef_reader r;

    NEF_ASSERT(i < row->part_count);
    memset(out, 0, sizeof *out);
    r = nef_reader_of(row->parts + (size_t)i * PART_BYTES, PART_BYTES);
    nef_read_copy(&r, out->stream.bytes, 16);
    out->part = nef_read_u32(&r);
    out->size = nef_read_u64(&r);
    nef_read_copy(&r, out->wrapped_dek, NEF_WRAPPED_DEK_BYTES);
    get_checksum(&r, &out->checksum);
    if (out->checksum.bytes > sizeof out->checksum.value)
        out->checksum.bytes = 0; /* a damaged row must not make anybody read past the array */
}

void nef_row_piece_put(struct nef_buf *out, const struct nef_row_piece *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->record);
    nef_buf_u32(out, row->cipher_at);
    nef_buf_u32(out, row->cipher_bytes);
}

nef_err nef_row_piece_get(const void *value, size_t bytes, struct nef_row_piece *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_piece row;

    row.record = nef_read_u64(&r);
    row.cipher_at = nef_read_u32(&r);
    row.cipher_bytes = nef_read_u32(&r);
    if (row_end(&r) != NEF_OK || row.cipher_at < NEF_RECORD_HEADER_BYTES ||
        (uint64_t)row.cipher_at - NEF_RECORD_HEADER_BYTES + row.cipher_bytes > NEF_RECORD_BODY_MAX)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_stream_put(struct nef_buf *out, const struct nef_row_stream *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->proposer);
    nef_buf_u64(out, row->first);
    nef_buf_u64(out, row->time_ms);
    nef_buf_u64(out, row->cipher_bytes);
    nef_buf_u32(out, row->count);
    nef_buf_u32(out, row->top);
}

nef_err nef_row_stream_get(const void *value, size_t bytes, struct nef_row_stream *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_stream row;

    row.proposer = nef_read_u64(&r);
    row.first = nef_read_u64(&r);
    row.time_ms = nef_read_u64(&r);
    row.cipher_bytes = nef_read_u64(&r);
    row.count = nef_read_u32(&r);
    row.top = nef_read_u32(&r);
    if (row_end(&r) != NEF_OK || row.top > NEF_STREAM_PIECES_MAX || row.count > row.top)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_upload_put(struct nef_buf *out, const struct nef_row_upload *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->created_ms);
    put_checksum(out, &row->checksum);
    put_text(out, row->owner);
    nef_buf_block(out, row->attrs.data, row->attrs.bytes);
}

nef_err nef_row_upload_get(const void *value, size_t bytes, struct nef_row_upload *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_upload row;
    size_t attrs_bytes = 0;

    memset(&row, 0, sizeof row);
    row.created_ms = nef_read_u64(&r);
    get_checksum(&r, &row.checksum);
    get_text(&r, row.owner, sizeof row.owner);
    row.attrs.data = nef_read_block(&r, NEF_RECORD_BODY_MAX, &attrs_bytes);
    row.attrs.bytes = (uint32_t)attrs_bytes;
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_part_put(struct nef_buf *out, const struct nef_row_part *row)
{
    nef_buf_reset(out);
    nef_buf_append(out, row->stream.bytes, 16);
    nef_buf_u64(out, row->size);
    nef_buf_u64(out, row->modified_ms);
    nef_buf_append(out, row->md5, 16);
    put_checksum(out, &row->checksum);
    nef_buf_append(out, row->wrapped_dek, NEF_WRAPPED_DEK_BYTES);
}

nef_err nef_row_part_get(const void *value, size_t bytes, struct nef_row_part *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_part row;

    memset(&row, 0, sizeof row);
    nef_read_copy(&r, row.stream.bytes, 16);
    row.size = nef_read_u64(&r);
    row.modified_ms = nef_read_u64(&r);
    nef_read_copy(&r, row.md5, 16);
    get_checksum(&r, &row.checksum);
    nef_read_copy(&r, row.wrapped_dek, NEF_WRAPPED_DEK_BYTES);
    if (row_end(&r) != NEF_OK || row.size > NEF_PUT_BYTES_MAX)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_outcome_put(struct nef_buf *out, const struct nef_outcome *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->number);
    nef_buf_u64(out, row->offset);
    nef_buf_u32(out, row->code);
    nef_buf_u32(out, row->detail);
}

nef_err nef_row_outcome_get(const void *value, size_t bytes, struct nef_outcome *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_outcome row;

    row.number = nef_read_u64(&r);
    row.offset = nef_read_u64(&r);
    row.code = nef_read_u32(&r);
    row.detail = nef_read_u32(&r);
    if (row_end(&r) != NEF_OK || row.number == 0)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_segment_put(struct nef_buf *out, const struct nef_row_segment *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->live);
    nef_buf_u64(out, row->total);
    nef_buf_u64(out, row->dead_ms);
}

nef_err nef_row_segment_get(const void *value, size_t bytes, struct nef_row_segment *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_segment row;

    row.live = nef_read_u64(&r);
    row.total = nef_read_u64(&r);
    row.dead_ms = nef_read_u64(&r);
    if (row_end(&r) != NEF_OK || row.live > row.total)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}

void nef_row_dead_put(struct nef_buf *out, const struct nef_row_dead *row)
{
    nef_buf_reset(out);
    nef_buf_u64(out, row->dead_ms);
    nef_buf_u64(out, row->erased);
    nef_buf_append(out, row->stream.bytes, 16);
    nef_buf_u32(out, row->piece);
    nef_buf_u32(out, row->cipher_bytes);
}

nef_err nef_row_dead_get(const void *value, size_t bytes, struct nef_row_dead *out)
{
    struct nef_reader r = nef_reader_of(value, bytes);
    struct nef_row_dead row;

    row.dead_ms = nef_read_u64(&r);
    row.erased = nef_read_u64(&r);
    nef_read_copy(&r, row.stream.bytes, 16);
    row.piece = nef_read_u32(&r);
    row.cipher_bytes = nef_read_u32(&r);
    if (row_end(&r) != NEF_OK)
        return NEF_E_CORRUPT;
    *out = row;
    return NEF_OK;
}
