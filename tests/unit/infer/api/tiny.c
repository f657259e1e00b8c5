/* See tiny.h. Tokens are written in GPT-2's alphabet of bytes, as in every byte-level vocabulary. */
#include "tiny.h"
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "text_fixture.h"

static size_t letter_of(unsigned byte, char out[4])
{
    unsigned code = byte, other = 0;

    if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)) {
        for (unsigned b = 0; b < byte; b++)
            other += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
        code = 256 + other;
    }
    if (code < 128) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

struct nef_tokenizer *tiny_tokenizer(enum nef_chat_family *family)
{
    static const char *const specials[] = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"};
    struct fixture f = {.count = 0};
    struct nef_tokenizer *t = NULL;
    char why[NEF_GGUF_ERROR_MAX] = "", letter[4];
    uint8_t *bytes = NULL;
    struct nef_gguf *file;
    size_t template_bytes;
    char *template = fixture_read("qwen3.jinja", &template_bytes);

    fixture_qwen(&f);
    fixture_text(&f, "tokenizer.chat_template", template, template_bytes);
    fixture_array(&f, "tokenizer.ggml.tokens", NEF_GGUF_STRING, TINY_VOCAB);
    for (unsigned i = 0; i < TINY_BYTES; i++)
        fixture_string(&f.values, letter, letter_of(i, letter));
    for (size_t i = 0; i < NEF_COUNT(specials); i++)
        fixture_string(&f.values, specials[i], strlen(specials[i]));
    { /* "!" and the first two bytes of a euro sign (e2 82 ac), as one token */
        char text[16] = "!";
        size_t at = 1;

        at += letter_of(0xe2, text + at);
        at += letter_of(0x82, text + at);
        fixture_string(&f.values, text, at);
    }
    fixture_string(&f.values, "\u0101\u0102", 4);
    fixture_array(&f, "tokenizer.ggml.token_type", NEF_GGUF_I32, TINY_VOCAB);
    for (unsigned i = 0; i < TINY_VOCAB; i++)
        nef_buf_u32(&f.values, i >= TINY_IM_START && i <= TINY_ENDOFTEXT ? 3 : 1);
    fixture_array(&f, "tokenizer.ggml.merges", NEF_GGUF_STRING,
                  1); /* some merge there must be: of bytes that no test says */
    fixture_string(&f.values, "\u0101 \u0102", 5);
    fixture_u32(&f, "tokenizer.ggml.eos_token_id", TINY_IM_END);
    file = fixture_end(&f, &bytes);
    NEF_ASSERT(file != NULL);
    if (nef_tokenizer_open(file, why, &t) != NEF_OK)
        nef_assert_fail(__FILE__, __LINE__, why);
    if (family != NULL)
        *family = nef_chat_family_of(file);
    nef_gguf_free(file);
    free(bytes);
    free(template);
    return t;
}
