/* Requests of the AI listener; see gateway.h.
 *
 *   GET  /health                  200, or 404 while nothing new should come (the front then lets
 * streams go on) GET  /v1/models, /v1/models/ID POST /v1/chat/completions, /v1/completions,
 * /v1/embeddings
 *   *    /v1/responses...         responses.h
 *
 * Who touches a call: the listener's thread; a worker while the stage is WORKING; the loop's thread
 * in the run's callbacks, which only touch what `lock` guards. A call waits for nothing in its own
 * thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/trace.h"
#include "gateway/call_internal.h"
#include "io/clock.h"

#define TICK_NS        1000000000ull /* a client that left is noticed after this at the latest */
#define REQUEST_ID_MAX 64u

static const struct call_route routes[] = {
    {"GET", "/health", false, ROUTE_HEALTH, 0},
    {"GET", "/v1/models", false, ROUTE_MODELS, 0},
    {"GET", "/v1/models/", true, ROUTE_MODEL, 0},
    {"POST", "/v1/chat/completions", false, ROUTE_RUN, NEF_AI_CHAT},
    {"POST", "/v1/completions", false, ROUTE_RUN, NEF_AI_COMPLETION},
    {"POST", "/v1/embeddings", false, ROUTE_RUN, NEF_AI_EMBEDDING},
};
static const struct call_route responses_route = {"*", "/v1/responses", true, ROUTE_RESPONSES, 0};

/* ---- references ---- */

void ai_call_ref(struct call *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

void ai_call_unref(struct call *c)
{
    struct nef_gateway *g = c->g;

    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    nef_ai_run_unref(c->run);
    nef_whole_free(c->whole);
    nef_buf_free(&c->body);
    nef_buf_free(&c->document);
    nef_buf_free(&c->pending);
    json_decref(c->error);
    json_decref(c->request);
    if (c->authorization != NULL) {
        nef_wipe(c->authorization, strlen(c->authorization));
        free(c->authorization);
    }
    nef_http_unref(c->http);
    (void)pthread_mutex_destroy(&c->lock);
    nef_wipe(&c->user, sizeof(c->user));
    free(c);
    (void)atomic_fetch_sub(&g->call_objects, 1);
}

/* ---- answering ---- */

static void number_header(struct call *c, const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    nef_http_answer_header(c->http, name, text);
}

static void room_headers(struct call *c, const char *what, const struct nef_limits_room *room)
{
    char name[64], text[32];

    if (room->limit == 0)
        return;
    (void)snprintf(name, sizeof(name), "x-ratelimit-limit-%s", what);
    number_header(c, name, room->limit);
    (void)snprintf(name, sizeof(name), "x-ratelimit-remaining-%s", what);
    number_header(c, name, room->remaining);
    (void)snprintf(name, sizeof(name), "x-ratelimit-reset-%s", what);
    (void)snprintf(text, sizeof(text), "%llums", (unsigned long long)room->reset_ms);
    nef_http_answer_header(c->http, name, text);
}

static void common_headers(struct call *c)
{
    nef_http_answer_header(c->http, "x-request-id", c->request_id);
    room_headers(c, "requests", &c->now.requests);
    room_headers(c, "tokens", &c->now.tokens);
}

/* Takes what is in the buffer. */
static void answer_json(struct call *c, unsigned status, struct nef_buf *document)
{
    size_t bytes = document->bytes;
    void *data = bytes > 0 && !document->failed ? malloc(bytes) : NULL;

    if (data == NULL) {
        nef_http_answer(c->http, 500, NULL, 0);
        c->status = 500;
        return;
    }
    memcpy(data, document->data, bytes);
    c->status = status;
    nef_http_answer(c->http, status, data, bytes);
    nef_http_answer_header(c->http, "Content-Type", "application/json");
    common_headers(c);
}

static void answer_error(struct call *c, unsigned status, const json_t *error, uint32_t retry_after)
{
    struct nef_buf out = {0};
    char *text = error != NULL ? json_dumps(error, JSON_COMPACT) : NULL;

    nef_buf_printf(&out, "{\"error\":%s}",
                   text != NULL ? text
                                : "{\"message\":\"Out of memory.\",\"type\":\"server_error\"}");
    free(text);
    answer_json(c, status, &out);
    nef_buf_free(&out);
    if (status == 401)
        nef_http_answer_header(c->http, "WWW-Authenticate", "Bearer");
    if (retry_after > 0)
        number_header(c, "Retry-After", retry_after);
}

/* Takes error. */
static enum nef_http_next refuse(struct call *c, unsigned status, json_t *error)
{
    answer_error(c, status, error, status == 429 || status == 503 ? 1 : 0);
    json_decref(error);
    return NEF_HTTP_ANSWERED;
}

/* ---- headers ---- */

static void take_request_id(struct call *c)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-";
    const char *given = nef_http_header(c->http, "x-request-id");
    uint8_t random[12];
    size_t at = 4;

    if (given != NULL && given[0] != '\0' && strlen(given) <= REQUEST_ID_MAX &&
        strspn(given, plain) == strlen(given)) {
        (void)snprintf(c->request_id, sizeof(c->request_id), "%s", given);
        return;
    }
    nef_random(random, sizeof(random));
    (void)snprintf(c->request_id, sizeof(c->request_id), "req_");
    for (size_t i = 0; i < sizeof(random); i++, at += 2)
        (void)snprintf(c->request_id + at, 3, "%02x", random[i]);
}

