/* Command-line options: a table a command, and one way to say what is wrong. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cli/cli.h"

int nef_complain(const char *command, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)fprintf(stderr, "nef %s: ", command);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    return 1;
}

static bool usage(const char *command, const char *what, const char *which)
{
    (void)nef_complain(command, "%s%s; see: nef help %s", what, which, command);
    return false;
}

static bool set_number(const char *command, const struct nef_option *o, const char *value)
{
    char *end;
    unsigned long number;

    errno = 0;
    number = strtoul(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != 0 || errno != 0 || number < o->min ||
        number > o->max) {
        (void)nef_complain(command, "--%s must be a number from %u to %u, not '%s'", o->name,
                           o->min, o->max, value);
        return false;
    }
    *o->number = (uint32_t)number;
    return true;
}

static const struct nef_option *option_of(const struct nef_option *options, const char *name,
                                          size_t bytes)
{
    for (const struct nef_option *o = options; o->name != NULL; o++)
        if (strlen(o->name) == bytes && memcmp(o->name, name, bytes) == 0)
            return o;
    return NULL;
}

/* Takes argv[*i], an option, and its value. */
static bool take_option(int argc, char **argv, int *i, const struct nef_option *options)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '='), *value = NULL;
    size_t bytes = equals != NULL ? (size_t)(equals - name) : strlen(name);
    const struct nef_option *o = option_of(options, name, bytes);

    if (o == NULL)
        return usage(argv[0], "unknown option ", argv[*i]);
    if (o->flag != NULL) {
        if (equals != NULL)
            return usage(argv[0], "takes no value: ", argv[*i]);
        *o->flag = true;
        return true;
    }
    if (equals != NULL)
        value = equals + 1;
    else if (*i + 1 < argc)
        value = argv[++*i];
    if (value == NULL || value[0] == 0)
        return usage(argv[0], "needs a value: --", o->name);
    if (o->number != NULL)
        return set_number(argv[0], o, value);
    *o->text = value;
    return true;
}

bool nef_options(int argc, char **argv, const struct nef_option *options, uint32_t words_min,
                 uint32_t words_max, struct nef_words *out_words)
{
    struct nef_words words = {.count = 0};
    bool only_words = false;

    for (int i = 1; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1] != 0) {
            if (argv[i][1] != '-')
                return usage(argv[0], "unknown option ", argv[i]);
            if (!take_option(argc, argv, &i, options))
                return false;
        } else if (words.count == words_max || words.count == NEF_WORDS_MAX) {
            return usage(argv[0], "too many words, from ", argv[i]);
        } else {
            words.word[words.count++] = argv[i];
        }
    }
    if (words.count < words_min)
        return usage(argv[0], "something is missing", "");
    *out_words = words;
    return true;
}
