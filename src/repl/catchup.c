/* Catch-up (R6): how a replica comes back, and how the primary takes it in again.
 *
 *   joiner                                   primary
 *     JOIN(ends, epoch tables) ------------->  longest shared prefix, first place it still has
 *     <-------- JOINED(session, cut, from, table)
 *     TRUNCATE to cut, SKIP to from
 *     STATE(session, ends) ----------------->  streams from those ends
 *     <-------- APPEND ...                     near the tail: *counted* for R1 and R4
 *     STATE(durable) ----------------------->  has all that was acknowledged before counting,
 *                                              and granted a lease: compare-and-swap adds it
 *
 * The shared prefix needs no bytes to be compared: an epoch has one writer, which appends in order, so
 * two logs that both hold a record of epoch e are equal below the smaller of the two places where their
 * part of e ends (README.md has the proof). Client writes never stop: before it is counted a joiner holds
 * nobody up, and one that stalls while counted is uncounted as long as its addition wasn't asked for.
 *
 * A member in sync whose process or link was new joins in the same way; nothing is cut from it that was
 * acknowledged, or it has lost it and goes out of the record. */
#include "repl/repl_internal.h"

/* ---- epoch tables ------------------------------------------------------------------------------------------ */

void nef_table_add(struct nef_epoch_table *t, uint64_t epoch, uint64_t offset)
{
    if (t->count > 0 &&
        (t->at[t->count - 1].epoch >= epoch || t->at[t->count - 1].offset > offset))
        return; /* known */
    if (t->count > 0 && t->at[t->count - 1].offset == offset)
        t->count--; /* that epoch had no record here after all */
    if (t->count == NEF_EPOCHS_KEPT) {
        memmove(&t->at[0], &t->at[1], (NEF_EPOCHS_KEPT - 1) * sizeof t->at[0]);
        t->count--;
    }
    t->at[t->count++] = (struct nef_epoch_at){epoch, offset};
}

void nef_table_cut(struct nef_epoch_table *t, uint64_t end)
{
    while (t->count > 0 && t->at[t->count - 1].offset >= end)
        t->count--;
}

static uint64_t epoch_end(const struct nef_epoch_table *t, uint32_t i, uint64_t log_end)
{
    return i + 1 < t->count ? NEF_MIN(t->at[i + 1].offset, log_end) : log_end;
}

uint64_t nef_common_prefix(const struct nef_epoch_table *a, uint64_t a_end,
                           const struct nef_epoch_table *b, uint64_t b_end)
{
    uint32_t i = a->count, j = b->count;

    if (i == 0 || j == 0) /* one log holds no record, so nothing in it can differ */
        return NEF_MIN(a_end, b_end);
    while (i > 0 && j > 0) {
        uint64_t ea = a->at[i - 1].epoch, eb = b->at[j - 1].epoch;

        if (ea == eb)
            return NEF_MIN(epoch_end(a, i - 1, a_end), epoch_end(b, j - 1, b_end));
        if (ea > eb)
            i--;
        else
            j--;
    }
    return 0; /* no epoch in common that either still knows: nothing is known to be shared */
}

/* ---- joiner -------------------------------------------------------------------------------------------------- */

bool nef_catchup_cutting(const struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].cutting || r->cells[c].must_cut || r->cells[c].cut_wanted ||
            r->cells[c].skip_wanted)
            return true;
    return false;
}

static void send_join(struct nef_repl *r, uint32_t peer)
{
    struct nef_join j = {.attempt = ++r->follow_attempt,
                         .flags = r->unfit != NEF_OK ? NEF_STATE_UNFIT : 0,
                         .cell_count = r->config.cell_count};
    uint32_t entries = nef_join_entries_max(r->config.cell_count);
    struct nef_writer w;

    if (!nef_repl_room(r, 1)) {
        r->follow_attempt--;
        return;
    }
    memcpy(j.zone, r->config.zone, sizeof j.zone);
    w = nef_repl_body(r, NEF_MESSAGE_HEAD_MAX);
    nef_join_encode(&w, &j);
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        nef_join_cell_encode(&w, NEF_MIN(nef_repl_log_start(r, c), r->cells[c].end), r->cells[c].end,
                             &r->cells[c].epochs, entries);
    nef_repl_send(r, NEF_ACT_SEND, peer, NEF_MSG_JOIN, &w, 0);
    r->following = FOLLOWING_ASKED;
    r->follow_peer = peer;
    r->follow_asked_at = r->now;
}

