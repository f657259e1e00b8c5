/* Fields of a chat: messages, tools, response_format, thinking; see request_internal.h. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/api/request_internal.h"

bool nef_api_take_messages(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_array(value) || json_array_size(value) == 0)
        return nef_api_bad_type(p, f->name, "an array with at least one message");
    p->r->messages = value;
    return true;
}

/* ---- tools ---- */

static const char *name_of(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

/* NAME is a function of one of the first COUNT tools. */
static bool is_named(const json_t *tools, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(name_of(json_array_get(tools, i)), name) == 0)
            return true;
    return false;
}

bool nef_api_take_tools(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const json_t *tool;
    size_t i;

    if (!json_is_array(value))
        return nef_api_bad_type(p, f->name, "an array");
    if (json_array_size(value) > NEF_INFER_TOOLS_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %u tools are taken.", NEF_INFER_TOOLS_MAX);
    json_array_foreach(value, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function");
        const json_t *name = json_object_get(function, "name"), *strict = json_object_get(function, "strict");

        if (type == NULL || strcmp(type, "function") != 0)
            return nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                                "tools[%zu].type must be \"function\".", i);
        if (json_string_length(name) == 0)
            return nef_api_fail(p->e, 400, "invalid_value", f->name, "tools[%zu].function.name is missing.", i);
        if (strlen(json_string_value(name)) != json_string_length(name) ||
            json_string_length(name) > NEF_INFER_FUNCTION_NAME_MAX)
            return nef_api_fail(p->e, 400, "invalid_value", f->name,
                                "tools[%zu].function.name must have at most %u bytes, none of them 0.", i,
                                NEF_INFER_FUNCTION_NAME_MAX);
        if (is_named(value, i, json_string_value(name)))
            return nef_api_fail(p->e, 400, "invalid_value", f->name, "tools[%zu].function.name is there twice.", i);
        if (strict != NULL && !json_is_boolean(strict) && !json_is_null(strict))
            return nef_api_bad_type(p, "tools.function.strict", "a boolean");
    }
    p->r->tools = json_array_size(value) > 0 ? value : NULL;
    return true;
}

bool nef_api_take_tool_choice(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_string(value) && !json_is_object(value))
        return nef_api_bad_type(p, f->name, "a string or an object");
    p->choice = value;
    return true;
}

static bool bad_choice(struct nef_api_parse *p)
{
    return nef_api_bad_value(p, "tool_choice",
                             "\"auto\", \"none\", \"required\", {\"type\": \"function\", \"function\": {\"name\": "
                             "...}} or {\"type\": \"allowed_tools\", \"allowed_tools\": {\"mode\": ..., \"tools\": "
                             "[...]}}");
}

static bool unknown_function(struct nef_api_parse *p)
{
    return nef_api_fail(p->e, 400, "invalid_value", "tool_choice",
                        "'tool_choice' names a function that isn't in 'tools'.");
}

/* OpenAI's allowed_tools: the model is told of all tools, so that a prompt's beginning stays the same, and may call
 * some. */
static bool allow_some(struct nef_api_parse *p, const json_t *allowed)
{
    const char *mode = json_string_value(json_object_get(allowed, "mode"));
    const json_t *list = json_object_get(allowed, "tools"), *tool;
    struct nef_api_request *r = p->r;
    size_t i;

    if (mode == NULL || (strcmp(mode, "auto") != 0 && strcmp(mode, "required") != 0) || !json_is_array(list) ||
        json_array_size(list) == 0 || json_array_size(list) > NEF_INFER_TOOLS_MAX)
        return bad_choice(p);
    json_array_foreach(list, i, tool)
    {
        if (name_of(tool) == NULL)
            return bad_choice(p);
        if (!is_named(r->tools, json_array_size(r->tools), name_of(tool)))
            return unknown_function(p);
    }
    r->callable = json_array();
    json_array_foreach(r->tools, i, tool)
    {
        if (!is_named(list, json_array_size(list), name_of(tool)))
            continue;
        if (json_array_append(r->callable, (json_t *)tool) != 0)
            return nef_api_fail(p->e, 500, "", "", "Out of memory.");
    }
    r->tools_required = strcmp(mode, "required") == 0;
    return true;
}

static bool choose(struct nef_api_parse *p)
{
    struct nef_api_request *r = p->r;
    const char *text = json_string_value(p->choice), *type = json_string_value(json_object_get(p->choice, "type"));

    if (text != NULL && strcmp(text, "required") == 0) {
        r->tools_required = true;
        return true;
    }
    if (text != NULL)
        return strcmp(text, "auto") == 0 || bad_choice(p);
    if (type != NULL && strcmp(type, "allowed_tools") == 0)
        return allow_some(p, json_object_get(p->choice, "allowed_tools"));
    if (type == NULL || strcmp(type, "function") != 0 || name_of(p->choice) == NULL)
        return bad_choice(p);
    if (!is_named(r->tools, json_array_size(r->tools), name_of(p->choice)))
        return unknown_function(p);
    r->function = name_of(p->choice);
    r->tools_required = true;
    return true;
}

