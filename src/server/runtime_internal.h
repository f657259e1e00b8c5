/* Inside of the runtime: what its files share. See runtime.h for what it is.
 *
 *   runtime.c   start and stop
 *   core.c      the core thread: queue of events, execution of actions
 *   cell.c      a cell's sync and apply threads, its gate
 *   cell_log.c  a cell's log: what the core writes, cuts and skips
 *   propose.c   proposals of this process: table by number, waiting callers, time-outs
 *   read.c      the read gate and the waiting readers (R4, R5)
 *   peer.c      links: frames over TLS, queues, payload checks
 *   repair.c    links: one record asked of a peer, and written over a damaged one
 *   dial.c      links: connecting, accepting, greeting
 *   group.c     the etcd thread; struct nef_group <-> JSON
 *   upkeep.c    background: segments ahead, space, who asked to be called later
 *   maintain.c  background: the primary's proposals: region, accepted loss, checkpoints, compaction
 *   lost.c      background: what cuts left aside
 *   clocks.c    background: this clock beside peer's and witness's
 *   members.c   background: which of etcd's members are well
 *   scrub.c     background: scrub, repair, comparison of digests
 *   status.c    statistics and the JSON of `nef status`
 *
 * Lock order: props.lock, cell->lock, link->lock and the others are never held together, nor across I/O
 * or a callback; queue_lock alone may be taken under any of them (post). */
#ifndef NEF_SERVER_RUNTIME_INTERNAL_H
#define NEF_SERVER_RUNTIME_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/file.h"
#include "crypto/crypto.h"
#include "io/etcd.h"
#include "io/tls.h"
#include "repl/gate.h"
#include "repl/message.h"
#include "repl/repl.h"
#include "seglog/seglog.h"
#include "server/config.h"
#include "server/runtime.h"
#include "store/store.h"

#define GATE_ENTRIES        16384u
#define QUEUE_PAYLOAD_MAX   (64u << 20) /* bytes of messages waiting for the core: then links stop reading */
#define LINK_QUEUE_MAX      (2 * NEF_PROPOSAL_MEMORY) /* memory of frames queued to one peer, more than all
                                         * proposals have: beyond it, frames are dropped and the link is
                                         * closed (the core sends again) */

/* ---- payloads: bytes the core knows by handle ---- */

struct payload {
    atomic_uint refs;
    uint32_t cell;
    uint32_t bytes;
    uint8_t *data;   /* inside `memory` */
    uint8_t *memory; /* owned */
    uint64_t number; /* a local proposal's; 0: from a peer */
    uint32_t queued; /* core thread: 1 + the peer whose link was given it last; 0: none */
};
/* Takes memory, of which [data, data + bytes) is the payload; NULL: out of memory, then it isn't taken. */
struct payload *payload_new(uint8_t *memory, uint8_t *data, uint32_t bytes, uint32_t cell);
void payload_ref(struct payload *p);
void payload_unref(struct payload *p);

/* ---- events on their way to the core ---- */

struct item {
    struct item *next;
    struct nef_event event;
    struct nef_message message; /* event.message points here */
    struct nef_group *group;    /* owned; event.group points here */
    uint8_t *frame;             /* owned: what message.body points into */
    struct payload *payload;    /* one reference, event.handle */
    uint32_t link_generation;
};
struct item *item_new(enum nef_event_type type);
void item_free(struct item *item);

/* ---- cells ---- */

struct reader { /* a read that waits */
    struct reader *next;
    uint64_t until;
    void (*wake)(void *context);
    void *context;
    uint64_t give_up_ns;
};

struct cell {
    struct nef_runtime *rt;
    uint32_t number;
    struct nef_dir *dir;
    struct nef_log *log;

    pthread_t sync_thread, apply_thread;
    pthread_mutex_t lock;
    pthread_cond_t sync_wanted_cond, idle_cond, apply_cond;
    /* under lock */
    bool sync_wanted, sync_running, apply_running, hold; /* hold: cut or skip under way, nobody starts */
    bool rebuild;       /* the log has a hole: index from the checkpoint before anything is applied */
    uint64_t commit;    /* apply up to here */
    uint64_t end;       /* log end, as marked in the gate */
    uint64_t unmarked_until; /* the log at the start, whose ops have no marks of their own but one for all */
    struct nef_gate *gate;
    struct reader *readers;
    bool rebuilt_at_start; /* the index was found corrupt by the process before: set before the threads */
    _Atomic bool index_full; /* the index's disk has no space: nothing can be applied */

