/* The gateway's pure parts: events as they come, routes, and an answer over several backends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/assert.h"
#include "gateway/route.h"
#include "gateway/splice.h"
#include "gateway/sse.h"
#include "gateway/whole.h"

/* ---- events ---- */

struct seen {
    char text[4096];
    uint32_t count;
};

static bool on_event(void *context, const char *data, size_t bytes)
{
    struct seen *s = context;

    assert_int_equal(strlen(data), bytes);
    (void)strncat(s->text, data, sizeof(s->text) - strlen(s->text) - 2);
    (void)strcat(s->text, "|");
    s->count++;
    return strcmp(data, "stop") != 0;
}

static void take_in_pieces(const char *stream, size_t piece, const char *expected)
{
    struct nef_sse s;
    struct seen seen = {.count = 0};

    nef_sse_init(&s, 1000);
    for (size_t at = 0; at < strlen(stream); at += piece)
        assert_int_equal(nef_sse_take(&s, stream + at, NEF_MIN(piece, strlen(stream) - at), on_event, &seen), NEF_OK);
    nef_sse_done(&s);
    assert_string_equal(seen.text, expected);
}

static void events_however_they_are_cut(void **state)
{
    static const char *const streams[][2] = {
        {"data: a\n\ndata: b\n\n", "a|b|"},
        {"data:a\r\n\r\ndata: b\r\rdata:  c\n\n", "a|b| c|"},
        {"\xef\xbb\xbf" "data: a\n\n", "a|"},
        {": comment\nevent: x\nid: 7\ndata: a\ndata: b\nretry: 3\n\n", "a\nb|"},
        {"data\n\ndata:\n\nnothing\n\n", "||"},
        {"datax: a\n\n data: b\n\ndata: c\n\n", "c|"},
        {"data: cut off", ""},
        {"data: a\n\ndata: cut off\n", "a|"},
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(streams); i++)
        for (size_t piece = 1; piece <= 32; piece++)
            take_in_pieces(streams[i][0], piece, streams[i][1]);
}

static void events_have_a_limit(void **state)
{
    static const char line[] = "data: 0123456789012345678901234567890123456789\n";
    struct nef_sse s;
    struct seen seen = {.count = 0};
    nef_err err = NEF_OK;

    (void)state;
    nef_sse_init(&s, 100);
    for (int i = 0; i < 5 && err == NEF_OK; i++)
        err = nef_sse_take(&s, line, strlen(line), on_event, &seen);
    assert_int_equal(err, NEF_E_LIMIT);
    nef_sse_done(&s);
    nef_sse_init(&s, 100);
    err = NEF_OK;
    for (int i = 0; i < 50 && err == NEF_OK; i++)
        err = nef_sse_take(&s, "xxxxxxxxxx", 10, on_event, &seen);
    assert_int_equal(err, NEF_E_LIMIT);
    nef_sse_done(&s);
    nef_sse_init(&s, 100);
    assert_int_equal(nef_sse_take(&s, "data: stop\n\ndata: x\n\n", 21, on_event, &seen), NEF_E_CLOSED);
    assert_int_equal(seen.count, 1);
    nef_sse_done(&s);
}

/* ---- routes ---- */

static void routes(void **state)
{
    struct nef_route_backend b[3] = {
        {.has_model = true, .healthy = true, .allowed = true, .own_zone = true, .slots = 4},
        {.has_model = true, .healthy = true, .allowed = true, .own_zone = false, .slots = 4},
        {.has_model = false, .healthy = true, .allowed = true, .own_zone = true, .slots = 4},
    };
    struct nef_route_request q = {.queue_factor = 2, .admit = true};
    uint32_t index = 9;

    (void)state;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    assert_int_equal(index, 0);
    b[0].in_flight = 4; /* a full round: equal, the earlier one */
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    assert_int_equal(index, 0);
    b[0].in_flight = 5;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    assert_int_equal(index, 1);
    b[1].failed = true; /* only if there is no other */
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    assert_int_equal(index, 0);
    b[0].healthy = false;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    assert_int_equal(index, 1);
    b[1].in_flight = 5; /* 4 slots * 2 * 0.6 */
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_SHED);
    q.priority = 4;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    q.priority = 0;
    q.admit = false; /* what was begun goes on */
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_TAKEN);
    b[1].allowed = false; /* policy isn't widened by a loss */
    index = 9;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_NONE_HEALTHY);
    b[0].allowed = false;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_DENIED);
    b[0].has_model = b[1].has_model = false;
    assert_int_equal(nef_route(b, 3, &q, &index), NEF_ROUTE_NO_MODEL);
    assert_int_equal(nef_route(b, 0, &q, &index), NEF_ROUTE_NO_MODEL);
    assert_int_equal(index, 9);
    assert_int_equal(nef_route_limit(100, 16, 0), 960);
    assert_int_equal(nef_route_limit(100, 16, 9), 1600);
}

