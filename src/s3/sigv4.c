/* Signature Version 4. What is signed is the *raw* request: path, query and headers are only
 * normalised as the specification says (escapes rewritten in upper case, unreserved characters
 * unescaped, blanks of header values collapsed), never decoded and encoded again, so that "%2F" and
 * "/" stay different.
 *
 * Order of checks: form, scope, time, then the signature. A difference in the signature is found in
 * constant time. Error documents repeat the string to sign as S3's do: it holds only what the
 * client sent and no key. */
#include "s3/sigv4.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "crypto/crypto.h"
#include "s3/condition.h"
#include "s3/request.h"
#include "s3/sigv4_internal.h"

#define ALGORITHM "AWS4-HMAC-SHA256"

/* ---- keys ---- */

void nef_sigv4_derive(const char *secret, const char *date, const char *region,
                      struct nef_sigv4_key *out_key)
{
    size_t secret_bytes = strlen(secret);
    uint8_t k[32], first[4 + 256];

    NEF_ASSERT(secret_bytes <= sizeof(first) - 4 && strlen(date) == 8);
    memcpy(first, "AWS4", 4);
    memcpy(first + 4, secret, secret_bytes);
    nef_hmac_sha256(first, 4 + secret_bytes, date, 8, k);
    nef_hmac_sha256(k, sizeof(k), region, strlen(region), k);
    nef_hmac_sha256(k, sizeof(k), "s3", 2, k);
    nef_hmac_sha256(k, sizeof(k), "aws4_request", 12, out_key->bytes);
    memcpy(out_key->date, date, 9);
    nef_wipe(first, sizeof(first));
    nef_wipe(k, sizeof(k));
}

void nef_sigv4_scope(const struct nef_sigv4 *auth, struct nef_buf *out)
{
    nef_buf_printf(out, "%s/%s/s3/aws4_request", auth->date, auth->region);
}

/* ---- canonical request ---- */

static bool is_unreserved(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

/* Appends TEXT with every byte escaped but the unreserved ones, what was escaped already staying
 * so. */
static void canonical_text(struct nef_buf *out, const char *text, size_t bytes, bool path)
{
    static const char hex[] = "0123456789ABCDEF";
    uint8_t *begin = nef_buf_grow(out, 3 * bytes), *p = begin;

    if (begin == NULL)
        return; /* told by out->failed */
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        uint8_t byte;

        if (c == '%' && bytes - i >= 3 && nef_unhex(text + i + 1, 2, &byte, 1) == NEF_OK) {
            i += 2;
        } else if (c == '+' && !path) {
            byte = ' ';
        } else {
            byte = (uint8_t)c;
        }
        if (is_unreserved((char)byte) || (c == '/' && path)) {
            *p++ = byte;
        } else {
            *p++ = '%';
            *p++ = (uint8_t)hex[byte >> 4];
            *p++ = (uint8_t)hex[byte & 15];
        }
    }
    out->bytes -= 3 * bytes - (size_t)(p - begin); /* what the longest would have taken */
}

struct pair {
    size_t name, name_bytes, value, value_bytes; /* in the buffer of escaped texts */
    const uint8_t *data;
};

static int compare_bytes(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    int order = memcmp(a, b, NEF_MIN(a_bytes, b_bytes));

    return order != 0 ? order : a_bytes < b_bytes ? -1 : a_bytes > b_bytes;
}

static int by_name_then_value(const void *a, const void *b)
{
    const struct pair *x = (const struct pair *)a, *y = (const struct pair *)b;
    int order = compare_bytes(x->data + x->name, x->name_bytes, y->data + y->name, y->name_bytes);

    if (order != 0)
        return order;
    return compare_bytes(x->data + x->value, x->value_bytes, y->data + y->value, y->value_bytes);
}

static void canonical_query(struct nef_buf *out, const char *query, bool presigned)
{
    struct pair pairs[NEF_SIGV4_PARAMETERS_MAX];
    struct nef_buf texts = {0};
    size_t count = 0;

    while (*query != '\0' && count < NEF_SIGV4_PARAMETERS_MAX) {
        size_t bytes = strcspn(query, "&");
        const char *equals = memchr(query, '=', bytes);
        size_t name_bytes = equals != NULL ? (size_t)(equals - query) : bytes;
        struct pair *pair = &pairs[count];

        if (bytes > 0 &&
            !(presigned && name_bytes == 15 && strncmp(query, "X-Amz-Signature", 15) == 0)) {
            pair->name = texts.bytes;
            canonical_text(&texts, query, name_bytes, false);
            pair->name_bytes = texts.bytes - pair->name;
            pair->value = texts.bytes;
            if (equals != NULL)
                canonical_text(&texts, equals + 1, bytes - name_bytes - 1, false);
            pair->value_bytes = texts.bytes - pair->value;
            count++;
        }
        query += bytes + (query[bytes] == '&' ? 1 : 0);
    }
    if (texts.failed || texts.data == NULL) {
        out->failed |= texts.failed;
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        pairs[i].data = texts.data;
    qsort(pairs, count, sizeof(pairs[0]), by_name_then_value);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            nef_buf_u8(out, '&');
        nef_buf_append(out, texts.data + pairs[i].name, pairs[i].name_bytes);
        nef_buf_u8(out, '=');
        nef_buf_append(out, texts.data + pairs[i].value, pairs[i].value_bytes);
    }
out:
    nef_buf_free(&texts);
}

