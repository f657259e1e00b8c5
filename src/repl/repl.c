/* The replication core's entry: init, step, status, and the small tools every part uses to emit.
 *
 * A step takes one event, lets the part that it concerns change its state, and then runs the parts in a
 * fixed order, each reading what those before it left:
 *
 *   event -> epoch (records, elections) -> lease (may we act?) -> catch-up -> primary (drain, commit)
 *         -> proposals -> with a flush: syncs, streams, STATEs -> SERVE, COMMIT, STATUS, deadline
 *
 * The order matters in one place: SERVE comes after everything that can withdraw the right to answer, so
 * the runtime never serves on a lease that this step ended. Timers are only comparisons with `now`, made
 * at every step; the deadline says when the next one could turn out differently. */
#include "repl/repl_internal.h"

/* ---- emitting ----------------------------------------------------------------------------------------- */

/* Kept free for what the parts emit without asking: per cell SYNC, COMMIT, TRUNCATE and MARK, and some
 * single actions. Bulk work (proposals, streams) asks nef_repl_room first. */
#define ACTIONS_RESERVED (4u * NEF_CELL_MAX + 64u)
#define ARENA_RESERVED   (96u << 10)

_Static_assert(ACTIONS_RESERVED < NEF_ACTIONS_MAX / 2, "bulk work has at least half of the actions");

struct nef_action *nef_repl_emit(struct nef_repl *r, enum nef_action_type type)
{
    struct nef_action *a;

    NEF_ASSERT(r->out->count < NEF_ACTIONS_MAX);
    a = &r->out->at[r->out->count++];
    memset(a, 0, sizeof *a);
    a->type = type;
    return a;
}

bool nef_repl_room(struct nef_repl *r, uint32_t count)
{
    if (r->out->count + count + ACTIONS_RESERVED <= NEF_ACTIONS_MAX &&
        r->arena_used + ARENA_RESERVED <= ARENA_BYTES)
        return true;
    r->out->more = true;
    return false;
}

struct nef_writer nef_repl_body(struct nef_repl *r, uint32_t bytes_max)
{
    NEF_ASSERT(r->arena_used + bytes_max <= ARENA_BYTES);
    return nef_writer_of(r->arena + r->arena_used, bytes_max);
}

struct nef_action *nef_repl_send(struct nef_repl *r, enum nef_action_type action, uint32_t peer,
                                 enum nef_message_type type, const struct nef_writer *w,
                                 uint32_t payload_bytes)
{
    struct nef_action *a = nef_repl_emit(r, action);
    struct nef_message *m = &r->messages[r->out->count - 1];

    NEF_ASSERT(!w->failed && w->data == r->arena + r->arena_used);
    *m = (struct nef_message){
        .type = (uint8_t)type,
        .replica = r->config.replica,
        .incarnation = r->config.incarnation,
        .epoch = r->group.epoch,
        .body = w->data,
        .body_bytes = (uint32_t)w->at,
        .payload_bytes = payload_bytes,
    };
    r->arena_used += (uint32_t)w->at;
    a->peer = peer;
    a->message = m;
    return a;
}

/* ---- init --------------------------------------------------------------------------------------------- */

uint64_t nef_repl_bytes(uint32_t cell_count)
{
    return sizeof(struct nef_repl) + cell_count * sizeof(struct cell);
}

struct nef_repl *nef_repl_init(void *memory, const struct nef_repl_config *config, uint64_t epoch,
                               const struct nef_repl_cell_start *cells, uint64_t now)
{
    struct nef_repl *r = memory;

    NEF_ASSERT(config->cell_count > 0 && config->cell_count <= NEF_CELL_MAX);
    NEF_ASSERT(config->peer_count <= NEF_PEER_MAX);
    NEF_ASSERT(config->append_bytes_max > 0 && config->append_bytes_max <= NEF_MESSAGE_BYTES_MAX);
    memset(memory, 0, nef_repl_bytes(config->cell_count));
    r->config = *config;
    r->started = r->now = now;
    r->persisted = epoch;
    r->self = -1;
    r->serve_until = 0;
    r->not_following_since = now;
    r->session_last = config->incarnation;
    r->free_bytes = UINT64_MAX; /* until the runtime says otherwise */
    for (uint32_t i = 0; i < NEF_PEER_MAX; i++) /* a link gets the usual time to come up */
        r->peers[i].down_since = now + config->suspect_ns;
    for (uint32_t c = 0; c < config->cell_count; c++) {
        struct cell *cell = &r->cells[c];

        cell->end = cells[c].damaged ? cells[c].damage_offset : cells[c].end;
        cell->durable = cell->end;
        cell->commit = NEF_MIN(cells[c].committed, cell->end);
        cell->commit_told = cell->commit;
        cell->epochs = cells[c].epochs;
        cell->appended_at = now;
        nef_table_cut(&cell->epochs, cell->end);
        if (cells[c].damaged) {
            cell->must_cut = true;
            r->unfit = NEF_E_DAMAGED;
        }
    }
    nef_proposals_init(r);
    return r;
}

