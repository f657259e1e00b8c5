/* libFuzzer target: the three XML request bodies, each as the first byte says; and the continuation
 * token and upload id parsers, which are as small. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "s3/token.h"
#include "s3/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_delete(const uint8_t *data, size_t bytes)
{
    struct nef_s3_delete d;
    struct nef_s3_error why;

    if (nef_s3_xml_parse_delete(data, bytes, &d, &why) != NEF_OK)
        return;
    NEF_ASSERT(d.item_count >= 1 && d.item_count <= NEF_DELETE_MAX);
    for (size_t i = 0; i < d.item_count; i++)
        NEF_ASSERT(strlen(d.items[i].object_key) == d.items[i].object_key_bytes &&
                   d.items[i].object_key_bytes <= NEF_OBJECT_KEY_MAX);
    nef_s3_delete_free(&d);
}

static void check_complete(const uint8_t *data, size_t bytes)
{
    struct nef_s3_complete c;
    struct nef_s3_error why;

    if (nef_s3_xml_parse_complete(data, bytes, &c, &why) != NEF_OK)
        return;
    NEF_ASSERT(c.part_count >= 1 && c.part_count <= NEF_PART_COUNT_MAX);
    for (size_t i = 0; i < c.part_count; i++)
        NEF_ASSERT(c.parts[i].number >= 1 && c.parts[i].number <= NEF_PART_COUNT_MAX);
    nef_s3_complete_free(&c);
}

static void check_texts(const uint8_t *data, size_t bytes)
{
    char *text = (char *)malloc(bytes + 1);
    struct nef_s3_token token;
    struct nef_s3_error why;
    struct nef_id id;

    if (text == NULL)
        return;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    if (nef_s3_token_parse(text, &token, &why) == NEF_OK)
        NEF_ASSERT(token.last_bytes <= NEF_OBJECT_KEY_MAX);
    if (nef_s3_upload_id_parse(text, &id, &why) == NEF_OK)
        NEF_ASSERT(!nef_id_is_zero(&id));
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct nef_s3_error why;

    if (bytes == 0)
        return 0;
    switch (data[0] & 3) {
    case 0:
        check_delete(data + 1, bytes - 1);
        break;
    case 1:
        check_complete(data + 1, bytes - 1);
        break;
    case 2:
        (void)!nef_s3_xml_parse_create_bucket(data + 1, bytes - 1, "eu-paris", &why);
        break;
    default:
        check_texts(data + 1, bytes - 1);
        break;
    }
    return 0;
}
