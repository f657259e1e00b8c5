/* Reading a segment past the page cache: what is valid, where that ends, what lies beyond.
 *
 * A window slides over the file: reads are aligned and large, and every record (at most 3 MiB, a pad) is
 * seen as one contiguous piece. What a file is too short for reads as zeros, so that a segment whose
 * preallocation a crash undid needs no case of its own.
 *
 *   | header | record | record | record | bad ......  zeros  .... stray record ... zeros |
 *                                       ^ valid_to                           ^ dirty_to
 *                     ^ run_end (the last run lacks its end)
 *
 * Above the first bad record the scan goes on in steps of 64 bytes: stray valid records say by their
 * synced-before marks whether what is bad was ever durable (damage) or not (a torn tail), and the last
 * byte that isn't zero says how far a cut has to write. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "seglog/seglog_internal.h"

#define WINDOW_BYTES   (8u << 20)
#define UNREADABLE_MAX 64u /* blocks */
_Static_assert(WINDOW_BYTES >= NEF_PROPOSAL_BYTES_MAX + NEF_RECORD_HEADER_BYTES + NEF_RECORD_ALIGN +
                                   2 * NEF_BLOCK_BYTES,
               "the longest record fits, wherever it begins in a block");

static uint8_t zeros[NEF_ZERO_CHUNK]; /* never written */

bool nef_all_zero(const uint8_t *p, size_t bytes)
{
    return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

/* ---- the window ---- */

nef_err nef_scan_open(struct nef_log *log, uint64_t number, size_t capacity, bool fresh,
                      struct nef_scan *out_scan)
{
    struct nef_scan s = {.capacity = capacity, .limit = log->segment_bytes};
    char name[NEF_NAME_BYTES];
    uint64_t bytes;
    nef_err err;

    NEF_ASSERT(capacity % NEF_BLOCK_BYTES == 0);
    s.buffer = aligned_alloc(NEF_BLOCK_BYTES, capacity);
    if (s.buffer == NULL)
        return NEF_E_NOMEM;
    nef_segment_name(number, name);
    err = log->dir->ops->open(log->dir, name,
                              NEF_FILE_READ | NEF_FILE_DIRECT | (fresh ? NEF_FILE_FRESH : 0), &s.file);
    if (err == NEF_OK)
        err = s.file->ops->size(s.file, &bytes);
    if (err != NEF_OK) {
        nef_scan_close(&s);
        return err;
    }
    s.file_bytes = NEF_MIN(bytes, s.limit) / NEF_BLOCK_BYTES * NEF_BLOCK_BYTES;
    *out_scan = s;
    return NEF_OK;
}

void nef_scan_close(struct nef_scan *scan)
{
    if (scan->file != NULL)
        scan->file->ops->close(scan->file);
    free(scan->buffer);
    *scan = (struct nef_scan){0};
}

void nef_scan_seek(struct nef_scan *scan, uint64_t at)
{
    uint64_t from = at / NEF_BLOCK_BYTES * NEF_BLOCK_BYTES;

    if (from < scan->from || from > scan->from + scan->have) {
        scan->have = 0;
    } else if (from > scan->from) {
        scan->have -= (size_t)(from - scan->from);
        memmove(scan->buffer, scan->buffer + (from - scan->from), scan->have);
    }
    scan->from = from;
}

void nef_scan_tolerate(struct nef_scan *scan)
{
    scan->unreadable_max = (uint32_t)NEF_MIN(scan->limit / NEF_BLOCK_BYTES / 4, UNREADABLE_MAX);
}

/* Block by block, after a read of them all failed. */
static nef_err read_blocks(struct nef_scan *scan, uint64_t at, uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += NEF_BLOCK_BYTES) {
        nef_err err = scan->file->ops->read(scan->file, at + i, out + i, NEF_BLOCK_BYTES);

        if (err == NEF_E_IO && scan->unreadable < scan->unreadable_max) {
            memset(out + i, 0xff, NEF_BLOCK_BYTES);
            scan->unreadable++;
            if (at + i < NEF_SEGMENT_HEADER_BYTES)
                scan->header_unreadable = true;
        } else if (err != NEF_OK) {
            return err;
        }
    }
    return NEF_OK;
}

nef_err nef_scan_fill(struct nef_scan *scan, size_t max)
{
    uint64_t at = scan->from + scan->have;
    size_t want = NEF_MIN(max, scan->capacity - scan->have);
    size_t real;
    nef_err err;

    want = (size_t)NEF_MIN((uint64_t)want, scan->limit - at);
    real = at < scan->file_bytes ? (size_t)NEF_MIN((uint64_t)want, scan->file_bytes - at) : 0;
    NEF_ASSERT(want % NEF_BLOCK_BYTES == 0 && real % NEF_BLOCK_BYTES == 0);
    if (real > 0) {
        err = scan->file->ops->read(scan->file, at, scan->buffer + scan->have, real);
        if (err == NEF_E_IO && scan->unreadable_max > 0)
            err = read_blocks(scan, at, scan->buffer + scan->have, real);
        if (err != NEF_OK)
            return err == NEF_E_RANGE ? NEF_E_IO : err;
    }
    memset(scan->buffer + scan->have + real, 0, want - real);
    scan->have += want;
    return NEF_OK;
}

