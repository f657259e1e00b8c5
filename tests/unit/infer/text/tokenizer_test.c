/* Unit tests of the tokenizer: the official vectors with a vocabulary cut to them (tests/data/infer/text), merges
 * against a naive implementation, NFC against utf8proc's own, hostile texts, special tokens, streams cut anywhere, and
 * every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <stdio.h>
#include <sys/time.h>
#include <utf8proc.h>

#include "base/limits.h"
#include "infer/text/text_internal.h"
#include "text_fixture.h"

struct qwen { /* the cut vocabulary, opened */
    struct nef_gguf *file;
    uint8_t *bytes;
    uint32_t *ids; /* official numbers */
    struct nef_tokenizer *t;
};
static struct qwen qwen;

static json_t *cut_vocabulary(void)
{
    size_t bytes;
    char *text = fixture_read("qwen3_cut.json", &bytes);
    json_t *vocabulary = json_loadb(text, bytes, 0, NULL);

    assert_non_null(vocabulary);
    free(text);
    return vocabulary;
}

static int open_qwen(void **state)
{
    struct fixture f = {0};
    json_t *vocabulary = cut_vocabulary();
    char why[NEF_GGUF_ERROR_MAX] = "";

    (void)state;
    fixture_qwen(&f);
    fixture_vocabulary(&f, vocabulary, &qwen.ids);
    json_decref(vocabulary);
    qwen.file = fixture_end(&f, &qwen.bytes);
    assert_non_null(qwen.file);
    assert_int_equal(nef_tokenizer_open(qwen.file, why, &qwen.t), NEF_OK);
    return 0;
}

static int close_qwen(void **state)
{
    (void)state;
    nef_tokenizer_close(qwen.t);
    nef_gguf_free(qwen.file);
    free(qwen.bytes);
    free(qwen.ids);
    return 0;
}

static uint32_t tokenize(const char *text, size_t bytes, bool specials, uint32_t **out_tokens)
{
    uint32_t count = 0;

    *out_tokens = NULL;
    assert_int_equal(nef_tokenize(qwen.t, text, bytes, specials, out_tokens, &count), NEF_OK);
    assert_non_null(*out_tokens);
    return count;
}

/* The bytes of TOKENS are those of TEXT. */
static void assert_same_bytes(const uint32_t *tokens, uint32_t count, const char *text, size_t bytes)
{
    size_t at = 0, part;

    for (uint32_t i = 0; i < count; i++) {
        const char *p = nef_token_bytes(qwen.t, tokens[i], &part);

        assert_true(part <= bytes - at);
        assert_memory_equal(p, text + at, part);
        at += part;
    }
    assert_int_equal(at, bytes);
}

