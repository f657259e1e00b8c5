/* Heads of files, and split files joined: against the whole file that was split, and against parts that don't fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "file.h"
#include "infer/gguf/gguf_internal.h"
#include "infer/gguf/join.h"

#define PARTS 3u

struct part {
    uint8_t *data;
    uint64_t bytes;
    struct nef_gguf *head;
};

static void read_file(const char *name, uint8_t **out_data, uint64_t *out_bytes)
{
    char path[512];
    FILE *f;
    long bytes;

    (void)snprintf(path, sizeof(path), "%s/%s", getenv("NEF_TEST_DATA"), name);
    f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    bytes = ftell(f);
    rewind(f);
    *out_data = malloc((size_t)bytes);
    assert_int_equal(fread(*out_data, 1, (size_t)bytes, f), (size_t)bytes);
    *out_bytes = (uint64_t)bytes;
    fclose(f);
}

static void open_parts(struct part parts[PARTS])
{
    char name[64], error[NEF_GGUF_ERROR_MAX];

    for (uint32_t i = 0; i < PARTS; i++) {
        struct nef_gguf *whole;

        (void)snprintf(name, sizeof(name), "qwen3-pico-yarn-q8_0-%05u-of-%05u.gguf", i + 1, PARTS);
        read_file(name, &parts[i].data, &parts[i].bytes);
        assert_int_equal(nef_gguf_parse(parts[i].data, parts[i].bytes, error, &whole), NEF_OK);
        /* exactly the head: a sanitizer sees what reads beyond it */
        parts[i].data = realloc(parts[i].data, parts[i].bytes);
        assert_int_equal(
            nef_gguf_parse_head(parts[i].data, nef_gguf_header_bytes(whole), parts[i].bytes, error, &parts[i].head),
            NEF_OK);
        nef_gguf_free(whole);
    }
}

static void close_parts(struct part parts[PARTS])
{
    for (uint32_t i = 0; i < PARTS; i++) {
        nef_gguf_free(parts[i].head);
        free(parts[i].data);
    }
}

static nef_err join(struct part parts[PARTS], uint32_t count, char *error, struct nef_buf *header,
                    struct nef_gguf_run *runs)
{
    const struct nef_gguf *files[PARTS];
    uint64_t totals[PARTS];

    for (uint32_t i = 0; i < count; i++) {
        files[i] = parts[i].head;
        totals[i] = parts[i].bytes;
    }
    return nef_gguf_join(files, totals, count, error, header, runs);
}

/* What is in one is in the other, bit for bit. */
static void assert_same(const struct nef_gguf *a, const struct nef_gguf *b)
{
    for (uint32_t i = 0; i < a->value_count; i++) {
        const struct nef_gguf_value *v = &a->values[i];
        bool found = strncmp(v->key.data, "split.", 6) == 0; /* what the splitter may leave in the joined one */

        for (uint32_t k = 0; k < b->value_count && !found; k++)
            found = nef_gguf_compare(v->key, b->values[k].key) == 0 && v->type == b->values[k].type &&
                    v->bytes == b->values[k].bytes && memcmp(v->data, b->values[k].data, v->bytes) == 0;
        if (!found)
            fail_msg("key %.*s", (int)v->key.bytes, v->key.data);
    }
    assert_int_equal(a->tensor_count, b->tensor_count);
    for (uint32_t i = 0; i < a->tensor_count; i++) {
        char name[NEF_GGUF_NAME_BYTES_MAX + 1] = "";
        const struct nef_gguf_tensor *t = &a->tensors[i], *u;

        memcpy(name, t->name.data, t->name.bytes);
        u = nef_gguf_tensor(b, name);
        assert_non_null(u);
        assert_int_equal(t->type, u->type);
        assert_memory_equal(t->dims, u->dims, sizeof(t->dims));
        assert_int_equal(t->bytes, u->bytes);
        assert_memory_equal(t->data, u->data, t->bytes);
    }
}

