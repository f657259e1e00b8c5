/* From a body to generations; runs in a worker, because a long prompt takes a while to tokenize. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/api/api_internal.h"
#include "io/clock.h"

static bool refuse_err(struct call *c, nef_err err)
{
    switch ((int)err) {
    case NEF_E_BUSY:
        return nef_api_fail(&c->error, 429, "queue_full", "", "Too many requests are waiting; try again soon.");
    case NEF_E_CLOSED:
        return nef_api_fail(&c->error, 503, "", "", "The server is stopping.");
    case NEF_E_LIMIT:
        return nef_api_fail(&c->error, 400, "context_length_exceeded", "", "The prompt is too long.");
    case NEF_E_RANGE:
        return nef_api_fail(&c->error, 400, "invalid_value", "", "The prompt can't be taken by this model.");
    default:
        return nef_api_fail(&c->error, 500, nef_err_name(err), "", "The request failed: %s.", nef_err_text(err));
    }
}

/* ---- /tokenize, /detokenize ---- */

/* Text of a token, or its bytes as numbers where it isn't whole UTF-8. */
static void piece_of(const struct nef_tokenizer *t, uint32_t token, struct nef_buf *out)
{
    size_t count = 0;
    const char *bytes = nef_token_bytes(t, token, &count);
    json_t *text = json_stringn(bytes, count); /* NULL unless it is UTF-8 */

    nef_buf_printf(out, "{\"id\":%u,\"piece\":", token);
    if (text != NULL) {
        nef_json_text_write(out, bytes, count);
    } else {
        for (size_t i = 0; i < count; i++)
            nef_buf_printf(out, i == 0 ? "[%u" : ",%u", (unsigned)(uint8_t)bytes[i]);
        nef_buf_text(out, count == 0 ? "[]" : "]");
    }
    json_decref(text);
    nef_buf_u8(out, '}');
}

/* Tokens of a text, with the beginning-of-text token where asked for and the model has one. */
static nef_err tokens_of(const struct nef_tokenizer *t, const char *text, size_t bytes, bool add_special,
                         bool parse_special, uint32_t **out_tokens, uint32_t *out_count)
{
    uint32_t bos = add_special ? nef_tokenizer_bos(t) : NEF_NO_TOKEN;
    uint32_t *tokens = NULL, *grown;
    uint32_t count = 0;
    nef_err err = nef_tokenize(t, text, bytes, parse_special, &tokens, &count);

    if (err != NEF_OK)
        return err;
    if (bos != NEF_NO_TOKEN) {
        grown = realloc(tokens, ((size_t)count + 1) * sizeof(*tokens));
        if (grown == NULL) {
            free(tokens);
            return NEF_E_NOMEM;
        }
        tokens = grown;
        memmove(tokens + 1, tokens, count * sizeof(*tokens));
        tokens[0] = bos;
        count++;
    }
    *out_tokens = tokens;
    *out_count = count;
    return NEF_OK;
}

static bool tokenize(struct call *c, const struct nef_api_request *r)
{
    const struct nef_tokenizer *t = c->api->options.tokenizer;
    uint32_t *tokens = NULL, count = 0;
    nef_err err =
        tokens_of(t, r->prompts[0].text, r->prompts[0].bytes, r->add_special, r->parse_special, &tokens, &count);

    if (err != NEF_OK)
        return refuse_err(c, err);
    nef_buf_text(&c->document, "{\"tokens\":");
    if (r->with_pieces) {
        nef_buf_u8(&c->document, '[');
        for (uint32_t i = 0; i < count; i++) {
            if (i > 0)
                nef_buf_u8(&c->document, ',');
            piece_of(t, tokens[i], &c->document);
        }
        nef_buf_u8(&c->document, ']');
    } else {
        nef_json_ids_write(&c->document, tokens, count);
    }
    nef_buf_u8(&c->document, '}');
    free(tokens);
    return true;
}

/* Text of ids: whole characters; what isn't UTF-8 becomes U+FFFD. */
static nef_err text_of(const struct nef_tokenizer *t, const uint32_t *tokens, uint32_t count, struct nef_buf *out)
{
    struct nef_utf8_stream stream = {.held_bytes = 0};

    for (uint32_t i = 0; i <= count; i++) { /* one round more, for the tail */
        size_t bytes = 0, got;
        const char *text = i < count ? nef_token_bytes(t, tokens[i], &bytes) : "";
        size_t before = out->bytes;
        char *room = (char *)nef_buf_grow(out, 3 * (bytes + 4));

        if (room == NULL)
            return NEF_E_NOMEM;
        got = nef_utf8_stream_take(&stream, text, bytes, i == count, room);
        out->bytes = before + got;
    }
    return NEF_OK;
}

