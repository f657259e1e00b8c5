/* The form of an authentication, in the Authorization header or in the query: what it must have,
 * its scope and its time. Codes and messages are those S3 gives, since SDKs act on some of them (a
 * wrong region is corrected from the element Region). */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "s3/condition.h"
#include "s3/request_internal.h"
#include "s3/sigv4_internal.h"

#define ALGORITHM "AWS4-HMAC-SHA256"
#define VALUE_MAX 1024u

struct parse {
    const struct nef_s3_http *http;
    const char *region;
    int64_t now_s;
    struct nef_sigv4 *a;
    struct nef_s3_error *why;
};

/* ---- refusals ---- */

static nef_err malformed(struct parse *p, const char *what)
{
    if (p->a->presigned)
        return nef_s3_refuse(p->why, NEF_S3_AUTHORIZATION_QUERY_PARAMETERS_ERROR,
                             "Error parsing the X-Amz-Credential parameter; %s", what);
    return nef_s3_refuse(p->why, NEF_S3_AUTHORIZATION_HEADER_MALFORMED,
                         "The authorization header is malformed; %s", what);
}

static nef_err query_error(struct parse *p, const char *message)
{
    return nef_s3_refuse(p->why, NEF_S3_AUTHORIZATION_QUERY_PARAMETERS_ERROR, "%s", message);
}

static void extra_time(struct parse *p, const char *name, int64_t unix_s)
{
    char text[NEF_ISO_DATE_BYTES];

    nef_s3_date_iso(unix_s * 1000, text);
    memcpy(text + 19, "Z", 2); /* whole seconds, as S3 writes them here */
    nef_s3_error_extra(p->why, name, text);
}

/* ---- query ---- */

/* Decoded value of the query parameter NAME (as SDKs write it, unescaped); NEF_E_NOT_FOUND. */
static nef_err query_value(const struct nef_s3_http *http, const char *name, char out[VALUE_MAX])
{
    const char *query = http->target + strcspn(http->target, "?");
    size_t name_bytes = strlen(name), n;

    if (*query == '?')
        query++;
    while (*query != '\0') {
        size_t bytes = strcspn(query, "&");

        if (bytes > name_bytes && query[name_bytes] == '=' &&
            strncmp(query, name, name_bytes) == 0) {
            size_t value_bytes = bytes - name_bytes - 1;

            if (value_bytes >= VALUE_MAX)
                return NEF_E_LIMIT;
            return nef_s3_decode(query + name_bytes + 1, value_bytes, true, out, &n);
        }
        query += bytes + (query[bytes] == '&' ? 1 : 0);
    }
    return NEF_E_NOT_FOUND;
}

static bool has_query(const struct nef_s3_http *http, const char *name)
{
    char value[VALUE_MAX];

    return query_value(http, name, value) != NEF_E_NOT_FOUND;
}

static size_t parameter_count(const char *target)
{
    const char *query = target + strcspn(target, "?");
    size_t count = 1;

    for (; *query != '\0'; query++)
        count += *query == '&';
    return count;
}

/* ---- scope ---- */

/* AKID/YYYYMMDD/REGION/s3/aws4_request */
static nef_err parse_credential(struct parse *p, const char *text, size_t bytes)
{
    static const char form[] = "the Credential is mal-formed; expecting "
                               "\"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".";
    const char *part[5];
    size_t part_bytes[5];
    char message[256];
    nef_err err;

    for (unsigned i = 0; i < 5; i++) {
        const char *slash = memchr(text, '/', bytes);

        part[i] = text;
        part_bytes[i] = slash != NULL ? (size_t)(slash - text) : bytes;
        if (part_bytes[i] == 0 || (slash == NULL) != (i == 4))
            return malformed(p, form);
        text += part_bytes[i] + (slash != NULL ? 1 : 0);
        bytes -= part_bytes[i] + (slash != NULL ? 1 : 0);
    }
    if (part_bytes[0] > NEF_ACCESS_KEY_MAX || part_bytes[1] != 8 ||
        strspn(part[1], "0123456789") < 8)
        return malformed(p, form);
    if (part_bytes[2] != strlen(p->region) || memcmp(part[2], p->region, part_bytes[2]) != 0) {
        (void)snprintf(message, sizeof(message), "the region '%.*s' is wrong; expecting '%s'",
                       (int)NEF_MIN(part_bytes[2], NEF_SIGV4_REGION_MAX), part[2], p->region);
        err = malformed(p, message);
        nef_s3_error_extra(p->why, "Region", p->region);
        return err;
    }
    if (part_bytes[3] != 2 || memcmp(part[3], "s3", 2) != 0) {
        (void)snprintf(message, sizeof(message),
                       "incorrect service \"%.*s\". This endpoint belongs to \"s3\".",
                       (int)NEF_MIN(part_bytes[3], 32u), part[3]);
        return malformed(p, message);
    }
    if (part_bytes[4] != 12 || memcmp(part[4], "aws4_request", 12) != 0) {
        (void)snprintf(message, sizeof(message),
                       "incorrect terminal \"%.*s\". This endpoint uses \"aws4_request\".",
                       (int)NEF_MIN(part_bytes[4], 32u), part[4]);
        return malformed(p, message);
    }
    memcpy(p->a->access_key, part[0], part_bytes[0]);
    p->a->access_key[part_bytes[0]] = '\0';
    memcpy(p->a->date, part[1], 8);
    p->a->date[8] = '\0';
    memcpy(p->a->region, part[2], part_bytes[2]);
    p->a->region[part_bytes[2]] = '\0';
    return NEF_OK;
}

