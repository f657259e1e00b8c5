/* The way of a text to tokens (tokenizer.h). In the official tokenizer's order:
 *
 *   text -> special tokens, longest first, found from left to right
 *        -> what lies between them, cut into runs of valid UTF-8 and runs of other bytes
 *        -> valid runs in NFC, cut into words by the pattern; a run of other bytes is one word
 *        -> each word by merges
 *
 * The official tokenizer never sees invalid UTF-8; llama.cpp turns it into U+FFFD. Here bytes stay bytes, so that what
 * a model generated, and was cut inside a character, can be given back to it. NFC is the only step that isn't
 * reversible. */
#include <stdlib.h>
#include <string.h>
#include "base/assert.h"
#include "infer/text/text_internal.h"

nef_err nef_tokenizer_open(const struct nef_gguf *file, char *out_error, struct nef_tokenizer **out_tokenizer)
{
    struct nef_tokenizer *t = calloc(1, sizeof(*t));
    nef_err err = NEF_E_NOMEM;

    if (t != NULL)
        err = nef_vocab_read(t, file, out_error);
    else
        strcpy(out_error, "tokenizer: out of memory");
    if (err == NEF_OK) {
        err = nef_pretoken_compile(&t->pattern);
        if (err != NEF_OK)
            strcpy(out_error, "tokenizer: PCRE2 can't compile the pattern");
    }
    if (err != NEF_OK) {
        nef_tokenizer_close(t);
        return err;
    }
    *out_tokenizer = t;
    return NEF_OK;
}

void nef_tokenizer_close(struct nef_tokenizer *t)
{
    if (t == NULL)
        return;
    pcre2_code_free(t->pattern);
    nef_vocab_done(t);
    free(t);
}

uint32_t nef_tokenizer_vocab(const struct nef_tokenizer *t)
{
    return t->vocab;
}

const char *nef_token_bytes(const struct nef_tokenizer *t, uint32_t token, size_t *out_bytes)
{
    if (token >= t->vocab) {
        *out_bytes = 0;
        return "";
    }
    *out_bytes = t->offsets[token + 1] - t->offsets[token];
    return t->text + t->offsets[token];
}

bool nef_token_control(const struct nef_tokenizer *t, uint32_t token)
{
    return token < t->vocab && (t->flags[token] & NEF_TOKEN_CONTROL) != 0;
}

bool nef_token_ends(const struct nef_tokenizer *t, uint32_t token)
{
    return token < t->vocab && (t->flags[token] & NEF_TOKEN_ENDS) != 0;
}

uint32_t nef_token_find(const struct nef_tokenizer *t, const char *text)
{
    size_t bytes = strlen(text);
    uint32_t token = nef_vocab_special(t, (const uint8_t *)text, bytes, true);

    /* A shorter special that TEXT begins with isn't TEXT. */
    return token != NEF_NO_TOKEN && t->offsets[token + 1] - t->offsets[token] == bytes ? token : NEF_NO_TOKEN;
}

uint32_t nef_tokenizer_bos(const struct nef_tokenizer *t)
{
    return t->bos;
}

/* ---- a text ---- */

struct work {
    const struct nef_tokenizer *t;
    struct nef_pretoken pretoken;
    struct nef_nfc nfc;
    struct nef_bpe bpe;
    struct nef_tokens out;
};

static nef_err encode_valid(struct work *w, const uint8_t *p, size_t bytes)
{
    size_t word = 0;
    nef_err err = nef_nfc_apply(&w->nfc, p, bytes, &p, &bytes);

    for (size_t at = 0; at < bytes && err == NEF_OK; at += word) {
        err = nef_pretoken_next(&w->pretoken, w->t->pattern, p, bytes, at, &word);
        if (err == NEF_OK)
            err = nef_bpe_encode(&w->bpe, w->t, p + at, word, &w->out);
    }
    return err;
}

/* A text without specials. */
static nef_err encode_plain(struct work *w, const uint8_t *p, size_t bytes)
{
    nef_err err = NEF_OK;
    size_t at = 0;

    while (at < bytes && err == NEF_OK) {
        size_t start = at, step;
        uint32_t code;

        while (at < bytes && (step = nef_utf8_char(p + at, bytes - at, &code)) > 0)
            at += step;
        if (at > start)
            err = encode_valid(w, p + start, at - start);
        for (start = at; at < bytes && nef_utf8_char(p + at, bytes - at, &code) == 0;)
            at++;
        if (at > start && err == NEF_OK)
            err = nef_bpe_encode(&w->bpe, w->t, p + start, at - start, &w->out);
    }
    return err;
}

static nef_err encode(struct work *w, const uint8_t *p, size_t bytes, bool specials)
{
    size_t start = 0, at = 0;
    nef_err err = NEF_OK;

    while (at < bytes && err == NEF_OK) {
        uint32_t token = NEF_NO_TOKEN;

        if (w->t->special_starts[p[at]])
            token = nef_vocab_special(w->t, p + at, bytes - at, specials);
        if (token == NEF_NO_TOKEN) {
            at++;
            continue;
        }
        err = encode_plain(w, p + start, at - start);
        if (err == NEF_OK)
            err = nef_tokens_push(&w->out, token);
        at += w->t->offsets[token + 1] - w->t->offsets[token];
        start = at;
    }
    return err == NEF_OK ? encode_plain(w, p + start, bytes - start) : err;
}

nef_err nef_tokenize(const struct nef_tokenizer *t, const char *text, size_t bytes, bool specials,
                     uint32_t **out_tokens, uint32_t *out_count)
{
    struct work w = {.t = t};
    nef_err err;

    if (bytes > NEF_TOKENIZE_BYTES_MAX)
        return NEF_E_LIMIT;
    err = nef_pretoken_open(&w.pretoken, t->pattern);
    if (err == NEF_OK)
        err = encode(&w, (const uint8_t *)text, bytes, specials);
    if (err == NEF_OK && w.out.data == NULL) { /* no tokens are a list too */
        w.out.data = malloc(sizeof(*w.out.data));
        if (w.out.data == NULL)
            err = NEF_E_NOMEM;
    }
    if (err != NEF_OK) {
        free(w.out.data);
        goto out;
    }
    NEF_ASSERT(w.out.count <= UINT32_MAX);
    *out_tokens = w.out.data;
    *out_count = (uint32_t)w.out.count;
out:
    nef_bpe_done(&w.bpe);
    nef_nfc_done(&w.nfc);
    nef_pretoken_done(&w.pretoken);
    return err;
}
