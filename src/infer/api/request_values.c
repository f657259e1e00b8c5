/* Fields of one value; see request_internal.h. */
#include <float.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/api/request_internal.h"

bool nef_api_take_bool(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_boolean(value))
        return nef_api_bad_type(p, f->name, "a boolean");
    *(bool *)((char *)p->r + f->offset) = json_is_true(value);
    return true;
}

bool nef_api_take_model(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_string(value))
        return nef_api_bad_type(p, f->name, "a string");
    p->r->model = json_string_value(value);
    return true;
}

/* ---- sampling ---- */

static bool in_range(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value, double low,
                     double high, const char *want, float *out)
{
    double number = json_number_value(value);

    if (!json_is_number(value))
        return nef_api_bad_type(p, f->name, "a number");
    if (!(number >= low && number <= high))
        return nef_api_bad_value(p, f->name, want);
    *out = (float)number;
    return true;
}

bool nef_api_take_temperature(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return in_range(p, f, value, 0, 2, "from 0 to 2", &p->r->sampling.temperature);
}

bool nef_api_take_top_p(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!in_range(p, f, value, 0, 1, "from 0 to 1", &p->r->sampling.top_p))
        return false;
    if (p->r->sampling.top_p < FLT_MIN)
        p->r->sampling.top_p = FLT_MIN; /* the likeliest token alone */
    return true;
}

bool nef_api_take_min_p(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return in_range(p, f, value, 0, 1, "from 0 to 1", &p->r->sampling.min_p);
}

bool nef_api_take_presence(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return in_range(p, f, value, -2, 2, "from -2 to 2", &p->r->sampling.presence_penalty);
}

bool nef_api_take_frequency(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return in_range(p, f, value, -2, 2, "from -2 to 2", &p->r->sampling.frequency_penalty);
}

/* The least is what a float can be divided by without an infinity; vLLM takes anything above 0. */
bool nef_api_take_repetition(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return in_range(p, f, value, 0.01, 100, "from 0.01 to 100", &p->r->sampling.repetition_penalty);
}

bool nef_api_take_top_k(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t k = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (k < -1 || k > UINT32_MAX)
        return nef_api_bad_value(p, f->name, "-1 or 0 (all tokens), or positive");
    p->r->sampling.top_k = k < 0 ? 0 : (uint32_t)k;
    return true;
}

bool nef_api_take_seed(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    p->r->sampling.seed = (uint64_t)json_integer_value(value);
    p->r->seed_said = true;
    return true;
}

/* ---- how much ---- */

bool nef_api_take_max(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t least = p->r->kind == NEF_API_COMPLETION ? 0 : 1, number = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (number < least)
        return nef_api_bad_value(p, f->name, least == 0 ? "0 or more" : "1 or more");
    if (number >= UINT32_MAX)
        number = UINT32_MAX - 1; /* the context ends it long before */
    if (p->max_name != NULL && p->r->tokens_max != (uint32_t)number)
        return nef_api_fail(p->e, 400, "invalid_value", f->name, "'%s' and '%s' differ.", p->max_name, f->name);
    p->max_name = f->name;
    p->r->tokens_max = (uint32_t)number;
    return true;
}

bool nef_api_take_n(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t n = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (n < 1 || n > (json_int_t)NEF_INFER_CHOICES_MAX)
        return nef_api_bad_value(p, f->name, "from 1 to 128");
    _Static_assert(NEF_INFER_CHOICES_MAX == 128, "as the message says");
    p->r->choices = (uint32_t)n;
    return true;
}

bool nef_api_take_best_of(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    p->best_of = json_integer_value(value);
    return p->best_of >= 1 || nef_api_bad_value(p, f->name, "1 or more");
}

bool nef_api_take_logprobs(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t k = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (k < 0 || k > (json_int_t)NEF_ENGINE_LOGPROBS_MAX)
        return nef_api_bad_value(p, f->name, "from 0 to 20");
    _Static_assert(NEF_ENGINE_LOGPROBS_MAX == 20, "as the messages say");
    p->r->logprobs = 1 + (uint32_t)k;
    return true;
}

bool nef_api_take_chat_logprobs(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    if (!json_is_boolean(value))
        return nef_api_bad_type(p, f->name, "a boolean");
    p->logprobs = json_is_true(value);
    return true;
}

bool nef_api_take_top_logprobs(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t k = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (k < 0 || k > (json_int_t)NEF_ENGINE_LOGPROBS_MAX)
        return nef_api_bad_value(p, f->name, "from 0 to 20");
    p->tops = k;
    p->tops_said = k > 0; /* 0 asks for nothing */
    return true;
}

bool nef_api_take_stream_options(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const char *name;
    json_t *one;

    if (!json_is_object(value))
        return nef_api_bad_type(p, f->name, "an object");
    json_object_foreach((json_t *)value, name, one)
    {
        if (json_is_null(one))
            continue;
        if (strcmp(name, "include_usage") == 0 && json_is_boolean(one))
            p->r->include_usage = json_is_true(one);
        else if (strcmp(name, "include_usage") == 0)
            return nef_api_bad_type(p, "stream_options.include_usage", "a boolean");
        else if (strcmp(name, "include_obfuscation") != 0 || !json_is_false(one))
            return nef_api_fail(p->e, 400, "unsupported_parameter", f->name, "'stream_options.%.*s' is not supported.",
                                nef_api_shown(name), name);
    }
    return true;
}

/* ---- embeddings ---- */

bool nef_api_take_encoding(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const char *text = json_string_value(value);

    if (text == NULL)
        return nef_api_bad_type(p, f->name, "a string");
    p->r->base64 = strcmp(text, "base64") == 0;
    return p->r->base64 || strcmp(text, "float") == 0 || nef_api_bad_value(p, f->name, "\"float\" or \"base64\"");
}

bool nef_api_take_dimensions(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    json_int_t n = json_integer_value(value);

    if (!json_is_integer(value))
        return nef_api_bad_type(p, f->name, "an integer");
    if (n < 1 || n > UINT32_MAX)
        return nef_api_bad_value(p, f->name, "1 or more");
    p->r->dimensions = (uint32_t)n;
    return true;
}

/* ---- fields that may only ask for nothing ---- */

bool nef_api_only_false(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return json_is_false(value) || nef_api_unsupported(p, f->name);
}

bool nef_api_only_one(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return (json_is_number(value) && json_number_value(value) == 1) || nef_api_unsupported(p, f->name);
}

bool nef_api_only_empty(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return (json_is_string(value) && json_string_length(value) == 0) || nef_api_unsupported(p, f->name);
}

bool nef_api_any_text(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return json_is_string(value) || nef_api_bad_type(p, f->name, "a string");
}

bool nef_api_any_object(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    return json_is_object(value) || nef_api_bad_type(p, f->name, "an object");
}

bool nef_api_usual_tier(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const char *text = json_string_value(value);

    return (text != NULL && (strcmp(text, "auto") == 0 || strcmp(text, "default") == 0)) ||
           nef_api_unsupported(p, f->name);
}

bool nef_api_only_text_modality(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    const char *first = json_string_value(json_array_get(value, 0));

    return (json_array_size(value) == 1 && first != NULL && strcmp(first, "text") == 0) ||
           nef_api_unsupported(p, f->name);
}

bool nef_api_never(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value)
{
    (void)value;
    return nef_api_unsupported(p, f->name);
}
