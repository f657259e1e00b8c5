/* See responses.h: start and stop, the thread that moves answers on and sends for the sweeps (responses_sweep.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "gateway/responses_internal.h"
#include "io/clock.h"

#define MS           1000000ull
#define WORKERS      4u
#define QUEUE_MAX    1024u
#define TICK_MS      10u   /* while there are answers */
#define IDLE_MS      100u  /* else */
#define PAUSE_US     1000u /* between two rounds at most this often, however many chunks come */
#define SWEEP_NS     (2000 * MS)
#define SEEN_NS      (10000 * MS)  /* what is followed and has no marker any more is forgotten */
#define WAKE_NS      (500 * MS)    /* calls look whether their client is still there */
#define EXPIRE_NS    (600000 * MS) /* at most; and a twentieth of what they are kept */
#define STOP_POLL_US 2000u

bool responses_job(struct nef_responses *rs, void (*fn)(void *arg), void *arg)
{
    (void)atomic_fetch_add(&rs->jobs, 1);
    if (nef_workers_submit(rs->workers, fn, arg) == NEF_OK)
        return true;
    (void)atomic_fetch_sub(&rs->jobs, 1);
    return false;
}

void responses_job_done(struct nef_responses *rs)
{
    (void)atomic_fetch_sub(&rs->jobs, 1);
}

void live_kick(struct nef_responses *rs)
{
    (void)pthread_mutex_lock(&rs->lock);
    if (!rs->hurry) {
        rs->hurry = true;
        (void)pthread_cond_signal(&rs->cond);
    }
    (void)pthread_mutex_unlock(&rs->lock);
}

/* ---- the thread ---- */

/* What nobody needs any more leaves the table. Under rs->lock; refs of 2 are the table's and this thread's. */
static bool is_over(struct live *l, uint64_t now)
{
    bool over;

    (void)pthread_mutex_lock(&l->lock);
    over = l->role == LIVE_BROKEN;
    if (!over && atomic_load(&l->refs) == 2 && l->flying == NULL && !l->busy)
        over = l->stored ? (l->ended && (l->put_away || (l->role == LIVE_FOLLOW && now - l->seen_ns >= SEEN_NS))) ||
                               (l->role == LIVE_FOLLOW && now - l->seen_ns >= SEEN_NS)
                         : l->ended;
    (void)pthread_mutex_unlock(&l->lock);
    return over;
}

static struct live *gather(struct nef_responses *rs)
{
    struct live *all = NULL;

    for (uint32_t i = 0; i < RESPONSES_BUCKETS; i++)
        for (struct live *l = rs->lives[i]; l != NULL; l = l->next) {
            live_ref(l);
            l->batch = all;
            all = l;
        }
    return all;
}

static void release(struct nef_responses *rs, struct live *all, uint64_t now)
{
    struct live *gone = NULL;

    (void)pthread_mutex_lock(&rs->lock);
    for (uint32_t i = 0; i < RESPONSES_BUCKETS; i++)
        for (struct live **at = &rs->lives[i]; *at != NULL;) {
            struct live *l = *at;

            if (!is_over(l, now)) {
                at = &l->next;
                continue;
            }
            *at = l->next;
            l->listed = false;
            rs->live_count--;
            l->next = gone;
            gone = l;
        }
    (void)pthread_mutex_unlock(&rs->lock);
    while (all != NULL) {
        struct live *next = all->batch;

        live_unref(all);
        all = next;
    }
    while (gone != NULL) {
        struct live *next = gone->next;

        live_unref(gone);
        gone = next;
    }
}

static void wake_calls(struct nef_responses *rs)
{
    (void)pthread_mutex_lock(&rs->lock);
    for (struct nef_responses_call *c = rs->calls; c != NULL; c = c->next)
        nef_http_wake(c->http);
    (void)pthread_mutex_unlock(&rs->lock);
}

static void wait_a_while(struct nef_responses *rs) /* under the lock */
{
    struct timespec until;
    uint64_t at;

    if (rs->hurry)
        return;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    at = (uint64_t)until.tv_nsec + (rs->live_count > 0 ? TICK_MS : IDLE_MS) * MS;
    until.tv_sec += (time_t)(at / (1000 * MS));
    until.tv_nsec = (long)(at % (1000 * MS));
    (void)pthread_cond_timedwait(&rs->cond, &rs->lock, &until);
}

