/* The AI gateway of a zone: OpenAI's API on the AI listener, in front of engines.
 *
 * A request's way (docs/gateway.md): the listener reads the body (call.c), a worker finds the user and what it may do
 * (auth.c, limits.h), a run (run.h) finds a backend (route.h), speaks to it (backend.c) and goes on elsewhere when that
 * is lost (splice.h), and the listener's thread gives the client what came.
 *
 *   backends   the built-in engine, a child process of the zone (engine.h); any OpenAI-compatible URL of the
 *              configuration; and the other zones' gateways (relay.c): all are spoken to in the same way
 *   threads    listener, workers, one loop for all backends, one for each engine, the relay's listener
 *
 * No prompt, answer or key reaches a trace or a metric. */
#ifndef NEF_GATEWAY_GATEWAY_H
#define NEF_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "keys/keys.h"
#include "server/config.h"
#include "server/runtime.h"

struct nef_gateway;

struct nef_gateway_options {
    const struct nef_zone_config *config;    /* with has_ai; borrowed until stop */
    const struct nef_root_credentials *root; /* copied to locked memory */
    struct nef_runtime *rt;                  /* borrowed until stop */
    struct nef_keys *keys;                   /* borrowed until stop */
};

/* Listens when it returns; engines may still be loading. Errors: NEF_E_CONFIG, NEF_E_NOMEM, NEF_E_SYSTEM. What exactly
 * is traced. */
NEF_MUST_CHECK nef_err nef_gateway_start(const struct nef_gateway_options *options, struct nef_gateway **out_gateway);
uint16_t nef_gateway_port(const struct nef_gateway *gateway);
/* The front sends nothing new from now on; streams go on. */
void nef_gateway_quiesce(struct nef_gateway *gateway);
/* Before nef_runtime_stop. Runs under way have GRACE_MS to end, then they are cut. Ends the engines. NULL is accepted.
 */
void nef_gateway_stop(struct nef_gateway *gateway, uint32_t grace_ms);

/* Families of the zone's /metrics, without "# EOF". Any thread. */
void nef_gateway_metrics(struct nef_gateway *gateway, struct nef_buf *out);
/* {"backends": [...], "engines": [...]} for operators; no names of users. Any thread. */
void nef_gateway_status_json(struct nef_gateway *gateway, struct nef_buf *out);

#endif
