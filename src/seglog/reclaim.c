/* Giving space back: drop unlinks whole segments, erase punches bodies.
 *
 * erase, in an order that a crash can't break:
 *   1. write the header with ERASED and its new CRC in place; sync
 *   2. punch the body; sync
 * A crash in 1 can leave half a header (flag and CRC may lie in two sectors): nef_record_decode_at sees
 * that, and the body is still whole, so the record counts as not erased. A crash in 2 leaves an erased
 * record with some of its body: nobody reads that, and scrub or the repeated erase finishes it.
 *
 * drop: name of the segment first, then of its seal, with a directory sync between: a segment without
 * seal would be scanned at the next start and could look torn; a seal without segment is just removed. */
#include <stdlib.h>
#include "seglog/seglog_internal.h"

nef_err nef_log_drop(struct nef_log *log, uint64_t segment)
{
    char name[NEF_NAME_BYTES];
    struct nef_segment *seg, *gone = NULL;
    bool highest = true;
    nef_err err;

    err = nef_log_usable(log);
    if (err != NEF_OK)
        return err;
    nef_maintain_lock(log);
    pthread_mutex_lock(&log->lock);
    seg = nef_segment_find(log, segment);
    if (seg != NULL && seg->dropped)
        seg = NULL;
    for (size_t i = nef_segment_index(log, segment + 1); i < log->segment_count; i++)
        highest = highest && log->segments[i]->dropped;
    if (segment >= segment_of(log, log->end))
        err = NEF_E_INVALID;
    pthread_mutex_unlock(&log->lock);
    if (err == NEF_OK && seg != NULL && highest)
        err = nef_tail_enter(log); /* else nothing on the disk would say where the log ends */
    if (err == NEF_OK) {
        nef_segment_name(segment, name);
        err = nef_dir_remove(log->dir, name);
    }
    if (err == NEF_OK)
        err = log->dir->ops->sync_dir(log->dir);
    if (err == NEF_OK) {
        nef_seal_name(segment, name);
        err = nef_dir_remove(log->dir, name);
    }
    if (err == NEF_OK)
        err = log->dir->ops->sync_dir(log->dir);
    if (err == NEF_OK && seg != NULL) {
        pthread_mutex_lock(&log->lock);
        if (seg->dirty) {
            seg->dirty = false;
            seg->refs--;
            log->dirty_count--;
        }
        gone = nef_segment_remove(log, seg);
        pthread_mutex_unlock(&log->lock);
        nef_segment_free(gone);
    }
    pthread_mutex_unlock(&log->maintain);
    return err;
}

/* Header of the record at OFFSET, as it stands in the file. `erase` held. */
static nef_err read_header(struct nef_log *log, struct nef_segment *seg, uint64_t offset,
                           uint8_t header[NEF_RECORD_HEADER_BYTES], struct nef_record *out_record,
                           bool *out_half)
{
    uint64_t end;
    nef_err err;

    pthread_mutex_lock(&log->lock);
    end = seg->end;
    pthread_mutex_unlock(&log->lock);
    if (offset < segment_first(log, seg->number) || offset >= end ||
        end - offset < NEF_RECORD_HEADER_BYTES)
        return NEF_E_RANGE;
    err = seg->file->ops->read(seg->file, offset % log->segment_bytes, header,
                               NEF_RECORD_HEADER_BYTES);
    if (err == NEF_OK)
        err = nef_record_decode_at(header, log->options.cell, offset, out_record, out_half);
    if (err == NEF_OK && nef_record_bytes(out_record->body_bytes) > end - offset)
        err = NEF_E_CORRUPT;
    return err;
}

/* NEF_E_NOSPACE stays (the two states of a header that a partial write can leave are both read); any other
 * error of a write in place leaves bytes that nobody knows. */
static nef_err write_header(struct nef_log *log, struct nef_segment *seg, uint64_t offset,
                            const uint8_t header[NEF_RECORD_HEADER_BYTES])
{
    nef_err err = seg->file->ops->write(seg->file, offset % log->segment_bytes, header,
                                        NEF_RECORD_HEADER_BYTES);

    return err == NEF_OK || err == NEF_E_NOSPACE ? err : nef_log_fail(log, "erase", err);
}

static nef_err erase_in(struct nef_log *log, struct nef_segment *seg, const uint64_t *offsets,
                        size_t count)
{
    uint8_t header[NEF_RECORD_HEADER_BYTES];
    struct nef_record r;
    bool changed = false, punched = false, half;
    nef_err err;

    for (size_t i = 0; i < count; i++) {
        err = read_header(log, seg, offsets[i], header, &r, &half);
        if (err != NEF_OK)
            return err;
        if (r.flags & NEF_RECORD_ERASED)
            continue;
        nef_record_mark_erased(header);
        err = write_header(log, seg, offsets[i], header);
        if (err != NEF_OK)
            return err;
        changed = true;
    }
    if (changed) {
        err = nef_segment_sync(log, seg);
        if (err != NEF_OK)
            return err;
    }
    for (size_t i = 0; i < count; i++) {
        err = read_header(log, seg, offsets[i], header, &r, &half);
        if (err != NEF_OK)
            return err;
        if (r.body_bytes == 0)
            continue;
        err = seg->file->ops->punch(seg->file, offsets[i] % log->segment_bytes + NEF_RECORD_HEADER_BYTES,
                                    r.body_bytes);
        if (err == NEF_E_NOSPACE)
            return err;
        if (err != NEF_OK)
            return nef_log_fail(log, "punch", err);
        punched = true;
    }
    return punched ? nef_segment_sync(log, seg) : NEF_OK;
}

nef_err nef_log_erase_many(struct nef_log *log, const uint64_t *offsets, size_t count)
{
    struct nef_segment *seg;
    bool pinned;
    nef_err err;

    err = nef_log_usable(log);
    if (err != NEF_OK || count == 0)
        return err;
    for (size_t i = 1; i < count; i++)
        if (segment_of(log, offsets[i]) != segment_of(log, offsets[0]))
            return NEF_E_INVALID;
    err = nef_segment_acquire(log, segment_of(log, offsets[0]), false, &seg);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->lock);
    pinned = seg->pins > 0;
    pthread_mutex_unlock(&log->lock);
    if (pinned) {
        err = NEF_E_AGAIN;
    } else {
        pthread_mutex_lock(&log->erase);
        err = erase_in(log, seg, offsets, count);
        pthread_mutex_unlock(&log->erase);
    }
    nef_segment_release(log, seg);
    return err;
}

nef_err nef_log_erase(struct nef_log *log, uint64_t offset)
{
    return nef_log_erase_many(log, &offset, 1);
}

nef_err nef_erase_undo(struct nef_log *log, uint64_t offset)
{
    uint8_t header[NEF_RECORD_HEADER_BYTES];
    struct nef_segment *seg;
    struct nef_record r;
    bool half = false;
    nef_err err;

    err = nef_log_usable(log);
    if (err == NEF_OK)
        err = nef_segment_acquire(log, segment_of(log, offset), false, &seg);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->erase);
    err = read_header(log, seg, offset, header, &r, &half);
    if (err == NEF_OK && half) { /* else an erase in progress has finished it meanwhile */
        nef_record_clear_erased(header);
        err = write_header(log, seg, offset, header);
        if (err == NEF_OK)
            err = nef_segment_sync(log, seg);
    }
    pthread_mutex_unlock(&log->erase);
    nef_segment_release(log, seg);
    return err;
}
