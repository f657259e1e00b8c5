/* Answers; see write.h. */
#include "infer/api/write.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/text/chat.h"

struct tool_call {
    uint32_t index;
    bool whole; /* one that isn't turned out malformed: it was content all along */
    struct nef_buf name, arguments;
};

struct nef_choice {
    const struct nef_write *w;
    uint32_t index;
    struct nef_chat_parser *parser; /* NULL: a completion */
    struct nef_buf prompt_ids, ids; /* uint32_t each; ids: of the whole answer, or not yet written */
    /* streaming: a delta that may still grow; whole: everything */
    struct nef_buf content, reasoning;
    struct nef_buf *out;            /* during a call */
    bool failed;
    /* whole */
    struct tool_call *calls;
    uint32_t call_count;
    enum nef_finish finish;
};

/* ---- JSON ---- */

void nef_json_text_write(struct nef_buf *out, const char *text, size_t bytes)
{
    size_t from = 0;

    nef_buf_u8(out, '"');
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        nef_buf_append(out, text + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\')
            nef_buf_printf(out, "\\%c", c);
        else if (c == '\n')
            nef_buf_text(out, "\\n");
        else
            nef_buf_printf(out, "\\u%04x", c);
    }
    nef_buf_append(out, text + from, bytes - from);
    nef_buf_u8(out, '"');
}

static void json_cstr(struct nef_buf *out, const char *text)
{
    nef_json_text_write(out, text, strlen(text));
}

static void json_buf(struct nef_buf *out, const struct nef_buf *text)
{
    nef_json_text_write(out, text->data == NULL ? "" : (const char *)text->data, text->bytes);
}

void nef_json_ids_write(struct nef_buf *out, const uint32_t *ids, uint32_t count)
{
    nef_buf_u8(out, '[');
    for (uint32_t i = 0; i < count; i++)
        nef_buf_printf(out, i == 0 ? "%u" : ",%u", ids[i]);
    nef_buf_u8(out, ']');
}

static void ids_of(struct nef_buf *out, const struct nef_buf *ids)
{
    nef_json_ids_write(out, (const uint32_t *)(const void *)ids->data, (uint32_t)(ids->bytes / sizeof(uint32_t)));
}

void nef_write_error(const struct nef_api_error *e, struct nef_buf *out)
{
    nef_buf_text(out, "{\"error\":{\"message\":");
    json_cstr(out, e->message);
    nef_buf_printf(out, ",\"type\":\"%s\",\"param\":", e->type);
    if (e->param[0] != '\0')
        json_cstr(out, e->param);
    else
        nef_buf_text(out, "null");
    nef_buf_text(out, ",\"code\":");
    if (e->code[0] != '\0')
        json_cstr(out, e->code);
    else
        nef_buf_text(out, "null");
    nef_buf_text(out, "}}");
}

void nef_write_error_chunk(const struct nef_api_error *e, struct nef_buf *out)
{
    nef_buf_text(out, "data: ");
    nef_write_error(e, out);
    nef_buf_text(out, "\n\n");
}

static const char *reason_of(const struct nef_choice *c, enum nef_finish finish)
{
    if (finish == NEF_FINISH_LENGTH)
        return "length";
    NEF_ASSERT(finish == NEF_FINISH_STOP);
    return c->parser != NULL && nef_chat_parser_tools(c->parser) > 0 ? "tool_calls" : "stop";
}

/* `{"id": ..., "choices": [` */
static void head(const struct nef_write *w, bool chunk, struct nef_buf *out)
{
    const char *object = w->kind == NEF_API_COMPLETION ? "text_completion"
                         : chunk                       ? "chat.completion.chunk"
                                                       : "chat.completion";

    nef_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%llu,\"model\":", w->id, object,
                   (unsigned long long)w->created);
    json_cstr(out, w->model);
    nef_buf_text(out, ",\"system_fingerprint\":");
    json_cstr(out, w->fingerprint);
}

