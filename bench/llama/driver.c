/* llama.cpp as the peer of `nef infer` in benchmarks: quantizes, measures, prints logits.
 *
 *   driver quantize SOURCE TARGET TYPE [--threads N]
 *   driver bench    MODEL [--threads N] [--prefill N[,N...]] [--decode N] [--depth N[,N...]] [--repeat N]
 *   driver streams  MODEL [--threads N] [--streams N] [--shared N] [--prompt N] [--decode N]
 *   driver logits   MODEL [--threads N] --out FILE --tokens 1,2,3 [--tokens ...] [--all]
 *   driver info                 what the library chose for this processor
 *   bench, streams, logits: [--kv f16|f32|bf16|q8_0] [--flash auto|on|off] [--ubatch N]
 *
 * One JSON object a line on stdout. Speeds are tokens a second: the best of the repeats, with all of them beside it,
 * because on a shared machine the best is the least disturbed. Each test runs once before it is measured. Settings are
 * llama.cpp's defaults (repacked weights, F16 cache, flash attention where it chooses so), as llama-bench measures.
 * Tokens are pseudo-random; nothing is sampled.
 *
 * The library comes from node_modules beside this program's source: NEF_LLAMA_DIR, or the directory compiled in. */
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama_abi.h"

#define REPEAT_MAX 64
#define LIST_MAX   16
#define CASES_MAX  64

static struct llama_api api;

