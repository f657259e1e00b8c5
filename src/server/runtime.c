/* Start and stop of the runtime: locks the data directory, opens logs, store and core in that order, starts the
 * threads last, and ends them in the order that loses nothing. What the core thread does is in core.c. */
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

#define REPLICA_FILE "replica"

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

/* ---- opening ---- */

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
    (void)snprintf(path, sizeof(path), "%s/" NEF_EPOCH_FILE, rt->config->data_dir);
    err = nef_file_read(path, 256, false, &text);
    if (err == NEF_E_NOT_FOUND)
        err = NEF_OK;
    else if (err == NEF_OK &&
             sscanf(nef_buf_cstr(&text), "{\"version\":1,\"epoch\":%llu}", &epoch) != 1)
        err = NEF_E_CORRUPT;
    /* Of a program that replaced it: the other file is made while there may be space for it. */
    (void)snprintf(path, sizeof(path), "%s/" NEF_EPOCH_FILE NEF_FILE_OTHER, rt->config->data_dir);
    if (err == NEF_OK && epoch != 0 && access(path, F_OK) != 0) {
        err = epoch_write(rt, epoch);
        if (err == NEF_E_NOSPACE)
            err = NEF_OK;
    }
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
        .live_fraction = config->compaction.live_fraction,
        .checkpoint_log_bytes = 64ull << 20,
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
    };

    core_queries(rt, &c);
    rt->core_memory = aligned_alloc(64, (nef_repl_bytes(rt->cell_count) + 63) & ~63ull);
    rt->actions = calloc(1, sizeof(*rt->actions));
    if (cells == NULL || rt->core_memory == NULL || rt->actions == NULL) {
        free(cells);
        return NEF_E_NOMEM;
    }
    (void)snprintf(c.zone, sizeof(c.zone), "%s", config->zone);
    for (uint32_t i = 0; i < rt->cell_count; i++) {
        const struct nef_log_recovery *r = &opening[i].recovery;

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
    core_publish(rt);
    return NEF_OK;
}

/* ---- start and stop ---- */

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
    pthread_mutex_init(&rt->later_lock, NULL);
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
    atomic_store(&rt->draining, true);
    pthread_mutex_lock(&rt->queue_lock);
    rt->queue_stop = true;
    pthread_cond_broadcast(&rt->queue_cond);
    pthread_mutex_unlock(&rt->queue_lock);
    (void)pthread_join(rt->core_thread, NULL);
    core_serve(rt, 0); /* after the join: only the core thread may say who serves */
    rt->frozen = true;
    props_close(rt); /* nobody would answer them any more */
    later_close(rt);
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
