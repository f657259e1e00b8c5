/* Configuration from a plan. What is decided here, and why:
 *
 *  etcd     heartbeat 100 ms and election 1000 ms (design section 10): leadership is kept at the witness by the witness
 *           process, so that the loss of a zone costs no election at all; pre-vote, so that a member that was paused
 *           comes back as a follower instead of forcing an election; client certificates both ways; the database is a
 *           few KiB, so a small quota and short snapshots; never --unsafe-no-fsync: invariant R2 rests on etcd's word
 *           being durable.
 *  HAProxy  tells a dead zone by failed connections (redispatched at once: `option redispatch 1`) and by checks of
 *           /health/ready every 100 ms. A request that a zone may have received is never sent again, unless it is a
 *           GET or HEAD that got no byte of an answer.
 *  zones    the first one is preferred, and the only one that may create the region's record. */
#include "cli/plan.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "server/config.h"

nef_err nef_text(char *out, size_t bytes, const char *format, ...)
{
    va_list args;
    int written;

    va_start(args, format);
    written = vsnprintf(out, bytes, format, args);
    va_end(args);
    return written >= 0 && (size_t)written < bytes ? NEF_OK : NEF_E_LIMIT;
}

static const char *open_bracket(const char *host)
{
    return strchr(host, ':') != NULL ? "[" : "";
}

static const char *close_bracket(const char *host)
{
    return strchr(host, ':') != NULL ? "]" : "";
}

void nef_plan_url(char out[NEF_URL_MAX], bool tls, const char *host, uint16_t port)
{
    int written = snprintf(out, NEF_URL_MAX, "%s://%s%s%s:%u", tls ? "https" : "http",
                           open_bracket(host), host, close_bracket(host), port);

    NEF_ASSERT(written > 0 && (size_t)written < NEF_URL_MAX);
}

/* ---- etcd ---- */

struct etcd_option {
    const char *name; /* as on the command line, without -- */
    char value[NEF_PATH_MAX];
};

struct etcd_options {
    struct etcd_option list[NEF_ETCD_ARGS_MAX - 2];
    uint32_t count;
    nef_err err;
};

static void NEF_PRINTF(3, 4)
    option(struct etcd_options *o, const char *name, const char *format, ...)
{
    va_list args;
    int written;

    NEF_ASSERT(o->count < NEF_COUNT(o->list));
    o->list[o->count].name = name;
    va_start(args, format);
    written = vsnprintf(o->list[o->count].value, sizeof(o->list[0].value), format, args);
    va_end(args);
    if (written < 0 || (size_t)written >= sizeof(o->list[0].value))
        o->err = NEF_E_LIMIT;
    o->count++;
}

static void etcd_options_of(const struct nef_plan *plan, uint32_t index, enum nef_etcd_start start,
                            unsigned joined, struct etcd_options *o)
{
    const struct nef_place *p = &plan->places[index];
    char cluster[NEF_PATH_MAX] = "";
    char peer[NEF_URL_MAX], client[NEF_URL_MAX], bind_peer[NEF_URL_MAX], bind_client[NEF_URL_MAX];
    size_t at = 0;

    for (uint32_t i = 0; i < NEF_PLAN_PLACES; i++) {
        int written;

        if (start == NEF_ETCD_START_JOIN && (joined & 1u << i) == 0)
            continue;
        nef_plan_url(peer, true, plan->places[i].host, plan->places[i].etcd_peer);
        written = snprintf(cluster + at, sizeof(cluster) - at, "%s%s=%s", at == 0 ? "" : ",",
                           plan->places[i].name, peer);
        if (written < 0 || (size_t)written >= sizeof(cluster) - at) {
            o->err = NEF_E_LIMIT;
            return;
        }
        at += (size_t)written;
    }
    nef_plan_url(peer, true, p->host, p->etcd_peer);
    nef_plan_url(client, true, p->host, p->etcd_client);
    nef_plan_url(bind_peer, true, p->bind, p->etcd_peer);
    nef_plan_url(bind_client, true, p->bind, p->etcd_client);

    option(o, "name", "%s", p->name);
    option(o, "data-dir", "%s", p->etcd_data);
    option(o, "listen-peer-urls", "%s", bind_peer);
    option(o, "listen-client-urls", "%s", bind_client);
    option(o, "initial-advertise-peer-urls", "%s", peer);
    option(o, "advertise-client-urls", "%s", client);
    option(o, "initial-cluster", "%s", cluster);
    option(o, "initial-cluster-token", "%s", plan->cluster_token);
    option(o, "initial-cluster-state", "%s", start == NEF_ETCD_START_JOIN ? "existing" : "new");
    option(o, "client-cert-auth", "true");
    option(o, "trusted-ca-file", "%s", p->ca);
    option(o, "cert-file", "%s", p->etcd_cert);
    option(o, "key-file", "%s", p->etcd_key);
    option(o, "peer-client-cert-auth", "true");
    option(o, "peer-trusted-ca-file", "%s", p->ca);
    option(o, "peer-cert-file", "%s", p->etcd_cert);
    option(o, "peer-key-file", "%s", p->etcd_key);
    option(o, "heartbeat-interval", "100");
    option(o, "election-timeout", "1000");
    option(o, "pre-vote", "true");
    option(o, "enable-v2", "false");
    option(o, "quota-backend-bytes", "%u", 256u << 20);
    option(o, "auto-compaction-mode", "revision");
    option(o, "auto-compaction-retention", "1000");
    option(o, "snapshot-count", "10000");
    option(o, "logger", "zap");
    option(o, "log-outputs", "stderr");
}

