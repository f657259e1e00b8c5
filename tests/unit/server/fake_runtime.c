#include "fake_runtime.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/assert.h"
#include "io/clock.h"
#include "io/file_posix.h"
#include "seglog/seglog.h"

struct fake_options fake_options = {.room_bytes = 8u << 20};

struct waiting {
    struct waiting *next;
    void (*wake)(void *context);
    void *context;
};

struct proposal {
    struct proposal *next;
    struct nef_run run;
    uint64_t number;
    nef_propose_fn done;
    void *context;
    struct nef_outcome outcome;
    bool has_outcome;
};

struct nef_runtime {
    struct nef_store *store;
    struct nef_log *logs[NEF_CELL_MAX];
    struct nef_dir *dirs[NEF_CELL_MAX];
    uint32_t cells;
    uint64_t segment_bytes;
    uint64_t proposer;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct proposal *first, *last, *applying;
    struct waiting *rooms, *reads;
    uint64_t number, bytes, reads_asked;
    _Atomic uint32_t have;
    bool stop, ended;
};

static void wake_all(struct waiting *w)
{
    while (w != NULL) {
        struct waiting *next = w->next;

        w->wake(w->context);
        free(w);
        w = next;
    }
}

static void on_applied(void *context, uint32_t cell, uint64_t proposer, uint64_t number,
                       const struct nef_outcome *outcome, uint64_t end)
{
    struct nef_runtime *rt = context;

    (void)cell;
    (void)end;
    if (proposer != rt->proposer)
        return;
    for (struct proposal *p = rt->applying; p != NULL; p = p->next)
        if (p->number == number) {
            p->outcome = *outcome;
            p->has_outcome = true;
        }
}

static void must(nef_err err, const char *what)
{
    if (err == NEF_OK)
        return;
    fprintf(stderr, "fake runtime: %s: %s\n", what, nef_err_name(err));
    abort();
}

static void append(struct nef_runtime *rt, struct nef_run *run)
{
    struct nef_log *log = rt->logs[run->cell];
    uint64_t end = nef_log_end(log), place = nef_log_place(end, run->bytes, rt->segment_bytes),
             at = place;

    if (place != end) {
        uint64_t pad_bytes = rt->segment_bytes - end % rt->segment_bytes;
        struct nef_record pad = {.type = NEF_RECORD_PAD,
                                 .flags = NEF_RECORD_LAST,
                                 .cell = run->cell,
                                 .body_bytes = (uint32_t)(pad_bytes - NEF_RECORD_HEADER_BYTES)};
        uint8_t *data = calloc(1, pad_bytes);

        nef_record_encode(&pad, data + NEF_RECORD_HEADER_BYTES, 0, data);
        nef_record_stamp(data, 1, end, nef_wall_ms(), end);
        must(nef_log_append(log, end, data, pad_bytes), "append pad");
        free(data);
    }
    for (uint32_t i = 0; i < run->bytes;) {
        struct nef_record r;

        nef_record_stamp(run->data + i, 1, at, nef_wall_ms(), 0);
        must(nef_record_decode(run->data + i, &r), "decode");
        i += (uint32_t)nef_record_bytes(r.body_bytes);
        at += nef_record_bytes(r.body_bytes);
    }
    must(nef_log_append(log, place, run->data, run->bytes), "append");
}

static void apply(struct nef_runtime *rt, uint64_t cells)
{
    for (uint32_t c = 0; c < rt->cells; c++)
        if (cells & 1ull << c)
            must(nef_store_apply(rt->store, c, nef_log_end(rt->logs[c])), "apply");
}

