/* Logprobs in OpenAI's two forms; see write.h.
 *
 *   chat         {"content": [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}], ...}
 *   completions  {"tokens": [], "token_logprobs": [], "top_logprobs": [{TOKEN: logprob}], "text_offset": []}
 *
 * A token whose bytes aren't whole UTF-8 has a name as OpenAI gives it: "bytes:\xe2\x82" in completions, where there is
 * nothing else to tell it by, and "\xe2\x82" in chats, beside its bytes. Bytes of all tokens are those of the answer:
 * control tokens, which aren't shown, have none. */
#include <math.h>
#include <string.h>
#include "base/assert.h"
#include "infer/api/write.h"

struct nef_logprobs_token {
    uint32_t id;
    uint32_t offset; /* characters of the text before it */
    float logprob;
    uint32_t top_count;
};

static uint32_t characters_of(const uint8_t *text, size_t bytes)
{
    uint32_t count = 0;

    for (size_t i = 0; i < bytes; i++)
        count += (text[i] & 0xc0) != 0x80;
    return count;
}

void nef_logprobs_add(struct nef_logprobs *l, const struct nef_piece *piece)
{
    uint32_t count, from = 0;
    const struct nef_piece_token *tokens = nef_piece_tokens(piece, &count);

    for (uint32_t i = 0; i < count; i++) {
        const struct nef_logprobs_token token = {
            .id = tokens[i].id, .offset = l->characters, .logprob = tokens[i].logprob, .top_count = tokens[i].top_count};

        nef_buf_append(&l->tokens, &token, sizeof(token));
        l->characters += characters_of(piece->text.data + from, tokens[i].end - from);
        from = tokens[i].end;
    }
    nef_buf_append(&l->tops, piece->tops.data, piece->tops.bytes);
}

bool nef_logprobs_any(const struct nef_logprobs *l)
{
    return l->tokens.bytes > 0;
}

void nef_logprobs_reset(struct nef_logprobs *l)
{
    nef_buf_reset(&l->tokens);
    nef_buf_reset(&l->tops);
}

void nef_logprobs_done(struct nef_logprobs *l)
{
    nef_buf_free(&l->tokens);
    nef_buf_free(&l->tops);
}

/* ---- writing ---- */

static bool is_utf8(const char *bytes, size_t count)
{
    json_t *text = json_stringn(bytes, count);
    bool is = text != NULL;

    json_decref(text);
    return is;
}

/* What names a token; prefix: before bytes that are no text. */
static void name_of(const struct nef_tokenizer *t, uint32_t id, const char *prefix, struct nef_buf *out)
{
    size_t count = 0;
    const char *bytes = nef_token_bytes(t, id, &count);

    nef_buf_reset(out);
    if (count == 0) {
        nef_buf_printf(out, "token_id:%u", id); /* it has none; vLLM's name */
    } else if (is_utf8(bytes, count)) {
        nef_buf_append(out, bytes, count);
    } else {
        nef_buf_text(out, prefix);
        for (size_t i = 0; i < count; i++)
            nef_buf_printf(out, "\\x%02x", (unsigned)(uint8_t)bytes[i]);
    }
}

/* A logprob of a token that can't be is minus infinity, which JSON hasn't: OpenAI writes -9999. */
static void number(float logprob, struct nef_buf *out)
{
    if (isnan(logprob))
        nef_buf_text(out, "null");
    else
        nef_buf_printf(out, "%.9g", logprob < -9999.0f ? -9999.0 : (double)logprob);
}

static void chat_token(const struct nef_tokenizer *t, uint32_t id, float logprob, struct nef_buf *name,
                       struct nef_buf *out)
{
    size_t count = 0;
    const char *bytes = nef_token_bytes(t, id, &count);

    name_of(t, id, "", name);
    nef_buf_text(out, "{\"token\":");
    nef_json_text_write(out, (const char *)name->data, name->bytes);
    nef_buf_text(out, ",\"logprob\":");
    number(logprob, out);
    if (nef_token_control(t, id)) { /* it has a name and no place in the text */
        nef_buf_text(out, ",\"bytes\":null");
        return;
    }
    nef_buf_text(out, ",\"bytes\":[");
    for (size_t i = 0; i < count; i++)
        nef_buf_printf(out, i == 0 ? "%u" : ",%u", (unsigned)(uint8_t)bytes[i]);
    nef_buf_u8(out, ']');
}

