/* Bodies of requests: what is taken, what is refused, and under which name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/assert.h"
#include "base/buf.h"
#include "base/limits.h"
#include "infer/api/request.h"

static const struct nef_sampling presets = {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .min_p = 0};

static bool parse(enum nef_api_kind kind, const char *body, struct nef_api_request *r, struct nef_api_error *e)
{
    memset(e, 0, sizeof(*e));
    return nef_api_request_parse(kind, body, strlen(body), &presets, 1000, r, e);
}

static void refused(enum nef_api_kind kind, const char *body, const char *param, const char *code)
{
    struct nef_api_request r = {0};
    struct nef_api_error e;

    if (parse(kind, body, &r, &e)) {
        nef_api_request_free(&r);
        fail_msg("taken: %s", body);
    }
    if (strcmp(e.param, param) != 0 || strcmp(e.code, code) != 0 || e.message[0] == '\0')
        fail_msg("%s: param '%s' code '%s': %s", body, e.param, e.code, e.message);
    assert_string_equal(e.type, "invalid_request_error");
}

static void taken(enum nef_api_kind kind, const char *body)
{
    struct nef_api_request r = {0};
    struct nef_api_error e;

    if (!parse(kind, body, &r, &e))
        fail_msg("%s: %s", body, e.message);
    nef_api_request_free(&r);
}

static void everything_is_read(void **state)
{
    struct nef_api_request r = {0};
    struct nef_api_error e;

    (void)state;
    assert_true(parse(
        NEF_API_CHAT,
        "{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"max_tokens\": 7,"
        "\"max_completion_tokens\": 7, \"temperature\": 0, \"top_p\": 0.5, \"top_k\": -1, \"min_p\": 0.25,"
        "\"seed\": -1, \"stop\": [\"a\", \"bc\"], \"stream\": true, \"stream_options\": {\"include_usage\": true},"
        "\"return_token_ids\": true, \"ignore_eos\": true, \"chat_template_kwargs\": {\"enable_thinking\": false},"
        "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}], \"tool_choice\": \"auto\"}",
        &r, &e));
    assert_string_equal(r.model, "m");
    assert_int_equal(json_array_size(r.messages), 1);
    assert_int_equal(r.tokens_max, 7);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 0.5f && r.sampling.min_p == 0.25f);
    assert_int_equal(r.sampling.top_k, 0);
    assert_true(r.sampling.seed == UINT64_MAX && r.seed_said);
    assert_int_equal(r.stop_count, 2);
    assert_int_equal(r.stops[1].bytes, 2);
    assert_true(r.stream && r.include_usage && r.return_token_ids && r.ignore_eos && !r.enable_thinking &&
                r.thinking_said);
    assert_non_null(r.tools);
    assert_true(r.add_generation_prompt && !r.continue_final_message);
    nef_api_request_free(&r);

    assert_true(parse(NEF_API_COMPLETION, "{\"prompt\": [[1, 2], [999]], \"echo\": true, \"max_tokens\": 0}", &r, &e));
    assert_int_equal(r.prompt_count, 2);
    assert_int_equal(r.prompts[0].count, 2);
    assert_int_equal(r.prompts[1].tokens[0], 999);
    assert_true(r.echo && r.tokens_max == 0);
    assert_true(r.sampling.temperature == 0.6f && r.sampling.top_k == 20 && !r.seed_said);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_COMPLETION, "{\"prompt\": [3, 4]}", &r, &e));
    assert_int_equal(r.prompt_count, 1);
    assert_int_equal(r.prompts[0].count, 2);
    assert_true(r.tokens_max == UINT32_MAX);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_COMPLETION, "{\"prompt\": [\"a\", \"b\"]}", &r, &e));
    assert_int_equal(r.prompt_count, 2);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_TOKENIZE, "{\"content\": \"a\\u0000b\"}", &r, &e));
    assert_int_equal(r.prompts[0].bytes, 3);
    assert_true(r.parse_special && !r.add_special);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_DETOKENIZE, "{\"tokens\": []}", &r, &e));
    assert_int_equal(r.prompt_count, 1);
    nef_api_request_free(&r);
    /* "none": the model isn't told of tools */
    assert_true(
        parse(NEF_API_CHAT,
              "{\"messages\": [{}], \"tool_choice\": \"none\", \"tools\": [{\"type\": \"function\", \"function\": "
              "{\"name\": \"f\"}}]}",
              &r, &e));
    assert_null(r.tools);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_CHAT, "{\"messages\": [{}], \"continue_final_message\": true}", &r, &e));
    assert_false(r.add_generation_prompt);
    nef_api_request_free(&r);
}