static void *core(void *context)
{
    struct nef_runtime *rt = context;

    for (;;) {
        struct proposal *list;
        struct waiting *reads, *rooms = NULL;
        uint64_t cells = 0;

        pthread_mutex_lock(&rt->lock);
        while (rt->first == NULL && rt->reads == NULL && rt->rooms == NULL && !rt->stop)
            pthread_cond_wait(&rt->cond, &rt->lock);
        list = rt->first;
        rt->first = rt->last = NULL;
        reads = rt->reads;
        rt->reads = NULL;
        if (list == NULL && reads == NULL && rt->rooms == NULL && rt->stop) {
            pthread_mutex_unlock(&rt->lock);
            return NULL;
        }
        pthread_mutex_unlock(&rt->lock);
        if (fake_options.delay_us > 0)
            usleep(fake_options.delay_us);
        rt->applying = list;
        for (struct proposal *p = list; p != NULL; p = p->next) {
            append(rt, &p->run);
            cells |= 1ull << p->run.cell;
        }
        apply(rt, cells);
        rt->applying = NULL;
        wake_all(reads);
        while (list != NULL) {
            struct proposal *next = list->next;

            NEF_ASSERT(list->has_outcome);
            pthread_mutex_lock(&rt->lock);
            rt->bytes -= list->run.bytes;
            pthread_mutex_unlock(&rt->lock);
            nef_run_free(&list->run);
            list->done(list->context, NEF_OK, &list->outcome);
            free(list);
            list = next;
        }
        pthread_mutex_lock(&rt->lock);
        if (rt->bytes < fake_options.room_bytes) {
            rooms = rt->rooms;
            rt->rooms = NULL;
        }
        pthread_mutex_unlock(&rt->lock);
        wake_all(rooms);
    }
}

nef_err nef_runtime_start(const struct nef_zone_config *config, struct nef_keys *keys,
                          struct nef_runtime **out_runtime)
{
    struct nef_runtime *rt = calloc(1, sizeof(*rt));
    struct nef_store_options o = {.dir = config->data_dir,
                                  .region = config->region_id,
                                  .cell_count = config->cells,
                                  .segment_bytes = config->segment_bytes,
                                  .logs = rt->logs,
                                  .keys = keys,
                                  .cache_bytes = 32u << 20,
                                  .write_buffer_bytes = 32u << 20,
                                  .flush_log_bytes = 256u << 20,
                                  .flush_ops = 100000,
                                  .erase_within_ms = 86400000,
                                  .applied = on_applied,
                                  .context = rt};

    rt->cells = config->cells;
    rt->segment_bytes = config->segment_bytes;
    rt->proposer = nef_random_u64();
    rt->have = 2;
    pthread_mutex_init(&rt->lock, NULL);
    pthread_cond_init(&rt->cond, NULL);
    for (uint32_t c = 0; c < rt->cells; c++) {
        struct nef_log_options lo = {
            .cell = c, .segment_bytes = config->segment_bytes, .region = config->region_id};
        struct nef_log_recovery *recovery = calloc(1, sizeof(*recovery));
        char path[4096];

        snprintf(path, sizeof(path), "%s/" NEF_STORE_LOG_NAME, config->data_dir, c);
        must(nef_dir_posix_open(path, true, &rt->dirs[c]), "directory");
        lo.dir = rt->dirs[c];
        must(nef_log_open(&lo, recovery, &rt->logs[c]), "log");
        free(recovery);
    }
    must(nef_store_open(&o, &rt->store), "store");
    apply(rt, (1ull << rt->cells) - 1);
    for (uint32_t c = 0; c < rt->cells; c++) { /* as the first primary does */
        struct nef_run run = {0};

        must(nef_store_region_next(rt->store, c, &run), "region");
        if (run.bytes > 0) {
            nef_run_number(&run, rt->proposer, ++rt->number);
            append(rt, &run);
            nef_run_free(&run);
            apply(rt, 1ull << c);
        }
    }
    NEF_ASSERT(pthread_create(&rt->thread, NULL, core, rt) == 0);
    *out_runtime = rt;
    return NEF_OK;
}

void nef_runtime_stop(struct nef_runtime *rt)
{
    pthread_mutex_lock(&rt->lock);
    rt->stop = true;
    pthread_cond_signal(&rt->cond);
    pthread_mutex_unlock(&rt->lock);
    pthread_join(rt->thread, NULL);
    nef_store_close(rt->store);
    for (uint32_t c = 0; c < rt->cells; c++) {
        nef_log_close(rt->logs[c]);
        rt->dirs[c]->ops->close(rt->dirs[c]);
    }
    pthread_cond_destroy(&rt->cond);
    pthread_mutex_destroy(&rt->lock);
    free(rt);
}

