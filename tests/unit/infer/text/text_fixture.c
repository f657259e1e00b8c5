/* GGUF metadata for tests; see text_fixture.h. Layout: ggml's gguf.md, version 3. */
#include "text_fixture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

void fixture_string(struct nef_buf *b, const char *text, size_t bytes)
{
    nef_buf_u64(b, bytes);
    nef_buf_append(b, text, bytes);
}

static void key_of(struct fixture *f, const char *key, uint32_t type)
{
    fixture_string(&f->values, key, strlen(key));
    nef_buf_u32(&f->values, type);
    f->count++;
}

void fixture_text(struct fixture *f, const char *key, const char *value, size_t bytes)
{
    key_of(f, key, NEF_GGUF_STRING);
    fixture_string(&f->values, value, bytes);
}

void fixture_u32(struct fixture *f, const char *key, uint32_t value)
{
    key_of(f, key, NEF_GGUF_U32);
    nef_buf_u32(&f->values, value);
}

void fixture_bool(struct fixture *f, const char *key, bool value)
{
    key_of(f, key, NEF_GGUF_BOOL);
    nef_buf_u8(&f->values, value);
}

void fixture_array(struct fixture *f, const char *key, uint32_t type, uint64_t count)
{
    key_of(f, key, NEF_GGUF_ARRAY);
    nef_buf_u32(&f->values, type);
    nef_buf_u64(&f->values, count);
}

struct nef_gguf *fixture_end(struct fixture *f, uint8_t **out_bytes)
{
    struct nef_buf file = {0};
    struct nef_gguf *gguf = NULL;
    char why[NEF_GGUF_ERROR_MAX];

    nef_buf_append(&file, "GGUF", 4);
    nef_buf_u32(&file, 3);
    nef_buf_u64(&file, 0); /* tensors */
    nef_buf_u64(&file, f->count);
    nef_buf_append(&file, f->values.data, f->values.bytes);
    while (file.bytes % 32 != 0)
        nef_buf_u8(&file, 0);
    NEF_ASSERT(!file.failed && !f->values.failed);
    if (nef_gguf_parse(file.data, file.bytes, why, &gguf) != NEF_OK) {
        fprintf(stderr, "fixture: %s\n", why);
        nef_buf_free(&file);
    }
    nef_buf_free(&f->values);
    f->count = 0;
    *out_bytes = file.data;
    return gguf;
}

void fixture_vocabulary(struct fixture *f, const json_t *vocabulary, uint32_t **out_ids)
{
    const json_t *tokens = json_object_get(vocabulary, "tokens"), *merges = json_object_get(vocabulary, "merges");
    size_t count = json_array_size(tokens);
    uint32_t *ids = calloc(count, sizeof(*ids));

    NEF_ASSERT(ids != NULL && count > 0);
    fixture_array(f, "tokenizer.ggml.tokens", NEF_GGUF_STRING, count);
    for (size_t i = 0; i < count; i++) {
        const json_t *token = json_array_get(tokens, i), *text = json_array_get(token, 1);

        ids[i] = (uint32_t)json_integer_value(json_array_get(token, 0));
        fixture_string(&f->values, json_string_value(text), json_string_length(text));
    }
    fixture_array(f, "tokenizer.ggml.token_type", NEF_GGUF_I32, count);
    for (size_t i = 0; i < count; i++)
        nef_buf_u32(&f->values, (uint32_t)json_integer_value(json_array_get(json_array_get(tokens, i), 2)));
    fixture_array(f, "tokenizer.ggml.merges", NEF_GGUF_STRING, json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges); i++)
        fixture_string(&f->values, json_string_value(json_array_get(merges, i)),
                       json_string_length(json_array_get(merges, i)));
    if (out_ids != NULL)
        *out_ids = ids;
    else
        free(ids);
}

void fixture_qwen(struct fixture *f)
{
    fixture_text(f, "tokenizer.ggml.model", "gpt2", 4);
    fixture_text(f, "tokenizer.ggml.pre", "qwen2", 5);
}

char *fixture_read(const char *name, size_t *out_bytes)
{
    char path[512];
    char *data;
    long bytes;
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", TEXT_DATA, name);
    file = fopen(path, "rb");
    NEF_ASSERT(file != NULL);
    NEF_ASSERT(fseek(file, 0, SEEK_END) == 0);
    bytes = ftell(file);
    NEF_ASSERT(bytes >= 0 && fseek(file, 0, SEEK_SET) == 0);
    data = malloc((size_t)bytes + 1);
    NEF_ASSERT(data != NULL && fread(data, 1, (size_t)bytes, file) == (size_t)bytes);
    data[bytes] = '\0';
    (void)fclose(file); /* only read */
    *out_bytes = (size_t)bytes;
    return data;
}
