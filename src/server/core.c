/* The core thread: the only caller of nef_repl_step. It takes what the other threads posted, steps the core
 * with it, executes the actions in order, and at the end of each burst gives a FLUSH, from which the core
 * emits syncs and sends: that is how many proposals share one sync.
 *
 * What may block here: writes to the page cache, the persisted epoch (one small file), and cuts. Everything
 * else is somebody else's thread. Leases are granted by this thread (R4): a core that stalls grants none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"
#include "io/files.h"
#include "server/runtime_internal.h"

#define BURST_MAX      512u /* events between two FLUSHes: bounds how long a sync waits to be started */
#define TICK_MAX_NS    20000000ull
/* Under load the core sleeps a little before it takes what came, so that syncs, messages, batches of apply and
 * wake-ups are shared by more requests: each wake-up costs several microseconds in three threads. A few
 * clients, whose requests wait for nothing else, never see it. */
#define LINGER_NS      150000ull
#define LINGER_EVENTS  8u         /* in the last one to two milliseconds */
#define LINGER_WINDOW  1000000ull
#define SWEEP_NS       50000000ull

/* ---- events ---- */

struct item *item_new(enum nef_event_type type)
{
    struct item *item = calloc(1, sizeof(*item));

    /* an event that can't be told to the core would break the protocol: better to stop here */
    NEF_ASSERT(item != NULL);
    item->event.type = type;
    return item;
}

void item_free(struct item *item)
{
    payload_unref(item->payload);
    free(item->frame);
    free(item->group);
    free(item);
}

void post(struct nef_runtime *rt, struct item *item)
{
    bool wake;

    if (item->payload != NULL && item->event.type == NEF_EV_MESSAGE)
        (void)atomic_fetch_add(&rt->queue_payload_bytes, item->payload->bytes);
    pthread_mutex_lock(&rt->queue_lock);
    wake = rt->queue_first == NULL;
    item->next = NULL;
    if (rt->queue_last == NULL)
        rt->queue_first = item;
    else
        rt->queue_last->next = item;
    rt->queue_last = item;
    if (wake)
        pthread_cond_signal(&rt->queue_cond);
    pthread_mutex_unlock(&rt->queue_lock);
}

void post_simple(struct nef_runtime *rt, enum nef_event_type type, uint32_t cell, uint64_t offset)
{
    struct item *item = item_new(type);

    item->event.cell = cell;
    item->event.offset = offset;
    post(rt, item);
}

void end_runtime(struct nef_runtime *rt, nef_err err)
{
    static const uint64_t one = 1;
    int none = NEF_OK;

    (void)atomic_compare_exchange_strong(&rt->end_err, &none, (int)err);
    (void)!write(rt->end_fd, &one, sizeof(one));
}

/* ---- executing actions ---- */

static struct payload *payload_of(const struct nef_action *a)
{
    return (struct payload *)(uintptr_t)a->handle;
}

static void fail(struct nef_runtime *rt, uint32_t cell, nef_err err, const char *what)
{
    struct item *item = item_new(NEF_EV_FAILED);

    nef_trace(NEF_TRACE_ERROR, "disk_failed", "s:what", what, "u:cell", (uint64_t)cell, "e:err", err,
              NULL);
    item->event.cell = cell;
    item->event.err = err;
    post(rt, item);
}

/* Always of one length, and in a file that takes no new block: an epoch must be known durably when a zone is lost, and
 * if this one's disk is full at that moment the region would be gone with it. */
nef_err epoch_write(const struct nef_runtime *rt, uint64_t epoch)
{
    char path[4096], text[64];

    (void)snprintf(path, sizeof(path), "%s/" NEF_EPOCH_FILE, rt->config->data_dir);
    memset(text, ' ', sizeof(text));
    text[snprintf(text, sizeof(text), "{\"version\":1,\"epoch\":%llu}", (unsigned long long)epoch)] = ' ';
    text[sizeof(text) - 1] = '\n';
    return nef_file_swap(path, 0600, text, sizeof(text));
}

