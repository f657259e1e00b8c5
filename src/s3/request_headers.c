/* Headers of a request: what is stored with an object, what is asked of reads, and what is refused.
 * A header that would change what happens and isn't built is refused by name (NotImplemented)
 * rather than ignored: a client that asks for a lock, a tag or its own key must not believe it got
 * it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "s3/request_internal.h"

/* VALUE without blanks around it; its length in *out_bytes. */
static const char *trimmed(const char *value, size_t *out_bytes)
{
    size_t bytes;

    while (*value == ' ' || *value == '\t')
        value++;
    bytes = strlen(value);
    while (bytes > 0 && (value[bytes - 1] == ' ' || value[bytes - 1] == '\t'))
        bytes--;
    *out_bytes = bytes;
    return value;
}

static bool is_text(const char *value, size_t bytes, const char *text)
{
    return strlen(text) == bytes && strncasecmp(value, text, bytes) == 0;
}

nef_err nef_s3_refuse_header(struct nef_s3_error *why, const char *header)
{
    nef_err err = nef_s3_refuse(why, NEF_S3_NOT_IMPLEMENTED, NULL);

    nef_s3_error_extra(why, "Header", header);
    return err;
}

/* ---- refused ---- */

static nef_err refuse_storage_class(struct nef_s3_parser *p, const char *value)
{
    nef_err err = nef_s3_refuse(p->why, NEF_S3_INVALID_STORAGE_CLASS, NULL);

    nef_s3_error_extra(p->why, "StorageClassRequested", value);
    return err;
}

static nef_err refuse_unbuilt(struct nef_s3_parser *p, const char *name, const char *value,
                              size_t bytes)
{
    /* a value that says "no" asks for nothing; NULL: any value is refused */
    static const struct {
        const char *name; /* a '*' at its end: all that begin so */
        const char *harmless;
    } unbuilt[] = {
        {"x-amz-tagging", ""},
        {"x-amz-tagging-directive", "COPY"},
        {"x-amz-website-redirect-location", NULL},
        {"x-amz-object-lock-*", NULL},
        {"x-amz-bucket-object-lock-enabled", "false"},
        {"x-amz-object-ownership", "BucketOwnerEnforced"},
        {"x-amz-mfa", NULL},
        {"x-amz-write-offset-bytes", NULL},
        {"x-amz-if-match-*", NULL},
        {"x-amz-server-side-encryption-customer-*", NULL},
        {"x-amz-copy-source-server-side-encryption-customer-*", NULL},
        {"x-amz-server-side-encryption-aws-kms-key-id", NULL},
        {"x-amz-server-side-encryption-context", NULL},
        {"x-amz-server-side-encryption-bucket-key-enabled", "false"},
    };

    for (size_t i = 0; i < NEF_COUNT(unbuilt); i++) {
        size_t n = strcspn(unbuilt[i].name, "*");
        bool prefix = unbuilt[i].name[n] == '*';

        if (strncasecmp(name, unbuilt[i].name, n) != 0 || (!prefix && name[n] != '\0'))
            continue;
        if (unbuilt[i].harmless != NULL && is_text(value, bytes, unbuilt[i].harmless))
            return NEF_OK;
        return nef_s3_refuse_header(p->why, name);
    }
    if (strncasecmp(name, "x-amz-grant-", 12) == 0)
        return nef_s3_refuse(p->why, NEF_S3_ACCESS_CONTROL_LIST_NOT_SUPPORTED, NULL);
    return NEF_OK;
}

/* ---- one header ---- */

static nef_err parse_md5(struct nef_s3_parser *p, const char *value, size_t bytes)
{
    uint8_t md5[16];
    size_t n;

    if (nef_unbase64(value, bytes, md5, sizeof(md5), &n) != NEF_OK || n != sizeof(md5)) {
        nef_err err = nef_s3_refuse(p->why, NEF_S3_INVALID_DIGEST, NULL);

        nef_s3_error_extra(p->why, "Content-MD5", value);
        return err;
    }
    memcpy(p->r->content_md5, md5, sizeof(md5));
    p->r->has_content_md5 = true;
    return NEF_OK;
}

