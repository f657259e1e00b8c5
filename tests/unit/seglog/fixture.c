#include "fixture.h"
#include "base/logaddr.h"

struct nef_log_options fix_options(const struct fix *f)
{
    struct nef_log_options o = {.dir = f->dir,
                                .cell = FIX_CELL,
                                .segment_bytes = FIX_SEGMENT_BYTES,
                                .zero_fill = f->zero_fill};

    memset(o.region.bytes, 0x5a, 16);
    return o;
}

static void init_model(struct fix *f, uint64_t seed)
{
    *f = (struct fix){.random = seed ^ 0x6e6566, .epoch = 1};
    f->bytes = calloc(1, FIX_SPACE);
    f->erased = calloc(FIX_SPACE / 64, sizeof(bool));
    f->erased_sure = calloc(FIX_SPACE / 64, sizeof(bool));
    f->synced = f->end = NEF_SEGMENT_HEADER_BYTES;
    f->zero_fill = seed % 4 == 0;
}

void fix_init(struct fix *f, uint64_t seed)
{
    init_model(f, seed);
    f->disk = sim_disk_new(seed);
}

void fix_init_dir(struct fix *f, struct nef_dir *dir, uint64_t seed)
{
    init_model(f, seed);
    f->dir = dir;
}

void fix_done(struct fix *f)
{
    fix_close(f);
    if (f->dir != NULL)
        f->dir->ops->close(f->dir);
    if (f->disk != NULL)
        sim_disk_free(f->disk);
    free(f->bytes);
    free(f->erased);
    free(f->erased_sure);
    free(f->runs);
}

uint64_t fix_below(struct fix *f, uint64_t n)
{
    return sim_random(&f->random) % n;
}

nef_err fix_open(struct fix *f)
{
    struct nef_log_options o;

    assert_null(f->log);
    if (f->disk != NULL) {
        if (f->dir != NULL)
            f->dir->ops->close(f->dir);
        f->dir = sim_disk_dir(f->disk, "cell");
    }
    o = fix_options(f);
    return nef_log_open(&o, &f->recovery, &f->log);
}

void fix_open_ok(struct fix *f)
{
    nef_err err = fix_open(f);

    if (err != NEF_OK)
        fail_msg("nef_log_open: %s", nef_err_name(err));
    fix_adopt(f);
}

void fix_close(struct fix *f)
{
    nef_log_close(f->log);
    f->log = NULL;
}

static void note_run(struct fix *f, uint64_t offset, uint64_t end)
{
    if (f->run_count == f->run_capacity) {
        f->run_capacity = f->run_capacity == 0 ? 64 : 2 * f->run_capacity;
        f->runs = realloc(f->runs, f->run_capacity * sizeof(*f->runs));
        assert_non_null(f->runs);
    }
    f->runs[f->run_count++] = (struct fix_run){offset, end, f->epoch};
}

static nef_err append_bytes(struct fix *f, uint64_t offset, uint64_t bytes)
{
    uint64_t end = nef_log_end_at(offset + bytes, FIX_SEGMENT_BYTES);
    nef_err err;

    note_run(f, offset, end);
    for (uint64_t b = offset / 64; b < (offset + bytes) / 64; b++)
        f->erased[b] = f->erased_sure[b] = false;
    err = nef_log_append(f->log, offset, f->bytes + offset, bytes);
    if (err == NEF_OK)
        f->end = end;
    else if (err == NEF_E_NOSPACE)
        f->run_count--; /* nothing changed */
    return err;
}

static uint64_t put_record(struct fix *f, uint64_t offset, uint16_t type, uint32_t index, bool last,
                           uint32_t body_bytes)
{
    struct nef_record r = {.type = type,
                           .flags = last ? NEF_RECORD_LAST : 0,
                           .cell = FIX_CELL,
                           .epoch = f->epoch,
                           .offset = offset,
                           .time_ms = 1000 + offset,
                           .synced_before = f->synced,
                           .body_bytes = body_bytes,
                           .run_index = index,
                           .proposer = 7,
                           .number = offset};
    uint8_t *out = f->bytes + offset;

    for (uint32_t i = 0; i < body_bytes; i++)
        out[NEF_RECORD_HEADER_BYTES + i] =
            type == NEF_RECORD_PAD ? 0 : (uint8_t)(sim_random(&f->random) | 1);
    nef_record_encode(&r, out + NEF_RECORD_HEADER_BYTES, 0, out);
    return nef_record_bytes(body_bytes);
}

