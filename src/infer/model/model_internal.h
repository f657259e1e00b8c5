/* What the files of this directory share: the loaded model. */
#ifndef NEF_INFER_MODEL_INTERNAL_H
#define NEF_INFER_MODEL_INTERNAL_H

#include "infer/model/model.h"
#include "infer/model/rope.h"
#include "infer/model/source.h"

struct nef_layer {
    struct nef_matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm;
    const float *q_norm, *k_norm;         /* qwen3, else NULL */
    const float *q_bias, *k_bias, *v_bias; /* qwen2, else NULL */
};

struct nef_forward; /* forward.c: buffers and plan of one batch */

struct nef_model {
    struct nef_model_config config;
    const struct nef_kernels *kernels;
    struct nef_pool *pool;
    struct nef_source source;
    struct nef_layer *layers;
    struct nef_matrix output; /* tied: the embedding as well */
    const struct nef_gguf_tensor *embedding;
    const float *output_norm;
    float *vectors;       /* norms and biases, all in one piece */
    uint8_t *weights;     /* payloads and scales of all matrices, in the order of use */
    size_t weights_bytes;
    uint8_t *mapping;     /* what `weights` lies in: anonymous memory, or a cache file */
    size_t mapping_bytes;
    struct nef_rope rope;
    struct nef_forward *forward;
};

/* ---- weights.c ---- */
/* Find and check every tensor against the config, lay out the packed weights, read the vectors. */
NEF_MUST_CHECK nef_err nef_weights_open(struct nef_model *model, char *out_error);
/* Fill `weights`: from CACHE if it is this model's, else packed from the file (and then written to CACHE). NULL: no
 * cache. */
NEF_MUST_CHECK nef_err nef_weights_fill(struct nef_model *model, const char *cache, char *out_error);

/* ---- packfile.c ---- */
/* A digest of how the weights are laid out, and the place where they are found. Errors: NEF_E_NOT_FOUND (none, or not
 * this model's: traced), NEF_E_NOMEM. On NEF_OK the model's mapping and weights are set. */
NEF_MUST_CHECK nef_err nef_packfile_map(struct nef_model *model, const char *path, const uint8_t layout[32]);
/* Write the model's weights to PATH, atomically; what goes wrong is traced and costs only the next start's time. */
void nef_packfile_write(const struct nef_model *model, const char *path, const uint8_t layout[32]);

/* ---- forward.c ---- */
NEF_MUST_CHECK nef_err nef_forward_open(struct nef_model *model);
void nef_forward_close(struct nef_forward *forward);

#endif
