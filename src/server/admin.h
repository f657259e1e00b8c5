/* The admin listener of a zone.
 *
 *   GET  /health/live              200 as long as the process answers            no token
 *   GET  /health/ready             200 or 503: may the front send requests here  no token
 *   GET  /time                     {"wall_ms"}: for the other clocks             no token
 *   GET  /metrics                  OpenMetrics; the metrics token opens it, too
 *   GET  /status                   what `nef status` shows
 *   GET  /ai/status                the gateway's backends and engines
 *   GET  /users                    {"users": [{"name", "access_key", "bucket", "read_only",
 * "disabled", "ai"}]} POST /users                    {"name", "bucket"?, "read_only"?, "ai"?} -> 201 with
 * access_key and secret_key POST /users/NAME/disable POST /users/NAME/change {"ai"} POST /recover                  accept loss
 * (R8) POST /handover                 hand the primary over
 *
 * All but the first three need `Authorization: Bearer TOKEN`. Answers are JSON but for /metrics;
 * errors are
 * {"error": "..."}. */
#ifndef NEF_SERVER_ADMIN_H
#define NEF_SERVER_ADMIN_H

#include "base/err.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/runtime.h"
#include "server/s3_service.h"

struct nef_admin;

struct nef_admin_options {
    const struct nef_zone_config *config; /* all borrowed until stop */
    const char *token, *metrics_token;    /* copied to locked memory; the second may be "" */
    struct nef_runtime *rt;
    struct nef_keys *keys;
    struct nef_metrics *metrics;
    struct nef_s3_service *s3; /* NULL: the listener isn't up yet; see nef_admin_attach */
};

NEF_MUST_CHECK nef_err nef_admin_start(const struct nef_admin_options *options,
                                       struct nef_admin **out_admin);
/* s3: read for metrics from now on; NULL before it is stopped. */
void nef_admin_attach(struct nef_admin *admin, struct nef_s3_service *s3);
/* The gateway, which stands above this library: read for /metrics and /ai/status from now on; NULL before it is stopped. */
struct nef_admin_ai {
    void (*metrics)(void *context, struct nef_buf *out);
    void (*status)(void *context, struct nef_buf *out);
    void *context;
};
void nef_admin_attach_ai(struct nef_admin *admin, const struct nef_admin_ai *ai);
uint16_t nef_admin_port(const struct nef_admin *admin);
void nef_admin_stop(struct nef_admin *admin); /* before nef_runtime_stop; NULL is accepted */

#endif
