/* What the core does to a cell's log: append, mark, write, cut, skip.
 *
 * All of it is synchronous, in the core thread: bytes go to the page cache and are marked in the gate before
 * anybody can acknowledge them (R5). A cut and a skip first wait for the cell's sync and apply threads (`hold`),
 * so that nothing reads or syncs what goes. What a cut takes is kept aside (R8). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "io/clock.h"
#include "server/runtime_internal.h"

/* ---- writing ---- */

/* Ops that change what a client can see; the others (moves, drops, checkpoints) need no waiting. */
static bool is_visible(const struct nef_record *record)
{
    return nef_record_is_op(record->type) && record->type < NEF_RECORD_MOVED;
}

static nef_err write_pad(struct cell *cell, uint64_t epoch, uint64_t synced_before, uint64_t offset,
                         uint64_t bytes)
{
    struct nef_record pad = {
        .type = NEF_RECORD_PAD,
        .flags = NEF_RECORD_LAST,
        .cell = cell->number,
        .body_bytes = (uint32_t)(bytes - NEF_RECORD_HEADER_BYTES),
    };
    uint8_t *data;
    nef_err err;

    NEF_ASSERT(bytes >= NEF_RECORD_HEADER_BYTES && bytes <= NEF_PROPOSAL_BYTES_MAX + 4096);
    data = calloc(1, bytes);
    if (data == NULL)
        return NEF_E_NOMEM;
    nef_record_encode(&pad, data + NEF_RECORD_HEADER_BYTES, 0, data);
    nef_record_stamp(data, epoch, offset, nef_wall_ms(), synced_before);
    err = nef_log_append(cell->log, offset, data, bytes);
    free(data);
    return err;
}

static void moved_end(struct cell *cell, const uint8_t *tag, uint64_t end)
{
    pthread_mutex_lock(&cell->lock);
    if (tag != NULL)
        nef_gate_mark(cell->gate, tag, end);
    cell->end = end;
    pthread_mutex_unlock(&cell->lock);
}

nef_err cell_append(struct cell *cell, const struct nef_action *action)
{
    struct payload *p = (struct payload *)(uintptr_t)action->handle;
    uint64_t now_ms = nef_wall_ms();
    uint8_t tag[16];
    const uint8_t *touched = NULL;
    uint8_t *data = p->data;
    nef_err err = NEF_OK;

    NEF_ASSERT(p->cell == cell->number);
    if (action->pad_bytes > 0) {
        err = write_pad(cell, action->epoch, action->synced_before, action->pad_offset,
                        action->pad_bytes);
        if (err != NEF_OK)
            return err;
    }
    if (p->number != 0 && atomic_load(&p->refs) > 1) {
        /* a link still sends it as a proposal: stamping in place would tear what it sends */
        data = malloc(p->bytes);
        if (data == NULL)
            return NEF_E_NOMEM;
        memcpy(data, p->data, p->bytes);
    }
    for (uint32_t at = 0; at < p->bytes;) {
        struct nef_record record;

        err = nef_record_decode(data + at, &record); /* checked when it was proposed */
        NEF_ASSERT(err == NEF_OK);
        if (is_visible(&record)) {
            memcpy(tag, record.key_tag, sizeof(tag));
            touched = tag;
        }
        nef_record_stamp(data + at, action->epoch, action->offset + at, now_ms, action->synced_before);
        at += (uint32_t)nef_record_bytes(record.body_bytes);
        NEF_ASSERT(at <= p->bytes);
    }
    moved_end(cell, touched, nef_log_end_at(action->offset + p->bytes, cell->rt->segment_bytes));
    err = nef_log_append(cell->log, action->offset, data, p->bytes);
    (void)atomic_fetch_add(&cell->rt->bytes_appended, p->bytes);
    (void)atomic_fetch_add(&cell->appended_bytes, p->bytes);
    (void)atomic_fetch_add(&cell->appended_runs, 1);
    if (data != p->data) {
        free(data);
    } else if (p->number != 0) {
        for (uint32_t at = 0; at < p->bytes;) { /* it may be proposed again, to another primary */
            struct nef_record record;

            if (nef_record_decode(data + at, &record) != NEF_OK)
                break;
            nef_record_stamp(data + at, 0, 0, 0, 0);
            at += (uint32_t)nef_record_bytes(record.body_bytes);
        }
    }
    return err;
}

