/* Requests; see request.h. One table has every field that is known, with the endpoints that take it and the function
 * that does. A new field also goes into docs/inference.md. */
#include "infer/api/request.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/api/request_internal.h"

#define COMPLETION (1u << NEF_API_COMPLETION)
#define CHAT       (1u << NEF_API_CHAT)
#define TOKENIZE   (1u << NEF_API_TOKENIZE)
#define DETOKENIZE (1u << NEF_API_DETOKENIZE)
#define EMBEDDING  (1u << NEF_API_EMBEDDING)
#define GENERATE   (COMPLETION | CHAT)

/* ---- errors ---- */

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
int nef_api_shown(const char *text)
{
    size_t bytes = strlen(text);

    if (bytes <= SHOWN_MAX)
        return (int)bytes;
    bytes = SHOWN_MAX;
    while (bytes > 0 && ((unsigned char)text[bytes] & 0xc0) == 0x80)
        bytes--;
    return (int)bytes;
}

bool nef_api_bad_type(struct nef_api_parse *p, const char *name, const char *want)
{
    return nef_api_fail(p->e, 400, "invalid_type", name, "'%s' must be %s.", name, want);
}

bool nef_api_bad_value(struct nef_api_parse *p, const char *name, const char *want)
{
    return nef_api_fail(p->e, 400, "invalid_value", name, "'%s' must be %s.", name, want);
}

bool nef_api_unsupported(struct nef_api_parse *p, const char *name)
{
    return nef_api_fail(p->e, 400, "unsupported_parameter", name, "'%s' is not supported by this engine.", name);
}

/* ---- the table ---- */

#define FLAG(kinds, name) {#name, kinds, nef_api_take_bool, offsetof(struct nef_api_request, name)}

static const struct nef_api_field fields[] = {
    {"model", GENERATE | EMBEDDING | TOKENIZE | DETOKENIZE, nef_api_take_model, 0},
    {"prompt", COMPLETION, nef_api_take_prompt, 0},
    {"messages", CHAT, nef_api_take_messages, 0},
    {"input", EMBEDDING, nef_api_take_input, 0},
    {"encoding_format", EMBEDDING, nef_api_take_encoding, 0},
    {"dimensions", EMBEDDING, nef_api_take_dimensions, 0},
    {"content", TOKENIZE, nef_api_take_content, 0},
    {"tokens", DETOKENIZE, nef_api_take_tokens, 0},
    FLAG(TOKENIZE, add_special),
    FLAG(TOKENIZE, parse_special),
    FLAG(TOKENIZE, with_pieces),
    {"max_tokens", GENERATE, nef_api_take_max, 0},
    {"max_completion_tokens", CHAT, nef_api_take_max, 0},
    {"n", GENERATE, nef_api_take_n, 0},
    {"best_of", COMPLETION, nef_api_take_best_of, 0},
    {"temperature", GENERATE, nef_api_take_temperature, 0},
    {"top_p", GENERATE, nef_api_take_top_p, 0},
    {"top_k", GENERATE, nef_api_take_top_k, 0},
    {"min_p", GENERATE, nef_api_take_min_p, 0},
    {"presence_penalty", GENERATE, nef_api_take_presence, 0},
    {"frequency_penalty", GENERATE, nef_api_take_frequency, 0},
    {"repetition_penalty", GENERATE, nef_api_take_repetition, 0},
    {"logit_bias", GENERATE, nef_api_take_bias, 0},
    {"seed", GENERATE, nef_api_take_seed, 0},
    {"stop", GENERATE, nef_api_take_stop, 0},
    FLAG(GENERATE, stream),
    {"stream_options", GENERATE, nef_api_take_stream_options, 0},
    {"logprobs", COMPLETION, nef_api_take_logprobs, 0},
    {"logprobs", CHAT, nef_api_take_chat_logprobs, 0},
    {"top_logprobs", CHAT, nef_api_take_top_logprobs, 0},
    FLAG(GENERATE, return_token_ids),
    FLAG(GENERATE, ignore_eos),
    FLAG(COMPLETION, echo),
    {"response_format", GENERATE, nef_api_take_format, 0},
    {"tools", CHAT, nef_api_take_tools, 0},
    {"tool_choice", CHAT, nef_api_take_tool_choice, 0},
    FLAG(CHAT, parallel_tool_calls),
    {"chat_template_kwargs", CHAT, nef_api_take_template, 0},
    {"enable_thinking", CHAT, nef_api_take_thinking, 0},
    {"thinking_budget", CHAT, nef_api_take_budget, 0},
    {"thinking_token_budget", CHAT, nef_api_take_budget, 0},
    {"reasoning_effort", CHAT, nef_api_take_effort, 0},
    FLAG(CHAT, add_generation_prompt),
    FLAG(CHAT, continue_final_message),
    {"nef_continue_token_ids", GENERATE, nef_api_take_continued, 0},
    /* taken, and asking for nothing */
    {"suffix", COMPLETION, nef_api_only_empty, 0},
    {"repeat_penalty", GENERATE, nef_api_only_one, 0},
    {"modalities", CHAT, nef_api_only_text_modality, 0},
    {"store", CHAT, nef_api_only_false, 0},
    {"metadata", CHAT, nef_api_any_object, 0},
    {"user", GENERATE | EMBEDDING, nef_api_any_text, 0},
    {"safety_identifier", CHAT, nef_api_any_text, 0},
    {"prompt_cache_key", CHAT, nef_api_any_text, 0},
    {"service_tier", CHAT, nef_api_usual_tier, 0},
    /* known, and not built */
    {"audio", CHAT, nef_api_never, 0},
    {"function_call", CHAT, nef_api_never, 0},
    {"functions", CHAT, nef_api_never, 0},
    {"prediction", CHAT, nef_api_never, 0},
    {"prompt_cache_retention", CHAT, nef_api_never, 0},
    {"verbosity", CHAT, nef_api_never, 0},
    {"web_search_options", CHAT, nef_api_never, 0},
};

