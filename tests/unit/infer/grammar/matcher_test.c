/* Matchers: masks against accepting every token, and against all texts of small languages; rollback, depth, tool calls,
 * thinking, forced bytes, threads, and the whole vocabulary where it was made (tests/data/infer/vocab.sh). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "grammar_fixture.h"
#include "infer/gguf/gguf.h"

#define WORDS 32 /* more than the vocabulary has */

static bool bit(const uint32_t *mask, uint32_t token)
{
    return (mask[token / 32] >> token % 32 & 1) != 0;
}

static const char weather[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"x\",\"strict\":true,"
    "\"parameters\":{"
    "\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"unit\":{\"enum\":[\"C\",\"</tool_call>\"]}},"
    "\"required\":[\"city\"],\"additionalProperties\":false}}},{\"type\":\"function\",\"function\":{\"name\":\"get\"}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"any\",\"parameters\":{\"type\":\"object\",\"properties\":{\"p\":{"
    "\"pattern\":\"<\"}}}}}]";

static struct nef_grammar *with_tools(bool required, bool parallel, bool thinking, const char *function)
{
    json_t *tools = json_loads(weather, 0, NULL);
    struct nef_grammar *g = fixture_grammar(&(struct nef_grammar_options){
        .tools = tools, .tools_required = required, .parallel = parallel, .thinking = thinking, .function = function});

    json_decref(tools);
    return g;
}

static const char *const schemas[] = {
    "{\"type\":\"object\"}",
    "true",
    "{\"type\":\"string\",\"minLength\":3,\"maxLength\":9}",
    "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":2}}",
    "{\"type\":\"string\",\"pattern\":\"^[a-e]{2,7}( the)?$\"}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\",\"minimum\":-2.5,\"maximum\":100},\"name\":{"
    "\"type\":"
    "\"string\"}},\"required\":[\"a\"],\"additionalProperties\":{\"type\":\"string\",\"maxLength\":3}}",
    "{\"$ref\":\"#/$defs/n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/"
    "$defs/n\"},{"
    "\"type\":\"null\"},{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/n\"}}]}},\"required\":[\"a\"],"
    "\"additionalProperties\":false}}}",
    "{\"type\":\"object\",\"properties\":{\"p\":{\"pattern\":\"ab*c\"},\"deep\":{\"$ref\":\"#/$defs/"
    "d\"},\"more\":{\"$ref\":\"#/$defs/"
    "d\"}},\"required\":[\"p\",\"deep\"],\"$defs\":{\"d\":{\"type\":\"array\",\"minItems\":1,\"items\":{\"const\":1}}}"
    "}",
    ("{\"anyOf\":[{\"type\":\"string\",\"maxLength\":3},{\"type\":\"string\",\"pattern\":\"a$\"},{\"enum\":[\"hello "
     "world\"]}]}"),
};

/* The mask says of each token what accepting it says; and what accepting its bytes one by one says. */
static void check_mask(struct nef_matcher *m, uint32_t *mask)
{
    assert_int_equal(nef_matcher_mask(m, mask), NEF_OK);
    for (uint32_t token = 0; token < fixture_count(); token++) {
        nef_err err = nef_matcher_accept(m, token);
        size_t bytes, taken = 0;
        const char *text = fixture_text(token, &bytes);

        assert_int_equal(err, bit(mask, token) ? NEF_OK : NEF_E_INVALID);
        if (err == NEF_OK)
            assert_true(nef_matcher_rollback(m, 1));
        if (bytes < 2 || bytes > NEF_MATCHER_ROLLBACK_MAX)
            continue;
        while (taken < bytes && nef_matcher_accept(m, (uint8_t)text[taken]) == NEF_OK)
            taken++;
        if ((taken == bytes) != bit(mask, token))
            fail_msg("token \"%s\": %zu bytes are taken, the mask says %d", text, taken, bit(mask, token));
        assert_true(nef_matcher_rollback(m, (uint32_t)taken));
    }
}

