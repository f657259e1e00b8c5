/* The escaping writer, and all result documents but listings (xml_list.c). */
#include <stdio.h>
#include <string.h>
#include "s3/condition.h"
#include "s3/request.h"
#include "s3/xml.h"
#include "s3/xml_internal.h"

/* ---- the writer ---- */

void nef_s3_xml_begin(struct nef_buf *out)
{
    nef_buf_text(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
}

/* Bytes of the well-formed UTF-8 character at P, 0 if there is none. */
static size_t character(const char *p, size_t bytes)
{
    for (size_t n = 1; n <= 4 && n <= bytes; n++)
        if (nef_s3_utf8_valid(p, n))
            return n;
    return 0;
}

/* U+FFFE and U+FFFF, which XML 1.0 excludes like most control characters. */
static bool is_noncharacter(const char *p)
{
    return memcmp(p, "\xEF\xBF\xBE", 3) == 0 || memcmp(p, "\xEF\xBF\xBF", 3) == 0;
}

void nef_s3_xml_text(struct nef_buf *out, const char *text, size_t bytes)
{
    size_t plain = 0; /* bytes before i that are still to be appended as they are */

    for (size_t i = 0; i < bytes;) {
        unsigned char c = (unsigned char)text[i];
        char reference[12];
        const char *replacement = NULL;
        size_t n = 1;

        if (c == '&')
            replacement = "&amp;";
        else if (c == '<')
            replacement = "&lt;";
        else if (c == '>')
            replacement = "&gt;";
        else if (c == '"')
            replacement = "&quot;";
        else if ((c < 0x20 && c != '\t' && c != '\n') || c == 0x7F) {
            (void)snprintf(reference, sizeof(reference), "&#x%x;", c);
            replacement = reference;
        } else if (c >= 0x80) {
            n = character(text + i, bytes - i);
            if (n == 0) { /* a header's value may be any bytes; a document may not */
                n = 1;
                replacement = "\xEF\xBF\xBD";
            } else if (n == 3 && is_noncharacter(text + i)) {
                replacement = text[i + 2] == '\xBE' ? "&#xfffe;" : "&#xffff;";
            }
        }
        if (replacement != NULL) {
            if (i > plain)
                nef_buf_append(out, text + plain, i - plain);
            nef_buf_text(out, replacement);
            plain = i + n;
        }
        i += n;
    }
    if (bytes > plain)
        nef_buf_append(out, text + plain, bytes - plain);
}

/* As S3 does for encoding-type=url: '/' stays. */
void nef_s3_xml_url(struct nef_buf *out, const char *text, size_t bytes)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];

        if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
            c == '-' || c == '_' || c == '.' || c == '*' || c == '/') {
            nef_buf_u8(out, c);
        } else if (c == ' ') {
            nef_buf_u8(out, '+');
        } else {
            char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};

            nef_buf_append(out, escaped, 3);
        }
    }
}

void nef_s3_xml_element(struct nef_buf *out, const char *name, const char *text)
{
    if (text == NULL)
        return;
    nef_s3_xml_open(out, name);
    nef_s3_xml_text(out, text, strlen(text));
    nef_s3_xml_close(out, name);
}

void nef_s3_xml_element_number(struct nef_buf *out, const char *name, uint64_t value)
{
    nef_buf_printf(out, "<%s>%llu</%s>", name, (unsigned long long)value, name);
}

void nef_s3_xml_open(struct nef_buf *out, const char *name)
{
    nef_buf_u8(out, '<');
    nef_buf_text(out, name);
    nef_buf_u8(out, '>');
}

void nef_s3_xml_close(struct nef_buf *out, const char *name)
{
    nef_buf_text(out, "</");
    nef_buf_text(out, name);
    nef_buf_u8(out, '>');
}

void nef_s3_xml_root(struct nef_buf *out, const char *name)
{
    nef_s3_xml_begin(out);
    nef_buf_printf(out, "<%s xmlns=\"" NEF_S3_NAMESPACE "\">", name);
}

void nef_s3_xml_key(struct nef_buf *out, const char *name, const char *text, size_t bytes,
                    bool encoding_url)
{
    nef_s3_xml_open(out, name);
    if (encoding_url)
        nef_s3_xml_url(out, text, bytes);
    else
        nef_s3_xml_text(out, text, bytes);
    nef_s3_xml_close(out, name);
}

void nef_s3_xml_date(struct nef_buf *out, const char *name, int64_t unix_ms)
{
    char text[NEF_ISO_DATE_BYTES];

    nef_s3_date_iso(unix_ms, text);
    nef_s3_xml_element(out, name, text);
}

void nef_s3_xml_etag(struct nef_buf *out, const char *etag)
{
    if (etag == NULL)
        return;
    nef_buf_text(out, "<ETag>&quot;");
    nef_s3_xml_text(out, etag, strlen(etag));
    nef_buf_text(out, "&quot;</ETag>");
}

void nef_s3_xml_person(struct nef_buf *out, const char *name, const struct nef_s3_owner *owner)
{
    if (owner == NULL)
        return;
    nef_s3_xml_open(out, name);
    nef_s3_xml_element(out, "ID", owner->id);
    nef_s3_xml_element(out, "DisplayName", owner->display_name);
    nef_s3_xml_close(out, name);
}

