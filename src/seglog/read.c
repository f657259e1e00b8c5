/* Reading the log from any thread: raw bytes, checked records, pins, what is present.
 *
 * Reads take `lock` only to find and hold the segment. A body can be erased while it is read; a record
 * whose body doesn't verify is therefore looked at again before it is called corrupt. */
#include <string.h>
#include "seglog/seglog_internal.h"

uint64_t nef_log_start(struct nef_log *log)
{
    uint64_t start;

    pthread_mutex_lock(&log->lock);
    start = log->end;
    for (size_t i = log->segment_count; i-- > 0;)
        if (!log->segments[i]->dropped)
            start = segment_first(log, log->segments[i]->number);
    start = NEF_MIN(start, log->end);
    pthread_mutex_unlock(&log->lock);
    return start;
}

uint64_t nef_log_end(struct nef_log *log)
{
    uint64_t end;

    pthread_mutex_lock(&log->lock);
    end = log->end;
    pthread_mutex_unlock(&log->lock);
    return end;
}

uint64_t nef_log_epoch_start(struct nef_log *log, uint64_t epoch)
{
    uint64_t start;

    pthread_mutex_lock(&log->lock);
    start = log->end;
    for (uint32_t i = log->epochs.count; i-- > 0 && log->epochs.at[i].epoch >= epoch;)
        start = log->epochs.at[i].offset;
    pthread_mutex_unlock(&log->lock);
    return start;
}

static nef_err read_bytes(struct nef_log *log, uint64_t offset, void *out, uint64_t bytes, bool now)
{
    struct nef_segment *seg;
    uint64_t end;
    nef_err err;

    if (bytes == 0)
        return NEF_OK;
    if (bytes > log->segment_bytes - offset % log->segment_bytes)
        return NEF_E_RANGE;
    err = nef_segment_acquire(log, segment_of(log, offset), true, &seg);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->lock);
    end = seg->end;
    pthread_mutex_unlock(&log->lock);
    if (offset + bytes > end)
        err = NEF_E_RANGE;
    else if (now)
        err = seg->file->ops->read_now(seg->file, offset % log->segment_bytes, out, (size_t)bytes);
    else
        err = seg->file->ops->read(seg->file, offset % log->segment_bytes, out, (size_t)bytes);
    nef_segment_release(log, seg);
    return err;
}

nef_err nef_log_read(struct nef_log *log, uint64_t offset, void *out, uint64_t bytes)
{
    return read_bytes(log, offset, out, bytes, false);
}

nef_err nef_log_read_now(struct nef_log *log, uint64_t offset, void *out, uint64_t bytes)
{
    return read_bytes(log, offset, out, bytes, true);
}

/* `lock` held. */
static uint64_t next_present(struct nef_log *log, uint64_t offset)
{
    uint64_t number = segment_of(log, offset);

    if (offset >= log->end)
        return log->end;
    for (size_t i = nef_segment_index(log, number); i < log->segment_count; i++) {
        struct nef_segment *seg = log->segments[i];
        uint64_t first = segment_first(log, seg->number);

        if (seg->dropped)
            continue;
        if (seg->number > number || offset < first)
            return NEF_MIN(first, log->end);
        if (offset < seg->end)
            return offset;
    }
    return log->end;
}

uint64_t nef_log_next_present(struct nef_log *log, uint64_t offset)
{
    uint64_t next;

    pthread_mutex_lock(&log->lock);
    next = next_present(log, offset);
    pthread_mutex_unlock(&log->lock);
    return next;
}

uint64_t nef_log_present_until(struct nef_log *log, uint64_t offset)
{
    uint64_t at = offset, next = segment_of(log, offset);

    pthread_mutex_lock(&log->lock);
    for (size_t i = nef_segment_index(log, next); i < log->segment_count; i++) {
        struct nef_segment *seg = log->segments[i];

        if (seg->dropped)
            continue;
        if (seg->number != next || at < segment_first(log, next) || at >= seg->end)
            break;
        at = nef_log_end_at(seg->end, log->segment_bytes);
        next++;
        if (segment_of(log, at) != next)
            break;
    }
    at = NEF_MIN(at, NEF_MAX(log->end, offset));
    pthread_mutex_unlock(&log->lock);
    return at;
}

