/* See grammar_fixture.h. */
#include "grammar_fixture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"

static const char *const pieces[] = {"\": \"",
                                     "\", \"",
                                     "\":",
                                     "\": ",
                                     ": ",
                                     ", ",
                                     "\"}",
                                     "\"},",
                                     "\"}]",
                                     "\"]",
                                     "}}",
                                     "}]",
                                     "]}",
                                     "}\n",
                                     "},",
                                     "], ",
                                     "{\"",
                                     "[{\"",
                                     "{}",
                                     "[]",
                                     "[[",
                                     "]]",
                                     "\"\"",
                                     ":\"",
                                     ",\"",
                                     ": [",
                                     ": {",
                                     "{\"a",
                                     "{\"name\"",
                                     "\"a\": ",
                                     "\"b\"",
                                     "1, ",
                                     "1}",
                                     "0.",
                                     ".5",
                                     "-1",
                                     "10",
                                     "12",
                                     "123",
                                     "99",
                                     "00",
                                     "e+",
                                     "e1",
                                     "true",
                                     "false",
                                     "null",
                                     "tru",
                                     "nul",
                                     "l,",
                                     "e}",
                                     " ",
                                     "  ",
                                     "\n",
                                     "\n\n",
                                     "\t",
                                     "a",
                                     "ab",
                                     "abc",
                                     "abcd",
                                     "the",
                                     " the",
                                     " a",
                                     "hello",
                                     " world",
                                     "name",
                                     "value",
                                     "left",
                                     "right",
                                     "red",
                                     "green",
                                     "blu",
                                     "\\n",
                                     "\\\"",
                                     "\\u",
                                     "\\u00",
                                     "\\u00e9",
                                     "\\ud83d",
                                     "\\ud83d\\ude00",
                                     "\\\\",
                                     "\\",
                                     "00e9",
                                     "de00",
                                     "x\\",
                                     "\\\"}",
                                     "\xc3\xa9",
                                     "\xc3\xa9t\xc3\xa9",
                                     "\xe6\x97\xa5",
                                     "\xe6\x97",
                                     "\x97\xa5",
                                     "\xf0\x9f\x98\x80",
                                     "\xf0\x9f",
                                     "\x98\x80",
                                     "\xa9x",
                                     "a\xc3",
                                     "\xed\xa0",
                                     "\xc0\x80",
                                     "\xff\xfe",
                                     "</",
                                     "</tool_call>",
                                     "<tool_call>",
                                     "</tool",
                                     "_call>",
                                     "tool_call",
                                     "<think>",
                                     "</think>",
                                     "</thi",
                                     "nk>",
                                     ">\n\n{",
                                     "<tool_call>\n{\"name\": \"",
                                     "\"arguments\": {",
                                     "}}\n</tool_call>",
                                     "\n</tool_call>\n<tool_call>\n",
                                     "2024-",
                                     "-02-",
                                     "29",
                                     "T12:",
                                     "Z\"",
                                     "@",
                                     ".org",
                                     "a@b",
                                     "-4",
                                     "f00d",
                                     "ABCD",
                                     "===",
                                     "==========",
                                     "aaaaaaaaaaaaaaaa",
                                     "                ",
                                     "a\"",
                                     "ab\"",
                                     "abc\", \"",
                                     "\xc3\xa9\"",
                                     "1,",
                                     "1]",
                                     "1\n",
                                     "-0",
                                     "-9",
                                     "9223372036854775807",
                                     "[1, 2",
                                     "{\"a\": {\"a\": {\"a\": ",
                                     "{\"a\": [{\"a\": [",
                                     "\": {\"",
                                     "a\": 1, \"",
                                     "/",
                                     "\\/",
                                     "\"name\": \"get",
                                     "_weather\"",
                                     "get_weather",
                                     "city",
                                     "Paris"};
#define PIECES (sizeof(pieces) / sizeof(pieces[0]))
#define COUNT  (256 + (uint32_t)PIECES + 3) /* bytes, pieces, one twice, one without text, the end */

static struct nef_grammar_token tokens[COUNT];
static char bytes_of[256];

struct nef_grammar_vocab *fixture_vocab(void)
{
    static struct nef_grammar_vocab *vocab;

    if (vocab != NULL)
        return vocab;
    for (uint32_t i = 0; i < 256; i++) {
        bytes_of[i] = (char)i;
        tokens[i] = (struct nef_grammar_token){&bytes_of[i], 1, false};
    }
    for (uint32_t i = 0; i < PIECES; i++)
        tokens[256 + i] = (struct nef_grammar_token){pieces[i], (uint32_t)strlen(pieces[i]), false};
    tokens[COUNT - 3] = (struct nef_grammar_token){"ab", 2, false};
    tokens[COUNT - 1].ends = true;
    NEF_ASSERT(nef_grammar_vocab_make(tokens, COUNT, &vocab) == NEF_OK);
    return vocab;
}

uint32_t fixture_count(void)
{
    return COUNT;
}

uint32_t fixture_end(void)
{
    return COUNT - 1;
}

const char *fixture_text(uint32_t token, size_t *out_bytes)
{
    *out_bytes = tokens[token].bytes;
    return tokens[token].text;
}

struct nef_grammar *fixture_grammar(const struct nef_grammar_options *options)
{
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;

