/* What the server counts, and /metrics: OpenMetrics 1.0. docs/inference.md has the names. Any thread. */
#ifndef NEF_INFER_API_METRICS_H
#define NEF_INFER_API_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/buf.h"

struct nef_api;

#define NEF_API_METRICS_URLS     16u
#define NEF_API_METRICS_STATUSES 12u
#define NEF_API_METRICS_BUCKETS  16u

struct nef_api_histogram {
    atomic_ullong buckets[NEF_API_METRICS_BUCKETS + 1]; /* each for itself; the last: above all bounds */
    atomic_ullong sum_us;
};
struct nef_api_metrics { /* zeroed is the start */
    atomic_ullong requests[NEF_API_METRICS_URLS][NEF_API_METRICS_STATUSES];
    atomic_ullong client_left, failed;
    struct nef_api_histogram first_token, between_tokens, duration;
    /* Between ends of generations, while there are some: smoothed. */
    atomic_ullong last_end_ns, interval_us;
};

/* url: the number of its route, or NEF_API_METRICS_URLS - 1. Times in microseconds; 0: there was none. tokens: that were
 * generated in all_us after the first one. */
struct nef_api_request_end {
    uint32_t url;
    unsigned status;
    bool complete, failed;
    uint64_t first_us, duration_us;
    uint64_t tokens, tokens_us;
};
void nef_api_metrics_end(struct nef_api_metrics *m, const struct nef_api_request_end *end);
void nef_api_metrics_finished(struct nef_api_metrics *m); /* a generation has ended */
uint64_t nef_api_metrics_interval_ms(const struct nef_api_metrics *m);
/* url_name: of a number, or NULL. */
void nef_api_metrics_write(struct nef_api *api, const char *(*url_name)(uint32_t url), struct nef_buf *out);

#endif
