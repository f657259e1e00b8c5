/* Items of a conversation as messages of a chat, tools and formats as a chat says them; see responses_request.h.
 *
 *   instructions             a system message, first; of this request only
 *   message                  a message; developer is system
 *   reasoning                reasoning_content of the assistant's message that follows it
 *   function_call            tool_calls of the assistant's message before it, or of one without content
 *   function_call_output     a message of role tool */
#include "gateway/responses_request.h"
#include <stdio.h>
#include <string.h>
#include "base/buf.h"
#include "base/limits.h"

struct chat {
    json_t *messages;
    json_t *assistant; /* the last message, if it is the assistant's: calls are added to it; borrowed */
    json_t *reasoning; /* of the message that comes; owned */
};

/* The texts of parts, together. NULL: out of memory. */
static json_t *text_of(const json_t *content)
{
    struct nef_buf out = {0};
    const json_t *part;
    json_t *text;
    size_t i;

    if (content == NULL || json_is_null(content))
        return json_string("");
    if (json_is_string(content))
        return json_string(json_string_value(content));
    json_array_foreach (content, i, part) {
        const json_t *piece = json_object_get(part, "text");

        if (piece == NULL)
            piece = json_object_get(part, "refusal");
        if (json_is_string(piece))
            nef_buf_append(&out, json_string_value(piece), json_string_length(piece));
    }
    text = out.failed ? NULL : json_stringn(out.bytes == 0 ? "" : (const char *)out.data, out.bytes);
    nef_buf_free(&out);
    return text;
}

/* The assistant's message that CALL or reasoning belongs to: the last one, or a new one. */
static json_t *assistant(struct chat *c)
{
    if (c->assistant == NULL) {
        json_t *message = json_pack("{s:s, s:s}", "role", "assistant", "content", "");

        if (message == NULL || json_array_append_new(c->messages, message) != 0)
            return NULL;
        c->assistant = message;
    }
    return c->assistant;
}

static bool put_reasoning(struct chat *c, json_t *message)
{
    json_t *reasoning = c->reasoning;

    if (reasoning == NULL)
        return true;
    c->reasoning = NULL;
    return json_object_set_new(message, "reasoning_content", reasoning) == 0;
}

static nef_err add_message(struct chat *c, const json_t *item, const char *role)
{
    json_t *message = json_pack("{s:s, s:o}", "role", strcmp(role, "developer") == 0 ? "system" : role, "content",
                                text_of(json_object_get(item, "content")));
    bool own = strcmp(role, "assistant") == 0;

    if (message == NULL || json_array_append_new(c->messages, message) != 0)
        return NEF_E_NOMEM;
    c->assistant = own ? message : NULL;
    if (own)
        return put_reasoning(c, message) ? NEF_OK : NEF_E_NOMEM;
    json_decref(c->reasoning); /* of an answer that never came */
    c->reasoning = NULL;
    return NEF_OK;
}

static nef_err add_call(struct chat *c, const json_t *item)
{
    json_t *call, *message, *calls;

    if (c->reasoning != NULL) /* a new turn of thought, so a new message */
        c->assistant = NULL;
    message = assistant(c);
    if (message == NULL || !put_reasoning(c, message))
        return NEF_E_NOMEM;
    calls = json_object_get(message, "tool_calls");
    if (calls == NULL) {
        calls = json_array();
        if (json_object_set_new(message, "tool_calls", calls) != 0)
            return NEF_E_NOMEM;
    }
    call = json_pack("{s:O, s:s, s:{s:O, s:O}}", "id", json_object_get(item, "call_id"), "type", "function", "function",
                     "name", json_object_get(item, "name"), "arguments", json_object_get(item, "arguments"));
    return json_array_append_new(calls, call) == 0 ? NEF_OK : NEF_E_NOMEM;
}

static nef_err add_item(struct chat *c, const json_t *item)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    json_t *message;

    if (type == NULL || strcmp(type, "message") == 0) {
        if (!json_is_string(json_object_get(item, "role"))) /* a stored item that isn't one of ours */
            return NEF_E_PROTOCOL;
        return add_message(c, item, json_string_value(json_object_get(item, "role")));
    }
    if (strcmp(type, "function_call") == 0)
        return add_call(c, item);
    if (strcmp(type, "reasoning") == 0) {
        json_t *text = text_of(json_object_get(item, "content"));

        if (text == NULL)
            return NEF_E_NOMEM;
        json_decref(c->reasoning);
        c->reasoning = json_string_length(text) > 0 ? text : NULL;
        if (c->reasoning == NULL)
            json_decref(text);
        return NEF_OK;
    }
    message = json_pack("{s:s, s:O, s:o}", "role", "tool", "tool_call_id", json_object_get(item, "call_id"), "content",
                        text_of(json_object_get(item, "output")));
    c->assistant = NULL;
    return json_array_append_new(c->messages, message) == 0 ? NEF_OK : NEF_E_NOMEM;
}

