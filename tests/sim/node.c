/* One simulated process: it starts from its disk, steps the core, executes actions in order, and may
 * crash between any two of them. Models what server/runtime.c does: append to the page cache at once,
 * sync and persist later, apply committed records in order, mark the gate before bytes are written. */
#include "sim/sim.h"

#include <stdlib.h>

#define OUTCOME_PROPOSERS 8u
#define OUTCOMES          128u
#define GATE_ENTRIES      16u /* few, so that it overflows too */

/* ---- time ---------------------------------------------------------------------------------------------- */

uint64_t node_clock(const struct node *n)
{
    return n->clock_offset + (uint64_t)((double)n->sim->now * (1 + n->drift));
}

uint64_t node_true_time(const struct node *n, uint64_t clock)
{
    if (clock <= n->clock_offset)
        return 0;
    return (uint64_t)((double)(clock - n->clock_offset) / (1 + n->drift)) + 1;
}

/* ---- life ----------------------------------------------------------------------------------------------- */

static uint64_t next_present(void *context, uint32_t cell, uint64_t offset)
{
    const struct node *n = context;
    const struct log *l = &n->disk.logs[cell];

    offset = NEF_MAX(offset, l->start);
    return log_in_hole(l, offset) ? l->hole_to : offset;
}

static uint64_t present_until(void *context, uint32_t cell, uint64_t offset)
{
    const struct node *n = context;
    const struct log *l = &n->disk.logs[cell];

    return offset < l->hole_from ? l->hole_from : l->end;
}

static struct sim_event *later(struct node *n, uint64_t after, enum sim_event_type type)
{
    struct sim_event *ev = sim_at(n->sim, n->sim->now + after, type);

    ev->node = n->index;
    ev->life = n->life;
    return ev;
}

/* The core learns of it as from a thread that reads. */
static void say_unreadable(struct node *n, uint32_t cell, uint64_t offset)
{
    struct sim_event *ev = later(n, sim_below(n->sim, 2 * MS), SIM_UNREADABLE);

    sim_trace(n->sim, n, "can't send %lu of cell %u", offset, cell);
    ev->a = cell;
    ev->b = offset;
}

static uint64_t whole_records(void *context, uint32_t cell, uint64_t offset, uint64_t bytes_max)
{
    struct node *n = context;
    const struct log *l = &n->disk.logs[cell];
    uint64_t bytes = 0;

    for (uint32_t i = log_find(l, offset); i < l->count; i++) {
        if (l->at[i].offset != offset + bytes || (bytes > 0 && bytes + l->at[i].bytes > bytes_max))
            break;
        if (l->at[i].offset == n->unreadable[cell] && l->at[i].uid % 2 == 0) { /* its header */
            if (bytes == 0)
                say_unreadable(n, cell, offset);
            break;
        }
        bytes += l->at[i].bytes;
    }
    return bytes;
}

void node_new_disk(struct node *n)
{
    n->sim->replica_last++;
    memset(&n->disk.replica, 0, sizeof n->disk.replica);
    n->disk.replica.bytes[0] = (uint8_t)n->name;
    n->disk.replica.bytes[1] = (uint8_t)n->sim->replica_last;
    n->disk.epoch = 0;
    memset(n->unreadable, 0, sizeof n->unreadable);
    for (uint32_t c = 0; c < CELLS; c++) {
        log_free(&n->disk.logs[c]);
        log_init(&n->disk.logs[c]);
    }
}

/* The disk comes back as an old copy of itself. */
void node_roll_back(struct node *n)
{
    NEF_ASSERT(!n->alive && n->has_snapshot);
    n->disk.epoch = n->snapshot.epoch;
    for (uint32_t c = 0; c < CELLS; c++) {
        log_copy(&n->disk.logs[c], &n->snapshot.logs[c]);
        n->applied[c] = n->disk.logs[c].start;
    }
}

