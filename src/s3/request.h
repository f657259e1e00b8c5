/* What an S3 request asks for: method, raw target and headers parsed and checked into one struct,
 * so that the HTTP layer never looks at a header's text itself. Path style only. Knows nothing of
 * users, policies or what is stored; the signature is sigv4.h's, and conditions and ranges are kept
 * as text until the object is known (condition.h, range.h). */
#ifndef NEF_S3_REQUEST_H
#define NEF_S3_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/limits.h"
#include "s3/checksum.h"
#include "s3/error.h"
#include "s3/http.h"

/* X(name, Amazon's name) of what is built. */
#define NEF_S3_OP_LIST(X)                                                                          \
    X(NOT_IMPLEMENTED, "NotImplemented")                                                           \
    X(LIST_BUCKETS, "ListBuckets")                                                                 \
    X(CREATE_BUCKET, "CreateBucket")                                                               \
    X(DELETE_BUCKET, "DeleteBucket")                                                               \
    X(HEAD_BUCKET, "HeadBucket")                                                                   \
    X(GET_BUCKET_LOCATION, "GetBucketLocation")                                                    \
    X(GET_BUCKET_VERSIONING, "GetBucketVersioning")                                                \
    X(LIST_OBJECTS, "ListObjects")                                                                 \
    X(LIST_OBJECTS_V2, "ListObjectsV2")                                                            \
    X(LIST_OBJECT_VERSIONS, "ListObjectVersions")                                                  \
    X(LIST_MULTIPART_UPLOADS, "ListMultipartUploads")                                              \
    X(DELETE_OBJECTS, "DeleteObjects")                                                             \
    X(GET_OBJECT, "GetObject")                                                                     \
    X(HEAD_OBJECT, "HeadObject")                                                                   \
    X(PUT_OBJECT, "PutObject")                                                                     \
    X(COPY_OBJECT, "CopyObject")                                                                   \
    X(DELETE_OBJECT, "DeleteObject")                                                               \
    X(CREATE_MULTIPART_UPLOAD, "CreateMultipartUpload")                                            \
    X(UPLOAD_PART, "UploadPart")                                                                   \
    X(UPLOAD_PART_COPY, "UploadPartCopy")                                                          \
    X(COMPLETE_MULTIPART_UPLOAD, "CompleteMultipartUpload")                                        \
    X(ABORT_MULTIPART_UPLOAD, "AbortMultipartUpload")                                              \
    X(LIST_PARTS, "ListParts")                                                                     \
    X(GET_OBJECT_TAGGING, "GetObjectTagging")

enum nef_s3_op {
#define X(name, text) NEF_S3_OP_##name,
    NEF_S3_OP_LIST(X)
#undef X
        NEF_S3_OP_COUNT
};
const char *nef_s3_op_name(enum nef_s3_op op); /* static text */

/* Conditional headers as sent; NULL: absent. Evaluate with condition.h. */
struct nef_s3_conditions {
    const char *if_match;
    const char *if_none_match;
    const char *if_modified_since;
    const char *if_unmodified_since;
};

/* What a PUT, CopyObject, CompleteMultipartUpload or DELETE demands of the present object; the
 * store decides it when the op is applied. */
enum nef_s3_write_condition {
    NEF_S3_WRITE_ALWAYS,
    NEF_S3_WRITE_IF_ABSENT, /* If-None-Match: * */
    NEF_S3_WRITE_IF_EXISTS, /* If-Match: * */
    NEF_S3_WRITE_IF_ETAG,   /* If-Match: "etag" */
};

struct nef_s3_meta {
    const char *name; /* lower case, without x-amz-meta- */
    const char *value;
};
#define NEF_S3_META_MAX 256u /* headers; their bytes are bounded by NEF_USER_METADATA_MAX */

/* All texts are owned by the request (one allocation), NUL-terminated, NULL if absent. */
struct nef_s3_request {
    enum nef_s3_op op;
    const char
        *op_name;     /* Amazon's name, also where op is NOT_IMPLEMENTED ("GetBucketAcl"); static */
    bool body_is_xml; /* CreateBucket, DeleteObjects, CompleteMultipartUpload: collect it whole */
    const char *resource; /* decoded path for error documents */
    const char *bucket;   /* NULL for ListBuckets */
    const char *object_key;
    size_t object_key_bytes;

