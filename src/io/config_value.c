/* Single configuration values: text to C and back. PURE. What is printed parses to the same value.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "io/config_internal.h"

struct unit {
    const char *name;
    uint64_t factor;
};

/* largest first, the base unit last: a value is printed in the first one that divides it */
static const struct unit sizes[] = {
    {"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}, {"B", 1}};
static const struct unit durations[] = {{"d", 86400ull * 1000000000},
                                        {"h", 3600ull * 1000000000},
                                        {"m", 60ull * 1000000000},
                                        {"s", 1000000000},
                                        {"ms", 1000000},
                                        {"us", 1000},
                                        {"ns", 1}};

static void say(char *why, size_t why_bytes, const char *format, ...) NEF_PRINTF(3, 4);
static void say(char *why, size_t why_bytes, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, why_bytes, format, args); /* cut if too long: it is a message */
    va_end(args);
}

bool nef_config_is_text(enum nef_config_kind kind)
{
    return kind == NEF_CONFIG_STRING || kind == NEF_CONFIG_NAME || kind == NEF_CONFIG_PATH ||
           kind == NEF_CONFIG_URL;
}

/* Decimal digits only, no sign, no leading zero but "0" itself. out_end: the first other character.
 */
static bool number(const char *text, uint64_t *out_value, const char **out_end)
{
    uint64_t v = 0;
    const char *p = text;

    if (!isdigit((unsigned char)*p) || (p[0] == '0' && isdigit((unsigned char)p[1])))
        return false;
    for (; isdigit((unsigned char)*p); p++) {
        if (v > (UINT64_MAX - (uint64_t)(*p - '0')) / 10)
            return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    *out_value = v;
    *out_end = p;
    return true;
}

static bool with_unit(const char *text, const struct unit *units, size_t count, uint64_t *out_value)
{
    const char *end;
    uint64_t v;

    if (!number(text, &v, &end))
        return false;
    if (v == 0 && *end == '\0') { /* nothing needs no unit */
        *out_value = 0;
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        if (v > UINT64_MAX / units[i].factor)
            return false;
        *out_value = v * units[i].factor;
        return true;
    }
    return false;
}

static void unit_text(uint64_t v, const struct unit *units, size_t count, char out[32])
{
    size_t i = 0;

    if (v == 0) {
        (void)snprintf(out, 32, "0");
        return;
    }
    while (i + 1 < count && v % units[i].factor != 0)
        i++;
    (void)snprintf(out, 32, "%" PRIu64 "%s", v / units[i].factor, units[i].name);
}

static void number_text(enum nef_config_kind kind, uint64_t v, char out[32])
{
    if (kind == NEF_CONFIG_SIZE)
        unit_text(v, sizes, NEF_COUNT(sizes), out);
    else if (kind == NEF_CONFIG_DURATION)
        unit_text(v, durations, NEF_COUNT(durations), out);
    else if (kind == NEF_CONFIG_FRACTION)
        (void)snprintf(out, 32, "%" PRIu64 ".%03" PRIu64, v / 1000, v % 1000);
    else
        (void)snprintf(out, 32, "%" PRIu64, v);
}

static bool in_range(const struct nef_config_field *field, uint64_t v, char *why, size_t why_bytes)
{
    char least[32], most[32];

    if (v >= field->min && (field->max == 0 || v <= field->max))
        return true;
    number_text(field->kind, field->min, least);
    number_text(field->kind, field->max, most);
    if (field->max == 0)
        say(why, why_bytes, "must be at least %s", least);
    else
        say(why, why_bytes, "must be between %s and %s", least, most);
    return false;
}

/* ---- addresses ---- */

static bool host_ok(const char *host)
{
    size_t n = strlen(host);

    if (n == 0 || n > 253)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)host[i]) && strchr(".-_:", host[i]) == NULL)
            return false;
    return true;
}

