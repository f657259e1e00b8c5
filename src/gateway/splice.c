/* What was given and how to go on; see splice.h. splice_text.c has the text way's seam. */
#include "gateway/splice.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "gateway/splice_internal.h"

nef_err nef_splice_new(enum nef_ai_kind kind, json_t *body, uint64_t seed, struct nef_splice **out_splice)
{
    struct nef_splice *s = calloc(1, sizeof(*s));

    NEF_ASSERT(kind == NEF_AI_CHAT || kind == NEF_AI_COMPLETION);
    if (s == NULL)
        return NEF_E_NOMEM;
    s->chat = kind == NEF_AI_CHAT;
    s->body = json_incref(body);
    s->seed = seed;
    s->client_ids = json_is_true(json_object_get(body, "return_token_ids"));
    s->content.max = s->reasoning.max = NEF_AI_ANSWER_MAX;
    s->ids.max = NEF_AI_ANSWER_MAX;
    *out_splice = s;
    return NEF_OK;
}

void nef_splice_free(struct nef_splice *s)
{
    if (s == NULL)
        return;
    json_decref(s->body);
    nef_buf_free(&s->content);
    nef_buf_free(&s->reasoning);
    nef_buf_free(&s->ids);
    nef_buf_free(&s->seam.held);
    for (uint32_t i = 0; i < s->call_count; i++) {
        nef_buf_free(&s->calls[i].name);
        nef_buf_free(&s->calls[i].arguments);
    }
    free(s->calls);
    free(s);
}

bool nef_splice_finished(const struct nef_splice *s)
{
    return s->finished;
}

bool nef_splice_begun(const struct nef_splice *s)
{
    return s->content.bytes > 0 || s->reasoning.bytes > 0 || s->call_count > 0 || s->ids.bytes > 0 || s->finished;
}

/* ids are exact; each piece of text is a token at least. */
uint64_t nef_splice_tokens(const struct nef_splice *s)
{
    uint64_t ids = s->ids.bytes / sizeof(uint32_t);

    return s->ids_whole ? ids : s->pieces;
}

bool nef_splice_has_usage(const struct nef_splice *s)
{
    return s->usage_told;
}

struct nef_ai_usage nef_splice_usage(const struct nef_splice *s)
{
    struct nef_ai_usage usage = s->told;

    if (!s->usage_told)
        return (struct nef_ai_usage){.prompt = s->prompt_ids, .completion = nef_splice_tokens(s)};
    if (s->way == NEF_SPLICE_TEXT) {
        /* The backend took what was given before for a part of its prompt. */
        usage.prompt -= NEF_MIN(usage.prompt, s->tokens_before);
        usage.completion += s->tokens_before;
    }
    usage.cached = NEF_MIN(usage.cached, usage.prompt);
    return usage;
}

/* ---- asking ---- */

static uint64_t tokens_max(const struct nef_splice *s, const char **out_name)
{
    static const char *const names[] = {"max_completion_tokens", "max_tokens"};

    for (size_t i = 0; i < NEF_COUNT(names); i++) {
        const json_t *value = json_object_get(s->body, names[i]);

        if (json_is_integer(value) && json_integer_value(value) >= 0) {
            *out_name = names[i];
            return (uint64_t)json_integer_value(value);
        }
    }
    *out_name = NULL;
    return UINT64_MAX;
}

static int set_text(json_t *body, const char *name, const struct nef_buf *text)
{
    return json_object_set_new(body, name, json_stringn((const char *)text->data, text->bytes));
}

/* What makes an engine hold its answer to a grammar: OpenAI's name, and those of vLLM, SGLang and llama.cpp. */
static const char *const constraints[] = {
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "structural_tag",  "json_schema",        "regex",       "ebnf",         "grammar",
};

static bool has_constraint(const json_t *body)
{
    for (size_t i = 0; i < NEF_COUNT(constraints); i++) {
        const json_t *value = json_object_get(body, constraints[i]);
        const char *type = json_string_value(json_object_get(value, "type"));

        if (value != NULL && !json_is_null(value) && (type == NULL || strcmp(type, "text") != 0))
            return true;
    }
    return false;
}

