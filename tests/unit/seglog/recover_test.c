/* Recovery over the simulated disk: random histories with a crash at any I/O, the Nth I/O failing for each
 * N, and each way in which a log can be damaged. The last seed is printed; NEF_SEED=n runs that one alone
 * and NEF_SEEDS=n that many. */
#include "fixture.h"
#include <stdio.h>
#include "base/logaddr.h"
#include "base/trace.h"
#include "crypto/crypto.h"

/* ---- random histories ---- */

static uint64_t pick_run_end(struct fix *f)
{
    const struct fix_run *run;

    if (f->run_count == 0)
        return f->end;
    run = &f->runs[fix_below(f, f->run_count)];
    if (f->maybe_dropped[run->end / FIX_SEGMENT_BYTES])
        return f->end;
    return run->end;
}

static uint64_t pick_segment(struct fix *f)
{
    uint64_t numbers[FIX_SEGMENTS];
    uint32_t n = nef_log_segments(f->log, numbers, FIX_SEGMENTS);

    return n == 0 ? 0 : numbers[fix_below(f, n)];
}

static nef_err one_operation(struct fix *f)
{
    uint64_t what = fix_below(f, 100), at;
    nef_err err;

    if (what < 60) {
        if (f->end > FIX_SPACE - 4 * FIX_SEGMENT_BYTES)
            return NEF_OK;
        if (fix_below(f, 12) == 0)
            f->epoch += 1 + fix_below(f, 3);
        return fix_append(f, 1 + (uint32_t)fix_below(f, 4),
                          fix_below(f, 4) == 0 ? 6000 : (uint32_t)fix_below(f, 700));
    }
    if (what < 78)
        return fix_sync(f);
    if (what < 88)
        return nef_log_prepare(f->log);
    if (what < 91) {
        at = fix_below(f, 8) == 0 ? NEF_SEGMENT_HEADER_BYTES : pick_run_end(f); /* all of it, or a part */
        err = fix_truncate(f, at);
        return err == NEF_E_INVALID ? NEF_OK : err; /* beside a hole */
    }
    if (what < 92) {
        if (f->end > FIX_SPACE - 10 * FIX_SEGMENT_BYTES)
            return NEF_OK;
        at = (f->end / FIX_SEGMENT_BYTES + 1 + fix_below(f, 3)) * FIX_SEGMENT_BYTES;
        return fix_skip(f, at + NEF_SEGMENT_HEADER_BYTES);
    }
    if (what < 95) {
        at = pick_segment(f);
        if (at >= f->end / FIX_SEGMENT_BYTES ||
            (f->synced < (at + 1) * FIX_SEGMENT_BYTES && f->synced <= f->end))
            return NEF_OK; /* only what is durable is ever dropped */
        return fix_drop(f, at);
    }
    at = fix_pick(f);
    return at == 0 || at >= f->synced ? NEF_OK : fix_erase(f, at);
}

