/* GGUF: bytes to structs.
 *
 *   "GGUF"  u32 version (2, 3)  u64 tensors  u64 keys
 *   keys:     string key, u32 type, value
 *   tensors:  string name, u32 dims (1 .. 4), u64 dims[], u32 type, u64 offset
 *   zeros up to a multiple of general.alignment (32 if absent): the tensors' data, each at its offset from here
 *
 *   string: u64 bytes, bytes.  array: u32 element type, u64 count, elements.  All little-endian.
 *
 * The file is hostile. What holds of each result:
 *   1. every pointer given out, with its length, lies inside the bytes given;
 *   2. memory is at most a small multiple of the file's bytes (and of NEF_GGUF_KEYS_MAX, _TENSORS_MAX): a count is
 *      believed only as far as that many of the smallest entries fit into what is left;
 *   3. keys and names are printable ASCII (gguf.md asks for ASCII), not empty and unique, so that they may be printed
 *      and looked up;
 *   4. time is n log n in the header, whatever the names: look-up is by a sorted index, which, unlike a hash table,
 *      has no inputs that make it slow.
 *
 * An error says which key or tensor and which field. Arrays of arrays are refused (no known key has any). Not checked
 * here: what keys mean (model/config.c); that tensors don't overlap (harmless, they are only read). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "infer/gguf/gguf_internal.h"

#define MAGIC             0x46554747u /* "GGUF" */
#define KEY_BYTES_MIN     14u         /* 8 + 1 of name, 4 of type, 1 of value */
#define TENSOR_BYTES_MIN  33u         /* 8 + 1 of name, 4 + 8 of dims, 4 of type, 8 of offset */
#define ALIGNMENT_DEFAULT 32u
#define ALIGNMENT_MAX     (1u << 20)  /* a page of any kind; more only makes holes */
#define SHOWN_NAME_MAX    80          /* characters of a key in an error */

struct parser {
    struct nef_reader r; /* of what is here of the file */
    uint64_t total;      /* bytes of the whole file; more than r has when only its beginning is here */
    struct nef_gguf *file;
    char where[SHOWN_NAME_MAX + 16]; /* what is being read: "key 'general.name'" */
    char *error;                     /* NEF_GGUF_ERROR_MAX bytes */
};

static nef_err NEF_PRINTF(3, 4) fail(struct parser *p, nef_err err, const char *format, ...)
{
    size_t used;
    va_list args;

    used = (size_t)snprintf(p->error, NEF_GGUF_ERROR_MAX, "%s: ", p->where);
    NEF_ASSERT(used < NEF_GGUF_ERROR_MAX);
    va_start(args, format);
    (void)vsnprintf(p->error + used, NEF_GGUF_ERROR_MAX - used, format, args);
    va_end(args);
    return err;
}

/* Bytes of the file from here to its end, whether they are here or not. */
static uint64_t left_of_file(const struct parser *p)
{
    return p->total - p->r.at;
}

static nef_err beyond_end(struct parser *p, const char *field)
{
    return fail(p, NEF_E_PROTOCOL, "%s reaches beyond the end of the file", field);
}

static nef_err cut_off(struct parser *p, const char *field)
{
    if (p->r.bytes < p->total)
        return fail(p, NEF_E_AGAIN, "%s goes on beyond what is here of the file", field);
    return beyond_end(p, field);
}

static nef_err take_u32(struct parser *p, const char *field, uint32_t *out_value)
{
    uint32_t value = nef_read_u32(&p->r);

    if (p->r.failed)
        return cut_off(p, field);
    *out_value = value;
    return NEF_OK;
}

static nef_err take_u64(struct parser *p, const char *field, uint64_t *out_value)
{
    uint64_t value = nef_read_u64(&p->r);

    if (p->r.failed)
        return cut_off(p, field);
    *out_value = value;
    return NEF_OK;
}

