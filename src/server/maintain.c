/* The primary's work in the background: the region record of an empty log, the record of an accepted loss,
 * checkpoints, the store's maintenance (erasures, aborts, repairs), and compaction.
 *
 * Each kind of work in each cell is a duty. A duty proposes and goes on when its own proposals have their outcome;
 * no duty waits for another's, so that a cell that can't commit now, or a failover in the middle of a checkpoint, holds
 * up nothing else. The thread sleeps until a proposal's outcome comes or the next round.
 *
 * An accepted loss (R8) is a record in every cell: what the log ended with then, for whoever asks later what was given
 * up. The group's record keeps the epoch (override_epoch) through all later ones, so a primary that dies before it wrote
 * the record leaves it to the next. Whether it is there already is asked only of an index that has applied all that the
 * log held when this primary began (or when its last try ended), so it isn't written twice; if a proposal of the one
 * before comes late after all, apply ignores it.
 *
 * Compaction keeps up with what is written and takes no more than that from clients: in each round a cell may copy as
 * much as makes up for what clients wrote in the last ones, and a little more, so that it never stands still. A segment
 * that is rewritten holds at most the fraction f of live bytes (live_fraction), so copying f / (1 - f) of what is
 * written frees as much as is written. A cell that clients hardly write to is compacted as fast as its log takes it.
 * Each record counts as NEF_COMPACT_RECORD_COST bytes more than it has: small ones cost their work, not their bytes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/assert.h"
#include "base/trace.h"
#include "io/clock.h"
#include "server/runtime_internal.h"

#define ROUND_NS          100000000ull
#define SAY_ROUNDS        10u
#define MAINTAIN_RUNS     16u
#define COMPACT_RUNS      64u /* copies under way in a cell */
#define COMPACT_BYTES     ((uint64_t)4 << 20)
#define COMPACT_ALL_RUNS  512u /* in all cells: uploads need NEF_PROPOSALS_MAX and NEF_PROPOSAL_MEMORY, too */
#define COMPACT_ALL_BYTES ((uint64_t)16 << 20)
/* In cost, a cell and round: below IDLE clients hardly write, and nothing but its own pace bounds compaction; else
 * FLOOR is what it gets in any case, a hundred small records or more. */
#define COMPACT_IDLE      ((uint64_t)64 << 10)
#define COMPACT_FLOOR     ((uint64_t)512 << 10)
#define SETTLED_NS        10000000000ull /* primary for so long before streams of the lost are aborted */
#define PROPOSER_GRACE_NS 60000000000ull /* a proposer not heard of for so long won't finish its uploads */
#define PROPOSERS         16u

enum duty_kind { DUTY_REGION, DUTY_OVERRIDE, DUTY_CHECKPOINT, DUTY_SPACE, DUTY_COMPACT, DUTIES };

struct duty {
    struct maintain *m;
    struct cell_duties *of;
    uint32_t waiting; /* proposals without an outcome; under m->lock */
    nef_err err;      /* of one that failed; under m->lock */
    bool proposed;    /* outcomes to be looked at */
    uint32_t runs;    /* proposed last: what may be under way */
    uint64_t bytes;
};

struct cell_duties {
    struct duty duties[DUTIES];
    bool has_region;
    bool checkpointing;
    uint64_t override_done; /* this accepted loss has its record here */
    uint64_t override_epoch; /* of the group, in which `override_from` was noted; 0: not noted */
    uint64_t override_from;  /* the index must have applied so much before it is asked */
    /* pace of compaction */
    uint64_t seen_cost; /* of all that was appended, as of this round */
    uint64_t own_cost;  /* of what the duties proposed in this round */
    uint64_t clients;   /* what clients write in a round, over the last ones */
    int64_t credit;     /* what may still be copied in this round; below 0: owed */
};

struct proposer {
    uint64_t id;
    uint64_t seen_ns;
};

struct maintain {
    struct nef_runtime *rt;
    pthread_mutex_t lock;
    pthread_cond_t cond; /* CLOCK_MONOTONIC */
    bool finished;       /* under lock: a duty's proposals have their outcomes */
    uint64_t round;
    struct nef_repl_status status; /* as of this round */
    bool primary;
    uint64_t primary_since;
    struct proposer proposers[PROPOSERS];
    uint64_t alive[1 + PROPOSERS];
    uint32_t alive_count;
    struct cell_duties cells[NEF_CELL_MAX];
};

/* ---- duties ---- */