nef_err nef_scan_view(struct nef_scan *scan, uint64_t at, size_t bytes, const uint8_t **out_view)
{
    nef_err err;

    NEF_ASSERT(at + bytes <= scan->limit && bytes <= scan->capacity - NEF_BLOCK_BYTES);
    if (at < scan->from || at + bytes > scan->from + scan->have) {
        nef_scan_seek(scan, at);
        err = nef_scan_fill(scan, scan->capacity);
        if (err != NEF_OK)
            return err;
    }
    NEF_ASSERT(at + bytes <= scan->from + scan->have);
    *out_view = scan->buffer + (at - scan->from);
    return NEF_OK;
}

/* ---- one segment ---- */

static nef_err check_header(struct nef_log *log, uint64_t number, const uint8_t *bytes, bool *out_ok)
{
    struct nef_segment_header h;
    nef_err err;

    err = nef_segment_header_decode(bytes, &h);
    if (err == NEF_E_TORN) {
        *out_ok = false;
        return NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    if (h.cell != log->options.cell || h.segment != number || h.segment_bytes != log->segment_bytes ||
        !nef_id_equal(&h.region, &log->options.region))
        return NEF_E_CORRUPT;
    *out_ok = true;
    return NEF_OK;
}

/* The record at AT (of the file). *out_bytes: its size, 0 if there is no valid record here.
 * NEF_E_VERSION, NEF_E_IO. */
static nef_err scan_record(struct nef_log *log, struct nef_scan *scan, uint64_t number, uint64_t at,
                           uint64_t last_epoch, struct nef_record *out_record, bool *out_half_erased,
                           uint64_t *out_bytes)
{
    uint64_t offset = segment_start(log, number) + at;
    struct nef_record r;
    const uint8_t *view;
    uint64_t bytes;
    bool half = false;
    nef_err err;

    *out_bytes = 0;
    err = nef_scan_view(scan, at, NEF_RECORD_HEADER_BYTES, &view);
    if (err != NEF_OK)
        return err;
    err = nef_record_decode_at(view, log->options.cell, offset, &r, &half);
    if (err == NEF_E_TORN || err == NEF_E_CORRUPT)
        return NEF_OK;
    if (err != NEF_OK)
        return err;
    bytes = nef_record_bytes(r.body_bytes);
    if (r.epoch == 0 || r.epoch < last_epoch || bytes > log->segment_bytes - at)
        return NEF_OK;
    if (!(r.flags & NEF_RECORD_ERASED)) { /* its punch may be half done; scrub finishes it */
        err = nef_scan_view(scan, at, (size_t)bytes, &view);
        if (err != NEF_OK)
            return err;
        if (nef_record_check_body(&r, view + NEF_RECORD_HEADER_BYTES) != NEF_OK)
            return NEF_OK;
    }
    *out_record = r;
    *out_half_erased = half;
    *out_bytes = bytes;
    return NEF_OK;
}

/* From AT (of the file) to the border: stray records and the last byte that isn't zero. */
static nef_err scan_above(struct nef_log *log, struct nef_scan *scan, uint64_t number, uint64_t at,
                          struct nef_scan_result *res)
{
    uint64_t start = segment_start(log, number);
    struct nef_record r;
    const uint8_t *view;
    bool half;
    nef_err err;

    res->dirty_to = start + at;
    for (; at < log->segment_bytes; at += NEF_RECORD_ALIGN) {
        err = nef_scan_view(scan, at, NEF_RECORD_ALIGN, &view);
        if (err != NEF_OK)
            return err;
        if (nef_all_zero(view, NEF_RECORD_ALIGN))
            continue;
        res->dirty_to = start + at + NEF_RECORD_ALIGN;
        if (!nef_record_magic_at(view) || at + NEF_RECORD_HEADER_BYTES > log->segment_bytes)
            continue;
        err = nef_scan_view(scan, at, NEF_RECORD_HEADER_BYTES, &view);
        if (err != NEF_OK)
            return err;
        err = nef_record_decode_at(view, log->options.cell, start + at, &r, &half);
        if (err == NEF_E_VERSION)
            return err;
        if (err != NEF_OK)
            continue;
        res->valid_above++;
        res->mark = NEF_MAX(res->mark, r.synced_before);
    }
    return NEF_OK;
}

/* Make the header at AT whole again. The scan's own file is read-only. */
static nef_err heal_header(struct nef_log *log, uint64_t number, uint64_t at, const uint8_t *header)
{
    uint8_t fixed[NEF_RECORD_HEADER_BYTES];
    char name[NEF_NAME_BYTES];
    struct nef_file *file;
    nef_err err;

    memcpy(fixed, header, sizeof(fixed));
    nef_record_clear_erased(fixed);
    nef_segment_name(number, name);
    err = log->dir->ops->open(log->dir, name, 0, &file);
    if (err != NEF_OK)
        return err;
    err = file->ops->write(file, at, fixed, sizeof(fixed));
    if (err == NEF_OK)
        err = file->ops->sync(file);
    file->ops->close(file);
    return err;
}

nef_err nef_scan_segment(struct nef_log *log, uint64_t number, uint64_t last_epoch,
                         struct nef_epochs *epochs, struct nef_scan_result *out_result)
{
    struct nef_scan_result res = {.last_epoch = last_epoch};
    struct nef_epochs pending = *epochs; /* with the run in progress */
    struct nef_scan scan = {0};
    uint64_t start = segment_start(log, number), at = NEF_SEGMENT_HEADER_BYTES, bytes;
    const uint8_t *view;
    struct nef_record r;
    bool half = false, new_epoch = false;
    nef_err err;

    /* Fresh: after a failed sync the page cache can show records that the disk never got. They don't count,
     * and they mustn't stay, or the next append to their page would carry them to the disk. */
    err = nef_scan_open(log, number,
                        (size_t)NEF_MIN(WINDOW_BYTES, log->segment_bytes + NEF_BLOCK_BYTES), true,
                        &scan);
    if (err != NEF_OK)
        return err;
    nef_scan_tolerate(&scan);
    err = nef_scan_view(&scan, 0, NEF_SEGMENT_HEADER_BYTES, &view);
    res.header_unreadable = scan.header_unreadable;
    if (err == NEF_OK && !res.header_unreadable)
        err = check_header(log, number, view, &res.header_ok);
    if (err != NEF_OK)
        goto out;
    res.run_end = start + at;
    while (res.header_ok && at < log->segment_bytes) {
        if (log->segment_bytes - at < NEF_RECORD_HEADER_BYTES)
            break;
        err = scan_record(log, &scan, number, at, last_epoch, &r, &half, &bytes);
        if (err != NEF_OK)
            goto out;
        if (bytes == 0)
            break;
        if (half) {
            err = nef_scan_view(&scan, at, NEF_RECORD_HEADER_BYTES, &view);
            if (err == NEF_OK)
                err = heal_header(log, number, at, view);
            if (err != NEF_OK)
                goto out;
        }
        last_epoch = r.epoch;
        if (nef_epochs_note(&pending, r.epoch, r.offset))
            new_epoch = true;
        res.mark = NEF_MAX(res.mark, r.synced_before);
        res.records++;
        at += bytes;
        if (r.flags & NEF_RECORD_LAST) {
            res.run_end = start + at;
            res.last_epoch = r.epoch;
            if (new_epoch)
                *epochs = pending;
            new_epoch = false;
        }
    }
    res.valid_to = start + at;
    err = scan_above(log, &scan, number, at, &res);
    if (err == NEF_OK && scan.unreadable > 0)
        nef_trace(NEF_TRACE_ERROR, "log_unreadable", "u:cell", (uint64_t)log->options.cell, "u:segment",
                  number, "u:blocks", (uint64_t)scan.unreadable, NULL);
    if (err == NEF_OK)
        *out_result = res;
out:
    nef_scan_close(&scan);
    return err;
}

nef_err nef_zero_above(struct nef_log *log, uint64_t number, uint64_t from, struct nef_file *file)
{
    uint64_t at = from - segment_start(log, number), n, file_bytes;
    struct nef_scan scan = {0};
    const uint8_t *view;
    nef_err err;

    NEF_ASSERT(at >= NEF_SEGMENT_HEADER_BYTES && at <= log->segment_bytes);
    /* Past the page cache: after a failed sync the cache may show zeros that never reached the disk. */
    err = nef_scan_open(log, number, 2 * NEF_ZERO_CHUNK, false, &scan);
    if (err == NEF_OK)
        nef_scan_tolerate(&scan); /* what can't be read is written */
    if (err == NEF_OK && scan.file_bytes < log->segment_bytes)
        err = file->ops->allocate(file, log->segment_bytes);
    if (err == NEF_OK)
        err = file->ops->size(file, &file_bytes);
    if (err == NEF_OK && file_bytes < log->segment_bytes)
        err = NEF_E_IO;
    for (; err == NEF_OK && at < log->segment_bytes; at += n) {
        n = NEF_MIN(NEF_ZERO_CHUNK - at % NEF_ZERO_CHUNK, log->segment_bytes - at);
        err = nef_scan_view(&scan, at, (size_t)n, &view);
        if (err == NEF_OK && !nef_all_zero(view, (size_t)n))
            err = file->ops->write(file, at, zeros, (size_t)n);
    }
    nef_scan_close(&scan);
    return err;
}
