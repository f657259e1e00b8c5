/* The engine; see engine.h.
 *
 *   generate() --> waiting --admit--> running --> finished
 *                     ^                  |
 *                     +---- put back ----+
 *
 * One thread does everything but generate and cancel: it looks for what was cancelled, admits, plans a batch
 * (schedule.c), runs the model, samples, calls back. Its steps take from 10 milliseconds to some 100, which is how long
 * a new or cancelled request waits.
 *
 * Memory. A request is admitted in order of arrival, when there are a slot and pages for all its tokens so far and one
 * more, beyond what those that run have been promised. As sequences grow pages can still run out: then the youngest is
 * put back to the head of the queue and computed again later. By docs/numerics.md that gives the same bits, so its
 * client sees only a pause, and most of its pages are usually found again. It can't end in a deadlock: the oldest is
 * never put back, the cache holds at least one sequence of full length (checked at start), and pages that nobody holds
 * can always be taken.
 *
 * Ownership: a generation has one reference of its caller's and one of the engine's, which ends with finished().
 * `running` is in order of arrival: those put back are the first to be admitted again. */
#include "infer/engine/engine.h"
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/engine/schedule.h"

struct nef_generation {
    atomic_uint references;
    atomic_bool cancelled;
    atomic_bool ended;
    struct nef_engine *engine; /* valid until `ended` */
    struct nef_generate request;
    struct nef_generation *next; /* waiting */
    /* The engine's thread alone. */
    uint32_t *tokens; /* the prompt, then what was generated */
    uint32_t count, room;
    uint32_t limit;    /* tokens in all, at which it ends */
    uint32_t computed; /* of them are in the cache */
    uint32_t cached;   /* as told to finished() */
    bool admitted_before;
    struct nef_kv_sequence *sequence; /* while it runs */
    uint32_t rows;                    /* of the current batch */
};

struct nef_engine {
    struct nef_model *model;
    const struct nef_model_config *config;
    uint32_t slots, context, waiting_max;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work; /* something arrived, was cancelled, or the end was asked for */
    pthread_cond_t idle; /* nothing waits or runs */
    /* Under the lock. */
    struct nef_generation *first, *last; /* waiting */
    uint32_t waiting, accepted;          /* accepted: and not ended */
    bool closed, stop;
    bool cancels; /* a generation may have been cancelled */
    struct nef_engine_stats stats;
    /* The engine's thread alone. */
    struct nef_kv_cache *cache;
    struct nef_generation *running[NEF_ENGINE_SLOTS_MAX];
    uint32_t running_count;
    uint64_t turn;
    float *logits;
    size_t logits_bytes;
    struct nef_row rows[NEF_BATCH_ROWS_MAX];
    struct nef_generation *sampled[NEF_BATCH_ROWS_MAX]; /* whose logits the batch has, in order */
    uint32_t sampled_count;
    uint32_t chosen[NEF_BATCH_ROWS_MAX];
    nef_err chosen_err[NEF_BATCH_ROWS_MAX];
};

/* ---- generations ---- */

void nef_generation_unref(struct nef_generation *g)
{
    if (g == NULL || atomic_fetch_sub(&g->references, 1) != 1)
        return;
    if (g->tokens != NULL)
        nef_wipe(g->tokens, (size_t)g->room * sizeof(g->tokens[0]));
    free(g->tokens);
    free(g);
}

void nef_generation_cancel(struct nef_generation *g)
{
    struct nef_engine *e = g->engine;

    atomic_store(&g->cancelled, true);
    if (atomic_load(&g->ended))
        return;
    (void)pthread_mutex_lock(&e->lock);
    e->cancels = true;
    (void)pthread_cond_signal(&e->work);
    (void)pthread_mutex_unlock(&e->lock);
}

static void end(struct nef_engine *e, struct nef_generation *g, enum nef_finish finish, nef_err err)
{
    nef_kv_sequence_close(g->sequence);
    g->sequence = NULL;
    if (g->request.finished != NULL)
        g->request.finished(g->request.context, finish, err, g->cached);
    (void)pthread_mutex_lock(&e->lock);
    e->accepted--;
    if (e->accepted == 0)
        (void)pthread_cond_broadcast(&e->idle);
    (void)pthread_mutex_unlock(&e->lock);
    atomic_store(&g->ended, true);
    nef_generation_unref(g);
}

