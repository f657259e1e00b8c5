/* Fields that are lists: prompts, token ids, stop strings, biases; see request_internal.h. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/api/request_internal.h"

#define PROMPT_WANTED "text, or token ids (integers), or an array of one of these"

static bool out_of_memory(struct nef_api_parse *p)
{
    return nef_api_fail(p->e, 500, "", "", "Out of memory.");
}

/* ---- token ids ---- */

static bool take_ids(struct nef_api_parse *p, const char *name, const char *want, const json_t *list,
                     struct nef_api_prompt *out)
{
    size_t count = json_array_size(list), i;
    const json_t *one;

    if (count > UINT32_MAX / sizeof(uint32_t))
        return nef_api_bad_value(p, name, "shorter");
    out->tokens = malloc(count == 0 ? 1 : count * sizeof(*out->tokens));
    if (out->tokens == NULL)
        return out_of_memory(p);
    json_array_foreach(list, i, one)
    {
        json_int_t id = json_integer_value(one);

        if (!json_is_integer(one))
            return nef_api_bad_type(p, name, want);
        if (id < 0 || id >= (json_int_t)p->vocab)
            return nef_api_fail(p->e, 400, "invalid_value", name,
                                "'%s' has the token id %lld; ids of this model are below %u.", name, (long long)id,
                                p->vocab);
        out->tokens[i] = (uint32_t)id;
    }
    out->count = (uint32_t)count;
    return true;
}

/* ---- prompts ---- */

static bool take_one_prompt(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    struct nef_api_prompt *prompt = &p->r->prompts[p->r->prompt_count++];

    if (json_is_array(value))
        return take_ids(p, f->name, PROMPT_WANTED, value, prompt);
    if (!json_is_string(value))
        return nef_api_bad_type(p, f->name, PROMPT_WANTED);
    prompt->text = json_string_value(value);
    prompt->bytes = json_string_length(value);
    return true;
}

static bool take_prompts(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value, uint32_t most)
{
    const json_t *first = json_array_get(value, 0), *one;
    bool many = json_is_array(first) || json_is_string(first);
    size_t count = many ? json_array_size(value) : 1, i;

    if (json_is_array(value) && first == NULL)
        return nef_api_bad_value(p, f->name, "not empty");
    if (count > most)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %u of them are taken at once.", most);
    p->r->prompts = calloc(count, sizeof(*p->r->prompts));
    if (p->r->prompts == NULL)
        return out_of_memory(p);
    if (!many)
        return take_one_prompt(p, f, value);
    json_array_foreach(value, i, one) if (!take_one_prompt(p, f, one)) return false;
    return true;
}

bool nef_api_take_prompt(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return take_prompts(p, f, value, NEF_INFER_PROMPTS_MAX);
}

bool nef_api_take_input(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return take_prompts(p, f, value, NEF_INFER_INPUTS_MAX);
}

/* of /tokenize: one text */
bool nef_api_take_content(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_string(value))
        return nef_api_bad_type(p, f->name, "a string");
    return take_prompts(p, f, value, 1);
}

/* of /detokenize: one list */
bool nef_api_take_tokens(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    p->r->prompts = calloc(1, sizeof(*p->r->prompts));
    if (p->r->prompts == NULL)
        return out_of_memory(p);
    if (!json_is_array(value))
        return nef_api_bad_type(p, f->name, "an array of token ids");
    p->r->prompt_count = 1;
    return take_ids(p, f->name, "an array of token ids", value, &p->r->prompts[0]);
}

/* ---- nef_continue_token_ids ---- */

bool nef_api_take_continued(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_array(value))
        return nef_api_bad_type(p, f->name, "an array");
    p->continued = value;
    return true;
}

/* One list of ids for one choice; for several a list of such lists, in the order of the choices' indexes, where null
 * stands for one that has ended. */
