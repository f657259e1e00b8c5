/* Headers of requests that write: checksums, the source of a copy, conditions on what is there. */
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "s3/multipart.h"
#include "s3/range.h"
#include "s3/request_internal.h"

/* ---- checksums ---- */

static nef_err invalid_value(struct nef_s3_error *why, const char *header)
{
    return nef_s3_refuse(why, NEF_S3_INVALID_REQUEST, "Value for %s header is invalid.", header);
}

static nef_err several(struct nef_s3_error *why)
{
    return nef_s3_refuse(why, NEF_S3_INVALID_REQUEST,
                         "Expecting a single x-amz-checksum- header. Multiple checksum Types are "
                         "not allowed.");
}

static nef_err parse_checksum(struct nef_s3_parser *p, const char *name, const char *value)
{
    struct nef_s3_request *r = p->r;
    enum nef_s3_checksum_kind kind = nef_s3_checksum_by_header(name);

    if (kind == NEF_S3_CHECKSUM_NONE) /* MD5, SHA512 and the XXHASHes of later SDKs */
        return nef_s3_refuse_header(p->why, name);
    if (r->checksum.kind != NEF_S3_CHECKSUM_NONE)
        return several(p->why);
    if (nef_s3_checksum_parse(kind, value, r->op == NEF_S3_OP_COMPLETE_MULTIPART_UPLOAD,
                              &r->checksum) != NEF_OK)
        return invalid_value(p->why, name);
    return NEF_OK;
}

static nef_err parse_type(struct nef_s3_parser *p, const char *value)
{
    if (strcasecmp(value, "COMPOSITE") == 0)
        p->r->checksum_type = NEF_S3_CHECKSUM_COMPOSITE;
    else if (strcasecmp(value, "FULL_OBJECT") == 0)
        p->r->checksum_type = NEF_S3_CHECKSUM_FULL_OBJECT;
    else
        return invalid_value(p->why, "x-amz-checksum-type");
    return NEF_OK;
}

nef_err nef_s3_parse_checksums(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    const char *algorithm = nef_s3_http_header(p->http, "x-amz-checksum-algorithm");
    const char *announced = nef_s3_http_header(p->http, "x-amz-sdk-checksum-algorithm");
    const char *trailer = nef_s3_http_header(p->http, "x-amz-trailer");
    enum nef_s3_checksum_kind sent, kind = NEF_S3_CHECKSUM_NONE;
    enum nef_s3_checksum_type type;
    bool carries = r->op == NEF_S3_OP_PUT_OBJECT || r->op == NEF_S3_OP_UPLOAD_PART ||
                   r->op == NEF_S3_OP_DELETE_OBJECTS;
    nef_err err;

    for (size_t i = 0; i < p->http->header_count; i++) {
        const struct nef_http_field *h = &p->http->headers[i];

        if (strncasecmp(h->name, "x-amz-checksum-", 15) != 0 ||
            strcasecmp(h->name + 15, "mode") == 0 || strcasecmp(h->name + 15, "algorithm") == 0)
            continue;
        err = strcasecmp(h->name + 15, "type") == 0 ? parse_type(p, h->value)
                                                    : parse_checksum(p, h->name, h->value);
        if (err != NEF_OK)
            return err;
    }
    if (trailer != NULL && *trailer != '\0') {
        r->trailer_checksum = nef_s3_checksum_by_header(trailer);
        if (r->trailer_checksum == NEF_S3_CHECKSUM_NONE)
            return nef_s3_refuse(
                p->why, NEF_S3_INVALID_REQUEST,
                "The value specified in the x-amz-trailer header is not supported");
        if (r->checksum.kind != NEF_S3_CHECKSUM_NONE)
            return several(p->why);
    }
    sent = r->trailer_checksum != NEF_S3_CHECKSUM_NONE ? r->trailer_checksum : r->checksum.kind;
    if (announced != NULL && carries) {
        kind = nef_s3_checksum_by_name(announced);
        if (kind == NEF_S3_CHECKSUM_NONE)
            return invalid_value(p->why, "x-amz-sdk-checksum-algorithm");
        if (sent == NEF_S3_CHECKSUM_NONE)
            return nef_s3_refuse(p->why, NEF_S3_INVALID_REQUEST,
                                 "x-amz-sdk-checksum-algorithm specified, but no corresponding "
                                 "x-amz-checksum-* or x-amz-trailer headers were found.");
        if (kind != sent)
            return invalid_value(p->why, "x-amz-sdk-checksum-algorithm");
    }
    if (algorithm != NULL &&
        (r->op == NEF_S3_OP_CREATE_MULTIPART_UPLOAD || r->op == NEF_S3_OP_COPY_OBJECT)) {
        kind = nef_s3_checksum_by_name(algorithm);
        if (kind == NEF_S3_CHECKSUM_NONE)
            return nef_s3_refuse(
                p->why, NEF_S3_INVALID_REQUEST,
                "Checksum algorithm provided is unsupported. Please try again with "
                "any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]");
    }
    r->checksum_kind = kind != NEF_S3_CHECKSUM_NONE ? kind : sent;
    if (r->op == NEF_S3_OP_CREATE_MULTIPART_UPLOAD &&
        nef_s3_checksum_multipart_type(r->checksum_kind, r->checksum_type, &type) != NEF_OK) {
        if (r->checksum_kind == NEF_S3_CHECKSUM_NONE)
            return nef_s3_refuse(p->why, NEF_S3_INVALID_REQUEST,
                                 "The x-amz-checksum-type header can only be used with the "
                                 "x-amz-checksum-algorithm header.");
        return nef_s3_refuse(p->why, NEF_S3_INVALID_REQUEST,
                             "The %s checksum type cannot be used with the %s checksum algorithm.",
                             nef_s3_checksum_type_name(r->checksum_type),
                             nef_s3_checksum_name(r->checksum_kind));
    }
    return NEF_OK;
}

