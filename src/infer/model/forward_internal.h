/* What forward.c and attention.c share: the buffers of a batch and how its attention is cut. */
#ifndef NEF_INFER_FORWARD_INTERNAL_H
#define NEF_INFER_FORWARD_INTERNAL_H

#include "infer/model/model_internal.h"

/* query rows (tokens times heads of a group) of one task: K and V are read once for all */
#define ATTEND_ROWS_MAX   64u
#define ATTEND_ITEMS_MAX  4096u
#define PARTIAL_BYTES_MAX (64u << 20)  /* results of segments that wait to be joined; beyond that tasks aren't split */

/* Rows of one sequence whose positions lie in one page: written by one thread, so that no two touch the same cache
 * line. */
struct piece {
    uint32_t row0, rows, page;
};
/* Rows of one sequence that attend together. */
struct strand {
    uint32_t row0, rows;
    uint32_t shared; /* leading pages that the next strand has too: all of them full, and below both strands' rows */
};
/* Strands that attend together, since they have pages in common; most often it is one. */
struct block {
    uint32_t strand0, strands;
    uint32_t rows;     /* of all strands */
    uint32_t segments; /* that the longest strand sees */
    bool wanted;       /* some row's logits or hidden state are: otherwise the last layer passes it over */
    bool split;        /* each segment is a task of its own, and its result goes to `partials` */
    size_t partial_at; /* floats */
};
/* One task for each kv head. */
struct item {
    uint32_t block;
    uint32_t segment0, segments;
};

struct nef_forward {
    uint8_t *memory;
    size_t bytes;
    size_t kernel_scratch; /* bytes at the start of a thread's scratch that kernels use */
    uint32_t q_width, kv_width;
    float attend_scale;
    /* Rows of the batch; a row's length in parentheses. */
    float *x;            /* (embedding) the residual stream */
    float *h;            /* (embedding) normalized */
    float *y;            /* (embedding) what a block adds to x */
    float *q, *k, *v;    /* (q_width), (kv_width), (kv_width) */
    float *attended;     /* (q_width) */
    float *gate, *up;    /* (ffn) */
    float *cosines, *sines; /* (head_dim / 2) */
    void *act_memory;
    float *partials;

    /* ---- the batch that runs ---- */
    const struct nef_row *rows;
    uint32_t count;
    uint32_t piece_count, strand_count, block_count, item_count, split_count;
    struct piece pieces[NEF_BATCH_ROWS_MAX];
    struct strand strands[NEF_BATCH_ROWS_MAX];
    struct block blocks[NEF_BATCH_ROWS_MAX];
    struct item items[ATTEND_ITEMS_MAX];
    uint32_t splits[NEF_BATCH_ROWS_MAX]; /* blocks that are split */
    uint32_t wanted[NEF_BATCH_ROWS_MAX];
    uint32_t wanted_count;
    uint32_t hidden[NEF_BATCH_ROWS_MAX];
    uint32_t hidden_count;
};

static inline bool nef_row_is_wanted(const struct nef_row *row)
{
    return row->logits || row->hidden;
}

/* ---- attention.c ---- */
/* Bytes of a thread's scratch beside the kernels'. */
size_t nef_attention_scratch(const struct nef_model_config *config);
/* Cut the batch into pieces, blocks and items. Errors: NEF_E_RANGE, as nef_model_forward. */
NEF_MUST_CHECK nef_err nef_attention_plan(struct nef_model *model);
/* q, k: norm and rotate; k, v: into the cache. */
void nef_attention_store(struct nef_model *model, uint32_t layer);
/* q and the cache -> attended. */
void nef_attention_run(struct nef_model *model, uint32_t layer);

#endif
