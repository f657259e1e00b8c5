/* The replication core: one replica's part in a group of cells. PURE: no system call, clock, malloc or
 * thread inside; everything comes in as an event and leaves as actions.
 *
 * One `struct nef_repl` serves all cells of the group (they share epoch, lease and membership; every cell
 * has its own log). Its callers are server/runtime.c and tests/sim. The papers, the departures from them
 * and the invariants R1 to R10 are in README.md beside this file.
 *
 * How the pieces meet
 *   proposal  a run of encoded records, held by the runtime under a HANDLE; the core knows only its cell,
 *             number and size. Here or on the peer it becomes bytes at an offset of the log.
 *   log       the runtime's: the core says "write these bytes at this offset", "sync", "send [from,to) to
 *             peer 0". Bytes are never copied by the core. Appending to the page cache is synchronous
 *             (when the step that emitted it has been executed, reads see the bytes), syncing isn't.
 *   etcd      one record, `struct nef_group`, changed only by compare-and-swap on its revision.
 *   apply     the runtime applies committed records in log order, in its own threads, and tells the core
 *             when a proposal of this process has been applied (NEF_EV_PROPOSAL_DONE).
 *   gate      gate.h: which reads must wait (R5); marked by the runtime before it executes APPEND or WRITE.
 *   outcomes  outcomes.h: what makes a proposal made twice apply once; used by apply.
 *
 * Order of execution: the runtime executes the actions of one step in order before the next step. Actions
 * and what they point to are valid until the next step. Everything an event points to is borrowed for
 * the step. Threads: one thread owns a struct nef_repl. Memory: nef_repl_bytes(cells) from the caller. */
#ifndef NEF_REPL_REPL_H
#define NEF_REPL_REPL_H

#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"

#define NEF_PEER_MAX (NEF_REPLICA_MAX - 1)

/* ---- the record in etcd ------------------------------------------------------------------------ */

struct nef_member {
    struct nef_id replica;
    char zone[NEF_ZONE_NAME_MAX + 1];
};

struct nef_group {
    uint64_t epoch; /* 0: there is no record */
    uint32_t member_count;
    struct nef_member members[NEF_REPLICA_MAX];
    uint32_t in_sync;                 /* bit i: members[i]; never 0 in a record */
    uint32_t cell_count;
    uint8_t primary[NEF_CELL_MAX];    /* index of a member that is in sync; equal for all cells today */
    uint64_t first_offset[NEF_CELL_MAX]; /* log end of the primary when it asked for this epoch: a lower
                                          * bound of where the epoch begins; R10 checks against it */
    uint64_t nonce[2];                /* of the writer and this very change */
    uint64_t override_epoch;          /* the last epoch that zone-recover --accept-loss made; kept in all that
                                       * follow, so that any primary can see to its record. 0: none */
};

/* Was this very epoch made by accepting a loss? */
static inline bool nef_group_overrides(const struct nef_group *g)
{
    return g->epoch != 0 && g->override_epoch == g->epoch;
}

/* ---- log positions ------------------------------------------------------------------------------ */

struct nef_epoch_at {
    uint64_t epoch;
    uint64_t offset; /* of the epoch's first record in this cell */
};

struct nef_epoch_table {
    uint32_t count; /* ascending in both fields */
    struct nef_epoch_at at[NEF_EPOCHS_KEPT];
};

/* Longest prefix that two logs share: both ends and both tables. Pure; see README.md for the proof. */
uint64_t nef_common_prefix(const struct nef_epoch_table *a, uint64_t a_end,
                           const struct nef_epoch_table *b, uint64_t b_end);

/* ---- set-up ------------------------------------------------------------------------------------- */

struct nef_repl_config {
    struct nef_id replica;      /* made with the data directory */
    char zone[NEF_ZONE_NAME_MAX + 1];
    uint64_t incarnation;       /* random, of this start; also the proposer id of this process */
    uint32_t cell_count;
    uint64_t segment_bytes;
    uint32_t peer_count;        /* links to other zones, 0..peer_count-1 in events and actions */
    bool preferred;             /* tries first; gets the primary back after failback_ns of 2/2 */
    bool bootstrap;             /* may create the etcd record, if it is absent and every log is empty */
    uint64_t heartbeat_ns;      /* 50 ms */
    uint64_t lease_ns;          /* 500 ms: term that the granter counts; the holder takes 10 % off */
    uint64_t suspect_ns;        /* silence after which a peer is suspected: 400 ms */
    uint64_t second_wait_ns;    /* what the one that isn't preferred waits more: 100 ms */
    uint64_t peer_stall_ns;     /* 1 s */
    uint64_t failback_ns;       /* 30 s */
    uint64_t etcd_poll_ns;      /* 250 ms: how often the record is read without cause */
    uint64_t etcd_retry_ns;     /* 100 ms after a call without an answer */
    uint64_t resend_ns;         /* 1 s: a proposal without outcome is sent again */
    uint32_t append_bytes_max;  /* of one APPEND message: 1 MiB */
    uint32_t window_bytes;      /* sent and not yet received by the peer, per cell: 16 MiB */