    _Atomic uint64_t applied;
    _Atomic uint64_t appended_runs, appended_bytes; /* as primary: what was proposed to this cell, by whomever */
};

/* ---- links ---- */

enum conn_kind { CONN_CTL, CONN_BULK, CONN_KINDS };
enum frame_kind { FRAME_CORE = 1, FRAME_FETCH, FRAME_FETCHED, FRAME_CLOCK, FRAME_DIGEST };

struct frame { /* waiting to be sent */
    struct frame *next;
    uint8_t *head; /* encoded, owned */
    uint32_t head_bytes;
    struct payload *payload; /* or NULL */
    bool from_log;           /* body is log bytes */
    uint32_t cell;
    uint64_t offset;
    uint32_t body_bytes;     /* of payload or log */
};

struct conn {
    struct link *link;
    enum conn_kind kind;
    pthread_t thread;
    bool thread_started;
    int fd; /* -1: none */
    int wake_fd;
    SSL *ssl;
};

struct link {
    struct nef_runtime *rt;
    uint32_t peer; /* index in events */
    const char *zone;
    const struct nef_host_port *address;
    bool dials; /* this side connects: of two zones the one whose name sorts first */
    pthread_t dial_thread;
    bool dial_started;

    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* under lock */
    uint32_t generation; /* of the pair of connections; rises with each */
    uint64_t nonce;      /* pairs ctl and bulk */
    bool have[CONN_KINDS];
    bool up;             /* both there, PEER_UP posted */
    _Atomic bool broken; /* to be torn down; written under lock, read by the connections without */
    struct conn conns[CONN_KINDS];
    struct frame *first[CONN_KINDS], *last[CONN_KINDS];
    uint64_t queued_bytes[CONN_KINDS];
    uint32_t users; /* connection threads inside */
    /* the answer to a FETCH, one at a time */
    uint64_t fetch_id;
    uint8_t *fetched;
    uint32_t fetched_bytes;
    bool fetch_done;
    nef_err fetch_err;
    pthread_mutex_t fetch_lock; /* one fetch at a time; taken before `lock` */

    _Atomic int64_t clock_difference_ms; /* peer's wall minus ours; INT64_MIN: unknown */
    _Atomic uint64_t bytes_sent, bytes_received;
};

/* ---- proposals of this process ---- */

struct prop {
    struct prop *next; /* hash chain */
    uint64_t number;
    uint32_t bytes;
    uint64_t give_up_ns;
    nef_propose_fn done;
    void *context;
};
#define PROP_BUCKETS 4096u
struct props {
    pthread_mutex_t lock;
    struct prop *chains[PROP_BUCKETS];
    uint64_t next_number;
    uint32_t count;
    uint64_t bytes;
    struct reader *rooms; /* uploads that wait for room */
    bool closed;
};

#define GREETING_MAX 16u /* handshakes of strangers at a time */
#define DIGESTS      4096u
#define SCRUB_WANTED 16u
struct digest {
    uint32_t cell;
    uint64_t segment;
    bool have_ours, have_theirs;
    uint8_t ours[32], theirs[32];
};

struct nef_runtime {
    const struct nef_zone_config *config;
    struct nef_keys *keys;
    struct nef_store *store;
    struct nef_dir *dir;
    int lock_fd;
    struct nef_id region, replica;
    uint64_t incarnation;
    uint32_t cell_count;
    uint64_t segment_bytes;

    struct cell cells[NEF_CELL_MAX];
    struct link links[NEF_PEER_MAX];
    uint32_t link_count;
    struct props props;

    /* the core and its queue */
    pthread_t core_thread;
    void *core_memory;
    struct nef_repl *core;
    struct nef_actions *actions; /* core thread */
    uint64_t random[512];        /* core thread: bits for the next events */
    uint32_t random_left;        /* pairs of them */
    pthread_mutex_t queue_lock;
    pthread_cond_t queue_cond;
    struct item *queue_first, *queue_last; /* under queue_lock */
    bool queue_stop;
    _Atomic uint64_t queue_payload_bytes;

    /* reading: written by the core thread, read by all (release/acquire on serve_until) */
    _Atomic uint64_t serve_until, serve_epoch;
    pthread_mutex_t serve_lock;
    struct reader *serve_readers; /* wait for a lease; under serve_lock */

    /* status: a copy for others, under status_lock */
    pthread_mutex_t status_lock;
    struct nef_repl_status status;
    uint64_t status_ns;
    uint64_t failovers;
    uint64_t last_served_ns, not_ready_since_ns;
    bool ever_served;
    struct catch_up { /* where the current catch-up of a peer began, for its ETA */
        uint64_t since_ns, first_left;
    } catch_up[NEF_PEER_MAX];

