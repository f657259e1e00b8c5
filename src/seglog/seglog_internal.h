/* What the files of seglog share: segments, the log, sidecars, the scanning window.
 *
 *   format.c     records and segment headers <-> bytes (PURE)
 *   sidecar.c    small files beside the segments, written atomically; bytes of seal and of cut (PURE)
 *   segment.c    segment objects: names, lookup, references, open files, creation
 *   append.c     append, sync, prepare, skip
 *   seal.c       digest of a full segment, writing its seal
 *   scan.c       reading past the page cache, finding what is valid, zeroing
 *   recover.c    nef_log_open
 *   truncate.c   cut, and finishing a cut that a crash interrupted
 *   reclaim.c    drop, erase
 *   read.c       read, record, pin
 *   scrub.c      scrub, repair
 *
 * Lock order (outermost first): maintain, erase, sync, files, lock. Only `lock` is taken by readers and by an
 * append that stays in its segment, and no I/O happens under it. `sync` is held over fdatasync, so that
 * an error that the kernel reports once can't be swallowed by another thread's sync of the same file. */
#ifndef NEF_SEGLOG_INTERNAL_H
#define NEF_SEGLOG_INTERNAL_H

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include "base/assert.h"
#include "base/buf.h"
#include "seglog/seglog.h"

#define NEF_SEGMENT_BYTES_MIN   (16u << 10)
#define NEF_SEGMENT_BYTES_LIMIT (4ull << 30)
#define NEF_BLOCK_BYTES         4096u /* of reads past the page cache */
#define NEF_ZERO_CHUNK          (1u << 20)

/* ---- format.c ---- */

#define NEF_RECORD_CANONICAL_BYTES 188u

bool nef_segment_bytes_valid(uint64_t bytes);

/* Decode the header at OFFSET of CELL. As nef_record_decode, and NEF_E_CORRUPT if it is a record of
 * another place. out_half_erased: an erase was cut short before its header was whole; the record is given
 * as not erased, and is valid only if its body is. */
NEF_MUST_CHECK nef_err nef_record_decode_at(const uint8_t *header, uint32_t cell, uint64_t offset,
                                            struct nef_record *out_record, bool *out_half_erased);
/* The body's CRC alone, of a record that isn't erased. */
NEF_MUST_CHECK nef_err nef_record_check_crc(const struct nef_record *r, const uint8_t *body);
void nef_record_clear_erased(uint8_t *header);
/* What both zones agree on: all but the ERASED flag and the header's CRC. */
void nef_record_canonical(const uint8_t *header, uint8_t out[NEF_RECORD_CANONICAL_BYTES]);
bool nef_record_magic_at(const uint8_t *p);

/* ---- structures ---- */

struct nef_segment {
    uint64_t number;
    /* guarded by log->lock */
    uint64_t end;       /* address after its last record; its border when full */
    uint64_t synced_to; /* address up to which it is known to be durable */
    struct nef_file *file; /* NULL: not open now; stays open while refs > 0 */
    uint32_t refs;      /* pins, the tail, being dirty, calls in progress */
    uint32_t pins;      /* those of nef_log_pin */
    bool sealed;
    bool dirty;   /* appended to since the last sync started; holds a reference */
    bool dropped; /* its name is gone; lives on for those who still hold it */
    bool seal_refused; /* its headers don't read as they were written; scrub tells more */
    bool used;    /* second chance before its file is closed */
};

struct nef_epochs {
    uint32_t count; /* ascending; the newest ones */
    struct nef_epoch_start at[NEF_EPOCHS_KEPT];
};

struct nef_log {
    struct nef_dir *dir; /* borrowed */
    struct nef_log_options options;
    uint64_t segment_bytes;

    pthread_mutex_t maintain; /* creation, sealing, cutting, dropping; `prepared` */
    pthread_mutex_t erase; /* rewriting records in place */
    pthread_mutex_t sync;
    pthread_mutex_t files; /* opening of segment files */
    pthread_mutex_t lock;  /* guards what follows */
    struct nef_segment **segments; /* ascending; dropped ones stay while referenced */
    size_t segment_count, segment_capacity;
    size_t open_count, clock_hand;
    struct nef_segment *tail; /* holds END, or NULL if that segment isn't created yet */
    uint64_t end;
    uint64_t last_epoch;
    struct nef_epochs epochs;
    uint32_t dirty_count;

