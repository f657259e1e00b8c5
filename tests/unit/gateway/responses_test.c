/* /v1/responses without a region: requests as chats, chunks as events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "gateway/responses_events.h"
#include "gateway/responses_request.h"

#define ID "resp_0123456789abcdef"

static json_t *parse(const char *text) /* ' for " */
{
    char *copy = strdup(text);
    json_error_t error;
    json_t *value;

    for (char *c = copy; *c != '\0'; c++)
        if (*c == '\'')
            *c = '"';
    value = json_loads(copy, JSON_DECODE_ANY, &error);
    if (value == NULL)
        fail_msg("%s: %s", error.text, copy);
    free(copy);
    return value;
}

static void expect_json(json_t *got, const char *want_text) /* both are taken */
{
    json_t *want = parse(want_text);

    if (!json_equal(got, want)) {
        char *a = json_dumps(got, JSON_SORT_KEYS), *b = json_dumps(want, JSON_SORT_KEYS);

        fail_msg("got  %s\nwant %s", a, b);
    }
    json_decref(got);
    json_decref(want);
}

/* The chat that BODY becomes after CONTEXT (NULL: none); NULL: refused, and *why says it. */
static json_t *chat_of(const char *body_text, const char *context_text, struct nef_responses_why *why)
{
    struct nef_responses_request request;
    json_t *body = parse(body_text), *context = context_text == NULL ? NULL : parse(context_text), *chat = NULL;
    nef_err err = nef_responses_request_parse(body, ID, &request, why);

    if (err == NEF_OK)
        err = nef_responses_chat(request.body, context, request.input, 14, &chat, why);
    assert_true(err == NEF_OK || err == NEF_E_INVALID);
    nef_responses_request_free(&request);
    json_decref(body);
    json_decref(context);
    return chat;
}

static void requests_become_chats(void **state)
{
    struct nef_responses_why why;

    (void)state;
    expect_json(
        chat_of(
            "{'model': 'm', 'input': 'Hello', 'instructions': 'Be brief.', 'max_output_tokens': 9, 'temperature': 0.5,"
            " 'seed': 3, 'store': false, 'metadata': {'a': 'b'}, 'user': null}",
            NULL, &why),
        "{'model': 'm', 'messages': [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello'}],"
        " 'max_tokens': 9, 'temperature': 0.5, 'seed': 3, 'return_token_ids': true}");
    expect_json(
        chat_of(
            "{'model': 'm', 'input': [{'role': 'developer', 'content': [{'type': 'input_text', 'text': 'a'},"
            "{'type': 'input_text', 'text': 'b'}]}, {'type': 'function_call_output', 'call_id': 'c1', 'output': '{}'}],"
            " 'tools': [{'type': 'function', 'name': 'f', 'parameters': {}, 'strict': true}],"
            " 'tool_choice': {'type': 'function', 'name': 'f'}, 'parallel_tool_calls': false,"
            " 'text': {'format': {'type': 'json_schema', 'name': 'n', 'schema': {'type': 'object'}, 'strict': true}},"
            " 'reasoning': {'effort': 'none'}}",
            "[{'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'q'}]},"
            " {'type': 'reasoning', 'summary': [], 'content': [{'type': 'reasoning_text', 'text': 'hm'}]},"
            " {'type': 'message', 'role': 'assistant', 'content': [{'type': 'output_text', 'text': 'I look'}]},"
            " {'type': 'function_call', 'call_id': 'c1', 'name': 'f', 'arguments': '{}'}]",
            &why),
        "{'model': 'm', 'messages': [{'role': 'user', 'content': 'q'},"
        " {'role': 'assistant', 'content': 'I look', 'reasoning_content': 'hm', 'tool_calls': [{'id': 'c1',"
        "   'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}]},"
        " {'role': 'system', 'content': 'ab'}, {'role': 'tool', 'tool_call_id': 'c1', 'content': '{}'}],"
        " 'tools': [{'type': 'function', 'function': {'name': 'f', 'parameters': {}, 'strict': true}}],"
        " 'tool_choice': {'type': 'function', 'function': {'name': 'f'}}, 'parallel_tool_calls': false,"
        " 'response_format': {'type': 'json_schema', 'json_schema': {'name': 'n', 'schema': {'type': 'object'},"
        "   'strict': true}}, 'seed': 7, 'return_token_ids': true,"
        " 'chat_template_kwargs': {'enable_thinking': false}}");
}