static void joined_equals_the_whole(void **state)
{
    struct nef_gguf_run runs[2 * PARTS];
    char error[NEF_GGUF_ERROR_MAX] = "";
    struct nef_gguf *whole, *joined;
    struct nef_buf all = {0};
    struct part parts[PARTS];
    uint64_t bytes;
    uint8_t *data;

    (void)state;
    open_parts(parts);
    assert_int_equal(join(parts, PARTS, error, &all, runs), NEF_OK);
    for (uint32_t i = 0; i < 2 * PARTS; i++) {
        if (runs[i].padding) {
            for (uint64_t n = 0; n < runs[i].bytes; n++)
                nef_buf_u8(&all, 0);
            continue;
        }
        assert_true(runs[i].offset + runs[i].bytes <= parts[runs[i].file].bytes);
        nef_buf_append(&all, parts[runs[i].file].data + runs[i].offset, runs[i].bytes);
    }
    read_file("qwen3-pico-yarn-q8_0.gguf", &data, &bytes);
    assert_int_equal(nef_gguf_parse(data, bytes, error, &whole), NEF_OK);
    assert_int_equal(nef_gguf_parse(all.data, all.bytes, error, &joined), NEF_OK);
    assert_same(whole, joined);
    assert_same(joined, whole);
    nef_gguf_free(joined);
    nef_gguf_free(whole);
    free(data);
    nef_buf_free(&all);
    close_parts(parts);
}

static void parts_that_do_not_fit_are_refused(void **state)
{
    struct nef_gguf_run runs[2 * PARTS];
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_buf header = {0};
    struct part parts[PARTS], swapped;

    (void)state;
    open_parts(parts);
    assert_int_equal(join(parts, 2, error, &header, runs), NEF_E_INVALID);
    assert_non_null(strstr(error, "1 of 3"));
    swapped = parts[1];
    parts[1] = parts[2];
    parts[2] = swapped;
    assert_int_equal(join(parts, PARTS, error, &header, runs), NEF_E_INVALID);
    assert_non_null(strstr(error, "file 2 of 3"));
    swapped = parts[1];
    parts[1] = parts[2];
    parts[2] = swapped;
    parts[1].head->tensors[0].name = parts[0].head->tensors[0].name;
    assert_int_equal(join(parts, PARTS, error, &header, runs), NEF_E_INVALID);
    assert_non_null(strstr(error, "two files"));
    parts[2].head->alignment = 64;
    assert_int_equal(join(parts, PARTS, error, &header, runs), NEF_E_INVALID);
    assert_non_null(strstr(error, "general.alignment"));
    assert_int_equal(header.bytes, 0);
    close_parts(parts);
}

/* Every beginning of a file is too short, whole, or wrong: never something else. */
static void heads_of_any_length(void **state)
{
    struct nef_gguf *file = NULL;
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_buf b = {0};

    (void)state;
    put_good_file(&b);
    for (size_t bytes = 0; bytes <= b.bytes; bytes++) {
        uint8_t *part = malloc(bytes > 0 ? bytes : 1);
        nef_err err;

        memcpy(part, b.data, bytes);
        err = nef_gguf_parse_head(part, bytes, b.bytes, error, &file);
        if (err == NEF_OK) {
            assert_true(nef_gguf_header_bytes(file) <= bytes);
            assert_true((nef_gguf_tensor_at(file, 0)->data == NULL) == (bytes < b.bytes));
            nef_gguf_free(file);
        } else {
            assert_int_equal(err, NEF_E_AGAIN);
        }
        free(part);
    }
    assert_int_equal(nef_gguf_parse(b.data, b.bytes, error, &file), NEF_OK);
    /* The head is there and the file is said to be too short for its tensors. */
    {
        size_t head = nef_gguf_header_bytes(file);
        struct nef_gguf *other;

        assert_int_equal(nef_gguf_parse_head(b.data, head, b.bytes - 64, error, &other), NEF_E_PROTOCOL);
        assert_non_null(strstr(error, "beyond the end of the file"));
        nef_gguf_free(file);
    }
    assert_int_equal(nef_gguf_parse_head((const uint8_t *)"GGML\0\0\0\0", 8, 1000, error, &file), NEF_E_PROTOCOL);
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joined_equals_the_whole),
        cmocka_unit_test(parts_that_do_not_fit_are_refused),
        cmocka_unit_test(heads_of_any_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
