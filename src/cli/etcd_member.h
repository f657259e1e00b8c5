/* Bringing an etcd member back whose data is gone: it can't simply start, because the cluster
 * remembers it. The old member is removed, a new one with the same address is added, and etcd then
 * starts with
 * --initial-cluster-state=existing. */
#ifndef NEF_CLI_ETCD_MEMBER_H
#define NEF_CLI_ETCD_MEMBER_H

#include <stdbool.h>
#include "cli/plan.h"

/* Blocks for a few seconds at most. out_joined: a bit for each place that is a member now, PLACE
 * included. NEF_E_UNAVAILABLE: no member of another place answers, or they have no quorum; try
 * again later. error: NEF_ETCD_MEMBER_ERROR bytes, why. */
#define NEF_ETCD_MEMBER_ERROR 512u
NEF_MUST_CHECK nef_err nef_etcd_rejoin(const struct nef_plan *plan, uint32_t place,
                                       unsigned *out_joined, char *error);

#endif
