/* The pool: every part once, effects visible, late and sleeping threads, scratch. Also run under TSan (make soak). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "infer/model/pool.h"

static const uint32_t counts[] = {1, 2, 3, 5, 8};

static struct nef_pool *start(uint32_t threads, size_t scratch)
{
    const struct nef_kernels *set = nef_kernels_get("scalar");
    struct nef_pool *pool;

    assert_int_equal(nef_kernels_thread_enter(set), NEF_OK);
    assert_int_equal(nef_pool_start(threads, scratch, set, &pool), NEF_OK);
    return pool;
}

struct work {
    uint32_t number; /* plain memory: the pool must make it visible both ways */
    uint32_t hits[512];
};

static void mark(void *context, uint32_t part, void *scratch)
{
    struct work *w = context;

    assert_null(scratch);
    w->hits[part] += w->number;
}

static void every_part_once(void **state)
{
    (void)state;
    for (size_t t = 0; t < NEF_COUNT(counts); t++) {
        struct nef_pool *pool = start(counts[t], 0);
        struct work w = {0};

        assert_int_equal(nef_pool_threads(pool), counts[t]);
        for (uint32_t round = 0; round < 3000; round++) {
            uint32_t parts = round % 37 == 0 ? 512 : round % 11;

            w.number = round + 1;
            memset(w.hits, 0, sizeof(w.hits));
            nef_pool_run(pool, parts, mark, &w);
            for (uint32_t i = 0; i < NEF_COUNT(w.hits); i++)
                assert_int_equal(w.hits[i], i < parts ? round + 1 : 0);
        }
        nef_pool_stop(pool);
    }
}

/* Long pauses send all threads to sleep; the next job must find them, or do without. */
static void after_sleep(void **state)
{
    struct nef_pool *pool = start(4, 0);
    struct work w = {0};

    (void)state;
    for (uint32_t round = 0; round < 100; round++) {
        const struct timespec pause = {0, (long)(round % 5) * 100000};

        (void)nanosleep(&pause, NULL);
        w.number = 1;
        nef_pool_run(pool, 64, mark, &w);
    }
    for (uint32_t i = 0; i < 64; i++)
        assert_int_equal(w.hits[i], 100);
    nef_pool_stop(pool);
}

static void hold_up(void *context, uint32_t part, void *scratch)
{
    const struct timespec pause = {0, 2000000};

    (void)scratch;
    if (part == 0)
        (void)nanosleep(&pause, NULL); /* the others are done by then: the caller sleeps on the end, or works on */
    ((uint32_t *)context)[part]++;
}

static void a_slow_part_is_waited_for(void **state)
{
    struct nef_pool *pool = start(3, 0);
    uint32_t hits[8] = {0};

    (void)state;
    for (uint32_t round = 1; round <= 50; round++) {
        nef_pool_run(pool, 8, hold_up, hits);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(hits[i], round);
    }
    nef_pool_stop(pool);
}

struct scratch_work {
    size_t bytes;
};

static void fill_scratch(void *context, uint32_t part, void *scratch)
{
    const struct scratch_work *w = context;

    assert_int_equal((uintptr_t)scratch % 64, 0);
    memset(scratch, (int)part, w->bytes);
    for (size_t i = 0; i < w->bytes; i++)
        assert_int_equal(((uint8_t *)scratch)[i], (uint8_t)part);
}

static void scratch_is_each_threads_own_and_grows(void **state)
{
    static const size_t sizes[] = {100, 100, 5000, 200, 100000};
    struct nef_pool *pool = start(3, 64);

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(sizes); i++) {
        struct scratch_work w = {sizes[i]};

        assert_int_equal(nef_pool_scratch(pool, sizes[i]), NEF_OK);
        for (uint32_t round = 0; round < 20; round++)
            nef_pool_run(pool, 40, fill_scratch, &w);
    }
    nef_pool_stop(pool);
}

static void as_many_as_the_machine_has(void **state)
{
    struct nef_pool *pool = start(0, 0);

    (void)state;
    assert_in_range(nef_pool_threads(pool), 1, 256);
    nef_pool_stop(pool);
    nef_pool_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_once),
        cmocka_unit_test(after_sleep),
        cmocka_unit_test(a_slow_part_is_waited_for),
        cmocka_unit_test(scratch_is_each_threads_own_and_grows),
        cmocka_unit_test(as_many_as_the_machine_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
