/* The machine: arrays that grow, and its end, where heights are computed and dead states cut off.
 *
 * height(s) = 0 for a final state; else the least of height(t) over edges to t and max(weight + height(callee's
 * start), height(return)) over calls. It is computed level by level, smallest first (Knuth, "A generalization of
 * Dijkstra's algorithm", 1977): each state and each callee becomes known once, so it takes time linear in edges and
 * calls. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/machine.h"

#define ROW_EDGES 4u  /* a state with more edges gets a row, */
#define ROW_BYTES 48u /* or with edges for more bytes: many tokens go that way */

_Static_assert(NEF_GRAMMAR_DEPTH_MAX < UINT8_MAX, "heights are bytes");

bool nef_room(void **array, size_t *room, size_t count, size_t size)
{
    size_t more = *room > 0 ? 2 * *room : 16;
    void *grown;

    if (count < *room)
        return true;
    grown = realloc(*array, more * size);
    if (grown == NULL)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static nef_err add_edge(struct nef_machine *m, struct nef_edge edge)
{
    if (m->edge_count >= NEF_GRAMMAR_EDGES_MAX)
        return NEF_E_LIMIT;
    if (!nef_room((void **)&m->edges, &m->edge_room, m->edge_count, sizeof(*m->edges)))
        return NEF_E_NOMEM;
    m->edges[m->edge_count++] = edge;
    return NEF_OK;
}

nef_err nef_machine_state(struct nef_machine *m, const uint32_t row[256], uint8_t flags)
{
    struct nef_state s = {.edge = m->edge_count, .call = m->call_count, .row = NEF_NO_STATE, .flags = flags};

    if (m->state_count >= NEF_GRAMMAR_STATES_MAX)
        return NEF_E_LIMIT;
    for (unsigned low = 0, high; low < 256; low = high + 1) {
        nef_err err = NEF_OK;

        for (high = low; high < 255 && row[high + 1] == row[low]; high++)
            continue;
        if (row[low] != NEF_NO_STATE)
            err = add_edge(m, (struct nef_edge){row[low], (uint8_t)low, (uint8_t)high, 0});
        if (err != NEF_OK)
            return err;
    }
    s.edges = (uint16_t)(m->edge_count - s.edge);
    if (!nef_room((void **)&m->states, &m->state_room, m->state_count, sizeof(*m->states)))
        return NEF_E_NOMEM;
    m->states[m->state_count++] = s;
    return NEF_OK;
}

nef_err nef_machine_call(struct nef_machine *m, struct nef_call call)
{
    if (m->call_count >= NEF_GRAMMAR_EDGES_MAX || m->states[m->state_count - 1].calls == UINT16_MAX)
        return NEF_E_LIMIT;
    if (!nef_room((void **)&m->calls, &m->call_room, m->call_count, sizeof(*m->calls)))
        return NEF_E_NOMEM;
    m->calls[m->call_count++] = call;
    m->states[m->state_count - 1].calls++;
    return NEF_OK;
}

nef_err nef_machine_callee(struct nef_machine *m, struct nef_callee callee, uint32_t *out_number)
{
    if (m->callee_count >= NEF_GRAMMAR_STATES_MAX)
        return NEF_E_LIMIT;
    if (!nef_room((void **)&m->callees, &m->callee_room, m->callee_count, sizeof(*m->callees)))
        return NEF_E_NOMEM;
    if (out_number != NULL)
        *out_number = m->callee_count;
    m->callees[m->callee_count++] = callee;
    return NEF_OK;
}

static bool copy(void **to, size_t *room, const void *from, size_t count, size_t size)
{
    *to = malloc(count > 0 ? count * size : 1);
    if (*to == NULL)
        return false;
    if (count > 0)
        memcpy(*to, from, count * size);
    *room = count;
    return true;
}

nef_err nef_machine_copy(const struct nef_machine *m, struct nef_machine *out_machine)
{
    struct nef_machine c = *m;

    c.states = NULL;
    c.edges = NULL;
    c.calls = NULL;
    c.callees = NULL;
    c.rows = NULL;
    if (!copy((void **)&c.states, &c.state_room, m->states, m->state_count, sizeof(*m->states)) ||
        !copy((void **)&c.edges, &c.edge_room, m->edges, m->edge_count, sizeof(*m->edges)) ||
        !copy((void **)&c.calls, &c.call_room, m->calls, m->call_count, sizeof(*m->calls)) ||
        !copy((void **)&c.callees, &c.callee_room, m->callees, m->callee_count, sizeof(*m->callees)) ||
        !copy((void **)&c.rows, &c.row_room, m->rows, m->row_count, 256 * sizeof(*m->rows))) {
        nef_machine_free(&c);
        return NEF_E_NOMEM;
    }
    *out_machine = c;
    return NEF_OK;
}

void nef_machine_free(struct nef_machine *m)
{
    free(m->states);
    free(m->edges);
    free(m->calls);
    free(m->callees);
    free(m->rows);
    *m = (struct nef_machine){0};
}

size_t nef_machine_bytes(const struct nef_machine *m)
{
    return m->state_room * sizeof(*m->states) + m->edge_room * sizeof(*m->edges) + m->call_room * sizeof(*m->calls) +
           m->callee_room * sizeof(*m->callees) + m->row_room * 256 * sizeof(*m->rows);
}

/* ---- heights ---- */

/* Who depends on a state: states with an edge to it (value: the state), calls that return to it, callees that start
 * with it (value: their number). One list for each kind, by counting sort. */
struct users {
    uint32_t *first; /* count + 1 */
    uint32_t *value;
};
struct heights {
    struct nef_machine *m;
    struct users edges, returns, starts, callers;
    uint32_t *owner;                            /* of a call: its state */
    uint8_t *callee;                            /* height of each callee, UINT8_MAX: not known */
    uint32_t *level[NEF_GRAMMAR_DEPTH_MAX + 1]; /* states that have this height */
    uint32_t level_count[NEF_GRAMMAR_DEPTH_MAX + 1];
    size_t level_room[NEF_GRAMMAR_DEPTH_MAX + 1];
    bool failed;
};

static bool users_open(struct users *u, size_t keys, size_t values)
{
    u->first = calloc(keys + 2, sizeof(*u->first));
    u->value = malloc((values + 1) * sizeof(*u->value));
    return u->first != NULL && u->value != NULL;
}

static void users_done(struct users *u)
{
    free(u->first);
    free(u->value);
}

/* Count first (first[key + 2]++), then sum, then place at first[key + 1]++: afterwards first[key] begins KEY's. */
static void users_sum(struct users *u, size_t keys)
{
    for (size_t i = 2; i < keys + 2; i++)
        u->first[i] += u->first[i - 1];
}

static bool heights_open(struct heights *h)
{
    struct nef_machine *m = h->m;

    h->owner = malloc((m->call_count + 1) * sizeof(*h->owner));
    h->callee = malloc(m->callee_count + 1);
    if (!users_open(&h->edges, m->state_count, m->edge_count) ||
        !users_open(&h->returns, m->state_count, m->call_count) ||
        !users_open(&h->starts, m->state_count, m->callee_count) ||
        !users_open(&h->callers, m->callee_count, m->call_count) || h->owner == NULL || h->callee == NULL)
        return false;
    memset(h->callee, UINT8_MAX, m->callee_count);
    for (int place = 0; place < 2; place++) {
        for (uint32_t s = 0; s < m->state_count; s++) {
            const struct nef_state *state = &m->states[s];

            for (uint32_t i = state->edge; i < state->edge + state->edges; i++)
                if (place)
                    h->edges.value[h->edges.first[m->edges[i].to + 1]++] = s;
                else
                    h->edges.first[m->edges[i].to + 2]++;
            for (uint32_t i = state->call; i < state->call + state->calls; i++) {
                h->owner[i] = s;
                if (place) {
                    h->returns.value[h->returns.first[m->calls[i].to + 1]++] = i;
                    h->callers.value[h->callers.first[m->calls[i].callee + 1]++] = i;
                } else {
                    h->returns.first[m->calls[i].to + 2]++;
                    h->callers.first[m->calls[i].callee + 2]++;
                }
            }
        }
        for (uint32_t i = 0; i < m->callee_count; i++)
            if (place)
                h->starts.value[h->starts.first[m->callees[i].start + 1]++] = i;
            else
                h->starts.first[m->callees[i].start + 2]++;
        if (!place) {
            users_sum(&h->edges, m->state_count);
            users_sum(&h->returns, m->state_count);
            users_sum(&h->starts, m->state_count);
            users_sum(&h->callers, m->callee_count);
        }
    }
    return true;
}

static void heights_done(struct heights *h)
{
    users_done(&h->edges);
    users_done(&h->returns);
    users_done(&h->starts);
    users_done(&h->callers);
    free(h->owner);
    free(h->callee);
    for (size_t i = 0; i <= NEF_GRAMMAR_DEPTH_MAX; i++)
        free(h->level[i]);
}

static void found(struct heights *h, uint32_t state, uint32_t height)
{
    if (height > NEF_GRAMMAR_DEPTH_MAX || h->m->states[state].height <= height)
        return;
    if (!nef_room((void **)&h->level[height], &h->level_room[height], h->level_count[height], sizeof(uint32_t))) {
        h->failed = true;
        return;
    }
    h->m->states[state].height = (uint8_t)height;
    h->level[height][h->level_count[height]++] = state;
}

static void found_call(struct heights *h, uint32_t call)
{
    const struct nef_call *c = &h->m->calls[call];
    uint32_t inside = h->callee[c->callee], after = h->m->states[c->to].height;

    if (inside != UINT8_MAX && after != UINT8_MAX)
        found(h, h->owner[call], NEF_MAX(c->weight + inside, after));
}

static void known(struct heights *h, uint32_t state, uint8_t height)
{
    for (uint32_t i = h->edges.first[state]; i < h->edges.first[state + 1]; i++)
        found(h, h->edges.value[i], height);
    for (uint32_t i = h->returns.first[state]; i < h->returns.first[state + 1]; i++)
        found_call(h, h->returns.value[i]);
    for (uint32_t i = h->starts.first[state]; i < h->starts.first[state + 1]; i++) {
        uint32_t callee = h->starts.value[i];

        h->callee[callee] = height;
        for (uint32_t k = h->callers.first[callee]; k < h->callers.first[callee + 1]; k++)
            found_call(h, h->callers.value[k]);
    }
}

static nef_err compute_heights(struct nef_machine *m)
{
    struct heights h = {.m = m};
    nef_err err = NEF_E_NOMEM;

    if (!heights_open(&h))
        goto out;
    for (uint32_t s = 0; s < m->state_count; s++) {
        m->states[s].height = UINT8_MAX;
        if ((m->states[s].flags & NEF_STATE_FINAL) != 0)
            found(&h, s, 0);
    }
    for (uint32_t level = 0; level <= NEF_GRAMMAR_DEPTH_MAX; level++)
        for (uint32_t i = 0; i < h.level_count[level]; i++) /* grows meanwhile */
            if (m->states[h.level[level][i]].height == level)
                known(&h, h.level[level][i], (uint8_t)level);
    err = h.failed ? NEF_E_NOMEM : NEF_OK;
out:
    heights_done(&h);
    return err;
}

/* ---- the end ---- */

static void cut_dead(struct nef_machine *m, struct nef_state *s)
{
    uint32_t edges = s->edge, calls = s->call;

    for (uint32_t i = s->edge; i < s->edge + s->edges; i++)
        if (m->states[m->edges[i].to].height != UINT8_MAX)
            m->edges[edges++] = m->edges[i];
    for (uint32_t i = s->call; i < s->call + s->calls; i++)
        if (m->states[m->calls[i].to].height != UINT8_MAX &&
            m->states[m->callees[m->calls[i].callee].start].height != UINT8_MAX)
            m->calls[calls++] = m->calls[i];
    s->edges = (uint16_t)(edges - s->edge);
    s->calls = (uint16_t)(calls - s->call);
    s->flags = (uint8_t)((s->flags & ~NEF_STATE_CALLS) | (s->calls > 0 ? NEF_STATE_CALLS : 0));
}

static uint32_t row_entry(const struct nef_machine *m, const struct nef_state *from, uint32_t to)
{
    const struct nef_state *s = &m->states[to];
    bool special = (s->flags & (NEF_STATE_FINAL | NEF_STATE_CALLS | NEF_STATE_COUNTS)) != 0 || s->height > from->height;

    return special ? to | NEF_ROW_SPECIAL : to;
}

static nef_err add_row(struct nef_machine *m, struct nef_state *s)
{
    uint32_t *row, bytes = 0;

    for (uint32_t i = s->edge; i < s->edge + s->edges; i++)
        bytes += m->edges[i].high - m->edges[i].low + 1u;
    if ((s->edges <= ROW_EDGES && bytes <= ROW_BYTES) || s->row != NEF_NO_STATE || m->row_count >= NEF_GRAMMAR_ROWS_MAX)
        return NEF_OK; /* without a row the edges are searched: slower, and the same */
    if (!nef_room((void **)&m->rows, &m->row_room, m->row_count, 256 * sizeof(*m->rows)))
        return NEF_E_NOMEM;
    row = m->rows + (size_t)256 * m->row_count;
    memset(row, 0xff, 256 * sizeof(*row));
    for (uint32_t i = s->edge; i < s->edge + s->edges; i++)
        for (unsigned byte = m->edges[i].low; byte <= m->edges[i].high; byte++)
            row[byte] = row_entry(m, s, m->edges[i].to);
    s->row = m->row_count++;
    return NEF_OK;
}

nef_err nef_machine_end(struct nef_machine *m)
{
    nef_err err = compute_heights(m);

    for (uint32_t i = 0; i < m->state_count && err == NEF_OK; i++)
        cut_dead(m, &m->states[i]);
    for (uint32_t i = 0; i < m->state_count && err == NEF_OK; i++)
        err = add_row(m, &m->states[i]);
    return err;
}
