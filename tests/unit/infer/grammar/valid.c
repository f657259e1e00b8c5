/* JSON Schema by the book (draft 2020-12), for the keywords that grammars know; written for clarity, and from the
 * specification, not from the grammar. Formats by regular expressions and arithmetic. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include "base/assert.h"
#include "grammar_fixture.h"

static bool matches(const char *pattern, const char *text, size_t bytes)
{
    int error;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int newline = pcre2_set_newline(context, PCRE2_NEWLINE_ANY); /* U+2028 is one in ECMA-262 too; no test has U+0085 */
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX | PCRE2_MATCH_UNSET_BACKREF,
                                     &error, &at, context);
    pcre2_match_data *data;
    int found;

    NEF_ASSERT(code != NULL && newline == 0);
    pcre2_compile_context_free(context);
    data = pcre2_match_data_create_from_pattern(code, NULL);
    found = pcre2_match(code, (PCRE2_SPTR)text, bytes, 0, 0, data, NULL);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return found >= 0;
}

static bool valid_date(const char *text)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year, month, day;

    if (sscanf(text, "%4d-%2d-%2d", &year, &month, &day) != 3 || month < 1 || month > 12 || day < 1)
        return false;
    return day <= days[month - 1] + (month == 2 && ((year % 4 == 0 && year % 100 != 0) || year % 400 == 0));
}

static bool valid_format(const char *format, const char *text, size_t bytes)
{
    if (strcmp(format, "date") == 0)
        return matches("^[0-9]{4}-[0-9]{2}-[0-9]{2}$", text, bytes) && valid_date(text);
    if (strcmp(format, "date-time") == 0)
        return matches("^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]+)?"
                       "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
                       text, bytes) &&
               valid_date(text);
    if (strcmp(format, "uuid") == 0)
        return matches("^[[:xdigit:]]{8}-[[:xdigit:]]{4}-[[:xdigit:]]{4}-[[:xdigit:]]{4}-[[:xdigit:]]{12}$", text,
                       bytes);
    NEF_ASSERT(strcmp(format, "email") == 0);
    return matches("^(?=.{1,254}$)(?=[^@]{1,64}@)[^@\\s\".][^@\\s\"]*@([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\\.)+"
                   "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$",
                   text, bytes) &&
           strstr(text, "..") == NULL && strstr(text, ".@") == NULL;
}

static size_t characters(const char *text, size_t bytes)
{
    size_t count = 0;

    for (size_t i = 0; i < bytes; i++)
        count += ((uint8_t)text[i] & 0xc0) != 0x80;
    return count;
}

static bool is_type(const json_t *value, const char *type)
{
    if (strcmp(type, "object") == 0)
        return json_is_object(value);
    if (strcmp(type, "array") == 0)
        return json_is_array(value);
    if (strcmp(type, "string") == 0)
        return json_is_string(value);
    if (strcmp(type, "number") == 0)
        return json_is_number(value);
    if (strcmp(type, "integer") == 0)
        return json_is_integer(value) ||
               (json_is_real(value) && floor(json_real_value(value)) == json_real_value(value));
    if (strcmp(type, "boolean") == 0)
        return json_is_boolean(value);
    return json_is_null(value);
}

static bool equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    return json_equal(a, b) == 1;
}

static void replace(char *text, const char *what, char with)
{
    for (char *at = text; (at = strstr(at, what)) != NULL; at++) {
        *at = with;
        memmove(at + 1, at + strlen(what), strlen(at + strlen(what)) + 1);
    }
}

static const json_t *follow(const json_t *root, const char *ref)
{
    const json_t *at = root;
    char step[256];

    NEF_ASSERT(ref[0] == '#');
    for (ref++; *ref == '/';) {
        size_t bytes = strcspn(++ref, "/");

        NEF_ASSERT(bytes < sizeof(step));
        memcpy(step, ref, bytes);
        step[bytes] = '\0';
        replace(step, "%7e", '~');
        replace(step, "~1", '/');
        replace(step, "~0", '~');
        at = json_is_array(at) ? json_array_get(at, strtoul(step, NULL, 10)) : json_object_get(at, step);
        ref += bytes;
    }
    NEF_ASSERT(at != NULL);
    return at;
}

