/* Continuation tokens of listings: opaque to clients, versioned, with a checksum so that a damaged
 * one is refused. They hold only what the client saw already, so they are neither secret nor
 * signed. */
#ifndef NEF_S3_TOKEN_H
#define NEF_S3_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include "base/buf.h"
#include "base/limits.h"
#include "s3/error.h"

struct nef_s3_token {
    size_t last_bytes;
    char last[NEF_OBJECT_KEY_MAX +
              1]; /* last key or common prefix given, NUL-terminated: go on after it */
};

/* Appends the token's text. last_bytes <= NEF_OBJECT_KEY_MAX. */
void nef_s3_token_text(const char *last, size_t last_bytes, struct nef_buf *out);
/* InvalidArgument, "The continuation token provided is incorrect". */
NEF_MUST_CHECK nef_err nef_s3_token_parse(const char *text, struct nef_s3_token *out,
                                          struct nef_s3_error *why);

#endif