/* A record that was durable rots, below a mark that says so. */
bool node_damage(struct node *n)
{
    uint32_t c = (uint32_t)sim_below(n->sim, CELLS);
    struct log *l = &n->disk.logs[c];
    uint64_t mark = 0;
    uint32_t below = 0;

    NEF_ASSERT(!n->alive);
    for (uint32_t i = 0; i < l->count; i++)
        if (!l->at[i].bad)
            mark = NEF_MAX(mark, l->at[i].synced_before);
    while (below < l->count && l->at[below].offset < mark)
        below++;
    if (below < 2 || record_end(&l->at[l->count - 1]) <= mark)
        return false;
    l->at[sim_below(n->sim, below - 1)].bad = true;
    n->applied[c] = l->start;
    return true;
}

/* A record can't be read any more, and nobody knows it yet. */
void node_unreadable(struct node *n)
{
    uint32_t c = (uint32_t)sim_below(n->sim, CELLS);
    const struct log *l = &n->disk.logs[c];

    if (l->count == 0)
        return;
    n->unreadable[c] = l->at[sim_below(n->sim, l->count)].offset;
    sim_trace(n->sim, n, "can't read %lu of cell %u any more", n->unreadable[c], c);
}

/* Unlink what is below the index, as a committed drop record allows. */
void node_drop(struct node *n)
{
    for (uint32_t c = 0; c < CELLS; c++) {
        struct log *l = &n->disk.logs[c];
        uint64_t to = n->applied[c] / SEGMENT * SEGMENT + NEF_SEGMENT_HEADER_BYTES;

        if (to > n->applied[c])
            to -= SEGMENT;
        if (to <= l->start || to > l->durable || l->kept)
            continue;
        sim_trace(n->sim, n, "drops cell %u below %lu", c, to);
        log_drop(l, to);
        l->dropped_by = n->applied[c];
    }
}

static const uint8_t *tag_of(uint32_t key, uint8_t tag[16])
{
    memset(tag, 0, 16);
    tag[0] = (uint8_t)(1 + key);
    return tag;
}

static void mark(struct node *n, uint32_t c, const struct record *r)
{
    uint8_t tag[16];

    if (r->kind == RECORD_OP)
        nef_gate_mark(n->gates[c], tag_of(r->key, tag), record_end(r));
}

static void apply_record(struct node *n, uint32_t c, const struct record *r,
                         struct nef_outcome *out_outcome);

/* What the log's first checkpoint holds: the index of everything below its start. */
static void apply_checkpoint(struct node *n, uint32_t c)
{
    const struct ledger *ledger = &n->sim->ledgers[c];
    struct nef_outcome outcome;

    for (uint32_t i = 0; i < ledger->count && ledger->at[i].offset < n->disk.logs[c].base; i++)
        if (ledger->at[i].kind == RECORD_OP)
            apply_record(n, c, &ledger->at[i], &outcome);
}

/* The index as of a restart: some applied position that was flushed, then what is above is marked. */
static void load_index(struct node *n, uint32_t c, const struct nef_repl_cell_start *start,
                       uint64_t applied)
{
    struct log *l = &n->disk.logs[c];

    if (!n->gate_memory[c]) {
        n->gate_memory[c] = malloc(nef_gate_bytes(GATE_ENTRIES));
        n->outcome_memory[c] = malloc(nef_outcomes_bytes(OUTCOME_PROPOSERS, OUTCOMES));
        NEF_ASSERT(n->gate_memory[c] && n->outcome_memory[c]);
    }
    n->outcomes[c] = nef_outcomes_init(n->outcome_memory[c], OUTCOME_PROPOSERS, OUTCOMES);
    for (uint32_t k = c; k < KEYS; k += CELLS)
        n->values[k] = 0;
    apply_checkpoint(n, c);
    n->applied[c] = l->base;
    n->committed[c] = NEF_MIN(applied, start->damaged ? start->damage_offset : start->end);
    n->gates[c] = nef_gate_init(n->gate_memory[c], GATE_ENTRIES, l->base);
    n->apply_due[c] = false;
    node_apply(n, c);
    for (uint32_t i = log_find(l, n->applied[c]); i < l->count && !l->at[i].bad; i++)
        mark(n, c, &l->at[i]);
}

