/* From metadata to a model's shape: every field that is checked is refused by name when it is wrong; rotary tables. The
 * metadata are those of a real (tiny) file with one field changed. */
#include "fixture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/model/rope.h"

struct bytes {
    uint8_t *data;
    size_t count;
};

static struct bytes read_model(const char *name)
{
    struct bytes b = {0};
    char path[512];
    FILE *file;

    fixture_path(name, ".gguf", path);
    file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    b.count = (size_t)ftell(file);
    rewind(file);
    b.data = malloc(b.count);
    assert_int_equal(fread(b.data, 1, b.count, file), b.count);
    (void)fclose(file);
    return b;
}

static uint8_t *find(struct bytes b, const char *text)
{
    uint8_t *at = memmem(b.data, b.count, text, strlen(text));

    assert_non_null(at);
    return at;
}

/* The value of a scalar key: behind its name and 4 bytes of type. */
static void set_u32(struct bytes b, const char *key, uint32_t value)
{
    memcpy(find(b, key) + strlen(key) + 4, &value, sizeof(value));
}

static void set_f32(struct bytes b, const char *key, float value)
{
    memcpy(find(b, key) + strlen(key) + 4, &value, sizeof(value));
}

static nef_err config_of(struct bytes b, char *error, struct nef_model_config *out)
{
    struct nef_gguf *file;
    nef_err err;

    assert_int_equal(nef_gguf_parse(b.data, b.count, error, &file), NEF_OK);
    err = nef_model_config_read(file, error, out);
    nef_gguf_free(file);
    return err;
}

static void assert_refused(struct bytes b, nef_err expected, const char *names)
{
    struct nef_model_config config, before;
    char error[NEF_GGUF_ERROR_MAX] = "";

    memset(&config, 0x5a, sizeof(config));
    before = config;
    assert_int_equal(config_of(b, error, &config), expected);
    if (strstr(error, names) == NULL)
        print_error("\"%s\" doesn't name %s\n", error, names != NULL ? names : "anything");
    assert_non_null(strstr(error, names));
    assert_memory_equal(&config, &before, sizeof(config));
    free(b.data);
}

static void reads_both_architectures(void **state)
{
    struct bytes b = read_model("qwen3-nano-f32");
    char error[NEF_GGUF_ERROR_MAX];
    struct nef_model_config c;

    (void)state;
    assert_int_equal(config_of(b, error, &c), NEF_OK);
    assert_int_equal(c.arch, NEF_ARCH_QWEN3);
    assert_int_equal(c.layers, 2);
    assert_int_equal(c.embedding, 128);
    assert_int_equal(c.ffn, 256);
    assert_int_equal(c.heads, 4);
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.vocab, 2048);
    assert_int_equal(c.context, 1024);
    assert_true(c.tied);
    assert_true(c.rope_base == 1e6);
    assert_int_equal(c.rope_scaling, NEF_ROPE_NONE);
    free(b.data);
    b = read_model("qwen2-pico-q5_0");
    assert_int_equal(config_of(b, error, &c), NEF_OK);
    assert_int_equal(c.arch, NEF_ARCH_QWEN2);
    assert_false(c.tied);
    free(b.data);
    b = read_model("qwen3-pico-yarn-q8_0");
    assert_int_equal(config_of(b, error, &c), NEF_OK);
    assert_int_equal(c.rope_scaling, NEF_ROPE_YARN);
    assert_true(c.rope_factor == 4.0);
    assert_int_equal(c.rope_original_context, 32);
    free(b.data);
}

static void refuses_by_name(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        nef_err expected;
    } wrong[] = {
        {"qwen3.block_count", 0, NEF_E_INVALID},
        {"qwen3.block_count", 1u << 20, NEF_E_INVALID},
        {"qwen3.context_length", 0, NEF_E_INVALID},
        {"qwen3.embedding_length", 100, NEF_E_INVALID},
        {"qwen3.embedding_length", UINT32_MAX, NEF_E_INVALID},
        {"qwen3.feed_forward_length", 257, NEF_E_INVALID},
        {"qwen3.attention.head_count_kv", 3, NEF_E_INVALID},
        {"qwen3.attention.head_count_kv", 0, NEF_E_INVALID},
        {"qwen3.attention.key_length", 48, NEF_E_UNSUPPORTED},
        {"qwen3.attention.key_length", 512, NEF_E_INVALID},
        {"qwen3.attention.value_length", 64, NEF_E_UNSUPPORTED},
    };
    struct bytes b;

    (void)state;
    for (size_t i = 0; i < NEF_COUNT(wrong); i++) {
        b = read_model("qwen3-nano-f32");
        set_u32(b, wrong[i].key, wrong[i].value);
        assert_refused(b, wrong[i].expected, wrong[i].key);
    }
    b = read_model("qwen3-nano-f32");
    set_f32(b, "qwen3.rope.freq_base", NAN);
    assert_refused(b, NEF_E_INVALID, "qwen3.rope.freq_base");
    b = read_model("qwen3-nano-f32");
    set_f32(b, "qwen3.attention.layer_norm_rms_epsilon", -1.0f);
    assert_refused(b, NEF_E_INVALID, "qwen3.attention.layer_norm_rms_epsilon");
    b = read_model("qwen3-nano-f32");
    find(b, "qwen3.block_count")[6] = 'x';
    assert_refused(b, NEF_E_INVALID, "qwen3.block_count is missing");
    b = read_model("qwen3-nano-f32");
    memcpy(find(b, "general.architecture") + 20 + 4 + 8, "llama", 5);
    assert_refused(b, NEF_E_UNSUPPORTED, "llama");
    b = read_model("qwen3-pico-yarn-q8_0");
    memcpy(find(b, "yarn"), "dynm", 4); /* wherever it is first: the name, or the type of scaling */
    memcpy(find(b, "rope.scaling.type") + 17 + 4 + 8, "dynm", 4);
    assert_refused(b, NEF_E_UNSUPPORTED, "rope.scaling.type is dynm");
}

