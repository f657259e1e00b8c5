/* The core by hand, one replica, for what the simulator does not look at: limits, order of actions, garbage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "base/logaddr.h"
#include "repl/message.h"
#include "repl/repl.h"

#define MS 1000000ull

static struct nef_actions actions;
static struct nef_repl *repl;
static void *memory;
static uint64_t now;

static uint64_t next_present(void *context, uint32_t cell, uint64_t offset)
{
    (void)context;
    (void)cell;
    return offset;
}

static uint64_t whole_records(void *context, uint32_t cell, uint64_t offset, uint64_t bytes_max)
{
    (void)context;
    (void)cell;
    (void)offset;
    return bytes_max / 64 * 64;
}

static void step(struct nef_event ev)
{
    static uint64_t random = 1;

    ev.now = now;
    ev.random[0] = ++random;
    ev.random[1] = ++random;
    nef_repl_step(repl, &ev, &actions);
}

static const struct nef_action *find(enum nef_action_type type)
{
    for (uint32_t i = 0; i < actions.count; i++)
        if (actions.at[i].type == type)
            return &actions.at[i];
    return NULL;
}

static void start(uint32_t cells)
{
    struct nef_repl_config config = {
        .zone = "a", .incarnation = 77, .cell_count = cells, .segment_bytes = NEF_SEGMENT_BYTES,
        .peer_count = 1, .preferred = true, .bootstrap = true, .heartbeat_ns = 50 * MS,
        .lease_ns = 500 * MS, .suspect_ns = 400 * MS, .second_wait_ns = 100 * MS,
        .peer_stall_ns = 1000 * MS, .failback_ns = 30000 * MS, .etcd_poll_ns = 250 * MS,
        .etcd_retry_ns = 100 * MS, .resend_ns = 1000 * MS, .append_bytes_max = 1u << 20,
        .window_bytes = 16u << 20, .next_present = next_present, .present_until = next_present,
        .whole_records = whole_records,
    };
    static struct nef_repl_cell_start starts[NEF_CELL_MAX];

    for (uint32_t c = 0; c < cells; c++)
        starts[c] = (struct nef_repl_cell_start){.end = NEF_SEGMENT_HEADER_BYTES,
                                                 .committed = NEF_SEGMENT_HEADER_BYTES};
    memset(config.replica.bytes, 1, 16);
    now = 1000 * MS;
    memory = aligned_alloc(16, (nef_repl_bytes(cells) + 15) & ~15ull);
    repl = nef_repl_init(memory, &config, 0, starts, now);
}

/* Alone in sync and acting. */
static void lead(uint32_t cells)
{
    struct nef_group none = {0};

    start(cells);
    step((struct nef_event){.type = NEF_EV_TICK});
    assert_non_null(find(NEF_ACT_ETCD_GET));
    step((struct nef_event){.type = NEF_EV_ETCD_RECORD, .group = &none});
    assert_non_null(find(NEF_ACT_ETCD_CAS));
    step((struct nef_event){.type = NEF_EV_ETCD_SWAPPED, .swap = NEF_SWAP_WON, .revision = 5});
    assert_int_equal(find(NEF_ACT_PERSIST)->epoch, 1);
    step((struct nef_event){.type = NEF_EV_PERSISTED, .epoch = 1});
    now += 500 * MS;
    step((struct nef_event){.type = NEF_EV_TICK});
    assert_int_equal(find(NEF_ACT_SERVE)->until, UINT64_MAX);
}

static void propose(uint64_t number, uint32_t bytes)
{
    step((struct nef_event){.type = NEF_EV_PROPOSE, .number = number, .handle = 1000 + number,
                            .bytes = bytes});
}

static void test_append_sync_commit(void **state)
{
    (void)state;
    lead(1);
    propose(1, 192);
    assert_int_equal(find(NEF_ACT_APPEND)->offset, 4096);
    assert_int_equal(find(NEF_ACT_APPEND)->handle, 1001);
    assert_null(find(NEF_ACT_SYNC));
    propose(2, 256);
    assert_int_equal(find(NEF_ACT_APPEND)->offset, 4288);
    step((struct nef_event){.type = NEF_EV_FLUSH}); /* one sync for both */
    assert_non_null(find(NEF_ACT_SYNC));
    propose(3, 192);
    step((struct nef_event){.type = NEF_EV_FLUSH});
    assert_null(find(NEF_ACT_SYNC)); /* one at a time */
    step((struct nef_event){.type = NEF_EV_SYNCED, .offset = 4544});
    assert_int_equal(find(NEF_ACT_COMMIT)->offset, 4544);
    step((struct nef_event){.type = NEF_EV_FLUSH});
    assert_non_null(find(NEF_ACT_SYNC));
    step((struct nef_event){.type = NEF_EV_PROPOSAL_DONE, .number = 2});
    assert_int_equal(find(NEF_ACT_FREE)->handle, 1002);
    free(memory);
}

static void test_a_run_never_crosses_a_segment(void **state)
{
    struct nef_action a = {0};
    uint64_t end = 4096;

    (void)state;
    lead(1);
    for (uint64_t n = 1; a.pad_bytes == 0; n++) {
        end = n > 1 ? a.offset + a.bytes : end;
        propose(n, NEF_PROPOSAL_BYTES_MAX);
        a = *find(NEF_ACT_APPEND);
        step((struct nef_event){.type = NEF_EV_PROPOSAL_DONE, .number = n});
    }
    assert_int_equal(a.pad_offset, end);
    assert_int_equal(a.pad_offset + a.pad_bytes, NEF_SEGMENT_BYTES);
    assert_int_equal(a.offset, NEF_SEGMENT_BYTES + 4096);
    free(memory);
}