nef_err nef_host_port_parse(const char *text, struct nef_host_port *out)
{
    struct nef_host_port v = {.port = 0};
    const char *colon, *host = text, *end;
    size_t host_bytes;
    uint64_t port;

    if (text[0] == '[') {
        const char *close = strchr(text, ']');

        if (close == NULL || close[1] != ':')
            return NEF_E_INVALID;
        host = text + 1;
        host_bytes = (size_t)(close - host);
        colon = close + 1;
    } else {
        colon = strchr(text, ':');
        if (colon == NULL)
            return NEF_E_INVALID;
        host_bytes = (size_t)(colon - text);
    }
    if (host_bytes >= sizeof(v.host) || !number(colon + 1, &port, &end) || *end != '\0' ||
        port > UINT16_MAX)
        return NEF_E_INVALID;
    memcpy(v.host, host, host_bytes);
    if (!host_ok(v.host) || (text[0] == '[') != (strchr(v.host, ':') != NULL))
        return NEF_E_INVALID;
    v.port = (uint16_t)port;
    *out = v;
    return NEF_OK;
}

void nef_host_port_text(const struct nef_host_port *address, char out[NEF_HOST_PORT_TEXT])
{
    bool six = strchr(address->host, ':') != NULL;

    (void)snprintf(out, NEF_HOST_PORT_TEXT, "%s%s%s:%u", six ? "[" : "", address->host,
                   six ? "]" : "", address->port);
}

static bool url_ok(const char *text)
{
    struct nef_host_port address;
    const char *rest;

    if (strncmp(text, "http://", 7) == 0)
        rest = text + 7;
    else if (strncmp(text, "https://", 8) == 0)
        rest = text + 8;
    else
        return false;
    return nef_host_port_parse(rest, &address) == NEF_OK && address.port != 0;
}

/* ---- text to value ---- */

static bool name_ok(const char *text)
{
    size_t n = strlen(text);

    if (n == 0 || text[0] == '-' || text[n - 1] == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(text[i] >= 'a' && text[i] <= 'z') && !(text[i] >= '0' && text[i] <= '9') &&
            text[i] != '-')
            return false;
    return true;
}

static nef_err text_value(const struct nef_config_field *field, const char *text, const char *dir,
                          char **value, char *why, size_t why_bytes)
{
    size_t max = field->max == 0 ? NEF_CONFIG_STRING_MAX : field->max;
    size_t n = strlen(text);
    char *copy;
    int made;

    if (n < NEF_MAX(field->min, 1u) || n > max) {
        say(why, why_bytes, "must be %zu to %zu characters long", (size_t)NEF_MAX(field->min, 1u),
            max);
        return NEF_E_CONFIG;
    }
    if (field->kind == NEF_CONFIG_NAME && !name_ok(text)) {
        say(why, why_bytes, "must be of a-z, 0-9 and '-', not at its ends");
        return NEF_E_CONFIG;
    }
    if (field->kind == NEF_CONFIG_URL && !url_ok(text)) {
        say(why, why_bytes, "must be http://host:port or https://host:port");
        return NEF_E_CONFIG;
    }
    if (field->kind == NEF_CONFIG_PATH && text[0] != '/' && dir[0] != '\0')
        made = asprintf(&copy, "%s/%s", dir, text);
    else
        made = asprintf(&copy, "%s", text);
    if (made < 0) {
        say(why, why_bytes, "out of memory");
        return NEF_E_NOMEM;
    }
    *value = copy;
    return NEF_OK;
}

