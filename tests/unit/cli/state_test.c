/* What a supervisor remembers, and which processes a new one takes for its own. */
#include "cli_test.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/state.h"

static struct nef_supervisor_state sample(void)
{
    struct nef_supervisor_state s = {.etcd_formed = true, .etcd_void = 5};

    (void)snprintf(s.boot_id, sizeof(s.boot_id), "11111111-2222-3333-4444-555555555555");
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        s.records[i].identity.pid = (pid_t)(100 + i);
        s.records[i].identity.start_ticks = 1000 + i;
        memset(s.records[i].identity.command, (int)(i + 1), 32);
    }
    s.records[3].wanted = NEF_WANTED_STOP;
    s.records[4].wanted = NEF_WANTED_PAUSE;
    return s;
}

static void state_survives_its_file(void **state)
{
    struct nef_supervisor_state before = sample(), after;
    struct nef_region r;
    json_t *root;

    (void)state;
    test_region(&r, "/srv/nef");
    root = nef_up_state_encode(&r, &before);
    assert_non_null(root);
    assert_int_equal(nef_up_state_decode(&r, root, &after), NEF_OK);
    json_decref(root);
    assert_string_equal(after.boot_id, before.boot_id);
    assert_true(after.etcd_formed);
    assert_int_equal(after.etcd_void, 5);
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        assert_int_equal(after.records[i].wanted, before.records[i].wanted);
        assert_int_equal(after.records[i].identity.pid, before.records[i].identity.pid);
        assert_int_equal(after.records[i].identity.start_ticks,
                         before.records[i].identity.start_ticks);
        assert_memory_equal(after.records[i].identity.command, before.records[i].identity.command,
                            32);
    }
}

static void refuses_what_kill_would_misread(void **state)
{
    /* ids 0, 1 and below mean a group, init or everybody to kill(2) */
    static const json_int_t bad[] = {1, -1, -100, (json_int_t)1 << 40};
    struct nef_supervisor_state before = sample(), after;
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *root = nef_up_state_encode(&r, &before);

        (void)json_object_set_new(json_array_get(json_object_get(root, "processes"), 2), "pid",
                                  json_integer(bad[i]));
        assert_int_equal(nef_up_state_decode(&r, root, &after), NEF_E_CONFIG);
        json_decref(root);
    }
}

static void refuses_what_is_no_state(void **state)
{
    static const char *const texts[] = {
        "[]",
        "{}",
        "{\"version\": 2, \"boot_id\": \"\", \"etcd_formed\": true, \"etcd_void\": 0, "
        "\"processes\": []}",
        "{\"version\": 1, \"boot_id\": \"\", \"etcd_formed\": true, \"etcd_void\": 8, "
        "\"processes\": []}",
        "{\"version\": 1, \"boot_id\": \"\", \"etcd_formed\": true, \"etcd_void\": 0, "
        "\"processes\": {}}",
        "{\"version\": 1, \"boot_id\": \"\", \"etcd_formed\": true, \"etcd_void\": 0, "
        "\"processes\": "
        "[{\"name\": \"zone-a\", \"wanted\": \"fly\", \"pid\": 0, \"start_ticks\": 0, \"command\": "
        "\"\"}]}",
    };
    struct nef_supervisor_state after;
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        json_t *root = json_loads(texts[i], 0, NULL);

        assert_non_null(root);
        assert_int_equal(nef_up_state_decode(&r, root, &after), NEF_E_CONFIG);
        json_decref(root);
    }
}

static void adopts_only_the_same_process(void **state)
{
    struct nef_supervisor_state s = sample();
    struct nef_seen seen = {.there = true, .state = 'S', .identity = s.records[2].identity};
    struct nef_seen other;

    (void)state;
    assert_true(nef_adopts(&s, s.boot_id, 2, &seen));
    other = seen; /* the id was given to another process */
    other.identity.start_ticks++;
    assert_false(nef_adopts(&s, s.boot_id, 2, &other));
    other = seen; /* the same process became another program */
    other.identity.command[0] ^= 1;
    assert_false(nef_adopts(&s, s.boot_id, 2, &other));
    other = seen;
    other.there = false;
    assert_false(nef_adopts(&s, s.boot_id, 2, &other));
    /* the machine was started anew: ticks mean nothing */
    assert_false(nef_adopts(&s, "99999999-2222-3333-4444-555555555555", 2, &seen));
    assert_false(nef_adopts(&s, "", 2, &seen));
    s.boot_id[0] = 0;
    assert_false(nef_adopts(&s, "", 2, &seen));
    s.records[2].identity.pid = 0; /* nothing was recorded */
    assert_false(nef_adopts(&s, s.boot_id, 2, &seen));
}