static void walk_and_check(struct nef_grammar *g, uint64_t *seed, const char *start, int steps)
{
    struct nef_matcher *m;
    uint32_t mask[WORDS];

    assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
    for (; *start != '\0'; start++)
        assert_int_equal(nef_matcher_accept(m, (uint8_t)*start), NEF_OK);
    for (int step = 0; step < steps && !nef_matcher_ended(m); step++) {
        uint32_t token;

        check_mask(m, mask);
        do
            token = (uint32_t)(fixture_random(seed) % fixture_count());
        while (!bit(mask, token));
        assert_int_equal(nef_matcher_accept(m, token), NEF_OK);
    }
    nef_matcher_close(m);
}

static void masks_say_what_is_accepted(void **state)
{
    uint64_t seed = 11;

    (void)state;
    assert_true(nef_grammar_vocab_words(fixture_vocab()) <= WORDS);
    for (size_t i = 0; i < sizeof(schemas) / sizeof(schemas[0]); i++) {
        struct nef_grammar *g = fixture_schema(schemas[i]);

        for (int round = 0; round < 6; round++)
            walk_and_check(g, &seed, "", 40);
        nef_grammar_unref(g);
    }
    for (int i = 0; i < 8; i++) {
        struct nef_grammar *g = with_tools(i & 1, i & 2, i & 4, NULL);

        walk_and_check(g, &seed, i & 4 ? "<think>x</think>" : "", 40);
        walk_and_check(g, &seed, i & 4 ? "</think>\n\n<tool_call>\n" : "<tool_call>\n", 60);
        walk_and_check(g, &seed,
                       i & 4 ? "</think><tool_call>\n{\"name\":\"get_weather\",\"arguments\":{\"city\":\"</to"
                             : "<tool_call>\n{\"name\":\"any\",\"arguments\":{\"p\":\"",
                       40);
        nef_grammar_unref(g);
    }
}

/* Right below the limit of depth masks are made another way. */
static void masks_near_the_limit_of_depth(void **state)
{
    uint64_t seed = 12;

    (void)state;
    for (uint32_t depth = NEF_GRAMMAR_DEPTH_MAX - 6; depth < NEF_GRAMMAR_DEPTH_MAX; depth++) {
        struct nef_grammar *any = fixture_schema("true"), *nodes = fixture_schema(schemas[6]);
        char start[8 * NEF_GRAMMAR_DEPTH_MAX] = "";

        for (uint32_t i = 0; i < depth; i++)
            strcat(start, "[");
        walk_and_check(any, &seed, start, 30);
        start[0] = '\0';
        for (uint32_t i = 0; i + 1 < depth; i++)
            strcat(start, "{\"a\": ");
        walk_and_check(nodes, &seed, start, 30);
        nef_grammar_unref(any);
        nef_grammar_unref(nodes);
    }
}

static void depth_is_limited_and_never_a_dead_end(void **state)
{
    struct nef_grammar *g = fixture_schema("true"), *required = fixture_schema(schemas[6]);
    struct nef_matcher *m;
    uint32_t depth = 0;

    (void)state;
    assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
    while (nef_matcher_accept(m, '[') == NEF_OK)
        depth++;
    assert_in_range(depth, NEF_GRAMMAR_DEPTH_MAX, NEF_GRAMMAR_DEPTH_MAX + 1);
    for (; depth > 0; depth--)
        assert_int_equal(nef_matcher_accept(m, ']'), NEF_OK);
    assert_true(nef_matcher_can_end(m));
    nef_matcher_close(m);
    assert_int_equal(nef_matcher_open(required, &m), NEF_OK);
    for (const char *p = "{\"a\": "; nef_matcher_accept(m, (uint8_t)*p) == NEF_OK; p = p[1] == '\0' ? p - 5 : p + 1)
        depth++;
    for (const char *p = "null"; *p != '\0'; p++) /* the only way on, and it is open */
        assert_int_equal(nef_matcher_accept(m, (uint8_t)*p), NEF_OK);
    for (; !nef_matcher_can_end(m); depth--)
        assert_int_equal(nef_matcher_accept(m, '}'), NEF_OK);
    nef_matcher_close(m);
    nef_grammar_unref(g);
    nef_grammar_unref(required);
    (void)fixture_refused("{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
                          NEF_E_INVALID);
}

