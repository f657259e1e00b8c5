/* Counters of a zone's requests, and the OpenMetrics text of everything it measures.
 *
 * Counting costs a few relaxed atomic additions a request and never blocks or allocates. Labels are
 * only operations and status codes: nothing a client chooses, so the output's size is bounded. Any
 * thread. */
#ifndef NEF_SERVER_METRICS_H
#define NEF_SERVER_METRICS_H

#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"

struct nef_metrics;
struct nef_runtime;
struct nef_zone_config;

/* operations: names, static texts, count of them; an operation is its index. NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_metrics_new(const char *const *operations, uint32_t count,
                                       struct nef_metrics **out_metrics);
void nef_metrics_free(struct nef_metrics *m);

void nef_metrics_begin(struct nef_metrics *m); /* a request came in */
/* It ended; status 0: the connection was lost before an answer. */
void nef_metrics_end(struct nef_metrics *m, uint32_t operation, unsigned status, uint64_t bytes_in,
                     uint64_t bytes_out, uint64_t duration_ns);

/* What http knows at the moment of reading. */
struct nef_metrics_now {
    const struct nef_zone_config *config; /* names of zones */
    uint32_t connections;
    uint32_t worker_queue;
};

/* OpenMetrics 1.0, without the "# EOF" at its end. rt: runtime and store are read through it. */
void nef_metrics_text(struct nef_metrics *m, struct nef_runtime *rt,
                      const struct nef_metrics_now *now, struct nef_buf *out);
#define NEF_METRICS_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

#endif
