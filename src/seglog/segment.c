/* Segments as objects: names, the sorted list, references, open files, creation.
 *
 * A segment is held by references: its pins, being the tail, being dirty, and each call at work on it.
 * Its file is opened when first needed and stays open while there is a reference; of the others about
 * NEF_LOG_FILES_MAX stay open (a log of a terabyte has 4,096 segments; a process has maybe 1,024 files).
 * A dropped segment loses its name at once and its memory and file with the last reference, so whoever
 * streams from it goes on: a file without a name still has its bytes.
 *
 * Invariants
 *   1. log->segments is ascending in number, without two live ones of the same number.
 *   2. refs > 0 and returned by acquire: file != NULL.
 *   3. A dirty segment holds one reference, the tail one.
 * Not here: what is inside of a segment. */
#include <stdlib.h>
#include <string.h>
#include "base/trace.h"
#include "seglog/seglog_internal.h"

#define NAME_DIGITS 16u

/* All zeros; not const, so that it lies in .bss and not in the program's file. Never written. */
static uint8_t zeros[NEF_ZERO_CHUNK];

/* ---- names ---- */

static void make_name(uint64_t number, const char *suffix, char out[NEF_NAME_BYTES])
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < NAME_DIGITS; i++)
        out[i] = digits[number >> (60 - 4 * i) & 15];
    strcpy(out + NAME_DIGITS, suffix);
}

void nef_segment_name(uint64_t number, char out[NEF_NAME_BYTES])
{
    make_name(number, ".seg", out);
}

void nef_seal_name(uint64_t number, char out[NEF_NAME_BYTES])
{
    make_name(number, ".seal", out);
}

enum nef_name_kind nef_name_parse(const char *name, uint64_t *out_number)
{
    uint64_t number = 0;

    if (strcmp(name, NEF_CUT_NAME) == 0)
        return NEF_NAME_CUT;
    for (unsigned i = 0; i < NAME_DIGITS; i++) {
        unsigned v;

        if (name[i] >= '0' && name[i] <= '9')
            v = (unsigned)(name[i] - '0');
        else if (name[i] >= 'a' && name[i] <= 'f')
            v = (unsigned)(name[i] - 'a') + 10;
        else
            return NEF_NAME_OTHER;
        number = number << 4 | v;
    }
    *out_number = number;
    if (strcmp(name + NAME_DIGITS, ".seg") == 0)
        return NEF_NAME_SEGMENT;
    if (strcmp(name + NAME_DIGITS, ".seal") == 0)
        return NEF_NAME_SEAL;
    return strcmp(name + NAME_DIGITS, ".seal.tmp") == 0 ? NEF_NAME_TEMPORARY : NEF_NAME_OTHER;
}

/* ---- state of the log ---- */

nef_err nef_log_usable(struct nef_log *log)
{
    return atomic_load_explicit(&log->failed, memory_order_acquire) ? NEF_E_IO : NEF_OK;
}

nef_err nef_log_fail(struct nef_log *log, const char *what, nef_err err)
{
    nef_trace(NEF_TRACE_ERROR, "log_failed", "u:cell", (uint64_t)log->options.cell, "s:what", what,
              "e:error", err, NULL);
    atomic_store_explicit(&log->failed, true, memory_order_release);
    return NEF_E_IO;
}

bool nef_epochs_note(struct nef_epochs *e, uint64_t epoch, uint64_t offset)
{
    if (e->count > 0 && e->at[e->count - 1].epoch >= epoch)
        return false;
    if (e->count == NEF_EPOCHS_KEPT) {
        memmove(e->at, e->at + 1, sizeof(e->at) - sizeof(e->at[0]));
        e->count--;
    }
    e->at[e->count++] = (struct nef_epoch_start){epoch, offset};
    return true;
}

void nef_epochs_cut(struct nef_epochs *e, uint64_t offset)
{
    while (e->count > 0 && e->at[e->count - 1].offset >= offset)
        e->count--;
}

/* ---- the list ---- */

struct nef_segment *nef_segment_new(uint64_t number, uint64_t end)
{
    struct nef_segment *seg = calloc(1, sizeof(*seg));

    if (seg != NULL) {
        seg->number = number;
        seg->end = end;
        seg->synced_to = end;
    }
    return seg;
}

void nef_segment_free(struct nef_segment *seg)
{
    if (seg == NULL)
        return;
    if (seg->file != NULL)
        seg->file->ops->close(seg->file);
    free(seg);
}