static void usage_of(const struct nef_usage *u, struct nef_buf *out)
{
    nef_buf_printf(out,
                   "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                   (unsigned long long)u->prompt, (unsigned long long)u->completion,
                   (unsigned long long)(u->prompt + u->completion), (unsigned long long)u->cached);
}

/* ---- chunks ---- */

static void chunk_open(struct nef_choice *c)
{
    nef_buf_text(c->out, "data: ");
    head(c->w, true, c->out);
    nef_buf_printf(c->out, ",\"choices\":[{\"index\":%u,", c->index);
    nef_buf_text(c->out, c->parser != NULL ? "\"delta\":{" : "\"text\":");
}

/* ids: those so far go with this chunk. */
static void chunk_close(struct nef_choice *c, const char *reason, bool ids)
{
    if (c->parser != NULL)
        nef_buf_u8(c->out, '}');
    nef_buf_text(c->out, ",\"logprobs\":null,\"finish_reason\":");
    if (reason != NULL)
        json_cstr(c->out, reason);
    else
        nef_buf_text(c->out, "null");
    if (c->w->return_token_ids) {
        nef_buf_text(c->out, ",\"token_ids\":");
        if (ids) {
            ids_of(c->out, &c->ids);
            nef_buf_reset(&c->ids);
        } else {
            nef_buf_text(c->out, "[]");
        }
    }
    if (c->w->return_token_ids && c->prompt_ids.bytes > 0 && c->parser == NULL) {
        nef_buf_text(c->out, ",\"prompt_token_ids\":");
        ids_of(c->out, &c->prompt_ids);
    }
    nef_buf_text(c->out, "}]");
    if (c->w->return_token_ids && c->prompt_ids.bytes > 0 && c->parser != NULL) {
        nef_buf_text(c->out, ",\"prompt_token_ids\":");
        ids_of(c->out, &c->prompt_ids);
    }
    nef_buf_free(&c->prompt_ids); /* once */
    if (c->w->include_usage)
        nef_buf_text(c->out, ",\"usage\":null");
    nef_buf_text(c->out, "}\n\n");
}

/* The delta that waits. */
static void flush(struct nef_choice *c, bool ids)
{
    struct nef_buf *text = c->reasoning.bytes > 0 ? &c->reasoning : &c->content;

    NEF_ASSERT(c->w->stream && (c->reasoning.bytes == 0 || c->content.bytes == 0));
    if (text->bytes == 0)
        return;
    chunk_open(c);
    if (c->parser != NULL)
        nef_buf_text(c->out, text == &c->reasoning ? "\"reasoning_content\":" : "\"content\":");
    json_buf(c->out, text);
    chunk_close(c, NULL, ids);
    c->failed |= text->failed;
    nef_buf_reset(text);
}

static void call_id(const struct nef_choice *c, uint32_t index, struct nef_buf *out)
{
    const char *dash = strchr(c->w->id, '-');

    nef_buf_printf(out, "\"call_%s%02u\"", dash == NULL ? c->w->id : dash + 1, index);
}

static void stream_tool(struct nef_choice *c, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    flush(c, false);
    chunk_open(c);
    nef_buf_printf(c->out, "\"tool_calls\":[{\"index\":%u,", index);
    if (part == NEF_CHAT_TOOL_BEGIN) {
        nef_buf_text(c->out, "\"id\":");
        call_id(c, index, c->out);
        nef_buf_text(c->out, ",\"type\":\"function\",\"function\":{\"name\":");
        nef_json_text_write(c->out, text, bytes);
        nef_buf_text(c->out, ",\"arguments\":\"\"}}]");
    } else {
        nef_buf_text(c->out, "\"function\":{\"arguments\":");
        nef_json_text_write(c->out, text, bytes);
        nef_buf_text(c->out, "}}]");
    }
    chunk_close(c, NULL, false);
}

