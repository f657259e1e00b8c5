/* What run.c (runs) and leg.c (their legs) share; for nobody else.
 *
 * A run has a leg for each choice: `n` of them for each prompt. A leg is one splice over one backend's stream at a
 * time:
 *
 *   WAITING -- a backend is found --> ACTIVE -- its stream ends --> DONE
 *      ^                                 |
 *      +------------- lost --------------+      everything but finished answers and refusals of the request itself */
#ifndef NEF_GATEWAY_RUN_INTERNAL_H
#define NEF_GATEWAY_RUN_INTERNAL_H

#include "gateway/gateway_internal.h"
#include "gateway/sse.h"

enum leg_state { LEG_WAITING, LEG_ACTIVE, LEG_DONE };

struct leg {
    struct nef_ai_run *run;
    uint32_t index;
    enum leg_state state;
    struct nef_splice *splice; /* NULL: an embedding */
    struct backend *backend;   /* ACTIVE */
    struct nef_loop_call *call;
    struct nef_sse sse;
    struct nef_buf answer; /* of an embedding, or of an error */
    unsigned status;
    bool streams, done_seen, garbage;
    /* times, nef_now_ns */
    uint64_t started_ns;   /* this try */
    uint64_t progress_ns;  /* the last event of this try; 0: none */
    uint64_t gap_ns;       /* usual time between two events of this leg */
    uint64_t given_ns;     /* when the client last got something */
    uint64_t lost_ns;      /* since when it has no backend; 0: it has one */
    uint64_t not_before_ns;
    struct backend *failed; /* where it was lost last; only compared */
    uint32_t tries, barren; /* barren: lost one after the other without a new token */
    uint32_t stalls;        /* lost for its silence */
    uint64_t tokens;        /* given when it was lost last */
    /* what the last backend said when it failed */
    unsigned last_status;
    json_t *last_error;
};

struct nef_ai_run {
    struct nef_gateway *g;
    struct nef_ai_run *previous, *next; /* the gateway's list; loop */
    atomic_uint refs;
    struct nef_post post;
    atomic_bool started, cancel_wanted, pause_wanted;
    struct nef_ai_run_options o; /* body and given: own references */
    char id[48];
    const char *model; /* in o.body */
    uint64_t created_s, start_ns, first_ns;
    struct leg *legs;
    uint32_t leg_count, legs_done, choices; /* choices: of each prompt */
    bool listed, ended, paused, admitted;
    uint32_t continuations;
};

/* ---- leg.c ---- */
void leg_start(struct leg *leg, uint64_t now); /* WAITING: finds a backend, or waits, or fails the run */
void leg_tick(struct leg *leg, uint64_t now);
void leg_move(struct leg *leg, uint64_t now);  /* ACTIVE: its backend is out; elsewhere if there is any */
void leg_stop(struct leg *leg);                /* ends what is under way */
void leg_free(struct leg *leg);

/* ---- run.c ---- */
void run_chunk(struct nef_ai_run *run, struct leg *leg, json_t *chunk); /* takes chunk */
void run_leg_done(struct nef_ai_run *run);
/* Takes error (NULL: out of memory for it). */
void run_fail(struct nef_ai_run *run, unsigned status, json_t *error, uint32_t retry_after);

#endif
