/* A JSON Schema is checked before anything is made of it: every schema that can be reached is visited once, each
 * keyword must be known and well-formed, and how often a schema is referred to is counted (twice: it gets a rule).
 *
 * An unknown keyword is refused, never passed over: a client would get documents that its validator refuses. Those
 * that state nothing about documents (title and the like) are passed over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "infer/grammar/compile.h"

enum { ANNOTATION, DEFINITIONS, ROOT, TYPE, VALUES, ANY_OF, REF, OBJECT, ARRAY, STRING, NUMBER, UNKNOWN };
static const struct {
    const char *name;
    int what;
} keywords[] = {
    {"title", ANNOTATION},
    {"description", ANNOTATION},
    {"default", ANNOTATION},
    {"examples", ANNOTATION},
    {"$comment", ANNOTATION},
    {"$schema", ANNOTATION},
    {"deprecated", ANNOTATION},
    {"readOnly", ANNOTATION},
    {"writeOnly", ANNOTATION},
    {"$id", ROOT},
    {"$defs", DEFINITIONS},
    {"definitions", DEFINITIONS},
    {"type", TYPE},
    {"enum", VALUES},
    {"const", VALUES},
    {"anyOf", ANY_OF},
    {"$ref", REF},
    {"properties", OBJECT},
    {"required", OBJECT},
    {"additionalProperties", OBJECT},
    {"items", ARRAY},
    {"minItems", ARRAY},
    {"maxItems", ARRAY},
    {"pattern", STRING},
    {"format", STRING},
    {"minLength", STRING},
    {"maxLength", STRING},
    {"minimum", NUMBER},
    {"maximum", NUMBER},
    {"exclusiveMinimum", NUMBER},
    {"exclusiveMaximum", NUMBER},
};

static int what_is(const char *keyword)
{
    for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
        if (strcmp(keywords[i].name, keyword) == 0)
            return keywords[i].what;
    return UNKNOWN;
}

/* ---- where we are ---- */

static size_t enter(struct nef_compile *c, const char *step)
{
    size_t before = c->where.bytes;

    nef_buf_u8(&c->where, '/');
    for (; *step != '\0'; step++)
        if (*step == '~' || *step == '/')
            nef_buf_text(&c->where, *step == '~' ? "~0" : "~1");
        else
            nef_buf_u8(&c->where, (uint8_t)*step);
    return before;
}

static void leave(struct nef_compile *c, size_t before)
{
    if (!c->where.failed)
        c->where.bytes = before;
}

/* ---- nodes ---- */

static uint32_t slot_of(const struct nef_compile *c, const json_t *json, const json_t *root)
{
    uint64_t h =
        ((uint64_t)(uintptr_t)json * 0x9e3779b97f4a7c15ull) ^ ((uint64_t)(uintptr_t)root * 0xc2b2ae3d27d4eb4full);
    uint32_t at = (uint32_t)(h >> 32) & (c->node_table_size - 1);

    while (c->node_table[at] != 0) {
        const struct nef_schema_node *node = &c->nodes[c->node_table[at] - 1];

        if (node->json == json && node->root == root)
            break;
        at = (at + 1) & (c->node_table_size - 1);
    }
    return at;
}

uint32_t nef_schema_node(struct nef_compile *c, const json_t *json, const json_t *root)
{
    uint32_t at = slot_of(c, json, root);

    if (c->node_table[at] != 0)
        return c->node_table[at] - 1;
    if (c->node_count >= NEF_SCHEMA_NODES_MAX) {
        nef_compile_fail(c, NEF_E_LIMIT, "the schema is too large (more than %u schemas)", NEF_SCHEMA_NODES_MAX);
        return 0;
    }
    if (!nef_room((void **)&c->nodes, &c->node_room, c->node_count, sizeof(*c->nodes))) {
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return 0;
    }
    c->nodes[c->node_count] = (struct nef_schema_node){.json = json, .root = root};
    c->node_table[at] = (uint32_t)++c->node_count;
    return (uint32_t)c->node_count - 1;
}

/* One step of a pointer, decoded (RFC 6901 section 6: percent-encoding, then ~1 and ~0). False: malformed. */
static bool decode_step(const char *step, size_t bytes, char *out)
{
    char *from = out, *to = out, *end = out;

    for (size_t i = 0; i < bytes; i++) {
        char hex[3] = {0};

        if (step[i] != '%') {
            *end++ = step[i];
            continue;
        }
        if (i + 2 >= bytes || strspn(step + i + 1, "0123456789abcdefABCDEF") < 2)
            return false;
        memcpy(hex, step + i + 1, 2);
        *end++ = (char)strtoul(hex, NULL, 16);
        i += 2;
    }
    for (; from < end; from++) {
        if (*from == '~' && (from + 1 == end || (from[1] != '0' && from[1] != '1')))
            return false;
        if (*from == '~')
            *to++ = *++from == '0' ? '~' : '/';
        else
            *to++ = *from;
    }
    *to = '\0';
    return true;
}

