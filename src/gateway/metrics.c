/* The gateway's counters; see metrics.h. */
#include "gateway/metrics.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "base/assert.h"

#define BOUND_COUNT 14u
#define KIND_COUNT  3u

/* Seconds; OpenTelemetry's advice for durations, first tokens and times per token. */
static const double durations[BOUND_COUNT] = {0.01, 0.02, 0.04, 0.08,  0.16,  0.32,  0.64,
                                              1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92};
static const double per_token[BOUND_COUNT] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
                                              0.1,   0.15,   0.2,   0.3,  0.4,   0.5,  0.75};
static const double pauses[BOUND_COUNT] = {0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5};
static const char *const kinds[KIND_COUNT] = {"chat", "text_completion", "embeddings"};

struct histogram {
    atomic_ullong counts[BOUND_COUNT + 1];
    atomic_ullong sum_ns;
};

struct nef_gateway_metrics {
    struct histogram duration[KIND_COUNT], first[KIND_COUNT], output[KIND_COUNT], pause;
    atomic_ullong requests[KIND_COUNT], failed[KIND_COUNT], cancelled[KIND_COUNT];
    atomic_ullong input[KIND_COUNT], answered[KIND_COUNT], cached[KIND_COUNT];
    atomic_ullong losses[NEF_LOSS_COUNT], continuations, shed;
    atomic_ullong pause_max_ns;
};

struct nef_gateway_metrics *nef_gateway_metrics_new(void)
{
    return calloc(1, sizeof(struct nef_gateway_metrics));
}

void nef_gateway_metrics_free(struct nef_gateway_metrics *m)
{
    free(m);
}

static void count(atomic_ullong *to, uint64_t by)
{
    (void)atomic_fetch_add_explicit(to, by, memory_order_relaxed);
}

static void put(struct histogram *h, const double bounds[BOUND_COUNT], uint64_t ns)
{
    double seconds = (double)ns / 1e9;
    uint32_t i = 0;

    while (i < BOUND_COUNT && seconds > bounds[i])
        i++;
    count(&h->counts[i], 1);
    count(&h->sum_ns, ns);
}

void nef_gateway_metrics_run(struct nef_gateway_metrics *m, enum nef_ai_kind kind, const struct nef_ai_end *end,
                             uint64_t duration_ns, uint64_t first_ns)
{
    NEF_ASSERT((uint32_t)kind < KIND_COUNT);
    count(&m->requests[kind], 1);
    if (end->cancelled)
        count(&m->cancelled[kind], 1);
    else if (end->status != 200)
        count(&m->failed[kind], 1);
    count(&m->input[kind], end->usage.prompt);
    count(&m->answered[kind], end->usage.completion);
    count(&m->cached[kind], end->usage.cached);
    count(&m->continuations, end->continuations);
    put(&m->duration[kind], durations, duration_ns);
    if (first_ns == 0)
        return;
    put(&m->first[kind], durations, first_ns);
    if (end->usage.completion > 1)
        put(&m->output[kind], per_token, (duration_ns - first_ns) / (end->usage.completion - 1));
}

void nef_gateway_metrics_loss(struct nef_gateway_metrics *m, enum nef_gateway_loss loss)
{
    NEF_ASSERT((uint32_t)loss < NEF_LOSS_COUNT);
    count(&m->losses[loss], 1);
}

void nef_gateway_metrics_pause(struct nef_gateway_metrics *m, uint64_t pause_ns)
{
    unsigned long long most = atomic_load(&m->pause_max_ns);

    put(&m->pause, pauses, pause_ns);
    while (pause_ns > most && !atomic_compare_exchange_weak(&m->pause_max_ns, &most, pause_ns))
        continue;
}

void nef_gateway_metrics_shed(struct nef_gateway_metrics *m)
{
    count(&m->shed, 1);
}

/* ---- text ---- */

static uint64_t get(const atomic_ullong *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

static void family(struct nef_buf *out, const char *name, const char *type, const char *unit, const char *help)
{
    nef_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
    if (unit != NULL)
        nef_buf_printf(out, "# UNIT %s %s\n", name, unit);
}

static void histogram(struct nef_buf *out, const char *name, const char *kind, const struct histogram *h,
                      const double bounds[BOUND_COUNT])
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i <= BOUND_COUNT; i++) {
        sum += get(&h->counts[i]);
        nef_buf_printf(out, "%s_bucket{", name);
        if (kind != NULL)
            nef_buf_printf(out, "gen_ai_operation_name=\"%s\",", kind);
        if (i < BOUND_COUNT)
            nef_buf_printf(out, "le=\"%g\"} %" PRIu64 "\n", bounds[i], sum);
        else
            nef_buf_printf(out, "le=\"+Inf\"} %" PRIu64 "\n", sum);
    }
    if (kind != NULL)
        nef_buf_printf(
            out, "%s_count{gen_ai_operation_name=\"%s\"} %" PRIu64 "\n%s_sum{gen_ai_operation_name=\"%s\"} %.9f\n",
            name, kind, sum, name, kind, (double)get(&h->sum_ns) / 1e9);
    else
        nef_buf_printf(out, "%s_count %" PRIu64 "\n%s_sum %.9f\n", name, sum, name, (double)get(&h->sum_ns) / 1e9);
}

