/* The built-in engine: `nef infer` as a child process of the zone, on a Unix socket. A crash of it never touches
 * storage.
 *
 *   load -> start -> serving -> (crashed | killed) -> after a back-off, load again
 *
 * One thread a child, which forks it, waits for it and starts it again; the child gets SIGKILL when that thread ends,
 * which is when the zone's process does. Whether it serves is found out by probing its socket, as with any other
 * backend (backend.h); a hung one is killed by nef_engine_child_kill. The child dumps no core and gets no environment
 * but a few variables (engine.c). */
#ifndef NEF_GATEWAY_ENGINE_H
#define NEF_GATEWAY_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct nef_engine_child;

struct nef_engine_child_options {
    const char *model;       /* its name, what clients ask for */
    const char *socket_path; /* made by the child; below 100 bytes */
    /* Where the model is. model_file: a path. Otherwise `open` gives a descriptor that belongs to the engine's thread
     * then; called before each start, may block; NEF_E_CLOSED: stop is wanted. */
    const char *model_file;
    nef_err (*open)(void *context, int *out_fd);
    void *context;
    const char *kv_type; /* NULL: preset */
    uint32_t threads, slots, context_tokens; /* 0: presets */
};

NEF_MUST_CHECK nef_err nef_engine_child_start(const struct nef_engine_child_options *options,
                                              struct nef_engine_child **out_child);
/* kill -9; it is started again. PID: the one that was seen to hang (another one, started meanwhile, is left alone). */
void nef_engine_child_kill(struct nef_engine_child *child, pid_t pid);
pid_t nef_engine_child_pid(struct nef_engine_child *child);       /* 0: not running */
uint64_t nef_engine_child_restarts(struct nef_engine_child *child);
/* SIGTERM, then SIGKILL after GRACE_MS. Whoever blocks in `open` must be woken before. NULL is accepted. */
void nef_engine_child_stop(struct nef_engine_child *child, uint32_t grace_ms);

#endif
