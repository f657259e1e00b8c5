/* Requests; see request.h. One table has every field that is known, with the endpoints that take it and the function
 * that does. A new field also goes into docs/inference.md. */
#include "infer/api/request.h"
#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"

#define COMPLETION (1u << NEF_API_COMPLETION)
#define CHAT       (1u << NEF_API_CHAT)
#define TOKENIZE   (1u << NEF_API_TOKENIZE)
#define DETOKENIZE (1u << NEF_API_DETOKENIZE)
#define GENERATE   (COMPLETION | CHAT)

struct parse {
    struct nef_api_request *r;
    struct nef_api_error *e;
    uint32_t vocab;
    bool tools_off; /* tool_choice "none" */
    const char *max_name;
};

struct field {
    const char *name;
    unsigned kinds;
    bool (*take)(struct parse *p, const struct field *f, const json_t *value);
    size_t offset; /* of a bool of the request */
};

bool nef_api_fail(struct nef_api_error *e, unsigned status, const char *code, const char *param, const char *format,
                  ...)
{
    va_list args;

    e->status = status;
    e->code = code;
    e->type = status == 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
    (void)snprintf(e->param, sizeof(e->param), "%s", param);
    va_start(args, format);
    (void)vsnprintf(e->message, sizeof(e->message), format, args);
    va_end(args);
    return false;
}

/* Names from outside are shown cut, so that no answer is made large; and cut they must still be UTF-8. */
#define SHOWN_MAX 64
static int shown(const char *text)
{
    size_t bytes = strlen(text);

    if (bytes <= SHOWN_MAX)
        return (int)bytes;
    bytes = SHOWN_MAX;
    while (bytes > 0 && ((unsigned char)text[bytes] & 0xc0) == 0x80)
        bytes--;
    return (int)bytes;
}

static bool bad_type(struct parse *p, const char *name, const char *want)
{
    return nef_api_fail(p->e, 400, "invalid_type", name, "'%s' must be %s.", name, want);
}

static bool bad_value(struct parse *p, const char *name, const char *want)
{
    return nef_api_fail(p->e, 400, "invalid_value", name, "'%s' must be %s.", name, want);
}

static bool unsupported(struct parse *p, const char *name)
{
    return nef_api_fail(p->e, 400, "unsupported_parameter", name, "'%s' is not supported by this engine.", name);
}

/* ---- fields, by kind of value ---- */

static bool take_bool(struct parse *p, const struct field *f, const json_t *value)
{
    if (!json_is_boolean(value))
        return bad_type(p, f->name, "a boolean");
    *(bool *)((char *)p->r + f->offset) = json_is_true(value);
    return true;
}

static bool take_model(struct parse *p, const struct field *f, const json_t *value)
{
    if (!json_is_string(value))
        return bad_type(p, f->name, "a string");
    p->r->model = json_string_value(value);
    return true;
}

static bool in_range(struct parse *p, const struct field *f, const json_t *value, double low, double high,
                     const char *want, float *out)
{
    double number = json_number_value(value);

    if (!json_is_number(value))
        return bad_type(p, f->name, "a number");
    if (!(number >= low && number <= high))
        return bad_value(p, f->name, want);
    *out = (float)number;
    return true;
}

static bool take_temperature(struct parse *p, const struct field *f, const json_t *value)
{
    return in_range(p, f, value, 0, 2, "from 0 to 2", &p->r->sampling.temperature);
}

static bool take_top_p(struct parse *p, const struct field *f, const json_t *value)
{
    if (!in_range(p, f, value, 0, 1, "from 0 to 1", &p->r->sampling.top_p))
        return false;
    if (p->r->sampling.top_p < FLT_MIN)
        p->r->sampling.top_p = FLT_MIN; /* the likeliest token alone */
    return true;
}

static bool take_min_p(struct parse *p, const struct field *f, const json_t *value)
{
    return in_range(p, f, value, 0, 1, "from 0 to 1", &p->r->sampling.min_p);
}

static bool take_top_k(struct parse *p, const struct field *f, const json_t *value)
{
    json_int_t k = json_integer_value(value);

    if (!json_is_integer(value))
        return bad_type(p, f->name, "an integer");
    if (k < -1 || k > UINT32_MAX)
        return bad_value(p, f->name, "-1 or 0 (all tokens), or positive");
    p->r->sampling.top_k = k < 0 ? 0 : (uint32_t)k;
    return true;
}