_Noreturn static void __attribute__((format(printf, 1, 2))) die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("driver: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *allocate(size_t count, size_t bytes)
{
    void *p = calloc(count, bytes);

    if (p == NULL)
        die("out of memory");
    return p;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the library ---- */

static void *symbol(void *library, const char *name)
{
    void *p = dlsym(library, name);

    if (p == NULL)
        die("the library has no %s", name);
    return p;
}

static void on_log(int level, const char *text, void *context)
{
    (void)context;
    if (level == GGML_LOG_LEVEL_ERROR || getenv("NEF_LLAMA_LOG") != NULL)
        fputs(text, stderr);
}

/* What the defaults write ends where our struct ends, or the layout isn't ours: a function that returns a struct in
 * memory writes where the first argument points. */
static void check_extent(void *library, const char *name, size_t written, size_t bytes)
{
    union {
        void *pointer;
        void (*call)(void *);
    } defaults = {symbol(library, name)};
    unsigned char a[1024], b[1024];
    size_t end = 0;

    memset(a, 0xaa, sizeof(a));
    memset(b, 0x55, sizeof(b));
    defaults.call(a);
    defaults.call(b);
    for (size_t i = 0; i < sizeof(a); i++) {
        if (a[i] == b[i])
            end = i + 1;
    }
    if (end != written || end > bytes)
        die("%s writes %zu bytes, not %zu: llama_abi.h is of another version", name, end, written);
}

static void load_library(void)
{
    const char *directory = getenv("NEF_LLAMA_DIR");
    char path[PATH_MAX];
    void *llama, *ggml;

    if (directory == NULL)
        directory = LLAMA_DIR;
    (void)snprintf(path, sizeof(path), "%s/libllama.v0.5.0.so", directory);
    llama = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (llama == NULL)
        die("%s", dlerror());
    (void)snprintf(path, sizeof(path), "%s/libggml.v0.5.0.so", directory);
    ggml = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (ggml == NULL)
        die("%s", dlerror());
#define SYMBOL(name) *(void **)&api.name = symbol(llama, "llama_" #name)
    SYMBOL(version);
    SYMBOL(backend_init);
    SYMBOL(log_set);
    SYMBOL(model_default_params);
    SYMBOL(context_default_params);
    SYMBOL(model_quantize_default_params);
    SYMBOL(model_load_from_file);
    SYMBOL(model_free);
    SYMBOL(init_from_model);
    SYMBOL(free);
    SYMBOL(model_get_vocab);
    SYMBOL(vocab_n_tokens);
    SYMBOL(get_memory);
    SYMBOL(memory_clear);
    SYMBOL(memory_seq_rm);
    SYMBOL(memory_seq_cp);
    SYMBOL(decode);
    SYMBOL(synchronize);
    SYMBOL(get_logits_ith);
    SYMBOL(model_quantize);
    SYMBOL(print_system_info);
#undef SYMBOL
    *(void **)&api.load_backends = symbol(ggml, "ggml_backend_load_all_from_path");
    if (strcmp(api.version(), LLAMA_VERSION) != 0)
        die("llama.cpp is version %s, llama_abi.h describes %s", api.version(), LLAMA_VERSION);
    check_extent(llama, "llama_model_default_params", offsetof(struct llama_model_params, load_mtp) + 1,
                 sizeof(struct llama_model_params));
    check_extent(llama, "llama_context_default_params", sizeof(struct llama_context_params),
                 sizeof(struct llama_context_params));
    check_extent(llama, "llama_model_quantize_default_params", sizeof(struct llama_quantize_params),
                 sizeof(struct llama_quantize_params));
    api.log_set(on_log, NULL);
    api.load_backends(directory);
    api.backend_init();
}

/* ---- options ---- */

struct options {
    const char *command, *model, *target, *type, *out;
    int threads, repeat, decode, streams, shared, prompt, ubatch, flash, kv;
    int prefill[LIST_MAX], prefill_count, depth[LIST_MAX], depth_count;
    const char *cases[CASES_MAX];
    int case_count;
    bool all;
};

static int number(const char *text, int min, int max)
{
    char *end;
    long v = strtol(text, &end, 10);

    if (end == text || *end != '\0' || v < min || v > max)
        die("'%s' is no number from %d to %d", text, min, max);
    return (int)v;
}

/* "1,2,3" into OUT, at most MAX; returns how many. */
static int list(const char *text, int *out, int max, int limit)
{
    char *copy = strdup(text), *rest = copy, *item;
    int count = 0;

    if (copy == NULL)
        die("out of memory");
    while ((item = strsep(&rest, ",")) != NULL) {
        if (count == max)
            die("'%s' has more than %d numbers", text, max);
        out[count++] = number(item, 0, limit);
    }
    free(copy);
    return count;
}

static int choice(const char *text, const char *const *names, const int *values)
{
    for (size_t i = 0; names[i] != NULL; i++) {
        if (strcasecmp(text, names[i]) == 0)
            return values[i];
    }
    die("'%s' isn't known", text);
}

static struct options parse_options(int argc, char **argv)
{
    static const char *const kv_names[] = {"f32", "f16", "bf16", "q8_0", NULL};
    static const int kv_values[] = {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0};
    static const char *const flash_names[] = {"auto", "on", "off", NULL};
    static const int flash_values[] = {LLAMA_FLASH_ATTN_AUTO, LLAMA_FLASH_ATTN_ON, LLAMA_FLASH_ATTN_OFF};
    struct options o = {.threads = 2, .repeat = 3, .decode = 128, .streams = 32, .prompt = 128, .ubatch = 512,
                        .flash = LLAMA_FLASH_ATTN_AUTO, .kv = GGML_TYPE_F16};
    const char *places[4] = {0};
    int place_count = 0;

    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value;

        if (strncmp(name, "--", 2) != 0) {
            if (place_count == 4)
                die("too many arguments");
            places[place_count++] = name;
            continue;
        }
        if (strcmp(name, "--all") == 0) {
            o.all = true;
            continue;
        }
        if (++i == argc)
            die("%s needs a value", name);
        value = argv[i];
        if (strcmp(name, "--threads") == 0)
            o.threads = number(value, 1, 512);
        else if (strcmp(name, "--repeat") == 0)
            o.repeat = number(value, 1, REPEAT_MAX);
        else if (strcmp(name, "--decode") == 0)
            o.decode = number(value, 0, 1 << 16);
        else if (strcmp(name, "--streams") == 0)
            o.streams = number(value, 1, 256);
        else if (strcmp(name, "--shared") == 0)
            o.shared = number(value, 0, 1 << 16);
        else if (strcmp(name, "--prompt") == 0)
            o.prompt = number(value, 1, 1 << 16);
        else if (strcmp(name, "--ubatch") == 0)
            o.ubatch = number(value, 1, 1 << 16);
        else if (strcmp(name, "--prefill") == 0)
            o.prefill_count = list(value, o.prefill, LIST_MAX, 1 << 20);
        else if (strcmp(name, "--depth") == 0)
            o.depth_count = list(value, o.depth, LIST_MAX, 1 << 20);
        else if (strcmp(name, "--kv") == 0)
            o.kv = choice(value, kv_names, kv_values);
        else if (strcmp(name, "--flash") == 0)
            o.flash = choice(value, flash_names, flash_values);
        else if (strcmp(name, "--out") == 0)
            o.out = value;
        else if (strcmp(name, "--tokens") == 0 && o.case_count < CASES_MAX)
            o.cases[o.case_count++] = value;
        else
            die("%s isn't known", name);
    }
    if (place_count < 1 || (place_count < 2 && strcmp(places[0], "info") != 0))
        die("usage: driver quantize|bench|streams|logits|info MODEL ... (the head of driver.c tells)");
    o.command = places[0];
    o.model = places[1];
    o.target = places[2];
    o.type = places[3];
    return o;
}

/* ---- a model and a context ---- */

struct session {
    struct llama_model *model;
    struct llama_context *context;
    struct llama_memory *memory;
    int vocab;
    double load_s;
    uint64_t random;
};

static struct session open_session(const struct options *o, int context, int sequences)
{
    struct llama_model_params mp = api.model_default_params();
    struct llama_context_params cp = api.context_default_params();
    struct session s = {.random = 1};
    double start = now();

    mp.n_gpu_layers = 0;
    mp.load_mode = LLAMA_LOAD_MODE_MMAP;
    s.model = api.model_load_from_file(o->model, mp);
    if (s.model == NULL)
        die("%s doesn't load", o->model);
    cp.n_ctx = (uint32_t)context;
    cp.n_batch = 2048;
    cp.n_ubatch = (uint32_t)o->ubatch;
    cp.n_seq_max = (uint32_t)sequences;
    cp.n_threads = o->threads;
    cp.n_threads_batch = o->threads;
    cp.flash_attn_type = o->flash;
    cp.type_k = o->kv;
    cp.type_v = o->kv;
    s.context = api.init_from_model(s.model, cp);
    if (s.context == NULL)
        die("%s: no context of %d tokens", o->model, context);
    s.memory = api.get_memory(s.context);
    s.vocab = api.vocab_n_tokens(api.model_get_vocab(s.model));
    s.load_s = now() - start;
    return s;
}

static void close_session(struct session *s)
{
    api.free(s->context);
    api.model_free(s->model);
}

/* xorshift64*: any tokens do, the same in each run. */
static int32_t random_token(struct session *s)
{
    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    return (int32_t)((s->random * 0x2545f4914f6cdd1dull >> 33) % (uint64_t)s->vocab);
}

static struct llama_batch make_batch(int rows)
{
    struct llama_batch b = {
        .token = allocate((size_t)rows, sizeof(int32_t)),
        .pos = allocate((size_t)rows, sizeof(int32_t)),
        .n_seq_id = allocate((size_t)rows, sizeof(int32_t)),
        .seq_id = allocate((size_t)rows, sizeof(int32_t *)),
        .logits = allocate((size_t)rows, 1),
    };
    int32_t *ids = allocate((size_t)rows, sizeof(int32_t));

    for (int i = 0; i < rows; i++) {
        b.n_seq_id[i] = 1;
        b.seq_id[i] = ids + i;
    }
    return b;
}

static void free_batch(struct llama_batch *b)
{
    free(b->seq_id[0]);
    free(b->token);
    free(b->pos);
    free(b->n_seq_id);
    free(b->seq_id);
    free(b->logits);
}

static void add_row(struct llama_batch *b, int32_t token, int32_t position, int32_t sequence, bool logits)
{
    int row = b->n_tokens++;

    b->token[row] = token;
    b->pos[row] = position;
    b->seq_id[row][0] = sequence;
    b->logits[row] = logits;
}

static void decode(struct session *s, struct llama_batch *b)
{
    int32_t status = api.decode(s->context, *b);

    if (status != 0)
        die("llama_decode: %d", status);
    b->n_tokens = 0;
}

/* Random tokens at [from, from + count) of sequence 0, logits of the last. */
static void prefill(struct session *s, struct llama_batch *b, int from, int count)
{
    for (int i = 0; i < count; i++) {
        add_row(b, random_token(s), from + i, 0, i + 1 == count);
        if (b->n_tokens == 2048 || i + 1 == count)
            decode(s, b);
    }
    api.synchronize(s->context);
}

static void print_result(const struct options *o, const char *test, int depth, int tokens, const double *seconds)
{
    double best = seconds[0];

    for (int i = 1; i < o->repeat; i++)
        best = seconds[i] < best ? seconds[i] : best;
    printf("{\"engine\": \"llama.cpp\", \"version\": \"%s\", \"model\": \"%s\", \"threads\": %d, \"test\": \"%s\", "
           "\"depth\": %d, \"tokens\": %d, \"tokens_per_s\": %.2f, \"runs\": [",
           api.version(), o->model, o->threads, test, depth, tokens, tokens / best);
    for (int i = 0; i < o->repeat; i++)
        printf("%s%.2f", i > 0 ? ", " : "", tokens / seconds[i]);
    printf("]}\n");
    (void)fflush(stdout);
}

/* ---- commands ---- */

static void run_quantize(const struct options *o)
{
    static const char *const names[] = {"f32", "f16", "q4_0", "q8_0", "q5_0", "q4_k_m", "q5_k_m", "q6_k", "bf16", NULL};
    static const int values[] = {0, 1, 2, 7, 8, 15, 17, 18, 32};
    struct llama_quantize_params p = api.model_quantize_default_params();
    double start = now();

    if (o->target == NULL || o->type == NULL)
        die("usage: driver quantize SOURCE TARGET TYPE");
    p.nthread = o->threads;
    p.ftype = choice(o->type, names, values);
    p.allow_requantize = true;
    if (api.model_quantize(o->model, o->target, &p) != 0)
        die("%s can't be quantized", o->model);
    printf("{\"engine\": \"llama.cpp\", \"quantized\": \"%s\", \"type\": \"%s\", \"seconds\": %.1f}\n", o->target,
           o->type, now() - start);
}

static void run_bench(const struct options *o)
{
    int longest = 0, context;
    double seconds[REPEAT_MAX], start;
    struct llama_batch b;
    struct session s;

    for (int i = 0; i < o->prefill_count; i++)
        longest = o->prefill[i] > longest ? o->prefill[i] : longest;
    context = longest;
    for (int i = 0; i < o->depth_count; i++)
        context = o->depth[i] + o->decode > context ? o->depth[i] + o->decode : context;
    s = open_session(o, context + 8, 1);
    b = make_batch(2048);
    start = now();
    prefill(&s, &b, 0, 1);
    printf("{\"engine\": \"llama.cpp\", \"version\": \"%s\", \"model\": \"%s\", \"threads\": %d, \"test\": \"load\", "
           "\"load_s\": %.3f, \"first_token_s\": %.3f}\n",
           api.version(), o->model, o->threads, s.load_s, s.load_s + now() - start);
    (void)fflush(stdout); /* its moment is what counts */
    for (int i = 0; i < o->prefill_count; i++) {
        for (int run = -1; run < o->repeat; run++) { /* run -1 warms up */
            api.memory_clear(s.memory, true);
            start = now();
            prefill(&s, &b, 0, o->prefill[i]);
            seconds[run < 0 ? 0 : run] = now() - start;
        }
        print_result(o, "prefill", 0, o->prefill[i], seconds);
    }
    for (int i = 0; i < o->depth_count && o->decode > 0; i++) {
        api.memory_clear(s.memory, true);
        if (o->depth[i] > 0)
            prefill(&s, &b, 0, o->depth[i]);
        for (int run = -1; run < o->repeat; run++) {
            int count = run < 0 ? (o->decode + 7) / 8 : o->decode;

            if (!api.memory_seq_rm(s.memory, 0, o->depth[i], -1))
                die("the cache can't be cut");
            start = now();
            for (int t = 0; t < count; t++)
                prefill(&s, &b, o->depth[i] + t, 1);
            seconds[run < 0 ? 0 : run] = now() - start;
        }
        print_result(o, "decode", o->depth[i], o->decode, seconds);
    }
    free_batch(&b);
    close_session(&s);
}

static uint64_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long size = 0, resident = 0;

    if (f == NULL || fscanf(f, "%lu %lu", &size, &resident) != 2)
        die("/proc/self/statm can't be read");
    (void)fclose(f);
    return (uint64_t)resident * 4096;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* STREAMS prompts of different tokens that arrive at once, then decode steps with one row of each, as its server's
 * slots do it. SHARED tokens before them are the same for all: computed once and copied, which its server doesn't do
 * by itself, so in its favour. A stream's first token comes with the end of the batch that has its prompt's last. */
static void run_streams(const struct options *o)
{
    int length = o->shared + o->prompt;
    struct session s = open_session(o, o->streams * (length + o->decode + 1), o->streams);
    struct llama_batch b = make_batch(2048);
    double start, shared_s, prompt_s, decode_s, *first = allocate((size_t)o->streams, sizeof(*first));
    int told = 0;

    prefill(&s, &b, 0, 1);
    api.memory_clear(s.memory, true);
    start = now();
    if (o->shared > 0) {
        prefill(&s, &b, 0, o->shared);
        for (int q = 1; q < o->streams; q++)
            api.memory_seq_cp(s.memory, 0, q, -1, -1);
    }
    shared_s = now() - start;
    for (int q = 0; q < o->streams; q++) {
        for (int i = 0; i < o->prompt; i++) {
            add_row(&b, random_token(&s), o->shared + i, q, i + 1 == o->prompt);
            if (b.n_tokens < 2048 && (q + 1 < o->streams || i + 1 < o->prompt))
                continue;
            decode(&s, &b);
            api.synchronize(s.context);
            for (int whole = i + 1 == o->prompt ? q + 1 : q; told < whole; told++)
                first[told] = now() - start;
        }
    }
    prompt_s = now() - start;
    for (int t = 0; t < o->decode; t++) {
        for (int q = 0; q < o->streams; q++)
            add_row(&b, random_token(&s), length + t, q, true);
        decode(&s, &b);
        api.synchronize(s.context);
    }
    decode_s = now() - start - prompt_s;
    qsort(first, (size_t)o->streams, sizeof(*first), compare_doubles);
    printf("{\"engine\": \"llama.cpp\", \"version\": \"%s\", \"model\": \"%s\", \"threads\": %d, \"test\": \"streams\", "
           "\"streams\": %d, \"shared\": %d, \"prompt\": %d, \"decode\": %d, \"shared_s\": %.3f, \"prompt_s\": %.3f, "
           "\"decode_s\": %.3f, \"total_out_per_s\": %.2f, \"first_p50_s\": %.3f, \"first_p99_s\": %.3f, "
           "\"step_ms\": %.2f, \"rss_bytes\": %llu}\n",
           api.version(), o->model, o->threads, o->streams, o->shared, o->prompt, o->decode, shared_s, prompt_s, decode_s,
           o->streams * o->decode / (prompt_s + decode_s), first[(o->streams - 1) / 2],
           first[(o->streams * 99 - 1) / 100], o->decode == 0 ? 0 : 1e3 * decode_s / o->decode,
           (unsigned long long)resident_bytes());
    free(first);
    free_batch(&b);
    close_session(&s);
}

/* The processor's backend is one of several libraries, chosen when they are loaded. */
static int find_backend(struct dl_phdr_info *library, size_t bytes, void *out)
{
    const char *slash = strrchr(library->dlpi_name, '/'), *name = slash == NULL ? library->dlpi_name : slash + 1;

    (void)bytes;
    if (strncmp(name, "libggml-cpu", strlen("libggml-cpu")) == 0)
        (void)snprintf(out, PATH_MAX, "%s", name);
    return 0;
}

static void run_info(void)
{
    char backend[PATH_MAX] = "none";

    (void)dl_iterate_phdr(find_backend, backend);
    printf("{\"engine\": \"llama.cpp\", \"version\": \"%s\", \"backend\": \"%s\", \"system\": \"%s\"}\n", api.version(),
           backend, api.print_system_info());
}

/* Raw little-endian floats: of each case the last position, or with --all every position. */
static void run_logits(const struct options *o)
{
    static int tokens[1 << 16];
    struct session s = open_session(o, 1 << 13, 1);
    struct llama_batch b = make_batch(2048);
    FILE *out;

    if (o->out == NULL || o->case_count == 0)
        die("usage: driver logits MODEL --out FILE --tokens 1,2,3");
    out = fopen(o->out, "wb");
    if (out == NULL)
        die("%s can't be written", o->out);
    for (int c = 0; c < o->case_count; c++) {
        int count = list(o->cases[c], tokens, 2048, s.vocab - 1), rows = 0;

        api.memory_clear(s.memory, true);
        for (int i = 0; i < count; i++)
            add_row(&b, tokens[i], i, 0, o->all || i + 1 == count);
        decode(&s, &b);
        for (int i = 0; i < count; i++) {
            if (!o->all && i + 1 < count)
                continue;
            if (fwrite(api.get_logits_ith(s.context, i), sizeof(float), (size_t)s.vocab, out) != (size_t)s.vocab)
                die("%s can't be written", o->out);
            rows++;
        }
        printf("{\"engine\": \"llama.cpp\", \"version\": \"%s\", \"model\": \"%s\", \"case\": %d, \"rows\": %d, "
               "\"vocab\": %d}\n", api.version(), o->model, c, rows, s.vocab);
    }
    if (fclose(out) != 0)
        die("%s can't be written", o->out);
    free_batch(&b);
    close_session(&s);
}

int main(int argc, char **argv)
{
    struct options o = parse_options(argc, argv);

    load_library();
    if (strcmp(o.command, "quantize") == 0)
        run_quantize(&o);
    else if (strcmp(o.command, "bench") == 0)
        run_bench(&o);
    else if (strcmp(o.command, "streams") == 0)
        run_streams(&o);
    else if (strcmp(o.command, "logits") == 0)
        run_logits(&o);
    else if (strcmp(o.command, "info") == 0)
        run_info();
    else
        die("command '%s' isn't known", o.command);
    return 0;
}
