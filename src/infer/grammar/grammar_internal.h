/* Shared by the files of the grammar; nobody else includes it (but its tests).
 *
 *   grammar.c       options to a root rule; errors; life of a grammar
 *   schema.c        a JSON Schema checked, its nodes numbered
 *   alternatives.c  what a place of a schema may hold, flattened
 *   emit.c          nodes of a schema to NFA edges; rules
 *   string.c, number.c, regex_parse.c, regex.c   the same for strings, numbers, patterns
 *   nfa.c           a rule under construction
 *   dfa.c           NFA to states of the machine
 *   machine.c       the machine; which states lead anywhere
 *   builtin.c       states that all grammars share
 *   trie.c, vocab.c tokens
 *   walk.c          sets of configurations, stepped by bytes and through tries
 *   mask.c          tokens of a state, kept
 *   matcher.c       one sequence
 *
 * The machine is a deterministic automaton over bytes with calls: a state has edges (byte range, state), calls
 * (callee, state to return to), and may be final, where the callee returns. A configuration is a state and a stack
 * of calls; because a state may have edges and calls at once, there is a set of configurations, nearly always one to
 * three. A rule is made wherever a schema refers to something that is referred to twice (so recursion is a call);
 * everything else is inlined, and alternatives with a common start are one path.
 *
 * Depth is counted in containers of the JSON: a call has the weight of those that were opened in the rule around it.
 * A state has a height, the depth that the shortest way to the end of its rule needs. Only configurations whose
 * depth and height together are at most NEF_GRAMMAR_DEPTH_MAX exist, and no state from which no end can be reached;
 * so every configuration can be completed. */
#ifndef NEF_INFER_GRAMMAR_INTERNAL_H
#define NEF_INFER_GRAMMAR_INTERNAL_H

#include <stdatomic.h>
#include "base/buf.h"
#include "base/limits.h"
#include "infer/grammar/grammar.h"

#define NEF_NO_STATE UINT32_MAX
#define NEF_NO_BOUND UINT32_MAX

/* ---- tries of tokens (trie.c) ---- */

/* A node: its byte (bits 56 up), depth, the first level being 0 (45), whether its subtree is plain text (44; vocab.c),
 * nodes of its subtree with itself (21), and its tokens, which are tokens[this number .. that of the next node) (0). */
typedef uint64_t nef_trie_node;
#define NEF_TRIE_DEPTH_MAX  (1u << 11)
#define NEF_TRIE_NODES_MAX  (1u << 23)
#define NEF_TRIE_TOKENS_MAX (1u << 21)
#define NEF_NODE_PLAIN      (1ull << 44)
static inline uint8_t nef_node_byte(nef_trie_node node)
{
    return (uint8_t)(node >> 56);
}
static inline uint32_t nef_node_depth(nef_trie_node node)
{
    return (uint32_t)(node >> 45) & (NEF_TRIE_DEPTH_MAX - 1);
}
static inline uint32_t nef_node_size(nef_trie_node node)
{
    return (uint32_t)(node >> 21) & (NEF_TRIE_NODES_MAX - 1);
}
static inline uint32_t nef_node_token(nef_trie_node node)
{
    return (uint32_t)node & (NEF_TRIE_TOKENS_MAX - 1);
}
struct nef_trie {         /* in preorder, siblings ascending; zeroed is empty */
    nef_trie_node *nodes; /* count, and one more that ends the last one's tokens */
    uint32_t count;
    uint32_t levels;  /* depth of the deepest node and 1 */
    uint32_t *tokens; /* and one more, which isn't used */
    uint32_t *marks;  /* per token; NULL: none */
};
struct nef_trie_item {
    const uint8_t *text;
    uint32_t bytes; /* at least 1 */
    uint32_t token, mark;
};
/* Sorts ITEMS. Errors: NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_trie_build(struct nef_trie_item *items, size_t count, bool marks, struct nef_trie *out_trie);
void nef_trie_free(struct nef_trie *t);
size_t nef_trie_bytes(const struct nef_trie *t);

/* ---- the machine ---- */

/* Of a state. COUNTS: inside a string, between characters: '"' ends it, any other byte begins a character. FREE: in
 * free text, where a lazy grammar may end. */
