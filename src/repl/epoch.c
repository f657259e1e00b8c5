/* Epochs: the record in etcd, how it is learned, adopted and changed.
 *
 *   seen (adopting) --PERSISTED--> adopted (group) --compare-and-swap by somebody--> seen ...
 *
 * Adopting. A record with a higher epoch, from etcd or from a peer, is refused nothing: from the moment
 * it is seen this replica is frozen (it acknowledges, answers and grants nothing) until the epoch is
 * durable here, and then it obeys the new record. That is R3.
 *
 * Changing. One compare-and-swap at a time. It is *pending* from when it is sent until the record's
 * revision is known to have moved (R2). While it is pending nef_repl_effective counts the members of
 * both records, and the very same change (nonce, revision) is repeated: it can take effect once only.
 * Whatever epoch comes after, a record with our nonce means that we won; an answer "lost" alone settles
 * nothing, because it may be the answer to our repetition.
 *
 * Who seeks. A primary removes members it has lost and adds joiners (catchup.c); a backup in sync takes
 * over when it suspects the primary, alone: the other comes back by catch-up. A process that starts is
 * primary of nothing, so the one the record names seeks a new epoch like any other.
 *
 * First offsets. Each change names, per cell, an offset at or below which every member in sync by this
 * change is durable, and which is a lower bound of where the epoch's records begin. It is the smallest
 * durable offset, not the log's end: a replica that crashes loses what it had not synced, and must not
 * be taken for one that was rolled back (R10).
 *
 * Not here: who may act in a record (lease.c), what a primary does with its epoch (primary.c). */
#include "repl/repl_internal.h"

/* ---- questions ------------------------------------------------------------------------------------------ */

uint64_t nef_repl_seen(const struct nef_repl *r)
{
    uint64_t seen = NEF_MAX(r->group.epoch, r->adopting.epoch);

    return NEF_MAX(seen, r->persisted);
}

bool nef_repl_frozen(const struct nef_repl *r)
{
    return r->adopting.epoch > r->group.epoch || r->group.epoch == 0;
}

int32_t nef_group_index(const struct nef_group *g, const struct nef_id *replica)
{
    for (uint32_t i = 0; i < g->member_count; i++)
        if (nef_id_equal(&g->members[i].replica, replica))
            return (int32_t)i;
    return -1;
}

bool nef_group_has(const struct nef_group *g, const struct nef_id *replica)
{
    int32_t i = nef_group_index(g, replica);

    return i >= 0 && g->in_sync >> i & 1;
}

bool nef_repl_effective(const struct nef_repl *r, const struct nef_id *replica)
{
    if (nef_group_has(&r->group, replica))
        return true;
    if (r->cas.pending && nef_group_has(&r->cas.group, replica))
        return true;
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (r->peers[i].counted && nef_id_equal(&r->peers[i].replica, replica))
            return true;
    return false;
}

bool nef_repl_fit(const struct nef_repl *r)
{
    return r->self >= 0 && r->group.in_sync >> r->self & 1 && r->unfit == NEF_OK;
}

int32_t nef_repl_peer_of(const struct nef_repl *r, const struct nef_id *replica)
{
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (r->peers[i].up && r->peers[i].known && nef_id_equal(&r->peers[i].replica, replica))
            return (int32_t)i;
    return -1;
}

int32_t nef_repl_primary_peer(const struct nef_repl *r)
{
    if (r->group.epoch == 0 || r->group.primary[0] == r->self)
        return -1;
    return nef_repl_peer_of(r, &r->group.members[r->group.primary[0]].replica);
}

uint64_t nef_repl_log_start(const struct nef_repl *r, uint32_t c)
{
    return r->config.next_present(r->config.context, c, NEF_SEGMENT_HEADER_BYTES);
}

bool nef_repl_suspect(const struct nef_repl *r, const struct nef_id *replica)
{
    uint64_t wait = r->config.preferred ? 0 : r->config.second_wait_ns;
    uint64_t gone = 0; /* when the last of the links that could be the replica's went away */

    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        const struct peer *p = &r->peers[i];

        if (p->known && p->up && nef_id_equal(&p->replica, replica))
            return r->now >= p->last_heard + r->config.suspect_ns + wait;
        if (nef_id_equal(&p->replica, replica) || nef_id_is_zero(&p->replica))
            gone = NEF_MAX(gone, p->up ? p->last_heard + r->config.suspect_ns : p->down_since);
    }
    /* Up but silent since it came up, down, never up since the start, or another disk's link now. */
    if (gone == 0)
        gone = r->started + r->config.suspect_ns;
    return r->now >= gone + wait;
}

