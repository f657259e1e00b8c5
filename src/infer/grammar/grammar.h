/* Structured output by construction: a JSON Schema, a set of tools or both, compiled to a grammar over bytes; and
 * for each step of a generation the tokens that keep what was written the start of a text of that grammar. PURE.
 *
 *   vocabulary  once per tokenizer, immutable: the tokens as a trie, and masks of states that all grammars share
 *   grammar     once per schema, immutable to its users, shared by any number of threads and sequences
 *   matcher     one per sequence: where in the grammar it is
 *
 * Every text that a matcher accepts up to can_end is a valid one: JSON (RFC 8259) that satisfies the schema, in
 * UTF-8, with no white space but one optional space after "," and ":". A matcher never runs into a dead end: as long
 * as it hasn't ended, some token is allowed (the vocabulary has a token for each byte). Not every valid JSON text is
 * accepted; docs/structured.md lists what is narrower, and every keyword. */
#ifndef NEF_INFER_GRAMMAR_H
#define NEF_INFER_GRAMMAR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "infer/text/tokenizer.h"

/* ---- vocabulary ---- */

struct nef_grammar_vocab;
struct nef_grammar_token { /* bytes NULL or none: never allowed (control, unused) */
    const char *text;
    uint32_t bytes;
    bool ends; /* of generation: allowed where the text may end, and nowhere else */
};
/* Any thread; takes some 0.2 s and 20 MB for 151,936 tokens. T is not kept. Control tokens are allowed only where
 * they end a generation. Errors: NEF_E_NOMEM, NEF_E_LIMIT, NEF_E_UNSUPPORTED (a byte that no token is made of alone,
 * or nothing ends). */
NEF_MUST_CHECK nef_err nef_grammar_vocab_open(const struct nef_tokenizer *t, struct nef_grammar_vocab **out_vocab);
/* The same from a list; number i of the list is token i. */
NEF_MUST_CHECK nef_err nef_grammar_vocab_make(const struct nef_grammar_token *tokens, uint32_t count,
                                              struct nef_grammar_vocab **out_vocab);
void nef_grammar_vocab_close(struct nef_grammar_vocab *v);           /* after all its grammars */
uint32_t nef_grammar_vocab_words(const struct nef_grammar_vocab *v); /* uint32_t words of a mask */

/* ---- grammar ---- */

struct nef_grammar;
enum nef_grammar_answer {
    NEF_GRAMMAR_TEXT,   /* any text (response_format text, or none) */
    NEF_GRAMMAR_OBJECT, /* any JSON object (json_object) */
    NEF_GRAMMAR_SCHEMA, /* json_schema */
};
/* What the model may write. Without tools it is the answer. With tools: calls in Qwen's Hermes format,
 * `<tool_call>\n{"name": "NAME", "arguments": {...}}\n</tool_call>`, several of them with a newline between, where
 *   required       nothing but calls
 *   not required   the answer or calls; when the answer is text, it may go before the calls, and only what comes from a
 *                  <tool_call> on is constrained. */
struct nef_grammar_options {
    enum nef_grammar_answer answer;
    const json_t *schema; /* with NEF_GRAMMAR_SCHEMA */
    const json_t *tools;  /* OpenAI's array ({"type": "function", "function": {...}}), or NULL */
    const char *function; /* the one of them that may be called, or NULL: any */
    bool tools_required;
    bool parallel; /* several calls */
    bool thinking; /* all is free up to the first </think>; newlines may follow it */
};
#define NEF_GRAMMAR_ERROR_MAX 256u
/* Any thread. Borrowed for the call, but for V, which outlives the grammar. Time and memory are bounded for any schema
 * (base/limits.h): some tenths of a second and 40 MB. *out_grammar is one reference.
 * Errors, with a text for the client in out_error (schema: 'unsupported keyword "oneOf" at #/properties/x'; tools:
 * 'tools[0].function.parameters: ...'): NEF_E_INVALID (malformed, or nothing can satisfy it), NEF_E_UNSUPPORTED,
 * NEF_E_LIMIT, NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_grammar_compile(struct nef_grammar_vocab *v, const struct nef_grammar_options *options,
                                           char *out_error, struct nef_grammar **out_grammar);
struct nef_grammar *nef_grammar_ref(struct nef_grammar *g); /* any thread; returns g */
void nef_grammar_unref(struct nef_grammar *g);
/* Make masks of up to COUNT states that allow many tokens, ahead of need, so that no step of a generation has to: for
 * the thread that compiled. Some 0.5 ms each. Errors: NEF_E_NOMEM (the grammar is as good as before). */
NEF_MUST_CHECK nef_err nef_grammar_warm(struct nef_grammar *g, uint32_t count);
uint32_t nef_grammar_words(const struct nef_grammar *g); /* of a mask of its vocabulary */
size_t nef_grammar_bytes(const struct nef_grammar *g); /* memory it holds now, with its cached masks; any thread */

/* ---- matcher: one thread at a time ---- */

struct nef_matcher;
#define NEF_MATCHER_ROLLBACK_MAX 64u
/* Takes a reference of its own. Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_matcher_open(struct nef_grammar *g, struct nef_matcher **out_matcher);
void nef_matcher_close(struct nef_matcher *m);
/* Write which tokens may come next: bit t % 32 of word t / 32, all words of the vocabulary. Some microseconds; up to
 * a millisecond where a state of the grammar is met for the first time by anybody. After the end no bit is set. Errors:
 * NEF_E_NOMEM (the mask is not to be used then). */
NEF_MUST_CHECK nef_err nef_matcher_mask(struct nef_matcher *m, uint32_t *out_words);
/* TOKEN comes next. Errors, which leave the matcher as it was: NEF_E_INVALID (not allowed), NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_matcher_accept(struct nef_matcher *m, uint32_t token);
bool nef_matcher_can_end(const struct nef_matcher *m); /* what was written is a whole text */
bool nef_matcher_ended(const struct nef_matcher *m);   /* a token that ends was accepted */
/* Bytes that must come next, whatever is chosen; 0 where there is a choice. At most MAX of them go to out_text. They
 * are no statement about tokens. */
size_t nef_matcher_forced(struct nef_matcher *m, char *out_text, size_t max);
/* Take back the last COUNT accepted tokens. False, and nothing is changed: more than were accepted or than
 * NEF_MATCHER_ROLLBACK_MAX. */
bool nef_matcher_rollback(struct nef_matcher *m, uint32_t count);

#endif
