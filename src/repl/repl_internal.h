/* Inside of the replication core: its state, and who may change which part of it.
 *
 *   repl.c       init, step (the order in which the parts run), status
 *   epoch.c      records: adopting them, etcd, compare-and-swap, elections, recover
 *   lease.c      leases held and given, when this replica acts, SERVE
 *   primary.c    appending, streaming to peers, commit, stalls, marks, handover
 *   backup.c     following: STATE, APPEND, syncs of every role
 *   catchup.c    JOIN, JOINED, the cut; counting and adding a joiner (R6)
 *   proposals.c  local proposals until they are applied
 *   message.c    wire format
 *
 * A part changes its own state and emits actions; what another part must do follows from the state when
 * that part's *_run is called at the end of the step. No part calls back into an earlier one. */
#ifndef NEF_REPL_INTERNAL_H
#define NEF_REPL_INTERNAL_H

#include <string.h>
#include "base/assert.h"
#include "base/logaddr.h"
#include "repl/message.h"
#include "repl/repl.h"

/* Known bugs, one per build (meson option `mutation`), that prove that the simulator would find them.
 * Each is one condition at one place; docs/protocol.md lists them with the seeds that find them. */
#ifndef NEF_MUTATION
#define NEF_MUTATION 0
#endif
#define NEF_MUTATION_IS(n) (NEF_MUTATION == (n))

/* Timing that is no setting because nobody should have to choose it. */
#define NEF_MS              1000000ull
#define MARK_IDLE_NS        (50 * NEF_MS)    /* a cell idle that long gets a MARK */
#define JOIN_RETRY_NS       (200 * NEF_MS)   /* an unanswered JOIN */
#define REWIND_NS           (500 * NEF_MS)   /* sent, and no progress that long: send again */
#define GAP_REWIND_NS       (50 * NEF_MS)    /* least time between rewinds because of reported gaps */
#define HANDOVER_NS         (500 * NEF_MS)   /* to drain, and then for the backup's compare-and-swap */
#define QUIET_NS_MIN        (1000 * NEF_MS)  /* R9: before a stalled peer is counted again; doubles */
#define QUIET_NS_MAX        (60000 * NEF_MS)
#define QUIET_RESET_NS      (300000 * NEF_MS) /* of 2/2, after which the quiet time starts anew */
#define UNREADABLE_NS_MIN   (1000 * NEF_MS)  /* before a record of ours that couldn't be read is tried again; */
#define UNREADABLE_NS_MAX   (60000 * NEF_MS) /* doubles */

#define GRANTS_MAX  (2u * NEF_REPLICA_MAX)
#define ARENA_BYTES (192u << 10) /* bodies of one step: 3 peers' JOINED and STATEs fit, see has_room */

enum follow {
    FOLLOW_NONE,        /* the peer has no session with us */
    FOLLOW_RECONCILING, /* JOINED was sent; its log is being cut */
    FOLLOW_STREAMING,   /* its STATE says where its log ends, and APPENDs go there */
};

struct peer_cell {
    uint64_t end;     /* received there, in this session */
    uint64_t durable; /* acknowledged in this session and epoch */
    uint64_t sent;
    uint64_t goal;    /* what must be durable there before it may be added (R6) */
    uint64_t watch;   /* R9: this offset waits for its acknowledgement since watch_since */
    uint64_t watch_since;
    uint64_t progress_at; /* end last moved, or nothing was under way */
    uint64_t rewound_at;  /* because of a reported gap */
};