static void write_chat(const struct nef_logprobs_token *tokens, uint32_t count, const struct nef_logprob *top,
                       const struct nef_tokenizer *t, struct nef_buf *name, struct nef_buf *out)
{
    nef_buf_text(out, "{\"content\":[");
    for (uint32_t i = 0; i < count; i++) {
        nef_buf_text(out, i == 0 ? "" : ",");
        chat_token(t, tokens[i].id, tokens[i].logprob, name, out);
        nef_buf_text(out, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < tokens[i].top_count; k++, top++) {
            nef_buf_text(out, k == 0 ? "" : ",");
            chat_token(t, top->token, top->logprob, name, out);
            nef_buf_u8(out, '}');
        }
        nef_buf_text(out, "]}");
    }
    nef_buf_text(out, "],\"refusal\":null}");
}

/* The likeliest ones, and the token itself if it isn't one of them (as OpenAI). */
static void alternatives(const struct nef_logprobs_token *token, const struct nef_logprob *top,
                         const struct nef_tokenizer *t, struct nef_buf *name, struct nef_buf *out)
{
    bool among = false;

    nef_buf_u8(out, '{');
    for (uint32_t k = 0; k <= token->top_count; k++) {
        bool own = k == token->top_count;

        if (own && among)
            break;
        among |= !own && top[k].token == token->id;
        name_of(t, own ? token->id : top[k].token, "bytes:", name);
        nef_buf_text(out, k == 0 ? "" : ",");
        nef_json_text_write(out, (const char *)name->data, name->bytes);
        nef_buf_u8(out, ':');
        number(own ? token->logprob : top[k].logprob, out);
    }
    nef_buf_u8(out, '}');
}

static void write_completion(const struct nef_logprobs_token *tokens, uint32_t count, const struct nef_logprob *top,
                             const struct nef_tokenizer *t, struct nef_buf *name, struct nef_buf *out)
{
    nef_buf_text(out, "{\"tokens\":[");
    for (uint32_t i = 0; i < count; i++) {
        nef_buf_text(out, i == 0 ? "" : ",");
        name_of(t, tokens[i].id, "bytes:", name);
        nef_json_text_write(out, (const char *)name->data, name->bytes);
    }
    nef_buf_text(out, "],\"token_logprobs\":[");
    for (uint32_t i = 0; i < count; i++) {
        nef_buf_text(out, i == 0 ? "" : ",");
        number(tokens[i].logprob, out);
    }
    nef_buf_text(out, "],\"top_logprobs\":[");
    for (uint32_t i = 0; i < count; i++) {
        nef_buf_text(out, i == 0 ? "" : ",");
        if (isnan(tokens[i].logprob)) /* the first of a prompt */
            nef_buf_text(out, "null");
        else
            alternatives(&tokens[i], top, t, name, out);
        if (tokens[i].top_count > 0)
            top += tokens[i].top_count;
    }
    nef_buf_text(out, "],\"text_offset\":[");
    for (uint32_t i = 0; i < count; i++)
        nef_buf_printf(out, i == 0 ? "%u" : ",%u", tokens[i].offset);
    nef_buf_text(out, "]}");
}

void nef_logprobs_write(const struct nef_logprobs *l, enum nef_api_kind kind, const struct nef_tokenizer *t,
                        struct nef_buf *out)
{
    const struct nef_logprobs_token *tokens = (const struct nef_logprobs_token *)(const void *)l->tokens.data;
    const struct nef_logprob *tops = (const struct nef_logprob *)(const void *)l->tops.data;
    uint32_t count = (uint32_t)(l->tokens.bytes / sizeof(*tokens));
    struct nef_buf name = {0};

    (kind == NEF_API_CHAT ? write_chat : write_completion)(tokens, count, tops, t, &name, out);
    out->failed |= name.failed;
    nef_buf_free(&name);
}
