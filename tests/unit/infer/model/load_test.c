/* Loading: paths, descriptors, sealed memfds and splits give the same model; wrong tensors are named; the cache file of
 * packed weights is used when it is this model's, and refused when anything is wrong with it. */
#include "fixture.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/assert.h"
#include "base/trace.h"

static char directory[64];
static char trace_path[96];

static int set_up(void **state)
{
    int fd;

    (void)state;
    (void)snprintf(directory, sizeof(directory), "/tmp/nef-load-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(trace_path, sizeof(trace_path), "%s/trace", directory);
    fd = open(trace_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    nef_trace_setup(fd, "load_test", NEF_TRACE_INFO);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    (void)snprintf(command, sizeof(command), "rm -r %s", directory);
    return system(command);
}

/* What the trace holds since the last call. */
static bool traced(const char *text)
{
    static char all[65536];
    FILE *file = fopen(trace_path, "rb");
    size_t n = fread(all, 1, sizeof(all) - 1, file);

    (void)fclose(file);
    assert_int_equal(truncate(trace_path, 0), 0);
    all[n] = 0;
    return strstr(all, text) != NULL;
}

static void copy_file(const char *source, const char *target)
{
    FILE *in = fopen(source, "rb"), *out = fopen(target, "wb");
    char buffer[65536];
    size_t n;

    assert_non_null(in);
    assert_non_null(out);
    while ((n = fread(buffer, 1, sizeof(buffer), in)) > 0)
        assert_int_equal(fwrite(buffer, 1, n, out), n);
    assert_int_equal(fclose(in), 0);
    assert_int_equal(fclose(out), 0);
}

/* Overwrite BYTES bytes OFFSET beyond the first place of TEXT in the file (TEXT NULL: the file's start; then < 0: its
 * end). */
static void patch(const char *path, const char *text, long offset, const void *bytes, size_t count)
{
    int fd = open(path, O_RDWR);
    struct stat st;
    uint8_t *data;

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    data = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(data, MAP_FAILED);
    if (text != NULL) {
        uint8_t *at = memmem(data, (size_t)st.st_size, text, strlen(text));

        assert_non_null(at);
        offset += at - data;
    } else if (offset < 0) {
        offset += st.st_size;
    }
    memcpy(data + offset, bytes, count);
    assert_int_equal(munmap(data, (size_t)st.st_size), 0);
    assert_int_equal(close(fd), 0);
}

static float *some_logits(const char *source, const char *cache_path, uint32_t *out_vocab)
{
    static const uint32_t tokens[] = {5, 7, 11, 250, 3};
    struct nef_kv_cache *cache;
    struct fixture f;
    float *logits;

    fixture_open_with(&f, source, cache_path, NULL, 2);
    cache = cache_open(&f, NEF_KV_F32, 2);
    logits = logits_of(&f, cache, tokens, NEF_COUNT(tokens), 0);
    *out_vocab = f.vocab;
    nef_kv_close(cache);
    fixture_close(&f);
    return logits;
}

static void assert_same_model(const char *a, const char *a_cache, const char *b, const char *b_cache, bool same)
{
    uint32_t vocab_a, vocab_b;
    float *x = some_logits(a, a_cache, &vocab_a), *y = some_logits(b, b_cache, &vocab_b);

    assert_int_equal(vocab_a, vocab_b);
    assert_int_equal(memcmp(x, y, vocab_a * sizeof(float)) == 0, same);
    free(x);
    free(y);
}

static void assert_refused(const char *source, nef_err expected, const char *names)
{
    const struct nef_kernels *set = nef_kernels_get("scalar");
    char error[NEF_GGUF_ERROR_MAX] = "";
    struct nef_model *model;
    struct nef_pool *pool;
    nef_err err;

    assert_int_equal(nef_kernels_thread_enter(set), NEF_OK);
    assert_int_equal(nef_pool_start(1, 0, set, &pool), NEF_OK);
    err = nef_model_load(&(struct nef_model_options){.source = source, .kernels = set, .pool = pool}, error, &model);
    if (err != expected || strstr(error, names) == NULL)
        print_error("%s: \"%s\" (%s) should name %s (%s)\n", source, error, nef_err_name(err), names,
                    nef_err_name(expected));
    assert_int_equal(err, expected);
    assert_non_null(strstr(error, names));
    nef_pool_stop(pool);
}

static void descriptors_and_sealed_memory(void **state)
{
    char path[512], source[32], buffer[4096];
    int fd, memory;
    ssize_t n;

    (void)state;
    fixture_path("qwen3-nano-Q8_0", ".gguf", path);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    (void)snprintf(source, sizeof(source), "fd:%d", fd);
    assert_same_model(path, NULL, source, NULL, true);
    memory = memfd_create("model", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(memory >= 0);
    while ((n = read(fd, buffer, sizeof(buffer))) > 0)
        assert_int_equal(write(memory, buffer, (size_t)n), n);
    assert_int_equal(fcntl(memory, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
    (void)snprintf(source, sizeof(source), "fd:%d", memory);
    assert_same_model(path, NULL, source, NULL, true);
    assert_int_equal(close(memory), 0);
    assert_int_equal(close(fd), 0);
    assert_refused(source, NEF_E_NOT_FOUND, "fd:");
    assert_refused("fd:1x", NEF_E_INVALID, "fd:1x");
    assert_refused("fd:", NEF_E_INVALID, "descriptor");
}

static void split_files(void **state)
{
    char whole[512], first[512], second[512], path[96];

    (void)state;
    fixture_path("qwen3-pico-yarn-q8_0", ".gguf", whole);
    fixture_path("qwen3-pico-yarn-q8_0-00001-of-00003", ".gguf", first);
    fixture_path("qwen3-pico-yarn-q8_0-00002-of-00003", ".gguf", second);
    assert_same_model(whole, NULL, first, NULL, true);
    assert_refused(second, NEF_E_INVALID, "first file");
    (void)snprintf(path, sizeof(path), "%s/m-00001-of-00003.gguf", directory);
    copy_file(first, path);
    assert_refused(path, NEF_E_NOT_FOUND, "-00002-of-00003.gguf");
    (void)snprintf(path, sizeof(path), "%s/alone.gguf", directory);
    copy_file(first, path);
    assert_refused(path, NEF_E_INVALID, "split.count is 3");
    (void)snprintf(path, sizeof(path), "%s/m-00002-of-00003.gguf", directory);
    copy_file(first, path); /* the first one twice */
    (void)snprintf(path, sizeof(path), "%s/m-00003-of-00003.gguf", directory);
    copy_file(first, path);
    (void)snprintf(path, sizeof(path), "%s/m-00001-of-00003.gguf", directory);
    assert_refused(path, NEF_E_INVALID, "split.no is 0 in file 2");
}

static void wrong_tensors_are_named(void **state)
{
    char original[512], path[96];

    (void)state;
    fixture_path("qwen3-nano-f32", ".gguf", original);
    (void)snprintf(path, sizeof(path), "%s/wrong.gguf", directory);
    copy_file(original, path);
    patch(path, "blk.1.attn_q.weight", 11, "z", 1);
    assert_refused(path, NEF_E_INVALID, "tensor blk.1.attn_q.weight is missing");
    copy_file(original, path);
    patch(path, "blk.1.ffn_gate.weight", 21 + 4 + 8, &(uint64_t){128}, 8); /* n: half of it */
    assert_refused(path, NEF_E_INVALID, "tensor blk.1.ffn_gate.weight is 128 x 128");
    copy_file(original, path);
    patch(path, "qwen3.feed_forward_length", 25 + 4, &(uint32_t){160}, 4);
    assert_refused(path, NEF_E_INVALID, "ffn_");
    copy_file(original, path);
    patch(path, "qwen3.block_count", 17 + 4, &(uint32_t){1}, 4); /* the second layer belongs to nobody */
    assert_refused(path, NEF_E_UNSUPPORTED, "tensor blk.1.");
    copy_file(original, path);
    patch(path, "qwen3.attention.head_count_kv", 29 + 4, &(uint32_t){4}, 4);
    assert_refused(path, NEF_E_INVALID, "attn_k.weight");
    assert_refused("/nowhere/model.gguf", NEF_E_NOT_FOUND, "/nowhere/model.gguf");
    assert_refused(directory, NEF_E_INVALID, "plain file");
    copy_file("/dev/null", path);
    assert_refused(path, NEF_E_INVALID, "plain file");
}

/* ---- the cache of packed weights ---- */

static void age(const char *path) /* until its times are old enough to be relied upon */
{
    const struct timespec pause = {2, 100000000};

    (void)path;
    (void)nanosleep(&pause, NULL);
}

static void packed_weights_are_kept_and_used(void **state)
{
    char original[512], model[96], cache[96];
    struct stat before, after;

    (void)state;
    fixture_path("qwen3-nano-Q8_0", ".gguf", original);
    (void)snprintf(model, sizeof(model), "%s/model.gguf", directory);
    (void)snprintf(cache, sizeof(cache), "%s/model.packed", directory);
    copy_file(original, model);
    age(model);
    (void)traced("");
    assert_same_model(original, NULL, model, cache, true);
    assert_true(traced("packed_weights_written"));
    assert_int_equal(stat(cache, &before), 0);
    assert_int_equal(before.st_mode & 0777, 0600);
    assert_same_model(original, NULL, model, cache, true);
    assert_false(traced("packed_weights"));
    assert_int_equal(stat(cache, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    /* It is read, not packed anew: a change behind a right checksum shows. Here only the wrong one does. */
    patch(cache, NULL, -5000, "\x55\x55\x55\x55", 4);
    assert_same_model(original, NULL, model, cache, true);
    assert_true(traced("a checksum of the weights is wrong"));
    assert_int_equal(stat(cache, &after), 0);
    assert_int_not_equal(before.st_ino, after.st_ino); /* written anew */
    assert_same_model(original, NULL, model, cache, true);
    assert_false(traced("packed_weights"));
}

/* Same size, same metadata, other weights: the case that header and size can't tell apart. */
static void another_models_cache_is_refused(void **state)
{
    char original[512], model[96], other[96], cache[96];

    (void)state;
    fixture_path("qwen3-nano-Q8_0", ".gguf", original);
    (void)snprintf(model, sizeof(model), "%s/model.gguf", directory);
    (void)snprintf(other, sizeof(other), "%s/other.gguf", directory);
    (void)snprintf(cache, sizeof(cache), "%s/shared.packed", directory);
    copy_file(original, model);
    copy_file(original, other);
    patch(other, NULL, -300000, "\x11\x22\x33\x44\x55", 5);
    assert_same_model(model, cache, other, NULL, false);
    (void)traced("");
    assert_same_model(other, cache, other, NULL, true);
    assert_true(traced("made for another model"));
    assert_same_model(model, cache, model, NULL, true);
    assert_true(traced("made for another model"));
    /* Changed in place: its times tell, and then its contents. */
    age(model);
    assert_same_model(model, cache, model, NULL, true);
    patch(model, NULL, -300000, "\x11\x22\x33\x44\x55", 5);
    (void)traced("");
    assert_same_model(model, cache, other, NULL, true);
    assert_true(traced("made for another model"));
    /* Copied: other times, same contents. */
    copy_file(model, other);
    assert_same_model(other, cache, model, NULL, true);
    assert_false(traced("packed_weights_refused"));
    /* Another type of the same shape. */
    fixture_path("qwen3-nano-Q4_0", ".gguf", original);
    assert_same_model(original, cache, original, NULL, true);
    assert_true(traced("made for another model"));
}

static void damaged_caches_are_written_anew(void **state)
{
    static const long places[] = {0, 8, 12, 16, 24, 64, 100, 128, 200, 4092, 4096, 4098, 8200};
    char original[512], cache[96];

    (void)state;
    fixture_path("qwen2-pico-q5_0", ".gguf", original);
    (void)snprintf(cache, sizeof(cache), "%s/damaged.packed", directory);
    assert_same_model(original, cache, original, NULL, true);
    for (size_t i = 0; i < NEF_COUNT(places); i++) {
        (void)traced("");
        patch(cache, NULL, places[i], "\xfe", 1);
        assert_same_model(original, cache, original, NULL, true);
        assert_true(traced("packed_weights_refused"));
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(truncate(cache, i == 0 ? 0 : i == 1 ? 4000 : 20000), 0);
        assert_same_model(original, cache, original, NULL, true);
        assert_true(traced("packed_weights_refused"));
    }
    assert_int_equal(unlink(cache), 0);
    assert_int_equal(mkdir(cache, 0700), 0); /* can't be read, nor replaced: the model is loaded all the same */
    assert_same_model(original, cache, original, NULL, true);
    assert_true(traced("packed_weights_not_written"));
    assert_same_model(original, "/nowhere/model.packed", original, NULL, true);
    assert_true(traced("packed_weights_not_written"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_and_sealed_memory),    cmocka_unit_test(split_files),
        cmocka_unit_test(wrong_tensors_are_named),          cmocka_unit_test(packed_weights_are_kept_and_used),
        cmocka_unit_test(another_models_cache_is_refused),  cmocka_unit_test(damaged_caches_are_written_anew),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