struct peer {
    bool up;
    bool known; /* replica and incarnation are, by a message on this link */
    struct nef_id replica;
    uint64_t incarnation;
    char zone[NEF_ZONE_NAME_MAX + 1]; /* as it said in JOIN */
    uint64_t epoch;                   /* of its last message */
    uint64_t last_heard;
    uint64_t down_since;
    uint64_t free_bytes;
    uint32_t flags;
    uint64_t group_told_at;
    bool state_due;
    bool gap[NEF_CELL_MAX]; /* as its backup: to report with the next STATE */
    /* leases */
    uint64_t lease_request; /* its latest, on its clock; 0: none in this link */
    uint64_t lease_until;   /* that it granted us, valid in lease_epoch only */
    uint64_t lease_epoch;
    /* as its primary */
    enum follow follow;
    uint64_t session;
    uint64_t stream_epoch; /* epoch of the STATE that the cells below come from */
    uint64_t follow_since; /* when `follow` last became NONE or STREAMING */
    bool rejoin_lost;      /* in sync, but its log ends before what was acknowledged: must go (R10) */
    bool counted;          /* joins: counts for R1 and R4 already */
    uint64_t counted_at;
    uint64_t count_not_before;
    uint64_t quiet_ns;
    struct peer_cell cells[NEF_CELL_MAX];
};

struct cell {
    uint64_t end, durable, commit;
    uint64_t commit_told;
    uint64_t base;           /* end when we became primary: reads wait until commit has passed it */
    uint64_t primary_commit; /* as the primary said in this session */
    bool syncing;
    uint64_t sync_since;
    bool must_cut;           /* damaged at `end`: cut there before anything is appended */
    bool cut_wanted, skip_wanted, cutting;
    uint64_t cut_to, skip_to;
    uint64_t join_epoch;     /* of the primary's records just before the place where its stream begins */
    uint64_t appended_at;
    bool mark_due;           /* the last record isn't a MARK */
    /* as primary: our log can't be read at bad_at, and isn't tried again before bad_until; wait 0: it can */
    uint64_t bad_at, bad_until, bad_wait;
    bool primary_bad;        /* as its joiner: the primary says that of what we need next */
    struct nef_epoch_table epochs;
};

enum following { FOLLOWING_NOT, FOLLOWING_ASKED, FOLLOWING_CUTTING, FOLLOWING_YES };

struct proposal {
    uint64_t number, handle;
    uint64_t sent_at;
    uint32_t cell, bytes;
    uint16_t next, prev;      /* in the free, waiting or out list */
    uint16_t hash_next;
    bool out;
    bool tried; /* was out before: it is admitted, and may be in a log already */
    bool frees_space;
};

#define NO_PROPOSAL 0xffffu
_Static_assert(NEF_PROPOSALS_MAX < NO_PROPOSAL, "16-bit links");

struct proposal_list {
    uint16_t first, last;
};

struct proposals {
    uint32_t count;
    uint16_t free;
    struct proposal_list waiting; /* to be appended or sent, in order */
    struct proposal_list out;     /* appended or sent, in the order of that */
    uint16_t hash[NEF_PROPOSALS_MAX];
    struct proposal at[NEF_PROPOSALS_MAX];
};

struct nef_repl {
    struct nef_repl_config config;
    uint64_t started;
    uint64_t now;
    uint64_t random[2];
    struct nef_actions *out;

    /* ---- epoch.c ---- */
    bool dead;        /* after NEF_EV_FAILED: nothing happens any more */
    bool config_lost; /* etcd has no record but we have a log */
    nef_err unfit;    /* damaged or rolled back: not in sync whatever the record says */
    struct nef_group group;    /* adopted: durable here, obeyed */
    struct nef_group adopting; /* seen, epoch > group.epoch, waits for PERSISTED; epoch 0: none */
    uint64_t group_at;         /* when it was adopted */
    uint64_t persisted;        /* epoch */
    uint64_t persisting;       /* PERSIST of this epoch is under way; 0: none */
    int32_t self;              /* index in group, -1 */
    bool won;                  /* we are primary of group.epoch by our own compare-and-swap */
    uint64_t won_nonce[2];
    struct {
        bool known;        /* revision and epoch are what etcd last said */
        uint64_t revision;
        uint64_t epoch;
        bool get_wanted, get_in_flight;
        uint64_t asked_at;
        bool cas_in_flight; /* a call without answer yet, of this or an earlier change */
        uint64_t poll_at;
    } etcd;
    struct {
        bool pending; /* until the record's revision is seen to have changed (R2) */
        struct nef_group group;
        uint64_t revision;
        uint64_t since;
        uint64_t retry_at;
        bool stale_answer; /* the call in flight belongs to a change that is settled */
    } cas;
    bool recover;
    uint32_t recover_answers; /* of etcd, until one tells what it holds since the operator's word */
    uint32_t handover_asked; /* as backup: 1 drained, 2 take over alone */
    uint64_t handover_until;

