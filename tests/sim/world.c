/* The world: set-up, the loop, and what each simulated event does. */
#include "sim/sim.h"

#include <stdlib.h>

void etcd_arrive(struct sim *s, struct sim_event *ev);
void etcd_answer(struct sim *s, struct sim_event *ev);

void sim_init(struct sim *s, uint64_t seed, uint32_t nodes)
{
    uint64_t x = seed;

    memset(s, 0, sizeof *s);
    s->seed = seed;
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t z = x += 0x9e3779b97f4a7c15u;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        s->random[i] = z ^ z >> 31;
    }
    s->node_count = nodes;
    s->tcp = true;
    s->delay = 300 * US;
    s->jitter = 100 * US;
    s->sync_time = MS;
    s->etcd.delay = MS;
    s->config = (struct nef_repl_config){
        .cell_count = CELLS, .segment_bytes = SEGMENT, .peer_count = nodes - 1,
        .heartbeat_ns = 50 * MS, .lease_ns = 500 * MS, .suspect_ns = 400 * MS,
        .second_wait_ns = 100 * MS, .peer_stall_ns = 1000 * MS, .failback_ns = 30 * SECOND,
        .etcd_poll_ns = 250 * MS, .etcd_retry_ns = 100 * MS, .resend_ns = 1000 * MS,
        .append_bytes_max = 2048, .window_bytes = 16384,
    };
    for (uint32_t i = 0; i < nodes; i++) {
        struct node *n = &s->nodes[i];

        n->sim = s;
        n->index = i;
        n->name = (char)('a' + i);
        n->clock_offset = SECOND * (1 + i * 1000);
        n->crash_in = -1;
        node_new_disk(n);
        for (uint32_t c = 0; c < CELLS; c++)
            n->applied[c] = NEF_SEGMENT_HEADER_BYTES;
    }
    for (uint32_t c = 0; c < CELLS; c++)
        s->ledgers[c].end = NEF_SEGMENT_HEADER_BYTES;
    sim_at(s, 0, SIM_RECONNECT);
}

void sim_free(struct sim *s)
{
    struct sim_event ev;

    for (uint32_t i = 0; i < s->node_count; i++) {
        struct node *n = &s->nodes[i];

        node_free_proposals(n);
        free(n->memory);
        for (uint32_t c = 0; c < CELLS; c++) {
            log_free(&n->disk.logs[c]);
            log_free(&n->snapshot.logs[c]);
            free(n->gate_memory[c]);
            free(n->outcome_memory[c]);
        }
    }
    while (sim_pop(s, &ev)) {
        if (ev.type == SIM_DELIVER)
            packet_free(ev.p);
        else
            free(ev.p);
    }
    for (uint32_t c = 0; c < CELLS; c++)
        free(s->ledgers[c].at);
    free(s->heap);
    free(s->trace);
}

static void link_event(struct sim *s, struct node *n, const struct sim_event *ev)
{
    struct nef_event e = {.type = ev->b ? NEF_EV_PEER_UP : NEF_EV_PEER_DOWN,
                          .peer = peer_of_node(n, (uint32_t)ev->a)};

    if (net_link(s, n->index, (uint32_t)ev->a)->generation != ev->c)
        return; /* of an earlier connection */
    if (n->link_up[ev->a] == (ev->b != 0))
        return;
    n->link_up[ev->a] = ev->b != 0;
    node_step(n, &e);
}

static void synced(struct node *n, const struct sim_event *ev)
{
    struct nef_event e = {.type = NEF_EV_SYNCED, .cell = (uint32_t)ev->a, .offset = ev->b};
    struct log *l = &n->disk.logs[ev->a];

    n->sync_at[ev->a] = 0;
    if (n->fail_sync) {
        n->fail_sync = false;
        n->failed = true;
        e.type = NEF_EV_FAILED;
        e.err = NEF_E_IO;
        n->restart_after = 300 * MS;
    } else {
        l->durable = NEF_MAX(l->durable, NEF_MIN(ev->b, l->end));
    }
    node_step(n, &e);
}

static void dispatch_to_node(struct sim *s, struct node *n, struct sim_event *ev)
{
    struct nef_event e = {0};

    switch (ev->type) {
    case SIM_TICK:
        if (ev->time != n->tick_at)
            return; /* a sooner one came in between */
        e.type = NEF_EV_TICK;
        node_step(n, &e);
        break;
    case SIM_FLUSH:
        n->flush_due = false;
        e.type = NEF_EV_FLUSH;
        node_step(n, &e);
        break;
    case SIM_LINK:
        link_event(s, n, ev);
        break;
    case SIM_SYNCED:
        synced(n, ev);
        break;
    case SIM_CUT_DONE: {
        struct log *l = &n->disk.logs[ev->a];

        free(l->kept);
        l->kept = NULL;
        l->kept_count = 0;
        e.type = NEF_EV_CUT;
        e.cell = (uint32_t)ev->a;
        node_step(n, &e);
        break;
    }
    case SIM_PERSISTED:
        n->disk.epoch = ev->a;
        n->persist_pending = 0;
        e.type = NEF_EV_PERSISTED;
        e.epoch = ev->a;
        node_step(n, &e);
        break;
    case SIM_UNREADABLE:
        e.type = NEF_EV_UNREADABLE;
        e.cell = (uint32_t)ev->a;
        e.offset = ev->b;
        node_step(n, &e);
        break;
    case SIM_APPLY:
        node_apply(n, (uint32_t)ev->a);
        if (n->alive)
            reads_look(s, n);
        break;
    case SIM_READ_DONE:
        read_answer(s, (uint32_t)ev->a, (uint32_t)ev->b, n);
        break;
    case SIM_DELIVER: /* sim_dispatch has these */
    case SIM_ETCD_ARRIVE:
    case SIM_ETCD_ANSWER:
    case SIM_CLIENT:
    case SIM_CLIENT_TIMEOUT:
    case SIM_RECONNECT:
    case SIM_RESTART:
    case SIM_FAULT:
    case SIM_FAULT_END:
        NEF_ASSERT(false);
    }
}