    if (nef_grammar_compile(fixture_vocab(), options, why, &g) != NEF_OK)
        fprintf(stderr, "refused: %s\n", why);
    NEF_ASSERT(g != NULL);
    return g;
}

struct nef_grammar *fixture_schema(const char *schema)
{
    json_t *json = json_loads(schema, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    struct nef_grammar *g;

    if (json == NULL)
        fprintf(stderr, "not JSON: %s\n", schema);
    NEF_ASSERT(json != NULL);
    g = fixture_grammar(&(struct nef_grammar_options){.answer = NEF_GRAMMAR_SCHEMA, .schema = json});
    json_decref(json);
    return g;
}

const char *fixture_refused(const char *schema, nef_err expected)
{
    static char why[NEF_GRAMMAR_ERROR_MAX];
    json_t *json = json_loads(schema, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    struct nef_grammar_options o = {.answer = NEF_GRAMMAR_SCHEMA, .schema = json};
    struct nef_grammar *g = NULL;
    nef_err err;

    NEF_ASSERT(json != NULL);
    memset(why, 0, sizeof(why));
    err = nef_grammar_compile(fixture_vocab(), &o, why, &g);
    if (err != expected)
        fprintf(stderr, "%s: %s, \"%s\"\n", schema, nef_err_name(err), why);
    NEF_ASSERT(err == expected && g == NULL);
    json_decref(json);
    return why;
}

uint64_t fixture_random(uint64_t *seed) /* splitmix64 */
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* A token that TEXT goes on with, at random. */
static uint32_t cut(const char *text, size_t bytes, uint64_t *seed)
{
    uint32_t fits[COUNT], count = 0;

    if (seed == NULL)
        return (uint8_t)text[0];
    for (uint32_t i = 0; i < COUNT; i++)
        if (tokens[i].bytes > 0 && tokens[i].bytes <= bytes && memcmp(tokens[i].text, text, tokens[i].bytes) == 0)
            fits[count++] = i;
    return fits[fixture_random(seed) % count];
}

bool fixture_accepts(struct nef_grammar *g, const char *text, size_t bytes, uint64_t *seed)
{
    uint32_t words = nef_grammar_vocab_words(fixture_vocab()), *mask = malloc(words * sizeof(*mask));
    struct nef_matcher *m;
    bool good = true;

    NEF_ASSERT(mask != NULL && nef_matcher_open(g, &m) == NEF_OK);
    for (size_t at = 0; at < bytes && good;) {
        uint32_t token = cut(text + at, bytes - at, seed);
        bool allowed;

        NEF_ASSERT(nef_matcher_mask(m, mask) == NEF_OK);
        allowed = (mask[token / 32] >> token % 32 & 1) != 0;
        good = nef_matcher_accept(m, token) == NEF_OK;
        NEF_ASSERT(good == allowed);
        at += tokens[token].bytes;
    }
    good = good && nef_matcher_can_end(m) && nef_matcher_accept(m, COUNT - 1) == NEF_OK && nef_matcher_ended(m);
    nef_matcher_close(m);
    free(mask);
    return good;
}

/* One of the allowed tokens; after some steps mostly one of those that come to an end. */
static uint32_t choose(const uint32_t *mask, uint32_t step, uint64_t *seed)
{
    uint32_t allowed[COUNT], count = 0, best = COUNT;
    bool string = (mask['~' / 32] >> '~' % 32 & 1) != 0;
    const char *closing = string ? "\"" : "}]\">\n0123456789";

    for (uint32_t i = 0; i < COUNT; i++)
        if ((mask[i / 32] >> i % 32 & 1) != 0)
            allowed[count++] = i;
    NEF_ASSERT(count > 0); /* no dead ends */
    if (step > 20 && fixture_random(seed) % 32 < step) {
        if ((mask[(COUNT - 1) / 32] >> (COUNT - 1) % 32 & 1) != 0)
            return COUNT - 1;
        for (const char *c = closing; *c != '\0' && best == COUNT; c++)
            if ((mask[(uint8_t)*c / 32] >> (uint8_t)*c % 32 & 1) != 0)
                best = (uint8_t)*c;
        if (best != COUNT)
            return best;
    }
    return allowed[fixture_random(seed) % count];
}

size_t fixture_generate(struct nef_grammar *g, uint64_t *seed, uint32_t steps, char **out_text)
{
    uint32_t words = nef_grammar_vocab_words(fixture_vocab()), *mask = malloc(words * sizeof(*mask)), step = 0;
    size_t bytes = 0, room = 4096;
    char *text = malloc(room);
    struct nef_matcher *m;

    NEF_ASSERT(mask != NULL && text != NULL && nef_matcher_open(g, &m) == NEF_OK);
    while (!nef_matcher_ended(m)) {
        uint32_t token;

        NEF_ASSERT(step < steps && nef_matcher_mask(m, mask) == NEF_OK);
        token = choose(mask, step++, seed);
        NEF_ASSERT(nef_matcher_accept(m, token) == NEF_OK);
        if (bytes + tokens[token].bytes + 1 > room) {
            room *= 2;
            text = realloc(text, room);
            NEF_ASSERT(text != NULL);
        }
        if (tokens[token].bytes > 0)
            memcpy(text + bytes, tokens[token].text, tokens[token].bytes);
        bytes += tokens[token].bytes;
    }
    text[bytes] = '\0';
    nef_matcher_close(m);
    free(mask);
    *out_text = text;
    return bytes;
}
