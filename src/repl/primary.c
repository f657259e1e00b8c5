/* The primary: it places proposals, streams its log, decides what is committed, and hands over.
 *
 * Committed is what is durable on every replica that counts (R1): in sync by the record, in sync by a
 * change of ours that is still pending, and a counted joiner. A peer's durable counts only from its STATE
 * in the current session and epoch. Before it *acts* (lease.c) a new primary appends, streams and syncs
 * already, so that at the moment its old leases have run out everything that waits commits at once.
 *
 * Records of earlier epochs in a new primary's log are committed by the same rule. No record of its own
 * epoch must come first, as Raft needs (figure 8 there): members are elected by the record in etcd, not
 * by comparing logs, so an entry that every counted replica holds can't be elected away.
 *
 * A session with a peer ends with its link, its process, our epoch as primary, or its membership. Within
 * it, the peer's log is a prefix of ours. What the network lost is sent again from the end that the
 * peer reports. */
#include "repl/repl_internal.h"

/* ---- appending -------------------------------------------------------------------------------------------- */

bool nef_primary_appends(const struct nef_repl *r)
{
    return r->won && !nef_repl_frozen(r) && !r->draining && !r->own_stalled && nef_repl_fit(r) &&
           !nef_catchup_cutting(r);
}

/* Where BYTES go in CELL; fills the placing fields of A and moves the end. */
static void place(struct nef_repl *r, uint32_t c, uint64_t bytes, struct nef_action *a)
{
    struct cell *cell = &r->cells[c];
    uint64_t at = nef_log_place(cell->end, bytes, r->config.segment_bytes);

    NEF_ASSERT(!cell->cutting);
    nef_table_add(&cell->epochs, r->group.epoch, cell->end);
    a->cell = c;
    a->offset = at;
    a->bytes = bytes;
    a->epoch = r->group.epoch;
    a->synced_before = cell->commit;
    if (at > cell->end) {
        a->pad_offset = cell->end;
        a->pad_bytes = r->config.segment_bytes - cell->end % r->config.segment_bytes;
    }
    cell->end = nef_log_end_at(at + bytes, r->config.segment_bytes);
    cell->appended_at = r->now;
}

void nef_primary_append(struct nef_repl *r, uint32_t c, uint64_t handle, uint64_t number,
                        uint32_t bytes)
{
    struct nef_action *a = nef_repl_emit(r, NEF_ACT_APPEND);

    place(r, c, bytes, a);
    a->handle = handle;
    a->number = number;
    r->cells[c].mark_due = true;
}

/* An idle cell writes one mark, so that damage in what came before can be told from a torn tail. */
static void mark_idle_cells(struct nef_repl *r)
{
    if (!nef_primary_appends(r) || !r->acting)
        return;
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        struct cell *cell = &r->cells[c];

        if (!cell->mark_due || cell->commit != cell->end ||
            r->now < cell->appended_at + MARK_IDLE_NS)
            continue;
        place(r, c, NEF_RECORD_HEADER_BYTES, nef_repl_emit(r, NEF_ACT_MARK));
        cell->mark_due = false;
    }
}

/* ---- streams ------------------------------------------------------------------------------------------------ */

void nef_primary_forget(struct nef_repl *r, struct peer *p)
{
    p->follow = FOLLOW_NONE;
    p->session = 0;
    p->stream_epoch = 0;
    p->counted = false;
    p->rejoin_lost = false;
    p->follow_since = r->now;
    memset(p->cells, 0, sizeof p->cells);
}

static void stream_from(struct nef_repl *r, struct peer *p, const struct nef_state *s)
{
    if (p->follow != FOLLOW_STREAMING)
        p->follow_since = r->now;
    p->follow = FOLLOW_STREAMING;
    p->stream_epoch = r->group.epoch;
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        p->cells[c] = (struct peer_cell){.end = s->cells[c].end,
                                         .durable = s->cells[c].durable,
                                         .sent = s->cells[c].end,
                                         .progress_at = r->now};
}

