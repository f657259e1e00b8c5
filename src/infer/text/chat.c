/* Messages to prompt text: Qwen's chat templates, in C (chat.h).
 *
 * Each function below stands beside the template text that it follows (tests/data/infer/text/NAME.jinja; the tests
 * render that with jinja2 and compare bytes). A template in a GGUF is recognized by phrases that only its family's
 * has; anything else would be rendered wrongly, so it is refused instead.
 *
 *   <|im_start|>system\n...<|im_end|>\n
 *   <|im_start|>user\n...<|im_end|>\n
 *   <|im_start|>assistant\n            the generation prompt
 *
 * continue_final_message is transformers': the prompt ends where the template would go on after the final message's
 * content. Beyond it, a final message with reasoning and null content is left open inside its <think> block. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/limits.h"
#include "infer/text/chat_internal.h"
#include "infer/text/tokenizer.h"

/* ---- families ---- */

static bool has(const struct nef_gguf_string *text, const char *phrase)
{
    return memmem(text->data, text->bytes, phrase, strlen(phrase)) != NULL;
}

static bool has_all(const struct nef_gguf_string *text, const char *const phrases[])
{
    for (; *phrases != NULL; phrases++)
        if (!has(text, *phrases))
            return false;
    return true;
}

static bool has_any(const struct nef_gguf_string *text, const char *const phrases[])
{
    for (; *phrases != NULL; phrases++)
        if (has(text, *phrases))
            return true;
    return false;
}

enum nef_chat_family nef_chat_family_of(const struct nef_gguf *file)
{
    static const char *const chatml[] = {"<|im_start|>", "<|im_end|>", "add_generation_prompt", NULL};
    static const char *const hermes[] = {"You may call one or more functions to assist with the user query.",
                                         "<tools></tools>", "<tool_response>", "tojson", NULL};
    static const char *const qwen3[] = {"enable_thinking", "reasoning_content", "multi_step_tool", "last_query_index",
                                        "</think>", NULL};
    static const char *const not_qwen3[] = {"You are Qwen", "<function=", "vision_start", NULL};
    static const char *const qwen2_5[] = {"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", NULL};
    static const char *const not_qwen2_5[] = {"think", "reasoning", "vision_start", NULL};
    static const char *const qwen2[] = {"You are a helpful assistant", NULL};
    static const char *const not_qwen2[] = {"You are Qwen", "tool", "think", "vision_start", NULL};
    struct nef_gguf_string text;

    if (nef_gguf_text(file, "tokenizer.chat_template", &text) != NEF_OK || !has_all(&text, chatml))
        return NEF_CHAT_UNKNOWN;
    if (has_all(&text, hermes)) {
        if (has_all(&text, qwen3) && !has_any(&text, not_qwen3))
            return NEF_CHAT_QWEN3;
        if (has_all(&text, qwen2_5) && !has_any(&text, not_qwen2_5))
            return NEF_CHAT_QWEN2_5;
        return NEF_CHAT_UNKNOWN;
    }
    return has_all(&text, qwen2) && !has_any(&text, not_qwen2) ? NEF_CHAT_QWEN2 : NEF_CHAT_UNKNOWN;
}

/* ---- building text ---- */

void nef_chat_refuse(struct nef_chat_out *out, nef_err err, const char *format, ...)
{
    va_list args;

    if (out->err != NEF_OK)
        return;
    out->err = err;
    va_start(args, format);
    (void)vsnprintf(out->error, NEF_CHAT_ERROR_MAX, format, args); /* may be cut off */
    va_end(args);
}

void nef_chat_put(struct nef_chat_out *out, const char *text, size_t bytes)
{
    if (out->err != NEF_OK || bytes == 0)
        return;
    if (bytes > NEF_TOKENIZE_BYTES_MAX - out->buf.bytes) {
        nef_chat_refuse(out, NEF_E_LIMIT, "messages: the prompt is longer than %u bytes", NEF_TOKENIZE_BYTES_MAX);
        return;
    }
    nef_buf_append(&out->buf, text, bytes);
    if (out->buf.failed)
        nef_chat_refuse(out, NEF_E_NOMEM, "messages: out of memory");
}

void nef_chat_puts(struct nef_chat_out *out, const char *text)
{
    nef_chat_put(out, text, strlen(text));
}