nef_err cell_mark(struct cell *cell, const struct nef_action *action)
{
    struct nef_record mark = {
        .type = NEF_RECORD_MARK, .flags = NEF_RECORD_LAST, .cell = cell->number};
    uint8_t data[NEF_RECORD_HEADER_BYTES];

    if (action->pad_bytes > 0) {
        nef_err err = write_pad(cell, action->epoch, action->synced_before, action->pad_offset,
                                action->pad_bytes);

        if (err != NEF_OK)
            return err;
    }
    nef_record_encode(&mark, NULL, 0, data);
    nef_record_stamp(data, action->epoch, action->offset, nef_wall_ms(), action->synced_before);
    moved_end(cell, NULL,
              nef_log_end_at(action->offset + sizeof(data), cell->rt->segment_bytes));
    return nef_log_append(cell->log, action->offset, data, sizeof(data));
}

/* The payload was checked against this place when it came (peer.c). */
nef_err cell_write(struct cell *cell, const struct nef_action *action, const struct payload *p)
{
    uint64_t segment_bytes = cell->rt->segment_bytes;

    NEF_ASSERT(p->cell == cell->number && p->bytes == action->bytes);
    pthread_mutex_lock(&cell->lock);
    for (uint32_t at = 0; at < p->bytes;) {
        struct nef_record record;
        nef_err err = nef_record_decode(p->data + at, &record);

        NEF_ASSERT(err == NEF_OK && record.offset == action->offset + at);
        at += (uint32_t)nef_record_bytes(record.body_bytes);
        if (is_visible(&record))
            nef_gate_mark(cell->gate, record.key_tag, nef_log_end_at(action->offset + at, segment_bytes));
    }
    cell->end = nef_log_end_at(action->offset + p->bytes, segment_bytes);
    pthread_mutex_unlock(&cell->lock);
    (void)atomic_fetch_add(&cell->rt->bytes_appended, p->bytes);
    return nef_log_append(cell->log, action->offset, p->data, p->bytes);
}

#define RECORDS_WINDOW 16384u

/* Bytes of whole runs from OFFSET on, at most BYTES_MAX but one run at least, inside the segment. Never a part
 * of a run: what the backup has written is what it goes on from, alone, if the primary dies now, and records
 * that follow half a run could never be applied. (It is durable, and so committed, up to there, too.) */
uint64_t cell_whole_records(struct cell *cell, uint64_t offset, uint64_t bytes_max)
{
    uint64_t limit = cell->rt->segment_bytes - offset % cell->rt->segment_bytes;
    uint64_t end = nef_log_end(cell->log), at = 0, bytes = 0, have_at = 0, have = 0;
    uint8_t window[RECORDS_WINDOW];

    limit = NEF_MIN(limit, end > offset ? end - offset : 0);
    while (at < limit) {
        struct nef_record record;

        if (at + NEF_RECORD_HEADER_BYTES > have_at + have) {
            have_at = at;
            have = NEF_MIN(limit - at, sizeof(window));
            if (have < NEF_RECORD_HEADER_BYTES)
                break;
            if (nef_log_read(cell->log, offset + at, window, have) != NEF_OK) {
                have = NEF_RECORD_HEADER_BYTES; /* a segment that was left before it was full */
                if (nef_log_read(cell->log, offset + at, window, have) != NEF_OK)
                    break;
            }
        }
        if (nef_record_decode(window + (at - have_at), &record) != NEF_OK)
            break;
        at += nef_record_bytes(record.body_bytes);
        if (at > limit || (bytes > 0 && at > bytes_max))
            break;
        if ((record.flags & NEF_RECORD_LAST) != 0)
            bytes = at;
    }
    return bytes;
}

