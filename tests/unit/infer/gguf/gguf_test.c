/* Unit tests of src/infer/gguf: a good file read whole, and each field made wrong in turn. Every refusal names its
 * field. Cutting a good file at every byte and changing every byte must neither crash nor read beyond the end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"

static void a_good_file_says_what_was_written(void **state)
{
    struct nef_buf b = {0};
    char error[NEF_GGUF_ERROR_MAX];
    const struct nef_gguf_tensor *t;
    struct nef_gguf *file;
    struct nef_gguf_string s;
    enum nef_gguf_value_type type;
    uint64_t u = 0, at = 0;
    double d = 0;
    bool yes = false;
    uint8_t *copy;

    (void)state;
    put_good_file(&b);
    assert_int_equal(parse_copy(b.data, b.bytes, error, &copy, &file), NEF_OK);
    assert_int_equal(nef_gguf_version(file), 3);
    assert_int_equal(nef_gguf_text(file, "general.architecture", &s), NEF_OK);
    assert_int_equal(s.bytes, 5);
    assert_memory_equal(s.data, "qwen3", 5);
    assert_int_equal(nef_gguf_u64(file, "split.no", &u), NEF_OK);
    assert_int_equal(u, 7);
    assert_int_equal(nef_gguf_u64(file, "big", &u), NEF_OK);
    assert_true(u == UINT64_MAX);
    assert_int_equal(nef_gguf_f64(file, "single", &d), NEF_OK);
    assert_true(d == 0.5);
    assert_int_equal(nef_gguf_f64(file, "double", &d), NEF_OK);
    assert_true(d == 0.1);
    assert_int_equal(nef_gguf_bool(file, "yes", &yes), NEF_OK);
    assert_true(yes);

    assert_int_equal(nef_gguf_array(file, "words", &type, &u), NEF_OK);
    assert_int_equal(type, NEF_GGUF_STRING);
    assert_int_equal(u, 3);
    assert_int_equal(nef_gguf_array_string(file, "words", &at, &s), NEF_OK);
    assert_true(s.bytes == 3 && memcmp(s.data, "one", 3) == 0);
    assert_int_equal(nef_gguf_array_string(file, "words", &at, &s), NEF_OK);
    assert_int_equal(s.bytes, 0);
    assert_int_equal(nef_gguf_array_string(file, "words", &at, &s), NEF_OK);
    assert_true(s.bytes == 5 && memcmp(s.data, "three", 5) == 0);
    assert_int_equal(nef_gguf_array_string(file, "words", &at, &s), NEF_E_RANGE);
    assert_int_equal(nef_gguf_array_u64(file, "numbers", 2, &u), NEF_OK);
    assert_int_equal(u, 3);

    assert_int_equal(nef_gguf_tensor_count(file), 3);
    assert_null(nef_gguf_tensor(file, "matri"));
    assert_null(nef_gguf_tensor(file, "matrixx"));
    assert_non_null(nef_gguf_tensor(file, "half"));
    t = nef_gguf_tensor(file, "matrix");
    assert_ptr_equal(t, nef_gguf_tensor_at(file, 1));
    assert_int_equal(t->dims_count, 2);
    assert_true(t->dims[0] == 32 && t->dims[1] == 2 && t->dims[2] == 1 && t->dims[3] == 1);
    assert_int_equal(t->type, NEF_GGML_Q8_0);
    assert_int_equal(t->bytes, 68);
    assert_true(nef_gguf_header_bytes(file) > 300 && copy + nef_gguf_header_bytes(file) <= t->data - 128);
    assert_int_equal((t->data - copy) % 64, 0);
    assert_int_equal(t->data[2], 3);
    nef_gguf_free(file);
    free(copy);
    nef_buf_free(&b);
}

static void values_of_another_type_are_invalid(void **state)
{
    struct nef_buf b = {0};
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_gguf *file;
    struct nef_gguf_string s = {NULL, 42};
    enum nef_gguf_value_type type = NEF_GGUF_I8;
    uint64_t u = 42, at = 0;
    double d = 42;
    bool yes = false;
    uint8_t *copy;

    (void)state;
    put_good_file(&b);
    assert_int_equal(parse_copy(b.data, b.bytes, error, &copy, &file), NEF_OK);
    assert_int_equal(nef_gguf_u64(file, "absent", &u), NEF_E_NOT_FOUND);
    assert_int_equal(nef_gguf_u64(file, "negative", &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_u64(file, "single", &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_u64(file, "yes", &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_u64(file, "numbers", &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_u64(file, "general.architecture", &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_f64(file, "split.no", &d), NEF_E_INVALID);
    assert_int_equal(nef_gguf_f64(file, "absent", &d), NEF_E_NOT_FOUND);
    assert_int_equal(nef_gguf_bool(file, "split.no", &yes), NEF_E_INVALID);
    assert_int_equal(nef_gguf_bool(file, "absent", &yes), NEF_E_NOT_FOUND);
    assert_int_equal(nef_gguf_text(file, "words", &s), NEF_E_INVALID);
    assert_int_equal(nef_gguf_text(file, "absent", &s), NEF_E_NOT_FOUND);
    assert_int_equal(nef_gguf_array(file, "split.no", &type, &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_array(file, "absent", &type, &u), NEF_E_NOT_FOUND);
    assert_int_equal(nef_gguf_array_string(file, "numbers", &at, &s), NEF_E_INVALID);
    assert_int_equal(nef_gguf_array_u64(file, "words", 0, &u), NEF_E_INVALID);
    assert_int_equal(nef_gguf_array_u64(file, "numbers", 1, &u), NEF_E_INVALID); /* -1 */
    assert_int_equal(nef_gguf_array_u64(file, "numbers", 3, &u), NEF_E_RANGE);
    assert_int_equal(nef_gguf_array_u64(file, "numbers", UINT64_MAX, &u), NEF_E_RANGE);
    assert_int_equal(nef_gguf_array_f64(file, "numbers", 0, &d), NEF_E_INVALID);
    at = 3; /* not where a string begins */
    assert_int_equal(nef_gguf_array_string(file, "words", &at, &s), NEF_E_RANGE);
    at = UINT64_MAX;
    assert_int_equal(nef_gguf_array_string(file, "words", &at, &s), NEF_E_RANGE);
    assert_true(u == 42 && d == 42 && !yes && s.data == NULL && s.bytes == 42 && type == NEF_GGUF_I8);
    nef_gguf_free(file);
    free(copy);
    nef_buf_free(&b);
}

