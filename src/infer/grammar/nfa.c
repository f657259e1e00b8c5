/* The rule under construction: a nondeterministic automaton over bytes, with empty edges and calls.
 *
 * Characters become bytes as in "utf8-ranges" (Cox, "Regular Expression Matching in the Wild", 2010): a range of
 * code points is cut where the number of bytes or a leading byte changes, until each piece is a product of byte
 * ranges. */
#include <stdio.h>
#include <string.h>
#include "infer/grammar/compile.h"

uint32_t nef_nfa_state(struct nef_compile *c)
{
    return c->nfa_states++; /* a state without an edge costs nothing, and edges are limited */
}

static void add(struct nef_compile *c, struct nef_nfa_edge edge)
{
    if (c->err != NEF_OK || !nef_compile_work(c, 1))
        return;
    if (c->nfa_count >= NEF_GRAMMAR_NFA_MAX || c->nfa_states > 2 * NEF_GRAMMAR_NFA_MAX)
        nef_compile_fail(c, NEF_E_LIMIT, "the schema is too large (an automaton of more than %u edges)",
                         NEF_GRAMMAR_NFA_MAX);
    else if (!nef_room((void **)&c->nfa, &c->nfa_room, c->nfa_count, sizeof(*c->nfa)))
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
    else
        c->nfa[c->nfa_count++] = edge;
}

void nef_nfa_empty(struct nef_compile *c, uint32_t from, uint32_t to)
{
    add(c, (struct nef_nfa_edge){.from = from, .to = to, .kind = NEF_NFA_EMPTY});
}

void nef_nfa_bytes(struct nef_compile *c, uint32_t from, uint8_t low, uint8_t high, uint32_t to)
{
    add(c, (struct nef_nfa_edge){.from = from, .to = to, .kind = NEF_NFA_BYTES, .low = low, .high = high});
}

void nef_nfa_call(struct nef_compile *c, uint32_t from, uint32_t callee, uint32_t to)
{
    add(c, (struct nef_nfa_edge){
               .from = from, .to = to, .callee = callee, .kind = NEF_NFA_CALL, .weight = (uint8_t)c->containers});
}

uint32_t nef_nfa_text(struct nef_compile *c, uint32_t from, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes && c->err == NEF_OK; i++) {
        uint32_t to = nef_nfa_state(c);

        nef_nfa_bytes(c, from, (uint8_t)text[i], (uint8_t)text[i], to);
        from = to;
    }
    return from;
}

uint32_t nef_nfa_space(struct nef_compile *c, uint32_t from)
{
    uint32_t to = nef_nfa_text(c, from, " ", 1);

    nef_nfa_empty(c, from, to);
    return to;
}

/* ---- characters ---- */

static size_t encode(uint32_t code, uint8_t out[4])
{
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (uint8_t)(0xc0 | code >> 6);
        out[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (uint8_t)(0xe0 | code >> 12);
        out[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | code >> 18);
    out[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

/* A range without U+D800 to U+DFFF whose ends have the same number of bytes. */
static void add_same_length(struct nef_compile *c, uint32_t from, uint32_t low, uint32_t high, uint32_t to)
{
    uint8_t first[4], last[4];
    size_t bytes = encode(low, first);

    for (unsigned i = 1; i < bytes; i++) {
        uint32_t below = (1u << 6 * i) - 1;

        if ((low & ~below) == (high & ~below))
            continue;
        if ((low & below) != 0) {
            add_same_length(c, from, low, low | below, to);
            add_same_length(c, from, (low | below) + 1, high, to);
            return;
        }
        if ((high & below) != below) {
            add_same_length(c, from, low, (high & ~below) - 1, to);
            add_same_length(c, from, high & ~below, high, to);
            return;
        }
    }
    (void)encode(high, last);
    for (size_t i = 0; i < bytes; i++) {
        uint32_t next = i + 1 < bytes ? nef_nfa_state(c) : to;

        nef_nfa_bytes(c, from, first[i], last[i], next);
        from = next;
    }
}

static void add_plain(struct nef_compile *c, uint32_t from, uint32_t low, uint32_t high, uint32_t to)
{
    static const struct nef_range lengths[] = {
        {0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, 0x10ffff}};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint32_t first = low > lengths[i].low ? low : lengths[i].low;
        uint32_t last = high < lengths[i].high ? high : lengths[i].high;

        if (first <= last)
            add_same_length(c, from, first, last, to);
    }
}

/* Must CODE be escaped in a string? Inside tool calls '<' is, where it could become a tag (in patterns). */
static bool needs_escape(const struct nef_compile *c, uint32_t code)
{
    return code < 0x20 || code == '"' || code == '\\' || (code == '<' && c->called);
}

static void add_escape(struct nef_compile *c, uint32_t from, uint32_t code, uint32_t to)
{
    static const char shorts[] = "btn\0fr"; /* of U+0008 and up; U+000B has none */
    char text[8];

    if (code == '"' || code == '\\')
        (void)snprintf(text, sizeof(text), "\\%c", (char)code);
    else if (code >= 8 && code <= 13 && shorts[code - 8] != '\0')
        (void)snprintf(text, sizeof(text), "\\%c", shorts[code - 8]);
    else
        (void)snprintf(text, sizeof(text), "\\u%04x", code);
    nef_nfa_empty(c, nef_nfa_text(c, from, text, strlen(text)), to);
}

void nef_nfa_characters(struct nef_compile *c, uint32_t from, const struct nef_range *ranges, size_t count, uint32_t to)
{
    for (size_t i = 0; i < count && c->err == NEF_OK; i++) {
        uint32_t low = ranges[i].low;

        for (uint32_t code = low; code <= ranges[i].high && code <= '\\'; code++)
            if (needs_escape(c, code)) {
                if (code > low)
                    add_plain(c, from, low, code - 1, to);
                if (code > 0) /* as in other strings (builtin.c) */
                    add_escape(c, from, code, to);
                low = code + 1;
            }
        if (low <= ranges[i].high)
            add_plain(c, from, low, ranges[i].high, to);
    }
}

/* '<' stays plain but in "</tool_call>". */
static bool holds_tag(const char *text, size_t bytes)
{
    return memmem(text, bytes, "</tool_call>", 12) != NULL;
}

uint32_t nef_nfa_string(struct nef_compile *c, uint32_t from, const char *text, size_t bytes)
{
    bool tag = c->called && holds_tag(text, bytes);
    uint32_t at = nef_nfa_text(c, from, "\"", 1);

    for (size_t i = 0; i < bytes && c->err == NEF_OK; i++) {
        uint8_t byte = (uint8_t)text[i];

        if (byte < 0x20 || byte == '"' || byte == '\\' || (byte == '<' && tag)) {
            uint32_t to = nef_nfa_state(c);

            add_escape(c, at, byte, to);
            at = to;
        } else {
            at = nef_nfa_text(c, at, text + i, 1);
        }
    }
    return nef_nfa_text(c, at, "\"", 1);
}