    /* query */
    const char *prefix; /* "" if absent, as the four below */
    const char *delimiter;
    const char *marker;             /* ListObjects */
    const char *start_after;        /* ListObjectsV2 */
    const char *key_marker;         /* ListObjectVersions, ListMultipartUploads */
    const char *continuation_token; /* as sent; token.h */
    const char *version_id_marker;
    const char *upload_id_marker;
    bool encoding_url;
    bool fetch_owner;
    unsigned list_max; /* max-keys, max-uploads, max-parts or max-buckets, capped to S3's */
    unsigned part_number_marker; /* ListParts */
    const char *upload_id;
    unsigned part_number;              /* 0: absent */
    bool version_null;                 /* versionId=null was given */
    const char *response_content_type; /* response-* overrides */
    const char *response_content_language;
    const char *response_expires;
    const char *response_cache_control;
    const char *response_content_disposition;
    const char *response_content_encoding;

    /* body */
    int64_t content_bytes;         /* Content-Length, -1: absent */
    int64_t decoded_content_bytes; /* x-amz-decoded-content-length, -1: absent */
    bool has_content_md5;
    uint8_t content_md5[16];
    struct nef_s3_checksum_value checksum;      /* x-amz-checksum-*, kind NONE: absent */
    enum nef_s3_checksum_kind trailer_checksum; /* announced by x-amz-trailer */
    /* x-amz-checksum-algorithm (uploads, copies), x-amz-sdk-checksum-algorithm, or that of the
     * above */
    enum nef_s3_checksum_kind checksum_kind;
    enum nef_s3_checksum_type checksum_type; /* x-amz-checksum-type */
    bool checksum_mode;                      /* x-amz-checksum-mode: ENABLED */
    int64_t multipart_object_bytes;          /* x-amz-mp-object-size, -1: absent */

    /* what is stored with an object */
    const char *content_type;
    const char *cache_control;
    const char *content_disposition;
    const char *content_encoding; /* without aws-chunked */
    const char *content_language;
    const char *expires;
    struct nef_s3_meta *meta; /* sorted by name, repeated ones joined by ',' */
    size_t meta_count;

    /* reading and writing */
    const char *range;                   /* Range; range.h */
    struct nef_s3_conditions conditions; /* GET and HEAD */
    enum nef_s3_write_condition write_condition;
    const char *write_etag; /* IF_ETAG: without quotes */

    /* copying */
    const char *source_bucket;
    const char *source_key;
    size_t source_key_bytes;
    struct nef_s3_conditions source_conditions;
    bool metadata_replace; /* x-amz-metadata-directive: REPLACE */
    bool has_source_range; /* x-amz-copy-source-range: bytes=first-last, both inclusive */
    uint64_t source_first, source_last;

    /* who should own them; the caller compares with the region's owner id, AccessDenied if another
     */
    const char *expected_bucket_owner;
    const char *expected_source_owner;

    char *memory; /* the allocation behind all texts */
};

/* Parses and checks HTTP. What is known but not built gives NEF_OK and op NOT_IMPLEMENTED, so that
 * the caller checks the signature first and then answers with nef_s3_request_not_implemented.
 * Errors: NEF_E_NOMEM, or a refusal; `why` is filled in every case. */
NEF_MUST_CHECK nef_err nef_s3_request_parse(const struct nef_s3_http *http,
                                            struct nef_s3_request *out, struct nef_s3_error *why);
void nef_s3_request_free(struct nef_s3_request *r); /* zeroed is fine */
/* NotImplemented, naming the operation. */
nef_err nef_s3_request_not_implemented(const struct nef_s3_request *r, struct nef_s3_error *why);

/* Amazon's "Bucket naming rules". NEF_E_INVALID. */
NEF_MUST_CHECK nef_err nef_s3_bucket_name_check(const char *name);

/* Well-formed UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF). */
bool nef_s3_utf8_valid(const void *text, size_t bytes);
/* Percent-decodes BYTES of TEXT to OUT (room for BYTES + 1), adds a NUL; '+' becomes a space only
 * if plus_is_space. NEF_E_INVALID for a bad escape, a NUL or invalid UTF-8. */
NEF_MUST_CHECK nef_err nef_s3_decode(const char *text, size_t bytes, bool plus_is_space, char *out,
                                     size_t *out_bytes);

#endif
