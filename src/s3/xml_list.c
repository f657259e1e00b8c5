/* Listings. Element order is Amazon's. With encoding-type=url the texts that may hold any character
 * (keys, prefixes, markers, delimiters) are escaped; tokens and upload ids need none. */
#include <string.h>
#include "s3/xml.h"
#include "s3/xml_internal.h"

static void text_element(struct nef_buf *out, const char *name, const char *text, bool encoding_url)
{
    if (text != NULL)
        nef_s3_xml_key(out, name, text, strlen(text), encoding_url);
}

static const char *or_null(const char *text)
{
    return text != NULL && *text != '\0' ? text : NULL;
}

static void boolean(struct nef_buf *out, const char *name, bool value)
{
    nef_s3_xml_element(out, name, value ? "true" : "false");
}

static void common_prefix(struct nef_buf *out, const char *prefix, size_t bytes, bool encoding_url)
{
    nef_buf_text(out, "<CommonPrefixes>");
    nef_s3_xml_key(out, "Prefix", prefix, bytes, encoding_url);
    nef_buf_text(out, "</CommonPrefixes>");
}

static void object_row(struct nef_buf *out, const struct nef_s3_xml_listing *l,
                       const struct nef_s3_xml_object *o, bool version)
{
    const char *element = version ? "Version" : "Contents";

    nef_s3_xml_open(out, element);
    nef_s3_xml_key(out, "Key", o->object_key, o->object_key_bytes, l->encoding_url);
    if (version)
        nef_buf_text(out, "<VersionId>null</VersionId><IsLatest>true</IsLatest>");
    nef_s3_xml_date(out, "LastModified", o->modified_ms);
    nef_s3_xml_etag(out, o->etag);
    if (o->checksum_kind != NEF_S3_CHECKSUM_NONE) {
        nef_s3_xml_element(out, "ChecksumAlgorithm", nef_s3_checksum_name(o->checksum_kind));
        nef_s3_xml_element(out, "ChecksumType", nef_s3_checksum_type_name(o->checksum_type));
    }
    nef_s3_xml_element_number(out, "Size", o->bytes);
    nef_s3_xml_person(out, "Owner", l->owner);
    nef_s3_xml_element(out, "StorageClass", "STANDARD");
    nef_s3_xml_close(out, element);
}

/* Objects first, then common prefixes, as S3 does. */
static void rows(struct nef_buf *out, const struct nef_s3_xml_listing *l, bool version)
{
    for (size_t i = 0; i < l->object_count; i++)
        if (!l->objects[i].is_prefix)
            object_row(out, l, &l->objects[i], version);
    for (size_t i = 0; i < l->object_count; i++)
        if (l->objects[i].is_prefix)
            common_prefix(out, l->objects[i].object_key, l->objects[i].object_key_bytes,
                          l->encoding_url);
}

static void begin(struct nef_buf *out, const struct nef_s3_xml_listing *l, const char *root)
{
    nef_s3_xml_root(out, root);
    nef_s3_xml_element(out, "Name", l->bucket);
    text_element(out, "Prefix", l->prefix != NULL ? l->prefix : "", l->encoding_url);
}

/* From the limits to the rows: the same in every listing of objects. */
static void end(struct nef_buf *out, const struct nef_s3_xml_listing *l, bool versions)
{
    nef_s3_xml_element_number(out, "MaxKeys", l->max);
    text_element(out, "Delimiter", or_null(l->delimiter), l->encoding_url);
    boolean(out, "IsTruncated", l->truncated);
    if (l->encoding_url)
        nef_s3_xml_element(out, "EncodingType", "url");
    rows(out, l, versions);
}

void nef_s3_xml_list_objects(struct nef_buf *out, const struct nef_s3_xml_listing *l)
{
    begin(out, l, "ListBucketResult");
    text_element(out, "Marker", l->marker != NULL ? l->marker : "", l->encoding_url);
    if (l->truncated)
        text_element(out, "NextMarker", l->next_marker, l->encoding_url);
    end(out, l, false);
    nef_buf_text(out, "</ListBucketResult>");
}

void nef_s3_xml_list_objects_v2(struct nef_buf *out, const struct nef_s3_xml_listing *l)
{
    begin(out, l, "ListBucketResult");
    nef_s3_xml_element(out, "ContinuationToken", l->continuation_token);
    if (l->truncated)
        nef_s3_xml_element(out, "NextContinuationToken", l->next_continuation_token);
    text_element(out, "StartAfter", or_null(l->start_after), l->encoding_url);
    nef_s3_xml_element_number(out, "KeyCount", l->object_count);
    end(out, l, false);
    nef_buf_text(out, "</ListBucketResult>");
}

