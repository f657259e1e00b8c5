/* `nef down`: the front first, then zones and witness, then etcd; waits until all are gone. */
#include <stdio.h>
#include "cli/cli.h"
#include "cli/control.h"
#include "cli/state.h"

#define DOWN_MS 90000u /* two rounds of NEF_STOP_MS and what comes between */

/* Processes that a killed supervisor left; -1: can't tell, and said so. */
static int count_survivors(const struct nef_region *r)
{
    struct nef_region_error error = {{0}};
    struct nef_supervisor_state state;
    struct nef_programs programs;
    char boot_id[40];
    int left = 0;

    if (nef_programs_find(&programs, &error) != NEF_OK ||
        nef_state_load(r, &state, &error) != NEF_OK)
        return -nef_complain("down", "%s", error.text);
    nef_proc_boot_id(boot_id);
    for (uint32_t i = 0; i < NEF_PROCESS_COUNT; i++) {
        struct nef_seen seen;

        nef_state_survivor(r, &programs, &state, boot_id, i, &seen);
        left += seen.there ? 1 : 0;
    }
    return left;
}

int nef_cmd_down(int argc, char **argv)
{
    const char *dir = NULL;
    const struct nef_option options[] = {{.name = "dir", .text = &dir}, {.name = NULL}};
    struct nef_region_error error = {{0}};
    struct nef_region region;
    struct nef_words words;
    nef_err err;
    int left = 0;

    if (!nef_options(argc, argv, options, 0, 0, &words))
        return 2;
    if (dir == NULL) {
        (void)nef_complain("down", "say which region: --dir DIR");
        return 2;
    }
    err = nef_region_open(dir, &region, &error);
    if (err == NEF_E_NOT_FOUND) {
        printf("%s holds no region, so nothing runs\n", dir);
        return 0;
    }
    if (err != NEF_OK)
        return nef_complain("down", "%s", error.text);
    err = nef_control_call(&region, "down", NULL, NULL, DOWN_MS, &error);
    if (err == NEF_E_NOT_FOUND) {
        left = count_survivors(&region);
        if (left > 0) {
            /* the supervisor was killed: become one for as long as it takes */
            if (nef_supervise(region.dir, true) != 0)
                return nef_complain("down", "%d processes are left", left);
        }
        err = left >= 0 ? NEF_OK : NEF_E_CONFIG;
    }
    if (err != NEF_OK)
        return left < 0 ? 1 : nef_complain("down", "%s", error.text);
    printf("the region in %s is down\n", region.dir);
    return 0;
}
