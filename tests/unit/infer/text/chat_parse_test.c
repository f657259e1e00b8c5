/* Unit tests of the parser of answers: what each text is taken for, and that this is the same however the text is cut.
 * What was emitted is written down as one line: r(...) reasoning, c(...) content, [0 name ... ] a call, without "]" an
 * unfinished one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>

#include "base/limits.h"
#include "infer/text/chat.h"
#include "infer/text/chat_call.h"

struct record {
    struct nef_buf text;
    int last;       /* part of the last piece; -1: none */
    unsigned pieces;
};

static void emit(void *context, enum nef_chat_part part, uint32_t index, const char *text, size_t bytes)
{
    struct record *r = context;
    bool goes_on = r->last == (int)part;

    assert_true(bytes > 0 || part == NEF_CHAT_TOOL_END);
    r->pieces++;
    if (!goes_on && (r->last == NEF_CHAT_CONTENT || r->last == NEF_CHAT_REASONING))
        nef_buf_text(&r->text, ")");
    switch (part) {
    case NEF_CHAT_CONTENT:
        nef_buf_text(&r->text, goes_on ? "" : "c(");
        break;
    case NEF_CHAT_REASONING:
        nef_buf_text(&r->text, goes_on ? "" : "r(");
        break;
    case NEF_CHAT_TOOL_BEGIN:
        nef_buf_printf(&r->text, "[%u ", index);
        break;
    case NEF_CHAT_TOOL_ARGUMENTS:
        nef_buf_text(&r->text, goes_on ? "" : " ");
        break;
    case NEF_CHAT_TOOL_END:
        nef_buf_text(&r->text, "]");
        break;
    }
    nef_buf_append(&r->text, text, bytes);
    r->last = (int)part;
}

/* Feed TEXT cut at FIRST and SECOND; the line goes to R. */
static void parse(struct record *r, const char *text, size_t bytes, size_t first, size_t second, bool thinking,
                  bool tools)
{
    struct nef_chat_parser *p = NULL;

    nef_buf_reset(&r->text);
    r->last = -1;
    r->pieces = 0;
    assert_int_equal(nef_chat_parser_open(thinking, tools, emit, r, &p), NEF_OK);
    assert_int_equal(nef_chat_parser_take(p, text, first), NEF_OK);
    assert_int_equal(nef_chat_parser_take(p, text + first, second - first), NEF_OK);
    assert_int_equal(nef_chat_parser_take(p, text + second, bytes - second), NEF_OK);
    assert_int_equal(nef_chat_parser_end(p), NEF_OK);
    if (r->last == NEF_CHAT_CONTENT || r->last == NEF_CHAT_REASONING)
        nef_buf_text(&r->text, ")");
    nef_buf_printf(&r->text, "%u", nef_chat_parser_tools(p));
    nef_chat_parser_close(p);
}

static void check(const char *text, bool thinking, bool tools, const char *expected)
{
    struct record r = {0};
    size_t bytes = strlen(text);

    for (size_t first = 0; first <= bytes; first++)
        for (size_t second = first; second <= bytes; second++) {
            parse(&r, text, bytes, first, second, thinking, tools);
            if (strcmp(nef_buf_cstr(&r.text), expected) != 0)
                fail_msg("\n%s\ncut at %zu and %zu is\n%s\nnot\n%s", text, first, second, nef_buf_cstr(&r.text),
                         expected);
        }
    nef_buf_free(&r.text);
}

#define CALL(x) "<tool_call>\n" x "\n</tool_call>"
#define F "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"</x>\"]}}"

static void plain_content(void **state)
{
    (void)state;
    check("", false, true, "0");
    check("Hi", false, true, "c(Hi)0");
    check("\n Hi \n\n", false, true, "c(\n Hi \n\n)0");
    check("\n", false, false, "c(\n)0");
    check("a < b <tool_cal \n<tool", false, true, "c(a < b <tool_cal \n<tool)0");
    check("<<tool_call", false, true, "c(<<tool_call)0");
    check("<think>x</think>", false, true, "c(<think>x</think>)0"); /* thinking was not possible */
    check(CALL(F), false, false, "c(" CALL(F) ")0");
    check("\xc3\xa9\xe2\x82\xac", false, true, "c(\xc3\xa9\xe2\x82\xac)0");
}

