/* Scrub: read a sealed segment as it is on the disk and check every record; repair: write good bytes, from
 * the peer, over bad ones.
 *
 * Scrub goes a step at a time, so that its caller sets the pace. Erases may run beside it: what looks bad
 * is read once more before it is called so. Two states that an interrupted erase leaves are put right in
 * passing: a header that wasn't whole is restored, a hole that wasn't made is made. After a bad header
 * nothing tells where the next record begins, so the scrub ends there; after a bad body it goes on. */
#include <stdlib.h>
#include <string.h>
#include "crypto/crypto.h"
#include "seglog/seglog_internal.h"

#define STEP_BYTES   (1u << 20)
#define WINDOW_BYTES (5u << 20)
_Static_assert(WINDOW_BYTES >= NEF_PROPOSAL_BYTES_MAX + NEF_RECORD_HEADER_BYTES + NEF_RECORD_ALIGN +
                                   2 * NEF_BLOCK_BYTES + STEP_BYTES,
               "the longest record and a step's read fit");

struct nef_scrub {
    struct nef_log *log;
    struct nef_segment *seg; /* a reference */
    struct nef_scan scan;
    struct nef_hash *hash;
    struct nef_seal seal;
    bool seal_known;
    bool finished;
    bool again;  /* what is at AT looked bad once */
    uint64_t at; /* in the file: what is checked so far */
    uint64_t end;
    uint64_t last_epoch;
    uint64_t record_count;
    uint64_t bad_offset;
    uint8_t digest[32];
};

nef_err nef_scrub_begin(struct nef_log *log, uint64_t segment, struct nef_scrub **out_scrub)
{
    struct nef_scrub *s;
    bool sealed;
    nef_err err;

    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NEF_E_NOMEM;
    s->log = log;
    s->bad_offset = UINT64_MAX;
    err = nef_segment_acquire(log, segment, false, &s->seg);
    if (err != NEF_OK)
        goto out;
    pthread_mutex_lock(&log->lock);
    sealed = s->seg->sealed;
    s->end = s->seg->end - segment_start(log, segment);
    pthread_mutex_unlock(&log->lock);
    if (!sealed) {
        err = NEF_E_AGAIN;
        goto out;
    }
    err = nef_seal_load(log, segment, &s->seal);
    s->seal_known = err == NEF_OK;
    if (err == NEF_OK || err == NEF_E_NOT_FOUND || err == NEF_E_DAMAGED)
        err = nef_scan_open(log, segment, WINDOW_BYTES, false, &s->scan);
    if (err != NEF_OK)
        goto out;
    s->hash = nef_hash_new(NEF_HASH_SHA256);
    if (s->hash == NULL)
        err = NEF_E_NOMEM;
out:
    if (err == NEF_OK)
        *out_scrub = s;
    else
        nef_scrub_free(s);
    return err;
}

static void note_bad(struct nef_scrub *s, uint64_t at)
{
    uint64_t offset = segment_start(s->log, s->seg->number) + at;

    if (s->bad_offset == UINT64_MAX)
        s->bad_offset = offset;
}

static void finish(struct nef_scrub *s)
{
    nef_hash_final(s->hash, s->digest);
    s->finished = true;
    /* each record is good, but they aren't those that were sealed */
    if (s->bad_offset == UINT64_MAX && s->seal_known &&
        (s->record_count != s->seal.record_count || memcmp(s->digest, s->seal.digest, 32) != 0))
        note_bad(s, NEF_SEGMENT_HEADER_BYTES);
}

static bool header_good(struct nef_scrub *s)
{
    const struct nef_log *log = s->log;
    struct nef_segment_header h;

    return nef_segment_header_decode(s->scan.buffer, &h) == NEF_OK && h.cell == log->options.cell &&
           h.segment == s->seg->number && h.segment_bytes == log->segment_bytes &&
           nef_id_equal(&h.region, &log->options.region);
}

/* Look at it once more from the disk. False: that was done already. */
static bool look_again(struct nef_scrub *s)
{
    if (s->again)
        return false;
    s->again = true;
    s->scan.have = 0;
    s->scan.from = s->at / NEF_BLOCK_BYTES * NEF_BLOCK_BYTES;
    return true;
}

/* Check the record at s->at. NEF_E_AGAIN: more must be read first. NEF_OK: s->at moved on, or finished. */
static nef_err check_one(struct nef_scrub *s)
{
    const uint8_t *view = s->scan.buffer + (s->at - s->scan.from);
    uint64_t left = s->scan.from + s->scan.have - s->at, bytes;
    uint64_t offset = segment_start(s->log, s->seg->number) + s->at;
    uint8_t canonical[NEF_RECORD_CANONICAL_BYTES];
    struct nef_record r = {0};
    bool half = false, good;
    nef_err err = NEF_OK;

    if (left < NEF_MIN((uint64_t)NEF_RECORD_HEADER_BYTES, s->end - s->at))
        return NEF_E_AGAIN;
    good = s->end - s->at >= NEF_RECORD_HEADER_BYTES &&
           nef_record_decode_at(view, s->log->options.cell, offset, &r, &half) == NEF_OK;
    bytes = nef_record_bytes(r.body_bytes);
    if (!good || r.epoch < s->last_epoch || bytes > s->end - s->at) {
        if (look_again(s))
            return NEF_E_AGAIN;
        note_bad(s, s->at);
        finish(s);
        return NEF_OK;
    }
    if (left < bytes)
        return NEF_E_AGAIN;
    good = nef_record_check_body(&r, view + NEF_RECORD_HEADER_BYTES) == NEF_OK;
    if (!good && look_again(s))
        return NEF_E_AGAIN;
    if (!good && (r.flags & NEF_RECORD_ERASED)) {
        err = nef_log_erase(s->log, offset);
        if (err == NEF_E_AGAIN)
            err = NEF_OK; /* pinned; the next scrub tries again */
    } else if (!good) {
        note_bad(s, s->at);
    } else if (half) {
        err = nef_erase_undo(s->log, offset);
    }
    if (err == NEF_E_NOT_FOUND)
        err = NEF_OK; /* dropped meanwhile */
    if (err != NEF_OK)
        return err;
    nef_record_canonical(view, canonical);
    nef_hash_update(s->hash, canonical, sizeof(canonical));
    s->record_count++;
    s->last_epoch = r.epoch;
    s->again = false;
    s->at += bytes;
    return NEF_OK;
}