static bool detokenize(struct call *c, const struct nef_api_request *r)
{
    struct nef_buf text = {0};
    nef_err err = text_of(c->api->options.tokenizer, r->prompts[0].tokens, r->prompts[0].count, &text);

    if (err == NEF_OK) {
        nef_buf_text(&c->document, "{\"content\":");
        nef_json_text_write(&c->document, (const char *)text.data, text.bytes);
        nef_buf_u8(&c->document, '}');
    }
    nef_buf_free(&text);
    return err == NEF_OK || refuse_err(c, err);
}

/* ---- prompts ---- */

static bool render_chat(struct call *c, const struct nef_api_request *r, char **out_text, size_t *out_bytes)
{
    const struct nef_chat_options options = {
        .family = c->api->options.family,
        .messages = r->messages,
        .tools = r->tools,
        .add_generation_prompt = r->add_generation_prompt,
        .continue_final_message = r->continue_final_message,
        .enable_thinking = r->enable_thinking,
    };
    char why[NEF_CHAT_ERROR_MAX] = "";
    nef_err err;

    if (options.family == NEF_CHAT_UNKNOWN)
        return nef_api_fail(&c->error, 400, "unsupported_model", "messages",
                            "This model has no chat template that is supported; use /v1/completions.");
    if (options.family != NEF_CHAT_QWEN3 && r->thinking_said && r->enable_thinking)
        return nef_api_fail(&c->error, 400, "unsupported_parameter", "chat_template_kwargs",
                            "'chat_template_kwargs.enable_thinking' is not supported by this model.");
    err = nef_chat_render(&options, why, out_text, out_bytes);
    if (err == NEF_E_NOMEM)
        return refuse_err(c, err);
    if (err != NEF_OK)
        return nef_api_fail(&c->error, 400, err == NEF_E_UNSUPPORTED ? "unsupported_value" : "invalid_value",
                            "messages", "%s", why[0] != '\0' ? why : nef_err_text(err));
    return true;
}

/* Does the answer begin inside a <think> block, or with one? A final message that is continued may have been left in
 * one. */
static bool begins_thinking(const struct nef_api_request *r, const char *text, size_t bytes)
{
    static const char open[] = "<think>", close[] = "</think>";
    const char *opened = NULL, *at = text;

    if (!r->continue_final_message)
        return r->enable_thinking;
    while ((at = memmem(at, bytes - (size_t)(at - text), open, sizeof(open) - 1)) != NULL)
        opened = at++;
    return opened != NULL && memmem(opened, bytes - (size_t)(opened - text), close, sizeof(close) - 1) == NULL;
}

/* Ids of prompt I: *out_tokens is malloc'd. */
static bool prompt_tokens(struct call *c, const struct nef_api_request *r, uint32_t i, uint32_t **out_tokens,
                          uint32_t *out_count)
{
    const struct nef_tokenizer *t = c->api->options.tokenizer;
    char *rendered = NULL;
    size_t bytes = 0;
    nef_err err;

    if (r->kind == NEF_API_CHAT) {
        if (!render_chat(c, r, &rendered, &bytes))
            return false;
        c->write.thinking = c->api->options.family == NEF_CHAT_QWEN3 && begins_thinking(r, rendered, bytes);
        err = tokens_of(t, rendered, bytes, false, true, out_tokens, out_count);
        nef_wipe(rendered, bytes);
        free(rendered);
    } else if (r->prompts[i].text != NULL) {
        err = tokens_of(t, r->prompts[i].text, r->prompts[i].bytes, true, true, out_tokens, out_count);
    } else {
        *out_count = r->prompts[i].count;
        *out_tokens = malloc(*out_count == 0 ? 1 : *out_count * sizeof(uint32_t));
        err = *out_tokens == NULL ? NEF_E_NOMEM : NEF_OK;
        if (err == NEF_OK && *out_count > 0)
            memcpy(*out_tokens, r->prompts[i].tokens, *out_count * sizeof(uint32_t));
    }
    return err == NEF_OK || refuse_err(c, err);
}

static bool echo_prompt(struct call *c, struct run *run, const struct nef_api_prompt *prompt)
{
    struct nef_buf text = {0};
    nef_err err = NEF_OK;

    if (prompt->text != NULL)
        nef_buf_append(&text, prompt->text, prompt->bytes);
    else
        err = text_of(c->api->options.tokenizer, prompt->tokens, prompt->count, &text);
    if (err == NEF_OK)
        err = nef_buf_end(&text);
    if (err == NEF_OK)
        err = nef_choice_take(run->choice, (const char *)text.data, text.bytes, NULL, 0, &c->pending);
    nef_buf_free(&text);
    return err == NEF_OK || refuse_err(c, err);
}

/* ---- generations ---- */

static bool on_ends(void *context, uint32_t token)
{
    struct run *run = context;

    return !run->ignore_eos && nef_token_ends(run->call->api->options.tokenizer, token);
}

static bool on_token(void *context, const struct nef_token *token)
{
    struct run *run = context;
    bool news = false, go_on = nef_answer_put(&run->answer, token->token, &news);

    if (news && run->call->write.stream)
        nef_http_wake(run->call->http);
    return go_on;
}