#define M "\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]"

static void what_clients_always_send_is_taken(void **state)
{
    (void)state;
    taken(NEF_API_CHAT,
          "{" M ", \"user\": \"u\", \"metadata\": {\"a\": \"b\"}, \"store\": false, \"logprobs\": false, \"n\": 1,"
          "\"presence_penalty\": 0, \"frequency_penalty\": 0.0, \"logit_bias\": {}, \"top_logprobs\": 0,"
          "\"response_format\": {\"type\": \"text\"}, \"modalities\": [\"text\"], \"parallel_tool_calls\": true,"
          "\"service_tier\": \"auto\", \"safety_identifier\": \"s\", \"prompt_cache_key\": \"k\","
          "\"repetition_penalty\": 1.0}");
    taken(NEF_API_COMPLETION,
          "{\"prompt\": \"x\", \"best_of\": 1, \"suffix\": \"\", \"logit_bias\": {}, \"n\": 1, \"user\": \"u\"}");
    /* null is absent, of what isn't supported too */
    taken(NEF_API_CHAT,
          "{" M ", \"stop\": null, \"temperature\": null, \"tools\": null, \"functions\": null, \"audio\": null,"
          "\"reasoning_effort\": null, \"stream_options\": null, \"max_tokens\": null, \"response_format\": null}");
    taken(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"logprobs\": null}");
}

static void what_is_not_done_is_named(void **state)
{
    static const char *const chat[] = {"reasoning_effort", "functions", "function_call",      "audio",
                                       "prediction",       "verbosity", "web_search_options", "prompt_cache_retention"};
    char body[256];

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(chat); i++) {
        (void)snprintf(body, sizeof(body), "{" M ", \"%s\": \"x\"}", chat[i]);
        refused(NEF_API_CHAT, body, chat[i], "unsupported_parameter");
    }
    refused(NEF_API_CHAT, "{" M ", \"n\": 2}", "n", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"logprobs\": true}", "logprobs", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"presence_penalty\": 0.1}", "presence_penalty", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"1\": 2}}", "logit_bias", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"store\": true}", "store", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"parallel_tool_calls\": false}", "parallel_tool_calls", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"service_tier\": \"flex\"}", "service_tier", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"response_format\": {\"type\": \"json_object\"}}", "response_format",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"tool_choice\": \"required\"}", "tool_choice", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"tool_choice\": {\"type\": \"function\"}}", "tool_choice", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"chat_template_kwargs\": {\"x\": 1}}", "chat_template_kwargs",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"stream\": true, \"stream_options\": {\"x\": 1}}", "stream_options",
            "unsupported_parameter");
    refused(NEF_API_CHAT,
            "{" M ", \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"strict\": true}}]}",
            "tools", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"logprobs\": 0}", "logprobs", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"suffix\": \"y\"}", "suffix", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"best_of\": 2}", "best_of", "unsupported_parameter");
    /* names that belong elsewhere, or nowhere */
    refused(NEF_API_CHAT, "{" M ", \"prompt\": \"x\"}", "prompt", "unknown_parameter");
    refused(NEF_API_CHAT, "{" M ", \"temprature\": 1}", "temprature", "unknown_parameter");
    refused(NEF_API_CHAT, "{" M ", \"temprature\": null}", "temprature", "unknown_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"messages\": []}", "messages", "unknown_parameter");
    refused(NEF_API_TOKENIZE, "{\"content\": \"x\", \"temperature\": 1}", "temperature", "unknown_parameter");
}

