/* The HTTP side of a zone over the fake runtime, for http_test.py:
 *   fake_zone DIR [slow] [delay=US] [tls]
 * makes DIR's files, listens on free ports and prints one JSON line with them; ends when its input
 * ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "fake_runtime.h"
#include "server/admin.h"
#include "server/s3_service.h"

#define ACCESS "NEFROOTROOTROOTROOT0"
#define SECRET "root-secret-root-secret-root-secret-0000"
#define TOKEN  "admin-token-admin-token"

static void must(nef_err err, const char *what)
{
    if (err == NEF_OK)
        return;
    fprintf(stderr, "fake zone: %s: %s\n", what, nef_err_name(err));
    exit(1);
}

/* Open streams of all cells: what uploads that never ended hold. */
static void say_streams(struct nef_runtime *rt, uint32_t cells)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < cells; i++) {
        struct nef_store_cell_stats stats;

        nef_store_stats(nef_runtime_store(rt), i, &stats);
        sum += stats.streams_open;
    }
    printf("%llu\n", (unsigned long long)sum);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    struct nef_zone_config config = {.cells = 4, .segment_bytes = 64u << 20};
    struct nef_root_credentials root = {ACCESS, SECRET};
    struct nef_s3_service_options s3_options = {.config = &config, .root = &root};
    struct nef_admin_options admin_options = {.config = &config, .token = TOKEN, .metrics_token = ""};
    const char *const *names;
    struct nef_s3_service *s3 = NULL;
    struct nef_metrics *metrics = NULL;
    struct nef_runtime *rt = NULL;
    struct nef_admin *admin = NULL;
    struct nef_keys *keys = NULL;
    char key_file[4096], line[4096];
    uint32_t count;

    NEF_ASSERT(argc >= 2);
    config.data_dir = argv[1];
    config.region = (char *)"eu-paris";
    config.zone = (char *)"a";
    memset(&config.region_id, 7, sizeof(config.region_id));
    config.limits.connections = 512;
    config.limits.http_threads = 2;
    config.limits.worker_threads = 8;
    (void)strcpy(config.listeners.s3.listen.host, "127.0.0.1");
    (void)strcpy(config.listeners.admin.listen.host, "127.0.0.1");
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "slow") == 0)
            fake_options.slow_reads = true;
        else if (strncmp(argv[i], "delay=", 6) == 0)
            fake_options.delay_us = (uint32_t)atoi(argv[i] + 6);
        else if (strncmp(argv[i], "tls=", 4) == 0) { /* tls=CERT,KEY */
            char *comma = strchr(argv[i], ',');

            *comma = '\0';
            config.listeners.s3.has_tls = true;
            config.listeners.s3.tls.cert = argv[i] + 4;
            config.listeners.s3.tls.key = comma + 1;
        } else if (strncmp(argv[i], "port=", 5) == 0) {
            config.listeners.s3.listen.port = (uint16_t)atoi(argv[i] + 5);
        }
    }
    nef_trace_setup(2, "fake", NEF_TRACE_INFO);
    must(nef_crypto_init(), "crypto");
    (void)snprintf(key_file, sizeof(key_file), "%s/customer.key", argv[1]);
    if (access(key_file, F_OK) != 0)
        must(nef_keys_make_file(key_file), "key file");
    must(nef_keys_open_file(key_file, &keys), "keys");
    must(nef_runtime_start(&config, keys, &rt), "runtime");
    names = nef_s3_operation_names(&count);
    must(nef_metrics_new(names, count, &metrics), "metrics");
    s3_options.rt = admin_options.rt = rt;
    s3_options.keys = admin_options.keys = keys;
    s3_options.metrics = admin_options.metrics = metrics;
    must(nef_s3_service_start(&s3_options, &s3), "s3");
    admin_options.s3 = s3;
    must(nef_admin_start(&admin_options, &admin), "admin");
    printf("{\"s3\": %u, \"admin\": %u, \"access_key\": \"" ACCESS "\", \"secret_key\": \"" SECRET
           "\", \"token\": \"" TOKEN "\"}\n",
           nef_s3_service_port(s3), nef_admin_port(admin));
    (void)fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) { /* commands of the test */
        if (strncmp(line, "durability ", 11) == 0)
            fake_set_durability(rt, (uint32_t)atoi(line + 11));
        else if (strncmp(line, "clock_unknown ", 14) == 0)
            fake_options.clock_unknown = atoi(line + 14) != 0;
        else if (strcmp(line, "streams\n") == 0)
            say_streams(rt, config.cells);
        else if (strncmp(line, "busy_aborts ", 12) == 0)
            atomic_store(&fake_options.busy_aborts, (uint32_t)atoi(line + 12));
        else if (strncmp(line, "damaged ", 8) == 0) {
            line[strcspn(line, "\n")] = '\0';
            fake_set_damaged_file(line + 8);
        }
    }
    nef_admin_attach(admin, NULL);
    nef_s3_service_stop(s3, 200);
    nef_admin_stop(admin);
    nef_runtime_stop(rt);
    nef_metrics_free(metrics);
    nef_keys_close(keys);
    return 0;
}
