/* Clients: each sends one request at a time to its zone and writes down when it was sent and what came
 * back. A write without an answer is "unknown": it may take effect at any later time, or never. They do
 * not retry. Reads follow the rules of repl.h and gate.h: note the bound, wait for the gate, look, and
 * check the lease once more before answering. */
#include "sim/sim.h"

#include <stdlib.h>

#define REQUEST_TIMEOUT (2500 * MS)

void clients_init(struct sim *s, uint32_t per_node, uint32_t requests)
{
    for (uint32_t i = 0; i < s->node_count * per_node && i < CLIENTS_MAX; i++) {
        struct sim_event *ev = sim_at(s, s->now + sim_below(s, 50 * MS), SIM_CLIENT);

        s->clients[i] = (struct client){.node = i % s->node_count, .left = requests};
        s->client_count = i + 1;
        ev->a = i;
    }
}

static void wake_later(struct sim *s, uint32_t client, uint64_t after)
{
    struct sim_event *ev = sim_at(s, s->now + after, SIM_CLIENT);

    ev->a = client;
}

static void finish(struct sim *s, struct request *q)
{
    struct client *c = &s->clients[q->client];

    q->done = true;
    if (q->client >= s->client_count)
        return; /* a scenario's */
    c->busy = 0;
    if (c->left > 0)
        wake_later(s, q->client, sim_below(s, 60 * MS));
}

static struct record *proposal_of(const struct request *q)
{
    struct record *r = calloc(1, sizeof *r);

    NEF_ASSERT(r);
    r->kind = RECORD_OP;
    r->op = q->op;
    r->key = q->key;
    r->value = q->value;
    r->expected = q->expected;
    r->proposer = q->incarnation;
    r->number = q->number;
    r->bytes = NEF_RECORD_HEADER_BYTES + 64 * (q->value % 9);
    return r;
}

static void start_read(struct sim *s, struct node *n, uint32_t request)
{
    struct request *q = &s->requests[request];
    bool listing = sim_chance(s, 0.1);

    for (uint32_t i = 0; i < NEF_COUNT(n->reads); i++) {
        struct waiting_read *w = &n->reads[i];

        if (w->used)
            continue;
        *w = (struct waiting_read){.used = true, .op = request, .listing = listing};
        return;
    }
    q->dropped = true;
    finish(s, q);
}

uint32_t request_start(struct sim *s, uint32_t client, enum op op, uint32_t key, uint32_t expected)
{
    uint32_t i = s->request_count++;
    struct request *q = &s->requests[i];
    struct node *n = &s->nodes[s->clients[client].node];
    struct sim_event *timeout;

    NEF_ASSERT(i < OPS_MAX);
    *q = (struct request){.client = client, .node = n->index, .op = (uint8_t)op, .key = (uint8_t)key,
                          .expected = expected, .invoked = s->now, .returned = UINT64_MAX};
    if (op == OP_PUT || op == OP_CREATE || op == OP_REPLACE)
        q->value = ++s->value_last;
    s->clients[client].busy = i + 1;
    q->incarnation = n->incarnation;
    timeout = sim_at(s, s->now + REQUEST_TIMEOUT, SIM_CLIENT_TIMEOUT);
    timeout->a = i;
    if (op == OP_GET) {
        start_read(s, n, i);
        reads_look(s, n);
        return i;
    }
    q->number = ++n->next_number;
    {
        struct record *r = proposal_of(q);
        struct nef_event ev = {.type = NEF_EV_PROPOSE, .cell = key % CELLS, .number = q->number,
                               .bytes = r->bytes, .is_op = true, .frees_space = op == OP_DELETE,
                               .handle = (uint64_t)(uintptr_t)r};

        node_step(n, &ev);
    }
    return i;
}

void client_wake(struct sim *s, uint32_t client)
{
    struct client *c = &s->clients[client];
    struct node *n = &s->nodes[c->node];
    uint32_t key = (uint32_t)sim_below(s, KEYS), expected = 0, of_key = 0;
    uint64_t dice = sim_below(s, 100);
    enum op op;

    if (c->busy || c->left == 0)
        return;
    if (!n->alive || n->paused_until > s->now) { /* nobody listens */
        wake_later(s, client, 20 * MS + sim_below(s, 20 * MS));
        return;
    }
    for (uint32_t i = 0; i < s->request_count; i++) {
        of_key += s->requests[i].key == key;
        if (s->requests[i].key == key && s->requests[i].value && sim_chance(s, 0.5))
            expected = s->requests[i].value; /* often the newest */
    }
    c->left--;
    if (s->request_count >= OPS_MAX || of_key >= OPS_OF_KEY_MAX) {
        wake_later(s, client, MS);
        return;
    }
    op = dice < 45 ? OP_GET : dice < 75 ? OP_PUT : dice < 83 ? OP_CREATE : dice < 91 ? OP_REPLACE : OP_DELETE;
    request_start(s, client, op, key, expected);
}

