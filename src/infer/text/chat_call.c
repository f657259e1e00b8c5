/* The JSON of a tool call, byte by byte; see chat_call.h.
 *
 *        +------------------- , ------------------+
 *        v                                        |
 *   KEY ---string---> COLON ---:---> VALUE ---> AFTER ---} or ]---> AFTER of the outer one, DONE at the end
 *                                      ^----- , (in an array) ------+
 *
 * OBJECT and ARRAY are KEY and VALUE right behind the bracket, where the closing one may follow. */
#include "infer/text/chat_call.h"
#include <jansson.h>
#include <string.h>

enum { OUTER, OBJECT, KEY, COLON, ARRAY, VALUE, AFTER, STRING, ESCAPE, HEX, NUMBER, LITERAL, DONE };
enum { OTHER, NAME, ARGUMENTS };
/* RFC 8259 section 6; the number may end after ZERO, INTEGER, FRACTION and EXPONENT. */
enum { MINUS, ZERO, INTEGER, POINT, FRACTION, E, SIGN, EXPONENT };

void nef_call_begin(struct nef_call_scan *s)
{
    struct nef_buf text = s->text, name = s->name;

    *s = (struct nef_call_scan){.text = text, .name = name};
    nef_buf_reset(&s->text);
    nef_buf_reset(&s->name);
}

void nef_call_done(struct nef_call_scan *s)
{
    nef_buf_free(&s->text);
    nef_buf_free(&s->name);
}

bool nef_call_whole(const struct nef_call_scan *s)
{
    return s->state == DONE && s->have_name && s->have_arguments;
}

static bool blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static bool in_array(const struct nef_call_scan *s)
{
    uint32_t at = s->depth - 1;

    return (s->arrays[at / 8] >> at % 8 & 1) != 0;
}

static bool open_container(struct nef_call_scan *s, bool array)
{
    uint32_t at = s->depth;
    uint8_t bit = (uint8_t)(1u << at % 8);

    if (at >= NEF_CHAT_JSON_DEPTH_MAX)
        return false;
    s->depth++;
    s->arrays[at / 8] = (uint8_t)(array ? s->arrays[at / 8] | bit : s->arrays[at / 8] & ~bit);
    s->state = array ? ARRAY : OBJECT;
    return true;
}

/* A value has ended with the byte before, or with this one. */
static void value_ended(struct nef_call_scan *s)
{
    s->state = s->depth == 0 ? DONE : AFTER;
    if (s->depth == 1 && s->in_arguments) {
        s->in_arguments = false;
        s->have_arguments = true;
    }
}

static bool close_container(struct nef_call_scan *s, bool array)
{
    if (in_array(s) != array)
        return false;
    s->depth--;
    value_ended(s);
    return true;
}

static bool begin_number(struct nef_call_scan *s, char c)
{
    s->state = NUMBER;
    s->number = c == '-' ? MINUS : c == '0' ? ZERO : INTEGER;
    return true;
}

/* Does C go on with the number? */
static bool number_takes(struct nef_call_scan *s, char c)
{
    bool digit = c >= '0' && c <= '9';
    uint8_t next = UINT8_MAX;

    switch (s->number) {
    case MINUS:
        next = c == '0' ? ZERO : digit ? INTEGER : UINT8_MAX;
        break;
    case INTEGER:
        if (digit)
            next = INTEGER;
        /* fallthrough */
    case ZERO:
        if (c == '.')
            next = POINT;
        else if (c == 'e' || c == 'E')
            next = E;
        break;
    case POINT:
        next = digit ? FRACTION : UINT8_MAX;
        break;
    case FRACTION:
        next = digit ? FRACTION : c == 'e' || c == 'E' ? E : UINT8_MAX;
        break;
    case E:
        next = digit ? EXPONENT : c == '+' || c == '-' ? SIGN : UINT8_MAX;
        break;
    default:
        next = digit ? EXPONENT : UINT8_MAX;
        break;
    }
    if (next == UINT8_MAX)
        return false;
    s->number = next;
    return true;
}

static bool number_may_end(const struct nef_call_scan *s)
{
    return s->number == ZERO || s->number == INTEGER || s->number == FRACTION || s->number == EXPONENT;
}

static bool begin_string(struct nef_call_scan *s, bool key)
{
    s->state = STRING;
    s->key = key;
    nef_buf_reset(&s->text);
    return true;
}

