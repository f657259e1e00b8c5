/* fsck of logs: each zone's files record by record, and the zones against each other.
 *
 * A record that can't be trusted to say how long it is ends the reading of its segment; one whose body is
 * bad does not. Two logs may differ above what was acknowledged: a replica that lost an election keeps a
 * tail of the older epoch until it joins again and cuts it. That is a note, unless the older record lies
 * below a mark of its own log, which says that all in-sync replicas had it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "io/file_posix.h"
#include "store/fsck_internal.h"
#include "store/store.h"

#define NAME_DIGITS  16u
#define BUFFER_BYTES ((uint64_t)NEF_RECORD_HEADER_BYTES + NEF_RECORD_BODY_MAX + 4096u)

void nef_fsck_say(struct nef_fsck *f, bool problem, uint32_t zone, uint32_t cell, uint64_t offset,
                  const char *format, ...)
{
    char text[256];
    va_list list;
    struct nef_fsck_finding finding = {.problem = problem,
                                       .zone = f->options->zones[zone].name,
                                       .cell = cell,
                                       .offset = offset,
                                       .text = text};

    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (problem)
        f->problems++;
    f->options->report(f->options->context, &finding);
}

void nef_fsck_override(struct nef_fsck *f, uint32_t zone, uint32_t cell, uint64_t offset, uint64_t time_ms,
                       const struct nef_op_override *op)
{
    time_t seconds = (time_t)(time_ms / 1000);
    char when[32] = "?";
    struct tm utc;

    if (gmtime_r(&seconds, &utc) != NULL)
        (void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    nef_fsck_say(f, false, zone, cell, offset,
                 "an operator accepted a loss in epoch %llu, %s: whatever another replica held above %llu was given up",
                 (unsigned long long)op->epoch, when, (unsigned long long)op->end);
}

void nef_fsck_log_free(struct nef_fsck_log *log)
{
    if (log->dir != NULL)
        log->dir->ops->close(log->dir);
    free(log->segments);
    *log = (struct nef_fsck_log){0};
}

/* ---- one log ---- */

/* Sixteen hexadecimal digits and ".seg"; everything else in the directory is derived from segments. */
static void see_name(void *context, const char *name)
{
    struct nef_fsck_log *log = context;
    uint8_t be[8];

    if (strlen(name) != NAME_DIGITS + 4 || strcmp(name + NAME_DIGITS, ".seg") != 0 ||
        nef_unhex(name, NAME_DIGITS, be, sizeof be) != NEF_OK)
        return;
    if (log->segment_count == log->segment_capacity) {
        uint32_t capacity = log->segment_capacity == 0 ? 64 : log->segment_capacity * 2;
        struct nef_fsck_segment *s = realloc(log->segments, capacity * sizeof *s);

        if (s == NULL) {
            log->faulty = true;
            return;
        }
        log->segments = s;
        log->segment_capacity = capacity;
    }
    log->segments[log->segment_count++].number = nef_get_be64(be);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = ((const struct nef_fsck_segment *)a)->number;
    uint64_t y = ((const struct nef_fsck_segment *)b)->number;

    return x < y ? -1 : x > y;
}

static bool all_zero(const uint8_t *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (data[i] != 0)
            return false;
    return true;
}

static nef_err segment_open(const struct nef_fsck_log *log, uint64_t number, struct nef_file **out)
{
    char name[NAME_DIGITS + 5];
    uint8_t be[8];

    nef_put_be64(be, number);
    nef_hex(be, sizeof be, name);
    memcpy(name + NAME_DIGITS, ".seg", 5);
    return log->dir->ops->open(log->dir, name, NEF_FILE_READ, out);
}

struct scan {
    struct nef_fsck *f;
    uint32_t zone, cell;
    struct nef_fsck_log *log;
    struct nef_file *file;
    uint8_t *buffer;
    uint64_t epoch; /* of the record before */
};

static void bad(struct scan *s, uint64_t offset, const char *what)
{
    nef_fsck_say(s->f, true, s->zone, s->cell, offset, "%s", what);
    s->log->faulty = true;
}

