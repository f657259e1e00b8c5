/* Numbers within bounds, as automata over their decimal digits.
 *
 * A number of n digits before the point is compared with a bound of as many digits from left to right: so long as
 * all digits were the bound's, it is tight; after the first that differs it is inside, or was never allowed. With
 * fewer digits than the bound's it is smaller, with more it is larger. States: digits so far, tight to the lower
 * bound, tight to the upper. Negative numbers are a sign and a number within the bounds' negatives, exchanged.
 *
 * Integers are compared exactly and lie within int64. Other numbers have at most 18 digits before the point and 24
 * after it; an exponent (of a size that a double has) only where there are no bounds, or none but "minimum": 0. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/grammar/compile.h"

#define INTEGER_DIGITS  19u /* of int64 */
#define WHOLE_DIGITS    18u
#define FRACTION_DIGITS 24u

struct decimal {         /* a bound's size, without its sign */
    bool negative, huge; /* huge: 10^18 or more */
    char whole[24], fraction[FRACTION_DIGITS + 1];
    bool inclusive;
};

static bool is_zero(const struct decimal *d)
{
    return !d->huge && strcmp(d->whole, "0") == 0 && d->fraction[0] == '\0';
}

/* False: too many digits after the point. */
static bool decimal_of(const json_t *value, bool inclusive, struct decimal *out)
{
    struct decimal d = {.inclusive = inclusive, .whole = "0"};
    double real = json_number_value(value);
    char text[40], digits[24];
    size_t count = 0, whole = 0;
    int exponent;

    d.negative = real < 0;
    if (json_is_integer(value)) {
        (void)snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        (void)snprintf(d.whole, sizeof(d.whole), "%s", text + d.negative);
        d.huge = strlen(d.whole) > WHOLE_DIGITS;
        *out = d;
        return true;
    }
    for (int precision = 0; precision <= 16; precision++) { /* the shortest that reads back the same */
        (void)snprintf(text, sizeof(text), "%.*e", precision, fabs(real));
        if (strtod(text, NULL) == fabs(real))
            break;
    }
    exponent = atoi(strchr(text, 'e') + 1);
    for (const char *p = text; *p != 'e'; p++)
        if (*p != '.')
            digits[count++] = *p;
    while (count > 0 && digits[count - 1] == '0')
        count--;
    d.huge = count > 0 && exponent >= (int)WHOLE_DIGITS;
    if (d.huge || count == 0) {
        *out = d;
        return true;
    }
    if (exponent >= 0) {
        for (; whole <= (size_t)exponent; whole++)
            d.whole[whole] = whole < count ? digits[whole] : '0';
        d.whole[whole] = '\0';
    }
    for (size_t at = whole, zeros = exponent < 0 ? (size_t)-exponent - 1 : 0, k = 0; at < count || zeros > 0; k++) {
        if (k >= FRACTION_DIGITS)
            return false;
        d.fraction[k] = zeros > 0 ? '0' : digits[at];
        if (zeros > 0)
            zeros--;
        else
            at++;
        d.fraction[k + 1] = '\0';
    }
    *out = d;
    return true;
}

/* ---- reading the keywords ---- */

static long double number_of(const json_t *value)
{
    return json_is_integer(value) ? (long double)json_integer_value(value) : (long double)json_real_value(value);
}

/* The tighter one of a keyword and its exclusive form; NULL: none. sign: 1 for minimum, -1 for maximum. */
static const json_t *bound_of(const json_t *schema, const char *name, const char *exclusive, int sign,
                              bool *out_inclusive)
{
    const json_t *in = json_object_get(schema, name), *ex = json_object_get(schema, exclusive);

    *out_inclusive = ex == NULL || (in != NULL && sign * number_of(in) > sign * number_of(ex));
    return *out_inclusive ? in : ex;
}

