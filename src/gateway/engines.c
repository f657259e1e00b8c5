/* Which models have an engine of this zone: the one that the configuration names, or those that the region has.
 *
 * A stored model is decrypted into a sealed memfd each time its engine starts (models.h). When its content was
 * replaced, its engine is ended and starts with the new one. Stopping an engine may take a while, so that is a
 * worker's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "gateway/gateway_internal.h"

#define RETIRE_GRACE_MS 2000u
#define LOOK_MS         200l

/* ---- where the model comes from ---- */

static void pause_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000l};

    (void)nanosleep(&t, NULL);
}

/* In the engine's own thread. */
static nef_err open_model(void *context, int *out_fd)
{
    struct backend *b = context;
    char why[NEF_MODELS_WHY_MAX] = "";
    struct nef_model_info info;
    nef_err err;

    for (;;) {
        if (atomic_load(&b->g->stopping) || atomic_load(&b->retired))
            return NEF_E_CLOSED;
        err = nef_models_find(b->g->models, b->model, &info);
        if (err == NEF_OK)
            break;
        pause_ms(LOOK_MS);
    }
    err = nef_models_open(b->g->models, &info, &b->retired, why, out_fd);
    if (err == NEF_OK) {
        (void)pthread_mutex_lock(&b->g->backends_lock);
        (void)snprintf(b->etag, sizeof(b->etag), "%s", info.etag);
        b->stored_ms = info.created_ms;
        (void)pthread_mutex_unlock(&b->g->backends_lock);
    } else if (err != NEF_E_CLOSED) {
        nef_trace(NEF_TRACE_WARN, "ai_model_unusable", "s:model", b->model, "s:why", why, "e:err", (int)err, NULL);
    }
    return err;
}

/* ---- making one ---- */

static nef_err add_engine(struct nef_gateway *g, const char *model, const char *file)
{
    const struct nef_ai_engine_config *c = &g->ai->engine;
    const char *directory = g->ai->socket_dir != NULL ? g->ai->socket_dir : g->o.config->data_dir;
    char name[NEF_BACKEND_NAME_MAX], path[4200], short_path[80];
    struct nef_engine_child_options options = {
        .model_file = file,
        .open = open_model,
        .socket_path = path,
        .kv_type = c->kv_type,
        .threads = c->threads,
        .slots = c->slots,
        .context_tokens = c->context_tokens,
    };
    struct nef_engine_child *child = NULL;
    struct backend *b;
    nef_err err;

    (void)snprintf(name, sizeof(name), "engine:%s", model);
    b = backend_add(g, BACKEND_ENGINE, NULL, name);
    if (b == NULL)
        return NEF_E_NOMEM;
    b->socket_number = g->sockets_made++;
    (void)snprintf(b->model, sizeof(b->model), "%s", model);
    (void)snprintf(path, sizeof(path), "%s/engine-%u.sock", directory, b->socket_number);
    /* A socket's name may have 107 bytes and a data directory more: we reach it through a descriptor. */
    (void)snprintf(short_path, sizeof(short_path), "/proc/self/fd/%d/engine-%u.sock", g->socket_dir, b->socket_number);
    b->url = strdup("http://engine");
    b->unix_socket = strdup(short_path);
    b->health = "/health";
    b->models_fixed = true;
    b->speaks = (struct nef_splice_backend){.built_in = true, .token_ids = true};
    b->slots = c->slots != 0 ? c->slots : NEF_ENGINE_SLOTS_PRESET;
    options.model = b->model;
    options.context = b;
    err = b->url == NULL || b->unix_socket == NULL ? NEF_E_NOMEM : backend_set_models(b, &model, 1);
    if (err == NEF_OK)
        err = nef_engine_child_start(&options, &child);
    (void)pthread_mutex_lock(&g->backends_lock);
    b->child = child;
    (void)pthread_mutex_unlock(&g->backends_lock);
    if (err != NEF_OK)
        backend_remove(b);
    return err;
}

nef_err engines_open(struct nef_gateway *g)
{
    const char *directory = g->ai->socket_dir != NULL ? g->ai->socket_dir : g->o.config->data_dir;

    if (!g->ai->has_engine)
        return NEF_OK;
    g->socket_dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (g->socket_dir < 0) {
        nef_trace(NEF_TRACE_ERROR, "ai_sockets", "s:directory", directory, "s:why", strerror(errno), NULL);
        return NEF_E_CONFIG;
    }
    return NEF_OK;
}

/* ---- following the list of models ---- */

static struct backend *engine_of(struct nef_gateway *g, const char *model)
{
    for (struct backend *b = g->backends; b != NULL; b = b->next)
        if (b->kind == BACKEND_ENGINE && !b->gone && strcmp(b->model, model) == 0)
            return b;
    return NULL;
}

static struct nef_engine_child *take_child(struct backend *b)
{
    struct nef_engine_child *child;

    (void)pthread_mutex_lock(&b->g->backends_lock);
    child = b->child;
    b->child = NULL;
    (void)pthread_mutex_unlock(&b->g->backends_lock);
    return child;
}