static void thoughts(void **state)
{
    (void)state;
    check("<think>\nWhy?\n</think>\n\nSo.", true, true, "r(Why?)c(So.)0");
    check("<think>\n\n</think>\n\nSo.", true, true, "c(So.)0");
    check("<think></think>So.", true, false, "c(So.)0");
    check("\n <think>Why?</think>So.", true, true, "r(Why?)c(So.)0");
    check("Why?\n</think>\n\nSo.\n", true, true, "r(Why?)c(So.\n)0");      /* <think> was in the prompt */
    check("\n\n  Why?\n\nA\n</think>So", true, true, "r(  Why?\n\nA)c(So)0");
    check("</think>So", true, true, "c(So)0");
    check("<think>\nWhy?\n", true, true, "r(Why?\n)0");                     /* cut off: all is reasoning */
    check("So.", true, true, "r(So.)0");
    check("<thin", true, true, "r(<thin)0");
    check("<think", true, true, "r(<think)0");
    check("<thinker</think>x", true, true, "r(<thinker)c(x)0");
    check("<think>a</thin</think>b", true, true, "r(a</thin)c(b)0");
    check("<think>a<think>b</think>c</think>", true, true, "r(a<think>b)c(c</think>)0");
    check("<think>a\n</thi", true, true, "r(a\n</thi)0");
    check("<think>a" CALL(F) "</think>" CALL(F), true, true, "r(a" CALL(F) ")[0 f {\"a\": [1, \"</x>\"]}]1");
}

static void calls(void **state)
{
    (void)state;
    check(CALL(F), false, true, "[0 f {\"a\": [1, \"</x>\"]}]1");
    check(CALL(F) "\n", false, true, "[0 f {\"a\": [1, \"</x>\"]}]1");
    check("Look:\n\n" CALL(F), false, true, "c(Look:)[0 f {\"a\": [1, \"</x>\"]}]1");
    check("Look: " CALL(F) "\nAnd", false, true, "c(Look: )[0 f {\"a\": [1, \"</x>\"]}]c(\nAnd)1");
    check("<think>\nUse it.\n</think>\n\n" CALL(F), true, true, "r(Use it.)[0 f {\"a\": [1, \"</x>\"]}]1");
    check("<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</"
          "tool_call>",
          false, true, "[0 f {}][1 g {}]2");
    check("<tool_call>{\"arguments\": {\"b\": 1} , \"name\": \"f\"}</tool_call>", false, true, "[0 f {\"b\": 1}]1");
    check("<tool_call>{\"id\": [{}, 2.5e+3, null], \"name\": \"\\u0066\\n\", \"arguments\": 12 }</tool_call>", false,
          true, "[0 f\n 12]1");
    check("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>", false, true,
          "[0 f \"{\\\"x\\\": 1}\"]1");
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}}", false, true,
          "[0 f {}]1"); /* as vLLM: its end need not come */
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_", false, true, "[0 f {}]1");
}

static void malformed_calls_are_content(void **state)
{
    static const char *const blocks[] = {
        "",
        "no",
        "{",
        "{}",
        "[]",
        "{\"name\": \"f\"}",
        "{\"arguments\": {}}",
        "{\"name\": 1, \"arguments\": {}}",
        "{\"name\": \"\", \"arguments\": {}}",
        "{\"name\": \"f\" \"arguments\": {}}",
        "{name: 1}",
        "{\"name\": \"f\",}",
        "{\"name\": \"\\ud800\", \"arguments\": {}}",
        "{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}",
        "{\"arguments\": 01}",
        "{\"arguments\": [1, \"name\": 2]}",
        "{\"arguments\": tru}",
        "{\"name\n\": \"f\"}",
        "{\"a\": \"\\x\"}",
        "{\"a\": -}",
        "{\"a\": 1.}",
        "{\"a\": 1e}",
        "{\"a\": .5}",
        "<tool_call>",
    };
    char text[256], expected[300];

    (void)state;
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        (void)snprintf(text, sizeof(text), "a\n<tool_call>%s</tool_call>\nb", blocks[i]);
        (void)snprintf(expected, sizeof(expected), "c(%s)0", text);
        check(text, false, true, expected);
    }
    check("<tool_call>x</tool_call>\n" CALL("{\"name\":\"f\",\"arguments\":{}}"), false, true,
          "c(<tool_call>x</tool_call>)[0 f {}]1");
    check("a\n<tool_call>\n{\"na", false, true, "c(a\n<tool_call>\n{\"na)0"); /* cut off */
    check("<tool_call>x</tool_call", false, true, "c(<tool_call>x</tool_call)0");
    check("<tool_call>x</too</tool_call>\n" CALL("{\"name\":\"f\",\"arguments\":{}}"), false, true,
          "c(<tool_call>x</too</tool_call>)[0 f {}]1");
}

/* What was wrong showed when the call had begun: it stays unfinished, and its text follows; one that is only cut off has
 * said everything. */
static void calls_that_break_are_unfinished(void **state)
{
    (void)state;
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": "
          "oh}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
          false, true, "[0 f {\"a\": c(<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": oh}}</tool_call>)[1 g {}]1");
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x", false, true,
          "[0 f {\"a\": \"x0");
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x</tool", false, true,
          "[0 f {\"a\": \"x</tool0");
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}, \"name\": \"g\"}</tool_call>", false, true,
          "[0 f {}c(<tool_call>{\"name\": \"f\", \"arguments\": {}, \"name\": \"g\"}</tool_call>)0");
    check("<tool_call>{\"name\": \"f\", \"arguments\": {}} x</tool_call>", false, true,
          "[0 f {}c(<tool_call>{\"name\": \"f\", \"arguments\": {}} x</tool_call>)0");
}

