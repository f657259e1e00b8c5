/* Client of etcd's JSON gateway; see etcd.h for what each outcome proves.
 *
 * One libcurl handle keeps one connection to each member alive. A call to one member ends in one of
 * three ways, and everything above is built on telling them apart:
 *
 *   UNSENT     the connection or its TLS could not be made and libcurl counts no byte of a request
 *   NO_ANSWER  something may have left, and no whole HTTP answer came
 *   ANSWERED   an HTTP answer with a status, bounded by NEF_ETCD_ANSWER_MAX
 *
 * The gateway writes 64-bit numbers as JSON strings and leaves out what is zero, false or empty.
 * Requests are put together as text: keys and values go in as base64, so nothing in them needs
 * escaping. */
#include "io/etcd.h"
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/limits.h"
#include "io/clock.h"

#define TIMEOUT_MS_DEFAULT  200u
#define TRANSFER_TIMEOUT_MS 2000u /* a transfer answers when the new leader is known */
#define AVOID_NS            (3ull * 1000000000) /* how long a member that failed is tried last */
#define URL_BYTES_MAX       300u

enum reach { UNSENT, NO_ANSWER, ANSWERED };

struct endpoint {
    char *url;
    uint64_t avoid_until_ns; /* 0: good */
};

struct nef_etcd {
    CURL *curl;
    struct curl_slist *headers;
    struct endpoint endpoints[NEF_ETCD_MEMBERS_MAX];
    uint32_t endpoint_count;
    uint32_t timeout_ms;
    struct nef_buf request;
    struct nef_buf answer;
    char error[512];
    char curl_error[CURL_ERROR_SIZE];
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready;

static void start_curl(void)
{
    curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t take_answer(char *data, size_t size, size_t count, void *context)
{
    struct nef_buf *answer = context;

    nef_buf_append(answer, data, size * count);
    return answer->failed ? 0 : size * count; /* 0 makes libcurl give up: the answer is too long */
}

static bool set_up(struct nef_etcd *e, const struct nef_etcd_options *o)
{
    CURL *c = e->curl;
    bool ok;

    e->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (e->headers == NULL)
        return false;
    ok = curl_easy_setopt(c, CURLOPT_HTTPHEADER, e->headers) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_NOPROXY, "*") ==
             CURLE_OK && /* never through a proxy of the host */
         curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_answer) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_WRITEDATA, &e->answer) == CURLE_OK &&
         curl_easy_setopt(c, CURLOPT_ERRORBUFFER, e->curl_error) == CURLE_OK;
    if (ok && o->ca != NULL)
        ok = curl_easy_setopt(c, CURLOPT_CAINFO, o->ca) == CURLE_OK &&
             curl_easy_setopt(c, CURLOPT_CAPATH, NULL) == CURLE_OK && /* this CA and no other */
             curl_easy_setopt(c, CURLOPT_SSLCERT, o->cert) == CURLE_OK &&
             curl_easy_setopt(c, CURLOPT_SSLKEY, o->key) == CURLE_OK;
    return ok;
}

nef_err nef_etcd_new(const struct nef_etcd_options *o, struct nef_etcd **out_etcd)
{
    struct nef_etcd *e;

    NEF_ASSERT((o->ca == NULL) == (o->cert == NULL) && (o->ca == NULL) == (o->key == NULL));
    if (o->endpoint_count == 0 || o->endpoint_count > NEF_ETCD_MEMBERS_MAX)
        return NEF_E_INVALID;
    for (uint32_t i = 0; i < o->endpoint_count; i++) {
        /* clear text would let anyone on the way write the region's configuration */
        if (strncmp(o->endpoints[i], o->ca != NULL ? "https://" : "http://",
                    o->ca != NULL ? 8 : 7) != 0 ||
            strlen(o->endpoints[i]) > URL_BYTES_MAX)
            return NEF_E_INVALID;
    }
    (void)pthread_once(&once, start_curl);
    if (curl_ready != CURLE_OK)
        return NEF_E_SYSTEM;
    e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NEF_E_NOMEM;
    e->answer.max = NEF_ETCD_ANSWER_MAX;
    nef_etcd_set_timeout(e, o->timeout_ms);
    e->curl = curl_easy_init();
    for (; e->endpoint_count < o->endpoint_count; e->endpoint_count++) {
        e->endpoints[e->endpoint_count].url = strdup(o->endpoints[e->endpoint_count]);
        if (e->endpoints[e->endpoint_count].url == NULL)
            break;
    }
    if (e->curl == NULL || e->endpoint_count < o->endpoint_count || !set_up(e, o)) {
        nef_etcd_free(e);
        return NEF_E_NOMEM;
    }
    *out_etcd = e;
    return NEF_OK;
}

