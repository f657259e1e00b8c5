/* Sets of configurations, stepped by bytes, and through a trie: what tokens come through from here?
 *
 * Nearly everywhere the set is one configuration in a state that has only edges. A walk keeps such a set in its level
 * and steps it by one look-up; only where calls, ends or depth matter it is an array. Frames are interned, so equal
 * stacks have equal numbers and configurations are compared by value; those that a walk makes are cut off after it. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/grammar_internal.h"

#define EXITS_MAX (1u << 18) /* of one state; a state that ends anywhere would have some per node of the trie */

struct nef_level {       /* of a walk: the set before a node of this depth */
    const uint32_t *row; /* of state, if it has one and counts nothing */
    uint32_t state;      /* the only configuration, or NEF_NO_STATE: count of them at begin */
    uint32_t stack, chars;
    uint32_t count;
    size_t begin;
};

nef_err nef_walker_init(struct nef_walker *w, const struct nef_machine *machine)
{
    *w = (struct nef_walker){.machine = machine, .table_size = 64};
    w->table = calloc(w->table_size, sizeof(*w->table));
    if (w->table == NULL || !nef_room((void **)&w->frames, &w->frame_room, 0, sizeof(*w->frames))) {
        nef_walker_done(w);
        return NEF_E_NOMEM;
    }
    /* The bottom. Only masks of shared states have a string right on it, and they count its characters. */
    w->frames[0] = (struct nef_frame){.call = NEF_NO_STATE, .max = NEF_NO_BOUND - 1};
    w->frame_count = 1;
    return NEF_OK;
}

void nef_walker_done(struct nef_walker *w)
{
    free(w->frames);
    free(w->table);
    free(w->configs);
    free(w->levels);
    free(w->items);
    free(w->pairs);
    *w = (struct nef_walker){0};
}

/* ---- frames ---- */

static uint32_t slot_of(const struct nef_walker *w, uint32_t parent, uint32_t call)
{
    uint32_t at = (uint32_t)(((uint64_t)parent * 0x9e3779b97f4a7c15ull + (uint64_t)call * 0xc2b2ae3d27d4eb4full) >> 32);

    for (at &= w->table_size - 1; w->table[at] != 0; at = (at + 1) & (w->table_size - 1))
        if (w->frames[w->table[at]].parent == parent && w->frames[w->table[at]].call == call)
            break;
    return at;
}

void nef_walker_rehash(struct nef_walker *w)
{
    for (uint32_t i = 1; i < w->frame_count; i++)
        w->table[slot_of(w, w->frames[i].parent, w->frames[i].call)] = i;
}

static bool grow_table(struct nef_walker *w)
{
    uint32_t *table;

    if (2 * w->frame_count < w->table_size)
        return true;
    table = calloc(2 * (size_t)w->table_size, sizeof(*table));
    if (table == NULL)
        return false;
    free(w->table);
    w->table = table;
    w->table_size *= 2;
    nef_walker_rehash(w);
    return true;
}

/* The frame of CALL made with PARENT on the stack; 0: too deep, or no memory. */
static uint32_t push(struct nef_walker *w, uint32_t parent, uint32_t call)
{
    const struct nef_call *c = &w->machine->calls[call];
    const struct nef_callee *callee = &w->machine->callees[c->callee];
    uint32_t depth = w->frames[parent].depth, at;

    if (depth + c->weight + w->machine->states[callee->start].height > NEF_GRAMMAR_DEPTH_MAX ||
        depth + w->machine->states[c->to].height > NEF_GRAMMAR_DEPTH_MAX)
        return 0;
    w->need = NEF_MAX(w->need, depth + w->machine->states[c->to].height);
    at = slot_of(w, parent, call);
    if (w->table[at] != 0)
        return w->table[at];
    if (!grow_table(w) || !nef_room((void **)&w->frames, &w->frame_room, w->frame_count, sizeof(*w->frames))) {
        w->failed = true;
        return 0;
    }
    w->frames[w->frame_count] = (struct nef_frame){parent, call, depth + c->weight, callee->min, callee->max};
    w->table[slot_of(w, parent, call)] = w->frame_count;
    return w->frame_count++;
}