/* Behind the beginning of an answer a grammar would begin anew in the middle of it. */
static int drop_constraints(json_t *body)
{
    const json_t *choice = json_object_get(body, "tool_choice");
    const char *word = json_string_value(choice);

    for (size_t i = 0; i < NEF_COUNT(constraints); i++)
        (void)json_object_del(body, constraints[i]);
    if (choice == NULL || (word != NULL && strcmp(word, "none") == 0))
        return 0;
    return json_object_set_new(body, "tool_choice", json_string("auto"));
}

static nef_err ask_chat_text(struct nef_splice *s, json_t *body)
{
    const json_t *messages = json_object_get(s->body, "messages");
    json_t *more = json_is_array(messages) ? json_copy((json_t *)(uintptr_t)messages) : NULL;
    struct nef_buf text = {.max = 2 * NEF_AI_ANSWER_MAX};
    json_t *last = json_object();
    bool bad;

    if (more == NULL || last == NULL) {
        json_decref(more);
        json_decref(last);
        return messages == NULL ? NEF_E_UNSUPPORTED : NEF_E_NOMEM;
    }
    /* A client's own message that it wants continued is continued further. */
    if (json_is_true(json_object_get(s->body, "continue_final_message"))) {
        const json_t *own = json_array_get(more, json_array_size(more) - 1);
        const json_t *content = json_object_get(own, "content");

        if (!json_is_string(content)) {
            json_decref(more);
            json_decref(last);
            return NEF_E_UNSUPPORTED;
        }
        nef_buf_append(&text, json_string_value(content), json_string_length(content));
        (void)json_array_remove(more, json_array_size(more) - 1);
    }
    nef_splice_text(s, &text);
    bad = text.failed || json_object_set_new(last, "role", json_string("assistant")) != 0 ||
          set_text(last, "content", &text) != 0 || json_array_append(more, last) != 0 ||
          json_object_set(body, "messages", more) != 0 ||
          json_object_set_new(body, "continue_final_message", json_true()) != 0 ||
          json_object_set_new(body, "add_generation_prompt", json_false()) != 0;
    nef_buf_free(&text);
    json_decref(more);
    json_decref(last);
    return bad ? NEF_E_NOMEM : NEF_OK;
}

static nef_err ask_completion_text(struct nef_splice *s, json_t *body)
{
    const json_t *prompt = json_object_get(s->body, "prompt");
    nef_err err = NEF_OK;

    if (json_is_string(prompt)) {
        struct nef_buf text = {.max = 2 * NEF_AI_ANSWER_MAX};

        nef_buf_append(&text, json_string_value(prompt), json_string_length(prompt));
        nef_buf_append(&text, s->content.data, s->content.bytes);
        if (text.failed || set_text(body, "prompt", &text) != 0)
            err = NEF_E_NOMEM;
        nef_buf_free(&text);
        return err;
    }
    if (json_is_array(prompt) && json_is_integer(json_array_get(prompt, 0)) && s->ids_whole) {
        json_t *ids = json_copy((json_t *)(uintptr_t)prompt);
        const uint32_t *given = (const uint32_t *)(const void *)s->ids.data;

        if (ids == NULL)
            return NEF_E_NOMEM;
        for (size_t i = 0; i < s->ids.bytes / sizeof(uint32_t) && err == NEF_OK; i++)
            if (json_array_append_new(ids, json_integer(given[i])) != 0)
                err = NEF_E_NOMEM;
        if (err == NEF_OK && json_object_set(body, "prompt", ids) != 0)
            err = NEF_E_NOMEM;
        json_decref(ids);
        return err;
    }
    return NEF_E_UNSUPPORTED;
}

