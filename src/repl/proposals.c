/* Proposals of this process, kept until the runtime says that they were applied (or given up).
 *
 *   waiting --appended here, or sent to the primary--> out --applied--> gone
 *      ^------ primary changed, link came back, resend_ns passed ---'
 *
 * A proposal may so end up in the log twice; outcomes.h makes it apply once. Nothing here is lost by a
 * change of primary, and nothing is retried by the client or the front. Both lists keep their order, so
 * proposals of one cell are placed in the order in which they came as long as nothing goes wrong.
 *
 * A proposal from a peer is not kept: it is appended at once or dropped, and its proposer sends it
 * again. Memory is fixed; a full table refuses with NEF_E_BUSY, which is the region's back-pressure. */
#include "repl/repl_internal.h"

/* ---- lists and hash ------------------------------------------------------------------------------------------ */

static void list_append(struct proposals *t, struct proposal_list *l, uint16_t i)
{
    t->at[i].next = NO_PROPOSAL;
    t->at[i].prev = l->last;
    if (l->last == NO_PROPOSAL)
        l->first = i;
    else
        t->at[l->last].next = i;
    l->last = i;
}

static void list_remove(struct proposals *t, struct proposal_list *l, uint16_t i)
{
    struct proposal *p = &t->at[i];

    if (p->prev == NO_PROPOSAL)
        l->first = p->next;
    else
        t->at[p->prev].next = p->next;
    if (p->next == NO_PROPOSAL)
        l->last = p->prev;
    else
        t->at[p->next].prev = p->prev;
}

static uint16_t *hash_head(struct proposals *t, uint64_t number)
{
    return &t->hash[number % NEF_PROPOSALS_MAX];
}

void nef_proposals_init(struct nef_repl *r)
{
    struct proposals *t = &r->proposals;

    t->waiting = t->out = (struct proposal_list){NO_PROPOSAL, NO_PROPOSAL};
    memset(t->hash, 0xff, sizeof t->hash);
    for (uint32_t i = 0; i < NEF_PROPOSALS_MAX; i++)
        t->at[i].next = (uint16_t)(i + 1 < NEF_PROPOSALS_MAX ? i + 1 : NO_PROPOSAL);
    t->free = 0;
}

static void forget(struct nef_repl *r, uint16_t i)
{
    struct proposals *t = &r->proposals;
    struct proposal *p = &t->at[i];
    uint16_t *link = hash_head(t, p->number);

    list_remove(t, p->out ? &t->out : &t->waiting, i);
    while (*link != i)
        link = &t->at[*link].hash_next;
    *link = p->hash_next;
    p->next = t->free;
    t->free = i;
    t->count--;
}

/* ---- coming and going --------------------------------------------------------------------------------------- */

static bool space_is_short(const struct nef_repl *r)
{
    int32_t primary = nef_repl_primary_peer(r);

    if (r->won)
        return nef_primary_no_space(r);
    return r->no_space || (primary >= 0 && r->peers[primary].flags & NEF_STATE_NO_SPACE);
}

static void refuse(struct nef_repl *r, uint64_t handle, uint64_t number, nef_err err)
{
    struct nef_action *a = nef_repl_emit(r, NEF_ACT_REFUSE);

    a->handle = handle;
    a->number = number;
    a->err = err;
}

void nef_proposals_propose(struct nef_repl *r, const struct nef_event *ev)
{
    struct proposals *t = &r->proposals;
    uint16_t i = t->free;
    struct proposal *p;

    NEF_ASSERT(ev->number > 0 && ev->bytes > 0 && ev->bytes <= NEF_PROPOSAL_BYTES_MAX &&
               ev->bytes % NEF_RECORD_ALIGN == 0);
    if (i == NO_PROPOSAL) {
        refuse(r, ev->handle, ev->number, NEF_E_BUSY);
        return;
    }
    if (!ev->frees_space && space_is_short(r)) {
        refuse(r, ev->handle, ev->number, NEF_E_NOSPACE);
        return;
    }
    p = &t->at[i];
    t->free = p->next;
    t->count++;
    *p = (struct proposal){.number = ev->number, .handle = ev->handle, .cell = ev->cell,
                           .bytes = ev->bytes, .frees_space = ev->frees_space};
    p->hash_next = *hash_head(t, p->number);
    *hash_head(t, p->number) = i;
    list_append(t, &t->waiting, i);
}