void node_start(struct node *n)
{
    struct sim *s = n->sim;
    struct nef_repl_cell_start starts[CELLS];
    struct nef_repl_config config = s->config;
    struct sim_event *ev;

    if (n->alive || n->stopped_for_good)
        return;
    n->life++;
    n->alive = true;
    n->failed = false;
    n->paused_until = 0;
    n->incarnation = 1 + (sim_random(s) >> 1);
    n->crash_in = -1;
    n->serve_until = 0;
    n->seen_epoch = n->disk.epoch;
    n->persist_pending = 0;
    n->flush_due = false;
    n->next_number = 0;
    n->role = NEF_ROLE_STARTING;
    n->role_epoch = 0;
    memset(n->reads, 0, sizeof n->reads);
    for (uint32_t i = 0; i < NODES_MAX; i++)
        n->link_up[i] = false;
    for (uint32_t c = 0; c < CELLS; c++) {
        struct log *l = &n->disk.logs[c];
        uint64_t applied = n->applied[c];
        bool was_damaged = false;

        for (uint32_t i = 0; i < l->count; i++)
            was_damaged = was_damaged || l->at[i].bad;
        n->sync_at[c] = 0;
        log_recover(l, &starts[c]);
        if (was_damaged)
            sim_trace(s, n, "cell %u: %s at %lu", c, starts[c].damaged ? "damage" : "torn tail",
                      starts[c].damaged ? starts[c].damage_offset : starts[c].end);
        /* the index is flushed from time to time only */
        if (applied > l->base && sim_chance(s, 0.5)) {
            uint32_t i = log_find(l, applied);

            i -= (uint32_t)sim_below(s, i + 1);
            applied = i < l->count ? l->at[i].offset : l->end;
        }
        load_index(n, c, &starts[c], NEF_MAX(applied, l->base));
        starts[c].committed = n->applied[c];
        n->prefix_ok[c] = 0;
    }
    config.replica = n->disk.replica;
    config.zone[0] = n->name;
    config.incarnation = n->incarnation;
    config.preferred = n->index == 0;
    config.bootstrap = n->index == 0;
    config.next_present = next_present;
    config.present_until = present_until;
    config.whole_records = whole_records;
    config.context = n;
    if (!n->memory) {
        n->memory = aligned_alloc(16, (nef_repl_bytes(CELLS) + 15) & ~15ull);
        NEF_ASSERT(n->memory);
    }
    n->repl = nef_repl_init(n->memory, &config, n->disk.epoch, starts, node_clock(n));
    sim_trace(s, n, "starts, epoch %lu, ends %lu %lu", n->disk.epoch, n->disk.logs[0].end,
              n->disk.logs[1].end);
    ev = sim_at(s, s->now, SIM_TICK);
    ev->node = n->index;
    ev->life = n->life;
    n->tick_at = ev->time;
}

void node_free_proposals(struct node *n)
{
    const struct proposals *t;

    if (!n->alive || !n->repl)
        return;
    t = &n->repl->proposals;
    for (uint16_t i = t->waiting.first; i != NO_PROPOSAL; i = t->at[i].next)
        free((void *)(uintptr_t)t->at[i].handle);
    for (uint16_t i = t->out.first; i != NO_PROPOSAL; i = t->at[i].next)
        free((void *)(uintptr_t)t->at[i].handle);
}

