/* A model from its file to a form that computes; see model.h.
 *
 *   source.c    maps and parses the file(s)
 *   config.c    reads the shape
 *   weights.c   checks every tensor and packs the matrices
 *   packfile.c  keeps the packed form in a cache file, if asked
 *   forward.c   allocates the buffers of a batch
 *
 * What stays mapped of the file: its metadata, which the tokenizer and the chat template read, and, in a model whose
 * embedding isn't tied to its output, the embedding's rows that are in use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/assert.h"
#include "infer/model/model_internal.h"

static nef_err load(struct nef_model *model, const struct nef_model_options *options, char *out_error)
{
    nef_err err;

    err = nef_source_open(options->source, out_error, &model->source);
    if (err != NEF_OK)
        return err;
    err = nef_model_config_read(model->source.files[0].gguf, out_error, &model->config);
    if (err != NEF_OK)
        return err;
    err = nef_weights_open(model, out_error);
    if (err != NEF_OK)
        return err;
    err = nef_weights_fill(model, options->cache, out_error);
    if (err != NEF_OK)
        return err;
    nef_rope_init(&model->config, &model->rope);
    return nef_forward_open(model);
}

nef_err nef_model_load(const struct nef_model_options *options, char *out_error, struct nef_model **out_model)
{
    struct nef_model *model = calloc(1, sizeof(*model));
    nef_err err = NEF_E_NOMEM;

    out_error[0] = 0;
    if (model != NULL) {
        model->kernels = options->kernels;
        model->pool = options->pool;
        err = load(model, options, out_error);
    }
    if (err != NEF_OK) {
        if (out_error[0] == 0)
            (void)snprintf(out_error, NEF_GGUF_ERROR_MAX, "%s", nef_err_text(err));
        nef_model_free(model);
        return err;
    }
    *out_model = model;
    return NEF_OK;
}

void nef_model_free(struct nef_model *model)
{
    if (model == NULL)
        return;
    nef_forward_close(model->forward);
    if (model->mapping != NULL)
        (void)munmap(model->mapping, model->mapping_bytes);
    free(model->vectors);
    free(model->layers);
    nef_source_close(&model->source);
    free(model);
}

const struct nef_model_config *nef_model_config(const struct nef_model *model)
{
    return &model->config;
}

const struct nef_gguf *nef_model_metadata(const struct nef_model *model)
{
    return model->source.files[0].gguf;
}

uint64_t nef_model_file_bytes(const struct nef_model *model)
{
    return nef_source_bytes(&model->source);
}

uint64_t nef_model_weight_bytes(const struct nef_model *model)
{
    return model->weights_bytes;
}

enum nef_kv_type nef_model_kv_default(const struct nef_model *model)
{
    enum nef_payload kind = model->layers[0].k.payload_kind;

    return kind == NEF_PAYLOAD_F32 || kind == NEF_PAYLOAD_F16 || kind == NEF_PAYLOAD_BF16 ? NEF_KV_F32 : NEF_KV_BF16;
}

const struct nef_kernels *nef_model_kernels(const struct nef_model *model)
{
    return model->kernels;
}

struct nef_pool *nef_model_pool(const struct nef_model *model)
{
    return model->pool;
}