static nef_err ask_text(struct nef_splice *s, json_t *body)
{
    const char *name;
    uint64_t most = tokens_max(s, &name), given = nef_splice_tokens(s);
    nef_err err;

    if (most <= given)
        return NEF_E_RANGE;
    if (name != NULL && json_object_set_new(body, name, json_integer((json_int_t)(most - given))) != 0)
        return NEF_E_NOMEM;
    err = s->chat ? ask_chat_text(s, body) : ask_completion_text(s, body);
    if (err != NEF_OK)
        return err;
    s->tokens_before = given;
    nef_splice_seam_begin(s);
    /* In a thought the answer itself hasn't begun, and an engine that thought before it obeyed does so again. */
    if (s->seam.mode == NEF_SEAM_THINKING && !s->asked_built_in && !s->refused)
        s->seam.constrained = has_constraint(body);
    else if (drop_constraints(body) != 0)
        return NEF_E_NOMEM;
    return NEF_OK;
}

static nef_err ask_ids(struct nef_splice *s, json_t *body)
{
    json_t *ids = json_array();
    const uint32_t *given = (const uint32_t *)(const void *)s->ids.data;
    nef_err err = ids == NULL ? NEF_E_NOMEM : NEF_OK;

    for (size_t i = 0; i < s->ids.bytes / sizeof(uint32_t) && err == NEF_OK; i++)
        if (json_array_append_new(ids, json_integer(given[i])) != 0)
            err = NEF_E_NOMEM;
    if (err == NEF_OK && json_object_set(body, "nef_continue_token_ids", ids) != 0)
        err = NEF_E_NOMEM;
    json_decref(ids);
    return err;
}

/* What every try needs: a stream with usage, and ids where they can be had. */
static nef_err ask_common(const struct nef_splice *s, const struct nef_splice_backend *backend, json_t *body)
{
    json_t *options = json_pack("{s:b}", "include_usage", 1);
    const json_t *seed = json_object_get(body, "seed");
    bool bad = options == NULL || json_object_set(body, "stream_options", options) != 0 ||
               json_object_set_new(body, "stream", json_true()) != 0;

    json_decref(options);
    (void)json_object_del(body, "return_token_ids");
    if (!bad && backend->token_ids)
        bad = json_object_set_new(body, "return_token_ids", json_true()) != 0;
    /* all 64 bits of it, as it splits a request itself; what is no integer it is to refuse */
    if (!bad && backend->built_in && (seed == NULL || json_is_null(seed) || json_is_integer(seed)))
        bad = json_object_set_new(body, "seed", json_integer((json_int_t)s->seed)) != 0;
    if (!bad && nef_splice_begun(s) && json_object_get(body, "echo") != NULL)
        bad = json_object_set_new(body, "echo", json_false()) != 0; /* it was given */
    return bad ? NEF_E_NOMEM : NEF_OK;
}

nef_err nef_splice_request(struct nef_splice *s, const struct nef_splice_backend *backend, json_t **out_body)
{
    json_t *body = json_copy(s->body);
    nef_err err = body == NULL ? NEF_E_NOMEM : ask_common(s, backend, body);

    NEF_ASSERT(!s->finished);
    if (err != NEF_OK)
        goto out;
    s->way = !nef_splice_begun(s)                  ? NEF_SPLICE_FRESH
             : backend->built_in && s->ids_built_in ? NEF_SPLICE_IDS
                                                   : NEF_SPLICE_TEXT;
    s->usage_told = false;
    s->role_seen = false;
    s->calls_before = 0;
    memset(&s->told, 0, sizeof(s->told));
    s->seam.mode = NEF_SEAM_NONE;
    if (s->way == NEF_SPLICE_FRESH)
        s->ids_whole = s->ids_built_in = true; /* until a piece comes without ids */
    s->asked_built_in = backend->built_in;
    if (s->way == NEF_SPLICE_IDS)
        err = ask_ids(s, body);
    else if (s->way == NEF_SPLICE_TEXT)
        err = ask_text(s, body);
out:
    if (err == NEF_OK)
        *out_body = body;
    else
        json_decref(body);
    return err;
}

