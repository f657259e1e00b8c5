/* `nef fsck`: the command line of the offline check; the check itself is the store's. */
#include "cli/cli.h"
#ifdef NEF_HAVE_FSCK
#include "store/fsck.h"
#endif

int nef_cmd_fsck(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    (void)nef_complain("fsck", "this build has no check");
    return 2;
}
