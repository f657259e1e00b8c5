/* Incremental decoder of aws-chunked bodies (API reference, "Transferring Payload in Multiple
 * Chunks" and "Including Trailing Headers"):
 *
 *   size-hex [";chunk-signature=" 64 hex] CRLF  data CRLF  ...  "0" [";chunk-signature=..."] CRLF
 *   then without trailers:  CRLF
 *   or with:                name ":" value CRLF ... ["x-amz-trailer-signature:" 64 hex CRLF] CRLF
 *
 * Takes input in pieces of any size and gives decoded data as spans of that input, without copying.
 * Memory is fixed: one line and the trailers, both bounded. Data of a signed chunk is given before
 * the chunk's signature was seen to hold, so nothing may be acknowledged before nef_chunked_end is
 * NEF_OK. */
#ifndef NEF_S3_CHUNKED_H
#define NEF_S3_CHUNKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "s3/checksum.h"
#include "s3/error.h"
#include "s3/sigv4.h"

struct nef_chunked; /* opaque, heap; one thread at a time */

/* auth: its payload is one of the STREAMING kinds. key: copied, wiped by free.
 * decoded_bytes: x-amz-decoded-content-length. trailer: the checksum announced by x-amz-trailer, or
 * NONE. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_chunked_new(const struct nef_sigv4 *auth,
                                       const struct nef_sigv4_key *key, uint64_t decoded_bytes,
                                       enum nef_s3_checksum_kind trailer,
                                       struct nef_chunked **out_chunked);
void nef_chunked_free(struct nef_chunked *c); /* NULL is fine */

/* Takes a part of INPUT: *out_used bytes of it (always above 0 if bytes is), of which *out_data,
 * *out_data_bytes is decoded data (NULL and 0 when it was framing only). Call until all is used:
 *
 *   while (bytes > 0) { step; take data; input += used; bytes -= used; }
 *
 * why: SignatureDoesNotMatch, IncompleteBody, MalformedTrailerError, InvalidRequest...; after an
 * error only free is allowed. */
NEF_MUST_CHECK nef_err nef_chunked_step(struct nef_chunked *c, const uint8_t *input, size_t bytes,
                                        size_t *out_used, const uint8_t **out_data,
                                        size_t *out_data_bytes, struct nef_s3_error *why);
/* At the end of the body: NEF_OK if the last chunk and all trailers came, everything verified and
 * the decoded size is the promised one. out_checksum: the trailer's (kind NONE if none was
 * announced); the caller compares it with what it computed. */
NEF_MUST_CHECK nef_err nef_chunked_end(struct nef_chunked *c,
                                       struct nef_s3_checksum_value *out_checksum,
                                       struct nef_s3_error *why);

#endif
