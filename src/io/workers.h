/* A bounded pool of threads for work that blocks (listings, copies, completing uploads). The queue never
 * grows: a full one is back-pressure, which the caller passes on (503 SlowDown). */
#ifndef NEF_IO_WORKERS_H
#define NEF_IO_WORKERS_H

#include <stdint.h>
#include "base/err.h"

struct nef_workers;

/* name: of the threads, 15 characters at most are shown. Threads block all signals.
 * Errors: NEF_E_NOMEM, NEF_E_SYSTEM (no thread could be started). */
NEF_MUST_CHECK nef_err nef_workers_new(const char *name, uint32_t thread_count, uint32_t queue_max,
                                       struct nef_workers **out_workers);

/* Queue fn(arg). On NEF_OK it runs exactly once, in one of the threads; otherwise never.
 * NEF_E_BUSY: the queue is full. NEF_E_CLOSED: stopped. Any thread, the workers themselves included. */
NEF_MUST_CHECK nef_err nef_workers_submit(struct nef_workers *workers, void (*fn)(void *arg), void *arg);

/* Blocks until nothing is queued or running. Not from a worker. */
void nef_workers_drain(struct nef_workers *workers);

/* Refuses new work, runs what is queued, ends the threads. Idempotent. Not from a worker. */
void nef_workers_stop(struct nef_workers *workers);

uint32_t nef_workers_waiting(struct nef_workers *workers); /* queued, not yet running */

void nef_workers_free(struct nef_workers *workers); /* stops first; NULL is accepted */

#endif