/* Integers from low to high. False: none. */
static bool integer_bounds(const json_t *schema, json_int_t *out_low, json_int_t *out_high)
{
    bool inclusive;
    const json_t *bound = bound_of(schema, "minimum", "exclusiveMinimum", 1, &inclusive);
    const long double least = -9223372036854775808.0L, most = 9223372036854775807.0L;
    long double low = least, high = most; /* 64 bits of mantissa, or 113: exact */

    if (bound != NULL)
        low = NEF_MAX(low, inclusive ? ceill(number_of(bound)) : floorl(number_of(bound)) + 1);
    bound = bound_of(schema, "maximum", "exclusiveMaximum", -1, &inclusive);
    if (bound != NULL)
        high = NEF_MIN(high, inclusive ? floorl(number_of(bound)) : ceill(number_of(bound)) - 1);
    if (low > high)
        return false;
    *out_low = (json_int_t)low;
    *out_high = (json_int_t)high;
    return true;
}

struct bounds {
    bool has_low, has_high;
    struct decimal low, high;
};

static bool number_bounds(const json_t *schema, struct bounds *out)
{
    struct bounds b = {0};
    bool inclusive;
    const json_t *bound = bound_of(schema, "minimum", "exclusiveMinimum", 1, &inclusive);

    b.has_low = bound != NULL;
    if (bound != NULL && !decimal_of(bound, inclusive, &b.low))
        return false;
    bound = bound_of(schema, "maximum", "exclusiveMaximum", -1, &inclusive);
    b.has_high = bound != NULL;
    if (bound != NULL && !decimal_of(bound, inclusive, &b.high))
        return false;
    *out = b;
    return true;
}

void nef_number_check(struct nef_compile *c, const json_t *schema, bool integer)
{
    static const char *const names[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    struct bounds b;
    json_int_t low, high;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && c->err == NEF_OK; i++) {
        const json_t *value = json_object_get(schema, names[i]);

        if (value != NULL && !json_is_number(value))
            nef_compile_fail_at(c, NEF_E_INVALID, "\"%s\" is not a number", names[i]);
    }
    if (c->err != NEF_OK)
        return;
    if (integer) {
        const json_t *type = json_object_get(schema, "type");

        if (json_is_string(type) && strcmp(json_string_value(type), "integer") == 0 &&
            !integer_bounds(schema, &low, &high))
            nef_compile_fail_at(c, NEF_E_INVALID, "no integer is between \"minimum\" and \"maximum\"");
    } else if (!number_bounds(schema, &b)) {
        nef_compile_fail_at(c, NEF_E_UNSUPPORTED, "a bound with more than %u digits after the point is not supported",
                            FRACTION_DIGITS);
    }
}

/* ---- automata ---- */

struct digits { /* unsigned numbers between two bounds; NULL: none */
    struct nef_compile *c;
    const struct decimal *low, *high;
    uint32_t whole_max, fraction_max, to;
    uint32_t free_whole[INTEGER_DIGITS + 1];                 /* [k]: k digits more before the point */
    uint32_t free_point, free_fraction[FRACTION_DIGITS + 1]; /* [k]: k digits of it have come */
};

static void edge(struct digits *d, uint32_t from, char low, char high, uint32_t to)
{
    nef_nfa_bytes(d->c, from, (uint8_t)low, (uint8_t)high, to);
}

static void make_free(struct digits *d)
{
    for (uint32_t k = 0; k <= d->whole_max; k++) {
        d->free_whole[k] = nef_nfa_state(d->c);
        if (k > 0)
            edge(d, d->free_whole[k], '0', '9', d->free_whole[k - 1]);
    }
    nef_nfa_empty(d->c, d->free_whole[0], d->to);
    d->free_point = nef_nfa_state(d->c);
    for (uint32_t k = 0; k <= d->fraction_max; k++) {
        d->free_fraction[k] = k > 0 ? nef_nfa_state(d->c) : d->free_point;
        if (k > 0) {
            edge(d, d->free_fraction[k - 1], '0', '9', d->free_fraction[k]);
            nef_nfa_empty(d->c, d->free_fraction[k], d->to);
        }
    }
    if (d->fraction_max > 0)
        edge(d, d->free_whole[0], '.', '.', d->free_point);
}

