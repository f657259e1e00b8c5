/* What a request asks for: who, which model, how much of a budget, and the run. In a worker; the run's callbacks in the
 * loop's thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "gateway/call_internal.h"
#include "io/clock.h"

#define ANSWER_GUESS 1024u /* tokens of an answer whose length the client doesn't bound */

/* ---- results ---- */

/* The stage's end: what was written before is seen by the listener's thread. A client that left meanwhile told nobody.
 */
static void set_stage(struct call *c, enum stage stage)
{
    bool closed;

    (void)pthread_mutex_lock(&c->lock);
    atomic_store(&c->stage, stage);
    closed = c->closed;
    (void)pthread_mutex_unlock(&c->lock);
    if (!closed)
        return;
    if (stage == STAGE_LIMITS)
        nef_limits_settle(c->g->limits, &c->hold, 0);
    if (stage == STAGE_RUNNING)
        nef_ai_run_cancel(c->run);
    if (stage == STAGE_RESPONSES)
        nef_responses_closed(c->responses);
}

/* Takes error. */
static void refused(struct call *c, unsigned status, json_t *error, uint32_t retry_after)
{
    c->end_status = status;
    json_decref(c->error);
    c->error = error;
    c->retry_after = retry_after;
}

static bool refuse(struct call *c, unsigned status, json_t *error)
{
    refused(c, status, error, status == 429 || status == 503 ? 1 : 0);
    return false;
}

/* ---- the run's callbacks ---- */

static void write_event(struct nef_buf *out, const json_t *event)
{
    char *text = json_dumps(event, JSON_COMPACT);

    if (text == NULL) {
        out->failed = true;
        return;
    }
    nef_buf_text(out, "data: ");
    nef_buf_text(out, text);
    nef_buf_text(out, "\n\n");
    free(text);
}

static void on_chunk(void *context, json_t *chunk)
{
    struct call *c = context;
    bool wake = true;

    (void)pthread_mutex_lock(&c->lock);
    if (c->stream) {
        bool only_usage = json_array_size(json_object_get(chunk, "choices")) == 0;

        wake = c->pending.bytes == 0;
        if (!only_usage || c->include_usage)
            write_event(&c->pending, chunk);
        c->given = c->given || !only_usage;
        if (c->pending.bytes - c->pending_at > NEF_AI_PENDING_MAX && !c->paused) {
            c->paused = true;
            nef_ai_run_pause(c->run, true); /* under the lock: the reader may want it resumed at once, and then last */
        }
    } else {
        wake = false;
        if (c->route->ai == NEF_AI_EMBEDDING) {
            json_decref(c->request);
            c->request = json_incref(chunk);
        } else if (c->whole_err == NEF_OK) {
            c->whole_err = nef_whole_take(c->whole, chunk);
        }
    }
    (void)pthread_mutex_unlock(&c->lock);
    if (wake)
        nef_http_wake(c->http);
}

static void on_end(void *context, const struct nef_ai_end *end)
{
    struct call *c = context;

    (void)pthread_mutex_lock(&c->lock);
    c->ended = true;
    c->end_status = end->status;
    c->retry_after = end->retry_after;
    c->usage = end->usage;
    c->continuations = end->continuations;
    c->first_ns = end->first_token_ns;
    if (end->error != NULL)
        c->error = json_incref((json_t *)(uintptr_t)end->error);
    if (end->status == 200 && c->whole_err != NEF_OK) {
        c->end_status = 500;
        c->error = nef_ai_error(500, nef_err_name(c->whole_err), "", "The answer can't be put together: %s.",
                                nef_err_text(c->whole_err));
    }
    if (c->stream && end->status == 200) {
        nef_buf_text(&c->pending, "data: [DONE]\n\n");
    } else if (c->stream && c->given) {
        json_t *event = json_pack("{s:O}", "error", c->error != NULL ? c->error : json_null());

        if (event != NULL)
            write_event(&c->pending, event);
        json_decref(event);
    }
    (void)pthread_mutex_unlock(&c->lock);
    /* what was really computed, also for those who left in the middle */
    nef_limits_settle(c->g->limits, &c->hold, end->usage.prompt + end->usage.completion);
    nef_http_wake(c->http);
    ai_call_unref(c);
}

static bool start_run(struct call *c)
{
    struct nef_ai_run_options o = {
        .kind = c->route->ai,
        .body = c->request,
        .chunk = on_chunk,
        .end = on_end,
        .context = c,
    };
    nef_err err = NEF_OK;

    (void)snprintf(o.request_id, sizeof(o.request_id), "%s", c->request_id);
    auth_caller(c->g, &c->user, &o.caller);
    if (!c->stream && o.kind != NEF_AI_EMBEDDING)
        err = nef_whole_new(o.kind, &c->whole);
    ai_call_ref(c); /* until on_end */
    (void)pthread_mutex_lock(&c->lock); /* callbacks may come before run is set; they wait for this */
    if (err == NEF_OK)
        err = nef_ai_run_start(c->g, &o, &c->run);
    (void)pthread_mutex_unlock(&c->lock);
    if (err == NEF_OK)
        return true;
    ai_call_unref(c);
    nef_limits_settle(c->g->limits, &c->hold, 0);
    return refuse(c, err == NEF_E_NOMEM ? 500 : 503,
                  nef_ai_error(503, nef_err_name(err), "", "The request can't be taken now: %s.", nef_err_text(err)));
}