static void rotary_tables(void **state)
{
    struct nef_model_config c = {.head_dim = 128, .rope_base = 1e6, .rope_factor = 1, .rope_attn_factor = 1};
    float cosines[64], sines[64];
    struct nef_rope rope;

    (void)state;
    nef_rope_init(&c, &rope);
    for (uint32_t position = 0; position < 40000; position += 997) {
        nef_rope_fill(&rope, position, cosines, sines);
        for (uint32_t i = 0; i < 64; i++) {
            double angle = position * pow(1e6, -2.0 * i / 128);

            assert_true(fabs(cosines[i] - cos(angle)) < 1e-7);
            assert_true(fabs(sines[i] - sin(angle)) < 1e-7);
        }
    }
    c.rope_scaling = NEF_ROPE_LINEAR;
    c.rope_factor = 4;
    nef_rope_init(&c, &rope);
    nef_rope_fill(&rope, 1000, cosines, sines);
    for (uint32_t i = 0; i < 64; i++)
        assert_true(fabs(cosines[i] - cos(250 * pow(1e6, -2.0 * i / 128))) < 1e-7);
}

/* Qwen2.5's YaRN (factor 4 over 32,768): Peng et al., equations as in llama.cpp's rope_yarn, by libm. */
static void yarn_tables(void **state)
{
    struct nef_model_config c = {.head_dim = 128,
                                 .rope_base = 1e6,
                                 .rope_factor = 4,
                                 .rope_attn_factor = 1,
                                 .yarn_ext_factor = 1,
                                 .yarn_beta_fast = 32,
                                 .yarn_beta_slow = 1,
                                 .rope_original_context = 32768,
                                 .rope_scaling = NEF_ROPE_YARN};
    double low = floor(128 * log(32768 / (32 * 2 * M_PI)) / (2 * log(1e6)));
    double high = ceil(128 * log(32768 / (1 * 2 * M_PI)) / (2 * log(1e6)));
    float cosines[64], sines[64];
    struct nef_rope rope;

    (void)state;
    assert_true(low > 5 && high < 60 && low < high);
    nef_rope_init(&c, &rope);
    assert_true(fabs(rope.scale - (1 + 0.1 * log(4.0))) < 1e-14);
    nef_rope_fill(&rope, 50000, cosines, sines);
    for (uint32_t i = 0; i < 64; i++) {
        double plain = 50000 * pow(1e6, -2.0 * i / 128), ramp = fmin(1, fmax(0, (i - low) / (high - low)));
        double angle = plain / 4 * ramp + plain * (1 - ramp);

        assert_true(fabs(cosines[i] - cos(angle) * rope.scale) < 2e-7);
        assert_true(fabs(sines[i] - sin(angle) * rope.scale) < 2e-7);
    }
}

static uint8_t *put_u32(uint8_t *at, const char *key, uint32_t value)
{
    uint64_t bytes = strlen(key);
    uint32_t type = 4; /* GGUF_TYPE_UINT32 */

    memcpy(at, &bytes, 8);
    memcpy(at + 8, key, bytes);
    memcpy(at + 8 + bytes, &type, 4);
    memcpy(at + 12 + bytes, &value, 4);
    return at + 16 + bytes;
}

/* The file with another key, which it doesn't have; and one more, so that what follows stays aligned. */
static struct bytes with_pooling(uint32_t value)
{
    struct bytes b = read_model("qwen3-nano-f32"), longer = {malloc(b.count + 64), b.count + 64};
    uint64_t keys;
    uint8_t *end;

    memcpy(longer.data, b.data, 24);
    memcpy(longer.data + 88, b.data + 24, b.count - 24);
    memcpy(&keys, b.data + 16, 8);
    keys += 2;
    memcpy(longer.data + 16, &keys, 8);
    end = put_u32(put_u32(longer.data + 24, "qwen3.pooling_type", value), "general.number", 1);
    assert_ptr_equal(end, longer.data + 88);
    free(b.data);
    return longer;
}

static void pooling_is_read(void **state)
{
    char error[NEF_GGUF_ERROR_MAX] = "";
    struct nef_model_config c;
    struct bytes b = read_model("qwen3-nano-f32");

    (void)state;
    assert_int_equal(config_of(b, error, &c), NEF_OK);
    assert_int_equal(c.pooling_type, 0);
    free(b.data);
    for (uint32_t type = 0; type <= 3; type++) {
        b = with_pooling(type);
        assert_int_equal(config_of(b, error, &c), NEF_OK);
        assert_int_equal(c.pooling_type, type);
        free(b.data);
    }
    assert_refused(with_pooling(4), NEF_E_UNSUPPORTED, "qwen3.pooling_type is 4");
    assert_refused(with_pooling(5), NEF_E_INVALID, "qwen3.pooling_type is 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_architectures),
        cmocka_unit_test(pooling_is_read),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(rotary_tables),
        cmocka_unit_test(yarn_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
