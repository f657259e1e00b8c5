/* Nodes of a schema to NFA edges: objects, arrays, values that are listed; and which of them become rules.
 *
 * An object's properties come in the schema's order. At each property there are two states: none was written yet
 * (first), or some were (later), where a comma comes before the next:
 *
 *   first --------------> key --"name": value--> later'        first --(optional)--> first'
 *   later --, or ", "-->  key                                  later --(optional)--> later'
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "infer/grammar/compile.h"

/* ---- rules ---- */

static uint64_t hash(const struct nef_alternative *list, size_t count, bool called)
{
    uint64_t h = 14695981039346656037ull + called;

    for (size_t i = 0; i < count; i++)
        h = (h ^ ((uint64_t)list[i].node << 8 | list[i].kind)) * 1099511628211ull;
    return h ^ h >> 29;
}

static bool same(const struct nef_compile *c, const struct nef_rule *rule, const struct nef_alternative *list,
                 size_t count)
{
    if (rule->count != count || rule->called != c->called)
        return false;
    for (size_t i = 0; i < count; i++)
        if (c->rule_alternatives[rule->first + i].node != list[i].node ||
            c->rule_alternatives[rule->first + i].kind != list[i].kind)
            return false;
    return true;
}

/* The callee for any of LIST. */
static uint32_t rule_for(struct nef_compile *c, const struct nef_alternative *list, size_t count)
{
    struct nef_rule rule = {
        .first = (uint32_t)c->rule_alternative_count, .count = (uint32_t)count, .called = c->called};
    uint32_t at = (uint32_t)hash(list, count, c->called) & (c->rule_table_size - 1);
    nef_err err;

    for (; c->rule_table[at] != 0; at = (at + 1) & (c->rule_table_size - 1))
        if (same(c, &c->rules[c->rule_table[at] - 1], list, count))
            return c->rules[c->rule_table[at] - 1].callee;
    if (c->rule_count >= NEF_GRAMMAR_RULES_MAX || c->rule_alternative_count + count > NEF_GRAMMAR_NFA_MAX) {
        nef_compile_fail(c, NEF_E_LIMIT, "the schema is too large (more than %u rules)", NEF_GRAMMAR_RULES_MAX);
        return 0;
    }
    err = nef_machine_callee(&c->machine, (struct nef_callee){NEF_NO_STATE, 0, NEF_NO_BOUND}, &rule.callee);
    if (err != NEF_OK || !nef_room((void **)&c->rules, &c->rule_room, c->rule_count, sizeof(*c->rules))) {
        nef_compile_fail(c, err != NEF_OK ? err : NEF_E_NOMEM, "the schema is too large, or out of memory");
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (!nef_room((void **)&c->rule_alternatives, &c->rule_alternative_room, c->rule_alternative_count,
                      sizeof(*c->rule_alternatives))) {
            nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
            return 0;
        }
        c->rule_alternatives[c->rule_alternative_count++] = list[i];
    }
    c->rules[c->rule_count] = rule;
    c->rule_table[at] = (uint32_t)++c->rule_count;
    return rule.callee;
}

void nef_emit_rules(struct nef_compile *c)
{
    for (size_t i = 0; i < c->rule_count && c->err == NEF_OK; i++) { /* grows meanwhile */
        struct nef_rule rule = c->rules[i];
        uint32_t start, final;

        c->nfa_count = 0;
        c->nfa_states = 0;
        c->containers = 0;
        c->called = rule.called;
        start = nef_nfa_state(c);
        final = nef_nfa_state(c);
        for (uint32_t k = 0; k < rule.count && c->err == NEF_OK; k++)
            nef_emit_alternative(c, start, c->rule_alternatives[rule.first + k], final);
        start = nef_dfa_make(c, start, final);
        c->machine.callees[rule.callee].start = start;
    }
}

/* ---- values that are listed ---- */