static void sweep_job(void *arg)
{
    responses_watch(arg);
    responses_job_done(arg);
}

static void expire_job(void *arg)
{
    responses_expire(arg);
    responses_job_done(arg);
}

static void *run(void *context)
{
    struct nef_responses *rs = context;
    uint64_t swept = 0, woken = 0, expired = nef_now_ns();
    const uint64_t pause = NEF_MIN(EXPIRE_NS, rs->options.kept_s * 1000 * MS / 20);

    (void)pthread_mutex_lock(&rs->lock);
    while (!rs->stopping) {
        struct live *all;
        uint64_t now;

        wait_a_while(rs);
        rs->hurry = false;
        all = gather(rs);
        (void)pthread_mutex_unlock(&rs->lock);
        now = nef_now_ns();
        for (struct live *l = all; l != NULL; l = l->batch)
            live_step(l, now);
        release(rs, all, now);
        if (now - woken >= WAKE_NS) {
            wake_calls(rs);
            woken = now;
        }
        if (now - swept >= SWEEP_NS && !atomic_load(&rs->quiesced) && responses_job(rs, sweep_job, rs))
            swept = now;
        if (now - expired >= pause && !atomic_load(&rs->quiesced) && responses_job(rs, expire_job, rs))
            expired = now;
        (void)usleep(PAUSE_US);
        (void)pthread_mutex_lock(&rs->lock);
    }
    (void)pthread_mutex_unlock(&rs->lock);
    return NULL;
}

/* ---- start and stop ---- */

static void free_all(struct nef_responses *rs)
{
    nef_workers_free(rs->workers);
    (void)pthread_cond_destroy(&rs->cond);
    (void)pthread_mutex_destroy(&rs->lock);
    (void)pthread_mutex_destroy(&rs->keep.lock);
    free(rs);
}

nef_err nef_responses_start(const struct nef_responses_options *options, struct nef_responses **out_responses)
{
    struct nef_responses *rs = calloc(1, sizeof(*rs));
    pthread_condattr_t attr;
    nef_err err;

    if (rs == NULL)
        return NEF_E_NOMEM;
    rs->options = *options;
    rs->keep.rt = options->rt;
    rs->keep.keys = options->keys;
    rs->keep.cells = options->cells;
    (void)snprintf(rs->writer, sizeof(rs->writer), "%s/%016llx", options->zone,
                   (unsigned long long)nef_runtime_proposer(options->rt));
    (void)pthread_mutex_init(&rs->keep.lock, NULL);
    (void)pthread_mutex_init(&rs->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&rs->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    err = nef_workers_new("nef-responses", WORKERS, QUEUE_MAX, &rs->workers);
    if (err == NEF_OK && pthread_create(&rs->thread, NULL, run, rs) != 0)
        err = NEF_E_SYSTEM;
    if (err != NEF_OK) {
        free_all(rs);
        return err;
    }
    *out_responses = rs;
    return NEF_OK;
}

void nef_responses_quiesce(struct nef_responses *responses)
{
    atomic_store(&responses->quiesced, true);
    wake_calls(responses);
}

void nef_responses_stop(struct nef_responses *responses)
{
    if (responses == NULL)
        return;
    atomic_store(&responses->quiesced, true);
    /* The runtime still has what flies, and tells of each. */
    while (atomic_load(&responses->jobs) > 0 || atomic_load(&responses->flights) > 0)
        (void)usleep(STOP_POLL_US);
    (void)pthread_mutex_lock(&responses->lock);
    responses->stopping = true;
    (void)pthread_cond_signal(&responses->cond);
    (void)pthread_mutex_unlock(&responses->lock);
    (void)pthread_join(responses->thread, NULL);
    nef_workers_stop(responses->workers);
    while (atomic_load(&responses->flights) > 0)
        (void)usleep(STOP_POLL_US);
    NEF_ASSERT(responses->calls == NULL);
    for (uint32_t i = 0; i < RESPONSES_BUCKETS; i++)
        while (responses->lives[i] != NULL) {
            struct live *l = responses->lives[i];

            responses->lives[i] = l->next;
            l->listed = false;
            live_unref(l);
        }
    free_all(responses);
}