/* All texts of a language are known: a token is allowed exactly if one of them goes on with it. */
static void check_language(struct nef_grammar *g, const char *const *texts, size_t count, uint64_t *seed)
{
    for (int round = 0; round < 30; round++) {
        char so_far[256] = "";
        struct nef_matcher *m;

        assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
        while (!nef_matcher_ended(m)) {
            uint32_t mask[WORDS], allowed[1024], allowed_count = 0, token;
            size_t bytes, length = strlen(so_far);

            assert_int_equal(nef_matcher_mask(m, mask), NEF_OK);
            for (token = 0; token < fixture_count(); token++) {
                const char *text = fixture_text(token, &bytes);
                bool expected = false;

                for (size_t i = 0; i < count; i++)
                    expected |= token == fixture_end() ? strcmp(texts[i], so_far) == 0
                                                       : bytes > 0 && strlen(texts[i]) >= length + bytes &&
                                                             memcmp(texts[i], so_far, length) == 0 &&
                                                             memcmp(texts[i] + length, text, bytes) == 0;
                if (expected != bit(mask, token))
                    fail_msg("after %s token %u: %d", so_far, token, expected);
                if (expected)
                    allowed[allowed_count++] = token;
            }
            token = allowed[fixture_random(seed) % allowed_count];
            assert_int_equal(nef_matcher_accept(m, token), NEF_OK);
            if (token != fixture_end()) {
                const char *text = fixture_text(token, &bytes);

                assert_true(length + bytes < sizeof(so_far));
                memcpy(so_far + length, text, bytes);
                so_far[length + bytes] = '\0';
            }
        }
        nef_matcher_close(m);
    }
}

static void small_languages(void **state)
{
    static const char *const words[] = {"\"a\"",    "\"ab\"", "\"abc\"", "\"the\"", "12", "123",
                                        "\"\\\"\"", "true",   "null",    "[]",      "{}", "\"\xe6\x97\xa5\""};
    static const char *const pairs[] = {"{}",
                                        "{\"a\": 1}",
                                        "{\"a\":1}",
                                        "{\"b\": 2}",
                                        "{\"b\":2}",
                                        "{\"a\": 1, \"b\": 2}",
                                        "{\"a\":1,\"b\":2}",
                                        "{\"a\": 1,\"b\": 2}",
                                        "{\"a\":1, \"b\":2}",
                                        "{\"a\": 1, \"b\":2}",
                                        "{\"a\":1, \"b\": 2}",
                                        "{\"a\": 1,\"b\":2}",
                                        "{\"a\":1,\"b\": 2}"};
    char numbers[130][8];
    const char *texts[130];
    size_t count = 0;
    uint64_t seed = 13;
    struct nef_grammar *g =
        fixture_schema("{\"enum\":[\"a\",\"ab\",\"abc\",\"the\",12,123,\"\\\"\",true,null,[],{},\"\xe6\x97\xa5\"]}");

    (void)state;
    check_language(g, words, sizeof(words) / sizeof(words[0]), &seed);
    nef_grammar_unref(g);
    g = fixture_schema("{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}},"
                       "\"additionalProperties\":false}");
    check_language(g, pairs, sizeof(pairs) / sizeof(pairs[0]), &seed);
    nef_grammar_unref(g);
    for (int number = -12; number <= 105; number++)
        (void)snprintf(numbers[count++], sizeof(numbers[0]), "%d", number);
    (void)snprintf(numbers[count++], sizeof(numbers[0]), "-0");
    for (size_t i = 0; i < count; i++)
        texts[i] = numbers[i];
    g = fixture_schema("{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}");
    check_language(g, texts, count, &seed);
    nef_grammar_unref(g);
}