/* ---- events ------------------------------------------------------------------------------------------- */

static void link_reset(struct nef_repl *r, uint32_t peer, bool up)
{
    struct peer *p = &r->peers[peer];

    nef_primary_forget(r, p);
    p->up = up;
    p->known = false;
    p->epoch = 0;
    p->flags = 0;
    p->lease_request = 0; /* a lease we hold stays good: its granter is bound by it whatever the link does */
    p->group_told_at = 0;
    p->state_due = up;
    p->last_heard = r->now;
    if (!up)
        p->down_since = r->now;
    if (r->following != FOLLOWING_NOT && r->follow_peer == peer)
        nef_backup_unfollow(r);
}

static void message(struct nef_repl *r, const struct nef_event *ev)
{
    const struct nef_message *m = ev->message;
    struct peer *p = &r->peers[ev->peer];
    struct nef_state state;
    struct nef_handover handover;

    if (!p->up || nef_id_equal(&m->replica, &r->config.replica))
        return;
    if (p->known &&
        (!nef_id_equal(&p->replica, &m->replica) || p->incarnation != m->incarnation))
        link_reset(r, ev->peer, true);
    if (!p->known) {
        if (!nef_id_equal(&p->replica, &m->replica)) { /* another disk: nothing of the old one holds */
            p->lease_until = 0;
            p->quiet_ns = 0;
            p->count_not_before = 0;
        }
        p->known = true;
        p->replica = m->replica;
        p->incarnation = m->incarnation;
    }
    p->last_heard = r->now;
    p->epoch = m->epoch;
    if (m->type == NEF_MSG_GROUP) {
        struct nef_group group;

        if (nef_group_decode(m->body, m->body_bytes, &group) == NEF_OK)
            nef_epoch_adopt(r, &group);
        return;
    }
    if (m->epoch < nef_repl_seen(r)) { /* R3 */
        if (m->type == NEF_MSG_STATE || m->type == NEF_MSG_JOIN)
            nef_epoch_tell(r, ev->peer);
        if (!NEF_MUTATION_IS(7))
            return;
    }
    if (m->epoch > r->group.epoch) {
        r->etcd.get_wanted = true;
        return;
    }
    switch (m->type) {
    case NEF_MSG_STATE:
        if (nef_state_decode(m, &state) != NEF_OK || state.cell_count != r->config.cell_count)
            return;
        p->lease_request = NEF_MAX(p->lease_request, state.lease_request);
        p->free_bytes = state.free_bytes;
        p->flags = state.flags;
        nef_lease_granted(r, p, state.lease_grant);
        nef_primary_state(r, p, &state);
        nef_backup_state(r, ev->peer, &state);
        break;
    case NEF_MSG_JOIN:
        nef_catchup_join(r, ev->peer, m);
        break;
    case NEF_MSG_JOINED:
        nef_catchup_joined(r, ev->peer, m);
        break;
    case NEF_MSG_APPEND:
        nef_backup_append(r, ev->peer, ev);
        break;
    case NEF_MSG_PROPOSE:
        nef_proposals_from_peer(r, ev);
        break;
    case NEF_MSG_HANDOVER:
        if (nef_handover_decode(m, &handover) == NEF_OK && r->following == FOLLOWING_YES &&
            r->follow_peer == ev->peer && handover.session == r->follow_session) {
            r->handover_asked = handover.drained ? 1 : 2;
            r->handover_until = r->now + HANDOVER_NS / 2;
        }
        break;
    default:
        break;
    }
}