/* ---- splices ---- */

static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *value = json_loads(text, 0, &error);

    if (value == NULL)
        fail_msg("%s: %s", text, error.text);
    return value;
}

static struct nef_splice *splice(enum nef_ai_kind kind, const char *body)
{
    json_t *root = parse(body);
    struct nef_splice *s = NULL;

    assert_int_equal(nef_splice_new(kind, root, 77, &s), NEF_OK);
    json_decref(root);
    return s;
}

static json_t *ask(struct nef_splice *s, bool built_in)
{
    const struct nef_splice_backend backend = {.built_in = built_in, .token_ids = built_in};
    json_t *body = NULL;

    assert_int_equal(nef_splice_request(s, &backend, &body), NEF_OK);
    return body;
}

/* Gives DELTA (and what stands beside it); the delta that comes out, as text ("" for nothing). */
static char *give(struct nef_splice *s, const char *delta, const char *beside)
{
    char text[2048];
    json_t *event, *chunk = NULL;
    char *out;

    (void)snprintf(text, sizeof(text), "{\"choices\":[{\"index\":0,\"delta\":%s%s}]}", delta, beside);
    event = parse(text);
    assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
    json_decref(event);
    out = chunk == NULL ? strdup("")
                        : json_dumps(json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "delta"),
                                     JSON_COMPACT);
    json_decref(chunk);
    return out;
}

static void expect(struct nef_splice *s, const char *delta, const char *expected)
{
    char *got = give(s, delta, "");

    assert_string_equal(got, expected);
    free(got);
}

static void refuse(struct nef_splice *s, const char *event, nef_err expected)
{
    json_t *value = parse(event), *chunk = NULL;

    assert_int_equal(nef_splice_take(s, value, &chunk), expected);
    assert_null(chunk);
    json_decref(value);
}

static void drop(json_t *body)
{
    json_decref(body);
}

#define CHAT "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":10}"

static void goes_on_by_ids(void **state)
{
    struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);
    json_t *body = ask(s, true), *ids;
    char *got;

    (void)state;
    assert_int_equal(json_integer_value(json_object_get(body, "seed")), 77);
    assert_true(json_is_true(json_object_get(body, "return_token_ids")));
    assert_null(json_object_get(body, "nef_continue_token_ids"));
    drop(body);
    expect(s, "{\"role\":\"assistant\",\"content\":\"\"}", "{\"role\":\"assistant\",\"content\":\"\"}");
    got = give(s, "{\"content\":\"a\"}", ",\"token_ids\":[5,6]"); /* nobody asked for ids */
    assert_string_equal(got, "{\"content\":\"a\"}");
    free(got);
    body = ask(s, true);
    ids = json_object_get(body, "nef_continue_token_ids");
    assert_int_equal(json_array_size(ids), 2);
    assert_int_equal(json_integer_value(json_array_get(ids, 1)), 6);
    assert_int_equal(json_integer_value(json_object_get(body, "max_tokens")), 10); /* of the whole answer */
    drop(body);
    expect(s, "{\"role\":\"assistant\",\"content\":\"\"}", ""); /* given before */
    expect(s, "{\"content\":\"b\"}", "{\"content\":\"b\"}");
    refuse(s, "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}", NEF_OK);
    assert_int_equal(nef_splice_usage(s).prompt, 3);
    assert_int_equal(nef_splice_usage(s).completion, 9);
    nef_splice_free(s);
}

static void goes_on_by_text(void **state)
{
    struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);
    json_t *body = ask(s, false), *last;

    (void)state;
    assert_null(json_object_get(body, "seed"));
    drop(body);
    expect(s, "{\"content\":\"a\"}", "{\"content\":\"a\"}");
    expect(s, "{\"content\":\"b\"}", "{\"content\":\"b\"}");
    body = ask(s, true); /* the built-in engine, too: these aren't its ids */
    assert_int_equal(json_integer_value(json_object_get(body, "seed")), 77); /* this choice's, all of it */
    last = json_array_get(json_object_get(body, "messages"), 1);
    assert_string_equal(json_string_value(json_object_get(last, "content")), "ab");
    assert_int_equal(json_integer_value(json_object_get(body, "max_tokens")), 8);
    drop(body);
    refuse(s, "{\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5}}", NEF_OK);
    assert_int_equal(nef_splice_usage(s).prompt, 10);
    assert_int_equal(nef_splice_usage(s).completion, 7);
    nef_splice_free(s);
}

