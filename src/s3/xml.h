/* S3's XML: parsers of the three request bodies and writers of all result documents (API reference,
 * namespace http://s3.amazonaws.com/doc/2006-03-01/).
 *
 * Parsing (expat, the only place) refuses document types and so all entities of the client's, and
 * bounds size, depth and counts; what isn't of the schema is MalformedXML. Writers append to a
 * struct nef_buf, whose sticky failure the caller checks once. Texts are UTF-8. A character XML 1.0
 * can't hold is written as a character reference, as S3 does: clients that may meet such keys ask
 * for encoding-type=url. */
#ifndef NEF_S3_XML_H
#define NEF_S3_XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"
#include "s3/checksum.h"
#include "s3/error.h"
#include "s3/multipart.h"

/* ---- request bodies ---- */

struct nef_s3_complete {
    struct nef_s3_part_named *parts; /* owned */
    size_t part_count;               /* 1 to NEF_PART_COUNT_MAX, in the client's order */
};
NEF_MUST_CHECK nef_err nef_s3_xml_parse_complete(const void *body, size_t bytes,
                                                 struct nef_s3_complete *out,
                                                 struct nef_s3_error *why);
void nef_s3_complete_free(struct nef_s3_complete *c);

struct nef_s3_delete_item {
    const char *object_key; /* NUL-terminated, in memory */
    size_t object_key_bytes;
    const char *etag; /* without quotes, "*" or NULL: delete only if it matches */
    bool bad_version; /* a VersionId other than "null": answer NoSuchVersion for this key */
};
struct nef_s3_delete {
    bool quiet;
    struct nef_s3_delete_item *items; /* owned; 1 to NEF_DELETE_MAX */
    size_t item_count;
    struct nef_buf memory;
};
NEF_MUST_CHECK nef_err nef_s3_xml_parse_delete(const void *body, size_t bytes,
                                               struct nef_s3_delete *out, struct nef_s3_error *why);
void nef_s3_delete_free(struct nef_s3_delete *d);

/* An empty body is fine: no constraint. region: ours; another LocationConstraint is refused with
 * IllegalLocationConstraintException (us-east-1, S3's default, written or not, is always ours). */
NEF_MUST_CHECK nef_err nef_s3_xml_parse_create_bucket(const void *body, size_t bytes,
                                                      const char *region, struct nef_s3_error *why);

/* ---- result documents; NULL texts leave their element out ---- */

struct nef_s3_owner {
    const char *id;
    const char *display_name;
};

struct nef_s3_xml_bucket {
    const char *name;
    int64_t created_ms;
};
void nef_s3_xml_list_buckets(struct nef_buf *out, const struct nef_s3_owner *owner,
                             const char *region, const struct nef_s3_xml_bucket *buckets,
                             size_t count, const char *prefix, const char *continuation_token);

void nef_s3_xml_location(struct nef_buf *out, const char *region);
void nef_s3_xml_versioning(struct nef_buf *out); /* never enabled: the empty document */

/* A row of a listing, in key order. */
struct nef_s3_xml_object {
    const char *object_key;
    size_t object_key_bytes;
    bool is_prefix; /* a CommonPrefix: the fields below aren't read */
    int64_t modified_ms;
    uint64_t bytes;
    const char *etag; /* without quotes */
    enum nef_s3_checksum_kind checksum_kind;
    enum nef_s3_checksum_type checksum_type;
};
/* What a listing was asked and found. */
struct nef_s3_xml_listing {
    const char *bucket;
    const char *prefix;
    const char *delimiter; /* "" or NULL: none */
    bool encoding_url;
    unsigned max;
    bool truncated;
    const struct nef_s3_xml_object *objects;
    size_t object_count;
    const struct nef_s3_owner *owner; /* NULL: rows without Owner (v2 without fetch-owner) */
    /* ListObjects */
    const char *marker;
    const char *next_marker; /* only when truncated */
    /* ListObjectsV2 */
    const char *start_after;
    const char *continuation_token;
    const char *next_continuation_token;
    /* ListObjectVersions (all versions are "null" and latest) */
    const char *key_marker;
    const char *version_id_marker;
    const char *next_key_marker;
};
void nef_s3_xml_list_objects(struct nef_buf *out, const struct nef_s3_xml_listing *l);
void nef_s3_xml_list_objects_v2(struct nef_buf *out, const struct nef_s3_xml_listing *l);
void nef_s3_xml_list_versions(struct nef_buf *out, const struct nef_s3_xml_listing *l);

