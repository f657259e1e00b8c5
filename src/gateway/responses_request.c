/* See responses_request.h. */
#include "gateway/responses_request.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/limits.h"

nef_err nef_responses_refuse(struct nef_responses_why *why, unsigned status, const char *code, const char *param,
                             const char *format, ...)
{
    va_list args;

    memset(why, 0, sizeof(*why));
    why->status = status;
    why->code = code;
    (void)snprintf(why->param, sizeof(why->param), "%s", param);
    va_start(args, format);
    (void)vsnprintf(why->message, sizeof(why->message), format, args);
    va_end(args);
    return NEF_E_INVALID;
}

static nef_err bad_type(struct nef_responses_why *why, const char *param, const char *want)
{
    return nef_responses_refuse(why, 400, "invalid_type", param, "%s has to be %s.", param, want);
}

static nef_err unsupported(struct nef_responses_why *why, const char *param)
{
    return nef_responses_refuse(why, 400, "unsupported_parameter", param, "%s isn't supported here with this value.",
                                param);
}

bool nef_response_id_ok(const char *id)
{
    size_t bytes = strlen(id);

    return bytes > 5 && bytes < NEF_RESPONSE_ID_BYTES && strncmp(id, "resp_", 5) == 0 &&
           strspn(id + 5, "0123456789abcdef") == bytes - 5;
}

/* ---- fields ---- */

enum kind { TEXT, BOOL, INTEGER, NUMBER, OBJECT, ARRAY, ANY };

static bool is_kind(const json_t *value, enum kind kind)
{
    switch (kind) {
    case TEXT: return json_is_string(value);
    case BOOL: return json_is_boolean(value);
    case INTEGER: return json_is_integer(value);
    case NUMBER: return json_is_number(value);
    case OBJECT: return json_is_object(value);
    case ARRAY: return json_is_array(value);
    case ANY:
    default: return true;
    }
}

static const char *const kind_names[] = {"a text",    "true or false", "an integer", "a number",
                                         "an object", "an array",      "anything"};

/* What a request may say. */
static const struct field {
    const char *name;
    enum kind kind;
} fields[] = {
    {"model", TEXT},
    {"input", ANY},
    {"instructions", TEXT},
    {"max_output_tokens", INTEGER},
    {"temperature", NUMBER},
    {"top_p", NUMBER},
    {"top_k", INTEGER},
    {"min_p", NUMBER},
    {"seed", INTEGER},
    {"chat_template_kwargs", OBJECT},
    {"tools", ARRAY},
    {"tool_choice", ANY},
    {"parallel_tool_calls", BOOL},
    {"text", OBJECT},
    {"reasoning", OBJECT},
    {"previous_response_id", TEXT},
    {"store", BOOL},
    {"background", BOOL},
    {"stream", BOOL},
    {"stream_options", OBJECT},
    {"metadata", OBJECT},
    {"user", TEXT},
    {"safety_identifier", TEXT},
    {"prompt_cache_key", TEXT},
    {"service_tier", TEXT},
    {"truncation", TEXT},
    {"include", ARRAY},
    {"top_logprobs", INTEGER},
    {"max_tool_calls", ANY},
};

static nef_err check_fields(const json_t *body, struct nef_responses_why *why)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)body, key, value) {
        size_t i = 0;

        while (i < sizeof(fields) / sizeof(fields[0]) && strcmp(fields[i].name, key) != 0)
            i++;
        if (i == sizeof(fields) / sizeof(fields[0])) {
            if (json_is_null(value))
                continue;
            return nef_responses_refuse(why, 400, "unknown_parameter", key, "The parameter %.64s isn't known.", key);
        }
        if (!json_is_null(value) && !is_kind(value, fields[i].kind))
            return bad_type(why, key, kind_names[fields[i].kind]);
    }
    return NEF_OK;
}

static const json_t *field(const json_t *body, const char *name) /* NULL: absent or null */
{
    const json_t *value = json_object_get(body, name);

    return json_is_null(value) ? NULL : value;
}

static bool flag(const json_t *body, const char *name, bool preset)
{
    const json_t *value = field(body, name);

    return value == NULL ? preset : json_is_true(value);
}

