/* Start, stop and what it tells of itself; see gateway.h. */
#include "gateway/gateway.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/assert.h"
#include "base/trace.h"
#include "gateway/gateway_internal.h"
#include "io/clock.h"

#define LISTENER_THREADS 4u
#define WORKERS          8u
#define WORKER_QUEUE_MAX 16384u
#define IDLE_TIMEOUT_S   120u
#define ENGINE_GRACE_MS  1000u
#define POLL_MS          5l

static void pause_ms(long ms)
{
    const struct timespec t = {0, ms * 1000000l};

    (void)nanosleep(&t, NULL);
}

/* ---- the loop's work ---- */

static void on_tick(void *context, uint64_t now)
{
    struct nef_gateway *g = context;

    backends_tick(g, now);
    runs_tick(g, now);
    relay_tick(g, now);
    calls_tick(g, now);
}

static void on_models(struct nef_post *post)
{
    engines_reconcile((struct nef_gateway *)(void *)((char *)post - offsetof(struct nef_gateway, models_changed)));
}

static void models_changed(void *context)
{
    struct nef_gateway *g = context;

    (void)nef_loop_post(g->loop, &g->models_changed);
}

/* ---- start ---- */

static nef_err make_secret(struct nef_gateway *g)
{
    const struct nef_zone_config *config = g->o.config;

    g->secret = nef_secret_new(sizeof(*g->secret));
    if (g->secret == NULL)
        return NEF_E_NOMEM;
    g->secret->root = *g->o.root;
    /* The same in every zone, so that a request that is computed elsewhere shares what its user has there. */
    return nef_hkdf_sha256(g->secret->root.secret_key, strlen(g->secret->root.secret_key), &config->region_id,
                           sizeof(config->region_id), "nef ai cache salt", g->secret->salt_key,
                           sizeof(g->secret->salt_key));
}

static nef_err start_listener(struct nef_gateway *g)
{
    struct nef_http_options http = {
        .listen = g->ai->listener.listen,
        .connections_max = g->ai->connections,
        .threads = LISTENER_THREADS,
        .idle_timeout_s = IDLE_TIMEOUT_S,
        .handler = gateway_handler,
    };

    http.handler.context = g;
    if (g->ai->listener.has_tls) {
        http.cert_file = g->ai->listener.tls.cert;
        http.key_file = g->ai->listener.tls.key;
    }
    return nef_http_start(&http, &g->http);
}

static nef_err start_parts(struct nef_gateway *g)
{
    const struct nef_limits_options limits = {.rt = g->o.rt, .keys = g->o.keys, .zone = g->zone};
    const struct nef_models_options models = {
        .rt = g->o.rt, .cells = g->o.config->cells, .changed = models_changed, .context = g};
    struct nef_responses_options responses = {
        .gateway = g,
        .rt = g->o.rt,
        .keys = g->o.keys,
        .zone = g->zone,
        .cells = g->o.config->cells,
        .kept_s = g->ai->responses_kept_ns / 1000000000ull,
        .user = auth_owner,
        .caller = auth_caller,
        .context = g,
    };
    nef_err err;

    err = nef_workers_new("nef-ai", WORKERS, WORKER_QUEUE_MAX, &g->workers);
    if (err == NEF_OK)
        err = backends_start(g);
    if (err == NEF_OK)
        err = nef_loop_open(on_tick, g, &g->loop);
    if (err == NEF_OK)
        err = nef_limits_start(&limits, &g->limits);
    if (err == NEF_OK)
        err = nef_models_start(&models, &g->models);
    responses.limits = g->limits;
    if (err == NEF_OK)
        err = nef_responses_start(&responses, &g->responses);
    if (err == NEF_OK)
        err = nef_loop_run(g->loop); /* now that all its thread looks at is there */
    g->loop_runs = err == NEF_OK;
    return err;
}

nef_err nef_gateway_start(const struct nef_gateway_options *options, struct nef_gateway **out_gateway)
{
    struct nef_gateway *g = calloc(1, sizeof(*g));
    nef_err err;

    if (g == NULL)
        return NEF_E_NOMEM;
    NEF_ASSERT(options->config->has_ai);
    g->o = *options;
    g->ai = &options->config->ai;
    g->zone = options->config->zone;
    g->socket_dir = -1;
    g->models_changed.run = on_models;
    (void)pthread_mutex_init(&g->backends_lock, NULL);
    (void)pthread_mutex_init(&g->calls_lock, NULL);
    g->metrics = nef_gateway_metrics_new();
    err = g->metrics == NULL ? NEF_E_NOMEM : make_secret(g);
    if (err == NEF_OK)
        err = engines_open(g);
    if (err == NEF_OK)
        err = start_parts(g);
    if (err == NEF_OK) {
        models_changed(g); /* an engine that the configuration names waits for no list */
        err = relay_start(g);
    }
    if (err == NEF_OK)
        err = start_listener(g);
    if (err != NEF_OK) {
        nef_gateway_stop(g, 0);
        return err;
    }
    nef_trace(NEF_TRACE_INFO, "ai_started", "u:port", (uint64_t)nef_http_port(g->http), "u:backends",
              (uint64_t)g->ai->backend_count, NULL);
    *out_gateway = g;
    return NEF_OK;
}

uint16_t nef_gateway_port(const struct nef_gateway *g)
{
    return nef_http_port(g->http);
}

/* ---- stop ---- */