static void official_vectors(void **state)
{
    size_t bytes;
    char *lines = fixture_read("../tokens.jsonl", &bytes), *save = NULL;
    unsigned count = 0;

    (void)state;
    for (char *line = strtok_r(lines, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save), count++) {
        json_t *vector = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(vector, "text"), *ids = json_object_get(vector, "ids");
        uint32_t *tokens, found;
        utf8proc_uint8_t *nfc = NULL;
        utf8proc_ssize_t nfc_bytes;

        assert_non_null(vector);
        found = tokenize(json_string_value(text), json_string_length(text), true, &tokens);
        for (uint32_t i = 0; i < found && i < json_array_size(ids); i++)
            if (qwen.ids[tokens[i]] != json_integer_value(json_array_get(ids, i)))
                fail_msg("%s\ntoken %u is %u", line, i, qwen.ids[tokens[i]]);
        if (found != json_array_size(ids))
            fail_msg("%s\n%u tokens", line, found);
        nfc_bytes = utf8proc_map((const utf8proc_uint8_t *)json_string_value(text),
                                 (utf8proc_ssize_t)json_string_length(text), &nfc, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        assert_true(nfc_bytes >= 0);
        assert_same_bytes(tokens, found, (const char *)nfc, (size_t)nfc_bytes);
        free(nfc);
        free(tokens);
        json_decref(vector);
    }
    assert_int_equal(count, 300);
    free(lines);
}

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* The definition: again and again the lowest rank, leftmost first. */
static uint32_t naive(const uint8_t *p, size_t bytes, uint32_t *out)
{
    size_t count = bytes;

    for (size_t i = 0; i < bytes; i++)
        out[i] = qwen.t->byte_token[p[i]];
    for (;;) {
        const struct nef_merge *best = NULL;
        size_t at = 0;

        for (size_t i = 0; i + 1 < count; i++) {
            const struct nef_merge *m = nef_vocab_merge(qwen.t, out[i], out[i + 1]);

            if (m != NULL && (best == NULL || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (best == NULL)
            return (uint32_t)count;
        out[at] = best->token;
        memmove(out + at + 1, out + at + 2, (count - at - 2) * sizeof(*out));
        count--;
    }
}

static void merges_equal_the_definition(void **state)
{
    static const char letters[] = "aeiorstnlh \xd8\xa7\xd9\x84\xf0\x9f\x91\xa9";
    struct nef_bpe bpe = {0};
    uint32_t seed = 7, expected[400];

    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        struct nef_tokens out = {0};
        uint8_t word[400];
        size_t bytes = 1 + next_random(&seed) % (round % 10 == 0 ? 400 : 24);
        uint32_t count;

        for (size_t i = 0; i < bytes; i++)
            word[i] = (uint8_t)letters[next_random(&seed) % (sizeof(letters) - 1)];
        assert_int_equal(nef_bpe_encode(&bpe, qwen.t, word, bytes, &out), NEF_OK);
        count = naive(word, bytes, expected);
        assert_int_equal(out.count, count);
        assert_memory_equal(out.data, expected, count * sizeof(*expected));
        free(out.data);
    }
    nef_bpe_done(&bpe);
}

static void any_bytes_come_back(void **state)
{
    uint32_t seed = 3, *tokens, count;
    char text[200];

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        size_t bytes = next_random(&seed) % sizeof(text);

        for (size_t i = 0; i < bytes; i++) { /* ASCII and bytes that are no UTF-8: nothing that NFC changes */
            uint32_t r = next_random(&seed);

            text[i] = (char)(r % 4 == 0 ? 0xf5 + r / 4 % 11 : r % 4 == 1 ? 0x80 + r / 4 % 0x40 : r / 4 % 128);
        }
        count = tokenize(text, bytes, round % 2 == 0, &tokens);
        assert_same_bytes(tokens, count, text, bytes);
        free(tokens);
    }
    count = tokenize("", 0, true, &tokens);
    assert_int_equal(count, 0);
    free(tokens);
}

static void invalid_bytes_are_their_own_words(void **state)
{
    uint32_t *tokens, count;

    (void)state;
    count = tokenize("a\xff\xe2\x82 b", 6, true, &tokens); /* a cut-off euro sign */
    assert_int_equal(tokens[0], qwen.t->byte_token['a']);
    assert_int_equal(tokens[1], qwen.t->byte_token[0xff]);
    assert_same_bytes(tokens, count, "a\xff\xe2\x82 b", 6);
    free(tokens);
}

static void specials_are_found_longest_first(void **state)
{
    static const char text[] = "<|im_start|>user<tool_call></tool_call><|im_<|im_end|>";
    uint32_t *tokens, count;
    uint32_t start = nef_token_find(qwen.t, "<|im_start|>"), end = nef_token_find(qwen.t, "<|im_end|>");
    uint32_t call = nef_token_find(qwen.t, "<tool_call>");

    (void)state;
    assert_int_equal(qwen.ids[start], 151644);
    assert_int_equal(qwen.ids[end], 151645);
    assert_int_equal(nef_token_find(qwen.t, "<|im_"), NEF_NO_TOKEN);
    assert_int_equal(nef_token_find(qwen.t, "<|im_end|>!"), NEF_NO_TOKEN);
    assert_int_equal(nef_token_find(qwen.t, ""), NEF_NO_TOKEN);
    count = tokenize(text, strlen(text), true, &tokens);
    assert_int_equal(tokens[0], start);
    assert_int_equal(tokens[count - 1], end);
    assert_same_bytes(tokens, count, text, strlen(text));
    free(tokens);
    count = tokenize(text, strlen(text), false, &tokens); /* control tokens are text now, user-defined ones aren't */
    for (uint32_t i = 0; i < count; i++)
        assert_true(tokens[i] != start && tokens[i] != end);
    assert_same_bytes(tokens, count, text, strlen(text));
    for (uint32_t i = 0; i <= count; i++)
        if (i == count)
            fail_msg("<tool_call> wasn't found");
        else if (tokens[i] == call)
            break;
    free(tokens);
    /* A special is found before NFC could take its last character: '>' and U+0338 would be U+226F. */
    count = tokenize("<think>\xcc\xb8", 9, true, &tokens);
    assert_int_equal(tokens[0], nef_token_find(qwen.t, "<think>"));
    free(tokens);
    assert_true(nef_token_control(qwen.t, end));
    assert_false(nef_token_control(qwen.t, call));
    assert_false(nef_token_control(qwen.t, UINT32_MAX));
    assert_true(nef_token_ends(qwen.t, end));
    assert_true(nef_token_ends(qwen.t, nef_token_find(qwen.t, "<|endoftext|>")));
    assert_false(nef_token_ends(qwen.t, start));
    assert_false(nef_token_ends(qwen.t, UINT32_MAX));
    assert_int_equal(nef_tokenizer_bos(qwen.t), NEF_NO_TOKEN);
}

/* Texts that cost a naive implementation minutes; 30 seconds of this process's own time are generous, also with
 * sanitizers. */
static void hostile_texts_are_linear(void **state)
{
    static const struct {
        const char *unit;
        size_t times;
    } texts[] = {
        {"a", 2 << 20},                 /* one word */
        {" ", 2 << 20},                 /* one run of spaces */
        {" \xc2\xa0", 500000},
        {"\xcc\x81\xcc\xa7", 500000},   /* marks of classes 230 and 202: the wrong order, all one run */
        {"'", 1 << 20},
        {"<", 1 << 20},                 /* the start of a special, everywhere */
        {"<|im_start|", 100000},
        {" \n", 500000},
        {"\xff", 1 << 20},
        {"\xe1\x84\x80\xe1\x85\xa1", 200000}, /* Hangul that composes */
    };
    const struct itimerval limit = {.it_value = {.tv_sec = 30}}, none = {0};

    (void)state;
    assert_int_equal(setitimer(ITIMER_VIRTUAL, &limit, NULL), 0); /* its signal ends the test */
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        size_t unit = strlen(texts[i].unit), bytes = unit * texts[i].times;
        char *text = malloc(bytes);
        uint32_t *tokens;

        assert_non_null(text);
        for (size_t at = 0; at < bytes; at += unit)
            memcpy(text + at, texts[i].unit, unit);
        assert_true(tokenize(text, bytes, true, &tokens) > 0);
        free(tokens);
        free(text);
    }
    assert_int_equal(setitimer(ITIMER_VIRTUAL, &none, NULL), 0);
}

static void longer_texts_are_refused(void **state)
{
    size_t bytes = NEF_TOKENIZE_BYTES_MAX + 1;
    char *text = calloc(bytes, 1);
    uint32_t *tokens = (uint32_t *)1, count = 77;

    (void)state;
    assert_non_null(text);
    assert_int_equal(nef_tokenize(qwen.t, text, bytes, true, &tokens, &count), NEF_E_LIMIT);
    assert_ptr_equal(tokens, (uint32_t *)1);
    assert_int_equal(count, 77);
    free(text);
}

static void words_of_the_pattern(void **state)
{
    /* what the pattern in tokenizer.json gives; '|' marks the borders */
    static const char *const cases[] = {
        "don|'t|_stop",
        "WE|'LL",
        "x|\xe2\x80\x99s",
        " | hello| world",
        "a|\n\n|b",
        "a| \n|b",
        "1|2|3",
        "foo|_bar",
        " !!\n\n|x",
        "a|  ",
        "a|  \r\n|  | b",
        "it|'\xc5\xbf| x",
        "\341\240\216a",
        "\t|\tx",
        "\xc2\xa0\xc2\xa0|\xc2\xa0z",
        "a|\xe1\xa0\x8e",
        "''|ll|'x",
        "a|\x1f\x1c|b",
        "\xe2\x80\xa8|\xe2\x80\xa8x",
        "(a|)(",
        " |\xd9\xa3|\xd9\xa4",
        "\xef\xbb\xbf|'ve",
        " |\xef\xbb\xbf|1",
        "\357\273\277a",
    };
    struct nef_pretoken m = {0};

    (void)state;
    assert_int_equal(nef_pretoken_open(&m, qwen.t->pattern), NEF_OK);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[64], found[64];
        size_t bytes = 0, word = 0, written = 0;

        for (const char *p = cases[i]; *p != '\0'; p++)
            if (*p != '|')
                text[bytes++] = *p;
        for (size_t at = 0; at < bytes; at += word) {
            assert_int_equal(nef_pretoken_next(&m, qwen.t->pattern, (const uint8_t *)text, bytes, at, &word), NEF_OK);
            if (at > 0)
                found[written++] = '|';
            memcpy(found + written, text + at, word);
            written += word;
        }
        found[written] = '\0';
        assert_string_equal(found, cases[i]);
    }
    nef_pretoken_done(&m);
}

