/* Threads that work on one job at a time, cut into parts; the caller works too. For kernels, which are short: waiting
 * threads spin briefly, then sleep on a futex, because a spinning thread costs a busy machine its other core. */
#ifndef NEF_INFER_POOL_H
#define NEF_INFER_POOL_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/kernels/kernels.h"

struct nef_pool;
/* THREADS in all, the caller's included (1 .. 256); 0: one per core that this process may use. Each has SCRATCH bytes
 * (64-byte aligned; may be 0) and has entered KERNELS. The creating thread and every caller of nef_pool_run must have
 * entered itself. Errors: NEF_E_NOMEM, NEF_E_SYSTEM, NEF_E_UNSUPPORTED. */
NEF_MUST_CHECK nef_err nef_pool_start(uint32_t threads, size_t scratch, const struct nef_kernels *kernels,
                                      struct nef_pool **out_pool);
void nef_pool_stop(struct nef_pool *pool);
uint32_t nef_pool_threads(const struct nef_pool *pool);
/* From now on each thread has at least BYTES of scratch; what was in it is lost. Between runs, by the thread that runs:
 * only a loaded model knows how much it needs. Errors: NEF_E_NOMEM (as before). */
NEF_MUST_CHECK nef_err nef_pool_scratch(struct nef_pool *pool, size_t bytes);
/* Call WORK for parts 0 .. parts-1, each once, by any thread, and return when all are done (with the effects of all
 * visible). One caller at a time. scratch is the calling thread's own. */
void nef_pool_run(struct nef_pool *pool, uint32_t parts, void (*work)(void *context, uint32_t part, void *scratch),
                  void *context);

#endif