static void nothing_is_held_longer_than_needed(void **state)
{
    static const char text[] = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}";
    struct record r = {0};
    struct nef_chat_parser *p = NULL;

    (void)state;
    r.last = -1;
    assert_int_equal(nef_chat_parser_open(false, true, emit, &r, &p), NEF_OK);
    assert_int_equal(nef_chat_parser_take(p, "Hello <", 7), NEF_OK);
    assert_string_equal(nef_buf_cstr(&r.text), "c(Hello ");
    assert_int_equal(nef_chat_parser_take(p, "b", 1), NEF_OK);
    assert_string_equal(nef_buf_cstr(&r.text), "c(Hello <b");
    for (size_t i = 0; text[i] != '\0'; i++) {
        assert_int_equal(nef_chat_parser_take(p, text + i, 1), NEF_OK);
        if (text[i + 1] == '1') /* the arguments so far are out */
            assert_string_equal(nef_buf_cstr(&r.text), "c(Hello <b)[0 f {\"a\": ");
    }
    assert_int_equal(nef_chat_parser_end(p), NEF_OK);
    nef_chat_parser_close(p);
    nef_buf_free(&r.text);
}

static void endless_blocks_end(void **state)
{
    size_t bytes = NEF_CHAT_CALL_BYTES_MAX * 2;
    char *text = malloc(bytes);
    struct record r = {0};

    (void)state;
    assert_non_null(text);
    memset(text, ' ', bytes);
    memcpy(text, "<tool_call>", 11);
    parse(&r, text, bytes, 100, bytes, false, true);
    assert_int_equal(r.last, NEF_CHAT_CONTENT);
    assert_int_equal(r.text.bytes, bytes + 4); /* c( )0 */
    nef_buf_free(&r.text);
    free(text);
}

/* Strict JSON: what jansson takes inside an object is taken, and nothing else. */
static void scanner_equals_jansson(void **state)
{
    static const char letters[] = "{}[]\",:\\u0a1-+.eE tfn rulsae/\x01\n";
    static const char *const seeds[] = {"[1, -2.5e+3, 0, {\"a\": [], \"b\": {}}]",
                                        "{\"x\": \"\\u00e9\\n\", \"y\": true}",
                                        "[null, false, \"\", [[{}]]]",
                                        "-0.1E-5",
                                        "\"a\\\"b\"",
                                        "{}",
                                        "[\"\\\\\", 10]"};
    struct nef_call_scan s = {0};
    uint32_t seed = 5;
    unsigned good = 0;

    (void)state;
    for (unsigned round = 0; round < 60000; round++) {
        char text[128], value[64];
        json_t *parsed;
        bool taken = true, argument;
        nef_err err = NEF_OK;
        int bytes;

        (void)snprintf(value, sizeof(value), "%s", seeds[round % (sizeof(seeds) / sizeof(seeds[0]))]);
        for (unsigned change = 0; change < round / 7 % 3; change++) {
            seed = seed * 1664525u + 1013904223u;
            value[(seed >> 8) % strlen(value)] = letters[(seed >> 20) % (sizeof(letters) - 1)];
        }
        bytes = snprintf(text, sizeof(text), "{\"name\": \"f\", \"arguments\": %s}", value);
        nef_call_begin(&s);
        for (int i = 0; i < bytes && taken; i++)
            taken = nef_call_take(&s, text[i], &argument, &err);
        taken = taken && nef_call_whole(&s);
        parsed = json_loads(text, 0, NULL);
        /* jansson also refuses numbers out of range and \u0000, which are fine JSON */
        if (taken != (parsed != NULL) && strstr(value, "\\u0000") == NULL && strpbrk(value, "eE") == NULL)
            fail_msg("%s: %d", text, taken);
        good += taken;
        json_decref(parsed);
    }
    assert_true(good > 20000 && good < 59000);
    nef_call_done(&s);
}

static void depth_is_limited(void **state)
{
    struct nef_call_scan s = {0};
    const char *head = "{\"name\":\"f\",\"arguments\":";
    bool argument;
    nef_err err = NEF_OK;

    (void)state;
    nef_call_begin(&s);
    for (size_t i = 0; head[i] != '\0'; i++)
        assert_true(nef_call_take(&s, head[i], &argument, &err));
    for (unsigned depth = 1; depth < NEF_CHAT_JSON_DEPTH_MAX; depth++)
        assert_true(nef_call_take(&s, '[', &argument, &err));
    assert_false(nef_call_take(&s, '[', &argument, &err));
    nef_call_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_content),
        cmocka_unit_test(thoughts),
        cmocka_unit_test(calls),
        cmocka_unit_test(malformed_calls_are_content),
        cmocka_unit_test(calls_that_break_are_unfinished),
        cmocka_unit_test(nothing_is_held_longer_than_needed),
        cmocka_unit_test(endless_blocks_end),
        cmocka_unit_test(scanner_equals_jansson),
        cmocka_unit_test(depth_is_limited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
