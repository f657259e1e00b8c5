/* What a region consists of, and the configuration that follows from it. `nef up` fills a plan with
 * loopback ports and directories of one machine, `nef init` with three hosts and the paths of a
 * package; both get their zone and witness YAML, etcd options and HAProxy configuration from the
 * functions here, so what is tested on one machine is what production runs.
 *
 * The plan is data: no file is read here, and only nef_plan_write_* touches the disk. Any thread. */
#ifndef NEF_CLI_PLAN_H
#define NEF_CLI_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"

#define NEF_PLAN_ZONES      2u
#define NEF_PLAN_PLACES     3u /* the zones, then the witness */
#define NEF_PLAN_WITNESS    2u
#define NEF_PATH_MAX        1024u
#define NEF_HOST_MAX        254u
#define NEF_REGION_NAME_MAX 63u

struct nef_place {
    char name[NEF_ZONE_NAME_MAX + 1]; /* also of its etcd member */
    char host[NEF_HOST_MAX];          /* by which the others reach it */
    char bind[NEF_HOST_MAX];          /* what its listeners bind */
    uint16_t s3, peer, ai, relay;     /* zones only */
    uint16_t admin, etcd_client, etcd_peer;
    char data[NEF_PATH_MAX]; /* zones only */
    char etcd_data[NEF_PATH_MAX];
    char cert[NEF_PATH_MAX], key[NEF_PATH_MAX];           /* of the nef process */
    char etcd_cert[NEF_PATH_MAX], etcd_key[NEF_PATH_MAX]; /* of the etcd member */
    char ca[NEF_PATH_MAX]; /* as its processes see it; so all that follow */
    char token_file[NEF_PATH_MAX];
    char metrics_token_file[NEF_PATH_MAX];
    char root_file[NEF_PATH_MAX];         /* zones only */
    char customer_key_file[NEF_PATH_MAX]; /* zones only */
};

struct nef_plan {
    char region[NEF_REGION_NAME_MAX + 1];
    struct nef_id region_id;
    char cluster_token[33]; /* of the etcd cluster */
    uint32_t cells;
    char model[NEF_MODEL_NAME_MAX + 1]; /* ""; else the only model of the built-in engines */
    char model_file[NEF_PATH_MAX];      /* "": an object of the region */
    bool tls; /* S3, AI and admin listeners speak TLS (between zones and to etcd it is always on) */
    struct nef_place places[NEF_PLAN_PLACES];
    struct {
        char bind[NEF_HOST_MAX];
        uint16_t port, ai_port;
        char pem[NEF_PATH_MAX]; /* "": plain HTTP; else key and certificates in one file, as HAProxy
                                   wants */
    } front;
};

/* An etcd member's command line. argv[0] is the program; NULL at the end; text owns the strings. */
#define NEF_ETCD_ARGS_MAX 40u
struct nef_etcd_args {
    char *argv[NEF_ETCD_ARGS_MAX];
    uint32_t count;
    char text[16384];
};

enum nef_etcd_start {
    NEF_ETCD_START_NORMAL,
    NEF_ETCD_START_JOIN,  /* as a member that was added to a running cluster */
};

/* JOINED: with NEF_ETCD_START_JOIN, a bit for each place whose member belongs to the cluster
 * (itself included): etcd demands that --initial-cluster names exactly those. Otherwise ignored. */
NEF_MUST_CHECK nef_err nef_plan_etcd_args(const struct nef_plan *plan, uint32_t place,
                                          const char *program, enum nef_etcd_start start,
                                          unsigned joined, struct nef_etcd_args *out);
/* The same options as a file for systemd's EnvironmentFile (/etc/default/etcd). */
NEF_MUST_CHECK nef_err nef_plan_etcd_env(const struct nef_plan *plan, uint32_t place,
                                         struct nef_buf *out);
/* haproxy.cfg; NEAR: the zone whose host it runs on (named first), or NEF_PLAN_ZONES for neither.
 * ca: as HAProxy sees it; only used with plan->tls. */
NEF_MUST_CHECK nef_err nef_plan_haproxy(const struct nef_plan *plan, uint32_t near, const char *ca,
                                        struct nef_buf *out);

/* "https://host:port", IPv6 in brackets. out: NEF_URL_MAX. */
#define NEF_URL_MAX (NEF_HOST_MAX + 20u)
void nef_plan_url(char out[NEF_URL_MAX], bool tls, const char *host, uint16_t port);

/* Commented YAML to PATH, atomically. */
NEF_MUST_CHECK nef_err nef_plan_write_zone(const struct nef_plan *plan, uint32_t zone,
                                           const char *path);
NEF_MUST_CHECK nef_err nef_plan_write_witness(const struct nef_plan *plan, const char *path);

/* snprintf into a fixed field; NEF_E_LIMIT when it doesn't fit. */
NEF_MUST_CHECK nef_err nef_text(char *out, size_t bytes, const char *format, ...) NEF_PRINTF(3, 4);

#endif
