/* A bounded pool of threads; see workers.h. One lock guards the ring and the counts; it is never
 * held while a job runs. */
#include "io/workers.h"
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/assert.h"

struct job {
    void (*fn)(void *arg);
    void *arg;
};

struct nef_workers {
    pthread_mutex_t lock;
    pthread_cond_t work; /* a job was queued, or closed became true */
    pthread_cond_t idle; /* nothing is queued or running */
    uint32_t queue_max;
    uint32_t first, waiting; /* under lock, as all below but threads */
    uint32_t running;
    bool closed;
    uint32_t thread_count; /* started and not joined; only _new and _stop change it */
    pthread_t *threads;
    struct job *queue; /* ring of queue_max */
};

static void *run(void *arg)
{
    struct nef_workers *w = arg;

    (void)pthread_mutex_lock(&w->lock);
    for (;;) {
        struct job job;

        while (w->waiting == 0 && !w->closed)
            (void)pthread_cond_wait(&w->work, &w->lock);
        if (w->waiting == 0)
            break; /* closed and everything queued has been taken */
        job = w->queue[w->first];
        w->first = (w->first + 1) % w->queue_max;
        w->waiting--;
        w->running++;
        (void)pthread_mutex_unlock(&w->lock);
        job.fn(job.arg);
        (void)pthread_mutex_lock(&w->lock);
        w->running--;
        if (w->waiting == 0 && w->running == 0)
            (void)pthread_cond_broadcast(&w->idle);
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

nef_err nef_workers_new(const char *name, uint32_t thread_count, uint32_t queue_max,
                        struct nef_workers **out_workers)
{
    struct nef_workers *w;
    sigset_t all, before;
    char shown[16];
    nef_err err = NEF_OK;

    NEF_ASSERT(thread_count > 0);
    NEF_ASSERT(queue_max > 0);
    w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NEF_E_NOMEM;
    (void)pthread_mutex_init(&w->lock,
                             NULL); /* these can't fail on Linux with default attributes */
    (void)pthread_cond_init(&w->work, NULL);
    (void)pthread_cond_init(&w->idle, NULL);
    w->queue_max = queue_max;
    w->threads = calloc(thread_count, sizeof(w->threads[0]));
    w->queue = calloc(queue_max, sizeof(w->queue[0]));
    if (w->threads == NULL || w->queue == NULL) {
        nef_workers_free(w);
        return NEF_E_NOMEM;
    }
    (void)snprintf(shown, sizeof(shown), "%s", name);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* threads inherit it: signals are main's */
    while (w->thread_count < thread_count) {
        if (pthread_create(&w->threads[w->thread_count], NULL, run, w) != 0) {
            err = NEF_E_SYSTEM;
            break;
        }
        (void)pthread_setname_np(w->threads[w->thread_count++], shown); /* cosmetic */
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != NEF_OK) {
        nef_workers_free(w);
        return err;
    }
    *out_workers = w;
    return NEF_OK;
}

nef_err nef_workers_submit(struct nef_workers *w, void (*fn)(void *arg), void *arg)
{
    nef_err err = NEF_OK;

    NEF_ASSERT(fn != NULL);
    (void)pthread_mutex_lock(&w->lock);
    if (w->closed) {
        err = NEF_E_CLOSED;
    } else if (w->waiting == w->queue_max) {
        err = NEF_E_BUSY;
    } else {
        w->queue[(w->first + w->waiting) % w->queue_max] = (struct job){fn, arg};
        w->waiting++;
        (void)pthread_cond_signal(&w->work);
    }
    (void)pthread_mutex_unlock(&w->lock);
    return err;
}

void nef_workers_drain(struct nef_workers *w)
{
    (void)pthread_mutex_lock(&w->lock);
    while (w->waiting > 0 || w->running > 0)
        (void)pthread_cond_wait(&w->idle, &w->lock);
    (void)pthread_mutex_unlock(&w->lock);
}

void nef_workers_stop(struct nef_workers *w)
{
    (void)pthread_mutex_lock(&w->lock);
    w->closed = true;
    (void)pthread_cond_broadcast(&w->work);
    (void)pthread_mutex_unlock(&w->lock);
    while (w->thread_count > 0)
        NEF_ASSERT(pthread_join(w->threads[--w->thread_count], NULL) == 0);
}

uint32_t nef_workers_waiting(struct nef_workers *w)
{
    uint32_t waiting;

    (void)pthread_mutex_lock(&w->lock);
    waiting = w->waiting;
    (void)pthread_mutex_unlock(&w->lock);
    return waiting;
}

void nef_workers_free(struct nef_workers *w)
{
    if (w == NULL)
        return;
    nef_workers_stop(w);
    NEF_ASSERT(w->waiting == 0 || w->threads == NULL);
    (void)pthread_cond_destroy(&w->idle);
    (void)pthread_cond_destroy(&w->work);
    (void)pthread_mutex_destroy(&w->lock);
    free(w->queue);
    free(w->threads);
    free(w);
}
