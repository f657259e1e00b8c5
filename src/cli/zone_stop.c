/* `nef zone-stop`: takes a whole place of a region on one machine, process and etcd member, the way
 * faults do. */
#include <stdio.h>
#include <string.h>
#include "cli/cli.h"
#include "cli/control.h"

#define STOP_MS 60000u

int nef_cmd_zone_stop(int argc, char **argv)
{
    const char *dir = NULL;
    bool kill_it = false, pause_it = false;
    const struct nef_option options[] = {{.name = "dir", .text = &dir},
                                         {.name = "kill", .flag = &kill_it},
                                         {.name = "pause", .flag = &pause_it},
                                         {.name = NULL}};
    struct nef_region_error error = {{0}};
    struct nef_region region;
    struct nef_words words;

    if (!nef_options(argc, argv, options, 1, 1, &words))
        return 2;
    if (dir == NULL || (kill_it && pause_it)) {
        (void)nef_complain("zone-stop", dir == NULL ? "say which region: --dir DIR"
                                                    : "--kill and --pause exclude each other");
        return 2;
    }
    if (nef_region_open(dir, &region, &error) != NEF_OK ||
        nef_control_call(&region, "zone-stop", words.word[0],
                         kill_it    ? "kill"
                         : pause_it ? "pause"
                                    : "clean",
                         STOP_MS, &error) != NEF_OK)
        return nef_complain("zone-stop", "%s", error.text);
    printf("%s is %s\n", words.word[0], kill_it ? "killed" : pause_it ? "paused" : "stopped");
    return 0;
}
