/* Proposals of this process: from nef_runtime_propose to the moment their run was applied here.
 *
 * The core keeps what must be sent again after a change of primary; this table keeps who waits. An entry
 * leaves it exactly once: applied (apply thread), refused (core thread) or given up after request_hold
 * (core thread), and whoever takes it out calls the caller back. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "server/runtime_internal.h"

void props_init(struct props *props)
{
    pthread_mutex_init(&props->lock, NULL);
    props->next_number = 1;
}

struct payload *payload_new(uint8_t *memory, uint8_t *data, uint32_t bytes, uint32_t cell)
{
    struct payload *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return NULL;
    atomic_init(&p->refs, 1);
    p->memory = memory;
    p->data = data;
    p->bytes = bytes;
    p->cell = cell;
    return p;
}

void payload_ref(struct payload *p)
{
    (void)atomic_fetch_add(&p->refs, 1);
}

void payload_unref(struct payload *p)
{
    if (p == NULL || atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    free(p->memory);
    free(p);
}

static struct prop **find(struct props *props, uint64_t number)
{
    struct prop **at = &props->chains[number % PROP_BUCKETS];

    while (*at != NULL && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

/* Under the lock: unlink. Returns who waits for room if there is some again. */
static struct reader *take(struct props *props, struct prop **at)
{
    struct prop *prop = *at;
    struct reader *rooms = NULL;

    *at = prop->next;
    props->count--;
    props->bytes -= prop->bytes;
    if (props->bytes < NEF_PROPOSAL_MEMORY / 2 && props->count < NEF_PROPOSALS_MAX / 2) {
        rooms = props->rooms;
        props->rooms = NULL;
    }
    return rooms;
}

static void wake_all(struct reader *readers)
{
    while (readers != NULL) {
        struct reader *next = readers->next;

        readers->wake(readers->context);
        free(readers);
        readers = next;
    }
}

/* Take number out and tell its caller; false if it had left already. */
static bool finish(struct nef_runtime *rt, uint64_t number, nef_err err,
                   const struct nef_outcome *outcome)
{
    struct props *props = &rt->props;
    struct prop **at, *prop;
    struct reader *rooms = NULL;

    pthread_mutex_lock(&props->lock);
    at = find(props, number);
    prop = *at;
    if (prop != NULL)
        rooms = take(props, at);
    pthread_mutex_unlock(&props->lock);
    if (prop == NULL)
        return false;
    prop->done(prop->context, err, outcome);
    free(prop);
    wake_all(rooms);
    return true;
}

nef_err nef_runtime_propose(struct nef_runtime *rt, struct nef_run *run, nef_propose_fn done,
                            void *context)
{
    struct props *props = &rt->props;
    struct prop *prop = calloc(1, sizeof(*prop));
    struct payload *payload =
        prop == NULL ? NULL : payload_new(run->data, run->data, run->bytes, run->cell);
    struct item *item = payload == NULL ? NULL : item_new(NEF_EV_PROPOSE);

    NEF_ASSERT(run->cell < rt->cell_count);
    NEF_ASSERT(run->bytes <= NEF_PROPOSAL_BYTES_MAX);
    if (item == NULL) {
        if (payload == NULL)
            nef_run_free(run);
        else
            payload_unref(payload);
        free(prop);
        *run = (struct nef_run){0};
        return NEF_E_BUSY;
    }
    item->payload = payload;
    item->event.cell = run->cell;
    item->event.bytes = run->bytes;
    item->event.is_op = run->is_op;
    item->event.frees_space = run->frees_space;
    item->event.handle = (uint64_t)(uintptr_t)payload;
    prop->bytes = run->bytes;
    prop->done = done;
    prop->context = context;
    prop->give_up_ns = now_ns() + rt->config->timing.request_hold_ns;

    pthread_mutex_lock(&props->lock);
    /* a little above what nef_runtime_room grants, so that a piece already sealed gets in */
    if (props->closed || props->count >= NEF_PROPOSALS_MAX ||
        props->bytes + run->bytes > NEF_PROPOSAL_MEMORY + NEF_PROPOSAL_MEMORY / 2) {
        pthread_mutex_unlock(&props->lock);
        item_free(item);
        free(prop);
        *run = (struct nef_run){0};
        return NEF_E_BUSY;
    }
    prop->number = payload->number = item->event.number = props->next_number++;
    nef_run_number(run, rt->incarnation, prop->number);
    prop->next = props->chains[prop->number % PROP_BUCKETS];
    props->chains[prop->number % PROP_BUCKETS] = prop;
    props->count++;
    props->bytes += run->bytes;
    /* posted under the lock: numbers reach the core in rising order */
    post(rt, item);
    pthread_mutex_unlock(&props->lock);
    *run = (struct nef_run){0};
    return NEF_OK;
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    nef_err err;
    struct nef_outcome outcome;
};

