/* What is refused, with the words for the client; and schemas made to cost much, which end in time and memory that are
 * bounded, one way or the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

#include "base/buf.h"
#include "base/limits.h"
#include "grammar_fixture.h"

static void unknown_keywords_are_named(void **state)
{
    static const struct {
        const char *schema, *error;
        nef_err err;
    } cases[] = {
        {"{\"oneOf\":[{}]}", "unsupported keyword \"oneOf\" at #", NEF_E_UNSUPPORTED},
        {"{\"type\":\"object\",\"properties\":{\"a/b\":{\"allOf\":[]}}}",
         "unsupported keyword \"allOf\" at #/properties/a~1b", NEF_E_UNSUPPORTED},
        {"{\"type\":\"array\",\"items\":{\"uniqueItems\":true}}", "unsupported keyword \"uniqueItems\" at #/items",
         NEF_E_UNSUPPORTED},
        {"{\"anyOf\":[{},{\"not\":{}}]}", "unsupported keyword \"not\" at #/anyOf/1", NEF_E_UNSUPPORTED},
        {"{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"multipleOf\":2}}}",
         "unsupported keyword \"multipleOf\" at #/$defs/x", NEF_E_UNSUPPORTED},
        {"{\"type\":\"object\",\"additionalProperties\":{\"if\":{}}}",
         "unsupported keyword \"if\" at #/additionalProperties", NEF_E_UNSUPPORTED},
        {"{\"type\":\"object\",\"patternProperties\":{}}", "unsupported keyword \"patternProperties\" at #",
         NEF_E_UNSUPPORTED},
        {"{\"items\":{\"$id\":\"x\"}}", "unsupported keyword \"$id\" at #/items", NEF_E_UNSUPPORTED},
        {"{\"type\":\"string\",\"format\":\"ipv4\"}", "\"format\" \"ipv4\" is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"type\":\"string\",\"format\":\"date\",\"pattern\":\"a\"}",
         "\"pattern\" beside \"format\" is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"anyOf\":[{}],\"type\":\"string\"}", "\"type\" beside \"anyOf\" is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"$ref\":\"#\",\"minLength\":1}", "\"minLength\" beside \"$ref\" is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"enum\":[1],\"minimum\":0}", "\"minimum\" beside \"enum\" is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"enum\":[1],\"const\":1}", "\"const\" beside \"enum\" is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"items\":[{}]}", "\"items\" as an array is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"items\":false}", "\"false\" as a schema is not supported at #/items", NEF_E_UNSUPPORTED},
        {"{\"$ref\":\"other.json\"}", "\"$ref\" \"other.json\" leads to nothing inside this schema at #",
         NEF_E_UNSUPPORTED},
        {"{\"$ref\":\"#/x\"}", "\"$ref\" \"#/x\" leads to nothing inside this schema at #", NEF_E_INVALID},
        {"{\"type\":\"text\"}", "unknown \"type\" \"text\" at #", NEF_E_INVALID},
        {"{\"type\":[]}", "\"type\" names none at #", NEF_E_INVALID},
        {"{\"type\":1}", "unknown \"type\" \"\" at #", NEF_E_INVALID},
        {"{\"enum\":[]}", "\"enum\" is not an array of values at #", NEF_E_INVALID},
        {"{\"anyOf\":[]}", "\"anyOf\" is not an array of schemas at #", NEF_E_INVALID},
        {"{\"properties\":[]}", "\"properties\" is not an object at #", NEF_E_INVALID},
        {"{\"properties\":{\"a\":1}}", "no schema at #/properties/a", NEF_E_INVALID},
        {"{\"properties\":{},\"required\":[\"a\"]}", "\"required\" names \"a\", which is not in \"properties\" at #",
         NEF_E_INVALID},
        {"{\"required\":[1]}", "\"required\" holds what is no name at #", NEF_E_INVALID},
        {"{\"minItems\":3,\"maxItems\":2}", "\"minItems\" is greater than \"maxItems\" at #", NEF_E_INVALID},
        {"{\"maxItems\":5000}", "\"maxItems\" above 4096 is not supported at #", NEF_E_LIMIT},
        {"{\"minLength\":-1}", "\"minLength\" is no count at #", NEF_E_INVALID},
        {"{\"minLength\":2,\"maxLength\":1}", "\"minLength\" is greater than \"maxLength\" at #", NEF_E_INVALID},
        {"{\"minimum\":\"1\"}", "\"minimum\" is not a number at #", NEF_E_INVALID},
        {"{\"type\":\"integer\",\"minimum\":1.2,\"maximum\":1.8}",
         "no integer is between \"minimum\" and \"maximum\" at #", NEF_E_INVALID},
        {"{\"type\":\"number\",\"minimum\":1e-30}",
         "a bound with more than 24 digits after the point is not supported at #", NEF_E_UNSUPPORTED},
        {"{\"type\":\"number\",\"minimum\":2,\"maximum\":1}",
         "nothing satisfies the schema, or only what is nested more than 64 deep", NEF_E_INVALID},
        {"{\"type\":\"string\",\"enum\":[1,2]}",
         "nothing satisfies the schema, or only what is nested more than 64 deep", NEF_E_INVALID},
        {"{\"$ref\":\"#\"}", "nothing satisfies the schema, or only what is nested more than 64 deep", NEF_E_INVALID},
        {"{\"pattern\":\"(?=a)\"}", "\"pattern\": lookahead, lookbehind and flags are not supported at #",
         NEF_E_UNSUPPORTED},
        {"{\"pattern\":\"(?<!a)b\"}", "\"pattern\": lookahead, lookbehind and flags are not supported at #",
         NEF_E_UNSUPPORTED},
        {"{\"pattern\":\"(a)\\\\1\"}", "\"pattern\": back references are not supported at #", NEF_E_UNSUPPORTED},
        {"{\"pattern\":\"\\\\bx\"}", "\"pattern\": \\b and \\B are not supported at #", NEF_E_UNSUPPORTED},
        {"{\"pattern\":\"\\\\p{L}\"}", "\"pattern\": \\p and \\P are not supported at #", NEF_E_UNSUPPORTED},
        {"{\"pattern\":\"\\\\q\"}", "\"pattern\": an unknown letter after a backslash at #", NEF_E_UNSUPPORTED},
        {"{\"pattern\":\"(a\"}", "\"pattern\": \"(\" without \")\" at #", NEF_E_INVALID},
        {"{\"pattern\":\"a)\"}", "\"pattern\": \")\" without \"(\" at #", NEF_E_INVALID},
        {"{\"pattern\":\"[a\"}", "\"pattern\": \"[\" without \"]\" at #", NEF_E_INVALID},
        {"{\"pattern\":\"[b-a]\"}", "\"pattern\": a range that is none at #", NEF_E_INVALID},
        {"{\"pattern\":\"*a\"}", "\"pattern\": nothing to repeat at #", NEF_E_INVALID},
        {"{\"pattern\":\"a**\"}", "\"pattern\": nothing to repeat at #", NEF_E_INVALID},
        {"{\"pattern\":\"a{3,2}\"}", "\"pattern\": {n,m} with n above m at #", NEF_E_INVALID},
        {"{\"pattern\":\"a\\\\\"}", "\"pattern\": ends with a backslash at #", NEF_E_INVALID},
        {"{\"pattern\":\"\\\\u00\"}", "\"pattern\": a \\x or \\u without its digits at #", NEF_E_INVALID},
        {"{\"pattern\":1}", "\"pattern\" is not a string at #", NEF_E_INVALID},
        {"[]", "no schema at #", NEF_E_INVALID},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(fixture_refused(cases[i].schema, cases[i].err), cases[i].error);
}

static void options_are_checked(void **state)
{
    static const struct {
        const char *tools, *function, *error;
    } cases[] = {
        {"[]", NULL, "tools: not an array of tools"},
        {"[{\"type\":\"function\",\"function\":{}}]", NULL, "tools[0].function.name: missing"},
        {"[{\"type\":\"function\",\"function\":{\"name\":\"a\"}}]", "b",
         "tool_choice: no function of this name is in tools"},
        {"[{\"type\":\"function\",\"function\":{\"name\":\"a\"}},{\"type\":\"function\",\"function\":{\"name\":\"b\","
         "\"parameters\":{"
         "\"properties\":{\"x\":{\"oneOf\":[]}}}}}]",
         NULL, "tools[1].function.parameters: unsupported keyword \"oneOf\" at #/properties/x"},
    };
    char why[NEF_GRAMMAR_ERROR_MAX];
    struct nef_grammar *g = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *tools = json_loads(cases[i].tools, 0, NULL);
        struct nef_grammar_options o = {.tools = tools, .function = cases[i].function, .tools_required = true};

        assert_int_not_equal(nef_grammar_compile(fixture_vocab(), &o, why, &g), NEF_OK);
        assert_string_equal(why, cases[i].error);
        json_decref(tools);
    }
    assert_int_equal(nef_grammar_compile(fixture_vocab(), &(struct nef_grammar_options){0}, why, &g), NEF_E_INVALID);
}

/* ---- schemas made to cost much ---- */

