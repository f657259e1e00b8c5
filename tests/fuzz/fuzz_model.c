/* Fuzz target of what `nef model` reads of strangers and of its own past: headers of answers, names of files, the
 * resume file.
 * What is taken must be within its bounds, and what was taken of a resume file must be written and read back alike. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "cli/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_resume(const uint8_t *data, size_t size)
{
    static struct nef_model_resume a, b;
    struct nef_buf text = {0};

    a = (struct nef_model_resume){.lock = -1};
    if (nef_model_resume_decode(data, size, &a) != NEF_OK)
        return;
    NEF_ASSERT(a.parts <= NEF_PART_COUNT_MAX && a.part_bytes >= NEF_PART_BYTES_MIN &&
               a.part_bytes <= NEF_PUT_BYTES_MAX);
    NEF_ASSERT(a.digests.file_index == UINT32_MAX || a.digests.file_index < NEF_MODEL_FILES_MAX);
    if (nef_model_resume_encode(&a, &text) == NEF_OK) {
        b = (struct nef_model_resume){.lock = -1};
        NEF_ASSERT(nef_model_resume_decode(text.data, text.bytes, &b) == NEF_OK);
        NEF_ASSERT(strcmp(a.upload, b.upload) == 0 && a.parts == b.parts && a.part_bytes == b.part_bytes);
    }
    nef_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), etag[NEF_MODEL_VALIDATOR_MAX], name[NEF_MODEL_WHERE_MAX];
    struct nef_model_why why;
    uint64_t first, last, total;
    uint32_t count;

    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (nef_model_content_range(text, &first, &last, &total))
        NEF_ASSERT(first <= last && last < total);
    if (nef_model_strong_etag(text, etag, sizeof(etag)))
        NEF_ASSERT(strlen(etag) > 0 && strchr(etag, '"') == NULL);
    if (nef_model_split_count(text, &count, &why) == NEF_OK) {
        NEF_ASSERT(count >= 1 && count <= NEF_MODEL_FILES_MAX);
        if (nef_model_split_name(text, count, name) == NEF_OK)
            NEF_ASSERT(strlen(name) == strlen(text));
    }
    check_resume(data, size);
    free(text);
    return 0;
}
