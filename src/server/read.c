/* When a read may look (R4, R5), and who waits for it.
 *
 * Two conditions: a lease (or being alone in sync), published by the core thread in serve_until, and the
 * cell's gate: no op that might already be acknowledged to somebody and touches the key is still unapplied
 * here. The bound is the log end noted on the first call; that is never too low (R5 asks for the durable
 * end on a backup and the commit offset on a primary, both below it).
 * After the look-up nef_runtime_read_done asks for the lease again: an answer taken from the index after
 * the lease had run out might be old. */
#include <stdlib.h>
#include "base/assert.h"
#include "server/runtime_internal.h"

static bool serving(struct nef_runtime *rt, uint64_t now)
{
    return now < atomic_load_explicit(&rt->serve_until, memory_order_acquire);
}

static struct reader *reader_new(uint64_t until, uint64_t give_up_ns, void (*wake)(void *),
                                 void *context)
{
    struct reader *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return NULL;
    r->until = until;
    r->give_up_ns = give_up_ns;
    r->wake = wake;
    r->context = context;
    return r;
}

static void wake_list(struct reader *list)
{
    while (list != NULL) {
        struct reader *next = list->next;

        list->wake(list->context);
        free(list);
        list = next;
    }
}

/* The lease, and the bounds on the first call of this configuration. */
static nef_err admit(struct nef_runtime *rt, uint64_t first_ns, struct nef_read *read,
                     void (*wake)(void *context), void *context)
{
    uint64_t now = now_ns();
    uint64_t give_up = first_ns + rt->config->timing.request_hold_ns;
    uint64_t epoch;
    struct reader *r;

    if (!serving(rt, now)) {
        if (now >= give_up || atomic_load(&rt->closed))
            return NEF_E_UNAVAILABLE;
        r = reader_new(0, give_up, wake, context);
        if (r == NULL)
            return NEF_E_NOMEM;
        pthread_mutex_lock(&rt->serve_lock);
        if (serving(rt, now_ns()) || atomic_load(&rt->closed)) { /* came between: published before this lock */
            pthread_mutex_unlock(&rt->serve_lock);
            free(r);
        } else {
            r->next = rt->serve_readers;
            rt->serve_readers = r;
            pthread_mutex_unlock(&rt->serve_lock);
            return NEF_E_AGAIN;
        }
    }
    epoch = atomic_load_explicit(&rt->serve_epoch, memory_order_acquire);
    if (read->epoch != epoch) {
        for (uint32_t i = 0; i < rt->cell_count; i++) {
            pthread_mutex_lock(&rt->cells[i].lock);
            read->bounds[i] = rt->cells[i].end;
            pthread_mutex_unlock(&rt->cells[i].lock);
        }
        read->epoch = epoch;
    }
    return NEF_OK;
}

static nef_err pass_gate(struct cell *cell, const uint8_t *tag, uint64_t first_ns,
                         const struct nef_read *read, void (*wake)(void *context), void *context)
{
    uint64_t give_up = first_ns + cell->rt->config->timing.request_hold_ns;
    uint64_t until;
    struct reader *r;

    pthread_mutex_lock(&cell->lock);
    until = nef_gate_wait(cell->gate, tag, read->bounds[cell->number]);
    if (until == 0) {
        pthread_mutex_unlock(&cell->lock);
        return NEF_OK;
    }
    if (now_ns() >= give_up || atomic_load(&cell->rt->closed)) {
        pthread_mutex_unlock(&cell->lock);
        return NEF_E_UNAVAILABLE;
    }
    r = reader_new(until, give_up, wake, context);
    if (r != NULL) {
        r->next = cell->readers;
        cell->readers = r;
    }
    pthread_mutex_unlock(&cell->lock);
    return r == NULL ? NEF_E_NOMEM : NEF_E_AGAIN;
}

nef_err nef_runtime_read(struct nef_runtime *rt, uint32_t cell, const uint8_t tag[16],
                         uint64_t first_ns, struct nef_read *read, void (*wake)(void *context),
                         void *context)
{
    nef_err err = admit(rt, first_ns, read, wake, context);

    NEF_ASSERT(cell < rt->cell_count);
    if (err != NEF_OK)
        return err;
    return pass_gate(&rt->cells[cell], tag, first_ns, read, wake, context);
}

nef_err nef_runtime_read_all(struct nef_runtime *rt, uint64_t first_ns, struct nef_read *read,
                             void (*wake)(void *context), void *context)
{
    nef_err err = admit(rt, first_ns, read, wake, context);

    for (uint32_t i = 0; i < rt->cell_count && err == NEF_OK; i++)
        err = pass_gate(&rt->cells[i], NULL, first_ns, read, wake, context);
    return err;
}

nef_err nef_runtime_read_done(struct nef_runtime *rt, const struct nef_read *read)
{
    if (atomic_load_explicit(&rt->serve_epoch, memory_order_acquire) != read->epoch)
        return NEF_E_AGAIN;
    return serving(rt, now_ns()) ? NEF_OK : NEF_E_AGAIN;
}

struct blocked {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool woken;
};

static void unblock(void *context)
{
    struct blocked *b = context;

    pthread_mutex_lock(&b->lock);
    b->woken = true;
    pthread_cond_signal(&b->cond);
    pthread_mutex_unlock(&b->lock);
}

nef_err nef_runtime_read_wait(struct nef_runtime *rt, uint32_t cell, const uint8_t tag[16],
                              struct nef_read *read)
{
    struct blocked b = {.woken = false};
    uint64_t first = now_ns();
    nef_err err;

    pthread_mutex_init(&b.lock, NULL);
    pthread_cond_init(&b.cond, NULL);
    for (;;) {
        err = cell == UINT32_MAX ? nef_runtime_read_all(rt, first, read, unblock, &b)
                                 : nef_runtime_read(rt, cell, tag, first, read, unblock, &b);
        if (err != NEF_E_AGAIN)
            break;
        pthread_mutex_lock(&b.lock);
        while (!b.woken)
            pthread_cond_wait(&b.cond, &b.lock);
        b.woken = false;
        pthread_mutex_unlock(&b.lock);
    }
    pthread_cond_destroy(&b.cond);
    pthread_mutex_destroy(&b.lock);
    return err;
}

/* now 0: only those whose offset was passed; else also those that have waited long enough; UINT64_MAX: all. */
void cell_wake_readers(struct cell *cell, uint64_t now)
{
    struct reader *ready = NULL, **at;
    uint64_t applied = atomic_load(&cell->applied);

    pthread_mutex_lock(&cell->lock);
    for (at = &cell->readers; *at != NULL;) {
        struct reader *r = *at;

        if (r->until > applied && r->give_up_ns > now) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = ready;
        ready = r;
    }
    pthread_mutex_unlock(&cell->lock);
    wake_list(ready);
}

void readers_serve(struct nef_runtime *rt)
{
    struct reader *all;

    pthread_mutex_lock(&rt->serve_lock);
    all = rt->serve_readers;
    rt->serve_readers = NULL;
    pthread_mutex_unlock(&rt->serve_lock);
    wake_list(all);
}

void readers_sweep(struct nef_runtime *rt, uint64_t now)
{
    struct reader *late = NULL, **at;

    pthread_mutex_lock(&rt->serve_lock);
    for (at = &rt->serve_readers; *at != NULL;) {
        struct reader *r = *at;

        if (r->give_up_ns > now) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = late;
        late = r;
    }
    pthread_mutex_unlock(&rt->serve_lock);
    wake_list(late);
    for (uint32_t i = 0; i < rt->cell_count; i++)
        cell_wake_readers(&rt->cells[i], now);
}
