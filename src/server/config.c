/* Configuration of zone and witness: schemas, checks between values, files of secrets; see config.h.
 *
 * The schema tables are the reference: their comments are what `nef init` writes into the files, and
 * docs/operations.md shows the same text. What a table can't say, two values that must fit each other or
 * a file that must be private, is checked after parsing and named by key and line like everything else. */
#include "server/config.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "base/assert.h"
#include "base/limits.h"
#include "io/files.h"
#include "server/config_internal.h"

/* ---- parts that both files have ---- */

static const struct nef_config_field server_tls_fields[] = {
    {.name = "cert", FIELD(struct nef_server_tls, cert, PATH), .required = true},
    {.name = "key", FIELD(struct nef_server_tls, key, PATH), .required = true},
};
const struct nef_config_schema nef_server_tls_schema = SCHEMA(server_tls_fields);

static const struct nef_config_field listener_fields[] = {
    {.name = "listen", FIELD(struct nef_listener_config, listen, HOST_PORT), .required = true},
    {.name = "tls", FIELD(struct nef_listener_config, tls, MAP), .map = &nef_server_tls_schema,
     .flag = NEF_CONFIG_FLAG(struct nef_listener_config, has_tls),
     .help = "PEM files; without them this listener speaks plain HTTP"},
};
static const struct nef_config_schema listener = SCHEMA(listener_fields);

static const struct nef_config_field admin_fields[] = {
    {.name = "listen", FIELD(struct nef_admin_config, listen, HOST_PORT), .required = true},
    {.name = "tls", FIELD(struct nef_admin_config, tls, MAP), .map = &nef_server_tls_schema,
     .flag = NEF_CONFIG_FLAG(struct nef_admin_config, has_tls),
     .help = "PEM files; without them this listener speaks plain HTTP"},
    {.name = "token_file", FIELD(struct nef_admin_config, token_file, PATH), .required = true,
     .help = "one line, mode 0600: the bearer token of everything but health"},
    {.name = "metrics_token_file", FIELD(struct nef_admin_config, metrics_token_file, PATH),
     .help = "as token_file; a token for /metrics alone, for who collects them"},
};
static const struct nef_config_schema admin = SCHEMA(admin_fields);

static const struct nef_config_field mutual_tls_fields[] = {
    {.name = "ca", FIELD(struct nef_mutual_tls, ca, PATH), .required = true},
    {.name = "cert", FIELD(struct nef_mutual_tls, cert, PATH), .required = true},
    {.name = "key", FIELD(struct nef_mutual_tls, key, PATH), .required = true},
};
static const struct nef_config_schema mutual_tls = SCHEMA(mutual_tls_fields);

static const struct nef_config_field endpoint_item = {.kind = NEF_CONFIG_URL, .max = 300};

static const struct nef_config_field etcd_fields[] = {
    {.name = "endpoints", FIELD(struct nef_etcd_config, endpoints, LIST), .required = true, .min = 1,
     .max = 9, .item = &endpoint_item, .item_bytes = sizeof(char *),
     .count = offsetof(struct nef_etcd_config, endpoint_count),
     .help = "https://host:port, the member of this machine first"},
    {.name = "ca", FIELD(struct nef_etcd_config, tls.ca, PATH), .required = true,
     .help = "mutual TLS; the certificate must have no common name (etcd's gateway refuses those)"},
    {.name = "cert", FIELD(struct nef_etcd_config, tls.cert, PATH), .required = true},
    {.name = "key", FIELD(struct nef_etcd_config, tls.key, PATH), .required = true},
    {.name = "timeout", FIELD(struct nef_etcd_config, timeout_ns, DURATION), .preset = "200ms",
     .min = 20 * NS_PER_MS, .max = 10 * NS_PER_S, .help = "of one call to one member"},
    {.name = "prefix", FIELD(struct nef_etcd_config, prefix, STRING), .preset = "/nef/", .max = 128,
     .help = "of every key; the same in all files of a region"},
};
static const struct nef_config_schema etcd = SCHEMA(etcd_fields);

static const char *const levels[] = {"debug", "info", "warn", "error", NULL}; /* enum nef_trace_level */

