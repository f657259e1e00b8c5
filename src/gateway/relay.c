/* The relay's listener: how the other zones' gateways reach this zone's backends. Mutual TLS with the region's CA; only
 * a zone of the configuration is let in, and it has already asked who the user is and what it may do.
 *
 *   GET  /relay/state        {"zone", "backends": [{"name", "kind", "models", "slots", "in_flight", "healthy",
 * "token_ids"}]} POST /v1/...             to the backend that x-nef-backend names, headers and bytes as they are
 *
 * Nothing goes on elsewhere here: when the backend is lost the stream is cut, and the gateway that has the client
 * decides. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/trace.h"
#include "gateway/gateway_internal.h"
#include "io/clock.h"

#define BODY_MAX        ((size_t)64 << 20) /* a client's body, and the answer so far */
#define CONNECTIONS_MAX 16384u
#define THREADS         2u
#define IDLE_TIMEOUT_S  120u
#define TICK_NS         1000000000ull
#define HEADER_MAX      300u

enum relay_stage { RELAY_READING, RELAY_POSTED, RELAY_ANSWERED };

struct relayed {
    struct nef_gateway *g;
    struct nef_http_request *http;
    struct relayed *previous, *next; /* loop */
    bool listed;
    atomic_uint refs;
    atomic_int stage;
    struct nef_post post;
    atomic_bool wants_end; /* the connection was closed */
    atomic_bool resume;
    bool is_state;
    struct nef_buf body;
    char path[64];
    char backend_name[NEF_BACKEND_NAME_MAX], headers[4][HEADER_MAX];
    uint32_t header_count;
    /* loop */
    struct backend *backend;
    struct nef_loop_call *call;
    bool begun;
    /* under lock */
    pthread_mutex_t lock;
    bool known, ended, good, paused;
    unsigned status;
    char type[96];
    struct nef_buf pending;
    size_t pending_at;
};

static void relayed_unref(struct relayed *r)
{
    struct nef_gateway *g = r->g;

    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    nef_buf_free(&r->body);
    nef_buf_free(&r->pending);
    nef_http_unref(r->http);
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
    (void)atomic_fetch_sub(&g->call_objects, 1);
}

static void post(struct relayed *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    if (!nef_loop_post(r->g->loop, &r->post))
        relayed_unref(r);
}

/* ---- in the loop ---- */

static void set_end(struct relayed *r, bool good, unsigned status)
{
    (void)pthread_mutex_lock(&r->lock);
    if (!r->ended) {
        r->ended = true;
        r->good = good;
        if (!r->known) {
            r->known = true;
            r->status = status;
        }
    }
    (void)pthread_mutex_unlock(&r->lock);
    nef_http_wake(r->http);
}

static void let_go(struct relayed *r)
{
    if (r->call != NULL)
        nef_loop_cancel(r->call);
    r->call = NULL;
    if (r->backend != NULL)
        r->backend->in_flight--;
    r->backend = NULL;
}

static void on_head(void *context, unsigned status, const char *type)
{
    struct relayed *r = context;

    (void)pthread_mutex_lock(&r->lock);
    r->known = true;
    r->status = status;
    (void)snprintf(r->type, sizeof(r->type), "%s", type);
    (void)pthread_mutex_unlock(&r->lock);
    nef_http_wake(r->http);
}

static bool on_data(void *context, const void *bytes, size_t count)
{
    struct relayed *r = context;
    bool wake, failed, pause = false;

    (void)pthread_mutex_lock(&r->lock);
    wake = r->pending.bytes == 0;
    nef_buf_append(&r->pending, bytes, count);
    failed = r->pending.failed;
    if (r->pending.bytes - r->pending_at > NEF_AI_PENDING_MAX && !r->paused)
        pause = r->paused = true;
    (void)pthread_mutex_unlock(&r->lock);
    r->backend->progress_ns = nef_now_ns();
    if (pause)
        nef_loop_pause(r->call, true);
    if (wake)
        nef_http_wake(r->http);
    return !failed;
}

static void on_end(void *context, nef_err err)
{
    struct relayed *r = context;
    struct backend *b = r->backend;

    r->call = NULL;
    if (err == NEF_E_PEER || (err == NEF_E_UNAVAILABLE && b->kind == BACKEND_ENGINE))
        backend_suspect(b, nef_now_ns());
    let_go(r);
    set_end(r, err == NEF_OK, 502);
}

