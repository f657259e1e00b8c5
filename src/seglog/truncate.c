/* Cutting a log, atomically with respect to crashes.
 *
 * What is cut may hold records with synced-before marks. If a crash left some of them behind while others
 * below were zeroed already, recovery would have to call that damage. So a note (the file "truncate",
 * made durable first) says where the log is cut; nef_log_open finishes a cut that it finds noted. Steps,
 * all of which may be repeated:
 *
 *   1. the note                                          (durable before 2)
 *   2. unlink segments and seals above the cut, and the seal of the segment that holds it
 *   3. write zeros from the cut to that segment's end; sync the file, then the directory
 *   4. unlink the note                                   (durable before the caller goes on)
 *
 * Zeros are written, not punched: the space stays reserved, and nothing above the cut can ever be read
 * as a record again. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "seglog/seglog_internal.h"

/* Steps 2 and 3. numbers: segments and seals above the segment of TO. file: that segment's, or NULL. */
static nef_err cut_files(struct nef_log *log, const uint64_t *segments, size_t segment_count,
                         const uint64_t *seals, size_t seal_count, uint64_t to, struct nef_file *file)
{
    uint64_t number = segment_of(log, to);
    char name[NEF_NAME_BYTES];
    nef_err err = NEF_OK;

    for (size_t i = segment_count; err == NEF_OK && i-- > 0;) {
        nef_segment_name(segments[i], name);
        err = nef_dir_remove(log->dir, name);
    }
    for (size_t i = seal_count; err == NEF_OK && i-- > 0;) {
        nef_seal_name(seals[i], name);
        err = nef_dir_remove(log->dir, name);
    }
    if (err == NEF_OK) {
        nef_seal_name(number, name);
        err = nef_dir_remove(log->dir, name);
    }
    /* the same bytes again, unless the header was the damage that the cut is to end */
    if (err == NEF_OK && file != NULL)
        err = nef_segment_write_header(log, number, file);
    if (err == NEF_OK && file != NULL)
        err = nef_zero_above(log, number, to, file);
    if (err == NEF_OK && file != NULL)
        err = file->ops->sync(file);
    if (err == NEF_OK)
        err = log->dir->ops->sync_dir(log->dir);
    return err;
}

static nef_err remove_note(struct nef_log *log)
{
    nef_err err = nef_dir_remove(log->dir, NEF_CUT_NAME);

    return err == NEF_OK ? log->dir->ops->sync_dir(log->dir) : err;
}

/* Index of the first entry above NUMBER. */
static size_t first_above(const struct nef_numbers *n, uint64_t number)
{
    size_t i = 0;

    while (i < n->count && n->at[i] <= number)
        i++;
    return i;
}

static void take_out(struct nef_numbers *n, uint64_t number)
{
    size_t kept = 0;

    for (size_t i = 0; i < n->count; i++)
        if (n->at[i] != number)
            n->at[kept++] = n->at[i];
    n->count = kept;
}

nef_err nef_cut_resume(struct nef_log *log, struct nef_numbers *segments, struct nef_numbers *seals)
{
    uint8_t bytes[NEF_SIDECAR_BYTES_MAX];
    char name[NEF_NAME_BYTES];
    struct nef_file *file = NULL;
    size_t n = 0, segment_at, seal_at;
    uint64_t to, number;
    nef_err err;

    err = nef_sidecar_read(log->dir, NEF_CUT_NAME, bytes, &n);
    if (err == NEF_E_NOT_FOUND)
        return NEF_OK;
    if (err == NEF_OK)
        err = nef_cut_decode(bytes, n, log->options.cell, &to);
    if (err != NEF_OK)
        return err;
    nef_trace(NEF_TRACE_WARN, "cut_resumed", "u:cell", (uint64_t)log->options.cell, "u:offset", to,
              NULL);
    number = segment_of(log, to);
    if (to % log->segment_bytes < NEF_SEGMENT_HEADER_BYTES)
        return NEF_E_CORRUPT;
    nef_segment_name(number, name);
    err = log->dir->ops->open(log->dir, name, 0, &file);
    if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        return err;
    segment_at = first_above(segments, number);
    seal_at = first_above(seals, number);
    err = cut_files(log, segments->at + segment_at, segments->count - segment_at, seals->at + seal_at,
                    seals->count - seal_at, to, file);
    if (file != NULL)
        file->ops->close(file);
    if (err == NEF_OK)
        err = remove_note(log);
    if (err != NEF_OK)
        return err;
    segments->count = segment_at;
    seals->count = seal_at;
    take_out(seals, number);
    return NEF_OK;
}

/* Is TO a place where the log can end? It may be the first place of a segment that isn't created, or was dropped,
 * or skipped: behind a full one, or at the very beginning, as a log that never had a record. */
