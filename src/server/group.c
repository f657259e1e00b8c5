/* The record in etcd: its JSON, and the thread that reads and swaps it.
 *
 * JSON rather than bytes: an operator must be able to read it with etcdctl. It holds ids of replicas, names
 * of zones and log positions; no customer data, no name of theirs, no key.
 *   {"version":1,"epoch":7,"members":[{"replica":"<hex 16>","zone":"a"}],"in_sync":["<hex>"],
 *    "primary":["<hex>", ...one a cell], "first_offset":[...],"nonce":"<hex 16>","override_epoch":0} */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "server/runtime_internal.h"

nef_err group_to_json(const struct nef_group *g, struct nef_buf *out)
{
    char hex[33];
    uint8_t nonce[16];

    nef_buf_printf(out, "{\"version\":1,\"epoch\":%llu,\"members\":[", (unsigned long long)g->epoch);
    for (uint32_t i = 0; i < g->member_count; i++) {
        nef_hex(g->members[i].replica.bytes, 16, hex);
        nef_buf_printf(out, "%s{\"replica\":\"%s\",\"zone\":\"%s\"}", i == 0 ? "" : ",", hex,
                       g->members[i].zone);
    }
    nef_buf_text(out, "],\"in_sync\":[");
    for (uint32_t i = 0, n = 0; i < g->member_count; i++)
        if ((g->in_sync >> i & 1) != 0) {
            nef_hex(g->members[i].replica.bytes, 16, hex);
            nef_buf_printf(out, "%s\"%s\"", n++ == 0 ? "" : ",", hex);
        }
    nef_buf_text(out, "],\"primary\":[");
    for (uint32_t c = 0; c < g->cell_count; c++) {
        nef_hex(g->members[g->primary[c]].replica.bytes, 16, hex);
        nef_buf_printf(out, "%s\"%s\"", c == 0 ? "" : ",", hex);
    }
    nef_buf_text(out, "],\"first_offset\":[");
    for (uint32_t c = 0; c < g->cell_count; c++)
        nef_buf_printf(out, "%s%llu", c == 0 ? "" : ",", (unsigned long long)g->first_offset[c]);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 8; k++)
            nonce[8 * i + k] = (uint8_t)(g->nonce[i] >> (8 * k));
    nef_hex(nonce, 16, hex);
    nef_buf_printf(out, "],\"nonce\":\"%s\",\"override_epoch\":%llu}", hex,
                   (unsigned long long)g->override_epoch);
    return nef_buf_end(out);
}

static int member_of(const struct nef_group *g, json_t *hex)
{
    struct nef_id id;

    if (!json_is_string(hex) ||
        nef_unhex(json_string_value(hex), json_string_length(hex), id.bytes, 16) != NEF_OK)
        return -1;
    for (uint32_t i = 0; i < g->member_count; i++)
        if (nef_id_equal(&g->members[i].replica, &id))
            return (int)i;
    return -1;
}

