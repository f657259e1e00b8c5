/* One cell's log on one replica: segments in a directory, append, sync, cut, read, drop, punch, scrub.
 *
 * Threads: the core thread appends, cuts and drops; one sync thread at a time syncs; any thread reads.
 * All durability is explicit: nef_log_append puts bytes into the page cache only; nef_log_sync makes
 * everything appended before it was called durable. A new segment's file and its directory are synced
 * (and its header written) before nef_log_append that enters it returns; segments are preallocated one
 * ahead by nef_log_prepare so that this seldom costs the append anything.
 * After NEF_E_IO from append or sync the log is FAILED: every further call but read and close returns
 * NEF_E_IO, and the process must stop (design R7). */
#ifndef NEF_SEGLOG_SEGLOG_H
#define NEF_SEGLOG_SEGLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/file.h"
#include "base/limits.h"
#include "seglog/format.h"

struct nef_log;

struct nef_log_options {
    struct nef_dir *dir; /* borrowed; holds only this cell's segments */
    uint32_t cell;
    uint64_t segment_bytes;
    struct nef_id region;
    bool zero_fill; /* nef_log_prepare writes zeros into the segment it prepares, so that a later sync
                     * needs no journal commit for extents written for the first time; costs one more
                     * write of every byte */
};

struct nef_epoch_start {
    uint64_t epoch;
    uint64_t offset; /* of the first record of that epoch in this log */
};

/* What recovery found; see nef_log_open. */
struct nef_log_recovery {
    uint64_t start;        /* first record place of the first segment there is */
    uint64_t end;          /* after the last valid record; everything above was zero-filled and synced */
    uint64_t mark;         /* highest synced-before mark seen */
    uint64_t last_epoch;   /* of the last record; 0 if there is none */
    uint64_t cut_bytes;    /* what was cut above the marks, 0 if nothing */
    bool damaged;          /* a bad record below a mark: not electable until repaired */
    uint64_t damage_offset; /* the first such place */
    uint32_t epoch_count;
    struct nef_epoch_start epochs[NEF_EPOCHS_KEPT]; /* ascending; the newest ones if there are more */
};

/* Open or create (empty directory) the log. Reads the tail segment past the page cache and checks it;
 * older segments are taken from their seal (a sidecar file NNNN.seal with record count, digest, epoch
 * transitions, highest mark) and scanned where it is missing. A bad record above every mark is a torn
 * tail: cut, zero-filled and synced before this returns. One below a mark is damage: nothing is cut,
 * out_recovery says where, and end is the end of what is valid before it.
 * Errors: NEF_E_VERSION, NEF_E_IO, NEF_E_CORRUPT (a segment of another region, cell or size). */
NEF_MUST_CHECK nef_err nef_log_open(const struct nef_log_options *options,
                                    struct nef_log_recovery *out_recovery, struct nef_log **out_log);
void nef_log_close(struct nef_log *log);

uint64_t nef_log_start(struct nef_log *log);
uint64_t nef_log_end(struct nef_log *log);
/* Where the first record of EPOCH or a later one stands: the end of what was there before; the log's end if there is
 * none. Of the newest NEF_EPOCHS_KEPT epochs only. Any thread. */
uint64_t nef_log_epoch_start(struct nef_log *log, uint64_t epoch);

/* Write BYTES bytes of stamped records at OFFSET == nef_log_end. If they begin in a new segment, OFFSET
 * is that segment's first record place and the old end must be its border or filled by a pad record that
 * the caller appended before. On success the end is nef_log_end_at(offset + bytes).
 * Errors: NEF_E_NOSPACE (nothing changed; the log is fine), NEF_E_IO (FAILED). Core thread. */
NEF_MUST_CHECK nef_err nef_log_append(struct nef_log *log, uint64_t offset, const void *data,
                                      uint64_t bytes);

/* Move the end of a log to the start of a later segment (a returning replica skips what its primary
 * dropped). Seals what is there. Core thread. */
NEF_MUST_CHECK nef_err nef_log_skip(struct nef_log *log, uint64_t to);

/* fdatasync what was appended before the call. out_durable: the log end when it started. Sync thread. */
NEF_MUST_CHECK nef_err nef_log_sync(struct nef_log *log, uint64_t *out_durable);

/* Preallocate the next segment if less than half of the current one is left, and write the seals of full
 * segments that are durable. Any background thread, about once a second. Errors are not sticky. */
NEF_MUST_CHECK nef_err nef_log_prepare(struct nef_log *log);

/* Cut everything at and above TO (a record place): unlink later segments, zero-fill, sync; the end is TO. At
 * NEF_SEGMENT_HEADER_BYTES, also of a log that begins later, nothing is left, and the log begins there again.
 * No read, sync or append may run. Blocking. */
