/* Backends and peers: who they are, whether they answer, what they have.
 *
 * Every backend of the zone is probed (its health path), every peer's relay is asked for its state, each a few times a
 * second. A probe that isn't answered in time, or a connection that is refused, takes a backend out; the next good word
 * takes it in again. A relay's word brings the backends of its zone; silence takes all of them out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/trace.h"
#include "gateway/gateway_internal.h"
#include "io/clock.h"

#define CONNECT_MS        5000u /* probes tell much sooner that nobody is there; a busy one takes its time */
#define LOADING_PATIENCE  4u
#define MODELS_EVERY_NS   5000000000ull
#define ANSWER_MAX        ((size_t)1 << 20)
#define REMOTE_MAX        64u /* backends that one relay may name */
#define REMOTE_MODELS_MAX 1000u

/* ---- the list ---- */

bool backend_has(const struct backend *b, const char *model)
{
    for (uint32_t i = 0; i < b->model_count; i++)
        if (strcmp(b->models[i], model) == 0)
            return true;
    return false;
}

const char *backend_zone(const struct backend *b)
{
    return b->peer != NULL ? b->peer->zone : b->g->zone;
}

static void free_models(char **models, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(models[i]);
    free(models);
}

nef_err backend_set_models(struct backend *b, const char *const *models, uint32_t count)
{
    char **own = calloc(count > 0 ? count : 1, sizeof(*own)), **old = b->models;
    uint32_t had = b->model_count;

    for (uint32_t i = 0; own != NULL && i < count; i++) {
        own[i] = strdup(models[i]);
        if (own[i] == NULL) {
            free_models(own, i);
            own = NULL;
        }
    }
    if (own == NULL)
        return NEF_E_NOMEM;
    (void)pthread_mutex_lock(&b->g->backends_lock);
    b->models = own;
    b->model_count = count;
    (void)pthread_mutex_unlock(&b->g->backends_lock);
    free_models(old, had);
    return NEF_OK;
}

struct backend *backend_add(struct nef_gateway *g, enum backend_kind kind, struct peer *peer, const char *name)
{
    struct backend *b = calloc(1, sizeof(*b)), **at;

    if (b == NULL)
        return NULL;
    b->g = g;
    b->kind = kind;
    b->peer = peer;
    (void)snprintf(b->name, sizeof(b->name), "%s", name);
    b->answer.max = ANSWER_MAX;
    b->slots = 1;
    (void)pthread_mutex_lock(&g->backends_lock);
    for (at = &g->backends; *at != NULL; at = &(*at)->next)
        continue;
    *at = b;
    g->backend_count++;
    (void)pthread_mutex_unlock(&g->backends_lock);
    return b;
}

static void backend_free(struct backend *b)
{
    if (b->probe != NULL)
        nef_loop_cancel(b->probe);
    free(b->url);
    free(b->unix_socket);
    if (b->bearer != NULL)
        nef_secret_free(b->bearer, NEF_TOKEN_BYTES);
    free_models(b->models, b->model_count);
    nef_buf_free(&b->answer);
    free(b);
}

void backend_remove(struct backend *b)
{
    b->gone = true;
    b->healthy = false;
}

static void sweep(struct nef_gateway *g)
{
    struct backend **at = &g->backends;

    while (*at != NULL) {
        struct backend *b = *at;

        if (!b->gone || b->in_flight > 0 || b->retiring) {
            at = &b->next;
            continue;
        }
        (void)pthread_mutex_lock(&g->backends_lock);
        *at = b->next;
        g->backend_count--;
        (void)pthread_mutex_unlock(&g->backends_lock);
        backend_free(b);
    }
}

/* ---- health ---- */

static void went_down(struct backend *b, const char *why)
{
    if (!b->healthy)
        return;
    b->healthy = false;
    nef_trace(NEF_TRACE_WARN, "ai_backend_down", "s:backend", b->name, "s:why", why, NULL);
    runs_backend_lost(b);
}