void node_crash(struct node *n, bool peers_notice)
{
    struct sim *s = n->sim;

    if (!n->alive)
        return;
    sim_trace(s, n, "crashes%s", peers_notice ? "" : ", unnoticed");
    node_free_proposals(n);
    n->alive = false;
    n->repl = NULL;
    n->serve_until = 0;
    if (n->persist_pending > 0 && sim_chance(s, 0.5))
        n->disk.epoch = n->persist_pending;
    for (uint32_t c = 0; c < CELLS; c++)
        log_crash(s, &n->disk.logs[c]);
    for (uint32_t i = 0; i < s->node_count; i++)
        if (i != n->index)
            net_break(s, n->index, i, false, peers_notice);
    requests_of_dead(s, n);
}

void node_restart_later(struct node *n, uint64_t after)
{
    struct sim_event *ev = sim_at(n->sim, n->sim->now + after, SIM_RESTART);

    ev->node = n->index;
    ev->life = n->life;
}

/* ---- actions --------------------------------------------------------------------------------------------- */

static uint64_t disk_time(struct node *n)
{
    struct sim *s = n->sim;

    if (n->slow_disk)
        return sim_between(s, 200 * MS, 2500 * MS);
    return s->sync_time / 2 + sim_below(s, s->sync_time + 1);
}

static void append(struct node *n, const struct nef_action *a)
{
    struct sim *s = n->sim;
    struct log *l = &n->disk.logs[a->cell];
    struct record r = {0};

    if (a->pad_bytes > 0) {
        struct record pad = {.offset = a->pad_offset, .bytes = (uint32_t)a->pad_bytes,
                             .kind = RECORD_PAD, .epoch = a->epoch, .uid = ++s->uid_last,
                             .synced_before = a->synced_before};

        NEF_ASSERT(pad.bytes >= NEF_RECORD_HEADER_BYTES &&
                   (pad.offset + pad.bytes) % SEGMENT == 0);
        check_append(n, a, &pad);
        log_push(l, &pad);
    }
    if (a->type == NEF_ACT_APPEND) {
        r = *(const struct record *)(uintptr_t)a->handle;
        NEF_ASSERT(r.bytes == a->bytes);
    } else {
        r.kind = RECORD_MARK;
        r.bytes = NEF_RECORD_HEADER_BYTES;
    }
    r.offset = a->offset;
    r.epoch = a->epoch;
    r.synced_before = a->synced_before;
    r.uid = ++s->uid_last;
    r.wall_ms = (int64_t)(s->now / MS) + n->wall_step_ms;
    check_append(n, a, &r);
    mark(n, a->cell, &r);
    log_push(l, &r);
}

static void write_payload(struct node *n, const struct nef_action *a, uint64_t epoch)
{
    const struct packet *p = (const struct packet *)(uintptr_t)a->handle;
    struct log *l = &n->disk.logs[a->cell];
    uint64_t bytes = 0;

    check_write(n, a, epoch);
    for (uint32_t i = 0; i < p->record_count; i++) {
        if (l->count > 0 && p->records[i].epoch < l->at[l->count - 1].epoch)
            sim_fail(n->sim, "R3: %c's log of cell %u falls from epoch %lu to %lu", n->name, a->cell,
                     l->at[l->count - 1].epoch, p->records[i].epoch);
        mark(n, a->cell, &p->records[i]);
        log_push(l, &p->records[i]);
        bytes += p->records[i].bytes;
    }
    NEF_ASSERT(bytes == a->bytes);
}

static void send_log(struct node *n, const struct nef_action *a)
{
    struct log *l = &n->disk.logs[a->cell];
    uint32_t first = log_find(l, a->offset), last = first;

    while (last < l->count && l->at[last].offset < a->offset + a->bytes)
        last++;
    NEF_ASSERT(last > first && l->at[first].offset == a->offset);
    NEF_ASSERT(l->at[last - 1].offset + l->at[last - 1].bytes == a->offset + a->bytes);
    if (n->unreadable[a->cell] >= a->offset && n->unreadable[a->cell] < a->offset + a->bytes) {
        say_unreadable(n, a->cell, n->unreadable[a->cell]);
        return;
    }
    net_send(n->sim, n, a->peer, a->message, &l->at[first], last - first);
}

