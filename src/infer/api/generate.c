/* From a request to generations; runs in a worker.
 *
 * Each choice is a generation of its own; the engine computes what they have in common once. Choice 0 has the request's
 * seed, choice c > 0 the first 64 bits of Philox's block (c, 0, 0, 1) under that seed, so choices are as reproducible as
 * single answers, and no sampling of a position uses that block.
 *
 * nef_continue_token_ids: the ids that an earlier try gave out go through answer and choice before the engine begins, and
 * what a stream would say of them is thrown away: it was said. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "base/philox.h"
#include "crypto/crypto.h"
#include "infer/api/api_internal.h"
#include "io/clock.h"

/* ---- the engine's side ---- */

static bool on_ends(void *context, uint32_t token)
{
    struct run *run = context;

    return !run->ignore_eos && nef_token_ends(run->call->api->model.tokenizer, token);
}

static bool on_token(void *context, const struct nef_token *token)
{
    struct run *run = context;
    bool news = false, go_on = nef_answer_put(&run->answer, token, &news);

    if (news && run->call->write.stream)
        nef_http_wake(run->call->http);
    return go_on;
}

static void on_prompt_token(void *context, const struct nef_token *token)
{
    struct run *run = context;

    nef_answer_put_prompt(&run->answer, token);
}

static void on_finished(void *context, enum nef_finish finish, nef_err err, uint32_t cached)
{
    struct run *run = context;

    nef_answer_finish(&run->answer, finish, err, cached);
    nef_api_run_finished(run);
}

void nef_api_run_finished(struct run *run)
{
    struct call *c = run->call;

    nef_api_metrics_finished(&c->api->metrics);
    (void)atomic_fetch_sub(&c->running, 1);
    nef_http_wake(c->http);
    nef_api_call_unref(c);
}

nef_err nef_api_submit(struct call *c, struct run *run, const struct nef_generate *g)
{
    struct nef_generate whose = *g;
    struct nef_generation *generation = NULL;
    nef_err err;

    memcpy(whose.salt, c->salt, sizeof(whose.salt));
    whose.tenant = c->tenant;
    whose.weight = c->weight;
    whose.priority = c->priority;
    whose.context = run;
    nef_api_call_ref(c); /* until nef_api_run_finished */
    (void)atomic_fetch_add(&c->running, 1);
    err = nef_engine_generate(c->api->model.engine, &whose, &generation);
    if (err != NEF_OK) {
        (void)atomic_fetch_sub(&c->running, 1);
        nef_api_call_unref(c);
        return err;
    }
    (void)pthread_mutex_lock(&c->lock);
    run->generation = generation;
    if (c->cancelled) /* the client left meanwhile */
        nef_generation_cancel(generation);
    (void)pthread_mutex_unlock(&c->lock);
    return NEF_OK;
}

/* ---- grammars ---- */

/* The grammar that the answer must be of; c->grammar stays NULL where there is none. After the prompt was rendered, which
 * says whether the answer begins with reasoning. */
static bool find_grammar(struct call *c, const struct nef_api_request *r)
{
    const struct nef_grammar_options options = {
        .answer = r->answer,
        .schema = r->schema,
        .tools = r->callable,
        .function = r->function,
        .tools_required = r->tools_required,
        .parallel = r->parallel_tool_calls,
        .thinking = c->write.thinking,
    };
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    const char *param;
    nef_err err;

    if (!nef_api_request_grammar(r) || c->grammar != NULL)
        return true;
    param = r->answer != NEF_GRAMMAR_TEXT ? "response_format" : "tools";
    if (c->api->grammars == NULL)
        return nef_api_fail(&c->error, 400, "unsupported_parameter", param,
                            "'%s' is not supported with this model: its vocabulary lacks a token for some byte.", param);
    err = nef_grammars_get(c->api->grammars, &options, why, &c->grammar);
    if (err == NEF_OK)
        return true;
    if (err != NEF_E_INVALID && err != NEF_E_UNSUPPORTED && err != NEF_E_LIMIT)
        return nef_api_refuse_err(c, err);
    param = strncmp(why, "tools", 5) == 0 ? "tools" : strncmp(why, "tool_choice", 11) == 0 ? "tool_choice" : param;
    return nef_api_fail(&c->error, 400, err == NEF_E_UNSUPPORTED ? "unsupported_parameter" : "invalid_value", param,
                        "%s%s", strcmp(param, "response_format") == 0 ? "response_format.json_schema.schema: " : "", why);
}

/* ---- a choice ---- */