/* ---- budgets ---- */

static void on_room(void *context)
{
    struct call *c = context;

    nef_http_wake(c->http);
}

static bool too_much(struct call *c)
{
    uint32_t after = (c->now.retry_after_ms + 999) / 1000;

    refused(c, 429,
            nef_ai_error(429, "rate_limit_exceeded", "",
                         c->now.concurrency ? "This key has as many answers under way as it may have."
                                            : "This key's budget of requests or tokens is used up; try again in %u s.",
                         NEF_MAX(after, 1)),
            NEF_MAX(after, 1));
    return false;
}

/* The stage that follows. */
static enum stage take(struct call *c)
{
    nef_err err = nef_limits_take(c->g->limits, &c->user, c->tokens, &c->hold, on_room, c, &c->now);

    if (err == NEF_E_AGAIN)
        return STAGE_LIMITS;
    if (err == NEF_E_BUSY)
        return too_much(c) ? STAGE_RUNNING : STAGE_REFUSED;
    if (err != NEF_OK) {
        (void)refuse(c, 503, nef_ai_error(503, nef_err_name(err), "", "The budget can't be asked for now."));
        return STAGE_REFUSED;
    }
    return start_run(c) ? STAGE_RUNNING : STAGE_REFUSED;
}

enum nef_http_next ai_call_take(struct call *c)
{
    enum stage stage;

    if (nef_http_gone(c->http))
        return NEF_HTTP_DROP; /* closed() gives the hold back */
    stage = take(c);
    if (stage == STAGE_LIMITS)
        return NEF_HTTP_WAIT;
    set_stage(c, stage);
    nef_http_wake(c->http); /* to be called again at once, with the new stage */
    return NEF_HTTP_WAIT;
}

/* ---- the request ---- */

/* What a body costs as a tree: counted before it is one. */
static bool fits(const struct nef_buf *body)
{
    uint64_t containers = 0, values = 0;
    bool in_string = false;

    for (size_t i = 0; i < body->bytes; i++) {
        uint8_t byte = body->data[i];

        if (in_string) {
            if (byte == '\\')
                i++;
            else if (byte == '"')
                in_string = false;
            continue;
        }
        in_string = byte == '"';
        containers += byte == '{' || byte == '[';
        values += byte == ',';
    }
    return containers <= NEF_INFER_JSON_CONTAINERS_MAX && values <= NEF_INFER_JSON_VALUES_MAX;
}

/* Bytes of all texts. */
static uint64_t text_bytes(const json_t *value)
{
    uint64_t sum = 0;
    const char *name;
    json_t *member;
    size_t i;

    if (json_is_string(value))
        return json_string_length(value);
    if (json_is_integer(value))
        return 3; /* an id of a token */
    json_array_foreach(value, i, member)
        sum += text_bytes(member);
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
        sum += text_bytes(member);
    return sum;
}

static uint64_t tokens_of(const struct call *c)
{
    static const char *const prompts[] = {"messages", "prompt", "input", "tools"};
    static const char *const answers[] = {"max_completion_tokens", "max_tokens"};
    uint64_t sum = 0, answer = c->route->ai == NEF_AI_EMBEDDING ? 0 : ANSWER_GUESS, n = 1;
    const json_t *value = json_object_get(c->request, "n");

    for (size_t i = 0; i < NEF_COUNT(prompts); i++)
        sum += nef_limits_guess(text_bytes(json_object_get(c->request, prompts[i])));
    for (size_t i = NEF_COUNT(answers); i-- > 0;) {
        const json_t *most = json_object_get(c->request, answers[i]);

        if (json_is_integer(most) && json_integer_value(most) > 0)
            answer = (uint64_t)json_integer_value(most);
    }
    if (json_is_integer(value) && json_integer_value(value) > 0)
        n = NEF_MIN((uint64_t)json_integer_value(value), NEF_AI_CHOICES_MAX);
    return sum + n * NEF_MIN(answer, NEF_MODEL_CONTEXT_MAX);
}