/* ---- adopting -------------------------------------------------------------------------------------------- */

static bool same_nonce(const uint64_t a[2], const uint64_t b[2])
{
    return a[0] == b[0] && a[1] == b[1];
}

/* The record has moved past the revision that our change was made for. */
static void settle(struct nef_repl *r)
{
    r->cas.pending = false;
    r->cas.stale_answer = r->etcd.cas_in_flight;
}

/* R10: every member in sync was durable up to the first offsets when the record was written. */
static bool rolled_back(const struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].end < r->group.first_offset[c])
            return true;
    return false;
}

static bool damaged(const struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].must_cut)
            return true;
    return false;
}

/* The adopted record has changed from OLD. End what doesn't go on: streams and their acknowledgements
 * live as long as primary, process and membership stay the same. */
static void roles_changed(struct nef_repl *r, const struct nef_group *old, bool was_primary)
{
    struct nef_id none = {{0}};
    struct nef_id before = old->epoch > 0 ? old->members[old->primary[0]].replica : none;
    struct nef_id after = r->group.members[r->group.primary[0]].replica;

    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        struct peer *p = &r->peers[i];
        bool removed = nef_group_has(old, &p->replica) && !nef_group_has(&r->group, &p->replica);

        p->counted = false;
        if (!r->won || !was_primary || removed)
            nef_primary_forget(r, p);
        p->lease_epoch = 0;
    }
    if (r->won && !was_primary)
        for (uint32_t c = 0; c < r->config.cell_count; c++) {
            r->cells[c].base = r->cells[c].end;
            r->cells[c].bad_wait = 0;
        }
    if (!nef_id_equal(&before, &after) ||
        (nef_group_has(old, &r->config.replica) && !nef_group_has(&r->group, &r->config.replica)))
        nef_backup_unfollow(r);
    if (!(r->won && was_primary))
        nef_proposals_again(r);
    r->draining = r->drain_sent = false;
    r->handover_asked = 0;
}

static void take(struct nef_repl *r)
{
    struct nef_group old = r->group;
    bool was_primary = r->won;

    NEF_ASSERT(r->adopting.epoch > old.epoch && r->adopting.epoch <= r->persisted);
    r->group = r->adopting;
    r->adopting.epoch = 0;
    r->group_at = r->now;
    r->self = nef_group_index(&r->group, &r->config.replica);
    r->won = r->self >= 0 && r->group.primary[0] == r->self &&
             same_nonce(r->group.nonce, r->won_nonce);
    if (NEF_MUTATION_IS(4))
        r->won = r->self >= 0 && r->group.primary[0] == r->self;
    if (r->self < 0 || !(r->group.in_sync >> r->self & 1))
        r->unfit = damaged(r) ? NEF_E_DAMAGED : NEF_OK; /* it isn't in sync, so nothing relies on it */
    else if (r->unfit == NEF_OK && rolled_back(r))
        r->unfit = NEF_E_ROLLED_BACK;
    if (r->won && nef_group_overrides(&r->group))
        r->unfit = NEF_OK; /* accepted: what this disk holds is now what there is */
    r->config_lost = false;
    roles_changed(r, &old, was_primary);
    if (r->won)
        for (uint32_t i = 0; i < r->config.peer_count; i++)
            nef_epoch_tell(r, i);
    nef_state_due(r);
}

static void persist(struct nef_repl *r)
{
    if (r->adopting.epoch == 0)
        return;
    if (r->adopting.epoch <= r->persisted) {
        take(r);
        return;
    }
    if (r->persisting > 0)
        return;
    r->persisting = r->adopting.epoch;
    nef_repl_emit(r, NEF_ACT_PERSIST)->epoch = r->persisting;
}

void nef_epoch_persisted(struct nef_repl *r, uint64_t epoch)
{
    r->persisted = NEF_MAX(r->persisted, epoch);
    r->persisting = 0;
    persist(r);
}

void nef_epoch_adopt(struct nef_repl *r, const struct nef_group *group)
{
    if (group->cell_count != r->config.cell_count) {
        r->config_lost = true; /* the region has another number of cells than this process */
        return;
    }
    if (r->cas.pending && group->epoch >= r->cas.group.epoch) {
        if (same_nonce(group->nonce, r->cas.group.nonce))
            memcpy(r->won_nonce, r->cas.group.nonce, sizeof r->won_nonce);
        settle(r);
    }
    if (group->epoch <= r->group.epoch || group->epoch <= r->adopting.epoch ||
        group->epoch < r->persisted)
        return;
    r->adopting = *group;
    persist(r);
}