/* ---- the handler ---- */

static void *on_open(void *context, struct nef_http_request *http)
{
    struct nef_gateway *g = context;
    struct call *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return NULL;
    c->g = g;
    c->http = http;
    nef_http_ref(http);
    atomic_init(&c->refs, 1);
    atomic_init(&c->stage, STAGE_READING);
    (void)pthread_mutex_init(&c->lock, NULL);
    c->start_ns = nef_now_ns();
    c->body.max = NEF_INFER_BODY_MAX;
    nef_http_path(c->http, c->path, sizeof(c->path));
    take_request_id(c);
    (void)atomic_fetch_add(&g->call_objects, 1);
    (void)pthread_mutex_lock(&g->calls_lock);
    c->next = g->calls;
    if (c->next != NULL)
        c->next->previous = c;
    g->calls = c;
    g->call_count++;
    (void)pthread_mutex_unlock(&g->calls_lock);
    return c;
}

static enum nef_http_next find_route(struct call *c)
{
    const char *method = nef_http_method(c->http), *allowed = NULL;

    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    if (nef_responses_target(nef_http_target(c->http))) {
        c->route = &responses_route;
        return NEF_HTTP_GO;
    }
    for (size_t i = 0; i < NEF_COUNT(routes) && c->route == NULL; i++) {
        const struct call_route *r = &routes[i];

        if (r->prefix ? strncmp(c->path, r->path, strlen(r->path)) != 0
                      : strcmp(c->path, r->path) != 0)
            continue;
        allowed = r->method;
        if (strcmp(method, r->method) == 0)
            c->route = r;
    }
    if (c->route == NULL && allowed == NULL)
        return refuse(c, 404,
                      nef_ai_error(404, "unknown_url", "", "There is nothing at this URL."));
    if (c->route == NULL) {
        (void)refuse(c, 405, nef_ai_error(405, "method_not_allowed", "", "Not with this method."));
        nef_http_answer_header(c->http, "Allow", allowed);
        return NEF_HTTP_ANSWERED;
    }
    return NEF_HTTP_GO;
}

static enum nef_http_next on_begin(void *context)
{
    struct call *c = context;
    const char *authorization, *length;
    enum nef_http_next next;

    if (nef_http_headers_too_large(c->http))
        return refuse(c, 431, nef_ai_error(431, "", "", "The headers are too large."));
    next = find_route(c);
    if (next != NEF_HTTP_GO || c->route->kind == ROUTE_HEALTH)
        return next;
    if (atomic_load(&c->g->stopping))
        return refuse(c, 503, nef_ai_error(503, "draining", "", "This zone is stopping."));
    authorization = nef_http_header(c->http, "Authorization");
    if (authorization == NULL)
        return refuse(
            c, 401,
            nef_ai_error(401, "invalid_api_key", "",
                         "No API key: send 'Authorization: Bearer ACCESSKEY:SECRETKEY'."));
    c->authorization = strdup(authorization);
    if (c->authorization == NULL)
        return NEF_HTTP_DROP;
    length = nef_http_header(c->http, "Content-Length");
    if (length != NULL && strtoull(length, NULL, 10) > NEF_INFER_BODY_MAX)
        return refuse(c, 413, nef_ai_error(413, "", "", "The body is longer than 8 MiB."));
    return NEF_HTTP_GO;
}

static void uncount_body(struct call *c)
{
    (void)atomic_fetch_sub(&c->g->body_bytes, c->body_counted);
    c->body_counted = 0;
}

