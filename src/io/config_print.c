/* Writes a configuration back as YAML, with each field's help as its comment; see config.h. PURE.
 */
#include <string.h>
#include "io/config_internal.h"

static void print_map(const struct nef_config_schema *schema, const char *base, unsigned depth,
                      bool in_list, struct nef_buf *out);

static void indent(struct nef_buf *out, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++)
        nef_buf_text(out, "  ");
}

static void print_help(const char *help, unsigned depth, struct nef_buf *out)
{
    while (help != NULL && *help != '\0') {
        size_t n = strcspn(help, "\n");

        indent(out, depth);
        nef_buf_text(out, "# ");
        nef_buf_append(out, help, n);
        nef_buf_text(out, "\n");
        help += n + (help[n] == '\n');
    }
}

static bool absent(const struct nef_config_field *field, const char *base)
{
    if (nef_config_is_text(field->kind))
        return *(char *const *)(const void *)(base + field->offset) == NULL;
    if (field->kind == NEF_CONFIG_MAP && field->flag != 0)
        return !*(const bool *)(base + field->flag - 1);
    if (field->kind == NEF_CONFIG_LIST && field->min > 0) /* "[]" would be refused */
        return *(const uint32_t *)(const void *)(base + field->count) == 0;
    return false;
}

/* A mapping in which nothing is set would print as an empty value, which the reader refuses. */
static bool empty_map(const struct nef_config_schema *schema, const char *base)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct nef_config_field *field = &schema->fields[i];

        if (absent(field, base))
            continue;
        if (field->kind != NEF_CONFIG_MAP || !empty_map(field->map, base + field->offset))
            return false;
    }
    return true;
}

static void print_list(const struct nef_config_field *field, const char *base, unsigned depth,
                       struct nef_buf *out)
{
    const char *items = *(char *const *)(const void *)(base + field->offset);
    uint32_t count = *(const uint32_t *)(const void *)(base + field->count);

    if (count == 0) {
        nef_buf_text(out, " []\n");
        return;
    }
    nef_buf_text(out, "\n");
    for (uint32_t i = 0; i < count; i++) {
        const char *item = items + i * field->item_bytes;

        indent(out, depth + 1);
        nef_buf_text(out, "- ");
        if (field->item->kind == NEF_CONFIG_MAP) {
            print_map(field->item->map, item + field->item->offset, depth + 2, true, out);
        } else {
            nef_config_scalar_text(field->item, item + field->item->offset, out);
            nef_buf_text(out, "\n");
        }
    }
}

/* in_list: the first line stands behind "- " already, and the entries of a list carry no comments.
 */
static void print_map(const struct nef_config_schema *schema, const char *base, unsigned depth,
                      bool in_list, struct nef_buf *out)
{
    bool first = true;

    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct nef_config_field *field = &schema->fields[i];

        if (absent(field, base) ||
            (field->kind == NEF_CONFIG_MAP && empty_map(field->map, base + field->offset)))
            continue;
        if (!in_list) {
            if (depth == 0 && !first && (field->help != NULL || field->kind == NEF_CONFIG_MAP))
                nef_buf_text(out, "\n");
            print_help(field->help, depth, out);
        }
        if (!in_list || !first)
            indent(out, depth);
        first = false;
        nef_buf_printf(out, "%s:", field->name);
        if (field->kind == NEF_CONFIG_MAP) {
            nef_buf_text(out, "\n");
            print_map(field->map, base + field->offset, depth + 1, false, out);
        } else if (field->kind == NEF_CONFIG_LIST) {
            print_list(field, base, depth, out);
        } else {
            nef_buf_text(out, " ");
            nef_config_scalar_text(field, base + field->offset, out);
            nef_buf_text(out, "\n");
        }
    }
}

void nef_config_print(const struct nef_config_schema *schema, const void *values,
                      struct nef_buf *out)
{
    print_map(schema, values, 0, false, out);
}
