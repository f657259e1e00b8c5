/* Answers put together: what a client that follows OpenAI's rules makes of the chunks equals the whole answer, however
 * the text arrived. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/assert.h"
#include "infer/api/answer.h"
#include "infer/api/write.h"
#include "tiny.h"

static struct nef_write write_of(bool stream, bool tools, bool thinking)
{
    return (struct nef_write){.kind = NEF_API_CHAT,
                              .id = "chatcmpl-0123456789abcdef",
                              .created = 1700000000,
                              .model = "m\"1",
                              .fingerprint = "f",
                              .stream = stream,
                              .tools = tools,
                              .thinking = thinking};
}

/* What a client has put together. */
struct seen {
    struct nef_buf content, reasoning;
    json_t *calls; /* [{"id", "name", "arguments"}] */
    char finish[32];
    uint32_t chunks, ids, prompt_ids, roles;
};

static void append(struct nef_buf *b, const json_t *text)
{
    if (json_is_string(text))
        nef_buf_append(b, json_string_value(text), json_string_length(text));
}

static void follow_call(struct seen *s, const json_t *call)
{
    size_t index = (size_t)json_integer_value(json_object_get(call, "index"));
    const json_t *function = json_object_get(call, "function");
    json_t *known;

    if (json_object_get(call, "id") != NULL) {
        assert_int_equal(index, json_array_size(s->calls)); /* told once, in order */
        assert_string_equal(json_string_value(json_object_get(call, "type")), "function");
        assert_int_equal(
            json_array_append_new(s->calls, json_pack("{s:O, s:O, s:s}", "id", json_object_get(call, "id"), "name",
                                                      json_object_get(function, "name"), "arguments", "")),
            0);
    }
    known = json_array_get(s->calls, index);
    assert_non_null(known);
    {
        struct nef_buf text = {0};

        append(&text, json_object_get(known, "arguments"));
        append(&text, json_object_get(function, "arguments"));
        assert_int_equal(json_object_set_new(known, "arguments", json_string(nef_buf_cstr(&text))), 0);
        nef_buf_free(&text);
    }
}

static void follow_chunk(struct seen *s, const char *text, size_t bytes)
{
    json_error_t error;
    json_t *chunk = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error), *choice, *delta;
    const json_t *call;
    size_t i;

    if (chunk == NULL)
        fail_msg("%s in %.*s", error.text, (int)bytes, text);
    assert_string_equal(json_string_value(json_object_get(chunk, "object")), "chat.completion.chunk");
    assert_string_equal(json_string_value(json_object_get(chunk, "model")), "m\"1");
    choice = json_array_get(json_object_get(chunk, "choices"), 0);
    delta = json_object_get(choice, "delta");
    s->chunks++;
    s->roles += json_object_get(delta, "role") != NULL;
    s->ids += (uint32_t)json_array_size(json_object_get(choice, "token_ids"));
    s->prompt_ids += (uint32_t)json_array_size(json_object_get(chunk, "prompt_token_ids"));
    append(&s->content, json_object_get(delta, "content"));
    append(&s->reasoning, json_object_get(delta, "reasoning_content"));
    json_array_foreach(json_object_get(delta, "tool_calls"), i, call) follow_call(s, call);
    if (json_is_string(json_object_get(choice, "finish_reason"))) {
        assert_int_equal(s->finish[0], 0);
        (void)snprintf(s->finish, sizeof(s->finish), "%s", json_string_value(json_object_get(choice, "finish_reason")));
    }
    json_decref(chunk);
}

static void follow(struct seen *s, struct nef_buf *sse)
{
    const char *at = nef_buf_cstr(sse), *end;

    while (*at != '\0') {
        assert_memory_equal(at, "data: ", 6);
        end = strstr(at, "\n\n");
        assert_non_null(end);
        follow_chunk(s, at + 6, (size_t)(end - at - 6));
        at = end + 2;
    }
}

static void seen_free(struct seen *s)
{
    nef_buf_free(&s->content);
    nef_buf_free(&s->reasoning);
    json_decref(s->calls);
}