nef_err nef_plan_etcd_args(const struct nef_plan *plan, uint32_t place, const char *program,
                           enum nef_etcd_start start, unsigned joined, struct nef_etcd_args *out)
{
    struct etcd_options o = {.err = NEF_OK};
    struct nef_etcd_args args = {.count = 0};
    size_t at = 0;

    NEF_ASSERT(place < NEF_PLAN_PLACES);
    etcd_options_of(plan, place, start, joined, &o);
    if (o.err != NEF_OK)
        return o.err;
    for (uint32_t i = 0; i <= o.count; i++) {
        int written = i == 0 ? snprintf(args.text, sizeof(args.text), "%s", program)
                             : snprintf(args.text + at, sizeof(args.text) - at, "--%s=%s",
                                        o.list[i - 1].name, o.list[i - 1].value);

        if (written < 0 || (size_t)written >= sizeof(args.text) - at)
            return NEF_E_LIMIT;
        at += (size_t)written + 1;
    }
    *out = args;
    at = 0;
    for (uint32_t i = 0; i <= o.count; i++) { /* pointers into the copy that the caller holds */
        out->argv[i] = out->text + at;
        at += strlen(out->argv[i]) + 1;
    }
    out->count = o.count + 1;
    out->argv[out->count] = NULL;
    return NEF_OK;
}

nef_err nef_plan_etcd_env(const struct nef_plan *plan, uint32_t place, struct nef_buf *out)
{
    struct etcd_options o = {.err = NEF_OK};

    NEF_ASSERT(place < NEF_PLAN_PLACES);
    etcd_options_of(plan, place, NEF_ETCD_START_NORMAL, 0, &o);
    if (o.err != NEF_OK)
        return o.err;
    nef_buf_printf(
        out,
        "# etcd of place \"%s\" in region \"%s\"; written by nef init, for /etc/default/etcd.\n"
        "# ETCD_UNSAFE_NO_FSYNC must never be set: what the region promises rests on etcd's "
        "word.\n",
        plan->places[place].name, plan->region);
    for (uint32_t i = 0; i < o.count; i++) {
        nef_buf_text(out, "ETCD_");
        for (const char *c = o.list[i].name; *c != 0; c++)
            nef_buf_u8(out, *c == '-' ? '_' : (uint8_t)toupper((unsigned char)*c));
        nef_buf_printf(out, "=\"%s\"\n", o.list[i].value);
    }
    return nef_buf_end(out);
}

/* ---- HAProxy ---- */

static const struct {
    unsigned status;
    const char *why;
} own_answers[] = {
    {502, "The zone that had this request was lost."},
    {503, "No zone of the region can serve now."},
    {504, "The zone that had this request gave no answer."},
};

/* What the front answers itself where no zone can, in the form that a port's clients parse: BEFORE and AFTER go around
 * the sentence. */
static void answers_itself(const char *type, const char *before, const char *after, struct nef_buf *out)
{
    for (size_t i = 0; i < NEF_COUNT(own_answers); i++)
        nef_buf_printf(out, "    http-error status %u content-type %s hdr Retry-After 1 string '%s%s Please try again.%s'\n",
                       own_answers[i].status, type, before, own_answers[i].why, after);
}

