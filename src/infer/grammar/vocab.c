/* The vocabulary of a tokenizer as grammars see it: byte strings in a trie, tokens that end a generation, and the
 * masks of the states that all grammars share. */
#include <stdlib.h>
#include <string.h>
#include "infer/grammar/grammar_internal.h"

static bool in_trie(const struct nef_grammar_token *t)
{
    return !t->ends && t->text != NULL && t->bytes > 0;
}

static nef_err copy_texts(struct nef_grammar_vocab *v, const struct nef_grammar_token *tokens)
{
    size_t bytes = 0;

    v->offsets = calloc((size_t)v->count + 1, sizeof(*v->offsets));
    v->ends = malloc(((size_t)v->count + 1) * sizeof(*v->ends));
    if (v->offsets == NULL || v->ends == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < v->count; i++) {
        bytes += in_trie(&tokens[i]) ? tokens[i].bytes : 0;
        if (bytes > NEF_VOCAB_BYTES_MAX)
            return NEF_E_LIMIT;
        v->offsets[i + 1] = (uint32_t)bytes;
        if (tokens[i].ends)
            v->ends[v->ends_count++] = i;
    }
    v->text = malloc(bytes + 1);
    if (v->text == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < v->count; i++)
        if (in_trie(&tokens[i]))
            memcpy(v->text + v->offsets[i], tokens[i].text, tokens[i].bytes);
    return NEF_OK;
}

/* A text can be written byte by byte, if need be: no grammar leads to where no token fits. */
static nef_err check_bytes(const struct nef_grammar_vocab *v)
{
    bool has[256] = {false};

    for (uint32_t i = 0; i < v->count; i++)
        if (v->offsets[i + 1] - v->offsets[i] == 1)
            has[v->text[v->offsets[i]]] = true;
    for (unsigned byte = 0; byte < 0xf5; byte++)
        if (!has[byte] && byte != 0xc0 && byte != 0xc1) /* bytes of UTF-8 */
            return NEF_E_UNSUPPORTED;
    return v->ends_count > 0 ? NEF_OK : NEF_E_UNSUPPORTED;
}

static nef_err make_trie(struct nef_grammar_vocab *v)
{
    struct nef_trie_item *items = malloc(((size_t)v->count + 1) * sizeof(*items));
    size_t count = 0;
    nef_err err;

    if (items == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < v->count; i++)
        if (v->offsets[i + 1] > v->offsets[i])
            items[count++] = (struct nef_trie_item){v->text + v->offsets[i], v->offsets[i + 1] - v->offsets[i], i, 0};
    err = nef_trie_build(items, count, false, &v->trie);
    free(items);
    return err;
}

/* Mark subtrees all of whose tokens are plain text of a string: no quote, no backslash, nothing that must be escaped,
 * UTF-8 that may break off at the end. A state that allows any plain text allows all of those at once (mask.c). */
static nef_err mark_plain(struct nef_grammar_vocab *v)
{
    const struct nef_trie *t = &v->trie;
    uint32_t *parent = malloc(((size_t)t->count + 1) * sizeof(*parent)), *path = calloc(t->levels + 1, sizeof(*path));
    uint32_t *states = calloc(t->levels + 1, sizeof(*states));
    nef_err err = NEF_E_NOMEM;

    v->plain = calloc(v->words, sizeof(*v->plain));
    if (parent == NULL || path == NULL || states == NULL || v->plain == NULL)
        goto out;
    states[0] = v->builtin.callees[NEF_BUILTIN_STRING].start;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t depth = nef_node_depth(t->nodes[i]), state = states[depth];
        uint8_t byte = nef_node_byte(t->nodes[i]);

        if (state != NEF_NO_STATE)
            state = byte == '"' || byte == '\\' ? NEF_NO_STATE : nef_machine_step(&v->builtin, state, byte);
        states[depth + 1] = state;
        path[depth] = i;
        parent[i] = depth > 0 ? path[depth - 1] : i;
        if (state != NEF_NO_STATE)
            t->nodes[i] |= NEF_NODE_PLAIN;
    }
    for (uint32_t i = t->count; i-- > 0;) /* children before their parents */
        if ((t->nodes[i] & NEF_NODE_PLAIN) == 0)
            t->nodes[parent[i]] &= ~NEF_NODE_PLAIN;
    for (uint32_t i = 0; i < t->count; i++)
        for (uint32_t k = nef_node_token(t->nodes[i]);
             (t->nodes[i] & NEF_NODE_PLAIN) != 0 && k < nef_node_token(t->nodes[i + 1]); k++)
            v->plain[t->tokens[k] / 32] |= 1u << t->tokens[k] % 32;
    err = NEF_OK;
out:
    free(parent);
    free(path);
    free(states);
    return err;
}

nef_err nef_grammar_vocab_make(const struct nef_grammar_token *tokens, uint32_t count,
                               struct nef_grammar_vocab **out_vocab)
{
    struct nef_grammar_vocab *v = calloc(1, sizeof(*v));
    nef_err err;

    if (v == NULL)
        return NEF_E_NOMEM;
    v->count = count;
    v->words = (count + 31) / 32;
    err = count <= NEF_VOCAB_MAX ? copy_texts(v, tokens) : NEF_E_LIMIT;
    if (err == NEF_OK)
        err = check_bytes(v);
    if (err == NEF_OK)
        err = make_trie(v);
    if (err == NEF_OK)
        err = nef_builtin_make(&v->builtin);
    if (err == NEF_OK)
        err = mark_plain(v);
    if (err == NEF_OK)
        err = nef_mask_builtins(v);
    if (err != NEF_OK) {
        nef_grammar_vocab_close(v);
        return err;
    }
    *out_vocab = v;
    return NEF_OK;
}

nef_err nef_grammar_vocab_open(const struct nef_tokenizer *t, struct nef_grammar_vocab **out_vocab)
{
    uint32_t count = nef_tokenizer_vocab(t);
    struct nef_grammar_token *tokens = calloc((size_t)count + 1, sizeof(*tokens));
    nef_err err;

    if (tokens == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes;
        const char *text = nef_token_bytes(t, i, &bytes);

        tokens[i].ends = nef_token_ends(t, i);
        if (nef_token_control(t, i))
            continue;
        tokens[i].text = text;
        tokens[i].bytes = (uint32_t)bytes; /* at most NEF_TOKEN_BYTES_MAX */
    }
    err = nef_grammar_vocab_make(tokens, count, out_vocab);
    free(tokens);
    return err;
}

void nef_grammar_vocab_close(struct nef_grammar_vocab *v)
{
    if (v == NULL)
        return;
    for (uint32_t i = 0; i < NEF_BUILTIN_STATES_MAX; i++)
        nef_mask_free(v->masks[i]);
    nef_machine_free(&v->builtin);
    nef_trie_free(&v->trie);
    free(v->text);
    free(v->offsets);
    free(v->ends);
    free(v->plain);
    free(v);
}

uint32_t nef_grammar_vocab_words(const struct nef_grammar_vocab *v)
{
    return v->words;
}
