/* Compiling: options to the root rule, which calls the rest; errors; life of a grammar.
 *
 *   [free text up to </think>, newlines]  answer
 *                                         | <tool_call>\n{"name": NAME, "arguments": ...}\n</tool_call> [\n and again]
 *
 * Where the answer is text, free text up to <tool_call> takes the place of <tool_call>, and may end: such a grammar is
 * lazy. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/compile.h"

#define NODE_TABLE (2 * NEF_SCHEMA_NODES_MAX) /* powers of two */
#define RULE_TABLE (2 * NEF_GRAMMAR_RULES_MAX)
_Static_assert((NODE_TABLE & (NODE_TABLE - 1)) == 0 && (RULE_TABLE & (RULE_TABLE - 1)) == 0, "hash tables");

/* ---- errors ---- */

/* Names from a schema are UTF-8; a message that was cut off still is. */
static void cut_to_characters(char *text)
{
    size_t bytes = strlen(text), at = bytes;

    while (at > 0 && ((uint8_t)text[at - 1] & 0xc0) == 0x80)
        at--;
    if (at > 0 && (uint8_t)text[at - 1] >= 0xc0) {
        uint8_t lead = (uint8_t)text[at - 1];
        size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;

        if (bytes - (at - 1) < length)
            text[at - 1] = '\0';
    }
}

static void put(char *error, const char *text, size_t bytes)
{
    size_t at = strlen(error), room = NEF_GRAMMAR_ERROR_MAX - 1 - at;

    bytes = NEF_MIN(bytes, room);
    memcpy(error + at, text, bytes);
    error[at + bytes] = '\0';
}

static void set_error(struct nef_compile *c, nef_err err, bool at, const char *format, va_list args)
{
    char text[NEF_GRAMMAR_ERROR_MAX];
    const char *where = nef_buf_cstr(&c->where);
    size_t bytes = strlen(where), root = NEF_MIN(c->where_root, bytes);

    c->err = err;
    (void)vsnprintf(text, sizeof(text), format, args); /* may be cut off */
    c->error[0] = '\0';
    put(c->error, where, root);
    put(c->error, text, strlen(text));
    if (at) {
        put(c->error, " at ", 4);
        put(c->error, where + root, bytes - root);
    }
    cut_to_characters(c->error);
}

void nef_compile_fail(struct nef_compile *c, nef_err err, const char *format, ...)
{
    va_list args;

    if (c->err != NEF_OK)
        return;
    va_start(args, format);
    set_error(c, err, false, format, args);
    va_end(args);
}

void nef_compile_fail_at(struct nef_compile *c, nef_err err, const char *format, ...)
{
    va_list args;

    if (c->err != NEF_OK)
        return;
    va_start(args, format);
    set_error(c, err, true, format, args);
    va_end(args);
}

bool nef_compile_work(struct nef_compile *c, uint64_t steps)
{
    c->work += steps;
    if (c->work > NEF_GRAMMAR_WORK_MAX)
        nef_compile_fail(c, NEF_E_LIMIT, "the schema is too complex");
    return c->err == NEF_OK;
}

/* ---- the root rule ---- */

static void set_where(struct nef_compile *c, const char *prefix)
{
    nef_buf_reset(&c->where);
    nef_buf_text(&c->where, prefix);
    c->where_root = c->where.bytes;
}

/* One function, from its name to the closing brace around. */
static void emit_function(struct nef_compile *c, uint32_t from, const json_t *function, uint32_t to)
{
    const json_t *parameters = json_object_get(function, "parameters"), *name = json_object_get(function, "name");
    uint32_t at = nef_nfa_string(c, from, json_string_value(name), json_string_length(name));

    at = nef_nfa_space(c, nef_nfa_text(c, at, ",", 1));
    at = nef_nfa_space(c, nef_nfa_text(c, at, "\"arguments\":", 12));
    if (parameters == NULL || json_is_null(parameters)) {
        at = nef_nfa_text(c, at, "{}", 2);
    } else {
        nef_schema_check(c, parameters);
        if (c->err != NEF_OK)
            return;
        c->containers = 1;
        at = nef_emit_value(c, at, parameters, parameters, false);
        c->containers = 0;
    }
    nef_nfa_bytes(c, at, '}', '}', to);
}

