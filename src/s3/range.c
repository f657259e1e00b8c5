/* Range headers; range.h says how S3 answers them. */
#include "s3/range.h"
#include <string.h>
#include <strings.h>

/* Decimal digits at *P. A number beyond 64 bits counts as the largest one:
 * "bytes=0-99999999999999999999" is well-formed and means to the end. False if there is no digit.
 */
static bool number(const char **p, uint64_t *out)
{
    uint64_t v = 0;

    if (**p < '0' || **p > '9')
        return false;
    for (; **p >= '0' && **p <= '9'; (*p)++) {
        unsigned digit = (unsigned)(**p - '0');

        v = v > (UINT64_MAX - digit) / 10 ? UINT64_MAX : v * 10 + digit;
    }
    *out = v;
    return true;
}

static const char *blanks(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

static nef_err unsatisfiable(const char *header, uint64_t object_bytes, struct nef_s3_error *why)
{
    (void)nef_s3_refuse(why, NEF_S3_INVALID_RANGE, NULL);
    nef_s3_error_extra(why, "RangeRequested", header);
    nef_s3_error_extra_number(why, "ActualObjectSize", object_bytes);
    return NEF_E_RANGE;
}

nef_err nef_s3_range_resolve(const char *header, uint64_t object_bytes, struct nef_s3_range *out,
                             struct nef_s3_error *why)
{
    uint64_t first = 0, last = UINT64_MAX, suffix = 0;
    bool is_suffix = false;
    const char *p;

    if (header == NULL || strncasecmp(header, "bytes=", 6) != 0)
        goto whole;
    p = blanks(header + 6);
    if (*p == '-') {
        p++;
        is_suffix = true;
        if (!number(&p, &suffix))
            goto whole;
    } else {
        if (!number(&p, &first) || *p != '-')
            goto whole;
        p++;
        if (*p >= '0' && *p <= '9' && number(&p, &last) && last < first)
            goto whole; /* not a valid range at all (RFC 9110, 14.1.1) */
    }
    if (*blanks(p) != '\0')
        goto whole; /* several ranges, or garbage */

    if (is_suffix) {
        if (suffix == 0 || object_bytes == 0)
            return unsatisfiable(header, object_bytes, why);
        first = suffix >= object_bytes ? 0 : object_bytes - suffix;
    }
    if (first >= object_bytes)
        return unsatisfiable(header, object_bytes, why);
    if (last >= object_bytes)
        last = object_bytes - 1;
    *out = (struct nef_s3_range){.partial = true, .first = first, .bytes = last - first + 1};
    return NEF_OK;
whole:
    *out = (struct nef_s3_range){.partial = false, .first = 0, .bytes = object_bytes};
    return NEF_OK;
}

nef_err nef_s3_range_exact(const char *header, uint64_t *out_first, uint64_t *out_last)
{
    uint64_t first, last;
    const char *p = header + 6;

    if (strncmp(header, "bytes=", 6) != 0 || !number(&p, &first) || *p++ != '-' ||
        !number(&p, &last) || *p != '\0' || last < first || last == UINT64_MAX)
        return NEF_E_INVALID;
    *out_first = first;
    *out_last = last;
    return NEF_OK;
}