void nef_splice_refused(struct nef_splice *s)
{
    s->refused = true;
}

/* ---- taking ---- */

static uint64_t number_of(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));

    return value > 0 ? (uint64_t)value : 0;
}

static void take_usage(struct nef_splice *s, const json_t *usage)
{
    if (!json_is_object(usage))
        return;
    s->usage_told = true;
    s->told = (struct nef_ai_usage){
        .prompt = number_of(usage, "prompt_tokens"),
        .completion = number_of(usage, "completion_tokens"),
        .cached = number_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"),
        .reasoning = number_of(json_object_get(usage, "completion_tokens_details"), "reasoning_tokens"),
    };
}

/* The ids of a choice of an event; false: they are none. */
static bool take_ids(struct nef_splice *s, const json_t *ids, size_t *out_count)
{
    size_t i;
    json_t *id;

    *out_count = json_array_size(ids);
    json_array_foreach(ids, i, id) {
        json_int_t value = json_integer_value(id);
        uint32_t token = (uint32_t)value;

        if (!json_is_integer(id) || value < 0 || value > UINT32_MAX)
            return false;
        nef_buf_append(&s->ids, &token, sizeof(token));
    }
    return true;
}

static nef_err keep_text(struct nef_buf *to, const json_t *text)
{
    nef_buf_append(to, json_string_value(text), json_string_length(text));
    return to->failed ? NEF_E_LIMIT : NEF_OK;
}

static nef_err keep_call(struct nef_splice *s, const json_t *call)
{
    const json_t *index = json_object_get(call, "index"), *function = json_object_get(call, "function");
    const json_t *name = json_object_get(function, "name"), *arguments = json_object_get(function, "arguments");
    uint64_t at = (uint64_t)json_integer_value(index);
    struct nef_splice_call *c;

    if (!json_is_integer(index) || json_integer_value(index) < 0 || at > s->call_count ||
        at >= NEF_SPLICE_CALLS_MAX || (arguments != NULL && !json_is_string(arguments) && !json_is_null(arguments)))
        return NEF_E_PROTOCOL;
    if (at == s->call_count) {
        struct nef_splice_call *grown = realloc(s->calls, (s->call_count + 1) * sizeof(*grown));

        if (grown == NULL)
            return NEF_E_NOMEM;
        s->calls = grown;
        s->calls[s->call_count++] =
            (struct nef_splice_call){.name.max = NEF_AI_ANSWER_MAX, .arguments.max = NEF_AI_ANSWER_MAX};
    }
    c = &s->calls[at];
    if (json_is_string(name))
        nef_buf_append(&c->name, json_string_value(name), json_string_length(name));
    if (json_is_string(arguments))
        nef_splice_arguments(c, json_string_value(arguments), json_string_length(arguments));
    return c->name.failed || c->arguments.failed ? NEF_E_LIMIT : NEF_OK;
}

/* What a choice gives, into what was given. *out_said: there is anything in it. */
static nef_err keep(struct nef_splice *s, const json_t *choice, bool *out_said)
{
    const json_t *delta = json_object_get(choice, "delta"), *calls = json_object_get(delta, "tool_calls");
    const json_t *content = s->chat ? json_object_get(delta, "content") : json_object_get(choice, "text");
    const json_t *reasoning = json_object_get(delta, "reasoning_content");
    size_t i;
    json_t *call;
    nef_err err = NEF_OK;

    *out_said = false;
    if (json_is_string(content) && json_string_length(content) > 0) {
        *out_said = true;
        err = keep_text(&s->content, content);
    }
    if (err == NEF_OK && json_is_string(reasoning) && json_string_length(reasoning) > 0) {
        *out_said = true;
        err = keep_text(&s->reasoning, reasoning);
    }
    json_array_foreach(calls, i, call) {
        *out_said = true;
        if (err == NEF_OK)
            err = keep_call(s, call);
    }
    return err;
}

