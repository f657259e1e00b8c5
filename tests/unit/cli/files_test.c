/* A region's files: made once, read again, never silently replaced; and YAML that loads. */
#include "cli_test.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];

static int make_directory(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof(directory), "/tmp/nef-cli-test-XXXXXX");
    return mkdtemp(directory) != NULL ? 0 : -1;
}

static int remove_directory(void **state)
{
    char command[128];

    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf %s", directory);
    return system(command);
}

static void makes_and_opens(void **state)
{
    struct nef_region_wish wish = {.port_base = 23000, .cells = 2}, none = {0},
                           other = {.cells = 8};
    struct nef_region *first = calloc(1, sizeof(*first)), *again = calloc(1, sizeof(*again));
    struct nef_region_error error = {{0}};
    struct nef_zone_config zone;
    struct nef_witness_config witness;
    struct nef_config_error ce = {{0}};
    char path[NEF_PATH_MAX];
    struct stat st;
    bool made = false;

    (void)state;
    assert_int_equal(nef_region_open(directory, again, &error), NEF_E_NOT_FOUND);
    assert_int_equal(nef_region_make(directory, &wish, first, &made, &error), NEF_OK);
    assert_true(made);
    assert_int_equal(nef_region_make(directory, &none, again, &made, &error), NEF_OK);
    assert_false(made);
    assert_string_equal(first->root.secret_key, again->root.secret_key);
    assert_string_equal(first->admin_token, again->admin_token);
    assert_int_equal(again->port_base, 23000);
    assert_int_equal(again->plan.cells, 2);
    assert_memory_equal(&first->plan.region_id, &again->plan.region_id, 16);
    assert_int_equal(nef_region_make(directory, &other, again, &made, &error), NEF_E_INVALID);
    assert_non_null(strstr(error.text, "cells"));

    nef_region_path(first, path, "config/zone-b.yaml");
    assert_int_equal(nef_zone_config_load(path, &zone, &ce), NEF_OK);
    assert_string_equal(zone.zone, "b");
    assert_int_equal(zone.cells, 2);
    assert_int_equal(zone.listeners.s3.listen.port, 23020);
    assert_int_equal(zone.listeners.peer.listen.port, 23022);
    assert_int_equal(zone.listeners.admin.listen.port, 23026);
    assert_false(zone.preferred);
    assert_false(zone.bootstrap);
    assert_int_equal(zone.etcd.endpoint_count, 3);
    assert_string_equal(zone.etcd.endpoints[0], "https://127.0.0.1:23023");
    assert_string_equal(zone.witness.address, "http://127.0.0.1:23036");
    assert_int_equal(zone.peer_count, 1);
    assert_string_equal(zone.peers[0].zone, "a");
    nef_zone_config_free(&zone);
    nef_region_path(first, path, "config/witness.yaml");
    assert_int_equal(nef_witness_config_load(path, &witness, &ce), NEF_OK);
    assert_int_equal(witness.zone_count, 2);
    assert_string_equal(witness.etcd.endpoints[0], "https://127.0.0.1:23033");
    nef_witness_config_free(&witness);

    nef_region_path(first, path, "keys/customer.key");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    /* a lost customer key is said, not replaced */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(nef_region_make(directory, &none, again, &made, &error), NEF_E_CONFIG);
    assert_non_null(strstr(error.text, "customer.key"));
    assert_int_equal(access(path, F_OK), -1);
    free(first);
    free(again);
}

static void refuses_odd_directories(void **state)
{
    struct nef_region_wish none = {0};
    struct nef_region *r = calloc(1, sizeof(*r));
    struct nef_region_error error = {{0}};
    char name[700];
    bool made;

    (void)state;
    assert_int_equal(nef_region_make("/tmp/a b", &none, r, &made, &error), NEF_E_INVALID);
    assert_int_equal(nef_region_make("", &none, r, &made, &error), NEF_E_INVALID);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    name[0] = '/';
    assert_int_equal(nef_region_make(name, &none, r, &made, &error), NEF_E_LIMIT);
    assert_int_equal(nef_region_make("/proc/nothing/here", &none, r, &made, &error), NEF_E_IO);
    free(r);
}

int run_files_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(makes_and_opens, make_directory, remove_directory),
        cmocka_unit_test(refuses_odd_directories),
    };

    return cmocka_run_group_tests_name("files", tests, NULL, NULL);
}
