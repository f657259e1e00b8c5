/* One cell at run time: its log, the thread that syncs it, the thread that applies what is committed, and
 * its read gate.
 *
 * Syncs run in the cell's sync thread, so that all cells and both zones sync in parallel. Apply runs behind in
 * its own thread: a stall of RocksDB never holds up heartbeats. What the core itself writes, cuts and skips is in
 * cell_log.c; `hold` keeps both threads out while that moves the log's end. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "io/clock.h"
#include "io/file_posix.h"
#include "io/files.h"
#include "server/runtime_internal.h"

#define REBUILD_SUFFIX ".rebuild" /* an empty file beside the index: it is wiped at the next start */
#define APPLY_SLICE    (64ull << 20) /* of log a call: a cut or a skip waits for one of them */
#define FULL_MAX_NS    60000000000ull /* the disk has space again, and the index doesn't see it: then a start helps */

nef_err cell_open(struct cell *cell, struct nef_log_recovery *out_recovery)
{
    struct nef_log_options options;
    char path[4096];
    nef_err err;

    (void)snprintf(path, sizeof(path), "%s/cell-%u", cell->rt->config->data_dir, cell->number);
    err = nef_dir_posix_open(path, true, &cell->dir);
    if (err != NEF_OK)
        return err;
    options = (struct nef_log_options){
        .dir = cell->dir,
        .cell = cell->number,
        .segment_bytes = cell->rt->segment_bytes,
        .region = cell->rt->region,
    };
    return nef_log_open(&options, out_recovery, &cell->log);
}

void cell_close(struct cell *cell)
{
    nef_log_close(cell->log);
    cell->log = NULL;
    if (cell->dir != NULL)
        cell->dir->ops->close(cell->dir);
    cell->dir = NULL;
    free(cell->gate);
    cell->gate = NULL;
}

/* ---- threads ---- */

#define SYNC_WINDOW_NS 10000000000ull

static void note_sync(struct nef_runtime *rt, uint64_t now, uint64_t took)
{
    uint64_t number = now / SYNC_WINDOW_NS;
    struct sync_window *w = &rt->sync_windows[number % 2];

    pthread_mutex_lock(&rt->status_lock);
    if (w->number != number)
        *w = (struct sync_window){.number = number};
    w->ns_max = NEF_MAX(w->ns_max, took);
    pthread_mutex_unlock(&rt->status_lock);
}

uint64_t sync_longest(struct nef_runtime *rt, uint64_t now)
{
    uint64_t number = now / SYNC_WINDOW_NS, longest = 0;

    for (int i = 0; i < 2; i++)
        if (rt->sync_windows[i].number + 1 >= number)
            longest = NEF_MAX(longest, rt->sync_windows[i].ns_max);
    return longest;
}

static void *sync_main(void *argument)
{
    struct cell *cell = argument;
    struct nef_runtime *rt = cell->rt;

    thread_name("sync-%u", cell->number);
    pthread_mutex_lock(&cell->lock);
    for (;;) {
        uint64_t durable = 0, started, took;
        nef_err err;
        int bucket = 0;

        while (!atomic_load(&rt->stopping) && (!cell->sync_wanted || cell->hold))
            pthread_cond_wait(&cell->sync_wanted_cond, &cell->lock);
        if (atomic_load(&rt->stopping))
            break;
        cell->sync_wanted = false;
        cell->sync_running = true;
        pthread_mutex_unlock(&cell->lock);

        started = now_ns();
        err = nef_log_sync(cell->log, &durable);
        took = now_ns() - started;
        (void)atomic_fetch_add(&rt->sync_count, 1);
        (void)atomic_fetch_add(&rt->sync_ns_sum, took);
        note_sync(rt, started + took, took);
        while (bucket < 15 && took > 32000ull << bucket)
            bucket++;
        (void)atomic_fetch_add(&rt->sync_buckets[bucket], 1);

        pthread_mutex_lock(&cell->lock);
        cell->sync_running = false;
        pthread_cond_broadcast(&cell->idle_cond);
        pthread_mutex_unlock(&cell->lock);
        if (err == NEF_OK) {
            post_simple(rt, NEF_EV_SYNCED, cell->number, durable);
        } else {
            struct item *item = item_new(NEF_EV_FAILED);

            nef_trace(NEF_TRACE_ERROR, "sync_failed", "u:cell", (uint64_t)cell->number, "e:err", err,
                      NULL);
            item->event.cell = cell->number;
            item->event.err = err;
            post(rt, item);
        }
        pthread_mutex_lock(&cell->lock);
    }
    pthread_mutex_unlock(&cell->lock);
    return NULL;
}

