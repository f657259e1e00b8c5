/* Attributes of an object: content-type and its like, and user metadata; see op.h.
 *
 *     u16 count | count times: u16 name bytes | name | u16 value bytes | value
 *
 * They come back as HTTP headers, so a name is a token of visible ASCII without a colon, and no value
 * holds NUL, CR or LF: what is stored can't split a response. PURE. */
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "store/op_internal.h"

void nef_attrs_begin(struct nef_buf *b)
{
    NEF_ASSERT(b->bytes == 0);
    nef_buf_u16(b, 0);
}

void nef_attrs_add(struct nef_buf *b, const void *name, size_t name_bytes, const void *value,
                   size_t value_bytes)
{
    uint32_t count;

    if (b->failed)
        return;
    NEF_ASSERT(b->bytes >= 2);
    count = (uint32_t)b->data[0] + ((uint32_t)b->data[1] << 8) + 1;
    if (count > UINT16_MAX || name_bytes > UINT16_MAX || value_bytes > UINT16_MAX) {
        b->failed = true;
        return;
    }
    b->data[0] = (uint8_t)count;
    b->data[1] = (uint8_t)(count >> 8);
    nef_buf_u16(b, (uint16_t)name_bytes);
    nef_buf_append(b, name, name_bytes);
    nef_buf_u16(b, (uint16_t)value_bytes);
    nef_buf_append(b, value, value_bytes);
}

/* The next one; false when the reader overran. */
static bool next(struct nef_reader *r, struct nef_attr *out)
{
    struct nef_attr a;

    a.name_bytes = nef_read_u16(r);
    a.name = (const char *)nef_read_view(r, a.name_bytes);
    a.value_bytes = nef_read_u16(r);
    a.value = (const char *)nef_read_view(r, a.value_bytes);
    if (r->failed)
        return false;
    *out = a;
    return true;
}

static bool name_is_token(const struct nef_attr *a)
{
    for (uint32_t i = 0; i < a->name_bytes; i++)
        if (a->name[i] <= ' ' || a->name[i] >= 0x7f || a->name[i] == ':')
            return false;
    return a->name_bytes > 0;
}

static bool value_is_line(const struct nef_attr *a)
{
    for (uint32_t i = 0; i < a->value_bytes; i++)
        if (a->value[i] == '\0' || a->value[i] == '\r' || a->value[i] == '\n')
            return false;
    return true;
}

nef_err nef_attrs_check(const struct nef_attrs *attrs)
{
    struct nef_reader r = nef_reader_of(attrs->data, attrs->bytes);
    struct nef_attr a;
    uint32_t count;

    if (attrs->bytes == 0)
        return NEF_OK; /* none */
    if (attrs->bytes > NEF_ATTRS_BYTES_MAX)
        return NEF_E_PROTOCOL;
    count = nef_read_u16(&r);
    for (uint32_t i = 0; i < count; i++)
        if (!next(&r, &a) || !name_is_token(&a) || !value_is_line(&a))
            return NEF_E_PROTOCOL;
    return nef_reader_end(&r);
}

uint32_t nef_attrs_count(const struct nef_attrs *attrs)
{
    struct nef_reader r = nef_reader_of(attrs->data, attrs->bytes);

    return nef_read_u16(&r);
}

bool nef_attrs_at(const struct nef_attrs *attrs, uint32_t i, struct nef_attr *out_attr)
{
    struct nef_reader r = nef_reader_of(attrs->data, attrs->bytes);
    uint32_t count = nef_read_u16(&r);
    struct nef_attr a = {0};

    if (i >= count)
        return false;
    for (uint32_t k = 0; k <= i; k++)
        if (!next(&r, &a))
            return false;
    *out_attr = a;
    return true;
}

bool nef_attrs_find(const struct nef_attrs *attrs, const char *name, struct nef_attr *out_attr)
{
    struct nef_reader r = nef_reader_of(attrs->data, attrs->bytes);
    uint32_t count = nef_read_u16(&r);
    size_t name_bytes = strlen(name);
    struct nef_attr a;

    for (uint32_t i = 0; i < count && next(&r, &a); i++) {
        if (a.name_bytes == name_bytes && memcmp(a.name, name, name_bytes) == 0) {
            *out_attr = a;
            return true;
        }
    }
    return false;
}
