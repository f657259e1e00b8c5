/* Strings: their bounds, formats, and keys that are none of a set.
 *
 * A string without pattern and format is a call of the shared rest of a string (builtin.c), which counts characters by
 * itself; with one it is an automaton of its own. A format is a pattern; each is a part of what its RFC allows,
 * so that what is generated is always valid:
 *
 *   date-time  RFC 3339: upper-case T and Z, no leap second, fractions of up to 9 digits, days that the month has
 *   date       RFC 3339 full-date
 *   uuid       RFC 4122, digits in any case
 *   email      RFC 5321 without quoted parts and address literals, at most 64 bytes before the @ and 172 behind it */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/compile.h"

#define DATE                                                                                                           \
    "(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))|"       \
    "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
#define TIME  "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define ATOM  "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,40}[A-Za-z0-9])?"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"},
    {"email", "^" ATOM "{1,32}(\\." ATOM "{1,15}){0,2}@(" LABEL "\\.){1,3}[A-Za-z]([A-Za-z0-9-]{0,40}[A-Za-z0-9])?$"},
};

static const char *format_pattern(const char *name)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (strcmp(formats[i].name, name) == 0)
            return formats[i].pattern;
    return NULL;
}

void nef_string_check(struct nef_compile *c, const json_t *schema)
{
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    const char *name = json_string_value(format);

    if (c->err != NEF_OK)
        return;
    if (pattern != NULL && format != NULL)
        nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "\"pattern\" beside \"format\" is not supported");
    else if ((pattern != NULL && !json_is_string(pattern)) || (format != NULL && !json_is_string(format)))
        nef_compile_fail_at(c, NEF_E_INVALID, "\"%s\" is not a string", format != NULL ? "format" : "pattern");
    else if (format != NULL && format_pattern(name) == NULL)
        nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "\"format\" \"%.40s\" is not supported", name);
    else if (pattern != NULL)
        nef_regex_check(c, json_string_value(pattern), json_string_length(pattern));
}

bool nef_string_plain(const json_t *schema)
{
    return json_object_get(schema, "pattern") == NULL && json_object_get(schema, "format") == NULL;
}

void nef_string_rest(struct nef_compile *c, uint32_t from, uint32_t min, uint32_t max, uint32_t to)
{
    struct nef_callee callee = {0, min, max};
    uint32_t kind = c->called ? NEF_BUILTIN_CALLED : NEF_BUILTIN_STRING, number = kind;
    nef_err err = NEF_OK;

    callee.start = c->machine.callees[kind].start;
    if (min > 0 || max != NEF_NO_BOUND) { /* few bounds are met in one schema, so a search from the newest is quick */
        for (number = c->machine.callee_count; number-- > NEF_BUILTINS;)
            if (memcmp(&c->machine.callees[number], &callee, sizeof(callee)) == 0)
                break;
        if (!nef_compile_work(c, c->machine.callee_count - number))
            return;
        if (number < NEF_BUILTINS)
            err = nef_machine_callee(&c->machine, callee, &number);
    }
    if (err != NEF_OK)
        nef_compile_fail(c, err, "the schema is too large, or out of memory");
    nef_nfa_call(c, from, number, to);
}

void nef_string_emit(struct nef_compile *c, uint32_t from, const json_t *schema, uint32_t to)
{
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    const json_t *min = json_object_get(schema, "minLength"), *max = json_object_get(schema, "maxLength");
    uint32_t least = (uint32_t)json_integer_value(min); /* 0 without one */
    uint32_t most = max != NULL ? (uint32_t)json_integer_value(max) : NEF_NO_BOUND;
    const char *text = format != NULL ? format_pattern(json_string_value(format)) : json_string_value(pattern);
    uint32_t open = nef_nfa_text(c, from, "\"", 1), close;

    if (text == NULL) {
        nef_string_rest(c, open, least, most, to);
        return;
    }
    close = nef_nfa_state(c);
    nef_regex_emit(c, open, text, format != NULL ? strlen(text) : json_string_length(pattern), least, most, close);
    nef_nfa_bytes(c, close, '"', '"', to);
}

