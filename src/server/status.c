/* What the runtime says of itself: numbers for metrics and health, and the JSON of `nef status`. */
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "io/clock.h"
#include "server/runtime_internal.h"

#define NO_LEASE_NS 1500000000ull /* readiness survives a shorter gap: else the front would drain the survivor */

static const char *role_name(enum nef_role role)
{
    static const char *const names[] = {"starting", "out",     "catching_up", "backup",
                                        "seeking",  "primary", "stopped"};

    return (unsigned)role < NEF_COUNT(names) ? names[role] : "unknown";
}

/* Core thread, every sweep. */
void note_serving(struct nef_runtime *rt, uint64_t now)
{
    bool serving = now < atomic_load(&rt->serve_until);

    pthread_mutex_lock(&rt->status_lock);
    if (serving) {
        rt->last_served_ns = now;
        rt->ever_served = true;
    }
    if (ready(rt, now))
        rt->not_ready_since_ns = 0;
    else if (rt->not_ready_since_ns == 0)
        rt->not_ready_since_ns = now;
    pthread_mutex_unlock(&rt->status_lock);
}

/* Under status_lock. */
bool ready(const struct nef_runtime *rt, uint64_t now)
{
    enum nef_role role = rt->status.role;

    if (atomic_load(&rt->draining) || !atomic_load(&rt->clock_settled))
        return false;
    if (role == NEF_ROLE_OUT || role == NEF_ROLE_CATCHING_UP || role == NEF_ROLE_STOPPED)
        return false;
    /* not `now - last`: the caller's now may be older than the core's last sweep */
    return rt->ever_served && now < rt->last_served_ns + NO_LEASE_NS;
}

void nef_runtime_stats(struct nef_runtime *rt, struct nef_runtime_stats *out)
{
    uint64_t now = now_ns();

    memset(out, 0, sizeof(*out));
    pthread_mutex_lock(&rt->status_lock);
    out->repl = rt->status;
    out->failovers = rt->failovers;
    out->sync_ns_max = sync_longest(rt, now);
    out->ready = ready(rt, now);
    if (!out->ready && rt->not_ready_since_ns != 0)
        out->not_ready_since_ms = rt->not_ready_since_ns / 1000000;
    pthread_mutex_unlock(&rt->status_lock);
    for (uint32_t i = 0; i < rt->cell_count; i++)
        out->applied[i] = nef_store_applied(rt->store, i);
    out->zones_configured = 1 + rt->config->peer_count;
    out->free_bytes = atomic_load(&rt->free_bytes);
    out->total_bytes = atomic_load(&rt->total_bytes);
    out->sync_count = atomic_load(&rt->sync_count);
    for (uint32_t i = 0; i < rt->cell_count; i++)
        out->index_full = out->index_full || atomic_load(&rt->cells[i].index_full);
    out->lost_accepted = atomic_load(&rt->lost_accepted);
    out->lost_tails = atomic_load(&rt->lost_tails);
    out->lost_removed = atomic_load(&rt->lost_removed);
    out->sync_ns_sum = atomic_load(&rt->sync_ns_sum);
    for (uint32_t i = 0; i < 16; i++)
        out->sync_buckets[i] = atomic_load(&rt->sync_buckets[i]);
    pthread_mutex_lock(&rt->props.lock);
    out->proposals_waiting = rt->props.count;
    out->proposal_bytes_waiting = rt->props.bytes;
    pthread_mutex_unlock(&rt->props.lock);
    out->scrub_bytes = atomic_load(&rt->scrub_bytes);
    out->scrub_bad = atomic_load(&rt->scrub_bad);
    out->scrub_repaired = atomic_load(&rt->scrub_repaired);
    out->bytes_appended = atomic_load(&rt->bytes_appended);
    for (uint32_t i = 0; i < rt->link_count; i++) {
        out->bytes_sent += atomic_load(&rt->links[i].bytes_sent);
        out->bytes_received += atomic_load(&rt->links[i].bytes_received);
    }
    out->clock_adjust_ms = nef_wall_behind_ms();
    for (uint32_t i = 0; i < rt->config->etcd.endpoint_count; i++)
        out->etcd_member[i] = (enum nef_seen)atomic_load(&rt->etcd_member[i]);
    out->witness_seen = (enum nef_seen)atomic_load(&rt->witness_seen);
    out->now_ns = now;
}