/* The forms that other engines use, into ours; and what can't be. CHOICE is our own copy, its delta too. */
static nef_err check(const struct nef_splice *s, json_t *choice)
{
    const json_t *index = json_object_get(choice, "index"), *finish = json_object_get(choice, "finish_reason");
    json_t *delta = json_object_get(choice, "delta"), *other;
    static const char *const texts[] = {"content", "reasoning_content"};

    if ((index != NULL && (!json_is_integer(index) || json_integer_value(index) != 0)) ||
        (finish != NULL && !json_is_null(finish) && !json_is_string(finish)))
        return NEF_E_PROTOCOL;
    if (!s->chat)
        return json_is_string(json_object_get(choice, "text")) || json_is_string(finish) ? NEF_OK : NEF_E_PROTOCOL;
    if (delta == NULL && json_is_string(finish))
        return json_object_set_new(choice, "delta", json_object()) == 0 ? NEF_OK : NEF_E_NOMEM;
    if (!json_is_object(delta))
        return NEF_E_PROTOCOL;
    other = json_object_get(delta, "reasoning"); /* vLLM's newer name */
    if (json_is_string(other) && json_object_get(delta, "reasoning_content") == NULL) {
        if (json_object_set(delta, "reasoning_content", other) != 0)
            return NEF_E_NOMEM;
        (void)json_object_del(delta, "reasoning");
    }
    for (size_t i = 0; i < NEF_COUNT(texts); i++) {
        const json_t *text = json_object_get(delta, texts[i]);

        if (text != NULL && !json_is_string(text) && !json_is_null(text))
            return NEF_E_PROTOCOL;
    }
    other = json_object_get(delta, "tool_calls");
    if (other != NULL && !json_is_array(other) && !json_is_null(other))
        return NEF_E_PROTOCOL;
    return NEF_OK;
}

/* Behind a seam the role was given already, and a delta that says nothing isn't worth a chunk. */
static bool worth_giving(const struct nef_splice *s, const json_t *choice, bool said, size_t id_count)
{
    const json_t *delta = json_object_get(choice, "delta");

    if (said || json_is_string(json_object_get(choice, "finish_reason")))
        return true;
    if (json_is_object(json_object_get(choice, "logprobs")))
        return true;
    if (s->client_ids && id_count > 0)
        return true;
    return s->chat ? json_object_get(delta, "role") != NULL : !s->given_any;
}

static nef_err take_choice(struct nef_splice *s, json_t *choice, bool *out_give)
{
    const json_t *ids = json_object_get(choice, "token_ids");
    const json_t *finish = json_object_get(choice, "finish_reason");
    json_t *delta = json_object_get(choice, "delta");
    size_t id_count = 0;
    bool said = false;
    nef_err err = check(s, choice);

    if (err != NEF_OK)
        return err;
    delta = json_object_get(choice, "delta");
    if (s->given_any && delta != NULL)
        (void)json_object_del(delta, "role");
    if (s->way == NEF_SPLICE_TEXT && s->chat) {
        err = nef_splice_seam(s, choice);
        if (err != NEF_OK)
            return err;
    }
    err = keep(s, choice, &said);
    if (err != NEF_OK)
        return err;
    if (json_is_array(ids)) {
        if (!take_ids(s, ids, &id_count))
            return NEF_E_PROTOCOL;
        if (s->ids.failed)
            return NEF_E_LIMIT;
    } else if (said) {
        s->ids_whole = false;
    }
    /* ids of text that the seam keeps back count, too: there is no going on from them */
    if ((said && id_count == 0) || (!s->asked_built_in && (said || id_count > 0)))
        s->ids_built_in = false;
    if (said || id_count > 0)
        s->pieces += id_count > 0 ? id_count : 1;
    if (!s->client_ids)
        (void)json_object_del(choice, "token_ids");
    finish = json_object_get(choice, "finish_reason");
    if (json_is_string(finish)) {
        s->finished = true;
        /* the rest of a call came as text, so the backend doesn't know that it was one */
        if (s->way == NEF_SPLICE_TEXT && s->call_count > 0 && strcmp(json_string_value(finish), "stop") == 0 &&
            json_object_set_new(choice, "finish_reason", json_string("tool_calls")) != 0)
            return NEF_E_NOMEM;
    }
    *out_give = worth_giving(s, choice, said, id_count);
    return NEF_OK;
}

