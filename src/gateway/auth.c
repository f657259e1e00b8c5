/* Who asks: `Authorization: Bearer ACCESSKEY:SECRETKEY` of a user of the region. Secrets are compared in constant time;
 * a user that isn't known here is looked up again behind the read gate, because it may have been made through the other
 * zone a moment ago. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "base/assert.h"
#include "gateway/gateway_internal.h"

static bool equal(const char *a, const char *b) /* time depends on lengths only */
{
    size_t bytes = strlen(a);

    return bytes == strlen(b) && nef_equal_ct(a, b, bytes);
}

/* NEF_E_NOT_FOUND: neither root nor a user of the store. */
static nef_err find(struct nef_gateway *g, const char *access_key, struct nef_user *out_user)
{
    const struct nef_root_credentials *root = &g->secret->root;

    if (equal(root->access_key, access_key)) {
        memset(out_user, 0, sizeof(*out_user));
        (void)snprintf(out_user->access_key, sizeof(out_user->access_key), "%s", root->access_key);
        (void)snprintf(out_user->secret_key, sizeof(out_user->secret_key), "%s", root->secret_key);
        return NEF_OK;
    }
    return nef_store_user(nef_runtime_store(g->o.rt), access_key, out_user);
}

static nef_err look(struct nef_gateway *g, const char *access_key, struct nef_user *out_user)
{
    struct nef_read read = {0};
    nef_err err = find(g, access_key, out_user);

    if (err != NEF_E_NOT_FOUND)
        return err;
    err = nef_runtime_read_wait(g->o.rt, 0, NULL, &read);
    if (err != NEF_OK)
        return NEF_E_UNAVAILABLE;
    err = find(g, access_key, out_user);
    if (err == NEF_E_NOT_FOUND && nef_runtime_read_done(g->o.rt, &read) != NEF_OK)
        err = NEF_E_UNAVAILABLE; /* the lease went meanwhile */
    return err;
}

static nef_err rights(struct nef_gateway *g, const struct nef_user *user, struct nef_ai_user *out)
{
    if (equal(g->secret->root.access_key, user->access_key)) {
        nef_ai_user_root(out, user->access_key);
        return NEF_OK;
    }
    if (user->disabled || !user->ai.allowed)
        return NEF_E_DENIED;
    memset(out, 0, sizeof(*out));
    memcpy(out->access_key, user->access_key, sizeof(out->access_key));
    out->ai = user->ai;
    return NEF_OK;
}

nef_err auth_owner(void *gateway, const char *access_key, struct nef_ai_user *out_user)
{
    struct nef_user user;
    nef_err err = look(gateway, access_key, &user);

    if (err == NEF_OK)
        err = rights(gateway, &user, out_user);
    nef_wipe(&user, sizeof(user));
    return err;
}

nef_err auth_user(struct nef_gateway *g, const char *authorization, struct nef_ai_user *out_user)
{
    char access_key[64];
    struct nef_user user;
    const char *secret;
    nef_err err;

    if (authorization == NULL || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NEF_E_DENIED;
    authorization += 7;
    while (*authorization == ' ')
        authorization++;
    secret = strchr(authorization, ':');
    if (secret == NULL || secret == authorization || (size_t)(secret - authorization) >= sizeof(access_key))
        return NEF_E_DENIED;
    memcpy(access_key, authorization, (size_t)(secret - authorization));
    access_key[secret - authorization] = '\0';
    err = look(g, access_key, &user);
    if (err == NEF_OK && !equal(user.secret_key, secret + 1))
        err = NEF_E_NOT_FOUND;
    if (err == NEF_OK) {
        err = rights(g, &user, out_user);
        if (err == NEF_E_DENIED && !user.disabled)
            err = NEF_E_PRECONDITION; /* known, and without AI rights: 403 */
    }
    nef_wipe(&user, sizeof(user));
    return err == NEF_E_NOT_FOUND ? NEF_E_DENIED : err;
}

/* Which prefixes are shared tells what was asked: a user shares with itself alone. The name isn't told to the engine.
 */
static void salt_of(struct nef_gateway *g, const char *access_key, char out[65])
{
    uint8_t digest[32];

    nef_hmac_sha256(g->secret->salt_key, sizeof(g->secret->salt_key), access_key, strlen(access_key), digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void auth_caller(void *gateway, const struct nef_ai_user *user, struct nef_ai_caller *out)
{
    struct nef_gateway *g = gateway;

    memset(out, 0, sizeof(*out));
    salt_of(g, user->access_key, out->salt);
    out->weight = user->ai.weight;
    out->priority = user->ai.priority;
    if (nef_ai_allows_zone(user, g->zone))
        (void)snprintf(out->zones[out->zone_count++], sizeof(out->zones[0]), "%s", g->zone);
    for (uint32_t i = 0; i < g->peer_count && out->zone_count < NEF_REPLICA_MAX; i++)
        if (nef_ai_allows_zone(user, g->peers[i].zone))
            (void)snprintf(out->zones[out->zone_count++], sizeof(out->zones[0]), "%s", g->peers[i].zone);
}