static enum nef_http_next on_body(void *context, const uint8_t *data, size_t bytes,
                                  size_t *out_used)
{
    struct call *c = context;

    *out_used = bytes;
    if (nef_now_ns() - c->start_ns > NEF_INFER_BODY_SECONDS_MAX * 1000000000ull)
        return refuse(c, 408, nef_ai_error(408, "", "", "The body took too long."));
    nef_buf_append(&c->body, data, bytes);
    if (c->body.failed)
        return refuse(c, 413, nef_ai_error(413, "", "", "The body is longer than 8 MiB."));
    c->body_counted += bytes;
    if (atomic_fetch_add(&c->g->body_bytes, bytes) + bytes > NEF_INFER_BODIES_MAX)
        return refuse(c, 429,
                      nef_ai_error(429, "queue_full", "",
                                   "Too many requests are being read; try again soon."));
    return NEF_HTTP_GO;
}

static void work(void *context)
{
    struct call *c = context;

    ai_call_work(c);
    uncount_body(c);
    nef_http_wake(c->http);
    ai_call_unref(c);
}

static enum nef_http_next start_work(struct call *c)
{
    atomic_store(&c->stage, STAGE_WORKING);
    ai_call_ref(c);
    if (nef_workers_submit(c->g->workers, work, c) == NEF_OK)
        return NEF_HTTP_WAIT;
    ai_call_unref(c);
    atomic_store(&c->stage, STAGE_REFUSED);
    return refuse(
        c, 429,
        nef_ai_error(429, "queue_full", "", "Too many requests are waiting; try again soon."));
}

/* The front looks at this: is this zone one to send new requests to. Streams that run don't depend
 * on it. */
static enum nef_http_next health(struct call *c)
{
    struct nef_runtime_stats *stats = calloc(1, sizeof(*stats)); /* some kilobytes */
    struct nef_buf out = {0};
    bool ready;

    if (stats == NULL)
        return NEF_HTTP_DROP;
    nef_runtime_stats(c->g->o.rt, stats);
    ready = stats->ready && !atomic_load(&c->g->draining);
    free(stats);
    nef_buf_text(&out, ready ? "{\"status\":\"ok\"}" : "{\"status\":\"draining\"}");
    answer_json(c, ready ? 200 : 404, &out);
    nef_buf_free(&out);
    return NEF_HTTP_ANSWERED;
}

/* ---- streams ---- */

static int64_t on_read(void *context, uint8_t *out, size_t max)
{
    struct call *c = context;
    int64_t result = 0;

    (void)pthread_mutex_lock(&c->lock);
    if (c->pending.failed) {
        result = -1;
    } else if (c->pending_at < c->pending.bytes) {
        size_t bytes = NEF_MIN(c->pending.bytes - c->pending_at, max);

        memcpy(out, c->pending.data + c->pending_at, bytes);
        c->pending_at += bytes;
        if (c->pending_at == c->pending.bytes) {
            nef_buf_reset(&c->pending);
            c->pending_at = 0;
            if (c->paused)
                nef_ai_run_pause(c->run, false);
            c->paused = false;
        }
        result = (int64_t)bytes;
    } else if (c->ended) {
        result = NEF_HTTP_STREAM_END;
    }
    (void)pthread_mutex_unlock(&c->lock);
    if (result == 0 && nef_http_gone(c->http))
        return -1;
    return result;
}

static void on_read_done(void *context)
{
    ai_call_unref(context);
}

static enum nef_http_next answer_stream(struct call *c)
{
    const struct nef_http_stream stream = {on_read, on_read_done, c};

    c->status = 200;
    ai_call_ref(c);
    nef_http_answer_stream(c->http, 200, NEF_HTTP_LENGTH_UNKNOWN, &stream);
    nef_http_answer_header(c->http, "Content-Type", "text/event-stream; charset=utf-8");
    nef_http_answer_header(c->http, "Cache-Control", "no-store");
    nef_http_answer_header(c->http, "X-Accel-Buffering", "no");
    common_headers(c);
    return NEF_HTTP_ANSWERED;
}

static enum nef_http_next answer_whole(struct call *c)
{
    json_t *root = c->whole != NULL ? nef_whole_end(c->whole) : json_incref(c->request);
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;

    json_decref(root);
    if (text == NULL)
        return refuse(c, 500, nef_ai_error(500, "", "", "Out of memory."));
    nef_buf_reset(&c->document);
    nef_buf_text(&c->document, text);
    nef_wipe(text, strlen(text));
    free(text);
    answer_json(c, 200, &c->document);
    return NEF_HTTP_ANSWERED;
}

static enum nef_http_next running(struct call *c)
{
    bool ready, failed;