static void command_of(const struct nef_region *r, uint32_t index, struct nef_etcd_args *out)
{
    struct nef_programs programs = {"/opt/nef/build/nef", "/usr/bin/etcd", "/usr/sbin/haproxy"};

    assert_int_equal(nef_process_args(r, index, &programs, NEF_ETCD_START_NORMAL, 0, out), NEF_OK);
}

static size_t bytes_of(const struct nef_etcd_args *args)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < args->count; i++)
        bytes += strlen(args->argv[i]) + 1;
    return bytes;
}

static void starts_exactly_the_production_commands(void **state)
{
    struct nef_etcd_args *args = malloc(sizeof(*args));
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    command_of(&r, 3, args);
    assert_int_equal(args->count, 4);
    assert_string_equal(args->argv[0], "/opt/nef/build/nef");
    assert_string_equal(args->argv[1], "zone");
    assert_string_equal(args->argv[2], "--config");
    assert_string_equal(args->argv[3], "/srv/nef/config/zone-a.yaml");
    command_of(&r, 5, args);
    assert_string_equal(args->argv[1], "witness");
    assert_string_equal(args->argv[3], "/srv/nef/config/witness.yaml");
    command_of(&r, 6, args);
    assert_string_equal(args->argv[0], "/usr/sbin/haproxy");
    assert_string_equal(args->argv[3], "/srv/nef/config/haproxy.cfg");
    free(args);
}

static void knows_processes_by_their_command_lines(void **state)
{
    struct nef_etcd_args *want = malloc(sizeof(*want)), *have = malloc(sizeof(*have));
    struct nef_region r, elsewhere;

    (void)state;
    test_region(&r, "/srv/nef");
    test_region(&elsewhere, "/srv/other");
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        enum nef_process_kind kind = nef_process_at(&r, i).kind;

        command_of(&r, i, want);
        for (uint32_t k = 0; k < NEF_PROCESS_COUNT; k++) {
            command_of(&r, k, have);
            assert_int_equal(nef_command_matches(want, kind, have->text, bytes_of(have)), i == k);
        }
        command_of(&elsewhere, i, have);
        assert_false(nef_command_matches(want, kind, have->text, bytes_of(have)));
        /* cut short, and without its end */
        assert_false(nef_command_matches(want, kind, want->text, bytes_of(want) - 1));
        assert_false(nef_command_matches(want, kind, want->text, 0));
    }
    /* an editor that has the file open isn't the zone */
    command_of(&r, 3, want);
    {
        static const char editor[] = "/usr/bin/vi\0/srv/nef/config/zone-a.yaml";
        static const char other_verb[] =
            "/opt/nef/build/nef\0fsck\0--config\0/srv/nef/config/zone-a.yaml";

        assert_false(nef_command_matches(want, NEF_PROCESS_ZONE, editor, sizeof(editor)));
        assert_false(nef_command_matches(want, NEF_PROCESS_ZONE, other_verb, sizeof(other_verb)));
    }
    free(want);
    free(have);
}

static void finds_a_joined_etcd_by_its_data(void **state)
{
    struct nef_programs programs = {"/opt/nef/build/nef", "/usr/bin/etcd", "/usr/sbin/haproxy"};
    struct nef_etcd_args *want = malloc(sizeof(*want)), *have = malloc(sizeof(*have));
    struct nef_region r;

    (void)state;
    test_region(&r, "/srv/nef");
    command_of(&r, 1, want);
    assert_int_equal(nef_process_args(&r, 1, &programs, NEF_ETCD_START_JOIN, 3, have), NEF_OK);
    assert_true(nef_command_matches(want, NEF_PROCESS_ETCD, have->text, bytes_of(have)));
    free(want);
    free(have);
}

