/* What a zone does in the background: segments made ahead, free space, clocks, and on the primary the
 * region record of an empty log, maintenance (compaction, aborts, repairs) and checkpoints. Scrub has its own
 * thread and file (scrub.c). Nothing here is in the path of a request. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/assert.h"
#include "base/bytes.h"
#include "base/trace.h"
#include "io/clock.h"
#include "io/http_client.h"
#include "server/runtime_internal.h"

#define ROUND_NS          100000000ull
#define CLOCK_ROUNDS      10u  /* every second to the peer */
#define WITNESS_ROUNDS    50u
#define MAINTAIN_RUNS     16u
#define SETTLED_NS        10000000000ull /* primary for so long before streams of the lost are aborted */
#define PROPOSER_GRACE_NS 60000000000ull /* a proposer not heard of for so long won't finish its uploads */
#define PROPOSERS         16u

struct proposer {
    uint64_t id;
    uint64_t seen_ns;
};

struct upkeep {
    struct nef_runtime *rt;
    uint64_t round;
    uint64_t primary_since;
    struct proposer proposers[PROPOSERS];
    struct nef_wall_sample witness; /* its wall time minus ours would age; kept as a difference */
    int64_t witness_difference;
    bool checkpointing[NEF_CELL_MAX];
    bool warned_clock;
};

static void check_space(struct upkeep *u)
{
    struct nef_runtime *rt = u->rt;
    /* Below this nothing but what frees space is admitted. Each cell has one segment prepared ahead and
     * room for another here, so that deletes, their moves and drops always find a place. */
    uint64_t reserve = (rt->cell_count + 1) * rt->segment_bytes;
    uint64_t free_bytes = 0, total = 0;
    struct item *item;

    if (rt->dir->ops->free_bytes(rt->dir, &free_bytes, &total) != NEF_OK)
        return;
    atomic_store(&rt->free_bytes, free_bytes);
    atomic_store(&rt->total_bytes, total);
    item = item_new(NEF_EV_SPACE);
    item->event.free_bytes = free_bytes > reserve ? free_bytes - reserve : 0;
    item->event.err = free_bytes > reserve ? NEF_OK : NEF_E_NOSPACE;
    post(rt, item);
}

static void prepare_segments(struct upkeep *u)
{
    struct nef_runtime *rt = u->rt;

    for (uint32_t i = 0; i < rt->cell_count; i++) {
        nef_err err = nef_log_prepare(rt->cells[i].log);

        if (err != NEF_OK && err != NEF_E_NOSPACE && u->round % CLOCK_ROUNDS == 0)
            nef_trace(NEF_TRACE_WARN, "prepare_failed", "u:cell", (uint64_t)i, "e:err", err, NULL);
    }
}

/* ---- clocks ---- */

static void ask_witness(struct upkeep *u)
{
    char url[512];
    struct nef_http_call call = {.url = url, .timeout_ms = 500};
    struct nef_http_answer answer = {.status = 0};
    uint64_t before, after;
    json_t *root;

    if (u->rt->config->witness.address == NULL)
        return;
    (void)snprintf(url, sizeof(url), "%s/time", u->rt->config->witness.address);
    before = nef_wall_ms();
    u->witness.known = false;
    if (nef_http_do(&call, &answer) == NEF_OK && answer.status == 200) {
        after = nef_wall_ms();
        root = json_loadb((const char *)answer.body.data, answer.body.bytes, 0, NULL);
        if (json_is_integer(json_object_get(root, "wall_ms"))) {
            u->witness.known = true;
            u->witness_difference = json_integer_value(json_object_get(root, "wall_ms")) -
                                    (int64_t)(before + (after - before) / 2);
        }
        json_decref(root);
    }
    nef_buf_free(&answer.body);
}

