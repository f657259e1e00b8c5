/* Options: both spellings, words, and what is refused. */
#include "cli_test.h"
#include <string.h>
#include "cli/cli.h"

struct parsed {
    const char *dir;
    uint32_t number;
    bool flag;
    struct nef_words words;
};

static bool parse(int argc, char **argv, uint32_t least, uint32_t most, struct parsed *out)
{
    const struct nef_option options[] = {
        {.name = "dir", .text = &out->dir},
        {.name = "cells", .number = &out->number, .min = 1, .max = 64},
        {.name = "detach", .flag = &out->flag},
        {.name = NULL}};

    memset(out, 0, sizeof(*out));
    return nef_options(argc, argv, options, least, most, &out->words);
}

#define PARSE(least, most, out, ...)                                                               \
    parse((int)(sizeof((char *[]){"test", __VA_ARGS__}) / sizeof(char *)),                         \
          (char *[]){(char *)(uintptr_t) "test", __VA_ARGS__}, least, most, out)

static void takes_both_spellings(void **state)
{
    struct parsed p;

    (void)state;
    assert_true(PARSE(0, 1, &p, "--dir", "x", "--cells=8", "--detach", "a"));
    assert_string_equal(p.dir, "x");
    assert_int_equal(p.number, 8);
    assert_true(p.flag);
    assert_int_equal(p.words.count, 1);
    assert_string_equal(p.words.word[0], "a");
    assert_true(PARSE(1, 1, &p, "--", "--dir"));
    assert_string_equal(p.words.word[0], "--dir");
}

static void refuses_the_rest(void **state)
{
    struct parsed p;

    (void)state;
    assert_false(PARSE(0, 0, &p, "--dri", "x"));
    assert_false(PARSE(0, 0, &p, "-d"));
    assert_false(PARSE(0, 0, &p, "--dir"));
    assert_false(PARSE(0, 0, &p, "--dir="));
    assert_false(PARSE(0, 0, &p, "--detach=yes"));
    assert_false(PARSE(0, 0, &p, "--cells", "0"));
    assert_false(PARSE(0, 0, &p, "--cells", "65"));
    assert_false(PARSE(0, 0, &p, "--cells", "4x"));
    assert_false(PARSE(0, 0, &p, "--cells", "-4"));
    assert_false(PARSE(0, 0, &p, "word"));
    assert_false(PARSE(1, 1, &p, "--detach"));
}

static void bytes_for_people(void **state)
{
    char text[32];

    (void)state;
    nef_human_bytes(text, 0);
    assert_string_equal(text, "0 B");
    nef_human_bytes(text, 999);
    assert_string_equal(text, "999 B");
    nef_human_bytes(text, 12345678);
    assert_string_equal(text, "12.3 MB");
}

int run_options_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_both_spellings),
        cmocka_unit_test(refuses_the_rest),
        cmocka_unit_test(bytes_for_people),
    };

    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