static bool take_seed(struct parse *p, const struct field *f, const json_t *value)
{
    if (!json_is_integer(value))
        return bad_type(p, f->name, "an integer");
    p->r->sampling.seed = (uint64_t)json_integer_value(value);
    p->r->seed_said = true;
    return true;
}

static bool take_max(struct parse *p, const struct field *f, const json_t *value)
{
    json_int_t least = p->r->kind == NEF_API_COMPLETION ? 0 : 1, number = json_integer_value(value);

    if (!json_is_integer(value))
        return bad_type(p, f->name, "an integer");
    if (number < least)
        return bad_value(p, f->name, least == 0 ? "0 or more" : "1 or more");
    if (number >= UINT32_MAX)
        number = UINT32_MAX - 1; /* the context ends it long before */
    if (p->max_name != NULL && p->r->tokens_max != (uint32_t)number)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "'%s' and '%s' differ.", p->max_name, f->name);
    p->max_name = f->name;
    p->r->tokens_max = (uint32_t)number;
    return true;
}

static bool add_stop(struct parse *p, const struct field *f, const json_t *value)
{
    struct nef_api_request *r = p->r;
    size_t bytes = json_string_length(value);

    if (!json_is_string(value))
        return bad_type(p, f->name, "a string or an array of strings");
    if (bytes == 0 || bytes > NEF_INFER_STOP_BYTES_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "A stop string must have 1 to %u bytes.",
                            NEF_INFER_STOP_BYTES_MAX);
    if (r->stop_count == NEF_COUNT(r->stops))
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %zu stop strings are taken.",
                            NEF_COUNT(r->stops));
    r->stops[r->stop_count++] = (struct nef_api_stop){json_string_value(value), bytes};
    return true;
}

static bool take_stop(struct parse *p, const struct field *f, const json_t *value)
{
    const json_t *one;
    size_t i;

    if (!json_is_array(value))
        return add_stop(p, f, value);
    json_array_foreach(value, i, one) if (!add_stop(p, f, one)) return false;
    return true;
}

static bool take_stream_options(struct parse *p, const struct field *f, const json_t *value)
{
    const char *name;
    json_t *one;

    if (!json_is_object(value))
        return bad_type(p, f->name, "an object");
    json_object_foreach((json_t *)value, name, one)
    {
        if (json_is_null(one))
            continue;
        if (strcmp(name, "include_usage") == 0 && json_is_boolean(one))
            p->r->include_usage = json_is_true(one);
        else if (strcmp(name, "include_usage") == 0)
            return bad_type(p, "stream_options.include_usage", "a boolean");
        else if (strcmp(name, "include_obfuscation") != 0 || !json_is_false(one))
            return nef_api_fail(p->e, 400, "unsupported_parameter", f->name, "'stream_options.%.*s' is not supported.",
                                shown(name), name);
    }
    return true;
}

/* ---- prompts ---- */

static bool take_ids(struct parse *p, const struct field *f, const json_t *list, struct nef_api_prompt *out)
{
    size_t count = json_array_size(list), i;
    const json_t *one;

    if (count > UINT32_MAX / sizeof(uint32_t))
        return bad_value(p, f->name, "shorter");
    out->tokens = malloc(count == 0 ? 1 : count * sizeof(*out->tokens));
    if (out->tokens == NULL)
        return nef_api_fail(p->e, 500, "", "", "Out of memory.");
    json_array_foreach(list, i, one)
    {
        json_int_t id = json_integer_value(one);

        if (!json_is_integer(one))
            return bad_type(p, f->name, "text, or token ids (integers), or an array of one of these");
        if (id < 0 || id >= (json_int_t)p->vocab)
            return nef_api_fail(p->e, 400, "invalid_value", f->name,
                                "'%s' has the token id %lld; ids of this model are below %u.", f->name, (long long)id,
                                p->vocab);
        out->tokens[i] = (uint32_t)id;
    }
    out->count = (uint32_t)count;
    return true;
}

static bool take_one_prompt(struct parse *p, const struct field *f, const json_t *value)
{
    struct nef_api_prompt *prompt = &p->r->prompts[p->r->prompt_count++];

    if (json_is_array(value))
        return take_ids(p, f, value, prompt);
    if (!json_is_string(value))
        return bad_type(p, f->name, "text, or token ids (integers), or an array of one of these");
    prompt->text = json_string_value(value);
    prompt->bytes = json_string_length(value);
    return true;
}

