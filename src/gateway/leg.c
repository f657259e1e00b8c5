/* A leg: one choice of a run, over one backend after the other; see run_internal.h.
 *
 * When it is moved:
 *   the stream breaks off, is refused though the request isn't wrong, or says what can't be    at once
 *   the backend's probes fail                                         at once, if another one can go on
 *   the stream says nothing for `stall`, and 8 times its usual gap    if another one can go on; the limit doubles each
 *                                                                     time: backends that are only slow must not hand
 *                                                                     it around
 *   an external backend doesn't begin for `first_token`               at once
 *
 * A request on which backends are lost three times in a row without anything new is given up: it may be the reason. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/trace.h"
#include "gateway/run_internal.h"
#include "infer/api/api.h"
#include "io/clock.h"

#define BARREN_MAX     3u
#define AGAIN_NS       100000000ull  /* before the same backend is tried again */
#define WAIT_NS        50000000ull   /* between looks for a backend */
#define GAP_TIMES      8u
#define STALLS_MAX     6u            /* doublings */
#define STUCK_TIMES    10u           /* stalls until a stream with nowhere else to go is asked for again */
#define RETRY_AFTER_S  2u

/* THEN may be later: a tick's `now` is older than what its own callbacks do. */
static uint64_t since(uint64_t now, uint64_t then)
{
    return then > now ? 0 : now - then;
}

/* ---- choosing ---- */

static void candidates(const struct leg *leg, const struct backend *without, struct nef_route_backend *out,
                       struct backend **who, uint32_t *out_count)
{
    const struct nef_ai_run *run = leg->run;
    uint32_t count = 0;

    for (struct backend *b = run->g->backends; b != NULL && count < 256; b = b->next) {
        const char *zone = backend_zone(b);
        bool allowed = false;

        if (b->gone)
            continue;
        for (uint32_t i = 0; i < run->o.caller.zone_count; i++)
            allowed = allowed || strcmp(run->o.caller.zones[i], zone) == 0;
        who[count] = b;
        out[count++] = (struct nef_route_backend){
            .has_model = backend_has(b, run->model),
            .healthy = b->healthy,
            .allowed = allowed,
            .own_zone = b->peer == NULL,
            .failed = leg->failed == b,
            .excluded = without == b,
            .slots = b->slots,
            .in_flight = b->peer != NULL ? NEF_MAX(b->there, b->in_flight) : b->in_flight,
        };
    }
    *out_count = count;
}

static enum nef_route_verdict choose(const struct leg *leg, const struct backend *without, bool admit,
                                     struct backend **out)
{
    const struct nef_route_request request = {
        .priority = leg->run->o.caller.priority,
        .queue_factor = leg->run->g->ai->queue_factor,
        .admit = admit,
    };
    struct nef_route_backend list[256];
    struct backend *who[256];
    uint32_t count, index = 0;
    enum nef_route_verdict verdict;

    candidates(leg, without, list, who, &count);
    verdict = nef_route(list, count, &request, &index);
    if (verdict == NEF_ROUTE_TAKEN)
        *out = who[index];
    return verdict;
}

static bool elsewhere(const struct leg *leg)
{
    struct backend *other;

    return choose(leg, leg->backend, false, &other) == NEF_ROUTE_TAKEN;
}

static bool begun(const struct leg *leg)
{
    return leg->splice != NULL && nef_splice_begun(leg->splice);
}

/* ---- losing ---- */

static void let_go(struct leg *leg)
{
    if (leg->call != NULL)
        nef_loop_cancel(leg->call);
    leg->call = NULL;
    if (leg->backend != NULL) {
        NEF_ASSERT(leg->backend->in_flight > 0);
        leg->backend->in_flight--;
    }
    leg->backend = NULL;
}

void leg_stop(struct leg *leg)
{
    if (leg->state == LEG_ACTIVE)
        let_go(leg);
    leg->state = LEG_DONE;
}

void leg_free(struct leg *leg)
{
    nef_splice_free(leg->splice);
    nef_sse_done(&leg->sse);
    nef_buf_free(&leg->answer);
    json_decref(leg->last_error);
}