void client_timeout(struct sim *s, uint32_t request)
{
    struct request *q = &s->requests[request];
    struct node *n = &s->nodes[q->node];

    if (q->done)
        return;
    if (n->alive && n->incarnation == q->incarnation && q->op != OP_GET) {
        struct nef_event ev = {.type = NEF_EV_PROPOSAL_DONE, .number = q->number};

        node_step(n, &ev); /* given up: the core frees the proposal */
        if (q->done)
            return; /* it crashed over this */
    }
    for (uint32_t i = 0; i < NEF_COUNT(n->reads); i++)
        if (n->reads[i].used && n->reads[i].op == request)
            n->reads[i].used = false;
    q->dropped = q->op == OP_GET;
    finish(s, q);
}

void request_applied(struct sim *s, struct node *n, uint64_t number, uint32_t code)
{
    for (uint32_t i = s->request_count; i-- > 0;) {
        struct request *q = &s->requests[i];
        struct nef_event ev = {.type = NEF_EV_PROPOSAL_DONE, .number = number};

        if (q->incarnation != n->incarnation || q->number != number || q->op == OP_GET)
            continue;
        if (q->done)
            return;
        if (code != NEF_E_TIMEOUT) { /* else it fell out of the window: unknown */
            q->returned = s->now;
            q->failed = code != NEF_OK;
        }
        finish(s, q);
        sim_trace(s, n, "answers request %u: key %u value %u%s", i, q->key, q->value,
                  q->failed ? " refused" : "");
        node_step(n, &ev);
        return;
    }
}

void request_refused(struct sim *s, struct node *n, uint64_t number)
{
    for (uint32_t i = s->request_count; i-- > 0;)
        if (s->requests[i].incarnation == n->incarnation && s->requests[i].number == number &&
            s->requests[i].op != OP_GET && !s->requests[i].done)
            finish(s, &s->requests[i]);
}

/* Note what may have been acknowledged to anybody by now: everything committed, and on a backup all that it
 * has durable, for the primary may have committed it already. Only a process that may answer knows that:
 * a starting or returning one can be behind without knowing it, so a read waits for SERVE first. */
static void note_bound(struct node *n, struct waiting_read *w, uint32_t key)
{
    uint32_t c = key % CELLS;
    uint64_t bound = n->repl->won ? n->repl->cells[c].commit : n->repl->cells[c].durable;
    uint8_t tag[16] = {(uint8_t)(1 + key)};

    w->noted = true;
    w->wait = nef_gate_wait(n->gates[c], w->listing ? NULL : tag, bound);
}

void reads_look(struct sim *s, struct node *n)
{
    for (uint32_t i = 0; i < NEF_COUNT(n->reads); i++) {
        struct waiting_read *w = &n->reads[i];
        struct request *q;
        struct sim_event *ev;

        if (!w->used)
            continue;
        q = &s->requests[w->op];
        if (node_clock(n) >= n->serve_until)
            continue;
        if (!w->noted)
            note_bound(n, w, q->key);
        if (n->applied[q->key % CELLS] < w->wait)
            continue;
        w->used = false;
        ev = sim_at(s, s->now + sim_below(s, 300 * US), SIM_READ_DONE);
        ev->node = n->index;
        ev->life = n->life;
        ev->a = w->op;
        ev->b = n->values[q->key];
    }
}

void read_answer(struct sim *s, uint32_t request, uint32_t value, struct node *n)
{
    struct request *q = &s->requests[request];

    if (q->done)
        return;
    if (node_clock(n) >= n->serve_until) { /* R4: checked again after the data was read */
        q->dropped = true;
        finish(s, q);
        return;
    }
    q->result = value;
    q->returned = s->now;
    finish(s, q);
}

void requests_of_dead(struct sim *s, struct node *n)
{
    for (uint32_t i = 0; i < s->request_count; i++) {
        struct request *q = &s->requests[i];

        if (q->done || q->node != n->index)
            continue;
        q->dropped = q->op == OP_GET;
        finish(s, q);
    }
}