static bool parse(struct call *c)
{
    const json_t *model, *options;
    json_error_t error;

    if (!fits(&c->body))
        return refuse(c, 413, nef_ai_error(413, "", "", "The body has too many values."));
    c->request = json_loadb((const char *)c->body.data, c->body.bytes, JSON_ALLOW_NUL, &error);
    nef_buf_free(&c->body);
    if (!json_is_object(c->request))
        return refuse(c, 400, nef_ai_error(400, "invalid_json", "", "The body isn't a JSON object."));
    model = json_object_get(c->request, "model");
    if (!json_is_string(model) || json_string_length(model) == 0)
        return refuse(c, 400,
                      nef_ai_error(400, "missing_required_parameter", "model", "you must provide a model parameter"));
    if (json_string_length(model) > NEF_MODEL_NAME_MAX || !nef_ai_allows_model(&c->user, json_string_value(model)))
        return refuse(
            c, 404,
            nef_ai_error(404, "model_not_found", "model", "The model does not exist or you do not have access to it."));
    /* the gateway's own way of going on isn't a client's */
    if (json_object_get(c->request, "nef_continue_token_ids") != NULL)
        return refuse(c, 400,
                      nef_ai_error(400, "unknown_parameter", "nef_continue_token_ids",
                                   "Unknown parameter: 'nef_continue_token_ids'."));
    options = json_object_get(c->request, "stream_options");
    c->stream = c->route->ai != NEF_AI_EMBEDDING && json_is_true(json_object_get(c->request, "stream"));
    c->include_usage = json_is_true(json_object_get(options, "include_usage"));
    return true;
}

/* ---- /v1/models ---- */

static void list_models(struct call *c)
{
    struct nef_model_info *list = NULL;
    uint32_t count = 0, told = 0;

    nef_buf_text(&c->document, "{\"object\":\"list\",\"data\":[");
    if (nef_models_list(c->g->models, &list, &count) != NEF_OK)
        c->document.failed = true;
    for (uint32_t i = 0; i < count; i++) {
        if (!nef_ai_allows_model(&c->user, list[i].name))
            continue;
        nef_buf_text(&c->document, told++ > 0 ? "," : "");
        nef_models_json(&list[i], &c->document);
    }
    free(list);
    backends_models_json(c->g, &c->user, &told, &c->document);
    nef_buf_text(&c->document, "]}");
}

static bool tell_model(struct call *c)
{
    const char *name = c->path + strlen("/v1/models/");
    struct nef_model_info info;

    if (name[0] != '\0' && nef_ai_allows_model(&c->user, name)) {
        if (nef_models_find(c->g->models, name, &info) == NEF_OK) {
            nef_models_json(&info, &c->document);
            return true;
        }
        if (backends_know(c->g, name)) {
            json_t *model =
                json_pack("{s:s, s:s, s:i, s:s}", "id", name, "object", "model", "created", 0, "owned_by", "nef");
            char *text = model != NULL ? json_dumps(model, JSON_COMPACT) : NULL;

            nef_buf_text(&c->document, text != NULL ? text : "{}");
            free(text);
            json_decref(model);
            return true;
        }
    }
    return refuse(
        c, 404,
        nef_ai_error(404, "model_not_found", "model", "The model does not exist or you do not have access to it."));
}

/* ---- */

static bool authenticate(struct call *c)
{
    nef_err err = auth_user(c->g, c->authorization, &c->user);

    nef_wipe(c->authorization, strlen(c->authorization));
    if (err == NEF_OK)
        return true;
    if (err == NEF_E_PRECONDITION)
        return refuse(c, 403, nef_ai_error(403, "no_ai_rights", "", "This key may not use models."));
    if (err == NEF_E_DENIED)
        return refuse(c, 401, nef_ai_error(401, "invalid_api_key", "", "Incorrect API key provided."));
    return refuse(c, 503, nef_ai_error(503, nef_err_name(err), "", "The region can't look up the key now."));
}

static enum stage run_stage(struct call *c)
{
    if (!parse(c))
        return STAGE_REFUSED;
    c->tokens = tokens_of(c);
    return take(c);
}

void ai_call_work(struct call *c)
{
    enum stage stage = STAGE_REFUSED;
    nef_err err;

    if (authenticate(c)) {
        switch (c->route->kind) {
        case ROUTE_MODELS:
            list_models(c);
            stage = STAGE_DOCUMENT;
            break;
        case ROUTE_MODEL:
            stage = tell_model(c) ? STAGE_DOCUMENT : STAGE_REFUSED;
            break;
        case ROUTE_RUN:
            stage = run_stage(c);
            break;
        case ROUTE_RESPONSES:
            err = nef_responses_open(c->g->responses, c->http, &c->user, c->request_id, &c->body, &c->responses);
            stage = err == NEF_OK ? STAGE_RESPONSES : STAGE_REFUSED;
            if (err != NEF_OK)
                (void)refuse(c, err == NEF_E_NOMEM ? 500 : 503,
                             nef_ai_error(503, nef_err_name(err), "", "The request can't be taken now."));
            break;
        case ROUTE_HEALTH:
            break;
        }
    }
    set_stage(c, stage);
}
