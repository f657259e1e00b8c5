/* A pattern to the inside of a JSON string that it finds something in.
 *
 * First the tree becomes an automaton over characters (Thompson 1968), with edges for ^ and $. A pattern is searched
 * for, so any characters may come before and after. It then runs as a product of
 *
 *   its state
 *   how far the string is: NOTHING was read, SOME was, or it must END here ($ was passed); ^ is passed at NOTHING only
 *   how many characters were read, as far as minLength and maxLength ask
 *
 * and each edge with characters becomes the bytes that they are written as (nfa.c). Product states from which the end
 * can't be reached are left out. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/regex.h"

enum { NOTHING, SOME, END, PLACES };
enum { EDGE_EMPTY, EDGE_BEGIN, EDGE_END, EDGE_SET, EDGE_ANY };

struct edge {
    uint32_t from, to, kind;
    uint32_t first, count; /* ranges */
};
struct automaton {
    struct nef_compile *c;
    const struct nef_regex *r;
    struct edge *edges;
    size_t count, room;
    uint32_t states;
    uint32_t *first; /* edges of a state, after sorting */
    uint8_t *useful; /* [3 * state + place]: leads to the end */
};

static void fail(struct automaton *a, nef_err err)
{
    if (err == NEF_E_LIMIT)
        nef_compile_fail(a->c, err, "\"pattern\" is too large (more than %u states)", NEF_PATTERN_NODES_MAX);
    else
        nef_compile_fail(a->c, err, "out of memory");
}

static uint32_t add_state(struct automaton *a)
{
    if (a->states >= NEF_PATTERN_NODES_MAX)
        fail(a, NEF_E_LIMIT);
    return a->states++;
}

static void add_edge(struct automaton *a, struct edge e)
{
    if (a->c->err != NEF_OK)
        return;
    if (a->count >= 4 * NEF_PATTERN_NODES_MAX)
        fail(a, NEF_E_LIMIT);
    else if (!nef_room((void **)&a->edges, &a->room, a->count, sizeof(*a->edges)))
        fail(a, NEF_E_NOMEM);
    else
        a->edges[a->count++] = e;
}

static void add_empty(struct automaton *a, uint32_t from, uint32_t to)
{
    add_edge(a, (struct edge){.from = from, .to = to, .kind = EDGE_EMPTY});
}

static uint32_t emit_node(struct automaton *a, uint32_t from, uint32_t number);

/* Recursion is as deep as groups: sequences and alternatives lean to the left, so those are unrolled. */
static uint32_t emit_repeat(struct automaton *a, uint32_t from, const struct nef_regex_node *node)
{
    uint32_t end = add_state(a), loop;

    for (uint32_t i = 0; i < node->min && a->c->err == NEF_OK; i++)
        from = emit_node(a, from, node->left);
    if (node->max == NEF_NO_BOUND) {
        loop = add_state(a);
        add_empty(a, from, loop);
        add_empty(a, emit_node(a, loop, node->left), loop);
        from = loop;
    }
    for (uint32_t i = node->min; i < node->max && node->max != NEF_NO_BOUND && a->c->err == NEF_OK; i++) {
        add_empty(a, from, end);
        from = emit_node(a, from, node->left);
    }
    add_empty(a, from, end);
    return end;
}

/* Parts of a left-leaning chain of KIND, in order; *out_list is malloc'd. */
static size_t chain(struct automaton *a, uint32_t number, enum nef_regex_kind kind, uint32_t **out_list)
{
    const struct nef_regex_node *nodes = a->r->nodes;
    size_t count = 1, at;
    uint32_t *list;

    for (uint32_t n = number; nodes[n].kind == kind; n = nodes[n].left)
        count++;
    list = malloc(count * sizeof(*list));
    *out_list = list;
    if (list == NULL) {
        fail(a, NEF_E_NOMEM);
        return 0;
    }
    for (at = count - 1; nodes[number].kind == kind; number = nodes[number].left)
        list[at--] = nodes[number].right;
    list[0] = number;
    return count;
}

