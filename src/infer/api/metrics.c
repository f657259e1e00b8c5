/* Counters and /metrics; see metrics.h. */
#include "infer/api/metrics.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "infer/api/api_internal.h"
#include "io/clock.h"

static const unsigned statuses[NEF_API_METRICS_STATUSES] = {200, 400, 404, 405, 408, 413, 429, 431, 500, 503, 0};
#define STATUS_LOST  10u /* the client left before there was an answer */
#define STATUS_OTHER 11u

/* Microseconds. From a warm prefix to a long prompt in a full queue; between tokens the first ones matter. */
static const uint32_t bounds_us[NEF_API_METRICS_BUCKETS] = {1000,    2500,    5000,    10000,    25000,    50000,
                                                            100000,  250000,  500000,  1000000,  2500000,  5000000,
                                                            10000000, 30000000, 60000000, 300000000};
#define INTERVAL_FIRST_US 1000000u /* before anything has ended */
#define INTERVAL_MAX_US   5000000u /* a pause isn't a slow engine */

static void add(atomic_ullong *counter, uint64_t value)
{
    (void)atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static uint64_t get(const atomic_ullong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void observe(struct nef_api_histogram *h, uint64_t us)
{
    size_t b = 0;

    while (b < NEF_API_METRICS_BUCKETS && us > bounds_us[b])
        b++;
    add(&h->buckets[b], 1);
    add(&h->sum_us, us);
}

void nef_api_metrics_end(struct nef_api_metrics *m, const struct nef_api_request_end *end)
{
    size_t s = 0;

    NEF_ASSERT(end->url < NEF_API_METRICS_URLS);
    while (s < STATUS_OTHER && statuses[s] != end->status)
        s++;
    add(&m->requests[end->url][s], 1);
    add(&m->client_left, !end->complete);
    add(&m->failed, end->failed);
    observe(&m->duration, end->duration_us);
    if (end->first_us > 0)
        observe(&m->first_token, end->first_us);
    if (end->tokens > 0)
        observe(&m->between_tokens, end->tokens_us / end->tokens);
}

/* Two that end at once may lose a sample; it is an estimate. */
void nef_api_metrics_finished(struct nef_api_metrics *m)
{
    uint64_t now = nef_now_ns(), last = atomic_exchange_explicit(&m->last_end_ns, now, memory_order_relaxed);
    uint64_t us = last == 0 || now < last ? INTERVAL_FIRST_US : NEF_MIN((now - last) / 1000, INTERVAL_MAX_US);
    uint64_t before = get(&m->interval_us);

    if (before == 0)
        before = INTERVAL_FIRST_US;
    atomic_store_explicit(&m->interval_us, NEF_MAX((before * 7 + us) / 8, 1u), memory_order_relaxed);
}

uint64_t nef_api_metrics_interval_ms(const struct nef_api_metrics *m)
{
    uint64_t us = get(&m->interval_us);

    return ((us == 0 ? INTERVAL_FIRST_US : us) + 999) / 1000;
}

/* ---- text ---- */

static void family(struct nef_buf *out, const char *name, const char *type, const char *help)
{
    nef_buf_printf(out, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void gauge(struct nef_buf *out, const char *name, const char *help, uint64_t value)
{
    family(out, name, "gauge", help);
    nef_buf_printf(out, "%s %" PRIu64 "\n", name, value);
}

static void counter(struct nef_buf *out, const char *name, const char *help, uint64_t value)
{
    family(out, name, "counter", help);
    nef_buf_printf(out, "%s_total %" PRIu64 "\n", name, value);
}

static void seconds(struct nef_buf *out, const char *name, const char *help, uint64_t ns)
{
    family(out, name, "counter", help);
    nef_buf_printf(out, "%s_total %.6f\n", name, (double)ns / 1e9);
}

static void histogram(struct nef_buf *out, const char *name, const char *help, const struct nef_api_histogram *h)
{
    uint64_t count = 0;

    family(out, name, "histogram", help);
    for (size_t b = 0; b < NEF_API_METRICS_BUCKETS; b++) {
        count += get(&h->buckets[b]);
        nef_buf_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, bounds_us[b] / 1e6, count);
    }
    count += get(&h->buckets[NEF_API_METRICS_BUCKETS]);
    nef_buf_printf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_count %" PRIu64 "\n%s_sum %.6f\n", name, count, name, count,
                   name, (double)get(&h->sum_us) / 1e6);
}

static void requests(const struct nef_api_metrics *m, const char *(*url_name)(uint32_t url), struct nef_buf *out)
{
    family(out, "nef_infer_requests", "counter", "Requests that ended, by URL and HTTP status.");
    for (uint32_t u = 0; u < NEF_API_METRICS_URLS; u++)
        for (size_t s = 0; s < NEF_API_METRICS_STATUSES; s++) {
            uint64_t n = get(&m->requests[u][s]);
            char code[16] = "other";

            if (n == 0)
                continue;
            if (s == STATUS_LOST)
                (void)strcpy(code, "lost");
            else if (s != STATUS_OTHER)
                (void)snprintf(code, sizeof(code), "%u", statuses[s]);
            nef_buf_printf(out, "nef_infer_requests_total{url=\"%s\",code=\"%s\"} %" PRIu64 "\n",
                           url_name(u) == NULL ? "other" : url_name(u), code, n);
        }
}

static void engine(const struct nef_engine_stats *e, struct nef_buf *out)
{
    static const char *const ends[] = {"", "stop", "length", "cancelled", "error"};

    counter(out, "nef_infer_prompt_tokens", "Tokens of prompts, cached ones included.", e->prompt_tokens);
    counter(out, "nef_infer_cached_tokens", "Of them, those found in the prefix cache.", e->cached_tokens);
    counter(out, "nef_infer_generated_tokens", "Tokens generated.", e->generated_tokens);
    counter(out, "nef_infer_generations", "Choices and embeddings taken by the engine.", e->requests);
    counter(out, "nef_infer_generations_refused", "Those refused because too many wait.", e->refused);
    family(out, "nef_infer_generations_finished", "counter", "Generations that ended, by how.");
    for (size_t i = 1; i < NEF_COUNT(ends); i++)
        nef_buf_printf(out, "nef_infer_generations_finished_total{end=\"%s\"} %" PRIu64 "\n", ends[i], e->finished[i]);
    counter(out, "nef_infer_preempted", "Sequences put back for others.", e->preempted);
    counter(out, "nef_infer_shared_waits", "Sequences that waited for a beginning another one computed.",
            e->shared_waits);
    counter(out, "nef_infer_steps", "Batches.", e->steps);
    seconds(out, "nef_infer_step_seconds", "Time in batches.", e->step_ns);
    seconds(out, "nef_infer_forward_seconds", "Of it, in the model.", e->forward_ns);
    seconds(out, "nef_infer_sample_seconds", "Of it, choosing tokens.", e->sample_ns);
    counter(out, "nef_infer_prompt_rows", "Rows of prompts in batches.", e->prompt_rows);
    counter(out, "nef_infer_decode_rows", "Rows of generated tokens in batches.", e->decode_rows);
    counter(out, "nef_infer_masks", "Masks of grammars.", e->masks);
    seconds(out, "nef_infer_mask_seconds", "Processor time for them.", e->mask_ns);
    family(out, "nef_infer_mask_seconds_max", "gauge", "The longest one.");
    nef_buf_printf(out, "nef_infer_mask_seconds_max %.6f\n", (double)e->mask_ns_max / 1e9);
    seconds(out, "nef_infer_queue_seconds", "Time that generations waited for their first slot.", e->queue_ns);
    gauge(out, "nef_infer_slots", "Sequences that can be computed together.", e->slots);
    gauge(out, "nef_infer_running", "Sequences that have a slot.", e->running);
    gauge(out, "nef_infer_waiting", "Generations that wait for one.", e->waiting);
    gauge(out, "nef_infer_tenants", "Tenants of them.", e->tenants);
    gauge(out, "nef_infer_kv_pages", "Pages of the KV cache.", e->kv_pages);
    gauge(out, "nef_infer_kv_pages_free", "Of them, those that nobody holds.", e->kv_pages_free);
    gauge(out, "nef_infer_kv_page_bytes", "Size of a page.", e->kv_page_bytes);
}

static uint64_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long long size = 0, resident = 0;

    if (file == NULL)
        return 0;
    if (fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    (void)fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A value of a label. */
static void label(struct nef_buf *out, const char *name, const char *text)
{
    nef_buf_printf(out, "%s=\"", name);
    for (; *text != '\0'; text++)
        nef_buf_printf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    nef_buf_u8(out, '"');
}

void nef_api_metrics_write(struct nef_api *api, const char *(*url_name)(uint32_t url), struct nef_buf *out)
{
    const struct nef_api_metrics *m = &api->metrics;
    struct nef_engine_stats stats;
    struct nef_grammars_stats grammars = {0};

    nef_engine_stats(api->model.engine, &stats);
    if (api->grammars != NULL)
        nef_grammars_stats(api->grammars, &grammars);
    family(out, "nef_infer", "info", "What serves.");
    nef_buf_text(out, "nef_infer_info{");
    label(out, "model", api->model.alias);
    nef_buf_u8(out, ',');
    label(out, "version", NEF_VERSION);
    nef_buf_printf(out, ",numerics=\"%u\",kernels=\"%s\",kv_type=\"%s\"} 1\n", NEF_NUMERICS_VERSION,
                   api->model.kernels, api->model.kv_type);
    requests(m, url_name, out);
    gauge(out, "nef_infer_requests_active", "Requests under way.", nef_api_active(api));
    counter(out, "nef_infer_clients_left", "Requests whose client left before the end.", get(&m->client_left));
    counter(out, "nef_infer_streams_failed", "Streams that ended with an error.", get(&m->failed));
    histogram(out, "nef_infer_time_to_first_token_seconds", "From a request's headers to its first token.",
              &m->first_token);
    histogram(out, "nef_infer_time_per_token_seconds", "Mean time between the tokens of a request's first choice.",
              &m->between_tokens);
    histogram(out, "nef_infer_request_duration_seconds", "From a request's headers to the end of its answer.",
              &m->duration);
    engine(&stats, out);
    gauge(out, "nef_infer_grammars", "Compiled grammars that are kept.", grammars.kept);
    gauge(out, "nef_infer_grammars_bytes", "Their memory.", grammars.bytes);
    counter(out, "nef_infer_grammars_hits", "Requests that found theirs.", grammars.hits);
    counter(out, "nef_infer_grammars_compiled", "Grammars compiled.", grammars.compiled);
    counter(out, "nef_infer_grammars_refused", "Schemas refused.", grammars.refused);
    gauge(out, "nef_infer_body_bytes", "Bodies of requests being read.", atomic_load(&api->body_bytes));
    gauge(out, "nef_infer_answer_bytes", "Tokens that were made and not read.", atomic_load(&api->answer_bytes));
    gauge(out, "nef_infer_resident_bytes", "Memory of the process.", resident_bytes());
    nef_buf_text(out, "# EOF\n");
}
