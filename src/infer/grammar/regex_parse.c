/* ECMA-262 patterns, as JSON Schema has them (with the flag u, without i, m and s): the subset that is regular and
 * needs no tables of Unicode.
 *
 *   alternatives a|b, groups (...), (?:...), (?<name>...), * + ? {n} {n,} {n,m} and their lazy forms (the same
 * language), sets [...], [^...] with ranges, . \d \D \w \W \s \S, \t \n \r \v \f \0 \cX \xHH \uHHHH \u{...}, ^ and $
 * anywhere, an escaped character that is no letter or digit; { } and ] that mean nothing else stand for themselves.
 *
 * Refused by name: lookahead and lookbehind, back references, \b \B, \p \P, anything else after a backslash. */
#include <stdlib.h>
#include <string.h>
#include "infer/grammar/regex.h"

#define LAST 0x10ffffu

struct parser {
    struct nef_regex *r;
    const char *p, *end;
    unsigned depth;
};

static void refuse(struct parser *s, nef_err err, const char *what)
{
    nef_compile_fail_at(s->r->c, err, "\"pattern\": %s", what);
    s->p = s->end;
}

static bool failed(const struct parser *s)
{
    return s->r->c->err != NEF_OK;
}

static uint32_t add_node(struct parser *s, struct nef_regex_node node)
{
    struct nef_regex *r = s->r;

    if (failed(s))
        return 0;
    if (r->node_count >= NEF_PATTERN_NODES_MAX) {
        refuse(s, NEF_E_LIMIT, "too long");
        return 0;
    }
    if (!nef_room((void **)&r->nodes, &r->node_room, r->node_count, sizeof(*r->nodes))) {
        refuse(s, NEF_E_NOMEM, "out of memory");
        return 0;
    }
    r->nodes[r->node_count] = node;
    return (uint32_t)r->node_count++;
}

/* ---- sets ---- */

static void add_range(struct parser *s, uint32_t low, uint32_t high)
{
    struct nef_regex *r = s->r;

    if (failed(s))
        return;
    if (!nef_room((void **)&r->ranges, &r->range_room, r->range_count, sizeof(*r->ranges)))
        refuse(s, NEF_E_NOMEM, "out of memory");
    else
        r->ranges[r->range_count++] = (struct nef_range){low, high};
}

static int by_low(const void *a, const void *b)
{
    const struct nef_range *x = a, *y = b;

    return (x->low > y->low) - (x->low < y->low);
}

/* Ranges from FIRST on: ascending, joined; then perhaps what they leave out. */
static void normalize(struct parser *s, size_t first, bool negated)
{
    struct nef_regex *r = s->r;
    size_t count = first, end, low = 0;

    if (failed(s))
        return;
    if (r->range_count > first)
        qsort(r->ranges + first, r->range_count - first, sizeof(*r->ranges), by_low);
    for (size_t i = first; i < r->range_count; i++) {
        if (count > first && r->ranges[i].low <= r->ranges[count - 1].high + 1) {
            if (r->ranges[i].high > r->ranges[count - 1].high)
                r->ranges[count - 1].high = r->ranges[i].high;
        } else {
            r->ranges[count++] = r->ranges[i];
        }
    }
    r->range_count = count;
    if (!negated)
        return;
    end = count;
    for (size_t i = first; i < end; i++) {
        struct nef_range range = r->ranges[i];

        if (range.low > low)
            add_range(s, (uint32_t)low, range.low - 1);
        low = (size_t)range.high + 1;
    }
    if (low <= LAST)
        add_range(s, (uint32_t)low, LAST);
    if (failed(s))
        return;
    if (r->range_count > end)
        memmove(r->ranges + first, r->ranges + end, (r->range_count - end) * sizeof(*r->ranges));
    r->range_count -= end - first;
}

