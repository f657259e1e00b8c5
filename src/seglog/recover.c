/* nef_log_open: from what a crash left in a directory to a log with a known end.
 *
 * A synced-before mark M says: everything below M is durable. A seal says so of everything below its
 * segment's end. Let P be the first place, in log order, that holds no valid record, and E the end of the
 * last whole run before it. Then
 *
 *   M > P for any mark or seal found anywhere:  damage. Nothing is changed, the end is E.
 *   else:                                       a torn tail (or just the end). All above E is made zero.
 *
 * So nothing known to be durable is ever cut, and what is cut can never come back. Steps:
 *
 *   1. list; remove temporary files; finish a cut that was noted (truncate.c)
 *   2. go through the segments in ascending order. Before P: a sealed one is taken from its seal, others
 *      are synced, read past the page cache and checked record by record. After P: only marks count. A seal
 *      that can't be read is a mark for all of its segment, whose end is then not known to be any less.
 *   3. torn tail: unlink what lies above the segment of E, zero the rest of that one, sync
 *
 * Missing numbers are legitimate (dropped). A segment whose header isn't valid and that holds no valid
 * record was being prepared; one with records was damaged, for the header is durable before them. A sector
 * that can't be read is a bad record (a bad header: damage), unless so many can't that the disk fails. Every
 * step can be repeated after a crash in it. Threads: none yet. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "seglog/seglog_internal.h"

struct recovery {
    struct nef_log *log;
    struct nef_numbers segments, seals, temporaries;
    nef_err list_err;
    bool bad;      /* P is known */
    bool open_run; /* the last segment ended in a run without its end */
    bool damaged;
    uint64_t bad_at; /* P */
    uint64_t end;    /* E */
    bool any;        /* E lies in a segment that is there */
    uint64_t last_epoch, mark;
    uint64_t cut_bytes;
};

/* ---- step 1 ---- */

static void add_number(struct recovery *rec, struct nef_numbers *n, uint64_t number)
{
    if (n->count == n->capacity) {
        size_t capacity = n->capacity == 0 ? 64 : 2 * n->capacity;
        uint64_t *grown = realloc(n->at, capacity * sizeof(*grown));

        if (grown == NULL) {
            rec->list_err = NEF_E_NOMEM;
            return;
        }
        n->at = grown;
        n->capacity = capacity;
    }
    n->at[n->count++] = number;
}