static void give_up(struct leg *leg, unsigned status, const char *code, const char *message)
{
    json_t *error =
        leg->last_error != NULL ? json_incref(leg->last_error) : nef_ai_error(status, code, "", "%s", message);

    run_fail(leg->run, leg->last_status != 0 ? leg->last_status : status, error, RETRY_AFTER_S);
}

/* The try is over; another one follows. */
static void lost(struct leg *leg, enum nef_gateway_loss why, uint64_t now)
{
    struct backend *b = leg->backend;
    /* Being taken away from a backend that is out says nothing about the request. */
    uint64_t tokens = leg->splice != NULL ? nef_splice_tokens(leg->splice) : 0;

    nef_trace(NEF_TRACE_INFO, "ai_stream_lost", "s:id", leg->run->o.request_id, "s:backend", b->name, "u:why",
              (uint64_t)why, "u:status", (uint64_t)leg->status, "u:given", tokens, NULL);
    nef_gateway_metrics_loss(leg->run->g->metrics, why);
    (void)atomic_fetch_add_explicit(&b->losses, 1, memory_order_relaxed);
    leg->failed = b;
    let_go(leg);
    leg->state = LEG_WAITING;
    leg->lost_ns = now;
    if (tokens > leg->tokens)
        leg->barren = 0;
    else if (why != NEF_LOSS_HEALTH)
        leg->barren++;
    leg->tokens = tokens;
    leg->stalls += why == NEF_LOSS_STALL;
    leg->not_before_ns = 0;
    if (++leg->tries >= NEF_AI_TRIES_MAX || leg->barren >= BARREN_MAX) {
        give_up(leg, 502, "backend_failed", "The model's backends failed on this request.");
        return;
    }
    leg_start(leg, now);
}

/* ---- a stream ---- */

static bool on_event(void *context, const char *data, size_t bytes)
{
    struct leg *leg = context;
    json_t *event, *chunk = NULL;
    uint64_t now = nef_now_ns();
    nef_err err;

    if (leg->done_seen)
        return true;
    if (bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        leg->done_seen = true;
        return true;
    }
    event = json_loadb(data, bytes, JSON_ALLOW_NUL, NULL);
    err = event == NULL ? NEF_E_PROTOCOL : nef_splice_take(leg->splice, event, &chunk);
    if (err == NEF_E_UNAVAILABLE) {
        json_decref(leg->last_error);
        leg->last_error = json_incref(json_object_get(event, "error"));
        leg->last_status = 502;
    }
    json_decref(event);
    if (err != NEF_OK) {
        leg->garbage = err != NEF_E_UNAVAILABLE;
        return false;
    }
    if (leg->progress_ns != 0) {
        uint64_t gap = since(now, leg->progress_ns);

        leg->gap_ns = leg->gap_ns == 0 ? gap : (7 * leg->gap_ns + gap) / 8;
    } else if (leg->lost_ns != 0 && leg->given_ns != 0) {
        leg->run->continuations++;
        nef_gateway_metrics_pause(leg->run->g->metrics, since(now, leg->given_ns));
        nef_trace(NEF_TRACE_INFO, "ai_stream_continued", "s:id", leg->run->o.request_id, "s:backend",
                  leg->backend->name, "u:pause_us", (since(now, leg->given_ns)) / 1000, NULL);
    }
    leg->lost_ns = 0;
    leg->progress_ns = now;
    leg->backend->progress_ns = now;
    if (chunk != NULL)
        run_chunk(leg->run, leg, chunk);
    return !leg->run->ended;
}

static void on_head(void *context, unsigned status, const char *type)
{
    struct leg *leg = context;

    leg->status = status;
    leg->streams = leg->splice != NULL && status == 200 && strncasecmp(type, "text/event-stream", 17) == 0;
}

static bool on_data(void *context, const void *bytes, size_t count)
{
    struct leg *leg = context;

    if (leg->streams)
        return nef_sse_take(&leg->sse, bytes, count, on_event, leg) == NEF_OK;
    nef_buf_append(&leg->answer, bytes, count);
    if (leg->splice == NULL)
        leg->progress_ns = nef_now_ns();
    return !leg->answer.failed;
}

/* ---- the end of a try ---- */