void nef_s3_xml_list_versions(struct nef_buf *out, const struct nef_s3_xml_listing *l)
{
    begin(out, l, "ListVersionsResult");
    text_element(out, "KeyMarker", l->key_marker != NULL ? l->key_marker : "", l->encoding_url);
    nef_s3_xml_element(out, "VersionIdMarker",
                       l->version_id_marker != NULL ? l->version_id_marker : "");
    if (l->truncated) {
        text_element(out, "NextKeyMarker", l->next_key_marker, l->encoding_url);
        /* a common prefix has no version */
        if (l->object_count > 0 && !l->objects[l->object_count - 1].is_prefix)
            nef_s3_xml_element(out, "NextVersionIdMarker", "null");
    }
    end(out, l, true);
    nef_buf_text(out, "</ListVersionsResult>");
}

/* ---- uploads and parts ---- */

void nef_s3_xml_list_uploads(struct nef_buf *out, const struct nef_s3_xml_uploads *l)
{
    nef_s3_xml_root(out, "ListMultipartUploadsResult");
    nef_s3_xml_element(out, "Bucket", l->bucket);
    text_element(out, "KeyMarker", l->key_marker != NULL ? l->key_marker : "", l->encoding_url);
    nef_s3_xml_element(out, "UploadIdMarker",
                       l->upload_id_marker != NULL ? l->upload_id_marker : "");
    if (l->truncated) {
        text_element(out, "NextKeyMarker", l->next_key_marker, l->encoding_url);
        nef_s3_xml_element(out, "NextUploadIdMarker", l->next_upload_id_marker);
    }
    text_element(out, "Delimiter", or_null(l->delimiter), l->encoding_url);
    text_element(out, "Prefix", l->prefix != NULL ? l->prefix : "", l->encoding_url);
    if (l->encoding_url)
        nef_s3_xml_element(out, "EncodingType", "url");
    nef_s3_xml_element_number(out, "MaxUploads", l->max);
    boolean(out, "IsTruncated", l->truncated);
    for (size_t i = 0; i < l->upload_count; i++) {
        const struct nef_s3_xml_upload *u = &l->uploads[i];

        if (u->is_prefix)
            continue;
        nef_buf_text(out, "<Upload>");
        nef_s3_xml_key(out, "Key", u->object_key, u->object_key_bytes, l->encoding_url);
        nef_s3_xml_element(out, "UploadId", u->upload_id);
        nef_s3_xml_person(out, "Initiator", l->owner);
        nef_s3_xml_person(out, "Owner", l->owner);
        nef_s3_xml_element(out, "StorageClass", "STANDARD");
        nef_s3_xml_date(out, "Initiated", u->initiated_ms);
        nef_s3_xml_element(out, "ChecksumAlgorithm", nef_s3_checksum_name(u->checksum_kind));
        nef_s3_xml_element(out, "ChecksumType", nef_s3_checksum_type_name(u->checksum_type));
        nef_buf_text(out, "</Upload>");
    }
    for (size_t i = 0; i < l->upload_count; i++)
        if (l->uploads[i].is_prefix)
            common_prefix(out, l->uploads[i].object_key, l->uploads[i].object_key_bytes,
                          l->encoding_url);
    nef_buf_text(out, "</ListMultipartUploadsResult>");
}

void nef_s3_xml_list_parts(struct nef_buf *out, const struct nef_s3_xml_parts *l)
{
    nef_s3_xml_root(out, "ListPartsResult");
    nef_s3_xml_element(out, "Bucket", l->bucket);
    nef_s3_xml_key(out, "Key", l->object_key, l->object_key_bytes, l->encoding_url);
    if (l->encoding_url)
        nef_s3_xml_element(out, "EncodingType", "url");
    nef_s3_xml_element(out, "UploadId", l->upload_id);
    nef_s3_xml_person(out, "Initiator", l->owner);
    nef_s3_xml_person(out, "Owner", l->owner);
    nef_s3_xml_element(out, "StorageClass", "STANDARD");
    nef_s3_xml_element_number(out, "PartNumberMarker", l->marker);
    nef_s3_xml_element_number(out, "NextPartNumberMarker", l->next_marker);
    nef_s3_xml_element_number(out, "MaxParts", l->max);
    boolean(out, "IsTruncated", l->truncated);
    nef_s3_xml_element(out, "ChecksumAlgorithm", nef_s3_checksum_name(l->checksum_kind));
    nef_s3_xml_element(out, "ChecksumType", nef_s3_checksum_type_name(l->checksum_type));
    for (size_t i = 0; i < l->part_count; i++) {
        const struct nef_s3_xml_part *part = &l->parts[i];

        nef_buf_text(out, "<Part>");
        nef_s3_xml_element_number(out, "PartNumber", part->number);
        nef_s3_xml_date(out, "LastModified", part->modified_ms);
        nef_s3_xml_etag(out, part->etag);
        nef_s3_xml_checksum(out, &part->checksum);
        nef_s3_xml_element_number(out, "Size", part->bytes);
        nef_buf_text(out, "</Part>");
    }
    nef_buf_text(out, "</ListPartsResult>");
}
