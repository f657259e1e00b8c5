/* Answers; see write.h. */
#include "infer/api/write.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/text/chat.h"

struct tool_call {
    uint32_t index;
    bool begins, whole; /* begins: of this chunk (streaming) */
    struct nef_buf name, arguments;
};

struct nef_choice {
    const struct nef_write *w;
    uint32_t index;
    struct nef_chat_parser *parser; /* NULL: a completion */
    struct nef_buf prompt_ids, ids; /* uint32_t each; ids: of the whole answer, or not yet written */
    struct nef_logprobs logprobs;   /* the same */
    uint64_t taken;                 /* bytes of text */
    uint32_t reasoning;             /* tokens */
    /* streaming: the delta of the next chunk; whole: everything */
    struct nef_buf content, reasoning_text;
    struct nef_buf *out;            /* during a call */
    bool failed;
    struct tool_call *calls;
    uint32_t call_count;
    bool content_after; /* the last call */
    enum nef_finish finish;
};

static void json_buf(struct nef_buf *out, const struct nef_buf *text)
{
    nef_json_text_write(out, text->data == NULL ? "" : (const char *)text->data, text->bytes);
}

static void ids_of(struct nef_buf *out, const struct nef_buf *ids)
{
    nef_json_ids_write(out, (const uint32_t *)(const void *)ids->data, (uint32_t)(ids->bytes / sizeof(uint32_t)));
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
    nef_json_cstr_write(out, w->model);
    nef_buf_text(out, ",\"system_fingerprint\":");
    nef_json_cstr_write(out, w->fingerprint);
}

static void usage_of(const struct nef_write *w, const struct nef_usage *u, struct nef_buf *out)
{
    nef_buf_printf(out,
                   "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%llu}",
                   (unsigned long long)u->prompt, (unsigned long long)u->completion,
                   (unsigned long long)(u->prompt + u->completion), (unsigned long long)u->cached);
    if (w->kind == NEF_API_CHAT)
        nef_buf_printf(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%llu}",
                       (unsigned long long)u->reasoning);
    nef_buf_u8(out, '}');
}

/* ---- chunks ---- */

static void chunk_open(struct nef_choice *c)
{
    nef_buf_text(c->out, "data: ");
    head(c->w, true, c->out);
    nef_buf_printf(c->out, ",\"choices\":[{\"index\":%u,", c->index);
    nef_buf_text(c->out, c->parser != NULL ? "\"delta\":{" : "\"text\":");
}

static void logprobs_of(const struct nef_choice *c, struct nef_buf *out)
{
    nef_buf_text(out, ",\"logprobs\":");
    if (c->w->logprobs && (nef_logprobs_any(&c->logprobs) || !c->w->stream))
        nef_logprobs_write(&c->logprobs, c->w->kind, c->w->tokenizer, out);
    else
        nef_buf_text(out, "null");
}

