/* From a GGUF's metadata to a model's shape; see model.h. PURE.
 *
 * Every value that sizes something is bounded here, once, so that no product of them overflows later and the rest of
 * the model needs no checks. A key that would change the computation and that we don't implement is refused by name,
 * not ignored. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/limits.h"
#include "infer/model/model.h"

struct reader {
    const struct nef_gguf *file;
    const char *arch; /* prefix of the keys */
    char *error;
    nef_err err; /* the first one; what follows is skipped */
};

static void NEF_PRINTF(3, 4) fail(struct reader *r, nef_err err, const char *format, ...)
{
    va_list args;

    if (r->err != NEF_OK)
        return;
    r->err = err;
    va_start(args, format);
    (void)vsnprintf(r->error, NEF_GGUF_ERROR_MAX, format, args);
    va_end(args);
}

static void key_of(const struct reader *r, const char *name, char out[96])
{
    (void)snprintf(out, 96, "%s.%s", r->arch, name);
}

/* An integer in [least, most]; if absent, DEFAULT_VALUE, or an error when that is UINT64_MAX. */
static uint32_t integer(struct reader *r, const char *name, uint32_t least, uint32_t most, uint64_t default_value)
{
    uint64_t value = 0;
    char key[96];
    nef_err err;

    if (r->err != NEF_OK)
        return least;
    key_of(r, name, key);
    err = nef_gguf_u64(r->file, key, &value);
    if (err == NEF_E_NOT_FOUND && default_value != UINT64_MAX)
        value = default_value;
    else if (err == NEF_E_NOT_FOUND)
        fail(r, NEF_E_INVALID, "%s is missing", key);
    else if (err != NEF_OK)
        fail(r, NEF_E_INVALID, "%s isn't an integer", key);
    if (r->err == NEF_OK && (value < least || value > most))
        fail(r, NEF_E_INVALID, "%s is %llu: not in %u to %u", key, (unsigned long long)value, least, most);
    return r->err == NEF_OK ? (uint32_t)value : least;
}

static double number(struct reader *r, const char *name, double least, double most, double default_value)
{
    double value = default_value;
    char key[96];
    nef_err err;

    if (r->err != NEF_OK)
        return least;
    key_of(r, name, key);
    err = nef_gguf_f64(r->file, key, &value);
    if (err == NEF_E_NOT_FOUND && isnan(default_value))
        fail(r, NEF_E_INVALID, "%s is missing", key);
    else if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        fail(r, NEF_E_INVALID, "%s isn't a number", key);
    if (r->err == NEF_OK && !(value >= least && value <= most)) /* a NaN is refused too */
        fail(r, NEF_E_INVALID, "%s is %g: not in %g to %g", key, value, least, most);
    return r->err == NEF_OK ? value : least;
}

static bool is(const struct nef_gguf_string *s, const char *text)
{
    return s->bytes == strlen(text) && memcmp(s->data, text, s->bytes) == 0;
}

static int shown(const struct nef_gguf_string *s)
{
    return s->bytes > 64 ? 64 : (int)s->bytes;
}

static void read_arch(struct reader *r, struct nef_model_config *c)
{
    struct nef_gguf_string name;

    r->arch = "";
    if (nef_gguf_text(r->file, "general.architecture", &name) != NEF_OK) {
        fail(r, NEF_E_INVALID, "general.architecture is missing");
    } else if (is(&name, "qwen2")) {
        c->arch = NEF_ARCH_QWEN2;
        r->arch = "qwen2";
    } else if (is(&name, "qwen3")) {
        c->arch = NEF_ARCH_QWEN3;
        r->arch = "qwen3";
    } else {
        fail(r, NEF_E_UNSUPPORTED, "general.architecture is %.*s; qwen2 and qwen3 are supported", shown(&name),
             name.data);
    }
}