/* ---- moving the end ---- */

static void hold(struct cell *cell)
{
    pthread_mutex_lock(&cell->lock);
    cell->hold = true;
    while (cell->sync_running || cell->apply_running)
        pthread_cond_wait(&cell->idle_cond, &cell->lock);
    pthread_mutex_unlock(&cell->lock);
}

static void release(struct cell *cell)
{
    pthread_mutex_lock(&cell->lock);
    cell->hold = false;
    pthread_cond_broadcast(&cell->sync_wanted_cond);
    pthread_cond_broadcast(&cell->apply_cond);
    pthread_mutex_unlock(&cell->lock);
}

static nef_err sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    nef_err err = NEF_OK;

    if (fd < 0)
        return NEF_E_SYSTEM;
    if (fsync(fd) != 0)
        err = NEF_E_IO;
    (void)close(fd);
    return err;
}

#define KEEP_CHUNK (1u << 20)

static nef_err copy_out(struct cell *cell, uint64_t from, uint64_t to, int fd, uint8_t *buffer)
{
    while (from < to) {
        uint64_t bytes = NEF_MIN(to - from, KEEP_CHUNK);
        nef_err err = nef_log_read(cell->log, from, buffer, bytes);

        if (err != NEF_OK)
            return err;
        if (write(fd, buffer, bytes) != (ssize_t)bytes)
            return NEF_E_IO;
        from += bytes;
    }
    return NEF_OK;
}

/* A segment that goes as a whole keeps its file under another name: a log may be larger than what is free. */
static bool keep_segment(struct cell *cell, uint64_t number, const char *stem)
{
    char name[NEF_SEGMENT_NAME_BYTES], from[4096], to[4096];

    nef_segment_name(number, name);
    (void)snprintf(from, sizeof(from), "%s/cell-%u/%s", cell->rt->config->data_dir, cell->number, name);
    (void)snprintf(to, sizeof(to), "%s.%s", stem, name);
    return link(from, to) == 0;
}

/* Is what begins at FROM of an epoch that an accepted loss gave up? Then it may hold what was acknowledged. Otherwise
 * it can't (R1): whoever could take the next epoch had all that was. What can't be read is taken for evidence. */
static bool given_up(struct cell *cell, uint64_t from)
{
    struct nef_repl_status status;
    struct nef_record record;
    uint64_t next;

    nef_repl_status(cell->rt->core, &status);
    return status.group.override_epoch != 0 &&
           (nef_log_record(cell->log, nef_log_next_present(cell->log, from), &record, NULL, &next) != NEF_OK ||
            record.epoch < status.group.override_epoch);
}

/* What is cut is never just lost: it goes to DIR/lost/, where an operator can look at it (R8; for how long: lost.c).
 * From the segment of the cut, which goes on with zeros in their place, the records are copied; each later one is a
 * file of its own. */