static nef_err parse_signature(struct parse *p, const char *text, size_t bytes)
{
    if (bytes != 64 || nef_unhex(text, 64, p->a->signature, 32) != NEF_OK) {
        /* S3 compares texts, so a malformed signature is one that doesn't match */
        nef_err err = nef_s3_refuse(p->why, NEF_S3_SIGNATURE_DOES_NOT_MATCH, NULL);

        nef_s3_error_extra(p->why, "AWSAccessKeyId", p->a->access_key);
        return err;
    }
    return NEF_OK;
}

static nef_err parse_signed_headers(struct parse *p, const char *text, size_t bytes)
{
    if (bytes == 0 || bytes >= sizeof(p->a->signed_headers))
        return malformed(p, "SignedHeaders is mal-formed.");
    for (size_t i = 0; i < bytes; i++) /* token characters of lower case, and ';' */
        if (text[i] <= ' ' || text[i] == 0x7F || (text[i] >= 'A' && text[i] <= 'Z') ||
            strchr(",:\"/=", text[i]) != NULL)
            return malformed(p, "SignedHeaders is mal-formed.");
    memcpy(p->a->signed_headers, text, bytes);
    p->a->signed_headers[bytes] = '\0';
    return NEF_OK;
}

static bool is_signed(const struct nef_sigv4 *a, const char *header)
{
    size_t bytes = strlen(header);

    for (const char *name = a->signed_headers; *name != '\0';) {
        size_t n = strcspn(name, ";");

        if (n == bytes && strncasecmp(name, header, n) == 0)
            return true;
        name += n + (name[n] == ';' ? 1 : 0);
    }
    return false;
}

/* Host and every x-amz-* header must be signed, or someone on the way could add one. */
static nef_err check_signed(struct parse *p)
{
    const char *unsigned_header = is_signed(p->a, "host") ? NULL : "host";
    unsigned count = 1;
    nef_err err;

    for (const char *c = p->a->signed_headers; *c != '\0'; c++)
        count += *c == ';';
    if (count > NEF_SIGV4_SIGNED_MAX)
        return malformed(p, "SignedHeaders has too many names.");
    for (size_t i = 0; i < p->http->header_count && unsigned_header == NULL; i++) {
        const char *name = p->http->headers[i].name;

        /* parse_payload decides about this one */
        if (p->a->presigned && strcasecmp(name, "x-amz-content-sha256") == 0)
            continue;
        if (strncasecmp(name, "x-amz-", 6) == 0 && !is_signed(p->a, name))
            unsigned_header = name;
    }
    if (unsigned_header == NULL)
        return NEF_OK;
    err = nef_s3_refuse(p->why, NEF_S3_ACCESS_DENIED,
                        "There were headers present in the request which were not signed");
    nef_s3_error_extra(p->why, "HeadersNotSigned", unsigned_header);
    return err;
}

/* ---- payload ---- */

