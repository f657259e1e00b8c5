/* One sequence: the set of configurations after each of the last tokens, the newest being where it is now. An empty set
 * is the end. Frames that no set refers to are collected now and then. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/grammar_internal.h"

#define KEPT       (2 * NEF_MATCHER_ROLLBACK_MAX) /* sets; when they are full, the older half goes */
#define FRAMES_MIN 1024u                          /* below, nothing is collected */

struct nef_matcher {
    struct nef_grammar *g;
    struct nef_walker w;
    struct nef_config *log; /* sets, one behind the other */
    size_t log_count, log_room;
    size_t begins[KEPT + 1];
    uint32_t count; /* sets; at least 1 */
    uint32_t collect_at;
};

static size_t current(const struct nef_matcher *m)
{
    return m->begins[m->count - 1];
}

nef_err nef_matcher_open(struct nef_grammar *g, struct nef_matcher **out_matcher)
{
    struct nef_matcher *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return NEF_E_NOMEM;
    m->g = nef_grammar_ref(g);
    m->collect_at = FRAMES_MIN;
    if (nef_walker_init(&m->w, &g->machine) != NEF_OK) {
        nef_matcher_close(m);
        return NEF_E_NOMEM;
    }
    nef_walker_add(&m->w, 0, (struct nef_config){g->start, 0, 0});
    m->log = malloc((m->w.count + 1) * sizeof(*m->log));
    if (m->w.failed || m->log == NULL) {
        nef_matcher_close(m);
        return NEF_E_NOMEM;
    }
    NEF_ASSERT(m->w.count > 0);
    memcpy(m->log, m->w.configs, m->w.count * sizeof(*m->log));
    m->log_count = m->log_room = m->w.count;
    m->w.count = 0;
    m->count = 1;
    *out_matcher = m;
    return NEF_OK;
}

void nef_matcher_close(struct nef_matcher *m)
{
    if (m == NULL)
        return;
    nef_walker_done(&m->w);
    nef_grammar_unref(m->g);
    free(m->log);
    free(m);
}

/* ---- frames that are still needed ---- */

/* They keep their order, so parents stay before their children. Without memory nothing happens: it is tried again
 * later. */
static void collect(struct nef_matcher *m)
{
    struct nef_walker *w = &m->w;
    uint32_t *number = calloc(w->frame_count, sizeof(*number)), kept = 1;

    if (number == NULL)
        return;
    for (size_t i = 0; i < m->log_count; i++)
        number[m->log[i].stack] = 1;
    for (uint32_t i = w->frame_count; i-- > 1;)
        if (number[i] != 0)
            number[w->frames[i].parent] = 1;
    number[0] = 0;
    for (uint32_t i = 1; i < w->frame_count; i++)
        number[i] = number[i] != 0 ? kept++ : 0;
    for (size_t i = 0; i < m->log_count; i++)
        m->log[i].stack = number[m->log[i].stack];
    memset(w->table, 0, w->table_size * sizeof(*w->table));
    for (uint32_t i = 1; i < w->frame_count; i++)
        if (number[i] != 0) {
            w->frames[number[i]] = w->frames[i];
            w->frames[number[i]].parent = number[w->frames[i].parent];
        }
    w->frame_count = kept;
    nef_walker_rehash(w);
    m->collect_at = NEF_MAX(FRAMES_MIN, 2 * kept);
    free(number);
}

/* ---- accepting ---- */

static bool is_end(const struct nef_grammar_vocab *v, uint32_t token)
{
    for (uint32_t i = 0; i < v->ends_count; i++) /* a handful */
        if (v->ends[i] == token)
            return true;
    return false;
}

/* Append the walker's set [begin, its end) to the log. */
static nef_err commit(struct nef_matcher *m, size_t begin)
{
    size_t count = m->w.count - begin;

    if (m->count == KEPT) {
        size_t gone = m->begins[NEF_MATCHER_ROLLBACK_MAX];

        memmove(m->log, m->log + gone, (m->log_count - gone) * sizeof(*m->log));
        m->log_count -= gone;
        m->count -= NEF_MATCHER_ROLLBACK_MAX;
        for (uint32_t i = 0; i < m->count; i++)
            m->begins[i] = m->begins[i + NEF_MATCHER_ROLLBACK_MAX] - gone;
    }
    for (size_t i = 0; i < count; i++) {
        if (!nef_room((void **)&m->log, &m->log_room, m->log_count + i, sizeof(*m->log)))
            return NEF_E_NOMEM;
        m->log[m->log_count + i] = m->w.configs[begin + i];
    }
    m->begins[m->count++] = m->log_count;
    m->log_count += count;
    if (m->w.frame_count > m->collect_at)
        collect(m);
    return NEF_OK;
}

