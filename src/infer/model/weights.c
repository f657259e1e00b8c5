/* A model's tensors: what a Qwen has, found, checked and packed.
 *
 * The list of tensors is made once from the config and then walked three times: to check each one's shape, to lay the
 * packed forms out in memory in the order in which a token uses them, and to pack them. A tensor that isn't in the list
 * would change the computation, so it is refused.
 *
 * Packing goes through the file in pieces of CHUNK_BYTES, all threads on one piece, and gives each piece's pages back
 * at once: at no moment do both forms of the whole model count as this process's memory. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/assert.h"
#include "base/limits.h"
#include "crypto/crypto.h"
#include "infer/model/model_internal.h"

#define CHUNK_BYTES  (64u << 20)
#define PART_BYTES   (1u << 20) /* of the file, packed by a thread at a time */
#define HUGE_BYTES   (2u << 20)
#define LAYER_TENSORS 14u
#define NAME_BYTES   64u

struct tensor {
    char name[NAME_BYTES];
    uint64_t k, n;              /* dims[0], dims[1]; n is 0 for a vector */
    struct nef_matrix *matrix;  /* where it goes: one of both, or neither (the embedding of an untied model) */
    const float **vector;
    bool optional;
    const struct nef_gguf_tensor *found;
    size_t payload_at, scales_at; /* in `weights` */
};

struct list {
    struct tensor *items;
    uint32_t count;
};

static struct tensor *add(struct list *list, uint64_t k, uint64_t n, struct nef_matrix *matrix, const float **vector)
{
    struct tensor *t = &list->items[list->count++];

    *t = (struct tensor){.k = k, .n = n, .matrix = matrix, .vector = vector};
    return t;
}

static void add_layer(struct list *list, const struct nef_model_config *c, uint32_t number, struct nef_layer *l)
{
    uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    const struct {
        const char *name;
        uint64_t k, n;
        struct nef_matrix *matrix;
        const float **vector;
        bool wanted, optional;
    } all[LAYER_TENSORS] = {
        {"attn_norm.weight", c->embedding, 0, NULL, &l->attn_norm, true, false},
        {"attn_q.weight", c->embedding, q, &l->q, NULL, true, false},
        {"attn_k.weight", c->embedding, kv, &l->k, NULL, true, false},
        {"attn_v.weight", c->embedding, kv, &l->v, NULL, true, false},
        {"attn_q.bias", q, 0, NULL, &l->q_bias, true, c->arch != NEF_ARCH_QWEN2},
        {"attn_k.bias", kv, 0, NULL, &l->k_bias, true, c->arch != NEF_ARCH_QWEN2},
        {"attn_v.bias", kv, 0, NULL, &l->v_bias, true, c->arch != NEF_ARCH_QWEN2},
        {"attn_q_norm.weight", c->head_dim, 0, NULL, &l->q_norm, c->arch == NEF_ARCH_QWEN3, false},
        {"attn_k_norm.weight", c->head_dim, 0, NULL, &l->k_norm, c->arch == NEF_ARCH_QWEN3, false},
        {"attn_output.weight", q, c->embedding, &l->o, NULL, true, false},
        {"ffn_norm.weight", c->embedding, 0, NULL, &l->ffn_norm, true, false},
        {"ffn_gate.weight", c->embedding, c->ffn, &l->gate, NULL, true, false},
        {"ffn_up.weight", c->embedding, c->ffn, &l->up, NULL, true, false},
        {"ffn_down.weight", c->ffn, c->embedding, &l->down, NULL, true, false},
    };

    for (uint32_t i = 0; i < LAYER_TENSORS; i++) {
        struct tensor *t;

        if (!all[i].wanted)
            continue;
        t = add(list, all[i].k, all[i].n, all[i].matrix, all[i].vector);
        t->optional = all[i].optional;
        (void)snprintf(t->name, sizeof(t->name), "blk.%u.%s", number, all[i].name);
    }
}

