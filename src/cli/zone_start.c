/* `nef zone-start`: brings back what zone-stop took. Returns at once; catching up shows in nef
 * status. */
#include <stdio.h>
#include "cli/cli.h"
#include "cli/control.h"

int nef_cmd_zone_start(int argc, char **argv)
{
    const char *dir = NULL;
    const struct nef_option options[] = {{.name = "dir", .text = &dir}, {.name = NULL}};
    struct nef_region_error error = {{0}};
    struct nef_region region;
    struct nef_words words;

    if (!nef_options(argc, argv, options, 1, 1, &words))
        return 2;
    if (dir == NULL) {
        (void)nef_complain("zone-start", "say which region: --dir DIR");
        return 2;
    }
    if (nef_region_open(dir, &region, &error) != NEF_OK ||
        nef_control_call(&region, "zone-start", words.word[0], NULL, 10000, &error) != NEF_OK)
        return nef_complain("zone-start", "%s", error.text);
    printf("%s is starting; see: nef status --dir %s\n", words.word[0], region.dir);
    return 0;
}
