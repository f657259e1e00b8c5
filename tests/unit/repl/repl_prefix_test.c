/* The longest shared prefix, against logs written out epoch by epoch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "repl/repl.h"

#define PLACES 24u

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static struct nef_epoch_table table_of(const uint64_t *log, uint64_t from, uint64_t end)
{
    struct nef_epoch_table t = {0};

    for (uint64_t i = from; i < end; i++)
        if (t.count == 0 || t.at[t.count - 1].epoch != log[i])
            t.at[t.count++] = (struct nef_epoch_at){log[i], i};
    return t;
}

static void test_by_hand(void **state)
{
    struct nef_epoch_table none = {0}, a = {2, {{1, 10}, {3, 50}}}, b = {2, {{1, 10}, {2, 40}}};
    struct nef_epoch_table c = {1, {{7, 10}}};

    (void)state;
    assert_int_equal(nef_common_prefix(&none, 10, &a, 80), 10);
    assert_int_equal(nef_common_prefix(&a, 80, &a, 60), 60);
    assert_int_equal(nef_common_prefix(&a, 80, &b, 45), 40);
    assert_int_equal(nef_common_prefix(&b, 45, &a, 80), 40);
    assert_int_equal(nef_common_prefix(&a, 80, &c, 90), 0); /* nothing is known to be shared */
}

/* Histories as the protocol makes them: each epoch's writer continues some earlier log (one that its
 * predecessors left), alone, and every log is a prefix of what some writer had. Tables may lack their
 * oldest entries, as after dropped segments. The answer must be shared, and with whole tables the longest. */
static void test_random_histories(void **state)
{
    uint64_t x = 7;

    (void)state;
    for (uint32_t round = 0; round < 20000; round++) {
        uint64_t logs[6][PLACES], ends[6], shared = 0, from[2] = {0, 0}, got;
        uint32_t epochs = 2 + (uint32_t)(next_random(&x) % 5), a, b;
        struct nef_epoch_table ta, tb;

        for (uint32_t e = 0; e < epochs; e++) {
            uint64_t more = next_random(&x) % 6;

            ends[e] = 0;
            if (e > 0) {
                uint32_t base = (uint32_t)(next_random(&x) % e);

                ends[e] = next_random(&x) % (ends[base] + 1);
                memcpy(logs[e], logs[base], sizeof logs[e]);
            }
            while (more-- > 0 && ends[e] < PLACES)
                logs[e][ends[e]++] = e + 1;
        }
        a = (uint32_t)(next_random(&x) % epochs);
        b = (uint32_t)(next_random(&x) % epochs);
        if (ends[a] == 0 || ends[b] == 0)
            continue;
        ends[b] -= next_random(&x) % ends[b]; /* a replica that lags */
        while (shared < ends[a] && shared < ends[b] && logs[a][shared] == logs[b][shared])
            shared++;
        if (round % 2) {
            from[0] = next_random(&x) % ends[a];
            from[1] = next_random(&x) % ends[b];
        }
        ta = table_of(logs[a], from[0], ends[a]);
        tb = table_of(logs[b], from[1], ends[b]);
        got = nef_common_prefix(&ta, ends[a], &tb, ends[b]);
        if (round % 2)
            assert_true(got <= shared);
        else
            assert_int_equal(got, shared);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_random_histories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
