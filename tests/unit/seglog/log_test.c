/* The log's operations one by one, on the simulated disk and on real files: reading, pins, drop, erase,
 * truncate, skip, scrub, repair, full disk, threads. Each test runs on both. */
#include "fixture.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/logaddr.h"
#include "base/trace.h"
#include "crypto/crypto.h"
#include "io/file_posix.h"

static bool on_posix;
static const char *posix_parent = "/tmp";
static char directory[64];

static void begin(struct fix *f, uint64_t seed)
{
    struct nef_dir *dir;

    if (!on_posix) {
        fix_init(f, seed);
    } else {
        (void)snprintf(directory, sizeof(directory), "%s/nef-seglog-XXXXXX", posix_parent);
        assert_non_null(mkdtemp(directory));
        assert_int_equal(nef_dir_posix_open(directory, true, &dir), NEF_OK);
        fix_init_dir(f, dir, seed);
    }
    fix_open_ok(f);
}

static void remove_name(void *context, const char *name)
{
    char path[256];

    (void)context;
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    assert_int_equal(unlink(path), 0);
}

static void end(struct fix *f)
{
    fix_close(f);
    if (on_posix) {
        assert_int_equal(f->dir->ops->list(f->dir, remove_name, NULL), NEF_OK);
        assert_int_equal(rmdir(directory), 0);
    }
    fix_done(f);
}

static void reopen(struct fix *f)
{
    fix_close(f);
    fix_open_ok(f);
}

/* Fill up to segment N's middle, everything durable and what can be sealed sealed. */
static void fill(struct fix *f, uint64_t n)
{
    while (f->end < n * FIX_SEGMENT_BYTES + FIX_SEGMENT_BYTES / 2)
        assert_int_equal(fix_append(f, 1 + (uint32_t)fix_below(f, 4), 900), NEF_OK);
    assert_int_equal(fix_sync(f), NEF_OK);
    assert_int_equal(nef_log_prepare(f->log), NEF_OK);
}

static uint64_t first_of(uint64_t segment)
{
    return segment * FIX_SEGMENT_BYTES + NEF_SEGMENT_HEADER_BYTES;
}

static void append_sync_reopen(void **state)
{
    struct fix f;

    (void)state;
    begin(&f, 1);
    assert_int_equal(nef_log_start(f.log), NEF_SEGMENT_HEADER_BYTES);
    assert_int_equal(nef_log_end(f.log), NEF_SEGMENT_HEADER_BYTES);
    assert_int_equal(nef_log_segments(f.log, NULL, 0), 0);
    reopen(&f);
    fill(&f, 5);
    fix_check(&f);
    f.epoch = 9;
    fill(&f, 6);
    reopen(&f);
    assert_int_equal(f.recovery.cut_bytes, 0);
    assert_int_equal(f.recovery.epoch_count, 2);
    fill(&f, 7);
    fix_check(&f);
    reopen(&f);
    end(&f);
}

static void bad_appends_are_refused(void **state)
{
    struct nef_record r = {.type = NEF_RECORD_MARK, .flags = NEF_RECORD_LAST, .cell = FIX_CELL, .epoch = 5};
    uint8_t bytes[256] = {0};
    struct fix f;

    (void)state;
    begin(&f, 1);
    f.epoch = 5;
    assert_int_equal(fix_append(&f, 1, 100), NEF_OK);
    r.offset = f.end;
    nef_record_encode(&r, NULL, 0, bytes);
    assert_int_equal(nef_log_append(f.log, f.end + 64, bytes, 192), NEF_E_INVALID);
    assert_int_equal(nef_log_append(f.log, f.end - 64, bytes, 192), NEF_E_INVALID);
    assert_int_equal(nef_log_append(f.log, f.end, bytes, 191), NEF_E_INVALID);
    assert_int_equal(nef_log_append(f.log, f.end, bytes, 256), NEF_E_INVALID); /* 64 bytes left over */
    bytes[20] ^= 1;
    assert_int_equal(nef_log_append(f.log, f.end, bytes, 192), NEF_E_CORRUPT);
    r.epoch = 4; /* epochs never fall */
    nef_record_encode(&r, NULL, 0, bytes);
    assert_int_equal(nef_log_append(f.log, f.end, bytes, 192), NEF_E_INVALID);
    r.epoch = 5;
    r.cell++;
    nef_record_encode(&r, NULL, 0, bytes);
    assert_int_equal(nef_log_append(f.log, f.end, bytes, 192), NEF_E_INVALID);
    assert_int_equal(nef_log_end(f.log), f.end);
    fix_check(&f);
    end(&f);
}