/* What a model of this config has, in the order of use. */
static nef_err make_list(struct nef_model *model, struct list *out_list)
{
    const struct nef_model_config *c = &model->config;
    struct list list = {.items = calloc((size_t)c->layers * LAYER_TENSORS + 3, sizeof(list.items[0]))};
    struct tensor *t;

    if (list.items == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < c->layers; i++)
        add_layer(&list, c, i, &model->layers[i]);
    t = add(&list, c->embedding, 0, NULL, &model->output_norm);
    (void)snprintf(t->name, sizeof(t->name), "output_norm.weight");
    t = add(&list, c->embedding, c->vocab, c->tied ? &model->output : NULL, NULL);
    (void)snprintf(t->name, sizeof(t->name), "token_embd.weight");
    if (!c->tied) {
        t = add(&list, c->embedding, c->vocab, &model->output, NULL);
        (void)snprintf(t->name, sizeof(t->name), "output.weight");
    }
    *out_list = list;
    return NEF_OK;
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;

    return x < y ? -1 : x > y;
}

/* Names a tensor of the files that isn't in the list. */
static nef_err check_no_others(const struct nef_model *model, const struct list *list, char *out_error)
{
    uintptr_t *known = calloc(list->count, sizeof(known[0]));
    uint32_t count = 0;
    nef_err err = NEF_OK;

    if (known == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < list->count; i++)
        if (list->items[i].found != NULL)
            known[count++] = (uintptr_t)list->items[i].found;
    qsort(known, count, sizeof(known[0]), by_address);
    for (uint32_t f = 0; f < model->source.count && err == NEF_OK; f++) {
        const struct nef_gguf *file = model->source.files[f].gguf;

        for (uint32_t i = 0; i < nef_gguf_tensor_count(file) && err == NEF_OK; i++) {
            const struct nef_gguf_tensor *t = nef_gguf_tensor_at(file, i);
            uintptr_t address = (uintptr_t)t;

            if (bsearch(&address, known, count, sizeof(known[0]), by_address) != NULL)
                continue;
            (void)snprintf(out_error, NEF_GGUF_ERROR_MAX,
                           "tensor %.*s isn't known in this architecture (or is there twice)", (int)t->name.bytes,
                           t->name.data);
            err = NEF_E_UNSUPPORTED;
        }
    }
    free(known);
    return err;
}

/* Shape and place of one tensor. *at: end of the layout so far; *floats: of the vectors so far. */
static nef_err check(struct tensor *t, size_t *at, size_t *floats, char *out_error)
{
    const struct nef_gguf_tensor *found = t->found;
    nef_err err;

    if (found == NULL) {
        if (t->optional)
            return NEF_OK;
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "tensor %s is missing", t->name);
        return NEF_E_INVALID;
    }
    if (found->dims[0] != t->k || found->dims[1] != (t->n == 0 ? 1 : t->n) || found->dims[2] != 1 ||
        found->dims[3] != 1) {
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX,
                       "tensor %s is %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
                       ": the metadata asks for %" PRIu64 " x %" PRIu64,
                       t->name, found->dims[0], found->dims[1], found->dims[2], found->dims[3], t->k,
                       t->n == 0 ? 1 : t->n);
        return NEF_E_INVALID;
    }
    if (t->vector != NULL)
        *floats += (t->k + 15) / 16 * 16; /* each begins on a cache line */
    if (t->matrix == NULL)
        return NEF_OK;
    err = nef_matrix_shape(found->type, t->n, t->k, t->matrix);
    if (err != NEF_OK) {
        const char *name = nef_ggml_type_name(found->type);

        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "tensor %s: type %s with rows of %" PRIu64, t->name,
                       name == NULL ? "unknown" : name, t->k);
        return err;
    }
    t->payload_at = *at;
    *at += (nef_matrix_payload_bytes(t->matrix) + 63) / 64 * 64;
    t->scales_at = *at;
    *at += (nef_matrix_scale_bytes(t->matrix) + 63) / 64 * 64;
    return NEF_OK;
}