    struct nef_segment *prepared; /* guarded by maintain; not in segments */
    atomic_uint waiting; /* who wants `maintain`: zero-filling and sealing stop (relaxed: only advice) */
    atomic_bool failed;  /* set before sync or append returns NEF_E_IO; release, pairs with log_usable */
    atomic_bool damaged; /* from nef_log_open until a truncate */
};

static inline uint64_t segment_start(const struct nef_log *log, uint64_t number)
{
    return number * log->segment_bytes;
}
static inline uint64_t segment_first(const struct nef_log *log, uint64_t number)
{
    return number * log->segment_bytes + NEF_SEGMENT_HEADER_BYTES;
}
static inline uint64_t segment_border(const struct nef_log *log, uint64_t number)
{
    return (number + 1) * log->segment_bytes;
}
static inline uint64_t segment_of(const struct nef_log *log, uint64_t offset)
{
    return offset / log->segment_bytes;
}

/* Note a record of EPOCH at OFFSET in the table, if it starts an epoch; then true. */
bool nef_epochs_note(struct nef_epochs *e, uint64_t epoch, uint64_t offset);
void nef_epochs_cut(struct nef_epochs *e, uint64_t offset); /* forget what starts at or above */

/* ---- segment.c ---- */

enum nef_name_kind { NEF_NAME_OTHER, NEF_NAME_SEGMENT, NEF_NAME_SEAL, NEF_NAME_TEMPORARY, NEF_NAME_CUT };
#define NEF_NAME_BYTES NEF_SEGMENT_NAME_BYTES
#define NEF_CUT_NAME   "truncate"

void nef_seal_name(uint64_t number, char out[NEF_NAME_BYTES]);
enum nef_name_kind nef_name_parse(const char *name, uint64_t *out_number);

/* NEF_E_IO if the log has failed. */
NEF_MUST_CHECK nef_err nef_log_usable(struct nef_log *log);
/* Give the error of a write or sync: marks the log FAILED. Returns NEF_E_IO. */
nef_err nef_log_fail(struct nef_log *log, const char *what, nef_err err);

struct nef_segment *nef_segment_new(uint64_t number, uint64_t end);
void nef_segment_free(struct nef_segment *seg); /* closes its file; NULL is fine */

/* With `lock` held: */
struct nef_segment *nef_segment_find(struct nef_log *log, uint64_t number); /* NULL: not there */
size_t nef_segment_index(struct nef_log *log, uint64_t number); /* of the first not below NUMBER */
NEF_MUST_CHECK nef_err nef_segment_insert(struct nef_log *log, struct nef_segment *seg);
/* Takes it from the list; the caller frees the result, NULL if references remain (then it is marked
 * dropped and the last release frees it). */
struct nef_segment *nef_segment_remove(struct nef_log *log, struct nef_segment *seg);

/* Reference to the segment that holds NUMBER, with its file open; NEF_E_NOT_FOUND if it isn't there or
 * (unless dropped_too) was dropped. */
NEF_MUST_CHECK nef_err nef_segment_acquire(struct nef_log *log, uint64_t number, bool dropped_too,
                                           struct nef_segment **out_seg);
void nef_segment_release(struct nef_log *log, struct nef_segment *seg);

/* Take `maintain` from a thread that shouldn't wait long; unlock as usual. */
void nef_maintain_lock(struct nef_log *log);

/* Create the file of segment NUMBER with header, preallocated; file and directory are durable when this
 * returns. zero_fill: write zeros up to its end, too, unless somebody waits. A leftover of that name is
 * replaced. On an error nothing is left. `maintain` held (or nobody else has the log). */
NEF_MUST_CHECK nef_err nef_segment_create(struct nef_log *log, uint64_t number, bool zero_fill,
                                          struct nef_segment **out_seg);
