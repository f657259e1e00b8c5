/* What `nef model` parses and keeps: answers of strangers, names of split files, the resume file, the bar. */
#include <string.h>
#include "base/assert.h"
#include "cli/model.h"
#include "cli_test.h"

static void content_ranges(void **state)
{
    static const char *const bad[] = {"",
                                      "bytes",
                                      "bytes 0-1",
                                      "bytes 0-1/",
                                      "bytes 5-4/10",
                                      "bytes 0-10/10",
                                      "bytes -1/10",
                                      "bytes 0-1/10 ",
                                      "bytes 0-1/1x",
                                      "items 0-1/10",
                                      "bytes */10",
                                      "bytes 0-/10",
                                      "bytes 99999999999999999999-1/2",
                                      "bytes 0-1/99999999999999999999",
                                      "bytes  0-1/10"};
    uint64_t first = 1, last = 2, total = 3;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(nef_model_content_range(bad[i], &first, &last, &total));
    assert_true(first == 1 && last == 2 && total == 3);
    assert_true(nef_model_content_range("bytes 0-0/1", &first, &last, &total));
    assert_true(first == 0 && last == 0 && total == 1);
    assert_true(nef_model_content_range("Bytes 5-99/100", &first, &last, &total));
    assert_true(first == 5 && last == 99 && total == 100);
    assert_true(nef_model_content_range("bytes 5-9/*", &first, &last, &total));
    assert_true(total == UINT64_MAX);
}

static void etags(void **state)
{
    static const char *const bad[] = {"",         "\"",      "\"\"",      "abc",          "W/\"abc\"",
                                      "\"a\"b\"", "\"a b\"", "\"a\x01\"", "\"\xc3\xa9\"", "\"123456789\""};
    char out[9] = "before";

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(nef_model_strong_etag(bad[i], out, sizeof(out)));
    assert_string_equal(out, "before");
    assert_true(nef_model_strong_etag("\"12345678\"", out, sizeof(out)));
    assert_string_equal(out, "12345678");
}

static void split_names(void **state)
{
    struct nef_model_why why;
    char out[NEF_MODEL_WHERE_MAX];
    uint32_t count = 0;

    (void)state;
    assert_int_equal(nef_model_split_count("m-00001-of-00003.gguf", &count, &why), NEF_OK);
    assert_int_equal(count, 3);
    assert_int_equal(nef_model_split_count("https://h/m-00001-of-00012.gguf?download=true", &count, &why), NEF_OK);
    assert_int_equal(count, 12);
    assert_int_equal(nef_model_split_name("https://h/m-00001-of-00012.gguf?download=true", 12, out), NEF_OK);
    assert_string_equal(out, "https://h/m-00012-of-00012.gguf?download=true");
    assert_int_equal(nef_model_split_name("bucket/x", 1, out), NEF_OK);
    assert_string_equal(out, "bucket/x");
    assert_int_equal(nef_model_split_count("m-00002-of-00003.gguf", &count, &why), NEF_E_INVALID);
    assert_non_null(strstr(why.text, "-00001-of-00003.gguf"));
    assert_int_equal(nef_model_split_count("m-00001-of-99999.gguf", &count, &why), NEF_E_LIMIT);
    assert_int_equal(nef_model_split_count("m-00001-of-00000.gguf", &count, &why), NEF_E_LIMIT);
    for (size_t i = 0; i < 3; i++) {
        static const char *const whole[] = {"m.gguf", "m-0001-of-00003.gguf", "m-00001-of-00003.gguf.part"};

        assert_int_equal(nef_model_split_count(whole[i], &count, &why), NEF_OK);
        assert_int_equal(count, 1);
    }
}

static void resume_files(void **state)
{
    static struct nef_model_resume a, b;
    struct nef_buf text = {0};
    uint8_t x[32], y[32];

    (void)state;
    a = (struct nef_model_resume){.upload = "id \"quoted\"", .part_bytes = 16u << 20, .parts = 9999, .lock = -1};
    memset(a.identity, 'a', 64);
    nef_model_digests_init(&a.digests);
    nef_sha256_update(&a.digests.object, "hello", 5);
    a.digests.file_index = 7;
    assert_int_equal(nef_model_resume_encode(&a, &text), NEF_OK);
    b.lock = 5;
    assert_int_equal(nef_model_resume_decode(text.data, text.bytes, &b), NEF_OK);
    assert_string_equal(b.upload, a.upload);
    assert_int_equal(b.part_bytes, a.part_bytes);
    assert_int_equal(b.parts, 9999);
    assert_string_equal(b.identity, a.identity);
    assert_int_equal(b.digests.file_index, 7);
    assert_int_equal(b.lock, 5); /* what isn't in the file is as it was */
    nef_sha256_final(&a.digests.object, x);
    nef_sha256_final(&b.digests.object, y);
    assert_memory_equal(x, y, 32);
    /* Any byte of it missing or changed: it is refused or still within its bounds. */
    for (size_t cut = 0; cut < text.bytes - 2; cut++)
        assert_int_equal(nef_model_resume_decode(text.data, cut, &b), NEF_E_CONFIG);
    for (size_t at = 0; at < text.bytes; at++) {
        uint8_t kept = text.data[at];

        text.data[at] = kept == '9' ? '-' : '9';
        if (nef_model_resume_decode(text.data, text.bytes, &b) == NEF_OK)
            assert_true(b.parts <= NEF_PART_COUNT_MAX && b.part_bytes <= NEF_PUT_BYTES_MAX &&
                        b.part_bytes >= NEF_PART_BYTES_MIN && strlen(b.upload) <= NEF_S3_UPLOAD_ID_MAX);
        text.data[at] = kept;
    }
    nef_buf_free(&text);
}

static void bars(void **state)
{
    char out[256];

    (void)state;
    nef_model_bar_text(out, sizeof(out), 79, "fetching", 50, 100, 10);
    assert_non_null(strstr(out, "50 %"));
    assert_non_null(strstr(out, "0:05 left"));
    assert_non_null(strstr(out, "[####"));
    assert_true(strlen(out) <= 79);
    for (uint32_t width = 0; width <= 200; width++) {
        nef_model_bar_text(out, sizeof(out), width, "fetching", UINT64_MAX / 2, UINT64_MAX, 1e300);
        assert_true(strlen(out) <= width);
        nef_model_bar_text(out, sizeof(out), width, "storing", 0, 0, 0);
        assert_true(strlen(out) <= width);
    }
}

int run_model_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(content_ranges), cmocka_unit_test(etags), cmocka_unit_test(split_names),
        cmocka_unit_test(resume_files),   cmocka_unit_test(bars),
    };

    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
