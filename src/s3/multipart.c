/* Rules of multipart uploads; multipart.h names them. */
#include "s3/multipart.h"
#include <stdio.h>
#include <string.h>
#include "base/bytes.h"
#include "crypto/crypto.h"

/* ---- upload ids ---- */

void nef_s3_upload_id_text(const struct nef_id *id, char out[NEF_S3_UPLOAD_ID_BYTES])
{
    char text[25];

    nef_base64(id->bytes, 16, text); /* 22 characters and "==" */
    for (size_t i = 0; i < NEF_S3_UPLOAD_ID_BYTES - 1; i++)
        out[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
    out[NEF_S3_UPLOAD_ID_BYTES - 1] = '\0';
}

nef_err nef_s3_upload_id_parse(const char *text, struct nef_id *out_id, struct nef_s3_error *why)
{
    char padded[25];
    struct nef_id id;
    size_t bytes;

    if (text == NULL || strlen(text) != NEF_S3_UPLOAD_ID_BYTES - 1 || strpbrk(text, "+/=") != NULL)
        goto unknown;
    for (size_t i = 0; i < NEF_S3_UPLOAD_ID_BYTES - 1; i++)
        padded[i] = text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
    memcpy(padded + 22, "==", 3);
    if (nef_unbase64(padded, 24, id.bytes, sizeof(id.bytes), &bytes) != NEF_OK || bytes != 16 ||
        nef_id_is_zero(&id))
        goto unknown;
    *out_id = id;
    return NEF_OK;
unknown:
    (void)nef_s3_refuse(why, NEF_S3_NO_SUCH_UPLOAD, NULL);
    if (text != NULL)
        nef_s3_error_extra(why, "UploadId", text);
    return NEF_E_NO_UPLOAD;
}

/* ---- completion ---- */

static nef_err invalid_part(const struct nef_s3_part_named *part, const char *upload_id,
                            struct nef_s3_error *why)
{
    (void)nef_s3_refuse(why, NEF_S3_INVALID_PART, NULL);
    if (upload_id != NULL)
        nef_s3_error_extra(why, "UploadId", upload_id);
    nef_s3_error_extra_number(why, "PartNumber", part->number);
    nef_s3_error_extra(why, "ETag", part->etag);
    return NEF_E_BAD_PART;
}

nef_err nef_s3_multipart_check(const struct nef_s3_part_named *named, size_t named_count,
                               const struct nef_s3_part_stored *stored, size_t stored_count,
                               const char *upload_id, uint32_t *out_chosen, uint64_t *out_bytes,
                               struct nef_s3_error *why)
{
    uint64_t bytes = 0;
    size_t at = 0;

    /* order first: it needs no look-up and AWS reports it before anything else */
    for (size_t i = 1; i < named_count; i++)
        if (named[i].number <= named[i - 1].number) {
            (void)nef_s3_refuse(why, NEF_S3_INVALID_PART_ORDER, NULL);
            if (upload_id != NULL)
                nef_s3_error_extra(why, "UploadId", upload_id);
            return NEF_E_PART_ORDER;
        }
    for (size_t i = 0; i < named_count; i++) {
        char etag[NEF_S3_ETAG_BYTES];

        while (at < stored_count && stored[at].number < named[i].number)
            at++;
        if (at == stored_count || stored[at].number != named[i].number)
            return invalid_part(&named[i], upload_id, why);
        nef_s3_etag_md5(stored[at].md5, etag);
        if (strcmp(etag, named[i].etag) != 0)
            return invalid_part(&named[i], upload_id, why);
        if (named[i].checksum.kind != NEF_S3_CHECKSUM_NONE &&
            !nef_s3_checksum_equal(&named[i].checksum, &stored[at].checksum))
            return invalid_part(&named[i], upload_id, why);
        if (i + 1 < named_count && stored[at].bytes < NEF_PART_BYTES_MIN) {
            (void)nef_s3_refuse(why, NEF_S3_ENTITY_TOO_SMALL, NULL);
            nef_s3_error_extra_number(why, "ProposedSize", stored[at].bytes);
            nef_s3_error_extra_number(why, "MinSizeAllowed", NEF_PART_BYTES_MIN);
            nef_s3_error_extra_number(why, "PartNumber", named[i].number);
            nef_s3_error_extra(why, "ETag", etag);
            return NEF_E_PART_SIZE;
        }
        if (stored[at].bytes > NEF_OBJECT_BYTES_MAX - bytes) {
            (void)nef_s3_refuse(why, NEF_S3_ENTITY_TOO_LARGE, NULL);
            nef_s3_error_extra_number(why, "MaxSizeAllowed", NEF_OBJECT_BYTES_MAX);
            return NEF_E_LIMIT;
        }
        bytes += stored[at].bytes;
        out_chosen[i] = (uint32_t)at;
    }
    *out_bytes = bytes;
    return NEF_OK;
}

/* ---- ETags ---- */

void nef_s3_etag_multipart(const uint8_t *md5s, size_t part_count, char out[NEF_S3_ETAG_BYTES])
{
    uint8_t md5[16];

    nef_hash_of(NEF_HASH_MD5, md5s, part_count * 16, md5);
    nef_hex(md5, 16, out);
    (void)snprintf(out + 32, NEF_S3_ETAG_BYTES - 32, "-%u", (unsigned)part_count % 100000u);
}

void nef_s3_etag_md5(const uint8_t md5[16], char out[NEF_S3_ETAG_BYTES])
{
    nef_hex(md5, 16, out);
}