static bool take_prompt(struct parse *p, const struct field *f, const json_t *value)
{
    const json_t *first = json_array_get(value, 0), *one;
    bool many = json_is_array(first) || json_is_string(first);
    size_t count = many ? json_array_size(value) : 1, i;

    if (json_is_array(value) && first == NULL)
        return bad_value(p, f->name, "not empty");
    if (count > NEF_INFER_PROMPTS_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %u prompts are taken at once.",
                            NEF_INFER_PROMPTS_MAX);
    p->r->prompts = calloc(count, sizeof(*p->r->prompts));
    if (p->r->prompts == NULL)
        return nef_api_fail(p->e, 500, "", "", "Out of memory.");
    if (!many)
        return take_one_prompt(p, f, value);
    json_array_foreach(value, i, one) if (!take_one_prompt(p, f, one)) return false;
    return true;
}

/* of /tokenize: one text; of /detokenize: one list */
static bool take_content(struct parse *p, const struct field *f, const json_t *value)
{
    if (!json_is_string(value))
        return bad_type(p, f->name, "a string");
    return take_prompt(p, f, value);
}

static bool take_tokens(struct parse *p, const struct field *f, const json_t *value)
{
    p->r->prompts = calloc(1, sizeof(*p->r->prompts));
    if (p->r->prompts == NULL)
        return nef_api_fail(p->e, 500, "", "", "Out of memory.");
    if (!json_is_array(value))
        return bad_type(p, f->name, "an array of token ids");
    p->r->prompt_count = 1;
    return take_ids(p, f, value, &p->r->prompts[0]);
}

/* ---- chat ---- */

static bool take_messages(struct parse *p, const struct field *f, const json_t *value)
{
    if (!json_is_array(value) || json_array_size(value) == 0)
        return bad_type(p, f->name, "an array with at least one message");
    p->r->messages = value;
    return true;
}

static bool take_tools(struct parse *p, const struct field *f, const json_t *value)
{
    const json_t *tool;
    size_t i;

    if (!json_is_array(value))
        return bad_type(p, f->name, "an array");
    if (json_array_size(value) > NEF_INFER_TOOLS_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %u tools are taken.", NEF_INFER_TOOLS_MAX);
    json_array_foreach(value, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));

        if (type == NULL || strcmp(type, "function") != 0)
            return nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                                "tools[%zu].type must be \"function\".", i);
        if (name == NULL || name[0] == '\0')
            return nef_api_fail(p->e, 400, "invalid_value", f->name, "tools[%zu].function.name is missing.", i);
        if (json_is_true(json_object_get(function, "strict")))
            return nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                                "tools[%zu].function.strict is not supported by this engine.", i);
    }
    p->r->tools = json_array_size(value) > 0 ? value : NULL;
    return true;
}

static bool take_tool_choice(struct parse *p, const struct field *f, const json_t *value)
{
    const char *text = json_string_value(value);

    if (text == NULL || (strcmp(text, "auto") != 0 && strcmp(text, "none") != 0))
        return nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                            "'tool_choice' may be \"auto\" or \"none\"; others are not supported by this engine.");
    p->tools_off = strcmp(text, "none") == 0;
    return true;
}

static bool take_template(struct parse *p, const struct field *f, const json_t *value)
{
    const char *name;
    json_t *one;

    if (!json_is_object(value))
        return bad_type(p, f->name, "an object");
    json_object_foreach((json_t *)value, name, one)
    {
        if (strcmp(name, "enable_thinking") != 0)
            return nef_api_fail(p->e, 400, "unsupported_parameter", f->name,
                                "'chat_template_kwargs.%.*s' is not supported by this engine.", shown(name), name);
        if (!json_is_boolean(one))
            return bad_type(p, "chat_template_kwargs.enable_thinking", "a boolean");
        p->r->enable_thinking = json_is_true(one);
        p->r->thinking_said = true;
    }
    return true;
}

/* ---- fields that may only ask for nothing ---- */

static bool only_false(struct parse *p, const struct field *f, const json_t *value)
{
    return json_is_false(value) || unsupported(p, f->name);
}

static bool only_true(struct parse *p, const struct field *f, const json_t *value)
{
    return json_is_true(value) || unsupported(p, f->name);
}

static bool only_zero(struct parse *p, const struct field *f, const json_t *value)
{
    return (json_is_number(value) && json_number_value(value) == 0) || unsupported(p, f->name);
}

static bool only_one(struct parse *p, const struct field *f, const json_t *value)
{
    return (json_is_number(value) && json_number_value(value) == 1) || unsupported(p, f->name);
}

