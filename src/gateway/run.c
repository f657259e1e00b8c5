/* Runs: start, chunks, end; see run.h. Their legs are in leg.c. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/philox.h"
#include "base/trace.h"
#include "gateway/run_internal.h"
#include "io/clock.h"

static const char *type_of(unsigned status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static json_t *text_or_null(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

json_t *nef_ai_error(unsigned status, const char *code, const char *param, const char *format, ...)
{
    char message[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    return json_pack("{s:s, s:s, s:o, s:o}", "message", message, "type", type_of(status), "param", text_or_null(param),
                     "code", text_or_null(code));
}

/* ---- references ---- */

static void run_free(struct nef_ai_run *run)
{
    for (uint32_t i = 0; i < run->leg_count; i++)
        leg_free(&run->legs[i]);
    free(run->legs);
    json_decref(run->o.body);
    json_decref(run->o.given);
    (void)atomic_fetch_sub(&run->g->run_count, 1);
    free(run);
}

void nef_ai_run_unref(struct nef_ai_run *run)
{
    if (run != NULL && atomic_fetch_sub_explicit(&run->refs, 1, memory_order_acq_rel) == 1)
        run_free(run);
}

static void run_ref(struct nef_ai_run *run)
{
    atomic_fetch_add_explicit(&run->refs, 1, memory_order_relaxed);
}

/* ---- the end ---- */

static struct nef_ai_usage usage_of(const struct nef_ai_run *run)
{
    struct nef_ai_usage sum = {0};

    for (uint32_t i = 0; i < run->leg_count; i++) {
        struct nef_ai_usage u;

        if (run->legs[i].splice == NULL)
            continue;
        u = nef_splice_usage(run->legs[i].splice);
        if (i % run->choices == 0) { /* the choices of a prompt share it */
            sum.prompt += u.prompt;
            sum.cached += u.cached;
        }
        sum.completion += u.completion;
        sum.reasoning += u.reasoning;
    }
    return sum;
}

static struct nef_ai_usage usage_of_embedding(const struct nef_ai_run *run)
{
    const struct leg *leg = &run->legs[0];
    json_t *root = json_loadb((const char *)leg->answer.data, leg->answer.bytes, 0, NULL);
    struct nef_ai_usage usage = {
        .prompt = (uint64_t)json_integer_value(json_object_get(json_object_get(root, "usage"), "prompt_tokens"))};

    json_decref(root);
    return usage;
}

static void finish(struct nef_ai_run *run, const struct nef_ai_end *end)
{
    uint64_t now = nef_now_ns();

    NEF_ASSERT(!run->ended);
    run->ended = true;
    for (uint32_t i = 0; i < run->leg_count; i++)
        leg_stop(&run->legs[i]);
    nef_gateway_metrics_run(run->g->metrics, run->o.kind, end, now - run->start_ns,
                            run->first_ns == 0 ? 0 : run->first_ns - run->start_ns);
    run->o.end(run->o.context, end);
}

/* Taken off the list later, by the tick: whoever ended it may be walking the list. */
void run_fail(struct nef_ai_run *run, unsigned status, json_t *error, uint32_t retry_after)
{
    struct nef_ai_end end = {
        .status = status,
        .error = error,
        .retry_after = retry_after,
        .continuations = run->continuations,
        .first_token_ns = run->first_ns,
    };

    if (run->ended) {
        json_decref(error);
        return;
    }
    if (run->o.kind != NEF_AI_EMBEDDING)
        end.usage = usage_of(run);
    finish(run, &end);
    json_decref(error);
}

static json_t *usage_json(const struct nef_ai_usage *u)
{
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:{s:I}}", "prompt_tokens", (json_int_t)u->prompt, "completion_tokens",
                     (json_int_t)u->completion, "total_tokens", (json_int_t)(u->prompt + u->completion),
                     "prompt_tokens_details", "cached_tokens", (json_int_t)u->cached, "completion_tokens_details",
                     "reasoning_tokens", (json_int_t)u->reasoning);
}

