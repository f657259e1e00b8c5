/* The log's head: append, sync, prepare the next segment, skip.
 *
 *   append     checks that the bytes are records of this place, then one pwrite. Entering a segment takes
 *              the prepared one, or creates it: its file, header and name are durable before it counts.
 *   sync       notes the end, takes the dirty segments, fdatasyncs them in ascending order. What is
 *              appended meanwhile makes them dirty again.
 *   prepare    creates the segment after the tail and seals full ones; all that may wait.
 *   skip       makes a later segment the tail. Order of its steps, for a crash between any two:
 *              create the target (while it has no records and the old tail is neither full nor sealed,
 *              recovery takes it for a prepared one and removes it: the log is as before), then seal the
 *              old tail (from here recovery sees the new end).
 *
 * Durable means: the offset that nef_log_sync returns. Nothing else may be acknowledged. */
#include "seglog/seglog_internal.h"

nef_err nef_log_check_records(struct nef_log *log, uint64_t offset, const uint8_t *data,
                              uint64_t bytes, uint64_t last_epoch, uint64_t *out_last_epoch)
{
    struct nef_record r;
    uint64_t at = 0, size;
    nef_err err;

    while (at < bytes) {
        if (bytes - at < NEF_RECORD_HEADER_BYTES)
            return NEF_E_INVALID;
        err = nef_record_decode(data + at, &r);
        if (err != NEF_OK)
            return err == NEF_E_TORN ? NEF_E_CORRUPT : err;
        size = nef_record_bytes(r.body_bytes);
        if (r.cell != log->options.cell || r.offset != offset + at || size > bytes - at ||
            r.epoch == 0 || r.epoch < last_epoch)
            return NEF_E_INVALID;
        err = nef_record_check_body(&r, data + at + NEF_RECORD_HEADER_BYTES);
        if (err != NEF_OK)
            return err;
        last_epoch = r.epoch;
        at += size;
    }
    *out_last_epoch = last_epoch;
    return NEF_OK;
}

nef_err nef_tail_enter(struct nef_log *log)
{
    struct nef_segment *seg = NULL, *old = NULL;
    uint64_t number;
    bool there;
    nef_err err = NEF_OK;

    pthread_mutex_lock(&log->lock);
    number = segment_of(log, log->end);
    there = log->tail != NULL && log->tail->number == number;
    pthread_mutex_unlock(&log->lock);
    if (there)
        return NEF_OK;
    if (log->prepared != NULL && log->prepared->number == number) {
        seg = log->prepared;
        log->prepared = NULL;
    } else {
        err = nef_segment_create(log, number, false, &seg);
        if (err == NEF_E_NOSPACE || err == NEF_E_NOMEM)
            return err;
        if (err != NEF_OK)
            return nef_log_fail(log, "create segment", err);
    }
    pthread_mutex_lock(&log->lock);
    err = nef_segment_insert(log, seg);
    if (err == NEF_OK) {
        old = log->tail;
        seg->refs++;
        log->tail = seg;
    }
    pthread_mutex_unlock(&log->lock);
    if (err != NEF_OK)
        log->prepared = seg; /* durable and empty: as good as prepared */
    if (old != NULL)
        nef_segment_release(log, old);
    return err;
}

nef_err nef_log_append(struct nef_log *log, uint64_t offset, const void *data, uint64_t bytes)
{
    struct nef_segment *seg;
    uint64_t last_epoch = log->last_epoch, at;
    nef_err err;

    err = nef_log_usable(log);
    if (err != NEF_OK)
        return err;
    if (atomic_load_explicit(&log->damaged, memory_order_relaxed))
        return NEF_E_DAMAGED;
    if (offset != log->end || bytes == 0 || bytes % NEF_RECORD_ALIGN != 0 ||
        bytes > segment_border(log, segment_of(log, offset)) - offset)
        return NEF_E_INVALID;
    err = nef_log_check_records(log, offset, data, bytes, last_epoch, &last_epoch);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->lock);
    seg = log->tail;
    pthread_mutex_unlock(&log->lock);
    if (seg == NULL || seg->number != segment_of(log, offset)) {
        nef_maintain_lock(log);
        err = nef_tail_enter(log);
        seg = log->tail;
        pthread_mutex_unlock(&log->maintain);
        if (err != NEF_OK)
            return err;
    }
    err = seg->file->ops->write(seg->file, offset % log->segment_bytes, data, bytes);
    if (err == NEF_E_NOSPACE) {
        /* Space was reserved, but some file systems need more for a write (copy on write, quotas). A part
         * may have been written, and might outlive a crash as records that nobody knows of: take it
         * back, or give up. */
        err = nef_zero_above(log, seg->number, offset, seg->file);
        if (err == NEF_OK)
            err = nef_segment_sync(log, seg);
        return err == NEF_OK ? NEF_E_NOSPACE : nef_log_fail(log, "undo append", err);
    }
    if (err != NEF_OK)
        return nef_log_fail(log, "append", err);

    pthread_mutex_lock(&log->lock);
    for (at = 0; last_epoch != log->last_epoch && at < bytes;) {
        struct nef_record r;

        err = nef_record_decode((const uint8_t *)data + at, &r);
        NEF_ASSERT(err == NEF_OK); /* checked above */
        (void)nef_epochs_note(&log->epochs, r.epoch, r.offset);
        at += nef_record_bytes(r.body_bytes);
    }
    log->last_epoch = last_epoch;
    seg->end = offset + bytes;
    log->end = nef_log_end_at(offset + bytes, log->segment_bytes);
    if (!seg->dirty) {
        seg->dirty = true;
        seg->refs++;
        log->dirty_count++;
    }
    pthread_mutex_unlock(&log->lock);
    return NEF_OK;
}