static void emit_real(struct nef_compile *c, uint32_t from, double value, uint32_t to)
{
    char text[40];
    uint32_t end;

    for (int precision = 1; precision <= 17; precision++) {
        (void)snprintf(text, sizeof(text), "%.*g", precision, value);
        if (strtod(text, NULL) == value)
            break;
    }
    end = nef_nfa_text(c, from, text, strlen(text));
    nef_nfa_empty(c, end, to);
    if (strpbrk(text, ".e") == NULL) /* 1.0 is 1 too */
        nef_nfa_empty(c, nef_nfa_text(c, end, ".0", 2), to);
}

static void emit_json(struct nef_compile *c, uint32_t from, const json_t *value, unsigned depth, uint32_t to)
{
    uint32_t at = from;
    const char *name;
    json_t *member;
    char text[32];
    bool first = true;

    if (depth > NEF_GRAMMAR_DEPTH_MAX)
        nef_compile_fail(c, NEF_E_LIMIT, "a value of \"enum\" or \"const\" is nested more than %u deep",
                         NEF_GRAMMAR_DEPTH_MAX);
    if (c->err != NEF_OK)
        return;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        at = nef_nfa_text(c, at, "{", 1);
        json_object_foreach((json_t *)value, name, member)
        {
            uint32_t end = nef_nfa_state(c);

            if (!first)
                at = nef_nfa_space(c, nef_nfa_text(c, at, ",", 1));
            first = false;
            at = nef_nfa_space(c, nef_nfa_text(c, nef_nfa_string(c, at, name, strlen(name)), ":", 1));
            emit_json(c, at, member, depth + 1, end);
            at = end;
        }
        at = nef_nfa_text(c, at, "}", 1);
        break;
    case JSON_ARRAY:
        at = nef_nfa_text(c, at, "[", 1);
        for (size_t i = 0; i < json_array_size(value); i++) {
            uint32_t end = nef_nfa_state(c);

            if (i > 0)
                at = nef_nfa_space(c, nef_nfa_text(c, at, ",", 1));
            emit_json(c, at, json_array_get(value, i), depth + 1, end);
            at = end;
        }
        at = nef_nfa_text(c, at, "]", 1);
        break;
    case JSON_STRING:
        at = nef_nfa_string(c, at, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        (void)snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        at = nef_nfa_text(c, at, text, strlen(text));
        break;
    case JSON_REAL:
        emit_real(c, at, json_real_value(value), to);
        return;
    case JSON_TRUE:
        at = nef_nfa_text(c, at, "true", 4);
        break;
    case JSON_FALSE:
        at = nef_nfa_text(c, at, "false", 5);
        break;
    case JSON_NULL:
        at = nef_nfa_text(c, at, "null", 4);
        break;
    }
    nef_nfa_empty(c, at, to);
}

void nef_emit_json(struct nef_compile *c, uint32_t from, const json_t *value, uint32_t to)
{
    emit_json(c, from, value, 0, to);
}

