/* Tokens to released text: stop strings, whole characters, ids that wait for their text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include "base/assert.h"
#include "infer/api/answer.h"
#include "infer/api/stop.h"
#include "tiny.h"

static struct nef_tokenizer *tokenizer;

/* The text that is left of TEXT given in pieces of STEP bytes; *out_stopped. */
static void through(const struct nef_api_stop *stops, uint32_t count, const char *text, size_t step, char *out,
                    bool *out_stopped)
{
    struct nef_stop *stop;
    size_t bytes = strlen(text), seen = 0, released = 0;

    *out_stopped = false;
    assert_int_equal(nef_stop_open(stops, count, &stop), NEF_OK);
    while (seen < bytes && !*out_stopped) {
        size_t piece = NEF_MIN(step, bytes - seen), used = 0, held = 0;

        *out_stopped = nef_stop_take(stop, text + seen, piece, &used, &held);
        seen += used;
        assert_true(held <= seen && seen - held >= released); /* nothing is taken back */
        released = seen - held;
    }
    if (!*out_stopped)
        released = seen;
    memcpy(out, text, released);
    out[released] = '\0';
    nef_stop_close(stop);
}

static void stops_do_not_depend_on_borders(void **state)
{
    static const struct {
        const char *stops[3], *text, *want;
    } cases[] = {
        {{"END"}, "to the END of it", "to the "},
        {{"END"}, "to the EN of it", "to the EN of it"},
        {{"aab"}, "aaaab", "aa"},
        {{"abcd", "bc"}, "xabcd", "xa"}, /* the one that ends first */
        {{"bc", "abc"}, "xabc", "x"},    /* of those that end together, the longest */
        {{"abab"}, "abaabab!", "aba"},
        {{"\n\nUser:"}, "hi\n\n\nUser: x", "hi\n"},
        {{"\xe2\x82\xac"}, "5 \xe2\x82\xad 6 \xe2\x82\xac", "5 \xe2\x82\xad 6 "},
        {{"a"}, "a", ""},
        {{"xyz"}, "xy", "xy"},
    };

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(cases); i++) {
        struct nef_api_stop stops[3];
        uint32_t count = 0;

        for (; count < 3 && cases[i].stops[count] != NULL; count++)
            stops[count] = (struct nef_api_stop){cases[i].stops[count], strlen(cases[i].stops[count])};
        for (size_t step = 1; step <= strlen(cases[i].text); step++) {
            char out[64];
            bool stopped;

            through(stops, count, cases[i].text, step, out, &stopped);
            assert_string_equal(out, cases[i].want);
            assert_int_equal(stopped, strcmp(cases[i].text, cases[i].want) != 0);
        }
    }
}

static void begin(struct nef_answer *a, const struct nef_api_stop *stops, uint32_t stop_count, uint32_t tokens_max,
                  uint32_t top)
{
    assert_int_equal(nef_answer_init(a, &(struct nef_answer_options){.tokenizer = tokenizer,
                                                                     .stops = stops,
                                                                     .stop_count = stop_count,
                                                                     .tokens_max = tokens_max,
                                                                     .top = top}),
                     NEF_OK);
}

static bool put(struct nef_answer *a, uint32_t token, bool *news)
{
    return nef_answer_put(a, &(struct nef_token){.token = token, .logprob = NAN}, news);
}

static void take(struct nef_answer *a, size_t max, const char *want_text, uint32_t want_ids,
                 struct nef_answer_state *state)
{
    struct nef_piece piece = {.text = {0}};
    uint32_t count;
    const struct nef_piece_token *tokens;

    nef_answer_take(a, max, UINT32_MAX, &piece, state);
    tokens = nef_piece_tokens(&piece, &count);
    assert_string_equal(nef_buf_cstr(&piece.text), want_text);
    assert_int_equal(count, want_ids);
    if (count > 0) /* the text is that of the tokens */
        assert_int_equal(tokens[count - 1].end, strlen(want_text));
    else
        assert_int_equal(strlen(want_text), 0);
    nef_piece_free(&piece);
}

