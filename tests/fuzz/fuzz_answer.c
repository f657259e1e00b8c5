/* Fuzz target of src/s3/client_answer.c: bytes as each of the answers. What is read must be whole texts and numbers in
 * their bounds. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "s3/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char id[NEF_S3_UPLOAD_ID_MAX + 1];
    struct nef_s3_answer_error error;
    struct nef_s3_answer_list list;

    if (nef_s3_answer_error(data, size, &error))
        NEF_ASSERT(error.code[0] != '\0' && strlen(error.message) < sizeof(error.message));
    if (nef_s3_answer_upload_id(data, size, id) == NEF_OK)
        NEF_ASSERT(id[0] != '\0' && strlen(id) <= NEF_S3_UPLOAD_ID_MAX);
    if (nef_s3_answer_parts(data, size, &list) == NEF_OK) {
        const struct nef_s3_answer_part *parts = list.items;

        NEF_ASSERT(list.count <= NEF_LIST_MAX);
        for (uint32_t i = 0; i < list.count; i++)
            NEF_ASSERT(parts[i].number <= NEF_PART_COUNT_MAX && strlen(parts[i].etag) < sizeof(parts[i].etag));
        free(list.items);
    }
    if (nef_s3_answer_objects(data, size, &list) == NEF_OK) {
        const struct nef_s3_answer_object *objects = list.items;

        for (uint32_t i = 0; i < list.count; i++)
            NEF_ASSERT(objects[i].bytes <= NEF_OBJECT_BYTES_MAX && strlen(objects[i].key) <= NEF_OBJECT_KEY_MAX);
        free(list.items);
    }
    if (nef_s3_answer_uploads(data, size, &list) == NEF_OK) {
        NEF_ASSERT(list.count <= NEF_LIST_MAX && strlen(list.next) < sizeof(list.next));
        free(list.items);
    }
    return 0;
}
