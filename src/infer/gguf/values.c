/* Look-up of keys and tensors, and values as the caller's types. Everything was checked by parse.c, so that nothing
 * here can leave the file; what can still be wrong is the type or the range, and that is the caller's NEF_E_INVALID. */
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "infer/gguf/gguf_internal.h"

static const struct nef_gguf_value *find_value(const struct nef_gguf *file, const char *key)
{
    struct nef_gguf_string wanted = {key, strlen(key)};
    uint32_t low = 0, high = file->value_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = nef_gguf_compare(file->values[middle].key, wanted);

        if (order == 0)
            return &file->values[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

uint32_t nef_gguf_version(const struct nef_gguf *file)
{
    return file->version;
}

size_t nef_gguf_header_bytes(const struct nef_gguf *file)
{
    return file->header_bytes;
}

uint64_t nef_gguf_data_start(const struct nef_gguf *file)
{
    return file->data_start;
}

uint32_t nef_gguf_tensor_count(const struct nef_gguf *file)
{
    return file->tensor_count;
}

const struct nef_gguf_tensor *nef_gguf_tensor_at(const struct nef_gguf *file, uint32_t index)
{
    NEF_ASSERT(index < file->tensor_count);
    return &file->tensors[index];
}

const struct nef_gguf_tensor *nef_gguf_tensor(const struct nef_gguf *file, const char *name)
{
    struct nef_gguf_string wanted = {name, strlen(name)};
    uint32_t low = 0, high = file->tensor_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct nef_gguf_tensor *t = &file->tensors[file->by_name[middle]];
        int order = nef_gguf_compare(t->name, wanted);

        if (order == 0)
            return t;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* An integer (and, in arrays, a bool) as u64; negative ones and other types are refused. */
static nef_err scalar_u64(enum nef_gguf_value_type type, const uint8_t *data, bool bools, uint64_t *out_value)
{
    struct nef_reader r = nef_reader_of(data, nef_gguf_scalar_bytes(type));
    int64_t value;

    switch (type) {
    case NEF_GGUF_U8:
        value = nef_read_u8(&r);
        break;
    case NEF_GGUF_I8:
        value = (int8_t)nef_read_u8(&r);
        break;
    case NEF_GGUF_U16:
        value = nef_read_u16(&r);
        break;
    case NEF_GGUF_I16:
        value = (int16_t)nef_read_u16(&r);
        break;
    case NEF_GGUF_U32:
        value = nef_read_u32(&r);
        break;
    case NEF_GGUF_I32:
        value = (int32_t)nef_read_u32(&r);
        break;
    case NEF_GGUF_U64:
        *out_value = nef_read_u64(&r);
        return NEF_OK;
    case NEF_GGUF_I64:
        value = (int64_t)nef_read_u64(&r);
        break;
    case NEF_GGUF_BOOL:
        if (!bools)
            return NEF_E_INVALID;
        value = nef_read_u8(&r);
        break;
    case NEF_GGUF_F32:
    case NEF_GGUF_F64:
    case NEF_GGUF_STRING:
    case NEF_GGUF_ARRAY:
    default:
        return NEF_E_INVALID;
    }
    if (value < 0)
        return NEF_E_INVALID;
    *out_value = (uint64_t)value;
    return NEF_OK;
}

static nef_err scalar_f64(enum nef_gguf_value_type type, const uint8_t *data, double *out_value)
{
    float single;

    if (type == NEF_GGUF_F32) {
        memcpy(&single, data, sizeof(single));
        *out_value = (double)single;
        return NEF_OK;
    }
    if (type == NEF_GGUF_F64) {
        memcpy(out_value, data, sizeof(*out_value));
        return NEF_OK;
    }
    return NEF_E_INVALID;
}

nef_err nef_gguf_u64(const struct nef_gguf *file, const char *key, uint64_t *out_value)
{
    const struct nef_gguf_value *value = find_value(file, key);

    return value == NULL ? NEF_E_NOT_FOUND : scalar_u64(value->type, value->data, false, out_value);
}

nef_err nef_gguf_f64(const struct nef_gguf *file, const char *key, double *out_value)
{
    const struct nef_gguf_value *value = find_value(file, key);

    return value == NULL ? NEF_E_NOT_FOUND : scalar_f64(value->type, value->data, out_value);
}

nef_err nef_gguf_bool(const struct nef_gguf *file, const char *key, bool *out_value)
{
    const struct nef_gguf_value *value = find_value(file, key);

    if (value == NULL)
        return NEF_E_NOT_FOUND;
    if (value->type != NEF_GGUF_BOOL)
        return NEF_E_INVALID;
    *out_value = value->data[0] != 0;
    return NEF_OK;
}

nef_err nef_gguf_text(const struct nef_gguf *file, const char *key, struct nef_gguf_string *out_value)
{
    const struct nef_gguf_value *value = find_value(file, key);

    if (value == NULL)
        return NEF_E_NOT_FOUND;
    if (value->type != NEF_GGUF_STRING)
        return NEF_E_INVALID;
    *out_value = (struct nef_gguf_string){(const char *)value->data, value->bytes};
    return NEF_OK;
}

static nef_err find_array(const struct nef_gguf *file, const char *key, const struct nef_gguf_value **out_value)
{
    const struct nef_gguf_value *value = find_value(file, key);

    if (value == NULL)
        return NEF_E_NOT_FOUND;
    if (value->type != NEF_GGUF_ARRAY)
        return NEF_E_INVALID;
    *out_value = value;
    return NEF_OK;
}

nef_err nef_gguf_array(const struct nef_gguf *file, const char *key, enum nef_gguf_value_type *out_type,
                       uint64_t *out_count)
{
    const struct nef_gguf_value *value;
    nef_err err = find_array(file, key, &value);

    if (err != NEF_OK)
        return err;
    *out_type = value->element;
    *out_count = value->count;
    return NEF_OK;
}

nef_err nef_gguf_array_string(const struct nef_gguf *file, const char *key, uint64_t *at,
                              struct nef_gguf_string *out_value)
{
    const struct nef_gguf_value *value;
    struct nef_reader r;
    uint64_t bytes;
    const uint8_t *text;
    nef_err err = find_array(file, key, &value);

    if (err != NEF_OK)
        return err;
    if (value->element != NEF_GGUF_STRING)
        return NEF_E_INVALID;
    if (*at >= value->bytes)
        return NEF_E_RANGE;
    r = nef_reader_of(value->data + *at, value->bytes - (size_t)*at);
    bytes = nef_read_u64(&r);
    if (r.failed || bytes > nef_reader_left(&r))
        return NEF_E_RANGE; /* *at isn't what an earlier call left */
    text = nef_read_view(&r, (size_t)bytes);
    *at += r.at;
    *out_value = (struct nef_gguf_string){(const char *)text, (size_t)bytes};
    return NEF_OK;
}

static nef_err find_element(const struct nef_gguf *file, const char *key, uint64_t index,
                            const struct nef_gguf_value **out_value, const uint8_t **out_data)
{
    nef_err err = find_array(file, key, out_value);

    if (err != NEF_OK)
        return err;
    if (index >= (*out_value)->count)
        return NEF_E_RANGE;
    *out_data = (*out_value)->data + index * nef_gguf_scalar_bytes((*out_value)->element);
    return NEF_OK;
}

nef_err nef_gguf_array_u64(const struct nef_gguf *file, const char *key, uint64_t index, uint64_t *out_value)
{
    const struct nef_gguf_value *value;
    const uint8_t *data;
    nef_err err = find_element(file, key, index, &value, &data);

    return err != NEF_OK ? err : scalar_u64(value->element, data, true, out_value);
}

nef_err nef_gguf_array_f64(const struct nef_gguf *file, const char *key, uint64_t index, double *out_value)
{
    const struct nef_gguf_value *value;
    const uint8_t *data;
    nef_err err = find_element(file, key, index, &value, &data);

    return err != NEF_OK ? err : scalar_f64(value->element, data, out_value);
}
