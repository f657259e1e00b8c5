/* Attention of a batch: who reads which part of the cache.
 *
 *   rows          a a a a a a a b c c d          (sequence of each row)
 *   strands       [a a a a] [a a a] [b] [c c] [d]
 *   blocks        [a a a a] [a a a] [b d] [c c]   at most ATTEND_ROWS_MAX query rows each, heads of a group counted
 *   items         one for each block, and for each of its segments if it is split
 *   tasks         (item, kv head)
 *
 * Strands of several sequences make a block if those have pages in common (b and d above, with the same beginning): the
 * common pages are read once for all rows, then each goes on through its own. The order of pages is the same for every
 * row, and its state (m, l, o) is its own, so that changes no bit.
 *
 * A block is split when its task would be so large that threads would wait for it: the segment (1,024 positions from
 * the sequence's start) is the unit, since docs/numerics.md joins segments in ascending order whoever computed them. So
 * how a batch is cut changes nothing in the bits.
 *
 * The plan is made once for a batch and used in every layer. */
#include <stdlib.h>
#include "base/assert.h"
#include "infer/model/forward_internal.h"

#define TASKS_PER_THREAD 3u /* a task isn't larger than this part of a thread's share, if it can be split */

/* ---- the plan ---- */

/* Rows [row0, row0 + n) of one sequence; checks them. */
static nef_err find_run(const struct nef_model *model, uint32_t row0, uint32_t *out_rows)
{
    const struct nef_forward *f = model->forward;
    const struct nef_row *first = &f->rows[row0];
    const struct nef_kv_options *kv = nef_kv_sequence_options(first->sequence);
    uint32_t n = 0;

    if (kv->layers != model->config.layers || kv->kv_heads != model->config.kv_heads ||
        kv->head_dim != model->config.head_dim)
        return NEF_E_RANGE;
    while (row0 + n < f->count && f->rows[row0 + n].sequence == first->sequence) {
        const struct nef_row *row = &f->rows[row0 + n];

        if (row->token >= model->config.vocab || row->position - first->position != n ||
            row->position >= nef_kv_reserved(row->sequence))
            return NEF_E_RANGE;
        n++;
    }
    *out_rows = n;
    return NEF_OK;
}

static void add_pieces(struct nef_forward *f, uint32_t row0, uint32_t rows)
{
    while (rows > 0) {
        uint32_t position = f->rows[row0].position, n = NEF_MIN(rows, NEF_KV_TILE - position % NEF_KV_TILE);

        f->pieces[f->piece_count++] = (struct piece){row0, n, position / NEF_KV_TILE};
        row0 += n;
        rows -= n;
    }
}

static void add_strands(struct nef_forward *f, uint32_t row0, uint32_t rows, uint32_t most)
{
    while (rows > 0) {
        uint32_t n = NEF_MIN(rows, most);

        f->strands[f->strand_count++] = (struct strand){.row0 = row0, .rows = n};
        row0 += n;
        rows -= n;
    }
}

static const struct nef_row *first_row(const struct nef_forward *f, const struct strand *s)
{
    return &f->rows[s->row0];
}

/* Leading pages that both have and that lie below the rows of both. */
static uint32_t shared_pages(const struct nef_forward *f, const struct strand *a, const struct strand *b)
{
    const struct nef_row *x = first_row(f, a), *y = first_row(f, b);
    uint32_t most = NEF_MIN(x->position, y->position) / NEF_KV_TILE, n = 0;

    while (n < most && nef_kv_page(x->sequence, n, 0, 0, false) == nef_kv_page(y->sequence, n, 0, 0, false))
        n++;
    return n;
}

/* As words in a dictionary whose letters are the pages: so those that share stand together, and what two strands share
 * is the least that neighbours between them do. Ties by row. */
static int compare_strands(const void *a, const void *b, void *forward)
{
    const struct nef_forward *f = forward;
    const struct strand *x = a, *y = b;
    const struct nef_row *rx = first_row(f, x), *ry = first_row(f, y);
    uint32_t n = shared_pages(f, x, y), x_pages = rx->position / NEF_KV_TILE, y_pages = ry->position / NEF_KV_TILE;

    if (n < x_pages && n < y_pages)
        return (uintptr_t)nef_kv_page(rx->sequence, n, 0, 0, false) <
                       (uintptr_t)nef_kv_page(ry->sequence, n, 0, 0, false)
                   ? -1
                   : 1;
    if (x_pages != y_pages)
        return x_pages < y_pages ? -1 : 1;
    return x->row0 < y->row0 ? -1 : 1;
}