    /* etcd thread */
    pthread_t etcd_thread;
    pthread_mutex_t etcd_lock;
    pthread_cond_t etcd_cond;
    bool etcd_get, etcd_cas, etcd_stop; /* under etcd_lock */
    struct nef_group etcd_group;
    uint64_t etcd_revision;
    struct nef_etcd *etcd;

    /* listener of the peers */
    int listen_fd;
    pthread_t accept_thread;
    bool accepting;
    SSL_CTX *tls_server, *tls_client;
    atomic_uint greeting; /* connections that are in their handshake */
    pthread_mutex_t guests_lock;
    struct guest_slot {
        int fd; /* 0: free */
        uint64_t until_ns;
    } guests[GREETING_MAX]; /* those whose time runs */

    /* background */
    pthread_t upkeep_thread, maintain_thread, clocks_thread, scrub_thread, members_thread;
    /* enum nef_seen: etcd's members, in the configuration's order (members.c); the witness (clocks.c) */
    atomic_uint etcd_member[NEF_ETCD_MEMBERS_MAX], witness_seen;
    _Atomic bool clock_settled; /* compared with another one since the start, or nobody is there to compare with */
    pthread_mutex_t later_lock;
    struct later *later; /* under later_lock, and so the two below */
    uint32_t later_count;
    bool later_closed;
    _Atomic bool stopping; /* threads end */
    _Atomic bool draining; /* not ready any more */
    _Atomic bool closed;   /* no core any more: reads are refused */
    bool frozen;           /* the core thread was joined */
    bool threads_started;

    /* what both zones' scrubs found, a hash of segments; under digest_lock */
    pthread_mutex_t digest_lock;
    struct digest digests[DIGESTS];
    struct wanted { /* stretches of log in which sending met a bad record: the scrub thread repairs it */
        uint32_t cell, tries;
        uint64_t from, to;
    } wanted[SCRUB_WANTED];
    uint32_t wanted_count;

    /* the end */
    int end_fd; /* eventfd: nef_runtime_wake, or the core's STOP */
    _Atomic int end_err;

    /* counters */
    _Atomic uint64_t sync_count, sync_ns_sum, sync_buckets[16];
    struct sync_window { /* the longest sync in 10 s; this window and the one before; under status_lock */
        uint64_t number, ns_max;
    } sync_windows[2];
    _Atomic uint64_t bytes_appended, scrub_bytes, scrub_bad, scrub_repaired, scrub_passes;
    _Atomic uint64_t scrub_compared, scrub_different;
    _Atomic uint64_t free_bytes, total_bytes;
    _Atomic uint64_t lost_accepted, lost_tails, lost_removed; /* bytes in DIR/lost/, and removed from there */
};

/* runtime.c */
void thread_name(const char *format, ...) NEF_PRINTF(1, 2); /* of the caller, for top and perf */
uint64_t now_ns(void);

/* core.c */
#define NEF_EPOCH_FILE "epoch"
NEF_MUST_CHECK nef_err epoch_write(const struct nef_runtime *rt, uint64_t epoch); /* durable on return */
void *core_main(void *argument);
void core_queries(struct nef_runtime *rt, struct nef_repl_config *config); /* what the core asks of the logs */
void core_publish(struct nef_runtime *rt);                                /* its status, for others */
void core_serve(struct nef_runtime *rt, uint64_t until);
void post(struct nef_runtime *rt, struct item *item);
void post_simple(struct nef_runtime *rt, enum nef_event_type type, uint32_t cell, uint64_t offset);
void end_runtime(struct nef_runtime *rt, nef_err err);

/* cell.c */
NEF_MUST_CHECK nef_err cell_open(struct cell *cell, struct nef_log_recovery *out_recovery);
NEF_MUST_CHECK nef_err cell_start(struct cell *cell);
NEF_MUST_CHECK nef_err cell_rebuild_wanted(struct cell *cell); /* before the store is opened */
void cell_stop(struct cell *cell);
void cell_close(struct cell *cell);
NEF_MUST_CHECK nef_err cell_append(struct cell *cell, const struct nef_action *action);
NEF_MUST_CHECK nef_err cell_mark(struct cell *cell, const struct nef_action *action);
NEF_MUST_CHECK nef_err cell_write(struct cell *cell, const struct nef_action *action,
                                  const struct payload *payload);
