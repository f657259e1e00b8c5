/* Stories of catch-up that once went round for ever: what the primary can't read, what it never had, and logs
 * whose beginnings are gone. Each must go on by itself, or wait where an operator sees it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include "sim/story.h"

static struct nef_repl_status status;

static void wipe(uint32_t zone)
{
    node_new_disk(&s->nodes[zone]);
    for (uint32_t c = 0; c < CELLS; c++)
        s->nodes[zone].applied[c] = NEF_SEGMENT_HEADER_BYTES;
}

static void write_many(uint32_t zone, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        put(zone, i % KEYS);
}

static uint32_t times_told(const char *text)
{
    uint32_t n = 0;

    for (const char *at = strstr(s->trace, text); at; at = strstr(at + 1, text))
        n++;
    return n;
}

/* Until WORDS are in the trace. */
static void run_until_told(const char *words)
{
    for (uint32_t i = 0; i < 200000 && !strstr(s->trace, words); i++)
        assert_true(sim_step(s));
    assert_non_null(strstr(s->trace, words));
}

/* ---- what the primary can't read ------------------------------------------------------------------------------ */

/* The INDEXth record of cell 0 of the only copy can't be read. The region goes on, the other zone waits and both
 * say so; nothing is tried at full speed; once the record is there again, all becomes well. */
static void blocked_by(int64_t index)
{
    const struct log *l = &s->nodes[0].disk.logs[0];
    uint64_t bad;

    region(2);
    write_many(0, 60);
    run(300);
    node_crash(&s->nodes[1], true);
    wipe(1);
    run(1500); /* a is alone in sync, and what b will need begins where a's log does */
    bad = l->at[index >= 0 ? index : (int64_t)l->count + index].offset;
    s->nodes[0].unreadable[0] = bad;
    s->trace_bytes = 0;
    s->trace[0] = 0;
    node_start(&s->nodes[1]);
    run(2000);
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t w = ask(0, OP_PUT, i % KEYS);

        run(300);
        assert_true(answered(w));
        assert_true(s->requests[w].returned - s->requests[w].invoked < 100 * MS);
    }
    /* after 0, 1, 3 and 7 s (the next would be after 15 s), and perhaps once more before the core is told */
    assert_in_range(times_told("a > can't send"), 4, 8);
    assert_int_equal(times_told("b > JOIN to a"), 1);
    assert_int_equal(times_told("a > asks for epoch"), 0);
    nef_repl_status(s->nodes[0].repl, &status);
    assert_true(status.peers[0].blocked && status.peers[0].catching_up);
    assert_int_equal(status.peers[0].blocked_cell, 0);
    assert_true(status.peers[0].blocked_offset <= bad);
    nef_repl_status(s->nodes[1].repl, &status);
    assert_true(status.blocked);
    assert_int_equal(status.blocked_cell, 0);
    assert_true(status.blocked_offset <= bad);
    s->nodes[0].unreadable[0] = 0;
    settle();
    nef_repl_status(s->nodes[0].repl, &status);
    assert_false(status.peers[0].blocked);
    nef_repl_status(s->nodes[1].repl, &status);
    assert_false(status.blocked);
    done();
}

static void test_the_only_copy_cant_be_read(void **state)
{
    (void)state;
    for (int64_t i = 0; i < 6; i++) /* headers and bodies */
        blocked_by(i);
}

/* Near the tail it would be counted, and each write would wait for it. */
static void test_the_only_copy_cant_be_read_near_its_end(void **state)
{
    (void)state;
    for (int64_t i = 1; i < 5; i++)
        blocked_by(-i);
}

/* A backup that is asked again for what the primary can't read any more is slow: R9 takes it out. */
static void test_a_backup_is_not_held_by_what_cant_be_read(void **state)
{
    const struct log *l = &s->nodes[0].disk.logs[0];
    struct link *link;
    uint32_t w;

    (void)state;
    region(2);
    put(0, 0);
    link = net_link(s, 0, 1);
    link->cut[0] = link->cut[1] = true;
    w = ask(0, OP_PUT, 0);
    run(20);
    s->nodes[0].unreadable[0] = l->at[l->count - 1].offset;
    net_break(s, 0, 1, true, true);
    link->cut[0] = link->cut[1] = false;
    run(3000);
    assert_true(answered(w));
    told("a > asks for epoch 3, in sync 1, primary 0\n");
    s->nodes[0].unreadable[0] = 0;
    settle();
    done();
}