void nef_primary_state(struct nef_repl *r, struct peer *p, const struct nef_state *s)
{
    if (!r->won || p->follow == FOLLOW_NONE || s->session != p->session)
        return;
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (s->cells[c].end > r->cells[c].end) { /* not a prefix of ours: this can't be our session */
            nef_primary_forget(r, p);
            return;
        }
    if (p->follow == FOLLOW_RECONCILING || p->stream_epoch != r->group.epoch) {
        stream_from(r, p, s);
        return;
    }
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        struct peer_cell *pc = &p->cells[c];

        if (s->cells[c].end > pc->end) {
            if (nef_primary_blocks(r, p, c) && s->cells[c].end > r->cells[c].bad_at)
                r->cells[c].bad_wait = 0; /* repaired: it has it */
            pc->end = s->cells[c].end;
            pc->progress_at = r->now;
        }
        pc->durable = NEF_MAX(pc->durable, s->cells[c].durable);
        pc->sent = NEF_MAX(pc->sent, pc->end);
        if (s->cells[c].flags & NEF_STATE_GAP && pc->sent > pc->end &&
            r->now >= pc->rewound_at + GAP_REWIND_NS) {
            pc->sent = pc->end;
            pc->rewound_at = r->now;
        }
    }
}

/* ---- what can't be read -------------------------------------------------------------------------------------- */

/* A record of our log doesn't verify, and the only other one who might have it is the one that asks for it.
 * Nothing may be left out: a replica in sync holds everything (R1). So it isn't counted, the region goes on
 * without it, and the record is tried again, ever more seldom: it may be repaired from another disk, or erased
 * or dropped once no object needs it. */
void nef_primary_unreadable(struct nef_repl *r, uint32_t c, uint64_t offset)
{
    struct cell *cell = &r->cells[c];

    if (!r->won || offset >= cell->end)
        return;
    if (cell->bad_wait > 0 && r->now < cell->bad_until) { /* of what was sent before we knew */
        cell->bad_at = NEF_MIN(cell->bad_at, offset);
        return;
    }
    cell->bad_wait =
        cell->bad_wait == 0 ? UNREADABLE_NS_MIN : NEF_MIN(2 * cell->bad_wait, UNREADABLE_NS_MAX);
    cell->bad_until = r->now + cell->bad_wait;
    cell->bad_at = offset;
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (nef_primary_blocks(r, &r->peers[i], c))
            r->peers[i].cells[c].sent = r->peers[i].cells[c].end;
    nef_state_due(r);
}

bool nef_primary_blocks(const struct nef_repl *r, const struct peer *p, uint32_t c)
{
    return r->won && p->follow == FOLLOW_STREAMING && r->cells[c].bad_wait > 0 &&
           p->cells[c].end <= r->cells[c].bad_at;
}

/* Not to be tried now: BYTES from FROM on hold it. */
static bool held_back(const struct nef_repl *r, const struct cell *cell, uint64_t from, uint64_t bytes)
{
    return cell->bad_wait > 0 && r->now < cell->bad_until && from <= cell->bad_at &&
           cell->bad_at - from < bytes;
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void send_log(struct nef_repl *r, uint32_t peer, uint32_t c, uint64_t from, uint64_t bytes)
{
    struct cell *cell = &r->cells[c];
    struct nef_append m = {.session = r->peers[peer].session, .cell = c, .offset = from,
                           .commit = cell->commit};
    struct nef_writer w;
    struct nef_action *a;

    for (uint32_t i = 0; i < cell->epochs.count; i++)
        if (cell->epochs.at[i].offset >= from && cell->epochs.at[i].offset < from + bytes)
            m.epochs.at[m.epochs.count++] = cell->epochs.at[i];
    w = nef_repl_body(r, 64 + 16 * NEF_EPOCHS_KEPT);
    nef_append_encode(&w, &m);
    a = nef_repl_send(r, NEF_ACT_SEND_LOG, peer, NEF_MSG_APPEND, &w, (uint32_t)bytes);
    a->cell = c;
    a->offset = from;
    a->bytes = bytes;
}

/* Send the next run of whole records of CELL to PEER; false when nothing more can be sent now. */
static bool send_next(struct nef_repl *r, uint32_t peer, uint32_t c)
{
    struct peer *p = &r->peers[peer];
    struct peer_cell *pc = &p->cells[c];
    uint64_t end = r->cells[c].end, from = pc->sent, bytes;

    if (from >= end || from - pc->end >= r->config.window_bytes || !nef_repl_room(r, 1))
        return false;
    if (r->config.next_present(r->config.context, c, from) != from) {
        /* Dropped: it joins again and skips, but not before it has what it was sent. Bytes of a session that
         * ended count for nothing, so ending it earlier would send the same bytes again and again. */
        if (pc->end == from)
            nef_primary_forget(r, p);
        return false;
    }
    bytes = NEF_MIN(end - from, r->config.segment_bytes - from % r->config.segment_bytes);
    bytes = NEF_MIN(bytes, r->config.present_until(r->config.context, c, from) - from);
    if (held_back(r, &r->cells[c], from, NEF_MIN(bytes, r->config.append_bytes_max)))
        return false;
    if (bytes > r->config.append_bytes_max)
        bytes = r->config.whole_records(r->config.context, c, from, r->config.append_bytes_max);
    if (bytes == 0 || held_back(r, &r->cells[c], from, bytes)) /* held back: a run above append_bytes_max */
        return false;
    send_log(r, peer, c, from, bytes);
    pc->sent = nef_log_end_at(from + bytes, r->config.segment_bytes);
    return true;
}

void nef_primary_streams(struct nef_repl *r)
{
    if (!r->won || nef_repl_frozen(r))
        return;
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        struct peer *p = &r->peers[i];

        for (uint32_t c = 0; c < r->config.cell_count; c++) {
            struct peer_cell *pc = &p->cells[c];

            /* Not before it has adopted our epoch: it would refuse what comes earlier. */
            if (!p->up || p->follow != FOLLOW_STREAMING || p->stream_epoch != r->group.epoch ||
                p->epoch != r->group.epoch)
                break;
            if (pc->sent > pc->end && r->now >= pc->progress_at + REWIND_NS) {
                pc->sent = pc->end;
                pc->progress_at = r->now;
            }
            if (pc->sent == pc->end)
                pc->progress_at = r->now;
            while (send_next(r, i, c))
                ;
        }
    }
}