void nef_etcd_free(struct nef_etcd *e)
{
    if (e == NULL)
        return;
    curl_easy_cleanup(e->curl);
    curl_slist_free_all(e->headers);
    for (uint32_t i = 0; i < e->endpoint_count; i++)
        free(e->endpoints[i].url);
    nef_buf_free(&e->request);
    nef_buf_free(&e->answer);
    free(e);
}

void nef_etcd_set_timeout(struct nef_etcd *e, uint32_t timeout_ms)
{
    e->timeout_ms = timeout_ms == 0 ? TIMEOUT_MS_DEFAULT : timeout_ms;
}

const char *nef_etcd_error(const struct nef_etcd *e)
{
    return e->error;
}

/* ---- one call to one member ---- */

static void failed(struct nef_etcd *e, uint32_t i, const char *why)
{
    e->endpoints[i].avoid_until_ns = nef_now_ns() + AVOID_NS;
    (void)snprintf(e->error, sizeof(e->error), "%s: %s", e->endpoints[i].url, why);
}

/* Could a byte of the request have left? Only errors of connecting and TLS, and only if libcurl
 * counted no byte written, say no. (A request sent on a kept connection that was dead, and then not
 * sent again because the new connection failed, was counted.) */
static bool surely_unsent(CURL *curl, CURLcode code)
{
    long sent = 1;

    if (curl_easy_getinfo(curl, CURLINFO_REQUEST_SIZE, &sent) != CURLE_OK || sent != 0)
        return false;
    return code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
           code == CURLE_SSL_CONNECT_ERROR || code == CURLE_PEER_FAILED_VERIFICATION ||
           code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE ||
           code == CURLE_OPERATION_TIMEDOUT;
}

/* POST the request built in e->request (post false: GET) to endpoint I. On ANSWERED, e->answer and
 * out_status hold the answer. */
static enum reach call(struct nef_etcd *e, uint32_t i, const char *path, bool post,
                       uint32_t timeout_ms, long *out_status)
{
    char url[URL_BYTES_MAX + 64];
    CURLcode code;
    bool ok;

    (void)snprintf(url, sizeof(url), "%s%s", e->endpoints[i].url, path);
    nef_buf_reset(&e->answer);
    e->curl_error[0] = '\0';
    if (post && nef_buf_end(&e->request) != NEF_OK) {
        failed(e, i, "out of memory");
        return UNSENT;
    }
    ok = curl_easy_setopt(e->curl, CURLOPT_URL, url) == CURLE_OK &&
         curl_easy_setopt(e->curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms) == CURLE_OK &&
         curl_easy_setopt(e->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)timeout_ms) == CURLE_OK;
    if (ok && post)
        ok = curl_easy_setopt(e->curl, CURLOPT_POST, 1L) == CURLE_OK &&
             curl_easy_setopt(e->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)e->request.bytes) ==
                 CURLE_OK &&
             curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, e->request.data) == CURLE_OK;
    else if (ok)
        ok = curl_easy_setopt(e->curl, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    if (!ok) {
        failed(e, i, "out of memory");
        return UNSENT;
    }
    code = curl_easy_perform(e->curl);
    if (code == CURLE_OK)
        code = curl_easy_getinfo(e->curl, CURLINFO_RESPONSE_CODE, out_status);
    if (code == CURLE_OK)
        return ANSWERED;
    failed(e, i, e->curl_error[0] != '\0' ? e->curl_error : curl_easy_strerror(code));
    return surely_unsent(e->curl, code) ? UNSENT : NO_ANSWER;
}

/* The JSON of an answer with status 200, or NULL with the gateway's complaint in e->error. */
static json_t *answer_json(struct nef_etcd *e, uint32_t i, long status)
{
    json_t *root =
        json_loadb((const char *)e->answer.data, e->answer.bytes, JSON_REJECT_DUPLICATES, NULL);
    const char *message;
    char why[256];

    if (status == 200 && json_is_object(root)) {
        e->endpoints[i].avoid_until_ns = 0;
        return root;
    }
    message = json_string_value(json_object_get(root, "error"));
    if (message == NULL)
        message = json_string_value(json_object_get(root, "message"));
    (void)snprintf(why, sizeof(why), "status %ld: %.200s", status,
                   message == NULL ? "an answer that isn't etcd's" : message);
    failed(e, i, why);
    json_decref(root);
    return NULL;
}

