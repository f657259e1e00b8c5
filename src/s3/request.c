/* Parsing a request: memory, path, query. The operation is found by operation.c, headers are read
 * by request_headers.c and request_write.c. The path is decoded exactly once and '+' in it is
 * literal; in the query '+' is a space, as S3 and HTML forms have it. */
#include "s3/request.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "s3/operation.h"
#include "s3/request_internal.h"

/* ---- memory ---- */

/* Every text is at most once a piece of the target decoded as resource, as name and as parameter,
 * and at most twice one of a header (as is and decoded or joined). */
static nef_err reserve(struct nef_s3_parser *p, size_t *out_meta)
{
    size_t target = strlen(p->http->target), headers = 0, meta = 0, bytes;

    if (target > NEF_TARGET_MAX)
        return nef_s3_refuse(p->why, NEF_S3_INVALID_URI, NULL);
    for (size_t i = 0; i < p->http->header_count; i++) {
        const struct nef_http_field *h = &p->http->headers[i];

        headers += strlen(h->name) + strlen(h->value) + 4;
        if (strncasecmp(h->name, "x-amz-meta-", 11) == 0)
            meta++;
    }
    if (headers > NEF_HEADERS_MAX)
        return nef_s3_refuse(p->why, NEF_S3_REQUEST_HEADER_SECTION_TOO_LARGE, NULL);
    if (meta > NEF_S3_META_MAX) {
        nef_err err = nef_s3_refuse(p->why, NEF_S3_METADATA_TOO_LARGE, NULL);

        nef_s3_error_extra_number(p->why, "MaxSizeAllowed", NEF_USER_METADATA_MAX);
        return err;
    }
    bytes = meta * sizeof(struct nef_s3_meta) + 3 * (target + 8) + 2 * headers +
            2 * NEF_S3_PARAMETERS_MAX;
    p->r->memory = (char *)malloc(bytes);
    if (p->r->memory == NULL) {
        nef_s3_error_of(p->why, NEF_E_NOMEM);
        return NEF_E_NOMEM;
    }
    p->r->meta = (struct nef_s3_meta *)(void *)p->r->memory;
    p->at = p->r->memory + meta * sizeof(struct nef_s3_meta);
    p->end = p->r->memory + bytes;
    *out_meta = meta;
    return NEF_OK;
}

const char *nef_s3_parser_copy(struct nef_s3_parser *p, const char *text, size_t bytes)
{
    char *copy = p->at;

    NEF_ASSERT((size_t)(p->end - p->at) > bytes);
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    p->at += bytes + 1;
    return copy;
}

/* Decoded copy. */
static nef_err decoded(struct nef_s3_parser *p, const char *text, size_t bytes, bool plus_is_space,
                       const char **out, size_t *out_bytes)
{
    char *copy = p->at;
    nef_err err;

    NEF_ASSERT((size_t)(p->end - p->at) > bytes);
    err = nef_s3_decode(text, bytes, plus_is_space, copy, out_bytes);
    if (err != NEF_OK)
        return err;
    p->at += *out_bytes + 1;
    *out = copy;
    return NEF_OK;
}

/* ---- path ---- */

static nef_err bad_uri(struct nef_s3_parser *p, const char *path, size_t bytes)
{
    char text[256];
    nef_err err = nef_s3_refuse(p->why, NEF_S3_INVALID_URI, NULL);

    (void)snprintf(text, sizeof(text), "%.*s", (int)NEF_MIN(bytes, sizeof(text) - 1), path);
    if (nef_s3_utf8_valid(text, strlen(text)))
        nef_s3_error_extra(p->why, "URI", text);
    return err;
}

static nef_err parse_path(struct nef_s3_parser *p, const char *path, size_t bytes)
{
    struct nef_s3_request *r = p->r;
    const char *slash;
    size_t n, name_bytes;
    nef_err err;

    if (bytes == 0 || path[0] != '/')
        return bad_uri(p, path, bytes);
    /* split before decoding: an escaped slash is never a separator */
    slash = memchr(path + 1, '/', bytes - 1);
    name_bytes = slash != NULL ? (size_t)(slash - path - 1) : bytes - 1;
    if (decoded(p, path, bytes, false, &r->resource, &n) != NEF_OK)
        return bad_uri(p, path, bytes);
    if (bytes == 1)
        return NEF_OK;
    if (decoded(p, path + 1, name_bytes, false, &r->bucket, &n) != NEF_OK)
        return bad_uri(p, path, bytes);
    if (nef_s3_bucket_name_check(r->bucket) != NEF_OK) {
        err = nef_s3_refuse(p->why, NEF_S3_INVALID_BUCKET_NAME, NULL);
        nef_s3_error_extra(p->why, "BucketName", r->bucket);
        return err;
    }
    if (slash == NULL || slash + 1 == path + bytes)
        return NEF_OK; /* "/bucket" and "/bucket/" are the bucket */
    if (decoded(p, slash + 1, bytes - name_bytes - 2, false, &r->object_key,
                &r->object_key_bytes) != NEF_OK)
        return bad_uri(p, path, bytes);
    if (r->object_key_bytes > NEF_OBJECT_KEY_MAX) {
        err = nef_s3_refuse(p->why, NEF_S3_KEY_TOO_LONG, NULL);
        nef_s3_error_extra_number(p->why, "Size", r->object_key_bytes);
        nef_s3_error_extra_number(p->why, "MaxSizeAllowed", NEF_OBJECT_KEY_MAX);
        return err;
    }
    return NEF_OK;
}