/* ---- commit ---------------------------------------------------------------------------------------------------- */

static bool acknowledges(const struct nef_repl *r, const struct peer *p)
{
    return p->follow == FOLLOW_STREAMING && p->stream_epoch == r->group.epoch;
}

/* Lower MIN[cell] to what the replica ID has acknowledged; false if it acknowledges nothing now. */
static bool lower(const struct nef_repl *r, const struct nef_id *id, uint64_t *min)
{
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        const struct peer *p = &r->peers[i];

        if (!p->known || !nef_id_equal(&p->replica, id) || !acknowledges(r, p))
            continue;
        for (uint32_t c = 0; c < r->config.cell_count; c++)
            min[c] = NEF_MIN(min[c], p->cells[c].durable);
        return true;
    }
    return false;
}

void nef_primary_commit(struct nef_repl *r)
{
    const struct nef_group *groups[2] = {&r->group, r->cas.pending ? &r->cas.group : NULL};
    uint64_t min[NEF_CELL_MAX];
    bool moved = false;

    if (!r->won || !r->acting || nef_repl_frozen(r))
        return;
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        min[c] = r->cells[c].durable;
    for (uint32_t g = 0; g < 2 && groups[g] && !NEF_MUTATION_IS(6); g++)
        for (uint32_t i = 0; i < groups[g]->member_count; i++) {
            const struct nef_id *id = &groups[g]->members[i].replica;

            if (groups[g]->in_sync >> i & 1 && !nef_id_equal(id, &r->config.replica) &&
                !lower(r, id, min))
                return;
        }
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (r->peers[i].counted && !NEF_MUTATION_IS(6) && !lower(r, &r->peers[i].replica, min))
            return;
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (min[c] > r->cells[c].commit) {
            r->cells[c].commit = min[c];
            moved = true;
        }
    if (moved)
        nef_state_due(r);
}

bool nef_primary_no_space(const struct nef_repl *r)
{
    bool full = r->no_space;

    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (r->peers[i].up && nef_repl_effective(r, &r->peers[i].replica))
            full = full || r->peers[i].flags & NEF_STATE_NO_SPACE;
    return full;
}

/* ---- slow is gone (R9) ----------------------------------------------------------------------------------------- */

static void watch(struct nef_repl *r)
{
    r->own_stalled = false;
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        struct cell *cell = &r->cells[c];

        if (cell->syncing && r->now >= cell->sync_since + r->config.peer_stall_ns)
            r->own_stalled = true;
        for (uint32_t i = 0; i < r->config.peer_count && r->won; i++) {
            struct peer_cell *pc = &r->peers[i].cells[c];

            if (pc->durable >= cell->end)
                pc->watch = 0;
            else if (pc->watch == 0 || pc->durable >= pc->watch) {
                pc->watch = cell->end;
                pc->watch_since = r->now;
            }
        }
    }
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (nef_group_has(&r->group, &r->peers[i].replica) &&
            r->now >= r->group_at + QUIET_RESET_NS)
            r->peers[i].quiet_ns = 0;
}