void nef_epoch_tell(struct nef_repl *r, uint32_t peer)
{
    struct peer *p = &r->peers[peer];
    struct nef_writer w;
    uint32_t bytes;

    if (!p->up || r->group.epoch == 0)
        return;
    if (p->group_told_at > 0 && r->now < p->group_told_at + r->config.heartbeat_ns / 2 &&
        r->group_at < p->group_told_at)
        return;
    p->group_told_at = r->now;
    w = nef_repl_body(r, NEF_GROUP_BYTES_MAX);
    if (nef_group_encode(&r->group, w.data, NEF_GROUP_BYTES_MAX, &bytes) != NEF_OK)
        NEF_ASSERT(false); /* a decoded record fits by the limits of its decoder */
    w.at = bytes;
    nef_repl_send(r, NEF_ACT_SEND, peer, NEF_MSG_GROUP, &w, 0);
}

/* ---- etcd -------------------------------------------------------------------------------------------------- */

/* The record has gone (or never was). With a log of its own a replica doesn't invent a new one. */
static void record_absent(struct nef_repl *r)
{
    bool empty = r->persisted == 0;

    if (r->group.epoch > 0 || r->adopting.epoch > 0)
        return; /* go on by what we know: without the record nobody else can be elected */
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        empty = empty && nef_repl_log_start(r, c) == r->cells[c].end && r->cells[c].epochs.count == 0;
    r->config_lost = !empty;
}

/* Revisions never fall in one etcd, so an answer with a lower one was overtaken. But an etcd that lost everything counts
 * from the beginning again: then the operator's word (recover) makes the record anew above an absent one, and the others
 * find a higher epoch there, which no overtaken answer can have. */
static bool overtaken(const struct nef_repl *r, const struct nef_group *group, uint64_t revision)
{
    bool anew = r->recover && r->recover_answers == 0 && group->epoch == 0;

    return r->etcd.known && revision < r->etcd.revision && group->epoch <= r->etcd.epoch && !anew;
}

void nef_epoch_etcd_record(struct nef_repl *r, const struct nef_group *group, uint64_t revision)
{
    r->etcd.poll_at = r->now + r->config.etcd_poll_ns;
    if (overtaken(r, group, revision))
        return;
    r->etcd.known = true;
    r->etcd.revision = revision;
    r->etcd.epoch = group->epoch;
    if (group->epoch == 0)
        record_absent(r);
    else
        nef_epoch_adopt(r, group);
    if (!r->cas.pending)
        return;
    if (revision > r->cas.revision || group->epoch > r->cas.group.epoch)
        settle(r);
    else
        r->cas.retry_at = NEF_MIN(r->cas.retry_at, r->now); /* the old value settles nothing: repeat */
}

void nef_epoch_etcd_failed(struct nef_repl *r)
{
    r->etcd.get_in_flight = false;
    r->recover_answers = NEF_MIN(r->recover_answers, 1u);
    r->etcd.poll_at = r->now + r->config.etcd_retry_ns;
}

void nef_epoch_etcd_swapped(struct nef_repl *r, const struct nef_event *ev)
{
    bool stale = r->cas.stale_answer || !r->cas.pending;

    r->etcd.cas_in_flight = false;
    r->cas.stale_answer = false;
    if (ev->swap == NEF_SWAP_LOST && ev->group)
        nef_epoch_etcd_record(r, ev->group, ev->revision);
    if (stale || !r->cas.pending)
        return;
    switch (ev->swap) {
    case NEF_SWAP_WON:
        if (ev->revision > r->cas.revision) {
            r->etcd.known = true;
            r->etcd.revision = ev->revision;
            r->etcd.epoch = r->cas.group.epoch;
        } else {
            r->etcd.get_wanted = true;
        }
        {
            struct nef_group won = r->cas.group;

            nef_epoch_adopt(r, &won);
        }
        break;
    case NEF_SWAP_LOST:
        r->etcd.get_wanted = true; /* perhaps to our own first try: the record's nonce will tell */
        r->cas.retry_at = r->now + r->config.etcd_retry_ns;
        break;
    case NEF_SWAP_UNKNOWN:
        if (NEF_MUTATION_IS(5))
            r->cas.pending = false;
        r->etcd.get_wanted = true;
        r->cas.retry_at = r->now + r->config.etcd_retry_ns;
        break;
    }
}