static void give_usage(struct nef_ai_run *run, const struct nef_ai_usage *usage)
{
    json_t *chunk = json_pack("{s:s, s:s, s:I, s:s, s:[], s:o}", "id", run->id, "object",
                              run->o.kind == NEF_AI_CHAT ? "chat.completion.chunk" : "text_completion", "created",
                              (json_int_t)run->created_s, "model", run->model, "choices", "usage", usage_json(usage));

    if (chunk != NULL)
        run->o.chunk(run->o.context, chunk);
    json_decref(chunk);
}

static void give_embedding(struct nef_ai_run *run)
{
    json_t *root = json_loadb((const char *)run->legs[0].answer.data, run->legs[0].answer.bytes, 0, NULL);

    if (json_is_object(root) && json_object_set_new(root, "model", json_string(run->model)) == 0)
        run->o.chunk(run->o.context, root);
    json_decref(root);
}

void run_leg_done(struct nef_ai_run *run)
{
    struct nef_ai_end end = {.status = 200, .continuations = run->continuations};

    if (++run->legs_done < run->leg_count || run->ended)
        return;
    if (run->o.kind == NEF_AI_EMBEDDING) {
        end.usage = usage_of_embedding(run);
        give_embedding(run);
    } else {
        end.usage = usage_of(run);
        give_usage(run, &end.usage);
    }
    end.first_token_ns = run->first_ns;
    if (!run->ended)
        finish(run, &end);
}

/* ---- chunks ---- */

void run_chunk(struct nef_ai_run *run, struct leg *leg, json_t *chunk)
{
    json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    uint64_t now = nef_now_ns();

    if (run->ended) {
        json_decref(chunk);
        return;
    }
    if (json_object_set_new(chunk, "id", json_string(run->id)) != 0 ||
        json_object_set_new(chunk, "created", json_integer((json_int_t)run->created_s)) != 0 ||
        json_object_set_new(chunk, "model", json_string(run->model)) != 0 ||
        json_object_set_new(choice, "index", json_integer(leg->index)) != 0) {
        json_decref(chunk);
        run_fail(run, 500, nef_ai_error(500, "", "", "Out of memory."), 0);
        return;
    }
    if (run->first_ns == 0 && nef_splice_begun(leg->splice))
        run->first_ns = now;
    leg->given_ns = now;
    run->o.chunk(run->o.context, chunk);
    json_decref(chunk);
}

/* ---- the start: what the body says ---- */

/* The body of choice J of prompt I. Each choice is a stream of its own with a seed of its own, which follows from the
 * request's as in the built-in engine: so a choice is the same whoever splits the request, and whoever goes on with it.
 * Other engines are given one that isn't negative (some take that for "any"). */
static json_t *leg_body(const struct nef_ai_run *run, const json_t *prompts, uint32_t prompt, uint32_t choice,
                        uint64_t seed)
{
    json_t *body = json_copy(run->o.body);
    bool good = body != NULL;

    if (!good)
        return NULL;
    (void)json_object_del(body, "n");
    (void)json_object_del(body, "best_of");
    (void)json_object_del(body, "stream_options");
    if (prompts != NULL)
        good = json_object_set(body, "prompt", json_array_get(prompts, prompt)) == 0;
    if (good && choice > 0)
        good = json_object_set_new(body, "seed", json_integer((json_int_t)(seed & INT64_MAX))) == 0;
    if (good)
        return body;
    json_decref(body);
    return NULL;
}

/* Several prompts: an array of texts, or of arrays of ids. */
static const json_t *prompts_of(const struct nef_ai_run *run)
{
    const json_t *prompt = run->o.kind == NEF_AI_COMPLETION ? json_object_get(run->o.body, "prompt") : NULL;
    const json_t *first = json_array_get(prompt, 0);

    return json_is_string(first) || json_is_array(first) ? prompt : NULL;
}