    /* First record place at or after OFFSET that the log of CELL holds (dropped segments leave holes);
     * the log end if there is none. No I/O; same answer until a step's actions change the log. */
    uint64_t (*next_present)(void *context, uint32_t cell, uint64_t offset);
    /* End of the segment run: how far [offset, ...) is present without a hole. */
    uint64_t (*present_until)(void *context, uint32_t cell, uint64_t offset);
    /* Bytes of whole runs (proposals, pads, marks) from OFFSET on, at most BYTES_MAX, but one run at least;
     * never a part of one: a backup that takes over goes on from what it has. Never across a segment border.
     * 0: nothing begins there yet (this step's APPEND isn't executed), or it can't be read, which the runtime
     * then says (NEF_EV_UNREADABLE). Asked only when more than append_bytes_max waits to be sent, just before
     * the SEND_LOG of those bytes. */
    uint64_t (*whole_records)(void *context, uint32_t cell, uint64_t offset, uint64_t bytes_max);
    void *context;
};

/* What the disk says at the start, per cell. */
struct nef_repl_cell_start {
    uint64_t end;         /* of the log; everything in it is durable. (Its start moves: next_present has it) */
    uint64_t committed;   /* at least this is known committed (the index's applied offset) */
    bool damaged;         /* not electable; asks for repair by catch-up from damage_offset */
    uint64_t damage_offset;
    struct nef_epoch_table epochs;
};

/* ---- messages between replicas (message.c has the wire format; fuzzed) --------------------------- */

enum nef_message_type {
    NEF_MSG_STATE = 1,  /* heartbeat, lease request and grant, acknowledgement, commit notice: cumulative */
    NEF_MSG_GROUP = 2,  /* the etcd record as its sender knows it */
    NEF_MSG_JOIN = 3,   /* to the primary: my tables and ends, let me follow */
    NEF_MSG_JOINED = 4, /* to the joiner: session, per cell where to cut and the primary's table */
    NEF_MSG_APPEND = 5, /* log bytes of one cell */
    NEF_MSG_PROPOSE = 6, /* a proposal for the primary */
    NEF_MSG_HANDOVER = 7, /* primary to backup: drained, take the epoch */
};

/* Decoded head of a message; variable parts (tables, records) are read by message.c into scratch of the
 * receiving core. For APPEND and PROPOSE `payload_bytes` follow the head on the wire; the runtime keeps
 * them under a handle and the core never looks inside. */
struct nef_message {
    uint8_t type;
    struct nef_id replica;    /* sender */
    uint64_t incarnation;     /* sender's start */
    uint64_t epoch;           /* sender's, durable there */
    const uint8_t *body;      /* type-specific fields, encoded; borrowed */
    uint32_t body_bytes;
    uint32_t payload_bytes;   /* APPEND, PROPOSE */
};

#define NEF_MESSAGE_HEAD_MAX 40960u /* largest body of a message: JOINED with 64 cells' tables is cut to fit */

/* ---- events ------------------------------------------------------------------------------------- */

