/* A request under way, for the files of this directory.
 *
 * Who touches a call: the listener's thread until `stage` is WORKING, then one worker until it is READY, then the
 * listener's thread again. The engine's thread touches only a run's answer and the counters. `lock` guards `cancelled`
 * and the runs' generations, which the ends of a connection and of the server meet. */
#ifndef NEF_INFER_API_INTERNAL_H
#define NEF_INFER_API_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "infer/api/answer.h"
#include "infer/api/api.h"
#include "infer/api/request.h"
#include "infer/api/write.h"
#include "io/workers.h"
#include "http/http.h"

struct call;

struct nef_api {
    struct nef_api_options options;
    struct nef_http *http;
    struct nef_workers *workers;
    uint64_t started_s;
    char fingerprint[64];
    atomic_bool draining;
    atomic_ullong body_bytes; /* held for all calls */
    atomic_uint calls;        /* objects that exist, which is longer than the request */
    /* calls whose connection is open */
    pthread_mutex_t list_lock;
    struct call *first;
    uint32_t active;
    /* wakes all of them a few times a second, so that they see that a client left */
    pthread_t ticker;
    pthread_cond_t ticker_wake;
    bool ticker_ends; /* under list_lock */
};

struct route {
    const char *method, *path;
    bool prefix;
    bool generates; /* has a body and may run the model */
    enum nef_api_kind kind;
    void (*answer)(struct call *c); /* in the listener's thread; NULL: a worker does it */
};

enum stage { STAGE_READING, STAGE_WORKING, STAGE_READY };

/* One prompt of a request, and its answer. */
struct run {
    struct call *call;
    struct nef_answer answer;
    struct nef_choice *choice;
    struct nef_generation *generation;
    uint32_t prompt_tokens;
    bool ignore_eos;
    bool ended; /* its last chunk was written */
    struct nef_answer_state state;
};

struct call {
    struct nef_api *api;
    struct nef_http_request *http;
    struct call *previous, *next; /* under the api's list_lock */
    const struct route *route;
    atomic_uint refs;
    atomic_int stage;
    char request_id[72];
    char path[256];
    uint8_t salt[32];
    uint64_t start_ns;
    struct nef_buf body;
    uint64_t body_counted;
    pthread_mutex_t lock;
    bool cancelled;
    /* the worker's result: an error, a document, or runs */
    bool refused;
    struct nef_api_error error;
    struct nef_buf document;
    struct nef_write write;
    struct run *runs;
    uint32_t run_count;
    atomic_uint running;
    bool wanted; /* the engine has it */
    /* a stream */
    struct nef_buf pending;
    size_t pending_at;
    bool stream_ends, stream_failed;
    unsigned status; /* of the answer */
};

/* ---- call.c ---- */
void nef_api_call_ref(struct call *c);
void nef_api_call_unref(struct call *c);
void nef_api_call_cancel(struct call *c); /* any thread: its generations end soon */
void nef_api_answer_error(struct call *c, const struct nef_api_error *e);
void nef_api_answer_json(struct call *c, unsigned status, struct nef_buf *document); /* takes the document */
#define NEF_API_RANDOM_HEX 25u
void nef_api_random_hex(char out[NEF_API_RANDOM_HEX]); /* 96 bits, for ids */
extern const struct nef_http_handler nef_api_handler; /* without its context */

/* ---- generate.c, in a worker ---- */
void nef_api_work(struct call *c); /* fills the worker's result */
void nef_api_runs_free(struct call *c);

/* ---- stream.c, in the listener's thread ---- */
void nef_api_stream_start(struct call *c);
void nef_api_whole(struct call *c); /* all runs have finished: answers */
struct nef_usage nef_api_usage(const struct call *c);

/* ---- models.c, in the listener's thread ---- */
void nef_api_health(struct call *c);
void nef_api_models(struct call *c);
void nef_api_model(struct call *c);

#endif
