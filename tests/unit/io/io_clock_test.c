/* Unit tests of src/io/clock.c and src/io/workers.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "io/clock.h"
#include "io/workers.h"

#define S  1000000000ll
#define MS 1000000ll

static void now_goes_on(void **state)
{
    uint64_t before = nef_now_ns();
    uint64_t wall = nef_wall_ms();
    time_t real = time(NULL);

    (void)state;
    assert_true(nef_now_ns() >= before);
    assert_true(wall / 1000 + 2 >= (uint64_t)real && wall / 1000 <= (uint64_t)real + 2);
    assert_true(nef_wall_behind_ms() >= -1 && nef_wall_behind_ms() <= 1);
}

static void adjust_moves_the_wall_only(void **state)
{
    uint64_t wall = nef_wall_ms(), now = nef_now_ns(), moved;

    (void)state;
    nef_wall_adjust(3600000);
    moved = nef_wall_ms();
    assert_true(moved >= wall + 3600000 && moved < wall + 3605000);
    assert_true(nef_now_ns() - now < 5 * (uint64_t)S);
    assert_true(nef_wall_behind_ms() < -3599000);
    (void)usleep(250000); /* above NEF_WALL_STEP_MS: it isn't drawn back */
    assert_true(nef_wall_ms() >= moved + 249);
    nef_wall_adjust(-3600000);
}

static void slew_is_slow_and_stops(void **state)
{
    (void)state;
    assert_int_equal(nef_wall_slew(0, 0, 100 * MS), 0);
    assert_int_equal(nef_wall_slew(0, 30 * S, S), 500000); /* 500 ppm of a second */
    assert_int_equal(nef_wall_slew(0, -30 * S, S), -500000);
    assert_int_equal(nef_wall_slew(7, 30, S), 30);         /* reached, not passed */
    assert_int_equal(nef_wall_slew(0, 60 * S, S), 500000); /* the border still follows */
    assert_int_equal(nef_wall_slew(0, 60 * S + 1, S), 0);  /* a step isn't followed */
    assert_int_equal(nef_wall_slew(0, -60 * S - 1, S), 0);
    assert_int_equal(nef_wall_slew(5 * S, 5 * S + 1, UINT64_MAX), 5 * S + 1);
    assert_int_equal(nef_wall_slew(-S, S, 0), -S);
}

static struct nef_wall_sample at(uint64_t ms)
{
    return (struct nef_wall_sample){true, ms};
}

static void decision(void **state)
{
    static const struct nef_wall_sample none = {false, 0};
    const uint64_t t = 1000000000, far = 61000;
    struct nef_wall_decision d;

    (void)state;
    d = nef_wall_decide(t, none, none, 60000);
    assert_int_equal(d.verdict, NEF_WALL_GOOD);
    d = nef_wall_decide(t, at(t + 60000), at(t - 60000), 60000); /* the tolerance itself is good */
    assert_int_equal(d.verdict, NEF_WALL_GOOD);
    assert_false(d.warn);
    d = nef_wall_decide(t, at(t + far), at(t + 5), 60000); /* the peer is the wrong one */
    assert_int_equal(d.verdict, NEF_WALL_GOOD);
    assert_int_equal(d.adjust_ms, 0);
    d = nef_wall_decide(t, at(t), at(t - far), 60000); /* the witness is */
    assert_int_equal(d.verdict, NEF_WALL_GOOD);
    d = nef_wall_decide(t, at(t + 3600000), at(t + 3600010), 60000); /* we are */
    assert_int_equal(d.verdict, NEF_WALL_OUTVOTED);
    assert_int_equal(d.adjust_ms, 3600005);
    assert_true(d.warn);
    d = nef_wall_decide(t, at(t - 3600000), at(t - 3599000), 60000);
    assert_int_equal(d.verdict, NEF_WALL_OUTVOTED);
    assert_int_equal(d.adjust_ms, -3599500);
    d = nef_wall_decide(t, at(t + 3600000), none, 60000); /* one against one */
    assert_int_equal(d.verdict, NEF_WALL_UNSURE);
    assert_int_equal(d.adjust_ms, 0);
    assert_true(d.warn);
    d = nef_wall_decide(t, none, at(t - 3600000), 60000);
    assert_int_equal(d.verdict, NEF_WALL_UNSURE);
    d = nef_wall_decide(t, at(t + 3600000), at(t - 3600000), 60000); /* three clocks, three times */
    assert_int_equal(d.verdict, NEF_WALL_UNSURE);
    d = nef_wall_decide(t, at(t + far), none, 60000);
    assert_int_equal(d.verdict, NEF_WALL_UNSURE);
    d = nef_wall_decide(t, at(t + 10), none, 60000);
    assert_int_equal(d.verdict, NEF_WALL_GOOD);
}

/* ---- workers ---- */

static _Atomic int ran;
static sem_t hold, started;

static void count(void *arg)
{
    atomic_fetch_add(&ran, (int)(intptr_t)arg);
}

static void wait_held(void *arg)
{
    (void)arg;
    (void)sem_post(&started);
    (void)sem_wait(&hold);
}

static void workers_run_everything_once(void **state)
{
    struct nef_workers *w;
    int submitted = 0;

    (void)state;
    atomic_store(&ran, 0);
    assert_int_equal(nef_workers_new("a long name for threads", 4, 64, &w), NEF_OK);
    while (submitted < 10000) {
        nef_err err = nef_workers_submit(w, count, (void *)1);

        if (err == NEF_OK)
            submitted++;
        else
            assert_int_equal(err, NEF_E_BUSY);
    }
    nef_workers_drain(w);
    assert_int_equal(atomic_load(&ran), 10000);
    assert_int_equal(nef_workers_waiting(w), 0);
    nef_workers_free(w);
    nef_workers_free(NULL);
}

static void workers_full_queue_and_stop(void **state)
{
    struct nef_workers *w;

    (void)state;
    (void)sem_init(&hold, 0, 0);
    (void)sem_init(&started, 0, 0);
    atomic_store(&ran, 0);
    assert_int_equal(nef_workers_new("test", 1, 3, &w), NEF_OK);
    assert_int_equal(nef_workers_submit(w, wait_held, NULL), NEF_OK);
    (void)sem_wait(&started);
    for (int i = 0; i < 3; i++)
        assert_int_equal(nef_workers_submit(w, count, (void *)1), NEF_OK);
    assert_int_equal(nef_workers_submit(w, count, (void *)100), NEF_E_BUSY);
    assert_int_equal(nef_workers_waiting(w), 3);
    (void)sem_post(&hold);
    nef_workers_stop(w); /* what was queued runs */
    assert_int_equal(atomic_load(&ran), 3);
    assert_int_equal(nef_workers_submit(w, count, (void *)1), NEF_E_CLOSED);
    nef_workers_stop(w);
    nef_workers_free(w);
    (void)sem_destroy(&hold);
    (void)sem_destroy(&started);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(now_goes_on),
        cmocka_unit_test(adjust_moves_the_wall_only),
        cmocka_unit_test(slew_is_slow_and_stops),
        cmocka_unit_test(decision),
        cmocka_unit_test(workers_run_everything_once),
        cmocka_unit_test(workers_full_queue_and_stop),
    };

    return cmocka_run_group_tests_name("io clock and workers", tests, NULL, NULL);
}
