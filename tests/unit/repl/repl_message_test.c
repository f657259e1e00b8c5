/* Wire format: what is encoded decodes to the same; cut, longer or changed bytes are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "repl/message.h"

static uint8_t buffer[NEF_MESSAGE_HEAD_MAX];

static struct nef_group group_of(uint32_t members, uint32_t cells)
{
    struct nef_group g = {.epoch = 7, .member_count = members, .in_sync = (1u << members) - 1,
                          .cell_count = cells, .nonce = {1, 2}, .override_epoch = 5};

    for (uint32_t i = 0; i < members; i++) {
        memset(g.members[i].replica.bytes, (int)(i + 1), 16);
        memset(g.members[i].zone, 'z', NEF_ZONE_NAME_MAX);
    }
    for (uint32_t c = 0; c < cells; c++) {
        g.primary[c] = (uint8_t)(members - 1);
        g.first_offset[c] = 4096 + 64 * c;
    }
    return g;
}

static void test_group(void **state)
{
    struct nef_group g = group_of(NEF_REPLICA_MAX, NEF_CELL_MAX), back;
    uint32_t bytes;

    (void)state;
    assert_int_equal(nef_group_encode(&g, buffer, NEF_GROUP_BYTES_MAX, &bytes), NEF_OK);
    assert_int_equal(nef_group_decode(buffer, bytes, &back), NEF_OK);
    assert_memory_equal(&g, &back, sizeof g);
    for (uint32_t n = 0; n < bytes; n++)
        assert_int_not_equal(nef_group_decode(buffer, n, &back), NEF_OK);
    for (uint32_t i = 0; i < bytes; i++) { /* the checksum sees every bit */
        buffer[i] = (uint8_t)(buffer[i] ^ 1u << i % 8);
        assert_int_not_equal(nef_group_decode(buffer, bytes, &back), NEF_OK);
        buffer[i] = (uint8_t)(buffer[i] ^ 1u << i % 8);
    }
    assert_int_equal(nef_group_encode(&g, buffer, 100, &bytes), NEF_E_LIMIT);
}

static void test_group_that_cannot_be(void **state)
{
    struct nef_group g, back;
    uint32_t bytes;

    (void)state;
    g = group_of(2, 2);
    g.in_sync = 0;
    assert_int_equal(nef_group_encode(&g, buffer, NEF_GROUP_BYTES_MAX, &bytes), NEF_OK);
    assert_int_equal(nef_group_decode(buffer, bytes, &back), NEF_E_PROTOCOL);
    g = group_of(2, 2);
    g.in_sync = 1; /* the primary isn't in sync */
    assert_int_equal(nef_group_encode(&g, buffer, NEF_GROUP_BYTES_MAX, &bytes), NEF_OK);
    assert_int_equal(nef_group_decode(buffer, bytes, &back), NEF_E_PROTOCOL);
    g = group_of(2, 2);
    g.epoch = 0;
    assert_int_equal(nef_group_encode(&g, buffer, NEF_GROUP_BYTES_MAX, &bytes), NEF_OK);
    assert_int_equal(nef_group_decode(buffer, bytes, &back), NEF_E_PROTOCOL);
}

static void test_frame(void **state)
{
    static const uint8_t body[5] = {1, 2, 3, 4, 5};
    struct nef_message m = {.type = NEF_MSG_APPEND, .incarnation = 9, .epoch = 3, .body = body,
                            .body_bytes = 5, .payload_bytes = 64};
    struct nef_message back;
    uint8_t head[NEF_MESSAGE_HEAD_BYTES];

    (void)state;
    m.replica.bytes[3] = 1;
    nef_message_encode(&m, head);
    assert_int_equal(nef_message_decode(head, &back), NEF_OK);
    assert_int_equal(nef_message_check(head, body, &back), NEF_OK);
    assert_int_equal(back.incarnation, 9);
    assert_int_equal(back.epoch, 3);
    assert_int_equal(back.payload_bytes, 64);
    assert_ptr_equal(back.body, body);
    head[30] ^= 1;
    assert_int_equal(nef_message_decode(head, &back), NEF_OK);
    assert_int_equal(nef_message_check(head, body, &back), NEF_E_PROTOCOL);
    m.type = NEF_MSG_STATE; /* which has no payload */
    nef_message_encode(&m, head);
    assert_int_equal(nef_message_decode(head, &back), NEF_E_PROTOCOL);
    head[5] = 99;
    assert_int_equal(nef_message_decode(head, &back), NEF_E_VERSION);
    head[4] = 2;
    assert_int_equal(nef_message_decode(head, &back), NEF_E_VERSION);
}