/* Content-Encoding without aws-chunked, which is of the transfer and not of the object. */
static const char *without_chunked(struct nef_s3_parser *p, const char *value)
{
    char *out = p->at;
    size_t n = 0;

    NEF_ASSERT((size_t)(p->end - p->at) > strlen(value) + 1);
    while (*value != '\0') {
        size_t item = strcspn(value, ","), bytes;
        const char *text = value + strspn(value, " \t");

        bytes = text < value + item ? (size_t)(value + item - text) : 0;
        while (bytes > 0 && (text[bytes - 1] == ' ' || text[bytes - 1] == '\t'))
            bytes--;
        if (bytes > 0 && !is_text(text, bytes, "aws-chunked")) {
            if (n > 0)
                out[n++] = ',';
            memcpy(out + n, text, bytes);
            n += bytes;
        }
        value += item + (value[item] == ',' ? 1 : 0);
    }
    if (n == 0)
        return NULL;
    out[n] = '\0';
    p->at += n + 1;
    return out;
}

static nef_err parse_acl(struct nef_s3_parser *p, const char *value, size_t bytes)
{
    /* what the owner has anyway; the answer S3 gives where BucketOwnerEnforced turns ACLs off */
    if (is_text(value, bytes, "private") || is_text(value, bytes, "bucket-owner-full-control"))
        return NEF_OK;
    return nef_s3_refuse(p->why, NEF_S3_ACCESS_CONTROL_LIST_NOT_SUPPORTED, NULL);
}

static nef_err parse_encryption(struct nef_s3_parser *p, const char *name, const char *value,
                                size_t bytes)
{
    if (is_text(value, bytes, "AES256"))
        return NEF_OK; /* everything is encrypted with AES-256 anyway */
    if (bytes >= 7 && strncasecmp(value, "aws:kms", 7) == 0)
        return nef_s3_refuse_header(p->why, name);
    return nef_s3_refuse(p->why, NEF_S3_INVALID_ENCRYPTION_ALGORITHM, NULL);
}

static nef_err parse_length(struct nef_s3_parser *p, const char *name, const char *value,
                            int64_t *out)
{
    if (nef_s3_parse_number(value, out) != NEF_OK)
        return nef_s3_refuse_argument(p->why, name, value, "Value must be a non-negative integer");
    return NEF_OK;
}

static nef_err parse_directive(struct nef_s3_parser *p, const char *value, size_t bytes)
{
    if (is_text(value, bytes, "REPLACE"))
        p->r->metadata_replace = true;
    else if (!is_text(value, bytes, "COPY"))
        return nef_s3_refuse_argument(p->why, "x-amz-metadata-directive", value,
                                      "Unknown metadata directive.");
    return NEF_OK;
}

/* Headers that are kept as text. */
static const char **text_field(struct nef_s3_request *r, const char *name)
{
    struct {
        const char *name;
        const char **field;
    } fields[] = {
        {"content-type", &r->content_type},
        {"cache-control", &r->cache_control},
        {"content-disposition", &r->content_disposition},
        {"content-language", &r->content_language},
        {"expires", &r->expires},
        {"range", &r->range},
        {"if-match", &r->conditions.if_match},
        {"if-none-match", &r->conditions.if_none_match},
        {"if-modified-since", &r->conditions.if_modified_since},
        {"if-unmodified-since", &r->conditions.if_unmodified_since},
        {"x-amz-copy-source-if-match", &r->source_conditions.if_match},
        {"x-amz-copy-source-if-none-match", &r->source_conditions.if_none_match},
        {"x-amz-copy-source-if-modified-since", &r->source_conditions.if_modified_since},
        {"x-amz-copy-source-if-unmodified-since", &r->source_conditions.if_unmodified_since},
        {"x-amz-expected-bucket-owner", &r->expected_bucket_owner},
        {"x-amz-source-expected-bucket-owner", &r->expected_source_owner},
    };

    for (size_t i = 0; i < NEF_COUNT(fields); i++)
        if (strcasecmp(name, fields[i].name) == 0)
            return fields[i].field;
    return NULL;
}

