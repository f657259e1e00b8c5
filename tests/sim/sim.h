/* Deterministic simulator of a group of replicas: world, disks, network, etcd, clients, faults, checker.
 *
 * One seed is one run: everything random comes from sim->random, events with equal time keep the order
 * in which they were made, and nothing looks at a pointer or a clock. README.md has the legend of
 * the trace, the faults and what is checked. The only code under test is src/repl; what the server's
 * runtime does around it (executing actions, applying, answering reads) is modelled in node.c and
 * clients.c by the contract of repl.h, gate.h and outcomes.h.
 *
 * Files: events.c (queue, random, trace) disk.c (logs of records) net.c (links, messages) etcd.c node.c
 * (one process: steps, actions, apply) clients.c (requests, histories) checker.c (invariants)
 * linear.c (linearizability) faults.c (random schedules) main.c (seeds) scenarios_test.c, catchup_test.c and
 * story.c (stories). */
#ifndef NEF_SIM_H
#define NEF_SIM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include "repl/gate.h"
#include "repl/message.h"
#include "repl/outcomes.h"
#include "repl/repl.h"
#include "repl/repl_internal.h" /* the checker looks inside; nothing here changes it */

#define NODES_MAX   3u
#define CELLS       2u
#define KEYS        6u   /* key k lives in cell k % CELLS */
#define CLIENTS_MAX 9u
#define OPS_MAX     640u
#define OPS_OF_KEY_MAX 120u
#define EPOCHS_MAX  256u
#define SEGMENT     16384u
#define MS          NEF_MS
#define US          1000ull
#define SECOND      (1000 * MS)
#define FAULTS_END  (5000 * MS) /* then everything is healed and must become well */

/* ---- disk.c ------------------------------------------------------------------------------------------ */

enum op { OP_NONE, OP_PUT, OP_CREATE, OP_REPLACE, OP_DELETE, OP_GET };
enum record_kind { RECORD_OP, RECORD_PAD, RECORD_MARK };

struct record {
    uint64_t offset;
    uint64_t uid; /* made when it was first appended; a copy has the same: stands for the bytes */
    uint64_t epoch;
    uint64_t synced_before;
    uint64_t proposer, number;
    uint32_t bytes;
    uint32_t value, expected;
    int64_t wall_ms; /* the primary's wall clock, as it was */
    uint8_t kind, op, key;
    bool bad; /* torn, lost or corrupt on this disk */
};

struct log {
    struct record *at;
    uint32_t count, capacity;
    uint64_t start, end;
    uint64_t durable; /* survives a crash */
    /* what was skipped because the primary had dropped it, and from where on the index is complete */
    uint64_t hole_from, hole_to, base;
    uint64_t dropped_by; /* end of the records because of which segments were dropped or skipped; 0: none were */
    /* a cut that isn't durable yet: what a crash may bring back */
    struct record *kept;
    uint32_t kept_count;
    uint64_t kept_start, kept_end, kept_durable, kept_hole_from, kept_hole_to, kept_base;
};

void log_init(struct log *l);
void log_free(struct log *l);
void log_copy(struct log *to, const struct log *from);
void log_push(struct log *l, const struct record *r);
uint32_t log_find(const struct log *l, uint64_t offset); /* first record at or after OFFSET */
void log_truncate(struct log *l, uint64_t to);
void log_drop(struct log *l, uint64_t to);
void log_skip(struct log *l, uint64_t to);
bool log_in_hole(const struct log *l, uint64_t offset);
uint64_t record_end(const struct record *r);

struct sim;
/* What power loss does to the unsynced suffix; then what recovery makes of it. */
void log_crash(struct sim *s, struct log *l);
void log_recover(struct log *l, struct nef_repl_cell_start *out);

/* ---- nodes ------------------------------------------------------------------------------------------- */

struct disk {
    struct nef_id replica;
    uint64_t epoch;
    struct log logs[CELLS];
};

struct waiting_read {
    bool used;
    uint32_t op;
    uint64_t wait; /* apply must have passed this */
    bool listing, noted;
};