static void nfc_is_utf8procs(void **state)
{
    static const uint32_t codes[] = {'a',    'e',    'o',    0xe9,   0x300,  0x301,   0x302,   0x308,   0x323,   0x327,
                                     0x328,  0x338,  0x345,  0x3b1,  0x1fb3, 0x1100,  0x1161,  0x11a8,  0xac00,  0xac01,
                                     0x0915, 0x093c, 0x09c7, 0x09be, 0x0b47, 0x0b56,  0x0f71,  0x0f72,  0x304b,  0x3099,
                                     0x30cf, 0x309a, 0x2126, 0x212b, 0xfb01, 0x1d15e, 0x1d165, 0x110a5, 0x110ba, 0x6f22,
                                     0xf900, 0x344,  0x958,  0x415,  0x483,  0x20,    0x5d0,   0x5b0};
    struct nef_nfc nfc = {0};
    uint32_t seed = 11;

    (void)state;
    for (unsigned round = 0; round < 40000; round++) {
        uint8_t text[64], *mine = NULL;
        const uint8_t *found;
        utf8proc_uint8_t *expected = NULL;
        size_t bytes = 0, found_bytes = 0, count = 1 + next_random(&seed) % 12;
        utf8proc_ssize_t expected_bytes;

        for (size_t i = 0; i < count; i++)
            bytes += (size_t)utf8proc_encode_char((utf8proc_int32_t)codes[next_random(&seed) % (sizeof(codes) / 4)],
                                                  text + bytes);
        expected_bytes = utf8proc_map(text, (utf8proc_ssize_t)bytes, &expected, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        assert_true(expected_bytes >= 0);
        mine = malloc(bytes); /* on the heap, so that a read beyond it is seen */
        assert_non_null(mine);
        memcpy(mine, text, bytes);
        assert_int_equal(nef_nfc_apply(&nfc, mine, bytes, &found, &found_bytes), NEF_OK);
        assert_int_equal(found_bytes, expected_bytes);
        assert_memory_equal(found, expected, found_bytes);
        free(mine);
        free(expected);
    }
    nef_nfc_done(&nfc);
}

/* Each character alone and behind others that take marks: this also checks nfc.c's list of inert ones. */
static void nfc_of_every_character(void **state)
{
    static const char *const before[] = {"",        "e", "\xe1\x84\x80", "\xe0\xa5\x98", "\xe3\x81\x8b", "\xea\xb0\x80",
                                         "\xd0\x95"};
    struct nef_nfc nfc = {0};

    (void)state;
    for (uint32_t code = 1; code < 0x20000; code++)
        for (size_t b = 0; b < sizeof(before) / sizeof(before[0]); b++) {
            uint8_t text[16];
            const uint8_t *found;
            utf8proc_uint8_t *expected = NULL;
            size_t bytes = strlen(before[b]), found_bytes = 0;
            utf8proc_ssize_t expected_bytes;

            if (code >= 0xd800 && code <= 0xdfff)
                continue;
            memcpy(text, before[b], bytes);
            bytes += (size_t)utf8proc_encode_char((utf8proc_int32_t)code, text + bytes);
            expected_bytes = utf8proc_map(text, (utf8proc_ssize_t)bytes, &expected, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
            assert_int_equal(nef_nfc_apply(&nfc, text, bytes, &found, &found_bytes), NEF_OK);
            if (expected_bytes < 0 || found_bytes != (size_t)expected_bytes ||
                memcmp(found, expected, found_bytes) != 0)
                fail_msg("U+%04X after \"%s\"", code, before[b]);
            free(expected);
        }
    nef_nfc_done(&nfc);
}

/* ---- streams ---- */

static size_t stream(const char *text, size_t bytes, size_t first, size_t second, char *out)
{
    struct nef_utf8_stream s = {0};
    size_t written = nef_utf8_stream_take(&s, text, first, false, out);
    uint32_t code;

    for (size_t at = 0; at < written;) { /* whole characters only */
        size_t step = nef_utf8_char((const uint8_t *)out + at, written - at, &code);

        assert_true(step > 0);
        at += step;
    }
    written += nef_utf8_stream_take(&s, text + first, second - first, false, out + written);
    return written + nef_utf8_stream_take(&s, text + second, bytes - second, true, out + written);
}

static void streams_never_cut_a_character(void **state)
{
#define R "\xef\xbf\xbd"
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"abc", "abc"},
        {"h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xc3", R},
        {"\xc3(", R "("},
        {"\xe2\x82", R},                                   /* cut off: one for the start of a character */
        {"\xe2\x82\xe2\x82\xac", R "\xe2\x82\xac"},
        {"\x80\xbf", R R},
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"}, /* table 3-8, sequences that are overlong */
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"}, /* surrogates */
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t bytes = strlen(cases[i].in);
        char out[3 * (64 + 12)];

        for (size_t first = 0; first <= bytes; first++)
            for (size_t second = first; second <= bytes; second++) {
                size_t written = stream(cases[i].in, bytes, first, second, out);

                assert_int_equal(written, strlen(cases[i].out));
                assert_memory_equal(out, cases[i].out, written);
            }
    }
#undef R
}

