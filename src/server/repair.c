/* One whole record asked of a peer (FETCH and FETCHED frames, see peer.c), and written over the damaged one here.
 *
 * The peer's record must be the one that stood here: the same place may hold another record in a log that went
 * another way. A segment's header needs nobody: it says nothing that isn't known. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/bytes.h"
#include "server/runtime_internal.h"

/* a pad may be longer than any body */
#define FETCH_RECORD_MAX (NEF_PROPOSAL_BYTES_MAX + NEF_RECORD_HEADER_BYTES + NEF_RECORD_ALIGN)

/* ---- answering ---- */

nef_err answer_fetch(struct conn *conn, struct nef_reader *r)
{
    struct nef_runtime *rt = conn->link->rt;
    uint64_t id = nef_read_u64(r);
    uint32_t cell = nef_read_u32(r);
    uint64_t offset = nef_read_u64(r);
    struct nef_record record;
    struct nef_writer w;
    uint8_t *answer;
    uint64_t next, bytes = 0;
    nef_err err;

    if (nef_reader_end(r) != NEF_OK || cell >= rt->cell_count)
        return NEF_E_PROTOCOL;
    answer = malloc(12 + FETCH_RECORD_MAX);
    if (answer == NULL)
        return NEF_E_NOMEM;
    err = nef_log_record(rt->cells[cell].log, offset, &record, answer + 12, &next);
    if (err == NEF_OK) {
        bytes = nef_record_bytes(record.body_bytes);
        err = bytes > FETCH_RECORD_MAX
                  ? NEF_E_LIMIT
                  : nef_log_read(rt->cells[cell].log, offset, answer + 12, bytes);
    }
    w = nef_writer_of(answer, 12);
    nef_write_u64(&w, id);
    nef_write_u32(&w, (uint32_t)err);
    err = link_send(conn->link, CONN_BULK,
                    frame_plain(FRAME_FETCHED, answer, 12 + (uint32_t)(err == NEF_OK ? bytes : 0)));
    free(answer);
    return err == NEF_E_PEER ? NEF_OK : err;
}

nef_err take_fetched(struct conn *conn, struct nef_reader *r)
{
    struct link *link = conn->link;
    uint64_t id = nef_read_u64(r);
    uint32_t err = nef_read_u32(r);
    size_t bytes = nef_reader_left(r);
    const uint8_t *data = nef_read_view(r, bytes);

    if (nef_reader_end(r) != NEF_OK)
        return NEF_E_PROTOCOL;
    pthread_mutex_lock(&link->lock);
    if (id == link->fetch_id && !link->fetch_done) {
        link->fetch_err = err == 0 ? NEF_OK : NEF_E_NOT_FOUND;
        link->fetched = err == 0 && bytes > 0 ? malloc(bytes) : NULL;
        link->fetched_bytes = (uint32_t)bytes;
        if (link->fetched != NULL)
            memcpy(link->fetched, data, bytes);
        else if (err == 0)
            link->fetch_err = NEF_E_NOMEM;
        link->fetch_done = true;
        pthread_cond_broadcast(&link->cond);
    }
    pthread_mutex_unlock(&link->lock);
    return NEF_OK;
}

/* ---- asking ---- */

static nef_err fetch(struct link *link, uint32_t cell, uint64_t offset, uint8_t **out_data, uint32_t *out_bytes)
{
    uint8_t request[20];
    struct nef_writer w = nef_writer_of(request, sizeof(request));
    struct timespec until;
    nef_err err;

    pthread_mutex_lock(&link->fetch_lock);
    pthread_mutex_lock(&link->lock);
    link->fetch_id++;
    link->fetch_done = false;
    link->fetched = NULL;
    nef_write_u64(&w, link->fetch_id);
    pthread_mutex_unlock(&link->lock);
    nef_write_u32(&w, cell);
    nef_write_u64(&w, offset);
    err = link_send(link, CONN_BULK, frame_plain(FRAME_FETCH, request, sizeof(request)));
    if (err != NEF_OK)
        goto out;
    (void)clock_gettime(CLOCK_MONOTONIC, &until); /* link->cond counts that clock */
    until.tv_sec += 5;
    pthread_mutex_lock(&link->lock);
    while (!link->fetch_done && !link->broken)
        if (pthread_cond_timedwait(&link->cond, &link->lock, &until) == ETIMEDOUT)
            break;
    err = link->fetch_done ? link->fetch_err : NEF_E_PEER;
    link->fetch_done = true; /* a late answer is dropped */
    if (err == NEF_OK) {
        *out_data = link->fetched;
        *out_bytes = link->fetched_bytes;
    } else {
        free(link->fetched);
    }
    link->fetched = NULL;
    pthread_mutex_unlock(&link->lock);
out:
    pthread_mutex_unlock(&link->fetch_lock);
    return err;
}

/* Is what a peer gave the record that stood at its place here? A peer whose log went another way has a good one
 * there, too, but another: our own header says which it was, and where that can't be read, the peer must be in
 * sync. */
static bool same_record(struct nef_runtime *rt, uint32_t peer, const struct nef_record *theirs)
{
    struct nef_record ours;
    bool in_sync;
    nef_err err = nef_log_record(rt->cells[theirs->cell].log, theirs->offset, &ours, NULL, NULL);

    if (err == NEF_OK)
        return ours.epoch == theirs->epoch && ours.proposer == theirs->proposer &&
               ours.number == theirs->number && ours.run_index == theirs->run_index &&
               ours.body_bytes == theirs->body_bytes && ours.body_crc == theirs->body_crc;
    if (err != NEF_E_TORN && err != NEF_E_CORRUPT && err != NEF_E_IO)
        return false; /* nothing of this log stands there */
    pthread_mutex_lock(&rt->status_lock);
    in_sync = rt->status.peers[peer].in_sync;
    pthread_mutex_unlock(&rt->status_lock);
    return in_sync;
}

nef_err nef_runtime_repair(struct nef_runtime *rt, uint32_t cell, uint64_t offset)
{
    nef_err err = NEF_E_PEER;

    if (cell >= rt->cell_count)
        return NEF_E_RANGE;
    if (offset % rt->segment_bytes == 0) { /* a segment's header says nothing that isn't known here */
        struct nef_segment_header h = {.cell = cell,
                                       .segment = offset / rt->segment_bytes,
                                       .segment_bytes = rt->segment_bytes,
                                       .region = rt->region};
        uint8_t header[NEF_SEGMENT_HEADER_BYTES];

        nef_segment_header_encode(&h, header);
        err = nef_log_repair(rt->cells[cell].log, offset, header, sizeof(header));
        if (err == NEF_OK)
            (void)atomic_fetch_add(&rt->scrub_repaired, 1);
        return err;
    }
    for (uint32_t i = 0; i < rt->link_count && err != NEF_OK; i++) {
        struct nef_record record;
        uint8_t *data = NULL;
        uint32_t bytes = 0, good;

        err = fetch(&rt->links[i], cell, offset, &data, &bytes);
        if (err != NEF_OK)
            continue;
        if (!log_bytes_good(rt, data, bytes, cell, offset, &good) ||
            nef_record_decode(data, &record) != NEF_OK ||
            nef_record_bytes(record.body_bytes) != bytes)
            err = NEF_E_PROTOCOL;
        else if (!same_record(rt, rt->links[i].peer, &record))
            err = NEF_E_PEER;
        else
            err = nef_log_repair(rt->cells[cell].log, offset, data, bytes);
        if (err == NEF_OK)
            (void)atomic_fetch_add(&rt->scrub_repaired, 1);
        free(data);
    }
    return err;
}