static const struct nef_config_field trace_fields[] = {
    {.name = "file", FIELD(struct nef_trace_config, file, PATH),
     .help = "JSON lines; without it they go to standard error"},
    {.name = "level", FIELD(struct nef_trace_config, level, CHOICE), .preset = "info",
     .choices = levels, .help = "debug, info, warn or error"},
};
static const struct nef_config_schema trace = SCHEMA(trace_fields);

/* ---- zone ---- */

static const struct nef_config_field peer_listener_fields[] = {
    {.name = "listen", FIELD(struct nef_zone_config, listeners.peer.listen, HOST_PORT),
     .required = true},
};
static const struct nef_config_schema peer_listener = SCHEMA(peer_listener_fields);

static const struct nef_config_field listeners_fields[] = {
    {.name = "s3", FIELD(struct nef_zone_config, listeners.s3, MAP), .map = &listener,
     .required = true},
    {.name = "peer", .kind = NEF_CONFIG_MAP, .map = &peer_listener, .required = true,
     .help = "for the other zones, mutual TLS"},
    {.name = "admin", FIELD(struct nef_zone_config, listeners.admin, MAP), .map = &admin,
     .required = true, .help = "health, metrics, status"},
};
static const struct nef_config_schema listeners = SCHEMA(listeners_fields);

static const struct nef_config_field peer_fields[] = {
    {.name = "zone", FIELD(struct nef_peer_config, zone, NAME), .required = true,
     .max = NEF_ZONE_NAME_MAX},
    {.name = "address", FIELD(struct nef_peer_config, address, HOST_PORT), .required = true},
};
static const struct nef_config_schema peer = SCHEMA(peer_fields);
static const struct nef_config_field peer_item = {.kind = NEF_CONFIG_MAP, .map = &peer};

static const struct nef_config_field witness_of_zone_fields[] = {
    {.name = "address", FIELD(struct nef_zone_config, witness.address, URL), .max = 300,
     .help = "the witness's admin listener, for its clock; its certificate is of tls.ca"},
};
static const struct nef_config_schema witness_of_zone = SCHEMA(witness_of_zone_fields);

static const struct nef_config_field keys_fields[] = {
    {.name = "customer_key_file", FIELD(struct nef_zone_config, keys.customer_key_file, PATH),
     .required = true, .help = "mode 0600; the same key in every zone; without it nothing can be read"},
};
static const struct nef_config_schema keys = SCHEMA(keys_fields);

#define TIMING(name_, member_, preset_, min_, max_, help_)                                         \
    {.name = name_, FIELD(struct nef_zone_config, timing.member_, DURATION), .preset = preset_,    \
     .min = min_, .max = max_, .help = help_}

static const struct nef_config_field timing_fields[] = {
    TIMING("heartbeat", heartbeat_ns, "50ms", 5 * NS_PER_MS, NS_PER_S,
           "between messages of an idle link"),
    TIMING("lease", lease_ns, "500ms", 100 * NS_PER_MS, 10 * NS_PER_S,
           "term of a read lease; the same in every zone of a region"),
    TIMING("suspect", suspect_ns, "400ms", 50 * NS_PER_MS, 10 * NS_PER_S,
           "silence after which a peer is taken for lost"),
    TIMING("second_wait", second_wait_ns, "100ms", 0, 10 * NS_PER_S,
           "how much longer a zone that isn't preferred waits before it takes over"),
    TIMING("peer_stall", peer_stall_ns, "1s", 100 * NS_PER_MS, 60 * NS_PER_S,
           "a record that waits longer for the backup's disk removes the backup"),
    TIMING("failback_after", failback_after_ns, "30s", NS_PER_S, 24 * NS_PER_H,
           "the preferred zone takes over again after so long in full health"),
    TIMING("request_hold", request_hold_ns, "5s", NS_PER_S, 60 * NS_PER_S,
           "how long a request waits through a failover before it fails"),
    TIMING("etcd_poll", etcd_poll_ns, "250ms", 20 * NS_PER_MS, 10 * NS_PER_S,
           "between reads of the region's record"),
    TIMING("etcd_retry", etcd_retry_ns, "100ms", 10 * NS_PER_MS, 10 * NS_PER_S,
           "after a call to etcd without an answer"),
    TIMING("resend", resend_ns, "1s", 100 * NS_PER_MS, 60 * NS_PER_S,
           "a proposal without outcome is sent again after this"),
};
static const struct nef_config_schema timing = SCHEMA(timing_fields);