/* What our log lacks below CUT was dropped (or skipped) because of records above CUT, perhaps, and those are given
 * up: a loss was accepted since our last record, and we had gone on beyond what counts now. So the primary may well
 * need what we lack. */
static bool dropped_in_vain(const struct nef_repl *r, uint32_t c, uint64_t cut)
{
    const struct cell *cell = &r->cells[c];
    uint64_t last = cell->epochs.count > 0 ? cell->epochs.at[cell->epochs.count - 1].epoch : 0;

    return (cut < cell->end || cell->must_cut) && r->group.override_epoch > last &&
           (nef_repl_log_start(r, c) > NEF_SEGMENT_HEADER_BYTES ||
            r->config.present_until(r->config.context, c, NEF_SEGMENT_HEADER_BYTES) < cut);
}

/* All of the log up to where it counts was dropped: it was damaged before a hole, and what lies before the hole went
 * since. What lies behind the damage doesn't count, so nothing is left. */
static bool holds_nothing(const struct nef_repl *r, uint32_t c)
{
    return nef_repl_log_start(r, c) > r->cells[c].end;
}

/* Where CELL's log is cut so that nothing of it is left that isn't shared: at CUT; or, if that lies in a hole (of
 * skipped or dropped segments), where the hole begins; or at the very beginning. */
static uint64_t cut_place(const struct nef_repl *r, uint32_t c, uint64_t cut)
{
    uint64_t at = nef_repl_log_start(r, c);

    if (holds_nothing(r, c))
        return NEF_SEGMENT_HEADER_BYTES;
    while (cut >= at && cut < r->cells[c].end) {
        uint64_t until = r->config.present_until(r->config.context, c, at);

        if (cut <= until)
            break;
        at = r->config.next_present(r->config.context, c, until);
        NEF_ASSERT(at > until);
        if (cut < at)
            cut = until;
    }
    return dropped_in_vain(r, c, cut) ? NEF_SEGMENT_HEADER_BYTES : cut;
}

/* The primary doesn't know what our log lacks below the cut: go back to where nothing is lacking that it may have,
 * and ask again from there. */
static void go_back(struct nef_repl *r, const struct nef_message *m)
{
    struct nef_reader reader = nef_reader_of(m->body, m->body_bytes);
    struct nef_joined j;
    struct nef_joined_cell jc;

    nef_backup_unfollow(r);
    if (nef_joined_decode(&reader, &j) != NEF_OK)
        NEF_ASSERT(false); /* decoded before */
    for (uint32_t c = 0; c < j.cell_count; c++) {
        uint64_t place;

        if (nef_joined_cell_decode(&reader, &jc) != NEF_OK)
            NEF_ASSERT(false);
        place = cut_place(r, c, jc.cut);
        if (place == jc.cut)
            continue;
        r->cells[c].cut_wanted = true;
        r->cells[c].cut_to = place;
        r->cells[c].join_epoch = 0;
    }
}

