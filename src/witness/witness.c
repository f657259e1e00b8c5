/* The witness's main thread: look at etcd, take leadership back if it is elsewhere, look at the
 * zones, sleep.
 *
 * Looking at zones is for operators (a place that sees both zones tells a cut link from a lost
 * host) and decides nothing: who serves is etcd's and the zones' business. */
#include "witness/witness.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/trace.h"
#include "crypto/crypto.h"
#include "io/clock.h"
#include "io/http_client.h"
#include "io/notify.h"
#include "http/http.h"
#include "witness/witness_internal.h"

#define ZONE_CALL_MS 500u
#define ZONES_EVERY  5u /* looks at etcd for one look at the zones */

struct watch {
    struct nef_witness *w;
    struct nef_etcd *etcd;
    struct nef_leader_policy policy;
    struct nef_witness_seen seen;
    uint32_t round;
};

/* ---- etcd ---- */

static void look_at_etcd(struct watch *watch)
{
    struct nef_witness_seen *seen = &watch->seen;
    uint64_t now = nef_now_ms();
    bool before = seen->member_answers;

    seen->member_answers = nef_etcd_status(watch->etcd, 0, &seen->member) == NEF_OK;
    if (!seen->member_answers) {
        (void)snprintf(seen->error, sizeof(seen->error), "%.255s", nef_etcd_error(watch->etcd));
        if (before)
            nef_trace(NEF_TRACE_WARN, "etcd_silent", "s:why", seen->error, NULL);
        return;
    }
    seen->at_ms = nef_now_ms();
    seen->error[0] = 0;
    if (!before)
        nef_trace(NEF_TRACE_INFO, "etcd_answers", "u:term", seen->member.raft_term, NULL);
    if (!nef_leader_wants(&watch->policy, now, seen->member.member_id, seen->member.leader_id))
        return;
    if (nef_etcd_transfer_leader(watch->etcd, seen->member.member_id) == NEF_OK) {
        seen->transfers++;
        nef_trace(NEF_TRACE_INFO, "leadership_taken_back", "u:term", seen->member.raft_term, NULL);
    } else {
        seen->transfer_failures++;
        nef_trace(NEF_TRACE_WARN, "leadership_transfer_failed", "s:why",
                  nef_etcd_error(watch->etcd), NULL);
    }
}

/* ---- zones ---- */

static bool get(const struct nef_witness *w, const char *base, const char *path, long *out_status,
                json_t **out_root)
{
    char url[512];
    struct nef_http_answer answer = {0};
    struct nef_http_call call = {
        .url = url, .timeout_ms = ZONE_CALL_MS, .ca = w->config.etcd.tls.ca};
    bool good;
    int written = snprintf(url, sizeof(url), "%s%s", base, path);

    if (written < 0 || (size_t)written >= sizeof(url))
        return false;
    good = nef_http_do(&call, &answer) == NEF_OK;
    *out_status = answer.status;
    *out_root = good && answer.body.bytes > 0
                    ? json_loadb((const char *)answer.body.data, answer.body.bytes, 0, NULL)
                    : NULL;
    nef_buf_free(&answer.body);
    return good;
}

static void look_at_zone(const struct nef_witness *w, const struct nef_witness_zone *zone,
                         struct nef_witness_zone_seen *seen)
{
    uint64_t sent, half;
    json_t *root = NULL;
    json_int_t ms;
    long status = 0;

    (void)snprintf(seen->name, sizeof(seen->name), "%s", zone->zone);
    seen->answers = get(w, zone->address, "/health/ready", &status, &root);
    seen->ready = seen->answers && status == 200;
    seen->clock_known = false;
    json_decref(root);
    root = NULL;
    if (!seen->answers)
        return;
    sent = nef_now_ms();
    if (get(w, zone->address, "/time", &status, &root) && status == 200 &&
        json_unpack(root, "{s:I}", "wall_ms", &ms) == 0) {
        half = (nef_now_ms() - sent) / 2;
        seen->clock_known = true;
        seen->clock_ms = (int64_t)ms + (int64_t)half - (int64_t)nef_wall_ms();
    }
    json_decref(root);
}