static void trace_message(struct node *n, const struct nef_action *a)
{
    static const char *const names[] = {"?", "STATE", "GROUP", "JOIN", "JOINED", "APPEND", "PROPOSE",
                                        "HANDOVER"};

    if (a->message->type == NEF_MSG_JOIN || a->message->type == NEF_MSG_JOINED ||
        a->message->type == NEF_MSG_HANDOVER)
        sim_trace(n->sim, n, "%s to %c", names[a->message->type],
                  n->sim->nodes[node_of_peer(n, a->peer)].name);
}

static void execute(struct node *n, const struct nef_action *a, uint64_t message_epoch)
{
    struct sim *s = n->sim;
    struct log *l = &n->disk.logs[a->cell];
    struct sim_event *ev;

    if (n->failed && a->type != NEF_ACT_SERVE && a->type != NEF_ACT_STATUS &&
        a->type != NEF_ACT_STOP)
        sim_fail(s, "R7: %c does something (action %u) after a failed sync", n->name, a->type);
    check_epoch_action(n, a);
    switch (a->type) {
    case NEF_ACT_APPEND:
    case NEF_ACT_MARK:
        append(n, a);
        break;
    case NEF_ACT_WRITE:
        write_payload(n, a, message_epoch);
        break;
    case NEF_ACT_SYNC:
        NEF_ASSERT(n->sync_at[a->cell] == 0);
        n->sync_at[a->cell] = node_clock(n) + 1;
        ev = later(n, disk_time(n), SIM_SYNCED);
        ev->a = a->cell;
        ev->b = l->end;
        break;
    case NEF_ACT_TRUNCATE:
        NEF_ASSERT(n->sync_at[a->cell] == 0);
        sim_trace(s, n, "cuts cell %u from %lu to %lu", a->cell, l->end, a->offset);
        if (s->loss_accepted && a->offset < l->dropped_by &&
            a->offset > (l->start > NEF_SEGMENT_HEADER_BYTES ? NEF_SEGMENT_HEADER_BYTES : l->hole_from))
            sim_fail(s, "R8: %c keeps cell %u up to %lu without what it dropped because of records up to %lu",
                     n->name, a->cell, a->offset, l->dropped_by);
        log_truncate(l, a->offset);
        nef_gate_cut(n->gates[a->cell], a->offset);
        if (n->applied[a->cell] > a->offset) { /* index rebuilt, as after damage or accepted loss */
            struct nef_repl_cell_start start = {.end = a->offset};

            n->rebuilding = true;
            load_index(n, a->cell, &start, a->offset);
            n->rebuilding = false;
        }
        n->committed[a->cell] = NEF_MIN(n->committed[a->cell], a->offset);
        n->prefix_ok[a->cell] = 0;
        ev = later(n, disk_time(n), SIM_CUT_DONE);
        ev->a = a->cell;
        break;
    case NEF_ACT_SKIP:
        sim_trace(s, n, "skips cell %u from %lu to %lu", a->cell, l->end, a->offset);
        log_skip(l, a->offset);
        l->dropped_by = a->offset; /* at least */
        {
            struct nef_repl_cell_start start = {.end = a->offset};

            n->rebuilding = true; /* from the checkpoint that will follow */
            load_index(n, a->cell, &start, a->offset);
            n->rebuilding = false;
        }
        n->prefix_ok[a->cell] = a->offset;
        ev = later(n, disk_time(n), SIM_CUT_DONE);
        ev->a = a->cell;
        break;
    case NEF_ACT_COMMIT:
        check_commit(n, a);
        n->committed[a->cell] = NEF_MAX(n->committed[a->cell], a->offset);
        if (!n->apply_due[a->cell]) {
            n->apply_due[a->cell] = true;
            ev = later(n, sim_below(s, 200 * US) + n->slow_apply, SIM_APPLY);
            ev->a = a->cell;
        }
        break;
    case NEF_ACT_PERSIST:
        n->seen_epoch = NEF_MAX(n->seen_epoch, a->epoch);
        n->persist_pending = a->epoch;
        ev = later(n, disk_time(n), SIM_PERSISTED);
        ev->a = a->epoch;
        break;
    case NEF_ACT_STATUS:
        break;
    case NEF_ACT_SERVE:
        n->serve_until = a->until;
        check_serve(n);
        break;
    case NEF_ACT_STOP:
        sim_trace(s, n, "stops: %s", nef_err_name(a->err));
        n->crash_in = 0;
        break;
    case NEF_ACT_ETCD_GET:
        etcd_get(s, n);
        break;
    case NEF_ACT_ETCD_CAS:
        sim_trace(s, n, "asks for epoch %lu, in sync %x, primary %u", a->group->epoch,
                  a->group->in_sync, a->group->primary[0]);
        check_cas(n, a->group);
        etcd_cas(s, n, a->group, a->revision);
        break;
    case NEF_ACT_SEND:
        trace_message(n, a);
        if (a->message->type == NEF_MSG_STATE)
            check_grant(n, a->message);
        net_send(s, n, a->peer, a->message, NULL, 0);
        break;
    case NEF_ACT_SEND_LOG:
        send_log(n, a);
        break;
    case NEF_ACT_SEND_PROPOSAL:
        net_send(s, n, a->peer, a->message, (const struct record *)(uintptr_t)a->handle, 1);
        break;
    case NEF_ACT_SAVE_PAYLOAD: /* the APPEND that follows in this step uses it */
        break;
    case NEF_ACT_FREE:
        free((void *)(uintptr_t)a->handle);
        break;
    case NEF_ACT_REFUSE:
        request_refused(s, n, a->number);
        free((void *)(uintptr_t)a->handle);
        break;
    }
}