/* Calls, from behind the first <tool_call>. */
static void emit_calls(struct nef_compile *c, const struct nef_grammar_options *o, uint32_t from, uint32_t final)
{
    uint32_t name = nef_nfa_space(c, nef_nfa_text(c, from, "\n{\"name\":", 9)), close = nef_nfa_state(c), end;
    bool found = false;
    char prefix[64];

    if (!json_is_array(o->tools) || json_array_size(o->tools) == 0)
        nef_compile_fail(c, NEF_E_INVALID, "tools: not an array of tools");
    else if (json_array_size(o->tools) > NEF_CHAT_TOOLS_MAX)
        nef_compile_fail(c, NEF_E_LIMIT, "tools: more than %u", NEF_CHAT_TOOLS_MAX);
    c->called = true;
    for (size_t i = 0; i < json_array_size(o->tools) && c->err == NEF_OK; i++) {
        const json_t *function = json_object_get(json_array_get(o->tools, i), "function");
        const char *its_name = json_string_value(json_object_get(function, "name"));

        if (its_name == NULL || its_name[0] == '\0') {
            nef_compile_fail(c, NEF_E_INVALID, "tools[%zu].function.name: missing", i);
            break;
        }
        if (o->function != NULL && strcmp(o->function, its_name) != 0)
            continue;
        found = true;
        (void)snprintf(prefix, sizeof(prefix), "tools[%zu].function.parameters: ", i);
        set_where(c, prefix);
        emit_function(c, name, function, close);
    }
    set_where(c, "");
    c->called = false;
    if (!found)
        nef_compile_fail(c, NEF_E_INVALID, "tool_choice: no function of this name is in tools");
    end = nef_nfa_text(c, close, "\n</tool_call>", 13);
    nef_nfa_empty(c, end, final);
    if (o->parallel)
        nef_nfa_empty(c, nef_nfa_text(c, end, "\n<tool_call>", 12), from);
}

static void emit_answer(struct nef_compile *c, const struct nef_grammar_options *o, uint32_t from, uint32_t final)
{
    if (o->answer == NEF_GRAMMAR_OBJECT) {
        static const char object[] = "{\"type\": \"object\"}";
        json_t *schema = json_loads(object, 0, NULL);

        if (schema == NULL) {
            nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
            return;
        }
        nef_schema_check(c, schema);
        nef_nfa_empty(c, nef_emit_value(c, from, schema, schema, false), final);
        json_decref(schema); /* it is the same as {}, so no rule refers to it */
        return;
    }
    if (o->schema == NULL) {
        nef_compile_fail(c, NEF_E_INVALID, "no schema");
        return;
    }
    nef_schema_check(c, o->schema);
    if (c->err == NEF_OK)
        nef_nfa_empty(c, nef_emit_value(c, from, o->schema, o->schema, false), final);
}

static void emit_root(struct nef_compile *c, const struct nef_grammar_options *o, uint32_t start, uint32_t final,
                      bool lazy)
{
    uint32_t at = start, next;

    if (o->thinking) {
        at = nef_nfa_state(c);
        nef_nfa_call(c, start, NEF_BUILTIN_THINK, at);
        for (int i = 0; i < 2 && !lazy; i++) { /* as the template has it: none, one or two newlines */
            next = nef_nfa_text(c, at, "\n", 1);
            nef_nfa_empty(c, at, next);
            at = next;
        }
    }
    if (o->answer != NEF_GRAMMAR_TEXT && (o->tools == NULL || !o->tools_required))
        emit_answer(c, o, at, final);
    if (o->tools == NULL)
        return;
    if (lazy) {
        next = nef_nfa_state(c);
        nef_nfa_call(c, at, NEF_BUILTIN_TEXT, next);
    } else {
        next = nef_nfa_text(c, at, "<tool_call>", 11);
    }
    emit_calls(c, o, next, final);
}

/* ---- compiling ---- */