static void run_seed(uint64_t seed)
{
    struct fix f;
    nef_err err;

    fix_init(&f, seed);
    for (unsigned cycle = 0; cycle < 5; cycle++) {
        if (fix_below(&f, 4) == 0)
            sim_disk_crash_at(f.disk, 1 + fix_below(&f, 40)); /* in the recovery itself */
        err = fix_open(&f);
        if (err == NEF_OK) {
            sim_disk_crash_at(f.disk, 0);
            fix_adopt(&f);
            sim_disk_crash_at(f.disk, fix_below(&f, 3) == 0 ? 0 : 1 + fix_below(&f, 250));
            for (uint64_t n = fix_below(&f, 80); err == NEF_OK && n > 0; n--)
                err = one_operation(&f);
        }
        if (err != NEF_OK && (err != NEF_E_IO || !sim_disk_is_off(f.disk)))
            fail_msg("seed %llu: %s with the power on", (unsigned long long)seed, nef_err_name(err));
        fix_close(&f);
        sim_disk_crash(f.disk);
    }
    fix_open_ok(&f);
    assert_int_equal(fix_append(&f, 2, 500), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    fix_close(&f);
    fix_open_ok(&f);
    fix_done(&f);
}

static uint64_t seed_now;

static int tell_seed(void **state)
{
    (void)state;
    (void)fprintf(stderr, "last seed %llu\n", (unsigned long long)seed_now);
    return 0;
}

static void random_histories_survive_crashes(void **state)
{
    const char *one = getenv("NEF_SEED"), *count = getenv("NEF_SEEDS");
    uint64_t from = one != NULL ? strtoull(one, NULL, 10) : 1;
    uint64_t n = one != NULL ? 1 : count != NULL ? strtoull(count, NULL, 10) : getenv("NEF_SOAK") != NULL ? 3000 : 1000;

    (void)state;
    for (seed_now = from; seed_now < from + n; seed_now++)
        run_seed(seed_now);
}

/* ---- the Nth I/O fails ---- */

static nef_err script(struct fix *f)
{
    nef_err err = NEF_OK;
    uint64_t cut;

    for (int i = 0; err == NEF_OK && i < 12; i++)
        err = fix_append(f, 2, 4000);
    if (err == NEF_OK)
        err = fix_sync(f);
    if (err == NEF_OK)
        err = nef_log_prepare(f->log);
    for (int i = 0; err == NEF_OK && i < 12; i++)
        err = fix_append(f, 2, 4000);
    if (err == NEF_OK)
        err = nef_log_prepare(f->log);
    if (err == NEF_OK)
        err = fix_sync(f);
    if (err == NEF_OK)
        err = fix_erase(f, f->runs[1].offset);
    if (err == NEF_OK) {
        cut = f->runs[f->run_count - 4].end;
        err = fix_truncate(f, cut);
    }
    if (err == NEF_OK)
        err = fix_append(f, 1, 100);
    if (err == NEF_OK)
        err = fix_sync(f);
    if (err == NEF_OK)
        err = nef_log_prepare(f->log);
    if (err == NEF_OK)
        err = fix_drop(f, 0);
    if (err == NEF_OK)
        err = fix_skip(f, (f->end / FIX_SEGMENT_BYTES + 2) * FIX_SEGMENT_BYTES + NEF_SEGMENT_HEADER_BYTES);
    if (err == NEF_OK)
        err = fix_append(f, 1, 100);
    if (err == NEF_OK)
        err = fix_sync(f);
    return err;
}

static void each_failing_io_is_survived(void **state)
{
    static const nef_err errors[] = {NEF_E_IO, NEF_E_NOSPACE};

    (void)state;
    for (unsigned mode = 0; mode < 4; mode++) { /* which error; a crash after it or just a new process */
        for (uint64_t n = 1;; n++) {
            struct fix f;
            nef_err err;
            bool failed;

            fix_init(&f, 77 + mode);
            fix_open_ok(&f);
            sim_disk_fail_at(f.disk, n, errors[mode & 1]);
            err = script(&f);
            failed = sim_disk_failed(f.disk);
            sim_disk_fail_at(f.disk, 0, NEF_OK);
            if (!failed)
                assert_int_equal(err, NEF_OK);
            if (err == NEF_E_IO && nef_log_append(f.log, 0, NULL, 0) != NEF_E_INVALID) {
                uint64_t durable;

                /* FAILED refuses everything but reading */
                assert_int_equal(nef_log_sync(f.log, &durable), NEF_E_IO);
                assert_int_equal(nef_log_append(f.log, f.end, f.bytes, 64), NEF_E_IO);
                assert_int_equal(nef_log_prepare(f.log), NEF_E_IO);
                assert_int_equal(nef_log_truncate(f.log, f.end), NEF_E_IO);
            }
            fix_close(&f);
            if (mode & 2)
                sim_disk_crash(f.disk);
            fix_open_ok(&f);
            fix_done(&f);
            if (!failed)
                break;
        }
    }
}

static void each_failing_io_of_open_is_survived(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct fix f;
        nef_err err;
        bool failed;

        fix_init(&f, 5);
        fix_open_ok(&f);
        assert_int_equal(script(&f), NEF_OK);
        assert_int_equal(fix_append(&f, 3, 3000), NEF_OK);
        fix_close(&f);
        sim_disk_crash(f.disk);
        sim_disk_fail_at(f.disk, n, NEF_E_IO);
        err = fix_open(&f);
        failed = sim_disk_failed(f.disk);
        sim_disk_fail_at(f.disk, 0, NEF_OK);
        if (err != NEF_OK)
            fix_open_ok(&f);
        else
            fix_adopt(&f);
        fix_done(&f);
        if (!failed)
            break;
    }
}

