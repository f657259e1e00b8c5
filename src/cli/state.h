/* What the supervisor knows of its processes, in two files: DIR/supervisor.json, which a later
 * supervisor reads to adopt what still runs, and DIR/region.json, which clients and tests read.
 *
 * A process is ours if its id, its start time (ticks since boot, so an id used again doesn't match)
 * and its command line are those recorded in this boot. One that isn't recorded, because a
 * supervisor was killed between fork and write, is found by its command line alone: program and
 * configuration file or data directory, of a process that we may signal. The decisions are pure;
 * nef_proc_* read /proc. Any thread. */
#ifndef NEF_CLI_STATE_H
#define NEF_CLI_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "cli/region.h"

enum nef_wanted { NEF_WANTED_RUN, NEF_WANTED_STOP, NEF_WANTED_PAUSE };

enum nef_child_state {
    NEF_CHILD_STOPPED, /* isn't there, and isn't to be */
    NEF_CHILD_RUNNING,
    NEF_CHILD_PAUSED,
    NEF_CHILD_STOPPING, /* was told to end */
    NEF_CHILD_CRASHED,  /* ended by itself; is started again after the back-off */
};
const char *nef_child_state_name(enum nef_child_state state); /* "running"; as in region.json */

/* What identifies a process for good. command: SHA-256 of the bytes of /proc/PID/cmdline. */
struct nef_identity {
    pid_t pid; /* 0: none */
    uint64_t start_ticks;
    uint8_t command[32];
};

struct nef_record {
    enum nef_wanted wanted;
    struct nef_identity identity;
};

struct nef_supervisor_state {
    char boot_id[40];
    bool etcd_formed;   /* all members had data at one time: an empty one joins, it doesn't found */
    unsigned etcd_void; /* a bit a place: its data belongs to a cluster that was overridden */
    int64_t alone_since; /* `nef etcd-alone` has to make alone_place's member a cluster; 0: no */
    uint32_t alone_place;
    struct nef_record records[NEF_PROCESS_COUNT];
};

/* Into a new JSON object (NULL: out of memory), and back. Decode returns NEF_E_CONFIG for what
 * isn't one; a process that isn't named counts as wanted and unknown. */
json_t *nef_up_state_encode(const struct nef_region *r, const struct nef_supervisor_state *state);
NEF_MUST_CHECK nef_err nef_up_state_decode(const struct nef_region *r, const json_t *root,
                                           struct nef_supervisor_state *out);

struct nef_seen {
    bool there; /* and not a zombie */
    char state; /* of /proc/PID/stat: 'T' is stopped */
    struct nef_identity identity;
};

/* Is what SEEN shows (of the recorded id) the recorded process? */
bool nef_adopts(const struct nef_supervisor_state *state, const char *boot_id, uint32_t index,
                const struct nef_seen *seen);
/* Does this command line (NUL-separated) belong to process INDEX? ARGV is how it would be started. */
bool nef_command_matches(const struct nef_etcd_args *argv, enum nef_process_kind kind,
                         const char *command, size_t bytes);
void nef_command_digest(const struct nef_etcd_args *argv, uint8_t out[32]);

/* The fields of a line of /proc/PID/stat. NEF_E_PROTOCOL: it isn't one. */
NEF_MUST_CHECK nef_err nef_proc_parse(const char *line, char *out_state, uint64_t *out_start_ticks);
/* out->there is false if there is no such process. */
void nef_proc_look(pid_t pid, struct nef_seen *out);
void nef_proc_boot_id(char out[40]);
/* Look through /proc for process INDEX; out->there says whether one was found. */
void nef_proc_find(const struct nef_etcd_args *argv, enum nef_process_kind kind,
                   struct nef_seen *out);
/* Adopt by record, else by search: what both `nef up` (which ports are ours?) and the supervisor
 * ask. */
void nef_state_survivor(const struct nef_region *r, const struct nef_programs *programs,
                        const struct nef_supervisor_state *state, const char *boot_id,
                        uint32_t index, struct nef_seen *out);

/* Read DIR/supervisor.json; a missing one is the state of a region that never ran. */
NEF_MUST_CHECK nef_err nef_state_load(const struct nef_region *r, struct nef_supervisor_state *out,
                                      struct nef_region_error *error);
NEF_MUST_CHECK nef_err nef_state_save(const struct nef_region *r,
                                      const struct nef_supervisor_state *state);

/* region.json as a new object; pids and states are those of PROCESSES (pid 0 is written as null, so
 * that no script signals its own process group). NULL: out of memory. */
struct nef_child_view {
    pid_t pid;
    enum nef_child_state state;
};
json_t *nef_region_json(const struct nef_region *r,
                        const struct nef_child_view views[NEF_PROCESS_COUNT]);

/* Write ROOT to DIR/NAME atomically, mode 0600. */
NEF_MUST_CHECK nef_err nef_region_write_json(const struct nef_region *r, const char *name,
                                             const json_t *root);

#endif
