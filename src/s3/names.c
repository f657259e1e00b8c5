/* Names: headers, percent-decoding, UTF-8, bucket names. */
#include <string.h>
#include <strings.h>
#include "base/bytes.h"
#include "s3/request.h"

const char *nef_s3_http_header(const struct nef_s3_http *http, const char *name)
{
    for (size_t i = 0; i < http->header_count; i++)
        if (strcasecmp(http->headers[i].name, name) == 0)
            return http->headers[i].value;
    return NULL;
}

/* RFC 3629, section 4. */
bool nef_s3_utf8_valid(const void *text, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + bytes;

    while (p < end) {
        unsigned more;
        uint32_t c = *p++;

        if (c < 0x80)
            continue;
        if (c >= 0xC2 && c <= 0xDF) {
            more = 1;
            c &= 0x1F;
        } else if (c >= 0xE0 && c <= 0xEF) {
            more = 2;
            c &= 0x0F;
        } else if (c >= 0xF0 && c <= 0xF4) {
            more = 3;
            c &= 0x07;
        } else {
            return false;
        }
        if ((size_t)(end - p) < more)
            return false;
        for (unsigned i = 0; i < more; i++, p++) {
            if ((*p & 0xC0) != 0x80)
                return false;
            c = c << 6 | (*p & 0x3Fu);
        }
        if ((more == 2 && c < 0x800) || (more == 3 && (c < 0x10000 || c > 0x10FFFF)) ||
            (c >= 0xD800 && c <= 0xDFFF))
            return false;
    }
    return true;
}

nef_err nef_s3_decode(const char *text, size_t bytes, bool plus_is_space, char *out,
                      size_t *out_bytes)
{
    size_t n = 0;

    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];

        if (c == '%') {
            uint8_t byte;

            if (bytes - i < 3 || nef_unhex(text + i + 1, 2, &byte, 1) != NEF_OK)
                return NEF_E_INVALID;
            c = (char)byte;
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (c == '\0')
            return NEF_E_INVALID;
        out[n++] = c;
    }
    out[n] = '\0';
    if (!nef_s3_utf8_valid(out, n))
        return NEF_E_INVALID;
    *out_bytes = n;
    return NEF_OK;
}

static bool is_lower_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Four decimal numbers: Amazon refuses names "formatted as an IP address". */
static bool looks_like_address(const char *name)
{
    unsigned dots = 0, digits = 0;

    for (; *name != '\0'; name++) {
        if (*name == '.') {
            if (digits == 0)
                return false;
            dots++;
            digits = 0;
        } else if (*name >= '0' && *name <= '9' && digits < 3) {
            digits++;
        } else {
            return false;
        }
    }
    return dots == 3 && digits > 0;
}

nef_err nef_s3_bucket_name_check(const char *name)
{
    static const char *const prefixes[] = {"xn--", "sthree-", "amzn-s3-demo-"};
    static const char *const suffixes[] = {"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"};
    size_t bytes = strlen(name);

    if (bytes < 3 || bytes > NEF_BUCKET_NAME_MAX || !is_lower_or_digit(name[0]) ||
        !is_lower_or_digit(name[bytes - 1]) || looks_like_address(name))
        return NEF_E_INVALID;
    for (size_t i = 0; i < bytes; i++)
        if (!is_lower_or_digit(name[i]) && name[i] != '-' && (name[i] != '.' || name[i + 1] == '.'))
            return NEF_E_INVALID;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return NEF_E_INVALID;
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        size_t n = strlen(suffixes[i]);

        if (bytes > n && strcmp(name + bytes - n, suffixes[i]) == 0)
            return NEF_E_INVALID;
    }
    return NEF_OK;
}
