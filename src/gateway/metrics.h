/* Counters of the gateway, with OpenTelemetry's names for generative AI (semantic conventions, gen_ai.server.*) as
 * OpenMetrics writes them. Labels are operations, backends' kinds and errors: nothing that a client chooses. Any
 * thread, relaxed atomics. */
#ifndef NEF_GATEWAY_METRICS_H
#define NEF_GATEWAY_METRICS_H

#include <stdint.h>
#include "base/buf.h"
#include "gateway/run.h"

struct nef_gateway_metrics;

struct nef_gateway_metrics *nef_gateway_metrics_new(void); /* NULL: out of memory */
void nef_gateway_metrics_free(struct nef_gateway_metrics *m);

/* A run ended. first_ns: from its start to its first token, 0: none came. */
void nef_gateway_metrics_run(struct nef_gateway_metrics *m, enum nef_ai_kind kind, const struct nef_ai_end *end,
                             uint64_t duration_ns, uint64_t first_ns);
/* What made a stream go on elsewhere. */
enum nef_gateway_loss {
    NEF_LOSS_CONNECTION, /* it broke off, or nobody was there */
    NEF_LOSS_STATUS,     /* it answered with an error */
    NEF_LOSS_GARBAGE,    /* it said what can't be */
    NEF_LOSS_STALL,      /* it stopped speaking */
    NEF_LOSS_HEALTH,     /* its probes failed */
    NEF_LOSS_COUNT,
};
void nef_gateway_metrics_loss(struct nef_gateway_metrics *m, enum nef_gateway_loss loss);
/* The longest silence a client saw at a continuation, and all of them. */
void nef_gateway_metrics_pause(struct nef_gateway_metrics *m, uint64_t pause_ns);
void nef_gateway_metrics_shed(struct nef_gateway_metrics *m);

struct nef_gateway_metrics_now {
    uint32_t connections, runs, waiting, relayed;
};
void nef_gateway_metrics_text(struct nef_gateway_metrics *m, const struct nef_gateway_metrics_now *now,
                              struct nef_buf *out);

#endif