void nef_proposals_done(struct nef_repl *r, uint64_t number)
{
    struct proposals *t = &r->proposals;

    for (uint16_t i = *hash_head(t, number); i != NO_PROPOSAL; i = t->at[i].hash_next)
        if (t->at[i].number == number) {
            nef_repl_emit(r, NEF_ACT_FREE)->handle = t->at[i].handle;
            forget(r, i);
            return;
        }
}

void nef_proposals_again(struct nef_repl *r)
{
    struct proposals *t = &r->proposals;
    struct proposal_list later = t->waiting;

    /* What was out came before what waits. */
    t->waiting = t->out;
    t->out = (struct proposal_list){NO_PROPOSAL, NO_PROPOSAL};
    for (uint16_t i = t->waiting.first; i != NO_PROPOSAL; i = t->at[i].next)
        t->at[i].out = false;
    if (later.first == NO_PROPOSAL)
        return;
    if (t->waiting.last == NO_PROPOSAL) {
        t->waiting = later;
        return;
    }
    t->at[t->waiting.last].next = later.first;
    t->at[later.first].prev = t->waiting.last;
    t->waiting.last = later.last;
}

void nef_proposals_from_peer(struct nef_repl *r, const struct nef_event *ev)
{
    struct nef_propose m;

    if (nef_propose_decode(ev->message, &m) != NEF_OK || m.cell >= r->config.cell_count)
        return;
    if (!nef_primary_appends(r) || (!m.frees_space && nef_primary_no_space(r)))
        return; /* dropped: the proposer sends it again, or sees why not in our STATE */
    nef_repl_emit(r, NEF_ACT_SAVE_PAYLOAD)->handle = ev->handle;
    nef_primary_append(r, m.cell, ev->handle, 0, ev->message->payload_bytes);
}

/* ---- placing -------------------------------------------------------------------------------------------------- */

static void send(struct nef_repl *r, uint32_t peer, const struct proposal *p)
{
    struct nef_propose m = {.cell = p->cell, .frees_space = p->frees_space || p->tried};
    struct nef_writer w = nef_repl_body(r, 16);
    struct nef_action *a;

    nef_propose_encode(&w, &m);
    a = nef_repl_send(r, NEF_ACT_SEND_PROPOSAL, peer, NEF_MSG_PROPOSE, &w, p->bytes);
    a->handle = p->handle;
    a->number = p->number;
    a->cell = p->cell;
    a->bytes = p->bytes;
}

static void place_waiting(struct nef_repl *r)
{
    struct proposals *t = &r->proposals;
    int32_t primary = nef_repl_primary_peer(r);
    bool here = nef_primary_appends(r);
    bool there = !r->won && primary >= 0 && !nef_repl_frozen(r) &&
                 r->peers[primary].epoch == r->group.epoch;
    bool short_of_space = space_is_short(r);

    if (!here && !there)
        return;
    while (t->waiting.first != NO_PROPOSAL && nef_repl_room(r, 1)) {
        uint16_t i = t->waiting.first;
        struct proposal *p = &t->at[i];

        if (short_of_space && !p->frees_space && !p->tried) {
            refuse(r, p->handle, p->number, NEF_E_NOSPACE);
            forget(r, i);
            continue;
        }
        if (here)
            nef_primary_append(r, p->cell, p->handle, p->number, p->bytes);
        else
            send(r, (uint32_t)primary, p);
        list_remove(t, &t->waiting, i);
        list_append(t, &t->out, i);
        p->out = true;
        p->tried = true;
        p->sent_at = r->now;
    }
}

void nef_proposals_run(struct nef_repl *r)
{
    struct proposals *t = &r->proposals;

    /* What a primary appended itself stays in its log as long as it is primary. */
    if (!r->won)
        while (t->out.first != NO_PROPOSAL &&
               r->now >= t->at[t->out.first].sent_at + r->config.resend_ns) {
            uint16_t i = t->out.first;

            list_remove(t, &t->out, i);
            list_append(t, &t->waiting, i);
            t->at[i].out = false;
        }
    place_waiting(r);
}