static void reads_stay_inside(void **state)
{
    uint8_t bytes[512];
    struct fix f;

    (void)state;
    begin(&f, 2);
    fill(&f, 2);
    assert_int_equal(nef_log_read(f.log, first_of(1), bytes, 512), NEF_OK);
    assert_memory_equal(bytes, f.bytes + first_of(1), 512);
    assert_int_equal(nef_log_read(f.log, f.end - 64, bytes, 128), NEF_E_RANGE);
    assert_int_equal(nef_log_read(f.log, FIX_SEGMENT_BYTES - 64, bytes, 128), NEF_E_RANGE);
    assert_int_equal(nef_log_read(f.log, 9 * FIX_SEGMENT_BYTES, bytes, 64), NEF_E_NOT_FOUND);
    assert_int_equal(nef_log_next_present(f.log, 0), first_of(0));
    assert_int_equal(nef_log_next_present(f.log, first_of(1) + 64), first_of(1) + 64);
    assert_int_equal(nef_log_next_present(f.log, f.end), f.end);
    assert_int_equal(nef_log_present_until(f.log, first_of(0)), f.end);
    end(&f);
}

static void drop_and_pin(void **state)
{
    uint8_t bytes[64];
    uint64_t numbers[8];
    struct fix f;

    (void)state;
    begin(&f, 3);
    fill(&f, 4);
    assert_int_equal(nef_log_drop(f.log, 4), NEF_E_INVALID); /* holds the end */
    assert_int_equal(nef_log_drop(f.log, 9), NEF_E_INVALID);
    assert_int_equal(nef_log_pin(f.log, first_of(0)), NEF_OK);
    assert_int_equal(nef_log_pin(f.log, first_of(0)), NEF_OK);
    assert_int_equal(fix_drop(&f, 0), NEF_OK);
    assert_int_equal(fix_drop(&f, 0), NEF_OK);
    /* who holds it reads on; nobody else finds it */
    assert_int_equal(nef_log_read(f.log, first_of(0), bytes, 64), NEF_OK);
    assert_memory_equal(bytes, f.bytes + first_of(0), 64);
    assert_int_equal(nef_log_pin(f.log, first_of(0)), NEF_E_NOT_FOUND);
    nef_log_unpin(f.log, first_of(0));
    assert_int_equal(nef_log_read(f.log, first_of(0), bytes, 64), NEF_OK);
    nef_log_unpin(f.log, first_of(0));
    assert_int_equal(nef_log_read(f.log, first_of(0), bytes, 64), NEF_E_NOT_FOUND);
    assert_int_equal(fix_drop(&f, 2), NEF_OK); /* a hole in the middle */
    assert_int_equal(nef_log_segments(f.log, numbers, 8), 3);
    assert_int_equal(numbers[0], 1);
    assert_int_equal(numbers[1], 3);
    assert_int_equal(nef_log_start(f.log), first_of(1));
    assert_int_equal(nef_log_next_present(f.log, first_of(2) + 640), first_of(3));
    assert_int_equal(nef_log_present_until(f.log, first_of(1)), first_of(2));
    assert_int_equal(nef_log_present_until(f.log, first_of(2)), first_of(2));
    fix_check(&f);
    reopen(&f);
    assert_int_equal(f.recovery.start, first_of(1));
    assert_int_equal(fix_drop(&f, 1), NEF_OK);
    assert_int_equal(fix_drop(&f, 3), NEF_OK);
    reopen(&f);
    assert_int_equal(f.recovery.start, first_of(4));
    end(&f);
}