static void check_clocks(struct upkeep *u)
{
    struct nef_runtime *rt = u->rt;
    uint8_t text[8];
    struct nef_writer w = nef_writer_of(text, sizeof(text));
    struct nef_wall_sample peer = {.known = false}, witness = {.known = u->witness.known};
    struct nef_wall_decision d;
    uint64_t own = nef_wall_ms();

    nef_write_u64(&w, own);
    for (uint32_t i = 0; i < rt->link_count; i++) {
        int64_t difference = atomic_load(&rt->links[i].clock_difference_ms);

        if (difference != INT64_MIN) {
            peer.known = true;
            peer.ms = (uint64_t)((int64_t)own + difference);
        }
        (void)link_send(&rt->links[i], CONN_CTL, frame_plain(FRAME_CLOCK, text, sizeof(text)));
    }
    witness.ms = (uint64_t)((int64_t)own + u->witness_difference);
    d = nef_wall_decide(own, peer, witness, rt->config->clock.tolerance_ns / 1000000);
    if (d.adjust_ms != 0) {
        nef_wall_adjust(d.adjust_ms);
        u->witness.known = false; /* measured against the old clock */
        for (uint32_t i = 0; i < rt->link_count; i++)
            atomic_store(&rt->links[i].clock_difference_ms, INT64_MIN);
        nef_trace(NEF_TRACE_ERROR, "clock_adjusted", "i:by_ms", d.adjust_ms, NULL);
    } else if (d.warn && !u->warned_clock) {
        nef_trace(NEF_TRACE_WARN, "clocks_differ", "i:peer_ms",
                  peer.known ? (int64_t)(peer.ms - own) : 0, "i:witness_ms",
                  witness.known ? u->witness_difference : 0, NULL);
    }
    u->warned_clock = d.warn;
}

/* ---- the primary's work ---- */

struct latch {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint32_t waiting;
    nef_err err;
};

static void latch_done(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct latch *latch = context;

    pthread_mutex_lock(&latch->lock);
    if (err == NEF_OK)
        err = (nef_err)outcome->code;
    if (err != NEF_OK)
        latch->err = err;
    latch->waiting--;
    pthread_cond_signal(&latch->cond);
    pthread_mutex_unlock(&latch->lock);
}

/* Propose all and wait for all. Takes the runs' memory. */
static nef_err propose_all(struct nef_runtime *rt, struct nef_run *runs, uint32_t count)
{
    struct latch latch = {.waiting = 0, .err = NEF_OK};

    pthread_mutex_init(&latch.lock, NULL);
    pthread_cond_init(&latch.cond, NULL);
    for (uint32_t i = 0; i < count; i++) {
        nef_err err;

        pthread_mutex_lock(&latch.lock);
        latch.waiting++;
        pthread_mutex_unlock(&latch.lock);
        err = nef_runtime_propose(rt, &runs[i], latch_done, &latch);
        if (err != NEF_OK) {
            pthread_mutex_lock(&latch.lock);
            latch.waiting--;
            latch.err = err;
            pthread_mutex_unlock(&latch.lock);
        }
    }
    pthread_mutex_lock(&latch.lock);
    while (latch.waiting > 0)
        pthread_cond_wait(&latch.cond, &latch.lock);
    pthread_mutex_unlock(&latch.lock);
    pthread_cond_destroy(&latch.cond);
    pthread_mutex_destroy(&latch.lock);
    return latch.err;
}

/* An empty log gets its region record from the first primary; the same keys in every cell. */
static void make_region(struct upkeep *u)
{
    struct nef_runtime *rt = u->rt;

    for (uint32_t i = 0; i < rt->cell_count; i++) {
        struct nef_run run = {0};
        nef_err err = nef_store_region_next(rt->store, i, &run);

        if (err == NEF_OK && run.bytes > 0) {
            err = propose_all(rt, &run, 1);
            nef_trace(err == NEF_OK ? NEF_TRACE_INFO : NEF_TRACE_WARN, "region_record", "u:cell",
                      (uint64_t)i, "e:err", err, NULL);
        }
        if (err != NEF_OK)
            return; /* next round */
    }
}

static uint32_t alive_proposers(struct upkeep *u, const struct nef_repl_status *s, uint64_t *out)
{
    uint64_t now = now_ns();
    uint32_t count = 0;

    out[count++] = u->rt->incarnation;
    for (uint32_t i = 0; i < u->rt->link_count; i++) {
        uint64_t id = s->peers[i].incarnation;
        struct proposer *slot = NULL;

        if (id == 0 || !s->peers[i].up)
            continue;
        for (uint32_t k = 0; k < PROPOSERS && slot == NULL; k++)
            if (u->proposers[k].id == id)
                slot = &u->proposers[k];
        for (uint32_t k = 0; k < PROPOSERS && slot == NULL; k++)
            if (u->proposers[k].id == 0 || now - u->proposers[k].seen_ns > PROPOSER_GRACE_NS)
                slot = &u->proposers[k];
        if (slot != NULL)
            *slot = (struct proposer){id, now};
        /* this start of the process came after the others of the same peer: those are gone */
    }
    for (uint32_t k = 0; k < PROPOSERS; k++)
        if (u->proposers[k].id != 0 && now - u->proposers[k].seen_ns <= PROPOSER_GRACE_NS)
            out[count++] = u->proposers[k].id;
    return count;
}