static void on_outcome(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct duty *d = context;
    struct maintain *m = d->m;

    pthread_mutex_lock(&m->lock);
    if (err == NEF_OK)
        err = (nef_err)outcome->code;
    if (err != NEF_OK)
        d->err = err;
    if (--d->waiting == 0) {
        m->finished = true;
        pthread_cond_signal(&m->cond); /* under the lock: m goes when nothing waits any more */
    }
    pthread_mutex_unlock(&m->lock);
}

/* False: proposals of this duty are still under way. *out_err: what came of those that were. */
static bool duty_idle(struct duty *d, nef_err *out_err)
{
    bool idle;

    pthread_mutex_lock(&d->m->lock);
    idle = d->waiting == 0;
    if (idle) {
        *out_err = d->err;
        d->err = NEF_OK;
    }
    pthread_mutex_unlock(&d->m->lock);
    return idle;
}

/* Takes the runs' memory. What couldn't be proposed counts as failed. */
static void duty_propose(struct duty *d, struct nef_run *runs, uint32_t count)
{
    d->runs = count;
    d->bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        nef_err err;

        d->bytes += runs[i].bytes;
        d->of->own_cost += runs[i].bytes + NEF_COMPACT_RECORD_COST;
        pthread_mutex_lock(&d->m->lock);
        d->waiting++;
        pthread_mutex_unlock(&d->m->lock);
        err = nef_runtime_propose(d->m->rt, &runs[i], on_outcome, d);
        if (err != NEF_OK)
            on_outcome(d, err, NULL);
    }
    d->proposed = true;
}

/* ---- the region, and an accepted loss ---- */

/* An empty log gets its region record from the first primary; the same keys in every cell, cell 0 first. */
static void make_region(struct maintain *m, uint32_t cell)
{
    struct cell_duties *c = &m->cells[cell];
    struct duty *d = &c->duties[DUTY_REGION];
    struct nef_run run = {0};
    nef_err err;

    if (c->has_region || !duty_idle(d, &err))
        return;
    if (d->proposed)
        nef_trace(err == NEF_OK ? NEF_TRACE_INFO : NEF_TRACE_WARN, "region_record", "u:cell", (uint64_t)cell, "e:err",
                  err, NULL);
    d->proposed = false;
    err = nef_store_region_next(m->rt->store, cell, &run);
    if (err != NEF_OK)
        return; /* next round */
    if (run.bytes > 0)
        duty_propose(d, &run, 1);
    else
        c->has_region = true;
}

static void record_override(struct maintain *m, uint32_t cell)
{
    struct cell_duties *c = &m->cells[cell];
    struct duty *d = &c->duties[DUTY_OVERRIDE];
    struct nef_log *log = m->rt->cells[cell].log;
    uint64_t epoch = m->status.group.override_epoch;
    struct nef_run run = {0};
    nef_err err;

    if (epoch == 0 || c->override_done == epoch || !c->has_region || !duty_idle(d, &err))
        return;
    if (d->proposed) {
        nef_trace(err == NEF_OK ? NEF_TRACE_INFO : NEF_TRACE_WARN, "override_record", "u:cell", (uint64_t)cell,
                  "u:epoch", epoch, "e:err", err, NULL);
        c->override_epoch = 0; /* look again: it may be in the log even so */
    }
    d->proposed = false;
    if (c->override_epoch != m->status.group.epoch) {
        c->override_epoch = m->status.group.epoch;
        c->override_from = nef_log_end(log);
    }
    if (nef_store_applied(m->rt->store, cell) < c->override_from)
        return;
    err = nef_store_override_next(m->rt->store, cell, epoch, nef_log_epoch_start(log, epoch), &run);
    if (err != NEF_OK)
        return;
    if (run.bytes > 0)
        duty_propose(d, &run, 1);
    else
        c->override_done = epoch;
}

/* ---- checkpoints and space ---- */

static void checkpoint(struct maintain *m, uint32_t cell)
{
    struct cell_duties *c = &m->cells[cell];
    struct duty *d = &c->duties[DUTY_CHECKPOINT];
    bool done = false, start;
    struct nef_run run = {0};
    nef_err err;

    if (!duty_idle(d, &err))
        return;
    d->proposed = false;
    start = !c->checkpointing;
    if (err == NEF_OK) {
        if (start && !nef_store_checkpoint_due(m->rt->store, cell))
            return;
        err = nef_store_checkpoint_next(m->rt->store, cell, start, &run, &done);
    }
    if (err != NEF_OK) {
        nef_trace(NEF_TRACE_WARN, "checkpoint_failed", "u:cell", (uint64_t)cell, "e:err", err, NULL);
        c->checkpointing = false; /* begun anew later; what is there is never used */
        return;
    }
    c->checkpointing = !done;
    if (run.bytes > 0)
        duty_propose(d, &run, 1);
    if (done)
        nef_trace(NEF_TRACE_INFO, "checkpoint", "u:cell", (uint64_t)cell, NULL);
}