static bool valid_number(const json_t *value, const json_t *schema)
{
    const json_t *bound;
    long double number = json_is_integer(value) ? (long double)json_integer_value(value) : json_real_value(value);
#define BOUND(name, relation)                                                                                          \
    bound = json_object_get(schema, name);                                                                             \
    if (bound != NULL &&                                                                                               \
        !(number relation(json_is_integer(bound) ? (long double)json_integer_value(bound) : json_real_value(bound))))  \
        return false;
    BOUND("minimum", >=)
    BOUND("maximum", <=)
    BOUND("exclusiveMinimum", >)
    BOUND("exclusiveMaximum", <)
    return true;
}

static bool valid_string(const json_t *value, const json_t *schema)
{
    const char *text = json_string_value(value);
    size_t bytes = json_string_length(value), count = characters(text, bytes);
    const json_t *k;

    if ((k = json_object_get(schema, "minLength")) != NULL && count < (size_t)json_integer_value(k))
        return false;
    if ((k = json_object_get(schema, "maxLength")) != NULL && count > (size_t)json_integer_value(k))
        return false;
    if ((k = json_object_get(schema, "pattern")) != NULL && !matches(json_string_value(k), text, bytes))
        return false;
    k = json_object_get(schema, "format");
    return k == NULL || valid_format(json_string_value(k), text, bytes);
}

static bool valid_object(const json_t *value, const json_t *schema, const json_t *root)
{
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *more = json_object_get(schema, "additionalProperties");
    const char *name;
    json_t *member;

    for (size_t i = 0; i < json_array_size(required); i++)
        if (json_object_get(value, json_string_value(json_array_get(required, i))) == NULL)
            return false;
    json_object_foreach((json_t *)value, name, member)
    {
        const json_t *its = json_object_get(properties, name);

        if (its == NULL && (json_is_false(more) || (more == NULL && properties != NULL))) /* stricter than the book */
            return false;
        if (its == NULL)
            its = more;
        if (its != NULL && !valid_value(member, its, root))
            return false;
    }
    return true;
}

static bool valid_array(const json_t *value, const json_t *schema, const json_t *root)
{
    const json_t *items = json_object_get(schema, "items"), *k;

    if ((k = json_object_get(schema, "minItems")) != NULL && json_array_size(value) < (size_t)json_integer_value(k))
        return false;
    if ((k = json_object_get(schema, "maxItems")) != NULL && json_array_size(value) > (size_t)json_integer_value(k))
        return false;
    for (size_t i = 0; items != NULL && i < json_array_size(value); i++)
        if (!valid_value(json_array_get(value, i), items, root))
            return false;
    return true;
}

bool valid_value(const json_t *value, const json_t *schema, const json_t *root)
{
    const json_t *type = json_object_get(schema, "type"), *list = json_object_get(schema, "enum");
    const json_t *constant = json_object_get(schema, "const"), *any = json_object_get(schema, "anyOf");
    const json_t *ref = json_object_get(schema, "$ref");
    bool fits = type == NULL;

    if (json_is_boolean(schema))
        return json_is_true(schema);
    if (json_is_string(type))
        fits = is_type(value, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++)
        fits |= is_type(value, json_string_value(json_array_get(type, i)));
    if (!fits || (constant != NULL && !equal(value, constant)))
        return false;
    if (ref != NULL && !valid_value(value, follow(root, json_string_value(ref)), root))
        return false;
    fits = list == NULL;
    for (size_t i = 0; i < json_array_size(list); i++)
        fits |= equal(value, json_array_get(list, i));
    if (!fits)
        return false;
    fits = any == NULL;
    for (size_t i = 0; i < json_array_size(any); i++)
        fits |= valid_value(value, json_array_get(any, i), root);
    if (!fits)
        return false;
    if (json_is_object(value))
        return valid_object(value, schema, root);
    if (json_is_array(value))
        return valid_array(value, schema, root);
    if (json_is_string(value))
        return valid_string(value, schema);
    return !json_is_number(value) || valid_number(value, schema);
}