struct nef_store *nef_runtime_store(struct nef_runtime *rt)
{
    return rt->store;
}

uint64_t nef_runtime_proposer(const struct nef_runtime *rt)
{
    return rt->proposer;
}

nef_err nef_runtime_propose(struct nef_runtime *rt, struct nef_run *run, nef_propose_fn done,
                            void *context)
{
    struct proposal *p = calloc(1, sizeof(*p));
    struct nef_record record;

    must(nef_record_decode(run->data, &record), "decode");
    if (record.type == NEF_RECORD_STREAM_ABORT && atomic_load(&fake_options.busy_aborts) > 0) {
        atomic_fetch_sub(&fake_options.busy_aborts, 1);
        nef_run_free(run);
        *run = (struct nef_run){0};
        free(p);
        return NEF_E_BUSY;
    }
    p->run = *run;
    p->done = done;
    p->context = context;
    *run = (struct nef_run){0};
    pthread_mutex_lock(&rt->lock);
    p->number = ++rt->number;
    nef_run_number(&p->run, rt->proposer, p->number);
    rt->bytes += p->run.bytes;
    if (rt->last != NULL)
        rt->last->next = p;
    else
        rt->first = p;
    rt->last = p;
    pthread_cond_signal(&rt->cond);
    pthread_mutex_unlock(&rt->lock);
    return NEF_OK;
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    nef_err err;
    struct nef_outcome outcome;
};

static void on_done(void *context, nef_err err, const struct nef_outcome *outcome)
{
    struct waiter *w = context;

    pthread_mutex_lock(&w->lock);
    w->err = err;
    if (err == NEF_OK)
        w->outcome = *outcome;
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

nef_err nef_runtime_propose_wait(struct nef_runtime *rt, struct nef_run *run,
                                 struct nef_outcome *out_outcome)
{
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, NEF_OK, {0}};
    nef_err err = nef_runtime_propose(rt, run, on_done, &w);

    if (err != NEF_OK)
        return err;
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    *out_outcome = w.outcome;
    return w.err != NEF_OK ? w.err : (nef_err)w.outcome.code;
}

struct later {
    uint32_t delay_ms;
    void (*again)(void *context);
    void *context;
};

static void *call_later(void *argument)
{
    struct later *l = argument;

    usleep(l->delay_ms * 1000);
    l->again(l->context);
    free(l);
    return NULL;
}

bool nef_runtime_later(struct nef_runtime *rt, uint32_t delay_ms, void (*again)(void *context), void *context)
{
    struct later *l = malloc(sizeof(*l));
    pthread_t thread;

    (void)rt;
    *l = (struct later){delay_ms, again, context};
    NEF_ASSERT(pthread_create(&thread, NULL, call_later, l) == 0);
    pthread_detach(thread);
    return true;
}

bool nef_runtime_clock_known(const struct nef_runtime *rt)
{
    (void)rt;
    return !fake_options.clock_unknown;
}

static void wait_on(struct nef_runtime *rt, struct waiting **list, void (*wake)(void *),
                    void *context)
{
    struct waiting *w = calloc(1, sizeof(*w));

    w->wake = wake;
    w->context = context;
    w->next = *list;
    *list = w;
    pthread_cond_signal(&rt->cond);
}

bool nef_runtime_room(struct nef_runtime *rt, void (*wake)(void *context), void *context)
{
    bool room;

    pthread_mutex_lock(&rt->lock);
    room = rt->bytes < fake_options.room_bytes;
    if (!room)
        wait_on(rt, &rt->rooms, wake, context);
    pthread_mutex_unlock(&rt->lock);
    return room;
}