/* Endpoint indexes in the order to try: those in good standing as given, then the others as given.
 */
static void order(const struct nef_etcd *e, uint32_t out[NEF_ETCD_MEMBERS_MAX])
{
    uint64_t now = nef_now_ns();
    uint32_t n = 0;

    for (int avoided = 0; avoided < 2; avoided++)
        for (uint32_t i = 0; i < e->endpoint_count; i++)
            if ((e->endpoints[i].avoid_until_ns > now) == (avoided == 1))
                out[n++] = i;
}

/* ---- JSON ---- */

/* A 64-bit number: text, a JSON integer, or absent, which is 0. */
static bool get_u64(const json_t *object, const char *name, uint64_t *out)
{
    const json_t *v = json_object_get(object, name);
    unsigned long long n;
    char *end;

    if (v == NULL) {
        *out = 0;
        return true;
    }
    if (json_is_integer(v) && json_integer_value(v) >= 0) {
        *out = (uint64_t)json_integer_value(v);
        return true;
    }
    if (!json_is_string(v) || json_string_value(v)[0] < '0' || json_string_value(v)[0] > '9')
        return false;
    errno = 0;
    n = strtoull(json_string_value(v), &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *out = n;
    return true;
}

static void put_base64(struct nef_buf *b, const void *data, size_t bytes)
{
    uint8_t *p = nef_buf_grow(b, nef_base64_size(bytes) + 1);

    if (p == NULL)
        return;
    nef_base64(data, bytes, (char *)p);
    b->bytes--; /* the NUL */
}

/* RANGE: an answer {"kvs": [{"value": ..., "mod_revision": ...}]} with at most one entry. */
static bool get_value(const json_t *range, struct nef_buf *out_value, uint64_t *out_revision)
{
    const json_t *kvs = json_object_get(range, "kvs");
    const json_t *kv = json_array_get(kvs, 0);
    const char *text;
    uint64_t revision;
    size_t bytes = 0;
    uint8_t *room;

    if (!json_is_object(range) || (kvs != NULL && json_array_size(kvs) > 1))
        return false;
    nef_buf_reset(out_value);
    if (kv == NULL) {
        *out_revision = 0;
        return true;
    }
    if (!get_u64(kv, "mod_revision", &revision) || revision == 0)
        return false;
    text = json_string_value(json_object_get(kv, "value"));
    if (text == NULL)
        text = ""; /* an empty value is left out */
    room = nef_buf_grow(out_value, strlen(text) / 4 * 3);
    if (room == NULL ||
        nef_unbase64(text, strlen(text), room, strlen(text) / 4 * 3, &bytes) != NEF_OK) {
        nef_buf_reset(out_value);
        return false;
    }
    out_value->bytes = bytes; /* padding made it up to 2 shorter */
    *out_revision = revision;
    return true;
}

/* ---- reading and compare-and-swap ---- */

nef_err nef_etcd_get(struct nef_etcd *e, const char *key, struct nef_buf *out_value,
                     uint64_t *out_revision)
{
    uint32_t at[NEF_ETCD_MEMBERS_MAX];

    NEF_ASSERT(strlen(key) > 0 && strlen(key) <= NEF_ETCD_KEY_MAX);
    order(e, at);
    nef_buf_reset(&e->request);
    nef_buf_text(&e->request, "{\"key\":\"");
    put_base64(&e->request, key, strlen(key));
    nef_buf_text(&e->request, "\"}");
    for (uint32_t n = 0; n < e->endpoint_count; n++) {
        json_t *root;
        long status = 0;
        bool ok;

        if (call(e, at[n], "/v3/kv/range", true, e->timeout_ms, &status) != ANSWERED)
            continue;
        root = answer_json(e, at[n], status);
        if (root == NULL)
            continue;
        /* an answer without header isn't etcd's, and "absent" must not be read out of it */
        ok = json_is_object(json_object_get(root, "header")) &&
             get_value(root, out_value, out_revision);
        json_decref(root);
        if (ok)
            return NEF_OK;
        failed(e, at[n], "an answer that isn't etcd's");
    }
    return NEF_E_UNAVAILABLE;
}

/* What a whole answer of a transaction says. */
static enum nef_etcd_outcome read_txn(const json_t *root, uint64_t expected, const void *value,
                                      size_t bytes, struct nef_buf *out_value,
                                      uint64_t *out_revision)
{
    const json_t *responses = json_object_get(root, "responses");
    const json_t *first = json_array_get(responses, 0);
    const json_t *succeeded = json_object_get(root, "succeeded");
    uint64_t revision;

    if (json_array_size(responses) != 1)
        return NEF_ETCD_UNKNOWN;
    if (json_is_true(succeeded)) {
        if (!json_is_object(json_object_get(first, "response_put")) ||
            !get_u64(json_object_get(root, "header"), "revision", &revision) ||
            revision <= expected)
            return NEF_ETCD_UNKNOWN;
        *out_revision = revision;
        return NEF_ETCD_WON;
    }
    if ((succeeded != NULL && !json_is_false(succeeded)) ||
        !get_value(json_object_get(first, "response_range"), out_value, &revision) ||
        revision == expected)
        return NEF_ETCD_UNKNOWN;
    *out_revision = revision;
    /* our own value: libcurl had to send the request twice, and the first one won */
    return out_value->bytes == bytes && bytes > 0 && memcmp(out_value->data, value, bytes) == 0
               ? NEF_ETCD_WON
               : NEF_ETCD_LOST;
}

static void build_txn(struct nef_buf *b, const char *key, uint64_t expected, const void *value,
                      size_t bytes)
{
    nef_buf_reset(b);
    nef_buf_text(b, "{\"compare\":[{\"key\":\"");
    put_base64(b, key, strlen(key));
    nef_buf_printf(b, "\",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"%llu\"}],",
                   (unsigned long long)expected);
    nef_buf_text(b, "\"success\":[{\"request_put\":{\"key\":\"");
    put_base64(b, key, strlen(key));
    nef_buf_text(b, "\",\"value\":\"");
    put_base64(b, value, bytes);
    nef_buf_text(b, "\"}}],\"failure\":[{\"request_range\":{\"key\":\"");
    put_base64(b, key, strlen(key));
    nef_buf_text(b, "\"}}]}");
}

enum nef_etcd_outcome nef_etcd_cas(struct nef_etcd *e, const char *key, uint64_t expected,
                                   const void *value, size_t bytes, struct nef_buf *out_value,
                                   uint64_t *out_revision)
{
    enum nef_etcd_outcome outcome = NEF_ETCD_UNKNOWN;
    uint32_t at[NEF_ETCD_MEMBERS_MAX];
    struct nef_buf current = {.max = NEF_ETCD_ANSWER_MAX};
    uint64_t revision = 0;

    NEF_ASSERT(strlen(key) > 0 && strlen(key) <= NEF_ETCD_KEY_MAX);
    NEF_ASSERT(bytes <= NEF_ETCD_VALUE_MAX);
    order(e, at);
    build_txn(&e->request, key, expected, value, bytes);
    for (uint32_t n = 0; n < e->endpoint_count; n++) {
        long status = 0;
        enum reach reach = call(e, at[n], "/v3/kv/txn", true, e->timeout_ms, &status);
        json_t *root;

        if (reach == UNSENT)
            continue; /* the only case in which another member may be asked */
        if (reach == NO_ANSWER)
            break;
        root = answer_json(e, at[n], status);
        if (root == NULL)
            break; /* an error of the gateway proves nothing: the proposal may be in the Raft log */
        outcome = read_txn(root, expected, value, bytes, &current, &revision);
        if (outcome == NEF_ETCD_UNKNOWN)
            failed(e, at[n], "an answer that isn't etcd's");
        json_decref(root);
        break;
    }
    if (outcome == NEF_ETCD_LOST && out_value != NULL) {
        nef_buf_reset(out_value);
        nef_buf_append(out_value, current.data, current.bytes);
        if (nef_buf_end(out_value) != NEF_OK)
            outcome = NEF_ETCD_UNKNOWN; /* out of memory: less is known than was said */
    }
    if (outcome != NEF_ETCD_UNKNOWN && out_revision != NULL)
        *out_revision = revision;
    nef_buf_free(&current);
    return outcome;
}

/* ---- members ---- */

nef_err nef_etcd_status(struct nef_etcd *e, uint32_t endpoint, struct nef_etcd_status *out_status)
{
    struct nef_etcd_status s = {0};
    const char *version;
    json_t *root;
    long status = 0;
    bool ok;

    NEF_ASSERT(endpoint < e->endpoint_count);
    nef_buf_reset(&e->request);
    nef_buf_text(&e->request, "{}");
    if (call(e, endpoint, "/v3/maintenance/status", true, e->timeout_ms, &status) != ANSWERED)
        return NEF_E_UNAVAILABLE;
    root = answer_json(e, endpoint, status);
    if (root == NULL)
        return NEF_E_UNAVAILABLE;
    version = json_string_value(json_object_get(root, "version"));
    ok = get_u64(json_object_get(root, "header"), "member_id", &s.member_id) && s.member_id != 0 &&
         get_u64(root, "leader", &s.leader_id) && get_u64(root, "raftTerm", &s.raft_term) &&
         get_u64(root, "raftIndex", &s.raft_index) && get_u64(root, "dbSize", &s.db_bytes) &&
         version != NULL;
    if (ok)
        (void)snprintf(s.version, sizeof(s.version), "%s", version);
    json_decref(root);
    if (!ok) {
        failed(e, endpoint, "an answer that isn't etcd's");
        return NEF_E_UNAVAILABLE;
    }
    *out_status = s;
    return NEF_OK;
}

nef_err nef_etcd_health(struct nef_etcd *e, uint32_t endpoint)
{
    const char *health;
    json_t *root;
    long status = 0;
    bool ok;

    NEF_ASSERT(endpoint < e->endpoint_count);
    if (call(e, endpoint, "/health", false, e->timeout_ms, &status) != ANSWERED)
        return NEF_E_UNAVAILABLE;
    root = answer_json(e, endpoint, status);
    health = json_string_value(json_object_get(root, "health"));
    ok = health != NULL && strcmp(health, "true") == 0;
    if (root != NULL && !ok)
        failed(e, endpoint, "says that it isn't healthy");
    json_decref(root);
    return ok ? NEF_OK : NEF_E_UNAVAILABLE;
}

static bool read_members(const json_t *root, struct nef_etcd_member *out, uint32_t *out_count)
{
    const json_t *list = json_object_get(root, "members");
    size_t count = json_array_size(list);

    if (count == 0 || count > NEF_ETCD_MEMBERS_MAX)
        return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *m = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(m, "name"));
        const char *url = json_string_value(json_array_get(json_object_get(m, "clientURLs"), 0));

        memset(&out[i], 0, sizeof(out[i]));
        if (!get_u64(m, "ID", &out[i].id) || out[i].id == 0)
            return false;
        (void)snprintf(out[i].name, sizeof(out[i].name), "%s", name == NULL ? "" : name);
        (void)snprintf(out[i].client_url, sizeof(out[i].client_url), "%s", url == NULL ? "" : url);
    }
    *out_count = (uint32_t)count;
    return true;
}

