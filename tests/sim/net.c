/* The simulated network. Two kinds, chosen per seed: `tcp` (what runs in production: nothing is lost or
 * overtaken within a connection; while a link is cut its bytes wait) and datagrams (everything may be lost,
 * doubled or overtaken), which promises the core less than it will get. Every message is encoded and
 * decoded on its way, so wire format errors show here too. */
#include "sim/sim.h"

#include <stdlib.h>

uint32_t node_of_peer(const struct node *n, uint32_t peer)
{
    return peer < n->index ? peer : peer + 1;
}

uint32_t peer_of_node(const struct node *n, uint32_t node)
{
    return node < n->index ? node : node - 1;
}

struct link *net_link(struct sim *s, uint32_t a, uint32_t b)
{
    return &s->links[NEF_MIN(a, b)][NEF_MAX(a, b)];
}

void packet_free(struct packet *p)
{
    if (!p)
        return;
    free(p->frame);
    free(p->records);
    free(p);
}

static struct packet *packet_new(const struct nef_message *m, const struct record *records,
                                 uint32_t count)
{
    struct packet *p = calloc(1, sizeof *p);

    NEF_ASSERT(p);
    p->frame = malloc(NEF_MESSAGE_HEAD_BYTES + m->body_bytes + 1);
    p->records = malloc((count + 1) * sizeof *records);
    NEF_ASSERT(p->frame && p->records);
    nef_message_encode(m, p->frame);
    memcpy(p->frame + NEF_MESSAGE_HEAD_BYTES, m->body, m->body_bytes);
    p->body_bytes = m->body_bytes;
    if (count > 0)
        memcpy(p->records, records, count * sizeof *records);
    p->record_count = count;
    return p;
}

void net_send(struct sim *s, struct node *from, uint32_t peer, const struct nef_message *m,
              const struct record *records, uint32_t count)
{
    uint32_t to = node_of_peer(from, peer), direction = from->index < to ? 0 : 1;
    struct link *link = net_link(s, from->index, to);
    uint32_t copies = 1;

    if (!link->up || !from->link_up[to])
        return;
    if (!s->tcp && sim_chance(s, 0.01))
        copies = 2;
    while (copies-- > 0) {
        uint64_t at = s->now + s->delay + sim_below(s, s->jitter + 1) + link->extra[direction];
        struct sim_event *ev;
        struct packet *p;

        if (!s->tcp && (link->cut[direction] || sim_chance(s, s->loss)))
            continue;
        if (s->tcp)
            at = link->last[direction] = NEF_MAX(at, link->last[direction]);
        p = packet_new(m, records, count);
        ev = sim_at(s, at, SIM_DELIVER);
        ev->node = to;
        ev->life = s->nodes[to].life;
        ev->a = from->index;
        ev->b = link->generation;
        ev->p = p;
    }
}

void net_deliver(struct sim *s, uint64_t time, uint32_t from, uint32_t to, uint32_t generation,
                 struct packet *p)
{
    struct link *link = net_link(s, from, to);
    struct node *n = &s->nodes[to];
    struct nef_message m;
    struct nef_event ev = {.type = NEF_EV_MESSAGE};

    (void)time;
    if (!link->up || link->generation != generation || !n->alive || !n->link_up[from]) {
        packet_free(p);
        return;
    }
    if (link->cut[from < to ? 0 : 1]) {
        if (s->tcp) { /* sent again until the link is back */
            struct sim_event *again = sim_at(s, s->now + 20 * MS, SIM_DELIVER);

            link->last[from < to ? 0 : 1] = NEF_MAX(link->last[from < to ? 0 : 1], again->time);
            again->node = to;
            again->life = n->life;
            again->a = from;
            again->b = generation;
            again->p = p;
        } else {
            packet_free(p);
        }
        return;
    }
    if (nef_message_decode(p->frame, &m) != NEF_OK ||
        nef_message_check(p->frame, p->frame + NEF_MESSAGE_HEAD_BYTES, &m) != NEF_OK) {
        sim_fail(s, "a message of type %u can't be decoded", p->frame[5]);
        packet_free(p);
        return;
    }
    ev.peer = peer_of_node(n, from);
    ev.message = &m;
    ev.handle = (uint64_t)(uintptr_t)p;
    node_step(n, &ev);
    packet_free(p);
}

static void tell_link(struct sim *s, uint32_t node, uint32_t other, bool up, uint64_t after)
{
    struct sim_event *ev = sim_at(s, s->now + after, SIM_LINK);

    ev->node = node;
    ev->life = s->nodes[node].life;
    ev->a = other;
    ev->b = up;
    ev->c = net_link(s, node, other)->generation;
}

void net_break(struct sim *s, uint32_t a, uint32_t b, bool notice_a, bool notice_b)
{
    struct link *link = net_link(s, a, b);

    if (!link->up)
        return;
    link->up = false;
    link->generation++;
    link->last[0] = link->last[1] = 0;
    if (notice_a && s->nodes[a].alive)
        tell_link(s, a, b, false, s->delay + sim_below(s, MS));
    if (notice_b && s->nodes[b].alive)
        tell_link(s, b, a, false, s->delay + sim_below(s, MS));
}

void net_reconnect(struct sim *s)
{
    for (uint32_t a = 0; a < s->node_count; a++)
        for (uint32_t b = a + 1; b < s->node_count; b++) {
            struct link *link = net_link(s, a, b);
            struct node *na = &s->nodes[a], *nb = &s->nodes[b];

            if (link->up || !na->alive || !nb->alive || link->cut[0] || link->cut[1] ||
                na->paused_until > s->now || nb->paused_until > s->now)
                continue;
            link->up = true;
            link->generation++;
            /* An end that never noticed the break is told of it now. */
            tell_link(s, a, b, false, 0);
            tell_link(s, b, a, false, 0);
            tell_link(s, a, b, true, s->delay + sim_below(s, MS));
            tell_link(s, b, a, true, s->delay + sim_below(s, MS));
        }
    sim_at(s, s->now + 20 * MS, SIM_RECONNECT);
}