static void put_state(struct relayed *r)
{
    struct nef_gateway *g = r->g;
    json_t *list = json_array(), *root = NULL;
    char *text = NULL;

    for (const struct backend *b = g->backends; b != NULL && list != NULL; b = b->next) {
        json_t *models = json_array();

        for (uint32_t i = 0; i < b->model_count && models != NULL; i++)
            (void)json_array_append_new(models, json_string(b->models[i]));
        if (b->kind != BACKEND_REMOTE && !b->gone)
            (void)json_array_append_new(list,
                                        json_pack("{s:s, s:s, s:O, s:i, s:i, s:b, s:b}", "name", b->name, "kind",
                                                  b->kind == BACKEND_ENGINE ? "engine" : "external", "models", models,
                                                  "slots", (int)b->slots, "in_flight", (int)b->in_flight, "healthy",
                                                  (int)b->healthy, "token_ids", (int)b->speaks.token_ids));
        json_decref(models);
    }
    root = json_pack("{s:s, s:o}", "zone", g->zone, "backends", list);
    text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    (void)pthread_mutex_lock(&r->lock);
    if (text != NULL)
        nef_buf_text(&r->pending, text);
    (void)snprintf(r->type, sizeof(r->type), "application/json");
    (void)pthread_mutex_unlock(&r->lock);
    free(text);
    json_decref(root);
    on_head(r, text != NULL ? 200 : 500, "application/json");
    set_end(r, true, 200);
}

static void relay_begin(struct relayed *r)
{
    struct nef_gateway *g = r->g;
    const char *headers[5];
    struct backend *b;
    const struct nef_loop_call_options o = {
        .headers = headers,
        .body = r->body.data,
        .body_bytes = r->body.bytes,
        .head = on_head,
        .data = on_data,
        .end = on_end,
        .context = r,
    };

    r->begun = true;
    if (r->is_state) {
        put_state(r);
        return;
    }
    for (b = g->backends; b != NULL; b = b->next)
        if (b->kind != BACKEND_REMOTE && !b->gone && strcmp(b->name, r->backend_name) == 0)
            break;
    if (b == NULL || !b->healthy || atomic_load(&g->draining)) {
        set_end(r, true, 503);
        return;
    }
    for (uint32_t i = 0; i < r->header_count; i++)
        headers[i] = r->headers[i];
    headers[r->header_count] = NULL;
    if (backend_call(b, r->path, &o, &r->call) != NEF_OK) {
        set_end(r, true, 503);
        return;
    }
    nef_buf_free(&r->body);
    r->backend = b;
    b->in_flight++;
    (void)atomic_fetch_add_explicit(&b->requests, 1, memory_order_relaxed);
    r->next = g->relayed;
    if (r->next != NULL)
        r->next->previous = r;
    g->relayed = r;
    r->listed = true;
    (void)atomic_fetch_add(&g->relayed_count, 1);
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed); /* the list's */
}

static void unlist(struct relayed *r)
{
    if (!r->listed)
        return;
    r->listed = false;
    (void)atomic_fetch_sub(&r->g->relayed_count, 1);
    if (r->previous != NULL)
        r->previous->next = r->next;
    else
        r->g->relayed = r->next;
    if (r->next != NULL)
        r->next->previous = r->previous;
    relayed_unref(r);
}

static void on_post(struct nef_post *p)
{
    struct relayed *r = (struct relayed *)(void *)((char *)p - offsetof(struct relayed, post));

    if (atomic_load(&r->wants_end)) {
        let_go(r);
        unlist(r);
    } else if (!r->begun) {
        relay_begin(r);
    } else if (atomic_exchange(&r->resume, false) && r->call != NULL) {
        nef_loop_pause(r->call, false);
    }
    relayed_unref(r);
}

void relay_tick(struct nef_gateway *g, uint64_t now)
{
    static _Thread_local uint64_t last;

    if (now - last < TICK_NS)
        return;
    last = now;
    for (struct relayed *r = g->relayed; r != NULL; r = r->next)
        nef_http_wake(r->http); /* a parked connection looks whether its gateway is still there */
}

void relay_cancel_all(struct nef_gateway *g)
{
    for (struct relayed *r = g->relayed; r != NULL; r = r->next) {
        let_go(r);
        set_end(r, false, 503);
    }
}

/* ---- the listener ---- */

static void *on_open(void *context, struct nef_http_request *http)
{
    struct nef_gateway *g = context;
    struct relayed *r;
    char zone[NEF_ZONE_NAME_MAX + 1];
    bool known = false;

    if (nef_http_peer_zone(http, zone) != NEF_OK)
        return NULL;
    for (uint32_t i = 0; i < g->peer_count; i++)
        known = known || strcmp(g->peers[i].zone, zone) == 0;
    if (!known || atomic_load(&g->stopping))
        return NULL;
    r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    r->g = g;
    r->http = http;
    nef_http_ref(http);
    atomic_init(&r->refs, 1);
    r->body.max = BODY_MAX;
    r->post.run = on_post;
    (void)pthread_mutex_init(&r->lock, NULL);
    (void)atomic_fetch_add(&g->call_objects, 1);
    return r;
}

static void keep_header(struct relayed *r, const char *name)
{
    const char *value = nef_http_header(r->http, name);

    if (value == NULL || strlen(name) + strlen(value) + 3 > HEADER_MAX)
        return;
    (void)snprintf(r->headers[r->header_count++], HEADER_MAX, "%s: %s", name, value);
}