static void every_integer_type_is_a_u64(void **state)
{
    static const struct {
        uint32_t type, bytes;
    } types[] = {{NEF_GGUF_U8, 1}, {NEF_GGUF_I8, 1}, {NEF_GGUF_U16, 2}, {NEF_GGUF_I16, 2}, {NEF_GGUF_U32, 4},
                 {NEF_GGUF_I32, 4}, {NEF_GGUF_U64, 8}, {NEF_GGUF_I64, 8}};

    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        const uint64_t ones = UINT64_MAX, small = 100;
        struct nef_buf b = {0};
        char error[NEF_GGUF_ERROR_MAX];
        bool is_signed = types[i].type == NEF_GGUF_I8 || types[i].type == NEF_GGUF_I16 ||
                         types[i].type == NEF_GGUF_I32 || types[i].type == NEF_GGUF_I64;
        struct nef_gguf *file;
        uint64_t u = 0;
        uint8_t *copy;

        put_header(&b, 2, 0, 3);
        put_key(&b, "small", types[i].type);
        nef_buf_append(&b, &small, types[i].bytes);
        put_key(&b, "ones", types[i].type);
        nef_buf_append(&b, &ones, types[i].bytes);
        put_key(&b, "array", NEF_GGUF_ARRAY);
        nef_buf_u32(&b, types[i].type);
        nef_buf_u64(&b, 2);
        nef_buf_append(&b, &ones, types[i].bytes);
        nef_buf_append(&b, &small, types[i].bytes);
        assert_int_equal(parse_copy(b.data, b.bytes, error, &copy, &file), NEF_OK);
        assert_int_equal(nef_gguf_version(file), 2);
        assert_int_equal(nef_gguf_u64(file, "small", &u), NEF_OK);
        assert_int_equal(u, 100);
        assert_int_equal(nef_gguf_array_u64(file, "array", 1, &u), NEF_OK);
        assert_int_equal(u, 100);
        assert_int_equal(nef_gguf_u64(file, "ones", &u), is_signed ? NEF_E_INVALID : NEF_OK);
        assert_true(u == (is_signed ? 100 : UINT64_MAX >> (64 - 8 * types[i].bytes)));
        nef_gguf_free(file);
        free(copy);
        nef_buf_free(&b);
    }
}

