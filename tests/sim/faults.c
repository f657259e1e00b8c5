/* Random weather and faults of a seed.
 *
 * A seed draws its weather (delays, kind of network, how reliable etcd is) and some episodes. Episodes
 * like to begin close together: most bugs need two things to go wrong at once (a pause while a message is
 * late, a restart while the other zone is cut off). Everything random about the distribution is here; what
 * must hold whatever happens is in checker.c. */
#include "sim/sim.h"

enum fault {
    FAULT_CRASH, FAULT_HOST_LOST, FAULT_PAUSE, FAULT_CUT, FAULT_CUT_ONE_WAY, FAULT_SLOW_LINK,
    FAULT_LINK_RESET, FAULT_ETCD_CUT, FAULT_ETCD_DOWN, FAULT_ETCD_LOSES, FAULT_SLOW_DISK,
    FAULT_FAIL_SYNC, FAULT_WIPE, FAULT_HANDOVER, FAULT_ISOLATED_RESTART, FAULT_SLOW_APPLY, FAULT_SPACE,
    FAULT_SNAPSHOT, FAULT_ROLL_BACK, FAULT_DAMAGE, FAULT_DROP, FAULT_WALL_CLOCK, FAULT_UNREADABLE,
    FAULT_COUNT,
};

static const char *const fault_names[] = {
    "crash", "host lost", "pause", "cut", "cut one way", "slow link", "link reset", "etcd cut off",
    "etcd down", "etcd loses answers", "slow disk", "failing sync", "disk wiped", "handover",
    "isolation, and the other restarts", "slow apply", "space is short",
    "old copy taken", "disk rolled back", "damage", "segments dropped", "wall clock steps",
    "a record can't be read",
};

static void end_later(struct sim *s, const struct sim_event *begin, uint64_t after)
{
    struct sim_event *ev = sim_at(s, s->now + after, SIM_FAULT_END);

    ev->a = begin->a;
    ev->node = begin->node;
    ev->b = begin->b;
}

/* Another fault of the same node, as the sequel of this one. */
static void again_later(struct sim *s, const struct sim_event *first, enum fault fault, uint64_t after)
{
    struct sim_event *ev = sim_at(s, s->now + after, SIM_FAULT);

    ev->a = fault;
    ev->node = first->node;
    ev->b = first->b;
    ev->c = 1;
}

/* The direction from the fault's node to the other one of its link. */
static uint32_t direction(const struct sim_event *ev)
{
    return ev->node < ev->b ? 0 : 1;
}

static void crash_soon(struct sim *s, struct node *n, uint64_t restart_after)
{
    n->restart_after = restart_after;
    n->crash_in = (int64_t)sim_below(s, 12);
}

static uint64_t restart_time(struct sim *s)
{
    switch (sim_below(s, 4)) {
    case 0:
        return sim_between(s, MS, 20 * MS);
    case 1:
        return sim_between(s, 20 * MS, 200 * MS);
    case 2:
        return sim_between(s, 200 * MS, 800 * MS);
    default:
        return sim_between(s, 500 * MS, 2500 * MS);
    }
}

static uint64_t episode_time(struct sim *s)
{
    return sim_chance(s, 0.5) ? sim_between(s, 20 * MS, 500 * MS)
                              : sim_between(s, 300 * MS, 1800 * MS);
}

/* A disk may go only while another one that is in sync is whole, and nothing under way says otherwise. */
static bool may_wipe(struct sim *s, const struct node *n)
{
    for (uint32_t i = 0; i < s->node_count; i++) {
        const struct node *other = &s->nodes[i];

        if (n->cas_outstanding > 0 || (n->alive && n->repl->cas.pending))
            return false;
        if (other != n && other->cas_outstanding == 0 && !other->disk_lost &&
            nef_group_has(&s->etcd.group, &other->disk.replica))
            return s->etcd.group.epoch > 0;
    }
    return false;
}