enum {
    NEF_STATE_FINAL = 1, /* the rule may end here */
    NEF_STATE_CALLS = 2,
    NEF_STATE_COUNTS = 4,
    NEF_STATE_STRING = 8, /* inside a string */
    NEF_STATE_FREE = 16,
};
#define NEF_ROW_SPECIAL (1u << 31)
struct nef_edge {
    uint32_t to;
    uint8_t low, high;
    uint16_t zero;
};
struct nef_call {
    uint32_t callee;
    uint32_t to;     /* where the callee returns to */
    uint32_t weight; /* containers opened since the rule began */
};
struct nef_state {
    uint32_t edge, call; /* first of each */
    uint32_t row; /* 256 targets at rows[256 * row], or NEF_NO_STATE: the edges are few. NEF_ROW_SPECIAL is added to
                   * a target that is final, calls or counts, or whose height is larger than this state's */
    uint16_t edges, calls;
    uint8_t flags;
    uint8_t height;
};
struct nef_callee {
    uint32_t start;
    uint32_t min, max; /* characters of a string; max NEF_NO_BOUND: any number */
};
struct nef_machine {
    struct nef_state *states;
    struct nef_edge *edges;
    struct nef_call *calls;
    struct nef_callee *callees;
    uint32_t *rows;
    uint32_t state_count, edge_count, call_count, callee_count, row_count;
    size_t state_room, edge_room, call_room, callee_room, row_room;
};
static inline uint32_t nef_machine_step(const struct nef_machine *m, uint32_t at, uint8_t byte)
{
    const struct nef_state *s = &m->states[at];

    if (s->row != NEF_NO_STATE) {
        uint32_t to = m->rows[(size_t)s->row * 256 + byte];

        return to != NEF_NO_STATE ? to & ~NEF_ROW_SPECIAL : to;
    }
    for (const struct nef_edge *e = m->edges + s->edge, *end = e + s->edges; e < end; e++)
        if (byte <= e->high)
            return byte >= e->low ? e->to : NEF_NO_STATE;
    return NEF_NO_STATE;
}
void nef_machine_free(struct nef_machine *m);
size_t nef_machine_bytes(const struct nef_machine *m);
/* Room for one more element of SIZE in *array, which has COUNT; room grows by doubling. False: no memory. */
bool nef_room(void **array, size_t *room, size_t count, size_t size);

/* ---- states that all grammars share (builtin.c): they come first in every machine ---- */

enum nef_builtin {                     /* also the callee of that number, without bounds */
                   NEF_BUILTIN_STRING, /* the rest of a string after its opening quote, with the closing one */
                   NEF_BUILTIN_CALLED, /* the same inside a tool call: never </tool_call> */
                   NEF_BUILTIN_THINK,  /* text up to </think>, with it */
                   NEF_BUILTIN_TEXT,   /* text up to <tool_call>, with it */
                   NEF_BUILTINS
};
#define NEF_BUILTIN_STATES_MAX 96u
NEF_MUST_CHECK nef_err nef_builtin_make(struct nef_machine *out_machine);

/* ---- masks of states (mask.c) ---- */

#define NEF_MASK_STEPS 8u /* by characters: at most 1, 2, 4 .. 128 */
struct nef_mask {         /* tokens that begin with an edge of a state; immutable once it is seen */
    uint32_t *words;      /* all of them, or NULL: */
    uint32_t *list;       /* few tokens are listed; of states in a string all, ascending by characters begun */
    uint32_t count;
    struct nef_trie exits; /* what remains of tokens that end the rule on the way; marks: characters of the string */
    uint32_t need;         /* depth that some of these tokens reach, relative */
    size_t bytes;
    /* of states in a string */
    uint32_t *upto; /* [n]: tokens of the list that begin at most n characters, n < upto_count */
    uint32_t upto_count;
    uint32_t *closers; /* token, characters: those that end with the closing quote; not in the list */
    uint32_t closer_count;
    uint32_t *steps[NEF_MASK_STEPS]; /* words of those with at most 2^i; NULL: the list is short */
};
void nef_mask_free(struct nef_mask *mask);

/* ---- vocabulary ---- */

