/* Which backend, if any; see route.h. */
#include "gateway/route.h"
#include "base/assert.h"

uint64_t nef_route_limit(uint32_t slots, uint32_t queue_factor, uint32_t priority)
{
    uint64_t tenths = 6u + (priority < 4 ? priority : 4);

    return ((uint64_t)slots * queue_factor * tenths + 9) / 10;
}

/* In thousandths of a round of the slots. */
static uint64_t load_of(const struct nef_route_backend *b)
{
    uint64_t slots = b->slots > 0 ? b->slots : 1;

    return (uint64_t)b->in_flight * 1000 / slots + (b->own_zone ? 0 : 1000);
}

enum nef_route_verdict nef_route(const struct nef_route_backend *backends, uint32_t count,
                                 const struct nef_route_request *request, uint32_t *out_index)
{
    uint64_t slots = 0, in_flight = 0;
    bool known = false, allowed = false;
    uint32_t best = UINT32_MAX;

    for (uint32_t i = 0; i < count; i++) {
        const struct nef_route_backend *b = &backends[i];

        known = known || b->has_model;
        if (!b->has_model || !b->allowed)
            continue;
        allowed = true;
        if (!b->healthy || b->excluded)
            continue;
        slots += b->slots;
        in_flight += b->in_flight;
        if (best == UINT32_MAX || (backends[best].failed && !b->failed) ||
            (backends[best].failed == b->failed && load_of(b) < load_of(&backends[best])))
            best = i;
    }
    if (!known)
        return NEF_ROUTE_NO_MODEL;
    if (!allowed)
        return NEF_ROUTE_DENIED;
    if (best == UINT32_MAX)
        return NEF_ROUTE_NONE_HEALTHY;
    if (request->admit && in_flight >= nef_route_limit((uint32_t)slots, request->queue_factor, request->priority))
        return NEF_ROUTE_SHED;
    *out_index = best;
    return NEF_ROUTE_TAKEN;
}