NEF_MUST_CHECK nef_err nef_log_truncate(struct nef_log *log, uint64_t to);

/* Copy BYTES at OFFSET; [offset, offset+bytes) must be below the end and inside one segment.
 * NEF_E_NOT_FOUND: the segment was dropped. Any thread. */
NEF_MUST_CHECK nef_err nef_log_read(struct nef_log *log, uint64_t offset, void *out, uint64_t bytes);

/* The same, but NEF_E_AGAIN if the disk would have to be waited for (or that can't be known); then OUT is undefined. */
NEF_MUST_CHECK nef_err nef_log_read_now(struct nef_log *log, uint64_t offset, void *out, uint64_t bytes);

/* First place at or after OFFSET that this log holds a record place for: OFFSET itself if its segment is
 * there, else the first record place of the next segment that is. No I/O. Any thread. */
uint64_t nef_log_next_present(struct nef_log *log, uint64_t offset);

/* How far [OFFSET, ...) is there without a hole: a record place, at most the end; OFFSET itself if it isn't
 * there. No I/O. Any thread. */
uint64_t nef_log_present_until(struct nef_log *log, uint64_t offset);

/* Read and check the record at OFFSET (header; and the body into body_out if not NULL, which has room for
 * NEF_RECORD_BODY_MAX). A pad's body is neither read nor checked; an erased one gives zeros, whether its
 * hole is made yet or not. out_next: the next record's place (it crosses to the next segment present).
 * NEF_E_RANGE at the end; NEF_E_TORN, NEF_E_CORRUPT, NEF_E_VERSION as in format.h. Any thread. */
NEF_MUST_CHECK nef_err nef_log_record(struct nef_log *log, uint64_t offset,
                                      struct nef_record *out_record, uint8_t *body_out,
                                      uint64_t *out_next);

/* A pinned segment isn't unlinked or punched until unpinned (a GET that streams from it).
 * NEF_E_NOT_FOUND if it was dropped. Any thread. */
NEF_MUST_CHECK nef_err nef_log_pin(struct nef_log *log, uint64_t offset);
void nef_log_unpin(struct nef_log *log, uint64_t offset);

/* Unlink segment NUMBER, which must lie below the one that holds the end (NEF_E_INVALID). Its name is
 * gone durably when this returns, and no new pin finds it; who holds a pin reads on, and its space comes
 * back with the last of them. Idempotent. */
NEF_MUST_CHECK nef_err nef_log_drop(struct nef_log *log, uint64_t segment);

/* Replace the body of the record at OFFSET by a hole and set ERASED in its header; durable when this
 * returns. Idempotent; an erase that a crash cut short must be repeated by the caller. NEF_E_AGAIN: the
 * segment is pinned, nothing was done. NEF_E_TORN, NEF_E_CORRUPT: no valid header there. Any one thread
 * that may block. */
NEF_MUST_CHECK nef_err nef_log_erase(struct nef_log *log, uint64_t offset);
/* The same for many records of one segment at the cost of two syncs in all. */
NEF_MUST_CHECK nef_err nef_log_erase_many(struct nef_log *log, const uint64_t *offsets, size_t count);

/* The file in the log's directory that holds segment NUMBER, and OFFSET % segment_bytes says where. PURE */
#define NEF_SEGMENT_NAME_BYTES 32u
void nef_segment_name(uint64_t number, char out[NEF_SEGMENT_NAME_BYTES]);

/* Numbers of the segments there are, ascending. Returns how many there are; writes at most max. */
uint32_t nef_log_segments(struct nef_log *log, uint64_t *out_numbers, uint32_t max);

/* Scrub one sealed segment: reads it past the page cache at the caller's pace (called per step of at most
 * 1 MiB), checks every record. out_digest: SHA-256 over the headers' canonical bytes (flags without
 * ERASED) in order, so that an erase that one zone has not done yet does not differ.
 * bad_offset: first bad record, or UINT64_MAX. */
struct nef_scrub;
NEF_MUST_CHECK nef_err nef_scrub_begin(struct nef_log *log, uint64_t segment,
                                       struct nef_scrub **out_scrub);
/* NEF_E_AGAIN: more to do; NEF_OK: finished, see the results. */
NEF_MUST_CHECK nef_err nef_scrub_step(struct nef_scrub *scrub);
void nef_scrub_result(const struct nef_scrub *scrub, uint8_t out_digest[32],
                      uint64_t *out_bad_offset, uint64_t *out_bytes);
void nef_scrub_free(struct nef_scrub *scrub);

/* Write good bytes (whole records, from the peer) over damaged ones at OFFSET, sync, read back past the
 * page cache and check. Used by scrub repair. Blocking. */
NEF_MUST_CHECK nef_err nef_log_repair(struct nef_log *log, uint64_t offset, const void *data,
                                      uint64_t bytes);

#endif
