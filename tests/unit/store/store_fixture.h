/* A world for the store's tests: logs of two replicas in a temporary directory, written by one "primary"
 * (the test), and a store on each. Records are stamped and placed as the replication core would. */
#ifndef NEF_TESTS_STORE_FIXTURE_H
#define NEF_TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "crypto/crypto.h"
#include "store/store.h"
#include "store/store_internal.h"

#define WORLD_CELLS    2u
#define WORLD_REPLICAS 2u
#define WORLD_SEGMENT  ((uint64_t)4 << 20)

#define OK(call) assert_int_equal((call), NEF_OK)

struct world {
    char dir[64];
    struct nef_id region;
    struct nef_keys *keys;
    uint64_t erase_within_ms, checkpoint_log_bytes;
    struct nef_dir *dirs[WORLD_REPLICAS][WORLD_CELLS];
    struct nef_log *logs[WORLD_REPLICAS][WORLD_CELLS];
    struct nef_store *stores[WORLD_REPLICAS];
    uint64_t epoch, time_ms, proposer, number, random;
    bool away; /* replica 1 gets nothing appended */
    /* of the last run that was applied on replica 0 */
    struct nef_outcome outcome;
    uint64_t outcome_number, outcome_end;
    uint32_t applied_calls;
};

uint64_t world_random(struct world *w);
void world_open(struct world *w); /* a fresh region with its region key in every cell */
void world_close(struct world *w);
void world_stop(struct world *w); /* close stores and logs of both replicas, in order */
void world_start(struct world *w);
void world_store_open(struct world *w, uint32_t replica);
void world_store_close(struct world *w, uint32_t replica);
void world_log_open(struct world *w, uint32_t replica, uint32_t cell);
void world_shell(struct world *w, const char *format, ...) NEF_PRINTF(2, 3);

/* Append RUN to both logs as NUMBER of PROPOSER. Takes its memory. Applies nothing. */
void world_append_as(struct world *w, struct nef_run *run, uint64_t proposer, uint64_t number);
/* Under the next number; applied on replica 0; its outcome. */
nef_err world_propose(struct world *w, struct nef_run *run);
void world_apply(struct world *w, uint32_t replica);
/* Replica 1 catches up in pieces of random size. */
void world_apply_slowly(struct world *w, uint32_t replica);

struct nef_bucket world_bucket(struct world *w, const char *name);
nef_err world_bucket_op(struct world *w, uint32_t cell, uint16_t type, const struct nef_id *bucket,
                        const struct nef_id *token);
/* Content of SIZE bytes that SEED decides. */
void world_fill(uint8_t *out, size_t bytes, uint64_t seed);
struct world_put {
    const char *key;
    size_t size;
    uint64_t seed;
    const struct nef_condition *condition;
    const struct nef_id *upload; /* a part */
    uint32_t part;
    bool pieces;  /* as data records even if small */
    bool lose_op; /* data records only */
    uint32_t skip_piece; /* 1-based; 0: none */
};
nef_err world_put(struct world *w, const struct nef_bucket *bucket, const struct world_put *put);
nef_err world_delete(struct world *w, const struct nef_bucket *bucket, const char *key,
                     const struct nef_condition *condition);
struct nef_id world_upload(struct world *w, const struct nef_bucket *bucket, const char *key);
nef_err world_complete(struct world *w, const struct nef_bucket *bucket, const char *key,
                       const struct nef_id *upload, const uint32_t *parts, const uint64_t *seeds,
                       const size_t *sizes, uint32_t count);
/* ETag of a simple put of that content. */
void world_etag(size_t size, uint64_t seed, char out[NEF_ETAG_MAX + 1]);
/* NEF_OK: the object is there and its bytes are those of the parts (simple put: one). */
nef_err world_check(struct world *w, uint32_t replica, const struct nef_bucket *bucket,
                    const char *key, const size_t *sizes, const uint64_t *seeds, uint32_t count);
void world_assert_same_rows(struct world *w);
uint64_t world_rows(struct world *w, uint32_t replica, uint32_t cell, char kind);
/* Rounds of maintenance on replica 0 with all that it proposes applied. */
void world_maintain(struct world *w, uint32_t rounds, const uint64_t *alive, uint32_t alive_count);
void world_checkpoint(struct world *w, uint32_t cell);

#endif