nef_err nef_log_sync(struct nef_log *log, uint64_t *out_durable)
{
    uint64_t durable;
    nef_err err;

    pthread_mutex_lock(&log->sync);
    pthread_mutex_lock(&log->lock);
    durable = log->end;
    pthread_mutex_unlock(&log->lock);
    for (;;) {
        struct nef_segment *seg = NULL;
        uint64_t synced_to = 0;

        err = nef_log_usable(log);
        if (err != NEF_OK)
            break;
        pthread_mutex_lock(&log->lock);
        for (size_t i = log->segment_count; log->dirty_count > 0 && i-- > 0;) {
            /* The lowest first. Records that arrived after `durable` was noted don't have to be waited
             * for, so a segment beyond it is left to the next sync. */
            if (log->segments[i]->dirty && segment_start(log, log->segments[i]->number) <= durable)
                seg = log->segments[i];
        }
        if (seg != NULL) {
            seg->dirty = false; /* its reference is ours now */
            log->dirty_count--;
            synced_to = seg->end;
        }
        pthread_mutex_unlock(&log->lock);
        if (seg == NULL)
            break;
        err = seg->file->ops->sync(seg->file);
        if (err != NEF_OK) {
            err = nef_log_fail(log, "sync", err);
            nef_segment_release(log, seg);
            break;
        }
        pthread_mutex_lock(&log->lock);
        seg->synced_to = synced_to;
        pthread_mutex_unlock(&log->lock);
        nef_segment_release(log, seg);
        if (segment_of(log, durable) <= segment_of(log, synced_to - 1))
            break; /* that was the one of `durable`; a busy tail must not keep this call going */
    }
    pthread_mutex_unlock(&log->sync);
    if (err == NEF_OK)
        *out_durable = durable;
    return err;
}

nef_err nef_log_prepare(struct nef_log *log)
{
    struct nef_segment *seg;
    uint64_t number, left;
    nef_err err;

    err = nef_log_usable(log);
    if (err != NEF_OK)
        return err;
    if (atomic_load_explicit(&log->damaged, memory_order_relaxed))
        return NEF_OK; /* no append will come before a cut */
    pthread_mutex_lock(&log->maintain);
    pthread_mutex_lock(&log->lock);
    number = segment_of(log, log->end);
    left = segment_border(log, number) - log->end;
    if (log->tail != NULL && log->tail->number == number) {
        number = left < log->segment_bytes / 2 ? number + 1 : UINT64_MAX;
    }
    pthread_mutex_unlock(&log->lock);
    if (number != UINT64_MAX && log->prepared == NULL) {
        err = nef_segment_create(log, number, log->options.zero_fill, &seg);
        if (err == NEF_OK)
            log->prepared = seg;
    }
    if (err == NEF_OK || err == NEF_E_NOSPACE) {
        nef_err seal_err = nef_seal_pending(log);

        if (err == NEF_OK)
            err = seal_err;
    }
    pthread_mutex_unlock(&log->maintain);
    return err;
}

/* The new tail is in place (not yet in the list): make all that is there durable; take the old tail away if
 * it holds nothing, else seal it. */
static nef_err leave_tail(struct nef_log *log, struct nef_segment *tail)
{
    char name[NEF_NAME_BYTES];
    uint64_t durable;
    nef_err err;

    /* also what lies below an empty tail: records behind the hole may be stamped as if it were durable */
    err = nef_log_sync(log, &durable);
    if (err != NEF_OK)
        return err;
    if (tail->end == segment_first(log, tail->number)) {
        nef_segment_name(tail->number, name);
        err = nef_dir_remove(log->dir, name);
        return err == NEF_OK ? log->dir->ops->sync_dir(log->dir) : err;
    }
    return tail->sealed ? NEF_OK : nef_segment_seal(log, tail, false);
}

nef_err nef_log_skip(struct nef_log *log, uint64_t to)
{
    struct nef_segment *seg = NULL, *old, *gone = NULL;
    uint64_t number = segment_of(log, to);
    nef_err err;

    err = nef_log_usable(log);
    if (err != NEF_OK)
        return err;
    if (atomic_load_explicit(&log->damaged, memory_order_relaxed))
        return NEF_E_DAMAGED;
    if (to != segment_first(log, number) || to < log->end)
        return NEF_E_INVALID;
    if (to == log->end && log->tail != NULL && log->tail->number == number)
        return NEF_OK;

    nef_maintain_lock(log);
    old = log->tail;
    if (log->prepared != NULL && log->prepared->number == number) {
        seg = log->prepared;
        log->prepared = NULL;
    } else {
        err = nef_prepared_discard(log);
        if (err == NEF_OK)
            err = nef_segment_create(log, number, false, &seg);
        if (err == NEF_E_NOSPACE || err == NEF_E_NOMEM)
            goto out; /* nothing changed */
    }
    if (err == NEF_OK && old != NULL)
        err = leave_tail(log, old);
    if (err == NEF_OK) {
        pthread_mutex_lock(&log->lock);
        err = nef_segment_insert(log, seg);
        if (err == NEF_OK) {
            seg->refs++;
            log->tail = seg;
            log->end = to;
            if (old != NULL && old->end == segment_first(log, old->number)) {
                NEF_ASSERT(!old->dirty);
                old->refs--;
                gone = nef_segment_remove(log, old);
                old = NULL;
            }
        }
        pthread_mutex_unlock(&log->lock);
        nef_segment_free(gone);
        if (err == NEF_OK && old != NULL)
            nef_segment_release(log, old);
    }
    if (err != NEF_OK) {
        /* half done on the disk: only a fresh recovery knows what holds */
        nef_segment_free(seg);
        err = nef_log_fail(log, "skip", err);
    }
out:
    pthread_mutex_unlock(&log->maintain);
    return err;
}