/* A string's length is compared as u64 with what is left, before it becomes a size. */
static nef_err take_string(struct parser *p, const char *field, struct nef_gguf_string *out_string)
{
    uint64_t bytes = nef_read_u64(&p->r);

    if (!p->r.failed && bytes > left_of_file(p))
        return beyond_end(p, field);
    if (p->r.failed || bytes > nef_reader_left(&p->r))
        return cut_off(p, field);
    *out_string = (struct nef_gguf_string){(const char *)nef_read_view(&p->r, (size_t)bytes), (size_t)bytes};
    return NEF_OK;
}

/* A key's or a tensor's name: what errors print and look-ups compare. */
static nef_err take_name(struct parser *p, const char *kind, uint32_t index, uint32_t bytes_max,
                         struct nef_gguf_string *out_name)
{
    struct nef_gguf_string name;
    nef_err err;

    (void)snprintf(p->where, sizeof(p->where), "%s %u", kind, index);
    err = take_string(p, "name", &name);
    if (err != NEF_OK)
        return err;
    if (name.bytes == 0)
        return fail(p, NEF_E_PROTOCOL, "name is empty");
    if (name.bytes > bytes_max)
        return fail(p, NEF_E_LIMIT, "name has %zu bytes, more than %u", name.bytes, bytes_max);
    for (size_t i = 0; i < name.bytes; i++) {
        if (name.data[i] < 0x20 || name.data[i] > 0x7e)
            return fail(p, NEF_E_PROTOCOL, "name holds byte 0x%02x, which isn't printable ASCII",
                        (unsigned char)name.data[i]);
    }
    (void)snprintf(p->where, sizeof(p->where), "%s '%.*s'", kind, (int)NEF_MIN(name.bytes, SHOWN_NAME_MAX), name.data);
    *out_name = name;
    return NEF_OK;
}

size_t nef_gguf_scalar_bytes(enum nef_gguf_value_type type)
{
    static const uint8_t bytes[] = {
        [NEF_GGUF_U8] = 1,  [NEF_GGUF_I8] = 1,   [NEF_GGUF_U16] = 2, [NEF_GGUF_I16] = 2, [NEF_GGUF_U32] = 4,
        [NEF_GGUF_I32] = 4, [NEF_GGUF_F32] = 4,  [NEF_GGUF_BOOL] = 1, [NEF_GGUF_STRING] = 0, [NEF_GGUF_ARRAY] = 0,
        [NEF_GGUF_U64] = 8, [NEF_GGUF_I64] = 8,  [NEF_GGUF_F64] = 8,
    };

    return bytes[type];
}

int nef_gguf_compare(struct nef_gguf_string a, struct nef_gguf_string b)
{
    int order = memcmp(a.data, b.data, NEF_MIN(a.bytes, b.bytes));

    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static nef_err take_type(struct parser *p, const char *field, enum nef_gguf_value_type *out_type)
{
    uint32_t type = 0;
    nef_err err = take_u32(p, field, &type);

    if (err != NEF_OK)
        return err;
    if (type > NEF_GGUF_F64)
        return fail(p, NEF_E_PROTOCOL, "%s is %u, which doesn't exist", field, type);
    *out_type = (enum nef_gguf_value_type)type;
    return NEF_OK;
}

static nef_err check_bools(struct parser *p, const uint8_t *data, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (data[i] > 1)
            return fail(p, NEF_E_PROTOCOL, "a bool is %u", data[i]);
    }
    return NEF_OK;
}

static nef_err take_array(struct parser *p, struct nef_gguf_value *value)
{
    struct nef_gguf_string element;
    size_t each, start;
    nef_err err;

    err = take_type(p, "element type", &value->element);
    if (err == NEF_OK)
        err = take_u64(p, "count", &value->count);
    if (err != NEF_OK)
        return err;
    if (value->element == NEF_GGUF_ARRAY)
        return fail(p, NEF_E_UNSUPPORTED, "an array of arrays isn't supported");
    start = p->r.at;
    each = value->element == NEF_GGUF_STRING ? sizeof(uint64_t) : nef_gguf_scalar_bytes(value->element);
    if (value->count > left_of_file(p) / each)
        return fail(p, NEF_E_PROTOCOL, "count %llu reaches beyond the end of the file",
                    (unsigned long long)value->count);
    value->data = p->r.data + p->r.at;
    if (value->element == NEF_GGUF_STRING) {
        for (uint64_t i = 0; i < value->count; i++) {
            err = take_string(p, "a string of the array", &element);
            if (err != NEF_OK)
                return err;
        }
    } else {
        if (value->count > nef_reader_left(&p->r) / each)
            return cut_off(p, "an array");
        (void)nef_read_view(&p->r, (size_t)value->count * each);
    }
    value->bytes = p->r.at - start;
    return value->element == NEF_GGUF_BOOL ? check_bools(p, value->data, value->bytes) : NEF_OK;
}

