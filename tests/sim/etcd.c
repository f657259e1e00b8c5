/* The simulated etcd: one linearizable register with a revision. Requests and answers may be lost or late;
 * a compare-and-swap may be applied long after its sender was told "no answer". Every call gets
 * exactly one answer, as repl.h asks of the runtime. */
#include "sim/sim.h"

#include <stdlib.h>

#define CALL_TIMEOUT (200 * MS)

struct call {
    uint32_t node, life;
    bool swap;
    bool abandoned; /* its sender has been told UNKNOWN or FAILED */
    struct nef_group group;
    uint64_t revision;
    enum nef_swap result;
    bool decided;
};

static void answer(struct sim *s, struct call *c, uint64_t after, bool lost)
{
    struct sim_event *ev = sim_at(s, s->now + after, SIM_ETCD_ANSWER);

    ev->node = c->node;
    ev->life = c->life;
    ev->a = lost;
    ev->p = c;
}

static void call(struct sim *s, struct node *n, struct call *c)
{
    bool lost = s->etcd.down || n->etcd_cut || sim_chance(s, s->etcd.lose_request);
    uint64_t delay = s->etcd.delay / 2 + sim_below(s, s->etcd.delay + 1);
    struct sim_event *ev;

    c->node = n->index;
    c->life = n->life;
    if (c->swap)
        n->cas_outstanding++;
    if (lost) {
        if (c->swap)
            n->cas_outstanding--;
        answer(s, c, CALL_TIMEOUT, true);
        return;
    }
    if (c->swap && sim_chance(s, s->etcd.late)) {
        /* Stuck somewhere on its way: the sender gives up, and then it arrives. */
        struct call *told = malloc(sizeof *told);

        NEF_ASSERT(told);
        *told = *c;
        answer(s, told, CALL_TIMEOUT, true);
        c->abandoned = true;
        delay = sim_between(s, CALL_TIMEOUT / 2, 5 * CALL_TIMEOUT);
    }
    ev = sim_at(s, s->now + delay, SIM_ETCD_ARRIVE);
    ev->node = n->index;
    ev->p = c;
}

void etcd_get(struct sim *s, struct node *n)
{
    struct call *c = calloc(1, sizeof *c);

    NEF_ASSERT(c);
    call(s, n, c);
}

void etcd_cas(struct sim *s, struct node *n, const struct nef_group *g, uint64_t revision)
{
    struct call *c = calloc(1, sizeof *c);
    uint8_t bytes[NEF_GROUP_BYTES_MAX];
    uint32_t size;

    NEF_ASSERT(c);
    c->swap = true;
    c->revision = revision;
    if (nef_group_encode(g, bytes, sizeof bytes, &size) != NEF_OK ||
        nef_group_decode(bytes, size, &c->group) != NEF_OK)
        sim_fail(s, "%c asks for a record that can't be", n->name);
    call(s, n, c);
}

const struct nef_group *etcd_record_of(const struct sim *s, uint64_t epoch)
{
    const struct nef_group *g = &s->etcd.history[epoch % EPOCHS_MAX];

    return epoch > 0 && g->epoch == epoch ? g : NULL;
}

static void decide(struct sim *s, struct call *c)
{
    struct node *n = &s->nodes[c->node];

    n->cas_outstanding--;
    if (c->revision != s->etcd.revision) {
        c->result = NEF_SWAP_LOST;
        return;
    }
    c->result = NEF_SWAP_WON;
    if (c->group.epoch <= s->etcd.group.epoch)
        sim_fail(s, "%c lowers the epoch from %lu to %lu", n->name, s->etcd.group.epoch,
                 c->group.epoch);
    s->etcd.revision += 1 + sim_below(s, 3);
    s->etcd.group = c->group;
    s->etcd.history[c->group.epoch % EPOCHS_MAX] = c->group;
    s->etcd.writer[c->group.epoch % EPOCHS_MAX] = n->life == c->life ? n->incarnation : 0;
    sim_trace(s, NULL, "etcd: epoch %lu by %c, in sync %x, primary %u%s", c->group.epoch, n->name,
              c->group.in_sync, c->group.primary[0], nef_group_overrides(&c->group) ? ", loss accepted" : "");
    check_record(s);
}

/* SIM_ETCD_ARRIVE: the request reaches etcd. SIM_ETCD_ANSWER: the answer, or the time-out, reaches the node. */
void etcd_arrive(struct sim *s, struct sim_event *ev);
void etcd_answer(struct sim *s, struct sim_event *ev);

void etcd_arrive(struct sim *s, struct sim_event *ev)
{
    struct call *c = ev->p;
    struct node *n = &s->nodes[c->node];

    if (s->etcd.down) {
        if (c->swap)
            n->cas_outstanding--;
        if (c->abandoned)
            free(c);
        else
            answer(s, c, CALL_TIMEOUT, true);
        return;
    }
    if (c->swap) {
        decide(s, c);
    } else {
        c->group = s->etcd.group;
        c->revision = s->etcd.revision;
    }
    c->decided = true;
    if (c->abandoned) {
        free(c);
        return;
    }
    if (c->result == NEF_SWAP_WON)
        c->revision = c->swap ? s->etcd.revision : c->revision;
    if (n->etcd_cut || sim_chance(s, s->etcd.lose_answer))
        answer(s, c, CALL_TIMEOUT, true);
    else
        answer(s, c, s->etcd.delay / 2 + sim_below(s, s->etcd.delay + 1), false);
}

void etcd_answer(struct sim *s, struct sim_event *ev)
{
    struct call *c = ev->p;
    struct node *n = &s->nodes[c->node];
    struct nef_event e = {0};

    if (n->alive && n->life == c->life) {
        e.type = c->swap ? NEF_EV_ETCD_SWAPPED : ev->a ? NEF_EV_ETCD_FAILED : NEF_EV_ETCD_RECORD;
        e.swap = ev->a ? NEF_SWAP_UNKNOWN : c->result;
        if (!c->swap)
            e.group = &c->group;
        e.revision = c->revision;
        node_step(n, &e);
    }
    free(c);
}