/* ---- copies ---- */

static nef_err bad_source(struct nef_s3_parser *p, const char *value, const char *message)
{
    return nef_s3_refuse_argument(p->why, "x-amz-copy-source", value, message);
}

nef_err nef_s3_parse_copy_source(struct nef_s3_parser *p, const char *value)
{
    static const char form[] =
        "Copy Source must mention the source bucket and key: sourcebucket/sourcekey";
    struct nef_s3_request *r = p->r;
    const char *range = nef_s3_http_header(p->http, "x-amz-copy-source-range");
    size_t bytes = strcspn(value, "?"), n;
    char *text = p->at, *slash;

    if (strncasecmp(value, "arn:", 4) == 0)
        return bad_source(p, value, "Access points are not supported as a copy source");
    /* the key's own '?' must be escaped, so what follows a '?' is the version */
    if (value[bytes] == '?') {
        if (strncmp(value + bytes, "?versionId=", 11) != 0)
            return bad_source(p, value, form);
        if (strcmp(value + bytes + 11, "null") != 0)
            return bad_source(p, value, "Invalid version id specified");
    }
    NEF_ASSERT((size_t)(p->end - p->at) > bytes);
    if (nef_s3_decode(value, bytes, false, text, &n) != NEF_OK)
        return bad_source(p, value, "Invalid copy source encoding.");
    p->at += n + 1;
    if (*text == '/') {
        text++;
        n--;
    }
    slash = strchr(text, '/');
    if (slash == NULL || slash == text || slash[1] == '\0')
        return bad_source(p, value, form);
    *slash = '\0';
    if (nef_s3_bucket_name_check(text) != NEF_OK)
        return bad_source(p, value, "Invalid copy source bucket name");
    r->source_bucket = text;
    r->source_key = slash + 1;
    r->source_key_bytes = n - (size_t)(slash + 1 - text);
    if (r->source_key_bytes > NEF_OBJECT_KEY_MAX)
        return bad_source(p, value, "Invalid copy source object key");
    if (range != NULL && r->op == NEF_S3_OP_UPLOAD_PART_COPY) {
        if (nef_s3_range_exact(range, &r->source_first, &r->source_last) != NEF_OK)
            return nef_s3_refuse_argument(
                p->why, "x-amz-copy-source-range", range,
                "The x-amz-copy-source-range value must be of the form bytes=first-last where "
                "first "
                "and last are the zero-based offsets of the first and last bytes to copy");
        r->has_source_range = true;
    }
    if (r->op == NEF_S3_OP_COPY_OBJECT && !r->metadata_replace &&
        nef_s3_http_header(p->http, "x-amz-storage-class") == NULL &&
        nef_s3_http_header(p->http, "x-amz-server-side-encryption") == NULL &&
        nef_s3_http_header(p->http, "x-amz-checksum-algorithm") == NULL &&
        strcmp(r->source_bucket, r->bucket) == 0 && r->source_key_bytes == r->object_key_bytes &&
        memcmp(r->source_key, r->object_key, r->object_key_bytes) == 0)
        return nef_s3_refuse(
            p->why, NEF_S3_INVALID_REQUEST,
            "This copy request is illegal because it is trying to copy an object to "
            "itself without changing the object's metadata, storage class, website "
            "redirect location or encryption attributes.");
    return NEF_OK;
}

/* ---- conditions on writes ---- */

static const char *unquoted(struct nef_s3_parser *p, const char *value)
{
    size_t bytes = strlen(value);

    if (bytes >= 2 && value[0] == '"' && value[bytes - 1] == '"') {
        value++;
        bytes -= 2;
    }
    /* Longer than any ETag of ours (38 characters): cut, it still matches none. */
    if (bytes > NEF_S3_ETAG_BYTES - 1)
        bytes = NEF_S3_ETAG_BYTES - 1;
    return nef_s3_parser_copy(p, value, bytes);
}

nef_err nef_s3_parse_write_condition(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    const struct nef_s3_conditions *c = &r->conditions;
    bool replaces = r->op == NEF_S3_OP_PUT_OBJECT || r->op == NEF_S3_OP_COPY_OBJECT ||
                    r->op == NEF_S3_OP_COMPLETE_MULTIPART_UPLOAD;

    if (!replaces && r->op != NEF_S3_OP_DELETE_OBJECT)
        return NEF_OK;
    if (c->if_modified_since != NULL)
        return nef_s3_refuse_header(p->why, "If-Modified-Since");
    if (c->if_unmodified_since != NULL)
        return nef_s3_refuse_header(p->why, "If-Unmodified-Since");
    if (c->if_none_match != NULL) {
        if (!replaces || c->if_match != NULL || strcmp(c->if_none_match, "*") != 0)
            return nef_s3_refuse_header(p->why, "If-None-Match");
        r->write_condition = NEF_S3_WRITE_IF_ABSENT;
    } else if (c->if_match != NULL && strcmp(c->if_match, "*") == 0) {
        r->write_condition = NEF_S3_WRITE_IF_EXISTS;
    } else if (c->if_match != NULL) {
        r->write_condition = NEF_S3_WRITE_IF_ETAG;
        r->write_etag = unquoted(p, c->if_match);
    }
    return NEF_OK;
}
