/* Rows of a batch: the four rules of schedule.h, and that everybody gets on whatever else is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>

#include "base/assert.h"
#include "infer/engine/schedule.h"

static uint32_t sum_of(const uint32_t *rows, uint32_t count)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += rows[i];
    return sum;
}

static void one_prompt_takes_all(void **state)
{
    uint32_t left[] = {2000}, rows[1];

    (void)state;
    nef_schedule(left, 1, 0, rows);
    assert_int_equal(rows[0], NEF_BATCH_ROWS_MAX);
    left[0] = 3;
    nef_schedule(left, 1, 0, rows);
    assert_int_equal(rows[0], 3);
    left[0] = 1;
    nef_schedule(left, 1, 0, rows);
    assert_int_equal(rows[0], 1);
}

static void decoding_comes_first_and_bounds_prompts(void **state)
{
    const uint32_t left[] = {1, 5000, 1, 1};
    uint32_t rows[4];

    (void)state;
    nef_schedule(left, 4, 0, rows);
    assert_int_equal(rows[0] + rows[2] + rows[3], 3);
    assert_int_equal(rows[1], NEF_PROMPT_ROWS_BESIDE);
}

static void a_short_prompt_passes_long_ones_and_the_oldest_goes_on(void **state)
{
    const uint32_t left[] = {9000, 8000, 7000, 40};
    uint32_t rows[4];

    (void)state;
    nef_schedule(left, 4, 0, rows);
    assert_int_equal(rows[0], NEF_BATCH_ROWS_MAX / 2);
    assert_int_equal(rows[3], 40);
    assert_int_equal(rows[2], NEF_BATCH_ROWS_MAX / 2 - 40);
    assert_int_equal(rows[1], 0);
}

static void nothing_is_wasted(void **state)
{
    const uint32_t left[] = {1000, 10, 20};
    uint32_t rows[3];

    (void)state;
    nef_schedule(left, 3, 0, rows);
    assert_int_equal(rows[1], 10);
    assert_int_equal(rows[2], 20);
    assert_int_equal(sum_of(rows, 3), NEF_BATCH_ROWS_MAX);
}

static void more_streams_than_rows_take_turns(void **state)
{
    uint32_t left[1000], rows[1000], got[1000] = {0};

    (void)state;
    for (uint32_t i = 0; i < 1000; i++)
        left[i] = 1;
    for (uint64_t turn = 0; turn < 1000; turn++) {
        nef_schedule(left, 1000, turn, rows);
        assert_int_equal(sum_of(rows, 1000), NEF_BATCH_ROWS_MAX);
        for (uint32_t i = 0; i < 1000; i++)
            got[i] += rows[i];
    }
    for (uint32_t i = 0; i < 1000; i++)
        assert_in_range(got[i], 500, 520);
}

/* Random mixtures: bounds hold, and every prompt ends after as many batches as all rows before it need, at most. */
static void nobody_starves(void **state)
{
    uint32_t random = 1;

    (void)state;
    for (int round = 0; round < 200; round++) {
        uint32_t left[64], rows[64], count, total = 0, batches = 0;

        random = random * 1664525u + 1013904223u;
        count = 1 + (random >> 20) % 64;
        for (uint32_t i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            left[i] = 1 + (random >> 10) % ((random >> 4) % 3 == 0 ? 3000 : 40);
            total += left[i];
        }
        while (count > 0) {
            uint32_t kept = 0, sum;

            nef_schedule(left, count, batches++, rows);
            sum = sum_of(rows, count);
            assert_in_range(sum, 1, NEF_BATCH_ROWS_MAX);
            assert_true(rows[0] > 0); /* the oldest always gets on */
            for (uint32_t i = 0; i < count; i++) {
                assert_true(rows[i] <= left[i]);
                if (left[i] == 1)
                    assert_int_equal(rows[i], 1);
                left[i] -= rows[i];
            }
            for (uint32_t i = 0; i < count; i++)
                if (left[i] > 0)
                    left[kept++] = left[i];
            count = kept;
        }
        assert_true(batches <= total / NEF_PROMPT_ROWS_BESIDE + 65);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_prompt_takes_all),
        cmocka_unit_test(decoding_comes_first_and_bounds_prompts),
        cmocka_unit_test(a_short_prompt_passes_long_ones_and_the_oldest_goes_on),
        cmocka_unit_test(nothing_is_wasted),
        cmocka_unit_test(more_streams_than_rows_take_turns),
        cmocka_unit_test(nobody_starves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