static nef_err parse_payload_text(struct parse *p, const char *text)
{
    static const struct {
        const char *text;
        enum nef_s3_payload payload;
    } kinds[] = {
        {"UNSIGNED-PAYLOAD", NEF_S3_PAYLOAD_UNSIGNED},
        {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", NEF_S3_PAYLOAD_STREAMING_SIGNED},
        {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", NEF_S3_PAYLOAD_STREAMING_SIGNED_TRAILER},
        {"STREAMING-UNSIGNED-PAYLOAD-TRAILER", NEF_S3_PAYLOAD_STREAMING_UNSIGNED_TRAILER},
    };
    size_t bytes = strlen(text);

    for (size_t i = 0; i < NEF_COUNT(kinds); i++)
        if (strcmp(text, kinds[i].text) == 0) {
            p->a->payload = kinds[i].payload;
            memcpy(p->a->payload_text, text, bytes + 1);
            return NEF_OK;
        }
    if (bytes == 64 && nef_unhex(text, 64, p->a->payload_sha256, 32) == NEF_OK) {
        p->a->payload = NEF_S3_PAYLOAD_SIGNED;
        memcpy(p->a->payload_text, text, bytes + 1);
        return NEF_OK;
    }
    if (strncmp(text, "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", 40) == 0) {
        nef_err err =
            nef_s3_refuse(p->why, NEF_S3_NOT_IMPLEMENTED,
                          "Signature Version 4A is not implemented. Please use " ALGORITHM ".");

        nef_s3_error_extra(p->why, "Header", "x-amz-content-sha256");
        return err;
    }
    return nef_s3_refuse_argument(
        p->why, "x-amz-content-sha256", text,
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid "
        "sha256 value.");
}

static nef_err parse_payload(struct parse *p)
{
    const char *header = nef_s3_http_header(p->http, "x-amz-content-sha256");
    char value[VALUE_MAX];
    nef_err err;

    if (!p->a->presigned) {
        if (header == NULL)
            return nef_s3_refuse(p->why, NEF_S3_INVALID_REQUEST,
                                 "Missing required header for this request: x-amz-content-sha256");
        return parse_payload_text(p, header);
    }
    if (query_value(p->http, "X-Amz-Content-Sha256", value) == NEF_OK)
        return parse_payload_text(p, value);
    if (header == NULL)
        return parse_payload_text(p, "UNSIGNED-PAYLOAD");
    err = parse_payload_text(p, header);
    if (err != NEF_OK || is_signed(p->a, "x-amz-content-sha256"))
        return err;
    /* Not signed, so not in the canonical request; a hash is still checked against the body, but
     * what would change how the body is read must be signed. */
    if (p->a->payload != NEF_S3_PAYLOAD_UNSIGNED && p->a->payload != NEF_S3_PAYLOAD_SIGNED) {
        err = nef_s3_refuse(p->why, NEF_S3_ACCESS_DENIED,
                            "There were headers present in the request which were not signed");
        nef_s3_error_extra(p->why, "HeadersNotSigned", "x-amz-content-sha256");
        return err;
    }
    memcpy(p->a->payload_text, "UNSIGNED-PAYLOAD", 17);
    return NEF_OK;
}

/* ---- time ---- */

static nef_err check_date(struct parse *p)
{
    char message[128];

    if (strncmp(p->a->date, p->a->timestamp, 8) == 0)
        return NEF_OK;
    (void)snprintf(message, sizeof(message),
                   "Invalid credential date \"%s\". This date is not the same as X-Amz-Date: "
                   "\"%.8s\".",
                   p->a->date, p->a->timestamp);
    return malformed(p, message);
}

static nef_err check_skew(struct parse *p)
{
    int64_t skew = p->now_s - p->a->time_s;
    nef_err err;

    if (skew >= -NEF_SIGV4_SKEW_S && skew <= NEF_SIGV4_SKEW_S)
        return NEF_OK;
    err = nef_s3_refuse(p->why, NEF_S3_REQUEST_TIME_TOO_SKEWED, NULL);
    nef_s3_error_extra(p->why, "RequestTime", p->a->timestamp);
    extra_time(p, "ServerTime", p->now_s);
    nef_s3_error_extra_number(p->why, "MaxAllowedSkewMilliseconds", NEF_SIGV4_SKEW_S * 1000);
    return err;
}

static nef_err check_expiry(struct parse *p)
{
    nef_err err;

    if (p->a->time_s > p->now_s + NEF_SIGV4_SKEW_S) {
        err = nef_s3_refuse(p->why, NEF_S3_ACCESS_DENIED, "Request is not valid yet");
        nef_s3_error_extra(p->why, "X-Amz-Date", p->a->timestamp);
        extra_time(p, "ServerTime", p->now_s);
        return err;
    }
    if (p->now_s <= p->a->time_s + (int64_t)p->a->expires_s)
        return NEF_OK;
    err = nef_s3_refuse(p->why, NEF_S3_ACCESS_DENIED, "Request has expired");
    nef_s3_error_extra_number(p->why, "X-Amz-Expires", p->a->expires_s);
    extra_time(p, "Expires", p->a->time_s + (int64_t)p->a->expires_s);
    extra_time(p, "ServerTime", p->now_s);
    return err;
}

/* ---- the two forms ---- */

/* Credential=..., SignedHeaders=..., Signature=... in any order, blanks after the commas or not. */
static nef_err parse_fields(struct parse *p, const char *text)
{
    static const char missing[] = "the authorization header requires three components: Credential, "
                                  "SignedHeaders, and Signature.";
    const char *credential = NULL, *headers = NULL, *signature = NULL;
    size_t credential_bytes = 0, headers_bytes = 0, signature_bytes = 0;
    nef_err err;

    while (*text != '\0') {
        size_t bytes, end;

        text += strspn(text, " \t,");
        bytes = end = strcspn(text, ",");
        while (bytes > 0 && (text[bytes - 1] == ' ' || text[bytes - 1] == '\t'))
            bytes--;
        if (bytes >= 11 && strncmp(text, "Credential=", 11) == 0) {
            credential = text + 11;
            credential_bytes = bytes - 11;
        } else if (bytes >= 14 && strncmp(text, "SignedHeaders=", 14) == 0) {
            headers = text + 14;
            headers_bytes = bytes - 14;
        } else if (bytes >= 10 && strncmp(text, "Signature=", 10) == 0) {
            signature = text + 10;
            signature_bytes = bytes - 10;
        } else if (bytes > 0) {
            return malformed(p, missing);
        }
        text += end;
    }
    if (credential == NULL || headers == NULL || signature == NULL)
        return malformed(p, missing);
    err = parse_credential(p, credential, credential_bytes);
    if (err == NEF_OK)
        err = parse_signed_headers(p, headers, headers_bytes);
    if (err == NEF_OK)
        err = parse_signature(p, signature, signature_bytes);
    return err;
}

static nef_err parse_header_form(struct parse *p, const char *authorization)
{
    const char *date = nef_s3_http_header(p->http, "x-amz-date");
    size_t scheme = strcspn(authorization, " ");
    nef_err err;

    if (scheme == 3 && strncmp(authorization, "AWS", 3) == 0)
        return nef_s3_refuse(
            p->why, NEF_S3_INVALID_REQUEST,
            "The authorization mechanism you have provided is not supported. Please "
            "use " ALGORITHM ".");
    if (scheme == 22 && strncmp(authorization, "AWS4-ECDSA-P256-SHA256", 22) == 0)
        return nef_s3_refuse(p->why, NEF_S3_NOT_IMPLEMENTED,
                             "Signature Version 4A is not implemented. Please use " ALGORITHM ".");
    if (scheme != strlen(ALGORITHM) || strncmp(authorization, ALGORITHM, scheme) != 0) {
        char name[32];

        /* Amazon repeats the whole value. It may be another service's token or password, which went to the wrong port
         * and would end in a client's log: we repeat the scheme's name alone, and nothing that has none. */
        (void)snprintf(name, sizeof(name), "%.*s",
                       authorization[scheme] == ' ' ? (int)NEF_MIN(scheme, sizeof(name) - 1) : 0, authorization);
        return nef_s3_refuse_argument(p->why, "Authorization", name, "Unsupported Authorization Type");
    }
    err = parse_fields(p, authorization + scheme);
    if (err != NEF_OK)
        return err;
    if (date != NULL) {
        if (nef_s3_date_basic(date, &p->a->time_s) != NEF_OK)
            return nef_s3_refuse(p->why, NEF_S3_ACCESS_DENIED,
                                 "AWS authentication requires a valid Date or x-amz-date header");
        memcpy(p->a->timestamp, date, sizeof(p->a->timestamp));
    } else {
        date = nef_s3_http_header(p->http, "date");
        if (date == NULL || (nef_s3_date_basic(date, &p->a->time_s) != NEF_OK &&
                             nef_s3_date_parse(date, p->now_s, &p->a->time_s) != NEF_OK))
            return nef_s3_refuse(p->why, NEF_S3_ACCESS_DENIED,
                                 "AWS authentication requires a valid Date or x-amz-date header");
        nef_s3_date_basic_text(p->a->time_s, p->a->timestamp);
    }
    err = check_date(p);
    if (err == NEF_OK)
        err = check_skew(p);
    return err;
}

static nef_err parse_expires(struct parse *p, const char *text)
{
    int64_t seconds;

    if (*text == '-')
        return query_error(p, "X-Amz-Expires must be non-negative");
    if (*text == '\0' || text[strspn(text, "0123456789")] != '\0')
        return query_error(p, "X-Amz-Expires should be a number");
    if (strlen(text) > 10 || nef_s3_parse_number(text, &seconds) != NEF_OK ||
        seconds > NEF_SIGV4_EXPIRES_MAX_S)
        return query_error(p, "X-Amz-Expires must be less than a week (in seconds); that is, the "
                              "given X-Amz-Expires must be less than 604800 seconds");
    p->a->expires_s = (uint32_t)seconds;
    return NEF_OK;
}

static nef_err parse_query_form(struct parse *p)
{
    static const char missing[] =
        "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
        "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.";
    char algorithm[VALUE_MAX], credential[VALUE_MAX], signature[VALUE_MAX];
    char date[VALUE_MAX], headers[VALUE_MAX], expires[VALUE_MAX];
    nef_err err;

    p->a->presigned = true;
    if (query_value(p->http, "X-Amz-Algorithm", algorithm) != NEF_OK ||
        query_value(p->http, "X-Amz-Credential", credential) != NEF_OK ||
        query_value(p->http, "X-Amz-Signature", signature) != NEF_OK ||
        query_value(p->http, "X-Amz-Date", date) != NEF_OK ||
        query_value(p->http, "X-Amz-SignedHeaders", headers) != NEF_OK ||
        query_value(p->http, "X-Amz-Expires", expires) != NEF_OK)
        return query_error(p, missing);
    if (strcmp(algorithm, ALGORITHM) != 0)
        return query_error(p, "X-Amz-Algorithm only supports \"" ALGORITHM "\"");
    err = parse_credential(p, credential, strlen(credential));
    if (err != NEF_OK)
        return err;
    if (nef_s3_date_basic(date, &p->a->time_s) != NEF_OK)
        return query_error(p, "X-Amz-Date must be in the ISO8601 Long Format "
                              "\"yyyyMMdd'T'HHmmss'Z'\"");
    memcpy(p->a->timestamp, date, sizeof(p->a->timestamp));
    err = parse_expires(p, expires);
    if (err == NEF_OK)
        err = parse_signed_headers(p, headers, strlen(headers));
    if (err == NEF_OK)
        err = parse_signature(p, signature, strlen(signature));
    if (err == NEF_OK)
        err = check_date(p);
    if (err == NEF_OK)
        err = check_expiry(p);
    return err;
}

nef_err nef_sigv4_parse(const struct nef_s3_http *http, const char *region, int64_t now_s,
                        struct nef_sigv4 *out, struct nef_s3_error *why)
{
    struct nef_sigv4 auth = {0};
    struct parse p = {http, region, now_s, &auth, why};
    const char *authorization = nef_s3_http_header(http, "authorization");
    bool query4 = has_query(http, "X-Amz-Algorithm") || has_query(http, "X-Amz-Signature");
    bool query2 = has_query(http, "Signature") || has_query(http, "AWSAccessKeyId");
    nef_err err;

    if (parameter_count(http->target) > NEF_SIGV4_PARAMETERS_MAX ||
        strlen(http->target) > NEF_TARGET_MAX)
        return nef_s3_refuse(why, NEF_S3_INVALID_URI, NULL);
    if ((authorization != NULL) + query4 + query2 > 1)
        return nef_s3_refuse_argument(
            why, "Authorization", authorization != NULL ? authorization : "",
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature "
            "query string parameter or the Authorization header should be specified");
    if (query2)
        return nef_s3_refuse(
            why, NEF_S3_INVALID_REQUEST,
            "The authorization mechanism you have provided is not supported. Please "
            "use " ALGORITHM ".");
    if (authorization == NULL && !query4)
        return nef_s3_refuse(why, NEF_S3_ACCESS_DENIED, NULL); /* anonymous */
    if (nef_s3_http_header(http, "x-amz-security-token") != NULL ||
        has_query(http, "X-Amz-Security-Token"))
        return nef_s3_refuse(why, NEF_S3_INVALID_TOKEN, NULL); /* no temporary credentials here */
    err = query4 ? parse_query_form(&p) : parse_header_form(&p, authorization);
    if (err == NEF_OK)
        err = check_signed(&p);
    if (err == NEF_OK)
        err = parse_payload(&p);
    if (err == NEF_OK)
        *out = auth;
    return err;
}
