/* Unit tests of src/server/config.c and config_secret.c: a written configuration loads to the same,
 * what doesn't fit together is named, secrets are private. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../io/temp_dir.h"
#include "crypto/crypto.h"
#include "io/files.h"
#include "server/config.h"

static struct temp_dir dir;
static char path[300];

static int set_up(void **state)
{
    static const char *const secrets[] = {"customer.key", "token", "root.json", "zone.key",
                                          "etcd.key"};

    (void)state;
    if (temp_dir_make(&dir) != 0)
        return -1;
    (void)snprintf(path, sizeof(path), "%s/zone.yaml", dir.path);
    for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
        if (nef_file_make(in_dir(&dir, secrets[i]), 0600, "x", 1) != NEF_OK)
            return -1;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

/* A good configuration whose strings are literals; only the preset prefix is from malloc. */
static void sample(struct nef_zone_config *c)
{
    static char *endpoints[] = {"https://127.0.0.1:9013", "https://127.0.0.1:9023"};
    static struct nef_peer_config peers[] = {{"b", {"127.0.0.1", 9022}}};

    assert_int_equal(nef_zone_config_preset(c), NEF_OK);
    c->region = "eu-paris";
    memset(c->region_id.bytes, 0x5a, 16);
    c->zone = "a";
    c->data_dir = "data";
    c->bootstrap = true;
    c->listeners.s3.listen = (struct nef_host_port){"127.0.0.1", 9010};
    c->listeners.peer.listen = (struct nef_host_port){"::1", 9012};
    c->listeners.admin.listen = (struct nef_host_port){"127.0.0.1", 9016};
    c->listeners.admin.token_file = "token";
    c->tls = (struct nef_mutual_tls){"ca.pem", "zone.pem", "zone.key"};
    c->peers = peers;
    c->peer_count = 1;
    c->witness.address = "http://127.0.0.1:9036";
    c->etcd.endpoints = endpoints;
    c->etcd.endpoint_count = 2;
    c->etcd.tls = (struct nef_mutual_tls){"ca.pem", "etcd.pem", "etcd.key"};
    c->keys.customer_key_file = "customer.key";
    c->root_credentials_file = "root.json";
}

static void write_sample(void)
{
    struct nef_zone_config c;

    sample(&c);
    assert_int_equal(nef_zone_config_write(path, &c), NEF_OK);
    free(c.etcd.prefix);
}

static void a_written_zone_loads_to_the_same(void **state)
{
    struct nef_config_error error = {""};
    struct nef_buf first = {0}, second = {0};
    struct nef_zone_config c;
    struct stat st;

    (void)state;
    write_sample();
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    if (nef_zone_config_load(path, &c, &error) != NEF_OK)
        fail_msg("%s", error.text);
    assert_string_equal(c.region, "eu-paris");
    assert_int_equal(c.region_id.bytes[15], 0x5a);
    assert_string_equal(c.zone, "a");
    assert_string_equal(c.data_dir, in_dir(&dir, "data"));
    assert_int_equal(c.cells, 4);
    assert_int_equal(c.segment_bytes, 256u << 20);
    assert_false(c.preferred);
    assert_true(c.bootstrap);
    assert_false(c.storage_only);
    assert_int_equal(c.listeners.s3.listen.port, 9010);
    assert_false(c.listeners.s3.has_tls);
    assert_string_equal(c.listeners.peer.listen.host, "::1");
    assert_string_equal(c.listeners.admin.token_file, in_dir(&dir, "token"));
    assert_string_equal(c.tls.key, in_dir(&dir, "zone.key"));
    assert_int_equal(c.peer_count, 1);
    assert_string_equal(c.peers[0].zone, "b");
    assert_int_equal(c.peers[0].address.port, 9022);
    assert_string_equal(c.witness.address, "http://127.0.0.1:9036");
    assert_int_equal(c.etcd.endpoint_count, 2);
    assert_string_equal(c.etcd.endpoints[1], "https://127.0.0.1:9023");
    assert_int_equal(c.etcd.timeout_ns, 200000000);
    assert_string_equal(c.etcd.prefix, "/nef/");
    assert_string_equal(c.keys.customer_key_file, in_dir(&dir, "customer.key"));
    assert_string_equal(c.root_credentials_file, in_dir(&dir, "root.json"));
    assert_int_equal(c.timing.heartbeat_ns, 50000000);
    assert_int_equal(c.timing.lease_ns, 500000000);
    assert_int_equal(c.timing.suspect_ns, 400000000);
    assert_int_equal(c.timing.second_wait_ns, 100000000);
    assert_int_equal(c.timing.peer_stall_ns, 1000000000);
    assert_int_equal(c.timing.failback_after_ns, 30000000000);
    assert_int_equal(c.timing.request_hold_ns, 5000000000);
    assert_int_equal(c.limits.connections, 4096);
    assert_int_equal(c.limits.upload_memory_bytes, 64u << 20);
    assert_int_equal(c.compaction.erase_within_ns, 24 * 3600 * 1000000000ull);
    assert_true(c.compaction.live_fraction == 0.5);
    assert_int_equal(c.scrub.rate_bytes, 20u << 20);
    assert_int_equal(c.clock.tolerance_ns, 60000000000);
    assert_null(c.log.file);
    assert_int_equal(c.log.level, NEF_TRACE_INFO);

    /* what was loaded, written and loaded again is the same file (paths are absolute now) */
    assert_int_equal(nef_zone_config_write(path, &c), NEF_OK);
    nef_zone_config_free(&c);
    assert_int_equal(nef_file_read(path, 100000, true, &first), NEF_OK);
    assert_int_equal(nef_zone_config_load(path, &c, &error), NEF_OK);
    assert_int_equal(nef_zone_config_write(path, &c), NEF_OK);
    assert_int_equal(nef_file_read(path, 100000, true, &second), NEF_OK);
    assert_string_equal(nef_buf_cstr(&first), nef_buf_cstr(&second));
    assert_non_null(strstr(nef_buf_cstr(&first), "# the region's name"));
    nef_zone_config_free(&c);
    nef_buf_free(&first);
    nef_buf_free(&second);
}

