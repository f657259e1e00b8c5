/* Scrub: reads every sealed segment past the page cache at a bounded rate, checks every record, repairs what
 * doesn't verify from the peer, and compares the segment's digest with the peer's.
 *
 * Each zone scrubs by itself and tells the other what it found (a `digest` frame); a zone that has both
 * digests of a segment compares them. Both copies verified and yet different would mean that the logs are
 * not byte-identical, which nothing here can mend: it is traced as an error and counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/bytes.h"
#include "base/trace.h"
#include "server/runtime_internal.h"

#define SEGMENTS_MAX 65536u
#define STEP_BYTES   (1u << 20)

#define PAD_BYTES_MAX (NEF_PROPOSAL_BYTES_MAX + NEF_RECORD_HEADER_BYTES + NEF_RECORD_ALIGN)
_Static_assert(PAD_BYTES_MAX >= NEF_RECORD_BODY_MAX + NEF_RECORD_ALIGN, "any record's body fits");
#define WANTED_TRIES  50u /* 10 s: a zone that has the record may just be coming back */

void log_unreadable(struct nef_runtime *rt, uint32_t cell, uint64_t from, uint64_t to)
{
    uint32_t i;

    post_simple(rt, NEF_EV_UNREADABLE, cell, from);

    pthread_mutex_lock(&rt->digest_lock);
    for (i = 0; i < rt->wanted_count; i++)
        if (rt->wanted[i].cell == cell && rt->wanted[i].from <= from && to <= rt->wanted[i].to)
            break;
    if (i == rt->wanted_count && i < SCRUB_WANTED)
        rt->wanted[rt->wanted_count++] = (struct wanted){.cell = cell, .from = from, .to = to};
    pthread_mutex_unlock(&rt->digest_lock); /* full: sending meets it again */
}

/* No zone that is there has this record whole. For whoever operates the region: where it is, and where to read on. */
static void say_lost(struct nef_runtime *rt, uint32_t cell, uint64_t offset, nef_err err)
{
    char name[NEF_SEGMENT_NAME_BYTES], file[4096];

    nef_segment_name(offset / rt->segment_bytes, name);
    (void)snprintf(file, sizeof(file), "%s/cell-%u/%s", rt->config->data_dir, cell, name);
    nef_trace(NEF_TRACE_ERROR, "record_unreadable", "u:cell", (uint64_t)cell, "u:offset", offset, "s:file", file,
              "u:file_offset", offset % rt->segment_bytes, "e:err", err, "s:effect",
              "the other zone can't catch up beyond it", "s:help",
              "operations.md: A zone can't catch up because of damage", NULL);
}

/* Repair the first bad record in [from, to). True: nothing is left to do. */
static bool repair_range(struct nef_runtime *rt, const struct wanted *w)
{
    struct nef_log *log = rt->cells[w->cell].log;
    uint8_t *body = malloc(PAD_BYTES_MAX);
    uint64_t at = w->from;
    nef_err err = NEF_OK;

    while (body != NULL && at < w->to) {
        struct nef_record record;
        uint64_t next = 0;

        err = nef_log_record(log, at, &record, body, &next);
        if (err == NEF_OK && record.type == NEF_RECORD_PAD) { /* its body isn't checked there */
            uint64_t bytes = nef_record_bytes(record.body_bytes);

            err = bytes > PAD_BYTES_MAX ? NEF_E_CORRUPT : nef_log_read(log, at, body, bytes);
            if (err == NEF_OK)
                err = nef_record_check_body(&record, body + NEF_RECORD_HEADER_BYTES);
        }
        if (err != NEF_OK)
            break;
        at = next;
    }
    if (body == NULL)
        return false;
    free(body);
    if (err != NEF_E_TORN && err != NEF_E_CORRUPT && err != NEF_E_IO)
        return true; /* whole again, or cut, or dropped */
    err = nef_runtime_repair(rt, w->cell, at);
    if (err == NEF_OK)
        nef_trace(NEF_TRACE_WARN, "record_repair", "u:cell", (uint64_t)w->cell, "u:offset", at, "e:err", err,
                  NULL);
    else if (w->tries == 0)
        say_lost(rt, w->cell, at, err);
    return false; /* there may be another */
}

/* One try at what the links wanted. */
static void repair_wanted(struct nef_runtime *rt)
{
    struct wanted w;
    bool any, done;

    pthread_mutex_lock(&rt->digest_lock);
    any = rt->wanted_count > 0;
    if (any)
        w = rt->wanted[0];
    pthread_mutex_unlock(&rt->digest_lock);
    if (!any)
        return;
    done = repair_range(rt, &w) || ++w.tries >= WANTED_TRIES;
    pthread_mutex_lock(&rt->digest_lock); /* only this thread takes entries out: the first is still W */
    memmove(rt->wanted, rt->wanted + 1, (rt->wanted_count - 1) * sizeof(rt->wanted[0]));
    if (done)
        rt->wanted_count--;
    else
        rt->wanted[rt->wanted_count - 1] = w; /* behind the others */
    pthread_mutex_unlock(&rt->digest_lock);
}