/* A record below commit doesn't verify here: take it from the peer. False: the log is good. */
static bool repair_for_apply(struct cell *cell)
{
    uint64_t at = nef_store_applied(cell->rt->store, cell->number);
    uint64_t until;

    pthread_mutex_lock(&cell->lock);
    until = cell->commit;
    pthread_mutex_unlock(&cell->lock);
    while (at < until) {
        struct nef_record record;
        uint64_t next;
        uint8_t *body = malloc(NEF_RECORD_BODY_MAX + NEF_RECORD_ALIGN);
        nef_err err;

        if (body == NULL)
            return true; /* not known */
        err = nef_log_record(cell->log, at, &record, body, &next);
        free(body);
        if (err != NEF_OK) {
            nef_trace(NEF_TRACE_ERROR, "record_damaged", "u:cell", (uint64_t)cell->number, "u:offset",
                      at, "e:err", err, NULL);
            err = nef_runtime_repair(cell->rt, cell->number, at);
            nef_trace(err == NEF_OK ? NEF_TRACE_WARN : NEF_TRACE_ERROR, "record_repair", "u:cell",
                      (uint64_t)cell->number, "u:offset", at, "e:err", err, NULL);
            return true;
        }
        at = next;
    }
    return false;
}

/* Apply can't go on and the log isn't why: the index fails (R7). The process ends, and the peer takes over. A
 * corrupt index is rebuilt at the next start, because readers may be in it now; once, for if that doesn't
 * help, all zones would go on ending. */
static void index_failed(struct cell *cell, nef_err err)
{
    struct nef_runtime *rt = cell->rt;
    char path[4096];
    struct item *item;

    if (err == NEF_E_CORRUPT) {
        if (cell->rebuilt_at_start)
            return;
        (void)snprintf(path, sizeof(path), "%s/" NEF_STORE_INDEX_NAME REBUILD_SUFFIX, rt->config->data_dir,
                       cell->number);
        if (nef_file_replace(path, 0600, "", 0) != NEF_OK)
            return;
    }
    nef_trace(NEF_TRACE_ERROR, "index_failed", "u:cell", (uint64_t)cell->number, "e:err", err, NULL);
    item = item_new(NEF_EV_FAILED);
    item->event.cell = cell->number;
    item->event.err = err;
    post(rt, item);
}

nef_err cell_rebuild_wanted(struct cell *cell)
{
    char path[4096], mark[4096 + sizeof(REBUILD_SUFFIX)];
    nef_err err;

    (void)snprintf(path, sizeof(path), "%s/" NEF_STORE_INDEX_NAME, cell->rt->config->data_dir,
                   cell->number);
    (void)snprintf(mark, sizeof(mark), "%s" REBUILD_SUFFIX, path);
    if (access(mark, F_OK) != 0)
        return NEF_OK;
    nef_trace(NEF_TRACE_WARN, "index_wiped", "u:cell", (uint64_t)cell->number, NULL);
    err = nef_index_wipe(path);
    if (err != NEF_OK)
        return err;
    cell->rebuilt_at_start = true;
    return unlink(mark) == 0 ? NEF_OK : NEF_E_IO;
}

/* The index found no space. That is the state of a full disk: upkeep says so to the core, and both zones refuse
 * writes with that reason; look-ups go on. It is tried again, and ends with the first that is applied. An index that
 * has not noticed the space that came back is opened anew, by a new process. */
static void index_full(struct cell *cell, nef_err err, uint64_t *since_ns)
{
    struct nef_runtime *rt = cell->rt;
    bool full = err == NEF_E_NOSPACE, was_full = atomic_exchange(&cell->index_full, full);
    uint64_t now = now_ns(), reserve = (rt->cell_count + 1) * rt->segment_bytes;

    if (full != was_full)
        nef_trace(full ? NEF_TRACE_ERROR : NEF_TRACE_INFO, full ? "index_no_space" : "index_space_again", "u:cell",
                  (uint64_t)cell->number, NULL);
    if (!full || !was_full || atomic_load(&rt->free_bytes) <= reserve)
        *since_ns = now;
    else if (now - *since_ns > FULL_MAX_NS)
        index_failed(cell, err);
}

static bool apply_due(struct cell *cell)
{
    if (cell->hold)
        return false;
    return cell->commit > atomic_load(&cell->applied);
}

/* Where the next call of apply ends: after whole runs, for what goes past it would be taken for damage. Where no
 * border can be found (a hole, a damaged header), apply is the one to say so. */
static uint64_t slice_end(struct cell *cell, uint64_t commit)
{
    uint64_t from = nef_store_applied(cell->rt->store, cell->number), bytes;

    /* 0: a checkpoint is awaited, for which all that is there counts */
    if (from == 0 || commit <= from || commit - from <= APPLY_SLICE)
        return commit;
    bytes = cell_whole_records(cell, from, APPLY_SLICE);
    if (bytes == 0)
        return commit;
    return NEF_MIN(commit, nef_log_end_at(from + bytes, cell->rt->segment_bytes));
}