static nef_err parse_header(struct nef_s3_parser *p, const char *name, const char *raw)
{
    struct nef_s3_request *r = p->r;
    const char **field = text_field(r, name);
    const char *text, *value;
    size_t bytes;
    nef_err err = NEF_OK;

    text = trimmed(raw, &bytes);
    if (field != NULL) {
        if (*field == NULL)
            *field = nef_s3_parser_copy(p, text, bytes);
        return NEF_OK;
    }
    if (strncasecmp(name, "x-amz-", 6) != 0 && strncasecmp(name, "content-", 8) != 0)
        return NEF_OK;
    value = nef_s3_parser_copy(p, text, bytes);
    if (strcasecmp(name, "content-length") == 0)
        err = parse_length(p, name, value, &r->content_bytes);
    else if (strcasecmp(name, "x-amz-decoded-content-length") == 0)
        err = parse_length(p, name, value, &r->decoded_content_bytes);
    else if (strcasecmp(name, "x-amz-mp-object-size") == 0)
        err = parse_length(p, name, value, &r->multipart_object_bytes);
    else if (strcasecmp(name, "content-md5") == 0)
        err = parse_md5(p, value, bytes);
    else if (strcasecmp(name, "content-encoding") == 0)
        r->content_encoding = without_chunked(p, value);
    else if (strcasecmp(name, "x-amz-storage-class") == 0 && !is_text(value, bytes, "STANDARD"))
        err = refuse_storage_class(p, value);
    else if (strcasecmp(name, "x-amz-acl") == 0)
        err = parse_acl(p, value, bytes);
    else if (strcasecmp(name, "x-amz-server-side-encryption") == 0)
        err = parse_encryption(p, name, value, bytes);
    else if (strcasecmp(name, "x-amz-metadata-directive") == 0)
        err = parse_directive(p, value, bytes);
    else if (strcasecmp(name, "x-amz-checksum-mode") == 0)
        r->checksum_mode = is_text(value, bytes, "ENABLED");
    else
        err = refuse_unbuilt(p, name, value, bytes);
    return err;
}

/* ---- user metadata ---- */

static int by_name(const void *a, const void *b)
{
    const struct nef_s3_meta *left = (const struct nef_s3_meta *)a;
    const struct nef_s3_meta *right = (const struct nef_s3_meta *)b;
    int order = strcmp(left->name, right->name);

    if (order != 0)
        return order;
    return left->value < right->value ? -1 : left->value > right->value; /* order of arrival */
}

/* The values of COUNT headers of one name as one, each written once. */
static const char *joined(struct nef_s3_parser *p, const struct nef_s3_meta *meta, size_t count)
{
    const char *out = p->at;

    for (size_t i = 0; i < count; i++) {
        (void)nef_s3_parser_copy(p, meta[i].value, strlen(meta[i].value));
        if (i + 1 < count)
            p->at[-1] = ','; /* over the NUL */
    }
    return out;
}

static nef_err parse_meta(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    size_t total = 0, count = 0;

    for (size_t i = 0; i < p->http->header_count; i++) {
        const struct nef_http_field *h = &p->http->headers[i];
        struct nef_s3_meta *m = &r->meta[r->meta_count];
        const char *value;
        char *name;
        size_t bytes;

        if (strncasecmp(h->name, "x-amz-meta-", 11) != 0 || h->name[11] == '\0')
            continue;
        name = p->at;
        (void)nef_s3_parser_copy(p, h->name + 11, strlen(h->name + 11));
        for (char *c = name; *c != '\0'; c++)
            if (*c >= 'A' && *c <= 'Z')
                *c = (char)(*c - 'A' + 'a');
        value = trimmed(h->value, &bytes);
        m->name = name;
        m->value = nef_s3_parser_copy(p, value, bytes);
        total += strlen(m->name) + bytes;
        r->meta_count++;
    }
    if (total > NEF_USER_METADATA_MAX) {
        nef_err err = nef_s3_refuse(p->why, NEF_S3_METADATA_TOO_LARGE, NULL);

        nef_s3_error_extra_number(p->why, "Size", total);
        nef_s3_error_extra_number(p->why, "MaxSizeAllowed", NEF_USER_METADATA_MAX);
        return err;
    }
    if (r->meta_count < 2)
        return NEF_OK;
    qsort(r->meta, r->meta_count, sizeof(r->meta[0]), by_name);
    for (size_t i = 0; i < r->meta_count;) {
        struct nef_s3_meta *first = &r->meta[i];
        size_t next = i + 1;

        while (next < r->meta_count && strcmp(first->name, r->meta[next].name) == 0)
            next++;
        if (next - i > 1)
            first->value = joined(p, first, next - i);
        r->meta[count++] = *first;
        i = next;
    }
    r->meta_count = count;
    return NEF_OK;
}