static void sleep_ns(struct nef_runtime *rt, uint64_t ns)
{
    while (ns > 0 && !atomic_load(&rt->stopping)) {
        uint64_t part = ns < 200000000ull ? ns : 200000000ull;
        struct timespec pause = {0, (long)part};

        (void)nanosleep(&pause, NULL);
        repair_wanted(rt);
        ns -= part;
    }
}

static struct digest *slot_of(struct nef_runtime *rt, uint32_t cell, uint64_t segment)
{
    return &rt->digests[(segment * NEF_CELL_MAX + cell) % DIGESTS];
}

static void compare(const struct digest *d)
{
    if (d->have_ours && d->have_theirs && memcmp(d->ours, d->theirs, 32) != 0)
        nef_trace(NEF_TRACE_ERROR, "segments_differ", "u:cell", (uint64_t)d->cell, "u:segment",
                  d->segment, NULL);
}

static void note(struct nef_runtime *rt, uint32_t cell, uint64_t segment, const uint8_t digest[32],
                 bool ours)
{
    struct digest *d = slot_of(rt, cell, segment);

    pthread_mutex_lock(&rt->digest_lock);
    if (d->cell != cell || d->segment != segment)
        *d = (struct digest){.cell = cell, .segment = segment};
    memcpy(ours ? d->ours : d->theirs, digest, 32);
    if (ours)
        d->have_ours = true;
    else
        d->have_theirs = true;
    if (d->have_ours && d->have_theirs) {
        (void)atomic_fetch_add(&rt->scrub_compared, 1);
        if (memcmp(d->ours, d->theirs, 32) != 0)
            (void)atomic_fetch_add(&rt->scrub_different, 1);
    }
    compare(d);
    pthread_mutex_unlock(&rt->digest_lock);
}

/* A log was cut or skipped between these places: a digest from before says nothing about what comes now. */
void scrub_forget(struct nef_runtime *rt, uint32_t cell, uint64_t from, uint64_t to)
{
    uint64_t first = NEF_MIN(from, to) / rt->segment_bytes;

    pthread_mutex_lock(&rt->digest_lock);
    for (uint32_t i = 0; i < DIGESTS; i++)
        if (rt->digests[i].cell == cell && rt->digests[i].segment >= first)
            rt->digests[i].have_ours = rt->digests[i].have_theirs = false;
    pthread_mutex_unlock(&rt->digest_lock);
}

nef_err scrub_digest(struct nef_runtime *rt, struct nef_reader *r)
{
    uint32_t cell = nef_read_u32(r);
    uint64_t segment = nef_read_u64(r);
    uint8_t digest[32];

    nef_read_copy(r, digest, sizeof(digest));
    if (nef_reader_end(r) != NEF_OK || cell >= rt->cell_count)
        return NEF_E_PROTOCOL;
    note(rt, cell, segment, digest, false);
    return NEF_OK;
}

static void tell(struct nef_runtime *rt, uint32_t cell, uint64_t segment, const uint8_t digest[32])
{
    uint8_t text[44];
    struct nef_writer w = nef_writer_of(text, sizeof(text));

    nef_write_u32(&w, cell);
    nef_write_u64(&w, segment);
    nef_write_copy(&w, digest, 32);
    for (uint32_t i = 0; i < rt->link_count; i++)
        (void)link_send(&rt->links[i], CONN_BULK, frame_plain(FRAME_DIGEST, text, sizeof(text)));
}

/* last: the place repaired before; again the same means that a repair doesn't help. */
static nef_err repair(struct nef_runtime *rt, uint32_t cell, uint64_t bad, uint64_t *last)
{
    nef_err err;

    if (bad == *last)
        return NEF_E_CORRUPT;
    *last = bad;
    (void)atomic_fetch_add(&rt->scrub_bad, 1);
    err = nef_runtime_repair(rt, cell, bad);
    nef_trace(err == NEF_OK ? NEF_TRACE_WARN : NEF_TRACE_ERROR, "scrub_repair", "u:cell",
              (uint64_t)cell, "u:offset", bad, "e:err", err, NULL);
    return err == NEF_OK ? NEF_E_AGAIN : err;
}

/* Record by record, where a scrub can't go: a sector that can't be read ends one, and a full segment whose
 * headers are damaged never gets the seal that a scrub needs. NEF_E_AGAIN: a record was repaired. */
