/* The core thread: the only caller of nef_repl_step. It takes what the other threads posted, steps the core
 * with it, executes the actions in order, and at the end of each burst gives a FLUSH, from which the core
 * emits syncs and sends: that is how many proposals share one sync.
 *
 * What may block here: writes to the page cache, the persisted epoch (one small file), and cuts. Everything
 * else is somebody else's thread. Leases are granted by this thread (R4): a core that stalls grants none. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "io/clock.h"
#include "io/file_posix.h"
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
#define EPOCH_FILE     "epoch"
#define REPLICA_FILE   "replica"

uint64_t now_ns(void)
{
    return nef_now_ns();
}

void thread_name(const char *format, ...)
{
    char name[16];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    (void)pthread_setname_np(pthread_self(), name);
}

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

static void persist(struct nef_runtime *rt, uint64_t epoch)
{
    char path[4096], text[64];
    struct item *item;
    nef_err err;
    int n = snprintf(text, sizeof(text), "{\"version\":1,\"epoch\":%llu}\n", (unsigned long long)epoch);

    (void)snprintf(path, sizeof(path), "%s/" EPOCH_FILE, rt->config->data_dir);
    err = nef_file_replace(path, 0600, text, (size_t)n);
    if (err != NEF_OK) {
        fail(rt, 0, err, "epoch");
        return;
    }
    item = item_new(NEF_EV_PERSISTED);
    item->event.epoch = epoch;
    post(rt, item);
}

static void publish_status(struct nef_runtime *rt)
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

    publish_status(rt);
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

static void serve(struct nef_runtime *rt, uint64_t until)
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
        publish_status(rt);
        serve(rt, a->until);
        break;
    case NEF_ACT_STOP:
        nef_trace(NEF_TRACE_ERROR, "stopping", "e:err", a->err, NULL);
        status_changed(rt);
        serve(rt, 0);
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

static void *core_main(void *argument)
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
            publish_status(rt);
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
    return cell_whole_records(&((struct nef_runtime *)context)->cells[cell], offset, bytes_max);
}

/* ---- start and stop ---- */

