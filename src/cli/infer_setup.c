/* Loading a model for a command; see infer_setup.h. The order is that of the layers: kernels, threads, weights,
 * tokenizer, cache and engine; each that fails says what and why. */
#include "cli/infer_setup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/limits.h"
#include "cli/cli.h"
#include "crypto/crypto.h"
#include "io/clock.h"

#define SLOTS_PRESET 64u /* a slot costs little until it is used: pages of the cache are touched on demand */

static const char *const kv_names[] = {[NEF_KV_BF16] = "bf16", [NEF_KV_F32] = "f32", [NEF_KV_I8] = "i8"};

const char *nef_kv_type_name(enum nef_kv_type type)
{
    return kv_names[type];
}

static bool kv_type_of(const char *name, enum nef_kv_type *out)
{
    for (size_t i = 0; i < sizeof(kv_names) / sizeof(kv_names[0]); i++) {
        if (strcmp(name, kv_names[i]) == 0) {
            *out = (enum nef_kv_type)i;
            return true;
        }
    }
    return false;
}

uint64_t nef_kv_position_bytes(const struct nef_model_config *config, enum nef_kv_type type)
{
    uint64_t head = type == NEF_KV_BF16 ? 2ull * config->head_dim
                    : type == NEF_KV_F32 ? 4ull * config->head_dim
                                         : config->head_dim + sizeof(float);

    return 2ull * config->layers * config->kv_heads * head;
}