size_t nef_segment_index(struct nef_log *log, uint64_t number)
{
    size_t low = 0, high = log->segment_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (log->segments[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct nef_segment *nef_segment_find(struct nef_log *log, uint64_t number)
{
    size_t i = nef_segment_index(log, number);
    struct nef_segment *found = NULL;

    /* a dropped one may linger beside a live one of the same number */
    for (; i < log->segment_count && log->segments[i]->number == number; i++)
        if (found == NULL || found->dropped)
            found = log->segments[i];
    return found;
}

nef_err nef_segment_insert(struct nef_log *log, struct nef_segment *seg)
{
    size_t i;

    if (log->segment_count == log->segment_capacity) {
        size_t capacity = log->segment_capacity == 0 ? 64 : 2 * log->segment_capacity;
        struct nef_segment **grown = realloc(log->segments, capacity * sizeof(struct nef_segment *));

        if (grown == NULL)
            return NEF_E_NOMEM;
        log->segments = grown;
        log->segment_capacity = capacity;
    }
    i = nef_segment_index(log, seg->number);
    memmove(log->segments + i + 1, log->segments + i, (log->segment_count - i) * sizeof(seg));
    log->segments[i] = seg;
    log->segment_count++;
    if (seg->file != NULL)
        log->open_count++;
    return NEF_OK;
}

struct nef_segment *nef_segment_remove(struct nef_log *log, struct nef_segment *seg)
{
    size_t i = nef_segment_index(log, seg->number);

    seg->dropped = true;
    if (seg->refs > 0)
        return NULL;
    while (log->segments[i] != seg)
        i++;
    memmove(log->segments + i, log->segments + i + 1, (log->segment_count - i - 1) * sizeof(seg));
    log->segment_count--;
    if (seg->file != NULL)
        log->open_count--;
    return seg;
}

/* ---- references ---- */

/* Close one file that nobody holds, if too many are open. `files` held. */
static void evict(struct nef_log *log)
{
    struct nef_file *victim = NULL;

    pthread_mutex_lock(&log->lock);
    if (log->open_count > NEF_LOG_FILES_MAX) {
        for (size_t steps = 2 * log->segment_count; steps > 0 && victim == NULL; steps--) {
            struct nef_segment *seg;

            log->clock_hand = (log->clock_hand + 1) % log->segment_count;
            seg = log->segments[log->clock_hand];
            if (seg->refs > 0 || seg->file == NULL)
                continue;
            if (!seg->used) {
                victim = seg->file;
                seg->file = NULL;
                log->open_count--;
            }
            seg->used = false;
        }
    }
    pthread_mutex_unlock(&log->lock);
    if (victim != NULL)
        victim->ops->close(victim);
}

static nef_err open_file(struct nef_log *log, struct nef_segment *seg)
{
    char name[NEF_NAME_BYTES];
    struct nef_file *file;
    bool open_already;
    nef_err err = NEF_OK;

    pthread_mutex_lock(&log->files);
    pthread_mutex_lock(&log->lock);
    open_already = seg->file != NULL;
    pthread_mutex_unlock(&log->lock);
    if (!open_already) {
        nef_segment_name(seg->number, name);
        err = log->dir->ops->open(log->dir, name, 0, &file);
        if (err == NEF_OK) {
            pthread_mutex_lock(&log->lock);
            seg->file = file;
            log->open_count++;
            pthread_mutex_unlock(&log->lock);
            evict(log);
        }
    }
    pthread_mutex_unlock(&log->files);
    return err;
}

nef_err nef_segment_acquire(struct nef_log *log, uint64_t number, bool dropped_too,
                            struct nef_segment **out_seg)
{
    struct nef_segment *seg;
    bool have_file = false;
    nef_err err;

    pthread_mutex_lock(&log->lock);
    seg = nef_segment_find(log, number);
    if (seg != NULL && seg->dropped && !dropped_too)
        seg = NULL;
    if (seg != NULL) {
        seg->refs++;
        seg->used = true;
        have_file = seg->file != NULL;
    }
    pthread_mutex_unlock(&log->lock);
    if (seg == NULL)
        return NEF_E_NOT_FOUND;
    if (!have_file) {
        err = open_file(log, seg);
        if (err != NEF_OK) {
            nef_segment_release(log, seg);
            return err;
        }
    }
    *out_seg = seg;
    return NEF_OK;
}

void nef_segment_release(struct nef_log *log, struct nef_segment *seg)
{
    struct nef_segment *gone = NULL;

    pthread_mutex_lock(&log->lock);
    NEF_ASSERT(seg->refs > 0);
    seg->refs--;
    if (seg->refs == 0 && seg->dropped)
        gone = nef_segment_remove(log, seg);
    pthread_mutex_unlock(&log->lock);
    nef_segment_free(gone);
}

/* ---- files ---- */

nef_err nef_dir_remove(struct nef_dir *dir, const char *name)
{
    nef_err err = dir->ops->unlink(dir, name);

    return err == NEF_E_NOT_FOUND ? NEF_OK : err;
}

static nef_err fill_with_zeros(struct nef_log *log, struct nef_file *file)
{
    uint64_t at = NEF_SEGMENT_HEADER_BYTES;
    nef_err err = NEF_OK;

    while (err == NEF_OK && at < log->segment_bytes &&
           atomic_load_explicit(&log->waiting, memory_order_relaxed) == 0) {
        uint64_t n = NEF_MIN(log->segment_bytes - at, (uint64_t)NEF_ZERO_CHUNK);

        err = file->ops->write(file, at, zeros, (size_t)n);
        at += n;
        /* a little at a time: one large flush would stall the syncs of records */
        if (err == NEF_OK && at % (8 * NEF_ZERO_CHUNK) < NEF_ZERO_CHUNK)
            err = file->ops->sync(file);
    }
    return err;
}

void nef_maintain_lock(struct nef_log *log)
{
    atomic_fetch_add_explicit(&log->waiting, 1, memory_order_relaxed);
    pthread_mutex_lock(&log->maintain);
    atomic_fetch_sub_explicit(&log->waiting, 1, memory_order_relaxed);
}

nef_err nef_segment_write_header(struct nef_log *log, uint64_t number, struct nef_file *file)
{
    const struct nef_segment_header header = {.cell = log->options.cell,
                                              .segment = number,
                                              .segment_bytes = log->segment_bytes,
                                              .region = log->options.region};
    uint8_t bytes[NEF_SEGMENT_HEADER_BYTES];

    nef_segment_header_encode(&header, bytes);
    return file->ops->write(file, 0, bytes, sizeof(bytes));
}

nef_err nef_segment_create(struct nef_log *log, uint64_t number, bool zero_fill,
                           struct nef_segment **out_seg)
{
    struct nef_dir *dir = log->dir;
    struct nef_segment *seg;
    struct nef_file *file = NULL;
    char name[NEF_NAME_BYTES];
    nef_err err;

    pthread_mutex_lock(&log->lock);
    seg = nef_segment_find(log, number);
    NEF_ASSERT(seg == NULL || seg->dropped); /* never replace what holds records */
    pthread_mutex_unlock(&log->lock);
    seg = nef_segment_new(number, segment_first(log, number));
    if (seg == NULL)
        return NEF_E_NOMEM;
    nef_segment_name(number, name);
    err = nef_dir_remove(dir, name);
    if (err != NEF_OK)
        goto out;
    err = dir->ops->open(dir, name, NEF_FILE_CREATE, &file);
    if (err != NEF_OK)
        goto out;
    seg->file = file;
    err = file->ops->allocate(file, log->segment_bytes);
    if (err == NEF_OK)
        err = nef_segment_write_header(log, number, file);
    if (err == NEF_OK && zero_fill)
        err = fill_with_zeros(log, file);
    if (err == NEF_OK)
        err = file->ops->sync(file);
    if (err == NEF_OK)
        err = dir->ops->sync_dir(dir);
    if (err != NEF_OK)
        (void)dir->ops->unlink(dir, name); /* without records it means nothing; open removes it, too */
out:
    if (err == NEF_OK)
        *out_seg = seg;
    else
        nef_segment_free(seg);
    return err;
}

nef_err nef_prepared_discard(struct nef_log *log)
{
    char name[NEF_NAME_BYTES];
    nef_err err;

    if (log->prepared == NULL)
        return NEF_OK;
    nef_segment_name(log->prepared->number, name);
    err = nef_dir_remove(log->dir, name);
    if (err != NEF_OK)
        return err;
    nef_segment_free(log->prepared);
    log->prepared = NULL;
    return NEF_OK;
}

nef_err nef_segment_sync(struct nef_log *log, struct nef_segment *seg)
{
    nef_err err;

    pthread_mutex_lock(&log->sync);
    err = nef_log_usable(log);
    if (err == NEF_OK) {
        err = seg->file->ops->sync(seg->file);
        if (err != NEF_OK)
            err = nef_log_fail(log, "sync", err);
    }
    pthread_mutex_unlock(&log->sync);
    return err;
}