bool nef_runtime_clock_known(const struct nef_runtime *rt)
{
    return atomic_load_explicit(&rt->clock_settled, memory_order_relaxed);
}

void nef_runtime_durability(struct nef_runtime *rt, uint32_t *out_have, uint32_t *out_of)
{
    pthread_mutex_lock(&rt->status_lock);
    *out_have = rt->status.in_sync_count;
    pthread_mutex_unlock(&rt->status_lock);
    *out_of = 1 + rt->config->peer_count;
}

/* ---- nef status ---- */

static bool zone_in_sync(const struct nef_repl_status *s, const char *zone)
{
    for (uint32_t i = 0; i < s->group.member_count; i++)
        if (strcmp(s->group.members[i].zone, zone) == 0 && (s->group.in_sync >> i & 1) != 0)
            return true;
    return false;
}

static bool zone_is_primary(const struct nef_repl_status *s, const char *zone)
{
    return s->primary >= 0 && strcmp(s->group.members[s->primary].zone, zone) == 0;
}

static void put_catch_up(struct nef_runtime *rt, uint32_t peer, uint64_t bytes_left, uint64_t now,
                         struct nef_buf *out)
{
    struct catch_up *c = &rt->catch_up[peer];

    pthread_mutex_lock(&rt->status_lock);
    if (c->since_ns == 0 || bytes_left > c->first_left) {
        c->since_ns = now;
        c->first_left = bytes_left;
    }
    nef_buf_printf(out, "{\"bytes_left\":%llu,", (unsigned long long)bytes_left);
    if (bytes_left < c->first_left)
        nef_buf_printf(out, "\"eta_s\":%.1f}",
                       (double)(now - c->since_ns) / 1e9 * (double)bytes_left /
                           (double)(c->first_left - bytes_left));
    else
        nef_buf_text(out, "\"eta_s\":null}");
    pthread_mutex_unlock(&rt->status_lock);
}

/* It needs a record that the primary can't read. */
static void put_blocked(bool blocked, uint32_t cell, uint64_t offset, struct nef_buf *out)
{
    if (blocked)
        nef_buf_printf(out, ",\"blocked\":{\"cell\":%u,\"offset\":%llu}", cell, (unsigned long long)offset);
    else
        nef_buf_text(out, ",\"blocked\":null");
}

static void put_cells(struct nef_runtime *rt, const struct nef_repl_status *s, struct nef_buf *out)
{
    nef_buf_text(out, "\"cells\":[");
    for (uint32_t c = 0; c < rt->cell_count; c++) {
        uint64_t least = s->cells[c].end, most = s->cells[c].end;

        nef_buf_printf(out, "%s{\"id\":%u,\"primary\":", c == 0 ? "" : ",", c);
        if (s->primary >= 0)
            nef_buf_printf(out, "\"%s\"", s->group.members[s->primary].zone);
        else
            nef_buf_text(out, "null");
        nef_buf_printf(out, ",\"log_end\":{\"%s\":%llu", rt->config->zone,
                       (unsigned long long)s->cells[c].end);
        for (uint32_t p = 0; p < rt->link_count; p++) {
            uint64_t durable = s->peers[p].durable[c];

            if (!s->peers[p].up || durable == 0)
                continue;
            nef_buf_printf(out, ",\"%s\":%llu", rt->links[p].zone, (unsigned long long)durable);
            least = NEF_MIN(least, durable);
            most = NEF_MAX(most, durable);
        }
        nef_buf_printf(out, "},\"durable\":%llu,\"commit\":%llu,\"applied\":%llu,\"lag\":%llu}",
                       (unsigned long long)s->cells[c].durable,
                       (unsigned long long)s->cells[c].commit,
                       (unsigned long long)nef_store_applied(rt->store, c),
                       (unsigned long long)(most - least));
    }
    nef_buf_text(out, "]");
}

static const char *seen_json(unsigned seen)
{
    return seen == NEF_SEEN_YES ? "true" : seen == NEF_SEEN_NO ? "false" : "null";
}

