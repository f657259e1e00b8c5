/* `nef chat` with a region: one stream of server-sent events a turn; see chat_region.h. */
#include "cli/chat_region.h"
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "cli/cli.h"
#include "cli/region.h"
#include "crypto/crypto.h"
#include "gateway/sse.h"
#include "io/clock.h"
#include "io/http_client.h"

#define KEY_BYTES  512u
#define CONNECT_MS 5000L

struct nef_chat_region {
    char url[NEF_URL_MAX];
    char key[KEY_BYTES];
    char *ca;
    char model[NEF_MODEL_NAME_MAX + 1];
};

const char *nef_chat_region_model(const struct nef_chat_region *r)
{
    return r->model;
}

void nef_chat_region_close(struct nef_chat_region *r)
{
    if (r == NULL)
        return;
    nef_wipe(r->key, sizeof(r->key));
    free(r->ca);
    free(r);
}

/* ---- which region, which model ---- */

static int from_directory(const char *dir, struct nef_chat_region *r)
{
    struct nef_region *region = calloc(1, sizeof(*region));
    struct nef_region_error error = {{0}};
    int status = 0;

    if (region == NULL)
        return nef_complain("chat", "out of memory");
    if (nef_region_open(dir, region, &error) != NEF_OK) {
        status = nef_complain("chat", "%s", error.text);
    } else {
        nef_plan_url(r->url, region->plan.front.pem[0] != 0, region->plan.front.bind, region->plan.front.ai_port);
        (void)snprintf(r->key, sizeof(r->key), "%s:%s", region->root.access_key, region->root.secret_key);
    }
    nef_wipe(region, sizeof(*region));
    free(region);
    return status;
}

static int from_endpoint(const struct nef_chat_region_options *o, struct nef_chat_region *r)
{
    const char *key = getenv("OPENAI_API_KEY");

    if (key != NULL && nef_text(r->key, sizeof(r->key), "%s", key) != NEF_OK)
        return nef_complain("chat", "the key in OPENAI_API_KEY is too long");
    if (nef_text(r->url, sizeof(r->url), "%s", o->endpoint) != NEF_OK)
        return nef_complain("chat", "--endpoint is too long");
    if (o->ca != NULL && (r->ca = strdup(o->ca)) == NULL)
        return nef_complain("chat", "out of memory");
    return 0;
}

static int choose_model(const char *wanted, struct nef_chat_region *r)
{
    struct nef_http_answer a = {0};
    char url[NEF_URL_MAX + 32];
    const struct nef_http_call call = {.url = url, .bearer = r->key[0] != '\0' ? r->key : NULL, .ca = r->ca};
    json_t *root = NULL;
    const json_t *data;
    int status = 0;

    (void)snprintf(url, sizeof(url), "%s/v1/models", r->url);
    if (nef_http_do(&call, &a) != NEF_OK)
        status = nef_complain("chat", "%s; is the region up?", a.error);
    else if (a.status != 200)
        status = nef_complain("chat", "%s answers %ld%s", r->url, a.status,
                              a.status != 401        ? ""
                              : r->key[0] == '\0' ? ": it wants a key (ACCESSKEY:SECRETKEY) in OPENAI_API_KEY"
                                                    : ": it doesn't know this key");
    if (status == 0)
        root = json_loadb((const char *)a.body.data, a.body.bytes, 0, NULL);
    data = json_object_get(root, "data");
    if (status == 0 && json_array_size(data) == 0)
        status = nef_complain("chat", "the region has no model that this key may use; see: nef help model");
    for (size_t i = 0; i < json_array_size(data) && status == 0; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(data, i), "id"));

        if (id != NULL && strlen(id) < sizeof(r->model) && r->model[0] == '\0' &&
            (wanted == NULL || strcmp(id, wanted) == 0))
            memcpy(r->model, id, strlen(id));
    }
    if (status == 0 && r->model[0] == '\0')
        status = nef_complain("chat", "the region has no model %s", wanted != NULL ? wanted : "");
    json_decref(root);
    nef_buf_free(&a.body);
    return status;
}

int nef_chat_region_open(const struct nef_chat_region_options *options, struct nef_chat_region **out_region)
{
    struct nef_chat_region *r = calloc(1, sizeof(*r));
    int status;

    if (r == NULL)
        return nef_complain("chat", "out of memory");
    status = options->dir != NULL ? from_directory(options->dir, r) : from_endpoint(options, r);
    if (status == 0)
        status = choose_model(options->model, r);
    if (status != 0) {
        nef_chat_region_close(r);
        return status;
    }
    *out_region = r;
    return 0;
}

/* ---- a turn ---- */

struct turn {
    CURL *curl;
    struct nef_sse sse;
    struct nef_buf other; /* an answer that is no stream */
    void (*part)(void *context, bool reasoning, const char *text, size_t bytes);
    void *context;
    const atomic_bool *stop;
    struct nef_chat_region_answer *out;
    bool ended, failed;
};

static void keep_error(struct turn *t, const json_t *error)
{
    const char *message = json_string_value(json_object_get(error, "message"));

    t->failed = true;
    (void)snprintf(t->out->why, sizeof(t->out->why), "%s", message != NULL ? message : "the region failed");
}