    /* ---- lease.c ---- */
    struct {
        struct nef_id replica;
        uint64_t until;
    } grants[GRANTS_MAX];
    uint64_t act_at;
    bool acting;
    uint64_t serve_until; /* as told by the last SERVE */

    /* ---- primary.c ---- */
    uint64_t session_last;
    bool draining, drain_sent;
    bool drain_wanted; /* operator */
    uint32_t drain_peer;
    uint64_t drain_until;
    uint64_t drain_not_before;
    bool own_stalled;

    /* ---- backup.c, catchup.c ---- */
    enum following following;
    uint32_t follow_peer;
    uint64_t follow_session;
    uint64_t follow_attempt;
    uint64_t follow_asked_at;
    uint64_t not_following_since;

    uint64_t free_bytes;
    bool no_space;
    bool flush; /* this step also emits syncs, streams and due STATEs */
    uint64_t heartbeat_at;

    struct proposals proposals;
    struct peer peers[NEF_PEER_MAX];

    /* what changed since the last STATUS */
    uint64_t status_digest;

    uint32_t arena_used;
    uint8_t arena[ARENA_BYTES];
    struct nef_message messages[NEF_ACTIONS_MAX];
    struct cell cells[]; /* config.cell_count */
};

/* ---- repl.c: emitting -------------------------------------------------------------------------------- */

struct nef_action *nef_repl_emit(struct nef_repl *r, enum nef_action_type type);
/* Room for COUNT more actions, and for a message's body, beside what other parts may need. When not,
 * sets `more` and returns false; the caller keeps its state so that the next step goes on. */
bool nef_repl_room(struct nef_repl *r, uint32_t count);
struct nef_writer nef_repl_body(struct nef_repl *r, uint32_t bytes_max);
/* Message of TYPE with the body written to W; action SEND, SEND_LOG or SEND_PROPOSAL. */
struct nef_action *nef_repl_send(struct nef_repl *r, enum nef_action_type action, uint32_t peer,
                                 enum nef_message_type type, const struct nef_writer *w,
                                 uint32_t payload_bytes);

/* ---- epoch.c ------------------------------------------------------------------------------------------ */

uint64_t nef_repl_seen(const struct nef_repl *r); /* highest epoch seen: everything below is refused */
bool nef_repl_frozen(const struct nef_repl *r);   /* a higher epoch was seen and isn't durable here yet */
bool nef_group_has(const struct nef_group *g, const struct nef_id *replica); /* in sync in g */
int32_t nef_group_index(const struct nef_group *g, const struct nef_id *replica);
/* R1 and R4 count these: in sync in the record or in our pending change, or a counted joiner. */
bool nef_repl_effective(const struct nef_repl *r, const struct nef_id *replica);
bool nef_repl_fit(const struct nef_repl *r); /* in sync by the record, and by our own disk */
int32_t nef_repl_peer_of(const struct nef_repl *r, const struct nef_id *replica); /* -1: no link */
int32_t nef_repl_primary_peer(const struct nef_repl *r);
uint64_t nef_repl_log_start(const struct nef_repl *r, uint32_t cell);
void nef_epoch_adopt(struct nef_repl *r, const struct nef_group *group);
void nef_epoch_persisted(struct nef_repl *r, uint64_t epoch);
void nef_epoch_etcd_record(struct nef_repl *r, const struct nef_group *group, uint64_t revision);
void nef_epoch_etcd_swapped(struct nef_repl *r, const struct nef_event *ev);
void nef_epoch_etcd_failed(struct nef_repl *r);
void nef_epoch_tell(struct nef_repl *r, uint32_t peer); /* GROUP */
bool nef_repl_suspect(const struct nef_repl *r, const struct nef_id *replica);
/* Ask etcd for NEXT: epoch, nonce and revision are filled in here. Only when nothing is pending and
 * etcd's revision of the adopted record is known (nef_epoch_can_swap). */