/* ---- the page cache proves nothing ---- */

static void failed_sync_is_not_believed(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 100; seed++) {
        struct fix f;
        uint64_t synced, durable;

        fix_init(&f, seed);
        fix_open_ok(&f);
        assert_int_equal(fix_append(&f, 3, 1000), NEF_OK);
        assert_int_equal(fix_sync(&f), NEF_OK);
        synced = f.end;
        /* all as short as can be, so that what is lost lines up with what comes in its place */
        for (int i = 0; i < 4; i++)
            assert_int_equal(fix_append(&f, 1, 0), NEF_OK);
        sim_disk_fail_sync(f.disk);
        assert_int_equal(nef_log_sync(f.log, &durable), NEF_E_IO);
        assert_int_equal(nef_log_sync(f.log, &durable), NEF_E_IO);
        fix_close(&f);
        fix_open_ok(&f); /* a new process on the same kernel */
        assert_true(f.end >= synced);
        /* what the cache still showed mustn't reach the disk behind a new record */
        assert_int_equal(fix_append(&f, 1, 0), NEF_OK);
        assert_int_equal(fix_sync(&f), NEF_OK);
        synced = f.end;
        fix_close(&f);
        sim_disk_crash(f.disk);
        fix_open_ok(&f);
        assert_int_equal(f.end, synced);
        fix_done(&f);
    }
}

/* ---- torn tail or damage ---- */

#define SEG0 "0000000000000000.seg"
#define SEG1 "0000000000000001.seg"

static void start(struct fix *f, unsigned runs)
{
    fix_init(f, 31);
    fix_open_ok(f);
    for (unsigned i = 0; i < runs; i++) {
        assert_int_equal(fix_append(f, 2, 1000), NEF_OK);
        assert_int_equal(fix_sync(f), NEF_OK);
    }
}

static void rot(struct fix *f, uint64_t offset, uint64_t bytes)
{
    assert_true(sim_disk_rot(f->disk, "cell", offset < FIX_SEGMENT_BYTES ? SEG0 : SEG1,
                             offset % FIX_SEGMENT_BYTES, bytes));
}