nef_err group_from_json(const char *text, size_t bytes, struct nef_group *out_group)
{
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    json_t *members, *in_sync, *primary, *first, *nonce, *epoch, *override;
    struct nef_group g = {0};
    uint8_t n[16];
    nef_err err = NEF_E_PROTOCOL;

    if (root == NULL)
        return NEF_E_PROTOCOL;
    if (json_integer_value(json_object_get(root, "version")) != 1) {
        err = NEF_E_VERSION;
        goto out;
    }
    epoch = json_object_get(root, "epoch");
    members = json_object_get(root, "members");
    in_sync = json_object_get(root, "in_sync");
    primary = json_object_get(root, "primary");
    first = json_object_get(root, "first_offset");
    nonce = json_object_get(root, "nonce");
    override = json_object_get(root, "override_epoch");
    if (!json_is_integer(epoch) || json_integer_value(epoch) < 1 || !json_is_integer(override) ||
        json_integer_value(override) < 0 || json_integer_value(override) > json_integer_value(epoch) ||
        json_array_size(members) < 1 ||
        json_array_size(members) > NEF_REPLICA_MAX || json_array_size(primary) < 1 ||
        json_array_size(primary) > NEF_CELL_MAX ||
        json_array_size(first) != json_array_size(primary) || json_array_size(in_sync) < 1 ||
        !json_is_string(nonce) ||
        nef_unhex(json_string_value(nonce), json_string_length(nonce), n, 16) != NEF_OK)
        goto out;
    g.epoch = (uint64_t)json_integer_value(epoch);
    g.override_epoch = (uint64_t)json_integer_value(override);
    for (size_t i = 0; i < json_array_size(members); i++) {
        json_t *m = json_array_get(members, i);
        json_t *id = json_object_get(m, "replica");
        const char *zone = json_string_value(json_object_get(m, "zone"));

        if (zone == NULL || !nef_zone_name_ok(zone) || member_of(&g, id) >= 0 ||
            !json_is_string(id) ||
            nef_unhex(json_string_value(id), json_string_length(id), g.members[i].replica.bytes, 16) !=
                NEF_OK)
            goto out;
        (void)snprintf(g.members[i].zone, sizeof(g.members[i].zone), "%s", zone);
        g.member_count++;
    }
    for (size_t i = 0; i < json_array_size(in_sync); i++) {
        int m = member_of(&g, json_array_get(in_sync, i));

        if (m < 0)
            goto out;
        g.in_sync |= 1u << m;
    }
    g.cell_count = (uint32_t)json_array_size(primary);
    for (uint32_t c = 0; c < g.cell_count; c++) {
        int m = member_of(&g, json_array_get(primary, c));
        json_t *offset = json_array_get(first, c);

        if (m < 0 || (g.in_sync >> m & 1) == 0 || !json_is_integer(offset) ||
            json_integer_value(offset) < 0)
            goto out;
        g.primary[c] = (uint8_t)m;
        g.first_offset[c] = (uint64_t)json_integer_value(offset);
    }
    for (int i = 0; i < 16; i++)
        g.nonce[i / 8] |= (uint64_t)n[i] << (8 * (i % 8));
    *out_group = g;
    err = NEF_OK;
out:
    json_decref(root);
    return err;
}

/* ---- the thread ---- */

static void key_of(struct nef_runtime *rt, char out[NEF_ETCD_KEY_MAX])
{
    (void)snprintf(out, NEF_ETCD_KEY_MAX, "%sgroups/0", rt->config->etcd.prefix);
}

static struct item *group_item(enum nef_event_type type, const struct nef_group *group)
{
    struct item *item = item_new(type);

    item->group = malloc(sizeof(*item->group));
    NEF_ASSERT(item->group != NULL);
    *item->group = *group;
    item->event.group = item->group;
    return item;
}

/* "" is an absent record. */
static nef_err parse(struct nef_buf *value, struct nef_group *out)
{
    nef_err err;

    *out = (struct nef_group){0};
    if (value->bytes == 0)
        return NEF_OK;
    err = group_from_json((const char *)value->data, value->bytes, out);
    if (err != NEF_OK)
        nef_trace(NEF_TRACE_ERROR, "group_record_unreadable", "e:err", err, NULL);
    return err;
}

static void get(struct nef_runtime *rt)
{
    char key[NEF_ETCD_KEY_MAX];
    struct nef_buf value = {0};
    struct nef_group group;
    uint64_t revision = 0;
    struct item *item;
    nef_err err;

    key_of(rt, key);
    err = nef_etcd_get(rt->etcd, key, &value, &revision);
    if (err == NEF_OK)
        err = parse(&value, &group);
    if (err == NEF_OK) {
        item = group_item(NEF_EV_ETCD_RECORD, &group);
        item->event.revision = revision;
    } else {
        item = item_new(NEF_EV_ETCD_FAILED);
        item->event.err = err;
        nef_trace(NEF_TRACE_DEBUG, "etcd_get_failed", "s:why", nef_etcd_error(rt->etcd), NULL);
    }
    nef_buf_free(&value);
    post(rt, item);
}

