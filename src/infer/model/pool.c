/* Threads for short jobs; see pool.h.
 *
 * A decode step has some 150 jobs of 20 to 200 microseconds, so giving one out and seeing its end must cost about one:
 *
 *   state   (job number, parts left) in one 64-bit word. A thread takes a part by lowering it with compare-and-swap.
 *   Because the
 *           job's number is in the word, a thread that comes late can't take a part of a job whose fields it hasn't
 *           read: the swap fails. So nobody waits for late threads, and the caller goes on when all parts are done.
 *   done    parts finished in this job; the caller waits for it.
 *   wake    the job's number again, for the futex: a waiting thread spins for SPIN_NS first (most jobs follow each
 *   other
 *           sooner than that), then sleeps. Whoever is preempted between its parts only delays those.
 *
 * The job's fields are written between jobs only, and read between loading `state` and swapping it; what was read is
 * used only if the swap succeeded, which proves that the job was still the same. They are atomics because a late thread
 * may read them while they are written (and throws the values away).
 *
 * Not here: priorities, nested jobs, pinning to cores (the system's balancing does better on machines that do other
 * things too). */
#include "infer/model/pool.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"

#define THREADS_MAX 256u
/* About the longest serial piece between two jobs of a decode step; a thread that spins longer takes time from
 * others. */
#define SPIN_NS 40000

struct slot { /* of one thread */
    _Alignas(64) void *scratch;
    pthread_t thread;
    struct nef_pool *pool;
    bool started;
};

struct nef_pool {
    _Alignas(64) _Atomic uint64_t state;
    _Alignas(64) _Atomic uint32_t done;
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t wake;
    _Atomic uint32_t sleepers;
    _Atomic uint32_t entered; /* threads that have entered the kernels, or failed to */
    _Atomic uint32_t failed;
    _Atomic bool stop;
    /* The job. */
    _Alignas(64) _Atomic uint32_t parts;
    _Atomic(void (*)(void *, uint32_t, void *)) work;
    _Atomic(void *) context;

    uint32_t threads;
    size_t scratch_bytes;
    const struct nef_kernels *kernels;
    struct slot *slots; /* threads; 0 is the caller */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t while_equal)
{
    /* EINTR and EAGAIN lead back to the caller's loop, as a wake-up does. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_equal, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t count)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Spin until *WORD differs from VALUE, SPIN_NS at most. True: it differs. */
static bool spin_while_equal(_Atomic uint32_t *word, uint32_t value)
{
    uint64_t until = 0;

    for (;;) {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value)
                return true;
            relax();
        }
        if (until == 0)
            until = now_ns() + SPIN_NS;
        else if (now_ns() >= until)
            return false;
    }
}