static nef_err number_value(const struct nef_config_field *field, const char *text, void *value,
                            char *why, size_t why_bytes)
{
    const char *end = "";
    uint64_t v = 0;

    if (field->kind == NEF_CONFIG_SIZE) {
        if (!with_unit(text, sizes, NEF_COUNT(sizes), &v)) {
            say(why, why_bytes, "must be a size such as 256MiB (B, KiB, MiB, GiB, TiB)");
            return NEF_E_CONFIG;
        }
    } else if (field->kind == NEF_CONFIG_DURATION) {
        if (!with_unit(text, durations, NEF_COUNT(durations), &v)) {
            say(why, why_bytes, "must be a duration such as 500ms (us, ms, s, m, h, d)");
            return NEF_E_CONFIG;
        }
    } else if (!number(text, &v, &end) || *end != '\0') {
        say(why, why_bytes, "must be a number");
        return NEF_E_CONFIG;
    }
    if (!in_range(field, v, why, why_bytes))
        return NEF_E_CONFIG;
    if (field->kind == NEF_CONFIG_INT) {
        NEF_ASSERT(field->max > 0 &&
                   field->max <= UINT32_MAX); /* every schema bounds its integers */
        *(uint32_t *)value = (uint32_t)v;
    } else {
        *(uint64_t *)value = v;
    }
    return NEF_OK;
}

/* Thousandths, so that there is no locale and no rounding: "0.5", "1", "0.375". */
static nef_err fraction_value(const struct nef_config_field *field, const char *text, double *value,
                              char *why, size_t why_bytes)
{
    const char *p;
    uint64_t v, unit = 100;
    bool ok = number(text, &v, &p) && v <= 1000000;

    v *= ok ? 1000 : 0;
    if (ok && *p == '.') {
        p++;
        ok = isdigit((unsigned char)*p) != 0;
        for (; isdigit((unsigned char)*p) && unit > 0; p++, unit /= 10)
            v += (uint64_t)(*p - '0') * unit;
    }
    if (!ok || *p != '\0') {
        say(why, why_bytes, "must be a fraction such as 0.5, with 3 decimals at most");
        return NEF_E_CONFIG;
    }
    if (!in_range(field, v, why, why_bytes))
        return NEF_E_CONFIG;
    *value = (double)v / 1000;
    return NEF_OK;
}

static nef_err choice_value(const struct nef_config_field *field, const char *text, uint32_t *value,
                            char *why, size_t why_bytes)
{
    size_t at = 0;

    for (uint32_t i = 0; field->choices[i] != NULL; i++) {
        if (strcmp(text, field->choices[i]) == 0) {
            *value = i;
            return NEF_OK;
        }
    }
    say(why, why_bytes, "must be one of ");
    for (uint32_t i = 0; field->choices[i] != NULL; i++) {
        at = strlen(why);
        say(why + at, why_bytes - at, "%s%s", i == 0 ? "" : ", ", field->choices[i]);
    }
    return NEF_E_CONFIG;
}

nef_err nef_config_scalar(const struct nef_config_field *field, const char *text, bool quoted,
                          const char *dir, void *value, char *why, size_t why_bytes)
{
    struct nef_id id;

    switch (field->kind) {
    case NEF_CONFIG_STRING:
    case NEF_CONFIG_NAME:
    case NEF_CONFIG_PATH:
    case NEF_CONFIG_URL:
        return text_value(field, text, dir, value, why, why_bytes);
    case NEF_CONFIG_HOST_PORT:
        if (nef_host_port_parse(text, value) == NEF_OK)
            return NEF_OK;
        say(why, why_bytes, "must be host:port, such as 127.0.0.1:9010 or [::1]:9010");
        return NEF_E_CONFIG;
    case NEF_CONFIG_ID:
        if (nef_unhex(text, strlen(text), id.bytes, sizeof(id.bytes)) == NEF_OK &&
            !nef_id_is_zero(&id)) {
            *(struct nef_id *)value = id;
            return NEF_OK;
        }
        say(why, why_bytes, "must be 32 hexadecimal digits, not all 0");
        return NEF_E_CONFIG;
    case NEF_CONFIG_BOOL:
        if (!quoted && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)) {
            *(bool *)value = text[0] == 't';
            return NEF_OK;
        }
        say(why, why_bytes, "must be true or false");
        return NEF_E_CONFIG;
    case NEF_CONFIG_INT:
        if (quoted) {
            say(why, why_bytes, "must be a number, without quotes");
            return NEF_E_CONFIG;
        }
        return number_value(field, text, value, why, why_bytes);
    case NEF_CONFIG_SIZE:
    case NEF_CONFIG_DURATION:
        return number_value(field, text, value, why, why_bytes);
    case NEF_CONFIG_FRACTION:
        return fraction_value(field, text, value, why, why_bytes);
    case NEF_CONFIG_CHOICE:
        return choice_value(field, text, value, why, why_bytes);
    case NEF_CONFIG_MAP:
    case NEF_CONFIG_LIST:
        break;
    }
    nef_assert_fail(__FILE__, __LINE__, "a scalar kind");
}