static void text_comes_at_the_borders_of_tokens(void **state)
{
    struct nef_answer a = {0};
    struct nef_answer_state s;
    bool news;

    (void)state;
    begin(&a, NULL, 0, 10, 0);
    assert_true(put(&a, 'a', &news) && news);
    take(&a, 100, "a", 1, &s);
    /* "!" and two thirds of a euro sign: neither the id nor the "!" may go */
    assert_true(put(&a, TINY_EURO_HEAD, &news) && !news);
    take(&a, 100, "", 0, &s);
    assert_true(put(&a, 0xac, &news) && news);
    take(&a, 100, "!\xe2\x82\xac", 2, &s);
    /* a control token has an id and no text */
    assert_true(put(&a, TINY_IM_START, &news) && news);
    take(&a, 100, "", 1, &s);
    /* what never becomes a character */
    assert_true(put(&a, 0xe2, &news) && !news);
    take(&a, 100, "", 0, &s);
    assert_false(s.finished);
    nef_answer_finish(&a, NEF_FINISH_LENGTH, NEF_OK, 3);
    take(&a, 100, "\xef\xbf\xbd", 1, &s);
    assert_true(s.finished && s.finish == NEF_FINISH_LENGTH && s.tokens == 5 && s.cached == 3);
    nef_answer_done(&a);
}

static void a_stop_string_is_never_given(void **state)
{
    static const struct nef_api_stop stops[] = {{"STOP", 4}};
    struct nef_answer a = {0};
    struct nef_answer_state s;
    bool news;

    (void)state;
    begin(&a, stops, 1, 10, 0);
    for (const char *c = "xSTO"; *c != '\0'; c++)
        assert_true(put(&a, (uint32_t)*c, &news));
    take(&a, 100, "x", 1, &s); /* the ids of what is held back wait */
    assert_false(put(&a, 'P', &news));
    take(&a, 100, "", 0, &s);
    nef_answer_finish(&a, NEF_FINISH_STOP, NEF_OK, 0);
    take(&a, 100, "", 4, &s);
    assert_true(s.finished && s.finish == NEF_FINISH_STOP && s.tokens == 5);
    nef_answer_done(&a);

    /* the beginning of one at the end of all is text */
    begin(&a, stops, 1, 10, 0);
    assert_true(put(&a, 'S', &news) && !news);
    nef_answer_finish(&a, NEF_FINISH_LENGTH, NEF_OK, 0);
    take(&a, 100, "S", 1, &s);
    assert_true(s.finished && s.finish == NEF_FINISH_LENGTH);
    nef_answer_done(&a);

    /* one that begins inside of a token: what stands before it comes with the end */
    static const struct nef_api_stop euro[] = {{"\xe2\x82\xac", 3}};

    begin(&a, euro, 1, 10, 0);
    assert_true(put(&a, 'x', &news) && put(&a, TINY_EURO_HEAD, &news));
    take(&a, 100, "x", 1, &s);
    assert_false(put(&a, 0xac, &news));
    nef_answer_finish(&a, NEF_FINISH_STOP, NEF_OK, 0);
    take(&a, 100, "!", 2, &s);
    assert_true(s.finished && s.tokens == 3);
    nef_answer_done(&a);
}

static void slow_takers_get_whole_characters(void **state)
{
    struct nef_answer a = {0};
    struct nef_answer_state s;
    bool news;

    (void)state;
    begin(&a, NULL, 0, 100, 0);
    for (int i = 0; i < 5; i++) {
        assert_true(put(&a, TINY_EURO_HEAD, &news));
        assert_true(put(&a, 0xac, &news));
    }
    nef_answer_finish(&a, NEF_FINISH_STOP, NEF_OK, 0);
    take(&a, 9, "!\xe2\x82\xac!\xe2\x82\xac", 4, &s);
    assert_false(s.finished);
    take(&a, 2, "!\xe2\x82\xac", 2, &s); /* always some */
    take(&a, 100, "!\xe2\x82\xac!\xe2\x82\xac", 4, &s);
    assert_true(s.finished);
    nef_answer_done(&a);
}

