/* Which backend computes a request, and whether it is taken at all. PURE: numbers in, a decision out.
 *
 * Policy comes first and a loss never widens it: a backend in a zone that the caller may not use isn't looked at, also
 * when it is the only one left. Then health; then the least loaded, where the own zone counts as less loaded by one
 * request in every slot, so that the other zone helps only when the queue here is a whole round longer. Equals: the
 * earlier one.
 *
 * Load is shed at the door, by priority: with C slots in backends that may serve the request and F requests a slot at
 * most (queue_factor), a caller of priority p is refused when more than C * F * share(p) are in flight, share = 0.6 +
 * 0.1 * p up to 1. So when a zone is lost and C halves, low priorities are refused at once, and those above them don't
 * become slower. */
#ifndef NEF_GATEWAY_ROUTE_H
#define NEF_GATEWAY_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#define NEF_AI_PRIORITY_MAX 9u

struct nef_route_backend {
    bool has_model;
    bool healthy;
    bool allowed;  /* the caller may use its zone */
    bool own_zone;
    bool failed;   /* this very request was lost there a moment ago: only if there is no other */
    bool excluded; /* not at all: it refused this request, or it is draining */
    uint32_t slots, in_flight; /* of all requests there, as far as this gateway knows */
};

enum nef_route_verdict {
    NEF_ROUTE_TAKEN,
    NEF_ROUTE_NO_MODEL,    /* 404: no backend has it */
    NEF_ROUTE_DENIED,      /* 403: only in zones that the caller may not use */
    NEF_ROUTE_NONE_HEALTHY, /* wait, then 503 */
    NEF_ROUTE_SHED,        /* 503 with Retry-After: only answered where ADMIT is set */
};

struct nef_route_request {
    uint32_t priority;
    uint32_t queue_factor; /* requests in flight for each slot, at most */
    bool admit;            /* at the door: load counts. False: it was taken before and goes on */
};

/* out_index: only with NEF_ROUTE_TAKEN. */
enum nef_route_verdict nef_route(const struct nef_route_backend *backends, uint32_t count,
                                 const struct nef_route_request *request, uint32_t *out_index);

/* How many may be in flight for a priority. */
uint64_t nef_route_limit(uint32_t slots, uint32_t queue_factor, uint32_t priority);

#endif