/* ---- tools and formats ---- */

static nef_err set_tools(json_t *chat, const json_t *tools, struct nef_responses_why *why)
{
    json_t *list;
    const json_t *tool;
    size_t i;

    if (json_array_size(tools) == 0)
        return NEF_OK;
    list = json_array();
    if (json_object_set_new(chat, "tools", list) != 0)
        return NEF_E_NOMEM;
    json_array_foreach (tools, i, tool) {
        const char *type = json_string_value(json_object_get(tool, "type"));
        static const char *const keys[] = {"name", "description", "parameters", "strict"};
        json_t *function;

        if (type == NULL || strcmp(type, "function") != 0)
            return nef_responses_refuse(why, 400, "unsupported_parameter", "tools",
                                        "Only tools of type function are supported.");
        if (!json_is_string(json_object_get(tool, "name")))
            return nef_responses_refuse(why, 400, "invalid_value", "tools", "A tool needs a name.");
        function = json_object();
        for (size_t k = 0; function != NULL && k < sizeof(keys) / sizeof(keys[0]); k++) {
            json_t *value = json_object_get(tool, keys[k]);

            if (value != NULL && !json_is_null(value) && json_object_set(function, keys[k], value) != 0)
                return NEF_E_NOMEM;
        }
        if (json_array_append_new(list, json_pack("{s:s, s:o}", "type", "function", "function", function)) != 0)
            return NEF_E_NOMEM;
    }
    return NEF_OK;
}

/* {"mode", "tools": [{"type": "function", "name"}]} as a chat says it. NULL: it isn't that, or out of memory. */
static json_t *allowed_tools(const json_t *choice)
{
    json_t *list = json_array(), *mode = json_object_get(choice, "mode");
    const json_t *tool;
    size_t i;

    json_array_foreach (json_object_get(choice, "tools"), i, tool) {
        const char *type = json_string_value(json_object_get(tool, "type"));
        json_t *name = json_object_get(tool, "name");

        if (type == NULL || strcmp(type, "function") != 0 || !json_is_string(name) ||
            json_array_append_new(list, json_pack("{s:s, s:{s:O}}", "type", type, "function", "name", name)) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    if (!json_is_string(mode) || json_array_size(list) == 0) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:s, s:{s:O, s:o}}", "type", "allowed_tools", "allowed_tools", "mode", mode, "tools", list);
}

static nef_err set_tool_choice(json_t *chat, json_t *choice, struct nef_responses_why *why)
{
    const char *type = json_string_value(json_object_get(choice, "type"));
    json_t *name = json_object_get(choice, "name"), *value;

    if (choice == NULL || json_is_null(choice) || json_object_get(chat, "tools") == NULL)
        return NEF_OK;
    if (json_is_string(choice))
        value = json_incref(choice);
    else if (type != NULL && strcmp(type, "function") == 0 && json_is_string(name))
        value = json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name", name);
    else
        value = type != NULL && strcmp(type, "allowed_tools") == 0 ? allowed_tools(choice) : NULL;
    if (value == NULL)
        return nef_responses_refuse(why, 400, "unsupported_parameter", "tool_choice",
                                    "tool_choice is auto, none, required, a function by its name, or allowed_tools "
                                    "with their mode and functions by their names.");
    return json_object_set_new(chat, "tool_choice", value) == 0 ? NEF_OK : NEF_E_NOMEM;
}

static nef_err set_format(json_t *chat, const json_t *text, struct nef_responses_why *why)
{
    json_t *format = json_object_get(text, "format"), *schema, *inner;
    const char *type = json_string_value(json_object_get(format, "type")), *key;
    json_t *value;

    json_object_foreach ((json_t *)text, key, value) {
        const char *level = json_string_value(value);

        if (strcmp(key, "format") == 0 || json_is_null(value))
            continue;
        if (strcmp(key, "verbosity") != 0 || level == NULL || strcmp(level, "medium") != 0)
            return nef_responses_refuse(why, 400, "unsupported_parameter", "text", "text has only a format here.");
    }
    if (format == NULL || json_is_null(format) || (type != NULL && strcmp(type, "text") == 0))
        return NEF_OK;
    if (type != NULL && strcmp(type, "json_object") == 0)
        return json_object_set(chat, "response_format", format) == 0 ? NEF_OK : NEF_E_NOMEM;
    if (type == NULL || strcmp(type, "json_schema") != 0 || !json_is_object(json_object_get(format, "schema")))
        return nef_responses_refuse(why, 400, "invalid_value", "text.format",
                                    "A format is text, json_object, or json_schema with its schema.");
    inner = json_copy(format);
    if (inner != NULL)
        (void)json_object_del(inner, "type");
    schema = json_pack("{s:s, s:o}", "type", "json_schema", "json_schema", inner);
    return json_object_set_new(chat, "response_format", schema) == 0 ? NEF_OK : NEF_E_NOMEM;
}

/* Qwen3 thinks or doesn't: an effort of none is the one that it knows. */
static nef_err set_reasoning(json_t *chat, const json_t *reasoning)
{
    const char *effort = json_string_value(json_object_get(reasoning, "effort"));

    if (effort == NULL || (strcmp(effort, "none") != 0 && strcmp(effort, "minimal") != 0) ||
        json_object_get(chat, "chat_template_kwargs") != NULL)
        return NEF_OK;
    return json_object_set_new(chat, "chat_template_kwargs", json_pack("{s:b}", "enable_thinking", 0)) == 0
               ? NEF_OK
               : NEF_E_NOMEM;
}

static nef_err set_plain(json_t *chat, const json_t *body, uint64_t seed)
{
    static const char *const names[][2] = {
        {"model", "model"},
        {"max_output_tokens", "max_tokens"},
        {"temperature", "temperature"},
        {"top_p", "top_p"},
        {"top_k", "top_k"},
        {"min_p", "min_p"},
        {"seed", "seed"},
        {"chat_template_kwargs", "chat_template_kwargs"},
    };
    json_t *parallel = json_object_get(body, "parallel_tool_calls");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        json_t *value = json_object_get(body, names[i][0]);

        if (value != NULL && !json_is_null(value) && json_object_set(chat, names[i][1], value) != 0)
            return NEF_E_NOMEM;
    }
    if (json_object_get(chat, "seed") == NULL &&
        json_object_set_new(chat, "seed", json_integer((json_int_t)(seed >> 1))) != 0)
        return NEF_E_NOMEM;
    if (json_is_boolean(parallel) && json_object_get(chat, "tools") != NULL &&
        json_object_set(chat, "parallel_tool_calls", parallel) != 0)
        return NEF_E_NOMEM;
    return json_object_set_new(chat, "return_token_ids", json_true()) == 0 ? NEF_OK : NEF_E_NOMEM;
}