/* A stream of it gave something while the probe waited: it is busy, not gone. Were it taken out, all of its streams
 * would begin anew elsewhere, which makes the others busy. */
static bool speaks(const struct backend *b)
{
    return nef_now_ns() < b->progress_ns + b->g->ai->timing.probe_timeout_ns;
}

static void came_up(struct backend *b)
{
    if (b->healthy)
        return;
    b->healthy = true;
    nef_trace(NEF_TRACE_INFO, "ai_backend_up", "s:backend", b->name, NULL);
}

void backend_suspect(struct backend *b, uint64_t now)
{
    /* a remote backend is its own gateway's to judge: the connection may have broken behind it */
    if (b->peer != NULL) {
        b->peer->probe_ns = 0;
        return;
    }
    went_down(b, "connection");
    b->probe_ns = 0;
    (void)now;
}

nef_err backend_call(struct backend *b, const char *path, const struct nef_loop_call_options *options,
                     struct nef_loop_call **out_call)
{
    const struct nef_zone_config *config = b->g->o.config;
    struct nef_loop_call_options o = *options;
    char url[600];

    if (snprintf(url, sizeof(url), "%s%s", b->peer != NULL ? b->peer->url : b->url, path) >= (int)sizeof(url))
        return NEF_E_LIMIT;
    o.url = url;
    o.unix_socket = b->unix_socket;
    o.bearer = b->bearer;
    o.ca = b->ca;
    o.connect_ms = CONNECT_MS;
    if (b->peer != NULL) {
        o.ca = config->tls.ca;
        o.cert = config->tls.cert;
        o.key = config->tls.key;
    }
    return nef_loop_call(b->g->loop, &o, out_call);
}

static void on_probe_head(void *context, unsigned status, const char *type)
{
    struct backend *b = context;

    (void)type;
    b->status = status;
}

static bool on_probe_data(void *context, const void *bytes, size_t count)
{
    struct backend *b = context;

    nef_buf_append(&b->answer, bytes, count);
    return !b->answer.failed;
}

/* {"data": [{"id": ...}]} */
static void take_models(struct backend *b)
{
    json_t *root = json_loadb((const char *)b->answer.data, b->answer.bytes, 0, NULL);
    const json_t *data = json_object_get(root, "data");
    const char *names[REMOTE_MODELS_MAX];
    uint32_t count = 0;
    json_t *model;
    size_t i;

    json_array_foreach(data, i, model) {
        const char *id = json_string_value(json_object_get(model, "id"));

        if (id != NULL && id[0] != '\0' && strlen(id) <= NEF_MODEL_NAME_MAX && count < REMOTE_MODELS_MAX)
            names[count++] = id;
    }
    if (json_is_array(data) && backend_set_models(b, names, count) != NEF_OK)
        nef_trace(NEF_TRACE_WARN, "ai_backend_models", "s:backend", b->name, NULL);
    json_decref(root);
}

/* It said something, or is a process that hasn't been seen before. */
static void heard(struct backend *b, uint64_t now, bool ready)
{
    pid_t pid;

    if (b->kind != BACKEND_ENGINE)
        return;
    pid = engine_pid(b);
    b->was_ready = ready || (b->was_ready && pid == b->heard_pid);
    b->heard_pid = pid;
    b->heard_ns = now;
}

static void on_probe_end(void *context, nef_err err)
{
    struct backend *b = context;
    bool good = err == NEF_OK && b->status == 200;

    b->probe = NULL;
    if (b->gone)
        return;
    if (b->probing_models) {
        if (good)
            take_models(b);
        return;
    }
    if (b->status != 0)
        heard(b, nef_now_ns(), good);
    if (good) {
        came_up(b);
    } else if (err != NEF_E_TIMEOUT || !speaks(b)) {
        went_down(b, err == NEF_OK ? "status" : nef_err_name(err));
    }
}