/* Strands into blocks of at most MOST rows. */
static void add_blocks(struct nef_forward *f, uint32_t most)
{
    qsort_r(f->strands, f->strand_count, sizeof(f->strands[0]), compare_strands, f);
    for (uint32_t i = 0; i < f->strand_count; i++) {
        struct strand *s = &f->strands[i];
        struct block *b = f->block_count == 0 ? NULL : &f->blocks[f->block_count - 1];
        uint32_t segments = f->rows[s->row0 + s->rows - 1].position / NEF_KV_SEGMENT + 1;
        uint32_t shared = b == NULL || b->rows + s->rows > most ? 0 : shared_pages(f, s - 1, s);
        bool wanted = false;

        for (uint32_t row = s->row0; row < s->row0 + s->rows; row++)
            wanted = wanted || nef_row_is_wanted(&f->rows[row]);
        if (shared == 0) {
            f->blocks[f->block_count++] =
                (struct block){.strand0 = i, .strands = 1, .rows = s->rows, .segments = segments, .wanted = wanted};
            continue;
        }
        s[-1].shared = shared;
        b->strands++;
        b->rows += s->rows;
        b->segments = NEF_MAX(b->segments, segments);
        b->wanted = b->wanted || wanted;
    }
}

static uint64_t cost_of(const struct nef_forward *f, const struct block *b)
{
    uint64_t cost = 0;

    for (uint32_t i = b->strand0; i < b->strand0 + b->strands; i++) {
        const struct strand *s = &f->strands[i];

        cost += (uint64_t)s->rows * (f->rows[s->row0 + s->rows - 1].position + 1);
    }
    return cost;
}

static void add_items(struct nef_model *model)
{
    struct nef_forward *f = model->forward;
    const struct nef_model_config *c = &model->config;
    uint64_t total = 0, most;
    size_t partial_at = 0;
    uint32_t left = ATTEND_ITEMS_MAX - f->block_count; /* items beyond one for each block */

    for (uint32_t i = 0; i < f->block_count; i++)
        total += cost_of(f, &f->blocks[i]);
    most = total * c->kv_heads / ((uint64_t)nef_pool_threads(model->pool) * TASKS_PER_THREAD);
    for (uint32_t i = 0; i < f->block_count; i++) {
        struct block *b = &f->blocks[i];
        size_t floats = (size_t)c->heads * b->segments * b->rows * (c->head_dim + 2);

        b->split = nef_pool_threads(model->pool) > 1 && b->segments > 1 && cost_of(f, b) > most &&
                   b->segments - 1 <= left && floats <= PARTIAL_BYTES_MAX / sizeof(float) - partial_at;
        if (!b->split) {
            f->items[f->item_count++] = (struct item){i, 0, b->segments};
            continue;
        }
        left -= b->segments - 1;
        b->partial_at = partial_at;
        partial_at += floats;
        f->splits[f->split_count++] = i;
        for (uint32_t s = 0; s < b->segments; s++)
            f->items[f->item_count++] = (struct item){i, s, 1};
    }
}

nef_err nef_attention_plan(struct nef_model *model)
{
    struct nef_forward *f = model->forward;
    uint32_t group = model->config.heads / model->config.kv_heads, rows, runs = 0;
    uint32_t most = NEF_MAX(1u, ATTEND_ROWS_MAX / group), least = NEF_MIN(most, (8 + group - 1) / group);
    uint32_t share = f->count * model->config.kv_heads / (nef_pool_threads(model->pool) * TASKS_PER_THREAD);
    uint32_t *starts = f->splits; /* free until the items are made */

    f->piece_count = f->strand_count = f->block_count = f->item_count = f->split_count = 0;
    for (uint32_t row0 = 0; row0 < f->count; row0 += rows) {
        nef_err err = find_run(model, row0, &rows);

        if (err != NEF_OK)
            return err;
        for (uint32_t i = 0; i < runs; i++)
            if (f->rows[starts[i]].sequence == f->rows[row0].sequence)
                return NEF_E_RANGE; /* its rows don't stand together */
        starts[runs++] = row0;
        add_pieces(f, row0, rows);
        add_strands(f, row0, rows, most);
    }
    /* Not so few blocks that threads are without one, but 8 query rows: what the vector kernels take at once. */
    add_blocks(f, NEF_MIN(NEF_MAX(share, least), most));
    add_items(model);
    return NEF_OK;
}

