/* One batch through the model, in reading order; see model.h.
 *
 *   x = embedding of each row's token
 *   for each layer:
 *       h = norm(x);  q, k, v = h·Wq, h·Wk, h·Wv (+ biases)
 *       q, k = norm and rotation of each head (qwen3: norm);  k, v into the cache
 *       x += attention(q, cache)·Wo
 *       h = norm(x);  x += (silu(h·Wgate) × h·Wup)·Wdown
 *   logits = norm(x)·Wout, of the rows that want them; norm(x), of the rows that want it
 *
 * Each line is one or two jobs of the pool. What is elementwise is done by the thread that has just computed those
 * outputs (biases, SiLU, residual), so a decode step of one row has five jobs a layer; between them the caller alone
 * norms and quantizes that row, which takes less time than handing it out.
 *
 * How a job is cut never changes a bit: matrices are cut by outputs, the rest by rows. Nothing is allocated here:
 * buffers are reserved at load for the largest batch, and touched only as far as batches reach. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/assert.h"
#include "infer/model/forward_internal.h"

#define PARTS_PER_THREAD 8u           /* so that a thread that was held up costs little */
#define PART_WORK_MIN    (32u << 10)  /* bytes of weights times rows: about two microseconds */
#define ROWS_WORK_MIN    4096u        /* floats that a thread norms or quantizes at a time */

/* ---- buffers ---- */

static void *carve(uint8_t *memory, size_t *at, size_t bytes)
{
    size_t from = *at;

    *at += (bytes + 4095) / 4096 * 4096;
    return memory == NULL ? NULL : memory + from;
}

/* Sets f's pointers into MEMORY; with NULL, tells the bytes. */
static size_t carve_all(struct nef_forward *f, const struct nef_model_config *c, uint8_t *memory)
{
    size_t row = NEF_BATCH_ROWS_MAX * sizeof(float), at = 0;
    uint32_t widest = NEF_MAX(NEF_MAX(c->embedding, c->ffn), f->q_width);

    f->x = carve(memory, &at, row * c->embedding);
    f->h = carve(memory, &at, row * c->embedding);
    f->y = carve(memory, &at, row * c->embedding);
    f->q = carve(memory, &at, row * f->q_width);
    f->k = carve(memory, &at, row * f->kv_width);
    f->v = carve(memory, &at, row * f->kv_width);
    f->attended = carve(memory, &at, row * f->q_width);
    f->gate = carve(memory, &at, row * c->ffn);
    f->up = carve(memory, &at, row * c->ffn);
    f->cosines = carve(memory, &at, row * c->head_dim / 2);
    f->sines = carve(memory, &at, row * c->head_dim / 2);
    f->act_memory = carve(memory, &at, nef_act_bytes(NEF_BATCH_ROWS_MAX, widest));
    f->partials = carve(memory, &at, PARTIAL_BYTES_MAX);
    return at;
}

nef_err nef_forward_open(struct nef_model *model)
{
    const struct nef_model_config *c = &model->config;
    struct nef_forward *f = calloc(1, sizeof(*f));
    uint32_t widest;
    void *memory;

    if (f == NULL)
        return NEF_E_NOMEM;
    model->forward = f;
    f->q_width = c->heads * c->head_dim;
    f->kv_width = c->kv_heads * c->head_dim;
    f->attend_scale = (float)(1.0 / sqrt((double)c->head_dim));
    widest = NEF_MAX(NEF_MAX(c->embedding, c->ffn), f->q_width);
    f->bytes = carve_all(f, c, NULL);
    memory = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NEF_E_NOMEM;
    f->memory = memory;
    (void)madvise(memory, f->bytes, MADV_DONTDUMP);
    (void)carve_all(f, c, memory);
    f->kernel_scratch = (nef_matmul_scratch(widest) + 63) / 64 * 64;
    return nef_pool_scratch(model->pool, f->kernel_scratch + nef_attention_scratch(c));
}

void nef_forward_close(struct nef_forward *f)
{
    if (f == NULL)
        return;
    if (f->memory != NULL)
        (void)munmap(f->memory, f->bytes);
    free(f);
}

/* ---- embedding ---- */