static void probe(struct backend *b, uint64_t now, bool models)
{
    const struct nef_loop_call_options o = {
        .total_ms = (uint32_t)(b->g->ai->timing.probe_timeout_ns / 1000000),
        .head = on_probe_head,
        .data = on_probe_data,
        .end = on_probe_end,
        .context = b,
    };

    b->probing_models = models;
    b->status = 0;
    nef_buf_reset(&b->answer);
    *(models ? &b->models_ns : &b->probe_ns) = now;
    if (backend_call(b, models ? "/v1/models" : b->health, &o, &b->probe) != NEF_OK)
        b->probe = NULL; /* out of memory: the next tick tries again */
}

/* ---- peers ---- */

static void silence(struct peer *p, const char *why)
{
    if (!p->healthy)
        return;
    p->healthy = false;
    nef_trace(NEF_TRACE_WARN, "ai_zone_down", "s:zone", p->zone, "s:why", why, NULL);
    for (struct backend *b = p->g->backends; b != NULL; b = b->next)
        if (b->peer == p)
            went_down(b, "zone");
}

/* {"name", "kind", "models", "slots", "in_flight", "healthy", "token_ids"} */
static void take_remote(struct peer *p, const json_t *said)
{
    const char *name = json_string_value(json_object_get(said, "name")), *names[REMOTE_MODELS_MAX];
    const char *kind = json_string_value(json_object_get(said, "kind"));
    const json_t *models = json_object_get(said, "models"), *model;
    char full[NEF_BACKEND_NAME_MAX];
    struct backend *b;
    uint32_t count = 0;
    size_t i;

    if (name == NULL || kind == NULL ||
        snprintf(full, sizeof(full), "%s/%s", p->zone, name) >= (int)sizeof(full))
        return;
    for (b = p->g->backends; b != NULL; b = b->next)
        if (b->peer == p && !b->gone && strcmp(b->name, full) == 0)
            break;
    if (b == NULL) {
        b = backend_add(p->g, BACKEND_REMOTE, p, full);
        if (b == NULL)
            return;
        b->models_fixed = true;
    }
    b->seen = true;
    b->speaks.built_in = strcmp(kind, "engine") == 0;
    b->speaks.token_ids = json_is_true(json_object_get(said, "token_ids"));
    b->slots = (uint32_t)NEF_MAX(json_integer_value(json_object_get(said, "slots")), 1);
    b->there = (uint32_t)NEF_MAX(json_integer_value(json_object_get(said, "in_flight")), 0);
    for (i = 0; i < json_array_size(models) && count < REMOTE_MODELS_MAX; i++) {
        model = json_array_get(models, i);
        if (json_is_string(model))
            names[count++] = json_string_value(model);
    }
    if (count != b->model_count || (count > 0 && strcmp(names[0], b->models[0]) != 0))
        if (backend_set_models(b, names, count) != NEF_OK)
            return;
    if (json_is_true(json_object_get(said, "healthy")))
        came_up(b);
    else
        went_down(b, "its zone says so");
}

static void take_state(struct peer *p)
{
    json_t *root = json_loadb((const char *)p->answer.data, p->answer.bytes, 0, NULL);
    const json_t *list = json_object_get(root, "backends");

    for (struct backend *b = p->g->backends; b != NULL; b = b->next)
        if (b->peer == p)
            b->seen = false;
    for (size_t i = 0; i < json_array_size(list) && i < REMOTE_MAX; i++)
        take_remote(p, json_array_get(list, i));
    for (struct backend *b = p->g->backends; b != NULL; b = b->next)
        if (b->peer == p && !b->seen && !b->gone) {
            went_down(b, "its zone has it no more");
            backend_remove(b);
        }
    json_decref(root);
}

static void on_peer_head(void *context, unsigned status, const char *type)
{
    struct peer *p = context;

    (void)type;
    p->status = status;
}

static bool on_peer_data(void *context, const void *bytes, size_t count)
{
    struct peer *p = context;

    nef_buf_append(&p->answer, bytes, count);
    return !p->answer.failed;
}