static void test_a_full_table_refuses(void **state)
{
    (void)state;
    start(1); /* not the primary of anything yet: proposals wait */
    step((struct nef_event){.type = NEF_EV_TICK});
    for (uint64_t n = 1; n <= NEF_PROPOSALS_MAX; n++) {
        propose(n, 192);
        assert_null(find(NEF_ACT_REFUSE));
    }
    propose(NEF_PROPOSALS_MAX + 1, 192);
    assert_int_equal(find(NEF_ACT_REFUSE)->err, NEF_E_BUSY);
    step((struct nef_event){.type = NEF_EV_PROPOSAL_DONE, .number = 17});
    propose(NEF_PROPOSALS_MAX + 2, 192);
    assert_null(find(NEF_ACT_REFUSE));
    free(memory);
}

/* What waited is placed in its order, in as many steps as the list of actions needs. */
static void test_many_waiting_proposals_are_placed_in_order(void **state)
{
    struct nef_group none = {0};
    uint64_t placed = 0;

    (void)state;
    start(1);
    step((struct nef_event){.type = NEF_EV_TICK});
    for (uint64_t n = 1; n <= NEF_PROPOSALS_MAX; n++)
        propose(n, 192);
    step((struct nef_event){.type = NEF_EV_ETCD_RECORD, .group = &none});
    step((struct nef_event){.type = NEF_EV_ETCD_SWAPPED, .swap = NEF_SWAP_WON, .revision = 5});
    step((struct nef_event){.type = NEF_EV_PERSISTED, .epoch = 1});
    for (uint32_t steps = 0; steps < 100; steps++) {
        for (uint32_t i = 0; i < actions.count; i++)
            if (actions.at[i].type == NEF_ACT_APPEND) {
                assert_int_equal(actions.at[i].number, placed + 1);
                assert_int_equal(actions.at[i].offset, 4096 + 192 * placed);
                placed++;
            }
        if (!actions.more)
            break;
        step((struct nef_event){.type = NEF_EV_FLUSH});
    }
    assert_int_equal(placed, NEF_PROPOSALS_MAX);
    free(memory);
}

static void test_a_failed_disk_stops_everything(void **state)
{
    (void)state;
    lead(1);
    step((struct nef_event){.type = NEF_EV_FAILED, .err = NEF_E_IO});
    assert_int_equal(find(NEF_ACT_SERVE)->until, 0);
    assert_int_equal(find(NEF_ACT_STOP)->err, NEF_E_IO);
    propose(1, 192);
    assert_int_equal(actions.count, 0);
    step((struct nef_event){.type = NEF_EV_TICK});
    assert_int_equal(actions.count, 0);
    free(memory);
}

static void test_an_idle_cell_gets_one_mark(void **state)
{
    (void)state;
    lead(1);
    propose(1, 192);
    step((struct nef_event){.type = NEF_EV_FLUSH});
    step((struct nef_event){.type = NEF_EV_SYNCED, .offset = 4288});
    now += 60 * MS;
    step((struct nef_event){.type = NEF_EV_TICK});
    assert_int_equal(find(NEF_ACT_MARK)->synced_before, 4288);
    step((struct nef_event){.type = NEF_EV_SYNCED, .offset = 4288 + 192});
    now += 60 * MS;
    step((struct nef_event){.type = NEF_EV_TICK});
    assert_null(find(NEF_ACT_MARK));
    free(memory);
}

/* Any bytes as any message: the core neither asserts nor believes them. */
static void test_garbage_from_a_peer(void **state)
{
    uint64_t x = 3;
    uint8_t body[300];

    (void)state;
    lead(NEF_CELL_MAX);
    step((struct nef_event){.type = NEF_EV_PEER_UP});
    for (uint32_t round = 0; round < 200000; round++) {
        struct nef_message m = {.body = body, .epoch = round % 3, .incarnation = 5};

        for (uint32_t i = 0; i < sizeof body; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            body[i] = round % 2 ? (uint8_t)(x >> 56) : (uint8_t)(x >> 62);
        }
        m.type = (uint8_t)(1 + round % 7);
        m.replica.bytes[0] = 2;
        m.body_bytes = (uint32_t)(x >> 33) % sizeof body;
        if (m.type == NEF_MSG_APPEND || m.type == NEF_MSG_PROPOSE)
            m.payload_bytes = 64 + 64 * (uint32_t)(x >> 60);
        step((struct nef_event){.type = NEF_EV_MESSAGE, .message = &m, .handle = 9});
        assert_null(find(NEF_ACT_WRITE));
        assert_null(find(NEF_ACT_TRUNCATE));
        if (round % 64 == 0)
            now += MS;
    }
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_sync_commit),
        cmocka_unit_test(test_a_run_never_crosses_a_segment),
        cmocka_unit_test(test_a_full_table_refuses),
        cmocka_unit_test(test_many_waiting_proposals_are_placed_in_order),
        cmocka_unit_test(test_a_failed_disk_stops_everything),
        cmocka_unit_test(test_an_idle_cell_gets_one_mark),
        cmocka_unit_test(test_garbage_from_a_peer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
