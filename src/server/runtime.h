/* The runtime of a zone: executes the replication core's actions (logs, peers, etcd, timers), applies what
 * is committed, and offers to the HTTP side two things: propose a run, and wait until a read is allowed.
 *
 * Threads: one core thread steps the core; one sync and one apply thread a cell; one etcd thread; two
 * threads a peer link; four in the background (segments and space, clocks, maintenance, scrub). Functions here may be called
 * from any thread but those; callbacks come from the runtime's threads, must be short, must not block and
 * must not call back into the runtime except nef_runtime_propose. */
#ifndef NEF_SERVER_RUNTIME_H
#define NEF_SERVER_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>
#include "io/etcd.h"
#include "repl/repl.h"
#include "server/config.h"
#include "store/store.h"

struct nef_runtime;

/* Opens logs and store under the data directory, starts the threads. The data directory is locked. */
NEF_MUST_CHECK nef_err nef_runtime_start(const struct nef_zone_config *config, struct nef_keys *keys,
                                         struct nef_runtime **out_runtime);
/* A stop in which the region goes on (SIGTERM): not ready from now on, and the primary handed over if this
 * replica has it and another is in sync. Blocks for 1.5 s at most. */
void nef_runtime_drain(struct nef_runtime *rt);
/* A stop of the whole region (SIGINT): the core ends at once, so that no zone takes the epoch from another that
 * stops a moment earlier, and all start again in sync. What waits is answered with NEF_E_CLOSED. */
void nef_runtime_freeze(struct nef_runtime *rt);
/* Stops threads, syncs, flushes. Every callback has been called when it returns. */
void nef_runtime_stop(struct nef_runtime *rt);
/* Blocks until the runtime must end by itself (failed disk...); returns why. nef_runtime_wake ends it with
 * NEF_OK (async-signal-safe). */
nef_err nef_runtime_wait(struct nef_runtime *rt);
void nef_runtime_wake(struct nef_runtime *rt);

struct nef_store *nef_runtime_store(struct nef_runtime *rt);
uint64_t nef_runtime_proposer(const struct nef_runtime *rt); /* id of this start in what it proposes */

/* ---- proposing ---- */

/* err NEF_OK: the run was committed and applied here; outcome says what came of it (its code may be an
 * error of the op, e.g. NEF_E_PRECONDITION; then nothing was changed). Otherwise the outcome is unknown
 * (NEF_E_TIMEOUT after request_hold, NEF_E_CLOSED) or the run was refused before it could be appended
 * anywhere (NEF_E_NOSPACE). */
typedef void (*nef_propose_fn)(void *context, nef_err err, const struct nef_outcome *outcome);

/* Takes run's memory in every case. NEF_OK: done will be called exactly once, perhaps before this returns.
 * NEF_E_BUSY: too many proposals or bytes are outstanding (done isn't called): answer SlowDown. Uploads
 * avoid that by asking nef_runtime_room first. */
NEF_MUST_CHECK nef_err nef_runtime_propose(struct nef_runtime *rt, struct nef_run *run,
                                           nef_propose_fn done, void *context);
/* The same, blocking; for worker threads. Returns err, or the outcome's code if err is NEF_OK. */
NEF_MUST_CHECK nef_err nef_runtime_propose_wait(struct nef_runtime *rt, struct nef_run *run,
                                                struct nef_outcome *out_outcome);
/* Back-pressure for uploads: true if another piece may be sealed and proposed now. False: `wake` is called
 * once when it is worth asking again. Advisory: propose itself refuses only far above this bound, so that a
 * piece already sealed always gets in. */
bool nef_runtime_room(struct nef_runtime *rt, void (*wake)(void *context), void *context);

/* Call AGAIN(context) once from the background thread, DELAY_MS from now or a little later, or when the runtime
 * closes (then what it proposes is refused). AGAIN must not block. False: it won't be called (closed, or too many
 * wait). For what must be repeated when nobody waits for it. */
bool nef_runtime_later(struct nef_runtime *rt, uint32_t delay_ms, void (*again)(void *context), void *context);

/* False for some moments after a start: this zone's clock was not compared with peer or witness yet, so signatures
 * can't be judged. No request may be answered but with 503. */
bool nef_runtime_clock_known(const struct nef_runtime *rt);