static void wrong_values_are_named(void **state)
{
    (void)state;
    refused(NEF_API_CHAT, "{" M ", \"temperature\": \"1\"}", "temperature", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"temperature\": 2.1}", "temperature", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"temperature\": -0.1}", "temperature", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"top_p\": 1.01}", "top_p", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"top_k\": 1.5}", "top_k", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"top_k\": -2}", "top_k", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"seed\": \"x\"}", "seed", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"max_tokens\": 0}", "max_tokens", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"max_tokens\": 1, \"max_completion_tokens\": 2}", "max_completion_tokens",
            "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"stop\": [\"\"]}", "stop", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"stop\": [1]}", "stop", "invalid_type");
    refused(NEF_API_CHAT,
            "{" M ", \"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\","
            "\"13\",\"14\",\"15\",\"16\",\"17\"]}",
            "stop", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"stream\": 1}", "stream", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"stream_options\": {\"include_usage\": true}}", "stream_options", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"tools\": [{\"type\": \"function\"}]}", "tools", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"continue_final_message\": true, \"add_generation_prompt\": true}",
            "continue_final_message", "invalid_value");
    refused(NEF_API_CHAT, "{\"messages\": []}", "messages", "invalid_type");
    refused(NEF_API_CHAT, "{}", "messages", "missing_required_parameter");
    refused(NEF_API_COMPLETION, "{}", "prompt", "missing_required_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": null}", "prompt", "missing_required_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": []}", "prompt", "invalid_value");
    refused(NEF_API_COMPLETION, "{\"prompt\": 1}", "prompt", "invalid_type");
    refused(NEF_API_COMPLETION, "{\"prompt\": [1, \"x\"]}", "prompt", "invalid_type");
    refused(NEF_API_COMPLETION, "{\"prompt\": [\"x\", 1]}", "prompt", "invalid_type");
    refused(NEF_API_COMPLETION, "{\"prompt\": [1, 1000]}", "prompt", "invalid_value");
    refused(NEF_API_COMPLETION, "{\"prompt\": [-1]}", "prompt", "invalid_value");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"max_tokens\": 0}", "max_tokens", "invalid_value");
    refused(NEF_API_DETOKENIZE, "{\"tokens\": \"x\"}", "tokens", "invalid_type");
    refused(NEF_API_TOKENIZE, "{\"content\": [\"x\"]}", "content", "invalid_type");
}

static void broken_bodies(void **state)
{
    struct nef_api_request r = {0};
    struct nef_api_error e;
    struct nef_buf b = {0};

    (void)state;
    refused(NEF_API_CHAT, "", "", "");
    refused(NEF_API_CHAT, "[]", "", "");
    refused(NEF_API_CHAT, "{", "", "");
    refused(NEF_API_CHAT, "{\"messages\": \xff}", "", "");
    refused(NEF_API_CHAT, "{" M ", " M "}", "", ""); /* twice */
    /* what is quoted from a body is short, and whole characters */
    nef_buf_text(&b, "{\"a");
    for (int i = 0; i < 1000; i++)
        nef_buf_text(&b, "\xe2\x82\xac");
    nef_buf_text(&b, "\": 1}");
    assert_false(parse(NEF_API_CHAT, nef_buf_cstr(&b), &r, &e));
    assert_true(strlen(e.param) <= 64);
    json_decref(json_string(e.message));
    assert_int_equal(strlen(e.param) % 3, 1);
    /* a few megabytes that would become hundreds when parsed */
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"messages\": [");
    for (uint32_t i = 0; i <= NEF_INFER_JSON_CONTAINERS_MAX; i++)
        nef_buf_text(&b, "[],");
    nef_buf_text(&b, "[]]}");
    assert_false(parse(NEF_API_CHAT, nef_buf_cstr(&b), &r, &e));
    assert_int_equal(e.status, 413);
    /* brackets inside of text are text */
    nef_buf_reset(&b);
    nef_buf_text(&b, "{\"prompt\": \"\\\"");
    for (uint32_t i = 0; i <= NEF_INFER_JSON_CONTAINERS_MAX; i++)
        nef_buf_text(&b, "[,");
    nef_buf_text(&b, "\"}");
    taken(NEF_API_COMPLETION, nef_buf_cstr(&b));
    nef_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read),       cmocka_unit_test(what_clients_always_send_is_taken),
        cmocka_unit_test(what_is_not_done_is_named), cmocka_unit_test(wrong_values_are_named),
        cmocka_unit_test(broken_bodies),
    };

    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