/* Biases come as three or not at all. */
static nef_err check_biases(const struct nef_model *model, char *out_error)
{
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct nef_layer *l = &model->layers[i];

        if ((l->q_bias == NULL) == (l->k_bias == NULL) && (l->q_bias == NULL) == (l->v_bias == NULL))
            continue;
        (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "blk.%u has some of attn_q.bias, attn_k.bias, attn_v.bias", i);
        return NEF_E_INVALID;
    }
    return NEF_OK;
}

static nef_err read_vectors(struct nef_model *model, const struct list *list, size_t floats)
{
    float *at = aligned_alloc(64, NEF_MAX(floats, (size_t)16) * sizeof(float));

    if (at == NULL)
        return NEF_E_NOMEM;
    model->vectors = at;
    memset(at, 0, floats * sizeof(float));
    for (uint32_t i = 0; i < list->count; i++) {
        const struct tensor *t = &list->items[i];

        if (t->vector == NULL || t->found == NULL)
            continue;
        nef_gguf_row(t->found, 0, at);
        *t->vector = at;
        at += (t->k + 15) / 16 * 16;
    }
    return NEF_OK;
}

/* A fresh list with each tensor found and checked. */
static nef_err open_list(struct nef_model *model, char *out_error, struct list *out_list, size_t *out_bytes,
                         size_t *out_floats)
{
    struct list list;
    size_t at = 0, floats = 0;
    nef_err err = make_list(model, &list);

    if (err != NEF_OK)
        return err;
    for (uint32_t i = 0; i < list.count && err == NEF_OK; i++) {
        list.items[i].found = nef_source_tensor(&model->source, list.items[i].name);
        err = check(&list.items[i], &at, &floats, out_error);
    }
    if (err == NEF_OK)
        err = check_no_others(model, &list, out_error);
    if (err != NEF_OK) {
        free(list.items);
        return err;
    }
    *out_list = list;
    *out_bytes = at;
    *out_floats = floats;
    return NEF_OK;
}

nef_err nef_weights_open(struct nef_model *model, char *out_error)
{
    struct list list;
    size_t floats = 0;
    nef_err err;

    model->config.tied = nef_source_tensor(&model->source, "output.weight") == NULL; /* it may be in a later file */
    model->layers = calloc(model->config.layers, sizeof(model->layers[0]));
    if (model->layers == NULL)
        return NEF_E_NOMEM;
    err = open_list(model, out_error, &list, &model->weights_bytes, &floats);
    if (err != NEF_OK)
        return err;
    model->embedding = nef_source_tensor(&model->source, "token_embd.weight");
    err = read_vectors(model, &list, floats);
    if (err == NEF_OK)
        err = check_biases(model, out_error);
    free(list.items);
    return err;
}

/* ---- packing ---- */

struct packing {
    const struct nef_gguf_tensor *source;
    const struct nef_matrix *matrix;
    uint8_t *payload, *scales;
    uint32_t tile0, tiles, part_tiles;
};

static void pack_part(void *context, uint32_t part, void *scratch)
{
    const struct packing *p = context;
    uint32_t from = part * p->part_tiles, tiles = NEF_MIN(p->part_tiles, p->tiles - from);

    (void)scratch;
    nef_pack(p->source->type, p->matrix, p->source->data, p->tile0 + from, tiles, p->payload, p->scales);
}

