/*~ `nef zone`, where a zone begins. Start-up goes from the bottom up, so that nothing is offered before what
 * it stands on works:
 *
 *   configuration -> cryptography -> customer key -> runtime (logs, index, core, peers) -> admin -> S3 -> models
 *
 * and stops the other way round: S3 finishes what it has, then the runtime syncs and flushes. The process
 * answers /health/live from the start of the admin listener on and /health/ready once it holds a lease. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "base/trace.h"
#include "crypto/crypto.h"
#include "gateway/gateway.h"
#include "io/notify.h"
#include "keys/keys.h"
#include "server/admin.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/runtime.h"
#include "server/s3_service.h"
#include "server/zone.h"

#define GRACE_MS 3000u /* for requests under way when the zone is stopped */

#define AWAY_MS  500u  /* not ready, and still serving: the front goes elsewhere meanwhile */
#define QUIET_MS 300u  /* between freezing and closing links, when the whole region stops */

static struct nef_runtime *signalled; /* for the handler only */
static volatile sig_atomic_t signal_number;

static void on_signal(int number)
{
    signal_number = number;
    nef_runtime_wake(signalled);
}

static void catch_signals(struct nef_runtime *rt)
{
    struct sigaction action = {.sa_handler = on_signal};

    signalled = rt;
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
}

static void ignore_signals(int first, int second)
{
    struct sigaction action = {.sa_handler = SIG_IGN};

    (void)sigaction(first, &action, NULL);
    (void)sigaction(second, &action, NULL);
}