/* Values that ask for what there isn't. */
static nef_err check_values(const json_t *body, struct nef_responses_why *why)
{
    const json_t *value, *item;
    const char *text, *key;
    size_t i;

    value = field(body, "max_output_tokens");
    if (value != NULL && json_integer_value(value) < 1)
        return nef_responses_refuse(why, 400, "invalid_value", "max_output_tokens",
                                    "max_output_tokens has to be at least 1.");
    value = field(body, "top_logprobs");
    if ((value != NULL && json_integer_value(value) != 0) || field(body, "max_tool_calls") != NULL)
        return unsupported(why, value != NULL && json_integer_value(value) != 0 ? "top_logprobs" : "max_tool_calls");
    text = json_string_value(field(body, "truncation"));
    if (text != NULL && strcmp(text, "disabled") != 0)
        return unsupported(why, "truncation");
    text = json_string_value(field(body, "service_tier"));
    if (text != NULL && strcmp(text, "auto") != 0 && strcmp(text, "default") != 0)
        return unsupported(why, "service_tier");
    json_array_foreach (field(body, "include"), i, item) {
        /* Reasoning isn't hidden here, so there is nothing to encrypt; clients ask for it all the same. */
        if (!json_is_string(item) || strcmp(json_string_value(item), "reasoning.encrypted_content") != 0)
            return unsupported(why, "include");
    }
    json_object_foreach ((json_t *)field(body, "reasoning"), key, item) {
        if (strcmp(key, "effort") != 0 && strcmp(key, "summary") != 0 && strcmp(key, "generate_summary") != 0)
            return unsupported(why, "reasoning");
    }
    text = json_string_value(json_object_get(field(body, "reasoning"), "effort"));
    if (text != NULL && strcmp(text, "none") != 0 && strcmp(text, "minimal") != 0 && strcmp(text, "low") != 0 &&
        strcmp(text, "medium") != 0 && strcmp(text, "high") != 0 && strcmp(text, "xhigh") != 0)
        return unsupported(why, "reasoning.effort");
    if (flag(body, "background", false) && !flag(body, "store", true))
        return nef_responses_refuse(why, 400, "invalid_value", "background",
                                    "An answer in the background has to be stored.");
    json_object_foreach ((json_t *)field(body, "metadata"), key, item) {
        if (!json_is_string(item) || strlen(key) > 64 || json_string_length(item) > 512)
            return bad_type(why, "metadata", "an object of texts, names to 64 and values to 512 bytes");
    }
    if (json_object_size(field(body, "metadata")) > 16)
        return bad_type(why, "metadata", "at most 16 texts");
    return NEF_OK;
}

/* ---- input items ---- */

static nef_err check_part(const json_t *part, size_t i, struct nef_responses_why *why)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    char param[64];

    (void)snprintf(param, sizeof(param), "input[%zu].content", i);
    if (type != NULL && strcmp(type, "refusal") == 0)
        return json_is_string(json_object_get(part, "refusal")) ? NEF_OK
                                                                : bad_type(why, param, "parts with their text");
    if (type == NULL || (strcmp(type, "input_text") != 0 && strcmp(type, "output_text") != 0 &&
                         strcmp(type, "text") != 0 && strcmp(type, "reasoning_text") != 0))
        return nef_responses_refuse(why, 400, "unsupported_parameter", param, "Only parts of text are supported.");
    return json_is_string(json_object_get(part, "text")) ? NEF_OK : bad_type(why, param, "parts with their text");
}

static nef_err check_content(const json_t *content, size_t i, struct nef_responses_why *why)
{
    const json_t *part;
    size_t k;
    nef_err err = NEF_OK;
    char param[64];

    if (json_is_string(content))
        return NEF_OK;
    (void)snprintf(param, sizeof(param), "input[%zu].content", i);
    if (!json_is_array(content))
        return bad_type(why, param, "a text or an array of parts");
    json_array_foreach (content, k, part) {
        if (err == NEF_OK)
            err = check_part(part, i, why);
    }
    return err;
}

static nef_err check_item(const json_t *item, size_t i, struct nef_responses_why *why)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    const char *role = json_string_value(json_object_get(item, "role"));
    char param[64];

    (void)snprintf(param, sizeof(param), "input[%zu]", i);
    if (!json_is_object(item))
        return bad_type(why, param, "an object");
    if (type == NULL || strcmp(type, "message") == 0) {
        if (role == NULL || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 &&
                             strcmp(role, "system") != 0 && strcmp(role, "developer") != 0))
            return nef_responses_refuse(why, 400, "invalid_value", param,
                                        "A message's role is user, assistant, system or developer.");
        return check_content(json_object_get(item, "content"), i, why);
    }
    if (strcmp(type, "function_call") == 0)
        return json_is_string(json_object_get(item, "call_id")) && json_is_string(json_object_get(item, "name")) &&
                       json_is_string(json_object_get(item, "arguments"))
                   ? NEF_OK
                   : bad_type(why, param, "a function_call with call_id, name and arguments");
    if (strcmp(type, "function_call_output") == 0) {
        if (!json_is_string(json_object_get(item, "call_id")))
            return bad_type(why, param, "a function_call_output with call_id and output");
        return check_content(json_object_get(item, "output"), i, why);
    }
    if (strcmp(type, "reasoning") == 0)
        return json_object_get(item, "content") == NULL || json_is_null(json_object_get(item, "content"))
                   ? NEF_OK
                   : check_content(json_object_get(item, "content"), i, why);
    return nef_responses_refuse(why, 400, "unsupported_parameter", param, "Items of type %.64s aren't supported.",
                                type);
}

