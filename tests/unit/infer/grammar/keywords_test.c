/* Every keyword: documents that must be taken, in one byte at a time and cut into tokens at random; documents that must
 * not be; and random texts of each grammar, which an independent validator must find valid. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>

#include "grammar_fixture.h"

static const struct {
    const char *schema;
    const char *valid[14], *invalid[18];
} cases[] = {
    {"{\"type\":\"boolean\"}", {"true", "false"}, {"1", "tru", "True", "\"true\"", " true", "true "}},
    {"{\"type\":\"null\"}", {"null"}, {"nul", "0", "NULL"}},
    {"{\"type\":\"string\"}",
     {"\"\"", "\"a\"", "\"\\n\\\"\\\\\\/\\b\\f\\r\\t\"", "\"\xc3\xa9\"", "\"\xed\x9f\xbf\xee\x80\x80\"", "\"\\u00e9\"",
      "\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"", "\"\\ud7FF\\uE000\"", "\"\x7f\"", "\"</tool_call>\"",
      "\"\\u0001\\u0010\""},
     {"\"", "\"a", "\"\n\"", "\"\\x\"", "\"\\u12\"", "\"\\ud83d\"", "\"\\ud83d\\u0041\"", "\"\\ude00\"", "\"\xff\"",
      "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xc3\"", "\"\xf5\x80\x80\x80\"", "a", "\"\"\"", "\"\xe0\x80\x80\"",
      "\"\\u0000\"", "\"\xf4\x90\x80\x80\""}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":4}",
     {"\"ab\"", "\"abcd\"", "\"\xc3\xa9\xc3\xa9\"", "\"\\n\\n\\n\\n\"", "\"\\ud83d\\ude00a\"",
      "\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\"", "\"\\u00e9a\\\\\""},
     {"\"\"", "\"a\"", "\"abcde\"", "\"\xc3\xa9\"", "\"\\ud83d\\ude00\"", "\"\\n\\n\\n\\n\\n\"", "\"abcd\xc3\xa9\""}},
    {"{\"type\":\"string\",\"minLength\":3}", {"\"abc\"", "\"abcdefghijklmnopqrstuvwxyz\""}, {"\"ab\"", "\"\""}},
    {"{\"type\":\"string\",\"maxLength\":0}", {"\"\""}, {"\"a\"", "\"\\n\""}},
    {"{\"type\":\"string\",\"maxLength\":20}", {"\"aaaaaaaaaaaaaaaaaaaa\""}, {"\"aaaaaaaaaaaaaaaaaaaaa\""}},
    {"{\"type\":\"integer\"}",
     {"0", "-1", "12", "-0", "9223372036854775807", "-9223372036854775808"},
     {"01", "1.0", "1e1", "9223372036854775808", "-9223372036854775809", "+1", "-", "", "10000000000000000000"}},
    {"{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}",
     {"-12", "-9", "0", "7", "99", "100", "105", "-0"},
     {"-13", "106", "-20", "110", "1000", "-100", "00"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":5,\"exclusiveMaximum\":7.5}", {"6", "7"}, {"5", "8", "-6", "6.0"}},
    {"{\"type\":\"integer\",\"maximum\":-3}",
     {"-3", "-10", "-9223372036854775808"},
     {"-2", "0", "3", "-0", "-9223372036854775809"}},
    {"{\"type\":\"number\"}",
     {"0", "-0", "1.5", "-2.25e10", "1e5", "1E+05", "123456789012345678", "0.000000000000000000000001", "1e279",
      "5e-324"},
     {"01", "1.", ".5", "1e", "1e+", "1e280", "--1", "1e1000", "1.0000000000000000000000001", "1234567890123456789"}},
    {"{\"type\":\"number\",\"minimum\":0.5,\"maximum\":2.25}",
     {"0.5", "0.50", "1", "2.25", "2.2499", "0.51", "2", "2.250"},
     {"0.49", "2.26", "0", "3", "2.2500001", "-1", "0.4999", "1e0", "-0.6"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0.5,\"exclusiveMaximum\":2.25}",
     {"0.500001", "2.2499", "1.0", "2"},
     {"0.5", "0.500", "2.25", "2.250", "0", "2.3"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":-10.5,\"maximum\":-0.001}",
     {"-10.4", "-1", "-0.001", "-0.0010", "-10"},
     {"-10.5", "-10.50", "-11", "0", "-0.0009", "1", "-0"}},
    {"{\"type\":\"number\",\"minimum\":0}", {"0", "1e5", "0.0", "12.5"}, {"-1", "-0.0", "-1e5"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0}", {"0.1", "1", "0.00001"}, {"0", "0.0", "0.000", "-1"}},
    {"{\"type\":\"number\",\"minimum\":1e-7,\"maximum\":1e20}",
     {"0.0000001", "1", "999999999999999999"},
     {"0.00000009", "0", "-1"}},
    {"{\"enum\":[\"red\",\"green\",1,2.5,null,true,[1,\"a\"],{\"k\":[]},\"q\\\"\\n\",\"\xc3\xa9\",3.0]}",
     {"\"red\"", "\"green\"", "1", "2.5", "null", "true", "[1, \"a\"]", "[1,\"a\"]", "{\"k\": []}", "\"q\\\"\\n\"",
      "\"\xc3\xa9\"", "3", "3.0"},
     {"\"re\"", "\"redd\"", "2", "2.50", "[1]", "{}", "\"blue\"", "false", "3.00"}},
    {"{\"type\":\"string\",\"enum\":[\"a\",1,\"ab\"]}", {"\"a\"", "\"ab\""}, {"1", "\"\"", "\"abc\""}},
    {"{\"const\":{\"a\":1,\"b\":[2]}}",
     {"{\"a\": 1, \"b\": [2]}", "{\"a\":1,\"b\":[2]}"},
     {"{\"b\": [2], \"a\": 1}", "{\"a\": 1}"}},
    {"{\"type\":[\"string\",\"null\"],\"maxLength\":2}", {"null", "\"ab\""}, {"\"abc\"", "1"}},
    {"{\"anyOf\":[{\"type\":\"integer\",\"maximum\":3},{\"type\":\"string\"},{\"anyOf\":[{\"const\":10}]}]}",
     {"3", "-5", "\"x\"", "10"},
     {"4", "11", "null"}},
    {"{\"anyOf\":[{\"type\":\"string\",\"maxLength\":2},{\"type\":\"string\",\"minLength\":5}]}",
     {"\"\"", "\"ab\"", "\"abcde\"", "\"abcdef\""},
     {"\"abc\"", "\"abcd\""}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},\"c\":{\"type\":"
     "\"null\"}},"
     "\"required\":[\"a\",\"c\"],\"additionalProperties\":false}",
     {"{\"a\": 1, \"b\": \"x\", \"c\": null}", "{\"a\":1,\"c\":null}", "{\"a\": 1,\"c\": null}"},
     {"{\"a\": 1}", "{\"c\": null, \"a\": 1}", "{}", "{\"a\": 1, \"c\": null,}", "{\"a\": 1, \"c\": null, \"d\": 1}",
      "{\"a\":  1, \"c\": null}", "{ \"a\": 1, \"c\": null}", "{\"a\" : 1, \"c\": null}",
      "{\"a\": 1, \"a\": 1, \"c\": null}", "{\"a\": 1, \"c\": null} ", "{\n\"a\": 1, \"c\": null}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"integer\"}},"
     "\"additionalProperties\":false}",
     {"{}", "{\"a\": 1}", "{\"b\": 1}", "{\"a\": 1, \"b\": 2}"},
     {"{\"b\": 1, \"a\": 1}", "{, \"a\": 1}", "{\"c\": 1}", "{\"a\": 1 }"}},
    {"{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}", {"{}"}, {"{\"a\": 1}", "{ }"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":\"integer\"},\"\xc3\xa9\":{"
     "\"const\":1}},"
     "\"required\":[\"ab\"],\"additionalProperties\":{\"type\":\"boolean\"}}",
     {"{\"ab\": 1}", "{\"a\": 1, \"ab\": 2, \"x\": true}", "{\"ab\": 1, \"\": true, \"abc\": false}",
      "{\"ab\":1,\"\xc3\xa9\":1,\"\xc3\xa8\":true}", "{\"ab\": 1, \"\xc3\xa9\xc3\xa9\": true}",
      "{\"ab\": 1, \"b\\u0041\": true}", "{\"ab\": 1, \"a b\": true, \"\xf0\x9f\x98\x80\": true}"},
     {"{\"ab\": 1, \"a\": true}", "{\"ab\": 1, \"x\": 1}", "{\"ab\": 1, \"\\u0061\": true}",
      "{\"ab\": 1, \"\xc3\xa9\": true}", "{\"x\": true}", "{\"ab\": true}"}},
    {"{\"type\":\"object\",\"required\":[\"z\"]}", {"{\"z\": [{}]}", "{\"z\": 1, \"y\": 2}"}, {"{}", "{\"y\": 1}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":true},\"additionalProperties\":true}",
     {"{}", "{\"a\": [1, {\"x\": null}]}", "{\"b\": 1}", "{\"a\": 1, \"b\": \"x\"}"},
     {"{\"b\": 1, \"a\": 1}", "[]"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{}", "{\"a\": 1, \"b\": 2}"},
     {"{\"a\": \"x\"}"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
     {"[]", "[1]", "[1, 2,3]"},
     {"[1,]", "[,1]", "[\"a\"]", "[ 1]", "[1 , 2]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2}", {"[1, 2]", "[1, 2, 3, 4]"}, {"[]", "[1]"}},
    {"{\"type\":\"array\",\"items\":{\"enum\":[1]},\"minItems\":1,\"maxItems\":3}",
     {"[1]", "[1, 1]", "[1,1,1]"},
     {"[]", "[1, 1, 1, 1]"}},
    {"{\"type\":\"array\",\"maxItems\":0}", {"[]"}, {"[1]", "[[]]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},"
     "\"additionalProperties\":false},"
     "\"maxItems\":5}",
     {"[]", "[{}, {\"a\": \"x\"}]", "[{},{},{},{},{}]"},
     {"[{},{},{},{},{},{}]", "[{\"b\": 1}]"}},
    {"{\"type\":\"array\",\"minItems\":5,\"items\":{\"type\":\"number\"}}", {"[1, 2, 3, 4, 5.5]"}, {"[1, 2, 3, 4]"}},
    {"true",
     {"1", "\"x\"", "null", "[1, [2, {\"a\": {}}]]", "{\"a\": {\"b\": [true]}}", "-1.5e3"},
     {"", "{", "[1", "nul"}},
    {"{\"title\":\"T\",\"description\":\"D\",\"default\":1,\"examples\":[],\"$schema\":\"x\",\"$id\":\"y\",\"$"
     "comment\":\"z\"}",
     {"{}", "0"},
     {"x"}},
    {"{\"minLength\":2}", {"\"ab\""}, {"\"a\"", "1"}},
    {"{\"$ref\":\"#/$defs/"
     "list\",\"$defs\":{\"list\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\",\"properties\":{\"v\":{\"type\":"
     "\"integer\"},\"next\":{\"$ref\":\"#/$defs/"
     "list\"}},\"required\":[\"v\",\"next\"],\"additionalProperties\":false}]}}}",
     {"null", "{\"v\": 1, \"next\": null}", "{\"v\": 1, \"next\": {\"v\": 2, \"next\": {\"v\": 3, \"next\": null}}}"},
     {"{\"v\": 1}", "{\"v\": 1, \"next\": 3}", "{\"v\": 1, \"next\": {\"v\": 2}}"}},
    {"{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}},\"required\":["
     "\"kids\"],"
     "\"additionalProperties\":false}",
     {"{\"kids\": []}", "{\"kids\": [{\"kids\": []}, {\"kids\": [{\"kids\": []}]}]}"},
     {"{\"kids\": [{}]}", "{}", "{\"kids\": [1]}"}},
    {"{\"definitions\":{\"a/b~c\":{\"const\":1}},\"anyOf\":[{\"$ref\":\"#/definitions/a~1b~0c\"},{\"$ref\":\"#/"
     "definitions/a%7e1b~0c\"}]}",
     {"1"},
     {"2"}},
    {"{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},"
     "\"required\":[\"kind\",\"x\"],"
     "\"additionalProperties\":false},{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"ab\"},\"y\":{\"type\":"
     "\"string\"}},"
     "\"required\":[\"kind\",\"y\"],\"additionalProperties\":false}]}",
     {"{\"kind\": \"a\", \"x\": 1}", "{\"kind\": \"ab\", \"y\": \"s\"}"},
     {"{\"kind\": \"a\", \"y\": \"s\"}", "{\"kind\": \"ab\", \"x\": 1}"}},
    {"{\"$defs\":{\"bin\":{\"type\":\"object\",\"properties\":{\"op\":{\"enum\":[\"+\",\"-\"]},\"l\":{\"$ref\":\"#/"
     "$defs/e\"},\"r\":{\"$ref\":"
     "\"#/$defs/"
     "e\"}},\"required\":[\"op\",\"l\",\"r\"],\"additionalProperties\":false},\"un\":{\"type\":\"object\","
     "\"properties\":{\"op\":{\"enum\":"
     "[\"-\",\"!\"]},\"l\":{\"$ref\":\"#/$defs/"
     "e\"}},\"required\":[\"op\",\"l\"],\"additionalProperties\":false},\"e\":{\"anyOf\":[{\"$ref\":"
     "\"#/$defs/bin\"},{\"$ref\":\"#/$defs/un\"},{\"type\":\"number\"}]}},\"$ref\":\"#/$defs/e\"}",
     {"1", "{\"op\": \"-\", \"l\": {\"op\": \"-\", \"l\": {\"op\": \"+\", \"l\": 1, \"r\": 2}}, \"r\": 3}",
      "{\"op\": \"-\", \"l\": {\"op\": \"!\", \"l\": 1}}"},
     {"{\"op\": \"+\", \"l\": 1}", "{\"op\": \"!\", \"l\": 1, \"r\": 2}"}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-29\"", "\"2000-02-29\"", "\"2023-12-31\"", "\"0001-01-01\""},
     {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"", "\"2024-1-01\"", "\"2024-00-10\"",
      "\"2024-01-00\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.123+02:00\"", "\"2024-01-01T00:00:00-23:59\""},
     {"\"2024-02-30T23:59:59Z\"", "\"2024-01-01T24:00:00Z\"", "\"2024-01-01 00:00:00Z\"", "\"2024-01-01T00:00:00\"",
      "\"2024-01-01T00:60:00Z\""}},
    {"{\"type\":\"string\",\"format\":\"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\"", "\"ABCDEF00-0000-0000-0000-000000000000\""},
     {"\"123e4567e89b12d3a456426614174000\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}},
    {"{\"type\":\"string\",\"format\":\"email\"}",
     {"\"a@b.org\"", "\"first.last+tag@sub.example.co\""},
     {"\"a@b\"", "\"@b.org\"", "\"a..b@c.org\"", "\"a@-b.org\"", "\"a b@c.org\"", "\".a@b.org\"", "\"a@b-.org\""}},
    {"{\"type\":\"string\",\"pattern\":\"^[a-c]+\\\\d{2,3}$\"}",
     {"\"a12\"", "\"abc123\""},
     {"\"12\"", "\"a1\"", "\"a1234\"", "\"d12\""}},
    {"{\"type\":\"string\",\"pattern\":\"b+\"}", {"\"b\"", "\"xxbyy\"", "\"\xc3\xa9\\\"bb\""}, {"\"\"", "\"xyz\""}},
    {"{\"type\":\"string\",\"pattern\":\"^a|b$\",\"minLength\":2,\"maxLength\":3}",
     {"\"ax\"", "\"xb\"", "\"axx\""},
     {"\"a\"", "\"xx\"", "\"xxxb\"", "\"bx\""}},
};

static void each_case(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nef_grammar *g = fixture_schema(cases[i].schema);
        json_t *schema = json_loads(cases[i].schema, JSON_DECODE_ANY, NULL);

        for (size_t k = 0; k < 14 && cases[i].valid[k] != NULL; k++) {
            const char *text = cases[i].valid[k];
            json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

            if (!valid_value(value, schema, schema))
                fail_msg("%s: the table says %s is valid", cases[i].schema, text);
            json_decref(value);
            if (!fixture_accepts(g, text, strlen(text), NULL))
                fail_msg("%s: %s is refused", cases[i].schema, text);
            for (int round = 0; round < 20; round++)
                if (!fixture_accepts(g, text, strlen(text), &seed))
                    fail_msg("%s: %s is refused in tokens", cases[i].schema, text);
        }
        for (size_t k = 0; k < 18 && cases[i].invalid[k] != NULL; k++)
            for (int round = 0; round < 5; round++)
                if (fixture_accepts(g, cases[i].invalid[k], strlen(cases[i].invalid[k]), round == 0 ? NULL : &seed))
                    fail_msg("%s: %s is taken", cases[i].schema, cases[i].invalid[k]);
        json_decref(schema);
        nef_grammar_unref(g);
    }
}

static void random_texts_are_valid(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nef_grammar *g = fixture_schema(cases[i].schema);
        json_t *schema = json_loads(cases[i].schema, JSON_DECODE_ANY, NULL);

        for (int round = 0; round < 60; round++) {
            json_error_t why;
            char *text;
            size_t bytes = fixture_generate(g, &seed, 20000, &text);
            json_t *value = json_loadb(text, bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);

            if (value == NULL)
                fail_msg("%s: wrote %s: %s", cases[i].schema, text, why.text);
            if (!valid_value(value, schema, schema))
                fail_msg("%s: wrote %s", cases[i].schema, text);
            if (!fixture_accepts(g, text, bytes, &seed))
                fail_msg("%s: wrote and refused %s", cases[i].schema, text);
            json_decref(value);
            free(text);
        }
        json_decref(schema);
        nef_grammar_unref(g);
    }
}

/* Bounds around every number of a range, in many spellings, against arithmetic. */
static void bounds_are_exact(void **state)
{
    static const char *const bounds[] = {"-100", "-10.05", "-1",  "-0.1", "0",     "0.099",
                                         "0.1",  "1",      "9.5", "10",   "99.99", "1000"};
    static const char *const types[] = {"number", "integer"};
    uint64_t seed = 3;

    (void)state;
    for (int round = 0; round < 60; round++) {
        const char *low = bounds[fixture_random(&seed) % 12], *high = bounds[fixture_random(&seed) % 12];
        bool open = fixture_random(&seed) % 2, integer = fixture_random(&seed) % 2;
        char text[256];
        json_t *schema;
        struct nef_grammar *g = NULL;
        struct nef_grammar_options o = {.answer = NEF_GRAMMAR_SCHEMA};
        char why[NEF_GRAMMAR_ERROR_MAX];

        (void)snprintf(text, sizeof(text), "{\"type\":\"%s\",\"%s\":%s,\"%s\":%s}", types[integer],
                       open ? "exclusiveMinimum" : "minimum", low, open ? "maximum" : "exclusiveMaximum", high);
        schema = json_loads(text, 0, NULL);
        o.schema = schema;
        if (nef_grammar_compile(fixture_vocab(), &o, why, &g) != NEF_OK)
            g = NULL; /* empty: then nothing below may be valid */
        for (int k = 0; k < 400; k++) {
            double number = (double)(int64_t)(fixture_random(&seed) % 24000) / 10 - 1200;
            json_t *value;
            char digits[64];

            if (k % 4 == 0)
                (void)snprintf(digits, sizeof(digits), "%s", bounds[fixture_random(&seed) % 12]);
            else
                (void)snprintf(digits, sizeof(digits), "%.*f", integer ? 0 : k % 3,
                               k % 3 == 1 ? number : number / (double)(1 << fixture_random(&seed) % 12));
            if (integer && strchr(digits, '.') != NULL)
                continue;
            value = json_loads(digits, JSON_DECODE_ANY, NULL);
            if (strcmp(digits, "-0") != 0 && strcmp(digits, "-0.0") != 0 && strcmp(digits, "-0.00") != 0 &&
                valid_value(value, schema, schema) != (g != NULL && fixture_accepts(g, digits, strlen(digits), &seed)))
                fail_msg("%s: %s", text, digits);
            json_decref(value);
        }
        nef_grammar_unref(g);
        json_decref(schema);
    }
}