/* Take parts of job NUMBER until none is left; returns with this thread's parts counted. */
static void take_parts(struct nef_pool *pool, uint32_t number, const struct slot *slot)
{
    uint64_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
    uint32_t did = 0, parts = 0;

    for (;;) {
        uint32_t left = (uint32_t)state;
        void (*work)(void *, uint32_t, void *);
        void *context;

        if ((uint32_t)(state >> 32) != number || left == 0)
            break;
        parts = atomic_load_explicit(&pool->parts, memory_order_relaxed);
        work = atomic_load_explicit(&pool->work, memory_order_relaxed);
        context = atomic_load_explicit(&pool->context, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&pool->state, &state, state - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        work(context, parts - left, slot->scratch);
        did++;
        state = atomic_load_explicit(&pool->state, memory_order_acquire);
    }
    if (did == 0)
        return;
    /* Pairs with the caller's loads of `done`. seq_cst because it must not pass the load of caller_sleeps. */
    if (atomic_fetch_add(&pool->done, did) + did == parts && atomic_load(&pool->caller_sleeps) != 0)
        futex_wake(&pool->done, 1);
}

static void *thread_main(void *arg)
{
    struct slot *slot = arg;
    struct nef_pool *pool = slot->pool;
    uint32_t seen = 0;

    if (nef_kernels_thread_enter(pool->kernels) != NEF_OK)
        atomic_fetch_add(&pool->failed, 1);
    atomic_fetch_add(&pool->entered, 1);
    futex_wake(&pool->entered, 1);
    for (;;) {
        if (!spin_while_equal(&pool->wake, seen)) {
            atomic_fetch_add(&pool->sleepers, 1);
            while (atomic_load(&pool->wake) == seen)
                futex_wait(&pool->wake, seen);
            atomic_fetch_sub(&pool->sleepers, 1);
        }
        if (atomic_load(&pool->stop))
            return NULL;
        seen = atomic_load(&pool->wake);
        take_parts(pool, seen, slot);
    }
}

/* Make `wake` differ, and get sleepers out of the futex. */
static void publish(struct nef_pool *pool, uint32_t number, uint32_t threads)
{
    atomic_store(&pool->wake, number); /* seq_cst, with the sleepers' add: one of both sees the other */
    if (atomic_load(&pool->sleepers) != 0)
        futex_wake(&pool->wake, threads);
}

void nef_pool_run(struct nef_pool *pool, uint32_t parts, void (*work)(void *context, uint32_t part, void *scratch),
                  void *context)
{
    uint32_t number, done;

    if (parts == 1 || pool->threads == 1) {
        for (uint32_t part = 0; part < parts; part++)
            work(context, part, pool->slots[0].scratch);
        return;
    }
    if (parts == 0)
        return;
    number = (uint32_t)(atomic_load_explicit(&pool->state, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->parts, parts, memory_order_relaxed);
    atomic_store_explicit(&pool->work, work, memory_order_relaxed);
    atomic_store_explicit(&pool->context, context, memory_order_relaxed);
    atomic_store(&pool->state, (uint64_t)number << 32 | parts); /* releases the above */
    publish(pool, number, parts - 1);
    take_parts(pool, number, &pool->slots[0]);
    for (;;) {
        done = atomic_load(&pool->done);
        if (done == parts)
            return;
        if (spin_while_equal(&pool->done, done))
            continue;
        atomic_store(&pool->caller_sleeps, 1);
        done = atomic_load(&pool->done);
        if (done != parts)
            futex_wait(&pool->done, done);
        atomic_store(&pool->caller_sleeps, 0);
    }
}

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    int cores;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        cores = CPU_COUNT(&set);
    else
        cores = (int)sysconf(_SC_NPROCESSORS_ONLN); /* more cores than a cpu_set_t holds */
    return cores < 1 ? 1 : NEF_MIN((uint32_t)cores, THREADS_MAX);
}

nef_err nef_pool_scratch(struct nef_pool *pool, size_t bytes)
{
    void *fresh[THREADS_MAX];

    bytes = (bytes + 63) / 64 * 64;
    if (bytes <= pool->scratch_bytes)
        return NEF_OK;
    for (uint32_t i = 0; i < pool->threads; i++) {
        fresh[i] = aligned_alloc(64, bytes);
        if (fresh[i] == NULL) {
            while (i-- > 0)
                free(fresh[i]);
            return NEF_E_NOMEM;
        }
    }
    for (uint32_t i = 0; i < pool->threads; i++) {
        free(pool->slots[i].scratch);
        pool->slots[i].scratch = fresh[i]; /* threads read it after the next job's `wake` */
    }
    pool->scratch_bytes = bytes;
    return NEF_OK;
}

nef_err nef_pool_start(uint32_t threads, size_t scratch, const struct nef_kernels *kernels, struct nef_pool **out_pool)
{
    struct nef_pool *pool;
    sigset_t all, before;
    uint32_t started = 0;
    nef_err err;

    if (threads == 0)
        threads = usable_cores();
    NEF_ASSERT(threads <= THREADS_MAX);
    pool = aligned_alloc(64, sizeof(*pool));
    if (pool == NULL)
        return NEF_E_NOMEM;
    *pool = (struct nef_pool){.threads = threads, .kernels = kernels};
    pool->slots = aligned_alloc(64, threads * sizeof(pool->slots[0]));
    if (pool->slots == NULL) {
        free(pool);
        return NEF_E_NOMEM;
    }
    for (uint32_t i = 0; i < threads; i++)
        pool->slots[i] = (struct slot){.pool = pool};
    err = nef_pool_scratch(pool, scratch);
    if (err != NEF_OK)
        goto fail;
    (void)sigfillset(&all); /* signals are for the process's own threads */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 1; i < threads && err == NEF_OK; i++) {
        char name[16];

        if (pthread_create(&pool->slots[i].thread, NULL, thread_main, &pool->slots[i]) != 0) {
            err = NEF_E_SYSTEM;
            break;
        }
        pool->slots[i].started = true;
        started++;
        (void)snprintf(name, sizeof(name), "compute-%u", (unsigned)i);
        (void)pthread_setname_np(pool->slots[i].thread, name);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (;;) {
        uint32_t entered = atomic_load(&pool->entered);

        if (entered == started)
            break;
        futex_wait(&pool->entered, entered);
    }
    if (err == NEF_OK && atomic_load(&pool->failed) != 0)
        err = NEF_E_UNSUPPORTED;
    if (err != NEF_OK)
        goto fail;
    *out_pool = pool;
    return NEF_OK;
fail:
    nef_pool_stop(pool);
    return err;
}

void nef_pool_stop(struct nef_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    publish(pool, atomic_load(&pool->wake) + 1, pool->threads);
    for (uint32_t i = 0; i < pool->threads; i++) {
        if (pool->slots[i].started)
            (void)pthread_join(pool->slots[i].thread, NULL);
        free(pool->slots[i].scratch);
    }
    free(pool->slots);
    free(pool);
}

uint32_t nef_pool_threads(const struct nef_pool *pool)
{
    return pool->threads;
}
