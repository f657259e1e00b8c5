/* Watching a region on one machine from outside its supervisor. */
#ifndef NEF_CLI_UP_H
#define NEF_CLI_UP_H

#include <stdbool.h>
#include <stdint.h>
#include "cli/cli.h"

/* States of the processes as region.json has them. */
struct nef_region_view {
    char state[NEF_PROCESS_COUNT][16]; /* "running"; "" if region.json doesn't say */
    int64_t pid[NEF_PROCESS_COUNT];    /* 0: none */
};
NEF_MUST_CHECK nef_err nef_region_view(const struct nef_region *r, struct nef_region_view *out);

/* Wait until the region serves: every zone that isn't stopped is ready, answers come through the
 * front, and writes are durable in all of them. False: out_why says what failed. */
bool nef_up_wait(const struct nef_region *r, uint32_t timeout_ms, struct nef_region_error *out_why);

/* One live line a zone until SIGINT, SIGTERM or SIGHUP, or until the supervisor is gone. In a
 * terminal the lines stay in place; elsewhere a line is printed when it changes. */
void nef_up_watch(const struct nef_region *r);

/* The last lines of a process's log, indented, to standard error. */
void nef_up_log_tail(const struct nef_region *r, uint32_t index);

#endif
