/* Calls to the admin listeners of zones. A call that changes something goes to a second zone only
 * if the first was certainly not reached. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "cli/cli.h"
#include "crypto/crypto.h"
#include "io/http_client.h"

#define CALL_MS 10000u /* a zone holds a request up to 5 s through a failover */

void nef_caller_of(const struct nef_region *r, struct nef_caller *out)
{
    *out = (struct nef_caller){.count = NEF_PLAN_ZONES};
    for (uint32_t i = 0; i < NEF_PLAN_ZONES; i++) {
        char url[NEF_URL_MAX];

        nef_plan_url(url, r->plan.tls, r->plan.places[i].host, r->plan.places[i].admin);
        (void)snprintf(out->urls[i], sizeof(out->urls[i]), "%s", url);
    }
    (void)snprintf(out->token, sizeof(out->token), "%s", r->admin_token);
    (void)snprintf(out->ca, sizeof(out->ca), "%s", r->plan.places[0].ca);
}

static bool open_endpoint(const char *command, const char *endpoint, const char *token_file,
                          const char *ca, struct nef_caller *out)
{
    const char *token = getenv("NEF_ADMIN_TOKEN");
    struct nef_config_error error = {{0}};
    size_t bytes = strlen(endpoint);

    *out = (struct nef_caller){.count = 1};
    while (bytes > 0 && endpoint[bytes - 1] == '/')
        bytes--;
    if (bytes >= sizeof(out->urls[0]) ||
        (strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0)) {
        (void)nef_complain(command,
                           "--endpoint must be the URL of a zone's admin listener, such as "
                           "https://zone-a.example:9016");
        return false;
    }
    memcpy(out->urls[0], endpoint, bytes);
    if (ca != NULL && nef_text(out->ca, sizeof(out->ca), "%s", ca) != NEF_OK) {
        (void)nef_complain(command, "--ca: the path is too long");
        return false;
    }
    if (token_file != NULL) {
        if (nef_token_load(token_file, out->token, &error) != NEF_OK) {
            (void)nef_complain(command, "%s", error.text);
            return false;
        }
    } else if (token != NULL && nef_text(out->token, sizeof(out->token), "%s", token) == NEF_OK) {
        return true;
    } else {
        (void)nef_complain(command, "--endpoint needs the admin token: --token-file FILE, or "
                                    "NEF_ADMIN_TOKEN in the environment");
        return false;
    }
    return true;
}

bool nef_caller_open(const char *command, const char *dir, const char *endpoint,
                     const char *token_file, const char *ca, struct nef_caller *out)
{
    struct nef_region_error error = {{0}};
    struct nef_region region;

    if ((dir == NULL) == (endpoint == NULL)) {
        (void)nef_complain(command,
                           "say which region: --dir DIR (of nef up), or --endpoint URL (of a "
                           "zone's admin listener)");
        return false;
    }
    if (endpoint != NULL)
        return open_endpoint(command, endpoint, token_file, ca, out);
    if (nef_region_open(dir, &region, &error) != NEF_OK) {
        (void)nef_complain(command, "%s", error.text);
        return false;
    }
    nef_caller_of(&region, out);
    out->dir = dir;
    nef_wipe(&region, sizeof(region));
    return true;
}

static nef_err code_of(long status)
{
    if (status == 401 || status == 403)
        return NEF_E_DENIED;
    if (status == 404)
        return NEF_E_NOT_FOUND;
    if (status == 409)
        return NEF_E_EXISTS;
    return status >= 500 ? NEF_E_UNAVAILABLE : NEF_E_INVALID;
}

nef_err nef_caller_zone(struct nef_caller *admin, uint32_t zone, const char *method,
                        const char *path, const char *body, uint32_t timeout_ms, long *out_status,
                        json_t **out_root)
{
    char url[NEF_URL_MAX + 512];
    struct nef_http_answer answer = {0};
    struct nef_http_call call = {.method = method,
                                 .url = url,
                                 .bearer = admin->token,
                                 .body = body,
                                 .body_bytes = body != NULL ? strlen(body) : 0,
                                 .timeout_ms = timeout_ms,
                                 .ca = admin->ca[0] != 0 ? admin->ca : NULL};
    json_t *root = NULL;
    const char *why;
    nef_err err;

    NEF_ASSERT(zone < admin->count);
    *out_status = 0;
    if (nef_text(url, sizeof(url), "%s%s", admin->urls[zone], path) != NEF_OK)
        return NEF_E_LIMIT;
    err = nef_http_do(&call, &answer);
    if (err != NEF_OK) {
        (void)snprintf(admin->error, sizeof(admin->error), "%s%s%s", answer.error,
                       admin->dir != NULL ? "; is it up? Start it with: nef up --detach --dir " : "",
                       admin->dir != NULL ? admin->dir : "");
        goto out;
    }
    *out_status = answer.status;
    if (answer.body.bytes > 0)
        root = json_loadb((const char *)answer.body.data, answer.body.bytes, 0, NULL);
    if (answer.status >= 200 && answer.status < 300 && (root != NULL || answer.body.bytes == 0)) {
        *out_root = root;
        root = NULL;
        goto out;
    }
    err = answer.status < 300 ? NEF_E_PROTOCOL : code_of(answer.status);
    why = json_string_value(json_object_get(root, "error"));
    if (root == NULL && answer.body.bytes > 0) /* S3's XML, and other servers' pages */
        why = "that isn't the answer of a zone's admin listener: is it the right port?";
    (void)snprintf(admin->error, sizeof(admin->error), "%s%s: status %ld%s%.300s", admin->urls[zone], path,
                   answer.status, why != NULL ? ": " : "", why != NULL ? why : "");
out:
    json_decref(root);
    nef_buf_free(&answer.body);
    return err;
}

nef_err nef_caller_any(struct nef_caller *admin, const char *method, const char *path,
                       const char *body, json_t **out_root)
{
    bool changes = body != NULL || (method != NULL && strcmp(method, "GET") != 0);
    nef_err err = NEF_E_PEER;

    for (uint32_t i = 0; i < admin->count; i++) {
        long status;

        err = nef_caller_zone(admin, i, method, path, body, changes ? CALL_MS : 3000, &status,
                              out_root);
        /* an answer settles it, but for "can't now" to a reader: the other zone may serve */
        if (err == NEF_OK || (status != 0 && (changes || status < 500)))
            return err;
        if (changes && err != NEF_E_PEER)
            return err; /* it may have been received */
    }
    return err;
}