/* In the opposite order of their making, each leaves the table as it was before it. A table that grew meanwhile was
 * filled in the same order. */
void nef_walker_cut(struct nef_walker *w, uint32_t count)
{
    while (w->frame_count > count) {
        w->frame_count--;
        w->table[slot_of(w, w->frames[w->frame_count].parent, w->frames[w->frame_count].call)] = 0;
    }
}

uint32_t nef_walker_depth(const struct nef_walker *w, uint32_t frame)
{
    return w->frames[frame].depth;
}

struct nef_config nef_walker_pop(const struct nef_walker *w, struct nef_config c)
{
    const struct nef_frame *frame = &w->frames[c.stack];

    NEF_ASSERT(c.stack != 0);
    return (struct nef_config){w->machine->calls[frame->call].to, frame->parent, 0};
}

/* ---- sets ---- */

static void append(struct nef_walker *w, size_t begin, struct nef_config c)
{
    const struct nef_state *s = &w->machine->states[c.state];

    while (s->flags == NEF_STATE_FINAL && s->edges == 0 && c.stack != 0) { /* nothing but its end */
        c = nef_walker_pop(w, c);
        s = &w->machine->states[c.state];
    }
    for (size_t i = begin; i < w->count; i++)
        if (w->configs[i].state == c.state && w->configs[i].stack == c.stack && w->configs[i].chars == c.chars)
            return;
    if (w->count - begin >= NEF_GRAMMAR_CONFIGS_MAX) /* what the others allow is still valid */
        return;
    if (!nef_room((void **)&w->configs, &w->room, w->count, sizeof(*w->configs))) {
        w->failed = true;
        return;
    }
    w->need = NEF_MAX(w->need, w->frames[c.stack].depth + s->height);
    w->configs[w->count++] = c;
}

void nef_walker_add(struct nef_walker *w, size_t begin, struct nef_config c)
{
    size_t at = w->count;

    for (append(w, begin, c); at < w->count; at++) { /* grows meanwhile */
        struct nef_config from = w->configs[at];
        const struct nef_state *s = &w->machine->states[from.state];

        if ((s->flags & NEF_STATE_FINAL) != 0 && from.stack != 0)
            append(w, begin, nef_walker_pop(w, from));
        for (uint32_t i = s->call; i < s->call + s->calls; i++) {
            uint32_t frame = push(w, from.stack, i);

            if (frame != 0)
                append(w, begin, (struct nef_config){w->machine->callees[w->machine->calls[i].callee].start, frame, 0});
        }
    }
}

/* In a string, between characters: may BYTE come, by the string's bounds? */
static bool count_char(const struct nef_walker *w, uint32_t stack, uint8_t byte, uint32_t *chars)
{
    const struct nef_frame *frame = &w->frames[stack];

    if (byte == '"')
        return *chars >= frame->min;
    if (frame->max == NEF_NO_BOUND) {
        *chars += *chars < frame->min; /* no more than is asked for, so that equal configurations look equal */
        return true;
    }
    return (*chars)++ < frame->max;
}

size_t nef_walker_step(struct nef_walker *w, size_t begin, size_t end, uint8_t byte)
{
    size_t next = w->count;

    for (size_t i = begin; i < end; i++) {
        struct nef_config c = w->configs[i];
        uint32_t to = nef_machine_step(w->machine, c.state, byte);

        if (to == NEF_NO_STATE)
            continue;
        if ((w->machine->states[c.state].flags & NEF_STATE_COUNTS) != 0 && !count_char(w, c.stack, byte, &c.chars))
            continue;
        if (w->frames[c.stack].depth + w->machine->states[to].height > NEF_GRAMMAR_DEPTH_MAX)
            continue;
        c.state = to;
        nef_walker_add(w, next, c);
    }
    return next;
}

/* ---- walks ---- */

static bool enough_levels(struct nef_walker *w, uint32_t count)
{
    struct nef_level *levels;

    if (count <= w->level_count)
        return true;
    levels = realloc(w->levels, count * sizeof(*levels));
    if (levels == NULL) {
        w->failed = true;
        return false;
    }
    w->levels = levels;
    w->level_count = count;
    return true;
}