/* "models/Qwen3-0.6B-Q8_0.gguf" is called Qwen3-0.6B-Q8_0; what comes through a descriptor, by its metadata. */
static void name_model(const struct nef_infer_options *o, struct nef_infer_setup *s)
{
    const char *slash = strrchr(o->model, '/'), *base = slash == NULL ? o->model : slash + 1;
    struct nef_gguf_string name;
    size_t bytes = strlen(base);

    if (o->alias != NULL) {
        (void)snprintf(s->alias, sizeof(s->alias), "%s", o->alias);
    } else if (strncmp(o->model, "fd:", 3) != 0) {
        if (bytes > 5 && strcmp(base + bytes - 5, ".gguf") == 0)
            bytes -= 5;
        (void)snprintf(s->alias, sizeof(s->alias), "%.*s", (int)bytes, base);
    } else if (nef_gguf_text(nef_model_metadata(s->model), "general.name", &name) == NEF_OK && name.bytes > 0 &&
               name.bytes < sizeof(s->alias)) {
        (void)snprintf(s->alias, sizeof(s->alias), "%.*s", (int)name.bytes, name.data);
    } else {
        (void)strcpy(s->alias, "model");
    }
    for (char *c = s->alias; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            *c = '-'; /* it goes into answers and URLs */
}

/* WHY may begin with the file's name: of a split model it says which file. */
static int refuse_model(const struct nef_infer_options *o, const char *why, nef_err err)
{
    size_t bytes = strlen(o->model);

    if (strncmp(why, o->model, bytes) == 0 && why[bytes] == ':')
        return nef_complain(o->command, "%s", why);
    return nef_complain(o->command, "%s: %s", o->model, why[0] != '\0' ? why : nef_err_text(err));
}

int nef_infer_load(const struct nef_infer_options *o, struct nef_infer_setup *out)
{
    const char *forced = getenv("NEF_KERNELS");
    char why[NEF_GGUF_ERROR_MAX] = "";
    uint64_t start = nef_now_ms();
    nef_err err;

    if (o->alias != NULL && strlen(o->alias) >= NEF_ALIAS_MAX) {
        (void)nef_complain(o->command, "--alias must be shorter than %u bytes", NEF_ALIAS_MAX);
        return 2;
    }
    if (o->kv_type != NULL && !kv_type_of(o->kv_type, &out->kv_type)) {
        (void)nef_complain(o->command, "--kv-type must be bf16, f32 or i8, not '%s'", o->kv_type);
        return 2;
    }
    if (forced != NULL && forced[0] == '\0')
        forced = NULL;
    out->kernels = nef_kernels_get(forced);
    if (nef_kernels_disagree() != NULL)
        (void)nef_complain(o->command, "the kernels '%s' don't compute the defined bits on this processor and are not used",
                           nef_kernels_disagree());
    if (out->kernels == NULL) {
        (void)nef_complain(
            o->command, "NEF_KERNELS=%s: unknown (scalar, avx2, avx512, amx), or not on this processor, which has: %s",
            forced == NULL ? "" : forced, nef_kernels_features());
        return 2;
    }
    if (nef_crypto_init() != NEF_OK)
        return nef_complain(o->command, "OpenSSL fails its self-test");
    err = nef_kernels_thread_enter(out->kernels);
    if (err != NEF_OK)
        return nef_complain(o->command, "the kernels '%s' can't run here: %s", out->kernels->name, nef_err_text(err));
    err = nef_pool_start(o->threads, nef_matmul_scratch(NEF_MODEL_WIDTH_MAX), out->kernels, &out->pool);
    if (err != NEF_OK)
        return nef_complain(o->command, "can't start threads: %s", nef_err_text(err));
    err = nef_model_load(
        &(struct nef_model_options){
            .source = o->model, .cache = o->cache_file, .kernels = out->kernels, .pool = out->pool},
        why, &out->model);
    if (err != NEF_OK)
        return refuse_model(o, why, err);
    if (o->kv_type == NULL)
        out->kv_type = nef_model_kv_default(out->model);
    name_model(o, out);
    out->load_ms = nef_now_ms() - start;
    return 0;
}

/* By the file's template; a file without any is taken for what its architecture's published models are, if it has their
 * tokens. */
static enum nef_chat_family family_of(const struct nef_infer_setup *s)
{
    const struct nef_gguf *file = nef_model_metadata(s->model);
    struct nef_gguf_string text;

    if (nef_gguf_text(file, "tokenizer.chat_template", &text) != NEF_E_NOT_FOUND)
        return nef_chat_family_of(file);
    if (nef_token_find(s->tokenizer, "<|im_start|>") == NEF_NO_TOKEN)
        return NEF_CHAT_UNKNOWN;
    return nef_model_config(s->model)->arch == NEF_ARCH_QWEN3 ? NEF_CHAT_QWEN3 : NEF_CHAT_QWEN2_5;
}

static uint64_t memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kilobytes = 0;
    char line[128];

    if (file == NULL)
        return UINT64_MAX;
    while (fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    (void)fclose(file);
    return kilobytes == 0 ? UINT64_MAX : kilobytes * 1024;
}

int nef_infer_engine(const struct nef_infer_options *o, struct nef_infer_setup *s)
{
    const struct nef_model_config *config = nef_model_config(s->model);
    uint64_t position = nef_kv_position_bytes(config, s->kv_type);
    uint64_t room = memory_available() / 2, whole;
    char why[NEF_GGUF_ERROR_MAX] = "";
    nef_err err;

    err = nef_tokenizer_open(nef_model_metadata(s->model), why, &s->tokenizer);
    if (err != NEF_OK)
        return refuse_model(o, why, err);
    if (nef_tokenizer_vocab(s->tokenizer) > config->vocab)
        return nef_complain(o->command, "%s: tokenizer.ggml.tokens: more tokens than the model's %u", o->model,
                            config->vocab);
    s->family = family_of(s);
    s->slots = o->slots != 0 ? o->slots : SLOTS_PRESET;
    s->context = o->context;
    if (s->context == 0) { /* the trained one, if half of the free memory holds a sequence of that length */
        s->context = config->context;
        if (s->context > room / position)
            s->context = (uint32_t)(room / position / NEF_KV_TILE * NEF_KV_TILE);
        if (s->context < 2)
            return nef_complain(o->command,
                                "there is too little memory for a KV cache; say how long it may be: --ctx N");
    }
    /* Pages are touched on demand. All slots may be full at once only where memory allows it; else the engine lets some
     * wait. */
    whole = position * (((uint64_t)s->context + NEF_KV_TILE - 1) / NEF_KV_TILE * NEF_KV_TILE);
    err = nef_engine_start(&(struct nef_engine_options){
                               .model = s->model,
                               .slots = s->slots,
                               .context = s->context,
                               .kv_type = s->kv_type,
                               .kv_bytes = whole * s->slots <= room ? 0 : whole > room ? whole : room,
                               .vocab_used = nef_tokenizer_vocab(s->tokenizer),
                               .waiting_max = o->waiting_max,
                               .tenant_waiting_max = o->tenant_waiting_max,
                           },
                           &s->engine);
    if (err != NEF_OK)
        return nef_complain(o->command, "can't start the engine with --ctx %u and --slots %u: %s", s->context, s->slots,
                            nef_err_text(err));
    return 0;
}

int nef_infer_pooling(const struct nef_infer_options *o, struct nef_infer_setup *s)
{
    static const char *const names[] = {"none", "mean", "cls", "last"}; /* as enum nef_pooling, and as GGUF */
    const struct nef_gguf *file = nef_model_metadata(s->model);
    uint64_t told = NEF_POOLING_NONE, end = 0;
    bool says, add_end = false;
    char key[32];

    (void)snprintf(key, sizeof(key), "%s.pooling_type",
                   nef_model_config(s->model)->arch == NEF_ARCH_QWEN3 ? "qwen3" : "qwen2");
    says = nef_gguf_u64(file, key, &told) == NEF_OK;
    s->pooling = says && told < NEF_COUNT(names) ? (enum nef_pooling)told : NEF_POOLING_NONE;
    if (o->pooling != NULL) {
        uint64_t asked = NEF_POOLING_MEAN;

        while (asked < NEF_COUNT(names) && strcmp(o->pooling, names[asked]) != 0)
            asked++;
        if (asked == NEF_COUNT(names)) {
            (void)nef_complain(o->command, "--pooling must be mean, cls or last, not '%s'", o->pooling);
            return 2;
        }
        if (says && asked != told) {
            (void)nef_complain(o->command, "--pooling is for files that don't say it; %s of this one is %s", key,
                               told < NEF_COUNT(names) ? names[told] : "of another kind");
            return 2;
        }
        s->pooling = (enum nef_pooling)asked;
    }
    /* Models for embeddings were trained with an end token after each text, and their files say so. */
    s->embedding_end = NEF_NO_TOKEN;
    if (nef_gguf_bool(file, "tokenizer.ggml.add_eos_token", &add_end) == NEF_OK && add_end &&
        nef_gguf_u64(file, "tokenizer.ggml.eos_token_id", &end) == NEF_OK && end < nef_tokenizer_vocab(s->tokenizer))
        s->embedding_end = (uint32_t)end;
    return 0;
}

void nef_infer_done(struct nef_infer_setup *s)
{
    if (s->engine != NULL)
        nef_engine_stop(s->engine);
    nef_tokenizer_close(s->tokenizer);
    if (s->model != NULL)
        nef_model_free(s->model);
    if (s->pool != NULL)
        nef_pool_stop(s->pool);
    *s = (struct nef_infer_setup){.engine = NULL};
}