static const struct nef_config_field limits_fields[] = {
    {.name = "connections", FIELD(struct nef_zone_config, limits.connections, INT),
     .preset = "4096", .min = 16, .max = 65536, .help = "to the S3 listener"},
    {.name = "http_threads", FIELD(struct nef_zone_config, limits.http_threads, INT), .preset = "0",
     .max = 256, .help = "0: one for each processor"},
    {.name = "worker_threads", FIELD(struct nef_zone_config, limits.worker_threads, INT),
     .preset = "16", .min = 1, .max = 256, .help = "for requests that have to wait"},
    {.name = "upload_memory", FIELD(struct nef_zone_config, limits.upload_memory_bytes, SIZE),
     .preset = "64MiB", .min = 8ull << 20, .max = 64ull << 30,
     .help = "bytes of uploads on their way to both disks; more slows the clients down"},
    {.name = "index_cache", FIELD(struct nef_zone_config, limits.index_cache_bytes, SIZE),
     .preset = "32MiB", .min = 1ull << 20, .max = 1ull << 40},
    {.name = "index_write_buffer",
     FIELD(struct nef_zone_config, limits.index_write_buffer_bytes, SIZE), .preset = "32MiB",
     .min = 1ull << 20, .max = 64ull << 30},
};
static const struct nef_config_schema limits = SCHEMA(limits_fields);

static const struct nef_config_field compaction_fields[] = {
    {.name = "erase_within", FIELD(struct nef_zone_config, compaction.erase_within_ns, DURATION),
     .preset = "24h", .min = 60 * NS_PER_S, .max = 24 * 365 * NS_PER_H,
     .help = "a deleted object's bytes are gone from the disks after this"},
    {.name = "live_fraction", FIELD(struct nef_zone_config, compaction.live_fraction, FRACTION),
     .preset = "0.5", .min = 50, .max = 950, .help = "a segment with less of it alive is rewritten"},
};
static const struct nef_config_schema compaction = SCHEMA(compaction_fields);

static const struct nef_config_field scrub_fields[] = {
    {.name = "rate", FIELD(struct nef_zone_config, scrub.rate_bytes, SIZE), .preset = "20MiB",
     .max = 16ull << 30, .help = "bytes a second that are read in the background; 0: off"},
    {.name = "interval", FIELD(struct nef_zone_config, scrub.interval_ns, DURATION),
     .preset = "7d", .min = NS_PER_S, .max = 24 * 365 * NS_PER_H,
     .help = "one pass over everything in this time, if the rate allows"},
};
static const struct nef_config_schema scrub = SCHEMA(scrub_fields);

static const struct nef_config_field lost_fields[] = {
    {.name = "tails", FIELD(struct nef_zone_config, lost.tails_bytes, SIZE), .preset = "1GiB",
     .max = 1ull << 50, .help = "bytes of what failovers made void that are kept in lost/; beyond, the oldest go"},
};
static const struct nef_config_schema lost = SCHEMA(lost_fields);

static const struct nef_config_field clock_fields[] = {
    {.name = "tolerance", FIELD(struct nef_zone_config, clock.tolerance_ns, DURATION),
     .preset = "60s", .min = NS_PER_S, .max = NS_PER_H,
     .help = "a zone whose clock differs by more from both peer and witness takes theirs"},
};
static const struct nef_config_schema clock_ = SCHEMA(clock_fields);

