/* Compiled grammars, kept by what they were made of: (schema, tools, options). Requests with the same ones share a
 * grammar and the masks it has found; the least recently used are forgotten first. */
#ifndef NEF_INFER_API_GRAMMARS_H
#define NEF_INFER_API_GRAMMARS_H

#include <stdint.h>
#include "base/err.h"
#include "infer/grammar/grammar.h"

struct nef_grammars;
struct nef_grammars_stats {
    uint64_t kept, bytes, hits, compiled, refused;
};

/* Makes the vocabulary. Errors: as nef_grammar_vocab_open. */
NEF_MUST_CHECK nef_err nef_grammars_open(const struct nef_tokenizer *t, struct nef_grammars **out_grammars);
void nef_grammars_close(struct nef_grammars *g); /* after all references; NULL is accepted */
/* Any thread. *out_grammar is one reference. Errors, with a text for the client: as nef_grammar_compile. */
NEF_MUST_CHECK nef_err nef_grammars_get(struct nef_grammars *g, const struct nef_grammar_options *options,
                                        char *out_error, struct nef_grammar **out_grammar);
void nef_grammars_stats(struct nef_grammars *g, struct nef_grammars_stats *out_stats);

#endif