static nef_err take_value(struct parser *p, uint32_t index, struct nef_gguf_value *value)
{
    struct nef_gguf_string text;
    nef_err err;

    err = take_name(p, "key", index, NEF_GGUF_KEY_BYTES_MAX, &value->key);
    if (err == NEF_OK)
        err = take_type(p, "type", &value->type);
    if (err != NEF_OK)
        return err;
    if (value->type == NEF_GGUF_ARRAY)
        return take_array(p, value);
    if (value->type == NEF_GGUF_STRING) {
        err = take_string(p, "value", &text);
        if (err != NEF_OK)
            return err;
        value->data = (const uint8_t *)text.data;
        value->bytes = text.bytes;
        return NEF_OK;
    }
    value->bytes = nef_gguf_scalar_bytes(value->type);
    value->data = nef_read_view(&p->r, value->bytes);
    if (value->data == NULL)
        return cut_off(p, "value");
    return value->type == NEF_GGUF_BOOL ? check_bools(p, value->data, 1) : NEF_OK;
}

static int value_order(const void *a, const void *b)
{
    const struct nef_gguf_value *x = a, *y = b;

    return nef_gguf_compare(x->key, y->key);
}

static nef_err take_values(struct parser *p)
{
    struct nef_gguf *file = p->file;
    nef_err err;

    for (uint32_t i = 0; i < file->value_count; i++) {
        err = take_value(p, i, &file->values[i]);
        if (err != NEF_OK)
            return err;
    }
    if (file->value_count > 1)
        qsort(file->values, file->value_count, sizeof(file->values[0]), value_order);
    for (uint32_t i = 1; i < file->value_count; i++) {
        struct nef_gguf_string key = file->values[i].key;

        if (nef_gguf_compare(file->values[i - 1].key, key) == 0) {
            (void)snprintf(p->where, sizeof(p->where), "key '%.*s'", (int)NEF_MIN(key.bytes, SHOWN_NAME_MAX), key.data);
            return fail(p, NEF_E_PROTOCOL, "appears twice");
        }
    }
    return NEF_OK;
}

/* dims, type and bytes of a tensor, so that bytes is right for type and dims and fits a size. */
static nef_err take_shape(struct parser *p, struct nef_gguf_tensor *t)
{
    uint32_t weights, block_bytes;
    uint64_t count = 1;
    char field[24];
    nef_err err;

    err = take_u32(p, "number of dims", &t->dims_count);
    if (err != NEF_OK)
        return err;
    if (t->dims_count == 0 || t->dims_count > NEF_GGUF_DIMS_MAX)
        return fail(p, NEF_E_PROTOCOL, "number of dims is %u, not 1 to %u", t->dims_count, NEF_GGUF_DIMS_MAX);
    for (uint32_t i = 0; i < NEF_GGUF_DIMS_MAX; i++)
        t->dims[i] = 1;
    for (uint32_t i = 0; i < t->dims_count; i++) {
        (void)snprintf(field, sizeof(field), "dims[%u]", i);
        err = take_u64(p, field, &t->dims[i]);
        if (err != NEF_OK)
            return err;
        if (t->dims[i] == 0)
            return fail(p, NEF_E_PROTOCOL, "%s is 0", field);
        if (__builtin_mul_overflow(count, t->dims[i], &count))
            return fail(p, NEF_E_PROTOCOL, "%s is %llu: the product of dims overflows", field,
                        (unsigned long long)t->dims[i]);
    }
    err = take_u32(p, "type", &t->type);
    if (err != NEF_OK)
        return err;
    if (!nef_ggml_block(t->type, &weights, &block_bytes))
        return fail(p, NEF_E_UNSUPPORTED,
                    "type %u isn't supported (F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K are)", t->type);
    if (t->dims[0] % weights != 0)
        return fail(p, NEF_E_PROTOCOL, "dims[0] is %llu, not a multiple of %u as %s needs",
                    (unsigned long long)t->dims[0], weights, nef_ggml_type_name(t->type));
    if (__builtin_mul_overflow(count / weights, block_bytes, &t->bytes))
        return fail(p, NEF_E_PROTOCOL, "dims: the size in bytes overflows");
    return NEF_OK;
}