static void dropping_all_keeps_the_end(void **state)
{
    struct fix f;
    uint32_t left;

    (void)state;
    begin(&f, 3);
    fill(&f, 0);
    /* exactly to the border, so that the end's segment doesn't exist yet */
    left = (uint32_t)(FIX_SEGMENT_BYTES - f.end - NEF_RECORD_HEADER_BYTES);
    {
        struct nef_record r = {.type = NEF_RECORD_PAD,
                               .flags = NEF_RECORD_LAST,
                               .cell = FIX_CELL,
                               .epoch = f.epoch,
                               .offset = f.end,
                               .body_bytes = left};

        nef_record_encode(&r, NULL, 0, f.bytes + f.end);
        assert_int_equal(nef_log_append(f.log, f.end, f.bytes + f.end, FIX_SEGMENT_BYTES - f.end), NEF_OK);
        f.end = first_of(1);
    }
    assert_int_equal(nef_log_end(f.log), first_of(1));
    assert_int_equal(fix_sync(&f), NEF_OK);
    assert_int_equal(fix_drop(&f, 0), NEF_OK);
    fix_close(&f);
    assert_int_equal(fix_open(&f), NEF_OK);
    assert_int_equal(f.recovery.end, first_of(1));
    assert_int_equal(f.recovery.start, first_of(1));
    assert_int_equal(fix_append(&f, 1, 10), NEF_OK);
    end(&f);
}

static void erase_leaves_the_header(void **state)
{
    struct nef_record r;
    uint64_t at, several[3];
    struct fix f;

    (void)state;
    begin(&f, 4);
    fill(&f, 2);
    at = f.runs[1].offset;
    assert_int_equal(nef_log_pin(f.log, at), NEF_OK);
    assert_int_equal(nef_log_erase(f.log, at), NEF_E_AGAIN);
    nef_log_unpin(f.log, at);
    assert_int_equal(fix_erase(&f, at), NEF_OK);
    assert_int_equal(fix_erase(&f, at), NEF_OK);
    assert_int_equal(nef_log_record(f.log, at, &r, NULL, NULL), NEF_OK);
    assert_true(r.flags & NEF_RECORD_ERASED);
    for (int i = 0; i < 3; i++) {
        several[i] = f.runs[2 + i].offset;
        f.erased[several[i] / 64] = f.erased_sure[several[i] / 64] = true;
    }
    assert_int_equal(nef_log_erase_many(f.log, several, 3), NEF_OK);
    assert_int_equal(fix_erase(&f, f.runs[f.run_count - 1].offset), NEF_OK); /* in the tail */
    assert_int_equal(nef_log_erase(f.log, at + 64), NEF_E_TORN);
    assert_int_equal(nef_log_erase(f.log, f.end), NEF_E_RANGE);
    several[1] = first_of(1);
    assert_int_equal(nef_log_erase_many(f.log, several, 2), NEF_E_INVALID);
    fix_check(&f);
    reopen(&f);
    fill(&f, 3);
    reopen(&f);
    end(&f);
}

static void truncate_anywhere(void **state)
{
    struct fix f;

    (void)state;
    for (unsigned k = 0; k < 12; k++) {
        begin(&f, k);
        fill(&f, 3);
        assert_int_equal(fix_append(&f, 1, 300), NEF_OK); /* not synced */
        assert_int_equal(nef_log_truncate(f.log, f.end + 64), NEF_E_RANGE);
        assert_int_equal(nef_log_truncate(f.log, 0), NEF_E_INVALID);
        assert_int_equal(
            fix_truncate(&f, k == 0 ? first_of(0)
                                    : k == 1 ? first_of(2) : f.runs[f.run_count * k / 12].offset),
            NEF_OK);
        assert_int_equal(fix_truncate(&f, f.end), NEF_OK);
        fix_check(&f);
        if (k % 2)
            reopen(&f);
        f.epoch++;
        fill(&f, 2);
        fix_check(&f);
        reopen(&f);
        end(&f);
    }
}