static nef_err make_legs(struct nef_ai_run *run)
{
    const json_t *prompts = prompts_of(run), *n = json_object_get(run->o.body, "n");
    const json_t *own_seed = json_object_get(run->o.body, "seed");
    uint64_t seed = json_is_integer(own_seed) ? (uint64_t)json_integer_value(own_seed) : nef_random_u64();
    uint32_t prompt_count = prompts != NULL ? (uint32_t)json_array_size(prompts) : 1;
    nef_err err = NEF_OK;

    if ((n != NULL && !json_is_null(n) &&
         (!json_is_integer(n) || json_integer_value(n) < 1 || json_integer_value(n) > NEF_AI_CHOICES_MAX)) ||
        prompt_count > NEF_AI_CHOICES_MAX)
        return NEF_E_RANGE;
    run->choices = json_is_integer(n) ? (uint32_t)json_integer_value(n) : 1;
    if (run->o.kind == NEF_AI_EMBEDDING)
        run->choices = 1;
    if (run->choices * prompt_count > NEF_AI_CHOICES_MAX)
        return NEF_E_RANGE;
    run->legs = calloc(run->choices * prompt_count, sizeof(*run->legs));
    if (run->legs == NULL)
        return NEF_E_NOMEM;
    run->leg_count = run->choices * prompt_count;
    for (uint32_t i = 0; i < run->leg_count && err == NEF_OK; i++) {
        struct leg *leg = &run->legs[i];
        uint32_t choice = i % run->choices;
        uint64_t own = nef_choice_seed(seed, choice);
        json_t *body;

        leg->run = run;
        leg->index = i;
        leg->answer.max = NEF_AI_ANSWER_MAX;
        nef_sse_init(&leg->sse, NEF_AI_EVENT_MAX);
        if (run->o.kind == NEF_AI_EMBEDDING)
            continue;
        body = leg_body(run, prompts, i / run->choices, choice, own);
        err = body == NULL ? NEF_E_NOMEM : nef_splice_new(run->o.kind, body, own, &leg->splice);
        json_decref(body);
    }
    return err;
}

static nef_err take_given(struct nef_ai_run *run)
{
    size_t i;
    json_t *chunk;
    nef_err err = NEF_OK;

    json_array_foreach(run->o.given, i, chunk) {
        const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
        uint64_t index = (uint64_t)json_integer_value(json_object_get(choice, "index"));
        const char *id = json_string_value(json_object_get(chunk, "id"));

        if (choice == NULL || err != NEF_OK)
            continue;
        if (i == 0 && id != NULL && strlen(id) < sizeof(run->id)) {
            (void)snprintf(run->id, sizeof(run->id), "%s", id);
            run->created_s = (uint64_t)json_integer_value(json_object_get(chunk, "created"));
        }
        err = index < run->leg_count ? nef_splice_given(run->legs[index].splice, chunk) : NEF_E_INVALID;
    }
    return err;
}

/* In the loop's thread. */
static void begin(struct nef_ai_run *run)
{
    struct nef_gateway *g = run->g;
    uint64_t now = nef_now_ns();
    nef_err err;

    run->next = g->runs;
    if (run->next != NULL)
        run->next->previous = run;
    g->runs = run;
    run->listed = true;
    if (run->model == NULL) {
        run_fail(run, 400,
                 nef_ai_error(400, "missing_required_parameter", "model", "you must provide a model parameter"), 0);
        return;
    }
    err = make_legs(run);
    if (err == NEF_OK && run->o.given != NULL)
        err = take_given(run);
    if (err == NEF_E_RANGE) {
        run_fail(
            run, 400,
            nef_ai_error(400, "invalid_value", "n", "At most %u choices of all prompts together.", NEF_AI_CHOICES_MAX),
            0);
        return;
    }
    if (err != NEF_OK) {
        run_fail(run, 500,
                 nef_ai_error(500, nef_err_name(err), "", "The request can't be begun: %s.", nef_err_text(err)), 0);
        return;
    }
    for (uint32_t i = 0; i < run->leg_count && !run->ended; i++) {
        struct leg *leg = &run->legs[i];

        if (leg->splice != NULL && nef_splice_finished(leg->splice)) {
            leg->state = LEG_DONE;
            run_leg_done(run);
        } else {
            leg_start(leg, now);
        }
    }
    run->admitted = true;
}