static bool peer_speaks(const struct peer *p)
{
    for (const struct backend *b = p->g->backends; b != NULL; b = b->next)
        if (b->peer == p && speaks(b))
            return true;
    return false;
}

static void on_peer_end(void *context, nef_err err)
{
    struct peer *p = context;

    p->probe = NULL;
    if (err == NEF_E_TIMEOUT && peer_speaks(p))
        return;
    if (err != NEF_OK || p->status != 200) {
        silence(p, err != NEF_OK ? nef_err_name(err) : "status");
        return;
    }
    p->answered_ns = nef_now_ns();
    if (!p->healthy) {
        p->healthy = true;
        nef_trace(NEF_TRACE_INFO, "ai_zone_up", "s:zone", p->zone, NULL);
    }
    take_state(p);
}

static void probe_peer(struct peer *p, uint64_t now)
{
    const struct nef_zone_config *config = p->g->o.config;
    const uint32_t ms = (uint32_t)(p->g->ai->timing.probe_timeout_ns / 1000000);
    char url[400];
    const struct nef_loop_call_options o = {
        .url = url,
        .ca = config->tls.ca,
        .cert = config->tls.cert,
        .key = config->tls.key,
        .connect_ms = ms,
        .total_ms = ms,
        .head = on_peer_head,
        .data = on_peer_data,
        .end = on_peer_end,
        .context = p,
    };

    (void)snprintf(url, sizeof(url), "%s/relay/state", p->url);
    p->probe_ns = now;
    p->status = 0;
    nef_buf_reset(&p->answer);
    if (nef_loop_call(p->g->loop, &o, &p->probe) != NEF_OK)
        p->probe = NULL;
}

/* ---- start, tick, stop ---- */

static nef_err start_external(struct nef_gateway *g, const struct nef_ai_backend_config *c)
{
    struct backend *b = backend_add(g, BACKEND_EXTERNAL, NULL, c->name);
    struct nef_config_error error;

    if (b == NULL)
        return NEF_E_NOMEM;
    b->url = strdup(c->url);
    b->unix_socket = c->unix_socket != NULL ? strdup(c->unix_socket) : NULL;
    if (b->url == NULL || (c->unix_socket != NULL && b->unix_socket == NULL))
        return NEF_E_NOMEM;
    b->ca = c->ca;
    b->health = c->health;
    b->slots = c->slots;
    b->speaks.token_ids = c->token_ids;
    if (c->key_file != NULL) {
        b->bearer = nef_secret_new(NEF_TOKEN_BYTES);
        if (b->bearer == NULL)
            return NEF_E_NOMEM;
        if (nef_token_load(c->key_file, b->bearer, &error) != NEF_OK) {
            nef_trace(NEF_TRACE_ERROR, "ai_backend_key", "s:backend", b->name, "s:why", error.text, NULL);
            return NEF_E_CONFIG;
        }
    }
    b->models_fixed = c->model_count > 0;
    return backend_set_models(b, (const char *const *)c->models, c->model_count);
}

nef_err backends_start(struct nef_gateway *g)
{
    nef_err err = NEF_OK;

    for (uint32_t i = 0; i < g->ai->backend_count && err == NEF_OK; i++)
        err = start_external(g, &g->ai->backends[i]);
    for (uint32_t i = 0; i < g->ai->peer_count && err == NEF_OK; i++) {
        char address[NEF_HOST_PORT_TEXT];
        struct peer *p = &g->peers[g->peer_count++];

        p->g = g;
        p->zone = g->ai->peers[i].zone;
        p->answer.max = ANSWER_MAX;
        nef_host_port_text(&g->ai->peers[i].address, address);
        (void)snprintf(p->url, sizeof(p->url), "https://%s", address);
    }
    return err;
}

/* An engine that answers no probe hangs. One that loads its model answers, too, that it isn't ready; but it has all cores
 * to itself then, and was perhaps just started on a busy machine. */