static void keep_error(struct leg *leg)
{
    json_t *root = json_loadb((const char *)leg->answer.data, leg->answer.bytes, 0, NULL);
    json_t *error = json_object_get(root, "error");

    if (!json_is_object(error) && json_is_string(json_object_get(root, "message")))
        error = root; /* vLLM's older form */
    json_decref(leg->last_error);
    leg->last_error = NULL;
    if (json_is_object(error))
        leg->last_error = nef_ai_error(
            leg->status,
            json_is_string(json_object_get(error, "code")) ? json_string_value(json_object_get(error, "code")) : "",
            json_is_string(json_object_get(error, "param")) ? json_string_value(json_object_get(error, "param")) : "",
            "%s",
            json_is_string(json_object_get(error, "message")) ? json_string_value(json_object_get(error, "message"))
                                                              : "The backend refused the request.");
    leg->last_status = leg->status;
    json_decref(root);
}

/* Is it the request that is wrong, and not the backend? */
static bool is_refusal(unsigned status)
{
    return status == 400 || status == 404 || status == 405 || status == 413 || status == 415 || status == 422;
}

static bool is_loading(const struct leg *leg)
{
    json_t *root;
    const char *code;
    bool loading;

    if (leg->status != 503 || !leg->backend->speaks.built_in)
        return false;
    root = json_loadb((const char *)leg->answer.data, leg->answer.bytes, 0, NULL);
    code = json_string_value(json_object_get(json_object_get(root, "error"), "code"));
    loading = code != NULL && strcmp(code, NEF_API_LOADING) == 0;
    json_decref(root);
    return loading;
}

static void done(struct leg *leg)
{
    let_go(leg);
    leg->state = LEG_DONE;
    run_leg_done(leg->run);
}

static void on_refused(struct leg *leg, uint64_t now)
{
    keep_error(leg);
    if (is_refusal(leg->status) && !begun(leg)) {
        run_fail(leg->run, leg->status,
                 leg->last_error != NULL ? json_incref(leg->last_error)
                                         : nef_ai_error(leg->status, "", "", "The backend refused the request."),
                 0);
        return;
    }
    if (is_refusal(leg->status) && leg->splice != NULL)
        nef_splice_refused(leg->splice);
    if (!is_refusal(leg->status) && leg->status < 500 && leg->status != 429) {
        /* our key, say: not the client's to read */
        json_decref(leg->last_error);
        leg->last_error = NULL;
        leg->last_status = 502;
    }
    lost(leg, NEF_LOSS_STATUS, now);
}

static void on_end(void *context, nef_err err)
{
    struct leg *leg = context;
    uint64_t now = nef_now_ns();

    leg->call = NULL;
    if (leg->run->ended)
        return;
    if (err == NEF_OK && is_loading(leg))
        err = NEF_E_CLOSED; /* started again since it was asked last: as if it weren't there yet */
    if (leg->splice != NULL && nef_splice_finished(leg->splice) && !leg->garbage) {
        done(leg);
    } else if (err == NEF_OK && leg->splice == NULL && leg->status == 200) {
        done(leg);
    } else if (err == NEF_OK && leg->status != 200) {
        on_refused(leg, now);
    } else if (err == NEF_E_PROTOCOL && leg->last_error != NULL && !leg->garbage) {
        lost(leg, NEF_LOSS_STATUS, now);
    } else if (err == NEF_E_PROTOCOL || err == NEF_OK) {
        /* a stream that ends without an end breaks off; anything else that isn't a stream is garbage */
        lost(leg, err == NEF_OK && leg->streams ? NEF_LOSS_CONNECTION : NEF_LOSS_GARBAGE, now);
    } else {
        if (err == NEF_E_PEER || leg->backend->kind == BACKEND_ENGINE)
            backend_suspect(leg->backend, now);
        /* that may have moved this leg already */
        if (leg->state == LEG_ACTIVE && leg->call == NULL)
            lost(leg, NEF_LOSS_CONNECTION, now);
    }
}

/* ---- the beginning of a try ---- */

static const char *path_of(enum nef_ai_kind kind)
{
    return kind == NEF_AI_CHAT         ? "/v1/chat/completions"
           : kind == NEF_AI_COMPLETION ? "/v1/completions"
                                       : "/v1/embeddings";
}

