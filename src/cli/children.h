/* The supervisor's processes: starting, adopting, stopping and restarting them. No policy of the
 * region is here: which process is wanted is set by the supervisor's commands and kept in
 * DIR/supervisor.json.
 *
 *   wanted RUN     ended by itself -> CRASHED, started again after NEF_RESTART_MS
 *   wanted STOP    told to end in order (etcd after its zone), killed after NEF_STOP_MS
 *   wanted PAUSE   stopped by SIGSTOP; stays there, and survives a new supervisor
 *
 * Children run in sessions of their own and don't notice when the supervisor dies. All of it
 * belongs to the supervisor's one thread. */
#ifndef NEF_CLI_CHILDREN_H
#define NEF_CLI_CHILDREN_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include "cli/state.h"

#define NEF_RESTART_MS 5000u  /* back-off: a process that can't start doesn't burn the machine */
#define NEF_STOP_MS    20000u /* a zone hands over and flushes; longer than any lease and etcd call \
                               */

struct nef_child {
    enum nef_child_state state;
    struct nef_identity identity; /* pid 0: none */
    int pidfd;                    /* -1: none */
    bool own;                     /* our child, so it must be reaped; an adopted one is init's */
    bool alone;                   /* `nef etcd-alone` in a member's place */
    uint64_t restart_at_ms;       /* CRASHED */
    uint64_t kill_at_ms;          /* STOPPING; 0: it was killed already */
    uint64_t started_at_ms;
    uint32_t crashes; /* since it was last told to run */
};

struct nef_children {
    struct nef_region region;
    struct nef_programs programs;
    struct nef_supervisor_state state;
    char boot_id[40];
    struct nef_child list[NEF_PROCESS_COUNT];
    bool closing; /* everything is to end */
    bool changed; /* state.json or region.json have to be written */
    uint64_t logs_seen_ms; /* when their sizes were looked at */
};

/* Takes copies. Adopts what survived; starts nothing. */
NEF_MUST_CHECK nef_err nef_children_init(struct nef_children *c, const struct nef_region *region,
                                         const struct nef_programs *programs,
                                         struct nef_region_error *error);

/* One round: start what is due, tell to end what is to end, kill what didn't. Returns the
 * milliseconds until the next thing is due (at most 1000). Writes state.json and region.json if
 * something changed. */
uint32_t nef_children_tick(struct nef_children *c);

/* Descriptors that become readable when a child ends. Returns the count (<= NEF_PROCESS_COUNT);
 * out_index says whose each is. */
uint32_t nef_children_poll(const struct nef_children *c, struct pollfd *out,
                           uint32_t out_index[NEF_PROCESS_COUNT]);
void nef_children_ended(struct nef_children *c, uint32_t index);

/* Index of PLACE's etcd member, and of its zone or witness process. */
uint32_t nef_children_etcd(uint32_t place);
uint32_t nef_children_nef(uint32_t place);

enum nef_stop_how { NEF_STOP_CLEAN, NEF_STOP_KILL, NEF_STOP_PAUSE };
/* Both processes of PLACE; returns before they are gone (see nef_children_place_settled). */
void nef_children_place_stop(struct nef_children *c, uint32_t place, enum nef_stop_how how);
void nef_children_place_start(struct nef_children *c, uint32_t place);
bool nef_children_place_settled(const struct nef_children *c,
                                uint32_t place); /* nothing is STOPPING */

/* What waits for its back-off starts now. */
void nef_children_retry(struct nef_children *c);
void nef_children_close(struct nef_children *c);
bool nef_children_gone(const struct nef_children *c);
/* End all etcd members, make PLACE's a cluster of its own (`nef etcd-alone`) and start it; the others' data is void.
 * Repeated, or after a crash of the supervisor, it goes on. Where no member has data, all three begin a new cluster.
 * NULL, or why it was refused. */
const char *nef_children_etcd_force(struct nef_children *c, uint32_t place);

#endif