static void look_at_zones(struct watch *watch)
{
    const struct nef_witness_config *config = &watch->w->config;
    struct nef_witness_seen *seen = &watch->seen;

    seen->zone_count = 0;
    for (uint32_t i = 0; i < config->zone_count && i < NEF_WITNESS_ZONES_MAX; i++) {
        struct nef_witness_zone_seen *zone = &seen->zones[i];
        bool before = zone->answers;

        look_at_zone(watch->w, &config->zones[i], zone);
        seen->zone_count++;
        if (before != zone->answers)
            nef_trace(zone->answers ? NEF_TRACE_INFO : NEF_TRACE_WARN,
                      zone->answers ? "zone_answers" : "zone_silent", "s:zone", zone->name, NULL);
    }
}

/* ---- start, loop, end ---- */

static void publish(struct watch *watch)
{
    (void)pthread_mutex_lock(&watch->w->lock);
    watch->w->seen = watch->seen;
    (void)pthread_mutex_unlock(&watch->w->lock);
}

/* Until a signal of SET comes. */
static void run(struct watch *watch, const sigset_t *set)
{
    uint64_t interval = watch->w->config.check_interval_ns;
    const struct timespec wait = {.tv_sec = (time_t)(interval / 1000000000),
                                  .tv_nsec = (long)(interval % 1000000000)};

    do {
        look_at_etcd(watch);
        publish(watch); /* before the zones: looking at one that hangs takes a while */
        if (watch->round++ % ZONES_EVERY == 0) {
            look_at_zones(watch);
            publish(watch);
        }
    } while (sigtimedwait(set, NULL, &wait) < 0);
}

static nef_err open_etcd(const struct nef_etcd_config *config, struct nef_etcd **out_etcd)
{
    struct nef_etcd_options options = {.endpoints = (const char *const *)config->endpoints,
                                       .endpoint_count = config->endpoint_count,
                                       .ca = config->tls.ca,
                                       .cert = config->tls.cert,
                                       .key = config->tls.key,
                                       .timeout_ms = (uint32_t)(config->timeout_ns / 1000000)};

    return nef_etcd_new(&options, out_etcd);
}

static int open_log(const struct nef_trace_config *log)
{
    if (log->file == NULL)
        return 2;
    return open(log->file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

static int serve(struct nef_witness *w)
{
    struct watch watch = {.w = w};
    struct nef_http *http = NULL;
    sigset_t set;
    int status = 1;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL); /* valid arguments; threads inherit it */
    (void)signal(SIGPIPE, SIG_IGN);               /* can't fail */
    if (open_etcd(&w->config.etcd, &watch.etcd) != NEF_OK ||
        nef_witness_listen(w, &http) != NEF_OK) {
        nef_trace(NEF_TRACE_ERROR, "witness_failed", "s:why", "etcd's files or the admin listener",
                  NULL);
        goto out;
    }
    nef_trace(NEF_TRACE_INFO, "witness_started", "s:region", w->config.region, "u:admin_port",
              (uint64_t)nef_http_port(http), NULL);
    nef_notify("READY=1");
    run(&watch, &set);
    nef_notify("STOPPING=1");
    nef_trace(NEF_TRACE_INFO, "witness_ended", NULL);
    status = 0;
out:
    nef_http_stop(http);
    nef_etcd_free(watch.etcd);
    return status;
}

int nef_witness_main(const char *config_path)
{
    struct nef_config_error error = {{0}};
    struct nef_witness *w = calloc(1, sizeof(*w));
    int status = 2, fd;

    if (w == NULL || nef_crypto_init() != NEF_OK) {
        (void)fprintf(stderr, "nef witness: out of memory, or OpenSSL fails its self-test\n");
        free(w);
        return 1;
    }
    (void)pthread_mutex_init(&w->lock, NULL); /* default attributes: can't fail on Linux */
    if (nef_witness_config_load(config_path, &w->config, &error) != NEF_OK ||
        nef_token_load(w->config.admin.token_file, w->token, &error) != NEF_OK ||
        (w->config.admin.metrics_token_file != NULL &&
         nef_token_load(w->config.admin.metrics_token_file, w->metrics_token, &error) != NEF_OK)) {
        (void)fprintf(stderr, "nef witness: %s\n", error.text);
        goto out;
    }
    fd = open_log(&w->config.log);
    if (fd < 0) {
        (void)fprintf(stderr, "nef witness: %s: %s\n", w->config.log.file, strerror(errno));
        goto out;
    }
    nef_trace_setup(fd, "witness", (enum nef_trace_level)w->config.log.level);
    status = serve(w);
out:
    nef_witness_config_free(&w->config);
    nef_wipe(w->token, sizeof(w->token));
    nef_wipe(w->metrics_token, sizeof(w->metrics_token));
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
    return status;
}