void nef_s3_xml_checksum(struct nef_buf *out, const struct nef_s3_checksum_value *checksum)
{
    char text[NEF_S3_CHECKSUM_TEXT_MAX];

    if (checksum == NULL || checksum->kind == NEF_S3_CHECKSUM_NONE)
        return;
    nef_s3_checksum_text(checksum, text);
    nef_s3_xml_element(out, nef_s3_checksum_element(checksum->kind), text);
}

/* ---- documents ---- */

void nef_s3_xml_list_buckets(struct nef_buf *out, const struct nef_s3_owner *owner,
                             const char *region, const struct nef_s3_xml_bucket *buckets,
                             size_t count, const char *prefix, const char *continuation_token)
{
    nef_s3_xml_root(out, "ListAllMyBucketsResult");
    nef_s3_xml_person(out, "Owner", owner);
    nef_buf_text(out, "<Buckets>");
    for (size_t i = 0; i < count; i++) {
        nef_buf_text(out, "<Bucket>");
        nef_s3_xml_element(out, "Name", buckets[i].name);
        nef_s3_xml_date(out, "CreationDate", buckets[i].created_ms);
        nef_s3_xml_element(out, "BucketRegion", region);
        nef_buf_text(out, "</Bucket>");
    }
    nef_buf_text(out, "</Buckets>");
    nef_s3_xml_element(out, "Prefix", prefix);
    nef_s3_xml_element(out, "ContinuationToken", continuation_token);
    nef_buf_text(out, "</ListAllMyBucketsResult>");
}

void nef_s3_xml_location(struct nef_buf *out, const char *region)
{
    nef_s3_xml_root(out, "LocationConstraint");
    if (strcmp(region, "us-east-1") != 0) /* S3's default region is written as nothing */
        nef_s3_xml_text(out, region, strlen(region));
    nef_buf_text(out, "</LocationConstraint>");
}

void nef_s3_xml_versioning(struct nef_buf *out)
{
    nef_s3_xml_root(out, "VersioningConfiguration");
    nef_buf_text(out, "</VersioningConfiguration>");
}

void nef_s3_xml_initiate(struct nef_buf *out, const char *bucket, const char *object_key,
                         size_t object_key_bytes, const char *upload_id)
{
    nef_s3_xml_root(out, "InitiateMultipartUploadResult");
    nef_s3_xml_element(out, "Bucket", bucket);
    nef_s3_xml_key(out, "Key", object_key, object_key_bytes, false);
    nef_s3_xml_element(out, "UploadId", upload_id);
    nef_buf_text(out, "</InitiateMultipartUploadResult>");
}

void nef_s3_xml_complete(struct nef_buf *out, const char *location, const char *bucket,
                         const char *object_key, size_t object_key_bytes, const char *etag,
                         const struct nef_s3_checksum_value *checksum)
{
    nef_s3_xml_root(out, "CompleteMultipartUploadResult");
    nef_s3_xml_element(out, "Location", location);
    nef_s3_xml_element(out, "Bucket", bucket);
    nef_s3_xml_key(out, "Key", object_key, object_key_bytes, false);
    nef_s3_xml_etag(out, etag);
    nef_s3_xml_checksum(out, checksum);
    if (checksum != NULL && checksum->kind != NEF_S3_CHECKSUM_NONE)
        nef_s3_xml_element(out, "ChecksumType", nef_s3_checksum_type_name(checksum->type));
    nef_buf_text(out, "</CompleteMultipartUploadResult>");
}

static void copy_result(struct nef_buf *out, const char *root, const char *etag,
                        int64_t modified_ms, const struct nef_s3_checksum_value *checksum,
                        bool with_type)
{
    nef_s3_xml_root(out, root);
    nef_s3_xml_date(out, "LastModified", modified_ms);
    nef_s3_xml_etag(out, etag);
    nef_s3_xml_checksum(out, checksum);
    if (with_type && checksum != NULL && checksum->kind != NEF_S3_CHECKSUM_NONE)
        nef_s3_xml_element(out, "ChecksumType", nef_s3_checksum_type_name(checksum->type));
    nef_s3_xml_close(out, root);
}

void nef_s3_xml_copy_object(struct nef_buf *out, const char *etag, int64_t modified_ms,
                            const struct nef_s3_checksum_value *checksum)
{
    copy_result(out, "CopyObjectResult", etag, modified_ms, checksum, true);
}

void nef_s3_xml_copy_part(struct nef_buf *out, const char *etag, int64_t modified_ms,
                          const struct nef_s3_checksum_value *checksum)
{
    copy_result(out, "CopyPartResult", etag, modified_ms, checksum, false);
}

void nef_s3_xml_delete_result(struct nef_buf *out, const struct nef_s3_xml_deleted *items,
                              size_t count, bool quiet)
{
    nef_s3_xml_root(out, "DeleteResult");
    for (size_t i = 0; i < count; i++) {
        const struct nef_s3_xml_deleted *item = &items[i];
        const char *element = item->failed ? "Error" : "Deleted";

        if (quiet && !item->failed)
            continue;
        nef_s3_xml_open(out, element);
        nef_s3_xml_key(out, "Key", item->object_key, item->object_key_bytes, false);
        if (item->failed) {
            nef_s3_xml_element(out, "Code", nef_s3_code_name(item->code));
            nef_s3_xml_element(out, "Message",
                               item->message != NULL ? item->message
                                                     : nef_s3_code_message(item->code));
        }
        nef_s3_xml_close(out, element);
    }
    nef_buf_text(out, "</DeleteResult>");
}
