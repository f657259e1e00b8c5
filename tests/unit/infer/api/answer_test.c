/* Tokens to released text: stop strings, whole characters, ids that wait for their text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
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

static void take(struct nef_answer *a, size_t max, const char *want_text, uint32_t want_ids,
                 struct nef_answer_state *state)
{
    struct nef_buf text = {0}, ids = {0};

    nef_answer_take(a, max, &text, &ids, state);
    assert_string_equal(nef_buf_cstr(&text), want_text);
    assert_int_equal(ids.bytes / sizeof(uint32_t), want_ids);
    nef_buf_free(&text);
    nef_buf_free(&ids);
}

static void characters_and_their_ids_wait(void **state)
{
    struct nef_answer a = {0};
    struct nef_answer_state s;
    bool news;

    (void)state;
    assert_int_equal(nef_answer_init(&a, tokenizer, NULL, 0, 10), NEF_OK);
    assert_true(nef_answer_put(&a, 'a', &news) && news);
    take(&a, 100, "a", 1, &s);
    /* "!" and two thirds of a euro sign: the "!" may go, the id may not */
    assert_true(nef_answer_put(&a, TINY_EURO_HEAD, &news) && news);
    take(&a, 100, "!", 0, &s);
    assert_true(nef_answer_put(&a, 0xac, &news) && news);
    take(&a, 100, "\xe2\x82\xac", 2, &s);
    /* a control token has an id and no text */
    assert_true(nef_answer_put(&a, TINY_IM_START, &news) && news);
    take(&a, 100, "", 1, &s);
    /* what never becomes a character */
    assert_true(nef_answer_put(&a, 0xe2, &news) && !news);
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
    assert_int_equal(nef_answer_init(&a, tokenizer, stops, 1, 10), NEF_OK);
    for (const char *c = "xSTO"; *c != '\0'; c++)
        assert_true(nef_answer_put(&a, (uint32_t)*c, &news));
    take(&a, 100, "x", 1, &s); /* the ids of what is held back wait */
    assert_false(nef_answer_put(&a, 'P', &news));
    nef_answer_finish(&a, NEF_FINISH_STOP, NEF_OK, 0);
    take(&a, 100, "", 4, &s);
    assert_true(s.finished && s.finish == NEF_FINISH_STOP && s.tokens == 5);
    nef_answer_done(&a);

    /* the beginning of one at the end of all is text */
    assert_int_equal(nef_answer_init(&a, tokenizer, stops, 1, 10), NEF_OK);
    assert_true(nef_answer_put(&a, 'S', &news) && !news);
    nef_answer_finish(&a, NEF_FINISH_LENGTH, NEF_OK, 0);
    take(&a, 100, "S", 1, &s);
    assert_true(s.finished && s.finish == NEF_FINISH_LENGTH);
    nef_answer_done(&a);
}

static void slow_takers_get_whole_characters(void **state)
{
    struct nef_answer a = {0};
    struct nef_answer_state s;
    bool news;

    (void)state;
    assert_int_equal(nef_answer_init(&a, tokenizer, NULL, 0, 100), NEF_OK);
    for (int i = 0; i < 5; i++) {
        assert_true(nef_answer_put(&a, TINY_EURO_HEAD, &news));
        assert_true(nef_answer_put(&a, 0xac, &news));
    }
    nef_answer_finish(&a, NEF_FINISH_STOP, NEF_OK, 0);
    take(&a, 6, "!\xe2\x82\xac!", 2, &s);
    assert_false(s.finished);
    take(&a, 4, "\xe2\x82\xac!", 2, &s);
    take(&a, 100, "\xe2\x82\xac!\xe2\x82\xac!\xe2\x82\xac", 6, &s);
    assert_true(s.finished);
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
        cmocka_unit_test(characters_and_their_ids_wait),
        cmocka_unit_test(a_stop_string_is_never_given),
        cmocka_unit_test(slow_takers_get_whole_characters),
    };

    return cmocka_run_group_tests_name("answer", tests, open_tokenizer, close_tokenizer);
}
