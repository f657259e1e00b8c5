/* A region on one machine: the directory that `nef up` makes and every other command reads.
 *
 *   DIR/region.json            what clients and tests need; kept current by the supervisor
 *   DIR/config/                parameters.json, zone-a.yaml, zone-b.yaml, witness.yaml, haproxy.cfg
 *   DIR/pki/                   the region's CA and the certificates of its processes
 *   DIR/keys/customer.key      the customer's key, until a key manager holds it
 *   DIR/secrets/               root.json (first user), admin.token
 *   DIR/zone-a/ DIR/etcd-a/... data
 *   DIR/models/                what is kept of models whose addition was interrupted (model_resume.c)
 *   DIR/logs/NAME.log          what each process says; .1 is the part before
 *   DIR/supervisor.*           socket, lock, log, and supervisor.json: what ran, to be adopted
 *
 * parameters.json is written last when a region is made: without it DIR holds no region, and making
 * it is simply repeated (every file made once is kept). Files that exist are never overwritten, so
 * an operator may edit the configuration. */
#ifndef NEF_CLI_REGION_H
#define NEF_CLI_REGION_H

#include <stdbool.h>
#include <stdint.h>
#include "cli/plan.h"
#include "server/config.h"

#define NEF_PORT_BASE_PRESET 9000u
#define NEF_PORT_SPAN        41u /* offsets 0 to 40 belong to a region (design section 11) */
#define NEF_CELLS_PRESET     4u

struct nef_region {
    char dir[NEF_PATH_MAX / 2]; /* absolute */
    uint32_t port_base;
    struct nef_plan plan;
    struct nef_root_credentials root;
    char admin_token[NEF_TOKEN_BYTES];
};

struct nef_region_error {
    char text[2048]; /* for a person; cut if it is longer */
};
/* Fill error, return err. */
nef_err nef_region_fail(struct nef_region_error *error, nef_err err, const char *format, ...)
    NEF_PRINTF(3, 4);

struct nef_region_wish {
    const char *region; /* NULL: as it is, or eu-paris */
    uint32_t port_base; /* 0: as it is, or 9000 */
    uint32_t cells;     /* 0: as it is, or 4 */
    /* NULL: the engines serve what the region has. Count when the zones' files are made. */
    const char *model, *model_file;
};

/* Read the region that DIR holds. NEF_E_NOT_FOUND: none there. NEF_E_CONFIG: what is there can't be
 * used. error->text says so for a person, and what to do. */
NEF_MUST_CHECK nef_err nef_region_open(const char *dir, struct nef_region *out,
                                       struct nef_region_error *error);
/* The same, making it if there is none, and whatever file of it is missing but data. A WISH that
 * differs from what is there is refused: neither ports nor cells can change. */
NEF_MUST_CHECK nef_err nef_region_make(const char *dir, const struct nef_region_wish *wish,
                                       struct nef_region *out, bool *out_made,
                                       struct nef_region_error *error);

/* Everything that follows from dir, port_base and the places' names: ports and paths. */
void nef_region_fill(struct nef_region *r);

/* DIR/NAME into out (NEF_PATH_MAX); asserts that it fits, as dir is bounded. */
void nef_region_path(const struct nef_region *r, char out[NEF_PATH_MAX], const char *format, ...)
    NEF_PRINTF(3, 4);

/* ---- processes ---- */

enum nef_process_kind {
    NEF_PROCESS_ETCD,
    NEF_PROCESS_ZONE,
    NEF_PROCESS_WITNESS,
    NEF_PROCESS_FRONT
};
#define NEF_PROCESS_COUNT 7u /* in this order: etcd of each place, zones, witness, front */

struct nef_process {
    char name[NEF_ZONE_NAME_MAX + 8]; /* "zone-a" */
    enum nef_process_kind kind;
    uint32_t place; /* NEF_PLAN_PLACES for the front */
};

struct nef_process nef_process_at(const struct nef_region *r, uint32_t index);

/* Ports that process INDEX listens on, with what each is for. */
#define NEF_PROCESS_PORTS_MAX 5u
struct nef_process_port {
    uint16_t port;
    const char *use;
};
uint32_t nef_process_ports(const struct nef_region *r, uint32_t index,
                           struct nef_process_port out[NEF_PROCESS_PORTS_MAX]);

/* Its command line. nef, etcd, haproxy: absolute programs. start, joined: see nef_plan_etcd_args. */
struct nef_programs {
    char nef[NEF_PATH_MAX], etcd[NEF_PATH_MAX], haproxy[NEF_PATH_MAX];
};
NEF_MUST_CHECK nef_err nef_process_args(const struct nef_region *r, uint32_t index,
                                        const struct nef_programs *programs,
                                        enum nef_etcd_start start, unsigned joined,
                                        struct nef_etcd_args *out);
/* `nef etcd-alone` for PLACE's member; since: of this loss, for the name that its former data get. */
NEF_MUST_CHECK nef_err nef_process_alone_args(const struct nef_region *r, uint32_t place,
                                              const struct nef_programs *programs, int64_t since,
                                              struct nef_etcd_args *out);
/* Unset every variable whose name begins with PREFIX. One thread only. */
void nef_environment_forget(const char *prefix);
/* On PATH or in /usr/sbin, /usr/local/sbin, /usr/bin, /usr/local/bin. */
bool nef_program_find(const char *name, char out[NEF_PATH_MAX]);
/* This program, etcd and haproxy; etcdctl must be there, too. */
NEF_MUST_CHECK nef_err nef_programs_find(struct nef_programs *out, struct nef_region_error *error);

#endif