nef_err nef_runtime_read(struct nef_runtime *rt, uint32_t cell, const uint8_t tag[16],
                         uint64_t first_ns, struct nef_read *read, void (*wake)(void *context),
                         void *context)
{
    nef_err err = NEF_OK;

    (void)cell;
    (void)tag;
    (void)first_ns;
    pthread_mutex_lock(&rt->lock);
    if (fake_options.slow_reads && ++rt->reads_asked % 2 == 1) {
        wait_on(rt, &rt->reads, wake, context);
        err = NEF_E_AGAIN;
    }
    read->epoch = 1;
    pthread_mutex_unlock(&rt->lock);
    return err;
}

nef_err nef_runtime_read_all(struct nef_runtime *rt, uint64_t first_ns, struct nef_read *read,
                             void (*wake)(void *context), void *context)
{
    return nef_runtime_read(rt, 0, NULL, first_ns, read, wake, context);
}

nef_err nef_runtime_read_done(struct nef_runtime *rt, const struct nef_read *read)
{
    (void)rt;
    NEF_ASSERT(read->epoch == 1);
    return NEF_OK;
}

nef_err nef_runtime_read_wait(struct nef_runtime *rt, uint32_t cell, const uint8_t tag[16],
                              struct nef_read *out_read)
{
    (void)rt;
    (void)cell;
    (void)tag;
    out_read->epoch = 1;
    return NEF_OK;
}

static pthread_mutex_t damaged_lock = PTHREAD_MUTEX_INITIALIZER;
static char damaged_file[4096];

void fake_set_damaged_file(const char *path)
{
    NEF_ASSERT(pthread_mutex_lock(&damaged_lock) == 0);
    (void)snprintf(damaged_file, sizeof(damaged_file), "%s", path);
    NEF_ASSERT(pthread_mutex_unlock(&damaged_lock) == 0);
}

/* The test flipped a bit of the byte 1,000 bytes after the record's beginning: flip it back. */
nef_err nef_runtime_repair(struct nef_runtime *rt, uint32_t cell, uint64_t offset)
{
    FILE *f;
    long at = (long)(offset % rt->segment_bytes + 1000);
    uint8_t byte;

    (void)cell;
    NEF_ASSERT(pthread_mutex_lock(&damaged_lock) == 0);
    f = fopen(damaged_file, "r+b");
    NEF_ASSERT(pthread_mutex_unlock(&damaged_lock) == 0);
    if (f == NULL)
        return NEF_E_PEER;
    NEF_ASSERT(fseek(f, at, SEEK_SET) == 0 && fread(&byte, 1, 1, f) == 1);
    byte ^= 0x40;
    NEF_ASSERT(fseek(f, at, SEEK_SET) == 0 && fwrite(&byte, 1, 1, f) == 1);
    fclose(f);
    return NEF_OK;
}

void nef_runtime_stats(struct nef_runtime *rt, struct nef_runtime_stats *out_stats)
{
    memset(out_stats, 0, sizeof(*out_stats));
    out_stats->ready = true;
    out_stats->zones_configured = 2;
    out_stats->repl.role = NEF_ROLE_PRIMARY;
    out_stats->repl.group.cell_count = rt->cells;
    out_stats->repl.group.epoch = 1;
    for (uint32_t c = 0; c < rt->cells; c++) {
        out_stats->repl.cells[c].end = nef_log_end(rt->logs[c]);
        out_stats->applied[c] = nef_store_applied(rt->store, c);
    }
}

void nef_runtime_durability(struct nef_runtime *rt, uint32_t *out_have, uint32_t *out_of)
{
    *out_have = rt->have;
    *out_of = 2;
}

void fake_set_durability(struct nef_runtime *rt, uint32_t have)
{
    rt->have = have;
}

void nef_runtime_status_json(struct nef_runtime *rt, struct nef_buf *out)
{
    nef_buf_printf(out, "{\"epoch\":1,\"durability\":\"%u/2\"}", rt->have);
}

void nef_runtime_handover(struct nef_runtime *rt)
{
    rt->have = 2;
}

void nef_runtime_recover(struct nef_runtime *rt)
{
    rt->have = 1;
}
