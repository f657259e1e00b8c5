/* What a zone does in the background for itself: segments made ahead, free space, and callers that asked to be
 * called again; and it bounds what cuts left aside (lost.c). Nothing here is in the path of a request, and nothing waits
 * for a proposal, a peer or the network: clocks (clocks.c), the primary's work (maintain.c), the scrub (scrub.c) and the
 * look at etcd's members (members.c) have threads of their own, started and stopped here, so that none is late because
 * another is stuck. */
#include <stdlib.h>
#include <time.h>
#include "base/trace.h"
#include "server/runtime_internal.h"

#define ROUND_NS     100000000ull
#define SPACE_ROUNDS 10u
#define LOST_ROUNDS  50u

static void check_space(struct nef_runtime *rt)
{
    /* Below this nothing but what frees space is admitted. Each cell has one segment prepared ahead and
     * room for another here, so that deletes, their moves and drops always find a place. */
    uint64_t reserve = (rt->cell_count + 1) * rt->segment_bytes;
    uint64_t free_bytes = 0, total = 0;
    bool full;
    struct item *item;

    if (rt->dir->ops->free_bytes(rt->dir, &free_bytes, &total) != NEF_OK)
        return;
    atomic_store(&rt->free_bytes, free_bytes);
    atomic_store(&rt->total_bytes, total);
    full = free_bytes <= reserve;
    /* An index without space can't take what the log could: no more is admitted, here and through the peer. */
    for (uint32_t i = 0; i < rt->cell_count && !full; i++)
        full = atomic_load(&rt->cells[i].index_full);
    item = item_new(NEF_EV_SPACE);
    item->event.free_bytes = full ? 0 : free_bytes - reserve;
    item->event.err = full ? NEF_E_NOSPACE : NEF_OK;
    post(rt, item);
}

static void prepare_segments(struct nef_runtime *rt, bool say)
{
    for (uint32_t i = 0; i < rt->cell_count; i++) {
        nef_err err = nef_log_prepare(rt->cells[i].log);

        if (err != NEF_OK && err != NEF_E_NOSPACE && say)
            nef_trace(NEF_TRACE_WARN, "prepare_failed", "u:cell", (uint64_t)i, "e:err", err, NULL);
    }
}

/* ---- later ---- */

struct later {
    struct later *next;
    uint64_t at_ns;
    void (*again)(void *context);
    void *context;
};

bool nef_runtime_later(struct nef_runtime *rt, uint32_t delay_ms, void (*again)(void *context), void *context)
{
    struct later *l = calloc(1, sizeof(*l));
    bool taken = false;

    if (l == NULL)
        return false;
    *l = (struct later){.at_ns = now_ns() + delay_ms * 1000000ull, .again = again, .context = context};
    pthread_mutex_lock(&rt->later_lock);
    if (!rt->later_closed && rt->later_count < NEF_LATER_MAX) {
        l->next = rt->later;
        rt->later = l;
        rt->later_count++;
        taken = true;
    }
    pthread_mutex_unlock(&rt->later_lock);
    if (!taken)
        free(l);
    return taken;
}

/* Those that are due, all of them when closing; called without the lock, for they may ask again. */
static void call_later(struct nef_runtime *rt, bool close)
{
    struct later *due = NULL, **at;
    uint64_t now = now_ns();

    pthread_mutex_lock(&rt->later_lock);
    rt->later_closed = rt->later_closed || close;
    for (at = &rt->later; *at != NULL;) {
        struct later *l = *at;

        if (!close && l->at_ns > now) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        l->next = due;
        due = l;
        rt->later_count--;
    }
    pthread_mutex_unlock(&rt->later_lock);
    while (due != NULL) {
        struct later *next = due->next;

        due->again(due->context);
        free(due);
        due = next;
    }
}

void later_close(struct nef_runtime *rt)
{
    call_later(rt, true);
}

/* ---- threads ---- */

static void *upkeep_main(void *argument)
{
    struct nef_runtime *rt = argument;

    thread_name("upkeep");
    for (uint64_t round = 0; !atomic_load(&rt->stopping); round++) {
        struct timespec pause = {0, (long)ROUND_NS};

        prepare_segments(rt, round % SPACE_ROUNDS == 0);
        if (round % SPACE_ROUNDS == 0)
            check_space(rt);
        if (round % LOST_ROUNDS == 0)
            lost_check(rt, round == 0);
        call_later(rt, false);
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}

nef_err upkeep_start(struct nef_runtime *rt)
{
    if (pthread_create(&rt->upkeep_thread, NULL, upkeep_main, rt) != 0 ||
        pthread_create(&rt->maintain_thread, NULL, maintain_main, rt) != 0 ||
        pthread_create(&rt->clocks_thread, NULL, clocks_main, rt) != 0 ||
        pthread_create(&rt->scrub_thread, NULL, scrub_main, rt) != 0 ||
        pthread_create(&rt->members_thread, NULL, members_main, rt) != 0)
        return NEF_E_SYSTEM;
    return NEF_OK;
}

void upkeep_stop(struct nef_runtime *rt)
{
    (void)pthread_join(rt->upkeep_thread, NULL);
    (void)pthread_join(rt->maintain_thread, NULL);
    (void)pthread_join(rt->clocks_thread, NULL);
    (void)pthread_join(rt->scrub_thread, NULL);
    (void)pthread_join(rt->members_thread, NULL);
}