static const struct nef_config_field zone_fields[] = {
    {.name = "region", FIELD(struct nef_zone_config, region, NAME), .required = true, .max = 32,
     .help = "the region's name, as S3 clients give it"},
    {.name = "region_id", FIELD(struct nef_zone_config, region_id, ID), .required = true,
     .help = "random, made once; a disk of another region is refused by it"},
    {.name = "zone", FIELD(struct nef_zone_config, zone, NAME), .required = true,
     .max = NEF_ZONE_NAME_MAX, .help = "this zone's name, as its certificate says"},
    {.name = "data", FIELD(struct nef_zone_config, data_dir, PATH), .required = true,
     .help = "directory of log and index"},
    {.name = "cells", FIELD(struct nef_zone_config, cells, INT), .preset = "4", .min = 1,
     .max = NEF_CELL_MAX, .help = "parallel logs; the same in every zone, fixed for good"},
    {.name = "segment", FIELD(struct nef_zone_config, segment_bytes, SIZE), .preset = "256MiB",
     .min = 8ull << 20, .max = 1ull << 30,
     .help = "size of a log file, a power of two; the same in every zone, fixed for good"},
    {.name = "preferred", FIELD(struct nef_zone_config, preferred, BOOL), .preset = "false",
     .help = "true in one zone: the one that is primary when both can be"},
    {.name = "bootstrap", FIELD(struct nef_zone_config, bootstrap, BOOL), .preset = "false",
     .help = "true in one zone: it may create the region where there is none"},
    {.name = "storage_only", FIELD(struct nef_zone_config, storage_only, BOOL), .preset = "false",
     .help = "a zone that never holds keys; not built yet"},
    {.name = "listeners", .kind = NEF_CONFIG_MAP, .map = &listeners, .required = true,
     .help = "where this zone listens"},
    {.name = "tls", FIELD(struct nef_zone_config, tls, MAP), .map = &mutual_tls, .required = true,
     .help = "between zones: the region's CA, this zone's certificate and key"},
    {.name = "peers", FIELD(struct nef_zone_config, peers, LIST), .max = NEF_REPLICA_MAX - 1,
     .item = &peer_item, .item_bytes = sizeof(struct nef_peer_config),
     .count = offsetof(struct nef_zone_config, peer_count),
     .help = "the other zones and their peer listeners"},
    {.name = "witness", .kind = NEF_CONFIG_MAP, .map = &witness_of_zone},
    {.name = "etcd", FIELD(struct nef_zone_config, etcd, MAP), .map = &etcd, .required = true,
     .help = "who is primary is decided there; no customer data ever goes into it"},
    {.name = "keys", .kind = NEF_CONFIG_MAP, .map = &keys, .required = true},
    {.name = "root_credentials", FIELD(struct nef_zone_config, root_credentials_file, PATH),
     .required = true,
     .help = "{\"access_key\": ..., \"secret_key\": ...}, mode 0600: may do everything"},
    {.name = "timing", .kind = NEF_CONFIG_MAP, .map = &timing},
    {.name = "limits", .kind = NEF_CONFIG_MAP, .map = &limits},
    {.name = "compaction", .kind = NEF_CONFIG_MAP, .map = &compaction},
    {.name = "scrub", .kind = NEF_CONFIG_MAP, .map = &scrub},
    {.name = "lost", .kind = NEF_CONFIG_MAP, .map = &lost},
    {.name = "clock", .kind = NEF_CONFIG_MAP, .map = &clock_},
    {.name = "ai", FIELD(struct nef_zone_config, ai, MAP), .map = &nef_ai_schema,
     .flag = NEF_CONFIG_FLAG(struct nef_zone_config, has_ai),
     .help = "models behind OpenAI's API; without it this zone serves none"},
    {.name = "log", FIELD(struct nef_zone_config, log, MAP), .map = &trace},
};
static const struct nef_config_schema zone = SCHEMA(zone_fields);

/* ---- witness ---- */

static const struct nef_config_field witness_zone_fields[] = {
    {.name = "zone", FIELD(struct nef_witness_zone, zone, NAME), .required = true,
     .max = NEF_ZONE_NAME_MAX},
    {.name = "address", FIELD(struct nef_witness_zone, address, URL), .required = true, .max = 300},
};
static const struct nef_config_schema witness_zone = SCHEMA(witness_zone_fields);
static const struct nef_config_field witness_zone_item = {.kind = NEF_CONFIG_MAP,
                                                          .map = &witness_zone};

