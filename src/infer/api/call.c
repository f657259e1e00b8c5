/* A request's life in the listener's threads: route, body, waiting for the worker and the engine,
 * answer, end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "infer/api/api_internal.h"
#include "io/clock.h"

#define REQUEST_ID_MAX 64u

static void show_metrics(struct call *c);

static const struct route routes[] = {
    {"GET", "/health", false, false, 0, nef_api_health},
    {"GET", "/metrics", false, false, 0, show_metrics},
    {"GET", "/v1/models", false, false, 0, nef_api_models},
    {"GET", "/v1/models/", true, false, 0, nef_api_model},
    {"POST", "/v1/chat/completions", false, true, NEF_API_CHAT, NULL},
    {"POST", "/v1/completions", false, true, NEF_API_COMPLETION, NULL},
    {"POST", "/v1/embeddings", false, true, NEF_API_EMBEDDING, NULL},
    {"POST", "/tokenize", false, false, NEF_API_TOKENIZE, NULL},
    {"POST", "/detokenize", false, false, NEF_API_DETOKENIZE, NULL},
};

_Static_assert(NEF_COUNT(routes) < NEF_API_METRICS_URLS, "the last number is for all others");

/* ---- references ---- */

void nef_api_call_ref(struct call *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

static void count_body(struct call *c, uint64_t bytes)
{
    c->body_counted += bytes;
    (void)atomic_fetch_add(&c->api->body_bytes, bytes);
}

static void uncount_body(struct call *c)
{
    (void)atomic_fetch_sub(&c->api->body_bytes, c->body_counted);
    c->body_counted = 0;
}

void nef_api_call_unref(struct call *c)
{
    struct nef_api *api = c->api;

    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    nef_api_runs_free(c);
    uncount_body(c);
    nef_buf_free(&c->body);
    nef_buf_free(&c->document);
    nef_buf_free(&c->pending);
    (void)pthread_mutex_destroy(&c->lock);
    nef_http_unref(c->http);
    free(c);
    (void)atomic_fetch_sub(&api->calls, 1);
}

void nef_api_call_cancel(struct call *c)
{
    (void)pthread_mutex_lock(&c->lock);
    c->cancelled = true;
    for (uint32_t i = 0; i < c->run_count; i++)
        if (c->runs[i].generation != NULL)
            nef_generation_cancel(c->runs[i].generation);
    (void)pthread_mutex_unlock(&c->lock);
}

/* ---- answers ---- */

void nef_api_answer_json(struct call *c, unsigned status, struct nef_buf *document)
{
    if (document->failed) {
        struct nef_api_error error;

        nef_buf_free(document);
        (void)nef_api_fail(&error, 500, "", "", "The answer is too large.");
        status = 500;
        nef_write_error(&error, document);
    }
    c->status = status;
    nef_http_answer(c->http, status, document->data, document->bytes);
    *document = (struct nef_buf){0};
    nef_http_answer_header(c->http, "Content-Type", "application/json; charset=utf-8");
    nef_http_answer_header(c->http, "Cache-Control", "no-store");
    nef_http_answer_header(c->http, "x-request-id", c->request_id);
}

void nef_api_answer_error(struct call *c, const struct nef_api_error *e)
{
    struct nef_buf out = {0};

    nef_write_error(e, &out);
    nef_api_answer_json(c, e->status, &out);
    if (e->status == 429 || e->status == 503) {
        char seconds[16];

        (void)snprintf(seconds, sizeof(seconds), "%u",
                       e->status == 429 ? nef_api_retry_after_s(c->api) : 1);
        nef_http_answer_header(c->http, "Retry-After", seconds);
    }
    if (e->status == 503)
        nef_http_answer_close(c->http);
}

static enum nef_http_next refuse(struct call *c, unsigned status, const char *code,
                                 const char *message)
{
    struct nef_api_error error;

    (void)nef_api_fail(&error, status, code, "", "%s", message);
    nef_api_answer_error(c, &error);
    return NEF_HTTP_ANSWERED;
}

/* ---- what the headers say ---- */

void nef_api_random_hex(char out[NEF_API_RANDOM_HEX])
{
    uint8_t random[(NEF_API_RANDOM_HEX - 1) / 2];

    nef_random(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(out + 2 * i, 3, "%02x", random[i]);
}

/* The client's own id, if it is a plain one (it goes into a trace), or a new one. */
static void take_request_id(struct call *c)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-";
    const char *given = nef_http_header(c->http, "x-request-id");
    char random[NEF_API_RANDOM_HEX];

    if (given != NULL && given[0] != '\0' && strlen(given) <= REQUEST_ID_MAX &&
        strspn(given, plain) == strlen(given)) {
        (void)snprintf(c->request_id, sizeof(c->request_id), "%s", given);
        return;
    }
    nef_api_random_hex(random);
    (void)snprintf(c->request_id, sizeof(c->request_id), "req_%s", random);
}

static uint64_t announced(const struct call *c)
{
    const char *length = nef_http_header(c->http, "Content-Length");

    return length == NULL ? 0 : strtoull(length, NULL, 10);
}

/* ---- the handler ---- */

static void *on_open(void *context, struct nef_http_request *http)
{
    struct nef_api *api = context;
    struct call *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return NULL;
    c->api = api;
    c->http = http;
    nef_http_ref(http);
    atomic_init(&c->refs, 1);
    atomic_init(&c->stage, STAGE_READING);
    (void)pthread_mutex_init(&c->lock, NULL);
    c->start_ns = nef_now_ns();
    c->body.max = NEF_INFER_BODY_MAX;
    nef_http_path(c->http, c->path, sizeof(c->path));
    take_request_id(c);
    (void)atomic_fetch_add(&api->calls, 1);
    (void)pthread_mutex_lock(&api->list_lock);
    c->next = api->first;
    if (c->next != NULL)
        c->next->previous = c;
    api->first = c;
    api->active++;
    (void)pthread_mutex_unlock(&api->list_lock);
    return c;
}

static enum nef_http_next on_begin(void *context)
{
    struct call *c = context;
    const char *method = nef_http_method(c->http), *allowed = NULL;
    struct nef_api_error error;

    if (nef_http_headers_too_large(c->http))
        return refuse(c, 431, "", "The headers are too large.");
    if (strcmp(method, "HEAD") == 0)
        method = "GET"; /* the library sends no body then */
    for (size_t i = 0; i < NEF_COUNT(routes) && c->route == NULL; i++) {
        const struct route *r = &routes[i];

        if (r->prefix ? strncmp(c->path, r->path, strlen(r->path)) != 0
                      : strcmp(c->path, r->path) != 0)
            continue;
        allowed = r->method;
        if (strcmp(method, r->method) == 0)
            c->route = r;
    }
    if (c->route == NULL && allowed == NULL)
        return refuse(c, 404, "unknown_url", "There is nothing at this URL.");
    if (c->route == NULL) {
        (void)refuse(c, 405, "method_not_allowed", "Not with this method.");
        nef_http_answer_header(c->http, "Allow", allowed);
        return NEF_HTTP_ANSWERED;
    }
    if (!atomic_load(&c->api->ready))
        return refuse(c, 503, NEF_API_LOADING, "Loading model");
    if (c->route->answer != NULL)
        return NEF_HTTP_GO;
    if (atomic_load(&c->api->draining))
        return refuse(c, 503, "draining", "The server is stopping.");
    if (announced(c) > NEF_INFER_BODY_MAX)
        return refuse(c, 413, "", "The body is longer than 8 MiB.");
    if (!nef_api_tenant(c, &error)) {
        nef_api_answer_error(c, &error);
        return NEF_HTTP_ANSWERED;
    }
    return NEF_HTTP_GO;
}

static enum nef_http_next on_body(void *context, const uint8_t *data, size_t bytes,
                                  size_t *out_used)
{
    struct call *c = context;

    *out_used = bytes;
    if (nef_now_ns() - c->start_ns > NEF_INFER_BODY_SECONDS_MAX * 1000000000ull)
        return refuse(c, 408, "", "The body took too long.");
    nef_buf_append(&c->body, data, bytes);
    if (c->body.failed)
        return refuse(c, 413, "", "The body is longer than 8 MiB.");
    count_body(c, bytes);
    if (atomic_load(&c->api->body_bytes) > NEF_INFER_BODIES_MAX)
        return refuse(c, 429, "queue_full", "Too many requests are being read; try again soon.");
    return NEF_HTTP_GO;
}

static void work(void *context)
{
    struct call *c = context;
    bool cancelled;

    c->work(c);
    uncount_body(c);
    atomic_store(&c->stage, STAGE_READY);
    /* on_closed sets `cancelled`, then looks at the stage: one of the two sees the other. */
    (void)pthread_mutex_lock(&c->lock);
    cancelled = c->cancelled;
    (void)pthread_mutex_unlock(&c->lock);
    if (cancelled)
        nef_api_call_cancel(c);
    nef_http_wake(c->http);
    nef_api_call_unref(c);
}

bool nef_api_call_work(struct call *c, void (*fn)(struct call *c))
{
    const int before = atomic_load(&c->stage);

    c->work = fn;
    atomic_store(&c->stage, STAGE_WORKING);
    nef_api_call_ref(c);
    if (nef_workers_submit(c->api->workers, work, c) == NEF_OK)
        return true;
    atomic_store(&c->stage, before);
    nef_api_call_unref(c);
    return false;
}

static enum nef_http_next on_end(void *context)
{
    struct call *c = context;

    if (c->route->answer != NULL) {
        c->route->answer(c);
        return NEF_HTTP_ANSWERED;
    }
    switch ((enum stage)atomic_load_explicit(&c->stage, memory_order_acquire)) {
    case STAGE_READING:
        if (nef_api_call_work(c, nef_api_work))
            return NEF_HTTP_WAIT;
        return refuse(c, 429, "queue_full", "Too many requests are waiting; try again soon.");
    case STAGE_WORKING:
        return nef_http_gone(c->http) ? NEF_HTTP_DROP : NEF_HTTP_WAIT;
    case STAGE_READY:
        break;
    }
    if (c->refused) {
        nef_api_answer_error(c, &c->error);
    } else if (!c->wanted) {
        nef_api_answer_json(c, 200, &c->document);
    } else if (c->route->kind == NEF_API_EMBEDDING) {
        return nef_api_embed_goes_on(c);
    } else if (c->write.stream) {
        nef_api_stream_start(c);
    } else if (atomic_load_explicit(&c->running, memory_order_acquire) > 0) {
        return nef_http_gone(c->http) ? NEF_HTTP_DROP : NEF_HTTP_WAIT;
    } else {
        nef_api_whole(c);
    }
    return NEF_HTTP_ANSWERED;
}

/* How a request went, without a word of what it said. */
static void trace_end(struct call *c, bool complete)
{
    const bool ready = atomic_load_explicit(&c->stage, memory_order_acquire) == STAGE_READY;
    struct nef_api_request_end end = {
        .url = c->route == NULL ? NEF_API_METRICS_URLS - 1 : (uint32_t)(c->route - routes),
        .status = c->status,
        .complete = complete,
        .failed = c->stream_failed,
        .duration_us = (nef_now_ns() - c->start_ns) / 1000,
    };
    struct nef_usage usage = {0};

    if (c->route != NULL &&
        (c->route->answer == nef_api_health || c->route->answer == show_metrics))
        return; /* asked all the time */
    if (ready && c->runs != NULL)
        usage = nef_api_usage(c);
    if (ready && c->wanted && c->route->kind != NEF_API_EMBEDDING && c->runs[0].choice != NULL) {
        struct nef_answer *a = &c->runs[0].answer;

        (void)pthread_mutex_lock(&a->lock);
        if (a->first_token_ns != 0) {
            end.first_us = (a->first_token_ns - c->start_ns) / 1000;
            end.tokens_us = (a->last_token_ns - a->first_token_ns) / 1000;
            end.tokens = a->put - a->prompt > 0 ? a->put - a->prompt - 1 : 0;
        }
        (void)pthread_mutex_unlock(&a->lock);
    }
    nef_api_metrics_end(&c->api->metrics, &end);
    nef_trace(NEF_TRACE_INFO, "request", "s:id", c->request_id, "s:url",
              c->route == NULL ? "" : c->route->path, "u:status", (uint64_t)c->status, "s:end",
              c->stream_failed ? "failed"
              : complete       ? "complete"
                               : "client left",
              "u:prompt", usage.prompt, "u:cached", usage.cached, "u:completion", usage.completion,
              "u:first_us", end.first_us, "u:us", end.duration_us, NULL);
}

static void on_closed(void *context, bool complete)
{
    struct call *c = context;
    struct nef_api *api = c->api;

    /* The worker may still be at it; it sees `cancelled` when it has submitted. Runs exist once it
     * is ready. */
    (void)pthread_mutex_lock(&c->lock);
    c->cancelled = true;
    (void)pthread_mutex_unlock(&c->lock);
    if (atomic_load(&c->stage) == STAGE_READY)
        nef_api_call_cancel(c);
    trace_end(c, complete);
    (void)pthread_mutex_lock(&api->list_lock);
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        api->first = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    api->active--;
    (void)pthread_mutex_unlock(&api->list_lock);
    nef_api_call_unref(c);
}

/* ---- /metrics ---- */

static const char *url_of(uint32_t number)
{
    return number < NEF_COUNT(routes) ? routes[number].path : NULL;
}

static void show_metrics(struct call *c)
{
    struct nef_buf out = {0};

    nef_api_metrics_write(c->api, url_of, &out);
    if (out.failed) {
        nef_buf_free(&out);
        (void)refuse(c, 500, "", "Out of memory.");
        return;
    }
    c->status = 200;
    nef_http_answer(c->http, 200, out.data, out.bytes);
    nef_http_answer_header(c->http, "Content-Type",
                           "application/openmetrics-text; version=1.0.0; charset=utf-8");
    nef_http_answer_header(c->http, "Cache-Control", "no-store");
    nef_http_answer_header(c->http, "x-request-id", c->request_id);
}

const struct nef_http_handler nef_api_handler = {on_open, on_begin,  on_body,
                                                 on_end,  on_closed, NULL};
