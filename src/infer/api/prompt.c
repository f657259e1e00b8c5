/* Prompts to tokens and back; /tokenize and /detokenize. In a worker, because a long prompt takes a while. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/api/api_internal.h"

bool nef_api_refuse_err(struct call *c, nef_err err)
{
    switch ((int)err) {
    case NEF_E_BUSY:
        return nef_api_fail(&c->error, 429, "queue_full", "", "Too many requests are waiting; try again soon.");
    case NEF_E_CLOSED:
        return nef_api_fail(&c->error, 503, "", "", "The server is stopping.");
    case NEF_E_LIMIT:
        return nef_api_fail(&c->error, 400, "context_length_exceeded", "", "The prompt is too long.");
    case NEF_E_RANGE:
        return nef_api_fail(&c->error, 400, "invalid_value", "", "The prompt can't be taken by this model.");
    default:
        return nef_api_fail(&c->error, 500, nef_err_name(err), "", "The request failed: %s.", nef_err_text(err));
    }
}

/* Tokens of a text, with one before (of the beginning of texts) or after (of their end) where it isn't NEF_NO_TOKEN. */
static nef_err tokens_of(const struct nef_tokenizer *t, const char *text, size_t bytes, bool parse_special,
                         uint32_t before, uint32_t after, uint32_t **out_tokens, uint32_t *out_count)
{
    uint32_t *tokens = NULL, *grown;
    uint32_t count = 0;
    nef_err err = nef_tokenize(t, text, bytes, parse_special, &tokens, &count);

    if (err != NEF_OK)
        return err;
    grown = realloc(tokens, ((size_t)count + 2) * sizeof(*tokens));
    if (grown == NULL) {
        free(tokens);
        return NEF_E_NOMEM;
    }
    tokens = grown;
    if (before != NEF_NO_TOKEN) {
        memmove(tokens + 1, tokens, count * sizeof(*tokens));
        tokens[0] = before;
        count++;
    }
    if (after != NEF_NO_TOKEN && (count == 0 || tokens[count - 1] != after))
        tokens[count++] = after;
    *out_tokens = tokens;
    *out_count = count;
    return NEF_OK;
}

nef_err nef_api_text_of(const struct nef_tokenizer *t, const uint32_t *tokens, uint32_t count, struct nef_buf *out)
{
    struct nef_utf8_stream stream = {.held_bytes = 0};

    for (uint32_t i = 0; i <= count; i++) { /* one round more, for the tail */
        size_t bytes = 0, got;
        const char *text = i < count ? nef_token_bytes(t, tokens[i], &bytes) : "";
        size_t before = out->bytes;
        char *room = (char *)nef_buf_grow(out, 3 * (bytes + 4));

        if (room == NULL)
            return NEF_E_NOMEM;
        got = nef_utf8_stream_take(&stream, text, bytes, i == count, room);
        out->bytes = before + got;
    }
    return NEF_OK;
}

/* ---- chats ---- */

static bool render_chat(struct call *c, const struct nef_api_request *r, char **out_text, size_t *out_bytes)
{
    const struct nef_chat_options options = {
        .family = c->api->model.family,
        .messages = r->messages,
        .tools = r->tools,
        .add_generation_prompt = r->add_generation_prompt,
        .continue_final_message = r->continue_final_message,
        .enable_thinking = r->enable_thinking,
    };
    char why[NEF_CHAT_ERROR_MAX] = "";
    nef_err err;

    if (options.family == NEF_CHAT_UNKNOWN)
        return nef_api_fail(&c->error, 400, "unsupported_model", "messages",
                            "This model has no chat template that is supported; use /v1/completions.");
    if (options.family != NEF_CHAT_QWEN3 && r->thinking_said && r->enable_thinking)
        return nef_api_fail(&c->error, 400, "unsupported_parameter", "chat_template_kwargs",
                            "'chat_template_kwargs.enable_thinking' is not supported by this model.");
    if (r->thinking_max != NEF_NO_TOKEN && (options.family != NEF_CHAT_QWEN3 || c->api->budget_count == 0))
        return nef_api_fail(&c->error, 400, "unsupported_parameter", "thinking_budget",
                            "'thinking_budget' is not supported by this model.");
    err = nef_chat_render(&options, why, out_text, out_bytes);
    if (err == NEF_E_NOMEM)
        return nef_api_refuse_err(c, err);
    if (err != NEF_OK)
        return nef_api_fail(&c->error, 400, err == NEF_E_UNSUPPORTED ? "unsupported_value" : "invalid_value",
                            "messages", "%s", why[0] != '\0' ? why : nef_err_text(err));
    return true;
}

/* Does the answer begin inside a <think> block, or with one? A final message that is continued may have been left in
 * one. */
static bool begins_thinking(const struct nef_api_request *r, const char *text, size_t bytes)
{
    static const char open[] = "<think>", close[] = "</think>";
    const char *opened = NULL, *at = text;

    if (!r->continue_final_message)
        return r->enable_thinking;
    while ((at = memmem(at, bytes - (size_t)(at - text), open, sizeof(open) - 1)) != NULL)
        opened = at++;
    return opened != NULL && memmem(opened, bytes - (size_t)(opened - text), close, sizeof(close) - 1) == NULL;
}

