/* Bytes -> fields of ops; the encoder is in op.c, the layout in docs/formats.md.
 *
 * What is decoded was sealed by a zone that holds the keys, or lies in clear in a log that the peer
 * shipped; either way it is treated as hostile. Every number is checked for its range, every text for its
 * length and characters, nothing may be left over, and flags that this program doesn't know are refused.
 * The reader is sticky: each take_ function clears *ok at the first impossible value. PURE. */
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/logaddr.h"
#include "store/op_internal.h"

#define OWNER_MAX      63u /* sizes of struct nef_user and struct nef_upload, less their NUL */
#define USER_NAME_MAX  127u
#define ACCESS_KEY_MAX 63u
#define SECRET_KEY_MAX 127u
#define AI_MODELS_MAX  1023u
#define AI_ZONES_MAX   255u

struct input {
    struct nef_reader r;
    bool bad; /* an impossible value; overruns are in r */
};

static void require(struct input *in, bool holds)
{
    if (!holds)
        in->bad = true;
}

static void take_id(struct input *in, struct nef_id *out)
{
    nef_read_copy(&in->r, out->bytes, sizeof(out->bytes));
    require(in, !nef_id_is_zero(out));
}

/* No control characters and no NUL, so that it fits a C string and a line. */
static void take_text(struct input *in, uint32_t least, uint32_t most, struct nef_text *out)
{
    uint32_t bytes = nef_read_u16(&in->r);
    const char *data = (const char *)nef_read_view(&in->r, bytes);

    require(in, bytes >= least && bytes <= most);
    for (uint32_t i = 0; data != NULL && i < bytes; i++)
        require(in, (uint8_t)data[i] >= ' ' && data[i] != 0x7f);
    *out = (struct nef_text){data, data == NULL ? 0 : bytes};
}

/* S3 allows any UTF-8 in an object key; we need only that no NUL is in it, which ends it in the index. */
static void take_object_key(struct input *in, struct nef_text *out)
{
    uint32_t bytes = nef_read_u16(&in->r);
    const char *data = (const char *)nef_read_view(&in->r, bytes);

    require(in, bytes >= 1 && bytes <= NEF_OBJECT_KEY_MAX);
    if (data != NULL)
        require(in, memchr(data, '\0', bytes) == NULL);
    *out = (struct nef_text){data, data == NULL ? 0 : bytes};
}

