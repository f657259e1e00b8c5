/* What the files of the request parser share; inside s3/ only. */
#ifndef NEF_S3_REQUEST_INTERNAL_H
#define NEF_S3_REQUEST_INTERNAL_H

#include "s3/request.h"

#define NEF_S3_PARAMETERS_MAX 64u /* of a query; SDKs send at most a dozen */

struct nef_s3_parameter {
    const char *name; /* decoded */
    const char *value;
};

/* One parse under way. Texts are taken from one block that is as large as they can become. */
struct nef_s3_parser {
    const struct nef_s3_http *http;
    struct nef_s3_request *r;
    struct nef_s3_error *why;
    char *at, *end;
    struct nef_s3_parameter parameters[NEF_S3_PARAMETERS_MAX];
    size_t parameter_count;
};

/* Copy of TEXT in the request's memory. */
const char *nef_s3_parser_copy(struct nef_s3_parser *p, const char *text, size_t bytes);
/* request_headers.c: everything that headers say, once the operation is known. */
NEF_MUST_CHECK nef_err nef_s3_parse_headers(struct nef_s3_parser *p);
/* request_write.c: headers of requests that carry or copy an object. */
NEF_MUST_CHECK nef_err nef_s3_parse_checksums(struct nef_s3_parser *p);
NEF_MUST_CHECK nef_err nef_s3_parse_copy_source(struct nef_s3_parser *p, const char *value);
NEF_MUST_CHECK nef_err nef_s3_parse_write_condition(struct nef_s3_parser *p);
/* Decimal, whole text, at most INT64_MAX. */
NEF_MUST_CHECK nef_err nef_s3_parse_number(const char *text, int64_t *out);
nef_err nef_s3_refuse_header(struct nef_s3_error *why, const char *header); /* NotImplemented */

#endif
