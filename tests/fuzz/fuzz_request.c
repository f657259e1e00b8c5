/* libFuzzer target: nef_s3_request_parse. Input: lines; "METHOD TARGET", then "Name: value" of
 * headers. What is accepted must keep the promises of request.h. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "s3/request.h"
#include "s3/xml.h"

#define HEADERS_MAX 300

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const struct nef_s3_request *r)
{
    NEF_ASSERT(r->op_name != NULL && r->resource != NULL);
    NEF_ASSERT(r->bucket == NULL || nef_s3_bucket_name_check(r->bucket) == NEF_OK);
    if (r->object_key != NULL) {
        NEF_ASSERT(r->object_key_bytes > 0 && r->object_key_bytes <= NEF_OBJECT_KEY_MAX);
        NEF_ASSERT(strlen(r->object_key) == r->object_key_bytes);
        NEF_ASSERT(nef_s3_utf8_valid(r->object_key, r->object_key_bytes));
    }
    NEF_ASSERT(r->op != NEF_S3_OP_UPLOAD_PART || r->part_number > 0);
    NEF_ASSERT(r->op != NEF_S3_OP_COPY_OBJECT || r->source_key_bytes > 0);
    NEF_ASSERT(r->op != NEF_S3_OP_PUT_OBJECT || r->content_bytes >= 0 ||
               r->decoded_content_bytes >= 0);
    for (size_t i = 0; i < r->meta_count; i++)
        NEF_ASSERT(r->meta[i].name[0] != '\0' && r->meta[i].value != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct nef_http_field headers[HEADERS_MAX];
    struct nef_s3_http http = {"GET", "/", headers, 0};
    struct nef_s3_request request;
    struct nef_s3_error why;
    struct nef_buf document = {0};
    char *text = (char *)malloc(bytes + 1), *line, *rest;

    if (text == NULL)
        return 0;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    rest = text;
    line = strsep(&rest, "\n");
    http.method = strsep(&line, " ");
    if (line != NULL)
        http.target = line;
    while (rest != NULL && http.header_count < HEADERS_MAX) {
        line = strsep(&rest, "\n");
        headers[http.header_count].name = strsep(&line, ":");
        headers[http.header_count].value = line != NULL ? line : "";
        http.header_count++;
    }
    if (nef_s3_request_parse(&http, &request, &why) == NEF_OK) {
        check(&request);
        nef_s3_request_free(&request);
    } else {
        nef_s3_error_document(&why, http.target, "r", "h", &document);
        nef_buf_free(&document);
    }
    free(text);
    return 0;
}