/* ---- into the cache ---- */

struct job {
    struct nef_model *model;
    uint32_t layer;
    uint32_t units; /* of nef_attention_store: in one part */
    bool last;      /* the last layer: only blocks that are wanted */
};

static void rotate(const struct nef_model *model, uint32_t row, const float *norm, float *head)
{
    const struct nef_model_config *c = &model->config;
    const struct nef_forward *f = model->forward;
    size_t at = (size_t)row * (c->head_dim / 2);

    if (norm != NULL)
        model->kernels->rms_norm(c->head_dim, head, norm, c->rms_eps, head);
    model->kernels->rope(c->head_dim, f->cosines + at, f->sines + at, head);
}

static void store_unit(const struct job *job, const struct piece *piece, uint32_t kv_head)
{
    struct nef_model *model = job->model;
    const struct nef_model_config *c = &model->config;
    const struct nef_layer *l = &model->layers[job->layer];
    struct nef_forward *f = model->forward;
    const struct nef_kv_sequence *sequence = f->rows[piece->row0].sequence;
    enum nef_kv_type type = nef_kv_sequence_options(sequence)->type;
    uint32_t group = c->heads / c->kv_heads;
    void *k_page = nef_kv_page(sequence, piece->page, job->layer, kv_head, false);
    void *v_page = nef_kv_page(sequence, piece->page, job->layer, kv_head, true);

    for (uint32_t row = piece->row0; row < piece->row0 + piece->rows; row++) {
        float *q = f->q + (size_t)row * f->q_width + (size_t)kv_head * group * c->head_dim;
        float *k = f->k + (size_t)row * f->kv_width + (size_t)kv_head * c->head_dim;
        const float *v = f->v + (size_t)row * f->kv_width + (size_t)kv_head * c->head_dim;
        uint32_t in_page = f->rows[row].position % NEF_KV_TILE;

        for (uint32_t head = 0; head < group; head++)
            rotate(model, row, l->q_norm, q + (size_t)head * c->head_dim);
        rotate(model, row, l->k_norm, k);
        model->kernels->kv_put(type, c->head_dim, false, k_page, in_page, k);
        model->kernels->kv_put(type, c->head_dim, true, v_page, in_page, v);
    }
}

static void store_part(void *context, uint32_t part, void *scratch)
{
    const struct job *job = context;
    const struct nef_forward *f = job->model->forward;
    uint32_t kv_heads = job->model->config.kv_heads, all = f->piece_count * kv_heads;
    uint32_t from = part * job->units, to = NEF_MIN(from + job->units, all);

    (void)scratch;
    for (uint32_t unit = from; unit < to; unit++)
        store_unit(job, &f->pieces[unit / kv_heads], unit % kv_heads);
}

void nef_attention_store(struct nef_model *model, uint32_t layer)
{
    const struct nef_forward *f = model->forward;
    uint32_t all = f->piece_count * model->config.kv_heads, rows = NEF_MAX(1u, f->count / f->piece_count);
    struct job job = {.model = model, .layer = layer};

    /* Handing out a part costs about as much as eight heads of a row. */
    job.units = NEF_MAX(8u / NEF_MIN(rows, 8u), all / (nef_pool_threads(model->pool) * 4));
    nef_pool_run(model->pool, (all + job.units - 1) / job.units, store_part, &job);
}

/* ---- out of the cache ---- */

/* A thread's results for the rows of a block; lies in its scratch, behind the kernels'. */
struct sums {
    float m[ATTEND_ROWS_MAX], l[ATTEND_ROWS_MAX];           /* of a segment */
    float all_m[ATTEND_ROWS_MAX], all_l[ATTEND_ROWS_MAX];   /* of those joined so far */
    const float *q[ATTEND_ROWS_MAX];
    float *o[ATTEND_ROWS_MAX], *all_o[ATTEND_ROWS_MAX];
    uint32_t limit[ATTEND_ROWS_MAX];
    _Alignas(64) float components[]; /* of o, then of all_o: ATTEND_ROWS_MAX rows of head_dim each */
};

