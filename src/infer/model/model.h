/* A Qwen2, Qwen2.5 or Qwen3 dense model: metadata, packed weights, forward pass.
 *
 *   load.c     maps the file(s), packs the weights, gives mapped pages back
 *   config.c   PURE  metadata -> struct nef_model_config, every field checked
 *   forward.c  one batch through all layers, in reading order; calls kernels through the table
 *   rope.c     PURE  tables of cos and sin, YaRN
 *
 * Knows nothing of requests, text or sampling. Numerics: docs/numerics.md; a row's logits don't depend on what else is
 * in the batch, on the threads, or on how the prompt was cut. */
#ifndef NEF_INFER_MODEL_H
#define NEF_INFER_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/gguf/gguf.h"
#include "infer/kernels/kernels.h"
#include "infer/model/kvcache.h"
#include "infer/model/pool.h"

enum nef_model_arch { NEF_ARCH_QWEN2, NEF_ARCH_QWEN3 };
enum nef_rope_scaling { NEF_ROPE_NONE, NEF_ROPE_LINEAR, NEF_ROPE_YARN };

/* Names follow GGUF's keys ("qwen3.block_count"). */
struct nef_model_config {
    enum nef_model_arch arch;
    uint32_t layers, embedding, ffn, heads, kv_heads, head_dim, vocab, context; /* context: trained length */
    float rms_eps;
    double rope_base;
    enum nef_rope_scaling rope_scaling;
    double rope_factor, rope_attn_factor, yarn_beta_fast, yarn_beta_slow, yarn_ext_factor;
    uint32_t rope_original_context;
    bool tied; /* no output.weight: the embedding is the output */
    uint32_t pooling_type; /* of an embedding model: 1 mean, 2 first (CLS), 3 last position; 0: it is none */
};
/* Errors: NEF_E_UNSUPPORTED (another architecture or feature; out_error names it), NEF_E_INVALID (a key that is missing
 * or doesn't fit; named). */
NEF_MUST_CHECK nef_err nef_model_config_read(const struct nef_gguf *file, char *out_error,
                                             struct nef_model_config *out_config);

struct nef_model;

struct nef_model_options {
    const char *source; /* path (of split files: the first, "-00001-of-0000N.gguf"), or "fd:N" (kept open by the caller
                           * until load returns; may be a sealed memfd) */
    const char *cache;  /* packed weights are read from, or written to, this file; NULL: none. It is bound to the model
                           * file by its digest of header and size, and to the packing's version */
    const struct nef_kernels *kernels;
    struct nef_pool *pool; /* packs in parallel; used by forward */
};
/* What is wrong goes to out_error (NEF_GGUF_ERROR_MAX bytes). Errors: those of nef_gguf_parse and
 * nef_model_config_read, NEF_E_NOT_FOUND, NEF_E_IO, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_model_load(const struct nef_model_options *options, char *out_error,
                                      struct nef_model **out_model);
void nef_model_free(struct nef_model *model);
const struct nef_model_config *nef_model_config(const struct nef_model *model);
/* The first file's metadata (tokenizer, chat template, name): valid while the model lives. */
const struct nef_gguf *nef_model_metadata(const struct nef_model *model);
uint64_t nef_model_file_bytes(const struct nef_model *model);
uint64_t nef_model_weight_bytes(const struct nef_model *model); /* read once by a decode step: for --bench */

/* Type of the cache that adds nothing to speak of to what the weights' own rounding costs: F32 where they are F32, F16
 * or BF16 (a BF16 cache would make such a model less exact than llama.cpp with its F16 cache), BF16 for quantized ones.
 * */
enum nef_kv_type nef_model_kv_default(const struct nef_model *model);
/* What it was loaded with: a thread that calls forward enters these kernels first; work beside it may use the pool. */
const struct nef_kernels *nef_model_kernels(const struct nef_model *model);
struct nef_pool *nef_model_pool(const struct nef_model *model);

/* A row of a batch: a token of a sequence at a position. Rows of one sequence in a batch stand together and have
 * consecutive positions, and the cache holds all positions before the first of them. */
struct nef_row {
    struct nef_kv_sequence *sequence;
    uint32_t token, position;
    bool logits; /* wanted for this row */
    bool hidden; /* its normed hidden state is wanted (nef_model_hidden) */
};
#define NEF_BATCH_ROWS_MAX NEF_MATMUL_ROWS_MAX

/* Run ROWS rows (1 .. NEF_BATCH_ROWS_MAX): writes their keys and values into the sequences' pages (which must exist:
 * nef_kv_reserve) and logits of the wanted rows, in row order, vocab floats each, to out_logits. One caller at a time
 * per model; uses the pool's threads. Errors: NEF_E_RANGE (a token not in the vocabulary, a position beyond the pages,
 * rows not as above, a cache of another shape; nothing was done). */
NEF_MUST_CHECK nef_err nef_model_forward(struct nef_model *model, const struct nef_row *rows, uint32_t count,
                                         float *out_logits);
/* Of the last batch: the hidden states that were wanted, after the output's norm, in row order, embedding floats each.
 * Valid until the next call of nef_model_forward. */
const float *nef_model_hidden(const struct nef_model *model);

#endif