nef_err nef_etcd_members(struct nef_etcd *e, struct nef_etcd_member *out_members,
                         uint32_t *out_count)
{
    uint32_t at[NEF_ETCD_MEMBERS_MAX];

    order(e, at);
    nef_buf_reset(&e->request);
    nef_buf_text(&e->request, "{}");
    for (uint32_t n = 0; n < e->endpoint_count; n++) {
        struct nef_etcd_member members[NEF_ETCD_MEMBERS_MAX];
        uint32_t count = 0;
        json_t *root;
        long status = 0;
        bool ok;

        if (call(e, at[n], "/v3/cluster/member/list", true, e->timeout_ms, &status) != ANSWERED)
            continue;
        root = answer_json(e, at[n], status);
        if (root == NULL)
            continue;
        ok = read_members(root, members, &count);
        json_decref(root);
        if (ok) {
            memcpy(out_members, members, count * sizeof(members[0]));
            *out_count = count;
            return NEF_OK;
        }
        failed(e, at[n], "an answer that isn't etcd's");
    }
    return NEF_E_UNAVAILABLE;
}

nef_err nef_etcd_transfer_leader(struct nef_etcd *e, uint64_t member_id)
{
    NEF_ASSERT(member_id != 0);
    for (uint32_t i = 0; i < e->endpoint_count; i++) {
        struct nef_etcd_status s;
        json_t *root;
        long status = 0;

        if (nef_etcd_status(e, i, &s) != NEF_OK)
            continue;
        if (s.leader_id == member_id && s.member_id == member_id)
            return NEF_OK;
        if (s.leader_id != s.member_id)
            continue; /* only the leader can hand over; it is another one */
        nef_buf_reset(&e->request);
        nef_buf_printf(&e->request, "{\"targetID\":\"%llu\"}", (unsigned long long)member_id);
        if (call(e, i, "/v3/maintenance/transfer-leadership", true,
                 NEF_MAX(e->timeout_ms, TRANSFER_TIMEOUT_MS), &status) != ANSWERED)
            continue;
        root = answer_json(e, i, status);
        if (root != NULL) {
            json_decref(root);
            return NEF_OK;
        }
    }
    return NEF_E_UNAVAILABLE;
}