static nef_err compile_open(struct nef_compile *c)
{
    nef_err err = nef_machine_copy(&c->vocab->builtin, &c->machine);

    c->node_table_size = NODE_TABLE;
    c->rule_table_size = RULE_TABLE;
    c->node_table = calloc(NODE_TABLE, sizeof(*c->node_table));
    c->rule_table = calloc(RULE_TABLE, sizeof(*c->rule_table));
    c->any = json_object();
    if (err != NEF_OK || c->node_table == NULL || c->rule_table == NULL || c->any == NULL) {
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return NEF_E_NOMEM;
    }
    if (nef_schema_node(c, c->any, NULL) == 0 && c->err == NEF_OK)
        c->nodes[0].visits = 2; /* it has a rule of its own */
    return c->err;
}

static void compile_done(struct nef_compile *c)
{
    nef_machine_free(&c->machine);
    nef_buf_free(&c->where);
    json_decref(c->any);
    free(c->nodes);
    free(c->node_table);
    free(c->rules);
    free(c->rule_alternatives);
    free(c->rule_table);
    free(c->nfa);
}

static struct nef_grammar *finish(struct nef_compile *c, struct nef_grammar_vocab *v, uint32_t start, bool lazy)
{
    struct nef_grammar *g = NULL;
    nef_err err = nef_machine_end(&c->machine);

    if (err == NEF_OK && c->machine.states[start].height == UINT8_MAX) {
        nef_compile_fail(c, NEF_E_INVALID, "nothing satisfies the schema, or only what is nested more than %u deep",
                         NEF_GRAMMAR_DEPTH_MAX);
        return NULL;
    }
    if (err == NEF_OK)
        g = calloc(1, sizeof(*g));
    if (g != NULL)
        g->masks = calloc(c->machine.state_count, sizeof(*g->masks));
    if (g == NULL || g->masks == NULL) {
        free(g);
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return NULL;
    }
    atomic_init(&g->references, 1);
    g->vocab = v;
    g->machine = c->machine;
    c->machine = (struct nef_machine){0};
    g->start = start;
    g->lazy = lazy;
    return g;
}

nef_err nef_grammar_compile(struct nef_grammar_vocab *v, const struct nef_grammar_options *options, char *out_error,
                            struct nef_grammar **out_grammar)
{
    struct nef_compile c = {.vocab = v, .error = out_error};
    bool lazy = options->tools != NULL && !options->tools_required && options->answer == NEF_GRAMMAR_TEXT;
    struct nef_grammar *g = NULL;
    uint32_t start, final;

    if (compile_open(&c) != NEF_OK)
        goto out;
    if (options->answer == NEF_GRAMMAR_TEXT && options->tools == NULL) {
        nef_compile_fail(&c, NEF_E_INVALID, "nothing is asked of the answer");
        goto out;
    }
    start = nef_nfa_state(&c);
    final = nef_nfa_state(&c);
    emit_root(&c, options, start, final, lazy);
    start = nef_dfa_make(&c, start, final);
    nef_emit_rules(&c);
    if (c.err == NEF_OK)
        g = finish(&c, v, start, lazy);
    if (g != NULL)
        *out_grammar = g;
out:
    compile_done(&c);
    return c.err;
}

/* ---- life ---- */

struct nef_grammar *nef_grammar_ref(struct nef_grammar *g)
{
    (void)atomic_fetch_add_explicit(&g->references, 1, memory_order_relaxed);
    return g;
}

void nef_grammar_unref(struct nef_grammar *g)
{
    if (g == NULL || atomic_fetch_sub_explicit(&g->references, 1, memory_order_acq_rel) > 1)
        return;
    for (uint32_t i = 0; i < g->machine.state_count; i++)
        nef_mask_free(atomic_load_explicit(&g->masks[i], memory_order_relaxed));
    (void)atomic_fetch_sub_explicit(&g->vocab->cached, atomic_load(&g->cached), memory_order_relaxed);
    free(g->masks);
    nef_machine_free(&g->machine);
    free(g);
}

uint32_t nef_grammar_words(const struct nef_grammar *g)
{
    return g->vocab->words;
}

size_t nef_grammar_bytes(const struct nef_grammar *g)
{
    return sizeof(*g) + nef_machine_bytes(&g->machine) + g->machine.state_count * sizeof(*g->masks) +
           atomic_load_explicit(&g->cached, memory_order_relaxed);
}