static void trace_role(struct node *n)
{
    static const char *const names[] = {"starting", "out", "catching up", "backup",
                                        "seeking",  "primary", "stopped"};
    struct nef_repl *r = n->repl;
    enum nef_role role;

    if (!n->sim->trace_print && !n->sim->trace)
        return;
    {
        static struct nef_repl_status status;

        nef_repl_status(r, &status);
        role = status.role;
        if (role == n->role && status.group.epoch == n->role_epoch)
            return;
        n->role = role;
        n->role_epoch = status.group.epoch;
        sim_trace(n->sim, n, "is %s in epoch %lu%s%s", names[role], status.group.epoch,
                  status.err != NEF_OK ? ": " : "",
                  status.err != NEF_OK ? nef_err_name(status.err) : "");
    }
}

static void step_once(struct node *n, struct nef_event *ev)
{
    struct sim *s = n->sim;
    uint32_t life = n->life;
    uint64_t message_epoch = ev->type == NEF_EV_MESSAGE ? ev->message->epoch : 0;
    const struct packet *payload = (const struct packet *)(uintptr_t)ev->handle;
    bool proposal = ev->type == NEF_EV_MESSAGE && ev->message->type == NEF_MSG_PROPOSE;

    ev->now = node_clock(n);
    ev->random[0] = sim_random(s);
    ev->random[1] = sim_random(s);
    s->steps++;
    nef_repl_step(n->repl, ev, &s->actions);
    for (uint32_t i = 0; i < s->actions.count && !s->failed; i++) {
        struct nef_action *a = &s->actions.at[i];

        if (n->crash_in >= 0 && n->crash_in-- == 0) {
            for (; i < s->actions.count; i++) /* only memory: the process and its proposals are gone */
                if (s->actions.at[i].type == NEF_ACT_FREE || s->actions.at[i].type == NEF_ACT_REFUSE)
                    free((void *)(uintptr_t)s->actions.at[i].handle);
            node_crash(n, true);
            node_restart_later(n, n->restart_after);
            return;
        }
        if (proposal && a->type == NEF_ACT_APPEND && a->handle == ev->handle)
            a->handle = (uint64_t)(uintptr_t)&payload->records[0];
        execute(n, a, message_epoch);
        if (!n->alive || n->life != life)
            return;
    }
    trace_role(n);
}

