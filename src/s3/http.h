/* A request as it stood on the wire, the input of request.h and sigv4.h. Everything is borrowed
 * from the HTTP layer and must not be decoded: signatures are over the raw text. */
#ifndef NEF_S3_HTTP_H
#define NEF_S3_HTTP_H

#include <stddef.h>
#include "http/field.h"

struct nef_s3_http {
    const char *method; /* "GET" */
    const char *target; /* raw request target: "/bucket/key?x=1", or absolute-form */
    const struct nef_http_field *headers; /* in order of arrival, repeated ones apart */
    size_t header_count;
};

/* First header NAME (any case), or NULL. */
const char *nef_s3_http_header(const struct nef_s3_http *http, const char *name);

#endif