static void nothing_left_to_compute(void **state)
{
    const struct nef_splice_backend other = {.built_in = false};
    struct nef_splice *s = splice(NEF_AI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\",\"max_tokens\":1}");
    json_t *body = ask(s, false), *event = parse("{\"choices\":[{\"index\":0,\"text\":\"a\"}]}"), *chunk = NULL;

    (void)state;
    drop(body);
    assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
    json_decref(chunk);
    json_decref(event);
    body = NULL;
    assert_int_equal(nef_splice_request(s, &other, &body), NEF_E_RANGE);
    assert_null(body);
    nef_splice_free(s);
}

static void what_no_backend_says(void **state)
{
    static const char *const events[] = {
        "{}", "[]", "{\"choices\":3}", "{\"choices\":[3]}", "{\"choices\":[{\"index\":1,\"delta\":{}}]}",
        "{\"choices\":[{\"index\":0}]}", "{\"choices\":[{\"index\":0,\"delta\":{\"content\":3}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{}},{\"index\":0,\"delta\":{}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":5}]}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":{}}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"token_ids\":[-1]}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":7}]}",
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(events); i++) {
        struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);

        drop(ask(s, true));
        refuse(s, events[i], NEF_E_PROTOCOL);
        nef_splice_free(s);
    }
    {
        struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);

        drop(ask(s, true));
        refuse(s, "{\"error\":{\"message\":\"x\"}}", NEF_E_UNAVAILABLE);
        nef_splice_free(s);
    }
}

#define CALL(rest) "{\"tool_calls\":[{\"index\":0," rest "}]}"

/* The seam inside a call's arguments, wherever it falls: what the client has is the same JSON. */
static void a_call_cut_anywhere(void **state)
{
    static const char arguments[] = "{\"a\":\"} \\\" {\",\"b\":[{}]}";
    static const char rest[] = "}\n</tool_call>";

    (void)state;
    for (size_t cut = 0; cut < strlen(arguments); cut++) {
        for (size_t piece = 1; piece < 9; piece++) {
            struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);
            char joined[256] = "", whole[256];
            json_t *event, *chunk, *body;

            drop(ask(s, false));
            free(give(s, CALL("\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}"), ""));
            event = json_pack("{s:[{s:i, s:{s:[{s:i, s:{s:s%}}]}}]}", "choices", "index", 0, "delta", "tool_calls",
                              "index", 0, "function", "arguments", arguments, cut);
            assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
            json_decref(event);
            json_decref(chunk);
            memcpy(joined, arguments, cut);
            body = ask(s, false);
            (void)snprintf(whole, sizeof(whole), "<tool_call>\n{\"name\": \"f\", \"arguments\": %.*s", (int)cut,
                           arguments);
            assert_string_equal(
                json_string_value(json_object_get(json_array_get(json_object_get(body, "messages"), 1), "content")),
                whole);
            drop(body);
            (void)snprintf(whole, sizeof(whole), "%s%s then", arguments + cut, rest);
            for (size_t at = 0; at < strlen(whole); at += piece) {
                const json_t *delta, *calls;

                event = json_pack("{s:[{s:i, s:{s:s%}}]}", "choices", "index", 0, "delta", "content", whole + at,
                                  NEF_MIN(piece, strlen(whole) - at));
                assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
                delta = json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "delta");
                calls = json_object_get(delta, "tool_calls");
                if (calls != NULL)
                    (void)strcat(joined, json_string_value(json_object_get(
                                             json_object_get(json_array_get(calls, 0), "function"), "arguments")));
                if (json_object_get(delta, "content") != NULL)
                    (void)strcat(joined, json_string_value(json_object_get(delta, "content")));
                json_decref(event);
                json_decref(chunk);
            }
            (void)snprintf(whole, sizeof(whole), "%sthen", arguments);
            assert_string_equal(joined, whole);
            nef_splice_free(s);
        }
    }
}

static void a_call_given_again(void **state)
{
    struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);

    (void)state;
    drop(ask(s, false));
    free(give(s, CALL("\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\"\"}"), ""));
    drop(ask(s, false));
    expect(s, CALL("\"id\":\"d\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}"), "");
    expect(s, CALL("\"function\":{\"arguments\":\"{\\\"\"}"), "");
    expect(s, CALL("\"function\":{\"arguments\":\"a\\\":1\"}"),
           "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\":1\"}}]}");
    expect(s, CALL("\"function\":{\"arguments\":\"}\"}"),
           "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}");
    nef_splice_free(s);
    s = splice(NEF_AI_CHAT, CHAT);
    drop(ask(s, false));
    free(give(s, CALL("\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\"\"}"), ""));
    drop(ask(s, false));
    refuse(s, "{\"choices\":[{\"index\":0,\"delta\":" CALL("\"function\":{\"name\":\"g\",\"arguments\":\"\"}") "}]}",
           NEF_E_PROTOCOL);
    nef_splice_free(s);
}