void nef_catchup_joined(struct nef_repl *r, uint32_t peer, const struct nef_message *m)
{
    struct nef_reader reader = nef_reader_of(m->body, m->body_bytes);
    struct nef_joined j;
    struct nef_joined_cell jc;
    bool back = false;

    if (nef_joined_decode(&reader, &j) != NEF_OK || j.cell_count != r->config.cell_count)
        return;
    if (r->following != FOLLOWING_ASKED || r->follow_peer != peer || j.attempt != r->follow_attempt)
        return;
    if (r->unfit != NEF_OK && nef_group_has(&r->group, &r->config.replica))
        return; /* what is wrong with this disk must stay visible until the record is without it */
    for (uint32_t c = 0; c < j.cell_count; c++) { /* all of it is good, or nothing is done */
        uint64_t place;

        if (nef_joined_cell_decode(&reader, &jc) != NEF_OK || jc.cut > r->cells[c].end)
            return;
        if (jc.cut < nef_repl_log_start(r, c) && jc.cut != NEF_SEGMENT_HEADER_BYTES && !holds_nothing(r, c))
            return; /* segments were dropped since we asked */
        place = cut_place(r, c, jc.cut);
        back = back || place != jc.cut;
        /* A change of ours that is pending promises what we hold: it must stay true if it wins (R10). */
        if (r->cas.pending && nef_group_has(&r->cas.group, &r->config.replica) &&
            place < r->cas.group.first_offset[c])
            return;
    }
    if (nef_reader_end(&reader) != NEF_OK)
        return;
    if (back) {
        /* What a member in sync holds is promised: it leaves the record first, or leads. */
        if (!nef_group_has(&r->group, &r->config.replica))
            go_back(r, m);
        return;
    }
    reader = nef_reader_of(m->body, m->body_bytes);
    if (nef_joined_decode(&reader, &j) != NEF_OK)
        return;
    r->following = FOLLOWING_CUTTING;
    r->follow_session = j.session;
    for (uint32_t c = 0; c < j.cell_count; c++) {
        struct cell *cell = &r->cells[c];

        if (nef_joined_cell_decode(&reader, &jc) != NEF_OK)
            NEF_ASSERT(false); /* decoded above */
        cell->cut_wanted = cell->must_cut || jc.cut < cell->end;
        cell->cut_to = jc.cut;
        cell->skip_wanted = jc.from > jc.cut;
        cell->skip_to = jc.from;
        cell->primary_commit = 0;
        /* Our table stays as it is until the log is cut: if this session ends before that, the next JOIN
         * must still tell the truth. Only the epoch that goes on where the stream begins is new. */
        cell->join_epoch = 0;
        for (uint32_t i = 0; i < jc.epochs.count && jc.epochs.at[i].offset < jc.from; i++)
            cell->join_epoch = jc.epochs.at[i].epoch;
    }
}

/* Cut and skip, each when the syncs of its cell have come back. */
static void emit_cuts(struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        struct cell *cell = &r->cells[c];
        struct nef_action *a;

        if (cell->cutting || cell->syncing || !(cell->cut_wanted || cell->skip_wanted))
            continue;
        a = nef_repl_emit(r, cell->cut_wanted ? NEF_ACT_TRUNCATE : NEF_ACT_SKIP);
        a->cell = c;
        a->offset = cell->cut_wanted ? cell->cut_to : cell->skip_to;
        if (cell->cut_wanted) {
            cell->cut_wanted = false;
            nef_table_cut(&cell->epochs, a->offset);
            cell->durable = NEF_MIN(cell->durable, a->offset);
            cell->commit = NEF_MIN(cell->commit, a->offset); /* only after damage or accepted loss */
            cell->commit_told = NEF_MIN(cell->commit_told, a->offset);
        } else {
            cell->skip_wanted = false;
            cell->durable = a->offset;
            /* or the next JOIN would claim that the epoch before the hole reaches to its end */
            if (cell->join_epoch > 0)
                nef_table_add(&cell->epochs, cell->join_epoch, a->offset);
        }
        cell->end = a->offset;
        cell->cutting = true;
    }
}

static bool damaged_cells(const struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].must_cut)
            return true;
    return false;
}

void nef_catchup_cut_done(struct nef_repl *r, uint32_t c)
{
    r->cells[c].cutting = false;
    r->cells[c].must_cut = false;
    if (r->unfit == NEF_E_DAMAGED && !damaged_cells(r) &&
        !nef_group_has(&r->group, &r->config.replica))
        r->unfit = NEF_OK; /* what is left is whole, and nothing relies on it */
    nef_state_due(r);
}

static bool cuts_done(const struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (r->cells[c].cut_wanted || r->cells[c].skip_wanted || r->cells[c].cutting)
            return false;
    return true;
}