/* Blanks at the ends dropped, runs of them inside made one. */
static void canonical_value(struct nef_buf *out, const char *value)
{
    bool blank = false, any = false;

    for (; *value != '\0'; value++) {
        if (*value == ' ' || *value == '\t') {
            blank = true;
            continue;
        }
        if (blank && any)
            nef_buf_u8(out, ' ');
        blank = false;
        any = true;
        nef_buf_u8(out, (uint8_t)*value);
    }
}

static void canonical_headers(struct nef_buf *out, const struct nef_s3_http *http,
                              const char *signed_headers)
{
    for (const char *name = signed_headers; *name != '\0';) {
        size_t bytes = strcspn(name, ";");
        bool any = false;

        nef_buf_append(out, name, bytes);
        nef_buf_u8(out, ':');
        for (size_t i = 0; i < http->header_count; i++)
            if (strlen(http->headers[i].name) == bytes &&
                strncasecmp(http->headers[i].name, name, bytes) == 0) {
                if (any)
                    nef_buf_u8(out, ',');
                canonical_value(out, http->headers[i].value);
                any = true;
            }
        nef_buf_u8(out, '\n');
        name += bytes + (name[bytes] == ';' ? 1 : 0);
    }
}

void nef_sigv4_canonical(const struct nef_s3_http *http, const struct nef_sigv4 *auth,
                         struct nef_buf *out)
{
    const char *path = http->target, *query;
    size_t path_bytes;

    if (strncasecmp(path, "http://", 7) == 0 || strncasecmp(path, "https://", 8) == 0) {
        path = strstr(path, "://") + 3;
        path += strcspn(path, "/?");
    }
    path_bytes = strcspn(path, "?");
    query = path[path_bytes] == '?' ? path + path_bytes + 1 : "";
    nef_buf_printf(out, "%s\n", http->method);
    if (path_bytes == 0)
        nef_buf_u8(out, '/');
    canonical_text(out, path, path_bytes, true);
    nef_buf_u8(out, '\n');
    canonical_query(out, query, auth->presigned);
    nef_buf_u8(out, '\n');
    canonical_headers(out, http, auth->signed_headers);
    nef_buf_u8(out, '\n');
    nef_buf_text(out, auth->signed_headers);
    nef_buf_u8(out, '\n');
    nef_buf_text(out, auth->payload_text);
}

void nef_sigv4_string_to_sign(const struct nef_sigv4 *auth, const struct nef_buf *canonical,
                              struct nef_buf *out)
{
    uint8_t digest[32];
    char hex[65];

    nef_hash_of(NEF_HASH_SHA256, canonical->data, canonical->bytes, digest);
    nef_hex(digest, sizeof(digest), hex);
    nef_buf_printf(out, ALGORITHM "\n%s\n", auth->timestamp);
    nef_sigv4_scope(auth, out);
    nef_buf_printf(out, "\n%s", hex);
}

/* ---- verification ---- */

nef_err nef_sigv4_unknown_key(const struct nef_sigv4 *auth, struct nef_s3_error *why)
{
    nef_err err = nef_s3_refuse(why, NEF_S3_INVALID_ACCESS_KEY_ID, NULL);

    nef_s3_error_extra(why, "AWSAccessKeyId", auth->access_key);
    return err;
}

nef_err nef_sigv4_verify(const struct nef_s3_http *http, const struct nef_sigv4 *auth,
                         const struct nef_sigv4_key *key, struct nef_s3_error *why)
{
    struct nef_buf canonical = {0}, to_sign = {0};
    uint8_t expected[32];
    char hex[65];
    nef_err err;

    NEF_ASSERT(strcmp(key->date, auth->date) == 0);
    nef_sigv4_canonical(http, auth, &canonical);
    nef_sigv4_string_to_sign(auth, &canonical, &to_sign);
    if (nef_buf_end(&canonical) != NEF_OK || nef_buf_end(&to_sign) != NEF_OK) {
        nef_s3_error_of(why, NEF_E_NOMEM);
        err = NEF_E_NOMEM;
        goto out;
    }
    nef_hmac_sha256(key->bytes, sizeof(key->bytes), to_sign.data, to_sign.bytes, expected);
    if (nef_equal_ct(expected, auth->signature, sizeof(expected))) {
        err = NEF_OK;
        goto out;
    }
    err = nef_s3_refuse(why, NEF_S3_SIGNATURE_DOES_NOT_MATCH, NULL);
    nef_hex(auth->signature, sizeof(auth->signature), hex);
    nef_s3_error_extra(why, "AWSAccessKeyId", auth->access_key);
    nef_s3_error_extra(why, "StringToSign", nef_buf_cstr(&to_sign));
    nef_s3_error_extra(why, "SignatureProvided", hex);
    nef_s3_error_extra(why, "CanonicalRequest", nef_buf_cstr(&canonical));
out:
    nef_wipe(expected, sizeof(expected));
    nef_buf_free(&canonical);
    nef_buf_free(&to_sign);
    return err;
}

nef_err nef_sigv4_check_payload(const struct nef_sigv4 *auth, const uint8_t computed[32],
                                struct nef_s3_error *why)
{
    char hex[65];

    if (auth->payload != NEF_S3_PAYLOAD_SIGNED || nef_equal_ct(computed, auth->payload_sha256, 32))
        return NEF_OK;
    (void)nef_s3_refuse(why, NEF_S3_X_AMZ_CONTENT_SHA256_MISMATCH, NULL);
    nef_hex(auth->payload_sha256, 32, hex);
    nef_s3_error_extra(why, "ClientComputedContentSHA256", hex);
    nef_hex(computed, 32, hex);
    nef_s3_error_extra(why, "S3ComputedContentSHA256", hex);
    return NEF_E_DIGEST;
}
