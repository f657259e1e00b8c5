/* Tokens that a state allows. After XGrammar (Dong et al., "XGrammar: Flexible and Efficient Structured Generation
 * Engine for Large Language Models", 2024): nearly all tokens are decided by the state alone, whatever is on the
 * stack, so they are found once and kept as a mask. The others end the state's rule on the way; what remains of them
 * is kept as a small trie, which is walked with the real stack each time. A configuration set's mask is the union of
 * its members'.
 *
 * A mask holds what begins with an edge of its state: calls are members of the set themselves. For states inside a
 * string, where bounds decide by the number of characters, tokens are kept in that order, with the masks of those
 * that begin at most 1, 2, 4 .. 128.
 *
 * Kept masks are limited, per grammar and for all together; beyond, and where the limit of depth could matter, the
 * whole vocabulary is walked with the real stack. Masks of one state are made by whoever comes first; if two come at
 * once, one is thrown away. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/grammar_internal.h"

#define LIST_MAX        2048u /* more tokens are kept as words */
#define PLAIN_PAIRS_MAX 64u   /* enough for searches; a pattern that counts characters has more */

void nef_mask_free(struct nef_mask *mask)
{
    if (mask == NULL)
        return;
    free(mask->words);
    free(mask->list);
    free(mask->upto);
    free(mask->closers);
    for (unsigned i = 0; i < NEF_MASK_STEPS; i++)
        free(mask->steps[i]);
    nef_trie_free(&mask->exits);
    free(mask);
}

static void set_bit(uint32_t *words, uint32_t token)
{
    words[token / 32] |= 1u << token % 32;
}

static bool get_bit(const uint32_t *words, uint32_t token)
{
    return (words[token / 32] >> token % 32 & 1) != 0;
}

static void add_words(uint32_t *restrict to, const uint32_t *restrict from, uint32_t words)
{
    for (uint32_t i = 0; i < words; i++)
        to[i] |= from[i];
}

/* ---- making ---- */

/* Few tokens become a list. */
static bool keep_list(const struct nef_grammar_vocab *v, struct nef_mask *mask)
{
    uint32_t count = 0, at = 0;

    for (uint32_t i = 0; i < v->words; i++)
        count += (uint32_t)__builtin_popcount(mask->words[i]);
    mask->bytes += (size_t)v->words * 4;
    if (count > LIST_MAX)
        return true;
    mask->list = malloc((count + 1) * sizeof(*mask->list));
    if (mask->list == NULL)
        return false;
    for (uint32_t i = 0; i < v->words; i++)
        for (uint32_t bits = mask->words[i]; bits != 0; bits &= bits - 1)
            mask->list[at++] = i * 32 + (uint32_t)__builtin_ctz(bits);
    mask->count = count;
    mask->bytes += (size_t)count * 4 - (size_t)v->words * 4;
    free(mask->words);
    mask->words = NULL;
    return true;
}

/* Of a state in a string: tokens by the characters that they begin. */
static bool keep_by_chars(const struct nef_grammar_vocab *v, struct nef_mask *mask, const uint32_t *pairs, size_t count)
{
    uint32_t most = 0;

    for (size_t i = 0; i < count; i += 2) {
        most = NEF_MAX(most, pairs[i + 1] & ~NEF_PAIR_CLOSES);
        mask->closer_count += (pairs[i + 1] & NEF_PAIR_CLOSES) != 0;
    }
    mask->count = (uint32_t)(count / 2) - mask->closer_count;
    mask->upto_count = most + 1;
    mask->upto = calloc(most + 2, sizeof(*mask->upto));
    mask->list = malloc((mask->count + 1) * sizeof(*mask->list));
    mask->closers = malloc((2 * mask->closer_count + 1) * sizeof(*mask->closers));
    mask->bytes += (mask->upto_count + (size_t)mask->count + 2 * (size_t)mask->closer_count) * 4;
    if (mask->upto == NULL || mask->list == NULL || mask->closers == NULL)
        return false;
    for (size_t i = 0; i < count; i += 2) /* counting sort: upto[n + 1] is where n begins, then where it ends */
        if ((pairs[i + 1] & NEF_PAIR_CLOSES) == 0)
            mask->upto[pairs[i + 1] + 1]++;
    for (uint32_t n = 1; n <= most + 1; n++)
        mask->upto[n] += mask->upto[n - 1];
    for (size_t i = 0, closer = 0; i < count; i += 2)
        if ((pairs[i + 1] & NEF_PAIR_CLOSES) == 0) {
            mask->list[mask->upto[pairs[i + 1]]++] = pairs[i];
        } else {
            mask->closers[closer++] = pairs[i];
            mask->closers[closer++] = pairs[i + 1] & ~NEF_PAIR_CLOSES;
        }
    for (uint32_t i = 0; i < NEF_MASK_STEPS && mask->count > LIST_MAX; i++) {
        mask->steps[i] = calloc(v->words, sizeof(*mask->steps[i]));
        if (mask->steps[i] == NULL)
            return false;
        for (uint32_t k = 0; k < mask->upto[NEF_MIN(1u << i, most)]; k++)
            set_bit(mask->steps[i], mask->list[k]);
        mask->bytes += (size_t)v->words * 4;
    }
    return true;
}