static void keep_tool(struct nef_choice *c, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    if (part == NEF_CHAT_TOOL_BEGIN) {
        struct tool_call *grown = realloc(c->calls, (c->call_count + 1) * sizeof(*grown));

        if (grown == NULL) {
            c->failed = true;
            return;
        }
        c->calls = grown;
        c->calls[c->call_count] = (struct tool_call){.index = index};
        nef_buf_append(&c->calls[c->call_count++].name, text, bytes);
    } else if (c->call_count > 0 && part == NEF_CHAT_TOOL_ARGUMENTS) {
        nef_buf_append(&c->calls[c->call_count - 1].arguments, text, bytes);
    } else if (c->call_count > 0) {
        c->calls[c->call_count - 1].whole = true;
    }
}

static void on_part(void *context, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    struct nef_choice *c = context;

    switch (part) {
    case NEF_CHAT_CONTENT:
        if (c->w->stream && c->reasoning.bytes > 0)
            flush(c, false);
        nef_buf_append(&c->content, text, bytes);
        break;
    case NEF_CHAT_REASONING:
        if (c->w->stream && c->content.bytes > 0)
            flush(c, false);
        nef_buf_append(&c->reasoning, text, bytes);
        break;
    case NEF_CHAT_TOOL_BEGIN:
    case NEF_CHAT_TOOL_ARGUMENTS:
        if (c->w->stream)
            stream_tool(c, part, index, text, bytes);
        else
            keep_tool(c, part, index, text, bytes);
        break;
    case NEF_CHAT_TOOL_END:
        if (!c->w->stream)
            keep_tool(c, part, index, "", 0);
        break;
    }
}

/* ---- a choice ---- */

nef_err nef_choice_open(const struct nef_write *w, uint32_t index, const uint32_t *prompt, uint32_t prompt_count,
                        struct nef_choice **out_choice)
{
    struct nef_choice *c = calloc(1, sizeof(*c));
    nef_err err = NEF_OK;

    if (c == NULL)
        return NEF_E_NOMEM;
    c->w = w;
    c->index = index;
    if (w->return_token_ids)
        nef_buf_append(&c->prompt_ids, prompt, prompt_count * sizeof(uint32_t));
    if (c->prompt_ids.failed)
        err = NEF_E_NOMEM;
    if (err == NEF_OK && w->kind == NEF_API_CHAT)
        err = nef_chat_parser_open(w->thinking, w->tools, on_part, c, &c->parser);
    if (err != NEF_OK) {
        nef_choice_close(c);
        return err;
    }
    *out_choice = c;
    return NEF_OK;
}

void nef_choice_close(struct nef_choice *c)
{
    if (c == NULL)
        return;
    if (c->parser != NULL)
        nef_chat_parser_close(c->parser);
    for (uint32_t i = 0; i < c->call_count; i++) {
        nef_buf_free(&c->calls[i].name);
        nef_buf_free(&c->calls[i].arguments);
    }
    free(c->calls);
    nef_buf_free(&c->prompt_ids);
    nef_buf_free(&c->ids);
    nef_buf_free(&c->content);
    nef_buf_free(&c->reasoning);
    free(c);
}

void nef_choice_begin(struct nef_choice *c, struct nef_buf *out)
{
    if (!c->w->stream || c->parser == NULL)
        return; /* a completion's prompt ids go with its first text */
    c->out = out;
    chunk_open(c);
    nef_buf_text(out, "\"role\":\"assistant\",\"content\":\"\"");
    chunk_close(c, NULL, false);
    c->out = NULL;
}

nef_err nef_choice_take(struct nef_choice *c, const char *text, size_t bytes, const uint32_t *ids, uint32_t id_count,
                        struct nef_buf *out)
{
    nef_err err = NEF_OK;

    c->out = out;
    if (c->w->return_token_ids && id_count > 0)
        nef_buf_append(&c->ids, ids, id_count * sizeof(uint32_t));
    if (c->parser != NULL)
        err = bytes > 0 ? nef_chat_parser_take(c->parser, text, bytes) : NEF_OK;
    else
        nef_buf_append(&c->content, text, bytes);
    if (c->w->stream && err == NEF_OK) {
        flush(c, true);
        if (c->w->return_token_ids && c->ids.bytes > 0) { /* ids without a text */
            chunk_open(c);
            if (c->parser == NULL)
                nef_buf_text(out, "\"\"");
            chunk_close(c, NULL, true);
        }
    }
    c->out = NULL;
    if (err == NEF_OK && (c->failed || c->ids.failed || c->content.failed || c->reasoning.failed))
        err = NEF_E_NOMEM;
    return err;
}

