/* S3's additional checksums (User Guide, "Checking object integrity"): incremental, their names,
 * their text forms, and how a multipart object's checksum comes from its parts.
 *
 * COMPOSITE: the checksum of the parts' raw checksums put together, written with "-N".
 * FULL_OBJECT: the checksum of all bytes; only CRCs, by combining the parts' CRCs and lengths. */
#ifndef NEF_S3_CHECKSUM_H
#define NEF_S3_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct nef_hash;

/* The numbers are those of store/op.h, which are in the format: never renumber. */
enum nef_s3_checksum_kind {
    NEF_S3_CHECKSUM_NONE = 0,
    NEF_S3_CHECKSUM_CRC32 = 1,
    NEF_S3_CHECKSUM_CRC32C = 2,
    NEF_S3_CHECKSUM_CRC64NVME = 3,
    NEF_S3_CHECKSUM_SHA1 = 4,
    NEF_S3_CHECKSUM_SHA256 = 5,
};
#define NEF_S3_CHECKSUM_KIND_COUNT 6u
enum nef_s3_checksum_type {
    NEF_S3_CHECKSUM_TYPE_NONE = 0,
    NEF_S3_CHECKSUM_FULL_OBJECT = 1,
    NEF_S3_CHECKSUM_COMPOSITE = 2,
};

#define NEF_S3_CHECKSUM_BYTES_MAX 32u
#define NEF_S3_CHECKSUM_TEXT_MAX  52u /* base64 of 32 bytes, "-10000", NUL */

/* A finished checksum. Raw bytes as S3 encodes them (CRCs big-endian). */
struct nef_s3_checksum_value {
    enum nef_s3_checksum_kind kind;
    enum nef_s3_checksum_type type;
    uint32_t parts; /* COMPOSITE: its N, else 0 */
    uint8_t bytes[NEF_S3_CHECKSUM_BYTES_MAX];
};

/* Static texts; NULL for NONE. */
const char *nef_s3_checksum_name(enum nef_s3_checksum_kind kind);      /* "CRC32C" */
const char *nef_s3_checksum_header(enum nef_s3_checksum_kind kind);    /* "x-amz-checksum-crc32c" */
const char *nef_s3_checksum_element(enum nef_s3_checksum_kind kind);   /* "ChecksumCRC32C" */
const char *nef_s3_checksum_type_name(enum nef_s3_checksum_type type); /* "FULL_OBJECT" */
size_t nef_s3_checksum_bytes(enum nef_s3_checksum_kind kind);
/* Any case. NONE if unknown. */
enum nef_s3_checksum_kind nef_s3_checksum_by_name(const char *name);
enum nef_s3_checksum_kind nef_s3_checksum_by_header(const char *header);

/* Incremental. Zeroed is empty and may be freed. One thread at a time. */
struct nef_s3_checksum {
    enum nef_s3_checksum_kind kind;
    uint64_t crc;
    struct nef_hash *hash;
};
NEF_MUST_CHECK nef_err nef_s3_checksum_begin(struct nef_s3_checksum *c,
                                             enum nef_s3_checksum_kind kind);
void nef_s3_checksum_update(struct nef_s3_checksum *c, const void *data, size_t bytes);
/* Once; type FULL_OBJECT. */
void nef_s3_checksum_end(struct nef_s3_checksum *c, struct nef_s3_checksum_value *out);
void nef_s3_checksum_free(struct nef_s3_checksum *c);

/* Base64, and "-N" if composite; out has NEF_S3_CHECKSUM_TEXT_MAX bytes. */
void nef_s3_checksum_text(const struct nef_s3_checksum_value *v, char *out);
/* Strict. Accepts "-N" only if allow_composite. NEF_E_INVALID otherwise. */
NEF_MUST_CHECK nef_err nef_s3_checksum_parse(enum nef_s3_checksum_kind kind, const char *text,
                                             bool allow_composite,
                                             struct nef_s3_checksum_value *out);
bool nef_s3_checksum_equal(const struct nef_s3_checksum_value *a,
                           const struct nef_s3_checksum_value *b);

/* The type a multipart upload of KIND gets when the client asks for ASKED (TYPE_NONE: nothing
 * asked). NEF_E_UNSUPPORTED for a pair S3 refuses (COMPOSITE CRC64NVME, FULL_OBJECT SHA). */
NEF_MUST_CHECK nef_err nef_s3_checksum_multipart_type(enum nef_s3_checksum_kind kind,
                                                      enum nef_s3_checksum_type asked,
                                                      enum nef_s3_checksum_type *out_type);
/* Adds parts in order and gives the object's checksum. Zeroed after begin failed; free always. */
struct nef_s3_checksum_combiner {
    enum nef_s3_checksum_type type;
    uint32_t parts;
    uint64_t crc;
    struct nef_s3_checksum composite;
};
NEF_MUST_CHECK nef_err nef_s3_checksum_combine_begin(struct nef_s3_checksum_combiner *c,
                                                     enum nef_s3_checksum_kind kind,
                                                     enum nef_s3_checksum_type type);
void nef_s3_checksum_combine_part(struct nef_s3_checksum_combiner *c,
                                  const struct nef_s3_checksum_value *part, uint64_t part_bytes);
void nef_s3_checksum_combine_end(struct nef_s3_checksum_combiner *c,
                                 struct nef_s3_checksum_value *out);
void nef_s3_checksum_combine_free(struct nef_s3_checksum_combiner *c);

/* CRCs by themselves. crc is 0 first, then the previous result (CRC-32C is in base/crc32c.h). */
uint32_t nef_crc32(uint32_t crc, const void *data, size_t bytes);
uint64_t nef_crc64nvme(uint64_t crc, const void *data, size_t bytes);
/* The CRC of A then B, from both CRCs and B's length; kind is one of the three CRCs. */
uint64_t nef_crc_combine(enum nef_s3_checksum_kind kind, uint64_t a, uint64_t b, uint64_t b_bytes);

#endif
