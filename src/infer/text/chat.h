/* Qwen's ChatML, both ways: messages -> prompt text, and generated text -> content, reasoning, tool calls. PURE.
 *
 * Rendering equals Qwen's published Jinja template (tests render that with python3-jinja2 and compare bytes): system
 * default as the family has it, tools in Hermes style, <think> blocks of earlier turns dropped, enable_thinking false
 * adds an empty block. The template text in the GGUF tells the family (Qwen2, Qwen2.5 or Qwen3); one that is neither,
 * or none, is NEF_CHAT_UNKNOWN and refused when a chat is asked for.
 *
 * Before the template, messages are made what it expects, as vLLM does: content parts of type text are joined by "\n",
 * null content of an assistant or a tool is "", role developer is system, "reasoning" is taken for reasoning_content,
 * empty or absent arguments are {}. */
#ifndef NEF_INFER_CHAT_H
#define NEF_INFER_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/gguf/gguf.h"

enum nef_chat_family { NEF_CHAT_QWEN2, NEF_CHAT_QWEN2_5, NEF_CHAT_QWEN3, NEF_CHAT_UNKNOWN };
enum nef_chat_family nef_chat_family_of(const struct nef_gguf *file);

struct nef_chat_options {
    enum nef_chat_family family;
    /* OpenAI's array: role, content (text or parts of type text), tool_calls, tool_call_id, reasoning_content */
    const json_t *messages;
    const json_t *tools;        /* OpenAI's array, or NULL */
    bool add_generation_prompt; /* usual: true */
    /* The last message, of the assistant, is left open: after its content, or inside <think> when it has
     * reasoning_content and no content. Not with add_generation_prompt. */
    bool continue_final_message;
    bool enable_thinking; /* Qwen3; default true */
};
#define NEF_CHAT_ERROR_MAX 256u
/* Prompt text, malloc'd, a NUL after it. Any thread. Errors: NEF_E_INVALID (out_error names the field:
 * "messages[2].content: ..."), NEF_E_UNSUPPORTED, NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_chat_render(const struct nef_chat_options *options, char *out_error, char **out_text,
                                       size_t *out_bytes);

/* ---- what the model said, as it comes ---- */
enum nef_chat_part {
    NEF_CHAT_CONTENT,
    NEF_CHAT_REASONING,
    NEF_CHAT_TOOL_BEGIN,
    NEF_CHAT_TOOL_ARGUMENTS,
    NEF_CHAT_TOOL_END
};
struct nef_chat_parser; /* one answer */
/* emit: called in order, with what can be told apart so far; how the text was cut never changes what comes. CONTENT
 * and REASONING: a piece of text. TOOL_BEGIN: the function's name. TOOL_ARGUMENTS: a piece of the arguments' JSON text
 * (pieces concatenate to it). TOOL_END: empty; only now is the call whole. A <tool_call> block whose JSON is malformed
 * is given as CONTENT, verbatim; if that showed only inside the arguments, the call has begun already and gets no
 * TOOL_END. One that the text's end cuts off is CONTENT too if it hasn't begun, else it just gets no TOOL_END. An index
 * is not used again.
 *
 * thinking: the prompt ended inside <think>, or the model may begin with it; then all is reasoning until </think> (as
 * vLLM's qwen3 parser has it), also when <think> itself or </think> is missing. tools: <tool_call> is looked for. */
typedef void (*nef_chat_emit)(void *context, enum nef_chat_part part, uint32_t tool_index, const char *text,
                              size_t bytes);
NEF_MUST_CHECK nef_err nef_chat_parser_open(bool thinking, bool tools, nef_chat_emit emit, void *context,
                                            struct nef_chat_parser **out_parser);
/* text: whole UTF-8 characters. Holds back only what may be the start of a tag, newlines around tags that the template
 * drops, and of a call what comes before its name and arguments. Errors: NEF_E_NOMEM (the parser can then only be
 * closed). */
NEF_MUST_CHECK nef_err nef_chat_parser_take(struct nef_chat_parser *p, const char *text, size_t bytes);
NEF_MUST_CHECK nef_err nef_chat_parser_end(struct nef_chat_parser *p); /* flushes what is held */
uint32_t nef_chat_parser_tools(const struct nef_chat_parser *p);       /* calls seen whole */
/* Bytes of the text up to the end of </think>; 0 if the answer doesn't begin with reasoning, UINT64_MAX while it goes
 * on. */
uint64_t nef_chat_parser_reasoned(const struct nef_chat_parser *p);
void nef_chat_parser_close(struct nef_chat_parser *p);

#endif
