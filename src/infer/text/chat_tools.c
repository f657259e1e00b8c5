/* Tools and tool calls in a prompt, and JSON as transformers' template engine prints it.
 *
 * There `tojson` is json.dumps(value, ensure_ascii=False): ", " and ": " between, keys in the order given, only '"',
 * '\' and controls below U+0020 escaped, numbers as Python writes them (1e-05, 1.0, 1e+16). The Hermes format is Nous
 * Research's (https://github.com/NousResearch/Hermes-Function-Calling), as Qwen's templates have it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/limits.h"
#include "infer/text/chat_internal.h"

static void put_string(struct nef_chat_out *out, const char *text, size_t bytes)
{
    size_t done = 0;

    nef_chat_puts(out, "\"");
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        static const char letters[] = "btn\0fr"; /* of U+0008 and up; U+000B has none */
        char escape[8];

        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        nef_chat_put(out, text + done, i - done);
        done = i + 1;
        if (c >= 8 && c <= 13 && letters[c - 8] != '\0')
            (void)snprintf(escape, sizeof(escape), "\\%c", letters[c - 8]);
        else if (c < 0x20)
            (void)snprintf(escape, sizeof(escape), "\\u%04x", c);
        else
            (void)snprintf(escape, sizeof(escape), "\\%c", c);
        nef_chat_puts(out, escape);
    }
    nef_chat_put(out, text + done, bytes - done);
    nef_chat_puts(out, "\"");
}