static void bad_record_below_a_mark_is_damage(void **state)
{
    struct fix f;
    uint64_t bad, before[FIX_SEGMENT_BYTES / 8], after[FIX_SEGMENT_BYTES / 8];
    struct nef_record r;

    (void)state;
    start(&f, 6);
    bad = f.runs[2].offset;
    fix_close(&f);
    rot(&f, bad + 10, 3);
    assert_true(sim_disk_platter(f.disk, "cell", SEG0, 0, before, sizeof(before)));
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    assert_int_equal(f.recovery.damage_offset, bad);
    assert_int_equal(f.recovery.end, bad);
    assert_int_equal(f.recovery.cut_bytes, 0);
    assert_int_equal(nef_log_append(f.log, bad, f.bytes + bad, 192), NEF_E_DAMAGED);
    assert_int_equal(nef_log_record(f.log, bad, &r, NULL, NULL), NEF_E_RANGE);
    assert_true(sim_disk_platter(f.disk, "cell", SEG0, 0, after, sizeof(after)));
    assert_memory_equal(before, after, sizeof(before)); /* nothing was cut */

    /* the peer has it: repaired, the log is whole again */
    assert_int_equal(nef_log_repair(f.log, bad, f.bytes + bad, f.runs[2].end - bad), NEF_OK);
    fix_close(&f);
    fix_open_ok(&f);
    assert_int_equal(f.recovery.end, f.runs[5].end);

    /* or cut there, and fetched anew */
    fix_close(&f);
    rot(&f, bad + 10, 3);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    f.end = bad;
    assert_int_equal(fix_truncate(&f, bad), NEF_OK);
    f.epoch++;
    f.synced = bad;
    assert_int_equal(fix_append(&f, 1, 300), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    fix_close(&f);
    fix_open_ok(&f);
    assert_int_equal(f.recovery.end, f.runs[f.run_count - 1].end);
    fix_done(&f);
}

static void bad_body_below_a_mark_is_damage(void **state)
{
    struct fix f;
    uint64_t bad;

    (void)state;
    start(&f, 6);
    bad = f.runs[3].offset;
    fix_close(&f);
    rot(&f, bad + NEF_RECORD_HEADER_BYTES + 1, 1);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    assert_int_equal(f.recovery.damage_offset, bad);
    fix_done(&f);
}

static void last_run_without_a_mark_above_is_torn(void **state)
{
    struct fix f;
    uint64_t last;

    (void)state;
    start(&f, 6);
    last = f.runs[5].offset;
    fix_close(&f);
    rot(&f, last + 20, 1);
    f.synced = last;
    fix_open_ok(&f);
    assert_false(f.recovery.damaged);
    assert_int_equal(f.recovery.end, last);
    assert_true(f.recovery.cut_bytes > 0);
    for (uint64_t at = last; at < FIX_SEGMENT_BYTES; at++) {
        uint8_t byte;

        assert_true(sim_disk_platter(f.disk, "cell", SEG0, at, &byte, 1));
        assert_int_equal(byte, 0);
    }
    fix_close(&f);
    fix_open_ok(&f);
    assert_int_equal(f.recovery.cut_bytes, 0);
    fix_done(&f);
}

static void unreadable_sector_is_a_bad_record(void **state)
{
    struct fix f;
    uint64_t bad, last, place;

    (void)state;
    /* below a mark: damage, and nothing is changed */
    start(&f, 12);
    bad = f.runs[4].offset / 4096 * 4096 + 4096;
    assert_true(bad + 4096 < f.runs[11].offset);
    fix_close(&f);
    assert_true(sim_disk_unreadable(f.disk, "cell", SEG0, bad));
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    assert_true(f.recovery.damage_offset < bad + 4096 && f.recovery.damage_offset + 4096 > bad);
    place = f.recovery.end;
    fix_close(&f);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged && f.recovery.end == place);
    /* cut there, it is written and can be read again */
    f.end = place;
    assert_int_equal(fix_truncate(&f, place), NEF_OK);
    fix_close(&f);
    fix_open_ok(&f);
    fix_done(&f);

    /* above all marks: a torn tail */
    start(&f, 2);
    assert_int_equal(fix_append(&f, 1, 200), NEF_OK);
    assert_int_equal(fix_append(&f, 4, 2500), NEF_OK);
    assert_int_equal(fix_append(&f, 4, 2500), NEF_OK);
    last = f.runs[f.run_count - 1].end;
    fix_close(&f);
    assert_true(last < FIX_SEGMENT_BYTES && (last - 1) / 4096 * 4096 >= f.synced);
    assert_true(sim_disk_unreadable(f.disk, "cell", SEG0, last - 1));
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_false(f.recovery.damaged);
    assert_true(f.recovery.end < last && f.recovery.cut_bytes > 0);
    fix_close(&f);
    assert_int_equal(fix_open(&f), NEF_OK); /* nothing is unreadable any more */
    assert_int_equal(f.recovery.cut_bytes, 0);
    fix_done(&f);

    /* the header: it may have been good */
    start(&f, 2);
    fix_close(&f);
    assert_true(sim_disk_unreadable(f.disk, "cell", SEG0, 0));
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    fix_done(&f);
}

