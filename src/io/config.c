/* Configuration files against a schema; see config.h.
 *
 * libyaml's parser gives events, each with its line; a recursive descent takes them straight
 * against the schema. It goes no deeper than the schema does, because an unknown key is refused
 * before its value is looked at, and a value of the wrong shape is refused at its first event. So
 * neither depth nor breadth of a hostile file costs more than reading it: the file is bounded,
 * lists are bounded, and each key may stand once.
 *
 * Every value's key and line are kept beside it (struct nef_config_source) for checks that compare
 * several values after parsing. */
#include "io/config.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>
#include "base/assert.h"
#include "base/limits.h"
#include "io/config_internal.h"
#include "io/files.h"

#define KEY_BYTES 256u

struct place {
    char *key;
    size_t line;
};

struct nef_config_source {
    char *file;
    struct place *places;
    size_t count, room;
};

struct parse {
    yaml_parser_t yaml;
    yaml_event_t event; /* the current one */
    bool has_event;
    char dir[4096];
    char key[KEY_BYTES]; /* dotted, of where we are */
    struct nef_config_source *source;
    struct nef_config_error *error;
    bool nothing_required; /* only presets are wanted */
};

/* ---- complaints ---- */

static void vcomplain(const char *file, size_t line, const char *key,
                      struct nef_config_error *error, const char *format, va_list args)
{
    char why[256];

    (void)vsnprintf(why, sizeof(why), format, args);
    (void)snprintf(error->text, sizeof(error->text), "%s:%zu: %s%s%s", file, line, key,
                   key[0] == '\0' ? "" : ": ", why);
}

static nef_err complain(struct parse *p, size_t line, const char *format, ...) NEF_PRINTF(3, 4);
static nef_err complain(struct parse *p, size_t line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vcomplain(p->source->file, line, p->key, p->error, format, args);
    va_end(args);
    return NEF_E_CONFIG;
}

static nef_err no_memory(struct parse *p)
{
    (void)complain(p, 0, "out of memory"); /* the code below says it */
    return NEF_E_NOMEM;
}

nef_err nef_config_fail(const struct nef_config_source *source, const char *key,
                        struct nef_config_error *error, const char *format, ...)
{
    size_t best = 0, line = 1;
    va_list args;

    for (size_t i = 0; i < source->count; i++) {
        const char *have = source->places[i].key;
        size_t n = strlen(have);

        /* the key itself, or the mapping or list nearest around it */
        if (strncmp(key, have, n) == 0 && (key[n] == '\0' || key[n] == '.' || key[n] == '[') &&
            n >= best) {
            best = n;
            line = source->places[i].line;
        }
    }
    va_start(args, format);
    vcomplain(source->file, line, key, error, format, args);
    va_end(args);
    return NEF_E_CONFIG;
}

void nef_config_source_free(struct nef_config_source *source)
{
    if (source == NULL)
        return;
    for (size_t i = 0; i < source->count; i++)
        free(source->places[i].key);
    free(source->places);
    free(source->file);
    free(source);
}

static nef_err remember(struct parse *p, size_t line)
{
    struct nef_config_source *s = p->source;

    if (s->count == s->room) {
        size_t room = s->room == 0 ? 64 : s->room * 2;
        struct place *places = reallocarray(s->places, room, sizeof(*places));

        if (places == NULL)
            return no_memory(p);
        s->places = places;
        s->room = room;
    }
    s->places[s->count].key = strdup(p->key);
    if (s->places[s->count].key == NULL)
        return no_memory(p);
    s->places[s->count++].line = line;
    return NEF_OK;
}

/* ---- events ---- */

static size_t line_of(const struct parse *p)
{
    return p->event.start_mark.line + 1;
}

