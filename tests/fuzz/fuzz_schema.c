/* libFuzzer target: grammars. First byte: bit 0 clear, what follows up to a 0xff is a JSON Schema; set, an array of
 * tools (bits 1 to 3: required, parallel, thinking). The bytes behind the 0xff choose tokens.
 *
 * Asserted: a refusal has words; a grammar never leads to where no token fits; a mask says of a token what accepting it
 * says; rolling back restores the mask; an answer that ended is JSON. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "infer/grammar/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char *const pieces[] = {"\": \"",
                                     "\", \"",
                                     "\"}",
                                     "}}",
                                     "{\"",
                                     "[{",
                                     "]]",
                                     ", ",
                                     ": ",
                                     "12",
                                     "0.",
                                     "-1",
                                     "1e",
                                     "true",
                                     "null",
                                     "ab",
                                     "a",
                                     "the",
                                     "\\u",
                                     "\\ud83d",
                                     "00e9",
                                     "\xc3\xa9",
                                     "\xf0\x9f",
                                     "</",
                                     "</tool_call>",
                                     "<tool_call>\n{\"name\": \"",
                                     "</think>",
                                     "tool_call>",
                                     "\\\\\""};
#define PIECES (sizeof(pieces) / sizeof(pieces[0]))
#define COUNT  (256 + (uint32_t)PIECES + 1) /* the last one ends */
#define WORDS  ((COUNT + 31) / 32)

static struct nef_grammar_token tokens[COUNT];
static char all_bytes[256];

static struct nef_grammar_vocab *vocabulary(void)
{
    static struct nef_grammar_vocab *v;

    if (v != NULL)
        return v;
    for (uint32_t i = 0; i < 256; i++) {
        all_bytes[i] = (char)i;
        tokens[i] = (struct nef_grammar_token){&all_bytes[i], 1, false};
    }
    for (uint32_t i = 0; i < PIECES; i++)
        tokens[256 + i] = (struct nef_grammar_token){pieces[i], (uint32_t)strlen(pieces[i]), false};
    tokens[COUNT - 1].ends = true;
    NEF_ASSERT(nef_grammar_vocab_make(tokens, COUNT, &v) == NEF_OK);
    return v;
}

static bool bit(const uint32_t *mask, uint32_t token)
{
    return (mask[token / 32] >> token % 32 & 1) != 0;
}

/* The WISH-th of the allowed tokens. */
static uint32_t choose(const uint32_t *mask, uint32_t wish)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < COUNT; i++)
        count += bit(mask, i);
    NEF_ASSERT(count > 0);
    wish %= count;
    for (uint32_t i = 0;; i++)
        if (bit(mask, i) && wish-- == 0)
            return i;
}

static void check_ended(const struct nef_buf *text)
{
    json_t *value = json_loadb((const char *)text->data, text->bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

    NEF_ASSERT(value != NULL);
    json_decref(value);
}

static void walk(struct nef_grammar *g, const uint8_t *wishes, size_t count, bool json)
{
    struct nef_buf text = {0};
    struct nef_matcher *m = NULL;
    uint32_t mask[WORDS], again[WORDS];

    NEF_ASSERT(nef_matcher_open(g, &m) == NEF_OK);
    for (size_t i = 0; i < count && !nef_matcher_ended(m); i++) {
        uint32_t token, other = (uint32_t)(wishes[i] * 7919u + i) % COUNT;
        nef_err err;

        NEF_ASSERT(nef_matcher_mask(m, mask) == NEF_OK);
        token = choose(mask, wishes[i]);
        err = nef_matcher_accept(m, other);
        NEF_ASSERT((err == NEF_OK) == bit(mask, other));
        if (err == NEF_OK) {
            NEF_ASSERT(nef_matcher_rollback(m, 1) && nef_matcher_mask(m, again) == NEF_OK);
            NEF_ASSERT(memcmp(mask, again, sizeof(mask)) == 0);
        }
        NEF_ASSERT(nef_matcher_accept(m, token) == NEF_OK);
        nef_buf_append(&text, tokens[token].text, tokens[token].bytes);
    }
    if (json && nef_matcher_ended(m))
        check_ended(&text);
    nef_matcher_close(m);
    nef_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const uint8_t *end = bytes > 0 ? memchr(data + 1, 0xff, bytes - 1) : NULL;
    size_t json_bytes = end != NULL ? (size_t)(end - data) - 1 : bytes - 1;
    struct nef_grammar_options o = {0};
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;
    json_t *json;

    if (bytes == 0)
        return 0;
    json = json_loadb((const char *)data + 1, json_bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (json == NULL)
        return 0;
    o.thinking = (data[0] & 8) != 0;
    o.parallel = (data[0] & 4) != 0;
    o.tools_required = (data[0] & 2) != 0;
    if ((data[0] & 1) != 0) {
        o.tools = json;
    } else {
        o.answer = NEF_GRAMMAR_SCHEMA;
        o.schema = json;
    }
    if (nef_grammar_compile(vocabulary(), &o, why, &g) != NEF_OK)
        NEF_ASSERT(g == NULL && why[0] != '\0' && memchr(why, '\0', sizeof(why)) != NULL);
    else
        walk(g, end != NULL ? end + 1 : data, end != NULL ? bytes - json_bytes - 2 : bytes,
             o.schema != NULL && !o.thinking);
    nef_grammar_unref(g);
    json_decref(json);
    return 0;
}
