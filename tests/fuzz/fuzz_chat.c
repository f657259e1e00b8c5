/* libFuzzer target: chats both ways. First byte: bit 0 clear, the rest is an answer for the parser (bits 1 and 2:
 * thinking, tools; bits 3 to 7: where it is cut); bit 0 set, the rest is JSON {"messages", "tools"} for the renderer
 * (bits 1 and 2: the family, 3 to 5: options).
 *
 * Asserted: the parser says the same however the text is cut, calls with an end have JSON arguments, text without tags
 * comes through whole. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "infer/text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct said { /* what was emitted, pieces of a kind joined */
    struct nef_buf text, arguments;
    int last;
    bool check;
};

static void emit(void *context, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    struct said *s = context;

    NEF_ASSERT(bytes > 0 || part == NEF_CHAT_TOOL_END);
    if (s->last != (int)part)
        nef_buf_printf(&s->text, "\x01%d %u ", (int)part, part >= NEF_CHAT_TOOL_BEGIN ? index : 0);
    s->last = (int)part;
    nef_buf_append(&s->text, text, bytes);
    if (part == NEF_CHAT_TOOL_BEGIN)
        nef_buf_reset(&s->arguments);
    if (part == NEF_CHAT_TOOL_ARGUMENTS)
        nef_buf_append(&s->arguments, text, bytes);
    if (part == NEF_CHAT_TOOL_END && s->check) {
        json_error_t why;
        json_t *value =
            json_loadb((const char *)s->arguments.data, s->arguments.bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);

        /* What jansson refuses besides malformed JSON: numbers out of range, halves of surrogates, bytes that are no
         * UTF-8, depth. */
        NEF_ASSERT(value != NULL || json_error_code(&why) == json_error_numeric_overflow ||
                   json_error_code(&why) == json_error_invalid_utf8 ||
                   json_error_code(&why) == json_error_stack_overflow || strstr(why.text, "Unicode") != NULL);
        json_decref(value);
    }
}

static void parse(struct said *s, const char *text, size_t bytes, size_t step, bool thinking, bool tools)
{
    struct nef_chat_parser *p = NULL;

    s->last = -1;
    NEF_ASSERT(nef_chat_parser_open(thinking, tools, emit, s, &p) == NEF_OK);
    for (size_t at = 0; at < bytes; at += step)
        NEF_ASSERT(nef_chat_parser_take(p, text + at, bytes - at < step ? bytes - at : step) == NEF_OK);
    NEF_ASSERT(nef_chat_parser_end(p) == NEF_OK);
    nef_chat_parser_close(p);
}

static void check_parser(const char *text, size_t bytes, uint8_t how)
{
    struct said whole = {.check = true}, cut = {0};
    bool thinking = (how & 2) != 0, tools = (how & 4) != 0;

    parse(&whole, text, bytes, bytes + 1, thinking, tools);
    parse(&cut, text, bytes, 1 + (how >> 3), thinking, tools);
    NEF_ASSERT(!whole.text.failed && !cut.text.failed);
    NEF_ASSERT(whole.text.bytes == cut.text.bytes);
    NEF_ASSERT(whole.text.bytes == 0 || memcmp(whole.text.data, cut.text.data, cut.text.bytes) == 0);
    if (!thinking && memchr(text, '<', bytes) == NULL && bytes > 0)
        NEF_ASSERT(whole.text.bytes == bytes + 5 && memcmp(whole.text.data + 5, text, bytes) == 0);
    nef_buf_free(&whole.text);
    nef_buf_free(&whole.arguments);
    nef_buf_free(&cut.text);
    nef_buf_free(&cut.arguments);
}

static void check_render(const char *text, size_t bytes, uint8_t how)
{
    json_t *ask = json_loadb(text, bytes, JSON_ALLOW_NUL, NULL);
    struct nef_chat_options options = {
        .family = (enum nef_chat_family)(how >> 1 & 3),
        .messages = json_object_get(ask, "messages"),
        .tools = json_object_get(ask, "tools"),
        .add_generation_prompt = (how & 8) != 0,
        .continue_final_message = (how & 16) != 0,
        .enable_thinking = (how & 32) != 0,
    };
    char why[NEF_CHAT_ERROR_MAX] = "", *prompt = NULL;
    size_t prompt_bytes = 0;

    if (nef_chat_render(&options, why, &prompt, &prompt_bytes) == NEF_OK)
        NEF_ASSERT(prompt != NULL && prompt[prompt_bytes] == '\0');
    else
        NEF_ASSERT(prompt == NULL && why[0] != '\0' && memchr(why, '\0', sizeof(why)) != NULL);
    free(prompt);
    json_decref(ask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    if ((data[0] & 1) != 0)
        check_render((const char *)data + 1, bytes - 1, data[0]);
    else
        check_parser((const char *)data + 1, bytes - 1, data[0]);
    return 0;
}
