/* Counters and their text; see metrics.h. docs/operations.md explains each metric to operators.
 *
 * One table of atomics, shared by all threads: at some ten thousand requests a second the lines
 * that are contended cost less than adding up per-thread copies would in code. */
#include "server/metrics.h"
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "io/clock.h"
#include "server/config.h"
#include "server/runtime.h"

/* Statuses with a counter of their own; the last takes all others. 0: no answer. */
static const unsigned statuses[] = {200, 204, 206, 304, 400, 403, 404, 405, 409,
                                    411, 412, 416, 500, 501, 503, 0,   1};
#define STATUS_COUNT NEF_COUNT(statuses)

/* Upper bounds of latency, microseconds. */
static const uint32_t bounds_us[] = {100,   250,    500,    1000,   2500,    5000,    10000,  25000,
                                     50000, 100000, 250000, 500000, 1000000, 2500000, 5000000};
#define BOUND_COUNT NEF_COUNT(bounds_us)

struct operation {
    _Atomic uint64_t by_status[STATUS_COUNT];
    _Atomic uint64_t buckets[BOUND_COUNT + 1];
    _Atomic uint64_t duration_ns;
};

struct nef_metrics {
    const char *const *names;
    uint32_t count;
    _Atomic uint64_t in_flight; /* begun, not ended */
    _Atomic uint64_t bytes_in, bytes_out;
    struct operation operations[];
};

nef_err nef_metrics_new(const char *const *operations, uint32_t count,
                        struct nef_metrics **out_metrics)
{
    struct nef_metrics *m = calloc(1, sizeof(*m) + count * sizeof(struct operation));

    if (m == NULL)
        return NEF_E_NOMEM;
    m->names = operations;
    m->count = count;
    *out_metrics = m;
    return NEF_OK;
}

void nef_metrics_free(struct nef_metrics *m)
{
    free(m);
}

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void nef_metrics_begin(struct nef_metrics *m)
{
    add(&m->in_flight, 1);
}