/* Exits of tokens that come through anyway say nothing new. */
static nef_err keep_exits(struct nef_walker *w, struct nef_mask *mask)
{
    size_t count = 0;

    for (size_t i = 0; i < w->item_count; i++)
        if (!get_bit(mask->words, w->items[i].token))
            w->items[count++] = w->items[i];
    return nef_trie_build(w->items, count, true, &mask->exits);
}

/* Does STATE allow any plain text of a string, whatever its length? Then all states that such text leads to do; a few
 * pairs of a state and how far a character is are tried. *out_height: the largest on the way. */
static bool allows_plain(const struct nef_grammar_vocab *v, const struct nef_machine *m, uint32_t state,
                         uint32_t *out_height)
{
    struct {
        uint32_t state, in;
    } pairs[PLAIN_PAIRS_MAX];
    uint32_t count = 1, height = 0;

    pairs[0].state = state;
    pairs[0].in = v->builtin.callees[NEF_BUILTIN_STRING].start;
    for (uint32_t i = 0; i < count; i++) {
        if ((m->states[pairs[i].state].flags & (NEF_STATE_FINAL | NEF_STATE_CALLS | NEF_STATE_COUNTS)) != 0)
            return false;
        height = NEF_MAX(height, m->states[pairs[i].state].height);
        for (unsigned byte = 0x20; byte < 0x100; byte++) {
            uint32_t in = nef_machine_step(&v->builtin, pairs[i].in, (uint8_t)byte), to, k = 0;

            if (in == NEF_NO_STATE || byte == '"' || byte == '\\')
                continue;
            to = nef_machine_step(m, pairs[i].state, (uint8_t)byte);
            if (to == NEF_NO_STATE)
                return false;
            while (k < count && (pairs[k].state != to || pairs[k].in != in))
                k++;
            if (k == PLAIN_PAIRS_MAX)
                return false;
            if (k < count)
                continue;
            pairs[count].state = to;
            pairs[count++].in = in;
        }
    }
    *out_height = height;
    return true;
}

/* *out_mask NULL: the state has too many exits to keep them. W is at rest: only its kept frames. */
static nef_err make(const struct nef_grammar_vocab *v, struct nef_walker *w, uint32_t state, struct nef_mask **out_mask)
{
    bool string = (w->machine->states[state].flags & NEF_STATE_STRING) != 0;
    struct nef_mask *mask = calloc(1, sizeof(*mask));
    size_t begin = w->count;
    uint32_t frames = w->frame_count, height = 0;
    struct nef_walk walk = {.trie = &v->trie, .collect = v, .pairs = string};
    nef_err err = NEF_E_NOMEM;

    w->need = 0;
    w->item_count = w->pair_count = 0;
    w->crowded = false;
    if (mask == NULL || !nef_room((void **)&w->configs, &w->room, w->count, sizeof(*w->configs)))
        goto out;
    mask->words = calloc(v->words, sizeof(*mask->words));
    if (mask->words == NULL)
        goto out;
    walk.words = mask->words;
    if (!string && allows_plain(v, w->machine, state, &height)) {
        add_words(mask->words, v->plain, v->words);
        walk.no_plain = true;
    }
    w->configs[w->count++] = (struct nef_config){state, 0, 0}; /* alone: what it calls has a mask of its own */
    nef_walker_walk(w, &walk, begin, w->count);
    if (w->failed)
        goto out;
    if (w->crowded) {
        *out_mask = NULL;
        err = NEF_OK;
        goto out;
    }
    mask->need = NEF_MAX(w->need, height);
    err = keep_exits(w, mask);
    if (err == NEF_OK && !(string ? keep_by_chars(v, mask, w->pairs, w->pair_count) : keep_list(v, mask)))
        err = NEF_E_NOMEM;
    mask->bytes += sizeof(*mask) + nef_trie_bytes(&mask->exits) + (string ? (size_t)v->words * 4 : 0);
    if (err == NEF_OK) {
        *out_mask = mask;
        mask = NULL;
    }
out:
    nef_mask_free(mask);
    w->count = begin;
    nef_walker_cut(w, frames);
    free(w->items); /* large, and seldom needed */
    free(w->pairs);
    w->items = NULL;
    w->pairs = NULL;
    w->item_room = w->pair_room = 0;
    return err;
}

nef_err nef_mask_builtins(struct nef_grammar_vocab *v)
{
    struct nef_walker w;
    nef_err err = nef_walker_init(&w, &v->builtin);

    for (uint32_t state = 0; state < v->builtin.state_count && err == NEF_OK; state++) {
        err = make(v, &w, state, &v->masks[state]);
        if (err == NEF_OK && v->masks[state] == NULL)
            err = NEF_E_LIMIT; /* no vocabulary of words has so many tokens with quotes */
    }
    nef_walker_done(&w);
    return err;
}

