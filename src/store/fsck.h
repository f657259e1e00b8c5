/* Offline check of a region's data: `nef fsck`. No zone process may run on the directories.
 *
 * For each zone and cell: every record of the log (place, CRCs, continuity, epochs, marks, nothing behind
 * the end); the zones' logs against each other where both have them; the index against the log (each row X
 * names a record of that piece, each object and part has its pieces, the live bytes of each segment are the
 * sum of them) and against an index built afresh from the log into a temporary directory beside it. The
 * index is looked at only where the log is without fault: then opening it changes nothing.
 *
 * Prints nothing: what it finds goes to report(). Tells problems (something is wrong) from notes (what the
 * next start will put right by itself, such as a tail that lost an election). */
#ifndef NEF_STORE_FSCK_H
#define NEF_STORE_FSCK_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/id.h"
#include "keys/keys.h"

struct nef_fsck_zone {
    const char *name;
    const char *data_dir; /* holds cell-N, index-N, index.key, LOCK */
};

struct nef_fsck_finding {
    bool problem; /* false: a note */
    const char *zone;
    uint32_t cell;
    uint64_t offset; /* in the cell's log; UINT64_MAX: none in particular */
    const char *text;
};

struct nef_fsck_options {
    const struct nef_fsck_zone *zones;
    uint32_t zone_count;
    struct nef_id region;
    uint32_t cell_count;
    uint64_t segment_bytes;
    struct nef_keys *keys;
    bool rebuild_index; /* after the checks of the logs: make every index anew instead of checking it */
    void (*report)(void *context, const struct nef_fsck_finding *finding); /* borrowed for the call */
    void *context;
};

/* Exit status of `nef fsck`: 0 clean, 1 there are problems, 2 it could not run (then a finding says why;
 * a directory in use among them). Blocking; reads everything. */
int nef_fsck(const struct nef_fsck_options *options);

#endif