static const struct nef_config_field witness_fields[] = {
    {.name = "region", FIELD(struct nef_witness_config, region, NAME), .required = true, .max = 32,
     .help = "the region's name"},
    {.name = "region_id", FIELD(struct nef_witness_config, region_id, ID), .required = true},
    {.name = "name", FIELD(struct nef_witness_config, name, NAME), .required = true, .max = 32,
     .help = "of the witness and of its etcd member"},
    {.name = "admin", FIELD(struct nef_witness_config, admin, MAP), .map = &admin, .required = true,
     .help = "health, metrics, the witness's clock"},
    {.name = "etcd", FIELD(struct nef_witness_config, etcd, MAP), .map = &etcd, .required = true,
     .help = "the witness keeps etcd's leadership at its own member"},
    {.name = "zones", FIELD(struct nef_witness_config, zones, LIST), .max = NEF_REPLICA_MAX,
     .item = &witness_zone_item, .item_bytes = sizeof(struct nef_witness_zone),
     .count = offsetof(struct nef_witness_config, zone_count),
     .help = "the zones' admin listeners"},
    {.name = "check_interval", FIELD(struct nef_witness_config, check_interval_ns, DURATION),
     .preset = "1s", .min = 100 * NS_PER_MS, .max = NS_PER_H,
     .help = "between looks at who leads etcd"},
    {.name = "log", FIELD(struct nef_witness_config, log, MAP), .map = &trace},
};
static const struct nef_config_schema witness = SCHEMA(witness_fields);

/* ---- checks after parsing ---- */

nef_err nef_check_private(const struct nef_config_source *source, const char *key, const char *path, mode_t bad,
                          struct nef_config_error *error)
{
    struct stat st;

    if (stat(path, &st) != 0)
        return nef_config_fail(source, key, error, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return nef_config_fail(source, key, error, "%s: is not a plain file", path);
    if ((st.st_mode & bad) != 0)
        return nef_config_fail(source, key, error, "%s: is open to others (mode %03o, 600 is right)",
                               path, (unsigned)(st.st_mode & 0777));
    return NEF_OK;
}

/* A listener's key often belongs to a group of the host's certificate tools: only "others" are refused. */
/* WHERE: the map in the file, "listeners.admin" say. */
static nef_err check_admin(const struct nef_config_source *source, const char *where, const struct nef_admin_config *a,
                           struct nef_config_error *error)
{
    const struct {
        const char *name, *file;
        unsigned forbidden;
    } files[] = {{"tls.key", a->has_tls ? a->tls.key : NULL, 007},
                 {"token_file", a->token_file, 077},
                 {"metrics_token_file", a->metrics_token_file, 077}};
    nef_err err = NEF_OK;

    for (size_t i = 0; i < NEF_COUNT(files) && err == NEF_OK; i++) {
        char key[64];

        (void)snprintf(key, sizeof(key), "%s.%s", where, files[i].name);
        if (files[i].file != NULL)
            err = nef_check_private(source, key, files[i].file, files[i].forbidden, error);
    }
    return err;
}

static nef_err check_etcd(const struct nef_config_source *source, const struct nef_etcd_config *e,
                          struct nef_config_error *error)
{
    char key[64];

    for (uint32_t i = 0; i < e->endpoint_count; i++) {
        (void)snprintf(key, sizeof(key), "etcd.endpoints[%u]", i);
        if (strncmp(e->endpoints[i], "https://", 8) != 0)
            return nef_config_fail(source, key, error, "must begin with https://");
    }
    return nef_check_private(source, "etcd.key", e->tls.key, 077, error);
}

static nef_err check_peers(const struct nef_config_source *source, const struct nef_zone_config *c,
                           struct nef_config_error *error)
{
    char key[64];

    for (uint32_t i = 0; i < c->peer_count; i++) {
        (void)snprintf(key, sizeof(key), "peers[%u].zone", i);
        if (strcmp(c->peers[i].zone, c->zone) == 0)
            return nef_config_fail(source, key, error, "is this zone itself");
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->peers[i].zone, c->peers[j].zone) == 0)
                return nef_config_fail(source, key, error, "is there twice");
        (void)snprintf(key, sizeof(key), "peers[%u].address", i);
        if (c->peers[i].address.port == 0)
            return nef_config_fail(source, key, error, "must have a port");
    }
    return NEF_OK;
}

static nef_err check_timing(const struct nef_config_source *source, const struct nef_zone_config *c,
                            struct nef_config_error *error)
{
    /* a lease must survive a few lost or late heartbeats, or reads stop whenever the network sneezes */
    if (c->timing.lease_ns < 4 * c->timing.heartbeat_ns)
        return nef_config_fail(source, "timing.lease", error,
                               "must be at least four times timing.heartbeat");
    if (c->timing.suspect_ns < 2 * c->timing.heartbeat_ns)
        return nef_config_fail(source, "timing.suspect", error,
                               "must be at least twice timing.heartbeat");
    if (c->timing.request_hold_ns < 2 * c->timing.lease_ns)
        return nef_config_fail(source, "timing.request_hold", error,
                               "must be at least twice timing.lease, or no failover fits into it");
    return NEF_OK;
}