void nef_catchup_follower(struct nef_repl *r)
{
    int32_t primary = nef_repl_primary_peer(r);

    if (r->recover) /* R8: damage is cut before this log becomes the only one */
        for (uint32_t c = 0; c < r->config.cell_count; c++)
            if (r->cells[c].must_cut && !r->cells[c].cutting) {
                r->cells[c].cut_wanted = true;
                r->cells[c].cut_to = holds_nothing(r, c) ? NEF_SEGMENT_HEADER_BYTES : r->cells[c].end;
            }
    emit_cuts(r);
    if (r->following == FOLLOWING_CUTTING && cuts_done(r)) {
        r->following = FOLLOWING_YES;
        r->peers[r->follow_peer].state_due = true;
        for (uint32_t c = 0; c < r->config.cell_count; c++)
            if (r->cells[c].join_epoch > 0)
                nef_table_add(&r->cells[c].epochs, r->cells[c].join_epoch, r->cells[c].end);
    }
    if (primary < 0 || r->won || nef_repl_frozen(r) || r->recover ||
        r->peers[primary].epoch != r->group.epoch || !cuts_done(r))
        return;
    if (r->following == FOLLOWING_NOT ||
        (r->following == FOLLOWING_ASKED && r->now >= r->follow_asked_at + JOIN_RETRY_NS))
        send_join(r, (uint32_t)primary);
}

/* ---- primary: reconciling ------------------------------------------------------------------------------------- */

/* Where the joiner's log must be cut and where the stream begins. One that has dropped what the logs share (its
 * history went another way since, or is too long ago for the tables) shares nothing that it still holds, and may
 * even begin above our end: it discards all of it, and begins as an empty one. */
static void place_joiner(struct nef_repl *r, uint32_t c, const struct nef_join_cell *jc,
                         uint64_t *out_cut, uint64_t *out_from)
{
    struct cell *cell = &r->cells[c];
    uint64_t cut = nef_common_prefix(&cell->epochs, cell->end, &jc->epochs, jc->end);

    if (NEF_MUTATION_IS(8))
        cut = NEF_MIN(jc->end, cell->end);
    cut = NEF_MIN(cut, jc->end);
    if (cut < jc->start)
        cut = NEF_SEGMENT_HEADER_BYTES;
    *out_cut = cut;
    *out_from = NEF_MAX(cut, r->config.next_present(r->config.context, c, cut));
}

void nef_catchup_join(struct nef_repl *r, uint32_t peer, const struct nef_message *m)
{
    struct peer *p = &r->peers[peer];
    struct nef_reader reader = nef_reader_of(m->body, m->body_bytes);
    struct nef_join j;
    static const struct nef_join_cell empty;
    struct nef_join_cell jc = empty;
    struct nef_joined joined;
    struct nef_writer w;
    uint32_t entries = nef_join_entries_max(r->config.cell_count);
    uint64_t cut, from;
    bool lost;

    if (!r->won || nef_repl_frozen(r))
        return;
    if (nef_join_decode(&reader, &j) != NEF_OK || j.cell_count != r->config.cell_count)
        return;
    lost = (j.flags & NEF_STATE_UNFIT) != 0;
    for (uint32_t c = 0; c < j.cell_count; c++) {
        if (nef_join_cell_decode(&reader, &jc) != NEF_OK)
            return;
        place_joiner(r, c, &jc, &cut, &from);
        lost = lost || cut < r->cells[c].commit;
    }
    if (nef_reader_end(&reader) != NEF_OK || !nef_repl_room(r, 1))
        return;
    if (lost && nef_repl_effective(r, &p->replica)) {
        /* It is called in sync, or soon will be, and hasn't what was acknowledged. It must leave the record
         * before it is cut: afterwards nothing on its disk would tell that it may not lead. */
        nef_primary_forget(r, p);
        p->rejoin_lost = true;
        return;
    }
    reader = nef_reader_of(m->body, m->body_bytes);
    if (nef_join_decode(&reader, &j) != NEF_OK)
        return;
    nef_primary_forget(r, p);
    memcpy(p->zone, j.zone, sizeof p->zone);
    joined = (struct nef_joined){j.attempt, ++r->session_last, r->config.cell_count};
    if (joined.session == 0)
        joined.session = ++r->session_last; /* 0 means none */
    w = nef_repl_body(r, NEF_MESSAGE_HEAD_MAX);
    nef_joined_encode(&w, &joined);
    for (uint32_t c = 0; c < j.cell_count; c++) {
        if (nef_join_cell_decode(&reader, &jc) != NEF_OK)
            NEF_ASSERT(false); /* decoded above */
        place_joiner(r, c, &jc, &cut, &from);
        nef_joined_cell_encode(&w, cut, from, &r->cells[c].epochs, entries);
    }
    p->follow = FOLLOW_RECONCILING;
    p->session = joined.session;
    nef_repl_send(r, NEF_ACT_SEND, peer, NEF_MSG_JOINED, &w, 0);
}