static void on_post(struct nef_post *post)
{
    struct nef_ai_run *run = (struct nef_ai_run *)(void *)((char *)post - offsetof(struct nef_ai_run, post));
    bool paused;

    if (!run->listed && !run->ended)
        begin(run);
    if (atomic_load(&run->cancel_wanted) && !run->ended) {
        const struct nef_ai_end end = {
            .status = 499,
            .cancelled = true,
            .usage = run->o.kind != NEF_AI_EMBEDDING && run->legs != NULL ? usage_of(run) : (struct nef_ai_usage){0},
            .continuations = run->continuations,
            .first_token_ns = run->first_ns,
        };

        finish(run, &end);
    }
    paused = atomic_load(&run->pause_wanted);
    if (paused != run->paused && !run->ended) {
        run->paused = paused;
        for (uint32_t i = 0; i < run->leg_count; i++) {
            struct leg *leg = &run->legs[i];

            if (leg->call == NULL)
                continue;
            leg->progress_ns = leg->progress_ns != 0 ? nef_now_ns() : 0; /* it was we who stopped it */
            nef_loop_pause(leg->call, paused);
        }
    }
    nef_ai_run_unref(run); /* the post's */
}

static void post(struct nef_ai_run *run)
{
    run_ref(run);
    if (!nef_loop_post(run->g->loop, &run->post))
        nef_ai_run_unref(run); /* whoever queued it holds one */
}

nef_err nef_ai_run_start(struct nef_gateway *g, const struct nef_ai_run_options *options, struct nef_ai_run **out_run)
{
    struct nef_ai_run *run;
    uint8_t random[12];

    if (atomic_load(&g->stopping))
        return NEF_E_CLOSED;
    if (atomic_fetch_add(&g->run_count, 1) >= NEF_AI_RUNS_MAX) {
        (void)atomic_fetch_sub(&g->run_count, 1);
        return NEF_E_BUSY;
    }
    run = calloc(1, sizeof(*run));
    if (run == NULL) {
        (void)atomic_fetch_sub(&g->run_count, 1);
        return NEF_E_NOMEM;
    }
    run->g = g;
    atomic_init(&run->refs, 2); /* the caller's, and the list's */
    run->post.run = on_post;
    run->o = *options;
    (void)json_incref(run->o.body);
    (void)json_incref(run->o.given);
    run->model = json_string_value(json_object_get(run->o.body, "model"));
    run->start_ns = nef_now_ns();
    run->created_s = nef_wall_ms() / 1000;
    run->choices = 1;
    nef_random(random, sizeof(random));
    (void)snprintf(run->id, sizeof(run->id), options->kind == NEF_AI_CHAT ? "chatcmpl-" : "cmpl-");
    for (size_t i = 0, at = strlen(run->id); i < sizeof(random); i++, at += 2)
        (void)snprintf(run->id + at, 3, "%02x", random[i]);
    *out_run = run;
    post(run);
    return NEF_OK;
}

void nef_ai_run_cancel(struct nef_ai_run *run)
{
    if (!atomic_exchange(&run->cancel_wanted, true))
        post(run);
}

void nef_ai_run_pause(struct nef_ai_run *run, bool paused)
{
    if (atomic_exchange(&run->pause_wanted, paused) != paused)
        post(run);
}

/* ---- all of them ---- */

static void unlist(struct nef_ai_run *run)
{
    if (run->previous != NULL)
        run->previous->next = run->next;
    else
        run->g->runs = run->next;
    if (run->next != NULL)
        run->next->previous = run->previous;
    nef_ai_run_unref(run);
}

void runs_tick(struct nef_gateway *g, uint64_t now)
{
    struct nef_ai_run *next;

    for (struct nef_ai_run *run = g->runs; run != NULL; run = next) {
        next = run->next;
        for (uint32_t i = 0; i < run->leg_count && !run->ended; i++)
            leg_tick(&run->legs[i], now);
        if (run->ended)
            unlist(run);
    }
}

void runs_backend_lost(struct backend *b)
{
    uint64_t now = nef_now_ns();

    for (struct nef_ai_run *run = b->g->runs; run != NULL; run = run->next)
        for (uint32_t i = 0; i < run->leg_count && !run->ended; i++)
            if (run->legs[i].state == LEG_ACTIVE && run->legs[i].backend == b)
                leg_move(&run->legs[i], now);
}

void runs_cancel_all(struct nef_gateway *g)
{
    for (struct nef_ai_run *run = g->runs; run != NULL; run = run->next)
        if (!run->ended)
            run_fail(run, 503, nef_ai_error(503, "draining", "", "The zone is stopping."), 1);
}
