/* The client's side of S3 over bytes: requests signed, answers read. PURE; what speaks to a listener with it is
 * cli/model_region.c. Only what that needs; answers are read as from a stranger: bounded, and without document
 * types. */
#ifndef NEF_S3_CLIENT_H
#define NEF_S3_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/limits.h"
#include "s3/http.h"

#define NEF_S3_UPLOAD_ID_MAX 128u /* ours have 32 characters; Amazon's about 130 are not spoken to */

/* "/bucket/key" with every byte escaped but the unreserved ones and '/'. */
void nef_s3_client_path(struct nef_buf *out, const char *bucket, const char *key);
/* VALUE escaped for a query, '/' included. */
void nef_s3_client_value(struct nef_buf *out, const char *value);

struct nef_s3_client_request {
    const char *access_key, *secret_key, *region;
    const char *method;
    const char *target;                   /* path and query, escaped; parameters without a value end in '=' */
    const char *host;                     /* as in the Host header */
    const struct nef_http_field *headers; /* all are signed;
        lower-case names. host and the three that signing adds not among them */
    size_t header_count;
    const char *payload; /* 64 hex digits of the body's SHA-256, or UNSIGNED-PAYLOAD */
    int64_t now_s;       /* Unix time */
};
/* out_authorization: the header's value. out_date: x-amz-date. Also to be sent: x-amz-content-sha256: payload.
 * NEF_E_INVALID: a secret, a name or a value too long for a signature. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_s3_client_sign(const struct nef_s3_client_request *request,
                                          struct nef_buf *out_authorization, char out_date[17]);

/* ---- answers ---- */

struct nef_s3_answer_error {
    char code[64], message[256];
};
/* False: the body is no <Error>. */
bool nef_s3_answer_error(const void *body, size_t bytes, struct nef_s3_answer_error *out);

/* NEF_E_PROTOCOL for what isn't such an answer; NEF_E_NOMEM. Texts that are longer than their field make the answer
 * NEF_E_PROTOCOL, too. */
NEF_MUST_CHECK nef_err nef_s3_answer_upload_id(const void *body, size_t bytes, char out_id[NEF_S3_UPLOAD_ID_MAX + 1]);

struct nef_s3_answer_part {
    uint32_t number;
    uint64_t bytes;
    char etag[48]; /* without quotes */
};
struct nef_s3_answer_object {
    char key[NEF_OBJECT_KEY_MAX + 1];
    uint64_t bytes;
    char etag[48];
    char modified[32]; /* "2026-01-31T12:00:00.000Z" */
};
struct nef_s3_answer_upload {
    char key[NEF_OBJECT_KEY_MAX + 1];
    char id[NEF_S3_UPLOAD_ID_MAX + 1];
};
/* A page of a listing; free items. next: where the next page begins, "" at the end. */
struct nef_s3_answer_list {
    void *items; /* array of the struct above that was asked for */
    uint32_t count;
    char next[NEF_OBJECT_KEY_MAX * 3 + 1];
};
NEF_MUST_CHECK nef_err nef_s3_answer_parts(const void *body, size_t bytes, struct nef_s3_answer_list *out);
NEF_MUST_CHECK nef_err nef_s3_answer_objects(const void *body, size_t bytes, struct nef_s3_answer_list *out);
/* next is the key marker; uploads of one key that fill more than a page are not followed. */
NEF_MUST_CHECK nef_err nef_s3_answer_uploads(const void *body, size_t bytes, struct nef_s3_answer_list *out);

#endif
