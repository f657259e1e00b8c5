/* Talking to a region's supervisor: one line of JSON each way over the socket DIR/supervisor.sock.
 * Only the region's owner (and root) can open the directory it lies in.
 *
 *   {"command":"ping"}                                 {"ok":true,"pid":123}
 *   {"command":"retry"}                                what crashed starts now
 *   {"command":"zone-stop","zone":"a","how":"kill"}    answered when it is gone (clean, kill, pause)
 *   {"command":"zone-start","zone":"a"}                zone: a zone, or the witness's place
 *   {"command":"etcd-force","zone":"a"}                see nef_children_etcd_force
 *   {"command":"down"}                                 answered when everything is gone
 * A refusal: {"ok":false,"error":"..."}. */
#ifndef NEF_CLI_CONTROL_H
#define NEF_CLI_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "cli/region.h"

#define NEF_CONTROL_LINE_MAX 1024u

/* zone, how: NULL if the command has none. Blocks up to timeout_ms; after `down` also until the
 * supervisor's process has ended. NEF_E_NOT_FOUND: no supervisor runs. NEF_E_DENIED: it refused.
 * NEF_E_TIMEOUT. error->text says more. */
NEF_MUST_CHECK nef_err nef_control_call(const struct nef_region *r, const char *command,
                                        const char *zone, const char *how, uint32_t timeout_ms,
                                        struct nef_region_error *error);

/* A listening socket at DIR/supervisor.sock, or connected to it; -1 and errno on failure. DIR may
 * be longer than a socket's address allows. */
int nef_control_socket(const struct nef_region *r, bool listening);

/* The supervisor itself; runs until `down` or SIGTERM. only_down: starts nothing, adopts what a
 * killed supervisor left and takes it down. Returns the exit status. */
int nef_supervise(const char *dir, bool only_down);

#endif
