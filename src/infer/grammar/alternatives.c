/* What a value at one place of a schema may be: $ref and anyOf are followed until only schemas with one type or a list
 * of values remain. A schema without a keyword for its type is node 0 ({}), so that all of those are one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "infer/grammar/compile.h"

static void add(struct nef_compile *c, struct nef_alternatives *out, uint32_t node, enum nef_alternative_kind kind,
                bool shared)
{
    struct nef_alternative a = {.node = node, .kind = (uint8_t)kind, .shared = shared || node == 0};
    size_t low = 0, high = out->count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (out->list[middle].node < node || (out->list[middle].node == node && out->list[middle].kind < a.kind))
            low = middle + 1;
        else
            high = middle;
    }
    if (low < out->count && out->list[low].node == node && out->list[low].kind == a.kind) {
        out->list[low].shared |= a.shared;
        return;
    }
    if (out->count >= NEF_SCHEMA_ALTERNATIVES_MAX) {
        nef_compile_fail(c, NEF_E_LIMIT, "more than %u alternatives at one place", NEF_SCHEMA_ALTERNATIVES_MAX);
        return;
    }
    if (!nef_room((void **)&out->list, &out->room, out->count, sizeof(*out->list))) {
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return;
    }
    memmove(out->list + low + 1, out->list + low, (out->count - low) * sizeof(*out->list));
    out->list[low] = a;
    out->count++;
}

/* Bit per kind: the keywords of a schema speak of it. */
static unsigned constrained(const json_t *schema)
{
    static const struct {
        const char *keyword;
        unsigned kinds;
    } of[] = {
        {"properties", 1u << NEF_KIND_OBJECT},
        {"required", 1u << NEF_KIND_OBJECT},
        {"additionalProperties", 1u << NEF_KIND_OBJECT},
        {"items", 1u << NEF_KIND_ARRAY},
        {"minItems", 1u << NEF_KIND_ARRAY},
        {"maxItems", 1u << NEF_KIND_ARRAY},
        {"pattern", 1u << NEF_KIND_STRING},
        {"format", 1u << NEF_KIND_STRING},
        {"minLength", 1u << NEF_KIND_STRING},
        {"maxLength", 1u << NEF_KIND_STRING},
        {"minimum", 1u << NEF_KIND_NUMBER},
        {"maximum", 1u << NEF_KIND_NUMBER},
        {"exclusiveMinimum", 1u << NEF_KIND_NUMBER},
        {"exclusiveMaximum", 1u << NEF_KIND_NUMBER},
    };
    unsigned kinds = 0;

    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
        if (json_object_get(schema, of[i].keyword) != NULL)
            kinds |= of[i].kinds;
    if ((kinds & 1u << NEF_KIND_NUMBER) != 0)
        kinds |= 1u << NEF_KIND_INTEGER;
    return kinds;
}

static unsigned kind_of_name(const char *name)
{
    static const char *const names[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) /* in the order of the enum */
        if (strcmp(names[i], name) == 0)
            return 1u << i;
    return 0;
}

static unsigned kinds_of(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type");
    unsigned kinds = 0;

    if (json_is_string(type))
        kinds = kind_of_name(json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++)
        kinds |= kind_of_name(json_string_value(json_array_get(type, i)));
    if (type == NULL)
        kinds = constrained(schema);
    if (kinds == 0)
        kinds = (1u << NEF_KIND_VALUES) - 1;
    if ((kinds & 1u << NEF_KIND_NUMBER) != 0) /* integers are numbers */
        kinds &= ~(1u << NEF_KIND_INTEGER);
    return kinds;
}

bool nef_value_has_kind(const json_t *value, enum nef_alternative_kind kind)
{
    switch (kind) {
    case NEF_KIND_OBJECT:
        return json_is_object(value);
    case NEF_KIND_ARRAY:
        return json_is_array(value);
    case NEF_KIND_STRING:
        return json_is_string(value);
    case NEF_KIND_NUMBER:
        return json_is_number(value);
    case NEF_KIND_INTEGER:
        return json_is_integer(value) ||
               (json_is_real(value) && floor(json_real_value(value)) == json_real_value(value));
    case NEF_KIND_BOOLEAN:
        return json_is_boolean(value);
    case NEF_KIND_NULL:
        return json_is_null(value);
    case NEF_KIND_VALUES:
        break;
    }
    return false;
}

static void flatten(struct nef_compile *c, const json_t *schema, const json_t *root, bool shared, unsigned depth,
                    struct nef_alternatives *out)
{
    const json_t *ref = json_object_get(schema, "$ref"), *list = json_object_get(schema, "anyOf");
    uint32_t node = json_is_true(schema) || schema == c->any ? 0 : nef_schema_node(c, schema, root);

    if (c->err != NEF_OK || c->nodes[node].active) /* a schema that may be itself: that adds nothing */
        return;
    if (depth > NEF_SCHEMA_DEPTH_MAX) {
        nef_compile_fail(c, NEF_E_LIMIT, "a \"$ref\" leads on more than %u times", NEF_SCHEMA_DEPTH_MAX);
        return;
    }
    if (!nef_compile_work(c, ref != NULL ? NEF_SCHEMA_REF_MAX / 16 : 1))
        return;
    shared |= c->nodes[node].visits > 1;
    c->nodes[node].active = true;
    if (ref != NULL) {
        flatten(c, nef_schema_resolve(root, json_string_value(ref)), root, shared, depth + 1, out);
    } else if (list != NULL) {
        for (size_t i = 0; i < json_array_size(list); i++)
            flatten(c, json_array_get(list, i), root, shared, depth + 1, out);
    } else if (json_object_get(schema, "enum") != NULL || json_object_get(schema, "const") != NULL) {
        add(c, out, node, NEF_KIND_VALUES, shared);
    } else {
        unsigned kinds = kinds_of(schema), own = constrained(schema);

        for (unsigned kind = 0; kind < NEF_KIND_VALUES; kind++)
            if ((kinds & 1u << kind) != 0)
                add(c, out, (own & 1u << kind) != 0 ? node : 0, (enum nef_alternative_kind)kind, shared);
    }
    c->nodes[node].active = false;
}

void nef_alternatives_of(struct nef_compile *c, const json_t *schema, const json_t *root, struct nef_alternatives *out)
{
    flatten(c, schema, root, false, 0, out);
}
