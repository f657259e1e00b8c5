/* AI rights of users in the index, old records among them, and leases of budgets as ops of cell 0. */
#include "store_fixture.h"

static struct world w;

static int set_up(void **state)
{
    (void)state;
    world_open(&w);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    world_close(&w);
    return 0;
}

static struct nef_text text(const char *t)
{
    return (struct nef_text){t, (uint32_t)strlen(t)};
}

static nef_err propose(uint32_t cell, struct nef_op *op)
{
    uint8_t dek[32] = {9};
    struct nef_run run;

    nef_random(op->stream.bytes, 16);
    OK(nef_store_region_key(w.stores[0], &op->bucket_key));
    OK(nef_run_op(w.keys, op, cell, dek, NULL, NULL, 0, &run));
    return world_propose(&w, &run);
}

static nef_err put_user(const char *key, bool ai)
{
    struct nef_op op = {.type = NEF_RECORD_USER_PUT};

    op.u.user_put = (struct nef_op_user_put){.name = text(key), .access_key = text(key), .secret_key = text("s"), .ai = ai};
    if (ai) {
        op.u.user_put.models = text("*");
        op.u.user_put.zones = text("a,b");
        op.u.user_put.requests_min = 10;
        op.u.user_put.concurrency = 3;
        op.u.user_put.weight = 7;
        op.u.user_put.priority = 2;
    }
    return propose(0, &op);
}

static void rights(void **state)
{
    struct nef_user u;

    (void)state;
    OK(put_user("WITH", true));
    OK(put_user("WITHOUT", false)); /* also what a record from before looks like: nothing follows its bucket */
    OK(nef_store_user(w.stores[0], "WITH", &u));
    assert_true(u.ai.allowed);
    assert_string_equal(u.ai.models, "*");
    assert_string_equal(u.ai.zones, "a,b");
    assert_int_equal(u.ai.requests_min, 10);
    assert_int_equal(u.ai.weight, 7);
    memset(&u, 0xff, sizeof u);
    OK(nef_store_user(w.stores[0], "WITHOUT", &u));
    assert_false(u.ai.allowed);
    assert_string_equal(u.ai.zones, "");
    OK(put_user("WITH", false)); /* taken away */
    OK(nef_store_user(w.stores[0], "WITH", &u));
    assert_false(u.ai.allowed);
}

/* Rows as they were written before: name, secret, bucket, two flags. */
static void old_rows(void **state)
{
    struct nef_buf b = {0};
    struct nef_user u;

    (void)state;
    nef_buf_block(&b, "ann", 3);
    nef_buf_block(&b, "secret", 6);
    nef_buf_block(&b, "", 0);
    nef_buf_u8(&b, 1);
    nef_buf_u8(&b, 0);
    memset(&u, 0xff, sizeof u);
    OK(nef_row_user_get(b.data, b.bytes, &u));
    assert_string_equal(u.name, "ann");
    assert_true(u.read_only && !u.ai.allowed);
    nef_buf_u8(&b, 0); /* half of what follows it */
    assert_int_equal(nef_row_user_get(b.data, b.bytes, &u), NEF_E_CORRUPT);
    nef_buf_free(&b);
}

static nef_err ask(uint32_t cell, const char *zone, const struct nef_budget_entry *entries, uint32_t count)
{
    struct nef_op op = {.type = NEF_RECORD_BUDGET};
    struct nef_buf b = {0};
    nef_err err;

    for (uint32_t i = 0; i < count; i++)
        nef_budget_entry_put(&b, &entries[i]);
    op.u.budget = (struct nef_op_budget){
        .zone = text(zone), .start = 5, .count = count, .entries = b.data, .entries_bytes = (uint32_t)b.bytes};
    err = propose(cell, &op);
    nef_buf_free(&b);
    return err;
}

static void leases(void **state)
{
    struct nef_budget_entry two[] = {{.user = text("NOBODY"), .limit = {5, 0}},
                                     {.user = text("KEY"), .limit = {8, 1000}, .slots = 2}};
    struct nef_budget_state s, other;

    (void)state;
    assert_int_equal(nef_store_budget(w.stores[0], "KEY", &s), NEF_E_NOT_FOUND);
    OK(put_user("KEY", true));
    OK(ask(0, "a", two, 2));
    assert_int_equal(nef_store_budget(w.stores[0], "NOBODY", &s), NEF_E_NOT_FOUND);
    OK(nef_store_budget(w.stores[0], "KEY", &s));
    assert_int_equal(s.count, 1);
    assert_int_equal(s.zones[0].limit[NEF_BUDGET_REQUESTS], 8);
    assert_int_equal(s.zones[0].limit[NEF_BUDGET_TOKENS], 1000); /* tokens have no limit */
    OK(ask(0, "b", &two[1], 1)); /* asks for 8 of 10, and gets what is left */
    OK(nef_store_budget(w.stores[0], "KEY", &s));
    assert_int_equal(s.zones[1].limit[NEF_BUDGET_REQUESTS], 2);
    assert_int_equal(s.zones[1].unmet[NEF_BUDGET_REQUESTS], 6);
    assert_int_equal(s.zones[1].slots, 1);
    OK(ask(0, "b", &two[1], 1)); /* made for a state that is no more: changes nothing */
    OK(nef_store_budget(w.stores[0], "KEY", &other));
    assert_memory_equal(&s, &other, sizeof s);
    assert_int_equal(ask(1, "a", two, 2), NEF_E_PROTOCOL); /* cell 0 only */
    /* another replica, and one whose index is made anew, say the same */
    world_apply(&w, 1);
    OK(nef_store_budget(w.stores[1], "KEY", &other));
    assert_memory_equal(&s, &other, sizeof s);
    OK(nef_store_rebuild(w.stores[1], 0));
    world_apply(&w, 1);
    OK(nef_store_budget(w.stores[1], "KEY", &other));
    assert_memory_equal(&s, &other, sizeof s);
    /* without rights nothing more is given */
    OK(put_user("KEY", false));
    two[1].start = s.zones[0].start;
    two[1].number = s.zones[0].number;
    two[1].spent[0] = 3;
    OK(ask(0, "a", &two[1], 1));
    OK(nef_store_budget(w.stores[0], "KEY", &s));
    assert_int_equal(s.zones[0].limit[NEF_BUDGET_REQUESTS], 3);
    assert_int_equal(s.zones[0].slots, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(rights, set_up, tear_down),
                                       cmocka_unit_test(old_rows),
                                       cmocka_unit_test_setup_teardown(leases, set_up, tear_down)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