static void persist(struct nef_runtime *rt, uint64_t epoch)
{
    struct item *item;
    nef_err err = epoch_write(rt, epoch);

    if (err != NEF_OK) {
        fail(rt, 0, err, "epoch");
        return;
    }
    item = item_new(NEF_EV_PERSISTED);
    item->event.epoch = epoch;
    post(rt, item);
}

void core_publish(struct nef_runtime *rt)
{
    pthread_mutex_lock(&rt->status_lock);
    nef_repl_status(rt->core, &rt->status);
    rt->status_ns = now_ns();
    pthread_mutex_unlock(&rt->status_lock);
}

static void status_changed(struct nef_runtime *rt)
{
    static const char *const roles[] = {"starting", "out",     "catching_up", "backup",
                                        "seeking",  "primary", "stopped"};
    enum nef_role before = rt->status.role;
    uint64_t epoch_before = rt->status.group.epoch;

    core_publish(rt);
    if (rt->status.role != before || rt->status.group.epoch != epoch_before)
        nef_trace(NEF_TRACE_INFO, "role", "s:role", roles[rt->status.role], "u:epoch",
                  rt->status.group.epoch, "u:in_sync", (uint64_t)rt->status.in_sync_count, "e:err",
                  rt->status.err, NULL);
    if (rt->status.role == NEF_ROLE_PRIMARY && before != NEF_ROLE_PRIMARY) {
        pthread_mutex_lock(&rt->status_lock);
        rt->failovers++;
        pthread_mutex_unlock(&rt->status_lock);
    }
}

void core_serve(struct nef_runtime *rt, uint64_t until)
{
    /* epoch first: a reader that sees the new lease must see its epoch (release/acquire) */
    atomic_store_explicit(&rt->serve_epoch, rt->status.group.epoch, memory_order_release);
    atomic_store_explicit(&rt->serve_until, until, memory_order_release);
    if (until != 0)
        readers_serve(rt);
}

static void send_frame(struct nef_runtime *rt, const struct nef_action *a, enum conn_kind kind)
{
    struct frame *frame;

    if (a->type == NEF_ACT_SEND_PROPOSAL) {
        struct payload *p = payload_of(a);

        /* The core repeats what has no outcome after a second. What still waits in this link's queue (the
         * core has one reference, the frame another) isn't lost, and a slow link mustn't carry it twice. */
        if (p->queued == a->peer + 1 && atomic_load(&p->refs) > 1)
            return;
        p->queued = a->peer + 1;
    }
    frame = frame_core(a->message);
    if (frame != NULL && a->type == NEF_ACT_SEND_LOG) {
        frame->from_log = true;
        frame->cell = a->cell;
        frame->offset = a->offset;
        NEF_ASSERT(frame->body_bytes == a->bytes);
    } else if (frame != NULL && a->type == NEF_ACT_SEND_PROPOSAL) {
        frame->payload = payload_of(a);
        payload_ref(frame->payload);
        NEF_ASSERT(frame->body_bytes == frame->payload->bytes);
    }
    (void)link_send(&rt->links[a->peer], kind, frame); /* a lost frame is the protocol's business */
}

