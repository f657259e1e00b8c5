/* Conditional requests (RFC 9110, section 13) as S3 evaluates them, entity tags, and dates. */
#ifndef NEF_S3_CONDITION_H
#define NEF_S3_CONDITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "s3/error.h"
#include "s3/request.h"

enum nef_s3_verdict {
    NEF_S3_VERDICT_GO,           /* the conditions hold */
    NEF_S3_VERDICT_NOT_MODIFIED, /* 304 */
    NEF_S3_VERDICT_FAILED,       /* 412 */
};

/* For GET and HEAD. etag: of the object, without quotes. modified_s: its Last-Modified in seconds.
 * now_s: a date later than that isn't valid in If-Modified-Since and is ignored. out_condition (may
 * be NULL): name of the header that failed, for the Error document's Condition. */
enum nef_s3_verdict nef_s3_condition_read(const struct nef_s3_conditions *c, const char *etag,
                                          int64_t modified_s, int64_t now_s,
                                          const char **out_condition);
/* For the source of CopyObject and UploadPartCopy: never 304. */
enum nef_s3_verdict nef_s3_condition_copy(const struct nef_s3_conditions *c, const char *etag,
                                          int64_t modified_s, int64_t now_s,
                                          const char **out_condition);
/* PreconditionFailed with the element Condition; NEF_E_INVALID. */
nef_err nef_s3_condition_refuse(const char *condition, struct nef_s3_error *why);

/* Does LIST ("a", W/"b", c or *) name ETAG (without quotes)? Unquoted tags are taken, as S3 does. A
 * weak tag matches only if weak_allowed. */
bool nef_s3_etag_list_has(const char *list, const char *etag, bool weak_allowed);

/* Dates. Parse takes IMF-fixdate, RFC 850 and asctime (RFC 9110, section 5.6.7); now_s resolves RFC
 * 850's two-digit year. NEF_E_INVALID otherwise. */
#define NEF_HTTP_DATE_BYTES 30u /* "Sun, 06 Nov 1994 08:49:37 GMT" and NUL */
#define NEF_ISO_DATE_BYTES  25u /* "2009-10-12T17:50:30.000Z" and NUL */
NEF_MUST_CHECK nef_err nef_s3_date_parse(const char *text, int64_t now_s, int64_t *out_s);
void nef_s3_date_http(int64_t unix_s, char out[NEF_HTTP_DATE_BYTES]);
void nef_s3_date_iso(int64_t unix_ms, char out[NEF_ISO_DATE_BYTES]);
/* "20130524T000000Z", strict. */
NEF_MUST_CHECK nef_err nef_s3_date_basic(const char *text, int64_t *out_s);
/* The same, written; years 0 to 9999. */
void nef_s3_date_basic_text(int64_t unix_s, char out[17]);
/* Days since 1970-01-01 of a day of the proleptic Gregorian calendar. */
int64_t nef_s3_days(int64_t year, unsigned month, unsigned day);

#endif
