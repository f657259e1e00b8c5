/* Chunks into one answer; see whole.h. */
#include "gateway/whole.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"

struct choice {
    struct nef_buf content, reasoning;
    bool has_content;
    json_t *calls;           /* objects without arguments */
    struct nef_buf *arguments; /* one for each */
    uint32_t call_count;
    json_t *logprobs, *ids, *rest; /* rest: the members that aren't concatenated */
};

struct nef_whole {
    bool chat;
    json_t *envelope; /* id, created, model, and what else the first chunk says */
    json_t *usage;
    struct choice *choices;
    uint32_t count;
};

nef_err nef_whole_new(enum nef_ai_kind kind, struct nef_whole **out_whole)
{
    struct nef_whole *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return NEF_E_NOMEM;
    w->chat = kind == NEF_AI_CHAT;
    *out_whole = w;
    return NEF_OK;
}

void nef_whole_free(struct nef_whole *w)
{
    if (w == NULL)
        return;
    for (uint32_t i = 0; i < w->count; i++) {
        struct choice *c = &w->choices[i];

        nef_buf_free(&c->content);
        nef_buf_free(&c->reasoning);
        for (uint32_t j = 0; j < c->call_count; j++)
            nef_buf_free(&c->arguments[j]);
        free(c->arguments);
        json_decref(c->calls);
        json_decref(c->logprobs);
        json_decref(c->ids);
        json_decref(c->rest);
    }
    free(w->choices);
    json_decref(w->envelope);
    json_decref(w->usage);
    free(w);
}

static nef_err choice_at(struct nef_whole *w, uint32_t index, struct choice **out_choice)
{
    struct choice *grown;

    if (index >= NEF_AI_CHOICES_MAX)
        return NEF_E_LIMIT;
    if (index >= w->count) {
        grown = realloc(w->choices, (index + 1) * sizeof(*grown));
        if (grown == NULL)
            return NEF_E_NOMEM;
        w->choices = grown;
        while (w->count <= index) {
            grown[w->count] = (struct choice){.content.max = NEF_AI_ANSWER_MAX, .reasoning.max = NEF_AI_ANSWER_MAX};
            w->count++;
        }
    }
    *out_choice = &w->choices[index];
    return NEF_OK;
}

/* Arrays are joined, objects of arrays (log probabilities) member by member; the rest is replaced. */
static nef_err join(json_t **to, json_t *from)
{
    const char *name;
    json_t *value;

    if (*to == NULL) {
        *to = json_deep_copy(from);
        return *to == NULL ? NEF_E_NOMEM : NEF_OK;
    }
    if (json_is_array(*to) && json_is_array(from))
        return json_array_extend(*to, from) == 0 ? NEF_OK : NEF_E_NOMEM;
    if (json_is_object(*to) && json_is_object(from)) {
        json_object_foreach(from, name, value) {
            json_t *old = json_object_get(*to, name);

            if (json_is_array(old) && json_is_array(value)) {
                if (json_array_extend(old, value) != 0)
                    return NEF_E_NOMEM;
            } else if (json_object_set(*to, name, value) != 0) {
                return NEF_E_NOMEM;
            }
        }
    }
    return NEF_OK;
}

static nef_err take_call(struct choice *c, const json_t *call)
{
    const json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
    uint64_t index = (uint64_t)json_integer_value(json_object_get(call, "index"));
    nef_err err = NEF_OK;

    if (c->calls == NULL && (c->calls = json_array()) == NULL)
        return NEF_E_NOMEM;
    if (index > c->call_count)
        return NEF_E_PROTOCOL;
    if (index == c->call_count) {
        struct nef_buf *grown = realloc(c->arguments, (c->call_count + 1) * sizeof(*grown));
        json_t *own;

        if (grown == NULL)
            return NEF_E_NOMEM;
        c->arguments = grown;
        grown[c->call_count] = (struct nef_buf){.max = NEF_AI_ANSWER_MAX};
        own = json_deep_copy(call);
        if (own == NULL || json_array_append(c->calls, own) != 0)
            err = NEF_E_NOMEM;
        (void)json_object_del(own, "index");
        json_decref(own);
        if (err != NEF_OK)
            return err;
        c->call_count++;
    }
    if (json_is_string(arguments))
        nef_buf_append(&c->arguments[index], json_string_value(arguments), json_string_length(arguments));
    return c->arguments[index].failed ? NEF_E_LIMIT : NEF_OK;
}

static nef_err take_delta(struct choice *c, const json_t *delta)
{
    const json_t *content = json_object_get(delta, "content"), *reasoning = json_object_get(delta, "reasoning_content");
    json_t *call;
    size_t i;
    nef_err err = NEF_OK;

    if (json_is_string(content)) {
        c->has_content = c->has_content || json_string_length(content) > 0;
        nef_buf_append(&c->content, json_string_value(content), json_string_length(content));
    }
    if (json_is_string(reasoning))
        nef_buf_append(&c->reasoning, json_string_value(reasoning), json_string_length(reasoning));
    json_array_foreach(json_object_get(delta, "tool_calls"), i, call)
        if (err == NEF_OK)
            err = take_call(c, call);
    return err;
}

