/* Pieces of Signature Version 4 shared by sigv4.c, chunked.c and their tests; inside s3/ only. */
#ifndef NEF_S3_SIGV4_INTERNAL_H
#define NEF_S3_SIGV4_INTERNAL_H

#include "base/buf.h"
#include "s3/sigv4.h"

#define NEF_SIGV4_PARAMETERS_MAX 64u /* request.c refuses more, too */

void nef_sigv4_scope(const struct nef_sigv4 *auth, struct nef_buf *out);
void nef_sigv4_canonical(const struct nef_s3_http *http, const struct nef_sigv4 *auth,
                         struct nef_buf *out);
void nef_sigv4_string_to_sign(const struct nef_sigv4 *auth, const struct nef_buf *canonical,
                              struct nef_buf *out);

#endif
