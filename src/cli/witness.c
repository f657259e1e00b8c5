/* `nef witness`: the third place's process. */
#include "cli/cli.h"
#include "witness/witness.h"

int nef_cmd_witness(int argc, char **argv)
{
    const char *config = NULL;
    const struct nef_option options[] = {{.name = "config", .text = &config}, {.name = NULL}};
    struct nef_words words;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (config == NULL) {
        (void)nef_complain("witness", "say which configuration: --config FILE");
        return 2;
    }
    return nef_witness_main(config);
}