static nef_err check_zone(const struct nef_config_source *source, const struct nef_zone_config *c,
                          struct nef_config_error *error)
{
    nef_err err;

    if (c->storage_only)
        return nef_config_fail(source, "storage_only", error, "is not built yet; must be false");
    if ((c->segment_bytes & (c->segment_bytes - 1)) != 0)
        return nef_config_fail(source, "segment", error, "must be a power of two");
    err = check_timing(source, c, error);
    if (err == NEF_OK)
        err = check_peers(source, c, error);
    if (err == NEF_OK)
        err = check_etcd(source, &c->etcd, error);
    if (err == NEF_OK && c->listeners.s3.has_tls)
        err = nef_check_private(source, "listeners.s3.tls.key", c->listeners.s3.tls.key, 007, error);
    if (err == NEF_OK)
        err = check_admin(source, "listeners.admin", &c->listeners.admin, error);
    if (err == NEF_OK)
        err = nef_check_private(source, "tls.key", c->tls.key, 077, error);
    if (err == NEF_OK)
        err = nef_check_private(source, "keys.customer_key_file", c->keys.customer_key_file, 077, error);
    if (err == NEF_OK)
        err = nef_check_private(source, "root_credentials", c->root_credentials_file, 077, error);
    if (err == NEF_OK && c->has_ai)
        err = nef_check_ai(source, c, error);
    return err;
}

/* ---- loading, writing ---- */

nef_err nef_zone_config_load(const char *path, struct nef_zone_config *out,
                             struct nef_config_error *error)
{
    struct nef_config_source *source = NULL;
    nef_err err = nef_config_load(path, &zone, out, sizeof(*out), &source, error);

    if (err != NEF_OK)
        return err;
    err = check_zone(source, out, error);
    if (err != NEF_OK)
        nef_zone_config_free(out);
    nef_config_source_free(source);
    return err;
}

nef_err nef_witness_config_load(const char *path, struct nef_witness_config *out,
                                struct nef_config_error *error)
{
    struct nef_config_source *source = NULL;
    nef_err err = nef_config_load(path, &witness, out, sizeof(*out), &source, error);

    if (err != NEF_OK)
        return err;
    err = check_etcd(source, &out->etcd, error);
    if (err == NEF_OK)
        err = check_admin(source, "admin", &out->admin, error);
    if (err != NEF_OK)
        nef_witness_config_free(out);
    nef_config_source_free(source);
    return err;
}

void nef_zone_config_free(struct nef_zone_config *config)
{
    nef_config_free(&zone, config, sizeof(*config));
}

void nef_witness_config_free(struct nef_witness_config *config)
{
    nef_config_free(&witness, config, sizeof(*config));
}

nef_err nef_zone_config_preset(struct nef_zone_config *out)
{
    return nef_config_preset(&zone, out, sizeof(*out));
}

nef_err nef_witness_config_preset(struct nef_witness_config *out)
{
    return nef_config_preset(&witness, out, sizeof(*out));
}

static nef_err write_config(const char *path, const char *title,
                            const struct nef_config_schema *schema, const void *values)
{
    struct nef_buf text = {.max = NEF_CONFIG_FILE_MAX};
    nef_err err;

    nef_buf_text(&text, title);
    nef_config_print(schema, values, &text);
    err = nef_buf_end(&text);
    if (err == NEF_OK)
        err = nef_file_replace(path, 0600, text.data, text.bytes);
    nef_buf_free(&text);
    return err;
}

nef_err nef_zone_config_write(const char *path, const struct nef_zone_config *config)
{
    return write_config(path,
                        "# Configuration of `nef zone`. Unknown keys are errors; sizes are B, KiB, "
                        "MiB, GiB, TiB,\n# durations us, ms, s, m, h, d; relative paths start at "
                        "this file's directory.\n\n",
                        &zone, config);
}

nef_err nef_witness_config_write(const char *path, const struct nef_witness_config *config)
{
    return write_config(path, "# Configuration of `nef witness`. Unknown keys are errors.\n\n",
                        &witness, config);
}
