/* Configuration of `nef zone` and `nef witness`: the typed structs, their loader and their writer.
 *
 * A struct that was loaded has passed every check that needs no other machine: types and ranges, relations
 * between values (a lease must outlast several heartbeats), and that files with secrets are private. Units
 * are in the names; durations are nanoseconds. Any thread. */
#ifndef NEF_SERVER_CONFIG_H
#define NEF_SERVER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/id.h"
#include "base/trace.h"
#include "io/config.h"

struct nef_server_tls {
    char *cert, *key; /* PEM files */
};

struct nef_listener_config {
    struct nef_host_port listen;
    bool has_tls; /* false: plain HTTP */
    struct nef_server_tls tls;
};

struct nef_admin_config {
    struct nef_host_port listen;
    bool has_tls;
    struct nef_server_tls tls;
    char *token_file; /* one line, mode 0600: what `Authorization: Bearer` must carry, but for health */
    char *metrics_token_file; /* NULL, or as that: what may carry it for /metrics only */
};

struct nef_mutual_tls {
    char *ca, *cert, *key; /* PEM files; the key mode 0600 */
};

struct nef_etcd_config {
    char **endpoints; /* "https://host:port", own member first */
    uint32_t endpoint_count;
    struct nef_mutual_tls tls; /* in the file directly under etcd: ca, cert, key */
    uint64_t timeout_ns;       /* per call and member */
    char *prefix;              /* of every key of this region: "/nef/eu-paris/" */
};

struct nef_peer_config {
    char *zone;
    struct nef_host_port address; /* its peer listener */
};

struct nef_trace_config {
    char *file;     /* NULL: standard error */
    uint32_t level; /* enum nef_trace_level */
};

/* A gateway's backend that isn't the zone's own: any OpenAI-compatible server. */
struct nef_ai_backend_config {
    char *name;
    char *url;         /* "http://host:port", without /v1 */
    char *unix_socket; /* NULL: by the URL's host and port */
    char *key_file;    /* NULL: no Authorization; else one line, mode 0600 */
    char *ca;          /* NULL: the system's roots */
    char *health;      /* path that answers 200 when it serves */
    char **models;     /* none: what its /v1/models lists */
    uint32_t model_count;
    uint32_t slots;    /* requests that it computes together */
    bool token_ids;    /* it takes return_token_ids, as vLLM */
};

struct nef_ai_peer_config {
    char *zone;
    struct nef_host_port address; /* its relay listener */
};

struct nef_ai_engine_config {
    char *model;      /* NULL: each of the region's models has an engine of its own, models_max at most */
    uint32_t models_max;
    char *model_file; /* NULL: the model is an object of the region; else this GGUF file is served */
    char *kv_type;    /* NULL: the engine's preset; so the numbers where they are 0 */
    uint32_t threads, slots, context_tokens;
    uint64_t hung_ns; /* silence of the engine's process after which it is killed and started again */
};

struct nef_ai_config {
    struct nef_listener_config listener; /* in the file directly under ai: listen, tls */
    struct nef_host_port relay;          /* for the other zones' gateways, mutual TLS */
    struct nef_ai_peer_config *peers;
    uint32_t peer_count;
    uint32_t connections; /* to the AI listener */
    uint32_t queue_factor;
    uint64_t responses_kept_ns; /* stored responses are deleted when they are so old */
    char *socket_dir; /* NULL: the data directory; of the engines' sockets */
    struct {
        uint64_t probe_ns;         /* between two probes of a backend */
        uint64_t probe_timeout_ns; /* it is taken for lost after this silence */
        uint64_t first_token_ns;   /* an external backend that hasn't begun after this is left */
        uint64_t stall_ns;         /* silence in the middle of an answer after which it goes on elsewhere, if it can */
        uint64_t hold_ns;          /* how long a request waits for any backend */
    } timing;
    bool has_engine;
    struct nef_ai_engine_config engine;
    struct nef_ai_backend_config *backends;
    uint32_t backend_count;
};

