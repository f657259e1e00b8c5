/* The one program of Nef: finds the command and runs it. */
#include <stdio.h>
#include <string.h>
#include "cli/cli.h"

const struct nef_command *nef_command_find(const char *name)
{
    for (const struct nef_command *c = nef_commands; c->name != NULL; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

int main(int argc, char **argv)
{
    const struct nef_command *command;

    if (argc < 2) {
        (void)nef_cmd_help(0, NULL);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("nef %s\n", NEF_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return nef_cmd_help(argc - 1, argv + 1);
    command = nef_command_find(argv[1]);
    if (command == NULL) {
        (void)fprintf(stderr, "nef: there is no command '%s'; see: nef help\n", argv[1]);
        return 2;
    }
    if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0))
        return nef_cmd_help(2, argv); /* argv[1] is the command, as after `nef help` */
    return command->run(argc - 1, argv + 1);
}
