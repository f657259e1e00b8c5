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
        "\"return_token_ids\": true, \"chat_template_kwargs\": {\"enable_thinking\": false, \"thinking_budget\": 9},"
        "\"n\": 3, \"presence_penalty\": 0.5, \"frequency_penalty\": -2, \"repetition_penalty\": 1.5,"
        "\"logit_bias\": {\"0\": -100, \"999\": 1.5}, \"logprobs\": true, \"top_logprobs\": 4,"
        "\"parallel_tool_calls\": false,"
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
    assert_true(r.stream && r.include_usage && r.return_token_ids && !r.enable_thinking && r.thinking_said);
    assert_int_equal(r.thinking_max, 9);
    assert_int_equal(r.choices, 3);
    assert_true(r.sampling.presence_penalty == 0.5f && r.sampling.frequency_penalty == -2 &&
                r.sampling.repetition_penalty == 1.5f);
    assert_int_equal(r.bias_count, 2);
    assert_true(r.bias[0].token == 0 && r.bias[0].bias == -100 && r.bias[1].token == 999 && r.bias[1].bias == 1.5f);
    assert_int_equal(r.logprobs, 5);
    assert_non_null(r.tools);
    assert_true(r.callable == r.tools && !r.tools_required && r.function == NULL && !r.parallel_tool_calls);
    assert_true(r.add_generation_prompt && !r.continue_final_message);
    nef_api_request_free(&r);

    assert_true(parse(NEF_API_COMPLETION, "{\"prompt\": [[1, 2], [999]], \"echo\": true, \"max_tokens\": 0}", &r, &e));
    assert_int_equal(r.prompt_count, 2);
    assert_int_equal(r.prompts[0].count, 2);
    assert_int_equal(r.prompts[1].tokens[0], 999);
    assert_true(r.echo && r.tokens_max == 0);
    assert_true(r.sampling.temperature == 0.6f && r.sampling.top_k == 20 && !r.seed_said);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_COMPLETION, "{\"prompt\": [[1], [2]], \"n\": 2, \"ignore_eos\": true, \"logprobs\": 0,"
                                          "\"stream\": true, \"best_of\": 2,"
                                          "\"nef_continue_token_ids\": [[5, 6], null, [], [7]]}",
                      &r, &e));
    assert_true(r.ignore_eos);
    assert_int_equal(r.logprobs, 1);
    assert_int_equal(r.continued_count, 4);
    assert_int_equal(r.continued[0].count, 2);
    assert_null(r.continued[1].tokens);
    assert_true(r.continued[2].tokens != NULL && r.continued[2].count == 0);
    assert_int_equal(r.continued[3].tokens[0], 7);
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_EMBEDDING, "{\"input\": [\"a\", \"b\"], \"encoding_format\": \"base64\", \"dimensions\": 64}",
                      &r, &e));
    assert_true(r.prompt_count == 2 && r.base64 && r.dimensions == 64);
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
    taken(NEF_API_CHAT, "{" M ", \"reasoning_effort\": \"none\", \"tools\": [], \"tool_choice\": \"auto\"}");
    taken(NEF_API_EMBEDDING, "{\"input\": [1, 2], \"encoding_format\": \"float\", \"user\": \"u\", \"model\": \"m\"}");
}

static void what_is_not_done_is_named(void **state)
{
    static const char *const chat[] = {"functions", "function_call",      "audio",                 "prediction",
                                       "verbosity", "web_search_options", "prompt_cache_retention"};
    char body[256];

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(chat); i++) {
        (void)snprintf(body, sizeof(body), "{" M ", \"%s\": \"x\"}", chat[i]);
        refused(NEF_API_CHAT, body, chat[i], "unsupported_parameter");
    }
    refused(NEF_API_CHAT, "{" M ", \"store\": true}", "store", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"service_tier\": \"flex\"}", "service_tier", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"reasoning_effort\": \"high\"}", "reasoning_effort", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"response_format\": {\"type\": \"grammar\"}}", "response_format",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"response_format\": {\"type\": \"json_object\", \"x\": 1}}", "response_format",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"chat_template_kwargs\": {\"x\": 1}}", "chat_template_kwargs",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"stream\": true, \"stream_options\": {\"x\": 1}}", "stream_options",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"tools\": [{\"type\": \"custom\", \"custom\": {\"name\": \"f\"}}]}", "tools",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"ignore_eos\": true, \"response_format\": {\"type\": \"json_object\"}}", "ignore_eos",
            "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"continue_final_message\": true, \"response_format\": {\"type\": \"json_object\"}}",
            "continue_final_message", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"suffix\": \"y\"}", "suffix", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"best_of\": 2}", "best_of", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"repeat_penalty\": 1.1}", "repeat_penalty", "unsupported_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"logprobs\": 0, \"nef_continue_token_ids\": []}", "logprobs",
            "unsupported_parameter");
    /* names that belong elsewhere, or nowhere */
    refused(NEF_API_CHAT, "{" M ", \"prompt\": \"x\"}", "prompt", "unknown_parameter");
    refused(NEF_API_CHAT, "{" M ", \"temprature\": 1}", "temprature", "unknown_parameter");
    refused(NEF_API_CHAT, "{" M ", \"temprature\": null}", "temprature", "unknown_parameter");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"messages\": []}", "messages", "unknown_parameter");
    refused(NEF_API_TOKENIZE, "{\"content\": \"x\", \"temperature\": 1}", "temperature", "unknown_parameter");
}