size_t nef_attention_scratch(const struct nef_model_config *config)
{
    return sizeof(struct sums) + 2 * (size_t)ATTEND_ROWS_MAX * config->head_dim * sizeof(float);
}

/* Where a split block's result of (kv head, segment, row) lies: head_dim floats of o, then m, then l. */
static float *partial_of(const struct nef_model *model, const struct block *b, uint32_t kv_head, uint32_t segment,
                         uint32_t row)
{
    const struct nef_model_config *c = &model->config;
    uint32_t group = c->heads / c->kv_heads;
    size_t index = ((size_t)kv_head * b->segments + segment) * ((size_t)b->rows * group) + row;

    return model->forward->partials + b->partial_at + index * (c->head_dim + 2);
}

/* One block, kv head and segment on its way through the pages. */
struct walk {
    const struct job *job;
    const struct block *block;
    struct sums *sums;
    void *scratch;
    uint32_t kv_head, segment;
    float *m, *l, **o; /* of all rows of the block */
};

/* Query rows [from, to) of the block, all with the pages of STRAND, against pages [page, end) of the segment's. */
static void attend(const struct walk *w, const struct strand *strand, uint32_t from, uint32_t to, uint32_t page,
                   uint32_t end)
{
    struct nef_model *model = w->job->model;
    const struct nef_forward *f = model->forward;
    const struct nef_kv_sequence *sequence = first_row(f, strand)->sequence;
    const void *k_page[NEF_KV_SEGMENT / NEF_KV_TILE], *v_page[NEF_KV_SEGMENT / NEF_KV_TILE];
    struct nef_attend a = {
        .type = nef_kv_sequence_options(sequence)->type,
        .head_dim = model->config.head_dim,
        .rows = to - from,
        .q = w->sums->q + from,
        .limit = w->sums->limit + from,
        .first = page * NEF_KV_TILE,
        .pages = end - page,
        .resume = page % (NEF_KV_SEGMENT / NEF_KV_TILE) != 0,
        .k_page = k_page,
        .v_page = v_page,
        .scale = f->attend_scale,
        .out_m = w->m + from,
        .out_l = w->l + from,
        .out_o = w->o + from,
    };

    for (uint32_t i = page; i < end; i++) {
        k_page[i - page] = nef_kv_page(sequence, i, w->job->layer, w->kv_head, false);
        v_page[i - page] = nef_kv_page(sequence, i, w->job->layer, w->kv_head, true);
    }
    model->kernels->attend(&a, w->scratch);
}

/* Strands [first, first + count) of the batch, query rows [from, ..) of the block, from PAGE to the segment's end: the
 * pages that all of them share, then those that fewer share, at last each one's own. Calls itself for fewer strands. */
static void walk_pages(const struct walk *w, uint32_t first, uint32_t count, uint32_t from, uint32_t page)
{
    const struct nef_model *model = w->job->model;
    const struct nef_forward *f = model->forward;
    const struct strand *strands = f->strands + first;
    uint32_t group = model->config.heads / model->config.kv_heads, some;
    const uint32_t last = (w->segment + 1) * (NEF_KV_SEGMENT / NEF_KV_TILE);
    uint32_t end = last, to = from;

    for (uint32_t i = 0; i < count; i++) {
        to += strands[i].rows * group;
        if (i + 1 < count)
            end = NEF_MIN(end, strands[i].shared);
    }
    if (count == 1) {
        end = NEF_MIN(end, w->sums->limit[to - 1] / NEF_KV_TILE + 1);
        while (from < to && w->sums->limit[from] < page * NEF_KV_TILE)
            from += group; /* rows of a prompt before this segment */
    }
    if (page < end)
        attend(w, strands, from, to, page, end);
    page = NEF_MAX(page, end);
    /* Some neighbours share no page more, so each part has fewer strands. */
    for (uint32_t i = 0; i < count && count > 1 && page < last; i += some) {
        uint32_t rows = strands[i].rows;

        for (some = 1; i + some < count && strands[i + some - 1].shared > page; some++)
            rows += strands[i + some].rows;
        walk_pages(w, first + i, some, from, page);
        from += rows * group;
    }
}

