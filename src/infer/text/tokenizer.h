/* Byte-level BPE with the `qwen2` pre-tokenizer, from a GGUF's tokenizer.ggml.* keys, equal to Qwen's official
 * tokenizer token for token (special tokens first, then NFC of what lies between, then the pattern by PCRE2, then
 * merges by rank). PURE but for memory. Immutable after opening, so any number of threads may use one.
 *
 * Sources: Sennrich et al. 2016 (BPE); GPT-2's byte-to-unicode table; the pattern in Qwen's tokenizer.json. */
#ifndef NEF_INFER_TOKENIZER_H
#define NEF_INFER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/gguf/gguf.h"

struct nef_tokenizer;
#define NEF_TOKENIZE_BYTES_MAX (16u << 20) /* of one text */
#define NEF_NO_TOKEN           UINT32_MAX

/* out_error: NEF_GGUF_ERROR_MAX bytes. Errors: NEF_E_UNSUPPORTED (another tokenizer model or pre-tokenizer),
 * NEF_E_INVALID, NEF_E_LIMIT, NEF_E_NOMEM. Copies what it needs. */
NEF_MUST_CHECK nef_err nef_tokenizer_open(const struct nef_gguf *file, char *out_error,
                                          struct nef_tokenizer **out_tokenizer);
void nef_tokenizer_close(struct nef_tokenizer *t);
uint32_t nef_tokenizer_vocab(const struct nef_tokenizer *t);

/* Tokens of TEXT (UTF-8; invalid bytes are encoded as bytes). specials: "<|im_start|>" in the text becomes its token,
 * else it is text; tokens that the file calls user-defined ("<tool_call>") are found either way, as in llama.cpp and
 * the official tokenizer. *out_tokens is malloc'd, to be freed also when *out_count is 0. No bos is added. Any thread.
 * Time is O(n log n) in the text, also for hostile ones, memory up to 28 bytes per byte of its longest word. Errors:
 * NEF_E_LIMIT, NEF_E_NOMEM, NEF_E_SYSTEM (PCRE2). */
NEF_MUST_CHECK nef_err nef_tokenize(const struct nef_tokenizer *t, const char *text, size_t bytes, bool specials,
                                    uint32_t **out_tokens, uint32_t *out_count);
/* The bytes of a token (not always whole UTF-8 characters); borrowed, valid while T is. Control tokens (<|im_end|>)
 * have bytes too: their text; unused ones, and numbers beyond the vocabulary, have none. */
const char *nef_token_bytes(const struct nef_tokenizer *t, uint32_t token, size_t *out_bytes);
bool nef_token_control(const struct nef_tokenizer *t, uint32_t token); /* CONTROL: not shown to clients */
bool nef_token_ends(const struct nef_tokenizer *t, uint32_t token);    /* end of generation; vocab.c lists them */
uint32_t nef_token_find(const struct nef_tokenizer *t, const char *text); /* a special by its text, or NEF_NO_TOKEN */
uint32_t nef_tokenizer_bos(const struct nef_tokenizer *t); /* only if the file asks to add it, else NEF_NO_TOKEN */

/* ---- streaming: bytes in, whole UTF-8 characters out ---- */
struct nef_utf8_stream {
    uint8_t held[4];
    uint32_t held_bytes;
};
/* Take BYTES, write to out (bytes + 4 at least, after replacement 3x) what is complete; an incomplete tail is held
 * back, bytes that can't be UTF-8 become U+FFFD. last: nothing follows, so a held tail becomes U+FFFD. Returns bytes
 * written; out holds 3 * (bytes + 4). */
size_t nef_utf8_stream_take(struct nef_utf8_stream *s, const char *bytes, size_t count, bool last, char *out);

#endif