/* The chunk of an event: everything of its own but usage, ids that nobody asked for, and the choice, which is replaced.
 */
static json_t *chunk_of(const struct nef_splice *s, const json_t *event, json_t *choice)
{
    json_t *chunk = json_copy((json_t *)(uintptr_t)event), *choices = json_array();

    if (chunk == NULL || choices == NULL || json_array_append(choices, choice) != 0 ||
        json_object_set(chunk, "choices", choices) != 0) {
        json_decref(chunk);
        json_decref(choices);
        return NULL;
    }
    json_decref(choices);
    (void)json_object_del(chunk, "usage");
    if (!s->client_ids)
        (void)json_object_del(chunk, "prompt_token_ids");
    return chunk;
}

nef_err nef_splice_take(struct nef_splice *s, const json_t *event, json_t **out_chunk)
{
    const json_t *choices = json_object_get(event, "choices"), *delta, *prompt;
    json_t *choice = NULL, *chunk = NULL;
    bool give = false;
    nef_err err = NEF_OK;

    *out_chunk = NULL;
    if (!json_is_object(event))
        return NEF_E_PROTOCOL;
    if (json_object_get(event, "error") != NULL && !json_is_null(json_object_get(event, "error")))
        return NEF_E_UNAVAILABLE;
    if (!json_is_array(choices) || json_array_size(choices) > 1)
        return NEF_E_PROTOCOL;
    take_usage(s, json_object_get(event, "usage"));
    prompt = json_object_get(event, "prompt_token_ids");
    if (json_is_array(prompt) && s->prompt_ids == 0)
        s->prompt_ids = json_array_size(prompt);
    if (json_array_size(choices) == 0)
        return NEF_OK;
    if (s->finished) /* some send an empty one behind the end */
        return NEF_OK;
    choice = json_copy(json_array_get(choices, 0));
    if (!json_is_object(choice)) {
        json_decref(choice);
        return NEF_E_PROTOCOL;
    }
    prompt = json_object_get(choice, "prompt_token_ids");
    if (json_is_array(prompt)) {
        if (s->prompt_ids == 0)
            s->prompt_ids = json_array_size(prompt);
        if (!s->client_ids)
            (void)json_object_del(choice, "prompt_token_ids");
    }
    delta = json_object_get(choice, "delta");
    if (delta != NULL && json_object_set_new(choice, "delta", json_deep_copy(delta)) != 0)
        err = NEF_E_NOMEM;
    if (err == NEF_OK)
        err = take_choice(s, choice, &give);
    if (err == NEF_OK && give) {
        chunk = chunk_of(s, event, choice);
        err = chunk == NULL ? NEF_E_NOMEM : NEF_OK;
    }
    json_decref(choice);
    if (err == NEF_OK && chunk != NULL)
        s->given_any = true;
    *out_chunk = chunk;
    return err;
}

nef_err nef_splice_given(struct nef_splice *s, const json_t *chunk)
{
    json_t *event = json_deep_copy(chunk), *ignored = NULL;
    const json_t *choices = json_object_get(event, "choices");
    json_t *choice = json_array_get(choices, 0);
    nef_err err;

    if (choice != NULL) /* its index is the client's */
        (void)json_object_set_new(choice, "index", json_integer(0));
    if (!s->given_any) {
        /* Whoever gave these gave ids with each piece if it was the built-in engine: others are asked for them only by
         * backends that the next try can't know. */
        s->ids_whole = s->ids_built_in = s->asked_built_in = true;
    }
    err = event == NULL ? NEF_E_NOMEM : nef_splice_take(s, event, &ignored);
    json_decref(ignored);
    json_decref(event);
    if (err == NEF_OK)
        s->given_any = true;
    return err;
}