static void skip_leaves_a_hole(void **state)
{
    struct nef_record r;
    struct fix f;
    uint64_t left_at, last;

    (void)state;
    begin(&f, 6);
    fill(&f, 1);
    left_at = f.end;
    last = f.runs[f.run_count - 1].offset;
    assert_int_equal(nef_log_skip(f.log, f.end + 64), NEF_E_INVALID);
    assert_int_equal(nef_log_skip(f.log, first_of(1)), NEF_E_INVALID); /* backwards */
    assert_int_equal(fix_skip(&f, first_of(5)), NEF_OK);
    assert_int_equal(fix_skip(&f, first_of(5)), NEF_OK);
    assert_int_equal(nef_log_next_present(f.log, left_at), first_of(5));
    assert_int_equal(nef_log_record(f.log, left_at, &r, NULL, NULL), NEF_E_NOT_FOUND);
    assert_int_equal(nef_log_present_until(f.log, first_of(0)), left_at);
    reopen(&f);
    assert_int_equal(f.end, first_of(5));
    fill(&f, 6);
    reopen(&f);
    fix_check(&f);
    /* back into what the skip had sealed */
    assert_int_equal(fix_truncate(&f, last), NEF_OK);
    reopen(&f);
    assert_int_equal(f.end, last);
    fill(&f, 2);
    reopen(&f);
    end(&f);

    /* an empty log that begins late */
    begin(&f, 7);
    assert_int_equal(fix_skip(&f, first_of(3)), NEF_OK);
    assert_int_equal(nef_log_start(f.log), first_of(3));
    reopen(&f);
    assert_int_equal(f.end, first_of(3));
    fill(&f, 4);
    reopen(&f);
    end(&f);
}

/* A log whose first segments are gone gives up the others, too, and begins at its beginning again. */
static void discard_all(void **state)
{
    struct fix f;

    (void)state;
    begin(&f, 8);
    fill(&f, 3);
    assert_int_equal(fix_drop(&f, 0), NEF_OK);
    assert_int_equal(fix_drop(&f, 1), NEF_OK);
    assert_int_equal(nef_log_start(f.log), first_of(2));
    assert_int_equal(nef_log_truncate(f.log, first_of(1)), NEF_E_INVALID); /* no place of this log, nor its beginning */
    assert_int_equal(fix_truncate(&f, first_of(0)), NEF_OK);
    assert_int_equal(nef_log_start(f.log), first_of(0));
    assert_int_equal(nef_log_end(f.log), first_of(0));
    assert_int_equal(nef_log_segments(f.log, NULL, 0), 0);
    reopen(&f);
    assert_int_equal(f.end, first_of(0));
    f.epoch++;
    fill(&f, 2);
    reopen(&f);
    assert_int_equal(nef_log_start(f.log), first_of(0));

    /* and goes on later, as an empty one does */
    assert_int_equal(fix_drop(&f, 0), NEF_OK);
    assert_int_equal(nef_log_pin(f.log, first_of(1)), NEF_OK); /* somebody still reads */
    assert_int_equal(fix_truncate(&f, first_of(0)), NEF_OK);
    nef_log_unpin(f.log, first_of(1));
    assert_int_equal(fix_skip(&f, first_of(3)), NEF_OK);
    fill(&f, 4);
    reopen(&f);
    assert_int_equal(nef_log_start(f.log), first_of(3));
    end(&f);

    /* a hole behind a full segment: the log can end where the hole begins */
    begin(&f, 9);
    while (f.end <= first_of(1))
        assert_int_equal(fix_append(&f, 1, 900), NEF_OK);
    assert_int_equal(fix_truncate(&f, first_of(1)), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    assert_int_equal(fix_skip(&f, first_of(4)), NEF_OK);
    fill(&f, 5);
    assert_int_equal(nef_log_present_until(f.log, first_of(0)), first_of(1));
    assert_int_equal(fix_truncate(&f, first_of(1)), NEF_OK);
    reopen(&f);
    assert_int_equal(f.end, first_of(1));
    fill(&f, 2);
    reopen(&f);
    end(&f);
}

static nef_err scrub(struct fix *f, uint64_t segment, uint8_t digest[32], uint64_t *out_bad)
{
    struct nef_scrub *s;
    uint64_t bytes;
    nef_err err = nef_scrub_begin(f->log, segment, &s);

    if (err != NEF_OK)
        return err;
    do
        err = nef_scrub_step(s);
    while (err == NEF_E_AGAIN);
    if (err == NEF_OK)
        nef_scrub_result(s, digest, out_bad, &bytes);
    nef_scrub_free(s);
    return err;
}

static void rot(struct fix *f, uint64_t offset, uint64_t bytes)
{
    char name[32], path[128];
    FILE *file;

    (void)snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)(offset / FIX_SEGMENT_BYTES));
    if (!on_posix) {
        assert_true(sim_disk_rot(f->disk, "cell", name, offset % FIX_SEGMENT_BYTES, bytes));
        return;
    }
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "r+");
    assert_non_null(file);
    for (uint64_t i = 0; i < bytes; i++) {
        int c;

        assert_int_equal(fseek(file, (long)(offset % FIX_SEGMENT_BYTES + i), SEEK_SET), 0);
        c = fgetc(file);
        assert_int_equal(fseek(file, (long)(offset % FIX_SEGMENT_BYTES + i), SEEK_SET), 0);
        assert_int_equal(fputc(c ^ 0x55, file), c ^ 0x55);
    }
    assert_int_equal(fclose(file), 0);
}