static int name_order(const void *a, const void *b, void *tensors)
{
    const struct nef_gguf_tensor *t = tensors;

    return nef_gguf_compare(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static nef_err sort_tensors(struct parser *p)
{
    struct nef_gguf *file = p->file;

    for (uint32_t i = 0; i < file->tensor_count; i++)
        file->by_name[i] = i;
    if (file->tensor_count > 1)
        qsort_r(file->by_name, file->tensor_count, sizeof(file->by_name[0]), name_order, file->tensors);
    for (uint32_t i = 1; i < file->tensor_count; i++) {
        struct nef_gguf_string name = file->tensors[file->by_name[i]].name;

        if (nef_gguf_compare(file->tensors[file->by_name[i - 1]].name, name) == 0) {
            (void)snprintf(p->where, sizeof(p->where), "tensor '%.*s'", (int)name.bytes, name.data);
            return fail(p, NEF_E_PROTOCOL, "appears twice");
        }
    }
    return NEF_OK;
}

static nef_err read_alignment(struct parser *p, uint64_t *out_alignment)
{
    static const char key[] = "general.alignment";
    enum nef_gguf_value_type type;
    uint64_t count, alignment = ALIGNMENT_DEFAULT;
    nef_err err;

    err = nef_gguf_u64(p->file, key, &alignment);
    if (err == NEF_E_NOT_FOUND) {
        *out_alignment = ALIGNMENT_DEFAULT;
        return NEF_OK;
    }
    (void)snprintf(p->where, sizeof(p->where), "key '%s'", key);
    if (err != NEF_OK || nef_gguf_array(p->file, key, &type, &count) == NEF_OK)
        return fail(p, NEF_E_PROTOCOL, "is no unsigned integer");
    /* gguf.md: a multiple of 8; ggml: a power of two */
    if (alignment < 8 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)) != 0)
        return fail(p, NEF_E_PROTOCOL, "is %llu, not a power of two from 8 to %u", (unsigned long long)alignment,
                    ALIGNMENT_MAX);
    *out_alignment = alignment;
    return NEF_OK;
}

/* Tensor infos, and then their data: offsets count from the end of the infos, rounded up. */
static nef_err take_tensors(struct parser *p)
{
    struct nef_gguf *file = p->file;
    uint64_t alignment = 0, start, left;
    nef_err err;

    err = read_alignment(p, &alignment);
    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; i < file->tensor_count; i++) {
        err = take_name(p, "tensor", i, NEF_GGUF_NAME_BYTES_MAX, &file->tensors[i].name);
        if (err == NEF_OK)
            err = take_shape(p, &file->tensors[i]);
        if (err == NEF_OK)
            err = take_u64(p, "offset", &file->tensors[i].offset);
        if (err != NEF_OK)
            return err;
    }
    file->header_bytes = p->r.at;
    file->alignment = alignment;
    start = (p->r.at + alignment - 1) & ~(alignment - 1); /* p->r.at is a size of memory: far from overflow */
    file->data_start = start;
    left = start < p->total ? p->total - start : 0;
    for (uint32_t i = 0; i < file->tensor_count; i++) {
        struct nef_gguf_tensor *t = &file->tensors[i];

        (void)snprintf(p->where, sizeof(p->where), "tensor '%.*s'", (int)t->name.bytes, t->name.data);
        if (t->offset % alignment != 0)
            err = fail(p, NEF_E_PROTOCOL, "offset %llu isn't a multiple of general.alignment (%llu)",
                       (unsigned long long)t->offset, (unsigned long long)alignment);
        else if (t->offset > left || t->bytes > left - t->offset)
            err = fail(p, NEF_E_PROTOCOL, "offset %llu and its %llu bytes reach beyond the end of the file",
                       (unsigned long long)t->offset, (unsigned long long)t->bytes);
        if (err != NEF_OK)
            return err;
        t->data = p->r.bytes == p->total ? p->r.data + start + t->offset : NULL;
    }
    return sort_tensors(p);
}