pid_t engine_pid(struct backend *b)
{
    pid_t pid = 0;

    (void)pthread_mutex_lock(&b->g->backends_lock);
    if (b->child != NULL)
        pid = nef_engine_child_pid(b->child);
    (void)pthread_mutex_unlock(&b->g->backends_lock);
    return pid;
}

void engine_kill(struct backend *b, pid_t pid)
{
    (void)pthread_mutex_lock(&b->g->backends_lock);
    if (b->child != NULL)
        nef_engine_child_kill(b->child, pid);
    (void)pthread_mutex_unlock(&b->g->backends_lock);
}

static void on_retired(struct nef_post *post)
{
    struct backend *b = (struct backend *)(void *)((char *)post - offsetof(struct backend, retire));

    b->retiring = false; /* the tick frees it when nothing runs there */
}

/* A worker's. */
static void stop_child(void *context)
{
    struct backend *b = context;

    nef_engine_child_stop(take_child(b), RETIRE_GRACE_MS);
    (void)nef_loop_post(b->g->loop, &b->retire);
}

static void retire(struct backend *b)
{
    struct nef_gateway *g = b->g;

    if (atomic_exchange(&b->retired, true))
        return;
    b->retire.run = on_retired;
    if (nef_workers_submit(g->workers, stop_child, b) != NEF_OK) {
        atomic_store(&b->retired, false); /* the queue is full: the next change of the list does it */
        return;
    }
    nef_trace(NEF_TRACE_INFO, "ai_engine_retired", "s:model", b->model, NULL);
    b->retiring = true; /* on_retired is run by this thread, so later */
    backend_remove(b);
    runs_backend_lost(b);
}

static bool replaced(struct backend *b, const struct nef_model_info *info)
{
    bool other;

    (void)pthread_mutex_lock(&b->g->backends_lock);
    other = b->etag[0] != '\0' && (strcmp(b->etag, info->etag) != 0 || b->stored_ms != info->created_ms);
    (void)pthread_mutex_unlock(&b->g->backends_lock);
    return other;
}

/* The one that the configuration names: it waits for its model, so only another content matters. */
static void one_engine(struct nef_gateway *g, const struct nef_model_info *list, uint32_t count)
{
    const struct nef_ai_engine_config *c = &g->ai->engine;
    struct backend *b = engine_of(g, c->model);
    nef_err err;

    if (b == NULL) {
        err = add_engine(g, c->model, c->model_file);
        if (err != NEF_OK)
            nef_trace(NEF_TRACE_ERROR, "ai_engine_start", "s:model", c->model, "e:err", (int)err, NULL);
        return;
    }
    for (uint32_t i = 0; i < count && c->model_file == NULL; i++)
        if (strcmp(list[i].name, c->model) == 0 && replaced(b, &list[i]))
            engine_kill(b, engine_pid(b));
}

static bool listed(const struct nef_model_info *list, uint32_t count, const char *model)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, model) == 0)
            return true;
    return false;
}

static void engine_each(struct nef_gateway *g, const struct nef_model_info *list, uint32_t count)
{
    for (struct backend *b = g->backends; b != NULL; b = b->next)
        if (b->kind == BACKEND_ENGINE && !b->gone && !listed(list, count, b->model))
            retire(b);
    for (uint32_t i = 0; i < count; i++) {
        struct backend *b = engine_of(g, list[i].name);

        if (b == NULL) {
            nef_err err = add_engine(g, list[i].name, NULL);

            if (err != NEF_OK)
                nef_trace(NEF_TRACE_ERROR, "ai_engine_start", "s:model", list[i].name, "e:err", (int)err, NULL);
        } else if (replaced(b, &list[i])) {
            engine_kill(b, engine_pid(b)); /* its thread opens the new one */
        }
    }
}

void engines_reconcile(struct nef_gateway *g)
{
    struct nef_model_info *list = NULL;
    uint32_t count = 0;

    if (!g->ai->has_engine || atomic_load(&g->stopping) || nef_models_list(g->models, &list, &count) != NEF_OK)
        return;
    if (g->ai->engine.model != NULL)
        one_engine(g, list, count);
    else
        engine_each(g, list, NEF_MIN(count, g->ai->engine.models_max));
    free(list);
}

void engines_stop(struct nef_gateway *g, uint32_t grace_ms)
{
    for (;;) {
        struct nef_engine_child *child = NULL;

        (void)pthread_mutex_lock(&g->backends_lock);
        for (struct backend *b = g->backends; b != NULL && child == NULL; b = b->next) {
            atomic_store(&b->retired, true); /* wakes who opens a model */
            child = b->child;
            b->child = NULL;
        }
        (void)pthread_mutex_unlock(&g->backends_lock);
        if (child == NULL)
            return;
        nef_engine_child_stop(child, grace_ms);
    }
}

void engines_close(struct nef_gateway *g)
{
    if (g->socket_dir >= 0)
        (void)close(g->socket_dir);
    g->socket_dir = -1;
}
