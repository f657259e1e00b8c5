/* A small vocabulary, grammars over it, and a validator that shares no code with the grammar. */
#ifndef GRAMMAR_FIXTURE_H
#define GRAMMAR_FIXTURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "infer/grammar/grammar.h"

/* All bytes, some hundred pieces of JSON and words (also cut inside characters, escapes and tags, and across parts of a
 * document), a token without text, a token twice, and the end. */
struct nef_grammar_vocab *fixture_vocab(void);
uint32_t fixture_count(void);
uint32_t fixture_end(void); /* the token that ends */
const char *fixture_text(uint32_t token, size_t *out_bytes);

/* Never NULL; asserts. */
struct nef_grammar *fixture_schema(const char *schema);
struct nef_grammar *fixture_grammar(const struct nef_grammar_options *options);
/* The error of a schema that must be refused; static. */
const char *fixture_refused(const char *schema, nef_err expected);

/* Does the grammar take TEXT and may it end there? Cut into tokens at random by *seed (0: byte by byte). */
bool fixture_accepts(struct nef_grammar *g, const char *text, size_t bytes, uint64_t *seed);
uint64_t fixture_random(uint64_t *seed);

/* A random text of the grammar: tokens allowed by masks, up to the end; *out_text is malloc'd, with a NUL. The
 * longer it gets, the more closing and ending tokens are preferred. steps: tokens at most, after which it asserts. */
size_t fixture_generate(struct nef_grammar *g, uint64_t *seed, uint32_t steps, char **out_text);

/* JSON Schema by the book, for the keywords that grammars know (patterns by PCRE2). */
bool valid_value(const json_t *value, const json_t *schema, const json_t *root);

#endif
