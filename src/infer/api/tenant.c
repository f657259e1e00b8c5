/* Whose a request is: what a gateway's headers say, and when to come again.
 *
 *   x-nef-cache-salt   the tenant: 1 to 256 bytes. Prefixes are shared, and the machine is divided, by it
 *   x-nef-weight       1 to 1000: the tenant's share of the machine among those that want it
 *   x-nef-priority     0 to 100: higher goes first
 *
 * Without --trust-salt there is one tenant, and a client that sends them is told that they aren't taken. With it, a
 * request for which the gateway set no salt shares prefixes with nobody, so that one forgotten header never mixes
 * tenants; all such requests count as one tenant where the machine is divided. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/api/api_internal.h"
#include "io/clock.h"

#define SALT_BYTES_MAX 256u
#define RETRY_MAX_S    60u

static const char salt_header[] = "x-nef-cache-salt", weight_header[] = "x-nef-weight",
                  priority_header[] = "x-nef-priority";

/* A plain decimal number of a header; absent ones leave *out. */
static bool take_number(struct call *c, const char *name, uint32_t min, uint32_t max, uint32_t *out,
                        struct nef_api_error *e)
{
    const char *text = nef_http_header(c->http, name);
    unsigned long value;

    if (text == NULL)
        return true;
    value = strlen(text) > 0 && strlen(text) <= 9 && strspn(text, "0123456789") == strlen(text) ? strtoul(text, NULL, 10)
                                                                                             : max + 1ul;
    if (value < min || value > max)
        return nef_api_fail(e, 400, "invalid_value", "", "The header %s must be a number from %u to %u.", name, min, max);
    *out = (uint32_t)value;
    return true;
}

bool nef_api_tenant(struct call *c, struct nef_api_error *e)
{
    const char *const names[] = {salt_header, weight_header, priority_header};
    const char *salt = nef_http_header(c->http, salt_header);

    c->weight = 1;
    if (!c->api->options.trust_salt) {
        for (size_t i = 0; i < NEF_COUNT(names); i++)
            if (nef_http_header(c->http, names[i]) != NULL)
                return nef_api_fail(e, 400, "unsupported_parameter", "",
                                    "The header %s is not taken here (--trust-salt).", names[i]);
        return true;
    }
    if (!take_number(c, weight_header, 1, NEF_ENGINE_WEIGHT_MAX, &c->weight, e) ||
        !take_number(c, priority_header, 0, NEF_ENGINE_PRIORITY_MAX, &c->priority, e))
        return false;
    if (salt == NULL) {
        nef_random(c->salt, sizeof(c->salt));
        return true;
    }
    if (salt[0] == '\0' || strlen(salt) > SALT_BYTES_MAX)
        return nef_api_fail(e, 400, "invalid_value", "", "The header %s must have 1 to %u bytes.", salt_header,
                            SALT_BYTES_MAX);
    nef_hash_of(NEF_HASH_SHA256, salt, strlen(salt), c->salt);
    memcpy(&c->tenant, c->salt, sizeof(c->tenant));
    return true;
}

/* About the time in which what waits now will have gone, from how quickly requests have ended of late. */
uint32_t nef_api_retry_after_s(struct nef_api *api)
{
    struct nef_engine_stats stats;
    uint64_t ms;

    nef_engine_stats(api->model.engine, &stats);
    ms = nef_api_metrics_interval_ms(&api->metrics) * (stats.waiting + 1ull);
    return (uint32_t)NEF_MAX(1u, NEF_MIN(RETRY_MAX_S, (ms + 999) / 1000));
}
