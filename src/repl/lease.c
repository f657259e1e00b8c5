/* Leases (R4): who may answer reads, and when a new configuration may act.
 *
 *   holder    sends "lease_request = t0" ......................... may answer until t0 + 0.9 L
 *   granter            receives, answers at t1: bound until t1 + L ...
 *
 * t0 <= t1, and both clocks run at the same rate within 10 %, so the holder stops before the granter
 * feels free. Bound means: the granter does not *act* (acknowledge, answer) in a configuration that
 * lacks the holder. It may seek that configuration, win it, append and sync under it meanwhile. Grants are
 * remembered per replica id from the moment the answer is made, and a process that starts assumes that
 * it granted one just before.
 *
 * A grant counts only in the epoch in which it was given: both sides are in it, and the granter had it
 * durable. Not here: clocks. CLOCK_BOOTTIME goes on while a machine sleeps; a virtual machine whose clock
 * stops with it breaks reads (docs/operations.md), never writes. */
#include "repl/repl_internal.h"

static uint64_t holder_term(const struct nef_repl *r)
{
    return r->config.lease_ns - r->config.lease_ns / 10;
}

/* ---- giving --------------------------------------------------------------------------------------------- */

static bool may_grant(const struct nef_repl *r, const struct peer *p)
{
    if (!p->up || !p->known || p->lease_request == 0 || p->epoch != r->group.epoch)
        return false;
    if (nef_repl_frozen(r) || r->own_stalled || !nef_group_has(&r->group, &p->replica))
        return false;
    /* We want to go on without it: each grant now would delay that. But when etcd has been away for
     * longer than a lease and the peer speaks, the old configuration had better work on. */
    if (r->cas.pending && !nef_group_has(&r->cas.group, &p->replica) &&
        r->now < r->cas.since + r->config.lease_ns)
        return false;
    return true;
}

uint64_t nef_lease_grant(struct nef_repl *r, struct peer *p)
{
    uint32_t place = GRANTS_MAX;

    if (!may_grant(r, p))
        return 0;
    for (uint32_t i = 0; i < GRANTS_MAX; i++)
        if (nef_id_equal(&r->grants[i].replica, &p->replica))
            place = i;
    for (uint32_t i = 0; i < GRANTS_MAX && place == GRANTS_MAX; i++)
        if (r->grants[i].until <= r->now)
            place = i;
    if (place == GRANTS_MAX)
        return 0; /* more replicas within one lease than there can be: grant nothing */
    r->grants[place].replica = p->replica;
    r->grants[place].until = r->now + r->config.lease_ns;
    return p->lease_request;
}

/* ---- holding -------------------------------------------------------------------------------------------- */

void nef_lease_granted(struct nef_repl *r, struct peer *p, uint64_t grant)
{
    uint64_t until;

    if (grant == 0 || grant > r->now || grant < r->started)
        return; /* none, or of an earlier start of ours */
    until = grant + holder_term(r);
    if (NEF_MUTATION_IS(2))
        until = r->now + holder_term(r);
    if (p->lease_epoch == r->group.epoch)
        until = NEF_MAX(until, p->lease_until);
    p->lease_until = until;
    p->lease_epoch = r->group.epoch;
}

bool nef_lease_held(const struct nef_repl *r, const struct peer *p)
{
    return p->lease_epoch == r->group.epoch && p->lease_until > r->now;
}

/* ---- acting ---------------------------------------------------------------------------------------------- */

void nef_lease_act(struct nef_repl *r)
{
    uint64_t at = r->started + r->config.lease_ns;

    if (NEF_MUTATION_IS(3))
        at = 0;
    for (uint32_t i = 0; i < GRANTS_MAX; i++)
        if (!nef_id_is_zero(&r->grants[i].replica) &&
            !nef_repl_effective(r, &r->grants[i].replica))
            at = NEF_MAX(at, r->grants[i].until);
    r->act_at = at;
    r->acting = r->now >= at && nef_repl_fit(r) && !nef_repl_frozen(r);
}

/* ---- serving --------------------------------------------------------------------------------------------- */

/* Until when the other members that count have promised not to go on without us. */
static uint64_t leases_until(const struct nef_repl *r)
{
    const struct nef_group *groups[2] = {&r->group, r->cas.pending ? &r->cas.group : NULL};
    uint64_t until = UINT64_MAX;

    for (uint32_t g = 0; g < 2 && groups[g]; g++)
        for (uint32_t i = 0; i < groups[g]->member_count; i++) {
            const struct nef_id *id = &groups[g]->members[i].replica;
            uint64_t held = 0;

            if (!(groups[g]->in_sync >> i & 1) || nef_id_equal(id, &r->config.replica))
                continue;
            for (uint32_t p = 0; p < r->config.peer_count; p++)
                if (nef_id_equal(&r->peers[p].replica, id) && nef_lease_held(r, &r->peers[p]))
                    held = r->peers[p].lease_until;
            until = NEF_MIN(until, held);
        }
    for (uint32_t p = 0; p < r->config.peer_count; p++)
        if (r->peers[p].counted)
            until = NEF_MIN(until, nef_lease_held(r, &r->peers[p]) ? r->peers[p].lease_until : 0);
    return until;
}

static uint64_t may_serve_until(const struct nef_repl *r)
{
    if (!r->acting)
        return 0;
    if (r->won) {
        /* What the old primary acknowledged stands in our log, but perhaps above what we know as
         * committed: wait until all of it is. */
        for (uint32_t c = 0; c < r->config.cell_count; c++)
            if (r->cells[c].commit < r->cells[c].base)
                return 0;
        return leases_until(r);
    }
    return r->following == FOLLOWING_YES ? leases_until(r) : 0;
}

void nef_lease_serve(struct nef_repl *r)
{
    uint64_t until = may_serve_until(r);

    if (until == r->serve_until)
        return;
    r->serve_until = until;
    nef_repl_emit(r, NEF_ACT_SERVE)->until = until;
}