static void execute_one(struct nef_runtime *rt, const struct nef_action *a)
{
    struct cell *cell = &rt->cells[a->cell];
    nef_err err = NEF_OK;

    switch (a->type) {
    case NEF_ACT_APPEND:
        err = cell_append(cell, a);
        if (a->number == 0)
            payload_unref(payload_of(a)); /* a peer's (SAVE_PAYLOAD): the core doesn't keep it */
        break;
    case NEF_ACT_MARK:
        err = cell_mark(cell, a);
        break;
    case NEF_ACT_WRITE:
        err = cell_write(cell, a, payload_of(a));
        break;
    case NEF_ACT_SYNC:
        cell_sync(cell);
        break;
    case NEF_ACT_TRUNCATE:
    case NEF_ACT_SKIP:
        err = a->type == NEF_ACT_SKIP ? cell_skip(cell, a->offset) : cell_cut(cell, a->offset);
        if (err == NEF_OK)
            post_simple(rt, NEF_EV_CUT, a->cell, a->offset);
        break;
    case NEF_ACT_COMMIT:
        cell_commit(cell, a->offset);
        break;
    case NEF_ACT_PERSIST:
        persist(rt, a->epoch);
        break;
    case NEF_ACT_STATUS:
        status_changed(rt);
        break;
    case NEF_ACT_SERVE:
        core_publish(rt);
        core_serve(rt, a->until);
        break;
    case NEF_ACT_STOP:
        nef_trace(NEF_TRACE_ERROR, "stopping", "e:err", a->err, NULL);
        status_changed(rt);
        core_serve(rt, 0);
        /* Whatever failed: this core does nothing any more, and only a start recovers. (A replica that was
         * rolled back or lost its configuration isn't stopped like this: it stays up and refuses.) */
        end_runtime(rt, a->err);
        break;
    case NEF_ACT_ETCD_GET:
        group_ask(rt);
        break;
    case NEF_ACT_ETCD_CAS:
        group_swap(rt, a->group, a->revision);
        break;
    case NEF_ACT_SEND:
        send_frame(rt, a, CONN_CTL);
        break;
    case NEF_ACT_SEND_LOG:
    case NEF_ACT_SEND_PROPOSAL:
        send_frame(rt, a, CONN_BULK);
        break;
    case NEF_ACT_SAVE_PAYLOAD:
        payload_ref(payload_of(a));
        break;
    case NEF_ACT_FREE:
        payload_unref(payload_of(a));
        break;
    case NEF_ACT_REFUSE:
        props_refuse(rt, a->number, a->err);
        payload_unref(payload_of(a));
        break;
    }
    if (err != NEF_OK)
        fail(rt, a->cell, err, "log");
}

static void step(struct nef_runtime *rt, struct nef_event *event)
{
    event->now = now_ns();
    if (rt->random_left == 0) { /* nonces, not keys: drawn in bulk, since each draw costs a microsecond */
        nef_random(rt->random, sizeof(rt->random));
        rt->random_left = NEF_COUNT(rt->random) / 2;
    }
    rt->random_left--;
    event->random[0] = rt->random[2 * rt->random_left];
    event->random[1] = rt->random[2 * rt->random_left + 1];
    nef_repl_step(rt->core, event, rt->actions);
    for (uint32_t i = 0; i < rt->actions->count; i++)
        execute_one(rt, &rt->actions->at[i]);
}

static void step_type(struct nef_runtime *rt, enum nef_event_type type)
{
    struct nef_event event = {.type = type};

    step(rt, &event);
    while (rt->actions->more) {
        event = (struct nef_event){.type = NEF_EV_FLUSH};
        step(rt, &event);
    }
}

/* ---- the thread ---- */

struct pace {
    uint64_t window; /* number of the current window */
    uint32_t events, events_before;
};

static void pace_count(struct pace *p, uint64_t now, uint32_t events)
{
    uint64_t window = now / LINGER_WINDOW;

    if (window != p->window) {
        p->events_before = window == p->window + 1 ? p->events : 0;
        p->events = 0;
        p->window = window;
    }
    p->events += events;
}

static void linger(struct pace *p)
{
    struct timespec t = {0, LINGER_NS};

    pace_count(p, now_ns(), 0);
    if (p->events + p->events_before >= LINGER_EVENTS)
        (void)nanosleep(&t, NULL);
}

static struct item *take_items(struct nef_runtime *rt, uint64_t deadline, bool *out_stop)
{
    struct item *items;