static bool echo_prompt(struct call *c, struct run *run, const struct nef_api_prompt *prompt)
{
    struct nef_buf text = {0};
    nef_err err = NEF_OK;

    if (prompt->text != NULL)
        nef_buf_append(&text, prompt->text, prompt->bytes);
    else
        err = nef_api_text_of(c->api->model.tokenizer, prompt->tokens, prompt->count, &text);
    if (err == NEF_OK)
        err = nef_buf_end(&text);
    if (err == NEF_OK)
        err = nef_choice_echo(run->choice, (const char *)text.data, text.bytes, &c->pending);
    nef_buf_free(&text);
    return err == NEF_OK || nef_api_refuse_err(c, err);
}

/* Puts earlier ids in. *out_over: the answer was complete with them. */
static bool replay(struct call *c, struct run *run, const struct nef_api_prompt *earlier, uint32_t most, bool *out_over)
{
    struct nef_piece piece = {.text = {0}};
    struct nef_buf said = {0};
    bool go_on = true, news;
    nef_err err = NEF_OK;

    for (uint32_t i = 0; i < earlier->count && i < most && go_on; i++)
        go_on = nef_answer_put(&run->answer, &(struct nef_token){.token = earlier->tokens[i], .logprob = NAN}, &news);
    *out_over = !go_on || earlier->count >= most;
    if (c->write.stream) { /* of a whole answer nothing was given */
        nef_answer_given(&run->answer, &piece);
        err = nef_choice_take(run->choice, &piece, false, &said);
    }
    if (err == NEF_OK)
        err = nef_buf_end(&said);
    nef_piece_free(&piece);
    nef_buf_free(&said);
    if (*out_over)
        nef_answer_finish(&run->answer, NEF_FINISH_LENGTH, NEF_OK, 0); /* it knows better if a stop string came */
    return err == NEF_OK || nef_api_refuse_err(c, err);
}

struct prompt { /* of one or more choices */
    uint32_t index;
    const uint32_t *tokens;
    uint32_t count;
};

static bool submit(struct call *c, const struct nef_api_request *r, struct run *run, const struct prompt *prompt,
                   const struct nef_api_prompt *earlier, uint32_t choice, uint32_t most)
{
    struct nef_generate g = {
        .prompt = prompt->tokens,
        .prompt_count = prompt->count,
        .tokens_max = most,
        .sampling = r->sampling,
        .bias = r->bias,
        .bias_count = r->bias_count,
        .grammar = c->grammar,
        .think_end = NEF_NO_TOKEN,
        .logprobs = r->logprobs,
        .prompt_logprobs = r->echo && r->logprobs != 0 && earlier == NULL,
        .ends = on_ends,
        .token = on_token,
        .finished = on_finished,
    };
    uint32_t *joined = NULL;
    nef_err err;

    g.sampling.seed = nef_choice_seed(r->sampling.seed, choice);
    if (g.prompt_logprobs)
        g.prompt_token = on_prompt_token;
    if (c->write.thinking && r->thinking_max != NEF_NO_TOKEN) {
        g.think_end = c->api->think_end;
        g.thinking_max = NEF_MAX(r->thinking_max, 1u); /* 0 in the middle of a thought: at once */
        g.budget_text = c->api->budget;
        g.budget_count = c->api->budget_count;
    }
    if (earlier != NULL && earlier->count > 0) {
        joined = malloc(((size_t)prompt->count + earlier->count) * sizeof(*joined));
        if (joined == NULL)
            return nef_api_refuse_err(c, NEF_E_NOMEM);
        memcpy(joined, prompt->tokens, prompt->count * sizeof(*joined));
        memcpy(joined + prompt->count, earlier->tokens, earlier->count * sizeof(*joined));
        g.prompt = joined;
        g.prompt_count = prompt->count + earlier->count;
        g.continued = earlier->count;
    }
    err = nef_api_submit(c, run, &g);
    if (joined != NULL)
        nef_wipe(joined, g.prompt_count * sizeof(*joined));
    free(joined);
    if (err == NEF_E_INVALID)
        return nef_api_fail(&c->error, 400, "invalid_value", "nef_continue_token_ids",
                            "The ids of 'nef_continue_token_ids' are no beginning of an answer to this request.");
    return err == NEF_OK || nef_api_refuse_err(c, err);
}

