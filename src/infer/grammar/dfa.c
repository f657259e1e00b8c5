/* NFA to states of the machine: subset construction (Rabin, Scott 1959) over bytes, and over callees as if they were
 * letters, so that alternatives with a common start are one path, also through calls.
 *
 * A subset is kept as those of its states that have an edge with a byte or a call, and the final one; sorted, found
 * by hash. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/compile.h"

struct dfa {
    struct nef_compile *c;
    uint32_t *first; /* edges of NFA state s: first[s] .. first[s + 1] */
    struct nef_nfa_edge *edges;
    uint8_t *kept;         /* the state has such an edge, or is final */
    uint32_t *mark, stamp; /* states of the closure that is being made */
    uint32_t *todo;
    uint32_t final, base;
    /* subsets, number n is state base + n */
    uint32_t *members;
    size_t member_count, member_room;
    size_t *begins;
    size_t count, room;
    uint32_t *table;
    size_t table_size;
    /* of the state that is being made */
    uint32_t *targets; /* NFA states */
    size_t target_count, target_room;
    const struct nef_nfa_edge **leaving;
    size_t leaving_count, leaving_room;
};

static bool no_memory(struct dfa *d)
{
    nef_compile_fail(d->c, NEF_E_NOMEM, "out of memory");
    return false;
}