/* The characters of bucket names (S3: 3 to 63 lower-case letters, digits, dots, hyphens). */
static void take_bucket_name(struct input *in, uint32_t least, struct nef_text *out)
{
    take_text(in, least, NEF_BUCKET_NAME_MAX, out);
    for (uint32_t i = 0; i < out->bytes; i++) {
        char c = out->data[i];

        require(in, (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-');
    }
    require(in, out->bytes == 0 || out->bytes >= 3);
}

static uint8_t take_flags(struct input *in, uint8_t known)
{
    uint8_t flags = nef_read_u8(&in->r);

    require(in, (flags & ~known) == 0);
    return flags;
}

static void take_short(struct input *in, char out[NEF_ETAG_MAX + 1])
{
    uint32_t bytes = nef_read_u8(&in->r);
    const char *data = (const char *)nef_read_view(&in->r, bytes);

    require(in, bytes >= 1 && bytes <= NEF_ETAG_MAX);
    for (uint32_t i = 0; data != NULL && i < bytes; i++)
        require(in, (uint8_t)data[i] >= ' ' && data[i] != 0x7f);
    memset(out, 0, NEF_ETAG_MAX + 1);
    if (data != NULL && !in->bad)
        memcpy(out, data, bytes);
}

static void take_etag(struct input *in, char out[NEF_ETAG_MAX + 1])
{
    take_short(in, out);
    for (const char *c = out; *c != '\0'; c++)
        require(in, (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'f') || *c == '-');
}

static void take_wrapped(struct input *in, uint8_t out[NEF_WRAPPED_KEY_MAX], uint32_t *out_bytes)
{
    uint32_t bytes = nef_read_u16(&in->r);
    const uint8_t *data = nef_read_view(&in->r, bytes);

    require(in, bytes >= 1 && bytes <= NEF_WRAPPED_KEY_MAX);
    if (data == NULL || in->bad)
        return;
    memcpy(out, data, bytes);
    *out_bytes = bytes;
}

static void take_attrs(struct input *in, struct nef_attrs *out)
{
    size_t bytes = 0;

    out->data = nef_read_block(&in->r, NEF_ATTRS_BYTES_MAX, &bytes);
    out->bytes = (uint32_t)bytes;
    require(in, nef_attrs_check(out) == NEF_OK);
}

static void take_checksum(struct input *in, bool value_wanted, struct nef_checksum *out)
{
    static const uint8_t sizes[] = {
        [NEF_CHECKSUM_NONE] = 0,      [NEF_CHECKSUM_CRC32] = 4, [NEF_CHECKSUM_CRC32C] = 4,
        [NEF_CHECKSUM_CRC64NVME] = 8, [NEF_CHECKSUM_SHA1] = 20, [NEF_CHECKSUM_SHA256] = 32,
    };

    memset(out, 0, sizeof(*out));
    out->kind = nef_read_u8(&in->r);
    out->scope = nef_read_u8(&in->r);
    out->bytes = nef_read_u8(&in->r);
    if (out->kind >= NEF_COUNT(sizes) || out->scope > NEF_CHECKSUM_COMPOSITE ||
        (out->kind == NEF_CHECKSUM_NONE && out->scope != 0) ||
        out->bytes != (value_wanted ? sizes[out->kind] : 0)) {
        in->bad = true;
        return;
    }
    nef_read_copy(&in->r, out->value, out->bytes);
}

static void take_condition(struct input *in, struct nef_condition *out)
{
    uint8_t flags =
        take_flags(in, NEF_OP_CONDITION_NONE | NEF_OP_CONDITION_ANY | NEF_OP_CONDITION_MATCH);

    memset(out, 0, sizeof(*out));
    out->none = (flags & NEF_OP_CONDITION_NONE) != 0;
    out->any = (flags & NEF_OP_CONDITION_ANY) != 0;
    if (flags & NEF_OP_CONDITION_MATCH)
        take_short(in, out->match);
}

static void take_size(struct input *in, uint64_t *out_size, bool *out_inline)
{
    *out_size = nef_read_u64(&in->r);
    *out_inline = take_flags(in, NEF_OP_BODY_INLINE) != 0;
    require(in, *out_size <= NEF_PUT_BYTES_MAX);
    if (*out_inline)
        require(in, *out_size >= 1 && *out_size <= NEF_INLINE_BYTES_MAX);
}

static void take_part_number(struct input *in, uint32_t *out_part)
{
    *out_part = nef_read_u32(&in->r);
    require(in, *out_part >= 1 && *out_part <= NEF_PART_COUNT_MAX);
}

static const uint8_t *take_items(struct input *in, uint32_t most, size_t item_bytes,
                                 uint32_t *out_count)
{
    const uint8_t *items;

    *out_count = nef_read_u32(&in->r);
    if (*out_count < 1 || *out_count > most) {
        in->bad = true;
        return NULL;
    }
    items = nef_read_view(&in->r, *out_count * item_bytes);
    require(in, items != NULL);
    return items;
}

static void take_complete_parts(struct input *in, struct nef_op *op)
{
    struct nef_op_upload_complete *complete = &op->u.upload_complete;
    uint32_t before = 0;

    complete->parts =
        take_items(in, NEF_PART_COUNT_MAX, NEF_OP_COMPLETE_BYTES, &complete->part_count);
    for (uint32_t i = 0; !in->bad && i < complete->part_count; i++) {
        struct nef_op_complete_part part;

        nef_op_complete_part_at(op, i, &part);
        require(in, part.part > before && part.part <= NEF_PART_COUNT_MAX);
        before = part.part;
    }
}

static void take_list(struct input *in, uint16_t type, struct nef_op *op)
{
    size_t item_bytes = type == NEF_RECORD_MOVED ? NEF_OP_MOVED_BYTES : NEF_OP_OFFSET_BYTES;

    op->u.list.items =
        take_items(in, NEF_RECORD_BODY_MAX / (uint32_t)item_bytes, item_bytes, &op->u.list.count);
    for (uint32_t i = 0; !in->bad && i < op->u.list.count; i++) {
        if (type == NEF_RECORD_MOVED) {
            struct nef_op_moved moved;

            nef_op_item_moved(op, i, &moved);
            require(in, !nef_id_is_zero(&moved.stream) && moved.from % NEF_RECORD_ALIGN == 0 &&
                            moved.to % NEF_RECORD_ALIGN == 0);
        } else if (type == NEF_RECORD_ERASE) {
            require(in, nef_op_item_u64(op, i) % NEF_RECORD_ALIGN == 0);
        }
    }
}

static void take_user(struct input *in, struct nef_op_user_put *user)
{
    uint8_t flags = take_flags(in, NEF_OP_USER_READ_ONLY | NEF_OP_USER_DISABLED | NEF_OP_USER_AI);

    user->read_only = (flags & NEF_OP_USER_READ_ONLY) != 0;
    user->disabled = (flags & NEF_OP_USER_DISABLED) != 0;
    take_text(in, 1, USER_NAME_MAX, &user->name);
    take_text(in, 1, ACCESS_KEY_MAX, &user->access_key);
    take_text(in, 1, SECRET_KEY_MAX, &user->secret_key);
    take_bucket_name(in, 0, &user->bucket);
    user->ai = (flags & NEF_OP_USER_AI) != 0;
    if (!user->ai)
        return;
    take_text(in, 0, AI_MODELS_MAX, &user->models);
    take_text(in, 0, AI_ZONES_MAX, &user->zones);
    user->requests_min = nef_read_u64(&in->r);
    user->tokens_min = nef_read_u64(&in->r);
    user->concurrency = nef_read_u32(&in->r);
    user->weight = nef_read_u32(&in->r);
    user->priority = nef_read_u32(&in->r);
    require(in, user->requests_min <= NEF_AI_BUDGET_MAX && user->tokens_min <= NEF_AI_BUDGET_MAX &&
                    user->concurrency <= NEF_AI_CONCURRENCY_MAX && user->priority <= NEF_AI_PRIORITY_MAX);
    require(in, user->weight >= 1 && user->weight <= NEF_AI_WEIGHT_MAX);
}

static void take_entry(struct input *in, struct nef_budget_entry *e)
{
    memset(e, 0, sizeof(*e));
    take_text(in, 1, ACCESS_KEY_MAX, &e->user);
    e->start = nef_read_u64(&in->r);
    e->number = nef_read_u64(&in->r);
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        e->spent[r] = nef_read_u64(&in->r);
        e->limit[r] = nef_read_u64(&in->r);
        /* far from any overflow of sums over zones */
        require(in, e->spent[r] <= UINT64_MAX / 16 && e->limit[r] <= UINT64_MAX / 16);
    }
    e->slots = nef_read_u32(&in->r);
    require(in, e->slots <= NEF_AI_CONCURRENCY_MAX);
    e->claim_count = nef_read_u8(&in->r);
    require(in, e->claim_count <= NEF_REPLICA_MAX);
    for (uint32_t i = 0; !in->bad && i < e->claim_count; i++) {
        struct nef_budget_claim *c = &e->claims[i];

        take_text(in, 1, NEF_ZONE_NAME_MAX, &c->zone);
        c->start = nef_read_u64(&in->r);
        c->number = nef_read_u64(&in->r);
        c->over = take_flags(in, NEF_OP_CLAIM_OVER) != 0;
        for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
            c->base[r] = nef_read_u64(&in->r);
    }
}

nef_err nef_budget_entry_get(struct nef_reader *r, struct nef_budget_entry *out_entry)
{
    struct input in = {.r = *r};
    struct nef_budget_entry entry;

    take_entry(&in, &entry);
    if (in.bad || in.r.failed)
        return NEF_E_PROTOCOL;
    *r = in.r;
    *out_entry = entry;
    return NEF_OK;
}

static void take_budget(struct input *in, struct nef_op_budget *budget)
{
    size_t at;

    take_text(in, 1, NEF_ZONE_NAME_MAX, &budget->zone);
    budget->start = nef_read_u64(&in->r);
    require(in, budget->start != 0);
    budget->count = nef_read_u32(&in->r);
    require(in, budget->count >= 1 && budget->count <= NEF_BUDGET_ENTRIES_MAX);
    at = in->r.at;
    for (uint32_t i = 0; !in->bad && !in->r.failed && i < budget->count; i++) {
        struct nef_budget_entry entry;

        take_entry(in, &entry);
    }
    if (in->bad || in->r.failed)
        return;
    budget->entries = in->r.data + at;
    budget->entries_bytes = (uint32_t)(in->r.at - at);
}

static void take_object_put(struct input *in, struct nef_op_object_put *put)
{
    take_id(in, &put->bucket);
    take_object_key(in, &put->key);
    take_size(in, &put->size, &put->inline_body);
    take_etag(in, put->etag);
    take_checksum(in, true, &put->checksum);
    take_condition(in, &put->condition);
    take_attrs(in, &put->attrs);
}

static void take_part_put(struct input *in, struct nef_op_part_put *put)
{
    take_id(in, &put->bucket);
    take_object_key(in, &put->key);
    take_id(in, &put->upload);
    take_part_number(in, &put->part);
    take_size(in, &put->size, &put->inline_body);
    nef_read_copy(&in->r, put->md5, sizeof(put->md5));
    take_checksum(in, true, &put->checksum);
}

nef_err nef_op_decode(uint16_t type, const uint8_t *bytes_in, size_t bytes, struct nef_op *out_op)
{
    struct input in = {.r = nef_reader_of(bytes_in, bytes)};
    struct nef_op op;
    nef_err err;

    memset(&op, 0, sizeof(op));
    op.type = type;
    switch ((enum nef_record_type)type) {
    case NEF_RECORD_REGION:
        take_id(&in, &op.u.region.region);
        op.u.region.cell_count = nef_read_u32(&in.r);
        require(&in, op.u.region.cell_count >= 1 && op.u.region.cell_count <= NEF_CELL_MAX);
        take_wrapped(&in, op.u.region.wrapped, &op.u.region.wrapped_bytes);
        break;
    case NEF_RECORD_BUCKET_PUT:
        take_id(&in, &op.u.bucket_put.bucket);
        op.u.bucket_put.flags = nef_read_u32(&in.r);
        require(&in, (op.u.bucket_put.flags & ~NEF_BUCKET_REQUIRE_2_2) == 0);
        take_bucket_name(&in, 3, &op.u.bucket_put.name);
        take_text(&in, 0, OWNER_MAX, &op.u.bucket_put.owner);
        take_wrapped(&in, op.u.bucket_put.wrapped, &op.u.bucket_put.wrapped_bytes);
        break;
    case NEF_RECORD_BUCKET_CLOSE:
    case NEF_RECORD_BUCKET_REOPEN:
    case NEF_RECORD_BUCKET_DELETE:
        take_id(&in, &op.u.bucket.bucket);
        take_id(&in, &op.u.bucket.token);
        break;
    case NEF_RECORD_USER_PUT:
        take_user(&in, &op.u.user_put);
        break;
    case NEF_RECORD_BUDGET:
        take_budget(&in, &op.u.budget);
        break;
    case NEF_RECORD_OBJECT_PUT:
        take_object_put(&in, &op.u.object_put);
        break;
    case NEF_RECORD_OBJECT_DELETE:
        take_id(&in, &op.u.object_delete.bucket);
        take_object_key(&in, &op.u.object_delete.key);
        take_condition(&in, &op.u.object_delete.condition);
        break;
    case NEF_RECORD_UPLOAD_CREATE:
        take_id(&in, &op.u.upload_create.bucket);
        take_object_key(&in, &op.u.upload_create.key);
        take_checksum(&in, false, &op.u.upload_create.checksum);
        take_text(&in, 0, OWNER_MAX, &op.u.upload_create.owner);
        take_attrs(&in, &op.u.upload_create.attrs);
        break;
    case NEF_RECORD_PART_PUT:
        take_part_put(&in, &op.u.part_put);
        break;
    case NEF_RECORD_UPLOAD_COMPLETE:
        take_id(&in, &op.u.upload_complete.bucket);
        take_object_key(&in, &op.u.upload_complete.key);
        take_id(&in, &op.u.upload_complete.upload);
        take_etag(&in, op.u.upload_complete.etag);
        take_checksum(&in, true, &op.u.upload_complete.checksum);
        take_condition(&in, &op.u.upload_complete.condition);
        take_complete_parts(&in, &op);
        break;
    case NEF_RECORD_UPLOAD_ABORT:
        take_id(&in, &op.u.upload_abort.bucket);
        take_object_key(&in, &op.u.upload_abort.key);
        take_id(&in, &op.u.upload_abort.upload);
        break;
    case NEF_RECORD_STREAM_ABORT:
        op.u.stream_abort.proposer = nef_read_u64(&in.r);
        break;
    case NEF_RECORD_MOVED:
    case NEF_RECORD_ERASE:
    case NEF_RECORD_DROP:
        take_list(&in, type, &op);
        break;
    case NEF_RECORD_CHECKPOINT_BEGIN:
        take_id(&in, &op.u.checkpoint_begin.checkpoint);
        break;
    case NEF_RECORD_CHECKPOINT_END:
        op.u.checkpoint_end.begin = nef_read_u64(&in.r);
        require(&in, op.u.checkpoint_end.begin % NEF_RECORD_ALIGN == 0);
        op.u.checkpoint_end.rows = nef_read_u64(&in.r);
        nef_read_copy(&in.r, op.u.checkpoint_end.digest, sizeof(op.u.checkpoint_end.digest));
        break;
    case NEF_RECORD_OVERRIDE:
        op.u.override.epoch = nef_read_u64(&in.r);
        op.u.override.end = nef_read_u64(&in.r);
        break;
    case NEF_RECORD_PAD:
    case NEF_RECORD_MARK:
    case NEF_RECORD_DATA:
    case NEF_RECORD_KEY:
    case NEF_RECORD_CHECKPOINT_ROWS:
    case NEF_RECORD_SEQUENCE:
    default:
        return NEF_E_PROTOCOL;
    }
    err = nef_reader_end(&in.r);
    if (err == NEF_OK && in.bad)
        err = NEF_E_PROTOCOL;
    if (err == NEF_OK)
        *out_op = op;
    return err;
}

/* ---- items of lists; the list was checked when it was decoded ---- */

void nef_op_item_moved(const struct nef_op *op, uint32_t i, struct nef_op_moved *out)
{
    struct nef_reader r;

    NEF_ASSERT(op->type == NEF_RECORD_MOVED && i < op->u.list.count);
    r = nef_reader_of(op->u.list.items + (size_t)i * NEF_OP_MOVED_BYTES, NEF_OP_MOVED_BYTES);
    nef_read_copy(&r, out->stream.bytes, sizeof(out->stream.bytes));
    out->piece = nef_read_u32(&r);
    out->from = nef_read_u64(&r);
    out->to = nef_read_u64(&r);
}

uint64_t nef_op_item_u64(const struct nef_op *op, uint32_t i)
{
    struct nef_reader r;

    NEF_ASSERT(op->type == NEF_RECORD_ERASE || op->type == NEF_RECORD_DROP);
    NEF_ASSERT(i < op->u.list.count);
    r = nef_reader_of(op->u.list.items + (size_t)i * NEF_OP_OFFSET_BYTES, NEF_OP_OFFSET_BYTES);
    return nef_read_u64(&r);
}

void nef_op_complete_part_at(const struct nef_op *op, uint32_t i, struct nef_op_complete_part *out)
{
    struct nef_reader r;

    NEF_ASSERT(op->type == NEF_RECORD_UPLOAD_COMPLETE && i < op->u.upload_complete.part_count);
    r = nef_reader_of(op->u.upload_complete.parts + (size_t)i * NEF_OP_COMPLETE_BYTES,
                      NEF_OP_COMPLETE_BYTES);
    out->part = nef_read_u32(&r);
    nef_read_copy(&r, out->md5, sizeof(out->md5));
}

/* ---- properties of a type ---- */

bool nef_op_is_clear(uint16_t type)
{
    switch (type) {
    case NEF_RECORD_BUCKET_PUT:
    case NEF_RECORD_USER_PUT:
    case NEF_RECORD_BUDGET:
    case NEF_RECORD_OBJECT_PUT:
    case NEF_RECORD_OBJECT_DELETE:
    case NEF_RECORD_UPLOAD_CREATE:
    case NEF_RECORD_PART_PUT:
    case NEF_RECORD_UPLOAD_COMPLETE:
    case NEF_RECORD_UPLOAD_ABORT:
        return false;
    default:
        return true;
    }
}

bool nef_op_inline_body(const struct nef_op *op, uint64_t *out_size)
{
    if (op->type == NEF_RECORD_OBJECT_PUT && op->u.object_put.inline_body)
        *out_size = op->u.object_put.size;
    else if (op->type == NEF_RECORD_PART_PUT && op->u.part_put.inline_body)
        *out_size = op->u.part_put.size;
    else
        return false;
    return true;
}