static bool start_run(struct call *c, const struct nef_api_request *r, const struct prompt *prompt, uint32_t choice)
{
    const uint32_t index = prompt->index * r->choices + choice, context = c->api->model.context;
    const uint32_t most = NEF_MIN(r->tokens_max, context - prompt->count);
    const struct nef_api_prompt *earlier = r->continued == NULL ? NULL : &r->continued[index];
    const bool told = r->echo && r->logprobs != 0 && earlier == NULL; /* the prompt comes as tokens */
    struct run *run = &c->runs[index];
    bool over = false;
    nef_err err;

    run->call = c;
    run->ignore_eos = r->ignore_eos;
    run->prompt_tokens = prompt->count;
    run->first = choice == 0;
    err = nef_answer_init(&run->answer, &(struct nef_answer_options){
                                            .tokenizer = c->api->model.tokenizer,
                                            .stops = r->stops,
                                            .stop_count = r->stop_count,
                                            .tokens_max = most + (told ? prompt->count : 0),
                                            .top = r->logprobs > 1 ? r->logprobs - 1 : 0,
                                            .memory = &c->api->answer_bytes,
                                            .memory_max = NEF_INFER_ANSWERS_MAX,
                                        });
    if (err == NEF_OK)
        err = nef_choice_open(&c->write, index, prompt->tokens, prompt->count, &run->choice);
    if (err != NEF_OK)
        return nef_api_refuse_err(c, err);
    if (earlier != NULL && earlier->tokens == NULL) { /* it has ended, and its client knows */
        run->ended = true;
        return true;
    }
    if (earlier == NULL || !r->stream) {
        nef_choice_begin(run->choice, &c->pending);
        if (r->echo && !told && !echo_prompt(c, run, &r->prompts[prompt->index]))
            return false;
    }
    if (earlier != NULL && !replay(c, run, earlier, most, &over))
        return false;
    return over || submit(c, r, run, prompt, earlier, choice, most);
}

static bool start_prompt(struct call *c, const struct nef_api_request *r, uint32_t i)
{
    uint32_t *tokens = NULL, count = 0;
    bool good = nef_api_prompt_tokens(c, r, i, &tokens, &count);

    if (!good)
        return false;
    good = nef_api_prompt_fits(c, r, count) && find_grammar(c, r);
    for (uint32_t choice = 0; choice < r->choices && good; choice++)
        good = start_run(c, r, &(struct prompt){i, tokens, count}, choice);
    nef_wipe(tokens, count * sizeof(*tokens));
    free(tokens);
    return good;
}

static bool generate(struct call *c, const struct nef_api_request *r)
{
    const struct nef_api_model *o = &c->api->model;
    const bool chat = r->kind == NEF_API_CHAT;
    const uint32_t prompts = chat ? 1 : r->prompt_count;
    char random[NEF_API_RANDOM_HEX];
    bool good = true;

    nef_api_random_hex(random);
    c->write = (struct nef_write){
        .kind = r->kind,
        .created = nef_wall_ms() / 1000,
        .model = o->alias,
        .fingerprint = c->api->fingerprint,
        .stream = r->stream,
        .include_usage = r->include_usage,
        .return_token_ids = r->return_token_ids,
        .tools = chat && r->tools != NULL,
        .logprobs = r->logprobs != 0,
        .tokenizer = o->tokenizer,
    };
    (void)snprintf(c->write.id, sizeof(c->write.id), "%s-%s", chat ? "chatcmpl" : "cmpl", random);
    c->runs = calloc((size_t)prompts * r->choices, sizeof(*c->runs));
    if (c->runs == NULL)
        return nef_api_refuse_err(c, NEF_E_NOMEM);
    c->run_count = prompts * r->choices;
    for (uint32_t i = 0; i < prompts && good; i++)
        good = start_prompt(c, r, i);
    nef_grammar_unref(c->grammar); /* the engine has its own references */
    c->grammar = NULL;
    c->wanted = good;
    return good && c->pending.failed ? nef_api_refuse_err(c, NEF_E_NOMEM) : good;
}

void nef_api_work(struct call *c)
{
    const struct nef_api_model *o = &c->api->model;
    struct nef_api_request r = {0};
    bool good =
        nef_api_request_parse(c->route->kind, c->body.data, c->body.bytes, &o->sampling, o->vocab, &r, &c->error);

    nef_buf_free(&c->body);
    if (good && r.model != NULL && strcmp(r.model, o->alias) != 0)
        good = nef_api_fail(&c->error, 404, "model_not_found", "model",
                            "There is no such model here; this server has '%s'.", o->alias);
    if (good && !r.seed_said)
        r.sampling.seed = nef_random_u64();
    if (good) {
        switch (r.kind) {
        case NEF_API_COMPLETION:
        case NEF_API_CHAT:
            good = generate(c, &r);
            break;
        case NEF_API_EMBEDDING:
            good = nef_api_embed(c, &r);
            break;
        case NEF_API_TOKENIZE:
            good = nef_api_tokenize(c, &r);
            break;
        case NEF_API_DETOKENIZE:
            good = nef_api_detokenize(c, &r);
            break;
        }
    }
    nef_api_request_free(&r);
    c->refused = !good;
    if (!good)
        nef_api_call_cancel(c); /* of several choices some may run */
}

void nef_api_runs_free(struct call *c)
{
    for (uint32_t i = 0; i < c->run_count; i++) {
        struct run *run = &c->runs[i];

        nef_answer_done(&run->answer);
        nef_choice_close(run->choice);
        free(run->tokens);
        free(run->values);
        if (run->generation != NULL)
            nef_generation_unref(run->generation);
    }
    free(c->runs);
    c->runs = NULL;
    c->run_count = 0;
}