/* ---- value to text ---- */

/* The code point of the UTF-8 sequence at P and its length; a byte that begins none stands for itself. */
static size_t code_point(const unsigned char *p, uint32_t *out)
{
    size_t n = *p < 0xc2 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 1;
    uint32_t v = n == 1 ? *p : *p & (0x7fu >> n);

    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) { /* also at the NUL */
            *out = *p;
            return 1;
        }
        v = v << 6 | (p[i] & 0x3fu);
    }
    *out = v;
    return n;
}

/* In double quotes. What YAML doesn't take as it is, or takes for a line break (NEL, LS, PS), is escaped. */
static void quoted_text(const char *text, struct nef_buf *out)
{
    const unsigned char *p = (const unsigned char *)text;

    nef_buf_text(out, "\"");
    while (*p != '\0') {
        uint32_t c;
        size_t n = code_point(p, &c);

        if (c == '"' || c == '\\')
            nef_buf_printf(out, "\\%c", (int)c);
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (n == 1 && c >= 0x80))
            nef_buf_printf(out, "\\x%02x", c);
        else if (c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff)
            nef_buf_printf(out, "\\u%04x", c);
        else
            nef_buf_append(out, p, n);
        p += n;
    }
    nef_buf_text(out, "\"");
}

void nef_config_scalar_text(const struct nef_config_field *field, const void *value,
                            struct nef_buf *out)
{
    char text[NEF_HOST_PORT_TEXT];

    switch (field->kind) {
    case NEF_CONFIG_NAME: /* plain, as a person writes it; only a plain null reads as nothing */
        if (strcmp(*(char *const *)value, "null") == 0)
            quoted_text(*(char *const *)value, out);
        else
            nef_buf_text(out, *(char *const *)value);
        return;
    case NEF_CONFIG_STRING:
    case NEF_CONFIG_PATH:
    case NEF_CONFIG_URL:
        quoted_text(*(char *const *)value, out);
        return;
    case NEF_CONFIG_HOST_PORT:
        nef_host_port_text(value, text);
        quoted_text(text, out);
        return;
    case NEF_CONFIG_ID:
        nef_hex(((const struct nef_id *)value)->bytes, 16, text);
        nef_buf_text(out, text);
        return;
    case NEF_CONFIG_BOOL:
        nef_buf_text(out, *(const bool *)value ? "true" : "false");
        return;
    case NEF_CONFIG_INT:
        nef_buf_printf(out, "%" PRIu32, *(const uint32_t *)value);
        return;
    case NEF_CONFIG_SIZE:
    case NEF_CONFIG_DURATION:
        number_text(field->kind, *(const uint64_t *)value, text);
        nef_buf_text(out, text);
        return;
    case NEF_CONFIG_FRACTION:
        number_text(field->kind, (uint64_t)(*(const double *)value * 1000 + 0.5), text);
        nef_buf_text(out, text);
        return;
    case NEF_CONFIG_CHOICE:
        nef_buf_text(out, field->choices[*(const uint32_t *)value]);
        return;
    case NEF_CONFIG_MAP:
    case NEF_CONFIG_LIST:
        break;
    }
    nef_assert_fail(__FILE__, __LINE__, "a scalar kind");
}