static void rollback_restores(void **state)
{
    uint64_t seed = 14;
    static uint32_t masks[1000][WORDS];

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct nef_grammar *g = fixture_schema(schemas[i]);
        struct nef_matcher *m;
        uint32_t at = 0;

        assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
        assert_false(nef_matcher_rollback(m, 1));
        assert_int_equal(nef_matcher_accept(m, i == 0 ? '{' : '['), NEF_OK);
        for (int round = 0; round < 3000 && at < 999; round++) {
            uint32_t back = (uint32_t)fixture_random(&seed) % 128, token, now[WORDS];
            const char *text;
            size_t bytes;

            assert_int_equal(nef_matcher_mask(m, masks[at]), NEF_OK);
            if (at > 40 && back < 2) {
                back = 1 + (uint32_t)fixture_random(&seed) % 40;
                assert_true(nef_matcher_rollback(m, back));
                at -= back;
                assert_int_equal(nef_matcher_mask(m, now), NEF_OK);
                assert_memory_equal(now, masks[at], sizeof(uint32_t) * nef_grammar_vocab_words(fixture_vocab()));
            }
            do { /* something that closes nothing */
                token = (uint32_t)(fixture_random(&seed) % (fixture_count() - 1));
                text = fixture_text(token, &bytes);
            } while (!bit(masks[at], token) || memchr(text, '}', bytes) != NULL || memchr(text, ']', bytes) != NULL);
            assert_int_equal(nef_matcher_accept(m, token), NEF_OK);
            at++;
        }
        assert_true(at > 2 * NEF_MATCHER_ROLLBACK_MAX);
        assert_false(nef_matcher_rollback(m, NEF_MATCHER_ROLLBACK_MAX + 1));
        nef_matcher_close(m);
        nef_grammar_unref(g);
    }
}

/* ---- tools ---- */

#define CALL(arguments) "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": " arguments "}\n</tool_call>"

static void expect(struct nef_grammar *g, const char *text, bool accepted)
{
    uint64_t seed = 15;

    for (int round = 0; round < 10; round++)
        if (fixture_accepts(g, text, strlen(text), round == 0 ? NULL : &seed) != accepted)
            fail_msg("%s: should be %s", text, accepted ? "taken" : "refused");
}

static void required_tools(void **state)
{
    struct nef_grammar *g = with_tools(true, false, false, NULL);

    (void)state;
    expect(g, CALL("{\"city\": \"Paris\"}"), true);
    expect(g, CALL("{\"city\":\"a\", \"unit\":\"C\"}"), true);
    expect(g, "<tool_call>\n{\"name\":\"get\",\"arguments\":{}}\n</tool_call>", true);
    expect(g, "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": 1}}\n</tool_call>", false);
    expect(g, "<tool_call>\n{\"name\": \"ge\", \"arguments\": {}}\n</tool_call>", false);
    expect(g, CALL("{}"), false);
    expect(g, CALL("{\"city\": \"Paris\"}") "\n" CALL("{\"city\": \"Paris\"}"), false);
    expect(g, CALL("{\"city\": \"Paris\"}") "\n", false);
    expect(g, "Hello", false);
    expect(g, "", false);
    /* never the tag itself inside: there the parser of answers would end the block */
    expect(g, CALL("{\"city\": \"</tool_call>\"}"), false);
    expect(g, CALL("{\"city\": \"</tool_call\"}"), true);
    expect(g, CALL("{\"city\": \"<</tool_<b>x</b></\"}"), true);
    expect(g, CALL("{\"city\": \"<\\/tool_call>\"}"), true);
    expect(g, CALL("{\"city\": \"\", \"unit\": \"</tool_call>\"}"), false);
    expect(g, CALL("{\"city\": \"\", \"unit\": \"\\u003c/tool_call>\"}"), true);
    expect(g, "<tool_call>\n{\"name\": \"any\", \"arguments\": {\"p\": \"\\u003c\"}}\n</tool_call>", true);
    expect(g, "<tool_call>\n{\"name\": \"any\", \"arguments\": {\"p\": \"</tool_call>\"}}\n</tool_call>", false);
    nef_grammar_unref(g);
    g = with_tools(true, true, false, "get_weather");
    expect(g, CALL("{\"city\": \"a\"}") "\n" CALL("{\"city\": \"b\"}") "\n" CALL("{\"city\": \"c\"}"), true);
    expect(g, "<tool_call>\n{\"name\":\"get\",\"arguments\":{}}\n</tool_call>", false);
    nef_grammar_unref(g);
}

