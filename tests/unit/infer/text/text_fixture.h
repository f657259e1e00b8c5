/* Model files for tests: GGUF metadata without tensors, made in memory. */
#ifndef TEXT_FIXTURE_H
#define TEXT_FIXTURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "infer/gguf/gguf.h"

struct fixture { /* metadata that is being written */
    struct nef_buf values;
    uint64_t count;
};
void fixture_text(struct fixture *f, const char *key, const char *value, size_t bytes);
void fixture_u32(struct fixture *f, const char *key, uint32_t value);
void fixture_bool(struct fixture *f, const char *key, bool value);
/* Arrays: append COUNT elements to f->values after this. */
void fixture_array(struct fixture *f, const char *key, uint32_t type, uint64_t count);
void fixture_string(struct nef_buf *b, const char *text, size_t bytes);
/* The file; *out_bytes must be freed after it. Both are NULL when the parser refuses it. */
struct nef_gguf *fixture_end(struct fixture *f, uint8_t **out_bytes);

/* Tokens, types and merges of a vocabulary in tests/data/infer/text, as keys. A token's number is its place in the
 * list; the number that the list gives it, by place, goes to *out_ids (malloc'd) unless NULL. */
void fixture_vocabulary(struct fixture *f, const json_t *vocabulary, uint32_t **out_ids);
/* tokenizer.ggml.model and .pre as Qwen's files have them. */
void fixture_qwen(struct fixture *f);

/* A file of tests/data/infer/text, read whole, a NUL after it. */
char *fixture_read(const char *name, size_t *out_bytes);

#endif
