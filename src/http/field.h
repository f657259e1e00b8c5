/* A header field as it stood on the wire. Apart from http.h, for those that only read requests. */
#ifndef NEF_HTTP_FIELD_H
#define NEF_HTTP_FIELD_H

struct nef_http_field {
    const char *name; /* any case */
    const char *value;
};

#endif