static void drop_running(struct nef_engine *e, uint32_t index)
{
    e->running_count--;
    memmove(&e->running[index], &e->running[index + 1], (e->running_count - index) * sizeof(e->running[0]));
}

nef_err nef_engine_generate(struct nef_engine *e, const struct nef_generate *request,
                            struct nef_generation **out_generation)
{
    struct nef_generation *g;
    nef_err err = NEF_OK;

    if (request->prompt_count < 1 || request->prompt_count >= e->context)
        return NEF_E_RANGE;
    for (uint32_t i = 0; i < request->prompt_count; i++)
        if (request->prompt[i] >= e->config->vocab)
            return NEF_E_RANGE;
    if (request->continued != 0 || request->bias_count != 0 || request->grammar != NULL || request->thinking_max != 0 ||
        request->logprobs != 0 || request->prompt_logprobs || request->embedding != NULL || request->priority != 0 ||
        request->sampling.presence_penalty != 0 || request->sampling.frequency_penalty != 0 ||
        (request->sampling.repetition_penalty != 0 && request->sampling.repetition_penalty != 1))
        return NEF_E_UNSUPPORTED;
    g = calloc(1, sizeof(*g));
    if (g == NULL)
        return NEF_E_NOMEM;
    atomic_store(&g->references, 2);
    g->engine = e;
    g->request = *request;
    g->request.prompt = NULL; /* the caller's */
    g->count = request->prompt_count;
    g->limit = request->prompt_count + NEF_MIN(request->tokens_max, e->context - request->prompt_count);
    g->room = g->count;
    g->tokens = malloc((size_t)g->room * sizeof(g->tokens[0]));
    if (g->tokens == NULL) {
        free(g);
        return NEF_E_NOMEM;
    }
    memcpy(g->tokens, request->prompt, (size_t)g->count * sizeof(g->tokens[0]));
    (void)pthread_mutex_lock(&e->lock);
    if (e->closed)
        err = NEF_E_CLOSED;
    else if (e->accepted >= e->slots + e->waiting_max)
        err = NEF_E_BUSY;
    if (err == NEF_OK) {
        if (e->last == NULL)
            e->first = g;
        else
            e->last->next = g;
        e->last = g;
        e->waiting++;
        e->accepted++;
        e->stats.requests++;
        (void)pthread_cond_signal(&e->work);
        *out_generation = g;
    } else {
        e->stats.refused++;
    }
    (void)pthread_mutex_unlock(&e->lock);
    if (err != NEF_OK) {
        atomic_store(&g->references, 1);
        nef_generation_unref(g);
    }
    return err;
}

/* ---- the queue ---- */

static void put_back(struct nef_engine *e, uint32_t index)
{
    struct nef_generation *g = e->running[index];

    nef_kv_sequence_close(g->sequence); /* its full pages are found again, unless they are taken */
    g->sequence = NULL;
    g->computed = 0;
    drop_running(e, index);
    (void)pthread_mutex_lock(&e->lock);
    g->next = e->first;
    e->first = g;
    if (e->last == NULL)
        e->last = g;
    e->waiting++;
    e->stats.preempted++;
    (void)pthread_mutex_unlock(&e->lock);
}

/* Ends what was cancelled; all: everything. */
static void reap(struct nef_engine *e, bool all)
{
    struct nef_generation *gone = NULL, **at, *g;

    (void)pthread_mutex_lock(&e->lock);
    e->cancels = false;
    e->last = NULL;
    for (at = &e->first; (g = *at) != NULL;) {
        if (!all && !atomic_load(&g->cancelled)) {
            e->last = g;
            at = &g->next;
            continue;
        }
        *at = g->next;
        g->next = gone;
        gone = g;
        e->waiting--;
    }
    (void)pthread_mutex_unlock(&e->lock);
    while ((g = gone) != NULL) {
        gone = g->next;
        end(e, g, NEF_FINISH_CANCELLED, NEF_OK);
    }
    for (uint32_t i = e->running_count; i-- > 0;) {
        g = e->running[i];
        if (!all && !atomic_load(&g->cancelled))
            continue;
        drop_running(e, i);
        end(e, g, NEF_FINISH_CANCELLED, NEF_OK);
    }
}

static uint32_t pages_of(uint32_t positions)
{
    return positions / NEF_KV_TILE + (positions % NEF_KV_TILE != 0);
}