static void scrub_and_repair(void **state)
{
    static const uint64_t where[] = {3, NEF_RECORD_HEADER_BYTES - 1};
    uint8_t clean[32], digest[32], header[NEF_SEGMENT_HEADER_BYTES];
    uint64_t bad, at;
    struct fix f;

    (void)state;
    begin(&f, 8);
    fill(&f, 3);
    assert_int_equal(scrub(&f, 3, digest, &bad), NEF_E_AGAIN); /* not sealed */
    assert_int_equal(scrub(&f, 8, digest, &bad), NEF_E_NOT_FOUND);
    assert_int_equal(scrub(&f, 1, clean, &bad), NEF_OK);
    assert_int_equal(bad, UINT64_MAX);

    for (at = 0; f.runs[at].offset < first_of(1) + 2000; at++)
        ;
    for (size_t i = 0; i < 2; i++) {
        rot(&f, f.runs[at].offset + where[i], 1);
        assert_int_equal(scrub(&f, 1, digest, &bad), NEF_OK);
        assert_int_equal(bad, f.runs[at].offset);
        assert_int_equal(nef_log_repair(f.log, bad, f.bytes + bad + 64, 64), NEF_E_INVALID);
        assert_int_equal(nef_log_repair(f.log, bad, f.bytes + f.runs[at + 1].offset, 192), NEF_E_INVALID);
        assert_int_equal(nef_log_repair(f.log, bad, f.bytes + bad, f.runs[at].end - bad), NEF_OK);
        assert_int_equal(scrub(&f, 1, digest, &bad), NEF_OK);
        assert_int_equal(bad, UINT64_MAX);
        assert_memory_equal(digest, clean, 32);
    }
    /* the segment's own header */
    assert_int_equal(nef_log_read(f.log, FIX_SEGMENT_BYTES, header, sizeof(header)), NEF_OK);
    rot(&f, FIX_SEGMENT_BYTES + 40, 1);
    assert_int_equal(scrub(&f, 1, digest, &bad), NEF_OK);
    assert_int_equal(bad, FIX_SEGMENT_BYTES);
    assert_int_equal(nef_log_repair(f.log, bad, header, sizeof(header)), NEF_OK);

    /* an erase that the peer hasn't done yet makes no difference */
    assert_int_equal(fix_erase(&f, f.runs[at].offset), NEF_OK);
    assert_int_equal(scrub(&f, 1, digest, &bad), NEF_OK);
    assert_int_equal(bad, UINT64_MAX);
    assert_memory_equal(digest, clean, 32);
    fix_check(&f);
    reopen(&f);
    end(&f);
}