static void some_tools_are_allowed(void **state)
{
    struct nef_responses_why why;

    (void)state;
    expect_json(chat_of("{'model': 'm', 'input': 'q', 'seed': 1, 'tools': [{'type': 'function', 'name': 'f'},"
                        " {'type': 'function', 'name': 'g'}], 'tool_choice': {'type': 'allowed_tools', 'mode':"
                        " 'required', 'tools': [{'type': 'function', 'name': 'g'}]}}",
                        NULL, &why),
                "{'model': 'm', 'messages': [{'role': 'user', 'content': 'q'}], 'tools': [{'type': 'function',"
                " 'function': {'name': 'f'}}, {'type': 'function', 'function': {'name': 'g'}}], 'tool_choice': {'type':"
                " 'allowed_tools', 'allowed_tools': {'mode': 'required', 'tools': [{'type': 'function', 'function':"
                " {'name': 'g'}}]}}, 'seed': 1, 'return_token_ids': true}");
}

static void expect_error(const char *chat, const char *want)
{
    json_t *error = parse(chat);

    expect_json(nef_response_error(error), want);
    json_decref(error);
}

/* What a backend refuses is told in the words that the client used. */
static void errors_of_a_chat(void **state)
{
    (void)state;
    expect_error("{'message': 'response_format.json_schema.schema: unsupported keyword', 'param': 'response_format',"
                 " 'code': 'c'}",
                 "{'message': 'text.format.schema: unsupported keyword', 'param': 'text.format.schema', 'code': 'c'}");
    expect_error("{'message': 'x', 'param': 'max_tokens'}", "{'message': 'x', 'param': 'max_output_tokens'}");
    expect_error("{'message': 'x', 'param': 'response_format'}", "{'message': 'x', 'param': 'text.format'}");
    expect_error("{'message': 'x', 'param': null}", "{'message': 'x', 'param': null}");
    expect_error("{'message': 3}", "{'message': 3}");
}

static void refused(const char *body, const char *code, const char *param)
{
    struct nef_responses_why why;
    json_t *chat = chat_of(body, NULL, &why);

    if (chat != NULL)
        fail_msg("taken: %s", body);
    assert_string_equal(why.code, code);
    assert_string_equal(why.param, param);
    assert_int_equal(why.status, 400);
}

static void what_is_not_known_is_refused_by_name(void **state)
{
    (void)state;
    refused("{'input': 'a'}", "missing_required_parameter", "model");
    refused("{'model': 'm'}", "missing_required_parameter", "input");
    refused("[]", "invalid_type", "");
    refused("{'model': 'm', 'input': 'a', 'colour': 1}", "unknown_parameter", "colour");
    refused("{'model': 'm', 'input': 'a', 'stream': 1}", "invalid_type", "stream");
    refused("{'model': 'm', 'input': 'a', 'max_output_tokens': 0}", "invalid_value", "max_output_tokens");
    refused("{'model': 'm', 'input': 'a', 'background': true, 'store': false}", "invalid_value", "background");
    refused("{'model': 'm', 'input': 'a', 'include': ['file_search_call.results']}", "unsupported_parameter",
            "include");
    refused("{'model': 'm', 'input': 'a', 'tools': [{'type': 'web_search'}]}", "unsupported_parameter", "tools");
    refused("{'model': 'm', 'input': 'a', 'previous_response_id': 'resp_../x'}", "previous_response_not_found",
            "previous_response_id");
    refused("{'model': 'm', 'input': [{'role': 'user', 'content': [{'type': 'input_image', 'image_url': 'u'}]}]}",
            "unsupported_parameter", "input[0].content");
    refused("{'model': 'm', 'input': [{'role': 'tool', 'content': 'a'}]}", "invalid_value", "input[0]");
    refused("{'model': 'm', 'input': [{'type': 'item_reference', 'id': 'x'}]}", "unsupported_parameter", "input[0]");
    refused("{'model': 'm', 'input': 3}", "invalid_type", "input");
    refused("{'model': 'm', 'input': 'a', 'tools': [{'type': 'function', 'name': 'f'}], 'tool_choice': {'type':"
            " 'allowed_tools', 'mode': 'auto', 'tools': [{'type': 'web_search'}]}}",
            "unsupported_parameter", "tool_choice");
    refused("{'model': 'm', 'input': 'a', 'tools': [{'type': 'function', 'name': 'f'}], 'tool_choice': {'type':"
            " 'allowed_tools', 'tools': [{'type': 'function', 'name': 'f'}]}}",
            "unsupported_parameter", "tool_choice");
    refused("{'model': 'm', 'input': 'a', 'truncation': 'auto'}", "unsupported_parameter", "truncation");
    refused("{'model': 'm', 'input': 'a', 'top_logprobs': 2}", "unsupported_parameter", "top_logprobs");
}

