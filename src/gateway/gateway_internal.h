/* What the files of the gateway share; for nobody else.
 *
 * Threads: backends, peers, runs and relayed calls belong to the loop's thread. Others read the backends' list under
 * `backends_lock`, which the loop takes to change it. */
#ifndef NEF_GATEWAY_GATEWAY_INTERNAL_H
#define NEF_GATEWAY_GATEWAY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "gateway/engine.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/loop.h"
#include "gateway/metrics.h"
#include "gateway/models.h"
#include "gateway/responses.h"
#include "gateway/route.h"
#include "gateway/run.h"
#include "gateway/splice.h"
#include "http/http.h"
#include "io/workers.h"

#define NEF_BACKEND_NAME_MAX   180u
#define NEF_ENGINE_SLOTS_PRESET 64u/* of nef infer */

/* ---- backends ---- */

enum backend_kind { BACKEND_ENGINE, BACKEND_EXTERNAL, BACKEND_REMOTE };

struct backend {
    struct nef_gateway *g;
    struct backend *next;
    char name[NEF_BACKEND_NAME_MAX];
    enum backend_kind kind;
    char *url;         /* "http://..." without a path */
    char *unix_socket; /* NULL: none */
    char *bearer;      /* locked memory of NEF_TOKEN_BYTES; NULL: none */
    const char *ca, *health; /* the configuration's */
    struct peer *peer; /* REMOTE; as name and kind set before the list has it */
    struct nef_engine_child *child; /* ENGINE; under backends_lock */
    char **models;
    uint32_t model_count;
    bool models_fixed; /* not asked for */
    struct nef_splice_backend speaks;
    /* written by the loop, read by any thread that goes through the list */
    atomic_uint slots;
    atomic_uint in_flight; /* from this gateway, relayed ones included */
    atomic_bool healthy, gone;
    uint32_t there;     /* REMOTE: in flight as that gateway says */
    bool seen; /* REMOTE: named by its gateway's last word */
    /* probing */
    struct nef_loop_call *probe;
    bool probing_models;
    struct nef_buf answer;
    unsigned status;
    uint64_t probe_ns, models_ns; /* last begin; 0: never */
    /* ENGINE: the process that was last seen, whether it was ready, and when it last said anything */
    pid_t heard_pid;
    bool was_ready;
    uint64_t heard_ns;
    uint64_t progress_ns; /* some stream of it gave something */
    /* counters */
    atomic_ullong requests, losses;
    /* ENGINE */
    char model[NEF_MODEL_NAME_MAX + 1];
    char etag[NEF_ETAG_MAX + 1]; /* which content of a stored model it has, with stored_ms; both under backends_lock */
    uint64_t stored_ms;
    uint32_t socket_number;
    atomic_bool retired;
    bool retiring; /* a worker stops its child */
    struct nef_post retire;
};

struct peer {
    struct nef_gateway *g;
    const char *zone;
    char url[300];
    struct nef_loop_call *probe;
    struct nef_buf answer;
    unsigned status;
    uint64_t probe_ns, answered_ns;
    bool healthy;
};

/* ---- relayed calls (relay.c), runs (run.c) ---- */

struct relayed;
struct leg;

struct nef_gateway_secret { /* locked memory */
    struct nef_root_credentials root;
    uint8_t salt_key[32];
};

struct nef_gateway {
    struct nef_gateway_options o;
    const struct nef_ai_config *ai;
    const char *zone;
    struct nef_gateway_secret *secret;
    struct nef_loop *loop;
    bool loop_runs;
    struct nef_workers *workers;
    struct nef_http *http, *relay;
    struct nef_models *models;
    struct nef_limits *limits;
    struct nef_responses *responses;
    struct nef_gateway_metrics *metrics;
    int socket_dir; /* descriptor */
    atomic_bool draining, stopping;
    pthread_mutex_t backends_lock;
    struct backend *backends;
    uint32_t backend_count, sockets_made;
    struct peer peers[NEF_REPLICA_MAX];
    uint32_t peer_count;
    struct nef_post models_changed;
    struct nef_ai_run *runs;
    atomic_uint run_count;
    struct relayed *relayed;
    atomic_uint relayed_count;
    /* calls of the listener (call.c) */
    pthread_mutex_t calls_lock;
    struct call *calls;
    uint32_t call_count;
    atomic_uint call_objects;
    uint64_t calls_woken_ns;
    atomic_ullong body_bytes;
};