static void look_for_hung(struct backend *b, uint64_t now)
{
    const uint64_t hung = b->g->ai->engine.hung_ns;
    pid_t pid;

    if (b->kind != BACKEND_ENGINE || b->healthy || b->gone)
        return;
    pid = engine_pid(b);
    if (pid != b->heard_pid)
        heard(b, now, false);
    if (pid == 0 || now < b->heard_ns + (b->was_ready ? hung : LOADING_PATIENCE * hung))
        return;
    nef_trace(NEF_TRACE_ERROR, "ai_engine_hung", "s:model", b->model, "u:pid", (uint64_t)pid, NULL);
    engine_kill(b, pid);
    b->heard_ns = now; /* it is gone soon */
}

void backends_tick(struct nef_gateway *g, uint64_t now)
{
    const uint64_t every = g->ai->timing.probe_ns;

    if (atomic_load(&g->stopping))
        return;
    for (struct backend *b = g->backends; b != NULL; b = b->next) {
        if (b->peer != NULL || b->gone)
            continue;
        if (b->probe == NULL && (b->probe_ns == 0 || now >= b->probe_ns + every))
            probe(b, now, false);
        else if (b->probe == NULL && b->healthy && !b->models_fixed &&
                 (b->models_ns == 0 || now >= b->models_ns + MODELS_EVERY_NS))
            probe(b, now, true);
        look_for_hung(b, now);
    }
    for (uint32_t i = 0; i < g->peer_count; i++)
        if (g->peers[i].probe == NULL && (g->peers[i].probe_ns == 0 || now >= g->peers[i].probe_ns + every))
            probe_peer(&g->peers[i], now);
    sweep(g);
}

void backends_stop(struct nef_gateway *g)
{
    while (g->backends != NULL) {
        struct backend *b = g->backends;

        g->backends = b->next;
        b->probe = NULL; /* it went with the loop */
        backend_free(b);
    }
    for (uint32_t i = 0; i < g->peer_count; i++)
        nef_buf_free(&g->peers[i].answer);
}

/* ---- for other threads ---- */

bool backends_know(struct nef_gateway *g, const char *model)
{
    bool known = false;

    (void)pthread_mutex_lock(&g->backends_lock);
    for (const struct backend *b = g->backends; b != NULL && !known; b = b->next)
        known = !b->gone && backend_has(b, model);
    (void)pthread_mutex_unlock(&g->backends_lock);
    return known;
}

static bool stored(struct nef_gateway *g, const char *model)
{
    struct nef_model_info info;

    return g->models != NULL && nef_models_find(g->models, model, &info) == NEF_OK;
}

static bool told_before(const struct nef_gateway *g, const struct backend *upto, uint32_t index, const char *model)
{
    for (const struct backend *b = g->backends; b != upto; b = b->next)
        if (!b->gone && backend_has(b, model))
            return true;
    for (uint32_t i = 0; i < index; i++)
        if (strcmp(upto->models[i], model) == 0)
            return true;
    return false;
}

void backends_models_json(struct nef_gateway *g, const struct nef_ai_user *user, uint32_t *count, struct nef_buf *out)
{
    (void)pthread_mutex_lock(&g->backends_lock);
    for (const struct backend *b = g->backends; b != NULL; b = b->next) {
        for (uint32_t i = 0; i < b->model_count && !b->gone; i++) {
            json_t *model;
            char *text;

            if (!nef_ai_allows_model(user, b->models[i]) || told_before(g, b, i, b->models[i]) ||
                stored(g, b->models[i]))
                continue;
            model = json_pack("{s:s, s:s, s:i, s:s}", "id", b->models[i], "object", "model", "created", 0, "owned_by",
                              b->kind == BACKEND_EXTERNAL ? "external" : "nef");
            text = model != NULL ? json_dumps(model, JSON_COMPACT) : NULL;
            json_decref(model);
            if (text == NULL) {
                out->failed = true;
                continue;
            }
            nef_buf_text(out, (*count)++ > 0 ? "," : "");
            nef_buf_text(out, text);
            free(text);
        }
    }
    (void)pthread_mutex_unlock(&g->backends_lock);
}