static void take_snapshot(struct node *n)
{
    n->snapshot.replica = n->disk.replica;
    n->snapshot.epoch = n->disk.epoch;
    for (uint32_t c = 0; c < CELLS; c++) {
        struct log *l = &n->snapshot.logs[c];

        log_copy(l, &n->disk.logs[c]);
        l->count = log_find(l, l->durable); /* what a copy of the disk would hold */
        l->end = l->durable;
    }
    n->has_snapshot = true;
}

/* Only a rollback to before the epoch began can be told from the disk and the record alone (R10). One within
 * the epoch is noticed by the primary when the replica joins, but if the primary is lost first, two copies
 * were. */
static bool seen_as_old(struct sim *s, const struct node *n)
{
    if (!nef_id_equal(&n->snapshot.replica, &n->disk.replica))
        return false;
    for (uint32_t i = 0; i < s->node_count; i++) /* it counts already for a change that is under way */
        if (s->nodes[i].alive && s->nodes[i].repl->cas.pending &&
            nef_group_has(&s->nodes[i].repl->cas.group, &n->disk.replica))
            return false;
    if (!nef_group_has(&s->etcd.group, &n->disk.replica))
        return true;
    for (uint32_t c = 0; c < CELLS; c++)
        if (n->snapshot.logs[c].end < s->etcd.group.first_offset[c])
            return true;
    return false;
}

void fault_begin(struct sim *s, const struct sim_event *ev)
{
    struct node *n = &s->nodes[ev->node];
    uint32_t other = (uint32_t)ev->b;
    struct link *link = net_link(s, ev->node, other);
    struct nef_event handover = {.type = NEF_EV_HANDOVER};

    if (s->faults_over)
        return;
    sim_trace(s, n, "fault: %s", fault_names[ev->a]);
    switch ((enum fault)ev->a) {
    case FAULT_CRASH:
        if (n->alive)
            crash_soon(s, n, restart_time(s));
        break;
    case FAULT_HOST_LOST:
        if (n->alive) {
            node_crash(n, false);
            node_restart_later(n, restart_time(s));
        }
        break;
    case FAULT_PAUSE:
        if (n->alive)
            n->paused_until = s->now + episode_time(s);
        break;
    case FAULT_CUT:
        link->cut[0] = link->cut[1] = true;
        if (sim_chance(s, 0.3))
            net_break(s, ev->node, other, sim_chance(s, 0.7), sim_chance(s, 0.7));
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_CUT_ONE_WAY:
        link->cut[direction(ev)] = true;
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_SLOW_LINK:
        link->extra[direction(ev)] = sim_between(s, 20 * MS, 600 * MS);
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_LINK_RESET:
        net_break(s, ev->node, other, true, true);
        break;
    case FAULT_ETCD_CUT:
        n->etcd_cut = true;
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_ETCD_DOWN:
        s->etcd.down = true;
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_ETCD_LOSES:
        s->etcd.lose_answer = 0.7;
        s->etcd.late = 0.3;
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_SLOW_DISK:
        n->slow_disk = true;
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_FAIL_SYNC:
        if (n->alive)
            n->fail_sync = true;
        break;
    case FAULT_WIPE:
        if (may_wipe(s, n)) {
            node_crash(n, true);
            node_new_disk(n);
            for (uint32_t c = 0; c < CELLS; c++)
                n->applied[c] = NEF_SEGMENT_HEADER_BYTES;
            node_restart_later(n, restart_time(s));
        }
        break;
    case FAULT_HANDOVER:
        if (n->alive && n->paused_until <= s->now)
            node_step(n, &handover);
        break;
    case FAULT_ISOLATED_RESTART:
        /* N goes on alone with its lease while the other comes back and takes over. */
        link->cut[0] = link->cut[1] = true;
        n->etcd_cut = true;
        if (s->nodes[other].alive) {
            node_crash(&s->nodes[other], false);
            node_restart_later(&s->nodes[other], sim_between(s, MS, 60 * MS));
        }
        end_later(s, ev, sim_between(s, 400 * MS, 1500 * MS));
        break;
    case FAULT_SLOW_APPLY:
        n->slow_apply = sim_between(s, MS, 60 * MS);
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_SPACE:
        if (n->alive && n->paused_until <= s->now) {
            struct nef_event space = {.type = NEF_EV_SPACE, .free_bytes = 1, .err = NEF_E_NOSPACE};

            node_step(n, &space);
        }
        end_later(s, ev, episode_time(s));
        break;
    case FAULT_SNAPSHOT:
        if (n->alive && n->sync_at[0] == 0 && n->sync_at[1] == 0 && !n->disk_lost)
            take_snapshot(n);
        again_later(s, ev, FAULT_ROLL_BACK, sim_between(s, 300 * MS, 2500 * MS));
        break;
    case FAULT_ROLL_BACK:
        if (may_wipe(s, n) && n->has_snapshot && seen_as_old(s, n)) {
            node_crash(n, true);
            node_roll_back(n);
            n->disk_lost = true;
            node_restart_later(n, restart_time(s));
        }
        break;
    case FAULT_DAMAGE:
        if (may_wipe(s, n)) {
            node_crash(n, true);
            n->disk_lost = node_damage(n);
            node_restart_later(n, restart_time(s));
        }
        break;
    case FAULT_DROP:
        if (n->alive)
            node_drop(n);
        if (ev->c == 0 && s->nodes[other].alive) { /* and once more while the other one is away */
            node_crash(&s->nodes[other], true);
            node_restart_later(&s->nodes[other], sim_between(s, 500 * MS, 2500 * MS));
            again_later(s, ev, FAULT_DROP, sim_between(s, 400 * MS, 2400 * MS));
        }
        break;
    case FAULT_WALL_CLOCK:
        n->wall_step_ms += sim_chance(s, 0.5) ? 3600000 : -3600000;
        break;
    case FAULT_UNREADABLE: /* and then repaired: lost for good, it could only be a story (scenarios) */
        node_unreadable(n);
        if (sim_chance(s, 0.5)) /* while the other one needs all of the log */
            again_later(s, &(struct sim_event){.node = other, .b = ev->node}, FAULT_WIPE, sim_below(s, 300 * MS));
        end_later(s, ev, sim_between(s, 500 * MS, 3000 * MS));
        break;
    case FAULT_COUNT:
        break;
    }
}