/* ---- reading (R4, R5) ---- */

/* One read. Zero it when the request arrives and pass the same struct to every call of that request: it
 * keeps the bounds that were noted on arrival, so that a key (or a listing) under constant writes doesn't
 * wait for ever. */
struct nef_read {
    uint64_t epoch; /* of the configuration under which the bounds were noted; 0: not noted yet */
    uint64_t bounds[NEF_CELL_MAX];
};

/* May a read of the key with TAG in CELL look at the index now? NEF_OK: yes. NEF_E_AGAIN: not yet; `wake`
 * is called once when it is worth calling again (an op was applied, a lease came, or the hold time ran
 * out). NEF_E_UNAVAILABLE: this zone can't answer reads and has not been able to for request_hold.
 * first_ns: nef_now_ns of the request's first try, for the hold. */
NEF_MUST_CHECK nef_err nef_runtime_read(struct nef_runtime *rt, uint32_t cell, const uint8_t tag[16],
                                        uint64_t first_ns, struct nef_read *read,
                                        void (*wake)(void *context), void *context);
/* A listing, or a bucket look-up (tag NULL touches every op) over all cells (cell_count of them from 0), or
 * only cell 0 with nef_runtime_read(rt, 0, NULL, ...). */
NEF_MUST_CHECK nef_err nef_runtime_read_all(struct nef_runtime *rt, uint64_t first_ns,
                                            struct nef_read *read, void (*wake)(void *context),
                                            void *context);
/* After the look-up: was the lease still good? NEF_OK, or NEF_E_AGAIN: throw the answer away and read again. */
NEF_MUST_CHECK nef_err nef_runtime_read_done(struct nef_runtime *rt, const struct nef_read *read);
/* Blocking forms for worker threads. cell UINT32_MAX: all. */
NEF_MUST_CHECK nef_err nef_runtime_read_wait(struct nef_runtime *rt, uint32_t cell,
                                             const uint8_t tag[16], struct nef_read *out_read);

/* Fetch the record at OFFSET of CELL from the peer, check it, write it over the damaged one. Blocking. */
NEF_MUST_CHECK nef_err nef_runtime_repair(struct nef_runtime *rt, uint32_t cell, uint64_t offset);

/* ---- state, for health, metrics, status ---- */

/* Of what isn't a zone: when it was asked last, a few seconds ago. */
enum nef_seen { NEF_SEEN_NEVER, NEF_SEEN_YES, NEF_SEEN_NO };

struct nef_runtime_stats {
    struct nef_repl_status repl;
    uint64_t applied[NEF_CELL_MAX];
    uint32_t zones_configured;   /* 2 */
    bool ready;                  /* design section 4: last paragraph on the front */
    uint64_t not_ready_since_ms; /* 0 if ready */
    uint64_t failovers;          /* epochs taken by this process */
    uint64_t free_bytes, total_bytes;
    uint64_t lost_accepted, lost_tails, lost_removed; /* bytes in lost/ of accepted losses, of failovers; removed */
    bool index_full;             /* of a cell at least: its disk has no space, so nothing can be applied there */
    uint64_t sync_count, sync_ns_sum, sync_ns_max; /* max: of the last 10 s */
    uint64_t sync_buckets[16];   /* histogram: <= 32 us * 2^i; the last: more */
    uint64_t proposals_waiting, proposal_bytes_waiting;
    uint64_t scrub_bytes, scrub_bad, scrub_repaired;
    uint64_t bytes_appended, bytes_sent, bytes_received;
    int64_t clock_adjust_ms;
    enum nef_seen etcd_member[NEF_ETCD_MEMBERS_MAX], witness_seen;
    uint64_t now_ns;
};
void nef_runtime_stats(struct nef_runtime *rt, struct nef_runtime_stats *out_stats);
/* "2/2": zones that hold what is acknowledged now. */
void nef_runtime_durability(struct nef_runtime *rt, uint32_t *out_have, uint32_t *out_of);
/* The JSON of `nef status` (its fields: nef help status). */
void nef_runtime_status_json(struct nef_runtime *rt, struct nef_buf *out);
/* Operator's wishes: hand the primary over; accept loss (R8). */
void nef_runtime_handover(struct nef_runtime *rt);
void nef_runtime_recover(struct nef_runtime *rt);

#endif
