/* One choice of an answer while it is made: the engine's thread puts tokens in, the listener's thread takes text out.
 *
 *   token -> bytes -> whole UTF-8 characters -> stop strings -> released tokens with their text
 *
 * Text is released only at the borders of tokens: the ids that were given out and the text that was given out always
 * are the same (until the end, which gives what is left). Whoever goes on elsewhere from the ids it saw, after a broken
 * stream, puts those ids in first, throws away what comes out, and goes on with exactly the bytes that weren't given.
 *
 * What is kept is text, token ids and what was asked of their probabilities, never more than the context allows and
 * only until it is taken, so a client that reads slowly costs that much and slows nobody.
 *
 * The lock guards everything; it is held for copies of a few bytes. */
#ifndef NEF_INFER_API_ANSWER_H
#define NEF_INFER_API_ANSWER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/buf.h"
#include "base/err.h"
#include "infer/api/piece.h"
#include "infer/api/stop.h"
#include "infer/engine/engine.h"
#include "infer/text/tokenizer.h"

struct nef_answer_token {
    uint32_t id;
    uint32_t end;      /* of its text, counted from the answer's beginning */
    float logprob;
    uint8_t top_count;
    bool whole;        /* no character is cut at its end */
    bool prompt;
};

struct nef_answer_options {
    const struct nef_tokenizer *tokenizer;
    const struct nef_api_stop *stops;
    uint32_t stop_count;
    uint32_t tokens_max; /* more are never put */
    uint32_t top;        /* alternatives that are kept of each token */
    /* Bytes that all answers hold for tokens; one that would make it more than memory_max fails. */
    atomic_ullong *memory;
    uint64_t memory_max;
};

struct nef_answer {
    pthread_mutex_t lock;
    struct nef_answer_options options;
    struct nef_stop *stop;
    struct nef_utf8_stream utf8;
    struct nef_buf scratch; /* the engine's thread alone */
    struct nef_buf text;    /* from text_base on */
    uint64_t text_base;     /* of the answer: what was taken already */
    uint32_t held;          /* bytes at the end that may be the beginning of a stop string */
    /* tokens[0 .. count): put and not taken. released of them may be taken; scanned of them have all of their text,
     * or end inside a character that does. */
    struct nef_answer_token *tokens;
    struct nef_logprob *tops; /* options.top a token */
    uint32_t count, capacity, released, scanned;
    uint64_t put, prompt; /* tokens of the answer in all; of them echoed ones */
    uint64_t first_token_ns, last_token_ns;
    uint64_t counted; /* in *memory */
    bool stopped; /* by a stop string */
    nef_err failed;
    bool finished;
    enum nef_finish finish;
    nef_err err;
    uint32_t cached;
};

/* Errors: NEF_E_NOMEM. */
NEF_MUST_CHECK nef_err nef_answer_init(struct nef_answer *a, const struct nef_answer_options *options);
void nef_answer_done(struct nef_answer *a); /* zeroed ones are fine */

/* Engine's thread (or whoever puts earlier tokens in before it begins). False: the generation is to end (a stop string,
 * or no memory). out_news: there is something to be taken. */
bool nef_answer_put(struct nef_answer *a, const struct nef_token *token, bool *out_news);
/* An echoed token of the prompt, before all others: stop strings aren't looked for. */
void nef_answer_put_prompt(struct nef_answer *a, const struct nef_token *token);
/* All tokens put so far were given out by an earlier try, with their text, and so were what a stop string was looked for in:
 * takes them. Before the engine begins. */
void nef_answer_given(struct nef_answer *a, struct nef_piece *piece);
void nef_answer_finish(struct nef_answer *a, enum nef_finish finish, nef_err err, uint32_t cached);

/* What is released and not yet taken is appended to PIECE: whole tokens, in all at most TEXT_MAX bytes of text and
 * TOKENS_MAX tokens, but always some if there are any. */
struct nef_answer_state {
    bool finished; /* and everything was taken */
    enum nef_finish finish;
    nef_err err;
    uint32_t tokens, cached; /* tokens: generated, in all */
};
void nef_answer_take(struct nef_answer *a, size_t text_max, uint32_t tokens_max, struct nef_piece *piece,
                     struct nef_answer_state *out_state);

#endif
