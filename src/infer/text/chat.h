/* Qwen's ChatML, both ways: messages -> prompt text, and generated text -> content, reasoning, tool calls. PURE.
 *
 * Rendering equals Qwen's published Jinja template (tests render that with python3-jinja2 and compare bytes): system
 * default as the family has it, tools in Hermes style, <think> blocks of earlier turns dropped, enable_thinking false adds
 * an empty block. The template text in the GGUF tells the family (Qwen2.5 or Qwen3); one that is neither is refused by name
 * when a chat is asked for. */
#ifndef NEF_INFER_CHAT_H
#define NEF_INFER_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/gguf/gguf.h"

enum nef_chat_family { NEF_CHAT_QWEN2, NEF_CHAT_QWEN3, NEF_CHAT_UNKNOWN };
enum nef_chat_family nef_chat_family_of(const struct nef_gguf *file);

struct nef_chat_options {
    enum nef_chat_family family;
    const json_t *messages; /* OpenAI's array: role, content (text or parts of type text), tool_calls, tool_call_id, reasoning_content */
    const json_t *tools;    /* OpenAI's array, or NULL */
    bool add_generation_prompt;    /* usual: true */
    bool continue_final_message;   /* the last assistant message is left open */
    bool enable_thinking;          /* Qwen3; default true */
};
#define NEF_CHAT_ERROR_MAX 256u
/* Prompt text, malloc'd. Errors: NEF_E_INVALID (what is wrong with which message: out_error), NEF_E_UNSUPPORTED, NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_chat_render(const struct nef_chat_options *options, char *out_error, char **out_text,
                                       size_t *out_bytes);

/* ---- what the model said, as it comes ---- */
enum nef_chat_part { NEF_CHAT_CONTENT, NEF_CHAT_REASONING, NEF_CHAT_TOOL_BEGIN, NEF_CHAT_TOOL_ARGUMENTS, NEF_CHAT_TOOL_END };
struct nef_chat_parser; /* one answer */
/* emit: called in order. CONTENT and REASONING: a piece of text. TOOL_BEGIN: the function's name, index. TOOL_ARGUMENTS: a piece of
 * the arguments' JSON text (pieces concatenate to it). TOOL_END: empty. A <tool_call> block whose JSON can't be parsed is given as
 * CONTENT, verbatim. thinking: the prompt ended inside <think>, or the model may begin with it. tools: <tool_call> is looked for. */
typedef void (*nef_chat_emit)(void *context, enum nef_chat_part part, uint32_t tool_index, const char *text, size_t bytes);
NEF_MUST_CHECK nef_err nef_chat_parser_open(bool thinking, bool tools, nef_chat_emit emit, void *context,
                                            struct nef_chat_parser **out_parser);
/* text: whole UTF-8 characters. Holds back only what may be the start of a tag, and whitespace around tags that the template drops. */
NEF_MUST_CHECK nef_err nef_chat_parser_take(struct nef_chat_parser *p, const char *text, size_t bytes);
NEF_MUST_CHECK nef_err nef_chat_parser_end(struct nef_chat_parser *p); /* flushes what is held */
uint32_t nef_chat_parser_tools(const struct nef_chat_parser *p);       /* calls seen whole */
void nef_chat_parser_close(struct nef_chat_parser *p);

#endif
