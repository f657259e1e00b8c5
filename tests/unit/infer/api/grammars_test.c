/* Compiled grammars: the same for the same question, different for any other, bounded, least recently used out first. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/api/grammars.h"
#include "tiny.h"

static struct nef_grammars *grammars;

static struct nef_grammar *get(const struct nef_grammar_options *o)
{
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;

    if (nef_grammars_get(grammars, o, why, &g) != NEF_OK)
        fail_msg("%s", why);
    nef_grammar_unref(g); /* the cache's own is left */
    return g;
}

static json_t *parsed(const char *text)
{
    json_t *value = json_loads(text, 0, NULL);

    assert_non_null(value);
    return value;
}

static void every_part_of_a_question_counts(void **state)
{
    json_t *a = parsed("{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"null\"}, \"b\": {\"type\": \"null\"}}}"),
           *again = json_deep_copy(a),
           *order = parsed("{\"type\": \"object\", \"properties\": {\"b\": {\"type\": \"null\"}, \"a\": {\"type\": \"null\"}}}"),
           *tools = parsed("[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}, {\"type\": \"function\", "
                           "\"function\": {\"name\": \"g\"}}]"),
           *others = parsed("[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]"),
           *parameters = parsed("[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": "
                                "\"object\"}}}]"),
           *described = parsed("[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"d\"}}]");
    const struct nef_grammar_options options[] = {
        {.answer = NEF_GRAMMAR_OBJECT},
        {.answer = NEF_GRAMMAR_OBJECT, .thinking = true},
        {.answer = NEF_GRAMMAR_SCHEMA, .schema = a},
        {.answer = NEF_GRAMMAR_SCHEMA, .schema = order}, /* properties come in the schema's order */
        {.tools = tools},
        {.tools = tools, .parallel = true},
        {.tools = tools, .tools_required = true},
        {.tools = tools, .tools_required = true, .function = "f"},
        {.tools = tools, .tools_required = true, .function = "g"},
        {.tools = others},
        {.tools = parameters},
        {.tools = tools, .answer = NEF_GRAMMAR_SCHEMA, .schema = a},
    };
    const struct nef_grammar *known[NEF_COUNT(options)];
    struct nef_grammars_stats stats;

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(options); i++) {
        known[i] = get(&options[i]);
        for (size_t k = 0; k < i; k++)
            assert_ptr_not_equal(known[i], known[k]);
    }
    for (size_t i = 0; i < NEF_COUNT(options); i++)
        assert_ptr_equal(get(&options[i]), known[i]);
    assert_ptr_equal(get(&(struct nef_grammar_options){.answer = NEF_GRAMMAR_SCHEMA, .schema = again}), known[2]);
    assert_ptr_equal(get(&(struct nef_grammar_options){.tools = described}), known[9]); /* what isn't looked at */
    nef_grammars_stats(grammars, &stats);
    assert_int_equal(stats.kept, NEF_COUNT(options));
    assert_int_equal(stats.compiled, NEF_COUNT(options));
    assert_int_equal(stats.hits, NEF_COUNT(options) + 2);
    assert_true(stats.bytes > 0);
    json_decref(a);
    json_decref(again);
    json_decref(order);
    json_decref(tools);
    json_decref(others);
    json_decref(parameters);
    json_decref(described);
}

static struct nef_grammar *number(int n)
{
    char text[64];
    json_t *schema;
    struct nef_grammar *g;

    (void)snprintf(text, sizeof(text), "{\"const\": %d}", n);
    schema = parsed(text);
    g = get(&(struct nef_grammar_options){.answer = NEF_GRAMMAR_SCHEMA, .schema = schema});
    json_decref(schema);
    return g;
}

static void the_least_recently_used_goes(void **state)
{
    struct nef_grammars_stats before, after;

    (void)state;
    for (int i = 0; i < (int)NEF_INFER_GRAMMARS_MAX; i++)
        (void)number(i);
    (void)number(0); /* used again: another one goes for the next */
    (void)number((int)NEF_INFER_GRAMMARS_MAX);
    nef_grammars_stats(grammars, &before);
    assert_int_equal(before.kept, NEF_INFER_GRAMMARS_MAX);
    (void)number(0);
    nef_grammars_stats(grammars, &after);
    assert_int_equal(after.hits, before.hits + 1);
    (void)number(1);
    nef_grammars_stats(grammars, &after);
    assert_int_equal(after.compiled, before.compiled + 1);
    assert_int_equal(after.kept, NEF_INFER_GRAMMARS_MAX);
}

static void what_is_refused_is_told_and_not_kept(void **state)
{
    json_t *schema = parsed("{\"type\": \"object\", \"properties\": {\"a\": {\"not\": {}}}}");
    const struct nef_grammar_options o = {.answer = NEF_GRAMMAR_SCHEMA, .schema = schema};
    char why[NEF_GRAMMAR_ERROR_MAX] = "";
    struct nef_grammar *g = NULL;
    struct nef_grammars_stats stats;

    (void)state;
    assert_int_equal(nef_grammars_get(grammars, &o, why, &g), NEF_E_UNSUPPORTED);
    assert_null(g);
    assert_non_null(strstr(why, "\"not\" at #/properties/a"));
    nef_grammars_stats(grammars, &stats);
    assert_int_equal(stats.refused, 1);
    json_decref(schema);
}

static int open_grammars(void **state)
{
    struct nef_tokenizer *t = tiny_tokenizer(NULL);
    nef_err err = nef_grammars_open(t, &grammars);

    (void)state;
    nef_tokenizer_close(t);
    return err == NEF_OK ? 0 : -1;
}

static int close_grammars(void **state)
{
    (void)state;
    nef_grammars_close(grammars);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_part_of_a_question_counts, open_grammars, close_grammars),
        cmocka_unit_test_setup_teardown(the_least_recently_used_goes, open_grammars, close_grammars),
        cmocka_unit_test_setup_teardown(what_is_refused_is_told_and_not_kept, open_grammars, close_grammars),
    };

    return cmocka_run_group_tests_name("grammars", tests, NULL, NULL);
}
