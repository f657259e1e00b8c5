/* libFuzzer target: the tokenizer, with a vocabulary of the 256 bytes, a few merges and specials (made here), or with
 * one that the input is. First byte: bit 0 says which, bit 1 whether specials are parsed.
 *
 * Asserted: tokens give the text's bytes back unless NFC changed it (ASCII and invalid bytes never change), the stream
 * gives whole characters only, and doesn't depend on where it is cut. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "base/buf.h"
#include "infer/text/text_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void put_string(struct nef_buf *b, const char *text)
{
    nef_buf_u64(b, strlen(text));
    nef_buf_text(b, text);
}

static void put_text(struct nef_buf *b, const char *key, const char *value)
{
    put_string(b, key);
    nef_buf_u32(b, NEF_GGUF_STRING);
    put_string(b, value);
}

static void put_array(struct nef_buf *b, const char *key, uint32_t type, uint64_t count)
{
    put_string(b, key);
    nef_buf_u32(b, NEF_GGUF_ARRAY);
    nef_buf_u32(b, type);
    nef_buf_u64(b, count);
}

/* Byte BYTE in GPT-2's alphabet, as UTF-8. */
static void put_byte(struct nef_buf *b, unsigned byte)
{
    bool self = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    unsigned code = self ? byte : byte <= 32 ? 256 + byte : byte <= 160 ? 256 + 33 + byte - 127 : 256 + 67;

    nef_buf_u64(b, code < 128 ? 1 : 2);
    if (code < 128) {
        nef_buf_u8(b, (uint8_t)code);
        return;
    }
    nef_buf_u8(b, (uint8_t)(0xc0 | code >> 6));
    nef_buf_u8(b, (uint8_t)(0x80 | (code & 0x3f)));
}

static struct nef_tokenizer *make_tokenizer(void)
{
    static const char *const words[] = {"aa", "aaaa", "ab", "aab", "\304\240a"};
    static const char *const specials[] = {"<|im_end|>", "<|im_", "<t>"};
    static const char *const merges[] = {"a a", "aa aa", "a b", "aa b", "\xc4\xa0 a"};
    struct nef_buf b = {0};
    struct nef_gguf *file = NULL;
    struct nef_tokenizer *t = NULL;
    char why[NEF_GGUF_ERROR_MAX];

    nef_buf_append(&b, "GGUF", 4);
    nef_buf_u32(&b, 3);
    nef_buf_u64(&b, 0);
    nef_buf_u64(&b, 5);
    put_text(&b, "tokenizer.ggml.model", "gpt2");
    put_text(&b, "tokenizer.ggml.pre", "qwen2");
    put_array(&b, "tokenizer.ggml.tokens", NEF_GGUF_STRING, 256 + 5 + 3);
    for (unsigned i = 0; i < 256; i++)
        put_byte(&b, i);
    for (size_t i = 0; i < 5; i++)
        put_string(&b, words[i]);
    for (size_t i = 0; i < 3; i++)
        put_string(&b, specials[i]);
    put_array(&b, "tokenizer.ggml.token_type", NEF_GGUF_I32, 256 + 5 + 3);
    for (size_t i = 0; i < 256 + 5 + 3; i++)
        nef_buf_u32(&b, i < 256 + 5 ? 1 : i == 256 + 5 + 2 ? 4 : 3);
    put_array(&b, "tokenizer.ggml.merges", NEF_GGUF_STRING, 5);
    for (size_t i = 0; i < 5; i++)
        put_string(&b, merges[i]);
    while (b.bytes % 32 != 0)
        nef_buf_u8(&b, 0);
    NEF_ASSERT(!b.failed);
    NEF_ASSERT(nef_gguf_parse(b.data, b.bytes, why, &file) == NEF_OK);
    NEF_ASSERT(nef_tokenizer_open(file, why, &t) == NEF_OK);
    nef_gguf_free(file);
    nef_buf_free(&b);
    return t;
}

static void check_stream(const char *text, size_t bytes)
{
    char *whole = malloc(3 * (bytes + 4)), *cut = malloc(3 * (bytes + 4));
    struct nef_utf8_stream s = {0};
    size_t whole_bytes, cut_bytes = 0;
    uint32_t code;

    NEF_ASSERT(whole != NULL && cut != NULL);
    whole_bytes = nef_utf8_stream_take(&s, text, bytes, true, whole);
    s = (struct nef_utf8_stream){0};
    for (size_t i = 0; i < bytes; i++)
        cut_bytes += nef_utf8_stream_take(&s, text + i, 1, false, cut + cut_bytes);
    cut_bytes += nef_utf8_stream_take(&s, NULL, 0, true, cut + cut_bytes);
    NEF_ASSERT(cut_bytes == whole_bytes && memcmp(cut, whole, cut_bytes) == 0);
    for (size_t at = 0; at < whole_bytes;) {
        size_t step = nef_utf8_char((const uint8_t *)whole + at, whole_bytes - at, &code);

        NEF_ASSERT(step > 0);
        at += step;
    }
    free(whole);
    free(cut);
}

static void check_text(const struct nef_tokenizer *t, const char *text, size_t bytes, bool specials)
{
    uint32_t *tokens = NULL, count = 0;
    size_t at = 0, part;
    bool ascii = true;

    NEF_ASSERT(nef_tokenize(t, text, bytes, specials, &tokens, &count) == NEF_OK);
    for (size_t i = 0; i < bytes; i++)
        ascii = ascii && (uint8_t)text[i] < 0x80;
    for (uint32_t i = 0; i < count; i++) {
        const char *p = nef_token_bytes(t, tokens[i], &part);

        NEF_ASSERT(tokens[i] < nef_tokenizer_vocab(t) && part > 0);
        NEF_ASSERT(!ascii || (part <= bytes - at && memcmp(p, text + at, part) == 0));
        at += part;
    }
    NEF_ASSERT(!ascii || at == bytes);
    free(tokens);
    check_stream(text, bytes);
}

static void check_file(const uint8_t *data, size_t bytes)
{
    char why[NEF_GGUF_ERROR_MAX] = "";
    struct nef_gguf *file = NULL;
    struct nef_tokenizer *t = NULL;

    if (nef_gguf_parse(data, bytes, why, &file) != NEF_OK)
        return;
    if (nef_tokenizer_open(file, why, &t) == NEF_OK)
        check_text(t, "aab <|im_end|> \xe4\xbd\xa0", 18, true);
    else
        NEF_ASSERT(why[0] != '\0');
    nef_tokenizer_close(t);
    nef_gguf_free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct nef_tokenizer *t; /* one for the whole run */

    if (t == NULL)
        t = make_tokenizer();
    if (bytes == 0)
        return 0;
    if ((data[0] & 1) != 0)
        check_file(data + 1, bytes - 1);
    else
        check_text(t, (const char *)data + 1, bytes - 1, (data[0] & 2) != 0);
    return 0;
}
