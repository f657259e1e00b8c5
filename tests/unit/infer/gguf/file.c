#include <stdlib.h>
#include <string.h>

#include "file.h"

void put_string(struct nef_buf *b, const char *text)
{
    nef_buf_u64(b, strlen(text));
    nef_buf_text(b, text);
}

void put_header(struct nef_buf *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    nef_buf_text(b, "GGUF");
    nef_buf_u32(b, version);
    nef_buf_u64(b, tensors);
    nef_buf_u64(b, keys);
}

void put_key(struct nef_buf *b, const char *key, uint32_t type)
{
    put_string(b, key);
    nef_buf_u32(b, type);
}

void put_tensor(struct nef_buf *b, const char *name, uint32_t dims_count, const uint64_t *dims, uint32_t type,
                uint64_t offset)
{
    put_string(b, name);
    nef_buf_u32(b, dims_count);
    for (uint32_t i = 0; i < dims_count; i++)
        nef_buf_u64(b, dims[i]);
    nef_buf_u32(b, type);
    nef_buf_u64(b, offset);
}

void put_padding(struct nef_buf *b, size_t alignment)
{
    while (b->bytes % alignment != 0)
        nef_buf_u8(b, 0);
}

void put_good_file(struct nef_buf *b)
{
    static const uint64_t vector[] = {32}, matrix[] = {32, 2}, four[] = {4};
    const float f = 0.5f;
    const double d = 0.1;
    uint8_t data[160];

    put_header(b, 3, 3, 10);
    put_key(b, "general.architecture", NEF_GGUF_STRING);
    put_string(b, "qwen3");
    put_key(b, "general.alignment", NEF_GGUF_U32);
    nef_buf_u32(b, 64);
    put_key(b, "split.no", NEF_GGUF_U16);
    nef_buf_u16(b, 7);
    put_key(b, "negative", NEF_GGUF_I32);
    nef_buf_u32(b, (uint32_t)-5);
    put_key(b, "single", NEF_GGUF_F32);
    nef_buf_append(b, &f, sizeof(f));
    put_key(b, "double", NEF_GGUF_F64);
    nef_buf_append(b, &d, sizeof(d));
    put_key(b, "yes", NEF_GGUF_BOOL);
    nef_buf_u8(b, 1);
    put_key(b, "words", NEF_GGUF_ARRAY);
    nef_buf_u32(b, NEF_GGUF_STRING);
    nef_buf_u64(b, 3);
    put_string(b, "one");
    put_string(b, "");
    put_string(b, "three");
    put_key(b, "numbers", NEF_GGUF_ARRAY);
    nef_buf_u32(b, NEF_GGUF_I32);
    nef_buf_u64(b, 3);
    nef_buf_u32(b, 1);
    nef_buf_u32(b, (uint32_t)-1);
    nef_buf_u32(b, 3);
    put_key(b, "big", NEF_GGUF_U64);
    nef_buf_u64(b, UINT64_MAX);
    put_tensor(b, "vector", 1, vector, NEF_GGML_F32, 0);
    put_tensor(b, "matrix", 2, matrix, NEF_GGML_Q8_0, 128);
    put_tensor(b, "half", 1, four, NEF_GGML_F16, 256);
    put_padding(b, 64);
    memset(data, 0, sizeof(data));
    nef_buf_append(b, data, 128);          /* vector */
    data[1] = 0x3c;                        /* matrix, row 0: d = 1, q = 0 but the first, 3 */
    data[2] = 3;
    data[34 + 1] = 0xc0;                   /* row 1: d = -2, the last q = -128 */
    data[34 + 2 + 31] = 0x80;
    nef_buf_append(b, data, 128);
    memcpy(data, "\x00\x3c\x01\x00\x00\xfc\x00\x80", 8); /* 1, the smallest subnormal, -inf, -0 */
    nef_buf_append(b, data, 8);
    assert_int_equal(nef_buf_end(b), NEF_OK);
}

nef_err parse_copy(const void *data, size_t bytes, char *error, uint8_t **out_copy, struct nef_gguf **out_file)
{
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    nef_err err;

    assert_non_null(copy);
    if (bytes > 0)
        memcpy(copy, data, bytes);
    error[0] = '\0';
    err = nef_gguf_parse(copy, bytes, error, out_file);
    if (err != NEF_OK)
        free(copy);
    else
        *out_copy = copy;
    return err;
}

void assert_refused(struct nef_buf *b, nef_err err, const char *part)
{
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_gguf *file = NULL;
    uint8_t *copy;
    nef_err got;

    assert_int_equal(nef_buf_end(b), NEF_OK);
    got = parse_copy(b->data, b->bytes, error, &copy, &file);
    if (got != err || strstr(error, part) == NULL)
        fail_msg("%s: '%s', not %s: '...%s...'", nef_err_name(got), error, nef_err_name(err), part);
    assert_null(file);
    nef_buf_free(b);
}