static void input_items_are_whole(void **state)
{
    struct nef_responses_request request;
    struct nef_responses_why why;
    json_t *body = parse("{'model': 'm', 'input': 'Hi', 'background': true, 'stream': true}");

    (void)state;
    assert_int_equal(nef_responses_request_parse(body, ID, &request, &why), NEF_OK);
    assert_true(request.stream && request.store && request.background);
    expect_json(json_incref(request.input),
                "[{'role': 'user', 'type': 'message', 'id': 'msg_0123456789abcdefin0', 'status':"
                " 'completed', 'content': [{'type': 'input_text', 'text': 'Hi'}]}]");
    assert_null(json_object_get(request.body, "input"));
    nef_responses_request_free(&request);
    json_decref(body);
    assert_true(nef_response_id_ok(ID));
    assert_false(nef_response_id_ok("resp_"));
    assert_false(nef_response_id_ok("resp_0/1"));
    assert_false(nef_response_id_ok("msg_01"));
}

/* ---- events ---- */

struct seen {
    json_t *events;
    char types[4096];
};

static void see(void *context, uint64_t sequence, const char *type, const json_t *event)
{
    struct seen *s = context;

    assert_int_equal(sequence, json_array_size(s->events));
    assert_int_equal(json_integer_value(json_object_get(event, "sequence_number")), sequence);
    assert_string_equal(json_string_value(json_object_get(event, "type")), type);
    assert_int_equal(json_array_append_new(s->events, json_deep_copy(event)), 0);
    (void)snprintf(s->types + strlen(s->types), sizeof(s->types) - strlen(s->types), "%s%s",
                   s->types[0] == '\0' ? "" : " ", type + strlen("response."));
}

static struct nef_response *begun(struct seen *s, const char *body_text)
{
    json_t *body = parse(body_text);
    struct nef_response_head head = {ID, 1700000000, body};
    struct nef_response *r;

    memset(s, 0, sizeof(*s));
    s->events = json_array();
    r = nef_response_new(&head, see, s);
    json_decref(body);
    assert_non_null(r);
    assert_int_equal(nef_response_begin(r), NEF_OK);
    return r;
}

static nef_err take(struct nef_response *r, const char *chunk_text)
{
    json_t *chunk = parse(chunk_text), *record;
    nef_err err;

    assert_true(nef_response_chunk_counts(chunk));
    record = nef_response_chunk_record(chunk);
    err = nef_response_take(r, record);
    json_decref(chunk);
    json_decref(record);
    return err;
}

static void take_end(struct nef_response *r, const struct nef_ai_end *end, const char *finish)
{
    json_t *record = nef_response_end_record(end, finish, 1700000009);

    assert_int_equal(nef_response_take(r, record), NEF_OK);
    assert_true(nef_response_ended(r));
    assert_int_equal(nef_response_take(r, record), NEF_E_PROTOCOL);
    json_decref(record);
}

static json_t *path(json_t *value, const char *keys) /* names and indices with dots */
{
    char copy[128], *save = NULL;

    (void)snprintf(copy, sizeof(copy), "%s", keys);
    for (char *key = strtok_r(copy, ".", &save); key != NULL; key = strtok_r(NULL, ".", &save))
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key)) : json_object_get(value, key);
    return value;
}