static void lazy_tools(void **state)
{
    struct nef_grammar *g = with_tools(false, true, false, NULL);

    (void)state;
    expect(g, "", true);
    expect(g, "Any text\n, {\"with\" <tool_cal and \xff bytes", true);
    expect(g, "First.\n" CALL("{\"city\": \"Paris\"}"), true);
    expect(g, "<<tool_call>\n{\"name\":\"get\",\"arguments\":{}}\n</tool_call>", true);
    expect(g, "First.\n<tool_call>", false);
    expect(g, "First.\n<tool_call>\nx", false);
    expect(g, CALL("{\"city\": 1}"), false);
    expect(g, CALL("{\"city\": \"Paris\"}") "\n" CALL("{\"city\": \"Rome\"}"), true);
    nef_grammar_unref(g);
    g = with_tools(false, true, true, NULL);
    expect(g, "<think>\nI could <tool_call> it\n</think>\n\n" CALL("{\"city\": \"Paris\"}"), true);
    expect(g, "</think>x", true);
    expect(g, "still thinking", true);
    expect(g, "x</think><tool_call>y", false);
    nef_grammar_unref(g);
}

static void thinking_and_answers(void **state)
{
    json_t *tools = json_loads(weather, 0, NULL), *schema = json_loads("{\"type\":\"integer\"}", 0, NULL);
    struct nef_grammar_options o = {.answer = NEF_GRAMMAR_SCHEMA, .schema = schema, .thinking = true};
    struct nef_grammar *g = fixture_grammar(&o);

    (void)state;
    expect(g, "<think>\nhm \xff</thin</think>\n\n12", true);
    expect(g, "</think>12", true);
    expect(g, "</think>\n12", true);
    expect(g, "</think>\n\n\n12", false);
    expect(g, "12", false); /* still thinking */
    expect(g, "x</think>", false);
    nef_grammar_unref(g);
    o.thinking = false;
    o.tools = tools;
    o.parallel = true;
    g = fixture_grammar(&o); /* the answer or calls */
    expect(g, "12", true);
    expect(g, CALL("{\"city\": \"Paris\"}"), true);
    expect(g, "text", false);
    expect(g, "", false);
    nef_grammar_unref(g);
    o.answer = NEF_GRAMMAR_OBJECT;
    o.tools = NULL;
    g = fixture_grammar(&o);
    expect(g, "{\"a\": [1, null]}", true);
    expect(g, "{}", true);
    expect(g, "[]", false);
    nef_grammar_unref(g);
    json_decref(tools);
    json_decref(schema);
}

/* ---- the rest ---- */

static void forced_bytes(void **state)
{
    struct nef_grammar *g =
        fixture_schema("{\"type\":\"object\",\"properties\":{\"kind\":{\"enum\":[\"red\",\"rose\"]},\"n\":{\"type\":"
                       "\"null\"}},\"required\":[\"kind\",\"n\"],\"additionalProperties\":false}");
    struct nef_matcher *m;
    char text[64];

    (void)state;
    assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
    assert_int_equal(nef_matcher_forced(m, text, sizeof(text)), 8);
    assert_memory_equal(text, "{\"kind\":", 8);
    assert_int_equal(nef_matcher_forced(m, text, 3), 3);
    for (const char *p = "{\"kind\":\""; *p != '\0'; p++)
        assert_int_equal(nef_matcher_accept(m, (uint8_t)*p), NEF_OK);
    assert_int_equal(nef_matcher_forced(m, text, sizeof(text)), 1);
    for (const char *p = "red\",\"n\":null"; *p != '\0'; p++)
        assert_int_equal(nef_matcher_accept(m, (uint8_t)*p), NEF_OK);
    assert_int_equal(nef_matcher_forced(m, text, sizeof(text)), 1);
    assert_int_equal(nef_matcher_accept(m, '}'), NEF_OK);
    assert_int_equal(nef_matcher_forced(m, text, sizeof(text)), 0);
    assert_true(nef_matcher_can_end(m));
    assert_int_equal(nef_matcher_accept(m, fixture_end()), NEF_OK);
    assert_true(nef_matcher_ended(m));
    assert_int_equal(nef_matcher_accept(m, fixture_end()), NEF_E_INVALID);
    assert_int_equal(nef_matcher_forced(m, text, sizeof(text)), 0);
    assert_true(nef_matcher_rollback(m, 2));
    assert_false(nef_matcher_can_end(m));
    nef_matcher_close(m);
    nef_grammar_unref(g);
}