static void reads_lines_of_proc(void **state)
{
    static const char tail[] = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21\n";
    char line[256];
    char found = 0;
    uint64_t ticks = 0;

    (void)state;
    (void)snprintf(line, sizeof(line), "77 (etcd) S%s", tail);
    assert_int_equal(nef_proc_parse(line, &found, &ticks), NEF_OK);
    assert_int_equal(found, 'S');
    assert_int_equal(ticks, 424242);
    (void)snprintf(line, sizeof(line), "77 (a) R 9) (b) T%s", tail); /* a name may hold anything */
    assert_int_equal(nef_proc_parse(line, &found, &ticks), NEF_OK);
    assert_int_equal(found, 'T');
    assert_int_equal(nef_proc_parse("", &found, &ticks), NEF_E_PROTOCOL);
    assert_int_equal(nef_proc_parse("77 (etcd) S 1 2 3", &found, &ticks), NEF_E_PROTOCOL);
    assert_int_equal(nef_proc_parse("77 (etcd)", &found, &ticks), NEF_E_PROTOCOL);
}

static void sees_itself(void **state)
{
    struct nef_seen seen;
    char boot[40];

    (void)state;
    nef_proc_look(getpid(), &seen);
    assert_true(seen.there);
    assert_int_equal(seen.identity.pid, getpid());
    assert_true(seen.identity.start_ticks > 0);
    nef_proc_boot_id(boot);
    assert_int_equal(strlen(boot), 36);
}

static void region_json_has_the_fixed_members(void **state)
{
    static const char *const members[] = {"region",      "endpoint", "access_key", "secret_key",
                                          "admin_token", "ca",       "zones",      "witness",
                                          "etcd",        "processes", "ai_endpoint", "ai_key"};
    static const char *const names[] = {"etcd-a", "etcd-b",  "etcd-w", "zone-a",
                                        "zone-b", "witness", "front"};
    struct nef_child_view views[NEF_PROCESS_COUNT] = {{0, NEF_CHILD_STOPPED}};
    struct nef_region r;
    json_t *root, *item;
    size_t n;

    (void)state;
    test_region(&r, "/srv/nef");
    views[3] = (struct nef_child_view){4711, NEF_CHILD_RUNNING};
    views[4] = (struct nef_child_view){4712, NEF_CHILD_PAUSED};
    root = nef_region_json(&r, views);
    assert_non_null(root);
    assert_int_equal(json_object_size(root), sizeof(members) / sizeof(members[0]));
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        assert_non_null(json_object_get(root, members[i]));
    assert_string_equal(json_string_value(json_object_get(root, "endpoint")),
                        "http://127.0.0.1:9000");
    item = json_array_get(json_object_get(root, "zones"), 0);
    assert_string_equal(json_string_value(json_object_get(item, "name")), "a");
    assert_string_equal(json_string_value(json_object_get(item, "s3")), "http://127.0.0.1:9010");
    assert_string_equal(json_string_value(json_object_get(item, "ai")), "http://127.0.0.1:9011");
    assert_string_equal(json_string_value(json_object_get(root, "ai_endpoint")), "http://127.0.0.1:9001");
    assert_string_equal(json_string_value(json_object_get(root, "ai_key")), "NEFTEST:secret");
    assert_string_equal(json_string_value(json_object_get(item, "admin")), "http://127.0.0.1:9016");
    assert_int_equal(json_integer_value(json_object_get(item, "pid")), 4711);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(root, "witness"), "admin")),
        "http://127.0.0.1:9036");
    assert_int_equal(json_array_size(json_object_get(root, "processes")), NEF_PROCESS_COUNT);
    json_array_foreach(json_object_get(root, "processes"), n, item)
    {
        assert_string_equal(json_string_value(json_object_get(item, "name")), names[n]);
        /* a process that isn't there has no id, not id 0, which means a whole group to kill(2) */
        if (n != 3 && n != 4)
            assert_true(json_is_null(json_object_get(item, "pid")));
    }
    item = json_array_get(json_object_get(root, "processes"), 4);
    assert_string_equal(json_string_value(json_object_get(item, "state")), "paused");
    assert_string_equal(json_string_value(json_object_get(item, "log")),
                        "/srv/nef/logs/zone-b.log");
    json_decref(root);
}

int run_state_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_survives_its_file),
        cmocka_unit_test(refuses_what_kill_would_misread),
        cmocka_unit_test(refuses_what_is_no_state),
        cmocka_unit_test(adopts_only_the_same_process),
        cmocka_unit_test(starts_exactly_the_production_commands),
        cmocka_unit_test(knows_processes_by_their_command_lines),
        cmocka_unit_test(finds_a_joined_etcd_by_its_data),
        cmocka_unit_test(reads_lines_of_proc),
        cmocka_unit_test(sees_itself),
        cmocka_unit_test(region_json_has_the_fixed_members),
    };

    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
