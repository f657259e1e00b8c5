/* Compiled grammars; see grammars.h.
 *
 * The key is a digest of a text that says everything the compiler looks at. Two requests that come at once with a new
 * schema may both compile it; the second one then finds the first one's. Grammars grow while masks are found, so the
 * bytes are counted anew whenever one is added; what is forgotten lives on until its last request ends. */
#include "infer/api/grammars.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "base/limits.h"
#include "crypto/crypto.h"

#define WARM_MASKS 64u /* some 30 ms at most, once per schema */

struct entry {
    uint8_t key[32];
    struct nef_grammar *grammar;
    struct entry *newer, *older;
};

struct nef_grammars {
    struct nef_grammar_vocab *vocab;
    pthread_mutex_t lock;
    struct entry *newest, *oldest;
    struct nef_grammars_stats stats;
};

nef_err nef_grammars_open(const struct nef_tokenizer *t, struct nef_grammars **out_grammars)
{
    struct nef_grammars *g = calloc(1, sizeof(*g));
    nef_err err;

    if (g == NULL)
        return NEF_E_NOMEM;
    err = nef_grammar_vocab_open(t, &g->vocab);
    if (err != NEF_OK) {
        free(g);
        return err;
    }
    (void)pthread_mutex_init(&g->lock, NULL);
    *out_grammars = g;
    return NEF_OK;
}

static void unlink_entry(struct nef_grammars *g, struct entry *e)
{
    if (e->newer != NULL)
        e->newer->older = e->older;
    else
        g->newest = e->older;
    if (e->older != NULL)
        e->older->newer = e->newer;
    else
        g->oldest = e->newer;
    e->newer = e->older = NULL;
}

static void link_newest(struct nef_grammars *g, struct entry *e)
{
    e->older = g->newest;
    if (g->newest != NULL)
        g->newest->newer = e;
    else
        g->oldest = e;
    g->newest = e;
}

static void forget_oldest(struct nef_grammars *g)
{
    struct entry *e = g->oldest;

    unlink_entry(g, e);
    nef_grammar_unref(e->grammar);
    free(e);
}

void nef_grammars_close(struct nef_grammars *g)
{
    if (g == NULL)
        return;
    while (g->oldest != NULL)
        forget_oldest(g);
    nef_grammar_vocab_close(g->vocab);
    (void)pthread_mutex_destroy(&g->lock);
    free(g);
}

/* ---- keys ---- */

static void put_json(struct nef_buf *out, const json_t *value)
{
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));

    if (text == NULL && value != NULL)
        out->failed = true;
    nef_buf_block(out, text == NULL ? "" : text, text == NULL ? 0 : strlen(text));
    free(text);
}

static nef_err key_of(const struct nef_grammar_options *o, uint8_t out[32])
{
    struct nef_buf text = {0};
    const json_t *tool;
    size_t i;
    nef_err err;

    nef_buf_u8(&text, (uint8_t)o->answer);
    nef_buf_u8(&text, (uint8_t)(o->tools_required | o->parallel << 1 | o->thinking << 2));
    put_json(&text, o->schema);
    nef_buf_block(&text, o->function == NULL ? "" : o->function, o->function == NULL ? 0 : strlen(o->function));
    json_array_foreach(o->tools, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");

        put_json(&text, json_object_get(function, "name"));
        put_json(&text, json_object_get(function, "parameters"));
    }
    err = nef_buf_end(&text);
    if (err == NEF_OK)
        nef_hash_of(NEF_HASH_SHA256, text.data, text.bytes, out);
    nef_buf_free(&text);
    return err;
}

/* ---- getting ---- */

/* Under the lock; a reference, or NULL. */
static struct nef_grammar *find(struct nef_grammars *g, const uint8_t key[32])
{
    for (struct entry *e = g->newest; e != NULL; e = e->older) {
        if (memcmp(e->key, key, sizeof(e->key)) != 0)
            continue;
        unlink_entry(g, e);
        link_newest(g, e);
        return nef_grammar_ref(e->grammar);
    }
    return NULL;
}

/* Under the lock. */
static void bound(struct nef_grammars *g)
{
    uint64_t bytes = 0, kept = 0;

    for (const struct entry *e = g->newest; e != NULL; e = e->older) {
        bytes += nef_grammar_bytes(e->grammar);
        kept++;
    }
    while (g->oldest != g->newest && (bytes > NEF_INFER_GRAMMARS_BYTES_MAX || kept > NEF_INFER_GRAMMARS_MAX)) {
        bytes -= nef_grammar_bytes(g->oldest->grammar);
        kept--;
        forget_oldest(g);
    }
    g->stats.bytes = bytes;
    g->stats.kept = kept;
}

static void add(struct nef_grammars *g, const uint8_t key[32], struct nef_grammar **grammar)
{
    struct nef_grammar *other;
    struct entry *e = calloc(1, sizeof(*e));

    (void)pthread_mutex_lock(&g->lock);
    g->stats.compiled++;
    other = find(g, key);
    if (other != NULL) { /* somebody else was quicker */
        nef_grammar_unref(*grammar);
        *grammar = other;
        free(e);
    } else if (e != NULL) { /* else it just isn't kept */
        memcpy(e->key, key, sizeof(e->key));
        e->grammar = nef_grammar_ref(*grammar);
        link_newest(g, e);
        bound(g);
    }
    (void)pthread_mutex_unlock(&g->lock);
}

nef_err nef_grammars_get(struct nef_grammars *g, const struct nef_grammar_options *options, char *out_error,
                         struct nef_grammar **out_grammar)
{
    struct nef_grammar *grammar;
    uint8_t key[32];
    nef_err err = key_of(options, key), warm;

    if (err != NEF_OK) {
        out_error[0] = '\0';
        return err;
    }
    (void)pthread_mutex_lock(&g->lock);
    grammar = find(g, key);
    g->stats.hits += grammar != NULL;
    (void)pthread_mutex_unlock(&g->lock);
    if (grammar == NULL) {
        err = nef_grammar_compile(g->vocab, options, out_error, &grammar);
        if (err == NEF_OK) {
            warm = nef_grammar_warm(grammar, WARM_MASKS);
            (void)warm; /* without memory it is as good as before */
            add(g, key, &grammar);
        } else {
            (void)pthread_mutex_lock(&g->lock);
            g->stats.refused++;
            (void)pthread_mutex_unlock(&g->lock);
            return err;
        }
    }
    *out_grammar = grammar;
    return NEF_OK;
}

void nef_grammars_stats(struct nef_grammars *g, struct nef_grammars_stats *out_stats)
{
    (void)pthread_mutex_lock(&g->lock);
    bound(g);
    *out_stats = g->stats;
    (void)pthread_mutex_unlock(&g->lock);
}