/* TEXT as a model says it, byte for byte in pieces of STEP (ASCII). */
static void say(struct nef_choice *c, const char *text, size_t step, enum nef_finish finish, struct nef_buf *out)
{
    size_t bytes = strlen(text);

    nef_choice_begin(c, out);
    for (size_t at = 0; at < bytes; at += step) {
        struct nef_piece piece = {.text = {0}};
        const struct nef_piece_token token = {
            .id = (uint32_t)(uint8_t)text[at], .end = (uint32_t)NEF_MIN(step, bytes - at), .logprob = -1};

        nef_buf_append(&piece.text, text + at, token.end);
        nef_buf_append(&piece.tokens, &token, sizeof(token));
        assert_int_equal(nef_choice_take(c, &piece, step > 5 && at + step >= bytes, out), NEF_OK);
        nef_piece_free(&piece);
    }
    assert_int_equal(nef_choice_end(c, finish, out), NEF_OK);
}

static const char two_calls[] =
    "<think>\nLet me look.\n</think>\n\nI look it up.\n"
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 2}}\n</tool_call>\n"
    "<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";

static void streamed_tool_calls(void **state)
{
    (void)state;
    for (size_t step = 1; step <= sizeof(two_calls); step += step < 8 ? 1 : 29) {
        struct nef_write w = write_of(true, true, true);
        struct seen s = {.calls = json_array()};
        struct nef_buf out = {0};
        struct nef_choice *c;
        json_t *arguments;

        assert_int_equal(nef_choice_open(&w, 0, NULL, 0, &c), NEF_OK);
        say(c, two_calls, step, NEF_FINISH_STOP, &out);
        follow(&s, &out);
        assert_string_equal(nef_buf_cstr(&s.reasoning), "Let me look.");
        assert_string_equal(nef_buf_cstr(&s.content), "I look it up.");
        assert_string_equal(s.finish, "tool_calls");
        assert_int_equal(s.roles, 1);
        assert_int_equal(json_array_size(s.calls), 2);
        assert_string_equal(json_string_value(json_object_get(json_array_get(s.calls, 0), "name")), "weather");
        assert_string_equal(json_string_value(json_object_get(json_array_get(s.calls, 1), "name")), "time");
        assert_string_not_equal(json_string_value(json_object_get(json_array_get(s.calls, 0), "id")),
                                json_string_value(json_object_get(json_array_get(s.calls, 1), "id")));
        arguments = json_loads(json_string_value(json_object_get(json_array_get(s.calls, 0), "arguments")), 0, NULL);
        assert_int_equal(json_integer_value(json_object_get(arguments, "days")), 2);
        json_decref(arguments);
        nef_choice_close(c);
        nef_buf_free(&out);
        seen_free(&s);
    }
}