static void *apply_main(void *argument)
{
    struct cell *cell = argument;
    struct nef_runtime *rt = cell->rt;
    uint64_t full_since = 0;
    uint32_t stuck = 0;

    thread_name("apply-%u", cell->number);
    pthread_mutex_lock(&cell->lock);
    for (;;) {
        uint64_t until, commit, applied;
        bool rebuild, rebuilt = false;
        nef_err err = NEF_OK;

        while (!atomic_load(&rt->stopping) && !apply_due(cell))
            pthread_cond_wait(&cell->apply_cond, &cell->lock);
        if (atomic_load(&rt->stopping))
            break;
        until = commit = cell->commit;
        rebuild = cell->rebuild;
        cell->apply_running = true;
        pthread_mutex_unlock(&cell->lock);

        if (rebuild) {
            err = nef_store_rebuild(rt->store, cell->number);
            rebuilt = err == NEF_OK;
            nef_trace(err == NEF_OK ? NEF_TRACE_INFO : NEF_TRACE_WARN, "index_rebuild", "u:cell",
                      (uint64_t)cell->number, "u:from", nef_store_applied(rt->store, cell->number),
                      "e:err", err, NULL);
        }
        if (err == NEF_OK) {
            until = slice_end(cell, commit);
            err = nef_store_apply(rt->store, cell->number, until);
        }
        applied = nef_store_applied(rt->store, cell->number);
        index_full(cell, err, &full_since);
        if (err != NEF_OK) {
            /* AGAIN: a checkpoint is awaited */
            nef_trace(err == NEF_E_AGAIN ? NEF_TRACE_DEBUG : NEF_TRACE_ERROR, "apply_failed", "u:cell",
                      (uint64_t)cell->number, "u:applied", applied, "e:err", err, NULL);
            if (err != NEF_E_CORRUPT && err != NEF_E_TORN && err != NEF_E_IO)
                stuck = 0;
            else if (repair_for_apply(cell))
                stuck = 0;
            else if (++stuck == 3) /* not because somebody else repaired it meanwhile */
                index_failed(cell, err);
        } else {
            stuck = 0;
        }

        pthread_mutex_lock(&cell->lock);
        cell->apply_running = false;
        if (rebuilt)
            cell->rebuild = false; /* apply goes on where that left it, whatever it met then */
        if (!cell->rebuild) {
            atomic_store(&cell->applied, applied);
            nef_gate_applied(cell->gate, applied);
        }
        pthread_cond_broadcast(&cell->idle_cond);
        pthread_mutex_unlock(&cell->lock);
        cell_wake_readers(cell, 0);
        if (err != NEF_OK || applied < until) {
            /* it is tried again; a peer or a key may come, or the rest of a run */
            struct timespec pause = {0, err != NEF_OK ? 200000000 : 1000000};

            (void)nanosleep(&pause, NULL);
        }
        pthread_mutex_lock(&cell->lock);
    }
    pthread_mutex_unlock(&cell->lock);
    return NULL;
}

nef_err cell_start(struct cell *cell)
{
    static const uint8_t every_key[16];
    uint64_t applied = nef_store_applied(cell->rt->store, cell->number);
    void *memory = malloc(nef_gate_bytes(GATE_ENTRIES));

    if (memory == NULL)
        return NEF_E_NOMEM;
    cell->gate = nef_gate_init(memory, GATE_ENTRIES, applied);
    NEF_ASSERT((void *)cell->gate == memory);
    cell->end = nef_log_end(cell->log);
    cell->commit = applied;
    atomic_store(&cell->applied, applied);
    /* which keys the ops between applied and the end touch isn't known: all reads wait for them */
    cell->unmarked_until = cell->end;
    if (cell->end > applied)
        nef_gate_mark(cell->gate, every_key, cell->end);
    if (pthread_create(&cell->sync_thread, NULL, sync_main, cell) != 0 ||
        pthread_create(&cell->apply_thread, NULL, apply_main, cell) != 0)
        return NEF_E_SYSTEM;
    return NEF_OK;
}

void cell_stop(struct cell *cell)
{
    pthread_mutex_lock(&cell->lock);
    pthread_cond_broadcast(&cell->sync_wanted_cond);
    pthread_cond_broadcast(&cell->apply_cond);
    pthread_mutex_unlock(&cell->lock);
    (void)pthread_join(cell->sync_thread, NULL);
    (void)pthread_join(cell->apply_thread, NULL);
}

/* ---- what the core asks for ---- */

void cell_sync(struct cell *cell)
{
    pthread_mutex_lock(&cell->lock);
    cell->sync_wanted = true;
    pthread_cond_signal(&cell->sync_wanted_cond);
    pthread_mutex_unlock(&cell->lock);
}

void cell_commit(struct cell *cell, uint64_t until)
{
    pthread_mutex_lock(&cell->lock);
    if (until > cell->commit) {
        cell->commit = until;
        pthread_cond_signal(&cell->apply_cond);
    }
    pthread_mutex_unlock(&cell->lock);
}