static nef_err next(struct parse *p)
{
    if (p->has_event)
        yaml_event_delete(&p->event);
    p->has_event = false;
    if (yaml_parser_parse(&p->yaml, &p->event) != 1) {
        size_t line = p->yaml.problem_mark.line + 1;

        p->key[0] = '\0';
        if (p->yaml.error == YAML_MEMORY_ERROR)
            return no_memory(p);
        return complain(p, line, "not valid YAML: %s",
                        p->yaml.problem == NULL ? "unreadable" : p->yaml.problem);
    }
    p->has_event = true;
    switch (p->event.type) {
    case YAML_ALIAS_EVENT:
        return complain(p, line_of(p), "aliases (*name) are not allowed");
    case YAML_SCALAR_EVENT:
        if (p->event.data.scalar.anchor != NULL)
            return complain(p, line_of(p), "anchors (&name) are not allowed");
        if (p->event.data.scalar.tag != NULL)
            return complain(p, line_of(p), "tags (!name) are not allowed");
        if (strlen((const char *)p->event.data.scalar.value) != p->event.data.scalar.length)
            return complain(p, line_of(p), "must not contain a zero byte");
        return NEF_OK;
    case YAML_SEQUENCE_START_EVENT:
        if (p->event.data.sequence_start.anchor != NULL || p->event.data.sequence_start.tag != NULL)
            return complain(p, line_of(p), "anchors and tags are not allowed");
        return NEF_OK;
    case YAML_MAPPING_START_EVENT:
        if (p->event.data.mapping_start.anchor != NULL || p->event.data.mapping_start.tag != NULL)
            return complain(p, line_of(p), "anchors and tags are not allowed");
        return NEF_OK;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return NEF_OK;
    }
    return complain(p, line_of(p), "not understood");
}

/* ---- values ---- */

static nef_err parse_map(struct parse *p, const struct nef_config_schema *schema, char *base,
                         size_t line);
static nef_err presets(struct parse *p, const struct nef_config_schema *schema, char *base,
                       uint64_t seen, size_t line);
static nef_err parse_value(struct parse *p, const struct nef_config_field *field, char *base);

/* Append to the dotted key; out_before: its length, for key_back. */
static nef_err key_enter(struct parse *p, const char *part, size_t *out_before)
{
    size_t n = strlen(p->key);

    *out_before = n;
    if (n + strlen(part) + 2 > sizeof(p->key))
        return complain(p, line_of(p), "the key is too long");
    (void)snprintf(p->key + n, sizeof(p->key) - n, "%s%s", n > 0 && part[0] != '[' ? "." : "",
                   part);
    return NEF_OK;
}

static void key_back(struct parse *p, size_t before)
{
    p->key[before] = '\0';
}

static nef_err parse_scalar(struct parse *p, const struct nef_config_field *field, void *value)
{
    const char *text;
    char why[256];
    bool quoted;
    nef_err err;

    if (p->event.type != YAML_SCALAR_EVENT)
        return complain(p, line_of(p), "must be a single value");
    text = (const char *)p->event.data.scalar.value;
    quoted = p->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    if (text[0] == '\0' || (!quoted && (strcmp(text, "~") == 0 || strcmp(text, "null") == 0)))
        return complain(p, line_of(p), "must not be empty");
    err = nef_config_scalar(field, text, quoted, p->dir, value, why, sizeof(why));
    if (err != NEF_OK)
        (void)complain(p, line_of(p), "%s", why); /* err is more exact */
    return err;
}

static nef_err parse_list(struct parse *p, const struct nef_config_field *field, char *base)
{
    size_t max = field->max == 0 ? NEF_CONFIG_LIST_MAX : field->max;
    uint32_t *count = (uint32_t *)(void *)(base + field->count);
    void **list = (void **)(void *)(base + field->offset);
    size_t line = line_of(p);
    char *items;
    nef_err err;

    if (p->event.type != YAML_SEQUENCE_START_EVENT)
        return complain(p, line, "must be a list");
    items = calloc(max, field->item_bytes);
    if (items == NULL)
        return no_memory(p);
    *list = items; /* from here on nef_config_free releases it, as far as count goes */
    for (;;) {
        char part[32];
        size_t before;

        err = next(p);
        if (err != NEF_OK)
            return err;
        if (p->event.type == YAML_SEQUENCE_END_EVENT)
            break;
        if (*count == max)
            return complain(p, line_of(p), "must have at most %zu entries", max);
        (void)snprintf(part, sizeof(part), "[%u]", *count);
        err = key_enter(p, part, &before);
        if (err != NEF_OK)
            return err;
        err = parse_value(p, field->item, items + *count * field->item_bytes);
        ++*count; /* also when it failed: what it has so far must be freed */
        if (err != NEF_OK)
            return err;
        key_back(p, before);
    }
    if (*count < field->min)
        return complain(p, line, "must have at least %llu entries", (unsigned long long)field->min);
    return NEF_OK;
}

