/* The part of llama.cpp's C interface that the driver calls, as release v0.5.0 lays it out (that of the npm package in
 * package-lock.json). The library is loaded at run time, so nothing checks these layouts when compiling: driver.c
 * compares the version, and what the library itself writes as defaults, before it trusts them. A new package version
 * needs this file compared with its llama.h. */
#ifndef NEF_BENCH_LLAMA_ABI_H
#define NEF_BENCH_LLAMA_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LLAMA_VERSION "0.5.0-dev"

struct llama_model;
struct llama_context;
struct llama_vocab;
struct llama_memory;

enum { LLAMA_FLASH_ATTN_AUTO = -1, LLAMA_FLASH_ATTN_OFF = 0, LLAMA_FLASH_ATTN_ON = 1 };
enum { LLAMA_LOAD_MODE_MMAP = 1 };
enum { GGML_TYPE_F32 = 0, GGML_TYPE_F16 = 1, GGML_TYPE_Q8_0 = 8, GGML_TYPE_BF16 = 30 };
enum { GGML_LOG_LEVEL_ERROR = 4 };

struct llama_model_params {
    void *devices;
    const void *tensor_buft_overrides;
    int32_t n_gpu_layers;
    int32_t split_mode;
    int32_t load_mode;
    int32_t lazy_mode;
    int32_t main_gpu;
    const float *tensor_split;
    void *progress_callback;
    void *progress_callback_user_data;
    const void *kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts; /* repacks weights for the processor; on by default */
    bool no_host;
    bool no_alloc;
    bool load_mtp;
};

struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq;
    int32_t n_threads;
    int32_t n_threads_batch;
    int32_t ctx_type;
    int32_t rope_scaling_type;
    int32_t pooling_type;
    int32_t attention_type;
    int32_t flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void *cb_eval;
    void *cb_eval_user_data;
    int32_t type_k;
    int32_t type_v;
    void *abort_callback;
    void *abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    void *samplers;
    size_t n_samplers;
    struct llama_context *ctx_other;
};

struct llama_quantize_params {
    int32_t nthread;
    int32_t ftype;
    int32_t output_tensor_type;
    int32_t token_embedding_type;
    bool allow_requantize;
    bool quantize_output_tensor;
    bool only_copy;
    bool pure;
    bool keep_split;
    bool dry_run;
    const void *imatrix;
    const void *kv_overrides;
    const void *tt_overrides;
    const int32_t *prune_layers;
    size_t max_buf_size;
};

struct llama_batch {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos;
    int32_t *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
};

/* Structs come back and are passed by value, in memory (System V, above 16 bytes). */
struct llama_api {
    const char *(*version)(void);
    void (*backend_init)(void);
    void (*log_set)(void (*callback)(int level, const char *text, void *context), void *context);
    struct llama_model_params (*model_default_params)(void);
    struct llama_context_params (*context_default_params)(void);
    struct llama_quantize_params (*model_quantize_default_params)(void);
    struct llama_model *(*model_load_from_file)(const char *path, struct llama_model_params params);
    void (*model_free)(struct llama_model *model);
    struct llama_context *(*init_from_model)(struct llama_model *model, struct llama_context_params params);
    void (*free)(struct llama_context *context);
    const struct llama_vocab *(*model_get_vocab)(const struct llama_model *model);
    int32_t (*vocab_n_tokens)(const struct llama_vocab *vocab);
    struct llama_memory *(*get_memory)(const struct llama_context *context);
    void (*memory_clear)(struct llama_memory *memory, bool data);
    void (*memory_seq_cp)(struct llama_memory *memory, int32_t from_sequence, int32_t to_sequence, int32_t from, int32_t to);
    bool (*memory_seq_rm)(struct llama_memory *memory, int32_t sequence, int32_t from, int32_t to);
    int32_t (*decode)(struct llama_context *context, struct llama_batch batch);
    void (*synchronize)(struct llama_context *context);
    float *(*get_logits_ith)(struct llama_context *context, int32_t row);
    uint32_t (*model_quantize)(const char *source, const char *target, const struct llama_quantize_params *params);
    const char *(*print_system_info)(void); /* valid until the next call */
    void (*load_backends)(const char *directory);
};

#endif
