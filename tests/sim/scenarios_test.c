/* Scenarios: stories of one or two faults, told by the trace. The seed and the weather are fixed, so the
 * trace is too. Where a story's times depend on nothing that matters, only its words are compared
 * (`told`): each line must come, in this order, with any others between them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include "sim/story.h"

/* ---- stories ---------------------------------------------------------------------------------------------- */

static void test_first_start(void **state)
{
    (void)state;
    sim_init(s, 1, 2);
    s->trace = calloc(1, 1);
    node_start(&s->nodes[0]);
    node_start(&s->nodes[1]);
    run(2000);
    told("a > starts, epoch 0\n"
         "a > asks for epoch 1, in sync 1, primary 0\n"
         "etcd: epoch 1 by a\n"
         "b > JOIN to a\n"
         "a > JOINED to b\n"
         "a > is primary in epoch 1\n"
         "a > asks for epoch 2, in sync 3, primary 0\n"
         "b > is backup in epoch 2\n");
    done();
}

static void test_write_in_either_zone_read_in_the_other(void **state)
{
    uint32_t w, r;

    (void)state;
    region(2);
    w = put(1, 0);
    r = get(0, 0);
    assert_true(answered(w) && answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    w = put(0, 1);
    r = get(1, 1);
    assert_true(answered(w) && answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    settle();
    done();
}

/* The gap of kill -9: the link breaks at once, and what remains is the lease that b gave to a. */
static void test_primary_killed(void **state)
{
    uint64_t killed, w;

    (void)state;
    region(2);
    put(0, 0);
    killed = s->now;
    node_crash(&s->nodes[0], true);
    w = ask(1, OP_PUT, 0);
    run(900);
    assert_true(answered((uint32_t)w));
    assert_true(s->requests[w].returned - killed < 700 * MS);
    told("b > asks for epoch 3, in sync 2, primary 1\n"
         "b > is seeking in epoch 3\n"
         "b > is primary in epoch 3\n"
         "b > answers request 1");
    node_start(&s->nodes[0]);
    settle();
    told("a > JOIN to b\n"
         "b > asks for epoch 4, in sync 3, primary 1\n"
         "a > is backup in epoch 4\n");
    done();
}

static void test_backup_killed(void **state)
{
    uint64_t killed, w;

    (void)state;
    region(2);
    killed = s->now;
    node_crash(&s->nodes[1], true);
    w = ask(0, OP_PUT, 0);
    run(900);
    assert_true(answered((uint32_t)w));
    assert_true(s->requests[w].returned - killed < 700 * MS);
    told("a > asks for epoch 3, in sync 1, primary 0\n"
         "a > is primary in epoch 3\n");
    node_start(&s->nodes[1]);
    settle();
    done();
}

static void test_primary_paused(void **state)
{
    uint64_t w, stopped, r;

    (void)state;
    region(2);
    put(0, 0);
    stopped = s->now;
    s->nodes[0].paused_until = s->now + 3000 * MS;
    w = ask(1, OP_PUT, 0);
    run(1900);
    assert_true(answered((uint32_t)w));
    assert_true(s->requests[w].returned - stopped < 1200 * MS);
    run(1500);
    r = get(0, 0); /* awake again, and never wrong: no answer, or the new value */
    run(500);
    assert_true(!answered((uint32_t)r) || s->requests[r].result == s->requests[w].value);
    settle();
    done();
}

static void test_link_cut_gives_all_cells_to_one_zone(void **state)
{
    struct link *link;
    uint32_t a, b;

    (void)state;
    region(2);
    link = net_link(s, 0, 1);
    link->cut[0] = link->cut[1] = true;
    a = ask(0, OP_PUT, 0);
    b = ask(1, OP_PUT, 1);
    run(1500);
    assert_true(answered(a));
    assert_false(answered(b)); /* b is out; the front takes its clients to a */
    told("a > asks for epoch 3, in sync 1, primary 0\n"
         "a > is primary in epoch 3\n");
    assert_true(node_clock(&s->nodes[1]) >= s->nodes[1].serve_until);
    link->cut[0] = link->cut[1] = false;
    settle();
    done();
}

/* R2: the answer to a compare-and-swap is lost; repeated, it takes effect once. */
static void test_lost_compare_and_swap(void **state)
{
    uint32_t w;

    (void)state;
    region(2);
    s->etcd.lose_answer = 1;
    node_crash(&s->nodes[1], true);
    w = ask(0, OP_PUT, 0);
    run(700);
    assert_false(answered(w)); /* pending: the old configuration still counts */
    assert_true(s->nodes[0].repl->cas.pending);
    assert_int_equal(s->etcd.group.epoch, 3);
    s->etcd.lose_answer = 0;
    run(1000);
    assert_true(answered(w));
    assert_int_equal(s->etcd.group.epoch, 3);
    node_start(&s->nodes[1]);
    settle();
    done();
}

/* A link that breaks while etcd is away must not stop the region for good: both seek, nobody can win, and the
 * old configuration works on when the link is back. */
static void test_link_flaps_without_etcd(void **state)
{
    uint32_t w, r;

    (void)state;
    region(2);
    s->etcd.down = true;
    net_break(s, 0, 1, true, true);
    run(1500);
    w = put(1, 0);
    r = get(0, 0);
    assert_true(answered(w) && answered(r));
    s->etcd.down = false;
    settle();
    done();
}

static void test_both_killed_second_starts_first(void **state)
{
    uint32_t w, r;

    (void)state;
    region(2);
    w = put(0, 0);
    node_crash(&s->nodes[1], true);
    node_crash(&s->nodes[0], true);
    node_start(&s->nodes[1]);
    run(1500);
    r = get(1, 0);
    assert_true(answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    told("b > asks for epoch 3, in sync 2, primary 1\n"
         "b > is primary in epoch 3\n");
    node_start(&s->nodes[0]);
    settle();
    done();
}

/* R7 */
static void test_failed_sync_stops_the_replica(void **state)
{
    uint32_t w;

    (void)state;
    region(2);
    s->nodes[0].fail_sync = true;
    w = ask(1, OP_PUT, 0);
    run(1500);
    assert_true(answered(w));
    told("a > stops: E_IO\n"
         "b > asks for epoch 3, in sync 2, primary 1\n"
         "a > starts, epoch 2\n"
         "b > is primary in epoch 3\n");
    settle();
    done();
}

/* R9: the backup's disk hangs; it goes, and a second time it has to wait longer before it counts again. */
static void test_slow_backup_is_removed(void **state)
{
    uint32_t w;

    (void)state;
    region(2);
    s->nodes[1].slow_disk = true;
    s->sync_time = MS;
    w = ask(0, OP_PUT, 0);
    for (uint32_t i = 0; i < 40; i++) {
        ask(0, OP_PUT, 2);
        run(100);
    }
    assert_true(answered(w));
    told("a > asks for epoch 3, in sync 1, primary 0\n");
    s->nodes[1].slow_disk = false;
    settle();
    assert_true(s->nodes[0].repl->peers[0].quiet_ns >= QUIET_NS_MIN);
    done();
}

/* R9: the primary's own disk hangs: it hands over, and b leads. */
static void test_slow_primary_hands_over(void **state)
{
    uint32_t w;

    (void)state;
    region(2);
    s->nodes[0].slow_disk = true;
    w = ask(1, OP_PUT, 0);
    for (uint32_t i = 0; i < 40; i++) {
        ask(1, OP_PUT, 2);
        run(100);
    }
    told("a > HANDOVER to b\n"
         "b > asks for epoch 3, in sync 2, primary 1\n"
         "b > is primary in epoch 3\n");
    assert_true(answered(w));
    s->nodes[0].slow_disk = false;
    settle();
    done();
}

static void test_planned_handover(void **state)
{
    struct nef_event ev = {.type = NEF_EV_HANDOVER};
    uint32_t w;

    (void)state;
    region(2);
    put(0, 0);
    node_step(&s->nodes[0], &ev);
    w = ask(0, OP_PUT, 0);
    run(100);
    assert_true(answered(w)); /* the whole change takes a few round trips */
    told("a > HANDOVER to b\n"
         "b > asks for epoch 3, in sync 3, primary 1\n"
         "b > is primary in epoch 3\n");
    settle();
    done();
}

static void test_failback_after_a_while_of_full_sync(void **state)
{
    (void)state;
    region(2);
    node_crash(&s->nodes[0], true);
    run(1000);
    node_start(&s->nodes[0]);
    settle();
    assert_true(s->nodes[1].repl->won);
    run(29000);
    assert_true(s->nodes[1].repl->won);
    run(3000);
    assert_true(s->nodes[0].repl->won);
    settle();
    done();
}

static void test_wiped_disk_joins_as_another_replica(void **state)
{
    uint32_t w, r;

    (void)state;
    region(2);
    w = put(0, 0);
    node_crash(&s->nodes[1], true);
    node_new_disk(&s->nodes[1]);
    for (uint32_t c = 0; c < CELLS; c++)
        s->nodes[1].applied[c] = NEF_SEGMENT_HEADER_BYTES;
    node_start(&s->nodes[1]);
    settle();
    assert_int_equal(s->etcd.group.member_count, 2); /* it took its zone's place */
    r = get(1, 0);
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    done();
}

/* R10: an old copy of the disk; it must not lead even when nobody else is there. */
static void test_rolled_back_disk_refuses(void **state)
{
    struct disk old = {0};
    uint32_t r;

    (void)state;
    region(2);
    put(0, 0);
    for (uint32_t c = 0; c < CELLS; c++)
        log_copy(&old.logs[c], &s->nodes[1].disk.logs[c]);
    old.epoch = s->nodes[1].disk.epoch;
    put(0, 0);
    put(0, 1);
    node_crash(&s->nodes[1], true); /* a new epoch, which begins above the old copy */
    run(1000);
    node_start(&s->nodes[1]);
    settle();
    node_crash(&s->nodes[0], true);
    node_crash(&s->nodes[1], true);
    s->nodes[1].snapshot = old;
    s->nodes[1].has_snapshot = true;
    node_roll_back(&s->nodes[1]);
    s->nodes[1].disk_lost = true;
    node_start(&s->nodes[1]);
    run(2000);
    r = get(1, 0);
    assert_false(answered(r));
    told("b > is stopped in epoch 4: E_ROLLED_BACK\n");
    assert_int_equal(s->etcd.group.epoch, 4);
    node_start(&s->nodes[0]); /* the other one has everything */
    settle();
    done();
}

static void test_damage_is_repaired_from_the_peer(void **state)
{
    (void)state;
    region(2);
    for (uint32_t i = 0; i < 12; i++)
        put(0, i % KEYS);
    run(200);
    node_crash(&s->nodes[0], true);
    s->nodes[0].disk_lost = node_damage(&s->nodes[0]);
    assert_true(s->nodes[0].disk_lost);
    node_start(&s->nodes[0]);
    settle();
    told("a > cell");
    told("a > JOIN to b\n"
         "a > cuts cell\n"
         "a > is catching up\n"
         "a > is backup\n");
    done();
}

/* What is wrong with a member's disk must stay visible until the record is without it: cut earlier, it would look
 * whole after its next start, and lead or answer without what was acknowledged (seed 61005 of that day). */
static void test_a_damaged_member_isnt_cut_while_in_sync(void **state)
{
    (void)state;
    region(2);
    for (uint32_t i = 0; i < 12; i++)
        put(0, i % KEYS);
    run(200);
    s->nodes[0].etcd_cut = true; /* a can't remove b yet */
    node_crash(&s->nodes[1], true);
    s->nodes[1].disk_lost = node_damage(&s->nodes[1]);
    assert_true(s->nodes[1].disk_lost);
    node_start(&s->nodes[1]);
    run(800);
    assert_null(strstr(s->trace, "b > cuts"));
    node_crash(&s->nodes[1], true);
    s->trace_bytes = 0;
    node_start(&s->nodes[1]);
    run(300);
    told("b > is stopped in epoch 2: E_DAMAGED\n");
    s->nodes[0].etcd_cut = false;
    settle();
    told("a > asks for epoch 3, in sync 1, primary 0\n"
         "b > cuts cell\n"
         "b > is backup in epoch 4\n");
    done();
}

/* R6: what the returning one lacks has been dropped; it skips to what there is. */
static void test_returns_after_segments_were_dropped(void **state)
{
    (void)state;
    region(2);
    node_crash(&s->nodes[1], true);
    run(1000);
    for (uint32_t i = 0; i < 150; i++)
        put(0, i % KEYS);
    node_drop(&s->nodes[0]);
    told("a > drops cell 0");
    node_start(&s->nodes[1]);
    settle();
    told("b > skips cell 0");
    done();
}

/* Leaving a provider: zone c is added, then the zone b goes for good; nothing depends on their names. */
static void test_third_zone(void **state)
{
    uint32_t w, r;

    (void)state;
    region(3);
    w = put(2, 0);
    r = get(1, 0);
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    node_crash(&s->nodes[1], true);
    s->nodes[1].stopped_for_good = true;
    run(1000);
    w = put(2, 0);
    assert_true(answered(w));
    assert_int_equal(__builtin_popcount(s->etcd.group.in_sync), 2);
    node_crash(&s->nodes[0], true);
    run(1500);
    r = get(2, 0);
    assert_true(answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    node_start(&s->nodes[0]);
    settle();
    done();
}

static void test_space_is_kept_for_deletes(void **state)
{
    struct nef_event space = {.type = NEF_EV_SPACE, .err = NEF_E_NOSPACE};
    uint32_t w, d;

    (void)state;
    region(2);
    node_step(&s->nodes[1], &space);
    run(100);
    w = put(0, 0);
    d = ask(0, OP_DELETE, 0);
    run(100);
    assert_true(s->requests[w].done && !answered(w)); /* refused: it would not fit b */
    assert_true(answered(d));
    space.err = NEF_OK;
    node_step(&s->nodes[1], &space);
    run(100);
    w = put(0, 0);
    assert_true(answered(w));
    settle();
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_start),
        cmocka_unit_test(test_write_in_either_zone_read_in_the_other),
        cmocka_unit_test(test_primary_killed),
        cmocka_unit_test(test_backup_killed),
        cmocka_unit_test(test_primary_paused),
        cmocka_unit_test(test_link_cut_gives_all_cells_to_one_zone),
        cmocka_unit_test(test_lost_compare_and_swap),
        cmocka_unit_test(test_link_flaps_without_etcd),
        cmocka_unit_test(test_both_killed_second_starts_first),
        cmocka_unit_test(test_failed_sync_stops_the_replica),
        cmocka_unit_test(test_slow_backup_is_removed),
        cmocka_unit_test(test_slow_primary_hands_over),
        cmocka_unit_test(test_planned_handover),
        cmocka_unit_test(test_failback_after_a_while_of_full_sync),
        cmocka_unit_test(test_wiped_disk_joins_as_another_replica),
        cmocka_unit_test(test_rolled_back_disk_refuses),
        cmocka_unit_test(test_damage_is_repaired_from_the_peer),
        cmocka_unit_test(test_a_damaged_member_isnt_cut_while_in_sync),
        cmocka_unit_test(test_returns_after_segments_were_dropped),
        cmocka_unit_test(test_third_zone),
        cmocka_unit_test(test_space_is_kept_for_deletes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
