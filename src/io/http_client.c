/* One HTTP call. A handle per call: these calls are rare, and a kept connection to a process that
 * was paused or killed would be the first thing to mislead an operator. */
#include "io/http_client.h"
#include <curl/curl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "crypto/crypto.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global = CURLE_FAILED_INIT;

static void init(void)
{
    global = curl_global_init(CURL_GLOBAL_DEFAULT);
}

struct sink {
    struct nef_buf *body;
    bool too_large;
};

static size_t take(char *data, size_t size, size_t count, void *context)
{
    struct sink *sink = context;
    size_t bytes = size * count;

    if (bytes > NEF_HTTP_ANSWER_MAX - NEF_MIN(sink->body->bytes, NEF_HTTP_ANSWER_MAX)) {
        sink->too_large = true;
        return 0;
    }
    nef_buf_append(sink->body, data, bytes);
    return sink->body->failed ? 0 : bytes;
}

static struct curl_slist *headers_of(const struct nef_http_call *call, nef_err *err)
{
    struct curl_slist *list = NULL, *next;
    char line[1024];
    const char *type = call->content_type != NULL ? call->content_type : "application/json";
    int written;

    *err = NEF_OK;
    if (call->bearer != NULL) {
        written = snprintf(line, sizeof(line), "Authorization: Bearer %s", call->bearer);
        next = written > 0 && (size_t)written < sizeof(line) ? curl_slist_append(list, line) : NULL;
        nef_wipe(line, sizeof(line));
        if (next == NULL)
            goto fail;
        list = next;
    }
    if (call->body != NULL) {
        written = snprintf(line, sizeof(line), "Content-Type: %s", type);
        next = written > 0 && (size_t)written < sizeof(line) ? curl_slist_append(list, line) : NULL;
        if (next == NULL)
            goto fail;
        list = next;
    }
    next = curl_slist_append(list, "Expect:"); /* small bodies: don't wait for 100 Continue */
    if (next == NULL)
        goto fail;
    return next;
fail:
    curl_slist_free_all(list);
    *err = NEF_E_NOMEM;
    return NULL;
}

static CURLcode set_options(CURL *curl, const struct nef_http_call *call, struct sink *sink,
                            struct curl_slist *headers)
{
    const char *method = call->method;
    long timeout = call->timeout_ms != 0 ? (long)call->timeout_ms : 5000;
    CURLcode rc = CURLE_OK;

    if (method == NULL)
        method = call->body != NULL ? "POST" : "GET";
#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (rc == CURLE_OK)                                                                        \
            rc = curl_easy_setopt(curl, option, value);                                            \
    } while (0)
    SET(CURLOPT_URL, call->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_TIMEOUT_MS, timeout);
    SET(CURLOPT_CONNECTTIMEOUT_MS, timeout);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_WRITEFUNCTION, take);
    SET(CURLOPT_WRITEDATA, sink);
    if (call->body != NULL) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDS, (const char *)call->body);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_bytes);
    } else if (strcmp(method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
    } else if (strcmp(method, "POST") == 0) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
    }
    SET(CURLOPT_CUSTOMREQUEST, method);
    if (call->ca != NULL)
        SET(CURLOPT_CAINFO, call->ca);
    if (call->cert != NULL)
        SET(CURLOPT_SSLCERT, call->cert);
    if (call->key != NULL)
        SET(CURLOPT_SSLKEY, call->key);
    if (call->unix_socket != NULL)
        SET(CURLOPT_UNIX_SOCKET_PATH, call->unix_socket);
#undef SET
    return rc;
}

nef_err nef_http_do(const struct nef_http_call *call, struct nef_http_answer *answer)
{
    char detail[CURL_ERROR_SIZE] = "";
    struct sink sink = {.body = &answer->body};
    struct curl_slist *headers = NULL;
    CURL *curl = NULL;
    CURLcode rc;
    nef_err err;

    answer->status = 0;
    answer->error[0] = 0;
    nef_buf_reset(&answer->body);
    answer->body.max = NEF_HTTP_ANSWER_MAX;
    (void)pthread_once(&once, init);
    if (global != CURLE_OK || (curl = curl_easy_init()) == NULL)
        return NEF_E_NOMEM;
    headers = headers_of(call, &err);
    if (err != NEF_OK)
        goto out;
    rc = curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    if (rc == CURLE_OK)
        rc = set_options(curl, call, &sink, headers);
    if (rc == CURLE_OK)
        rc = curl_easy_perform(curl);
    if (rc == CURLE_OK)
        rc = curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->status);
    if (rc == CURLE_OK)
        err = NEF_OK;
    else if (sink.too_large)
        err = NEF_E_LIMIT;
    else if (rc == CURLE_OUT_OF_MEMORY || answer->body.failed)
        err = NEF_E_NOMEM;
    else if (rc == CURLE_COULDNT_CONNECT || rc == CURLE_COULDNT_RESOLVE_HOST)
        err = NEF_E_PEER;
    else
        err = rc == CURLE_OPERATION_TIMEDOUT ? NEF_E_TIMEOUT : NEF_E_UNAVAILABLE;
    if (err != NEF_OK)
        (void)snprintf(answer->error, sizeof(answer->error), "%s: %s", call->url,
                       sink.too_large ? "the answer is too large"
                                      : (detail[0] != 0 ? detail : curl_easy_strerror(rc)));
out:
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return err;
}