static void maintain_space(struct maintain *m, uint32_t cell)
{
    struct duty *d = &m->cells[cell].duties[DUTY_SPACE];
    struct nef_run runs[MAINTAIN_RUNS] = {{0}};
    uint32_t count = 0;
    nef_err err;

    if (!duty_idle(d, &err))
        return;
    if (err == NEF_OK)
        err = nef_store_maintain(m->rt->store, cell, nef_wall_ms(), m->alive, m->alive_count, runs, MAINTAIN_RUNS,
                                 &count);
    if (count > 0 && err == NEF_OK)
        duty_propose(d, runs, count);
    if (err != NEF_OK && m->round % SAY_ROUNDS == 0)
        nef_trace(NEF_TRACE_WARN, "maintenance_failed", "u:cell", (uint64_t)cell, "e:err", err, NULL);
}

/* ---- compaction ---- */

/* A round begins: what may be copied in it. Unspent credit isn't saved. */
static void set_pace(struct maintain *m, uint32_t cell)
{
    struct cell_duties *c = &m->cells[cell];
    const struct cell *at = &m->rt->cells[cell];
    double live = m->rt->config->compaction.live_fraction;
    uint64_t cost = atomic_load(&at->appended_bytes) + atomic_load(&at->appended_runs) * NEF_COMPACT_RECORD_COST;
    uint64_t others = cost - c->seen_cost;

    others -= NEF_MIN(others, c->own_cost);
    c->seen_cost = cost;
    c->own_cost = 0;
    c->clients = (3 * c->clients + others) / 4;
    if (c->clients < COMPACT_IDLE)
        c->credit = INT64_MAX;
    else
        c->credit = (int64_t)(COMPACT_FLOOR + (uint64_t)((double)c->clients * live / (1 - live))) +
                    NEF_MIN(c->credit, 0);
}

/* What compaction has under way, in all cells. */
static void under_way(struct maintain *m, uint32_t *out_runs, uint64_t *out_bytes)
{
    *out_runs = 0;
    *out_bytes = 0;
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < m->rt->cell_count; i++) {
        const struct duty *d = &m->cells[i].duties[DUTY_COMPACT];

        *out_runs += d->waiting;
        *out_bytes += d->waiting > 0 ? d->bytes : 0;
    }
    pthread_mutex_unlock(&m->lock);
}

/* Again as soon as the outcomes of its last proposals are there, and not at the next round. */
static void compact(struct maintain *m, uint32_t cell)
{
    struct cell_duties *c = &m->cells[cell];
    struct duty *d = &c->duties[DUTY_COMPACT];
    struct nef_run runs[COMPACT_RUNS] = {{0}};
    uint64_t bytes, cost = 0, most = COMPACT_BYTES;
    uint32_t count = 0, others;
    nef_err err, failed;

    if (c->credit <= 0 || !duty_idle(d, &failed))
        return;
    under_way(m, &others, &bytes);
    if (others + COMPACT_RUNS > COMPACT_ALL_RUNS || bytes + COMPACT_BYTES > COMPACT_ALL_BYTES)
        return; /* when others are done */
    if (failed != NEF_OK && m->round % SAY_ROUNDS == 0)
        nef_trace(NEF_TRACE_WARN, "compaction_failed", "u:cell", (uint64_t)cell, "e:err", failed, NULL);
    most = NEF_MIN(most, (uint64_t)c->credit);
    err = nef_store_compact(m->rt->store, cell, nef_wall_ms(), most, runs, COMPACT_RUNS, &count, &cost);
    if (err != NEF_OK && m->round % SAY_ROUNDS == 0)
        nef_trace(NEF_TRACE_WARN, "compaction_failed", "u:cell", (uint64_t)cell, "e:err", err, NULL);
    if (err != NEF_OK || count == 0)
        return;
    c->credit -= (int64_t)cost;
    duty_propose(d, runs, count);
}

/* ---- the thread ---- */