/* Many different stacks come and go: frames are collected, and nothing changes by it. */
static void long_texts(void **state)
{
    struct nef_grammar *g = fixture_schema(
        "{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"maxItems\":3000},"
        "\"maxItems\":3}");
    struct nef_matcher *m;

    (void)state;
    assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
    assert_int_equal(nef_matcher_accept(m, '['), NEF_OK);
    for (int outer = 0; outer < 3; outer++) {
        if (outer > 0)
            assert_int_equal(nef_matcher_accept(m, ','), NEF_OK);
        assert_int_equal(nef_matcher_accept(m, '['), NEF_OK);
        for (int i = 0; i < 3000; i++) {
            if (i > 0)
                assert_int_equal(nef_matcher_accept(m, ','), NEF_OK);
            for (const char *p = "\"x\""; *p != '\0'; p++)
                assert_int_equal(nef_matcher_accept(m, (uint8_t)*p), NEF_OK);
        }
        assert_int_equal(nef_matcher_accept(m, ','), NEF_E_INVALID); /* full */
        assert_int_equal(nef_matcher_accept(m, ']'), NEF_OK);
    }
    assert_int_equal(nef_matcher_accept(m, ']'), NEF_OK);
    assert_true(nef_matcher_can_end(m));
    nef_matcher_close(m);
    nef_grammar_unref(g);
}

static void *generate_some(void *context)
{
    uint64_t seed = 16;
    uint64_t sum = 0;

    for (int i = 0; i < 20; i++) {
        char *text;
        size_t bytes = fixture_generate(context, &seed, 20000, &text);

        for (size_t k = 0; k < bytes; k++)
            sum = sum * 31 + (uint8_t)text[k];
        free(text);
    }
    return (void *)(uintptr_t)sum;
}

static void threads_share_a_grammar(void **state)
{
    struct nef_grammar *g = fixture_schema(schemas[5]);
    pthread_t threads[4];
    void *sums[4];

    (void)state;
    (void)fixture_vocab();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, generate_some, g), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], &sums[i]), 0);
    for (int i = 1; i < 4; i++)
        assert_ptr_equal(sums[i], sums[0]);
    assert_true(nef_grammar_bytes(g) > 0);
    nef_grammar_unref(g);
}

/* Warm or cold, a grammar says the same. */
static void warming(void **state)
{
    struct nef_grammar *g = fixture_schema(schemas[8]);
    size_t before = nef_grammar_bytes(g);
    uint64_t seed = 17;

    (void)state;
    assert_int_equal(nef_grammar_warm(g, 1000), NEF_OK);
    assert_true(nef_grammar_bytes(g) > before);
    walk_and_check(g, &seed, "", 40);
    nef_grammar_unref(g);
}

static void vocabularies_are_checked(void **state)
{
    static char bytes[256];
    struct nef_grammar_token tokens[257] = {0};
    struct nef_grammar_vocab *v = NULL;

    (void)state;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        tokens[i] = (struct nef_grammar_token){&bytes[i], 1, false};
    }
    assert_int_equal(nef_grammar_vocab_make(tokens, 257, &v), NEF_E_UNSUPPORTED); /* nothing ends */
    tokens[256].ends = true;
    tokens['x'].bytes = 0;
    assert_int_equal(nef_grammar_vocab_make(tokens, 257, &v), NEF_E_UNSUPPORTED); /* no x */
    tokens['x'].bytes = 1;
    assert_int_equal(nef_grammar_vocab_make(tokens, 257, &v), NEF_OK);
    nef_grammar_vocab_close(v);
}