#define DELTA(fields) "{'id': 'x', 'choices': [{'index': 0, 'delta': {" fields "}}]}"

static void a_text_is_a_message(void **state)
{
    struct nef_ai_end end = {.status = 200, .usage = {.prompt = 5, .completion = 7, .cached = 3, .reasoning = 2}};
    struct seen s;
    struct nef_response *r = begun(&s, "{'model': 'm', 'temperature': 0.5}");
    json_t *o;

    (void)state;
    assert_int_equal(take(r, DELTA("'role': 'assistant', 'content': ''")), NEF_OK);
    assert_int_equal(take(r, DELTA("'content': 'Hel'")), NEF_OK);
    o = nef_response_object(r);
    assert_string_equal(json_string_value(path(o, "status")), "in_progress");
    assert_string_equal(json_string_value(path(o, "output.0.content.0.text")), "Hel");
    json_decref(o);
    assert_int_equal(take(r, DELTA("'content': 'lo!'")), NEF_OK);
    assert_int_equal(take(r, "{'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]}"), NEF_OK);
    take_end(r, &end, "stop");
    assert_string_equal(s.types,
                        "created in_progress output_item.added content_part.added output_text.delta output_text.delta "
                        "output_text.done content_part.done output_item.done completed");
    expect_json(json_incref(json_array_get(s.events, 4)),
                "{'type': 'response.output_text.delta', 'sequence_number': 4, 'item_id': 'msg_0123456789abcdefout0',"
                " 'output_index': 0, 'content_index': 0, 'delta': 'Hel', 'logprobs': []}");
    o = path(json_array_get(s.events, 9), "response");
    assert_string_equal(json_string_value(path(o, "status")), "completed");
    assert_int_equal(json_string_length(path(o, "output.0.content.0.text")), 6);
    expect_json(json_incref(path(o, "usage")),
                "{'input_tokens': 5, 'input_tokens_details': {'cached_tokens': 3}, 'output_tokens': 7,"
                " 'output_tokens_details': {'reasoning_tokens': 2}, 'total_tokens': 12}");
    assert_true(json_equal(path(json_array_get(s.events, 8), "item"), path(o, "output.0")));
    assert_true(json_real_value(path(o, "temperature")) == 0.5);
    nef_response_free(r);
    json_decref(s.events);
}

static void thought_text_and_calls(void **state)
{
    struct nef_ai_end end = {.status = 200};
    struct seen s;
    struct nef_response *r = begun(&s, "{'model': 'm', 'background': true}");
    json_t *o;

    (void)state;
    assert_int_equal(take(r, DELTA("'reasoning_content': 'hm'")), NEF_OK);
    assert_int_equal(take(r, DELTA("'reasoning_content': 'm', 'content': 'I '")), NEF_OK);
    assert_int_equal(
        take(r, DELTA("'tool_calls': [{'index': 0, 'id': 'c0', 'type': 'function', 'function': {'name': 'f',"
                      " 'arguments': ''}}]")),
        NEF_OK);
    assert_int_equal(take(r, DELTA("'tool_calls': [{'index': 0, 'function': {'arguments': '{\\u0022a\\u0022:'}}]")),
                     NEF_OK);
    assert_int_equal(
        take(r, DELTA("'tool_calls': [{'index': 0, 'function': {'arguments': '1}'}}, {'index': 1, 'id': 'c1',"
                      " 'function': {'name': 'g', 'arguments': '{}'}}]")),
        NEF_OK);
    assert_int_equal(take(r, DELTA("'tool_calls': [{'index': 0, 'function': {'arguments': '2'}}]")), NEF_E_PROTOCOL);
    take_end(r, &end, "tool_calls");
    assert_string_equal(
        s.types,
        "created queued in_progress output_item.added content_part.added reasoning_text.delta reasoning_text.delta "
        "reasoning_text.done content_part.done output_item.done output_item.added content_part.added output_text.delta "
        "output_text.done content_part.done output_item.done output_item.added function_call_arguments.delta "
        "function_call_arguments.delta function_call_arguments.done output_item.done output_item.added "
        "function_call_arguments.delta function_call_arguments.done output_item.done completed");
    assert_string_equal(json_string_value(path(json_array_get(s.events, 0), "response.status")), "queued");
    o = path(json_array_get(s.events, json_array_size(s.events) - 1), "response");
    expect_json(json_incref(path(o, "output.2")),
                "{'id': 'fc_0123456789abcdefout2', 'type': 'function_call', 'status': 'completed', 'call_id': 'c0',"
                " 'name': 'f', 'arguments': '{\\u0022a\\u0022:1}'}");
    assert_int_equal(json_array_size(path(o, "output")), 4);
    nef_response_free(r);
    json_decref(s.events);
}