/* ---- refusals ---- */

struct change { /* one thing that is wrong */
    const char *key, *text;
    const char *error; /* what the message says */
    nef_err err;
};

static void put_types(struct fixture *f, uint32_t count, uint32_t bad)
{
    fixture_array(f, "tokenizer.ggml.token_type", NEF_GGUF_I32, count);
    for (uint32_t i = 0; i < count; i++)
        nef_buf_u32(&f->values, i == 3 ? bad : i < 256 ? 1 : 3);
}

/* A vocabulary of the 256 bytes, the token TEXT if any, and one merge. */
static void put_bytes(struct fixture *f, uint32_t missing, const char *extra, const char *merge, uint32_t bad_type)
{
    json_t *vocabulary = cut_vocabulary();
    const json_t *tokens = json_object_get(vocabulary, "tokens");
    uint32_t count = extra == NULL ? 256 : 257;

    fixture_array(f, "tokenizer.ggml.tokens", NEF_GGUF_STRING, count);
    for (uint32_t i = 0; i < 256; i++) {
        const char *text = json_string_value(json_array_get(json_array_get(tokens, i == missing ? 0 : i), 1));

        fixture_string(&f->values, text, strlen(text));
    }
    if (extra != NULL)
        fixture_string(&f->values, extra, strlen(extra));
    put_types(f, count, bad_type);
    fixture_array(f, "tokenizer.ggml.merges", NEF_GGUF_STRING, 1);
    fixture_string(&f->values, merge, strlen(merge));
    json_decref(vocabulary);
}