static void thoughts_cut_anywhere(void **state)
{
    static const char rest[] = "ing\n</think>\n\nDone.";

    (void)state;
    for (size_t piece = 1; piece <= strlen(rest); piece++) {
        struct nef_splice *s = splice(NEF_AI_CHAT, CHAT);
        char content[64] = "", reasoning[64] = "think";

        drop(ask(s, false));
        free(give(s, "{\"reasoning_content\":\"think\"}", ""));
        drop(ask(s, false));
        for (size_t at = 0; at < strlen(rest); at += piece) {
            json_t *event = json_pack("{s:[{s:i, s:{s:s%}}]}", "choices", "index", 0, "delta", "content", rest + at,
                                      NEF_MIN(piece, strlen(rest) - at)), *chunk = NULL;
            const json_t *delta;

            assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
            delta = json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "delta");
            if (json_object_get(delta, "content") != NULL)
                (void)strcat(content, json_string_value(json_object_get(delta, "content")));
            if (json_object_get(delta, "reasoning_content") != NULL)
                (void)strcat(reasoning, json_string_value(json_object_get(delta, "reasoning_content")));
            json_decref(event);
            json_decref(chunk);
        }
        assert_string_equal(content, "Done.");
        assert_string_equal(reasoning, "thinking\n");
        nef_splice_free(s);
    }
}

#define FORMAT "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":{}}}"
#define CONSTRAINED \
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"tools\":[],\"guided_json\":{}," \
    "\"tool_choice\":\"required\"," FORMAT "}"

static void expect_constrained(json_t *body, bool constrained)
{
    assert_int_equal(json_object_get(body, "response_format") != NULL, constrained);
    assert_int_equal(json_object_get(body, "guided_json") != NULL, constrained);
    assert_string_equal(json_string_value(json_object_get(body, "tool_choice")), constrained ? "required" : "auto");
    assert_non_null(json_object_get(body, "tools"));
    drop(body);
}

/* A grammar is asked for again while the answer hasn't begun, and not in its middle. */
static void constraints_at_the_seam(void **state)
{
    const struct nef_splice_backend other = {.built_in = false};
    struct nef_splice *s = splice(NEF_AI_CHAT, CONSTRAINED);
    json_t *body = NULL;

    (void)state;
    expect_constrained(ask(s, false), true);
    free(give(s, "{\"reasoning_content\":\"hm\"}", ""));
    expect_constrained(ask(s, false), true);
    expect_constrained(ask(s, true), false); /* the built-in engine refuses to go on with one */
    nef_splice_refused(s);
    expect_constrained(ask(s, false), false); /* as did another */
    nef_splice_free(s);
    s = splice(NEF_AI_CHAT, CONSTRAINED);
    drop(ask(s, false));
    free(give(s, "{\"reasoning_content\":\"hm\"}", ""));
    free(give(s, "{\"content\":\"{\"}", ""));
    expect_constrained(ask(s, false), false);
    nef_splice_free(s);
    s = splice(NEF_AI_CHAT, "{\"model\":\"m\",\"messages\":[],\"tool_choice\":\"none\"}");
    drop(ask(s, false));
    free(give(s, "{\"content\":\"a\"}", ""));
    body = ask(s, false);
    assert_string_equal(json_string_value(json_object_get(body, "tool_choice")), "none"); /* no calls stays no calls */
    drop(body);
    nef_splice_free(s);
    s = splice(NEF_AI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"q\",\"regex\":\"a*\"," FORMAT "}");
    drop(ask(s, false));
    {
        json_t *event = parse("{\"choices\":[{\"index\":0,\"text\":\"a\"}]}"), *chunk = NULL;

        assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
        json_decref(event);
        json_decref(chunk);
    }
    assert_int_equal(nef_splice_request(s, &other, &body), NEF_OK);
    assert_null(json_object_get(body, "response_format"));
    assert_null(json_object_get(body, "regex"));
    drop(body);
    nef_splice_free(s);
}

/* What comes behind a seam in a thought of an answer that is to be JSON: the rest of the thought, with JSON drafted in
 * it, or the answer at once. */