struct nef_grammar_vocab {
    uint32_t count, words;
    uint8_t *text;
    uint32_t *offsets; /* count + 1 */
    uint32_t *ends;
    uint32_t ends_count;
    struct nef_trie trie;
    uint32_t *plain; /* words: tokens of the trie's plain subtrees */
    struct nef_machine builtin;
    struct nef_mask *masks[NEF_BUILTIN_STATES_MAX];
    atomic_size_t cached; /* bytes of masks of all grammars */
};

/* ---- grammar ---- */

struct nef_grammar {
    atomic_uint references;
    struct nef_grammar_vocab *vocab; /* borrowed; only `cached` changes */
    struct nef_machine machine;
    uint32_t start;
    bool lazy;                         /* free text may end */
    _Atomic(struct nef_mask *) *masks; /* per state; those of shared states are the vocabulary's */
    atomic_size_t cached;
};

/* ---- configurations (walk.c) ---- */

struct nef_config {
    uint32_t state;
    uint32_t stack; /* node; 0: nothing was called */
    uint32_t chars; /* of the string it is in, as far as its bounds need them */
};
struct nef_frame { /* a call that hasn't returned; frames form a tree, equal ones are one */
    uint32_t parent;
    uint32_t call;
    uint32_t depth;
    uint32_t min, max; /* of the callee */
};
struct nef_walker {
    const struct nef_machine *machine;
    struct nef_frame *frames;
    uint32_t frame_count;
    uint32_t *table; /* open addressing, frame numbers; 0: empty */
    uint32_t table_size;
    size_t frame_room;
    struct nef_config *configs; /* sets, one behind the other */
    size_t count, room;
    struct nef_level *levels; /* of a walk through a trie */
    uint32_t level_count;
    struct nef_trie_item *items; /* exits that are being collected */
    uint32_t *pairs;             /* token, characters */
    size_t item_count, item_room, pair_count, pair_room;
    uint32_t need; /* largest depth + height that was met */
    bool failed;   /* out of memory */
    bool crowded;  /* too many exits: they are incomplete */
};
NEF_MUST_CHECK nef_err nef_walker_init(struct nef_walker *w, const struct nef_machine *machine);
void nef_walker_done(struct nef_walker *w);
/* Add a configuration to the set that begins at BEGIN and ends the array, with what follows from it without a byte. */
void nef_walker_add(struct nef_walker *w, size_t begin, struct nef_config c);
/* Append the set that BYTE makes of [begin, end); returns where it begins. Empty: nothing takes that byte. */
size_t nef_walker_step(struct nef_walker *w, size_t begin, size_t end, uint8_t byte);
/* What C becomes when its rule ends; C's stack isn't empty. */
struct nef_config nef_walker_pop(const struct nef_walker *w, struct nef_config c);
uint32_t nef_walker_depth(const struct nef_walker *w, uint32_t frame);
/* Forget frames from COUNT on; nobody has them any more. */
void nef_walker_cut(struct nef_walker *w, uint32_t count);
/* Frames were renumbered and the table zeroed: fill it again. */
void nef_walker_rehash(struct nef_walker *w);

#define NEF_PAIR_CLOSES (1u << 31)
struct nef_walk { /* through a trie, from a set */
    const struct nef_trie *trie;
    uint32_t *words;    /* bits of tokens that come through, or NULL */
    uint32_t low, high; /* only tokens whose mark is between, where the trie has marks */
    const struct nef_grammar_vocab
        *collect;  /* not NULL: exits from frame 0 go to w->items; the trie is the vocabulary's */
    bool no_plain; /* plain subtrees are passed over */
    bool pairs;    /* tokens and their characters go to w->pairs; NEF_PAIR_CLOSES: the string ended */
};
/* Walk from the set [begin, end), which must be the last one; the array ends there again afterwards. */
void nef_walker_walk(struct nef_walker *w, const struct nef_walk *walk, size_t begin, size_t end);

/* mask.c: the tokens that C (with its stack) allows are added to words. */
NEF_MUST_CHECK nef_err nef_mask_add(struct nef_grammar *g, struct nef_walker *w, struct nef_config c, uint32_t *words);
/* The masks of all shared states. */
NEF_MUST_CHECK nef_err nef_mask_builtins(struct nef_grammar_vocab *v);

#endif
