/* Shared by the files that read a body; nobody else includes it.
 *
 *   request.c         the table of fields, the body, what holds between fields
 *   request_values.c  fields of one value: sampling, limits, what may only ask for nothing
 *   request_lists.c   prompts, token ids, stop strings, biases
 *   request_chat.c    messages, tools, response_format, the template's options */
#ifndef NEF_INFER_API_REQUEST_INTERNAL_H
#define NEF_INFER_API_REQUEST_INTERNAL_H

#include "infer/api/request.h"

struct nef_api_parse {
    struct nef_api_request *r;
    struct nef_api_error *e;
    uint32_t vocab;
    const char *max_name;     /* which of the names of tokens_max was there */
    const json_t *choice;     /* tool_choice */
    json_int_t best_of;       /* 0: not said */
    bool logprobs, tops_said; /* of a chat */
    json_int_t tops;
    const json_t *continued; /* looked at when the number of choices is known */
};

struct nef_api_field {
    const char *name;
    unsigned kinds;
    bool (*take)(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value);
    size_t offset; /* of a bool of the request */
};
typedef bool nef_api_take(struct nef_api_parse *p, const struct nef_api_field *f, const json_t *value);

/* ---- request.c ---- */
int nef_api_shown(const char *text); /* bytes of a name from outside that may be shown: few, whole characters */
bool nef_api_bad_type(struct nef_api_parse *p, const char *name, const char *want);
bool nef_api_bad_value(struct nef_api_parse *p, const char *name, const char *want);
bool nef_api_unsupported(struct nef_api_parse *p, const char *name);

/* ---- request_values.c ---- */
nef_api_take nef_api_take_bool, nef_api_take_model, nef_api_take_temperature, nef_api_take_top_p, nef_api_take_min_p,
    nef_api_take_top_k, nef_api_take_seed, nef_api_take_max, nef_api_take_presence, nef_api_take_frequency,
    nef_api_take_repetition, nef_api_take_n, nef_api_take_best_of, nef_api_take_logprobs, nef_api_take_chat_logprobs,
    nef_api_take_top_logprobs, nef_api_take_stream_options, nef_api_take_encoding, nef_api_take_dimensions;
nef_api_take nef_api_only_false, nef_api_only_one, nef_api_only_empty, nef_api_any_text, nef_api_any_object,
    nef_api_usual_tier, nef_api_only_text_modality, nef_api_never;

/* ---- request_lists.c ---- */
nef_api_take nef_api_take_prompt, nef_api_take_input, nef_api_take_content, nef_api_take_tokens, nef_api_take_stop,
    nef_api_take_bias, nef_api_take_continued;
/* After all fields: nef_continue_token_ids for CHOICES choices. */
bool nef_api_read_continued(struct nef_api_parse *p, uint32_t choices);

/* ---- request_chat.c ---- */
nef_api_take nef_api_take_messages, nef_api_take_tools, nef_api_take_tool_choice, nef_api_take_template,
    nef_api_take_format, nef_api_take_budget, nef_api_take_thinking, nef_api_take_effort;
/* After all fields: which tools may be called. */
bool nef_api_choose_tools(struct nef_api_parse *p);

#endif