static void a_constrained_thought_goes_on(void **state)
{
    static const struct {
        const char *rest, *content, *reasoning;
    } cases[] = {
        {"{\"a\": [1]}", "{\"a\": [1]}", "think"},
        {"\n [1]", "\n [1]", "think"},
        {"{\"a\"? no.\n</think>\n\n{\"a\": 1}", "{\"a\": 1}", "think{\"a\"? no.\n"},
        {" so {</think>{}", "{}", "think so {"},
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(cases); i++) {
        const char *rest = cases[i].rest;

        for (size_t piece = 1; piece <= strlen(rest); piece++) {
            struct nef_splice *s = splice(NEF_AI_CHAT, CONSTRAINED);
            char content[64] = "", reasoning[64] = "think";

            drop(ask(s, false));
            free(give(s, "{\"reasoning_content\":\"think\"}", ""));
            drop(ask(s, false));
            for (size_t at = 0; at <= strlen(rest); at += piece) {
                size_t bytes = NEF_MIN(piece, strlen(rest) - at);
                json_t *event = json_pack("{s:[{s:i, s:{s:s%}, s:s?}]}", "choices", "index", 0, "delta", "content",
                                          rest + at, bytes, "finish_reason",
                                          at + piece > strlen(rest) ? "stop" : NULL), *chunk = NULL;
                const json_t *delta;

                assert_non_null(event);
                assert_int_equal(nef_splice_take(s, event, &chunk), NEF_OK);
                delta = json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "delta");
                if (json_object_get(delta, "content") != NULL)
                    (void)strcat(content, json_string_value(json_object_get(delta, "content")));
                if (json_object_get(delta, "reasoning_content") != NULL)
                    (void)strcat(reasoning, json_string_value(json_object_get(delta, "reasoning_content")));
                json_decref(event);
                json_decref(chunk);
            }
            assert_true(nef_splice_finished(s));
            assert_string_equal(content, cases[i].content);
            assert_string_equal(reasoning, cases[i].reasoning);
            nef_splice_free(s);
        }
    }
}

/* ---- whole answers ---- */

static void a_whole_answer(void **state)
{
    static const char *const chunks[] = {
        "{\"id\":\"i\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":"
        "\"assistant\",\"content\":\"\"}}]}",
        "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"},\"logprobs\":{\"content\":[1]}}]}",
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"token_ids\":[1]}]}",
        "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"c\"},\"logprobs\":{\"content\":[2]},\"finish_reason\":"
        "\"stop\"}]}",
        "{\"choices\":[{\"index\":0,\"delta\":" CALL("\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\","
                                                     "\"arguments\":\"{\"}") ",\"token_ids\":[2,3]}]}",
        "{\"choices\":[{\"index\":0,\"delta\":" CALL(
            "\"function\":{\"arguments\":\"}\"}") ",\"finish_reason\":\"tool_calls\"}]}",
        "{\"choices\":[],\"usage\":{\"total_tokens\":9}}",
    };
    struct nef_whole *w = NULL;
    json_t *out;
    char *text;

    (void)state;
    assert_int_equal(nef_whole_new(NEF_AI_CHAT, &w), NEF_OK);
    for (size_t i = 0; i < NEF_COUNT(chunks); i++) {
        json_t *chunk = parse(chunks[i]);

        assert_int_equal(nef_whole_take(w, chunk), NEF_OK);
        json_decref(chunk);
    }
    out = nef_whole_end(w);
    text = json_dumps(out, JSON_COMPACT);
    assert_string_equal(
        text, "{\"id\":\"i\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
              "\"assistant\",\"content\":\"a\","
              "\"refusal\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\","
              "\"arguments\":\"{}\"}}]},"
              "\"logprobs\":null,\"finish_reason\":\"tool_calls\",\"token_ids\":[1,2,3]},{\"index\":1,\"message\":{"
              "\"role\":\"assistant\","
              "\"content\":\"bc\",\"refusal\":null},\"logprobs\":{\"content\":[1,2]},\"finish_reason\":\"stop\"}],"
              "\"usage\":{\"total_tokens\":9}}");
    free(text);
    json_decref(out);
    nef_whole_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_however_they_are_cut),
        cmocka_unit_test(events_have_a_limit),
        cmocka_unit_test(routes),
        cmocka_unit_test(goes_on_by_ids),
        cmocka_unit_test(goes_on_by_text),
        cmocka_unit_test(nothing_left_to_compute),
        cmocka_unit_test(what_no_backend_says),
        cmocka_unit_test(a_call_cut_anywhere),
        cmocka_unit_test(a_call_given_again),
        cmocka_unit_test(thoughts_cut_anywhere), cmocka_unit_test(constraints_at_the_seam),
        cmocka_unit_test(a_constrained_thought_goes_on),
        cmocka_unit_test(a_whole_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