static char digit_at(const struct decimal *b, uint32_t whole, uint32_t at)
{
    size_t fraction = strlen(b->fraction);

    if (at < whole)
        return b->whole[at];
    return at - whole < fraction ? b->fraction[at - whole] : '0';
}

static bool rest_is_zero(const struct decimal *b, uint32_t whole, uint32_t at)
{
    for (uint32_t end = whole + (uint32_t)strlen(b->fraction); at < end; at++)
        if (digit_at(b, whole, at) != '0')
            return false;
    return true;
}

/* Numbers of WHOLE digits before the point. tight: bit 0 to low, bit 1 to high, both have as many digits. */
static void emit_length(struct digits *d, uint32_t from, uint32_t whole, unsigned tight)
{
    uint32_t total = whole + d->fraction_max, states[WHOLE_DIGITS + FRACTION_DIGITS + 2][4];

    if (tight == 0) {
        edge(d, from, whole > 1 ? '1' : '0', '9', d->free_whole[whole - 1]);
        return;
    }
    memset(states, 0xff, sizeof(states));
    states[0][tight] = from;
    for (uint32_t at = 0; at <= total; at++)
        for (unsigned t = 1; t < 4; t++) { /* t == 0 are the free states */
            uint32_t state = states[at][t];
            bool low = (t & 1) != 0, high = (t & 2) != 0;

            if (state == UINT32_MAX)
                continue;
            if (at >= whole && (!low || (d->low->inclusive && rest_is_zero(d->low, whole, at))) &&
                (!high || d->high->inclusive || !rest_is_zero(d->high, whole, at)))
                nef_nfa_empty(d->c, state, d->to);
            if (at == whole && d->fraction_max > 0) {
                uint32_t point = nef_nfa_state(d->c);

                edge(d, state, '.', '.', point);
                state = point;
            }
            for (char digit = at == 0 && whole > 1 ? '1' : '0'; digit <= '9' && at < total; digit++) {
                char least = low ? digit_at(d->low, whole, at) : '0', most = high ? digit_at(d->high, whole, at) : '9';
                unsigned next = (low && digit == least ? 1u : 0) | (high && digit == most ? 2u : 0);
                uint32_t to;

                if (digit < least || digit > most)
                    continue;
                if (next == 0)
                    to = at + 1 <= whole ? d->free_whole[whole - at - 1] : d->free_fraction[at + 1 - whole];
                else if (states[at + 1][next] == UINT32_MAX)
                    to = states[at + 1][next] = nef_nfa_state(d->c);
                else
                    to = states[at + 1][next];
                edge(d, state, digit, digit, to);
            }
        }
}

static void emit_between(struct nef_compile *c, uint32_t from, const struct decimal *low, const struct decimal *high,
                         bool integer, uint32_t to)
{
    struct digits d = {.c = c, .low = low, .high = high, .to = to};
    size_t low_digits = low != NULL ? strlen(low->whole) : 0, high_digits = high != NULL ? strlen(high->whole) : 99;

    if (low != NULL && low->huge)
        return; /* none is as large */
    d.whole_max = integer ? INTEGER_DIGITS : WHOLE_DIGITS;
    d.fraction_max = integer ? 0 : FRACTION_DIGITS;
    make_free(&d);
    for (uint32_t whole = 1; whole <= d.whole_max; whole++)
        if (whole >= low_digits && whole <= high_digits)
            emit_length(&d, from, whole, (whole == low_digits ? 1u : 0) | (whole == high_digits ? 2u : 0));
}