/* Nothing but zeros from AT to the file's end? */
static nef_err check_rest(struct scan *s, uint64_t base, uint64_t at, uint64_t size)
{
    while (at < size) {
        uint64_t bytes = NEF_MIN(size - at, BUFFER_BYTES);
        nef_err err = s->file->ops->read(s->file, at, s->buffer, bytes);

        if (err != NEF_OK)
            return err;
        if (!all_zero(s->buffer, bytes)) {
            bad(s, base + at, "bytes that are no record, behind the log's end (torn or damaged)");
            return NEF_OK;
        }
        at += bytes;
    }
    return NEF_OK;
}

/* A record whose header is good: epoch, mark, and its body. */
static nef_err check_record(struct scan *s, uint64_t base, uint64_t at, const struct nef_record *r)
{
    uint64_t bytes = nef_record_bytes(r->body_bytes);
    struct nef_op op;
    nef_err err;

    if (r->epoch < s->epoch)
        bad(s, base + at, "the epoch falls");
    s->epoch = NEF_MAX(s->epoch, r->epoch);
    if (r->synced_before > base + at)
        bad(s, base + at, "the synced-before mark lies above its record");
    s->log->mark = NEF_MAX(s->log->mark, r->synced_before);
    if (r->type == NEF_RECORD_PAD)
        return NEF_OK; /* nobody reads what it fills, and it can be as long as a segment */
    if (bytes > BUFFER_BYTES) {
        bad(s, base + at, "a record longer than any can be");
        return NEF_OK;
    }
    err = s->file->ops->read(s->file, at, s->buffer, bytes);
    if (err == NEF_OK && nef_record_check_body(r, s->buffer + NEF_RECORD_HEADER_BYTES) != NEF_OK)
        bad(s, base + at, (r->flags & NEF_RECORD_ERASED) != 0
                              ? "an erased body isn't all zeros"
                              : "the body doesn't match its checksum");
    else if (err == NEF_OK && r->type == NEF_RECORD_OVERRIDE &&
             nef_op_decode(r->type, s->buffer + NEF_RECORD_HEADER_BYTES, r->body_bytes, &op) == NEF_OK)
        nef_fsck_override(s->f, s->zone, s->cell, base + at, r->time_ms, &op.u.override);
    return err;
}

/* Records of a segment from AT on. *out_end: behind the last that could be read. */
static nef_err scan_records(struct scan *s, uint64_t number, uint64_t size, bool last, uint64_t *out_end)
{
    uint64_t segment_bytes = s->f->options->segment_bytes, base = number * segment_bytes;
    uint64_t at = NEF_SEGMENT_HEADER_BYTES;

    while (at < segment_bytes) {
        uint8_t header[NEF_RECORD_HEADER_BYTES];
        struct nef_record r;
        nef_err err = NEF_E_RANGE;

        *out_end = base + at;
        if (at + sizeof header <= size)
            err = s->file->ops->read(s->file, at, header, sizeof header);
        if (err != NEF_OK && err != NEF_E_RANGE)
            return err;
        if (err == NEF_E_RANGE || all_zero(header, sizeof header)) {
            if (!last) {
                bad(s, base + at, "the log ends here although the next segment has records");
                return NEF_OK;
            }
            return check_rest(s, base, at, size);
        }
        err = nef_record_decode(header, &r);
        if (err == NEF_E_VERSION) {
            bad(s, base + at, "a record of an unknown version or type");
            return NEF_OK;
        }
        if (err != NEF_OK) {
            bad(s, base + at, "no valid record here; the rest of the segment can't be read");
            return NEF_OK;
        }
        if (r.cell != s->cell || r.offset != base + at) {
            bad(s, base + at, "a record of another place");
            return NEF_OK;
        }
        if (at + nef_record_bytes(r.body_bytes) > segment_bytes) {
            bad(s, base + at, "a record crosses its segment's end");
            return NEF_OK;
        }
        err = check_record(s, base, at, &r);
        if (err == NEF_E_RANGE) {
            bad(s, base + at, "the file ends inside a record");
            return NEF_OK;
        }
        if (err != NEF_OK)
            return err;
        at += nef_record_bytes(r.body_bytes);
    }
    *out_end = nef_log_end_at(base + at, segment_bytes);
    return NEF_OK;
}

