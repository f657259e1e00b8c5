/* Signature Version 4 as S3 checks it (API reference, "Authenticating Requests (AWS Signature
 * Version 4)"), in the Authorization header or in the query (presigned). Two steps, because the
 * secret lies elsewhere: nef_sigv4_parse checks form, scope and time and gives the access key; the
 * caller finds the secret (unknown or disabled: nef_sigv4_unknown_key), derives or has cached a
 * signing key, and calls nef_sigv4_verify. No clock and no state inside. Any thread. */
#ifndef NEF_S3_SIGV4_H
#define NEF_S3_SIGV4_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "s3/error.h"
#include "s3/http.h"

#define NEF_ACCESS_KEY_MAX      128u
#define NEF_SIGV4_REGION_MAX    63u
#define NEF_SIGV4_SKEW_S        900
#define NEF_SIGV4_EXPIRES_MAX_S 604800
#define NEF_SIGV4_SIGNED_MAX    64u /* signed header names */

/* What the body is, from x-amz-content-sha256. */
enum nef_s3_payload {
    NEF_S3_PAYLOAD_UNSIGNED,         /* UNSIGNED-PAYLOAD */
    NEF_S3_PAYLOAD_SIGNED,           /* its SHA-256 is payload_sha256: the caller hashes it
                                        and asks nef_sigv4_check_payload */
    NEF_S3_PAYLOAD_STREAMING_SIGNED, /* aws-chunked: decode with chunked.h */
    NEF_S3_PAYLOAD_STREAMING_SIGNED_TRAILER,
    NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER,
};

/* No pointers into the request; may be copied and kept. */
struct nef_sigv4 {
    bool presigned;
    char access_key[NEF_ACCESS_KEY_MAX + 1];
    char date[9]; /* scope: "20130524" */
    char region[NEF_SIGV4_REGION_MAX + 1];
    char timestamp[17]; /* "20130524T000000Z" */
    int64_t time_s;     /* the same, Unix time */
    uint32_t expires_s; /* presigned */
    uint8_t signature[32];
    enum nef_s3_payload payload;
    uint8_t payload_sha256[32]; /* PAYLOAD_SIGNED */
    char payload_text[65];      /* as it stands in the canonical request */
    char signed_headers[1024];  /* "host;x-amz-date" */
};

/* kSigning of a secret, a day and a region. The caller may cache it by (access key, date); it is
 * secret: nef_wipe it. */
struct nef_sigv4_key {
    char date[9];
    uint8_t bytes[32];
};
void nef_sigv4_derive(const char *secret, const char *date, const char *region,
                      struct nef_sigv4_key *out_key);

/* region: ours; another is refused with the right one named, which SDKs follow. now_s: Unix time.
 * why: filled if the result isn't NEF_OK (AccessDenied for anonymous requests). */
NEF_MUST_CHECK nef_err nef_sigv4_parse(const struct nef_s3_http *http, const char *region,
                                       int64_t now_s, struct nef_sigv4 *out,
                                       struct nef_s3_error *why);
/* InvalidAccessKeyId; returns NEF_E_DENIED. */
nef_err nef_sigv4_unknown_key(const struct nef_sigv4 *auth, struct nef_s3_error *why);
/* NEF_OK: HTTP was signed with the secret of KEY. SignatureDoesNotMatch otherwise. */
NEF_MUST_CHECK nef_err nef_sigv4_verify(const struct nef_s3_http *http,
                                        const struct nef_sigv4 *auth,
                                        const struct nef_sigv4_key *key, struct nef_s3_error *why);
/* NEF_OK if COMPUTED is the payload hash that was signed, else XAmzContentSHA256Mismatch. */
NEF_MUST_CHECK nef_err nef_sigv4_check_payload(const struct nef_sigv4 *auth,
                                               const uint8_t computed[32],
                                               struct nef_s3_error *why);

#endif