static nef_err add_items(struct chat *c, const json_t *items, struct nef_responses_why *why)
{
    const json_t *item;
    size_t i;
    nef_err err = NEF_OK;

    json_array_foreach (items, i, item) {
        if (err == NEF_OK)
            err = add_item(c, item);
    }
    if (err == NEF_OK && json_array_size(c->messages) > NEF_RESPONSES_ITEMS_MAX)
        err = nef_responses_refuse(why, 400, "invalid_value", "input", "The conversation has more than %u messages.",
                                   NEF_RESPONSES_ITEMS_MAX);
    return err;
}

nef_err nef_responses_chat(const json_t *body, const json_t *context, const json_t *input, uint64_t seed,
                           json_t **out_chat, struct nef_responses_why *why)
{
    struct chat c = {.messages = json_array()};
    json_t *chat = json_pack("{s:o}", "messages", c.messages);
    json_t *instructions = json_object_get(body, "instructions");
    nef_err err = chat == NULL ? NEF_E_NOMEM : NEF_OK;

    if (err == NEF_OK && json_is_string(instructions) &&
        json_array_append_new(c.messages, json_pack("{s:s, s:O}", "role", "system", "content", instructions)) != 0)
        err = NEF_E_NOMEM;
    if (err == NEF_OK)
        err = add_items(&c, context, why);
    if (err == NEF_OK)
        err = add_items(&c, input, why);
    json_decref(c.reasoning);
    if (err == NEF_OK && json_array_size(c.messages) == 0)
        err = nef_responses_refuse(why, 400, "missing_required_parameter", "input", "There is no input.");
    if (err == NEF_OK)
        err = set_tools(chat, json_object_get(body, "tools"), why);
    if (err == NEF_OK)
        err = set_tool_choice(chat, json_object_get(body, "tool_choice"), why);
    if (err == NEF_OK)
        err = set_format(chat, json_object_get(body, "text"), why);
    if (err == NEF_OK)
        err = set_plain(chat, body, seed);
    if (err == NEF_OK)
        err = set_reasoning(chat, json_object_get(body, "reasoning"));
    if (err == NEF_OK)
        *out_chat = chat;
    else
        json_decref(chat);
    return err;
}