static bool place_exists(struct nef_log *log, uint64_t to)
{
    uint64_t number = segment_of(log, to);
    struct nef_segment *seg, *before;
    bool found;

    pthread_mutex_lock(&log->lock);
    seg = nef_segment_find(log, number);
    before = number == 0 ? NULL : nef_segment_find(log, number - 1);
    found = seg != NULL && !seg->dropped && to <= seg->end;
    if (to == segment_first(log, number) &&
        (number == 0 || (before != NULL && !before->dropped && before->end == segment_border(log, number - 1))))
        found = true;
    if (to == log->end)
        found = true;
    pthread_mutex_unlock(&log->lock);
    return found;
}

/* Take the segments above NUMBER out of memory. */
static void forget_above(struct nef_log *log, uint64_t number)
{
    struct nef_segment *tail = NULL;

    pthread_mutex_lock(&log->lock);
    if (log->tail != NULL && log->tail->number > number) {
        tail = log->tail;
        log->tail = NULL;
    }
    for (size_t i = log->segment_count; i-- > 0;) {
        struct nef_segment *seg = log->segments[i];

        if (seg->number <= number)
            break;
        if (seg->dropped)
            continue;
        if (seg->dirty) {
            seg->dirty = false;
            seg->refs--;
            log->dirty_count--;
        }
        if (seg == tail)
            seg->refs--;
        nef_segment_free(nef_segment_remove(log, seg));
    }
    pthread_mutex_unlock(&log->lock);
}

nef_err nef_log_truncate(struct nef_log *log, uint64_t to)
{
    uint64_t number = segment_of(log, to);
    uint8_t note[NEF_SIDECAR_BYTES_MAX];
    struct nef_segment *seg = NULL;
    uint64_t *above = NULL;
    size_t first, count = 0;
    nef_err err;

    err = nef_log_usable(log);
    if (err != NEF_OK)
        return err;
    if (to > log->end)
        return NEF_E_RANGE;
    if (to % NEF_RECORD_ALIGN != 0 || to % log->segment_bytes < NEF_SEGMENT_HEADER_BYTES ||
        !place_exists(log, to))
        return NEF_E_INVALID;
    if (to == log->end && !atomic_load_explicit(&log->damaged, memory_order_relaxed))
        return NEF_OK; /* above the end is nothing */

    nef_maintain_lock(log);
    err = nef_prepared_discard(log);
    if (err == NEF_OK) {
        err = nef_segment_acquire(log, number, false, &seg);
        if (err == NEF_E_NOT_FOUND)
            err = NEF_OK; /* not created yet */
    }
    pthread_mutex_lock(&log->lock);
    first = nef_segment_index(log, number + 1);
    count = log->segment_count - first;
    above = malloc((count + 1) * sizeof(*above));
    for (size_t i = 0; above != NULL && i < count; i++)
        above[i] = log->segments[first + i]->number;
    pthread_mutex_unlock(&log->lock);
    if (err == NEF_OK && above == NULL)
        err = NEF_E_NOMEM;
    if (err == NEF_OK)
        err = nef_sidecar_write(log->dir, NEF_CUT_NAME, note,
                                nef_cut_encode(log->options.cell, to, note));
    if (err == NEF_E_NOSPACE || err == NEF_E_NOMEM)
        goto out; /* there is no note: nothing changed */
    if (err == NEF_OK)
        err = cut_files(log, above, count, above, count, to, seg == NULL ? NULL : seg->file);
    if (err == NEF_OK)
        err = remove_note(log);
    if (err != NEF_OK) {
        /* the note may be there or not: only a fresh recovery knows */
        err = nef_log_fail(log, "truncate", err);
        goto out;
    }
    forget_above(log, number);
    pthread_mutex_lock(&log->lock);
    log->end = to;
    nef_epochs_cut(&log->epochs, to);
    log->last_epoch = log->epochs.count == 0 ? 0 : log->epochs.at[log->epochs.count - 1].epoch;
    if (seg != NULL) {
        seg->end = to;
        seg->synced_to = to;
        seg->sealed = false;
        seg->seal_refused = false;
        if (seg->dirty) {
            seg->dirty = false;
            seg->refs--;
            log->dirty_count--;
        }
    }
    if (seg != NULL && log->tail != seg) {
        NEF_ASSERT(log->tail == NULL || log->tail->number < number);
        if (log->tail == NULL)
            seg->refs++;
        log->tail = log->tail == NULL ? seg : log->tail;
    }
    pthread_mutex_unlock(&log->lock);
    atomic_store_explicit(&log->damaged, false, memory_order_relaxed);
out:
    pthread_mutex_unlock(&log->maintain);
    if (seg != NULL)
        nef_segment_release(log, seg);
    free(above);
    return err;
}
