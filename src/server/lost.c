/* What cuts left in DIR/lost/ (cell_log.c), and for how long.
 *
 *   cell-N-OFFSET-TIME.*       what an accepted loss gave up: it may hold writes that clients were told are safe, and
 *                              is all there is of them. Never removed here: only a person can say that nobody needs
 *                              it any more, so its size is in status and metrics, and each start's log tells of it.
 *   tail-cell-N-OFFSET-TIME.*  what a failover made void: nothing that was acknowledged, since whoever could take the
 *                              next epoch had all of that (R1). Kept for whoever wants to look into a failover, up
 *                              to lost.tails bytes; beyond, the oldest go.
 *
 * The upkeep thread's. Nothing waits for it; a directory that can't be read is looked at again a little later. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/bytes.h"
#include "base/trace.h"
#include "server/runtime_internal.h"

#define REMOVE_MAX 256u /* files a look: each costs a pass over the directory */

struct look {
    uint64_t accepted, tails; /* bytes on disk */
    uint64_t oldest_ms, oldest_bytes;
    char oldest[256];
};

/* TIME of a name; 0: it has none, and so is the oldest. */
static uint64_t time_of(const char *name)
{
    unsigned cell;
    unsigned long long offset, ms;

    return sscanf(name, LOST_TAIL "cell-%u-%16llx-%16llx", &cell, &offset, &ms) == 3 ? ms : 0;
}

static bool look(DIR *dir, struct look *out)
{
    struct dirent *entry;

    *out = (struct look){.oldest_ms = UINT64_MAX};
    rewinddir(dir);
    for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
        struct stat st;
        uint64_t bytes;

        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
            continue;
        bytes = (uint64_t)st.st_blocks * 512;
        if (strncmp(entry->d_name, LOST_TAIL, strlen(LOST_TAIL)) != 0) {
            out->accepted += bytes;
            continue;
        }
        out->tails += bytes;
        if (time_of(entry->d_name) < out->oldest_ms && strlen(entry->d_name) < sizeof(out->oldest)) {
            out->oldest_ms = time_of(entry->d_name);
            out->oldest_bytes = bytes;
            (void)strcpy(out->oldest, entry->d_name);
        }
    }
    return errno == 0;
}

void lost_check(struct nef_runtime *rt, bool first)
{
    char path[4096];
    struct look now = {0};
    uint32_t removed = 0;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "%s/lost", rt->config->data_dir);
    dir = opendir(path);
    if (dir == NULL)
        return; /* nothing was ever cut here */
    while (look(dir, &now) && now.tails > rt->config->lost.tails_bytes && now.oldest[0] != 0 &&
           removed++ < REMOVE_MAX) {
        if (unlinkat(dirfd(dir), now.oldest, 0) != 0)
            break;
        (void)atomic_fetch_add(&rt->lost_removed, now.oldest_bytes);
        nef_trace(NEF_TRACE_INFO, "lost_tail_removed", "s:file", now.oldest, "u:bytes", now.oldest_bytes, NULL);
    }
    (void)closedir(dir); /* nothing was written through it */
    atomic_store(&rt->lost_accepted, now.accepted);
    atomic_store(&rt->lost_tails, now.tails);
    if (first && now.accepted > 0)
        nef_trace(NEF_TRACE_WARN, "lost_kept", "s:directory", path, "u:bytes", now.accepted, NULL);
}