static bool only_empty(struct parse *p, const struct field *f, const json_t *value)
{
    return (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0) || unsupported(p, f->name);
}

static bool any_text(struct parse *p, const struct field *f, const json_t *value)
{
    return json_is_string(value) || bad_type(p, f->name, "a string");
}

static bool any_object(struct parse *p, const struct field *f, const json_t *value)
{
    return json_is_object(value) || bad_type(p, f->name, "an object");
}

static bool usual_tier(struct parse *p, const struct field *f, const json_t *value)
{
    const char *text = json_string_value(value);

    return (text != NULL && (strcmp(text, "auto") == 0 || strcmp(text, "default") == 0)) || unsupported(p, f->name);
}

static bool only_text_format(struct parse *p, const struct field *f, const json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));

    return (type != NULL && strcmp(type, "text") == 0 && json_object_size(value) == 1) || unsupported(p, f->name);
}

static bool only_text_modality(struct parse *p, const struct field *f, const json_t *value)
{
    const char *first = json_string_value(json_array_get(value, 0));

    return (json_array_size(value) == 1 && first != NULL && strcmp(first, "text") == 0) || unsupported(p, f->name);
}

static bool never(struct parse *p, const struct field *f, const json_t *value)
{
    (void)value;
    return unsupported(p, f->name);
}

#define FLAG(kinds, name) {#name, kinds, take_bool, offsetof(struct nef_api_request, name)}

static const struct field fields[] = {
    {"model", GENERATE | TOKENIZE | DETOKENIZE, take_model, 0},
    {"prompt", COMPLETION, take_prompt, 0},
    {"messages", CHAT, take_messages, 0},
    {"content", TOKENIZE, take_content, 0},
    {"tokens", DETOKENIZE, take_tokens, 0},
    FLAG(TOKENIZE, add_special),
    FLAG(TOKENIZE, parse_special),
    FLAG(TOKENIZE, with_pieces),
    {"max_tokens", GENERATE, take_max, 0},
    {"max_completion_tokens", CHAT, take_max, 0},
    {"temperature", GENERATE, take_temperature, 0},
    {"top_p", GENERATE, take_top_p, 0},
    {"top_k", GENERATE, take_top_k, 0},
    {"min_p", GENERATE, take_min_p, 0},
    {"seed", GENERATE, take_seed, 0},
    {"stop", GENERATE, take_stop, 0},
    FLAG(GENERATE, stream),
    {"stream_options", GENERATE, take_stream_options, 0},
    FLAG(GENERATE, return_token_ids),
    FLAG(GENERATE, ignore_eos),
    FLAG(COMPLETION, echo),
    {"tools", CHAT, take_tools, 0},
    {"tool_choice", CHAT, take_tool_choice, 0},
    {"chat_template_kwargs", CHAT, take_template, 0},
    FLAG(CHAT, add_generation_prompt),
    FLAG(CHAT, continue_final_message),
    /* taken, and asking for nothing */
    {"n", GENERATE, only_one, 0},
    {"best_of", COMPLETION, only_one, 0},
    {"suffix", COMPLETION, only_empty, 0},
    {"presence_penalty", GENERATE, only_zero, 0},
    {"frequency_penalty", GENERATE, only_zero, 0},
    {"repetition_penalty", GENERATE, only_one, 0},
    {"repeat_penalty", GENERATE, only_one, 0},
    {"logit_bias", GENERATE, only_empty, 0},
    {"logprobs", CHAT, only_false, 0},
    {"top_logprobs", CHAT, only_zero, 0},
    {"response_format", GENERATE, only_text_format, 0},
    {"modalities", CHAT, only_text_modality, 0},
    {"parallel_tool_calls", CHAT, only_true, 0},
    {"store", CHAT, only_false, 0},
    {"metadata", CHAT, any_object, 0},
    {"user", GENERATE, any_text, 0},
    {"safety_identifier", CHAT, any_text, 0},
    {"prompt_cache_key", CHAT, any_text, 0},
    {"service_tier", CHAT, usual_tier, 0},
    /* known, and not built */
    {"logprobs", COMPLETION, never, 0},
    {"audio", CHAT, never, 0},
    {"function_call", CHAT, never, 0},
    {"functions", CHAT, never, 0},
    {"prediction", CHAT, never, 0},
    {"prompt_cache_retention", CHAT, never, 0},
    {"reasoning_effort", CHAT, never, 0},
    {"verbosity", CHAT, never, 0},
    {"web_search_options", CHAT, never, 0},
};