static nef_err ask(struct leg *leg, struct backend *b, const char *body, size_t bytes)
{
    const struct nef_ai_run *run = leg->run;
    char salt[96], weight[48], priority[48], id[96], target[NEF_BACKEND_NAME_MAX + 24], model[NEF_MODEL_NAME_MAX + 24];
    const char *headers[7];
    size_t count = 0;
    const struct nef_loop_call_options o = {
        .headers = headers,
        .body = body,
        .body_bytes = bytes,
        .head = on_head,
        .data = on_data,
        .end = on_end,
        .context = leg,
    };

    (void)snprintf(id, sizeof(id), "x-request-id: %s", run->o.request_id);
    headers[count++] = id;
    if (b->kind != BACKEND_EXTERNAL) {
        (void)snprintf(salt, sizeof(salt), "x-nef-cache-salt: %s", run->o.caller.salt);
        (void)snprintf(weight, sizeof(weight), "x-nef-weight: %u", run->o.caller.weight);
        (void)snprintf(priority, sizeof(priority), "x-nef-priority: %u", run->o.caller.priority);
        headers[count++] = salt;
        headers[count++] = weight;
        headers[count++] = priority;
    }
    if (b->kind == BACKEND_REMOTE) {
        (void)snprintf(target, sizeof(target), "x-nef-backend: %s", b->name + strlen(b->peer->zone) + 1);
        (void)snprintf(model, sizeof(model), "x-nef-model: %s", run->model);
        headers[count++] = target;
    }
    headers[count] = NULL;
    return backend_call(b, path_of(run->o.kind), &o, &leg->call);
}

static nef_err start_on(struct leg *leg, struct backend *b, uint64_t now)
{
    json_t *body = NULL;
    char *text = NULL;
    nef_err err = NEF_OK;

    if (leg->splice != NULL)
        err = nef_splice_request(leg->splice, &b->speaks, &body);
    else
        body = json_incref(leg->run->o.body);
    if (err == NEF_OK) {
        text = json_dumps(body, JSON_COMPACT);
        err = text == NULL ? NEF_E_NOMEM : NEF_OK;
    }
    if (err == NEF_OK) {
        nef_sse_done(&leg->sse);
        nef_sse_init(&leg->sse, NEF_AI_EVENT_MAX);
        nef_buf_reset(&leg->answer);
        leg->status = 0;
        leg->streams = leg->done_seen = leg->garbage = false;
        err = ask(leg, b, text, strlen(text));
    }
    if (text != NULL)
        nef_wipe(text, strlen(text));
    free(text);
    json_decref(body);
    if (err != NEF_OK)
        return err;
    leg->backend = b;
    b->in_flight++;
    (void)atomic_fetch_add_explicit(&b->requests, 1, memory_order_relaxed);
    leg->state = LEG_ACTIVE;
    leg->started_ns = now;
    leg->progress_ns = 0;
    if (leg->run->paused)
        nef_loop_pause(leg->call, true);
    return NEF_OK;
}

/* The answer has its max_tokens already, and only its end was lost. */
static void end_by_length(struct leg *leg)
{
    json_t *event = leg->run->o.kind == NEF_AI_CHAT
                        ? json_pack("{s:s, s:[{s:i, s:{}, s:s}]}", "object", "chat.completion.chunk", "choices",
                                    "index", 0, "delta", "finish_reason", "length")
                        : json_pack("{s:s, s:[{s:i, s:s, s:s}]}", "object", "text_completion", "choices", "index", 0,
                                    "text", "", "finish_reason", "length");
    json_t *chunk = NULL;

    if (event == NULL || nef_splice_take(leg->splice, event, &chunk) != NEF_OK || chunk == NULL) {
        json_decref(event);
        run_fail(leg->run, 500, nef_ai_error(500, "", "", "Out of memory."), 0);
        return;
    }
    json_decref(event);
    run_chunk(leg->run, leg, chunk);
    leg->state = LEG_DONE;
    run_leg_done(leg->run);
}

