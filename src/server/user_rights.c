/* See user_rights.h. */
#include "server/user_rights.h"
#include <string.h>

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

/* "*", or an array of names, into OUT as the store keeps them: with commas. */
static const char *list_of(const json_t *value, size_t name_max, char *out, size_t room)
{
    const json_t *item;
    size_t i, at = 0;

    if (json_is_string(value) && strcmp(json_string_value(value), "*") == 0) {
        (void)strcpy(out, "*");
        return NULL;
    }
    if (!json_is_array(value))
        return "models and zones are \"*\" or an array of names";
    out[0] = '\0';
    json_array_foreach (value, i, item) {
        const char *name = json_string_value(item);
        size_t bytes = name == NULL ? 0 : strlen(name);

        if (bytes == 0 || bytes > name_max || strspn(name, LETTERS "._-/:") != bytes)
            return "the name of a model or zone has 1 to 120 (32) of a-z A-Z 0-9 . _ - / :";
        if (at + bytes + 2 > room)
            return "too many models or zones for one user: 1,023 and 255 characters at most";
        if (at > 0)
            out[at++] = ',';
        memcpy(out + at, name, bytes + 1);
        at += bytes;
    }
    return NULL;
}

static const char *number_of(const json_t *value, uint64_t least, uint64_t most, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < (json_int_t)least ||
        (uint64_t)json_integer_value(value) > most)
        return "requests_min and tokens_min are 0 (no limit) to 2^40, concurrency 0 to 65536, weight 1 to 1000, "
               "priority 0 "
               "to 9";
    *out = (uint64_t)json_integer_value(value);
    return NULL;
}

const char *nef_user_ai_change(struct nef_user_ai *ai, const json_t *value)
{
    struct nef_user_ai new = *ai;
    const char *key, *why = NULL;
    json_t *item;

    if (json_is_null(value)) {
        memset(ai, 0, sizeof(*ai));
        return NULL;
    }
    if (!json_is_object(value))
        return "ai is an object or null";
    if (!new.allowed) {
        memset(&new, 0, sizeof(new));
        new.allowed = true;
        new.weight = 1;
    }
    json_object_foreach ((json_t *)value, key, item) {
        uint64_t number = 0;

        if (strcmp(key, "models") == 0) {
            why = list_of(item, NEF_MODEL_NAME_MAX, new.models, sizeof(new.models));
        } else if (strcmp(key, "zones") == 0) {
            why = list_of(item, NEF_ZONE_NAME_MAX, new.zones, sizeof(new.zones));
        } else if (strcmp(key, "requests_min") == 0) {
            why = number_of(item, 0, NEF_AI_BUDGET_MAX, &new.requests_min);
        } else if (strcmp(key, "tokens_min") == 0) {
            why = number_of(item, 0, NEF_AI_BUDGET_MAX, &new.tokens_min);
        } else if (strcmp(key, "concurrency") == 0) {
            why = number_of(item, 0, NEF_AI_CONCURRENCY_MAX, &number);
            new.concurrency = (uint32_t)number;
        } else if (strcmp(key, "weight") == 0) {
            why = number_of(item, 1, NEF_AI_WEIGHT_MAX, &number);
            new.weight = (uint32_t)number;
        } else if (strcmp(key, "priority") == 0) {
            why = number_of(item, 0, NEF_AI_PRIORITY_MAX, &number);
            new.priority = (uint32_t)number;
        } else {
            why = "ai has models, zones, requests_min, tokens_min, concurrency, weight and priority";
        }
        if (why != NULL)
            return why;
    }
    *ai = new;
    return NULL;
}

static json_t *list_json(const char *list)
{
    json_t *array;

    if (strcmp(list, "*") == 0)
        return json_string("*");
    array = json_array();
    while (array != NULL && *list != '\0') {
        size_t bytes = strcspn(list, ",");

        if (json_array_append_new(array, json_stringn(list, bytes)) != 0) {
            json_decref(array);
            return NULL;
        }
        list += bytes + (list[bytes] == ',');
    }
    return array;
}

json_t *nef_user_ai_json(const struct nef_user_ai *ai)
{
    if (!ai->allowed)
        return json_null();
    return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "models", list_json(ai->models), "zones",
                     list_json(ai->zones), "requests_min", (json_int_t)ai->requests_min, "tokens_min",
                     (json_int_t)ai->tokens_min, "concurrency", (json_int_t)ai->concurrency, "weight",
                     (json_int_t)ai->weight, "priority", (json_int_t)ai->priority);
}