#define TOOLS \
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}, {\"type\": \"function\", \"function\": " \
    "{\"name\": \"g\", \"strict\": true}}]"
#define ALLOWED(mode, tools) \
    "\"tool_choice\": {\"type\": \"allowed_tools\", \"allowed_tools\": {\"mode\": \"" mode "\", \"tools\": [" tools "]}}"

static void tools_that_may_be_called(void **state)
{
    static const struct {
        const char *body;
        size_t shown, callable;
        bool required;
        const char *function;
    } cases[] = {
        {"{" M ", " TOOLS "}", 2, 2, false, NULL},
        {"{" M ", " TOOLS ", \"tool_choice\": \"auto\"}", 2, 2, false, NULL},
        {"{" M ", " TOOLS ", \"tool_choice\": \"none\"}", 0, 0, false, NULL},
        {"{" M ", " TOOLS ", \"tool_choice\": \"required\"}", 2, 2, true, NULL},
        {"{" M ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"g\"}}, " TOOLS "}", 2, 2, true, "g"},
        {"{" M ", " ALLOWED("auto", "{\"type\": \"function\", \"function\": {\"name\": \"g\"}}") ", " TOOLS "}", 2, 1, false,
         NULL},
        {"{" M ", " TOOLS ", " ALLOWED("required", "{\"type\": \"function\", \"function\": {\"name\": \"f\"}}") "}", 2, 1, true,
         NULL},
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(cases); i++) {
        struct nef_api_request r = {0};
        struct nef_api_error e;

        if (!parse(NEF_API_CHAT, cases[i].body, &r, &e))
            fail_msg("%s: %s", cases[i].body, e.message);
        assert_int_equal(json_array_size(r.tools), cases[i].shown);
        assert_int_equal(json_array_size(r.callable), cases[i].callable);
        assert_int_equal(r.tools_required, cases[i].required);
        assert_true((r.function == NULL) == (cases[i].function == NULL));
        if (r.function != NULL)
            assert_string_equal(r.function, cases[i].function);
        assert_int_equal(nef_api_request_grammar(&r), cases[i].shown > 0);
        nef_api_request_free(&r);
    }
    refused(NEF_API_CHAT, "{" M ", \"tool_choice\": \"required\"}", "tool_choice", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", \"tool_choice\": \"any\"}", "tool_choice", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", \"tool_choice\": 1}", "tool_choice", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", \"tool_choice\": {\"type\": \"function\"}}", "tool_choice", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"h\"}}}",
            "tool_choice", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", " ALLOWED("auto", "") "}", "tool_choice", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", " ALLOWED("auto", "{\"function\": {\"name\": \"h\"}}") "}", "tool_choice",
            "invalid_value");
    refused(NEF_API_CHAT, "{" M ", " TOOLS ", " ALLOWED("never", "{\"function\": {\"name\": \"f\"}}") "}", "tool_choice",
            "invalid_value");
    refused(NEF_API_CHAT,
            "{" M ", \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}, {\"type\": \"function\", "
            "\"function\": {\"name\": \"f\"}}]}",
            "tools", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"a\\u0000b\"}}]}", "tools",
            "invalid_value");
}

static void formats_of_answers(void **state)
{
    struct nef_api_request r = {0};
    struct nef_api_error e;

    (void)state;
    assert_true(parse(NEF_API_CHAT, "{" M ", \"response_format\": {\"type\": \"json_object\"}}", &r, &e));
    assert_true(r.answer == NEF_GRAMMAR_OBJECT && r.schema == NULL && nef_api_request_grammar(&r));
    nef_api_request_free(&r);
    assert_true(parse(NEF_API_COMPLETION,
                      "{\"prompt\": \"x\", \"response_format\": {\"type\": \"json_schema\", \"json_schema\": {\"name\": \"n\", "
                      "\"description\": \"d\", \"strict\": true, \"schema\": {\"type\": \"object\"}}}}",
                      &r, &e));
    assert_true(r.answer == NEF_GRAMMAR_SCHEMA && json_is_object(r.schema));
    nef_api_request_free(&r);
#define FORMAT(x) "{" M ", \"response_format\": {\"type\": \"json_schema\", \"json_schema\": " x "}}"
    refused(NEF_API_CHAT, FORMAT("1"), "response_format.json_schema", "invalid_type");
    refused(NEF_API_CHAT, FORMAT("{\"name\": \"x\"}"), "response_format.json_schema.schema", "invalid_type");
    refused(NEF_API_CHAT, FORMAT("{\"schema\": {}, \"strict\": 1}"), "response_format.json_schema.strict", "invalid_type");
    refused(NEF_API_CHAT, FORMAT("{\"schema\": {}, \"strictly\": true}"), "response_format", "unsupported_parameter");
    refused(NEF_API_CHAT, "{" M ", \"response_format\": {}}", "response_format.type", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"response_format\": \"json\"}", "response_format", "invalid_type");
}

static void wrong_values_are_named(void **state)
{
    (void)state;
    refused(NEF_API_CHAT, "{" M ", \"n\": 0}", "n", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"n\": 129}", "n", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"n\": 1.5}", "n", "invalid_type");
    refused(NEF_API_COMPLETION, "{\"prompt\": [\"x\", \"y\"], \"n\": 65}", "n", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logprobs\": 1}", "logprobs", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"logprobs\": true, \"top_logprobs\": 21}", "top_logprobs", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"top_logprobs\": 2}", "top_logprobs", "invalid_value");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"logprobs\": true}", "logprobs", "invalid_type");
    refused(NEF_API_COMPLETION, "{\"prompt\": \"x\", \"logprobs\": 21}", "logprobs", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"presence_penalty\": 2.1}", "presence_penalty", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"frequency_penalty\": \"1\"}", "frequency_penalty", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"repetition_penalty\": 0}", "repetition_penalty", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": [1]}", "logit_bias", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"x\": 1}}", "logit_bias", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"01\": 1}}", "logit_bias", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"1000\": 1}}", "logit_bias", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"99999999999999999999\": 1}}", "logit_bias", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"1\": 101}}", "logit_bias", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"logit_bias\": {\"1\": \"1\"}}", "logit_bias", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"thinking_budget\": -1}", "thinking_budget", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"chat_template_kwargs\": {\"thinking_budget\": \"x\"}}",
            "chat_template_kwargs.thinking_budget", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"nef_continue_token_ids\": 1}", "nef_continue_token_ids", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"nef_continue_token_ids\": [1000]}", "nef_continue_token_ids", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"nef_continue_token_ids\": [1, \"x\"]}", "nef_continue_token_ids", "invalid_type");
    refused(NEF_API_CHAT, "{" M ", \"nef_continue_token_ids\": [[1], [2]]}", "nef_continue_token_ids", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"n\": 2, \"nef_continue_token_ids\": [1, 2]}", "nef_continue_token_ids", "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"n\": 2, \"nef_continue_token_ids\": [[1], null]}", "nef_continue_token_ids",
            "invalid_value");
    refused(NEF_API_CHAT, "{" M ", \"n\": 2, \"nef_continue_token_ids\": [[1], 2]}", "nef_continue_token_ids", "invalid_type");
    refused(NEF_API_EMBEDDING, "{}", "input", "missing_required_parameter");
    refused(NEF_API_EMBEDDING, "{\"input\": []}", "input", "invalid_value");
    refused(NEF_API_EMBEDDING, "{\"input\": \"x\", \"dimensions\": 0}", "dimensions", "invalid_value");
    refused(NEF_API_EMBEDDING, "{\"input\": \"x\", \"encoding_format\": \"hex\"}", "encoding_format", "invalid_value");
    refused(NEF_API_EMBEDDING, "{\"input\": \"x\", \"temperature\": 1}", "temperature", "unknown_parameter");
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
        cmocka_unit_test(tools_that_may_be_called),  cmocka_unit_test(formats_of_answers),
    };

    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