/* The current event begins the value of FIELD; on NEF_OK it is the last one of it. */
static nef_err parse_value(struct parse *p, const struct nef_config_field *field, char *base)
{
    size_t line = line_of(p);
    nef_err err;

    err = remember(p, line);
    if (err != NEF_OK)
        return err;
    if (field->kind == NEF_CONFIG_LIST)
        return parse_list(p, field, base);
    if (field->kind != NEF_CONFIG_MAP)
        return parse_scalar(p, field, base + field->offset);
    if (p->event.type != YAML_MAPPING_START_EVENT)
        return complain(p, line, "must be a mapping (key: value lines)");
    if (field->flag != 0)
        *(bool *)(base + field->flag - 1) = true;
    return parse_map(p, field->map, base + field->offset, line);
}

/* The current event is the mapping's start; on NEF_OK it is its end. */
static nef_err parse_map(struct parse *p, const struct nef_config_schema *schema, char *base,
                         size_t line)
{
    uint64_t seen = 0;
    nef_err err;

    NEF_ASSERT(schema->field_count <= 64);
    for (;;) {
        const struct nef_config_field *field = NULL;
        size_t before;

        err = next(p);
        if (err != NEF_OK)
            return err;
        if (p->event.type == YAML_MAPPING_END_EVENT)
            return presets(p, schema, base, seen, line);
        if (p->event.type != YAML_SCALAR_EVENT)
            return complain(p, line_of(p), "a key must be a single word");
        for (uint32_t i = 0; i < schema->field_count && field == NULL; i++) {
            if (strcmp((const char *)p->event.data.scalar.value, schema->fields[i].name) == 0)
                field = &schema->fields[i];
        }
        if (field == NULL)
            return complain(p, line_of(p), "unknown key '%.64s'",
                            (const char *)p->event.data.scalar.value);
        err = key_enter(p, field->name, &before);
        if (err != NEF_OK)
            return err;
        if ((seen >> (field - schema->fields) & 1) != 0)
            return complain(p, line_of(p), "is set twice");
        seen |= (uint64_t)1 << (field - schema->fields);
        err = next(p);
        if (err == NEF_OK)
            err = parse_value(p, field, base);
        if (err != NEF_OK)
            return err;
        key_back(p, before);
    }
}

/* Fields that the file doesn't have: their presets, or an error at the mapping's line. */
static nef_err presets(struct parse *p, const struct nef_config_schema *schema, char *base,
                       uint64_t seen, size_t line)
{
    for (uint32_t i = 0; i < schema->field_count; i++) {
        const struct nef_config_field *field = &schema->fields[i];
        char why[256];
        size_t before;
        nef_err err;

        if ((seen >> i & 1) != 0)
            continue;
        err = key_enter(p, field->name, &before);
        if (err != NEF_OK)
            return err;
        if (field->required && !p->nothing_required)
            return complain(p, line, "is missing");
        if (field->kind == NEF_CONFIG_MAP && field->flag == 0) {
            err = presets(p, field->map, base + field->offset, 0, line);
            if (err != NEF_OK)
                return err;
        } else if (field->preset != NULL) {
            err = nef_config_scalar(field, field->preset, false, "", base + field->offset, why,
                                    sizeof(why));
            if (err == NEF_E_NOMEM)
                return no_memory(p);
            NEF_ASSERT(err ==
                       NEF_OK); /* a preset that its own field refuses is a mistake of ours */
        }
        key_back(p, before);
    }
    return NEF_OK;
}

static nef_err parse_document(struct parse *p, const struct nef_config_schema *schema, char *base)
{
    nef_err err = next(p);

    if (err == NEF_OK)
        err = p->event.type == YAML_STREAM_START_EVENT ? next(p) : complain(p, 1, "is not YAML");
    if (err != NEF_OK)
        return err;
    if (p->event.type != YAML_DOCUMENT_START_EVENT)
        return complain(p, 1, "is empty");
    err = next(p);
    if (err != NEF_OK)
        return err;
    if (p->event.type != YAML_MAPPING_START_EVENT)
        return complain(p, line_of(p), "must be a mapping (key: value lines)");
    err = parse_map(p, schema, base, line_of(p));
    if (err == NEF_OK)
        err = next(p); /* the document's end */
    if (err == NEF_OK)
        err = next(p);
    if (err == NEF_OK && p->event.type != YAML_STREAM_END_EVENT)
        err = complain(p, line_of(p), "must be one document");
    return err;
}