static bool stalled(const struct nef_repl *r, const struct peer *p)
{
    if (r->own_stalled)
        return false; /* then it isn't the peer that is slow */
    if (!acknowledges(r, p))
        return r->now >= NEF_MAX(p->follow_since, r->group_at) + r->config.peer_stall_ns;
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (p->cells[c].watch > 0 && p->cells[c].durable < p->cells[c].watch &&
            r->now >= p->cells[c].watch_since + r->config.peer_stall_ns)
            return true;
    return false;
}

bool nef_primary_lost(const struct nef_repl *r, const struct nef_id *replica)
{
    int32_t i = nef_repl_peer_of(r, replica);

    if (nef_repl_suspect(r, replica))
        return true;
    if (i < 0)
        return false; /* the link is given its time to come back */
    return r->peers[i].rejoin_lost || r->peers[i].flags & NEF_STATE_UNFIT ||
           stalled(r, &r->peers[i]);
}

void nef_primary_removed(struct nef_repl *r, const struct nef_id *replica)
{
    int32_t i = nef_repl_peer_of(r, replica);
    struct peer *p;

    if (i < 0)
        return;
    p = &r->peers[i];
    if (!stalled(r, p))
        return;
    p->quiet_ns = p->quiet_ns == 0 ? QUIET_NS_MIN : NEF_MIN(2 * p->quiet_ns, QUIET_NS_MAX);
    p->count_not_before = r->now + p->quiet_ns;
}

/* ---- handing over ------------------------------------------------------------------------------------------------ */

static void send_handover(struct nef_repl *r, uint32_t peer, bool drained)
{
    struct nef_handover h = {.session = r->peers[peer].session, .drained = drained};
    struct nef_writer w = nef_repl_body(r, 16);

    nef_handover_encode(&w, &h);
    nef_repl_send(r, NEF_ACT_SEND, peer, NEF_MSG_HANDOVER, &w, 0);
}

static bool can_lead(const struct nef_repl *r, uint32_t peer)
{
    const struct peer *p = &r->peers[peer];

    return p->up && p->known && acknowledges(r, p) && nef_group_has(&r->group, &p->replica) &&
           !(p->flags & NEF_STATE_UNFIT);
}

static bool drained(const struct nef_repl *r, const struct peer *p)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].commit != r->cells[c].end || p->cells[c].durable != r->cells[c].end)
            return false;
    return true;
}

/* Begin a planned change of primary if the operator, or the time of 2/2, asks for it. */
static void begin_drain(struct nef_repl *r)
{
    if (!r->acting || r->cas.pending || r->own_stalled)
        return;
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        const struct peer *p = &r->peers[i];
        bool failback = !r->config.preferred && p->flags & NEF_STATE_PREFERRED &&
                        r->now >= NEF_MAX(r->group_at, p->follow_since) + r->config.failback_ns &&
                        r->now >= r->drain_not_before;

        if (!can_lead(r, i) || !(failback || r->drain_wanted))
            continue;
        r->drain_wanted = false;
        r->draining = true;
        r->drain_sent = false;
        r->drain_peer = i;
        r->drain_until = r->now + HANDOVER_NS;
        return;
    }
    r->drain_wanted = false; /* nobody could take it: not at some later time, either */
}

static void drain(struct nef_repl *r)
{
    struct peer *p = &r->peers[r->drain_peer];

    if (!can_lead(r, r->drain_peer) || r->now >= r->drain_until) {
        /* Resuming is safe at any time: if the backup does win later, R3 stops us. */
        r->draining = false;
        r->drain_not_before = r->now + r->config.failback_ns;
        return;
    }
    if (r->drain_sent || !drained(r, p))
        return;
    send_handover(r, r->drain_peer, true);
    r->drain_sent = true;
    r->drain_until = r->now + HANDOVER_NS;
}

/* R9: our own disk stalls. What is committed is on the backup too, so it may go on alone. */
static void give_up(struct nef_repl *r)
{
    if (r->now < r->drain_until)
        return;
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        if (can_lead(r, i)) {
            send_handover(r, i, false);
            r->drain_until = r->now + HANDOVER_NS / 2;
            return;
        }
}

void nef_primary_run(struct nef_repl *r)
{
    watch(r);
    if (!r->won || nef_repl_frozen(r)) {
        r->draining = r->drain_wanted = false;
        return;
    }
    nef_primary_commit(r);
    if (r->own_stalled) {
        r->draining = false;
        give_up(r);
    } else if (r->draining) {
        drain(r);
    } else {
        begin_drain(r);
    }
    mark_idle_cells(r);
}