static nef_err lock_directory(struct nef_runtime *rt)
{
    char path[4096];

    if (mkdir(rt->config->data_dir, 0700) != 0 && errno != EEXIST)
        return NEF_E_SYSTEM;
    (void)snprintf(path, sizeof(path), "%s/LOCK", rt->config->data_dir);
    rt->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (rt->lock_fd < 0)
        return NEF_E_SYSTEM;
    if (flock(rt->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        nef_trace(NEF_TRACE_ERROR, "data_dir_in_use", "s:dir", rt->config->data_dir, NULL);
        return NEF_E_BUSY;
    }
    return NEF_OK;
}

/* The replica's id is made with its directory: an empty directory is a new replica (R10). */
static nef_err load_identity(struct nef_runtime *rt, uint64_t *out_epoch)
{
    char path[4096], hex[33];
    struct nef_buf text = {0};
    unsigned long long epoch = 0;
    nef_err err;

    (void)snprintf(path, sizeof(path), "%s/" REPLICA_FILE, rt->config->data_dir);
    err = nef_file_read(path, 64, false, &text);
    if (err == NEF_E_NOT_FOUND) {
        nef_random(rt->replica.bytes, 16);
        nef_hex(rt->replica.bytes, 16, hex);
        err = nef_file_make(path, 0600, hex, 32);
    } else if (err == NEF_OK) {
        err = nef_unhex((const char *)text.data, NEF_MIN(text.bytes, 32), rt->replica.bytes, 16);
    }
    if (err != NEF_OK)
        goto out;
    nef_buf_reset(&text);
    (void)snprintf(path, sizeof(path), "%s/" EPOCH_FILE, rt->config->data_dir);
    err = nef_file_read(path, 256, false, &text);
    if (err == NEF_E_NOT_FOUND)
        err = NEF_OK;
    else if (err == NEF_OK &&
             sscanf(nef_buf_cstr(&text), "{\"version\":1,\"epoch\":%llu}", &epoch) != 1)
        err = NEF_E_CORRUPT;
    *out_epoch = epoch;
out:
    nef_buf_free(&text);
    return err;
}

struct opening {
    struct cell *cell;
    struct nef_log_recovery recovery;
    nef_err err;
    pthread_t thread;
};

static void *open_main(void *argument)
{
    struct opening *o = argument;

    o->err = cell_open(o->cell, &o->recovery);
    return NULL;
}

static nef_err open_logs(struct nef_runtime *rt, struct opening *opening)
{
    nef_err err = NEF_OK;

    for (uint32_t i = 0; i < rt->cell_count; i++) {
        struct cell *cell = &rt->cells[i];

        cell->rt = rt;
        cell->number = i;
        pthread_mutex_init(&cell->lock, NULL);
        pthread_cond_init(&cell->sync_wanted_cond, NULL);
        pthread_cond_init(&cell->idle_cond, NULL);
        pthread_cond_init(&cell->apply_cond, NULL);
        opening[i].cell = cell;
        opening[i].err = NEF_E_SYSTEM;
        if (pthread_create(&opening[i].thread, NULL, open_main, &opening[i]) != 0)
            return NEF_E_SYSTEM;
    }
    for (uint32_t i = 0; i < rt->cell_count; i++) {
        const struct nef_log_recovery *r = &opening[i].recovery;

        (void)pthread_join(opening[i].thread, NULL);
        if (opening[i].err != NEF_OK) {
            nef_trace(NEF_TRACE_ERROR, "log_open_failed", "u:cell", (uint64_t)i, "e:err",
                      opening[i].err, NULL);
            err = opening[i].err;
        } else {
            nef_trace(r->damaged ? NEF_TRACE_ERROR : NEF_TRACE_INFO, "log_opened", "u:cell",
                      (uint64_t)i, "u:start", r->start, "u:end", r->end, "u:mark", r->mark, "u:epoch",
                      r->last_epoch, "u:cut_bytes", r->cut_bytes, "u:damage_at",
                      r->damaged ? r->damage_offset : 0, NULL);
        }
    }
    return err;
}

static nef_err open_store(struct nef_runtime *rt)
{
    const struct nef_zone_config *config = rt->config;
    static struct nef_log *logs[NEF_CELL_MAX];
    struct nef_store_options options = {
        .dir = config->data_dir,
        .region = rt->region,
        .cell_count = rt->cell_count,
        .segment_bytes = rt->segment_bytes,
        .logs = logs,
        .keys = rt->keys,
        .cache_bytes = config->limits.index_cache_bytes,
        .write_buffer_bytes = config->limits.index_write_buffer_bytes,
        .flush_log_bytes = 256ull << 20,
        .flush_ops = 100000,
        .erase_within_ms = config->compaction.erase_within_ns / 1000000,
        .applied = props_applied,
        .context = rt,
    };

    for (uint32_t i = 0; i < rt->cell_count; i++) {
        nef_err err = cell_rebuild_wanted(&rt->cells[i]);

        if (err != NEF_OK)
            return err;
        logs[i] = rt->cells[i].log;
    }
    return nef_store_open(&options, &rt->store);
}

static nef_err open_core(struct nef_runtime *rt, const struct opening *opening, uint64_t epoch)
{
    const struct nef_zone_config *config = rt->config;
    struct nef_repl_cell_start *cells = calloc(rt->cell_count, sizeof(*cells));
    struct nef_repl_config c = {
        .replica = rt->replica,
        .incarnation = rt->incarnation,
        .cell_count = rt->cell_count,
        .segment_bytes = rt->segment_bytes,
        .peer_count = config->peer_count,
        .preferred = config->preferred,
        .bootstrap = config->bootstrap,
        .heartbeat_ns = config->timing.heartbeat_ns,
        .lease_ns = config->timing.lease_ns,
        .suspect_ns = config->timing.suspect_ns,
        .second_wait_ns = config->timing.second_wait_ns,
        .peer_stall_ns = config->timing.peer_stall_ns,
        .failback_ns = config->timing.failback_after_ns,
        .etcd_poll_ns = config->timing.etcd_poll_ns,
        .etcd_retry_ns = config->timing.etcd_retry_ns,
        .resend_ns = config->timing.resend_ns,
        .append_bytes_max = 1u << 20,
        .window_bytes = 16u << 20,
        .next_present = query_next_present,
        .present_until = query_present_until,
        .whole_records = query_whole_records,
        .context = rt,
    };

    rt->core_memory = aligned_alloc(64, (nef_repl_bytes(rt->cell_count) + 63) & ~63ull);
    rt->actions = calloc(1, sizeof(*rt->actions));
    if (cells == NULL || rt->core_memory == NULL || rt->actions == NULL) {
        free(cells);
        return NEF_E_NOMEM;
    }
    (void)snprintf(c.zone, sizeof(c.zone), "%s", config->zone);
    for (uint32_t i = 0; i < rt->cell_count; i++) {
        const struct nef_log_recovery *r = &opening[i].recovery;

        cells[i].start = r->start;
        cells[i].end = r->end;
        cells[i].committed = nef_store_applied(rt->store, i);
        cells[i].damaged = r->damaged;
        /* From the last whole run on: the bad place itself may lie inside a run, or be a segment's
         * header, and a log can't be cut there. */
        cells[i].damage_offset = r->end;
        cells[i].epochs.count = r->epoch_count;
        for (uint32_t k = 0; k < r->epoch_count; k++)
            cells[i].epochs.at[k] =
                (struct nef_epoch_at){r->epochs[k].epoch, r->epochs[k].offset};
    }
    rt->core = nef_repl_init(rt->core_memory, &c, epoch, cells, now_ns());
    free(cells);
    publish_status(rt);
    return NEF_OK;
}

nef_err nef_runtime_start(const struct nef_zone_config *config, struct nef_keys *keys,
                          struct nef_runtime **out_runtime)
{
    struct nef_runtime *rt = calloc(1, sizeof(*rt));
    struct opening *opening = calloc(config->cells, sizeof(*opening));
    pthread_condattr_t monotonic;
    uint64_t epoch = 0;
    nef_err err = NEF_E_NOMEM;

    if (rt == NULL || opening == NULL)
        goto out;
    NEF_ASSERT(config->cells >= 1 && config->cells <= NEF_CELL_MAX);
    rt->config = config;
    rt->keys = keys;
    rt->region = config->region_id;
    rt->cell_count = config->cells;
    rt->segment_bytes = config->segment_bytes;
    rt->incarnation = nef_random_u64();
    rt->lock_fd = -1;
    rt->listen_fd = -1;
    rt->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&rt->queue_lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&rt->queue_cond, &monotonic);
    pthread_mutex_init(&rt->serve_lock, NULL);
    pthread_mutex_init(&rt->status_lock, NULL);
    pthread_mutex_init(&rt->etcd_lock, NULL);
    pthread_mutex_init(&rt->digest_lock, NULL);
    pthread_cond_init(&rt->etcd_cond, NULL);
    props_init(&rt->props);

    /* A start that fails ends the process, which frees what was opened; only nothing half-started may
     * touch the disk afterwards, and nothing does: threads come last. */
    err = lock_directory(rt);
    if (err == NEF_OK)
        err = load_identity(rt, &epoch);
    if (err == NEF_OK)
        err = nef_dir_posix_open(config->data_dir, false, &rt->dir);
    if (err == NEF_OK)
        err = open_logs(rt, opening);
    if (err == NEF_OK)
        err = open_store(rt);
    if (err == NEF_OK)
        err = open_core(rt, opening, epoch);
    for (uint32_t i = 0; i < rt->cell_count && err == NEF_OK; i++)
        err = cell_start(&rt->cells[i]);
    if (err == NEF_OK)
        err = group_start(rt);
    if (err == NEF_OK)
        err = links_start(rt);
    if (err == NEF_OK)
        err = upkeep_start(rt);
    if (err == NEF_OK && pthread_create(&rt->core_thread, NULL, core_main, rt) != 0)
        err = NEF_E_SYSTEM;
    if (err == NEF_OK) {
        rt->threads_started = true;
        *out_runtime = rt;
    } else {
        nef_trace(NEF_TRACE_ERROR, "start_failed", "e:err", err, NULL);
    }
out:
    free(opening);
    return err;
}