static nef_err read_record(struct nef_log *log, struct nef_segment *seg, uint64_t offset, uint64_t end,
                           struct nef_record *out_record, uint8_t *body_out)
{
    uint8_t header[NEF_RECORD_HEADER_BYTES];
    uint64_t at = offset % log->segment_bytes;
    struct nef_record r;
    bool half = false;
    nef_err err;

    if (end - offset < sizeof(header))
        return NEF_E_TORN;
    for (int attempt = 0;; attempt++) {
        err = seg->file->ops->read(seg->file, at, header, sizeof(header));
        if (err == NEF_OK)
            err = nef_record_decode_at(header, log->options.cell, offset, &r, &half);
        if (err == NEF_OK && nef_record_bytes(r.body_bytes) > end - offset)
            err = NEF_E_CORRUPT;
        if (err == NEF_OK && body_out != NULL && r.type != NEF_RECORD_PAD) {
            if (r.flags & NEF_RECORD_ERASED) {
                memset(body_out, 0, r.body_bytes);
            } else {
                err = seg->file->ops->read(seg->file, at + sizeof(header), body_out, r.body_bytes);
                /* not check_body: body_out has no room for the padding, which says nothing anyway */
                if (err == NEF_OK)
                    err = nef_record_check_crc(&r, body_out);
            }
        }
        /* an erase may have come between the two reads, or a header may have been seen half written */
        if ((err != NEF_E_TORN && err != NEF_E_CORRUPT) || attempt == 1)
            break;
    }
    if (err == NEF_OK)
        *out_record = r;
    return err;
}

nef_err nef_log_record(struct nef_log *log, uint64_t offset, struct nef_record *out_record,
                       uint8_t *body_out, uint64_t *out_next)
{
    struct nef_segment *seg;
    struct nef_record r = {0};
    uint64_t end, next;
    nef_err err;

    pthread_mutex_lock(&log->lock);
    end = log->end;
    pthread_mutex_unlock(&log->lock);
    if (offset >= end)
        return NEF_E_RANGE;
    if (offset % NEF_RECORD_ALIGN != 0 || offset % log->segment_bytes < NEF_SEGMENT_HEADER_BYTES)
        return NEF_E_INVALID;
    err = nef_segment_acquire(log, segment_of(log, offset), true, &seg);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->lock);
    end = seg->end;
    pthread_mutex_unlock(&log->lock);
    if (offset >= end)
        err = NEF_E_NOT_FOUND; /* the segment was left before it was full */
    else
        err = read_record(log, seg, offset, end, &r, body_out);
    nef_segment_release(log, seg);
    if (err != NEF_OK)
        return err;
    next = offset + nef_record_bytes(r.body_bytes);
    pthread_mutex_lock(&log->lock);
    next = next_present(log, next);
    pthread_mutex_unlock(&log->lock);
    *out_record = r;
    if (out_next != NULL)
        *out_next = next;
    return NEF_OK;
}

nef_err nef_log_pin(struct nef_log *log, uint64_t offset)
{
    struct nef_segment *seg;
    nef_err err;

    err = nef_segment_acquire(log, segment_of(log, offset), false, &seg);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->lock);
    seg->pins++; /* keeps the reference */
    pthread_mutex_unlock(&log->lock);
    return NEF_OK;
}

void nef_log_unpin(struct nef_log *log, uint64_t offset)
{
    struct nef_segment *seg = NULL;
    uint64_t number = segment_of(log, offset);

    pthread_mutex_lock(&log->lock);
    /* after a cut, a dropped segment that is still held may share its number with a new one */
    for (size_t i = nef_segment_index(log, number);
         i < log->segment_count && log->segments[i]->number == number; i++)
        if (log->segments[i]->pins > 0 && (seg == NULL || log->segments[i]->dropped))
            seg = log->segments[i];
    NEF_ASSERT(seg != NULL);
    seg->pins--;
    pthread_mutex_unlock(&log->lock);
    nef_segment_release(log, seg);
}

uint32_t nef_log_segments(struct nef_log *log, uint64_t *out_numbers, uint32_t max)
{
    uint32_t count = 0;

    pthread_mutex_lock(&log->lock);
    for (size_t i = 0; i < log->segment_count; i++) {
        if (log->segments[i]->dropped)
            continue;
        if (count < max)
            out_numbers[count] = log->segments[i]->number;
        count++;
    }
    pthread_mutex_unlock(&log->lock);
    return count;
}