/* Pages that G was promised at admission and hasn't taken. */
static uint32_t promised(const struct nef_generation *g)
{
    uint32_t wanted = pages_of(NEF_MIN(g->count + 1, g->limit)), held = nef_kv_reserved(g->sequence) / NEF_KV_TILE;

    return wanted > held ? wanted - held : 0;
}

static struct nef_generation *head(struct nef_engine *e)
{
    struct nef_generation *g;

    (void)pthread_mutex_lock(&e->lock);
    g = e->first; /* only this thread takes from the queue */
    (void)pthread_mutex_unlock(&e->lock);
    return g;
}

static void take_head(struct nef_engine *e)
{
    (void)pthread_mutex_lock(&e->lock);
    e->first = e->first->next;
    if (e->first == NULL)
        e->last = NULL;
    e->waiting--;
    (void)pthread_mutex_unlock(&e->lock);
}

static void admit(struct nef_engine *e)
{
    struct nef_generation *g;

    while (e->running_count < e->slots && (g = head(e)) != NULL) {
        uint64_t wanted = 0;
        uint32_t cached;
        nef_err err = nef_kv_sequence_open(e->cache, g->request.salt, g->tokens, g->count, &cached, &g->sequence);

        if (err != NEF_OK) {
            take_head(e);
            end(e, g, NEF_FINISH_ERROR, err);
            continue;
        }
        for (uint32_t i = 0; i < e->running_count; i++)
            wanted += promised(e->running[i]);
        wanted += promised(g);
        if (e->running_count > 0 && wanted > nef_kv_pages_free(e->cache)) {
            nef_kv_sequence_close(g->sequence);
            g->sequence = NULL;
            return; /* and nobody overtakes it */
        }
        take_head(e);
        g->next = NULL;
        g->computed = cached;
        e->running[e->running_count++] = g;
        if (g->admitted_before)
            continue;
        g->admitted_before = true;
        g->cached = cached;
        (void)pthread_mutex_lock(&e->lock);
        e->stats.prompt_tokens += g->count;
        e->stats.cached_tokens += cached;
        (void)pthread_mutex_unlock(&e->lock);
    }
}

/* ---- a step ---- */

/* Pages for what was planned, oldest first. Whoever is put back for it is younger, and so not in the batch yet. */
static void reserve(struct nef_engine *e)
{
    for (uint32_t i = 0; i < e->running_count; i++) {
        struct nef_generation *g = e->running[i];
        nef_err err;

        while (g->rows > 0 && (err = nef_kv_reserve(g->sequence, g->computed + g->rows)) != NEF_OK) {
            if (err == NEF_E_BUSY) {
                NEF_ASSERT(e->running_count > 1); /* the cache holds one sequence of any length */
                put_back(e, e->running_count - 1);
                if (i == e->running_count)
                    return; /* it was this one */
                continue;
            }
            drop_running(e, i--);
            end(e, g, NEF_FINISH_ERROR, err);
            break;
        }
    }
}

static void plan(struct nef_engine *e)
{
    uint32_t left[NEF_ENGINE_SLOTS_MAX], rows[NEF_ENGINE_SLOTS_MAX];

    for (uint32_t i = 0; i < e->running_count; i++)
        left[i] = e->running[i]->count - e->running[i]->computed;
    nef_schedule(left, e->running_count, e->turn++, rows);
    for (uint32_t i = 0; i < e->running_count; i++)
        e->running[i]->rows = rows[i];
    reserve(e);
}

/* Returns the rows of the batch. */
static uint32_t fill(struct nef_engine *e)
{
    uint32_t count = 0;

    e->sampled_count = 0;
    for (uint32_t i = 0; i < e->running_count; i++) {
        struct nef_generation *g = e->running[i];

        for (uint32_t n = 0; n < g->rows; n++) {
            uint32_t position = g->computed + n;
            bool logits = position + 1 == g->count && g->count < g->limit;

            e->rows[count++] = (struct nef_row){g->sequence, g->tokens[position], position, logits};
            if (logits)
                e->sampled[e->sampled_count++] = g;
        }
    }
    return count;
}

static void sample_part(void *context, uint32_t part, void *scratch)
{
    struct nef_engine *e = context;
    const struct nef_generation *g = e->sampled[part];

    e->chosen_err[part] = nef_sample(&g->request.sampling, e->logits + (size_t)part * e->config->vocab,
                                     e->config->vocab, g->count, scratch, &e->chosen[part]);
}

