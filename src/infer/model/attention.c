/* Attention of a batch: who reads which part of the cache.
 *
 *   rows          a a a a a a a b c c            (sequence of each row)
 *   blocks        [a a a a] [a a a] [b] [c c]     at most ATTEND_ROWS_MAX query rows each, heads of a group counted
 *   items         one for each block, and for each of its segments if it is split
 *   tasks         (item, kv head)
 *
 * A block is split when its task would be so large that threads would wait for it: the segment (1,024 positions from
 * the sequence's start) is the unit, since docs/numerics.md joins segments in ascending order whoever computed them. So
 * how a batch is cut changes nothing in the bits.
 *
 * The plan is made once for a batch and used in every layer. */
#include <string.h>
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

static void add_blocks(struct nef_forward *f, uint32_t row0, uint32_t rows, uint32_t block_rows)
{
    while (rows > 0) {
        uint32_t n = NEF_MIN(rows, block_rows);
        uint32_t last = f->rows[row0 + n - 1].position;

        f->blocks[f->block_count++] = (struct block){.row0 = row0, .rows = n, .segments = last / NEF_KV_SEGMENT + 1};
        row0 += n;
        rows -= n;
    }
}

static uint64_t cost_of(const struct nef_forward *f, const struct block *b)
{
    return (uint64_t)b->rows * (f->rows[b->row0 + b->rows - 1].position + 1);
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
    uint32_t *starts = f->splits; /* free until the items are made */

    f->piece_count = f->block_count = f->item_count = f->split_count = 0;
    for (uint32_t row0 = 0; row0 < f->count; row0 += rows) {
        nef_err err = find_run(model, row0, &rows);

        if (err != NEF_OK)
            return err;
        for (uint32_t i = 0; i < runs; i++)
            if (f->rows[starts[i]].sequence == f->rows[row0].sequence)
                return NEF_E_RANGE; /* its rows don't stand together */
        starts[runs++] = row0;
        add_pieces(f, row0, rows);
        add_blocks(f, row0, rows, NEF_MAX(1u, ATTEND_ROWS_MAX / group));
    }
    add_items(model);
    return NEF_OK;
}

/* ---- into the cache ---- */

struct job {
    struct nef_model *model;
    uint32_t layer;
    uint32_t units; /* of nef_attention_store: in one part */
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

/* Rows [from, rows) of the block against one segment. */
static void attend(const struct job *job, const struct block *b, uint32_t kv_head, uint32_t segment, uint32_t from,
                   uint32_t rows, struct sums *s, float *m, float *l, float *const *o, void *scratch)
{
    struct nef_model *model = job->model;
    const struct nef_forward *f = model->forward;
    const struct nef_kv_sequence *sequence = f->rows[b->row0].sequence;
    const void *k_page[NEF_KV_SEGMENT / NEF_KV_TILE], *v_page[NEF_KV_SEGMENT / NEF_KV_TILE];
    uint32_t first = segment * NEF_KV_SEGMENT, last = NEF_MIN(s->limit[rows - 1], first + NEF_KV_SEGMENT - 1);
    struct nef_attend a = {
        .type = nef_kv_sequence_options(sequence)->type,
        .head_dim = model->config.head_dim,
        .rows = rows - from,
        .q = s->q + from,
        .limit = s->limit + from,
        .segment = segment,
        .k_page = k_page,
        .v_page = v_page,
        .scale = f->attend_scale,
        .out_m = m + from,
        .out_l = l + from,
        .out_o = o + from,
    };

    for (uint32_t page = first / NEF_KV_TILE; page <= last / NEF_KV_TILE; page++) {
        k_page[page - first / NEF_KV_TILE] = nef_kv_page(sequence, page, job->layer, kv_head, false);
        v_page[page - first / NEF_KV_TILE] = nef_kv_page(sequence, page, job->layer, kv_head, true);
    }
    model->kernels->attend(&a, scratch);
}

static void attend_part(void *context, uint32_t part, void *scratch)
{
    const struct job *job = context;
    struct nef_model *model = job->model;
    const struct nef_model_config *c = &model->config;
    struct nef_forward *f = model->forward;
    uint32_t kv_head = part % c->kv_heads, group = c->heads / c->kv_heads;
    const struct item *item = &f->items[part / c->kv_heads];
    const struct block *b = &f->blocks[item->block];
    uint32_t rows = b->rows * group;
    struct sums *s = (struct sums *)((uint8_t *)scratch + f->kernel_scratch);

    for (uint32_t i = 0; i < rows; i++) {
        uint32_t row = b->row0 + i / group;

        s->q[i] = f->q + (size_t)row * f->q_width + (size_t)(kv_head * group + i % group) * c->head_dim;
        s->limit[i] = f->rows[row].position;
        s->o[i] = s->components + (size_t)i * c->head_dim;
        s->all_o[i] = s->components + (size_t)(ATTEND_ROWS_MAX + i) * c->head_dim;
    }
    for (uint32_t segment = item->segment0; segment < item->segment0 + item->segments; segment++) {
        uint32_t from = 0;

        while (s->limit[from] < segment * NEF_KV_SEGMENT)
            from += group; /* the last row sees it, so this ends */
        if (segment == 0 && !b->split) {
            attend(job, b, kv_head, segment, from, rows, s, s->all_m, s->all_l, s->all_o, scratch);
            continue;
        }
        for (uint32_t i = from; i < rows && b->split; i++)
            s->o[i] = partial_of(model, b, kv_head, segment, i);
        attend(job, b, kv_head, segment, from, rows, s, s->m, s->l, s->o, scratch);
        for (uint32_t i = from; i < rows; i++) {
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
    uint32_t kv_head = part % c->kv_heads, group = c->heads / c->kv_heads;
    const struct block *b = &f->blocks[f->splits[part / c->kv_heads]];

    (void)scratch;
    for (uint32_t i = 0; i < b->rows * group; i++) {
        uint32_t row = b->row0 + i / group, segments = f->rows[row].position / NEF_KV_SEGMENT + 1;
        float *all = partial_of(model, b, kv_head, 0, i);
        float *out = f->attended + (size_t)row * f->q_width + (size_t)(kv_head * group + i % group) * c->head_dim;

        for (uint32_t segment = 1; segment < segments; segment++) {
            const float *one = partial_of(model, b, kv_head, segment, i);

            model->kernels->attend_join(c->head_dim, &all[c->head_dim], &all[c->head_dim + 1], all, one[c->head_dim],
                                        one[c->head_dim + 1], one);
        }
        model->kernels->attend_finish(c->head_dim, all[c->head_dim + 1], all, out);
    }
}

void nef_attention_run(struct nef_model *model, uint32_t layer)
{
    const struct nef_forward *f = model->forward;
    struct job job = {.model = model, .layer = layer};

    nef_pool_run(model->pool, f->item_count * model->config.kv_heads, attend_part, &job);
    nef_pool_run(model->pool, f->split_count * model->config.kv_heads, join_part, &job);
}