static json_t *whole(const struct nef_write *w, const char *text, size_t step, enum nef_finish finish)
{
    struct nef_usage usage = {.prompt = 10, .cached = 4, .completion = 5};
    struct nef_buf out = {0};
    struct nef_choice *c;
    const uint32_t prompt[] = {7, 8};
    json_error_t error;
    json_t *root;

    assert_int_equal(nef_choice_open(w, 0, prompt, 2, &c), NEF_OK);
    say(c, text, step, finish, &out);
    assert_int_equal(out.bytes, 0);
    nef_write_whole(w, &c, 1, &usage, &out);
    root = json_loadb((const char *)out.data, out.bytes, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        fail_msg("%s in %s", error.text, nef_buf_cstr(&out));
    nef_choice_close(c);
    nef_buf_free(&out);
    return root;
}

static const json_t *choice_of(const json_t *root)
{
    return json_array_get(json_object_get(root, "choices"), 0);
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void whole_tool_calls(void **state)
{
    struct nef_write w = write_of(false, true, true);
    json_t *root = whole(&w, two_calls, 3, NEF_FINISH_STOP);
    const json_t *message = json_object_get(choice_of(root), "message"),
                 *calls = json_object_get(message, "tool_calls"), *usage;

    (void)state;
    assert_string_equal(text_of(message, "role"), "assistant");
    assert_string_equal(text_of(message, "content"), "I look it up.");
    assert_string_equal(text_of(message, "reasoning_content"), "Let me look.");
    assert_true(json_is_null(json_object_get(message, "refusal")));
    assert_int_equal(json_array_size(calls), 2);
    assert_string_equal(text_of(json_object_get(json_array_get(calls, 1), "function"), "name"), "time");
    assert_string_equal(text_of(choice_of(root), "finish_reason"), "tool_calls");
    usage = json_object_get(root, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), 15);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens")), 4);
    assert_null(json_object_get(root, "prompt_token_ids"));
    json_decref(root);
    /* a call and nothing else: no content */
    root = whole(&w, "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", 5,
                 NEF_FINISH_STOP);
    message = json_object_get(choice_of(root), "message");
    assert_true(json_is_null(json_object_get(message, "content")));
    assert_int_equal(json_array_size(json_object_get(message, "tool_calls")), 1);
    json_decref(root);
    /* cut off by the limit: says so */
    w.thinking = false;
    root = whole(&w, "<tool_call>\n{\"name\": \"f\", \"argum", 4, NEF_FINISH_LENGTH);
    assert_string_equal(text_of(choice_of(root), "finish_reason"), "length");
    assert_null(json_object_get(json_object_get(choice_of(root), "message"), "tool_calls"));
    json_decref(root);
    /* no tools were offered: text is text */
    w.tools = false;
    root = whole(&w, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", 4, NEF_FINISH_STOP);
    assert_non_null(strstr(text_of(json_object_get(choice_of(root), "message"), "content"), "<tool_call>"));
    assert_string_equal(text_of(choice_of(root), "finish_reason"), "stop");
    json_decref(root);
}

static void a_malformed_call_is_content(void **state)
{
    static const char bad[] = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": nonsense}}\n</tool_call>";
    struct nef_write w = write_of(false, true, false);
    json_t *root;
    const json_t *message;

    (void)state;
    root = whole(&w, bad, 6, NEF_FINISH_STOP);
    message = json_object_get(choice_of(root), "message");
    assert_null(json_object_get(message, "tool_calls"));
    assert_non_null(strstr(text_of(message, "content"), "nonsense"));
    assert_string_equal(text_of(choice_of(root), "finish_reason"), "stop");
    json_decref(root);
}

static void token_ids(void **state)
{
    struct nef_write w = write_of(true, true, true);
    struct seen s = {.calls = json_array()};
    struct nef_buf out = {0};
    struct nef_choice *c;
    const uint32_t prompt[] = {7, 8, 9};
    json_t *root;

    (void)state;
    w.return_token_ids = true;
    assert_int_equal(nef_choice_open(&w, 0, prompt, 3, &c), NEF_OK);
    say(c, two_calls, 1, NEF_FINISH_STOP, &out);
    follow(&s, &out);
    assert_int_equal(s.ids, sizeof(two_calls) - 1); /* each once, also those of text that isn't shown */
    assert_int_equal(s.prompt_ids, 3);
    nef_choice_close(c);
    nef_buf_free(&out);
    seen_free(&s);

    w.stream = false;
    root = whole(&w, "<think>\nx\n</think>\n\ny", 1, NEF_FINISH_STOP);
    assert_int_equal(json_array_size(json_object_get(choice_of(root), "token_ids")), 21);
    assert_int_equal(json_array_size(json_object_get(root, "prompt_token_ids")), 2);
    json_decref(root);
    w.kind = NEF_API_COMPLETION;
    root = whole(&w, "abc", 1, NEF_FINISH_LENGTH);
    assert_string_equal(text_of(choice_of(root), "text"), "abc");
    assert_int_equal(json_array_size(json_object_get(choice_of(root), "prompt_token_ids")), 2);
    assert_string_equal(text_of(choice_of(root), "finish_reason"), "length");
    json_decref(root);
}

/* ---- going on elsewhere ---- */

static struct nef_tokenizer *tokenizer;

struct try { /* of an answer; what its stream said, chunk by chunk */
    struct nef_answer answer;
    struct nef_choice *choice;
    char *chunks[512];
    uint32_t ids[512]; /* that had been told with this chunk and all before */
    uint32_t count, told;
    bool ended;
};

static void note(struct try *t, struct nef_buf *out, uint32_t ids)
{
    t->told += ids;
    if (out->bytes > 0) {
        assert_true(t->count < NEF_COUNT(t->chunks));
        t->chunks[t->count] = strdup(nef_buf_cstr(out));
        t->ids[t->count++] = t->told;
    }
    nef_buf_free(out);
}

static void take_some(struct try *t, uint32_t tokens_max)
{
    struct nef_piece piece = {.text = {0}};
    struct nef_answer_state state;
    struct nef_buf out = {0};
    uint32_t ids;

    nef_answer_take(&t->answer, 1000, tokens_max, &piece, &state);
    (void)nef_piece_tokens(&piece, &ids);
    assert_int_equal(nef_choice_take(t->choice, &piece, state.finished, &out), NEF_OK);
    if (state.finished)
        assert_int_equal(nef_choice_end(t->choice, state.finish, &out), NEF_OK);
    t->ended = state.finished;
    nef_piece_free(&piece);
    note(t, &out, ids);
}

static bool put(struct try *t, uint32_t token)
{
    bool news;

    return nef_answer_put(&t->answer, &(struct nef_token){.token = token, .logprob = NAN}, &news);
}

/* The answer of TOKENS, of which the first EARLIER were given out by another try; taken in pieces that RANDOM decides. */
static void try_it(struct try *t, const struct nef_write *w, const struct nef_api_stop *stop, const uint32_t *tokens,
                   uint32_t count, uint32_t earlier, uint32_t random)
{
    bool go_on = true;

    *t = (struct try){.count = 0};
    assert_int_equal(nef_answer_init(&t->answer, &(struct nef_answer_options){.tokenizer = tokenizer,
                                                                              .stops = stop,
                                                                              .stop_count = stop != NULL,
                                                                              .tokens_max = count}),
                     NEF_OK);
    assert_int_equal(nef_choice_open(w, 0, NULL, 0, &t->choice), NEF_OK);
    for (uint32_t i = 0; i < earlier && go_on; i++)
        go_on = put(t, tokens[i]);
    if (earlier > 0) { /* as generate.c does it */
        struct nef_piece piece = {.text = {0}};
        struct nef_buf said = {0};

        nef_answer_given(&t->answer, &piece);
        (void)nef_piece_tokens(&piece, &t->told);
        assert_int_equal(nef_choice_take(t->choice, &piece, false, &said), NEF_OK);
        nef_piece_free(&piece);
        nef_buf_free(&said);
    }
    for (uint32_t i = earlier; i < count && go_on; i++) {
        go_on = put(t, tokens[i]);
        random = random * 1664525u + 1013904223u;
        if ((random >> 16) % 3 == 0)
            take_some(t, 1 + (random >> 20) % 5);
    }
    nef_answer_finish(&t->answer, NEF_FINISH_LENGTH, NEF_OK, 0);
    while (!t->ended)
        take_some(t, 1 + (random >> 20) % 5);
}

static void forget(struct try *t)
{
    for (uint32_t i = 0; i < t->count; i++)
        free(t->chunks[i]);
    nef_choice_close(t->choice);
    nef_answer_done(&t->answer);
}

static void follow_chunks(struct seen *s, const struct try *t, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct nef_buf sse = {0};

        nef_buf_text(&sse, t->chunks[i]);
        follow(s, &sse);
        nef_buf_free(&sse);
    }
}

static void assert_same(struct seen *a, struct seen *b)
{
    assert_string_equal(nef_buf_cstr(&a->content), nef_buf_cstr(&b->content));
    assert_string_equal(nef_buf_cstr(&a->reasoning), nef_buf_cstr(&b->reasoning));
    assert_true(json_equal(a->calls, b->calls));
    assert_string_equal(a->finish, b->finish);
    assert_int_equal(a->ids, b->ids);
}

/* Answers made at random of what the parser and the stop strings look at: whatever chunk is the last that came, what a new
 * try says of the ids so far completes it. */
static void a_stream_goes_on_after_any_chunk(void **state)
{
    static const char *const parts[] = {"<think>",     "</think>", "\n", "\n\n", "<tool_call>", "</tool_call>", " ", "a", "<",
                                        "{\"name\": \"f\", \"arguments\": {\"x\": \"", "\"}}", "\xe2\x82\xac", "\xe2", "\xff", "STOP",
                                        "ST", "{\"name\": \"g\", \"arguments\": {}}", "<tool_call>\n", "\n</tool_call>"};
    static const struct nef_api_stop stop = {"STOP", 4};
    uint32_t random = 12345, continued = 0;

    (void)state;
    for (uint32_t round = 0; round < 100; round++) {
        struct nef_write w = write_of(true, round % 2 == 0, round % 3 != 0);
        struct nef_buf text = {0};
        uint32_t tokens[512], count = 0;
        struct try whole;

        w.return_token_ids = true;
        for (uint32_t i = 0; i < 12; i++) {
            random = random * 1664525u + 1013904223u;
            nef_buf_text(&text, parts[(random >> 16) % NEF_COUNT(parts)]);
        }
        for (size_t i = 0; i < text.bytes; i++) {
            assert_true(count < NEF_COUNT(tokens));
            if (i + 3 < text.bytes && memcmp(text.data + i, "!\xe2\x82", 3) == 0) {
                tokens[count++] = TINY_EURO_HEAD;
                i += 2;
            } else {
                tokens[count++] = text.data[i];
            }
        }
        nef_buf_free(&text);
        try_it(&whole, &w, round % 4 == 0 ? &stop : NULL, tokens, count, 0, random);
        for (uint32_t n = 1; n < whole.count; n++) {
            struct seen want = {.calls = json_array()}, got = {.calls = json_array()};
            struct try rest;

            try_it(&rest, &w, round % 4 == 0 ? &stop : NULL, tokens, count, whole.ids[n - 1], random + n);
            follow_chunks(&want, &whole, whole.count);
            follow_chunks(&got, &whole, n);
            follow_chunks(&got, &rest, rest.count);
            assert_same(&want, &got);
            continued++;
            forget(&rest);
            seen_free(&want);
            seen_free(&got);
        }
        forget(&whole);
    }
    assert_true(continued > 2000);
}

static void json_texts(void **state)
{
    static const char text[] = "a\"b\\c\n\t\r\x01\x7f\xe2\x82\xac\0z";
    struct nef_buf out = {0};
    json_t *back;

    (void)state;
    nef_json_text_write(&out, text, sizeof(text) - 1);
    back = json_loadb((const char *)out.data, out.bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    assert_int_equal(json_string_length(back), sizeof(text) - 1);
    assert_memory_equal(json_string_value(back), text, sizeof(text) - 1);
    json_decref(back);
    nef_buf_free(&out);
}

static void errors(void **state)
{
    struct nef_api_error e;
    struct nef_buf out = {0};

    (void)state;
    assert_false(nef_api_fail(&e, 400, "invalid_value", "a\"b", "say %s", "\"x\""));
    nef_write_error(&e, &out);
    assert_string_equal(nef_buf_cstr(&out),
                        "{\"error\":{\"message\":\"say \\\"x\\\"\",\"type\":\"invalid_request_error\",\"param\":"
                        "\"a\\\"b\",\"code\":\"invalid_value\"}}");
    nef_buf_reset(&out);
    assert_false(nef_api_fail(&e, 429, "", "", "later"));
    nef_write_error_chunk(&e, &out);
    assert_string_equal(nef_buf_cstr(&out),
                        "data: {\"error\":{\"message\":\"later\",\"type\":\"rate_limit_error\",\"param\":null,"
                        "\"code\":null}}\n\n");
    nef_buf_free(&out);
}

static int open_tokenizer(void **state)
{
    (void)state;
    tokenizer = tiny_tokenizer(NULL);
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    nef_tokenizer_close(tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_goes_on_after_any_chunk),
        cmocka_unit_test(streamed_tool_calls),
        cmocka_unit_test(whole_tool_calls),
        cmocka_unit_test(a_malformed_call_is_content),
        cmocka_unit_test(token_ids),
        cmocka_unit_test(json_texts),
        cmocka_unit_test(errors),
    };

    return cmocka_run_group_tests_name("write", tests, open_tokenizer, close_tokenizer);
}