/* Write the header that segment NUMBER must have. The caller syncs. */
NEF_MUST_CHECK nef_err nef_segment_write_header(struct nef_log *log, uint64_t number,
                                                struct nef_file *file);
/* Delete what nef_log_prepare made. `maintain` held. The name's removal isn't synced. */
NEF_MUST_CHECK nef_err nef_prepared_discard(struct nef_log *log);
/* Unlink; a name that isn't there is fine. */
NEF_MUST_CHECK nef_err nef_dir_remove(struct nef_dir *dir, const char *name);
/* fdatasync under log->sync; an error makes the log FAILED. */
NEF_MUST_CHECK nef_err nef_segment_sync(struct nef_log *log, struct nef_segment *seg);

/* ---- append.c ---- */

/* Are these whole records of this log, one after the other from OFFSET on, each with a good header and
 * body, in epochs that don't fall? NEF_E_INVALID, NEF_E_CORRUPT, NEF_E_VERSION. out_last_epoch: may be
 * the same variable as last_epoch's. */
NEF_MUST_CHECK nef_err nef_log_check_records(struct nef_log *log, uint64_t offset, const uint8_t *data,
                                             uint64_t bytes, uint64_t last_epoch,
                                             uint64_t *out_last_epoch);

/* Create the segment of log->end, if need be, and make it the tail. NEF_E_NOSPACE, NEF_E_NOMEM: nothing
 * changed; else the log FAILED. `maintain` held. */
NEF_MUST_CHECK nef_err nef_tail_enter(struct nef_log *log);

/* ---- sidecar.c ---- */

#define NEF_SIDECAR_BYTES_MAX 8192u

struct nef_seal {
    uint32_t cell;
    uint64_t segment;
    uint64_t segment_bytes;
    struct nef_id region;
    uint64_t end;
    uint64_t record_count;
    uint64_t mark;
    uint64_t last_epoch;
    uint8_t digest[32];
    struct nef_epochs epochs; /* the log's, up to this segment's end */
};

/* Write a small file so that after a crash the name is either absent (or old) or whole: temporary name,
 * sync, rename, sync of the directory. */
NEF_MUST_CHECK nef_err nef_sidecar_write(struct nef_dir *dir, const char *name, const void *data,
                                         size_t bytes);
/* NEF_E_NOT_FOUND, NEF_E_CORRUPT if larger than NEF_SIDECAR_BYTES_MAX. */
NEF_MUST_CHECK nef_err nef_sidecar_read(struct nef_dir *dir, const char *name,
                                        uint8_t out[NEF_SIDECAR_BYTES_MAX], size_t *out_bytes);
size_t nef_seal_encode(const struct nef_seal *seal, uint8_t out[NEF_SIDECAR_BYTES_MAX]);
/* NEF_E_CORRUPT, NEF_E_VERSION. */
NEF_MUST_CHECK nef_err nef_seal_decode(const uint8_t *in, size_t bytes, struct nef_seal *out_seal);
size_t nef_cut_encode(uint32_t cell, uint64_t to, uint8_t out[NEF_SIDECAR_BYTES_MAX]);
NEF_MUST_CHECK nef_err nef_cut_decode(const uint8_t *in, size_t bytes, uint32_t cell, uint64_t *out_to);

/* ---- seal.c ---- */

/* Read the seal of a segment and check that it is of this log. NEF_E_NOT_FOUND: there is none;
 * NEF_E_DAMAGED: it can't be read (in both cases the segment is scanned and sealed again); NEF_E_CORRUPT: of
 * another log. */
NEF_MUST_CHECK nef_err nef_seal_load(struct nef_log *log, uint64_t number, struct nef_seal *out_seal);
/* Write the seal of a segment whose bytes are all durable. `maintain` held, SEG referenced.
 * may_stop: NEF_E_AGAIN if somebody waits for `maintain`. NEF_E_DAMAGED: its records aren't valid. */
NEF_MUST_CHECK nef_err nef_segment_seal(struct nef_log *log, struct nef_segment *seg, bool may_stop);
/* Seal every segment that is full and durable, unless somebody waits. `maintain` held. */
NEF_MUST_CHECK nef_err nef_seal_pending(struct nef_log *log);