static void give_pair(struct nef_walker *w, uint32_t token, uint32_t chars)
{
    for (int i = 0; i < 2; i++) {
        if (!nef_room((void **)&w->pairs, &w->pair_room, w->pair_count, sizeof(*w->pairs))) {
            w->failed = true;
            return;
        }
        w->pairs[w->pair_count++] = i == 0 ? token : chars;
    }
}

/* Tokens that end at node AT came through. */
static void give(struct nef_walker *w, const struct nef_walk *walk, uint32_t at, uint32_t chars)
{
    const struct nef_trie *trie = walk->trie;

    for (uint32_t i = nef_node_token(trie->nodes[at]); i < nef_node_token(trie->nodes[at + 1]); i++) {
        uint32_t token = trie->tokens[i];

        if (trie->marks != NULL && (trie->marks[i] < walk->low || trie->marks[i] > walk->high))
            continue;
        if (walk->words != NULL)
            walk->words[token / 32] |= 1u << token % 32;
        if (walk->pairs)
            give_pair(w, token, chars);
    }
}

/* The rule that was begun with may end behind node AT: what remains of longer tokens is for its caller. */
static void collect(struct nef_walker *w, const struct nef_walk *walk, uint32_t at, uint32_t chars)
{
    const struct nef_grammar_vocab *v = walk->collect;
    const nef_trie_node *nodes = walk->trie->nodes;
    uint32_t end = nef_node_token(nodes[at + nef_node_size(nodes[at])]);

    for (uint32_t i = nef_node_token(nodes[at + 1]); i < end; i++) {
        uint32_t token = walk->trie->tokens[i], begin = v->offsets[token] + nef_node_depth(nodes[at]) + 1;

        if (w->item_count >= EXITS_MAX) {
            w->crowded = true;
            return;
        }
        if (!nef_room((void **)&w->items, &w->item_room, w->item_count, sizeof(*w->items))) {
            w->failed = true;
            return;
        }
        w->items[w->item_count++] =
            (struct nef_trie_item){v->text + begin, v->offsets[token + 1] - begin, token, chars};
    }
}

static void collect_ends(struct nef_walker *w, const struct nef_walk *walk, size_t begin, uint32_t at)
{
    for (size_t i = begin; i < w->count; i++)
        if (w->configs[i].stack == 0 && (w->machine->states[w->configs[i].state].flags & NEF_STATE_FINAL) != 0)
            collect(w, walk, at, w->configs[i].chars);
}

static const uint32_t *row_of(const struct nef_machine *m, uint32_t state)
{
    const struct nef_state *s = &m->states[state];

    return s->row != NEF_NO_STATE && (s->flags & NEF_STATE_COUNTS) == 0 ? m->rows + (size_t)s->row * 256 : NULL;
}

/* The set from BEGIN to the end of the array. */
static struct nef_level level_of(const struct nef_walker *w, size_t begin)
{
    struct nef_level level = {.state = NEF_NO_STATE, .begin = begin, .count = (uint32_t)(w->count - begin)};
    const struct nef_config *c = &w->configs[begin];

    if (level.count == 1 && (w->machine->states[c->state].flags & (NEF_STATE_FINAL | NEF_STATE_CALLS)) == 0)
        level = (struct nef_level){row_of(w->machine, c->state), c->state, c->stack, c->chars, 0, begin};
    return level;
}

/* The set behind LEVEL and BYTE, appended; returns its begin. */
static size_t step_level(struct nef_walker *w, const struct nef_level *level, uint8_t byte)
{
    w->count = level->begin + level->count;
    if (level->state == NEF_NO_STATE)
        return nef_walker_step(w, level->begin, w->count, byte);
    if (!nef_room((void **)&w->configs, &w->room, w->count, sizeof(*w->configs))) {
        w->failed = true;
        return w->count;
    }
    w->configs[w->count++] = (struct nef_config){level->state, level->stack, level->chars};
    return nef_walker_step(w, w->count - 1, w->count, byte);
}