struct node {
    struct sim *sim;
    uint32_t index;
    char name;
    struct disk disk;
    double drift;         /* of its clock */
    uint64_t clock_offset;
    bool disk_lost; /* rolled back or damaged while in sync: until the record is without it */
    struct disk snapshot; /* an old copy, for a rollback */
    bool has_snapshot;
    int64_t wall_step_ms; /* its wall clock is off by so much */
    /* process */
    bool alive, stopped_for_good, failed;
    uint32_t life; /* events of an earlier process are dropped */
    uint64_t paused_until;
    uint64_t incarnation;
    void *memory;
    struct nef_repl *repl;
    uint64_t tick_at;
    bool flush_due;
    int64_t crash_in; /* actions until it crashes; < 0: no */
    uint64_t restart_after;
    uint64_t serve_until;
    uint64_t seen_epoch;      /* highest that it persisted or asked to */
    uint64_t persist_pending;
    uint64_t sync_at[CELLS];  /* when the sync under way began; 0: none */
    uint64_t next_number;
    bool link_up[NODES_MAX];  /* as this process was told, by node */
    enum nef_role role;
    uint64_t role_epoch;
    /* apply */
    uint64_t committed[CELLS], applied[CELLS];
    bool apply_due[CELLS];
    bool rebuilding; /* the index: nobody is answered */
    uint32_t values[KEYS];
    void *outcome_memory[CELLS], *gate_memory[CELLS];
    struct nef_outcomes *outcomes[CELLS];
    struct nef_gate *gates[CELLS];
    struct waiting_read reads[16];
    uint64_t prefix_ok[CELLS]; /* checker: compared with the ledger up to here */
    /* faults */
    bool slow_disk, fail_sync;
    uint64_t unreadable[CELLS]; /* the record at this place can't be read, and so not be sent; 0: none */
    uint64_t slow_apply;
    bool etcd_cut;
    uint32_t cas_outstanding; /* sent and not yet decided by etcd */
};

/* ---- net.c ------------------------------------------------------------------------------------------- */

struct packet {
    uint8_t *frame;
    uint32_t body_bytes;
    struct record *records; /* APPEND: log bytes; PROPOSE: one record */
    uint32_t record_count;
};

struct link {
    bool up;
    uint32_t generation;
    bool cut[2];         /* direction: 0 lower index to higher */
    uint64_t extra[2];   /* delay */
    uint64_t last[2];    /* TCP: nothing overtakes */
};

void net_send(struct sim *s, struct node *from, uint32_t peer, const struct nef_message *m,
              const struct record *records, uint32_t count);
void net_deliver(struct sim *s, uint64_t time, uint32_t from, uint32_t to, uint32_t generation,
                 struct packet *p);
void net_reconnect(struct sim *s);
void net_break(struct sim *s, uint32_t a, uint32_t b, bool notice_a, bool notice_b);
struct link *net_link(struct sim *s, uint32_t a, uint32_t b);
uint32_t node_of_peer(const struct node *n, uint32_t peer);
uint32_t peer_of_node(const struct node *n, uint32_t node);
void packet_free(struct packet *p);

/* ---- etcd.c ------------------------------------------------------------------------------------------ */

struct etcd {
    struct nef_group group;
    uint64_t revision;
    bool down;
    double lose_request, lose_answer, late;
    uint64_t delay;
    /* the last records there were, each at its epoch modulo EPOCHS_MAX */
    struct nef_group history[EPOCHS_MAX];
    uint64_t writer[EPOCHS_MAX]; /* incarnation that won it */
};

void etcd_get(struct sim *s, struct node *n);
void etcd_cas(struct sim *s, struct node *n, const struct nef_group *g, uint64_t revision);
const struct nef_group *etcd_record_of(const struct sim *s, uint64_t epoch);

/* ---- clients.c --------------------------------------------------------------------------------------- */

struct request {
    uint32_t client, node;
    uint8_t op, key;
    uint32_t value, expected;
    uint64_t invoked, returned; /* true time; returned UINT64_MAX: unknown */
    bool done, failed;          /* failed: a condition didn't hold */
    bool dropped;               /* a read without answer: no part of the history */
    uint32_t result;            /* of a GET */
    uint64_t incarnation, number; /* of the process that took it */
};

struct client {
    uint32_t node;
    uint32_t left;
    uint32_t busy; /* request + 1; 0: none */
};

void clients_init(struct sim *s, uint32_t per_node, uint32_t requests);
void client_wake(struct sim *s, uint32_t client);
void client_timeout(struct sim *s, uint32_t request);
uint32_t request_start(struct sim *s, uint32_t client, enum op op, uint32_t key, uint32_t expected);
void request_applied(struct sim *s, struct node *n, uint64_t number, uint32_t code);
void request_refused(struct sim *s, struct node *n, uint64_t number);
void reads_look(struct sim *s, struct node *n); /* reads that may look now */
void read_answer(struct sim *s, uint32_t request, uint32_t value, struct node *n);
void requests_of_dead(struct sim *s, struct node *n);

/* ---- the world --------------------------------------------------------------------------------------- */