static void see_proposers(struct maintain *m)
{
    const struct nef_repl_status *s = &m->status;
    uint64_t now = now_ns();

    m->alive_count = 0;
    m->alive[m->alive_count++] = m->rt->incarnation;
    for (uint32_t i = 0; i < m->rt->link_count; i++) {
        uint64_t id = s->peers[i].incarnation;
        struct proposer *slot = NULL;

        if (id == 0 || !s->peers[i].up)
            continue;
        for (uint32_t k = 0; k < PROPOSERS && slot == NULL; k++)
            if (m->proposers[k].id == id)
                slot = &m->proposers[k];
        for (uint32_t k = 0; k < PROPOSERS && slot == NULL; k++)
            if (m->proposers[k].id == 0 || now - m->proposers[k].seen_ns > PROPOSER_GRACE_NS)
                slot = &m->proposers[k];
        if (slot != NULL)
            *slot = (struct proposer){id, now};
        /* this start of the process came after the others of the same peer: those are gone */
    }
    for (uint32_t k = 0; k < PROPOSERS; k++)
        if (m->proposers[k].id != 0 && now - m->proposers[k].seen_ns <= PROPOSER_GRACE_NS)
            m->alive[m->alive_count++] = m->proposers[k].id;
}

static void look(struct maintain *m)
{
    struct nef_runtime *rt = m->rt;

    pthread_mutex_lock(&rt->status_lock);
    m->status = rt->status;
    pthread_mutex_unlock(&rt->status_lock);
    m->primary = m->status.role == NEF_ROLE_PRIMARY;
    see_proposers(m);
    if (m->primary && m->primary_since == 0)
        m->primary_since = now_ns();
    if (m->primary)
        return;
    m->primary_since = 0;
    for (uint32_t i = 0; i < rt->cell_count; i++) {
        m->cells[i].has_region = m->cells[i].checkpointing = false;
        m->cells[i].override_epoch = m->cells[i].override_done = 0;
    }
}

/* Until the next round begins; earlier if a duty's proposals have their outcomes. */
static bool wait_for_round(struct maintain *m, const struct timespec *until)
{
    bool timed_out = false;

    pthread_mutex_lock(&m->lock);
    while (!m->finished && !timed_out)
        timed_out = pthread_cond_timedwait(&m->cond, &m->lock, until) == ETIMEDOUT;
    m->finished = false;
    pthread_mutex_unlock(&m->lock);
    return timed_out;
}

/* On their way out proposals end by themselves (props_close); what they point to must last so long. */
static void wait_for_outcomes(struct maintain *m)
{
    bool any = true;

    while (any) {
        struct timespec pause = {0, 1000000};

        any = false;
        pthread_mutex_lock(&m->lock);
        for (uint32_t i = 0; i < m->rt->cell_count; i++)
            for (int k = 0; k < DUTIES; k++)
                any = any || m->cells[i].duties[k].waiting > 0;
        pthread_mutex_unlock(&m->lock);
        if (any)
            (void)nanosleep(&pause, NULL);
    }
}

static struct maintain *maintain_new(struct nef_runtime *rt)
{
    struct maintain *m = calloc(1, sizeof(*m));
    pthread_condattr_t monotonic;

    NEF_ASSERT(m != NULL);
    m->rt = rt;
    pthread_mutex_init(&m->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&m->cond, &monotonic);
    for (uint32_t i = 0; i < rt->cell_count; i++)
        for (int k = 0; k < DUTIES; k++) {
            m->cells[i].duties[k].m = m;
            m->cells[i].duties[k].of = &m->cells[i];
        }
    return m;
}

void *maintain_main(void *argument)
{
    struct nef_runtime *rt = argument;
    struct maintain *m = maintain_new(rt);
    struct timespec until;
    bool round = true;

    thread_name("maintain");
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    while (!atomic_load(&rt->stopping)) {
        if (round) {
            look(m);
            m->round++;
            (void)clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += (long)ROUND_NS;
            until.tv_sec += until.tv_nsec / 1000000000l;
            until.tv_nsec %= 1000000000l;
        }
        for (uint32_t n = 0; m->primary && n < rt->cell_count && !atomic_load(&rt->stopping); n++) {
            uint32_t i = (n + (uint32_t)m->round) % rt->cell_count; /* another begins in each round */

            make_region(m, i);
            record_override(m, i);
            if (round)
                set_pace(m, i);
            if (now_ns() - m->primary_since < SETTLED_NS)
                continue;
            checkpoint(m, i);
            if (round)
                maintain_space(m, i);
            compact(m, i);
        }
        round = wait_for_round(m, &until);
    }
    wait_for_outcomes(m);
    pthread_cond_destroy(&m->cond);
    pthread_mutex_destroy(&m->lock);
    free(m);
    return NULL;
}