static const char *id_prefix(const json_t *item)
{
    const char *type = json_string_value(json_object_get(item, "type"));

    if (type == NULL || strcmp(type, "message") == 0)
        return "msg";
    if (strcmp(type, "function_call") == 0)
        return "fc";
    return strcmp(type, "reasoning") == 0 ? "rs" : "fco";
}

/* A copy that says what was left out: type, id, status, and content in parts, as items are listed. */
static json_t *item_whole(const json_t *item, const char *id, size_t i)
{
    json_t *copy = json_deep_copy(item);
    const json_t *content = json_object_get(copy, "content");
    const char *role = json_string_value(json_object_get(copy, "role"));
    bool good = copy != NULL;
    char name[NEF_RESPONSE_ID_BYTES + 32];

    (void)snprintf(name, sizeof(name), "%s_%sin%zx", id_prefix(item), id + 5, i);
    if (good && json_object_get(copy, "type") == NULL)
        good = json_object_set_new(copy, "type", json_string("message")) == 0;
    if (good && !json_is_string(json_object_get(copy, "id")))
        good = json_object_set_new(copy, "id", json_string(name)) == 0;
    if (good && json_is_string(content)) {
        bool output = role != NULL && strcmp(role, "assistant") == 0;
        json_t *part = json_pack("[{s:s, s:O}]", "type", output ? "output_text" : "input_text", "text", content);

        if (part != NULL && output)
            good = json_object_set_new(json_array_get(part, 0), "annotations", json_array()) == 0;
        good = good && json_object_set_new(copy, "content", part) == 0;
    }
    if (good && role != NULL && json_object_get(copy, "status") == NULL)
        good = json_object_set_new(copy, "status", json_string("completed")) == 0;
    if (good)
        return copy;
    json_decref(copy);
    return NULL;
}

static nef_err take_input(const json_t *input, const char *id, json_t **out, struct nef_responses_why *why)
{
    json_t *items = json_array();
    const json_t *item;
    json_t *text = NULL;
    size_t i;
    nef_err err = items == NULL ? NEF_E_NOMEM : NEF_OK;

    *out = items;
    if (err == NEF_OK && json_is_string(input)) {
        text = json_pack("[{s:s, s:O}]", "role", "user", "content", input);
        input = text;
        if (text == NULL)
            err = NEF_E_NOMEM;
    } else if (err == NEF_OK && input != NULL && !json_is_null(input) && !json_is_array(input)) {
        err = bad_type(why, "input", "a text or an array of items");
    }
    if (err == NEF_OK && json_array_size(input) > NEF_RESPONSES_ITEMS_MAX)
        err = nef_responses_refuse(why, 400, "invalid_value", "input", "At most %u items.", NEF_RESPONSES_ITEMS_MAX);
    json_array_foreach (input, i, item) {
        if (err == NEF_OK)
            err = check_item(item, i, why);
        if (err == NEF_OK && json_array_append_new(items, item_whole(item, id, i)) != 0)
            err = NEF_E_NOMEM;
    }
    json_decref(text);
    return err;
}

nef_err nef_responses_request_parse(json_t *body, const char *id, struct nef_responses_request *out,
                                    struct nef_responses_why *why)
{
    nef_err err;

    memset(out, 0, sizeof(*out));
    if (!json_is_object(body))
        return nef_responses_refuse(why, 400, "invalid_type", "", "The body has to be a JSON object.");
    err = check_fields(body, why);
    if (err == NEF_OK && field(body, "model") == NULL)
        err =
            nef_responses_refuse(why, 400, "missing_required_parameter", "model", "you must provide a model parameter");
    if (err == NEF_OK)
        err = check_values(body, why);
    if (err != NEF_OK)
        return err;
    out->stream = flag(body, "stream", false);
    out->store = flag(body, "store", true);
    out->background = flag(body, "background", false);
    out->body = json_copy(body);
    if (out->body == NULL)
        return NEF_E_NOMEM;
    (void)json_object_del(out->body, "input");
    out->previous = json_string_value(field(out->body, "previous_response_id"));
    if (out->previous != NULL && !nef_response_id_ok(out->previous))
        return nef_responses_refuse(why, 400, "previous_response_not_found", "previous_response_id",
                                    "There is no response with this id.");
    return take_input(json_object_get(body, "input"), id, &out->input, why);
}

void nef_responses_request_free(struct nef_responses_request *request)
{
    json_decref(request->body);
    json_decref(request->input);
    memset(request, 0, sizeof(*request));
}