static void emit_swap(struct nef_repl *r)
{
    struct nef_action *a = nef_repl_emit(r, NEF_ACT_ETCD_CAS);

    a->group = &r->cas.group;
    a->revision = r->cas.revision;
    r->etcd.cas_in_flight = true;
    r->cas.retry_at = UINT64_MAX; /* set by the answer */
}

bool nef_epoch_can_swap(struct nef_repl *r)
{
    if (r->cas.pending || r->etcd.cas_in_flight || nef_repl_frozen(r))
        return false;
    if (r->etcd.known && r->etcd.epoch == r->group.epoch)
        return true;
    r->etcd.get_wanted = true; /* the record came from a peer: its revision is still unknown */
    return false;
}

void nef_epoch_swap(struct nef_repl *r, struct nef_group *next)
{
    NEF_ASSERT(!r->cas.pending && !r->etcd.cas_in_flight);
    next->nonce[0] = r->random[0];
    next->nonce[1] = r->random[1];
    r->cas.group = *next;
    r->cas.revision = r->etcd.revision;
    r->cas.pending = true;
    r->cas.since = r->now;
    emit_swap(r);
}

/* ---- seeking ------------------------------------------------------------------------------------------------- */

static void set_primary(struct nef_group *g, uint32_t index)
{
    memset(g->primary, 0, sizeof g->primary);
    for (uint32_t c = 0; c < g->cell_count; c++)
        g->primary[c] = (uint8_t)index;
}

/* This replica alone: R2. */
static void seek_alone(struct nef_repl *r)
{
    struct nef_group next = r->group;

    next.epoch++;
    next.in_sync = 1u << r->self;
    set_primary(&next, (uint32_t)r->self);
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        next.first_offset[c] = r->cells[c].durable;
    nef_epoch_swap(r, &next);
}

/* The primary drained and asked: same members, another primary. What we know as committed is durable on
 * all of them. */
static void seek_handover(struct nef_repl *r)
{
    struct nef_group next = r->group;

    next.epoch++;
    set_primary(&next, (uint32_t)r->self);
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        next.first_offset[c] = r->cells[c].commit;
    nef_epoch_swap(r, &next);
}

void nef_epoch_first_offsets(const struct nef_repl *r, struct nef_group *next)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        uint64_t least = r->cells[c].durable;

        for (uint32_t i = 0; i < next->member_count; i++) {
            uint64_t there = 0; /* of one that acknowledges nothing now we can promise nothing */

            if (!(next->in_sync >> i & 1) || (int32_t)i == r->self)
                continue;
            for (uint32_t p = 0; p < r->config.peer_count; p++)
                if (nef_id_equal(&r->peers[p].replica, &next->members[i].replica))
                    there = r->peers[p].cells[c].durable;
            least = NEF_MIN(least, there);
        }
        next->first_offset[c] = least;
    }
}

/* As primary: go on without the members that are lost. */
static void seek_removal(struct nef_repl *r)
{
    struct nef_group next = r->group;

    for (uint32_t i = 0; i < r->group.member_count; i++)
        if (next.in_sync >> i & 1 && (int32_t)i != r->self &&
            nef_primary_lost(r, &r->group.members[i].replica))
            next.in_sync &= ~(1u << i);
    if (next.in_sync == r->group.in_sync || !nef_epoch_can_swap(r))
        return;
    for (uint32_t i = 0; i < r->group.member_count; i++)
        if ((next.in_sync ^ r->group.in_sync) >> i & 1)
            nef_primary_removed(r, &r->group.members[i].replica);
    next.epoch++;
    nef_epoch_first_offsets(r, &next);
    nef_epoch_swap(r, &next);
}

static void bootstrap(struct nef_repl *r)
{
    struct nef_group g = {.epoch = 1, .member_count = 1, .in_sync = 1};

    if (!r->config.bootstrap || r->config_lost || r->etcd.epoch != 0 || r->cas.pending ||
        r->etcd.cas_in_flight || r->adopting.epoch > 0)
        return;
    g.cell_count = r->config.cell_count;
    g.members[0].replica = r->config.replica;
    memcpy(g.members[0].zone, r->config.zone, sizeof g.members[0].zone);
    for (uint32_t c = 0; c < g.cell_count; c++)
        g.first_offset[c] = r->cells[c].durable;
    nef_epoch_swap(r, &g);
}