/* ---- query ---- */

static nef_err split_query(struct nef_s3_parser *p, const char *query)
{
    while (*query != '\0') {
        size_t bytes = strcspn(query, "&"), n;
        const char *equals = memchr(query, '=', bytes);
        size_t name_bytes = equals != NULL ? (size_t)(equals - query) : bytes;
        struct nef_s3_parameter *parameter = &p->parameters[p->parameter_count];

        if (bytes > 0) {
            if (p->parameter_count == NEF_S3_PARAMETERS_MAX)
                return bad_uri(p, query, bytes);
            if (decoded(p, query, name_bytes, true, &parameter->name, &n) != NEF_OK)
                return bad_uri(p, query, bytes);
            parameter->value = "";
            if (equals != NULL && decoded(p, equals + 1, bytes - name_bytes - 1, true,
                                          &parameter->value, &n) != NEF_OK)
                return bad_uri(p, query, bytes);
            p->parameter_count++;
        }
        query += bytes + (query[bytes] == '&' ? 1 : 0);
    }
    return NEF_OK;
}

static const char *parameter(const struct nef_s3_parser *p, const char *name)
{
    for (size_t i = 0; i < p->parameter_count; i++)
        if (strcmp(p->parameters[i].name, name) == 0)
            return p->parameters[i].value;
    return NULL;
}

static const char *parameter_or_empty(const struct nef_s3_parser *p, const char *name)
{
    const char *value = parameter(p, name);

    return value != NULL ? value : "";
}

nef_err nef_s3_parse_number(const char *text, int64_t *out)
{
    int64_t v = 0;

    if (*text == '\0')
        return NEF_E_INVALID;
    for (; *text != '\0'; text++) {
        int digit = *text - '0';

        if (digit < 0 || digit > 9 || v > (INT64_MAX - digit) / 10)
            return NEF_E_INVALID;
        v = v * 10 + digit;
    }
    *out = v;
    return NEF_OK;
}

/* NAME between LEAST and INT32_MAX, capped to CAP; untouched if absent or empty. */
static nef_err limit_parameter(struct nef_s3_parser *p, const char *name, int64_t least,
                               unsigned cap, unsigned *out)
{
    const char *value = parameter(p, name);
    char message[96];
    int64_t v;

    if (value == NULL || *value == '\0')
        return NEF_OK;
    if (nef_s3_parse_number(value, &v) != NEF_OK || v < least || v > INT32_MAX) {
        (void)snprintf(message, sizeof(message),
                       "Provided %s not an integer or within integer range", name);
        return nef_s3_refuse_argument(p->why, name, value, message);
    }
    *out = v > cap ? cap : (unsigned)v;
    return NEF_OK;
}

static nef_err parse_listing(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    const char *encoding = parameter(p, "encoding-type");
    bool uploads = r->op == NEF_S3_OP_LIST_MULTIPART_UPLOADS;
    nef_err err;

    if (encoding != NULL && *encoding != '\0' && r->op != NEF_S3_OP_LIST_PARTS) {
        if (strcmp(encoding, "url") != 0)
            return nef_s3_refuse_argument(p->why, "encoding-type", encoding,
                                          "Invalid Encoding Method specified in Request");
        r->encoding_url = true;
    }
    r->fetch_owner = strcasecmp(parameter_or_empty(p, "fetch-owner"), "true") == 0;
    r->continuation_token = parameter(p, "continuation-token");
    r->list_max = NEF_LIST_MAX;
    if (r->op == NEF_S3_OP_LIST_BUCKETS) {
        r->list_max = NEF_BUCKET_COUNT_MAX;
        return limit_parameter(p, "max-buckets", 1, NEF_BUCKET_COUNT_MAX, &r->list_max);
    }
    if (r->op == NEF_S3_OP_LIST_PARTS) {
        err = limit_parameter(p, "part-number-marker", 0, INT32_MAX, &r->part_number_marker);
        if (err != NEF_OK)
            return err;
        return limit_parameter(p, "max-parts", 0, NEF_LIST_MAX, &r->list_max);
    }
    return limit_parameter(p, uploads ? "max-uploads" : "max-keys", uploads ? 1 : 0, NEF_LIST_MAX,
                           &r->list_max);
}

