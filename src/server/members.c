/* Which of etcd's members are well, for those who watch the region (status, metrics). Nothing is decided by it: what
 * needs etcd asks it (group.c), and a majority answers for one that is away. But the next loss may need the one that
 * has been away for weeks.
 *
 * A thread of its own with its own connections, since a member that doesn't answer takes MEMBER_MS of it each time. */
#include <time.h>
#include "server/runtime_internal.h"

#define ROUND_NS   100000000l
#define ASK_ROUNDS 50u
#define MEMBER_MS  500u

static void ask(struct nef_runtime *rt, struct nef_etcd *etcd)
{
    for (uint32_t i = 0; i < rt->config->etcd.endpoint_count && !atomic_load(&rt->stopping); i++)
        atomic_store(&rt->etcd_member[i], nef_etcd_health(etcd, i) == NEF_OK ? NEF_SEEN_YES : NEF_SEEN_NO);
}

void *members_main(void *argument)
{
    struct nef_runtime *rt = argument;
    struct nef_etcd *etcd = NULL;

    thread_name("members");
    for (uint64_t round = 0; !atomic_load(&rt->stopping); round++) {
        struct timespec pause = {0, ROUND_NS};

        if (round % ASK_ROUNDS == 0 && (etcd != NULL || etcd_open(rt, MEMBER_MS, &etcd) == NEF_OK))
            ask(rt, etcd);
        (void)nanosleep(&pause, NULL);
    }
    nef_etcd_free(etcd);
    return NULL;
}