bool nef_epoch_can_swap(struct nef_repl *r);
void nef_epoch_swap(struct nef_repl *r, struct nef_group *next);
/* As primary: what every member in sync of NEXT is known to hold durably. */
void nef_epoch_first_offsets(const struct nef_repl *r, struct nef_group *next);
void nef_epoch_run(struct nef_repl *r);

/* ---- lease.c ------------------------------------------------------------------------------------------ */

uint64_t nef_lease_grant(struct nef_repl *r, struct peer *p); /* lease_grant for a STATE to p */
void nef_lease_granted(struct nef_repl *r, struct peer *p, uint64_t grant);
bool nef_lease_held(const struct nef_repl *r, const struct peer *p);
void nef_lease_act(struct nef_repl *r);   /* recompute act_at and acting */
void nef_lease_serve(struct nef_repl *r); /* emit SERVE if it changed */

/* ---- primary.c ---------------------------------------------------------------------------------------- */

bool nef_primary_appends(const struct nef_repl *r); /* may place proposals now */
void nef_primary_append(struct nef_repl *r, uint32_t cell, uint64_t handle, uint64_t number,
                        uint32_t bytes);
void nef_primary_forget(struct nef_repl *r, struct peer *p); /* end its session */
void nef_primary_state(struct nef_repl *r, struct peer *p, const struct nef_state *s);
void nef_primary_streams(struct nef_repl *r);
void nef_primary_run(struct nef_repl *r);
void nef_primary_removed(struct nef_repl *r, const struct nef_id *replica); /* quiet time (R9) */
void nef_primary_commit(struct nef_repl *r);
bool nef_primary_no_space(const struct nef_repl *r);
bool nef_primary_lost(const struct nef_repl *r, const struct nef_id *replica); /* must be removed */
void nef_primary_unreadable(struct nef_repl *r, uint32_t cell, uint64_t offset);
/* What P needs next of CELL can't be read here. */
bool nef_primary_blocks(const struct nef_repl *r, const struct peer *p, uint32_t cell);

/* ---- backup.c ----------------------------------------------------------------------------------------- */

void nef_backup_unfollow(struct nef_repl *r);
void nef_backup_append(struct nef_repl *r, uint32_t peer, const struct nef_event *ev);
void nef_backup_state(struct nef_repl *r, uint32_t peer, const struct nef_state *s);
void nef_backup_synced(struct nef_repl *r, uint32_t cell, uint64_t offset);
void nef_backup_syncs(struct nef_repl *r);
void nef_backup_send_state(struct nef_repl *r, uint32_t peer);
void nef_backup_commits(struct nef_repl *r); /* emit COMMIT where it moved */
void nef_state_due(struct nef_repl *r);      /* to every peer, with the next flush */

/* ---- catchup.c ---------------------------------------------------------------------------------------- */

void nef_table_add(struct nef_epoch_table *t, uint64_t epoch, uint64_t offset);
void nef_table_cut(struct nef_epoch_table *t, uint64_t end);
void nef_catchup_join(struct nef_repl *r, uint32_t peer, const struct nef_message *m);
void nef_catchup_joined(struct nef_repl *r, uint32_t peer, const struct nef_message *m);
void nef_catchup_cut_done(struct nef_repl *r, uint32_t cell);
bool nef_catchup_cutting(const struct nef_repl *r); /* now, or as soon as syncs have come back */
void nef_catchup_follower(struct nef_repl *r); /* send JOIN, emit cuts */
void nef_catchup_primary(struct nef_repl *r);  /* count, uncount and add joiners */

/* ---- proposals.c -------------------------------------------------------------------------------------- */

void nef_proposals_init(struct nef_repl *r);
void nef_proposals_propose(struct nef_repl *r, const struct nef_event *ev);
void nef_proposals_done(struct nef_repl *r, uint64_t number);
void nef_proposals_again(struct nef_repl *r); /* everything outstanding waits again */
void nef_proposals_from_peer(struct nef_repl *r, const struct nef_event *ev);
void nef_proposals_run(struct nef_repl *r);

#endif
