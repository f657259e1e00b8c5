/* Joining split files; see join.h.
 *
 * Offsets: file i's data lie at base(i) of the joined data, base(i) being the sum of the data before it, each rounded
 * up to the alignment. A tensor's new offset is base(i) + its old one, so no data moves inside its file. The alignment
 * must be the same in all files: then a multiple of it stays one. Names must be unique across files, as nef_gguf_parse
 * demands of one file. */
#include "infer/gguf/join.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/gguf/gguf_internal.h"

static nef_err NEF_PRINTF(3, 4) fail(char *error, nef_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(error, NEF_GGUF_ERROR_MAX, format, args);
    va_end(args);
    return err;
}

/* The keys of gguf-split: each file says which of how many it is. */
static nef_err check_parts(const struct nef_gguf *const *files, uint32_t count, char *error)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t parts = 0, number = 0;

        if (nef_gguf_u64(files[i], "split.count", &parts) != NEF_OK ||
            nef_gguf_u64(files[i], "split.no", &number) != NEF_OK)
            return fail(error, NEF_E_INVALID, "file %u says not which part it is (split.no, split.count)", i + 1);
        if (parts != count || number != i)
            return fail(error, NEF_E_INVALID, "file %u of %u says that it is %llu of %llu", i + 1, count,
                        (unsigned long long)number + 1, (unsigned long long)parts);
        if (files[i]->alignment != files[0]->alignment)
            return fail(error, NEF_E_INVALID, "file %u has another general.alignment than the first", i + 1);
    }
    return NEF_OK;
}

static int by_text(const void *a, const void *b)
{
    return nef_gguf_compare(*(const struct nef_gguf_string *)a, *(const struct nef_gguf_string *)b);
}

static nef_err check_names(const struct nef_gguf *const *files, uint32_t count, uint64_t tensors, char *error)
{
    struct nef_gguf_string *names = calloc(NEF_MAX(tensors, 1u), sizeof(names[0]));
    uint64_t at = 0;
    nef_err err = NEF_OK;

    if (names == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t t = 0; t < files[i]->tensor_count; t++)
            names[at++] = files[i]->tensors[t].name;
    qsort(names, tensors, sizeof(names[0]), by_text);
    for (uint64_t i = 1; i < tensors && err == NEF_OK; i++)
        if (nef_gguf_compare(names[i - 1], names[i]) == 0)
            err = fail(error, NEF_E_INVALID, "tensor '%.*s' is in two files", (int)names[i].bytes, names[i].data);
    free(names);
    return err;
}

static bool is_split_key(const struct nef_gguf_value *value)
{
    return value->key.bytes > 6 && memcmp(value->key.data, "split.", 6) == 0;
}

/* Key, type and value lie one after the other in the file: u64 length, key, u32 type, value. */
static void put_value(struct nef_buf *out, const struct nef_gguf_value *value)
{
    const uint8_t *start = (const uint8_t *)value->key.data - 8;

    nef_buf_append(out, start, (size_t)(value->data + value->bytes - start));
}

static void put_tensor(struct nef_buf *out, const struct nef_gguf_tensor *tensor, uint64_t base)
{
    nef_buf_u64(out, tensor->name.bytes);
    nef_buf_append(out, tensor->name.data, tensor->name.bytes);
    nef_buf_u32(out, tensor->dims_count);
    for (uint32_t i = 0; i < tensor->dims_count; i++)
        nef_buf_u64(out, tensor->dims[i]);
    nef_buf_u32(out, tensor->type);
    nef_buf_u64(out, base + tensor->offset);
}

/* Where the data go; runs come in pairs, data and padding. */
static nef_err lay_out(const struct nef_gguf *const *files, const uint64_t *totals, uint32_t count, char *error,
                       uint64_t *bases, struct nef_gguf_run *runs)
{
    uint64_t alignment = files[0]->alignment, base = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t start = files[i]->data_start, bytes = totals[i] > start ? totals[i] - start : 0;
        uint64_t padding = (alignment - bytes % alignment) % alignment;

        bases[i] = base;
        runs[2 * i] = (struct nef_gguf_run){.file = i, .offset = start, .bytes = bytes};
        runs[2 * i + 1] = (struct nef_gguf_run){.padding = true, .bytes = i + 1 < count ? padding : 0};
        if (bytes > NEF_OBJECT_BYTES_MAX || base > NEF_OBJECT_BYTES_MAX)
            return fail(error, NEF_E_LIMIT, "the files together are larger than an object may be");
        base += bytes + padding;
    }
    return NEF_OK;
}

nef_err nef_gguf_join(const struct nef_gguf *const *files, const uint64_t *totals, uint32_t count, char *out_error,
                      struct nef_buf *out_header, struct nef_gguf_run *out_runs)
{
    uint64_t tensors = 0, keys = 0, bases[NEF_MODEL_FILES_MAX];
    struct nef_gguf_run runs[2 * NEF_MODEL_FILES_MAX];
    struct nef_buf out = {.max = out_header->max};
    nef_err err;

    NEF_ASSERT(count >= 1 && count <= NEF_MODEL_FILES_MAX);
    for (uint32_t i = 0; i < count; i++)
        tensors += files[i]->tensor_count;
    if (tensors > NEF_GGUF_TENSORS_MAX)
        return fail(out_error, NEF_E_LIMIT, "the files together have %llu tensors, more than %u",
                    (unsigned long long)tensors, NEF_GGUF_TENSORS_MAX);
    err = check_parts(files, count, out_error);
    if (err == NEF_OK)
        err = check_names(files, count, tensors, out_error);
    if (err == NEF_OK)
        err = lay_out(files, totals, count, out_error, bases, runs);
    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; i < files[0]->value_count; i++)
        keys += is_split_key(&files[0]->values[i]) ? 0 : 1;
    nef_buf_text(&out, "GGUF");
    nef_buf_u32(&out, files[0]->version);
    nef_buf_u64(&out, tensors);
    nef_buf_u64(&out, keys);
    for (uint32_t i = 0; i < files[0]->value_count; i++)
        if (!is_split_key(&files[0]->values[i]))
            put_value(&out, &files[0]->values[i]);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t t = 0; t < files[i]->tensor_count; t++)
            put_tensor(&out, &files[i]->tensors[t], bases[i]);
    while (!out.failed && out.bytes % files[0]->alignment != 0)
        nef_buf_u8(&out, 0);
    err = nef_buf_end(&out);
    if (err != NEF_OK) {
        nef_buf_free(&out);
        return err;
    }
    nef_buf_free(out_header);
    *out_header = out;
    memcpy(out_runs, runs, 2 * count * sizeof(runs[0]));
    return NEF_OK;
}