/* ---- what the primary never had --------------------------------------------------------------------------------- */

/* b skips what a has dropped, and leads; its log has a hole in the middle of a segment. What joins from it gets
 * what is before the hole and what is behind it, and nothing that isn't there. */
static void test_a_primary_with_a_hole(void **state)
{
    const struct log *l = &s->nodes[1].disk.logs[0];

    (void)state;
    region(2);
    while (l->end % SEGMENT < SEGMENT - 1024) /* one APPEND would hold what is left of the segment */
        put(0, 0);
    node_crash(&s->nodes[1], true);
    run(1000);
    write_many(0, 150);
    node_drop(&s->nodes[0]);
    node_start(&s->nodes[1]);
    settle();
    told("b > skips cell 0");
    assert_true(l->hole_from % SEGMENT >= SEGMENT - 1024);
    node_crash(&s->nodes[0], true);
    wipe(0);
    run(1500);
    assert_true(s->nodes[1].repl->won);
    s->trace_bytes = 0;
    s->trace[0] = 0;
    node_start(&s->nodes[0]);
    settle();
    told("a > skips cell 0");
    assert_int_equal(s->nodes[0].disk.logs[0].hole_from, l->hole_from);
    done();
}

/* ---- logs whose beginnings are gone ------------------------------------------------------------------------------ */

/* R8: while b was away, a dropped its first segments. b's log, which counts after the accepted loss, ends below
 * where a's begins: a discards all of it and begins anew. */
static void test_accepted_loss_and_the_other_dropped_its_beginning(void **state)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    uint32_t w, r;

    (void)state;
    region(2);
    put(0, 0);
    node_crash(&s->nodes[1], true);
    run(1000);
    write_many(0, 150);
    node_drop(&s->nodes[0]);
    assert_true(s->nodes[0].disk.logs[0].start > s->nodes[1].disk.logs[0].end);
    node_crash(&s->nodes[0], true);
    node_start(&s->nodes[1]);
    run(1000);
    node_step(&s->nodes[1], &recover);
    run(1500);
    assert_true(s->nodes[1].repl->won);
    w = put(1, 0);
    node_start(&s->nodes[0]);
    run(4000);
    told("a > cuts cell 0 from");
    told("a > is backup");
    assert_int_equal(s->nodes[0].disk.logs[0].start, NEF_SEGMENT_HEADER_BYTES);
    r = get(0, 0);
    assert_true(answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    check_end(s);
    done();
}

/* The same, but b's log reaches into what a still has. What a dropped, it dropped because of records that are given
 * up, and b has it: a may not keep the shared rest alone. */
static void test_accepted_loss_below_a_drop(void **state)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    const struct log *l = &s->nodes[0].disk.logs[0];
    uint32_t w, r;

    (void)state;
    region(2);
    write_many(0, 60);
    while (l->end < 2 * SEGMENT || l->end % SEGMENT == NEF_SEGMENT_HEADER_BYTES || l->end % SEGMENT > SEGMENT / 2)
        put(0, 0);
    run(200);
    node_crash(&s->nodes[1], true);
    run(1000);
    write_many(0, 6);
    node_drop(&s->nodes[0]);
    assert_true(l->start > NEF_SEGMENT_HEADER_BYTES && l->start < s->nodes[1].disk.logs[0].end);
    node_crash(&s->nodes[0], true);
    node_start(&s->nodes[1]);
    run(1000);
    node_step(&s->nodes[1], &recover);
    run(1500);
    assert_true(s->nodes[1].repl->won);
    w = put(1, 0);
    node_start(&s->nodes[0]);
    run(4000);
    told("a > cuts cell 0 from");
    told("a > is backup");
    assert_int_equal(l->start, NEF_SEGMENT_HEADER_BYTES);
    r = get(0, 0);
    assert_true(answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    check_end(s);
    done();
}