struct rows_job {
    struct nef_model *model;
    uint32_t rows, part_rows;
    /* norm and prepare: */
    const float *norm; /* NULL: none, the input is used as it is */
    const float *from;
    const uint32_t *select; /* rows of `from`, or NULL: all */
    struct nef_act *act;
    const struct nef_matrix *const *matrices; /* that will read it */
    uint32_t matrix_count;
};

static void run_rows(struct rows_job *job, uint32_t width, void (*work)(void *, uint32_t, void *))
{
    uint32_t least = NEF_MAX(1u, ROWS_WORK_MIN / width), threads = nef_pool_threads(job->model->pool);

    job->part_rows = NEF_MAX(least, (job->rows + threads * 4 - 1) / (threads * 4));
    nef_pool_run(job->model->pool, (job->rows + job->part_rows - 1) / job->part_rows, work, job);
}

static void embed_part(void *context, uint32_t part, void *scratch)
{
    const struct rows_job *job = context;
    struct nef_model *model = job->model;
    struct nef_forward *f = model->forward;
    uint32_t half = model->config.head_dim / 2, to = NEF_MIN(job->rows, (part + 1) * job->part_rows);

    (void)scratch;
    for (uint32_t row = part * job->part_rows; row < to; row++) {
        float *x = f->x + (size_t)row * model->config.embedding;

        if (model->config.tied)
            nef_unpack_row(&model->output, f->rows[row].token, x);
        else
            nef_gguf_row(model->embedding, f->rows[row].token, x);
        nef_rope_fill(&model->rope, f->rows[row].position, f->cosines + (size_t)row * half,
                      f->sines + (size_t)row * half);
    }
}

/* ---- linear layers: the input ---- */

static void prepare_part(void *context, uint32_t part, void *scratch)
{
    const struct rows_job *job = context;
    struct nef_model *model = job->model;
    uint32_t from = part * job->part_rows, to = NEF_MIN(job->rows, from + job->part_rows), k = job->act->k;

    (void)scratch;
    for (uint32_t row = from; row < to && job->norm != NULL; row++) {
        size_t source = job->select == NULL ? row : job->select[row];

        model->kernels->rms_norm(k, job->from + source * k, job->norm, model->config.rms_eps,
                                 model->forward->h + (size_t)row * k);
    }
    for (uint32_t i = 0; i < job->matrix_count; i++) {
        bool done = false; /* for another matrix of the same kind */

        for (uint32_t j = 0; j < i; j++)
            done |= job->matrices[j]->payload_kind == job->matrices[i]->payload_kind &&
                    job->matrices[j]->scales_kind == job->matrices[i]->scales_kind;
        if (!done)
            model->kernels->prepare(job->matrices[i], job->act, from, to - from);
    }
}

/* ROWS rows of FROM (those of SELECT, if given), normed by NORM if given, in the forms that MATRICES need. */
static void prepare(struct nef_model *model, const float *from, const uint32_t *select, uint32_t rows,
                    const float *norm, const struct nef_matrix *const *matrices, uint32_t matrix_count,
                    struct nef_act *out_act)
{
    struct rows_job job = {.model = model, .rows = rows, .norm = norm, .from = from, .select = select, .act = out_act,
                           .matrices = matrices, .matrix_count = matrix_count};

    nef_act_place(out_act, model->forward->act_memory, rows, matrices[0]->k, norm == NULL ? from : model->forward->h);
    run_rows(&job, matrices[0]->k, prepare_part);
}

/* ---- linear layers: the products ---- */

enum after { NOTHING, ADD_BIAS, ADD_TO_X, SILU };

struct output {
    const struct nef_matrix *matrix;
    float *y;
    const float *bias; /* ADD_BIAS, or NULL */
};

struct linear_job {
    struct nef_model *model;
    const struct nef_act *act;
    const struct output *outputs;
    uint32_t output_count;
    enum after after;
    uint32_t part_tiles;
};