void sim_dispatch(struct sim *s, struct sim_event *ev)
{
    struct node *n = &s->nodes[ev->node];

    switch (ev->type) {
    case SIM_TICK:
    case SIM_FLUSH:
    case SIM_LINK:
    case SIM_SYNCED:
    case SIM_CUT_DONE:
    case SIM_PERSISTED:
    case SIM_APPLY:
    case SIM_READ_DONE:
    case SIM_UNREADABLE:
    case SIM_DELIVER:
    case SIM_ETCD_ANSWER:
        if (n->alive && n->life == ev->life && n->paused_until > s->now) {
            uint64_t time = n->paused_until, sequence = s->sequence + 1;
            struct sim_event *again = sim_at(s, time, ev->type);
            bool tick = ev->type == SIM_TICK && ev->time == n->tick_at;

            *again = *ev;
            again->time = time;
            again->sequence = sequence;
            if (tick)
                n->tick_at = time;
            return;
        }
        if (ev->type == SIM_ETCD_ANSWER) {
            etcd_answer(s, ev);
        } else if (ev->type == SIM_DELIVER) {
            if (n->life == ev->life)
                net_deliver(s, ev->time, (uint32_t)ev->a, ev->node, (uint32_t)ev->b, ev->p);
            else
                packet_free(ev->p);
        } else if (n->alive && n->life == ev->life) {
            dispatch_to_node(s, n, ev);
        }
        break;
    case SIM_ETCD_ARRIVE:
        etcd_arrive(s, ev);
        break;
    case SIM_CLIENT:
        client_wake(s, (uint32_t)ev->a);
        break;
    case SIM_CLIENT_TIMEOUT:
        client_timeout(s, (uint32_t)ev->a);
        break;
    case SIM_RECONNECT:
        net_reconnect(s);
        break;
    case SIM_RESTART:
        if (n->life == ev->life)
            node_start(n);
        break;
    case SIM_FAULT:
        fault_begin(s, ev);
        break;
    case SIM_FAULT_END:
        fault_end(s, ev);
        break;
    }
}

bool sim_step(struct sim *s)
{
    struct sim_event ev;

    if (s->failed || !sim_pop(s, &ev))
        return false;
    s->now = NEF_MAX(s->now, ev.time);
    sim_dispatch(s, &ev);
    return !s->failed;
}

void sim_run_until(struct sim *s, uint64_t time)
{
    while (s->heap_count > 0 && s->heap[0].time <= time && sim_step(s))
        ;
    if (!s->failed)
        s->now = NEF_MAX(s->now, time);
}

bool sim_settled(struct sim *s)
{
    for (uint32_t i = 0; i < s->client_count; i++)
        if (s->clients[i].left > 0 || s->clients[i].busy)
            return false;
    for (uint32_t i = 0; i < s->node_count; i++) {
        const struct node *n = &s->nodes[i];

        if (n->stopped_for_good)
            continue;
        if (!n->alive || !nef_group_has(&s->etcd.group, &n->disk.replica) ||
            n->repl->group.epoch != s->etcd.group.epoch || node_clock(n) >= n->serve_until)
            return false;
        for (uint32_t c = 0; c < CELLS; c++)
            if (n->applied[c] != s->nodes[0].disk.logs[c].end)
                return false;
    }
    return true;
}

bool sim_run_seed(uint64_t seed, bool trace, struct sim *s)
{
    uint64_t limit;

    sim_init(s, seed, seed % 4 == 3 ? 3 : 2);
    s->trace_print = trace;
    faults_schedule(s);
    sim_run_until(s, s->now + FAULTS_END);
    faults_heal(s);
    limit = s->now + 60 * SECOND;
    while (!s->failed && s->now < limit && !sim_settled(s))
        sim_run_until(s, s->now + 50 * MS);
    if (!s->failed && !sim_settled(s))
        sim_fail(s, "not all well 60 s after the faults ended: epoch %lu, in sync %x",
                 s->etcd.group.epoch, s->etcd.group.in_sync);
    if (!s->failed)
        check_end(s);
    for (uint32_t k = 0; k < KEYS && !s->failed; k++)
        (void)linearizable(s, k);
    return !s->failed;
}