bool nef_api_read_continued(struct nef_api_parse *p, uint32_t choices)
{
    static const char name[] = "nef_continue_token_ids", want[] = "token ids, or for several choices an array of such";
    const json_t *first = json_array_get(p->continued, 0);
    bool lists = json_is_array(first) || json_is_null(first);
    struct nef_api_request *r = p->r;

    if (lists ? json_array_size(p->continued) != choices : choices != 1)
        return nef_api_fail(p->e, 400, "invalid_value", name, "'%s' must have a list for each of the %u choices.", name,
                            choices);
    if (!r->stream && r->logprobs != 0)
        return nef_api_fail(p->e, 400, "unsupported_parameter", "logprobs",
                            "'logprobs' with '%s' is only supported when 'stream' is true.", name);
    r->continued = calloc(choices, sizeof(*r->continued));
    if (r->continued == NULL)
        return out_of_memory(p);
    r->continued_count = choices;
    for (uint32_t i = 0; i < choices; i++) {
        const json_t *one = lists ? json_array_get(p->continued, i) : p->continued;

        if (json_is_null(one) && !r->stream)
            return nef_api_fail(p->e, 400, "invalid_value", name, "'%s' may hold null only when 'stream' is true.",
                                name);
        if (json_is_null(one))
            continue;
        if (!json_is_array(one))
            return nef_api_bad_type(p, name, want);
        if (!take_ids(p, name, want, one, &r->continued[i]))
            return false;
    }
    return true;
}

/* ---- stop strings ---- */

static bool add_stop(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    struct nef_api_request *r = p->r;
    size_t bytes = json_string_length(value);

    if (!json_is_string(value))
        return nef_api_bad_type(p, f->name, "a string or an array of strings");
    if (bytes == 0 || bytes > NEF_INFER_STOP_BYTES_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "A stop string must have 1 to %u bytes.",
                            NEF_INFER_STOP_BYTES_MAX);
    if (r->stop_count == NEF_COUNT(r->stops))
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %zu stop strings are taken.",
                            NEF_COUNT(r->stops));
    r->stops[r->stop_count++] = (struct nef_api_stop){json_string_value(value), bytes};
    return true;
}

bool nef_api_take_stop(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const json_t *one;
    size_t i;

    if (!json_is_array(value))
        return add_stop(p, f, value);
    json_array_foreach(value, i, one) if (!add_stop(p, f, one)) return false;
    return true;
}

/* ---- logit_bias ---- */

/* A name that is an id in decimal, as JSON.stringify writes it. */
static bool id_of(const char *name, uint32_t *out)
{
    uint64_t id = 0;
    size_t digits = strspn(name, "0123456789");

    if (digits == 0 || digits > 10 || name[digits] != '\0' || (name[0] == '0' && digits > 1))
        return false;
    for (size_t i = 0; i < digits; i++)
        id = id * 10 + (uint64_t)(name[i] - '0');
    if (id > UINT32_MAX)
        return false;
    *out = (uint32_t)id;
    return true;
}

bool nef_api_take_bias(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    struct nef_api_request *r = p->r;
    const char *name;
    json_t *one;

    if (!json_is_object(value))
        return nef_api_bad_type(p, f->name, "an object of token ids and numbers");
    if (json_object_size(value) == 0)
        return true;
    if (json_object_size(value) > NEF_ENGINE_BIAS_MAX)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "At most %u biases are taken.", NEF_ENGINE_BIAS_MAX);
    r->bias = calloc(json_object_size(value), sizeof(*r->bias));
    if (r->bias == NULL)
        return out_of_memory(p);
    json_object_foreach((json_t *)value, name, one)
    {
        struct nef_logit_bias *bias = &r->bias[r->bias_count++];

        if (!id_of(name, &bias->token) || bias->token >= p->vocab)
            return nef_api_fail(p->e, 400, "invalid_value", f->name,
                                "'logit_bias' has the name '%.*s', which is no token id of this model (0 to %u).",
                                nef_api_shown(name), name, p->vocab - 1);
        if (!json_is_number(one))
            return nef_api_bad_type(p, f->name, "an object of token ids and numbers");
        if (!(json_number_value(one) >= -100 && json_number_value(one) <= 100))
            return nef_api_bad_value(p, f->name, "an object of token ids and numbers from -100 to 100");
        bias->bias = (float)json_number_value(one);
    }
    return true;
}