/* Until the primary is elsewhere, or for so long: then the peer takes the epoch when this process is gone. */
#define DRAIN_MS 1500

void nef_runtime_drain(struct nef_runtime *rt)
{
    atomic_store(&rt->draining, true); /* the front goes elsewhere from now on */
    for (int i = 0; i < DRAIN_MS / 10; i++) {
        struct timespec pause = {0, 10000000};
        bool sole, primary;

        pthread_mutex_lock(&rt->status_lock);
        primary = rt->status.role == NEF_ROLE_PRIMARY;
        sole = rt->status.in_sync_count < 2;
        pthread_mutex_unlock(&rt->status_lock);
        if (!primary || sole)
            return;
        if (i % 60 == 0)
            nef_runtime_handover(rt);
        (void)nanosleep(&pause, NULL);
    }
    nef_trace(NEF_TRACE_WARN, "handover_timed_out", NULL);
}

/* From here on this replica says nothing and changes nothing: no epoch is asked for, whatever breaks. */
void nef_runtime_freeze(struct nef_runtime *rt)
{
    if (rt->frozen)
        return;
    serve(rt, 0);
    atomic_store(&rt->draining, true);
    pthread_mutex_lock(&rt->queue_lock);
    rt->queue_stop = true;
    pthread_cond_broadcast(&rt->queue_cond);
    pthread_mutex_unlock(&rt->queue_lock);
    (void)pthread_join(rt->core_thread, NULL);
    rt->frozen = true;
    props_close(rt); /* nobody would answer them any more */
    atomic_store(&rt->closed, true);
    readers_sweep(rt, UINT64_MAX - 1);
}