/* What isn't a zone, as this one sees it. */
static void put_others(struct nef_runtime *rt, struct nef_buf *out)
{
    if (rt->config->witness.address != NULL)
        nef_buf_printf(out, "\"witness\":{\"address\":\"%s\",\"answers\":%s},", rt->config->witness.address,
                       seen_json(atomic_load(&rt->witness_seen)));
    nef_buf_text(out, "\"etcd\":[");
    for (uint32_t i = 0; i < rt->config->etcd.endpoint_count; i++)
        nef_buf_printf(out, "%s{\"endpoint\":\"%s\",\"healthy\":%s}", i == 0 ? "" : ",",
                       rt->config->etcd.endpoints[i], seen_json(atomic_load(&rt->etcd_member[i])));
    nef_buf_text(out, "],");
}

void nef_runtime_status_json(struct nef_runtime *rt, struct nef_buf *out)
{
    static struct nef_repl_status s; /* large; under json_lock */
    static pthread_mutex_t json_lock = PTHREAD_MUTEX_INITIALIZER;
    uint64_t now = now_ns();
    bool is_ready;

    pthread_mutex_lock(&json_lock);
    pthread_mutex_lock(&rt->status_lock);
    s = rt->status;
    is_ready = ready(rt, now);
    pthread_mutex_unlock(&rt->status_lock);
    nef_buf_printf(out, "{\"region\":\"%s\",\"zone\":\"%s\",\"role\":\"%s\",\"ready\":%s,",
                   rt->config->region, rt->config->zone, role_name(s.role),
                   is_ready ? "true" : "false");
    if (s.role == NEF_ROLE_STOPPED)
        nef_buf_printf(out, "\"error\":\"%s\",", nef_err_text(s.err));
    nef_buf_printf(out, "\"epoch\":%llu,\"durability\":\"%u/%u\",", (unsigned long long)s.group.epoch,
                   s.in_sync_count, 1 + rt->config->peer_count);
    nef_buf_printf(out, "\"lost\":{\"accepted_bytes\":%llu,\"tail_bytes\":%llu},",
                   (unsigned long long)atomic_load(&rt->lost_accepted),
                   (unsigned long long)atomic_load(&rt->lost_tails));
    put_others(rt, out);
    put_cells(rt, &s, out);
    nef_buf_printf(out,
                   ",\"zones\":[{\"name\":\"%s\",\"state\":\"%s\",\"in_sync\":%s,"
                   "\"last_contact_ms\":0,\"catch_up\":null",
                   rt->config->zone, s.blocked ? "blocked" : role_name(s.role),
                   s.self >= 0 && (s.group.in_sync >> s.self & 1) != 0 ? "true" : "false");
    put_blocked(s.blocked, s.blocked_cell, s.blocked_offset, out);
    nef_buf_text(out, "}");
    for (uint32_t p = 0; p < rt->link_count; p++) {
        const char *zone = rt->links[p].zone;
        bool in_sync = zone_in_sync(&s, zone);
        const char *state = !s.peers[p].up                     ? "unreachable"
                            : in_sync && zone_is_primary(&s, zone) ? "primary"
                            : in_sync                          ? "backup"
                            : s.peers[p].blocked               ? "blocked"
                            : s.peers[p].catching_up           ? "catching_up"
                                                               : "out";

        nef_buf_printf(out, ",{\"name\":\"%s\",\"state\":\"%s\",\"in_sync\":%s,\"last_contact_ms\":",
                       zone, state, in_sync ? "true" : "false");
        if (s.peers[p].last_heard == 0)
            nef_buf_text(out, "null");
        else
            nef_buf_printf(out, "%llu",
                           (unsigned long long)((now - NEF_MIN(now, s.peers[p].last_heard)) / 1000000));
        nef_buf_text(out, ",\"catch_up\":");
        if (s.peers[p].catching_up) {
            put_catch_up(rt, p, s.peers[p].bytes_left, now, out);
        } else {
            pthread_mutex_lock(&rt->status_lock);
            rt->catch_up[p].since_ns = 0;
            pthread_mutex_unlock(&rt->status_lock);
            nef_buf_text(out, "null");
        }
        put_blocked(s.peers[p].blocked, s.peers[p].blocked_cell, s.peers[p].blocked_offset, out);
        nef_buf_text(out, "}");
    }
    nef_buf_text(out, "]}");
    pthread_mutex_unlock(&json_lock);
}
