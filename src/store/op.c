/* Fields of ops -> bytes; the decoder is op_decode.c, docs/formats.md has the same as tables.
 *
 * Fields stand in the order in which nef_op_encode writes them, without tags: what an op of a type
 * holds is fixed by that type, and a change of it is a new type or a new record version. Texts are u16
 * length and bytes; flags are one byte; whatever has a range is checked when it is decoded, so that
 * apply works with values that are possible. Each value has one encoding: decode(encode(x)) == x, and
 * bytes that decode encode to themselves.
 *
 * PURE. A new type or field also goes in op_decode.c, tests/unit/store/op_test.c and docs/formats.md. */
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "store/op_internal.h"

static void put_id(struct nef_buf *b, const struct nef_id *id)
{
    nef_buf_append(b, id->bytes, sizeof(id->bytes));
}

static void put_text(struct nef_buf *b, const struct nef_text *text)
{
    if (text->bytes > UINT16_MAX) {
        b->failed = true;
        return;
    }
    nef_buf_u16(b, (uint16_t)text->bytes);
    nef_buf_append(b, text->data, text->bytes);
}

static void put_cstr(struct nef_buf *b, const char *text)
{
    size_t bytes = strlen(text);

    NEF_ASSERT(bytes <= NEF_ETAG_MAX);
    nef_buf_u8(b, (uint8_t)bytes);
    nef_buf_append(b, text, bytes);
}

static void put_wrapped(struct nef_buf *b, const uint8_t *wrapped, uint32_t bytes)
{
    NEF_ASSERT(bytes <= NEF_WRAPPED_KEY_MAX);
    nef_buf_u16(b, (uint16_t)bytes);
    nef_buf_append(b, wrapped, bytes);
}

static void put_attrs(struct nef_buf *b, const struct nef_attrs *attrs)
{
    nef_buf_block(b, attrs->data, attrs->bytes);
}

static void put_checksum(struct nef_buf *b, const struct nef_checksum *c)
{
    NEF_ASSERT(c->bytes <= sizeof(c->value));
    nef_buf_u8(b, c->kind);
    nef_buf_u8(b, c->scope);
    nef_buf_u8(b, c->bytes);
    nef_buf_append(b, c->value, c->bytes);
}

static void put_condition(struct nef_buf *b, const struct nef_condition *c)
{
    nef_buf_u8(b, (uint8_t)((c->none ? NEF_OP_CONDITION_NONE : 0) | (c->any ? NEF_OP_CONDITION_ANY : 0) |
                            (c->match[0] != '\0' ? NEF_OP_CONDITION_MATCH : 0)));
    if (c->match[0] != '\0')
        put_cstr(b, c->match);
}

static void put_list(struct nef_buf *b, const struct nef_op *op, size_t item_bytes)
{
    nef_buf_u32(b, op->u.list.count);
    nef_buf_append(b, op->u.list.items, op->u.list.count * item_bytes);
}

static void put_ai(struct nef_buf *b, const struct nef_op_user_put *user)
{
    put_text(b, &user->models);
    put_text(b, &user->zones);
    nef_buf_u64(b, user->requests_min);
    nef_buf_u64(b, user->tokens_min);
    nef_buf_u32(b, user->concurrency);
    nef_buf_u32(b, user->weight);
    nef_buf_u32(b, user->priority);
}

void nef_budget_entry_put(struct nef_buf *out, const struct nef_budget_entry *entry)
{
    NEF_ASSERT(entry->claim_count <= NEF_REPLICA_MAX);
    put_text(out, &entry->user);
    nef_buf_u64(out, entry->start);
    nef_buf_u64(out, entry->number);
    for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++) {
        nef_buf_u64(out, entry->spent[r]);
        nef_buf_u64(out, entry->limit[r]);
    }
    nef_buf_u32(out, entry->slots);
    nef_buf_u8(out, (uint8_t)entry->claim_count);
    for (uint32_t i = 0; i < entry->claim_count; i++) {
        const struct nef_budget_claim *c = &entry->claims[i];

        put_text(out, &c->zone);
        nef_buf_u64(out, c->start);
        nef_buf_u64(out, c->number);
        nef_buf_u8(out, c->over ? NEF_OP_CLAIM_OVER : 0);
        for (unsigned r = 0; r < NEF_BUDGET_RESOURCES; r++)
            nef_buf_u64(out, c->base[r]);
    }
}