static void wait_for_any(struct leg *leg, uint64_t now, const char *why)
{
    if (leg->lost_ns == 0)
        leg->lost_ns = now;
    if (since(now, leg->lost_ns) > leg->run->g->ai->timing.hold_ns) {
        give_up(leg, 503, "no_backend", why);
        return;
    }
    leg->not_before_ns = now + WAIT_NS;
}

void leg_start(struct leg *leg, uint64_t now)
{
    struct nef_ai_run *run = leg->run;
    struct backend *b = NULL;
    /* What was begun goes on. What wasn't is judged anew when it lost its place: capacity may have halved. */
    bool admit = !begun(leg) && leg->index == 0;
    nef_err err;

    switch (choose(leg, NULL, admit, &b)) {
    case NEF_ROUTE_NO_MODEL:
        if (run->admitted || backends_know(run->g, run->model)) {
            wait_for_any(leg, now, "No backend has this model now.");
            return;
        }
        run_fail(run, 404,
                 nef_ai_error(404, "model_not_found", "model",
                              "The model '%.120s' does not exist or you do not have access to it.", run->model),
                 0);
        return;
    case NEF_ROUTE_DENIED:
        run_fail(run, 403, nef_ai_error(403, "zone_denied", "", "No zone that may compute for this key has the model."),
                 0);
        return;
    case NEF_ROUTE_NONE_HEALTHY:
        wait_for_any(leg, now, "No backend of this model answers now.");
        return;
    case NEF_ROUTE_SHED:
        nef_gateway_metrics_shed(run->g->metrics);
        run_fail(run, 503,
                 nef_ai_error(503, "overloaded", "",
                              "The region has more requests than it can compute now; try again soon."),
                 RETRY_AFTER_S);
        return;
    case NEF_ROUTE_TAKEN:
        break;
    }
    if (leg->failed == b && leg->lost_ns != 0 && since(now, leg->lost_ns) < AGAIN_NS) {
        leg->not_before_ns = leg->lost_ns + AGAIN_NS;
        return;
    }
    err = start_on(leg, b, now);
    if (err == NEF_E_RANGE)
        end_by_length(leg);
    else if (err != NEF_OK)
        run_fail(run, err == NEF_E_UNSUPPORTED ? 502 : 500,
                 nef_ai_error(502, nef_err_name(err), "", "The answer can't go on: %s.", nef_err_text(err)), 0);
}

/* ---- watching ---- */

void leg_move(struct leg *leg, uint64_t now)
{
    if (leg->splice != NULL && nef_splice_finished(leg->splice))
        return; /* only usage is missing */
    if (elsewhere(leg))
        lost(leg, NEF_LOSS_HEALTH, now);
}

static void watch(struct leg *leg, uint64_t now)
{
    const struct nef_gateway *g = leg->run->g;
    uint64_t limit;

    if (leg->splice != NULL && nef_splice_finished(leg->splice)) {
        if (leg->done_seen || since(now, leg->progress_ns) > g->ai->timing.stall_ns)
            done(leg); /* the end of the connection is nothing to wait for */
        return;
    }
    if (leg->run->paused)
        return;
    if (!leg->backend->healthy && elsewhere(leg)) {
        lost(leg, NEF_LOSS_HEALTH, now);
        return;
    }
    if (leg->progress_ns == 0 || leg->splice == NULL) {
        if (!leg->backend->speaks.built_in && since(now, leg->started_ns) > g->ai->timing.first_token_ns)
            lost(leg, NEF_LOSS_STALL, now);
        return;
    }
    limit = NEF_MAX(g->ai->timing.stall_ns << NEF_MIN(leg->stalls, STALLS_MAX), GAP_TIMES * leg->gap_ns);
    if (since(now, leg->progress_ns) <= limit)
        return;
    if (elsewhere(leg) || (!leg->backend->speaks.built_in && since(now, leg->progress_ns) > STUCK_TIMES * limit))
        lost(leg, NEF_LOSS_STALL, now);
}

void leg_tick(struct leg *leg, uint64_t now)
{
    switch (leg->state) {
    case LEG_WAITING:
        if (now >= leg->not_before_ns)
            leg_start(leg, now);
        break;
    case LEG_ACTIVE:
        watch(leg, now);
        break;
    case LEG_DONE:
        break;
    }
}