nef_err nef_scrub_step(struct nef_scrub *s)
{
    nef_err err;

    if (s->finished)
        return NEF_OK;
    err = nef_scan_fill(&s->scan, STEP_BYTES);
    if (err != NEF_OK)
        return err;
    if (s->at == 0) {
        if (!header_good(s))
            note_bad(s, 0);
        s->at = NEF_SEGMENT_HEADER_BYTES;
    }
    while (!s->finished && s->at < s->end) {
        err = check_one(s);
        if (err == NEF_E_AGAIN)
            break;
        if (err != NEF_OK)
            return err;
    }
    if (!s->finished && s->at >= s->end)
        finish(s);
    if (s->finished)
        return NEF_OK;
    nef_scan_seek(&s->scan, s->at);
    return NEF_E_AGAIN;
}

void nef_scrub_result(const struct nef_scrub *s, uint8_t out_digest[32], uint64_t *out_bad_offset,
                      uint64_t *out_bytes)
{
    NEF_ASSERT(s->finished);
    memcpy(out_digest, s->digest, 32);
    *out_bad_offset = s->bad_offset;
    *out_bytes = s->at;
}

void nef_scrub_free(struct nef_scrub *s)
{
    if (s == NULL)
        return;
    nef_scan_close(&s->scan);
    nef_hash_free(s->hash);
    if (s->seg != NULL)
        nef_segment_release(s->log, s->seg);
    free(s);
}

/* ---- repair ---- */

static nef_err check_repair(struct nef_log *log, uint64_t offset, const uint8_t *data, uint64_t bytes)
{
    struct nef_segment_header h;
    uint64_t unused, number = segment_of(log, offset);
    nef_err err;

    if (bytes == 0 || bytes % NEF_RECORD_ALIGN != 0 || bytes > segment_border(log, number) - offset)
        return NEF_E_INVALID;
    if (offset == segment_start(log, number)) {
        if (bytes != NEF_SEGMENT_HEADER_BYTES)
            return NEF_E_INVALID;
        err = nef_segment_header_decode(data, &h);
        if (err != NEF_OK)
            return err == NEF_E_TORN ? NEF_E_CORRUPT : err;
        return h.cell == log->options.cell && h.segment == number &&
                       h.segment_bytes == log->segment_bytes &&
                       nef_id_equal(&h.region, &log->options.region)
                   ? NEF_OK
                   : NEF_E_INVALID;
    }
    if (offset < segment_first(log, number))
        return NEF_E_INVALID;
    return nef_log_check_records(log, offset, data, bytes, 0, &unused);
}

static nef_err read_back(struct nef_log *log, uint64_t offset, const uint8_t *data, uint64_t bytes)
{
    uint64_t at = offset % log->segment_bytes, done = 0;
    struct nef_scan scan = {0};
    const uint8_t *view;
    nef_err err;

    err = nef_scan_open(log, segment_of(log, offset), STEP_BYTES + 2 * NEF_BLOCK_BYTES, false, &scan);
    while (err == NEF_OK && done < bytes) {
        uint64_t n = NEF_MIN(bytes - done, (uint64_t)STEP_BYTES);

        err = nef_scan_view(&scan, at + done, (size_t)n, &view);
        if (err == NEF_OK && memcmp(view, data + done, (size_t)n) != 0)
            err = NEF_E_IO;
        done += n;
    }
    nef_scan_close(&scan);
    return err;
}

nef_err nef_log_repair(struct nef_log *log, uint64_t offset, const void *data, uint64_t bytes)
{
    struct nef_segment *seg;
    nef_err err;

    err = nef_log_usable(log);
    if (err == NEF_OK)
        err = check_repair(log, offset, data, bytes);
    if (err == NEF_OK)
        err = nef_segment_acquire(log, segment_of(log, offset), false, &seg);
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->erase);
    err = seg->file->ops->write(seg->file, offset % log->segment_bytes, data, (size_t)bytes);
    if (err != NEF_OK && err != NEF_E_NOSPACE)
        err = nef_log_fail(log, "repair", err);
    if (err == NEF_OK)
        err = nef_segment_sync(log, seg);
    if (err == NEF_OK)
        err = read_back(log, offset, data, bytes);
    if (err == NEF_OK) {
        pthread_mutex_lock(&log->lock);
        seg->seal_refused = false;
        pthread_mutex_unlock(&log->lock);
    }
    pthread_mutex_unlock(&log->erase);
    nef_segment_release(log, seg);
    return err;
}