/* ---- scan.c ---- */

/* A sliding window over one file, read past the page cache in ascending order. */
struct nef_scan {
    struct nef_file *file; /* owned, NEF_FILE_DIRECT */
    uint8_t *buffer;       /* NEF_BLOCK_BYTES-aligned */
    size_t capacity;
    uint64_t from; /* place in the file of buffer[0] */
    size_t have;
    uint64_t file_bytes; /* readable; what is beyond reads as zeros */
    uint64_t limit;      /* segment_bytes */
    uint32_t unreadable_max; /* blocks that can't be read and show as 0xff, no record; one more is NEF_E_IO */
    uint32_t unreadable;
    bool header_unreadable;
};

/* fresh: forget what the page cache has of the file. */
NEF_MUST_CHECK nef_err nef_scan_open(struct nef_log *log, uint64_t number, size_t capacity, bool fresh,
                                     struct nef_scan *out_scan);
void nef_scan_close(struct nef_scan *scan);
/* Some blocks may be unreadable from now on: few enough that it isn't the whole disk that fails. */
void nef_scan_tolerate(struct nef_scan *scan);
/* Forget what lies before AT (or beyond it, if AT isn't in the window). */
void nef_scan_seek(struct nef_scan *scan, uint64_t at);
/* Read up to MAX bytes more, as far as there is room. */
NEF_MUST_CHECK nef_err nef_scan_fill(struct nef_scan *scan, size_t max);
/* View of [at, at+bytes) of the file, which must lie below limit; valid until the next call. */
NEF_MUST_CHECK nef_err nef_scan_view(struct nef_scan *scan, uint64_t at, size_t bytes,
                                     const uint8_t **out_view);

/* What a scan of one segment found. Addresses are of the log. */
struct nef_scan_result {
    bool header_unreadable; /* the disk doesn't give it: it may have been good */
    bool header_ok;    /* else nothing below but valid_above and dirty_to is set */
    uint64_t valid_to; /* where the first bad record is, or the border */
    uint64_t run_end;  /* after the last record that ends a run; the first place if there is none */
    uint64_t last_epoch; /* at run_end; the caller's if there is none */
    uint64_t mark;     /* highest seen, in any valid record */
    uint64_t valid_above; /* valid records found above valid_to */
    uint64_t dirty_to; /* after the last byte above valid_to that isn't zero; valid_to if all is zero */
    uint64_t records;
};

/* Scan segment NUMBER from its header on. last_epoch: of the record before it. epochs: noted into, up to
 * run_end. Headers of erases that were cut short are made whole. Errors: NEF_E_VERSION, NEF_E_CORRUPT
 * (another log's segment), NEF_E_IO (but for a few unreadable blocks, which count as bad records). */
NEF_MUST_CHECK nef_err nef_scan_segment(struct nef_log *log, uint64_t number, uint64_t last_epoch,
                                        struct nef_epochs *epochs, struct nef_scan_result *out_result);
/* Make [from, border) of segment NUMBER zero, by FILE. What is zero on the disk isn't written. The caller
 * syncs. */
NEF_MUST_CHECK nef_err nef_zero_above(struct nef_log *log, uint64_t number, uint64_t from,
                                      struct nef_file *file);
bool nef_all_zero(const uint8_t *p, size_t bytes);

/* ---- truncate.c ---- */

/* Numbers found in a directory; ascending. */
struct nef_numbers {
    uint64_t *at;
    size_t count, capacity;
};
/* Finish a cut whose note is in the directory (nothing to do if there is none). segments, seals: what is
 * in the directory; entries that the cut removes are taken out. Before the log has any segment. */
NEF_MUST_CHECK nef_err nef_cut_resume(struct nef_log *log, struct nef_numbers *segments,
                                      struct nef_numbers *seals);

/* ---- reclaim.c ---- */

/* Restore the header of a record whose erase was cut short before its header was whole. */
NEF_MUST_CHECK nef_err nef_erase_undo(struct nef_log *log, uint64_t offset);

#endif
