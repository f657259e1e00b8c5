/* libFuzzer target: nef_sigv4_parse and nef_sigv4_verify, input as for fuzz_request. No input may
 * be accepted as signed: the secret isn't in any corpus. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "s3/sigv4.h"

#define HEADERS_MAX 300
#define NOW         1369353600 /* 20130524T000000Z, as in the corpus */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct nef_http_field headers[HEADERS_MAX];
    struct nef_s3_http http = {"GET", "/", headers, 0};
    struct nef_sigv4 auth;
    struct nef_sigv4_key key;
    struct nef_s3_error why;
    struct nef_buf document = {0};
    char *text = (char *)malloc(bytes + 1), *line, *rest;
    nef_err err;

    if (text == NULL)
        return 0;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    rest = text;
    line = strsep(&rest, "\n");
    http.method = strsep(&line, " ");
    if (line != NULL)
        http.target = line;
    while (rest != NULL && http.header_count < HEADERS_MAX) {
        line = strsep(&rest, "\n");
        headers[http.header_count].name = strsep(&line, ":");
        headers[http.header_count].value = line != NULL ? line : "";
        http.header_count++;
    }
    err = nef_sigv4_parse(&http, "us-east-1", NOW, &auth, &why);
    if (err == NEF_OK) {
        nef_sigv4_derive("a secret that signs nothing", auth.date, auth.region, &key);
        err = nef_sigv4_verify(&http, &auth, &key, &why);
        NEF_ASSERT(err != NEF_OK);
    }
    nef_s3_error_document(&why, http.target, "r", "h", &document);
    nef_buf_free(&document);
    free(text);
    return 0;
}