/* TEXT as the tokenizer cuts it, and at each step a part of all tokens, another one each time. */
static void check_text(const struct nef_tokenizer *t, struct nef_grammar_vocab *v, const struct nef_grammar_options *o,
                       const char *text)
{
    uint32_t *tokens, *mask = malloc(nef_grammar_vocab_words(v) * sizeof(*mask)), count;
    char why[NEF_GRAMMAR_ERROR_MAX];
    struct nef_grammar *g = NULL;
    struct nef_matcher *m = NULL;

    assert_non_null(mask);
    assert_int_equal(nef_grammar_compile(v, o, why, &g), NEF_OK);
    assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
    assert_int_equal(nef_tokenize(t, text, strlen(text), false, &tokens, &count), NEF_OK);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(nef_matcher_mask(m, mask), NEF_OK);
        assert_true(bit(mask, tokens[i]));
        for (uint32_t token = i * 37 % 64; token < nef_tokenizer_vocab(t); token += 64) {
            nef_err err = nef_matcher_accept(m, token);

            assert_int_equal(err, bit(mask, token) ? NEF_OK : NEF_E_INVALID);
            if (err == NEF_OK)
                assert_true(nef_matcher_rollback(m, 1));
        }
        assert_int_equal(nef_matcher_accept(m, tokens[i]), NEF_OK);
    }
    assert_true(nef_matcher_can_end(m));
    free(mask);
    free(tokens);
    nef_matcher_close(m);
    nef_grammar_unref(g);
}

static void check_schema(const struct nef_tokenizer *t, struct nef_grammar_vocab *v, const char *schema,
                         const char *text)
{
    json_t *json = json_loads(schema, 0, NULL);

    check_text(t, v, &(struct nef_grammar_options){.answer = NEF_GRAMMAR_SCHEMA, .schema = json}, text);
    json_decref(json);
}

static void whole_vocabulary(void **state)
{
    static const char object[] =
        "{\"name\": \"Ada \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80 \\\"x\\\", {<tool_call>}\", \"list\": [1, 2.5, "
        "-3e10, {\"deep\": [[], {}]}], \"long\": \"                  ================\"}";
    json_t *tools = json_loads(weather, 0, NULL);
    char why[NEF_GGUF_ERROR_MAX];
    struct nef_tokenizer *t = NULL;
    struct nef_grammar_vocab *v = NULL;
    struct nef_gguf *file = NULL;
    struct stat st;
    int fd = open(WHOLE_VOCABULARY, O_RDONLY | O_CLOEXEC);
    void *data;

    (void)state;
    if (fd < 0) {
        json_decref(tools);
        skip();
    }
    assert_int_equal(fstat(fd, &st), 0);
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(data != MAP_FAILED);
    assert_int_equal(nef_gguf_parse(data, (size_t)st.st_size, why, &file), NEF_OK);
    assert_int_equal(nef_tokenizer_open(file, why, &t), NEF_OK);
    assert_int_equal(nef_grammar_vocab_open(t, &v), NEF_OK);
    check_schema(t, v, schemas[0], object);
    check_schema(t, v, schemas[2], "\"abc \xc3\xa9\"");
    check_schema(t, v, schemas[6], "{\"a\": [{\"a\": null}, {\"a\": {\"a\": []}}]}");
    check_schema(t, v, schemas[7], "{\"p\": \"words, \xe6\x97\xa5 abbbc more words\", \"deep\": [1, 1]}");
    check_text(t, v, &(struct nef_grammar_options){.tools = tools, .thinking = true, .parallel = true},
               "<think>\nThe weather.\n</think>\n\nI look.\n" CALL("{\"city\": \"Paris </tool>\"}") "\n" CALL(
                   "{\"city\": \"\"}"));
    nef_grammar_vocab_close(v);
    nef_tokenizer_close(t);
    nef_gguf_free(file);
    json_decref(tools);
    (void)munmap(data, (size_t)st.st_size);
    (void)close(fd);
}

static int close_vocab(void **state)
{
    (void)state;
    nef_grammar_vocab_close(fixture_vocab());
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_say_what_is_accepted),
        cmocka_unit_test(masks_near_the_limit_of_depth),
        cmocka_unit_test(depth_is_limited_and_never_a_dead_end),
        cmocka_unit_test(small_languages),
        cmocka_unit_test(rollback_restores),
        cmocka_unit_test(required_tools),
        cmocka_unit_test(lazy_tools),
        cmocka_unit_test(thinking_and_answers),
        cmocka_unit_test(forced_bytes),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(threads_share_a_grammar),
        cmocka_unit_test(warming),
        cmocka_unit_test(vocabularies_are_checked),
        cmocka_unit_test(whole_vocabulary),
    };

    return cmocka_run_group_tests(tests, NULL, close_vocab);
}