static void pack(struct nef_model *model, const struct tensor *t)
{
    const struct nef_matrix *m = t->matrix;
    size_t row_bytes = t->found->bytes / t->n, tile_bytes = row_bytes * NEF_TILE_ROWS;
    uint32_t chunk = (uint32_t)NEF_MAX((size_t)1, CHUNK_BYTES / tile_bytes);
    struct packing p = {.source = t->found, .matrix = m, .payload = model->weights + t->payload_at,
                        .scales = model->weights + t->scales_at,
                        .part_tiles = (uint32_t)NEF_MAX((size_t)1, PART_BYTES / tile_bytes)};

    for (p.tile0 = 0; p.tile0 < m->tiles; p.tile0 += p.tiles) {
        size_t from = p.tile0 * tile_bytes, to;

        p.tiles = NEF_MIN(chunk, m->tiles - p.tile0);
        to = NEF_MIN(from + p.tiles * tile_bytes, t->found->bytes);
        nef_pool_run(model->pool, (p.tiles + p.part_tiles - 1) / p.part_tiles, pack_part, &p);
        nef_source_release(t->found->data + from, to - from);
    }
}

static void place(struct nef_model *model, const struct list *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        const struct tensor *t = &list->items[i];

        if (t->matrix == NULL)
            continue;
        t->matrix->payload = model->weights + t->payload_at;
        t->matrix->scales = t->matrix->scales_kind == NEF_SCALES_NONE ? NULL : model->weights + t->scales_at;
    }
}

/* Anonymous memory on a boundary of the system's huge pages, which spare a decode step its TLB misses. */
static nef_err allocate(struct nef_model *model)
{
    size_t bytes = model->weights_bytes + HUGE_BYTES;
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return NEF_E_NOMEM;
    model->mapping = memory;
    model->mapping_bytes = bytes;
    model->weights = (uint8_t *)(((uintptr_t)memory + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
    (void)madvise(model->weights, model->weights_bytes, MADV_HUGEPAGE); /* a hint */
    return NEF_OK;
}

/* Which tensor lies where in `weights`: a cache file of another layout can't be taken for this one. */
static nef_err layout_digest(const struct list *list, uint8_t out_digest[32])
{
    struct nef_hash *hash = nef_hash_new(NEF_HASH_SHA256);

    if (hash == NULL)
        return NEF_E_NOMEM;
    for (uint32_t i = 0; i < list->count; i++) {
        const struct tensor *t = &list->items[i];
        const struct nef_matrix *m = t->matrix;
        uint64_t numbers[9];

        if (m == NULL)
            continue;
        numbers[0] = t->k;
        numbers[1] = t->n;
        numbers[2] = t->payload_at;
        numbers[3] = t->scales_at;
        numbers[4] = t->found->type;
        numbers[5] = (uint64_t)m->payload_kind << 32 | m->scales_kind;
        numbers[6] = m->block_bytes;
        numbers[7] = m->group_bytes;
        numbers[8] = (uint64_t)m->bias;
        nef_hash_update(hash, t->name, sizeof(t->name));
        nef_hash_update(hash, numbers, sizeof(numbers));
    }
    nef_hash_final(hash, out_digest);
    nef_hash_free(hash);
    return NEF_OK;
}

nef_err nef_weights_fill(struct nef_model *model, const char *cache, char *out_error)
{
    struct list list;
    uint8_t layout[32];
    size_t bytes, floats;
    nef_err err;

    err = open_list(model, out_error, &list, &bytes, &floats);
    if (err != NEF_OK)
        return err;
    NEF_ASSERT(bytes == model->weights_bytes);
    err = layout_digest(&list, layout);
    if (err != NEF_OK)
        goto out;
    err = cache == NULL ? NEF_E_NOT_FOUND : nef_packfile_map(model, cache, layout);
    if (err == NEF_OK)
        goto placed;
    if (err != NEF_E_NOT_FOUND)
        goto out;
    err = allocate(model);
    if (err != NEF_OK)
        goto out;
    for (uint32_t i = 0; i < list.count; i++)
        if (list.items[i].matrix != NULL)
            pack(model, &list.items[i]);
    if (cache != NULL)
        nef_packfile_write(model, cache, layout);
placed:
    place(model, &list);
out:
    free(list.items);
    return err;
}
