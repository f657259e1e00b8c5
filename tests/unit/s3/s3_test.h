/* What the unit tests of s3/ share: cmocka's includes and requests made in one line. */
#ifndef NEF_TESTS_S3_TEST_H
#define NEF_TESTS_S3_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "s3/request.h"

#define ACCESS "AKIAIOSFODNN7EXAMPLE"
#define SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

/* Headers as {name, value, name, value, ...}. */
#define HTTP(method_, target_, ...)                                                                \
    (&(struct nef_s3_http){(method_), (target_),                                                   \
                           (const struct nef_http_field[]){{"Host", "h"}, __VA_ARGS__},             \
                           sizeof((const struct nef_http_field[]){{"Host", "h"}, __VA_ARGS__}) /    \
                               sizeof(struct nef_http_field)})

static inline const char *extra_of(const struct nef_s3_error *why, const char *name)
{
    for (unsigned i = 0; i < why->extra_count; i++)
        if (strcmp(why->extra[i].name, name) == 0)
            return why->text + why->extra[i].at;
    return NULL;
}

#define assert_code(why, wanted) assert_string_equal(nef_s3_code_name((why).code), wanted)

#endif