static void answers_as_openai(struct nef_buf *out)
{
    answers_itself("application/json", "{\"error\":{\"message\":\"",
                   "\",\"type\":\"server_error\",\"param\":null,\"code\":\"no_zone\"}}", out);
}

static void ai_backend(const struct nef_plan *plan, uint32_t near, const char *ca, struct nef_buf *out)
{
    nef_buf_text(out,
                 "\n"
                 "backend ai-zones\n"
                 "    balance leastconn\n"
                 "    option httpchk GET /health\n"
                 "    http-check expect status 200\n"
                 "    # 404: nothing new, and streams go on; no answer: the zone is gone, and so are its streams\n"
                 "    http-check disable-on-404\n"
                 "    retry-on conn-failure empty-response\n"
                 "    # an answer of which nothing came may be asked for again: it changes nothing but what it costs\n"
                 "    http-request disable-l7-retry unless METH_GET or { path /v1/chat/completions /v1/completions "
                 "/v1/embeddings }\n");
    answers_as_openai(out);
    nef_buf_text(out,
                 "    default-server check inter 100ms fastinter 50ms downinter 200ms fall 3 rise 2 "
                 "on-marked-down shutdown-sessions\n");
    for (uint32_t n = 0; n < NEF_PLAN_ZONES; n++) {
        const struct nef_place *p = &plan->places[near < NEF_PLAN_ZONES ? (near + n) % NEF_PLAN_ZONES : n];

        nef_buf_printf(out, "    server ai-%s %s%s%s:%u", p->name, open_bracket(p->host), p->host,
                       close_bracket(p->host), p->ai);
        if (plan->tls)
            nef_buf_printf(out, " ssl check-ssl verify required verifyhost %s ca-file %s", p->host, ca);
        nef_buf_text(out, "\n");
    }
}

nef_err nef_plan_haproxy(const struct nef_plan *plan, uint32_t near, const char *ca,
                         struct nef_buf *out)
{
    nef_buf_printf(
        out,
        "# The front of region \"%s\": one address over both zones. Written by nef.\n"
        "global\n"
        "    maxconn 8192\n"
        "    # S3 allows 8 KB of headers and presigned URLs are long; both must fit one buffer\n"
        "    tune.bufsize 32768\n"
        "    tune.maxrewrite 2048\n"
        "    hard-stop-after 30s\n"
        "    log stderr format raw local0 err\n",
        plan->region);
    if (plan->tls)
        nef_buf_text(out, "    user haproxy\n    group haproxy\n"); /* systemd starts it as root */
    if (plan->front.pem[0] != 0)
        nef_buf_text(out, "    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets\n");
    nef_buf_text(
        out, "\n"
             "defaults\n"
             "    mode http\n"
             "    log global\n"
             "    # only requests that failed are logged; that a zone went away is said on "
             "standard error anyway\n"
             "    option httplog\n"
             "    option dontlog-normal\n"
             "    option log-separate-errors\n"
             "    timeout connect 200ms\n"
             "    timeout check 200ms\n"
             "    retries 3\n"
             "    option redispatch 1\n"
             "    # a client that stalls; data that moves in either direction counts as activity\n"
             "    timeout client 120s\n"
             "    # a zone may work silently on a large copy; a zone that is gone is told by its "
             "checks\n"
             "    timeout server 900s\n"
             "    timeout http-request 15s\n"
             "    timeout http-keep-alive 60s\n"
             "    timeout queue 5s\n"
             "    option http-keep-alive\n"
             "    # the first request of a client never goes over a connection that may just have "
             "been closed\n"
             "    http-reuse safe\n"
             "    # what the front itself answers while no zone can: S3's form, which clients parse; OpenAI's for ai\n");
    answers_itself("application/xml",
                   "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>ServiceUnavailable</Code><Message>",
                   "</Message></Error>", out);
    nef_buf_text(out, "\nfrontend s3\n");
    nef_buf_printf(out, "    bind %s%s%s:%u%s%s\n", open_bracket(plan->front.bind),
                   plan->front.bind, close_bracket(plan->front.bind), plan->front.port,
                   plan->front.pem[0] != 0 ? " ssl alpn http/1.1 crt " : "", plan->front.pem);
    nef_buf_printf(out, "    default_backend zones\n\nfrontend ai\n    bind %s%s%s:%u%s%s\n",
                   open_bracket(plan->front.bind), plan->front.bind, close_bracket(plan->front.bind),
                   plan->front.ai_port, plan->front.pem[0] != 0 ? " ssl alpn http/1.1 crt " : "", plan->front.pem);
    answers_as_openai(out);
    nef_buf_text(
        out, "    default_backend ai-zones\n"
             "\n"
             "backend zones\n"
             "    balance roundrobin\n"
             "    option httpchk GET /health/ready\n"
             "    http-check expect status 200\n"
             "    retry-on conn-failure empty-response\n"
             "    # only a read may be sent a second time; METH_GET is GET and HEAD\n"
             "    http-request disable-l7-retry unless METH_GET\n"
             "    default-server check inter 100ms fastinter 50ms downinter 200ms fall 3 rise 2 "
             "on-marked-down shutdown-sessions\n");
    for (uint32_t n = 0; n < NEF_PLAN_ZONES; n++) {
        uint32_t i = near < NEF_PLAN_ZONES ? (near + n) % NEF_PLAN_ZONES : n;
        const struct nef_place *p = &plan->places[i];

        nef_buf_printf(out, "    server zone-%s %s%s%s:%u port %u", p->name, open_bracket(p->host),
                       p->host, close_bracket(p->host), p->s3, p->admin);
        if (plan->tls)
            nef_buf_printf(out, " ssl check-ssl verify required verifyhost %s ca-file %s", p->host,
                           ca);
        nef_buf_text(out, "\n");
    }
    ai_backend(plan, near, ca, out);
    return nef_buf_end(out);
}

