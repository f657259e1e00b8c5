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
#include "infer/api/grammars.h"
#include "infer/api/metrics.h"
#include "infer/api/request.h"
#include "infer/api/write.h"
#include "io/workers.h"
#include "http/http.h"

struct call;

struct nef_api {
    struct nef_api_options options;
    atomic_bool ready; /* what follows from the model is there, and changes no more */
    struct nef_api_model model;
    struct nef_http *http;
    struct nef_workers *workers;
    uint64_t started_s;
    char fingerprint[64];
    struct nef_grammars *grammars; /* NULL: this vocabulary allows none */
    /* What ends the thinking of a model whose budget is spent; think_end NEF_NO_TOKEN: it has no thinking that could be
     * ended. */
    uint32_t think_end;
    uint32_t *budget;
    uint32_t budget_count;
    struct nef_api_metrics metrics;
    atomic_ullong answer_bytes; /* of tokens that wait to be read */
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

/* One choice of an answer, or one embedding. */
struct run {
    struct call *call;
    struct nef_generation *generation;
    uint32_t prompt_tokens;
    bool first; /* of its prompt's choices: the prompt counts once */
    bool ended; /* its last chunk was written */
    /* a choice */
    struct nef_answer answer;
    struct nef_choice *choice;
    bool ignore_eos;
    struct nef_answer_state state;
    /* an embedding */
    uint32_t *tokens; /* until it was submitted */
    float *values;    /* made by the engine's thread */
    uint32_t value_count;
    nef_err err;
    enum nef_finish finish;
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
    uint64_t tenant;
    uint32_t weight, priority;
    uint64_t start_ns;
    struct nef_buf body;
    uint64_t body_counted;
    pthread_mutex_t lock;
    bool cancelled;
    void (*work)(struct call *c);
    /* the worker's result: an error, a document, or runs */
    bool refused;
    struct nef_api_error error;
    struct nef_buf document;
    struct nef_write write;
    struct nef_grammar *grammar; /* while runs are submitted */
    struct run *runs;
    uint32_t run_count;
    atomic_uint running;
    bool wanted; /* the engine has it */
    /* embeddings: a window of them is with the engine */
    uint32_t submitted, dimensions;
    bool base64;
    /* a stream */
    struct nef_buf pending;
    size_t pending_at;
    uint32_t next_run; /* whose turn it is */
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
/* FN runs in a worker, then the listener looks at the call again. False: too many wait. */
bool nef_api_call_work(struct call *c, void (*fn)(struct call *c));
extern const struct nef_http_handler nef_api_handler; /* without its context */

/* ---- tenant.c, in the listener's thread ---- */
bool nef_api_tenant(struct call *c, struct nef_api_error *out_error); /* false: out_error */
uint32_t nef_api_retry_after_s(struct nef_api *api);

/* ---- prompt.c, in a worker. False: c->error ---- */
bool nef_api_refuse_err(struct call *c, nef_err err);
/* Ids of prompt I, malloc'd; of a chat also c->write.thinking. */
bool nef_api_prompt_tokens(struct call *c, const struct nef_api_request *r, uint32_t i, uint32_t **out_tokens,
                           uint32_t *out_count);
bool nef_api_prompt_fits(struct call *c, const struct nef_api_request *r, uint32_t count);
/* Text of ids: whole characters; what isn't UTF-8 becomes U+FFFD. */
NEF_MUST_CHECK nef_err nef_api_text_of(const struct nef_tokenizer *t, const uint32_t *tokens, uint32_t count,
                                       struct nef_buf *out);
bool nef_api_tokenize(struct call *c, const struct nef_api_request *r);
bool nef_api_detokenize(struct call *c, const struct nef_api_request *r);

/* ---- generate.c, in a worker ---- */
void nef_api_work(struct call *c); /* fills the worker's result */
/* Hands G to the engine, for RUN, with the call's tenant; G's finished() must call nef_api_run_finished. */
NEF_MUST_CHECK nef_err nef_api_submit(struct call *c, struct run *run, const struct nef_generate *g);
void nef_api_run_finished(struct run *run); /* the engine's thread */
void nef_api_runs_free(struct call *c);

/* ---- embed.c ---- */
bool nef_api_embed(struct call *c, struct nef_api_request *r); /* in a worker */
/* In the listener's thread, when something has finished: hands over more of it. */
enum nef_http_next nef_api_embed_goes_on(struct call *c);

/* ---- stream.c, in the listener's thread ---- */
void nef_api_stream_start(struct call *c);
void nef_api_whole(struct call *c); /* all runs have finished: answers */
struct nef_usage nef_api_usage(const struct call *c);

/* ---- models.c, in the listener's thread ---- */
void nef_api_health(struct call *c);
void nef_api_models(struct call *c);
void nef_api_model(struct call *c);

#endif
