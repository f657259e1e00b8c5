/* The Range header as S3 answers it: one range of bytes. Several ranges, another unit or anything
 * malformed mean the whole object (RFC 9110, section 14.2 lets a server ignore Range). */
#ifndef NEF_S3_RANGE_H
#define NEF_S3_RANGE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "s3/error.h"

struct nef_s3_range {
    bool partial; /* answer 206 and Content-Range; else 200 and the whole object */
    uint64_t first;
    uint64_t bytes;
};

/* header: NULL if absent. InvalidRange if nothing of the range lies in OBJECT_BYTES. */
NEF_MUST_CHECK nef_err nef_s3_range_resolve(const char *header, uint64_t object_bytes,
                                            struct nef_s3_range *out, struct nef_s3_error *why);
/* x-amz-copy-source-range: "bytes=first-last", both inclusive and given. NEF_E_INVALID. */
NEF_MUST_CHECK nef_err nef_s3_range_exact(const char *header, uint64_t *out_first,
                                          uint64_t *out_last);

#endif
