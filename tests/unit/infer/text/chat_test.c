/* Unit tests of the chat renderer: which templates are recognized, some conversations in full
 * (tests/system/test_infer_text.py compares many with the templates themselves), JSON as Python prints it, and what
 * each malformed message is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "infer/text/chat_internal.h"
#include "text_fixture.h"

static enum nef_chat_family family_of(const char *template, size_t bytes)
{
    struct fixture f = {0};
    enum nef_chat_family family;
    struct nef_gguf *file;
    uint8_t *data;

    if (template != NULL)
        fixture_text(&f, "tokenizer.chat_template", template, bytes);
    file = fixture_end(&f, &data);
    assert_non_null(file);
    family = nef_chat_family_of(file);
    nef_gguf_free(file);
    free(data);
    return family;
}

static void templates_tell_the_family(void **state)
{
    static const struct {
        const char *name;
        enum nef_chat_family family;
    } files[] = {{"qwen2.jinja", NEF_CHAT_QWEN2}, {"qwen2_5.jinja", NEF_CHAT_QWEN2_5}, {"qwen3.jinja", NEF_CHAT_QWEN3}};
    static const char chatml[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        size_t bytes;
        char *text = fixture_read(files[i].name, &bytes);

        assert_int_equal(family_of(text, bytes), files[i].family);
        assert_int_equal(family_of(text, bytes / 4), NEF_CHAT_UNKNOWN);
        free(text);
    }
    assert_int_equal(family_of(chatml, sizeof(chatml) - 1), NEF_CHAT_UNKNOWN);
    assert_int_equal(family_of("", 0), NEF_CHAT_UNKNOWN);
    assert_int_equal(family_of(NULL, 0), NEF_CHAT_UNKNOWN);
}

struct ask { /* an options' short form */
    enum nef_chat_family family;
    const char *messages, *tools;
    bool prompt, go_on, no_thinking;
};

static nef_err render(const struct ask *ask, char *why, char **out_text, size_t *out_bytes)
{
    json_error_t error;
    json_t *messages = json_loads(ask->messages, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    json_t *tools = ask->tools == NULL ? NULL : json_loads(ask->tools, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    struct nef_chat_options options = {
        .family = ask->family,
        .messages = messages,
        .tools = tools,
        .add_generation_prompt = ask->prompt,
        .continue_final_message = ask->go_on,
        .enable_thinking = !ask->no_thinking,
    };
    nef_err err;

    if (messages == NULL || (ask->tools != NULL && tools == NULL))
        fail_msg("%s: %s", ask->messages, error.text);
    err = nef_chat_render(&options, why, out_text, out_bytes);
    json_decref(messages);
    json_decref(tools);
    return err;
}

static void assert_renders(const struct ask *ask, const char *expected)
{
    char why[NEF_CHAT_ERROR_MAX] = "", *text = NULL;
    size_t bytes = 0;
    nef_err err = render(ask, why, &text, &bytes);

    if (err != NEF_OK)
        fail_msg("%s: %s", ask->messages, why);
    assert_string_equal(text, expected);
    assert_int_equal(bytes, strlen(expected));
    free(text);
}

#define TURN(role, text) "<|im_start|>" role "\n" text "<|im_end|>\n"
#define QWEN_SYSTEM TURN("system", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")

static void families_differ(void **state)
{
    static const char hello[] = "[{\"role\": \"user\", \"content\": \"Hi\"}]";

    (void)state;
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN2, .messages = hello, .prompt = true},
                   TURN("system", "You are a helpful assistant.") TURN("user", "Hi") "<|im_start|>assistant\n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN2_5, .messages = hello, .prompt = true},
                   QWEN_SYSTEM TURN("user", "Hi") "<|im_start|>assistant\n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3, .messages = hello, .prompt = true},
                   TURN("user", "Hi") "<|im_start|>assistant\n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3, .messages = hello, .prompt = true, .no_thinking = true},
                   TURN("user", "Hi") "<|im_start|>assistant\n<think>\n\n</think>\n\n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3, .messages = hello}, TURN("user", "Hi"));
}

static void messages_are_made_plain(void **state)
{
    (void)state;
    assert_renders(
        &(struct ask){.family = NEF_CHAT_QWEN3,
                      .messages =
                          "[{\"role\": \"developer\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": ["
                          "{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\"}]},"
                          "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": "
                          "\"f\", \"arguments\": \"\"}}]}, {\"role\": \"tool\", \"content\": null}]"},
        TURN("system", "S") TURN("user", "a\nb")
            TURN("assistant", "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>")
                TURN("user", "<tool_response>\n\n</tool_response>"));
    assert_renders(
        &(struct ask){.family = NEF_CHAT_QWEN3,
                      .messages = "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": "
                                  "\"a\", \"reasoning\": \"r\"}]"},
        TURN("user", "q") TURN("assistant", "<think>\nr\n</think>\n\na"));
}

/* Arguments come as text from OpenAI's clients: Qwen3's template keeps it, Qwen2.5's needs the object. */
static void arguments_given_as_text(void **state)
{
    static const char messages[] =
        "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": "
        "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
        "\"{\\\"a\\\":1.50,\\\"b\\\":\\\"\\\\u00e9\\\"}\"}}]}]";
    static const char big[] =
        "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": "
        "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
        "\"{\\\"a\\\":123456789012345678901}\"}}]}]";

    (void)state;
    assert_renders(
        &(struct ask){.family = NEF_CHAT_QWEN2_5, .messages = messages},
        QWEN_SYSTEM TURN("user", "q")
            TURN("assistant",
                 "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.5, \"b\": \"\xc3\xa9\"}}\n</tool_call>"));
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3, .messages = messages},
                   TURN("user", "q")
                       TURN("assistant", "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": "
                                         "{\"a\":1.50,\"b\":\"\\u00e9\"}}\n</tool_call>"));
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN2_5, .messages = big},
                   QWEN_SYSTEM TURN("user", "q") TURN("assistant", "<tool_call>\n{\"name\": \"f\", \"arguments\": "
                                                                   "{\"a\":123456789012345678901}}\n</tool_call>"));
}

