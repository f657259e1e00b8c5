/* Requests to S3, signed; see client.h. The canonical request is made by the code that checks signatures (sigv4.c), so
 * that client and server can't differ in what they sign. */
#include "s3/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "s3/sigv4_internal.h"

#define HEADERS_MAX 24u /* of one request, with the three that are added */

static void escape(struct nef_buf *out, const char *text, bool keep_slash)
{
    static const char hex[] = "0123456789ABCDEF";

    for (; *text != '\0'; text++) {
        uint8_t c = (uint8_t)*text;

        if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
            c == '_' || c == '~' || (c == '/' && keep_slash)) {
            nef_buf_u8(out, c);
        } else {
            nef_buf_u8(out, '%');
            nef_buf_u8(out, (uint8_t)hex[c >> 4]);
            nef_buf_u8(out, (uint8_t)hex[c & 15]);
        }
    }
}

void nef_s3_client_path(struct nef_buf *out, const char *bucket, const char *key)
{
    nef_buf_u8(out, '/');
    escape(out, bucket, false);
    if (key != NULL) {
        nef_buf_u8(out, '/');
        escape(out, key, true);
    }
}

void nef_s3_client_value(struct nef_buf *out, const char *value)
{
    escape(out, value, false);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct nef_http_field *)a)->name, ((const struct nef_http_field *)b)->name);
}

/* "host;x-amz-date;..." of sorted headers. */
static nef_err name_headers(const struct nef_http_field *fields, size_t count, char *out, size_t room)
{
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        int n = snprintf(out + at, room - at, "%s%s", i > 0 ? ";" : "", fields[i].name);

        if (n < 0 || (size_t)n >= room - at)
            return NEF_E_INVALID;
        at += (size_t)n;
    }
    return NEF_OK;
}

static nef_err timestamp(int64_t now_s, struct nef_sigv4 *auth)
{
    time_t t = (time_t)now_s;
    struct tm tm;

    if (gmtime_r(&t, &tm) == NULL || strftime(auth->timestamp, sizeof(auth->timestamp), "%Y%m%dT%H%M%SZ", &tm) != 16)
        return NEF_E_INVALID;
    memcpy(auth->date, auth->timestamp, 8);
    auth->date[8] = '\0';
    return NEF_OK;
}

nef_err nef_s3_client_sign(const struct nef_s3_client_request *request, struct nef_buf *out_authorization,
                           char out_date[17])
{
    struct nef_http_field fields[HEADERS_MAX];
    struct nef_s3_http http = {.method = request->method, .target = request->target, .headers = fields};
    struct nef_buf canonical = {0}, to_sign = {0};
    struct nef_sigv4 auth = {.presigned = false};
    struct nef_sigv4_key key;
    char hex[65];
    nef_err err;

    if (request->header_count + 3 > HEADERS_MAX || strlen(request->access_key) > NEF_ACCESS_KEY_MAX ||
        strlen(request->region) > NEF_SIGV4_REGION_MAX || strlen(request->secret_key) > 256 ||
        strlen(request->payload) > 64)
        return NEF_E_INVALID;
    err = timestamp(request->now_s, &auth);
    if (err != NEF_OK)
        return err;
    (void)strcpy(auth.access_key, request->access_key);
    (void)strcpy(auth.region, request->region);
    (void)strcpy(auth.payload_text, request->payload);
    if (request->header_count > 0)
        memcpy(fields, request->headers, request->header_count * sizeof(fields[0]));
    http.header_count = request->header_count;
    fields[http.header_count++] = (struct nef_http_field){"host", request->host};
    fields[http.header_count++] = (struct nef_http_field){"x-amz-content-sha256", request->payload};
    fields[http.header_count++] = (struct nef_http_field){"x-amz-date", auth.timestamp};
    qsort(fields, http.header_count, sizeof(fields[0]), by_name);
    err = name_headers(fields, http.header_count, auth.signed_headers, sizeof(auth.signed_headers));
    if (err != NEF_OK)
        return err;
    nef_sigv4_canonical(&http, &auth, &canonical);
    nef_sigv4_string_to_sign(&auth, &canonical, &to_sign);
    if (nef_buf_end(&canonical) != NEF_OK || nef_buf_end(&to_sign) != NEF_OK) {
        err = NEF_E_NOMEM;
        goto out;
    }
    nef_sigv4_derive(request->secret_key, auth.date, auth.region, &key);
    nef_hmac_sha256(key.bytes, sizeof(key.bytes), to_sign.data, to_sign.bytes, auth.signature);
    nef_wipe(&key, sizeof(key));
    nef_hex(auth.signature, sizeof(auth.signature), hex);
    nef_buf_printf(out_authorization,
                   "AWS4-HMAC-SHA256 Credential=%s/%s/%s/s3/aws4_request, SignedHeaders=%s, Signature=%s",
                   auth.access_key, auth.date, auth.region, auth.signed_headers, hex);
    err = nef_buf_end(out_authorization);
    if (err == NEF_OK)
        memcpy(out_date, auth.timestamp, 17);
out:
    nef_buf_free(&canonical);
    nef_buf_free(&to_sign);
    return err;
}