void nef_op_encode(const struct nef_op *op, struct nef_buf *out)
{
    switch ((enum nef_record_type)op->type) {
    case NEF_RECORD_REGION:
        put_id(out, &op->u.region.region);
        nef_buf_u32(out, op->u.region.cell_count);
        put_wrapped(out, op->u.region.wrapped, op->u.region.wrapped_bytes);
        break;
    case NEF_RECORD_BUCKET_PUT:
        put_id(out, &op->u.bucket_put.bucket);
        nef_buf_u32(out, op->u.bucket_put.flags);
        put_text(out, &op->u.bucket_put.name);
        put_text(out, &op->u.bucket_put.owner);
        put_wrapped(out, op->u.bucket_put.wrapped, op->u.bucket_put.wrapped_bytes);
        break;
    case NEF_RECORD_BUCKET_CLOSE:
    case NEF_RECORD_BUCKET_REOPEN:
    case NEF_RECORD_BUCKET_DELETE:
        put_id(out, &op->u.bucket.bucket);
        put_id(out, &op->u.bucket.token);
        break;
    case NEF_RECORD_USER_PUT:
        nef_buf_u8(out, (uint8_t)((op->u.user_put.read_only ? NEF_OP_USER_READ_ONLY : 0) |
                                  (op->u.user_put.disabled ? NEF_OP_USER_DISABLED : 0) |
                                  (op->u.user_put.ai ? NEF_OP_USER_AI : 0)));
        put_text(out, &op->u.user_put.name);
        put_text(out, &op->u.user_put.access_key);
        put_text(out, &op->u.user_put.secret_key);
        put_text(out, &op->u.user_put.bucket);
        if (op->u.user_put.ai)
            put_ai(out, &op->u.user_put);
        break;
    case NEF_RECORD_BUDGET:
        put_text(out, &op->u.budget.zone);
        nef_buf_u64(out, op->u.budget.start);
        nef_buf_u32(out, op->u.budget.count);
        nef_buf_append(out, op->u.budget.entries, op->u.budget.entries_bytes);
        break;
    case NEF_RECORD_OBJECT_PUT:
        put_id(out, &op->u.object_put.bucket);
        put_text(out, &op->u.object_put.key);
        nef_buf_u64(out, op->u.object_put.size);
        nef_buf_u8(out, op->u.object_put.inline_body ? NEF_OP_BODY_INLINE : 0);
        put_cstr(out, op->u.object_put.etag);
        put_checksum(out, &op->u.object_put.checksum);
        put_condition(out, &op->u.object_put.condition);
        put_attrs(out, &op->u.object_put.attrs);
        break;
    case NEF_RECORD_OBJECT_DELETE:
        put_id(out, &op->u.object_delete.bucket);
        put_text(out, &op->u.object_delete.key);
        put_condition(out, &op->u.object_delete.condition);
        break;
    case NEF_RECORD_UPLOAD_CREATE:
        put_id(out, &op->u.upload_create.bucket);
        put_text(out, &op->u.upload_create.key);
        put_checksum(out, &op->u.upload_create.checksum);
        put_text(out, &op->u.upload_create.owner);
        put_attrs(out, &op->u.upload_create.attrs);
        break;
    case NEF_RECORD_PART_PUT:
        put_id(out, &op->u.part_put.bucket);
        put_text(out, &op->u.part_put.key);
        put_id(out, &op->u.part_put.upload);
        nef_buf_u32(out, op->u.part_put.part);
        nef_buf_u64(out, op->u.part_put.size);
        nef_buf_u8(out, op->u.part_put.inline_body ? NEF_OP_BODY_INLINE : 0);
        nef_buf_append(out, op->u.part_put.md5, 16);
        put_checksum(out, &op->u.part_put.checksum);
        break;
    case NEF_RECORD_UPLOAD_COMPLETE:
        put_id(out, &op->u.upload_complete.bucket);
        put_text(out, &op->u.upload_complete.key);
        put_id(out, &op->u.upload_complete.upload);
        put_cstr(out, op->u.upload_complete.etag);
        put_checksum(out, &op->u.upload_complete.checksum);
        put_condition(out, &op->u.upload_complete.condition);
        nef_buf_u32(out, op->u.upload_complete.part_count);
        nef_buf_append(out, op->u.upload_complete.parts,
                       (size_t)op->u.upload_complete.part_count * NEF_OP_COMPLETE_BYTES);
        break;
    case NEF_RECORD_UPLOAD_ABORT:
        put_id(out, &op->u.upload_abort.bucket);
        put_text(out, &op->u.upload_abort.key);
        put_id(out, &op->u.upload_abort.upload);
        break;
    case NEF_RECORD_STREAM_ABORT:
        nef_buf_u64(out, op->u.stream_abort.proposer);
        break;
    case NEF_RECORD_MOVED:
        put_list(out, op, NEF_OP_MOVED_BYTES);
        break;
    case NEF_RECORD_ERASE:
    case NEF_RECORD_DROP:
        put_list(out, op, NEF_OP_OFFSET_BYTES);
        break;
    case NEF_RECORD_CHECKPOINT_BEGIN:
        put_id(out, &op->u.checkpoint_begin.checkpoint);
        break;
    case NEF_RECORD_CHECKPOINT_END:
        nef_buf_u64(out, op->u.checkpoint_end.begin);
        nef_buf_u64(out, op->u.checkpoint_end.rows);
        nef_buf_append(out, op->u.checkpoint_end.digest, 32);
        break;
    case NEF_RECORD_OVERRIDE:
        nef_buf_u64(out, op->u.override.epoch);
        nef_buf_u64(out, op->u.override.end);
        break;
    case NEF_RECORD_PAD:
    case NEF_RECORD_MARK:
    case NEF_RECORD_DATA:
    case NEF_RECORD_KEY:
    case NEF_RECORD_CHECKPOINT_ROWS:
    case NEF_RECORD_SEQUENCE:
    default:
        NEF_ASSERT(nef_record_is_op(op->type) && op->type != NEF_RECORD_SEQUENCE); /* false: no fields */
    }
}

