/* When the witness takes etcd's leadership back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>
#include "witness/witness_internal.h"

enum { ME = 7, OTHER = 8, NOBODY = 0 };

static void takes_it_back_at_once(void **state)
{
    struct nef_leader_policy p = {0};

    (void)state;
    assert_true(nef_leader_wants(&p, 100000, ME, OTHER));
    assert_false(nef_leader_wants(&p, 100500, ME, OTHER)); /* the try is under way */
    assert_false(nef_leader_wants(&p, 100600, ME, ME));
}

static void leaves_an_election_alone(void **state)
{
    struct nef_leader_policy p = {0};

    (void)state;
    assert_false(nef_leader_wants(&p, 100000, ME, NOBODY));
}

static void tries_again_after_a_failure(void **state)
{
    struct nef_leader_policy p = {0};

    (void)state;
    assert_true(nef_leader_wants(&p, 100000, ME, OTHER));
    assert_true(nef_leader_wants(&p, 100000 + NEF_LEADER_GAP_MIN_MS, ME, OTHER));
}

static void backs_off_when_it_does_not_hold(void **state)
{
    struct nef_leader_policy p = {0};
    uint64_t now = 100000, gap = NEF_LEADER_GAP_MIN_MS;

    (void)state;
    assert_true(nef_leader_wants(&p, now, ME, OTHER));
    for (int i = 0; i < 10; i++) {
        assert_false(nef_leader_wants(&p, now + 10, ME, ME)); /* had it for a moment */
        gap = gap * 2 < NEF_LEADER_GAP_MAX_MS ? gap * 2 : NEF_LEADER_GAP_MAX_MS;
        assert_false(nef_leader_wants(&p, now + gap - 1, ME, OTHER));
        now += gap;
        assert_true(nef_leader_wants(&p, now, ME, OTHER));
    }
    assert_int_equal(gap, NEF_LEADER_GAP_MAX_MS);
    /* held for long: as if nothing had been */
    assert_false(nef_leader_wants(&p, now + 10, ME, ME));
    assert_false(nef_leader_wants(&p, now + 10 + NEF_LEADER_GAP_MAX_MS, ME, ME));
    assert_true(nef_leader_wants(&p, now + 20 + NEF_LEADER_GAP_MAX_MS, ME, OTHER));
    assert_true(
        nef_leader_wants(&p, now + 20 + NEF_LEADER_GAP_MAX_MS + NEF_LEADER_GAP_MIN_MS, ME, OTHER));
}

static void is_ready_only_with_a_leader(void **state)
{
    struct nef_witness_seen seen = {.member_answers = true, .at_ms = 1000};

    (void)state;
    assert_false(nef_witness_ready(&seen, 1100));
    seen.member.leader_id = OTHER;
    assert_true(nef_witness_ready(&seen, 1100));
    assert_false(nef_witness_ready(&seen, 60000)); /* that was long ago */
    seen.member_answers = false;
    assert_false(nef_witness_ready(&seen, 1100));
}

static void status_is_json(void **state)
{
    struct nef_witness w = {
        .config = {.region = (char *)(uintptr_t) "eu-paris", .name = (char *)(uintptr_t) "w"}};
    struct nef_witness_seen seen = {.member_answers = true, .zone_count = 2};
    struct nef_buf text = {0};
    json_t *root;

    (void)state;
    (void)strcpy(seen.zones[0].name, "a");
    (void)strcpy(seen.zones[1].name, "b");
    seen.zones[1].clock_known = true;
    seen.zones[1].clock_ms = -5;
    nef_witness_status_text(&w, &seen, &text);
    root = json_loads(nef_buf_cstr(&text), 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_array_size(json_object_get(root, "zones")), 2);
    assert_int_equal(json_integer_value(json_object_get(
                         json_array_get(json_object_get(root, "zones"), 1), "clock_ms")),
                     -5);
    json_decref(root);
    nef_buf_reset(&text);
    nef_witness_metrics_text(&w, &seen, &text);
    assert_non_null(
        strstr(nef_buf_cstr(&text), "nef_witness_zone_clock_seconds{zone=\"b\"} -0.005\n"));
    assert_non_null(strstr(nef_buf_cstr(&text), "\n# EOF\n"));
    nef_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_it_back_at_once),
        cmocka_unit_test(leaves_an_election_alone),
        cmocka_unit_test(tries_again_after_a_failure),
        cmocka_unit_test(backs_off_when_it_does_not_hold),
        cmocka_unit_test(is_ready_only_with_a_leader),
        cmocka_unit_test(status_is_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
