/* HTTP exchanges with large bodies; see fetch.h. */
#include "io/fetch.h"
#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "crypto/crypto.h"

#define HEADER_NAME_MAX  128u
#define HEADER_VALUE_MAX 8192u

struct nef_fetcher {
    CURL *curl;
};

/* One exchange. */
struct exchange {
    const struct nef_fetch *fetch;
    long status;      /* of the answer that is coming */
    uint32_t answers; /* status lines so far, without 1xx */
    bool stopped;
    size_t sent; /* of the body */
};

nef_err nef_fetcher_new(struct nef_fetcher **out_fetcher)
{
    struct nef_fetcher *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return NEF_E_NOMEM;
    f->curl = curl_easy_init(); /* also curl_global_init, which counts */
    if (f->curl == NULL) {
        free(f);
        return NEF_E_NOMEM;
    }
    *out_fetcher = f;
    return NEF_OK;
}

void nef_fetcher_free(struct nef_fetcher *f)
{
    if (f == NULL)
        return;
    curl_easy_cleanup(f->curl);
    free(f);
}

/* ---- callbacks ---- */

static void status_line(struct exchange *x, const char *line, size_t bytes)
{
    const char *blank = memchr(line, ' ', bytes);
    size_t at = blank == NULL ? bytes : (size_t)(blank - line) + 1;
    long status = 0;

    for (; at < bytes && line[at] >= '0' && line[at] <= '9' && status < 1000; at++)
        status = status * 10 + (line[at] - '0');
    x->status = status;
    if (status >= 200)
        x->answers++;
}

/* One header line with its end. One that is longer than any we look at is left out. */
static size_t on_header(char *line, size_t size, size_t count, void *context)
{
    struct exchange *x = context;
    size_t bytes = size * count, end = bytes, value;
    char name[HEADER_NAME_MAX], text[HEADER_VALUE_MAX];
    const char *colon;

    if (bytes >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        status_line(x, line, bytes);
        return bytes;
    }
    colon = memchr(line, ':', bytes);
    if (colon == NULL || x->fetch->header == NULL || x->status < 200 || x->answers == 0)
        return bytes;
    while (end > 0 && (line[end - 1] == '\r' || line[end - 1] == '\n' || line[end - 1] == ' '))
        end--;
    value = (size_t)(colon - line) + 1;
    while (value < end && (line[value] == ' ' || line[value] == '\t'))
        value++;
    if (value > end || (size_t)(colon - line) >= sizeof(name) || end - value >= sizeof(text) ||
        memchr(line, '\0', bytes) != NULL)
        return bytes;
    for (size_t i = 0; i < (size_t)(colon - line); i++)
        name[i] = (char)tolower((unsigned char)line[i]);
    name[colon - line] = '\0';
    memcpy(text, line + value, end - value);
    text[end - value] = '\0';
    if (!x->fetch->header(x->fetch->context, x->answers - 1, x->status, name, text)) {
        x->stopped = true;
        return 0;
    }
    return bytes;
}

static size_t on_data(char *data, size_t size, size_t count, void *context)
{
    struct exchange *x = context;
    size_t bytes = size * count;

    if (x->fetch->data == NULL || x->fetch->data(x->fetch->context, x->status, (const uint8_t *)data, bytes))
        return bytes;
    x->stopped = true;
    return 0;
}

static size_t on_send(char *out, size_t size, size_t count, void *context)
{
    struct exchange *x = context;
    size_t bytes = NEF_MIN(size * count, x->fetch->body_bytes - x->sent);

    memcpy(out, (const uint8_t *)x->fetch->body + x->sent, bytes);
    x->sent += bytes;
    return bytes;
}

