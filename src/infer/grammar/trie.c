/* Tries of byte strings in preorder: a walk from left to right meets each prefix once, and passes over a subtree by
 * one addition. 8 bytes a node; Qwen's 151,669 tokens have 333,009. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/grammar_internal.h"

static int compare(const void *a, const void *b)
{
    const struct nef_trie_item *x = a, *y = b;
    int order = memcmp(x->text, y->text, NEF_MIN(x->bytes, y->bytes));

    if (order != 0)
        return order;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return (x->mark > y->mark) - (x->mark < y->mark);
}

static uint32_t common(const struct nef_trie_item *a, const struct nef_trie_item *b)
{
    uint32_t at = 0, end = NEF_MIN(a->bytes, b->bytes);

    while (at < end && a->text[at] == b->text[at])
        at++;
    return at;
}

/* Sizes of subtrees are known when the walk leaves them; path holds the nodes it is in. */
static void leave(struct nef_trie *t, const uint32_t *path, uint32_t *depth, uint32_t keep)
{
    for (; *depth > keep; --*depth) {
        uint32_t at = path[*depth - 1];

        t->nodes[at] |= (nef_trie_node)(t->count - at) << 21;
    }
}

nef_err nef_trie_build(struct nef_trie_item *items, size_t count, bool marks, struct nef_trie *out_trie)
{
    struct nef_trie t = {0};
    uint32_t *path = NULL, depth = 0, token = 0;
    size_t nodes = 0;
    nef_err err = NEF_E_NOMEM;

    if (count == 0) {
        *out_trie = t;
        return NEF_OK;
    }
    qsort(items, count, sizeof(*items), compare);
    for (size_t i = 0; i < count; i++) {
        nodes += items[i].bytes - (i > 0 ? common(&items[i - 1], &items[i]) : 0);
        t.levels = NEF_MAX(t.levels, items[i].bytes);
    }
    if (nodes >= NEF_TRIE_NODES_MAX || count >= NEF_TRIE_TOKENS_MAX || t.levels > NEF_TRIE_DEPTH_MAX)
        return NEF_E_LIMIT;
    t.nodes = malloc((nodes + 1) * sizeof(*t.nodes));
    t.tokens = calloc(count + 1, sizeof(*t.tokens));
    t.marks = marks ? malloc(count * sizeof(*t.marks)) : NULL;
    path = malloc(t.levels * sizeof(*path));
    if (t.nodes == NULL || t.tokens == NULL || path == NULL || (marks && t.marks == NULL))
        goto out;
    for (size_t i = 0; i < count; i++) {
        leave(&t, path, &depth, i > 0 ? common(&items[i - 1], &items[i]) : 0);
        while (depth < items[i].bytes) {
            t.nodes[t.count] = (nef_trie_node)items[i].text[depth] << 56 | (nef_trie_node)depth << 45 | token;
            path[depth++] = t.count++;
        }
        if (marks)
            t.marks[token] = items[i].mark;
        t.tokens[token++] = items[i].token;
    }
    leave(&t, path, &depth, 0);
    NEF_ASSERT(t.count == nodes);
    t.nodes[t.count] = token;
    *out_trie = t;
    t = (struct nef_trie){0};
    err = NEF_OK;
out:
    free(path);
    nef_trie_free(&t);
    return err;
}

void nef_trie_free(struct nef_trie *t)
{
    free(t->nodes);
    free(t->tokens);
    free(t->marks);
    *t = (struct nef_trie){0};
}

size_t nef_trie_bytes(const struct nef_trie *t)
{
    size_t tokens = t->nodes != NULL ? nef_node_token(t->nodes[t->count]) : 0;

    return (t->count + 1) * sizeof(*t->nodes) + tokens * (t->marks != NULL ? 8 : 4);
}
