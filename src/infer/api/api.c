/* The server's start and stop; see api.h. */
#include "infer/api/api.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/trace.h"
#include "infer/api/api_internal.h"
#include "io/clock.h"

#define LISTENER_THREADS 2u
#define WORKERS          4u /* a hostile schema keeps one for some tenths of a second */
#define IDLE_TIMEOUT_S   60u
#define TICK_MS          200u
#define STOP_POLL_US     2000
#define FAREWELL_MS      2000u /* for the last words of cancelled streams */

/* Qwen3's technical report, 4.7, ends a thought so; </think> is a token. */
static const char budget_text[] =
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>";

struct nef_sampling nef_api_sampling_of(enum nef_chat_family family, uint32_t embedding)
{
    const bool small = embedding < 2048; /* 0.5B and 1.5B */

    if (family == NEF_CHAT_UNKNOWN) /* a base model: llama.cpp's presets */
        return (struct nef_sampling){
            .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repetition_penalty = 1};
    if (family == NEF_CHAT_QWEN3)
        return (struct nef_sampling){
            .temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .min_p = 0, .repetition_penalty = 1};
    return (struct nef_sampling){
        .temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .min_p = 0, .repetition_penalty = small ? 1.1f : 1.05f};
}

/* What a budget needs; a vocabulary in which </think> is no token of its own has no budgets. */
static nef_err prepare_budget(struct nef_api *api)
{
    const struct nef_tokenizer *t = api->model.tokenizer;
    nef_err err;

    api->think_end = nef_token_find(t, "</think>");
    if (api->think_end == NEF_NO_TOKEN)
        return NEF_OK;
    err = nef_tokenize(t, budget_text, sizeof(budget_text) - 1, true, &api->budget, &api->budget_count);
    if (err == NEF_OK && (api->budget_count == 0 || api->budget_count > NEF_ENGINE_BUDGET_MAX ||
                          api->budget[api->budget_count - 1] != api->think_end))
        api->budget_count = 0;
    return err;
}

/* A parked connection isn't watched by anybody: each call looks for itself whether its client is still there. */
static void *tick(void *context)
{
    struct nef_api *api = context;

    (void)pthread_mutex_lock(&api->list_lock);
    while (!api->ticker_ends) {
        struct timespec at;

        (void)clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += (long)TICK_MS * 1000000;
        if (at.tv_nsec >= 1000000000) {
            at.tv_sec++;
            at.tv_nsec -= 1000000000;
        }
        (void)pthread_cond_timedwait(&api->ticker_wake, &api->list_lock, &at);
        for (struct call *c = api->first; c != NULL; c = c->next)
            if (atomic_load(&c->stage) != STAGE_READING)
                nef_http_wake(c->http);
    }
    (void)pthread_mutex_unlock(&api->list_lock);
    return NULL;
}

static void release(struct nef_api *api)
{
    nef_workers_free(api->workers);
    nef_grammars_close(api->grammars);
    free(api->budget);
    (void)pthread_cond_destroy(&api->ticker_wake);
    (void)pthread_mutex_destroy(&api->list_lock);
    free(api);
}

static void end_ticker(struct nef_api *api)
{
    (void)pthread_mutex_lock(&api->list_lock);
    api->ticker_ends = true;
    (void)pthread_cond_signal(&api->ticker_wake);
    (void)pthread_mutex_unlock(&api->list_lock);
    (void)pthread_join(api->ticker, NULL);
}

nef_err nef_api_start(const struct nef_api_options *options, struct nef_api **out_api)
{
    struct nef_api *api = calloc(1, sizeof(*api));
    struct nef_http_options http = {
        .listen = options->listen,
        .unix_path = options->unix_path,
        .connections_max = options->connections_max,
        .threads = LISTENER_THREADS,
        .idle_timeout_s = IDLE_TIMEOUT_S,
        .handler = nef_api_handler,
    };
    pthread_condattr_t monotonic;
    nef_err err;

    if (api == NULL)
        return NEF_E_NOMEM;
    api->options = *options;
    api->started_s = nef_wall_ms() / 1000;
    (void)pthread_mutex_init(&api->list_lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&api->ticker_wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    http.handler.context = api;
    err = nef_workers_new("nef-prompt", WORKERS, NEF_INFER_WAITING_MAX, &api->workers);
    if (err != NEF_OK)
        goto fail;
    if (pthread_create(&api->ticker, NULL, tick, api) != 0) {
        err = NEF_E_SYSTEM;
        goto fail;
    }
    err = nef_http_start(&http, &api->http);
    if (err != NEF_OK) {
        end_ticker(api);
        goto fail;
    }
    *out_api = api;
    return NEF_OK;
fail:
    release(api);
    return err;
}

nef_err nef_api_serve(struct nef_api *api, const struct nef_api_model *model)
{
    nef_err err;

    NEF_ASSERT(!atomic_load(&api->ready) && model->context > 1 && model->alias != NULL);
    api->model = *model;
    (void)snprintf(api->fingerprint, sizeof(api->fingerprint), "nef-%s-n%u-%s", NEF_VERSION, NEF_NUMERICS_VERSION,
                   model->kv_type);
    err = prepare_budget(api);
    if (err == NEF_OK)
        err = nef_grammars_open(model->tokenizer, &api->grammars);
    if (err == NEF_E_UNSUPPORTED) {
        nef_trace(NEF_TRACE_WARN, "no_grammars", "s:why", "the vocabulary lacks a token for some byte", NULL);
        err = NEF_OK;
    }
    if (err == NEF_OK)
        atomic_store(&api->ready, true);
    return err;
}

uint16_t nef_api_port(const struct nef_api *api)
{
    return nef_http_port(api->http);
}

void nef_api_quiesce(struct nef_api *api)
{
    atomic_store(&api->draining, true);
    nef_http_quiesce(api->http);
}

uint32_t nef_api_active(struct nef_api *api)
{
    uint32_t active;

    (void)pthread_mutex_lock(&api->list_lock);
    active = api->active;
    (void)pthread_mutex_unlock(&api->list_lock);
    return active;
}

void nef_api_stop(struct nef_api *api)
{
    uint64_t deadline;

    if (api == NULL)
        return;
    nef_api_quiesce(api);
    deadline = nef_now_ms() + FAREWELL_MS;
    /* Again and again: a worker may be about to submit. */
    while (nef_api_active(api) > 0 && nef_now_ms() < deadline) {
        (void)pthread_mutex_lock(&api->list_lock);
        for (struct call *c = api->first; c != NULL; c = c->next)
            if (atomic_load_explicit(&c->stage, memory_order_acquire) == STAGE_READY)
                nef_api_call_cancel(c);
        (void)pthread_mutex_unlock(&api->list_lock);
        (void)usleep(STOP_POLL_US);
    }
    nef_http_stop(api->http);
    nef_workers_stop(api->workers);
    end_ticker(api);
    while (atomic_load(&api->calls) > 0) /* the engine still tells of those it had */
        (void)usleep(STOP_POLL_US);
    release(api);
}
