/* The read gate against a plain list of marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "repl/gate.h"

#define OPS 4000u

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void tag_of(uint64_t key, uint8_t tag[16])
{
    memset(tag, 0, 16);
    tag[0] = (uint8_t)key; /* equal hash for all that differ only behind */
    tag[8] = (uint8_t)(key >> 8);
}

static void test_nothing_waits_in_an_empty_gate(void **state)
{
    void *memory = malloc(nef_gate_bytes(4));
    struct nef_gate *g = nef_gate_init(memory, 4, 100);
    uint8_t tag[16] = {1};

    (void)state;
    assert_int_equal(nef_gate_wait(g, tag, UINT64_MAX), 0);
    assert_int_equal(nef_gate_wait(g, NULL, UINT64_MAX), 0);
    nef_gate_mark(g, tag, 100); /* applied already */
    assert_int_equal(nef_gate_wait(g, tag, UINT64_MAX), 0);
    free(memory);
}

static void test_waits_for_own_key_only(void **state)
{
    void *memory = malloc(nef_gate_bytes(8));
    struct nef_gate *g = nef_gate_init(memory, 8, 0);
    uint8_t a[16] = {1}, b[16] = {2}, all[16] = {0};

    (void)state;
    nef_gate_mark(g, a, 10);
    nef_gate_mark(g, b, 20);
    nef_gate_mark(g, a, 30);
    assert_int_equal(nef_gate_wait(g, a, 40), 30);
    assert_int_equal(nef_gate_wait(g, a, 29), 10);
    assert_int_equal(nef_gate_wait(g, b, 40), 20);
    assert_int_equal(nef_gate_wait(g, NULL, 40), 30);
    assert_int_equal(nef_gate_wait(g, NULL, 5), 0);
    nef_gate_mark(g, all, 50); /* a bucket op touches every key */
    assert_int_equal(nef_gate_wait(g, b, 60), 50);
    assert_int_equal(nef_gate_wait(g, b, 45), 20);
    nef_gate_cut(g, 30);
    assert_int_equal(nef_gate_wait(g, b, 60), 20);
    nef_gate_applied(g, 30);
    assert_int_equal(nef_gate_wait(g, a, 60), 0);
    free(memory);
}

static void test_overflow_makes_everything_wait(void **state)
{
    void *memory = malloc(nef_gate_bytes(2));
    struct nef_gate *g = nef_gate_init(memory, 2, 0);
    uint8_t a[16] = {1}, b[16] = {2};

    (void)state;
    for (uint64_t end = 10; end <= 50; end += 10)
        nef_gate_mark(g, a, end);
    assert_int_equal(nef_gate_wait(g, b, 60), 50);
    assert_int_equal(nef_gate_wait(g, b, 35), 35);
    assert_int_equal(nef_gate_wait(g, b, 25), 0); /* what the table holds is known exactly */
    assert_int_equal(nef_gate_wait(g, a, 25), 20);
    nef_gate_cut(g, 40);
    assert_int_equal(nef_gate_wait(g, b, 60), 40);
    nef_gate_applied(g, 40);
    assert_int_equal(nef_gate_wait(g, b, 60), 0);
    nef_gate_mark(g, b, 70);
    assert_int_equal(nef_gate_wait(g, b, 70), 70);
    free(memory);
}

/* Never less than the list says, and with room exactly that. */
static void test_like_a_list(void **state)
{
    static struct {
        uint64_t key, end;
    } list[OPS];
    static const uint32_t sizes[] = {3, 33, 4096};
    uint64_t x = 42;

    (void)state;
    for (uint32_t size = 0; size < 3; size++) {
        uint32_t entries = sizes[size];
        void *memory = malloc(nef_gate_bytes(entries));
        struct nef_gate *g = nef_gate_init(memory, entries, 0);
        uint64_t end = 0, applied = 0;
        uint32_t count = 0;

        for (uint32_t i = 0; i < OPS; i++) {
            uint64_t dice = next_random(&x) % 10, key = next_random(&x) % 600, exact = 0, any = 0;
            uint64_t bound, waits;
            uint8_t tag[16];

            tag_of(key, tag);
            if (dice < 5) {
                end += 1 + next_random(&x) % 9;
                nef_gate_mark(g, tag, end);
                list[count].key = key;
                list[count++].end = end;
            } else if (dice == 5) {
                applied += next_random(&x) % (end - applied + 1);
                nef_gate_applied(g, applied);
            } else if (dice == 6 && next_random(&x) % 8 == 0) {
                uint64_t to = applied + next_random(&x) % (end - applied + 1);

                nef_gate_cut(g, to);
                while (count > 0 && list[count - 1].end > to)
                    count--;
                end = to;
            }
            key = next_random(&x) % 600;
            tag_of(key, tag);
            bound = next_random(&x) % (end + 5);
            for (uint32_t j = 0; j < count; j++)
                if (list[j].end > applied && list[j].end <= bound) {
                    any = list[j].end;
                    if (list[j].key == key || list[j].key == 0) /* key 0 is the all-zero tag */
                        exact = list[j].end;
                }
            waits = nef_gate_wait(g, tag, bound);
            assert_true(waits >= exact && waits <= bound);
            if (entries == 4096)
                assert_int_equal(waits, exact);
            waits = nef_gate_wait(g, NULL, bound);
            assert_true(waits >= any && waits <= bound);
        }
        free(memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_waits_in_an_empty_gate),
        cmocka_unit_test(test_waits_for_own_key_only),
        cmocka_unit_test(test_overflow_makes_everything_wait),
        cmocka_unit_test(test_like_a_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