/* *out_used false: prepared ahead, never written. */
static nef_err scan_segment(struct scan *s, struct nef_fsck_segment *segment, bool contiguous, bool last,
                            bool *out_used)
{
    const struct nef_fsck_options *o = s->f->options;
    uint64_t base = segment->number * o->segment_bytes, size = 0;
    struct nef_segment_header h;
    nef_err err = segment_open(s->log, segment->number, &s->file);

    *out_used = true;
    segment->end = base + NEF_SEGMENT_HEADER_BYTES;
    if (err != NEF_OK)
        return err;
    err = s->file->ops->size(s->file, &size);
    if (err == NEF_OK && size < NEF_SEGMENT_HEADER_BYTES) {
        bad(s, base, "the file is shorter than a segment's header");
        goto out;
    }
    if (err == NEF_OK)
        err = s->file->ops->read(s->file, 0, s->buffer, NEF_SEGMENT_HEADER_BYTES);
    if (err != NEF_OK)
        goto out;
    if (last && all_zero(s->buffer, NEF_SEGMENT_HEADER_BYTES)) {
        *out_used = false;
        err = check_rest(s, base, NEF_SEGMENT_HEADER_BYTES, size);
        goto out;
    }
    if (nef_segment_header_decode(s->buffer, &h) != NEF_OK)
        bad(s, base, "the segment's header is damaged");
    else if (h.cell != s->cell || h.segment != segment->number ||
             h.segment_bytes != o->segment_bytes || !nef_id_equal(&h.region, &o->region))
        bad(s, base, "the segment belongs to another region, cell or place");
    err = scan_records(s, segment->number, size, last || !contiguous, &segment->end);
out:
    s->file->ops->close(s->file);
    s->file = NULL;
    return err;
}

nef_err nef_fsck_scan(struct nef_fsck *f, uint32_t zone, uint32_t cell, struct nef_fsck_log *out_log)
{
    struct scan s = {.f = f, .zone = zone, .cell = cell, .log = out_log};
    char path[4096];
    nef_err err;

    *out_log = (struct nef_fsck_log){0};
    (void)snprintf(path, sizeof path, "%s/" NEF_STORE_LOG_NAME, f->options->zones[zone].data_dir, cell);
    err = nef_dir_posix_open(path, false, &out_log->dir);
    if (err == NEF_E_NOT_FOUND) {
        nef_fsck_say(f, true, zone, cell, UINT64_MAX, "there is no log");
        out_log->faulty = true;
        return NEF_OK;
    }
    if (err != NEF_OK)
        return err;
    s.buffer = malloc(BUFFER_BYTES);
    if (s.buffer == NULL)
        return NEF_E_NOMEM;
    err = out_log->dir->ops->list(out_log->dir, see_name, out_log);
    if (err == NEF_OK && out_log->faulty)
        err = NEF_E_NOMEM;
    if (err == NEF_OK && out_log->segment_count > 1)
        qsort(out_log->segments, out_log->segment_count, sizeof *out_log->segments, by_number);
    for (uint32_t i = 0; err == NEF_OK && i < out_log->segment_count; i++) {
        struct nef_fsck_segment *segment = &out_log->segments[i];
        /* A prepared segment may follow the one that holds the end, so that one may end early too. */
        bool last = i + 2 >= out_log->segment_count, used;
        bool contiguous = i + 1 < out_log->segment_count && segment[1].number == segment->number + 1;

        err = scan_segment(&s, segment, contiguous, last, &used);
        if (err == NEF_OK && !used)
            out_log->segment_count = i--;
        else if (err == NEF_OK && i > 0 && segment[-1].number + 1 == segment->number &&
                 segment->end > segment->number * f->options->segment_bytes + NEF_SEGMENT_HEADER_BYTES &&
                 segment[-1].end / f->options->segment_bytes == segment[-1].number && !out_log->faulty)
            bad(&s, segment[-1].end, "the log ends here although the next segment has records");
    }
    free(s.buffer);
    return err;
}