/* With the ids and logprobs so far: a chunk's text is that of its ids, so that a stream can go on after any chunk. */
static void chunk_close(struct nef_choice *c, const char *reason)
{
    if (c->parser != NULL)
        nef_buf_u8(c->out, '}');
    logprobs_of(c, c->out);
    c->failed |= c->logprobs.tokens.failed || c->logprobs.tops.failed;
    nef_logprobs_reset(&c->logprobs);
    nef_buf_text(c->out, ",\"finish_reason\":");
    if (reason != NULL)
        nef_json_cstr_write(c->out, reason);
    else
        nef_buf_text(c->out, "null");
    if (c->w->return_token_ids) {
        nef_buf_text(c->out, ",\"token_ids\":");
        ids_of(c->out, &c->ids);
        nef_buf_reset(&c->ids);
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

static void call_id(const struct nef_choice *c, uint32_t index, struct nef_buf *out)
{
    const char *dash = strchr(c->w->id, '-');

    nef_buf_printf(out, "\"call_%s%02u\"", dash == NULL ? c->w->id : dash + 1, index);
}

static void drop_calls(struct nef_choice *c)
{
    for (uint32_t i = 0; i < c->call_count; i++) {
        nef_buf_free(&c->calls[i].name);
        nef_buf_free(&c->calls[i].arguments);
    }
    c->call_count = 0;
}

/* A call that begins has its id, name and what there is of its arguments; later chunks have the rest. */
static void delta_call(struct nef_choice *c, const struct tool_call *call)
{
    nef_buf_printf(c->out, "{\"index\":%u,", call->index);
    if (call->begins) {
        nef_buf_text(c->out, "\"id\":");
        call_id(c, call->index, c->out);
        nef_buf_text(c->out, ",\"type\":\"function\",\"function\":{\"name\":");
        json_buf(c->out, &call->name);
        nef_buf_u8(c->out, ',');
    } else {
        nef_buf_text(c->out, "\"function\":{");
    }
    nef_buf_text(c->out, "\"arguments\":");
    json_buf(c->out, &call->arguments);
    nef_buf_text(c->out, "}}");
    c->failed |= call->name.failed || call->arguments.failed;
}

/* What was collected since the last chunk. Clients put each field together by itself, so one delta may hold several. */
static void delta(struct nef_choice *c)
{
    const char *comma = "";

    if (c->parser == NULL) {
        json_buf(c->out, &c->content);
    } else {
        if (c->reasoning_text.bytes > 0) {
            nef_buf_text(c->out, "\"reasoning_content\":");
            json_buf(c->out, &c->reasoning_text);
            comma = ",";
        }
        if (c->content.bytes > 0) {
            nef_buf_printf(c->out, "%s\"content\":", comma);
            json_buf(c->out, &c->content);
            comma = ",";
        }
        for (uint32_t i = 0; i < c->call_count; i++) {
            if (i == 0)
                nef_buf_printf(c->out, "%s\"tool_calls\":[", comma);
            else
                nef_buf_u8(c->out, ',');
            delta_call(c, &c->calls[i]);
        }
        if (c->call_count > 0)
            nef_buf_u8(c->out, ']');
    }
    c->failed |= c->content.failed || c->reasoning_text.failed;
    nef_buf_reset(&c->content);
    nef_buf_reset(&c->reasoning_text);
    drop_calls(c);
}

static bool any_delta(const struct nef_choice *c)
{
    return c->content.bytes > 0 || c->reasoning_text.bytes > 0 || c->call_count > 0 || c->ids.bytes > 0 ||
           nef_logprobs_any(&c->logprobs);
}

static struct tool_call *add_call(struct nef_choice *c, uint32_t index)
{
    struct tool_call *grown = realloc(c->calls, (c->call_count + 1) * sizeof(*grown));

    if (grown == NULL) {
        c->failed = true;
        return NULL;
    }
    c->calls = grown;
    c->calls[c->call_count] = (struct tool_call){.index = index};
    c->content_after = false;
    return &c->calls[c->call_count++];
}

static void keep_tool(struct nef_choice *c, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    struct tool_call *call = c->call_count == 0 ? NULL : &c->calls[c->call_count - 1];

    if (part == NEF_CHAT_TOOL_BEGIN) {
        call = add_call(c, index);
        if (call != NULL) {
            call->begins = true;
            nef_buf_append(&call->name, text, bytes);
        }
    } else if (part == NEF_CHAT_TOOL_ARGUMENTS) {
        if (call == NULL || call->index != index) /* it began in an earlier chunk */
            call = add_call(c, index);
        if (call != NULL)
            nef_buf_append(&call->arguments, text, bytes);
    } else if (call != NULL) {
        call->whole = true;
    }
}

static void on_part(void *context, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    struct nef_choice *c = context;

    switch (part) {
    case NEF_CHAT_CONTENT:
        nef_buf_append(&c->content, text, bytes);
        c->content_after = true;
        break;
    case NEF_CHAT_REASONING:
        nef_buf_append(&c->reasoning_text, text, bytes);
        break;
    case NEF_CHAT_TOOL_BEGIN:
    case NEF_CHAT_TOOL_ARGUMENTS:
    case NEF_CHAT_TOOL_END:
        keep_tool(c, part, index, text, bytes);
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
    if (w->return_token_ids && (w->kind == NEF_API_COMPLETION || index == 0)) /* a chat has one prompt */
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
    drop_calls(c);
    free(c->calls);
    nef_buf_free(&c->prompt_ids);
    nef_buf_free(&c->ids);
    nef_logprobs_done(&c->logprobs);
    nef_buf_free(&c->content);
    nef_buf_free(&c->reasoning_text);
    free(c);
}

void nef_choice_begin(struct nef_choice *c, struct nef_buf *out)
{
    if (!c->w->stream || c->parser == NULL)
        return; /* a completion's prompt ids go with its first text */
    c->out = out;
    chunk_open(c);
    nef_buf_text(out, "\"role\":\"assistant\",\"content\":\"\"");
    chunk_close(c, NULL);
    c->out = NULL;
}

static nef_err failure_of(const struct nef_choice *c)
{
    return c->failed || c->ids.failed || c->content.failed || c->reasoning_text.failed || c->logprobs.tokens.failed ||
                   c->logprobs.tops.failed
               ? NEF_E_NOMEM
               : NEF_OK;
}

/* Ids and logprobs of PIECE wait for the end of its last chunk. */
static void note_tokens(struct nef_choice *c, const struct nef_piece *piece)
{
    uint64_t reasoned = c->parser == NULL ? 0 : nef_chat_parser_reasoned(c->parser);
    uint32_t count, from = 0;
    const struct nef_piece_token *tokens = nef_piece_tokens(piece, &count);

    for (uint32_t i = 0; i < count; i++) {
        if (c->w->return_token_ids && !tokens[i].prompt)
            nef_buf_append(&c->ids, &tokens[i].id, sizeof(tokens[i].id));
        c->reasoning += c->taken + from < reasoned;
        from = tokens[i].end;
    }
    if (c->w->logprobs)
        nef_logprobs_add(&c->logprobs, piece);
    c->taken += piece->text.bytes;
}

nef_err nef_choice_take(struct nef_choice *c, const struct nef_piece *piece, bool last, struct nef_buf *out)
{
    nef_err err = NEF_OK;

    if (piece->text.failed || piece->tokens.failed || piece->tops.failed)
        return NEF_E_NOMEM;
    c->out = out;
    if (c->parser == NULL)
        nef_buf_append(&c->content, piece->text.data, piece->text.bytes);
    else if (piece->text.bytes > 0)
        err = nef_chat_parser_take(c->parser, (const char *)piece->text.data, piece->text.bytes);
    if (err == NEF_OK)
        note_tokens(c, piece);
    if (c->w->stream && err == NEF_OK && !last && any_delta(c)) {
        chunk_open(c);
        delta(c);
        chunk_close(c, NULL);
    }
    c->out = NULL;
    return err == NEF_OK ? failure_of(c) : err;
}

nef_err nef_choice_echo(struct nef_choice *c, const char *text, size_t bytes, struct nef_buf *out)
{
    NEF_ASSERT(c->parser == NULL);
    c->out = out;
    nef_buf_append(&c->content, text, bytes);
    if (c->w->stream && bytes > 0) {
        chunk_open(c);
        delta(c);
        chunk_close(c, NULL);
    }
    c->out = NULL;
    return failure_of(c);
}

uint32_t nef_choice_reasoning(const struct nef_choice *c)
{
    return c->reasoning;
}

nef_err nef_choice_end(struct nef_choice *c, enum nef_finish finish, struct nef_buf *out)
{
    nef_err err = NEF_OK;

    c->out = out;
    c->finish = finish;
    if (c->parser != NULL)
        err = nef_chat_parser_end(c->parser);
    if (err == NEF_OK && c->w->stream) {
        chunk_open(c);
        delta(c);
        chunk_close(c, reason_of(c, finish));
    }
    c->out = NULL;
    return err == NEF_OK ? failure_of(c) : err;
}

/* ---- the end ---- */

void nef_write_usage_chunk(const struct nef_write *w, const struct nef_usage *usage, struct nef_buf *out)
{
    nef_buf_text(out, "data: ");
    head(w, true, out);
    nef_buf_text(out, ",\"choices\":[],");
    usage_of(w, usage, out);
    nef_buf_text(out, "}\n\n");
}

void nef_write_done(struct nef_buf *out)
{
    nef_buf_text(out, "data: [DONE]\n\n");
}

/* One that isn't whole turned out malformed, and was content all along; but the last one may be cut off by the limit:
 * then it is given as far as it came, as OpenAI does. */
static bool is_call(const struct nef_choice *c, const struct tool_call *call)
{
    return call->whole || (c->finish == NEF_FINISH_LENGTH && call == &c->calls[c->call_count - 1] && !c->content_after);
}

static void write_message(const struct nef_choice *c, struct nef_buf *out)
{
    uint32_t calls = 0;

    nef_buf_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    for (uint32_t i = 0; i < c->call_count; i++)
        calls += is_call(c, &c->calls[i]);
    if (c->content.bytes > 0 || calls == 0)
        json_buf(out, &c->content);
    else
        nef_buf_text(out, "null");
    nef_buf_text(out, ",\"refusal\":null");
    if (c->reasoning_text.bytes > 0) {
        nef_buf_text(out, ",\"reasoning_content\":");
        json_buf(out, &c->reasoning_text);
    }
    calls = 0;
    for (uint32_t i = 0; i < c->call_count; i++) {
        if (!is_call(c, &c->calls[i]))
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
        logprobs_of(c, out);
        nef_buf_printf(out, ",\"finish_reason\":\"%s\"", reason_of(c, c->finish));
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
    usage_of(w, usage, out);
    nef_buf_u8(out, '}');
}