nef_err fix_append(struct fix *f, uint32_t count, uint32_t body_max)
{
    uint32_t sizes[NEF_PROPOSAL_RECORDS_MAX];
    uint64_t bytes = 0, at, place;
    nef_err err;

    assert_true(count >= 1 && count <= NEF_PROPOSAL_RECORDS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        sizes[i] = (uint32_t)fix_below(f, body_max + 1);
        bytes += nef_record_bytes(sizes[i]);
    }
    place = nef_log_place(f->end, bytes, FIX_SEGMENT_BYTES);
    assert_true(place + bytes <= FIX_SPACE);
    if (place != f->end) {
        uint64_t left = FIX_SEGMENT_BYTES - f->end % FIX_SEGMENT_BYTES;

        (void)put_record(f, f->end, NEF_RECORD_PAD, 0, true,
                         (uint32_t)(left - NEF_RECORD_HEADER_BYTES));
        err = append_bytes(f, f->end, left);
        if (err != NEF_OK)
            return err;
        assert_int_equal(f->end, place);
    }
    at = place;
    for (uint32_t i = 0; i < count; i++)
        at += put_record(f, at, i + 1 == count ? NEF_RECORD_OBJECT_PUT : NEF_RECORD_DATA, i,
                         i + 1 == count, sizes[i]);
    return append_bytes(f, place, bytes);
}

nef_err fix_sync(struct fix *f)
{
    uint64_t durable = 0;
    nef_err err = nef_log_sync(f->log, &durable);

    if (err == NEF_OK) {
        assert_int_equal(durable, f->end);
        f->synced = durable;
    }
    return err;
}

static void cut_model(struct fix *f, uint64_t to)
{
    while (f->run_count > 0 && f->runs[f->run_count - 1].end > to)
        f->run_count--;
    f->end = to;
    /* may be created anew, the one that TO begins, too */
    for (uint64_t s = to / FIX_SEGMENT_BYTES + (to % FIX_SEGMENT_BYTES != NEF_SEGMENT_HEADER_BYTES);
         s < FIX_SEGMENTS; s++)
        f->dropped[s] = f->maybe_dropped[s] = false;
}

nef_err fix_truncate(struct fix *f, uint64_t to)
{
    uint64_t was = f->end;
    nef_err err;

    if (to < f->synced)
        f->synced = to; /* from here on nothing above TO is promised */
    err = nef_log_truncate(f->log, to);
    if (err == NEF_OK)
        cut_model(f, to);
    else
        f->end = was;
    return err;
}

nef_err fix_skip(struct fix *f, uint64_t to)
{
    nef_err err;

    f->skip_to = to;
    f->gaps = true;
    err = nef_log_skip(f->log, to);
    if (err == NEF_OK) {
        note_run(f, to, to);
        f->end = to;
        f->synced = to;
        f->skip_to = 0;
    }
    return err;
}

nef_err fix_drop(struct fix *f, uint64_t segment)
{
    nef_err err;

    f->maybe_dropped[segment] = true;
    f->gaps = true;
    err = nef_log_drop(f->log, segment);
    if (err == NEF_OK)
        f->dropped[segment] = true;
    return err;
}

nef_err fix_erase(struct fix *f, uint64_t offset)
{
    nef_err err;

    f->erased[offset / 64] = true;
    err = nef_log_erase(f->log, offset);
    if (err == NEF_OK)
        f->erased_sure[offset / 64] = true;
    return err;
}

uint64_t fix_pick(struct fix *f)
{
    struct nef_record r;
    uint64_t at = nef_log_start(f->log), steps = fix_below(f, 40), found = 0;

    while (at < f->end && steps-- > 0) {
        at = nef_log_next_present(f->log, at);
        if (nef_log_record(f->log, at, &r, NULL, &at) != NEF_OK)
            break;
        if (r.type != NEF_RECORD_PAD)
            found = r.offset;
    }
    return found;
}