static bool begin_value(struct nef_call_scan *s, char c)
{
    static const char *const literals[] = {"true", "false", "null"};

    if (s->depth == 1 && s->field == NAME && c != '"')
        return false;
    if (s->depth == 1 && s->field == ARGUMENTS)
        s->in_arguments = true;
    if (c == '{' || c == '[')
        return open_container(s, c == '[');
    if (c == '"')
        return begin_string(s, false);
    if (c == '-' || (c >= '0' && c <= '9'))
        return begin_number(s, c);
    for (size_t i = 0; i < 3; i++)
        if (c == literals[i][0]) {
            s->state = LITERAL;
            s->literal = literals[i] + 1;
            return true;
        }
    return false;
}

/* The outer object's string is kept as it is written, quotes aside. */
static bool keeps(const struct nef_call_scan *s)
{
    return s->depth == 1 && (s->key || s->field == NAME);
}

static bool key_ended(struct nef_call_scan *s)
{
    s->state = COLON;
    if (s->depth != 1)
        return true;
    s->field = OTHER;
    if (s->text.bytes == 4 && memcmp(s->text.data, "name", 4) == 0)
        s->field = NAME;
    else if (s->text.bytes == 9 && memcmp(s->text.data, "arguments", 9) == 0)
        s->field = ARGUMENTS;
    return !(s->field == NAME && s->have_name) && !(s->field == ARGUMENTS && s->have_arguments);
}

/* jansson undoes the escapes, and refuses what isn't a string of Unicode. */
static bool name_ended(struct nef_call_scan *s)
{
    struct nef_buf quoted = {0};
    json_t *value = NULL;
    bool good = false;

    nef_buf_u8(&quoted, '"');
    nef_buf_append(&quoted, s->text.data, s->text.bytes);
    nef_buf_u8(&quoted, '"');
    if (!quoted.failed)
        value = json_loadb((const char *)quoted.data, quoted.bytes, JSON_DECODE_ANY, NULL);
    if (json_string_length(value) > 0) {
        nef_buf_append(&s->name, json_string_value(value), json_string_length(value));
        good = s->have_name = true;
    }
    json_decref(value);
    nef_buf_free(&quoted);
    return good;
}

static bool string_ended(struct nef_call_scan *s)
{
    if (s->key)
        return key_ended(s);
    if (s->depth == 1 && s->field == NAME && !name_ended(s))
        return false;
    value_ended(s);
    return true;
}

static bool take_string(struct nef_call_scan *s, char c)
{
    if (s->state == STRING && c == '"')
        return string_ended(s);
    if (keeps(s))
        nef_buf_u8(&s->text, (uint8_t)c);
    if (s->state == HEX) {
        if (c == '\0' || strchr("0123456789abcdefABCDEF", c) == NULL)
            return false;
        if (--s->hex == 0)
            s->state = STRING;
        return true;
    }
    if (s->state == ESCAPE) {
        if (c == '\0' || strchr("\"\\/bfnrtu", c) == NULL)
            return false;
        s->state = c == 'u' ? HEX : STRING;
        s->hex = 4;
        return true;
    }
    if (c == '\\')
        s->state = ESCAPE;
    return (unsigned char)c >= 0x20;
}

static bool take_key(struct nef_call_scan *s, char c)
{
    return c == '"' && begin_string(s, true);
}

static bool take_after(struct nef_call_scan *s, char c)
{
    if (c == '}' || c == ']')
        return close_container(s, c == ']');
    if (c != ',')
        return false;
    s->state = in_array(s) ? VALUE : KEY;
    return true;
}

static bool step(struct nef_call_scan *s, char c)
{
    if (s->state == STRING || s->state == ESCAPE || s->state == HEX)
        return take_string(s, c);
    if (s->state == LITERAL) {
        if (c != *s->literal)
            return false;
        if (*++s->literal == '\0')
            value_ended(s);
        return true;
    }
    if (s->state == NUMBER) {
        if (number_takes(s, c))
            return true;
        if (!number_may_end(s))
            return false;
        value_ended(s); /* C comes after it */
    }
    if (blank(c))
        return true;
    switch (s->state) {
    case OUTER:
        return c == '{' && open_container(s, false);
    case OBJECT:
        return c == '}' ? close_container(s, false) : take_key(s, c);
    case KEY:
        return take_key(s, c);
    case COLON:
        s->state = VALUE;
        return c == ':';
    case ARRAY:
        return c == ']' ? close_container(s, true) : begin_value(s, c);
    case VALUE:
        return begin_value(s, c);
    case AFTER:
        return take_after(s, c);
    default: /* DONE */
        return false;
    }
}

bool nef_call_take(struct nef_call_scan *s, char c, bool *out_argument, nef_err *out_err)
{
    bool before = s->in_arguments;
    bool number = s->state == NUMBER && s->depth == 1; /* its end is seen only at the byte behind it */
    bool good = step(s, c);

    *out_argument = s->in_arguments || (before && !number);
    if (s->text.failed || s->name.failed)
        *out_err = NEF_E_NOMEM;
    return good;
}
