/* Outcomes of proposals: once applied, always found; evicted by rule, not by chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "repl/outcomes.h"

static struct nef_outcome outcome(uint64_t number)
{
    return (struct nef_outcome){.number = number, .offset = 10 * number, .code = NEF_OK, .detail = 7};
}

static uint64_t put(struct nef_outcomes *o, uint64_t proposer, uint64_t number, uint64_t order)
{
    struct nef_outcome x = outcome(number);
    uint64_t evicted;

    nef_outcomes_put(o, proposer, &x, order, &evicted);
    return evicted;
}

static void test_found_once_put(void **state)
{
    void *memory = malloc(nef_outcomes_bytes(2, 8));
    struct nef_outcomes *o = nef_outcomes_init(memory, 2, 8);
    struct nef_outcome x = {0};

    (void)state;
    assert_false(nef_outcomes_find(o, 5, 1, &x));
    assert_int_equal(put(o, 5, 3, 100), 0); /* out of order within the window */
    assert_int_equal(put(o, 5, 1, 101), 0);
    assert_true(nef_outcomes_find(o, 5, 1, &x));
    assert_int_equal(x.offset, 10);
    assert_int_equal(x.detail, 7);
    assert_false(nef_outcomes_find(o, 5, 2, &x));
    assert_false(nef_outcomes_find(o, 6, 1, &x));
    free(memory);
}

static void test_below_the_window_counts_as_applied(void **state)
{
    void *memory = malloc(nef_outcomes_bytes(1, 8));
    struct nef_outcomes *o = nef_outcomes_init(memory, 1, 8);
    struct nef_outcome x;

    (void)state;
    put(o, 5, 20, 1);
    assert_true(nef_outcomes_find(o, 5, 12, &x));
    assert_int_equal(x.code, NEF_E_TIMEOUT);
    assert_false(nef_outcomes_find(o, 5, 13, &x));
    put(o, 5, 13, 2);
    assert_true(nef_outcomes_find(o, 5, 13, &x));
    assert_int_equal(x.code, NEF_OK);
    free(memory);
}

static void test_longest_silent_proposer_goes(void **state)
{
    void *memory = malloc(nef_outcomes_bytes(2, 4));
    struct nef_outcomes *o = nef_outcomes_init(memory, 2, 4);
    struct nef_outcome x;

    (void)state;
    put(o, 5, 1, 10);
    put(o, 6, 1, 20);
    put(o, 5, 2, 30);
    assert_int_equal(put(o, 7, 9, 40), 6);
    assert_false(nef_outcomes_find(o, 6, 1, &x));
    assert_true(nef_outcomes_find(o, 5, 1, &x));
    assert_true(nef_outcomes_find(o, 7, 9, &x));
    assert_false(nef_outcomes_find(o, 7, 8, &x)); /* nothing of proposer 6 is left in the ring */
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_once_put),
        cmocka_unit_test(test_below_the_window_counts_as_applied),
        cmocka_unit_test(test_longest_silent_proposer_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
