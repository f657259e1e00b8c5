/* AI rights as the admin API says them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "server/user_rights.h"

static const char *change(struct nef_user_ai *ai, const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    const char *why;

    assert_non_null(value);
    why = nef_user_ai_change(ai, value);
    json_decref(value);
    return why;
}

static void expect(const struct nef_user_ai *ai, const char *want)
{
    json_t *value = nef_user_ai_json(ai);
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

    assert_string_equal(text, want);
    free(text);
    json_decref(value);
}

static void given_changed_taken(void **state)
{
    struct nef_user_ai ai = {0};

    (void)state;
    expect(&ai, "null");
    assert_null(change(&ai, "{}")); /* rights, but to nothing: default deny */
    expect(&ai, "{\"models\":[],\"zones\":[],\"requests_min\":0,\"tokens_min\":0,\"concurrency\":0,\"weight\":1,"
                "\"priority\":0}");
    assert_null(change(&ai, "{\"models\": [\"qwen3-8b\", \"Qwen/x:1\"], \"zones\": \"*\", \"requests_min\": 60}"));
    assert_null(change(&ai, "{\"weight\": 1000, \"priority\": 9, \"tokens_min\": 5, \"concurrency\": 65536}"));
    expect(&ai, "{\"models\":[\"qwen3-8b\",\"Qwen/x:1\"],\"zones\":\"*\",\"requests_min\":60,\"tokens_min\":5,"
                "\"concurrency\":65536,\"weight\":1000,\"priority\":9}");
    assert_string_equal(ai.models, "qwen3-8b,Qwen/x:1");
    assert_null(change(&ai, "null"));
    expect(&ai, "null");
}

static void what_cant_be_changes_nothing(void **state)
{
    static const char *const wrong[] = {
        "3", "[]", "{\"models\": 1}", "{\"models\": \"a\"}", "{\"models\": [\"a,b\"]}", "{\"models\": [\"\"]}",
        "{\"models\": [1]}", "{\"zones\": [\"a b\"]}", "{\"zones\": [\"a23456789012345678901234567890123\"]}",
        "{\"requests_min\": -1}", "{\"requests_min\": 1.5}", "{\"tokens_min\": 1099511627777}", "{\"weight\": 0}",
        "{\"weight\": 1001}", "{\"priority\": 10}", "{\"concurrency\": 65537}", "{\"colour\": 1}",
        "{\"requests_min\": 5, \"weight\": 0}"};
    struct nef_user_ai ai = {0}, before;

    (void)state;
    assert_null(change(&ai, "{\"requests_min\": 7}"));
    before = ai;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (change(&ai, wrong[i]) == NULL)
            fail_msg("taken: %s", wrong[i]);
        assert_memory_equal(&ai, &before, sizeof(ai));
    }
}

static void lists_have_an_end(void **state)
{
    struct nef_user_ai ai = {0};
    json_t *names = json_array(), *value;

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(json_array_append_new(names, json_sprintf("a-model-with-a-name-%d", i)), 0);
    value = json_pack("{s:o}", "models", names);
    assert_non_null(nef_user_ai_change(&ai, value));
    assert_false(ai.allowed);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(given_changed_taken),
                                       cmocka_unit_test(what_cant_be_changes_nothing),
                                       cmocka_unit_test(lists_have_an_end)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