static void swap(struct nef_runtime *rt, const struct nef_group *wanted, uint64_t expected)
{
    char key[NEF_ETCD_KEY_MAX];
    struct nef_buf text = {0}, value = {0};
    struct nef_group group = *wanted;
    uint64_t revision = 0;
    struct item *item;
    enum nef_etcd_outcome outcome = NEF_ETCD_UNKNOWN;

    key_of(rt, key);
    if (group_to_json(wanted, &text) == NEF_OK)
        outcome = nef_etcd_cas(rt->etcd, key, expected, text.data, text.bytes, &value, &revision);
    if (outcome == NEF_ETCD_LOST && parse(&value, &group) != NEF_OK)
        outcome = NEF_ETCD_UNKNOWN;
    item = group_item(NEF_EV_ETCD_SWAPPED, &group);
    item->event.revision = revision;
    item->event.swap = outcome == NEF_ETCD_WON    ? NEF_SWAP_WON
                       : outcome == NEF_ETCD_LOST ? NEF_SWAP_LOST
                                                  : NEF_SWAP_UNKNOWN;
    nef_trace(outcome == NEF_ETCD_UNKNOWN ? NEF_TRACE_WARN : NEF_TRACE_INFO, "epoch_swap", "u:epoch",
              wanted->epoch, "s:outcome",
              outcome == NEF_ETCD_WON    ? "won"
              : outcome == NEF_ETCD_LOST ? "lost"
                                         : "unknown",
              "s:etcd", outcome == NEF_ETCD_UNKNOWN ? nef_etcd_error(rt->etcd) : "", NULL);
    nef_buf_free(&text);
    nef_buf_free(&value);
    post(rt, item);
}

static void *group_main(void *argument)
{
    struct nef_runtime *rt = argument;

    thread_name("etcd");
    pthread_mutex_lock(&rt->etcd_lock);
    for (;;) {
        struct nef_group wanted;
        uint64_t revision;

        while (!rt->etcd_stop && !rt->etcd_get && !rt->etcd_cas)
            pthread_cond_wait(&rt->etcd_cond, &rt->etcd_lock);
        if (rt->etcd_stop)
            break;
        if (rt->etcd_cas) {
            wanted = rt->etcd_group;
            revision = rt->etcd_revision;
            rt->etcd_cas = false;
            pthread_mutex_unlock(&rt->etcd_lock);
            swap(rt, &wanted, revision);
        } else {
            rt->etcd_get = false;
            pthread_mutex_unlock(&rt->etcd_lock);
            get(rt);
        }
        pthread_mutex_lock(&rt->etcd_lock);
    }
    pthread_mutex_unlock(&rt->etcd_lock);
    return NULL;
}

nef_err etcd_open(struct nef_runtime *rt, uint32_t timeout_ms, struct nef_etcd **out_etcd)
{
    const struct nef_etcd_config *c = &rt->config->etcd;
    const struct nef_etcd_options options = {
        .endpoints = (const char *const *)c->endpoints,
        .endpoint_count = c->endpoint_count,
        .ca = c->tls.ca,
        .cert = c->tls.cert,
        .key = c->tls.key,
        .timeout_ms = timeout_ms,
    };

    return nef_etcd_new(&options, out_etcd);
}

nef_err group_start(struct nef_runtime *rt)
{
    nef_err err = etcd_open(rt, (uint32_t)(rt->config->etcd.timeout_ns / 1000000), &rt->etcd);

    if (err != NEF_OK)
        return err;
    return pthread_create(&rt->etcd_thread, NULL, group_main, rt) == 0 ? NEF_OK : NEF_E_SYSTEM;
}

void group_stop(struct nef_runtime *rt)
{
    pthread_mutex_lock(&rt->etcd_lock);
    rt->etcd_stop = true;
    pthread_cond_broadcast(&rt->etcd_cond);
    pthread_mutex_unlock(&rt->etcd_lock);
    (void)pthread_join(rt->etcd_thread, NULL);
    nef_etcd_free(rt->etcd);
}

void group_ask(struct nef_runtime *rt)
{
    pthread_mutex_lock(&rt->etcd_lock);
    rt->etcd_get = true;
    pthread_cond_signal(&rt->etcd_cond);
    pthread_mutex_unlock(&rt->etcd_lock);
}

void group_swap(struct nef_runtime *rt, const struct nef_group *group, uint64_t revision)
{
    pthread_mutex_lock(&rt->etcd_lock);
    rt->etcd_group = *group;
    rt->etcd_revision = revision;
    rt->etcd_cas = true;
    pthread_cond_signal(&rt->etcd_cond);
    pthread_mutex_unlock(&rt->etcd_lock);
}