void fault_end(struct sim *s, const struct sim_event *ev)
{
    struct node *n = &s->nodes[ev->node];
    struct link *link = net_link(s, ev->node, (uint32_t)ev->b);
    struct nef_event space = {.type = NEF_EV_SPACE, .free_bytes = 1u << 30};

    switch ((enum fault)ev->a) {
    case FAULT_ISOLATED_RESTART:
        n->etcd_cut = false;
        link->cut[0] = link->cut[1] = false;
        break;
    case FAULT_CUT:
        link->cut[0] = link->cut[1] = false;
        break;
    case FAULT_CUT_ONE_WAY:
        link->cut[direction(ev)] = false;
        break;
    case FAULT_SLOW_LINK:
        link->extra[direction(ev)] = 0;
        break;
    case FAULT_ETCD_CUT:
        n->etcd_cut = false;
        break;
    case FAULT_ETCD_DOWN:
        s->etcd.down = false;
        break;
    case FAULT_ETCD_LOSES:
        s->etcd.lose_answer = s->etcd.late = 0;
        break;
    case FAULT_SLOW_DISK:
        n->slow_disk = false;
        break;
    case FAULT_SLOW_APPLY:
        n->slow_apply = 0;
        break;
    case FAULT_SPACE:
        if (n->alive && n->paused_until <= s->now)
            node_step(n, &space);
        break;
    case FAULT_UNREADABLE:
        memset(n->unreadable, 0, sizeof n->unreadable);
        break;
    case FAULT_CRASH: /* over as soon as they happened */
    case FAULT_HOST_LOST:
    case FAULT_PAUSE:
    case FAULT_LINK_RESET:
    case FAULT_FAIL_SYNC:
    case FAULT_WIPE:
    case FAULT_HANDOVER:
    case FAULT_SNAPSHOT:
    case FAULT_ROLL_BACK:
    case FAULT_DAMAGE:
    case FAULT_DROP:
    case FAULT_WALL_CLOCK:
    case FAULT_COUNT:
        break;
    }
}