static bool chat_tokens(struct call *c, const struct nef_api_request *r, uint32_t **out_tokens, uint32_t *out_count)
{
    char *rendered = NULL;
    size_t bytes = 0;
    nef_err err;

    if (!render_chat(c, r, &rendered, &bytes))
        return false;
    c->write.thinking = c->api->model.family == NEF_CHAT_QWEN3 && begins_thinking(r, rendered, bytes);
    err = tokens_of(c->api->model.tokenizer, rendered, bytes, true, NEF_NO_TOKEN, NEF_NO_TOKEN, out_tokens, out_count);
    nef_wipe(rendered, bytes);
    free(rendered);
    return err == NEF_OK || nef_api_refuse_err(c, err);
}

/* ---- prompts ---- */

bool nef_api_prompt_tokens(struct call *c, const struct nef_api_request *r, uint32_t i, uint32_t **out_tokens,
                           uint32_t *out_count)
{
    const struct nef_api_model *o = &c->api->model;
    nef_err err;

    if (r->kind == NEF_API_CHAT)
        return chat_tokens(c, r, out_tokens, out_count);
    if (r->prompts[i].text != NULL) {
        err = tokens_of(o->tokenizer, r->prompts[i].text, r->prompts[i].bytes, true, nef_tokenizer_bos(o->tokenizer),
                        r->kind == NEF_API_EMBEDDING ? o->embedding_end : NEF_NO_TOKEN, out_tokens, out_count);
    } else {
        *out_count = r->prompts[i].count;
        *out_tokens = malloc(*out_count == 0 ? 1 : *out_count * sizeof(uint32_t));
        err = *out_tokens == NULL ? NEF_E_NOMEM : NEF_OK;
        if (err == NEF_OK && *out_count > 0)
            memcpy(*out_tokens, r->prompts[i].tokens, *out_count * sizeof(uint32_t));
    }
    return err == NEF_OK || nef_api_refuse_err(c, err);
}

bool nef_api_prompt_fits(struct call *c, const struct nef_api_request *r, uint32_t count)
{
    const uint32_t context = c->api->model.context;
    const char *param = r->kind == NEF_API_CHAT ? "messages" : r->kind == NEF_API_EMBEDDING ? "input" : "prompt";

    if (count == 0)
        return nef_api_fail(&c->error, 400, "invalid_value", param, "The prompt is empty.");
    if (count >= context)
        return nef_api_fail(&c->error, 400, "context_length_exceeded", param,
                            "This model's maximum context length is %u tokens, and the prompt has %u.", context, count);
    return true;
}

/* ---- /tokenize, /detokenize ---- */

/* Text of a token, or its bytes as numbers where it isn't whole UTF-8. */
static void piece_of(const struct nef_tokenizer *t, uint32_t token, struct nef_buf *out)
{
    size_t count = 0;
    const char *bytes = nef_token_bytes(t, token, &count);
    json_t *text = json_stringn(bytes, count); /* NULL unless it is UTF-8 */

    nef_buf_printf(out, "{\"id\":%u,\"piece\":", token);
    if (text != NULL) {
        nef_json_text_write(out, bytes, count);
    } else {
        for (size_t i = 0; i < count; i++)
            nef_buf_printf(out, i == 0 ? "[%u" : ",%u", (unsigned)(uint8_t)bytes[i]);
        nef_buf_text(out, count == 0 ? "[]" : "]");
    }
    json_decref(text);
    nef_buf_u8(out, '}');
}

bool nef_api_tokenize(struct call *c, const struct nef_api_request *r)
{
    const struct nef_tokenizer *t = c->api->model.tokenizer;
    uint32_t *tokens = NULL, count = 0;
    nef_err err = tokens_of(t, r->prompts[0].text, r->prompts[0].bytes, r->parse_special,
                            r->add_special ? nef_tokenizer_bos(t) : NEF_NO_TOKEN, NEF_NO_TOKEN, &tokens, &count);

    if (err != NEF_OK)
        return nef_api_refuse_err(c, err);
    nef_buf_text(&c->document, "{\"tokens\":");
    if (r->with_pieces) {
        nef_buf_u8(&c->document, '[');
        for (uint32_t i = 0; i < count; i++) {
            if (i > 0)
                nef_buf_u8(&c->document, ',');
            piece_of(t, tokens[i], &c->document);
        }
        nef_buf_u8(&c->document, ']');
    } else {
        nef_json_ids_write(&c->document, tokens, count);
    }
    nef_buf_u8(&c->document, '}');
    free(tokens);
    return true;
}

bool nef_api_detokenize(struct call *c, const struct nef_api_request *r)
{
    struct nef_buf text = {0};
    nef_err err = nef_api_text_of(c->api->model.tokenizer, r->prompts[0].tokens, r->prompts[0].count, &text);

    if (err == NEF_OK) {
        nef_buf_text(&c->document, "{\"content\":");
        nef_json_text_write(&c->document, (const char *)text.data, text.bytes);
        nef_buf_u8(&c->document, '}');
    }
    nef_buf_free(&text);
    return err == NEF_OK || nef_api_refuse_err(c, err);
}