void nef_runtime_stop(struct nef_runtime *rt)
{
    struct item *items;

    NEF_ASSERT(rt->threads_started);
    /* The core first: a core that saw its links go would take the epoch for itself alone. */
    nef_runtime_freeze(rt);
    atomic_store(&rt->stopping, true);
    upkeep_stop(rt);
    links_stop(rt);
    group_stop(rt);
    for (uint32_t i = 0; i < rt->cell_count; i++)
        cell_stop(&rt->cells[i]);
    nef_store_close(rt->store);
    for (uint32_t i = 0; i < rt->cell_count; i++)
        cell_close(&rt->cells[i]);
    items = rt->queue_first;
    while (items != NULL) {
        struct item *next = items->next;

        item_free(items);
        items = next;
    }
    if (rt->dir != NULL)
        rt->dir->ops->close(rt->dir);
    (void)close(rt->lock_fd);
    (void)close(rt->end_fd);
    free(rt->core_memory);
    free(rt->actions);
    free(rt);
}

nef_err nef_runtime_wait(struct nef_runtime *rt)
{
    struct pollfd p = {.fd = rt->end_fd, .events = POLLIN};

    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    return (nef_err)atomic_load(&rt->end_err);
}

void nef_runtime_wake(struct nef_runtime *rt)
{
    static const uint64_t one = 1;

    (void)!write(rt->end_fd, &one, sizeof(one));
}

struct nef_store *nef_runtime_store(struct nef_runtime *rt)
{
    return rt->store;
}

void nef_runtime_handover(struct nef_runtime *rt)
{
    post_simple(rt, NEF_EV_HANDOVER, 0, 0);
}

void nef_runtime_recover(struct nef_runtime *rt)
{
    post_simple(rt, NEF_EV_RECOVER, 0, 0);
}

uint64_t nef_runtime_proposer(const struct nef_runtime *rt)
{
    return rt->incarnation;
}