static void emit_values(struct nef_compile *c, uint32_t from, const json_t *schema, uint32_t to)
{
    const json_t *list = json_object_get(schema, "enum"), *type = json_object_get(schema, "type");
    size_t count = list != NULL ? json_array_size(list) : 1;

    for (size_t i = 0; i < count && c->err == NEF_OK; i++) {
        const json_t *value = list != NULL ? json_array_get(list, i) : json_object_get(schema, "const");
        static const char *const names[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
        bool fits = type == NULL;

        for (unsigned kind = 0; kind < NEF_KIND_VALUES; kind++) {
            if (!nef_value_has_kind(value, (enum nef_alternative_kind)kind))
                continue;
            if (json_is_string(type))
                fits |= strcmp(json_string_value(type), names[kind]) == 0;
            for (size_t k = 0; k < json_array_size(type); k++)
                fits |= strcmp(json_string_value(json_array_get(type, k)), names[kind]) == 0;
        }
        if (fits)
            nef_emit_json(c, from, value, to);
    }
}

/* ---- objects ---- */

struct object { /* where the properties so far end */
    uint32_t first, later;
};

static uint32_t key_state(struct nef_compile *c, const struct object *o)
{
    uint32_t key = nef_nfa_state(c);

    nef_nfa_empty(c, o->first, key);
    nef_nfa_empty(c, nef_nfa_space(c, nef_nfa_text(c, o->later, ",", 1)), key);
    return key;
}

static uint32_t emit_member(struct nef_compile *c, uint32_t after_key, const json_t *schema, const json_t *root)
{
    return nef_emit_value(c, nef_nfa_space(c, nef_nfa_text(c, after_key, ":", 1)), schema, root, false);
}

static void emit_property(struct nef_compile *c, struct object *o, const char *name, const json_t *schema,
                          const json_t *root, bool required)
{
    uint32_t end = emit_member(c, nef_nfa_string(c, key_state(c, o), name, strlen(name)), schema, root);
    struct object next = {nef_nfa_state(c), end};

    if (!required) {
        nef_nfa_empty(c, o->first, next.first);
        nef_nfa_empty(c, o->later, next.later);
    }
    *o = next;
}

/* The names of a list, as keys of an object: quick to look up. */
static json_t *names_of(struct nef_compile *c, const json_t *list)
{
    json_t *names = json_object();
    bool good = names != NULL && nef_compile_work(c, json_array_size(list));

    for (size_t i = 0; i < json_array_size(list) && good; i++)
        good = json_object_set_new(names, json_string_value(json_array_get(list, i)), json_null()) == 0;
    if (!good)
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory"); /* unless it was the work */
    return names;
}

/* Properties that no keyword forbids: after the others, and required ones among them first. */
static void emit_others(struct nef_compile *c, struct object *o, json_t *required, const json_t *properties,
                        const json_t *schema, const json_t *root)
{
    uint32_t key, after = nef_nfa_state(c);
    const char *name;
    json_t *value, *taken = json_object();

    if (taken == NULL) {
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return;
    }
    json_object_foreach(required, name, value)
    {
        if (json_object_get(properties, name) == NULL)
            emit_property(c, o, name, schema, root, true);
        if (json_object_set_new(taken, name, json_null()) != 0)
            nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
    }
    json_object_foreach((json_t *)properties, name, value) if (json_object_set_new(taken, name, json_null()) != 0)
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
    key = key_state(c, o);
    nef_string_other_key(c, key, taken, after);
    nef_nfa_empty(c, emit_member(c, after, schema, root), o->later);
    json_decref(taken);
}

static void emit_object(struct nef_compile *c, uint32_t from, const json_t *schema, const json_t *root, uint32_t to)
{
    json_t *properties = json_object_get(schema, "properties"), *value;
    const json_t *more = json_object_get(schema, "additionalProperties");
    json_t *required = names_of(c, json_object_get(schema, "required"));
    struct object o = {nef_nfa_text(c, from, "{", 1), nef_nfa_state(c)};
    uint32_t close = nef_nfa_state(c);
    const char *name;

    c->containers++;
    json_object_foreach(properties, name, value)
    {
        if (c->err != NEF_OK)
            break;
        emit_property(c, &o, name, value, root, json_object_get(required, name) != NULL);
    }
    if (c->err == NEF_OK && (more != NULL ? !json_is_false(more) : properties == NULL))
        emit_others(c, &o, required, properties, json_is_object(more) ? more : c->any, root);
    nef_nfa_empty(c, o.first, close);
    nef_nfa_empty(c, o.later, close);
    nef_nfa_bytes(c, close, '}', '}', to);
    c->containers--;
    json_decref(required);
}

/* ---- arrays ---- */

static uint32_t count_of(const json_t *schema, const char *keyword, uint32_t absent)
{
    const json_t *value = json_object_get(schema, keyword);

    return value != NULL ? (uint32_t)json_integer_value(value) : absent;
}

static void emit_array(struct nef_compile *c, uint32_t from, const json_t *schema, const json_t *root, uint32_t to)
{
    const json_t *items = json_object_get(schema, "items");
    uint32_t min = count_of(schema, "minItems", 0), max = count_of(schema, "maxItems", NEF_NO_BOUND);
    uint32_t copies = max != NEF_NO_BOUND ? max : min > 0 ? min : 1;
    uint32_t at = nef_nfa_text(c, from, "[", 1), close = nef_nfa_state(c);

    c->containers++;
    if (min == 0)
        nef_nfa_empty(c, at, close);
    for (uint32_t i = 0; i < copies && c->err == NEF_OK; i++) {
        uint32_t item = nef_nfa_state(c);

        nef_nfa_empty(c, i > 0 ? nef_nfa_space(c, nef_nfa_text(c, at, ",", 1)) : at, item);
        at = nef_emit_value(c, item, items != NULL ? items : c->any, root, copies > 2);
        if (i + 1 >= min)
            nef_nfa_empty(c, at, close);
        if (max == NEF_NO_BOUND && i + 1 == copies) /* and any number more */
            nef_nfa_empty(c, nef_nfa_space(c, nef_nfa_text(c, at, ",", 1)), item);
    }
    nef_nfa_bytes(c, close, ']', ']', to);
    c->containers--;
}

/* ---- any value ---- */

void nef_emit_alternative(struct nef_compile *c, uint32_t from, struct nef_alternative a, uint32_t to)
{
    const json_t *json = c->nodes[a.node].json, *root = c->nodes[a.node].root;

    switch ((enum nef_alternative_kind)a.kind) {
    case NEF_KIND_OBJECT:
        emit_object(c, from, json, root, to);
        break;
    case NEF_KIND_ARRAY:
        emit_array(c, from, json, root, to);
        break;
    case NEF_KIND_STRING:
        nef_string_emit(c, from, json, to);
        break;
    case NEF_KIND_NUMBER:
    case NEF_KIND_INTEGER:
        nef_number_emit(c, from, json, a.kind == NEF_KIND_INTEGER, to);
        break;
    case NEF_KIND_BOOLEAN:
        nef_nfa_empty(c, nef_nfa_text(c, from, "true", 4), to);
        nef_nfa_empty(c, nef_nfa_text(c, from, "false", 5), to);
        break;
    case NEF_KIND_NULL:
        nef_nfa_empty(c, nef_nfa_text(c, from, "null", 4), to);
        break;
    case NEF_KIND_VALUES:
        emit_values(c, from, json, to);
        break;
    }
}

/* All objects of LIST, or all arrays: they may have a common start, so they share a rule, or have none. */
static void emit_containers(struct nef_compile *c, uint32_t from, const struct nef_alternatives *list,
                            enum nef_alternative_kind kind, bool repeated, uint32_t to)
{
    struct nef_alternatives group = {0};
    bool rule = repeated || c->containers >= NEF_GRAMMAR_INLINE_MAX;

    for (size_t i = 0; i < list->count && c->err == NEF_OK; i++) {
        if (list->list[i].kind != kind)
            continue;
        if (!nef_room((void **)&group.list, &group.room, group.count, sizeof(*group.list))) {
            nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
            break;
        }
        rule |= list->list[i].shared;
        group.list[group.count++] = list->list[i];
    }
    if (group.count > 0 && rule)
        nef_nfa_call(c, from, rule_for(c, group.list, group.count), to);
    for (size_t i = 0; i < group.count && !rule && c->err == NEF_OK; i++)
        nef_emit_alternative(c, from, group.list[i], to);
    free(group.list);
}

uint32_t nef_emit_value(struct nef_compile *c, uint32_t from, const json_t *schema, const json_t *root, bool repeated)
{
    struct nef_alternatives list = {0};
    uint32_t to = nef_nfa_state(c);

    if (c->err == NEF_OK)
        nef_alternatives_of(c, schema, root, &list);
    emit_containers(c, from, &list, NEF_KIND_OBJECT, repeated, to);
    emit_containers(c, from, &list, NEF_KIND_ARRAY, repeated, to);
    for (size_t i = 0; i < list.count && c->err == NEF_OK; i++) {
        struct nef_alternative a = list.list[i];
        bool small = a.kind == NEF_KIND_BOOLEAN || a.kind == NEF_KIND_NULL ||
                     (a.kind == NEF_KIND_STRING && nef_string_plain(c->nodes[a.node].json));

        if (a.kind == NEF_KIND_OBJECT || a.kind == NEF_KIND_ARRAY)
            continue;
        if (!small && (a.shared || repeated))
            nef_nfa_call(c, from, rule_for(c, &a, 1), to);
        else
            nef_emit_alternative(c, from, a, to);
    }
    free(list.list);
    return to;
}