static void ends_that_are_no_success(void **state)
{
    json_t *error = parse("{'message': 'no engine', 'code': 'unavailable'}");
    const struct {
        struct nef_ai_end end;
        const char *finish, *type, *status, *item;
    } rows[] = {
        {{.status = 200}, "length", "response.incomplete", "incomplete", "incomplete"},
        {{.status = 503, .error = error}, NULL, "response.failed", "failed", "incomplete"},
        {{.status = 499, .cancelled = true}, NULL, "response.incomplete", "cancelled", "incomplete"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct seen s;
        struct nef_response *r = begun(&s, "{'model': 'm'}");
        json_t *last;

        assert_int_equal(take(r, DELTA("'content': 'a'")), NEF_OK);
        take_end(r, &rows[i].end, rows[i].finish);
        last = json_array_get(s.events, json_array_size(s.events) - 1);
        assert_string_equal(json_string_value(path(last, "type")), rows[i].type);
        assert_string_equal(json_string_value(path(last, "response.status")), rows[i].status);
        assert_string_equal(json_string_value(path(last, "response.output.0.status")), rows[i].item);
        if (i == 0)
            assert_string_equal(json_string_value(path(last, "response.incomplete_details.reason")),
                                "max_output_tokens");
        if (i == 1)
            assert_string_equal(json_string_value(path(last, "response.error.message")), "no engine");
        nef_response_free(r);
        json_decref(s.events);
    }
    json_decref(error);
}

/* Whoever replays the records, from wherever, sees the same: what a resumed stream stands on. */
static void a_replay_is_the_same(void **state)
{
    static const char *const chunks[] = {DELTA("'reasoning_content': 'x'"), DELTA("'content': 'a'"),
                                         DELTA("'content': 'b'")};
    struct nef_ai_end end = {.status = 200};
    struct seen one, two;
    struct nef_response *a = begun(&one, "{'model': 'm'}"), *b = begun(&two, "{'model': 'm'}");

    (void)state;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(take(a, chunks[i]), NEF_OK);
    take_end(a, &end, "stop");
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(take(b, chunks[i]), NEF_OK);
    take_end(b, &end, "stop");
    assert_true(json_equal(one.events, two.events));
    nef_response_free(a);
    nef_response_free(b);
    json_decref(one.events);
    json_decref(two.events);
}

static void nonsense_is_no_record(void **state)
{
    static const char *const rows[] = {"[]", "{}", "{'c': []}", "{'e': {}}",
                                       "{'c': {'choices': [{'delta': {'tool_calls': [{}]}}]}}"};
    struct seen s;
    struct nef_response *r = begun(&s, "{'model': 'm'}");

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *record = parse(rows[i]);

        assert_int_equal(nef_response_take(r, record), NEF_E_PROTOCOL);
        json_decref(record);
    }
    assert_string_equal(s.types, "created in_progress");
    nef_response_free(r);
    json_decref(s.events);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_become_chats),  cmocka_unit_test(some_tools_are_allowed),
        cmocka_unit_test(errors_of_a_chat),       cmocka_unit_test(what_is_not_known_is_refused_by_name),
        cmocka_unit_test(input_items_are_whole),  cmocka_unit_test(a_text_is_a_message),
        cmocka_unit_test(thought_text_and_calls), cmocka_unit_test(ends_that_are_no_success),
        cmocka_unit_test(a_replay_is_the_same),   cmocka_unit_test(nonsense_is_no_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