static void put_slice(struct nef_chat_out *out, struct nef_chat_slice s)
{
    nef_chat_put(out, s.data, s.bytes);
}

bool nef_chat_starts(struct nef_chat_slice s, const char *text)
{
    size_t bytes = strlen(text);

    return s.bytes >= bytes && memcmp(s.data, text, bytes) == 0;
}

bool nef_chat_ends(struct nef_chat_slice s, const char *text)
{
    size_t bytes = strlen(text);

    return s.bytes >= bytes && memcmp(s.data + s.bytes - bytes, text, bytes) == 0;
}

struct nef_chat_slice nef_chat_lstrip(struct nef_chat_slice s)
{
    for (; s.bytes > 0 && s.data[0] == '\n'; s.data++)
        s.bytes--;
    return s;
}

struct nef_chat_slice nef_chat_rstrip(struct nef_chat_slice s)
{
    while (s.bytes > 0 && s.data[s.bytes - 1] == '\n')
        s.bytes--;
    return s;
}

/* ---- parts that the families share ---- */

struct render {
    const struct nef_chat_options *options;
    struct nef_chat_messages messages;
    struct nef_chat_out out;
    bool tools;
};

static const char *role_name(enum nef_chat_role role)
{
    static const char *const names[] = {"system", "user", "assistant", "tool"};

    return names[role];
}

/* Is message INDEX the one that stays open? */
static bool open_end(const struct render *r, size_t index)
{
    return r->options->continue_final_message && index + 1 == r->messages.count;
}

static void open_turn(struct render *r, const char *role)
{
    nef_chat_puts(&r->out, "<|im_start|>");
    nef_chat_puts(&r->out, role);
    nef_chat_puts(&r->out, "\n");
}

static void plain_turn(struct render *r, size_t index)
{
    const struct nef_chat_message *m = &r->messages.list[index];

    open_turn(r, role_name(m->role));
    put_slice(&r->out, m->content);
    if (!open_end(r, index))
        nef_chat_puts(&r->out, "<|im_end|>\n");
}

/* Results that follow each other share one turn of the user. */
static void tool_turn(struct render *r, size_t index)
{
    const struct nef_chat_message *list = r->messages.list;

    if (index == 0 || list[index - 1].role != NEF_CHAT_TOOL)
        nef_chat_puts(&r->out, "<|im_start|>user");
    nef_chat_puts(&r->out, "\n<tool_response>\n");
    put_slice(&r->out, list[index].content);
    nef_chat_puts(&r->out, "\n</tool_response>");
    if (index + 1 == r->messages.count || list[index + 1].role != NEF_CHAT_TOOL)
        nef_chat_puts(&r->out, "<|im_end|>\n");
}

/* ---- Qwen2: roles and contents, no tools ---- */