static int open_trace(const struct nef_zone_config *config)
{
    char who[80];
    int fd = 2;

    if (config->log.file != NULL) {
        fd = open(config->log.file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (fd < 0) {
            fprintf(stderr, "nef zone: %s: %s\n", config->log.file, strerror(errno));
            return -1;
        }
    }
    (void)snprintf(who, sizeof(who), "zone-%s", config->zone);
    nef_trace_setup(fd, who, (enum nef_trace_level)config->log.level);
    return 0;
}

/* Each connection, segment and RocksDB file is a descriptor; the soft limit of 1,024 is soon too low. */
static void raise_limits(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A zone that serves models holds prompts in plain memory, which a core dump would put onto a disk. Of a limit of 1
 * byte nothing is written, and a program that dumps are piped to isn't started either (with 0 it would be: core(5)). */
static void no_core(void)
{
    const struct rlimit one = {1, 1};

    if (setrlimit(RLIMIT_CORE, &one) != 0)
        nef_trace(NEF_TRACE_WARN, "core_limit", "s:why", strerror(errno), NULL);
}

struct zone {
    struct nef_zone_config config;
    struct nef_root_credentials root;
    char token[NEF_TOKEN_BYTES], metrics_token[NEF_TOKEN_BYTES];
    struct nef_keys *keys;
    struct nef_runtime *rt;
    struct nef_metrics *metrics;
    struct nef_admin *admin;
    struct nef_s3_service *s3;
    struct nef_gateway *gateway; /* NULL: this zone serves no models */
};

static void ai_metrics(void *context, struct nef_buf *out)
{
    nef_gateway_metrics(context, out);
}

static void ai_status(void *context, struct nef_buf *out)
{
    nef_gateway_status_json(context, out);
}

static nef_err start_gateway(struct zone *z)
{
    const struct nef_gateway_options options = {
        .config = &z->config,
        .root = &z->root,
        .rt = z->rt,
        .keys = z->keys,
    };
    struct nef_admin_ai ai = {.metrics = ai_metrics, .status = ai_status};
    nef_err err;

    if (!z->config.has_ai)
        return NEF_OK;
    err = nef_gateway_start(&options, &z->gateway);
    if (err != NEF_OK)
        return err;
    ai.context = z->gateway;
    nef_admin_attach_ai(z->admin, &ai);
    return NEF_OK;
}

static nef_err start(struct zone *z)
{
    uint32_t operation_count;
    const char *const *operations = nef_s3_operation_names(&operation_count);
    nef_err err;

    err = nef_keys_open_file(z->config.keys.customer_key_file, &z->keys);
    if (err != NEF_OK) {
        nef_trace(NEF_TRACE_ERROR, "customer_key", "s:file", z->config.keys.customer_key_file, "e:err", err,
                  NULL);
        return err;
    }
    err = nef_runtime_start(&z->config, z->keys, &z->rt);
    if (err != NEF_OK)
        return err;
    catch_signals(z->rt);
    err = nef_metrics_new(operations, operation_count, &z->metrics);
    if (err == NEF_OK) {
        const struct nef_admin_options admin = {
            .config = &z->config,
            .token = z->token,
            .metrics_token = z->metrics_token,
            .rt = z->rt,
            .keys = z->keys,
            .metrics = z->metrics,
        };

        err = nef_admin_start(&admin, &z->admin);
    }
    if (err == NEF_OK) {
        const struct nef_s3_service_options s3 = {
            .config = &z->config,
            .root = &z->root,
            .rt = z->rt,
            .keys = z->keys,
            .metrics = z->metrics,
        };

        err = nef_s3_service_start(&s3, &z->s3);
    }
    if (err == NEF_OK)
        err = start_gateway(z);
    nef_wipe(&z->root, sizeof(z->root));
    nef_wipe(z->token, sizeof(z->token));
    nef_wipe(z->metrics_token, sizeof(z->metrics_token));
    if (err == NEF_OK)
        nef_admin_attach(z->admin, z->s3);
    return err;
}

static void pause_ms(long ms)
{
    struct timespec t = {0, ms * 1000000l};

    (void)nanosleep(&t, NULL);
}

/* SIGTERM: this zone stops and the region goes on. SIGINT: the whole region stops; frozen cores don't see the
 * others' links go, so the record in etcd stays as it is and all zones start again in sync. */
static void stop(struct zone *z)
{
    if (z->gateway != NULL)
        nef_gateway_quiesce(z->gateway);
    if (signal_number == SIGINT) {
        nef_runtime_freeze(z->rt);
        pause_ms(QUIET_MS);
    } else {
        nef_runtime_drain(z->rt);
        pause_ms(AWAY_MS);
    }
    nef_admin_attach_ai(z->admin, NULL);
    nef_gateway_stop(z->gateway, GRACE_MS); /* what it keeps, it keeps through the runtime */
    nef_admin_attach(z->admin, NULL);
    nef_s3_service_stop(z->s3, GRACE_MS);
    nef_admin_stop(z->admin);
    ignore_signals(SIGTERM, SIGINT); /* their handler wakes a runtime that goes now */
    nef_runtime_stop(z->rt);
    nef_metrics_free(z->metrics);
    nef_keys_close(z->keys);
}

/* Keys lie in memory that is never swapped. */
static bool can_lock_memory(void)
{
    void *p;

    errno = 0;
    p = nef_secret_new(1);
    if (p == NULL)
        nef_trace(NEF_TRACE_ERROR, "memory_cant_be_locked", "s:why", strerror(errno), "s:help",
                  "mlock is refused: see LimitMEMLOCK (ulimit -l), or the container's settings (CAP_IPC_LOCK)", NULL);
    nef_secret_free(p, 1);
    return p != NULL;
}

int nef_zone_main(const char *config_path)
{
    static struct zone z; /* lives as long as the process */
    struct nef_config_error error = {0};
    nef_err err;

    err = nef_zone_config_load(config_path, &z.config, &error);
    if (err == NEF_OK)
        err = nef_root_credentials_load(z.config.root_credentials_file, &z.root, &error);
    if (err == NEF_OK)
        err = nef_token_load(z.config.listeners.admin.token_file, z.token, &error);
    if (err == NEF_OK && z.config.listeners.admin.metrics_token_file != NULL)
        err = nef_token_load(z.config.listeners.admin.metrics_token_file, z.metrics_token, &error);
    if (err != NEF_OK) {
        fprintf(stderr, "nef zone: %s\n", error.text);
        return 2;
    }
    if (open_trace(&z.config) != 0)
        return 2;
    raise_limits();
    if (z.config.has_ai)
        no_core();
    ignore_signals(SIGPIPE, SIGHUP); /* before the first link can break */
    if (nef_crypto_init() != NEF_OK) {
        nef_trace(NEF_TRACE_ERROR, "crypto_selftest_failed", NULL);
        return 1;
    }
    if (!can_lock_memory())
        return 1;
    err = start(&z);
    if (err != NEF_OK) {
        nef_trace(NEF_TRACE_ERROR, "zone_start_failed", "e:err", err, NULL);
        return 1;
    }
    nef_trace(NEF_TRACE_INFO, "zone_started", "s:region", z.config.region, "u:cells",
              (uint64_t)z.config.cells, "s:version", NEF_VERSION, NULL);
    nef_notify("READY=1");
    nef_trace_buffer(true); /* the core flushes */
    err = nef_runtime_wait(z.rt);
    nef_trace_buffer(false);
    nef_trace(err == NEF_OK ? NEF_TRACE_INFO : NEF_TRACE_ERROR, "zone_stopping", "e:err", err, NULL);
    nef_notify("STOPPING=1");
    if (err != NEF_OK)
        _exit(1); /* after a failed disk nothing more is written: what recovery finds is what was synced */
    stop(&z);
    nef_trace(NEF_TRACE_INFO, "zone_stopped", NULL);
    nef_zone_config_free(&z.config);
    return 0;
}
