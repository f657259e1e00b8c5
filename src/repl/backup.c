/* The backup: it writes what the primary streams, says how far, and learns what is committed.
 *
 * It takes log bytes only in a session, in the primary's epoch, and exactly at its end; anything else is
 * dropped and, if it lies beyond the end, reported as a gap with the next STATE. So a log never has a
 * hole, and the primary alone repairs what the network lost. STATE is cumulative: losing one costs
 * nothing but time.
 *
 * Also here, because both roles need them alike: syncs (one at a time per cell), sending STATE, and telling
 * the runtime about commits. Durable is the log end when the sync that returned was started. */
#include "repl/repl_internal.h"

void nef_state_due(struct nef_repl *r)
{
    for (uint32_t i = 0; i < r->config.peer_count; i++)
        r->peers[i].state_due = r->peers[i].up;
}

void nef_backup_unfollow(struct nef_repl *r)
{
    if (r->following == FOLLOWING_YES || r->not_following_since == 0)
        r->not_following_since = r->now;
    r->following = FOLLOWING_NOT;
    r->follow_session = 0;
    r->follow_asked_at = 0;
    r->handover_asked = 0;
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        r->cells[c].primary_commit = 0;
        r->cells[c].primary_bad = false;
        r->cells[c].skip_wanted = false;
        if (!r->cells[c].must_cut)
            r->cells[c].cut_wanted = false; /* a cut under way goes on: nef_catchup_cut_done */
    }
}

/* ---- log bytes ------------------------------------------------------------------------------------------- */

static void learn_commit(struct nef_repl *r, uint32_t c, uint64_t primary_commit)
{
    struct cell *cell = &r->cells[c];
    uint64_t known;

    cell->primary_commit = NEF_MAX(cell->primary_commit, primary_commit);
    /* Only what is durable here: the index must never be ahead of the log after a crash. */
    known = NEF_MIN(cell->primary_commit, cell->durable);
    cell->commit = NEF_MAX(cell->commit, known);
}

void nef_backup_append(struct nef_repl *r, uint32_t peer, const struct nef_event *ev)
{
    const struct nef_message *m = ev->message;
    struct nef_append a;
    struct nef_action *write;
    struct cell *cell;

    if (nef_append_decode(m, &a) != NEF_OK || a.cell >= r->config.cell_count)
        return;
    if (r->following != FOLLOWING_YES || r->follow_peer != peer || a.session != r->follow_session)
        return;
    cell = &r->cells[a.cell];
    NEF_ASSERT(!cell->cutting);
    learn_commit(r, a.cell, a.commit);
    if (a.offset != cell->end) {
        if (a.offset > cell->end) {
            r->peers[peer].gap[a.cell] = true;
            r->peers[peer].state_due = true;
        }
        return;
    }
    if (a.offset % r->config.segment_bytes < NEF_SEGMENT_HEADER_BYTES ||
        a.offset % r->config.segment_bytes + m->payload_bytes > r->config.segment_bytes)
        return; /* no place for records: a primary with other segments */
    for (uint32_t i = 0; i < a.epochs.count; i++)
        nef_table_add(&cell->epochs, a.epochs.at[i].epoch, a.epochs.at[i].offset);
    write = nef_repl_emit(r, NEF_ACT_WRITE);
    write->cell = a.cell;
    write->offset = a.offset;
    write->bytes = m->payload_bytes;
    write->handle = ev->handle;
    cell->end = nef_log_end_at(a.offset + m->payload_bytes, r->config.segment_bytes);
    cell->appended_at = r->now;
    cell->mark_due = true;
    r->peers[peer].state_due = true;
}

void nef_backup_state(struct nef_repl *r, uint32_t peer, const struct nef_state *s)
{
    if (nef_repl_primary_peer(r) != (int32_t)peer || r->following != FOLLOWING_YES ||
        r->follow_peer != peer)
        return;
    if (s->session != r->follow_session) { /* the primary has ended our session: join anew */
        nef_backup_unfollow(r);
        return;
    }
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        learn_commit(r, c, s->cells[c].commit);
        r->cells[c].primary_bad = s->cells[c].flags & NEF_STATE_UNREADABLE;
    }
}

/* ---- syncs ------------------------------------------------------------------------------------------------ */

void nef_backup_synced(struct nef_repl *r, uint32_t c, uint64_t offset)
{
    struct cell *cell = &r->cells[c];

    cell->syncing = false;
    if (offset <= cell->durable)
        return;
    cell->durable = NEF_MIN(offset, cell->end);
    if (!r->won)
        learn_commit(r, c, 0);
    nef_state_due(r);
}

void nef_backup_syncs(struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        struct cell *cell = &r->cells[c];

        if (cell->syncing || cell->durable >= cell->end || cell->cut_wanted || cell->skip_wanted ||
            cell->cutting)
            continue;
        cell->syncing = true;
        cell->sync_since = r->now;
        nef_repl_emit(r, NEF_ACT_SYNC)->cell = c;
    }
}

/* ---- STATE ------------------------------------------------------------------------------------------------- */

static uint64_t session_with(const struct nef_repl *r, uint32_t peer)
{
    if (r->won)
        return r->peers[peer].session;
    return r->following == FOLLOWING_YES && r->follow_peer == peer ? r->follow_session : 0;
}

void nef_backup_send_state(struct nef_repl *r, uint32_t peer)
{
    struct peer *p = &r->peers[peer];
    struct nef_state s;
    struct nef_writer w;

    if (!p->up)
        return;
    s.session = session_with(r, peer);
    s.lease_request = r->now;
    s.lease_grant = nef_lease_grant(r, p);
    s.free_bytes = r->free_bytes;
    s.flags = (r->unfit != NEF_OK ? NEF_STATE_UNFIT : 0) |
              (r->config.preferred ? NEF_STATE_PREFERRED : 0) |
              ((r->won ? nef_primary_no_space(r) : r->no_space) ? NEF_STATE_NO_SPACE : 0);
    s.cell_count = r->config.cell_count;
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        s.cells[c].end = r->cells[c].end;
        s.cells[c].durable = r->cells[c].durable;
        s.cells[c].commit = r->cells[c].commit;
        s.cells[c].flags = (uint8_t)((p->gap[c] ? NEF_STATE_GAP : 0u) |
                                     (nef_primary_blocks(r, p, c) ? NEF_STATE_UNREADABLE : 0u));
        p->gap[c] = false;
    }
    p->state_due = false;
    w = nef_repl_body(r, 64 + 25 * r->config.cell_count);
    nef_state_encode(&w, &s);
    nef_repl_send(r, NEF_ACT_SEND, peer, NEF_MSG_STATE, &w, 0);
}

void nef_backup_commits(struct nef_repl *r)
{
    for (uint32_t c = 0; c < r->config.cell_count; c++) {
        struct cell *cell = &r->cells[c];
        struct nef_action *a;

        if (cell->commit <= cell->commit_told)
            continue;
        cell->commit_told = cell->commit;
        a = nef_repl_emit(r, NEF_ACT_COMMIT);
        a->cell = c;
        a->offset = cell->commit;
    }
}