static void on_finished(void *context, enum nef_finish finish, nef_err err, uint32_t cached)
{
    struct run *run = context;
    struct call *c = run->call;

    nef_answer_finish(&run->answer, finish, err, cached);
    (void)atomic_fetch_sub(&c->running, 1);
    nef_http_wake(c->http);
    nef_api_call_unref(c);
}

static bool submit(struct call *c, const struct nef_api_request *r, struct run *run, const uint32_t *tokens,
                   uint32_t tokens_max)
{
    const struct nef_generate g = {
        .prompt = tokens,
        .prompt_count = run->prompt_tokens,
        .tokens_max = tokens_max,
        .sampling = r->sampling,
        .ends = on_ends,
        .token = on_token,
        .finished = on_finished,
        .context = run,
    };
    struct nef_generate salted = g;
    struct nef_generation *generation = NULL;
    nef_err err;

    memcpy(salted.salt, c->salt, sizeof(salted.salt));
    nef_api_call_ref(c); /* until on_finished */
    (void)atomic_fetch_add(&c->running, 1);
    err = nef_engine_generate(c->api->options.engine, &salted, &generation);
    if (err != NEF_OK) {
        (void)atomic_fetch_sub(&c->running, 1);
        nef_api_call_unref(c);
        return refuse_err(c, err);
    }
    (void)pthread_mutex_lock(&c->lock);
    run->generation = generation;
    if (c->cancelled) /* the client left meanwhile */
        nef_generation_cancel(generation);
    (void)pthread_mutex_unlock(&c->lock);
    return true;
}

static bool start_run(struct call *c, const struct nef_api_request *r, uint32_t i)
{
    const uint32_t context = c->api->options.context;
    struct run *run = &c->runs[i];
    uint32_t *tokens = NULL, count = 0, most;
    const char *param = r->kind == NEF_API_CHAT ? "messages" : "prompt";
    bool good = false;

    run->call = c;
    run->ignore_eos = r->ignore_eos;
    if (!prompt_tokens(c, r, i, &tokens, &count))
        return false;
    if (count == 0)
        (void)nef_api_fail(&c->error, 400, "invalid_value", param, "The prompt is empty.");
    else if (count >= context)
        (void)nef_api_fail(&c->error, 400, "context_length_exceeded", param,
                           "This model's maximum context length is %u tokens, and the prompt has %u.", context, count);
    else
        good = true;
    if (good) {
        nef_err err;

        most = NEF_MIN(r->tokens_max, context - count);
        run->prompt_tokens = count;
        err = nef_answer_init(&run->answer, c->api->options.tokenizer, r->stops, r->stop_count, most);
        if (err == NEF_OK)
            err = nef_choice_open(&c->write, i, tokens, count, &run->choice);
        good = err == NEF_OK || refuse_err(c, err);
        if (good) {
            nef_choice_begin(run->choice, &c->pending);
            good = !r->echo || echo_prompt(c, run, &r->prompts[i]);
        }
        good = good && submit(c, r, run, tokens, most);
    }
    nef_wipe(tokens, count * sizeof(*tokens));
    free(tokens);
    return good;
}

static bool generate(struct call *c, const struct nef_api_request *r)
{
    const struct nef_api_options *o = &c->api->options;
    const bool chat = r->kind == NEF_API_CHAT;
    uint32_t count = chat ? 1 : r->prompt_count;
    char random[NEF_API_RANDOM_HEX];

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
    };
    (void)snprintf(c->write.id, sizeof(c->write.id), "%s-%s", chat ? "chatcmpl" : "cmpl", random);
    c->runs = calloc(count, sizeof(*c->runs));
    if (c->runs == NULL)
        return refuse_err(c, NEF_E_NOMEM);
    c->run_count = count;
    for (uint32_t i = 0; i < count; i++)
        if (!start_run(c, r, i))
            return false;
    c->wanted = true;
    return c->pending.failed ? refuse_err(c, NEF_E_NOMEM) : true;
}

void nef_api_work(struct call *c)
{
    const struct nef_api_options *o = &c->api->options;
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
        case NEF_API_TOKENIZE:
            good = tokenize(c, &r);
            break;
        case NEF_API_DETOKENIZE:
            good = detokenize(c, &r);
            break;
        }
    }
    nef_api_request_free(&r);
    c->refused = !good;
    if (!good)
        nef_api_call_cancel(c); /* of several prompts some may run */
}

void nef_api_runs_free(struct call *c)
{
    for (uint32_t i = 0; i < c->run_count; i++) {
        nef_answer_done(&c->runs[i].answer);
        nef_choice_close(c->runs[i].choice);
        if (c->runs[i].generation != NULL)
            nef_generation_unref(c->runs[i].generation);
    }
    free(c->runs);
    c->runs = NULL;
    c->run_count = 0;
}