static void assert_refused(struct fixture *f, nef_err expected, const char *message)
{
    char why[NEF_GGUF_ERROR_MAX] = "";
    struct nef_tokenizer *t = NULL;
    uint8_t *bytes;
    struct nef_gguf *file = fixture_end(f, &bytes);
    nef_err err;

    assert_non_null(file);
    err = nef_tokenizer_open(file, why, &t);
    if (err != expected || strstr(why, message) == NULL)
        fail_msg("%s: \"%s\", not %s: \"%s\"", nef_err_name(err), why, nef_err_name(expected), message);
    assert_null(t);
    nef_gguf_free(file);
    free(bytes);
}

static void other_tokenizers_are_refused_by_name(void **state)
{
    struct fixture f = {0};

    (void)state;
    assert_refused(&f, NEF_E_UNSUPPORTED, "tokenizer.ggml.model is missing");
    fixture_text(&f, "tokenizer.ggml.model", "llama", 5);
    assert_refused(&f, NEF_E_UNSUPPORTED, "tokenizer.ggml.model is \"llama\"");
    fixture_u32(&f, "tokenizer.ggml.model", 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.model: not a text");
    fixture_text(&f, "tokenizer.ggml.model", "gpt2", 4);
    assert_refused(&f, NEF_E_UNSUPPORTED, "tokenizer.ggml.pre is missing");
    fixture_text(&f, "tokenizer.ggml.model", "gpt2", 4);
    fixture_text(&f, "tokenizer.ggml.pre", "llama-bpe", 9);
    assert_refused(&f, NEF_E_UNSUPPORTED, "tokenizer.ggml.pre is \"llama-bpe\"");
}

static void broken_vocabularies_are_refused(void **state)
{
    struct fixture f = {0};

    (void)state;
    fixture_qwen(&f);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.tokens is missing");
    fixture_qwen(&f);
    fixture_u32(&f, "tokenizer.ggml.tokens", 5);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.tokens: not an array of strings");
    fixture_qwen(&f);
    put_bytes(&f, 300, NULL, "a b", 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.merges[0]: not of tokens");
    fixture_qwen(&f);
    put_bytes(&f, 300, NULL, "ab", 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.merges[0]: not two tokens");
    fixture_qwen(&f);
    put_bytes(&f, 65, NULL, "a b", 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.tokens: no token for the byte");
    fixture_qwen(&f);
    put_bytes(&f, 300, NULL, "a b", 6);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.token_type[3]");
    fixture_qwen(&f);
    fixture_array(&f, "tokenizer.ggml.tokens", NEF_GGUF_STRING, 4);
    for (int i = 0; i < 4; i++)
        fixture_string(&f.values, i == 2 ? "a b" : "x", i == 2 ? 3 : 1); /* a space is no character of the alphabet */
    put_types(&f, 4, 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.tokens[2]: not in GPT-2's byte alphabet");
    fixture_qwen(&f);
    fixture_array(&f, "tokenizer.ggml.tokens", NEF_GGUF_STRING, 1);
    fixture_string(&f.values, "x", 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.token_type is missing");
    fixture_qwen(&f);
    fixture_array(&f, "tokenizer.ggml.tokens", NEF_GGUF_STRING, 1);
    fixture_string(&f.values, "x", 1);
    put_types(&f, 2, 1);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.token_type: not as long");
}

static void long_specials_are_refused(void **state)
{
    char text[NEF_SPECIAL_BYTES_MAX + 2];
    struct fixture f = {0};
    json_t *vocabulary, *tokens;

    (void)state;
    memset(text, '<', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    vocabulary = cut_vocabulary();
    tokens = json_object_get(vocabulary, "tokens");
    assert_int_equal(json_array_append_new(tokens, json_pack("[isi]", 999, text, 3)), 0);
    fixture_qwen(&f);
    fixture_vocabulary(&f, vocabulary, NULL);
    json_decref(vocabulary);
    assert_refused(&f, NEF_E_LIMIT, "too long for a special token");
}

static void keys_are_respected(void **state)
{
    static const struct change bad[] = {
        {"tokenizer.ggml.eos_token_id", NULL, "tokenizer.ggml.eos_token_id: not a token", NEF_E_INVALID},
        {"tokenizer.ggml.eot_token_id", NULL, "tokenizer.ggml.eot_token_id: not a token", NEF_E_INVALID},
        {"tokenizer.ggml.bos_token_id", NULL, "tokenizer.ggml.bos_token_id: not a token", NEF_E_INVALID},
    };
    json_t *vocabulary = cut_vocabulary();
    struct fixture f = {0};
    char why[NEF_GGUF_ERROR_MAX];
    struct nef_tokenizer *t = NULL;
    struct nef_gguf *file;
    uint8_t *bytes;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        fixture_qwen(&f);
        fixture_vocabulary(&f, vocabulary, NULL);
        fixture_u32(&f, bad[i].key, 1u << 30);
        assert_refused(&f, bad[i].err, bad[i].error);
    }
    fixture_qwen(&f);
    fixture_vocabulary(&f, vocabulary, NULL);
    fixture_bool(&f, "tokenizer.ggml.add_bos_token", true);
    assert_refused(&f, NEF_E_INVALID, "tokenizer.ggml.bos_token_id is missing");
    fixture_qwen(&f);
    fixture_vocabulary(&f, vocabulary, NULL);
    fixture_bool(&f, "tokenizer.ggml.add_eos_token", true);
    assert_refused(&f, NEF_E_UNSUPPORTED, "tokenizer.ggml.add_eos_token");
    fixture_qwen(&f);
    fixture_vocabulary(&f, vocabulary, NULL);
    fixture_bool(&f, "tokenizer.ggml.add_bos_token", true);
    fixture_u32(&f, "tokenizer.ggml.bos_token_id", 7);
    fixture_u32(&f, "tokenizer.ggml.eos_token_id", 8);
    fixture_u32(&f, "tokenizer.ggml.eot_token_id", 9);
    file = fixture_end(&f, &bytes);
    assert_non_null(file);
    assert_int_equal(nef_tokenizer_open(file, why, &t), NEF_OK);
    nef_gguf_free(file); /* the tokenizer has copies */
    free(bytes);
    assert_int_equal(nef_tokenizer_bos(t), 7);
    assert_true(nef_token_ends(t, 8) && nef_token_ends(t, 9) && !nef_token_ends(t, 7));
    assert_true(nef_token_ends(t, nef_token_find(t, "<|im_end|>")));
    nef_tokenizer_close(t);
    json_decref(vocabulary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(official_vectors),
        cmocka_unit_test(merges_equal_the_definition),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(invalid_bytes_are_their_own_words),
        cmocka_unit_test(specials_are_found_longest_first),
        cmocka_unit_test(hostile_texts_are_linear),
        cmocka_unit_test(longer_texts_are_refused),
        cmocka_unit_test(words_of_the_pattern),
        cmocka_unit_test(nfc_is_utf8procs),
        cmocka_unit_test(nfc_of_every_character),
        cmocka_unit_test(streams_never_cut_a_character),
        cmocka_unit_test(other_tokenizers_are_refused_by_name),
        cmocka_unit_test(broken_vocabularies_are_refused),
        cmocka_unit_test(long_specials_are_refused),
        cmocka_unit_test(keys_are_respected),
    };

    return cmocka_run_group_tests(tests, open_qwen, close_qwen);
}