/* The ranges of \d \w \s (or their complements) are added. */
static void add_class(struct parser *s, char letter)
{
    static const struct nef_range digit[] = {{'0', '9'}};
    static const struct nef_range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct nef_range space[] = {{9, 13},          {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680},
                                             {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
                                             {0x3000, 0x3000}, {0xfeff, 0xfeff}};
    const struct nef_range *of = digit;
    size_t count = 1, low = 0;

    if (letter == 'w' || letter == 'W') {
        of = word;
        count = sizeof(word) / sizeof(word[0]);
    } else if (letter == 's' || letter == 'S') {
        of = space;
        count = sizeof(space) / sizeof(space[0]);
    }
    for (size_t i = 0; i < count; i++) {
        if (letter >= 'a')
            add_range(s, of[i].low, of[i].high);
        else if (of[i].low > low)
            add_range(s, (uint32_t)low, of[i].low - 1);
        low = of[i].high + 1;
    }
    if (letter < 'a')
        add_range(s, (uint32_t)low, LAST);
}

static uint32_t set_from(struct parser *s, size_t first, bool negated)
{
    normalize(s, first, negated);
    return add_node(s, (struct nef_regex_node){.kind = NEF_REGEX_SET,
                                               .first = (uint32_t)first,
                                               .count = (uint32_t)(s->r->range_count - first)});
}

/* ---- characters ---- */

static uint32_t take_char(struct parser *s) /* jansson lets only UTF-8 in */
{
    uint8_t first = (uint8_t)*s->p++;
    uint32_t code;
    int more = first < 0x80 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;

    code = more == 0 ? first : first & (0x3fu >> more);
    for (; more > 0 && s->p < s->end; more--)
        code = code << 6 | ((uint8_t)*s->p++ & 0x3fu);
    return code;
}

static bool take_hex(struct parser *s, size_t digits, uint32_t *out_code)
{
    uint32_t code = 0;

    if ((size_t)(s->end - s->p) < digits)
        return false;
    for (size_t i = 0; i < digits; i++) {
        char c = s->p[i];

        if (c >= '0' && c <= '9')
            code = code << 4 | (uint32_t)(c - '0');
        else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
            code = code << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        else
            return false;
    }
    s->p += digits;
    *out_code = code;
    return true;
}

/* After "\u". */
static bool take_unicode(struct parser *s, uint32_t *out_code)
{
    uint32_t low;

    if (s->p < s->end && *s->p == '{') {
        const char *close = memchr(s->p, '}', (size_t)(s->end - s->p));
        size_t digits = close != NULL ? (size_t)(close - s->p) - 1 : 0;

        s->p++;
        if (digits < 1 || digits > 6 || !take_hex(s, digits, out_code) || *out_code > LAST)
            return false;
        s->p++;
    } else if (!take_hex(s, 4, out_code)) {
        return false;
    }
    if (*out_code >= 0xd800 && *out_code < 0xdc00 && s->end - s->p >= 6 && s->p[0] == '\\' && s->p[1] == 'u') {
        s->p += 2;
        if (!take_hex(s, 4, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        *out_code = 0x10000 + ((*out_code - 0xd800) << 10) + (low - 0xdc00);
    }
    return true;
}

/* After a backslash. *out_class: a letter of add_class, else 0 and a character. */
static uint32_t take_escape(struct parser *s, char *out_class)
{
    static const char letters[] = "tnvfr", codes[] = "\t\n\v\f\r";
    char c = s->p < s->end ? *s->p : '\0';
    const char *known = c != '\0' ? strchr(letters, c) : NULL;
    uint32_t code = 0;

    *out_class = '\0';
    if (c == '\0') {
        refuse(s, NEF_E_INVALID, "ends with a backslash");
        return 0;
    }
    if ((uint8_t)c >= 0x80)
        return take_char(s);
    s->p++;
    if (known != NULL)
        return (uint32_t)codes[known - letters];
    if (strchr("dDwWsS", c) != NULL)
        *out_class = c;
    else if (c == '0' && !(s->p < s->end && *s->p >= '0' && *s->p <= '9'))
        code = 0;
    else if (c >= '0' && c <= '9')
        refuse(s, NEF_E_UNSUPPORTED, "back references are not supported");
    else if (c == 'k')
        refuse(s, NEF_E_UNSUPPORTED, "back references are not supported");
    else if (c == 'b' || c == 'B')
        refuse(s, NEF_E_UNSUPPORTED, "\\b and \\B are not supported");
    else if (c == 'p' || c == 'P')
        refuse(s, NEF_E_UNSUPPORTED, "\\p and \\P are not supported");
    else if (c == 'c' && s->p < s->end && ((*s->p | 0x20) >= 'a' && (*s->p | 0x20) <= 'z'))
        code = (uint32_t)*s->p++ & 31;
    else if (c == 'x' ? !take_hex(s, 2, &code) : c == 'u' ? !take_unicode(s, &code) : false)
        refuse(s, NEF_E_INVALID, "a \\x or \\u without its digits");
    else if (c != 'x' && c != 'u' && ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))
        refuse(s, NEF_E_UNSUPPORTED, "an unknown letter after a backslash");
    else if (c != 'x' && c != 'u')
        code = (uint32_t)c;
    return code;
}

/* One member of a set, or with *out_class a class. */
static uint32_t take_member(struct parser *s, char *out_class)
{
    *out_class = '\0';
    if (*s->p != '\\')
        return take_char(s);
    s->p++;
    if (s->p < s->end && *s->p == 'b') { /* a backspace, here */
        s->p++;
        return '\b';
    }
    return take_escape(s, out_class);
}

static uint32_t take_set(struct parser *s)
{
    size_t first = s->r->range_count;
    bool negated = s->p < s->end && *s->p == '^';

    s->p += negated;
    while (s->p < s->end && *s->p != ']') {
        char class, class_to = '\0';
        uint32_t low = take_member(s, &class), high = low;

        if (class != '\0') {
            add_class(s, class);
            continue;
        }
        if (s->end - s->p >= 2 && s->p[0] == '-' && s->p[1] != ']') {
            s->p++;
            high = take_member(s, &class_to);
        }
        if (class_to != '\0' || low > high)
            refuse(s, NEF_E_INVALID, "a range that is none");
        add_range(s, low, high);
    }
    if (s->p >= s->end) {
        refuse(s, NEF_E_INVALID, "\"[\" without \"]\"");
        return 0;
    }
    s->p++;
    return set_from(s, first, negated);
}

/* ---- structure ---- */

static uint32_t take_alternatives(struct parser *s);

static uint32_t take_group(struct parser *s)
{
    size_t left = (size_t)(s->end - s->p);
    uint32_t inside;

    if (left >= 2 && s->p[0] == '?') {
        const char *close = memchr(s->p, '>', left);

        if (s->p[1] == ':') {
            s->p += 2;
        } else if (s->p[1] == '<' && left >= 3 && s->p[2] != '=' && s->p[2] != '!' && close != NULL) {
            s->p = close + 1;
        } else {
            refuse(s, NEF_E_UNSUPPORTED, "lookahead, lookbehind and flags are not supported");
            return 0;
        }
    }
    if (++s->depth > NEF_PATTERN_DEPTH_MAX) {
        refuse(s, NEF_E_LIMIT, "groups nested too deep");
        return 0;
    }
    inside = take_alternatives(s);
    s->depth--;
    if (s->p >= s->end) {
        refuse(s, NEF_E_INVALID, "\"(\" without \")\"");
        return 0;
    }
    s->p++;
    return inside;
}

static uint32_t take_atom(struct parser *s)
{
    size_t first = s->r->range_count;
    char c = *s->p, class;
    uint32_t code;

    switch (c) {
    case '(':
        s->p++;
        return take_group(s);
    case '[':
        s->p++;
        return take_set(s);
    case '^':
    case '$':
        s->p++;
        return add_node(s, (struct nef_regex_node){.kind = c == '^' ? NEF_REGEX_BEGIN : NEF_REGEX_END});
    case '.':
        s->p++;
        add_range(s, '\n', '\n');
        add_range(s, '\r', '\r');
        add_range(s, 0x2028, 0x2029);
        return set_from(s, first, true);
    case '*':
    case '+':
    case '?':
        refuse(s, NEF_E_INVALID, "nothing to repeat");
        return 0;
    case '\\':
        s->p++;
        code = take_escape(s, &class);
        if (class != '\0')
            add_class(s, class);
        else
            add_range(s, code, code);
        return set_from(s, first, false);
    default:
        code = take_char(s);
        add_range(s, code, code);
        return set_from(s, first, false);
    }
}

static bool take_number(struct parser *s, uint32_t *out_number)
{
    uint32_t number = 0;
    const char *begin = s->p;

    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        number = number > NEF_SCHEMA_COUNT_MAX ? number : number * 10 + (uint32_t)(*s->p - '0');
    *out_number = number;
    return s->p > begin;
}

/* {n}, {n,} or {n,m}; false, and nothing is taken: a brace that stands for itself. */
static bool take_braces(struct parser *s, uint32_t *out_min, uint32_t *out_max)
{
    const char *begin = s->p++;
    bool good = take_number(s, out_min);

    *out_max = *out_min;
    if (good && s->p < s->end && *s->p == ',') {
        s->p++;
        if (!take_number(s, out_max))
            *out_max = NEF_NO_BOUND;
    }
    good = good && s->p < s->end && *s->p == '}';
    if (!good) {
        s->p = begin;
        return false;
    }
    s->p++;
    if (*out_min > NEF_SCHEMA_COUNT_MAX || (*out_max > NEF_SCHEMA_COUNT_MAX && *out_max != NEF_NO_BOUND))
        refuse(s, NEF_E_LIMIT, "a repeat count is too large");
    else if (*out_min > *out_max)
        refuse(s, NEF_E_INVALID, "{n,m} with n above m");
    return true;
}

static uint32_t take_repeated(struct parser *s)
{
    char c = *s->p;
    uint32_t atom = take_atom(s), min = 0, max = NEF_NO_BOUND;

    if (s->p >= s->end)
        return atom;
    if (*s->p == '*' || *s->p == '+' || *s->p == '?') {
        min = *s->p == '+';
        max = *s->p == '?' ? 1 : NEF_NO_BOUND;
        s->p++;
    } else if (*s->p != '{' || !take_braces(s, &min, &max)) {
        return atom;
    }
    if (c == '^' || c == '$')
        refuse(s, NEF_E_INVALID, "nothing to repeat");
    if (s->p < s->end && *s->p == '?') /* lazy: which match is found makes no difference */
        s->p++;
    if (s->p < s->end && (*s->p == '*' || *s->p == '+' || *s->p == '?'))
        refuse(s, NEF_E_INVALID, "nothing to repeat");
    return add_node(s, (struct nef_regex_node){.kind = NEF_REGEX_REPEAT, .left = atom, .min = min, .max = max});
}

static uint32_t take_sequence(struct parser *s)
{
    uint32_t all = add_node(s, (struct nef_regex_node){.kind = NEF_REGEX_EMPTY});

    while (s->p < s->end && *s->p != '|' && *s->p != ')') {
        uint32_t next = take_repeated(s);

        all = add_node(s, (struct nef_regex_node){.kind = NEF_REGEX_THEN, .left = all, .right = next});
    }
    return all;
}

static uint32_t take_alternatives(struct parser *s)
{
    uint32_t all = take_sequence(s);

    while (s->p < s->end && *s->p == '|') {
        uint32_t next;

        s->p++;
        next = take_sequence(s);
        all = add_node(s, (struct nef_regex_node){.kind = NEF_REGEX_OR, .left = all, .right = next});
    }
    return all;
}

uint32_t nef_regex_parse(struct nef_regex *r, const char *pattern, size_t bytes)
{
    struct parser s = {.r = r, .p = pattern, .end = pattern + bytes};
    uint32_t root;

    if (bytes > NEF_PATTERN_BYTES_MAX) {
        refuse(&s, NEF_E_LIMIT, "too long");
        return 0;
    }
    root = take_alternatives(&s);
    if (s.p < s.end)
        refuse(&s, NEF_E_INVALID, "\")\" without \"(\"");
    return root;
}

void nef_regex_done(struct nef_regex *r)
{
    free(r->nodes);
    free(r->ranges);
    *r = (struct nef_regex){0};
}