/* ---- entry points ---- */

nef_err nef_config_parse(const char *path, const void *text, size_t bytes,
                         const struct nef_config_schema *schema, void *out, size_t out_bytes,
                         struct nef_config_source **out_source, struct nef_config_error *error)
{
    struct parse *p = calloc(1, sizeof(*p));
    const char *slash = strrchr(path, '/');
    bool has_yaml = false;
    nef_err err = NEF_E_NOMEM;

    memset(out, 0, out_bytes);
    (void)snprintf(error->text, sizeof(error->text), "%s: out of memory", path);
    if (p == NULL)
        return err;
    p->error = error;
    p->source = calloc(1, sizeof(*p->source));
    if (p->source == NULL || (p->source->file = strdup(path)) == NULL)
        goto out;
    if (slash != NULL && slash != path && (size_t)(slash - path) < sizeof(p->dir))
        memcpy(p->dir, path, (size_t)(slash - path));
    has_yaml = yaml_parser_initialize(&p->yaml) == 1;
    if (!has_yaml)
        goto out;
    yaml_parser_set_input_string(&p->yaml, text, bytes);
    err = parse_document(p, schema, out);
    if (err == NEF_OK)
        error->text[0] = '\0';
out:
    if (p->has_event)
        yaml_event_delete(&p->event);
    if (has_yaml)
        yaml_parser_delete(&p->yaml);
    if (err != NEF_OK)
        nef_config_free(schema, out, out_bytes);
    if (err == NEF_OK && out_source != NULL)
        *out_source = p->source;
    else
        nef_config_source_free(p->source);
    free(p);
    return err;
}

nef_err nef_config_load(const char *path, const struct nef_config_schema *schema, void *out,
                        size_t out_bytes, struct nef_config_source **out_source,
                        struct nef_config_error *error)
{
    struct nef_buf text = {.max = NEF_CONFIG_FILE_MAX + 4096};
    nef_err err;

    memset(out, 0, out_bytes);
    err = nef_file_read(path, NEF_CONFIG_FILE_MAX, false, &text);
    if (err == NEF_OK)
        err = nef_config_parse(path, text.data, text.bytes, schema, out, out_bytes, out_source,
                               error);
    else
        (void)snprintf(error->text, sizeof(error->text), "%s: can't be read: %s", path,
                       nef_err_text(err));
    nef_buf_free(&text);
    return err == NEF_OK || err == NEF_E_LIMIT || err == NEF_E_NOMEM ? err : NEF_E_CONFIG;
}

nef_err nef_config_preset(const struct nef_config_schema *schema, void *out, size_t out_bytes)
{
    struct nef_config_source source = {.file = ""};
    struct nef_config_error error;
    struct parse *p = calloc(1, sizeof(*p));
    nef_err err;

    memset(out, 0, out_bytes);
    if (p == NULL)
        return NEF_E_NOMEM;
    p->source = &source;
    p->error = &error;
    p->nothing_required = true;
    err = presets(p, schema, out, 0, 0);
    if (err != NEF_OK)
        nef_config_free(schema, out, out_bytes);
    free(p);
    return err;
}

static void free_value(const struct nef_config_field *field, char *base)
{
    if (nef_config_is_text(field->kind)) {
        free(*(char **)(void *)(base + field->offset));
    } else if (field->kind == NEF_CONFIG_MAP) {
        for (uint32_t i = 0; i < field->map->field_count; i++)
            free_value(&field->map->fields[i], base + field->offset);
    } else if (field->kind == NEF_CONFIG_LIST) {
        char *items = *(char **)(void *)(base + field->offset);
        uint32_t count = *(uint32_t *)(void *)(base + field->count);

        for (uint32_t i = 0; items != NULL && i < count; i++)
            free_value(field->item, items + i * field->item_bytes);
        free(items);
    }
}

void nef_config_free(const struct nef_config_schema *schema, void *out, size_t out_bytes)
{
    for (uint32_t i = 0; i < schema->field_count; i++)
        free_value(&schema->fields[i], out);
    memset(out, 0, out_bytes);
}
