/* A request of the AI listener, for call.c and call_work.c. */
#ifndef NEF_GATEWAY_CALL_INTERNAL_H
#define NEF_GATEWAY_CALL_INTERNAL_H

#include "gateway/gateway_internal.h"
#include "gateway/whole.h"

enum stage {
    STAGE_READING,
    STAGE_WORKING,
    STAGE_LIMITS,
    STAGE_REFUSED,
    STAGE_DOCUMENT,
    STAGE_RUNNING,
    STAGE_RESPONSES
};

enum route_kind { ROUTE_HEALTH, ROUTE_MODELS, ROUTE_MODEL, ROUTE_RUN, ROUTE_RESPONSES };

struct call_route {
    const char *method, *path;
    bool prefix;
    enum route_kind kind;
    enum nef_ai_kind ai;
};

struct call {
    struct nef_gateway *g;
    struct nef_http_request *http;
    struct call *previous, *next; /* under calls_lock */
    const struct call_route *route;
    atomic_uint refs;
    atomic_int stage;
    char request_id[72];
    char path[256];
    char *authorization;
    uint64_t start_ns;
    struct nef_buf body;
    uint64_t body_counted;
    /* the worker's */
    struct nef_ai_user user;
    json_t *request; /* the body; of an embedding, its answer in the end */
    bool stream, include_usage;
    struct nef_buf document;
    struct nef_limits_hold hold;
    struct nef_limits_now now;
    uint64_t tokens; /* that were taken */
    struct nef_ai_run *run;
    struct nef_responses_call *responses;
    /* under lock from the run's start on */
    pthread_mutex_t lock;
    bool closed, ended, given, paused;
    struct nef_whole *whole;
    nef_err whole_err;
    struct nef_buf pending;
    size_t pending_at;
    unsigned end_status;
    json_t *error;
    uint32_t retry_after;
    struct nef_ai_usage usage;
    uint32_t continuations;
    uint64_t first_ns;
    unsigned status; /* of the answer; listener's thread */
};

/* ---- call.c ---- */
void ai_call_ref(struct call *c);
void ai_call_unref(struct call *c);

/* ---- call_work.c ---- */
void ai_call_work(struct call *c); /* in a worker; sets the stage */
/* Listener's thread, STAGE_LIMITS: the budget again. */
enum nef_http_next ai_call_take(struct call *c);

#endif