static void final_messages_stay_open(void **state)
{
#define ASK "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", "
    (void)state;
    assert_renders(
        &(struct ask){.family = NEF_CHAT_QWEN2_5, .messages = ASK "\"content\": \"one \\n\"}]", .go_on = true},
        QWEN_SYSTEM TURN("user", "q") "<|im_start|>assistant\none \n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3, .messages = ASK "\"content\": \"one \\n\"}]", .go_on = true},
                   TURN("user", "q") "<|im_start|>assistant\n<think>\n\n</think>\n\none \n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3,
                                 .messages = ASK "\"content\": \"\", \"reasoning_content\": \"r\"}]",
                                 .go_on = true},
                   TURN("user", "q") "<|im_start|>assistant\n<think>\nr\n</think>\n\n");
    assert_renders(
        &(struct ask){.family = NEF_CHAT_QWEN3, .messages = ASK "\"reasoning_content\": \"\\nr\\n\"}]", .go_on = true},
        TURN("user", "q") "<|im_start|>assistant\n<think>\nr\n");
    assert_renders(&(struct ask){.family = NEF_CHAT_QWEN3,
                                 .messages = ASK "\"content\": \"<think>\\nr\\n</think>\\n\\na\"}]",
                                 .go_on = true},
                   TURN("user", "q") "<|im_start|>assistant\n<think>\nr\n</think>\n\na");
#undef ASK
}

static void json_is_pythons(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"{\"b\":1,\"a\":[1,2,{}],\"c\":[]}", "{\"b\": 1, \"a\": [1, 2, {}], \"c\": []}"},
        {"[1.0,0.1,100.0,1e15,1e16,123456789.125,0.0001,0.00001,1.5e-7,-0.0,1e22,2.5e100,5e-324,1.7976931348623157e308,"
         "0.30000000000000004]",
         "[1.0, 0.1, 100.0, 1000000000000000.0, 1e+16, 123456789.125, 0.0001, 1e-05, 1.5e-07, -0.0, 1e+22, 2.5e+100, "
         "5e-324, "
         "1.7976931348623157e+308, 0.30000000000000004]"},
        {"[-5,9223372036854775807,true,false,null]", "[-5, 9223372036854775807, true, false, null]"},
        {"[\"\\u00e9\\u2028\\u007f<>&'\",\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u000b\\u0000\\u001f\"]",
         "[\"\xc3\xa9\xe2\x80\xa8\x7f<>&'\", \"\\\"\\\\/\\b\\f\\n\\r\\t\\u000b\\u0000\\u001f\"]"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char why[NEF_CHAT_ERROR_MAX];
        struct nef_chat_out out = {.error = why};
        json_t *value = json_loads(cases[i].in, JSON_ALLOW_NUL, NULL);

        assert_non_null(value);
        nef_chat_json(&out, value);
        assert_int_equal(out.err, NEF_OK);
        assert_string_equal(nef_buf_cstr(&out.buf), cases[i].out);
        nef_buf_free(&out.buf);
        json_decref(value);
    }
}