/* b has skipped what a had dropped, and a record before that hole rots; then b drops what lies before it, which it may,
 * and the damaged record with it. It holds nothing that it may keep: it discards all of it and begins anew. Seed 75887 of
 * that day; it asked for ever. */
static void test_damage_below_a_drop(void **state)
{
    struct log *l = &s->nodes[1].disk.logs[0];
    uint32_t w, r;

    (void)state;
    region(2);
    write_many(0, 40);
    run(200);
    node_crash(&s->nodes[1], true);
    run(1000);
    write_many(0, 150);
    node_drop(&s->nodes[0]);
    node_start(&s->nodes[1]);
    settle();
    told("b > skips cell 0");
    node_crash(&s->nodes[1], true);
    l->at[1].bad = true;
    run(1000);
    s->trace_bytes = 0;
    s->trace[0] = 0;
    node_start(&s->nodes[1]);
    run_until_told("b > is stopped");
    node_drop(&s->nodes[1]);
    assert_true(l->start > NEF_SEGMENT_HEADER_BYTES); /* it did */
    settle();
    told("b > cuts cell 0");
    w = put(0, 0);
    r = get(1, 0);
    assert_true(answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    done();
}

/* c has skipped to where a's log begins when a and c die. What b holds, which counts after the accepted loss,
 * ends below: in c's hole, or below all that c has if c was new. */
static void skip_above_the_end(bool new_disk)
{
    struct nef_event recover = {.type = NEF_EV_RECOVER};
    struct log *l = &s->nodes[2].disk.logs[0];
    uint64_t had;
    uint32_t w, r;
    char text[80];

    region(3);
    write_many(0, 12);
    node_crash(&s->nodes[2], true);
    run(1000);
    write_many(0, 60);
    if (new_disk) {
        wipe(2);
    } else { /* it comes and gets a part of this epoch, which goes on without it */
        had = l->end;
        node_start(&s->nodes[2]);
        while (l->durable == had)
            assert_true(sim_step(s));
        node_crash(&s->nodes[2], true);
        write_many(0, 12);
    }
    node_crash(&s->nodes[1], true);
    run(1000);
    write_many(0, 150);
    node_drop(&s->nodes[0]);
    node_start(&s->nodes[2]);
    run_until_told("c > skips cell 0");
    node_crash(&s->nodes[2], true);
    node_crash(&s->nodes[0], true);
    assert_true(l->end > s->nodes[1].disk.logs[0].end);
    assert_int_equal(l->end, l->hole_to);
    assert_true(l->hole_from < s->nodes[1].disk.logs[0].end);
    (void)snprintf(text, sizeof text, "c > cuts cell 0 from %lu to %lu\n", l->end, l->hole_from);
    s->nodes[0].stopped_for_good = true;
    node_start(&s->nodes[1]);
    run(1000);
    node_step(&s->nodes[1], &recover);
    run(1500);
    assert_true(s->nodes[1].repl->won);
    w = put(1, 0);
    node_start(&s->nodes[2]);
    run(4000);
    told("c > skips cell 0\n"
         "c > cuts cell 0 from\n"
         "c > is backup");
    assert_int_equal(l->hole_to, 0);
    if (!new_disk)
        assert_non_null(strstr(s->trace, text));
    r = get(2, 0);
    assert_true(answered(r));
    assert_int_equal(s->requests[r].result, s->requests[w].value);
    done();
}

static void test_a_skip_above_a_new_primarys_end(void **state)
{
    (void)state;
    skip_above_the_end(false);
    skip_above_the_end(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_only_copy_cant_be_read),
        cmocka_unit_test(test_the_only_copy_cant_be_read_near_its_end),
        cmocka_unit_test(test_a_backup_is_not_held_by_what_cant_be_read),
        cmocka_unit_test(test_a_primary_with_a_hole),
        cmocka_unit_test(test_accepted_loss_and_the_other_dropped_its_beginning),
        cmocka_unit_test(test_accepted_loss_below_a_drop),
        cmocka_unit_test(test_damage_below_a_drop),
        cmocka_unit_test(test_a_skip_above_a_new_primarys_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