/* What follows the product, for outputs [from, from + count) of all rows. */
static void finish(const struct linear_job *job, const struct output *out, uint32_t from, uint32_t count)
{
    struct nef_forward *f = job->model->forward;
    const struct nef_kernels *kernels = job->model->kernels;
    size_t n = out->matrix->n;

    for (size_t row = 0; row < job->act->rows; row++) {
        float *y = out->y + row * n + from;

        if (job->after == ADD_BIAS && out->bias != NULL)
            kernels->add(count, out->bias + from, y);
        else if (job->after == ADD_TO_X)
            kernels->add(count, y, f->x + row * n + from);
        else if (job->after == SILU)
            kernels->silu_mul(count, y, f->up + row * n + from, y);
    }
}

static void multiply(const struct linear_job *job, const struct output *out, uint32_t tile0, uint32_t tiles,
                     void *scratch)
{
    job->model->kernels->matmul(out->matrix, job->act, tile0, tiles, out->y, out->matrix->n, scratch);
}

static void linear_part(void *context, uint32_t part, void *scratch)
{
    const struct linear_job *job = context;
    uint32_t i = 0, tile0, tiles;

    /* SILU: both matrices have the same shape and a part takes the same outputs of both. */
    if (job->after != SILU)
        for (uint32_t parts; part >= (parts = (job->outputs[i].matrix->tiles + job->part_tiles - 1) / job->part_tiles);
             i++)
            part -= parts;
    tile0 = part * job->part_tiles;
    tiles = NEF_MIN(job->part_tiles, job->outputs[i].matrix->tiles - tile0);
    if (job->after == SILU)
        multiply(job, &job->outputs[1], tile0, tiles, scratch);
    multiply(job, &job->outputs[i], tile0, tiles, scratch);
    finish(job, &job->outputs[i], tile0 * NEF_TILE_ROWS,
           NEF_MIN(tiles * NEF_TILE_ROWS, job->outputs[i].matrix->n - tile0 * NEF_TILE_ROWS));
}

/* outputs = act · matrices, all in one job. */
static void linear(struct nef_model *model, const struct nef_act *act, const struct output *outputs,
                   uint32_t output_count, enum after after)
{
    struct linear_job job = {
        .model = model, .act = act, .outputs = outputs, .output_count = output_count, .after = after};
    uint32_t wanted = nef_pool_threads(model->pool) * PARTS_PER_THREAD, tiles = 0, parts = 0;
    uint64_t tile_work = 0;

    for (uint32_t i = 0; i < output_count; i++) {
        const struct nef_matrix *m = outputs[i].matrix;

        tile_work += (uint64_t)m->blocks * (m->block_bytes + m->group_bytes / NEF_MAX(1u, m->group_blocks)) * act->rows;
        tiles += i == 1 && after == SILU ? 0 : m->tiles;
    }
    tile_work = tile_work / (after == SILU ? 1 : output_count);
    job.part_tiles = NEF_MAX((tiles + wanted - 1) / wanted, 1u);
    if (job.part_tiles * tile_work < PART_WORK_MIN)
        job.part_tiles = (uint32_t)(PART_WORK_MIN / tile_work);
    if (after == SILU)
        parts = (tiles + job.part_tiles - 1) / job.part_tiles;
    else
        for (uint32_t i = 0; i < output_count; i++)
            parts += (outputs[i].matrix->tiles + job.part_tiles - 1) / job.part_tiles;
    nef_pool_run(model->pool, parts, linear_part, &job);
}

/* ---- layers ---- */

/* In the last layer, once its keys and values are in the cache: only rows whose logits or hidden states are wanted go
 * on, moved to the front of x and attended. */
static void keep_wanted(const struct nef_model *model)
{
    struct nef_forward *f = model->forward;
    size_t width = model->config.embedding;
    uint32_t kept = 0, wanted = 0, hidden = 0;

    for (uint32_t row = 0; row < f->count; row++) {
        if (!nef_row_is_wanted(&f->rows[row]))
            continue;
        if (kept != row) {
            memcpy(f->x + kept * width, f->x + row * width, width * sizeof(float));
            memcpy(f->attended + (size_t)kept * f->q_width, f->attended + (size_t)row * f->q_width,
                   f->q_width * sizeof(float));
        }
        if (f->rows[row].logits)
            f->wanted[wanted++] = kept;
        if (f->rows[row].hidden)
            f->hidden[hidden++] = kept;
        kept++;
    }
    f->count = kept;
}

