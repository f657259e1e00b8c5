/* The witness's admin listener: health, time, metrics, status. Every answer is made at once from
 * what the main thread saw last, so nothing here waits and an outsider can make nothing large. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "io/clock.h"
#include "http/http.h"
#include "witness/witness_internal.h"

#define CONNECTIONS_MAX 64u
#define IDLE_S          30u
#define STALE_MS        3000u /* an etcd member that was silent for so long isn't there */

bool nef_witness_ready(const struct nef_witness_seen *seen, uint64_t now_ms)
{
    return seen->member_answers && seen->member.leader_id != 0 && now_ms - seen->at_ms < STALE_MS;
}

void nef_witness_status_text(const struct nef_witness *w, const struct nef_witness_seen *seen,
                             struct nef_buf *out)
{
    const struct nef_etcd_status *m = &seen->member;

    /* names are a-z, 0-9 and '-' by the configuration's schema: nothing to escape */
    nef_buf_printf(
        out,
        "{\"region\": \"%s\", \"witness\": \"%s\", \"wall_ms\": %" PRIu64
        ", \"ready\": %s, \"etcd\": {\"answers\": %s, \"leads\": %s, \"has_leader\": %s, "
        "\"term\": %" PRIu64 ", \"index\": %" PRIu64 ", \"bytes\": %" PRIu64
        ", \"transfers\": %" PRIu64 ", \"transfer_failures\": %" PRIu64 "}, \"zones\": [",
        w->config.region, w->config.name, nef_wall_ms(),
        nef_witness_ready(seen, nef_now_ms()) ? "true" : "false",
        seen->member_answers ? "true" : "false",
        seen->member_answers && m->leader_id == m->member_id ? "true" : "false",
        seen->member_answers && m->leader_id != 0 ? "true" : "false", m->raft_term, m->raft_index,
        m->db_bytes, seen->transfers, seen->transfer_failures);
    for (uint32_t i = 0; i < seen->zone_count; i++) {
        const struct nef_witness_zone_seen *z = &seen->zones[i];

        nef_buf_printf(out, "%s{\"name\": \"%s\", \"answers\": %s, \"ready\": %s, \"clock_ms\": ",
                       i == 0 ? "" : ", ", z->name, z->answers ? "true" : "false",
                       z->ready ? "true" : "false");
        if (z->clock_known)
            nef_buf_printf(out, "%" PRId64 "}", z->clock_ms);
        else
            nef_buf_text(out, "null}");
    }
    nef_buf_text(out, "]}\n");
}

static void gauge(struct nef_buf *out, const char *name, const char *help, uint64_t value)
{
    nef_buf_printf(out, "# TYPE %s gauge\n# HELP %s %s\n%s %" PRIu64 "\n", name, name, help, name,
                   value);
}

void nef_witness_metrics_text(const struct nef_witness *w, const struct nef_witness_seen *seen,
                              struct nef_buf *out)
{
    const struct nef_etcd_status *m = &seen->member;

    (void)w; /* nothing of the configuration is shown */
    gauge(out, "nef_witness_ready", "Own etcd member answers and knows a leader.",
          nef_witness_ready(seen, nef_now_ms()) ? 1 : 0);
    gauge(out, "nef_witness_leads", "Own etcd member is the leader.",
          seen->member_answers && m->leader_id == m->member_id ? 1 : 0);
    gauge(out, "nef_witness_etcd_term", "Raft term of the own member.", m->raft_term);
    gauge(out, "nef_witness_etcd_bytes", "Size of the own member's database.", m->db_bytes);
    nef_buf_printf(
        out,
        "# TYPE nef_witness_transfers counter\n# HELP nef_witness_transfers Leadership taken "
        "back.\nnef_witness_transfers_total %" PRIu64 "\n",
        seen->transfers);
    nef_buf_printf(
        out,
        "# TYPE nef_witness_transfer_failures counter\n# HELP nef_witness_transfer_failures "
        "Tries that failed.\nnef_witness_transfer_failures_total %" PRIu64 "\n",
        seen->transfer_failures);
    nef_buf_text(
        out, "# TYPE nef_witness_zone_ready gauge\n# HELP nef_witness_zone_ready Zone says that it "
             "is ready.\n");
    for (uint32_t i = 0; i < seen->zone_count; i++)
        nef_buf_printf(out, "nef_witness_zone_ready{zone=\"%s\"} %d\n", seen->zones[i].name,
                       seen->zones[i].ready ? 1 : 0);
    nef_buf_text(
        out, "# TYPE nef_witness_zone_clock_seconds gauge\n# HELP nef_witness_zone_clock_seconds "
             "Zone's wall time minus the witness's.\n");
    for (uint32_t i = 0; i < seen->zone_count; i++)
        if (seen->zones[i].clock_known)
            nef_buf_printf(out, "nef_witness_zone_clock_seconds{zone=\"%s\"} %.3f\n",
                           seen->zones[i].name, (double)seen->zones[i].clock_ms / 1000.0);
    nef_buf_text(out, "# EOF\n");
}