    (void)pthread_mutex_lock(&c->lock);
    ready = c->ended || (c->stream && (c->pending.bytes > 0 || c->pending.failed));
    failed = c->ended && c->end_status != 200 && !c->given;
    (void)pthread_mutex_unlock(&c->lock);
    if (!ready)
        return nef_http_gone(c->http) ? NEF_HTTP_DROP : NEF_HTTP_WAIT;
    if (failed || (!c->stream && c->end_status != 200)) {
        answer_error(c, c->end_status, c->error, c->retry_after);
        return NEF_HTTP_ANSWERED;
    }
    return c->stream ? answer_stream(c) : answer_whole(c);
}

static enum nef_http_next on_end(void *context)
{
    struct call *c = context;

    if (c->route->kind == ROUTE_HEALTH)
        return health(c);
    switch ((enum stage)atomic_load_explicit(&c->stage, memory_order_acquire)) {
    case STAGE_READING:
        return start_work(c);
    case STAGE_WORKING:
        return nef_http_gone(c->http) ? NEF_HTTP_DROP : NEF_HTTP_WAIT;
    case STAGE_LIMITS:
        return ai_call_take(c);
    case STAGE_REFUSED:
        answer_error(c, c->end_status, c->error, c->retry_after);
        return NEF_HTTP_ANSWERED;
    case STAGE_DOCUMENT:
        answer_json(c, 200, &c->document);
        return NEF_HTTP_ANSWERED;
    case STAGE_RUNNING:
        return running(c);
    case STAGE_RESPONSES:
        return nef_responses_next(c->responses);
    }
    return NEF_HTTP_DROP;
}

static void trace_end(struct call *c, bool complete)
{
    struct nef_ai_usage usage;
    uint64_t continuations, first_ns;

    if (c->route != NULL && c->route->kind == ROUTE_HEALTH)
        return;
    (void)pthread_mutex_lock(&c->lock); /* its client left: the run may be ending now */
    usage = c->usage;
    continuations = c->continuations;
    first_ns = c->first_ns;
    (void)pthread_mutex_unlock(&c->lock);
    nef_trace(NEF_TRACE_INFO, "ai_request", "s:id", c->request_id, "s:url",
              c->route == NULL ? "" : c->route->path, "u:status", (uint64_t)c->status, "s:end",
              complete ? "complete" : "client left", "u:prompt", usage.prompt, "u:cached",
              usage.cached, "u:completion", usage.completion, "u:continuations", continuations,
              "u:first_us", first_ns == 0 ? 0 : (first_ns - c->start_ns) / 1000, "u:us",
              (nef_now_ns() - c->start_ns) / 1000, NULL);
}

static void on_closed(void *context, bool complete)
{
    struct call *c = context;
    struct nef_gateway *g = c->g;
    int stage;

    (void)pthread_mutex_lock(&c->lock);
    c->closed = true;
    stage = atomic_load(&c->stage);
    (void)pthread_mutex_unlock(&c->lock);
    if (stage == STAGE_READING)
        uncount_body(c);
    if (stage == STAGE_LIMITS)
        nef_limits_settle(g->limits, &c->hold, 0);
    if (stage == STAGE_RUNNING)
        nef_ai_run_cancel(c->run);
    if (stage == STAGE_RESPONSES)
        nef_responses_closed(c->responses);
    trace_end(c, complete);
    (void)pthread_mutex_lock(&g->calls_lock);
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        g->calls = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    g->call_count--;
    (void)pthread_mutex_unlock(&g->calls_lock);
    ai_call_unref(c);
}

const struct nef_http_handler gateway_handler = {on_open, on_begin,  on_body,
                                                 on_end,  on_closed, NULL};

/* A parked connection isn't watched by anybody: each call looks for itself whether its client is
 * still there. */
void calls_tick(struct nef_gateway *g, uint64_t now)
{
    if (now - g->calls_woken_ns < TICK_NS)
        return;
    g->calls_woken_ns = now;
    (void)pthread_mutex_lock(&g->calls_lock);
    for (struct call *c = g->calls; c != NULL; c = c->next)
        if (atomic_load(&c->stage) != STAGE_READING)
            nef_http_wake(c->http);
    (void)pthread_mutex_unlock(&g->calls_lock);
}

uint32_t calls_active(struct nef_gateway *g)
{
    uint32_t count;

    (void)pthread_mutex_lock(&g->calls_lock);
    count = g->call_count;
    (void)pthread_mutex_unlock(&g->calls_lock);
    return count;
}