const json_t *nef_schema_resolve(const json_t *root, const char *ref)
{
    const json_t *at = root;
    char *step;

    if (ref[0] != '#' || (ref[1] != '\0' && ref[1] != '/'))
        return NULL;
    step = malloc(strlen(ref) + 1);
    if (step == NULL)
        return NULL;
    for (ref++; *ref == '/' && at != NULL;) {
        size_t bytes = strcspn(++ref, "/");

        if (!decode_step(ref, bytes, step))
            at = NULL;
        else if (json_is_array(at))
            at = strspn(step, "0123456789") == strlen(step) && *step != '\0' && strlen(step) < 9
                     ? json_array_get(at, strtoul(step, NULL, 10))
                     : NULL;
        else
            at = json_object_get(at, step);
        ref += bytes;
    }
    free(step);
    return at;
}

/* ---- keywords ---- */

static void visit(struct nef_compile *c, const json_t *schema);

static void check_type(struct nef_compile *c, const json_t *type)
{
    static const char *const names[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
    size_t count = json_is_array(type) ? json_array_size(type) : 1;

    if (count == 0)
        nef_compile_fail_at(c, NEF_E_INVALID, "\"type\" names none");
    for (size_t i = 0; i < count && c->err == NEF_OK; i++) {
        const char *name = json_string_value(json_is_array(type) ? json_array_get(type, i) : type);
        bool known = false;

        for (size_t k = 0; name != NULL && k < sizeof(names) / sizeof(names[0]); k++)
            known |= strcmp(names[k], name) == 0;
        if (!known)
            nef_compile_fail_at(c, NEF_E_INVALID, "unknown \"type\" \"%.40s\"", name != NULL ? name : "");
    }
}

static uint32_t check_count(struct nef_compile *c, const json_t *schema, const char *keyword, uint32_t absent,
                            uint32_t max)
{
    const json_t *value = json_object_get(schema, keyword);

    if (value == NULL || c->err != NEF_OK)
        return absent;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        nef_compile_fail_at(c, NEF_E_INVALID, "\"%s\" is no count", keyword);
    else if (json_integer_value(value) > (json_int_t)max)
        nef_compile_fail_at(c, NEF_E_LIMIT, "\"%s\" above %u is not supported", keyword, max);
    else
        return (uint32_t)json_integer_value(value);
    return absent;
}

static void check_counts(struct nef_compile *c, const json_t *schema, const char *low, const char *high, uint32_t max)
{
    uint32_t least = check_count(c, schema, low, 0, max), most = check_count(c, schema, high, max, max);

    if (least > most)
        nef_compile_fail_at(c, NEF_E_INVALID, "\"%s\" is greater than \"%s\"", low, high);
}

static void check_properties(struct nef_compile *c, const json_t *schema)
{
    json_t *properties = json_object_get(schema, "properties");
    const char *name;
    json_t *value;

    if (properties != NULL && !json_is_object(properties))
        nef_compile_fail_at(c, NEF_E_INVALID, "\"properties\" is not an object");
    json_object_foreach(properties, name, value)
    {
        size_t outer = enter(c, "properties"), before = enter(c, name);

        visit(c, value);
        leave(c, before);
        leave(c, outer);
        if (c->err != NEF_OK)
            return;
    }
}

static void check_object(struct nef_compile *c, const json_t *schema)
{
    const json_t *required = json_object_get(schema, "required"),
                 *more = json_object_get(schema, "additionalProperties");
    const json_t *properties = json_object_get(schema, "properties");
    bool open = more != NULL ? !json_is_false(more) : properties == NULL;

    check_properties(c, schema);
    if (c->err == NEF_OK && more != NULL && !json_is_boolean(more)) {
        size_t before = enter(c, "additionalProperties");

        visit(c, more);
        leave(c, before);
    }
    if (required != NULL && !json_is_array(required))
        nef_compile_fail_at(c, NEF_E_INVALID, "\"required\" is not an array");
    for (size_t i = 0; i < json_array_size(required) && c->err == NEF_OK; i++) {
        const char *name = json_string_value(json_array_get(required, i));

        if (name == NULL)
            nef_compile_fail_at(c, NEF_E_INVALID, "\"required\" holds what is no name");
        else if (!open && json_object_get(properties, name) == NULL)
            nef_compile_fail_at(c, NEF_E_INVALID, "\"required\" names \"%.60s\", which is not in \"properties\"", name);
    }
}

static void check_array(struct nef_compile *c, const json_t *schema)
{
    const json_t *items = json_object_get(schema, "items");

    check_counts(c, schema, "minItems", "maxItems", NEF_SCHEMA_COUNT_MAX);
    if (json_is_array(items))
        nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "\"items\" as an array is not supported");
    if (items != NULL && c->err == NEF_OK) {
        size_t before = enter(c, "items");

        visit(c, items);
        leave(c, before);
    }
}

