/* Fuzz target of src/infer/gguf: a file parsed, whole and by its head, joined, then everything read of it that a loader
 * of models reads. What parsed must keep its promises: pointers inside the bytes, names in order and found again,
 * arrays that end where they say. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/gguf/gguf_internal.h"
#include "infer/gguf/join.h"

#define ROW_MAX 4096 /* weights of a row that is dequantized */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(const uint8_t *data, size_t size, const void *part, uint64_t bytes)
{
    const uint8_t *p = part;

    NEF_ASSERT(p >= data && p <= data + size && bytes <= (uint64_t)(data + size - p));
}

static void check_array(const struct nef_gguf *file, const struct nef_gguf_value *v, const char *key)
{
    struct nef_gguf_string text;
    uint64_t at = 0, count = 0, u;
    double d;

    if (v->element == NEF_GGUF_STRING) {
        while (nef_gguf_array_string(file, key, &at, &text) == NEF_OK) {
            NEF_ASSERT(text.bytes <= v->bytes && ++count <= v->count);
        }
        NEF_ASSERT(count == v->count && at == v->bytes);
        return;
    }
    NEF_ASSERT(v->bytes == v->count * nef_gguf_scalar_bytes(v->element));
    if (v->count > 0) {
        (void)!nef_gguf_array_u64(file, key, v->count - 1, &u);
        (void)!nef_gguf_array_f64(file, key, v->count - 1, &d);
    }
    NEF_ASSERT(nef_gguf_array_u64(file, key, v->count, &u) == NEF_E_RANGE);
}

static void check_values(const struct nef_gguf *file, const uint8_t *data, size_t size)
{
    for (uint32_t i = 0; i < file->value_count; i++) {
        const struct nef_gguf_value *v = &file->values[i];
        char *key = strndup(v->key.data, v->key.bytes);
        enum nef_gguf_value_type element;
        struct nef_gguf_string text;
        uint64_t u, count;
        double d;
        bool yes;
        int found;

        if (key == NULL)
            return;
        check_inside(data, size, v->key.data, v->key.bytes);
        check_inside(data, size, v->data, v->bytes);
        NEF_ASSERT(i == 0 || nef_gguf_compare(file->values[i - 1].key, v->key) < 0);
        found = nef_gguf_f64(file, key, &d) == NEF_OK;
        found += nef_gguf_bool(file, key, &yes) == NEF_OK;
        found += nef_gguf_text(file, key, &text) == NEF_OK;
        found += nef_gguf_array(file, key, &element, &count) == NEF_OK;
        if (found == 0)
            (void)!nef_gguf_u64(file, key, &u); /* an integer, which may be negative */
        else
            NEF_ASSERT(found == 1 && nef_gguf_u64(file, key, &u) == NEF_E_INVALID);
        if (v->type == NEF_GGUF_ARRAY)
            check_array(file, v, key);
        free(key);
    }
}

static void check_tensors(const struct nef_gguf *file, const uint8_t *data, size_t size)
{
    static float row[ROW_MAX];

    for (uint32_t i = 0; i < nef_gguf_tensor_count(file); i++) {
        const struct nef_gguf_tensor *t = nef_gguf_tensor_at(file, i);
        char name[NEF_GGUF_NAME_BYTES_MAX + 1];

        check_inside(data, size, t->data, t->bytes);
        NEF_ASSERT(t->name.bytes <= NEF_GGUF_NAME_BYTES_MAX && t->dims[0] > 0);
        memcpy(name, t->name.data, t->name.bytes);
        name[t->name.bytes] = '\0';
        NEF_ASSERT(nef_gguf_tensor(file, name) == t);
        if (t->dims[0] <= ROW_MAX) {
            nef_gguf_row(t, 0, row);
            nef_gguf_row(t, t->dims[1] * t->dims[2] * t->dims[3] - 1, row);
        }
    }
}

/* The same file seen by its beginning: a head that is whole says what the file says; one that isn't asks for more. And
 * joined with nothing, if it says that it is the only part. */
static void check_head(const struct nef_gguf *whole, const uint8_t *data, size_t size)
{
    size_t part = size / 2;
    uint8_t *copy = malloc(part > 0 ? part : 1);
    struct nef_gguf_run runs[2];
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_gguf *head = NULL;
    struct nef_buf header = {0};
    uint64_t total = size;
    nef_err err;

    if (copy == NULL)
        return;
    memcpy(copy, data, part);
    err = nef_gguf_parse_head(copy, part, size, error, &head);
    if (nef_gguf_header_bytes(whole) <= part) {
        NEF_ASSERT(err == NEF_OK && head->tensor_count == whole->tensor_count);
        for (uint32_t i = 0; i < head->tensor_count; i++)
            check_inside(copy, part, head->tensors[i].name.data, head->tensors[i].name.bytes);
        nef_gguf_free(head);
    } else {
        NEF_ASSERT(err == NEF_E_AGAIN || err == NEF_E_NOMEM);
    }
    if (nef_gguf_join(&whole, &total, 1, error, &header, runs) == NEF_OK) {
        NEF_ASSERT(runs[0].bytes == 0 || runs[0].offset + runs[0].bytes == size);
        NEF_ASSERT(nef_gguf_parse_head(header.data, header.bytes, header.bytes + runs[0].bytes, error,
                                       &head) == NEF_OK);
        NEF_ASSERT(head->tensor_count == whole->tensor_count && head->data_start == header.bytes);
        nef_gguf_free(head);
    }
    nef_buf_free(&header);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_gguf *file = NULL;
    uint8_t *copy = malloc(size > 0 ? size : 1); /* exactly its size, so that a sanitizer sees each byte too far */

    if (copy == NULL)
        return 0;
    memcpy(copy, data, size);
    memset(error, 0xff, sizeof(error));
    if (nef_gguf_parse(copy, size, error, &file) == NEF_OK) {
        NEF_ASSERT(nef_gguf_header_bytes(file) <= size);
        check_values(file, copy, size);
        check_tensors(file, copy, size);
        check_head(file, copy, size);
        nef_gguf_free(file);
    } else {
        NEF_ASSERT(file == NULL && memchr(error, '\0', sizeof(error)) != NULL && strchr(error, ':') != NULL);
    }
    free(copy);
    return 0;
}
