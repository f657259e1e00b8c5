/* The gateway's loop: nothing runs before it is told to run, and then everything that was posted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <unistd.h>
#include "gateway/loop.h"

static struct nef_loop *loop;
static atomic_uint ticks, runs;
static atomic_bool early;

static void on_tick(void *context, uint64_t now)
{
    (void)now;
    if (loop == NULL || context != &ticks) /* what its owner keeps must be there */
        atomic_store(&early, true);
    (void)atomic_fetch_add(&ticks, 1);
}

static void on_post(struct nef_post *post)
{
    (void)post;
    (void)atomic_fetch_add(&runs, 1);
}

static void runs_when_told(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 200; round++) {
        struct nef_post post = {.run = on_post};

        loop = NULL;
        atomic_store(&ticks, 0);
        atomic_store(&runs, 0);
        assert_int_equal(nef_loop_open(on_tick, &ticks, &loop), NEF_OK);
        assert_true(nef_loop_post(loop, &post));
        if (round == 0)
            (void)usleep(50000);
        assert_int_equal(atomic_load(&ticks) + atomic_load(&runs), 0);
        assert_int_equal(nef_loop_run(loop), NEF_OK);
        for (int i = 0; i < 5000 && (atomic_load(&ticks) == 0 || atomic_load(&runs) == 0); i++)
            (void)usleep(1000);
        nef_loop_stop(loop);
        assert_int_equal(atomic_load(&runs), 1);
        assert_true(atomic_load(&ticks) > 0);
        assert_false(atomic_load(&early));
    }
}

static void one_that_never_ran_is_stopped(void **state)
{
    struct nef_post post = {.run = on_post};

    (void)state;
    atomic_store(&runs, 0);
    assert_int_equal(nef_loop_open(on_tick, &ticks, &loop), NEF_OK);
    assert_true(nef_loop_post(loop, &post));
    nef_loop_stop(loop);
    assert_int_equal(atomic_load(&runs), 1);
    nef_loop_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_when_told),
        cmocka_unit_test(one_that_never_ran_is_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