/* The kept mask of a state, made if there is room for it; else NULL. */
static nef_err find(struct nef_grammar *g, struct nef_walker *w, uint32_t state, const struct nef_mask **out_mask)
{
    struct nef_mask *mask, *other = NULL;
    nef_err err;

    if (state < g->vocab->builtin.state_count) {
        *out_mask = g->vocab->masks[state];
        return NEF_OK;
    }
    mask = atomic_load_explicit(&g->masks[state], memory_order_acquire); /* pairs with the exchange below */
    if (mask == NULL && atomic_load_explicit(&g->cached, memory_order_relaxed) < NEF_GRAMMAR_CACHE_MAX &&
        atomic_load_explicit(&g->vocab->cached, memory_order_relaxed) < NEF_GRAMMAR_CACHES_MAX) {
        err = make(g->vocab, w, state, &mask);
        if (err != NEF_OK)
            return err;
        if (mask != NULL && !atomic_compare_exchange_strong_explicit(&g->masks[state], &other, mask,
                                                                     memory_order_release, memory_order_acquire)) {
            nef_mask_free(mask);
            mask = other;
        } else if (mask != NULL) {
            (void)atomic_fetch_add_explicit(&g->cached, mask->bytes, memory_order_relaxed);
            (void)atomic_fetch_add_explicit(&g->vocab->cached, mask->bytes, memory_order_relaxed);
        }
    }
    *out_mask = mask;
    return NEF_OK;
}

nef_err nef_grammar_warm(struct nef_grammar *g, uint32_t count)
{
    const struct nef_mask *mask;
    struct nef_walker w;
    nef_err err = nef_walker_init(&w, &g->machine);

    for (uint32_t state = g->vocab->builtin.state_count; state < g->machine.state_count && count > 0 && err == NEF_OK;
         state++)
        if (g->machine.states[state].row != NEF_NO_STATE) {
            err = find(g, &w, state, &mask);
            w.failed = false;
            count--;
        }
    nef_walker_done(&w);
    return err;
}

/* ---- using ---- */

/* Tokens of a string's state that begin at most MAX characters, and those that close it after MIN to MAX. */
static void add_by_chars(const struct nef_mask *mask, uint32_t min, uint32_t max, uint32_t words_count, uint32_t *words)
{
    uint32_t done = 0, end = mask->upto[NEF_MIN(max, mask->upto_count - 1)];

    for (uint32_t i = NEF_MASK_STEPS; i-- > 0;)
        if (mask->steps[i] != NULL && 1u << i <= max) {
            add_words(words, mask->steps[i], words_count);
            done = mask->upto[NEF_MIN(1u << i, mask->upto_count - 1)];
            break;
        }
    for (; done < end; done++)
        set_bit(words, mask->list[done]);
    for (uint32_t i = 0; i < 2 * mask->closer_count; i += 2)
        if (mask->closers[i + 1] >= min && mask->closers[i + 1] <= max)
            set_bit(words, mask->closers[i]);
}

/* Walk TRIE with the configuration FROM; with what it calls, if CALLS. */
static nef_err walk_from(struct nef_walker *w, struct nef_config from, bool calls, const struct nef_walk *walk)
{
    size_t begin = w->count;
    uint32_t frames = w->frame_count;
    bool failed;

    if (calls)
        nef_walker_add(w, begin, from);
    else if (nef_room((void **)&w->configs, &w->room, w->count, sizeof(*w->configs)))
        w->configs[w->count++] = from;
    else
        w->failed = true;
    if (!w->failed)
        nef_walker_walk(w, walk, begin, w->count);
    failed = w->failed;
    w->failed = false;
    w->count = begin;
    nef_walker_cut(w, frames);
    return failed ? NEF_E_NOMEM : NEF_OK;
}

nef_err nef_mask_add(struct nef_grammar *g, struct nef_walker *w, struct nef_config c, uint32_t *words)
{
    struct nef_walk walk = {.words = words, .high = UINT32_MAX};
    const struct nef_frame frame = w->frames[c.stack];
    const struct nef_mask *mask = NULL;
    bool bounded = false;
    nef_err err;

    if (g->machine.states[c.state].edges == 0)
        return NEF_OK;
    err = find(g, w, c.state, &mask);
    if (err != NEF_OK)
        return err;
    if (mask == NULL || frame.depth + mask->need > NEF_GRAMMAR_DEPTH_MAX) {
        walk.trie = &g->vocab->trie;
        return walk_from(w, c, false, &walk);
    }
    if ((g->machine.states[c.state].flags & NEF_STATE_STRING) != 0)
        bounded = frame.min > 0 || frame.max != NEF_NO_BOUND;
    if (bounded) {
        walk.low = frame.min > c.chars ? frame.min - c.chars : 0;
        walk.high = frame.max != NEF_NO_BOUND ? frame.max - c.chars : UINT32_MAX;
        add_by_chars(mask, walk.low, walk.high, g->vocab->words, words);
    } else if (mask->words != NULL) {
        add_words(words, mask->words, g->vocab->words);
    } else {
        for (uint32_t i = 0; i < mask->count; i++)
            set_bit(words, mask->list[i]);
    }
    if (mask->exits.count == 0 || c.stack == 0)
        return NEF_OK;
    walk.trie = &mask->exits;
    return walk_from(w, nef_walker_pop(w, c), true, &walk);
}