/* Alternatives stay with their token, through growth and pieces of any size. */
static void probabilities_stay_with_their_tokens(void **state)
{
    struct nef_answer a = {0};
    struct nef_answer_state s = {.finished = false};
    uint32_t put_count = 0, got = 0;

    (void)state;
    begin(&a, NULL, 0, 1000, 2);
    while (!s.finished) {
        struct nef_piece piece = {.text = {0}};
        const struct nef_logprob *tops;
        const struct nef_piece_token *tokens;
        uint32_t count;
        bool news;

        for (uint32_t i = 0; i < 100 && put_count < 1000; i++, put_count++) {
            const struct nef_logprob top[3] = {{put_count, -1}, {put_count + 1, -2}, {0, 0}};

            assert_true(nef_answer_put(&a, &(struct nef_token){.token = 'a' + put_count % 26,
                                                               .logprob = -(float)put_count,
                                                               .top = top,
                                                               .top_count = put_count % 4},
                                       &news));
        }
        if (put_count == 1000 && !a.finished)
            nef_answer_finish(&a, NEF_FINISH_LENGTH, NEF_OK, 0);
        nef_answer_take(&a, 1000, 7 + put_count % 61, &piece, &s);
        tokens = nef_piece_tokens(&piece, &count);
        tops = (const struct nef_logprob *)(const void *)piece.tops.data;
        for (uint32_t i = 0; i < count; i++, got++) {
            assert_int_equal(tokens[i].id, 'a' + got % 26);
            assert_true(tokens[i].logprob == -(float)got);
            assert_int_equal(tokens[i].top_count, NEF_MIN(got % 4, 2u)); /* no more than were asked for */
            for (uint32_t k = 0; k < tokens[i].top_count; k++, tops++)
                assert_int_equal(tops->token, got + k);
        }
        nef_piece_free(&piece);
    }
    assert_int_equal(got, 1000);
    nef_answer_done(&a);
}

static void memory_of_all_answers_is_bounded(void **state)
{
    atomic_ullong memory = 0;
    struct nef_answer a = {0};
    struct nef_answer_state s;
    uint32_t count = 0;
    bool news;

    (void)state;
    assert_int_equal(nef_answer_init(&a, &(struct nef_answer_options){.tokenizer = tokenizer,
                                                                      .tokens_max = 1u << 20,
                                                                      .memory = &memory,
                                                                      .memory_max = 100000}),
                     NEF_OK);
    while (put(&a, 'a', &news))
        assert_true(++count < 100000);
    assert_true(count > 1000);
    nef_answer_finish(&a, NEF_FINISH_STOP, NEF_OK, 0);
    do {
        struct nef_piece piece = {.text = {0}};

        nef_answer_take(&a, 1000, 1000, &piece, &s);
        nef_piece_free(&piece);
    } while (!s.finished);
    assert_true(s.finish == NEF_FINISH_ERROR && s.err == NEF_E_LIMIT);
    nef_answer_done(&a);
    assert_int_equal(atomic_load(&memory), 0);
}

/* The echo: no stop string is looked for in it, and it isn't counted. */
static void a_prompt_comes_first(void **state)
{
    static const struct nef_api_stop stops[] = {{"STOP", 4}};
    struct nef_answer a = {0};
    struct nef_answer_state s;
    struct nef_piece piece = {.text = {0}};
    uint32_t count;
    bool news;

    (void)state;
    begin(&a, stops, 1, 10, 0);
    for (const char *c = "aSTOP"; *c != '\0'; c++)
        nef_answer_put_prompt(&a, &(struct nef_token){.token = (uint32_t)*c, .logprob = NAN});
    assert_true(put(&a, 'b', &news) && news);
    nef_answer_take(&a, 100, 100, &piece, &s);
    assert_string_equal(nef_buf_cstr(&piece.text), "aSTOPb");
    assert_true(nef_piece_tokens(&piece, &count)[4].prompt && !nef_piece_tokens(&piece, &count)[5].prompt);
    assert_int_equal(s.tokens, 1);
    nef_piece_free(&piece);
    nef_answer_done(&a);
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
        cmocka_unit_test(stops_do_not_depend_on_borders),
        cmocka_unit_test(text_comes_at_the_borders_of_tokens),
        cmocka_unit_test(probabilities_stay_with_their_tokens),
        cmocka_unit_test(memory_of_all_answers_is_bounded),
        cmocka_unit_test(a_prompt_comes_first),
        cmocka_unit_test(a_stop_string_is_never_given),
        cmocka_unit_test(slow_takers_get_whole_characters),
    };

    return cmocka_run_group_tests_name("answer", tests, open_tokenizer, close_tokenizer);
}
