/* What must hold, checked while it happens (README.md lists the invariants).
 *
 * The ledger is the truth: every record that any primary ever committed, per cell, in order. A commit may
 * only extend it; every replica that the newest record in etcd calls in sync must hold all of it durably.
 * The checks look at disks and at etcd themselves, not at what a replica believes about them. */
#include "sim/sim.h"

#include <stdlib.h>

static struct node *node_of_replica(struct sim *s, const struct nef_id *id)
{
    for (uint32_t i = 0; i < s->node_count; i++)
        if (nef_id_equal(&s->nodes[i].disk.replica, id))
            return &s->nodes[i];
    return NULL;
}

/* ---- R2, R3 ------------------------------------------------------------------------------------------------ */

void check_append(struct node *n, const struct nef_action *a, const struct record *r)
{
    struct sim *s = n->sim;
    const struct nef_group *g = etcd_record_of(s, a->epoch);
    const struct log *l = &n->disk.logs[a->cell];

    if (!g || !nef_id_equal(&g->members[g->primary[a->cell]].replica, &n->disk.replica) ||
        s->etcd.writer[a->epoch % EPOCHS_MAX] != n->incarnation)
        sim_fail(s, "R2: %c writes in epoch %lu, which this process hasn't won", n->name, a->epoch);
    if (n->disk.epoch < a->epoch)
        sim_fail(s, "R3: %c writes in epoch %lu before it is durable", n->name, a->epoch);
    if (n->seen_epoch > a->epoch)
        sim_fail(s, "R3: %c writes in epoch %lu but has seen %lu", n->name, a->epoch, n->seen_epoch);
    if (l->count > 0 && l->at[l->count - 1].epoch > r->epoch)
        sim_fail(s, "R3: %c's log of cell %u falls to epoch %lu", n->name, a->cell, r->epoch);
}

void check_write(struct node *n, const struct nef_action *a, uint64_t epoch)
{
    if (epoch < n->seen_epoch)
        sim_fail(n->sim, "R3: %c takes log of cell %u from epoch %lu but has seen %lu", n->name,
                 a->cell, epoch, n->seen_epoch);
    if (epoch > n->disk.epoch)
        sim_fail(n->sim, "R3: %c takes log of epoch %lu before it is durable", n->name, epoch);
}

void check_epoch_action(struct node *n, const struct nef_action *a)
{
    if (a->message && a->message->epoch > n->disk.epoch)
        sim_fail(n->sim, "R3: %c speaks for epoch %lu before it is durable", n->name,
                 a->message->epoch);
}

void check_cas(struct node *n, const struct nef_group *g)
{
    struct sim *s = n->sim;
    const struct nef_group *before = etcd_record_of(s, g->epoch - 1);

    if (nef_group_overrides(g) || g->epoch == 1)
        return;
    if (!before || !nef_group_has(before, &n->disk.replica)) {
        sim_fail(s, "R2: %c asks for epoch %lu and isn't in sync", n->name, g->epoch);
        return;
    }
    for (uint32_t c = 0; c < CELLS; c++)
        if (n->disk.logs[c].end < before->first_offset[c])
            sim_fail(s, "R10: %c asks for epoch %lu but was rolled back", n->name, g->epoch);
}

/* ---- R1, R6 ------------------------------------------------------------------------------------------------ */

/* N holds the ledger of cell C durably, from offset FROM on. */
static void check_holds(struct node *n, uint32_t c, uint64_t from, const char *why)
{
    struct sim *s = n->sim;
    const struct ledger *ledger = &s->ledgers[c];
    const struct log *l = &n->disk.logs[c];
    uint32_t i = log_find(l, NEF_MAX(from, l->start)), j = 0;

    if (l->durable < ledger->end) {
        sim_fail(s, "%s: cell %u is committed up to %lu, but %c in sync holds only %lu", why, c,
                 ledger->end, n->name, l->durable);
        return;
    }
    j = ledger->count;
    while (j > 0 && ledger->at[j - 1].offset >= NEF_MAX(from, l->start))
        j--;
    for (; j < ledger->count; i++, j++) {
        while (j < ledger->count && log_in_hole(l, ledger->at[j].offset))
            j++;
        if (j == ledger->count)
            break;
        if (i >= l->count || l->at[i].uid != ledger->at[j].uid || l->at[i].bad) {
            sim_fail(s, "%s: %c in sync lacks the committed record at %lu of cell %u", why, n->name,
                     ledger->at[j].offset, c);
            return;
        }
    }
}

static void check_members(struct sim *s, uint32_t c, uint64_t from, const char *why)
{
    const struct nef_group *g = &s->etcd.group;

    for (uint32_t i = 0; i < g->member_count; i++) {
        struct node *n = node_of_replica(s, &g->members[i].replica);

        if (g->in_sync >> i & 1 && n && !n->disk_lost)
            check_holds(n, c, from, why);
    }
}

/* The operator accepted that the ledger's tail is gone: go on with what the survivor has. */
static void cut_ledger(struct sim *s, const struct node *n, uint32_t c)
{
    struct ledger *ledger = &s->ledgers[c];
    const struct log *l = &n->disk.logs[c];
    uint32_t same = 0, i = 0;

    while (same < ledger->count && ledger->at[same].offset < l->start)
        same++;
    for (; same < ledger->count; same++)
        if (!log_in_hole(l, ledger->at[same].offset) &&
            (i >= l->count || ledger->at[same].uid != l->at[i++].uid))
            break;
    if (same < ledger->count) {
        ledger->count = same;
        ledger->end = same > 0 ? record_end(&ledger->at[same - 1]) : NEF_SEGMENT_HEADER_BYTES;
    }
}