static void checkpoint(struct upkeep *u, uint32_t cell)
{
    struct nef_runtime *rt = u->rt;
    bool start = !u->checkpointing[cell];

    if (start && !nef_store_checkpoint_due(rt->store, cell))
        return;
    for (int i = 0; i < 16; i++) { /* then the other cells and duties have their turn */
        struct nef_run run = {0};
        bool done = false;
        nef_err err = nef_store_checkpoint_next(rt->store, cell, start, &run, &done);

        if (err == NEF_OK && run.bytes > 0)
            err = propose_all(rt, &run, 1);
        if (err != NEF_OK) {
            nef_trace(NEF_TRACE_WARN, "checkpoint_failed", "u:cell", (uint64_t)cell, "e:err", err, NULL);
            u->checkpointing[cell] = false; /* begun anew later; what is there is never used */
            return;
        }
        u->checkpointing[cell] = !done;
        if (done) {
            nef_trace(NEF_TRACE_INFO, "checkpoint", "u:cell", (uint64_t)cell, NULL);
            return;
        }
        if (run.bytes == 0 && !start)
            return;
        start = false;
    }
}

static void maintain(struct upkeep *u)
{
    struct nef_runtime *rt = u->rt;
    struct nef_repl_status *s = malloc(sizeof(*s));
    uint64_t alive[PROPOSERS + NEF_PEER_MAX + 1];
    uint32_t alive_count;
    bool primary;

    if (s == NULL)
        return;
    pthread_mutex_lock(&rt->status_lock);
    *s = rt->status;
    pthread_mutex_unlock(&rt->status_lock);
    primary = s->role == NEF_ROLE_PRIMARY;
    alive_count = alive_proposers(u, s, alive);
    free(s);
    if (!primary) {
        u->primary_since = 0;
        (void)memset(u->checkpointing, 0, sizeof(u->checkpointing));
        return;
    }
    if (u->primary_since == 0)
        u->primary_since = now_ns();
    make_region(u);
    if (now_ns() - u->primary_since < SETTLED_NS)
        return;
    for (uint32_t i = 0; i < rt->cell_count && !atomic_load(&rt->stopping); i++) {
        struct nef_run runs[MAINTAIN_RUNS] = {{0}};
        uint32_t count = 0;
        nef_err err;

        checkpoint(u, i);
        err = nef_store_maintain(rt->store, i, nef_wall_ms(), alive, alive_count, runs, MAINTAIN_RUNS,
                                 &count);
        if (count > 0 && err == NEF_OK)
            err = propose_all(rt, runs, count);
        if (err != NEF_OK && u->round % CLOCK_ROUNDS == 0)
            nef_trace(NEF_TRACE_WARN, "maintenance_failed", "u:cell", (uint64_t)i, "e:err", err, NULL);
    }
}

static void *upkeep_main(void *argument)
{
    struct nef_runtime *rt = argument;
    struct upkeep *u = calloc(1, sizeof(*u));

    thread_name("upkeep");
    NEF_ASSERT(u != NULL);
    u->rt = rt;
    while (!atomic_load(&rt->stopping)) {
        struct timespec pause = {0, (long)ROUND_NS};

        prepare_segments(u);
        if (u->round % CLOCK_ROUNDS == 0)
            check_space(u);
        if (u->round % WITNESS_ROUNDS == 3)
            ask_witness(u);
        if (u->round % CLOCK_ROUNDS == 5)
            check_clocks(u);
        maintain(u);
        u->round++;
        (void)nanosleep(&pause, NULL);
    }
    free(u);
    return NULL;
}

nef_err upkeep_start(struct nef_runtime *rt)
{
    if (pthread_create(&rt->upkeep_thread, NULL, upkeep_main, rt) != 0 ||
        pthread_create(&rt->scrub_thread, NULL, scrub_main, rt) != 0)
        return NEF_E_SYSTEM;
    return NEF_OK;
}

void upkeep_stop(struct nef_runtime *rt)
{
    (void)pthread_join(rt->upkeep_thread, NULL);
    (void)pthread_join(rt->scrub_thread, NULL);
}