nef_err nef_choice_end(struct nef_choice *c, enum nef_finish finish, struct nef_buf *out)
{
    nef_err err = NEF_OK;

    c->out = out;
    c->finish = finish;
    if (c->parser != NULL)
        err = nef_chat_parser_end(c->parser);
    if (err == NEF_OK && c->w->stream) {
        flush(c, true);
        chunk_open(c);
        if (c->parser == NULL)
            nef_buf_text(out, "\"\"");
        chunk_close(c, reason_of(c, finish), true);
    }
    c->out = NULL;
    if (err == NEF_OK && (c->failed || c->content.failed || c->reasoning.failed))
        err = NEF_E_NOMEM;
    return err;
}

/* ---- the end ---- */

void nef_write_usage_chunk(const struct nef_write *w, const struct nef_usage *usage, struct nef_buf *out)
{
    nef_buf_text(out, "data: ");
    head(w, true, out);
    nef_buf_text(out, ",\"choices\":[],");
    usage_of(usage, out);
    nef_buf_text(out, "}\n\n");
}

void nef_write_done(struct nef_buf *out)
{
    nef_buf_text(out, "data: [DONE]\n\n");
}

static void write_message(const struct nef_choice *c, struct nef_buf *out)
{
    uint32_t calls = 0;

    nef_buf_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (c->content.bytes > 0 || nef_chat_parser_tools(c->parser) == 0)
        json_buf(out, &c->content);
    else
        nef_buf_text(out, "null");
    nef_buf_text(out, ",\"refusal\":null");
    if (c->reasoning.bytes > 0) {
        nef_buf_text(out, ",\"reasoning_content\":");
        json_buf(out, &c->reasoning);
    }
    for (uint32_t i = 0; i < c->call_count; i++) {
        if (!c->calls[i].whole)
            continue;
        nef_buf_text(out, calls++ == 0 ? ",\"tool_calls\":[" : ",");
        nef_buf_text(out, "{\"id\":");
        call_id(c, c->calls[i].index, out);
        nef_buf_text(out, ",\"type\":\"function\",\"function\":{\"name\":");
        json_buf(out, &c->calls[i].name);
        nef_buf_text(out, ",\"arguments\":");
        json_buf(out, &c->calls[i].arguments);
        nef_buf_text(out, "}}");
    }
    nef_buf_text(out, calls > 0 ? "]}" : "}");
}

void nef_write_whole(const struct nef_write *w, struct nef_choice *const *choices, uint32_t count,
                     const struct nef_usage *usage, struct nef_buf *out)
{
    head(w, false, out);
    nef_buf_text(out, ",\"choices\":[");
    for (uint32_t i = 0; i < count; i++) {
        const struct nef_choice *c = choices[i];

        nef_buf_printf(out, "%s{\"index\":%u,", i == 0 ? "" : ",", c->index);
        if (c->parser != NULL) {
            write_message(c, out);
        } else {
            nef_buf_text(out, "\"text\":");
            json_buf(out, &c->content);
        }
        nef_buf_printf(out, ",\"logprobs\":null,\"finish_reason\":\"%s\"", reason_of(c, c->finish));
        if (w->return_token_ids) {
            nef_buf_text(out, ",\"token_ids\":");
            ids_of(out, &c->ids);
            if (c->parser == NULL) {
                nef_buf_text(out, ",\"prompt_token_ids\":");
                ids_of(out, &c->prompt_ids);
            }
        }
        nef_buf_u8(out, '}');
    }
    nef_buf_text(out, "],");
    if (w->return_token_ids && w->kind == NEF_API_CHAT) {
        nef_buf_text(out, "\"prompt_token_ids\":");
        ids_of(out, &choices[0]->prompt_ids);
        nef_buf_u8(out, ',');
    }
    usage_of(usage, out);
    nef_buf_u8(out, '}');
}