/* R8: the operator accepts the loss of whatever only the others have. */
static void recover(struct nef_repl *r)
{
    struct nef_group g = r->group;
    int32_t self;

    if (!r->etcd.known || r->cas.pending || r->etcd.cas_in_flight || r->adopting.epoch > 0)
        return;
    if (r->etcd.epoch > r->group.epoch && r->etcd.epoch >= r->persisted)
        return; /* about to be adopted */
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].must_cut || r->cells[c].cut_wanted || r->cells[c].cutting)
            return; /* catchup.c cuts what is damaged first */
    if (r->recover_answers > 0) { /* an answer from before the word says nothing of what etcd holds now */
        r->etcd.get_wanted = true;
        return;
    }
    /* The record may be older than what we know: it comes from a member that missed the last ones. The new epoch is
     * above both. */
    /* Epochs that only the lost ones know must not be made a second time: logs are told apart by epoch and offset. */
    g.epoch = nef_repl_seen(r) + NEF_EPOCH_OVERRIDE_STEP;
    g.cell_count = r->config.cell_count;
    g.override_epoch = g.epoch;
    self = nef_group_index(&g, &r->config.replica);
    if (self < 0) { /* a disk that the record doesn't know: it takes any place that fits */
        for (uint32_t i = 0; i < g.member_count; i++)
            if (strcmp(g.members[i].zone, r->config.zone) == 0)
                self = (int32_t)i;
        if (self < 0)
            self = (int32_t)(g.member_count < NEF_REPLICA_MAX ? g.member_count++ : 0);
        g.members[self].replica = r->config.replica;
        memcpy(g.members[self].zone, r->config.zone, sizeof g.members[self].zone);
    }
    g.in_sync = 1u << self;
    set_primary(&g, (uint32_t)self);
    for (uint32_t c = 0; c < g.cell_count; c++)
        g.first_offset[c] = r->cells[c].durable;
    r->recover = false;
    nef_epoch_swap(r, &g);
}

/* A backup in sync that can't follow for so long, whatever the reason, takes over. */
static bool backup_stuck(const struct nef_repl *r)
{
    return r->following != FOLLOWING_YES &&
           r->now >= NEF_MAX(r->not_following_since, r->group_at) + r->config.peer_stall_ns +
                         (r->config.preferred ? 0 : r->config.second_wait_ns);
}

static void seek(struct nef_repl *r)
{
    int32_t primary_peer;

    if (r->recover) {
        recover(r);
        return;
    }
    if (r->group.epoch == 0) {
        if (r->etcd.known)
            bootstrap(r);
        return;
    }
    if (r->cas.pending || nef_repl_frozen(r) || !nef_repl_fit(r) || nef_catchup_cutting(r))
        return;
    if (r->won) {
        seek_removal(r);
        return;
    }
    if (r->own_stalled && r->group.in_sync != 1u << r->self)
        return; /* R9: a disk that doesn't answer leads nobody */
    if (r->handover_asked && r->now >= r->handover_until)
        r->handover_asked = 0;
    primary_peer = nef_repl_primary_peer(r);
    if (r->handover_asked == 1) {
        if (nef_epoch_can_swap(r)) {
            r->handover_asked = 0;
            seek_handover(r);
        }
        return;
    }
    if (r->group.primary[0] == r->self || r->handover_asked == 2 || backup_stuck(r) ||
        (primary_peer >= 0 && r->peers[primary_peer].flags & NEF_STATE_UNFIT) ||
        nef_repl_suspect(r, &r->group.members[r->group.primary[0]].replica)) {
        if (nef_epoch_can_swap(r))
            seek_alone(r);
    }
}

void nef_epoch_run(struct nef_repl *r)
{
    seek(r);
    if (r->cas.pending && !r->etcd.cas_in_flight && r->now >= r->cas.retry_at)
        emit_swap(r);
    if (!r->etcd.get_in_flight &&
        ((r->etcd.get_wanted && r->now >= r->etcd.asked_at + r->config.etcd_retry_ns / 4) ||
         r->now >= r->etcd.poll_at)) {
        nef_repl_emit(r, NEF_ACT_ETCD_GET);
        r->etcd.get_in_flight = true;
        r->etcd.get_wanted = false;
        r->etcd.asked_at = r->now;
        r->etcd.poll_at = r->now + r->config.etcd_poll_ns;
    }
}