static void take_event(struct nef_repl *r, const struct nef_event *ev)
{
    switch (ev->type) {
    case NEF_EV_TICK:
    case NEF_EV_FLUSH:
        r->flush = true;
        break;
    case NEF_EV_PEER_UP:
        NEF_ASSERT(ev->peer < r->config.peer_count);
        link_reset(r, ev->peer, true);
        nef_backup_send_state(r, ev->peer);
        if (nef_repl_primary_peer(r) == (int32_t)ev->peer)
            nef_proposals_again(r);
        break;
    case NEF_EV_PEER_DOWN:
        NEF_ASSERT(ev->peer < r->config.peer_count);
        link_reset(r, ev->peer, false);
        break;
    case NEF_EV_MESSAGE:
        NEF_ASSERT(ev->peer < r->config.peer_count);
        message(r, ev);
        break;
    case NEF_EV_SYNCED:
        NEF_ASSERT(ev->cell < r->config.cell_count);
        nef_backup_synced(r, ev->cell, ev->offset);
        break;
    case NEF_EV_CUT:
        NEF_ASSERT(ev->cell < r->config.cell_count);
        nef_catchup_cut_done(r, ev->cell);
        break;
    case NEF_EV_PERSISTED:
        nef_epoch_persisted(r, ev->epoch);
        break;
    case NEF_EV_ETCD_RECORD:
        r->etcd.get_in_flight = false;
        r->recover_answers -= r->recover_answers > 0;
        nef_epoch_etcd_record(r, ev->group, ev->revision);
        break;
    case NEF_EV_ETCD_SWAPPED:
        nef_epoch_etcd_swapped(r, ev);
        break;
    case NEF_EV_ETCD_FAILED:
        nef_epoch_etcd_failed(r);
        break;
    case NEF_EV_PROPOSE:
        NEF_ASSERT(ev->cell < r->config.cell_count);
        nef_proposals_propose(r, ev);
        break;
    case NEF_EV_PROPOSAL_DONE:
        nef_proposals_done(r, ev->number);
        break;
    case NEF_EV_SPACE:
        r->free_bytes = ev->free_bytes;
        if (r->no_space != (ev->err == NEF_E_NOSPACE))
            nef_state_due(r);
        r->no_space = ev->err == NEF_E_NOSPACE;
        break;
    case NEF_EV_HANDOVER:
        r->drain_wanted = true;
        break;
    case NEF_EV_RECOVER:
        r->recover = true;
        r->recover_answers = r->etcd.get_in_flight ? 2 : 1;
        r->etcd.get_wanted = true;
        break;
    case NEF_EV_FAILED: /* R7 */
        r->dead = true;
        r->unfit = ev->err;
        nef_repl_emit(r, NEF_ACT_SERVE)->until = 0;
        nef_repl_emit(r, NEF_ACT_STATUS);
        nef_repl_emit(r, NEF_ACT_STOP)->err = ev->err;
        r->serve_until = 0;
        break;
    case NEF_EV_UNREADABLE:
        NEF_ASSERT(ev->cell < r->config.cell_count);
        nef_primary_unreadable(r, ev->cell, ev->offset);
        break;
    case NEF_EV_PROPOSERS_GONE_SEEN:
        break;
    }
}

/* ---- status -------------------------------------------------------------------------------------------- */

static enum nef_role role(const struct nef_repl *r)
{
    if (r->dead || r->config_lost)
        return NEF_ROLE_STOPPED;
    if (r->unfit != NEF_OK && r->following < FOLLOWING_CUTTING)
        return NEF_ROLE_STOPPED;
    if (r->group.epoch == 0)
        return NEF_ROLE_STARTING;
    if (r->won)
        return r->acting && !nef_repl_frozen(r) ? NEF_ROLE_PRIMARY : NEF_ROLE_SEEKING;
    if (r->cas.pending)
        return NEF_ROLE_SEEKING;
    if (nef_repl_fit(r))
        return r->now < r->started + r->config.lease_ns ? NEF_ROLE_STARTING : NEF_ROLE_BACKUP;
    return r->following >= FOLLOWING_CUTTING ? NEF_ROLE_CATCHING_UP : NEF_ROLE_OUT;
}

static uint64_t mix(uint64_t digest, uint64_t v)
{
    digest ^= v + 0x9e3779b97f4a7c15u + (digest << 6) + (digest >> 2);
    return digest * 0xff51afd7ed558ccdu;
}

static void tell_status(struct nef_repl *r)
{
    uint64_t digest = mix(mix(1, (uint64_t)role(r)), r->group.epoch);

    digest = mix(mix(digest, r->cas.pending), (uint64_t)r->unfit);
    digest = mix(mix(digest, (uint64_t)r->following), r->group.nonce[0]);
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        const struct peer *p = &r->peers[i];

        digest = mix(digest, (uint64_t)p->up | (uint64_t)p->known << 1 | (uint64_t)p->counted << 2 |
                                 (uint64_t)p->follow << 3);
    }
    if (digest == r->status_digest)
        return;
    r->status_digest = digest;
    nef_repl_emit(r, NEF_ACT_STATUS);
}

static uint64_t bytes_left(const struct nef_repl *r, const struct peer *p)
{
    uint64_t left = 0;

    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (p->follow == FOLLOW_STREAMING && p->cells[c].end < r->cells[c].end)
            left += r->cells[c].end - p->cells[c].end;
    return left;
}