static void malformed_messages_are_named(void **state)
{
#define U "[{\"role\": \"user\", \"content\": \"q\"}, "
#define T "{\"type\": \"function\", \"function\": {\"name\": \"f\"}}"
    static const struct {
        struct ask ask;
        nef_err err;
        const char *why;
    } cases[] = {
        {{NEF_CHAT_QWEN3, "null", NULL}, NEF_E_INVALID, "messages: missing"},
        {{NEF_CHAT_QWEN3, "{}", NULL}, NEF_E_INVALID, "messages: not an array"},
        {{NEF_CHAT_QWEN3, "[]", NULL}, NEF_E_INVALID, "messages: empty"},
        {{NEF_CHAT_QWEN3, "[1]", NULL}, NEF_E_INVALID, "messages[0]: not an object"},
        {{NEF_CHAT_QWEN3, U "{\"content\": \"\"}]", NULL}, NEF_E_INVALID, "messages[1].role: missing"},
        {{NEF_CHAT_QWEN3, U "{\"role\": 1}]", NULL}, NEF_E_INVALID, "messages[1].role: not a string"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"robot\"}]", NULL}, NEF_E_INVALID, "messages[1].role: \"robot\" is not"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\"}]", NULL}, NEF_E_INVALID, "messages[1].content: missing"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"system\", \"content\": null}]", NULL},
         NEF_E_INVALID,
         "messages[1].content: missing"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": 3}]", NULL},
         NEF_E_INVALID,
         "messages[1].content: not a string"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": []}]", NULL},
         NEF_E_INVALID,
         "messages[1].content: not a string"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": [1]}]", NULL},
         NEF_E_INVALID,
         "messages[1].content[0]: not an object"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": [{}]}]", NULL},
         NEF_E_INVALID,
         "messages[1].content[0].type: missing"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]", NULL},
         NEF_E_UNSUPPORTED,
         "messages[1].content[0].type: \"image_url\" is not supported"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]", NULL},
         NEF_E_INVALID,
         "messages[1].content[0].text: missing"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"reasoning_content\": []}]", NULL},
         NEF_E_INVALID,
         "messages[1].reasoning_content: not a string"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"tool_calls\": {}}]", NULL},
         NEF_E_INVALID,
         "messages[1].tool_calls: not an array"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"tool_calls\": [1]}]", NULL},
         NEF_E_INVALID,
         "messages[1].tool_calls[0]: not an object"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {}}]}]", NULL},
         NEF_E_INVALID,
         "messages[1].tool_calls[0].function.name: missing"},
        {{NEF_CHAT_QWEN2_5,
          U "{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": \"{\"}}]}]",
          NULL},
         NEF_E_INVALID,
         "messages[1].tool_calls[0].function.arguments: not JSON"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"function_call\": {}}]", NULL},
         NEF_E_UNSUPPORTED,
         "messages[1].function_call"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\", \"tool_calls\": [{}]}]", NULL},
         NEF_E_INVALID,
         "messages[1].tool_calls: only an assistant"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\"}]", "{}"}, NEF_E_INVALID, "tools: not an array"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\"}]", "[" T ", 1]"},
         NEF_E_INVALID,
         "tools[1]: not an object"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\"}]", "[{\"type\": \"x\"}]"},
         NEF_E_INVALID,
         "tools[0].type"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\"}]", "[{\"type\": \"function\"}]"},
         NEF_E_INVALID,
         "tools[0].function: missing"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\"}]", "[{\"type\": \"function\", \"function\": {}}]"},
         NEF_E_INVALID,
         "tools[0].function.name: missing"},
        {{NEF_CHAT_QWEN2, U "{\"role\": \"user\", \"content\": \"\"}]", "[" T "]"},
         NEF_E_UNSUPPORTED,
         "tools: this model"},
        {{NEF_CHAT_QWEN2, U "{\"role\": \"tool\", \"content\": \"\"}]", NULL},
         NEF_E_UNSUPPORTED,
         "messages[1]: this model"},
        {{NEF_CHAT_UNKNOWN, U "{\"role\": \"user\", \"content\": \"\"}]", NULL},
         NEF_E_UNSUPPORTED,
         "tokenizer.chat_template"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"user\", \"content\": \"\"}]", NULL, .go_on = true},
         NEF_E_INVALID,
         "messages[1].role: only an assistant's"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"content\": \"\"}]", NULL, .go_on = true, .prompt = true},
         NEF_E_INVALID,
         "continue_final_message: not together"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\"}]", NULL, .go_on = true},
         NEF_E_INVALID,
         "messages[1].content: nothing to continue"},
        {{NEF_CHAT_QWEN2_5, U "{\"role\": \"assistant\", \"reasoning_content\": \"r\"}]", NULL, .go_on = true},
         NEF_E_INVALID,
         "messages[1].content: nothing to continue"},
        {{NEF_CHAT_QWEN3, "[{\"role\": \"assistant\", \"reasoning_content\": \"r\"}]", NULL, .go_on = true},
         NEF_E_INVALID,
         "messages[0].reasoning_content"},
        {{NEF_CHAT_QWEN3, U "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{}]}]", NULL, .go_on = true},
         NEF_E_INVALID,
         "messages[1].tool_calls: a message with calls"},
    };
