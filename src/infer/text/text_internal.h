/* Shared by the files of the tokenizer; nobody else includes it.
 *
 *   tokenizer.c   the way of a text: specials, valid and invalid runs, NFC, words, merges
 *   vocab.c       vocabulary, merges and specials from the GGUF
 *   bpe.c         merges of one word
 *   pretoken.c    a text into words (PCRE2)
 *   nfc.c         Unicode's normal form C
 *   utf8.c        one character; streams */
#ifndef NEF_INFER_TEXT_INTERNAL_H
#define NEF_INFER_TEXT_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "infer/text/tokenizer.h"

/* ---- vocabulary ---- */

enum { NEF_TOKEN_CONTROL = 1, NEF_TOKEN_USER = 2, NEF_TOKEN_ENDS = 4, NEF_TOKEN_NORMAL = 8 };

/* Two neighbours that become one token; the lowest rank goes first. Open addressing; an empty slot has rank
 * UINT32_MAX. */
struct nef_merge {
    uint64_t pair; /* left token << 32 | right token */
    uint32_t rank;
    uint32_t token;
};

struct nef_tokenizer {
    uint32_t vocab;
    uint32_t *offsets; /* vocab + 1: token i is text[offsets[i] .. offsets[i + 1]) */
    char *text;
    uint8_t *flags; /* NEF_TOKEN_* per token */
    uint32_t byte_token[256];
    struct nef_merge *merges;
    uint32_t merges_mask;
    uint32_t *specials; /* control and user-defined tokens, ascending by their bytes */
    uint32_t specials_count;
    bool special_starts[256]; /* first bytes of specials */
    uint32_t bos;
    pcre2_code *pattern;
};

/* Fill T (zeroed) from FILE; what was made stays in T for nef_vocab_done also on failure. Errors: see
 * nef_tokenizer_open. */
NEF_MUST_CHECK nef_err nef_vocab_read(struct nef_tokenizer *t, const struct nef_gguf *file, char *out_error);
void nef_vocab_done(struct nef_tokenizer *t);
/* The merge of two tokens, or NULL. */
const struct nef_merge *nef_vocab_merge(const struct nef_tokenizer *t, uint32_t left, uint32_t right);
/* The longest special at the start of BYTES bytes at P that CONTROL allows (user-defined ones always), or
 * NEF_NO_TOKEN. */
uint32_t nef_vocab_special(const struct nef_tokenizer *t, const uint8_t *p, size_t bytes, bool control);

/* ---- a growing list of tokens ---- */
struct nef_tokens {
    uint32_t *data;
    size_t count, capacity;
};
NEF_MUST_CHECK nef_err nef_tokens_push(struct nef_tokens *tokens, uint32_t token);

/* ---- merges of one word ---- */
struct nef_bpe { /* zeroed is empty; kept from word to word */
    uint32_t *token, *next, *prev;
    size_t capacity;
    uint64_t *heap;
    size_t heap_count, heap_capacity;
};
/* Append the tokens of BYTES bytes at P, one word. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_bpe_encode(struct nef_bpe *bpe, const struct nef_tokenizer *t, const uint8_t *p,
                                      size_t bytes, struct nef_tokens *out);
void nef_bpe_done(struct nef_bpe *bpe);

/* ---- words ---- */
/* Compile the qwen2 pattern. Errors: NEF_E_NOMEM, NEF_E_SYSTEM. */
NEF_MUST_CHECK nef_err nef_pretoken_compile(pcre2_code **out_pattern);
struct nef_pretoken { /* matching state of one thread; zeroed is unopened */
    pcre2_match_data *data;
    pcre2_match_context *context;
};
NEF_MUST_CHECK nef_err nef_pretoken_open(struct nef_pretoken *m, const pcre2_code *pattern);
void nef_pretoken_done(struct nef_pretoken *m);
/* Bytes of the word at AT in BYTES bytes of valid UTF-8 at P (AT < BYTES); never 0. Errors: NEF_E_LIMIT, NEF_E_NOMEM,
 * NEF_E_SYSTEM. */
NEF_MUST_CHECK nef_err nef_pretoken_next(struct nef_pretoken *m, const pcre2_code *pattern, const uint8_t *p,
                                         size_t bytes, size_t at, size_t *out_bytes);

/* ---- NFC ---- */
struct nef_nfc { /* zeroed is empty */
    struct nef_buf text;
    int32_t *codes, *sorted;
    size_t codes_count, codes_capacity, sorted_capacity;
};
/* NFC of BYTES bytes of valid UTF-8 at P. Text that is in NFC by a quick look is returned itself; else the result lies
 * in NFC until the next call. Linear in time. Errors: NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_nfc_apply(struct nef_nfc *nfc, const uint8_t *p, size_t bytes, const uint8_t **out_text,
                                     size_t *out_bytes);
void nef_nfc_done(struct nef_nfc *nfc);

/* ---- UTF-8 ---- */
/* Bytes of the character at P (BYTES > 0), 0 if there is none: RFC 3629, so no surrogates, nothing overlong or above
 * U+10FFFF, nothing cut off. */
size_t nef_utf8_char(const uint8_t *p, size_t bytes, uint32_t *out_code);

#endif
