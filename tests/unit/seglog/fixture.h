/* What the tests of seglog share: a log with a model beside it that knows every byte it should hold. */
#ifndef NEF_TESTS_SEGLOG_FIXTURE_H
#define NEF_TESTS_SEGLOG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "seglog/seglog.h"
#include "sim_disk.h"

#define FIX_CELL          3u
#define FIX_SEGMENT_BYTES (32u << 10)
#define FIX_SEGMENTS      64u
#define FIX_SPACE         ((uint64_t)FIX_SEGMENT_BYTES * FIX_SEGMENTS)

struct fix_run {
    uint64_t offset, end; /* end as nef_log_end gives it */
    uint64_t epoch;
};

struct fix {
    struct sim_disk *disk; /* NULL on a real directory */
    struct nef_dir *dir;
    struct nef_log *log;
    struct nef_log_recovery recovery;
    uint64_t random;
    bool zero_fill;
    uint64_t epoch;
    uint64_t synced;  /* known durable */
    uint64_t end;     /* as the caller of the log sees it */
    uint8_t *bytes;   /* the address space */
    bool *erased;     /* by address / 64 of the record: erase was tried */
    bool *erased_sure; /* ... and it returned NEF_OK */
    struct fix_run *runs; /* appended or tried, ascending, up to the end (or a little beyond, after a crash) */
    size_t run_count, run_capacity;
    bool dropped[FIX_SEGMENTS];      /* drop returned NEF_OK */
    bool maybe_dropped[FIX_SEGMENTS];
    bool gaps;        /* something was dropped or skipped: starts of epochs may be missing */
    uint64_t skip_to; /* a skip was tried; 0 none */
};

struct nef_log_options fix_options(const struct fix *f);
/* A model on a simulated disk, log not opened. */
void fix_init(struct fix *f, uint64_t seed);
/* The same on the real directory of this handle (owned from now on). */
void fix_init_dir(struct fix *f, struct nef_dir *dir, uint64_t seed);
void fix_done(struct fix *f);
uint64_t fix_below(struct fix *f, uint64_t n);

nef_err fix_open(struct fix *f);
void fix_open_ok(struct fix *f); /* and checks what it found */
void fix_close(struct fix *f);

/* Append a run of COUNT records with bodies of up to BODY_MAX bytes; pads first where needed. */
nef_err fix_append(struct fix *f, uint32_t count, uint32_t body_max);
nef_err fix_sync(struct fix *f);
nef_err fix_truncate(struct fix *f, uint64_t to);
nef_err fix_skip(struct fix *f, uint64_t to);
nef_err fix_drop(struct fix *f, uint64_t segment);
nef_err fix_erase(struct fix *f, uint64_t offset);
/* A random record's offset below the end, in a segment that is there; 0 if there is none. */
uint64_t fix_pick(struct fix *f);

/* Compare everything from start to end with the model, read and record both. */
void fix_check(struct fix *f);
/* After a crash: take over what recovery found, having checked it against what was promised. */
void fix_adopt(struct fix *f);

#endif
