/* What the files of fsck share. */
#ifndef NEF_STORE_FSCK_INTERNAL_H
#define NEF_STORE_FSCK_INTERNAL_H

#include "base/file.h"
#include "seglog/format.h"
#include "store/fsck.h"
#include "store/op.h"

struct nef_fsck_segment {
    uint64_t number;
    uint64_t end; /* behind the last readable record */
};

/* One cell's log on one zone as its files say, read without seglog (whose opening repairs tails). */
struct nef_fsck_log {
    struct nef_dir *dir;
    struct nef_fsck_segment *segments; /* ascending; only those with a header */
    uint32_t segment_count, segment_capacity;
    uint64_t mark; /* highest synced-before mark */
    bool faulty;
};

struct nef_fsck {
    const struct nef_fsck_options *options;
    uint64_t problems;
    bool could_not_run;
};

/* One finding; printf-like text. */
void nef_fsck_say(struct nef_fsck *f, bool problem, uint32_t zone, uint32_t cell, uint64_t offset,
                  const char *format, ...) NEF_PRINTF(6, 7);

/* What an operator gave up is told to whoever looks: it explains why two logs went different ways. From the record in
 * the log, or once that was dropped, from its row. */
void nef_fsck_override(struct nef_fsck *f, uint32_t zone, uint32_t cell, uint64_t offset, uint64_t time_ms,
                       const struct nef_op_override *op);

/* fsck_log.c. NEF_OK also when there are problems; errors: it could not be read at all. */
NEF_MUST_CHECK nef_err nef_fsck_scan(struct nef_fsck *f, uint32_t zone, uint32_t cell,
                                     struct nef_fsck_log *out_log);
NEF_MUST_CHECK nef_err nef_fsck_compare(struct nef_fsck *f, uint32_t cell, uint32_t zone_a,
                                        const struct nef_fsck_log *a, uint32_t zone_b,
                                        const struct nef_fsck_log *b);
void nef_fsck_log_free(struct nef_fsck_log *log);

/* fsck_index.c. marks: per cell, what is known to be committed. */
NEF_MUST_CHECK nef_err nef_fsck_index(struct nef_fsck *f, uint32_t zone, const uint64_t *marks);

#endif