/* Patterns against PCRE2, on random strings over their own characters. */
static void patterns_are_those_of_pcre2(void **state)
{
    static const char *const patterns[] = {"^a*b?c+$",
                                           "a|bc|",
                                           "(ab)+",
                                           "(?:a|b){2,3}c",
                                           "^(a(b(c)?)?)$",
                                           "[^ab]",
                                           "[a-c-]+$",
                                           "^.$",
                                           "^\\w+\\s\\d*$",
                                           "x*",
                                           "^a{2}b{0,1}c{1,}$",
                                           "\\.",
                                           "^[\\]a\\\\]+$",
                                           "^(?<n>a)b",
                                           "a{,2}",
                                           "^\\x61\\u0062\\u{63}$",
                                           "(^a|b$)c*",
                                           "^(a|ab)(c|bcd)$",
                                           "^\\D\\W\\S$",
                                           "^[\\d\\s]*$",
                                           "^a+?b*?$",
                                           "a$|^b",
                                           "^(|a)b",
                                           "^[^]$",
                                           "\xc3\xa9|\xe6\x97\xa5",
                                           "^[\xc3\xa0-\xc3\xbf]+$",
                                           "^\\cI$",
                                           "]",
                                           "^{$",
                                           "^\\/\\-$"};
    static const char *const atoms[] = {"a",
                                        "b",
                                        "c",
                                        "d",
                                        "ab",
                                        "bc",
                                        " ",
                                        "1",
                                        "2",
                                        ".",
                                        "]",
                                        "\\",
                                        "{",
                                        "}",
                                        ",",
                                        "2",
                                        "\xc3\xa9",
                                        "\xe6\x97\xa5",
                                        "\xf0\x9f\x98\x80",
                                        "-",
                                        "x",
                                        "/",
                                        "\t",
                                        "\n",
                                        "_",
                                        "A",
                                        "\xe2\x80\xa8"};
    uint64_t seed = 4;

    (void)state;
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        json_t *schema = json_pack("{s:s, s:s}", "type", "string", "pattern", patterns[i]);
        struct nef_grammar *g =
            fixture_grammar(&(struct nef_grammar_options){.answer = NEF_GRAMMAR_SCHEMA, .schema = schema});

        for (int round = 0; round < 300; round++) {
            char text[64] = "";
            json_t *value;
            char *written;
            bool valid;

            for (uint64_t k = fixture_random(&seed) % 6; k > 0; k--)
                strcat(text, atoms[fixture_random(&seed) % (sizeof(atoms) / sizeof(atoms[0]))]);
            if ((strstr(patterns[i], "\\s") != NULL || strstr(patterns[i], "\\S") != NULL) &&
                strstr(text, "\xe2\x80\xa8") != NULL)
                continue; /* white space in ECMA-262, none in PCRE2 */
            value = json_string(text);
            written = json_dumps(value, JSON_ENCODE_ANY); /* escapes '"', '\' and controls, as the grammar has them */
            if (strcmp(patterns[i], "a{,2}") == 0)        /* PCRE2 10.43 reads {,2} as a repeat; ECMA-262 doesn't */
                valid = strstr(text, "a{,2}") != NULL;
            else if (strcmp(patterns[i], "^[^]$") == 0) /* any character, in ECMA-262 */
                valid = text[0] != '\0' && fixture_accepts(g, written, strlen(written), NULL);
            else
                valid = valid_value(value, schema, schema);
            if (valid != fixture_accepts(g, written, strlen(written), &seed))
                fail_msg("%s: %s should be %s", patterns[i], written, valid ? "valid" : "refused");
            free(written);
            json_decref(value);
        }
        nef_grammar_unref(g);
        json_decref(schema);
    }
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
        cmocka_unit_test(each_case),
        cmocka_unit_test(random_texts_are_valid),
        cmocka_unit_test(bounds_are_exact),
        cmocka_unit_test(patterns_are_those_of_pcre2),
    };

    return cmocka_run_group_tests(tests, NULL, close_vocab);
}