static enum nef_http_next on_begin(void *context)
{
    static const char *const paths[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"};
    struct relayed *r = context;
    const char *target = nef_http_target(r->http), *backend = nef_http_header(r->http, "x-nef-backend");

    if (strcmp(nef_http_method(r->http), "GET") == 0 && strcmp(target, "/relay/state") == 0) {
        r->is_state = true;
        return NEF_HTTP_GO;
    }
    for (size_t i = 0; i < NEF_COUNT(paths); i++)
        if (strcmp(target, paths[i]) == 0)
            (void)snprintf(r->path, sizeof(r->path), "%s", paths[i]);
    if (r->path[0] == '\0' || backend == NULL || strlen(backend) >= sizeof(r->backend_name) ||
        strcmp(nef_http_method(r->http), "POST") != 0) {
        nef_http_answer(r->http, 404, NULL, 0);
        return NEF_HTTP_ANSWERED;
    }
    (void)snprintf(r->backend_name, sizeof(r->backend_name), "%s", backend);
    keep_header(r, "x-request-id");
    if (strncmp(backend, "engine:", 7) == 0) { /* an external one isn't told anything of the user */
        keep_header(r, "x-nef-cache-salt");
        keep_header(r, "x-nef-weight");
        keep_header(r, "x-nef-priority");
    }
    return NEF_HTTP_GO;
}

static enum nef_http_next on_body(void *context, const uint8_t *data, size_t bytes, size_t *out_used)
{
    struct relayed *r = context;

    *out_used = bytes;
    nef_buf_append(&r->body, data, bytes);
    return r->body.failed ? NEF_HTTP_DROP : NEF_HTTP_GO;
}

static int64_t on_read(void *context, uint8_t *out, size_t max)
{
    struct relayed *r = context;
    int64_t result = 0;
    bool resume = false;

    (void)pthread_mutex_lock(&r->lock);
    if (r->pending_at < r->pending.bytes) {
        size_t bytes = NEF_MIN(r->pending.bytes - r->pending_at, max);

        memcpy(out, r->pending.data + r->pending_at, bytes);
        r->pending_at += bytes;
        result = (int64_t)bytes;
        if (r->pending_at == r->pending.bytes) {
            nef_buf_reset(&r->pending);
            r->pending_at = 0;
            resume = r->paused;
            r->paused = false;
        }
    } else if (r->ended) {
        result = r->good ? NEF_HTTP_STREAM_END : -1;
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (resume) {
        atomic_store(&r->resume, true);
        post(r);
    }
    if (result == 0 && nef_http_gone(r->http))
        return -1;
    return result;
}

static void on_read_done(void *context)
{
    relayed_unref(context);
}

static enum nef_http_next on_end_of_body(void *context)
{
    struct relayed *r = context;
    const struct nef_http_stream stream = {on_read, on_read_done, r};
    bool known, empty;
    char type[sizeof(r->type)];
    unsigned status;

    if (atomic_load(&r->stage) == RELAY_READING) {
        atomic_store(&r->stage, RELAY_POSTED);
        post(r);
        return NEF_HTTP_WAIT;
    }
    (void)pthread_mutex_lock(&r->lock);
    known = r->known;
    empty = r->ended && r->good && r->pending.bytes == 0;
    status = r->status;
    memcpy(type, r->type, sizeof(type));
    (void)pthread_mutex_unlock(&r->lock);
    if (!known)
        return nef_http_gone(r->http) ? NEF_HTTP_DROP : NEF_HTTP_WAIT;
    atomic_store(&r->stage, RELAY_ANSWERED);
    if (empty) {
        nef_http_answer(r->http, status, NULL, 0);
        return NEF_HTTP_ANSWERED;
    }
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    nef_http_answer_stream(r->http, status, NEF_HTTP_LENGTH_UNKNOWN, &stream);
    nef_http_answer_header(r->http, "Content-Type", type);
    return NEF_HTTP_ANSWERED;
}

static void on_closed(void *context, bool complete)
{
    struct relayed *r = context;

    (void)complete;
    atomic_store(&r->wants_end, true);
    post(r);
    relayed_unref(r);
}

nef_err relay_start(struct nef_gateway *g)
{
    const struct nef_zone_config *config = g->o.config;
    const struct nef_http_options http = {
        .listen = g->ai->relay,
        .cert_file = config->tls.cert,
        .key_file = config->tls.key,
        .client_ca_file = config->tls.ca,
        .connections_max = CONNECTIONS_MAX,
        .threads = THREADS,
        .idle_timeout_s = IDLE_TIMEOUT_S,
        .handler = {on_open, on_begin, on_body, on_end_of_body, on_closed, g},
    };

    return nef_http_start(&http, &g->relay);
}

void relay_stop(struct nef_gateway *g)
{
    nef_http_stop(g->relay);
    g->relay = NULL;
}