static double cpu_seconds(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* It compiles or it doesn't, but soon; what compiles can be used. */
static void bounded(const char *name, const char *schema)
{
    json_t *json = json_loads(schema, JSON_DECODE_ANY, NULL);
    struct nef_grammar_options o = {.answer = NEF_GRAMMAR_SCHEMA, .schema = json};
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;
    double begin = cpu_seconds(), spent;
    nef_err err;

    assert_non_null(json);
    err = nef_grammar_compile(fixture_vocab(), &o, why, &g);
    spent = cpu_seconds() - begin;
    print_message("%-24s %5.0f ms, %s %s\n", name, spent * 1e3, nef_err_name(err), why);
    assert_true(err == NEF_OK || err == NEF_E_LIMIT || err == NEF_E_INVALID);
    assert_true(spent < 10); /* half a second; far slower under sanitizers on a busy machine */
    if (err == NEF_OK) {
        struct nef_matcher *m;
        uint32_t mask[64];

        assert_true(nef_grammar_bytes(g) < (64u << 20));
        assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
        assert_int_equal(nef_matcher_mask(m, mask), NEF_OK);
        nef_matcher_close(m);
    }
    nef_grammar_unref(g);
    json_decref(json);
}

static void patterns_that_explode(void **state)
{
    (void)state;
    bounded("2^30 states", "{\"pattern\":\"^(a|b)*a(a|b){30}$\"}");
    bounded("repeats in repeats", "{\"pattern\":\"((((a{100}){100}){100}){100})\"}");
    bounded("empty repeats", "{\"pattern\":\"((((a*)*)*)*(b?){1000})*c\"}");
    bounded("long counted", "{\"pattern\":\"^.{4096}$\",\"maxLength\":4000000000}");
    bounded("lengths", "{\"pattern\":\"^(a|.)*$\",\"minLength\":1000000,\"maxLength\":2000000}");
    bounded("lengths of a search", "{\"pattern\":\"a.*b.*c\",\"maxLength\":4000}");
    bounded("alternatives", "{\"pattern\":\"(a|ab|abc|abcd|b|bc|bcd|c|cd|d){0,300}x\"}");
    bounded("search with counts", "{\"pattern\":\"a.{0,300}b.{0,300}c\"}");
}

static void repeat(struct nef_buf *b, const char *text, int count)
{
    for (int i = 0; i < count; i++)
        nef_buf_text(b, text);
}

static void schemas_that_explode(void **state)
{
    struct nef_buf b = {0};

    (void)state;
    repeat(&b, "{\"items\":", 200); /* deep, but not too deep to read */
    nef_buf_text(&b, "{}");
    repeat(&b, "}", 200);
    bounded("200 deep", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    repeat(&b, "{\"items\":", 1000);
    nef_buf_text(&b, "{}");
    repeat(&b, "}", 1000);
    bounded("1000 deep", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < 5000; i++)
        nef_buf_printf(&b, "%s\"property number %d\":{\"type\":\"string\"}", i > 0 ? "," : "", i);
    nef_buf_text(&b, "}}");
    bounded("5000 optional", nef_buf_cstr(&b));
    b.bytes -= 1;
    nef_buf_text(&b, ",\"additionalProperties\":true}");
    bounded("and open", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"$ref\":\"#/$defs/0\",\"$defs\":{"); /* each twice in the one before: 2^60 if it were inlined */
    for (int i = 0; i < 60; i++)
        nef_buf_printf(&b, "\"%d\":{\"properties\":{\"a\":{\"$ref\":\"#/$defs/%d\"},\"b\":{\"$ref\":\"#/$defs/%d\"}}},",
                       i, i + 1, i + 1);
    nef_buf_text(&b, "\"60\":{}}}");
    bounded("2^60 inlined", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"$ref\":\"#/$defs/0\",\"$defs\":{"); /* all refer to all */
    for (int i = 0; i < 40; i++) {
        nef_buf_printf(&b, "%s\"%d\":{\"type\":\"object\",\"properties\":{", i > 0 ? "," : "", i);
        for (int k = 0; k < 40; k++)
            nef_buf_printf(&b, "%s\"p%d\":{\"anyOf\":[{\"$ref\":\"#/$defs/%d\"},{\"$ref\":\"#/$defs/%d\"}]}",
                           k > 0 ? "," : "", k, k, (k * 7 + i) % 40);
        nef_buf_text(&b, "}}");
    }
    nef_buf_text(&b, "}}");
    bounded("all refer to all", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"anyOf\":[");
    for (int i = 0; i < 3000; i++)
        nef_buf_printf(&b, "%s{\"const\":%d}", i > 0 ? "," : "", i);
    nef_buf_text(&b, "]}");
    bounded("3000 alternatives", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"enum\":[");
    for (int i = 0; i < 5000; i++)
        nef_buf_printf(&b, "%s\"some value %d\"", i > 0 ? "," : "", i * 7919);
    nef_buf_text(&b, "]}");
    bounded("5000 values", nef_buf_cstr(&b));
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"$ref\":\"#/$defs/9999\",\"$defs\":{\"0\":{}");
    for (int i = 1; i < 10000; i++)
        nef_buf_printf(&b, ",\"%d\":{\"$ref\":\"#/$defs/%d\"}", i, i - 1);
    nef_buf_text(&b, "}}");
    bounded("10000 references", nef_buf_cstr(&b));
    bounded("large counts", "{\"type\":\"array\",\"minItems\":4096,\"maxItems\":4096,\"items\":{\"type\":\"array\","
                            "\"minItems\":4096,\"maxItems\":4096,"
                            "\"items\":{\"type\":\"number\",\"minimum\":0.001,\"maximum\":99.5}}}");
    bounded("longest strings", "{\"type\":\"string\",\"minLength\":4294967290,\"maxLength\":4294967293}");
    nef_buf_free(&b);
}

/* A text that can be read in 2^n ways: configurations are limited, and what comes out is valid. */
static void ambiguity_is_bounded(void **state)
{
    static const char schema[] = "{\"$ref\":\"#/$defs/a\",\"$defs\":{"
                                 "\"a\":{\"type\":\"object\",\"properties\":{\"x\":{\"anyOf\":[{\"$ref\":\"#/$defs/"
                                 "a\"},{\"$ref\":\"#/$defs/b\"},{\"type\":\"null\"}]},\"p\":{\"const\":1}},"
                                 "\"required\":[\"x\",\"p\"],\"additionalProperties\":false},"
                                 "\"b\":{\"type\":\"object\",\"properties\":{\"x\":{\"anyOf\":[{\"$ref\":\"#/$defs/"
                                 "b\"},{\"$ref\":\"#/$defs/c\"},{\"type\":\"null\"}]},\"q\":{\"const\":1}},"
                                 "\"required\":[\"x\",\"q\"],\"additionalProperties\":false},"
                                 "\"c\":{\"type\":\"object\",\"properties\":{\"x\":{\"anyOf\":[{\"$ref\":\"#/$defs/"
                                 "a\"},{\"$ref\":\"#/$defs/c\"},{\"type\":\"null\"}]},\"r\":{\"const\":1}},"
                                 "\"required\":[\"x\",\"r\"],\"additionalProperties\":false}}}";
    struct nef_grammar *g = fixture_schema(schema);
    json_t *json = json_loads(schema, 0, NULL);
    struct nef_matcher *m;
    double begin = cpu_seconds();
    uint32_t mask[64];
    uint64_t seed = 21;

    (void)state;
    assert_int_equal(nef_matcher_open(g, &m), NEF_OK);
    for (int i = 0; i < 40; i++)
        for (const char *p = "{\"x\": "; *p != '\0'; p++) {
            assert_int_equal(nef_matcher_mask(m, mask), NEF_OK);
            assert_int_equal(nef_matcher_accept(m, (uint8_t)*p), NEF_OK);
        }
    nef_matcher_close(m);
    assert_true(cpu_seconds() - begin < 10);
    for (int i = 0; i < 50; i++) {
        char *text;
        size_t bytes = fixture_generate(g, &seed, 20000, &text);
        json_t *value = json_loadb(text, bytes, 0, NULL);

        assert_non_null(value);
        assert_true(valid_value(value, json, json));
        json_decref(value);
        free(text);
    }
    json_decref(json);
    nef_grammar_unref(g);
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
        cmocka_unit_test(unknown_keywords_are_named), cmocka_unit_test(options_are_checked),
        cmocka_unit_test(patterns_that_explode),      cmocka_unit_test(schemas_that_explode),
        cmocka_unit_test(ambiguity_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, close_vocab);
}