/* curl begins again on a kept connection that turned out to be closed: the body is there to be read again. */
static int on_rewind(void *context, curl_off_t offset, int origin)
{
    struct exchange *x = context;

    if (origin != SEEK_SET || offset < 0 || (size_t)offset > x->fetch->body_bytes)
        return CURL_SEEKFUNC_FAIL;
    x->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* ---- the call ---- */

static struct curl_slist *headers_of(const struct nef_fetch *fetch)
{
    struct curl_slist *list = curl_slist_append(NULL, "Expect:"), *next;
    char *line;

    if (list == NULL)
        return NULL;
    for (uint32_t i = 0; i < fetch->header_count; i++) {
        next = curl_slist_append(list, fetch->headers[i]);
        if (next == NULL)
            goto fail;
        list = next;
    }
    if (fetch->bearer != NULL) {
        if (asprintf(&line, "Authorization: Bearer %s", fetch->bearer) < 0)
            goto fail;
        next = curl_slist_append(list, line);
        nef_wipe(line, strlen(line));
        free(line);
        if (next == NULL)
            goto fail;
        list = next;
    }
    return list;
fail:
    curl_slist_free_all(list);
    return NULL;
}

static CURLcode set_options(CURL *curl, struct exchange *x, struct curl_slist *headers)
{
    const struct nef_fetch *fetch = x->fetch;
    bool secure = strncasecmp(fetch->url, "https:", 6) == 0;
    CURLcode rc = CURLE_OK;

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (rc == CURLE_OK)                                                                                            \
            rc = curl_easy_setopt(curl, option, value);                                                                \
    } while (0)
    SET(CURLOPT_URL, fetch->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
    SET(CURLOPT_FOLLOWLOCATION, fetch->follow ? 1L : 0L);
    SET(CURLOPT_MAXREDIRS, (long)NEF_FETCH_REDIRECTS_MAX);
    if (!fetch->proxies)
        SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, fetch->connect_ms != 0 ? (long)fetch->connect_ms : 10000L);
    SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
    SET(CURLOPT_LOW_SPEED_TIME, fetch->stall_s != 0 ? (long)fetch->stall_s : 30L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, x);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L); /* a proxy's answer to CONNECT is none of these answers */
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, x);
    SET(CURLOPT_BUFFERSIZE, 262144L);
    if (fetch->body != NULL) {
        SET(CURLOPT_UPLOAD, 1L);
        SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)fetch->body_bytes);
        SET(CURLOPT_READFUNCTION, on_send);
        SET(CURLOPT_READDATA, x);
        SET(CURLOPT_SEEKFUNCTION, on_rewind);
        SET(CURLOPT_SEEKDATA, x);
    } else if (fetch->method != NULL && strcmp(fetch->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
    }
    if (fetch->method != NULL)
        SET(CURLOPT_CUSTOMREQUEST, fetch->method);
    if (fetch->ca != NULL)
        SET(CURLOPT_CAINFO, fetch->ca);
#undef SET
    return rc;
}

static nef_err code_of(CURLcode rc)
{
    switch ((int)rc) { /* the enumeration is curl's, and long */
    case CURLE_OK:
        return NEF_OK;
    case CURLE_OUT_OF_MEMORY:
        return NEF_E_NOMEM;
    case CURLE_URL_MALFORMAT:
        return NEF_E_INVALID;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
        return NEF_E_PEER;
    case CURLE_OPERATION_TIMEDOUT:
        return NEF_E_TIMEOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        return NEF_E_DENIED;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_WEIRD_SERVER_REPLY:
        return NEF_E_PROTOCOL;
    default:
        return NEF_E_UNAVAILABLE;
    }
}

/* A query may be a signature: it is left out of what is shown. */
static void describe(const struct nef_fetch *fetch, CURLcode rc, const char *detail, struct nef_fetch_result *out)
{
    const char *why = detail[0] != '\0' ? detail : curl_easy_strerror(rc);
    size_t shown = strcspn(fetch->url, "?#");

    if (rc == CURLE_UNSUPPORTED_PROTOCOL && out->redirects > 0)
        why = "it redirects from https to something else, which isn't followed";
    (void)snprintf(out->error, sizeof(out->error), "%.*s: %s", (int)NEF_MIN(shown, 200), fetch->url, why);
}

nef_err nef_fetch(struct nef_fetcher *fetcher, const struct nef_fetch *fetch, struct nef_fetch_result *out_result)
{
    struct exchange x = {.fetch = fetch};
    struct nef_fetch_result result = {.status = 0};
    char detail[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = headers_of(fetch);
    CURL *curl = fetcher->curl;
    long redirects = 0;
    CURLcode rc;
    nef_err err;

    *out_result = result;
    if (headers == NULL)
        return NEF_E_NOMEM;
    curl_easy_reset(curl); /* keeps connections */
    rc = curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    if (rc == CURLE_OK)
        rc = set_options(curl, &x, headers);
    if (rc == CURLE_OK)
        rc = curl_easy_perform(curl);
    if (curl_easy_getinfo(curl, CURLINFO_REDIRECT_COUNT, &redirects) == CURLE_OK)
        result.redirects = (uint32_t)redirects;
    result.status = x.status;
    err = x.stopped ? NEF_E_CLOSED : code_of(rc);
    if (rc == CURLE_UNSUPPORTED_PROTOCOL && x.answers > 0)
        result.redirects = NEF_MAX(result.redirects, 1u);
    if (err != NEF_OK && err != NEF_E_CLOSED)
        describe(fetch, rc, detail, &result);
    (void)curl_easy_setopt(curl, CURLOPT_HTTPHEADER, NULL);
    (void)curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, NULL);
    curl_slist_free_all(headers);
    *out_result = result;
    return err;
}