/* ---- primary: counting and adding -------------------------------------------------------------------------------- */

static bool reached(const struct nef_repl *r, const struct peer *p)
{
    if (NEF_MUTATION_IS(1))
        return true;
    if (p->follow != FOLLOW_STREAMING || p->stream_epoch != r->group.epoch)
        return false;
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (p->cells[c].durable < p->cells[c].goal || p->cells[c].durable < r->cells[c].commit)
            return false;
    return true;
}

static bool near_tail(const struct nef_repl *r, const struct peer *p)
{
    uint64_t left = 0;

    for (uint32_t c = 0; c < r->config.cell_count; c++)
        left += r->cells[c].end > p->cells[c].durable ? r->cells[c].end - p->cells[c].durable : 0;
    return left <= r->config.window_bytes; /* what may be under way to it at any time */
}

/* It can't get what it lacks for now: counted, it would hold up every write. */
static bool blocked(const struct nef_repl *r, const struct peer *p)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        if (nef_primary_blocks(r, p, c))
            return true;
    return false;
}

static void count(struct nef_repl *r, struct peer *p)
{
    p->counted = true;
    p->counted_at = r->now;
    /* What an earlier primary, or we before a restart, acknowledged can lie above the commit offset that
     * we know so far, but never above the log end we had when we won the epoch. */
    for (uint32_t c = 0; c < r->config.cell_count; c++)
        p->cells[c].goal = NEF_MAX(r->cells[c].commit, r->cells[c].base);
}

static void uncount(struct nef_repl *r, struct peer *p)
{
    p->counted = false;
    p->count_not_before = r->now + r->config.lease_ns;
}

/* The record with P in sync: at its own place, at that of its zone's former disk, or at a new one. */
static bool with_member(const struct nef_repl *r, const struct peer *p, struct nef_group *g)
{
    int32_t at = nef_group_index(g, &p->replica);

    for (uint32_t i = 0; at < 0 && i < g->member_count; i++)
        if (strncmp(g->members[i].zone, p->zone, sizeof p->zone) == 0 && (int32_t)i != r->self) {
            if (g->in_sync >> i & 1)
                return false; /* the former disk is still in sync: it must be removed first */
            at = (int32_t)i;
        }
    if (at < 0 && g->member_count < NEF_REPLICA_MAX)
        at = (int32_t)g->member_count++;
    if (at < 0)
        return false;
    g->members[at].replica = p->replica;
    memcpy(g->members[at].zone, p->zone, sizeof p->zone);
    g->in_sync |= 1u << at;
    return true;
}

static void add(struct nef_repl *r, struct peer *p)
{
    struct nef_group next = r->group;

    if (!nef_epoch_can_swap(r) || !with_member(r, p, &next))
        return;
    next.epoch++;
    nef_epoch_first_offsets(r, &next);
    nef_epoch_swap(r, &next);
}

void nef_catchup_primary(struct nef_repl *r)
{
    if (!r->won || nef_repl_frozen(r) || r->draining)
        return;
    for (uint32_t i = 0; i < r->config.peer_count; i++) {
        struct peer *p = &r->peers[i];

        if (nef_group_has(&r->group, &p->replica) || r->cas.pending)
            continue;
        if (p->counted) {
            if (reached(r, p) && nef_lease_held(r, p))
                add(r, p);
            else if (!p->up || blocked(r, p) || r->now >= p->counted_at + r->config.lease_ns)
                uncount(r, p);
        } else if (p->up && p->follow == FOLLOW_STREAMING && p->stream_epoch == r->group.epoch &&
                   r->acting && !r->own_stalled && r->now >= p->count_not_before && near_tail(r, p) &&
                   !blocked(r, p) && nef_lease_held(r, p)) {
            count(r, p);
        }
    }
}