static void by_kind(struct nef_buf *out, const char *name, const char *help, const struct histogram *h,
                    const double bounds[BOUND_COUNT])
{
    family(out, name, "histogram", "seconds", help);
    for (uint32_t i = 0; i < KIND_COUNT; i++)
        histogram(out, name, kinds[i], &h[i], bounds);
}

static void counters(struct nef_buf *out, const char *name, const char *help, const atomic_ullong *values)
{
    family(out, name, "counter", NULL, help);
    for (uint32_t i = 0; i < KIND_COUNT; i++)
        nef_buf_printf(out, "%s_total{gen_ai_operation_name=\"%s\"} %" PRIu64 "\n", name, kinds[i], get(&values[i]));
}

static void counter(struct nef_buf *out, const char *name, const char *help, uint64_t value)
{
    family(out, name, "counter", NULL, help);
    nef_buf_printf(out, "%s_total %" PRIu64 "\n", name, value);
}

static void gauge(struct nef_buf *out, const char *name, const char *help, uint64_t value)
{
    family(out, name, "gauge", NULL, help);
    nef_buf_printf(out, "%s %" PRIu64 "\n", name, value);
}

void nef_gateway_metrics_text(struct nef_gateway_metrics *m, const struct nef_gateway_metrics_now *now,
                              struct nef_buf *out)
{
    static const char *const losses[NEF_LOSS_COUNT] = {"connection", "status", "garbage", "stall", "health"};

    by_kind(out, "gen_ai_server_request_duration_seconds", "From a request to the end of its answer.", m->duration,
            durations);
    by_kind(out, "gen_ai_server_time_to_first_token_seconds", "From a request to its first token.", m->first,
            durations);
    by_kind(out, "gen_ai_server_time_per_output_token_seconds", "Between tokens of an answer, behind the first.",
            m->output, per_token);
    family(out, "gen_ai_client_token_usage", "counter", NULL, "Tokens, each counted once whatever was computed again.");
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        nef_buf_printf(
            out,
            "gen_ai_client_token_usage_total{gen_ai_operation_name=\"%s\",gen_ai_token_type=\"input\"} %" PRIu64 "\n",
            kinds[i], get(&m->input[i]));
        nef_buf_printf(
            out,
            "gen_ai_client_token_usage_total{gen_ai_operation_name=\"%s\",gen_ai_token_type=\"output\"} %" PRIu64 "\n",
            kinds[i], get(&m->answered[i]));
    }
    counters(out, "nef_ai_cached_tokens", "Prompt tokens that needed no computing.", m->cached);
    counters(out, "nef_ai_requests", "Requests that ended.", m->requests);
    counters(out, "nef_ai_failed", "Of those, answered with an error.", m->failed);
    counters(out, "nef_ai_cancelled", "Of those, given up by their client.", m->cancelled);
    family(out, "nef_ai_losses", "counter", NULL, "Streams that lost their backend.");
    for (uint32_t i = 0; i < NEF_LOSS_COUNT; i++)
        nef_buf_printf(out, "nef_ai_losses_total{why=\"%s\"} %" PRIu64 "\n", losses[i], get(&m->losses[i]));
    counter(out, "nef_ai_continuations", "Streams that went on elsewhere after a first token.", get(&m->continuations));
    counter(out, "nef_ai_shed", "Requests refused because capacity was short.", get(&m->shed));
    family(out, "nef_ai_pause_seconds", "histogram", "seconds",
           "Silence that a client saw when its stream went on elsewhere.");
    histogram(out, "nef_ai_pause_seconds", NULL, &m->pause, pauses);
    family(out, "nef_ai_pause_max_seconds", "gauge", "seconds", "The longest of those.");
    nef_buf_printf(out, "nef_ai_pause_max_seconds %.9f\n", (double)get(&m->pause_max_ns) / 1e9);
    gauge(out, "nef_ai_connections", "Client connections of the AI listener.", now->connections);
    gauge(out, "nef_ai_running", "Requests under way.", now->runs);
    gauge(out, "nef_ai_waiting", "Requests that wait for a worker.", now->waiting);
    gauge(out, "nef_ai_relayed", "Requests of other zones that are computed here.", now->relayed);
}