static void visit_name(void *context, const char *name)
{
    struct recovery *rec = context;
    uint64_t number = 0;

    switch (nef_name_parse(name, &number)) {
    case NEF_NAME_SEGMENT:
        add_number(rec, &rec->segments, number);
        break;
    case NEF_NAME_SEAL:
        add_number(rec, &rec->seals, number);
        break;
    case NEF_NAME_TEMPORARY:
        add_number(rec, &rec->temporaries, number);
        break;
    case NEF_NAME_CUT:
    case NEF_NAME_OTHER:
        break;
    }
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static bool has_number(const struct nef_numbers *n, uint64_t number)
{
    return n->count > 0 &&
           bsearch(&number, n->at, n->count, sizeof(*n->at), compare_numbers) != NULL;
}

static nef_err list_directory(struct recovery *rec)
{
    struct nef_log *log = rec->log;
    struct nef_dir *dir = log->dir;
    char name[NEF_NAME_BYTES], temporary[NEF_NAME_BYTES + 8];
    nef_err err;

    err = dir->ops->list(dir, visit_name, rec);
    if (err == NEF_OK)
        err = rec->list_err;
    if (err != NEF_OK)
        return err;
    for (size_t i = 0; i < rec->segments.count; i++)
        if (rec->segments.at[i] > UINT64_MAX / log->segment_bytes - 2)
            return NEF_E_CORRUPT;
    if (rec->segments.count > 0)
        qsort(rec->segments.at, rec->segments.count, sizeof(uint64_t), compare_numbers);
    if (rec->seals.count > 0)
        qsort(rec->seals.at, rec->seals.count, sizeof(uint64_t), compare_numbers);
    err = nef_cut_resume(log, &rec->segments, &rec->seals);
    if (err != NEF_OK)
        return err;
    /* seals of segments that are gone: a drop was interrupted */
    for (size_t i = 0; err == NEF_OK && i < rec->seals.count; i++) {
        if (has_number(&rec->segments, rec->seals.at[i]))
            continue;
        nef_seal_name(rec->seals.at[i], name);
        err = nef_dir_remove(dir, name);
    }
    for (size_t i = 0; err == NEF_OK && i < rec->temporaries.count; i++) {
        nef_seal_name(rec->temporaries.at[i], name);
        strcpy(temporary, name);
        strcat(temporary, ".tmp");
        err = nef_dir_remove(dir, temporary);
    }
    if (err == NEF_OK)
        err = nef_dir_remove(dir, NEF_CUT_NAME ".tmp");
    return err;
}

/* ---- step 2 ---- */

static void found_bad(struct recovery *rec, uint64_t at)
{
    rec->bad = true;
    rec->bad_at = at;
}

static nef_err add_segment(struct recovery *rec, uint64_t number, uint64_t end, bool sealed)
{
    struct nef_segment *seg = nef_segment_new(number, end);
    nef_err err;

    if (seg == NULL)
        return NEF_E_NOMEM;
    seg->sealed = sealed;
    err = nef_segment_insert(rec->log, seg);
    if (err != NEF_OK)
        nef_segment_free(seg);
    return err;
}

static nef_err take_sealed(struct recovery *rec, const struct nef_seal *seal)
{
    struct nef_log *log = rec->log;

    rec->mark = NEF_MAX(rec->mark, seal->mark);
    if (rec->bad) {
        /* all of a sealed segment is durable, and so is what lies below it */
        rec->damaged = true;
        return add_segment(rec, seal->segment, segment_first(log, seal->segment), true);
    }
    log->epochs = seal->epochs;
    rec->last_epoch = seal->last_epoch;
    rec->end = nef_log_end_at(seal->end, log->segment_bytes);
    rec->any = true;
    rec->open_run = false;
    return add_segment(rec, seal->segment, seal->end, true);
}

static nef_err sync_by_name(struct nef_log *log, uint64_t number)
{
    char name[NEF_NAME_BYTES];
    struct nef_file *file;
    nef_err err;

    nef_segment_name(number, name);
    err = log->dir->ops->open(log->dir, name, 0, &file);
    if (err != NEF_OK)
        return err;
    err = file->ops->sync(file);
    file->ops->close(file);
    return err;
}

/* was_sealed: its seal is there but says nothing any more than that all of the segment is durable. */
static nef_err take_unsealed(struct recovery *rec, uint64_t number, bool was_sealed)
{
    struct nef_log *log = rec->log;
    struct nef_scan_result res = {0};
    uint64_t first = segment_first(log, number), border = segment_border(log, number);
    bool was_bad = rec->bad;
    nef_err err;

    /* what this process's predecessor wrote and didn't sync counts only once it is on the disk */
    err = sync_by_name(log, number);
    if (err == NEF_OK) {
        if (was_bad) {
            struct nef_epochs unused = {0};

            err = nef_scan_segment(log, number, 0, &unused, &res);
        } else {
            err = nef_scan_segment(log, number, rec->last_epoch, &log->epochs, &res);
        }
    }
    if (err != NEF_OK)
        return err;
    rec->mark = NEF_MAX(rec->mark, res.mark);
    if (was_sealed && (was_bad || !res.header_ok || res.valid_to < border))
        rec->damaged = true;
    if (res.dirty_to > res.valid_to)
        rec->cut_bytes += res.dirty_to - (was_bad ? first : res.header_ok ? res.run_end : first);
    else if (res.header_ok)
        rec->cut_bytes += res.valid_to - (was_bad ? first : res.run_end);

    if (!res.header_ok) {
        /* a header is durable before the first record; one that can't be read may have been good */
        if (res.valid_above > 0 || res.header_unreadable)
            rec->damaged = true;
        if (!was_bad) {
            found_bad(rec, segment_start(log, number));
            if (!rec->any)
                rec->end = first;
        }
        return add_segment(rec, number, first, false);
    }
    if (was_bad)
        return add_segment(rec, number, first, false);
    rec->any = true;
    /* A run doesn't cross a border, so one without its end there was given up; records that follow in the
     * next segment make it a part of the log's past, else the log ends before it. */
    if (res.run_end > first || !rec->open_run) {
        rec->last_epoch = res.last_epoch;
        rec->end = nef_log_end_at(res.run_end, log->segment_bytes);
        rec->open_run = false;
    }
    if (res.valid_to < border)
        found_bad(rec, res.valid_to);
    else if (res.run_end < border)
        rec->open_run = true;
    return add_segment(rec, number, res.run_end, false);
}

static nef_err examine(struct recovery *rec)
{
    struct nef_seal *seal = malloc(sizeof(*seal));
    nef_err err = NEF_OK;

    if (seal == NULL)
        return NEF_E_NOMEM;
    rec->end = NEF_SEGMENT_HEADER_BYTES;
    for (size_t i = 0; err == NEF_OK && i < rec->segments.count; i++) {
        uint64_t number = rec->segments.at[i];

        err = has_number(&rec->seals, number) ? nef_seal_load(rec->log, number, seal)
                                              : NEF_E_NOT_FOUND;
        if (err == NEF_OK)
            err = take_sealed(rec, seal);
        else if (err == NEF_E_NOT_FOUND)
            err = take_unsealed(rec, number, false);
        else if (err == NEF_E_DAMAGED)
            err = take_unsealed(rec, number, true);
    }
    free(seal);
    if (rec->bad && rec->mark > rec->bad_at)
        rec->damaged = true;
    if (!rec->damaged && !rec->any)
        rec->end = NEF_SEGMENT_HEADER_BYTES; /* nothing but what was being prepared: an empty log */
    return err;
}

/* ---- step 3 ---- */

static nef_err unlink_above(struct recovery *rec, uint64_t number, bool keep_it)
{
    struct nef_log *log = rec->log;
    char name[NEF_NAME_BYTES];
    nef_err err = NEF_OK;

    while (err == NEF_OK && log->segment_count > 0) {
        struct nef_segment *seg = log->segments[log->segment_count - 1];

        if (seg->number < number || (seg->number == number && keep_it))
            break;
        nef_segment_name(seg->number, name);
        err = nef_dir_remove(log->dir, name);
        if (err == NEF_OK)
            nef_segment_free(nef_segment_remove(log, seg));
    }
    return err;
}

/* Make the segment of the end the tail, zero above it. */
static nef_err cut_tail(struct recovery *rec)
{
    struct nef_log *log = rec->log;
    uint64_t number = segment_of(log, rec->end);
    char name[NEF_NAME_BYTES];
    struct nef_segment *seg;
    nef_err err;

    /* without a valid header the segment of E was only being prepared */
    err = unlink_above(rec, number, rec->any);
    if (err == NEF_OK)
        err = log->dir->ops->sync_dir(log->dir);
    if (err != NEF_OK || nef_segment_find(log, number) == NULL)
        return err;
    err = nef_segment_acquire(log, number, false, &seg); /* the tail's reference */
    if (err != NEF_OK)
        return err;
    log->tail = seg;
    if (seg->sealed) {
        /* left by nef_log_skip, whose target is gone: records may follow here again */
        nef_seal_name(number, name);
        err = nef_dir_remove(log->dir, name);
        if (err == NEF_OK)
            err = log->dir->ops->sync_dir(log->dir);
        seg->sealed = false;
    }
    if (err == NEF_OK && (rec->cut_bytes > 0 || !rec->bad || rec->open_run))
        err = nef_zero_above(log, number, rec->end, seg->file);
    if (err == NEF_OK)
        err = seg->file->ops->sync(seg->file);
    return err;
}

/* E lies in a segment whose header is bad but that isn't the first: then E is the place before it. */
static bool end_segment_valid(struct recovery *rec)
{
    struct nef_log *log = rec->log;

    return !(rec->bad && rec->bad_at == segment_start(log, segment_of(log, rec->end)));
}

static void report(struct recovery *rec, struct nef_log_recovery *out)
{
    struct nef_log *log = rec->log;

    *out = (struct nef_log_recovery){.start = nef_log_start(log),
                                     .end = log->end,
                                     .mark = rec->mark,
                                     .last_epoch = log->last_epoch,
                                     .cut_bytes = rec->damaged ? 0 : rec->cut_bytes,
                                     .damaged = rec->damaged,
                                     .damage_offset = rec->damaged ? rec->bad_at : 0,
                                     .epoch_count = log->epochs.count};
    memcpy(out->epochs, log->epochs.at, sizeof(out->epochs));
    if (rec->damaged)
        nef_trace(NEF_TRACE_ERROR, "log_damaged", "u:cell", (uint64_t)log->options.cell, "u:offset",
                  rec->bad_at, "u:mark", rec->mark, "u:end", log->end, NULL);
    else if (rec->cut_bytes > 0)
        nef_trace(NEF_TRACE_INFO, "torn_tail_cut", "u:cell", (uint64_t)log->options.cell, "u:end",
                  log->end, "u:bytes", rec->cut_bytes, NULL);
}

/* ---- open and close ---- */

static struct nef_log *new_log(const struct nef_log_options *options)
{
    struct nef_log *log = calloc(1, sizeof(*log));

    if (log == NULL)
        return NULL;
    log->dir = options->dir;
    log->options = *options;
    log->segment_bytes = options->segment_bytes;
    /* default attributes never fail on Linux */
    pthread_mutex_init(&log->maintain, NULL);
    pthread_mutex_init(&log->erase, NULL);
    pthread_mutex_init(&log->sync, NULL);
    pthread_mutex_init(&log->files, NULL);
    pthread_mutex_init(&log->lock, NULL);
    return log;
}

nef_err nef_log_open(const struct nef_log_options *options, struct nef_log_recovery *out_recovery,
                     struct nef_log **out_log)
{
    struct recovery rec = {0};
    struct nef_log *log;
    nef_err err;

    if (!nef_segment_bytes_valid(options->segment_bytes))
        return NEF_E_INVALID;
    log = new_log(options);
    if (log == NULL)
        return NEF_E_NOMEM;
    rec.log = log;
    err = list_directory(&rec);
    if (err == NEF_OK)
        err = examine(&rec);
    if (err != NEF_OK)
        goto out;
    rec.any = rec.any && end_segment_valid(&rec);
    if (!rec.damaged)
        err = cut_tail(&rec);
    if (err != NEF_OK)
        goto out;
    log->end = rec.end;
    log->last_epoch = rec.last_epoch;
    atomic_store_explicit(&log->damaged, rec.damaged, memory_order_relaxed);
    report(&rec, out_recovery);
    *out_log = log;
    log = NULL;
out:
    free(rec.segments.at);
    free(rec.seals.at);
    free(rec.temporaries.at);
    nef_log_close(log);
    return err;
}

void nef_log_close(struct nef_log *log)
{
    if (log == NULL)
        return;
    for (size_t i = 0; i < log->segment_count; i++)
        nef_segment_free(log->segments[i]);
    nef_segment_free(log->prepared);
    free(log->segments);
    pthread_mutex_destroy(&log->maintain);
    pthread_mutex_destroy(&log->erase);
    pthread_mutex_destroy(&log->sync);
    pthread_mutex_destroy(&log->files);
    pthread_mutex_destroy(&log->lock);
    free(log);
}