static nef_err walk_segment(struct nef_runtime *rt, uint32_t cell, uint64_t segment, uint64_t *last)
{
    uint64_t rate = rt->config->scrub.rate_bytes, since = 0;
    uint64_t at = segment * rt->segment_bytes + NEF_SEGMENT_HEADER_BYTES;
    uint8_t *body = malloc(NEF_RECORD_BODY_MAX + NEF_RECORD_ALIGN);
    nef_err err = NEF_OK;

    if (body == NULL)
        return NEF_E_NOMEM;
    while (at / rt->segment_bytes == segment && !atomic_load(&rt->stopping)) {
        struct nef_record record;
        uint64_t next;

        err = nef_log_record(rt->cells[cell].log, at, &record, body, &next);
        if (err != NEF_OK)
            break;
        since += nef_record_bytes(record.body_bytes);
        at = next;
        if (since >= STEP_BYTES) {
            sleep_ns(rt, since * 1000000000ull / rate);
            since = 0;
        }
    }
    free(body);
    if (err == NEF_E_RANGE || err == NEF_E_NOT_FOUND)
        return NEF_OK; /* its end, or it was dropped */
    return err == NEF_E_TORN || err == NEF_E_CORRUPT || err == NEF_E_IO ? repair(rt, cell, at, last) : err;
}

/* NEF_E_AGAIN: a record was repaired, scrub it again. */
static nef_err scrub_segment(struct nef_runtime *rt, uint32_t cell, uint64_t segment, uint64_t *last)
{
    uint64_t rate = rt->config->scrub.rate_bytes;
    struct nef_scrub *scrub = NULL;
    uint8_t digest[32];
    uint64_t bad = UINT64_MAX, bytes = 0;
    nef_err err = nef_scrub_begin(rt->cells[cell].log, segment, &scrub);

    if (err == NEF_E_AGAIN)
        return walk_segment(rt, cell, segment, last);
    if (err != NEF_OK)
        return err;
    do {
        err = nef_scrub_step(scrub);
        if (err == NEF_E_AGAIN)
            sleep_ns(rt, (uint64_t)STEP_BYTES * 1000000000ull / rate);
    } while (err == NEF_E_AGAIN && !atomic_load(&rt->stopping));
    if (err == NEF_OK)
        nef_scrub_result(scrub, digest, &bad, &bytes);
    nef_scrub_free(scrub);
    if (err == NEF_E_IO)
        return walk_segment(rt, cell, segment, last);
    if (err != NEF_OK)
        return err == NEF_E_AGAIN ? NEF_OK : err; /* AGAIN: this process stops */
    (void)atomic_fetch_add(&rt->scrub_bytes, bytes);
    if (bad == UINT64_MAX) {
        note(rt, cell, segment, digest, true);
        tell(rt, cell, segment, digest);
        return NEF_OK;
    }
    return repair(rt, cell, bad, last);
}

static void scrub_cell(struct nef_runtime *rt, uint32_t cell)
{
    uint64_t *numbers = malloc(SEGMENTS_MAX * sizeof(*numbers));
    uint32_t count;

    if (numbers == NULL)
        return;
    count = nef_log_segments(rt->cells[cell].log, numbers, SEGMENTS_MAX);
    for (uint32_t i = 0; i < count && i < SEGMENTS_MAX && !atomic_load(&rt->stopping); i++) {
        nef_err err;
        uint64_t last = UINT64_MAX;
        int tries = 0;

        if (numbers[i] >= nef_log_end(rt->cells[cell].log) / rt->segment_bytes)
            break; /* the tail is still written; recovery checks it */
        do
            err = scrub_segment(rt, cell, numbers[i], &last);
        while (err == NEF_E_AGAIN && ++tries < 4096 && !atomic_load(&rt->stopping));
        if (err != NEF_OK && err != NEF_E_NOT_FOUND) /* NOT_FOUND: dropped meanwhile */
            nef_trace(NEF_TRACE_WARN, "scrub_failed", "u:cell", (uint64_t)cell, "u:segment", numbers[i],
                      "e:err", err, NULL);
    }
    free(numbers);
}

void *scrub_main(void *argument)
{
    struct nef_runtime *rt = argument;

    thread_name("scrub");
    sleep_ns(rt, NEF_MIN(rt->config->scrub.interval_ns, 10000000000ull));
    while (!atomic_load(&rt->stopping)) {
        uint64_t began = now_ns(), took;

        if (rt->config->scrub.rate_bytes > 0)
            for (uint32_t i = 0; i < rt->cell_count && !atomic_load(&rt->stopping); i++)
                scrub_cell(rt, i);
        (void)atomic_fetch_add(&rt->scrub_passes, 1);
        took = now_ns() - began;
        if (took < rt->config->scrub.interval_ns)
            sleep_ns(rt, rt->config->scrub.interval_ns - took);
    }
    return NULL;
}