static void attention_block(struct nef_model *model, uint32_t layer, bool last)
{
    struct nef_forward *f = model->forward;
    const struct nef_layer *l = &model->layers[layer];
    const struct nef_matrix *const qkv[] = {&l->q, &l->k, &l->v}, *const o[] = {&l->o};
    const struct output qkv_out[] = {{&l->q, f->q, l->q_bias}, {&l->k, f->k, l->k_bias}, {&l->v, f->v, l->v_bias}};
    const struct output o_out = {&l->o, f->y, NULL};
    struct nef_act act;

    prepare(model, f->x, NULL, f->count, l->attn_norm, qkv, 3, &act);
    linear(model, &act, qkv_out, 3, ADD_BIAS);
    nef_attention_store(model, layer);
    if (last && f->wanted_count + f->hidden_count == 0)
        return; /* all that was wanted of this batch is in the cache now */
    nef_attention_run(model, layer);
    if (last)
        keep_wanted(model);
    prepare(model, f->attended, NULL, f->count, NULL, o, 1, &act);
    linear(model, &act, &o_out, 1, ADD_TO_X);
}

static void ffn_block(struct nef_model *model, uint32_t layer)
{
    struct nef_forward *f = model->forward;
    const struct nef_layer *l = &model->layers[layer];
    const struct nef_matrix *const gate_up[] = {&l->gate, &l->up}, *const down[] = {&l->down};
    const struct output gate_up_out[] = {{&l->gate, f->gate, NULL}, {&l->up, f->up, NULL}};
    const struct output down_out = {&l->down, f->y, NULL};
    struct nef_act act;

    prepare(model, f->x, NULL, f->count, l->ffn_norm, gate_up, 2, &act);
    linear(model, &act, gate_up_out, 2, SILU);
    prepare(model, f->gate, NULL, f->count, NULL, down, 1, &act);
    linear(model, &act, &down_out, 1, ADD_TO_X);
}

/* The wanted rows of x, normed, into y, which nothing needs any more. */
static void hidden_part(void *context, uint32_t part, void *scratch)
{
    const struct rows_job *job = context;
    struct nef_model *model = job->model;
    struct nef_forward *f = model->forward;
    uint32_t width = model->config.embedding, to = NEF_MIN(job->rows, (part + 1) * job->part_rows);

    (void)scratch;
    for (uint32_t i = part * job->part_rows; i < to; i++)
        model->kernels->rms_norm(width, f->x + (size_t)f->hidden[i] * width, model->output_norm,
                                 model->config.rms_eps, f->y + (size_t)i * width);
}

const float *nef_model_hidden(const struct nef_model *model)
{
    return model->forward->y;
}

nef_err nef_model_forward(struct nef_model *model, const struct nef_row *rows, uint32_t count, float *out_logits)
{
    struct nef_forward *f = model->forward;
    const struct nef_matrix *const output[] = {&model->output};
    struct rows_job embed = {.model = model, .rows = count};
    struct output logits = {&model->output, out_logits, NULL};
    struct nef_act act;
    nef_err err;

    if (count == 0 || count > NEF_BATCH_ROWS_MAX)
        return NEF_E_RANGE;
    f->rows = rows;
    f->count = count;
    err = nef_attention_plan(model);
    if (err != NEF_OK)
        return err;
    f->wanted_count = f->hidden_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i].logits)
            f->wanted[f->wanted_count++] = i;
        if (rows[i].hidden)
            f->hidden[f->hidden_count++] = i;
    }
    run_rows(&embed, model->config.embedding, embed_part);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        bool last = layer + 1 == model->config.layers;

        attention_block(model, layer, last);
        if (last && f->wanted_count + f->hidden_count == 0)
            return NEF_OK;
        ffn_block(model, layer);
    }
    if (f->hidden_count > 0)
        run_rows(&(struct rows_job){.model = model, .rows = f->hidden_count}, model->config.embedding, hidden_part);
    if (f->wanted_count == 0)
        return NEF_OK;
    prepare(model, f->x, f->wanted, f->wanted_count, model->output_norm, output, 1, &act);
    linear(model, &act, &logits, 1, NOTHING);
    return NEF_OK;
}