static bool sort_edges(struct dfa *d)
{
    struct nef_compile *c = d->c;

    d->first = calloc(c->nfa_states + 2, sizeof(*d->first));
    d->edges = malloc((c->nfa_count + 1) * sizeof(*d->edges));
    d->kept = calloc(c->nfa_states, 1);
    d->mark = calloc(c->nfa_states, sizeof(*d->mark));
    d->todo = malloc(c->nfa_states * sizeof(*d->todo));
    d->table_size = 64;
    d->table = calloc(d->table_size, sizeof(*d->table));
    if (d->first == NULL || d->edges == NULL || d->kept == NULL || d->mark == NULL || d->todo == NULL ||
        d->table == NULL)
        return no_memory(d);
    for (size_t i = 0; i < c->nfa_count; i++)
        d->first[c->nfa[i].from + 2]++;
    for (uint32_t s = 2; s < c->nfa_states + 2; s++)
        d->first[s] += d->first[s - 1];
    for (size_t i = 0; i < c->nfa_count; i++) {
        d->edges[d->first[c->nfa[i].from + 1]++] = c->nfa[i];
        d->kept[c->nfa[i].from] |= c->nfa[i].kind != NEF_NFA_EMPTY;
    }
    d->kept[d->final] = 1;
    return true;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static bool push(struct dfa *d, uint32_t state)
{
    if (!nef_room((void **)&d->members, &d->member_room, d->member_count, sizeof(*d->members)))
        return no_memory(d);
    d->members[d->member_count++] = state;
    return true;
}

/* The closure of targets, as a subset at the end of members. */
static bool close_targets(struct dfa *d)
{
    size_t begin = d->member_count, todo = 0;

    d->stamp++;
    for (size_t i = 0; i < d->target_count; i++)
        if (d->mark[d->targets[i]] != d->stamp) {
            d->mark[d->targets[i]] = d->stamp;
            d->todo[todo++] = d->targets[i];
        }
    while (todo > 0) {
        uint32_t state = d->todo[--todo];

        if (d->kept[state] && !push(d, state))
            return false;
        if (!nef_compile_work(d->c, 1 + d->first[state + 1] - d->first[state]))
            return false;
        for (uint32_t i = d->first[state]; i < d->first[state + 1]; i++)
            if (d->edges[i].kind == NEF_NFA_EMPTY && d->mark[d->edges[i].to] != d->stamp) {
                d->mark[d->edges[i].to] = d->stamp;
                d->todo[todo++] = d->edges[i].to;
            }
    }
    if (d->member_count > begin)
        qsort(d->members + begin, d->member_count - begin, sizeof(*d->members), ascending);
    return true;
}

static uint64_t hash(const uint32_t *members, size_t count)
{
    uint64_t h = 14695981039346656037ull; /* FNV-1a over words; a collision costs time, and time is limited */

    for (size_t i = 0; i < count; i++)
        h = (h ^ members[i]) * 1099511628211ull;
    return h ^ h >> 29;
}

static size_t end_of(const struct dfa *d, size_t subset)
{
    return subset + 1 < d->count ? d->begins[subset + 1] : d->member_count;
}

static bool grow_table(struct dfa *d)
{
    size_t size = 2 * d->table_size;
    uint32_t *table;

    if (2 * d->count < d->table_size)
        return true;
    table = calloc(size, sizeof(*table));
    if (table == NULL)
        return no_memory(d);
    for (size_t i = 0; i < d->count; i++) {
        size_t at = hash(d->members + d->begins[i], end_of(d, i) - d->begins[i]) & (size - 1);

        while (table[at] != 0)
            at = (at + 1) & (size - 1);
        table[at] = (uint32_t)i + 1;
    }
    free(d->table);
    d->table = table;
    d->table_size = size;
    return true;
}

/* The state for targets; a new one if there is none. */
static bool state_of_targets(struct dfa *d, uint32_t *out_state)
{
    size_t begin = d->member_count, count, at;

    if (!grow_table(d) || !close_targets(d))
        return false;
    count = d->member_count - begin;
    for (at = hash(d->members + begin, count) & (d->table_size - 1); d->table[at] != 0;
         at = (at + 1) & (d->table_size - 1)) {
        size_t other = d->table[at] - 1;
        size_t other_end = other + 1 < d->count ? d->begins[other + 1] : begin;

        if (!nef_compile_work(d->c, 1))
            return false;
        if (other_end - d->begins[other] == count &&
            memcmp(d->members + d->begins[other], d->members + begin, count * sizeof(*d->members)) == 0) {
            d->member_count = begin;
            *out_state = d->base + (uint32_t)other;
            return true;
        }
    }
    if (!nef_room((void **)&d->begins, &d->room, d->count, sizeof(*d->begins)))
        return no_memory(d);
    d->begins[d->count] = begin;
    d->table[at] = (uint32_t)++d->count;
    *out_state = d->base + (uint32_t)d->count - 1;
    return true;
}

static bool add_target(struct dfa *d, uint32_t state)
{
    if (!nef_room((void **)&d->targets, &d->target_room, d->target_count, sizeof(*d->targets)))
        return no_memory(d);
    d->targets[d->target_count++] = state;
    return true;
}

/* Targets of bytes: between two neighbouring ends of ranges all bytes have the same. */
static bool make_row(struct dfa *d, uint32_t row[256])
{
    bool cut[257] = {true};

    for (size_t i = 0; i < d->leaving_count; i++)
        if (d->leaving[i]->kind == NEF_NFA_BYTES)
            cut[d->leaving[i]->low] = cut[d->leaving[i]->high + 1] = true;
    for (unsigned low = 0, high; low < 256; low = high) {
        uint32_t to = NEF_NO_STATE;

        for (high = low + 1; high < 256 && !cut[high]; high++)
            continue;
        d->target_count = 0;
        if (!nef_compile_work(d->c, d->leaving_count))
            return false;
        for (size_t i = 0; i < d->leaving_count; i++)
            if (d->leaving[i]->kind == NEF_NFA_BYTES && d->leaving[i]->low <= low && low <= d->leaving[i]->high &&
                !add_target(d, d->leaving[i]->to))
                return false;
        if (d->target_count > 0 && !state_of_targets(d, &to))
            return false;
        for (unsigned byte = low; byte < high; byte++)
            row[byte] = to;
    }
    return true;
}

static int by_callee(const void *a, const void *b)
{
    const struct nef_nfa_edge *x = *(const struct nef_nfa_edge *const *)a, *y = *(const struct nef_nfa_edge *const *)b;

    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return (x->callee > y->callee) - (x->callee < y->callee);
}

static bool add_calls(struct dfa *d)
{
    for (size_t i = 0, next; i < d->leaving_count; i = next) {
        struct nef_call call = {.callee = d->leaving[i]->callee};
        nef_err err;

        next = i + 1;
        if (d->leaving[i]->kind != NEF_NFA_CALL)
            continue;
        d->target_count = 0;
        for (next = i; next < d->leaving_count && d->leaving[next]->callee == call.callee; next++) {
            call.weight = NEF_MAX(call.weight, d->leaving[next]->weight);
            if (!add_target(d, d->leaving[next]->to))
                return false;
        }
        if (!state_of_targets(d, &call.to))
            return false;
        err = nef_machine_call(&d->c->machine, call);
        if (err != NEF_OK) {
            nef_compile_fail(d->c, err, "the schema is too large (calls)");
            return false;
        }
    }
    return true;
}

static bool make_state(struct dfa *d, size_t subset)
{
    uint32_t row[256];
    bool final = false;
    nef_err err;

    d->leaving_count = 0;
    for (size_t i = d->begins[subset], end = end_of(d, subset); i < end; i++) {
        uint32_t state = d->members[i];

        final |= state == d->final;
        for (uint32_t k = d->first[state]; k < d->first[state + 1]; k++) {
            if (d->edges[k].kind == NEF_NFA_EMPTY)
                continue;
            if (!nef_room((void **)&d->leaving, &d->leaving_room, d->leaving_count, sizeof(*d->leaving)))
                return no_memory(d);
            d->leaving[d->leaving_count++] = &d->edges[k];
        }
    }
    if (!make_row(d, row))
        return false;
    err = nef_machine_state(&d->c->machine, row, final ? NEF_STATE_FINAL : 0);
    if (err != NEF_OK) {
        nef_compile_fail(d->c, err, "the schema is too large (more than %u states or %u edges)", NEF_GRAMMAR_STATES_MAX,
                         NEF_GRAMMAR_EDGES_MAX);
        return false;
    }
    if (d->leaving_count > 0)
        qsort(d->leaving, d->leaving_count, sizeof(*d->leaving), by_callee);
    return add_calls(d);
}

uint32_t nef_dfa_make(struct nef_compile *c, uint32_t start, uint32_t final)
{
    struct dfa d = {.c = c, .final = final, .base = c->machine.state_count};
    uint32_t first = NEF_NO_STATE;

    if (c->err != NEF_OK || !sort_edges(&d) || !add_target(&d, start) || !state_of_targets(&d, &first))
        goto out;
    for (size_t i = 0; i < d.count; i++) /* grows meanwhile */
        if (!make_state(&d, i))
            break;
out:
    free(d.first);
    free(d.edges);
    free(d.kept);
    free(d.mark);
    free(d.todo);
    free(d.members);
    free(d.begins);
    free(d.table);
    free(d.targets);
    free(d.leaving);
    return first;
}