static void schedule(struct node *n)
{
    struct sim *s = n->sim;
    uint64_t at = node_true_time(n, s->actions.deadline);
    struct sim_event *ev;

    if (at <= s->now)
        at = s->now + US;
    if (n->tick_at > s->now && n->tick_at <= at)
        return;
    n->tick_at = at;
    ev = sim_at(s, at, SIM_TICK);
    ev->node = n->index;
    ev->life = n->life;
}

void node_step(struct node *n, struct nef_event *ev)
{
    struct sim *s = n->sim;
    struct nef_event again = {.type = NEF_EV_FLUSH};

    step_once(n, ev);
    while (n->alive && s->actions.more && !s->failed)
        step_once(n, &again);
    if (!n->alive || s->failed)
        return;
    if (n->crash_in == 0) { /* after the last action is a place to crash, too */
        node_crash(n, true);
        node_restart_later(n, n->restart_after);
        return;
    }
    schedule(n);
    if (ev->type != NEF_EV_TICK && ev->type != NEF_EV_FLUSH && !n->flush_due) {
        n->flush_due = true;
        later(n, sim_below(s, 50 * US), SIM_FLUSH);
    }
    check_serve(n);
    reads_look(s, n);
}

/* ---- apply ---------------------------------------------------------------------------------------------- */

static nef_err apply_op(struct node *n, const struct record *r)
{
    uint32_t *value = &n->values[r->key];

    switch ((enum op)r->op) {
    case OP_PUT:
        *value = r->value;
        return NEF_OK;
    case OP_CREATE:
        if (*value != 0)
            return NEF_E_PRECONDITION;
        *value = r->value;
        return NEF_OK;
    case OP_REPLACE:
        if (*value != r->expected)
            return NEF_E_PRECONDITION;
        *value = r->value;
        return NEF_OK;
    case OP_DELETE:
        *value = 0;
        return NEF_OK;
    case OP_NONE:
    case OP_GET:
        break;
    }
    NEF_ASSERT(false);
    return NEF_OK;
}

static void apply_record(struct node *n, uint32_t c, const struct record *r,
                         struct nef_outcome *out_outcome)
{
    uint64_t evicted;

    if (nef_outcomes_find(n->outcomes[c], r->proposer, r->number, out_outcome))
        return;
    *out_outcome = (struct nef_outcome){.number = r->number, .offset = r->offset};
    out_outcome->code = (uint32_t)apply_op(n, r);
    nef_outcomes_put(n->outcomes[c], r->proposer, out_outcome, r->offset, &evicted);
}

void node_apply(struct node *n, uint32_t c)
{
    struct log *l = &n->disk.logs[c];
    uint32_t life = n->life;

    n->apply_due[c] = false;
    for (uint32_t i = log_find(l, n->applied[c]); i < l->count; i++) {
        const struct record *r = &l->at[i];
        struct nef_outcome outcome;

        if (record_end(r) > n->committed[c])
            break;
        n->applied[c] = record_end(r);
        if (r->kind != RECORD_OP)
            continue;
        apply_record(n, c, r, &outcome);
        if (r->proposer != n->incarnation || n->rebuilding)
            continue;
        nef_gate_applied(n->gates[c], n->applied[c]);
        request_applied(n->sim, n, r->number, outcome.code); /* steps the core: it may crash */
        if (!n->alive || n->life != life || n->sim->failed)
            return;
    }
    nef_gate_applied(n->gates[c], n->applied[c]);
}