/* ---- zones and witness ---- */

/* The config structs hold pointers that they would own after a load; here they borrow ours, as
 * nef_zone_config_preset allows. The write functions don't change them. */
static char *borrow(const char *text)
{
    return (char *)(uintptr_t)text;
}

static nef_err host_port(struct nef_host_port *out, const char *host, uint16_t port)
{
    out->port = port;
    return nef_text(out->host, sizeof(out->host), "%s", host);
}

static void fill_etcd(const struct nef_plan *plan, uint32_t own, char urls[][NEF_URL_MAX],
                      char **endpoints, char *prefix, struct nef_etcd_config *out)
{
    const struct nef_place *p = &plan->places[own];
    /* own member first, then the witness's, whose member leads, then the rest */
    uint32_t order[NEF_PLAN_PLACES], count = 0;

    order[count++] = own;
    for (uint32_t i = NEF_PLAN_PLACES; i-- > 0;)
        if (i != own)
            order[count++] = i;
    for (uint32_t i = 0; i < count; i++) {
        const struct nef_place *member = &plan->places[order[i]];

        nef_plan_url(urls[i], true, member->host, member->etcd_client);
        endpoints[i] = urls[i];
    }
    out->endpoints = endpoints;
    out->endpoint_count = count;
    out->tls.ca = borrow(p->ca);
    out->tls.cert = borrow(p->cert);
    out->tls.key = borrow(p->key);
    free(out->prefix); /* the preset, which is the struct's own */
    out->prefix = prefix;
}

static nef_err fill_admin(const struct nef_plan *plan, const struct nef_place *p,
                          struct nef_admin_config *out)
{
    out->has_tls = plan->tls;
    if (plan->tls) {
        out->tls.cert = borrow(p->cert);
        out->tls.key = borrow(p->key);
    }
    out->token_file = borrow(p->token_file);
    out->metrics_token_file = borrow(p->metrics_token_file);
    return host_port(&out->listen, p->bind, p->admin);
}

/* peers: NEF_PLAN_ZONES - 1 of them, which the configuration borrows. */
static nef_err fill_ai(const struct nef_plan *plan, uint32_t zone, struct nef_ai_peer_config *peers,
                       struct nef_ai_config *out)
{
    const struct nef_place *p = &plan->places[zone];
    nef_err err = nef_ai_config_preset(out);

    if (err != NEF_OK)
        return err;
    err = host_port(&out->listener.listen, p->bind, p->ai);
    if (err == NEF_OK)
        err = host_port(&out->relay, p->bind, p->relay);
    for (uint32_t i = 0; i < NEF_PLAN_ZONES && err == NEF_OK; i++) {
        if (i == zone)
            continue;
        peers[out->peer_count].zone = borrow(plan->places[i].name);
        err = host_port(&peers[out->peer_count++].address, plan->places[i].host, plan->places[i].relay);
    }
    out->peers = peers;
    out->listener.has_tls = plan->tls;
    if (plan->tls) {
        out->listener.tls.cert = borrow(p->cert);
        out->listener.tls.key = borrow(p->key);
    }
    out->has_engine = true;
    if (plan->model[0] != '\0')
        out->engine.model = borrow(plan->model);
    if (plan->model_file[0] != '\0')
        out->engine.model_file = borrow(plan->model_file);
    return err;
}