static nef_err keep_tail(struct cell *cell, uint64_t from, uint64_t to)
{
    uint64_t segment_bytes = cell->rt->segment_bytes, cut_segment = from / segment_bytes;
    char stem[4000], path[4096], lost[4096];
    uint8_t *buffer = malloc(KEEP_CHUNK);
    int fd = -1;
    nef_err err = NEF_OK;

    (void)snprintf(lost, sizeof(lost), "%s/lost", cell->rt->config->data_dir);
    (void)snprintf(stem, sizeof(stem), "%s/lost/%scell-%u-%016llx-%016llx", cell->rt->config->data_dir,
                   given_up(cell, from) ? "" : LOST_TAIL, cell->number, (unsigned long long)from,
                   (unsigned long long)nef_wall_ms());
    (void)snprintf(path, sizeof(path), "%s.records", stem);
    if (buffer == NULL)
        return NEF_E_NOMEM;
    if (mkdir(lost, 0700) != 0 && errno != EEXIST)
        err = NEF_E_SYSTEM;
    for (uint64_t at = nef_log_next_present(cell->log, from); err == NEF_OK && at < to;
         at = nef_log_next_present(cell->log, from)) { /* over holes */
        uint64_t border = (at / segment_bytes + 1) * segment_bytes;

        from = NEF_MIN(NEF_MIN(nef_log_present_until(cell->log, at), border), to);
        if (at / segment_bytes > cut_segment && keep_segment(cell, at / segment_bytes, stem))
            continue;
        if (fd < 0)
            fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        err = fd < 0 ? NEF_E_SYSTEM : copy_out(cell, at, from, fd, buffer);
    }
    if (err == NEF_OK && fd >= 0 && fsync(fd) != 0)
        err = NEF_E_IO;
    if (err == NEF_OK) /* the names, too: the files', then the directory's */
        err = sync_directory(lost);
    if (err == NEF_OK)
        err = sync_directory(cell->rt->config->data_dir);
    if (fd >= 0)
        (void)close(fd);
    free(buffer);
    return err;
}

nef_err cell_cut(struct cell *cell, uint64_t to)
{
    static const uint8_t every_key[16];
    uint64_t end = nef_log_end(cell->log);
    nef_err err;

    hold(cell);
    nef_trace(NEF_TRACE_WARN, "log_cut", "u:cell", (uint64_t)cell->number, "u:from", end, "u:to", to,
              NULL);
    if (end > to) {
        err = keep_tail(cell, to, end);
        if (err != NEF_OK) /* a full disk mustn't keep the replica out for ever */
            nef_trace(NEF_TRACE_ERROR, "log_cut_not_kept", "u:cell", (uint64_t)cell->number, "e:err",
                      err, NULL);
    }
    err = nef_log_truncate(cell->log, to);
    if (err == NEF_OK) {
        uint64_t applied = nef_store_applied(cell->rt->store, cell->number);

        scrub_forget(cell->rt, cell->number, end, to);
        pthread_mutex_lock(&cell->lock);
        /* Only after an accepted loss: the index is ahead of the log that counts now; apply rebuilds it. Or it
         * waits for a checkpoint still (0). */
        cell->rebuild = cell->rebuild || applied > to || applied == 0;
        if (cell->rebuild) {
            atomic_store(&cell->applied, 0);
            (void)nef_gate_init(cell->gate, GATE_ENTRIES, 0);
            nef_gate_mark(cell->gate, every_key, to);
        } else {
            nef_gate_cut(cell->gate, to);
            if (to < cell->unmarked_until && to > applied)
                nef_gate_mark(cell->gate, every_key, to); /* for the mark of all that, which is cut */
        }
        cell->unmarked_until = NEF_MIN(cell->unmarked_until, to);
        cell->end = to;
        cell->sync_wanted = false;
        if (cell->commit > to)
            cell->commit = to;
        pthread_mutex_unlock(&cell->lock);
    }
    release(cell);
    cell_wake_readers(cell, UINT64_MAX - 1); /* what they wait for may never come: they ask again */
    return err;
}

nef_err cell_skip(struct cell *cell, uint64_t to)
{
    static const uint8_t every_key[16];
    uint64_t from = nef_log_end(cell->log);
    nef_err err;

    hold(cell);
    nef_trace(NEF_TRACE_WARN, "log_skip", "u:cell", (uint64_t)cell->number, "u:from", from, "u:to", to,
              NULL);
    err = nef_log_skip(cell->log, to);
    if (err == NEF_OK) {
        scrub_forget(cell->rt, cell->number, from, to);
        pthread_mutex_lock(&cell->lock);
        cell->rebuild = true;
        cell->end = to;
        nef_gate_mark(cell->gate, every_key, to);
        pthread_mutex_unlock(&cell->lock);
    }
    release(cell);
    return err;
}