static void scrub_finishes_an_erase(void **state)
{
    uint8_t header[NEF_RECORD_HEADER_BYTES], digest[32], byte;
    uint64_t bad, at, body;
    struct nef_record r;
    struct fix f;

    (void)state;
    if (on_posix)
        return; /* needs a doctored disk */
    begin(&f, 9);
    fill(&f, 2);
    for (at = 0; f.runs[at].offset < first_of(0) + 3000; at++)
        ;
    at = f.runs[at].offset;
    body = at + NEF_RECORD_HEADER_BYTES;
    assert_int_equal(nef_record_decode(f.bytes + at, &r), NEF_OK);
    assert_true(r.body_bytes > 0);

    /* the header is erased, the body isn't punched */
    memcpy(header, f.bytes + at, sizeof(header));
    nef_record_mark_erased(header);
    assert_true(sim_disk_doctor(f.disk, "cell", "0000000000000000.seg", at, header, sizeof(header)));
    f.erased[at / 64] = true;
    assert_int_equal(nef_log_record(f.log, at, &r, NULL, NULL), NEF_OK);
    assert_int_equal(scrub(&f, 0, digest, &bad), NEF_OK);
    assert_int_equal(bad, UINT64_MAX);
    assert_true(sim_disk_platter(f.disk, "cell", "0000000000000000.seg", body, &byte, 1));
    assert_int_equal(byte, 0);

    /* half a header: the flag without its CRC */
    at = f.runs[1].offset;
    memcpy(header, f.bytes + at, sizeof(header));
    header[8] |= NEF_RECORD_ERASED;
    assert_true(sim_disk_doctor(f.disk, "cell", "0000000000000000.seg", at, header, sizeof(header)));
    assert_int_equal(nef_log_record(f.log, at, &r, NULL, NULL), NEF_OK);
    assert_false(r.flags & NEF_RECORD_ERASED);
    assert_int_equal(scrub(&f, 0, digest, &bad), NEF_OK);
    assert_int_equal(bad, UINT64_MAX);
    assert_true(sim_disk_platter(f.disk, "cell", "0000000000000000.seg", at, header, sizeof(header)));
    assert_memory_equal(header, f.bytes + at, sizeof(header));
    reopen(&f);
    end(&f);
}

static void full_disk_changes_nothing(void **state)
{
    struct fix f;
    uint64_t was;

    (void)state;
    if (on_posix)
        return; /* no small file system without root */
    begin(&f, 10);
    sim_disk_set_capacity(f.disk, 2 * FIX_SEGMENT_BYTES + 20000);
    fill(&f, 0);
    while (f.end < first_of(1) + 20000)
        assert_int_equal(fix_append(&f, 1, 800), NEF_OK);
    assert_int_equal(fix_sync(&f), NEF_OK);
    assert_int_equal(nef_log_prepare(f.log), NEF_E_NOSPACE);
    while (f.end / FIX_SEGMENT_BYTES == 1) {
        nef_err err = fix_append(&f, 1, 800);

        if (err == NEF_E_NOSPACE)
            break;
        assert_int_equal(err, NEF_OK);
    }
    was = nef_log_end(f.log);
    assert_int_equal(fix_append(&f, 1, 800), NEF_E_NOSPACE);
    assert_int_equal(nef_log_end(f.log), was);
    assert_int_equal(fix_sync(&f), NEF_OK);
    fix_check(&f);
    assert_int_equal(was, first_of(2));
    assert_int_equal(nef_log_drop(f.log, 1), NEF_E_NOSPACE); /* nothing would say where the end is */
    assert_int_equal(fix_drop(&f, 0), NEF_OK); /* makes room */
    assert_int_equal(fix_append(&f, 1, 800), NEF_OK);
    fix_check(&f);
    reopen(&f);
    end(&f);
}

static void many_segments_few_files(void **state)
{
    struct fix f;
    char path[64];
    unsigned open_files = 0;

    (void)state;
    if (!on_posix)
        return;
    begin(&f, 11);
    fill(&f, 60);
    for (int i = 0; i < 3; i++)
        fix_check(&f);
    for (int fd = 3; fd < 1024; fd++) {
        struct stat st;

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        open_files += stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == FIX_SEGMENT_BYTES;
    }
    assert_in_range(open_files, 1, NEF_LOG_FILES_MAX + 2);
    end(&f);
}

/* ---- threads: one appends, one syncs, one prepares, two read ---- */

struct shared {
    struct fix *f;
    atomic_bool stop;
    atomic_uint bad, syncs;
};

