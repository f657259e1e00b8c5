/* `nef fsck`: the command line of the offline check; the check itself is the store's. */
#include "cli/cli.h"
#include "crypto/crypto.h"
#include "store/fsck.h"