static void read_shape(struct reader *r, struct nef_model_config *c)
{
    uint32_t value_dim, rope_dim, window;

    c->layers = integer(r, "block_count", 1, NEF_MODEL_LAYERS_MAX, UINT64_MAX);
    c->embedding = integer(r, "embedding_length", NEF_BLOCK_COLS, NEF_MODEL_WIDTH_MAX, UINT64_MAX);
    c->ffn = integer(r, "feed_forward_length", NEF_BLOCK_COLS, NEF_MODEL_WIDTH_MAX, UINT64_MAX);
    c->heads = integer(r, "attention.head_count", 1, NEF_MODEL_HEADS_MAX, UINT64_MAX);
    c->kv_heads = integer(r, "attention.head_count_kv", 1, NEF_MODEL_HEADS_MAX, c->heads);
    c->context = integer(r, "context_length", 1, NEF_MODEL_CONTEXT_MAX, UINT64_MAX);
    if (r->err != NEF_OK)
        return;
    c->head_dim = integer(r, "attention.key_length", NEF_BLOCK_COLS, NEF_HEAD_DIM_MAX, c->embedding / c->heads);
    value_dim = integer(r, "attention.value_length", NEF_BLOCK_COLS, NEF_HEAD_DIM_MAX, c->head_dim);
    rope_dim = integer(r, "rope.dimension_count", 1, NEF_HEAD_DIM_MAX, c->head_dim);
    window = integer(r, "attention.sliding_window", 0, UINT32_MAX, 0);
    if (r->err != NEF_OK)
        return;
    if (c->embedding % NEF_BLOCK_COLS != 0)
        fail(r, NEF_E_INVALID, "%s.embedding_length is %u: not a multiple of 32", r->arch, c->embedding);
    if (c->ffn % NEF_BLOCK_COLS != 0)
        fail(r, NEF_E_INVALID, "%s.feed_forward_length is %u: not a multiple of 32", r->arch, c->ffn);
    if (c->heads % c->kv_heads != 0)
        fail(r, NEF_E_INVALID, "%s.attention.head_count_kv is %u: doesn't divide %u heads", r->arch, c->kv_heads,
             c->heads);
    if (c->heads / c->kv_heads > NEF_MODEL_GROUP_MAX)
        fail(r, NEF_E_UNSUPPORTED, "%s.attention.head_count_kv is %u: more than %u heads share one", r->arch,
             c->kv_heads, NEF_MODEL_GROUP_MAX);
    if (c->head_dim % NEF_BLOCK_COLS != 0)
        fail(r, NEF_E_UNSUPPORTED, "%s.attention.key_length is %u: not a multiple of 32", r->arch, c->head_dim);
    if (c->heads * c->head_dim > NEF_MODEL_WIDTH_MAX)
        fail(r, NEF_E_INVALID, "%s.attention.head_count is %u: too many of %u", r->arch, c->heads, c->head_dim);
    if (value_dim != c->head_dim)
        fail(r, NEF_E_UNSUPPORTED, "%s.attention.value_length is %u, key_length %u", r->arch, value_dim, c->head_dim);
    if (rope_dim != c->head_dim)
        fail(r, NEF_E_UNSUPPORTED, "%s.rope.dimension_count is %u of %u: partial rotation", r->arch, rope_dim,
             c->head_dim);
    if (window > 0 && window < c->context)
        fail(r, NEF_E_UNSUPPORTED, "%s.attention.sliding_window is %u: windows aren't supported", r->arch, window);
    c->pooling_type = integer(r, "pooling_type", 0, 4, 0);
    if (c->pooling_type == 4)
        fail(r, NEF_E_UNSUPPORTED, "%s.pooling_type is 4: ranking models aren't supported", r->arch);
    c->rms_eps = (float)number(r, "attention.layer_norm_rms_epsilon", 1e-12, 1e-1, NAN);
}

/* llama.cpp's keys and defaults (llama-model.cpp, load_hparams; llama-context.cpp): a factor of 0 means 1, the older
 * key is rope.scale_linear, and a factor without a type is linear. */