bool nef_api_choose_tools(struct nef_api_parse *p)
{
    struct nef_api_request *r = p->r;
    const char *text = json_string_value(p->choice);

    if (text != NULL && strcmp(text, "none") == 0) {
        r->tools = NULL; /* the model isn't told of them */
        return true;
    }
    if (r->tools == NULL) {
        if (p->choice == NULL || (text != NULL && strcmp(text, "auto") == 0))
            return true;
        return nef_api_fail(p->e, 400, "invalid_value", "tool_choice",
                            "'tool_choice' is only allowed when 'tools' are given.");
    }
    if (p->choice != NULL && !choose(p))
        return false;
    if (r->callable == NULL)
        r->callable = json_incref((json_t *)r->tools);
    return r->callable != NULL;
}

/* ---- response_format ---- */

static bool take_schema(struct nef_api_parse *p, const json_t *format)
{
    const json_t *described = json_object_get(format, "json_schema"), *schema = json_object_get(described, "schema");
    const json_t *strict = json_object_get(described, "strict");
    const char *name;
    json_t *one;

    if (!json_is_object(described))
        return nef_api_bad_type(p, "response_format.json_schema", "an object");
    json_object_foreach((json_t *)described, name, one)
    {
        if (strcmp(name, "name") == 0 || strcmp(name, "description") == 0) {
            if (!json_is_string(one) && !json_is_null(one))
                return nef_api_bad_type(p, "response_format.json_schema", "an object whose name and description are "
                                                                          "strings");
        } else if (strcmp(name, "schema") != 0 && strcmp(name, "strict") != 0) {
            return nef_api_fail(p->e, 400, "unsupported_parameter", "response_format",
                                "'response_format.json_schema.%.*s' is not supported.", nef_api_shown(name), name);
        }
    }
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return nef_api_bad_type(p, "response_format.json_schema.schema", "a JSON Schema");
    if (strict != NULL && !json_is_boolean(strict) && !json_is_null(strict))
        return nef_api_bad_type(p, "response_format.json_schema.strict", "a boolean");
    p->r->answer = NEF_GRAMMAR_SCHEMA;
    p->r->schema = schema;
    return true;
}

bool nef_api_take_format(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    size_t known = 1;

    if (!json_is_object(value))
        return nef_api_bad_type(p, f->name, "an object");
    if (type == NULL)
        return nef_api_bad_type(p, "response_format.type", "\"text\", \"json_object\" or \"json_schema\"");
    if (strcmp(type, "json_object") == 0) {
        p->r->answer = NEF_GRAMMAR_OBJECT;
    } else if (strcmp(type, "json_schema") == 0) {
        if (!take_schema(p, value))
            return false;
        known = 2;
    } else if (strcmp(type, "text") != 0) {
        return nef_api_unsupported(p, f->name);
    }
    return json_object_size(value) == known ||
           nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                        "'response_format' has fields that are not supported beside its type.");
}

/* ---- thinking ---- */

bool nef_api_take_thinking(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_boolean(value))
        return nef_api_bad_type(p, f->name, "a boolean");
    p->r->enable_thinking = json_is_true(value);
    p->r->thinking_said = true;
    return true;
}

/* DashScope's thinking_budget, vLLM's thinking_token_budget. */
bool nef_api_take_budget(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t n = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (n < 0)
        return nef_api_bad_value(p, f->name, "0 or more");
    p->r->thinking_max = n >= NEF_NO_TOKEN ? NEF_NO_TOKEN : (uint32_t)n;
    return true;
}

/* "none" means the same for every model that thinks or not. How long "low" or "high" is Qwen doesn't say. */
bool nef_api_take_effort(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const char *text = json_string_value(value);

    if (text == NULL || strcmp(text, "none") != 0)
        return nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                            "'reasoning_effort' may only be \"none\": Qwen defines no others. See "
                            "'chat_template_kwargs.thinking_budget'.");
    p->r->enable_thinking = false;
    p->r->thinking_said = true;
    return true;
}

bool nef_api_take_template(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    static const struct nef_api_field thinking = {.name = "chat_template_kwargs.enable_thinking"},
                                      budget = {.name = "chat_template_kwargs.thinking_budget"};
    const char *name;
    json_t *one;

    if (!json_is_object(value))
        return nef_api_bad_type(p, f->name, "an object");
    json_object_foreach((json_t *)value, name, one)
    {
        bool good;

        if (strcmp(name, "enable_thinking") == 0)
            good = json_is_null(one) || nef_api_take_thinking(p, &thinking, one);
        else if (strcmp(name, "thinking_budget") == 0 || strcmp(name, "thinking_token_budget") == 0)
            good = json_is_null(one) || nef_api_take_budget(p, &budget, one);
        else
            good = nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                                "'chat_template_kwargs.%.*s' is not supported by this engine.", nef_api_shown(name),
                                name);
        if (!good)
            return false;
    }
    return true;
}
