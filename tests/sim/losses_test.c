/* Stories of losing more than one part: what an operator accepts (R8), who goes on without etcd, and an etcd that lost
 * what it knew. As in scenarios_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include "sim/story.h"

/* R8: one zone and etcd's majority gone: the survivor stops, and an operator may accept the loss. What the
 * other one had is then cut from it (and kept by the runtime). */
static void test_accepted_loss(void **state)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    uint32_t w, lost;

    (void)state;
    region(2);
    put(0, 0);
    node_crash(&s->nodes[1], true);
    run(1000);
    lost = put(0, 0); /* only a has it */
    assert_true(answered(lost));
    node_crash(&s->nodes[0], true);
    node_start(&s->nodes[1]);
    run(2000);
    w = put(1, 1);
    assert_false(answered(w)); /* b isn't in sync: it does nothing by itself */
    node_step(&s->nodes[1], &recover);
    run(1500);
    told("b > asks for epoch 1048579, in sync 2, primary 1\n"
         "etcd: epoch 1048579 by b, in sync 2, primary 1, loss accepted\n"
         "b > is primary in epoch 1048579\n");
    w = put(1, 0);
    assert_true(answered(w));
    node_start(&s->nodes[0]);
    run(3000);
    told("a > cuts cell 0\n"
         "b > asks for epoch 1048580, in sync 3, primary 1\n");
    check_end(s);
    done();
}

/* R8, and etcd goes on with a member that had missed the last record: the new epoch is above that record and above
 * what the survivor knows, whether its process still knows the record or only the epoch on its disk. */
static void missed_record(bool started_again)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    uint32_t w;

    region(2);
    put(0, 0);
    node_crash(&s->nodes[0], true);
    run(1500);
    w = put(1, 0);
    assert_true(answered(w));
    assert_int_equal(s->etcd.group.epoch, 3);
    if (started_again)
        node_crash(&s->nodes[1], false);
    s->etcd.group = s->etcd.history[2];
    s->etcd.revision += 100; /* cli/etcd_alone.c: revisions never fall */
    if (started_again)
        node_start(&s->nodes[1]);
    run(1500);
    assert_int_equal(s->etcd.group.epoch, 2); /* not without the word */
    node_step(&s->nodes[1], &recover);
    run(1500);
    assert_int_equal(s->etcd.group.epoch, 3 + NEF_EPOCH_OVERRIDE_STEP);
    assert_true(nef_group_overrides(&s->etcd.group));
    w = put(1, 0);
    assert_true(answered(w));
    node_start(&s->nodes[0]);
    run(3000);
    assert_int_equal(s->etcd.group.in_sync, 3);
    check_end(s);
    done();
}

static void test_accepted_loss_with_a_record_missed(void **state)
{
    (void)state;
    missed_record(false);
}

/* The same, but only the lost one knew of the record that etcd's survivor missed, and wrote in that epoch: when it is
 * back, its log must not be taken for ours because of an equal epoch. */
static void test_accepted_loss_with_an_epoch_never_heard_of(void **state)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    uint32_t w, lost;

    (void)state;
    region(2);
    put(0, 0);
    node_crash(&s->nodes[1], false);
    run(1500);
    lost = put(0, 0); /* in epoch 3 */
    assert_true(answered(lost));
    assert_int_equal(s->etcd.group.epoch, 3);
    node_crash(&s->nodes[0], false);
    s->etcd.group = s->etcd.history[2];
    s->etcd.revision += 100;
    s->etcd.down = true; /* as it is without a majority, until the word */
    node_start(&s->nodes[1]);
    run(1500);
    s->etcd.down = false;
    node_step(&s->nodes[1], &recover);
    run(1500);
    assert_true(s->etcd.group.epoch > 3);
    w = put(1, 1);
    assert_true(answered(w));
    node_start(&s->nodes[0]);
    run(3000);
    assert_int_equal(s->etcd.group.in_sync, 3);
    check_end(s);
    done();
}

static void test_accepted_loss_with_a_record_missed_after_a_start(void **state)
{
    (void)state;
    missed_record(true);
}

static void test_survivor_alone_in_sync_needs_no_etcd(void **state)
{
    uint32_t w, r;

    (void)state;
    region(2);
    node_crash(&s->nodes[1], true);
    run(1000);
    s->etcd.down = true;
    run(3000);
    w = put(0, 0);
    r = get(0, 0);
    assert_true(answered(w) && answered(r));
    s->etcd.down = false;
    node_start(&s->nodes[1]);
    settle();
    done();
}

static void test_survivor_in_a_pair_stops_without_etcd(void **state)
{
    uint32_t w;

    (void)state;
    region(2);
    s->etcd.down = true;
    node_crash(&s->nodes[1], true);
    w = ask(0, OP_PUT, 0);
    run(2000);
    assert_false(answered(w));
    s->etcd.down = false;
    node_start(&s->nodes[1]);
    settle();
    done();
}

static void test_lost_configuration_stops_a_log_that_is_not_empty(void **state)
{
    static struct nef_repl_status status;

    (void)state;
    region(2);
    put(0, 0);
    node_crash(&s->nodes[0], true);
    node_crash(&s->nodes[1], true);
    memset(&s->etcd.group, 0, sizeof s->etcd.group);
    s->etcd.revision = 0;
    node_start(&s->nodes[0]);
    run(1500);
    nef_repl_status(s->nodes[0].repl, &status);
    assert_int_equal(status.role, NEF_ROLE_STOPPED);
    assert_int_equal(status.err, NEF_E_CONFIG);
    assert_int_equal(s->etcd.group.epoch, 0);
    done();
}

/* docs/operations.md, "All etcd members lost their data": etcd begins anew, its revisions, too, and no zone is started
 * again. Without the word nothing changes; with it the record is written from what the zone knows. */
static void test_record_is_written_into_an_etcd_that_lost_it(void **state)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    uint64_t before;
    uint32_t w;

    (void)state;
    region(2);
    put(0, 0);
    before = s->etcd.group.epoch;
    memset(&s->etcd.group, 0, sizeof s->etcd.group);
    s->etcd.revision = 0;
    run(1500);
    w = put(1, 0);
    assert_true(answered(w));
    assert_int_equal(s->etcd.group.epoch, 0);
    node_step(&s->nodes[0], &recover);
    run(5000);
    assert_true(s->etcd.group.epoch > before + NEF_EPOCH_OVERRIDE_STEP);
    assert_int_equal(s->etcd.group.in_sync, 3);
    w = put(1, 0);
    assert_true(answered(w));
    node_crash(&s->nodes[0], true); /* and the record can change again */
    run(1500);
    w = put(1, 0);
    assert_true(answered(w));
    node_start(&s->nodes[0]);
    settle();
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted_loss),
        cmocka_unit_test(test_accepted_loss_with_a_record_missed),
        cmocka_unit_test(test_accepted_loss_with_an_epoch_never_heard_of),
        cmocka_unit_test(test_accepted_loss_with_a_record_missed_after_a_start),
        cmocka_unit_test(test_survivor_alone_in_sync_needs_no_etcd),
        cmocka_unit_test(test_survivor_in_a_pair_stops_without_etcd),
        cmocka_unit_test(test_lost_configuration_stops_a_log_that_is_not_empty),
        cmocka_unit_test(test_record_is_written_into_an_etcd_that_lost_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