static nef_err append(struct nef_generation *g, uint32_t token)
{
    if (g->count == g->room) {
        uint32_t room = NEF_MIN(g->limit, g->room + NEF_MAX(g->room / 2, 64u));
        uint32_t *grown = malloc((size_t)room * sizeof(grown[0]));

        if (grown == NULL)
            return NEF_E_NOMEM;
        memcpy(grown, g->tokens, (size_t)g->count * sizeof(grown[0]));
        /* as when it is freed; realloc would leave a copy */
        nef_wipe(g->tokens, (size_t)g->room * sizeof(g->tokens[0]));
        free(g->tokens);
        g->tokens = grown;
        g->room = room;
    }
    g->tokens[g->count++] = token;
    return NEF_OK;
}

/* A sampled token. Says how G ends with it, NEF_FINISH_NONE: it doesn't. */
static enum nef_finish take_token(struct nef_engine *e, struct nef_generation *g, uint32_t token, nef_err *out_err)
{
    uint32_t position = g->count;
    nef_err err;

    if (atomic_load(&g->cancelled))
        return NEF_FINISH_CANCELLED;
    if (g->request.ends != NULL && g->request.ends(g->request.context, token))
        return NEF_FINISH_STOP;
    err = append(g, token);
    if (err != NEF_OK) {
        *out_err = err;
        return NEF_FINISH_ERROR;
    }
    (void)pthread_mutex_lock(&e->lock);
    e->stats.generated_tokens++;
    (void)pthread_mutex_unlock(&e->lock);
    if (g->request.token != NULL &&
        !g->request.token(g->request.context, &(struct nef_token){token, position, NAN, NULL, 0}))
        return NEF_FINISH_STOP;
    return g->count == g->limit ? NEF_FINISH_LENGTH : NEF_FINISH_NONE;
}

/* After the model: note what was computed, hand out tokens, end what ends. */
static void deliver(struct nef_engine *e, nef_err batch_err)
{
    uint32_t at = 0, kept = 0, count = e->running_count;

    for (uint32_t i = 0; i < count; i++) {
        struct nef_generation *g = e->running[i];
        enum nef_finish finish = NEF_FINISH_NONE;
        nef_err err = NEF_OK;

        if (batch_err != NEF_OK && g->rows > 0) {
            finish = NEF_FINISH_ERROR;
            err = batch_err;
        } else {
            for (uint32_t n = 0; n < g->rows; n++, g->computed++)
                nef_kv_note(g->sequence, g->computed, g->tokens[g->computed]);
            if (at < e->sampled_count && e->sampled[at] == g) {
                err = e->chosen_err[at];
                finish = err == NEF_OK ? take_token(e, g, e->chosen[at], &err) : NEF_FINISH_ERROR;
                at++;
            } else if (g->computed == g->limit) {
                finish = NEF_FINISH_LENGTH; /* no token was wanted */
            }
        }
        if (finish == NEF_FINISH_NONE)
            e->running[kept++] = g;
        else
            end(e, g, finish, err);
    }
    e->running_count = kept;
}

static void step(struct nef_engine *e)
{
    uint32_t count;
    nef_err err;

    plan(e);
    count = fill(e);
    if (count == 0)
        return; /* memory ran out for all that was planned */
    err = nef_model_forward(e->model, e->rows, count, e->logits);
    if (err == NEF_OK)
        nef_pool_run(nef_model_pool(e->model), e->sampled_count, sample_part, e);
    deliver(e, err);
}

static void *run(void *arg)
{
    struct nef_engine *e = arg;

    if (nef_kernels_thread_enter(nef_model_kernels(e->model)) != NEF_OK)
        NEF_ASSERT(false); /* nef_engine_start has entered them in its thread */
    for (;;) {
        bool stop;

        (void)pthread_mutex_lock(&e->lock);
        e->stats.running = e->running_count;
        e->stats.kv_pages_free = nef_kv_pages_free(e->cache);
        while (!e->stop && !e->cancels && e->first == NULL && e->running_count == 0)
            (void)pthread_cond_wait(&e->work, &e->lock);
        stop = e->stop;
        (void)pthread_mutex_unlock(&e->lock);
        reap(e, stop);
        if (stop)
            return NULL;
        admit(e);
        if (e->running_count > 0)
            step(e);
    }
}

/* ---- start and end ---- */