static void half_a_run_is_cut_whole(void **state)
{
    struct fix f;
    uint64_t last, second;
    struct nef_record r;

    (void)state;
    fix_init(&f, 4);
    fix_open_ok(&f);
    assert_int_equal(fix_append(&f, 2, 1000), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    last = f.end;
    assert_int_equal(fix_append(&f, 4, 1000), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    assert_int_equal(nef_log_record(f.log, last, &r, NULL, &second), NEF_OK);
    assert_int_equal(nef_log_record(f.log, second, &r, NULL, &second), NEF_OK);
    fix_close(&f);
    rot(&f, second, 4); /* the third of four */
    f.synced = last;
    fix_open_ok(&f);
    assert_int_equal(f.recovery.end, last);
    fix_done(&f);
}

static void mark_record_protects_an_idle_cell(void **state)
{
    struct fix f;
    struct nef_record mark = {.type = NEF_RECORD_MARK, .flags = NEF_RECORD_LAST, .cell = FIX_CELL};
    uint64_t last;

    (void)state;
    start(&f, 3);
    last = f.runs[2].offset;
    mark.epoch = f.epoch;
    mark.offset = mark.synced_before = f.end;
    nef_record_encode(&mark, NULL, 0, f.bytes + f.end);
    assert_int_equal(nef_log_append(f.log, f.end, f.bytes + f.end, 192), NEF_OK);
    f.end += 192;
    assert_int_equal(fix_sync(&f), NEF_OK);
    fix_close(&f);
    rot(&f, last, 1);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    assert_int_equal(f.recovery.mark, mark.synced_before);
    assert_int_equal(f.recovery.damage_offset, last);
    fix_done(&f);
}

static void damage_below_a_seal_is_found(void **state)
{
    struct fix f;
    uint64_t bad;

    (void)state;
    fix_init(&f, 8);
    fix_open_ok(&f);
    while (f.end < 2 * FIX_SEGMENT_BYTES + NEF_SEGMENT_HEADER_BYTES + 1)
        assert_int_equal(fix_append(&f, 2, 1500), NEF_OK); /* all with the first mark */
    assert_int_equal(fix_sync(&f), NEF_OK);
    assert_int_equal(nef_log_prepare(f.log), NEF_OK);
    assert_true(sim_disk_exists(f.disk, "cell", "0000000000000000.seal"));
    assert_true(sim_disk_exists(f.disk, "cell", "0000000000000001.seal"));
    bad = f.runs[1].offset;
    fix_close(&f);
    /* the seal of segment 0 decays, so it is scanned; segment 1's still says that it was durable */
    assert_true(sim_disk_rot(f.disk, "cell", "0000000000000000.seal", 40, 2));
    fix_open_ok(&f);
    fix_close(&f);
    rot(&f, bad, 2);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    assert_int_equal(f.recovery.damage_offset, bad);
    fix_done(&f);
}

static void a_seal_that_decayed_still_says_durable(void **state)
{
    struct fix f;
    uint64_t bad = 0;

    (void)state;
    fix_init(&f, 8);
    fix_open_ok(&f);
    while (f.end < 2 * FIX_SEGMENT_BYTES + NEF_SEGMENT_HEADER_BYTES + 1)
        assert_int_equal(fix_append(&f, 2, 1500), NEF_OK); /* all with the first mark */
    assert_int_equal(fix_sync(&f), NEF_OK);
    assert_int_equal(nef_log_prepare(f.log), NEF_OK);
    for (uint32_t i = 0; bad < FIX_SEGMENT_BYTES + NEF_SEGMENT_HEADER_BYTES; i++)
        bad = f.runs[i + 1].offset;
    fix_close(&f);
    /* no other seal and no mark lies above: only this one, and it can't be read */
    assert_true(sim_disk_rot(f.disk, "cell", "0000000000000001.seal", 40, 2));
    fix_open_ok(&f); /* the segment itself is whole */
    assert_false(f.recovery.damaged);
    fix_close(&f);
    rot(&f, bad, 2);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged); /* not a torn tail: nothing is cut */
    assert_int_equal(f.recovery.damage_offset, bad);
    assert_int_equal(f.recovery.cut_bytes, 0);
    fix_done(&f);
}

static void bad_segment_header_is_damage_where_records_follow(void **state)
{
    uint8_t header[NEF_SEGMENT_HEADER_BYTES];
    struct fix f;

    (void)state;
    start(&f, 1); /* its records carry no mark above the header */
    assert_int_equal(nef_log_read(f.log, 0, header, sizeof(header)), NEF_OK);
    fix_close(&f);
    rot(&f, 20, 1);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    assert_int_equal(f.recovery.damage_offset, 0);
    assert_int_equal(nef_log_repair(f.log, 0, header, sizeof(header)), NEF_OK);
    fix_close(&f);
    fix_open_ok(&f);
    assert_int_equal(f.recovery.end, f.runs[0].end);
    fix_close(&f);
    rot(&f, 20, 1);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_true(f.recovery.damaged);
    f.end = f.recovery.end;
    assert_int_equal(fix_truncate(&f, f.end), NEF_OK); /* makes the header whole, too */
    assert_int_equal(fix_append(&f, 1, 10), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    fix_close(&f);
    fix_open_ok(&f);
    fix_done(&f);
}

/* ---- what isn't ours ---- */

static void another_log_is_refused(void **state)
{
    struct nef_log_options o;
    struct nef_log_recovery rec;
    struct nef_log *log = NULL;
    struct fix f;

    (void)state;
    start(&f, 2);
    fix_close(&f);
    o = fix_options(&f);
    o.cell++;
    assert_int_equal(nef_log_open(&o, &rec, &log), NEF_E_CORRUPT);
    o = fix_options(&f);
    o.region.bytes[3] ^= 1;
    assert_int_equal(nef_log_open(&o, &rec, &log), NEF_E_CORRUPT);
    o = fix_options(&f);
    o.segment_bytes *= 2;
    assert_int_equal(nef_log_open(&o, &rec, &log), NEF_E_CORRUPT);
    o.segment_bytes = 3000;
    assert_int_equal(nef_log_open(&o, &rec, &log), NEF_E_INVALID);
    fix_done(&f);
}

static void unknown_version_is_refused(void **state)
{
    struct nef_record mark = {.type = NEF_RECORD_MARK, .flags = NEF_RECORD_LAST, .cell = FIX_CELL};
    uint8_t header[NEF_RECORD_HEADER_BYTES];
    struct fix f;

    (void)state;
    start(&f, 2);
    mark.epoch = f.epoch;
    mark.offset = f.end;
    nef_record_encode(&mark, NULL, 0, header);
    header[6] = 200; /* a type of the future, with a good CRC */
    nef_record_stamp(header, f.epoch, f.end, 1, 0);
    assert_true(sim_disk_doctor(f.disk, "cell", SEG0, f.end, header, sizeof(header)));
    fix_close(&f);
    assert_int_equal(fix_open(&f), NEF_E_VERSION);
    fix_done(&f);
}

static void prepared_segment_is_no_harm(void **state)
{
    struct fix f;

    (void)state;
    for (unsigned crash = 0; crash < 2; crash++) {
        fix_init(&f, crash);
        fix_open_ok(&f);
        while (f.end < FIX_SEGMENT_BYTES * 3 / 4)
            assert_int_equal(fix_append(&f, 1, 2000), NEF_OK);
        assert_int_equal(nef_log_prepare(f.log), NEF_OK);
        assert_true(sim_disk_exists(f.disk, "cell", SEG1));
        assert_int_equal(fix_sync(&f), NEF_OK);
        fix_close(&f);
        if (crash)
            sim_disk_crash(f.disk);
        fix_open_ok(&f);
        assert_int_equal(f.recovery.cut_bytes, 0);
        assert_false(sim_disk_exists(f.disk, "cell", SEG1));
        while (f.end < FIX_SEGMENT_BYTES * 5 / 4)
            assert_int_equal(fix_append(&f, 1, 2000), NEF_OK);
        assert_int_equal(fix_sync(&f), NEF_OK);
        fix_close(&f);
        fix_open_ok(&f);
        fix_done(&f);
    }
}

static int setup(void **state)
{
    int null = getenv("NEF_TRACE_TESTS") != NULL ? 2 : -1;

    (void)state;
    nef_trace_setup(null, "test", NEF_TRACE_ERROR); /* thousands of crashes would fill the screen */
    return nef_crypto_init() == NEF_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_record_below_a_mark_is_damage),
        cmocka_unit_test(bad_body_below_a_mark_is_damage),
        cmocka_unit_test(last_run_without_a_mark_above_is_torn),
        cmocka_unit_test(half_a_run_is_cut_whole),
        cmocka_unit_test(unreadable_sector_is_a_bad_record),
        cmocka_unit_test(mark_record_protects_an_idle_cell),
        cmocka_unit_test(damage_below_a_seal_is_found),
        cmocka_unit_test(a_seal_that_decayed_still_says_durable),
        cmocka_unit_test(bad_segment_header_is_damage_where_records_follow),
        cmocka_unit_test(another_log_is_refused),
        cmocka_unit_test(unknown_version_is_refused),
        cmocka_unit_test(prepared_segment_is_no_harm),
        cmocka_unit_test(failed_sync_is_not_believed),
        cmocka_unit_test(each_failing_io_is_survived),
        cmocka_unit_test(each_failing_io_of_open_is_survived),
        cmocka_unit_test_teardown(random_histories_survive_crashes, tell_seed),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