struct nef_zone_config {
    char *region;
    struct nef_id region_id;
    char *zone;
    char *data_dir;
    uint32_t cells;
    uint64_t segment_bytes; /* a power of two; fixed for a region's life, as cells is */
    bool preferred;         /* this zone's replica is primary when it can be */
    bool bootstrap;         /* may create the region's record in etcd when every log is empty */
    bool storage_only;      /* always false: the loader refuses true until it is built */
    struct {
        struct nef_listener_config s3;
        struct {
            struct nef_host_port listen;
        } peer; /* mutual TLS with `tls` below */
        struct nef_admin_config admin;
    } listeners;
    struct nef_mutual_tls tls; /* between zones */
    struct nef_peer_config *peers;
    uint32_t peer_count; /* 0: a region of one zone */
    struct {
        char *address; /* admin URL, "http://host:port" */
    } witness;         /* address NULL: none configured */
    struct nef_etcd_config etcd;
    struct {
        char *customer_key_file;
    } keys;
    char *root_credentials_file; /* see nef_root_credentials_load */
    struct {
        uint64_t heartbeat_ns;
        uint64_t lease_ns;
        uint64_t suspect_ns;
        uint64_t second_wait_ns;
        uint64_t peer_stall_ns;
        uint64_t failback_after_ns;
        uint64_t request_hold_ns;
        uint64_t etcd_poll_ns;
        uint64_t etcd_retry_ns;
        uint64_t resend_ns;
    } timing;
    struct {
        uint32_t connections;         /* S3 listener */
        uint32_t http_threads;        /* 0: one a processor */
        uint32_t worker_threads;      /* for requests that block */
        uint64_t upload_memory_bytes; /* outstanding proposals of this process */
        uint64_t index_cache_bytes;   /* RocksDB block cache, all cells */
        uint64_t index_write_buffer_bytes;
    } limits;
    struct {
        uint64_t erase_within_ns;
        double live_fraction; /* a segment with less alive is rewritten */
    } compaction;
    struct {
        uint64_t rate_bytes; /* per second; 0: off */
        uint64_t interval_ns; /* from the start of one pass to that of the next, at least */
    } scrub;
    struct {
        uint64_t tails_bytes; /* of what failovers made void; what an accepted loss gave up isn't bounded */
    } lost;
    struct {
        uint64_t tolerance_ns; /* wall clocks that differ by more disagree (io/clock.h) */
    } clock;
    bool has_ai; /* false: this zone serves no models */
    struct nef_ai_config ai;
    struct nef_trace_config log;
};

struct nef_witness_zone {
    char *zone;
    char *address; /* admin URL: asked for its wall time and health */
};

struct nef_witness_config {
    char *region;
    struct nef_id region_id;
    char *name; /* of the witness, and of its etcd member */
    struct nef_admin_config admin;
    struct nef_etcd_config etcd;
    struct nef_witness_zone *zones; /* may be empty */
    uint32_t zone_count;
    uint64_t check_interval_ns; /* between looks at etcd's leadership */
    struct nef_trace_config log;
};

/* out: zeroed first; release with the _free below. error->text names file, line and key.
 * NEF_E_CONFIG; NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_zone_config_load(const char *path, struct nef_zone_config *out,
                                            struct nef_config_error *error);
NEF_MUST_CHECK nef_err nef_witness_config_load(const char *path, struct nef_witness_config *out,
                                               struct nef_config_error *error);
void nef_zone_config_free(struct nef_zone_config *config); /* loaded or preset ones only */
void nef_witness_config_free(struct nef_witness_config *config);

/* Presets of everything that has one; the rest zero. For `nef init` and `nef up`, which then point the
 * other fields to memory of theirs and write the file; such a struct must not be given to _free if those
 * pointers aren't from malloc (presets are). */
NEF_MUST_CHECK nef_err nef_zone_config_preset(struct nef_zone_config *out);
NEF_MUST_CHECK nef_err nef_witness_config_preset(struct nef_witness_config *out);
/* Of the zone's `ai` and its engine, which aren't there by themselves. */
NEF_MUST_CHECK nef_err nef_ai_config_preset(struct nef_ai_config *out);

/* Commented YAML, mode 0600, replacing PATH atomically and durably. What it writes loads to the same. */
NEF_MUST_CHECK nef_err nef_zone_config_write(const char *path, const struct nef_zone_config *config);
NEF_MUST_CHECK nef_err nef_witness_config_write(const char *path,
                                                const struct nef_witness_config *config);

/* The region's first user: {"access_key": "...", "secret_key": "..."}, mode 0600. Wipe after use.
 * NEF_E_CONFIG: missing, readable for others, or not that. */
struct nef_root_credentials {
    char access_key[64];
    char secret_key[128];
};
NEF_MUST_CHECK nef_err nef_root_credentials_load(const char *path, struct nef_root_credentials *out,
                                                 struct nef_config_error *error);
/* Random ones into a new file (NEF_E_EXISTS if there is one). */
NEF_MUST_CHECK nef_err nef_root_credentials_make(const char *path);

/* A token file: one line of 16 to 255 printable characters, mode 0600. */
#define NEF_TOKEN_BYTES 256u
NEF_MUST_CHECK nef_err nef_token_load(const char *path, char out[NEF_TOKEN_BYTES],
                                      struct nef_config_error *error);
NEF_MUST_CHECK nef_err nef_token_make(const char *path);
/* Is AUTHORIZATION, a header's value or NULL, "Bearer TOKEN"? How long it takes tells nothing of TOKEN but its length. TOKEN "": never. */
bool nef_token_matches(const char *authorization, const char *token);

#endif