/* ---- what headers must be there, or not together ---- */

static nef_err check_body(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    int64_t bytes = r->decoded_content_bytes >= 0 ? r->decoded_content_bytes : r->content_bytes;

    if (r->op == NEF_S3_OP_PUT_OBJECT || r->op == NEF_S3_OP_UPLOAD_PART) {
        if (bytes < 0)
            return nef_s3_refuse(p->why, NEF_S3_MISSING_CONTENT_LENGTH, NULL);
        if ((uint64_t)bytes > NEF_PUT_BYTES_MAX) {
            nef_err err = nef_s3_refuse(p->why, NEF_S3_ENTITY_TOO_LARGE, NULL);

            nef_s3_error_extra_number(p->why, "ProposedSize", (uint64_t)bytes);
            nef_s3_error_extra_number(p->why, "MaxSizeAllowed", NEF_PUT_BYTES_MAX);
            return err;
        }
    } else if (r->body_is_xml && bytes > (int64_t)NEF_XML_BODY_MAX) {
        nef_err err = nef_s3_refuse(p->why, NEF_S3_MAX_MESSAGE_LENGTH_EXCEEDED, NULL);

        nef_s3_error_extra_number(p->why, "MaxMessageLengthBytes", NEF_XML_BODY_MAX);
        return err;
    }
    if (r->op == NEF_S3_OP_DELETE_OBJECTS && !r->has_content_md5 &&
        r->checksum.kind == NEF_S3_CHECKSUM_NONE && r->trailer_checksum == NEF_S3_CHECKSUM_NONE)
        return nef_s3_refuse(p->why, NEF_S3_INVALID_REQUEST,
                             "Missing required header for this request: Content-MD5 OR "
                             "x-amz-checksum-*");
    return NEF_OK;
}

nef_err nef_s3_parse_headers(struct nef_s3_parser *p)
{
    struct nef_s3_request *r = p->r;
    const char *value;
    nef_err err;

    for (size_t i = 0; i < p->http->header_count; i++) {
        const struct nef_http_field *h = &p->http->headers[i];

        if (strncasecmp(h->name, "x-amz-meta-", 11) == 0)
            continue;
        err = parse_header(p, h->name, h->value);
        if (err != NEF_OK)
            return err;
    }
    err = parse_meta(p);
    if (err == NEF_OK)
        err = nef_s3_parse_checksums(p);
    if (err == NEF_OK)
        err = check_body(p);
    if (err != NEF_OK)
        return err;
    if (r->range != NULL && r->part_number != 0 &&
        (r->op == NEF_S3_OP_GET_OBJECT || r->op == NEF_S3_OP_HEAD_OBJECT))
        return nef_s3_refuse(p->why, NEF_S3_INVALID_REQUEST,
                             "Cannot specify both Range header and partNumber query parameter");
    value = nef_s3_http_header(p->http, "x-amz-copy-source");
    if (value != NULL && (r->op == NEF_S3_OP_COPY_OBJECT || r->op == NEF_S3_OP_UPLOAD_PART_COPY)) {
        err = nef_s3_parse_copy_source(p, value);
        if (err != NEF_OK)
            return err;
    }
    return nef_s3_parse_write_condition(p);
}
