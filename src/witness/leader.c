/* When the witness takes etcd's leadership back. See witness_internal.h. */
#include "base/assert.h"
#include "witness/witness_internal.h"

bool nef_leader_wants(struct nef_leader_policy *policy, uint64_t now_ms, uint64_t member_id,
                      uint64_t leader_id)
{
    if (policy->gap_ms == 0)
        policy->gap_ms = NEF_LEADER_GAP_MIN_MS;
    if (leader_id == member_id) {
        if (policy->leads_since_ms == 0)
            policy->leads_since_ms = now_ms;
        else if (now_ms - policy->leads_since_ms >= NEF_LEADER_GAP_MAX_MS)
            policy->gap_ms = NEF_LEADER_GAP_MIN_MS;
        return false;
    }
    if (policy->leads_since_ms != 0) {
        if (now_ms - policy->leads_since_ms < NEF_LEADER_GAP_MAX_MS)
            policy->gap_ms = NEF_MIN(policy->gap_ms * 2, NEF_LEADER_GAP_MAX_MS);
        policy->leads_since_ms = 0;
    }
    /* Without a leader there is nobody to hand over; an election is under way. */
    if (leader_id == 0 || (policy->tried_ms != 0 && now_ms - policy->tried_ms < policy->gap_ms))
        return false;
    policy->tried_ms = now_ms;
    return true;
}