enum nef_event_type {
    NEF_EV_TICK,           /* time passed; call at least every heartbeat, and at deadline of the step */
    NEF_EV_FLUSH,          /* the runtime's queue is empty for now: emit syncs and sends */
    NEF_EV_PEER_UP,        /* link PEER is connected and authenticated */
    NEF_EV_PEER_DOWN,      /* it broke; nothing sent on it may be assumed to have arrived */
    NEF_EV_MESSAGE,        /* from PEER */
    NEF_EV_SYNCED,         /* cell, offset: durable up to there (the end when that sync was started) */
    NEF_EV_CUT,            /* cell: the TRUNCATE or SKIP was done and is durable */
    NEF_EV_PERSISTED,      /* epoch: the PERSIST was done */
    NEF_EV_ETCD_RECORD,    /* group (epoch 0: absent) and revision: answer to ETCD_GET */
    NEF_EV_ETCD_SWAPPED,   /* answer to ETCD_CAS: swap says which; WON: revision is the record's new one
                            * (0: unknown). Every ETCD_CAS gets exactly one answer, UNKNOWN after the
                            * runtime's time-out; the same holds for ETCD_GET and ETCD_FAILED */
    NEF_EV_ETCD_FAILED,    /* ETCD_GET had no answer */
    NEF_EV_PROPOSE,        /* local proposal: cell, handle, number, bytes */
    NEF_EV_PROPOSAL_DONE,  /* number: applied here (or given up by the runtime): forget it */
    NEF_EV_FAILED,         /* a write, sync, cut or persist failed: err. The core stops (R7) */
    NEF_EV_SPACE,          /* own free_bytes for log; err NEF_E_NOSPACE: below the reserve, else NEF_OK */
    NEF_EV_HANDOVER,       /* operator asks this replica to hand the primary over, if it has it */
    NEF_EV_RECOVER,        /* operator accepts loss: take the epoch whatever in_sync says */
    NEF_EV_UNREADABLE,     /* cell, offset: the record (or, from whole_records, the run) at OFFSET of our own
                            * log can't be read, and a SEND_LOG that holds it wasn't sent. Who lacks it
                            * waits; it is tried again after a back-off */
    NEF_EV_PROPOSERS_GONE_SEEN, /* reserved for the runtime; ignored */
};

enum nef_swap { NEF_SWAP_WON, NEF_SWAP_LOST, NEF_SWAP_UNKNOWN };

struct nef_event {
    enum nef_event_type type;
    uint64_t now; /* CLOCK_BOOTTIME, ns; never falls */
    uint32_t peer;
    uint32_t cell;
    uint64_t offset;
    uint64_t epoch;
    uint64_t handle;   /* PROPOSE; MESSAGE with a payload: the runtime's name for the payload */
    uint64_t number;   /* PROPOSE, PROPOSAL_DONE: > 0, rising, chosen by the runtime */
    uint32_t bytes;    /* PROPOSE: of the encoded run */
    bool is_op;        /* PROPOSE: run holds an op (waits for apply; a DATA run too completes on apply) */
    bool frees_space;  /* PROPOSE: a delete or the like: placed even when space is short */
    const struct nef_message *message;
    const struct nef_group *group;
    uint64_t revision;
    enum nef_swap swap;
    nef_err err;
    uint64_t free_bytes;
    uint64_t random[2]; /* fresh random bits with every event (nonces, jitter) */
};

/* ---- actions ------------------------------------------------------------------------------------ */

enum nef_action_type {
    /* log */
    NEF_ACT_APPEND,   /* primary: stamp proposal HANDLE (epoch, offset, synced_before) and write at OFFSET.
                       * If pad_bytes > 0 first write a PAD record of that size at pad_offset. */
    NEF_ACT_MARK,     /* primary: write a MARK record (192 bytes) at offset, synced_before (pad as above) */
    NEF_ACT_WRITE,    /* backup: payload HANDLE holds `bytes` of log for OFFSET of CELL; write them. The
                       * runtime has checked CRCs and that they are whole records of this place
                       * (nef_append_decode in message.h names it) before NEF_EV_MESSAGE, and closed
                       * the link otherwise: a WRITE can only fail as R7 has it. */
    NEF_ACT_SYNC,     /* sync CELL; answer SYNCED with the log end when the sync was started */
    NEF_ACT_TRUNCATE, /* cut CELL at offset (bytes above are kept aside); answer CUT. Nothing else happens
                       * to that cell until then, and no SYNC of it is under way. Below what was applied
                       * only after an accepted loss or damage: the index must then be rebuilt. At
                       * NEF_SEGMENT_HEADER_BYTES, which may lie below the log's start: the log is empty then,
                       * and begins there, as a new one */
    NEF_ACT_SKIP,     /* move the end of CELL to offset (first record place of a later segment; its index
                       * must be rebuilt from the checkpoint); answer CUT */
    NEF_ACT_COMMIT,   /* CELL is committed up to OFFSET: apply it */
    /* state */
    NEF_ACT_PERSIST,  /* make epoch durable (a file, synced); answer PERSISTED */
    NEF_ACT_STATUS,   /* role, epoch, in_sync... changed: nef_repl_status has it */
    NEF_ACT_SERVE,    /* reads may be answered until `until` (boottime ns; 0: no; UINT64_MAX: alone in sync) */
    NEF_ACT_STOP,     /* this process must stop serving and exit with ERR */
    /* etcd */
    NEF_ACT_ETCD_GET,
    NEF_ACT_ETCD_CAS, /* write `group` if the record's revision still is `revision` (0: absent) */
    /* peers */
    NEF_ACT_SEND,     /* message to PEER: head in `message` (body points into the core) */
    NEF_ACT_SEND_LOG, /* APPEND to PEER: `message` and then log bytes [offset, offset+bytes) of CELL */
    NEF_ACT_SEND_PROPOSAL, /* PROPOSE to PEER: `message` and then the bytes of proposal HANDLE */
    NEF_ACT_SAVE_PAYLOAD,  /* the payload HANDLE of this event becomes a proposal (from a peer) under the
                            * same handle until APPEND has used it; without this the runtime frees it */
    NEF_ACT_FREE,     /* proposal or payload HANDLE isn't needed by the core any more */
    NEF_ACT_REFUSE,   /* local proposal HANDLE (number) is refused with err: NEF_E_NOSPACE, NEF_E_BUSY */
};