enum sim_event_type {
    SIM_TICK, SIM_FLUSH, SIM_DELIVER, SIM_LINK, SIM_SYNCED, SIM_CUT_DONE, SIM_PERSISTED,
    SIM_ETCD_ARRIVE, SIM_ETCD_ANSWER, SIM_APPLY, SIM_CLIENT, SIM_CLIENT_TIMEOUT, SIM_READ_DONE,
    SIM_RECONNECT, SIM_RESTART, SIM_FAULT, SIM_FAULT_END, SIM_UNREADABLE,
};

struct sim_event {
    uint64_t time, sequence;
    enum sim_event_type type;
    uint32_t node, life;
    uint64_t a, b, c;
    void *p;
};

struct ledger { /* what was ever committed, per cell, in order */
    struct record *at;
    uint32_t count, capacity;
    uint64_t end;
};

struct sim {
    uint64_t seed;
    uint64_t random[4];
    uint64_t now; /* true time, ns */
    uint64_t sequence;
    struct sim_event *heap;
    uint32_t heap_count, heap_capacity;
    uint32_t node_count;
    struct node nodes[NODES_MAX];
    struct link links[NODES_MAX][NODES_MAX];
    struct etcd etcd;
    struct nef_repl_config config;
    struct client clients[CLIENTS_MAX];
    uint32_t client_count;
    struct request requests[OPS_MAX];
    uint32_t request_count;
    uint32_t value_last;
    uint64_t uid_last;
    uint64_t replica_last;
    struct ledger ledgers[CELLS];
    /* weather */
    bool tcp;
    double loss;
    uint64_t delay, jitter;
    uint64_t sync_time;
    bool faults_over;
    bool loss_accepted; /* R8: the ledger may be cut */
    uint64_t steps;
    /* results */
    bool failed;
    char failure[512];
    /* trace */
    bool trace_print;
    char *trace;
    uint32_t trace_bytes, trace_capacity;
    struct nef_actions actions;
};

/* ---- events.c ---------------------------------------------------------------------------------------- */

uint64_t sim_random(struct sim *s);
uint64_t sim_below(struct sim *s, uint64_t n); /* 0..n-1 */
uint64_t sim_between(struct sim *s, uint64_t low, uint64_t high);
bool sim_chance(struct sim *s, double p);
struct sim_event *sim_at(struct sim *s, uint64_t time, enum sim_event_type type);
bool sim_pop(struct sim *s, struct sim_event *out);
void sim_trace(struct sim *s, const struct node *n, const char *format, ...) NEF_PRINTF(3, 4);
void sim_fail(struct sim *s, const char *format, ...) NEF_PRINTF(2, 3);

/* ---- node.c ------------------------------------------------------------------------------------------ */

uint64_t node_clock(const struct node *n);              /* now, on its clock */
uint64_t node_true_time(const struct node *n, uint64_t clock);
void node_start(struct node *n);
void node_crash(struct node *n, bool peers_notice);
void node_step(struct node *n, struct nef_event *ev);
void node_restart_later(struct node *n, uint64_t after);
void node_new_disk(struct node *n);
void node_roll_back(struct node *n);
bool node_damage(struct node *n);
void node_unreadable(struct node *n);
void node_drop(struct node *n);
void node_free_proposals(struct node *n);
void node_apply(struct node *n, uint32_t cell);

/* ---- checker.c --------------------------------------------------------------------------------------- */

void check_append(struct node *n, const struct nef_action *a, const struct record *r);
void check_write(struct node *n, const struct nef_action *a, uint64_t epoch);
void check_commit(struct node *n, const struct nef_action *a);
void check_serve(struct node *n);
void check_cas(struct node *n, const struct nef_group *g);
void check_record(struct sim *s); /* etcd's record changed */
void check_grant(struct node *n, const struct nef_message *m);
void check_epoch_action(struct node *n, const struct nef_action *a);
void check_end(struct sim *s);    /* both sides equal after the faults */
bool linearizable(struct sim *s, uint32_t key);

/* ---- faults.c, main ---------------------------------------------------------------------------------- */

void sim_init(struct sim *s, uint64_t seed, uint32_t nodes);
void sim_free(struct sim *s);
void sim_run_until(struct sim *s, uint64_t time);
bool sim_step(struct sim *s);
bool sim_settled(struct sim *s); /* all zones in sync, all clients done */
void sim_dispatch(struct sim *s, struct sim_event *ev);
void faults_schedule(struct sim *s);
void fault_begin(struct sim *s, const struct sim_event *ev);
void fault_end(struct sim *s, const struct sim_event *ev);
void faults_heal(struct sim *s);
bool sim_run_seed(uint64_t seed, bool trace, struct sim *s);

#endif