NEF_MUST_CHECK nef_err cell_cut(struct cell *cell, uint64_t to);
NEF_MUST_CHECK nef_err cell_skip(struct cell *cell, uint64_t to);
uint64_t cell_whole_records(struct cell *cell, uint64_t offset, uint64_t bytes_max); /* whole runs, even */
void cell_sync(struct cell *cell);
uint64_t sync_longest(struct nef_runtime *rt, uint64_t now); /* of the last 10 s at least; under status_lock */
void cell_commit(struct cell *cell, uint64_t until);
void cell_wake_readers(struct cell *cell, uint64_t now);

/* propose.c */
void props_init(struct props *props);
void props_applied(void *context, uint32_t cell, uint64_t proposer, uint64_t number,
                   const struct nef_outcome *outcome, uint64_t end);
void props_refuse(struct nef_runtime *rt, uint64_t number, nef_err err);
void props_sweep(struct nef_runtime *rt, uint64_t now);
void props_close(struct nef_runtime *rt);

/* read.c */
void readers_serve(struct nef_runtime *rt); /* leases changed: wake who waits for one */
void readers_sweep(struct nef_runtime *rt, uint64_t now);

/* peer.c */
/* Whole records of CELL with good checksums, at OFFSET and after it, inside one segment. The bodies of erased
 * ones become zeros: the sender may not have made its hole yet (the header is marked first). out_good: bytes
 * before the first bad record, if there is one before it; else untouched. */
bool log_bytes_good(const struct nef_runtime *rt, uint8_t *data, uint32_t bytes, uint32_t cell, uint64_t offset,
                    uint32_t *out_good);
/* Not must-check: a frame that is lost is the protocol's business. */
nef_err link_send(struct link *link, enum conn_kind kind, struct frame *frame);
struct frame *frame_core(const struct nef_message *message);
struct frame *frame_plain(enum frame_kind kind, const void *body, uint32_t bytes);
void link_send_clock(struct link *link);
void frame_free(struct frame *frame);
void *conn_main(void *argument);
void link_close(struct link *link, const char *why);

/* repair.c; for peer.c: frames that ask and answer. NEF_E_PROTOCOL: they can't be of an honest peer. */
NEF_MUST_CHECK nef_err answer_fetch(struct conn *conn, struct nef_reader *r);
NEF_MUST_CHECK nef_err take_fetched(struct conn *conn, struct nef_reader *r);

/* dial.c */
NEF_MUST_CHECK nef_err links_start(struct nef_runtime *rt);
void links_stop(struct nef_runtime *rt);

/* group.c */
NEF_MUST_CHECK nef_err group_start(struct nef_runtime *rt);
/* Another handle with the configuration's members and certificates. */
NEF_MUST_CHECK nef_err etcd_open(struct nef_runtime *rt, uint32_t timeout_ms, struct nef_etcd **out_etcd);
void group_stop(struct nef_runtime *rt);
void group_ask(struct nef_runtime *rt);
void group_swap(struct nef_runtime *rt, const struct nef_group *group, uint64_t revision);
NEF_MUST_CHECK nef_err group_to_json(const struct nef_group *group, struct nef_buf *out);
NEF_MUST_CHECK nef_err group_from_json(const char *text, size_t bytes, struct nef_group *out_group);

/* upkeep.c; starts and stops all of the background */
NEF_MUST_CHECK nef_err upkeep_start(struct nef_runtime *rt);
void upkeep_stop(struct nef_runtime *rt);
void later_close(struct nef_runtime *rt); /* call all who wait; nobody is taken any more */

/* maintain.c, clocks.c, members.c */
void *maintain_main(void *argument);
void *clocks_main(void *argument);
void *members_main(void *argument);

/* lost.c */
#define LOST_TAIL "tail-" /* names in DIR/lost/ of what a failover made void begin so */
void lost_check(struct nef_runtime *rt, bool first); /* upkeep thread, some times a minute */

/* status.c */
void note_serving(struct nef_runtime *rt, uint64_t now);
bool ready(const struct nef_runtime *rt, uint64_t now); /* under status_lock */

/* scrub.c */
void *scrub_main(void *argument);
NEF_MUST_CHECK nef_err scrub_digest(struct nef_runtime *rt, struct nef_reader *r);
void scrub_forget(struct nef_runtime *rt, uint32_t cell, uint64_t from, uint64_t to);
/* What is to be sent can't be read: the first bad record lies in [from, to). Never blocks. */
void log_unreadable(struct nef_runtime *rt, uint32_t cell, uint64_t from, uint64_t to);

#endif