void nef_metrics_end(struct nef_metrics *m, uint32_t operation, unsigned status, uint64_t bytes_in,
                     uint64_t bytes_out, uint64_t duration_ns)
{
    struct operation *o = &m->operations[operation];
    size_t s = 0, b = 0;

    NEF_ASSERT(operation < m->count);
    while (s < STATUS_COUNT - 1 && statuses[s] != status)
        s++;
    while (b < BOUND_COUNT && duration_ns > (uint64_t)bounds_us[b] * 1000)
        b++;
    add(&o->by_status[s], 1);
    add(&o->buckets[b], 1);
    add(&o->duration_ns, duration_ns);
    add(&m->bytes_in, bytes_in);
    add(&m->bytes_out, bytes_out);
    atomic_fetch_sub_explicit(&m->in_flight, 1, memory_order_relaxed);
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

static void requests(struct nef_metrics *m, struct nef_buf *out)
{
    family(out, "nef_requests", "counter", "Requests that ended, by operation and HTTP status.");
    for (uint32_t i = 0; i < m->count; i++)
        for (size_t s = 0; s < STATUS_COUNT; s++) {
            uint64_t n = get(&m->operations[i].by_status[s]);
            char code[16] = "other";

            if (n == 0)
                continue;
            if (statuses[s] == 0)
                (void)strcpy(code, "lost");
            else if (s < STATUS_COUNT - 1)
                (void)snprintf(code, sizeof(code), "%u", statuses[s]);
            nef_buf_printf(out, "nef_requests_total{operation=\"%s\",code=\"%s\"} %" PRIu64 "\n",
                           m->names[i], code, n);
        }
    family(out, "nef_request_duration_seconds", "histogram",
           "From the request's headers to the end of its answer.");
    for (uint32_t i = 0; i < m->count; i++) {
        struct operation *o = &m->operations[i];
        uint64_t sum = get(&o->duration_ns), cumulative = 0;

        for (size_t b = 0; b <= BOUND_COUNT; b++)
            cumulative += get(&o->buckets[b]);
        if (cumulative == 0)
            continue;
        cumulative = 0;
        for (size_t b = 0; b <= BOUND_COUNT; b++) {
            char bound[24] = "+Inf";

            cumulative += get(&o->buckets[b]);
            if (b < BOUND_COUNT)
                (void)snprintf(bound, sizeof(bound), "%g", (double)bounds_us[b] / 1e6);
            nef_buf_printf(
                out,
                "nef_request_duration_seconds_bucket{operation=\"%s\",le=\"%s\"} %" PRIu64 "\n",
                m->names[i], bound, cumulative);
        }
        nef_buf_printf(out,
                       "nef_request_duration_seconds_count{operation=\"%s\"} %" PRIu64 "\n"
                       "nef_request_duration_seconds_sum{operation=\"%s\"} %.9f\n",
                       m->names[i], cumulative, m->names[i], (double)sum / 1e9);
    }
    gauge(out, "nef_requests_in_flight", "Requests that haven't ended.", get(&m->in_flight));
    counter(out, "nef_request_body_bytes", "Bytes of request bodies, decoded.", get(&m->bytes_in));
    counter(out, "nef_response_body_bytes", "Bytes of answers' bodies.", get(&m->bytes_out));
}

static void cells(struct nef_runtime *rt, const struct nef_runtime_stats *st,
                  const struct nef_zone_config *config, struct nef_buf *out)
{
    uint32_t count = st->repl.group.cell_count;
    struct nef_store_cell_stats store;

    count = NEF_MIN(count, NEF_CELL_MAX);
#define PER_CELL(name, help, value)                                                                \
    do {                                                                                           \
        family(out, name, "gauge", help);                                                          \
        for (uint32_t c = 0; c < count; c++)                                                       \
            nef_buf_printf(out, "%s{cell=\"%u\"} %" PRIu64 "\n", name, c, (uint64_t)(value));      \
    } while (0)
    PER_CELL("nef_log_end_bytes", "Offset at which the log ends.", st->repl.cells[c].end);
    PER_CELL("nef_log_durable_bytes", "Offset up to which this zone's log is on disk.",
             st->repl.cells[c].durable);
    PER_CELL("nef_log_commit_bytes", "Offset known durable on every in-sync zone.",
             st->repl.cells[c].commit);
    PER_CELL("nef_log_applied_bytes", "Offset up to which the index knows the log.",
             st->applied[c]);
#undef PER_CELL
    family(out, "nef_replication_lag_bytes", "gauge", "Log that a zone hasn't acknowledged yet.");
    for (uint32_t p = 0; p < config->peer_count && p < NEF_PEER_MAX; p++) {
        uint64_t lag = 0;

        if (!st->repl.peers[p].up)
            continue;
        for (uint32_t c = 0; c < count; c++)
            if (st->repl.cells[c].end > st->repl.peers[p].durable[c])
                lag += st->repl.cells[c].end - st->repl.peers[p].durable[c];
        nef_buf_printf(out, "nef_replication_lag_bytes{peer=\"%s\"} %" PRIu64 "\n", config->peers[p].zone,
                       lag);
    }
    family(out, "nef_objects", "gauge", "Objects, by cell.");
    for (uint32_t c = 0; c < count; c++) {
        nef_store_stats(nef_runtime_store(rt), c, &store);
        nef_buf_printf(out, "nef_objects{cell=\"%u\"} %" PRIu64 "\n", c, store.objects);
    }
    family(out, "nef_live_bytes", "gauge", "Bytes of the log that are in use.");
    for (uint32_t c = 0; c < count; c++) {
        nef_store_stats(nef_runtime_store(rt), c, &store);
        nef_buf_printf(out, "nef_live_bytes{cell=\"%u\"} %" PRIu64 "\n", c, store.bytes_live);
    }
    family(out, "nef_segments", "gauge", "Segment files.");
    for (uint32_t c = 0; c < count; c++) {
        nef_store_stats(nef_runtime_store(rt), c, &store);
        nef_buf_printf(out, "nef_segments{cell=\"%u\"} %" PRIu64 "\n", c, store.segments);
    }
}

/* The core knows a peer by its number, which is its place in the configuration; operators know it by its name. */
static void peers(const struct nef_runtime_stats *st, const struct nef_zone_config *config, struct nef_buf *out)
{
#define PER_PEER(name, help, value)                                                                \
    do {                                                                                           \
        family(out, name, "gauge", help);                                                          \
        for (uint32_t p = 0; p < config->peer_count && p < NEF_PEER_MAX; p++)                      \
            nef_buf_printf(out, "%s{peer=\"%s\"} %" PRIu64 "\n", name, config->peers[p].zone,      \
                           (uint64_t)(value));                                                     \
    } while (0)
    PER_PEER("nef_peer_up", "1 if the link to that zone is connected.", st->repl.peers[p].up);
    PER_PEER("nef_peer_in_sync", "1 if that zone is in sync.", st->repl.peers[p].in_sync);
    PER_PEER("nef_catch_up_left_bytes", "What a returning zone still lacks.", st->repl.peers[p].bytes_left);
    PER_PEER("nef_catch_up_blocked", "1 if that zone needs a record that can't be read here, and no zone has.",
             st->repl.peers[p].blocked);
#undef PER_PEER
}

/* A member that wasn't asked yet has no series. */
static void others(const struct nef_runtime_stats *st, const struct nef_zone_config *config, struct nef_buf *out)
{
    family(out, "nef_etcd_member_healthy", "gauge", "1 if that member of etcd is well.");
    for (uint32_t i = 0; i < config->etcd.endpoint_count; i++)
        if (st->etcd_member[i] != NEF_SEEN_NEVER)
            nef_buf_printf(out, "nef_etcd_member_healthy{endpoint=\"%s\"} %d\n", config->etcd.endpoints[i],
                           st->etcd_member[i] == NEF_SEEN_YES);
    if (st->witness_seen != NEF_SEEN_NEVER)
        gauge(out, "nef_witness_up", "1 if the witness answers.", st->witness_seen == NEF_SEEN_YES);
}

static void sync_times(const struct nef_runtime_stats *st, struct nef_buf *out)
{
    uint64_t cumulative = 0;

    family(out, "nef_sync_duration_seconds", "histogram", "fdatasync of a cell's log.");
    for (uint32_t i = 0; i < NEF_COUNT(st->sync_buckets); i++) {
        char bound[24] = "+Inf";

        cumulative += st->sync_buckets[i];
        if (i + 1 < NEF_COUNT(st->sync_buckets))
            (void)snprintf(bound, sizeof(bound), "%g", 32e-6 * (double)(1u << i));
        nef_buf_printf(out, "nef_sync_duration_seconds_bucket{le=\"%s\"} %" PRIu64 "\n", bound,
                       cumulative);
    }
    nef_buf_printf(out,
                   "nef_sync_duration_seconds_count %" PRIu64 "\n"
                   "nef_sync_duration_seconds_sum %.9f\n",
                   cumulative, (double)st->sync_ns_sum / 1e9);
    family(out, "nef_sync_duration_max_seconds", "gauge", "Longest sync of the last 10 s.");
    nef_buf_printf(out, "nef_sync_duration_max_seconds %.9f\n", (double)st->sync_ns_max / 1e9);
}

void nef_metrics_text(struct nef_metrics *m, struct nef_runtime *rt,
                      const struct nef_metrics_now *now, struct nef_buf *out)
{
    struct nef_runtime_stats *st = calloc(1, sizeof(*st)); /* some kilobytes */
    uint32_t have = 0, of = 0;

    if (st == NULL) {
        out->failed = true;
        return;
    }
    nef_runtime_stats(rt, st);
    nef_runtime_durability(rt, &have, &of);
    family(out, "nef_build", "info", "What runs here.");
    nef_buf_printf(out, "nef_build_info{version=\"%s\",zone=\"%s\"} 1\n", NEF_VERSION, now->config->zone);
    requests(m, out);
    gauge(out, "nef_connections", "Client connections of the S3 listener.", now->connections);
    gauge(out, "nef_worker_queue", "Requests that wait for a worker thread.", now->worker_queue);
    gauge(out, "nef_ready", "1 if the front may send requests here.", st->ready);
    gauge(out, "nef_primary", "1 if this zone is primary.", st->repl.role == NEF_ROLE_PRIMARY);
    gauge(out, "nef_epoch", "Epoch of the configuration.", st->repl.group.epoch);
    gauge(out, "nef_durability_zones", "Zones that hold what is acknowledged now.", have);
    gauge(out, "nef_durability_zones_wanted", "Zones of the region.", of);
    counter(out, "nef_failovers", "Epochs this process has taken.", st->failovers);
    cells(rt, st, now->config, out);
    peers(st, now->config, out);
    others(st, now->config, out);
    sync_times(st, out);
    gauge(out, "nef_disk_free_bytes", "Free on the data directory's file system.", st->free_bytes);
    gauge(out, "nef_disk_total_bytes", "Its size.", st->total_bytes);
    family(out, "nef_lost_bytes", "gauge", "Kept in lost/: of accepted losses, and of failovers (bounded).");
    nef_buf_printf(out, "nef_lost_bytes{kind=\"accepted\"} %" PRIu64 "\nnef_lost_bytes{kind=\"tail\"} %" PRIu64 "\n",
                   st->lost_accepted, st->lost_tails);
    counter(out, "nef_lost_removed_bytes", "Of failovers, removed from lost/ for its bound.", st->lost_removed);
    gauge(out, "nef_index_full", "1 if the index's disk has no space: writes are refused.", st->index_full);
    gauge(out, "nef_proposals_waiting", "Proposals without an outcome.", st->proposals_waiting);
    gauge(out, "nef_proposals_waiting_bytes", "Their bytes.", st->proposal_bytes_waiting);
    counter(out, "nef_log_appended_bytes", "Written to logs.", st->bytes_appended);
    counter(out, "nef_replication_sent_bytes", "Sent to other zones.", st->bytes_sent);
    counter(out, "nef_replication_received_bytes", "Received from other zones.",
            st->bytes_received);
    counter(out, "nef_scrub_read_bytes", "Read by the scrub.", st->scrub_bytes);
    counter(out, "nef_scrub_bad_records", "Records that didn't verify.", st->scrub_bad);
    counter(out, "nef_scrub_repaired_records", "Of those, repaired.", st->scrub_repaired);
    family(out, "nef_clock_adjust_seconds", "gauge",
           "What was added to this machine's clock because peer and witness agree against it.");
    nef_buf_printf(out, "nef_clock_adjust_seconds %.3f\n", (double)st->clock_adjust_ms / 1e3);
    family(out, "nef_clock_behind_seconds", "gauge", "System clock minus the time the zone uses.");
    nef_buf_printf(out, "nef_clock_behind_seconds %.3f\n", (double)nef_wall_behind_ms() / 1e3);
    free(st);
}