/* No bounds: digits, a fraction, an exponent that keeps it a double. */
static void emit_free(struct nef_compile *c, uint32_t from, uint32_t to)
{
    struct digits d = {.c = c, .whole_max = WHOLE_DIGITS, .fraction_max = FRACTION_DIGITS};
    uint32_t e = nef_nfa_state(c), plus = nef_nfa_state(c), minus = nef_nfa_state(c), digits[4], two = nef_nfa_state(c);

    d.to = nef_nfa_state(c);
    make_free(&d);
    edge(&d, from, '0', '0', d.free_whole[0]);
    edge(&d, from, '1', '9', d.free_whole[WHOLE_DIGITS - 1]);
    for (uint32_t k = 1; k < WHOLE_DIGITS; k++) /* or fewer digits */
        nef_nfa_empty(c, d.free_whole[k], d.free_whole[0]);
    nef_nfa_empty(c, d.to, to);
    edge(&d, d.to, 'e', 'e', e);
    edge(&d, d.to, 'E', 'E', e);
    nef_nfa_empty(c, e, plus);
    edge(&d, e, '+', '+', plus);
    edge(&d, e, '-', '-', minus);
    for (uint32_t k = 0; k < 4; k++) { /* k digits more, at most */
        digits[k] = nef_nfa_state(c);
        nef_nfa_empty(c, digits[k], to);
        if (k > 0)
            edge(&d, digits[k], '0', '9', digits[k - 1]);
    }
    edge(&d, minus, '0', '9', digits[2]);
    edge(&d, plus, '0', '9', digits[1]);
    edge(&d, plus, '1', '1', digits[2]); /* 100 to 199, 200 to 279: with 18 digits before the point below 1e308 */
    edge(&d, plus, '2', '2', two);
    edge(&d, two, '0', '7', digits[1]);
}

static void emit_integer(struct nef_compile *c, uint32_t from, const json_t *schema, uint32_t to)
{
    struct decimal low = {.inclusive = true}, high = low;
    uint32_t minus = nef_nfa_text(c, from, "-", 1);
    json_int_t least, most;

    if (!integer_bounds(schema, &least, &most))
        return;
    if (most >= 0) {
        (void)snprintf(low.whole, sizeof(low.whole), "%" JSON_INTEGER_FORMAT, least > 0 ? least : 0);
        (void)snprintf(high.whole, sizeof(high.whole), "%" JSON_INTEGER_FORMAT, most);
        emit_between(c, from, &low, &high, true, to);
    }
    if (least < 0) {
        (void)snprintf(low.whole, sizeof(low.whole), "%" JSON_INTEGER_FORMAT, most < 0 ? -(most + 1) : 0);
        (void)snprintf(high.whole, sizeof(high.whole), "%llu", 0ull - (unsigned long long)least);
        low.inclusive = most >= 0; /* -(most + 1) is one less than -most, which might not be an int64 */
        emit_between(c, minus, &low, &high, true, to);
    }
}

void nef_number_emit(struct nef_compile *c, uint32_t from, const json_t *schema, bool integer, uint32_t to)
{
    static const struct decimal zero = {.whole = "0", .inclusive = true};
    uint32_t minus = nef_nfa_text(c, from, "-", 1);
    const struct decimal *low, *high;
    struct bounds b;

    if (integer) {
        emit_integer(c, from, schema, to);
        return;
    }
    if (!number_bounds(schema, &b)) { /* checked before */
        nef_compile_fail(c, NEF_E_UNSUPPORTED, "a bound has too many digits");
        return;
    }
    low =
        b.has_low && !(b.low.huge && b.low.negative) ? &b.low : NULL; /* bounds that no number here reaches are none */
    high = b.has_high && !(b.high.huge && !b.high.negative) ? &b.high : NULL;
    if (low == NULL && high == NULL) {
        emit_free(c, from, to);
        emit_free(c, minus, to);
        return;
    }
    if (high == NULL && is_zero(low) && low->inclusive)
        emit_free(c, from, to);
    else if (high == NULL || !(high->negative || (is_zero(high) && !high->inclusive)))
        emit_between(c, from, low != NULL && !low->negative ? low : &zero, high, false, to);
    if (low == NULL && is_zero(high) && high->inclusive)
        emit_free(c, minus, to);
    else if (low == NULL || low->negative)
        emit_between(c, minus, high != NULL && (high->negative || is_zero(high)) ? high : &zero, low, false, to);
}