static void headers_that_are_wrong_are_refused(void **state)
{
    struct nef_buf b = {0};

    (void)state;
    assert_refused(&b, NEF_E_PROTOCOL, "magic");
    nef_buf_text(&b, "GGML");
    nef_buf_u32(&b, 3);
    assert_refused(&b, NEF_E_PROTOCOL, "no GGUF file");
    put_header(&b, 1, 0, 0);
    assert_refused(&b, NEF_E_VERSION, "version 1");
    put_header(&b, 4, 0, 0);
    assert_refused(&b, NEF_E_VERSION, "version 4");
    put_header(&b, 3u << 24, 0, 0);
    assert_refused(&b, NEF_E_VERSION, "big-endian");
    put_header(&b, 3, NEF_GGUF_TENSORS_MAX + 1ull, 0);
    assert_refused(&b, NEF_E_LIMIT, "number of tensors");
    put_header(&b, 3, UINT64_MAX, 0);
    assert_refused(&b, NEF_E_LIMIT, "number of tensors");
    put_header(&b, 3, 0, NEF_GGUF_KEYS_MAX + 1ull);
    assert_refused(&b, NEF_E_LIMIT, "number of keys");
    put_header(&b, 3, 0, UINT64_MAX);
    assert_refused(&b, NEF_E_LIMIT, "number of keys");
    put_header(&b, 3, 1000, 1000); /* nothing is allocated for what can't be there */
    assert_refused(&b, NEF_E_PROTOCOL, "don't fit");
    put_header(&b, 3, 0, 1);
    assert_refused(&b, NEF_E_PROTOCOL, "don't fit");
}

/* A header with one key whose bytes are the caller's to add. */
static void one_key(struct nef_buf *b, const char *key, uint32_t type)
{
    put_header(b, 3, 0, 1);
    put_key(b, key, type);
}