static void read_rope(struct reader *r, struct nef_model_config *c)
{
    struct nef_gguf_string type = {"linear", 6};
    char key[96];
    nef_err err;

    c->rope_base = number(r, "rope.freq_base", 1.0, 1e12, 10000.0);
    c->rope_factor = number(r, "rope.scale_linear", 0.0, 1e6, 0.0);
    c->rope_factor = number(r, "rope.scaling.factor", 0.0, 1e6, c->rope_factor);
    c->rope_attn_factor = number(r, "rope.scaling.attn_factor", 1e-6, 1e6, 1.0);
    c->rope_original_context = integer(r, "rope.scaling.original_context_length", 1, NEF_MODEL_CONTEXT_MAX, c->context);
    if (r->err != NEF_OK)
        return;
    key_of(r, "rope.scaling.type", key);
    err = nef_gguf_text(r->file, key, &type);
    if (err != NEF_OK && err != NEF_E_NOT_FOUND)
        fail(r, NEF_E_INVALID, "%s isn't a text", key);
    if (c->rope_factor < 1e-6)
        c->rope_factor = 1.0;
    if (is(&type, "none") || (is(&type, "linear") && c->rope_factor == 1.0)) {
        c->rope_scaling = NEF_ROPE_NONE;
        c->rope_factor = 1.0;
    } else if (is(&type, "linear")) {
        c->rope_scaling = NEF_ROPE_LINEAR;
    } else if (is(&type, "yarn")) {
        c->rope_scaling = NEF_ROPE_YARN;
        c->yarn_ext_factor = number(r, "rope.scaling.yarn_ext_factor", -1.0, 100.0, -1.0);
        if (c->yarn_ext_factor < 0)
            c->yarn_ext_factor = 1.0;
        c->rope_attn_factor *= number(r, "rope.scaling.yarn_attn_factor", 1e-6, 1e6, 1.0);
        c->yarn_beta_fast = number(r, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0);
        c->yarn_beta_slow = number(r, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0);
        if (number(r, "rope.scaling.yarn_log_multiplier", -1e6, 1e6, 0.0) != 0.0)
            fail(r, NEF_E_UNSUPPORTED, "%s.rope.scaling.yarn_log_multiplier isn't supported", r->arch);
        if (c->rope_base <= 1.0)
            fail(r, NEF_E_INVALID, "%s.rope.freq_base is %g: YaRN needs more than 1", r->arch, c->rope_base);
    } else {
        fail(r, NEF_E_UNSUPPORTED, "%s is %.*s; none, linear and yarn are supported", key, shown(&type), type.data);
    }
}

/* The vocabulary is what the tokenizer has; the embedding must have as many rows (load.c checks every tensor). A file
 * without a tokenizer says it in the embedding alone. */
static void read_vocab(struct reader *r, struct nef_model_config *c)
{
    const struct nef_gguf_tensor *embedding = nef_gguf_tensor(r->file, "token_embd.weight");
    enum nef_gguf_value_type type;
    uint64_t count = 0;
    nef_err err;

    err = nef_gguf_array(r->file, "tokenizer.ggml.tokens", &type, &count);
    if (err == NEF_E_NOT_FOUND && embedding != NULL)
        count = embedding->dims[1];
    else if (err == NEF_E_NOT_FOUND)
        fail(r, NEF_E_INVALID, "tokenizer.ggml.tokens is missing");
    else if (err != NEF_OK)
        fail(r, NEF_E_INVALID, "tokenizer.ggml.tokens isn't an array");
    if (count < 1 || count > NEF_MODEL_VOCAB_MAX)
        fail(r, NEF_E_INVALID, "tokenizer.ggml.tokens has %llu entries: not in 1 to %u", (unsigned long long)count,
             NEF_MODEL_VOCAB_MAX);
    if (r->err == NEF_OK)
        c->vocab = (uint32_t)count;
    c->tied = nef_gguf_tensor(r->file, "output.weight") == NULL;
}

nef_err nef_model_config_read(const struct nef_gguf *file, char *out_error, struct nef_model_config *out_config)
{
    struct nef_model_config config = {0};
    struct reader r = {.file = file, .error = out_error};

    read_arch(&r, &config);
    if (r.err == NEF_OK)
        read_shape(&r, &config);
    if (r.err == NEF_OK)
        read_rope(&r, &config);
    if (r.err == NEF_OK)
        read_vocab(&r, &config);
    if (r.err == NEF_OK)
        *out_config = config;
    return r.err;
}