/* ---- requests ---- */

struct call {
    struct nef_witness *w;
    struct nef_http_request *r;
};

static bool authorized(const struct call *call, bool metrics)
{
    const char *header = nef_http_header(call->r, "Authorization");

    return nef_token_matches(header, call->w->token) || (metrics && nef_token_matches(header, call->w->metrics_token));
}

/* Gives the text's memory away; one that couldn't be built drops the connection. */
static enum nef_http_next give(struct call *call, unsigned status, const char *type,
                               struct nef_buf *text)
{
    if (nef_buf_end(text) != NEF_OK) {
        nef_buf_free(text);
        return NEF_HTTP_DROP;
    }
    nef_http_answer(call->r, status, text->data, text->bytes);
    nef_http_answer_header(call->r, "Content-Type", type);
    return NEF_HTTP_ANSWERED;
}

static enum nef_http_next plain(struct call *call, unsigned status, const char *line)
{
    struct nef_buf text = {0};

    nef_buf_printf(&text, "%s\n", line);
    return give(call, status, "text/plain", &text);
}

static enum nef_http_next route(struct call *call)
{
    const char *method = nef_http_method(call->r), *target = nef_http_target(call->r);
    struct nef_witness_seen seen;
    struct nef_buf text = {0};

    if (strcmp(method, "GET") != 0)
        return plain(call, 405, "only GET");
    if (strcmp(target, "/health/live") == 0)
        return plain(call, 200, "live");
    if (strcmp(target, "/time") == 0) {
        nef_buf_printf(&text, "{\"wall_ms\": %" PRIu64 "}\n", nef_wall_ms());
        return give(call, 200, "application/json", &text);
    }
    (void)pthread_mutex_lock(&call->w->lock);
    seen = call->w->seen;
    (void)pthread_mutex_unlock(&call->w->lock);
    if (strcmp(target, "/health/ready") == 0)
        return nef_witness_ready(&seen, nef_now_ms()) ? plain(call, 200, "ready")
                                                      : plain(call, 503, "no etcd leader known");
    if (strcmp(target, "/metrics") != 0 && strcmp(target, "/status") != 0)
        return plain(call, 404, "not found");
    if (!authorized(call, strcmp(target, "/metrics") == 0))
        return plain(call, 401, "needs the admin token: Authorization: Bearer ...");
    if (strcmp(target, "/status") == 0) {
        nef_witness_status_text(call->w, &seen, &text);
        return give(call, 200, "application/json", &text);
    }
    nef_witness_metrics_text(call->w, &seen, &text);
    return give(call, 200, "application/openmetrics-text; version=1.0.0; charset=utf-8", &text);
}

static void *on_open(void *context, struct nef_http_request *r)
{
    struct call *call = malloc(sizeof(*call));

    if (call != NULL)
        *call = (struct call){context, r};
    return call;
}

static enum nef_http_next on_begin(void *call)
{
    return route(call);
}

static enum nef_http_next on_body(void *call, const uint8_t *data, size_t bytes, size_t *out_used)
{
    (void)call; /* answered already; what comes is thrown away */
    (void)data;
    *out_used = bytes;
    return NEF_HTTP_ANSWERED;
}

static enum nef_http_next on_end(void *call)
{
    (void)call; /* answered in on_begin */
    return NEF_HTTP_ANSWERED;
}

static void on_closed(void *call, bool complete)
{
    (void)complete; /* an operator's request: nothing depends on it */
    free(call);
}

nef_err nef_witness_listen(struct nef_witness *w, struct nef_http **out_http)
{
    const struct nef_admin_config *admin = &w->config.admin;
    struct nef_http_options options = {
        .listen = admin->listen,
        .cert_file = admin->has_tls ? admin->tls.cert : NULL,
        .key_file = admin->has_tls ? admin->tls.key : NULL,
        .connections_max = CONNECTIONS_MAX,
        .threads = 1,
        .idle_timeout_s = IDLE_S,
        .handler = {on_open, on_begin, on_body, on_end, on_closed, w},
    };

    return nef_http_start(&options, out_http);
}