    pthread_mutex_lock(&rt->queue_lock);
    if (rt->queue_first == NULL && !rt->queue_stop) {
        uint64_t now = now_ns();
        uint64_t wait = deadline > now ? NEF_MIN(deadline - now, TICK_MAX_NS) : 0;

        if (wait > 0) {
            struct timespec until;

            (void)clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += (long)wait;
            until.tv_sec += until.tv_nsec / 1000000000l;
            until.tv_nsec %= 1000000000l;
            (void)pthread_cond_timedwait(&rt->queue_cond, &rt->queue_lock, &until);
        }
    }
    items = rt->queue_first;
    rt->queue_first = rt->queue_last = NULL;
    *out_stop = rt->queue_stop;
    pthread_mutex_unlock(&rt->queue_lock);
    return items;
}

void *core_main(void *argument)
{
    struct nef_runtime *rt = argument;
    uint64_t next_sweep = 0, deadline = 0;
    struct pace pace = {0};
    bool stop = false;

    thread_name("core");
    step_type(rt, NEF_EV_TICK);
    deadline = rt->actions->deadline;
    while (!stop) {
        struct item *items;
        uint32_t burst = 0;
        uint64_t now;
        bool any;

        linger(&pace);
        items = take_items(rt, deadline, &stop);
        any = items != NULL;
        while (items != NULL) {
            struct item *item = items;
            uint32_t payload_bytes = 0;

            items = item->next;
            if (item->event.type == NEF_EV_MESSAGE && item->payload != NULL)
                payload_bytes = item->payload->bytes;
            if (item->event.type == NEF_EV_PROPOSE) {
                struct payload *p = item->payload;

                item->payload = NULL; /* the core's reference from here on, until FREE */
                item->event.handle = (uint64_t)(uintptr_t)p;
            }
            step(rt, &item->event);
            item_free(item);
            if (payload_bytes > 0)
                (void)atomic_fetch_sub(&rt->queue_payload_bytes, payload_bytes);
            while (rt->actions->more)
                step_type(rt, NEF_EV_FLUSH);
            if (++burst % BURST_MAX == 0)
                step_type(rt, NEF_EV_FLUSH);
        }
        if (any)
            step_type(rt, NEF_EV_FLUSH);
        now = now_ns();
        pace_count(&pace, now, burst);
        if (now >= rt->actions->deadline || !any)
            step_type(rt, NEF_EV_TICK);
        deadline = rt->actions->deadline;
        if (now >= next_sweep) {
            next_sweep = now + SWEEP_NS;
            props_sweep(rt, now);
            readers_sweep(rt, now);
            core_publish(rt);
            note_serving(rt, now);
            nef_trace_flush(); /* zone.c turned buffering on */
        }
    }
    return NULL;
}

/* ---- queries of the core ---- */

static uint64_t query_next_present(void *context, uint32_t cell, uint64_t offset)
{
    return nef_log_next_present(((struct nef_runtime *)context)->cells[cell].log, offset);
}

static uint64_t query_present_until(void *context, uint32_t cell, uint64_t offset)
{
    return nef_log_present_until(((struct nef_runtime *)context)->cells[cell].log, offset);
}

static uint64_t query_whole_records(void *context, uint32_t cell, uint64_t offset, uint64_t bytes_max)
{
    struct nef_runtime *rt = context;
    uint64_t bytes = cell_whole_records(&rt->cells[cell], offset, bytes_max);

    if (bytes == 0 && offset < nef_log_end(rt->cells[cell].log)) /* else it isn't appended yet */
        log_unreadable(rt, cell, offset, offset + NEF_PROPOSAL_BYTES_MAX);
    return bytes;
}

void core_queries(struct nef_runtime *rt, struct nef_repl_config *config)
{
    config->next_present = query_next_present;
    config->present_until = query_present_until;
    config->whole_records = query_whole_records;
    config->context = rt;
}