/* Python's repr of a float: the shortest digits that read back the same, plain from 1e-4 to below 1e16. */
static void put_real(struct nef_chat_out *out, double value)
{
    char digits[40], text[64], *e;
    int exponent, count;

    for (int precision = 0; precision <= 16; precision++) {
        (void)snprintf(digits, sizeof(digits), "%.*e", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    e = strchr(digits, 'e');
    if (e == NULL) { /* no JSON number is infinite; json_real() could make one */
        nef_chat_refuse(out, NEF_E_INVALID, "tools: a number that is not finite");
        return;
    }
    exponent = atoi(e + 1);
    if (exponent >= -4 && exponent < 16) {
        count = (int)(e - digits) - (digits[0] == '-') - (strchr(digits, '.') != NULL); /* significant digits */
        count = count - 1 - exponent;                                                  /* those behind the point */
        (void)snprintf(text, sizeof(text), "%.*f", count < 1 ? 1 : count, value);
        nef_chat_puts(out, text);
        return;
    }
    nef_chat_put(out, digits, (size_t)(e - digits));
    (void)snprintf(text, sizeof(text), "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    nef_chat_puts(out, text);
}

static void put_json(struct nef_chat_out *out, const json_t *value, unsigned depth)
{
    char text[32];
    void *at;

    if (depth > NEF_CHAT_JSON_DEPTH_MAX) {
        nef_chat_refuse(out, NEF_E_LIMIT, "tools: JSON deeper than %u", NEF_CHAT_JSON_DEPTH_MAX);
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        nef_chat_puts(out, "{");
        for (at = json_object_iter((json_t *)value); at != NULL && out->err == NEF_OK;
             at = json_object_iter_next((json_t *)value, at)) {
            const char *key = json_object_iter_key(at);

            put_string(out, key, strlen(key)); /* jansson takes no NUL in a key */
            nef_chat_puts(out, ": ");
            put_json(out, json_object_iter_value(at), depth + 1);
            if (json_object_iter_next((json_t *)value, at) != NULL)
                nef_chat_puts(out, ", ");
        }
        nef_chat_puts(out, "}");
        break;
    case JSON_ARRAY:
        nef_chat_puts(out, "[");
        for (size_t i = 0; i < json_array_size(value) && out->err == NEF_OK; i++) {
            nef_chat_puts(out, i > 0 ? ", " : "");
            put_json(out, json_array_get(value, i), depth + 1);
        }
        nef_chat_puts(out, "]");
        break;
    case JSON_STRING:
        put_string(out, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        (void)snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        nef_chat_puts(out, text);
        break;
    case JSON_REAL:
        put_real(out, json_real_value(value));
        break;
    case JSON_TRUE:
        nef_chat_puts(out, "true");
        break;
    case JSON_FALSE:
        nef_chat_puts(out, "false");
        break;
    case JSON_NULL:
        nef_chat_puts(out, "null");
        break;
    }
}

void nef_chat_json(struct nef_chat_out *out, const json_t *value)
{
    put_json(out, value, 1);
}

static void check_tool(struct nef_chat_out *out, const json_t *tool, size_t index)
{
    const json_t *type = json_object_get(tool, "type"), *function = json_object_get(tool, "function");

    if (!json_is_object(tool))
        nef_chat_refuse(out, NEF_E_INVALID, "tools[%zu]: not an object", index);
    else if (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0)
        nef_chat_refuse(out, NEF_E_INVALID, "tools[%zu].type: not \"function\"", index);
    else if (!json_is_object(function))
        nef_chat_refuse(out, NEF_E_INVALID, "tools[%zu].function: %s", index,
                        function == NULL ? "missing" : "not an object");
    else if (json_string_length(json_object_get(function, "name")) == 0)
        nef_chat_refuse(out, NEF_E_INVALID, "tools[%zu].function.name: missing", index);
}

void nef_chat_tools(struct nef_chat_out *out, const json_t *tools)
{
    if (json_array_size(tools) > NEF_CHAT_TOOLS_MAX)
        nef_chat_refuse(out, NEF_E_LIMIT, "tools: more than %u", NEF_CHAT_TOOLS_MAX);
    nef_chat_puts(out, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                       "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
    for (size_t i = 0; i < json_array_size(tools) && out->err == NEF_OK; i++) {
        const json_t *tool = json_array_get(tools, i);

        check_tool(out, tool, i);
        nef_chat_puts(out, "\n");
        if (out->err == NEF_OK)
            nef_chat_json(out, tool);
    }
    nef_chat_puts(out,
                  "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
                  "<tool_call></tool_call> XML tags:\n<tool_call>\n"
                  "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>");
}

/* Arguments given as text: parsed and printed anew. Numbers beyond 64 bits, which Python keeps exactly and jansson
 * can't, leave the text as it is. */
static void put_parsed(struct nef_chat_out *out, const json_t *text, size_t index, size_t at)
{
    json_error_t why;
    json_t *value =
        json_loadb(json_string_value(text), json_string_length(text), JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);

    if (value != NULL)
        nef_chat_json(out, value);
    else if (json_error_code(&why) == json_error_numeric_overflow)
        nef_chat_put(out, json_string_value(text), json_string_length(text));
    else if (json_error_code(&why) == json_error_out_of_memory)
        nef_chat_refuse(out, NEF_E_NOMEM, "messages: out of memory");
    else
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].tool_calls[%zu].function.arguments: not JSON", index, at);
    json_decref(value);
}

void nef_chat_call(struct nef_chat_out *out, const json_t *call, size_t index, size_t at, bool parse)
{
    const json_t *function = json_object_get(call, "function"), *name, *arguments;

    if (!json_is_object(function)) /* {"name", "arguments"} alone: the templates take it */
        function = call;
    name = json_object_get(function, "name");
    arguments = json_object_get(function, "arguments");
    if (!json_is_object(call)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].tool_calls[%zu]: not an object", index, at);
        return;
    }
    if (!json_is_string(name)) {
        nef_chat_refuse(out, NEF_E_INVALID, "messages[%zu].tool_calls[%zu].function.name: missing", index, at);
        return;
    }
    nef_chat_puts(out, "<tool_call>\n{\"name\": \"");
    nef_chat_put(out, json_string_value(name), json_string_length(name));
    nef_chat_puts(out, "\", \"arguments\": ");
    if (arguments == NULL || json_is_null(arguments) ||
        (json_is_string(arguments) && json_string_length(arguments) == 0))
        nef_chat_puts(out, "{}");
    else if (!json_is_string(arguments))
        nef_chat_json(out, arguments);
    else if (parse)
        put_parsed(out, arguments, index, at);
    else
        nef_chat_put(out, json_string_value(arguments), json_string_length(arguments));
    nef_chat_puts(out, "}\n</tool_call>");
}