struct nef_s3_xml_upload {
    const char *object_key;
    size_t object_key_bytes;
    bool is_prefix;
    const char *upload_id;
    int64_t initiated_ms;
    enum nef_s3_checksum_kind checksum_kind;
    enum nef_s3_checksum_type checksum_type;
};
struct nef_s3_xml_uploads {
    const char *bucket;
    const char *prefix;
    const char *delimiter;
    const char *key_marker;
    const char *upload_id_marker;
    const char *next_key_marker; /* only when truncated */
    const char *next_upload_id_marker;
    bool encoding_url;
    unsigned max;
    bool truncated;
    const struct nef_s3_owner *owner;
    const struct nef_s3_xml_upload *uploads;
    size_t upload_count;
};
void nef_s3_xml_list_uploads(struct nef_buf *out, const struct nef_s3_xml_uploads *l);

struct nef_s3_xml_part {
    unsigned number;
    int64_t modified_ms;
    uint64_t bytes;
    const char *etag;
    struct nef_s3_checksum_value checksum;
};
struct nef_s3_xml_parts {
    const char *bucket;
    const char *object_key;
    size_t object_key_bytes;
    const char *upload_id;
    bool encoding_url;
    unsigned marker, next_marker, max;
    bool truncated;
    const struct nef_s3_owner *owner;
    enum nef_s3_checksum_kind checksum_kind;
    enum nef_s3_checksum_type checksum_type;
    const struct nef_s3_xml_part *parts;
    size_t part_count;
};
void nef_s3_xml_list_parts(struct nef_buf *out, const struct nef_s3_xml_parts *l);

void nef_s3_xml_initiate(struct nef_buf *out, const char *bucket, const char *object_key,
                         size_t object_key_bytes, const char *upload_id);
/* location: the object's URL. */
void nef_s3_xml_complete(struct nef_buf *out, const char *location, const char *bucket,
                         const char *object_key, size_t object_key_bytes, const char *etag,
                         const struct nef_s3_checksum_value *checksum);
void nef_s3_xml_copy_object(struct nef_buf *out, const char *etag, int64_t modified_ms,
                            const struct nef_s3_checksum_value *checksum);
void nef_s3_xml_copy_part(struct nef_buf *out, const char *etag, int64_t modified_ms,
                          const struct nef_s3_checksum_value *checksum);

/* Outcome of one key of a multi-delete. */
struct nef_s3_xml_deleted {
    const char *object_key;
    size_t object_key_bytes;
    bool failed;
    enum nef_s3_code code; /* if failed */
    const char *message;   /* if failed; NULL: the table's */
};
void nef_s3_xml_delete_result(struct nef_buf *out, const struct nef_s3_xml_deleted *items,
                              size_t count, bool quiet);

/* The writer itself, for error.c and for documents of other parts. */
void nef_s3_xml_begin(struct nef_buf *out);                                /* declaration */
void nef_s3_xml_text(struct nef_buf *out, const char *text, size_t bytes); /* escaped */
void nef_s3_xml_url(struct nef_buf *out, const char *text, size_t bytes);  /* encoding-type=url */
void nef_s3_xml_element(struct nef_buf *out, const char *name, const char *text); /* NULL: none */
void nef_s3_xml_element_number(struct nef_buf *out, const char *name, uint64_t value);

#endif