static void *sync_loop(void *context)
{
    struct shared *s = context;
    uint64_t durable, before = 0;

    while (!atomic_load(&s->stop)) {
        if (nef_log_sync(s->f->log, &durable) != NEF_OK || durable < before)
            atomic_fetch_add(&s->bad, 1);
        before = durable;
        atomic_fetch_add(&s->syncs, 1);
    }
    return NULL;
}

static void *prepare_loop(void *context)
{
    struct shared *s = context;

    while (!atomic_load(&s->stop))
        if (nef_log_prepare(s->f->log) != NEF_OK)
            atomic_fetch_add(&s->bad, 1);
    return NULL;
}

static void *read_loop(void *context)
{
    struct shared *s = context;
    uint8_t *body = malloc(NEF_RECORD_BODY_MAX);
    struct nef_record r;
    uint64_t at, next = 0;
    nef_err err;

    while (body != NULL && !atomic_load(&s->stop)) {
        for (at = nef_log_start(s->f->log); at < nef_log_end(s->f->log); at = next) {
            at = nef_log_next_present(s->f->log, at);
            err = nef_log_record(s->f->log, at, &r, body, &next);
            if (err == NEF_E_NOT_FOUND || err == NEF_E_RANGE)
                break; /* dropped under us */
            if (err != NEF_OK) {
                atomic_fetch_add(&s->bad, 1);
                break;
            }
        }
    }
    free(body);
    return NULL;
}

static void threads_work_together(void **state)
{
    struct shared s = {0};
    pthread_t threads[4];
    struct fix f;

    (void)state;
    if (!on_posix)
        return;
    begin(&f, 12);
    s.f = &f;
    assert_int_equal(pthread_create(&threads[0], NULL, sync_loop, &s), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, prepare_loop, &s), 0);
    assert_int_equal(pthread_create(&threads[2], NULL, read_loop, &s), 0);
    assert_int_equal(pthread_create(&threads[3], NULL, read_loop, &s), 0);
    for (uint64_t n = 0; f.end < 40 * FIX_SEGMENT_BYTES; n++) {
        uint64_t segment = f.end / FIX_SEGMENT_BYTES;

        assert_int_equal(fix_append(&f, 1 + (uint32_t)fix_below(&f, 3), 3000), NEF_OK);
        if (segment > 6 && n % 10 == 0)
            assert_int_equal(fix_drop(&f, segment - 6), NEF_OK);
        if (segment > 2 && n % 7 == 0) {
            uint64_t at = f.runs[f.run_count - 20].offset;
            nef_err err = fix_erase(&f, at);

            assert_true(err == NEF_OK || err == NEF_E_NOT_FOUND);
        }
    }
    atomic_store(&s.stop, true);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&s.bad), 0);
    assert_true(atomic_load(&s.syncs) > 0);
    assert_int_equal(fix_sync(&f), NEF_OK);
    fix_check(&f);
    reopen(&f);
    end(&f);
}

static int setup(void **state)
{
    (void)state;
    nef_trace_setup(-1, "test", NEF_TRACE_ERROR);
    return nef_crypto_init() == NEF_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(append_sync_reopen),     cmocka_unit_test(bad_appends_are_refused),
        cmocka_unit_test(reads_stay_inside),      cmocka_unit_test(drop_and_pin),
        cmocka_unit_test(dropping_all_keeps_the_end), cmocka_unit_test(erase_leaves_the_header),
        cmocka_unit_test(truncate_anywhere),      cmocka_unit_test(skip_leaves_a_hole),
        cmocka_unit_test(discard_all),
        cmocka_unit_test(scrub_and_repair),       cmocka_unit_test(scrub_finishes_an_erase),
        cmocka_unit_test(full_disk_changes_nothing), cmocka_unit_test(many_segments_few_files),
        cmocka_unit_test(threads_work_together),
    };
    int failed = 0;

    failed += cmocka_run_group_tests_name("simulated disk", tests, setup, NULL);
    on_posix = true;
    failed += cmocka_run_group_tests_name("disk", tests, setup, NULL);
    posix_parent = "/dev/shm"; /* a tmpfs: refuses O_DIRECT, or not, by kernel */
    if (access(posix_parent, W_OK) == 0)
        failed += cmocka_run_group_tests_name("tmpfs", tests, setup, NULL);
    return failed;
}
