/* Bodies of requests -> what is asked. PURE: bytes in, struct out.
 *
 * Nothing is ignored. A field that OpenAI's API doesn't have, or that isn't built here, is refused by its name; fields
 * that clients always send and that ask for nothing (`user`, `metadata`, `service_tier: "auto"`, ...) are taken. null
 * is the same as absent. docs/inference.md has the table.
 *
 * A hostile body costs time linear in its size and memory in its limits: values are counted before they are parsed,
 * since a parsed "[]" takes fifty times its bytes.
 *
 * Not here: what messages mean (text/chat.h), token ids of text, schemas (grammar/grammar.h), sampling defaults of a
 * model. */
#ifndef NEF_INFER_API_REQUEST_H
#define NEF_INFER_API_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/engine/engine.h"
#include "infer/engine/sampler.h"
#include "infer/grammar/grammar.h"

enum nef_api_kind { NEF_API_COMPLETION, NEF_API_CHAT, NEF_API_TOKENIZE, NEF_API_DETOKENIZE, NEF_API_EMBEDDING };
#define NEF_API_KINDS 5u

#define NEF_API_PARAM_MAX   96u
#define NEF_API_MESSAGE_MAX 512u
/* OpenAI's error object. type and code: static strings; param and code may be empty (null then). */
struct nef_api_error {
    unsigned status;
    const char *type, *code;
    char param[NEF_API_PARAM_MAX];
    char message[NEF_API_MESSAGE_MAX];
};
/* Fills E and returns false, for `return nef_api_fail(...)`. Type follows from the status. code, param: may be "". */
bool nef_api_fail(struct nef_api_error *e, unsigned status, const char *code, const char *param, const char *format,
                  ...) NEF_PRINTF(5, 6);

struct nef_api_prompt {
    const char *text; /* borrowed from the body; NULL: ids */
    size_t bytes;
    uint32_t *tokens; /* owned; NULL in a list of `continued`: that choice has ended */
    uint32_t count;
};
struct nef_api_stop {
    const char *text; /* borrowed */
    size_t bytes;
};

struct nef_api_request {
    enum nef_api_kind kind;
    json_t *root;      /* owned: what is borrowed points into it */
    const char *model; /* NULL: not said */
    /* completion, embedding; tokenize (one text), detokenize (one list of ids) */
    struct nef_api_prompt *prompts;
    uint32_t prompt_count;
    bool echo;
    bool add_special, parse_special, with_pieces;
    bool base64;         /* embedding */
    uint32_t dimensions; /* embedding; 0: all */
    /* chat */
    const json_t *messages, *tools; /* tools: what the model is told of; NULL: none, or they may not be called */
    json_t *callable;               /* owned array: those of them that may be called; NULL without tools */
    const char *function;           /* the one that must be called, or NULL */
    bool tools_required, parallel_tool_calls;
    bool add_generation_prompt, continue_final_message, enable_thinking;
    bool thinking_said;    /* enable_thinking was in the body */
    uint32_t thinking_max; /* tokens; NEF_NO_TOKEN: no budget */
    /* completion and chat */
    enum nef_grammar_answer answer; /* response_format */
    const json_t *schema;           /* with NEF_GRAMMAR_SCHEMA */
    bool stream, include_usage, return_token_ids, ignore_eos;
    uint32_t tokens_max; /* UINT32_MAX: not said */
    uint32_t choices;    /* of each prompt: 1 .. */
    uint32_t logprobs;   /* as nef_generate has it: 0 none, 1 + k */
    struct nef_sampling sampling; /* of the presets, then of the body */
    bool seed_said;
    struct nef_logit_bias *bias; /* owned */
    uint32_t bias_count;
    struct nef_api_stop stops[16];
    uint32_t stop_count;
    /* nef_continue_token_ids: of each choice (prompts times `choices`) the ids that an earlier try gave out; NULL: the
     * request is a new one. */
    struct nef_api_prompt *continued;
    uint32_t continued_count;
};

/* sampling: what holds where the body is silent. vocab: ids must be below it. False: out_error says why, and nothing is
 * to be freed. */
NEF_MUST_CHECK bool nef_api_request_parse(enum nef_api_kind kind, const void *body, size_t bytes,
                                          const struct nef_sampling *presets, uint32_t vocab,
                                          struct nef_api_request *out_request, struct nef_api_error *out_error);
void nef_api_request_free(struct nef_api_request *r); /* zeroed ones are fine */
/* The answer must be of a grammar: there are tools, or a response_format other than text. */
bool nef_api_request_grammar(const struct nef_api_request *r);

#endif
