/* Seals: what recovery needs to know of a full segment without reading it.
 *
 * A seal is written once all bytes of its segment are durable, so it's also a mark: whatever is found bad
 * below the end of a sealed segment is damage. What it says is derived: if it is lost, the segment is scanned
 * once and sealed again. One that is there but can't be read says still that its segment was sealed. The digest covers the headers, which hold the CRCs of the bodies and the leaf hashes,
 * and leaves out what may differ between zones for a while (the ERASED flag and, with it, the header's
 * CRC). */
#include <string.h>
#include "base/trace.h"
#include "crypto/crypto.h"
#include "seglog/seglog_internal.h"

nef_err nef_seal_load(struct nef_log *log, uint64_t number, struct nef_seal *out_seal)
{
    uint8_t bytes[NEF_SIDECAR_BYTES_MAX];
    char name[NEF_NAME_BYTES];
    struct nef_seal seal;
    size_t n = 0;
    nef_err err;

    nef_seal_name(number, name);
    err = nef_sidecar_read(log->dir, name, bytes, &n);
    if (err == NEF_OK)
        err = nef_seal_decode(bytes, n, &seal);
    if (err == NEF_E_CORRUPT) {
        nef_trace(NEF_TRACE_WARN, "seal_unreadable", "u:cell", (uint64_t)log->options.cell,
                  "u:segment", number, NULL);
        return NEF_E_DAMAGED;
    }
    if (err != NEF_OK)
        return err;
    if (seal.cell != log->options.cell || seal.segment != number ||
        seal.segment_bytes != log->segment_bytes || !nef_id_equal(&seal.region, &log->options.region))
        return NEF_E_CORRUPT;
    *out_seal = seal;
    return NEF_OK;
}

nef_err nef_segment_seal(struct nef_log *log, struct nef_segment *seg, bool may_stop)
{
    uint8_t header[NEF_RECORD_HEADER_BYTES], canonical[NEF_RECORD_CANONICAL_BYTES];
    uint8_t bytes[NEF_SIDECAR_BYTES_MAX];
    struct nef_seal seal = {.cell = log->options.cell,
                            .segment = seg->number,
                            .segment_bytes = log->segment_bytes,
                            .region = log->options.region,
                            .end = seg->end};
    uint64_t at = segment_first(log, seg->number);
    char name[NEF_NAME_BYTES];
    struct nef_hash *hash;
    struct nef_record r;
    bool half;
    nef_err err = NEF_OK;

    hash = nef_hash_new(NEF_HASH_SHA256);
    if (hash == NULL)
        return NEF_E_NOMEM;
    while (err == NEF_OK && at < seg->end) {
        if (may_stop && atomic_load_explicit(&log->waiting, memory_order_relaxed) != 0) {
            err = NEF_E_AGAIN;
            break;
        }
        if (seg->end - at < sizeof(header)) {
            err = NEF_E_DAMAGED;
            break;
        }
        err = seg->file->ops->read(seg->file, at % log->segment_bytes, header, sizeof(header));
        if (err != NEF_OK)
            break;
        if (nef_record_decode_at(header, log->options.cell, at, &r, &half) != NEF_OK ||
            nef_record_bytes(r.body_bytes) > seg->end - at) {
            err = NEF_E_DAMAGED;
            break;
        }
        nef_record_canonical(header, canonical);
        nef_hash_update(hash, canonical, sizeof(canonical));
        seal.record_count++;
        seal.mark = NEF_MAX(seal.mark, r.synced_before);
        seal.last_epoch = r.epoch;
        at += nef_record_bytes(r.body_bytes);
    }
    nef_hash_final(hash, seal.digest);
    nef_hash_free(hash);
    if (err == NEF_E_DAMAGED)
        nef_trace(NEF_TRACE_ERROR, "seal_refused", "u:cell", (uint64_t)log->options.cell, "u:offset", at,
                  NULL);
    if (err != NEF_OK)
        return err;

    pthread_mutex_lock(&log->lock);
    seal.epochs = log->epochs;
    pthread_mutex_unlock(&log->lock);
    nef_epochs_cut(&seal.epochs, seg->end);
    nef_seal_name(seg->number, name);
    err = nef_sidecar_write(log->dir, name, bytes, nef_seal_encode(&seal, bytes));
    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&log->lock);
    seg->sealed = true;
    pthread_mutex_unlock(&log->lock);
    return NEF_OK;
}

nef_err nef_seal_pending(struct nef_log *log)
{
    nef_err err = NEF_OK;

    for (;;) {
        struct nef_segment *seg = NULL;
        uint64_t number = 0;

        pthread_mutex_lock(&log->lock);
        for (size_t i = 0; i < log->segment_count && seg == NULL; i++) {
            struct nef_segment *s = log->segments[i];

            if (s != log->tail && !s->sealed && !s->dropped && !s->seal_refused && !s->dirty &&
                s->synced_to == s->end && s->end == segment_border(log, s->number))
                seg = s;
        }
        if (seg != NULL)
            number = seg->number;
        pthread_mutex_unlock(&log->lock);
        if (seg == NULL)
            return NEF_OK;
        err = nef_segment_acquire(log, number, false, &seg);
        if (err != NEF_OK)
            return err;
        err = nef_segment_seal(log, seg, true);
        if (err == NEF_E_DAMAGED) {
            pthread_mutex_lock(&log->lock);
            seg->seal_refused = true;
            pthread_mutex_unlock(&log->lock);
            err = NEF_OK;
        }
        nef_segment_release(log, seg);
        if (err != NEF_OK)
            return err == NEF_E_AGAIN ? NEF_OK : err;
    }
}