/* Replace FROM by TO in the sample's file and load it. */
static void refused(const char *from, const char *to, const char *complaint)
{
    struct nef_config_error error = {""};
    struct nef_buf text = {0}, changed = {0};
    struct nef_zone_config c, zero;
    const char *at, *whole;

    write_sample();
    assert_int_equal(nef_file_read(path, 100000, true, &text), NEF_OK);
    whole = nef_buf_cstr(&text);
    at = strstr(whole, from);
    if (at == NULL)
        fail_msg("'%s' isn't in the file", from);
    nef_buf_append(&changed, whole, (size_t)(at - whole));
    nef_buf_text(&changed, to);
    nef_buf_text(&changed, at + strlen(from));
    assert_int_equal(nef_file_replace(path, 0600, changed.data, changed.bytes), NEF_OK);
    assert_int_equal(nef_zone_config_load(path, &c, &error), NEF_E_CONFIG);
    if (strstr(error.text, complaint) == NULL || strncmp(error.text, path, strlen(path)) != 0)
        fail_msg("'%s' isn't in '%s'", complaint, error.text);
    memset(&zero, 0, sizeof(zero));
    assert_memory_equal(&c, &zero, sizeof(c));
    nef_buf_free(&text);
    nef_buf_free(&changed);
}

static void what_does_not_fit_is_named(void **state)
{
    (void)state;
    refused("storage_only: false", "storage_only: true", ": storage_only: is not built yet");
    refused("segment: 256MiB", "segment: 200MiB", ": segment: must be a power of two");
    refused("lease: 500ms", "lease: 150ms",
            ": timing.lease: must be at least four times timing.heartbeat");
    refused("lease: 500ms", "lease: 50ms", ": timing.lease: must be between 100ms and 10s");
    refused("suspect: 400ms", "suspect: 60ms", ": timing.suspect: must be at least twice");
    refused("request_hold: 5s", "request_hold: 1s\n  lease: 1s", ": timing.lease: is set twice");
    refused("zone: b", "zone: a", ": peers[0].zone: is this zone itself");
    refused(":9022\"", ":0\"", ": peers[0].address: must have a port");
    refused("https://127.0.0.1:9023", "http://127.0.0.1:9023",
            ": etcd.endpoints[1]: must begin with https://");
    refused("zone.key", "no.key", "/no.key: No such file or directory");
    refused("cells: 4", "cells: 65", ": cells: must be between 1 and 64");
    refused("root_credentials:", "root_credential:", ": unknown key 'root_credential'");
    refused("region: eu-paris\n", "", ": region: is missing");
}

static void open_secrets_are_refused(void **state)
{
    static const struct {
        const char *file, *key;
    } cases[] = {{"customer.key", "keys.customer_key_file"},
                 {"token", "listeners.admin.token_file"},
                 {"root.json", "root_credentials"},
                 {"zone.key", "tls.key"},
                 {"etcd.key", "etcd.key"}};

    (void)state;
    write_sample();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct nef_config_error error = {""};
        struct nef_zone_config c;

        assert_int_equal(chmod(in_dir(&dir, cases[i].file), 0640), 0);
        assert_int_equal(nef_zone_config_load(path, &c, &error), NEF_E_CONFIG);
        if (strstr(error.text, cases[i].key) == NULL ||
            strstr(error.text, "open to others") == NULL)
            fail_msg("%s", error.text);
        assert_int_equal(chmod(in_dir(&dir, cases[i].file), 0600), 0);
    }
}