static uint32_t emit_node(struct automaton *a, uint32_t from, uint32_t number)
{
    const struct nef_regex_node *node = &a->r->nodes[number];
    uint32_t to = from, *list;
    size_t count;

    if (a->c->err != NEF_OK || !nef_compile_work(a->c, 1))
        return from;
    switch (node->kind) {
    case NEF_REGEX_EMPTY:
        break;
    case NEF_REGEX_SET:
        to = add_state(a);
        add_edge(a, (struct edge){from, to, EDGE_SET, node->first, node->count});
        break;
    case NEF_REGEX_BEGIN:
    case NEF_REGEX_END:
        to = add_state(a);
        add_edge(a,
                 (struct edge){.from = from, .to = to, .kind = node->kind == NEF_REGEX_BEGIN ? EDGE_BEGIN : EDGE_END});
        break;
    case NEF_REGEX_THEN:
        count = chain(a, number, NEF_REGEX_THEN, &list);
        for (size_t i = 0; i < count; i++)
            to = emit_node(a, to, list[i]);
        free(list);
        break;
    case NEF_REGEX_OR:
        to = add_state(a);
        count = chain(a, number, NEF_REGEX_OR, &list);
        for (size_t i = 0; i < count; i++)
            add_empty(a, emit_node(a, from, list[i]), to);
        free(list);
        break;
    case NEF_REGEX_REPEAT:
        to = emit_repeat(a, from, node);
        break;
    }
    return to;
}

/* Where an edge leads from PLACE; PLACES: nowhere. */
static unsigned place_after(const struct edge *e, unsigned place)
{
    switch (e->kind) {
    case EDGE_EMPTY:
        return place;
    case EDGE_BEGIN:
        return place == NOTHING ? NOTHING : PLACES;
    case EDGE_END:
        return END;
    default:
        return place == END ? PLACES : SOME;
    }
}

static int by_from(const void *a, const void *b)
{
    const struct edge *x = a, *y = b;

    return (x->from > y->from) - (x->from < y->from);
}

/* Sort edges; find what leads to state FINAL. Edges mostly lead to higher numbers, so few rounds settle it. */
static bool prepare(struct automaton *a, uint32_t final)
{
    bool more = true;

    if (a->c->err != NEF_OK)
        return false;
    qsort(a->edges, a->count, sizeof(*a->edges), by_from);
    a->first = calloc(a->states + 1, sizeof(*a->first));
    a->useful = calloc(a->states, PLACES);
    if (a->first == NULL || a->useful == NULL) {
        fail(a, NEF_E_NOMEM);
        return false;
    }
    for (size_t i = 0; i < a->count; i++)
        a->first[a->edges[i].from + 1]++;
    for (uint32_t s = 0; s < a->states; s++)
        a->first[s + 1] += a->first[s];
    memset(a->useful + (size_t)PLACES * final, 1, PLACES);
    while (more) {
        more = false;
        if (!nef_compile_work(a->c, a->count))
            return false;
        for (size_t i = a->count; i-- > 0;)
            for (unsigned place = 0; place < PLACES; place++) {
                unsigned after = place_after(&a->edges[i], place);
                uint8_t *useful = &a->useful[(size_t)PLACES * a->edges[i].from + place];

                if (after != PLACES && !*useful && a->useful[(size_t)PLACES * a->edges[i].to + after]) {
                    *useful = 1;
                    more = true;
                }
            }
    }
    return true;
}

/* ---- the product ---- */

struct product {
    struct automaton *a;
    uint32_t *state; /* [(3 * state + place) * levels + level]: its NFA state; 0: none yet */
    uint32_t *todo;
    size_t todo_count, todo_room;
    uint32_t levels, min, max;
};