void check_record(struct sim *s)
{
    if (nef_group_overrides(&s->etcd.group)) {
        s->loss_accepted = true;
        for (uint32_t c = 0; c < CELLS; c++)
            cut_ledger(s, node_of_replica(s, &s->etcd.group.members[s->etcd.group.primary[c]].replica), c);
        return;
    }
    for (uint32_t i = 0; i < s->node_count; i++)
        if (!nef_group_has(&s->etcd.group, &s->nodes[i].disk.replica))
            s->nodes[i].disk_lost = false; /* nothing relies on it any more */
    for (uint32_t c = 0; c < CELLS; c++) {
        for (uint32_t i = 0; i < s->node_count; i++) {
            const struct node *n = &s->nodes[i];

            if (nef_group_has(&s->etcd.group, &n->disk.replica) && !n->disk_lost &&
                n->disk.logs[c].durable < s->etcd.group.first_offset[c])
                sim_fail(s, "R10: %c would be taken for rolled back in epoch %lu", n->name,
                         s->etcd.group.epoch);
        }
        check_members(s, c, 0, "R6");
    }
}

static void ledger_push(struct ledger *l, const struct record *r)
{
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 256;
        l->at = realloc(l->at, l->capacity * sizeof *l->at);
        NEF_ASSERT(l->at);
    }
    l->at[l->count++] = *r;
    l->end = record_end(r);
}

void check_commit(struct node *n, const struct nef_action *a)
{
    struct sim *s = n->sim;
    struct ledger *ledger = &s->ledgers[a->cell];
    const struct log *l = &n->disk.logs[a->cell];
    uint64_t before;
    uint32_t i;

    if (s->loss_accepted && n->repl->won)
        cut_ledger(s, n, a->cell);
    before = ledger->end;
    if (a->offset > l->durable)
        sim_fail(s, "%c commits cell %u up to %lu, durable is %lu", n->name, a->cell, a->offset,
                 l->durable);
    if (n->repl->won) {
        for (i = log_find(l, NEF_MAX(ledger->end, l->start));
             i < l->count && l->at[i].offset < a->offset; i++)
            ledger_push(ledger, &l->at[i]);
        check_members(s, a->cell, before, "R1");
        for (uint32_t x = 0; x < s->node_count; x++)
            check_serve(&s->nodes[x]);
    } else if (a->offset > ledger->end) {
        sim_fail(s, "%c believes cell %u committed up to %lu, the primaries only to %lu", n->name,
                 a->cell, a->offset, ledger->end);
    }
    /* Whatever the role: below its commit offset a log is the ledger. */
    {
        uint64_t from = NEF_MAX(n->prefix_ok[a->cell], l->start);
        uint32_t j = ledger->count;

        while (j > 0 && ledger->at[j - 1].offset >= from)
            j--;
        for (i = log_find(l, from); i < l->count && l->at[i].offset < a->offset; i++, j++) {
            while (j < ledger->count && log_in_hole(l, ledger->at[j].offset))
                j++;
            if (j >= ledger->count || ledger->at[j].uid != l->at[i].uid) {
                sim_fail(s, "%c commits another record at %lu of cell %u than was committed before",
                         n->name, l->at[i].offset, a->cell);
                return;
            }
        }
        n->prefix_ok[a->cell] = a->offset;
    }
}

/* ---- R4, R9 -------------------------------------------------------------------------------------------------- */

void check_serve(struct node *n)
{
    struct sim *s = n->sim;

    if (!n->alive || n->serve_until == 0 || node_clock(n) >= n->serve_until)
        return;
    for (uint32_t i = 0; i < s->node_count; i++) {
        const struct node *y = &s->nodes[i];
        const struct nef_repl *r = y->repl;

        if (y == n || !y->alive || !r->won || !r->acting || nef_group_overrides(&r->group) ||
            r->group.epoch <= n->repl->group.epoch)
            continue;
        if (!nef_group_has(&r->group, &n->disk.replica))
            sim_fail(s, "R4: %c answers reads while %c acts in epoch %lu without it", n->name,
                     y->name, r->group.epoch);
    }
}

void check_grant(struct node *n, const struct nef_message *m)
{
    struct nef_state state;

    if (nef_state_decode(m, &state) != NEF_OK) {
        sim_fail(n->sim, "%c sends a STATE that can't be decoded", n->name);
        return;
    }
    if (state.lease_grant == 0)
        return;
    for (uint32_t c = 0; c < CELLS; c++)
        if (n->sync_at[c] > 0 &&
            node_clock(n) > n->sync_at[c] + n->sim->config.peer_stall_ns)
            sim_fail(n->sim, "R9: %c gives a lease while its disk stalls", n->name);
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

void check_end(struct sim *s)
{
    for (uint32_t c = 0; c < CELLS; c++)
        for (uint32_t i = 1; i < s->node_count; i++) {
            const struct log *a = &s->nodes[0].disk.logs[c], *b = &s->nodes[i].disk.logs[c];
            uint64_t from = NEF_MAX(a->start, b->start);
            uint32_t x = log_find(a, from), y = log_find(b, from);

            if (s->nodes[i].stopped_for_good || s->nodes[0].stopped_for_good)
                continue;
            for (; x < a->count && y < b->count; x++, y++) {
                while (x < a->count && log_in_hole(b, a->at[x].offset))
                    x++;
                while (y < b->count && log_in_hole(a, b->at[y].offset))
                    y++;
                if (x == a->count || y == b->count)
                    break;
                if (a->at[x].uid != b->at[y].uid) {
                    sim_fail(s, "logs of cell %u differ at %lu after all is well", c,
                             a->at[x].offset);
                    return;
                }
            }
        }
}