static void render_qwen2(struct render *r)
{
    if (r->tools)
        nef_chat_refuse(&r->out, NEF_E_UNSUPPORTED, "tools: this model's chat template has none");
    if (r->messages.list[0].role != NEF_CHAT_SYSTEM)
        nef_chat_puts(&r->out, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n");
    for (size_t i = 0; i < r->messages.count; i++) {
        if (r->messages.list[i].calls != NULL || r->messages.list[i].role == NEF_CHAT_TOOL)
            nef_chat_refuse(&r->out, NEF_E_UNSUPPORTED, "messages[%zu]: this model's chat template has no tools", i);
        plain_turn(r, i);
    }
}

/* ---- Qwen2.5 ---- */

static const char qwen2_5_system[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";

static void qwen2_5_assistant(struct render *r, size_t index)
{
    const struct nef_chat_message *m = &r->messages.list[index];

    if (m->calls == NULL) {
        plain_turn(r, index);
        return;
    }
    nef_chat_puts(&r->out, "<|im_start|>assistant");
    if (m->content.bytes > 0) {
        nef_chat_puts(&r->out, "\n");
        put_slice(&r->out, m->content);
    }
    for (size_t i = 0; i < json_array_size(m->calls); i++) {
        nef_chat_puts(&r->out, "\n");
        nef_chat_call(&r->out, json_array_get(m->calls, i), index, i, true);
    }
    nef_chat_puts(&r->out, "<|im_end|>\n");
}

static void render_qwen2_5(struct render *r)
{
    const struct nef_chat_message *first = &r->messages.list[0];
    bool own_system = first->role == NEF_CHAT_SYSTEM;

    open_turn(r, "system");
    if (own_system)
        put_slice(&r->out, first->content);
    else
        nef_chat_puts(&r->out, qwen2_5_system);
    if (r->tools) {
        nef_chat_puts(&r->out, "\n\n");
        nef_chat_tools(&r->out, r->options->tools);
    }
    nef_chat_puts(&r->out, "<|im_end|>\n");
    for (size_t i = own_system ? 1 : 0; i < r->messages.count; i++) {
        switch (r->messages.list[i].role) {
        case NEF_CHAT_ASSISTANT:
            qwen2_5_assistant(r, i);
            break;
        case NEF_CHAT_TOOL:
            tool_turn(r, i);
            break;
        case NEF_CHAT_SYSTEM:
        case NEF_CHAT_USER:
            plain_turn(r, i);
            break;
        }
    }
}

/* ---- Qwen3 ---- */

/* The last message of the user that isn't a tool's result in disguise; without one, the last message. Reasoning is
 * shown only after it: the steps of the answer that is being made. */
static size_t last_query(const struct nef_chat_messages *m)
{
    for (size_t i = m->count; i-- > 0;)
        if (m->list[i].role == NEF_CHAT_USER && !(nef_chat_starts(m->list[i].content, "<tool_response>") &&
                                                  nef_chat_ends(m->list[i].content, "</tool_response>")))
            return i;
    return m->count - 1;
}

static const char *find_last(struct nef_chat_slice s, const char *text)
{
    size_t bytes = strlen(text);

    for (size_t i = s.bytes; i-- > 0;)
        if (s.bytes - i >= bytes && memcmp(s.data + i, text, bytes) == 0)
            return s.data + i;
    return NULL;
}

static struct nef_chat_slice between(const char *begin, const char *end)
{
    return (struct nef_chat_slice){.data = begin, .bytes = (size_t)(end - begin)};
}

/* A content that still has its thoughts: content.split('</think>')[-1].lstrip('\n') and
 * content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n'). */
static void split_thoughts(struct nef_chat_slice *content, struct nef_chat_slice *reasoning)
{
    static const char open[] = "<think>", close[] = "</think>";
    const char *end = content->data + content->bytes;
    const char *first = memmem(content->data, content->bytes, close, sizeof(close) - 1);
    const char *last, *begin;

    if (first == NULL)
        return;
    last = find_last(*content, close) + sizeof(close) - 1;
    *reasoning = nef_chat_rstrip(between(content->data, first));
    begin = find_last(*reasoning, open);
    if (begin != NULL) {
        begin += sizeof(open) - 1;
        *reasoning = between(begin, reasoning->data + reasoning->bytes);
    }
    *reasoning = nef_chat_lstrip(*reasoning);
    *content = nef_chat_lstrip(between(last, end));
}

static void qwen3_assistant(struct render *r, size_t index, size_t query)
{
    const struct nef_chat_message *m = &r->messages.list[index];
    struct nef_chat_slice content = m->content, reasoning = m->reasoning;
    bool last = index + 1 == r->messages.count;

    if (content.data == NULL)
        content = (struct nef_chat_slice){.data = "", .bytes = 0};
    if (reasoning.data == NULL)
        split_thoughts(&content, &reasoning);
    open_turn(r, "assistant");
    if (index > query && (last || reasoning.bytes > 0)) {
        nef_chat_puts(&r->out, "<think>\n");
        if (open_end(r, index) && m->content.data == NULL) { /* what comes next are more thoughts */
            put_slice(&r->out, nef_chat_lstrip(reasoning));
            return;
        }
        put_slice(&r->out, nef_chat_rstrip(nef_chat_lstrip(reasoning)));
        nef_chat_puts(&r->out, "\n</think>\n\n");
        put_slice(&r->out, nef_chat_lstrip(content));
    } else {
        put_slice(&r->out, content);
    }
    if (open_end(r, index))
        return;
    for (size_t i = 0; i < json_array_size(m->calls); i++) {
        if (i > 0 || content.bytes > 0)
            nef_chat_puts(&r->out, "\n");
        nef_chat_call(&r->out, json_array_get(m->calls, i), index, i, false);
    }
    nef_chat_puts(&r->out, "<|im_end|>\n");
}

static void render_qwen3(struct render *r)
{
    const struct nef_chat_message *first = &r->messages.list[0];
    bool own_system = first->role == NEF_CHAT_SYSTEM;
    size_t query = last_query(&r->messages);

    if (r->tools) {
        open_turn(r, "system");
        if (own_system) {
            put_slice(&r->out, first->content);
            nef_chat_puts(&r->out, "\n\n");
        }
        nef_chat_tools(&r->out, r->options->tools);
        nef_chat_puts(&r->out, "<|im_end|>\n");
    } else if (own_system) {
        plain_turn(r, 0);
    }
    for (size_t i = own_system ? 1 : 0; i < r->messages.count; i++) {
        switch (r->messages.list[i].role) {
        case NEF_CHAT_ASSISTANT:
            qwen3_assistant(r, i, query);
            break;
        case NEF_CHAT_TOOL:
            tool_turn(r, i);
            break;
        case NEF_CHAT_SYSTEM:
        case NEF_CHAT_USER:
            plain_turn(r, i);
            break;
        }
    }
}

/* ---- all ---- */

/* Can the final message be left open? */
static void check_continue(struct render *r)
{
    const struct nef_chat_message *last = &r->messages.list[r->messages.count - 1];
    size_t index = r->messages.count - 1;

    if (r->options->add_generation_prompt)
        nef_chat_refuse(&r->out, NEF_E_INVALID, "continue_final_message: not together with add_generation_prompt");
    else if (last->role != NEF_CHAT_ASSISTANT)
        nef_chat_refuse(&r->out, NEF_E_INVALID, "messages[%zu].role: only an assistant's message can be continued",
                        index);
    else if (last->calls != NULL)
        nef_chat_refuse(&r->out, NEF_E_INVALID, "messages[%zu].tool_calls: a message with calls can't be continued",
                        index);
    else if (last->content.data == NULL && (last->reasoning.data == NULL || r->options->family != NEF_CHAT_QWEN3))
        nef_chat_refuse(&r->out, NEF_E_INVALID, "messages[%zu].content: nothing to continue", index);
    else if (last->content.data == NULL && last_query(&r->messages) == index)
        nef_chat_refuse(&r->out, NEF_E_INVALID,
                        "messages[%zu].reasoning_content: without a user's message before it the "
                        "template shows no reasoning",
                        index);
}

static void render(struct render *r)
{
    switch (r->options->family) {
    case NEF_CHAT_QWEN2:
        render_qwen2(r);
        break;
    case NEF_CHAT_QWEN2_5:
        render_qwen2_5(r);
        break;
    case NEF_CHAT_QWEN3:
        render_qwen3(r);
        break;
    case NEF_CHAT_UNKNOWN:
        nef_chat_refuse(&r->out, NEF_E_UNSUPPORTED,
                        "tokenizer.chat_template: not Qwen2's, Qwen2.5's or Qwen3's; this model "
                        "can't chat here");
        break;
    }
    if (!r->options->add_generation_prompt)
        return;
    open_turn(r, "assistant");
    if (r->options->family == NEF_CHAT_QWEN3 && !r->options->enable_thinking)
        nef_chat_puts(&r->out, "<think>\n\n</think>\n\n");
}

nef_err nef_chat_render(const struct nef_chat_options *options, char *out_error, char **out_text, size_t *out_bytes)
{
    struct render r = {.options = options, .out = {.error = out_error}};
    nef_err err;

    if (options->tools != NULL && !json_is_null(options->tools) && !json_is_array(options->tools))
        nef_chat_refuse(&r.out, NEF_E_INVALID, "tools: not an array");
    r.tools = json_array_size(options->tools) > 0;
    nef_chat_messages_read(&r.out, options->messages, &r.messages);
    if (r.out.err == NEF_OK && options->continue_final_message)
        check_continue(&r);
    if (r.out.err == NEF_OK)
        render(&r);
    if (r.out.err == NEF_OK) {
        nef_buf_u8(&r.out.buf, 0);
        if (r.out.buf.failed)
            nef_chat_refuse(&r.out, NEF_E_NOMEM, "messages: out of memory");
    }
    err = r.out.err;
    if (err == NEF_OK) {
        *out_text = (char *)r.out.buf.data; /* handed over */
        *out_bytes = r.out.buf.bytes - 1;
    } else {
        nef_buf_free(&r.out.buf);
    }
    nef_chat_messages_done(&r.messages);
    return err;
}
