/* The record in etcd as JSON: round trip, and refusal of everything that can't be a record. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/runtime_internal.h"

static struct nef_group sample(void)
{
    struct nef_group g = {.epoch = 7, .member_count = 2, .in_sync = 3, .cell_count = 4};

    for (int i = 0; i < 16; i++) {
        g.members[0].replica.bytes[i] = (uint8_t)i;
        g.members[1].replica.bytes[i] = (uint8_t)(0xf0 + i);
    }
    strcpy(g.members[0].zone, "a");
    strcpy(g.members[1].zone, "paris-2");
    for (uint32_t c = 0; c < 4; c++) {
        g.primary[c] = 1;
        g.first_offset[c] = 4096 + 64 * c;
    }
    g.nonce[0] = 0x0123456789abcdef;
    g.nonce[1] = 0xfedcba9876543210;
    return g;
}

static void round_trip(void **state)
{
    struct nef_group g = sample(), back;
    struct nef_buf text = {0};

    (void)state;
    for (int i = 0; i < 2; i++) {
        g.override_epoch = i == 1 ? 6 : 0;
        nef_buf_reset(&text);
        assert_int_equal(group_to_json(&g, &text), NEF_OK);
        assert_int_equal(group_from_json((const char *)text.data, text.bytes, &back), NEF_OK);
        assert_int_equal(back.epoch, 7);
        assert_int_equal(back.member_count, 2);
        assert_memory_equal(back.members, g.members, sizeof(g.members));
        assert_int_equal(back.in_sync, 3);
        assert_int_equal(back.cell_count, 4);
        assert_memory_equal(back.primary, g.primary, 4);
        assert_memory_equal(back.first_offset, g.first_offset, 4 * sizeof(uint64_t));
        assert_memory_equal(back.nonce, g.nonce, sizeof(g.nonce));
        assert_int_equal(back.override_epoch, g.override_epoch);
    }
    nef_buf_free(&text);
}

static void every_cut_is_refused(void **state)
{
    struct nef_group g = sample(), back;
    struct nef_buf text = {0};

    (void)state;
    assert_int_equal(group_to_json(&g, &text), NEF_OK);
    for (size_t n = 0; n < text.bytes; n++)
        assert_int_not_equal(group_from_json((const char *)text.data, n, &back), NEF_OK);
    nef_buf_free(&text);
}

/* What takes FROM's place in the sample's text. */
static nef_err with(const char *from, const char *to)
{
    struct nef_group g = sample(), back;
    struct nef_buf text = {0}, changed = {0};
    const char *whole, *at;
    nef_err err;

    assert_int_equal(group_to_json(&g, &text), NEF_OK);
    whole = nef_buf_cstr(&text);
    at = strstr(whole, from);
    assert_non_null(at);
    nef_buf_append(&changed, whole, (size_t)(at - whole));
    nef_buf_text(&changed, to);
    nef_buf_text(&changed, at + strlen(from));
    err = group_from_json((const char *)changed.data, changed.bytes, &back);
    nef_buf_free(&text);
    nef_buf_free(&changed);
    return err;
}

static void impossible_records_are_refused(void **state)
{
    (void)state;
    assert_int_equal(with("\"epoch\":7", "\"epoch\":8"), NEF_OK);
    assert_int_equal(with("\"version\":1", "\"version\":2"), NEF_E_VERSION);
    assert_int_equal(with("\"epoch\":7", "\"epoch\":0"), NEF_E_PROTOCOL);
    assert_int_equal(with("\"epoch\":7", "\"epoch\":\"7\""), NEF_E_PROTOCOL);
    assert_int_equal(with("paris-2", "Paris 2"), NEF_E_PROTOCOL);
    assert_int_equal(with("f0f1", "f0"), NEF_E_PROTOCOL);
    assert_int_equal(with("\"in_sync\":[\"00", "\"in_sync\":[\"11"), NEF_E_PROTOCOL); /* no member */
    assert_int_equal(with("\"first_offset\":[4096,", "\"first_offset\":["), NEF_E_PROTOCOL);
    assert_int_equal(with("[4096", "[-1"), NEF_E_PROTOCOL);
    assert_int_equal(with("efcd", "zz"), NEF_E_PROTOCOL);
}

static void a_primary_must_be_in_sync(void **state)
{
    struct nef_group g = sample(), back;
    struct nef_buf text = {0};

    (void)state;
    g.in_sync = 1; /* the primary is member 1 */
    assert_int_equal(group_to_json(&g, &text), NEF_OK);
    assert_int_equal(group_from_json((const char *)text.data, text.bytes, &back), NEF_E_PROTOCOL);
    nef_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(impossible_records_are_refused),
        cmocka_unit_test(a_primary_must_be_in_sync),
    };
    return cmocka_run_group_tests_name("server_group", tests, NULL, NULL);
}