struct nef_action {
    enum nef_action_type type;
    uint32_t peer;
    uint32_t cell;
    uint64_t offset;
    uint64_t bytes;
    uint64_t handle;
    uint64_t number;
    uint64_t epoch;
    uint64_t synced_before;
    uint64_t pad_offset;
    uint64_t pad_bytes;
    uint64_t until;
    uint64_t revision;
    const struct nef_group *group;
    const struct nef_message *message;
    nef_err err;
};

#define NEF_ACTIONS_MAX 1024u /* one step never emits more; what is left comes with the next (see more) */

struct nef_actions {
    uint32_t count;
    bool more;         /* step again at once with NEF_EV_FLUSH */
    uint64_t deadline; /* step with NEF_EV_TICK at this time at the latest */
    struct nef_action at[NEF_ACTIONS_MAX];
};

/* ---- the interface ------------------------------------------------------------------------------- */

struct nef_repl;

uint64_t nef_repl_bytes(uint32_t cell_count);

/* memory: nef_repl_bytes(config->cell_count), 16-aligned, stays the caller's. epoch: the persisted one.
 * cells: cell_count entries. The first actions come with the first TICK (ETCD_GET). */
struct nef_repl *nef_repl_init(void *memory, const struct nef_repl_config *config, uint64_t epoch,
                               const struct nef_repl_cell_start *cells, uint64_t now);

void nef_repl_step(struct nef_repl *repl, const struct nef_event *event,
                   struct nef_actions *out_actions);

/* ---- what the runtime and operators may know ------------------------------------------------------ */

enum nef_role {
    NEF_ROLE_STARTING,    /* waits one lease, reads etcd */
    NEF_ROLE_OUT,         /* knows that it is not in sync and isn't catching up yet */
    NEF_ROLE_CATCHING_UP,
    NEF_ROLE_BACKUP,      /* in sync */
    NEF_ROLE_SEEKING,     /* compare-and-swap under way, or won and waiting for leases to run out */
    NEF_ROLE_PRIMARY,
    NEF_ROLE_STOPPED,     /* rolled back, failed disk, or configuration lost: err says which */
};

struct nef_repl_status {
    enum nef_role role;
    nef_err err;              /* why STOPPED */
    struct nef_group group;   /* as adopted */
    int32_t self;             /* own member index, -1 if none */
    int32_t primary;          /* member index, -1 unknown */
    int32_t primary_peer;     /* link to the primary, -1: self or unknown */
    uint32_t in_sync_count;
    bool blocked; /* we catch up, and the primary can't read what we need next: from here on in this cell */
    uint32_t blocked_cell;
    uint64_t blocked_offset;
    bool cas_pending;
    uint64_t serve_until;
    struct {
        bool up;
        struct nef_id replica;
        uint64_t incarnation;
        uint64_t epoch;
        uint64_t last_heard;      /* ns */
        uint64_t free_bytes;
        bool in_sync, catching_up;
        uint64_t bytes_left;      /* catch-up */
        bool blocked;             /* it lacks a record that can't be read here, at this place */
        uint32_t blocked_cell;
        uint64_t blocked_offset;
        uint64_t durable[NEF_CELL_MAX]; /* acknowledged */
    } peers[NEF_PEER_MAX];
    struct {
        uint64_t end, durable, commit;
    } cells[NEF_CELL_MAX];
};

void nef_repl_status(const struct nef_repl *repl, struct nef_repl_status *out_status);

#endif