/* ---- the body ---- */

/* Containers and values outside of strings. What isn't JSON is refused by the parser. */
static bool too_many_values(const uint8_t *body, size_t bytes)
{
    size_t containers = 0, values = 0;
    bool text = false;

    for (size_t i = 0; i < bytes; i++) {
        if (text) {
            if (body[i] == '\\')
                i++;
            else if (body[i] == '"')
                text = false;
        } else if (body[i] == '"') {
            text = true;
        } else if (body[i] == '[' || body[i] == '{') {
            containers++;
        } else if (body[i] == ',') {
            values++;
        }
    }
    return containers > NEF_INFER_JSON_CONTAINERS_MAX || values > NEF_INFER_JSON_VALUES_MAX;
}

static bool take_all(struct parse *p, json_t *root)
{
    const char *name;
    json_t *value;

    json_object_foreach(root, name, value)
    {
        const struct field *field = NULL;

        for (size_t i = 0; i < NEF_COUNT(fields) && field == NULL; i++)
            if ((fields[i].kinds & 1u << p->r->kind) != 0 && strcmp(fields[i].name, name) == 0)
                field = &fields[i];
        if (field == NULL) {
            char param[SHOWN_MAX + 1];

            (void)snprintf(param, sizeof(param), "%.*s", shown(name), name);
            return nef_api_fail(p->e, 400, "unknown_parameter", param, "Unrecognized request argument supplied: %s",
                                param);
        }
        if (!json_is_null(value) && !field->take(p, field, value))
            return false;
    }
    return true;
}

static bool check(struct parse *p)
{
    struct nef_api_request *r = p->r;
    static const char *const needed[] = {"prompt", "messages", "content", "tokens"};
    bool has = r->kind == NEF_API_CHAT ? r->messages != NULL : r->prompt_count > 0;

    if (!has)
        return nef_api_fail(p->e, 400, "missing_required_parameter", needed[r->kind], "'%s' is required.",
                            needed[r->kind]);
    if (r->include_usage && !r->stream)
        return nef_api_fail(p->e, 400, "invalid_value", "stream_options",
                            "'stream_options' is only allowed when 'stream' is true.");
    if (r->continue_final_message && r->add_generation_prompt) {
        if (json_is_true(json_object_get(r->root, "add_generation_prompt")))
            return nef_api_fail(p->e, 400, "invalid_value", "continue_final_message",
                                "'continue_final_message' and 'add_generation_prompt' exclude each other.");
        r->add_generation_prompt = false;
    }
    if (p->tools_off)
        r->tools = NULL;
    if (r->kind == NEF_API_COMPLETION && r->tokens_max == 0 && !r->echo)
        return nef_api_fail(p->e, 400, "invalid_value", "max_tokens", "'max_tokens' may be 0 only with 'echo'.");
    return true;
}

bool nef_api_request_parse(enum nef_api_kind kind, const void *body, size_t bytes, const struct nef_sampling *presets,
                           uint32_t vocab, struct nef_api_request *out_request, struct nef_api_error *out_error)
{
    struct nef_api_request r = {.kind = kind, .sampling = *presets, .tokens_max = UINT32_MAX, .parse_special = true,
                                .add_generation_prompt = true, .enable_thinking = true};
    struct parse p = {&r, out_error, vocab, false, NULL};
    json_error_t where;
    bool good = false;

    if (bytes == 0)
        return nef_api_fail(out_error, 400, "", "", "The body is empty; want a JSON object.");
    if (too_many_values(body, bytes))
        return nef_api_fail(out_error, 413, "", "", "The body has more than %u arrays and objects or %u values.",
                            NEF_INFER_JSON_CONTAINERS_MAX, NEF_INFER_JSON_VALUES_MAX);
    r.root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (r.root == NULL) /* the library's text may quote the body, and so a prompt: only the place is told */
        return nef_api_fail(out_error, 400, "", "", "The body isn't valid JSON (at byte %d).", where.position);
    if (!json_is_object(r.root))
        (void)nef_api_fail(out_error, 400, "", "", "The body must be a JSON object.");
    else
        good = take_all(&p, r.root) && check(&p);
    if (good)
        *out_request = r;
    else
        nef_api_request_free(&r);
    return good;
}

void nef_api_request_free(struct nef_api_request *r)
{
    for (uint32_t i = 0; i < r->prompt_count; i++)
        free(r->prompts[i].tokens);
    free(r->prompts);
    json_decref(r->root);
    *r = (struct nef_api_request){0};
}