static nef_err take_choice(struct nef_whole *w, json_t *choice)
{
    struct choice *c = NULL;
    const char *name;
    json_t *value;
    nef_err err = choice_at(w, (uint32_t)json_integer_value(json_object_get(choice, "index")), &c);

    if (err != NEF_OK)
        return err;
    if (c->rest == NULL && (c->rest = json_object()) == NULL)
        return NEF_E_NOMEM;
    json_object_foreach(choice, name, value) {
        if (strcmp(name, "delta") == 0) {
            err = take_delta(c, value);
        } else if (strcmp(name, "text") == 0) {
            nef_buf_append(&c->content, json_string_value(value), json_string_length(value));
        } else if (strcmp(name, "logprobs") == 0) {
            err = json_is_null(value) ? NEF_OK : join(&c->logprobs, value);
        } else if (strcmp(name, "token_ids") == 0) {
            err = json_is_array(value) ? join(&c->ids, value) : NEF_OK;
        } else if (!json_is_null(value) || json_object_get(c->rest, name) == NULL) {
            err = json_object_set(c->rest, name, value) == 0 ? NEF_OK : NEF_E_NOMEM;
        }
        if (err != NEF_OK)
            return err;
    }
    return c->content.failed || c->reasoning.failed ? NEF_E_LIMIT : NEF_OK;
}

nef_err nef_whole_take(struct nef_whole *w, json_t *chunk)
{
    json_t *choice, *usage = json_object_get(chunk, "usage");
    size_t i;

    if (w->envelope == NULL) {
        w->envelope = json_copy(chunk);
        if (w->envelope == NULL)
            return NEF_E_NOMEM;
        (void)json_object_del(w->envelope, "choices");
        (void)json_object_del(w->envelope, "usage");
    }
    if (json_is_object(usage)) {
        json_decref(w->usage);
        w->usage = json_incref(usage);
    }
    json_array_foreach(json_object_get(chunk, "choices"), i, choice) {
        nef_err err = take_choice(w, choice);

        if (err != NEF_OK)
            return err;
    }
    return NEF_OK;
}

static json_t *text_of(const struct nef_buf *b)
{
    return json_stringn(b->bytes == 0 ? "" : (const char *)b->data, b->bytes);
}

static bool put(json_t *object, const char *name, json_t *value)
{
    return value != NULL && json_object_set_new(object, name, value) == 0;
}

static json_t *message_of(struct choice *c)
{
    json_t *message = json_pack("{s:s}", "role", "assistant");
    bool good = message != NULL;

    /* null where the answer is calls alone, as OpenAI does it */
    good = good && put(message, "content", c->call_count > 0 && !c->has_content ? json_null() : text_of(&c->content));
    good = good && put(message, "refusal", json_null());
    if (c->reasoning.bytes > 0)
        good = good && put(message, "reasoning_content", text_of(&c->reasoning));
    for (uint32_t i = 0; i < c->call_count && good; i++) {
        json_t *call = json_array_get(c->calls, i), *function = json_object_get(call, "function");

        good = function != NULL && put(function, "arguments", text_of(&c->arguments[i]));
    }
    if (c->call_count > 0)
        good = good && json_object_set(message, "tool_calls", c->calls) == 0;
    if (good)
        return message;
    json_decref(message);
    return NULL;
}

static json_t *choice_of(struct nef_whole *w, struct choice *c, uint32_t index)
{
    json_t *out = json_object();
    bool good = out != NULL && put(out, "index", json_integer(index));
    const char *name;
    json_t *value;

    if (w->chat)
        good = good && put(out, "message", message_of(c));
    else
        good = good && put(out, "text", text_of(&c->content));
    good = good && put(out, "logprobs", c->logprobs != NULL ? json_incref(c->logprobs) : json_null());
    json_object_foreach(c->rest, name, value)
        if (good && json_object_get(out, name) == NULL)
            good = json_object_set(out, name, value) == 0;
    if (c->ids != NULL)
        good = good && json_object_set(out, "token_ids", c->ids) == 0;
    if (good)
        return out;
    json_decref(out);
    return NULL;
}

json_t *nef_whole_end(struct nef_whole *w)
{
    json_t *out = w->envelope != NULL ? json_copy(w->envelope) : json_object(), *choices = json_array();
    bool good = out != NULL && choices != NULL &&
                put(out, "object", json_string(w->chat ? "chat.completion" : "text_completion"));

    for (uint32_t i = 0; i < w->count && good; i++) {
        json_t *choice = choice_of(w, &w->choices[i], i);

        good = choice != NULL && json_array_append(choices, choice) == 0;
        json_decref(choice);
    }
    good = good && json_object_set(out, "choices", choices) == 0;
    if (w->usage != NULL)
        good = good && json_object_set(out, "usage", w->usage) == 0;
    json_decref(choices);
    if (good)
        return out;
    json_decref(out);
    return NULL;
}