void nef_gateway_quiesce(struct nef_gateway *g)
{
    atomic_store(&g->draining, true);
}

struct cut {
    struct nef_post post;
    struct nef_gateway *g;
    atomic_bool done;
};

static void on_cut(struct nef_post *post)
{
    struct cut *c = (struct cut *)(void *)((char *)post - offsetof(struct cut, post));

    runs_cancel_all(c->g);
    relay_cancel_all(c->g);
    atomic_store(&c->done, true);
}

/* Again and again: a worker may be about to start one. */
static void cut_all(struct nef_gateway *g)
{
    do {
        struct cut c = {.post.run = on_cut, .g = g};

        (void)nef_loop_post(g->loop, &c.post);
        while (!atomic_load(&c.done))
            pause_ms(1);
        pause_ms(POLL_MS);
    } while (atomic_load(&g->run_count) > 0);
}

void nef_gateway_stop(struct nef_gateway *g, uint32_t grace_ms)
{
    uint64_t deadline;

    if (g == NULL)
        return;
    atomic_store(&g->draining, true);
    if (g->http != NULL)
        nef_http_quiesce(g->http);
    if (g->relay != NULL)
        nef_http_quiesce(g->relay);
    deadline = nef_now_ms() + grace_ms;
    while (atomic_load(&g->run_count) > 0 && nef_now_ms() < deadline)
        pause_ms(POLL_MS);
    atomic_store(&g->stopping, true);
    if (g->responses != NULL)
        nef_responses_quiesce(g->responses);
    if (g->loop_runs)
        cut_all(g);
    nef_http_stop(g->http);
    g->http = NULL;
    relay_stop(g);
    if (g->workers != NULL)
        nef_workers_stop(g->workers);
    if (g->loop_runs)
        cut_all(g);
    nef_responses_stop(g->responses);
    nef_limits_stop(g->limits);
    engines_stop(g, ENGINE_GRACE_MS); /* before the models: an engine may be reading one */
    nef_models_stop(g->models);
    nef_loop_stop(g->loop);
    engines_close(g);
    backends_stop(g);
    nef_workers_free(g->workers);
    nef_gateway_metrics_free(g->metrics);
    if (g->secret != NULL)
        nef_secret_free(g->secret, sizeof(*g->secret));
    (void)pthread_mutex_destroy(&g->backends_lock);
    (void)pthread_mutex_destroy(&g->calls_lock);
    free(g);
}

/* ---- what it tells ---- */

static void label(struct nef_buf *out, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            nef_buf_u8(out, '\\');
        nef_buf_u8(out, (uint8_t)*c);
    }
}

void nef_gateway_metrics(struct nef_gateway *g, struct nef_buf *out)
{
    const struct nef_gateway_metrics_now now = {
        .connections = nef_http_connections(g->http),
        .runs = atomic_load(&g->run_count),
        .waiting = nef_workers_waiting(g->workers),
        .relayed = atomic_load(&g->relayed_count),
    };

    nef_gateway_metrics_text(g->metrics, &now, out);
    nef_buf_text(out, "# HELP nef_ai_backend_up 1 if that backend answers.\n# TYPE nef_ai_backend_up gauge\n");
    (void)pthread_mutex_lock(&g->backends_lock);
    for (const struct backend *b = g->backends; b != NULL; b = b->next) {
        nef_buf_text(out, "nef_ai_backend_up{backend=\"");
        label(out, b->name);
        nef_buf_printf(out, "\"} %d\n", atomic_load(&b->healthy));
    }
    nef_buf_text(out, "# HELP nef_ai_backend_requests Tries that were sent to that backend.\n# TYPE "
                      "nef_ai_backend_requests counter\n");
    for (const struct backend *b = g->backends; b != NULL; b = b->next) {
        nef_buf_text(out, "nef_ai_backend_requests_total{backend=\"");
        label(out, b->name);
        nef_buf_printf(out, "\"} %" PRIu64 "\n", (uint64_t)atomic_load(&b->requests));
    }
    (void)pthread_mutex_unlock(&g->backends_lock);
}

void nef_gateway_status_json(struct nef_gateway *g, struct nef_buf *out)
{
    json_t *list = json_array(), *root;
    char *text;

    (void)pthread_mutex_lock(&g->backends_lock);
    for (struct backend *b = g->backends; b != NULL && list != NULL; b = b->next) {
        json_t *item = json_pack("{s:s, s:s, s:b, s:i, s:i, s:I, s:I}", "name", b->name, "zone", backend_zone(b),
                                 "healthy", (int)atomic_load(&b->healthy), "slots", (int)b->slots, "in_flight",
                                 (int)atomic_load(&b->in_flight), "requests", (json_int_t)atomic_load(&b->requests),
                                 "losses", (json_int_t)atomic_load(&b->losses));

        if (item != NULL && b->kind == BACKEND_ENGINE && b->child != NULL) {
            (void)json_object_set_new(item, "pid", json_integer(nef_engine_child_pid(b->child)));
            (void)json_object_set_new(item, "restarts", json_integer((json_int_t)nef_engine_child_restarts(b->child)));
        }
        (void)json_array_append_new(list, item);
    }
    (void)pthread_mutex_unlock(&g->backends_lock);
    root = json_pack("{s:s, s:o}", "zone", g->zone, "backends", list);
    text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    nef_buf_text(out, text != NULL ? text : "{}");
    free(text);
}
