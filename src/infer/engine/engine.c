/* The engine: its start, its thread, its end; see engine.h and, for the parts, engine_internal.h.
 *
 * The thread looks for what was cancelled, admits, runs a batch, and begins again. A batch takes from 10 milliseconds
 * to about 150 (schedule.h), which is how long a new or cancelled request waits. */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "infer/engine/engine_internal.h"

static void *run(void *arg)
{
    struct nef_engine *e = arg;

    if (nef_kernels_thread_enter(nef_model_kernels(e->model)) != NEF_OK)
        NEF_ASSERT(false); /* nef_engine_start has entered them in its thread */
    for (;;) {
        bool stop;

        (void)pthread_mutex_lock(&e->lock);
        e->stats.kv_pages_free = nef_kv_pages_free(e->cache);
        while (!e->stop && !e->cancels && e->waiting == 0 && e->running_count == 0)
            (void)pthread_cond_wait(&e->work, &e->lock);
        stop = e->stop;
        (void)pthread_mutex_unlock(&e->lock);
        nef_queue_reap(e, stop);
        if (stop)
            return NULL;
        nef_queue_admit(e);
        if (e->running_count > 0)
            nef_engine_step(e);
    }
}

/* ---- start and end ---- */

static nef_err open_cache(struct nef_engine *e, const struct nef_engine_options *o)
{
    struct nef_kv_options kv = {.type = o->kv_type, .layers = e->config->layers, .kv_heads = e->config->kv_heads,
                                .head_dim = e->config->head_dim};
    uint64_t page = (uint64_t)nef_kv_page_bytes(kv.type, kv.head_dim) * 2 * kv.layers * kv.kv_heads;
    uint64_t one = (o->context - 1) / NEF_KV_TILE + 1, pages = one * o->slots, bytes = o->kv_bytes;

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
    e->stats.kv_page_bytes = page;
    return nef_kv_open(&kv, &e->cache);
}

static void release(struct nef_engine *e)
{
    nef_kv_close(e->cache);
    nef_shares_done(&e->shares);
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
    e->logits_bytes = ((size_t)NEF_MIN(o->slots, NEF_BATCH_ROWS_MAX) + NEF_PROMPT_LOGITS_MAX) * e->config->vocab *
                      sizeof(float); /* touched as far as batches reach */
    logits = mmap(NULL, e->logits_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (logits == MAP_FAILED)
        return NEF_E_NOMEM;
    e->logits = logits;
    err = nef_pool_scratch(nef_model_pool(o->model), nef_choose_scratch(e->config->vocab));
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
    if (o->vocab_used > nef_model_config(o->model)->vocab)
        return NEF_E_RANGE;
    e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NEF_E_NOMEM;
    e->model = o->model;
    e->config = nef_model_config(o->model);
    e->slots = e->stats.slots = o->slots;
    e->context = o->context;
    e->waiting_max = o->waiting_max;
    e->tenant_waiting_max = o->tenant_waiting_max;
    e->vocab_used = o->vocab_used != 0 ? o->vocab_used : e->config->vocab;
    e->prompt_rows = NEF_PROMPT_ROWS_FIRST;
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
    out_stats->running = e->running_count;
    out_stats->tenants = 0;
    for (uint32_t i = 0; i < e->shares.count; i++)
        out_stats->tenants += e->shares.tenants[i]->waiting + e->shares.tenants[i]->running > 0;
    (void)pthread_mutex_unlock(&e->lock);
}