#undef U
#undef T

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char why[NEF_CHAT_ERROR_MAX] = "", *text = NULL;
        size_t bytes = 77;
        nef_err err = render(&cases[i].ask, why, &text, &bytes);

        if (err != cases[i].err || strncmp(why, cases[i].why, strlen(cases[i].why)) != 0)
            fail_msg("%s: %s \"%s\", not \"%s\"", cases[i].ask.messages, nef_err_name(err), why, cases[i].why);
        assert_null(text);
        assert_int_equal(bytes, 77);
    }
}

static void sizes_are_limited(void **state)
{
    char why[NEF_CHAT_ERROR_MAX] = "", *text = NULL;
    json_t *messages = json_array(), *deep = json_object(), *huge;
    json_t *tools = json_pack("[{ss s{ss sO}}]", "type", "function", "function", "name", "f", "parameters", deep);
    struct nef_chat_options options = {.family = NEF_CHAT_QWEN3, .messages = messages};
    size_t bytes;
    char *content = malloc(1 << 20);

    (void)state;
    assert_non_null(content);
    memset(content, 'x', 1 << 20);
    huge = json_pack("{ss so}", "role", "user", "content", json_stringn(content, 1 << 20));
    free(content);
    for (unsigned i = 0; i < 17; i++)
        assert_int_equal(json_array_append(messages, huge), 0);
    assert_int_equal(nef_chat_render(&options, why, &text, &bytes), NEF_E_LIMIT);
    assert_null(text);
    for (json_t *at = deep; json_array_size(messages) < 17 + 140;) {
        json_t *inner = json_object();

        assert_int_equal(json_object_set_new(at, "a", inner), 0);
        assert_int_equal(json_array_append(messages, huge), 0);
        at = inner;
    }
    assert_int_equal(json_array_clear(messages), 0);
    assert_int_equal(json_array_append_new(messages, json_pack("{ss ss}", "role", "user", "content", "x")), 0);
    options.tools = tools;
    assert_int_equal(nef_chat_render(&options, why, &text, &bytes), NEF_E_LIMIT);
    assert_non_null(strstr(why, "deeper"));
    json_decref(huge);
    json_decref(messages);
    json_decref(tools);
    json_decref(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_tell_the_family),
        cmocka_unit_test(families_differ),
        cmocka_unit_test(messages_are_made_plain),
        cmocka_unit_test(arguments_given_as_text),
        cmocka_unit_test(final_messages_stay_open),
        cmocka_unit_test(json_is_pythons),
        cmocka_unit_test(malformed_messages_are_named),
        cmocka_unit_test(sizes_are_limited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
