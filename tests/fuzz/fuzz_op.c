/* Fuzz target: fields of ops. Two bytes of type, then the fields. What decodes must encode to the same bytes,
 * its lists and attributes can be walked, and nothing beyond the bytes is read. */
#include <stdint.h>
#include <string.h>
#include "base/assert.h"
#include "store/op.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void walk_attrs(const struct nef_attrs *attrs)
{
    struct nef_attr a;

    for (uint32_t i = 0; i < nef_attrs_count(attrs); i++) {
        NEF_ASSERT(nef_attrs_at(attrs, i, &a));
        NEF_ASSERT(a.name_bytes > 0 && memchr(a.name, ':', a.name_bytes) == NULL);
        NEF_ASSERT(a.value_bytes == 0 || memchr(a.value, '\n', a.value_bytes) == NULL);
    }
    NEF_ASSERT(!nef_attrs_at(attrs, nef_attrs_count(attrs), &a));
    (void)nef_attrs_find(attrs, "content-type", &a);
}

static void walk(const struct nef_op *op)
{
    struct nef_op_complete_part part;
    struct nef_op_moved moved;

    if (op->type == NEF_RECORD_OBJECT_PUT) {
        walk_attrs(&op->u.object_put.attrs);
        NEF_ASSERT(strlen(op->u.object_put.etag) <= NEF_ETAG_MAX);
        NEF_ASSERT(memchr(op->u.object_put.key.data, '\0', op->u.object_put.key.bytes) == NULL);
    }
    if (op->type == NEF_RECORD_UPLOAD_CREATE)
        walk_attrs(&op->u.upload_create.attrs);
    if (op->type == NEF_RECORD_UPLOAD_COMPLETE)
        for (uint32_t i = 0; i < op->u.upload_complete.part_count; i++)
            nef_op_complete_part_at(op, i, &part);
    if (op->type == NEF_RECORD_MOVED)
        for (uint32_t i = 0; i < op->u.list.count; i++)
            nef_op_item_moved(op, i, &moved);
    if (op->type == NEF_RECORD_ERASE || op->type == NEF_RECORD_DROP)
        for (uint32_t i = 0; i < op->u.list.count; i++)
            (void)nef_op_item_u64(op, i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct nef_buf again = {0};
    struct nef_op op;
    uint16_t type;

    if (bytes < 2)
        return 0;
    type = (uint16_t)(data[0] | data[1] << 8);
    if (nef_op_decode(type, data + 2, bytes - 2, &op) != NEF_OK)
        return 0;
    walk(&op);
    nef_op_encode(&op, &again);
    NEF_ASSERT(nef_buf_end(&again) == NEF_OK);
    NEF_ASSERT(again.bytes == bytes - 2);
    NEF_ASSERT(memcmp(again.data, data + 2, again.bytes) == 0);
    nef_buf_free(&again);
    return 0;
}