static nef_err parse_parameters(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    const char *part = parameter(p, "partNumber"), *version = parameter(p, "versionId");
    int64_t number;
    nef_err err;

    r->prefix = parameter_or_empty(p, "prefix");
    r->delimiter = parameter_or_empty(p, "delimiter");
    r->marker = parameter_or_empty(p, "marker");
    r->start_after = parameter_or_empty(p, "start-after");
    r->key_marker = parameter_or_empty(p, "key-marker");
    r->version_id_marker = parameter(p, "version-id-marker");
    r->upload_id_marker = parameter(p, "upload-id-marker");
    r->response_content_type = parameter(p, "response-content-type");
    r->response_content_language = parameter(p, "response-content-language");
    r->response_expires = parameter(p, "response-expires");
    r->response_cache_control = parameter(p, "response-cache-control");
    r->response_content_disposition = parameter(p, "response-content-disposition");
    r->response_content_encoding = parameter(p, "response-content-encoding");
    err = parse_listing(p);
    if (err != NEF_OK)
        return err;
    if (r->object_key == NULL)
        return NEF_OK;

    r->upload_id = parameter(p, "uploadId");
    if (part != NULL) {
        if (nef_s3_parse_number(part, &number) != NEF_OK || number < 1 ||
            number > NEF_PART_COUNT_MAX)
            return nef_s3_refuse_argument(
                p->why, "partNumber", part,
                "Part number must be an integer between 1 and 10000, inclusive");
        r->part_number = (unsigned)number;
    }
    if (part == NULL && (r->op == NEF_S3_OP_UPLOAD_PART || r->op == NEF_S3_OP_UPLOAD_PART_COPY))
        return nef_s3_refuse_argument(
            p->why, "partNumber", "",
            "This operation does not accept a query-string without a partNumber.");
    if (part != NULL && (r->op == NEF_S3_OP_PUT_OBJECT || r->op == NEF_S3_OP_COPY_OBJECT))
        return nef_s3_refuse_argument(
            p->why, "uploadId", "",
            "This operation does not accept a query-string without an uploadId.");
    if (version != NULL) {
        if (strcmp(version, "null") != 0)
            return nef_s3_refuse_argument(p->why, "versionId", version,
                                          "Invalid version id specified");
        r->version_null = true;
    }
    return NEF_OK;
}

/* ---- the whole ---- */

/* A response header made from the query must not split the response. */
static nef_err check_overrides(struct nef_s3_parser *p)
{
    static const char *const names[] = {
        "response-content-type",  "response-content-language",    "response-expires",
        "response-cache-control", "response-content-disposition", "response-content-encoding"};

    for (size_t i = 0; i < NEF_COUNT(names); i++) {
        const char *value = parameter(p, names[i]);

        for (const char *c = value; c != NULL && *c != '\0'; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7F)
                return nef_s3_refuse_argument(p->why, names[i], value,
                                              "Header value cannot be represented.");
    }
    return NEF_OK;
}

static nef_err parse(struct nef_s3_parser *p)
{
    const char *path = p->http->target, *question;
    size_t path_bytes, meta;
    nef_err err;

    err = reserve(p, &meta);
    if (err != NEF_OK)
        return err;
    if (strncasecmp(path, "http://", 7) == 0 || strncasecmp(path, "https://", 8) == 0) {
        path = strstr(path, "://") + 3; /* absolute-form (RFC 9112, 3.2.2) */
        path += strcspn(path, "/?");
    }
    path_bytes = strcspn(path, "?");
    question = path + path_bytes;
    if (*path == '*' && strcmp(p->http->method, "OPTIONS") == 0)
        return nef_s3_refuse(p->why, NEF_S3_ACCESS_FORBIDDEN, NULL);
    err = parse_path(p, path_bytes > 0 ? path : "/", path_bytes > 0 ? path_bytes : 1);
    if (err == NEF_OK && *question == '?')
        err = split_query(p, question + 1);
    if (err == NEF_OK)
        err = nef_s3_find_operation(p);
    if (err != NEF_OK || p->r->op == NEF_S3_OP_NOT_IMPLEMENTED)
        return err; /* what isn't built isn't looked at further */
    err = parse_parameters(p);
    if (err == NEF_OK)
        err = check_overrides(p);
    if (err == NEF_OK)
        err = nef_s3_parse_headers(p);
    return err;
}

nef_err nef_s3_request_parse(const struct nef_s3_http *http, struct nef_s3_request *out,
                             struct nef_s3_error *why)
{
    struct nef_s3_request r = {
        .content_bytes = -1, .decoded_content_bytes = -1, .multipart_object_bytes = -1};
    struct nef_s3_parser p = {.http = http, .r = &r, .why = why};
    nef_err err = parse(&p);

    if (err != NEF_OK) {
        nef_s3_request_free(&r);
        return err;
    }
    *out = r;
    return NEF_OK;
}

void nef_s3_request_free(struct nef_s3_request *r)
{
    free(r->memory);
    *r = (struct nef_s3_request){0};
}

nef_err nef_s3_request_not_implemented(const struct nef_s3_request *r, struct nef_s3_error *why)
{
    return nef_s3_refuse(why, NEF_S3_NOT_IMPLEMENTED, "%s is not implemented", r->op_name);
}