/* Version and counts, then room for that many keys and tensors. */
static nef_err take_header(struct parser *p)
{
    struct nef_gguf *file = p->file;
    uint64_t tensors = 0, keys = 0;
    uint32_t magic = 0;
    nef_err err;

    (void)snprintf(p->where, sizeof(p->where), "header");
    err = take_u32(p, "magic", &magic);
    if (err != NEF_OK)
        return err;
    if (magic != MAGIC)
        return fail(p, NEF_E_PROTOCOL, "this is no GGUF file (it doesn't begin with \"GGUF\")");
    err = take_u32(p, "version", &file->version);
    if (err != NEF_OK)
        return err;
    if (file->version != 2 && file->version != 3)
        return fail(p, NEF_E_VERSION, "version %u isn't supported (2 and 3 are)%s", file->version,
                    (file->version & 0xffff) == 0 ? "; the file may be big-endian" : "");
    err = take_u64(p, "number of tensors", &tensors);
    if (err == NEF_OK)
        err = take_u64(p, "number of keys", &keys);
    if (err != NEF_OK)
        return err;
    if (tensors > NEF_GGUF_TENSORS_MAX)
        return fail(p, NEF_E_LIMIT, "number of tensors is %llu, more than %u", (unsigned long long)tensors,
                    NEF_GGUF_TENSORS_MAX);
    if (keys > NEF_GGUF_KEYS_MAX)
        return fail(p, NEF_E_LIMIT, "number of keys is %llu, more than %u", (unsigned long long)keys,
                    NEF_GGUF_KEYS_MAX);
    if (keys * KEY_BYTES_MIN + tensors * TENSOR_BYTES_MIN > left_of_file(p))
        return fail(p, NEF_E_PROTOCOL, "number of keys (%llu) and tensors (%llu): so many don't fit into the file",
                    (unsigned long long)keys, (unsigned long long)tensors);
    file->values = calloc(NEF_MAX(keys, 1u), sizeof(file->values[0]));
    file->tensors = calloc(NEF_MAX(tensors, 1u), sizeof(file->tensors[0]));
    file->by_name = calloc(NEF_MAX(tensors, 1u), sizeof(file->by_name[0]));
    if (file->values == NULL || file->tensors == NULL || file->by_name == NULL)
        return fail(p, NEF_E_NOMEM, "out of memory");
    file->value_count = (uint32_t)keys;
    file->tensor_count = (uint32_t)tensors;
    return NEF_OK;
}

nef_err nef_gguf_parse_head(const uint8_t *data, size_t bytes, uint64_t total, char *out_error,
                            struct nef_gguf **out_file)
{
    struct parser p = {.r = nef_reader_of(data, bytes), .total = total, .where = "header", .error = out_error};
    nef_err err;

    NEF_ASSERT(bytes <= total);
    p.file = calloc(1, sizeof(*p.file));
    if (p.file == NULL)
        return fail(&p, NEF_E_NOMEM, "out of memory");
    err = take_header(&p);
    if (err == NEF_OK)
        err = take_values(&p);
    if (err == NEF_OK)
        err = take_tensors(&p);
    if (err != NEF_OK) {
        nef_gguf_free(p.file);
        return err;
    }
    *out_file = p.file;
    return NEF_OK;
}

nef_err nef_gguf_parse(const uint8_t *data, size_t bytes, char *out_error, struct nef_gguf **out_file)
{
    return nef_gguf_parse_head(data, bytes, bytes, out_error, out_file);
}

void nef_gguf_free(struct nef_gguf *file)
{
    if (file == NULL)
        return;
    free(file->values);
    free(file->tensors);
    free(file->by_name);
    free(file);
}