static void a_witness_too(void **state)
{
    static char *endpoints[] = {"https://127.0.0.1:9033"};
    static struct nef_witness_zone zones[] = {{"a", "http://127.0.0.1:9016"},
                                              {"b", "http://127.0.0.1:9026"}};
    struct nef_config_error error = {""};
    struct nef_witness_config c;
    char file[300];

    (void)state;
    (void)snprintf(file, sizeof(file), "%s/witness.yaml", dir.path);
    assert_int_equal(nef_witness_config_preset(&c), NEF_OK);
    c.region = "eu-paris";
    c.region_id.bytes[0] = 1;
    c.name = "w";
    c.admin.listen = (struct nef_host_port){"127.0.0.1", 9036};
    c.admin.token_file = "token";
    c.etcd.endpoints = endpoints;
    c.etcd.endpoint_count = 1;
    c.etcd.tls = (struct nef_mutual_tls){"ca.pem", "etcd.pem", "etcd.key"};
    c.zones = zones;
    c.zone_count = 2;
    c.log.file = "witness.log";
    assert_int_equal(nef_witness_config_write(file, &c), NEF_OK);
    free(c.etcd.prefix);
    if (nef_witness_config_load(file, &c, &error) != NEF_OK)
        fail_msg("%s", error.text);
    assert_string_equal(c.name, "w");
    assert_int_equal(c.zone_count, 2);
    assert_string_equal(c.zones[1].address, "http://127.0.0.1:9026");
    assert_int_equal(c.check_interval_ns, 1000000000);
    assert_string_equal(c.log.file, in_dir(&dir, "witness.log"));
    nef_witness_config_free(&c);
}

static void credentials_and_tokens(void **state)
{
    struct nef_config_error error = {""};
    struct nef_root_credentials made, again, untouched = {.access_key = "old"};
    char token[NEF_TOKEN_BYTES];
    static const char *const bad[] = {
        "",
        "{}",
        "{\"access_key\":\"abc\"}",
        "{\"access_key\":\"abc\",\"secret_key\":\"short\"}",
        "{\"access_key\":\"a b c\",\"secret_key\":\"long enough\"}",
        "{\"access_key\":\"abc\",\"secret_key\":\"12345678\",\"x\":1}"};

    (void)state;
    assert_int_equal(nef_root_credentials_make(in_dir(&dir, "r.json")), NEF_OK);
    assert_int_equal(nef_root_credentials_make(in_dir(&dir, "r.json")), NEF_E_EXISTS);
    assert_int_equal(nef_root_credentials_load(in_dir(&dir, "r.json"), &made, &error), NEF_OK);
    assert_int_equal(strlen(made.access_key), 20);
    assert_int_equal(strlen(made.secret_key), 40);
    assert_int_equal(nef_root_credentials_make(in_dir(&dir, "r2.json")), NEF_OK);
    assert_int_equal(nef_root_credentials_load(in_dir(&dir, "r2.json"), &again, &error), NEF_OK);
    assert_string_not_equal(made.secret_key, again.secret_key);
    assert_int_equal(chmod(in_dir(&dir, "r.json"), 0604), 0);
    assert_int_equal(nef_root_credentials_load(in_dir(&dir, "r.json"), &made, &error),
                     NEF_E_CONFIG);
    assert_non_null(strstr(error.text, "mode 600"));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(nef_file_replace(in_dir(&dir, "bad"), 0600, bad[i], strlen(bad[i])),
                         NEF_OK);
        assert_int_equal(nef_root_credentials_load(in_dir(&dir, "bad"), &untouched, &error),
                         NEF_E_CONFIG);
        assert_string_equal(untouched.access_key, "old");
    }
    assert_int_equal(nef_token_make(in_dir(&dir, "t")), NEF_OK);
    assert_int_equal(nef_token_make(in_dir(&dir, "t")), NEF_E_EXISTS);
    assert_int_equal(nef_token_load(in_dir(&dir, "t"), token, &error), NEF_OK);
    assert_int_equal(strlen(token), 64);
    assert_int_equal(nef_file_replace(in_dir(&dir, "t"), 0600, "two lines 1234567\nx\n", 20),
                     NEF_OK);
    assert_int_equal(nef_token_load(in_dir(&dir, "t"), token, &error), NEF_E_CONFIG);
    assert_int_equal(nef_file_replace(in_dir(&dir, "t"), 0600, "1234567890123456", 16), NEF_OK);
    assert_int_equal(nef_token_load(in_dir(&dir, "t"), token, &error), NEF_OK);
    assert_string_equal(token, "1234567890123456");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_written_zone_loads_to_the_same),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(open_secrets_are_refused),
        cmocka_unit_test(a_witness_too),
        cmocka_unit_test(credentials_and_tokens),
    };

    return cmocka_run_group_tests_name("server config", tests, set_up, tear_down);
}