static uint32_t product_state(struct product *p, uint32_t state, unsigned place, uint32_t level)
{
    size_t at = ((size_t)PLACES * state + place) * p->levels + level;

    if (p->state[at] == 0) {
        if (!nef_room((void **)&p->todo, &p->todo_room, p->todo_count, sizeof(*p->todo))) {
            fail(p->a, NEF_E_NOMEM);
            return 0;
        }
        p->state[at] = nef_nfa_state(p->a->c); /* never 0: the rule has a start */
        p->todo[p->todo_count++] = (uint32_t)at;
    }
    return p->state[at];
}

static void emit_edge(struct product *p, uint32_t from, const struct edge *e, unsigned place, uint32_t level)
{
    static const struct nef_range any = {0, 0x10ffff};
    unsigned after = place_after(e, place);
    bool reads = e->kind == EDGE_SET || e->kind == EDGE_ANY;
    uint32_t next = reads ? NEF_MIN(level + 1, p->levels - 1) : level, to;

    if (after == PLACES || !p->a->useful[(size_t)PLACES * e->to + after] || (reads && level == p->max))
        return;
    to = product_state(p, e->to, after, next);
    if (!reads)
        nef_nfa_empty(p->a->c, from, to);
    else if (e->kind == EDGE_ANY)
        nef_nfa_characters(p->a->c, from, &any, 1, to);
    else
        nef_nfa_characters(p->a->c, from, p->a->r->ranges + e->first, e->count, to);
}

static void emit_product(struct automaton *a, uint32_t from, uint32_t start, uint32_t final, uint32_t min, uint32_t max,
                         uint32_t to)
{
    uint32_t levels =
        max != NEF_NO_BOUND ? NEF_MIN(max, NEF_GRAMMAR_NFA_MAX) + 1 : NEF_MIN(min, NEF_GRAMMAR_NFA_MAX) + 1;
    struct product p = {.a = a, .levels = levels, .min = min, .max = max};
    size_t size = (size_t)PLACES * a->states * levels;

    if (levels > NEF_GRAMMAR_NFA_MAX || size > 16u * NEF_GRAMMAR_NFA_MAX) {
        nef_compile_fail(a->c, NEF_E_LIMIT, "\"pattern\" with these lengths is too large");
        return;
    }
    p.state = calloc(size, sizeof(*p.state));
    if (p.state == NULL) {
        fail(a, NEF_E_NOMEM);
        return;
    }
    if (a->useful[(size_t)PLACES * start + NOTHING])
        nef_nfa_empty(a->c, from, product_state(&p, start, NOTHING, 0));
    while (p.todo_count > 0 && a->c->err == NEF_OK) {
        uint32_t at = p.todo[--p.todo_count], level = at % levels, state = at / levels / PLACES;
        unsigned place = at / levels % PLACES;

        if (state == final && level >= min)
            nef_nfa_empty(a->c, p.state[at], to);
        for (uint32_t i = a->first[state]; i < a->first[state + 1]; i++)
            emit_edge(&p, p.state[at], &a->edges[i], place, level);
    }
    free(p.state);
    free(p.todo);
}

void nef_regex_check(struct nef_compile *c, const char *pattern, size_t bytes)
{
    struct nef_regex r = {.c = c};

    (void)nef_regex_parse(&r, pattern, bytes); /* errors are in c */
    nef_regex_done(&r);
}

void nef_regex_emit(struct nef_compile *c, uint32_t from, const char *pattern, size_t bytes, uint32_t min, uint32_t max,
                    uint32_t to)
{
    struct nef_regex r = {.c = c};
    struct automaton a = {.c = c, .r = &r};
    uint32_t root = nef_regex_parse(&r, pattern, bytes), start, final, end;

    if (c->err != NEF_OK)
        goto out;
    start = add_state(&a);
    final = add_state(&a);
    add_edge(&a, (struct edge){.from = start, .to = start, .kind = EDGE_ANY});
    end = emit_node(&a, start, root);
    add_empty(&a, end, final);
    add_edge(&a, (struct edge){.from = final, .to = final, .kind = EDGE_ANY});
    if (prepare(&a, final))
        emit_product(&a, from, start, final, min, max, to);
out:
    free(a.edges);
    free(a.first);
    free(a.useful);
    nef_regex_done(&r);
}
