/* Rules of multipart uploads: upload ids as text, the list of parts that completes one, its ETag.
 */
#ifndef NEF_S3_MULTIPART_H
#define NEF_S3_MULTIPART_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "s3/checksum.h"
#include "s3/error.h"

#define NEF_S3_UPLOAD_ID_BYTES 23u /* 22 characters of base64url and NUL */
#define NEF_S3_ETAG_BYTES      40u /* 32 hex digits, "-10000", NUL */

void nef_s3_upload_id_text(const struct nef_id *id, char out[NEF_S3_UPLOAD_ID_BYTES]);
/* NoSuchUpload if TEXT (may be NULL) can't be an id of ours. */
NEF_MUST_CHECK nef_err nef_s3_upload_id_parse(const char *text, struct nef_id *out_id,
                                              struct nef_s3_error *why);

/* A part the client names in CompleteMultipartUpload. */
struct nef_s3_part_named {
    unsigned number;
    char etag[NEF_S3_ETAG_BYTES];          /* without quotes; "" matches nothing */
    struct nef_s3_checksum_value checksum; /* kind NONE: not named */
};
/* A part as it is stored. */
struct nef_s3_part_stored {
    unsigned number;
    uint64_t bytes;
    uint8_t md5[16];
    struct nef_s3_checksum_value checksum;
};

/* Checks NAMED against STORED (ascending by number): order (InvalidPartOrder), existence, ETag and
 * checksum (InvalidPart), 5 MiB but for the last (EntityTooSmall), all of at most 5 TiB
 * (EntityTooLarge). On NEF_OK out_chosen[i] is the index in STORED of NAMED[i] and out_bytes the
 * object's size. */
NEF_MUST_CHECK nef_err nef_s3_multipart_check(const struct nef_s3_part_named *named,
                                              size_t named_count,
                                              const struct nef_s3_part_stored *stored,
                                              size_t stored_count, const char *upload_id,
                                              uint32_t *out_chosen, uint64_t *out_bytes,
                                              struct nef_s3_error *why);
/* ETag of an object of PART_COUNT parts: hex of the MD5 of the parts' MD5s (16 bytes each, in
 * order),
 * "-count". And of a single PUT: the hex alone. Without quotes. */
void nef_s3_etag_multipart(const uint8_t *md5s, size_t part_count, char out[NEF_S3_ETAG_BYTES]);
void nef_s3_etag_md5(const uint8_t md5[16], char out[NEF_S3_ETAG_BYTES]);

#endif