static void waiter_done(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct waiter *w = context;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->err = err;
    if (outcome != NULL)
        w->outcome = *outcome;
    pthread_cond_signal(&w->cond); /* under the lock: w is on the waiter's stack */
    pthread_mutex_unlock(&w->lock);
}

nef_err nef_runtime_propose_wait(struct nef_runtime *rt, struct nef_run *run,
                                 struct nef_outcome *out_outcome)
{
    struct waiter w = {.done = false};
    nef_err err;

    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.cond, NULL);
    err = nef_runtime_propose(rt, run, waiter_done, &w);
    if (err == NEF_OK) {
        pthread_mutex_lock(&w.lock);
        while (!w.done)
            pthread_cond_wait(&w.cond, &w.lock);
        pthread_mutex_unlock(&w.lock);
        err = w.err;
        if (err == NEF_OK) {
            if (out_outcome != NULL)
                *out_outcome = w.outcome;
            err = (nef_err)w.outcome.code;
        }
    }
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    return err;
}

bool nef_runtime_room(struct nef_runtime *rt, void (*wake)(void *context), void *context)
{
    struct props *props = &rt->props;
    struct reader *r;

    pthread_mutex_lock(&props->lock);
    if (props->bytes < NEF_PROPOSAL_MEMORY && props->count < NEF_PROPOSALS_MAX * 3 / 4) {
        pthread_mutex_unlock(&props->lock);
        return true;
    }
    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        pthread_mutex_unlock(&props->lock);
        return true; /* propose itself refuses if it must */
    }
    r->wake = wake;
    r->context = context;
    r->next = props->rooms;
    props->rooms = r;
    pthread_mutex_unlock(&props->lock);
    return false;
}

void props_applied(void *context, uint32_t cell_number, uint64_t proposer, uint64_t number,
                   const struct nef_outcome *outcome, uint64_t end)
{
    struct nef_runtime *rt = context;
    struct cell *cell = &rt->cells[cell_number];

    pthread_mutex_lock(&cell->lock);
    nef_gate_applied(cell->gate, end);
    if (!cell->rebuild)
        atomic_store(&cell->applied, end);
    pthread_mutex_unlock(&cell->lock);
    cell_wake_readers(cell, 0);
    if (proposer != rt->incarnation)
        return;
    if (finish(rt, number, NEF_OK, outcome)) {
        struct item *item = item_new(NEF_EV_PROPOSAL_DONE);

        item->event.number = number;
        post(rt, item);
    }
}

void props_refuse(struct nef_runtime *rt, uint64_t number, nef_err err)
{
    (void)finish(rt, number, err, NULL);
}

/* Core thread, every tick: give up what has waited request_hold. The outcome is unknown. */
void props_sweep(struct nef_runtime *rt, uint64_t now)
{
    struct props *props = &rt->props;
    struct prop *late = NULL;
    struct reader *rooms = NULL;

    pthread_mutex_lock(&props->lock);
    if (props->count > 0) {
        for (uint32_t i = 0; i < PROP_BUCKETS; i++)
            for (struct prop **at = &props->chains[i]; *at != NULL;) {
                struct prop *prop = *at;
                struct reader *r;

                if (prop->give_up_ns > now) {
                    at = &prop->next;
                    continue;
                }
                r = take(props, at);
                if (r != NULL)
                    rooms = r;
                prop->next = late;
                late = prop;
            }
    }
    pthread_mutex_unlock(&props->lock);
    wake_all(rooms);
    while (late != NULL) {
        struct prop *next = late->next;
        struct item *item = item_new(NEF_EV_PROPOSAL_DONE);

        item->event.number = late->number;
        post(rt, item);
        late->done(late->context, NEF_E_TIMEOUT, NULL);
        free(late);
        late = next;
    }
}

void props_close(struct nef_runtime *rt)
{
    struct props *props = &rt->props;
    struct prop *all = NULL;
    struct reader *rooms;

    pthread_mutex_lock(&props->lock);
    props->closed = true;
    for (uint32_t i = 0; i < PROP_BUCKETS; i++)
        while (props->chains[i] != NULL) {
            struct prop *prop = props->chains[i];

            props->chains[i] = prop->next;
            prop->next = all;
            all = prop;
        }
    props->count = 0;
    props->bytes = 0;
    rooms = props->rooms;
    props->rooms = NULL;
    pthread_mutex_unlock(&props->lock);
    wake_all(rooms);
    while (all != NULL) {
        struct prop *next = all->next;

        all->done(all->context, NEF_E_CLOSED, NULL);
        free(all);
        all = next;
    }
}