static void give(struct turn *t, bool reasoning, const json_t *text)
{
    if (!json_is_string(text) || json_string_length(text) == 0)
        return;
    if (t->out->first_ns == 0)
        t->out->first_ns = nef_now_ns();
    t->part(t->context, reasoning, json_string_value(text), json_string_length(text));
}

static bool on_event(void *context, const char *data, size_t bytes)
{
    struct turn *t = context;
    json_t *event;
    const json_t *choice, *delta, *usage;
    const char *finish;

    if (bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        t->ended = true;
        return true;
    }
    event = json_loadb(data, bytes, JSON_ALLOW_NUL, NULL);
    if (json_object_get(event, "error") != NULL)
        keep_error(t, json_object_get(event, "error"));
    choice = json_array_get(json_object_get(event, "choices"), 0);
    delta = json_object_get(choice, "delta");
    give(t, true, json_object_get(delta, "reasoning_content"));
    give(t, false, json_object_get(delta, "content"));
    finish = json_string_value(json_object_get(choice, "finish_reason"));
    t->out->cut = t->out->cut || (finish != NULL && strcmp(finish, "length") == 0);
    usage = json_object_get(event, "usage");
    if (json_is_object(usage)) {
        t->out->prompt = (uint64_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
        t->out->completion = (uint64_t)json_integer_value(json_object_get(usage, "completion_tokens"));
        t->out->cached = (uint64_t)json_integer_value(
            json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"));
    }
    json_decref(event);
    return !t->failed;
}

static size_t on_data(char *bytes, size_t size, size_t count, void *context)
{
    struct turn *t = context;
    long status = 0;

    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200)
        return nef_sse_take(&t->sse, bytes, size * count, on_event, t) == NEF_OK ? size * count : 0;
    nef_buf_append(&t->other, bytes, size * count);
    return t->other.failed ? 0 : size * count;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct turn *t = context;

    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return atomic_load(t->stop) ? 1 : 0;
}

static nef_err perform(struct turn *t, const struct nef_chat_region *r, const char *body)
{
    char url[NEF_URL_MAX + 32], line[KEY_BYTES + 32], detail[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = NULL, *more = NULL;
    CURLcode rc = CURLE_OK;

    (void)snprintf(url, sizeof(url), "%s/v1/chat/completions", r->url);
    headers = more = curl_slist_append(NULL, "Content-Type: application/json");
    if (headers != NULL && r->key[0] != '\0') {
        (void)snprintf(line, sizeof(line), "Authorization: Bearer %s", r->key);
        more = curl_slist_append(headers, line);
        nef_wipe(line, sizeof(line));
    }
    if (more == NULL) {
        curl_slist_free_all(headers);
        return NEF_E_NOMEM;
    }
#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        if (rc == CURLE_OK)                                                                                            \
            rc = curl_easy_setopt(t->curl, option, value);                                                             \
    } while (0)
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_ERRORBUFFER, detail);
    SET(CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_POSTFIELDS, body);
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, t);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_XFERINFOFUNCTION, on_progress);
    SET(CURLOPT_XFERINFODATA, t);
    if (r->ca != NULL)
        SET(CURLOPT_CAINFO, r->ca);
#undef SET
    if (rc == CURLE_OK)
        rc = curl_easy_perform(t->curl);
    curl_slist_free_all(headers);
    if (rc != CURLE_OK && !t->failed && !atomic_load(t->stop)) {
        t->failed = true;
        (void)snprintf(t->out->why, sizeof(t->out->why), "%s", detail[0] != '\0' ? detail : curl_easy_strerror(rc));
    }
    return NEF_OK;
}

nef_err nef_chat_region_ask(struct nef_chat_region *r, json_t *body,
                            void (*part)(void *context, bool reasoning, const char *text, size_t bytes), void *context,
                            const atomic_bool *stop, struct nef_chat_region_answer *out)
{
    struct turn t = {.part = part, .context = context, .stop = stop, .out = out};
    char *text = NULL;
    nef_err err = NEF_E_NOMEM;

    memset(out, 0, sizeof(*out));
    nef_sse_init(&t.sse, NEF_AI_EVENT_MAX);
    t.curl = curl_easy_init();
    if (t.curl != NULL && json_object_set_new(body, "model", json_string(r->model)) == 0 &&
        json_object_set_new(body, "stream", json_true()) == 0 &&
        json_object_set_new(body, "stream_options", json_pack("{s:b}", "include_usage", 1)) == 0)
        text = json_dumps(body, JSON_COMPACT);
    if (text != NULL)
        err = perform(&t, r, text);
    if (err == NEF_OK && t.other.bytes > 0) {
        json_t *root = json_loadb((const char *)t.other.data, t.other.bytes, 0, NULL);

        keep_error(&t, json_object_get(root, "error"));
        json_decref(root);
    }
    out->stopped = atomic_load(stop);
    if (err == NEF_OK && !out->stopped && !t.ended && !t.failed) {
        t.failed = true;
        (void)snprintf(out->why, sizeof(out->why), "the answer broke off");
    }
    if (err == NEF_OK && t.failed)
        err = NEF_E_UNAVAILABLE;
    if (text != NULL)
        nef_wipe(text, strlen(text));
    free(text);
    if (t.curl != NULL)
        curl_easy_cleanup(t.curl);
    nef_sse_done(&t.sse);
    nef_buf_free(&t.other);
    return err;
}