/* ---- what holds between fields ---- */

static bool check_choices(struct nef_api_parse *p)
{
    struct nef_api_request *r = p->r;
    uint64_t prompts = r->kind == NEF_API_CHAT ? 1 : r->prompt_count, all = prompts * r->choices;

    if (p->best_of != 0 && p->best_of != (json_int_t)r->choices)
        return nef_api_fail(p->e, 400, "unsupported_parameter", "best_of",
                            "'best_of' is not supported by this engine but where it equals 'n'.");
    if (all > NEF_INFER_CHOICES_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", "n", "Prompts times 'n' must be at most %u.",
                            NEF_INFER_CHOICES_MAX);
    return p->continued == NULL || nef_api_read_continued(p, (uint32_t)all);
}

static bool check_chat(struct nef_api_parse *p)
{
    struct nef_api_request *r = p->r;

    if (r->continue_final_message && r->add_generation_prompt) {
        if (json_is_true(json_object_get(r->root, "add_generation_prompt")))
            return nef_api_fail(p->e, 400, "invalid_value", "continue_final_message",
                                "'continue_final_message' and 'add_generation_prompt' exclude each other.");
        r->add_generation_prompt = false;
    }
    if (p->tops_said && !p->logprobs)
        return nef_api_fail(p->e, 400, "invalid_value", "top_logprobs",
                            "'top_logprobs' is only allowed when 'logprobs' is true.");
    if (p->logprobs)
        r->logprobs = 1 + (uint32_t)p->tops;
    if (r->thinking_max == 0 && !r->continue_final_message) { /* none at all */
        r->enable_thinking = false;
        r->thinking_max = NEF_NO_TOKEN;
    }
    if (!nef_api_choose_tools(p))
        return false;
    /* The grammar begins with the answer; what the message holds already isn't known to it. */
    if (r->continue_final_message && (r->answer != NEF_GRAMMAR_TEXT || r->tools_required))
        return nef_api_fail(p->e, 400, "unsupported_parameter", "continue_final_message",
                            "'continue_final_message' is not supported with '%s'.",
                            r->tools_required ? "tool_choice" : "response_format");
    return true;
}