static void check_any_of(struct nef_compile *c, const json_t *list)
{
    size_t outer;

    if (!json_is_array(list) || json_array_size(list) == 0)
        nef_compile_fail_at(c, NEF_E_INVALID, "\"anyOf\" is not an array of schemas");
    outer = enter(c, "anyOf");
    for (size_t i = 0; i < json_array_size(list) && c->err == NEF_OK; i++) {
        char number[24];
        size_t before;

        (void)snprintf(number, sizeof(number), "%zu", i);
        before = enter(c, number);
        visit(c, json_array_get(list, i));
        leave(c, before);
    }
    leave(c, outer);
}

static void check_values(struct nef_compile *c, const json_t *schema)
{
    const json_t *list = json_object_get(schema, "enum");

    if (list != NULL && json_object_get(schema, "const") != NULL)
        nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "\"const\" beside \"enum\" is not supported");
    else if (list != NULL && (!json_is_array(list) || json_array_size(list) == 0))
        nef_compile_fail_at(c, NEF_E_INVALID, "\"enum\" is not an array of values");
}

/* The target has a place of its own, which errors in it name. */
static void check_ref(struct nef_compile *c, const json_t *ref)
{
    const char *text = json_string_value(ref);
    const json_t *target = text != NULL ? nef_schema_resolve(c->root, text) : NULL;
    size_t bytes = c->where.bytes;
    char *before;

    if (text != NULL && strlen(text) > NEF_SCHEMA_REF_MAX) {
        nef_compile_fail_at(c, NEF_E_LIMIT, "\"$ref\" is longer than %u bytes", NEF_SCHEMA_REF_MAX);
        return;
    }
    if (text == NULL || target == NULL) {
        nef_compile_fail_at(c, text == NULL || text[0] == '#' ? NEF_E_INVALID : NEF_E_UNSUPPORTED,
                            "\"$ref\" \"%.60s\" leads to nothing inside this schema", text != NULL ? text : "");
        return;
    }
    before = malloc(bytes + 1);
    if (before == NULL) {
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return;
    }
    if (bytes > 0)
        memcpy(before, c->where.data, bytes);
    leave(c, c->where_root);
    nef_buf_text(&c->where, text);
    visit(c, target);
    leave(c, 0);
    nef_buf_append(&c->where, before, bytes);
    free(before);
}

/* Keywords that replace all others but annotations. */
static void check_beside(struct nef_compile *c, const json_t *schema, const char *main, bool type)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)schema, name, value)
    {
        int what = what_is(name);

        if (strcmp(name, main) != 0 && what != ANNOTATION && what != DEFINITIONS && what != ROOT &&
            !(type && what == TYPE)) {
            nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "\"%.60s\" beside \"%s\" is not supported", name, main);
            return;
        }
    }
}

static void check_keywords(struct nef_compile *c, const json_t *schema)
{
    bool has[UNKNOWN + 1] = {false};
    const json_t *type = json_object_get(schema, "type");
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)schema, name, value)
    {
        int what = what_is(name);

        has[what] = true;
        if (what == UNKNOWN || (what == ROOT && schema != c->root)) {
            nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "unsupported keyword \"%.60s\"", name);
            return;
        }
    }
    if (type != NULL)
        check_type(c, type);
    if (has[REF]) {
        check_beside(c, schema, "$ref", false);
        if (c->err == NEF_OK)
            check_ref(c, json_object_get(schema, "$ref"));
    } else if (has[ANY_OF]) {
        check_beside(c, schema, "anyOf", false);
        if (c->err == NEF_OK)
            check_any_of(c, json_object_get(schema, "anyOf"));
    } else if (has[VALUES]) {
        check_values(c, schema);
        check_beside(c, schema, json_object_get(schema, "enum") != NULL ? "enum" : "const", true);
    } else {
        if (has[OBJECT])
            check_object(c, schema);
        if (has[ARRAY])
            check_array(c, schema);
        if (has[STRING]) {
            check_counts(c, schema, "minLength", "maxLength", NEF_NO_BOUND - 1);
            nef_string_check(c, schema);
        }
        if (has[NUMBER]) {
            nef_number_check(c, schema, false);
            nef_number_check(c, schema, true);
        }
    }
}

static void visit(struct nef_compile *c, const json_t *schema)
{
    uint32_t node;

    if (c->err != NEF_OK || json_is_true(schema))
        return;
    if (!json_is_object(schema)) {
        if (json_is_false(schema))
            nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "\"false\" as a schema is not supported");
        else
            nef_compile_fail_at(c, NEF_E_INVALID, "no schema");
        return;
    }
    node = nef_schema_node(c, schema, c->root);
    if (c->err != NEF_OK || c->nodes[node].visits++ > 0)
        return;
    if (++c->depth > NEF_SCHEMA_DEPTH_MAX)
        nef_compile_fail_at(c, NEF_E_LIMIT, "schemas nested more than %u deep", NEF_SCHEMA_DEPTH_MAX);
    else
        check_keywords(c, schema);
    c->depth--;
}

void nef_schema_check(struct nef_compile *c, const json_t *schema)
{
    c->root = schema;
    leave(c, c->where_root);
    nef_buf_u8(&c->where, '#');
    visit(c, schema);
    leave(c, c->where_root);
    if (c->where.failed)
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
}