void nef_repl_status(const struct nef_repl *r, struct nef_repl_status *out)
{
    memset(out, 0, sizeof *out);
    out->role = role(r);
    out->err = r->config_lost ? NEF_E_CONFIG : r->unfit;
    out->group = r->group;
    out->self = r->self;
    out->primary = r->group.epoch > 0 ? (int32_t)r->group.primary[0] : -1;
    out->primary_peer = nef_repl_primary_peer(r);
    out->in_sync_count = (uint32_t)__builtin_popcount(r->group.in_sync);
    out->cas_pending = r->cas.pending;
    out->serve_until = r->serve_until;
    for (uint32_t c = r->config.cell_count; c-- > 0;)
        if (r->following == FOLLOWING_YES && r->cells[c].primary_bad) {
            out->blocked = true;
            out->blocked_cell = c;
            out->blocked_offset = r->cells[c].end;
        }
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        const struct peer *p = &r->peers[i];

        out->peers[i].up = p->up;
        out->peers[i].replica = p->replica;
        out->peers[i].incarnation = p->incarnation;
        out->peers[i].epoch = p->epoch;
        out->peers[i].last_heard = p->last_heard;
        out->peers[i].free_bytes = p->free_bytes;
        out->peers[i].in_sync = nef_group_has(&r->group, &p->replica);
        out->peers[i].catching_up = r->won && p->follow != FOLLOW_NONE && !out->peers[i].in_sync;
        out->peers[i].bytes_left = bytes_left(r, p);
        for (uint32_t c = 0; c < r->config.cell_count; c++)
            out->peers[i].durable[c] = p->cells[c].durable;
        for (uint32_t c = r->config.cell_count; c-- > 0;)
            if (nef_primary_blocks(r, p, c)) {
                out->peers[i].blocked = true;
                out->peers[i].blocked_cell = c;
                out->peers[i].blocked_offset = r->cells[c].bad_at;
            }
    }
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        out->cells[c].end = r->cells[c].end;
        out->cells[c].durable = r->cells[c].durable;
        out->cells[c].commit = r->cells[c].commit;
    }
}

/* ---- step ---------------------------------------------------------------------------------------------- */

static void sooner(struct nef_repl *r, uint64_t at)
{
    if (at > r->now && at < r->out->deadline)
        r->out->deadline = at;
}

static void set_deadline(struct nef_repl *r)
{
    /* Every time-out is checked at every step; a heartbeat is the coarsest any of them may be. */
    r->out->deadline = r->now + r->config.heartbeat_ns;
    sooner(r, r->heartbeat_at);
    sooner(r, r->act_at);
    sooner(r, r->etcd.poll_at);
    if (r->cas.pending)
        sooner(r, r->cas.retry_at);
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        const struct peer *p = &r->peers[i];
        uint64_t wait = r->config.preferred ? 0 : r->config.second_wait_ns;

        sooner(r, p->up ? p->last_heard + r->config.suspect_ns + wait : p->down_since + wait);
    }
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].mark_due && r->cells[c].commit == r->cells[c].end)
            sooner(r, r->cells[c].appended_at + MARK_IDLE_NS);
}

static void heartbeat(struct nef_repl *r)
{
    if (r->now < r->heartbeat_at)
        return;
    r->heartbeat_at = r->now + r->config.heartbeat_ns;
    nef_state_due(r);
}

void nef_repl_step(struct nef_repl *r, const struct nef_event *ev, struct nef_actions *out)
{
    out->count = 0;
    out->more = false;
    r->out = out;
    r->arena_used = 0;
    r->now = NEF_MAX(r->now, ev->now);
    r->random[0] = ev->random[0];
    r->random[1] = ev->random[1];
    r->flush = false;
    if (!r->dead)
        take_event(r, ev);
    if (r->dead) {
        out->deadline = r->now + r->config.etcd_poll_ns;
        r->out = NULL;
        return;
    }
    heartbeat(r);
    nef_epoch_run(r);
    nef_lease_act(r);
    nef_catchup_follower(r);
    nef_catchup_primary(r);
    nef_lease_act(r); /* again: who counts may just have changed */
    nef_primary_run(r);
    nef_proposals_run(r);
    if (r->flush) {
        nef_backup_syncs(r);
        nef_primary_streams(r);
        for (uint32_t i = 0; i < r->config.peer_count; i++)
            if (r->peers[i].state_due)
                nef_backup_send_state(r, i);
    }
    nef_lease_serve(r);
    nef_backup_commits(r);
    tell_status(r);
    set_deadline(r);
    r->out = NULL;
}