/* The current set becomes the walker's only one. */
static nef_err load(struct nef_matcher *m)
{
    struct nef_walker *w = &m->w;

    for (w->count = 0; current(m) + w->count < m->log_count; w->count++) {
        if (!nef_room((void **)&w->configs, &w->room, w->count, sizeof(*w->configs)))
            return NEF_E_NOMEM;
        w->configs[w->count] = m->log[current(m) + w->count];
    }
    return NEF_OK;
}

/* Step the walker's only set, which the next one replaces. */
static void step(struct nef_walker *w, uint8_t byte)
{
    size_t next = nef_walker_step(w, 0, w->count, byte);

    memmove(w->configs, w->configs + next, (w->count - next) * sizeof(*w->configs));
    w->count -= next;
}

nef_err nef_matcher_accept(struct nef_matcher *m, uint32_t token)
{
    const struct nef_grammar_vocab *v = m->g->vocab;
    uint32_t frames = m->w.frame_count;
    nef_err err;

    if (token >= v->count || nef_matcher_ended(m))
        return NEF_E_INVALID;
    m->w.count = 0;
    if (is_end(v, token))
        return nef_matcher_can_end(m) ? commit(m, 0) : NEF_E_INVALID;
    if (v->offsets[token] == v->offsets[token + 1])
        return NEF_E_INVALID;
    err = load(m);
    for (uint32_t at = v->offsets[token]; at < v->offsets[token + 1] && m->w.count > 0 && err == NEF_OK; at++)
        step(&m->w, v->text[at]);
    if (m->w.failed)
        err = NEF_E_NOMEM;
    m->w.failed = false;
    if (err == NEF_OK)
        err = m->w.count > 0 ? commit(m, 0) : NEF_E_INVALID;
    m->w.count = 0;
    if (err != NEF_OK)
        nef_walker_cut(&m->w, frames);
    return err;
}

bool nef_matcher_rollback(struct nef_matcher *m, uint32_t count)
{
    if (count >= m->count || count > NEF_MATCHER_ROLLBACK_MAX)
        return false;
    m->count -= count;
    if (count > 0)
        m->log_count = m->begins[m->count];
    return true;
}

/* ---- asking ---- */

bool nef_matcher_ended(const struct nef_matcher *m)
{
    return current(m) == m->log_count;
}

bool nef_matcher_can_end(const struct nef_matcher *m)
{
    for (size_t i = current(m); i < m->log_count; i++) {
        uint8_t flags = m->g->machine.states[m->log[i].state].flags;

        if ((m->log[i].stack == 0 && (flags & NEF_STATE_FINAL) != 0) || (m->g->lazy && (flags & NEF_STATE_FREE) != 0))
            return true;
    }
    return nef_matcher_ended(m);
}

nef_err nef_matcher_mask(struct nef_matcher *m, uint32_t *out_words)
{
    const struct nef_grammar_vocab *v = m->g->vocab;
    nef_err err = NEF_OK;

    memset(out_words, 0, v->words * sizeof(*out_words));
    if (nef_matcher_ended(m))
        return NEF_OK;
    for (size_t i = current(m); i < m->log_count && err == NEF_OK; i++)
        err = nef_mask_add(m->g, &m->w, m->log[i], out_words);
    m->w.failed = false;
    if (nef_matcher_can_end(m))
        for (uint32_t i = 0; i < v->ends_count; i++)
            out_words[v->ends[i] / 32] |= 1u << v->ends[i] % 32;
    return err;
}

/* The only byte that the walker's set can take, or -1. */
static int only_byte(const struct nef_matcher *m)
{
    const struct nef_machine *machine = &m->g->machine;
    int only = -1;

    for (size_t i = 0; i < m->w.count; i++) {
        const struct nef_state *s = &machine->states[m->w.configs[i].state];

        if ((m->w.configs[i].stack == 0 && (s->flags & NEF_STATE_FINAL) != 0) || (s->flags & NEF_STATE_FREE) != 0)
            return -1;
        for (uint32_t k = s->edge; k < s->edge + s->edges; k++) {
            const struct nef_edge *e = &machine->edges[k];

            if (e->low != e->high || (only >= 0 && only != e->low))
                return -1;
            only = e->low;
        }
    }
    return only;
}

size_t nef_matcher_forced(struct nef_matcher *m, char *out_text, size_t max)
{
    uint32_t frames = m->w.frame_count;
    size_t bytes = 0;
    int byte;

    if (load(m) == NEF_OK)
        for (; bytes < max && (byte = only_byte(m)) >= 0 && !m->w.failed; bytes++) {
            step(&m->w, (uint8_t)byte);
            if (m->w.count == 0 ||
                m->w.failed) /* depth left nothing, or memory ran out: what came before still holds */
                break;
            out_text[bytes] = (char)byte;
        }
    m->w.failed = false;
    m->w.count = 0;
    nef_walker_cut(&m->w, frames);
    return bytes;
}