nef_err nef_plan_write_zone(const struct nef_plan *plan, uint32_t zone, const char *path)
{
    const struct nef_place *p = &plan->places[zone], *w = &plan->places[NEF_PLAN_WITNESS];
    struct nef_zone_config c;
    struct nef_peer_config peers[NEF_PLAN_ZONES - 1];
    struct nef_ai_peer_config ai_peers[NEF_PLAN_ZONES - 1];
    char urls[NEF_PLAN_PLACES][NEF_URL_MAX], witness[NEF_URL_MAX], prefix[NEF_REGION_NAME_MAX + 8];
    char *endpoints[NEF_PLAN_PLACES];
    uint32_t peer_count = 0;
    nef_err err;

    NEF_ASSERT(zone < NEF_PLAN_ZONES);
    err = nef_zone_config_preset(&c);
    if (err != NEF_OK)
        return err;
    c.region = borrow(plan->region);
    c.region_id = plan->region_id;
    c.zone = borrow(p->name);
    c.data_dir = borrow(p->data);
    c.cells = plan->cells;
    c.preferred = zone == 0;
    c.bootstrap = zone == 0;
    err = host_port(&c.listeners.s3.listen, p->bind, p->s3);
    if (err == NEF_OK)
        err = host_port(&c.listeners.peer.listen, p->bind, p->peer);
    if (err == NEF_OK)
        err = fill_admin(plan, p, &c.listeners.admin);
    c.has_ai = true;
    if (err == NEF_OK)
        err = fill_ai(plan, zone, ai_peers, &c.ai);
    if (err == NEF_OK)
        err = nef_text(prefix, sizeof(prefix), "/nef/%s/", plan->region);
    for (uint32_t i = 0; i < NEF_PLAN_ZONES && err == NEF_OK; i++) {
        if (i == zone)
            continue;
        peers[peer_count].zone = borrow(plan->places[i].name);
        err = host_port(&peers[peer_count].address, plan->places[i].host, plan->places[i].peer);
        peer_count++;
    }
    if (err != NEF_OK)
        return err;
    c.listeners.s3.has_tls = plan->tls;
    if (plan->tls) {
        c.listeners.s3.tls.cert = borrow(p->cert);
        c.listeners.s3.tls.key = borrow(p->key);
    }
    c.tls.ca = borrow(p->ca);
    c.tls.cert = borrow(p->cert);
    c.tls.key = borrow(p->key);
    c.peers = peers;
    c.peer_count = peer_count;
    nef_plan_url(witness, plan->tls, w->host, w->admin);
    c.witness.address = witness;
    fill_etcd(plan, zone, urls, endpoints, prefix, &c.etcd);
    c.keys.customer_key_file = borrow(p->customer_key_file);
    c.root_credentials_file = borrow(p->root_file);
    return nef_zone_config_write(path, &c);
}

nef_err nef_plan_write_witness(const struct nef_plan *plan, const char *path)
{
    const struct nef_place *p = &plan->places[NEF_PLAN_WITNESS];
    struct nef_witness_config c;
    struct nef_witness_zone zones[NEF_PLAN_ZONES];
    char urls[NEF_PLAN_PLACES][NEF_URL_MAX], prefix[NEF_REGION_NAME_MAX + 8];
    char admin[NEF_PLAN_ZONES][NEF_URL_MAX];
    char *endpoints[NEF_PLAN_PLACES];
    nef_err err;

    err = nef_witness_config_preset(&c);
    if (err != NEF_OK)
        return err;
    c.region = borrow(plan->region);
    c.region_id = plan->region_id;
    c.name = borrow(p->name);
    err = fill_admin(plan, p, &c.admin);
    if (err == NEF_OK)
        err = nef_text(prefix, sizeof(prefix), "/nef/%s/", plan->region);
    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++) {
        nef_plan_url(admin[i], plan->tls, plan->places[i].host, plan->places[i].admin);
        zones[i].zone = borrow(plan->places[i].name);
        zones[i].address = admin[i];
    }
    c.zones = zones;
    c.zone_count = NEF_PLAN_ZONES;
    fill_etcd(plan, NEF_PLAN_WITNESS, urls, endpoints, prefix, &c.etcd);
    return nef_witness_config_write(path, &c);
}
