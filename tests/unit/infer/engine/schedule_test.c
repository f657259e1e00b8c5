/* Rows of a batch: the rules of schedule.h, and that everybody gets on whatever else is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>

#include "base/assert.h"
#include "infer/engine/schedule.h"
#include "infer/engine/share.h"

static uint32_t sum_of(const uint32_t *rows, uint32_t count)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < count; i++)
        sum += rows[i];
    return sum;
}

/* One tenant, and as many rows as a batch has. */
static void schedule(const uint32_t *left, uint32_t count, uint32_t prompt_rows, uint32_t *rows)
{
    const struct nef_want_tenant tenant = {0, 1};
    struct nef_want wants[1024];

    for (uint32_t i = 0; i < count; i++)
        wants[i] = (struct nef_want){left[i], 0, 0};
    nef_schedule(&(struct nef_schedule){wants, count, &tenant, 1, prompt_rows, 0}, rows);
}

static void one_prompt_takes_all(void **state)
{
    uint32_t left[] = {2000}, rows[1];

    (void)state;
    schedule(left, 1, NEF_BATCH_ROWS_MAX, rows);
    assert_int_equal(rows[0], NEF_BATCH_ROWS_MAX);
    left[0] = 3;
    schedule(left, 1, NEF_BATCH_ROWS_MAX, rows);
    assert_int_equal(rows[0], 3);
    left[0] = 1;
    schedule(left, 1, NEF_BATCH_ROWS_MAX, rows);
    assert_int_equal(rows[0], 1);
}

static void decoding_comes_first_and_prompts_are_bounded(void **state)
{
    const uint32_t left[] = {1, 5000, 1, 1};
    uint32_t rows[4];

    (void)state;
    schedule(left, 4, 128, rows);
    assert_int_equal(rows[0] + rows[2] + rows[3], 3);
    assert_int_equal(rows[1], 128);
    schedule(left, 4, NEF_BATCH_ROWS_MAX, rows);
    assert_int_equal(rows[1], NEF_BATCH_ROWS_MAX - 3);
}

static void a_short_prompt_passes_long_ones_and_the_oldest_goes_on(void **state)
{
    const uint32_t left[] = {9000, 8000, 7000, 40};
    uint32_t rows[4];

    (void)state;
    schedule(left, 4, NEF_BATCH_ROWS_MAX, rows);
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
    schedule(left, 3, NEF_BATCH_ROWS_MAX, rows);
    assert_int_equal(rows[1], 10);
    assert_int_equal(rows[2], 20);
    assert_int_equal(sum_of(rows, 3), NEF_BATCH_ROWS_MAX);
}

static void more_streams_than_rows_take_turns(void **state)
{
    const struct nef_want_tenant tenant = {0, 1};
    uint32_t rows[1001], got[1001] = {0}, longest = 0;
    struct nef_want wants[1001];

    (void)state;
    for (uint32_t i = 0; i < 1000; i++)
        wants[i] = (struct nef_want){1, 0, 0};
    wants[1000] = (struct nef_want){100000, 0, 0}; /* and a prompt, which isn't shut out */
    for (uint64_t turn = 0; turn < 1000; turn++) {
        nef_schedule(&(struct nef_schedule){wants, 1001, &tenant, 1, 128, turn}, rows);
        assert_int_equal(sum_of(rows, 1001), NEF_BATCH_ROWS_MAX);
        for (uint32_t i = 0; i < 1001; i++) {
            got[i] += rows[i];
            wants[i].waited = rows[i] > 0 ? 0 : wants[i].waited + 1;
            longest = NEF_MAX(longest, wants[i].waited);
        }
    }
    assert_in_range(longest, 2, 3);
    for (uint32_t i = 0; i < 1000; i++)
        assert_in_range(got[i], 450, 510); /* 480 */
    assert_int_equal(got[1000], 1000 * NEF_PROMPT_ROWS_MIN);
}

static void rows_go_to_the_tenant_that_had_least(void **state)
{
    struct nef_want_tenant tenants[] = {{100ull * NEF_SHARE_UNIT, 1}, {36ull * NEF_SHARE_UNIT, 1}};
    const struct nef_want wants[] = {{5000, 0, 0}, {4000, 0, 0}, {3000, 1, 0}};
    uint32_t rows[3];

    (void)state;
    nef_schedule(&(struct nef_schedule){wants, 3, tenants, 2, 192, 0}, rows);
    assert_int_equal(rows[0] + rows[1], 64); /* 100 + 64 = 36 + 128 */
    assert_int_equal(rows[2], 128);
    tenants[0] = tenants[1] = (struct nef_want_tenant){0, 1};
    tenants[1].weight = 3;
    nef_schedule(&(struct nef_schedule){wants, 3, tenants, 2, 256, 0}, rows);
    assert_int_equal(rows[0] + rows[1], 64);
    assert_int_equal(rows[2], 192);
}

static void the_pace_follows_the_clock(void **state)
{
    uint32_t rows = NEF_PROMPT_ROWS_FIRST;

    (void)state;
    for (int i = 0; i < 40; i++) /* 30 ms, and 1 ms a row */
        rows = nef_schedule_pace(rows, rows, 30000000 + rows * 1000000ull, NEF_SCHEDULE_BATCH_NS);
    assert_in_range(rows, 110, 125);
    for (int i = 0; i < 40; i++) /* quick: all */
        rows = nef_schedule_pace(rows, rows, rows * 50000ull, NEF_SCHEDULE_BATCH_NS);
    assert_int_equal(rows, NEF_BATCH_ROWS_MAX);
    assert_int_equal(nef_schedule_pace(rows, 40, 1000000000, NEF_SCHEDULE_BATCH_NS), rows); /* says little */
    assert_int_equal(nef_schedule_pace(rows, 300, 15000000, NEF_SCHEDULE_BATCH_NS), rows);
    assert_int_equal(nef_schedule_pace(rows, rows, 3000000000, NEF_SCHEDULE_BATCH_NS), rows / 2);
    for (int i = 0; i < 40; i++)
        rows = nef_schedule_pace(rows, rows, rows * 100000000ull, NEF_SCHEDULE_BATCH_NS);
    assert_int_equal(rows, NEF_PROMPT_ROWS_MIN);
    assert_int_equal(nef_schedule_pace(rows, 0, 0, NEF_SCHEDULE_BATCH_NS), rows);
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

            schedule(left, count, 128, rows);
            batches++;
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
        assert_true(batches <= total / 128 + 65);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_prompt_takes_all),
        cmocka_unit_test(decoding_comes_first_and_prompts_are_bounded),
        cmocka_unit_test(a_short_prompt_passes_long_ones_and_the_oldest_goes_on),
        cmocka_unit_test(nothing_is_wasted),
        cmocka_unit_test(more_streams_than_rows_take_turns),
        cmocka_unit_test(rows_go_to_the_tenant_that_had_least),
        cmocka_unit_test(the_pace_follows_the_clock),
        cmocka_unit_test(nobody_starves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
