/* What the files of this directory share.
 *
 *   engine.c      start, the thread, drain, stop, figures
 *   generation.c  a request checked and copied; its end
 *   queue.c       who waits; admission and preemption
 *   step.c        one batch: who follows whom, rows, pages, the model
 *   choose.c      from a row of logits to a token, on the pool's threads
 *   deliver.c     what a batch brought, to its requests
 *   share.c, schedule.c, sampler.c, logprob.c, penalty.c   PURE: decisions and arithmetic
 *
 * One thread, the engine's, does everything but generate and cancel. `lock` guards what those touch. No callback is
 * made under it. */
#ifndef NEF_INFER_ENGINE_INTERNAL_H
#define NEF_INFER_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "base/assert.h"
#include "base/limits.h"
#include "infer/engine/engine.h"
#include "infer/engine/penalty.h"
#include "infer/engine/schedule.h"
#include "infer/engine/share.h"

/* Rows of a batch that have logits because log probabilities of a prompt are wanted: each takes 600 KB at Qwen's
 * vocabulary. One sequence at a time has such rows. */
#define NEF_PROMPT_LOGITS_MAX 32u
#define NEF_CHOICES_MAX       (NEF_BATCH_ROWS_MAX + NEF_PROMPT_LOGITS_MAX)

struct nef_generation {
    atomic_uint references;
    atomic_bool cancelled;
    atomic_bool ended;
    struct nef_engine *engine;    /* valid until `ended` */
    struct nef_generate request;  /* its arrays are copies in `lists`; `prompt` is NULL */
    void *lists;
    uint64_t number;              /* order of arrival */
    uint64_t arrived_ns;
    uint32_t first;               /* position of the first generated token: the prompt's length without `continued` */
    uint32_t limit;               /* tokens in all, at which it ends */
    /* Under the lock. */
    struct nef_tenant *tenant;
    struct nef_generation *next;  /* waiting, of the same tenant */
    bool contends;
    /* Whoever makes it, then the engine's thread; matcher and tally also the pool's thread that chooses for it. */
    uint32_t *tokens;             /* the prompt, then what was generated */
    uint32_t count, room;
    bool thought;                 /* think_end came within the budget */
    struct nef_matcher *matcher;  /* NULL: no grammar */
    struct nef_tally *tally;      /* NULL: no penalties */
    /* The engine's thread alone. */
    uint32_t computed;            /* tokens that are in the cache */
    uint32_t charged;             /* that were charged to the tenant: what is computed again costs it nothing */
    uint32_t cached;              /* as told to finished() */
    uint32_t told;                /* prompt tokens that prompt_token() had */
    bool admitted_before;
    double *pooled;               /* sums of an embedding; behind them room for as many floats */
    struct nef_kv_sequence *sequence; /* while it runs */
    struct nef_generation *leader; /* runs and computes what this one waits for, up to position `follows` */
    uint32_t follows;
    bool seeks;                   /* whether there is such a one is to be found out */
    uint32_t rows;                /* of the current batch */
    uint32_t waited;              /* batches since it had a row */
    uint32_t rank;                /* index of the tenant by whose counter it is served in this batch */
};

/* A row of logits and what became of it. */
struct nef_choice {
    struct nef_generation *g;
    uint32_t position; /* of the token in question */
    bool prompt;       /* the token is known */
    nef_err err;
    uint32_t token;
    bool over; /* the grammar's text has ended with it */
    float logprob;
    uint32_t top_count;
    struct nef_logprob top[NEF_ENGINE_LOGPROBS_MAX];
    uint64_t mask_ns; /* 0: there was no mask */
};

struct nef_engine {
    struct nef_model *model;
    const struct nef_model_config *config;
    uint32_t slots, context, vocab_used, waiting_max, tenant_waiting_max;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work; /* something arrived, was cancelled, or the end was asked for */
    pthread_cond_t idle; /* nothing waits or runs */
    /* Under the lock. */
    struct nef_shares shares;
    uint64_t arrivals;
    uint32_t waiting, accepted; /* accepted: and not ended */
    bool closed, stop;
    bool cancels; /* a generation may have been cancelled */
    struct nef_engine_stats stats;
    uint32_t running_count; /* written by the engine's thread alone, which reads it without the lock */
    /* The engine's thread alone. */
    struct nef_kv_cache *cache;
    struct nef_generation *running[NEF_ENGINE_SLOTS_MAX]; /* in order of arrival */
    uint64_t turn;
    uint32_t prompt_rows;                                 /* what schedule.h calls so */
    uint64_t decode_ns;                                   /* a batch without prompts, about */
    float *logits;
    size_t logits_bytes;
    struct nef_row rows[NEF_BATCH_ROWS_MAX];
    uint32_t row_count, prompt_row_count;
    struct nef_choice choices[NEF_CHOICES_MAX]; /* in the order of the rows of logits */
    uint32_t choice_count;
};

static inline uint64_t nef_engine_now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- generation.c ---- */
/* Its end: closes its sequence, tells it, drops the engine's reference. It is in no list any more; RUNS: it was
 * running, else waiting. */
void nef_generation_end(struct nef_engine *e, struct nef_generation *g, bool runs, enum nef_finish finish, nef_err err);
/* Token number g->count: into `tokens`. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_generation_append(struct nef_generation *g, uint32_t token);
/* All rows are wanted as they come out of the model, so no page of another one helps. */
static inline bool nef_generation_computes_all(const struct nef_generation *g)
{
    return (g->request.prompt_logprobs && g->told < g->first) ||
           (g->request.embedding != NULL && g->request.pooling == NEF_POOLING_MEAN);
}
/* The token that the thinking budget asks for next; NEF_NO_TOKEN: none. */
uint32_t nef_generation_forced(const struct nef_generation *g);

/* ---- queue.c ---- */
/* Under the lock: G waits, by priority and arrival. */
void nef_queue_put(struct nef_engine *e, struct nef_generation *g);
/* Ends what was cancelled; ALL: everything. */
void nef_queue_reap(struct nef_engine *e, bool all);
void nef_queue_admit(struct nef_engine *e);
/* Takes running[index] out of `running`; its followers have no leader any more. */
void nef_queue_drop(struct nef_engine *e, uint32_t index);
/* Pages ran out for G: puts another one back, or G itself. Returns the index that it had. */
uint32_t nef_queue_make_room(struct nef_engine *e, const struct nef_generation *g);

/* ---- step.c ---- */
void nef_engine_step(struct nef_engine *e);

/* ---- choose.c ---- */
size_t nef_choose_scratch(uint32_t vocab);
void nef_choose_part(void *engine, uint32_t part, void *scratch); /* choices[part], of logits row `part` */

/* ---- deliver.c ---- */
/* Batch_err: what the model said. */
void nef_engine_deliver(struct nef_engine *e, nef_err batch_err);

#endif