/* ---- backend.c: loop thread unless stated ---- */
NEF_MUST_CHECK nef_err backends_start(struct nef_gateway *g); /* before the loop runs */
void backends_tick(struct nef_gateway *g, uint64_t now);
void backends_stop(struct nef_gateway *g); /* after the loop has ended */
/* peer: REMOTE, whose; else NULL. NULL: out of memory. */
struct backend *backend_add(struct nef_gateway *g, enum backend_kind kind, struct peer *peer, const char *name);
NEF_MUST_CHECK nef_err backend_set_models(struct backend *b, const char *const *models, uint32_t count);
void backend_remove(struct backend *b); /* gone: no new request; freed when nothing runs there */
bool backend_has(const struct backend *b, const char *model);
const char *backend_zone(const struct backend *b);
void backend_suspect(struct backend *b, uint64_t now); /* a connection to it failed: out until a probe says otherwise */
/* A call to PATH of it. */
NEF_MUST_CHECK nef_err backend_call(struct backend *b, const char *path, const struct nef_loop_call_options *options,
                                    struct nef_loop_call **out_call);
/* Any thread. Is MODEL served by any backend, whatever its health. */
bool backends_know(struct nef_gateway *g, const char *model);
/* Any thread. Appends names of models that no stored one has, each as OpenAI's object behind a comma where *COUNT > 0.
 */
void backends_models_json(struct nef_gateway *g, const struct nef_ai_user *user, uint32_t *count, struct nef_buf *out);

/* ---- engines.c ---- */
NEF_MUST_CHECK nef_err engines_open(struct nef_gateway *g); /* the directory of their sockets */
void engines_reconcile(struct nef_gateway *g); /* loop thread: at the start, and when the list of models changed */
pid_t engine_pid(struct backend *b);           /* any thread; 0: none */
void engine_kill(struct backend *b, pid_t pid);
void engines_stop(struct nef_gateway *g, uint32_t grace_ms); /* `stopping` is set */
void engines_close(struct nef_gateway *g);

/* ---- run.c: loop thread ---- */
void runs_tick(struct nef_gateway *g, uint64_t now);
void runs_backend_lost(struct backend *b); /* its streams go on elsewhere where they can */
void runs_cancel_all(struct nef_gateway *g);

/* ---- relay.c ---- */
NEF_MUST_CHECK nef_err relay_start(struct nef_gateway *g);
void relay_tick(struct nef_gateway *g, uint64_t now); /* loop thread */
void relay_stop(struct nef_gateway *g);
void relay_cancel_all(struct nef_gateway *g); /* loop thread */

/* ---- auth.c ---- */
/* Blocking, for workers. The user of an `Authorization` value. NEF_E_DENIED: unknown, disabled, wrong secret, or no AI
 * rights; NEF_E_UNAVAILABLE. */
NEF_MUST_CHECK nef_err auth_user(struct nef_gateway *g, const char *authorization, struct nef_ai_user *out_user);
/* By access key alone, for answers that are taken over. Blocking. */
nef_err auth_owner(void *gateway, const char *access_key, struct nef_ai_user *out_user);
void auth_caller(void *gateway, const struct nef_ai_user *user, struct nef_ai_caller *out_caller);

/* ---- call.c ---- */
extern const struct nef_http_handler gateway_handler; /* without its context */
void calls_tick(struct nef_gateway *g, uint64_t now); /* loop thread */
uint32_t calls_active(struct nef_gateway *g);

#endif