static void test_state(void **state)
{
    struct nef_state s = {.session = 1, .lease_request = 2, .lease_grant = 3, .free_bytes = 4, .flags = 5,
                          .cell_count = 2}, back;
    struct nef_writer w = nef_writer_of(buffer, sizeof buffer);
    struct nef_message m = {.type = NEF_MSG_STATE, .body = buffer};

    (void)state;
    s.cells[1].end = 9;
    s.cells[1].durable = 8;
    s.cells[1].commit = 7;
    s.cells[1].flags = NEF_STATE_GAP;
    nef_state_encode(&w, &s);
    for (m.body_bytes = 0; m.body_bytes < w.at; m.body_bytes++)
        assert_int_equal(nef_state_decode(&m, &back), NEF_E_PROTOCOL);
    assert_int_equal(nef_state_decode(&m, &back), NEF_OK);
    assert_int_equal(back.cells[1].commit, 7);
    assert_int_equal(back.cells[1].flags, NEF_STATE_GAP);
    s.cells[1].durable = 10; /* more than there is */
    w = nef_writer_of(buffer, sizeof buffer);
    nef_state_encode(&w, &s);
    assert_int_equal(nef_state_decode(&m, &back), NEF_E_PROTOCOL);
}

static void test_join_of_many_cells_fits(void **state)
{
    static struct nef_epoch_table full;
    struct nef_join j = {.attempt = 4, .zone = "paris", .cell_count = NEF_CELL_MAX}, back;
    struct nef_join_cell cell;
    struct nef_writer w = nef_writer_of(buffer, sizeof buffer);
    struct nef_reader r;
    uint32_t entries = nef_join_entries_max(NEF_CELL_MAX);

    (void)state;
    full.count = NEF_EPOCHS_KEPT;
    for (uint32_t i = 0; i < full.count; i++)
        full.at[i] = (struct nef_epoch_at){i + 1, 4096 + 64 * i};
    nef_join_encode(&w, &j);
    for (uint32_t c = 0; c < NEF_CELL_MAX; c++)
        nef_join_cell_encode(&w, 4096, 1u << 20, &full, entries);
    assert_false(w.failed);
    r = nef_reader_of(buffer, w.at);
    assert_int_equal(nef_join_decode(&r, &back), NEF_OK);
    assert_string_equal(back.zone, "paris");
    for (uint32_t c = 0; c < NEF_CELL_MAX; c++)
        assert_int_equal(nef_join_cell_decode(&r, &cell), NEF_OK);
    assert_int_equal(nef_reader_end(&r), NEF_OK);
    assert_int_equal(cell.epochs.count, entries); /* the newest ones */
    assert_int_equal(cell.epochs.at[entries - 1].epoch, NEF_EPOCHS_KEPT);
}

static void test_append(void **state)
{
    struct nef_append a = {.session = 1, .cell = 2, .offset = 4096, .commit = 4096}, back;
    struct nef_writer w = nef_writer_of(buffer, sizeof buffer);
    struct nef_message m = {.type = NEF_MSG_APPEND, .body = buffer, .payload_bytes = 192};

    (void)state;
    a.epochs.count = 1;
    a.epochs.at[0] = (struct nef_epoch_at){5, 4096};
    nef_append_encode(&w, &a);
    m.body_bytes = (uint32_t)w.at;
    assert_int_equal(nef_append_decode(&m, &back), NEF_OK);
    assert_int_equal(back.epochs.at[0].epoch, 5);
    m.payload_bytes = 191;
    assert_int_equal(nef_append_decode(&m, &back), NEF_E_PROTOCOL);
    m.payload_bytes = 192;
    a.epochs.at[0].offset = 4096 + 192; /* begins behind these bytes */
    w = nef_writer_of(buffer, sizeof buffer);
    nef_append_encode(&w, &a);
    assert_int_equal(nef_append_decode(&m, &back), NEF_E_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group),
        cmocka_unit_test(test_group_that_cannot_be),
        cmocka_unit_test(test_frame),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_join_of_many_cells_fits),
        cmocka_unit_test(test_append),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