/* ---- checks ---- */

static void check_record(struct fix *f, uint64_t at, const struct nef_record *r, const uint8_t *body)
{
    struct nef_record want;
    nef_err err = nef_record_decode(f->bytes + at, &want);

    assert_int_equal(err, NEF_OK);
    if (r->flags & NEF_RECORD_ERASED) {
        assert_true(f->erased[at / 64]);
        want.flags |= NEF_RECORD_ERASED;
        for (uint32_t i = 0; r->type != NEF_RECORD_PAD && i < r->body_bytes; i++)
            assert_int_equal(body[i], 0);
    } else {
        assert_false(f->erased_sure[at / 64]);
        if (r->type != NEF_RECORD_PAD)
            assert_memory_equal(body, f->bytes + at + NEF_RECORD_HEADER_BYTES, r->body_bytes);
    }
    assert_memory_equal(r, &want, sizeof(want));
}

void fix_check(struct fix *f)
{
    static uint8_t body[NEF_RECORD_BODY_MAX];
    uint64_t at = nef_log_start(f->log), end = nef_log_end(f->log), next, records = 0;
    struct nef_record r;
    nef_err err;

    at = nef_log_next_present(f->log, at);
    while (at < end) {
        memset(&r, 0, sizeof(r));
        err = nef_log_record(f->log, at, &r, body, &next);
        if (err != NEF_OK)
            fail_msg("record at %llu of %llu: %s", (unsigned long long)at, (unsigned long long)end,
                     nef_err_name(err));
        check_record(f, at, &r, body);
        assert_true(next > at);
        /* a hole between is one that we made */
        for (uint64_t s = at / FIX_SEGMENT_BYTES + 1; s < next / FIX_SEGMENT_BYTES; s++)
            assert_true(f->maybe_dropped[s] || f->gaps);
        at = next;
        records++;
    }
    assert_int_equal(at, end);
    assert_int_equal(nef_log_record(f->log, end, &r, body, &next), NEF_E_RANGE);
    for (uint64_t s = 0; s < FIX_SEGMENTS; s++)
        if (f->dropped[s])
            assert_int_equal(nef_log_pin(f->log, s * FIX_SEGMENT_BYTES), NEF_E_NOT_FOUND);
}

static void check_epochs(struct fix *f)
{
    const struct nef_log_recovery *rec = &f->recovery;
    uint64_t epoch = 0;
    uint32_t n = 0;

    for (size_t i = 0; i < f->run_count; i++) {
        if (f->runs[i].epoch == epoch || f->runs[i].end > rec->end)
            continue;
        epoch = f->runs[i].epoch;
        if (!f->gaps) {
            assert_true(n < rec->epoch_count);
            assert_int_equal(rec->epochs[n].epoch, epoch);
            assert_int_equal(rec->epochs[n].offset, f->runs[i].offset);
        }
        n++;
    }
    if (!f->gaps) {
        assert_int_equal(rec->epoch_count, n);
        assert_int_equal(rec->last_epoch, epoch);
    }
}

void fix_adopt(struct fix *f)
{
    const struct nef_log_recovery *rec = &f->recovery;
    bool known = rec->end == NEF_SEGMENT_HEADER_BYTES || rec->end == f->end ||
                 (f->skip_to != 0 && rec->end == f->skip_to);

    assert_false(rec->damaged);
    assert_true(rec->end >= f->synced);
    assert_int_equal(rec->end, nef_log_end(f->log));
    assert_int_equal(rec->start, nef_log_start(f->log));
    for (size_t i = 0; i < f->run_count; i++)
        known = known || f->runs[i].end == rec->end;
    assert_true(known); /* a whole run's end, or a place that was given */
    if (f->skip_to != 0 && rec->end == f->skip_to)
        note_run(f, rec->end, rec->end);
    f->skip_to = 0;
    cut_model(f, rec->end);
    check_epochs(f);
    f->synced = rec->end; /* what recovery found is on the disk */
    fix_check(f);
}