void faults_schedule(struct sim *s)
{
    uint32_t episodes = 1 + (uint32_t)sim_below(s, 12);
    uint64_t at = 600 * MS;

    s->tcp = sim_chance(s, 0.7);
    s->loss = s->tcp ? 0 : sim_chance(s, 0.5) ? 0.01 : 0.08;
    s->delay = sim_between(s, 20 * US, 2 * MS);
    s->jitter = sim_chance(s, 0.8) ? s->delay / 2 : 8 * MS;
    s->sync_time = sim_between(s, 50 * US, sim_chance(s, 0.2) ? 20 * MS : 4 * MS);
    s->etcd.delay = sim_between(s, 300 * US, 4 * MS);
    s->etcd.lose_answer = sim_chance(s, 0.7) ? 0 : 0.2;
    s->etcd.lose_request = sim_chance(s, 0.8) ? 0 : 0.1;
    s->etcd.late = sim_chance(s, 0.8) ? 0 : 0.2;
    s->config.failback_ns = sim_between(s, 200 * MS, 1500 * MS);
    for (uint32_t i = 0; i < s->node_count; i++) {
        s->nodes[i].drift = ((double)sim_below(s, 601) - 300) * 1e-6;
        s->nodes[i].clock_offset = sim_between(s, SECOND, 1000 * SECOND);
        s->nodes[i].slow_apply = sim_chance(s, 0.2) ? sim_between(s, MS, 20 * MS) : 0;
        node_restart_later(&s->nodes[i], sim_below(s, 30 * MS));
    }
    clients_init(s, s->node_count == 2 ? 3 : 2, 60);
    for (uint32_t i = 0; i < episodes; i++) {
        struct sim_event *ev;

        at = sim_chance(s, 0.6) ? at + sim_below(s, 80 * MS) : sim_between(s, 10 * MS, 4700 * MS);
        ev = sim_at(s, at, SIM_FAULT);
        ev->a = sim_below(s, FAULT_COUNT);
        ev->node = (uint32_t)sim_below(s, s->node_count);
        ev->b = (ev->node + 1 + sim_below(s, s->node_count - 1)) % s->node_count;
    }
}

void faults_heal(struct sim *s)
{
    struct nef_event space = {.type = NEF_EV_SPACE, .free_bytes = 1u << 30};

    sim_trace(s, NULL, "the faults are over");
    s->faults_over = true;
    s->loss = 0;
    s->etcd.down = false;
    s->etcd.lose_answer = s->etcd.lose_request = s->etcd.late = 0;
    for (uint32_t a = 0; a < s->node_count; a++)
        for (uint32_t b = a + 1; b < s->node_count; b++) {
            struct link *link = net_link(s, a, b);

            link->cut[0] = link->cut[1] = false;
            link->extra[0] = link->extra[1] = 0;
        }
    for (uint32_t i = 0; i < s->node_count; i++) {
        struct node *n = &s->nodes[i];

        n->etcd_cut = n->slow_disk = n->fail_sync = false;
        memset(n->unreadable, 0, sizeof n->unreadable);
        n->slow_apply = 0;
        n->paused_until = NEF_MIN(n->paused_until, s->now);
        if (n->alive && n->crash_in < 0)
            node_step(n, &space);
        if (!n->alive)
            node_restart_later(n, 0);
    }
}