static void keys_that_are_wrong_are_refused(void **state)
{
    static char long_name[NEF_GGUF_KEY_BYTES_MAX + 2];
    struct nef_buf b = {0};

    (void)state;
    put_header(&b, 3, 0, 1);
    nef_buf_u64(&b, UINT64_MAX - 7); /* a length that would wrap */
    nef_buf_u64(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 0: name");
    one_key(&b, "", NEF_GGUF_U8);
    nef_buf_u32(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 0: name is empty");
    one_key(&b, "a\nb", NEF_GGUF_U32);
    nef_buf_u32(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 0: name holds byte 0x0a");
    one_key(&b, "a\xc3\xa9", NEF_GGUF_U32);
    nef_buf_u32(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 0: name holds byte 0xc3");
    memset(long_name, 'k', NEF_GGUF_KEY_BYTES_MAX + 1);
    one_key(&b, long_name, NEF_GGUF_U8);
    nef_buf_u8(&b, 0);
    assert_refused(&b, NEF_E_LIMIT, "key 0: name has 65536 bytes");
    long_name[NEF_GGUF_KEY_BYTES_MAX] = '\0'; /* allowed, and shown cut */
    one_key(&b, long_name, 13);
    assert_refused(&b, NEF_E_PROTOCOL, "type is 13");
    one_key(&b, "x", UINT32_MAX);
    nef_buf_u8(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': type is 4294967295");
    one_key(&b, "long.enough", NEF_GGUF_U64);
    nef_buf_u32(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'long.enough': value");
    one_key(&b, "x", NEF_GGUF_BOOL);
    nef_buf_u8(&b, 2);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': a bool is 2");
    one_key(&b, "x", NEF_GGUF_STRING);
    nef_buf_u64(&b, 1);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': value");
    one_key(&b, "x", NEF_GGUF_STRING);
    nef_buf_u64(&b, UINT64_MAX);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': value");
    put_header(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(&b, "same.key", NEF_GGUF_U8);
        nef_buf_u8(&b, (uint8_t)i);
    }
    assert_refused(&b, NEF_E_PROTOCOL, "key 'same.key': appears twice");
}

static void arrays_that_are_wrong_are_refused(void **state)
{
    struct nef_buf b = {0};

    (void)state;
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, 99);
    nef_buf_u64(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': element type is 99");
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, NEF_GGUF_ARRAY);
    nef_buf_u64(&b, 1);
    assert_refused(&b, NEF_E_UNSUPPORTED, "key 'x': an array of arrays");
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, NEF_GGUF_U32);
    nef_buf_u64(&b, 2);
    nef_buf_u32(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': count 2");
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, NEF_GGUF_U64);
    nef_buf_u64(&b, (UINT64_MAX >> 3) + 2); /* times 8 it would wrap to 8 */
    nef_buf_u64(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': count");
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, NEF_GGUF_STRING);
    nef_buf_u64(&b, UINT64_MAX);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': count");
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, NEF_GGUF_STRING);
    nef_buf_u64(&b, 2);
    put_string(&b, "");
    nef_buf_u64(&b, 1);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': a string of the array");
    one_key(&b, "x", NEF_GGUF_ARRAY);
    nef_buf_u32(&b, NEF_GGUF_BOOL);
    nef_buf_u64(&b, 3);
    nef_buf_append(&b, "\x01\x00\xff", 3);
    assert_refused(&b, NEF_E_PROTOCOL, "key 'x': a bool is 255");
}

static void alignments_that_are_wrong_are_refused(void **state)
{
    static const uint32_t wrong[] = {0, 1, 4, 12, 33, 1u << 21, 1u << 31, UINT32_MAX};
    struct nef_buf b = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        one_key(&b, "general.alignment", NEF_GGUF_U32);
        nef_buf_u32(&b, wrong[i]);
        assert_refused(&b, NEF_E_PROTOCOL, "key 'general.alignment': is ");
    }
    one_key(&b, "general.alignment", NEF_GGUF_STRING);
    put_string(&b, "32");
    assert_refused(&b, NEF_E_PROTOCOL, "key 'general.alignment': is no unsigned integer");
}

/* A header with one tensor and room for DATA bytes of it. */
static void one_tensor(struct nef_buf *b, const char *name, uint32_t dims_count, const uint64_t *dims, uint32_t type,
                       uint64_t offset, size_t data)
{
    put_header(b, 3, 1, 0);
    put_tensor(b, name, dims_count, dims, type, offset);
    put_padding(b, 32);
    for (size_t i = 0; i < data; i++)
        nef_buf_u8(b, 0);
}

static void tensors_that_are_wrong_are_refused(void **state)
{
    static const uint64_t d4[5] = {4, 1, 1, 1, 1}, zero[2] = {32, 0}, huge[2] = {1ull << 33, 1ull << 33};
    static const uint64_t wraps[4] = {1ull << 32, 1ull << 31, 2, 1}, bytes_wrap[1] = {1ull << 62};
    static const uint64_t d33[1] = {33}, d128[1] = {128}, d32[1] = {32};
    char long_name[NEF_GGUF_NAME_BYTES_MAX + 2];
    struct nef_buf b = {0};

    (void)state;
    one_tensor(&b, "blk.0.attn_q.weight", 2, zero, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 'blk.0.attn_q.weight': dims[1] is 0");
    one_tensor(&b, "t", 0, d4, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': number of dims is 0");
    one_tensor(&b, "t", 5, d4, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': number of dims is 5");
    one_tensor(&b, "t", 2, huge, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': dims[1] is 8589934592: the product");
    one_tensor(&b, "t", 4, wraps, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': dims[2] is 2: the product");
    one_tensor(&b, "t", 1, bytes_wrap, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': dims: the size in bytes");
    one_tensor(&b, "t", 1, d33, NEF_GGML_Q8_0, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': dims[0] is 33, not a multiple of 32 as Q8_0 needs");
    one_tensor(&b, "t", 1, d128, NEF_GGML_Q4_K, 0, 256);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': dims[0] is 128, not a multiple of 256 as Q4_K needs");
    one_tensor(&b, "t", 1, d4, 7, 0, 128); /* Q5_1 */
    assert_refused(&b, NEF_E_UNSUPPORTED, "tensor 't': type 7");
    one_tensor(&b, "t", 1, d4, UINT32_MAX, 0, 128);
    assert_refused(&b, NEF_E_UNSUPPORTED, "tensor 't': type 4294967295");
    one_tensor(&b, "t", 1, d4, NEF_GGML_F32, 16, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': offset 16 isn't a multiple");
    one_tensor(&b, "t", 1, d32, NEF_GGML_F32, 32, 159);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': offset 32 and its 128 bytes");
    one_tensor(&b, "t", 1, d32, NEF_GGML_F32, 0, 127);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': offset 0 and its 128 bytes");
    one_tensor(&b, "t", 1, d32, NEF_GGML_F32, UINT64_MAX - 31, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 't': offset 18446744073709551584");
    one_tensor(&b, "", 1, d4, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 0: name is empty");
    one_tensor(&b, "a\x7f", 1, d4, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 0: name holds byte 0x7f");
    memset(long_name, 't', sizeof(long_name));
    long_name[sizeof(long_name) - 1] = '\0';
    one_tensor(&b, long_name, 1, d4, NEF_GGML_F32, 0, 128);
    assert_refused(&b, NEF_E_LIMIT, "tensor 0: name has 65 bytes");
    put_header(&b, 3, 2, 0);
    put_tensor(&b, "twice", 1, d4, NEF_GGML_F32, 0);
    put_tensor(&b, "twice", 1, d4, NEF_GGML_F32, 32);
    put_padding(&b, 32);
    for (int i = 0; i < 64; i++)
        nef_buf_u8(&b, 0);
    assert_refused(&b, NEF_E_PROTOCOL, "tensor 'twice': appears twice");
}

/* Every key and tensor is found among many, whatever the order; look-up doesn't stop at a common beginning. */
static void many_names_are_found(void **state)
{
    static const uint64_t dims[] = {8};
    const uint32_t count = 1000;
    struct nef_buf b = {0};
    char error[NEF_GGUF_ERROR_MAX], name[32];
    struct nef_gguf *file;
    uint64_t u = 0;
    uint8_t *copy;

    (void)state;
    put_header(&b, 3, count, count);
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(name, sizeof(name), "key.%u", i * 379 % count);
        put_key(&b, name, NEF_GGUF_U32);
        nef_buf_u32(&b, i * 379 % count);
    }
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(name, sizeof(name), "blk.%u.weight", i * 379 % count);
        put_tensor(&b, name, 1, dims, NEF_GGML_F32, 32ull * (i * 379 % count));
    }
    put_padding(&b, 32);
    for (uint32_t i = 0; i < count * 8; i++)
        nef_buf_u32(&b, i / 8);
    assert_int_equal(parse_copy(b.data, b.bytes, error, &copy, &file), NEF_OK);
    for (uint32_t i = 0; i < count; i++) {
        const struct nef_gguf_tensor *t;

        (void)snprintf(name, sizeof(name), "key.%u", i);
        assert_int_equal(nef_gguf_u64(file, name, &u), NEF_OK);
        assert_int_equal(u, i);
        (void)snprintf(name, sizeof(name), "blk.%u.weight", i);
        t = nef_gguf_tensor(file, name);
        assert_non_null(t);
        assert_int_equal(t->data[0] | t->data[1] << 8, i);
    }
    assert_null(nef_gguf_tensor(file, "blk.1000.weight"));
    nef_gguf_free(file);
    free(copy);
    nef_buf_free(&b);
}

/* What a caller does with a file that parsed. */
static void read_all(const struct nef_gguf *file)
{
    float row[64];

    for (uint32_t i = 0; i < nef_gguf_tensor_count(file); i++) {
        const struct nef_gguf_tensor *t = nef_gguf_tensor_at(file, i);
        uint64_t rows = t->dims[1] * t->dims[2] * t->dims[3];

        if (t->dims[0] <= 64)
            nef_gguf_row(t, rows - 1, row);
    }
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    struct nef_buf b = {0};
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_gguf *file;
    uint8_t *copy;

    (void)state;
    put_good_file(&b);
    for (size_t bytes = 0; bytes < b.bytes; bytes++) {
        assert_int_equal(parse_copy(b.data, bytes, error, &copy, &file), NEF_E_PROTOCOL);
        assert_true(strlen(error) > 10);
    }
    nef_buf_free(&b);
}

static void a_file_with_any_byte_changed_is_read_within_its_bounds(void **state)
{
    static const uint8_t changes[] = {0x01, 0x80, 0xff};
    struct nef_buf b = {0};
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_gguf *file;
    size_t refused = 0;
    uint8_t *copy;

    (void)state;
    put_good_file(&b);
    for (size_t at = 0; at < b.bytes; at++) {
        for (size_t c = 0; c < sizeof(changes); c++) {
            b.data[at] ^= changes[c];
            if (parse_copy(b.data, b.bytes, error, &copy, &file) == NEF_OK) {
                read_all(file);
                nef_gguf_free(file);
                free(copy);
            } else {
                refused++;
                assert_true(memchr(error, '\0', sizeof(error)) != NULL && strchr(error, ':') != NULL);
            }
            b.data[at] ^= changes[c];
        }
    }
    assert_true(refused > 400);
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_says_what_was_written),
        cmocka_unit_test(values_of_another_type_are_invalid),
        cmocka_unit_test(every_integer_type_is_a_u64),
        cmocka_unit_test(headers_that_are_wrong_are_refused),
        cmocka_unit_test(keys_that_are_wrong_are_refused),
        cmocka_unit_test(arrays_that_are_wrong_are_refused),
        cmocka_unit_test(alignments_that_are_wrong_are_refused),
        cmocka_unit_test(tensors_that_are_wrong_are_refused),
        cmocka_unit_test(many_names_are_found),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_file_with_any_byte_changed_is_read_within_its_bounds),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    return failed + run_row_tests();
}