/* Where the block's query rows are and how far they see; returns how many. */
static uint32_t gather(const struct nef_model *model, const struct block *b, uint32_t kv_head, struct sums *s)
{
    const struct nef_model_config *c = &model->config;
    const struct nef_forward *f = model->forward;
    uint32_t group = c->heads / c->kv_heads, count = 0;

    for (uint32_t i = b->strand0; i < b->strand0 + b->strands; i++)
        for (uint32_t row = f->strands[i].row0; row < f->strands[i].row0 + f->strands[i].rows; row++)
            for (uint32_t head = 0; head < group; head++, count++) {
                s->q[count] = f->q + (size_t)row * f->q_width + (size_t)(kv_head * group + head) * c->head_dim;
                s->limit[count] = f->rows[row].position;
                s->o[count] = s->components + (size_t)count * c->head_dim;
                s->all_o[count] = s->components + (size_t)(ATTEND_ROWS_MAX + count) * c->head_dim;
            }
    return count;
}

static void attend_part(void *context, uint32_t part, void *scratch)
{
    const struct job *job = context;
    struct nef_model *model = job->model;
    const struct nef_model_config *c = &model->config;
    struct nef_forward *f = model->forward;
    uint32_t kv_head = part % c->kv_heads;
    const struct item *item = &f->items[part / c->kv_heads];
    const struct block *b = &f->blocks[item->block];
    struct sums *s = (struct sums *)((uint8_t *)scratch + f->kernel_scratch);
    uint32_t rows;

    if (job->last && !b->wanted)
        return;
    rows = gather(model, b, kv_head, s);
    for (uint32_t segment = item->segment0; segment < item->segment0 + item->segments; segment++) {
        bool direct = segment == 0 && !b->split;
        struct walk w = {job, b, s, scratch, kv_head, segment, direct ? s->all_m : s->m, direct ? s->all_l : s->l,
                         direct ? s->all_o : s->o};

        for (uint32_t i = 0; i < rows && b->split; i++)
            s->o[i] = partial_of(model, b, kv_head, segment, i);
        walk_pages(&w, b->strand0, b->strands, 0, segment * (NEF_KV_SEGMENT / NEF_KV_TILE));
        for (uint32_t i = 0; i < rows && !direct; i++) {
            if (s->limit[i] < segment * NEF_KV_SEGMENT)
                continue;
            if (b->split) {
                s->o[i][c->head_dim] = s->m[i];
                s->o[i][c->head_dim + 1] = s->l[i];
            } else {
                model->kernels->attend_join(c->head_dim, &s->all_m[i], &s->all_l[i], s->all_o[i], s->m[i], s->l[i],
                                            s->o[i]);
            }
        }
    }
    for (uint32_t i = 0; i < rows && !b->split; i++)
        model->kernels->attend_finish(c->head_dim, s->all_l[i], s->all_o[i],
                                      f->attended + (s->q[i] - f->q)); /* q and attended have the same shape */
}

/* The segments of a split block, one kv head. */
static void join_part(void *context, uint32_t part, void *scratch)
{
    const struct job *job = context;
    struct nef_model *model = job->model;
    const struct nef_model_config *c = &model->config;
    struct nef_forward *f = model->forward;
    uint32_t kv_head = part % c->kv_heads;
    const struct block *b = &f->blocks[f->splits[part / c->kv_heads]];
    struct sums *s = (struct sums *)((uint8_t *)scratch + f->kernel_scratch);
    uint32_t rows;

    if (job->last && !b->wanted)
        return;
    rows = gather(model, b, kv_head, s);
    for (uint32_t i = 0; i < rows; i++) {
        float *all = partial_of(model, b, kv_head, 0, i);

        for (uint32_t segment = 1; segment <= s->limit[i] / NEF_KV_SEGMENT; segment++) {
            const float *one = partial_of(model, b, kv_head, segment, i);

            model->kernels->attend_join(c->head_dim, &all[c->head_dim], &all[c->head_dim + 1], all, one[c->head_dim],
                                        one[c->head_dim + 1], one);
        }
        model->kernels->attend_finish(c->head_dim, all[c->head_dim + 1], all, f->attended + (s->q[i] - f->q));
    }
}

void nef_attention_run(struct nef_model *model, uint32_t layer)
{
    const struct nef_forward *f = model->forward;
    struct job job = {.model = model, .layer = layer, .last = layer + 1 == model->config.layers};

    nef_pool_run(model->pool, f->item_count * model->config.kv_heads, attend_part, &job);
    nef_pool_run(model->pool, f->split_count * model->config.kv_heads, join_part, &job);
}