/* One node the long way. False: nothing comes through, so its subtree is passed over. */
static bool visit(struct nef_walker *w, const struct nef_walk *walk, uint32_t at)
{
    const struct nef_machine *m = w->machine;
    nef_trie_node node = walk->trie->nodes[at];
    struct nef_level *level = &w->levels[nef_node_depth(node)];
    uint8_t byte = nef_node_byte(node), flags;
    size_t set;

    if (level->state != NEF_NO_STATE) {
        uint32_t chars = level->chars, next = nef_machine_step(m, level->state, byte);

        if (next == NEF_NO_STATE ||
            ((m->states[level->state].flags & NEF_STATE_COUNTS) != 0 && !count_char(w, level->stack, byte, &chars)))
            return false;
        if ((m->states[next].flags & (NEF_STATE_FINAL | NEF_STATE_CALLS)) == 0 &&
            m->states[next].height <= m->states[level->state].height) { /* as deep as it was */
            give(w, walk, at, chars);
            level[1] = (struct nef_level){row_of(m, next), next, level->stack, chars, 0, level->begin};
            return true;
        }
    }
    set = step_level(w, level, byte);
    if (set == w->count)
        return false;
    flags = m->states[w->configs[set].state].flags;
    give(w, walk, at, w->configs[set].chars | ((flags & NEF_STATE_FINAL) != 0 ? NEF_PAIR_CLOSES : 0));
    if (walk->collect != NULL && nef_node_size(node) > 1)
        collect_ends(w, walk, set, at);
    level[1] = level_of(w, set);
    return true;
}

/* The short way: nodes from *at on, as long as they lead from one plain state to another; one look-up each. Only for
 * tries without marks, where pairs aren't asked for. */
static void rush(const struct nef_machine *m, const struct nef_walk *walk, struct nef_level *levels, uint32_t *at)
{
    const nef_trie_node *nodes = walk->trie->nodes; /* all in locals: words could alias any of it */
    const uint32_t *tokens = walk->trie->tokens, *rows = m->rows;
    const struct nef_state *states = m->states;
    uint32_t *words = walk->words, i = *at, end = walk->trie->count;
    nef_trie_node skip = walk->no_plain ? NEF_NODE_PLAIN : 0;

    while (i < end) {
        nef_trie_node node = nodes[i];
        struct nef_level *level = &levels[nef_node_depth(node)];
        uint32_t next, first, more, row;

        if (level->row == NULL)
            break;
        next = level->row[nef_node_byte(node)];
        if (next == NEF_NO_STATE || (node & skip) != 0) {
            i += nef_node_size(node);
            continue;
        }
        if ((next & NEF_ROW_SPECIAL) != 0)
            break;
        first = nef_node_token(node);
        more = nef_node_token(nodes[i + 1]) - first;
        words[tokens[first] / 32] |= (uint32_t)(more > 0) << tokens[first] % 32;
        for (uint32_t k = 1; k < more; k++) /* hardly ever: tokens with equal bytes */
            words[tokens[first + k] / 32] |= 1u << tokens[first + k] % 32;
        row = states[next].row;
        level[1].row = row != NEF_NO_STATE ? rows + (size_t)row * 256 : NULL;
        level[1].state = next;
        level[1].stack = level->stack;
        level[1].chars = level->chars;
        level[1].count = 0;
        level[1].begin = level->begin;
        i++;
    }
    *at = i;
}

void nef_walker_walk(struct nef_walker *w, const struct nef_walk *walk, size_t begin, size_t end)
{
    const struct nef_trie *trie = walk->trie;
    bool simple = trie->marks == NULL && !walk->pairs && walk->words != NULL;

    NEF_ASSERT(end == w->count);
    if (begin == end || trie->count == 0 || !enough_levels(w, trie->levels + 1))
        return;
    w->levels[0] = level_of(w, begin);
    for (uint32_t i = 0; i < trie->count && !w->failed;) {
        if (simple)
            rush(w->machine, walk, w->levels, &i);
        if (i < trie->count)
            i += !(walk->no_plain && (trie->nodes[i] & NEF_NODE_PLAIN) != 0) && visit(w, walk, i)
                     ? 1
                     : nef_node_size(trie->nodes[i]);
    }
    w->count = end;
}
