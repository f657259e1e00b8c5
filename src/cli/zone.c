/* `nef zone` and `nef supervise`: the commands that stay. */
#include "cli/cli.h"
#include "cli/control.h"
#include "crypto/crypto.h"
#include "server/zone.h"

int nef_cmd_zone(int argc, char **argv)
{
    const char *config = NULL;
    const struct nef_option options[] = {{.name = "config", .text = &config}, {.name = NULL}};
    struct nef_words words;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (config == NULL) {
        (void)nef_complain("zone", "say which configuration: --config FILE");
        return 2;
    }
    return nef_zone_main(config);
}

int nef_cmd_supervise(int argc, char **argv)
{
    const char *dir = NULL;
    const struct nef_option options[] = {{.name = "dir", .text = &dir}, {.name = NULL}};
    struct nef_words words;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (dir == NULL) {
        (void)nef_complain("supervise", "say which region: --dir DIR");
        return 2;
    }
    if (nef_crypto_init() != NEF_OK)
        return nef_complain("supervise", "OpenSSL fails its self-test");
    return nef_supervise(dir, false);
}
