/* Removing and adding an etcd member through the JSON gateway of one that lives. Numbers of 64 bits
 * are strings in etcd's JSON. Interrupted anywhere, the next call finishes the work: a member that
 * was added but never started has no name and is taken as it is. */
#include "cli/etcd_member.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "base/assert.h"
#include "io/http_client.h"

#define CALL_MS 2000u

static nef_err post(const struct nef_plan *plan, uint32_t through, const char *path,
                    const char *body, json_t **out_root, char *error)
{
    const struct nef_place *p = &plan->places[through];
    char base[NEF_URL_MAX], url[NEF_URL_MAX + 64];
    struct nef_http_answer answer = {0};
    struct nef_http_call call = {.url = url,
                                 .body = body,
                                 .body_bytes = strlen(body),
                                 .timeout_ms = CALL_MS,
                                 .ca = p->ca,
                                 .cert = p->etcd_cert,
                                 .key = p->etcd_key};
    json_t *root = NULL;
    nef_err err;

    nef_plan_url(base, true, p->host, p->etcd_client);
    (void)snprintf(url, sizeof(url), "%s%s", base, path);
    err = nef_http_do(&call, &answer);
    if (err != NEF_OK) {
        (void)snprintf(error, NEF_ETCD_MEMBER_ERROR, "%s", answer.error);
        err = NEF_E_UNAVAILABLE;
    } else if (answer.status != 200 || (root = json_loadb((const char *)answer.body.data,
                                                          answer.body.bytes, 0, NULL)) == NULL) {
        (void)snprintf(error, NEF_ETCD_MEMBER_ERROR, "%.200s: status %ld: %.200s", url,
                       answer.status, nef_buf_cstr(&answer.body));
        err = NEF_E_UNAVAILABLE;
    } else {
        *out_root = root;
    }
    nef_buf_free(&answer.body);
    return err;
}

/* The place whose peer address MEMBER has, or NEF_PLAN_PLACES. */
static uint32_t place_of(const struct nef_plan *plan, const json_t *member)
{
    const json_t *urls = json_object_get(member, "peerURLs");
    const char *url = json_string_value(json_array_get(urls, 0));

    for (uint32_t i = 0; i < NEF_PLAN_PLACES && url != NULL; i++) {
        char want[NEF_URL_MAX];

        nef_plan_url(want, true, plan->places[i].host, plan->places[i].etcd_peer);
        if (strcmp(url, want) == 0)
            return i;
    }
    return NEF_PLAN_PLACES;
}

static nef_err rejoin_through(const struct nef_plan *plan, uint32_t place, uint32_t through,
                              unsigned *out_joined, char *error)
{
    char body[NEF_URL_MAX + 64], peer[NEF_URL_MAX];
    char old_id[32] = "";
    json_t *root = NULL, *member;
    bool fresh = false;
    unsigned joined = 1u << place;
    size_t n;
    nef_err err;

    err = post(plan, through, "/v3/cluster/member/list", "{}", &root, error);
    if (err != NEF_OK)
        return err;
    json_array_foreach(json_object_get(root, "members"), n, member)
    {
        uint32_t at = place_of(plan, member);
        const char *id = json_string_value(json_object_get(member, "ID"));
        const char *name = json_string_value(json_object_get(member, "name"));

        if (at == NEF_PLAN_PLACES)
            continue;
        joined |= 1u << at;
        if (at != place)
            continue;
        if (name == NULL || name[0] == 0)
            fresh = true;
        else if (id == NULL || nef_text(old_id, sizeof(old_id), "%s", id) != NEF_OK)
            err = NEF_E_PROTOCOL;
    }
    json_decref(root);
    root = NULL;
    if (err == NEF_OK && !fresh && old_id[0] != 0) {
        (void)snprintf(body, sizeof(body), "{\"ID\":\"%s\"}", old_id);
        err = post(plan, through, "/v3/cluster/member/remove", body, &root, error);
        json_decref(root);
        root = NULL;
    }
    if (err == NEF_OK && !fresh) {
        nef_plan_url(peer, true, plan->places[place].host, plan->places[place].etcd_peer);
        (void)snprintf(body, sizeof(body), "{\"peerURLs\":[\"%s\"]}", peer);
        err = post(plan, through, "/v3/cluster/member/add", body, &root, error);
        json_decref(root);
    }
    if (err == NEF_OK)
        *out_joined = joined;
    return err;
}

nef_err nef_etcd_rejoin(const struct nef_plan *plan, uint32_t place, unsigned *out_joined,
                        char *error)
{
    nef_err err = NEF_E_UNAVAILABLE;

    NEF_ASSERT(place < NEF_PLAN_PLACES);
    (void)snprintf(error, NEF_ETCD_MEMBER_ERROR, "no other member");
    for (uint32_t i = NEF_PLAN_PLACES; i-- > 0 && err != NEF_OK;)
        if (i != place)
            err = rejoin_through(plan, place, i, out_joined, error);
    return err;
}