static nef_err open_cache(struct nef_engine *e, const struct nef_engine_options *o)
{
    struct nef_kv_options kv = {.type = o->kv_type, .layers = e->config->layers, .kv_heads = e->config->kv_heads,
                                .head_dim = e->config->head_dim};
    uint64_t page = (uint64_t)nef_kv_page_bytes(kv.type, kv.head_dim) * 2 * kv.layers * kv.kv_heads;
    uint64_t one = pages_of(o->context), pages = one * o->slots, bytes = o->kv_bytes;

    if (bytes == 0) {
        long memory_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

        bytes = memory_pages > 0 && page_bytes > 0 ? (uint64_t)memory_pages * (uint64_t)page_bytes / 2 : UINT64_MAX;
        bytes = NEF_MAX(bytes, one * page);
    }
    pages = NEF_MIN(NEF_MIN(pages, bytes / page), (uint64_t)UINT32_MAX / NEF_KV_TILE);
    if (pages < one)
        return NEF_E_RANGE;
    kv.pages = (uint32_t)pages;
    e->stats.kv_pages = e->stats.kv_pages_free = kv.pages;
    return nef_kv_open(&kv, &e->cache);
}

static void release(struct nef_engine *e)
{
    nef_kv_close(e->cache);
    if (e->logits != NULL)
        (void)munmap(e->logits, e->logits_bytes);
    (void)pthread_cond_destroy(&e->idle);
    (void)pthread_cond_destroy(&e->work);
    (void)pthread_mutex_destroy(&e->lock);
    free(e);
}

static nef_err prepare(struct nef_engine *e, const struct nef_engine_options *o)
{
    void *logits;
    nef_err err;

    err = open_cache(e, o);
    if (err != NEF_OK)
        return err;
    e->logits_bytes = (size_t)NEF_MIN(o->slots, NEF_BATCH_ROWS_MAX) * e->config->vocab * sizeof(float);
    logits = mmap(NULL, e->logits_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (logits == MAP_FAILED)
        return NEF_E_NOMEM;
    e->logits = logits;
    err = nef_pool_scratch(nef_model_pool(o->model), nef_sampler_scratch(e->config->vocab));
    if (err != NEF_OK)
        return err;
    return nef_kernels_thread_enter(nef_model_kernels(o->model));
}

nef_err nef_engine_start(const struct nef_engine_options *o, struct nef_engine **out_engine)
{
    sigset_t all, before;
    struct nef_engine *e;
    nef_err err;
    int failed;

    if (o->slots < 1 || o->slots > NEF_ENGINE_SLOTS_MAX || o->context < 2 || o->context > NEF_MODEL_CONTEXT_MAX)
        return NEF_E_RANGE;
    e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NEF_E_NOMEM;
    e->model = o->model;
    e->config = nef_model_config(o->model);
    e->slots = e->stats.slots = o->slots;
    e->context = o->context;
    e->waiting_max = o->waiting_max;
    (void)pthread_mutex_init(&e->lock, NULL); /* these can't fail on Linux with default attributes */
    (void)pthread_cond_init(&e->work, NULL);
    (void)pthread_cond_init(&e->idle, NULL);
    err = prepare(e, o);
    if (err != NEF_OK) {
        release(e);
        return err;
    }
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&e->thread, NULL, run, e);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        release(e);
        return NEF_E_SYSTEM;
    }
    (void)pthread_setname_np(e->thread, "engine");
    *out_engine = e;
    return NEF_OK;
}

void nef_engine_drain(struct nef_engine *e)
{
    (void)pthread_mutex_lock(&e->lock);
    e->closed = true;
    while (e->accepted > 0)
        (void)pthread_cond_wait(&e->idle, &e->lock);
    (void)pthread_mutex_unlock(&e->lock);
}

void nef_engine_stop(struct nef_engine *e)
{
    if (e == NULL)
        return;
    (void)pthread_mutex_lock(&e->lock);
    e->closed = true;
    e->stop = true;
    (void)pthread_cond_signal(&e->work);
    (void)pthread_mutex_unlock(&e->lock);
    (void)pthread_join(e->thread, NULL);
    release(e);
}

void nef_engine_stats(struct nef_engine *e, struct nef_engine_stats *out_stats)
{
    (void)pthread_mutex_lock(&e->lock);
    *out_stats = e->stats;
    out_stats->waiting = e->waiting;
    (void)pthread_mutex_unlock(&e->lock);
}