/* ---- keys that are none of a set ----
 *
 * A trie of the names over characters. Where a key leaves the trie it is another one, whatever follows, so any rest
 * of a string may. Inside the trie only characters that are written plainly are taken: an escaped one could be a
 * name in disguise. */

struct other {
    struct nef_compile *c;
    const char **names; /* ascending */
    uint32_t to;
};

static uint32_t decode(const char *text, size_t *out_bytes)
{
    uint8_t first = (uint8_t)text[0];
    size_t bytes = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4; /* jansson lets only UTF-8 in */
    uint32_t code = bytes == 1 ? first : first & (0x7fu >> bytes);

    for (size_t i = 1; i < bytes; i++)
        code = code << 6 | ((uint8_t)text[i] & 0x3fu);
    *out_bytes = bytes;
    return code;
}

#define END 0x110000u /* of code points */

/* Characters but those in LEAVE (ascending), and those that are not written plainly. */
static void emit_leaving(struct other *o, uint32_t from, const uint32_t *leave, size_t count)
{
    static const uint32_t inside[] = {'"', '<', '\\', END}, outside[] = {'"', '\\', END};
    const uint32_t *never = o->c->called ? inside : outside;
    uint32_t low = 0x20, rest = nef_nfa_state(o->c);
    size_t at = 0;

    while (low < END) {
        uint32_t stop = NEF_MIN(at < count ? leave[at] : END, *never);

        if (stop > low)
            nef_nfa_characters(o->c, from, &(struct nef_range){low, stop - 1}, 1, rest);
        low = NEF_MAX(low, stop + 1);
        while (at < count && leave[at] < low)
            at++;
        while (*never < low && *never < END)
            never++;
    }
    nef_string_rest(o->c, rest, 0, NEF_NO_BOUND, o->to);
}

/* Names first .. last - 1 share their first DEPTH bytes, which have come. */
static void emit_trie(struct other *o, uint32_t from, size_t first, size_t last, size_t depth)
{
    struct nef_compile *c = o->c;

    while (first < last && c->err == NEF_OK) {
        bool whole = o->names[first][depth] == '\0';
        uint32_t *children = malloc((last - first) * sizeof(*children)), next = 0;
        size_t count = 0, next_first = last, next_last = last, next_depth = depth;

        if (children == NULL) {
            nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
            return;
        }
        if (!whole)
            nef_nfa_bytes(c, from, '"', '"', o->to);
        for (size_t i = first + whole, end; i < last; i = end) {
            size_t bytes;
            uint32_t code = decode(o->names[i] + depth, &bytes), state = nef_nfa_state(c);

            for (end = i + 1; end < last && memcmp(o->names[end] + depth, o->names[i] + depth, bytes) == 0; end++)
                continue;
            children[count++] = code;
            if (code < 0x20 || code == '"' || code == '\\' || (code == '<' && c->called))
                continue;
            nef_nfa_characters(c, from, &(struct nef_range){code, code}, 1, state);
            if (end - i > next_last - next_first) { /* the largest is gone on with here: recursion stays shallow */
                if (next_first < next_last)
                    emit_trie(o, next, next_first, next_last, next_depth);
                next = state;
                next_first = i;
                next_last = end;
                next_depth = depth + bytes;
            } else {
                emit_trie(o, state, i, end, depth + bytes);
            }
        }
        emit_leaving(o, from, children, count);
        free(children);
        from = next;
        first = next_first;
        last = next_last;
        depth = next_depth;
    }
}

static int ascending(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void nef_string_other_key(struct nef_compile *c, uint32_t from, const json_t *names, uint32_t to)
{
    size_t count = json_object_size(names), at = 0;
    struct other o = {.c = c, .to = to};
    uint32_t open = nef_nfa_text(c, from, "\"", 1);
    const char *name;
    json_t *value;

    if (count == 0) {
        nef_string_rest(c, open, 0, NEF_NO_BOUND, to);
        return;
    }
    o.names = malloc(count * sizeof(*o.names));
    if (o.names == NULL) {
        nef_compile_fail(c, NEF_E_NOMEM, "out of memory");
        return;
    }
    json_object_foreach((json_t *)names, name, value) o.names[at++] = name;
    qsort(o.names, count, sizeof(*o.names), ascending);
    emit_trie(&o, open, 0, count, 0);
    free(o.names);
}