static bool check_generation(struct nef_api_parse *p)
{
    struct nef_api_request *r = p->r;

    if (r->include_usage && !r->stream)
        return nef_api_fail(p->e, 400, "invalid_value", "stream_options",
                            "'stream_options' is only allowed when 'stream' is true.");
    if (r->kind == NEF_API_CHAT && !check_chat(p))
        return false;
    if (r->kind == NEF_API_COMPLETION && r->tokens_max == 0 && !r->echo)
        return nef_api_fail(p->e, 400, "invalid_value", "max_tokens", "'max_tokens' may be 0 only with 'echo'.");
    if (r->ignore_eos && nef_api_request_grammar(r))
        return nef_api_fail(p->e, 400, "unsupported_parameter", "ignore_eos",
                            "'ignore_eos' is not supported with '%s': the answer ends where the grammar does.",
                            r->tools != NULL ? "tools" : "response_format");
    return check_choices(p);
}

static bool check(struct nef_api_parse *p)
{
    static const char *const needed[] = {"prompt", "messages", "content", "tokens", "input"};
    struct nef_api_request *r = p->r;
    bool has = r->kind == NEF_API_CHAT ? r->messages != NULL : r->prompt_count > 0;

    _Static_assert(NEF_COUNT(needed) == NEF_API_KINDS, "a field for each endpoint");
    if (!has)
        return nef_api_fail(p->e, 400, "missing_required_parameter", needed[r->kind], "'%s' is required.",
                            needed[r->kind]);
    return (r->kind != NEF_API_CHAT && r->kind != NEF_API_COMPLETION) || check_generation(p);
}

bool nef_api_request_grammar(const struct nef_api_request *r)
{
    return r->tools != NULL || r->answer != NEF_GRAMMAR_TEXT;
}

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

static bool take_all(struct nef_api_parse *p, json_t *root)
{
    const char *name;
    json_t *value;

    json_object_foreach(root, name, value)
    {
        const struct nef_api_field *field = NULL;

        for (size_t i = 0; i < NEF_COUNT(fields) && field == NULL; i++)
            if ((fields[i].kinds & 1u << p->r->kind) != 0 && strcmp(fields[i].name, name) == 0)
                field = &fields[i];
        if (field == NULL) {
            char param[SHOWN_MAX + 1];

            (void)snprintf(param, sizeof(param), "%.*s", nef_api_shown(name), name);
            return nef_api_fail(p->e, 400, "unknown_parameter", param, "Unrecognized request argument supplied: %s",
                                param);
        }
        if (!json_is_null(value) && !field->take(p, field, value))
            return false;
    }
    return true;
}

bool nef_api_request_parse(enum nef_api_kind kind, const void *body, size_t bytes, const struct nef_sampling *presets,
                           uint32_t vocab, struct nef_api_request *out_request, struct nef_api_error *out_error)
{
    struct nef_api_request r = {.kind = kind,
                                .sampling = *presets,
                                .tokens_max = UINT32_MAX,
                                .choices = 1,
                                .thinking_max = NEF_NO_TOKEN,
                                .parse_special = true,
                                .parallel_tool_calls = true,
                                .add_generation_prompt = true,
                                .enable_thinking = true};
    struct nef_api_parse p = {.r = &r, .e = out_error, .vocab = vocab};
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

static void free_prompts(struct nef_api_prompt *prompts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(prompts[i].tokens);
    free(prompts);
}

void nef_api_request_free(struct nef_api_request *r)
{
    free_prompts(r->prompts, r->prompt_count);
    free_prompts(r->continued, r->continued_count);
    free(r->bias);
    json_decref(r->callable);
    json_decref(r->root);
    *r = (struct nef_api_request){0};
}