/* ---- two logs ---- */

static bool same_record(const struct nef_record *a, const struct nef_record *b)
{
    return a->type == b->type && (a->flags | NEF_RECORD_ERASED) == (b->flags | NEF_RECORD_ERASED) &&
           a->epoch == b->epoch && a->time_ms == b->time_ms && a->synced_before == b->synced_before &&
           a->body_bytes == b->body_bytes && a->run_index == b->run_index &&
           nef_id_equal(&a->stream, &b->stream) && a->proposer == b->proposer &&
           a->number == b->number && a->piece == b->piece && a->body_crc == b->body_crc &&
           memcmp(a->key_tag, b->key_tag, sizeof a->key_tag) == 0 &&
           memcmp(a->bucket_key_id, b->bucket_key_id, sizeof a->bucket_key_id) == 0 &&
           memcmp(a->leaf, b->leaf, sizeof a->leaf) == 0;
}

static nef_err record_read(struct nef_file *file, uint64_t at, struct nef_record *out)
{
    uint8_t header[NEF_RECORD_HEADER_BYTES];
    nef_err err = file->ops->read(file, at, header, sizeof header);

    return err == NEF_OK ? nef_record_decode(header, out) : err;
}

/* Walk through a segment that both have. *out_differ: they part here, what follows isn't comparable. */
static nef_err compare_segment(struct nef_fsck *f, uint32_t cell, uint32_t zone_a,
                               const struct nef_fsck_log *a, uint32_t zone_b,
                               const struct nef_fsck_log *b, uint64_t number, uint64_t end,
                               bool *out_differ)
{
    uint64_t base = number * f->options->segment_bytes, at = NEF_SEGMENT_HEADER_BYTES;
    struct nef_file *file_a = NULL, *file_b = NULL;
    nef_err err = segment_open(a, number, &file_a);

    if (err == NEF_OK)
        err = segment_open(b, number, &file_b);
    while (err == NEF_OK && base + at < end && at < f->options->segment_bytes) {
        struct nef_record x, y;
        bool note;

        err = record_read(file_a, at, &x);
        if (err == NEF_OK)
            err = record_read(file_b, at, &y);
        if (err != NEF_OK) /* a scan that found it readable a moment ago: report it where it is */
            break;
        if (!same_record(&x, &y)) {
            const struct nef_fsck_log *older = x.epoch < y.epoch ? a : b;

            note = x.epoch != y.epoch && base + at >= older->mark;
            nef_fsck_say(f, !note, x.epoch <= y.epoch ? zone_a : zone_b, cell, base + at,
                         note ? "a tail of epoch %llu that zone %s (epoch %llu there) doesn't have; it is "
                                "cut when the replica joins"
                              : "the record (epoch %llu) isn't the one that zone %s (epoch %llu) has here",
                         (unsigned long long)NEF_MIN(x.epoch, y.epoch),
                         f->options->zones[x.epoch <= y.epoch ? zone_b : zone_a].name,
                         (unsigned long long)NEF_MAX(x.epoch, y.epoch));
            *out_differ = true;
            break;
        }
        at += nef_record_bytes(x.body_bytes);
    }
    if (file_a != NULL)
        file_a->ops->close(file_a);
    if (file_b != NULL)
        file_b->ops->close(file_b);
    return err;
}

nef_err nef_fsck_compare(struct nef_fsck *f, uint32_t cell, uint32_t zone_a,
                         const struct nef_fsck_log *a, uint32_t zone_b, const struct nef_fsck_log *b)
{
    uint32_t i = 0, k = 0;
    bool differ = false;
    nef_err err = NEF_OK;

    while (err == NEF_OK && !differ && i < a->segment_count && k < b->segment_count) {
        if (a->segments[i].number < b->segments[k].number) {
            i++;
        } else if (a->segments[i].number > b->segments[k].number) {
            k++;
        } else {
            err = compare_segment(f, cell, zone_a, a, zone_b, b, a->segments[i].number,
                                  NEF_MIN(a->segments[i].end, b->segments[k].end), &differ);
            i++;
            k++;
        }
    }
    return err;
}