size_t nef_op_encoded_max(const struct nef_op *op)
{
    size_t fixed = 512; /* ids, numbers, ETags, checksum, wrapped key: well below this */

    switch ((enum nef_record_type)op->type) {
    case NEF_RECORD_BUCKET_PUT:
        return fixed + op->u.bucket_put.name.bytes + op->u.bucket_put.owner.bytes;
    case NEF_RECORD_USER_PUT:
        return fixed + op->u.user_put.name.bytes + op->u.user_put.access_key.bytes +
               op->u.user_put.secret_key.bytes + op->u.user_put.bucket.bytes + op->u.user_put.models.bytes +
               op->u.user_put.zones.bytes;
    case NEF_RECORD_BUDGET:
        return fixed + op->u.budget.entries_bytes;
    case NEF_RECORD_OBJECT_PUT:
        return fixed + op->u.object_put.key.bytes + op->u.object_put.attrs.bytes;
    case NEF_RECORD_OBJECT_DELETE:
        return fixed + op->u.object_delete.key.bytes;
    case NEF_RECORD_UPLOAD_CREATE:
        return fixed + op->u.upload_create.key.bytes + op->u.upload_create.attrs.bytes +
               op->u.upload_create.owner.bytes;
    case NEF_RECORD_PART_PUT:
        return fixed + op->u.part_put.key.bytes;
    case NEF_RECORD_UPLOAD_COMPLETE:
        return fixed + op->u.upload_complete.key.bytes +
               (size_t)op->u.upload_complete.part_count * NEF_OP_COMPLETE_BYTES;
    case NEF_RECORD_UPLOAD_ABORT:
        return fixed + op->u.upload_abort.key.bytes;
    case NEF_RECORD_MOVED:
        return fixed + (size_t)op->u.list.count * NEF_OP_MOVED_BYTES;
    case NEF_RECORD_ERASE:
    case NEF_RECORD_DROP:
        return fixed + (size_t)op->u.list.count * NEF_OP_OFFSET_BYTES;
    case NEF_RECORD_REGION:
    case NEF_RECORD_BUCKET_CLOSE:
    case NEF_RECORD_BUCKET_REOPEN:
    case NEF_RECORD_BUCKET_DELETE:
    case NEF_RECORD_STREAM_ABORT:
    case NEF_RECORD_CHECKPOINT_BEGIN:
    case NEF_RECORD_CHECKPOINT_END:
    case NEF_RECORD_OVERRIDE:
    case NEF_RECORD_PAD:
    case NEF_RECORD_MARK:
    case NEF_RECORD_DATA:
    case NEF_RECORD_KEY:
    case NEF_RECORD_CHECKPOINT_ROWS:
    case NEF_RECORD_SEQUENCE:
    default:
        return fixed;
    }
}
